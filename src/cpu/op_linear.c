/* op_linear.c - the products with weights: LINEAR and LINEAR_DX, packed and float.
 *
 * Every output is one chain of its own, so tasks are rectangles of outputs of any size. Packed weights: many tokens and all
 * outputs per task, because a task tabulates its tokens once; few tokens (decoding) are split over outputs instead.
 * Float weights: a task copies a transposed strip of w once and uses it for all its tokens. */
#include "cpu/drivers.h"
#include "cpu/transpose.h"

/* Rectangles of tokens x columns. */
typedef struct grid {
    int64_t rows, cols, tile_rows, tile_cols, across;
} grid;

enum { TOKENS = 96, I8_TOKENS = 256, TOKENS_UNIT = 32, COLS_UNIT = 128 };   /* the kernels work on 32 tokens at a time */

/* Whole rows of up to `tokens` tokens where that gives every thread two tasks, else fewer tokens, else also fewer columns. */
static grid w1_grid(int64_t rows, int64_t cols, int64_t tokens, int threads)
{
    grid g = {rows, cols, tokens, cols, 1};
    const int64_t wanted = 2 * (int64_t)threads;
    if (threads > 1) {
        g.tile_rows = qsi_min(tokens, qsi_round_up(qsi_ceil_div(rows, wanted), TOKENS_UNIT));
        const int64_t strips = qsi_ceil_div(wanted, qsi_ceil_div(rows, g.tile_rows));
        if (strips > 1)
            g.tile_cols = qsi_min(cols, qsi_max(COLS_UNIT, qsi_round_up(qsi_ceil_div(cols, strips), 32)));
    }
    g.across = qsi_ceil_div(cols, g.tile_cols);
    return g;
}

static int64_t grid_tasks(const grid *g)
{
    return g->across * qsi_ceil_div(g->rows, g->tile_rows);
}

typedef struct tile {
    int64_t row, col, rows, cols;
} tile;

static tile grid_tile(const grid *g, int64_t task)
{
    tile t = {task / g->across * g->tile_rows, task % g->across * g->tile_cols, 0, 0};
    t.rows = qsi_min(g->tile_rows, g->rows - t.row);
    t.cols = qsi_min(g->tile_cols, g->cols - t.col);
    return t;
}

typedef struct linear_job {
    const qsi_run *run;
    grid grid;
    int64_t depth;
    int64_t group;   /* rows quantized by a task */
    float *s;        /* int8: [rows], [rows, depth] */
    int8_t *q;
} linear_job;

/* The addend of a tile, NULL where absent. */
static const float *addend_at(const qsi_slot *addend, const tile *t)
{
    return addend->p ? qsi_f32(addend, t->row) + t->col : NULL;
}

/* ---- packed weights, fp32 and bf16 ------------------------------------------------------------------------------- */

static int is_bf16(const qsi_run *run) { return run->op->i[7] == QS_PRECISION_BF16; }

static void w1_forward_task(void *arg, int64_t task, int thread)
{
    const linear_job *job = arg;
    const qsi_slot *v = job->run->v;
    const tile t = grid_tile(&job->grid, task);
    job->run->kernels->w1_forward(qsi_f32(&v[0], t.row) + t.col, qsi_ld(&v[0]), qsi_f32(&v[1], t.row), qsi_ld(&v[1]),
                                  qsi_row(&v[2], t.col), qsi_ld(&v[2]), (const uint16_t *)qsi_row(&v[3], 0) + t.col,
                                  addend_at(&v[4], &t), qsi_ld(&v[4]), t.rows, t.cols, job->depth, is_bf16(job->run),
                                  qsi_own(job->run, thread));
}

static void w1_backward_task(void *arg, int64_t task, int thread)
{
    const linear_job *job = arg;
    const qsi_slot *v = job->run->v;
    const tile t = grid_tile(&job->grid, task);
    job->run->kernels->w1_backward(qsi_f32(&v[0], t.row) + t.col, qsi_ld(&v[0]), qsi_f32(&v[1], t.row), qsi_ld(&v[1]),
                                   (const uint32_t *)qsi_row(&v[2], 0) + t.col / 32, qsi_ld(&v[2]), qsi_row(&v[3], 0),
                                   addend_at(&v[4], &t), qsi_ld(&v[4]), t.rows, job->depth, t.cols, is_bf16(job->run),
                                   qsi_own(job->run, thread));
}

/* ---- packed weights, int8: rows of the operand are quantized first, once for all tiles -------------------------- */

static void i8_row_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const linear_job *job = arg;
    const qsi_slot *x = &job->run->v[1];
    const uint16_t *scale = job->run->op->code == QS_OP_LINEAR_DX ? qsi_row(&job->run->v[3], 0) : NULL;
    for (int64_t row = task * job->group; row < qsi_min(x->rows, (task + 1) * job->group); row++)
        job->s[row] = job->run->kernels->i8_row(job->q + row * job->depth, qsi_f32(x, row), scale, job->depth);
}

static void i8_forward_task(void *arg, int64_t task, int thread)
{
    const linear_job *job = arg;
    const qsi_slot *v = job->run->v;
    const tile t = grid_tile(&job->grid, task);
    job->run->kernels->w1_i8_forward(qsi_f32(&v[0], t.row) + t.col, qsi_ld(&v[0]), job->q + t.row * job->depth, job->depth,
                                     job->s + t.row, qsi_row(&v[2], t.col), qsi_ld(&v[2]),
                                     (const uint16_t *)qsi_row(&v[3], 0) + t.col, addend_at(&v[4], &t), qsi_ld(&v[4]), t.rows,
                                     t.cols, job->depth, qsi_own(job->run, thread));
}

static void i8_backward_task(void *arg, int64_t task, int thread)
{
    const linear_job *job = arg;
    const qsi_slot *v = job->run->v;
    const tile t = grid_tile(&job->grid, task);
    job->run->kernels->w1_i8_backward(qsi_f32(&v[0], t.row) + t.col, qsi_ld(&v[0]), job->q + t.row * job->depth, job->depth,
                                      job->s + t.row, (const uint32_t *)qsi_row(&v[2], 0) + t.col / 32, qsi_ld(&v[2]),
                                      addend_at(&v[4], &t), qsi_ld(&v[4]), t.rows, job->depth, t.cols,
                                      qsi_own(job->run, thread));
}

static qs_status run_w1(qsi_run *run, qsi_task_fn *fn, qsi_task_fn *i8_fn)
{
    qs_status status = QS_OK;
    const bool i8 = run->op->i[7] == QS_PRECISION_INT8;
    const int64_t rows = run->v[0].rows, cols = run->v[0].cols, depth = run->v[1].cols;
    qsi_weigh(run, rows * cols * depth / (i8 ? 8 : 4));   /* tables: 4 in one addition, of twice as many lanes */
    linear_job job = {.run = run, .grid = w1_grid(rows, cols, i8 ? I8_TOKENS : TOKENS, run->threads), .depth = depth,
                      .group = qsi_grain(depth)};
    QS_TRY(qsi_scratch_need(run, i8 ? qsi_floats(rows) + rows * depth : 0, QSI_W1_SCRATCH));
    if (i8) {
        job.s = qsi_shared(run);
        job.q = (int8_t *)qsi_shared(run) + qsi_floats(rows);
        qsi_each(run, qsi_ceil_div(rows, job.group), i8_row_task, &job);
    }
    qsi_each(run, grid_tasks(&job.grid), i8 ? i8_fn : fn, &job);
fail:
    return status;
}

/* ---- float weights ---------------------------------------------------------------------------------------------- */

/* A task: STRIP columns of the product for up to STRIP_TOKENS tokens; depth in pieces that keep the strip in cache, the
 * chain of each output continuing in its accumulator from piece to piece. Up to FEW_TOKENS tokens wait for the weights, so
 * they are read first, as they lie. */
enum { STRIP = 64, STRIP_TOKENS = 1024, STRIP_DEPTH = 512, GEMM_TOKENS = 128, FEW_TOKENS = 8 };

/* y = sums + addend, one rounding, or the sums themselves. */
static void store_tile(const qsi_run *run, const tile *t, const float *sums)
{
    for (int64_t i = 0; i < t->rows; i++) {
        float *y = qsi_f32(&run->v[0], t->row + i) + t->col;
        const float *from = sums + i * STRIP;
        if (run->v[4].p) {
            const float *addend = qsi_f32(&run->v[4], t->row + i) + t->col;
            for (int64_t j = 0; j < t->cols; j++)
                y[j] = from[j] + addend[j];
        } else {
            memcpy(y, from, (size_t)t->cols * sizeof *y);
        }
    }
}

/* One piece of depth from p for all tokens of the tile; b: [depth, ldb]. */
static void strip_piece(const linear_job *job, const tile *t, float *sums, const float *b, int64_t ldb, int64_t p,
                        int64_t depth)
{
    const qsi_slot *x = &job->run->v[1];
    for (int64_t i = 0; i < t->rows; i += GEMM_TOKENS)
        job->run->kernels->f32_gemm(sums + i * STRIP, STRIP, qsi_f32(x, t->row + i) + p, qsi_ld(x), 1, b, ldb,
                                    qsi_min(GEMM_TOKENS, t->rows - i), t->cols, depth, p > 0);
}

static void f32_forward_task(void *arg, int64_t task, int thread)
{
    const linear_job *job = arg;
    const tile t = grid_tile(&job->grid, task);
    float *sums = qsi_own(job->run, thread), *strip = sums + job->grid.tile_rows * STRIP;
    const qsi_slot *w = &job->run->v[2];
    for (int64_t p = 0; p < job->depth; p += STRIP_DEPTH) {
        const int64_t depth = qsi_min(STRIP_DEPTH, job->depth - p);
        if (t.rows <= FEW_TOKENS)
            qsi_read_ahead(qsi_f32(w, t.col) + p, w->stride, t.cols, depth * (int64_t)sizeof(float));
        qsi_transpose(strip, STRIP, qsi_f32(w, t.col) + p, qsi_ld(w), t.cols, depth);
        strip_piece(job, &t, sums, strip, STRIP, p, depth);
    }
    store_tile(job->run, &t, sums);
}

static void f32_backward_task(void *arg, int64_t task, int thread)
{
    const linear_job *job = arg;
    const tile t = grid_tile(&job->grid, task);
    const qsi_slot *w = &job->run->v[2];
    float *sums = qsi_own(job->run, thread);
    for (int64_t p = 0; p < job->depth; p += STRIP_DEPTH)
        strip_piece(job, &t, sums, qsi_f32(w, p) + t.col, qsi_ld(w), p, qsi_min(STRIP_DEPTH, job->depth - p));
    store_tile(job->run, &t, sums);
}

/* Strips alone where they give every thread two tasks: then each strip of w is copied once. */
static qs_status run_f32(qsi_run *run, qsi_task_fn *fn)
{
    qs_status status = QS_OK;
    qsi_weigh(run, run->v[0].rows * run->v[0].cols * run->v[1].cols);
    const int64_t rows = run->v[0].rows, cols = run->v[0].cols, strips = qsi_ceil_div(cols, STRIP);
    const int64_t blocks = qsi_max(1, qsi_ceil_div(2 * (int64_t)run->threads, strips));
    const int64_t tokens = run->threads > 1 ? qsi_max(GEMM_TOKENS, qsi_ceil_div(rows, blocks)) : rows;
    linear_job job = {.run = run, .grid = {rows, cols, qsi_min(qsi_min(tokens, rows), STRIP_TOKENS), STRIP, strips},
                      .depth = run->v[1].cols};
    QS_TRY(qsi_scratch_need(run, 0, qsi_floats((job.grid.tile_rows + STRIP_DEPTH) * STRIP)));
    qsi_each(run, grid_tasks(&job.grid), fn, &job);
fail:
    return status;
}

qs_status qsi_cpu_linear(qsi_run *run)
{
    return run->v[3].p ? run_w1(run, w1_forward_task, i8_forward_task) : run_f32(run, f32_forward_task);
}

qs_status qsi_cpu_linear_dx(qsi_run *run)
{
    return run->v[3].p ? run_w1(run, w1_backward_task, i8_backward_task) : run_f32(run, f32_backward_task);
}
