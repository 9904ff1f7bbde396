/* test_merge.c - rows replaced in a model file in place: the bytes and checksums that come of it, everything that is refused, a
 * process that ends and a disk that fails at every single call, and journals that nobody should believe.
 *
 * Whatever happens, the model is as before or as after once it is opened again, and its checksums hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include <sys/file.h>
#include <sys/wait.h>
#include "core/in_place.h"
#include "core/internal.h"
#include "fault_calls.h"
#include "io/merge.h"

enum { PATH = 512, MAX_FILE = 1 << 17, ALL = CALLS_FILL | CALLS_CHANGE | CALLS_READ, FILES = 3 };
static const char *const file_names[FILES] = {"model.safetensors", "state.safetensors", "manifest.json"};

/* ---- the model before and after ---------------------------------------------------------------------------------- */

static const qs_saved_tensor tensors[] = {
    {"model.embed_tokens.weight", QS_F32, 2, {5, 32, 0}, 0, 0},
    {"model.layers.0.self_attn.q_proj.weight", QS_W1, 2, {33, 1, 0}, 0, 1},
    {"model.layers.0.self_attn.q_proj.weight_scale", QS_F16, 1, {33, 0, 0}, 0, 1},
    {"model.layers.1.self_attn.q_proj.weight", QS_W1, 2, {1024, 3, 0}, 0, 2},
    {"model.norm.weight", QS_F32, 1, {32, 0, 0}, 0, 3},
};
enum { TENSORS = sizeof tensors / sizeof *tensors };
static const char manifest[] = "{\"step\": 3, \"config\": {\"model\": {\"layers\": 2, \"norm_eps\": 1e-5}}, \"seed\": 7}";

/* Not in the order of the file; two in one slab, one at the very end, slab 0 as it is. */
static const qsi_patch patches[] = {
    {"model.norm.weight", 30, 2},
    {"model.layers.1.self_attn.q_proj.weight", 1000, 24},
    {"model.layers.0.self_attn.q_proj.weight", 0, 33},
    {"model.layers.1.self_attn.q_proj.weight", 7, 1},
    {"model.layers.0.self_attn.q_proj.weight_scale", 3, 5},
};
enum { PATCHES = sizeof patches / sizeof *patches };

static struct world {
    char root[PATH], model[PATH], before[PATH], after[PATH];
} w;

static void value_of(int64_t tensor, int64_t at, bool later, uint8_t *out)
{
    *out = (uint8_t)(tensor * 37 + at * 11 + (at >> 8) + (later ? 101 : 0));
}

static int64_t bytes_of(int64_t t)
{
    return tensors[t].shape[0] * (tensors[t].rank == 2 ? tensors[t].shape[1] : 1) * (tensors[t].format == QS_F16 ? 2 : 4);
}

static int64_t tensor_of(const qsi_patch *p)
{
    for (int64_t t = 0; t < TENSORS; t++)
        if (strcmp(tensors[t].name, p->name) == 0)
            return t;
    fail_msg("no tensor %s", p->name);
    return -1;
}

/* Bytes of rows first .. of a tensor as they are later, or of all of it, with the patches laid over it where `later`. */
static qs_status fetch_tensor(void *user, int64_t t, void *bytes, int64_t n)
{
    const bool later = *(const bool *)user;
    uint8_t *out = bytes;
    for (int64_t i = 0; i < n; i++)
        value_of(t, i, false, &out[i]);
    for (int p = 0; p < PATCHES && later; p++) {
        if (tensor_of(&patches[p]) != t)
            continue;
        const int64_t row = bytes_of(t) / tensors[t].shape[0];
        for (int64_t i = patches[p].first_row * row; i < (patches[p].first_row + patches[p].rows) * row; i++)
            value_of(t, i, true, &out[i]);
    }
    return QS_OK;
}

typedef struct source {
    int64_t fail_at;
    int64_t seen;
} source;

static qs_status fetch_patch(void *user, int64_t index, void *bytes, int64_t n)
{
    source *s = user;
    const int64_t t = tensor_of(&patches[index]), row = bytes_of(t) / tensors[t].shape[0];
    uint8_t *out = bytes;
    assert_int_equal(n, patches[index].rows * row);
    if (s != NULL && s->seen++ == s->fail_at) {
        qsi_fail_text("the device is gone");
        return QS_ERR_DEVICE;
    }
    for (int64_t i = 0; i < n; i++)
        value_of(t, patches[index].first_row * row + i, true, &out[i]);
    return QS_OK;
}

static json_t *fields_of(int step)
{
    return json_pack("{s:i, s:i}", "step", step, "tokens", 4096);
}

static void write_model(const char *folder, bool later)
{
    const char *text = later ? "{\"step\": 9, \"tokens\": 4096, \"config\": {\"model\": {\"layers\": 2, \"norm_eps\": 1e-5}}, \"seed\": 7}"
                             : manifest;
    assert_int_equal(qs_checkpoint_write(NULL, folder, tensors, TENSORS, fetch_tensor, &later, text), QS_OK);
}

static qs_status merge_into(const char *folder, source *s)
{
    json_t *fields = fields_of(9);
    const qs_status status = qsi_model_merge(NULL, folder, patches, PATCHES, fetch_patch, s, fields);
    json_decref(fields);
    return status;
}

/* ---- files -------------------------------------------------------------------------------------------------------- */

static const char *in(const char *folder, const char *name)
{
    static char paths[4][PATH];
    static int turn;
    turn = (turn + 1) % 4;
    const int n = snprintf(paths[turn], PATH, "%s/%s", folder, name);
    assert_true(n > 0 && n < PATH);
    return paths[turn];
}

static size_t get(const char *path, uint8_t out[MAX_FILE])
{
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        return 0;
    const size_t n = fread(out, 1, MAX_FILE, f);
    assert_true(n < MAX_FILE);
    fclose(f);
    return n;
}

static void put(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static bool same(const char *a, const char *b)
{
    static uint8_t x[MAX_FILE], y[MAX_FILE];
    for (int f = 0; f < FILES; f++) {
        const size_t n = get(in(a, file_names[f]), x), m = get(in(b, file_names[f]), y);
        if (n != m || memcmp(x, y, n) != 0)
            return false;
    }
    return true;
}

static void copy(const char *from, const char *to)
{
    static uint8_t x[MAX_FILE];
    assert_int_equal(qsi_remove_tree(to), QS_OK);
    assert_int_equal(mkdir(to, 0777), 0);
    for (int f = 0; f < FILES; f++) {
        const size_t n = get(in(from, file_names[f]), x);
        put(in(to, file_names[f]), x, n);
    }
}

/* Opens as any reader does; every checksum holds. */
static qs_status verify(const char *folder)
{
    qs_checkpoint *c = NULL;
    qs_status status = qs_checkpoint_open(NULL, folder, &c);
    if (status == QS_OK)
        status = qs_checkpoint_verify(c);
    qs_checkpoint_close(&c);
    return status;
}

static void expect(qs_status got, qs_status wanted, const char *text)
{
    if (got != wanted || strstr(qs_last_error(), text) == NULL)
        fail_msg("status %d, wanted %d with '%s': %s", (int)got, (int)wanted, text, qs_last_error());
}

static bool journal_left(void) { return qsi_path_exists(in(w.model, QSI_JOURNAL_NAME)); }

/* The files of a checkpoint and nothing else. */
static void check_clean(const char *when)
{
    char **names = NULL;
    int64_t count = 0;
    assert_int_equal(qsi_list_directory(w.model, &names, &count), QS_OK);
    if (count != FILES)
        fail_msg("%s: %s and %lld more are in the folder", when, names[0], (long long)count - 1);
    qsi_free_names(names, count);
}

static int make_world(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(w.root, sizeof w.root, "%s/qsbits-merge-XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(w.root) == NULL)
        return -1;
    strcpy(w.model, in(w.root, "model"));
    strcpy(w.before, in(w.root, "before"));
    strcpy(w.after, in(w.root, "after"));
    write_model(w.before, false);
    write_model(w.after, true);
    return 0;
}

static int drop_world(void **state)
{
    (void)state;
    return qsi_remove_tree(w.root) == QS_OK ? 0 : -1;
}

/* ---- merging ------------------------------------------------------------------------------------------------------ */

static void test_merge(void **state)
{
    (void)state;
    copy(w.before, w.model);
    assert_int_equal(merge_into(w.model, NULL), QS_OK);
    assert_true(same(w.model, w.after));
    check_clean("after a merge");
    assert_int_equal(verify(w.model), QS_OK);
    assert_int_equal(merge_into(w.model, NULL), QS_OK);   /* the same rows again are the same model */
    assert_true(same(w.model, w.after));
    assert_int_equal(qsi_model_merge(NULL, w.model, patches, 1, fetch_patch, NULL, NULL), QS_OK);
    assert_true(same(w.model, w.after));
    check_clean("after merges");
}

static void test_refused(void **state)
{
    (void)state;
    static const struct { qsi_patch patch; const char *text; } bad[] = {
        {{"model.layers.2.self_attn.q_proj.weight", 0, 1}, "there is no tensor"},
        {{"pad.0", 0, 1}, "there is no tensor"},
        {{"model.norm.weight", 0, 33}, "which has 32"},
        {{"model.norm.weight", -1, 1}, "which has 32"},
        {{"model.norm.weight", 32, 1}, "which has 32"},
        {{"model.norm.weight", 3, 0}, "which has 32"},
        {{"model.norm.weight", INT64_MAX, 2}, "which has 32"},
        {{"model.layers.0.self_attn.q_proj.weight", 33, 1}, "which has 33"},
    };
    static const qsi_patch twice[] = {{"model.norm.weight", 0, 4}, {"model.norm.weight", 3, 1}};
    static const char *const fields[] = {"config", "files", "format_version", "kind", "manifest_xxh3_128"};
    copy(w.before, w.model);
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++)
        expect(qsi_model_merge(NULL, w.model, &bad[k].patch, 1, fetch_patch, NULL, NULL), QS_ERR_ARG, bad[k].text);
    expect(qsi_model_merge(NULL, w.model, twice, 2, fetch_patch, NULL, NULL), QS_ERR_ARG, "same rows");
    expect(qsi_model_merge(NULL, w.model, patches, 0, fetch_patch, NULL, NULL), QS_ERR_ARG, "0 patches");
    for (size_t k = 0; k < sizeof fields / sizeof *fields; k++) {
        json_t *object = json_pack("{s:i}", fields[k], 1);
        expect(qsi_model_merge(NULL, w.model, patches, PATCHES, fetch_patch, NULL, object), QS_ERR_ARG, fields[k]);
        json_decref(object);
    }
    json_t *step = json_pack("{s:i}", "step", -1);
    expect(qsi_model_merge(NULL, w.model, patches, PATCHES, fetch_patch, NULL, step), QS_ERR_ARG, "step");
    json_decref(step);
    expect(qsi_model_merge(NULL, in(w.root, "nothing"), patches, PATCHES, fetch_patch, NULL, NULL), QS_ERR_NOINPUT, "nothing");
    for (int64_t k = 0; k < PATCHES; k++) {
        source s = {k, 0};
        expect(merge_into(w.model, &s), QS_ERR_DEVICE, "gone");
    }
    assert_true(same(w.model, w.before));
    check_clean("after refusals");
}

/* Damage is not signed anew, wherever in a slab it is; a changed header or length is noticed. */
static void test_damaged_model(void **state)
{
    (void)state;
    static uint8_t bytes[MAX_FILE];
    copy(w.before, w.model);
    const char *path = in(w.model, file_names[0]);
    const size_t n = get(path, bytes);
    for (size_t at = 8192; at < n; at += 611) {
        bytes[at] ^= 4;
        put(path, bytes, n);
        expect(merge_into(w.model, NULL), QS_ERR_CORRUPT, "slab");
        bytes[at] ^= 4;
    }
    put(path, bytes, n - 1);
    expect(merge_into(w.model, NULL), QS_ERR_CORRUPT, "truncated");
    bytes[100] ^= 1;
    put(path, bytes, n);
    expect(merge_into(w.model, NULL), QS_ERR_CORRUPT, "header");
    bytes[100] ^= 1;
    put(path, bytes, n);
    assert_true(same(w.model, w.before));
    check_clean("after damage");
}

/* Levels and masters in a state file would no longer fit. */
static void test_state_file(void **state)
{
    (void)state;
    static const qs_saved_tensor with_state[] = {{"model.norm.weight", QS_F32, 1, {32, 0, 0}, 0, 0},
                                                 {"model.norm.weight.adam_m", QS_F32, 1, {32, 0, 0}, 1, 0}};
    const bool later = false;
    const char *folder = in(w.root, "trained");
    assert_int_equal(qs_checkpoint_write(NULL, folder, with_state, 2, fetch_tensor, (void *)(uintptr_t)&later, manifest), QS_OK);
    expect(qsi_model_merge(NULL, folder, patches, 1, fetch_patch, NULL, NULL), QS_ERR_UNSUPPORTED, "training state");
}

/* ---- ends and failures at every call ------------------------------------------------------------------------------ */

static bool merge_in_child(fault_kind kind, int64_t n)
{
    int result = 0;
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        fault_arm(ALL, kind, 0, n, false);
        _exit(merge_into(w.model, NULL) == QS_OK ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result) && (WEXITSTATUS(result) == 0 || WEXITSTATUS(result) == FAULT_DIED));
    return WEXITSTATUS(result) == FAULT_DIED;
}

/* Readers find the model before or after, and nothing of the merge stays but perhaps an unfinished journal that the next merge
 * clears away. True: after. */
static bool check_settled(const char *when)
{
    if (verify(w.model) != QS_OK)
        fail_msg("%s: %s", when, qs_last_error());
    const bool after = same(w.model, w.after);
    if (!after && !same(w.model, w.before))
        fail_msg("%s: the model is neither as before nor as after", when);
    if (journal_left())
        fail_msg("%s: the journal is still there", when);
    if (merge_into(w.model, NULL) != QS_OK || !same(w.model, w.after))
        fail_msg("%s: the next merge does not go through (%s)", when, qs_last_error());
    check_clean(when);
    return after;
}

static void test_killed_at_every_call(void **state)
{
    (void)state;
    char when[96];
    for (int kind = FAULT_DIE_BEFORE; kind <= FAULT_DIE_AFTER; kind++) {
        int64_t n = 1, afters = 0, changes = 0;
        bool last = false;
        for (bool died = true; died; n++) {
            copy(w.before, w.model);
            died = merge_in_child((fault_kind)kind, n);
            snprintf(when, sizeof when, "ended %s call %lld", kind == FAULT_DIE_AFTER ? "after" : "before", (long long)n);
            const bool after = check_settled(when);
            afters += after;
            changes += after != last;
            last = after;
        }
        assert_true(n > 40);
        assert_true(afters > 5 && n - afters > 20);
        assert_int_equal(changes, 1);   /* one call decides */
    }
}

/* The recovery itself ends at every call, and the one after it as well. */
static void test_killed_while_recovering(void **state)
{
    (void)state;
    static uint8_t journal[MAX_FILE];
    char when[96];
    size_t bytes = 0;
    for (int64_t n = 1; bytes == 0; n++) {   /* a journal that has just got its name */
        copy(w.before, w.model);
        assert_true(merge_in_child(FAULT_DIE_BEFORE, n));
        bytes = journal_left() ? get(in(w.model, QSI_JOURNAL_NAME), journal) : 0;
    }
    for (int kind = FAULT_DIE_BEFORE; kind <= FAULT_DIE_AFTER; kind++) {
        int64_t n = 1;
        for (bool died = true; died; n++) {
            int result = 0;
            copy(w.before, w.model);
            put(in(w.model, QSI_JOURNAL_NAME), journal, bytes);
            fflush(NULL);
            const pid_t child = fork();
            if (child == 0) {
                fault_arm(ALL, (fault_kind)kind, 0, n, false);
                _exit(verify(w.model) == QS_OK ? 0 : 1);
            }
            assert_int_equal(waitpid(child, &result, 0), child);
            died = WEXITSTATUS(result) == FAULT_DIED;
            assert_true(WIFEXITED(result) && (died || WEXITSTATUS(result) == 0));
            snprintf(when, sizeof when, "recovery ended at call %lld", (long long)n);
            assert_true(check_settled(when));
        }
        assert_true(n > 20);
    }
}

static void test_failing_disks(void **state)
{
    (void)state;
    static const struct { int calls, error; fault_kind kind; bool lasting; } disks[] = {
        {CALLS_FILL, ENOSPC, FAULT_ERROR, false}, {CALLS_FILL, ENOSPC, FAULT_ERROR, true},  {ALL, EIO, FAULT_ERROR, false},
        {ALL, EIO, FAULT_ERROR, true},            {ALL, EINTR, FAULT_ERROR, false},         {ALL, 0, FAULT_SHORT, false},
        {ALL, 0, FAULT_SHORT, true},
    };
    char when[96];
    for (size_t d = 0; d < sizeof disks / sizeof *disks; d++) {
        int64_t n = 1;
        for (bool struck = true; struck; n++) {
            copy(w.before, w.model);
            snprintf(when, sizeof when, "disk %zu at call %lld", d, (long long)n);
            qsi_fail_text("nothing was told");
            fault_arm(disks[d].calls, disks[d].kind, disks[d].error, n, disks[d].lasting);
            const qs_status status = merge_into(w.model, NULL);
            struck = fault_disarm();
            if (status != QS_OK && (!struck || disks[d].kind == FAULT_SHORT))
                fail_msg("%s: %d %s", when, (int)status, qs_last_error());
            if (status != QS_OK && strstr(qs_last_error(), w.root) == NULL)
                fail_msg("%s: \"%s\" names no file", when, qs_last_error());
            if (status == QS_OK && !same(w.model, w.after))
                fail_msg("%s: it passes with other bytes", when);
            if (status != QS_OK && !disks[d].lasting && qsi_path_exists(in(w.model, QSI_JOURNAL_NAME ".tmp")))
                fail_msg("%s: %s.tmp is left", when, QSI_JOURNAL_NAME);
            const bool told = status != QS_OK && journal_left();
            if (told && strstr(qs_last_error(), "finished when the model is opened") == NULL && !disks[d].lasting)
                fail_msg("%s: \"%s\" does not say what becomes of the merge", when, qs_last_error());
            check_settled(when);
        }
        assert_true(n > 30);
    }
}

static void test_no_memory(void **state)
{
    (void)state;
    char when[96];
    int64_t n = 1;
    json_set_alloc_funcs(json_take, json_give);
    for (bool struck = true; struck; n++) {
        copy(w.before, w.model);
        json_t *fields = fields_of(9);
        fault_arm(CALLS_MEMORY, FAULT_ERROR, ENOMEM, n, false);
        const qs_status status = qsi_model_merge(NULL, w.model, patches, PATCHES, fetch_patch, NULL, fields);
        struck = fault_disarm();
        json_decref(fields);
        snprintf(when, sizeof when, "memory ends at allocation %lld", (long long)n);
        if (status != QS_OK && (!struck || status != QS_ERR_NOMEM))
            fail_msg("%s: %d %s", when, (int)status, qs_last_error());
        if (json_blocks != 0)
            fail_msg("%s: %lld blocks of JSON are left", when, (long long)json_blocks);
        check_settled(when);
    }
    assert_true(n > 50);
}

/* ---- journals ----------------------------------------------------------------------------------------------------- */

/* A whole journal of the merge, for a model as before. */
static size_t make_journal(uint8_t out[MAX_FILE])
{
    size_t bytes = 0;
    for (int64_t n = 1; bytes == 0; n++) {
        copy(w.before, w.model);
        assert_true(merge_in_child(FAULT_DIE_BEFORE, n));
        bytes = journal_left() ? get(in(w.model, QSI_JOURNAL_NAME), out) : 0;
    }
    return bytes;
}

static void seal(uint8_t *journal, size_t bytes)
{
    XXH128_canonical_t sum;
    XXH128_canonicalFromHash(&sum, XXH3_128bits(journal, bytes - 16));
    memcpy(journal + bytes - 16, sum.digest, 16);
}

static void plant(const uint8_t *journal, size_t bytes)
{
    copy(w.before, w.model);
    put(in(w.model, QSI_JOURNAL_NAME), journal, bytes);
}

static void test_journal(void **state)
{
    (void)state;
    static uint8_t journal[MAX_FILE];
    bool recovered = false;
    const size_t bytes = make_journal(journal);
    assert_memory_equal(journal, "qsbmerge\1\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0", 24);   /* docs/format.md, section 4 */
    plant(journal, bytes);
    assert_int_equal(qsi_model_recover(NULL, w.model, &recovered), QS_OK);
    assert_true(recovered && same(w.model, w.after));
    check_clean("recovered");
    assert_int_equal(qsi_model_recover(NULL, w.model, &recovered), QS_OK);
    assert_false(recovered);
    plant(journal, bytes);                                                        /* through the model file alone */
    qs_checkpoint *c = NULL;
    assert_int_equal(qs_checkpoint_open(NULL, in(w.model, file_names[0]), &c), QS_OK);
    qs_checkpoint_close(&c);
    assert_true(same(w.model, w.after));
    plant(journal, bytes);                                                        /* the manifest was the last that happened */
    copy(w.after, w.model);
    put(in(w.model, QSI_JOURNAL_NAME), journal, bytes);
    assert_int_equal(verify(w.model), QS_OK);
    assert_true(same(w.model, w.after));
    check_clean("recovered again");
    copy(w.before, w.model);                                                      /* .tmp decides nothing */
    put(in(w.model, QSI_JOURNAL_NAME ".tmp"), journal, bytes);
    assert_int_equal(verify(w.model), QS_OK);
    assert_true(same(w.model, w.before));
    assert_int_equal(qsi_model_recover(NULL, w.model, &recovered), QS_OK);
    assert_true(!recovered && same(w.model, w.before));
    check_clean("without .tmp");
}

/* Cut off or changed anywhere it is none, and the model is as before. */
static void test_journal_damaged(void **state)
{
    (void)state;
    static uint8_t journal[MAX_FILE], noise[4096];
    const size_t bytes = make_journal(journal);
    for (size_t n = 0; n < bytes; n += n < 200 || n > bytes - 40 ? 1 : 37) {
        plant(journal, n);
        assert_int_equal(verify(w.model), QS_OK);
        assert_true(same(w.model, w.before));
        check_clean("a journal cut off");
    }
    for (size_t at = 0; at < bytes; at += 13) {
        journal[at] ^= (uint8_t)(1 << at % 8);
        plant(journal, bytes);
        journal[at] ^= (uint8_t)(1 << at % 8);
        assert_int_equal(verify(w.model), QS_OK);
        assert_true(same(w.model, w.before));
    }
    uint32_t draw = 1;
    for (int k = 0; k < 50; k++) {
        for (size_t i = 0; i < sizeof noise; i++)
            noise[i] = (uint8_t)((draw = draw * 1664525u + 1013904223u) >> 24);
        plant(noise, (size_t)(k * 80));
        assert_int_equal(verify(w.model), QS_OK);
        assert_true(same(w.model, w.before));
    }
}

/* With a checksum that holds nothing else must be believed either. */
static void test_journal_hostile(void **state)
{
    (void)state;
    static uint8_t good[MAX_FILE], bad[MAX_FILE + 64];
    static const uint64_t values[] = {0, 1, 2, 4, 6, 4095, 4096, 100000, UINT64_C(1) << 32, UINT64_C(1) << 59, UINT64_C(1) << 60,
                                      UINT64_C(1) << 63, UINT64_MAX, UINT64_MAX - 15};
    const size_t bytes = make_journal(good);
    int believed = 0, refused = 0;
    for (size_t at = 0; at < 48 + 5 * 16; at += 8) {
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            memcpy(bad, good, bytes);
            for (int i = 0; i < 8; i++)
                bad[at + (size_t)i] = (uint8_t)(values[v] >> 8 * i);
            seal(bad, bytes);
            plant(bad, bytes);
            const qs_status status = verify(w.model);
            believed += status == QS_OK;
            refused += status == QS_ERR_FORMAT || status == QS_ERR_VERSION;
            if (status == QS_OK ? !same(w.model, w.after) : !same(w.model, w.before) && at < 48)
                fail_msg("number at %zu = %llx: %d %s", at, (unsigned long long)values[v], (int)status, qs_last_error());
            if (status != QS_OK && status != QS_ERR_CORRUPT && !journal_left())
                fail_msg("number at %zu = %llx: refused, but dropped", at, (unsigned long long)values[v]);
        }
    }
    assert_true(refused > 100 && believed > 0);   /* believed: where the number was that already */
    memcpy(bad, good, bytes);
    memset(bad + bytes - 16, ' ', 64);            /* white space behind the manifest breaks its seal */
    seal(bad, bytes + 48);
    plant(bad, bytes + 48);
    expect(verify(w.model), QS_ERR_CORRUPT, "merge.journal");
    assert_true(same(w.model, w.before));
    memset(bad, 0, sizeof bad);
    seal(bad, 64);
    plant(bad, 64);
    expect(verify(w.model), QS_ERR_FORMAT, "no journal of qsbits");
    copy(w.after, w.model);                       /* a journal of another state of the model */
    json_t *fields = fields_of(12);
    assert_int_equal(qsi_model_merge(NULL, w.model, patches, 1, fetch_patch, NULL, fields), QS_OK);
    json_decref(fields);
    put(in(w.model, QSI_JOURNAL_NAME), good, bytes);
    expect(verify(w.model), QS_ERR_FORMAT, "was made for the manifest");
}

/* ---- the lock ----------------------------------------------------------------------------------------------------- */

static void test_lock(void **state)
{
    (void)state;
    static uint8_t journal[MAX_FILE];
    const size_t bytes = make_journal(journal);
    int lock = -1, second = -1;
    plant(journal, bytes);
    assert_int_equal(qsi_lock_take(w.model, &lock), QS_OK);
    expect(qsi_lock_take(w.model, &second), QS_ERR_CREATE, "is being trained by another process");
    assert_non_null(strstr(qs_last_error(), w.model));
    expect(verify(w.model), QS_ERR_IO, "rows are being merged into");
    assert_true(journal_left());
    qsi_lock_release(&lock);
    assert_int_equal(lock, -1);
    qsi_lock_release(&lock);
    assert_int_equal(verify(w.model), QS_OK);
    assert_true(same(w.model, w.after));
    assert_int_equal(qsi_lock_take(w.model, &lock), QS_OK);   /* who opened it has let go */
    qsi_lock_release(&lock);
    expect(qsi_lock_take(in(w.root, "nothing"), &lock), QS_ERR_NOINPUT, "nothing");
    expect(qsi_lock_take(in(w.model, file_names[0]), &lock), QS_ERR_NOINPUT, file_names[0]);
    plant(journal, bytes);                                    /* a folder that cannot be written */
    fault_arm(CALLS_CHANGE | CALLS_FILL, FAULT_ERROR, EROFS, 1, true);
    const qs_status status = verify(w.model);
    (void)fault_disarm();
    expect(status, QS_ERR_IO, "cut off while rows were merged");
    assert_non_null(strstr(qs_last_error(), "open it where it can be written"));
    check_settled("writable again");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merge),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_damaged_model),
        cmocka_unit_test(test_state_file),
        cmocka_unit_test(test_killed_at_every_call),
        cmocka_unit_test(test_killed_while_recovering),
        cmocka_unit_test(test_failing_disks),
        cmocka_unit_test(test_journal),
        cmocka_unit_test(test_journal_damaged),
        cmocka_unit_test(test_journal_hostile),
        cmocka_unit_test(test_lock),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, make_world, drop_world);
}
