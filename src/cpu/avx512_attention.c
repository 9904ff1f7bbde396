/* avx512_attention.c - exponentials of a row, 16 lanes at a time. A maximum over lanes is the maximum in order, because NaN
 * never enters it (maxps keeps its second operand) and the sign of a zero is removed afterwards. */
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

AVX512_INLINE float largest_of(const float *x, int64_t n)
{
    __m512 a = qsi_set16(-INFINITY), b = a;
    int64_t j = 0;
    for (; n - j >= 32; j += 32) {
        a = _mm512_max_ps(_mm512_loadu_ps(x + j), a);
        b = _mm512_max_ps(_mm512_loadu_ps(x + j + 16), b);
    }
    for (; j < n; j += 16)
        a = qsi_keep16(a, _mm512_max_ps(qsi_load16(x + j, n - j), a), n - j);
    return largest_lane(_mm512_max_ps(a, b));
}

/* s + exp(x - peak) in the first `left` lanes. */
AVX512_INLINE __m512 add_exponentials(__m512 s, const float *x, __m512 peak, int64_t left)
{
    return qsi_keep16(s, _mm512_add_ps(s, qsi_exp16(_mm512_sub_ps(qsi_load16(x, left), peak))), left);
}

/* Stripes of exp(x - peak). */
AVX512_INLINE float exponential_sum(const float *x, int64_t n, __m512 peak)
{
    __m512 s = _mm512_setzero_ps();
    int64_t j = 0;
    for (; n - j >= 16; j += 16)
        s = add_exponentials(s, x + j, peak, 16);
    if (j < n)
        s = add_exponentials(s, x + j, peak, n - j);
    return qsi_fold16_avx512(s);
}

AVX512 static void softmax_stats(const float *logits, int64_t n, float *top, float *sum)
{
    for (int64_t j = 0; j < n; j += 1024) {
        const int64_t count = n - j < 1024 ? n - j : 1024;
        const float old = *top, largest = largest_of(logits + j, count);
        const float peak = (largest > old ? largest : old) + 0.0f;
        *sum = fmaf(*sum, qsi_expf(old - peak), exponential_sum(logits + j, count, qsi_set16(peak)));
        *top = peak;
    }
}

AVX512_INLINE void loss_grad16(float *logits, __m512 top, __m512 sum, __m512 factor, int64_t left)
{
    const __m512 e = qsi_exp16(_mm512_sub_ps(qsi_load16(logits, left), top));
    qsi_store16(logits, _mm512_mul_ps(_mm512_div_ps(e, sum), factor), left);
}

AVX512 static void cross_entropy_grad(float *logits, int64_t n, int64_t target, float top, float sum, float factor)
{
    const __m512 peak = qsi_set16(top), whole = qsi_set16(sum), times = qsi_set16(factor);
    const int known = target >= 0 && target < n;
    const float hit = known ? (qsi_expf(logits[target] - top) / sum - 1.0f) * factor : 0.0f;
    int64_t j = 0;
    for (; n - j >= 16; j += 16)
        loss_grad16(logits + j, peak, whole, times, 16);
    if (j < n)
        loss_grad16(logits + j, peak, whole, times, n - j);
    if (known)
        logits[target] = hit;
}

void qsi_avx512_attention(qsi_kernels *table)
{
    table->softmax_block = softmax_block;
    table->softmax_grad = softmax_grad;
    table->softmax_stats = softmax_stats;
    table->cross_entropy_grad = cross_entropy_grad;
}

#else
typedef int qsi_avx512_attention_absent;
#endif
