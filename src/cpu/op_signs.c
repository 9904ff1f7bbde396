/* op_signs.c - signs that follow from floats: BINARIZE and BOP. Both overwrite words of w and learn what flipped by comparing
 * them with the words before. */
#include <math.h>
#include "cpu/sample.h"

enum { PIECE = 8192, WORDS = PIECE / 32 };   /* columns of a row between two looks at its words */

typedef struct signs_job {
    const qsi_run *run;
    qsi_sample sample;
    qsi_moves *moves;      /* [tasks] */
    int64_t group;         /* rows per task */
    void (*row)(const qsi_run *run, int64_t row, int64_t k, int64_t n, float divisor);   /* columns k .. k+n-1 */
    float (*divisor)(const qsi_run *run, int64_t row);
} signs_job;

/* Columns k .. k + 32 n - 1 of a row; returns flips. */
static int64_t move_piece(const signs_job *job, int64_t row, int64_t k, int64_t n, float divisor)
{
    static const uint32_t none[WORDS];
    uint32_t flipped[WORDS], *w = (uint32_t *)qsi_row(&job->run->v[0], row) + k / 32;
    uint32_t *record = qsi_sample_of(&job->sample, row);
    int64_t flips = 0;
    memcpy(flipped, w, (size_t)n * sizeof *w);
    job->row(job->run, row, k, 32 * n, divisor);
    for (int64_t j = 0; j < n; j++) {
        flipped[j] ^= w[j];
        flips += __builtin_popcount(flipped[j]);
    }
    if (record)
        qsi_sample_note(record + k / 32, qsi_ld(job->sample.record), none, flipped, n);
    return flips;
}

static void signs_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const signs_job *job = arg;
    const qsi_slot *w = &job->run->v[0];
    qsi_moves moves = {0, 0};
    for (int64_t row = task * job->group; row < qsi_min(w->rows, (task + 1) * job->group); row++) {
        const float divisor = job->divisor ? job->divisor(job->run, row) : 0.0f;
        for (int64_t k = 0; k < w->cols; k += PIECE)
            moves.flips += move_piece(job, row, k, qsi_min(PIECE, w->cols - k) / 32, divisor);
    }
    job->moves[task] = moves;
}

/* counts and sample: slots of the op's views. */
static qs_status run_signs(qsi_run *run, signs_job *job, int counts, int sample)
{
    qs_status status = QS_OK;
    job->run = run;
    job->sample = (qsi_sample){&run->v[sample], run->op->i[0], run->op->i[1]};
    job->group = qsi_grain(run->v[0].cols);
    const int64_t tasks = qsi_ceil_div(run->v[0].rows, job->group);
    QS_TRY(qsi_scratch_need(run, tasks * (int64_t)sizeof *job->moves, 0));
    job->moves = qsi_shared(run);
    qsi_each(run, tasks, signs_task, job);
    qsi_store_moves(job->moves, tasks, &run->v[counts]);
fail:
    return status;
}

/* ---- BINARIZE --------------------------------------------------------------------------------------------------- */

static void binarize_row(const qsi_run *run, int64_t row, int64_t k, int64_t n, float divisor)
{
    (void)divisor;
    run->kernels->binarize((uint32_t *)qsi_row(&run->v[0], row) + k / 32, qsi_f32(&run->v[1], row) + k, n);
}

qs_status qsi_cpu_binarize(qsi_run *run)
{
    enum { COUNTS = 2, SAMPLE = 3 };
    signs_job job = {.row = binarize_row};
    return run_signs(run, &job, COUNTS, SAMPLE);
}

/* ---- BOP -------------------------------------------------------------------------------------------------------- */

enum { W, AVERAGE, DGRAD, SCALE };

/* What turns unscaled sums into u: the RMS of the row with the sign of its scale, whose size cancels. */
static float row_divisor(const qsi_run *run, int64_t row)
{
    const float *G = qsi_f32(&run->v[DGRAD], row);
    const float alpha = qs_half_to_float(((const uint16_t *)qsi_row(&run->v[SCALE], 0))[row]);
    const int64_t cols = run->v[DGRAD].cols;
    const float rms = sqrtf(run->kernels->f32_dot(G, G, cols) / (float)cols);
    return alpha > 0.0f ? rms : alpha < 0.0f ? -rms : 0.0f;
}

static void bop_row(const qsi_run *run, int64_t row, int64_t k, int64_t n, float divisor)
{
    run->kernels->bop((uint32_t *)qsi_row(&run->v[W], row) + k / 32, qsi_f32(&run->v[AVERAGE], row) + k,
                      qsi_f32(&run->v[DGRAD], row) + k, n, divisor, run->op->f[0], run->op->f[1]);
}

qs_status qsi_cpu_bop(qsi_run *run)
{
    enum { COUNTS = 4, SAMPLE = 5 };
    signs_job job = {.row = bop_row, .divisor = row_divisor};
    return run_signs(run, &job, COUNTS, SAMPLE);
}
