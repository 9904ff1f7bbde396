/* objects.h - what a context, a buffer and a queue are. Seen by src/core only; everyone else holds pointers. */
#ifndef QSI_OBJECTS_H
#define QSI_OBJECTS_H

#include <stdatomic.h>
#include "core/internal.h"

/* One memory account; threads book without a lock. */
typedef struct qsi_tally {
    _Atomic int64_t current, peak, allocations;
} qsi_tally;

struct qs_context {
    const qs_backend *backend;
    qs_device *device;
    int threads;                           /* of the host, at least 1 */
    qs_log_fn *log;
    void *log_user;
    qsi_tally tally[QS_MEMORY_POOLS + 1][QS_MEMORY_TAGS + 1];   /* the last ones are the sums */
    int64_t budget[QS_MEMORY_POOLS];       /* INT64_MAX: none */
};

struct qs_buffer {
    qs_context *context;
    void *memory;                          /* the device's; never dereferenced here */
    uint64_t bytes;
    qs_memory_tag tag;
};

struct qs_queue {
    qs_context *context;
    qs_device_queue *device_queue;
};

/* op_check.c: checks everything about an op except whether the device supports it. */
qs_status qsi_op_check(const qs_context *context, const qs_op *op);

/* tensor.c: checks that a view lies inside a buffer of this context; op and slot name it in the text. */
qs_status qsi_view_check(const qs_context *context, const qs_view *view, const char *op, const char *slot);

/* pack.c: CORRUPT if a row of cols T2 values holds code 11. */
qs_status qsi_t2_check(const void *packed, int64_t rows, int64_t cols);

/* backend_load.c: the table called device (a name or an absolute path), found as qs_options says. */
qs_status qsi_backend_find(const char *device, const char *backend_dir, const qs_backend **out);

#endif
