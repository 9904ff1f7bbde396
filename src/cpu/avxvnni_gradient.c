/* avxvnni_gradient.c - weight gradients of one chunk from int8 operands, by dot products of quads of tokens.
 *
 * Blocks of up to 6 x 16 outputs, lines of b times one feature of a. The instruction multiplies unsigned by signed: b is
 * raised by 128 and the sums begin at -128 times the sums of a. */
#include "cpu/avxvnni.h"

#if QSI_HAVE_AVX2

enum { HEIGHT = 6 };

/* 8 features of b raised by 128; those beyond `left` (when edge) are not read. */
AVXVNNI_INLINE __m256i line8(const int edge, const int8_t *b, int64_t left)
{
    const __m256i line = edge ? _mm256_maskload_epi32((const int *)(const void *)b, qsi_mask8(left))
                              : _mm256_loadu_si256((const __m256i *)(const void *)b);
    return _mm256_xor_si256(line, _mm256_set1_epi8(-128));
}

AVXVNNI_INLINE __m256i feature(const int8_t *a)
{
    int32_t quad;
    memcpy(&quad, a, sizeof quad);
    return _mm256_set1_epi32(quad);
}

/* -128 times the sum of one feature. */
static int32_t start_sum(const int8_t *a, int64_t lda, int64_t quads)
{
    int32_t sum = 0;
    for (int64_t t = 0; t < quads; t++)
        for (int64_t i = 0; i < 4; i++)
            sum += a[t * lda * 4 + i];
    return -128 * sum;
}

#define BEGIN(i) \
    __m256i c##i##0 = _mm256_set1_epi32(R > i ? start[i] : 0), c##i##1 = c##i##0;
#define ROW(i) \
    if (R > i) { \
        const __m256i x = feature(a + 4 * i); \
        c##i##0 = qsi_dot8(c##i##0, low, x); \
        c##i##1 = qsi_dot8(c##i##1, high, x); \
    }
#define STORE(i) \
    if (R > i) { \
        store(g + i * ldg, c##i##0, sa[i], sb, cols); \
        if (cols > 8) \
            store(g + i * ldg + 8, c##i##1, sa[i], sb + 8, cols - 8); \
    }

AVXVNNI_INLINE void store(float *g, __m256i sum, float sa, const float *sb, int64_t left)
{
    qsi_store8(g, _mm256_mul_ps(_mm256_mul_ps(qsi_set8(sa), qsi_load8(sb, left)), _mm256_cvtepi32_ps(sum)), left);
}

/* g[R, cols], cols <= 16; edge: fewer. */
AVXVNNI_INLINE void block(const int R, const int edge, float *g, int64_t ldg, const int8_t *a, const float *sa, int64_t lda,
                          const int8_t *b, const float *sb, int64_t ldb, int64_t cols, int64_t quads, const int32_t *start)
{
    BEGIN(0) BEGIN(1) BEGIN(2) BEGIN(3) BEGIN(4) BEGIN(5)
    for (int64_t t = 0; t < quads; t++) {
        const __m256i low = line8(edge, b, cols), high = line8(edge, b + (cols > 8 ? 32 : 0), cols - 8);
        ROW(0) ROW(1) ROW(2) ROW(3) ROW(4) ROW(5)
        a += 4 * lda;
        b += 4 * ldb;
    }
    STORE(0) STORE(1) STORE(2) STORE(3) STORE(4) STORE(5)
}

typedef void rows_fn(float *g, int64_t ldg, const int8_t *a, const float *sa, int64_t lda, const int8_t *b, const float *sb,
                     int64_t ldb, int64_t cols, int64_t quads, const int32_t *start);

#define ROWS(R) \
    AVXVNNI static void rows##R(float *g, int64_t ldg, const int8_t *a, const float *sa, int64_t lda, const int8_t *b, \
                                const float *sb, int64_t ldb, int64_t cols, int64_t quads, const int32_t *start) \
    { \
        int64_t j = 0; \
        for (; cols - j >= 16; j += 16) \
            block(R, 0, g + j, ldg, a, sa, lda, b + 4 * j, sb + j, ldb, 16, quads, start); \
        if (j < cols) \
            block(R, 1, g + j, ldg, a, sa, lda, b + 4 * j, sb + j, ldb, cols - j, quads, start); \
    }
ROWS(1)
ROWS(2)
ROWS(3)
ROWS(4)
ROWS(5)
ROWS(6)

static void i8_gradient(float *g, int64_t ldg, const int8_t *a, const float *sa, int64_t lda, const int8_t *b,
                        const float *sb, int64_t ldb, int64_t rows, int64_t cols, int64_t quads, void *scratch)
{
    static rows_fn *const rows_of[HEIGHT + 1] = {NULL, rows1, rows2, rows3, rows4, rows5, rows6};
    (void)scratch;
    for (int64_t i = 0; i < rows; i += HEIGHT) {
        const int64_t height = rows - i < HEIGHT ? rows - i : HEIGHT;
        int32_t start[HEIGHT];
        for (int64_t r = 0; r < height; r++)
            start[r] = start_sum(a + 4 * (i + r), lda, quads);
        rows_of[height](g + i * ldg, ldg, a + 4 * i, sa + i, lda, b, sb, ldb, cols, quads, start);
    }
}

void qsi_avxvnni_gradient(qsi_kernels *table)
{
    table->i8_gradient = i8_gradient;
}

#else
typedef int qsi_avxvnni_gradient_absent;
#endif
