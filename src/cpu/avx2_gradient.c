/* avx2_gradient.c - weight gradients of a chunk from int8 and bf16 operands.
 *
 * int8: both operands become int16 in scratch, two tokens of a feature in one lane of 32 bits, so that vpmaddwd multiplies
 * and adds 16 products at once. A quad yields the lanes of tokens 1, 3 (its odd bytes) and 0, 2 by shifts: any pairs do, if
 * both operands have the same. bf16: both become fp32 and go through the blocks of f32_gemm, in its order. */
#include "cpu/avx2.h"

#if QSI_HAVE_AVX2

enum {
    TILE = 64,          /* rows expanded at once */
    STRIDE = TILE + 8,  /* words from depth to depth of a tile: a power of two would fall into few sets of the cache */
    WIDTH = 16,         /* columns of a panel */
    HEIGHT = 6,         /* rows of a block */
    TOKENS = QS_TOKEN_CHUNK
};

_Static_assert((TOKENS * STRIDE + TOKENS * WIDTH) * sizeof(float) <= QSI_GRADIENT_SCRATCH,
               "QSI_GRADIENT_SCRATCH is too small");

/* ---- int8 ------------------------------------------------------------------------------------------------------- */

/* to[2 quads][stride] = int16 pairs of `count` features, 0 up to the next multiple of 8. */
AVX2 static void expand_quads(int32_t *to, int64_t stride, const int8_t *from, int64_t ld, int64_t count, int64_t quads)
{
    for (int64_t p = 0; p < quads; p++)
        for (int64_t j = 0; j < count; j += 8) {
            const __m256i x = qsi_words8(from + (p * ld + j) * 4, count - j);
            int32_t *out = to + 2 * p * stride + j;
            _mm256_store_si256((__m256i *)(void *)out, _mm256_srai_epi16(x, 8));
            _mm256_store_si256((__m256i *)(void *)(out + stride), _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
        }
}

/* Sums of one row: pairs of token products added to 16 columns. */
#define ADD_ROW(i) \
    if (R > i) { \
        const __m256i x = _mm256_set1_epi32(a[i]); \
        s##i##0 = _mm256_add_epi32(s##i##0, _mm256_madd_epi16(x, b0)); \
        s##i##1 = _mm256_add_epi32(s##i##1, _mm256_madd_epi16(x, b1)); \
    }
#define STORE_ROW(i) \
    if (R > i) { \
        _mm256_store_si256((__m256i *)(void *)(sum + i * WIDTH), s##i##0); \
        _mm256_store_si256((__m256i *)(void *)(sum + i * WIDTH + 8), s##i##1); \
    }

/* sum[R, 16] = a[R, depth] b[depth, 16], a and b in pairs of tokens */
AVX2_INLINE void block(const int R, int32_t *sum, const int32_t *a, const int32_t *b, int64_t depth)
{
    __m256i s00 = _mm256_setzero_si256(), s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00;
    __m256i s30 = s00, s31 = s00, s40 = s00, s41 = s00, s50 = s00, s51 = s00;
    for (int64_t p = 0; p < depth; p++) {
        const __m256i b0 = _mm256_load_si256((const __m256i *)(const void *)b);
        const __m256i b1 = _mm256_load_si256((const __m256i *)(const void *)(b + 8));
        ADD_ROW(0) ADD_ROW(1) ADD_ROW(2) ADD_ROW(3) ADD_ROW(4) ADD_ROW(5)
        a += STRIDE;
        b += WIDTH;
    }
    STORE_ROW(0) STORE_ROW(1) STORE_ROW(2) STORE_ROW(3) STORE_ROW(4) STORE_ROW(5)
}

AVX2 static void block4(int32_t *sum, const int32_t *a, const int32_t *b, int64_t depth) { block(4, sum, a, b, depth); }
AVX2 static void block6(int32_t *sum, const int32_t *a, const int32_t *b, int64_t depth) { block(6, sum, a, b, depth); }

/* g[rows, cols] = (sa sb) sum, cols <= WIDTH. */
AVX2 static void scale_block(float *g, int64_t ldg, const int32_t *sum, const float *sa, const float *sb, int64_t rows,
                             int64_t cols)
{
    for (int64_t j = 0; j < cols; j += 8)
        for (int64_t i = 0; i < rows; i++) {
            const __m256 s = _mm256_cvtepi32_ps(_mm256_load_si256((const __m256i *)(const void *)(sum + i * WIDTH + j)));
            const __m256 factor = _mm256_mul_ps(qsi_set8(sa[i]), qsi_load8(sb + j, cols - j));
            qsi_store8(g + i * ldg + j, _mm256_mul_ps(factor, s), cols - j);
        }
}

static void i8_gradient(float *g, int64_t ldg, const int8_t *a, const float *sa, int64_t lda, const int8_t *b,
                        const float *sb, int64_t ldb, int64_t rows, int64_t cols, int64_t quads, void *scratch)
{
    int32_t sum[HEIGHT * WIDTH] __attribute__((aligned(32)));
    int32_t *tile = scratch, *panel = tile + TOKENS / 2 * STRIDE;
    for (int64_t i0 = 0; i0 < rows; i0 += TILE) {
        const int64_t height = rows - i0 < TILE ? rows - i0 : TILE;
        expand_quads(tile, STRIDE, a + 4 * i0, lda, height, quads);
        for (int64_t j = 0; j < cols; j += WIDTH) {
            const int64_t width = cols - j < WIDTH ? cols - j : WIDTH;
            expand_quads(panel, WIDTH, b + 4 * j, ldb, width, quads);
            for (int64_t i = 0; i < height; i += HEIGHT) {
                const int64_t left = height - i;
                (left <= 4 ? block4 : block6)(sum, tile + i, panel, 2 * quads);
                scale_block(g + (i0 + i) * ldg + j, ldg, sum, sa + i0 + i, sb + j, left < HEIGHT ? left : HEIGHT, width);
            }
        }
    }
}

/* ---- bf16 ------------------------------------------------------------------------------------------------------- */

/* to[2 pairs][stride] = fp32 of `count` features, 0 up to the next multiple of 8. */
AVX2 static void expand_pairs(float *to, int64_t stride, const uint16_t *from, int64_t ld, int64_t count, int64_t pairs)
{
    for (int64_t p = 0; p < pairs; p++)
        for (int64_t j = 0; j < count; j += 8) {
            const __m256i x = qsi_words8(from + (p * ld + j) * 2, count - j);
            float *out = to + 2 * p * stride + j;
            _mm256_store_ps(out, _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)));
            _mm256_store_ps(out + stride, _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(-65536))));
        }
}

static void bf16_gradient(float *g, int64_t ldg, const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb,
                          int64_t rows, int64_t cols, int64_t pairs, void *scratch)
{
    float *tile = scratch, *panel = tile + TOKENS * STRIDE;
    for (int64_t i = 0; i < rows; i += TILE) {
        const int64_t height = rows - i < TILE ? rows - i : TILE;
        expand_pairs(tile, STRIDE, a + 2 * i, lda, height, pairs);
        for (int64_t j = 0; j < cols; j += WIDTH) {
            const int64_t width = cols - j < WIDTH ? cols - j : WIDTH;
            expand_pairs(panel, WIDTH, b + 2 * j, ldb, width, pairs);
            qsi_avx2_gemm_panel(g + i * ldg + j, ldg, tile, 1, STRIDE, panel, WIDTH, height, width, 2 * pairs, 0);
        }
    }
}

void qsi_avx2_gradient(qsi_kernels *table)
{
    table->i8_gradient = i8_gradient;
    table->bf16_gradient = bf16_gradient;
}

#else
typedef int qsi_avx2_gradient_absent;
#endif
