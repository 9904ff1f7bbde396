/* op_gradient.c - sums over tokens of dy x^T, tile by tile: the source of LINEAR_DW and of FSM_VISIT.
 *
 * A tile is summed per 256-token chunk by f32_gemm from +0, and the chunks are combined by the chunk tree, so that a tile
 * has the same bytes whoever asks for it. The dy of a chunk is gathered first: token rows are a power of two apart
 * more often than not, and would fall into one set of the cache. x is packed by the kernel. */
#include "cpu/drivers.h"

enum { TOKENS = QS_TOKEN_CHUNK };

int64_t qsi_grad_scratch(int64_t tokens)
{
    const int64_t slots = qsi_tree_slots(qsi_ceil_div(tokens, TOKENS));
    return qsi_floats(QSI_GRAD_ROWS * TOKENS) + qsi_floats(slots * QSI_GRAD_ROWS * QSI_GRAD_COLS);
}

int64_t qsi_grad_group(int64_t rows, int threads)
{
    return threads > 1 && qsi_ceil_div(rows, QSI_GRAD_ROWS) < 2 * (int64_t)threads ? QS_ROW_BLOCK : QSI_GRAD_ROWS;
}

/* to[m][rows] = dy[token + m][row ..] for m < tokens. */
static void gather(float *to, const qsi_slot *dy, int64_t token, int64_t tokens, int64_t row, int64_t rows)
{
    for (int64_t m = 0; m < tokens; m++)
        memcpy(to + m * rows, qsi_f32(dy, token + m) + row, (size_t)rows * sizeof *to);
}

const float *qsi_grad_tile(const qsi_kernels *kernels, const qsi_slot *dy, const qsi_slot *x, int64_t row, int64_t rows,
                           int64_t col, int64_t cols, char *scratch)
{
    float *columns = qsi_carve(&scratch, qsi_floats(QSI_GRAD_ROWS * TOKENS));
    qsi_tree tree = qsi_tree_start(kernels, (float *)(void *)scratch, rows * cols);
    for (int64_t token = 0; token < dy->rows; token += TOKENS) {
        const int64_t count = qsi_min(TOKENS, dy->rows - token);
        float *sums = qsi_tree_next(&tree, token / TOKENS);
        gather(columns, dy, token, count, row, rows);
        kernels->f32_gemm(sums, cols, columns, 1, rows, qsi_f32(x, token) + col, qsi_ld(x), rows, cols, count, 0);
    }
    return qsi_tree_finish(&tree);
}

/* ---- LINEAR_DW -------------------------------------------------------------------------------------------------- */

typedef struct dw_job {
    const qsi_run *run;
    int64_t group, across;   /* rows per task, tiles per row group */
} dw_job;

static void dw_task(void *arg, int64_t task, int thread)
{
    const dw_job *job = arg;
    const qsi_slot *dw = &job->run->v[0];
    const int64_t row = task / job->across * job->group, col = task % job->across * QSI_GRAD_COLS;
    const int64_t rows = qsi_min(job->group, dw->rows - row), cols = qsi_min(QSI_GRAD_COLS, dw->cols - col);
    const float *tile = qsi_grad_tile(job->run->kernels, &job->run->v[1], &job->run->v[2], row, rows, col, cols,
                                      qsi_own(job->run, thread));
    for (int64_t i = 0; i < rows; i++)
        memcpy(qsi_f32(dw, row + i) + col, tile + i * cols, (size_t)cols * sizeof *tile);
}

qs_status qsi_cpu_linear_dw(qsi_run *run)
{
    qs_status status = QS_OK;
    const qsi_slot *dw = &run->v[0];
    qsi_weigh(run, dw->rows * dw->cols * run->v[1].rows);
    dw_job job = {run, qsi_grad_group(dw->rows, run->threads), qsi_ceil_div(dw->cols, QSI_GRAD_COLS)};
    QS_TRY(qsi_scratch_need(run, 0, qsi_grad_scratch(run->v[1].rows)));
    qsi_each(run, qsi_ceil_div(dw->rows, job.group) * job.across, dw_task, &job);
fail:
    return status;
}
