/* test_start.c - starting a run from the weights of a checkpoint: what is taken, what is made anew, what is refused; and that a run
 * which started so goes on, after a stop, to the same bytes, with and without those weights at hand. */
#include <math.h>
#include "io/checksum.h"
#include "training_case.h"

enum { MATRICES = 14, STEPS = 6, SEED = 21 };

static const char *const matrices[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                       "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};

typedef struct matrix_name {
    char text[64];
} matrix_name;

static matrix_name name_of(int i)
{
    matrix_name name;
    snprintf(name.text, sizeof name.text, "model.layers.%d.%s", i / 7, matrices[i % 7]);
    return name;
}

/* Two of each kind of float: a tied head, norms of queries and keys. */
static setup start_setup(qs_optimizer optimizer, qs_fsm fsm, qs_recipe recipe)
{
    setup s = small_setup(optimizer, fsm, recipe);
    s.config.qk_norm = 1;
    s.options.batch = 4;
    return s;
}

/* The run whose weights are taken: STEPS steps of an optimizer, saved under name. */
static file_path make_source(qs_context *context, const setup *s, const char *name)
{
    const file_path folder = path_of(name);
    qs_text *text = prose_text(context, 3000, 0.1);
    qs_trainer *trainer = make_trainer(context, s, text);
    train_to(trainer, STEPS);
    ok(qs_trainer_save(trainer, folder.text));
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    return folder;
}

/* The new text, longer and in another order. */
static qs_text *new_text(qs_context *context)
{
    enum { N = 4000 };
    qs_text *text = NULL;
    char bytes[N];
    write_prose(99, bytes, N);
    ok(qs_text_from_memory(context, bytes, N, 0.1, &text));
    return text;
}

static double loss_of(qs_model *model, qs_text *text)
{
    double nats = 0.0;
    ok(qs_model_evaluate(model, text, 0, 4, &nats, NULL));
    return nats;
}

static double loss_of_file(qs_context *context, const char *path, qs_text *text)
{
    qs_model *model = NULL;
    ok(qs_model_open(context, path, &model));
    const double nats = loss_of(model, text);
    qs_model_free(&model);
    return nats;
}

/* Bytes of base.suffix, NULL if there is no such tensor. */
static const void *bytes_of(const qs_checkpoint *checkpoint, const char *base, const char *suffix, qs_tensor_info *info)
{
    char name[192];
    snprintf(name, sizeof name, "%s%s", base, suffix);
    const int64_t index = qs_checkpoint_find(checkpoint, name);
    if (index < 0)
        return NULL;
    ok(qs_checkpoint_tensor(checkpoint, index, info));
    return qs_checkpoint_data(checkpoint, index);
}

/* The tensor is in both, or in neither, with the same bytes. */
static int same_tensor(const qs_checkpoint *a, const qs_checkpoint *b, const char *base, const char *suffix)
{
    qs_tensor_info x, y;
    const void *p = bytes_of(a, base, suffix, &x), *q = bytes_of(b, base, suffix, &y);
    return (!p && !q) || (p && q && x.bytes == y.bytes && memcmp(p, q, x.bytes) == 0);
}

/* ---- what is taken, what is made anew ------------------------------------------------------------------------------ */

/* Every tensor of the source's model file stands in the started one. */
static void check_weights(const qs_checkpoint *source, const qs_checkpoint *started)
{
    for (int64_t i = 0; i < qs_checkpoint_count(source); i++) {
        qs_tensor_info info;
        ok(qs_checkpoint_tensor(source, i, &info));
        if (strcmp(info.file, "model.safetensors") == 0 && !same_tensor(source, started, info.name, ""))
            fail_msg("%s is not that of the source", info.name);
    }
}

/* A sign for each weight, from words or from levels of c8. */
static int sign_of(const qs_checkpoint *checkpoint, const char *matrix, int64_t i)
{
    qs_tensor_info info;
    const uint32_t *words = bytes_of(checkpoint, matrix, ".weight", &info);
    return words[i / 32] >> (i % 32) & 1 ? 1 : -1;
}

/* Beside the signs a started run begins like any other: fresh is the same run without a source. Of c8 the levels are those of
 * fresh, their signs those of the source; of ste the sizes of the latents. */
static void check_state(const arm *a, const qs_checkpoint *source, const qs_checkpoint *fresh, const qs_checkpoint *started)
{
    static const char *const moments[] = {".weight_scale_master.adam_m", ".weight_scale_master.adam_v", ".weight.adam_m",
                                          ".weight.adam_v", ".bop_average", ".row_moment", ".column_moment", ".control"};
    for (int m = 0; m < MATRICES; m++) {
        const matrix_name name = name_of(m);
        qs_tensor_info x, y;
        int64_t n = 0;
        for (size_t k = 0; k < sizeof moments / sizeof moments[0]; k++)
            assert_true(same_tensor(fresh, started, name.text, moments[k]));
        if (a->optimizer != QS_OPTIMIZER_ADAMW)
            assert_true(same_tensor(source, started, name.text, ".weight_scale_master"));
        if (a->fsm != QS_FSM_C8)
            assert_true(same_tensor(fresh, started, name.text, ".weight_state"));
        const int8_t *old = bytes_of(fresh, name.text, ".weight_state", &x), *new = bytes_of(started, name.text, ".weight_state", &y);
        for (int64_t i = 0; a->fsm == QS_FSM_C8 && i < x.rows * x.cols; i++) {
            assert_int_equal(new[i] < 0 ? -1 - new[i] : new[i], old[i] < 0 ? -1 - old[i] : old[i]);
            assert_int_equal(new[i] < 0 ? -1 : 1, sign_of(source, name.text, i));
        }
        const float *before = floats_of(fresh, name.text, ".latent", &n), *latent = floats_of(started, name.text, ".latent", &n);
        for (int64_t i = 0; latent && i < n; i++)
            assert_true(latent[i] == (float)sign_of(source, name.text, i) * fabsf(before[i]));
    }
}

/* The checksum is what docs/format.md, section 4, says it is. */
static void check_sum(const qs_checkpoint *source, const char *from)
{
    static const char *const refined[] = {".latent", ".weight_scale_master"};
    char sum[QSI_HEX];
    qs_tensor_info info;
    XXH3_state_t *state = XXH3_createState();
    XXH3_128bits_reset(state);
    for (int64_t i = 0; i < qs_checkpoint_count(source); i++) {
        ok(qs_checkpoint_tensor(source, i, &info));
        if (strcmp(info.file, "model.safetensors") == 0)
            XXH3_128bits_update(state, qs_checkpoint_data(source, i), (size_t)info.bytes);
    }
    for (int i = 0; i < 2 * MATRICES; i++) {
        const void *bytes = bytes_of(source, name_of(i / 2).text, refined[i % 2], &info);
        if (bytes)
            XXH3_128bits_update(state, bytes, (size_t)info.bytes);
    }
    qsi_hash_hex(XXH3_128bits_digest(state), sum);
    XXH3_freeState(state);
    assert_string_equal(from, sum);
}

static void check_arm(qs_context *context, const arm *a, const char *source_path, char from[64])
{
    const file_path fresh_path = path_of("fresh"), started_path = path_of("started");
    setup s = start_setup(a->optimizer, a->fsm, a->recipe);
    s.options.seed = SEED;
    qs_text *text = new_text(context);
    qs_trainer *fresh = make_trainer(context, &s, text), *started = make_trainer(context, &s, text);
    assert_string_equal(qs_trainer_from(started), "");
    ok(qs_trainer_start_from(started, source_path));
    assert_int_equal(qs_trainer_position(started), 0);
    assert_true(loss_of(qs_trainer_model(started), text) == loss_of_file(context, source_path, text));
    assert_true(loss_of(qs_trainer_model(started), text) != loss_of(qs_trainer_model(fresh), text));
    if (from[0])
        assert_string_equal(from, qs_trainer_from(started));   /* whatever trains */
    snprintf(from, 64, "%s", qs_trainer_from(started));
    ok(qs_trainer_save(fresh, fresh_path.text));
    ok(qs_trainer_save(started, started_path.text));
    qs_checkpoint *c[3] = {open_checkpoint(source_path), open_checkpoint(fresh_path.text), open_checkpoint(started_path.text)};
    check_weights(c[0], c[2]);
    check_state(a, c[0], c[1], c[2]);
    check_sum(c[0], from);
    assert_null(strstr(qs_checkpoint_manifest(c[1]), "\"from\""));
    assert_non_null(strstr(qs_checkpoint_manifest(c[2]), from));
    assert_null(strstr(qs_checkpoint_manifest(c[2]), test_folder));
    for (int i = 0; i < 3; i++)
        qs_checkpoint_close(&c[i]);
    const qs_step_info info = train_to(started, 4);
    assert_true(isfinite(info.loss));
    assert_true((info.flips > 0.0) == (a->optimizer != QS_OPTIMIZER_FROZEN && a->optimizer != QS_OPTIMIZER_ADAMW));
    qs_trainer_free(&fresh);
    qs_trainer_free(&started);
    qs_text_free(&text);
}

static void test_every_arm(void **state)
{
    (void)state;
    char from[2][64] = {"", ""};
    const setup bits = start_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    const setup dense = start_setup(QS_OPTIMIZER_ADAMW, QS_FSM_C4, QS_RECIPE_DEFAULT);
    qs_context *context = open_context(1, NULL, NULL);
    const file_path source[2] = {make_source(context, &bits, "bits"), make_source(context, &dense, "dense")};
    for (int i = 0; i < ARMS; i++) {
        const int kind = arms[i].optimizer == QS_OPTIMIZER_ADAMW;
        if (arms[i].optimizer != QS_OPTIMIZER_LORA)
            check_arm(context, &arms[i], source[kind].text, from[kind]);
    }
    assert_string_not_equal(from[0], from[1]);
    qs_close(&context);
}

/* Latents are taken where there are some, and by ste alone. */
static void test_latents(void **state)
{
    (void)state;
    const file_path started_path = path_of("from-ste");
    const setup s = start_setup(QS_OPTIMIZER_STE, QS_FSM_C4, QS_RECIPE_DEFAULT);
    const setup other = start_setup(QS_OPTIMIZER_BOP, QS_FSM_C4, QS_RECIPE_DEFAULT);
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = new_text(context);
    const file_path source_path = make_source(context, &s, "ste");
    qs_trainer *trainer = make_trainer(context, &s, text), *bop = make_trainer(context, &other, text);
    ok(qs_trainer_start_from(trainer, source_path.text));
    ok(qs_trainer_start_from(bop, source_path.text));
    assert_string_equal(qs_trainer_from(trainer), qs_trainer_from(bop));
    ok(qs_trainer_save(trainer, started_path.text));
    qs_checkpoint *source = open_checkpoint(source_path.text), *started = open_checkpoint(started_path.text);
    check_sum(source, qs_trainer_from(trainer));
    for (int m = 0; m < MATRICES; m++) {
        int64_t n = 0;
        const matrix_name name = name_of(m);
        assert_non_null(floats_of(source, name.text, ".latent", &n));
        assert_true(same_tensor(source, started, name.text, ".latent"));
        assert_true(same_tensor(source, started, name.text, ".weight_scale_master"));
    }
    qs_checkpoint_close(&source);
    qs_checkpoint_close(&started);
    train_to(trainer, 3);
    train_to(bop, 3);
    qs_trainer_free(&trainer);
    qs_trainer_free(&bop);
    qs_text_free(&text);
    qs_close(&context);
}

/* Adapters begin as in any run beside a model without them, so that it computes the same, and are taken with one that has them;
 * no other optimizer may leave them behind. */
static void test_adapters(void **state)
{
    (void)state;
    setup s = start_setup(QS_OPTIMIZER_LORA, QS_FSM_C4, QS_RECIPE_DEFAULT);
    const setup bits = start_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    const file_path adapted = path_of("adapted");
    s.options.lora_rank = 4;
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = new_text(context);
    const file_path plain = make_source(context, &bits, "plain");
    qs_trainer *trainer = make_trainer(context, &s, text);
    ok(qs_trainer_start_from(trainer, plain.text));
    assert_true(loss_of(qs_trainer_model(trainer), text) == loss_of_file(context, plain.text, text));
    train_to(trainer, STEPS);
    ok(qs_trainer_save(trainer, adapted.text));
    assert_true(loss_of_file(context, adapted.text, text) < loss_of_file(context, plain.text, text));
    qs_trainer_free(&trainer);
    trainer = make_trainer(context, &s, text);
    ok(qs_trainer_start_from(trainer, adapted.text));
    assert_true(loss_of(qs_trainer_model(trainer), text) == loss_of_file(context, adapted.text, text));
    qs_trainer_free(&trainer);
    s.options.lora_rank = 8;
    trainer = make_trainer(context, &s, text);
    refuses(qs_trainer_start_from(trainer, adapted.text), QS_ERR_ARG, "adapters of lora_rank = 4, this run 8");
    qs_trainer_free(&trainer);
    trainer = make_trainer(context, &bits, text);
    refuses(qs_trainer_start_from(trainer, adapted.text), QS_ERR_ARG, "adapters of lora_rank = 4, this run 0");
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
}

/* ---- fp16 scales without masters ----------------------------------------------------------------------------------- */

static void copy_file(const char *from, const char *to, size_t cut)
{
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    assert_true(in && out);
    for (int c = 0; (cut == 0 || (size_t)ftell(out) < cut) && (c = fgetc(in)) != EOF;)
        assert_int_equal(fputc(c, out), c);
    assert_true(fclose(in) == 0 && fclose(out) == 0);
}

/* Overwrites bytes of a tensor in a file. */
static void patch(const char *path, const char *tensor, uint64_t at, const void *bytes, size_t n)
{
    qs_tensor_info info;
    qs_checkpoint *checkpoint = open_checkpoint(path);
    const int64_t index = qs_checkpoint_find(checkpoint, tensor);
    assert_true(index >= 0);
    ok(qs_checkpoint_tensor(checkpoint, index, &info));
    qs_checkpoint_close(&checkpoint);
    assert_true(at + n <= info.bytes);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)(info.offset + at), SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

/* A model file alone has no masters: of every finite fp16 number the master made from it gives it back, at two values of alpha0. */
static void test_every_scale(void **state)
{
    (void)state;
    enum { ROWS = 1 << 16 };
    static uint16_t scales[ROWS];
    static const char *const wide[] = {"model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"};
    const file_path folder = path_of("wide"), started_path = path_of("wide-started"), alone = path_of("wide.safetensors");
    setup s = small_setup(QS_OPTIMIZER_FROZEN, QS_FSM_C4, QS_RECIPE_DEFAULT);
    s.config.layers = 1;
    s.config.ctx = 2;
    s.config.ffn = ROWS;
    s.options.batch = 1;
    s.options.health_window = 0;
    for (int i = 0; i < ROWS; i++)
        scales[i] = (uint16_t)((i & 0x7C00) == 0x7C00 ? i & 0x83FF : i);
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = prose_text(context, 500, 0.1);
    qs_trainer *trainer = make_trainer(context, &s, text);
    ok(qs_trainer_save(trainer, folder.text));
    qs_trainer_free(&trainer);
    copy_file(path_of("wide/model.safetensors").text, alone.text, 0);
    for (int m = 0; m < 2; m++) {
        char name[96];
        snprintf(name, sizeof name, "%s.weight_scale", wide[m]);
        patch(alone.text, name, 0, scales, sizeof scales);
    }
    trainer = make_trainer(context, &s, text);
    ok(qs_trainer_start_from(trainer, alone.text));
    ok(qs_trainer_save(trainer, started_path.text));
    qs_checkpoint *started = open_checkpoint(started_path.text);
    for (int m = 0; m < 2; m++) {
        int64_t n = 0;
        qs_tensor_info info;
        const float base = (float)(1.0 / sqrt(32.0)), *master = floats_of(started, wide[m], ".weight_scale_master", &n);
        const uint16_t *scale = bytes_of(started, wide[m], ".weight_scale", &info);
        assert_int_equal(n, ROWS);
        for (int i = 0; i < ROWS; i++) {
            assert_int_equal(scale[i], scales[i]);
            assert_int_equal(qs_float_to_half(base * master[i]), scales[i]);
        }
    }
    qs_checkpoint_close(&started);
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
}

/* The same through the op that makes scales of masters, which runs in every step: at a rate too small to move anything the scales
 * of the file stay. */
static void test_scales_stay(void **state)
{
    (void)state;
    const file_path after = path_of("scales-after"), alone = path_of("scales.safetensors");
    setup s = start_setup(QS_OPTIMIZER_FROZEN, QS_FSM_C4, QS_RECIPE_DEFAULT);
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = new_text(context);
    (void)make_source(context, &s, "scales");
    copy_file(path_of("scales/model.safetensors").text, alone.text, 0);
    s.options.lr = s.options.scale_lr = 1e-30;
    qs_trainer *trainer = make_trainer(context, &s, text);
    ok(qs_trainer_start_from(trainer, alone.text));
    train_to(trainer, 3);
    ok(qs_trainer_save(trainer, after.text));
    qs_checkpoint *source = open_checkpoint(alone.text), *saved = open_checkpoint(after.text);
    check_weights(source, saved);
    for (int m = 0; m < MATRICES; m++)
        assert_true(same_tensor(source, saved, name_of(m).text, ".weight_scale"));
    qs_checkpoint_close(&source);
    qs_checkpoint_close(&saved);
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
}

/* ---- going on after a stop ----------------------------------------------------------------------------------------- */

static void assert_same_file(const char *a, const char *b, const char *name)
{
    char p[400], q[400];
    snprintf(p, sizeof p, "%s/%s", a, name);
    snprintf(q, sizeof q, "%s/%s", b, name);
    FILE *x = fopen(p, "rb"), *y = fopen(q, "rb");
    assert_true(x && y);
    for (int c = 0, d = 0; c != EOF;) {
        c = fgetc(x);
        d = fgetc(y);
        assert_int_equal(c, d);
    }
    fclose(x);
    fclose(y);
}

static void assert_same_checkpoint(const char *a, const char *b)
{
    assert_same_file(a, b, "model.safetensors");
    assert_same_file(a, b, "state.safetensors");
    assert_same_file(a, b, "manifest.json");
}

static void check_resume(qs_context *context, const setup *s, qs_text *text, const char *source)
{
    const file_path four = path_of("resume-4"), whole = path_of("resume-8"), again = path_of("resume-again");
    char from[64];
    qs_trainer *trainer = make_trainer(context, s, text);
    ok(qs_trainer_start_from(trainer, source));
    snprintf(from, sizeof from, "%s", qs_trainer_from(trainer));
    train_to(trainer, 4);
    ok(qs_trainer_save(trainer, four.text));
    train_to(trainer, 8);
    ok(qs_trainer_save(trainer, whole.text));
    qs_trainer_free(&trainer);
    for (int i = 0; i < 2; i++) {   /* with the weights at hand, and without */
        trainer = make_trainer(context, s, text);
        if (i == 0)
            ok(qs_trainer_start_from(trainer, source));
        else
            ok(qs_trainer_expect_from(trainer, from));
        ok(qs_trainer_load(trainer, four.text));
        assert_string_equal(qs_trainer_from(trainer), from);
        train_to(trainer, 8);
        ok(qs_trainer_save(trainer, again.text));
        assert_same_checkpoint(whole.text, again.text);
        qs_trainer_free(&trainer);
    }
}

static void test_resume(void **state)
{
    (void)state;
    setup s = start_setup(QS_OPTIMIZER_FSM, QS_FSM_C8, QS_RECIPE_DEFAULT);
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = new_text(context);
    const file_path source = make_source(context, &s, "resume-source");
    check_resume(context, &s, text, source.text);
    s.options.optimizer = QS_OPTIMIZER_STE;
    check_resume(context, &s, text, source.text);
    s.options.optimizer = QS_OPTIMIZER_FSM;
    s.options.steps = 8;
    s.options.active_parts = 2;
    s.config.ctx = 24;   /* the run's own */
    check_resume(context, &s, text, source.text);
    qs_text_free(&text);
    qs_close(&context);
}

static void test_resume_refused(void **state)
{
    (void)state;
    const setup s = start_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    setup different = s;
    char told[256], from[2][64];
    qs_step_info info;
    different.options.seed = 77;
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = new_text(context);
    const file_path one = make_source(context, &s, "one"), two = make_source(context, &different, "two");
    const file_path saved = path_of("from-one"), plain = path_of("from-nothing");
    qs_trainer *a = make_trainer(context, &s, text), *b = make_trainer(context, &s, text), *c = make_trainer(context, &s, text);
    ok(qs_trainer_start_from(a, one.text));
    ok(qs_trainer_start_from(b, two.text));
    snprintf(from[0], sizeof from[0], "%s", qs_trainer_from(a));
    snprintf(from[1], sizeof from[1], "%s", qs_trainer_from(b));
    ok(qs_trainer_save(a, saved.text));
    ok(qs_trainer_save(c, plain.text));
    const uint64_t before[2] = {hash_of(b), hash_of(c)};
    snprintf(told, sizeof told, "was started from the weights %s, this run from the weights %s; start from the same", from[0], from[1]);
    refuses(qs_trainer_load(b, saved.text), QS_ERR_ARG, told);
    snprintf(told, sizeof told, "was started from the weights %s, this run from random weights", from[0]);
    refuses(qs_trainer_load(c, saved.text), QS_ERR_ARG, told);
    snprintf(told, sizeof told, "was started from random weights, this run from the weights %s", from[1]);
    refuses(qs_trainer_load(b, plain.text), QS_ERR_ARG, told);
    refuses(qs_trainer_start_from(b, one.text), QS_ERR_ARG, "settled once");
    assert_true(hash_of(b) == before[0] && hash_of(c) == before[1]);
    train_to(c, 1);
    refuses(qs_trainer_start_from(c, one.text), QS_ERR_ARG, "the trainer has done 1 steps");
    refuses(qs_trainer_expect_from(c, from[0]), QS_ERR_ARG, "the trainer has done 1 steps");
    qs_trainer_free(&c);
    c = make_trainer(context, &s, text);
    refuses(qs_trainer_expect_from(c, "0123"), QS_ERR_ARG, "32 hex digits");
    refuses(qs_trainer_expect_from(c, NULL), QS_ERR_ARG, "32 hex digits");
    ok(qs_trainer_expect_from(c, from[0]));
    refuses(qs_trainer_step(c, &info), QS_ERR_ARG, from[0]);
    refuses(qs_trainer_save(c, plain.text), QS_ERR_ARG, "which it has not got yet");
    refuses(qs_trainer_start_from(c, two.text), QS_ERR_ARG, "but this run was started from");
    ok(qs_trainer_start_from(c, one.text));
    assert_true(hash_of(c) == hash_of(a));
    qs_trainer_free(&a);
    qs_trainer_free(&b);
    qs_trainer_free(&c);
    qs_text_free(&text);
    qs_close(&context);
}

/* ---- what cannot be started from ------------------------------------------------------------------------------------ */

/* Refused, and the trainer is as it was. */
static void refuse_start(qs_context *context, const setup *s, qs_text *text, const char *path, qs_status status, const char *what)
{
    qs_trainer *trainer = make_trainer(context, s, text);
    const uint64_t before = hash_of(trainer);
    refuses(qs_trainer_start_from(trainer, path), status, what);
    assert_true(hash_of(trainer) == before);
    assert_string_equal(qs_trainer_from(trainer), "");
    train_to(trainer, 1);
    qs_trainer_free(&trainer);
}

static void test_other_shapes(void **state)
{
    (void)state;
    const setup s = start_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    const setup dense = start_setup(QS_OPTIMIZER_ADAMW, QS_FSM_C4, QS_RECIPE_DEFAULT);
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = new_text(context);
    const file_path bits = make_source(context, &s, "shape"), floats = make_source(context, &dense, "shape-dense");
    setup o = s;
#define OTHER(field, value, what) \
    o = s; \
    o.config.field = (value); \
    refuse_start(context, &o, text, bits.text, QS_ERR_ARG, what);
    OTHER(layers, 3, "has layers = 2, this run 3; start from a model of the same shape")
    OTHER(dim, 64, "has dim = 32, this run 64")
    OTHER(heads, 4, "has heads = 2, this run 4")
    OTHER(kv_heads, 2, "has kv_heads = 1, this run 2")
    OTHER(head_dim, 64, "has head_dim = 32, this run 64")
    OTHER(ffn, 96, "has ffn = 64, this run 96")
    OTHER(vocab, 300, "has vocab = 256, this run 300")
    OTHER(qk_norm, 0, "has qk_norm = 1, this run 0")
    OTHER(sub_norm, 0, "has sub_norm = 1, this run 0")
    OTHER(tied, 1, "has tied = 0, this run 1")
    OTHER(rope_theta, 5e5, "has rope_theta = 10000.0, this run 500000.0")
    OTHER(norm_eps, 1e-6, "has norm_eps = 1e-05, this run 1e-06")
#undef OTHER
    refuse_start(context, &dense, text, bits.text, QS_ERR_ARG, "has 1-bit matrices and this run trains dense fp32 ones");
    refuse_start(context, &s, text, floats.text, QS_ERR_ARG, "has dense fp32 matrices and this run trains 1-bit ones");
    o = s;
    o.config.ctx = 40;
    qs_trainer *trainer = make_trainer(context, &o, text);
    ok(qs_trainer_start_from(trainer, bits.text));
    train_to(trainer, 2);
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
}

static void write_bytes(const char *path, const void *bytes, size_t n)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

static void test_damaged(void **state)
{
    (void)state;
    enum { HEADER = 8192 };   /* of this model file: shorter ones may be anything */
    const setup s = start_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    const uint8_t change = 0x5A;
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = new_text(context);
    const file_path source = make_source(context, &s, "damaged"), alone = path_of("alone.safetensors");
    const file_path model = path_of("damaged/model.safetensors"), manifest = path_of("damaged/manifest.json");
    refuse_start(context, &s, text, path_of("nowhere").text, QS_ERR_NOINPUT, "nowhere");
    refuse_start(context, &s, text, path_of("damaged/state.safetensors").text, QS_ERR_FORMAT, "state.safetensors");
    refuse_start(context, &s, text, manifest.text, QS_ERR_FORMAT, "manifest.json");
    for (size_t cut = 100; cut < 60000; cut = 3 * cut + 5) {
        copy_file(model.text, alone.text, cut);
        refuse_start(context, &s, text, alone.text, cut < HEADER ? QS_ERR_FORMAT : QS_ERR_CORRUPT, "alone.safetensors");
    }
    copy_file(model.text, alone.text, 0);
    patch(model.text, "model.layers.1.mlp.down_proj.weight", 3, &change, 1);
    refuse_start(context, &s, text, source.text, QS_ERR_CORRUPT, "model.safetensors");
    copy_file(alone.text, model.text, 60000);
    refuse_start(context, &s, text, source.text, QS_ERR_CORRUPT, "model.safetensors");
    copy_file(alone.text, model.text, 0);
    write_bytes(manifest.text, "{\"format_version\": 1}", 21);
    refuse_start(context, &s, text, source.text, QS_ERR_FORMAT, "manifest.json");
    write_bytes(manifest.text, "\0garbage", 8);
    refuse_start(context, &s, text, source.text, QS_ERR_CORRUPT, "manifest.json");
    remove(manifest.text);
    refuse_start(context, &s, text, source.text, QS_ERR_CORRUPT, "manifest.json is missing");
    qs_trainer *trainer = make_trainer(context, &s, text);
    ok(qs_trainer_start_from(trainer, alone.text));   /* whole again, and enough by itself */
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
}

/* A whole checkpoint, written anew with something about one tensor changed. */
typedef struct forgery {
    const qs_checkpoint *source;
    int64_t index[256];
    const char *tensor;
    const void *bytes;         /* in place of its first ones, NULL: left away, or of another shape */
    size_t n;
} forgery;

static qs_status fetch_forged(void *user, int64_t index, void *bytes, int64_t n)
{
    const forgery *f = user;
    qs_tensor_info info;
    ok(qs_checkpoint_tensor(f->source, f->index[index], &info));
    memset(bytes, 0, (size_t)n);
    memcpy(bytes, qs_checkpoint_data(f->source, f->index[index]), (uint64_t)n < info.bytes ? (size_t)n : (size_t)info.bytes);
    if (f->bytes && strcmp(info.name, f->tensor) == 0)
        memcpy(bytes, f->bytes, f->n);
    return QS_OK;
}

/* drop: the tensor is left away; else it gets one row more unless there are bytes for it. */
static void forge(const char *from, const char *to, const char *tensor, const void *bytes, size_t n, int drop)
{
    static qs_saved_tensor saved[256];
    char manifest[4096];
    qs_checkpoint *source = open_checkpoint(from);
    forgery f = {.source = source, .tensor = tensor, .bytes = bytes, .n = n};
    int64_t count = 0;
    for (int64_t i = 0; i < qs_checkpoint_count(source); i++) {
        qs_tensor_info info;
        ok(qs_checkpoint_tensor(source, i, &info));
        const int named = strcmp(info.name, tensor) == 0;
        if (named && drop)
            continue;
        qs_saved_tensor *t = &saved[count];
        memset(t, 0, sizeof *t);
        snprintf(t->name, sizeof t->name, "%s", info.name);
        t->format = (qs_format)info.format;
        t->rank = info.rank;
        memcpy(t->shape, info.shape, sizeof t->shape);
        t->shape[0] += named && !bytes;
        t->file = strcmp(info.file, "model.safetensors") != 0;
        f.index[count++] = i;
    }
    const int length = snprintf(manifest, sizeof manifest, "{\"config\": %s, \"step\": 6}", qs_checkpoint_config(source));
    assert_true(length > 0 && length < (int)sizeof manifest);
    ok(qs_checkpoint_write(NULL, to, saved, count, fetch_forged, &f, manifest));
    qs_checkpoint_close(&source);
}

/* Checksums that hold, and tensors that do not fit. */
static void test_forged(void **state)
{
    (void)state;
    const setup s = start_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    const float master = 7.0f;
    static const char down[] = "model.layers.1.mlp.down_proj";
    const char *const names[] = {"model.layers.1.mlp.down_proj.weight_scale_master", "model.layers.1.mlp.down_proj.weight",
                                 "model.layers.1.mlp.down_proj.weight_scale", "lm_head.weight"};
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = new_text(context);
    const file_path source = make_source(context, &s, "forged"), forged = path_of("forgery");
    forge(source.text, forged.text, names[0], &master, sizeof master, 0);
    refuse_start(context, &s, text, forged.text, QS_ERR_CORRUPT, "its master gives the scale");
    for (int i = 0; i < 4; i++) {
        forge(source.text, forged.text, names[i], NULL, 0, 0);
        refuse_start(context, &s, text, forged.text, QS_ERR_FORMAT, names[i]);
    }
    for (int i = 1; i < 4; i++) {
        forge(source.text, forged.text, names[i], NULL, 0, 1);
        refuse_start(context, &s, text, forged.text, QS_ERR_FORMAT, names[i]);
    }
    forge(source.text, forged.text, names[0], NULL, 0, 1);   /* without masters its scales serve */
    qs_trainer *trainer = make_trainer(context, &s, text);
    ok(qs_trainer_start_from(trainer, forged.text));
    ok(qs_trainer_save(trainer, path_of("unforged").text));
    qs_checkpoint *a = open_checkpoint(source.text), *b = open_checkpoint(path_of("unforged").text);
    check_weights(a, b);
    assert_false(same_tensor(a, b, down, ".weight_scale_master"));
    qs_checkpoint_close(&a);
    qs_checkpoint_close(&b);
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_arm),      cmocka_unit_test(test_latents),     cmocka_unit_test(test_adapters),
        cmocka_unit_test(test_every_scale),    cmocka_unit_test(test_scales_stay), cmocka_unit_test(test_resume),
        cmocka_unit_test(test_resume_refused), cmocka_unit_test(test_other_shapes), cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_forged),
    };
    return cmocka_run_group_tests(tests, make_test_folder, drop_test_folder);
}
