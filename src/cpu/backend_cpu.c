/* backend_cpu.c - the CPU as a backend: device, queues, scratch, and the op table.
 *
 * Ops run when they are submitted, in order, so sync has nothing to wait for. The host is called only through its
 * qs_host_api, so the same objects also make a plugin. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include "cpu/drivers.h"
#include "cpu/pages.h"

/* Fails with the host's detail text; the label as in QS_FAIL. */
#define CPU_FAIL(host, code, ...) do { (host)->fail(__VA_ARGS__); status = (code); goto fail; } while (0)

/* The ABI hands the host over at query and has no place for it in open; the same pointer for the life of the process. */
static _Atomic(const qs_host_api *) services;

static qsi_driver *const drivers[QS_OPS] = {
    [QS_OP_COPY] = qsi_cpu_copy,
    [QS_OP_EMBED] = qsi_cpu_embed,
    [QS_OP_EMBED_GRAD] = qsi_cpu_embed_grad,
    [QS_OP_LINEAR] = qsi_cpu_linear,
    [QS_OP_LINEAR_DX] = qsi_cpu_linear_dx,
    [QS_OP_LINEAR_DW] = qsi_cpu_linear_dw,
    [QS_OP_RMSNORM] = qsi_cpu_rmsnorm,
    [QS_OP_RMSNORM_GRAD] = qsi_cpu_rmsnorm_grad,
    [QS_OP_CHUNK_SUM] = qsi_cpu_chunk_sum,
    [QS_OP_ROPE] = qsi_cpu_rope,
    [QS_OP_ATTENTION] = qsi_cpu_attention,
    [QS_OP_ATTENTION_GRAD] = qsi_cpu_attention_grad,
    [QS_OP_SWIGLU] = qsi_cpu_swiglu,
    [QS_OP_SWIGLU_GRAD] = qsi_cpu_swiglu_grad,
    [QS_OP_SOFTMAX_STATS] = qsi_cpu_softmax_stats,
    [QS_OP_CROSS_ENTROPY] = qsi_cpu_cross_entropy,
    [QS_OP_CROSS_ENTROPY_GRAD] = qsi_cpu_cross_entropy_grad,
    [QS_OP_SUM_SQUARES] = qsi_cpu_sum_squares,
    [QS_OP_CLIP_FACTOR] = qsi_cpu_clip_factor,
    [QS_OP_ADAMW] = qsi_cpu_adamw,
    [QS_OP_SCALES] = qsi_cpu_scales,
    [QS_OP_BINARIZE] = qsi_cpu_binarize,
    [QS_OP_SCALE_GRAD] = qsi_cpu_scale_grad,
    [QS_OP_FSM_THRESHOLD] = qsi_cpu_fsm_threshold,
    [QS_OP_FSM_VISIT] = qsi_cpu_fsm_visit,
    [QS_OP_FSM_STATISTICS] = qsi_cpu_fsm_statistics,
    [QS_OP_FSM_QUANTILE] = qsi_cpu_fsm_quantile,
    [QS_OP_FSM_RULE] = qsi_cpu_fsm_rule,
    [QS_OP_BOP] = qsi_cpu_bop,
};

/* ---- device ----------------------------------------------------------------------------------------------------- */

/* The processor's own name, from CPUID leaves 80000002..4 (48 characters, padded with spaces). */
static void describe(char text[64])
{
    strcpy(text, "cpu");
#if defined(__x86_64__)
    unsigned r[12];
    for (unsigned i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002u + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3]))
            return;
    char name[49] = {0};
    memcpy(name, r, 48);
    const char *from = name + strspn(name, " ");
    size_t length = strlen(from);
    while (length > 0 && from[length - 1] == ' ')
        length--;
    if (length > 0) {
        memcpy(text, from, length);
        text[length] = 0;
    }
#endif
}

static qs_status cpu_open(qs_context *context, const char *level, int threads, qs_device **out)
{
    qs_status status = QS_OK;
    const qs_host_api *host = atomic_load(&services);
    const int found = qsi_level_by_name(level);
    if (found == -2)
        CPU_FAIL(host, QS_ERR_DEVICE, "kernel level %s cannot run on this machine", level);
    if (found < 0)
        CPU_FAIL(host, QS_ERR_ARG, "kernel level %s does not exist", level ? level : "(best)");
    if (threads < 0 || threads > 1024)
        CPU_FAIL(host, QS_ERR_ARG, "%d threads, must lie in 0..1024", threads);
    qs_device *device = calloc(1, sizeof *device);
    if (!device)
        CPU_FAIL(host, QS_ERR_NOMEM, "cannot allocate a device");
    device->host = host;
    device->context = context;
    device->level = (qsi_level)found;
    device->threads = threads ? threads : qsi_cpu_count();
    qsi_kernels_init(&device->kernels, device->level);
    describe(device->description);
    *out = device;
fail:
    return status;
}

static void cpu_close(qs_device *device)
{
    free(device);
}

static void cpu_info(const qs_device *device, qs_device_info *info)
{
    info->backend = "cpu";
    info->description = device->description;
    info->level = qsi_level_name(device->level);
    info->threads = device->threads;
    info->memory_bytes = qsi_memory_total();
}

/* Any thread may use any page later, so the threads take turns: on a machine of several nodes the pages spread over all. */
static void touch_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    for (int64_t at = 0; at < QSI_LARGE_PAGE; at += QSI_PAGE)
        ((volatile char *)arg)[task * QSI_LARGE_PAGE + at] = 0;
}

static qs_status cpu_alloc(qs_device *device, uint64_t bytes, void **out)
{
    qs_status status = QS_OK;
    void *memory = NULL;
    const uint64_t total = qsi_memory_total();   /* 0: unknown */
    if (bytes > (uint64_t)INT64_MAX || (total && bytes > total))
        CPU_FAIL(device->host, QS_ERR_NOMEM, "cannot allocate %llu bytes, this machine has %llu", (unsigned long long)bytes,
                 (unsigned long long)total);
    memory = qsi_pages_alloc(qsi_max(1, (int64_t)bytes));
    if (!memory)
        CPU_FAIL(device->host, QS_ERR_NOMEM, "cannot allocate %llu bytes", (unsigned long long)bytes);
    qsi_parallel_for(device->threads, (int64_t)(bytes / QSI_LARGE_PAGE), touch_task, memory);
    *out = memory;
fail:
    return status;
}

static void cpu_free(qs_device *device, void *memory, uint64_t bytes)
{
    (void)device;
    qsi_pages_free(memory, qsi_max(1, (int64_t)bytes));
}

/* ---- queues and scratch ----------------------------------------------------------------------------------------- */

static qs_status cpu_queue_create(qs_device *device, qs_device_queue **out)
{
    qs_status status = QS_OK;
    qs_device_queue *queue = calloc(1, sizeof *queue);
    if (!queue)
        CPU_FAIL(device->host, QS_ERR_NOMEM, "cannot allocate a queue");
    queue->device = device;
    *out = queue;
fail:
    return status;
}

static void scratch_free(qs_device *device, qsi_scratch *scratch)
{
    if (!scratch->memory)
        return;
    qsi_pages_free(scratch->memory, scratch->bytes);
    (void)!device->host->account(device->context, QS_MEMORY_WORKSPACE, -scratch->bytes);
    *scratch = (qsi_scratch){NULL, 0};
}

static void cpu_queue_free(qs_device_queue *queue)
{
    if (!queue)
        return;
    scratch_free(queue->device, &queue->shared);
    scratch_free(queue->device, &queue->own);
    free(queue);
}

/* The old piece goes first: its contents are of no use, and both together would be the peak. */
static qs_status scratch_grow(qs_device *device, qsi_scratch *scratch, int64_t bytes)
{
    qs_status status = QS_OK;
    if (bytes <= scratch->bytes)
        return QS_OK;
    scratch_free(device, scratch);
    QS_TRY(device->host->account(device->context, QS_MEMORY_WORKSPACE, bytes));
    scratch->memory = qsi_pages_alloc(bytes);
    if (!scratch->memory) {
        (void)!device->host->account(device->context, QS_MEMORY_WORKSPACE, -bytes);
        CPU_FAIL(device->host, QS_ERR_NOMEM, "cannot allocate %lld bytes of scratch", (long long)bytes);
    }
    scratch->bytes = bytes;
fail:
    return status;
}

qs_status qsi_scratch_need(qsi_run *run, int64_t shared, int64_t own)
{
    qs_status status = QS_OK;
    qs_device_queue *queue = run->queue;
    qs_device *device = queue->device;
    QS_TRY(scratch_grow(device, &queue->shared, qsi_round_up(shared, QSI_PAGE)));
    if (own > queue->own_slice) {
        const int64_t slice = qsi_round_up(own, QSI_PAGE);
        queue->own_slice = 0;
        QS_TRY(scratch_grow(device, &queue->own, slice * device->threads));
        queue->own_slice = slice;
    }
fail:
    return status;
}

static qs_status cpu_write(qs_device_queue *queue, void *device_memory, int64_t pitch, const void *host, int64_t row_bytes,
                           int64_t rows)
{
    (void)queue;
    for (int64_t row = 0; row < rows; row++)
        memcpy((char *)device_memory + row * pitch, (const char *)host + row * row_bytes, (size_t)row_bytes);
    return QS_OK;
}

static qs_status cpu_read(qs_device_queue *queue, const void *device_memory, int64_t pitch, void *host, int64_t row_bytes,
                          int64_t rows)
{
    (void)queue;
    for (int64_t row = 0; row < rows; row++)
        memcpy((char *)host + row * row_bytes, (const char *)device_memory + row * pitch, (size_t)row_bytes);
    return QS_OK;
}

/* ---- ops -------------------------------------------------------------------------------------------------------- */

static int cpu_supports(const qs_device *device, const qs_op *op)
{
    (void)device;
    return op->size == sizeof *op && op->version == QS_OP_VERSION && op->code < QS_OPS && drivers[op->code] != NULL;
}

static qs_status run_one(qs_device_queue *queue, const qs_op *op)
{
    qs_device *device = queue->device;
    qsi_run run = {.queue = queue, .kernels = &device->kernels, .op = op, .threads = device->threads};
    for (int i = 0; i < QS_OP_VIEWS; i++) {
        const qs_view *v = &op->view[i];
        if (v->buffer)
            run.v[i] = (qsi_slot){device->host->view_data(v), v->row_bytes, v->rows, v->cols};
    }
    return drivers[op->code](&run);
}

static qs_status cpu_submit(qs_device_queue *queue, const qs_op *ops, int64_t n)
{
    qs_status status = QS_OK;
    for (int64_t i = 0; i < n; i++) {
        if (!cpu_supports(queue->device, &ops[i]))
            CPU_FAIL(queue->device->host, QS_ERR_UNSUPPORTED, "op code %u is not known here", ops[i].code);
        QS_TRY(run_one(queue, &ops[i]));
    }
fail:
    return status;
}

static qs_status cpu_sync(qs_device_queue *queue)
{
    (void)queue;
    return QS_OK;
}

const qs_backend *qsi_cpu_backend_query(uint32_t abi_major, const qs_host_api *host)
{
    static const qs_backend backend = {
        .struct_size = sizeof backend,
        .abi_major = QS_BACKEND_ABI_MAJOR,
        .abi_minor = QS_BACKEND_ABI_MINOR,
        .name = "cpu",
        .open = cpu_open,
        .close = cpu_close,
        .info = cpu_info,
        .alloc = cpu_alloc,
        .free = cpu_free,
        .queue_create = cpu_queue_create,
        .queue_free = cpu_queue_free,
        .write = cpu_write,
        .read = cpu_read,
        .supports = cpu_supports,
        .submit = cpu_submit,
        .sync = cpu_sync,
    };
    if (abi_major != QS_BACKEND_ABI_MAJOR) {
        host->fail("backend ABI %u, this cpu backend has %u", abi_major, (unsigned)QS_BACKEND_ABI_MAJOR);
        return NULL;
    }
    atomic_store(&services, host);
    return &backend;
}

/* ---- levels, for context.h -------------------------------------------------------------------------------------- */

int qs_cpu_level_count(void)
{
    return QSI_LEVELS;
}

const char *qs_cpu_level_name(int index, int *available)
{
    if (index < 0 || index >= QSI_LEVELS)
        return NULL;
    if (available)
        *available = qsi_level_available((qsi_level)index);
    return qsi_level_name((qsi_level)index);
}
