/* test_detmath.c - our elementary functions against the C library over their stated ranges, and golden bits that keep
 * them the same on every compiler. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <math.h>
#include "core/detmath.h"

/* A sequence of numbers in [0, 1) that does not depend on the C library: Weyl's, step 1/golden ratio. */
static double weyl(int i)
{
    double x = (double)i * 0.6180339887498949;
    return x - floor(x);
}

static void assert_near(const char *name, double x, double got, double want, double relative)
{
    if (got == want)
        return;
    if (!(fabs(got - want) <= relative * fabs(want)))
        fail_msg("%s(%.17g) = %.17g, want %.17g, off by %g", name, x, got, want, fabs(got - want) / fabs(want));
}

static void test_exp(void **state)
{
    (void)state;
    for (int i = 0; i < 200000; i++) {
        double x = weyl(i) * 1417.0 - 708.0, tiny = (weyl(i) - 0.5) * 1e-3;
        assert_near("exp", x, qsi_exp(x), exp(x), 1e-14);
        assert_near("exp", tiny, qsi_exp(tiny), exp(tiny), 1e-15);
    }
    assert_true(qsi_exp(0.0) == 1.0 && qsi_exp(-746.0) == 0.0 && isinf(qsi_exp(709.9)) && isnan(qsi_exp((double)NAN)));
    assert_true(qsi_exp(-(double)INFINITY) == 0.0 && isinf(qsi_exp((double)INFINITY)));
    assert_true(fabs(qsi_exp(-740.0) - exp(-740.0)) <= 5e-324);
}

static void test_log(void **state)
{
    (void)state;
    for (int i = 1; i < 200000; i++) {
        double x = exp(weyl(i) * 1416.0 - 708.0), near_one = 1.0 + (weyl(i) - 0.5) * 1e-4;
        assert_near("log", x, qsi_log(x), log(x), 1e-14);
        assert_near("log", near_one, qsi_log(near_one), log(near_one), 1e-14);
    }
    assert_true(qsi_log(1.0) == 0.0 && isinf(qsi_log(0.0)) && isnan(qsi_log(-1.0)) && isnan(qsi_log((double)NAN)));
    assert_near("log", 5e-324, qsi_log(5e-324), log(5e-324), 1e-14);
}

static void test_pow(void **state)
{
    (void)state;
    for (int i = 1; i < 50000; i++) {
        double x = 1e-3 + weyl(i) * 1e4, y = (weyl(7 * i) - 0.5) * 20;
        assert_near("pow", x, qsi_pow(x, y), pow(x, y), 1e-14 * (1 + fabs(y * log(x))));
    }
}

static void test_sin_cos(void **state)
{
    (void)state;
    for (int i = 0; i < 200000; i++) {
        double small = (weyl(i) - 0.5) * 20.0, large = (weyl(i) - 0.5) * 2e6;
        assert_near("sin", small, qsi_sin(small), sin(small), 1e-14);
        assert_near("cos", small, qsi_cos(small), cos(small), 1e-14);
        assert_near("sin", large, qsi_sin(large), sin(large), 1e-14);
        assert_near("cos", large, qsi_cos(large), cos(large), 1e-14);
    }
    for (int k = 1; k < 600000; k += 7) {   /* beside the zeros, where the reduction has to be good */
        double x = k * 1.57079632679489661923;
        assert_near("sin", x, qsi_sin(x), sin(x), 1e-14);
        assert_near("cos", x, qsi_cos(x), cos(x), 1e-14);
    }
}

static void test_erfinv(void **state)
{
    (void)state;
    for (int i = 1; i < 100000; i++) {   /* through the library's erf: p = erf(x) loses d(p)/p in x */
        double x = weyl(i) * 3.0 + 1e-9, p = erf(x);
        if (p < 0.999)
            assert_near("erfinv", p, qsi_erfinv(p), x, 1e-10);
        assert_near("erfinv", -p, qsi_erfinv(-p), -qsi_erfinv(p), 0);
    }
    for (int e = 3; e <= 15; e++) {      /* the tail, where 1 - p is exact and erfc keeps the digits */
        double p = 1.0 - pow(10, -e), x = qsi_erfinv(p);
        double slope = 2.0 / sqrt(3.14159265358979323846) * exp(-x * x);
        assert_near("erfinv", p, x, x + (erfc(x) - (1.0 - p)) / slope, 1e-9);
    }
    assert_true(qsi_erfinv(0.0) == 0.0 && isinf(qsi_erfinv(1.0)) && isnan(qsi_erfinv(1.5)));
}

/* The bits themselves: the same for every compiler, level of optimization and C library. */
static void test_golden_bits(void **state)
{
    (void)state;
    uint64_t sum = 0, bits;
    for (int i = 1; i < 20000; i++) {
        double u = weyl(i);
        double values[] = {qsi_exp(u * 1400 - 700), qsi_log(u * 1e6), qsi_pow(u * 10 + 0.1, u * 30), qsi_sin(u * 1e6),
                           qsi_cos(u * 1e6), qsi_erfinv(2 * u - 1)};
        for (size_t j = 0; j < sizeof values / sizeof *values; j++) {
            memcpy(&bits, &values[j], sizeof bits);
            sum = (sum ^ bits) * 1099511628211u;   /* FNV-1a over words */
        }
    }
    assert_int_equal(sum, 0x6ac82bf961bd4366u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),     cmocka_unit_test(test_log),    cmocka_unit_test(test_pow),
        cmocka_unit_test(test_sin_cos), cmocka_unit_test(test_erfinv), cmocka_unit_test(test_golden_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
