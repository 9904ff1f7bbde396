/* text.h - what a text is inside: segments of files one after the other, and the few descriptors that are open.
 * text.c reads and measures, text_files.c finds the files, text_windows.c orders the training windows. */
#ifndef QSI_TEXT_H
#define QSI_TEXT_H

#include <time.h>
#include "core/internal.h"
#include "qsbits/data.h"

/* What must stay as it was when the file was first read; at least one byte. */
typedef struct qsi_segment {
    int64_t first;             /* its first token among all */
    int64_t bytes;
    int64_t path;              /* offset into names */
    uint64_t inode;
    struct timespec changed;
} qsi_segment;

/* An open file of the text; closed where nothing else is open in its place. */
typedef struct qsi_open_file {
    bool open;
    int descriptor;
    int64_t segment;
    uint64_t used;             /* reading of the clock below */
} qsi_open_file;

enum { QSI_OPEN_FILES = 16 };

struct qs_text {
    qs_context *context;
    uint8_t *memory;           /* all tokens of a text from memory; NULL: the segments are files */
    qsi_segment *segments;     /* [n_segments], ascending */
    int64_t n_segments, segment_capacity;
    char *names;               /* paths of the segments, each ends with NUL */
    int64_t names_used, names_capacity;
    qsi_open_file files[QSI_OPEN_FILES];
    uint64_t clock;            /* ticks at every read of a file */
    qs_text_info info;
};

/* ---- text.c ---------------------------------------------------------------------------------------------------- */

/* Collects statistics and hash while the tokens pass once. */
typedef struct qsi_text_intake qsi_text_intake;
qs_status qsi_intake_create(qs_context *context, qsi_text_intake **out);
void qsi_intake_free(qsi_text_intake **intake);
void qsi_intake_take(qsi_text_intake *intake, const uint8_t *bytes, int64_t n);

/* ---- text_files.c ---------------------------------------------------------------------------------------------- */

/* Reads files and the files of folders into the intake and appends their segments. Errors: as qs_text_open. */
qs_status qsi_text_take_paths(qs_text *text, const char *const *paths, int64_t n_paths, qsi_text_intake *intake,
                              qs_skip_fn *skip, void *user);

#endif
