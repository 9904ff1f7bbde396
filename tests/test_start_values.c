/* test_start_values.c - signs, levels, latents and floats of step 0 are the draws that docs/numerics.md, section 3, describes,
 * made again here from qs_philox alone. */
#include <math.h>
#include "training_case.h"

enum { SEED = 5, FLOAT_ID = 1 << 16, MOST_VALUES = 256 * 96 };

/* Word number `word` of the draws (0, purpose, tensor, row, first + word / 4). */
static uint32_t word_of(qs_random_purpose purpose, uint32_t tensor, int64_t row, int64_t first, int64_t word)
{
    uint32_t out[4];
    qs_philox(SEED, 0, purpose, tensor, (uint32_t)row, (uint32_t)(first + word / 4), out);
    return out[word % 4];
}

static int sign_of(uint32_t tensor, int64_t row, int64_t col)
{
    return word_of(QS_RANDOM_WEIGHTS, tensor, row, 0, col / 32) >> (col % 32) & 1 ? 1 : -1;
}

/* The value of qs_unpack: level for chains, s for t2, signed level for c8. */
static int level_of(qs_fsm fsm, uint32_t tensor, int64_t row, int64_t col)
{
    int level = 0;
    if (fsm == QS_FSM_T2) {
        static const int value[3] = {0, 1, -1};
        return value[word_of(QS_RANDOM_LEVELS, tensor, row, 0, col) % 3];
    }
    if (fsm == QS_FSM_C8) {
        level = 1 + (int)(word_of(QS_RANDOM_LEVELS, tensor, row, 0, col / 4) >> 8 * (col % 4) & 127);
        return sign_of(tensor, row, col) * level;
    }
    for (int p = 0; p < (fsm == QS_FSM_C2 ? 2 : 4); p++)
        level |= (int)(word_of(QS_RANDOM_LEVELS, tensor, row, p * INT64_C(1048576), col / 32) >> (col % 32) & 1) << p;
    return 1 + level;
}

/* Number i of a tensor's normal numbers. */
static double normal_of(uint32_t tensor, int64_t i)
{
    const double tau = 2.0 * acos(-1.0), unit = 1.0 / 4294967296.0;
    const double u0 = (word_of(QS_RANDOM_FLOATS, tensor, 0, 0, i / 2 * 2) + 0.5) * unit;
    const double u1 = (word_of(QS_RANDOM_FLOATS, tensor, 0, 0, i / 2 * 2 + 1) + 0.5) * unit;
    return sqrt(-2.0 * log(u0)) * (i % 2 ? sin(tau * u1) : cos(tau * u1));
}

static const char *const matrices[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                       "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};

/* Unpacks <matrix><suffix>; returns its shape. */
static qs_tensor_info unpack(const qs_checkpoint *checkpoint, const char *matrix, const char *suffix, qs_format format, int16_t *out)
{
    char name[192];
    qs_tensor_info info;
    snprintf(name, sizeof name, "%s%s", matrix, suffix);
    const int64_t index = qs_checkpoint_find(checkpoint, name);
    assert_true(index >= 0);
    ok(qs_checkpoint_tensor(checkpoint, index, &info));
    assert_int_equal(info.format, format);
    assert_true(info.rows * info.cols <= MOST_VALUES);
    ok(qs_unpack(format, info.rows, info.cols, qs_checkpoint_data(checkpoint, index), out));
    return info;
}

static void check_packed(const qs_checkpoint *checkpoint, const arm *a, const char *matrix, uint32_t id)
{
    static int16_t values[MOST_VALUES];
    int64_t n = 0;
    const qs_tensor_info w = unpack(checkpoint, matrix, ".weight", QS_W1, values);
    for (int64_t i = 0; i < w.rows * w.cols; i++)
        assert_int_equal(values[i], sign_of(id, i / w.cols, i % w.cols));
    if (a->optimizer == QS_OPTIMIZER_FSM) {
        const qs_tensor_info s = unpack(checkpoint, matrix, ".weight_state", qs_fsm_rule_of(a->fsm)->format, values);
        assert_true(s.rows == w.rows && s.cols == w.cols);
        for (int64_t i = 0; i < w.rows * w.cols; i++)
            assert_int_equal(values[i], a->recipe == QS_RECIPE_LITERAL ? 0 : level_of(a->fsm, id, i / w.cols, i % w.cols));
    }
    if (a->optimizer == QS_OPTIMIZER_STE) {
        const float *latent = floats_of(checkpoint, matrix, ".latent", &n);
        assert_true(latent && n == w.rows * w.cols);
        for (int64_t i = 0; i < n; i++) {
            const double size = fabs(normal_of(id, i)) / sqrt((double)w.cols);
            assert_true(fabs((double)latent[i] - sign_of(id, i / w.cols, i % w.cols) * size) < 1e-6);
        }
    }
    const float *master = floats_of(checkpoint, matrix, ".weight_scale_master", &n);
    assert_true(master && n == w.rows);
    for (int64_t i = 0; i < n; i++)
        assert_true(master[i] == 1.0f);
}

/* All scales of a matrix are alpha0 rounded to fp16; dense weights are normal with deviation alpha0. */
static void check_size(const qs_checkpoint *checkpoint, const arm *a, const setup *s, const char *matrix, int64_t index)
{
    char name[192];
    qs_tensor_info info;
    int64_t n = 0;
    const int64_t kind = index % 7;
    const int64_t fan_in = kind == 3 ? s->config.heads * s->config.head_dim : kind == 6 ? s->config.ffn : s->config.dim;
    double alpha = 1.0 / sqrt((double)fan_in);
    if (kind == 3 || kind == 6)
        alpha *= 0.3 * sqrt(2.0 / (double)s->config.layers);
    if (a->optimizer == QS_OPTIMIZER_ADAMW) {
        const float *w = floats_of(checkpoint, matrix, ".weight", &n);
        assert_non_null(w);
        for (int64_t i = 0; i < n; i++)
            assert_true(fabs((double)w[i] - alpha * normal_of((uint32_t)index, i)) < 1e-6);
        return;
    }
    snprintf(name, sizeof name, "%s.weight_scale", matrix);
    ok(qs_checkpoint_tensor(checkpoint, qs_checkpoint_find(checkpoint, name), &info));
    const uint16_t *scale = qs_checkpoint_data(checkpoint, qs_checkpoint_find(checkpoint, name));
    for (int64_t i = 0; i < info.cols; i++)
        assert_int_equal(scale[i], qs_float_to_half((float)alpha));
}

/* Number `index` in the list of floats: embedding, six norms a block, final norm, head. deviation 0: all ones. */
static void check_floats(const qs_checkpoint *checkpoint, const char *name, int64_t index, double deviation)
{
    int64_t n = 0;
    const float *x = floats_of(checkpoint, name, "", &n);
    for (int64_t i = 0; x && i < n; i++)
        assert_true(fabs((double)x[i] - (deviation > 0.0 ? deviation * normal_of((uint32_t)(FLOAT_ID + index), i) : 1.0)) < 2e-6);
    assert_true(x || strstr(name, "norm") || strstr(name, "head"));
}

static void check_all(const qs_checkpoint *checkpoint, const arm *a, const setup *s)
{
    static const char *const norms[] = {"input_layernorm", "self_attn.q_norm", "self_attn.k_norm", "self_attn.attn_sub_norm",
                                        "post_attention_layernorm", "mlp.ffn_sub_norm"};
    char name[160];
    const double head = 1.0 / sqrt((double)s->config.dim);
    check_floats(checkpoint, "model.embed_tokens.weight", 0, s->config.tied ? head : 0.5);
    for (int64_t l = 0; l < s->config.layers; l++) {
        for (int i = 0; i < 7; i++) {
            snprintf(name, sizeof name, "model.layers.%d.%s", (int)l, matrices[i]);
            if (a->optimizer != QS_OPTIMIZER_ADAMW)
                check_packed(checkpoint, a, name, (uint32_t)(7 * l + i));
            check_size(checkpoint, a, s, name, 7 * l + i);
        }
        for (int i = 0; i < 6; i++) {
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", (int)l, norms[i]);
            check_floats(checkpoint, name, 1 + 6 * l + i, 0.0);
        }
    }
    check_floats(checkpoint, "model.norm.weight", 1 + 6 * s->config.layers, 0.0);
    check_floats(checkpoint, "lm_head.weight", 2 + 6 * s->config.layers, head);
    assert_int_equal(qs_checkpoint_find(checkpoint, "lm_head.weight") < 0, s->config.tied);
}

static void test_start_values(void **state)
{
    (void)state;
    for (int i = 0; i < ARMS; i++) {
        setup s = small_setup(arms[i].optimizer, arms[i].fsm, arms[i].recipe);
        const file_path folder = path_of(arms[i].name);
        s.config.ffn = 96;              /* rows of 3 words: the draws of a row do not end with it */
        s.config.qk_norm = i % 2;
        s.config.tied = i % 3 == 1;
        s.options.seed = SEED;
        s.options.batch = 1;
        qs_context *context = open_context(1, NULL, NULL);
        qs_text *text = prose_text(context, 500, 0.1);
        qs_trainer *trainer = make_trainer(context, &s, text);
        ok(qs_trainer_save(trainer, folder.text));
        qs_checkpoint *checkpoint = open_checkpoint(folder.text);
        check_all(checkpoint, &arms[i], &s);
        qs_checkpoint_close(&checkpoint);
        qs_trainer_free(&trainer);
        qs_text_free(&text);
        qs_close(&context);
    }
}

/* A model made without a trainer starts the same. */
static void test_model_equals_trainer(void **state)
{
    (void)state;
    for (int dense = 0; dense < 2; dense++) {
        setup s = small_setup(dense ? QS_OPTIMIZER_ADAMW : QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
        qs_context *context = open_context(1, NULL, NULL);
        qs_text *text = prose_text(context, 500, 0.2);
        qs_trainer *trainer = make_trainer(context, &s, text);
        qs_model *model = NULL;
        double a = 0.0, b = 0.0, c = 0.0;
        s.config.dense = dense;
        ok(qs_model_create(context, &s.config, s.options.seed, &model));
        ok(qs_model_evaluate(model, text, 0, 4, &a, NULL));
        ok(qs_model_evaluate(qs_trainer_model(trainer), text, 0, 4, &b, NULL));
        assert_true(a == b);
        qs_model_free(&model);
        ok(qs_model_create(context, &s.config, s.options.seed + 1, &model));
        ok(qs_model_evaluate(model, text, 0, 4, &c, NULL));
        assert_true(a != c);
        qs_model_free(&model);
        qs_trainer_free(&trainer);
        qs_text_free(&text);
        qs_close(&context);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_start_values), cmocka_unit_test(test_model_equals_trainer)};
    return cmocka_run_group_tests(tests, make_test_folder, drop_test_folder);
}
