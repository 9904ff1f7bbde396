/* report.h - the page about training runs and comparisons that `qsbits report` and `qsbits compare` write. */
#ifndef QSBITS_CLI_REPORT_H
#define QSBITS_CLI_REPORT_H

#include "common.h"

/* Writes one HTML page that needs nothing but itself about run folders and comparison folders. name: the command, for messages.
 * tensor: 1-bit tensor of the bit maps, NULL for the first one of each run. path: by way of path.tmp; "-" is standard output.
 * One line on standard error tells what was written. 0 or an exit code after a message. */
int report_write(const char *name, int count, const char *const *folders, const char *tensor, const char *path);

#endif
