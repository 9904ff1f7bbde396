/* test_plan.c - the memory a run is said to take before it exists is what it books; rates shown are those a step uses. */
#include <stdbool.h>
#include <time.h>
#include "training_case.h"

typedef struct bytes_now {
    uint64_t bytes[QS_MEMORY_POOLS][QS_MEMORY_TAGS];
} bytes_now;

static bytes_now booked(const qs_context *context)
{
    bytes_now now;
    for (int pool = 0; pool < QS_MEMORY_POOLS; pool++)
        for (int tag = 0; tag < QS_MEMORY_TAGS; tag++) {
            qs_memory_usage usage;
            qs_memory_in(context, (qs_memory_pool)pool, (qs_memory_tag)tag, &usage);
            now.bytes[pool][tag] = usage.current_bytes;
        }
    return now;
}

static void check_sums(const qs_memory_plan *plan)
{
    for (int pool = 0; pool <= QS_MEMORY_POOLS; pool++) {
        uint64_t sum = 0;
        for (int tag = 0; tag < QS_MEMORY_TAGS; tag++)
            sum += plan->bytes[pool][tag];
        assert_int_equal(plan->bytes[pool][QS_MEMORY_TAGS], sum);
    }
    for (int tag = 0; tag <= QS_MEMORY_TAGS; tag++)
        assert_int_equal(plan->bytes[QS_MEMORY_POOLS][tag], plan->bytes[QS_POOL_RAM][tag] + plan->bytes[QS_POOL_DEVICE][tag]);
}

/* Exact for everything that grows with the model; of what is small, a few structures of fixed size are not planned, and of a model
 * that streams the list of its file's tensors. */
static void compare(const char *name, const qs_memory_plan *plan, const bytes_now *before, const bytes_now *after, uint64_t slack)
{
    static const char *const pools[] = {"RAM", "device"};
    check_sums(plan);
    for (int pool = 0; pool < QS_MEMORY_POOLS; pool++)
        for (int tag = 0; tag < QS_MEMORY_TAGS; tag++) {
            const bool small = tag == QS_MEMORY_WORKSPACE || tag == QS_MEMORY_DATA || tag == QS_MEMORY_IO || tag == QS_MEMORY_OTHER;
            const uint64_t real = after->bytes[pool][tag] - before->bytes[pool][tag], said = plan->bytes[pool][tag];
            const uint64_t most = small && pool == QS_POOL_RAM ? slack : 0;
            if (tag != QS_MEMORY_WORKSPACE && (said > real + most || real > said + most))
                fail_msg("%s, %s, %s: %llu bytes planned, %llu booked", name, pools[pool], qs_memory_tag_name((qs_memory_tag)tag),
                         (unsigned long long)said, (unsigned long long)real);
        }
}

static void check_plan(const char *name, const setup *s)
{
    enum { SLACK = 16384 };
    qs_memory_plan plan;
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = prose_text(context, 500, 0.1);
    const bytes_now before = booked(context);
    ok(qs_train_plan(&s->config, &s->options, NULL, 0, &plan));
    const bytes_now planned = booked(context);
    assert_memory_equal(&before, &planned, sizeof before);
    qs_trainer *trainer = make_trainer(context, s, text);
    const bytes_now after = booked(context);
    compare(name, &plan, &before, &after, SLACK);
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

/* What a validation takes while it runs. */
static void test_evaluation(void **state)
{
    (void)state;
    const setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    for (int64_t batch = 1; batch <= 9; batch += 4) {
        run_case r = open_run_case(&s, 4000, 1, NULL);
        qs_memory_plan plan;
        qs_memory_usage peak, before;
        double nats = 0.0;
        ok(qs_model_evaluate_plan(&s.config, batch, &plan));
        check_sums(&plan);
        for (int pool = 0; pool < QS_MEMORY_POOLS; pool++) {
            const qs_memory_tag tag = pool == QS_POOL_RAM ? QS_MEMORY_DATA : QS_MEMORY_ACTIVATIONS;
            qs_memory_in(r.context, (qs_memory_pool)pool, tag, &before);
            qs_memory_reset_peak(r.context);
            ok(qs_model_evaluate(qs_trainer_model(r.trainer), r.text, 0, batch, &nats, NULL));
            qs_memory_in(r.context, (qs_memory_pool)pool, tag, &peak);
            assert_int_equal(peak.peak_bytes - before.current_bytes, plan.bytes[pool][tag]);
            assert_int_equal(plan.bytes[pool][QS_MEMORY_TAGS], plan.bytes[pool][tag]);
        }
        close_run_case(&r);
    }
    qs_memory_plan plan;
    refuses(qs_model_evaluate_plan(&s.config, 0, &plan), QS_ERR_ARG, "batch is 0");
}

/* ---- in place --------------------------------------------------------------------------------------------------------- */

typedef struct streamed_case {
    int64_t layers, parts, slots;
    qs_fsm fsm;
    qs_active_by by;
    int blocks;             /* that memory is asked for; 0: for all, -1: a budget decides */
    bool recompute, micro, qk_norm, tied;
} streamed_case;

static const streamed_case streamed_cases[] = {
    {4, 1, 2, QS_FSM_C4, QS_ACTIVE_BY_ROWS, 0, false, false, false, false},
    {4, 2, 3, QS_FSM_C2, QS_ACTIVE_BY_BLOCKS, 2, true, true, true, false},
    {5, 5, 3, QS_FSM_C8, QS_ACTIVE_BY_BLOCKS, 3, true, false, false, true},
    {6, 3, 4, QS_FSM_T2, QS_ACTIVE_BY_ROWS, 6, false, true, true, true},
    {3, 2, 5, QS_FSM_C4, QS_ACTIVE_BY_BLOCKS, 9, true, true, false, false},
};

static setup streamed_setup(const streamed_case *c)
{
    setup s = small_setup(QS_OPTIMIZER_FSM, c->fsm, QS_RECIPE_DEFAULT);
    s.config.layers = c->layers;
    s.config.dim = 96;
    s.config.qk_norm = c->qk_norm;
    s.config.tied = c->tied;
    s.options.active_parts = c->parts;
    s.options.active_by = c->by;
    s.options.sweeps = c->parts > 1 ? 2 : 1;
    s.options.recompute = c->recompute;
    s.options.micro_batch = c->micro ? 16 : 0;
    return s;
}

/* Bytes of the slab of a block in a file. */
static uint64_t slab_of(qs_context *context, const char *folder)
{
    qs_checkpoint *checkpoint = NULL;
    qs_slab_info slab;
    ok(qs_checkpoint_open(context, folder, &checkpoint));
    ok(qs_checkpoint_slab(checkpoint, 0, 1, &slab));
    qs_checkpoint_close(&checkpoint);
    return slab.bytes;
}

static void check_streamed(const streamed_case *c, int number)
{
    enum { SLACK = 65536 };
    char folder[320], name[32];
    const setup s = streamed_setup(c);
    qs_memory_plan plan;
    qs_stream_options stream;
    qs_trainer *trainer = NULL;
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = prose_text(context, 500, 0.1);
    (void)snprintf(folder, sizeof folder, "%s/model%d", test_folder, number);
    (void)snprintf(name, sizeof name, "in place, case %d", number);
    ok(qs_model_write_new(context, &s.config, 7, folder, NULL, NULL));
    qs_stream_options_default(&stream);
    stream.slots = c->slots;
    stream.ram_bytes = (uint64_t)c->blocks * slab_of(context, folder);
    ok(qs_train_plan(&s.config, &s.options, &stream, 0, &plan));
    const bytes_now before = booked(context);
    ok(qs_trainer_create_in_place(context, folder, &stream, 0, &s.options, text, &trainer));
    const bytes_now after = booked(context);
    compare(name, &plan, &before, &after, SLACK);
    assert_true(plan.bytes[QS_POOL_DEVICE][QS_MEMORY_WEIGHTS] == 0 && plan.bytes[QS_POOL_DEVICE][QS_MEMORY_ACTIVE] > 0);
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
}

static void test_streamed_plan_is_booked(void **state)
{
    (void)state;
    for (int i = 0; i < (int)(sizeof streamed_cases / sizeof streamed_cases[0]); i++)
        check_streamed(&streamed_cases[i], i);
}

/* As many blocks as a budget leaves room for, two at least; all without one. */
static void test_streamed_budget(void **state)
{
    (void)state;
    setup s = streamed_setup(&streamed_cases[1]);
    qs_stream_options stream;
    qs_memory_plan all, some, least;
    s.config.layers = 40;
    qs_stream_options_default(&stream);
    ok(qs_train_plan(&s.config, &s.options, &stream, 0, &all));
    const uint64_t slab = all.bytes[QS_POOL_RAM][QS_MEMORY_WEIGHTS] / 40, sum = all.bytes[QS_POOL_RAM][QS_MEMORY_TAGS];
    ok(qs_train_plan(&s.config, &s.options, &stream, sum, &some));
    assert_true(some.bytes[QS_POOL_RAM][QS_MEMORY_TAGS] <= sum - sum / 20);
    assert_true(some.bytes[QS_POOL_RAM][QS_MEMORY_TAGS] > sum - sum / 20 - 2 * slab);
    assert_int_equal(some.bytes[QS_POOL_RAM][QS_MEMORY_WEIGHTS] % slab, 0);
    assert_int_equal(some.bytes[QS_POOL_DEVICE][QS_MEMORY_TAGS], all.bytes[QS_POOL_DEVICE][QS_MEMORY_TAGS]);
    ok(qs_train_plan(&s.config, &s.options, &stream, 1, &least));
    assert_int_equal(least.bytes[QS_POOL_RAM][QS_MEMORY_WEIGHTS], 2 * slab);
}

/* ---- figures ------------------------------------------------------------------------------------------------------------ */

/* The largest preset, terabytes in training by AdamW: counted in no time, nothing of it is allocated. */
static void test_plan_of_presets(void **state)
{
    (void)state;
    struct timespec start, end;
    const uint64_t rss = qs_peak_rss();
    uint64_t before = 0;
    for (int i = 0; i < qs_model_preset_count(); i++) {
        setup s = small_setup(QS_OPTIMIZER_ADAMW, QS_FSM_C4, QS_RECIPE_DEFAULT);
        qs_memory_plan plan;
        qs_model_size size;
        qs_model_config_default(&s.config);
        ok(qs_model_preset(qs_model_preset_name(i), &s.config));
        ok(qs_model_size_of(&s.config, &size));
        clock_gettime(CLOCK_MONOTONIC, &start);
        ok(qs_train_plan(&s.config, &s.options, NULL, 0, &plan));
        clock_gettime(CLOCK_MONOTONIC, &end);
        assert_true((double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec) < 0.1);
        assert_int_equal(plan.bytes[QS_POOL_DEVICE][QS_MEMORY_WEIGHTS], 4 * size.packed_weights);
        assert_int_equal(plan.bytes[QS_POOL_DEVICE][QS_MEMORY_STATE], 8 * size.packed_weights);
        assert_true(plan.bytes[QS_MEMORY_POOLS][QS_MEMORY_TAGS] > before);
        before = plan.bytes[QS_MEMORY_POOLS][QS_MEMORY_TAGS];
    }
    assert_true(before > UINT64_C(1000000000000));
    assert_true(qs_peak_rss() - rss < 4 << 20);
}

static void test_plan_refused(void **state)
{
    (void)state;
    qs_memory_plan plan = {{{7}}}, copy = plan;
    qs_stream_options stream;
    setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    s.config.dim = 33;
    refuses(qs_train_plan(&s.config, &s.options, NULL, 0, &plan), QS_ERR_ARG, "dim");
    s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    s.options.steps = 0;
    refuses(qs_train_plan(&s.config, &s.options, NULL, 0, &plan), QS_ERR_ARG, "steps");
    s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    s.config.ctx = s.options.batch = 1 << 20;
    refuses(qs_train_plan(&s.config, &s.options, NULL, 0, &plan), QS_ERR_ARG, "too many tokens");
    s.options.batch = 2047;   /* the most tokens, layers and widths there are: beyond 64 bits */
    s.config.layers = 4096;
    s.config.dim = 1 << 20;
    s.config.heads = s.config.kv_heads = 1024;
    s.config.head_dim = 512;
    s.config.ffn = 1 << 22;
    refuses(qs_train_plan(&s.config, &s.options, NULL, 0, &plan), QS_ERR_ARG, "too large");
    qs_stream_options_default(&stream);
    s = small_setup(QS_OPTIMIZER_STE, QS_FSM_C4, QS_RECIPE_DEFAULT);
    refuses(qs_train_plan(&s.config, &s.options, &stream, 0, &plan), QS_ERR_ARG, "in place");
    s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    stream.slots = 1;
    refuses(qs_train_plan(&s.config, &s.options, &stream, 0, &plan), QS_ERR_ARG, "slots is 1");
    stream.slots = 2;
    stream.ram_bytes = 100;
    refuses(qs_train_plan(&s.config, &s.options, &stream, 0, &plan), QS_ERR_ARG, "hold no two");
    assert_memory_equal(&plan, &copy, sizeof plan);
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
        cmocka_unit_test(test_plan_is_booked), cmocka_unit_test(test_streamed_plan_is_booked), cmocka_unit_test(test_evaluation),
        cmocka_unit_test(test_streamed_budget), cmocka_unit_test(test_plan_of_presets), cmocka_unit_test(test_plan_refused),
        cmocka_unit_test(test_rates),
    };
    return cmocka_run_group_tests(tests, make_test_folder, drop_test_folder);
}
