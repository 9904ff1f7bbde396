/* i8mm_gradient.c - weight gradients of one chunk from int8 operands by smmla: 2 x 2 sums over 8 tokens an instruction. */
#include "cpu/i8mm.h"

#if QSI_HAVE_NEON

enum {
    ROWS = 64,         /* of a block in scratch */
    COLS = 128,
    EIGHTS = 32,       /* of tokens, at most */
    EIGHT = EIGHTS * 64   /* bytes of 8 features */
};

_Static_assert((ROWS + COLS) / 8 * EIGHT <= QSI_GRADIENT_SCRATCH, "QSI_GRADIENT_SCRATCH is too small");

/* to[features / 8][EIGHTS][8 features][8 tokens], 0 beyond the features and for the quad that makes their number even. */
static void pack(int8_t *to, const int8_t *from, int64_t ld, int64_t features, int64_t quads)
{
    for (int64_t f = 0; f < features; f += 8, to += EIGHT) {
        const size_t bytes = (size_t)(features - f < 8 ? features - f : 8) * 4;
        for (int64_t t = 0; t < quads; t += 2) {
            int32_t even[8] = {0}, odd[8] = {0};
            memcpy(even, from + (t * ld + f) * 4, bytes);
            if (t + 1 < quads)
                memcpy(odd, from + ((t + 1) * ld + f) * 4, bytes);
            int32_t *out = (int32_t *)(void *)(to + t / 2 * 64);
            UNROLL
            for (int half = 0; half < 2; half++) {
                const int32x4_t e = vld1q_s32(even + 4 * half), o = vld1q_s32(odd + 4 * half);
                vst1q_s32(out + 8 * half, vzip1q_s32(e, o));
                vst1q_s32(out + 8 * half + 4, vzip2q_s32(e, o));
            }
        }
    }
}

#define PRODUCTS(i) do { \
        const int8x16_t x = vld1q_s8(a + t * 64 + 16 * i); \
        c##i##0 = qsi_smmla(c##i##0, x, y0); \
        c##i##1 = qsi_smmla(c##i##1, x, y1); \
        c##i##2 = qsi_smmla(c##i##2, x, y2); \
        c##i##3 = qsi_smmla(c##i##3, x, y3); \
    } while (0)

/* Rows 2 i and 2 i + 1 from their 2 x 2 sums. */
#define STORE(i) do { \
        store_row(g + 2 * i * ldg, sa + 2 * i, sb, low64(c##i##0, c##i##1), low64(c##i##2, c##i##3), rows - 2 * i, cols); \
        store_row(g + (2 * i + 1) * ldg, sa + 2 * i + 1, sb, high64(c##i##0, c##i##1), high64(c##i##2, c##i##3), \
                  rows - 2 * i - 1, cols); \
    } while (0)

NEON_INLINE int32x4_t low64(int32x4_t a, int32x4_t b) { return vcombine_s32(vget_low_s32(a), vget_low_s32(b)); }
NEON_INLINE int32x4_t high64(int32x4_t a, int32x4_t b) { return vcombine_s32(vget_high_s32(a), vget_high_s32(b)); }

/* One row of 8 sums, of which cols exist; rows <= 0: not there. */
NEON_INLINE void store_row(float *g, const float *sa, const float *sb, int32x4_t low, int32x4_t high, int64_t rows,
                           int64_t cols)
{
    if (rows <= 0)
        return;
    qsi_store4(g, vmulq_f32(vmulq_n_f32(qsi_load4(sb, cols), *sa), vcvtq_f32_s32(low)), cols);
    if (cols > 4)
        qsi_store4(g + 4, vmulq_f32(vmulq_n_f32(qsi_load4(sb + 4, cols - 4), *sa), vcvtq_f32_s32(high)), cols - 4);
}

/* 8 x 8 sums, of which rows x cols exist. */
I8MM static void block(float *g, int64_t ldg, const int8_t *a, const float *sa, const int8_t *b, const float *sb,
                       int64_t rows, int64_t cols, int64_t eights)
{
    int32x4_t c00 = vdupq_n_s32(0), c01 = c00, c02 = c00, c03 = c00, c10 = c00, c11 = c00, c12 = c00, c13 = c00;
    int32x4_t c20 = c00, c21 = c00, c22 = c00, c23 = c00, c30 = c00, c31 = c00, c32 = c00, c33 = c00;
    for (int64_t t = 0; t < eights; t++) {
        const int8x16_t y0 = vld1q_s8(b + t * 64), y1 = vld1q_s8(b + t * 64 + 16);
        const int8x16_t y2 = vld1q_s8(b + t * 64 + 32), y3 = vld1q_s8(b + t * 64 + 48);
        PRODUCTS(0); PRODUCTS(1); PRODUCTS(2); PRODUCTS(3);
    }
    STORE(0);
    STORE(1);
    STORE(2);
    STORE(3);
}

static void i8_gradient(float *g, int64_t ldg, const int8_t *a, const float *sa, int64_t lda, const int8_t *b,
                        const float *sb, int64_t ldb, int64_t rows, int64_t cols, int64_t quads, void *scratch)
{
    int8_t *const left = scratch, *const right = left + ROWS / 8 * EIGHT;
    for (int64_t j0 = 0; j0 < cols; j0 += COLS) {
        const int64_t width = cols - j0 < COLS ? cols - j0 : COLS;
        pack(right, b + 4 * j0, ldb, width, quads);
        for (int64_t i0 = 0; i0 < rows; i0 += ROWS) {
            const int64_t height = rows - i0 < ROWS ? rows - i0 : ROWS;
            pack(left, a + 4 * i0, lda, height, quads);
            for (int64_t i = 0; i < height; i += 8)
                for (int64_t j = 0; j < width; j += 8)
                    block(g + (i0 + i) * ldg + j0 + j, ldg, left + i / 8 * EIGHT, sa + i0 + i, right + j / 8 * EIGHT,
                          sb + j0 + j, height - i, width - j, (quads + 1) / 2);
        }
    }
}

void qsi_i8mm_gradient(qsi_kernels *table)
{
    table->i8_gradient = i8_gradient;
}

#else
typedef int qsi_i8mm_gradient_absent;
#endif
