/* test_faults.c - disks that fill up or break, memory that runs out, and processes that end, at every single call.
 *
 * Each sweep lets call number 1, 2, 3, ... of an operation fail until it gets through without meeting the fault. Whatever
 * happens, a whole checkpoint remains, the failure is told with its documented status and a text, nothing leaks, and the
 * next attempt gives the same bytes as if nothing had happened. */
#include <sys/wait.h>
#include "core/internal.h"
#include "fault_calls.h"
#include "training_case.h"

enum { FILES = 3, ALL_FILES = CALLS_FILL | CALLS_CHANGE | CALLS_READ };
static const char *const file_names[FILES] = {"model.safetensors", "state.safetensors", "manifest.json"};

/* A run of seven steps. `run` holds the checkpoint of step 6; six and seven keep what steps 6 and 7 look like. */
static struct world {
    setup s;
    qs_context *context;
    qs_text *text;
    qs_trainer *trainer;     /* at step 7 */
    uint64_t hash;           /* of the trainer */
    file_path run, six, seven;
    const char *target;      /* what the save under test writes: a name in run */
} w;

/* ---- files -------------------------------------------------------------------------------------------------------- */

static int64_t read_all(const char *folder, const char *name, uint8_t **out)
{
    char path[640];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file)
        return -1;
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    const long bytes = ftell(file);
    rewind(file);
    assert_non_null(*out = malloc((size_t)bytes + 1));
    assert_int_equal(fread(*out, 1, (size_t)bytes, file), bytes);
    fclose(file);
    return bytes;
}

static bool same_checkpoint(const char *a, const char *b)
{
    bool same = true;
    for (int f = 0; f < FILES && same; f++) {
        uint8_t *x = NULL, *y = NULL;
        const int64_t n = read_all(a, file_names[f], &x), m = read_all(b, file_names[f], &y);
        same = n >= 0 && n == m && memcmp(x, y, (size_t)n) == 0;
        free(x);
        free(y);
    }
    return same;
}

static void copy_checkpoint(const char *from, const char *to)
{
    assert_int_equal(mkdir(to, 0777), 0);
    for (int f = 0; f < FILES; f++) {
        uint8_t *bytes = NULL;
        char path[640];
        const int64_t n = read_all(from, file_names[f], &bytes);
        snprintf(path, sizeof path, "%s/%s", to, file_names[f]);
        FILE *file = fopen(path, "wb");
        assert_non_null(file);
        assert_int_equal(fwrite(bytes, 1, (size_t)n, file), n);
        assert_int_equal(fclose(file), 0);
        free(bytes);
    }
}

static file_path in_run(const char *name, const char *suffix)
{
    file_path p;
    const int n = snprintf(p.text, sizeof p.text, "%s/%s%s", w.run.text, name, suffix);
    assert_true(n > 0 && n < (int)sizeof p.text);
    return p;
}

/* The run folder as it was after step 6. rubbish: as a process left it that was killed while it saved the target. */
static void lay_out(bool rubbish)
{
    ok(qsi_remove_tree(w.run.text));
    assert_int_equal(mkdir(w.run.text, 0777), 0);
    copy_checkpoint(w.six.text, in_run("step-00000006", "").text);
    if (!rubbish)
        return;
    copy_checkpoint(w.seven.text, in_run(w.target, ".tmp").text);
    assert_int_equal(unlink(in_run(w.target, ".tmp/manifest.json").text), 0);
    copy_checkpoint(w.six.text, in_run(w.target, ".old").text);
    assert_int_equal(unlink(in_run(w.target, ".old/model.safetensors").text), 0);
}

/* ---- what must hold whatever failed ------------------------------------------------------------------------------- */

/* The newest checkpoint is whole, and one of the two that there can be. */
static void check_newest(const char *when)
{
    char newest[1024];
    qs_checkpoint *checkpoint = NULL;
    if (qs_checkpoint_latest(NULL, w.run.text, newest, sizeof newest, NULL, NULL) != QS_OK)
        fail_msg("%s: no whole checkpoint is left (%s)", when, qs_last_error());
    if (!same_checkpoint(newest, w.six.text) && !same_checkpoint(newest, w.seven.text))
        fail_msg("%s: %s holds neither the old nor the new state", when, newest);
    ok(qs_checkpoint_open(NULL, newest, &checkpoint));
    ok(qs_checkpoint_verify(checkpoint));
    qs_checkpoint_close(&checkpoint);
}

/* With the fault gone the save succeeds, gives the bytes of an undisturbed one and leaves nothing else. */
static void check_later_save(const char *when)
{
    char **names = NULL;
    int64_t count = 0;
    const file_path target = in_run(w.target, "");
    if (qs_trainer_save(w.trainer, target.text) != QS_OK)
        fail_msg("%s: the next save fails as well (%s)", when, qs_last_error());
    if (!same_checkpoint(target.text, w.seven.text))
        fail_msg("%s: the next save gives other bytes", when);
    ok(qsi_list_directory(w.run.text, &names, &count));
    for (int64_t i = 0; i < count; i++)
        if (strcmp(names[i], "step-00000006") != 0 && strcmp(names[i], "step-00000007") != 0)
            fail_msg("%s: the next save leaves %s", when, names[i]);
    qsi_free_names(names, count);
    assert_true(hash_of(w.trainer) == w.hash);
}

/* A failed save left the run folder as it found it. */
static void check_untouched(const char *when)
{
    if (!same_checkpoint(in_run("step-00000006", "").text, w.six.text))
        fail_msg("%s: the older checkpoint was changed or moved", when);
    if (strcmp(w.target, "step-00000006") != 0 && qsi_path_exists(in_run(w.target, "").text))
        fail_msg("%s: a failed save left a checkpoint", when);
}

static void check_told(const char *when, qs_status status, bool files)
{
    const char *text = qs_last_error();
    if (files ? status != QS_ERR_IO && status != QS_ERR_CREATE : status != QS_ERR_NOMEM)
        fail_msg("%s: %s (%s)", when, qs_status_text(status), text);
    if (!strstr(text, files ? test_folder : "cannot allocate") && (files || !strstr(text, "no memory")))
        fail_msg("%s: \"%s\" does not name the %s", when, text, files ? "file" : "reason");
}

/* ---- saving on a disk that fails ---------------------------------------------------------------------------------- */

typedef struct disk {
    const char *name;
    int calls;
    fault_kind kind;
    int error;
    bool lasting;
} disk;

static const disk disks[] = {
    {"disk full for a moment", CALLS_FILL, FAULT_ERROR, ENOSPC, false},
    {"disk full", CALLS_FILL, FAULT_ERROR, ENOSPC, true},
    {"one error", ALL_FILES, FAULT_ERROR, EIO, false},
    {"disk gone", ALL_FILES, FAULT_ERROR, EIO, true},
    {"interrupted", ALL_FILES, FAULT_ERROR, EINTR, false},
    {"short write", ALL_FILES, FAULT_SHORT, 0, false},
    {"short writes", ALL_FILES, FAULT_SHORT, 0, true},
};

static void save_on(const disk *d, bool rubbish)
{
    char when[160];
    int64_t n = 1;
    for (bool struck = true; struck; n++) {
        lay_out(rubbish);
        snprintf(when, sizeof when, "%s at call %lld of saving %s%s", d->name, (long long)n, w.target,
                 rubbish ? " beside rubbish" : "");
        qsi_fail_text("nothing was told");
        fault_arm(d->calls, d->kind, d->error, n, d->lasting);
        const qs_status status = qs_trainer_save(w.trainer, in_run(w.target, "").text);
        struck = fault_disarm();
        if (status == QS_OK && !same_checkpoint(in_run(w.target, "").text, w.seven.text))
            fail_msg("%s: it passes with other bytes", when);
        if (status != QS_OK && (!struck || d->kind == FAULT_SHORT))
            fail_msg("%s: %s (%s)", when, qs_status_text(status), qs_last_error());
        if (status != QS_OK)
            check_told(when, status, true);
        if (status != QS_OK && !d->lasting)
            check_untouched(when);
        if (status != QS_OK && (!d->lasting || d->error == ENOSPC) && qsi_path_exists(in_run(w.target, ".tmp").text))
            fail_msg("%s: %s.tmp is left", when, w.target);
        check_newest(when);
        check_later_save(when);
    }
    assert_true(n > 20);   /* the fault met that many calls */
}

static const char *const targets[] = {"step-00000007", "step-00000006"};

static void test_save_on_failing_disks(void **state)
{
    (void)state;
    for (int t = 0; t < 2; t++) {
        w.target = targets[t];
        for (int d = 0; d < (int)(sizeof disks / sizeof *disks); d++)
            save_on(&disks[d], (d + t) & 1);
    }
}

/* ---- a process that ends while it saves --------------------------------------------------------------------------- */

/* True if the process met call n; then it is gone. */
static bool save_in_child(fault_kind kind, int64_t n)
{
    int result = 0;
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        fault_arm(ALL_FILES, kind, 0, n, false);
        _exit(qs_trainer_save(w.trainer, in_run(w.target, "").text) == QS_OK ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result) && (WEXITSTATUS(result) == 0 || WEXITSTATUS(result) == FAULT_DIED));
    return WEXITSTATUS(result) == FAULT_DIED;
}

static void test_killed_at_every_call(void **state)
{
    (void)state;
    char when[160];
    for (int i = 0; i < 8; i++) {
        const bool rubbish = i & 1;
        const fault_kind kind = i & 2 ? FAULT_DIE_AFTER : FAULT_DIE_BEFORE;
        int64_t n = 1;
        w.target = targets[i >> 2];
        for (bool died = true; died; n++) {
            lay_out(rubbish);
            died = save_in_child(kind, n);
            snprintf(when, sizeof when, "ended %s call %lld of saving %s%s", kind == FAULT_DIE_AFTER ? "after" : "before",
                     (long long)n, w.target, rubbish ? " beside rubbish" : "");
            check_newest(when);
            check_later_save(when);
        }
        assert_true(n > 20);
    }
}

/* ---- memory that runs out, files that cannot be read -------------------------------------------------------------- */

/* Each deed does one thing, gives back what it got, and leaves its result untouched where it fails. */
typedef qs_status deed(void);

static qs_status deed_save(void)
{
    return qs_trainer_save(w.trainer, in_run(w.target, "").text);
}

static qs_status deed_create(void)
{
    qs_trainer *trainer = NULL;
    const qs_status status = qs_trainer_create(w.context, &w.s.config, &w.s.options, w.text, &trainer);
    assert_true((status == QS_OK) == (trainer != NULL));
    qs_trainer_free(&trainer);
    return status;
}

/* The first steps find their scratch. */
static qs_status deed_steps(void)
{
    qs_step_info info;
    qs_trainer *trainer = NULL;
    qs_status status = qs_trainer_create(w.context, &w.s.config, &w.s.options, w.text, &trainer);
    for (int i = 0; i < 2 && status == QS_OK; i++)
        status = qs_trainer_step(trainer, &info);
    qs_trainer_free(&trainer);
    return status;
}

/* Ends with the run at step 7, as it was. */
static qs_status deed_load(void)
{
    const qs_status status = qs_trainer_load(w.trainer, w.seven.text);
    (void)fault_disarm();   /* hashing is a deed of its own */
    if (status == QS_OK)
        assert_true(hash_of(w.trainer) == w.hash);
    return status;
}

/* A new run from the weights of another. */
static qs_status deed_start(void)
{
    qs_trainer *trainer = NULL;
    qs_status status = qs_trainer_create(w.context, &w.s.config, &w.s.options, w.text, &trainer);
    if (status == QS_OK) {
        status = qs_trainer_start_from(trainer, w.six.text);
        assert_true((status == QS_OK) == (qs_trainer_from(trainer)[0] != '\0'));
    }
    qs_trainer_free(&trainer);
    return status;
}

static qs_status deed_open_run(void)
{
    qs_model *model = NULL;
    const qs_status status = qs_model_open(w.context, w.run.text, &model);
    assert_true((status == QS_OK) == (model != NULL));
    qs_model_free(&model);
    return status;
}

static qs_status deed_open_file(void)
{
    qs_model *model = NULL;
    const qs_status status = qs_model_open(w.context, in_run("step-00000006", "/model.safetensors").text, &model);
    assert_true((status == QS_OK) == (model != NULL));
    qs_model_free(&model);
    return status;
}

static qs_status deed_latest(void)
{
    char newest[1024] = "";
    const qs_status status = qs_checkpoint_latest(w.context, w.run.text, newest, sizeof newest, NULL, NULL);
    assert_true((status == QS_OK) == (newest[0] != '\0'));
    return status;
}

static qs_status deed_hash(void)
{
    uint64_t hash = 0;
    const qs_status status = qs_trainer_hash(w.trainer, &hash);
    assert_true(hash == (status == QS_OK ? w.hash : 0));
    return status;
}

static qs_status deed_text(void)
{
    const char *const paths[] = {w.six.text};
    qs_text *text = NULL;
    const qs_status status = qs_text_open(w.context, paths, 1, 0.1, NULL, NULL, &text);
    assert_true((status == QS_OK) == (text != NULL));
    qs_text_free(&text);
    return status;
}

static qs_status deed_evaluate(void)
{
    double nats = 0.0;
    return qs_model_evaluate(qs_trainer_model(w.trainer), w.text, 2, 1, &nats, NULL);
}

/* A session of its own, longer than the model's tables. */
static qs_status deed_session(void)
{
    static const int32_t prompt[] = {'t', 'h', 'e', ' '};
    qs_session *session = NULL;
    qs_model *model = NULL;
    float logits[256];
    qs_status status = qs_model_create(w.context, &w.s.config, 3, &model);
    if (status == QS_OK)
        status = qs_session_create(model, 40, &session);
    if (status == QS_OK)
        status = qs_session_eval(session, prompt, 4, logits);
    qs_session_free(&session);
    qs_model_free(&model);
    return status;
}

static qs_status deed_context(void)
{
    qs_context *context = NULL;
    const qs_status status = qs_open(&context, NULL);
    assert_true((status == QS_OK) == (context != NULL));
    qs_close(&context);
    return status;
}

static qs_status fetch_zeros(void *user, int64_t index, void *bytes, int64_t n_bytes)
{
    (void)user;
    (void)index;
    memset(bytes, 0, (size_t)n_bytes);
    return QS_OK;
}

/* A model that never was in memory. */
static qs_status deed_new(void)
{
    const qs_status status = qs_model_write_new(w.context, &w.s.config, 3, in_run("new", "").text, NULL, NULL);
    (void)fault_disarm();
    assert_true((status == QS_OK) == qsi_path_exists(in_run("new", "").text) && !qsi_path_exists(in_run("new", ".tmp").text));
    ok(qsi_remove_tree(in_run("new", "").text));
    return status;
}

/* What converters call, with a manifest as text. */
static qs_status deed_write(void)
{
    static const qs_saved_tensor tensors[] = {{"model.embed_tokens.weight", QS_F32, 2, {4, 32, 0}, 0, 0}};
    return qs_checkpoint_write(w.context, in_run("converted", "").text, tensors, 1, fetch_zeros, NULL,
                               "{\"config\": {\"model\": {\"layers\": [1, 2.5, \"three\"]}}, \"step\": 1}");
}

static const struct {
    const char *name;
    deed *run;
    bool reads;      /* files */
    bool parses;     /* JSON */
} deeds[] = {
    {"save", deed_save, false, false},         {"create", deed_create, false, false},
    {"steps", deed_steps, false, false},       {"load", deed_load, true, true},
    {"open a run", deed_open_run, true, true}, {"open a file", deed_open_file, true, true},
    {"latest", deed_latest, true, true},       {"hash", deed_hash, false, false},
    {"text", deed_text, true, false},          {"evaluate", deed_evaluate, false, false},
    {"session", deed_session, false, false},   {"context", deed_context, false, false},
    {"write", deed_write, false, true},        {"start", deed_start, true, true},
    {"new", deed_new, false, false},
};
enum { DEEDS = (int)(sizeof deeds / sizeof *deeds) };

static uint64_t bytes_in_use(void)
{
    qs_memory_usage usage;
    qs_memory(w.context, QS_MEMORY_TAGS, &usage);
    return usage.current_bytes;
}

/* Runs a deed with call n failing; true if it met that call. */
static bool try_deed(int i, int calls, int error, int64_t n, bool lasting, qs_status *status, char when[160])
{
    const uint64_t bytes = bytes_in_use();
    const int64_t blocks = json_blocks;
    snprintf(when, 160, "%s, %s %lld%s fails", deeds[i].name, calls == CALLS_MEMORY ? "allocation" : "read", (long long)n,
             lasting ? " and all that follow" : "");
    qsi_fail_text("nothing was told");
    fault_arm(calls, FAULT_ERROR, error, n, lasting);
    *status = deeds[i].run();
    const bool struck = fault_disarm();
    if (bytes_in_use() != bytes || json_blocks != blocks)
        fail_msg("%s: %lld bytes and %lld blocks of JSON are lost", when, (long long)(bytes_in_use() - bytes),
                 (long long)(json_blocks - blocks));
    return struck;
}

static void test_no_memory(void **state)
{
    (void)state;
    char when[160];
    qs_status status = QS_OK;
    w.target = targets[0];
    for (int i = 0; i < 2 * DEEDS; i++) {
        const int d = i / 2;
        lay_out(false);
        ok(deeds[d].run());
        lay_out(false);
        /* reading JSON takes thousands of allocations; from the first on that fails for good they are all alike */
        const int64_t stride = deeds[d].parses && i & 1 ? 7 : 1;
        for (int64_t n = 1; try_deed(d, CALLS_MEMORY, ENOMEM, n, i & 1, &status, when); n += stride) {
            check_told(when, status, false);
            check_untouched(when);
            if (qsi_path_exists(in_run(w.target, ".tmp").text) || qsi_path_exists(in_run("converted", ".tmp").text))
                fail_msg("%s: a .tmp folder is left", when);
        }
        if (status != QS_OK)
            fail_msg("%s: %s (%s)", deeds[d].name, qs_status_text(status), qs_last_error());
        ok(deed_load());   /* a failed load may leave half of it */
    }
    lay_out(false);
    check_later_save("after no memory");
}

/* A file that cannot be read is an input that is not there, or not whole; what can be read afterwards is as it was. */
static void test_failing_reads(void **state)
{
    (void)state;
    static const int errors[] = {EIO, EMFILE, ENOMEM};
    char when[160];
    qs_status status = QS_OK;
    for (int i = 0; i < 6 * DEEDS; i++) {
        const int d = i / 6;
        if (!deeds[d].reads)
            continue;
        lay_out(false);
        for (int64_t n = 1; try_deed(d, CALLS_READ, errors[i % 6 / 2], n, i & 1, &status, when); n++) {
            if (status == QS_OK && deeds[d].run == deed_text)
                continue;   /* files of a folder that cannot be read are counted as skipped */
            const bool no_memory = status == QS_ERR_NOMEM && errors[i % 6 / 2] == ENOMEM;
            if (status != QS_ERR_IO && status != QS_ERR_NOINPUT && status != QS_ERR_FORMAT && !no_memory)
                fail_msg("%s: %s (%s)", when, qs_status_text(status), qs_last_error());
            if (!strstr(qs_last_error(), test_folder))
                fail_msg("%s: \"%s\" does not name the file", when, qs_last_error());
        }
        ok(status);
        ok(deed_load());
    }
}

/* ---- */

static int make_world(void **state)
{
    if (make_test_folder(state) != 0)
        return -1;
    json_set_alloc_funcs(json_take, json_give);
    w.s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    w.s.config.layers = 1;
    w.s.config.tied = 1;
    w.run = path_of("run");
    w.six = path_of("six");
    w.seven = path_of("seven");
    w.context = open_context(1, NULL, NULL);
    w.text = prose_text(w.context, 2000, 0.1);
    w.trainer = make_trainer(w.context, &w.s, w.text);
    train_to(w.trainer, 6);
    ok(qs_trainer_save(w.trainer, w.six.text));
    train_to(w.trainer, 7);
    w.hash = hash_of(w.trainer);
    ok(qs_trainer_save(w.trainer, w.seven.text));
    return same_checkpoint(w.six.text, w.seven.text) ? -1 : 0;
}

static int drop_world(void **state)
{
    qs_trainer_free(&w.trainer);
    qs_text_free(&w.text);
    qs_close(&w.context);
    if (json_blocks != 0)
        fail_msg("%lld blocks of JSON are lost", (long long)json_blocks);
    return drop_test_folder(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_save_on_failing_disks), cmocka_unit_test(test_killed_at_every_call),
        cmocka_unit_test(test_no_memory),             cmocka_unit_test(test_failing_reads),
    };
    return cmocka_run_group_tests(tests, make_world, drop_world);
}
