/* avx2_w1_i8.c - packed products of int8 by tables of sums, 16 tokens across lanes of 16 bits.
 *
 * The design of avx2_w1.c with larger groups, because sums of integers have no order: the 32 signs of a word are four fields
 * of 5 and two of 6 bits, each of which chooses one of 32 or 64 sums. Tables of three words (96 columns) are 24 KB of the
 * level-1 cache; an output costs 18 additions with a memory operand for 96 x 16 signed products, in 16 bits, which hold
 * 96 * 127, and then one to 32 bits. Accumulators lie in scratch, outputs x tokens (even ones, odd ones: what vpmaddwd
 * widens), and are transposed when a block of outputs is finished.
 *
 * Up to QSI_AVX2_FEW tokens: avx2_w1_i8_few.c. Forward: words are read as stored. Backward: 32 x 32 blocks of bits are
 * transposed first; the rest is the same code. */
#include "cpu/avx2.h"

#if QSI_HAVE_AVX2

enum {
    TOKENS = 16,
    WORDS = 3,                  /* tabulated at once */
    WORD_ENTRIES = 4 * 32 + 2 * 64,
    TABLE_BYTES = WORDS * WORD_ENTRIES * TOKENS * 2,
    ACC_BYTES = TOKENS * 4,     /* an output */
    FORWARD_BLOCK = 2048,       /* outputs with accumulators in scratch at once */
    BACKWARD_BLOCK = 1024,
    COLUMNS_STRIDE = BACKWARD_BLOCK + 16,   /* a power of two would fall into few sets of the cache */
    BACKWARD_TILES = 6          /* of tokens, that share transposed words */
};

_Static_assert(TABLE_BYTES + FORWARD_BLOCK * ACC_BYTES <= QSI_W1_SCRATCH, "QSI_W1_SCRATCH is too small");
_Static_assert(TABLE_BYTES + BACKWARD_BLOCK * BACKWARD_TILES * ACC_BYTES + WORDS * COLUMNS_STRIDE * 4 <= QSI_W1_SCRATCH,
               "QSI_W1_SCRATCH is too small");

/* ---- tables ----------------------------------------------------------------------------------------------------- */

/* to[32][16] = columns of 16 tokens as int16; only rows x cols of q exist, the rest is 0. */
AVX2_INLINE void columns_of(__m256i *to, const int8_t *q, int64_t ldq, int64_t rows, int64_t cols)
{
    __m256i r[16], t[16];
    UNROLL16
    for (int i = 0; i < 16; i++) {
        int8_t part[32] = {0};
        if (i < rows && cols < 32)
            memcpy(part, q + i * ldq, (size_t)cols);
        r[i] = _mm256_loadu_si256((const __m256i *)(const void *)(i < rows && cols >= 32 ? q + i * ldq : part));
    }
    UNROLL8
    for (int i = 0; i < 4; i++)
        qsi_half_transpose4(t + 4 * i, r[i], r[i + 4], r[i + 8], r[i + 12]);
    UNROLL8
    for (int i = 0; i < 4; i++)
        qsi_half_transpose4(r + 4 * i, t[i], t[i + 4], t[i + 8], t[i + 12]);
    UNROLL16
    for (int i = 0; i < 16; i++) {
        to[i] = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(r[i]));
        to[16 + i] = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(r[i], 1));
    }
}

/* The 2^bits sums of x[0 .. bits-1]; bit q of an entry's number set means +x[q]. */
AVX2_INLINE void tabulate(const int bits, __m256i *table, const __m256i *x)
{
    __m256i low[8];
    low[7] = _mm256_add_epi16(_mm256_add_epi16(x[0], x[1]), x[2]);
    low[6] = _mm256_sub_epi16(low[7], _mm256_add_epi16(x[0], x[0]));
    low[5] = _mm256_sub_epi16(low[7], _mm256_add_epi16(x[1], x[1]));
    low[3] = _mm256_sub_epi16(low[7], _mm256_add_epi16(x[2], x[2]));
    UNROLL8
    for (int i = 0; i < 3; i++)
        low[i] = _mm256_sub_epi16(_mm256_setzero_si256(), low[7 - i]);
    low[4] = _mm256_sub_epi16(_mm256_setzero_si256(), low[3]);
    for (int h = 0; h < 1 << (bits - 3); h++) {
        __m256i high = h & 1 ? x[3] : _mm256_sub_epi16(_mm256_setzero_si256(), x[3]);
        high = h & 2 ? _mm256_add_epi16(high, x[4]) : _mm256_sub_epi16(high, x[4]);
        if (bits > 5)
            high = h & 4 ? _mm256_add_epi16(high, x[5]) : _mm256_sub_epi16(high, x[5]);
        UNROLL8
        for (int i = 0; i < 8; i++)
            _mm256_store_si256(table + 8 * h + i, _mm256_add_epi16(low[i], high));
    }
}

/* Tables of cols <= 96 columns of q, word after word. */
AVX2 static void build_tables(__m256i *table, const int8_t *q, int64_t ldq, int64_t rows, int64_t cols)
{
    for (int64_t c = 0; c < cols; c += 32, table += WORD_ENTRIES) {
        __m256i x[32];
        columns_of(x, q + c, ldq, rows, cols - c);
        for (int i = 0; i < 4; i++)
            tabulate(5, table + 32 * i, x + 5 * i);
        for (int i = 0; i < 2; i++)
            tabulate(6, table + 128 + 64 * i, x + 20 + 6 * i);
    }
}

/* ---- sums ------------------------------------------------------------------------------------------------------- */

/* The sum that the `bits` signs of word from bit `at` choose; entries have 2^5 bytes. */
AVX2_INLINE __m256i chosen(const __m256i *table, uint32_t word, const int at, const int bits)
{
    const uint32_t rotated = word >> ((at - 5) & 31) | word << ((5 - at) & 31);
    return _mm256_load_si256((const __m256i *)(const void *)((const char *)table + (rotated & ((1u << bits) - 1) << 5)));
}

/* sum + the six sums that a word chooses. */
AVX2_INLINE __m256i add_word(__m256i sum, const __m256i *table, uint32_t word)
{
    sum = _mm256_add_epi16(sum, chosen(table, word, 0, 5));
    sum = _mm256_add_epi16(sum, chosen(table + 32, word, 5, 5));
    sum = _mm256_add_epi16(sum, chosen(table + 64, word, 10, 5));
    sum = _mm256_add_epi16(sum, chosen(table + 96, word, 15, 5));
    sum = _mm256_add_epi16(sum, chosen(table + 128, word, 20, 6));
    return _mm256_add_epi16(sum, chosen(table + 192, word, 26, 6));
}

/* acc[count, 16 tokens] += the sums of W words of each output; an output's words are `step` apart, outputs `stride`. */
AVX2_INLINE void add_words(const int W, __m256i *acc, const __m256i *table, const uint32_t *words, int64_t stride,
                           int64_t step, int64_t count)
{
    const __m256i even = _mm256_set1_epi32(1), odd = _mm256_set1_epi32(1 << 16);
    for (int64_t i = 0; i < count; i++) {
        __m256i sum = add_word(_mm256_setzero_si256(), table, words[0]);
        if (W > 1)
            sum = add_word(sum, table + WORD_ENTRIES, words[step]);
        if (W > 2)
            sum = add_word(sum, table + 2 * WORD_ENTRIES, words[2 * step]);
        acc[2 * i] = _mm256_add_epi32(acc[2 * i], _mm256_madd_epi16(sum, even));
        acc[2 * i + 1] = _mm256_add_epi32(acc[2 * i + 1], _mm256_madd_epi16(sum, odd));
        words += stride;
    }
}

AVX2 static void add_sums(__m256i *acc, const __m256i *table, const uint32_t *words, int64_t stride, int64_t step,
                          int64_t count, int64_t width)
{
    if (width == 3)
        add_words(3, acc, table, words, stride, step, count);
    else if (width == 2)
        add_words(2, acc, table, words, stride, step, count);
    else
        add_words(1, acc, table, words, stride, step, count);
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

/* y[8 tokens, up to 8 outputs] of the even or odd tokens, of which rows exist; y, s and addend at the first. */
AVX2_INLINE void finish8(float *y, int64_t ldy, const __m256i *acc, const float *s, const uint16_t *scale,
                         const float *addend, int64_t ldadd, int64_t rows, int64_t left)
{
    const __m256 alpha = scale ? qsi_halves8(scale, left) : _mm256_setzero_ps();
    __m256 r[8];
    UNROLL8
    for (int i = 0; i < 8; i++)
        r[i] = i < left ? _mm256_cvtepi32_ps(acc[2 * i]) : _mm256_setzero_ps();
    qsi_transpose8(r);
    for (int t = 0; t < 8 && 2 * t < rows; t++) {
        const __m256 factor = scale ? _mm256_mul_ps(alpha, qsi_set8(s[2 * t])) : qsi_set8(s[2 * t]);
        qsi_store_scaled(y + 2 * t * ldy, r[t], factor, addend ? addend + 2 * t * ldadd : NULL, left);
    }
}

/* y[rows, count] from acc; f = scale[n] s[m] rounded, or s[m] where scale is NULL. Lines of 16 outputs are written in whole,
 * as rows of y are a power of two apart more often than not. */
AVX2 static void finish(float *y, int64_t ldy, const __m256i *acc, const float *s, const uint16_t *scale,
                        const float *addend, int64_t ldadd, int64_t rows, int64_t count)
{
    for (int64_t j0 = 0; j0 < count; j0 += 16)
        for (int64_t odd = 0; odd < 2; odd++)
            for (int64_t j = j0; j < count && j < j0 + 16; j += 8)
                finish8(y + odd * ldy + j, ldy, acc + 2 * j + odd, s + odd, scale ? scale + j : NULL,
                        addend ? addend + odd * ldadd + j : NULL, ldadd, rows - odd, count - j);
}

/* ---- products --------------------------------------------------------------------------------------------------- */

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

void qsi_avx2_w1_i8_forward(float *y, int64_t ldy, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w,
                            int64_t ldw, const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n,
                            int64_t k, void *scratch)
{
    __m256i *const table = scratch, *const acc = table + TABLE_BYTES / 32;
    for (int64_t i = 0; i < m; i += TOKENS) {
        const int64_t rows = least(m - i, TOKENS);
        const float *add = addend ? addend + i * ldadd : NULL;
        if (rows <= QSI_AVX2_FEW) {
            qsi_avx2_w1_i8_few(y + i * ldy, ldy, q + i * ldq, ldq, s + i, w, ldw, scale, add, ldadd, rows, n, k, scratch);
            break;
        }
        for (int64_t n0 = 0; n0 < n; n0 += FORWARD_BLOCK) {
            const int64_t count = least(n - n0, FORWARD_BLOCK);
            memset(acc, 0, (size_t)(count * ACC_BYTES));
            for (int64_t j = 0; j < k / 32; j += WORDS) {
                const int64_t width = least(k / 32 - j, WORDS);
                build_tables(table, q + i * ldq + 32 * j, ldq, rows, 32 * width);
                add_sums(acc, table, w + n0 * ldw + j, ldw, 1, count, width);
            }
            finish(y + i * ldy + n0, ldy, acc, s + i, scale + n0, add ? add + n0 : NULL, ldadd, rows, count);
        }
    }
}

/* Columns k0 .. k0 + count of dx for up to BACKWARD_TILES tiles of tokens. */
static void backward_block(float *dx, int64_t lddx, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w,
                           int64_t ldw, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t count,
                           void *scratch)
{
    __m256i *const table = scratch, *const acc = table + TABLE_BYTES / 32;
    uint32_t *const columns = (uint32_t *)(void *)(acc + BACKWARD_TILES * BACKWARD_BLOCK * ACC_BYTES / 32);
    memset(acc, 0, (size_t)((m + TOKENS - 1) / TOKENS * count * ACC_BYTES));
    for (int64_t n0 = 0; n0 < n; n0 += 32 * WORDS) {
        const int64_t depth = least(n - n0, 32 * WORDS);
        for (int64_t d = 0; d < depth; d += 32)
            qsi_avx2_transpose_bits(columns + d / 32 * COLUMNS_STRIDE, w + (n0 + d) * ldw, ldw, least(depth - d, 32), count);
        for (int64_t i = 0; i < m; i += TOKENS) {
            build_tables(table, q + i * ldq + n0, ldq, least(m - i, TOKENS), depth);
            add_sums(acc + i / TOKENS * count * ACC_BYTES / 32, table, columns, 1, COLUMNS_STRIDE, count, (depth + 31) / 32);
        }
    }
    for (int64_t i = 0; i < m; i += TOKENS)
        finish(dx + i * lddx, lddx, acc + i / TOKENS * count * ACC_BYTES / 32, s + i, NULL,
               addend ? addend + i * ldadd : NULL, ldadd, least(m - i, TOKENS), count);
}

static void w1_i8_backward(float *dx, int64_t lddx, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w,
                           int64_t ldw, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k, void *scratch)
{
    for (int64_t i = 0; i < m; i += BACKWARD_TILES * TOKENS)
        for (int64_t k0 = 0; k0 < k; k0 += BACKWARD_BLOCK)
            backward_block(dx + i * lddx + k0, lddx, q + i * ldq, ldq, s + i, w + k0 / 32, ldw,
                           addend ? addend + i * ldadd + k0 : NULL, ldadd, least(m - i, BACKWARD_TILES * TOKENS), n,
                           least(k - k0, BACKWARD_BLOCK), scratch);
}

void qsi_avx2_w1_i8(qsi_kernels *table)
{
    table->w1_i8_forward = qsi_avx2_w1_i8_forward;
    table->w1_i8_backward = w1_i8_backward;
}

#else
typedef int qsi_avx2_w1_i8_absent;
#endif
