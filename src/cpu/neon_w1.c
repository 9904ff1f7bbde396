/* neon_w1.c - packed products by tables of sums, 4 to 16 tokens across lanes.
 *
 * The 4 signs of a group choose one of 16 sums (+-x0 +- x1) + (+-x2 +- x3). For 32 columns and a tile of 4 V tokens the 8
 * groups' sums are tabulated once, lanes = tokens (V = 4: 8 KB), and every output then costs one load and one addition
 * per group and vector: two instructions serve 16 signed products. Accumulators live in scratch, outputs x tokens, and
 * are transposed when a block of outputs is finished.
 * The half of the table with opposite signs is the negation of the other half: exact except for the sign of a zero,
 * which cannot reach an accumulator that starts at +0.
 *
 * Forward: groups run along k, words are read as stored. Backward: groups run along n, so 32 x 32 blocks of bits are
 * transposed first; the loop over outputs (now columns) is the same code. */
#include "cpu/neon.h"

#if QSI_HAVE_NEON

enum {
    GROUPS = 8,        /* groups of 4 in a word */
    BLOCK = 256,       /* outputs with accumulators in scratch at once: 16 KB */
    TOKENS = 16,       /* of the largest tile */
    TILES = 6,         /* backward: token tiles that share transposed words */
    TABLE_FLOATS = GROUPS * 16 * TOKENS,
    TILE_FLOATS = BLOCK * TOKENS
};

_Static_assert((TABLE_FLOATS + TILES * TILE_FLOATS + BLOCK) * sizeof(float) <= QSI_W1_SCRATCH,
               "QSI_W1_SCRATCH is too small");

/* What is added up: rows x cols of x exist, the rest counts as 0; x is multiplied by the half scale[column] with scale,
 * rounded to bf16 with bf16. */
typedef struct operand {
    const float *x;
    int64_t ldx, rows, cols;
    const uint16_t *scale;
    int bf16;
} operand;

/* The 16 sums of one group for 4 tokens; entry index bit q set means +x[q]. stride: floats between entries. */
NEON_INLINE void tabulate(float *table, int stride, const float32x4_t x[4])
{
    /* left by its two bits: 00 -(x0 + x1), 01 x0 - x1, 10 -(x0 - x1), 11 x0 + x1; right only with bit 3 set */
    const float32x4_t ls = vaddq_f32(x[0], x[1]), ld = vsubq_f32(x[0], x[1]);
    const float32x4_t rs = vaddq_f32(x[2], x[3]), rd = vsubq_f32(x[3], x[2]);
    const float32x4_t left[4] = {vnegq_f32(ls), ld, vnegq_f32(ld), ls};
    UNROLL
    for (int q = 0; q < 4; q++) {
        const float32x4_t low = vaddq_f32(left[q], rd), high = vaddq_f32(left[q], rs);
        vst1q_f32(table + (8 + q) * stride, low);
        vst1q_f32(table + (12 + q) * stride, high);
        vst1q_f32(table + (7 - q) * stride, vnegq_f32(low));
        vst1q_f32(table + (3 - q) * stride, vnegq_f32(high));
    }
}

/* Tables [8][16][4 V] of 32 columns for 4 V tokens. */
NEON_INLINE void build_tables(const int V, float *table, const operand *o)
{
    for (int g = 0; g < GROUPS; g++) {
        const int64_t left = o->cols - 4 * g;
        const float32x4_t factor = o->scale && left > 0 ? qsi_halves4(o->scale + 4 * g, left) : vdupq_n_f32(1.0f);
        for (int v = 0; v < V; v++) {
            float32x4_t x[4];
            UNROLL
            for (int t = 0; t < 4; t++) {
                x[t] = vdupq_n_f32(0.0f);
                if (left > 0 && 4 * v + t < o->rows)
                    x[t] = qsi_load4(o->x + (4 * v + t) * o->ldx + 4 * g, left);
                if (o->scale)
                    x[t] = vmulq_f32(factor, x[t]);
                if (o->bf16)
                    x[t] = vreinterpretq_f32_u32(vshlq_n_u32(qsi_bf16_4(x[t]), 16));
            }
            qsi_transpose4(x);
            tabulate(table + g * 16 * 4 * V + 4 * v, 4 * V, x);
        }
    }
}

/* acc[i, 4 V tokens] (+)= the 8 table entries that word i chooses, ascending. words: one every `stride` words. */
#define LOOKUP(g) do { \
        const float *entry = table + ((g) * 16 + (word >> 4 * (g) & 15)) * 4 * V; \
        a0 = vaddq_f32(a0, vld1q_f32(entry)); \
        if (V > 1) a1 = vaddq_f32(a1, vld1q_f32(entry + 4)); \
        if (V > 2) a2 = vaddq_f32(a2, vld1q_f32(entry + 8)); \
        if (V > 2) a3 = vaddq_f32(a3, vld1q_f32(entry + 12)); \
    } while (0)

NEON_INLINE void add_entries(const int V, float *acc, const float *table, const uint32_t *words, int64_t stride,
                             int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        const uint32_t word = words[i * stride];
        float *out = acc + i * 4 * V;
        float32x4_t a0 = vld1q_f32(out), a1 = a0, a2 = a0, a3 = a0;
        if (V > 1) a1 = vld1q_f32(out + 4);
        if (V > 2) a2 = vld1q_f32(out + 8);
        if (V > 2) a3 = vld1q_f32(out + 12);
        LOOKUP(0); LOOKUP(1); LOOKUP(2); LOOKUP(3);
        LOOKUP(4); LOOKUP(5); LOOKUP(6); LOOKUP(7);
        vst1q_f32(out, a0);
        if (V > 1) vst1q_f32(out + 4, a1);
        if (V > 2) vst1q_f32(out + 8, a2);
        if (V > 2) vst1q_f32(out + 12, a3);
    }
}

/* y[rows, count] from acc[count, 4 V]: with scale fma(scale, s, addend) or scale * s, else s (+ addend). */
NEON_INLINE void finish(const int V, float *y, int64_t ldy, const float *acc, const uint16_t *scale, const float *addend,
                        int64_t ldadd, int64_t rows, int64_t count)
{
    for (int64_t j = 0; j < count; j += 4) {
        const int64_t left = count - j;
        const float32x4_t factor = scale ? qsi_halves4(scale + j, left) : vdupq_n_f32(1.0f);
        for (int v = 0; v < V; v++) {
            float32x4_t r[4];
            UNROLL
            for (int i = 0; i < 4; i++)
                r[i] = vld1q_f32(acc + (j + i) * 4 * V + 4 * v);
            qsi_transpose4(r);
            UNROLL
            for (int t = 0; t < 4; t++) {
                if (4 * v + t >= rows)
                    break;
                float32x4_t s = r[t];
                if (addend != NULL) {
                    const float32x4_t add = qsi_load4(addend + (4 * v + t) * ldadd + j, left);
                    s = scale ? vfmaq_f32(add, factor, s) : vaddq_f32(s, add);
                } else if (scale) {
                    s = vmulq_f32(factor, s);
                }
                qsi_store4(y + (4 * v + t) * ldy + j, s, left);
            }
        }
    }
}

/* One word of every output: tables, then additions. */
typedef void add_fn(float *acc, float *table, const operand *o, const uint32_t *words, int64_t stride, int64_t count);
typedef void finish_fn(float *y, int64_t ldy, const float *acc, const uint16_t *scale, const float *addend, int64_t ldadd,
                       int64_t rows, int64_t count);

#define TILE(V) \
    static void add##V(float *acc, float *table, const operand *o, const uint32_t *words, int64_t stride, int64_t count) \
    { \
        build_tables(V, table, o); \
        add_entries(V, acc, table, words, stride, count); \
    } \
    static void finish##V(float *y, int64_t ldy, const float *acc, const uint16_t *scale, const float *addend, \
                          int64_t ldadd, int64_t rows, int64_t count) \
    { \
        finish(V, y, ldy, acc, scale, addend, ldadd, rows, count); \
    }
TILE(1)
TILE(2)
TILE(4)

/* By (tokens - 1) / 4. */
static add_fn *const add_of[] = {add1, add2, add4, add4};
static finish_fn *const finish_of[] = {finish1, finish2, finish4, finish4};

static void w1_forward(float *y, int64_t ldy, const float *x, int64_t ldx, const uint32_t *w, int64_t ldw,
                       const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k, int bf16,
                       void *scratch)
{
    float *const table = scratch, *const acc = table + TABLE_FLOATS;
    for (int64_t i = 0; i < m; i += TOKENS) {
        const int64_t rows = m - i < TOKENS ? m - i : TOKENS;
        for (int64_t n0 = 0; n0 < n; n0 += BLOCK) {
            const int64_t count = n - n0 < BLOCK ? n - n0 : BLOCK;
            memset(acc, 0, TILE_FLOATS * sizeof *acc);
            for (int64_t c = 0; c < k; c += 32) {
                const operand o = {x + i * ldx + c, ldx, rows, 32, NULL, bf16};
                add_of[(rows - 1) / 4](acc, table, &o, w + n0 * ldw + c / 32, ldw, count);
            }
            finish_of[(rows - 1) / 4](y + i * ldy + n0, ldy, acc, scale + n0, addend ? addend + i * ldadd + n0 : NULL, ldadd,
                                      rows, count);
        }
    }
}

/* 4 words of 32 rows at a time, a 32 x 32 block of bits per lane: halves, quarters ... of the block change places. */
void qsi_neon_transpose_bits(uint32_t *columns, const uint32_t *w, int64_t ldw, int64_t rows, int64_t count)
{
    for (int64_t j = 0; j < count / 32; j += 4) {
        const int64_t left = count / 32 - j;
        float32x4_t row[32];
        for (int r = 0; r < 32; r++)
            row[r] = r < rows ? qsi_load4((const float *)(const void *)(w + r * ldw + j), left) : vdupq_n_f32(0.0f);
        for (int half = 16; half > 0; half /= 2) {
            const uint32x4_t low = vdupq_n_u32(UINT32_MAX / ((1u << half) + 1));
            for (int r = 0; r < 32; r = (r + half + 1) & ~half) {
                const uint32x4_t a = vreinterpretq_u32_f32(row[r]), b = vreinterpretq_u32_f32(row[r + half]);
                const uint32x4_t t = vandq_u32(veorq_u32(vshlq_u32(a, vdupq_n_s32(-half)), b), low);
                row[r] = vreinterpretq_f32_u32(veorq_u32(a, vshlq_u32(t, vdupq_n_s32(half))));
                row[r + half] = vreinterpretq_f32_u32(veorq_u32(b, t));
            }
        }
        for (int r = 0; r < 32; r += 4) {
            qsi_transpose4(row + r);
            for (int q = 0; q < 4 && q < left; q++)
                vst1q_f32((float *)(void *)(columns + 32 * (j + q) + r), row[r + q]);
        }
    }
}

static void w1_backward(float *dx, int64_t lddx, const float *dy, int64_t lddy, const uint32_t *w, int64_t ldw,
                        const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k, int bf16,
                        void *scratch)
{
    float *const table = scratch, *const acc = table + TABLE_FLOATS;
    uint32_t *const columns = (uint32_t *)(void *)(acc + TILES * TILE_FLOATS);
    for (int64_t i0 = 0; i0 < m; i0 += TOKENS * TILES)
        for (int64_t k0 = 0; k0 < k; k0 += BLOCK) {
            const int64_t count = k - k0 < BLOCK ? k - k0 : BLOCK, end = m - i0 < TOKENS * TILES ? m : i0 + TOKENS * TILES;
            memset(acc, 0, TILES * TILE_FLOATS * sizeof *acc);
            for (int64_t j = 0; j < n; j += 32) {
                const int64_t height = n - j < 32 ? n - j : 32;
                qsi_neon_transpose_bits(columns, w + j * ldw + k0 / 32, ldw, height, count);
                for (int64_t i = i0; i < end; i += TOKENS) {
                    const operand o = {dy + i * lddy + j, lddy, end - i < TOKENS ? end - i : TOKENS, height, scale + j,
                                       bf16};
                    add_of[(o.rows - 1) / 4](acc + (i - i0) / TOKENS * TILE_FLOATS, table, &o, columns, 1, count);
                }
            }
            for (int64_t i = i0; i < end; i += TOKENS) {
                const int64_t rows = end - i < TOKENS ? end - i : TOKENS;
                finish_of[(rows - 1) / 4](dx + i * lddx + k0, lddx, acc + (i - i0) / TOKENS * TILE_FLOATS, NULL,
                                          addend ? addend + i * ldadd + k0 : NULL, ldadd, rows, count);
            }
        }
}

void qsi_neon_w1(qsi_kernels *table)
{
    table->w1_forward = w1_forward;
    table->w1_backward = w1_backward;
}

#else
typedef int qsi_neon_w1_absent;
#endif
