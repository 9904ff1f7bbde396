/* test_backend_load.c - every reason for which a plugin is refused, and the fake device, which is not.
 *
 * CTest sets QSBITS_BACKEND_DIR to the folder of the fake device and QSBITS_BROKEN_DIR to that of the broken ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include "core/objects.h"
#include "qsbits/ops.h"

static const char *folder_of(const char *variable)
{
    const char *folder = getenv(variable);
    if (!folder)
        fail_msg("%s is not set; run this program through ctest", variable);
    return folder;
}

static qs_status open_device(const char *device, const char *folder, qs_context **out)
{
    qs_options options;
    qs_options_default(&options);
    options.threads = 1;
    options.device = device;
    options.backend_dir = folder;
    return qs_open(out, &options);
}

static void assert_refused(const char *device, const char *folder, qs_status want, const char *reason)
{
    qs_context *context = NULL;
    qs_status status = open_device(device, folder, &context);
    assert_null(context);
    assert_int_equal(status, want);
    if (!strstr(qs_last_error(), reason))
        fail_msg("device %s: \"%s\" does not contain \"%s\"", device, qs_last_error(), reason);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static const struct { const char *name, *reason; } broken[] = {
    {"device", "no device of ABI 1 found"},
    {"entry", "the entry sync of its table is empty"},
    {"major", "made for backend ABI 2.0, this library has 1.0"},
    {"silent", "no reason given"},
    {"size", "its table has "},
    {"symbol", "not a qsbits backend, it does not export qs_backend_query"},
};

static void test_broken_plugins(void **state)
{
    (void)state;
    const char *folder = folder_of("QSBITS_BROKEN_DIR");
    char path[4096];
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        assert_refused(broken[i].name, folder, QS_ERR_DEVICE, broken[i].reason);
        snprintf(path, sizeof path, "%s/libqsbits-%s.so", folder, broken[i].name);
        assert_refused(path, NULL, QS_ERR_DEVICE, broken[i].reason);
        assert_non_null(strstr(qs_last_error(), path));
    }
}

static void test_bad_names(void **state)
{
    (void)state;
    const char *folder = folder_of("QSBITS_BACKEND_DIR");
    assert_refused("./libqsbits-fake.so", folder, QS_ERR_DEVICE, "is a relative path; give a name or an absolute path");
    assert_refused("backends/libqsbits-fake.so", folder, QS_ERR_DEVICE, "is a relative path");
    assert_refused("../backends/fake", folder, QS_ERR_DEVICE, "is a relative path");
    assert_refused("", folder, QS_ERR_DEVICE, "\"\" is not the name of a backend");
    assert_refused("Fake", folder, QS_ERR_DEVICE, "is not the name of a backend");
    assert_refused("nothing", folder, QS_ERR_DEVICE, "no backend \"nothing\":");
    assert_refused("/nowhere/libqsbits-fake.so", folder, QS_ERR_DEVICE, "/nowhere/libqsbits-fake.so");
    assert_refused("fake", "tests/backends", QS_ERR_ARG, "the backend folder \"tests/backends\" is not an absolute path");
}

static void test_not_a_library(void **state)
{
    (void)state;
    char path[] = "/tmp/libqsbits-text-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "not a library\n", 14), 14);
    close(fd);
    assert_refused(path, NULL, QS_ERR_DEVICE, "cannot load the backend");
    unlink(path);
}

/* ---- the list ---------------------------------------------------------------------------------------------------- */

typedef struct seen {
    int count;
    char name[16][64], reason[16][512];
} seen;

static void remember(void *user, const char *name, const char *reason)
{
    seen *s = user;
    assert_true(s->count < 16);
    snprintf(s->name[s->count], sizeof s->name[0], "%s", name);
    snprintf(s->reason[s->count], sizeof s->reason[0], "%s", reason ? reason : "");
    s->count++;
}

static void test_list(void **state)
{
    (void)state;
    enum { BROKEN = sizeof broken / sizeof *broken };
    seen s = {.count = 0};
    assert_int_equal(qs_backend_list(folder_of("QSBITS_BROKEN_DIR"), remember, &s), QS_OK);
    assert_int_equal(s.count, BROKEN + 1);
    assert_string_equal(s.name[0], "cpu");
    assert_string_equal(s.reason[0], "");
    for (int i = 0; i < BROKEN; i++) {
        assert_string_equal(s.name[i + 1], broken[i].name);
        assert_non_null(strstr(s.reason[i + 1], broken[i].reason));
    }
    s.count = 0;
    assert_int_equal(qs_backend_list(NULL, remember, &s), QS_OK);
    assert_int_equal(s.count, 2);
    assert_string_equal(s.name[1], "fake");
    assert_string_equal(s.reason[1], "");
    assert_int_equal(qs_backend_list("relative", remember, &s), QS_ERR_ARG);
    assert_int_equal(qs_backend_list("/nowhere", remember, &s), QS_ERR_NOINPUT);
}

/* ---- the fake device --------------------------------------------------------------------------------------------- */

/* Whether the host can read a byte, asked of the kernel, which answers EFAULT where we would die. */
static int readable(const void *byte)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    ssize_t done = write(ends[1], byte, 1);
    int error = errno;
    close(ends[0]);
    close(ends[1]);
    if (done != 1)
        assert_int_equal(error, EFAULT);
    return done == 1;
}

static void test_fake_device(void **state)
{
    (void)state;
    qs_context *context = NULL;
    qs_buffer *buffer = NULL;
    qs_queue *queue = NULL;
    qs_device_info info;
    uint8_t out[256], in[256];
    assert_int_equal(open_device("fake", NULL, &context), QS_OK);
    qs_context_device(context, &info);
    assert_string_equal(info.backend, "fake");
    assert_int_equal(qs_buffer_create(context, QS_MEMORY_OTHER, 100000, &buffer), QS_OK);
    assert_int_equal(qs_queue_create(context, &queue), QS_OK);
    assert_int_equal((uintptr_t)buffer->memory % 4096, 0);
    assert_true(readable(in));
    assert_false(readable(buffer->memory));
    for (int i = 0; i < 256; i++)
        in[i] = (uint8_t)(i * 7);
    qs_view a = qs_view_at(buffer, 4096, QS_U8, 2, 128), b = qs_view_at(buffer, 64, QS_U8, 2, 128);
    assert_int_equal(qs_read(queue, a, out), QS_OK);
    for (int i = 0; i < 256; i++)
        assert_int_equal(out[i], 0);
    assert_int_equal(qs_write(queue, a, in), QS_OK);
    qs_op op = qs_op_copy(b, a);
    assert_int_equal(qs_submit(queue, &op, 1), QS_OK);
    assert_int_equal(qs_sync(queue), QS_OK);
    assert_int_equal(qs_read(queue, b, out), QS_OK);
    assert_memory_equal(in, out, sizeof in);
    assert_false(readable(buffer->memory));
    qs_queue_free(&queue);
    qs_buffer_free(&buffer);
    qs_memory_usage usage;
    qs_memory(context, QS_MEMORY_TAGS, &usage);
    assert_int_equal(usage.current_bytes, 0);
    qs_close(&context);
}

/* One packed product on a device; the same bytes are wanted from all. */
static void product_on(const char *device, float out[5 * 64])
{
    enum { ROWS = 5, OUTPUTS = 64, INPUTS = 96 };
    qs_context *context = NULL;
    qs_buffer *buffer = NULL;
    qs_queue *queue = NULL;
    float x[ROWS * INPUTS];
    uint32_t w[OUTPUTS * INPUTS / 32];
    uint16_t scale[OUTPUTS];
    for (int i = 0; i < ROWS * INPUTS; i++)
        x[i] = (float)((i * 2654435761u) >> 8 & 0xFFFF) / 65536.0f - 0.5f;
    for (int i = 0; i < OUTPUTS * INPUTS / 32; i++)
        w[i] = (uint32_t)i * 2246822519u ^ 0x9E3779B9u;
    for (int i = 0; i < OUTPUTS; i++)
        scale[i] = qs_float_to_half(0.01f * (float)(i + 1));
    assert_int_equal(open_device(device, NULL, &context), QS_OK);
    assert_int_equal(qs_buffer_create(context, QS_MEMORY_OTHER, 65536, &buffer), QS_OK);
    assert_int_equal(qs_queue_create(context, &queue), QS_OK);
    qs_view vx = qs_view_at(buffer, 0, QS_F32, ROWS, INPUTS), vw = qs_view_at(buffer, 8192, QS_W1, OUTPUTS, INPUTS);
    qs_view vs = qs_view_at(buffer, 16384, QS_F16, 1, OUTPUTS), vy = qs_view_at(buffer, 32768, QS_F32, ROWS, OUTPUTS);
    assert_int_equal(qs_write(queue, vx, x), QS_OK);
    assert_int_equal(qs_write(queue, vw, w), QS_OK);
    assert_int_equal(qs_write(queue, vs, scale), QS_OK);
    qs_op op = qs_op_linear(vy, vx, vw, vs, qs_absent());
    assert_int_equal(qs_submit(queue, &op, 1), QS_OK);
    assert_int_equal(qs_read(queue, vy, out), QS_OK);
    qs_queue_free(&queue);
    qs_buffer_free(&buffer);
    qs_close(&context);
}

static void test_fake_equals_cpu(void **state)
{
    (void)state;
    float cpu[5 * 64], fake[5 * 64];
    product_on("cpu", cpu);
    product_on("fake", fake);
    assert_memory_equal(cpu, fake, sizeof cpu);
    assert_true(cpu[17] != 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_broken_plugins), cmocka_unit_test(test_bad_names),   cmocka_unit_test(test_not_a_library),
        cmocka_unit_test(test_list),           cmocka_unit_test(test_fake_device), cmocka_unit_test(test_fake_equals_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
