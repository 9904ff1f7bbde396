/* manifest.h - manifest.json of a checkpoint: read and checked, or sealed with its own checksum. Fields: docs/format.md. */
#ifndef QSI_MANIFEST_H
#define QSI_MANIFEST_H

#include "json_text.h"
#include "safetensors.h"

#define QSI_MANIFEST_NAME "manifest.json"
#define QSI_SEAL "manifest_xxh3_128"
#define QSI_DELTA "delta"

enum { QSI_MODEL_FILE = 0, QSI_STATE_FILE = 1, QSI_FILES = 2, QSI_MANIFEST_LIMIT = 64 * 1024 * 1024 };
extern const char *const qsi_file_names[QSI_FILES];

typedef struct qsi_slab {
    uint64_t offset, bytes;
    char hash[QSI_HEX];
} qsi_slab;

typedef struct qsi_manifest_file {
    qsi_file_claim claim;
    qsi_slab *slabs;
} qsi_manifest_file;

/* Rows of a tensor that a delta checkpoint holds. */
typedef struct qsi_range {
    const char *tensor;      /* text of root */
    int64_t first_row, rows;
} qsi_range;

typedef struct qsi_manifest {
    char *text;
    int64_t slab_count;      /* the same in both files */
    qsi_manifest_file file[QSI_FILES];
    const char *base;        /* seal of the checkpoint that a delta builds on, text of root; NULL: a full checkpoint */
    qsi_range *ranges;
    int64_t range_count;
    json_t *root;
} qsi_manifest;

/* Reads folder/manifest.json. Errors: CORRUPT (missing, damaged), VERSION, FORMAT, IO, NOMEM. */
qs_status qsi_manifest_open(qs_context *context, const char *folder, qsi_manifest *out);

/* The same from a text that is at hand. text: NUL-terminated, of qsi_alloc; taken in any case. name: for messages. */
qs_status qsi_manifest_parse(qs_context *context, const char *name, char *text, int64_t length, qsi_manifest *out);
void qsi_manifest_close(qsi_manifest *manifest);

bool qsi_manifest_is_delta(const json_t *root);

/* The base (32 digits) and the ranges of a delta's manifest: each range with a tensor, first_row from 0 and rows from 1 on, no tensor
 * twice, sorted by name. name: for messages. *ranges: qsi_free; texts are those of root. FORMAT, NOMEM. */
qs_status qsi_delta_read(qs_context *context, const char *name, const json_t *root, const char **base, qsi_range **ranges,
                         int64_t *count);

/* The range of a tensor, NULL if it has none: the tensor is there whole. */
const qsi_range *qsi_range_find(const qsi_range *ranges, int64_t count, const char *tensor);

/* The text of a manifest, sealed, at the end of an empty text. root holds a seal of any 32 digits. ARG, NOMEM. */
qs_status qsi_manifest_text(const json_t *root, qsi_text *text);

/* The checksum of a manifest text: XXH3-128 with the digits of the seal itself read as zeros. seal: the 32 digits that
 * the text must hold exactly once; false if it does not. at (may be NULL): where the digits start. The text is as before. */
bool qsi_manifest_hash(char *text, int64_t length, const char *seal, char hash[QSI_HEX], int64_t *at);

/* Compares the checksum of one slab of a checkpoint that has a manifest (checkpoint.c). CORRUPT names file, slab and offset. */
qs_status qsi_checkpoint_verify_slab(const qs_checkpoint *checkpoint, int file, int64_t slab);

/* Of an opened checkpoint (checkpoint.c): what its manifest says of a file, and the path of the file; NULL for a single file. */
const qsi_manifest_file *qsi_checkpoint_file(const qs_checkpoint *checkpoint, int file, const char **path);

#endif
