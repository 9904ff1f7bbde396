/* avxvnni_few.c - the int8 product with packed weights for few tokens (generation), by dot products of bytes.
 *
 * A register of 32 bytes of a row is 256 weights. Bit b of its bytes, masked, is 32 numbers 0 or 2^b, which the dot
 * product multiplies with the 32 activations whose weights they are: those of a call are put in that order once. After a
 * shift by 4 the upper bits share masks and sums with the lower. Sum b is 2^b times a sum over set bits, and S = 2 (sum
 * over set bits) - (sum over all). Weights are read where they lie. */
#include "cpu/avxvnni.h"

#if QSI_HAVE_AVX2

enum {
    FEW = 4,      /* tokens for which this is used */
    BLOCK = 256   /* weights of a register */
};

AVXVNNI_INLINE int32_t lane_sum(__m256i x)
{
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

/* parts[block][bit][token][32]: q[256 block + 8 j + bit], j < 32, 0 beyond k. Returns the sum of all. */
AVXVNNI_INLINE int32_t order_token(int8_t *parts, int64_t t, int64_t T, const int8_t *q, int64_t k)
{
    const __m256i pairs = _mm256_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15,
                                           0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    __m256i total = _mm256_setzero_si256();
    for (int64_t c = 0; c < (k + BLOCK - 1) / BLOCK * BLOCK; c += 32) {   /* 4 numbers of each bit */
        const __m256i v = c < k ? _mm256_loadu_si256((const __m256i *)(const void *)(q + c)) : _mm256_setzero_si256();
        const __m256i two = _mm256_shuffle_epi8(v, pairs);
        const __m128i low = _mm256_castsi256_si128(two), high = _mm256_extracti128_si256(two, 1);
        int32_t of_bit[8];
        _mm_storeu_si128((__m128i *)(void *)of_bit, _mm_unpacklo_epi16(low, high));
        _mm_storeu_si128((__m128i *)(void *)(of_bit + 4), _mm_unpackhi_epi16(low, high));
        total = qsi_dot8(total, _mm256_set1_epi8(1), v);
        for (int64_t bit = 0; bit < 8; bit++)
            memcpy(parts + ((c / BLOCK * 8 + bit) * T + t) * 32 + c % BLOCK / 8, &of_bit[bit], 4);
    }
    return lane_sum(total);
}

/* Bit b of v (shifted by 4 for the upper half), times the activations of its weights. */
#define BIT(b) do { \
        const __m256i mask = _mm256_set1_epi8(1 << (b)); \
        const __m256i bits0 = _mm256_and_si256(v0, mask), bits1 = R > 1 ? _mm256_and_si256(v1, mask) : v0; \
        const __m256i q0 = _mm256_loadu_si256(part + (b) * T), q1 = T > 1 ? _mm256_loadu_si256(part + (b) * T + 1) : q0; \
        s00##b = qsi_dot8(s00##b, bits0, q0); \
        if (R > 1) s10##b = qsi_dot8(s10##b, bits1, q0); \
        if (T > 1) s01##b = qsi_dot8(s01##b, bits0, q1); \
    } while (0)
#define FOLD(s) \
    lane_sum(_mm256_add_epi32(_mm256_add_epi32(s##0, _mm256_srai_epi32(s##1, 1)), \
                              _mm256_add_epi32(_mm256_srai_epi32(s##2, 2), _mm256_srai_epi32(s##3, 3))))

/* sums[token][row]: over the set bits of R rows, T tokens (R T <= 2). */
AVXVNNI_INLINE void set_sums(const int T, const int R, int32_t sums[2][2], const uint32_t *w, int64_t ldw, int64_t k,
                             const int8_t *parts)
{
    __m256i s000 = _mm256_setzero_si256(), s001 = s000, s002 = s000, s003 = s000;
    __m256i s010 = s000, s011 = s000, s012 = s000, s013 = s000, s100 = s000, s101 = s000, s102 = s000, s103 = s000;
    const __m256i *part = (const __m256i *)(const void *)parts;
    for (int64_t j = 0; j < k / 32; j += 8) {
        __m256i v0 = qsi_words8(w + j, k / 32 - j), v1 = R > 1 ? qsi_words8(w + ldw + j, k / 32 - j) : v0;
        BIT(0); BIT(1); BIT(2); BIT(3);
        part += 4 * T;
        v0 = _mm256_srli_epi16(v0, 4);
        v1 = _mm256_srli_epi16(v1, 4);
        BIT(0); BIT(1); BIT(2); BIT(3);
        part += 4 * T;
    }
    sums[0][0] = FOLD(s00);
    if (R > 1)
        sums[0][1] = FOLD(s10);
    if (T > 1)
        sums[1][0] = FOLD(s01);
}

AVXVNNI static void sums11(int32_t sums[2][2], const uint32_t *w, int64_t ldw, int64_t k, const int8_t *parts)
{
    set_sums(1, 1, sums, w, ldw, k, parts);
}

AVXVNNI static void sums12(int32_t sums[2][2], const uint32_t *w, int64_t ldw, int64_t k, const int8_t *parts)
{
    set_sums(1, 2, sums, w, ldw, k, parts);
}

AVXVNNI static void sums21(int32_t sums[2][2], const uint32_t *w, int64_t ldw, int64_t k, const int8_t *parts)
{
    set_sums(2, 1, sums, w, ldw, k, parts);
}

/* y[8 outputs] for up to 8 of them. */
AVXVNNI_INLINE void finish(float *y, const int32_t *sums, int32_t total, float s, const uint16_t *scale, const float *addend,
                           int64_t left)
{
    uint16_t half[8] = {0};
    memcpy(half, scale, (size_t)(left < 8 ? left : 8) * sizeof half[0]);
    const __m256 alpha = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)half));
    const __m256i twice = _mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)(const void *)sums), 1);
    const __m256 sum = _mm256_cvtepi32_ps(_mm256_sub_epi32(twice, _mm256_set1_epi32(total)));
    qsi_store_scaled(y, sum, _mm256_mul_ps(alpha, qsi_set8(s)), addend, left);
}

/* T tokens, 1 or 2. */
AVXVNNI static void tokens(const int64_t T, float *y, int64_t ldy, const int8_t *q, int64_t ldq, const float *s,
                           const uint32_t *w, int64_t ldw, const uint16_t *scale, const float *addend, int64_t ldadd,
                           int64_t n, int64_t k, int8_t *parts)
{
    int32_t total[2], pair[2][2], sums[2][8] = {{0}};
    for (int64_t t = 0; t < T; t++)
        total[t] = order_token(parts, t, T, q + t * ldq, k);
    for (int64_t j = 0; j < n; j += 8) {
        const int64_t left = n - j < 8 ? n - j : 8, step = T == 1 ? 2 : 1;
        for (int64_t r = 0; r < left; r += step) {
            const uint32_t *row = w + (j + r) * ldw;
            if (T == 2)
                sums21(pair, row, ldw, k, parts);
            else if (r + 1 < left)
                sums12(pair, row, ldw, k, parts);
            else
                sums11(pair, row, ldw, k, parts);
            sums[0][r] = pair[0][0];
            if (T == 1 && r + 1 < left)
                sums[0][r + 1] = pair[0][1];
            if (T == 2)
                sums[1][r] = pair[1][0];
        }
        for (int64_t t = 0; t < T; t++)
            finish(y + t * ldy + j, sums[t], total[t], s[t], scale + j, addend ? addend + t * ldadd + j : NULL, left);
    }
}

static void w1_i8_forward(float *y, int64_t ldy, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w,
                          int64_t ldw, const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n,
                          int64_t k, void *scratch)
{
    if (m > FEW || 2 * (k + BLOCK) > QSI_W1_SCRATCH) {
        qsi_avx2_w1_i8_forward(y, ldy, q, ldq, s, w, ldw, scale, addend, ldadd, m, n, k, scratch);
        return;
    }
    for (int64_t i = 0; i < m; i += 2)
        tokens(m - i < 2 ? 1 : 2, y + i * ldy, ldy, q + i * ldq, ldq, s + i, w, ldw, scale,
               addend ? addend + i * ldadd : NULL, ldadd, n, k, scratch);
}

void qsi_avxvnni_few(qsi_kernels *table)
{
    table->w1_i8_forward = w1_i8_forward;
}

#else
typedef int qsi_avxvnni_few_absent;
#endif
