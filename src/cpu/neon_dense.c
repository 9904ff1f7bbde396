/* neon_dense.c - fp32 products by blocks of up to 5 x 16 outputs held in registers (of 6, gcc 12 spills some), and plain
 * vector sums.
 *
 * Every output is one chain of fma in ascending depth, so blocking depth only means that sums rest in c between blocks.
 * Panels of 256 x 16 of b are copied to the stack when they will be read often or are narrower than 16. Edges of c go
 * through a small tile, so nothing outside the matrix is read or written. */
#include "cpu/neon.h"

#if QSI_HAVE_NEON

enum {
    DEPTH = 256,
    WIDTH = 16,
    HEIGHT = 5,
    PACK_FROM = 13   /* rows of c from which packing b pays */
};

/* c[R, 16] = (load ? c : 0) + a[R, depth] b[depth, 16] */
#define GEMM_ROW(i) \
    if (R > i) { \
        const float s = a[i * a_row]; \
        c##i##0 = vfmaq_n_f32(c##i##0, b0, s); \
        c##i##1 = vfmaq_n_f32(c##i##1, b1, s); \
        c##i##2 = vfmaq_n_f32(c##i##2, b2, s); \
        c##i##3 = vfmaq_n_f32(c##i##3, b3, s); \
    }
#define GEMM_LOAD(i) \
    float32x4_t c##i##0 = vdupq_n_f32(0.0f), c##i##1 = c##i##0, c##i##2 = c##i##0, c##i##3 = c##i##0; \
    if (R > i && load) { \
        c##i##0 = vld1q_f32(c + i * ldc); \
        c##i##1 = vld1q_f32(c + i * ldc + 4); \
        c##i##2 = vld1q_f32(c + i * ldc + 8); \
        c##i##3 = vld1q_f32(c + i * ldc + 12); \
    }
#define GEMM_STORE(i) \
    if (R > i) { \
        vst1q_f32(c + i * ldc, c##i##0); \
        vst1q_f32(c + i * ldc + 4, c##i##1); \
        vst1q_f32(c + i * ldc + 8, c##i##2); \
        vst1q_f32(c + i * ldc + 12, c##i##3); \
    }

NEON_INLINE void block(const int R, float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_depth, const float *b,
                       int64_t ldb, int64_t depth, int load)
{
    GEMM_LOAD(0) GEMM_LOAD(1) GEMM_LOAD(2) GEMM_LOAD(3) GEMM_LOAD(4)
    for (int64_t p = 0; p < depth; p++) {
        const float32x4_t b0 = vld1q_f32(b), b1 = vld1q_f32(b + 4), b2 = vld1q_f32(b + 8), b3 = vld1q_f32(b + 12);
        GEMM_ROW(0) GEMM_ROW(1) GEMM_ROW(2) GEMM_ROW(3) GEMM_ROW(4)
        a += a_depth;
        b += ldb;
    }
    GEMM_STORE(0) GEMM_STORE(1) GEMM_STORE(2) GEMM_STORE(3) GEMM_STORE(4)
}

typedef void block_fn(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_depth, const float *b, int64_t ldb,
                      int64_t depth, int load);

#define BLOCK(R) \
    static void block##R(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_depth, const float *b, \
                         int64_t ldb, int64_t depth, int load) \
    { \
        block(R, c, ldc, a, a_row, a_depth, b, ldb, depth, load); \
    }
BLOCK(1)
BLOCK(2)
BLOCK(3)
BLOCK(4)
BLOCK(5)

static block_fn *const block_of[] = {NULL, block1, block2, block3, block4, block5};

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

/* panel[p][16] = b[p, ..], 0 beyond cols. */
static void pack(float *panel, const float *b, int64_t ldb, int64_t depth, int64_t cols)
{
    for (int64_t p = 0; p < depth; p++) {
        if (cols < WIDTH)
            memset(panel + p * WIDTH, 0, WIDTH * sizeof *panel);
        memcpy(panel + p * WIDTH, b + p * ldb, (size_t)cols * sizeof *b);
    }
}

void qsi_neon_gemm(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_depth, const float *b, int64_t ldb,
                   int64_t m, int64_t n, int64_t depth, int accumulate)
{
    float panel[DEPTH * WIDTH];
    for (int64_t j = 0; j < n; j += WIDTH) {
        const int64_t cols = n - j < WIDTH ? n - j : WIDTH;
        const int packed = cols < WIDTH || m >= PACK_FROM;
        for (int64_t p = 0; p == 0 || p < depth; p += DEPTH) {
            const int64_t count = depth - p < DEPTH ? depth - p : DEPTH;
            const float *from = b + p * ldb + j;
            const int load = accumulate || p > 0;
            if (packed)
                pack(panel, from, ldb, count, cols);
            for (int64_t i = 0; i < m; i += HEIGHT) {
                const int64_t rows = m - i < HEIGHT ? m - i : HEIGHT;
                const float *at = a + i * a_row + p * a_depth;
                if (cols < WIDTH)
                    block_edge(c + i * ldc + j, ldc, at, a_row, a_depth, panel, count, load, rows, cols);
                else
                    block_of[rows](c + i * ldc + j, ldc, at, a_row, a_depth, packed ? panel : from, packed ? WIDTH : ldb,
                                   count, load);
            }
        }
    }
}

static void f32_add(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += 4)
        qsi_store4(y + i, vaddq_f32(qsi_load4(y + i, n - i), qsi_load4(x + i, n - i)), n - i);
}

static void f32_scale(float *y, float factor, int64_t n)
{
    for (int64_t i = 0; i < n; i += 4)
        qsi_store4(y + i, vmulq_n_f32(qsi_load4(y + i, n - i), factor), n - i);
}

static float f32_dot(const float *x, const float *y, int64_t n)
{
    float32x4_t s[4] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    for (int64_t i = 0; i < n; i += 16) {
        UNROLL
        for (int q = 0; q < 4; q++) {
            const int64_t left = n - i - 4 * q;
            if (left <= 0)
                break;
            s[q] = qsi_keep4(s[q], vfmaq_f32(s[q], qsi_load4(x + i + 4 * q, left), qsi_load4(y + i + 4 * q, left)), left);
        }
    }
    return qsi_fold16_neon(s[0], s[1], s[2], s[3]);
}

void qsi_neon_dense(qsi_kernels *table)
{
    table->f32_gemm = qsi_neon_gemm;
    table->f32_add = f32_add;
    table->f32_scale = f32_scale;
    table->f32_dot = f32_dot;
}

#else
typedef int qsi_neon_dense_absent;
#endif
