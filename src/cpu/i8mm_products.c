/* i8mm_products.c - packed products with int8 activations by smmla: 2 outputs x 2 tokens x 8 columns an instruction.
 *
 * Bits are expanded to -1 (set) and +1 (clear) 16 at a time where they are used, and serve up to 8 tokens; the sums are
 * subtracted at the end. Activations of up to 32 tokens are packed in pairs of tokens and eights of columns first.
 * Forward: words as stored. Backward: sums run along n, so 32 x 32 blocks of bits are transposed first. */
#include "cpu/i8mm.h"

#if QSI_HAVE_NEON

enum {
    DEPTH = 1024,      /* columns packed at once */
    BLOCK = 256,       /* outputs with sums in scratch at once */
    TOKENS = 32,       /* packed at once, in tiles of up to 8 */
    PANEL = DEPTH * TOKENS
};

_Static_assert(PANEL + BLOCK * (TOKENS + DEPTH / 32) * sizeof(int32_t) <= QSI_W1_SCRATCH, "QSI_W1_SCRATCH is too small");

/* Words of the outputs: word b of output j at words[j * stride + b * step]. */
typedef struct bits {
    const uint32_t *words;
    int64_t stride, step, count, depth;   /* outputs, words of an output */
} bits;

/* panel[column / 8][token][8 columns] of `tokens` tokens (padded to 2, 4 or a multiple of 8) and columns to a multiple of
 * 32. */
static void pack(int8_t *panel, const int8_t *q, int64_t ldq, int64_t rows, int64_t tokens, int64_t columns)
{
    for (int64_t c = 0; c < (columns + 31) / 32 * 32; c += 8)
        for (int64_t t = 0; t < tokens; t++, panel += 8) {
            const int64_t left = columns - c < 8 ? columns - c : 8;
            if (t >= rows || left < 8)
                memset(panel, 0, 8);
            if (t < rows && left > 0)
                memcpy(panel, q + t * ldq + c, (size_t)left);
        }
}

/* 2 outputs with 8 columns each, byte b of their words (w0 in the low half): -1 where the bit is set, +1 where not. */
NEON_INLINE int8x16_t expand(uint8x16_t pair, int b)
{
    static const uint8_t place[16] = {0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4, 4, 4, 4, 4};
    static const uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t byte = vqtbl1q_u8(pair, vaddq_u8(vld1q_u8(place), vdupq_n_u8((uint8_t)b)));
    return vreinterpretq_s8_u8(vorrq_u8(vtstq_u8(byte, vld1q_u8(bit)), vdupq_n_u8(1)));
}

/* The words of outputs j and j + 1; the last output again beyond the count. */
NEON_INLINE uint8x16_t load_pair(const bits *w, int64_t j, int64_t b)
{
    const int64_t last = w->count - 1, j0 = j < last ? j : last, j1 = j + 1 < last ? j + 1 : last;
    const uint32_t *at = w->words + b * w->step;
    const uint64_t both = (uint64_t)at[j1 * w->stride] << 32 | at[j0 * w->stride];
    return vreinterpretq_u8_u64(vdupq_n_u64(both));
}

#define PRODUCTS(i) do { \
        const int8x16_t y = expand(pair##i, byte); \
        c##i##0 = qsi_smmla(c##i##0, y, x0); \
        if (P > 1) c##i##1 = qsi_smmla(c##i##1, y, x1); \
        if (P > 2) c##i##2 = qsi_smmla(c##i##2, y, x2); \
        if (P > 2) c##i##3 = qsi_smmla(c##i##3, y, x3); \
    } while (0)

/* 2 x 2 sums of outputs j + 2 i, j + 2 i + 1 and 2 tokens, turned and subtracted. */
NEON_INLINE void subtract(int32_t *sums, int64_t tokens, int32x4_t c)
{
    vst1_s32(sums, vsub_s32(vld1_s32(sums), vget_low_s32(c)));
    vst1_s32(sums + tokens, vsub_s32(vld1_s32(sums + tokens), vget_high_s32(c)));
}

#define SUBTRACT(i) do { \
        int32_t *to = sums + (j + 2 * i) * tokens; \
        subtract(to, tokens, c##i##0); \
        if (P > 1) subtract(to + 2, tokens, c##i##1); \
        if (P > 2) subtract(to + 4, tokens, c##i##2); \
        if (P > 2) subtract(to + 6, tokens, c##i##3); \
    } while (0)

/* sums[outputs, tokens] += products for 2 P tokens of the panel. */
I8MM_INLINE void tile(const int P, int32_t *sums, const int8_t *panel, int64_t tokens, const bits *w)
{
    for (int64_t j = 0; j < w->count; j += 8) {
        const int8_t *x = panel;
        int32x4_t c00 = vdupq_n_s32(0), c01 = c00, c02 = c00, c03 = c00, c10 = c00, c11 = c00, c12 = c00, c13 = c00;
        int32x4_t c20 = c00, c21 = c00, c22 = c00, c23 = c00, c30 = c00, c31 = c00, c32 = c00, c33 = c00;
        for (int64_t b = 0; b < w->depth; b++) {
            const uint8x16_t pair0 = load_pair(w, j, b), pair1 = load_pair(w, j + 2, b);
            const uint8x16_t pair2 = load_pair(w, j + 4, b), pair3 = load_pair(w, j + 6, b);
            for (int byte = 0; byte < 4; byte++, x += 8 * tokens) {
                const int8x16_t x0 = vld1q_s8(x), x1 = P > 1 ? vld1q_s8(x + 16) : x0;
                const int8x16_t x2 = P > 2 ? vld1q_s8(x + 32) : x0, x3 = P > 2 ? vld1q_s8(x + 48) : x0;
                PRODUCTS(0); PRODUCTS(1); PRODUCTS(2); PRODUCTS(3);
            }
        }
        SUBTRACT(0);
        SUBTRACT(1);
        SUBTRACT(2);
        SUBTRACT(3);
    }
}

I8MM static void tile2(int32_t *sums, const int8_t *panel, int64_t tokens, const bits *w)
{
    tile(1, sums, panel, tokens, w);
}

I8MM static void tile4(int32_t *sums, const int8_t *panel, int64_t tokens, const bits *w)
{
    tile(2, sums, panel, tokens, w);
}

I8MM static void tile8(int32_t *sums, const int8_t *panel, int64_t tokens, const bits *w)
{
    tile(4, sums, panel, tokens, w);
}

static int64_t padded(int64_t rows) { return rows <= 2 ? 2 : rows <= 4 ? 4 : (rows + 7) / 8 * 8; }

static void products(int32_t *sums, const int8_t *panel, int64_t tokens, const bits *w)
{
    if (tokens == 2)
        tile2(sums, panel, tokens, w);
    else if (tokens == 4)
        tile4(sums, panel, tokens, w);
    else
        for (int64_t t = 0; t < tokens; t += 8)
            tile8(sums + t, panel + 8 * t, tokens, w);
}

static void w1_i8_forward(float *y, int64_t ldy, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w,
                          int64_t ldw, const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n,
                          int64_t k, void *scratch)
{
    int8_t *const panel = scratch;
    int32_t *const sums = (int32_t *)(void *)(panel + PANEL);
    for (int64_t i = 0; i < m; i += TOKENS) {
        const int64_t rows = m - i < TOKENS ? m - i : TOKENS, tokens = padded(rows);
        for (int64_t n0 = 0; n0 < n; n0 += BLOCK) {
            const int64_t count = n - n0 < BLOCK ? n - n0 : BLOCK;
            memset(sums, 0, BLOCK * TOKENS * sizeof *sums);
            for (int64_t c = 0; c < k; c += DEPTH) {
                const int64_t columns = k - c < DEPTH ? k - c : DEPTH;
                const bits b = {w + n0 * ldw + c / 32, ldw, 1, count, columns / 32};
                if (n0 == 0 || k > DEPTH)
                    pack(panel, q + i * ldq + c, ldq, rows, tokens, columns);
                products(sums, panel, tokens, &b);
            }
            qsi_neon_i8_finish(y + i * ldy + n0, ldy, sums, tokens, s + i, scale + n0,
                               addend ? addend + i * ldadd + n0 : NULL, ldadd, rows, count);
        }
    }
}

static void w1_i8_backward(float *dx, int64_t lddx, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w,
                           int64_t ldw, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k, void *scratch)
{
    int8_t *const panel = scratch;
    int32_t *const sums = (int32_t *)(void *)(panel + PANEL);
    uint32_t *const columns = (uint32_t *)(void *)(sums + BLOCK * TOKENS);
    for (int64_t i = 0; i < m; i += TOKENS) {
        const int64_t rows = m - i < TOKENS ? m - i : TOKENS, tokens = padded(rows);
        for (int64_t k0 = 0; k0 < k; k0 += BLOCK) {
            const int64_t count = k - k0 < BLOCK ? k - k0 : BLOCK;
            memset(sums, 0, BLOCK * TOKENS * sizeof *sums);
            for (int64_t j = 0; j < n; j += DEPTH) {
                const int64_t height = n - j < DEPTH ? n - j : DEPTH;
                const bits b = {columns, 1, BLOCK, count, (height + 31) / 32};
                for (int64_t r = 0; r < height; r += 32)
                    qsi_neon_transpose_bits(columns + r / 32 * BLOCK, w + (j + r) * ldw + k0 / 32, ldw,
                                            height - r < 32 ? height - r : 32, count);
                pack(panel, q + i * ldq + j, ldq, rows, tokens, height);
                products(sums, panel, tokens, &b);
            }
            qsi_neon_i8_finish(dx + i * lddx + k0, lddx, sums, tokens, s + i, NULL,
                               addend ? addend + i * ldadd + k0 : NULL, ldadd, rows, count);
        }
    }
}

void qsi_i8mm_products(qsi_kernels *table)
{
    table->w1_i8_forward = w1_i8_forward;
    table->w1_i8_backward = w1_i8_backward;
}

#else
typedef int qsi_i8mm_products_absent;
#endif
