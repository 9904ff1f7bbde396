/* neon.h - what the NEON files share: the parts of the table, the exponential, partial loads, transposes.
 *
 * The level is the baseline of aarch64, so its functions need no target attribute. The 16 stripes of a sum are four
 * registers. vfmaq is the written fma; nothing else is contracted (-ffp-contract=off). */
#ifndef QSI_NEON_H
#define QSI_NEON_H

#include "cpu/kernels.h"

#if defined(__aarch64__) && defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define QSI_HAVE_NEON 1
#else
#define QSI_HAVE_NEON 0
#endif

#if QSI_HAVE_NEON
#include <arm_neon.h>
#include "cpu/expf.h"
#include "cpu/fold.h"

#define NEON_INLINE __attribute__((always_inline)) static inline

/* Before a loop over an array of vectors with constant bounds: gcc at -O2 would keep the array in memory. */
#if defined(__clang__)
#define UNROLL
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

void qsi_neon_w1(qsi_kernels *table);
void qsi_neon_i8(qsi_kernels *table);
void qsi_neon_features(qsi_kernels *table);
void qsi_neon_gradient(qsi_kernels *table);
void qsi_neon_dense(qsi_kernels *table);
void qsi_neon_vector(qsi_kernels *table);
void qsi_neon_attention(qsi_kernels *table);
void qsi_neon_fsm(qsi_kernels *table);

/* neon_dense.c; also the product of the expanded bf16 operands. */
void qsi_neon_gemm(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_depth, const float *b, int64_t ldb,
                   int64_t m, int64_t n, int64_t depth, int accumulate);

/* columns[c], bit r = bit c % 32 of word c / 32 of row r, for 32 rows (those from `rows` on count as 0) and count columns, a
 * multiple of 32 (neon_w1.c). */
void qsi_neon_transpose_bits(uint32_t *columns, const uint32_t *w, int64_t ldw, int64_t rows, int64_t count);

/* y[rows, count] = f S + addend from S[count, tokens], f = s[row], times the half scale[column] with scale: fma(f, S,
 * addend), or f * S without addend. Reads 4 tokens and 4 outputs at a time (neon_i8.c). */
void qsi_neon_i8_finish(float *y, int64_t ldy, const int32_t *sums, int64_t tokens, const float *s, const uint16_t *scale,
                        const float *addend, int64_t ldadd, int64_t rows, int64_t count);

/* The first `left` of 4 floats, left > 0: loads give 0 elsewhere, stores leave the rest alone. */
NEON_INLINE float32x4_t qsi_load4(const float *p, int64_t left)
{
    if (left >= 4)
        return vld1q_f32(p);
    float part[4] = {p[0], left > 1 ? p[1] : 0.0f, left > 2 ? p[2] : 0.0f, 0.0f};
    return vld1q_f32(part);
}

NEON_INLINE void qsi_store4(float *p, float32x4_t x, int64_t left)
{
    if (left >= 4) {
        vst1q_f32(p, x);
        return;
    }
    vst1q_lane_f32(p, x, 0);
    if (left > 1)
        vst1q_lane_f32(p + 1, x, 1);
    if (left > 2)
        vst1q_lane_f32(p + 2, x, 2);
}

/* All ones in the first `left` lanes. */
NEON_INLINE uint32x4_t qsi_mask4(int64_t left)
{
    static const int32_t lanes[4] = {0, 1, 2, 3};
    return vcgtq_s32(vdupq_n_s32(left >= 4 ? 4 : (int32_t)left), vld1q_s32(lanes));
}

/* x in the first `left` lanes, old in the others. */
NEON_INLINE float32x4_t qsi_keep4(float32x4_t old, float32x4_t x, int64_t left)
{
    return left >= 4 ? x : vbslq_f32(qsi_mask4(left), x, old);
}

/* The first `left` of 4 halves as floats, 0 beyond. */
NEON_INLINE float32x4_t qsi_halves4(const uint16_t *p, int64_t left)
{
    uint16_t part[4] = {0};
    memcpy(part, p, (size_t)(left >= 4 ? 4 : left) * sizeof *p);
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(part)));
}

/* All ones in lane i where bit i + shift of word is set. */
NEON_INLINE uint32x4_t qsi_lanes_of(uint32_t word, int shift)
{
    static const uint32_t bits[4] = {1, 2, 4, 8};
    return vtstq_u32(vdupq_n_u32(word >> shift), vld1q_u32(bits));
}

/* Bit i of the result = lane i, all ones or zero. */
NEON_INLINE uint32_t qsi_bits_of(uint32x4_t lanes)
{
    static const uint32_t bits[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(lanes, vld1q_u32(bits)));
}

/* -x where the lane of keep is zero, x where it is all ones. */
NEON_INLINE float32x4_t qsi_signed4(float32x4_t x, uint32x4_t keep)
{
    return vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(x), vbicq_u32(vdupq_n_u32(0x80000000u), keep)));
}

/* x where the lane of mask is all ones, else +0. */
NEON_INLINE float32x4_t qsi_where4(uint32x4_t mask, float32x4_t x)
{
    return vreinterpretq_f32_u32(vandq_u32(mask, vreinterpretq_u32_f32(x)));
}

/* qsi_expf in 4 lanes, the same operations in the same order. NaN stays NaN by itself: it converts to 0. */
NEON_INLINE float32x4_t qsi_exp4(float32x4_t x)
{
    const float32x4_t n = vrndnq_f32(vmulq_f32(x, vdupq_n_f32(QSI_EXP_LOG2E)));
    float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(-QSI_EXP_LN2_HI));
    r = vfmaq_f32(r, n, vdupq_n_f32(-QSI_EXP_LN2_LO));
    float32x4_t e = vfmaq_f32(vdupq_n_f32(QSI_EXP_E5), vdupq_n_f32(QSI_EXP_E6), r);
    e = vfmaq_f32(vdupq_n_f32(QSI_EXP_E4), e, r);
    e = vfmaq_f32(vdupq_n_f32(QSI_EXP_E3), e, r);
    e = vfmaq_f32(vdupq_n_f32(QSI_EXP_E2), e, r);
    e = vfmaq_f32(vdupq_n_f32(1.0f), e, r);
    e = vfmaq_f32(vdupq_n_f32(1.0f), e, r);
    e = vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(e), vshlq_n_s32(vcvtq_s32_f32(n), 23)));
    e = vbslq_f32(vcgtq_f32(x, vdupq_n_f32(QSI_EXP_HIGH)), vdupq_n_f32(INFINITY), e);
    return qsi_where4(vmvnq_u32(vcltq_f32(x, vdupq_n_f32(QSI_EXP_LOW))), e);
}

/* qsi_fold16 of the stripes 0..3, 4..7, 8..11, 12..15. */
NEON_INLINE float qsi_fold16_neon(float32x4_t s0, float32x4_t s1, float32x4_t s2, float32x4_t s3)
{
    const float32x4_t s4 = vaddq_f32(vaddq_f32(s0, s2), vaddq_f32(s1, s3));
    const float32x2_t s = vadd_f32(vget_low_f32(s4), vget_high_f32(s4));
    return vget_lane_f32(s, 0) + vget_lane_f32(s, 1);
}

/* Lane i of r[j] and lane j of r[i] change places. */
NEON_INLINE void qsi_transpose4(float32x4_t r[4])
{
    const float32x4_t t0 = vtrn1q_f32(r[0], r[1]), t1 = vtrn2q_f32(r[0], r[1]);
    const float32x4_t t2 = vtrn1q_f32(r[2], r[3]), t3 = vtrn2q_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(t0), vget_low_f32(t2));
    r[1] = vcombine_f32(vget_low_f32(t1), vget_low_f32(t3));
    r[2] = vcombine_f32(vget_high_f32(t0), vget_high_f32(t2));
    r[3] = vcombine_f32(vget_high_f32(t1), vget_high_f32(t3));
}

/* bf16 of each lane in its low half: round to nearest even, NaN stays NaN (made quiet). */
NEON_INLINE uint32x4_t qsi_bf16_4(float32x4_t x)
{
    const uint32x4_t bits = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7FFF)), odd), 16);
    const uint32x4_t quiet = vorrq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(0x40));
    return vbslq_u32(vceqq_f32(x, x), rounded, quiet);
}

#endif
#endif
