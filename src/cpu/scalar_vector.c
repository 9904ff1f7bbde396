/* scalar_vector.c - reference of the kernels that run along one vector: norms, rope, SwiGLU, AdamW, binarize, bop. */
#include <math.h>
#include "cpu/expf.h"
#include "cpu/fold.h"
#include "cpu/scalar.h"

/* 1 / sqrt(mean of squares + eps). */
static float inverse_rms(const float *x, int64_t d, float eps)
{
    float s[16] = {0};
    for (int64_t j = 0; j < d; j++)
        s[j % 16] = fmaf(x[j], x[j], s[j % 16]);
    return 1.0f / sqrtf(qsi_fold16(s) / (float)d + eps);
}

static void rmsnorm(float *y, const float *x, const float *gain, int64_t d, float eps)
{
    const float rstd = inverse_rms(x, d, eps);
    for (int64_t j = 0; j < d; j++)
        y[j] = x[j] * rstd * gain[j];
}

static void rmsnorm_grad(float *dx, const float *dy, const float *x, const float *gain, const float *addend, float *dgain,
                         int64_t d, float eps)
{
    const float rstd = inverse_rms(x, d, eps);
    float s[16] = {0};
    for (int64_t j = 0; j < d; j++)
        s[j % 16] = fmaf(dy[j] * gain[j], x[j] * rstd, s[j % 16]);
    const float mean = qsi_fold16(s) / (float)d;
    for (int64_t j = 0; j < d; j++) {
        const float h = x[j] * rstd;
        const float centred = dy[j] * gain[j] - h * mean;
        dgain[j] = fmaf(dy[j], h, dgain[j]);
        dx[j] = addend ? fmaf(rstd, centred, addend[j]) : rstd * centred;
    }
}

static void rope(float *x, const float *cosine, const float *sine, float sign, int64_t half)
{
    for (int64_t j = 0; j < half; j++) {
        const float low = x[j], high = x[j + half], s = sign * sine[j];
        x[j] = fmaf(low, cosine[j], -(high * s));
        x[j + half] = fmaf(high, cosine[j], low * s);
    }
}

static void swiglu(float *y, const float *gate, const float *up, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = (gate[i] / (1.0f + qsi_expf(-gate[i]))) * up[i];
}

static void swiglu_grad(float *dgate, float *dup, const float *dy, const float *gate, const float *up, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const float g = gate[i], u = up[i], d = dy[i];
        const float s = 1.0f / (1.0f + qsi_expf(-g));
        dup[i] = d * (g * s);
        dgate[i] = (d * u) * (s * fmaf(g, 1.0f - s, 1.0f));
    }
}

static void adamw(float *p, const float *g, float *m, float *v, int64_t n, float gscale, const qs_adamw *a)
{
    const float rate1 = 1.0f - a->beta1, rate2 = 1.0f - a->beta2, decay = a->lr * a->weight_decay;
    for (int64_t i = 0; i < n; i++) {
        const float q = g[i] * gscale;
        m[i] = fmaf(rate1, q - m[i], m[i]);
        v[i] = fmaf(rate2, fmaf(q, q, -v[i]), v[i]);
        const float step = (m[i] / a->c1) / (sqrtf(v[i] / a->c2) + a->eps);
        p[i] = (p[i] - decay * p[i]) - a->lr * step;
    }
}

static void binarize(uint32_t *w, const float *latent, int64_t k)
{
    for (int64_t j = 0; j < k / 32; j++) {
        w[j] = 0;
        for (int bit = 0; bit < 32; bit++)
            w[j] |= (uint32_t)(latent[32 * j + bit] >= 0.0f) << bit;
    }
}

static void bop(uint32_t *w, float *average, const float *G, int64_t k, float divisor, float gamma, float tau)
{
    for (int64_t i = 0; i < k; i++) {
        const float u = divisor != 0.0f ? G[i] / divisor : 0.0f;
        average[i] = fmaf(gamma, u - average[i], average[i]);
        const float against = (w[i / 32] >> (i % 32) & 1) ? average[i] : -average[i];
        w[i / 32] ^= (uint32_t)(against > tau) << (i % 32);
    }
}

void qsi_scalar_vector(qsi_kernels *table)
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
