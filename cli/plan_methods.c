/* plan_methods.c - see plan_methods.h. */
#include "plan_methods.h"

#include <string.h>

/* Bytes a weight. 16-bit: weight, gradient, two fp32 moments. 8-bit (bitsandbytes): two moments of a byte; those of small and of embedded
 * tensors stay fp32 there. */
static const double WEIGHT16 = 2.0, GRADIENT16 = 2.0, MOMENTS32 = 8.0, MOMENTS8 = 2.0;
static const double FLOAT_VALUE = 4.0, FLOAT_MOMENTS = 8.0, LATENT_AND_MOMENTS = 12.0, SCALE = 2.0, BITS = 8.0;

const char *plan_component_name(plan_component component)
{
#define NAME(id, name, what) name,
    static const char *const names[] = {PLAN_COMPONENT_LIST(NAME) "together"};
#undef NAME
    return names[component];
}

const char *plan_component_text(plan_component component)
{
#define TEXT(id, name, what) what,
    static const char *const texts[] = {PLAN_COMPONENT_LIST(TEXT) ""};
#undef TEXT
    return texts[component];
}

double plan_state_bits(qs_fsm fsm)
{
    enum { WEIGHTS = 1024 };
    return BITS * (double)qs_row_bytes(qs_fsm_rule_of(fsm)->format, WEIGHTS) / WEIGHTS;
}

/* Weights of the largest part: the phases of one sweep. */
static double largest_part(const plan_case *c)
{
    qs_train_options o = c->training;
    qs_phase phase = {0};
    int64_t most = 0, step = 0;
    if (qs_train_options_resolve(&o, &c->model) != QS_OK)
        return 0.0;
    for (int64_t i = 0; i < o.active_parts; i++) {
        qs_train_phase(&c->model, &o, step, &phase);
        most = phase.weights > most ? phase.weights : most;
        step = phase.first + phase.steps;
    }
    return (double)most;
}

plan_counts plan_count(const plan_case *c)
{
    plan_counts n = {0};
    qs_model_size size;
    if (qs_model_size_of(&c->model, &size) != QS_OK)
        return n;
    n.weights = (double)size.packed_weights;
    n.rows = ((double)size.packed_bytes - n.weights / BITS) / SCALE;
    n.embeddings = (c->model.tied ? 1.0 : 2.0) * (double)c->model.vocab * (double)c->model.dim;
    n.norms = (double)size.float_params - n.rows - n.embeddings;
    n.active = largest_part(c);
    return n;
}

/* ---- ours ------------------------------------------------------------------------------------------------------------ */

static void put(plan_parts *p, int pool, plan_component component, double bytes)
{
    p->bytes[pool][component] += bytes;
    p->bytes[pool][PLAN_COMPONENTS] += bytes;
    p->bytes[QS_MEMORY_POOLS][component] += bytes;
    p->bytes[QS_MEMORY_POOLS][PLAN_COMPONENTS] += bytes;
}

/* So much of the bytes of a tag is one component, the rest another. */
static void share(plan_parts *p, int pool, double all, plan_component first, double bytes, plan_component rest)
{
    const double taken = bytes < all ? bytes : all;
    put(p, pool, first, taken);
    put(p, pool, rest, all - taken);
}

/* Blocks of the file that are in RAM: weights and scales; norms and page ends are only passed over. */
static void put_kept(plan_parts *p, const plan_case *c, const plan_counts *n, const qs_memory_plan *memory)
{
    const double all = (double)memory->bytes[QS_POOL_RAM][QS_MEMORY_WEIGHTS];
    const double slab = (double)memory->bytes[QS_POOL_DEVICE][QS_MEMORY_SLOTS] / (double)c->stream.slots;
    const double blocks = all / slab, model = (double)c->model.layers;
    const double weights = n->weights / BITS * blocks / model, scales = SCALE * n->rows * blocks / model;
    put(p, QS_POOL_RAM, PLAN_WEIGHTS, weights);
    put(p, QS_POOL_RAM, PLAN_SCALES, scales);
    put(p, QS_POOL_RAM, PLAN_BUFFERS, all - weights - scales);
}

static double state_bytes(const plan_case *c, const plan_counts *n)
{
    if (c->training.optimizer == QS_OPTIMIZER_STE)
        return LATENT_AND_MOMENTS * n->weights;
    return plan_state_bits(c->training.fsm) * n->active / BITS;
}

plan_parts plan_split(const plan_case *c, const plan_counts *n, const qs_memory_plan *memory)
{
    plan_parts p = {0};
    const uint64_t *device = memory->bytes[QS_POOL_DEVICE], *ram = memory->bytes[QS_POOL_RAM];
    const double gradients = (double)device[QS_MEMORY_GRADIENTS], embedded = FLOAT_VALUE * n->embeddings, norms = FLOAT_VALUE * n->norms;
    share(&p, QS_POOL_DEVICE, (double)device[QS_MEMORY_WEIGHTS], PLAN_WEIGHTS, n->weights / BITS, PLAN_SCALES);
    share(&p, QS_POOL_DEVICE, (double)device[QS_MEMORY_ACTIVE], PLAN_WEIGHTS, n->active / BITS, PLAN_SCALES);
    share(&p, QS_POOL_DEVICE, (double)device[QS_MEMORY_STATE], PLAN_STATES, state_bytes(c, n), PLAN_SCALES);
    share(&p, QS_POOL_DEVICE, (double)device[QS_MEMORY_FLOATS], PLAN_EMBEDDINGS, embedded, PLAN_FLOATS);
    share(&p, QS_POOL_DEVICE, (double)device[QS_MEMORY_OPTIMIZER], PLAN_EMBEDDINGS, FLOAT_MOMENTS * n->embeddings, PLAN_FLOATS);
    put(&p, QS_POOL_DEVICE, PLAN_EMBEDDINGS, embedded);
    put(&p, QS_POOL_DEVICE, PLAN_FLOATS, norms);
    put(&p, QS_POOL_DEVICE, PLAN_GRADIENTS, gradients - embedded - norms);
    put(&p, QS_POOL_DEVICE, PLAN_ACTIVATIONS, (double)device[QS_MEMORY_ACTIVATIONS]);
    put(&p, QS_POOL_DEVICE, PLAN_SLOTS, (double)device[QS_MEMORY_SLOTS]);
    put(&p, QS_POOL_DEVICE, PLAN_BUFFERS, (double)device[QS_MEMORY_TAGS] - p.bytes[QS_POOL_DEVICE][PLAN_COMPONENTS]);
    if (c->in_place)
        put_kept(&p, c, n, memory);
    put(&p, QS_POOL_RAM, PLAN_BUFFERS, (double)ram[QS_MEMORY_TAGS] - p.bytes[QS_POOL_RAM][PLAN_COMPONENTS]);
    return p;
}

static qs_status measure(const plan_case *c, plan_parts *out)
{
    plan_verdict verdict;
    const qs_status status = plan_weigh(c, &verdict);
    const plan_counts counts = plan_count(c);
    if (status == QS_OK)
        *out = plan_split(c, &counts, &verdict.memory);
    return status;
}

/* ---- all ------------------------------------------------------------------------------------------------------------- */

/* All of it in one pool; activations of the same graph with the same settings in 16 bits. */
static plan_parts adamw(const plan_counts *n, double moments, double activations)
{
    plan_parts p = {0};
    put(&p, QS_POOL_DEVICE, PLAN_WEIGHTS, WEIGHT16 * n->weights);
    put(&p, QS_POOL_DEVICE, PLAN_STATES, moments * n->weights);
    put(&p, QS_POOL_DEVICE, PLAN_GRADIENTS, GRADIENT16 * n->weights);
    put(&p, QS_POOL_DEVICE, PLAN_FLOATS, (WEIGHT16 + GRADIENT16 + MOMENTS32) * n->norms);
    put(&p, QS_POOL_DEVICE, PLAN_EMBEDDINGS, (WEIGHT16 + GRADIENT16 + MOMENTS32) * n->embeddings);
    put(&p, QS_POOL_DEVICE, PLAN_ACTIVATIONS, activations / 2.0);
    return p;
}

qs_status plan_all_methods(const plan_case *phased, const plan_counts *counts, plan_parts out[PLAN_METHODS])
{
    plan_case joint = *phased, ste;
    joint.in_place = false;
    joint.training.active_parts = 1;
    joint.training.sweeps = 0;
    ste = joint;
    ste.training.optimizer = QS_OPTIMIZER_STE;
    qs_status status = measure(phased, &out[PLAN_BY_PHASED]);
    if (status == QS_OK)
        status = measure(&joint, &out[PLAN_BY_FSM]);
    if (status == QS_OK)
        status = measure(&ste, &out[PLAN_BY_STE]);
    if (status != QS_OK)
        return status;
    const double activations = out[PLAN_BY_FSM].bytes[QS_MEMORY_POOLS][PLAN_ACTIVATIONS];
    out[PLAN_BY_ADAMW16] = adamw(counts, MOMENTS32, activations);
    out[PLAN_BY_ADAMW8] = adamw(counts, MOMENTS8, activations);
    return QS_OK;
}
