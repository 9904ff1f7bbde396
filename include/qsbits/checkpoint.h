/* qsbits/checkpoint.h - checkpoints and safetensors files: listing, reading in place, checking, writing.
 *
 * A checkpoint is a folder with model.safetensors, state.safetensors and manifest.json; a run folder holds
 * step-NNNNNNNN checkpoints (docs/format.md). Files are mapped, not read: opening costs the headers only, and the
 * bytes of a tensor are those of the file. Files must not be changed while they are open. Everything that comes from
 * a file is checked before it is used; damaged, hostile and foreign files give a status, never undefined behaviour. */
#ifndef QSBITS_CHECKPOINT_H
#define QSBITS_CHECKPOINT_H

#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { QS_CHECKPOINT_VERSION = 1, QS_SLAB_ALIGN = 4096, QS_TENSOR_ALIGN = 64, QS_TENSOR_RANK = 8 };

typedef struct qs_checkpoint qs_checkpoint;

/* Opens path for reading: a run folder (its newest valid checkpoint, see qs_checkpoint_latest), a checkpoint folder,
 * or one safetensors file, also of another program. Checks the manifest with its own checksum, file sizes, header
 * checksums and every header entry; tensor data is checked by qs_checkpoint_verify (a run folder's checkpoint has been
 * verified). context may be NULL: memory is then booked nowhere; else warnings about skipped checkpoints go to its log
 * and the context must outlive the checkpoint. *out is owned by the caller; one thread at a time may change it, any
 * number may read it. Where training in place was cut off while it changed the model file, that is finished first, for which the
 * folder is written to. Errors: NOINPUT (nothing there), FORMAT, CORRUPT (truncated, checksum), VERSION (newer format),
 * UNSUPPORTED (a delta: rows of a run in place), NOMEM, IO (also: a change cannot be finished, or is under way). */
QS_API QS_CHECK qs_status qs_checkpoint_open(qs_context *context, const char *path, qs_checkpoint **out);

/* Unmaps and frees; stores NULL. Accepts NULL and pointer to NULL. */
QS_API void qs_checkpoint_close(qs_checkpoint **checkpoint);

/* The checkpoint folder or the file that was opened (for a run folder: the checkpoint chosen). */
QS_API const char *qs_checkpoint_path(const qs_checkpoint *checkpoint);

/* The JSON text of manifest.json, NULL for a single file. */
QS_API const char *qs_checkpoint_manifest(const qs_checkpoint *checkpoint);

/* The JSON text of the model's config: from the manifest, or from the header of a single model file, which carries it too.
 * NULL if there is none (state files, foreign files). */
QS_API const char *qs_checkpoint_config(const qs_checkpoint *checkpoint);

/* 1 if qsbits wrote the files (a manifest, or the mark in the header of a single file), else 0: a foreign file. */
QS_API int qs_checkpoint_native(const qs_checkpoint *checkpoint);

/* OK if this can be used as a model: native and with a model file. FORMAT for foreign files and lone state files. */
QS_API QS_CHECK qs_status qs_checkpoint_check_model(const qs_checkpoint *checkpoint);

/* A tensor as stored and as meant. Strings live as long as the checkpoint; names of foreign files are any UTF-8. */
typedef struct qs_tensor_info {
    const char *name;
    const char *file;        /* "model.safetensors", or the name of the single file */
    const char *dtype;       /* as in the header: "I32", "F16", "BF16", ... */
    int rank;                /* 0..QS_TENSOR_RANK */
    int64_t shape[QS_TENSOR_RANK];  /* in elements of dtype, 0 beyond rank */
    uint64_t offset;         /* of the first byte, from the start of the file */
    uint64_t bytes;
    int format;              /* qs_format as meant (packed ones in native files only), -1 if there is none for dtype */
    int64_t rows, cols;      /* of the matrix as meant: W1 [N, K/32] words are N rows, K columns; a vector is [1, n];
                                otherwise rows is the product of all dimensions but the last */
} qs_tensor_info;

/* Tensors without padding: the model file, then the state file, each in order of offset. */
QS_API int64_t qs_checkpoint_count(const qs_checkpoint *checkpoint);

/* Fills *info for tensor 0..count-1. Errors: ARG. */
QS_API QS_CHECK qs_status qs_checkpoint_tensor(const qs_checkpoint *checkpoint, int64_t index, qs_tensor_info *info);

/* Index of the tensor called name, -1 if there is none. */
QS_API int64_t qs_checkpoint_find(const qs_checkpoint *checkpoint, const char *name);

/* The bytes of a tensor inside the mapping, NULL if index is out of range. Aligned to QS_TENSOR_ALIGN in native
 * files, not aligned at all in others. */
QS_API const void *qs_checkpoint_data(const qs_checkpoint *checkpoint, int64_t index);

/* Slabs of the files as the manifest lists them: slab 0 is the embedding, 1..layers the blocks, the last the final
 * norm and head. file: 0 model, 1 state. Count is 0 for a single file. */
typedef struct qs_slab_info {
    uint64_t offset;         /* from the start of the file, a multiple of QS_SLAB_ALIGN */
    uint64_t bytes;          /* up to the next slab or the end of the file, padding included */
} qs_slab_info;
QS_API int64_t qs_checkpoint_slab_count(const qs_checkpoint *checkpoint, int file);
QS_API QS_CHECK qs_status qs_checkpoint_slab(const qs_checkpoint *checkpoint, int file, int64_t index, qs_slab_info *info);

/* Reads every byte and compares all checksums. Errors: CORRUPT (names file, slab, offset, both checksums),
 * UNSUPPORTED (a single file has no checksums). */
QS_API QS_CHECK qs_status qs_checkpoint_verify(const qs_checkpoint *checkpoint);

/* Receives each checkpoint that was passed over and why. */
typedef void qs_checkpoint_skipped_fn(void *user, const char *path, const char *reason);

/* Writes the path of the newest valid checkpoint of a run folder to out (out_bytes with the final NUL): the highest
 * step-NNNNNNNN whose manifest parses and whose checksums all hold, whole models and deltas of a run in place alike. skipped and
 * context may be NULL.
 * Errors: NOINPUT (none valid, none there), ARG (out too small), NOMEM, IO. */
QS_API QS_CHECK qs_status qs_checkpoint_latest(qs_context *context, const char *run_folder, char *out, size_t out_bytes,
                                               qs_checkpoint_skipped_fn *skipped, void *user);

/* ---- writing (for trainers and converters) ---------------------------------------------------------------------- */

/* A tensor to be saved. shape is in file elements: W1 [N, K/32], T2 [N, K/16], C2 [N, 2, K/32], C4 [N, 4, K/32] (all
 * stored as I32), C8 [N, K] (I8); F32, F16, I32, U8 as they are. */
typedef struct qs_saved_tensor {
    char name[160];
    qs_format format;
    int rank;                /* 1..3 */
    int64_t shape[3];
    int file;                /* 0 model, 1 state */
    int slab;                /* 0.., not descending within a file */
} qs_saved_tensor;

/* Writes the n_bytes bytes of tensor index to bytes (64-byte aligned). A failure ends the save with its status. */
typedef qs_status qs_fetch_fn(void *user, int64_t index, void *bytes, int64_t n_bytes);

/* Writes the checkpoint `folder` (the two files and manifest.json) so that at every moment either the old folder or
 * the new one is whole: written to folder.tmp, fsynced, renamed. Parents are made. Tensors are stored in the order
 * given; padding, offsets and checksums are added. manifest: text of a JSON object with at least "config" (object)
 * and "step" (integer >= 0); format_version and kind (full) are added if absent; kind "delta" comes with "base" and "ranges"
 * (docs/format.md); "files" and "manifest_xxh3_128" are ours.
 * The bytes depend on the arguments and the fetched data only. context may be NULL.
 * Errors: ARG, SHAPE, CREATE, IO (with the path; folder.tmp is removed, an old checkpoint stays), NOMEM, those of fetch. */
QS_API QS_CHECK qs_status qs_checkpoint_write(qs_context *context, const char *folder, const qs_saved_tensor *tensors,
                                              int64_t count, qs_fetch_fn *fetch, void *user, const char *manifest);

#ifdef __cplusplus
}
#endif
#endif
