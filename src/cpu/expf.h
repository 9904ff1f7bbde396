/* expf.h - the defined exponential of class ORDERED: one sequence of fp32 operations that every level repeats lane by
 * lane (the twins of 8 and 16 lanes are qsi_exp8 in avx2.h and qsi_exp16 in avx512.h), so that exp(x) is the same bits
 * everywhere and never a libm's.
 *
 *   x > EXP_HIGH: +inf.  x < EXP_LOW: +0.  NaN: NaN.  Otherwise
 *   n = rint(x * log2(e)),  r = x - n * ln(2) in two fma steps (the first is exact),  |r| < 0.3467,
 *   e = 1 + r + r^2 (E2 + r (E3 + r (E4 + r (E5 + r E6)))) by Horner fma,  then n is added to the exponent of e.
 *
 * E2..E6: minimax fit of (exp(r) - 1 - r) / r^2 weighted by r^2 / exp(r) (iteratively reweighted least squares, rounded to
 * fp32); relative error of the polynomial 3.8e-9 = 0.064 * 2^-24. Total error below 1 ulp (tests/check_kernels.c).
 * The bounds lie just inside ln(FLT_MAX) = 88.7228 and ln(FLT_MIN) = -87.3365, so 2^n e is always a normal number: the
 * addition to the exponent is exact and no result is rounded twice. */
#ifndef QSI_EXPF_H
#define QSI_EXPF_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define QSI_EXP_HIGH   88.71875f
#define QSI_EXP_LOW    (-87.3125f)
#define QSI_EXP_LOG2E  0x1.715476p+0f
#define QSI_EXP_LN2_HI 0x1.62e430p-1f    /* ln 2 rounded to 24 bits; n * it loses nothing inside an fma */
#define QSI_EXP_LN2_LO (-0x1.05c610p-29f)
#define QSI_EXP_E2     0x1.fffffcp-2f
#define QSI_EXP_E3     0x1.555492p-3f
#define QSI_EXP_E4     0x1.5558f2p-5f
#define QSI_EXP_E5     0x1.1239e4p-7f
#define QSI_EXP_E6     0x1.6a2432p-10f

static inline float qsi_expf(float x)
{
    if (x > QSI_EXP_HIGH)
        return INFINITY;
    if (x < QSI_EXP_LOW)
        return 0.0f;
    if (x != x)
        return x;
    const float n = rintf(x * QSI_EXP_LOG2E);
    float r = fmaf(n, -QSI_EXP_LN2_HI, x);
    r = fmaf(n, -QSI_EXP_LN2_LO, r);
    float e = fmaf(QSI_EXP_E6, r, QSI_EXP_E5);
    e = fmaf(e, r, QSI_EXP_E4);
    e = fmaf(e, r, QSI_EXP_E3);
    e = fmaf(e, r, QSI_EXP_E2);
    e = fmaf(e, r, 1.0f);
    e = fmaf(e, r, 1.0f);
    uint32_t bits;
    memcpy(&bits, &e, sizeof bits);
    bits += (uint32_t)(int32_t)n << 23;
    memcpy(&e, &bits, sizeof e);
    return e;
}

#endif
