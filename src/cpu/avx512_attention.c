/* avx512_attention.c - exponentials of a row, 16 lanes at a time. A maximum over lanes is the maximum in order, because NaN
 * never enters it (maxps keeps its second operand) and the sign of a zero is removed afterwards. */
#include "core/detmath.h"
#include "cpu/avx512.h"

#if QSI_HAVE_AVX512

AVX512_INLINE float largest_lane(__m512 x)
{
    const __m256 m8 = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* A row of at most 64 stays in registers from the product to the exponentials. */
AVX512 static float softmax_block(float *p, int64_t n, float scale, float *top, float *sum)
{
    if (n <= 0)
        return 1.0f;
    const float old = *top;
    __m512 t[4], lanes = qsi_set16(-INFINITY), s = _mm512_setzero_ps();
    UNROLL
    for (int q = 0; q < 4; q++)
        if (16 * q < n) {
            t[q] = _mm512_mul_ps(qsi_load16(p + 16 * q, n - 16 * q), qsi_set16(scale));
            lanes = qsi_keep16(lanes, _mm512_max_ps(t[q], lanes), n - 16 * q);
        } else {
            t[q] = s;
        }
    const float largest = largest_lane(lanes);
    const float peak = (largest > old ? largest : old) + 0.0f;
    UNROLL
    for (int q = 0; q < 4; q++)
        if (16 * q < n) {
            const __m512 e = qsi_exp16(_mm512_sub_ps(t[q], qsi_set16(peak)));
            s = qsi_keep16(s, _mm512_add_ps(s, e), n - 16 * q);
            qsi_store16(p + 16 * q, e, n - 16 * q);
        }
    const float factor = qsi_expf(old - peak);
    *top = peak;
    *sum = fmaf(*sum, factor, qsi_fold16_avx512(s));
    return factor;
}

AVX512_INLINE void grad16(float *p, float *ds, const float *dp, __m512 scale, __m512 lse, __m512 dot, int64_t left)
{
    const __m512 e = qsi_exp16(_mm512_sub_ps(_mm512_mul_ps(qsi_load16(p, left), scale), lse));
    const __m512 d = _mm512_mul_ps(e, _mm512_sub_ps(qsi_load16(dp, left), dot));
    qsi_store16(p, e, left);
    qsi_store16(ds, _mm512_mul_ps(d, scale), left);
}

AVX512 static void softmax_grad(float *p, float *ds, const float *dp, int64_t n, float scale, float lse, float dot)
{
    const __m512 factor = qsi_set16(scale), shift = qsi_set16(lse), centre = qsi_set16(dot);
    int64_t j = 0;
    for (; n - j >= 16; j += 16)
        grad16(p + j, ds + j, dp + j, factor, shift, centre, 16);
    if (j < n)
        grad16(p + j, ds + j, dp + j, factor, shift, centre, n - j);
}

/* s += exp(logits - peak). If store, the exponentials replace the logits. */
AVX512_INLINE __m512 add_exponentials(__m512 s, float *logits, __m512 peak, int store, int64_t left)
{
    const __m512 e = qsi_exp16(_mm512_sub_ps(qsi_load16(logits, left), peak));
    if (store)
        qsi_store16(logits, e, left);
    return qsi_keep16(s, _mm512_add_ps(s, e), left);
}

/* The sum of one block of n <= 1024 symbols. */
AVX512_INLINE float exponential_sum(float *logits, int64_t n, __m512 peak, const int store)
{
    __m512 s = _mm512_setzero_ps();
    int64_t j = 0;
    for (; n - j >= 16; j += 16)
        s = add_exponentials(s, logits + j, peak, store, 16);
    if (j < n)
        s = add_exponentials(s, logits + j, peak, store, n - j);
    return qsi_fold16_avx512(s);
}

AVX512_INLINE float largest_of(const float *x, int64_t n)
{
    __m512 lanes = qsi_set16(-INFINITY);
    int64_t j = 0;
    for (; n - j >= 16; j += 16)
        lanes = _mm512_max_ps(_mm512_loadu_ps(x + j), lanes);
    if (j < n)
        lanes = qsi_keep16(lanes, _mm512_max_ps(qsi_load16(x + j, n - j), lanes), n - j);
    return largest_lane(lanes);
}

AVX512 static float cross_entropy(float *logits, int64_t n, int32_t target, float grad)
{
    const float chosen = logits[target], peak = largest_of(logits, n) + 0.0f;
    float z = 0.0f;
    for (int64_t j = 0; j < n; j += 1024) {
        const int64_t count = n - j < 1024 ? n - j : 1024;
        z = z + (grad != 0.0f ? exponential_sum(logits + j, count, qsi_set16(peak), 1)
                              : exponential_sum(logits + j, count, qsi_set16(peak), 0));
    }
    const double loss = qsi_log((double)z) + (double)peak - (double)chosen;
    if (grad == 0.0f)
        return (float)loss;
    const float hit = (logits[target] / z - 1.0f) * grad;
    for (int64_t j = 0; j < n; j += 16) {
        const __m512 share = _mm512_div_ps(qsi_load16(logits + j, n - j), qsi_set16(z));
        qsi_store16(logits + j, _mm512_mul_ps(share, qsi_set16(grad)), n - j);
    }
    logits[target] = hit;
    return (float)loss;
}

void qsi_avx512_attention(qsi_kernels *table)
{
    table->softmax_block = softmax_block;
    table->softmax_grad = softmax_grad;
    table->cross_entropy = cross_entropy;
}

#else
typedef int qsi_avx512_attention_absent;
#endif
