/* plan_json.c - qsbits plan as one JSON object; bytes and seconds. */
#include <string.h>

#include "plan_run.h"
#include "settings.h"

static const char *const KEYS[PLAN_METHODS] = {
#define KEY(id, key, title) key,
    PLAN_METHOD_LIST(KEY)
#undef KEY
};

static void set(json_t *object, const char *key, json_t *value) { (void)json_object_set_new(object, key, value); }

static json_t *components_json(const double bytes[PLAN_COMPONENTS + 1])
{
    json_t *object = json_object();
    for (int i = 0; i <= PLAN_COMPONENTS; i++)
        set(object, plan_component_name((plan_component)i), json_number(bytes[i]));
    return object;
}

static json_t *methods_json(const plan_run *p)
{
    json_t *object = json_object();
    for (int i = 0; i < PLAN_METHODS; i++) {
        json_t *method = components_json(p->methods[i].bytes[QS_MEMORY_POOLS]);
        set(method, "fits", json_string(p->fits[i]));
        set(object, KEYS[i], method);
    }
    return object;
}

static json_t *figures_json(const plan_figures *f)
{
    if (!(f->weights > 0.0))
        return json_null();
    json_t *depths = json_object();
    for (int i = 0; i < PLAN_DEPTHS; i++)
        set(depths, f->depth[i].name, json_pack("{s:f, s:f, s:f, s:f}", "weights", f->depth[i].weights, "gradients", f->depth[i].gradients,
                                                "states", f->depth[i].states, "together", f->depth[i].together));
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "weights", f->weights, "active", f->active, "adamw_16bit",
                     f->adamw16, "fully_packed", f->packed, "base", f->base, "weights_16bit", f->once, "offloaded_step", f->step,
                     "block", f->block, "by_state", depths);
}

static json_t *tiers_json(const plan_run *p)
{
    const plan_case *c = &p->run;
    return json_pack("{s:o, s:o, s:o, s:{s:f, s:f}, s:{s:I, s:I, s:I}, s:f, s:f}", "ram", components_json(p->parts.bytes[QS_POOL_RAM]),
                     "device", components_json(p->parts.bytes[QS_POOL_DEVICE]), "together",
                     components_json(p->parts.bytes[QS_MEMORY_POOLS]), "disk", "model", p->model_file, "checkpoint", p->checkpoint,
                     "limits", "ram", (json_int_t)c->limit[QS_POOL_RAM], "device", (json_int_t)c->limit[QS_POOL_DEVICE], "together",
                     (json_int_t)c->together, "block", p->slab, "blocks_in_ram", p->kept);
}

static json_t *rates_json(const plan_run *p)
{
#define KEY(id, key, unit, title) key,
    static const char *const keys[] = {PLAN_RATE_LIST(KEY)};
#undef KEY
    json_t *object = json_object();
    for (int i = 0; i < PLAN_RATES; i++)
        set(object, keys[i], json_pack("{s:o, s:b}", "per_second", json_number(p->rates.per_second[i]), "given", p->rates.given[i]));
    return object;
}

static json_t *link_row(const plan_figures *f, double rate)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "bytes_per_second", json_number(rate), "weights_16bit_seconds",
                     json_number(f->once / rate), "offloaded_step_seconds", json_number(f->step / rate), "base_seconds",
                     json_number(f->base / rate), "block_seconds", json_number(f->block / rate));
}

static json_t *link_json(const plan_run *p)
{
    const plan_figures *f = p->nominal.weights > 0.0 ? &p->nominal : &p->shape;
    return json_pack("{s:o, s:o, s:o}", "used", link_row(f, p->rates.per_second[PLAN_RATE_LINK]), "pcie4_x16_lanes",
                     link_row(f, PLAN_PCIE4_RAW), "pcie4_x16", link_row(f, PLAN_PCIE4));
}

static json_t *times_json(const plan_run *p)
{
    const plan_times *t = &p->times;
    const struct { const char *key; double value; } rows[] = {
        {"operations", t->operations}, {"compute_seconds", t->compute}, {"copied_bytes", t->copied}, {"read_bytes", t->read},
        {"transfer_seconds", t->transfer}, {"hidden", t->hidden}, {"step_seconds", t->step}, {"merge_seconds", t->merge},
        {"phase_steps", t->phase_steps}, {"phase_seconds", t->phase}, {"phases_of_sweep", t->phases_of_sweep},
        {"sweep_seconds", t->sweep}, {"sweeps", t->sweeps}, {"run_seconds", t->run}, {"pulses_of_phase", t->pulses}};
    json_t *object = json_object();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        set(object, rows[i].key, json_number(rows[i].value));
    return object;
}

static json_t *settings_json(const plan_run *p)
{
    const plan_case *c = &p->run;
    return json_pack("{s:b, s:I, s:I, s:I, s:b, s:I, s:I, s:I, s:s, s:s, s:I}", "in_place", c->in_place, "steps",
                     (json_int_t)c->training.steps, "batch", (json_int_t)c->training.batch, "micro_batch",
                     (json_int_t)c->training.micro_batch, "recompute", c->training.recompute, "active_parts",
                     (json_int_t)c->training.active_parts, "sweeps", (json_int_t)c->training.sweeps, "slots",
                     (json_int_t)c->stream.slots, "fsm_state", options_choice_text(OPT_FSM_STATE, c->training.fsm), "precision",
                     qs_precision_name(c->training.precision), "tokens", (json_int_t)(c->training.batch * c->model.ctx));
}

json_t *plan_run_json(const plan_run *p)
{
    char commands[PLAN_COMMANDS];
    json_t *all = json_pack("{s:s, s:o, s:f, s:f, s:f, s:f, s:I}", "name", p->model.name, "model", settings_model_json(&p->run.model),
                            "weights", p->counts.weights, "active_weights", p->counts.active, "embedding_params", p->counts.embeddings,
                            "norm_params", p->counts.norms, "parts_of_phased", (json_int_t)p->phased.training.active_parts);
    set(all, "settings", settings_json(p));
    set(all, "methods", methods_json(p));
    set(all, "nominal", figures_json(&p->nominal));
    set(all, "shape", figures_json(&p->shape));
    set(all, "tiers", tiers_json(p));
    set(all, "fits", json_boolean(p->verdict.fits));
    set(all, "most", json_pack("{s:I, s:I, s:I, s:f}", "windows", (json_int_t)p->most_windows, "ctx", (json_int_t)p->most_ctx, "tokens",
                               (json_int_t)(p->most_windows * p->most_ctx), "token_bytes", p->token_bytes));
    set(all, "rates", rates_json(p));
    set(all, "link", link_json(p));
    set(all, "times", times_json(p));
    json_t *lines = json_array();
    for (char *line = plan_run_commands(p, commands), *next = NULL; line != NULL; line = next) {
        next = strchr(line, '\n');
        if (next != NULL)
            *next++ = '\0';
        (void)json_array_append_new(lines, json_string(line));
    }
    set(all, "commands", lines);
    return all;
}
