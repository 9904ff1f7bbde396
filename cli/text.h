/* text.h - the texts of --data and --also: a file, a folder, a pattern or standard input. */
#ifndef QSBITS_CLI_TEXT_H
#define QSBITS_CLI_TEXT_H

#include "common.h"

/* Opens the text that an option names (OPT_DATA or OPT_ALSO) with the share of --val-fraction (0.1 where it is not given; all of
 * standard input, which only eval reads), that of --data also with the share of --test-fraction behind it. Files that are left out
 * are told in one line on standard error. *absolute (malloc'd; absolute may be NULL) receives the value from the root on, patterns
 * kept: it means the same from any folder. 0 or an exit code after a message, then nothing is to be freed. */
int open_text(const options *o, option_id id, qs_context *context, qs_text **out, char **absolute);

#endif
