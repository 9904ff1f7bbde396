/* detmath.c - exp, log, pow, cos, sin and the inverse error function in written double arithmetic.
 *
 * Argument reduction after Cody and Waite (constants split so that products with small integers are exact), then
 * Taylor or odd series in Horner form, long enough that the first omitted term is below 2^-53. Exponents are moved by
 * integer arithmetic on the bits, which is exact. Nothing here depends on a C library or a rounding mode other than
 * round to nearest; -ffp-contract=off keeps every operation as written. */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "core/detmath.h"

static uint64_t bits_of(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static double double_of(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* 2^k for -1022 <= k <= 1023 */
static double power_of_two(int k)
{
    return double_of((uint64_t)(k + 1023) << 52);
}

/* c[0] + x (c[1] + x (c[2] + ...)) */
static double polynomial(const double *c, int n, double x)
{
    double sum = c[n - 1];
    for (int i = n - 2; i >= 0; i--)
        sum = sum * x + c[i];
    return sum;
}

/* ln 2 in two parts; the first has 32 trailing zero bits, so k * LN2_HI is exact for |k| < 2^20. */
#define LN2_HI 6.93147180369123816490e-01
#define LN2_LO 1.90821492927058770002e-10

double qsi_exp(double x)
{
    /* 1/n! for n = 2..14; |r| <= ln(2)/2 makes the next term 3e-19. */
    static const double c[] = {1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,
                               1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0, 1.0 / 87178291200.0};
    if (x != x)
        return x;
    if (x > 709.8)
        return (double)INFINITY;
    if (x < -745.2)
        return 0.0;
    double k = floor(x * 1.44269504088896338700 + 0.5);
    double r = (x - k * LN2_HI) - k * LN2_LO;
    double y = 1.0 + (r + (r * r) * polynomial(c, 13, r));
    /* In two factors: k reaches 1024 at the top and the subnormal range at the bottom. */
    int whole = (int)k, half = whole / 2;
    return (y * power_of_two(half)) * power_of_two(whole - half);
}

double qsi_log(double x)
{
    /* log m = 2 (s + s^3/3 + s^5/5 + ...), s = (m - 1)/(m + 1), |s| < 0.172 */
    static const double c[] = {1.0 / 3,  1.0 / 5,  1.0 / 7,  1.0 / 9,  1.0 / 11, 1.0 / 13,
                               1.0 / 15, 1.0 / 17, 1.0 / 19, 1.0 / 21, 1.0 / 23};
    if (!(x > 0.0))
        return x == 0.0 ? -(double)INFINITY : (double)NAN;
    if (x > DBL_MAX)
        return x;
    int e = 0;
    if (x < DBL_MIN) {
        x *= 0x1p54;
        e = -54;
    }
    uint64_t bits = bits_of(x);
    e += (int)(bits >> 52) - 1023;
    double m = double_of((bits & 0xFFFFFFFFFFFFFULL) | 0x3FF0000000000000ULL);
    if (m > 1.41421356237309504880) {
        m *= 0.5;
        e += 1;
    }
    double f = m - 1.0, s = f / (2.0 + f), z = s * s;
    double tail = 2.0 * s * z * polynomial(c, 11, z);
    return (double)e * LN2_HI + (2.0 * s + (tail + (double)e * LN2_LO));
}

double qsi_pow(double x, double y)
{
    return qsi_exp(y * qsi_log(x));
}

/* pi/2 in four parts; the first three have at most 33 significant bits, so products with k < 2^20 are exact. */
#define PIO2_1 1.57079632673412561417e+00
#define PIO2_2 6.07710050630396597660e-11
#define PIO2_3 2.02226624871116645580e-21
#define PIO2_4 8.47842766036889956997e-32

/* x = quarter * pi/2 + (*r + *tail), |*r| <= pi/4; returns quarter mod 4. */
static int reduce(double x, double *r, double *tail)
{
    double k = floor(x * 6.36619772367581382433e-01 + 0.5);
    double a = x - k * PIO2_1;                       /* exact */
    double b = k * PIO2_2;                           /* exact */
    double d = a - b;
    double t = d - a;
    double lost = (a - (d - t)) - (b + t);           /* a - b = d + lost, exactly (Knuth) */
    double rest = (lost - k * PIO2_3) - k * PIO2_4;
    *r = d + rest;
    *tail = (d - *r) + rest;
    return (int)((int64_t)k & 3);
}

/* sin(r + tail), |r| <= pi/4: the series to r^17, and tail * cos(r) to first order */
static double sine_part(double r, double tail)
{
    static const double c[] = {-1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880, -1.0 / 39916800, 1.0 / 6227020800.0,
                               -1.0 / 1307674368000.0, 1.0 / 355687428096000.0};
    double z = r * r;
    return r + (r * z * polynomial(c, 8, z) + tail * (1.0 - 0.5 * z));
}

/* cos(r + tail): the series to r^18, and -tail * sin(r) to first order */
static double cosine_part(double r, double tail)
{
    static const double c[] = {1.0 / 24, -1.0 / 720, 1.0 / 40320, -1.0 / 3628800, 1.0 / 479001600, -1.0 / 87178291200.0,
                               1.0 / 20922789888000.0, -1.0 / 6402373705728000.0};
    double z = r * r;
    return 1.0 - (0.5 * z - (z * z * polynomial(c, 8, z) - tail * r));
}

double qsi_sin(double x)
{
    double r, tail;
    switch (reduce(x, &r, &tail)) {
    case 0: return sine_part(r, tail);
    case 1: return cosine_part(r, tail);
    case 2: return -sine_part(r, tail);
    default: return -cosine_part(r, tail);
    }
}

double qsi_cos(double x)
{
    double r, tail;
    switch (reduce(x, &r, &tail)) {
    case 0: return cosine_part(r, tail);
    case 1: return -sine_part(r, tail);
    case 2: return -cosine_part(r, tail);
    default: return sine_part(r, tail);
    }
}

/* Quantile of the normal distribution: Wichura, "Algorithm AS 241", Applied Statistics 37 (1988), routine PPND16,
 * relative accuracy about 1e-16. erfinv(p) = quantile((1 + p) / 2) / sqrt(2), so its q is p / 2. */
double qsi_erfinv(double p)
{
    static const double a[] = {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
                               1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
                               3.3430575583588128105e4, 2.5090809287301226727e3};
    static const double b[] = {1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
                               2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4,
                               5.2264952788528545610e3};
    static const double c[] = {1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0,
                               3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1,
                               2.27238449892691845833e-2, 7.74545014278341407640e-4};
    static const double d[] = {1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
                               1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4,
                               1.05075007164441684324e-9};
    static const double e[] = {6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0,
                               2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
                               2.71155556874348757815e-5, 2.01033439929228813265e-7};
    static const double f[] = {1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
                               7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7,
                               2.04426310338993978564e-15};
    static const double sqrt_half = 7.07106781186547524401e-01;
    if (!(p > -1.0 && p < 1.0))
        return p == 1.0 ? (double)INFINITY : p == -1.0 ? -(double)INFINITY : (double)NAN;
    double size = p < 0.0 ? -p : p, value;
    if (size <= 0.85) {
        double r = 0.180625 - 0.25 * (p * p);
        return sqrt_half * ((0.5 * p) * (polynomial(a, 8, r) / polynomial(b, 8, r)));
    }
    double r = sqrt(-qsi_log(0.5 * (1.0 - size)));
    if (r <= 5.0)
        value = polynomial(c, 8, r - 1.6) / polynomial(d, 8, r - 1.6);
    else
        value = polynomial(e, 8, r - 5.0) / polynomial(f, 8, r - 5.0);
    return p < 0.0 ? -sqrt_half * value : sqrt_half * value;
}
