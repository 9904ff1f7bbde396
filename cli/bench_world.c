/* bench_world.c - see bench_world.h. */
#include "bench_world.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LINE = 64, COPY_BLOCK = 1 << 20, DRAW_X = 101, DRAW_DY, DRAW_BITS, DRAW_SCALES, DRAW_STATE, DRAW_DENSE };

const bench_product_row BENCH_PRODUCTS[PRODUCTS] = {
#define BENCH_PRODUCT_ROW(id, name, decoding, packed) {name, decoding, packed},
    BENCH_PRODUCT_LIST(BENCH_PRODUCT_ROW)
#undef BENCH_PRODUCT_ROW
};

/* ---- numbers --------------------------------------------------------------------------------------------------- */

static void *drawn(qs_format format, uint32_t draw, int64_t bytes)
{
    void *memory = malloc((size_t)bytes);
    if (memory != NULL)
        bench_fill(format, draw, memory, bytes);
    return memory;
}

qs_status bench_host_create(bench_shape s, bench_host *out)
{
    *out = (bench_host){
        .shape = s,
        .x = drawn(QS_F32, DRAW_X, 4 * s.m * s.k),
        .dy = drawn(QS_F32, DRAW_DY, 4 * s.m * s.n),
        .bits = drawn(QS_W1, DRAW_BITS, s.n * s.k / 8),
        .scales = drawn(QS_F16, DRAW_SCALES, 2 * s.n),
    };
    if (out->x != NULL && out->dy != NULL && out->bits != NULL && out->scales != NULL)
        return QS_OK;
    bench_host_free(out);
    return QS_ERR_NOMEM;
}

void bench_host_free(bench_host *host)
{
    free(host->x);
    free(host->dy);
    free(host->bits);
    free(host->scales);
    *host = (bench_host){.x = NULL};
}

/* ---- buffers --------------------------------------------------------------------------------------------------- */

static int64_t world_bytes(const bench_world *w, int which)
{
    const bench_shape s = w->shape;
    switch (which) {
    case WORLD_X: case WORLD_DX: return 4 * s.m * s.k;
    case WORLD_DY: case WORLD_Y: return 4 * s.m * s.n;
    case WORLD_BITS: return w->stride * w->copies;
    case WORLD_SCALE: return 2 * s.n;
    case WORLD_MOVING: return s.n * s.k / 8;
    case WORLD_STATE: return s.n * s.k / 2;
    case WORLD_ROWS: return 4 * s.n * 2 + 4 * LINE;         /* r_now, dmaster */
    case WORLD_COLS: return 4 * s.k;                        /* c_now */
    case WORLD_ONES: return 4 * (s.n > s.k ? s.n : s.k);    /* a, b */
    case WORLD_COUNTS: return 2 * LINE;                     /* counts, theta */
    default: return 4 * s.n * s.k;                          /* dense, dw */
    }
}

static qs_status write_bytes(const bench_world *w, int which, int64_t offset, const void *bytes, int64_t n)
{
    return qs_write(w->queue, qs_view_at(w->buffer[which], (uint64_t)offset, QS_U8, 1, n), bytes);
}

static qs_status write_drawn(const bench_world *w, int which, qs_format format, uint32_t draw)
{
    const int64_t bytes = world_bytes(w, which);
    void *memory = drawn(format, draw, bytes);
    const qs_status status = memory == NULL ? QS_ERR_NOMEM : write_bytes(w, which, 0, memory, bytes);
    free(memory);
    return status;
}

static qs_status write_ones(const bench_world *w)
{
    const int64_t count = world_bytes(w, WORLD_ONES) / 4;
    float *ones = malloc((size_t)count * sizeof *ones);
    for (int64_t i = 0; ones != NULL && i < count; i++)
        ones[i] = 1.0f;
    const qs_status status = ones == NULL ? QS_ERR_NOMEM : write_bytes(w, WORLD_ONES, 0, ones, 4 * count);
    free(ones);
    return status;
}

/* All copies of the packed weights, a block of about a megabyte at a time: a write has its cost on some devices. */
static qs_status write_copies(const bench_world *w, const bench_host *host)
{
    const int64_t bytes = w->shape.n * w->shape.k / 8, fit = COPY_BLOCK / w->stride;
    const int64_t block = fit < 1 ? 1 : fit < w->copies ? fit : w->copies;
    unsigned char *memory = calloc((size_t)block, (size_t)w->stride);
    qs_status status = memory == NULL ? QS_ERR_NOMEM : QS_OK;
    for (int64_t i = 0; i < block && status == QS_OK; i++)
        memcpy(memory + i * w->stride, host->bits, (size_t)bytes);
    for (int64_t i = 0; i < w->copies && status == QS_OK; i += block) {
        const int64_t count = w->copies - i < block ? w->copies - i : block;
        status = write_bytes(w, WORLD_BITS, i * w->stride, memory, count * w->stride);
    }
    free(memory);
    return status;
}

static qs_status write_world(const bench_world *w, const bench_host *host)
{
    const bench_shape s = w->shape;
    /* a tenth of the sums of m products of numbers in [-1, 1), times 0.05, lies beyond this */
    const float theta = 1.64f * 0.05f * sqrtf((float)s.m) / 3.0f;
    qs_status status = write_bytes(w, WORLD_X, 0, host->x, world_bytes(w, WORLD_X));
    if (status == QS_OK)
        status = write_bytes(w, WORLD_DY, 0, host->dy, world_bytes(w, WORLD_DY));
    if (status == QS_OK)
        status = write_copies(w, host);
    if (status == QS_OK)
        status = write_bytes(w, WORLD_MOVING, 0, host->bits, s.n * s.k / 8);
    if (status == QS_OK)
        status = write_bytes(w, WORLD_SCALE, 0, host->scales, 2 * s.n);
    if (status == QS_OK)
        status = write_bytes(w, WORLD_COUNTS, LINE, &theta, sizeof theta);
    if (status == QS_OK)
        status = write_drawn(w, WORLD_STATE, QS_C4, DRAW_STATE);
    if (status == QS_OK)
        status = write_drawn(w, WORLD_DENSE, QS_F32, DRAW_DENSE);
    return status == QS_OK ? write_ones(w) : status;
}

static bench_world world_of(qs_context *context, bench_shape s, int64_t copies)
{
    const int64_t stride = (s.n * s.k / 8 + LINE - 1) / LINE * LINE;
    return (bench_world){.context = context, .shape = s, .copies = copies, .stride = stride};
}

double bench_world_bytes(bench_shape s, int64_t copies)
{
    const bench_world w = world_of(NULL, s, copies);
    double bytes = 0.0;
    for (int i = 0; i < WORLD_BUFFERS; i++)
        bytes += (double)world_bytes(&w, i);
    return bytes;
}

qs_status bench_world_create(qs_context *context, const bench_host *host, int64_t copies, bench_world *out)
{
    *out = world_of(context, host->shape, copies);
    qs_status status = qs_queue_create(context, &out->queue);
    for (int i = 0; i < WORLD_BUFFERS && status == QS_OK; i++)
        status = qs_buffer_create(context, QS_MEMORY_OTHER, (uint64_t)world_bytes(out, i), &out->buffer[i]);
    if (status == QS_OK)
        status = write_world(out, host);
    return status;
}

void bench_world_free(bench_world *world)
{
    for (int i = 0; i < WORLD_BUFFERS; i++)
        qs_buffer_free(&world->buffer[i]);
    qs_queue_free(&world->queue);
}

/* ---- ops ------------------------------------------------------------------------------------------------------- */

static qs_view whole(const bench_world *w, int which, qs_format format, int64_t rows, int64_t cols)
{
    return qs_view_at(w->buffer[which], 0, format, rows, cols);
}

static qs_op visit_op(const bench_world *w, bench_shape s)
{
    const int64_t second = (4 * s.n + LINE - 1) / LINE * LINE;
    return qs_op_fsm_visit(&(qs_fsm_visit){
        .w = whole(w, WORLD_MOVING, QS_W1, s.n, s.k),
        .state = whole(w, WORLD_STATE, QS_C4, s.n, s.k),
        .dy = whole(w, WORLD_DY, QS_F32, s.m, s.n),
        .x = whole(w, WORLD_X, QS_F32, s.m, s.k),
        .scale = whole(w, WORLD_SCALE, QS_F16, 1, s.n),
        .a = whole(w, WORLD_ONES, QS_F32, 1, s.n),
        .b = whole(w, WORLD_ONES, QS_F32, 1, s.k),
        .theta = qs_view_at(w->buffer[WORLD_COUNTS], LINE, QS_F32, 1, 1),
        .r_now = whole(w, WORLD_ROWS, QS_F32, 1, s.n),
        .c_now = whole(w, WORLD_COLS, QS_F32, 1, s.k),
        .dmaster = qs_view_at(w->buffer[WORLD_ROWS], (uint64_t)second, QS_F32, 1, s.n),
        .counts = whole(w, WORLD_COUNTS, QS_I32, 1, 4),
        .fsm = QS_FSM_C4,
        .sticky = qs_fsm_rule_of(QS_FSM_C4)->default_sticky,
        .seed = 1,
        .base = 0.05f,
    });
}

qs_op bench_world_op(const bench_world *w, bench_product product, qs_precision precision, bench_shape s, int64_t copy)
{
    const qs_view bits = qs_view_at(w->buffer[WORLD_BITS], (uint64_t)(copy * w->stride), QS_W1, s.n, s.k);
    const qs_view scale = whole(w, WORLD_SCALE, QS_F16, 1, s.n), x = whole(w, WORLD_X, QS_F32, s.m, s.k);
    const qs_view dy = whole(w, WORLD_DY, QS_F32, s.m, s.n), y = whole(w, WORLD_Y, QS_F32, s.m, s.n);
    switch (product) {
    case PRODUCT_LINEAR: return qs_op_with(qs_op_linear(y, x, bits, scale, qs_absent()), precision);
    case PRODUCT_LINEAR_DX:
        return qs_op_with(qs_op_linear_dx(whole(w, WORLD_DX, QS_F32, s.m, s.k), dy, bits, scale, qs_absent()), precision);
    case PRODUCT_VISIT: return qs_op_with(visit_op(w, s), precision);
    case PRODUCT_LINEAR_DW: return qs_op_with(qs_op_linear_dw(whole(w, WORLD_DW, QS_F32, s.n, s.k), dy, x), precision);
    default: return qs_op_linear(y, x, whole(w, WORLD_DENSE, QS_F32, s.n, s.k), qs_absent(), qs_absent());
    }
}

qs_status bench_world_run(const bench_world *world, const qs_op *op, double *seconds)
{
    const double start = now_seconds();
    qs_status status = qs_submit(world->queue, op, 1);
    if (status == QS_OK)
        status = qs_sync(world->queue);
    *seconds = now_seconds() - start;
    return status;
}

qs_status bench_world_read(const bench_world *world, bench_product product, bench_shape s, float *out)
{
    if (product == PRODUCT_LINEAR)
        return qs_read(world->queue, whole(world, WORLD_Y, QS_F32, s.m, s.n), out);
    return qs_read(world->queue, whole(world, WORLD_DW, QS_F32, s.n, s.k), out);
}
