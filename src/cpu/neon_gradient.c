/* neon_gradient.c - weight gradients of one chunk from int8 and bf16 operands.
 *
 * int8: two products of at most 127 * 127 fit 16 bits, so vmull and vmlal add two quads of tokens before vpadal widens.
 * bf16: the operands are expanded to fp32 blocks in scratch; the fp32 product adds in the same order. */
#include "cpu/neon.h"

#if QSI_HAVE_NEON

enum {
    ROWS = 64,         /* of a block in scratch */
    COLS = 128,
    QUADS = 64,        /* at most */
    FOUR = QUADS * 16  /* bytes of 4 features */
};

_Static_assert((ROWS + COLS) / 4 * FOUR <= QSI_GRADIENT_SCRATCH, "QSI_GRADIENT_SCRATCH is too small");
_Static_assert((ROWS + COLS) * QS_TOKEN_CHUNK * sizeof(float) <= QSI_GRADIENT_SCRATCH, "QSI_GRADIENT_SCRATCH is too small");

/* to[features / 4][QUADS][4 features][4 tokens], 0 beyond the features and for the quad that makes their number even. */
static void pack(int8_t *to, const int8_t *from, int64_t ld, int64_t features, int64_t quads)
{
    for (int64_t f = 0; f < features; f += 4, to += FOUR) {
        const size_t bytes = (size_t)(features - f < 4 ? features - f : 4) * 4;
        for (int64_t t = 0; t < quads; t++) {
            if (bytes < 16)
                memset(to + t * 16, 0, 16);
            memcpy(to + t * 16, from + (t * ld + f) * 4, bytes);
        }
        if (quads % 2 != 0)
            memset(to + quads * 16, 0, 16);
    }
}

/* The 4 tokens of feature i, twice. */
NEON_INLINE int8x8_t token_quad(const int8_t *four, int i)
{
    int32_t quad;
    memcpy(&quad, four + 4 * i, 4);
    return vreinterpret_s8_s32(vdup_n_s32(quad));
}

#define ROW(i) do { \
        const int8x8_t a0 = token_quad(a + t * 16, i), a1 = token_quad(a + t * 16 + 16, i); \
        low##i = vpadalq_s16(low##i, vmlal_s8(vmull_s8(vget_low_s8(b0), a0), vget_low_s8(b1), a1)); \
        high##i = vpadalq_s16(high##i, vmlal_s8(vmull_s8(vget_high_s8(b0), a0), vget_high_s8(b1), a1)); \
    } while (0)
#define STORE(i) \
    if (rows > i) \
        store(g + i * ldg, vpaddq_s32(low##i, high##i), sa[i], sb, cols)

NEON_INLINE void store(float *g, int32x4_t sum, float sa, const float *sb, int64_t left)
{
    qsi_store4(g, vmulq_f32(vmulq_n_f32(qsi_load4(sb, left), sa), vcvtq_f32_s32(sum)), left);
}

/* 4 x 4 sums, of which rows x cols exist. */
static void block(float *g, int64_t ldg, const int8_t *a, const float *sa, const int8_t *b, const float *sb, int64_t rows,
                  int64_t cols, int64_t quads)
{
    int32x4_t low0 = vdupq_n_s32(0), low1 = low0, low2 = low0, low3 = low0, high0 = low0, high1 = low0, high2 = low0,
              high3 = low0;
    for (int64_t t = 0; t < quads; t += 2) {
        const int8x16_t b0 = vld1q_s8(b + t * 16), b1 = vld1q_s8(b + t * 16 + 16);
        ROW(0); ROW(1); ROW(2); ROW(3);
    }
    STORE(0);
    STORE(1);
    STORE(2);
    STORE(3);
}

static void i8_gradient(float *g, int64_t ldg, const int8_t *a, const float *sa, int64_t lda, const int8_t *b,
                        const float *sb, int64_t ldb, int64_t rows, int64_t cols, int64_t quads, void *scratch)
{
    int8_t *const left = scratch, *const right = left + ROWS / 4 * FOUR;
    for (int64_t j0 = 0; j0 < cols; j0 += COLS) {
        const int64_t width = cols - j0 < COLS ? cols - j0 : COLS;
        pack(right, b + 4 * j0, ldb, width, quads);
        for (int64_t i0 = 0; i0 < rows; i0 += ROWS) {
            const int64_t height = rows - i0 < ROWS ? rows - i0 : ROWS;
            pack(left, a + 4 * i0, lda, height, quads);
            for (int64_t i = 0; i < height; i += 4)
                for (int64_t j = 0; j < width; j += 4)
                    block(g + (i0 + i) * ldg + j0 + j, ldg, left + i / 4 * FOUR, sa + i0 + i, right + j / 4 * FOUR,
                          sb + j0 + j, height - i, width - j, quads);
        }
    }
}

/* to[2 pairs][features] in fp32. */
static void expand(float *to, const uint16_t *from, int64_t ld, int64_t features, int64_t pairs)
{
    for (int64_t t = 0; t < pairs; t++)
        for (int64_t f = 0; f < features; f += 4) {
            const int64_t left = features - f;
            const float *at = (const float *)(const void *)(from + (t * ld + f) * 2);
            const uint32x4_t both = vreinterpretq_u32_f32(qsi_load4(at, left));
            qsi_store4(to + 2 * t * features + f, vreinterpretq_f32_u32(vshlq_n_u32(both, 16)), left);
            qsi_store4(to + (2 * t + 1) * features + f, vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xFFFF0000u))),
                       left);
        }
}

static void bf16_gradient(float *g, int64_t ldg, const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb,
                          int64_t rows, int64_t cols, int64_t pairs, void *scratch)
{
    float *const left = scratch, *const right = left + ROWS * QS_TOKEN_CHUNK;
    for (int64_t j = 0; j < cols; j += COLS) {
        const int64_t width = cols - j < COLS ? cols - j : COLS;
        expand(right, b + 2 * j, ldb, width, pairs);
        for (int64_t i = 0; i < rows; i += ROWS) {
            const int64_t height = rows - i < ROWS ? rows - i : ROWS;
            expand(left, a + 2 * i, lda, height, pairs);
            qsi_neon_gemm(g + i * ldg + j, ldg, left, 1, height, right, width, height, width, 2 * pairs, 0);
        }
    }
}

void qsi_neon_gradient(qsi_kernels *table)
{
    table->i8_gradient = i8_gradient;
    table->bf16_gradient = bf16_gradient;
}

#else
typedef int qsi_neon_gradient_absent;
#endif
