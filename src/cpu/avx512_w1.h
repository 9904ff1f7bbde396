/* avx512_w1.h - what the packed products share: tables of a group's 16 sums, the lookup step, words of rows as lanes.
 *
 * The 4 signs of a group choose one of 16 sums (+-x0 +- x1) + (+-x2 +- x3). The sums of one token are one register, the
 * codes of 16 outputs index it (vpermps reads the low 4 bits of a lane), so one permute and one addition serve 64 signed
 * products, and the sum of an output stays in its lane from the first group to the last: the defined order. */
#ifndef QSI_AVX512_W1_H
#define QSI_AVX512_W1_H

#include "cpu/avx512.h"

#if QSI_HAVE_AVX512

/* x, or x to bf16 and back: nearest even in the upper half, NaN stays NaN, made quiet. */
AVX512_INLINE __m512 qsi_rounded16(__m512 x, int bf16)
{
    if (!bf16)
        return x;
    const __m512i bits = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i near = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i all = _mm512_mask_or_epi32(near, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_castsi512_ps(_mm512_and_si512(all, _mm512_set1_epi32(-65536)));
}

/* table[g][16] of 4 groups, `step` floats apart: bit q of the entry's number set means +x[4 g + q]. Of a pair a, b only
 * a - b and a + b are computed; -(a + b) differs from -a - b in the sign of a zero alone, which cannot reach a sum that
 * starts at +0. */
AVX512_INLINE void qsi_tabulate(float *table, int64_t step, __m512 x)
{
    const __m512 one = qsi_set16(1.0f), sign = _mm512_castsi512_ps(_mm512_set4_epi32(0, INT32_MIN, 0, INT32_MIN));
    const __m512 signs = _mm512_setr_ps(-1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1);
    const __m512i spread = _mm512_setr_epi32(3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m512 pairs = _mm512_fmaddsub_ps(x, one, _mm512_permute_ps(x, 0xB1));   /* x0 - x1, x1 + x0, x2 - x3, x3 + x2 */
    const __m512 left = _mm512_xor_ps(_mm512_permute_ps(pairs, 0x41), sign);
#define ENTRIES(g) \
    do { \
        const __m512 right = _mm512_permutexvar_ps(_mm512_add_epi32(spread, _mm512_set1_epi32(4 * (g))), pairs); \
        const __m512 sum = _mm512_fmadd_ps(right, signs, _mm512_shuffle_f32x4(left, left, 0x55 * (g))); \
        _mm512_store_ps(table + (g) * step, sum); \
    } while (0)
    ENTRIES(0);
    ENTRIES(1);
    ENTRIES(2);
    ENTRIES(3);
#undef ENTRIES
}

/* Two blocks of one token: permute, permute, add, fma by 1 (the same value as an addition). In this order, and with
 * nothing between but loads, Zen 4 keeps all four units busy: two of them permute, two add, two multiply, and additions
 * alone would compete with the permutes. Compilers reorder it at 1.3 times the cost, hence the assembly. */
#define QSI_STEP(a, b, code_a, code_b, entries) \
    do { \
        __m512 a_ = s[a], b_ = s[b], p_, q_; \
        __asm__ volatile("vpermps %7, %4, %2\n\tvpermps %7, %5, %3\n\tvaddps %2, %0, %0\n\tvfmadd231ps %6, %3, %1" \
                         : "+v"(a_), "+v"(b_), "=&v"(p_), "=&v"(q_) \
                         : "v"(code_a), "v"(code_b), "v"(one), "v"(entries)); \
        s[a] = a_; \
        s[b] = b_; \
    } while (0)

/* Row i of 16 words or fewer rows, 4 words each, becomes lane i of to[0..3]. Rows and words beyond the counts are 0. */
AVX512_INLINE void qsi_load_rows(__m512i to[4], const uint32_t *w, int64_t ldw, int64_t rows, int64_t words)
{
    const __mmask8 mask = (__mmask8)_bzhi_u32(15, (uint32_t)words);
    __m512i r[4];
    UNROLL
    for (int j = 0; j < 4; j++) {
        r[j] = _mm512_setzero_si512();
        UNROLL
        for (int lane = 0; lane < 4; lane++)
            if (4 * lane + j < rows)
                r[j] = _mm512_mask_broadcast_i32x4(r[j], (__mmask16)(15 << 4 * lane),
                                                   _mm_maskz_loadu_epi32(mask, w + (4 * lane + j) * ldw));
    }
    const __m512i t0 = _mm512_unpacklo_epi32(r[0], r[1]), t1 = _mm512_unpackhi_epi32(r[0], r[1]);
    const __m512i t2 = _mm512_unpacklo_epi32(r[2], r[3]), t3 = _mm512_unpackhi_epi32(r[2], r[3]);
    to[0] = _mm512_unpacklo_epi64(t0, t2);
    to[1] = _mm512_unpackhi_epi64(t0, t2);
    to[2] = _mm512_unpacklo_epi64(t1, t3);
    to[3] = _mm512_unpackhi_epi64(t1, t3);
}

/* w1_forward for few tokens (avx512_w1_few.c). Returns 0, with nothing done, when the scratch is too small for k. */
int qsi_avx512_w1_few(float *y, int64_t ldy, const float *x, int64_t ldx, const uint32_t *w, int64_t ldw,
                      const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k,
                      int bf16, float *table);

#endif
#endif
