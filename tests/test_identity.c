/* test_identity.c - the same training gives the same bytes: for every thread count, kernel level, micro-batch, device, and
 * after every stop and resume. Compared is the hash over everything that persists (qs_trainer_hash). */
#include "training_case.h"

enum { STEPS = 4, MIDDLE = 2, TEXT = 4000, MOST_VARIANTS = 24 };

/* How a run is carried out; nothing of it may show in its bytes. */
typedef struct variant {
    const char *name;
    int threads;
    const char *level, *device;
    int64_t micro_batch;
    int recompute;
} variant;

/* Runs from step `from` to `to` under a variant: continues from folder `load` and ends in folder `save` where given. */
static uint64_t run_part(const variant *v, const setup *given, int64_t to, const char *load, const char *save)
{
    setup s = *given;
    s.options.micro_batch = v->micro_batch;
    s.options.recompute = v->recompute;
    qs_context *context = open_context(v->threads, v->level, v->device);
    qs_text *text = prose_text(context, TEXT, 0.1);
    qs_trainer *trainer = make_trainer(context, &s, text);
    if (load)
        ok(qs_trainer_load(trainer, load));
    train_to(trainer, to);
    const uint64_t hash = hash_of(trainer);
    if (save)
        ok(qs_trainer_save(trainer, save));
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
    return hash;
}

static uint64_t run_all(const variant *v, const setup *s) { return run_part(v, s, STEPS, NULL, NULL); }

static const variant reference = {"1 thread", 1, NULL, NULL, 0, 0};

static void assert_same(const setup *s, uint64_t want, const variant *v, const char *arm_name)
{
    const uint64_t hash = run_all(v, s);
    if (hash != want)
        fail_msg("%s: %s gives %016llx, %s gives %016llx", arm_name, reference.name, (unsigned long long)want, v->name,
                 (unsigned long long)hash);
}

static int have_fake(void) { return getenv("QSBITS_BACKEND_DIR") != NULL; }

/* Fills list with what this machine can run; returns how many. */
static int variants(variant *list)
{
    int n = 0, available = 0;
    list[n++] = (variant){"2 threads", 2, NULL, NULL, 0, 0};
    list[n++] = (variant){"5 threads", 5, NULL, NULL, 0, 0};
    list[n++] = (variant){"micro-batches", 1, NULL, NULL, 16, 0};
    list[n++] = (variant){"micro-batches, 2 threads", 2, NULL, NULL, 16, 0};
    list[n++] = (variant){"recomputed", 1, NULL, NULL, 0, 1};
    list[n++] = (variant){"recomputed, micro-batches, 2 threads", 2, NULL, NULL, 16, 1};
    if (have_fake())
        list[n++] = (variant){"the fake device", 1, NULL, "fake", 16, 0};
    for (int i = 0; i < qs_cpu_level_count() && n < MOST_VARIANTS; i++) {
        const char *level = qs_cpu_level_name(i, &available);
        if (available)
            list[n++] = (variant){level, 1, level, NULL, 0, 0};
    }
    return n;
}

/* Clipping is on, so the norm over all tensors counts as well. */
static setup identity_setup(const arm *a)
{
    setup s = small_setup(a->optimizer, a->fsm, a->recipe);
    s.options.steps = 8;
    s.options.clip = 0.5;
    s.config.qk_norm = a->fsm == QS_FSM_C2;
    return s;
}

static void test_arms(void **state)
{
    (void)state;
    variant list[MOST_VARIANTS];
    const int n = variants(list);
    for (int a = 0; a < ARMS; a++) {
        const setup s = identity_setup(&arms[a]);
        const uint64_t want = run_all(&reference, &s);
        for (int i = 0; i < n; i++)
            assert_same(&s, want, &list[i], arms[a].name);
    }
}

/* int8 as f32. bf16 is BOUND: the same bytes on one level, whatever else differs. */
static void test_precisions(void **state)
{
    (void)state;
    variant list[MOST_VARIANTS];
    const int n = variants(list);
    for (qs_precision p = QS_PRECISION_INT8; p <= QS_PRECISION_BF16; p++)
        for (int a = 0; a < ARMS; a++) {
            setup s = identity_setup(&arms[a]);
            if (arms[a].optimizer == QS_OPTIMIZER_ADAMW)
                continue;
            s.options.precision = p;
            const uint64_t want = run_all(&reference, &s);
            for (int i = 0; i < n; i++)
                if (p == QS_PRECISION_INT8 || (!list[i].level && !list[i].device))
                    assert_same(&s, want, &list[i], arms[a].name);
            s.options.precision = QS_PRECISION_F32;
            assert_true(run_all(&reference, &s) != want);
        }
}

/* The graph's options, a batch that is one whole chunk, and one of less than a chunk. */
static void test_graphs(void **state)
{
    (void)state;
    static const struct { const char *name; int qk_norm, sub_norm, tied, batch, heads, kv_heads, head_dim; } graphs[] = {
        {"no norms", 0, 0, 0, 18, 4, 4, 8},  {"Qwen3 graph", 1, 0, 0, 16, 4, 2, 16}, {"tied", 0, 1, 1, 18, 2, 1, 32},
        {"all norms", 1, 1, 1, 17, 2, 2, 16}, {"less than a chunk", 0, 1, 0, 3, 8, 4, 24},
    };
    variant list[MOST_VARIANTS];
    const int n = variants(list);
    for (size_t g = 0; g < sizeof graphs / sizeof graphs[0]; g++) {
        setup s = identity_setup(&arms[2]);
        s.config.qk_norm = graphs[g].qk_norm;
        s.config.sub_norm = graphs[g].sub_norm;
        s.config.tied = graphs[g].tied;
        s.config.heads = graphs[g].heads;
        s.config.kv_heads = graphs[g].kv_heads;
        s.config.head_dim = graphs[g].head_dim;
        s.options.batch = graphs[g].batch;
        const uint64_t want = run_all(&reference, &s);
        for (int i = 0; i < n; i++) {
            variant v = list[i];
            v.micro_batch = v.micro_batch < graphs[g].batch ? v.micro_batch : 0;
            assert_same(&s, want, &v, graphs[g].name);
        }
    }
}

/* Seven chunks, the last one short, so that the tree over chunks is not a full one: micro-batches of 1, 2, 3, 4 and 6 chunks. */
static void test_micro_batches(void **state)
{
    (void)state;
    for (int a = 0; a < ARMS; a += 3) {
        setup s = identity_setup(&arms[a]);
        s.options.batch = 6 * 16 + 5;
        const uint64_t want = run_all(&reference, &s);
        for (int chunks = 1; chunks <= 6; chunks += chunks == 4 ? 2 : 1) {
            const variant v = {"micro-batches of whole chunks", 1, NULL, NULL, 16 * chunks, chunks % 2};
            assert_same(&s, want, &v, arms[a].name);
        }
    }
}

/* Stopped after MIDDLE steps and continued under quite other circumstances. */
static void test_resume(void **state)
{
    (void)state;
    static const variant first = {"first part", 2, NULL, NULL, 16, 1};
    static const variant second = {"second part", 5, "scalar", NULL, 16, 0};
    static const variant device = {"second part, fake device", 1, NULL, "fake", 0, 0};
    const file_path folder = path_of("middle"), end = path_of("end"), end2 = path_of("end2");
    for (int a = 0; a < ARMS; a++) {
        const setup s = identity_setup(&arms[a]);
        const uint64_t want = run_part(&reference, &s, STEPS, NULL, end.text);
        run_part(&first, &s, MIDDLE, NULL, folder.text);
        if (run_part(&second, &s, STEPS, folder.text, end2.text) != want)
            fail_msg("%s: a resumed run ends in other bytes", arms[a].name);
        if (have_fake() && run_part(&device, &s, STEPS, folder.text, NULL) != want)
            fail_msg("%s: a run resumed on the fake device ends in other bytes", arms[a].name);
    }
}

static void read_all(const char *folder, const char *name, uint8_t **bytes, long *count)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *count = ftell(file);
    rewind(file);
    *bytes = malloc((size_t)*count);
    assert_non_null(*bytes);
    assert_int_equal(fread(*bytes, 1, (size_t)*count, file), *count);
    fclose(file);
}

/* Not only the tensors: every byte of the three files. */
static void test_files_are_equal(void **state)
{
    (void)state;
    static const char *const names[] = {"model.safetensors", "state.safetensors", "manifest.json"};
    static const variant other = {"other", 5, NULL, NULL, 16, 1};
    const file_path a = path_of("files-a"), b = path_of("files-b");
    const setup s = identity_setup(&arms[2]);
    run_part(&reference, &s, 3, NULL, a.text);
    run_part(&other, &s, 3, NULL, b.text);
    for (int i = 0; i < 3; i++) {
        uint8_t *x = NULL, *y = NULL;
        long nx = 0, ny = 0;
        read_all(a.text, names[i], &x, &nx);
        read_all(b.text, names[i], &y, &ny);
        assert_int_equal(nx, ny);
        assert_memory_equal(x, y, (size_t)nx);
        free(x);
        free(y);
    }
}

/* The hash sees what the run depends on: seed, machine, length of the schedule. */
static void test_hash_differs(void **state)
{
    (void)state;
    const setup s = identity_setup(&arms[2]);
    const uint64_t want = run_all(&reference, &s);
    setup other = s;
    other.options.seed++;
    assert_true(run_all(&reference, &other) != want);
    other = s;
    other.options.fsm = QS_FSM_C2;
    assert_true(run_all(&reference, &other) != want);
    other = s;
    other.options.steps++;
    assert_true(run_all(&reference, &other) != want);
}

/* Changes only with trained bytes: a commit that changes it says so. */
static const uint64_t SIGNATURE = UINT64_C(0x349ef2c5ffed4baf);

/* Under the sanitizers the scalar reference would take a minute; test_arms has it at smaller sizes. */
static void test_signature(void **state)
{
    (void)state;
    const char *sanitized = getenv("QSBITS_SANITIZE");
    uint64_t want = 0, got = 0;
    qs_context *context = open_context(1, NULL, NULL);
    ok(qs_signature(context, &want));
    assert_true(want == SIGNATURE);
    qs_close(&context);
    context = open_context(2, sanitized && *sanitized == '1' ? NULL : "scalar", NULL);
    ok(qs_signature(context, &got));
    qs_close(&context);
    assert_int_equal(want, got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arms),      cmocka_unit_test(test_precisions),      cmocka_unit_test(test_graphs),
        cmocka_unit_test(test_resume),    cmocka_unit_test(test_micro_batches),   cmocka_unit_test(test_hash_differs),
        cmocka_unit_test(test_signature), cmocka_unit_test(test_files_are_equal),
    };
    return cmocka_run_group_tests(tests, make_test_folder, drop_test_folder);
}
