/* qsbits/qsbits.h - the whole API.
 *
 * qsbits trains and runs language models whose weights are one bit. A program opens a context, opens a text, creates a trainer
 * and takes steps; or opens a model and generates:
 *
 *     const char *path = "book.txt";
 *     qs_context *context = NULL;
 *     qs_text *text = NULL;
 *     qs_trainer *trainer = NULL;
 *     qs_model_config config;
 *     qs_train_options options;
 *     qs_model_config_default(&config);
 *     qs_train_options_default(&options);
 *     if (qs_open(&context, NULL) || qs_text_open(context, &path, 1, 0.1, NULL, NULL, &text) ||
 *         qs_trainer_create(context, &config, &options, text, &trainer))
 *         return fprintf(stderr, "%s\n", qs_last_error()), 1;
 *     for (qs_step_info info; qs_trainer_position(trainer) < options.steps; )
 *         if (qs_trainer_step(trainer, &info)) break;
 */
#ifndef QSBITS_QSBITS_H
#define QSBITS_QSBITS_H

#include "status.h"
#include "context.h"
#include "random.h"
#include "tensor.h"
#include "fsm.h"
#include "ops.h"
#include "bench.h"
#include "backend.h"
#include "data.h"
#include "model.h"
#include "trainer.h"
#include "checkpoint.h"
#include "peer.h"

#endif
