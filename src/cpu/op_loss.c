/* op_loss.c - softmax and loss of logits that come in blocks of symbols: SOFTMAX_STATS, CROSS_ENTROPY, CROSS_ENTROPY_GRAD.
 *
 * A token's logits meet its running statistics block by block, as the scores of a query do in attention; the gradient of a block
 * needs nothing but its logits and the statistics of all blocks. */
#include <math.h>
#include "core/detmath.h"
#include "cpu/drivers.h"

enum { TOP, SUM, CHOSEN };   /* columns of stats */

/* Rows of logits that make a task; an exponential is worth some eight operations that only move data. */
static int64_t tokens_of(const qsi_slot *logits) { return qsi_grain(8 * logits->cols); }

static void softmax_stats_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const qsi_run *run = arg;
    const qsi_slot *logits = &run->v[1];
    const int32_t *targets = qsi_row(&run->v[2], 0);
    const int64_t tokens = tokens_of(logits);
    for (int64_t m = task * tokens; m < qsi_min(logits->rows, (task + 1) * tokens); m++) {
        const int64_t target = targets[m] - run->op->i[0];
        float *stats = qsi_f32(&run->v[0], m);
        if (!(run->op->flags & QS_FLAG_ADD)) {
            stats[TOP] = -INFINITY;
            stats[SUM] = 0.0f;
            stats[CHOSEN] = NAN;
        }
        run->kernels->softmax_stats(qsi_f32(logits, m), logits->cols, &stats[TOP], &stats[SUM]);
        if (target >= 0 && target < logits->cols)
            stats[CHOSEN] = qsi_f32(logits, m)[target];
    }
}

qs_status qsi_cpu_softmax_stats(qsi_run *run)
{
    qsi_each(run, qsi_ceil_div(run->v[1].rows, tokens_of(&run->v[1])), softmax_stats_task, run);
    return QS_OK;
}

/* One chunk: losses of its tokens, rounded, ascending. */
static void cross_entropy_task(void *arg, int64_t chunk, int thread)
{
    (void)thread;
    const qsi_run *run = arg;
    float sum = 0.0f;
    for (int64_t m = chunk * QS_TOKEN_CHUNK; m < qsi_min(run->v[0].rows, (chunk + 1) * QS_TOKEN_CHUNK); m++) {
        const float *stats = qsi_f32(&run->v[0], m);
        sum = sum + (float)(qsi_log((double)stats[SUM]) + (double)stats[TOP] - (double)stats[CHOSEN]);
    }
    *qsi_f32(&run->v[1], chunk) = sum;
}

qs_status qsi_cpu_cross_entropy(qsi_run *run)
{
    qsi_each(run, run->v[1].rows, cross_entropy_task, run);
    return QS_OK;
}

static void cross_entropy_grad_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const qsi_run *run = arg;
    const qsi_slot *logits = &run->v[0];
    const int32_t *targets = qsi_row(&run->v[2], 0);
    const int64_t tokens = tokens_of(logits);
    for (int64_t m = task * tokens; m < qsi_min(logits->rows, (task + 1) * tokens); m++) {
        const float *stats = qsi_f32(&run->v[1], m);
        run->kernels->cross_entropy_grad(qsi_f32(logits, m), logits->cols, targets[m] - run->op->i[0], stats[TOP], stats[SUM],
                                         run->op->f[0]);
    }
}

qs_status qsi_cpu_cross_entropy_grad(qsi_run *run)
{
    qsi_each(run, qsi_ceil_div(run->v[0].rows, tokens_of(&run->v[0])), cross_entropy_grad_task, run);
    return QS_OK;
}
