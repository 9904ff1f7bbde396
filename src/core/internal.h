/* internal.h - what the library's own files share: failing, memory, sizes, files. No part of the API. */
#ifndef QSI_INTERNAL_H
#define QSI_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "qsbits/backend.h"

/* ---- failing (status.c) ---------------------------------------------------------------------------------------- */

/* Records the detail text of this thread. */
void qsi_fail_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Inside a function with `qs_status status = QS_OK;` and one label `fail:`. */
#define QS_FAIL(code, ...) do { qsi_fail_text(__VA_ARGS__); status = (code); goto fail; } while (0)
#define QS_TRY(expr) do { status = (expr); if (status != QS_OK) goto fail; } while (0)

/* ---- formats and sizes (formats.c) ----------------------------------------------------------------------------- */

typedef struct qsi_format {
    const char *name;
    int bits;        /* per element */
    int multiple;    /* columns come in multiples of this */
    int alignment;   /* of rows, in bytes: the unit in which kernels read */
} qsi_format;
const qsi_format *qsi_format_of(qs_format format);   /* NULL outside the list */

/* *out = a * b or a + b of non-negative numbers; false on overflow or a negative argument. */
bool qsi_mul(int64_t a, int64_t b, int64_t *out);
bool qsi_add(int64_t a, int64_t b, int64_t *out);

static inline int64_t qsi_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t qsi_round_up(int64_t a, int64_t b) { return qsi_ceil_div(a, b) * b; }
static inline int64_t qsi_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t qsi_max(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- memory (memory.c) ----------------------------------------------------------------------------------------- */

/* Zeroed host memory, 64-byte aligned, booked under tag; NULL with the detail text set when there is none.
 * context may be NULL (not booked). bytes may be 0. */
void *qsi_alloc(qs_context *context, qs_memory_tag tag, int64_t bytes);
void *qsi_alloc_array(qs_context *context, qs_memory_tag tag, int64_t count, int64_t size);
void qsi_free(void *memory);                /* accepts NULL; knows its size and account */
char *qsi_strdup(qs_context *context, const char *text);

/* Books bytes of host memory, of device memory; negative gives back (accounts.c). NOMEM when the budget would be exceeded. */
qs_status qsi_account(qs_context *context, qs_memory_tag tag, int64_t bytes);
qs_status qsi_account_device(qs_context *context, qs_memory_tag tag, int64_t bytes);
int64_t qsi_budget(const qs_context *context, qs_memory_pool pool);   /* INT64_MAX: none */

/* ---- context (context.c) --------------------------------------------------------------------------------------- */

void qsi_log_line(qs_context *context, qs_log_level level, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The built-in CPU backend (src/cpu/backend_cpu.c): the same entry a plugin exports. */
qs_backend_query_fn qsi_cpu_backend_query;

/* ---- platform (platform.c: the machine; files.c: the file system): the only places that know the operating system - */

int qsi_cpu_count(void);                     /* affinity mask and cgroup quota, at least 1 */
uint64_t qsi_memory_total(void);             /* machine and cgroup, the smaller */

/* The limit that control groups set on "cpu" (processors) or "memory" (bytes), -1 if none: membership is
 * /proc/self/cgroup, root /sys/fs/cgroup (tests give their own). */
double qsi_cgroup_limit(const char *membership, const char *root, const char *controller);
qs_status qsi_mkdir(const char *path);       /* parents too; fine if it exists. CREATE */
qs_status qsi_rename_durable(const char *from, const char *to);  /* rename, then fsync of the folder (the rename stays where
                                                                    that alone fails). IO */
qs_status qsi_remove_tree(const char *path); /* fine if it does not exist */
bool qsi_path_exists(const char *path);
bool qsi_is_directory(const char *path);
bool qsi_is_link(const char *path);          /* a symbolic link, wherever it points */
char *qsi_path_join(const char *folder, const char *name);   /* qsi_free */

/* Names in a folder, sorted by byte value, without "." and "..": *names holds *count strings; free with qsi_free_names.
 * NOINPUT, IO (errno tells why), NOMEM. */
qs_status qsi_list_directory(const char *path, char ***names, int64_t *count);
void qsi_free_names(char **names, int64_t count);

/* A file mapped for reading. bytes 0 maps to an empty, non-NULL text. NOINPUT, IO. */
typedef struct qsi_mapping { const uint8_t *data; uint64_t bytes; } qsi_mapping;
qs_status qsi_map_file(const char *path, qsi_mapping *out);
void qsi_unmap(qsi_mapping *mapping);

/* A file being written: name.tmp, renamed by commit after fsync; abort removes it. Every write error names path and reason.
 * open: CREATE; write, commit: IO. commit frees the writer and stores NULL in any case; abort accepts pointer to NULL. */
typedef struct qsi_writer qsi_writer;
qs_status qsi_writer_open(const char *path, qsi_writer **out);
qs_status qsi_writer_write(qsi_writer *writer, const void *data, uint64_t bytes);
qs_status qsi_writer_commit(qsi_writer **writer);
void qsi_writer_abort(qsi_writer **writer);

#endif
