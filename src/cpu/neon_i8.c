/* neon_i8.c - packed products with int8 activations by tables of sums, 8 to 32 tokens across lanes of 16 bits.
 *
 * As in neon_w1.c, one load and one addition serve 4 weights x 8 tokens. A sum of a group is at most 4 * 127, so 16 bits
 * hold those of the 32 groups of 4 words (16256); they are then added to sums of 32 bits in scratch, outputs x tokens. */
#include "cpu/neon.h"

#if QSI_HAVE_NEON

enum {
    GROUPS = 8,                 /* groups of 4 in a word */
    WORDS = 4,                  /* added up in 16 bits */
    BLOCK = 256,                /* outputs with sums in scratch at once */
    TOKENS = 32,                /* of the largest tile */
    TILES = 4,                  /* backward: token tiles that share transposed words */
    TABLE = WORDS * GROUPS * 16 * TOKENS,
    TILE_SUMS = BLOCK * TOKENS
};

_Static_assert(TABLE * sizeof(int16_t) + (TILES * TILE_SUMS + WORDS * BLOCK) * sizeof(int32_t) <= QSI_W1_SCRATCH,
               "QSI_W1_SCRATCH is too small");

/* rows x cols of q exist, the rest counts as 0. */
typedef struct operand {
    const int8_t *q;
    int64_t ldq, rows, cols;
} operand;

/* The 16 sums of one group for 8 tokens; entry index bit b set means +x[b]. stride: numbers between entries. */
NEON_INLINE void tabulate(int16_t *table, int stride, int16x8_t x0, int16x8_t x1, int16x8_t x2, int16x8_t x3)
{
    const int16x8_t ls = vaddq_s16(x0, x1), ld = vsubq_s16(x0, x1), rs = vaddq_s16(x2, x3), rd = vsubq_s16(x3, x2);
    const int16x8_t left[4] = {vnegq_s16(ls), ld, vnegq_s16(ld), ls};
    UNROLL
    for (int b = 0; b < 4; b++) {
        const int16x8_t low = vaddq_s16(left[b], rd), high = vaddq_s16(left[b], rs);
        vst1q_s16(table + (8 + b) * stride, low);
        vst1q_s16(table + (12 + b) * stride, high);
        vst1q_s16(table + (7 - b) * stride, vnegq_s16(low));
        vst1q_s16(table + (3 - b) * stride, vnegq_s16(high));
    }
}

/* The first `left` of 8 bytes, left > 0; 0 beyond. */
NEON_INLINE int8x8_t load_bytes(const int8_t *p, int64_t left)
{
    int8_t part[8] = {0};
    memcpy(part, p, (size_t)(left >= 8 ? 8 : left));
    return vld1_s8(part);
}

/* Byte i of r[j] and byte j of r[i] change places. */
NEON_INLINE void transpose_bytes(int8x8_t r[8])
{
    int16x4_t s[8];
    UNROLL
    for (int i = 0; i < 8; i += 2) {
        s[i] = vreinterpret_s16_s8(vtrn1_s8(r[i], r[i + 1]));
        s[i + 1] = vreinterpret_s16_s8(vtrn2_s8(r[i], r[i + 1]));
    }
    int32x2_t u[8];
    UNROLL
    for (int i = 0; i < 8; i += 4)
        for (int b = 0; b < 2; b++) {
            u[i + b] = vreinterpret_s32_s16(vtrn1_s16(s[i + b], s[i + b + 2]));
            u[i + b + 2] = vreinterpret_s32_s16(vtrn2_s16(s[i + b], s[i + b + 2]));
        }
    UNROLL
    for (int i = 0; i < 4; i++) {
        r[i] = vreinterpret_s8_s32(vtrn1_s32(u[i], u[i + 4]));
        r[i + 4] = vreinterpret_s8_s32(vtrn2_s32(u[i], u[i + 4]));
    }
}

/* Tables [columns / 4][16][8 V] of the first `columns` columns, a multiple of 8, for 8 V tokens. */
NEON_INLINE void build_tables(const int V, int16_t *table, const operand *o, int64_t columns)
{
    for (int64_t c = 0; c < columns; c += 8)
        for (int v = 0; v < V; v++) {
            int8x8_t r[8];
            UNROLL
            for (int t = 0; t < 8; t++) {
                r[t] = vdup_n_s8(0);
                if (8 * v + t < o->rows && c < o->cols)
                    r[t] = load_bytes(o->q + (8 * v + t) * o->ldq + c, o->cols - c);
            }
            transpose_bytes(r);
            int16_t *to = table + c / 4 * 16 * 8 * V + 8 * v;
            tabulate(to, 8 * V, vmovl_s8(r[0]), vmovl_s8(r[1]), vmovl_s8(r[2]), vmovl_s8(r[3]));
            tabulate(to + 16 * 8 * V, 8 * V, vmovl_s8(r[4]), vmovl_s8(r[5]), vmovl_s8(r[6]), vmovl_s8(r[7]));
        }
}

#define LOOKUP(g) do { \
        const int16_t *entry = at + ((g) * 16 + (word >> 4 * (g) & 15)) * 8 * V; \
        a0 = vaddq_s16(a0, vld1q_s16(entry)); \
        if (V > 1) a1 = vaddq_s16(a1, vld1q_s16(entry + 8)); \
        if (V > 2) a2 = vaddq_s16(a2, vld1q_s16(entry + 16)); \
        if (V > 2) a3 = vaddq_s16(a3, vld1q_s16(entry + 24)); \
    } while (0)

NEON_INLINE void widen(int32_t *sums, int16x8_t a)
{
    vst1q_s32(sums, vaddw_s16(vld1q_s32(sums), vget_low_s16(a)));
    vst1q_s32(sums + 4, vaddw_s16(vld1q_s32(sums + 4), vget_high_s16(a)));
}

/* sums[i, 8 V tokens] += the table entries that `depth` words of output i choose: words[i * stride + b * step]. */
NEON_INLINE void add_entries(const int V, int32_t *sums, const int16_t *table, const uint32_t *words, int64_t stride,
                             int64_t step, int64_t depth, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        int16x8_t a0 = vdupq_n_s16(0), a1 = a0, a2 = a0, a3 = a0;
        for (int64_t b = 0; b < depth; b++) {
            const uint32_t word = words[i * stride + b * step];
            const int16_t *at = table + b * GROUPS * 16 * 8 * V;
            LOOKUP(0); LOOKUP(1); LOOKUP(2); LOOKUP(3);
            LOOKUP(4); LOOKUP(5); LOOKUP(6); LOOKUP(7);
        }
        int32_t *out = sums + i * 8 * V;
        widen(out, a0);
        if (V > 1) widen(out + 8, a1);
        if (V > 2) widen(out + 16, a2);
        if (V > 2) widen(out + 24, a3);
    }
}

typedef void add_fn(int32_t *sums, int16_t *table, const operand *o, const uint32_t *words, int64_t stride, int64_t step,
                    int64_t depth, int64_t count);

#define TILE(V) \
    static void add##V(int32_t *sums, int16_t *table, const operand *o, const uint32_t *words, int64_t stride, \
                       int64_t step, int64_t depth, int64_t count) \
    { \
        build_tables(V, table, o, 32 * depth); \
        add_entries(V, sums, table, words, stride, step, depth, count); \
    }
TILE(1)
TILE(2)
TILE(4)

/* By (tokens - 1) / 8; tokens of a tile beside it. */
static add_fn *const add_of[] = {add1, add2, add4, add4};
static const int64_t width_of[] = {8, 16, 32, 32};

void qsi_neon_i8_finish(float *y, int64_t ldy, const int32_t *sums, int64_t tokens, const float *s, const uint16_t *scale,
                        const float *addend, int64_t ldadd, int64_t rows, int64_t count)
{
    for (int64_t j = 0; j < count; j += 4) {
        const int64_t left = count - j;
        const float32x4_t alpha = scale ? qsi_halves4(scale + j, left) : vdupq_n_f32(1.0f);
        for (int64_t i = 0; i < rows; i += 4) {
            float32x4_t r[4];
            UNROLL
            for (int c = 0; c < 4; c++)
                r[c] = vcvtq_f32_s32(vld1q_s32(sums + (j + c) * tokens + i));
            qsi_transpose4(r);
            UNROLL
            for (int t = 0; t < 4; t++) {
                if (i + t >= rows)
                    break;
                const float32x4_t f = scale ? vmulq_n_f32(alpha, s[i + t]) : vdupq_n_f32(s[i + t]);
                const float32x4_t value = addend ? vfmaq_f32(qsi_load4(addend + (i + t) * ldadd + j, left), f, r[t])
                                                 : vmulq_f32(f, r[t]);
                qsi_store4(y + (i + t) * ldy + j, value, left);
            }
        }
    }
}

static void w1_i8_forward(float *y, int64_t ldy, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w,
                          int64_t ldw, const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n,
                          int64_t k, void *scratch)
{
    int16_t *const table = scratch;
    int32_t *const sums = (int32_t *)(void *)(table + TABLE);
    for (int64_t i = 0; i < m; i += TOKENS) {
        const int64_t rows = m - i < TOKENS ? m - i : TOKENS, size = (rows - 1) / 8;
        for (int64_t n0 = 0; n0 < n; n0 += BLOCK) {
            const int64_t count = n - n0 < BLOCK ? n - n0 : BLOCK;
            memset(sums, 0, TILE_SUMS * sizeof *sums);
            for (int64_t c = 0; c < k; c += 32 * WORDS) {
                const operand o = {q + i * ldq + c, ldq, rows, k - c};
                add_of[size](sums, table, &o, w + n0 * ldw + c / 32, ldw, 1, k - c < 32 * WORDS ? (k - c) / 32 : WORDS,
                             count);
            }
            qsi_neon_i8_finish(y + i * ldy + n0, ldy, sums, width_of[size], s + i, scale + n0,
                               addend ? addend + i * ldadd + n0 : NULL, ldadd, rows, count);
        }
    }
}

static void w1_i8_backward(float *dx, int64_t lddx, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w,
                           int64_t ldw, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k, void *scratch)
{
    int16_t *const table = scratch;
    int32_t *const sums = (int32_t *)(void *)(table + TABLE);
    uint32_t *const columns = (uint32_t *)(void *)(sums + TILES * TILE_SUMS);
    for (int64_t i0 = 0; i0 < m; i0 += TOKENS * TILES)
        for (int64_t k0 = 0; k0 < k; k0 += BLOCK) {
            const int64_t count = k - k0 < BLOCK ? k - k0 : BLOCK, end = m - i0 < TOKENS * TILES ? m : i0 + TOKENS * TILES;
            memset(sums, 0, TILES * TILE_SUMS * sizeof *sums);
            for (int64_t j = 0; j < n; j += 32 * WORDS) {
                const int64_t depth = n - j < 32 * WORDS ? (n - j + 31) / 32 : WORDS;
                for (int64_t b = 0; b < depth; b++) {
                    const int64_t row = j + 32 * b;
                    qsi_neon_transpose_bits(columns + b * BLOCK, w + row * ldw + k0 / 32, ldw, n - row < 32 ? n - row : 32,
                                            count);
                }
                for (int64_t i = i0; i < end; i += TOKENS) {
                    const operand o = {q + i * ldq + j, ldq, end - i < TOKENS ? end - i : TOKENS, n - j};
                    add_of[(o.rows - 1) / 8](sums + (i - i0) / TOKENS * TILE_SUMS, table, &o, columns, 1, BLOCK, depth,
                                             count);
                }
            }
            for (int64_t i = i0; i < end; i += TOKENS) {
                const int64_t rows = end - i < TOKENS ? end - i : TOKENS;
                qsi_neon_i8_finish(dx + i * lddx + k0, lddx, sums + (i - i0) / TOKENS * TILE_SUMS, width_of[(rows - 1) / 8],
                                   s + i, NULL, addend ? addend + i * ldadd + k0 : NULL, ldadd, rows, count);
            }
        }
}

void qsi_neon_i8(qsi_kernels *table)
{
    table->w1_i8_forward = w1_i8_forward;
    table->w1_i8_backward = w1_i8_backward;
}

#else
typedef int qsi_neon_i8_absent;
#endif
