/* avx2_w1_i8_few.c - w1_i8_forward for few tokens (generation), 16 outputs across lanes of bytes.
 *
 * The bytes of 16 rows x 256 columns are transposed; a vector then holds one byte, two groups of 4 signs, of 16 rows in each
 * of its halves (columns 0..127 and 128..255), and vpshufb looks up 32 sums of a group at once. Half a sum of 4 values of
 * int8, rounded down, is 16 high + low with high in -16..15 and low in 0..15: two lookups, added in bytes, which hold 8
 * groups. Sums go to 16 bits after 8 groups and to 32 bits after 4 x 128 columns of each half: at most 128 * 254. What
 * rounding took is half the number of groups with an odd sum, whatever the signs. Transposing is shared by all tokens. */
#include "cpu/avx2.h"

#if QSI_HAVE_AVX2

enum {
    ROWS = 16,
    DEPTH = 256,                /* columns of a step */
    STEP_TABLES = 16 * 2 * 2,   /* of a token: [byte of a half][group][low, high], 16 sums for each half */
    TABLE_BYTES = 928 * 1024,   /* of tables at once */
    NEAR_BYTES = 16 * 1024,     /* of tables that stay in the level-1 cache ... */
    BLOCK_ROWS = 64,            /* ... while so many rows use them */
    STEPS = 4,                  /* that sums of 16 bits hold */
    OUTPUTS = 2048,             /* with accumulators in scratch at once */
    ACC_STRIDE = OUTPUTS + 16   /* a power of two would fall into few sets of the cache */
};

_Static_assert(QSI_AVX2_FEW * ACC_STRIDE * 4 + TABLE_BYTES <= QSI_W1_SCRATCH, "QSI_W1_SCRATCH is too small");

/* ---- tables ----------------------------------------------------------------------------------------------------- */

/* Low and high parts of the halves of the 16 sums of 4 values, those from 4 group on, of each half of x (int16); bit i of an
 * entry's number set means +x[i]. */
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
    const __m256i minus = _mm256_srai_epi16(_mm256_sub_epi16(three, x3), 1), mask = _mm256_set1_epi16(15);
    const __m256i plus = _mm256_srai_epi16(_mm256_add_epi16(three, x3), 1);
    _mm256_store_si256(table, _mm256_packs_epi16(_mm256_and_si256(minus, mask), _mm256_and_si256(plus, mask)));
    _mm256_store_si256(table + 1, _mm256_packs_epi16(_mm256_srai_epi16(minus, 4), _mm256_srai_epi16(plus, 4)));
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

/* Tables of m tokens for `width` columns. Meanwhile the first block of rows is fetched, which no block before it does. */
AVX2 static void build_all(__m256i *table, const int8_t *q, int64_t ldq, int64_t m, int64_t width, const char *first)
{
    for (int64_t d = 0; d < width; d += DEPTH) {
        for (int64_t i = 0; i < BLOCK_ROWS * DEPTH / 8; i += 64, first += 64)
            _mm_prefetch(first, _MM_HINT_T1);
        for (int64_t t = 0; t < m; t++)
            build_tables(table + (d / DEPTH * m + t) * STEP_TABLES, q + t * ldq + d, width - d);
    }
}

/* Groups of 4 of k values that have an odd sum; k a multiple of 32. */
AVX2 static int32_t odd_groups(const int8_t *q, int64_t k)
{
    __m256i count = _mm256_setzero_si256();
    for (int64_t i = 0; i < k; i += 32) {
        __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(q + i));
        x = _mm256_xor_si256(x, _mm256_srli_epi32(x, 16));
        x = _mm256_xor_si256(x, _mm256_srli_epi32(x, 8));
        count = _mm256_add_epi32(count, _mm256_and_si256(x, _mm256_set1_epi32(1)));
    }
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(count), _mm256_extracti128_si256(count, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}

/* ---- sums ------------------------------------------------------------------------------------------------------- */

/* gcc would make a tree of a chain of additions, whose leaves do not fit the registers. */
#define IN_ORDER(x) __asm__("" : "+x"(x))

/* *low, *high += the sums of a group of 16 rows that `index` chooses. */
AVX2_INLINE void add_group(__m256i *low, __m256i *high, __m256i index, const __m256i *table)
{
    *low = _mm256_add_epi8(*low, _mm256_shuffle_epi8(table[0], index));
    *high = _mm256_add_epi8(*high, _mm256_shuffle_epi8(table[1], index));
    IN_ORDER(*low);
    IN_ORDER(*high);
}

AVX2_INLINE __m256i lower(__m256i bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
AVX2_INLINE __m256i upper(__m256i bytes) { return lower(_mm256_srli_epi16(bytes, 4)); }

/* sums[2]: 16 outputs, of each half of the columns, + low + 16 high. */
AVX2_INLINE void add_bytes(__m256i sums[2], __m256i low, __m256i high)
{
    const __m256i weights = _mm256_set1_epi16(0x1001);
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

AVX2_INLINE __m256i load(const char *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }

AVX2_INLINE __m256i unpack(const int high, __m256i a, __m256i b)
{
    return high ? _mm256_unpackhi_epi8(a, b) : _mm256_unpacklo_epi8(a, b);
}

/* Lines that are fetched while the rows before them are multiplied, one row after the other. Evenly spread and in this order
 * weights come from memory as fast as they are multiplied; in the order of their use, a line of each row in turn, at a third
 * of that. */
AVX2_INLINE void fetch(const char **ahead)
{
    _mm_prefetch(*ahead, _MM_HINT_T1);
    _mm_prefetch(*ahead + 64, _MM_HINT_T1);
    *ahead += 128;
}

/* sums[m][2] += one of 4 parts of a step: 4 bytes of 16 rows, half transposed. Indices are made once for all tokens. */
AVX2_INLINE void add_part(__m256i (*sums)[2], const __m256i half[4], const __m256i *table, int64_t m)
{
    __m256i bytes[4], index[8];
    qsi_half_transpose4(bytes, half[0], half[1], half[2], half[3]);
    UNROLL8
    for (int i = 0; i < 4; i++) {
        index[2 * i] = lower(bytes[i]);
        index[2 * i + 1] = upper(bytes[i]);
    }
    for (int64_t t = 0; t < m; t++) {
        __m256i low = _mm256_setzero_si256(), high = low;
        UNROLL8
        for (int i = 0; i < 8; i++)
            add_group(&low, &high, index[i], table + t * STEP_TABLES + 2 * i);
        add_bytes(sums[t], low, high);
    }
}

/* The same for one token, whose indices are used as they come: that spares registers. */
AVX2_INLINE void add_part1(__m256i sums[2], const __m256i half[4], const __m256i *table)
{
    __m256i bytes[4], low = _mm256_setzero_si256(), high = low;
    qsi_half_transpose4(bytes, half[0], half[1], half[2], half[3]);
    UNROLL8
    for (int i = 0; i < 4; i++) {
        add_group(&low, &high, lower(bytes[i]), table + 4 * i);
        add_group(&low, &high, upper(bytes[i]), table + 4 * i + 2);
    }
    add_bytes(sums, low, high);
}

/* sums[m][2] += the first or second 2 parts of a step: as many vectors as stay in registers, because what is stored and soon
 * loaded again is waited for. So rows are loaded twice. pitch: bytes between rows. */
AVX2_INLINE void add_half(const int second, __m256i (*sums)[2], const char *row, int64_t pitch, const __m256i *table,
                          int64_t m, const char **ahead)
{
    __m256i half[2][4];
    UNROLL8
    for (int i = 0; i < 4; i++) {
        const char *r = row + i * pitch;
        const __m256i a = unpack(second, load(r), load(r + 8 * pitch));
        const __m256i b = unpack(second, load(r + 4 * pitch), load(r + 12 * pitch));
        half[0][i] = unpack(0, a, b);
        half[1][i] = unpack(1, a, b);
    }
    UNROLL8
    for (int i = 0; i < 2; i++) {
        fetch(ahead);
        if (m == 1)
            add_part1(sums[0], half[i], table + 32 * second + 16 * i);
        else
            add_part(sums, half[i], table + 32 * second + 16 * i, m);
    }
}

/* acc[m][ACC_STRIDE] += up to STEPS steps, `words` words, of 16 rows. */
AVX2_INLINE void add_steps(int32_t *acc, const char *row, int64_t pitch, int64_t words, const __m256i *table, int64_t m,
                           const char **ahead)
{
    __m256i sums[QSI_AVX2_FEW][2];
    for (int64_t t = 0; t < m; t++)
        sums[t][0] = sums[t][1] = _mm256_setzero_si256();
    for (int64_t i = 0; i < words; i += DEPTH / 32) {
        add_half(0, sums, row + 4 * i, pitch, table + i / 8 * m * STEP_TABLES, m, ahead);
        add_half(1, sums, row + 4 * i, pitch, table + i / 8 * m * STEP_TABLES, m, ahead);
    }
    for (int64_t t = 0; t < m; t++)
        widen((__m256i *)(void *)(acc + t * ACC_STRIDE), sums[t]);
}

/* acc[m][ACC_STRIDE] += `words` words of up to 16 rows; what is no whole step is copied, with 0 around it. */
AVX2_INLINE void add_rows(int32_t *acc, const uint32_t *w, int64_t ldw, int64_t rows, int64_t words, const __m256i *table,
                          int64_t m, const char **ahead)
{
    const int64_t whole = rows < ROWS ? 0 : words / 8 * 8;
    for (int64_t i = 0; i < whole; i += 8 * STEPS)
        add_steps(acc, (const char *)(w + i), 4 * ldw, whole - i < 8 * STEPS ? whole - i : 8 * STEPS,
                  table + i / 8 * m * STEP_TABLES, m, ahead);
    for (int64_t i = whole; i < words; i += 8) {
        uint32_t padded[ROWS][8] = {{0}};
        for (int64_t j = 0; j < ROWS && j < rows; j++)
            memcpy(padded[j], w + j * ldw + i, (size_t)(words - i < 8 ? words - i : 8) * sizeof *w);
        add_steps(acc, (const char *)padded, sizeof padded[0], 8, table + i / 8 * m * STEP_TABLES, m, ahead);
    }
}

/* The same for count rows, by blocks that share tables while these are near. What lies behind the last block is fetched,
 * too: another task or the next product multiplies it. */
AVX2_INLINE void add_blocks(int32_t *acc, const __m256i *table, const uint32_t *w, int64_t ldw, int64_t m, int64_t count,
                            int64_t words)
{
    const int64_t steps = NEAR_BYTES / (m * STEP_TABLES * 32), near = (steps > 0 ? steps : 1) * 8;
    for (int64_t j = 0; j < count; j += BLOCK_ROWS) {
        const int64_t rows = count - j < BLOCK_ROWS ? count - j : BLOCK_ROWS;
        const char *ahead = (const char *)(w + (j + BLOCK_ROWS) * ldw);
        for (int64_t i = 0; i < words; i += near)
            for (int64_t r = 0; r < rows; r += ROWS)
                add_rows(acc + j + r, w + (j + r) * ldw + i, ldw, rows - r, words - i < near ? words - i : near,
                         table + i / 8 * m * STEP_TABLES, m, &ahead);
    }
}

AVX2 static void add_one(int32_t *acc, const __m256i *table, const uint32_t *w, int64_t ldw, int64_t count, int64_t words)
{
    add_blocks(acc, table, w, ldw, 1, count, words);
}

AVX2 static void add_several(int32_t *acc, const __m256i *table, const uint32_t *w, int64_t ldw, int64_t m, int64_t count,
                             int64_t words)
{
    add_blocks(acc, table, w, ldw, m, count, words);
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

/* y[count] of one token; acc: half of each group's sum, rounded down, odd: the groups for which that took a half. */
AVX2 static void finish(float *y, const int32_t *acc, float s, const uint16_t *scale, const float *addend, int32_t odd,
                        int64_t count)
{
    for (int64_t j = 0; j < count; j += 8) {
        const int64_t left = count - j < 8 ? count - j : 8;
        const __m256 alpha = qsi_halves8(scale + j, left);
        const __m256i half = _mm256_load_si256((const __m256i *)(const void *)(acc + j));
        const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(half, half), _mm256_set1_epi32(odd));
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
    int32_t odd[QSI_AVX2_FEW];
    for (int64_t t = 0; t < m; t++)
        odd[t] = odd_groups(q + t * ldq, k);
    for (int64_t n0 = 0; n0 < n; n0 += OUTPUTS) {
        const int64_t count = n - n0 < OUTPUTS ? n - n0 : OUTPUTS;
        memset(acc, 0, (size_t)(m * ACC_STRIDE) * sizeof *acc);
        for (int64_t k0 = 0; k0 < k; k0 += depth) {
            const int64_t width = k - k0 < depth ? k - k0 : depth;
            if (n0 == 0 || depth < k)
                build_all(table, q + k0, ldq, m, width, (const char *)(w + n0 * ldw));
            if (m == 1)
                add_one(acc, table, w + n0 * ldw + k0 / 32, ldw, count, width / 32);
            else
                add_several(acc, table, w + n0 * ldw + k0 / 32, ldw, m, count, width / 32);
        }
        for (int64_t t = 0; t < m; t++)
            finish(y + t * ldy + n0, acc + t * ACC_STRIDE, s[t], scale + n0, addend ? addend + t * ldadd + n0 : NULL,
                   odd[t], count);
    }
}

#else
typedef int qsi_avx2_w1_i8_few_absent;
#endif
