/* avx512_w1.c - packed products of many tokens: 16 outputs across lanes, 6 tokens x 64 outputs in registers.
 *
 * For 128 columns the tables of 6 tokens (12 KB) stay in the level-1 cache, and every 4-bit code is a word of its own, so
 * that the inner loop is loads, permutes and additions; between such pieces of depth the sums rest in scratch.
 *
 * Forward: groups run along k; words of 16 rows are transposed so that lanes are rows. Backward: groups run along n, so
 * 32 x 32 blocks of bits are transposed and lanes are columns. The rest is the same code. */
#include "cpu/avx512_w1.h"

#if QSI_HAVE_AVX512

enum {
    LANES = 16,
    WORDS = 4,                  /* words of depth at a time */
    DEPTH = 32 * WORDS,
    GROUPS = DEPTH / 4,
    OUTPUTS = 384,              /* with codes and sums in scratch at once */
    TOKENS = 96,                /* that share codes */
    TILE = 6,                   /* tokens that share registers */
    BLOCKS = 4,                 /* blocks of 16 outputs that do */
    FEW = 8,                    /* forward: up to so many tokens avx512_w1_few.c is faster */
    CODE_WORDS = OUTPUTS * GROUPS,
    TABLE_FLOATS = TILE * GROUPS * LANES,
    SUM_FLOATS = TOKENS * OUTPUTS
};

_Static_assert(4 * (CODE_WORDS + TABLE_FLOATS + SUM_FLOATS) <= QSI_W1_SCRATCH, "QSI_W1_SCRATCH is too small");

/* ---- tables ----------------------------------------------------------------------------------------------------- */

/* Tables [group][token][16] of up to DEPTH values of each token, 0 beyond `depth`. scale: halves that multiply the values
 * first, or NULL; bf16: they are rounded to it then. */
AVX512 static void build_tables(float *table, const float *x, int64_t ldx, const uint16_t *scale, int64_t tokens,
                                int64_t depth, int bf16)
{
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t p = 0; p < depth; p += LANES) {
            __m512 v = qsi_load16(x + t * ldx + p, depth - p);
            if (scale != NULL)
                v = _mm512_mul_ps(qsi_halves16(scale + p, depth - p), v);
            qsi_tabulate(table + (p / 4 * tokens + t) * LANES, tokens * LANES, qsi_rounded16(v, bf16));
        }
}

/* ---- codes ------------------------------------------------------------------------------------------------------ */

/* codes[g][16], g < 8: the groups of 16 words one after the other. Permutes read the low 4 bits, so the others stay. */
AVX512_INLINE void store_codes(uint32_t *codes, __m512i words)
{
    UNROLL
    for (int g = 0; g < 8; g++)
        _mm512_store_si512(codes + g * LANES, _mm512_srli_epi32(words, 4 * g));
}

/* codes[block of 16 rows][GROUPS][16] of `words` words of count rows. */
AVX512 static void codes_of_rows(uint32_t *codes, const uint32_t *w, int64_t ldw, int64_t count, int64_t words)
{
    for (int64_t i = 0; i < count; i += LANES) {
        __m512i r[4];
        qsi_load_rows(r, w + i * ldw, ldw, count - i, words);
        UNROLL
        for (int j = 0; j < WORDS; j++)
            store_codes(codes + i * GROUPS + 8 * j * LANES, r[j]);
    }
}

/* Bit 7 of every byte, 8 times: columns 0 .. 7 from the low half of x, 8 .. 15 from the high half. */
AVX512_INLINE void store_columns(uint32_t *column, __m512i x)
{
    for (int i = 7; i >= 0; i--) {
        uint64_t bits = _cvtmask64_u64(_mm512_movepi8_mask(x));
        __asm__("" : "+r"(bits));   /* clang would collect vectors of them, at 5 times the cost */
        column[i] = (uint32_t)bits;
        column[i + 8] = (uint32_t)(bits >> 32);
        x = _mm512_add_epi8(x, x);
    }
}

/* codes[block of 16 columns][GROUPS][16] of `rows` <= DEPTH rows (0 beyond) of count columns, a multiple of 32. */
AVX512 static void codes_of_columns(uint32_t *codes, const uint32_t *w, int64_t ldw, int64_t rows, int64_t count)
{
    const __m512i by_byte = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m512i by_lane = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    for (int64_t j = 0; 32 * j < rows; j++)
        for (int64_t c = 0; c < count; c += DEPTH) {
            const uint32_t *from = w + 32 * j * ldw + c / 32;
            const int64_t left = rows - 32 * j, words = count - c < DEPTH ? (count - c) / 32 : WORDS;
            __m512i low[4], high[4];
            qsi_load_rows(low, from, ldw, left, words);
            qsi_load_rows(high, from + 16 * ldw, ldw, left - 16, words);
            uint32_t column[DEPTH] __attribute__((aligned(64)));
            for (int64_t q = 0; q < words; q++) {
                const __m512i a = _mm512_permutexvar_epi32(by_lane, _mm512_shuffle_epi8(low[q], by_byte));
                const __m512i b = _mm512_permutexvar_epi32(by_lane, _mm512_shuffle_epi8(high[q], by_byte));
                store_columns(column + 32 * q, _mm512_permutex2var_epi64(a, first, b));
                store_columns(column + 32 * q + LANES, _mm512_permutex2var_epi64(a, second, b));
            }
            for (int64_t q = 0; q < 2 * words; q++)
                store_codes(codes + (c + LANES * q) * GROUPS + 8 * j * LANES, _mm512_load_si512(column + LANES * q));
        }
}

/* ---- sums ------------------------------------------------------------------------------------------------------- */

/* sums[BLOCKS][T][16] (+)= the entries that the codes choose, groups ascending. */
AVX512_INLINE void add_entries(const int T, float *sums, const float *table, const uint32_t *codes, int64_t groups,
                               int fresh)
{
    const __m512 one = qsi_set16(1.0f);
    __m512 s[24];
    UNROLL
    for (int i = 0; i < BLOCKS * T; i++)
        s[i] = fresh ? _mm512_setzero_ps() : _mm512_load_ps(sums + i * LANES);
    for (int64_t g = 0; g < groups; g++) {
        __m512i code[BLOCKS];
        UNROLL
        for (int r = 0; r < BLOCKS; r++)
            code[r] = _mm512_load_si512(codes + (r * GROUPS + g) * LANES);
        UNROLL
        for (int t = 0; t < T; t++) {
            __m512 entries;
            __asm__ volatile("vmovaps %1, %0" : "=v"(entries) : "m"(*(const __m512 *)(const void *)(table + t * LANES)));
            UNROLL
            for (int r = 0; r < BLOCKS; r += 2)
                QSI_STEP(r * T + t, (r + 1) * T + t, code[r], code[r + 1], entries);
        }
        table += T * LANES;
    }
    UNROLL
    for (int i = 0; i < BLOCKS * T; i++)
        _mm512_store_ps(sums + i * LANES, s[i]);
}

typedef void add_fn(float *sums, const float *table, const uint32_t *codes, int64_t groups, int64_t blocks, int fresh);

#define ADD(T) \
    AVX512 static void add##T(float *sums, const float *table, const uint32_t *codes, int64_t groups, int64_t blocks, \
                              int fresh) \
    { \
        for (int64_t b = 0; b < blocks; b += BLOCKS) \
            add_entries(T, sums + b * T * LANES, table, codes + b * GROUPS * LANES, groups, fresh); \
    }
ADD(1) ADD(2) ADD(3) ADD(4) ADD(5) ADD(6)

static add_fn *const add_of[TILE + 1] = {NULL, add1, add2, add3, add4, add5, add6};

/* ---- products --------------------------------------------------------------------------------------------------- */

/* out[i, o] = what the sums of in[i, d] give, with codes from w. */
typedef struct product {
    float *out;
    const float *in, *addend;
    int64_t ld_out, ld_in, ld_add;
    const uint32_t *w;
    int64_t ldw;
    const uint16_t *scale;
    int64_t tokens, outputs, depth;
    int backward;            /* outputs are columns of w and scale belongs to the input */
    int bf16;                /* inputs are rounded to it */
} product;

/* Tokens of the tile that starts at token i of `tokens`: all as even as can be. */
static int64_t tile_of(int64_t i, int64_t tokens)
{
    const int64_t left = tokens - i, tiles = (left + TILE - 1) / TILE;
    return (left + tiles - 1) / tiles;
}

/* rows x count outputs from sums[block][rows][16]. */
AVX512 static void finish(const product *a, int64_t token, int64_t output, const float *sums, int64_t rows, int64_t count)
{
    for (int64_t o = 0; o < count; o += LANES) {
        const int64_t left = count - o;
        const __m512 factor = a->backward ? _mm512_setzero_ps() : qsi_halves16(a->scale + output + o, left);
        for (int64_t t = 0; t < rows; t++) {
            const float *add = a->addend ? a->addend + (token + t) * a->ld_add + output + o : NULL;
            __m512 s = _mm512_load_ps(sums + o * rows + t * LANES);
            if (a->backward)
                s = add ? _mm512_add_ps(s, qsi_load16(add, left)) : s;
            else
                s = add ? _mm512_fmadd_ps(factor, s, qsi_load16(add, left)) : _mm512_mul_ps(factor, s);
            qsi_store16(a->out + (token + t) * a->ld_out + output + o, s, left);
        }
    }
}

/* Up to TOKENS tokens x OUTPUTS outputs. */
static void rectangle(const product *a, int64_t token, int64_t output, uint32_t *codes)
{
    float *const table = (float *)(void *)(codes + CODE_WORDS), *const sums = table + TABLE_FLOATS;
    const int64_t tokens = a->tokens - token < TOKENS ? a->tokens - token : TOKENS;
    const int64_t count = a->outputs - output < OUTPUTS ? a->outputs - output : OUTPUTS;
    if (a->depth == 0)
        memset(sums, 0, SUM_FLOATS * sizeof *sums);
    for (int64_t d = 0; d < a->depth; d += DEPTH) {
        const int64_t depth = a->depth - d < DEPTH ? a->depth - d : DEPTH, words = (depth + 31) / 32;
        if (a->backward)
            codes_of_columns(codes, a->w + d * a->ldw + output / 32, a->ldw, depth, count);
        else
            codes_of_rows(codes, a->w + output * a->ldw + d / 32, a->ldw, count, words);
        for (int64_t i = 0, rows; i < tokens; i += rows) {
            rows = tile_of(i, tokens);
            build_tables(table, a->in + (token + i) * a->ld_in + d, a->ld_in, a->backward ? a->scale + d : NULL, rows,
                         depth, a->bf16);
            add_of[rows](sums + i * OUTPUTS, table, codes, (depth + 3) / 4, (count + LANES - 1) / LANES, d == 0);
        }
    }
    for (int64_t i = 0, rows; i < tokens; i += rows) {
        rows = tile_of(i, tokens);
        finish(a, token + i, output, sums + i * OUTPUTS, rows, count);
    }
}

static void run(const product *a, void *scratch)
{
    for (int64_t i = 0; i < a->tokens; i += TOKENS)
        for (int64_t o = 0; o < a->outputs; o += OUTPUTS)
            rectangle(a, i, o, scratch);
}

static void w1_forward(float *y, int64_t ldy, const float *x, int64_t ldx, const uint32_t *w, int64_t ldw,
                       const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k,
                       int bf16, void *scratch)
{
    const product all = {y, x, addend, ldy, ldx, ldadd, w, ldw, scale, m, n, k, 0, bf16};
    if (m > FEW || !qsi_avx512_w1_few(y, ldy, x, ldx, w, ldw, scale, addend, ldadd, m, n, k, bf16, scratch))
        run(&all, scratch);
}

static void w1_backward(float *dx, int64_t lddx, const float *dy, int64_t lddy, const uint32_t *w, int64_t ldw,
                        const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k,
                        int bf16, void *scratch)
{
    const product all = {dx, dy, addend, lddx, lddy, ldadd, w, ldw, scale, m, k, n, 1, bf16};
    run(&all, scratch);
}

void qsi_avx512_w1(qsi_kernels *table)
{
    table->w1_forward = w1_forward;
    table->w1_backward = w1_backward;
}

#else
typedef int qsi_avx512_w1_absent;
#endif
