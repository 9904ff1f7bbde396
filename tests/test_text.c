/* test_text.c - texts in files: what is read and what is left out, the same figures as in memory, files that change, few
 * open files and little memory; the order of training windows. */
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include "training_case.h"

/* ---- windows of a text ------------------------------------------------------------------------------------------- */

/* One whole epoch: every window once, at one offset, all inside the training part. Returns the number of windows. */
static int64_t check_epoch(const qs_text *text, int64_t ctx, uint64_t seed, qs_cursor *cursor, int64_t *starts, int64_t most)
{
    qs_text_info info;
    const uint64_t epoch = cursor->epoch;
    int64_t n = 0;
    char *seen = calloc((size_t)most, 1);
    assert_non_null(seen);
    qs_text_get_info(text, &info);
    for (qs_cursor next = *cursor; ; *cursor = next) {
        int64_t start = -1;
        ok(qs_text_next_window(text, ctx, seed, &next, &start));
        if (next.epoch != epoch)
            break;
        assert_true(n < most);
        assert_int_equal(next.index, n + 1);
        assert_true(start >= 0 && start + ctx + 1 <= info.train_tokens);
        starts[n++] = start;
    }
    cursor->epoch = epoch + 1;
    cursor->index = 0;
    assert_true(n > 0);
    const int64_t offset = starts[0] % ctx;
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(starts[i] % ctx, offset);
        assert_int_equal(seen[starts[i] / ctx], 0);
        seen[starts[i] / ctx] = 1;
    }
    /* no window more would fit */
    assert_true(offset + (n + 1) * ctx + 1 > info.train_tokens);
    for (int64_t i = 0; i < n; i++)
        assert_int_equal(seen[i], 1);
    free(seen);
    return n;
}

static void test_windows(void **state)
{
    (void)state;
    enum { MOST = 4096 };
    static int64_t first[MOST], second[MOST], other[MOST];
    static const int64_t sizes[][2] = {{34, 16}, {36, 16}, {66, 16}, {1000, 16}, {4000, 7}, {4000, 1}, {6001, 100}};
    qs_context *context = open_context(1, NULL, NULL);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        qs_text *text = prose_text(context, sizes[i][0], 0.5);
        qs_cursor cursor = {0, 0}, again = {0, 0};
        const int64_t n = check_epoch(text, sizes[i][1], 1, &cursor, first, MOST);
        const int64_t m = check_epoch(text, sizes[i][1], 1, &cursor, second, MOST);
        const int64_t k = check_epoch(text, sizes[i][1], 2, &again, other, MOST);
        assert_true(m - n <= 1 && n - m <= 1 && k - n <= 1 && n - k <= 1);
        if (n > 20) {
            assert_memory_not_equal(first, second, 20 * sizeof *first);
            assert_memory_not_equal(first, other, 20 * sizeof *first);
            /* not the natural order either */
            int64_t ascending = 0;
            for (int64_t w = 1; w < n; w++)
                ascending += first[w] > first[w - 1];
            assert_true(ascending > n / 4 && ascending < 3 * n / 4);
        }
        qs_text_free(&text);
    }
    qs_close(&context);
}

/* A cursor is all that a resumed run needs. */
static void test_cursor(void **state)
{
    (void)state;
    enum { N = 200 };
    int64_t starts[N];
    qs_cursor cursors[N], cursor = {0, 0};
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = prose_text(context, 800, 0.25);
    for (int i = 0; i < N; i++) {
        cursors[i] = cursor;
        ok(qs_text_next_window(text, 20, 77, &cursor, &starts[i]));
    }
    assert_true(cursor.epoch > 4);
    for (int i = N - 1; i >= 0; i -= 7) {
        cursor = cursors[i];
        for (int j = i; j < N; j++) {
            int64_t start = -1;
            ok(qs_text_next_window(text, 20, 77, &cursor, &start));
            assert_int_equal(start, starts[j]);
        }
    }
    qs_text_free(&text);
    qs_close(&context);
}

static void test_windows_refused(void **state)
{
    (void)state;
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = prose_text(context, 40, 0.5), *none = NULL;
    qs_cursor cursor = {0, 0};
    int64_t start = -1;
    ok(qs_text_next_window(text, 19, 1, &cursor, &start));
    assert_int_equal(start, 0);
    cursor = (qs_cursor){3, 0};
    refuses(qs_text_next_window(text, 20, 1, &cursor, &start), QS_ERR_SHAPE, "needs 21");
    assert_int_equal(cursor.epoch, 3);
    refuses(qs_text_next_window(text, 0, 1, &cursor, &start), QS_ERR_SHAPE, "ctx 0");
    static const double shares[] = {0.0, -0.1, 1.01, NAN};
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++)
        refuses(qs_text_from_memory(context, "text", 4, shares[i], &none), QS_ERR_ARG, "validation share");
    refuses(qs_text_from_memory(context, "", 0, 0.1, &none), QS_ERR_FORMAT, "no text");
    assert_null(none);
    qs_text_free(&text);
    qs_close(&context);
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static void put_file(const char *name, const void *bytes, size_t n)
{
    const file_path path = path_of(name);
    FILE *file = fopen(path.text, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

static void put_folder(const char *name)
{
    assert_int_equal(mkdir(path_of(name).text, 0700), 0);
}

static qs_text *open_one(qs_context *context, const char *name, double share)
{
    const file_path path = path_of(name);
    const char *paths[] = {path.text};
    qs_text *text = NULL;
    ok(qs_text_open(context, paths, 1, share, NULL, NULL, &text));
    return text;
}

static void refuses_path(qs_context *context, const char *path, qs_status status, const char *part)
{
    qs_text *text = NULL;
    refuses(qs_text_open(context, &path, 1, 0.1, NULL, NULL, &text), status, part);
    assert_null(text);
}

/* n bytes without NUL that no pattern describes. */
static uint8_t *noise(int64_t n)
{
    uint8_t *bytes = malloc((size_t)n);
    uint64_t x = 9;
    assert_non_null(bytes);
    for (int64_t i = 0; i < n; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        bytes[i] = (uint8_t)(1 + (x >> 33) % 255);
    }
    return bytes;
}

typedef struct left_out {
    int count;
    char lines[16][400];
} left_out;

static void on_skip(void *user, const char *path, const char *reason)
{
    left_out *l = user;
    assert_true(l->count < 16);
    snprintf(l->lines[l->count++], sizeof l->lines[0], "%s: %s", path, reason);
}

static void expect_skip(const left_out *l, const char *name, const char *reason)
{
    char line[400];
    snprintf(line, sizeof line, "%s: %s", path_of(name).text, reason);
    for (int i = 0; i < l->count; i++)
        if (strcmp(l->lines[i], line) == 0)
            return;
    fail_msg("nobody was told \"%s\"", line);
}

static void put_socket(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const int s = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_true(s >= 0);
    const int n = snprintf(address.sun_path, sizeof address.sun_path, "%s", path_of(name).text);
    assert_true(n < (int)sizeof address.sun_path);
    assert_int_equal(bind(s, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(close(s), 0);
}

static void test_text_folder(void **state)
{
    (void)state;
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = NULL;
    qs_text_info info;
    uint8_t bytes[32];
    left_out l = {.count = 0};
    put_folder("text");
    put_folder("text/b");
    put_folder("text/.git");
    put_file("text/z.txt", "last", 4);
    put_file("text/a.txt", "first ", 6);
    put_file("text/b/inner", "second ", 7);
    put_file("text/binary", "x\0y", 3);
    put_file("text/.hidden", "never", 5);
    put_file("text/.git/config", "never", 5);
    put_file("text/empty", "", 0);
    put_socket("text/socket");
    assert_int_equal(symlink("..", path_of("text/b/loop").text), 0);
    assert_int_equal(symlink("nowhere", path_of("text/b/dead").text), 0);
    assert_int_equal(symlink("a.txt", path_of("text/y").text), 0);   /* a link to a file is read like a file */
    assert_int_equal(mkfifo(path_of("text/pipe").text, 0600), 0);
    const file_path folder = path_of("text"), single = path_of("text/z.txt");
    const char *paths[] = {single.text, folder.text};
    ok(qs_text_open(context, paths, 2, 0.25, on_skip, &l, &text));
    qs_text_get_info(text, &info);
    assert_int_equal(info.tokens, 27);
    ok(qs_text_read(text, 0, 27, bytes));
    assert_memory_equal(bytes, "lastfirst second first last", 27);
    assert_int_equal(info.val_tokens, 6);
    assert_int_equal(info.train_tokens, 21);
    assert_int_equal(info.files, 5);
    assert_int_equal(info.skipped, 8);
    assert_int_equal(l.count, 8);
    expect_skip(&l, "text/.hidden", "hidden");
    expect_skip(&l, "text/.git", "hidden");
    expect_skip(&l, "text/empty", "empty");
    expect_skip(&l, "text/binary", "has a NUL byte in its first 64 KiB");
    expect_skip(&l, "text/b/loop", "a link to a folder");
    expect_skip(&l, "text/b/dead", "No such file or directory");
    expect_skip(&l, "text/pipe", "not a regular file");
    expect_skip(&l, "text/socket", "not a regular file");
    qs_text_free(&text);
    qs_close(&context);
}

/* Without permission; the superuser reads everything. */
static void test_text_unreadable(void **state)
{
    (void)state;
    if (geteuid() == 0)
        skip();
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = NULL;
    left_out l = {.count = 0};
    put_folder("locked");
    put_folder("locked/folder");
    put_file("locked/a", "text", 4);
    put_file("locked/b", "text", 4);
    const file_path folder = path_of("locked"), file = path_of("locked/b"), inner = path_of("locked/folder");
    const char *path = folder.text;
    assert_int_equal(chmod(file.text, 0), 0);
    assert_int_equal(chmod(inner.text, 0), 0);
    ok(qs_text_open(context, &path, 1, 0.5, on_skip, &l, &text));
    assert_int_equal(l.count, 2);
    expect_skip(&l, "locked/b", "Permission denied");
    expect_skip(&l, "locked/folder", "Permission denied");
    qs_text_free(&text);
    refuses_path(context, file.text, QS_ERR_IO, "locked/b: Permission denied");
    refuses_path(context, inner.text, QS_ERR_IO, "locked/folder: Permission denied");
    assert_int_equal(chmod(inner.text, 0700), 0);
    qs_close(&context);
}

static void test_text_refused(void **state)
{
    (void)state;
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = NULL;
    put_folder("refused");
    put_folder("refused/inner");
    put_file("refused/empty", "", 0);
    put_file("refused/binary", "\0", 1);
    assert_int_equal(mkfifo(path_of("refused/pipe").text, 0600), 0);
    const char *none[] = {NULL};
    refuses(qs_text_open(context, none, 0, 0.1, NULL, NULL, &text), QS_ERR_ARG, "at least one path");
    refuses_path(context, path_of("refused/none").text, QS_ERR_NOINPUT, "refused/none: No such file");
    refuses_path(context, path_of("refused/empty/x").text, QS_ERR_NOINPUT, "refused/empty/x: Not a directory");
    refuses_path(context, path_of("refused/empty").text, QS_ERR_FORMAT, "refused/empty holds no text");
    refuses_path(context, path_of("refused/inner").text, QS_ERR_FORMAT, "refused/inner holds no text");
    refuses_path(context, path_of("refused").text, QS_ERR_FORMAT, "refused holds no text (left out: 3)");
    refuses_path(context, path_of("refused/pipe").text, QS_ERR_NOINPUT, "refused/pipe: not a regular file");
    refuses_path(context, "/dev/zero", QS_ERR_NOINPUT, "/dev/zero: not a regular file");
    text = open_one(context, "refused/binary", 1.0);   /* a file named itself is taken whatever it holds */
    uint8_t byte = 1;
    ok(qs_text_read(text, 0, 1, &byte));
    assert_int_equal(byte, 0);
    ok(qs_text_read(text, 1, 0, &byte));
    refuses(qs_text_read(text, 1, 1, &byte), QS_ERR_ARG, "text of 1");
    refuses(qs_text_read(text, 0, -1, &byte), QS_ERR_ARG, "text of 1");
    refuses(qs_text_read(text, -1, 1, &byte), QS_ERR_ARG, "text of 1");
    refuses(qs_text_read(text, INT64_MAX, INT64_MAX, &byte), QS_ERR_ARG, "text of 1");
    qs_text_free(&text);
    qs_close(&context);
}

static void assert_same_info(const qs_text_info *a, const qs_text_info *b)
{
    assert_int_equal(a->tokens, b->tokens);
    assert_int_equal(a->train_tokens, b->train_tokens);
    assert_string_equal(a->hash, b->hash);
    assert_memory_equal(&a->entropy0, &b->entropy0, sizeof a->entropy0);
    assert_memory_equal(&a->entropy1, &b->entropy1, sizeof a->entropy1);
}

/* Figures and tokens of a text in files are those of the same bytes in memory, wherever files begin and pieces end. */
static void test_text_streams(void **state)
{
    (void)state;
    enum { N = 3 * (1 << 20) + 77, PARTS = 5 };
    static const int64_t ends[PARTS] = {1, 1 << 20, (1 << 20) + 1, 3 * (1 << 20) + 1, N};
    file_path names[PARTS];
    const char *paths[PARTS];
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = NULL, *whole = NULL, *memory = NULL;
    qs_text_info info, expected;
    uint8_t *bytes = noise(N), *read = malloc(N);
    assert_non_null(read);
    put_file("whole", bytes, N);
    for (int i = 0; i < PARTS; i++) {
        char name[16];
        const int64_t first = i ? ends[i - 1] : 0;
        snprintf(name, sizeof name, "part%d", i);
        put_file(name, bytes + first, (size_t)(ends[i] - first));
        names[i] = path_of(name);
        paths[i] = names[i].text;
    }
    ok(qs_text_from_memory(context, bytes, N, 0.3, &memory));
    qs_text_get_info(memory, &expected);
    assert_int_equal(strlen(expected.hash), 32);
    ok(qs_text_open(context, paths, PARTS, 0.3, NULL, NULL, &text));
    qs_text_get_info(text, &info);
    assert_same_info(&info, &expected);
    whole = open_one(context, "whole", 0.3);
    qs_text_get_info(whole, &info);
    assert_same_info(&info, &expected);
    ok(qs_text_read(text, 0, N, read));
    assert_memory_equal(read, bytes, N);
    for (int64_t first = 0; first < N; first += 9973) {
        const int64_t n = first + 20000 < N ? 20000 : N - first;
        memset(read, 0, (size_t)n);
        ok(qs_text_read(text, first, n, read));
        assert_memory_equal(read, bytes + first, n);
    }
    for (int i = 0; i < PARTS - 1; i++) {
        ok(qs_text_read(text, ends[i] - 1, 2, read));
        assert_memory_equal(read, bytes + ends[i] - 1, 2);
    }
    free(read);
    free(bytes);
    qs_text_free(&text);
    qs_text_free(&whole);
    qs_text_free(&memory);
    qs_close(&context);
}

/* A run on files is the run on the same bytes in memory; its windows span the files. */
static void test_text_trains(void **state)
{
    (void)state;
    enum { N = 700 };
    char bytes[N];
    const setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *texts[2];
    uint64_t hash[2];
    double nats[2];
    write_prose(7, bytes, N);
    put_folder("train");
    for (int i = 0; i < 35; i++) {
        char name[32];
        snprintf(name, sizeof name, "train/%02d", i);
        put_file(name, bytes + 20 * i, 20);
    }
    texts[0] = open_one(context, "train", 0.1);
    texts[1] = prose_text(context, N, 0.1);
    for (int i = 0; i < 2; i++) {
        qs_trainer *trainer = make_trainer(context, &s, texts[i]);
        train_to(trainer, 3);
        hash[i] = hash_of(trainer);
        ok(qs_model_evaluate(qs_trainer_model(trainer), texts[i], 0, 2, &nats[i], NULL));
        qs_trainer_free(&trainer);
        qs_text_free(&texts[i]);
    }
    assert_int_equal(hash[0], hash[1]);
    assert_memory_equal(&nats[0], &nats[1], sizeof nats[0]);
    qs_close(&context);
}

/* All of a text can be its validation part; then nothing is left to train on. */
static void test_text_all_validation(void **state)
{
    (void)state;
    const setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = prose_text(context, 100, 1.0);
    qs_trainer *trainer = NULL;
    qs_model *model = NULL;
    qs_text_info info;
    double nats = 0.0;
    int64_t tokens = 0;
    qs_text_get_info(text, &info);
    assert_int_equal(info.train_tokens, 0);
    assert_int_equal(info.val_tokens, 100);
    ok(qs_model_create(context, &s.config, 1, &model));
    ok(qs_model_evaluate(model, text, 0, 2, &nats, &tokens));
    assert_int_equal(tokens, 96);
    refuses(qs_trainer_create(context, &s.config, &s.options, text, &trainer), QS_ERR_SHAPE, "training part holds 0 tokens");
    assert_null(trainer);
    qs_model_free(&model);
    qs_text_free(&text);
    qs_close(&context);
}

/* ---- files that change ------------------------------------------------------------------------------------------- */

static void test_text_changed(void **state)
{
    (void)state;
    enum { N = 4000 };
    uint8_t *bytes = noise(N), read[N];
    qs_context *context = open_context(1, NULL, NULL);
    const file_path path = path_of("changed"), other = path_of("other");
    const struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    const struct timespec moment[2] = {{.tv_sec = 1000, .tv_nsec = 4000000}, {.tv_sec = 1000, .tv_nsec = 4000000}};
    for (int change = 0; change < 8; change++) {
        put_file("changed", bytes, N);
        assert_int_equal(utimensat(AT_FDCWD, path.text, old, 0), 0);
        qs_text *text = open_one(context, "changed", 0.1);
        qs_status status = QS_ERR_IO;
        const char *says = "changed was changed while it is trained on";
        switch (change) {
        case 0:   /* cut off while it is open, its time put back */
            ok(qs_text_read(text, 0, 10, read));
            assert_int_equal(truncate(path.text, N / 2), 0);
            assert_int_equal(utimensat(AT_FDCWD, path.text, old, 0), 0);
            break;
        case 1:   /* cut off while it is closed */
            assert_int_equal(truncate(path.text, N - 1), 0);
            assert_int_equal(utimensat(AT_FDCWD, path.text, old, 0), 0);
            break;
        case 2:   /* another file of the same size and time in its place */
            put_file("other", bytes, N);
            assert_int_equal(utimensat(AT_FDCWD, other.text, old, 0), 0);
            assert_int_equal(rename(other.text, path.text), 0);
            break;
        case 3:   /* written again */
            assert_int_equal(utimensat(AT_FDCWD, path.text, NULL, 0), 0);
            break;
        case 4:   /* within the second */
            assert_int_equal(utimensat(AT_FDCWD, path.text, moment, 0), 0);
            break;
        case 5:   /* longer, its time put back */
            assert_int_equal(truncate(path.text, N + 1), 0);
            assert_int_equal(utimensat(AT_FDCWD, path.text, old, 0), 0);
            break;
        case 6:   /* a pipe in its place, which must not be waited for */
            assert_int_equal(remove(path.text), 0);
            assert_int_equal(mkfifo(path.text, 0600), 0);
            break;
        default:
            assert_int_equal(remove(path.text), 0);
            status = QS_ERR_NOINPUT;
            says = "changed: No such file";
        }
        refuses(qs_text_read(text, 0, N, read), status, says);
        qs_text_free(&text);
        (void)remove(path.text);
    }
    free(bytes);
    qs_close(&context);
}

/* A step that cannot read its batch fails, and the trainer is where it was: with the files back it goes on. */
static void test_text_gone_in_training(void **state)
{
    (void)state;
    const setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    qs_context *context = open_context(1, NULL, NULL);
    qs_step_info info;
    char bytes[600];
    put_folder("gone");
    write_prose(7, bytes, sizeof bytes);
    for (int i = 0; i < 30; i++) {   /* more than stay open */
        char name[32];
        snprintf(name, sizeof name, "gone/%02d", i);
        put_file(name, bytes + 20 * i, 20);
    }
    qs_text *text = open_one(context, "gone", 0.1);
    qs_trainer *trainer = make_trainer(context, &s, text);
    train_to(trainer, 2);
    const uint64_t hash = hash_of(trainer);
    assert_int_equal(rename(path_of("gone").text, path_of("away").text), 0);
    refuses(qs_trainer_step(trainer, &info), QS_ERR_NOINPUT, "gone/");
    assert_int_equal(qs_trainer_position(trainer), 2);
    assert_int_equal(hash_of(trainer), hash);
    assert_int_equal(rename(path_of("away").text, path_of("gone").text), 0);
    train_to(trainer, 4);
    qs_trainer *straight = make_trainer(context, &s, text);
    train_to(straight, 4);
    assert_int_equal(hash_of(trainer), hash_of(straight));
    qs_trainer_free(&straight);
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
}

/* ---- small and large --------------------------------------------------------------------------------------------- */

static int open_descriptors(void)
{
    int n = 0;
    DIR *folder = opendir("/proc/self/fd");
    assert_non_null(folder);
    while (readdir(folder))
        n++;
    closedir(folder);
    return n;
}

static void test_text_many_files(void **state)
{
    (void)state;
    enum { FILES = 2000, BYTES = 11 };
    qs_context *context = open_context(1, NULL, NULL);
    struct rlimit limit, low;
    uint8_t read[FILES * BYTES];
    char expected[FILES * BYTES + 1];
    put_folder("many");
    for (int i = 0; i < FILES; i++) {
        char name[32];
        snprintf(name, sizeof name, "many/%04d", i);
        snprintf(expected + i * BYTES, BYTES + 1, "number %04u", (unsigned)i % FILES);
        put_file(name, expected + i * BYTES, BYTES);
    }
    const int before = open_descriptors();
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    low = limit;
    low.rlim_cur = (rlim_t)before + 24;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    qs_text *text = open_one(context, "many", 0.1);
    assert_int_equal(open_descriptors(), before);
    for (int pass = 0; pass < 2; pass++) {
        memset(read, 0, sizeof read);
        for (int i = 0; i < FILES; i++)
            ok(qs_text_read(text, i * BYTES, BYTES, read + i * BYTES));
        assert_memory_equal(read, expected, sizeof read);
    }
    assert_in_range(open_descriptors(), before + 1, before + 16);
    ok(qs_text_read(text, 0, sizeof read, read));
    assert_memory_equal(read, expected, sizeof read);
    qs_text_free(&text);
    assert_int_equal(open_descriptors(), before);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    qs_close(&context);
}

/* A text that is far larger than the memory it takes: 300 MB of zeros that no disk holds. */
static void test_text_large(void **state)
{
    (void)state;
    const int64_t n = 300000000;
    qs_context *context = open_context(1, NULL, NULL);
    qs_memory_usage usage;
    qs_text_info info;
    uint8_t read[4096];
    put_file("large", "", 0);
    assert_int_equal(truncate(path_of("large").text, n), 0);
    qs_memory_reset_peak(context);
    qs_text *text = open_one(context, "large", 0.1);
    qs_text_get_info(text, &info);
    assert_int_equal(info.tokens, n);
    assert_int_equal(info.train_tokens, n / 10 * 9);
    assert_true(info.entropy0 == 0.0 && info.entropy1 == 0.0);
    ok(qs_text_read(text, n - (int64_t)sizeof read, sizeof read, read));
    qs_memory(context, QS_MEMORY_TAGS, &usage);
    assert_true(usage.peak_bytes < 2 << 20);
    assert_true(usage.current_bytes < 16384);
    qs_text_free(&text);
    assert_int_equal(remove(path_of("large").text), 0);
    qs_close(&context);
}

static void test_entropies(void **state)
{
    (void)state;
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = NULL;
    qs_text_info info;
    char bytes[4096];
    for (int i = 0; i < 4096; i++)
        bytes[i] = (char)('a' + i % 4);
    ok(qs_text_from_memory(context, bytes, 4096, 0.1, &text));
    qs_text_get_info(text, &info);
    assert_true(fabs(info.entropy0 - log(4.0)) < 1e-12 && fabs(info.entropy1) < 1e-12);
    qs_text_free(&text);
    /* a, then a or b in turn: after a follows a or b, after b always a */
    for (int i = 0; i < 4096; i++)
        bytes[i] = i % 3 == 2 ? 'b' : 'a';
    ok(qs_text_from_memory(context, bytes, 4095, 0.1, &text));
    qs_text_get_info(text, &info);
    assert_true(fabs(info.entropy0 - (log(3.0) - 2.0 / 3.0 * log(2.0))) < 1e-9);
    assert_true(fabs(info.entropy1 - 2.0 / 3.0 * log(2.0)) < 1e-3);
    qs_text_free(&text);
    qs_close(&context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows),         cmocka_unit_test(test_cursor),
        cmocka_unit_test(test_windows_refused), cmocka_unit_test(test_text_folder),
        cmocka_unit_test(test_text_unreadable), cmocka_unit_test(test_text_refused),
        cmocka_unit_test(test_text_streams),    cmocka_unit_test(test_text_trains),
        cmocka_unit_test(test_text_all_validation), cmocka_unit_test(test_text_changed),
        cmocka_unit_test(test_text_gone_in_training), cmocka_unit_test(test_text_many_files),
        cmocka_unit_test(test_text_large),      cmocka_unit_test(test_entropies),
    };
    return cmocka_run_group_tests(tests, make_test_folder, drop_test_folder);
}
