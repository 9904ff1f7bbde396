/* plan_fit.c - see plan_fit.h. */
#include "plan_fit.h"

#include <string.h>
#include <unistd.h>

enum { MARGIN = 20, LEAST_SLOTS = 2, MOST_PARTS = 1024, MOST_WINDOWS = 1 << 20, TOKEN_CHUNK = QS_TOKEN_CHUNK };

uint64_t plan_usable(uint64_t limit)
{
    return limit - limit / MARGIN;
}

static uint64_t host_memory(void)
{
    const long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGESIZE);
    return pages > 0 && bytes > 0 ? (uint64_t)pages * (uint64_t)bytes : 0;
}

/* On the CPU both pools are the machine's memory, so without budgets their sum has a limit. */
void plan_set_limits(const options *o, const qs_context *context, plan_case *c)
{
    qs_device_info device;
    qs_context_device(context, &device);
    const bool same = strcmp(device.backend, "cpu") == 0;
    c->limit[QS_POOL_RAM] = (uint64_t)o->value[OPT_RAM_BUDGET].integer;
    c->limit[QS_POOL_DEVICE] = (uint64_t)o->value[OPT_DEVICE_BUDGET].integer;
    c->together = same ? device.memory_bytes : 0;
    c->threads = device.threads;
    if (!same && c->limit[QS_POOL_RAM] == 0)
        c->limit[QS_POOL_RAM] = host_memory();
    if (!same && c->limit[QS_POOL_DEVICE] == 0)
        c->limit[QS_POOL_DEVICE] = device.memory_bytes;
}

/* Kernels take scratch as they need it. Of each thread a table of sums and a tree over chunks of embedding rows; for all of them sums of
 * the columns of a matrix over blocks of rows, and in int8 and bf16 the operands of a weight gradient, at most two bytes a number. */
static uint64_t kernel_scratch(const plan_case *c)
{
    enum { TABLES = 1 << 20, TREE = 20, FLOAT = 4, PACKED = 2 };
    const qs_model_config *m = &c->model;
    const int64_t attention = m->heads * m->head_dim, wide = m->ffn > attention ? m->ffn : attention;
    const int64_t own = c->threads * (TABLES + TREE * FLOAT * m->dim), columns = FLOAT * m->dim * (wide / QS_ROW_BLOCK + 1);
    const int64_t operands = PACKED * c->training.batch * m->ctx * (m->dim + wide);
    return (uint64_t)(own + columns + (c->training.precision == QS_PRECISION_F32 ? 0 : operands));
}

/* What comes on top of qs_train_plan. A validation takes micro-batches, as train runs it. */
static void add_rest(const plan_case *c, qs_memory_plan *memory)
{
    const int64_t micro = c->training.micro_batch > 0 ? c->training.micro_batch : c->training.batch;
    const uint64_t scratch = kernel_scratch(c);
    qs_memory_plan validation;
    if (qs_model_evaluate_plan(&c->model, micro < EVALUATION_BATCH ? micro : EVALUATION_BATCH, &validation) == QS_OK)
        for (int pool = 0; pool <= QS_MEMORY_POOLS; pool++)
            for (int tag = 0; tag <= QS_MEMORY_TAGS; tag++)
                memory->bytes[pool][tag] += validation.bytes[pool][tag];
    for (int pool = QS_POOL_DEVICE; pool <= QS_MEMORY_POOLS; pool++) {
        memory->bytes[pool][QS_MEMORY_WORKSPACE] += scratch;
        memory->bytes[pool][QS_MEMORY_TAGS] += scratch;
    }
}

qs_status plan_weigh(const plan_case *c, plan_verdict *out)
{
    const uint64_t limits[QS_MEMORY_POOLS + 1] = {c->limit[QS_POOL_RAM], c->limit[QS_POOL_DEVICE], c->together};
    *out = (plan_verdict){.fits = true};
    const qs_status status = qs_train_plan(&c->model, &c->training, c->in_place ? &c->stream : NULL, c->limit[QS_POOL_RAM],
                                           &out->memory);
    if (status == QS_OK)
        add_rest(c, &out->memory);
    for (int pool = QS_MEMORY_POOLS; pool >= 0 && status == QS_OK; pool--) {
        const uint64_t needed = out->memory.bytes[pool][QS_MEMORY_TAGS], available = plan_usable(limits[pool]);
        if (limits[pool] == 0 || needed <= available)
            continue;
        out->fits = false;
        out->pool = (qs_memory_pool)pool;
        out->needed = needed;
        out->available = available;
    }
    return status;
}

/* ---- changes ------------------------------------------------------------------------------------------------------- */

/* Blocks in RAM get what the device's share of a common memory leaves. */
static void leave_ram(plan_case *c)
{
    plan_verdict verdict;
    if (!c->in_place || c->together == 0 || c->limit[QS_POOL_RAM] > 0 || c->stream.ram_bytes > 0 || plan_weigh(c, &verdict) != QS_OK)
        return;
    const uint64_t device = verdict.memory.bytes[QS_POOL_DEVICE][QS_MEMORY_TAGS], usable = plan_usable(c->together);
    c->limit[QS_POOL_RAM] = usable > device ? usable - device : 1;
}

static bool fits(plan_case *c, unsigned knobs)
{
    plan_verdict verdict;
    const plan_case before = *c;
    if (plan_weigh(c, &verdict) != QS_OK)
        return false;
    if (!verdict.fits && (knobs & KNOB_RAM) != 0) {
        leave_ram(c);
        if (plan_weigh(c, &verdict) != QS_OK || !verdict.fits)
            *c = before;
    }
    return verdict.fits;
}

/* The fewest windows at a time that the order of sums allows. */
static int64_t least_micro(const plan_case *c)
{
    int64_t a = c->model.ctx, b = TOKEN_CHUNK;
    while (b != 0) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return TOKEN_CHUNK / a;
}

/* The next smaller micro-batch, 0 where there is none. */
static int64_t next_micro(const plan_case *c, int64_t micro)
{
    const int64_t least = least_micro(c), half = micro / 2 / least * least;
    return half >= least ? half : micro > least ? least : 0;
}

/* Without a change of batch or parts: fewer slots before recomputing before smaller micro-batches. */
static bool fit_harmless(const plan_case *given, unsigned knobs, plan_case *out)
{
    const int64_t first = given->training.micro_batch > 0 ? given->training.micro_batch : given->training.batch;
    for (int64_t micro = first; micro > 0; micro = (knobs & KNOB_MICRO_BATCH) != 0 ? next_micro(given, micro) : 0)
        for (int recompute = given->training.recompute; recompute <= ((knobs & KNOB_RECOMPUTE) != 0 ? 1 : given->training.recompute);
             recompute++)
            for (int64_t slots = given->stream.slots; slots >= ((knobs & KNOB_SLOTS) != 0 && given->in_place ? LEAST_SLOTS
                                                                                                           : given->stream.slots);
                 slots--) {
                *out = *given;
                out->training.micro_batch = micro;
                out->training.recompute = recompute;
                out->stream.slots = slots;
                if (fits(out, knobs))
                    return true;
            }
    return false;
}

/* Whether the harmless changes can help at all: all of them at once. */
static bool could_fit(const plan_case *given, unsigned knobs)
{
    plan_case c = *given;
    const int64_t least = least_micro(given);
    if ((knobs & KNOB_SLOTS) != 0)
        c.stream.slots = LEAST_SLOTS;
    if ((knobs & KNOB_RECOMPUTE) != 0)
        c.training.recompute = 1;
    if ((knobs & KNOB_MICRO_BATCH) != 0 && least < c.training.batch)
        c.training.micro_batch = least;
    return fits(&c, knobs);
}

static bool fit_batch(const plan_case *given, unsigned knobs, plan_case *out)
{
    plan_case c = *given;
    for (; c.training.batch > 0; c.training.batch = (knobs & KNOB_BATCH) != 0 ? c.training.batch / 2 : 0) {
        if (c.training.batch != given->training.batch)
            c.training.micro_batch = 0;
        if (could_fit(&c, knobs) && fit_harmless(&c, knobs, out))
            return true;
    }
    return false;
}

bool plan_fit(const plan_case *given, unsigned knobs, plan_case *out)
{
    plan_case c = *given;
    const bool parts = (knobs & KNOB_ACTIVE) != 0 && given->training.optimizer == QS_OPTIMIZER_FSM;
    for (;;) {
        if (fit_batch(&c, knobs, out))
            return true;
        c.training.active_parts = 2 * (c.training.active_parts > 0 ? c.training.active_parts : 1);
        c.training.health_window = -1;
        c.active_params /= 2;
        if (!parts || c.training.active_parts > MOST_PARTS)
            return false;
    }
}

char *plan_changes(const plan_case *from, const plan_case *to, char out[PLAN_TEXT])
{
    char active[40] = "", batch[32] = "", micro[40] = "", slots[24] = "", ram[40] = "", size[16];
    const qs_train_options *a = &from->training, *b = &to->training;
    const int64_t before = a->micro_batch > 0 ? a->micro_batch : a->batch, after = b->micro_batch > 0 ? b->micro_batch : b->batch;
    if (from->limit[QS_POOL_RAM] != to->limit[QS_POOL_RAM])
        (void)snprintf(ram, sizeof ram, " --ram-budget %lldMB", (long long)(to->limit[QS_POOL_RAM] / 1000000));
    if (from->stream.slots != to->stream.slots)
        (void)snprintf(slots, sizeof slots, " --slots %lld", (long long)to->stream.slots);
    if (before != after && after != b->batch)
        (void)snprintf(micro, sizeof micro, " --micro-batch %lld", (long long)after);
    if (a->batch != b->batch)
        (void)snprintf(batch, sizeof batch, " --batch %lld", (long long)b->batch);
    if (to->active_params != from->active_params)
        (void)snprintf(active, sizeof active, " --active-params %s", human_count((double)to->active_params, size));
    else if (a->active_parts != b->active_parts)
        (void)snprintf(active, sizeof active, " --active-parts %lld", (long long)b->active_parts);
    (void)snprintf(out, PLAN_TEXT, "%s%s%s%s%s%s", ram, slots, a->recompute != b->recompute ? " --recompute" : "", micro, batch, active);
    return out;
}

int64_t plan_most_windows(const plan_case *given, unsigned knobs)
{
    int64_t least = 0, most = MOST_WINDOWS;
    while (least < most) {
        plan_case c = *given;
        const int64_t middle = least + (most - least + 1) / 2;
        c.training.batch = middle;
        if (c.training.micro_batch >= middle || middle <= least_micro(given))
            c.training.micro_batch = 0;
        if (could_fit(&c, knobs))
            least = middle;
        else
            most = middle - 1;
    }
    return least;
}
