/* op_optimizer.c - float parameters and scales: CLIP_FACTOR, ADAMW, SCALES, SCALE_GRAD. */
#include <math.h>
#include "cpu/drivers.h"
#include "cpu/fold.h"

/* ---- CLIP_FACTOR ------------------------------------------------------------------------------------------------ */

qs_status qsi_cpu_clip_factor(qsi_run *run)
{
    const float sum = *qsi_f32(&run->v[1], 0), factor = run->op->f[0] / sqrtf(sum);
    *qsi_f32(&run->v[0], 0) = sum > 0.0f && factor < 1.0f ? factor : 1.0f;
    return QS_OK;
}

/* ---- ADAMW ------------------------------------------------------------------------------------------------------ */

/* Tasks are pieces of rows, or several short rows. */
typedef struct adamw_job {
    const qsi_run *run;
    qs_adamw settings;
    int64_t rows, cols, across;   /* of a task; pieces of a row */
} adamw_job;

enum { PIECE = 8192 };

static void adamw_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const adamw_job *job = arg;
    const qsi_slot *v = job->run->v;
    const uint16_t *row_scale = v[5].p ? qsi_row(&v[5], 0) : NULL;
    const int64_t first = task / job->across * job->rows, col = task % job->across * job->cols;
    const int64_t n = qsi_min(job->cols, v[0].cols - col);
    for (int64_t row = first; row < qsi_min(v[0].rows, first + job->rows); row++) {
        float scale = v[4].p ? *qsi_f32(&v[4], 0) : 1.0f;
        if (row_scale)
            scale = scale * qs_half_to_float(row_scale[row]);
        job->run->kernels->adamw(qsi_f32(&v[0], row) + col, qsi_f32(&v[1], row) + col, qsi_f32(&v[2], row) + col,
                                 qsi_f32(&v[3], row) + col, n, scale, &job->settings);
    }
}

qs_status qsi_cpu_adamw(qsi_run *run)
{
    const float *f = run->op->f;
    const int64_t rows = run->v[0].rows, cols = run->v[0].cols;
    adamw_job job = {.run = run, .rows = qsi_grain(cols), .cols = qsi_min(cols, PIECE), .across = qsi_ceil_div(cols, PIECE)};
    job.settings = (qs_adamw){.lr = f[0], .beta1 = f[1], .beta2 = f[2], .eps = f[3], .weight_decay = f[4]};
    job.settings.c1 = f[5];
    job.settings.c2 = f[6];
    qsi_each(run, qsi_ceil_div(rows, job.rows) * job.across, adamw_task, &job);
    return QS_OK;
}

/* ---- SCALES ----------------------------------------------------------------------------------------------------- */

qs_status qsi_cpu_scales(qsi_run *run)
{
    uint16_t *scale = qsi_row(&run->v[0], 0);
    const float *master = qsi_f32(&run->v[1], 0);
    for (int64_t n = 0; n < run->v[0].cols; n++)
        scale[n] = qs_float_to_half(run->op->f[0] * master[n]);
    return QS_OK;
}

/* ---- SCALE_GRAD ------------------------------------------------------------------------------------------------- */

enum { SCALE_COLS = 256 };

/* The stripes of +-dw are those of FSM_VISIT, made by the same kernel; its sums of squares are thrown away. */
static void scale_grad_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const qsi_run *run = arg;
    const qsi_slot *w = &run->v[1], *dw = &run->v[2];
    const int64_t rows = qsi_grain(dw->cols);
    for (int64_t n = task * rows; n < qsi_min(dw->rows, (task + 1) * rows); n++) {
        float dot[16] = {0}, squares[16] = {0}, columns[SCALE_COLS] = {0};
        for (int64_t k = 0; k < dw->cols; k += SCALE_COLS)
            run->kernels->fsm_pulses(qsi_f32(dw, n) + k, qsi_min(SCALE_COLS, dw->cols - k), 0.0f, 0.0f, NULL,
                                     (const uint32_t *)qsi_row(w, n) + k / 32, squares, columns, dot, NULL, NULL);
        qsi_f32(&run->v[0], 0)[n] = run->op->f[0] * qsi_fold16(dot);
    }
}

qs_status qsi_cpu_scale_grad(qsi_run *run)
{
    qsi_each(run, qsi_ceil_div(run->v[2].rows, qsi_grain(run->v[2].cols)), scale_grad_task, run);
    return QS_OK;
}
