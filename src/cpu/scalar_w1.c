/* scalar_w1.c - reference of the packed products: the defined order written down, nothing else. */
#include <math.h>
#include "cpu/bf16.h"
#include "cpu/scalar.h"

/* To bf16 and back: round to nearest even, NaN stays NaN. */
static float rounded(float x, int bf16)
{
    return bf16 ? qsi_bf16_to_float(qsi_float_to_bf16(x)) : x;
}

static float signed_value(float x, const uint32_t *row, int64_t column)
{
    return (row[column / 32] >> (column % 32) & 1) ? x : -x;
}

static void w1_forward(float *y, int64_t ldy, const float *x, int64_t ldx, const uint32_t *w, int64_t ldw,
                       const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k,
                       int bf16, void *scratch)
{
    (void)scratch;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            const float *v = x + i * ldx;
            const uint32_t *row = w + j * ldw;
            const float alpha = qs_half_to_float(scale[j]);
            float sum = 0.0f;
            for (int64_t c = 0; c < k; c += 4) {
                float t[4];
                for (int64_t q = 0; q < 4; q++)
                    t[q] = signed_value(rounded(v[c + q], bf16), row, c + q);
                sum += (t[0] + t[1]) + (t[2] + t[3]);
            }
            y[i * ldy + j] = addend ? fmaf(alpha, sum, addend[i * ldadd + j]) : alpha * sum;
        }
}

static void w1_backward(float *dx, int64_t lddx, const float *dy, int64_t lddy, const uint32_t *w, int64_t ldw,
                        const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k,
                        int bf16, void *scratch)
{
    (void)scratch;
    for (int64_t i = 0; i < m; i++)
        for (int64_t c = 0; c < k; c++) {
            float sum = 0.0f;
            for (int64_t j = 0; j < n; j += 4) {
                float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                for (int64_t q = 0; q < 4 && j + q < n; q++)
                    d[q] = signed_value(rounded(qs_half_to_float(scale[j + q]) * dy[i * lddy + j + q], bf16), w + (j + q) * ldw, c);
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
