/* bench_step.h - a training step of a model, and what share of it each operation takes. */
#ifndef QSBITS_CLI_BENCH_STEP_H
#define QSBITS_CLI_BENCH_STEP_H

#include "bench_rows.h"

/* Times steps of a model (resolved) with each of the precisions that are on, prints them unless o asks for JSON, and
 * stores their JSON (new reference) in *out. 0 or an exit code after a message. */
int bench_step(const options *o, qs_context *context, const qs_model_config *model, const bool precision[QS_PRECISIONS],
               json_t **out);

#endif
