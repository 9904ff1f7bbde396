/* qsbits/data.h - text for training: bytes are tokens (256 symbols). */
#ifndef QSBITS_DATA_H
#define QSBITS_DATA_H

#include "context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qs_text qs_text;

/* Told of every file that is left out: its path and the reason, one phrase ("hidden", "empty", "has a NUL byte in its first
 * 64 KiB", "a link to a folder", "not a regular file", "Permission denied"). */
typedef void qs_skip_fn(void *user, const char *path, const char *reason);

/* The texts at n_paths paths, one after the other: files, and folders (their text files below, in byte order of their paths).
 * A file named itself is taken whatever it holds; of folders the files are left out that qs_skip_fn lists; skip may be NULL.
 * The last val_fraction (0 < f <= 1) is the validation part; training needs f <= 0.5.
 *
 * Files are read once for the statistics and the hash, and stay on disk: a text may be larger than memory, the system's page
 * cache decides what stays in it. A file that is changed or removed while the text is open is found out when it is next opened
 * (IO). A text belongs to one thread at a time. *out is owned by the caller.
 * Errors: NOINPUT, IO, FORMAT (nothing that is text), ARG, NOMEM. */
QS_API QS_CHECK qs_status qs_text_open(qs_context *context, const char *const *paths, int64_t n_paths, double val_fraction,
                                       qs_skip_fn *skip, void *user, qs_text **out);

/* The same from memory; copies. */
QS_API QS_CHECK qs_status qs_text_from_memory(qs_context *context, const void *bytes, int64_t n, double val_fraction, qs_text **out);
QS_API void qs_text_free(qs_text **text);

/* Keeps the last test_fraction of the text for a final test, as qs_model_test does it: the validation part lies before it, the
 * training part before that, and neither reaches into what follows it. For a text as it was opened, before it is trained or evaluated
 * on; 0 changes nothing. Errors: ARG (no share in [0, 1), or more than the validation part leaves); the text is then as it was. */
QS_API QS_CHECK qs_status qs_text_keep_test(qs_text *text, double test_fraction);

typedef struct qs_text_info {
    int64_t tokens;            /* all */
    int64_t train_tokens;      /* the first ones */
    int64_t val_tokens;        /* those that follow */
    int64_t test_tokens;       /* the rest; 0 without qs_text_keep_test */
    int64_t files;             /* read */
    int64_t skipped;           /* left out */
    double entropy0;           /* empirical order-0 entropy of all tokens, nats per token */
    double entropy1;           /* order-1 (given the token before), nats per token */
    char hash[33];             /* XXH3-128 of all tokens, hex */
} qs_text_info;
QS_API void qs_text_get_info(const qs_text *text, qs_text_info *info);

/* Tokens first .. first+n-1 of all, into bytes [n] of the caller. Errors: ARG (range), IO, NOINPUT (a file that is gone). */
QS_API QS_CHECK qs_status qs_text_read(qs_text *text, int64_t first, int64_t n, uint8_t *bytes);

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
