/* test_lora.c - low-rank adapters: how they start, that they start as frozen does, that every rank trains the same bytes however a
 * run is carried out, what they cost, and that evaluation and sessions use them. Gradients: test_gradients.c. */
#include <math.h>
#include <stdbool.h>
#include "training_case.h"

enum { RANK = 3, VOCAB = 256, MATRICES = 7, ADAPTER_ID = 1 << 17, TEXT = 4000 };

static const char *const matrices[MATRICES] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                               "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

static setup lora_setup(int64_t rank)
{
    setup s = small_setup(QS_OPTIMIZER_LORA, QS_FSM_C4, QS_RECIPE_DEFAULT);
    s.options.lora_rank = rank;
    s.options.steps = 8;
    s.options.clip = 0.5;
    return s;
}

/* A run with its context and text. */
static const float *adapter_of(const qs_checkpoint *c, int64_t layer, int matrix, char part, const char *suffix, int64_t *count)
{
    char name[128];
    snprintf(name, sizeof name, "model.layers.%d.%s.lora_%c", (int)layer, matrices[matrix], part);
    const float *x = floats_of(c, name, suffix, count);
    if (!x)
        fail_msg("there is no %s%s", name, suffix);
    return x;
}

/* ---- start values ------------------------------------------------------------------------------------------------ */

/* Number i of a tensor's normal numbers (docs/numerics.md, section 3). */
static double normal_of(uint64_t seed, uint32_t tensor, int64_t i)
{
    const double tau = 2.0 * acos(-1.0), unit = 1.0 / 4294967296.0;
    uint32_t w[4];
    qs_philox(seed, 0, QS_RANDOM_FLOATS, tensor, 0, (uint32_t)(i / 4), w);
    const double u0 = (w[i % 4 / 2 * 2] + 0.5) * unit, u1 = (w[i % 4 / 2 * 2 + 1] + 0.5) * unit;
    return sqrt(-2.0 * log(u0)) * (i % 2 ? sin(tau * u1) : cos(tau * u1));
}

static void check_start(const qs_checkpoint *c, const setup *s, int64_t layer, int matrix)
{
    int64_t n = 0;
    const int64_t attention = s->config.heads * s->config.head_dim;
    const int64_t cols = matrix == 3 ? attention : matrix == 6 ? s->config.ffn : s->config.dim;
    const float *a = adapter_of(c, layer, matrix, 'A', "", &n);
    assert_int_equal(n, RANK * cols);
    for (int64_t i = 0; i < n; i++) {
        const double want = normal_of(s->options.seed, (uint32_t)(ADAPTER_ID + MATRICES * layer + matrix), i) / sqrt((double)cols);
        assert_true(fabs((double)a[i] - want) < 1e-6);
    }
    const float *b = adapter_of(c, layer, matrix, 'B', "", &n);
    for (int64_t i = 0; i < n; i++)
        assert_true(b[i] == 0.0f);
}

/* A normal, B 0; and the first step, from zero moments: A has no gradient yet, B moves by twice the rate against the sign of its. */
static void test_start(void **state)
{
    (void)state;
    setup s = lora_setup(RANK);
    s.options.warmup = 0;
    s.options.matrix_lr = 1e-3;
    const file_path before = path_of("start"), after = path_of("first");
    run_case r = open_run_case(&s, TEXT, 1, NULL);
    ok(qs_trainer_save(r.trainer, before.text));
    train_to(r.trainer, 1);
    ok(qs_trainer_save(r.trainer, after.text));
    qs_checkpoint *c = open_checkpoint(before.text), *d = open_checkpoint(after.text);
    for (int64_t layer = 0; layer < s.config.layers; layer++)
        for (int i = 0; i < MATRICES; i++) {
            int64_t n = 0;
            check_start(c, &s, layer, i);
            const float *a = adapter_of(c, layer, i, 'A', "", &n), *next = adapter_of(d, layer, i, 'A', "", &n);
            assert_memory_equal(a, next, (size_t)n * sizeof *a);
            const float *b = adapter_of(d, layer, i, 'B', "", &n), *m = adapter_of(d, layer, i, 'B', ".adam_m", &n);
            for (int64_t j = 0; j < n; j++) {
                const double g = 10.0 * (double)m[j];
                assert_true(fabs((double)b[j] + 2e-3 * g / (fabs(g) + 1e-8)) < 1e-6);
            }
        }
    qs_checkpoint_close(&c);
    qs_checkpoint_close(&d);
    close_run_case(&r);
}

/* B is 0, so the first loss is that of frozen signs from the same seed, and the signs and floats are the same; then it is not. */
static void test_starts_as_frozen(void **state)
{
    (void)state;
    for (qs_precision p = QS_PRECISION_F32; p <= QS_PRECISION_INT8; p++) {
        setup s = lora_setup(RANK), f = s;
        f.options.optimizer = QS_OPTIMIZER_FROZEN;
        s.options.precision = f.options.precision = p;
        s.options.lr = f.options.lr = 4e-3;
        run_case lora = open_run_case(&s, TEXT, 2, NULL), frozen = open_run_case(&f, TEXT, 2, NULL);
        double a = 0.0, b = 0.0;
        ok(qs_model_evaluate(qs_trainer_model(lora.trainer), lora.text, 0, 1, &a, NULL));
        ok(qs_model_evaluate(qs_trainer_model(frozen.trainer), frozen.text, 0, 1, &b, NULL));
        assert_true(a == b);
        assert_true(train_to(lora.trainer, 1).loss == train_to(frozen.trainer, 1).loss);
        assert_true(train_to(lora.trainer, 3).loss != train_to(frozen.trainer, 3).loss);
        close_run_case(&lora);
        close_run_case(&frozen);
    }
}

/* ---- the same bytes ---------------------------------------------------------------------------------------------- */

/* Ranks that no vector divides, the smallest and the largest; test_identity.c has the default one on every level and device. */
static void test_ranks(void **state)
{
    (void)state;
    static const int64_t ranks[] = {1, 17, 32};
    static const struct { const char *level; int threads, micro_batch, recompute; } ways[] = {
        {NULL, 3, 16, 0}, {NULL, 1, 16, 1}, {"scalar", 2, 0, 0}};
    for (size_t r = 0; r < sizeof ranks / sizeof ranks[0]; r++) {
        setup s = lora_setup(ranks[r]);
        const file_path folder = path_of("middle");
        s.config.layers = 1;
        run_case reference = open_run_case(&s, TEXT, 1, NULL);
        train_to(reference.trainer, 2);
        ok(qs_trainer_save(reference.trainer, folder.text));
        train_to(reference.trainer, 4);
        const uint64_t want = hash_of(reference.trainer);
        for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
            setup other = s;
            other.options.micro_batch = ways[w].micro_batch;
            other.options.recompute = ways[w].recompute;
            run_case whole = open_run_case(&other, TEXT, ways[w].threads, ways[w].level);
            run_case second = open_run_case(&other, TEXT, ways[w].threads, ways[w].level);
            train_to(whole.trainer, 4);
            ok(qs_trainer_load(second.trainer, folder.text));
            train_to(second.trainer, 4);
            if (hash_of(whole.trainer) != want || hash_of(second.trainer) != want)
                fail_msg("rank %d, way %d: other bytes", (int)ranks[r], (int)w);
            close_run_case(&whole);
            close_run_case(&second);
        }
        close_run_case(&reference);
    }
}

static void test_other_rank_refused(void **state)
{
    (void)state;
    setup s = lora_setup(RANK);
    const file_path folder = path_of("rank");
    run_case r = open_run_case(&s, TEXT, 1, NULL);
    ok(qs_trainer_save(r.trainer, folder.text));
    close_run_case(&r);
    s.options.lora_rank = RANK + 1;
    r = open_run_case(&s, TEXT, 1, NULL);
    refuses(qs_trainer_load(r.trainer, folder.text), QS_ERR_ARG, "model lora_rank = 3, this run asks for 4");
    close_run_case(&r);
    s.options.optimizer = QS_OPTIMIZER_FROZEN;
    r = open_run_case(&s, TEXT, 1, NULL);
    assert_int_equal(qs_model_get_config(qs_trainer_model(r.trainer))->lora_rank, 0);
    refuses(qs_trainer_load(r.trainer, folder.text), QS_ERR_ARG, "optimizer = \"lora\", this run asks for \"frozen\"");
    close_run_case(&r);
}

/* ---- what they cost ---------------------------------------------------------------------------------------------- */

/* N + K of every matrix of a block. */
static int64_t sides_of(const qs_model_config *c)
{
    const int64_t attention = c->heads * c->head_dim, group = c->kv_heads * c->head_dim;
    return 2 * (attention + c->dim) + 2 * (group + c->dim) + 3 * (c->ffn + c->dim);
}

static void test_bits(void **state)
{
    (void)state;
    setup s = lora_setup(RANK), f = s;
    qs_bits lora_bits, frozen_bits;
    qs_model_size lora_size, frozen_size;
    f.options.optimizer = QS_OPTIMIZER_FROZEN;
    run_case lora = open_run_case(&s, TEXT, 1, NULL), frozen = open_run_case(&f, TEXT, 1, NULL);
    ok(qs_trainer_bits(lora.trainer, &lora_bits));
    ok(qs_trainer_bits(frozen.trainer, &frozen_bits));
    const double bits = 32.0 * (double)(s.config.layers * RANK * sides_of(&s.config)) / (double)lora_bits.packed_weights;
    assert_true(fabs(lora_bits.packed_bits_per_weight - frozen_bits.packed_bits_per_weight - bits) < 1e-9);
    assert_true(fabs(lora_bits.training_bits_per_weight - frozen_bits.training_bits_per_weight - 3.0 * bits) < 1e-9);
    const qs_model_config *c = qs_model_get_config(qs_trainer_model(lora.trainer));
    assert_int_equal(c->lora_rank, RANK);
    ok(qs_model_size_of(c, &lora_size));
    ok(qs_model_size_of(qs_model_get_config(qs_trainer_model(frozen.trainer)), &frozen_size));
    const int64_t params = s.config.layers * RANK * sides_of(&s.config);
    assert_int_equal(lora_size.packed_weights, frozen_size.packed_weights);
    assert_int_equal(lora_size.float_params - frozen_size.float_params, params);
    assert_int_equal(lora_size.packed_bytes - frozen_size.packed_bytes, 4 * params);
    assert_true(fabs(8.0 * (double)lora_size.packed_bytes / (double)lora_size.packed_weights - lora_bits.packed_bits_per_weight) < 1e-9);
    close_run_case(&lora);
    close_run_case(&frozen);
}

/* In a block of the model file: A, B of every matrix, in the order of matrices, behind everything else. */
static void test_file_order(void **state)
{
    (void)state;
    const setup s = lora_setup(RANK);
    const file_path folder = path_of("order");
    run_case r = open_run_case(&s, TEXT, 1, NULL);
    ok(qs_trainer_save(r.trainer, folder.text));
    qs_checkpoint *c = open_checkpoint(folder.text);
    for (int64_t layer = 0; layer < s.config.layers; layer++) {
        char name[128];
        snprintf(name, sizeof name, "model.layers.%d.mlp.ffn_sub_norm.weight", (int)layer);
        int64_t at = qs_checkpoint_find(c, name);
        for (int i = 0; i < 2 * MATRICES; i++) {
            qs_tensor_info info;
            qs_slab_info slab;
            snprintf(name, sizeof name, "model.layers.%d.%s.lora_%c", (int)layer, matrices[i / 2], "AB"[i % 2]);
            ok(qs_checkpoint_tensor(c, ++at, &info));
            assert_string_equal(info.name, name);
            assert_int_equal(i % 2 ? info.cols : info.rows, RANK);
            ok(qs_checkpoint_slab(c, 0, 1 + layer, &slab));
            assert_true(info.offset >= slab.offset && info.offset + info.bytes <= slab.offset + slab.bytes);
        }
    }
    qs_checkpoint_close(&c);
    close_run_case(&r);
}

static void test_refused(void **state)
{
    (void)state;
    setup s = lora_setup(33);   /* dim is 32 */
    qs_memory_plan plan;
    qs_trainer *trainer = NULL;
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = prose_text(context, TEXT, 0.1);
    refuses(qs_trainer_create(context, &s.config, &s.options, text, &trainer), QS_ERR_ARG, "lora_rank is 33; it must lie in 1..32");
    refuses(qs_train_plan(&s.config, &s.options, NULL, 0, &plan), QS_ERR_ARG, "lora_rank is 33; it must lie in 1..32");
    assert_null(trainer);
    s.options.lora_rank = 0;
    ok(qs_train_options_resolve(&s.options, &s.config));
    assert_int_equal(s.options.lora_rank, QS_LORA_RANK);
    qs_text_free(&text);
    qs_close(&context);
}

/* ---- use --------------------------------------------------------------------------------------------------------- */

/* An opened model with trained adapters: tokens one by one, at once, and by evaluation are the same. That they are used at all:
 * test_gradients.c. */
static void test_opened_model(void **state)
{
    (void)state;
    enum { CTX = 16 };
    const setup s = lora_setup(RANK);
    const file_path folder = path_of("model");
    qs_context *context = open_context(2, NULL, NULL);
    qs_text *text = one_window_text(context, CTX);
    qs_trainer *trainer = make_trainer(context, &s, text);
    qs_model *model = NULL;
    qs_session *session = NULL;
    float one[VOCAB], all[VOCAB];
    uint8_t bytes[CTX + 1];
    int32_t tokens[CTX];
    double sum = 0.0, nats = 0.0, trained = 0.0;
    train_to(trainer, 6);
    ok(qs_trainer_save(trainer, folder.text));
    ok(qs_model_evaluate(qs_trainer_model(trainer), text, 0, 1, &trained, NULL));
    ok(qs_model_open(context, folder.text, &model));
    assert_int_equal(qs_model_get_config(model)->lora_rank, RANK);
    ok(qs_model_evaluate(model, text, 0, 1, &nats, NULL));
    assert_true(nats == trained);
    ok(qs_text_read(text, 0, CTX + 1, bytes));
    ok(qs_session_create(model, 0, &session));
    for (int i = 0; i < CTX; i++) {
        tokens[i] = bytes[i];
        ok(qs_session_eval(session, &tokens[i], 1, one));
        sum += log_loss(one, VOCAB, bytes[i + 1]);
    }
    assert_true(fabs(sum / CTX - nats) < 1e-6 * nats);
    qs_session_reset(session);
    ok(qs_session_eval(session, tokens, CTX, all));
    assert_memory_equal(one, all, sizeof one);
    qs_session_free(&session);
    qs_model_free(&model);
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),      cmocka_unit_test(test_starts_as_frozen), cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_other_rank_refused), cmocka_unit_test(test_bits),     cmocka_unit_test(test_file_order),
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_opened_model),
    };
    return cmocka_run_group_tests(tests, make_test_folder, drop_test_folder);
}
