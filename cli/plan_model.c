/* plan_model.c - see plan_model.h. */
#include "plan_model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "settings.h"

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static bool is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static bool is_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

/* ---- a config.json of Hugging Face --------------------------------------------------------------------------------- */

/* Integer members: key, field, needed. num_key_value_heads and head_dim follow from others where they are missing. */
#define HUGGING_FACE(X) \
    X("hidden_size", dim, true) \
    X("num_hidden_layers", layers, true) \
    X("num_attention_heads", heads, true) \
    X("num_key_value_heads", kv_heads, false) \
    X("head_dim", head_dim, false) \
    X("intermediate_size", ffn, true) \
    X("vocab_size", vocab, true) \
    X("max_position_embeddings", ctx, false)

static int take_member(const options *o, const char *path, const json_t *object, const char *key, bool needed, int64_t *field)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL || json_is_null(value))
        return !needed ? 0
                       : fail_with(EXIT_DATA, o->command->name, "%s has no %s; give the config.json of a decoder such as Llama, or the "
                                   "options of a shape", path, key);
    if (!json_is_integer(value) || json_integer_value(value) < 1 || json_integer_value(value) > INT32_MAX)
        return fail_with(EXIT_DATA, o->command->name, "%s: %s is no number from 1 to %d; correct it", path, key, INT32_MAX);
    *field = json_integer_value(value);
    return 0;
}

/* What would make another graph of it. */
static int refuse_other(const options *o, const char *path, const json_t *object)
{
    static const char *const others[] = {"num_local_experts", "num_experts", "n_routed_experts", "encoder_layers", "vision_config",
                                         "text_config", "kv_lora_rank", "ssm_cfg"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (json_object_get(object, others[i]) != NULL && !json_is_null(json_object_get(object, others[i])))
            return fail_with(EXIT_DATA, o->command->name, "%s has %s, so it is no plain decoder of attention and SwiGLU; give one of "
                             "those, or the options of a shape", path, others[i]);
    return 0;
}

static int take_hugging_face(const options *o, const char *path, const json_t *object, qs_model_config *c)
{
    int code = refuse_other(o, path, object);
    qs_model_config_default(c);
    c->heads = c->kv_heads = c->head_dim = c->ffn = 0;
#define TAKE(key, field, needed) \
    if (code == 0) \
        code = take_member(o, path, object, key, needed, &c->field);
    HUGGING_FACE(TAKE)
#undef TAKE
    const json_t *theta = json_object_get(object, "rope_theta");
    if (json_is_number(theta))
        c->rope_theta = json_number_value(theta);
    c->tied = json_is_true(json_object_get(object, "tie_word_embeddings"));
    return code;
}

/* A config.json: of a run of ours, or of Hugging Face. */
static int read_json(const options *o, const char *path, plan_model *out)
{
    json_error_t error;
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return fail_with(66, o->command->name, "cannot open %s (%s); check the path", path, strerror(errno));
    json_t *object = json_loadf(file, JSON_REJECT_DUPLICATES, &error);
    (void)fclose(file);
    int code = 0;
    if (!json_is_object(object))
        code = fail_with(EXIT_DATA, o->command->name, "%s holds no JSON object (line %d: %s); give a config.json", path, error.line,
                         object == NULL ? error.text : "something else");
    else if (json_is_object(json_object_get(object, "model"))) {
        if (!settings_model_from_json(json_object_get(object, "model"), &out->config))
            code = fail_with(EXIT_DATA, o->command->name, "%s does not tell the shape of a model; give a config.json of qsbits train or "
                             "of Hugging Face", path);
    } else {
        code = take_hugging_face(o, path, object, &out->config);
    }
    json_decref(object);
    return code;
}

/* ---- a model of ours ------------------------------------------------------------------------------------------------ */

static int read_checkpoint(const options *o, qs_context *context, const char *path, plan_model *out)
{
    qs_checkpoint *checkpoint = NULL;
    const char *name = o->command->name;
    qs_status status = qs_checkpoint_open(context, path, &checkpoint);
    if (status == QS_OK)
        status = qs_checkpoint_check_model(checkpoint);
    if (status != QS_OK) {
        qs_checkpoint_close(&checkpoint);
        return fail_library(name, status, "give a model of qsbits, a config.json, or the options of a shape");
    }
    const char *text = qs_checkpoint_config(checkpoint);
    json_t *config = text == NULL ? NULL : json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    const bool read = settings_model_from_json(json_object_get(config, "model"), &out->config);
    json_decref(config);
    (void)snprintf(out->file, sizeof out->file, "%s%s", qs_checkpoint_path(checkpoint),
                   ends_with(qs_checkpoint_path(checkpoint), ".safetensors") ? "" : "/model.safetensors");
    out->native = qs_checkpoint_manifest(checkpoint) != NULL;
    qs_checkpoint_close(&checkpoint);
    return read ? 0 : fail_with(EXIT_DATA, name, "%s does not tell the shape of its model; give what qsbits wrote", path);
}

/* "qsbits init" and a folder of Hugging Face can be told apart: only the latter, and runs, have a config.json. */
static int read_operand(const options *o, qs_context *context, plan_model *out)
{
    char path[PATH_MAX];
    const char *operand = o->operands[0];
    const int n = snprintf(path, sizeof path, "%s%s", operand, is_folder(operand) ? "/config.json" : "");
    if (operand[0] == '\0' || n <= 0 || (size_t)n >= sizeof path)
        return fail_usage(o->command->name, "the path of the model is empty or too long; give a folder or a file");
    if (!is_file(path) && !is_folder(operand))
        return fail_with(66, o->command->name, "there is no %s; give a model folder, a model.safetensors or a config.json", operand);
    (void)snprintf(out->name, sizeof out->name, "%s", operand);
    return ends_with(path, ".json") && is_file(path) ? read_json(o, path, out) : read_checkpoint(o, context, operand, out);
}

/* ---- both ----------------------------------------------------------------------------------------------------------- */

/* "90b" is 90e9. */
static double nominal_of(const char *preset)
{
    char *end = NULL;
    const double number = preset == NULL ? 0.0 : strtod(preset, &end);
    return number > 0.0 && (strcmp(end, "b") == 0 || strcmp(end, "B") == 0) ? number * 1e9 : 0.0;
}

static int refuse_shape(const options *o)
{
    static const option_id shape[] = {OPT_PRESET, OPT_LAYERS, OPT_DIM, OPT_HEADS, OPT_KV_HEADS, OPT_HEAD_DIM, OPT_FFN, OPT_TIED};
    for (size_t i = 0; i < sizeof shape / sizeof shape[0]; i++)
        if (o->value[shape[i]].given)
            return fail_usage(o->command->name, "--%s is for a shape without a model, and %s has its own; leave one of them away",
                              options_row(shape[i])->name, o->operands[0]);
    return 0;
}

int plan_model_read(const options *o, qs_context *context, plan_model *out)
{
    const option_value *v = o->value;
    *out = (plan_model){.nominal = (double)v[OPT_NOMINAL].integer};
    if (o->operand_count == 0) {
        const int code = settings_model(o, &out->config);
        (void)snprintf(out->name, sizeof out->name, "preset %s%s", v[OPT_PRESET].given ? v[OPT_PRESET].text : "tiny",
                       v[OPT_LAYERS].given || v[OPT_DIM].given || v[OPT_FFN].given ? ", changed" : "");
        const bool plain = !v[OPT_LAYERS].given && !v[OPT_DIM].given && !v[OPT_FFN].given;
        if (!v[OPT_NOMINAL].given && plain)
            out->nominal = nominal_of(v[OPT_PRESET].text);
        return code;
    }
    int code = refuse_shape(o);
    if (code == 0)
        code = read_operand(o, context, out);
    if (code != 0)
        return code;
    if (v[OPT_CTX].given)
        out->config.ctx = v[OPT_CTX].integer;
    if (v[OPT_QK_NORM].given)
        out->config.qk_norm = 1;
    if (v[OPT_NO_SUB_NORM].given)
        out->config.sub_norm = 0;
    out->config.dense = 0;
    out->config.lora_rank = 0;
    const qs_status status = qs_model_config_resolve(&out->config);
    return status == QS_OK ? 0 : fail_with(EXIT_DATA, o->command->name, "%s: %s; qsbits cannot train this shape", out->name,
                                           qs_last_error());
}
