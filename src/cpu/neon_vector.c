/* neon_vector.c - kernels along one vector, 4 lanes at a time; the stripes of a sum are four registers. */
#include "cpu/neon.h"

#if QSI_HAVE_NEON

NEON_INLINE float32x4_t set4(float x) { return vdupq_n_f32(x); }

NEON_INLINE float inverse_rms(const float *x, int64_t d, float eps)
{
    float32x4_t s[4] = {set4(0.0f), set4(0.0f), set4(0.0f), set4(0.0f)};
    for (int64_t j = 0; j < d; j += 16) {
        UNROLL
        for (int q = 0; q < 4; q++) {
            const int64_t left = d - j - 4 * q;
            if (left <= 0)
                break;
            const float32x4_t v = qsi_load4(x + j + 4 * q, left);
            s[q] = qsi_keep4(s[q], vfmaq_f32(s[q], v, v), left);
        }
    }
    return 1.0f / sqrtf(qsi_fold16_neon(s[0], s[1], s[2], s[3]) / (float)d + eps);
}

static void rmsnorm(float *y, const float *x, const float *gain, int64_t d, float eps)
{
    const float32x4_t rstd = set4(inverse_rms(x, d, eps));
    for (int64_t j = 0; j < d; j += 4) {
        const float32x4_t h = vmulq_f32(qsi_load4(x + j, d - j), rstd);
        qsi_store4(y + j, vmulq_f32(h, qsi_load4(gain + j, d - j)), d - j);
    }
}

static void rmsnorm_grad(float *dx, const float *dy, const float *x, const float *gain, const float *addend, float *dgain,
                         int64_t d, float eps)
{
    const float32x4_t rstd = set4(inverse_rms(x, d, eps));
    float32x4_t s[4] = {set4(0.0f), set4(0.0f), set4(0.0f), set4(0.0f)};
    for (int64_t j = 0; j < d; j += 16) {
        UNROLL
        for (int q = 0; q < 4; q++) {
            const int64_t i = j + 4 * q, left = d - i;
            if (left <= 0)
                break;
            const float32x4_t t = vmulq_f32(qsi_load4(dy + i, left), qsi_load4(gain + i, left));
            s[q] = qsi_keep4(s[q], vfmaq_f32(s[q], t, vmulq_f32(qsi_load4(x + i, left), rstd)), left);
        }
    }
    const float32x4_t mean = set4(qsi_fold16_neon(s[0], s[1], s[2], s[3]) / (float)d);
    for (int64_t j = 0; j < d; j += 4) {
        const int64_t left = d - j;
        const float32x4_t g = qsi_load4(dy + j, left), h = vmulq_f32(qsi_load4(x + j, left), rstd);
        const float32x4_t centred = vsubq_f32(vmulq_f32(g, qsi_load4(gain + j, left)), vmulq_f32(h, mean));
        qsi_store4(dgain + j, vfmaq_f32(qsi_load4(dgain + j, left), g, h), left);
        qsi_store4(dx + j, addend ? vfmaq_f32(qsi_load4(addend + j, left), rstd, centred) : vmulq_f32(rstd, centred), left);
    }
}

static void rope(float *x, const float *cosine, const float *sine, float sign, int64_t half)
{
    for (int64_t j = 0; j < half; j += 4) {
        const int64_t left = half - j;
        const float32x4_t low = qsi_load4(x + j, left), high = qsi_load4(x + j + half, left);
        const float32x4_t c = qsi_load4(cosine + j, left), s = vmulq_f32(set4(sign), qsi_load4(sine + j, left));
        qsi_store4(x + j, vfmaq_f32(vnegq_f32(vmulq_f32(high, s)), low, c), left);
        qsi_store4(x + j + half, vfmaq_f32(vmulq_f32(low, s), high, c), left);
    }
}

static void swiglu(float *y, const float *gate, const float *up, int64_t n)
{
    for (int64_t i = 0; i < n; i += 4) {
        const float32x4_t g = qsi_load4(gate + i, n - i);
        const float32x4_t silu = vdivq_f32(g, vaddq_f32(set4(1.0f), qsi_exp4(vnegq_f32(g))));
        qsi_store4(y + i, vmulq_f32(silu, qsi_load4(up + i, n - i)), n - i);
    }
}

static void swiglu_grad(float *dgate, float *dup, const float *dy, const float *gate, const float *up, int64_t n)
{
    const float32x4_t one = set4(1.0f);
    for (int64_t i = 0; i < n; i += 4) {
        const int64_t left = n - i;
        const float32x4_t g = qsi_load4(gate + i, left), u = qsi_load4(up + i, left), d = qsi_load4(dy + i, left);
        const float32x4_t s = vdivq_f32(one, vaddq_f32(one, qsi_exp4(vnegq_f32(g))));
        const float32x4_t slope = vmulq_f32(s, vfmaq_f32(one, g, vsubq_f32(one, s)));
        qsi_store4(dup + i, vmulq_f32(d, vmulq_f32(g, s)), left);
        qsi_store4(dgate + i, vmulq_f32(vmulq_f32(d, u), slope), left);
    }
}

static void adamw(float *p, const float *g, float *m, float *v, int64_t n, float gscale, const qs_adamw *a)
{
    const float32x4_t rate1 = set4(1.0f - a->beta1), rate2 = set4(1.0f - a->beta2);
    const float32x4_t decay = set4(a->lr * a->weight_decay), lr = set4(a->lr), eps = set4(a->eps);
    const float32x4_t c1 = set4(a->c1), c2 = set4(a->c2), scale = set4(gscale);
    for (int64_t i = 0; i < n; i += 4) {
        const int64_t left = n - i;
        const float32x4_t q = vmulq_f32(qsi_load4(g + i, left), scale);
        float32x4_t mi = qsi_load4(m + i, left), vi = qsi_load4(v + i, left), pi = qsi_load4(p + i, left);
        mi = vfmaq_f32(mi, rate1, vsubq_f32(q, mi));
        vi = vfmaq_f32(vi, rate2, vfmaq_f32(vnegq_f32(vi), q, q));
        const float32x4_t root = vaddq_f32(vsqrtq_f32(vdivq_f32(vi, c2)), eps);
        const float32x4_t step = vdivq_f32(vdivq_f32(mi, c1), root);
        pi = vsubq_f32(vsubq_f32(pi, vmulq_f32(decay, pi)), vmulq_f32(lr, step));
        qsi_store4(m + i, mi, left);
        qsi_store4(v + i, vi, left);
        qsi_store4(p + i, pi, left);
    }
}

static void binarize(uint32_t *w, const float *latent, int64_t k)
{
    for (int64_t j = 0; j < k / 32; j++) {
        uint32_t word = 0;
        for (int q = 0; q < 8; q++)
            word |= qsi_bits_of(vcgeq_f32(vld1q_f32(latent + 32 * j + 4 * q), set4(0.0f))) << 4 * q;
        w[j] = word;
    }
}

static void bop(uint32_t *w, float *average, const float *G, int64_t k, float divisor, float gamma, float tau)
{
    const uint32x4_t some = vmvnq_u32(vceqq_f32(set4(divisor), set4(0.0f)));
    for (int64_t j = 0; j < k / 32; j++) {
        uint32_t flips = 0;
        for (int q = 0; q < 8; q++) {
            const int64_t i = 32 * j + 4 * q;
            const float32x4_t u = qsi_where4(some, vdivq_f32(vld1q_f32(G + i), set4(divisor)));
            float32x4_t a = vld1q_f32(average + i);
            a = vfmaq_f32(a, set4(gamma), vsubq_f32(u, a));
            vst1q_f32(average + i, a);
            flips |= qsi_bits_of(vcgtq_f32(qsi_signed4(a, qsi_lanes_of(w[j], 4 * q)), set4(tau))) << 4 * q;
        }
        w[j] ^= flips;
    }
}

void qsi_neon_vector(qsi_kernels *table)
{
    table->rmsnorm = rmsnorm;
    table->rmsnorm_grad = rmsnorm_grad;
    table->rope = rope;
    table->swiglu = swiglu;
    table->swiglu_grad = swiglu_grad;
    table->adamw = adamw;
    table->binarize = binarize;
    table->bop = bop;
}

#else
typedef int qsi_neon_vector_absent;
#endif
