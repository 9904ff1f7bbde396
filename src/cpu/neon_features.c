/* neon_features.c - activations and gradients to int8 and bf16 operands, 4 lanes at a time.
 *
 * Magnitudes are compared as integers: infinities and NaN are then the largest, so one maximum also says whether all is
 * finite. */
#include "cpu/bf16.h"
#include "cpu/neon.h"

#if QSI_HAVE_NEON

static const uint32_t first_not_finite = 0x7F800000u;

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* 127 / top, or 0 where all numbers become 0. */
static float quant_factor(uint32_t top)
{
    return top < first_not_finite && float_of(top) >= 0x1p-100f ? 127.0f / float_of(top) : 0.0f;
}

static float quant_scale(uint32_t top)
{
    return top >= first_not_finite ? NAN : float_of(top) >= 0x1p-100f ? float_of(top) / 127.0f : 0.0f;
}

NEON_INLINE float32x4_t row_values(const float *x, const uint16_t *scale, int64_t j, int64_t left)
{
    const float32x4_t t = qsi_load4(x + j, left);
    return scale ? vmulq_f32(qsi_halves4(scale + j, left), t) : t;
}

NEON_INLINE uint32x4_t magnitude(float32x4_t t) { return vreinterpretq_u32_f32(vabsq_f32(t)); }

static float i8_row(int8_t *q, const float *x, const uint16_t *scale, int64_t k)
{
    uint32x4_t lanes = vdupq_n_u32(0);
    for (int64_t j = 0; j < k; j += 4)
        lanes = vmaxq_u32(lanes, magnitude(row_values(x, scale, j, k - j)));
    const uint32_t top = vmaxvq_u32(lanes);
    const float32x4_t factor = vdupq_n_f32(quant_factor(top));
    for (int64_t j = 0; j < k; j += 4) {
        /* a NaN, with factor 0, converts to 0 */
        const int32x4_t t = vcvtnq_s32_f32(vmulq_f32(row_values(x, scale, j, k - j), factor));
        const int8x8_t narrow = vmovn_s16(vcombine_s16(vmovn_s32(t), vdup_n_s16(0)));
        int8_t part[8];
        vst1_s8(part, narrow);
        memcpy(q + j, part, (size_t)(k - j < 4 ? k - j : 4));
    }
    return quant_scale(top);
}

/* Tokens i .. of 4 features as int32 from -127 to 127; 0 beyond m. */
NEON_INLINE uint32x4_t quants(const float *x, int64_t ldx, int64_t i, int64_t m, int64_t left, float32x4_t factor)
{
    if (i >= m)
        return vdupq_n_u32(0);
    return vreinterpretq_u32_s32(vcvtnq_s32_f32(vmulq_f32(qsi_load4(x + i * ldx, left), factor)));
}

static void i8_features(int8_t *q, int64_t ldq, float *s, const float *x, int64_t ldx, int64_t m, int64_t n)
{
    for (int64_t j = 0; j < n; j += 4) {
        const int64_t left = n - j < 4 ? n - j : 4;
        uint32x4_t lanes = vdupq_n_u32(0);
        for (int64_t i = 0; i < m; i++)
            lanes = vmaxq_u32(lanes, magnitude(qsi_load4(x + i * ldx + j, left)));
        uint32_t top[4];
        float factors[4];
        vst1q_u32(top, lanes);
        for (int64_t c = 0; c < 4; c++) {
            factors[c] = quant_factor(top[c]);
            if (c < left)
                s[j + c] = quant_scale(top[c]);
        }
        const float32x4_t factor = vld1q_f32(factors);
        for (int64_t i = 0; i < m; i += 4) {   /* the low bytes of 4 tokens beside each other */
            uint32x4_t quad = vsliq_n_u32(quants(x + j, ldx, i + 2, m, left, factor),
                                          quants(x + j, ldx, i + 3, m, left, factor), 8);
            quad = vsliq_n_u32(quants(x + j, ldx, i + 1, m, left, factor), quad, 8);
            quad = vsliq_n_u32(quants(x + j, ldx, i, m, left, factor), quad, 8);
            qsi_store4((float *)(void *)(q + (i / 4 * ldq + j) * 4), vreinterpretq_f32_u32(quad), left);
        }
    }
}

static void bf16_features(uint16_t *q, int64_t ldq, const float *x, int64_t ldx, int64_t m, int64_t n)
{
    for (int64_t i = 0; i < m; i += 2)
        for (int64_t j = 0; j < n; j += 4) {
            const float32x4_t next = i + 1 < m ? qsi_load4(x + (i + 1) * ldx + j, n - j) : vdupq_n_f32(0.0f);
            const uint32x4_t pair = vsliq_n_u32(qsi_bf16_4(qsi_load4(x + i * ldx + j, n - j)), qsi_bf16_4(next), 16);
            qsi_store4((float *)(void *)(q + (i / 2 * ldq + j) * 2), vreinterpretq_f32_u32(pair), n - j);
        }
}

void qsi_neon_features(qsi_kernels *table)
{
    table->i8_row = i8_row;
    table->i8_features = i8_features;
    table->bf16_features = bf16_features;
}

#else
typedef int qsi_neon_features_absent;
#endif
