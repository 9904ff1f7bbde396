/* checkpoint_write.h - checkpoints from inside the library: saving as qs_checkpoint_write does, with the manifest as an object, and
 * opening also those that are not whole models. Rules and errors: include/qsbits/checkpoint.h. */
#ifndef QSI_CHECKPOINT_WRITE_H
#define QSI_CHECKPOINT_WRITE_H

#include <jansson.h>
#include "qsbits/checkpoint.h"

typedef qs_saved_tensor qsi_saved_tensor;
typedef qs_fetch_fn qsi_fetch_fn;

/* manifest_fields is borrowed and left unchanged. */
qs_status qsi_checkpoint_write(qs_context *context, const char *folder, const qsi_saved_tensor *tensors, int64_t count,
                               qsi_fetch_fn *fetch, void *user, json_t *manifest_fields);

/* As qs_checkpoint_open, but takes delta checkpoints as well: their tensors are the rows that the manifest's "ranges" name. */
qs_status qsi_checkpoint_open_delta(qs_context *context, const char *path, qs_checkpoint **out);

/* Whether a save to folder removes nothing but what a save of it left that was cut off: folder.tmp and folder.old, which it clears
 * away, do not exist or hold files of a checkpoint only. For folders that somebody chose. CREATE; IO, NOMEM. */
qs_status qsi_checkpoint_check_beside(const char *folder);

#endif
