/* plan_times.c - see plan_times.h. */
#include "plan_times.h"

#include <math.h>

enum { MATRICES = 7 };
static const double OPERATIONS = 2.0;           /* of a weight and a token: multiply, add */
static const double ATTENTION_BACK = 2.5;       /* times the products of attention forward: recomputed scores, four gradients */
static const double HEAD_PRODUCTS = 4.0;        /* of the head: forward, again backward, both gradients */
static const double ADAMW_BYTES = 28.0;         /* of a float in a step: value, gradient and moments read, all but the gradient written */

/* What trains in a phase. */
typedef struct phase_part {
    double weights, steps;
    double back;                                /* blocks that the backward pass goes through */
    double trained;                             /* blocks with rows that train */
} phase_part;

static phase_part part_at(const plan_case *c, int64_t step, int64_t *next)
{
    qs_phase phase;
    int64_t lowest = c->model.layers - 1, trained = 0;
    qs_train_phase(&c->model, &c->training, step, &phase);
    for (int64_t block = c->model.layers - 1; block >= 0; block--) {
        int64_t first = 0, count = 0;
        for (int i = 0; i < MATRICES && count == 0; i++)
            qs_train_active_rows(&c->model, &c->training, step, (uint32_t)(block * MATRICES + i), &first, &count);
        trained += count > 0;
        lowest = count > 0 ? block : lowest;
    }
    *next = phase.first + phase.steps;
    return (phase_part){.weights = (double)phase.weights, .steps = (double)phase.steps,
                        .back = (double)(c->training.full_backward ? c->model.layers : c->model.layers - lowest),
                        .trained = (double)trained};
}

/* Seconds of computing in a step: the forward pass, the backward pass. */
typedef struct work {
    double forward, backward, operations;
} work;

static work work_of(const plan_case *c, const plan_counts *n, const plan_rates *r, const phase_part *p)
{
    const double *rate = r->per_second, layers = (double)c->model.layers;
    const double tokens = (double)c->training.batch * (double)c->model.ctx, share = p->back / layers;
    const double attention = OPERATIONS * (double)(c->model.heads * c->model.head_dim) * (double)c->model.ctx * layers;
    const double head = OPERATIONS * HEAD_PRODUCTS * (double)c->model.vocab * (double)c->model.dim;
    const double forward = tokens * (OPERATIONS * n->weights + attention);
    const double again = c->training.recompute ? share * forward : 0.0;
    const double scores = tokens * (share * ATTENTION_BACK * attention + head), input = tokens * OPERATIONS * share * n->weights;
    const double visit = tokens * OPERATIONS * p->weights;
    const double floats = ADAMW_BYTES * (n->embeddings + n->norms) / rate[PLAN_RATE_MEMORY];
    return (work){.forward = forward / rate[PLAN_RATE_FORWARD],
                  .backward = (again + scores) / rate[PLAN_RATE_FORWARD] + input / rate[PLAN_RATE_INPUT] +
                              visit / rate[PLAN_RATE_VISIT] + floats,
                  .operations = forward + again + scores + input + visit};
}

/* Bytes of a pass over blocks: those that slots still hold are not copied, those in RAM not read. */
typedef struct passing {
    double copied, read;
} passing;

static passing pass_over(double blocks, double held, double slab, double kept)
{
    const double copies = blocks > held ? blocks - held : 0.0;
    return (passing){copies * slab, copies * slab * (1.0 - kept)};
}

/* Copies and reads go on side by side; no disk is needed where all blocks are in RAM. */
static double seconds_of(const passing *p, const plan_rates *r)
{
    const double copy = p->copied / r->per_second[PLAN_RATE_LINK], read = p->read > 0.0 ? p->read / r->per_second[PLAN_RATE_DISK] : 0.0;
    return isnan(copy) || isnan(read) ? NAN : copy > read ? copy : read;
}

static double more(double a, double b) { return isnan(a) || isnan(b) ? NAN : a > b ? a : b; }

/* Blocks that are used twice a step stay in RAM before others. */
static double kept_share(double blocks, double kept) { return blocks <= 0.0 ? 1.0 : kept >= blocks ? 1.0 : kept / blocks; }

static void add_phase(plan_times *t, const plan_case *c, const plan_counts *n, const plan_rates *r, const phase_part *p, double slab,
                      double kept, double weight)
{
    const double layers = (double)c->model.layers, slots = (double)c->stream.slots;
    const work w = work_of(c, n, r, p);
    passing forward = {0}, backward = {0};
    if (c->in_place) {
        forward = pass_over(layers, p->back >= layers ? slots : 0.0, slab, kept_share(layers, kept));
        backward = pass_over(p->back, slots, slab, kept_share(p->back, kept));
    }
    const double there = seconds_of(&forward, r), back = seconds_of(&backward, r);
    const double step = more(w.forward, there) + more(w.backward, back);
    const double merge = c->in_place ? 2.0 * p->trained * slab / r->per_second[PLAN_RATE_DISK] : 0.0;
    t->operations += weight * w.operations;
    t->compute += weight * (w.forward + w.backward);
    t->copied += weight * (forward.copied + backward.copied);
    t->read += weight * (forward.read + backward.read);
    t->transfer += weight * (there + back);
    t->step += weight * step;
    t->merge += weight * merge;
    t->phase_steps += weight * p->steps;
    t->sweep += p->steps * step + (isnan(merge) ? 0.0 : merge);
}

plan_times plan_times_of(const plan_case *c, const plan_counts *counts, const plan_rates *rates, double slab, double kept)
{
    plan_times t = {.phases_of_sweep = (double)c->training.active_parts, .sweeps = (double)c->training.sweeps};
    int64_t step = 0;
    for (int64_t i = 0; i < c->training.active_parts; i++) {
        const phase_part p = part_at(c, step, &step);
        add_phase(&t, c, counts, rates, &p, slab, kept, 1.0 / t.phases_of_sweep);
    }
    t.hidden = t.transfer > 0.0 ? 1.0 - (t.step - t.compute) / t.transfer : NAN;
    t.phase = t.sweep / t.phases_of_sweep;
    t.run = t.sweep * t.sweeps;
    t.pulses = t.phase_steps * 0.5 * (c->training.density_start + c->training.density_end);
    return t;
}
