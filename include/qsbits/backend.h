/* qsbits/backend.h - the plugin ABI, the only header besides ops.h that a backend includes.
 *
 * A plugin is a shared library libqsbits-<name>.so that exports one symbol, qs_backend_query. It is opened by
 * absolute path with RTLD_NOW | RTLD_LOCAL, never unloaded, refused as a whole unless the ABI major agrees and every
 * entry within struct_size is filled. It never links to libqsbits: what it needs from the host comes in qs_host_api. */
#ifndef QSBITS_BACKEND_H
#define QSBITS_BACKEND_H

#include "ops.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { QS_BACKEND_ABI_MAJOR = 1, QS_BACKEND_ABI_MINOR = 0 };

/* Services of the host for a plugin. */
typedef struct qs_host_api {
    size_t struct_size;
    uint32_t abi_major, abi_minor;
    /* Records the detail text of a failure of the calling thread; format as printf. */
    void (*fail)(const char *format, ...);
    /* Books bytes of device memory (negative: gives back) under a tag of the context. NOMEM when its budget would be exceeded. */
    qs_status (*account)(qs_context *context, qs_memory_tag tag, int64_t bytes);
    /* The device pointer of a view's first byte: what alloc returned for its buffer plus the view's offset. */
    void *(*view_data)(const qs_view *view);
} qs_host_api;

typedef struct qs_device qs_device;              /* the plugin's own */
typedef struct qs_device_queue qs_device_queue;  /* the plugin's own */

/* The table of a backend. Functions return a status and report detail through qs_host_api.fail; none may exit or print.
 * A queue is used by one thread at a time. */
typedef struct qs_backend {
    size_t struct_size;
    uint32_t abi_major, abi_minor;
    const char *name;

    /* Opens the device. level: kernel level or NULL; threads: 0 = automatic. */
    qs_status (*open)(qs_context *context, const char *level, int threads, qs_device **out);
    void (*close)(qs_device *device);
    void (*info)(const qs_device *device, qs_device_info *info);

    /* Zeroed memory, aligned to 4096 bytes. The core books it; a backend books only its own scratch. */
    qs_status (*alloc)(qs_device *device, uint64_t bytes, void **out);
    void (*free)(qs_device *device, void *memory, uint64_t bytes);

    qs_status (*queue_create)(qs_device *device, qs_device_queue **out);
    void (*queue_free)(qs_device_queue *queue);

    /* Host <-> device: rows of row_bytes, `pitch` apart on the device, tight on the host. Complete on return. */
    qs_status (*write)(qs_device_queue *queue, void *device_memory, int64_t pitch, const void *host, int64_t row_bytes, int64_t rows);
    qs_status (*read)(qs_device_queue *queue, const void *device_memory, int64_t pitch, void *host, int64_t row_bytes, int64_t rows);

    /* 1 if the op can run here exactly as described. The core asks before it submits. */
    int (*supports)(const qs_device *device, const qs_op *op);
    /* Ops are validated by the core. Runs them in order, possibly after returning. */
    qs_status (*submit)(qs_device_queue *queue, const qs_op *ops, int64_t n);
    qs_status (*sync)(qs_device_queue *queue);
} qs_backend;

/* The one exported symbol. Returns the table (static storage), or NULL after host->fail(reason), e.g. when there is
 * no driver or device. */
typedef const qs_backend *qs_backend_query_fn(uint32_t abi_major, const qs_host_api *host);
#define QS_BACKEND_QUERY_SYMBOL "qs_backend_query"

#ifdef __cplusplus
}
#endif
#endif
