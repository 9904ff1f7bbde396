/* avx2_vector.c - kernels along one vector, 8 lanes at a time; stripes 0..7 and 8..15 of a sum are two registers. */
#include "cpu/avx2.h"

#if QSI_HAVE_AVX2

AVX2_INLINE float inverse_rms(const float *x, int64_t d, float eps)
{
    __m256 low = _mm256_setzero_ps(), high = low;
    for (int64_t j = 0; j < d; j += 16) {
        const __m256 x0 = qsi_load8(x + j, d - j);
        low = qsi_keep8(low, _mm256_fmadd_ps(x0, x0, low), d - j);
        if (d - j > 8) {
            const __m256 x1 = qsi_load8(x + j + 8, d - j - 8);
            high = qsi_keep8(high, _mm256_fmadd_ps(x1, x1, high), d - j - 8);
        }
    }
    return 1.0f / sqrtf(qsi_fold16_avx2(low, high) / (float)d + eps);
}

AVX2 static void rmsnorm(float *y, const float *x, const float *gain, int64_t d, float eps)
{
    const __m256 rstd = qsi_set8(inverse_rms(x, d, eps));
    for (int64_t j = 0; j < d; j += 8) {
        const __m256 h = _mm256_mul_ps(qsi_load8(x + j, d - j), rstd);
        qsi_store8(y + j, _mm256_mul_ps(h, qsi_load8(gain + j, d - j)), d - j);
    }
}

AVX2 static void rmsnorm_grad(float *dx, const float *dy, const float *x, const float *gain, const float *addend,
                              float *dgain, int64_t d, float eps)
{
    const __m256 rstd = qsi_set8(inverse_rms(x, d, eps));
    __m256 s[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int64_t j = 0; j < d; j += 16) {
        UNROLL8
        for (int q = 0; q < 2; q++) {
            const int64_t i = j + 8 * q;
            if (i >= d)
                break;
            const __m256 t = _mm256_mul_ps(qsi_load8(dy + i, d - i), qsi_load8(gain + i, d - i));
            const __m256 h = _mm256_mul_ps(qsi_load8(x + i, d - i), rstd);
            s[q] = qsi_keep8(s[q], _mm256_fmadd_ps(t, h, s[q]), d - i);
        }
    }
    const __m256 mean = qsi_set8(qsi_fold16_avx2(s[0], s[1]) / (float)d);
    for (int64_t j = 0; j < d; j += 8) {
        const int64_t left = d - j;
        const __m256 g = qsi_load8(dy + j, left);
        const __m256 h = _mm256_mul_ps(qsi_load8(x + j, left), rstd);
        const __m256 t = _mm256_mul_ps(g, qsi_load8(gain + j, left));
        const __m256 centred = _mm256_sub_ps(t, _mm256_mul_ps(h, mean));
        qsi_store8(dgain + j, _mm256_fmadd_ps(g, h, qsi_load8(dgain + j, left)), left);
        if (addend != NULL)
            qsi_store8(dx + j, _mm256_fmadd_ps(rstd, centred, qsi_load8(addend + j, left)), left);
        else
            qsi_store8(dx + j, _mm256_mul_ps(rstd, centred), left);
    }
}

AVX2 static void rope(float *x, const float *cosine, const float *sine, float sign, int64_t half)
{
    for (int64_t j = 0; j < half; j += 8) {
        const int64_t left = half - j;
        const __m256 low = qsi_load8(x + j, left), high = qsi_load8(x + j + half, left);
        const __m256 c = qsi_load8(cosine + j, left);
        const __m256 s = _mm256_mul_ps(qsi_set8(sign), qsi_load8(sine + j, left));
        qsi_store8(x + j, _mm256_fmsub_ps(low, c, _mm256_mul_ps(high, s)), left);
        qsi_store8(x + j + half, _mm256_fmadd_ps(high, c, _mm256_mul_ps(low, s)), left);
    }
}

AVX2 static void swiglu(float *y, const float *gate, const float *up, int64_t n)
{
    const __m256 one = qsi_set8(1.0f);
    for (int64_t i = 0; i < n; i += 8) {
        const __m256 g = qsi_load8(gate + i, n - i);
        const __m256 silu = _mm256_div_ps(g, _mm256_add_ps(one, qsi_exp8(qsi_neg8(g))));
        qsi_store8(y + i, _mm256_mul_ps(silu, qsi_load8(up + i, n - i)), n - i);
    }
}

AVX2 static void swiglu_grad(float *dgate, float *dup, const float *dy, const float *gate, const float *up, int64_t n)
{
    const __m256 one = qsi_set8(1.0f);
    for (int64_t i = 0; i < n; i += 8) {
        const int64_t left = n - i;
        const __m256 g = qsi_load8(gate + i, left), u = qsi_load8(up + i, left), d = qsi_load8(dy + i, left);
        const __m256 s = _mm256_div_ps(one, _mm256_add_ps(one, qsi_exp8(qsi_neg8(g))));
        const __m256 slope = _mm256_mul_ps(s, _mm256_fmadd_ps(g, _mm256_sub_ps(one, s), one));
        qsi_store8(dup + i, _mm256_mul_ps(d, _mm256_mul_ps(g, s)), left);
        qsi_store8(dgate + i, _mm256_mul_ps(_mm256_mul_ps(d, u), slope), left);
    }
}

AVX2 static void adamw(float *p, const float *g, float *m, float *v, int64_t n, float gscale, const qs_adamw *a)
{
    const __m256 rate1 = qsi_set8(1.0f - a->beta1), rate2 = qsi_set8(1.0f - a->beta2);
    const __m256 decay = qsi_set8(a->lr * a->weight_decay), lr = qsi_set8(a->lr), eps = qsi_set8(a->eps);
    const __m256 c1 = qsi_set8(a->c1), c2 = qsi_set8(a->c2), scale = qsi_set8(gscale);
    for (int64_t i = 0; i < n; i += 8) {
        const int64_t left = n - i;
        const __m256 q = _mm256_mul_ps(qsi_load8(g + i, left), scale);
        __m256 mi = qsi_load8(m + i, left), vi = qsi_load8(v + i, left), pi = qsi_load8(p + i, left);
        mi = _mm256_fmadd_ps(rate1, _mm256_sub_ps(q, mi), mi);
        vi = _mm256_fmadd_ps(rate2, _mm256_fmsub_ps(q, q, vi), vi);
        const __m256 root = _mm256_add_ps(_mm256_sqrt_ps(_mm256_div_ps(vi, c2)), eps);
        const __m256 step = _mm256_div_ps(_mm256_div_ps(mi, c1), root);
        pi = _mm256_sub_ps(_mm256_sub_ps(pi, _mm256_mul_ps(decay, pi)), _mm256_mul_ps(lr, step));
        qsi_store8(m + i, mi, left);
        qsi_store8(v + i, vi, left);
        qsi_store8(p + i, pi, left);
    }
}

AVX2 static void binarize(uint32_t *w, const float *latent, int64_t k)
{
    const __m256 zero = _mm256_setzero_ps();
    for (int64_t j = 0; j < k / 32; j++) {
        uint32_t word = 0;
        for (int q = 0; q < 4; q++) {
            const __m256 x = _mm256_loadu_ps(latent + 32 * j + 8 * q);
            word |= (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x, zero, _CMP_GE_OQ)) << 8 * q;
        }
        w[j] = word;
    }
}

AVX2 static void bop(uint32_t *w, float *average, const float *G, int64_t k, float divisor, float gamma, float tau)
{
    const __m256 sign = qsi_set8(-0.0f), some = _mm256_cmp_ps(qsi_set8(divisor), _mm256_setzero_ps(), _CMP_NEQ_UQ);
    for (int64_t j = 0; j < k / 32; j++) {
        uint32_t flips = 0;
        for (int q = 0; q < 4; q++) {
            const int64_t i = 32 * j + 8 * q;
            const __m256 u = _mm256_and_ps(some, _mm256_div_ps(_mm256_loadu_ps(G + i), qsi_set8(divisor)));
            __m256 a = _mm256_loadu_ps(average + i);
            a = _mm256_fmadd_ps(qsi_set8(gamma), _mm256_sub_ps(u, a), a);
            _mm256_storeu_ps(average + i, a);
            const __m256 against = _mm256_xor_ps(a, _mm256_andnot_ps(qsi_lanes_of(w[j], 8 * q), sign));
            flips |= (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(against, qsi_set8(tau), _CMP_GT_OQ)) << 8 * q;
        }
        w[j] ^= flips;
    }
}

void qsi_avx2_vector(qsi_kernels *table)
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
typedef int qsi_avx2_vector_absent;
#endif
