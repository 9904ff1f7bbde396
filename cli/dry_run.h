/* dry_run.h - train --dry-run: settings, sizes, memory, schedule and time of a run, without a run folder. */
#ifndef QSBITS_CLI_DRY_RUN_H
#define QSBITS_CLI_DRY_RUN_H

#include "training.h"

/* Prints the plan of an opened training on standard output (--json: one object). Where the plan fits into memory the first
 * steps are taken for real, to tell the time. 0 or an exit code after a message. */
int dry_run(training *t);

#endif
