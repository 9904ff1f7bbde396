/* avx2_i8.c - operands in int8 and bf16: rows, and chunks of tokens with their features side by side.
 *
 * The largest |t| is found among the bits as integers: they are ordered as the numbers are, what is not finite above. */
#include "cpu/avx2.h"

#if QSI_HAVE_AVX2

enum { BLOCK = 256, INFINITE = 0x7F800000 };   /* features whose scales are on the stack at once; bits of infinity */

AVX2_INLINE __m256i magnitude(__m256 x) { return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7FFFFFFF)); }

AVX2_INLINE __m256i not_finite(__m256i top) { return _mm256_cmpgt_epi32(top, _mm256_set1_epi32(INFINITE - 1)); }

/* 127 / top; 0 where top is not finite or below 2^-100. */
AVX2_INLINE __m256 factor_of(__m256i top)
{
    const __m256 t = _mm256_castsi256_ps(top), large = _mm256_cmp_ps(t, qsi_set8(0x1p-100f), _CMP_GE_OQ);
    const __m256 usable = _mm256_andnot_ps(_mm256_castsi256_ps(not_finite(top)), large);
    return _mm256_and_ps(usable, _mm256_div_ps(qsi_set8(127.0f), t));
}

/* The scale that belongs to it: top / 127; NaN where top is not finite, 0 where it is below 2^-100. */
AVX2_INLINE __m256 scale_of(__m256i top)
{
    const __m256 t = _mm256_castsi256_ps(top), large = _mm256_cmp_ps(t, qsi_set8(0x1p-100f), _CMP_GE_OQ);
    const __m256 s = _mm256_and_ps(large, _mm256_div_ps(t, qsi_set8(127.0f)));
    return _mm256_blendv_ps(s, qsi_set8(NAN), _mm256_castsi256_ps(not_finite(top)));
}

/* rint(t * factor); 0 where factor is 0, whatever t is. */
AVX2_INLINE __m256i quantized(__m256 t, __m256 factor)
{
    const __m256 used = _mm256_cmp_ps(factor, _mm256_setzero_ps(), _CMP_GT_OQ);
    return _mm256_cvtps_epi32(_mm256_and_ps(used, _mm256_mul_ps(t, factor)));
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */

/* t of up to 8 columns, 0 beyond. */
AVX2_INLINE __m256 scaled8(const float *x, const uint16_t *scale, int64_t left)
{
    const __m256 t = qsi_load8(x, left);
    return scale ? _mm256_mul_ps(qsi_halves8(scale, left), t) : t;
}

AVX2_INLINE __m256i largest_lanes(__m256i x)
{
    x = _mm256_max_epi32(x, _mm256_permute2x128_si256(x, x, 1));
    x = _mm256_max_epi32(x, _mm256_shuffle_epi32(x, 0x4e));
    return _mm256_max_epi32(x, _mm256_shuffle_epi32(x, 0xb1));
}

AVX2 static float i8_row(int8_t *q, const float *x, const uint16_t *scale, int64_t k)
{
    const __m256i by_quad = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i top = _mm256_setzero_si256(), t[4];
    for (int64_t j = 0; j < k; j += 8)
        top = _mm256_max_epi32(top, magnitude(scaled8(x + j, scale ? scale + j : NULL, k - j)));
    top = largest_lanes(top);
    const __m256 factor = factor_of(top);
    for (int64_t j = 0; j < k; j += 32) {
        int8_t tail[32];
        UNROLL8
        for (int i = 0; i < 4; i++)
            t[i] = quantized(scaled8(x + j + 8 * i, scale ? scale + j + 8 * i : NULL, k - j - 8 * i), factor);
        const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(t[0], t[1]), _mm256_packs_epi32(t[2], t[3]));
        _mm256_storeu_si256((__m256i *)(void *)(k - j < 32 ? tail : q + j), _mm256_permutevar8x32_epi32(bytes, by_quad));
        if (k - j < 32)
            memcpy(q + j, tail, (size_t)(k - j));
    }
    return _mm256_cvtss_f32(scale_of(top));
}

/* ---- features --------------------------------------------------------------------------------------------------- */

/* Four tokens of up to 8 features, the tokens of a feature adjacent. */
AVX2_INLINE __m256i quad(const float *x, int64_t ldx, int64_t tokens, int64_t left, __m256 factor)
{
    const __m256i by_feature = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
                                                0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m256i t[4];
    UNROLL8
    for (int i = 0; i < 4; i++)
        t[i] = i < tokens ? quantized(qsi_load8(x + i * ldx, left), factor) : _mm256_setzero_si256();
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(t[0], t[1]), _mm256_packs_epi32(t[2], t[3]));
    return _mm256_shuffle_epi8(bytes, by_feature);
}

AVX2 static void i8_features(int8_t *q, int64_t ldq, float *s, const float *x, int64_t ldx, int64_t m, int64_t n)
{
    for (int64_t j0 = 0; j0 < n; j0 += BLOCK) {
        const int64_t count = n - j0 < BLOCK ? n - j0 : BLOCK;
        __m256i top[BLOCK / 8] = {0};
        __m256 factor[BLOCK / 8];
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < count; j += 8)
                top[j / 8] = _mm256_max_epi32(top[j / 8], magnitude(qsi_load8(x + i * ldx + j0 + j, count - j)));
        for (int64_t j = 0; j < count; j += 8) {
            factor[j / 8] = factor_of(top[j / 8]);
            qsi_store8(s + j0 + j, scale_of(top[j / 8]), count - j);
        }
        for (int64_t i = 0; i < m; i += 4)
            for (int64_t j = 0; j < count; j += 8) {
                const __m256i t = quad(x + i * ldx + j0 + j, ldx, m - i, count - j, factor[j / 8]);
                qsi_store8((float *)(void *)(q + (i / 4 * ldq + j0 + j) * 4), _mm256_castsi256_ps(t), count - j);
            }
    }
}

AVX2 static void bf16_features(uint16_t *q, int64_t ldq, const float *x, int64_t ldx, int64_t m, int64_t n)
{
    for (int64_t i = 0; i < m; i += 2)
        for (int64_t j = 0; j < n; j += 8) {
            const float *from = x + i * ldx + j;
            const __m256i even = _mm256_castps_si256(qsi_round_bf16(qsi_load8(from, n - j)));
            const __m256 odd = i + 1 < m ? qsi_round_bf16(qsi_load8(from + ldx, n - j)) : _mm256_setzero_ps();
            const __m256 pair = _mm256_or_ps(_mm256_castsi256_ps(_mm256_srli_epi32(even, 16)), odd);
            qsi_store8((float *)(void *)(q + (i / 2 * ldq + j) * 2), pair, n - j);
        }
}

void qsi_avx2_i8(qsi_kernels *table)
{
    table->i8_row = i8_row;
    table->i8_features = i8_features;
    table->bf16_features = bf16_features;
}

#else
typedef int qsi_avx2_i8_absent;
#endif
