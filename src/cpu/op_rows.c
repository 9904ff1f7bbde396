/* op_rows.c - ops that treat every row (token) by itself: RMSNORM, ROPE, SWIGLU and their gradients. */
#include "cpu/drivers.h"

/* ---- RMSNORM ---------------------------------------------------------------------------------------------------- */

static void rmsnorm_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const qsi_run *run = arg;
    const qsi_slot *y = &run->v[0], *x = &run->v[1], *gain = &run->v[2];
    const int64_t d = gain->cols, rows = qsi_grain(y->cols);
    for (int64_t m = task * rows; m < qsi_min(y->rows, (task + 1) * rows); m++)
        for (int64_t j = 0; j < y->cols; j += d)
            run->kernels->rmsnorm(qsi_f32(y, m) + j, qsi_f32(x, m) + j, qsi_f32(gain, 0), d, run->op->f[0]);
}

qs_status qsi_cpu_rmsnorm(qsi_run *run)
{
    qsi_each(run, qsi_ceil_div(run->v[0].rows, qsi_grain(run->v[0].cols)), rmsnorm_task, run);
    return QS_OK;
}

/* One token chunk: the gain's sum runs over tokens ascending and, within a token, over groups ascending. */
static void rmsnorm_grad_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const qsi_run *run = arg;
    const qsi_slot *dx = &run->v[0], *dy = &run->v[1], *x = &run->v[2], *gain = &run->v[3], *addend = &run->v[4];
    const int64_t d = gain->cols;
    float *dgain = qsi_f32(&run->v[5], task);
    memset(dgain, 0, (size_t)d * sizeof *dgain);
    for (int64_t m = task * QS_TOKEN_CHUNK; m < qsi_min(dx->rows, (task + 1) * QS_TOKEN_CHUNK); m++)
        for (int64_t j = 0; j < dx->cols; j += d)
            run->kernels->rmsnorm_grad(qsi_f32(dx, m) + j, qsi_f32(dy, m) + j, qsi_f32(x, m) + j, qsi_f32(gain, 0),
                                       addend->p ? qsi_f32(addend, m) + j : NULL, dgain, d, run->op->f[0]);
}

qs_status qsi_cpu_rmsnorm_grad(qsi_run *run)
{
    qsi_each(run, run->v[5].rows, rmsnorm_grad_task, run);
    return QS_OK;
}

/* ---- ROPE ------------------------------------------------------------------------------------------------------- */

static void rope_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const qsi_run *run = arg;
    const qsi_slot *x = &run->v[0], *cosine = &run->v[1], *sine = &run->v[2];
    const int64_t head_dim = run->op->i[0], seq = run->op->i[1], first = run->op->i[2], rows = qsi_grain(x->cols);
    const float sign = run->op->flags & QS_FLAG_INVERSE ? -1.0f : 1.0f;
    for (int64_t m = task * rows; m < qsi_min(x->rows, (task + 1) * rows); m++)
        for (int64_t j = 0; j < x->cols; j += head_dim)
            run->kernels->rope(qsi_f32(x, m) + j, qsi_f32(cosine, first + m % seq), qsi_f32(sine, first + m % seq), sign,
                               head_dim / 2);
}

qs_status qsi_cpu_rope(qsi_run *run)
{
    qsi_each(run, qsi_ceil_div(run->v[0].rows, qsi_grain(run->v[0].cols)), rope_task, run);
    return QS_OK;
}

/* ---- SWIGLU ----------------------------------------------------------------------------------------------------- */

static void swiglu_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const qsi_run *run = arg;
    const qsi_slot *y = &run->v[0];
    const int64_t rows = qsi_grain(4 * y->cols);
    for (int64_t m = task * rows; m < qsi_min(y->rows, (task + 1) * rows); m++)
        run->kernels->swiglu(qsi_f32(y, m), qsi_f32(&run->v[1], m), qsi_f32(&run->v[2], m), y->cols);
}

qs_status qsi_cpu_swiglu(qsi_run *run)
{
    qsi_each(run, qsi_ceil_div(run->v[0].rows, qsi_grain(4 * run->v[0].cols)), swiglu_task, run);
    return QS_OK;
}

static void swiglu_grad_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const qsi_run *run = arg;
    const qsi_slot *dgate = &run->v[0];
    const int64_t rows = qsi_grain(4 * dgate->cols);
    for (int64_t m = task * rows; m < qsi_min(dgate->rows, (task + 1) * rows); m++)
        run->kernels->swiglu_grad(qsi_f32(dgate, m), qsi_f32(&run->v[1], m), qsi_f32(&run->v[2], m), qsi_f32(&run->v[3], m),
                                  qsi_f32(&run->v[4], m), dgate->cols);
}

qs_status qsi_cpu_swiglu_grad(qsi_run *run)
{
    qsi_each(run, qsi_ceil_div(run->v[0].rows, qsi_grain(4 * run->v[0].cols)), swiglu_grad_task, run);
    return QS_OK;
}
