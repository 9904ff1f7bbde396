/* neon_attention.c - exponentials of a row, 4 lanes at a time. A maximum over lanes is the maximum in order, because NaN
 * never replaces what is there (a comparison with it is false) and the sign of a zero is removed afterwards. */
#include "cpu/neon.h"

#if QSI_HAVE_NEON

NEON_INLINE float32x4_t larger(float32x4_t x, float32x4_t old) { return vbslq_f32(vcgtq_f32(x, old), x, old); }

NEON_INLINE float largest_lane(float32x4_t x)
{
    float lane[4];
    vst1q_f32(lane, x);
    const float low = lane[0] > lane[1] ? lane[0] : lane[1], high = lane[2] > lane[3] ? lane[2] : lane[3];
    return low > high ? low : high;
}

/* The largest of old and x, +0 for a zero of either sign. */
NEON_INLINE float largest_of(const float *x, int64_t n, float old)
{
    float32x4_t lanes = vdupq_n_f32(old);
    for (int64_t j = 0; j < n; j += 4)
        lanes = qsi_keep4(lanes, larger(qsi_load4(x + j, n - j), lanes), n - j);
    return largest_lane(lanes) + 0.0f;
}

/* The sum of exp(x - peak) over n elements in stripes; they go to `to`, unless it is NULL. */
NEON_INLINE float exponentials(float *to, const float *x, int64_t n, float peak)
{
    const float32x4_t shift = vdupq_n_f32(peak);
    float32x4_t s[4] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    for (int64_t j = 0; j < n; j += 16) {
        UNROLL
        for (int q = 0; q < 4; q++) {
            const int64_t i = j + 4 * q, left = n - i;
            if (left <= 0)
                break;
            const float32x4_t e = qsi_exp4(vsubq_f32(qsi_load4(x + i, left), shift));
            s[q] = qsi_keep4(s[q], vaddq_f32(s[q], e), left);
            if (to)
                qsi_store4(to + i, e, left);
        }
    }
    return qsi_fold16_neon(s[0], s[1], s[2], s[3]);
}

static float softmax_block(float *p, int64_t n, float scale, float *top, float *sum)
{
    if (n <= 0)
        return 1.0f;
    for (int64_t j = 0; j < n; j += 4)
        qsi_store4(p + j, vmulq_n_f32(qsi_load4(p + j, n - j), scale), n - j);
    const float peak = largest_of(p, n, *top), factor = qsi_expf(*top - peak);
    *top = peak;
    *sum = fmaf(*sum, factor, exponentials(p, p, n, peak));
    return factor;
}

static void softmax_grad(float *p, float *ds, const float *dp, int64_t n, float scale, float lse, float dot)
{
    const float32x4_t factor = vdupq_n_f32(scale), shift = vdupq_n_f32(lse), centre = vdupq_n_f32(dot);
    for (int64_t j = 0; j < n; j += 4) {
        const int64_t left = n - j;
        const float32x4_t e = qsi_exp4(vsubq_f32(vmulq_f32(qsi_load4(p + j, left), factor), shift));
        const float32x4_t d = vmulq_f32(e, vsubq_f32(qsi_load4(dp + j, left), centre));
        qsi_store4(p + j, e, left);
        qsi_store4(ds + j, vmulq_f32(d, factor), left);
    }
}

static void softmax_stats(const float *logits, int64_t n, float *top, float *sum)
{
    for (int64_t j = 0; j < n; j += 1024) {
        const int64_t count = n - j < 1024 ? n - j : 1024;
        const float peak = largest_of(logits + j, count, *top);
        *sum = fmaf(*sum, qsi_expf(*top - peak), exponentials(NULL, logits + j, count, peak));
        *top = peak;
    }
}

static void cross_entropy_grad(float *logits, int64_t n, int64_t target, float top, float sum, float factor)
{
    const int inside = target >= 0 && target < n;
    const float hit = inside ? (qsi_expf(logits[target] - top) / sum - 1.0f) * factor : 0.0f;
    for (int64_t j = 0; j < n; j += 4) {
        const float32x4_t e = qsi_exp4(vsubq_f32(qsi_load4(logits + j, n - j), vdupq_n_f32(top)));
        qsi_store4(logits + j, vmulq_n_f32(vdivq_f32(e, vdupq_n_f32(sum)), factor), n - j);
    }
    if (inside)
        logits[target] = hit;
}

void qsi_neon_attention(qsi_kernels *table)
{
    table->softmax_block = softmax_block;
    table->softmax_grad = softmax_grad;
    table->softmax_stats = softmax_stats;
    table->cross_entropy_grad = cross_entropy_grad;
}

#else
typedef int qsi_neon_attention_absent;
#endif
