/* test_gradients.c - gradients of every kind of layer and of the whole model, and the steps that follow from them.
 *
 * After one step from zero moments the first moment of AdamW in the state file is (1 - 0.9) times the gradient; that is how
 * the gradients are read, without any hook in the library. Two witnesses: golden/gradients.h, which make_golden.py computed
 * with PyTorch in double precision from the same start values, and central differences of the library's own loss. The losses of
 * the first steps stand for the optimizers: AdamW's moments and corrections, rates, decay, clipping, row scales, latents.
 *
 *   test_gradients                 the tests
 *   test_gradients --start FOLDER  writes what make_golden.py starts from: a checkpoint of step 0 and the batches, per case */
#include <math.h>
#include <stdbool.h>
#include "training_case.h"

typedef struct golden_tensor {
    const char *name;          /* of a matrix: "<matrix>.weight" */
    int64_t count;
    double norm;               /* Frobenius norm of the gradient */
    double value[6];           /* elements i * (count - 1) / 5 */
} golden_tensor;

typedef struct golden_case {
    const char *name;
    uint64_t start_hash;       /* qs_trainer_hash at step 0: whether the start values are still those */
    double loss[6];            /* before each of the first steps; 0 where PyTorch has no such optimizer */
    int64_t tensors;
    const golden_tensor *tensor;
} golden_case;

#include "golden/gradients.h"

/* The cases cover both norms on and off, grouped queries, heads wider than dim/heads, tied embeddings, more keys than a tile of
 * 64, more tokens than a chunk of 256, more symbols than a block of the loss, and all that can be done to a matrix. */
typedef struct gradient_case {
    const char *name;
    qs_optimizer optimizer;
    qs_fsm fsm;
    int layers, heads, kv_heads, head_dim, ctx, batch, qk_norm, sub_norm, tied;
    double clip, weight_decay;
    int64_t vocab;
} gradient_case;

/* Head and loss take 4096 symbols at a time (docs/numerics.md): two such blocks and a piece. */
enum { BYTES = 256, SEVERAL_BLOCKS = 2 * 4096 + 309 };

static const gradient_case cases[] = {
    {"dense", QS_OPTIMIZER_ADAMW, QS_FSM_C4, 2, 4, 4, 8, 24, 3, 0, 1, 0, 0.0, 1.0, BYTES},
    {"dense_gqa_qk", QS_OPTIMIZER_ADAMW, QS_FSM_C4, 1, 4, 2, 16, 80, 4, 1, 0, 0, 0.0, 0.0, BYTES},
    {"frozen_gqa", QS_OPTIMIZER_FROZEN, QS_FSM_C4, 2, 4, 1, 32, 24, 3, 0, 1, 0, 0.02, 0.0, BYTES},
    {"frozen_tied", QS_OPTIMIZER_FROZEN, QS_FSM_C4, 1, 2, 2, 16, 72, 4, 1, 1, 1, 0.0, 0.0, BYTES},
    {"ste_all", QS_OPTIMIZER_STE, QS_FSM_C4, 2, 4, 2, 16, 24, 11, 1, 1, 0, 0.0, 0.0, BYTES},
    {"ste_plain", QS_OPTIMIZER_STE, QS_FSM_C4, 1, 2, 2, 16, 24, 2, 0, 0, 0, 0.3, 1.0, BYTES},
    {"fsm_qwen", QS_OPTIMIZER_FSM, QS_FSM_C4, 2, 4, 2, 16, 40, 8, 1, 0, 0, 0.0, 0.0, BYTES},
    {"fsm_c8", QS_OPTIMIZER_FSM, QS_FSM_C8, 1, 2, 2, 16, 24, 2, 0, 1, 0, 0.0, 0.0, BYTES},
    {"dense_symbols", QS_OPTIMIZER_ADAMW, QS_FSM_C4, 1, 2, 2, 16, 24, 11, 0, 1, 0, 0.0, 0.0, SEVERAL_BLOCKS},
    {"frozen_tied_symbols", QS_OPTIMIZER_FROZEN, QS_FSM_C4, 1, 2, 2, 16, 24, 11, 1, 1, 1, 0.0, 0.0, SEVERAL_BLOCKS},
    {"lora_gqa", QS_OPTIMIZER_LORA, QS_FSM_C4, 2, 4, 2, 16, 24, 11, 0, 1, 0, 0.3, 0.0, BYTES},
    {"lora_tied", QS_OPTIMIZER_LORA, QS_FSM_C4, 1, 2, 1, 32, 72, 4, 1, 0, 1, 0.0, 0.0, BYTES},
};
enum { CASES = (int)(sizeof cases / sizeof cases[0]), TEXT = 3000, STEPS = 6 };

static setup setup_of(const gradient_case *c)
{
    setup s = small_setup(c->optimizer, c->fsm, QS_RECIPE_DEFAULT);
    s.config.layers = c->layers;
    s.config.heads = c->heads;
    s.config.kv_heads = c->kv_heads;
    s.config.head_dim = c->head_dim;
    s.config.ctx = c->ctx;
    s.config.qk_norm = c->qk_norm;
    s.config.sub_norm = c->sub_norm;
    s.config.tied = c->tied;
    s.config.vocab = c->vocab;
    s.options.batch = c->batch;
    s.options.clip = c->clip;
    s.options.weight_decay = c->weight_decay;
    s.options.seed = 20;
    s.options.lr = s.options.matrix_lr = 4e-3;   /* not the defaults, which may move */
    s.options.scale_lr = 0.045;
    s.options.lora_rank = 5;
    return s;
}

/* ---- what make_golden.py starts from ----------------------------------------------------------------------------- */

/* <case>.batch: the ctx + 1 bytes of every window of the first steps. Prints case and hash. */
static void write_start(const char *folder)
{
    for (int i = 0; i < CASES; i++) {
        const setup s = setup_of(&cases[i]);
        char path[512];
        qs_context *context = open_context(1, NULL, NULL);
        qs_text *text = prose_text(context, TEXT, 0.1);
        qs_trainer *trainer = make_trainer(context, &s, text);
        qs_cursor cursor = {0, 0};
        snprintf(path, sizeof path, "%s/%s", folder, cases[i].name);
        ok(qs_trainer_save(trainer, path));
        snprintf(path, sizeof path, "%s/%s.batch", folder, cases[i].name);
        FILE *file = fopen(path, "wb");
        assert_non_null(file);
        for (int64_t b = 0; b < STEPS * s.options.batch; b++) {
            int64_t start = 0;
            uint8_t window[256];
            assert_true(s.config.ctx < (int64_t)sizeof window);
            ok(qs_text_next_window(text, s.config.ctx, s.options.seed, &cursor, &start));
            ok(qs_text_read(text, start, s.config.ctx + 1, window));
            assert_int_equal(fwrite(window, 1, (size_t)s.config.ctx + 1, file), s.config.ctx + 1);
        }
        assert_int_equal(fclose(file), 0);
        printf("%s %016llx\n", cases[i].name, (unsigned long long)hash_of(trainer));
        qs_trainer_free(&trainer);
        qs_text_free(&text);
        qs_close(&context);
    }
}

/* ---- golden values ----------------------------------------------------------------------------------------------- */

enum { SAMPLES = 6 };

/* A float32 gradient is a sum of some hundred products whose factors went through at most some fifty roundings of 2^-24: about
 * 50 * 2^-24 = 3e-6 if all of them pulled one way. Seen are 1.3e-6; a wrong formula is wrong by far more than 1e-5. */
static const double tolerance = 1e-5;

/* The tensors that show the gradient of `name`, in order of preference, and the factor on it. For the state machine, whose
 * gradient never reaches memory, the mean squares over rows and columns are what remains (golden names end in the suffix). */
static const float *gradient_of(const qs_checkpoint *checkpoint, const char *name, int64_t *count, double *factor)
{
    *factor = 1.0 / (1.0 - 0.9);
    const float *m = floats_of(checkpoint, name, ".adam_m", count);
    if (m)
        return m;
    *factor = 1.0;
    return floats_of(checkpoint, name, "", count);
}

static void check_tensor(const char *case_name, const qs_checkpoint *checkpoint, const golden_tensor *g)
{
    int64_t count = 0;
    double factor = 0.0, squares = 0.0;
    const float *x = gradient_of(checkpoint, g->name, &count, &factor);
    if (!x)
        fail_msg("%s: the state holds nothing for %s", case_name, g->name);
    if (count != g->count)
        fail_msg("%s: %s has %lld elements, PyTorch's has %lld", case_name, g->name, (long long)count, (long long)g->count);
    for (int64_t i = 0; i < count; i++)
        squares += (double)x[i] * (double)x[i];
    const double norm = factor * sqrt(squares);
    const bool still = strstr(g->name, ".lora_A") != NULL;   /* while B is 0 */
    if (!(fabs(norm - g->norm) <= tolerance * g->norm) || still != (g->norm == 0.0))
        fail_msg("%s: the norm of %s is %.9g, PyTorch has %.9g", case_name, g->name, norm, g->norm);
    for (int i = 0; i < SAMPLES; i++) {
        const double value = factor * (double)x[i * (count - 1) / (SAMPLES - 1)];
        if (!(fabs(value - g->value[i]) <= tolerance * (fabs(g->value[i]) + g->norm / sqrt((double)count))))
            fail_msg("%s: sample %d of %s is %.9g, PyTorch has %.9g", case_name, i, g->name, value, g->value[i]);
    }
}

/* Number of tensors of the state that hold a gradient: all of them must be covered. */
static int64_t gradients_in(const qs_checkpoint *checkpoint)
{
    int64_t n = 0;
    qs_tensor_info info;
    for (int64_t i = 0; i < qs_checkpoint_count(checkpoint); i++) {
        ok(qs_checkpoint_tensor(checkpoint, i, &info));
        n += strstr(info.name, ".adam_m") || strstr(info.name, ".row_moment") || strstr(info.name, ".column_moment");
    }
    return n;
}

/* The first loss is one forward pass; from then on rounding also went through AdamW, which turns a small gradient into a full
 * step whatever its size. */
static void check_loss(const golden_case *g, int step, double loss)
{
    const double most = step ? 1e-5 : 1e-6;
    if (!(fabs(loss - g->loss[step]) <= most * g->loss[step]))
        fail_msg("%s: the loss of step %d is %.9g, PyTorch has %.9g", g->name, step + 1, loss, g->loss[step]);
}

static void test_golden(void **state)
{
    (void)state;
    assert_int_equal(CASES, (int)(sizeof golden_cases / sizeof golden_cases[0]));
    for (int i = 0; i < CASES; i++) {
        const golden_case *g = &golden_cases[i];
        const setup s = setup_of(&cases[i]);
        const file_path folder = path_of(cases[i].name);
        assert_string_equal(g->name, cases[i].name);
        qs_context *context = open_context(2, NULL, NULL);
        qs_text *text = prose_text(context, TEXT, 0.1);
        qs_trainer *trainer = make_trainer(context, &s, text);
        if (hash_of(trainer) != g->start_hash)
            fail_msg("%s: start values have changed; tests/make_golden.py makes new golden values", g->name);
        const qs_step_info info = train_to(trainer, 1);
        check_loss(g, 0, info.loss);
        ok(qs_trainer_save(trainer, folder.text));
        qs_checkpoint *checkpoint = open_checkpoint(folder.text);
        for (int64_t t = 0; t < g->tensors; t++)
            check_tensor(g->name, checkpoint, &g->tensor[t]);
        assert_int_equal(gradients_in(checkpoint), g->tensors);
        qs_checkpoint_close(&checkpoint);
        for (int step = 1; step < STEPS && g->loss[step] > 0.0; step++)
            check_loss(g, step, train_to(trainer, step + 1).loss);
        qs_trainer_free(&trainer);
        qs_text_free(&text);
        qs_close(&context);
    }
}

/* ---- central differences ----------------------------------------------------------------------------------------- */

enum { MOST_TENSORS = 256 };

/* A copy of a checkpoint in which one tensor's bytes are others. */
typedef struct edit {
    const qs_checkpoint *from;
    const char *name;
    const void *bytes;
} edit;

static qs_status fetch_edited(void *user, int64_t index, void *bytes, int64_t n)
{
    const edit *e = user;
    qs_tensor_info info;
    ok(qs_checkpoint_tensor(e->from, index, &info));
    assert_int_equal(info.bytes, n);
    memcpy(bytes, strcmp(info.name, e->name) ? qs_checkpoint_data(e->from, index) : e->bytes, (size_t)n);
    return QS_OK;
}

static void write_edited(const edit *e, const char *folder)
{
    static qs_saved_tensor saved[MOST_TENSORS];
    qs_tensor_info info;
    qs_slab_info slab;
    const int64_t count = qs_checkpoint_count(e->from);
    char manifest[512];
    assert_true(count <= MOST_TENSORS);
    memset(saved, 0, sizeof saved);
    for (int64_t i = 0; i < count; i++) {
        ok(qs_checkpoint_tensor(e->from, i, &info));
        assert_true(info.rank >= 1 && info.rank <= 3 && info.format >= 0);
        snprintf(saved[i].name, sizeof saved[i].name, "%s", info.name);
        saved[i].format = (qs_format)info.format;
        saved[i].rank = info.rank;
        for (int d = 0; d < info.rank; d++)
            saved[i].shape[d] = info.shape[d];
        saved[i].file = strcmp(info.file, "model.safetensors") != 0;
        for (int64_t k = 0; k < qs_checkpoint_slab_count(e->from, saved[i].file); k++) {
            ok(qs_checkpoint_slab(e->from, saved[i].file, k, &slab));
            if (info.offset >= slab.offset)
                saved[i].slab = (int)k;
        }
    }
    const char *config = qs_checkpoint_config(e->from);
    char *text = malloc(strlen(config) + sizeof manifest);
    assert_non_null(text);
    sprintf(text, "{\"config\": %s, \"step\": 0}", config);
    ok(qs_checkpoint_write(NULL, folder, saved, count, fetch_edited, (void *)(uintptr_t)e, text));
    free(text);
}

typedef struct probe {
    qs_context *context;
    qs_text *text;                /* validates on the window it trains on */
    const qs_checkpoint *start, *after;
    const char *folder;           /* of the edited copy */
} probe;

static double loss_with(const probe *p, const char *name, const void *bytes)
{
    const edit e = {p->start, name, bytes};
    qs_model *model = NULL;
    double nats = 0.0;
    write_edited(&e, p->folder);
    ok(qs_model_open(p->context, p->folder, &model));
    ok(qs_model_evaluate(model, p->text, 0, 1, &nats, NULL));
    qs_model_free(&model);
    return nats;
}

/* The loss is a float32 computation: about 1e-6 of noise. Steps change it by about 2e-3 each way, so that noise and the
 * third derivative both stay below 1% of the difference. */
static const double wanted_change = 2e-3, difference_tolerance = 0.01;

static void compare_slopes(const char *name, const char *what, double measured, double gradient)
{
    if (!(fabs(measured - gradient) <= difference_tolerance * fabs(gradient)))
        fail_msg("%s, %s: the loss changes by %.6g per unit, the gradient says %.6g", name, what, measured, gradient);
}

/* What AdamW saw in the step between both checkpoints: m' = 0.9 m + 0.1 g. The caller frees it. */
static double *gradient_between(const probe *p, const char *name, int64_t *count)
{
    const float *m = floats_of(p->start, name, ".adam_m", count), *next = floats_of(p->after, name, ".adam_m", count);
    assert_true(m && next);
    double *g = malloc((size_t)*count * sizeof *g);
    assert_non_null(g);
    for (int64_t i = 0; i < *count; i++)
        g[i] = 10.0 * ((double)next[i] - 0.9 * (double)m[i]);
    return g;
}

/* A float tensor and its gradient. */
typedef struct slope {
    int64_t count;
    const float *value;
    double *g;                 /* [count] */
    float *moved;              /* [count] a copy of value to be changed */
} slope;

static slope slope_of(const probe *p, const char *name)
{
    slope s = {0, NULL, NULL, NULL};
    int64_t moments = 0;
    s.value = floats_of(p->start, name, "", &s.count);
    s.g = gradient_between(p, name, &moments);
    s.moved = malloc((size_t)s.count * sizeof *s.moved);
    assert_true(s.value && s.moved && s.count == moments);
    memcpy(s.moved, s.value, (size_t)s.count * sizeof *s.moved);
    return s;
}

static void free_slope(slope *s)
{
    free(s->g);
    free(s->moved);
}

/* Along the gradient of elements from .. to - 1, all at once. */
static void check_along(const probe *p, const char *name, int64_t from, int64_t to)
{
    slope s = slope_of(p, name);
    double squares = 0.0, loss[2], along = 0.0;
    to = to < s.count ? to : s.count;
    for (int64_t i = from; i < to; i++)
        squares += s.g[i] * s.g[i];
    const double norm = sqrt(squares);
    for (int side = 0; side < 2; side++) {
        const double step = (side ? -1.0 : 1.0) * wanted_change / (norm * norm);
        for (int64_t i = from; i < to; i++) {
            s.moved[i] = (float)((double)s.value[i] + step * s.g[i]);
            along += (side ? -1.0 : 1.0) * ((double)s.moved[i] - (double)s.value[i]) * s.g[i] / norm;
        }
        loss[side] = loss_with(p, name, s.moved);
    }
    compare_slopes(name, "along the gradient", (loss[0] - loss[1]) / along, norm);
    free_slope(&s);
}

/* Along the gradient (all elements at once) and along its largest element. */
static void check_floats(const probe *p, const char *name)
{
    slope s = slope_of(p, name);
    int64_t largest = 0;
    double loss[2], between = 0.0;
    check_along(p, name, 0, s.count);
    for (int64_t i = 0; i < s.count; i++)
        largest = fabs(s.g[i]) > fabs(s.g[largest]) ? i : largest;
    const double steep = s.g[largest];
    for (int side = 0; side < 2; side++) {
        s.moved[largest] = (float)((double)s.value[largest] + (side ? -1.0 : 1.0) * 0.5 * wanted_change / fabs(steep));
        between += (side ? -1.0 : 1.0) * (double)s.moved[largest];
        loss[side] = loss_with(p, name, s.moved);
    }
    compare_slopes(name, "largest element", (loss[0] - loss[1]) / between, steep);
    free_slope(&s);
}

/* The fp16 scales of a matrix, moved by 1% along the sign of the masters' gradient; base: what a master of 1 means. */
static void check_scales(const probe *p, const char *matrix, double base)
{
    char name[192];
    qs_tensor_info info;
    int64_t count = 0;
    double loss[2], expected[2] = {0.0, 0.0};
    snprintf(name, sizeof name, "%s.weight_scale_master", matrix);
    double *g = gradient_between(p, name, &count);
    snprintf(name, sizeof name, "%s.weight_scale", matrix);
    const int64_t index = qs_checkpoint_find(p->start, name);
    ok(qs_checkpoint_tensor(p->start, index, &info));
    const uint16_t *scale = qs_checkpoint_data(p->start, index);
    assert_true(info.format == QS_F16 && info.cols == count && count <= 1024);
    uint16_t moved[1024];
    for (int side = 0; side < 2; side++) {
        for (int64_t i = 0; i < count; i++) {
            const float old = qs_half_to_float(scale[i]), way = ((g[i] > 0.0) == (side == 0)) ? 1.01f : 0.99f;
            moved[i] = qs_float_to_half(old * way);
            expected[side] += g[i] * ((double)qs_half_to_float(moved[i]) - (double)old) / base;
        }
        loss[side] = loss_with(p, name, moved);
    }
    compare_slopes(matrix, "row scales", loss[0] - loss[1], expected[0] - expected[1]);
    free(g);
}

static void check_block(const probe *p, const setup *s)
{
    static const char *const matrices[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                           "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};
    static const char *const norms[] = {"input_layernorm", "self_attn.q_norm", "self_attn.k_norm", "self_attn.attn_sub_norm",
                                        "post_attention_layernorm", "mlp.ffn_sub_norm"};
    char name[160];
    const int64_t attention = s->config.heads * s->config.head_dim;
    const int64_t inputs[] = {s->config.dim, s->config.dim, s->config.dim, attention, s->config.dim, s->config.dim, s->config.ffn};
    for (int i = 0; i < 6; i++) {
        snprintf(name, sizeof name, "model.layers.0.%s.weight", norms[i]);
        if (qs_checkpoint_find(p->start, name) >= 0)
            check_floats(p, name);
    }
    for (int i = 0; i < 7; i++) {
        const double base = (i == 3 || i == 6 ? 0.3 * sqrt(2.0 / (double)s->config.layers) : 1.0) / sqrt((double)inputs[i]);
        snprintf(name, sizeof name, "model.layers.0.%s%s", matrices[i], s->options.optimizer == QS_OPTIMIZER_ADAMW ? ".weight" : "");
        if (s->options.optimizer == QS_OPTIMIZER_ADAMW)
            check_floats(p, name);
        else
            check_scales(p, name, base);
        for (int part = 0; part < 2 && s->options.optimizer == QS_OPTIMIZER_LORA; part++) {
            snprintf(name, sizeof name, "model.layers.0.%s.lora_%c", matrices[i], "AB"[part]);
            check_floats(p, name);
        }
    }
}

/* Rows of the head in every block that are no target, whose gradients are too small to show beside those of targets. */
static void check_head_blocks(const probe *p, const setup *s)
{
    const char *name = s->config.tied ? "model.embed_tokens.weight" : "lm_head.weight";
    const int64_t cuts[] = {BYTES, 4096, 2 * 4096, SEVERAL_BLOCKS};
    for (int i = 0; i < 3; i++)
        check_along(p, name, cuts[i] * s->config.dim, cuts[i + 1] * s->config.dim);
}

/* At a step of the run: adapters have no gradient of A at step 0. */
static void differences(const gradient_case *c, int64_t step)
{
    const setup s = setup_of(c);
    const file_path before = path_of("before"), after = path_of("after"), edited = path_of("edited");
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = one_window_text(context, s.config.ctx);
    qs_trainer *trainer = make_trainer(context, &s, text);
    train_to(trainer, step);
    ok(qs_trainer_save(trainer, before.text));
    const qs_step_info info = train_to(trainer, step + 1);
    ok(qs_trainer_save(trainer, after.text));
    qs_checkpoint *start = open_checkpoint(before.text), *end = open_checkpoint(after.text);
    const probe p = {context, text, start, end, edited.text};
    assert_true(fabs(loss_with(&p, "", NULL) - info.loss) <= 1e-6 * info.loss);
    check_floats(&p, "model.embed_tokens.weight");
    check_block(&p, &s);
    check_floats(&p, "model.norm.weight");
    if (!s.config.tied)
        check_floats(&p, "lm_head.weight");
    if (c->vocab == SEVERAL_BLOCKS)
        check_head_blocks(&p, &s);
    qs_checkpoint_close(&start);
    qs_checkpoint_close(&end);
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
}

static void test_differences_dense(void **state)
{
    (void)state;
    differences(&cases[1], 0);
}

static void test_differences_packed(void **state)
{
    (void)state;
    differences(&cases[4], 0);
}

static void test_differences_tied(void **state)
{
    (void)state;
    differences(&cases[3], 0);
}

static void test_differences_many_symbols(void **state)
{
    (void)state;
    differences(&cases[8], 0);
    differences(&cases[9], 0);
}

static void test_differences_adapters(void **state)
{
    (void)state;
    differences(&cases[11], 8);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_differences_dense),
        cmocka_unit_test(test_differences_packed),
        cmocka_unit_test(test_differences_tied),
        cmocka_unit_test(test_differences_many_symbols),
        cmocka_unit_test(test_differences_adapters),
    };
    if (argc == 3 && strcmp(argv[1], "--start") == 0) {
        write_start(argv[2]);
        return 0;
    }
    return cmocka_run_group_tests(tests, make_test_folder, drop_test_folder);
}
