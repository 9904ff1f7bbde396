/* test_files.c - writers that leave the old file or the new one, mapped files, folders, control group limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/internal.h"

static char root[] = "/tmp/qsbits-files-XXXXXX";

static void assert_says(const char *part)
{
    if (!strstr(qs_last_error(), part))
        fail_msg("\"%s\" does not contain \"%s\"", qs_last_error(), part);
}

/* root/name in one of four buffers, so that an expression may hold several. */
static const char *at(const char *name)
{
    static char paths[4][256];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return path;
}

static void put(const char *path, const char *text)
{
    qsi_writer *writer = NULL;
    assert_int_equal(qsi_writer_open(path, &writer), QS_OK);
    assert_int_equal(qsi_writer_write(writer, text, strlen(text)), QS_OK);
    assert_int_equal(qsi_writer_commit(&writer), QS_OK);
    assert_null(writer);
}

static void assert_holds(const char *path, const char *text)
{
    qsi_mapping map;
    assert_int_equal(qsi_map_file(path, &map), QS_OK);
    assert_int_equal(map.bytes, strlen(text));
    assert_memory_equal(map.data, text, strlen(text));
    qsi_unmap(&map);
}

static void test_writer(void **state)
{
    (void)state;
    put(at("a"), "first");
    assert_holds(at("a"), "first");
    put(at("empty"), "");
    assert_holds(at("empty"), "");
    qsi_writer *writer = NULL;
    assert_int_equal(qsi_writer_open(at("a"), &writer), QS_OK);
    assert_int_equal(qsi_writer_write(writer, "second", 6), QS_OK);
    assert_true(qsi_path_exists(at("a.tmp")));
    assert_holds(at("a"), "first");
    qsi_writer_abort(&writer);
    assert_null(writer);
    assert_false(qsi_path_exists(at("a.tmp")));
    assert_holds(at("a"), "first");
    qsi_writer_abort(&writer);
}

/* Pieces below, at and above the size of the writer's buffer arrive in order. */
static void test_writer_sizes(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 65535, 1, 65536, 7, 200000, 65535, 2};
    size_t total = 0;
    uint8_t *all = test_malloc(1 << 20);
    for (size_t i = 0; i < 1 << 20; i++)
        all[i] = (uint8_t)(i * 2654435761u >> 13);
    qsi_writer *writer = NULL;
    assert_int_equal(qsi_writer_open(at("sizes"), &writer), QS_OK);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        assert_int_equal(qsi_writer_write(writer, all + total, sizes[i]), QS_OK);
        total += sizes[i];
    }
    assert_int_equal(qsi_writer_commit(&writer), QS_OK);
    qsi_mapping map;
    assert_int_equal(qsi_map_file(at("sizes"), &map), QS_OK);
    assert_int_equal(map.bytes, total);
    assert_memory_equal(map.data, all, total);
    qsi_unmap(&map);
    test_free(all);
}

static void test_writer_errors(void **state)
{
    (void)state;
    qsi_writer *writer = NULL;
    assert_int_equal(qsi_writer_open(at("none/file"), &writer), QS_ERR_CREATE);
    assert_says("cannot write");
    assert_says("none/file: No such file or directory");
    assert_int_equal(qsi_writer_open(root, &writer), QS_ERR_CREATE);
    assert_says("Is a directory");
    assert_null(writer);
    if (access("/dev/full", W_OK) == 0) {
        assert_int_equal(qsi_writer_open("/dev/full", &writer), QS_OK);
        assert_int_equal(qsi_writer_write(writer, "x", 1), QS_OK);
        assert_int_equal(qsi_writer_commit(&writer), QS_ERR_IO);
        assert_string_equal(qs_last_error(), "cannot write /dev/full: No space left on device");
        assert_null(writer);
        assert_false(qsi_path_exists("/dev/full.tmp"));
    }
    put(at("plain"), "text");
    assert_int_equal(qsi_writer_open(at("plain/file"), &writer), QS_ERR_CREATE);
    assert_says("Not a directory");
    if (geteuid() != 0) {   /* permissions do not bind root */
        assert_int_equal(mkdir(at("sealed"), 0555), 0);
        assert_int_equal(qsi_writer_open(at("sealed/file"), &writer), QS_ERR_CREATE);
        assert_says("Permission denied");
    }
    if (access("/proc/version", F_OK) == 0) {
        assert_int_equal(qsi_writer_open("/proc/qsbits", &writer), QS_ERR_CREATE);
        assert_says("cannot write /proc/qsbits");
    }
}

static void test_map_errors(void **state)
{
    (void)state;
    qsi_mapping map;
    assert_int_equal(qsi_map_file(at("absent"), &map), QS_ERR_NOINPUT);
    assert_says("absent: No such file or directory");
    assert_int_equal(qsi_map_file(root, &map), QS_ERR_NOINPUT);
    assert_says("not a regular file");
}

static void test_folders(void **state)
{
    (void)state;
    assert_int_equal(qsi_mkdir(at("x/y//z/")), QS_OK);
    assert_int_equal(qsi_mkdir(at("x/y/z")), QS_OK);
    assert_true(qsi_is_directory(at("x/y/z")));
    put(at("x/b"), "1");
    put(at("x/B"), "2");
    put(at("x/y/z/deep"), "3");
    char **names = NULL;
    int64_t count = 0;
    assert_int_equal(qsi_list_directory(at("x"), &names, &count), QS_OK);
    assert_int_equal(count, 3);
    assert_string_equal(names[0], "B");
    assert_string_equal(names[1], "b");
    assert_string_equal(names[2], "y");
    qsi_free_names(names, count);
    assert_int_equal(qsi_list_directory(at("nowhere"), &names, &count), QS_ERR_NOINPUT);
    assert_int_equal(qsi_mkdir(at("x/b/c")), QS_ERR_CREATE);
    assert_says("cannot create the folder");
    assert_says("x/b: Not a directory");
    assert_int_equal(symlink(root, at("x/y/link")), 0);
    assert_int_equal(qsi_rename_durable(at("x/b"), at("x/y/moved")), QS_OK);
    assert_int_equal(qsi_rename_durable(at("x/b"), at("x/y/moved")), QS_ERR_IO);
    assert_int_equal(qsi_remove_tree(at("x")), QS_OK);
    assert_false(qsi_path_exists(at("x")));
    assert_true(qsi_path_exists(at("a")));   /* the link was removed, not what it points to */
    assert_int_equal(qsi_remove_tree(at("x")), QS_OK);
    char *joined = qsi_path_join("a/", "b");
    assert_string_equal(joined, "a/b");
    qsi_free(joined);
}

/* A cgroup tree of our own: version 2 with a limit halfway up, then version 1. */
static void test_cgroups(void **state)
{
    (void)state;
    assert_int_equal(qsi_mkdir(at("v2/outer/inner")), QS_OK);
    put(at("v2/member"), "0::/outer/inner\n");
    put(at("v2/outer/cpu.max"), "150000 100000\n");
    put(at("v2/outer/inner/cpu.max"), "max 100000\n");
    put(at("v2/outer/inner/memory.max"), "1073741824\n");
    put(at("v2/outer/memory.max"), "max\n");
    assert_true(qsi_cgroup_limit(at("v2/member"), at("v2"), "cpu") == 1.5);
    assert_true(qsi_cgroup_limit(at("v2/member"), at("v2"), "memory") == 1073741824.0);
    assert_int_equal(qsi_mkdir(at("v1/cpu/g")), QS_OK);
    assert_int_equal(qsi_mkdir(at("v1/memory")), QS_OK);
    put(at("v1/member"), "4:memory:/elsewhere\n3:cpu,cpuacct:/g\n0::/\n");
    put(at("v1/cpu/g/cpu.cfs_quota_us"), "300000\n");
    put(at("v1/cpu/g/cpu.cfs_period_us"), "100000\n");
    put(at("v1/cpu/cpu.cfs_quota_us"), "-1\n");
    put(at("v1/memory/memory.limit_in_bytes"), "4096000\n");
    assert_true(qsi_cgroup_limit(at("v1/member"), at("v1"), "cpu") == 3.0);
    assert_true(qsi_cgroup_limit(at("v1/member"), at("v1"), "memory") == 4096000.0);
    assert_true(qsi_cgroup_limit(at("none"), at("v1"), "cpu") < 0);
}

static void test_machine(void **state)
{
    (void)state;
    assert_in_range(qsi_cpu_count(), 1, 1024);
    assert_true(qsi_memory_total() > 1 << 20);
    assert_true(qs_peak_rss() > 1 << 16);
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return qsi_remove_tree(root) == QS_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_writer),     cmocka_unit_test(test_writer_sizes), cmocka_unit_test(test_writer_errors),
        cmocka_unit_test(test_map_errors), cmocka_unit_test(test_folders),      cmocka_unit_test(test_cgroups),
        cmocka_unit_test(test_machine),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
