/* avx2_attention.c - exponentials of a row, 8 lanes at a time. A maximum over lanes is the maximum in order, because NaN
 * never enters it (maxps keeps its second operand) and the sign of a zero is removed afterwards. */
#include "cpu/avx2.h"

#if QSI_HAVE_AVX2

AVX2_INLINE float largest_lane(__m256 x)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

AVX2 static float softmax_block(float *p, int64_t n, float scale, float *top, float *sum)
{
    if (n <= 0)
        return 1.0f;
    const float old = *top;
    __m256 lanes = qsi_set8(-INFINITY), s[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int64_t j = 0; j < n; j += 8) {
        const __m256 t = _mm256_mul_ps(qsi_load8(p + j, n - j), qsi_set8(scale));
        lanes = qsi_keep8(lanes, _mm256_max_ps(t, lanes), n - j);
        qsi_store8(p + j, t, n - j);
    }
    const float largest = largest_lane(lanes);
    const float peak = (largest > old ? largest : old) + 0.0f;
    for (int64_t j = 0; j < n; j += 16) {
        UNROLL8
        for (int q = 0; q < 2; q++) {
            const int64_t i = j + 8 * q;
            if (i >= n)
                break;
            const __m256 e = qsi_exp8(_mm256_sub_ps(qsi_load8(p + i, n - i), qsi_set8(peak)));
            s[q] = qsi_keep8(s[q], _mm256_add_ps(s[q], e), n - i);
            qsi_store8(p + i, e, n - i);
        }
    }
    const float factor = qsi_expf(old - peak);
    *top = peak;
    *sum = fmaf(*sum, factor, qsi_fold16_avx2(s[0], s[1]));
    return factor;
}

AVX2 static void softmax_grad(float *p, float *ds, const float *dp, int64_t n, float scale, float lse, float dot)
{
    const __m256 factor = qsi_set8(scale), shift = qsi_set8(lse), centre = qsi_set8(dot);
    for (int64_t j = 0; j < n; j += 8) {
        const int64_t left = n - j;
        const __m256 e = qsi_exp8(_mm256_sub_ps(_mm256_mul_ps(qsi_load8(p + j, left), factor), shift));
        const __m256 d = _mm256_mul_ps(e, _mm256_sub_ps(qsi_load8(dp + j, left), centre));
        qsi_store8(p + j, e, left);
        qsi_store8(ds + j, _mm256_mul_ps(d, factor), left);
    }
}

AVX2_INLINE float largest_of(const float *x, int64_t n)
{
    __m256 a = qsi_set8(-INFINITY), b = a;
    int64_t j = 0;
    for (; n - j >= 16; j += 16) {
        a = _mm256_max_ps(_mm256_loadu_ps(x + j), a);
        b = _mm256_max_ps(_mm256_loadu_ps(x + j + 8), b);
    }
    for (; j < n; j += 8)
        a = qsi_keep8(a, _mm256_max_ps(qsi_load8(x + j, n - j), a), n - j);
    return largest_lane(_mm256_max_ps(a, b));
}

/* s + exp(x - peak) in the first `left` lanes. */
AVX2_INLINE __m256 add_exponentials(__m256 s, const float *x, __m256 peak, int64_t left)
{
    return qsi_keep8(s, _mm256_add_ps(s, qsi_exp8(_mm256_sub_ps(qsi_load8(x, left), peak))), left);
}

/* Stripes of exp(x - peak). */
AVX2_INLINE float exponential_sum(const float *x, int64_t n, __m256 peak)
{
    __m256 low = _mm256_setzero_ps(), high = low;
    int64_t j = 0;
    for (; n - j >= 16; j += 16) {
        low = add_exponentials(low, x + j, peak, 8);
        high = add_exponentials(high, x + j + 8, peak, 8);
    }
    if (j < n)
        low = add_exponentials(low, x + j, peak, n - j);
    if (n - j > 8)
        high = add_exponentials(high, x + j + 8, peak, n - j - 8);
    return qsi_fold16_avx2(low, high);
}

AVX2 static void softmax_stats(const float *logits, int64_t n, float *top, float *sum)
{
    for (int64_t j = 0; j < n; j += 1024) {
        const int64_t count = n - j < 1024 ? n - j : 1024;
        const float old = *top, largest = largest_of(logits + j, count);
        const float peak = (largest > old ? largest : old) + 0.0f;
        *sum = fmaf(*sum, qsi_expf(old - peak), exponential_sum(logits + j, count, qsi_set8(peak)));
        *top = peak;
    }
}

AVX2_INLINE void loss_grad8(float *logits, __m256 top, __m256 sum, __m256 factor, int64_t left)
{
    const __m256 e = qsi_exp8(_mm256_sub_ps(qsi_load8(logits, left), top));
    qsi_store8(logits, _mm256_mul_ps(_mm256_div_ps(e, sum), factor), left);
}

AVX2 static void cross_entropy_grad(float *logits, int64_t n, int64_t target, float top, float sum, float factor)
{
    const __m256 peak = qsi_set8(top), whole = qsi_set8(sum), times = qsi_set8(factor);
    const int known = target >= 0 && target < n;
    const float hit = known ? (qsi_expf(logits[target] - top) / sum - 1.0f) * factor : 0.0f;
    int64_t j = 0;
    for (; n - j >= 8; j += 8)
        loss_grad8(logits + j, peak, whole, times, 8);
    if (j < n)
        loss_grad8(logits + j, peak, whole, times, n - j);
    if (known)
        logits[target] = hit;
}

void qsi_avx2_attention(qsi_kernels *table)
{
    table->softmax_block = softmax_block;
    table->softmax_grad = softmax_grad;
    table->softmax_stats = softmax_stats;
    table->cross_entropy_grad = cross_entropy_grad;
}

#else
typedef int qsi_avx2_attention_absent;
#endif
