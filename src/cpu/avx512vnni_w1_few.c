/* avx512vnni_w1_few.c - the int8 product with packed weights for few tokens (generation), by dot products of bytes.
 *
 * A register of 64 bytes of a row is 512 weights. Bit s of its bytes, masked, is 64 numbers 0 or 2^s, which the dot product
 * multiplies with the 64 activations whose weights they are: the activations of a call are put in that order once. After a
 * shift by 4 the upper bits share masks and sums with the lower. A sum is 2^s times the sum over set bits, and S = 2 (sum
 * over set bits) - (sum over all). Weights are read where they lie. */
#include "cpu/avx512vnni.h"

#if QSI_HAVE_AVX512
#include <string.h>

enum {
    FEW = 4,     /* tokens at once */
    MOST = 6,    /* tokens for which this is faster than the tables of avx512_w1_i8.c */
    BLOCK = 512  /* weights of a register */
};

_Static_assert(FEW << 17 <= QSI_W1_SCRATCH, "k is at most 2^17");

/* The operands of one call for T <= FEW tokens. parts[bit % 4][block][bit / 4][token][64]: q[512 block + 8 j + bit],
 * j < 64. */
typedef struct product {
    const uint32_t *w;
    int64_t ldw, n, blocks, whole;   /* blocks a row, and how many of them are whole: all but the last, or all */
    __mmask16 last;                  /* words of the last block */
    const int8_t *parts;
} product;

/* s + dot products of 64 unsigned and signed bytes; compilers keep arrays of sums in memory for the intrinsic. */
AVX512VNNI_INLINE __m512i dot(__m512i s, __m512i bits, __m512i q)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(s) : "v"(bits), "v"(q));
    return s;
}

/* Puts token t of T in order; returns the sum of its activations. */
AVX512VNNI_INLINE int32_t order_token(int8_t *parts, int64_t t, int64_t T, int64_t blocks, const int8_t *q, int64_t k)
{
    const __m512i pairs = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
    const __m512i eights = _mm512_setr_epi32(0x80000, 0x180010, 0x90001, 0x190011, 0xA0002, 0x1A0012, 0xB0003, 0x1B0013,
                                             0xC0004, 0x1C0014, 0xD0005, 0x1D0015, 0xE0006, 0x1E0016, 0xF0007, 0x1F0017);
    __m512i total = _mm512_setzero_si512();
    for (int64_t c = 0; c < blocks * BLOCK; c += 64) {
        const __mmask64 some = k - c >= 64 ? ~0ull : c < k ? _bzhi_u64(~0ull, (uint32_t)(k - c)) : 0;
        const __m512i v = _mm512_maskz_loadu_epi8(some, c < k ? q + c : q);
        int64_t of_bit[8];   /* 8 activations each */
        total = dot(total, _mm512_set1_epi8(1), v);
        _mm512_storeu_si512(of_bit, _mm512_permutexvar_epi16(eights, _mm512_shuffle_epi8(v, pairs)));
        for (int64_t bit = 0; bit < 8; bit++) {
            const int64_t part = ((bit % 4 * blocks + c / BLOCK) * 2 + bit / 4) * T + t;
            memcpy(parts + part * 64 + c % BLOCK / 8, &of_bit[bit], 8);
        }
    }
    return _mm512_reduce_add_epi32(total);
}

/* Block b of a row; edge: the last, of which only some words exist. */
AVX512VNNI_INLINE __m512i load_block(const int edge, const uint32_t *row, const product *p, int64_t b)
{
    return edge ? _mm512_maskz_loadu_epi32(p->last, row + 16 * b) : _mm512_loadu_si512(row + 16 * b);
}

/* Rows from n0 on; those beyond n are the last row once more. */
AVX512VNNI_INLINE void find_rows(const int R, const uint32_t **row, const product *p, int64_t n0)
{
    UNROLL
    for (int r = 0; r < R; r++)
        row[r] = p->w + (n0 + r < p->n ? n0 + r : p->n - 1) * p->ldw;
}

/* Fetches the i-th line behind the R rows from `row` on and 1 KB, soon to be multiplied where rows lie without gaps. In this
 * order and evenly spread, weights come from memory as fast as they are multiplied; in the order of their use, a line of
 * each row in turn, at a third of that. */
AVX512VNNI_INLINE void fetch(const int R, const uint32_t *row, int64_t ldw, int64_t i)
{
    _mm_prefetch((const char *)(row + R * ldw) + 1024 + 64 * i, _MM_HINT_T0);
}

/* The sums of the lanes of 4 vectors. */
AVX512VNNI_INLINE void fold4(int32_t sums[4], __m512i a, __m512i b, __m512i c, __m512i d)
{
    const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    const __m512i s = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    const __m256i s8 = _mm256_add_epi32(_mm512_castsi512_si256(s), _mm512_extracti64x4_epi64(s, 1));
    _mm_storeu_si128((__m128i *)(void *)sums, _mm_add_epi32(_mm256_castsi256_si128(s8), _mm256_extracti128_si256(s8, 1)));
}

/* s[r][bit % 4] += block b of 4 rows. */
AVX512VNNI_INLINE void add_block(const int edge, __m512i s[4][4], const uint32_t *const row[4], const product *p, int64_t b)
{
    __m512i v[4];
    UNROLL
    for (int r = 0; r < 4; r++)
        v[r] = load_block(edge, row[r], p, b);
    UNROLL
    for (int bit = 0; bit < 8; bit++) {
        const __m512i q = _mm512_load_si512(p->parts + ((bit % 4 * p->blocks + b) * 2 + bit / 4) * 64);
        UNROLL
        for (int r = 0; r < 4; r++) {
            v[r] = bit == 4 ? _mm512_srli_epi16(v[r], 4) : v[r];
            s[r][bit % 4] = dot(s[r][bit % 4], _mm512_and_si512(v[r], _mm512_set1_epi8((char)(1 << bit % 4))), q);
        }
    }
}

/* sums[r] over the set bits of 4 rows from n0 on, one token: four sums a row, for the bits modulo 4. */
AVX512VNNI static void rows1(const product *p, int64_t n0, int32_t *sums)
{
    const uint32_t *row[4];
    __m512i s[4][4];
    find_rows(4, row, p, n0);
    UNROLL
    for (int i = 0; i < 16; i++)
        s[i / 4][i % 4] = _mm512_setzero_si512();
    for (int64_t b = 0; b < p->whole; b++) {
        UNROLL
        for (int r = 0; r < 4; r++)
            fetch(4, row[0], p->ldw, 4 * b + r);
        add_block(0, s, row, p, b);
    }
    if (p->last)
        add_block(1, s, row, p, p->whole);
    UNROLL
    for (int r = 0; r < 4; r++)
        s[r][0] = _mm512_add_epi32(_mm512_add_epi32(s[r][0], _mm512_srai_epi32(s[r][1], 1)),
                                   _mm512_add_epi32(_mm512_srai_epi32(s[r][2], 2), _mm512_srai_epi32(s[r][3], 3)));
    fold4(sums, s[0][0], s[1][0], s[2][0], s[3][0]);
}

/* s[r][t] += bits `bit` and `bit` + 4 of block b of R rows, T tokens. */
AVX512VNNI_INLINE void add_bits(const int T, const int R, const int edge, __m512i s[8][FEW], const uint32_t *const row[8],
                                const product *p, int64_t b, const int8_t *part, __m512i mask)
{
    UNROLL
    for (int high = 0; high < 2; high++) {
        __m512i q[FEW];
        UNROLL
        for (int t = 0; t < T; t++)
            q[t] = _mm512_load_si512(part + (high * T + t) * 64);
        UNROLL
        for (int r = 0; r < R; r++) {
            const __m512i v = load_block(edge, row[r], p, b);
            const __m512i bits = _mm512_and_si512(high ? _mm512_srli_epi16(v, 4) : v, mask);
            UNROLL
            for (int t = 0; t < T; t++)
                s[r][t] = dot(s[r][t], bits, q[t]);
        }
    }
}

/* sums[16 t + r] of R rows for T tokens: one sum each, the bits modulo 4 one after the other. 3 and 7 are first, their sums
 * are 8 times too large and halved before the next. */
AVX512VNNI_INLINE void rows_of_some(const int T, const int R, const product *p, int64_t n0, int32_t *sums)
{
    const uint32_t *row[8];
    __m512i s[8][FEW];
    find_rows(R, row, p, n0);
    UNROLL
    for (int i = 0; i < R * T; i++)
        s[i / T][i % T] = _mm512_setzero_si512();
    for (int bit = 3; bit >= 0; bit--) {
        const int8_t *part = p->parts + bit * p->blocks * 2 * T * 64;
        const __m512i mask = _mm512_set1_epi8((char)(1 << bit));
        UNROLL
        for (int i = 0; i < R * T; i++)
            s[i / T][i % T] = _mm512_srai_epi32(s[i / T][i % T], 1);
        for (int64_t b = 0; b < p->whole; b++, part += 2 * T * 64) {
            UNROLL
            for (int r = 0; r < R / 4; r++)
                fetch(R, row[0], p->ldw, (b + (3 - bit) * p->whole) * (R / 4) + r);
            add_bits(T, R, 0, s, row, p, b, part, mask);
        }
        if (p->last)
            add_bits(T, R, 1, s, row, p, p->whole, part, mask);
    }
    UNROLL
    for (int r = 0; r < R; r += 4)
        UNROLL
        for (int t = 0; t < T; t++)
            fold4(sums + 16 * t + r, s[r][t], s[r + 1][t], s[r + 2][t], s[r + 3][t]);
}

/* y of 16 rows from n0 on and one token. */
AVX512VNNI_INLINE void finish(float *y, const int32_t sums[16], int32_t total, float s, const uint16_t *scale,
                              const float *addend, int64_t rows)
{
    const __m512i twice = _mm512_slli_epi32(_mm512_loadu_si512(sums), 1);
    const __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(twice, _mm512_set1_epi32(total)));
    const __m512 factor = _mm512_mul_ps(qsi_halves16(scale, rows), qsi_set16(s));
    if (addend != NULL)
        qsi_store16(y, _mm512_fmadd_ps(factor, sum, qsi_load16(addend, rows)), rows);
    else
        qsi_store16(y, _mm512_mul_ps(factor, sum), rows);
}

/* T tokens; R rows at once by the function `rows`. */
AVX512VNNI_INLINE void few(const int T, const int R, void (*rows)(const product *p, int64_t n0, int32_t *sums), float *y,
                           int64_t ldy, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w, int64_t ldw,
                           const uint16_t *scale, const float *addend, int64_t ldadd, int64_t n, int64_t k, int8_t *parts)
{
    const int64_t blocks = (k + BLOCK - 1) / BLOCK;
    const product p = {w, ldw, n, blocks, k / BLOCK, qsi_mask16(k % BLOCK / 32), parts};
    int32_t total[FEW], sums[16 * FEW];
    for (int t = 0; t < T; t++)
        total[t] = order_token(parts, t, T, blocks, q + t * ldq, k);
    for (int64_t n0 = 0; n0 < n; n0 += 16) {
        for (int64_t r = 0; r < 16 && n0 + r < n; r += R)
            rows(&p, n0 + r, sums + r);
        for (int t = 0; t < T; t++)
            finish(y + t * ldy + n0, sums + 16 * t, total[t], s[t], scale + n0, addend ? addend + t * ldadd + n0 : NULL,
                   n - n0);
    }
}

#define ROWS(T, R) \
    AVX512VNNI static void rows##T(const product *p, int64_t n0, int32_t *sums) \
    { \
        rows_of_some(T, R, p, n0, sums); \
    }
ROWS(2, 8)
ROWS(3, 4)
ROWS(4, 4)

#define FEW_TOKENS(T, R) \
    AVX512VNNI static void few##T(float *y, int64_t ldy, const int8_t *q, int64_t ldq, const float *s, \
                                  const uint32_t *w, int64_t ldw, const uint16_t *scale, const float *addend, \
                                  int64_t ldadd, int64_t n, int64_t k, int8_t *parts) \
    { \
        few(T, R, rows##T, y, ldy, q, ldq, s, w, ldw, scale, addend, ldadd, n, k, parts); \
    }
FEW_TOKENS(1, 4)
FEW_TOKENS(2, 8)
FEW_TOKENS(3, 4)
FEW_TOKENS(4, 4)

typedef void few_fn(float *y, int64_t ldy, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w, int64_t ldw,
                    const uint16_t *scale, const float *addend, int64_t ldadd, int64_t n, int64_t k, int8_t *parts);

static void w1_i8_forward(float *y, int64_t ldy, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w,
                          int64_t ldw, const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n,
                          int64_t k, void *scratch)
{
    static few_fn *const few_of[FEW + 1] = {NULL, few1, few2, few3, few4};
    if (m > MOST) {
        qsi_avx512_w1_i8_forward(y, ldy, q, ldq, s, w, ldw, scale, addend, ldadd, m, n, k, scratch);
        return;
    }
    for (int64_t i = 0, rows; i < m; i += rows) {
        const int64_t rounds = (m - i + FEW - 1) / FEW;
        rows = (m - i + rounds - 1) / rounds;
        few_of[rows](y + i * ldy, ldy, q + i * ldq, ldq, s + i, w, ldw, scale, addend ? addend + i * ldadd : NULL, ldadd, n,
                     k, scratch);
    }
}

void qsi_avx512vnni_w1_few(qsi_kernels *table)
{
    table->w1_i8_forward = w1_i8_forward;
}

#else
typedef int qsi_avx512vnni_w1_few_absent;
#endif
