/* cmocka.h - as much of cmocka as check_kernels.c needs, so that a cross build needs no library of the target's. A failed
 * assertion ends its test; the group returns how many failed. */
#ifndef QSBITS_AARCH64_CMOCKA_H
#define QSBITS_AARCH64_CMOCKA_H

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

typedef void CMUnitTestFunction(void **state);

struct CMUnitTest {
    const char *name;
    CMUnitTestFunction *test_func;
    int (*setup_func)(void **state);
    int (*teardown_func)(void **state);
    void *initial_state;
};

#define cmocka_unit_test(function) {#function, function, NULL, NULL, NULL}

static jmp_buf cmocka_failed;

static inline void cmocka_check(int holds, const char *text, const char *file, int line)
{
    if (holds)
        return;
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, text);
    longjmp(cmocka_failed, 1);
}

#define assert_true(x) cmocka_check(!!(x), #x, __FILE__, __LINE__)
#define assert_null(x) cmocka_check((x) == NULL, #x " == NULL", __FILE__, __LINE__)
#define assert_int_equal(a, b) cmocka_check((long long)(a) == (long long)(b), #a " == " #b, __FILE__, __LINE__)
#define assert_memory_equal(a, b, n) cmocka_check(memcmp(a, b, n) == 0, #a " equals " #b, __FILE__, __LINE__)
#define assert_memory_not_equal(a, b, n) cmocka_check(memcmp(a, b, n) != 0, #a " differs from " #b, __FILE__, __LINE__)

static inline int cmocka_run(const char *group, const struct CMUnitTest *tests, size_t count)
{
    volatile int failed = 0;
    for (volatile size_t i = 0; i < count; i++) {
        void *state = tests[i].initial_state;
        if (setjmp(cmocka_failed) == 0) {
            tests[i].test_func(&state);
            continue;
        }
        fprintf(stderr, "FAILED %s %s\n", group, tests[i].name);
        failed++;
    }
    printf("%s: %zu tests, %d failed\n", group, count, failed);
    return failed;
}

#define _cmocka_run_group_tests(group, tests, count, setup, teardown) cmocka_run(group, tests, count)

#endif
