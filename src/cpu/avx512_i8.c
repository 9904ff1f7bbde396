/* avx512_i8.c - operands of the int8 and bf16 products, 16 floats a register.
 *
 * Magnitudes are compared as integers: without the sign, bits of floats are ordered as their values, infinity and NaN above
 * all numbers, so that one maximum finds the top and tells whether all are finite. Quads and pairs of tokens come from
 * packing rows: the four bytes or two halves of a feature are one 32-bit lane. */
#include "cpu/avx512.h"

#if QSI_HAVE_AVX512

/* What maxima of magnitudes give, in 16 lanes: factor 127 / top, 0 where top is tiny or not finite, and scale top / 127. */
typedef struct measure { __m512 factor, scale; } measure;

AVX512_INLINE measure measure_of(__m512i bits)
{
    const __m512 top = _mm512_castsi512_ps(bits), range = qsi_set16(127.0f);
    const __mmask16 finite = _mm512_cmp_ps_mask(top, qsi_set16(INFINITY), _CMP_LT_OQ);
    const __mmask16 usable = _mm512_mask_cmp_ps_mask(finite, top, qsi_set16(0x1p-100f), _CMP_GE_OQ);
    const __m512 scale = _mm512_maskz_div_ps(usable, top, range);
    return (measure){_mm512_maskz_div_ps(usable, range, top), _mm512_mask_mov_ps(qsi_set16(NAN), finite, scale)};
}

AVX512_INLINE __m512i grow(__m512i top, __m512 t)
{
    return _mm512_max_epi32(top, _mm512_and_si512(_mm512_castps_si512(t), _mm512_set1_epi32(INT32_MAX)));
}

AVX512_INLINE __m512i rounded(__m512 t, __m512 factor, __mmask16 usable)
{
    return _mm512_cvtps_epi32(_mm512_maskz_mul_ps(usable, t, factor));
}

/* The bytes of 4 x 16 integers: in every 128-bit lane 4 of a, 4 of b, 4 of c, 4 of d. */
AVX512_INLINE __m512i pack(__m512i a, __m512i b, __m512i c, __m512i d)
{
    return _mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
}

/* ---- a row ------------------------------------------------------------------------------------------------------- */

/* 16 values from column j on, or the `left` there are. */
AVX512_INLINE __m512 value16(const float *x, const uint16_t *scale, const int scaled, int64_t j, int64_t left)
{
    const __m512 value = qsi_load16(x + j, left);
    return scaled ? _mm512_mul_ps(qsi_halves16(scale + j, left), value) : value;
}

AVX512_INLINE measure measure_row(const float *x, const uint16_t *scale, const int scaled, int64_t k)
{
    __m512i top[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    int64_t j = 0;
    for (; k - j >= 64; j += 64)
        UNROLL
        for (int v = 0; v < 4; v++)
            top[v % 2] = grow(top[v % 2], value16(x, scale, scaled, j + 16 * v, 16));
    for (; j < k; j += 16)
        top[0] = grow(top[0], value16(x, scale, scaled, j, k - j));
    return measure_of(_mm512_set1_epi32(_mm512_reduce_max_epi32(_mm512_max_epi32(top[0], top[1]))));
}

AVX512_INLINE float quantize(int8_t *q, const float *x, const uint16_t *scale, const int scaled, int64_t k)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const measure by = measure_row(x, scale, scaled, k);
    const __mmask16 usable = _mm512_cmp_ps_mask(by.factor, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    int64_t j = 0;
    for (; k - j >= 64; j += 64) {
        __m512i r[4];
        UNROLL
        for (int v = 0; v < 4; v++)
            r[v] = rounded(value16(x, scale, scaled, j + 16 * v, 16), by.factor, usable);
        _mm512_storeu_si512(q + j, _mm512_permutexvar_epi32(order, pack(r[0], r[1], r[2], r[3])));
    }
    for (; j < k; j += 16)
        _mm_mask_storeu_epi8(q + j, qsi_mask16(k - j),
                             _mm512_cvtepi32_epi8(rounded(value16(x, scale, scaled, j, k - j), by.factor, usable)));
    return _mm512_cvtss_f32(by.scale);
}

AVX512 static float i8_row(int8_t *q, const float *x, const uint16_t *scale, int64_t k)
{
    return scale != NULL ? quantize(q, x, scale, 1, k) : quantize(q, x, NULL, 0, k);
}

/* ---- a chunk of tokens ------------------------------------------------------------------------------------------- */

enum { STRIP = 512 };   /* features whose two passes stay in the level-2 cache, and long enough to be fetched ahead */

/* s = tops of 16 features, as they are before (0 in front of the first row) and in 8 rows from x on, or fewer. */
AVX512_INLINE void raise_tops(float *s, const float *x, int64_t ldx, int first, int64_t rows, int64_t left)
{
    __m512i top = first ? _mm512_setzero_si512() : _mm512_castps_si512(qsi_load16(s, left));
    UNROLL
    for (int r = 0; r < 8; r++)
        top = grow(top, qsi_load16(x + (r < rows ? r : rows - 1) * ldx, left));
    qsi_store16(s, _mm512_castsi512_ps(top), left);
}

/* A quad of 16 features. */
AVX512_INLINE void quantize_quad(int8_t *q, const float *factor, const float *x, int64_t ldx, int64_t rows, int64_t left)
{
    const __m512i quad = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m512 by = _mm512_loadu_ps(factor);
    const __mmask16 usable = _mm512_cmp_ps_mask(by, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    __m512i r[4];
    UNROLL
    for (int t = 0; t < 4; t++)
        r[t] = t < rows ? rounded(qsi_load16(x + t * ldx, left), by, usable) : _mm512_setzero_si512();
    const __m512i bytes = _mm512_shuffle_epi8(pack(r[0], r[1], r[2], r[3]), quad);
    if (left >= 16)
        _mm512_storeu_si512(q, bytes);
    else
        _mm512_mask_storeu_epi32(q, qsi_mask16(left), bytes);
}

/* At most STRIP features. */
AVX512_INLINE void strip(int8_t *q, int64_t ldq, float *s, const float *x, int64_t ldx, int64_t m, int64_t n)
{
    float factor[STRIP];
    int64_t j;
    for (int64_t i = 0; i < m; i += 8) {
        for (j = 0; n - j >= 16; j += 16)
            raise_tops(s + j, x + i * ldx + j, ldx, i == 0, m - i, 16);
        if (j < n)
            raise_tops(s + j, x + i * ldx + j, ldx, i == 0, m - i, n - j);
    }
    for (j = 0; j < n; j += 16) {
        const measure by = measure_of(m > 0 ? _mm512_castps_si512(qsi_load16(s + j, n - j)) : _mm512_setzero_si512());
        _mm512_storeu_ps(factor + j, by.factor);
        qsi_store16(s + j, by.scale, n - j);
    }
    for (int64_t i = 0; i < m; i += 4, q += 4 * ldq) {
        for (j = 0; n - j >= 16; j += 16)
            quantize_quad(q + 4 * j, factor + j, x + i * ldx + j, ldx, m - i, 16);
        if (j < n)
            quantize_quad(q + 4 * j, factor + j, x + i * ldx + j, ldx, m - i, n - j);
    }
}

AVX512 static void i8_features(int8_t *q, int64_t ldq, float *s, const float *x, int64_t ldx, int64_t m, int64_t n)
{
    for (int64_t j = 0; j < n; j += STRIP)
        strip(q + 4 * j, ldq, s + j, x + j, ldx, m, n - j < STRIP ? n - j : STRIP);
}

/* The upper halves of 16 floats rounded to nearest even (the lower ones are left over); NaN is made quiet. */
AVX512_INLINE __m512i upper_halves(__m512 x)
{
    const __m512i bits = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
    return _mm512_mask_or_epi32(sum, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), bits, _mm512_set1_epi32(0x400000));
}

AVX512_INLINE void pair16(uint16_t *q, const float *x, const float *next, int64_t left)
{
    const __m512i low = _mm512_srli_epi32(upper_halves(qsi_load16(x, left)), 16);
    const __m512i high = next ? upper_halves(qsi_load16(next, left)) : _mm512_setzero_si512();
    _mm512_mask_storeu_epi32(q, qsi_mask16(left), _mm512_mask_mov_epi16(low, 0xAAAAAAAA, high));
}

AVX512 static void bf16_features(uint16_t *q, int64_t ldq, const float *x, int64_t ldx, int64_t m, int64_t n)
{
    for (int64_t i = 0; i < m; i += 2, q += 2 * ldq) {
        const float *row = x + i * ldx, *next = i + 1 < m ? row + ldx : NULL;
        int64_t j = 0;
        for (; n - j >= 16; j += 16)
            pair16(q + 2 * j, row + j, next ? next + j : NULL, 16);
        if (j < n)
            pair16(q + 2 * j, row + j, next ? next + j : NULL, n - j);
    }
}

void qsi_avx512_i8(qsi_kernels *table)
{
    table->i8_row = i8_row;
    table->i8_features = i8_features;
    table->bf16_features = bf16_features;
}

#else
typedef int qsi_avx512_i8_absent;
#endif
