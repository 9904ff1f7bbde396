/* settings.c - see settings.h. */
#include "settings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int settings_model(const options *o, qs_model_config *config)
{
    const option_value *v = o->value;
    qs_model_config_default(config);
    if (v[OPT_PRESET].given) {
        const qs_status status = qs_model_preset(v[OPT_PRESET].text, config);
        if (status != QS_OK)
            return fail_library(o->command->name, status, "see qsbits train --help");
    }
    if (v[OPT_LAYERS].given)
        config->layers = v[OPT_LAYERS].integer;
    if (v[OPT_DIM].given || v[OPT_HEADS].given || v[OPT_HEAD_DIM].given) {
        config->kv_heads = v[OPT_HEADS].given ? 0 : config->kv_heads;
        config->ffn = v[OPT_DIM].given ? 0 : config->ffn;  /* parts of a preset that follow from what was overridden */
        config->dim = v[OPT_DIM].given ? v[OPT_DIM].integer : config->dim;
        config->heads = v[OPT_HEADS].given ? v[OPT_HEADS].integer : config->heads;
        config->head_dim = v[OPT_HEAD_DIM].given ? v[OPT_HEAD_DIM].integer : 0;
    }
    if (v[OPT_KV_HEADS].given)
        config->kv_heads = v[OPT_KV_HEADS].integer;
    if (v[OPT_FFN].given)
        config->ffn = v[OPT_FFN].integer;
    if (v[OPT_CTX].given)
        config->ctx = v[OPT_CTX].integer;
    config->qk_norm = (int32_t)v[OPT_QK_NORM].integer;
    config->sub_norm = v[OPT_NO_SUB_NORM].integer == 0;
    config->tied = (int32_t)v[OPT_TIED].integer;
    config->dense = v[OPT_OPTIMIZER].integer == QS_OPTIMIZER_ADAMW;
    if (v[OPT_OPTIMIZER].integer == QS_OPTIMIZER_LORA)
        config->lora_rank = v[OPT_RANK].given ? v[OPT_RANK].integer : QS_LORA_RANK;
    const qs_status status = qs_model_config_resolve(config);
    return status == QS_OK ? 0
                           : fail_library(o->command->name, status,
                                          "change --layers, --dim, --heads, --kv-heads, --head-dim, "
                                          "--ffn, --ctx or --rank");
}

void settings_list_presets(FILE *out)
{
    fprintf(out, "\nPresets:\n");
    for (int i = 0; i < qs_model_preset_count(); i++) {
        char weights[16], bytes[16];
        qs_model_config c;
        qs_model_size size;
        qs_model_config_default(&c);
        if (qs_model_preset(qs_model_preset_name(i), &c) == QS_OK && qs_model_config_resolve(&c) == QS_OK &&
            qs_model_size_of(&c, &size) == QS_OK)
            fprintf(out,
                    "  %-8s %3lld layers, %5lld wide, ffn %5lld, %2lld heads, %2lld kv heads, ctx %4lld: %s weights in %s\n",
                    qs_model_preset_name(i), (long long)c.layers, (long long)c.dim, (long long)c.ffn, (long long)c.heads,
                    (long long)c.kv_heads, (long long)c.ctx, human_count((double)size.packed_weights, weights),
                    human_bytes((double)size.packed_bytes, bytes));
    }
}

/* The fewest parts of which none has more weights than asked for. */
static int64_t active_parts(const option_value *v, const qs_model_config *model)
{
    qs_model_size size;
    if (!v[OPT_ACTIVE_PARAMS].given || qs_model_size_of(model, &size) != QS_OK)
        return v[OPT_ACTIVE_PARTS].integer;
    return (size.packed_weights + v[OPT_ACTIVE_PARAMS].integer - 1) / v[OPT_ACTIVE_PARAMS].integer;
}

/* A run that goes on from weights keeps some of what they know, where the machine can: a chain with its default recipe. In place, where
 * every bit a weight counts, only what is asked for. */
static double automatic_anchor(const option_value *v, const qs_train_options *t)
{
    const bool chain = t->optimizer == QS_OPTIMIZER_FSM && t->recipe == QS_RECIPE_DEFAULT && t->fsm != QS_FSM_C8;
    return chain && v[OPT_FROM].given && v[OPT_IN_PLACE].integer == 0 ? 0.2 : 0.0;
}

void settings_training(const options *o, const qs_model_config *model, qs_train_options *training)
{
    const option_value *v = o->value;
    qs_train_options_default(training);
    training->optimizer = (qs_optimizer)v[OPT_OPTIMIZER].integer;
    training->fsm = (qs_fsm)v[OPT_FSM_STATE].integer;
    training->recipe = (qs_recipe)v[OPT_FSM_RECIPE].integer;
    if (training->recipe == QS_RECIPE_LITERAL && !v[OPT_FSM_STATE].given)
        training->fsm = QS_FSM_T2;
    training->lora_rank = v[OPT_RANK].integer;
    training->precision = (qs_precision)v[OPT_PRECISION].integer;
    training->schedule = (qs_schedule)v[OPT_SCHEDULE].integer;
    training->steps = v[OPT_STEPS].integer;
    training->batch = v[OPT_BATCH].integer;
    training->micro_batch = v[OPT_MICRO_BATCH].integer;
    training->recompute = (int32_t)v[OPT_RECOMPUTE].integer;
    training->seed = (uint64_t)v[OPT_SEED].integer;
    training->lr = v[OPT_LR].real;
    training->matrix_lr = v[OPT_MATRIX_LR].real;
    training->scale_lr = v[OPT_SCALE_LR].real;
    training->warmup = v[OPT_WARMUP].given ? v[OPT_WARMUP].integer : -1;
    training->final_lr = v[OPT_FINAL_LR].given ? v[OPT_FINAL_LR].real : -1.0;
    training->weight_decay = v[OPT_WEIGHT_DECAY].real;
    training->clip = v[OPT_CLIP].real;
    training->density_start = v[OPT_DENSITY_START].real;
    training->density_end = v[OPT_DENSITY_END].real;
    training->anchor = v[OPT_ANCHOR].given ? v[OPT_ANCHOR].real : automatic_anchor(v, training);
    training->active_parts = active_parts(v, model);
    training->full_backward = (int32_t)v[OPT_FULL_BACKWARD].integer;
    training->sweeps = v[OPT_SWEEPS].integer;
    training->active_by = (qs_active_by)v[OPT_ACTIVE_BY].integer;
    if (!v[OPT_ACTIVE_BY].given && (v[OPT_IN_PLACE].integer != 0 || v[OPT_ACTIVE_PARAMS].given))
        training->active_by = QS_ACTIVE_BY_BLOCKS;   /* what rests need not be computed back through */
    training->active_order = (qs_active_order)v[OPT_ACTIVE_ORDER].integer;
    training->health_window = v[OPT_HEALTH].given ? v[OPT_HEALTH].integer : -1;
}

int settings_check_use(const options *o)
{
    const option_value *v = o->value;
    const option_id by_parts[] = {OPT_ACTIVE_BY, OPT_ACTIVE_ORDER};
    if (v[OPT_RANK].given && v[OPT_OPTIMIZER].integer != QS_OPTIMIZER_LORA)
        return fail_usage(o->command->name, "--rank is for --optimizer lora, which has adapters; leave it away");
    if (v[OPT_ANCHOR].given && !v[OPT_FROM].given)
        return fail_usage(o->command->name, "--anchor pulls weights back to the signs of --from; add --from RUN or leave it away");
    if (v[OPT_ACTIVE_PARAMS].given && v[OPT_ACTIVE_PARTS].given)
        return fail_usage(o->command->name, "--active-params and --active-parts say the same in two ways; leave one of them away");
    if (v[OPT_SLOTS].given && options_of(OPT_IN_PLACE, o->command) && v[OPT_IN_PLACE].integer == 0)
        return fail_usage(o->command->name, "--slots are for blocks that stream, with --in-place; leave it away");
    if (v[OPT_FULL_BACKWARD].integer != 0 && v[OPT_ACTIVE_PARTS].integer <= 1 && !v[OPT_ACTIVE_PARAMS].given)
        return fail_usage(o->command->name, "--full-backward is for more than one part; add --active-parts or leave it away");
    if (v[OPT_KEEP_BASE].integer != 0 && v[OPT_IN_PLACE].integer == 0)
        return fail_usage(o->command->name, "--keep-base is for --in-place, which changes the model of --from; leave it away");
    if (v[OPT_IN_PLACE].integer != 0 && !v[OPT_FROM].given)
        return fail_usage(o->command->name, "--in-place trains the model of --from; add --from MODEL, such as one of qsbits init");
    if (v[OPT_IN_PLACE].integer != 0 && (v[OPT_KEEP_BEST].given || v[OPT_PATIENCE].integer > 0))
        return fail_usage(o->command->name, "--%s is not for --in-place: one model is written into phase by phase, and there is no way "
                          "back to an earlier one; leave it away", v[OPT_KEEP_BEST].given ? "keep-best" : "patience");
    if (v[OPT_IN_PLACE].integer != 0 && v[OPT_HEALTH].integer > 0)
        return fail_usage(o->command->name, "--health is not measured --in-place, where most rows are not in memory; leave it away");
    if (v[OPT_IN_PLACE].integer != 0 && v[OPT_OPTIMIZER].integer != QS_OPTIMIZER_FSM)
        return fail_usage(o->command->name, "--in-place is for --optimizer fsm, which needs no copy of the weights; leave it away");
    for (int i = 0; i < 2; i++)
        if (v[by_parts[i]].given && v[OPT_ACTIVE_PARTS].integer <= 1 && !v[OPT_ACTIVE_PARAMS].given)
            return fail_usage(o->command->name, "--%s is for more than one part; add --active-parts or leave it away",
                              options_row(by_parts[i])->name);
    return 0;
}

/* The option called name, OPTIONS if there is none; one that is a setting of the command goes first. */
static option_id find_setting(const command *which, const char *name)
{
    option_id found = OPTIONS;
    for (int i = OPTIONS - 1; i >= 0; i--)
        if (strcmp(options_row((option_id)i)->name, name) == 0 && (found == OPTIONS || options_is_setting((option_id)i, which)))
            found = (option_id)i;
    return found;
}

/* A number, true or false becomes its text in place. */
static const char *value_text(json_t *object, const char *key, json_t *value)
{
    if (!json_is_string(value) && !json_is_array(value) && !json_is_object(value) && !json_is_null(value)) {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
        (void)json_object_set_new(object, key, text == NULL ? json_null() : json_string(text));
        free(text);
    }
    return json_string_value(json_object_get(object, key));
}

int settings_merge(options *o, json_t *config, const char *path)
{
    json_t *inner = json_object_get(config, "options");
    json_t *object = json_is_object(inner) ? inner : config, *value = NULL;
    const char *key = NULL;
    void *next = NULL;
    if (!json_is_object(object))
        return fail_with(EXIT_DATA, o->command->name, "%s holds no JSON object; write {\"steps\": 1000, ...}", path);
    json_object_foreach_safe(object, next, key, value) {
        char where[512];
        const option_id id = find_setting(o->command, key);
        const char *text = value_text(object, key, value);
        if (id == OPTIONS)
            return fail_with(EXIT_DATA, o->command->name, "%s: no option is called '%s'; see qsbits %s --help", path, key,
                             o->command->name);
        if (!options_is_setting(id, o->command) || o->value[id].given)
            continue;
        (void)snprintf(where, sizeof where, "%s: %s", path, key);
        if (text == NULL)
            return fail_with(EXIT_DATA, o->command->name, "%s must be a text, a number, true or false; change it", where);
        if (options_row(id)->kind == FLAG && strcmp(text, "false") == 0)
            continue;
        if (!options_set(o, id, where, text))
            return EXIT_DATA;
    }
    return 0;
}

int settings_read(options *o, const char *path, json_t **out)
{
    json_error_t error;
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return fail_with(66, o->command->name, "cannot open %s (%s); check the path given with --config", path,
                         strerror(errno));
    *out = json_loadf(file, JSON_REJECT_DUPLICATES, &error);
    (void)fclose(file);
    if (*out == NULL)
        return fail_with(EXIT_DATA, o->command->name, "%s, line %d: %s; write one JSON object", path, error.line, error.text);
    return settings_merge(o, *out, path);
}

json_t *settings_options(const options *o, const char *data)
{
    json_t *object = json_object();
    for (int i = 0; i < OPTIONS; i++) {
        const option_id id = (option_id)i;
        const char *text = id == OPT_DATA ? data : o->value[i].text;
        if (options_is_setting(id, o->command) && text != NULL)
            (void)json_object_set_new(object, options_row(id)->name, json_string(text));
    }
    return object;
}

json_t *settings_model_json(const qs_model_config *c)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:b, s:b, s:I, s:f, s:f}", "vocab", (json_int_t)c->vocab,
                     "layers", (json_int_t)c->layers, "dim", (json_int_t)c->dim, "heads", (json_int_t)c->heads, "kv_heads",
                     (json_int_t)c->kv_heads, "head_dim", (json_int_t)c->head_dim, "ffn", (json_int_t)c->ffn, "ctx",
                     (json_int_t)c->ctx, "qk_norm", c->qk_norm, "sub_norm", c->sub_norm, "tied", c->tied, "dense", c->dense,
                     "lora_rank", (json_int_t)c->lora_rank, "rope_theta", c->rope_theta, "norm_eps", c->norm_eps);
}

/* Integers of settings_model_json; switches are numbers in checkpoints. */
#define MODEL_INTEGERS(X) \
    X(vocab) X(layers) X(dim) X(heads) X(kv_heads) X(head_dim) X(ffn) X(ctx) X(qk_norm) X(sub_norm) X(tied) X(dense)

static bool take_integer(const json_t *model, const char *key, int64_t *out)
{
    const json_t *value = json_object_get(model, key);
    *out = json_is_boolean(value) ? json_is_true(value) : json_integer_value(value);
    return (json_is_boolean(value) || json_is_integer(value)) && *out >= 0 && *out <= INT32_MAX;
}

bool settings_model_from_json(const json_t *model, qs_model_config *config)
{
    int64_t value = 0;
    const json_t *theta = json_object_get(model, "rope_theta"), *eps = json_object_get(model, "norm_eps");
    qs_model_config_default(config);
#define TAKE(field) \
    if (!take_integer(model, #field, &value)) \
        return false; \
    config->field = value;
    MODEL_INTEGERS(TAKE)
#undef TAKE
    if (json_object_get(model, "lora_rank") != NULL && !take_integer(model, "lora_rank", &config->lora_rank))
        return false;
    if (!json_is_number(theta) || !json_is_number(eps))
        return false;
    config->rope_theta = json_number_value(theta);
    config->norm_eps = json_number_value(eps);
    return qs_model_config_resolve(config) == QS_OK;
}

static json_t *training_json(const qs_train_options *t)
{
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:b, s:I, s:f, s:f, s:f, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:i, s:I, s:I, "
        "s:s, s:s, s:I, s:b}",
        "optimizer", options_choice_text(OPT_OPTIMIZER, t->optimizer), "fsm_state",
        options_choice_text(OPT_FSM_STATE, t->fsm), "fsm_recipe", options_choice_text(OPT_FSM_RECIPE, t->recipe), "precision",
        qs_precision_name(t->precision), "schedule",
        options_choice_text(OPT_SCHEDULE, t->schedule), "steps", (json_int_t)t->steps, "batch", (json_int_t)t->batch,
        "micro_batch", (json_int_t)t->micro_batch, "recompute", t->recompute, "seed", (json_int_t)t->seed, "lr", t->lr,
        "matrix_lr", t->matrix_lr, "scale_lr", t->scale_lr, "warmup", (json_int_t)t->warmup, "final_lr", t->final_lr,
        "weight_decay", t->weight_decay, "clip", t->clip, "density_start", t->density_start, "density_end", t->density_end,
        "anchor", t->anchor, "amplitude_start", t->amplitude_start, "amplitude_end", t->amplitude_end, "sticky", t->sticky,
        "active_parts", (json_int_t)t->active_parts, "sweeps", (json_int_t)t->sweeps,
        "active_by", options_choice_text(OPT_ACTIVE_BY, t->active_by), "active_order",
        options_choice_text(OPT_ACTIVE_ORDER, t->active_order), "health_window", (json_int_t)t->health_window, "full_backward",
        t->full_backward);
}

json_t *settings_config(const options *o, const char *data, const qs_text_info *text, const qs_model_config *model,
                        const qs_train_options *training)
{
    return json_pack("{s:s, s:o, s:o, s:o, s:{s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:s}}", "qsbits", qs_version(), "options",
                     settings_options(o, data), "model", settings_model_json(model), "training", training_json(training), "text",
                     "tokens", (json_int_t)text->tokens, "train_tokens", (json_int_t)text->train_tokens, "val_tokens",
                     (json_int_t)text->val_tokens, "files", (json_int_t)text->files, "skipped", (json_int_t)text->skipped,
                     "entropy0", text->entropy0, "entropy1", text->entropy1, "hash", text->hash);
}
