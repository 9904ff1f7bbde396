/* plan_run.c - the run that is planned: what was asked for, and where nothing was, the largest that fits. */
#include "plan_run.h"

#include <stdarg.h>
#include <string.h>

#include "settings.h"

enum { MOST_BATCH = 32, LEAST_CTX = 32, DEFAULT_SWEEPS = 4, DEFAULT_STEPS = 1000, KEEP = 2 };
static const double PULSES = 10.0;            /* of a weight in a phase, the fewest that are worth it */
static const double MEAN_DENSITY = 0.41;      /* of the default schedule */
static const double BITS = 8.0, ADAMW16 = 12.0, PACKED_BITS = 5.0, BYTES16 = 2.0, OFFLOADED_PASSES = 3.0;
static const int64_t PARTS[] = {2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 60, 64, 96, 128, 192, 256, 512, 1024};

/* ---- settings ------------------------------------------------------------------------------------------------------- */

static bool given(const plan_run *p, option_id id) { return p->o->value[id].given; }

static bool parts_given(const plan_run *p) { return given(p, OPT_ACTIVE_PARTS) || given(p, OPT_ACTIVE_PARAMS); }

/* What of KNOBS_HARMLESS nobody has decided. */
static unsigned free_knobs(const plan_run *p)
{
    return KNOB_RAM | (given(p, OPT_SLOTS) ? 0u : KNOB_SLOTS) | (given(p, OPT_RECOMPUTE) ? 0u : KNOB_RECOMPUTE) |
           (given(p, OPT_MICRO_BATCH) ? 0u : KNOB_MICRO_BATCH);
}

/* Without --steps every weight gets PULSES pulses in a phase. */
static void set_parts(const plan_run *p, plan_case *c, int64_t parts)
{
    c->training.active_parts = parts;
    if (given(p, OPT_STEPS))
        return;
    c->training.sweeps = parts == 1 ? 0 : given(p, OPT_SWEEPS) ? p->o->value[OPT_SWEEPS].integer : DEFAULT_SWEEPS;
    const int64_t steps = (int64_t)(PULSES / MEAN_DENSITY + 1.0) * parts * (parts == 1 ? 1 : c->training.sweeps);
    c->training.steps = parts > 1 ? steps : DEFAULT_STEPS;
}

static void set_batch(plan_case *c, int64_t batch, int64_t micro_batch)
{
    c->training.batch = batch;
    c->training.micro_batch = micro_batch < batch ? micro_batch : 0;
}

/* Tokens of the longest window that fits alone, 0: none. Windows of whole chunks of tokens go first. */
static int64_t longest_window(const plan_run *p, const plan_case *given_case)
{
    int64_t least = 0, most = given_case->model.ctx / LEAST_CTX;
    while (least < most) {
        const int64_t middle = least + (most - least + 1) / 2;
        plan_case c = *given_case, out;
        c.model.ctx = middle * LEAST_CTX;
        set_batch(&c, 1, 0);
        if (plan_fit(&c, free_knobs(p), &out))
            least = middle;
        else
            most = middle - 1;
    }
    const int64_t ctx = least * LEAST_CTX;
    return ctx > QS_TOKEN_CHUNK ? ctx / QS_TOKEN_CHUNK * QS_TOKEN_CHUNK : ctx;
}

/* The largest batch that fits where none is given, at last shorter windows. False, with the least that could be, where nothing fits. */
static bool settle(const plan_run *p, plan_case *c)
{
    const int64_t micro = p->o->value[OPT_MICRO_BATCH].integer;
    const bool batch_given = given(p, OPT_BATCH), ctx_given = given(p, OPT_CTX);
    plan_case out;
    for (;;) {
        for (int64_t batch = batch_given ? p->o->value[OPT_BATCH].integer : MOST_BATCH; batch > 0; batch = batch_given ? 0 : batch / 2) {
            set_batch(c, batch, micro);
            if (plan_fit(c, free_knobs(p), &out)) {
                *c = out;
                return true;
            }
        }
        const int64_t ctx = ctx_given || batch_given ? 0 : longest_window(p, c);
        if (ctx == 0 || ctx >= c->model.ctx)
            break;
        c->model.ctx = ctx;
    }
    c->training.recompute = given(p, OPT_RECOMPUTE) || (free_knobs(p) & KNOB_RECOMPUTE) != 0;
    if ((free_knobs(p) & KNOB_SLOTS) != 0)
        c->stream.slots = 2;
    return false;
}

static plan_case first_case(const plan_run *p, const qs_context *context)
{
    plan_case c = {.model = p->model.config, .in_place = true, .active_params = p->o->value[OPT_ACTIVE_PARAMS].integer};
    qs_device_info device;
    settings_training(p->o, &c.model, &c.training);
    c.training.optimizer = QS_OPTIMIZER_FSM;
    c.training.health_window = 0;
    if (!given(p, OPT_ACTIVE_BY))
        c.training.active_by = QS_ACTIVE_BY_BLOCKS;
    qs_stream_options_default(&c.stream);
    c.stream.slots = p->o->value[OPT_SLOTS].integer;
    plan_set_limits(p->o, context, &c);
    if (!given(p, OPT_RAM_BUDGET) && !given(p, OPT_DEVICE_BUDGET))
        return c;
    qs_context_device(context, &device);   /* budgets may be those of another machine */
    c.together = 0;
    for (int pool = 0; pool < QS_MEMORY_POOLS; pool++)
        if (c.limit[pool] == 0)
            c.limit[pool] = device.memory_bytes;
    return c;
}

/* All weights at once in memory, if nobody asked for parts. */
static bool try_joint(plan_run *p, const plan_case *first)
{
    p->run = *first;
    p->run.in_place = false;
    set_parts(p, &p->run, 1);
    return !parts_given(p) && settle(p, &p->run);
}

/* The case in `parts`; false where the shape cannot be cut so. */
static bool cut(const plan_run *p, const plan_case *first, int64_t parts, plan_case *out)
{
    plan_verdict verdict;
    *out = *first;
    set_parts(p, out, parts);
    return plan_weigh(out, &verdict) == QS_OK;
}

/* Whether so many parts leave room for what is wanted: the batch that is given, or a window of so many tokens. */
static bool leaves_room(const plan_run *p, const plan_case *c, int64_t tokens)
{
    plan_case one = *c, out;
    if (!given(p, OPT_BATCH))
        return longest_window(p, c) >= tokens;
    set_batch(&one, p->o->value[OPT_BATCH].integer, p->o->value[OPT_MICRO_BATCH].integer);
    return plan_fit(&one, free_knobs(p), &out);
}

/* The fewest parts that fit where none are given. Where no whole window does: that leave three quarters of the room that the most
 * parts leave. */
static void choose_parts(plan_run *p, const plan_case *first)
{
    enum { COUNT = sizeof PARTS / sizeof PARTS[0] };
    plan_case c = *first;
    int last = 0;
    if (parts_given(p)) {
        set_parts(p, &p->phased, p->phased.training.active_parts);
        (void)settle(p, &p->phased);
        return;
    }
    for (last = COUNT - 1; last > 0 && !cut(p, first, PARTS[last], &c); last--)
        ;
    const int64_t longest = given(p, OPT_BATCH) ? 0 : longest_window(p, &c);
    const int64_t tokens = longest >= c.model.ctx ? longest : longest / 4 * 3;
    for (int i = longest == 0 && !given(p, OPT_BATCH) ? last : 0; i <= last; i++)
        if (cut(p, first, PARTS[i], &c) && leaves_room(p, &c, tokens))
            break;
    p->phased = c;
    (void)settle(p, &p->phased);
}

static int choose(plan_run *p, const qs_context *context)
{
    const plan_case first = first_case(p, context);
    qs_status status = QS_OK;
    p->phased = first;
    if (try_joint(p, &first)) {
        p->phased = p->run;
        p->phased.in_place = true;
        set_parts(p, &p->phased, PARTS[0]);
    } else {
        choose_parts(p, &first);
        p->run = p->phased;
    }
    status = qs_train_options_resolve(&p->phased.training, &p->phased.model);
    if (status == QS_OK)
        status = qs_train_options_resolve(&p->run.training, &p->run.model);
    if (status == QS_OK)
        status = plan_weigh(&p->run, &p->verdict);
    return status == QS_OK ? 0 : fail_library(p->o->command->name, status, NULL);
}

/* ---- figures -------------------------------------------------------------------------------------------------------- */

static plan_figures figures_of(double weights, double active, int64_t layers)
{
    plan_figures f = {.weights = weights, .active = active, .adamw16 = ADAMW16 * weights, .packed = PACKED_BITS * weights / BITS,
                      .base = weights / BITS, .once = BYTES16 * weights, .step = OFFLOADED_PASSES * BYTES16 * weights,
                      .block = weights / (double)layers / BITS};
    static const struct { const char *name; qs_fsm fsm; bool stored; } depths[PLAN_DEPTHS] = {
        {"c2", QS_FSM_C2, false}, {"c4", QS_FSM_C4, false}, {"c8", QS_FSM_C8, false}, {"t2", QS_FSM_T2, false},
        {"t2 with T2 gradients", QS_FSM_T2, true}};
    for (int i = 0; i < PLAN_DEPTHS; i++) {
        plan_depth *d = &f.depth[i];
        *d = (plan_depth){.name = depths[i].name, .weights = active / BITS,
                          .gradients = depths[i].stored ? plan_state_bits(QS_FSM_T2) * active / BITS : 0.0,
                          .states = plan_state_bits(depths[i].fsm) * active / BITS};
        d->together = d->weights + d->gradients + d->states;
    }
    return f;
}

/* Into the device alone; with what does not fit there in RAM, as offloading does; or not. */
static const char *where_fits(const plan_case *c, const plan_parts *m, bool ours)
{
    const double all = m->bytes[QS_MEMORY_POOLS][PLAN_COMPONENTS];
    const double ram = (double)plan_usable(c->limit[QS_POOL_RAM]), device = (double)plan_usable(c->limit[QS_POOL_DEVICE]);
    if (c->together > 0)
        return all <= (double)plan_usable(c->together) ? "yes" : "no";
    if (m->bytes[QS_POOL_RAM][PLAN_COMPONENTS] <= ram && m->bytes[QS_POOL_DEVICE][PLAN_COMPONENTS] <= device)
        return "yes";
    return !ours && all <= ram + device ? "offloaded" : "no";
}

static qs_status compare_methods(plan_run *p)
{
    const qs_status status = plan_all_methods(&p->phased, &p->counts, p->methods);
    for (int i = 0; i < PLAN_METHODS; i++)
        p->fits[i] = where_fits(&p->phased, &p->methods[i], i >= PLAN_BY_STE);
    return status;
}

static void find_disk(plan_run *p)
{
    const double floats = 4.0 * (p->counts.embeddings + p->counts.norms), scales = 2.0 * p->counts.rows;
    p->model_file = p->counts.weights / BITS + scales + floats;
    /* weights and state of the part, floats with moments; masters of scales are small beside them */
    const double active = p->run.in_place ? p->counts.active : p->counts.weights;
    p->checkpoint = active * (1.0 + plan_state_bits(p->run.training.fsm)) / BITS + 3.0 * floats;
}

/* What one more token of a step takes: of the step that is planned, and twice as many windows. */
static void find_tokens(plan_run *p)
{
    const plan_case c = p->run;
    plan_case twice = p->run;
    plan_verdict a, b;
    twice.training.batch *= 2;
    twice.training.micro_batch = twice.training.micro_batch == c.training.batch ? 0 : twice.training.micro_batch;
    if (plan_weigh(&c, &a) == QS_OK && plan_weigh(&twice, &b) == QS_OK)
        p->token_bytes = (double)(b.memory.bytes[QS_MEMORY_POOLS][QS_MEMORY_TAGS] - a.memory.bytes[QS_MEMORY_POOLS][QS_MEMORY_TAGS]) /
                         (double)(c.training.batch * c.model.ctx);
    p->most_windows = plan_most_windows(&p->run, free_knobs(p));
    p->most_ctx = p->most_windows > 0 ? p->run.model.ctx : longest_window(p, &p->run);
    if (p->most_windows == 0 && p->most_ctx > 0)
        p->most_windows = 1;
}

int plan_run_make(const options *o, qs_context *context, plan_run *p)
{
    *p = (plan_run){.o = o};
    int code = plan_model_read(o, context, &p->model);
    if (code == 0)
        code = choose(p, context);
    if (code != 0)
        return code;
    p->counts = plan_count(&p->phased);
    qs_status status = compare_methods(p);
    if (status == QS_OK)
        status = plan_rates_of(o, context, &p->run, p->model.file, &p->rates);
    if (status != QS_OK)
        return fail_library(o->command->name, status, NULL);
    const plan_counts counts = plan_count(&p->run);
    p->parts = plan_split(&p->run, &counts, &p->verdict.memory);
    p->shape = figures_of(p->counts.weights, p->counts.active, p->run.model.layers);
    if (p->model.nominal > 0.0)
        p->nominal = figures_of(p->model.nominal, given(p, OPT_ACTIVE_PARAMS) ? (double)o->value[OPT_ACTIVE_PARAMS].integer
                                                                             : p->model.nominal / (double)p->phased.training.active_parts,
                                p->run.model.layers);
    if (p->run.in_place) {
        p->slab = (double)p->verdict.memory.bytes[QS_POOL_DEVICE][QS_MEMORY_SLOTS] / (double)p->run.stream.slots;
        const double places = (double)p->verdict.memory.bytes[QS_POOL_RAM][QS_MEMORY_WEIGHTS] / p->slab;
        p->kept = places >= (double)p->run.model.layers ? places : places - 2.0;   /* two are for blocks on their way */
    }
    find_disk(p);
    find_tokens(p);
    p->times = plan_times_of(&p->run, &counts, &p->rates, p->slab, p->kept);
    return 0;
}

/* ---- command lines --------------------------------------------------------------------------------------------------- */

static void add(char *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(char *out, const char *format, ...)
{
    va_list arguments;
    const size_t used = strlen(out);
    va_start(arguments, format);
    (void)vsnprintf(out + used, PLAN_COMMANDS - used, format, arguments);
    va_end(arguments);
}

/* Options of the shape as they were given. */
static void add_shape(const plan_run *p, char *out)
{
    static const option_id ids[] = {OPT_PRESET, OPT_LAYERS, OPT_DIM, OPT_HEADS, OPT_KV_HEADS, OPT_HEAD_DIM, OPT_FFN};
    const qs_model_config *c = &p->run.model;
    if (p->o->operand_count > 0)
        add(out, " --layers %lld --dim %lld --heads %lld --kv-heads %lld --head-dim %lld --ffn %lld", (long long)c->layers,
            (long long)c->dim, (long long)c->heads, (long long)c->kv_heads, (long long)c->head_dim, (long long)c->ffn);
    for (size_t i = 0; p->o->operand_count == 0 && i < sizeof ids / sizeof ids[0]; i++)
        if (given(p, ids[i]))
            add(out, " --%s %s", options_row(ids[i])->name, p->o->value[ids[i]].text);
    add(out, " --ctx %lld%s%s%s", (long long)c->ctx, c->qk_norm ? " --qk-norm" : "", c->sub_norm ? "" : " --no-sub-norm",
        c->tied ? " --tied" : "");
}

static void add_training(const plan_run *p, char *out)
{
    const qs_train_options *t = &p->run.training;
    if (t->active_parts > 1 && given(p, OPT_ACTIVE_PARAMS))
        add(out, " --active-params %s", p->o->value[OPT_ACTIVE_PARAMS].text);
    else if (t->active_parts > 1)
        add(out, " --active-parts %lld", (long long)t->active_parts);
    if (t->active_parts > 1)
        add(out, "%s --sweeps %lld", t->active_by == QS_ACTIVE_BY_ROWS ? " --active-by rows" : "", (long long)t->sweeps);
    add(out, " --fsm-state %s --steps %lld --batch %lld", options_choice_text(OPT_FSM_STATE, t->fsm), (long long)t->steps,
        (long long)t->batch);
    if (t->precision != QS_PRECISION_F32)
        add(out, " --precision %s", qs_precision_name(t->precision));
    if (t->micro_batch != t->batch)
        add(out, " --micro-batch %lld", (long long)t->micro_batch);
    add(out, "%s", t->recompute ? " --recompute" : "");
}

char *plan_run_commands(const plan_run *p, char out[PLAN_COMMANDS])
{
    const plan_case *c = &p->run;
    const char *model = p->model.native ? p->o->operands[0] : "MODEL";
    out[0] = '\0';
    if (c->in_place && !p->model.native) {
        add(out, "qsbits init");
        add_shape(p, out);
        add(out, " --out MODEL\n");
    }
    add(out, "qsbits train");
    if (c->in_place)
        add(out, " --from %s --in-place", model);
    else if (p->model.native)
        add(out, " --from %s", model);
    if (c->in_place || p->model.native)
        add(out, " --ctx %lld", (long long)c->model.ctx);
    else
        add_shape(p, out);
    add_training(p, out);
    if (c->in_place && c->stream.slots != 3)
        add(out, " --slots %lld", (long long)c->stream.slots);
    if (given(p, OPT_RAM_BUDGET))
        add(out, " --ram-budget %s", p->o->value[OPT_RAM_BUDGET].text);
    else if (c->in_place && c->together > 0 && c->limit[QS_POOL_RAM] > 0)
        add(out, " --ram-budget %lldMB", (long long)(c->limit[QS_POOL_RAM] / 1000000));
    if (given(p, OPT_DEVICE_BUDGET))
        add(out, " --device-budget %s", p->o->value[OPT_DEVICE_BUDGET].text);
    add(out, " --data FILE --out RUN");
    return out;
}
