/* avx2_w1_i8_few.c - w1_i8_forward for few tokens (generation), 16 outputs across lanes of bytes.
 *
 * The bytes of 16 rows x 256 columns are transposed; a vector then holds one byte, two groups of 4 signs, of 16 rows in each
 * of its halves (columns 0..127 and 128..255), and vpshufb looks up 32 sums of a group at once. A sum of 4 values of int8 is
 * 32 high + low + 16 with high and low in -16..15: two lookups, added in bytes, which hold 8 groups. Sums go to 16 bits
 * after 8 groups and to 32 bits after 128 columns of each half: at most 128 * 127 + 32 * 16 below 0. Transposing is
 * shared by all tokens. */
#include "cpu/avx2.h"

#if QSI_HAVE_AVX2

enum {
    ROWS = 16,
    DEPTH = 256,                /* columns of a step */
    STEP_TABLES = 16 * 2 * 2,   /* of a token: [byte of a half][group][low, high], 16 sums for each half */
    TABLE_BYTES = 928 * 1024,   /* of tables at once */
    NEAR_BYTES = 20 * 1024,     /* of tables that stay in the level-1 cache ... */
    BLOCK_ROWS = 64,            /* ... while so many rows use them */
    OUTPUTS = 2048,             /* with accumulators in scratch at once */
    ACC_STRIDE = OUTPUTS + 16   /* a power of two would fall into few sets of the cache */
};

_Static_assert(QSI_AVX2_FEW * STEP_TABLES * 32 <= NEAR_BYTES, "a step of all tokens");
_Static_assert(QSI_AVX2_FEW * ACC_STRIDE * 4 + TABLE_BYTES <= QSI_W1_SCRATCH, "QSI_W1_SCRATCH is too small");

/* ---- tables ----------------------------------------------------------------------------------------------------- */

/* Low and high parts of the 16 sums of 4 values, those from 4 group on, of each half of x (int16); bit i of an entry's
 * number set means +x[i]. */
AVX2_INLINE void tabulate(__m256i *table, __m256i x, const int group)
{
    const __m256i s0 = _mm256_setr_epi16(-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1);
    const __m256i s1 = _mm256_setr_epi16(-1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1);
    const __m256i s2 = _mm256_setr_epi16(-1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1);
    const __m256i at0 = _mm256_set1_epi16(0x100 + group * 0x808), at1 = _mm256_set1_epi16(0x302 + group * 0x808);
    const __m256i at2 = _mm256_set1_epi16(0x504 + group * 0x808), at3 = _mm256_set1_epi16(0x706 + group * 0x808);
    const __m256i x0 = _mm256_sign_epi16(_mm256_shuffle_epi8(x, at0), s0);
    const __m256i x1 = _mm256_sign_epi16(_mm256_shuffle_epi8(x, at1), s1);
    const __m256i x2 = _mm256_sign_epi16(_mm256_shuffle_epi8(x, at2), s2), x3 = _mm256_shuffle_epi8(x, at3);
    const __m256i three = _mm256_add_epi16(_mm256_add_epi16(x0, x1), x2);
    const __m256i minus = _mm256_sub_epi16(three, x3), plus = _mm256_add_epi16(three, x3), mask = _mm256_set1_epi16(31);
    const __m256i low = _mm256_packs_epi16(_mm256_and_si256(minus, mask), _mm256_and_si256(plus, mask));
    _mm256_store_si256(table, _mm256_sub_epi8(low, _mm256_set1_epi8(16)));
    _mm256_store_si256(table + 1, _mm256_packs_epi16(_mm256_srai_epi16(minus, 5), _mm256_srai_epi16(plus, 5)));
}

/* Tables of one token for one step; only `left` of its columns exist, the others count as 0. */
AVX2 static void build_tables(__m256i *table, const int8_t *q, int64_t left)
{
    int8_t part[DEPTH] = {0};
    if (left < DEPTH)
        q = memcpy(part, q, (size_t)left);
    for (int i = 0; i < 16; i++) {
        const __m128i low = _mm_loadl_epi64((const __m128i *)(const void *)(q + 8 * i));
        const __m128i high = _mm_loadl_epi64((const __m128i *)(const void *)(q + DEPTH / 2 + 8 * i));
        const __m256i x = _mm256_cvtepi8_epi16(_mm_unpacklo_epi64(low, high));
        tabulate(table + 4 * i, x, 0);
        tabulate(table + 4 * i + 2, x, 1);
    }
}

/* ---- sums ------------------------------------------------------------------------------------------------------- */

/* gcc would make a tree of a chain of additions, whose leaves do not fit the registers. */
#define IN_ORDER(x) __asm__("" : "+x"(x))

/* sums[2]: 16 outputs, of each half of the columns, + the sums that 8 groups of 16 rows choose. */
AVX2_INLINE void add_groups(__m256i *sums, const __m256i index[8], const __m256i *table)
{
    const __m256i weights = _mm256_set1_epi16(0x2001);
    __m256i low = _mm256_shuffle_epi8(table[0], index[0]), high = _mm256_shuffle_epi8(table[1], index[0]);
    UNROLL8
    for (int i = 1; i < 8; i++) {
        low = _mm256_add_epi8(low, _mm256_shuffle_epi8(table[2 * i], index[i]));
        high = _mm256_add_epi8(high, _mm256_shuffle_epi8(table[2 * i + 1], index[i]));
        IN_ORDER(low);
        IN_ORDER(high);
    }
    sums[0] = _mm256_add_epi16(sums[0], _mm256_maddubs_epi16(weights, _mm256_unpacklo_epi8(low, high)));
    sums[1] = _mm256_add_epi16(sums[1], _mm256_maddubs_epi16(weights, _mm256_unpackhi_epi8(low, high)));
}

/* acc[16 outputs] += both halves. */
AVX2_INLINE void widen(__m256i *acc, const __m256i sums[2])
{
    UNROLL8
    for (int i = 0; i < 2; i++) {
        const __m256i left = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sums[i]));
        const __m256i right = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sums[i], 1));
        acc[i] = _mm256_add_epi32(acc[i], _mm256_add_epi32(left, right));
    }
}

/* Up to 8 words of row i of w; 0 beyond rows and words. */
AVX2_INLINE __m256i load_row(const uint32_t *w, int64_t ldw, int64_t i, int64_t rows, int64_t words)
{
    return i < rows ? _mm256_castps_si256(qsi_load8((const float *)(const void *)(w + i * ldw), words))
                    : _mm256_setzero_si256();
}

/* Bytes of 16 rows, half transposed. */
AVX2_INLINE void load_rows(__m256i to[16], const uint32_t *w, int64_t ldw, int64_t rows, int64_t words)
{
    if (rows >= ROWS && words >= 8)
        rows = ROWS, words = 8;   /* known to the compiler: no masks */
    UNROLL8
    for (int i = 0; i < 4; i++)
        qsi_half_transpose4(to + 4 * i, load_row(w, ldw, i, rows, words), load_row(w, ldw, i + 4, rows, words),
                            load_row(w, ldw, i + 8, rows, words), load_row(w, ldw, i + 12, rows, words));
}

/* Lines that are fetched while the BLOCK_ROWS rows before them are multiplied: `bytes` of a row, of one row after the
 * other. Evenly spread and in this order weights come from memory as fast as they are multiplied; in the order of their
 * use, a line of each row in turn, at a third of that. */
typedef struct ahead {
    const char *row;
    int64_t pitch, bytes, at;
} ahead;

AVX2_INLINE void fetch(ahead *a)
{
    _mm_prefetch(a->row + a->at, _MM_HINT_T1);
    a->at += 64;
    if (a->at >= a->bytes) {
        a->at = 0;
        a->row += a->pitch;
    }
}

/* sums[m][2] += one step of 16 rows. */
AVX2_INLINE void add_step(__m256i (*sums)[2], const __m256i half[16], const __m256i *table, int64_t m, ahead *next)
{
    const __m256i nibble = _mm256_set1_epi8(15);
    for (int q = 0; q < 4; q++) {
        __m256i bytes[4], index[8];
        fetch(next);
        fetch(next);
        qsi_half_transpose4(bytes, half[q], half[q + 4], half[q + 8], half[q + 12]);
        UNROLL8
        for (int i = 0; i < 4; i++) {
            index[2 * i] = _mm256_and_si256(bytes[i], nibble);
            index[2 * i + 1] = _mm256_and_si256(_mm256_srli_epi16(bytes[i], 4), nibble);
        }
        for (int64_t t = 0; t < m; t++)
            add_groups(sums[t], index, table + t * STEP_TABLES + 16 * q);
    }
}

/* acc[m][ACC_STRIDE] += `words` words of `count` rows. */
AVX2 static void add_rows(int32_t *acc, const __m256i *table, const uint32_t *w, int64_t ldw, int64_t m, int64_t count,
                          int64_t words, ahead *next)
{
    for (int64_t j = 0; j < count; j += ROWS)
        for (int64_t i = 0; i < words; i += DEPTH / 32) {
            __m256i half[16], sums[QSI_AVX2_FEW][2];
            load_rows(half, w + j * ldw + i, ldw, count - j, words - i);
            for (int64_t t = 0; t < m; t++)
                sums[t][0] = sums[t][1] = _mm256_setzero_si256();
            add_step(sums, half, table + i / 8 * m * STEP_TABLES, m, next);
            for (int64_t t = 0; t < m; t++)
                widen((__m256i *)(void *)(acc + t * ACC_STRIDE + j), sums[t]);
        }
}

/* The same, by blocks of rows that share tables while these are near. */
AVX2 static void add_blocks(int32_t *acc, const __m256i *table, const uint32_t *w, int64_t ldw, int64_t m, int64_t count,
                            int64_t words)
{
    const int64_t near = NEAR_BYTES / (m * STEP_TABLES * 32) * DEPTH / 32;
    for (int64_t j = 0; j < count; j += BLOCK_ROWS) {
        const int64_t rows = count - j < BLOCK_ROWS ? count - j : BLOCK_ROWS;
        ahead next = {(const char *)(w + (j + BLOCK_ROWS) * ldw), 4 * ldw, 4 * words, 0};
        for (int64_t i = 0; i < words; i += near)
            add_rows(acc + j, table + i / 8 * m * STEP_TABLES, w + j * ldw + i, ldw, m, rows,
                     words - i < near ? words - i : near, &next);
    }
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

/* y[count] of one token; each of the groups left 16 out. */
AVX2 static void finish(float *y, const int32_t *acc, float s, const uint16_t *scale, const float *addend, int64_t groups,
                        int64_t count)
{
    for (int64_t j = 0; j < count; j += 8) {
        const int64_t left = count - j < 8 ? count - j : 8;
        const __m256 alpha = qsi_halves8(scale + j, left);
        const __m256i sum = _mm256_add_epi32(_mm256_load_si256((const __m256i *)(const void *)(acc + j)),
                                             _mm256_set1_epi32((int)(16 * groups)));
        qsi_store_scaled(y + j, _mm256_cvtepi32_ps(sum), _mm256_mul_ps(alpha, qsi_set8(s)), addend ? addend + j : NULL,
                         left);
    }
}

void qsi_avx2_w1_i8_few(float *y, int64_t ldy, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w, int64_t ldw,
                        const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k,
                        void *scratch)
{
    int32_t *const acc = scratch;
    const int64_t depth = TABLE_BYTES / (m * STEP_TABLES * 32) * DEPTH;
    __m256i *const table = (__m256i *)scratch + m * ACC_STRIDE / 8;
    for (int64_t n0 = 0; n0 < n; n0 += OUTPUTS) {
        const int64_t count = n - n0 < OUTPUTS ? n - n0 : OUTPUTS;
        memset(acc, 0, (size_t)(m * ACC_STRIDE) * sizeof *acc);
        for (int64_t k0 = 0; k0 < k; k0 += depth) {
            const int64_t width = k - k0 < depth ? k - k0 : depth;
            for (int64_t d = 0; d < width; d += DEPTH)
                for (int64_t t = 0; t < m; t++)
                    build_tables(table + (d / DEPTH * m + t) * STEP_TABLES, q + t * ldq + k0 + d, width - d);
            add_blocks(acc, table, w + n0 * ldw + k0 / 32, ldw, m, count, width / 32);
        }
        for (int64_t t = 0; t < m; t++)
            finish(y + t * ldy + n0, acc + t * ACC_STRIDE, s[t], scale + n0, addend ? addend + t * ldadd + n0 : NULL,
                   (k + DEPTH - 1) / DEPTH * (DEPTH / 4), count);
    }
}

#else
typedef int qsi_avx2_w1_i8_few_absent;
#endif
