/* fake_backend.c - a device whose memory the host cannot touch.
 *
 * Buffers are pages without any access right, between two guard pages, except while the device itself works: inside
 * alloc, write, read and submit. Whoever dereferences device memory elsewhere dies by SIGSEGV. Every op is computed by
 * the scalar reference, the CPU backend at level "scalar" with one thread, linked into this plugin. The plugin does not
 * link libqsbits: host_shim.c turns the two services src/cpu needs of the core into calls of the host API. */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "host_shim.h"

enum { PAGE = 4096 };

typedef struct block {
    struct block *next;
    char *base;          /* of the mapping, which starts and ends with a guard page */
    size_t bytes;        /* accessible, whole pages */
} block;

struct qs_device {
    const qs_backend *cpu;
    qs_device *cpu_device;
    pthread_mutex_t lock;    /* held while memory is accessible */
    block *blocks;
};

struct qs_device_queue {
    qs_device *device;
    qs_device_queue *cpu_queue;
};

qs_backend_query_fn qs_backend_query __attribute__((visibility("default")));

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static qs_status access_all(qs_device *d, int rights)
{
    for (block *b = d->blocks; b; b = b->next)
        if (mprotect(b->base + PAGE, b->bytes, rights) != 0) {
            qsi_fail_text("fake: mprotect of %zu bytes failed", b->bytes);
            return QS_ERR_DEVICE;
        }
    return QS_OK;
}

static qs_status begin(qs_device *d)
{
    pthread_mutex_lock(&d->lock);
    qs_status status = access_all(d, PROT_READ | PROT_WRITE);
    if (status != QS_OK)
        pthread_mutex_unlock(&d->lock);
    return status;
}

static qs_status end(qs_device *d, qs_status result)
{
    qs_status status = access_all(d, PROT_NONE);
    pthread_mutex_unlock(&d->lock);
    return result != QS_OK ? result : status;
}

static qs_status fake_alloc(qs_device *d, uint64_t bytes, void **out)
{
    block *b = calloc(1, sizeof *b);
    if (!b || bytes > SIZE_MAX - 3 * PAGE)
        goto nomem;
    b->bytes = (bytes + PAGE - 1) / PAGE * PAGE;
    b->base = mmap(NULL, b->bytes + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (b->base == MAP_FAILED)
        goto nomem;
    pthread_mutex_lock(&d->lock);
    b->next = d->blocks;
    d->blocks = b;
    pthread_mutex_unlock(&d->lock);
    *out = b->base + PAGE;
    return QS_OK;
nomem:
    free(b);
    qsi_fail_text("fake: no memory for %llu bytes", (unsigned long long)bytes);
    return QS_ERR_NOMEM;
}

static void fake_free(qs_device *d, void *memory, uint64_t bytes)
{
    (void)bytes;
    pthread_mutex_lock(&d->lock);
    for (block **link = &d->blocks; *link; link = &(*link)->next) {
        block *b = *link;
        if (b->base + PAGE != (char *)memory)
            continue;
        *link = b->next;
        munmap(b->base, b->bytes + 2 * PAGE);
        free(b);
        break;
    }
    pthread_mutex_unlock(&d->lock);
}

/* ---- device ------------------------------------------------------------------------------------------------------ */

static void fake_close(qs_device *d)
{
    while (d->blocks)
        fake_free(d, d->blocks->base + PAGE, 0);
    if (d->cpu_device)
        d->cpu->close(d->cpu_device);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static qs_status fake_open(qs_context *context, const char *level, int threads, qs_device **out)
{
    (void)level;
    (void)threads;
    qs_device *d = calloc(1, sizeof *d);
    if (!d)
        return QS_ERR_NOMEM;
    pthread_mutex_init(&d->lock, NULL);
    d->cpu = qsi_cpu_backend_query(QS_BACKEND_ABI_MAJOR, shim_host());
    qs_status status = d->cpu ? d->cpu->open(context, "scalar", 1, &d->cpu_device) : QS_ERR_DEVICE;
    if (status != QS_OK) {
        d->cpu_device = NULL;
        fake_close(d);
        return status;
    }
    *out = d;
    return QS_OK;
}

static void fake_info(const qs_device *d, qs_device_info *info)
{
    (void)d;
    *info = (qs_device_info){"fake", "fake device of the tests", "", 1, (uint64_t)1 << 32};
}

/* ---- queue ------------------------------------------------------------------------------------------------------- */

static qs_status fake_queue_create(qs_device *d, qs_device_queue **out)
{
    qs_device_queue *q = calloc(1, sizeof *q);
    if (!q)
        return QS_ERR_NOMEM;
    q->device = d;
    qs_status status = d->cpu->queue_create(d->cpu_device, &q->cpu_queue);
    if (status != QS_OK) {
        free(q);
        return status;
    }
    *out = q;
    return QS_OK;
}

static void fake_queue_free(qs_device_queue *q)
{
    q->device->cpu->queue_free(q->cpu_queue);
    free(q);
}

static qs_status fake_write(qs_device_queue *q, void *memory, int64_t pitch, const void *host, int64_t row_bytes,
                            int64_t rows)
{
    qs_status status = begin(q->device);
    if (status != QS_OK)
        return status;
    for (int64_t r = 0; r < rows; r++)
        memcpy((char *)memory + r * pitch, (const char *)host + r * row_bytes, (size_t)row_bytes);
    return end(q->device, QS_OK);
}

static qs_status fake_read(qs_device_queue *q, const void *memory, int64_t pitch, void *host, int64_t row_bytes,
                           int64_t rows)
{
    qs_status status = begin(q->device);
    if (status != QS_OK)
        return status;
    for (int64_t r = 0; r < rows; r++)
        memcpy((char *)host + r * row_bytes, (const char *)memory + r * pitch, (size_t)row_bytes);
    return end(q->device, QS_OK);
}

static int fake_supports(const qs_device *d, const qs_op *op)
{
    return d->cpu->supports(d->cpu_device, op);
}

static qs_status fake_submit(qs_device_queue *q, const qs_op *ops, int64_t n)
{
    qs_status status = begin(q->device);
    if (status != QS_OK)
        return status;
    status = q->device->cpu->submit(q->cpu_queue, ops, n);
    if (status == QS_OK)
        status = q->device->cpu->sync(q->cpu_queue);
    return end(q->device, status);
}

static qs_status fake_sync(qs_device_queue *q)
{
    (void)q;
    return QS_OK;
}

const qs_backend *qs_backend_query(uint32_t abi_major, const qs_host_api *host)
{
    static const qs_backend table = {
        sizeof table, QS_BACKEND_ABI_MAJOR, QS_BACKEND_ABI_MINOR, "fake", fake_open, fake_close, fake_info, fake_alloc,
        fake_free, fake_queue_create, fake_queue_free, fake_write, fake_read, fake_supports, fake_submit, fake_sync};
    if (abi_major != QS_BACKEND_ABI_MAJOR) {
        host->fail("fake: host has backend ABI %u", abi_major);
        return NULL;
    }
    shim_set_host(host);
    return &table;
}
