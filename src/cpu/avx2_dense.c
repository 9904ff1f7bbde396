/* avx2_dense.c - fp32 products by blocks of up to 6 x 16 outputs held in registers, and plain vector sums.
 *
 * Every output is one chain of fma in ascending depth, so blocking depth only means that sums rest in c between blocks.
 * Panels of 256 x 16 of b are copied to the stack when they will be read often or are narrower than 16 (rows of b are a
 * power of two apart more often than not, and would fall into one set of the cache). Edges of c go through a small
 * tile, so nothing outside the matrix is read or written. */
#include "cpu/avx2.h"

#if QSI_HAVE_AVX2

enum {
    DEPTH = 256,
    WIDTH = 16,
    HEIGHT = 6,
    PANELS = 4,      /* packed at a time: 64 KB */
    PACK_FROM = 13   /* rows of c from which packing b pays */
};

/* c[R, 16] = (load ? c : 0) + a[R, depth] b[depth, 16] */
#define GEMM_ROW(i) \
    if (R > i) { \
        const __m256 s = _mm256_broadcast_ss(a + i * a_row); \
        c##i##0 = _mm256_fmadd_ps(s, b0, c##i##0); \
        c##i##1 = _mm256_fmadd_ps(s, b1, c##i##1); \
    }
#define GEMM_LOAD(i) \
    if (R > i && load) { \
        c##i##0 = _mm256_loadu_ps(c + i * ldc); \
        c##i##1 = _mm256_loadu_ps(c + i * ldc + 8); \
    }
#define GEMM_STORE(i) \
    if (R > i) { \
        _mm256_storeu_ps(c + i * ldc, c##i##0); \
        _mm256_storeu_ps(c + i * ldc + 8, c##i##1); \
    }

AVX2_INLINE void block(const int R, float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_depth, const float *b,
                       int64_t ldb, int64_t depth, int load)
{
    __m256 c00 = _mm256_setzero_ps(), c01 = c00, c10 = c00, c11 = c00, c20 = c00, c21 = c00;
    __m256 c30 = c00, c31 = c00, c40 = c00, c41 = c00, c50 = c00, c51 = c00;
    GEMM_LOAD(0) GEMM_LOAD(1) GEMM_LOAD(2) GEMM_LOAD(3) GEMM_LOAD(4) GEMM_LOAD(5)
    for (int64_t p = 0; p < depth; p++) {
        const __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
        GEMM_ROW(0) GEMM_ROW(1) GEMM_ROW(2) GEMM_ROW(3) GEMM_ROW(4) GEMM_ROW(5)
        a += a_depth;
        b += ldb;
    }
    GEMM_STORE(0) GEMM_STORE(1) GEMM_STORE(2) GEMM_STORE(3) GEMM_STORE(4) GEMM_STORE(5)
}

typedef void block_fn(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_depth, const float *b, int64_t ldb,
                      int64_t depth, int load);

#define BLOCK(R) \
    AVX2 static void block##R(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_depth, const float *b, \
                              int64_t ldb, int64_t depth, int load) \
    { \
        block(R, c, ldc, a, a_row, a_depth, b, ldb, depth, load); \
    }
BLOCK(1)
BLOCK(2)
BLOCK(3)
BLOCK(4)
BLOCK(5)
BLOCK(6)

static block_fn *const block_of[] = {NULL, block1, block2, block3, block4, block5, block6};

/* 6 rows, except where that would leave 1 or 2: fewer than 4 rows cannot hide the latency of fma. */
static int64_t rows_of_next(int64_t left)
{
    return left == 7 || left == 8 ? 4 : left == 9 ? 5 : left < HEIGHT ? left : HEIGHT;
}

/* The same on a tile of its own, of which cols columns are real. */
static void block_edge(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_depth, const float *panel,
                       int64_t depth, int load, int64_t rows, int64_t cols)
{
    float tile[HEIGHT * WIDTH] = {0};
    for (int64_t i = 0; load && i < rows; i++)
        memcpy(tile + i * WIDTH, c + i * ldc, (size_t)cols * sizeof *c);
    block_of[rows](tile, WIDTH, a, a_row, a_depth, panel, WIDTH, depth, load);
    for (int64_t i = 0; i < rows; i++)
        memcpy(c + i * ldc, tile + i * WIDTH, (size_t)cols * sizeof *c);
}

/* panel[q][p][16] = b[p, 16 q ..] for cols <= PANELS * 16 columns, 0 beyond cols. Several panels at a time, because a row
 * of b is a page of its own when it is long: each visit should take more than one line from it. */
AVX2 static void pack(float *panel, const float *b, int64_t ldb, int64_t depth, int64_t cols)
{
    const int64_t whole = cols / WIDTH, rest = cols % WIDTH;
    if (rest != 0)
        memset(panel + whole * DEPTH * WIDTH, 0, DEPTH * WIDTH * sizeof *panel);
    for (int64_t p = 0; p < depth; p++) {
        const float *from = b + p * ldb;
        float *to = panel + p * WIDTH;
        for (int64_t q = 0; q < whole; q++) {
            _mm256_store_ps(to + q * DEPTH * WIDTH, _mm256_loadu_ps(from + q * WIDTH));
            _mm256_store_ps(to + q * DEPTH * WIDTH + 8, _mm256_loadu_ps(from + q * WIDTH + 8));
        }
        if (rest != 0)
            memcpy(to + whole * DEPTH * WIDTH, from + whole * WIDTH, (size_t)rest * sizeof *b);
    }
}

void qsi_avx2_gemm_panel(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_depth, const float *b, int64_t ldb,
                         int64_t m, int64_t cols, int64_t depth, int load)
{
    for (int64_t i = 0, rows; i < m; i += rows) {
        rows = rows_of_next(m - i);
        if (cols < WIDTH)
            block_edge(c + i * ldc, ldc, a + i * a_row, a_row, a_depth, b, depth, load, rows, cols);
        else
            block_of[rows](c + i * ldc, ldc, a + i * a_row, a_row, a_depth, b, ldb, depth, load);
    }
}

static void f32_gemm(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_depth, const float *b, int64_t ldb,
                     int64_t m, int64_t n, int64_t depth, int accumulate)
{
    float panel[PANELS * DEPTH * WIDTH] __attribute__((aligned(64)));
    for (int64_t j0 = 0; j0 < n; j0 += PANELS * WIDTH) {
        const int64_t width = n - j0 < PANELS * WIDTH ? n - j0 : PANELS * WIDTH;
        const int packed = width % WIDTH != 0 || m >= PACK_FROM;
        for (int64_t p = 0; p == 0 || p < depth; p += DEPTH) {
            const int64_t count = depth - p < DEPTH ? depth - p : DEPTH;
            const float *from = b + p * ldb + j0;
            if (packed)
                pack(panel, from, ldb, count, width);
            for (int64_t j = 0; j < width; j += WIDTH)
                qsi_avx2_gemm_panel(c + j0 + j, ldc, a + p * a_depth, a_row, a_depth, packed ? panel + j * DEPTH : from + j,
                                    packed ? WIDTH : ldb, m, width - j < WIDTH ? width - j : WIDTH, count,
                                    accumulate || p > 0);
        }
    }
}

AVX2 static void f32_add(float *y, const float *x, int64_t n)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), _mm256_loadu_ps(x + i)));
    for (; i < n; i++)
        y[i] = y[i] + x[i];
}

AVX2 static void f32_scale(float *y, float factor, int64_t n)
{
    const __m256 f = _mm256_set1_ps(factor);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_loadu_ps(y + i), f));
    for (; i < n; i++)
        y[i] = y[i] * factor;
}

AVX2 static float f32_dot(const float *x, const float *y, int64_t n)
{
    __m256 low = _mm256_setzero_ps(), high = low;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        low = _mm256_fmadd_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i), low);
        high = _mm256_fmadd_ps(_mm256_loadu_ps(x + i + 8), _mm256_loadu_ps(y + i + 8), high);
    }
    if (i == n)
        return qsi_fold16_avx2(low, high);
    float s[16];
    _mm256_storeu_ps(s, low);
    _mm256_storeu_ps(s + 8, high);
    for (; i < n; i++)
        s[i % 16] = fmaf(x[i], y[i], s[i % 16]);
    return qsi_fold16(s);
}

void qsi_avx2_dense(qsi_kernels *table)
{
    table->f32_gemm = f32_gemm;
    table->f32_add = f32_add;
    table->f32_scale = f32_scale;
    table->f32_dot = f32_dot;
}

#else
typedef int qsi_avx2_dense_absent;
#endif
