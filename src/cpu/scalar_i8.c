/* scalar_i8.c - reference of the int8 and bf16 operands and of the products with them. */
#include <math.h>
#include "cpu/bf16.h"
#include "cpu/scalar.h"

/* ---- operands --------------------------------------------------------------------------------------------------- */

/* n values `step` apart to int8; returns the scale. */
static float quantize(int8_t *q, const float *x, int64_t step, const uint16_t *scale, int64_t n)
{
    float top = 0.0f;
    int finite = 1;
    for (int64_t i = 0; i < n; i++) {
        const float t = scale ? qs_half_to_float(scale[i]) * x[i * step] : x[i * step];
        finite &= isfinite(t) != 0;
        top = fabsf(t) > top ? fabsf(t) : top;
    }
    const float factor = finite && top >= 0x1p-100f ? 127.0f / top : 0.0f;
    for (int64_t i = 0; i < n; i++) {
        const float t = scale ? qs_half_to_float(scale[i]) * x[i * step] : x[i * step];
        q[i] = factor > 0.0f ? (int8_t)rintf(t * factor) : 0;
    }
    return !finite ? NAN : factor > 0.0f ? top / 127.0f : 0.0f;
}

static float i8_row(int8_t *q, const float *x, const uint16_t *scale, int64_t k)
{
    return quantize(q, x, 1, scale, k);
}

static void i8_features(int8_t *q, int64_t ldq, float *s, const float *x, int64_t ldx, int64_t m, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        int8_t column[QS_TOKEN_CHUNK] = {0};
        s[j] = quantize(column, x + j, ldx, NULL, m);
        for (int64_t i = 0; i < (m + 3) / 4 * 4; i++)
            q[(i / 4 * ldq + j) * 4 + i % 4] = column[i];
    }
}

static void bf16_features(uint16_t *q, int64_t ldq, const float *x, int64_t ldx, int64_t m, int64_t n)
{
    for (int64_t i = 0; i < (m + 1) / 2 * 2; i++)
        for (int64_t j = 0; j < n; j++)
            q[(i / 2 * ldq + j) * 2 + i % 2] = i < m ? qsi_float_to_bf16(x[i * ldx + j]) : 0;
}

/* ---- products with packed weights ------------------------------------------------------------------------------- */

static int32_t signed_sum(int32_t sum, int8_t q, const uint32_t *row, int64_t column)
{
    return row[column / 32] >> (column % 32) & 1 ? sum + q : sum - q;
}

static void w1_i8_forward(float *y, int64_t ldy, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w, int64_t ldw,
                          const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k,
                          void *scratch)
{
    (void)scratch;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            const float factor = qs_half_to_float(scale[j]) * s[i];
            int32_t sum = 0;
            for (int64_t c = 0; c < k; c++)
                sum = signed_sum(sum, q[i * ldq + c], w + j * ldw, c);
            y[i * ldy + j] = addend ? fmaf(factor, (float)sum, addend[i * ldadd + j]) : factor * (float)sum;
        }
}

static void w1_i8_backward(float *dx, int64_t lddx, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w,
                           int64_t ldw, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k, void *scratch)
{
    (void)scratch;
    for (int64_t i = 0; i < m; i++)
        for (int64_t c = 0; c < k; c++) {
            int32_t sum = 0;
            for (int64_t j = 0; j < n; j++)
                sum = signed_sum(sum, q[i * ldq + j], w + j * ldw, c);
            dx[i * lddx + c] = addend ? fmaf(s[i], (float)sum, addend[i * ldadd + c]) : s[i] * (float)sum;
        }
}

/* ---- weight gradients ------------------------------------------------------------------------------------------- */

static void i8_gradient(float *g, int64_t ldg, const int8_t *a, const float *sa, int64_t lda, const int8_t *b, const float *sb,
                        int64_t ldb, int64_t rows, int64_t cols, int64_t quads, void *scratch)
{
    (void)scratch;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            int32_t sum = 0;
            for (int64_t t = 0; t < 4 * quads; t++)
                sum += a[(t / 4 * lda + i) * 4 + t % 4] * b[(t / 4 * ldb + j) * 4 + t % 4];
            g[i * ldg + j] = sa[i] * sb[j] * (float)sum;
        }
}

static void bf16_gradient(float *g, int64_t ldg, const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb, int64_t rows,
                          int64_t cols, int64_t pairs, void *scratch)
{
    (void)scratch;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            float sum = 0.0f;
            for (int64_t t = 0; t < 2 * pairs; t++)
                sum = fmaf(qsi_bf16_to_float(a[(t / 2 * lda + i) * 2 + t % 2]), qsi_bf16_to_float(b[(t / 2 * ldb + j) * 2 + t % 2]),
                           sum);
            g[i * ldg + j] = sum;
        }
}

void qsi_scalar_i8(qsi_kernels *table)
{
    table->i8_row = i8_row;
    table->i8_features = i8_features;
    table->bf16_features = bf16_features;
    table->w1_i8_forward = w1_i8_forward;
    table->w1_i8_backward = w1_i8_backward;
    table->i8_gradient = i8_gradient;
    table->bf16_gradient = bf16_gradient;
}
