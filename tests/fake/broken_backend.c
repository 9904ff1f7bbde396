/* broken_backend.c - plugins that must be refused; built once per macro. No entry is ever called. */
#include <stddef.h>
#include "qsbits/backend.h"

#if defined(BROKEN_SYMBOL)
int qsbits_not_a_backend(void) __attribute__((visibility("default")));
int qsbits_not_a_backend(void)
{
    return 0;
}
#else

qs_backend_query_fn qs_backend_query __attribute__((visibility("default")));

#if defined(BROKEN_DEVICE)
const qs_backend *qs_backend_query(uint32_t abi_major, const qs_host_api *host)
{
    host->fail("no device of ABI %u found", abi_major);
    return NULL;
}
#elif defined(BROKEN_SILENT)
const qs_backend *qs_backend_query(uint32_t abi_major, const qs_host_api *host)
{
    (void)abi_major;
    (void)host;
    return NULL;
}
#else

static qs_status no_open(qs_context *c, const char *level, int threads, qs_device **out)
{
    (void)c;
    (void)level;
    (void)threads;
    (void)out;
    return QS_ERR_DEVICE;
}
static void no_close(qs_device *d) { (void)d; }
static void no_info(const qs_device *d, qs_device_info *info) { (void)d, (void)info; }
static qs_status no_alloc(qs_device *d, uint64_t bytes, void **out) { (void)d, (void)bytes, (void)out; return QS_ERR_NOMEM; }
static void no_free(qs_device *d, void *memory, uint64_t bytes) { (void)d, (void)memory, (void)bytes; }
static qs_status no_queue(qs_device *d, qs_device_queue **out) { (void)d, (void)out; return QS_ERR_DEVICE; }
static void no_queue_free(qs_device_queue *q) { (void)q; }
static qs_status no_write(qs_device_queue *q, void *m, int64_t pitch, const void *host, int64_t bytes, int64_t rows)
{
    (void)q, (void)m, (void)pitch, (void)host, (void)bytes, (void)rows;
    return QS_ERR_DEVICE;
}
static qs_status no_read(qs_device_queue *q, const void *m, int64_t pitch, void *host, int64_t bytes, int64_t rows)
{
    (void)q, (void)m, (void)pitch, (void)host, (void)bytes, (void)rows;
    return QS_ERR_DEVICE;
}
static int no_supports(const qs_device *d, const qs_op *op) { (void)d, (void)op; return 0; }
static qs_status no_submit(qs_device_queue *q, const qs_op *ops, int64_t n)
{
    (void)q, (void)ops, (void)n;
    return QS_ERR_DEVICE;
}
#ifndef BROKEN_ENTRY
static qs_status no_sync(qs_device_queue *q) { (void)q; return QS_ERR_DEVICE; }
#endif

const qs_backend *qs_backend_query(uint32_t abi_major, const qs_host_api *host)
{
    static const qs_backend table = {
#ifdef BROKEN_SIZE
        .struct_size = sizeof table - sizeof(void *),
#else
        .struct_size = sizeof table,
#endif
#ifdef BROKEN_MAJOR
        .abi_major = QS_BACKEND_ABI_MAJOR + 1,
#else
        .abi_major = QS_BACKEND_ABI_MAJOR,
#endif
        .abi_minor = QS_BACKEND_ABI_MINOR, .name = "broken", .open = no_open, .close = no_close, .info = no_info,
        .alloc = no_alloc, .free = no_free, .queue_create = no_queue, .queue_free = no_queue_free, .write = no_write,
        .read = no_read, .supports = no_supports, .submit = no_submit,
#ifndef BROKEN_ENTRY
        .sync = no_sync,
#endif
    };
    (void)abi_major;
    (void)host;
    return &table;
}
#endif
#endif
