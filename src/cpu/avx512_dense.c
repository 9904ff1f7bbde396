/* avx512_dense.c - fp32 products by blocks of up to 14 x 32 outputs held in registers.
 *
 * Every output is one chain of fma in ascending depth, so blocking depth only means that sums rest in c between blocks. b is
 * read where it lies: a block takes two lines of it in the time of 28 fma, which the level-2 cache can give, and
 * copying panels cost more than it gained even for rows 16 KB apart. Few rows take wider blocks, so that there are chains
 * enough to hide the latency of fma. Columns that are left over are masked.
 *
 * f32_add, f32_scale and f32_dot stay with AVX2: they wait for memory or for one chain of fma per stripe. */
#include "cpu/avx512.h"

#if QSI_HAVE_AVX512

enum {
    DEPTH = 256,
    HEIGHT = 14
};

/* Vectors of 16 columns in a block of R rows. */
#define VECTORS(R) ((R) == 1 ? 8 : (R) <= 3 ? 4 : 2)

/* c[R, cols] = (load ? c : 0) + a[R, depth] b[depth, cols], cols <= 16 V; cols = 16 V if not edge. */
AVX512_INLINE void block(const int R, const int V, const int edge, float *c, int64_t ldc, const float *a, int64_t a_row,
                         int64_t a_depth, const float *b, int64_t ldb, int64_t cols, int64_t depth, int load)
{
    __m512 s[HEIGHT][8];
    const float *at[(HEIGHT + 2) / 3];   /* every third row: the two after it are within reach of one address */
    int64_t left[8];
    UNROLL
    for (int q = 0; q < (R + 2) / 3; q++)
        at[q] = a + 3 * q * a_row;
    UNROLL
    for (int v = 0; v < V; v++)
        left[v] = edge ? (cols > 16 * v ? cols - 16 * v : 0) : 16;
    UNROLL
    for (int i = 0; i < R; i++)
        UNROLL
        for (int v = 0; v < V; v++)
            s[i][v] = load ? qsi_load16(c + i * ldc + 16 * v, left[v]) : _mm512_setzero_ps();
    for (int64_t p = 0; p < depth; p++) {
        __m512 line[8];
        UNROLL
        for (int v = 0; v < V; v++)
            line[v] = qsi_load16(b + 16 * v, left[v]);
        UNROLL
        for (int i = 0; i < R; i++) {
            const __m512 x = qsi_set16(at[i / 3][i % 3 * a_row]);
            UNROLL
            for (int v = 0; v < V; v++)
                s[i][v] = _mm512_fmadd_ps(x, line[v], s[i][v]);
        }
        UNROLL
        for (int q = 0; q < (R + 2) / 3; q++)
            at[q] += a_depth;
        b += ldb;
    }
    UNROLL
    for (int i = 0; i < R; i++)
        UNROLL
        for (int v = 0; v < V; v++)
            qsi_store16(c + i * ldc + 16 * v, s[i][v], left[v]);
}

typedef void block_fn(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_depth, const float *b, int64_t ldb,
                      int64_t cols, int64_t depth, int load);

/* All columns of R rows, block after block. */
#define BLOCK(R) \
    AVX512 static void block##R(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_depth, const float *b, \
                                int64_t ldb, int64_t cols, int64_t depth, int load) \
    { \
        int64_t j = 0; \
        for (; cols - j >= 16 * VECTORS(R); j += 16 * VECTORS(R)) \
            block(R, VECTORS(R), 0, c + j, ldc, a, a_row, a_depth, b + j, ldb, 0, depth, load); \
        if (cols - j > 16) \
            block(R, VECTORS(R), 1, c + j, ldc, a, a_row, a_depth, b + j, ldb, cols - j, depth, load); \
        else if (j < cols) \
            block(R, 1, 1, c + j, ldc, a, a_row, a_depth, b + j, ldb, cols - j, depth, load); \
    }
BLOCK(1) BLOCK(2) BLOCK(3) BLOCK(4) BLOCK(5) BLOCK(6) BLOCK(7)
BLOCK(8) BLOCK(9) BLOCK(10) BLOCK(11) BLOCK(12) BLOCK(13) BLOCK(14)

static block_fn *const block_of[HEIGHT + 1] = {NULL,   block1, block2, block3,  block4,  block5,  block6, block7,
                                               block8, block9, block10, block11, block12, block13, block14};

/* Rows of the next block: as even as can be. */
static int64_t rows_of_next(int64_t left)
{
    const int64_t blocks = (left + HEIGHT - 1) / HEIGHT;
    return (left + blocks - 1) / blocks;
}

static void f32_gemm(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_depth, const float *b, int64_t ldb,
                     int64_t m, int64_t n, int64_t depth, int accumulate)
{
    for (int64_t p = 0; p == 0 || p < depth; p += DEPTH)
        for (int64_t i = 0, rows; i < m; i += rows) {
            rows = rows_of_next(m - i);
            block_of[rows](c + i * ldc, ldc, a + i * a_row + p * a_depth, a_row, a_depth, b + p * ldb, ldb, n,
                           depth - p < DEPTH ? depth - p : DEPTH, accumulate || p > 0);
        }
}

void qsi_avx512_dense(qsi_kernels *table)
{
    table->f32_gemm = f32_gemm;
}

#else
typedef int qsi_avx512_dense_absent;
#endif
