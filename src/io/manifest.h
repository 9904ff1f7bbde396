/* manifest.h - manifest.json of a checkpoint: read and checked, or sealed with its own checksum. Fields: docs/format.md. */
#ifndef QSI_MANIFEST_H
#define QSI_MANIFEST_H

#include "safetensors.h"

#define QSI_MANIFEST_NAME "manifest.json"
#define QSI_SEAL "manifest_xxh3_128"

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

typedef struct qsi_manifest {
    char *text;
    int64_t slab_count;      /* the same in both files */
    qsi_manifest_file file[QSI_FILES];
    json_t *root;
} qsi_manifest;

/* Reads folder/manifest.json. Errors: CORRUPT (missing, damaged), VERSION, UNSUPPORTED (delta), FORMAT, IO, NOMEM. */
qs_status qsi_manifest_open(qs_context *context, const char *folder, qsi_manifest *out);
void qsi_manifest_close(qsi_manifest *manifest);

/* The checksum of a manifest text: XXH3-128 with the digits of the seal itself read as zeros. seal: the 32 digits that
 * the text must hold exactly once; false if it does not. at (may be NULL): where the digits start. The text is as before. */
bool qsi_manifest_hash(char *text, int64_t length, const char *seal, char hash[QSI_HEX], int64_t *at);

#endif
