/* scalar_w1.c - reference of the packed products: the defined order written down, nothing else. */
#include <math.h>
#include "cpu/scalar.h"

static float signed_value(float x, const uint32_t *row, int64_t column)
{
    return (row[column / 32] >> (column % 32) & 1) ? x : -x;
}

static void w1_forward(float *y, int64_t ldy, const float *x, int64_t ldx, const uint32_t *w, int64_t ldw,
                       const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k,
                       void *scratch)
{
    (void)scratch;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            const float *v = x + i * ldx;
            const uint32_t *row = w + j * ldw;
            const float alpha = qs_half_to_float(scale[j]);
            float sum = 0.0f;
            for (int64_t c = 0; c < k; c += 4) {
                const float left = signed_value(v[c], row, c) + signed_value(v[c + 1], row, c + 1);
                const float right = signed_value(v[c + 2], row, c + 2) + signed_value(v[c + 3], row, c + 3);
                sum += left + right;
            }
            y[i * ldy + j] = addend ? fmaf(alpha, sum, addend[i * ldadd + j]) : alpha * sum;
        }
}

static void w1_backward(float *dx, int64_t lddx, const float *dy, int64_t lddy, const uint32_t *w, int64_t ldw,
                        const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k,
                        void *scratch)
{
    (void)scratch;
    for (int64_t i = 0; i < m; i++)
        for (int64_t c = 0; c < k; c++) {
            float sum = 0.0f;
            for (int64_t j = 0; j < n; j += 4) {
                float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                for (int64_t q = 0; q < 4 && j + q < n; q++)
                    d[q] = signed_value(qs_half_to_float(scale[j + q]) * dy[i * lddy + j + q], w + (j + q) * ldw, c);
                sum += (d[0] + d[1]) + (d[2] + d[3]);
            }
            dx[i * lddx + c] = addend ? sum + addend[i * ldadd + c] : sum;
        }
}

void qsi_scalar_w1(qsi_kernels *table)
{
    table->w1_forward = w1_forward;
    table->w1_backward = w1_backward;
}
