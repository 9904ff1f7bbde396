/* test_active.c - the active set: parts and phases cover everything once, what rests stays as it is, memory follows the share, and a
 * run that stops in the middle of a phase ends with the same bytes. */
#include <math.h>
#include "training_case.h"

enum { MATRICES = 7 };

/* 3 layers of 96, so that units of 32 rows do not divide evenly. */
static setup active_setup(qs_fsm fsm, int64_t parts, int64_t sweeps, qs_active_by by, qs_active_order order)
{
    setup s = small_setup(QS_OPTIMIZER_FSM, fsm, QS_RECIPE_DEFAULT);
    s.config.layers = 3;
    s.config.dim = 96;
    s.config.ffn = 160;
    s.options.active_parts = parts;
    s.options.sweeps = sweeps;
    s.options.active_by = by;
    s.options.active_order = order;
    ok(qs_model_config_resolve(&s.config));
    ok(qs_train_options_resolve(&s.options, &s.config));
    return s;
}

static void shape_of(const qs_model_config *c, int index, int64_t *rows, int64_t *cols)
{
    const int64_t a = c->heads * c->head_dim, g = c->kv_heads * c->head_dim;
    const int64_t shapes[MATRICES][2] = {{a, c->dim},      {g, c->dim},      {g, c->dim},     {c->dim, a},
                                         {c->ffn, c->dim}, {c->ffn, c->dim}, {c->dim, c->ffn}};
    *rows = shapes[index][0];
    *cols = shapes[index][1];
}

/* Every row of every matrix is active in exactly one phase of a sweep, and phases follow each other without a gap. */
static void check_sweep(const setup *s, int64_t first, int64_t *next)
{
    enum { MOST_ROWS = 4096 };
    static uint8_t seen[3 * MATRICES][MOST_ROWS];
    qs_phase phase;
    memset(seen, 0, sizeof seen);
    for (int64_t p = 0; p < s->options.active_parts; p++, first = phase.first + phase.steps) {
        int64_t weights = 0;
        qs_train_phase(&s->config, &s->options, first, &phase);
        assert_int_equal(phase.first, first);
        for (uint32_t i = 0; i < 3 * MATRICES; i++) {
            int64_t row = 0, count = 0, rows = 0, cols = 0;
            shape_of(&s->config, (int)i % MATRICES, &rows, &cols);
            qs_train_active_rows(&s->config, &s->options, first + phase.steps - 1, i, &row, &count);
            assert_true(row >= 0 && count >= 0 && row + count <= rows && (count == 0 || row % 32 == 0));
            for (int64_t n = row; n < row + count; n++)
                seen[i][n]++;
            weights += count * cols;
        }
        assert_int_equal(weights, phase.weights);
    }
    for (int i = 0; i < 3 * MATRICES; i++) {
        int64_t rows = 0, cols = 0;
        shape_of(&s->config, i % MATRICES, &rows, &cols);
        for (int64_t n = 0; n < MOST_ROWS; n++)
            if (seen[i][n] != (n < rows))
                fail_msg("row %lld of matrix %d is active %d times in a sweep", (long long)n, i, seen[i][n]);
    }
    *next = first;
}

static void test_cover(void **state)
{
    (void)state;
    static const int64_t parts[] = {1, 2, 3, 5, 7, 16}, sweeps[] = {1, 2, 5};
    for (int p = 0; p < 6; p++)
        for (int n = 0; n < 3; n++)
            for (int by = QS_ACTIVE_BY_ROWS; by <= QS_ACTIVE_BY_BLOCKS; by++)
                for (int order = QS_ACTIVE_BOTTOM_UP; order <= QS_ACTIVE_RANDOM; order++) {
                    if ((parts[p] == 1 && sweeps[n] > 1) || parts[p] * sweeps[n] > 25)
                        continue;
                    const setup s = active_setup(QS_FSM_C4, parts[p], sweeps[n], (qs_active_by)by, (qs_active_order)order);
                    int64_t step = 0;
                    for (int64_t sweep = 0; sweep < sweeps[n]; sweep++)
                        check_sweep(&s, step, &step);
                    assert_int_equal(step, s.options.steps);
                }
}

/* Parts by blocks, bottom up: a matrix never trains before one that lies below it has had its turn. */
static void test_order(void **state)
{
    (void)state;
    for (int order = QS_ACTIVE_BOTTOM_UP; order <= QS_ACTIVE_TOP_DOWN; order++) {
        const setup s = active_setup(QS_FSM_C4, 5, 1, QS_ACTIVE_BY_BLOCKS, (qs_active_order)order);
        int64_t lowest_before = order == QS_ACTIVE_BOTTOM_UP ? -1 : 3 * MATRICES;
        for (int64_t step = 0; step < s.options.steps; step += 20) {
            int64_t lowest = -1;
            for (uint32_t i = 0; i < 3 * MATRICES && lowest < 0; i++) {
                int64_t row = 0, count = 0;
                qs_train_active_rows(&s.config, &s.options, step, i, &row, &count);
                lowest = count > 0 ? (int64_t)i : -1;
            }
            assert_true(order == QS_ACTIVE_BOTTOM_UP ? lowest >= lowest_before : lowest <= lowest_before);
            lowest_before = lowest;
        }
    }
}

/* ---- runs -------------------------------------------------------------------------------------------------------- */

enum { TEXT_TOKENS = 3000 };

/* Signs and fp16 scales of a matrix in a checkpoint. */
static const uint8_t *tensor_bytes(const qs_checkpoint *c, uint32_t i, const char *suffix)
{
    static const char *const names[MATRICES] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                                "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};
    char name[128];
    snprintf(name, sizeof name, "model.layers.%d.%s.%s", (int)i / MATRICES, names[i % MATRICES], suffix);
    const int64_t index = qs_checkpoint_find(c, name);
    assert_true(index >= 0);
    return qs_checkpoint_data(c, index);
}

/* Between two checkpoints of one phase nothing outside its rows has changed, and something inside has. */
static void check_rest(const setup *s, int64_t step, const char *before, const char *after)
{
    qs_checkpoint *a = open_checkpoint(before), *b = open_checkpoint(after);
    int64_t changed = 0;
    for (uint32_t i = 0; i < 3 * MATRICES; i++) {
        int64_t rows = 0, cols = 0, first = 0, count = 0;
        shape_of(&s->config, (int)i % MATRICES, &rows, &cols);
        qs_train_active_rows(&s->config, &s->options, step, i, &first, &count);
        const uint8_t *wa = tensor_bytes(a, i, "weight"), *wb = tensor_bytes(b, i, "weight");
        const uint8_t *sa = tensor_bytes(a, i, "weight_scale"), *sb = tensor_bytes(b, i, "weight_scale");
        for (int64_t n = 0; n < rows; n++) {
            const int differs = memcmp(wa + n * cols / 8, wb + n * cols / 8, (size_t)cols / 8) != 0;
            if (n >= first && n < first + count) {
                changed += differs;
                continue;
            }
            if (differs || memcmp(sa + 2 * n, sb + 2 * n, 2) != 0)
                fail_msg("step %lld: row %lld of matrix %u rests but changed", (long long)step, (long long)n, i);
        }
    }
    assert_true(changed > 0);
    qs_checkpoint_close(&a);
    qs_checkpoint_close(&b);
}

static void test_rest_stays(void **state)
{
    (void)state;
    static const qs_fsm machines[] = {QS_FSM_T2, QS_FSM_C2, QS_FSM_C4, QS_FSM_C8};
    for (int m = 0; m < 4; m++) {
        const setup s = active_setup(machines[m], 3, 2, m % 2 ? QS_ACTIVE_BY_BLOCKS : QS_ACTIVE_BY_ROWS, QS_ACTIVE_RANDOM);
        run_case r = open_run_case(&s, TEXT_TOKENS, 1, NULL);
        qs_phase phase;
        for (int64_t step = 0; step < s.options.steps; step = phase.first + phase.steps) {
            const file_path before = path_of("before"), after = path_of("after");
            qs_train_phase(&s.config, &s.options, step, &phase);
            ok(qs_trainer_save(r.trainer, before.text));
            train_to(r.trainer, phase.first + phase.steps);
            ok(qs_trainer_save(r.trainer, after.text));
            check_rest(&s, step, before.text, after.text);
            assert_int_equal(nftw(before.text, remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
            assert_int_equal(nftw(after.text, remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
        }
        close_run_case(&r);
    }
}

/* Stopped inside a phase, at its last step and right at a boundary; other threads, other memory. */
static void test_resume(void **state)
{
    (void)state;
    static const int64_t stops[] = {1, 24, 25, 26, 60};
    setup s = active_setup(QS_FSM_C4, 2, 2, QS_ACTIVE_BY_ROWS, QS_ACTIVE_RANDOM);
    run_case whole = open_run_case(&s, TEXT_TOKENS, 1, NULL);
    train_to(whole.trainer, s.options.steps);
    const uint64_t expected = hash_of(whole.trainer);
    close_run_case(&whole);
    for (int i = 0; i < 5; i++) {
        const file_path saved = path_of("stopped");
        run_case first = open_run_case(&s, TEXT_TOKENS, 2, NULL);
        train_to(first.trainer, stops[i]);
        ok(qs_trainer_save(first.trainer, saved.text));
        close_run_case(&first);
        run_case second = open_run_case(&s, TEXT_TOKENS, 1, NULL);
        ok(qs_trainer_load(second.trainer, saved.text));
        train_to(second.trainer, s.options.steps);
        assert_true(hash_of(second.trainer) == expected);
        close_run_case(&second);
        assert_int_equal(nftw(saved.text, remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
    }
}

static int same_figure(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

static void check_health(const qs_trainer *a, const qs_trainer *b)
{
    for (int64_t block = -1; block < 3; block++) {
        qs_health x, y;
        ok(qs_trainer_health(a, block, &x));
        ok(qs_trainer_health(b, block, &y));
        assert_int_equal(x.step, y.step);
        assert_true(same_figure(x.pulses, y.pulses) && same_figure(x.flips, y.flips) && same_figure(x.dead, y.dead));
        assert_true(same_figure(x.deepest, y.deepest) && same_figure(x.gradient_rms, y.gradient_rms));
    }
}

/* In 6 phases of 4 steps, with clipping and a tied head. */
static setup short_setup(qs_fsm fsm, qs_precision precision, qs_active_by by)
{
    setup s = active_setup(fsm, 3, 2, by, QS_ACTIVE_TOP_DOWN);
    s.config.tied = 1;
    s.options.steps = 24;
    s.options.clip = 0.5;
    s.options.precision = precision;
    s.options.health_window = 3;
    return s;
}

/* Micro-batches, recomputing, threads, a stop inside a phase and health beside it change no byte, in any arithmetic; figures of
 * health are those of a run that was never stopped. */
static void check_same_bytes(const setup *s)
{
    const file_path saved = path_of("stopped");
    setup thrifty = *s, blind = *s;
    thrifty.options.micro_batch = 16;
    thrifty.options.recompute = 1;
    blind.options.health_window = 0;
    run_case whole = open_run_case(s, TEXT_TOKENS, 1, NULL);
    run_case first = open_run_case(&thrifty, TEXT_TOKENS, 2, NULL);
    run_case second = open_run_case(s, TEXT_TOKENS, 2, NULL);
    run_case third = open_run_case(&blind, TEXT_TOKENS, 1, NULL);
    train_to(first.trainer, 11);
    ok(qs_trainer_save(first.trainer, saved.text));
    ok(qs_trainer_load(second.trainer, saved.text));
    for (int64_t step = 12; step <= s->options.steps; step += 3) {
        train_to(whole.trainer, step);
        train_to(second.trainer, step);
        check_health(whole.trainer, second.trainer);
    }
    train_to(third.trainer, s->options.steps);
    assert_true(hash_of(second.trainer) == hash_of(whole.trainer));
    assert_true(hash_of(third.trainer) == hash_of(whole.trainer));
    close_run_case(&whole);
    close_run_case(&first);
    close_run_case(&second);
    close_run_case(&third);
    assert_int_equal(nftw(saved.text, remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static void test_same_bytes(void **state)
{
    (void)state;
    static const qs_fsm machines[] = {QS_FSM_T2, QS_FSM_C4, QS_FSM_C8};
    for (int m = 0; m < 3; m++)
        for (int precision = 0; precision < QS_PRECISIONS; precision++) {
            const setup s = short_setup(machines[m], (qs_precision)precision, m == 1 ? QS_ACTIVE_BY_BLOCKS : QS_ACTIVE_BY_ROWS);
            check_same_bytes(&s);
        }
}

/* Levels, statistics and scale masters exist for the active part only, and the plan says so. */
static void test_memory(void **state)
{
    (void)state;
    setup s = active_setup(QS_FSM_C8, 1, 1, QS_ACTIVE_BY_ROWS, QS_ACTIVE_BOTTOM_UP);
    setup half = active_setup(QS_FSM_C8, 2, 1, QS_ACTIVE_BY_ROWS, QS_ACTIVE_BOTTOM_UP);
    run_case r = open_run_case(&s, TEXT_TOKENS, 1, NULL), h = open_run_case(&half, TEXT_TOKENS, 1, NULL);
    qs_bits all, part;
    qs_memory_plan plan, half_plan;
    ok(qs_trainer_bits(r.trainer, &all));
    ok(qs_trainer_bits(h.trainer, &part));
    ok(qs_train_plan(&s.config, &s.options, NULL, 0, &plan));
    ok(qs_train_plan(&half.config, &half.options, NULL, 0, &half_plan));
    const double record = all.health_bits_per_weight, packed = all.packed_bits_per_weight;
    const double whole = all.training_bits_per_weight - packed - record, rest = part.training_bits_per_weight - packed - record;
    assert_true(rest > 0.5 * whole && rest < 0.56 * whole);
    const uint64_t less = plan.bytes[QS_POOL_DEVICE][QS_MEMORY_STATE] - half_plan.bytes[QS_POOL_DEVICE][QS_MEMORY_STATE];
    const double planned = 8.0 * (double)less / (double)all.packed_weights;
    assert_true(planned > 0.44 * whole && planned < 0.5 * whole);
    close_run_case(&r);
    close_run_case(&h);
}

static void test_refused(void **state)
{
    (void)state;
    setup s = small_setup(QS_OPTIMIZER_STE, QS_FSM_C4, QS_RECIPE_DEFAULT);
    s.options.active_parts = 2;
    ok(qs_model_config_resolve(&s.config));
    refuses(qs_train_options_resolve(&s.options, &s.config), QS_ERR_ARG, "only fsm");
    s.options.optimizer = QS_OPTIMIZER_FSM;
    s.options.active_parts = 1;
    s.options.sweeps = 2;
    refuses(qs_train_options_resolve(&s.options, &s.config), QS_ERR_ARG, "sweeps is 2");
    s.options.active_parts = 26;
    s.options.sweeps = 1;
    refuses(qs_train_options_resolve(&s.options, &s.config), QS_ERR_ARG, "too few for 26 phases");
    s.options.active_parts = 1025;
    refuses(qs_train_options_resolve(&s.options, &s.config), QS_ERR_ARG, "active_parts is 1025");
    s.options.active_parts = 21;   /* and 20 units of 32 rows */
    s.options.steps = 1000;
    refuses(qs_train_options_resolve(&s.options, &s.config), QS_ERR_ARG, "would be empty");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cover), cmocka_unit_test(test_order), cmocka_unit_test(test_rest_stays),
        cmocka_unit_test(test_resume), cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_memory),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, make_test_folder, drop_test_folder);
}
