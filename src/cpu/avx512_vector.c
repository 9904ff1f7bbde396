/* avx512_vector.c - kernels along one vector, 16 lanes at a time; the 16 stripes of a sum are one register.
 *
 * What is done to 16 elements is an inline function of how many of them exist: the loop calls it with the constant 16, for
 * which its masks vanish, and the end of the vector with what is left.
 * adamw stays with AVX2: it waits for the divider, which is as fast in 8 lanes. */
#include "cpu/avx512.h"

#if QSI_HAVE_AVX512

AVX512_INLINE float inverse_rms(const float *x, int64_t d, float eps)
{
    __m512 s = _mm512_setzero_ps();
    int64_t j = 0;
    for (; d - j >= 16; j += 16) {
        const __m512 v = _mm512_loadu_ps(x + j);
        s = _mm512_fmadd_ps(v, v, s);
    }
    if (j < d) {
        const __m512 v = qsi_load16(x + j, d - j);
        s = qsi_keep16(s, _mm512_fmadd_ps(v, v, s), d - j);
    }
    return 1.0f / sqrtf(qsi_fold16_avx512(s) / (float)d + eps);
}

AVX512_INLINE void normalize(float *y, const float *x, const float *gain, __m512 rstd, int64_t left)
{
    qsi_store16(y, _mm512_mul_ps(_mm512_mul_ps(qsi_load16(x, left), rstd), qsi_load16(gain, left)), left);
}

AVX512 static void rmsnorm(float *y, const float *x, const float *gain, int64_t d, float eps)
{
    const __m512 rstd = qsi_set16(inverse_rms(x, d, eps));
    int64_t j = 0;
    for (; d - j >= 16; j += 16)
        normalize(y + j, x + j, gain + j, rstd, 16);
    if (j < d)
        normalize(y + j, x + j, gain + j, rstd, d - j);
}

AVX512_INLINE __m512 add_product(__m512 s, const float *dy, const float *x, const float *gain, __m512 rstd, int64_t left)
{
    const __m512 t = _mm512_mul_ps(qsi_load16(dy, left), qsi_load16(gain, left));
    return qsi_keep16(s, _mm512_fmadd_ps(t, _mm512_mul_ps(qsi_load16(x, left), rstd), s), left);
}

AVX512_INLINE void normalize_grad(float *dx, const float *dy, const float *x, const float *gain, const float *addend,
                                  float *dgain, __m512 rstd, __m512 mean, int64_t left)
{
    const __m512 g = qsi_load16(dy, left), h = _mm512_mul_ps(qsi_load16(x, left), rstd);
    const __m512 t = _mm512_mul_ps(g, qsi_load16(gain, left)), centred = _mm512_sub_ps(t, _mm512_mul_ps(h, mean));
    const __m512 out = addend ? _mm512_fmadd_ps(rstd, centred, qsi_load16(addend, left)) : _mm512_mul_ps(rstd, centred);
    qsi_store16(dgain, _mm512_fmadd_ps(g, h, qsi_load16(dgain, left)), left);
    qsi_store16(dx, out, left);
}

AVX512 static void rmsnorm_grad(float *dx, const float *dy, const float *x, const float *gain, const float *addend,
                                float *dgain, int64_t d, float eps)
{
    const __m512 rstd = qsi_set16(inverse_rms(x, d, eps));
    __m512 s = _mm512_setzero_ps();
    int64_t j = 0;
    for (; d - j >= 16; j += 16)
        s = add_product(s, dy + j, x + j, gain + j, rstd, 16);
    if (j < d)
        s = add_product(s, dy + j, x + j, gain + j, rstd, d - j);
    const __m512 mean = qsi_set16(qsi_fold16_avx512(s) / (float)d);
    for (j = 0; d - j >= 16; j += 16)
        normalize_grad(dx + j, dy + j, x + j, gain + j, addend ? addend + j : NULL, dgain + j, rstd, mean, 16);
    if (j < d)
        normalize_grad(dx + j, dy + j, x + j, gain + j, addend ? addend + j : NULL, dgain + j, rstd, mean, d - j);
}

AVX512_INLINE void turn(float *x, float *y, const float *cosine, const float *sine, __m512 sign, int64_t left)
{
    const __m512 low = qsi_load16(x, left), high = qsi_load16(y, left);
    const __m512 c = qsi_load16(cosine, left), s = _mm512_mul_ps(sign, qsi_load16(sine, left));
    qsi_store16(x, _mm512_fmsub_ps(low, c, _mm512_mul_ps(high, s)), left);
    qsi_store16(y, _mm512_fmadd_ps(high, c, _mm512_mul_ps(low, s)), left);
}

AVX512 static void rope(float *x, const float *cosine, const float *sine, float sign, int64_t half)
{
    int64_t j = 0;
    for (; half - j >= 16; j += 16)
        turn(x + j, x + half + j, cosine + j, sine + j, qsi_set16(sign), 16);
    if (j < half)
        turn(x + j, x + half + j, cosine + j, sine + j, qsi_set16(sign), half - j);
}

AVX512_INLINE void gate16(float *y, const float *gate, const float *up, int64_t left)
{
    const __m512 g = qsi_load16(gate, left);
    const __m512 silu = _mm512_div_ps(g, _mm512_add_ps(qsi_set16(1.0f), qsi_exp16(qsi_neg16(g))));
    qsi_store16(y, _mm512_mul_ps(silu, qsi_load16(up, left)), left);
}

AVX512 static void swiglu(float *y, const float *gate, const float *up, int64_t n)
{
    int64_t i = 0;
    for (; n - i >= 16; i += 16)
        gate16(y + i, gate + i, up + i, 16);
    if (i < n)
        gate16(y + i, gate + i, up + i, n - i);
}

AVX512_INLINE void gate_grad16(float *dgate, float *dup, const float *dy, const float *gate, const float *up, int64_t left)
{
    const __m512 one = qsi_set16(1.0f);
    const __m512 g = qsi_load16(gate, left), u = qsi_load16(up, left), d = qsi_load16(dy, left);
    const __m512 s = _mm512_div_ps(one, _mm512_add_ps(one, qsi_exp16(qsi_neg16(g))));
    const __m512 slope = _mm512_mul_ps(s, _mm512_fmadd_ps(g, _mm512_sub_ps(one, s), one));
    qsi_store16(dup, _mm512_mul_ps(d, _mm512_mul_ps(g, s)), left);
    qsi_store16(dgate, _mm512_mul_ps(_mm512_mul_ps(d, u), slope), left);
}

AVX512 static void swiglu_grad(float *dgate, float *dup, const float *dy, const float *gate, const float *up, int64_t n)
{
    int64_t i = 0;
    for (; n - i >= 16; i += 16)
        gate_grad16(dgate + i, dup + i, dy + i, gate + i, up + i, 16);
    if (i < n)
        gate_grad16(dgate + i, dup + i, dy + i, gate + i, up + i, n - i);
}

AVX512 static void binarize(uint32_t *w, const float *latent, int64_t k)
{
    const __m512 zero = _mm512_setzero_ps();
    for (int64_t j = 0; j < k / 32; j++) {
        const __mmask16 low = _mm512_cmp_ps_mask(_mm512_loadu_ps(latent + 32 * j), zero, _CMP_GE_OQ);
        const __mmask16 high = _mm512_cmp_ps_mask(_mm512_loadu_ps(latent + 32 * j + 16), zero, _CMP_GE_OQ);
        w[j] = (uint32_t)high << 16 | low;
    }
}

/* The mask of 16 weights that are inverted. */
AVX512_INLINE __mmask16 bop16(float *average, const float *G, uint32_t w, __m512 divisor, __m512 gamma, __m512 tau)
{
    const __mmask16 some = _mm512_cmp_ps_mask(divisor, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    const __m512 u = _mm512_maskz_div_ps(some, _mm512_loadu_ps(G), divisor);
    __m512 a = _mm512_loadu_ps(average);
    a = _mm512_fmadd_ps(gamma, _mm512_sub_ps(u, a), a);
    _mm512_storeu_ps(average, a);
    return _mm512_cmp_ps_mask(_mm512_mask_xor_ps(a, (__mmask16)~w, a, qsi_set16(-0.0f)), tau, _CMP_GT_OQ);
}

AVX512 static void bop(uint32_t *w, float *average, const float *G, int64_t k, float divisor, float gamma, float tau)
{
    const __m512 by = qsi_set16(divisor), share = qsi_set16(gamma), limit = qsi_set16(tau);
    for (int64_t j = 0; j < k / 32; j++) {
        const __mmask16 low = bop16(average + 32 * j, G + 32 * j, w[j], by, share, limit);
        const __mmask16 high = bop16(average + 32 * j + 16, G + 32 * j + 16, w[j] >> 16, by, share, limit);
        w[j] ^= (uint32_t)high << 16 | low;
    }
}

void qsi_avx512_vector(qsi_kernels *table)
{
    table->rmsnorm = rmsnorm;
    table->rmsnorm_grad = rmsnorm_grad;
    table->rope = rope;
    table->swiglu = swiglu;
    table->swiglu_grad = swiglu_grad;
    table->binarize = binarize;
    table->bop = bop;
}

#else
typedef int qsi_avx512_vector_absent;
#endif
