/* base_copy.h - --keep-base: a copy of the model that is trained in its place. */
#ifndef QSBITS_CLI_BASE_COPY_H
#define QSBITS_CLI_BASE_COPY_H

#include <limits.h>
#include "common.h"

/* Copies the checkpoint folder `model` to RUN/model, which must not exist yet, so that it is whole or not there at all; *out is its path
 * from the root on. Shares the blocks of the files where the file system can. 0 or an exit code after a message. */
int base_copy(const char *model, const char *run, char out[PATH_MAX]);

/* Removes such a copy, also an unfinished one. */
void base_copy_remove(const char *folder);

#endif
