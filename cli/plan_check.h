/* plan_check.h - what train does before it allocates anything: refuses a run that does not fit, or with --fit makes it fit. */
#ifndef QSBITS_CLI_PLAN_CHECK_H
#define QSBITS_CLI_PLAN_CHECK_H

#include "common.h"

/* model and settings of the run, resolved; stream: of a run in place, else NULL. Where the run does not fit into --ram-budget and
 * --device-budget, or without them into the machine: with --fit the settings that decide no trained byte are changed and told in
 * a line on standard error, else, or where that does not suffice, the run is refused (71) with the smallest change that
 * would fit. Returns 0 or an exit code after a message. */
int plan_check(const options *o, const qs_context *context, const qs_model_config *model, qs_train_options *settings,
               qs_stream_options *stream);

#endif
