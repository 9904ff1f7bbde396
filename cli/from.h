/* from.h - --from: the checkpoint whose weights a run starts from. It gives the shape as well. A run that goes on needs it
 * only until it has a checkpoint of its own. */
#ifndef QSBITS_CLI_FROM_H
#define QSBITS_CLI_FROM_H

#include <limits.h>
#include "common.h"

typedef struct origin {
    char path[PATH_MAX];      /* checkpoint folder or file, from the root on; "" without --from */
    char checksum[40];        /* of the weights, where the run's config.json tells it; else "" */
    bool needless;            /* the run has a checkpoint of its own and goes on without those weights */
    qs_model_config model;    /* of the checkpoint, or of the run that goes on */
    char rank[24];            /* lora_rank of a checkpoint with adapters as a text */
} origin;

/* Fills *out, all "" without --from. config: config.json of the run that goes on, NULL if there is none. begun: that run has
 * checkpoints. told: --from was given for this process; if not, it comes from config. What o has as --from becomes the
 * checkpoint it stands for now, because a run folder will have newer ones; --rank is set where the checkpoint has adapters.
 * Their texts are those of *out, which must stay where it is. 0 or an exit code after a message. */
int origin_open(options *o, qs_context *context, const json_t *config, bool begun, bool told, origin *out);

/* The model of a run: as settings_model without --from; else the checkpoint's, with --ctx. Other options of the shape must
 * say the same. 0 or an exit code after a message. */
int origin_model(const options *o, const origin *from, qs_model_config *config);

/* Refuses (64, after a message) an optimizer that cannot go on with the checkpoint's matrices. name: of the command; option:
 * what chose it. */
int origin_check_optimizer(const char *name, const origin *from, const char *option, qs_optimizer optimizer);

/* Gives a new trainer the weights, or tells it what they were. */
qs_status origin_start(const origin *from, qs_trainer *trainer);

#endif
