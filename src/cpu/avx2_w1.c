/* avx2_w1.c - packed products by tables of sums, 8 to 32 tokens across lanes.
 *
 * The 4 signs of a group choose one of 16 sums (+-x0 +- x1) + (+-x2 +- x3). For 32 columns and a tile of 8 V tokens the 8
 * groups' sums are tabulated once, lanes = tokens (V = 4: 16 KB, level-1 cache), and every output then costs one addition
 * with a memory operand per group and vector: one instruction serves 32 signed products. Accumulators live in scratch,
 * outputs x tokens, and are transposed when a block of outputs is finished.
 * The half of the table with opposite signs is the negation of the other half: exact except for the sign of a zero, which
 * cannot reach an accumulator that starts at +0.
 *
 * Up to 4 tokens would waste most lanes: avx2_w1_few.c puts outputs across lanes instead.
 * Forward: groups run along k, words are read as stored. Backward: groups run along n, so 32 x 32 blocks of bits are
 * transposed first; the loop over outputs (now columns) is the same code. */
#include "cpu/avx2.h"

#if QSI_HAVE_AVX2

enum {
    W1_GROUPS = 8,             /* groups of 4 in a word */
    W1_BLOCK = 512,            /* outputs with accumulators in scratch at once */
    W1_TILES = 3,              /* backward: token tiles that share transposed words */
    W1_TABLE_FLOATS = W1_GROUPS * 16 * 32,
    W1_TILE_FLOATS = W1_BLOCK * 32
};

_Static_assert((W1_TABLE_FLOATS + W1_TILES * W1_TILE_FLOATS + W1_BLOCK) * sizeof(float) <= QSI_W1_SCRATCH,
               "QSI_W1_SCRATCH is too small");

/* Floats between two table entries: a power of two, so that offsets are one shift and one mask. */
#define ENTRY(V) ((V) == 3 ? 32 : 8 * (V))
#define SHIFT(V) ((V) == 1 ? 5 : (V) == 2 ? 6 : 7)

/* acc[i, 8 V tokens] (+)= the 8 table entries that word i chooses, ascending. words: one every `stride` words. */
#define LOOKUP(g) do { \
        const uint32_t at = (4 * (g) >= SHIFT(V) ? word >> ((4 * (g) - SHIFT(V)) & 31) \
                                                   : word << ((SHIFT(V) - 4 * (g)) & 31)) & mask; \
        const float *entry = (const float *)((const char *)(table + (g) * 16 * ENTRY(V)) + at); \
        a0 = _mm256_add_ps(a0, _mm256_load_ps(entry)); \
        if (V > 1) a1 = _mm256_add_ps(a1, _mm256_load_ps(entry + 8)); \
        if (V > 2) a2 = _mm256_add_ps(a2, _mm256_load_ps(entry + 16)); \
        if (V > 3) a3 = _mm256_add_ps(a3, _mm256_load_ps(entry + 24)); \
    } while (0)

AVX2_INLINE void add_entries(const int V, const int first, float *acc, const float *table, const uint32_t *words,
                             int64_t stride, int64_t count)
{
    const uint32_t mask = 15u << SHIFT(V);
    for (int64_t i = 0; i < count; i++) {
        const uint32_t word = words[i * stride];
        float *out = acc + i * 8 * V;
        __m256 a0 = _mm256_setzero_ps(), a1 = a0, a2 = a0, a3 = a0;
        if (!first) {
            a0 = _mm256_load_ps(out);
            if (V > 1) a1 = _mm256_load_ps(out + 8);
            if (V > 2) a2 = _mm256_load_ps(out + 16);
            if (V > 3) a3 = _mm256_load_ps(out + 24);
        }
        LOOKUP(0); LOOKUP(1); LOOKUP(2); LOOKUP(3);
        LOOKUP(4); LOOKUP(5); LOOKUP(6); LOOKUP(7);
        _mm256_store_ps(out, a0);
        if (V > 1) _mm256_store_ps(out + 8, a1);
        if (V > 2) _mm256_store_ps(out + 16, a2);
        if (V > 3) _mm256_store_ps(out + 24, a3);
    }
}

/* The 16 sums of one group for 8 tokens; entry index bit q set means +x[q]. stride: floats between entries. */
AVX2_INLINE void tabulate(float *table, int stride, __m256 x0, __m256 x1, __m256 x2, __m256 x3)
{
    /* left by its two bits: 00 -(x0 + x1), 01 x0 - x1, 10 -(x0 - x1), 11 x0 + x1; right only with bit 3 set */
    const __m256 ls = _mm256_add_ps(x0, x1), ld = _mm256_sub_ps(x0, x1);
    const __m256 rs = _mm256_add_ps(x2, x3), rd = _mm256_sub_ps(x3, x2);
    const __m256 left[4] = {qsi_neg8(ls), ld, qsi_neg8(ld), ls};
    UNROLL8
    for (int q = 0; q < 4; q++) {
        const __m256 low = _mm256_add_ps(left[q], rd), high = _mm256_add_ps(left[q], rs);
        _mm256_store_ps(table + (8 + q) * stride, low);
        _mm256_store_ps(table + (12 + q) * stride, high);
        _mm256_store_ps(table + (7 - q) * stride, qsi_neg8(low));
        _mm256_store_ps(table + (3 - q) * stride, qsi_neg8(high));
    }
}

/* Tables of 32 columns of x for 8 V tokens. Only rows x cols of x exist, the rest counts as 0. scaled: column j is
 * multiplied by the half scale[j] first; bf16: then rounded to bf16. */
AVX2_INLINE void build_tables(const int V, const int scaled, float *table, const float *x, int64_t ldx,
                              const uint16_t *scale, int64_t rows, int64_t cols, int bf16)
{
    UNROLL8
    for (int q = 0; q < 4; q++) {
        const int64_t width = cols - 8 * q;
        const __m256i mask = qsi_mask8(width);
        __m256 factor = _mm256_setzero_ps();
        if (scaled && width > 0)
            factor = qsi_halves8(scale + 8 * q, width);
        for (int v = 0; v < V; v++) {
            const float *from = x + 8 * v * ldx + 8 * q;
            __m256 r[8];
            UNROLL8
            for (int t = 0; t < 8; t++)
                r[t] = _mm256_setzero_ps();
            if (width >= 8 && rows >= 8 * v + 8) {
                UNROLL8
                for (int t = 0; t < 8; t++)
                    r[t] = _mm256_loadu_ps(from + t * ldx);
            } else if (width > 0) {
                UNROLL8
                for (int t = 0; t < 8; t++)
                    if (8 * v + t < rows)
                        r[t] = _mm256_maskload_ps(from + t * ldx, mask);
            }
            if (scaled)
                UNROLL8
                for (int t = 0; t < 8; t++)
                    r[t] = _mm256_mul_ps(factor, r[t]);
            if (bf16)
                UNROLL8
                for (int t = 0; t < 8; t++)
                    r[t] = qsi_round_bf16(r[t]);
            qsi_transpose8(r);
            float *to = table + 2 * q * 16 * ENTRY(V) + 8 * v;
            tabulate(to, ENTRY(V), r[0], r[1], r[2], r[3]);
            tabulate(to + 16 * ENTRY(V), ENTRY(V), r[4], r[5], r[6], r[7]);
        }
    }
}

/* y[rows, count] from acc[count, 8 V]: scaled: fma(scale, s, addend) or scale * s; else s (+ addend). */
AVX2_INLINE void finish(const int V, const int scaled, float *y, int64_t ldy, const float *acc, const uint16_t *scale,
                        const float *addend, int64_t ldadd, int64_t rows, int64_t count)
{
    for (int64_t j = 0; j < count; j += 8) {
        const int full = count - j >= 8;
        const __m256i mask = qsi_mask8(count - j);
        __m256 factor = _mm256_setzero_ps();
        if (scaled)
            factor = qsi_halves8(scale + j, count - j);
        for (int v = 0; v < V; v++) {
            __m256 r[8];
            UNROLL8
            for (int i = 0; i < 8; i++)
                r[i] = full || j + i < count ? _mm256_load_ps(acc + (j + i) * 8 * V + 8 * v) : _mm256_setzero_ps();
            qsi_transpose8(r);
            for (int t = 0; t < 8 && 8 * v + t < rows; t++) {
                float *out = y + (8 * v + t) * ldy + j;
                __m256 s = r[t];
                if (addend != NULL) {
                    const float *from = addend + (8 * v + t) * ldadd + j;
                    const __m256 add = full ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, mask);
                    s = scaled ? _mm256_fmadd_ps(factor, s, add) : _mm256_add_ps(s, add);
                } else if (scaled) {
                    s = _mm256_mul_ps(factor, s);
                }
                if (full)
                    _mm256_storeu_ps(out, s);
                else
                    _mm256_maskstore_ps(out, mask, s);
            }
        }
    }
}

typedef struct matrix {
    const uint32_t *w;
    int64_t ldw;
    const uint16_t *scale;
    int64_t n, k;
} matrix;

/* One tile of rows <= 8 V tokens. */
AVX2_INLINE void forward_tile(const int V, float *y, int64_t ldy, const float *x, int64_t ldx, const matrix *a,
                              const float *addend, int64_t ldadd, int64_t rows, int bf16, float *table)
{
    float *acc = table + W1_TABLE_FLOATS;
    for (int64_t n0 = 0; n0 < a->n; n0 += W1_BLOCK) {
        const int64_t count = a->n - n0 < W1_BLOCK ? a->n - n0 : W1_BLOCK;
        if (a->k == 0)
            memset(acc, 0, (size_t)(count * 8 * V) * sizeof *acc);
        for (int64_t k0 = 0; k0 < a->k; k0 += 32) {
            const uint32_t *words = a->w + n0 * a->ldw + k0 / 32;
            build_tables(V, 0, table, x + k0, ldx, NULL, rows, 32, bf16);
            if (k0 == 0)
                add_entries(V, 1, acc, table, words, a->ldw, count);
            else
                add_entries(V, 0, acc, table, words, a->ldw, count);
        }
        finish(V, 1, y + n0, ldy, acc, a->scale + n0, addend ? addend + n0 : NULL, ldadd, rows, count);
    }
}

#define FORWARD(V) \
    AVX2 static void forward##V(float *y, int64_t ldy, const float *x, int64_t ldx, const matrix *a, const float *addend, \
                                int64_t ldadd, int64_t rows, int bf16, float *table) \
    { \
        forward_tile(V, y, ldy, x, ldx, a, addend, ldadd, rows, bf16, table); \
    }
FORWARD(1)
FORWARD(2)
FORWARD(3)
FORWARD(4)

static void w1_forward(float *y, int64_t ldy, const float *x, int64_t ldx, const uint32_t *w, int64_t ldw,
                       const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k,
                       int bf16, void *scratch)
{
    const matrix a = {w, ldw, scale, n, k};
    for (int64_t i = 0; i < m; i += 32) {
        const int64_t rows = m - i < 32 ? m - i : 32;
        const float *add = addend ? addend + i * ldadd : NULL;
        if (rows <= 4 &&
            qsi_avx2_w1_few(y + i * ldy, ldy, x + i * ldx, ldx, w, ldw, scale, add, ldadd, rows, n, k, bf16, scratch))
            break;
        switch ((rows + 7) / 8) {
        case 1: forward1(y + i * ldy, ldy, x + i * ldx, ldx, &a, add, ldadd, rows, bf16, scratch); break;
        case 2: forward2(y + i * ldy, ldy, x + i * ldx, ldx, &a, add, ldadd, rows, bf16, scratch); break;
        case 3: forward3(y + i * ldy, ldy, x + i * ldx, ldx, &a, add, ldadd, rows, bf16, scratch); break;
        default: forward4(y + i * ldy, ldy, x + i * ldx, ldx, &a, add, ldadd, rows, bf16, scratch); break;
        }
    }
}

AVX2 void qsi_avx2_transpose_bits(uint32_t *columns, const uint32_t *w, int64_t ldw, int64_t rows, int64_t count)
{
    const __m256i by_byte = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
                                             0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int64_t j0 = 0; j0 < count / 32; j0 += 8) {
        const int64_t words = count / 32 - j0 < 8 ? count / 32 - j0 : 8;
        const __m256i mask = qsi_mask8(words);
        __m256 block[8][4];  /* [word][8 rows] */
        UNROLL8
        for (int q = 0; q < 4; q++) {
            __m256 r[8];
            UNROLL8
            for (int t = 0; t < 8; t++)
                r[t] = 8 * q + t < rows ? _mm256_maskload_ps((const float *)(w + (8 * q + t) * ldw + j0), mask)
                                        : _mm256_setzero_ps();
            qsi_transpose8(r);
            UNROLL8
            for (int t = 0; t < 8; t++)
                block[t][q] = r[t];
        }
        for (int64_t j = 0; j < words; j++) {
            __m256i s[4];
            UNROLL8
            for (int q = 0; q < 4; q++)
                s[q] = _mm256_shuffle_epi8(_mm256_castps_si256(block[j][q]), by_byte);
            const __m256i t0 = _mm256_unpacklo_epi32(s[0], s[1]), t1 = _mm256_unpackhi_epi32(s[0], s[1]);
            const __m256i t2 = _mm256_unpacklo_epi32(s[2], s[3]), t3 = _mm256_unpackhi_epi32(s[2], s[3]);
            __m256i byte[4] = {_mm256_unpacklo_epi64(t0, t2), _mm256_unpackhi_epi64(t0, t2),
                               _mm256_unpacklo_epi64(t1, t3), _mm256_unpackhi_epi64(t1, t3)};
            for (int b = 0; b < 4; b++) {
                __m256i bits = _mm256_permutevar8x32_epi32(byte[b], in_order);
                uint32_t *out = columns + 32 * (j0 + j) + 8 * b;
                for (int i = 7; i >= 0; i--) {
                    out[i] = (uint32_t)_mm256_movemask_epi8(bits);
                    bits = _mm256_add_epi8(bits, bits);
                }
            }
        }
    }
}

AVX2_INLINE void backward_add(const int V, float *acc, float *table, const uint32_t *columns, const float *dy, int64_t lddy,
                              const uint16_t *scale, int64_t rows, int64_t height, int64_t count, int first, int bf16)
{
    build_tables(V, 1, table, dy, lddy, scale, rows, height, bf16);
    if (first)
        add_entries(V, 1, acc, table, columns, 1, count);
    else
        add_entries(V, 0, acc, table, columns, 1, count);
}

#define BACKWARD(V) \
    AVX2 static void backward_add##V(float *acc, float *table, const uint32_t *columns, const float *dy, int64_t lddy, \
                                     const uint16_t *scale, int64_t rows, int64_t height, int64_t count, int first, \
                                     int bf16) \
    { \
        backward_add(V, acc, table, columns, dy, lddy, scale, rows, height, count, first, bf16); \
    } \
    AVX2 static void backward_finish##V(float *dx, int64_t lddx, const float *acc, const float *addend, int64_t ldadd, \
                                        int64_t rows, int64_t count) \
    { \
        finish(V, 0, dx, lddx, acc, NULL, addend, ldadd, rows, count); \
    }
BACKWARD(1)
BACKWARD(2)
BACKWARD(3)
BACKWARD(4)

typedef void add_fn(float *acc, float *table, const uint32_t *columns, const float *dy, int64_t lddy, const uint16_t *scale,
                    int64_t rows, int64_t height, int64_t count, int first, int bf16);
typedef void finish_fn(float *dx, int64_t lddx, const float *acc, const float *addend, int64_t ldadd, int64_t rows,
                       int64_t count);

static void w1_backward(float *dx, int64_t lddx, const float *dy, int64_t lddy, const uint32_t *w, int64_t ldw,
                        const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k,
                        int bf16, void *scratch)
{
    static add_fn *const add[] = {backward_add1, backward_add2, backward_add3, backward_add4};
    static finish_fn *const done[] = {backward_finish1, backward_finish2, backward_finish3, backward_finish4};
    float *const table = scratch, *const acc = table + W1_TABLE_FLOATS;
    uint32_t *const columns = (uint32_t *)(void *)(acc + W1_TILES * W1_TILE_FLOATS);
    for (int64_t i0 = 0; i0 < m; i0 += 32 * W1_TILES)
        for (int64_t k0 = 0; k0 < k; k0 += W1_BLOCK) {
            const int64_t count = k - k0 < W1_BLOCK ? k - k0 : W1_BLOCK;
            const int64_t end = m - i0 < 32 * W1_TILES ? m : i0 + 32 * W1_TILES;
            if (n == 0)
                memset(acc, 0, W1_TILES * W1_TILE_FLOATS * sizeof *acc);
            for (int64_t n0 = 0; n0 < n; n0 += 32) {
                const int64_t height = n - n0 < 32 ? n - n0 : 32;
                qsi_avx2_transpose_bits(columns, w + n0 * ldw + k0 / 32, ldw, height, count);
                for (int64_t i = i0; i < end; i += 32) {
                    const int64_t rows = end - i < 32 ? end - i : 32;
                    add[(rows - 1) / 8](acc + (i - i0) / 32 * W1_TILE_FLOATS, table, columns, dy + i * lddy + n0, lddy,
                                        scale + n0, rows, height, count, n0 == 0, bf16);
                }
            }
            for (int64_t i = i0; i < end; i += 32) {
                const int64_t rows = end - i < 32 ? end - i : 32;
                done[(rows - 1) / 8](dx + i * lddx + k0, lddx, acc + (i - i0) / 32 * W1_TILE_FLOATS,
                                     addend ? addend + i * ldadd + k0 : NULL, ldadd, rows, count);
            }
        }
}

void qsi_avx2_w1(qsi_kernels *table)
{
    table->w1_forward = w1_forward;
    table->w1_backward = w1_backward;
}

#else
typedef int qsi_avx2_w1_absent;
#endif
