/* checkpoint_write.h - saving a checkpoint from inside the library: as qs_checkpoint_write, with the manifest as an
 * object. Rules and errors: include/qsbits/checkpoint.h. */
#ifndef QSI_CHECKPOINT_WRITE_H
#define QSI_CHECKPOINT_WRITE_H

#include <jansson.h>
#include "qsbits/checkpoint.h"

typedef qs_saved_tensor qsi_saved_tensor;
typedef qs_fetch_fn qsi_fetch_fn;

/* manifest_fields is borrowed and left unchanged. */
qs_status qsi_checkpoint_write(qs_context *context, const char *folder, const qsi_saved_tensor *tensors, int64_t count,
                               qsi_fetch_fn *fetch, void *user, json_t *manifest_fields);

#endif
