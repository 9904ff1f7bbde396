/* avx2_w1_few.c - the packed product for 1 to 4 tokens (generation), 8 outputs across lanes.
 *
 * A group's table of 16 sums is antisymmetric, so 8 of them fill one register and vpermps looks up 8 outputs at once; the
 * sign bit is applied by xor. Words of 8 rows x 8 words are transposed in registers, so weights are read as stored. The
 * tables of all k columns are built first: 8 bytes a column and token. The sum of an output stays in one lane from
 * the first group to the last: the defined order. */
#include "cpu/avx2.h"

#if QSI_HAVE_AVX2

/* Sums of 4 values with a + before the last one; bit q of the lane number set means +x[q], q < 3. */
AVX2_INLINE __m256 upper_half(const float *x, int bf16)
{
    const __m256 s0 = _mm256_setr_ps(-0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f);
    const __m256 s1 = _mm256_setr_ps(-0.0f, -0.0f, 0.0f, 0.0f, -0.0f, -0.0f, 0.0f, 0.0f);
    const __m256 s2 = _mm256_setr_ps(-0.0f, -0.0f, -0.0f, -0.0f, 0.0f, 0.0f, 0.0f, 0.0f);
    __m256 all = _mm256_broadcast_ps((const __m128 *)(const void *)x);
    if (bf16)
        all = qsi_round_bf16(all);
    const __m256 x0 = _mm256_xor_ps(_mm256_permute_ps(all, 0x00), s0), x1 = _mm256_xor_ps(_mm256_permute_ps(all, 0x55), s1);
    const __m256 x2 = _mm256_xor_ps(_mm256_permute_ps(all, 0xaa), s2), x3 = _mm256_permute_ps(all, 0xff);
    return _mm256_add_ps(_mm256_add_ps(x0, x1), _mm256_add_ps(x2, x3));
}

/* Words j0 .. j0+7 of 8 rows of w, to[j] = word j of each; what is beyond the rows or the count is 0. */
AVX2_INLINE void load_block(__m256 to[8], const uint32_t *w, int64_t ldw, int64_t rows, int64_t count)
{
    __m256 r[8];
    UNROLL8
    for (int i = 0; i < 8; i++)
        r[i] = i < rows ? qsi_load8((const float *)(const void *)(w + i * ldw), count) : _mm256_setzero_ps();
    qsi_transpose8(r);
    UNROLL8
    for (int i = 0; i < 8; i++)
        to[i] = r[i];
}

/* One block of 8 rows starts word j: where bit 3 of a nibble is clear, the sum is minus that of the complement. */
#define START(r) \
    const __m256i bits##r = _mm256_castps_si256(block[R > r ? r : 0][j]); \
    const __m256i clear##r = _mm256_andnot_si256(_mm256_srli_epi32(bits##r, 3), ones); \
    const __m256i sign##r = _mm256_slli_epi32(clear##r, 3); \
    __m256i index##r = _mm256_xor_si256(bits##r, _mm256_sub_epi32(sign##r, clear##r));

/* Group g of the word: the sign goes to bit 31, the nibble's low bits choose the entry. */
#define ADD(r, t) \
    if (R > r && T > t) { \
        const __m256 sum = _mm256_permutevar8x32_ps(_mm256_load_ps(at + 8 * t), index##r); \
        a##r##t = _mm256_add_ps(a##r##t, _mm256_xor_ps(sum, minus##r)); \
    }
#define GROUP(g) do { \
        const __m256 minus0 = _mm256_and_ps(_mm256_castsi256_ps(_mm256_slli_epi32(sign0, 28 - 4 * (g))), top); \
        const __m256 minus1 = _mm256_and_ps(_mm256_castsi256_ps(_mm256_slli_epi32(sign1, 28 - 4 * (g))), top); \
        ADD(0, 0) ADD(1, 0) ADD(0, 1) ADD(1, 1) ADD(0, 2) ADD(0, 3) \
        index0 = _mm256_srli_epi32(index0, 4); \
        index1 = _mm256_srli_epi32(index1, 4); \
        at += 8 * T; \
    } while (0)

/* y[t, 8 rows]; rows <= 0: nothing. */
AVX2_INLINE void finish(float *y, __m256 sum, const uint16_t *scale, const float *addend, int64_t rows)
{
    const __m256 factor = qsi_halves8(scale, rows);
    if (addend != NULL)
        qsi_store8(y, _mm256_fmadd_ps(factor, sum, qsi_load8(addend, rows)), rows);
    else
        qsi_store8(y, _mm256_mul_ps(factor, sum), rows);
}

/* Fetches the i-th line behind the `bytes` of the rows at hand, soon to be multiplied where rows lie without gaps. In this
 * order and evenly spread, weights come from memory as fast as they are multiplied; in the order of their use, a line of
 * each row in turn, at half of that. */
AVX2_INLINE void fetch(const uint32_t *w, int64_t bytes, int64_t i)
{
    _mm_prefetch((const char *)w + bytes + 64 * i, _MM_HINT_T1);
}

/* T tokens, R blocks of 8 rows at once: T R chains of additions, as the latency of one would bind. */
AVX2_INLINE void few(const int T, const int R, float *y, int64_t ldy, const float *x, int64_t ldx, const uint32_t *w,
                     int64_t ldw, const uint16_t *scale, const float *addend, int64_t ldadd, int64_t n, int64_t k,
                     int bf16, float *table)
{
    const __m256i ones = _mm256_set1_epi32(0x11111111);
    const __m256 top = _mm256_set1_ps(-0.0f);
    for (int64_t g = 0; g < k / 4; g++)
        for (int t = 0; t < T; t++)
            _mm256_store_ps(table + (g * T + t) * 8, upper_half(x + t * ldx + 4 * g, bf16));
    for (int64_t n0 = 0; n0 < n; n0 += 8 * R) {
        __m256 a00 = _mm256_setzero_ps(), a01 = a00, a02 = a00, a03 = a00, a10 = a00, a11 = a00;
        for (int64_t j0 = 0; j0 < k / 32; j0 += 8) {
            const int64_t count = k / 32 - j0;
            __m256 block[2][8];
            for (int r = 0; r < R; r++)
                load_block(block[r], w + (n0 + 8 * r) * ldw + j0, ldw, n - n0 - 8 * r, count);
            for (int j = 0; j < 8 && j < count; j++) {
                const float *at = table + (j0 + j) * 8 * T * 8;
                if (R == 2 || j % 2 == 0)
                    fetch(w + n0 * ldw, 32 * R * ldw, (j0 + j) * R / 2);
                START(0)
                START(1)
                GROUP(0); GROUP(1); GROUP(2); GROUP(3);
                GROUP(4); GROUP(5); GROUP(6); GROUP(7);
            }
        }
        const __m256 sum[2][4] = {{a00, a01, a02, a03}, {a10, a11, a10, a10}};
        for (int r = 0; r < R && n0 + 8 * r < n; r++)
            for (int t = 0; t < T; t++)
                finish(y + t * ldy + n0 + 8 * r, sum[r][t], scale + n0 + 8 * r,
                       addend ? addend + t * ldadd + n0 + 8 * r : NULL, n - n0 - 8 * r);
    }
}

#define FEW(T, R) \
    AVX2 static void few##T(float *y, int64_t ldy, const float *x, int64_t ldx, const uint32_t *w, int64_t ldw, \
                            const uint16_t *scale, const float *addend, int64_t ldadd, int64_t n, int64_t k, int bf16, \
                            float *table) \
    { \
        few(T, R, y, ldy, x, ldx, w, ldw, scale, addend, ldadd, n, k, bf16, table); \
    }
FEW(1, 2)
FEW(2, 2)
FEW(3, 1)
FEW(4, 1)

int qsi_avx2_w1_few(float *y, int64_t ldy, const float *x, int64_t ldx, const uint32_t *w, int64_t ldw,
                    const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k,
                    int bf16, float *scratch)
{
    if (m < 1 || m > 4 || m * 8 * k > QSI_W1_SCRATCH)
        return 0;
    switch (m) {
    case 1: few1(y, ldy, x, ldx, w, ldw, scale, addend, ldadd, n, k, bf16, scratch); break;
    case 2: few2(y, ldy, x, ldx, w, ldw, scale, addend, ldadd, n, k, bf16, scratch); break;
    case 3: few3(y, ldy, x, ldx, w, ldw, scale, addend, ldadd, n, k, bf16, scratch); break;
    default: few4(y, ldy, x, ldx, w, ldw, scale, addend, ldadd, n, k, bf16, scratch); break;
    }
    return 1;
}

#else
typedef int qsi_avx2_w1_few_absent;
#endif
