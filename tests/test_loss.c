/* test_loss.c - vocabularies of several blocks of head and loss: values, bytes, and memory that does not grow with them. */
#include <math.h>
#include "training_case.h"

/* Head and loss take 4096 symbols at a time (docs/numerics.md): two such blocks and an odd piece. */
enum { BLOCK = 4096, VOCAB = 2 * BLOCK + 309, STEPS = 2, TEXT = 4000 };

/* 288 tokens a step: a chunk and a piece. */
static setup large_setup(const arm *a, int tied)
{
    setup s = small_setup(a->optimizer, a->fsm, a->recipe);
    s.config.vocab = VOCAB;
    s.config.layers = 1;
    s.config.tied = tied;
    s.options.clip = 0.5;
    return s;
}

static const arm fsm_arm = {"c4", QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT};
static const arm dense_arm = {"adamw", QS_OPTIMIZER_ADAMW, QS_FSM_C4, QS_RECIPE_DEFAULT};

/* ---- values ------------------------------------------------------------------------------------------------------ */

/* The loss of evaluation and of a step is that of the logits, which sessions compute for all symbols at once. */
static void test_values(void **state)
{
    (void)state;
    static float logits[VOCAB];
    for (int tied = 0; tied < 2; tied++) {
        setup s = large_setup(&fsm_arm, tied);
        s.options.batch = 1;
        qs_context *context = open_context(2, NULL, NULL);
        qs_text *text = one_window_text(context, s.config.ctx);
        qs_trainer *trainer = make_trainer(context, &s, text);
        qs_session *session = NULL;
        uint8_t bytes[64];
        double sum = 0.0, nats = 0.0;
        assert_true(s.config.ctx < (int64_t)sizeof bytes);
        ok(qs_text_read(text, 0, s.config.ctx + 1, bytes));
        ok(qs_session_create(qs_trainer_model(trainer), 0, &session));
        for (int64_t i = 0; i < s.config.ctx; i++) {
            const int32_t token = bytes[i];
            ok(qs_session_eval(session, &token, 1, logits));
            sum += log_loss(logits, VOCAB, bytes[i + 1]);
        }
        const double want = sum / (double)s.config.ctx;
        assert_true(want > 8.0 && want < 12.0);   /* knows nothing: somewhat above ln 8501 */
        ok(qs_model_evaluate(qs_trainer_model(trainer), text, 0, 1, &nats, NULL));
        assert_true(fabs(nats - want) < 1e-6 * want);
        assert_true(fabs(train_to(trainer, 1).loss - want) < 1e-6 * want);
        qs_session_free(&session);
        qs_trainer_free(&trainer);
        qs_text_free(&text);
        qs_close(&context);
    }
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

typedef struct variant {
    const char *name;
    int threads;
    const char *level, *device;
    int64_t micro_batch;
    int recompute;
    int64_t eval_batch;
} variant;

/* What a run leaves: everything that persists, and its validation loss. */
typedef struct outcome {
    uint64_t hash;
    double nats;
} outcome;

static outcome run(const setup *given, const variant *v)
{
    setup s = *given;
    outcome o = {0, 0.0};
    s.options.micro_batch = v->micro_batch;
    s.options.recompute = v->recompute;
    qs_context *context = open_context(v->threads, v->level, v->device);
    qs_text *text = prose_text(context, TEXT, 0.05);
    qs_trainer *trainer = make_trainer(context, &s, text);
    train_to(trainer, STEPS);
    o.hash = hash_of(trainer);
    ok(qs_model_evaluate(qs_trainer_model(trainer), text, 5, v->eval_batch, &o.nats, NULL));
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
    return o;
}

static void assert_same(const setup *s, const outcome *want, const variant *v, const char *arm_name)
{
    const outcome got = run(s, v);
    if (got.hash != want->hash || got.nats != want->nats)
        fail_msg("%s, %s: %016llx and %.17g, not %016llx and %.17g", arm_name, v->name, (unsigned long long)got.hash, got.nats,
                 (unsigned long long)want->hash, want->nats);
}

static void test_bytes(void **state)
{
    (void)state;
    static const variant reference = {"1 thread", 1, NULL, NULL, 0, 0, 1};
    static const variant others[] = {
        {"2 threads", 2, NULL, NULL, 0, 0, 2},
        {"5 threads, micro-batches", 5, NULL, NULL, 16, 0, 5},
        {"recomputed, micro-batches", 1, NULL, NULL, 16, 1, 3},
    };
    static const variant device = {"the fake device", 1, NULL, "fake", 16, 0, 1};
    for (int i = 0; i < 3; i++) {
        const arm *a = i == 2 ? &dense_arm : &fsm_arm;
        const setup s = large_setup(a, i == 1);
        const outcome want = run(&s, &reference);
        for (size_t v = 0; v < sizeof others / sizeof others[0]; v++)
            assert_same(&s, &want, &others[v], a->name);
        if (getenv("QSBITS_BACKEND_DIR"))
            assert_same(&s, &want, &device, a->name);
        for (int level = 0; level < qs_cpu_level_count(); level++) {
            int available = 0;
            const char *name = qs_cpu_level_name(level, &available);
            const variant v = {name, 1, name, NULL, 0, 0, 1};
            if (available)
                assert_same(&s, &want, &v, a->name);
        }
    }
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static uint64_t peak_of_activations(const qs_context *context)
{
    qs_memory_usage usage;
    qs_memory(context, QS_MEMORY_ACTIVATIONS, &usage);
    return usage.peak_bytes;
}

/* Peaks of training (after a step) and of training and evaluation together. */
static void peaks(int64_t vocab, uint64_t peak[2])
{
    setup s = large_setup(&fsm_arm, 1);
    s.config.vocab = vocab;
    qs_context *context = open_context(2, NULL, NULL);
    qs_text *text = prose_text(context, TEXT, 0.2);
    qs_trainer *trainer = make_trainer(context, &s, text);
    double nats = 0.0;
    train_to(trainer, 1);
    peak[0] = peak_of_activations(context);
    ok(qs_model_evaluate(qs_trainer_model(trainer), text, 20, 20, &nats, NULL));
    peak[1] = peak_of_activations(context);
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
}

/* Activations grow up to one block of symbols and then no more, in training, in evaluation and in the plan. */
static void test_memory(void **state)
{
    (void)state;
    uint64_t bytes[2], block[2], several[2];
    qs_memory_plan plan, large;
    peaks(256, bytes);
    peaks(BLOCK, block);
    peaks(VOCAB, several);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(several[i], block[i]);
        assert_true(block[i] - bytes[i] >= 288 * (BLOCK - 256) * 4);
    }
    setup s = large_setup(&dense_arm, 0);
    ok(qs_train_plan(&s.config, &s.options, NULL, 0, &plan));
    s.config.vocab = 1 << 24;
    ok(qs_train_plan(&s.config, &s.options, NULL, 0, &large));
    const uint64_t *before = plan.bytes[QS_POOL_DEVICE], *after = large.bytes[QS_POOL_DEVICE];
    assert_int_equal(after[QS_MEMORY_ACTIVATIONS], before[QS_MEMORY_ACTIVATIONS]);
    assert_int_equal(after[QS_MEMORY_GRADIENTS] - before[QS_MEMORY_GRADIENTS], UINT64_C(2) * 4 * 32 * ((1 << 24) - VOCAB));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values), cmocka_unit_test(test_bytes), cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
