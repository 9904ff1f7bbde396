/* avx2_fsm.c - pulses and state machines as boolean algebra: 256 weights a step for the chains, 32 for t2 (its codes are
 * split into planes by pext), 8 for c8. Words past a row's end are masked: all-zero pulses change nothing. */
#include "cpu/avx2.h"

#if QSI_HAVE_AVX2

AVX2 static void fsm_pulses(const float *G, int64_t k, float alpha, float threshold, const float *b, const uint32_t *w,
                            float row[16], float *col, float dot[16], uint32_t *up, uint32_t *down)
{
    const __m256 sign = qsi_set8(-0.0f), zero = _mm256_setzero_ps();
    __m256 rows[2] = {_mm256_loadu_ps(row), _mm256_loadu_ps(row + 8)};
    __m256 dots[2] = {_mm256_loadu_ps(dot), _mm256_loadu_ps(dot + 8)};
    for (int64_t j = 0; j < k / 32; j++) {
        uint32_t ups = 0, downs = 0;
        UNROLL8
        for (int q = 0; q < 4; q++) {
            const int64_t c = 32 * j + 8 * q;
            const __m256 raw = _mm256_loadu_ps(G + c), g = _mm256_mul_ps(qsi_set8(alpha), raw);
            rows[q % 2] = _mm256_fmadd_ps(g, g, rows[q % 2]);
            _mm256_storeu_ps(col + c, _mm256_fmadd_ps(g, g, _mm256_loadu_ps(col + c)));
            dots[q % 2] = _mm256_add_ps(dots[q % 2], _mm256_xor_ps(raw, _mm256_andnot_ps(qsi_lanes_of(w[j], 8 * q), sign)));
            if (up == NULL)
                continue;
            const __m256 t = _mm256_mul_ps(qsi_set8(threshold), _mm256_loadu_ps(b + c));
            const __m256 pulsed = _mm256_and_ps(_mm256_cmp_ps(t, zero, _CMP_GT_OQ),
                                                _mm256_cmp_ps(_mm256_andnot_ps(sign, g), t, _CMP_GT_OQ));
            ups |= (uint32_t)_mm256_movemask_ps(_mm256_and_ps(pulsed, _mm256_cmp_ps(g, zero, _CMP_LT_OQ))) << 8 * q;
            downs |= (uint32_t)_mm256_movemask_ps(_mm256_and_ps(pulsed, _mm256_cmp_ps(g, zero, _CMP_GT_OQ))) << 8 * q;
        }
        if (up != NULL) {
            up[j] = ups;
            down[j] = downs;
        }
    }
    _mm256_storeu_ps(row, rows[0]);
    _mm256_storeu_ps(row + 8, rows[1]);
    _mm256_storeu_ps(dot, dots[0]);
    _mm256_storeu_ps(dot + 8, dots[1]);
}

AVX2_INLINE void store_words(uint32_t *p, __m256i x, int64_t left)
{
    if (left >= 8)
        _mm256_storeu_si256((__m256i *)p, x);
    else
        _mm256_maskstore_epi32((int *)p, qsi_mask8(left), x);
}

AVX2_INLINE int64_t count_bits(__m256i x)
{
    return _mm_popcnt_u64((uint64_t)_mm256_extract_epi64(x, 0)) + _mm_popcnt_u64((uint64_t)_mm256_extract_epi64(x, 1)) +
           _mm_popcnt_u64((uint64_t)_mm256_extract_epi64(x, 2)) + _mm_popcnt_u64((uint64_t)_mm256_extract_epi64(x, 3));
}

/* Level chains: planes hold level - 1. A supporting pulse adds 1 unless all planes are set, an opposing one subtracts 1 or,
 * at level 1, flips the weight and leaves the level. */
AVX2_INLINE int64_t chain(const int planes, uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up,
                          const uint32_t *down, const uint32_t *escape, int64_t n)
{
    int64_t flips = 0;
    for (int64_t i = 0; i < n; i += 8) {
        const int64_t left = n - i;
        const __m256i weight = qsi_words8(w + i, left), rise = qsi_words8(up + i, left), fall = qsi_words8(down + i, left);
        __m256i plane[4], deepest = _mm256_set1_epi32(-1), some = _mm256_setzero_si256();
        UNROLL8
        for (int p = 0; p < planes; p++) {
            plane[p] = qsi_words8(state + p * ld + i, left);
            deepest = _mm256_and_si256(deepest, plane[p]);
            some = _mm256_or_si256(some, plane[p]);
        }
        __m256i support = _mm256_or_si256(_mm256_and_si256(rise, weight), _mm256_andnot_si256(weight, fall));
        __m256i against = _mm256_or_si256(_mm256_and_si256(fall, weight), _mm256_andnot_si256(weight, rise));
        support = _mm256_andnot_si256(deepest, support);
        if (escape != NULL)
            against = _mm256_andnot_si256(_mm256_andnot_si256(qsi_words8(escape + i, left), deepest), against);
        const __m256i flip = _mm256_andnot_si256(some, against);
        __m256i carry = support, borrow = _mm256_and_si256(against, some);
        UNROLL8
        for (int p = 0; p < planes; p++) {
            const __m256i old = plane[p], change = _mm256_or_si256(carry, borrow);
            carry = _mm256_and_si256(carry, old);
            borrow = _mm256_andnot_si256(old, borrow);
            store_words(state + p * ld + i, _mm256_xor_si256(old, change), left);
        }
        store_words(w + i, _mm256_xor_si256(weight, flip), left);
        flips += count_bits(flip);
    }
    return flips;
}

AVX2 static int64_t fsm_c2(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down,
                           const uint32_t *escape, int64_t n)
{
    return chain(2, w, state, ld, up, down, escape, n);
}

AVX2 static int64_t fsm_c4(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down,
                           const uint32_t *escape, int64_t n)
{
    return chain(4, w, state, ld, up, down, escape, n);
}

/* deep: s = w, near: s = -w. Opposing pulses lead from deep to 0 to near to a flip with s = 0, supporting ones back. */
AVX2 static int64_t fsm_t2(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down,
                           const uint32_t *escape, int64_t n)
{
    (void)ld;
    const uint64_t even = 0x5555555555555555u;
    int64_t flips = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint64_t codes = (uint64_t)state[2 * i + 1] << 32 | state[2 * i];
        const uint32_t plus = (uint32_t)_pext_u64(codes, even), minus = (uint32_t)_pext_u64(codes, ~even);
        const uint32_t weight = w[i];
        const uint32_t deep = (plus & weight) | (minus & ~weight), near = (minus & weight) | (plus & ~weight);
        const uint32_t support = (up[i] & weight) | (down[i] & ~weight);
        const uint32_t against = ((down[i] & weight) | (up[i] & ~weight)) & (escape ? ~deep | escape[i] : UINT32_MAX);
        const uint32_t flip = against & near;
        const uint32_t deep_next = (deep & ~against) | (support & ~near);
        const uint32_t near_next = (near & ~support & ~against) | (against & ~deep & ~near);
        const uint64_t next = _pdep_u64((deep_next & weight) | (near_next & ~weight), even) |
                              _pdep_u64((near_next & weight) | (deep_next & ~weight), ~even);
        state[2 * i] = (uint32_t)next;
        state[2 * i + 1] = (uint32_t)(next >> 32);
        w[i] = weight ^ flip;
        flips += _mm_popcnt_u32(flip);
    }
    return flips;
}

AVX2 static int64_t fsm_c8(uint32_t *w, int8_t *state, const float *G, float alpha, float a, const float *b,
                           float amplitude, const uint16_t *random, int64_t n, int64_t *moved)
{
    const __m256 zero = _mm256_setzero_ps();
    int64_t flips = 0, steps_made = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t word = 0, stepped = 0;
        for (int q = 0; q < 4; q++) {
            const int64_t c = 32 * i + 8 * q;
            const __m256 sigma = _mm256_mul_ps(qsi_set8(a), _mm256_loadu_ps(b + c));
            const __m256 g = _mm256_mul_ps(qsi_set8(alpha), _mm256_loadu_ps(G + c));
            __m256 s = _mm256_max_ps(qsi_set8(-4.0f), _mm256_div_ps(g, sigma));
            s = _mm256_mul_ps(_mm256_min_ps(qsi_set8(4.0f), s), qsi_set8(amplitude));
            s = _mm256_and_ps(s, _mm256_and_ps(_mm256_cmp_ps(sigma, zero, _CMP_GT_OQ), _mm256_cmp_ps(s, s, _CMP_ORD_Q)));
            const __m256i draw = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(random + c)));
            const __m256 part = _mm256_mul_ps(_mm256_cvtepi32_ps(draw), qsi_set8(0x1p-16f));
            const __m256 steps = _mm256_floor_ps(_mm256_add_ps(s, part));
            const __m256i old = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(state + c)));
            __m256 level = _mm256_sub_ps(_mm256_cvtepi32_ps(old), steps);
            level = _mm256_min_ps(qsi_set8(127.0f), _mm256_max_ps(qsi_set8(-128.0f), level));
            const __m256i next = _mm256_cvttps_epi32(level);
            const __m128i pairs = _mm_packs_epi32(_mm256_castsi256_si128(next), _mm256_extracti128_si256(next, 1));
            _mm_storel_epi64((__m128i *)(void *)(state + c), _mm_packs_epi16(pairs, pairs));
            word |= (uint32_t)(~_mm256_movemask_ps(_mm256_castsi256_ps(next)) & 255) << 8 * q;
            stepped |= (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(steps, zero, _CMP_NEQ_OQ)) << 8 * q;
        }
        flips += _mm_popcnt_u32(w[i] ^ word);
        steps_made += _mm_popcnt_u32(stepped);
        w[i] = word;
    }
    *moved += steps_made;
    return flips;
}

void qsi_avx2_fsm(qsi_kernels *table)
{
    table->fsm_pulses = fsm_pulses;
    table->fsm_c2 = fsm_c2;
    table->fsm_c4 = fsm_c4;
    table->fsm_t2 = fsm_t2;
    table->fsm_c8 = fsm_c8;
}

#else
typedef int qsi_avx2_fsm_absent;
#endif
