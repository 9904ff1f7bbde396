/* test_plan.c - the memory a run is said to take before it exists is what it books; rates shown are those a step uses. */
#include <stdbool.h>
#include <time.h>
#include "training_case.h"

static uint64_t booked(const qs_context *context, int tag)
{
    qs_memory_usage usage;
    qs_memory(context, (qs_memory_tag)tag, &usage);
    return usage.current_bytes;
}

/* Exact for everything that grows with the model; a few host structures of fixed size are not planned. */
static void check_plan(const char *name, const setup *s)
{
    static const int exact[] = {QS_MEMORY_WEIGHTS, QS_MEMORY_STATE, QS_MEMORY_FLOATS, QS_MEMORY_OPTIMIZER,
                                QS_MEMORY_ACTIVATIONS, QS_MEMORY_GRADIENTS};
    enum { SLACK = 65536 };
    uint64_t plan[QS_MEMORY_TAGS + 1], before[QS_MEMORY_TAGS + 1], sum = 0;
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = prose_text(context, 500, 0.1);
    for (int tag = 0; tag <= QS_MEMORY_TAGS; tag++)
        before[tag] = booked(context, tag);
    ok(qs_train_plan(&s->config, &s->options, plan));
    for (int tag = 0; tag <= QS_MEMORY_TAGS; tag++)
        assert_int_equal(booked(context, tag), before[tag]);
    qs_trainer *trainer = make_trainer(context, s, text);
    for (size_t i = 0; i < sizeof exact / sizeof exact[0]; i++) {
        const uint64_t real = booked(context, exact[i]) - before[exact[i]];
        if (real != plan[exact[i]])
            fail_msg("%s, %s: %llu bytes planned, %llu booked", name, qs_memory_tag_name((qs_memory_tag)exact[i]),
                     (unsigned long long)plan[exact[i]], (unsigned long long)real);
    }
    for (int tag = 0; tag < QS_MEMORY_TAGS; tag++)
        sum += plan[tag];
    assert_int_equal(plan[QS_MEMORY_TAGS], sum);
    for (int tag = QS_MEMORY_DATA; tag <= QS_MEMORY_OTHER; tag++) {
        const uint64_t real = booked(context, tag) - before[tag];
        if (plan[tag] > real + SLACK / 4 || real > plan[tag] + SLACK / 4)
            fail_msg("%s, %s: %llu bytes planned, %llu booked", name, qs_memory_tag_name((qs_memory_tag)tag),
                     (unsigned long long)plan[tag], (unsigned long long)real);
    }
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
}

/* Every arm with every option that decides what is in memory. */
static void test_plan_is_booked(void **state)
{
    (void)state;
    enum { RECOMPUTE = 1, MICRO_BATCH = 2, HEALTH = 4, QK_NORM = 8, OPTIONS = 16 };
    for (int i = 0; i < ARMS; i++) {
        for (int options = 0; options < OPTIONS; options++) {
            setup s = small_setup(arms[i].optimizer, arms[i].fsm, arms[i].recipe);
            s.config.layers = 1 + options % 4;
            s.config.dim = i % 2 ? 96 : 32;
            s.config.qk_norm = (options & QK_NORM) != 0;
            s.config.sub_norm = i % 3 != 0;
            s.config.tied = options % 3 == 0;
            s.config.vocab = options % 5 == 4 ? 5000 : 256;   /* more than one block of the loss */
            s.options.recompute = (options & RECOMPUTE) != 0;
            s.options.micro_batch = options & MICRO_BATCH ? 16 : 0;
            s.options.health_window = options & HEALTH ? 5 : 0;
            check_plan(arms[i].name, &s);
        }
    }
}

/* The largest preset, terabytes in training by AdamW: counted in no time, nothing of it is allocated. */
static void test_plan_of_presets(void **state)
{
    (void)state;
    struct timespec start, end;
    const uint64_t rss = qs_peak_rss();
    uint64_t before = 0;
    for (int i = 0; i < qs_model_preset_count(); i++) {
        setup s = small_setup(QS_OPTIMIZER_ADAMW, QS_FSM_C4, QS_RECIPE_DEFAULT);
        uint64_t plan[QS_MEMORY_TAGS + 1];
        qs_model_size size;
        qs_model_config_default(&s.config);
        ok(qs_model_preset(qs_model_preset_name(i), &s.config));
        ok(qs_model_size_of(&s.config, &size));
        clock_gettime(CLOCK_MONOTONIC, &start);
        ok(qs_train_plan(&s.config, &s.options, plan));
        clock_gettime(CLOCK_MONOTONIC, &end);
        assert_true((double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec) < 0.1);
        assert_int_equal(plan[QS_MEMORY_WEIGHTS], 4 * size.packed_weights);
        assert_int_equal(plan[QS_MEMORY_STATE], 8 * size.packed_weights);
        assert_true(plan[QS_MEMORY_TAGS] > before);
        before = plan[QS_MEMORY_TAGS];
    }
    assert_true(before > UINT64_C(1000000000000));
    assert_true(qs_peak_rss() - rss < 4 << 20);
}

static void test_plan_refused(void **state)
{
    (void)state;
    uint64_t plan[QS_MEMORY_TAGS + 1] = {7}, copy[QS_MEMORY_TAGS + 1];
    memcpy(copy, plan, sizeof plan);
    setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    s.config.dim = 33;
    refuses(qs_train_plan(&s.config, &s.options, plan), QS_ERR_ARG, "dim");
    s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    s.options.steps = 0;
    refuses(qs_train_plan(&s.config, &s.options, plan), QS_ERR_ARG, "steps");
    s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    s.config.ctx = s.options.batch = 1 << 20;
    refuses(qs_train_plan(&s.config, &s.options, plan), QS_ERR_ARG, "too many tokens");
    s.options.batch = 2047;   /* the most tokens, layers and widths there are: beyond 64 bits */
    s.config.layers = 4096;
    s.config.dim = 1 << 20;
    s.config.heads = s.config.kv_heads = 1024;
    s.config.head_dim = 512;
    s.config.ffn = 1 << 22;
    refuses(qs_train_plan(&s.config, &s.options, plan), QS_ERR_ARG, "too large");
    assert_memory_equal(plan, copy, sizeof plan);
}

static void test_rates(void **state)
{
    (void)state;
    for (int i = 0; i < ARMS; i++) {
        setup s = small_setup(arms[i].optimizer, arms[i].fsm, arms[i].recipe);
        qs_rates rates;
        s.options.steps = 40;
        ok(qs_model_config_resolve(&s.config));
        qs_context *context = open_context(1, NULL, NULL);
        qs_text *text = prose_text(context, 500, 0.1);
        qs_trainer *trainer = make_trainer(context, &s, text);
        const qs_train_options *o = qs_trainer_options(trainer);
        const bool c8 = o->optimizer == QS_OPTIMIZER_FSM && o->fsm == QS_FSM_C8;
        for (int64_t step = 0; step < 3; step++) {
            qs_step_info info;
            qs_train_rates(o, step, &rates);
            ok(qs_trainer_step(trainer, &info));
            assert_true(info.lr == rates.lr && info.density == rates.density);
            assert_true(c8 ? rates.amplitude > 0.0 && rates.amplitude <= o->amplitude_start : rates.amplitude == 0.0);
        }
        qs_train_rates(o, 39, &rates);
        assert_true(rates.lr > 0.0 && rates.lr < 0.1 * o->lr);
        assert_true(c8 ? rates.amplitude < 0.1 * o->amplitude_start : rates.density <= o->density_end * 1.5);
        qs_trainer_free(&trainer);
        qs_text_free(&text);
        qs_close(&context);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan_is_booked), cmocka_unit_test(test_plan_of_presets), cmocka_unit_test(test_plan_refused),
        cmocka_unit_test(test_rates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
