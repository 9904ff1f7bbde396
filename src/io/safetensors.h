/* safetensors.h - reading safetensors files in place. The format: 8 bytes little-endian header length, a JSON object
 * {name: {dtype, shape, data_offsets}}, the data (https://github.com/huggingface/safetensors). The header is hostile
 * until every entry has been checked; the checks are those of the original reader: no duplicate names, no gaps, no
 * overlaps, nothing behind the last tensor, sizes that follow from dtype and shape. */
#ifndef QSI_SAFETENSORS_H
#define QSI_SAFETENSORS_H

#include <jansson.h>
#include "core/internal.h"
#include "checksum.h"
#include "qsbits/checkpoint.h"

enum { QSI_HEADER_LIMIT = 100000000 };

#define QSI_MARK "qsbits_format_version"  /* key of __metadata__ in native files */
#define QSI_MARK_CONFIG "qsbits_config"   /* the model's config as compact JSON, in model files */

typedef struct qsi_stored_tensor {
    const char *name;
    const char *dtype;
    int rank;
    int64_t shape[QS_TENSOR_RANK];
    uint64_t offset;         /* from the start of the file */
    uint64_t bytes;
} qsi_stored_tensor;

typedef struct qsi_safetensors {
    qsi_mapping map;
    uint64_t data_start;
    int64_t count;
    qsi_stored_tensor *tensors;  /* by offset */
    char *names;                 /* the texts behind tensors[].name */
    json_t *metadata;            /* object of strings, NULL if absent */
} qsi_safetensors;

/* What a manifest says about a file. */
typedef struct qsi_file_claim {
    uint64_t bytes, header_bytes;
    char header_hash[QSI_HEX];
} qsi_file_claim;

/* Maps and checks. claim may be NULL. Errors: NOINPUT, IO, NOMEM; CORRUPT (differs from the claim, data truncated);
 * FORMAT (anything else). On success the caller closes. */
qs_status qsi_safetensors_open(qs_context *context, const char *path, const qsi_file_claim *claim, qsi_safetensors *out);
void qsi_safetensors_close(qsi_safetensors *file);

/* The value of a __metadata__ key, NULL if absent. */
const char *qsi_safetensors_mark(const qsi_safetensors *file, const char *key);

/* For messages: at most 80 bytes of text, control characters replaced. */
typedef struct qsi_shown { char text[84]; } qsi_shown;
qsi_shown qsi_show(const char *text);

#endif
