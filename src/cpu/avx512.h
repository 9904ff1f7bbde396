/* avx512.h - what the AVX-512 files share: the target attribute, the parts of the table, the exponential, masked tails.
 *
 * The level needs F, BW, DQ and VL, nothing newer, and 64 bytes of every register saved by the operating system. The 16
 * stripes of a sum are one register. */
#ifndef QSI_AVX512_H
#define QSI_AVX512_H

#include "cpu/kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define QSI_HAVE_AVX512 1
#else
#define QSI_HAVE_AVX512 0
#endif

#if QSI_HAVE_AVX512
#include <immintrin.h>
#include "cpu/expf.h"
#include "cpu/fold.h"

#define AVX512_TARGET target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,popcnt")
#define AVX512 __attribute__((AVX512_TARGET))
#define AVX512_INLINE __attribute__((AVX512_TARGET, always_inline)) static inline

/* Before a loop over an array of vectors with constant bounds: gcc at -O2 would keep the array in memory. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 24")
#endif

void qsi_avx512_w1(qsi_kernels *table);
void qsi_avx512_w1_i8(qsi_kernels *table);
void qsi_avx512_dense(qsi_kernels *table);
void qsi_avx512_vector(qsi_kernels *table);
void qsi_avx512_attention(qsi_kernels *table);
void qsi_avx512_fsm(qsi_kernels *table);
void qsi_avx512_i8(qsi_kernels *table);

/* Products of int8 tokens (avx512_w1_i8.c): the level's slots, also for levels above that keep them for many tokens. */
void qsi_avx512_w1_i8_forward(float *y, int64_t ldy, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w,
                              int64_t ldw, const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n,
                              int64_t k, void *scratch);
void qsi_avx512_w1_i8_backward(float *dx, int64_t lddx, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w,
                               int64_t ldw, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k,
                               void *scratch);

/* The first `left` of 16 lanes, left >= 0. Where left is the constant 16, what follows needs no mask. */
AVX512_INLINE __mmask16 qsi_mask16(int64_t left)
{
    return (__mmask16)(left >= 16 ? 0xFFFF : _bzhi_u32(0xFFFF, (uint32_t)left));
}

/* Loads give 0 beyond the mask, stores leave the rest alone. */
AVX512_INLINE __m512 qsi_load16(const float *p, int64_t left)
{
    return left >= 16 ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(qsi_mask16(left), p);
}

AVX512_INLINE void qsi_store16(float *p, __m512 x, int64_t left)
{
    if (left >= 16)
        _mm512_storeu_ps(p, x);
    else
        _mm512_mask_storeu_ps(p, qsi_mask16(left), x);
}

/* x in the first `left` lanes, old in the others. */
AVX512_INLINE __m512 qsi_keep16(__m512 old, __m512 x, int64_t left)
{
    return left >= 16 ? x : _mm512_mask_mov_ps(old, qsi_mask16(left), x);
}

AVX512_INLINE __m512 qsi_set16(float x) { return _mm512_set1_ps(x); }

/* The first `left` of 16 halves as floats, 0 beyond. */
AVX512_INLINE __m512 qsi_halves16(const uint16_t *p, int64_t left)
{
    return _mm512_cvtph_ps(left >= 16 ? _mm256_loadu_si256((const __m256i *)(const void *)p)
                                      : _mm256_maskz_loadu_epi16(qsi_mask16(left), p));
}

/* qsi_fold16 of the 16 lanes. */
AVX512_INLINE float qsi_fold16_avx512(__m512 s)
{
    const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
    const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

AVX512_INLINE __m512 qsi_neg16(__m512 x) { return _mm512_xor_ps(x, _mm512_set1_ps(-0.0f)); }

/* qsi_expf in 16 lanes, the same operations in the same order. NaN stays NaN by itself: it converts to 2^31, of which the
 * shift leaves nothing to add to the exponent. */
AVX512_INLINE __m512 qsi_exp16(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(QSI_EXP_LOG2E)),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-QSI_EXP_LN2_HI), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-QSI_EXP_LN2_LO), r);
    __m512 e = _mm512_fmadd_ps(_mm512_set1_ps(QSI_EXP_E6), r, _mm512_set1_ps(QSI_EXP_E5));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(QSI_EXP_E4));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(QSI_EXP_E3));
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(QSI_EXP_E2));
    e = _mm512_fmadd_ps(e, r, one);
    e = _mm512_fmadd_ps(e, r, one);
    e = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(e), _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23)));
    e = _mm512_mask_mov_ps(e, _mm512_cmp_ps_mask(x, _mm512_set1_ps(QSI_EXP_HIGH), _CMP_GT_OQ), _mm512_set1_ps(INFINITY));
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(QSI_EXP_LOW), _CMP_NLT_UQ), e);
}

#endif
#endif
