/* safetensors_write.h - one native safetensors file: slabs on multiples of 4096, tensors on multiples of 64, checksums. */
#ifndef QSI_SAFETENSORS_WRITE_H
#define QSI_SAFETENSORS_WRITE_H

#include "manifest.h"

/* Checks one tensor's name, format and shape; *bytes is its size. Errors: ARG, SHAPE. */
qs_status qsi_saved_tensor_bytes(const qs_saved_tensor *tensor, int64_t *bytes);

/* Writes the tensors whose .file is `which` to path, slab_count slabs. config: the compact JSON that model files carry,
 * NULL for none. *out, on success, is the file's entry of the manifest, owned by the caller (json_decref). */
qs_status qsi_safetensors_write(qs_context *context, const char *path, const qs_saved_tensor *tensors, int64_t count,
                                int which, int64_t slab_count, const char *config, qs_fetch_fn *fetch, void *user,
                                json_t **out);

#endif
