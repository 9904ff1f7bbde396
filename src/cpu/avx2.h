/* avx2.h - what the AVX2 files share: the target attribute, the parts of the table, the exponential, masks, transposes.
 *
 * Functions carry their target as an attribute, so no file needs compiler flags of its own and none of these
 * instructions can leak into code that runs before the level was checked. */
#ifndef QSI_AVX2_H
#define QSI_AVX2_H

#include "cpu/kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define QSI_HAVE_AVX2 1
#else
#define QSI_HAVE_AVX2 0
#endif

#if QSI_HAVE_AVX2
#include <immintrin.h>
#include "cpu/expf.h"
#include "cpu/fold.h"

#define AVX2 __attribute__((target("avx2,fma,f16c,bmi,bmi2,popcnt")))
#define AVX2_INLINE __attribute__((target("avx2,fma,f16c,bmi,bmi2,popcnt"), always_inline)) static inline

/* Before a loop over an array of vectors with constant bounds: gcc at -O2 would keep the array in memory. */
#if defined(__clang__)
#define UNROLL8
#define UNROLL16
#else
#define UNROLL8 _Pragma("GCC unroll 8")
#define UNROLL16 _Pragma("GCC unroll 16")
#endif

/* All ones in lane i where bit i + shift of word is set. */
AVX2_INLINE __m256 qsi_lanes_of(uint32_t word, int shift)
{
    const __m256i bit = _mm256_slli_epi32(_mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128), shift);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)word), bit), bit));
}

void qsi_avx2_w1(qsi_kernels *table);
void qsi_avx2_dense(qsi_kernels *table);
void qsi_avx2_vector(qsi_kernels *table);
void qsi_avx2_attention(qsi_kernels *table);
void qsi_avx2_fsm(qsi_kernels *table);
void qsi_avx2_i8(qsi_kernels *table);
void qsi_avx2_gradient(qsi_kernels *table);
void qsi_avx2_w1_i8(qsi_kernels *table);

/* One panel of 16 columns (cols of them real) of f32_gemm under all rows of c: c[m, cols] = (load ? c : 0) + a[m, depth]
 * b[depth, 16] (avx2_dense.c). */
void qsi_avx2_gemm_panel(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_depth, const float *b, int64_t ldb,
                         int64_t m, int64_t cols, int64_t depth, int load);

/* columns[c], bit r = bit c % 32 of word c / 32 of row r, for 32 rows (those from `rows` on count as 0) and count columns, a
 * multiple of 32 (avx2_w1.c). */
void qsi_avx2_transpose_bits(uint32_t *columns, const uint32_t *w, int64_t ldw, int64_t rows, int64_t count);

/* w1_forward for 1 to 4 tokens (avx2_w1_few.c). Returns 0, with nothing done, when the scratch is too small for k. */
int qsi_avx2_w1_few(float *y, int64_t ldy, const float *x, int64_t ldx, const uint32_t *w, int64_t ldw,
                    const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k,
                    int bf16, float *scratch);

/* w1_i8_forward for 1 to QSI_AVX2_FEW tokens (avx2_w1_i8_few.c). */
enum { QSI_AVX2_FEW = 10 };
void qsi_avx2_w1_i8_few(float *y, int64_t ldy, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w, int64_t ldw,
                        const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k,
                        void *scratch);

/* w1_i8_forward (avx2_w1_i8.c), for levels that have a way of their own for few tokens only. */
void qsi_avx2_w1_i8_forward(float *y, int64_t ldy, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w,
                            int64_t ldw, const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n,
                            int64_t k, void *scratch);

/* qsi_expf in 8 lanes, the same operations in the same order. NaN stays NaN by itself: it converts to 2^31, of which the
 * shift leaves nothing to add to the exponent. */
AVX2_INLINE __m256 qsi_exp8(__m256 x)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(QSI_EXP_LOG2E)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-QSI_EXP_LN2_HI), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-QSI_EXP_LN2_LO), r);
    __m256 e = _mm256_fmadd_ps(_mm256_set1_ps(QSI_EXP_E6), r, _mm256_set1_ps(QSI_EXP_E5));
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(QSI_EXP_E4));
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(QSI_EXP_E3));
    e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(QSI_EXP_E2));
    e = _mm256_fmadd_ps(e, r, one);
    e = _mm256_fmadd_ps(e, r, one);
    e = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(e), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
    e = _mm256_blendv_ps(e, _mm256_set1_ps(INFINITY), _mm256_cmp_ps(x, _mm256_set1_ps(QSI_EXP_HIGH), _CMP_GT_OQ));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(QSI_EXP_LOW), _CMP_LT_OQ), e);
}

AVX2_INLINE __m256 qsi_neg8(__m256 x) { return _mm256_xor_ps(x, _mm256_set1_ps(-0.0f)); }

/* To bf16 (nearest even; NaN stays NaN, made quiet) in the upper halves, the lower are 0. */
AVX2_INLINE __m256 qsi_round_bf16(__m256 x)
{
    const __m256i bits = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i near = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    const __m256 r = _mm256_blendv_ps(_mm256_castsi256_ps(near), _mm256_castsi256_ps(quiet), nan);
    return _mm256_and_ps(r, _mm256_castsi256_ps(_mm256_set1_epi32(-65536)));
}

/* All ones in the first count lanes (count <= 0: none, >= 8: all). */
AVX2_INLINE __m256i qsi_mask8(int64_t count)
{
    const int n = count < 0 ? 0 : count > 8 ? 8 : (int)count;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The first `left` of 8 floats (8 if there are more): loads give 0 elsewhere, stores leave the rest alone. */
AVX2_INLINE __m256 qsi_load8(const float *p, int64_t left)
{
    return left >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, qsi_mask8(left));
}

/* The first `left` of 8 words, 0 beyond. */
AVX2_INLINE __m256i qsi_words8(const void *p, int64_t left) { return _mm256_castps_si256(qsi_load8(p, left)); }

AVX2_INLINE void qsi_store8(float *p, __m256 x, int64_t left)
{
    if (left >= 8)
        _mm256_storeu_ps(p, x);
    else
        _mm256_maskstore_ps(p, qsi_mask8(left), x);
}

/* x in the first `left` lanes, old in the others. */
AVX2_INLINE __m256 qsi_keep8(__m256 old, __m256 x, int64_t left)
{
    return left >= 8 ? x : _mm256_blendv_ps(old, x, _mm256_castsi256_ps(qsi_mask8(left)));
}

/* The first `left` of 8 half-precision numbers as floats, 0 elsewhere. */
AVX2_INLINE __m256 qsi_halves8(const uint16_t *p, int64_t left)
{
    uint16_t half[8] = {0};
    if (left >= 8)
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
    if (left > 0)
        memcpy(half, p, (size_t)left * sizeof half[0]);
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)half));
}

AVX2_INLINE __m256 qsi_set8(float x) { return _mm256_set1_ps(x); }

/* qsi_fold16 of the stripes 0..7 in low and 8..15 in high. */
AVX2_INLINE float qsi_fold16_avx2(__m256 low, __m256 high)
{
    const __m256 s8 = _mm256_add_ps(low, high);
    const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

/* Lane i of r[j] and lane j of r[i] change places. */
AVX2_INLINE void qsi_transpose8(__m256 r[8])
{
    const __m256 t0 = _mm256_unpacklo_ps(r[0], r[1]), t1 = _mm256_unpackhi_ps(r[0], r[1]);
    const __m256 t2 = _mm256_unpacklo_ps(r[2], r[3]), t3 = _mm256_unpackhi_ps(r[2], r[3]);
    const __m256 t4 = _mm256_unpacklo_ps(r[4], r[5]), t5 = _mm256_unpackhi_ps(r[4], r[5]);
    const __m256 t6 = _mm256_unpacklo_ps(r[6], r[7]), t7 = _mm256_unpackhi_ps(r[6], r[7]);
    const __m256 u0 = _mm256_shuffle_ps(t0, t2, 0x44), u1 = _mm256_shuffle_ps(t0, t2, 0xee);
    const __m256 u2 = _mm256_shuffle_ps(t1, t3, 0x44), u3 = _mm256_shuffle_ps(t1, t3, 0xee);
    const __m256 u4 = _mm256_shuffle_ps(t4, t6, 0x44), u5 = _mm256_shuffle_ps(t4, t6, 0xee);
    const __m256 u6 = _mm256_shuffle_ps(t5, t7, 0x44), u7 = _mm256_shuffle_ps(t5, t7, 0xee);
    r[0] = _mm256_permute2f128_ps(u0, u4, 0x20);
    r[1] = _mm256_permute2f128_ps(u1, u5, 0x20);
    r[2] = _mm256_permute2f128_ps(u2, u6, 0x20);
    r[3] = _mm256_permute2f128_ps(u3, u7, 0x20);
    r[4] = _mm256_permute2f128_ps(u0, u4, 0x31);
    r[5] = _mm256_permute2f128_ps(u1, u5, 0x31);
    r[6] = _mm256_permute2f128_ps(u2, u6, 0x31);
    r[7] = _mm256_permute2f128_ps(u3, u7, 0x31);
}

/* Half the way of bytes of 16 rows to 16 columns, in each half of the vectors: to[4 i + j], j < 4, from rows i, i + 4, i + 8
 * and i + 12. Twice the same for all i is the whole way. */
AVX2_INLINE void qsi_half_transpose4(__m256i to[4], __m256i r0, __m256i r4, __m256i r8, __m256i r12)
{
    const __m256i t0 = _mm256_unpacklo_epi8(r0, r8), t1 = _mm256_unpackhi_epi8(r0, r8);
    const __m256i t2 = _mm256_unpacklo_epi8(r4, r12), t3 = _mm256_unpackhi_epi8(r4, r12);
    to[0] = _mm256_unpacklo_epi8(t0, t2);
    to[1] = _mm256_unpackhi_epi8(t0, t2);
    to[2] = _mm256_unpacklo_epi8(t1, t3);
    to[3] = _mm256_unpackhi_epi8(t1, t3);
}

/* y of up to 8 outputs: fma(factor, sum, addend), or factor * sum where addend is NULL. */
AVX2_INLINE void qsi_store_scaled(float *y, __m256 sum, __m256 factor, const float *addend, int64_t left)
{
    if (addend != NULL)
        qsi_store8(y, _mm256_fmadd_ps(factor, sum, qsi_load8(addend, left)), left);
    else
        qsi_store8(y, _mm256_mul_ps(factor, sum), left);
}

#endif
#endif
