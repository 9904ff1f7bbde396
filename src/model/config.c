/* config.c - shapes of a model: defaults, presets, checks, counts, JSON. */
#include "model/model.h"

#include <string.h>
#include "io/json_text.h"

/* name, layers, dim, heads, kv_heads, ffn, ctx */
typedef struct preset {
    const char *name;
    int64_t layers, dim, heads, kv_heads, ffn, ctx;
} preset;

static const preset presets[] = {
    {"tiny", 2, 128, 4, 4, 384, 64},
    {"mini", 4, 256, 8, 8, 768, 128},
    {"small", 6, 384, 6, 6, 1024, 256},
    {"base", 12, 768, 12, 12, 2048, 512},
    {"large", 24, 1024, 16, 16, 2816, 1024},
    {"1b", 24, 2048, 16, 4, 5504, 2048},
    {"8b", 32, 4096, 32, 8, 14336, 2048},
    {"30b", 60, 6656, 52, 4, 17920, 2048},
    {"90b", 90, 9216, 72, 8, 29312, 2048},
};
enum { PRESETS = (int)(sizeof presets / sizeof presets[0]), MOST_RANK = 1024 };

/* One line per integer field: name, smallest, largest. The list serves checks and JSON. */
#define CONFIG_INTEGERS(X) \
    X(vocab, 2, 1 << 24) \
    X(layers, 1, 4096) \
    X(dim, 32, 1 << 20) \
    X(heads, 1, 1024) \
    X(kv_heads, 1, 1024) \
    X(head_dim, 4, 512) \
    X(ffn, 32, 1 << 22) \
    X(ctx, 2, 1 << 20) \
    X(qk_norm, 0, 1) \
    X(sub_norm, 0, 1) \
    X(dense, 0, 1) \
    X(tied, 0, 1)

void qs_model_config_default(qs_model_config *config)
{
    memset(config, 0, sizeof *config);
    config->struct_size = sizeof *config;
    config->vocab = 256;
    config->sub_norm = 1;
    config->rope_theta = 10000.0;
    config->norm_eps = 1e-5;
    config->layers = presets[0].layers;
    config->dim = presets[0].dim;
    config->heads = presets[0].heads;
    config->ctx = presets[0].ctx;
}

int qs_model_preset_count(void) { return PRESETS; }

const char *qs_model_preset_name(int index) { return index >= 0 && index < PRESETS ? presets[index].name : NULL; }

qs_status qs_model_preset(const char *name, qs_model_config *config)
{
    qs_status status = QS_OK;
    char known[160] = "";
    for (int i = 0; i < PRESETS; i++) {
        const preset *p = &presets[i];
        if (name && strcmp(name, p->name) == 0) {
            config->layers = p->layers;
            config->dim = p->dim;
            config->heads = p->heads;
            config->kv_heads = p->kv_heads;
            config->head_dim = 0;
            config->ffn = p->ffn;
            config->ctx = p->ctx;
            return QS_OK;
        }
        strcat(strcat(known, i ? ", " : ""), p->name);
    }
    QS_FAIL(QS_ERR_ARG, "there is no preset \"%s\"; choose one of %s", name ? name : "", known);
fail:
    return status;
}

static void fill_defaults(qs_model_config *c)
{
    if (c->kv_heads == 0)
        c->kv_heads = c->heads;
    if (c->head_dim == 0 && c->heads > 0)
        c->head_dim = c->dim / c->heads;
    if (c->ffn == 0 && c->dim > 0 && c->dim <= 1 << 20)
        c->ffn = qsi_round_up(qsi_ceil_div(8 * c->dim, 3), 128);
}

static qs_status check_multiples(const qs_model_config *c)
{
    qs_status status = QS_OK;
    if (c->dim % 32)
        QS_FAIL(QS_ERR_ARG, "dim %lld must be a multiple of 32", (long long)c->dim);
    if (c->ffn % 32)
        QS_FAIL(QS_ERR_ARG, "ffn %lld must be a multiple of 32", (long long)c->ffn);
    if (c->heads % c->kv_heads)
        QS_FAIL(QS_ERR_ARG, "heads %lld must be a multiple of kv_heads %lld", (long long)c->heads, (long long)c->kv_heads);
    if (c->head_dim % 2 || (c->heads * c->head_dim) % 32 || (c->kv_heads * c->head_dim) % 32)
        QS_FAIL(QS_ERR_ARG, "head_dim %lld must be even, and heads (%lld) and kv_heads (%lld) times it multiples of 32",
                (long long)c->head_dim, (long long)c->heads, (long long)c->kv_heads);
    if (!(c->rope_theta >= 1.0 && c->rope_theta <= 1e9))
        QS_FAIL(QS_ERR_ARG, "rope_theta %g must lie in 1..1e9", c->rope_theta);
    if (!(c->norm_eps > 0.0 && c->norm_eps <= 0.1))
        QS_FAIL(QS_ERR_ARG, "norm_eps %g must lie in (0, 0.1]", c->norm_eps);
fail:
    return status;
}

/* An adapter that is larger than its matrix is none of low rank. */
static qs_status check_adapters(const qs_model_config *c)
{
    qs_status status = QS_OK;
    const int64_t side = qsi_min(qsi_min(c->dim, c->ffn), c->kv_heads * c->head_dim);   /* kv_heads is at most heads */
    if (c->lora_rank == 0)
        return QS_OK;
    if (c->dense)
        QS_FAIL(QS_ERR_ARG, "lora_rank is %lld in a model of fp32 matrices; adapters stand beside 1-bit matrices",
                (long long)c->lora_rank);
    if (c->lora_rank < 1 || c->lora_rank > qsi_min(side, MOST_RANK))
        QS_FAIL(QS_ERR_ARG, "lora_rank is %lld; it must lie in 1..%lld (the smallest side of a matrix is %lld, the highest rank "
                "%d)", (long long)c->lora_rank, (long long)qsi_min(side, MOST_RANK), (long long)side, MOST_RANK);
fail:
    return status;
}

qs_status qs_model_config_resolve(qs_model_config *config)
{
    qs_status status = QS_OK;
    qs_model_config c;
    if (!config || config->struct_size != sizeof *config)
        QS_FAIL(QS_ERR_ARG, "model config: struct_size is not that of this library; start from qs_model_config_default");
    c = *config;
    fill_defaults(&c);
#define CHECK_RANGE(field, low, high) \
    if ((int64_t)c.field < (low) || (int64_t)c.field > (high)) \
        QS_FAIL(QS_ERR_ARG, #field " is %lld; it must lie in %lld..%lld", (long long)c.field, (long long)(low), (long long)(high));
    CONFIG_INTEGERS(CHECK_RANGE)
#undef CHECK_RANGE
    QS_TRY(check_multiples(&c));
    QS_TRY(check_adapters(&c));
    *config = c;
fail:
    return status;
}

qs_status qs_model_size_of(const qs_model_config *config, qs_model_size *size)
{
    qs_status status = QS_OK;
    qs_model_config c = *config;
    QS_TRY(qs_model_config_resolve(&c));
    const int64_t attention = c.heads * c.head_dim, group = c.kv_heads * c.head_dim;
    const int64_t block = 2 * c.dim * attention + 2 * c.dim * group + 3 * c.dim * c.ffn;
    const int64_t rows = attention + 2 * group + c.dim + 2 * c.ffn + c.dim;
    const int64_t sides = rows + 3 * c.dim + attention + 2 * c.dim + c.ffn;   /* N + K of all matrices */
    const int64_t adapters = c.layers * c.lora_rank * sides;
    const int64_t norms = 2 * c.dim + (c.qk_norm ? 2 * c.head_dim : 0) + (c.sub_norm ? attention + c.ffn : 0);
    size->packed_weights = c.layers * block;
    size->float_params = c.layers * (norms + (c.dense ? 0 : rows)) + (c.tied ? 1 : 2) * c.vocab * c.dim + c.dim +
                         adapters;
    size->packed_bytes = c.dense ? 4 * size->packed_weights : c.layers * (block / 8 + 2 * rows) + 4 * adapters;
fail:
    return status;
}

json_t *qsi_model_config_to_json(const qs_model_config *config)
{
    int missing = 0;   /* a member without memory */
    json_t *object = json_object();
#define PUT_INTEGER(field, low, high) missing |= json_object_set_new(object, #field, json_integer((json_int_t)config->field));
    CONFIG_INTEGERS(PUT_INTEGER)
#undef PUT_INTEGER
    missing |= json_object_set_new(object, "rope_theta", json_real(config->rope_theta));
    missing |= json_object_set_new(object, "norm_eps", json_real(config->norm_eps));
    if (config->lora_rank > 0)   /* absent: none, as in files from before there were adapters */
        missing |= json_object_set_new(object, "lora_rank", json_integer((json_int_t)config->lora_rank));
    if (!missing)
        return object;
    json_decref(object);
    return NULL;
}

static qs_status get_number(const json_t *object, const char *name, bool integer, const json_t **out)
{
    qs_status status = QS_OK;
    const json_t *value = json_object_get(object, name);
    if (!value || !(integer ? json_is_integer(value) : json_is_number(value)))
        QS_FAIL(QS_ERR_FORMAT, "model config: \"%s\" is missing or not a number", name);
    *out = value;
fail:
    return status;
}

qs_status qsi_model_config_from_json(const json_t *object, qs_model_config *config)
{
    qs_status status = QS_OK;
    qs_model_config c;
    const json_t *value = NULL;
    qs_model_config_default(&c);
#define GET_INTEGER(field, low, high) \
    QS_TRY(get_number(object, #field, true, &value)); \
    if (json_integer_value(value) < (low) || json_integer_value(value) > (high)) \
        QS_FAIL(QS_ERR_FORMAT, "model config: " #field " is %lld; it must lie in %lld..%lld", \
                (long long)json_integer_value(value), (long long)(low), (long long)(high)); \
    c.field = json_integer_value(value);
    CONFIG_INTEGERS(GET_INTEGER)
    if (json_object_get(object, "lora_rank")) {
        GET_INTEGER(lora_rank, 1, MOST_RANK)
    }
#undef GET_INTEGER
    QS_TRY(get_number(object, "rope_theta", false, &value));
    c.rope_theta = json_number_value(value);
    QS_TRY(get_number(object, "norm_eps", false, &value));
    c.norm_eps = json_number_value(value);
    if (qs_model_config_resolve(&c) != QS_OK) {   /* its text names the field */
        status = QS_ERR_FORMAT;
        goto fail;
    }
    *config = c;
fail:
    return status;
}

qs_status qsi_model_config_of(const qs_checkpoint *checkpoint, qs_model_config *config)
{
    qs_status status = QS_OK;
    json_t *all = NULL;
    json_error_t error;
    QS_TRY(qs_checkpoint_check_model(checkpoint));
    const char *text = qs_checkpoint_config(checkpoint), *path = qs_checkpoint_path(checkpoint);
    all = text ? json_loads(text, JSON_REJECT_DUPLICATES, &error) : NULL;
    if (text && !all && qsi_json_no_memory(&error))
        QS_FAIL(QS_ERR_NOMEM, "no memory to read the config of %s", path);
    if (!all)
        QS_FAIL(QS_ERR_FORMAT, "%s holds no model config", path);
    QS_TRY(qsi_model_config_from_json(json_object_get(all, "model"), config));
fail:
    json_decref(all);
    return status;
}
