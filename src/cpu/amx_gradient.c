/* amx_gradient.c - weight gradients of one chunk on tiles.
 *
 * Both operands come with the tokens of one step of the product, a quad of bytes or a pair of halves, as one 32-bit
 * number per feature, so that one code serves both. The right one has the layout of a tile already; the left one is
 * transposed. Both are copied to scratch, as rows that lie a power of two apart fall into one set of the cache. */
#include "cpu/amx.h"

#if QSI_HAVE_AVX512

enum {
    ROWS = 64,     /* of a block in scratch */
    COLS = 256,
    STEPS = 8,     /* of 16 quads or pairs, at most */
    FEATURES = STEPS * QSI_TILE_BYTES   /* bytes of 16 features */
};

_Static_assert((ROWS + COLS) / 16 * FEATURES + 32 * 32 * sizeof(float) <= QSI_GRADIENT_SCRATCH,
               "QSI_GRADIENT_SCRATCH is too small");

/* to[features / 16 to an even number][STEPS][16 lines of 16 numbers] from `units` rows of ld numbers; left: features in
 * lines, else units. What is not there is 0. */
AMX_INLINE void pack(const int left, uint8_t *to, const uint32_t *from, int64_t ld, int64_t features, int64_t units)
{
    for (int64_t f = 0; f < (features + 31) / 32 * 32; f += 16, to += FEATURES) {
        const __mmask16 mask = qsi_mask16(features > f ? features - f : 0);
        for (int64_t u = 0; u < units; u += 16) {
            __m512i r[16];
            UNROLL
            for (int i = 0; i < 16; i++)
                r[i] = u + i < units ? _mm512_maskz_loadu_epi32(mask, from + (u + i) * ld + f) : _mm512_setzero_si512();
            if (left)
                qsi_transpose16(r);
            UNROLL
            for (int i = 0; i < 16; i++)
                _mm512_store_si512(to + u / 16 * QSI_TILE_BYTES + 64 * i, r[i]);
        }
    }
}

#define PRODUCT(c, a, b) do { \
        if (i8) \
            QSI_TILE_I8(c, a, b); \
        else \
            QSI_TILE_BF16(c, a, b); \
    } while (0)

/* sums [32][32] of 2 tiles of features each. */
AMX_INLINE void multiply(const int i8, float *sums, const uint8_t *a, const uint8_t *b, int64_t steps)
{
    const int64_t stride = 32 * sizeof *sums;
    QSI_TILE_ZERO(0);
    QSI_TILE_ZERO(1);
    QSI_TILE_ZERO(2);
    QSI_TILE_ZERO(3);
    for (int64_t t = 0; t < steps; t++) {
        QSI_TILE_LOAD(4, a + t * QSI_TILE_BYTES, 64);
        QSI_TILE_LOAD(6, b + t * QSI_TILE_BYTES, 64);
        PRODUCT(0, 4, 6);
        QSI_TILE_LOAD(7, b + FEATURES + t * QSI_TILE_BYTES, 64);
        PRODUCT(1, 4, 7);
        QSI_TILE_LOAD(5, a + FEATURES + t * QSI_TILE_BYTES, 64);
        PRODUCT(2, 5, 6);
        PRODUCT(3, 5, 7);
    }
    QSI_TILE_STORE(0, sums, stride);
    QSI_TILE_STORE(1, sums + 16, stride);
    QSI_TILE_STORE(2, sums + 16 * 32, stride);
    QSI_TILE_STORE(3, sums + 16 * 32 + 16, stride);
}

/* g [rows, cols] of up to 32 x 32 from their sums. */
AMX_INLINE void finish(const int i8, float *g, int64_t ldg, const float *sums, const float *sa, const float *sb,
                       int64_t rows, int64_t cols)
{
    for (int64_t i = 0; i < rows && i < 32; i++)
        for (int64_t j = 0; j < cols && j < 32; j += 16) {
            __m512 sum = _mm512_load_ps(sums + i * 32 + j);
            if (i8)
                sum = _mm512_mul_ps(_mm512_mul_ps(qsi_set16(sa[i]), qsi_load16(sb + j, cols - j)),
                                    _mm512_cvtepi32_ps(_mm512_castps_si512(sum)));
            qsi_store16(g + i * ldg + j, sum, cols - j);
        }
}

/* units: quads or pairs. */
AMX_INLINE void gradient(const int i8, float *g, int64_t ldg, const void *a, const float *sa, int64_t lda, const void *b,
                         const float *sb, int64_t ldb, int64_t rows, int64_t cols, int64_t units, uint8_t *scratch)
{
    uint8_t *const left = scratch, *const right = left + ROWS / 16 * FEATURES;
    float *const sums = (float *)(void *)(right + COLS / 16 * FEATURES);
    QSI_TILES_BEGIN();
    for (int64_t j0 = 0; j0 < cols; j0 += COLS) {
        const int64_t width = cols - j0 < COLS ? cols - j0 : COLS;
        pack(0, right, (const uint32_t *)b + j0, ldb, width, units);
        for (int64_t i0 = 0; i0 < rows; i0 += ROWS) {
            const int64_t height = rows - i0 < ROWS ? rows - i0 : ROWS;
            pack(1, left, (const uint32_t *)a + i0, lda, height, units);
            for (int64_t i = 0; i < height; i += 32)
                for (int64_t j = 0; j < width; j += 32) {
                    multiply(i8, sums, left + i / 16 * FEATURES, right + j / 16 * FEATURES, (units + 15) / 16);
                    finish(i8, g + (i0 + i) * ldg + j0 + j, ldg, sums, i8 ? sa + i0 + i : NULL, i8 ? sb + j0 + j : NULL,
                           height - i, width - j);
                }
        }
    }
    QSI_TILES_END();
}

AMX static void i8_gradient(float *g, int64_t ldg, const int8_t *a, const float *sa, int64_t lda, const int8_t *b,
                            const float *sb, int64_t ldb, int64_t rows, int64_t cols, int64_t quads, void *scratch)
{
    gradient(1, g, ldg, a, sa, lda, b, sb, ldb, rows, cols, quads, scratch);
}

AMX static void bf16_gradient(float *g, int64_t ldg, const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb,
                              int64_t rows, int64_t cols, int64_t pairs, void *scratch)
{
    gradient(0, g, ldg, a, NULL, lda, b, NULL, ldb, rows, cols, pairs, scratch);
}

void qsi_amx_gradient(qsi_kernels *table)
{
    table->i8_gradient = i8_gradient;
    table->bf16_gradient = bf16_gradient;
}

#else
typedef int qsi_amx_gradient_absent;
#endif
