/* op_control.c - what surrounds the visit: thresholds before it, moving statistics and the controller after it, and the
 * exact quantile of the exact mode. */
#include <math.h>
#include "core/detmath.h"
#include "cpu/drivers.h"
#include "cpu/fold.h"

/* ---- FSM_THRESHOLD ---------------------------------------------------------------------------------------------- */

qs_status qsi_cpu_fsm_threshold(qsi_run *run)
{
    float *a = qsi_f32(&run->v[0], 0), *b = qsi_f32(&run->v[1], 0), stripe[16] = {0};
    const float *r = qsi_f32(&run->v[3], 0), *c = qsi_f32(&run->v[4], 0);
    const int64_t rows = run->v[0].cols, cols = run->v[1].cols;
    for (int64_t n = 0; n < rows; n++) {
        stripe[n % 16] = stripe[n % 16] + r[n];
        a[n] = sqrtf(r[n]);
    }
    const float mean = qsi_fold16(stripe) / (float)rows;
    for (int64_t k = 0; k < cols; k++)
        b[k] = mean > 0.0f ? sqrtf(c[k] / mean) : 0.0f;
    *qsi_f32(&run->v[2], 0) = *qsi_f32(&run->v[5], 0) * run->op->f[0];
    return QS_OK;
}

/* ---- FSM_STATISTICS --------------------------------------------------------------------------------------------- */

/* x := fma(beta, x, (1 - beta) * now), the product and 1 - beta rounded; x := now at the first measurement. */
static void average(float *x, const float *now, int64_t n, float beta, bool first)
{
    const float rest = 1.0f - beta;
    for (int64_t i = 0; i < n; i++)
        x[i] = first ? now[i] : fmaf(beta, x[i], rest * now[i]);
}

static double clamp(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

/* mu := clamp(mu exp(clamp(ln(q / density), +-1.5) / 2 / slope), 0.1, 5), q = share pulsed, at least 1e-6; in double,
 * rounded once: half of a Newton step on the logarithm. */
static float steer(float mu, int32_t pulses, int64_t weights, float density, float slope)
{
    const double share = (double)pulses / (double)weights, q = share > 1e-6 ? share : 1e-6;
    const double miss = clamp(qsi_log(q / (double)density), -1.5, 1.5);
    return (float)clamp((double)mu * qsi_exp(0.5 * miss / (double)slope), 0.1, 5.0);
}

qs_status qsi_cpu_fsm_statistics(qsi_run *run)
{
    const bool first = (run->op->flags & QS_FLAG_FIRST) != 0;
    const float *f = run->op->f;
    float *control = qsi_f32(&run->v[2], 0);
    average(qsi_f32(&run->v[0], 0), qsi_f32(&run->v[3], 0), run->v[0].cols, f[0], first);
    average(qsi_f32(&run->v[1], 0), qsi_f32(&run->v[4], 0), run->v[1].cols, f[0], first);
    const int32_t *counts = qsi_row(&run->v[5], 0);
    control[0] = first ? 1.0f : steer(control[0], counts[0], run->op->i[0], f[1], f[2]);
    return QS_OK;
}

/* ---- FSM_QUANTILE ----------------------------------------------------------------------------------------------- */

/* Non-negative floats are ordered as their bits: the wanted one is found by its upper half, then by its lower half, each
 * from a histogram of one pass over the matrix. */
enum { BINS = 1 << 16 };

typedef struct quantile_job {
    const qsi_run *run;
    int64_t rows;          /* per task */
    int32_t upper;         /* -1 in the first pass, then the upper half that is looked into */
} quantile_job;

/* |alpha G| / (a b); 0 where a b is not positive or the quotient is NaN. */
static uint32_t key_of(float alpha, float G, float a, float b)
{
    const float sigma = a * b, size = fabsf(alpha * G);
    const float key = sigma > 0.0f ? size / sigma : 0.0f;
    uint32_t bits = 0;
    if (key == key)
        memcpy(&bits, &key, sizeof bits);
    return bits;
}

static void histogram_task(void *arg, int64_t task, int thread)
{
    const quantile_job *job = arg;
    const qsi_slot *G = &job->run->v[1], *a = &job->run->v[3], *b = &job->run->v[4];
    const uint16_t *scale = qsi_row(&job->run->v[2], 0);
    int64_t *bins = qsi_own(job->run, thread);
    for (int64_t n = task * job->rows; n < qsi_min(G->rows, (task + 1) * job->rows); n++) {
        const float alpha = qs_half_to_float(scale[n]), row = a->p ? qsi_f32(a, 0)[n] : 1.0f;
        for (int64_t k = 0; k < G->cols; k++) {
            const uint32_t key = key_of(alpha, qsi_f32(G, n)[k], row, b->p ? qsi_f32(b, 0)[k] : 1.0f);
            if (job->upper < 0)
                bins[key >> 16]++;
            else if ((int32_t)(key >> 16) == job->upper)
                bins[key & 0xFFFF]++;
        }
    }
}

/* The bin, from the top, that holds number *above (counted from 0); *above becomes the number within that bin. */
static uint32_t find_bin(quantile_job *job, int64_t *above)
{
    const qsi_run *run = job->run;
    for (int t = 0; t < run->threads; t++)
        memset(qsi_own(run, t), 0, BINS * sizeof(int64_t));
    qsi_each(run, qsi_ceil_div(run->v[1].rows, job->rows), histogram_task, job);
    for (int32_t bin = BINS - 1; bin >= 0; bin--) {
        int64_t count = 0;
        for (int t = 0; t < run->threads; t++)
            count += ((const int64_t *)qsi_own(run, t))[bin];
        if (*above < count)
            return (uint32_t)bin;
        *above -= count;
    }
    return 0;
}

qs_status qsi_cpu_fsm_quantile(qsi_run *run)
{
    qs_status status = QS_OK;
    const qsi_slot *G = &run->v[1];
    float *theta = qsi_f32(&run->v[0], 0);
    int64_t above = run->op->i[0];
    if (above >= G->rows * G->cols) {
        *theta = 0.0f;
        return QS_OK;
    }
    QS_TRY(qsi_scratch_need(run, 0, BINS * (int64_t)sizeof(int64_t)));
    quantile_job job = {run, qsi_grain(G->cols), -1};
    job.upper = (int32_t)find_bin(&job, &above);
    const uint32_t bits = (uint32_t)job.upper << 16 | find_bin(&job, &above);
    memcpy(theta, &bits, sizeof bits);
fail:
    return status;
}
