/* test_health.c - the figures of qs_trainer_health against counts made here from checkpoints of every step; that measuring
 * changes no trained byte; that windows go on after a resume as if the run had never stopped. */
#include <jansson.h>
#include <math.h>
#include "training_case.h"

enum { WINDOW = 5, TEXT = 3000, LAYERS = 2, MATRICES = 7, MOST_WEIGHTS = 64 * 64 };

static const char *const matrices[MATRICES] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                               "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

/* A run with its world. */
typedef struct run {
    setup s;
    qs_context *context;
    qs_text *text;
    qs_trainer *trainer;
} run;

static run open_run_on(const arm *a, int64_t window, int threads, const char *level, const char *device, int64_t micro_batch)
{
    run r = {.s = small_setup(a->optimizer, a->fsm, a->recipe), .context = open_context(threads, level, device)};
    r.s.options.health_window = window;
    r.s.options.micro_batch = micro_batch;
    r.text = prose_text(r.context, TEXT, 0.1);
    r.trainer = make_trainer(r.context, &r.s, r.text);
    return r;
}

static run open_run(const arm *a, int64_t window) { return open_run_on(a, window, 1, NULL, NULL, 0); }

static void close_run(run *r)
{
    qs_trainer_free(&r->trainer);
    qs_text_free(&r->text);
    qs_close(&r->context);
}

static qs_health health_of(const run *r, int64_t block)
{
    qs_health h;
    ok(qs_trainer_health(r->trainer, block, &h));
    return h;
}

static int is_fsm(const arm *a) { return a->optimizer == QS_OPTIMIZER_FSM; }
static int flips_signs(const arm *a) { return is_fsm(a) || a->optimizer == QS_OPTIMIZER_STE || a->optimizer == QS_OPTIMIZER_BOP; }

static int same_double(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

static int same_health(const qs_health *a, const qs_health *b)
{
    return a->step == b->step && same_double(a->density, b->density) && same_double(a->pulses, b->pulses) &&
           same_double(a->flips, b->flips) && same_double(a->dead, b->dead) && same_double(a->oscillating, b->oscillating) &&
           same_double(a->deepest, b->deepest) && same_double(a->scale_drift, b->scale_drift) &&
           same_double(a->gradient_rms, b->gradient_rms);
}

static void assert_health(const run *a, const run *b, const char *what)
{
    for (int64_t block = -1; block < LAYERS; block++) {
        const qs_health x = health_of(a, block), y = health_of(b, block);
        if (!same_health(&x, &y))
            fail_msg("%s, block %lld: flips %.17g and %.17g at steps %lld and %lld", what, (long long)block, x.flips, y.flips,
                     (long long)x.step, (long long)y.step);
    }
}

/* ---- the figures ------------------------------------------------------------------------------------------------- */

/* What is counted here of one block. */
typedef struct counts {
    double weights, rows, flips, sampled, dead, oscillating, deepest, drift;
} counts;

static const void *tensor_of(const qs_checkpoint *c, int64_t block, int matrix, const char *suffix, qs_tensor_info *info)
{
    char name[192];
    snprintf(name, sizeof name, "model.layers.%lld.%s%s", (long long)block, matrices[matrix], suffix);
    const int64_t index = qs_checkpoint_find(c, name);
    if (index < 0)
        return NULL;
    ok(qs_checkpoint_tensor(c, index, info));
    return qs_checkpoint_data(c, index);
}

static int bit(const uint32_t *words, int64_t i) { return words[i / 32] >> (i % 32) & 1; }

/* Flips of weight [n, k] from one checkpoint to the next, summed over all steps. */
static int flips_at(qs_checkpoint *const *steps, int64_t block, int matrix, int64_t i)
{
    qs_tensor_info info;
    int flips = 0;
    for (int s = 0; s < WINDOW; s++)
        flips += bit(tensor_of(steps[s], block, matrix, ".weight", &info), i) !=
                 bit(tensor_of(steps[s + 1], block, matrix, ".weight", &info), i);
    return flips;
}

/* The record of a sampled row, its flips and its states. */
static void count_row(const arm *a, qs_checkpoint *const *steps, int64_t block, int matrix, int64_t j, int64_t row, int64_t cols,
                      counts *sum)
{
    static int16_t values[MOST_WEIGHTS];
    qs_tensor_info info;
    const uint32_t *record = tensor_of(steps[WINDOW], block, matrix, ".health", &info);
    assert_non_null(record);
    assert_true(info.rank == 2 && info.shape[1] == cols / 32 && strcmp(info.dtype, "I32") == 0);
    for (int64_t k = 0; k < cols; k++) {
        const int flips = flips_at(steps, block, matrix, row * cols + k);
        int code = 0;
        for (int p = 0; p < 3; p++)
            code |= bit(record, (3 * j + p) * cols + k) << p;
        assert_int_equal(code >= 2 ? code - 1 : 0, flips > 3 ? 4 : flips);
        sum->dead += code == 0;
        sum->oscillating += code == 5;
    }
    sum->sampled += (double)cols;
    if (!is_fsm(a))
        return;
    const void *state = tensor_of(steps[WINDOW], block, matrix, ".weight_state", &info), *w = NULL;
    ok(qs_unpack((qs_format)info.format, info.rows, info.cols, state, values));
    w = tensor_of(steps[WINDOW], block, matrix, ".weight", &info);
    const int deepest[] = {[QS_FSM_T2] = 1, [QS_FSM_C2] = 4, [QS_FSM_C4] = 16, [QS_FSM_C8] = 128};
    for (int64_t i = row * cols; i < (row + 1) * cols; i++) {
        const int sign = bit(w, i) ? 1 : -1, value = a->fsm == QS_FSM_T2 || a->fsm == QS_FSM_C8 ? sign * values[i] : values[i];
        sum->deepest += value == deepest[a->fsm];
    }
}

static counts count_block(const arm *a, qs_checkpoint *const *steps, int64_t block)
{
    counts sum = {0};
    for (int m = 0; m < MATRICES; m++) {
        qs_tensor_info info;
        char name[128];
        int64_t rows = 0;
        (void)tensor_of(steps[0], block, m, ".weight", &info);
        const int64_t n = info.rows, cols = info.cols;
        sum.weights += (double)(n * cols);
        for (int64_t i = 0; i < n * cols; i++)
            sum.flips += flips_at(steps, block, m, i);
        for (int64_t j = 0; flips_signs(a) && j < qs_sample_rows(n); j++)
            count_row(a, steps, block, m, j, qs_sample_row(n, j), cols, &sum);
        snprintf(name, sizeof name, "model.layers.%lld.%s", (long long)block, matrices[m]);
        const float *master = floats_of(steps[WINDOW], name, ".weight_scale_master", &rows);
        for (int64_t i = 0; i < rows; i++)
            sum.drift += ((double)master[i] - 1.0) * ((double)master[i] - 1.0);
        sum.rows += (double)rows;
    }
    return sum;
}

/* wanted NaN: the arm has no such figure. */
static void near(double got, double wanted, const arm *a, const char *what)
{
    if (isnan(wanted) ? !isnan(got) : !(fabs(got - wanted) <= 1e-12 * (1.0 + fabs(wanted))))
        fail_msg("%s: %s is %.17g, counted %.17g", a->name, what, got, wanted);
}

static void check_figures(const arm *a, const qs_health *h, const counts *c, double density)
{
    assert_int_equal(h->step, WINDOW);
    near(h->density, is_fsm(a) && a->fsm != QS_FSM_C8 ? density : NAN, a, "density");
    near(h->flips, flips_signs(a) ? c->flips / (WINDOW * c->weights) : NAN, a, "flips");
    near(h->dead, is_fsm(a) ? c->dead / c->sampled : NAN, a, "dead");
    near(h->oscillating, flips_signs(a) ? c->oscillating / c->sampled : NAN, a, "oscillating");
    near(h->deepest, is_fsm(a) ? c->deepest / c->sampled : NAN, a, "deepest");
    near(h->scale_drift, a->optimizer == QS_OPTIMIZER_ADAMW ? NAN : sqrt(c->drift / c->rows), a, "scale_drift");
    assert_true(h->gradient_rms > 0.0);
}

static void add_counts(counts *sum, const counts *c)
{
    sum->weights += c->weights;
    sum->rows += c->rows;
    sum->flips += c->flips;
    sum->sampled += c->sampled;
    sum->dead += c->dead;
    sum->oscillating += c->oscillating;
    sum->deepest += c->deepest;
    sum->drift += c->drift;
}

/* One run measures; another, whose window is longer, leaves its record in a checkpoint of every step. */
static void test_figures(void **state)
{
    (void)state;
    double oscillating = 0.0, dead = 0.0;
    for (int i = 0; i < ARMS; i++) {
        const arm *a = &arms[i];
        run measured = open_run(a, WINDOW), other = open_run(a, 100);
        qs_checkpoint *steps[WINDOW + 1];
        counts all = {0};
        double density = 0.0, pulses = 0.0;
        for (int s = 0; s <= WINDOW; s++) {
            char name[32];
            snprintf(name, sizeof name, "figures-%d", s);
            const file_path folder = path_of(name);
            const qs_step_info info = train_to(other.trainer, s);
            density += info.density / WINDOW;
            pulses += info.pulses / WINDOW;
            ok(qs_trainer_save(other.trainer, folder.text));
            steps[s] = open_checkpoint(folder.text);
        }
        train_to(measured.trainer, WINDOW - 1);
        assert_int_equal(health_of(&measured, -1).step, 0);
        train_to(measured.trainer, WINDOW);
        for (int64_t block = 0; block < LAYERS && a->optimizer != QS_OPTIMIZER_ADAMW; block++) {
            const qs_health h = health_of(&measured, block);
            const counts c = count_block(a, steps, block);
            check_figures(a, &h, &c, density);
            add_counts(&all, &c);
        }
        const qs_health h = health_of(&measured, -1);
        if (a->optimizer == QS_OPTIMIZER_ADAMW)
            assert_true(h.step == WINDOW && isnan(h.flips) && isnan(h.scale_drift) && isnan(h.dead) && h.gradient_rms > 0.0);
        else
            check_figures(a, &h, &all, density);
        near(h.pulses, is_fsm(a) ? pulses : NAN, a, "pulses");
        oscillating += flips_signs(a) ? h.oscillating : 0.0;
        dead += is_fsm(a) ? h.dead : 0.0;
        for (int s = 0; s <= WINDOW; s++)
            qs_checkpoint_close(&steps[s]);
        close_run(&measured);
        close_run(&other);
    }
    assert_true(oscillating > 0.0 && dead > 0.0);
}

/* RMS of ten times the first moment of AdamW after one step, which is the gradient (of latents: with the scale). */
static double rms_of_moments(const qs_checkpoint *c, int64_t block)
{
    double squares = 0.0, weights = 0.0;
    for (int m = 0; m < MATRICES; m++) {
        char name[128];
        int64_t n = 0;
        snprintf(name, sizeof name, "model.layers.%lld.%s.weight", (long long)block, matrices[m]);
        const float *moment = floats_of(c, name, ".adam_m", &n);
        assert_non_null(moment);
        for (int64_t i = 0; i < n; i++)
            squares += 100.0 * (double)moment[i] * (double)moment[i];
        weights += (double)n;
    }
    return sqrt(squares / weights);
}

/* All packed arms start from the same signs and scales, so from the same gradient, which ste keeps in its moments. */
static void test_gradient_rms(void **state)
{
    (void)state;
    double wanted[LAYERS] = {0.0};
    const file_path folder = path_of("moments");
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < ARMS; i++) {
            const int own = arms[i].optimizer == QS_OPTIMIZER_STE || arms[i].optimizer == QS_OPTIMIZER_ADAMW;
            if (own != (pass == 0))
                continue;
            run r = open_run(&arms[i], 1);
            train_to(r.trainer, 1);
            ok(qs_trainer_save(r.trainer, folder.text));
            qs_checkpoint *c = open_checkpoint(folder.text);
            for (int64_t block = 0; block < LAYERS; block++) {
                const double got = health_of(&r, block).gradient_rms, want = own ? rms_of_moments(c, block) : wanted[block];
                if (!(fabs(got - want) <= 1e-5 * want) || !(want > 0.0))
                    fail_msg("%s: gradient_rms is %.9g, the moments say %.9g", arms[i].name, got, want);
                if (arms[i].optimizer == QS_OPTIMIZER_STE)
                    wanted[block] = want;
            }
            qs_checkpoint_close(&c);
            close_run(&r);
        }
}

static void test_queries(void **state)
{
    (void)state;
    qs_health h;
    run off = open_run(&arms[2], 0), on = open_run(&arms[2], 2);
    refuses(qs_trainer_health(on.trainer, LAYERS, &h), QS_ERR_ARG, "block is 2; it must lie in 0..1");
    refuses(qs_trainer_health(on.trainer, -2, &h), QS_ERR_ARG, "block is -2");
    train_to(off.trainer, 4);
    for (int64_t block = -1; block < LAYERS; block++) {
        const qs_health none = health_of(&off, block), early = health_of(&on, block);
        assert_true(same_health(&none, &early) && none.step == 0 && isnan(none.gradient_rms) && isnan(none.flips));
    }
    train_to(on.trainer, 5);
    assert_int_equal(health_of(&on, -1).step, 4);
    close_run(&off);
    close_run(&on);
}

/* ---- what measuring costs ---------------------------------------------------------------------------------------- */

/* Not a trained byte, whatever the window. */
static void test_same_bytes(void **state)
{
    (void)state;
    static const int64_t windows[] = {0, 1, 3, 100};
    for (int i = 0; i < ARMS; i++) {
        uint64_t want = 0;
        for (int w = 0; w < 4; w++) {
            run r = open_run(&arms[i], windows[w]);
            train_to(r.trainer, 7);
            const uint64_t hash = hash_of(r.trainer);
            if (w > 0 && hash != want)
                fail_msg("%s: a window of %lld changes the training", arms[i].name, (long long)windows[w]);
            want = hash;
            close_run(&r);
        }
    }
}

/* Less than 0.02 bits a weight in the smallest preset and in wider matrices; what the record adds is what it is said to add. */
static void test_bits(void **state)
{
    (void)state;
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = prose_text(context, TEXT, 0.1);
    for (int p = -1; p < 1; p++)
        for (int i = 0; i < ARMS; i++) {
            setup s = small_setup(arms[i].optimizer, arms[i].fsm, arms[i].recipe);
            qs_bits bits[2];
            if (p >= 0)
                ok(qs_model_preset(qs_model_preset_name(p), &s.config));
            else
                s.config.dim = s.config.ffn = 512;
            s.options.batch = 1;
            for (int on = 0; on < 2; on++) {
                s.options.health_window = on ? 10 : 0;
                qs_trainer *trainer = make_trainer(context, &s, text);
                ok(qs_trainer_bits(trainer, &bits[on]));
                qs_trainer_free(&trainer);
            }
            const double share = bits[1].health_bits_per_weight;
            const double more = bits[1].training_bits_per_weight - bits[0].training_bits_per_weight;
            assert_true(bits[0].health_bits_per_weight == 0.0 && fabs(more - share) < 1e-12);
            assert_true(flips_signs(&arms[i]) ? share > 0.0 && share < 0.02 : share == 0.0);
        }
    qs_text_free(&text);
    qs_close(&context);
}

/* ---- windows across checkpoints ---------------------------------------------------------------------------------- */

static void assert_same_files(const char *a, const char *b, const char *what)
{
    static const char *const names[] = {"model.safetensors", "state.safetensors", "manifest.json"};
    for (int i = 0; i < 3; i++) {
        char command[1024];
        snprintf(command, sizeof command, "cmp -s '%s/%s' '%s/%s'", a, names[i], b, names[i]);
        if (system(command) != 0)
            fail_msg("%s: %s differs", what, names[i]);
    }
}

/* Records, sums and figures are the same however the run is carried out. */
static void test_variants(void **state)
{
    (void)state;
    const file_path want = path_of("variant-a"), got = path_of("variant-b");
    static const struct { int threads; const char *level, *device; int64_t micro_batch; } ways[] = {
        {5, NULL, NULL, 16}, {1, "scalar", NULL, 0}, {1, NULL, "fake", 0}};
    for (int i = 0; i < ARMS; i++) {
        run reference = open_run(&arms[i], WINDOW);
        train_to(reference.trainer, WINDOW + 2);
        ok(qs_trainer_save(reference.trainer, want.text));
        for (int w = 0; w < (getenv("QSBITS_BACKEND_DIR") ? 3 : 2); w++) {
            run r = open_run_on(&arms[i], WINDOW, ways[w].threads, ways[w].level, ways[w].device, ways[w].micro_batch);
            train_to(r.trainer, WINDOW + 2);
            ok(qs_trainer_save(r.trainer, got.text));
            assert_health(&reference, &r, arms[i].name);
            assert_same_files(want.text, got.text, arms[i].name);
            close_run(&r);
        }
        close_run(&reference);
    }
}

/* Stopped at the end of a window and within one. */
static void test_resume(void **state)
{
    (void)state;
    static const int64_t stops[] = {2, WINDOW, 2 * WINDOW - 1};
    static const int some[] = {2, 3, 4, 8, 9, 11, 12};   /* c4, c8, literal, ste, frozen, bop, lora */
    const file_path folder = path_of("stopped"), want = path_of("end"), got = path_of("resumed");
    for (int n = 0; n < 7; n++)
        for (int s = 0; s < 3; s++) {
            const int i = some[n];
            run whole = open_run(&arms[i], WINDOW), first = open_run(&arms[i], WINDOW), second = open_run(&arms[i], WINDOW);
            train_to(first.trainer, stops[s]);
            ok(qs_trainer_save(first.trainer, folder.text));
            train_to(second.trainer, 3);   /* a record that must go */
            ok(qs_trainer_load(second.trainer, folder.text));
            assert_health(&first, &second, "after the resume");
            train_to(whole.trainer, 2 * WINDOW + 1);
            train_to(second.trainer, 2 * WINDOW + 1);
            assert_health(&whole, &second, arms[i].name);
            assert_int_equal(health_of(&second, -1).step, 2 * WINDOW);
            ok(qs_trainer_save(whole.trainer, want.text));
            ok(qs_trainer_save(second.trainer, got.text));
            assert_same_files(want.text, got.text, arms[i].name);
            close_run(&whole);
            close_run(&first);
            close_run(&second);
        }
}

/* Another window starts anew: its first figures come from the first window that was measured in full. */
static void test_other_window(void **state)
{
    (void)state;
    enum { STOP = 7, NEW = 4, FIRST = 12 };
    static const int64_t old[] = {0, WINDOW, 100};
    const file_path folder = path_of("other-window");
    for (int w = 0; w < 3; w++) {
        run whole = open_run(&arms[2], NEW), first = open_run(&arms[2], old[w]), second = open_run(&arms[2], NEW);
        train_to(first.trainer, STOP);
        ok(qs_trainer_save(first.trainer, folder.text));
        train_to(second.trainer, NEW + 1);
        ok(qs_trainer_load(second.trainer, folder.text));
        for (int64_t step = STOP; step < FIRST; step++) {
            assert_int_equal(health_of(&second, -1).step, 0);
            train_to(second.trainer, step + 1);
        }
        train_to(whole.trainer, FIRST);
        assert_health(&whole, &second, "the first whole window");
        assert_int_equal(hash_of(whole.trainer), hash_of(second.trainer));
        run off = open_run(&arms[2], 0);
        ok(qs_trainer_load(off.trainer, folder.text));
        assert_int_equal(hash_of(off.trainer), hash_of(first.trainer));
        close_run(&off);
        close_run(&whole);
        close_run(&first);
        close_run(&second);
    }
}

/* ---- checkpoints that lie ---------------------------------------------------------------------------------------- */

typedef struct copy {
    const qs_checkpoint *from;
    int64_t index[256];
} copy;

static qs_status copy_tensor(void *user, int64_t index, void *bytes, int64_t n)
{
    const copy *c = user;
    memcpy(bytes, qs_checkpoint_data(c->from, c->index[index]), (size_t)n);
    return QS_OK;
}

/* The checkpoint again, with another manifest and without tensors whose names end in `without`. */
static void write_copy(const qs_checkpoint *from, const char *folder, const json_t *manifest, const char *without)
{
    static qs_saved_tensor tensors[256];
    copy c = {.from = from};
    int64_t n = 0;
    for (int64_t i = 0; i < qs_checkpoint_count(from); i++) {
        qs_tensor_info info;
        long long block = 0;
        ok(qs_checkpoint_tensor(from, i, &info));
        const char *end = strrchr(info.name, '.');
        if (without && end && strcmp(end, without) == 0)
            continue;
        qs_saved_tensor *t = &tensors[n];
        *t = (qs_saved_tensor){.format = strcmp(info.dtype, "I32") == 0 ? QS_I32 : (qs_format)info.format, .rank = info.rank};
        snprintf(t->name, sizeof t->name, "%s", info.name);
        memcpy(t->shape, info.shape, sizeof t->shape);
        t->file = strcmp(info.file, "state.safetensors") == 0;
        t->slab = strstr(info.name, "embed") ? 0 : 1 + LAYERS;
        if (sscanf(info.name, "model.layers.%lld.", &block) == 1)
            t->slab = 1 + (int)block;
        c.index[n++] = i;
    }
    char *text = json_dumps(manifest, JSON_INDENT(2));
    assert_non_null(text);
    ok(qs_checkpoint_write(NULL, folder, tensors, n, copy_tensor, &c, text));
    free(text);
}

static void test_damaged(void **state)
{
    (void)state;
    static const struct { const char *key, *value; } lies[] = {
        {"steps", "3"}, {"steps", "-1"}, {"steps", "1.5"}, {"density", "-0.5"}, {"density", "3"}, {"density", "[]"},
        {"pulses", "[1]"}, {"pulses", "[1, -1]"}, {"pulses", "[0, 9223372036854775807]"}, {"flips", "{}"},
        {"flips", "[true, 0]"}, {"last", "{\"step\": 5}"}, {"last", "{\"step\": 1e300}"}, {"last", "7"}};
    const file_path folder = path_of("true"), lie = path_of("lie");
    run r = open_run(&arms[2], WINDOW);
    train_to(r.trainer, WINDOW + 2);
    ok(qs_trainer_save(r.trainer, folder.text));
    qs_checkpoint *c = open_checkpoint(folder.text);
    const char *text = qs_checkpoint_manifest(c);
    for (int i = -2; i < (int)(sizeof lies / sizeof lies[0]); i++) {
        json_t *manifest = json_loads(text, 0, NULL), *health = json_object_get(manifest, "health");
        assert_non_null(health);
        json_object_del(manifest, "files");
        json_object_del(manifest, "manifest_xxh3_128");
        if (i >= 0) {
            json_t *value = json_loads(lies[i].value, JSON_DECODE_ANY, NULL);
            assert_non_null(value);
            json_object_set_new(health, lies[i].key, value);
        }
        write_copy(c, lie.text, manifest, i == -1 ? ".health" : NULL);
        run other = open_run(&arms[2], WINDOW);
        if (i == -2) {
            ok(qs_trainer_load(other.trainer, lie.text));
            assert_health(&r, &other, "the copy");
        } else if (i == -1)
            refuses(qs_trainer_load(other.trainer, lie.text), QS_ERR_FORMAT, ".health");
        else
            refuses(qs_trainer_load(other.trainer, lie.text), QS_ERR_FORMAT, "under health");
        close_run(&other);
        json_decref(manifest);
    }
    qs_checkpoint_close(&c);
    close_run(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figures), cmocka_unit_test(test_gradient_rms), cmocka_unit_test(test_queries),
        cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_bits), cmocka_unit_test(test_variants),
        cmocka_unit_test(test_resume), cmocka_unit_test(test_other_window), cmocka_unit_test(test_damaged),
    };
    return cmocka_run_group_tests(tests, make_test_folder, drop_test_folder);
}
