/* schedule.c - rates as functions of the step, in defined double arithmetic (docs/numerics.md, "Schedules"). */
#include <math.h>
#include "core/detmath.h"
#include "train/train.h"

static const double pi = 3.141592653589793;

/* 1 at x = 0, 0 at x = 1, half a cosine between. */
static double half_cosine(double x) { return 0.5 * (1.0 + qsi_cos(pi * x)); }

static double decay(const qs_train_options *o, double x)
{
    switch (o->schedule) {
    case QS_SCHEDULE_LINEAR: return o->final_lr + (1.0 - o->final_lr) * (1.0 - x);
    case QS_SCHEDULE_CONSTANT: return 1.0;
    default: return o->final_lr + (1.0 - o->final_lr) * half_cosine(x);
    }
}

/* base^n by repeated squaring */
static double power(double base, int64_t n)
{
    double result = 1.0;
    for (; n > 0; n >>= 1, base *= base)
        if (n & 1)
            result *= base;
    return result;
}

/* How far the annealing of density and amplitude has come, 0..1: a part of the active set sees all of it in its own time, a
 * stretch in each of its phases. */
static double annealed(const qs_train_options *o, const qsi_phase *phase, int64_t step)
{
    const double inside = (double)(step - phase->first) / (double)phase->steps;
    return ((double)(phase->index / o->active_parts) + inside) / (double)o->sweeps;
}

/* Steepness of the controller: d ln(share) / d ln(mu) of a normal gradient, at least 1/2. */
static double controller_slope(double z0, double density)
{
    const double phi = 0.3989422804014327 * qsi_exp(-0.5 * z0 * z0);
    const double slope = 2.0 * z0 * phi / density;
    return slope > 0.5 ? slope : 0.5;
}

/* Candidates below this pull: each of the 32 weights of a word is one of four candidates with probability 1/8. */
static uint32_t pull_of(double probability)
{
    return (uint32_t)floor(8.0 * (probability < 0.125 ? probability : 0.125) * QS_PULL_MOST + 0.5);
}

void qsi_rates_at(const qs_train_options *o, int64_t step, qsi_rates *r)
{
    const qsi_active active = {.parts = o->active_parts, .phases = o->active_parts * o->sweeps, .steps = o->steps};
    const qsi_phase phase = qsi_active_phase(&active, step);
    const double x = (double)step / (double)o->steps;
    const double warm = step + 1 < o->warmup ? (double)(step + 1) / (double)o->warmup : 1.0;
    const double factor = warm * decay(o, x);
    const double heat = half_cosine(annealed(o, &phase, step));
    const double density = o->density_end + (o->density_start - o->density_end) * heat;
    r->lr = o->lr * factor;
    r->matrix_lr = o->matrix_lr * factor;
    r->scale_lr = o->scale_lr * factor;
    r->density = density < 1e-5 ? 1e-5 : density > 0.995 ? 0.995 : density;
    const double z0 = sqrt(2.0) * qsi_erfinv(1.0 - r->density);
    const double updates = (double)(step - phase.first + 1), beta = updates / (updates + 1.0);
    r->z0 = (float)z0;
    r->slope = (float)controller_slope(z0, r->density);
    r->pull = pull_of(o->anchor * r->density);
    r->amplitude = (float)(o->amplitude_end + (o->amplitude_start - o->amplitude_end) * heat);
    r->beta = (float)(beta < 0.95 ? beta : 0.95);
    r->c1 = (float)(1.0 - power(0.9, step + 1));
    r->c2 = (float)(1.0 - power(0.95, step + 1));
    r->first = step == phase.first;
}

void qs_train_rates(const qs_train_options *o, int64_t step, qs_rates *rates)
{
    const bool fsm = o->optimizer == QS_OPTIMIZER_FSM, levels = fsm && o->fsm == QS_FSM_C8;
    qsi_rates r;
    qsi_rates_at(o, step, &r);
    *rates = (qs_rates){.lr = r.lr, .matrix_lr = r.matrix_lr, .scale_lr = r.scale_lr,
                        .density = fsm && !levels ? r.density : 0.0, .amplitude = levels ? (double)r.amplitude : 0.0};
}
