/* qsbits/data.h - text for training: bytes are tokens (256 symbols). */
#ifndef QSBITS_DATA_H
#define QSBITS_DATA_H

#include "context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qs_text qs_text;

/* A file, or a folder: its text files below it in byte order of their paths, one after the other. Hidden files, files with a
 * NUL byte in their first 64 KiB, files that cannot be read and links to folders are skipped and counted. The last
 * val_fraction (0 < f <= 0.5) is the validation part. *out is owned by the caller.
 * Errors: NOINPUT, IO, FORMAT (empty, or nothing that is text), ARG, NOMEM. */
QS_API QS_CHECK qs_status qs_text_open(qs_context *context, const char *path, double val_fraction, qs_text **out);

/* The same from memory; copies. */
QS_API QS_CHECK qs_status qs_text_from_memory(qs_context *context, const void *bytes, int64_t n, double val_fraction, qs_text **out);
QS_API void qs_text_free(qs_text **text);

typedef struct qs_text_info {
    int64_t tokens;            /* all */
    int64_t train_tokens;      /* the first ones */
    int64_t val_tokens;        /* the rest */
    int64_t files;             /* read */
    int64_t skipped;           /* not text */
    double entropy0;           /* empirical order-0 entropy of all tokens, nats per token */
    double entropy1;           /* order-1 (given the token before), nats per token */
    char hash[33];             /* XXH3-128 of all tokens, hex */
} qs_text_info;
QS_API void qs_text_get_info(const qs_text *text, qs_text_info *info);

/* All tokens as bytes; borrowed. */
QS_API const uint8_t *qs_text_bytes(const qs_text *text);

/* Training windows of ctx + 1 tokens: stride ctx from an offset drawn per epoch, order permuted per epoch (Philox and a Feistel
 * network, so it needs no memory). SHAPE when the training part is shorter than ctx + 1. */
typedef struct qs_cursor {
    uint64_t epoch;
    uint64_t index;            /* windows of this epoch already used */
} qs_cursor;

/* The first token of the window at the cursor, then advances the cursor. */
QS_API QS_CHECK qs_status qs_text_next_window(const qs_text *text, int64_t ctx, uint64_t seed, qs_cursor *cursor, int64_t *start);

#ifdef __cplusplus
}
#endif
#endif
