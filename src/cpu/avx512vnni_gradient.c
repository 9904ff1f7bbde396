/* avx512vnni_gradient.c - weight gradients of int8 and bf16 operands by dot products of 4 bytes or 2 halves.
 *
 * Both operands come with the tokens of one step of the dot product, a quad of bytes or a pair of halves, as one 32-bit
 * number per feature, so that one shape of loop serves both: blocks of up to 14 x 32 outputs, lines of b times one feature
 * of a. The instruction for bytes multiplies unsigned by signed: b is raised by 128 and the sum begins at -128 times the sum
 * of a. The one for halves takes subnormal numbers for 0 (BOUND). */
#include "cpu/avx512vnni.h"

#if QSI_HAVE_AVX512
#include <string.h>

enum { HEIGHT = 14 };
enum format { I8, BF16 };

/* s + dot products of 16 features of b and one of a, all of 4 bytes; compilers keep arrays of sums in memory for the
 * intrinsics. */
AVX512VNNI_INLINE __m512i dot(const enum format f, __m512i s, __m512i b, __m512i a)
{
    if (f == I8)
        __asm__("vpdpbusd %2, %1, %0" : "+v"(s) : "v"(b), "v"(a));
    else
        __asm__("vdpbf16ps %2, %1, %0" : "+v"(s) : "v"(b), "v"(a));
    return s;
}

AVX512VNNI_INLINE __m512i line16(const enum format f, const char *b, int64_t left)
{
    const __m512i line = left >= 16 ? _mm512_loadu_si512(b) : _mm512_maskz_loadu_epi32(qsi_mask16(left), b);
    return f == I8 ? _mm512_xor_si512(line, _mm512_set1_epi8(-128)) : line;
}

AVX512VNNI_INLINE __m512i feature(const char *a)
{
    int32_t bytes;
    memcpy(&bytes, a, sizeof bytes);
    return _mm512_set1_epi32(bytes);
}

/* The tile: g [R, cols] with sa, sb; a, b of 4 bytes a feature and step, lda, ldb bytes a step. */
typedef struct tile {
    float *g;
    const float *sa, *sb;
    const char *a, *b;
    int64_t ldg, lda, ldb, cols, steps;
} tile;

/* Columns j .. j + 16 (left of them) of R rows of sums s[..][v]. */
AVX512VNNI_INLINE void store(const enum format f, const int R, const tile *t, int64_t j, int64_t left, __m512i s[HEIGHT][2],
                             const int v)
{
    const __m512 sb = f == I8 ? qsi_load16(t->sb + j, left) : _mm512_setzero_ps();
    UNROLL
    for (int i = 0; i < R; i++) {
        const __m512 scaled = f == I8 ? _mm512_mul_ps(_mm512_mul_ps(qsi_set16(t->sa[i]), sb), _mm512_cvtepi32_ps(s[i][v]))
                                      : _mm512_castsi512_ps(s[i][v]);
        qsi_store16(t->g + i * t->ldg + j, scaled, left);
    }
}

/* Columns j .. j + 32 (edge: `left` of them) of R rows; start: of I8, -128 times the sums of a. */
AVX512VNNI_INLINE void block(const enum format f, const int R, const int edge, const tile *t, int64_t j,
                             const int32_t *start)
{
    const int64_t left[2] = {edge ? t->cols - j : 16, edge ? t->cols - j - 16 : 16};
    const char *a = t->a, *b = t->b + 4 * j;
    __m512i s[HEIGHT][2];
    UNROLL
    for (int i = 0; i < R; i++)
        s[i][0] = s[i][1] = f == I8 ? _mm512_set1_epi32(start[i]) : _mm512_setzero_si512();
    for (int64_t step = 0; step < t->steps; step++) {
        const __m512i low = line16(f, b, left[0]), high = left[1] > 0 ? line16(f, b + 64, left[1]) : _mm512_setzero_si512();
        UNROLL
        for (int i = 0; i < R; i++) {
            const __m512i x = feature(a + 4 * i);
            s[i][0] = dot(f, s[i][0], low, x);
            s[i][1] = dot(f, s[i][1], high, x);
        }
        a += t->lda;
        b += t->ldb;
    }
    UNROLL
    for (int v = 0; v < 2; v++)
        if (left[v] > 0)
            store(f, R, t, j + 16 * v, left[v], s, v);
}

/* start[i] = -128 * sum of a[i], i < rows <= 16 */
AVX512VNNI_INLINE void start_sums(int32_t start[16], const tile *t, int64_t rows)
{
    __m512i sum = _mm512_setzero_si512();
    for (int64_t step = 0; step < t->steps; step++) {
        const __m512i a = _mm512_maskz_loadu_epi32(qsi_mask16(rows), t->a + step * t->lda);
        sum = dot(I8, sum, _mm512_set1_epi8(-128), a);
    }
    _mm512_storeu_si512(start, _mm512_sub_epi32(_mm512_setzero_si512(), sum));
}

typedef void rows_fn(const tile *t, const int32_t *start);

#define ROWS(f, R) \
    AVX512VNNI static void f##_##R(const tile *t, const int32_t *start) \
    { \
        int64_t j = 0; \
        for (; t->cols - j >= 32; j += 32) \
            block(f, R, 0, t, j, start); \
        if (j < t->cols) \
            block(f, R, 1, t, j, start); \
    }
#define ROWS_OF(R) ROWS(I8, R) ROWS(BF16, R)
ROWS_OF(1) ROWS_OF(2) ROWS_OF(3) ROWS_OF(4) ROWS_OF(5) ROWS_OF(6) ROWS_OF(7)
ROWS_OF(8) ROWS_OF(9) ROWS_OF(10) ROWS_OF(11) ROWS_OF(12) ROWS_OF(13) ROWS_OF(14)

AVX512VNNI_INLINE void gradient(const enum format f, tile t, int64_t rows)
{
#define BOTH(R) {I8_##R, BF16_##R}
    static rows_fn *const rows_of[HEIGHT + 1][2] = {
        {NULL, NULL}, BOTH(1), BOTH(2), BOTH(3), BOTH(4), BOTH(5), BOTH(6), BOTH(7),
        BOTH(8), BOTH(9), BOTH(10), BOTH(11), BOTH(12), BOTH(13), BOTH(14)};
#undef BOTH
    for (int64_t i = 0, height; i < rows; i += height) {
        const int64_t blocks = (rows - i + HEIGHT - 1) / HEIGHT;
        int32_t start[16];
        height = (rows - i + blocks - 1) / blocks;
        if (f == I8)
            start_sums(start, &t, height);
        rows_of[height][f](&t, start);
        t.g += height * t.ldg;
        t.a += 4 * height;
        t.sa = f == I8 ? t.sa + height : NULL;
    }
}

AVX512VNNI static void i8_gradient(float *g, int64_t ldg, const int8_t *a, const float *sa, int64_t lda, const int8_t *b,
                                   const float *sb, int64_t ldb, int64_t rows, int64_t cols, int64_t quads, void *scratch)
{
    (void)scratch;
    gradient(I8, (tile){g, sa, sb, (const char *)a, (const char *)b, ldg, 4 * lda, 4 * ldb, cols, quads}, rows);
}

AVX512VNNI static void bf16_gradient(float *g, int64_t ldg, const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb,
                                     int64_t rows, int64_t cols, int64_t pairs, void *scratch)
{
    (void)scratch;
    gradient(BF16, (tile){g, NULL, NULL, (const char *)a, (const char *)b, ldg, 4 * lda, 4 * ldb, cols, pairs}, rows);
}

void qsi_avx512vnni_gradient(qsi_kernels *table)
{
    table->i8_gradient = i8_gradient;
    table->bf16_gradient = bf16_gradient;
}

#else
typedef int qsi_avx512vnni_gradient_absent;
#endif
