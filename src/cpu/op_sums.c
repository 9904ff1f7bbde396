/* op_sums.c - the chunk tree, and the ops that are little more than a sum: CHUNK_SUM, SUM_SQUARES. */
#include "cpu/drivers.h"

/* ---- the chunk tree --------------------------------------------------------------------------------------------- */

int64_t qsi_tree_slots(int64_t ids)
{
    int64_t slots = 1;
    for (int64_t last = ids - 1; last > 0; last /= 2)
        slots++;
    return slots;
}

qsi_tree qsi_tree_start(const qsi_kernels *kernels, float *slots, int64_t n)
{
    return (qsi_tree){.kernels = kernels, .slots = slots, .n = n};
}

/* The topmost slot is the right child of the one below it. */
static void merge(qsi_tree *tree)
{
    tree->depth--;
    tree->kernels->f32_add(tree->slots + (tree->depth - 1) * tree->n, tree->slots + tree->depth * tree->n, tree->n);
}

/* Two ids meet below the level of their highest differing bit; a ^ b orders pairs by that level. */
float *qsi_tree_next(qsi_tree *tree, int64_t id)
{
    while (tree->depth >= 2 && (tree->id[tree->depth - 2] ^ tree->id[tree->depth - 1]) < (tree->id[tree->depth - 1] ^ id))
        merge(tree);
    tree->id[tree->depth] = id;
    return tree->slots + tree->depth++ * tree->n;
}

const float *qsi_tree_finish(qsi_tree *tree)
{
    while (tree->depth >= 2)
        merge(tree);
    return tree->depth ? tree->slots : NULL;
}

/* ---- CHUNK_SUM -------------------------------------------------------------------------------------------------- */

enum { SUM_COLS = 256 };

static void chunk_sum_task(void *arg, int64_t task, int thread)
{
    const qsi_run *run = arg;
    const qsi_slot *out = &run->v[0], *partial = &run->v[1];
    const int64_t col = task * SUM_COLS, n = qsi_min(SUM_COLS, out->cols - col);
    qsi_tree tree = qsi_tree_start(run->kernels, qsi_own(run, thread), n);
    for (int64_t c = 0; c < partial->rows; c++)
        memcpy(qsi_tree_next(&tree, c), qsi_f32(partial, c) + col, (size_t)n * sizeof(float));
    const float *sum = qsi_tree_finish(&tree);
    for (int64_t j = 0; j < n; j++)
        qsi_f32(out, 0)[col + j] = run->op->f[0] * sum[j];
}

qs_status qsi_cpu_chunk_sum(qsi_run *run)
{
    qs_status status = QS_OK;
    QS_TRY(qsi_scratch_need(run, 0, qsi_floats(qsi_tree_slots(run->v[1].rows) * SUM_COLS)));
    qsi_each(run, qsi_ceil_div(run->v[0].cols, SUM_COLS), chunk_sum_task, run);
fail:
    return status;
}

/* ---- SUM_SQUARES ------------------------------------------------------------------------------------------------ */

static void sum_squares_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const qsi_run *run = arg;
    const qsi_slot *x = &run->v[1];
    const uint16_t *row_scale = run->v[2].p ? qsi_row(&run->v[2], 0) : NULL;
    float *blocks = qsi_shared(run), sum = 0.0f;
    for (int64_t row = task * QS_TOKEN_CHUNK; row < qsi_min(x->rows, (task + 1) * QS_TOKEN_CHUNK); row++) {
        const float scale = row_scale ? qs_half_to_float(row_scale[row]) : 1.0f;
        sum = sum + (scale * scale) * run->kernels->f32_dot(qsi_f32(x, row), qsi_f32(x, row), x->cols);
    }
    blocks[task] = sum;
}

/* Row sums ascending within blocks of 256 rows, blocks combined by the chunk tree. */
qs_status qsi_cpu_sum_squares(qsi_run *run)
{
    qs_status status = QS_OK;
    const int64_t blocks = qsi_ceil_div(run->v[1].rows, QS_TOKEN_CHUNK);
    QS_TRY(qsi_scratch_need(run, qsi_floats(blocks), qsi_floats(qsi_tree_slots(blocks))));
    qsi_each(run, blocks, sum_squares_task, run);
    qsi_tree tree = qsi_tree_start(run->kernels, qsi_own(run, 0), 1);
    const float *sums = qsi_shared(run);
    for (int64_t b = 0; b < blocks; b++)
        *qsi_tree_next(&tree, b) = sums[b];
    const float sum = *qsi_tree_finish(&tree);
    float *out = qsi_f32(&run->v[0], 0);
    *out = run->op->flags & QS_FLAG_ADD ? *out + sum : sum;
fail:
    return status;
}
