/* test_in_place.c - training a model in its file: the bytes are those of a resident run, for any memory, slots, order and machine; the file
 * changes at the end of a phase and never within one; a run goes on after a stop at any step, before or after a merge. */
#include <stdbool.h>
#include "training_case.h"

enum { TEXT_TOKENS = 3000, LAYERS = 4 };

/* 4 layers in parts that end inside blocks; 4 steps a phase. */
static setup phased_setup(qs_fsm fsm, int64_t parts, qs_active_by by, qs_active_order order)
{
    setup s = small_setup(QS_OPTIMIZER_FSM, fsm, QS_RECIPE_DEFAULT);
    s.config.layers = LAYERS;
    s.config.dim = 96;
    s.config.ffn = 160;
    s.options.active_parts = parts;
    s.options.sweeps = 1;
    s.options.active_by = by;
    s.options.active_order = order;
    s.options.steps = 4 * parts;
    s.options.recompute = 1;
    s.options.health_window = 0;
    ok(qs_model_config_resolve(&s.config));
    ok(qs_train_options_resolve(&s.options, &s.config));
    return s;
}

static void make_model(const setup *s, const char *folder)
{
    qs_context *context = open_context(1, NULL, NULL);
    ok(qs_model_write_new(context, &s->config, 77, folder, NULL, NULL));
    qs_close(&context);
}

/* Memory for two blocks of a model, the least that streaming takes. */
static uint64_t two_blocks(const char *folder)
{
    qs_checkpoint *c = open_checkpoint(folder);
    qs_slab_info slab;
    uint64_t most = 0;
    for (int64_t i = 1; i <= LAYERS; i++) {
        ok(qs_checkpoint_slab(c, 0, i, &slab));
        most = slab.bytes > most ? slab.bytes : most;
    }
    qs_checkpoint_close(&c);
    return 2 * ((most + QS_SLAB_ALIGN - 1) / QS_SLAB_ALIGN * QS_SLAB_ALIGN);
}

static void drop(const char *folder)
{
    assert_int_equal(nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static run_case open_in_place(const setup *s, const char *folder, int64_t slots, uint64_t ram, int threads)
{
    run_case r = {open_context(threads, NULL, NULL), NULL, NULL};
    qs_stream_options stream;
    qs_stream_options_default(&stream);
    stream.slots = slots;
    stream.ram_bytes = ram;
    r.text = prose_text(r.context, TEXT_TOKENS, 0.1);
    ok(qs_trainer_create_in_place(r.context, folder, &stream, s->config.ctx, &s->options, r.text, &r.trainer));
    return r;
}

/* Every tensor of the model file a is in b, byte for byte. */
static void same_model(const char *a, const char *b)
{
    qs_checkpoint *x = open_checkpoint(a), *y = open_checkpoint(b);
    ok(qs_checkpoint_verify(x));
    ok(qs_checkpoint_verify(y));
    int64_t compared = 0;
    for (int64_t i = 0; i < qs_checkpoint_count(x); i++) {
        qs_tensor_info p, q;
        ok(qs_checkpoint_tensor(x, i, &p));
        if (strcmp(p.file, "model.safetensors") != 0)
            continue;
        const int64_t j = qs_checkpoint_find(y, p.name);
        assert_true(j >= 0);
        ok(qs_checkpoint_tensor(y, j, &q));
        assert_true(p.bytes == q.bytes);
        if (memcmp(qs_checkpoint_data(x, i), qs_checkpoint_data(y, j), (size_t)p.bytes) != 0)
            fail_msg("%s differs between %s and %s", p.name, a, b);
        compared++;
    }
    assert_true(compared > 14 * LAYERS);
    qs_checkpoint_close(&x);
    qs_checkpoint_close(&y);
}

/* The resident run from the same model: its losses, and its checkpoint in `folder`. */
static void run_resident(const setup *s, const char *model, const char *folder, double *losses)
{
    run_case r = open_run_case(s, TEXT_TOKENS, 1, NULL);
    ok(qs_trainer_start_from(r.trainer, model));
    for (int64_t step = 0; step < s->options.steps; step++)
        losses[step] = train_to(r.trainer, step + 1).loss;
    ok(qs_trainer_save(r.trainer, folder));
    close_run_case(&r);
}

static void check_same(const setup *s, int64_t slots, bool little, int threads)
{
    const file_path model = path_of("model"), resident = path_of("resident");
    double losses[64];
    make_model(s, model.text);
    run_resident(s, model.text, resident.text, losses);
    run_case r = open_in_place(s, model.text, slots, little ? two_blocks(model.text) : 0, threads);
    for (int64_t step = 0; step < s->options.steps; step++) {
        const qs_step_info info = train_to(r.trainer, step + 1);
        if (info.loss != losses[step])
            fail_msg("step %lld: loss %.17g in place, %.17g resident", (long long)step, info.loss, losses[step]);
    }
    ok(qs_trainer_merge(r.trainer));
    assert_false(qs_trainer_must_merge(r.trainer));
    close_run_case(&r);
    same_model(model.text, resident.text);
    drop(model.text);
    drop(resident.text);
}

static void test_same_bytes(void **state)
{
    (void)state;
    static const qs_fsm machines[] = {QS_FSM_C4, QS_FSM_C8, QS_FSM_C2, QS_FSM_T2};
    for (int m = 0; m < 4; m++) {
        setup s = phased_setup(machines[m], 5, m == 1 ? QS_ACTIVE_BY_ROWS : QS_ACTIVE_BY_BLOCKS,
                               m == 2 ? QS_ACTIVE_TOP_DOWN : m == 3 ? QS_ACTIVE_RANDOM : QS_ACTIVE_BOTTOM_UP);
        s.options.full_backward = m == 3;
        s.options.anchor = m == 0 || m == 3 ? 0.3 : 0.0;
        s.config.tied = m == 2;
        check_same(&s, 2 + m, m % 2, 1 + m % 2);
    }
}

/* ---- the file ------------------------------------------------------------------------------------------------------- */

static void read_file(const char *folder, char **bytes, long *n)
{
    char path[400];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *n = ftell(file);
    *bytes = malloc((size_t)*n);
    rewind(file);
    assert_non_null(*bytes);
    assert_int_equal(fread(*bytes, 1, (size_t)*n, file), (size_t)*n);
    fclose(file);
}

/* Within a phase the file stays; a merge changes it, once. */
static void test_file_changes_between_phases(void **state)
{
    (void)state;
    const setup s = phased_setup(QS_FSM_C4, 3, QS_ACTIVE_BY_BLOCKS, QS_ACTIVE_BOTTOM_UP);
    const file_path model = path_of("model");
    make_model(&s, model.text);
    run_case r = open_in_place(&s, model.text, 2, 0, 1);
    char *before = NULL, *now = NULL;
    long n = 0, m = 0;
    read_file(model.text, &before, &n);
    for (int64_t step = 1; step <= s.options.steps; step++) {
        train_to(r.trainer, step);
        read_file(model.text, &now, &m);
        assert_int_equal(n, m);
        assert_memory_equal(before, now, (size_t)n);
        free(now);
        if (!qs_trainer_must_merge(r.trainer))
            continue;
        assert_true(step % 4 == 0);
        ok(qs_trainer_merge(r.trainer));
        ok(qs_trainer_merge(r.trainer));   /* nothing more to do */
        read_file(model.text, &now, &m);
        assert_true(memcmp(before, now, (size_t)n) != 0);
        free(before);
        before = now;
    }
    free(before);
    qs_stream_stats stats;
    qs_trainer_stream_stats(r.trainer, &stats);
    assert_true(stats.blocks > s.options.steps * LAYERS && stats.read_bytes > 0 && stats.copied_bytes > 0);
    close_run_case(&r);
    drop(model.text);
}

/* ---- stopping ---------------------------------------------------------------------------------------------------------- */

/* Saved after `stop` steps, before the merge of a phase that ends there or, `late`, with the merge done and nothing saved after it. */
static void stop_and_go_on(const setup *s, const char *reference, int64_t stop, bool late)
{
    const file_path model = path_of("model"), saved = path_of("saved");
    make_model(s, model.text);
    run_case first = open_in_place(s, model.text, 2, 0, 2);
    train_to(first.trainer, stop);
    ok(qs_trainer_save(first.trainer, saved.text));
    if (late)
        ok(qs_trainer_merge(first.trainer));
    close_run_case(&first);
    run_case second = open_in_place(s, model.text, 3, two_blocks(model.text), 1);
    ok(qs_trainer_load(second.trainer, saved.text));
    train_to(second.trainer, s->options.steps);
    ok(qs_trainer_merge(second.trainer));
    close_run_case(&second);
    same_model(model.text, reference);
    drop(model.text);
    drop(saved.text);
}

/* Every `by`-th step is one to stop at. */
static void check_resume(const setup *s, int64_t by)
{
    const file_path model = path_of("model"), reference = path_of("reference");
    double losses[64];
    make_model(s, model.text);
    run_resident(s, model.text, reference.text, losses);
    drop(model.text);
    for (int64_t stop = 0; stop <= s->options.steps; stop += by)
        for (int late = 0; late < 2; late++)
            stop_and_go_on(s, reference.text, stop, late);
    drop(reference.text);
}

static void test_resume(void **state)
{
    (void)state;
    setup s = phased_setup(QS_FSM_C8, 3, QS_ACTIVE_BY_BLOCKS, QS_ACTIVE_RANDOM);
    check_resume(&s, 1);
    s = phased_setup(QS_FSM_C4, 3, QS_ACTIVE_BY_BLOCKS, QS_ACTIVE_TOP_DOWN);
    s.options.anchor = 0.5;   /* deltas hold the signs to which weights are pulled back, those of when the phase began */
    check_resume(&s, 3);
}

/* A checkpoint of an earlier phase, loaded by a trainer that is further: the run from there on is the same once more. */
static void test_load_after_steps(void **state)
{
    (void)state;
    const setup s = phased_setup(QS_FSM_C4, 3, QS_ACTIVE_BY_BLOCKS, QS_ACTIVE_BOTTOM_UP);
    const file_path model = path_of("model"), saved = path_of("saved");
    make_model(&s, model.text);
    run_case r = open_in_place(&s, model.text, LAYERS, 0, 1);
    train_to(r.trainer, 4);
    ok(qs_trainer_save(r.trainer, saved.text));
    const qs_step_info first = train_to(r.trainer, 6);
    ok(qs_trainer_load(r.trainer, saved.text));
    assert_int_equal(qs_trainer_position(r.trainer), 4);
    const qs_step_info again = train_to(r.trainer, 6);
    assert_true(first.loss == again.loss && first.flips == again.flips);
    close_run_case(&r);
    drop(model.text);
    drop(saved.text);
}

/* ---- refusals ------------------------------------------------------------------------------------------------------------ */

static qs_status try_in_place(const setup *s, qs_context *context, qs_text *text, const char *folder, qs_trainer **out)
{
    qs_stream_options stream;
    qs_stream_options_default(&stream);
    return qs_trainer_create_in_place(context, folder, &stream, s->config.ctx, &s->options, text, out);
}

static void test_refusals(void **state)
{
    (void)state;
    setup s = phased_setup(QS_FSM_C4, 2, QS_ACTIVE_BY_BLOCKS, QS_ACTIVE_BOTTOM_UP);
    const file_path model = path_of("model"), other = path_of("other"), saved = path_of("saved"), full = path_of("full");
    qs_trainer *trainer = NULL;
    make_model(&s, model.text);
    make_model(&s, other.text);
    run_case r = open_in_place(&s, model.text, 2, 0, 1), o = open_in_place(&s, other.text, 2, 0, 1);
    run_case w = open_run_case(&s, TEXT_TOKENS, 1, NULL);
    refuses(try_in_place(&s, r.context, r.text, model.text, &trainer), QS_ERR_CREATE, "another process");
    train_to(r.trainer, 2);
    ok(qs_trainer_save(r.trainer, saved.text));
    train_to(o.trainer, 4);
    ok(qs_trainer_merge(o.trainer));
    refuses(qs_trainer_load(o.trainer, saved.text), QS_ERR_ARG, "builds on the model");
    assert_false(qs_trainer_must_merge(o.trainer));   /* as it was */
    refuses(qs_trainer_start_from(o.trainer, model.text), QS_ERR_ARG, "in place");
    refuses(qs_trainer_load(w.trainer, saved.text), QS_ERR_UNSUPPORTED, "delta");
    ok(qs_trainer_save(w.trainer, full.text));
    refuses(try_in_place(&s, w.context, w.text, full.text, &trainer), QS_ERR_ARG, "training state");
    refuses(qs_trainer_load(r.trainer, full.text), QS_ERR_ARG, "whole model");
    s.options.optimizer = QS_OPTIMIZER_STE;
    refuses(try_in_place(&s, w.context, w.text, other.text, &trainer), QS_ERR_ARG, "only fsm");
    assert_null(trainer);
    close_run_case(&r);
    close_run_case(&o);
    close_run_case(&w);
    drop(model.text);
    drop(other.text);
    drop(saved.text);
    drop(full.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_file_changes_between_phases),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_load_after_steps),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, make_test_folder, drop_test_folder);
}
