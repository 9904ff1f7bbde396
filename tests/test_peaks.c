/* test_peaks.c - qs_cpu_peak tells a rate for every level of this machine and refuses what it cannot measure. No rate is judged. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "qsbits/bench.h"

static void test_rates(void **state)
{
    (void)state;
    for (int level = 0; level < qs_cpu_level_count(); level++) {
        int available = 0;
        const char *name = qs_cpu_level_name(level, &available);
        if (!available)
            continue;
        for (int threads = 1; threads <= 3; threads += 2)
            for (int what = 0; what < QS_PEAKS; what++) {
                double rate = -1;
                assert_int_equal(qs_cpu_peak(name, threads, (qs_peak)what, 100000, 1e-4, &rate), QS_OK);
                assert_true(isfinite(rate));
                assert_true(what == QS_PEAK_DOT16 ? rate >= 0 : rate > 0);
            }
    }
    double rate = 0;
    assert_int_equal(qs_cpu_peak(NULL, 0, QS_PEAK_READ, 5 << 20, 1e-4, &rate), QS_OK);
    assert_true(rate > 0);
}

static void refused(qs_status wanted, const char *words, const char *level, int threads, int what, uint64_t bytes, double seconds)
{
    double rate = -1;
    assert_int_equal(qs_cpu_peak(level, threads, (qs_peak)what, bytes, seconds, &rate), wanted);
    assert_non_null(strstr(qs_last_error(), words));
    assert_true(rate == -1);
}

static void test_refused(void **state)
{
    (void)state;
    refused(QS_ERR_ARG, "sse9", "sse9", 1, QS_PEAK_FMA32, 0, 1e-4);
    refused(QS_ERR_ARG, "threads", NULL, -1, QS_PEAK_FMA32, 0, 1e-4);
    refused(QS_ERR_ARG, "threads", NULL, 1025, QS_PEAK_FMA32, 0, 1e-4);
    refused(QS_ERR_ARG, "no peak", NULL, 1, QS_PEAKS, 0, 1e-4);
    refused(QS_ERR_ARG, "no peak", NULL, 1, -1, 0, 1e-4);
    refused(QS_ERR_ARG, "bytes to read", NULL, 1, QS_PEAK_READ, 4095, 1e-4);
    refused(QS_ERR_ARG, "bytes to read", NULL, 1, QS_PEAK_READ, UINT64_MAX, 1e-4);
    refused(QS_ERR_NOMEM, "cannot allocate", NULL, 1, QS_PEAK_READ, (uint64_t)1 << 61, 1e-4);
    refused(QS_ERR_ARG, "seconds", NULL, 1, QS_PEAK_FMA32, 0, 0);
    refused(QS_ERR_ARG, "seconds", NULL, 1, QS_PEAK_FMA32, 0, NAN);
    refused(QS_ERR_ARG, "seconds", NULL, 1, QS_PEAK_FMA32, 0, 61);
    for (int level = 0; level < qs_cpu_level_count(); level++) {
        int available = 1;
        const char *name = qs_cpu_level_name(level, &available);
        if (!available)
            refused(QS_ERR_DEVICE, name, name, 1, QS_PEAK_FMA32, 0, 1e-4);
    }
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(qs_peak_name(QS_PEAK_FMA32), "fma32");
    assert_string_equal(qs_peak_name(QS_PEAK_READ), "read");
    assert_null(qs_peak_name(QS_PEAKS));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rates), cmocka_unit_test(test_refused), cmocka_unit_test(test_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
