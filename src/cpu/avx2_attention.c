/* avx2_attention.c - exponentials of a row, 8 lanes at a time. A maximum over lanes is the maximum in order, because NaN
 * never enters it (maxps keeps its second operand) and the sign of a zero is removed afterwards. */
#include "core/detmath.h"
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

/* Sum of exp(logits - peak) over one block of n <= 1024 symbols. If store, the exponentials replace the logits. */
AVX2_INLINE float exponential_sum(float *logits, int64_t n, __m256 peak, int store)
{
    __m256 s[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int64_t j = 0; j < n; j += 16) {
        UNROLL8
        for (int q = 0; q < 2; q++) {
            const int64_t i = j + 8 * q;
            if (i >= n)
                break;
            const __m256 e = qsi_exp8(_mm256_sub_ps(qsi_load8(logits + i, n - i), peak));
            s[q] = qsi_keep8(s[q], _mm256_add_ps(s[q], e), n - i);
            if (store)
                qsi_store8(logits + i, e, n - i);
        }
    }
    return qsi_fold16_avx2(s[0], s[1]);
}

AVX2 static float cross_entropy(float *logits, int64_t n, int32_t target, float grad)
{
    const float chosen = logits[target];
    __m256 lanes = qsi_set8(-INFINITY);
    float z = 0.0f;
    for (int64_t j = 0; j < n; j += 8)
        lanes = qsi_keep8(lanes, _mm256_max_ps(qsi_load8(logits + j, n - j), lanes), n - j);
    const float peak = largest_lane(lanes) + 0.0f;
    for (int64_t j = 0; j < n; j += 1024)
        z = z + exponential_sum(logits + j, n - j < 1024 ? n - j : 1024, qsi_set8(peak), grad != 0.0f);
    const double loss = qsi_log((double)z) + (double)peak - (double)chosen;
    if (grad == 0.0f)
        return (float)loss;
    const float hit = (logits[target] / z - 1.0f) * grad;
    for (int64_t j = 0; j < n; j += 8) {
        const __m256 share = _mm256_div_ps(qsi_load8(logits + j, n - j), qsi_set8(z));
        qsi_store8(logits + j, _mm256_mul_ps(share, qsi_set8(grad)), n - j);
    }
    logits[target] = hit;
    return (float)loss;
}

void qsi_avx2_attention(qsi_kernels *table)
{
    table->softmax_block = softmax_block;
    table->softmax_grad = softmax_grad;
    table->cross_entropy = cross_entropy;
}

#else
typedef int qsi_avx2_attention_absent;
#endif
