/* op_gradient.c - sums over tokens of dy x^T, tile by tile: the source of LINEAR_DW and of FSM_VISIT.
 *
 * A tile is summed per 256-token chunk from +0, and the chunks are combined by the chunk tree, so that a tile has the same bytes
 * whoever asks for it. fp32: f32_gemm; the dy of a chunk is gathered first, as token rows are a power of two apart more often
 * than not, and would fall into one set of the cache; x is packed by the kernel. int8 and bf16: both operands are converted
 * once for all tiles, features of a chunk side by side. */
#include "cpu/drivers.h"

enum { TOKENS = QS_TOKEN_CHUNK, FEATURES = 256 };

static int64_t chunks_of(int64_t tokens) { return qsi_ceil_div(tokens, TOKENS); }

int64_t qsi_grad_scratch(qs_precision precision, int64_t tokens)
{
    const int64_t slots = qsi_floats(qsi_tree_slots(chunks_of(tokens)) * QSI_GRAD_ROWS * QSI_GRAD_COLS);
    return slots + (precision == QS_PRECISION_F32 ? qsi_floats(QSI_GRAD_ROWS * TOKENS) : QSI_GRADIENT_SCRATCH);
}

int64_t qsi_grad_group(qs_precision precision, int64_t rows, int threads)
{
    const int64_t group = precision == QS_PRECISION_F32 ? QSI_GRAD_ROWS : QSI_GRAD_ROWS / 2;
    return threads > 1 && qsi_ceil_div(rows, group) < 2 * (int64_t)threads ? QS_ROW_BLOCK : group;
}

/* ---- operands --------------------------------------------------------------------------------------------------- */

/* Bytes of one chunk of one operand. */
static int64_t chunk_bytes(qs_precision precision, int64_t features)
{
    return features * TOKENS * (precision == QS_PRECISION_INT8 ? (int64_t)sizeof(int8_t) : (int64_t)sizeof(uint16_t));
}

static int64_t operand_bytes(qs_precision precision, const qsi_slot *x)
{
    if (precision == QS_PRECISION_F32)
        return 0;
    return qsi_round_up(chunks_of(x->rows) * chunk_bytes(precision, x->cols), 64) + qsi_floats(chunks_of(x->rows) * x->cols);
}

int64_t qsi_grad_shared(qs_precision precision, const qsi_slot *dy, const qsi_slot *x)
{
    return operand_bytes(precision, dy) + operand_bytes(precision, x);
}

typedef struct pack_job {
    const qsi_run *run;
    const qsi_grad *grad;
    int64_t across[2];   /* tasks per chunk: of dy, of x */
} pack_job;

/* FEATURES features of one chunk of dy or x. */
static void pack_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const pack_job *job = arg;
    const int64_t chunk = task / (job->across[0] + job->across[1]), at = task % (job->across[0] + job->across[1]);
    const qsi_operand *o = at < job->across[0] ? &job->grad->dy : &job->grad->x;
    const int64_t col = (at < job->across[0] ? at : at - job->across[0]) * FEATURES, cols = o->from->cols;
    const int64_t n = qsi_min(FEATURES, cols - col), token = chunk * TOKENS, m = qsi_min(TOKENS, o->from->rows - token);
    const float *from = qsi_f32(o->from, token) + col;
    char *to = o->packed + chunk * chunk_bytes(job->grad->precision, cols);
    if (job->grad->precision == QS_PRECISION_INT8)
        job->run->kernels->i8_features((int8_t *)to + 4 * col, cols, o->scale + chunk * cols + col, from, qsi_ld(o->from), m, n);
    else
        job->run->kernels->bf16_features((uint16_t *)(void *)to + 2 * col, cols, from, qsi_ld(o->from), m, n);
}

static qsi_operand operand_of(qs_precision precision, const qsi_slot *from, char **memory)
{
    qsi_operand o = {.from = from};
    if (precision != QS_PRECISION_F32) {
        o.packed = qsi_carve(memory, chunks_of(from->rows) * chunk_bytes(precision, from->cols));
        o.scale = qsi_carve(memory, qsi_floats(chunks_of(from->rows) * from->cols));
    }
    return o;
}

qsi_grad qsi_grad_start(const qsi_run *run, qs_precision precision, const qsi_slot *dy, const qsi_slot *x, char *memory)
{
    qsi_grad grad = {.kernels = run->kernels, .precision = precision};
    grad.dy = operand_of(precision, dy, &memory);
    grad.x = operand_of(precision, x, &memory);
    if (precision != QS_PRECISION_F32) {
        pack_job job = {run, &grad, {qsi_ceil_div(dy->cols, FEATURES), qsi_ceil_div(x->cols, FEATURES)}};
        qsi_each(run, chunks_of(dy->rows) * (job.across[0] + job.across[1]), pack_task, &job);
    }
    return grad;
}

/* ---- tiles ------------------------------------------------------------------------------------------------------ */

typedef struct tile {
    int64_t row, rows, col, cols;
} tile;

/* to[m][rows] = dy[token + m][row ..] for m < tokens. */
static void gather(float *to, const qsi_slot *dy, int64_t token, int64_t tokens, int64_t row, int64_t rows)
{
    for (int64_t m = 0; m < tokens; m++)
        memcpy(to + m * rows, qsi_f32(dy, token + m) + row, (size_t)rows * sizeof *to);
}

/* The sums [rows, cols] over one chunk. */
static void chunk_tile(const qsi_grad *g, const tile *t, int64_t chunk, float *sums, void *scratch)
{
    const qsi_operand *dy = &g->dy, *x = &g->x;
    const int64_t token = chunk * TOKENS, count = qsi_min(TOKENS, dy->from->rows - token);
    const int64_t lda = dy->from->cols, ldb = x->from->cols;
    const char *a = dy->packed + chunk * chunk_bytes(g->precision, lda), *b = x->packed + chunk * chunk_bytes(g->precision, ldb);
    switch (g->precision) {
    case QS_PRECISION_INT8:
        g->kernels->i8_gradient(sums, t->cols, (const int8_t *)a + 4 * t->row, dy->scale + chunk * lda + t->row, lda,
                                (const int8_t *)b + 4 * t->col, x->scale + chunk * ldb + t->col, ldb, t->rows, t->cols,
                                qsi_ceil_div(count, 4), scratch);
        break;
    case QS_PRECISION_BF16:
        g->kernels->bf16_gradient(sums, t->cols, (const uint16_t *)(const void *)a + 2 * t->row, lda,
                                  (const uint16_t *)(const void *)b + 2 * t->col, ldb, t->rows, t->cols, qsi_ceil_div(count, 2),
                                  scratch);
        break;
    default:
        gather(scratch, dy->from, token, count, t->row, t->rows);
        g->kernels->f32_gemm(sums, t->cols, scratch, 1, t->rows, qsi_f32(x->from, token) + t->col, qsi_ld(x->from), t->rows,
                             t->cols, count, 0);
    }
}

const float *qsi_grad_tile(const qsi_grad *g, int64_t row, int64_t rows, int64_t col, int64_t cols, char *scratch)
{
    const tile t = {row, rows, col, cols};
    void *work = qsi_carve(&scratch, g->precision == QS_PRECISION_F32 ? qsi_floats(QSI_GRAD_ROWS * TOKENS) : QSI_GRADIENT_SCRATCH);
    qsi_tree tree = qsi_tree_start(g->kernels, (float *)(void *)scratch, rows * cols);
    for (int64_t chunk = 0; chunk < chunks_of(g->dy.from->rows); chunk++)
        chunk_tile(g, &t, chunk, qsi_tree_next(&tree, chunk), work);
    return qsi_tree_finish(&tree);
}

/* ---- LINEAR_DW -------------------------------------------------------------------------------------------------- */

typedef struct dw_job {
    const qsi_run *run;
    qsi_grad grad;
    int64_t group, across;   /* rows per task, tiles per row group */
} dw_job;

static void dw_task(void *arg, int64_t task, int thread)
{
    const dw_job *job = arg;
    const qsi_slot *dw = &job->run->v[0];
    const int64_t row = task / job->across * job->group, col = task % job->across * QSI_GRAD_COLS;
    const int64_t rows = qsi_min(job->group, dw->rows - row), cols = qsi_min(QSI_GRAD_COLS, dw->cols - col);
    const float *sums = qsi_grad_tile(&job->grad, row, rows, col, cols, qsi_own(job->run, thread));
    for (int64_t i = 0; i < rows; i++)
        memcpy(qsi_f32(dw, row + i) + col, sums + i * cols, (size_t)cols * sizeof *sums);
}

qs_status qsi_cpu_linear_dw(qsi_run *run)
{
    qs_status status = QS_OK;
    const qs_precision precision = (qs_precision)run->op->i[7];
    const qsi_slot *dw = &run->v[0], *dy = &run->v[1], *x = &run->v[2];
    qsi_weigh(run, dw->rows * dw->cols * dy->rows);
    dw_job job = {.run = run, .across = qsi_ceil_div(dw->cols, QSI_GRAD_COLS)};
    job.group = qsi_grad_group(precision, dw->rows, run->threads);
    QS_TRY(qsi_scratch_need(run, qsi_grad_shared(precision, dy, x), qsi_grad_scratch(precision, dy->rows)));
    job.grad = qsi_grad_start(run, precision, dy, x, qsi_shared(run));
    qsi_each(run, qsi_ceil_div(dw->rows, job.group) * job.across, dw_task, &job);
fail:
    return status;
}
