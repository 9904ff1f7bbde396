/* test_train.c - what training must do besides the right bytes: learn, follow its schedules, count its flips, keep to its
 * memory, refuse bad settings, and leave a run as it was when something goes wrong. */
#include <math.h>
#include <stdbool.h>
#include <sys/stat.h>
#include "training_case.h"

/* ---- learning ---------------------------------------------------------------------------------------------------- */

/* One window of 32 tokens for 200 steps: everything must end up knowing it by heart. With still_floats only the matrices of a
 * wider single layer move; then nothing but the machine (or the latents, or the dense weights) can have learned. */
static double overfit(const arm *a, int still_floats)
{
    enum { STEPS = 200 };
    setup s = small_setup(a->optimizer, a->fsm, a->recipe);
    s.config.ctx = 32;
    s.options.batch = 1;
    s.options.steps = STEPS;
    if (still_floats) {
        s.config.dim = 64;
        s.config.ffn = 128;
        s.config.layers = 1;
        s.options.lr = s.options.scale_lr = 1e-30;
        s.options.matrix_lr = a->optimizer == QS_OPTIMIZER_BOP ? 0.0 : 8e-3;   /* bop: its own share */
    }
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = one_window_text(context, s.config.ctx);
    qs_trainer *trainer = make_trainer(context, &s, text);
    const double first = train_to(trainer, 1).loss;
    assert_true(first > 5.0 && first < 7.0);
    const double last = train_to(trainer, STEPS).loss;
    double nats = 0.0;
    ok(qs_model_evaluate(qs_trainer_model(trainer), text, 0, 1, &nats, NULL));
    assert_true(fabs(nats - last) < 0.1 * last + 0.05);   /* the same window, one update later */
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
    return last;
}

static void test_overfit(void **state)
{
    (void)state;
    for (int i = 0; i < ARMS; i++) {
        const double loss = overfit(&arms[i], 0), most = arms[i].recipe == QS_RECIPE_LITERAL ? 0.05 : 0.02;
        if (!(loss < most))
            fail_msg("%s: the loss of one window is %g after 200 steps, at most %g was expected", arms[i].name, loss, most);
    }
}

static void test_overfit_matrices_alone(void **state)
{
    (void)state;
    for (int i = 0; i < ARMS; i++) {
        const double loss = overfit(&arms[i], 1), most = arms[i].recipe == QS_RECIPE_LITERAL ? 0.5 : 0.25;
        if (arms[i].optimizer == QS_OPTIMIZER_FROZEN ? !(loss > 5.0) : !(loss < most))
            fail_msg("%s: the loss of one window is %g after 200 steps of the matrices alone", arms[i].name, loss);
    }
}

typedef struct history {
    double nats;               /* validation at the end */
    double share[8];           /* pulses / density over steps 11.. 40, 41.. 70, ... */
    double density[8];
    double all;                /* over all steps from 11 */
} history;

static history train_prose(qs_recipe recipe)
{
    enum { STEPS = 250, SPAN = 30, SKIP = 10 };
    setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, recipe);
    history h = {.nats = 0.0};
    double pulses = 0.0, density = 0.0, pulses_all = 0.0, density_all = 0.0;
    s.config.dim = 64;
    s.config.heads = s.config.kv_heads = 4;
    s.config.head_dim = 16;
    s.config.ffn = 128;
    s.config.ctx = 32;
    s.options.batch = 8;
    s.options.steps = STEPS;
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = prose_text(context, 40000, 0.05);
    qs_trainer *trainer = make_trainer(context, &s, text);
    train_to(trainer, SKIP);
    for (int step = SKIP + 1; step <= STEPS; step++) {
        const qs_step_info info = train_to(trainer, step);
        pulses += info.pulses;
        density += info.density;
        pulses_all += info.pulses;
        density_all += info.density;
        if ((step - SKIP) % SPAN == 0) {
            h.share[(step - SKIP) / SPAN - 1] = pulses / density;
            h.density[(step - SKIP) / SPAN - 1] = density / SPAN;
            pulses = density = 0.0;
        }
    }
    h.all = pulses_all / density_all;
    ok(qs_model_evaluate(qs_trainer_model(trainer), text, 0, 16, &h.nats, NULL));
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
    return h;
}

/* Using the statistics of the step before costs next to nothing, and the share of pulses follows the schedule without a look
 * at the step's own quantile. At a few percent of density the controller, which follows the mean logarithm of the share, lets the
 * plain mean run above it; seen are 1.5 at 2% in this little model. */
static void test_exact_against_lagged(void **state)
{
    (void)state;
    const history lagged = train_prose(QS_RECIPE_DEFAULT), exact = train_prose(QS_RECIPE_EXACT);
    if (!(fabs(lagged.nats - exact.nats) < 0.03) || !(lagged.nats < 1.0))
        fail_msg("validation ends at %.4f (lagged) and %.4f (exact)", lagged.nats, exact.nats);
    assert_true(lagged.all > 0.85 && lagged.all < 1.15);
    for (int i = 0; i < 8; i++) {
        const double most = lagged.density[i] > 0.1 ? 1.15 : 2.0;
        if (!(lagged.share[i] > 0.85 && lagged.share[i] < most))
            fail_msg("lagged: %.3f of the wanted pulses at density %.3f", lagged.share[i], lagged.density[i]);
        assert_true(fabs(exact.share[i] - 1.0) < 0.01);
    }
}

/* ---- schedules and counts ---------------------------------------------------------------------------------------- */

static void test_step_info(void **state)
{
    (void)state;
    enum { STEPS = 40 };
    static const qs_schedule schedules[] = {QS_SCHEDULE_COSINE, QS_SCHEDULE_LINEAR, QS_SCHEDULE_CONSTANT};
    const double pi = acos(-1.0);
    for (int k = 0; k < 3; k++) {
        setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
        s.options.schedule = schedules[k];
        s.options.steps = STEPS;
        s.options.warmup = 10;
        s.options.lr = 0.01;
        s.options.final_lr = 0.2;
        s.options.density_start = 0.5;
        s.options.density_end = 0.1;
        s.options.batch = 1;
        qs_context *context = open_context(1, NULL, NULL);
        qs_text *text = prose_text(context, 500, 0.1);
        qs_trainer *trainer = make_trainer(context, &s, text);
        for (int i = 0; i < STEPS; i++) {
            const double x = (double)i / STEPS, h = 0.5 * (1.0 + cos(pi * x)), warm = i < 9 ? (i + 1) / 10.0 : 1.0;
            const double decay[] = {0.2 + 0.8 * h, 0.2 + 0.8 * (1.0 - x), 1.0};
            qs_step_info info;
            ok(qs_trainer_step(trainer, &info));
            assert_int_equal(info.step, i + 1);
            assert_int_equal(info.tokens, (i + 1) * 16);
            assert_true(fabs(info.lr - 0.01 * warm * decay[k]) < 1e-12);
            assert_true(fabs(info.density - (0.1 + 0.4 * h)) < 1e-12);
            /* the first step measures */
            assert_true(i ? info.pulses > 0.0 && info.pulses < 1.0 : info.pulses == 0.0 && info.flips == 0.0);
            assert_true(info.flips <= info.pulses);
        }
        qs_step_info info = {.step = -1};
        refuses(qs_trainer_step(trainer, &info), QS_ERR_ARG, "40 steps");
        assert_int_equal(info.step, -1);
        assert_int_equal(qs_trainer_position(trainer), STEPS);
        qs_trainer_free(&trainer);
        qs_text_free(&text);
        qs_close(&context);
    }
}

/* Bits in which the packed weights of two checkpoints differ. */
static int64_t differing_signs(const qs_checkpoint *a, const qs_checkpoint *b)
{
    int64_t n = 0;
    qs_tensor_info info, other;
    assert_int_equal(qs_checkpoint_count(a), qs_checkpoint_count(b));
    for (int64_t i = 0; i < qs_checkpoint_count(a); i++) {
        ok(qs_checkpoint_tensor(a, i, &info));
        ok(qs_checkpoint_tensor(b, i, &other));
        assert_string_equal(info.name, other.name);
        const uint8_t *x = qs_checkpoint_data(a, i), *y = qs_checkpoint_data(b, i);
        for (uint64_t j = 0; info.format == QS_W1 && j < info.bytes; j++)
            n += __builtin_popcount((unsigned)(x[j] ^ y[j]));
    }
    return n;
}

/* The reported share of flips is the share of signs that differ between two checkpoints, for every arm; signs of frozen and lora
 * stay. */
static void test_flips_are_counted(void **state)
{
    (void)state;
    for (int i = 0; i < ARMS; i++) {
        if (arms[i].optimizer == QS_OPTIMIZER_ADAMW)
            continue;
        setup s = small_setup(arms[i].optimizer, arms[i].fsm, arms[i].recipe);
        const file_path before = path_of("before"), after = path_of("after");
        qs_context *context = open_context(2, NULL, NULL);
        qs_text *text = prose_text(context, 3000, 0.1);
        qs_trainer *trainer = make_trainer(context, &s, text);
        qs_bits bits;
        ok(qs_trainer_bits(trainer, &bits));
        train_to(trainer, 6);
        ok(qs_trainer_save(trainer, before.text));
        const qs_step_info info = train_to(trainer, 7);
        ok(qs_trainer_save(trainer, after.text));
        qs_checkpoint *a = open_checkpoint(before.text), *b = open_checkpoint(after.text);
        const int64_t flips = differing_signs(a, b);
        assert_int_equal(flips, (int64_t)rint(info.flips * (double)bits.packed_weights));
        const bool still = arms[i].optimizer == QS_OPTIMIZER_FROZEN || arms[i].optimizer == QS_OPTIMIZER_LORA;
        assert_true(still ? flips == 0 : flips > 0);
        assert_true(arms[i].optimizer == QS_OPTIMIZER_FSM ? info.pulses > 0.0 : info.pulses == 0.0);
        qs_checkpoint_close(&a);
        qs_checkpoint_close(&b);
        qs_trainer_free(&trainer);
        qs_text_free(&text);
        qs_close(&context);
    }
}

/* From zero moments AdamW moves every parameter by its rate against the sign of the gradient. */
static void test_first_update(void **state)
{
    (void)state;
    setup s = small_setup(QS_OPTIMIZER_ADAMW, QS_FSM_C4, QS_RECIPE_DEFAULT);
    static const char *const names[] = {"lm_head.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"};
    const file_path before = path_of("before"), after = path_of("after");
    s.options.lr = 1e-3;
    s.options.matrix_lr = 2e-3;
    s.options.warmup = 0;
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = prose_text(context, 3000, 0.1);
    qs_trainer *trainer = make_trainer(context, &s, text);
    ok(qs_trainer_save(trainer, before.text));
    train_to(trainer, 1);
    ok(qs_trainer_save(trainer, after.text));
    qs_checkpoint *a = open_checkpoint(before.text), *b = open_checkpoint(after.text);
    for (int i = 0; i < 3; i++) {
        int64_t n = 0;
        const float *x = floats_of(a, names[i], "", &n), *y = floats_of(b, names[i], "", &n);
        const float *m = floats_of(b, names[i], ".adam_m", &n), *v = floats_of(b, names[i], ".adam_v", &n);
        assert_true(x && y && m && v);
        for (int64_t j = 0; j < n; j++) {
            const double g = 10.0 * (double)m[j], step = (i == 1 ? 2e-3 : 1e-3) * g / (fabs(g) + 1e-8);
            assert_true(fabs((double)y[j] - (double)x[j] + step) < 1e-6);
            assert_true(fabs((double)v[j] - 0.05 * g * g) <= 1e-5 * 0.05 * g * g + 1e-30);
        }
    }
    qs_checkpoint_close(&a);
    qs_checkpoint_close(&b);
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static uint64_t allocations(const qs_context *context)
{
    qs_memory_usage usage;
    qs_memory(context, QS_MEMORY_TAGS, &usage);
    return usage.allocations;
}

static uint64_t current_bytes(const qs_context *context, qs_memory_tag tag)
{
    qs_memory_usage usage;
    qs_memory(context, tag, &usage);
    return usage.current_bytes;
}

static uint64_t peak_bytes(const qs_context *context, qs_memory_tag tag)
{
    qs_memory_usage usage;
    qs_memory(context, tag, &usage);
    return usage.peak_bytes;
}

static void test_no_allocation(void **state)
{
    (void)state;
    for (int i = 0; i < ARMS; i++) {
        for (int way = 0; way < 3; way++) {
            setup s = small_setup(arms[i].optimizer, arms[i].fsm, arms[i].recipe);
            s.options.clip = way == 1 ? 1.0 : 0.0;
            s.options.micro_batch = way == 2 ? 16 : 0;
            s.options.recompute = way == 2;
            s.options.health_window = 3 + way;   /* the first figures come in step 3, 4 or 5 */
            qs_context *context = open_context(1 + way, NULL, NULL);
            const uint64_t empty = current_bytes(context, QS_MEMORY_TAGS);
            qs_text *text = prose_text(context, 3000, 0.1);
            qs_trainer *trainer = make_trainer(context, &s, text);
            train_to(trainer, 2);
            const uint64_t before = allocations(context), bytes = current_bytes(context, QS_MEMORY_TAGS);
            train_to(trainer, 8);
            if (allocations(context) != before || current_bytes(context, QS_MEMORY_TAGS) != bytes)
                fail_msg("%s: steps 3 to 8 allocate", arms[i].name);
            qs_trainer_free(&trainer);
            qs_text_free(&text);
            if (current_bytes(context, QS_MEMORY_TAGS) > empty + current_bytes(context, QS_MEMORY_WORKSPACE))
                fail_msg("%s: bytes stay behind", arms[i].name);
            qs_close(&context);
        }
    }
}

/* One layer whose matrices are all width x width, and two steps of two tokens. */
typedef struct wide_run {
    qs_bits bits;
    uint64_t matrices;           /* accounted bytes of weights and state */
    uint64_t gradients, others;  /* peaks in a step: gradients; everything but parameters, state and operands */
} wide_run;

static wide_run run_wide(qs_fsm fsm, int64_t width, int64_t steps)
{
    static const qs_memory_tag apart[] = {QS_MEMORY_GRADIENTS, QS_MEMORY_WORKSPACE, QS_MEMORY_OTHER, QS_MEMORY_DATA, QS_MEMORY_IO};
    setup s = small_setup(QS_OPTIMIZER_FSM, fsm, QS_RECIPE_DEFAULT);
    wide_run r;
    memset(&r, 0, sizeof r);
    s.config.layers = 1;
    s.config.dim = s.config.ffn = width;
    s.config.heads = s.config.kv_heads = width / 128;
    s.config.head_dim = 128;
    s.config.ctx = 2;
    s.options.batch = 1;
    qs_context *context = open_context(2, NULL, NULL);
    qs_text *text = prose_text(context, 200, 0.1);
    qs_trainer *trainer = make_trainer(context, &s, text);
    ok(qs_trainer_bits(trainer, &r.bits));
    assert_int_equal(r.bits.packed_weights, 7 * width * width);
    assert_int_equal(r.bits.adamw16_bytes, 12 * 7 * width * width);
    r.matrices = current_bytes(context, QS_MEMORY_WEIGHTS) + current_bytes(context, QS_MEMORY_STATE);
    qs_memory_reset_peak(context);
    train_to(trainer, steps);
    r.gradients = peak_bytes(context, QS_MEMORY_GRADIENTS);
    for (size_t i = 0; i < sizeof apart / sizeof apart[0]; i++)
        r.others += peak_bytes(context, apart[i]);
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
    return r;
}

static void check_bits(const wide_run *r, const char *name, double most)
{
    const double accounted = 8.0 * (double)r->matrices / (double)r->bits.packed_weights;
    if (!(r->bits.training_bits_per_weight <= most) || !(accounted <= most))
        fail_msg("%s: %.4f bits per weight, %.4f accounted, at most %.1f allowed", name, r->bits.training_bits_per_weight,
                 accounted, most);
    /* what is counted is what is allocated, alignment aside */
    assert_true(accounted >= r->bits.training_bits_per_weight && accounted < r->bits.training_bits_per_weight * 1.01);
    assert_true(r->bits.packed_bits_per_weight > 1.0 && r->bits.packed_bits_per_weight < 1.02);
    assert_int_equal(r->bits.training_bytes, rint(r->bits.training_bits_per_weight * (double)r->bits.packed_weights / 8.0));
}

/* Bits per weight of every machine at both widths, and no dense gradient in the steps of the default machine. */
static void test_wide_matrices(void **state)
{
    (void)state;
    static const struct { const char *name; qs_fsm fsm; double most; } machines[] = {
        {"t2", QS_FSM_T2, 3.2}, {"c2", QS_FSM_C2, 3.2}, {"c4", QS_FSM_C4, 5.2}, {"c8", QS_FSM_C8, 9.2}};
    for (size_t i = 0; i < sizeof machines / sizeof machines[0]; i++) {
        const int64_t steps = machines[i].fsm == QS_FSM_C4 ? 2 : 0;
        const wide_run narrow = run_wide(machines[i].fsm, 1024, steps), wide = run_wide(machines[i].fsm, 4096, steps);
        const double grown = 4096.0 * 4096.0 - 1024.0 * 1024.0;   /* of one matrix */
        check_bits(&narrow, machines[i].name, machines[i].most);
        check_bits(&wide, machines[i].name, machines[i].most);
        if (!((double)(wide.others - narrow.others) < 1.0 * grown))
            fail_msg("%s: the step takes %.3f bytes per weight", machines[i].name, (double)(wide.others - narrow.others) / grown);
    }
}

/* Gradients that exist at all are those of floats and row scales: vectors, and two tables of symbols. */
static void test_no_dense_gradient(void **state)
{
    (void)state;
    uint64_t bytes[2];
    for (int i = 0; i < 2; i++) {
        setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
        s.config.ffn = i ? 4096 : 64;
        s.options.batch = 1;
        qs_context *context = open_context(1, NULL, NULL);
        qs_text *text = prose_text(context, 200, 0.1);
        qs_trainer *trainer = make_trainer(context, &s, text);
        train_to(trainer, 3);
        bytes[i] = peak_bytes(context, QS_MEMORY_GRADIENTS);
        qs_trainer_free(&trainer);
        qs_text_free(&text);
        qs_close(&context);
    }
    /* 3 * 32 * 4032 weights a layer; per row of ffn two scales and one gain */
    const double weights = 2.0 * 3.0 * 32.0 * 4032.0, vectors = 2.0 * 3.0 * 4.0 * 4032.0;
    assert_true((double)(bytes[1] - bytes[0]) <= vectors + 1024.0);
    assert_true(vectors < 0.2 * weights);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

typedef struct bad_option {
    size_t field;
    int is_real, is_wide;      /* double; int64_t (else int32_t) */
    double value;
    const char *text;
} bad_option;

#define REAL(name, value) {offsetof(qs_train_options, name), 1, 1, value, #name}
#define WIDE(name, value) {offsetof(qs_train_options, name), 0, 1, value, #name}
#define NARROW(name, value) {offsetof(qs_train_options, name), 0, 0, value, #name}
static const bad_option bad_options[] = {
    WIDE(steps, 0), WIDE(steps, -3), WIDE(steps, 1e18), WIDE(batch, 0), WIDE(batch, 1e15), WIDE(micro_batch, -1),
    WIDE(micro_batch, 19), WIDE(micro_batch, 15), WIDE(warmup, 101), NARROW(sticky, 257), NARROW(recompute, 2),
    NARROW(optimizer, QS_OPTIMIZERS), NARROW(optimizer, -1), NARROW(fsm, 4), NARROW(fsm, -1), NARROW(recipe, 3), NARROW(schedule, 3),
    REAL(lr, NAN), REAL(density_end, NAN), REAL(lr, INFINITY),
    REAL(matrix_lr, INFINITY), REAL(scale_lr, INFINITY), REAL(final_lr, 1.5), REAL(final_lr, NAN),
    REAL(weight_decay, -0.1), REAL(weight_decay, NAN), REAL(clip, -1.0), REAL(clip, NAN), REAL(density_start, 1.1),
    REAL(density_end, 2.0), REAL(amplitude_start, 129.0), REAL(amplitude_end, INFINITY), WIDE(health_window, 1e18),
    WIDE(lora_rank, 1025), WIDE(active_parts, 1e18), WIDE(active_parts, 1025), WIDE(sweeps, 1e18), NARROW(active_by, 2),
    NARROW(active_order, 3),
};
#undef REAL
#undef WIDE
#undef NARROW

static void test_options_refused(void **state)
{
    (void)state;
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = prose_text(context, 3000, 0.1);
    for (size_t i = 0; i < sizeof bad_options / sizeof bad_options[0]; i++) {
        const bad_option *b = &bad_options[i];
        setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
        qs_trainer *trainer = NULL;
        const int64_t wide = b->is_real ? 0 : (int64_t)b->value;
        const int32_t narrow = b->is_wide ? 0 : (int32_t)b->value;
        char *field = (char *)&s.options + b->field;
        if (b->is_real)
            memcpy(field, &b->value, sizeof b->value);
        else if (b->is_wide)
            memcpy(field, &wide, sizeof wide);
        else
            memcpy(field, &narrow, sizeof narrow);
        const uint64_t before = current_bytes(context, QS_MEMORY_TAGS);
        refuses(qs_trainer_create(context, &s.config, &s.options, text, &trainer), QS_ERR_ARG, b->text);
        assert_null(trainer);
        assert_int_equal(current_bytes(context, QS_MEMORY_TAGS), before);
    }
    setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C8, QS_RECIPE_EXACT);
    qs_trainer *trainer = NULL;
    refuses(qs_trainer_create(context, &s.config, &s.options, text, &trainer), QS_ERR_ARG, "c8");
    s = small_setup(QS_OPTIMIZER_BOP, QS_FSM_C4, QS_RECIPE_DEFAULT);
    s.options.matrix_lr = 1.5;
    refuses(qs_trainer_create(context, &s.config, &s.options, text, &trainer), QS_ERR_ARG, "matrix_lr is 1.5; for bop it is a share");
    s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    s.options.struct_size--;
    refuses(qs_trainer_create(context, &s.config, &s.options, text, &trainer), QS_ERR_ARG, "struct_size");
    s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    s.config.dim = 40;
    refuses(qs_trainer_create(context, &s.config, &s.options, text, &trainer), QS_ERR_ARG, "dim");
    s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    s.config.ctx = 2700;
    refuses(qs_trainer_create(context, &s.config, &s.options, text, &trainer), QS_ERR_SHAPE, "2701");
    assert_null(trainer);
    qs_text_free(&text);
    qs_close(&context);
}

/* The literal recipe leaves no freedom; automatic values are filled in and can be read back. */
static void test_options_resolved(void **state)
{
    (void)state;
    setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_LITERAL);
    refuses(qs_train_options_resolve(&s.options, &s.config), QS_ERR_ARG, "fsm is c4");
    s.options.fsm = QS_FSM_T2;
    ok(qs_train_options_resolve(&s.options, &s.config));
    assert_int_equal(s.options.sticky, 256);
    assert_true(s.options.density_start == 0.02 && s.options.density_end == 0.02);
    s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C2, QS_RECIPE_DEFAULT);
    ok(qs_train_options_resolve(&s.options, &s.config));
    assert_int_equal(s.options.sticky, 13);
    assert_int_equal(s.options.micro_batch, s.options.batch);
    assert_int_equal(s.options.warmup, 10);
    assert_true(s.options.lr > 0.0 && s.options.scale_lr > s.options.lr && s.options.final_lr == 0.05);
    const qs_train_options once = s.options;
    ok(qs_train_options_resolve(&s.options, &s.config));
    assert_memory_equal(&once, &s.options, sizeof once);
    s = small_setup(QS_OPTIMIZER_STE, QS_FSM_C4, QS_RECIPE_DEFAULT);
    s.options.lr = 1e-3;
    ok(qs_train_options_resolve(&s.options, &s.config));
    assert_true(s.options.lr == 1e-3 && s.options.matrix_lr < 8e-3);
    static const int64_t windows[][2] = {{10, 20}, {250, 25}, {100000, 100}};   /* steps, automatic window */
    for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++) {
        s.options.steps = windows[i][0];
        s.options.warmup = s.options.health_window = -1;
        ok(qs_train_options_resolve(&s.options, &s.config));
        assert_int_equal(s.options.health_window, windows[i][1]);
    }
    s = small_setup(QS_OPTIMIZER_BOP, QS_FSM_C4, QS_RECIPE_DEFAULT);
    s.options.health_window = 0;
    ok(qs_train_options_resolve(&s.options, &s.config));
    assert_true(s.options.matrix_lr > 0.0 && s.options.matrix_lr <= 1.0 && s.options.matrix_lr != s.options.lr);
    assert_int_equal(s.options.health_window, 0);
}

/* The cursor in a checkpoint's manifest must be that of a run of `windows` windows. */
static void check_cursor(const char *folder, const qs_text *text, const setup *s, int64_t windows)
{
    qs_cursor cursor = {0, 0};
    int64_t start = 0;
    char want[128];
    for (int64_t i = 0; i < windows; i++)
        ok(qs_text_next_window(text, s->config.ctx, s->options.seed, &cursor, &start));
    snprintf(want, sizeof want, "\"cursor\": {\n    \"epoch\": %llu,\n    \"index\": %llu\n", (unsigned long long)cursor.epoch,
             (unsigned long long)cursor.index);
    qs_checkpoint *checkpoint = open_checkpoint(folder);
    if (!strstr(qs_checkpoint_manifest(checkpoint), want))
        fail_msg("%s is not in %s", want, qs_checkpoint_manifest(checkpoint));
    qs_checkpoint_close(&checkpoint);
}

/* Rates far too high end in infinities; the failing step changes nothing, can be repeated, and the run can be saved. */
static void test_nonfinite(void **state)
{
    (void)state;
    enum { STEPS = 30 };
    const file_path folder = path_of("nonfinite");
    for (int i = 0; i < ARMS; i++) {
        setup s = small_setup(arms[i].optimizer, arms[i].fsm, arms[i].recipe);
        s.options.lr = s.options.scale_lr = 1e38;
        s.options.matrix_lr = arms[i].optimizer == QS_OPTIMIZER_BOP ? 1.0 : 1e38;
        s.options.warmup = 0;
        s.options.schedule = QS_SCHEDULE_CONSTANT;
        s.options.steps = STEPS;
        qs_context *context = open_context(1, NULL, NULL);
        qs_text *text = prose_text(context, 3000, 0.1);
        qs_trainer *trainer = make_trainer(context, &s, text), *other = make_trainer(context, &s, text);
        qs_step_info info;
        uint64_t before = hash_of(trainer);
        int64_t position = 0;
        qs_status status = QS_OK;
        while (position < STEPS && (status = qs_trainer_step(trainer, &info)) == QS_OK) {
            before = hash_of(trainer);
            position++;
        }
        if (status != QS_ERR_NONFINITE)
            fail_msg("%s: %s at step %lld", arms[i].name, qs_status_text(status), (long long)position);
        assert_int_equal(qs_trainer_position(trainer), position);
        assert_int_equal(hash_of(trainer), before);
        info.step = -1;
        refuses(qs_trainer_step(trainer, &info), QS_ERR_NONFINITE, "lower the learning rates");
        assert_int_equal(info.step, -1);
        assert_int_equal(hash_of(trainer), before);
        ok(qs_trainer_save(trainer, folder.text));
        check_cursor(folder.text, text, &s, position * s.options.batch);
        ok(qs_trainer_load(other, folder.text));
        assert_int_equal(hash_of(other), before);
        qs_trainer_free(&trainer);
        qs_trainer_free(&other);
        qs_text_free(&text);
        qs_close(&context);
    }
}

/* ---- continuing what cannot be continued --------------------------------------------------------------------------- */

static void expect_other(qs_context *context, const setup *s, qs_text *text, const char *folder, const char *what)
{
    qs_trainer *trainer = make_trainer(context, s, text);
    const uint64_t before = hash_of(trainer);
    refuses(qs_trainer_load(trainer, folder), QS_ERR_ARG, what);
    assert_int_equal(hash_of(trainer), before);
    assert_int_equal(qs_trainer_position(trainer), 0);
    qs_trainer_free(&trainer);
}

static void test_load_refused(void **state)
{
    (void)state;
    const setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    const file_path folder = path_of("saved"), missing = path_of("missing"), model = path_of("saved/model.safetensors");
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = prose_text(context, 3000, 0.1), *longer = prose_text(context, 3001, 0.1), *share = prose_text(context, 3000, 0.2);
    qs_trainer *trainer = make_trainer(context, &s, text);
    train_to(trainer, 2);
    ok(qs_trainer_save(trainer, folder.text));
    qs_trainer_free(&trainer);
    setup o = s;
    o.config.layers = 3;
    expect_other(context, &o, text, folder.text, "model layers = 2, this run asks for 3");
    o = s;
    o.config.qk_norm = 1;
    expect_other(context, &o, text, folder.text, "qk_norm");
    o = s;
    o.config.norm_eps = 1e-6;
    expect_other(context, &o, text, folder.text, "norm_eps");
    o = s;
    o.options.optimizer = QS_OPTIMIZER_STE;
    expect_other(context, &o, text, folder.text, "optimizer = \"fsm\", this run asks for \"ste\"");
    o = s;
    o.options.fsm = QS_FSM_C8;
    expect_other(context, &o, text, folder.text, "fsm_state = \"c4\", this run asks for \"c8\"");
    o = s;
    o.options.steps = 101;
    expect_other(context, &o, text, folder.text, "steps = 100, this run asks for 101");
    o = s;
    o.options.batch = 4;
    expect_other(context, &o, text, folder.text, "batch");
    o = s;
    o.options.lr = 0.5;
    expect_other(context, &o, text, folder.text, "lr = ");
    o = s;
    o.options.seed++;
    expect_other(context, &o, text, folder.text, "seed 5, this run asks for 6");
    expect_other(context, &s, longer, folder.text, "text");
    expect_other(context, &s, share, folder.text, "train_tokens");
    trainer = make_trainer(context, &s, text);
    const uint64_t before = hash_of(trainer);
    refuses(qs_trainer_load(trainer, missing.text), QS_ERR_NOINPUT, "missing");
    refuses(qs_trainer_load(trainer, model.text), QS_ERR_FORMAT, "not a checkpoint folder");
    /* one bit of the state */
    FILE *file = fopen(path_of("saved/state.safetensors").text, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, -4097, SEEK_END), 0);
    const int byte = fgetc(file);
    assert_int_equal(fseek(file, -4097, SEEK_END), 0);
    assert_int_equal(fputc(byte ^ 1, file), byte ^ 1);
    assert_int_equal(fclose(file), 0);
    refuses(qs_trainer_load(trainer, folder.text), QS_ERR_CORRUPT, "state.safetensors");
    assert_int_equal(hash_of(trainer), before);
    assert_int_equal(qs_trainer_position(trainer), 0);
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_text_free(&longer);
    qs_text_free(&share);
    qs_close(&context);
}

/* A checkpoint of a run is a model: it evaluates as the run did, also from the folder above and from the model file alone. */
static void test_saved_model(void **state)
{
    (void)state;
    for (int i = 0; i < ARMS; i++) {
        const setup s = small_setup(arms[i].optimizer, arms[i].fsm, arms[i].recipe);
        const file_path run = path_of("run"), folder = path_of("run/step-00000003"), file = path_of("run/step-00000003/model.safetensors");
        const char *const paths[] = {run.text, folder.text, file.text};
        qs_context *context = open_context(2, NULL, NULL), *scalar = open_context(1, "scalar", NULL);
        qs_text *text = prose_text(context, 500, 0.1);
        qs_trainer *trainer = make_trainer(context, &s, text);
        double want = 0.0, nats = 0.0;
        train_to(trainer, 3);
        ok(qs_trainer_save(trainer, folder.text));
        ok(qs_model_evaluate(qs_trainer_model(trainer), text, 0, 2, &want, NULL));
        for (int p = 0; p < 3; p++) {
            qs_model *model = NULL;
            ok(qs_model_open(p ? context : scalar, paths[p], &model));
            ok(qs_model_evaluate(model, text, 0, 1, &nats, NULL));
            assert_true(nats == want);
            qs_model_free(&model);
        }
        /* evaluation does not disturb the run */
        ok(qs_trainer_load(trainer, folder.text));
        qs_trainer_free(&trainer);
        qs_text_free(&text);
        qs_close(&context);
        qs_close(&scalar);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_overfit),          cmocka_unit_test(test_overfit_matrices_alone),
        cmocka_unit_test(test_exact_against_lagged), cmocka_unit_test(test_step_info),
        cmocka_unit_test(test_flips_are_counted), cmocka_unit_test(test_first_update),
        cmocka_unit_test(test_no_allocation),    cmocka_unit_test(test_wide_matrices),
        cmocka_unit_test(test_no_dense_gradient), cmocka_unit_test(test_options_refused),
        cmocka_unit_test(test_options_resolved), cmocka_unit_test(test_nonfinite),
        cmocka_unit_test(test_load_refused),     cmocka_unit_test(test_saved_model),
    };
    return cmocka_run_group_tests(tests, make_test_folder, drop_test_folder);
}
