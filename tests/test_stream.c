/* test_stream.c - slabs that stream from a file through RAM into slots: right bytes in any order and with any memory, each read no
 * more often than it must be, and every fault of file, disk and device as an error in the thread that asks.
 *
 * pread and qs_write are wrapped (tests/CMakeLists.txt): they count, and fail, fall short or take their time when told. */
#include "training_case.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include "stream/stream.h"

/* ---- calls that fail ------------------------------------------------------------------------------------------------ */

enum { SLABS = 12, BIG_SLABS = 5, MODEL_BYTES = 64 << 20 };

typedef enum trouble { NONE, FAILS, ENDS, SHORT, INTERRUPTED, NOT_DIRECT, SLOW, WRITE_FAILS } trouble;

static struct {
    _Atomic trouble kind;
    _Atomic int64_t at;          /* call that fails, from 1 */
    _Atomic int64_t calls;       /* of pread, of qs_write where that fails */
    _Atomic int64_t begun[SLABS];   /* reads of slab i from its start */
    uint64_t start[SLABS];       /* of slab i in the file; 0: not counted */
} calls;

static void trouble_with(trouble kind, int64_t at)
{
    calls.at = at;
    calls.calls = 0;
    calls.kind = kind;
}

ssize_t __real_pread(int fd, void *data, size_t bytes, off_t at);
ssize_t __wrap_pread(int fd, void *data, size_t bytes, off_t at);
ssize_t __wrap_pread(int fd, void *data, size_t bytes, off_t at)
{
    const trouble kind = calls.kind;
    const int64_t call = kind == WRITE_FAILS ? 0 : ++calls.calls;
    if (kind == FAILS && call == calls.at)
        return errno = EIO, -1;
    if (kind == ENDS && call == calls.at)
        return 0;
    if (kind == INTERRUPTED && call % 2)
        return errno = EINTR, -1;
    if (kind == NOT_DIRECT && fcntl(fd, F_GETFL) & O_DIRECT)
        return errno = EINVAL, -1;
    if (kind == SHORT && bytes > 1)
        bytes = bytes % 4096 ? bytes / 2 : bytes > 4096 ? 4096 : 1000;
    if (kind == SLOW)
        usleep(2000);
    for (int i = 0; i < SLABS; i++)
        calls.begun[i] += calls.start[i] && (uint64_t)at == calls.start[i];
    if (kind == SHORT && bytes == 1000)   /* a length that a direct read cannot ask for, but can give */
        return __real_pread(fd, data, 4096, at) < 0 ? -1 : 1000;
    return __real_pread(fd, data, bytes, at);
}

qs_status __real_qs_write(qs_queue *queue, qs_view view, const void *host);
qs_status __wrap_qs_write(qs_queue *queue, qs_view view, const void *host);
qs_status __wrap_qs_write(qs_queue *queue, qs_view view, const void *host)
{
    if (calls.kind != WRITE_FAILS || ++calls.calls != calls.at)
        return __real_qs_write(queue, view, host);
    qsi_fail_text("the device is gone");
    return QS_ERR_DEVICE;
}

/* ---- a model file --------------------------------------------------------------------------------------------------- */

/* Slabs of about a page to several, two of them empty, an odd end; of 8 MiB and some, so that a slab is several reads. */
static const int64_t small_sizes[SLABS] = {20480, 19001, 16385, 0, 17, 20400, 20000, 0, 18191, 17000, 16384, 10007};
static const int64_t big_sizes[BIG_SLABS] = {(8 << 20) + 5000, 100, 8 << 20, (8 << 20) + 4096, (8 << 20) + 4097};

static qs_status fetch(void *user, int64_t index, void *bytes, int64_t n)
{
    uint8_t *out = bytes;
    for (int64_t i = 0; i < n; i++)
        out[i] = (uint8_t)(index * 37 + i * 11 + (i >> 8) * 5 + (i >> 16) + (index == 5 ? *(int *)user : 0));
    return QS_OK;
}

/* Writes a checkpoint; salt changes the sixth tensor. */
static void write_model(const char *folder, const int64_t *sizes, int count, int salt)
{
    qs_saved_tensor tensors[SLABS];
    int n = 0;
    for (int i = 0; i < count; i++) {
        if (!sizes[i])
            continue;
        tensors[n] = (qs_saved_tensor){.format = QS_U8, .rank = 1, .shape = {sizes[i]}, .slab = i};
        snprintf(tensors[n].name, sizeof tensors[n].name, "tensor.%d", i);
        n++;
    }
    ok(qs_checkpoint_write(NULL, folder, tensors, n, fetch, &salt, "{\"config\": {}, \"step\": 0}"));
}

/* A checkpoint, its model file as it was written, and a stream over some of its slabs. */
typedef struct world {
    qs_context *context;
    qs_queue *queue;
    file_path folder, model;
    qs_checkpoint *checkpoint;
    uint8_t *file;               /* [file_bytes] */
    int64_t file_bytes;
    int64_t first, count;
    qs_slab_info slab[SLABS];
    int64_t largest, all;        /* bytes in whole pages: of the largest, of all */
    qsi_stream *stream;
    qs_memory_usage before, after;   /* of create */
} world;

static void load_file(world *w)
{
    FILE *file = fopen(w->model.text, "rb");
    assert_non_null(file);
    free(w->file);
    assert_non_null(w->file = malloc(MODEL_BYTES));
    w->file_bytes = (int64_t)fread(w->file, 1, MODEL_BYTES, file);
    assert_true(w->file_bytes > 0 && w->file_bytes < MODEL_BYTES);
    fclose(file);
}

/* Slabs first..first+count-1 of a checkpoint just written. device may be NULL. */
static world make_world(const int64_t *sizes, int slabs, int64_t first, int64_t count, const char *device)
{
    world w = {.first = first, .count = count};
    w.folder = path_of("checkpoint");
    w.model = path_of("checkpoint/model.safetensors");
    w.context = open_context(1, NULL, device);
    ok(qs_queue_create(w.context, &w.queue));
    write_model(w.folder.text, sizes, slabs, 0);
    w.checkpoint = open_checkpoint(w.folder.text);
    load_file(&w);
    for (int64_t i = 0; i < count; i++) {
        ok(qs_checkpoint_slab(w.checkpoint, 0, first + i, &w.slab[i]));
        const int64_t pages = w.slab[i].bytes ? ((int64_t)w.slab[i].bytes + 4095) / 4096 * 4096 : 4096;
        w.largest = pages > w.largest ? pages : w.largest;
        w.all += pages;
    }
    return w;
}

static qs_status try_stream(world *w, int64_t slots, int64_t ram_bytes)
{
    const qsi_stream_options options = {slots, ram_bytes};
    trouble_with(NONE, 0);
    for (int64_t i = 0; i < SLABS; i++) {
        calls.begun[i] = 0;
        calls.start[i] = i < w->count && w->slab[i].bytes ? w->slab[i].offset : 0;
    }
    qs_memory(w->context, QS_MEMORY_TAGS, &w->before);
    const qs_status status = qsi_stream_create(w->context, w->checkpoint, w->first, w->count, &options, &w->stream);
    qs_memory(w->context, QS_MEMORY_TAGS, &w->after);
    return status;
}

/* Every byte booked is given back. */
static void end_stream(world *w)
{
    qs_memory_usage usage;
    qsi_stream_free(&w->stream);
    assert_null(w->stream);
    trouble_with(NONE, 0);
    qs_memory(w->context, QS_MEMORY_TAGS, &usage);
    assert_int_equal(usage.current_bytes, w->before.current_bytes);
}

static void drop_world(world *w)
{
    end_stream(w);
    free(w->file);
    qs_checkpoint_close(&w->checkpoint);
    qs_queue_free(&w->queue);
    qs_close(&w->context);
}

/* ---- walking -------------------------------------------------------------------------------------------------------- */

/* The bytes of a view are those of slab i in the file. */
static void check_bytes(world *w, int64_t i, qs_view view)
{
    const int64_t bytes = (int64_t)w->slab[i].bytes;
    assert_int_equal(view.rows, 1);
    assert_int_equal(view.cols, bytes);
    if (!bytes)
        return;
    uint8_t *got = malloc((size_t)bytes);
    assert_non_null(got);
    ok(qs_read(w->queue, view, got));
    if (memcmp(got, w->file + w->slab[i].offset, (size_t)bytes) != 0)
        fail_msg("slab %lld has other bytes than the file", (long long)i);
    free(got);
}

static qs_status take(world *w, int64_t slab)
{
    qs_view view;
    const qs_status status = qsi_stream_acquire(w->stream, slab, &view);
    if (status == QS_OK)
        check_bytes(w, slab, view);
    return status;
}

/* A step: forwards over all slabs, backwards down to lowest. Returns how many. */
static int64_t step_order(const world *w, int64_t lowest, int64_t order[2 * SLABS])
{
    int64_t n = 0;
    for (int64_t i = 0; i < w->count; i++)
        order[n++] = i;
    for (int64_t i = w->count - 1; i >= lowest; i--)
        order[n++] = i;
    return n;
}

/* Takes what order says, with `held` slabs held at a time. The first failure ends it. */
static qs_status walk(world *w, const int64_t *order, int64_t n, int64_t held)
{
    qs_status status = QS_OK;
    int64_t taken = 0, released = 0;
    for (; taken < n && status == QS_OK; taken += status == QS_OK) {
        if (taken - released == held)
            qsi_stream_release(w->stream, order[released++]);
        status = take(w, order[taken]);
    }
    while (released < taken)
        qsi_stream_release(w->stream, order[released++]);
    return status;
}

static qs_status walk_step(world *w, int64_t lowest, int64_t held)
{
    int64_t order[2 * SLABS];
    const int64_t n = step_order(w, lowest, order);
    ok(qsi_stream_expect(w->stream, order, n));
    return walk(w, order, n, held);
}

static qsi_stream_stats stats_of(const world *w)
{
    qsi_stream_stats stats;
    qsi_stream_get_stats(w->stream, &stats);
    return stats;
}

/* Every read began at the start of a slab: how many, their bytes, and how many slabs (with bytes) were read once. */
static int64_t reads(const world *w, uint64_t *bytes, int64_t *once)
{
    int64_t n = 0;
    *bytes = 0;
    *once = 0;
    for (int64_t i = 0; i < w->count; i++) {
        n += calls.begun[i];
        *bytes += (uint64_t)calls.begun[i] * w->slab[i].bytes;
        *once += calls.begun[i] == 1;
    }
    return n;
}

static void check_stats(const world *w, qsi_stream_stats stats, int64_t acquired, int64_t ram_bytes)
{
    uint64_t bytes;
    int64_t once, filled = 0;
    const int64_t n = reads(w, &bytes, &once);
    for (int64_t i = 0; i < w->count; i++)
        filled += w->slab[i].bytes > 0;
    assert_int_equal(stats.acquired, acquired);
    assert_int_equal(stats.read_bytes, bytes);
    /* the reader foresees what will be copied, but not for how long a slab is held: a read or two may be in vain */
    assert_true(stats.copied_bytes + 2 * (uint64_t)w->largest >= bytes);
    assert_true(stats.from_slot + stats.from_ram + n <= acquired + 2);
    assert_true(stats.transfer_seconds <= stats.read_seconds + stats.copy_seconds + 1e-9);
    assert_true(stats.transfer_seconds >= (stats.read_seconds + stats.copy_seconds) / 2 - 1e-9);
    if (ram_bytes >= w->all) {
        assert_int_equal(once, filled);
        assert_int_equal(n, filled);
        assert_int_equal(stats.from_slot + stats.from_ram, acquired - w->count);
    } else {
        assert_true(once >= ram_bytes / w->largest - 2 - (w->count - filled));
    }
}

/* All memories, all slots, several orders: right bytes, no allocation, counts. */
static void walk_all(const int64_t *sizes, int slabs, int64_t first, int64_t count, const char *device)
{
    enum { STEPS = 3 };
    world w = make_world(sizes, slabs, first, count, device);
    for (int64_t ram = 2 * w.largest; ram <= w.all + w.largest; ram += w.largest)
        for (int64_t slots = 2; slots <= 5; slots++)
            for (int64_t lowest = 0; lowest <= 4; lowest += 4) {
                ok(try_stream(&w, slots, ram));
                for (int64_t k = 0; k < STEPS; k++)
                    ok(walk_step(&w, lowest, 1));
                const qsi_stream_stats stats = stats_of(&w);
                check_stats(&w, stats, STEPS * (2 * count - lowest), ram);
                if (lowest == 0 && slots <= count)   /* at every turn all that lies in slots is used again */
                    assert_int_equal(stats.from_slot, (2 * STEPS - 1) * slots);
                ok(walk_step(&w, lowest, slots - 1));
                ok(walk_step(&w, lowest, slots));
                qs_memory_usage usage;
                qs_memory(w.context, QS_MEMORY_TAGS, &usage);
                assert_int_equal(usage.allocations, w.after.allocations);
                qs_memory(w.context, QS_MEMORY_WEIGHTS, &usage);
                assert_true(usage.current_bytes <= (uint64_t)ram);
                end_stream(&w);
            }
    drop_world(&w);
}

static void test_orders(void **state)
{
    (void)state;
    walk_all(small_sizes, SLABS, 0, SLABS, NULL);
    walk_all(small_sizes, SLABS, 1, SLABS - 2, NULL);
}

static void test_fake_device(void **state)
{
    (void)state;
    if (!getenv("QSBITS_BACKEND_DIR"))
        skip();
    walk_all(small_sizes, SLABS, 0, SLABS, "fake");
}

/* Slabs of several reads and copies. */
static void test_large_slabs(void **state)
{
    (void)state;
    world w = make_world(big_sizes, BIG_SLABS, 0, BIG_SLABS, NULL);
    for (int64_t ram = 2; ram <= 5; ram++) {
        ok(try_stream(&w, 2, ram * w.largest));
        ok(walk_step(&w, 0, 1));
        ok(walk_step(&w, 1, 2));
        check_stats(&w, stats_of(&w), 4 * BIG_SLABS - 1, ram * w.largest);
        end_stream(&w);
    }
    drop_world(&w);
}

/* Random orders, told piece by piece. */
static void test_random_orders(void **state)
{
    (void)state;
    world w = make_world(small_sizes, SLABS, 0, SLABS, NULL);
    uint64_t random = 1;
    for (int round = 0; round < 40; round++) {
        const int64_t slots = 2 + round % 4;
        ok(try_stream(&w, slots, (2 + round % 11) * w.largest));
        for (int piece = 0; piece < 20; piece++) {
            int64_t order[SLABS];
            const int64_t n = 1 + piece % SLABS;
            for (int64_t i = 0; i < n; i++) {
                random = random * 6364136223846793005u + 1442695040888963407u;
                order[i] = (int64_t)((random >> 33) % SLABS);
            }
            ok(qsi_stream_expect(w.stream, order, n));
            ok(walk(&w, order, n, 1 + piece % slots));
        }
        end_stream(&w);
    }
    drop_world(&w);
}

/* Slabs used more often stay, and among equals none that lie side by side where there is room for half; others give way. */
static void test_uses(void **state)
{
    (void)state;
    world w = make_world(small_sizes, SLABS, 0, SLABS, NULL);
    int64_t uses[SLABS], order[SLABS];
    ok(try_stream(&w, 2, 7 * w.largest));
    for (int64_t i = 0; i < SLABS; i++)
        uses[i] = i == 1 || i == 2 || i == 5 || i == 8 || i == 11 ? 2 : 1;
    qsi_stream_uses(w.stream, uses);
    for (int k = 0; k < 3; k++)
        ok(walk_step(&w, 0, 1));
    for (int64_t i = 0; i < SLABS; i++)
        if (uses[i] == 2)
            assert_int_equal(calls.begun[i], 1);
        else if (i >= 3 && i <= 9 && w.slab[i].bytes)
            assert_true(calls.begun[i] >= 2);
    for (int64_t i = 0; i < SLABS; i++) {
        uses[i] = i == 0 || i == 4 || i == 6 || i == 9 || i == 10;
        order[i] = i;
    }
    qsi_stream_uses(w.stream, uses);
    ok(walk_step(&w, 0, 1));
    const int64_t before = calls.begun[4] + calls.begun[6] + calls.begun[9];
    for (int k = 0; k < 3; k++) {
        ok(qsi_stream_expect(w.stream, order, SLABS));
        ok(walk(&w, order, SLABS, 1));
    }
    assert_int_equal(calls.begun[4] + calls.begun[6] + calls.begun[9], before);
    drop_world(&w);
}

static void test_even_spread(void **state)
{
    (void)state;
    static const int64_t sizes[SLABS] = {5000, 5001, 5002, 5003, 5004, 5005, 5006, 5007, 5008, 5009, 5010, 5011};
    world w = make_world(sizes, SLABS, 0, SLABS, NULL);
    ok(try_stream(&w, 2, 8 * w.largest));
    for (int k = 0; k < 4; k++)
        ok(walk_step(&w, 0, 1));
    for (int64_t i = 1; i < SLABS; i++)
        assert_true(calls.begun[i] > 1 || calls.begun[i - 1] > 1);
    drop_world(&w);
}

/* ---- what is refused ------------------------------------------------------------------------------------------------ */

static void test_refusals(void **state)
{
    (void)state;
    static const int64_t zero[] = {0, 1, 2}, wrong[] = {0, SLABS}, negative[] = {-1};
    world w = make_world(small_sizes, SLABS, 0, SLABS, NULL);
    qs_view view;
    refuses(try_stream(&w, 1, w.all), QS_ERR_ARG, "slots");
    refuses(try_stream(&w, 2, 2 * w.largest - 1), QS_ERR_ARG, "give at least");
    w.first = 1;
    refuses(try_stream(&w, 2, w.all), QS_ERR_ARG, "slabs from number 1");
    w.first = -1;
    refuses(try_stream(&w, 2, w.all), QS_ERR_ARG, "slabs from number -1");
    w.first = 0;
    assert_null(w.stream);
    qs_checkpoint *file = open_checkpoint(w.model.text), *folder = w.checkpoint;
    w.checkpoint = file;
    refuses(try_stream(&w, 2, w.all), QS_ERR_UNSUPPORTED, "single file");
    w.checkpoint = folder;
    qs_checkpoint_close(&file);
    ok(try_stream(&w, 2, w.all));
    refuses(qsi_stream_acquire(w.stream, 0, &view), QS_ERR_ARG, "not the next one expected");
    refuses(qsi_stream_expect(w.stream, wrong, 2), QS_ERR_ARG, "slab 12 of a stream of 12");
    refuses(qsi_stream_expect(w.stream, negative, 1), QS_ERR_ARG, "slab -1");
    refuses(qsi_stream_expect(w.stream, zero, 8 * SLABS + 1), QS_ERR_ARG, "room for 96");
    ok(qsi_stream_expect(w.stream, zero, 3));
    refuses(qsi_stream_acquire(w.stream, 1, &view), QS_ERR_ARG, "not the next one expected (0)");
    ok(take(&w, 0));
    ok(take(&w, 1));
    refuses(qsi_stream_acquire(w.stream, 2, &view), QS_ERR_ARG, "all 2 slots are held");
    qsi_stream_release(w.stream, 0);
    ok(take(&w, 2));
    drop_world(&w);
}

/* A budget of RAM that ends anywhere in create. */
static void test_no_memory(void **state)
{
    (void)state;
    world w = make_world(small_sizes, SLABS, 0, SLABS, NULL);
    ok(try_stream(&w, 3, 4 * w.largest));
    const int64_t needs = (int64_t)(w.after.current_bytes - w.before.current_bytes);
    end_stream(&w);
    for (int64_t budget = 0; budget <= needs; budget += needs / 50) {
        world poor = w;
        qs_options options;
        qs_options_default(&options);
        options.threads = 1;
        options.ram_budget = options.device_budget = (uint64_t)(budget + 1);
        ok(qs_open(&poor.context, &options));
        const qs_status status = try_stream(&poor, 3, 4 * w.largest);
        if (status != QS_OK && status != QS_ERR_NOMEM)
            fail_msg("%s: %s", qs_status_text(status), qs_last_error());
        assert_true((status == QS_OK) == (poor.stream != NULL));
        end_stream(&poor);
        qs_close(&poor.context);
    }
    drop_world(&w);
}

/* ---- damage --------------------------------------------------------------------------------------------------------- */

static void flip_byte(const world *w, int64_t at)
{
    const uint8_t byte = w->file[at] ^ 1;
    const int fd = open(w->model.text, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    assert_int_equal(close(fd), 0);
}

/* The step fails with status and text; whatever is asked then fails the same way. */
static void check_fails(world *w, qs_status status, const char *text)
{
    qs_view view;
    refuses(walk_step(w, 0, 1), status, text);
    assert_non_null(strstr(qs_last_error(), w->model.text));
    qsi_fail_text("nothing");
    refuses(qsi_stream_acquire(w->stream, 0, &view), status, text);
}

static void test_damage(void **state)
{
    (void)state;
    char text[32];
    for (int64_t i = 0; i < SLABS; i++) {
        if (!small_sizes[i])
            continue;
        world w = make_world(small_sizes, SLABS, 0, SLABS, NULL);
        flip_byte(&w, (int64_t)(w.slab[i].offset + w.slab[i].bytes) - 1);
        ok(try_stream(&w, 3, i % 2 ? w.all : 3 * w.largest));
        snprintf(text, sizeof text, "slab %d (offset ", (int)i);
        check_fails(&w, QS_ERR_CORRUPT, text);
        drop_world(&w);
    }
}

static void set_time(const world *w, time_t seconds)
{
    const struct timespec times[2] = {{seconds, 0}, {seconds, 0}};
    assert_int_equal(utimensat(AT_FDCWD, w->model.text, times, 0), 0);
}

static void test_file_changes(void **state)
{
    (void)state;
    static const int64_t first[] = {0, 1};
    for (int k = 0; k < 3; k++) {
        world w = make_world(small_sizes, SLABS, 0, SLABS, NULL);
        ok(try_stream(&w, 2, 3 * w.largest));
        ok(qsi_stream_expect(w.stream, first, 2));
        ok(walk(&w, first, 2, 1));
        if (k == 0)
            assert_int_equal(truncate(w.model.text, (off_t)w.slab[4].offset + 1), 0);
        else if (k == 1)
            assert_int_equal(truncate(w.model.text, (off_t)w.file_bytes + 1), 0);
        else
            set_time(&w, 1000);
        check_fails(&w, QS_ERR_IO, "was changed while it was in use");
        drop_world(&w);
    }
}

/* Another file under the name of the one that is open does no harm; one that was there before is not what the manifest says. */
static void test_file_replaced(void **state)
{
    (void)state;
    world w = make_world(small_sizes, SLABS, 0, SLABS, NULL);
    const file_path other = path_of("other");
    ok(try_stream(&w, 2, 3 * w.largest));
    ok(walk_step(&w, 0, 1));
    for (int64_t i = 0; i < w.file_bytes; i++)
        w.file[i] ^= 0xff;
    FILE *file = fopen(other.text, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(w.file, 1, (size_t)w.file_bytes, file), w.file_bytes);
    assert_int_equal(fclose(file), 0);
    for (int64_t i = 0; i < w.file_bytes; i++)
        w.file[i] ^= 0xff;
    assert_int_equal(rename(other.text, w.model.text), 0);
    ok(walk_step(&w, 0, 1));
    end_stream(&w);
    ok(try_stream(&w, 2, 3 * w.largest));
    check_fails(&w, QS_ERR_CORRUPT, "XXH3-128");
    end_stream(&w);
    assert_int_equal(truncate(w.model.text, (off_t)w.file_bytes - 1), 0);
    refuses(try_stream(&w, 2, 3 * w.largest), QS_ERR_CORRUPT, "the manifest says");
    assert_int_equal(unlink(w.model.text), 0);
    refuses(try_stream(&w, 2, 3 * w.largest), QS_ERR_NOINPUT, w.model.text);
    assert_int_equal(mkfifo(w.model.text, 0600), 0);
    refuses(try_stream(&w, 2, 3 * w.largest), QS_ERR_NOINPUT, "not a regular file");
    assert_int_equal(unlink(w.model.text), 0);
    drop_world(&w);
}

/* Disks that fail at read k, or give less than they were asked for. */
static void test_failing_reads(void **state)
{
    (void)state;
    static const trouble harmless[] = {SHORT, INTERRUPTED, NOT_DIRECT};
    world w = make_world(small_sizes, SLABS, 0, SLABS, NULL);
    for (int64_t k = 1; k <= 14; k++) {
        ok(try_stream(&w, 3, 3 * w.largest));
        trouble_with(FAILS, k);
        check_fails(&w, QS_ERR_IO, "offset");
        end_stream(&w);
        ok(try_stream(&w, 3, 3 * w.largest));
        trouble_with(ENDS, k);
        check_fails(&w, QS_ERR_IO, "the file ends at offset");
        end_stream(&w);
        ok(try_stream(&w, 3, 3 * w.largest));
        trouble_with(WRITE_FAILS, k);
        refuses(walk_step(&w, 0, 1), QS_ERR_DEVICE, "the device is gone");
        end_stream(&w);
    }
    for (int k = 0; k < 3; k++) {
        ok(try_stream(&w, 2, 3 * w.largest));
        trouble_with(harmless[k], 0);
        ok(walk_step(&w, 0, 1));
        ok(walk_step(&w, 2, 1));
        end_stream(&w);
    }
    drop_world(&w);
}

/* ---- giving up, and other bytes ------------------------------------------------------------------------------------- */

static void test_cancel(void **state)
{
    (void)state;
    world w = make_world(small_sizes, SLABS, 0, SLABS, NULL);
    int64_t order[2 * SLABS];
    const int64_t n = step_order(&w, 0, order);
    qs_view view;
    ok(try_stream(&w, 3, 4 * w.largest));
    trouble_with(SLOW, 0);
    for (int64_t taken = 0; taken < 8; taken++) {
        ok(qsi_stream_expect(w.stream, order, n));
        ok(walk(&w, order, taken, 1));
        usleep((useconds_t)(taken * 700));
        qsi_stream_cancel(w.stream);
        refuses(qsi_stream_acquire(w.stream, order[taken], &view), QS_ERR_ARG, "not the next one expected");
    }
    ok(qsi_stream_expect(w.stream, order, n));
    ok(take(&w, 0));
    qsi_stream_cancel(w.stream);   /* slab 0 stays held */
    ok(qsi_stream_expect(w.stream, order + SLABS, SLABS));
    ok(walk(&w, order + SLABS, SLABS, 1));
    qsi_stream_release(w.stream, 0);
    ok(walk_step(&w, 0, 2));
    drop_world(&w);
}

static void test_free_at_any_moment(void **state)
{
    (void)state;
    int64_t order[2 * SLABS];
    for (int big = 0; big < 2; big++) {
        world w = big ? make_world(big_sizes, BIG_SLABS, 0, BIG_SLABS, NULL) : make_world(small_sizes, SLABS, 0, SLABS, NULL);
        const int64_t n = step_order(&w, 0, order);
        for (int k = 0; k < 24; k++) {
            ok(try_stream(&w, 2, 3 * w.largest));
            trouble_with(k % 2 ? SLOW : NONE, 0);
            ok(qsi_stream_expect(w.stream, order, n));
            usleep((useconds_t)(k * 300));
            if (k % 3 == 0)
                ok(take(&w, 0));
            end_stream(&w);
        }
        drop_world(&w);
    }
    qsi_stream *none = NULL;
    qsi_stream_free(&none);
}

/* A slab of the checkpoint was written anew. */
static void test_changed(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        world w = make_world(small_sizes, SLABS, 0, SLABS, NULL);
        ok(try_stream(&w, 4, k ? w.all : 5 * w.largest));
        ok(walk_step(&w, 0, 1));
        const int64_t order[] = {9, 8, 6};   /* cancelled while they are on their way */
        trouble_with(SLOW, 0);
        ok(qsi_stream_expect(w.stream, order, 3));
        qsi_stream_cancel(w.stream);
        write_model(w.folder.text, small_sizes, SLABS, 99);
        qs_checkpoint *old = w.checkpoint;
        w.checkpoint = open_checkpoint(w.folder.text);
        load_file(&w);
        const int64_t read = calls.begun[6];   /* the sixth tensor lies in slab 6: slab 3 has none */
        qsi_stream_changed(w.stream, w.checkpoint, 6);
        qs_checkpoint_close(&old);
        ok(walk_step(&w, 0, 1));
        assert_true(calls.begun[6] > read);
        if (k) {
            assert_int_equal(calls.begun[6], read + 1);
            assert_int_equal(calls.begun[5], 1);
        }
        flip_byte(&w, (int64_t)w.slab[6].offset);
        qsi_stream_changed(w.stream, w.checkpoint, 6);
        check_fails(&w, QS_ERR_CORRUPT, "slab 6 (offset ");
        drop_world(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_orders),        cmocka_unit_test(test_fake_device),
        cmocka_unit_test(test_large_slabs),   cmocka_unit_test(test_random_orders),
        cmocka_unit_test(test_uses),          cmocka_unit_test(test_even_spread),
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_damage),        cmocka_unit_test(test_file_changes),
        cmocka_unit_test(test_file_replaced), cmocka_unit_test(test_failing_reads),
        cmocka_unit_test(test_cancel),        cmocka_unit_test(test_free_at_any_moment),
        cmocka_unit_test(test_changed),
    };
    return cmocka_run_group_tests(tests, make_test_folder, drop_test_folder);
}
