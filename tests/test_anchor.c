/* test_anchor.c - runs in which weights that are not pulsed are pulled back to the sign they had: which signs those are, what they cost,
 * and that pulls come out the same for threads, micro-batches, a stop at any step, and parts. */
#include <math.h>
#include "training_case.h"

enum { MATRICES = 14, TEXT_TOKENS = 3000, STEPS = 24 };

static const char *const matrices[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                       "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};

static setup anchor_setup(qs_fsm fsm, double anchor)
{
    setup s = small_setup(QS_OPTIMIZER_FSM, fsm, QS_RECIPE_DEFAULT);
    s.options.steps = STEPS;
    s.options.seed = 9;
    s.options.anchor = anchor;
    return s;
}

/* The run whose signs are kept. */
static file_path make_source(void)
{
    const file_path folder = path_of("source");
    setup s = anchor_setup(QS_FSM_C4, 0.0);
    s.options.seed = 8;
    run_case r = open_run_case(&s, TEXT_TOKENS, 2, NULL);
    train_to(r.trainer, 6);
    ok(qs_trainer_save(r.trainer, folder.text));
    close_run_case(&r);
    return folder;
}

static run_case start(const setup *s, const char *source, int threads)
{
    run_case r = open_run_case(s, TEXT_TOKENS, threads, NULL);
    ok(qs_trainer_start_from(r.trainer, source));
    return r;
}

static const uint8_t *signs_of(const qs_checkpoint *c, int matrix, const char *suffix, qs_tensor_info *info)
{
    char name[128];
    snprintf(name, sizeof name, "model.layers.%d.%s%s", matrix / 7, matrices[matrix % 7], suffix);
    const int64_t index = qs_checkpoint_find(c, name);
    if (index < 0)
        return NULL;
    ok(qs_checkpoint_tensor(c, index, info));
    assert_int_equal(info->format, QS_W1);
    return qs_checkpoint_data(c, index);
}

/* Weights of all matrices in which tensor a of one checkpoint differs from tensor b of another. */
static int64_t differing(const char *one, const char *a, const char *other, const char *b)
{
    int64_t n = 0;
    qs_checkpoint *x = open_checkpoint(one), *y = open_checkpoint(other);
    for (int m = 0; m < MATRICES; m++) {
        qs_tensor_info p, q;
        const uint8_t *v = signs_of(x, m, a, &p), *w = signs_of(y, m, b, &q);
        assert_true(v && w && p.rows == q.rows && p.cols == q.cols);
        for (uint64_t i = 0; i < p.bytes; i++)
            n += __builtin_popcount((unsigned)(v[i] ^ w[i]));
    }
    qs_checkpoint_close(&x);
    qs_checkpoint_close(&y);
    return n;
}

/* ---- what it is --------------------------------------------------------------------------------------------------- */

/* A run of a machine to its end: how far its signs are from the source's, its training bits, its hash. */
typedef struct result {
    int64_t away;
    double bits;
    uint64_t hash;
} result;

static result run_to_end(qs_fsm fsm, double anchor, const char *source)
{
    const file_path folder = path_of("end");
    const setup s = anchor_setup(fsm, anchor);
    result out;
    qs_bits bits;
    qs_tensor_info info;
    run_case r = start(&s, source, 2);
    train_to(r.trainer, STEPS);
    ok(qs_trainer_bits(r.trainer, &bits));
    ok(qs_trainer_save(r.trainer, folder.text));
    out.bits = bits.training_bits_per_weight;
    out.hash = hash_of(r.trainer);
    close_run_case(&r);
    out.away = differing(folder.text, ".weight", source, ".weight");
    if (anchor > 0.0)   /* as at the start, though the signs have moved on */
        assert_int_equal(differing(folder.text, ".anchor", source, ".weight"), 0);
    qs_checkpoint *c = open_checkpoint(folder.text);
    assert_true((signs_of(c, 3, ".anchor", &info) != NULL) == (anchor > 0.0));
    qs_checkpoint_close(&c);
    return out;
}

static void test_machines(void **state)
{
    (void)state;
    const file_path source = make_source();
    for (int fsm = QS_FSM_T2; fsm <= QS_FSM_C4; fsm++) {
        const result free_run = run_to_end((qs_fsm)fsm, 0.0, source.text), negative = run_to_end((qs_fsm)fsm, -1.0, source.text);
        const result little = run_to_end((qs_fsm)fsm, 0.1, source.text), much = run_to_end((qs_fsm)fsm, 1.0, source.text);
        assert_true(free_run.hash == negative.hash && little.hash != free_run.hash && much.hash != little.hash);
        assert_true(free_run.away > 0 && much.away > 0 && much.away < free_run.away);
        assert_true(fabs(little.bits - free_run.bits - 1.0) < 1e-9 && much.bits == little.bits && negative.bits == free_run.bits);
    }
}

/* The first step only measures. In the second all signs are still those of the anchor, so pulls only raise levels: no sign differs from
 * those of a run without. Later some do. */
static void test_start(void **state)
{
    (void)state;
    const file_path source = make_source(), pulled = path_of("pulled"), plain = path_of("plain");
    const setup with = anchor_setup(QS_FSM_C4, 1.0), without = anchor_setup(QS_FSM_C4, 0.0);
    run_case a = start(&with, source.text, 1), b = start(&without, source.text, 1);
    for (int step = 1; step <= 8; step++) {
        train_to(a.trainer, step);
        train_to(b.trainer, step);
        ok(qs_trainer_save(a.trainer, pulled.text));
        ok(qs_trainer_save(b.trainer, plain.text));
        const int64_t away = differing(pulled.text, ".weight", plain.text, ".weight");
        assert_true(step <= 2 ? away == 0 : step < 8 || away > 0);
    }
    close_run_case(&a);
    close_run_case(&b);
}

/* ---- memory ------------------------------------------------------------------------------------------------------- */

static uint64_t state_bytes(const qs_context *context)
{
    qs_memory_usage usage;
    qs_memory(context, QS_MEMORY_STATE, &usage);
    return usage.current_bytes;
}

/* The plan says what is booked: a bit for each weight of the largest part. */
static void test_memory(void **state)
{
    (void)state;
    for (int parts = 1; parts <= 3; parts++) {
        uint64_t booked[2];
        qs_phase phase;
        for (int with = 0; with < 2; with++) {
            setup s = anchor_setup(QS_FSM_C2, with ? 0.5 : 0.0);
            qs_memory_plan plan;
            s.config.dim = 96;
            s.options.active_parts = parts;
            ok(qs_model_config_resolve(&s.config));
            ok(qs_train_plan(&s.config, &s.options, NULL, 0, &plan));
            run_case r = open_run_case(&s, TEXT_TOKENS, 1, NULL);
            booked[with] = state_bytes(r.context);
            assert_int_equal(booked[with], plan.bytes[QS_MEMORY_POOLS][QS_MEMORY_STATE]);
            qs_train_phase(&s.config, qs_trainer_options(r.trainer), 0, &phase);
            close_run_case(&r);
        }
        const double more = 8.0 * (double)(booked[1] - booked[0]) / (double)phase.weights;
        assert_true(more >= 1.0 && more < 1.2);
    }
}

/* ---- the same bytes ----------------------------------------------------------------------------------------------- */

/* Threads, micro-batches and a stop after `stop` steps, with the weights of the start at hand or not. */
static void check_stop(const setup *s, const char *source, int64_t stop, uint64_t expected)
{
    const file_path saved = path_of("stopped");
    setup thrifty = *s;
    char from[64];
    thrifty.options.micro_batch = 16;
    thrifty.options.recompute = 1;
    run_case first = start(&thrifty, source, 2);
    snprintf(from, sizeof from, "%s", qs_trainer_from(first.trainer));
    train_to(first.trainer, stop);
    ok(qs_trainer_save(first.trainer, saved.text));
    close_run_case(&first);
    run_case second = stop % 2 ? start(s, source, 1) : open_run_case(s, TEXT_TOKENS, 1, NULL);
    if (stop % 2 == 0)
        ok(qs_trainer_expect_from(second.trainer, from));
    ok(qs_trainer_load(second.trainer, saved.text));
    train_to(second.trainer, STEPS);
    assert_true(hash_of(second.trainer) == expected);
    close_run_case(&second);
}

static void test_same_bytes(void **state)
{
    (void)state;
    static const int64_t stops[] = {0, 1, 6, 11};
    const file_path source = make_source();
    for (int i = 0; i < 3; i++) {
        setup s = anchor_setup(i == 0 ? QS_FSM_T2 : QS_FSM_C4, 0.4);
        s.options.active_parts = i == 0 ? 1 : 2;
        s.options.sweeps = i == 0 ? 1 : 2;
        s.options.active_by = i == 2 ? QS_ACTIVE_BY_BLOCKS : QS_ACTIVE_BY_ROWS;
        s.options.precision = i == 1 ? QS_PRECISION_INT8 : QS_PRECISION_F32;
        run_case whole = start(&s, source.text, 1);
        train_to(whole.trainer, STEPS);
        const uint64_t expected = hash_of(whole.trainer);
        close_run_case(&whole);
        for (int k = 0; k < 4; k++)
            check_stop(&s, source.text, stops[k], expected);
    }
}

/* With parts the anchor is what a phase begins with: the rows of the part, as the checkpoint before the phase has them. */
static void test_parts(void **state)
{
    (void)state;
    const file_path source = make_source(), before = path_of("before"), after = path_of("after");
    setup s = anchor_setup(QS_FSM_C4, 0.4);
    s.options.active_parts = 2;
    s.options.sweeps = 2;
    s.options.active_by = QS_ACTIVE_BY_BLOCKS;   /* whole matrices: block 0, then block 1 */
    run_case r = start(&s, source.text, 1);
    for (int phase = 0; phase < 4; phase++) {
        ok(qs_trainer_save(r.trainer, before.text));
        train_to(r.trainer, 6 * (phase + 1));
        ok(qs_trainer_save(r.trainer, after.text));
        qs_checkpoint *x = open_checkpoint(before.text), *y = open_checkpoint(after.text);
        int64_t moved = 0;
        for (int m = 0; m < MATRICES; m++) {
            qs_tensor_info p, q;
            const uint8_t *old = signs_of(x, m, ".weight", &p), *anchor = signs_of(y, m, ".anchor", &q);
            assert_true((anchor != NULL) == (m / 7 == phase % 2));
            if (!anchor)
                continue;
            assert_true(p.rows == q.rows && p.bytes == q.bytes);
            assert_memory_equal(old, anchor, (size_t)p.bytes);
            moved += memcmp(signs_of(y, m, ".weight", &q), anchor, (size_t)p.bytes) != 0;
        }
        assert_true(moved > 0);
        qs_checkpoint_close(&x);
        qs_checkpoint_close(&y);
    }
    close_run_case(&r);
}

/* ---- refusals ----------------------------------------------------------------------------------------------------- */

static void test_refused(void **state)
{
    (void)state;
    for (int i = 0; i < ARMS; i++) {
        setup s = small_setup(arms[i].optimizer, arms[i].fsm, arms[i].recipe);
        const int able = arms[i].optimizer == QS_OPTIMIZER_FSM && arms[i].recipe == QS_RECIPE_DEFAULT && arms[i].fsm != QS_FSM_C8;
        s.options.anchor = 0.25;
        ok(qs_model_config_resolve(&s.config));
        if (able)
            ok(qs_train_options_resolve(&s.options, &s.config));
        else
            refuses(qs_train_options_resolve(&s.options, &s.config), QS_ERR_ARG, "anchor is 0.25; only fsm with its default recipe");
        s.options.anchor = 0.0;
        ok(qs_train_options_resolve(&s.options, &s.config));
    }
    const double wrong[] = {1.5, INFINITY, NAN};
    for (int i = 0; i < 3; i++) {
        setup s = anchor_setup(QS_FSM_C4, wrong[i]);
        ok(qs_model_config_resolve(&s.config));
        refuses(qs_train_options_resolve(&s.options, &s.config), QS_ERR_ARG, "anchor is");
    }
}

/* A run goes on with its own anchor only. */
static void test_other_anchor(void **state)
{
    (void)state;
    const file_path source = make_source(), saved = path_of("saved");
    const setup s = anchor_setup(QS_FSM_C4, 0.4), other = anchor_setup(QS_FSM_C4, 0.0);
    run_case a = start(&s, source.text, 1), b = start(&other, source.text, 1);
    ok(qs_trainer_save(a.trainer, saved.text));
    refuses(qs_trainer_load(b.trainer, saved.text), QS_ERR_ARG, "anchor = 0.4, this run asks for 0.0");
    close_run_case(&a);
    close_run_case(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_machines),   cmocka_unit_test(test_start), cmocka_unit_test(test_memory),
        cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_parts), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_other_anchor),
    };
    return cmocka_run_group_tests(tests, make_test_folder, drop_test_folder);
}
