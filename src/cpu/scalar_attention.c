/* scalar_attention.c - reference of the kernels built on exponentials of a row: online softmax, its gradient, the loss.
 *
 * The maximum of a row ignores NaN and counts a zero of either sign as +0 (by adding +0), so it does not depend on the
 * order of comparison. */
#include <math.h>
#include "cpu/expf.h"
#include "cpu/fold.h"
#include "cpu/scalar.h"

static float softmax_block(float *p, int64_t n, float scale, float *top, float *sum)
{
    if (n <= 0)
        return 1.0f;
    const float old = *top;
    float peak = old, s[16] = {0};
    for (int64_t j = 0; j < n; j++) {
        p[j] = p[j] * scale;
        peak = p[j] > peak ? p[j] : peak;
    }
    peak = peak + 0.0f;
    for (int64_t j = 0; j < n; j++) {
        p[j] = qsi_expf(p[j] - peak);
        s[j % 16] = s[j % 16] + p[j];
    }
    const float factor = qsi_expf(old - peak);
    *top = peak;
    *sum = fmaf(*sum, factor, qsi_fold16(s));
    return factor;
}

static void softmax_grad(float *p, float *ds, const float *dp, int64_t n, float scale, float lse, float dot)
{
    for (int64_t j = 0; j < n; j++) {
        p[j] = qsi_expf(p[j] * scale - lse);
        ds[j] = p[j] * (dp[j] - dot) * scale;
    }
}

static void softmax_stats(const float *logits, int64_t n, float *top, float *sum)
{
    for (int64_t block = 0; block < n; block += 1024) {
        const int64_t end = n - block < 1024 ? n : block + 1024;
        float peak = *top, s[16] = {0};
        for (int64_t j = block; j < end; j++)
            peak = logits[j] > peak ? logits[j] : peak;
        peak = peak + 0.0f;
        for (int64_t j = block; j < end; j++)
            s[j % 16] = s[j % 16] + qsi_expf(logits[j] - peak);
        *sum = fmaf(*sum, qsi_expf(*top - peak), qsi_fold16(s));
        *top = peak;
    }
}

static void cross_entropy_grad(float *logits, int64_t n, int64_t target, float top, float sum, float factor)
{
    for (int64_t j = 0; j < n; j++)
        logits[j] = (qsi_expf(logits[j] - top) / sum - (j == target ? 1.0f : 0.0f)) * factor;
}

void qsi_scalar_attention(qsi_kernels *table)
{
    table->softmax_block = softmax_block;
    table->softmax_grad = softmax_grad;
    table->softmax_stats = softmax_stats;
    table->cross_entropy_grad = cross_entropy_grad;
}
