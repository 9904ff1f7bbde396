/* plan_rates.c - the rates of plan_times.h, measured. */
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_machine.h"
#include "bench_ops.h"
#include "plan_times.h"

const double PLAN_PCIE4_RAW = 32e9, PLAN_PCIE4 = 32e9 * 128.0 / 130.0;

enum { TOKENS = 256, MOST_SIDE = 2048, LEAST_READ = 64 << 20, LINK_BYTES = 64 << 20, LINK_RUNS = 5, CHUNK = 8 << 20, PAGE = 4096 };
static const double PRODUCT_SECONDS = 0.15, BURST_SECONDS = 0.05, DISK_SECONDS = 0.4;

/* ---- products ------------------------------------------------------------------------------------------------------ */

static qs_status measure_product(qs_context *context, const plan_case *c, const char *name, double *rate)
{
    const int64_t side = c->model.dim < MOST_SIDE ? c->model.dim : MOST_SIDE;
    const bench_shape shape = {.m = TOKENS, .n = side, .k = side};
    double median[QS_PRECISIONS] = {0.0};
    bool on[QS_PRECISIONS] = {false};
    on[c->training.precision] = true;
    const qs_status status = bench_time(context, bench_find(name), shape, on, PRODUCT_SECONDS, median);
    if (status == QS_OK)
        *rate = 2.0 * TOKENS * (double)side * (double)side / median[c->training.precision];
    return status;
}

static qs_status measure_products(qs_context *context, const plan_case *c, plan_rates *out)
{
    char visit[24];
    (void)snprintf(visit, sizeof visit, "fsm_visit %s", qs_fsm_rule_of(c->training.fsm)->name);
    const char *const names[] = {"linear", "linear_dx", visit};
    qs_status status = QS_OK;
    for (int i = 0; i < 3 && status == QS_OK; i++)
        status = measure_product(context, c, names[i], &out->per_second[PLAN_RATE_FORWARD + i]);
    return status;
}

/* ---- memory and link ------------------------------------------------------------------------------------------------ */

static qs_status measure_memory(const qs_context *context, double *rate)
{
    qs_device_info device;
    qs_context_device(context, &device);
    if (strcmp(device.backend, "cpu") != 0)
        return QS_OK;   /* nothing measures that of a device yet */
    const bench_caches caches = bench_caches_of(&device);
    int64_t bytes = 2 * caches.last < LEAST_READ ? LEAST_READ : 2 * caches.last;
    bytes = bytes > caches.memory / 8 ? caches.memory / 8 : bytes;
    return qs_cpu_peak(device.level, device.threads, QS_PEAK_READ, (uint64_t)bytes, BURST_SECONDS, rate);
}

/* As a stream fills a slot: the best of a few writes of host memory into a buffer of the device. */
static qs_status measure_link(qs_context *context, double *rate)
{
    qs_queue *queue = NULL;
    qs_buffer *buffer = NULL;
    unsigned char *host = malloc(LINK_BYTES);
    qs_status status = host == NULL ? QS_ERR_NOMEM : qs_queue_create(context, &queue);
    if (status == QS_OK)
        status = qs_buffer_create(context, QS_MEMORY_OTHER, LINK_BYTES, &buffer);
    if (host != NULL)
        memset(host, 1, LINK_BYTES);
    for (int i = 0; i <= LINK_RUNS && status == QS_OK; i++) {
        const double start = now_seconds();
        status = qs_write(queue, qs_view_at(buffer, 0, QS_U8, 1, LINK_BYTES), host);
        if (status == QS_OK)
            status = qs_sync(queue);
        const double now = LINK_BYTES / (now_seconds() - start);
        if (i > 0 && !(now <= *rate))   /* the first one meets pages that are not there yet */
            *rate = now;
    }
    qs_buffer_free(&buffer);
    qs_queue_free(&queue);
    free(host);
    return status;
}

/* ---- disk ------------------------------------------------------------------------------------------------------------ */

/* Reads the file as a stream does, past the page cache where that can be; stays NaN where it cannot be read. */
static void measure_disk(const char *file, double *rate)
{
    unsigned char *memory = aligned_alloc(PAGE, CHUNK);
    int descriptor = open(file, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (descriptor < 0)
        descriptor = open(file, O_RDONLY | O_CLOEXEC);
    const double start = now_seconds();
    double bytes = 0.0, seconds = 0.0;
    while (memory != NULL && descriptor >= 0 && seconds < DISK_SECONDS) {
        const ssize_t got = pread(descriptor, memory, CHUNK, (off_t)bytes);
        if (got <= 0)
            break;
        bytes += (double)got;
        seconds = now_seconds() - start;
        if (got < CHUNK)
            break;
    }
    if (bytes > 0.0 && seconds > 0.0)
        *rate = bytes / seconds;
    if (descriptor >= 0)
        (void)close(descriptor);
    free(memory);
}

/* ---- all ------------------------------------------------------------------------------------------------------------- */

static void take(const options *o, option_id id, plan_rate first, plan_rate last, plan_rates *out)
{
    for (int i = (int)first; i <= (int)last; i++) {
        out->given[i] = o->value[id].given;
        out->per_second[i] = o->value[id].given ? (double)o->value[id].integer : NAN;
    }
}

qs_status plan_rates_of(const options *o, qs_context *context, const plan_case *c, const char *file, plan_rates *out)
{
    qs_status status = QS_OK;
    take(o, OPT_DISK_RATE, PLAN_RATE_DISK, PLAN_RATE_DISK, out);
    take(o, OPT_LINK_RATE, PLAN_RATE_LINK, PLAN_RATE_LINK, out);
    take(o, OPT_MEMORY_RATE, PLAN_RATE_MEMORY, PLAN_RATE_MEMORY, out);
    take(o, OPT_COMPUTE_RATE, PLAN_RATE_FORWARD, PLAN_RATE_VISIT, out);
    if (!out->given[PLAN_RATE_DISK] && file[0] != '\0')
        measure_disk(file, &out->per_second[PLAN_RATE_DISK]);
    if (!out->given[PLAN_RATE_LINK])
        status = measure_link(context, &out->per_second[PLAN_RATE_LINK]);
    if (status == QS_OK && !out->given[PLAN_RATE_MEMORY])
        status = measure_memory(context, &out->per_second[PLAN_RATE_MEMORY]);
    if (status == QS_OK && !out->given[PLAN_RATE_FORWARD])
        status = measure_products(context, c, out);
    return status;
}
