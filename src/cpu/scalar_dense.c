/* scalar_dense.c - reference of the dense products and plain vector sums. */
#include <math.h>
#include "cpu/fold.h"
#include "cpu/scalar.h"

static void f32_gemm(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_depth, const float *b, int64_t ldb,
                     int64_t m, int64_t n, int64_t depth, int accumulate)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            float sum = accumulate ? c[i * ldc + j] : 0.0f;
            for (int64_t p = 0; p < depth; p++)
                sum = fmaf(a[i * a_row + p * a_depth], b[p * ldb + j], sum);
            c[i * ldc + j] = sum;
        }
}

static void f32_add(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = y[i] + x[i];
}

static void f32_scale(float *y, float factor, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = y[i] * factor;
}

static float f32_dot(const float *x, const float *y, int64_t n)
{
    float s[16] = {0};
    for (int64_t i = 0; i < n; i++)
        s[i % 16] = fmaf(x[i], y[i], s[i % 16]);
    return qsi_fold16(s);
}

void qsi_scalar_dense(qsi_kernels *table)
{
    table->f32_gemm = f32_gemm;
    table->f32_add = f32_add;
    table->f32_scale = f32_scale;
    table->f32_dot = f32_dot;
}
