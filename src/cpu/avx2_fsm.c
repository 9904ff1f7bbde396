/* avx2_fsm.c - pulses and state machines as boolean algebra: 256 weights a step for the chains, 128 for t2 (its codes are
 * split into planes by exchanging bits), 8 for c8; random numbers from 4 counters at a time, where a weight may need them. Words past
 * a row's end are masked: all-zero pulses change nothing. */
#include <math.h>
#include "cpu/avx2.h"
#include "qsbits/random.h"

#if QSI_HAVE_AVX2

AVX2 static int64_t fsm_pulses(const float *G, int64_t k, float alpha, float threshold, const float *b, const uint32_t *w,
                               float row[16], float *col, float dot[16], uint32_t *up, uint32_t *down)
{
    int64_t pulses = 0;
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
            pulses += _mm_popcnt_u32(ups | downs);
        }
    }
    _mm256_storeu_ps(row, rows[0]);
    _mm256_storeu_ps(row + 8, rows[1]);
    _mm256_storeu_ps(dot, dots[0]);
    _mm256_storeu_ps(dot + 8, dots[1]);
    return pulses;
}

/* ---- random numbers --------------------------------------------------------------------------------------------- */

/* What Philox4x32-10 has for a row and a purpose: the counter and the keys of all rounds. */
typedef struct stream {
    uint32_t step, purpose, row, key0[10], key1[10];
} stream;

AVX2_INLINE stream stream_of(qs_random_purpose purpose, const qsi_draws *d)
{
    stream s = {d->step, (uint32_t)purpose << 24 | (d->tensor & 0xFFFFFFu), d->row, {0}, {0}};
    UNROLL16
    for (uint32_t round = 0; round < 10; round++) {
        s.key0[round] = (uint32_t)d->seed + round * 0x9E3779B9u;
        s.key1[round] = (uint32_t)(d->seed >> 32) + round * 0xBB67AE85u;
    }
    return s;
}

/* The draws of 4 indices first, first + by, ..., each word in the low half of a 64-bit lane; high halves may be anything. */
AVX2_INLINE void draw4(__m256i v[4], const stream *s, uint32_t first, uint32_t by)
{
    const __m256i factor0 = _mm256_set1_epi64x(0xD2511F53), factor1 = _mm256_set1_epi64x(0xCD9E8D57);
    v[0] = _mm256_set1_epi64x(s->step);
    v[1] = _mm256_set1_epi64x(s->purpose);
    v[2] = _mm256_set1_epi64x(s->row);
    v[3] = _mm256_setr_epi64x(first, first + by, first + 2 * by, first + 3 * by);
    UNROLL16
    for (int round = 0; round < 10; round++) {
        const __m256i p0 = _mm256_mul_epu32(v[0], factor0), p1 = _mm256_mul_epu32(v[2], factor1);
        const __m256i k0 = _mm256_set1_epi32((int32_t)s->key0[round]), k1 = _mm256_set1_epi32((int32_t)s->key1[round]);
        v[0] = _mm256_xor_si256(_mm256_srli_epi64(p1, 32), _mm256_xor_si256(v[1], k0));
        v[1] = p1;
        v[2] = _mm256_xor_si256(_mm256_srli_epi64(p0, 32), _mm256_xor_si256(v[3], k1));
        v[3] = p0;
    }
}

/* Of the bits in asked (words i .. in the low halves of lanes), those whose number is below sticky. The numbers are read from the
 * highest bit down; their lower halves are drawn only if some number equals sticky so far. Not inlined: the chains would prepare the
 * constants of draws that most calls need not make. */
__attribute__((noinline)) AVX2 static __m256i escapes4(__m256i asked, int sticky, const qsi_draws *draws, int64_t i)
{
    const stream s = stream_of(QS_RANDOM_STICKY, draws);
    const uint32_t index = 2 * (draws->word + (uint32_t)i);
    __m256i equal = asked, below = _mm256_setzero_si256(), v[4];
    for (int half = 1; half >= 0 && !_mm256_testz_si256(equal, equal); half--) {
        draw4(v, &s, index + (uint32_t)half, 2);
        UNROLL8
        for (int q = 3; q >= 0; q--) {
            const __m256i less = _mm256_andnot_si256(v[q], equal);
            if (sticky >> (4 * half + q) & 1) {
                below = _mm256_or_si256(below, less);
                equal = _mm256_and_si256(equal, v[q]);
            } else
                equal = less;
        }
    }
    return below;
}

/* ---- chains ----------------------------------------------------------------------------------------------------- */

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

/* Of the words in the lower halves of the lanes of low and high: words 0..3 and 4..7. */
AVX2_INLINE __m256i join_words(__m256i low, __m256i high)
{
    const __m256 pairs = _mm256_shuffle_ps(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high), 0x88);
    return _mm256_permute4x64_epi64(_mm256_castps_si256(pairs), 0xD8);
}

/* Level chains: planes hold level - 1. A supporting pulse adds 1 unless all planes are set, an opposing one subtracts 1 or,
 * at level 1, flips the weight and leaves the level. */
AVX2_INLINE int64_t chain(const int planes, uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up,
                          const uint32_t *down, int64_t n, int sticky, const qsi_draws *draws)
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
        if (sticky < 256 && !_mm256_testz_si256(against, deepest)) {
            const __m256i leaving = _mm256_and_si256(against, deepest);
            const __m256i low = escapes4(_mm256_cvtepu32_epi64(_mm256_castsi256_si128(leaving)), sticky, draws, i);
            const __m256i high = escapes4(_mm256_cvtepu32_epi64(_mm256_extracti128_si256(leaving, 1)), sticky, draws, i + 4);
            against = _mm256_or_si256(_mm256_andnot_si256(deepest, against), join_words(low, high));
        }
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

AVX2 static int64_t fsm_c2(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down, int64_t n,
                           int sticky, const qsi_draws *draws)
{
    return chain(2, w, state, ld, up, down, n, sticky, draws);
}

AVX2 static int64_t fsm_c4(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down, int64_t n,
                           int sticky, const qsi_draws *draws)
{
    return chain(4, w, state, ld, up, down, n, sticky, draws);
}

/* ---- t2 --------------------------------------------------------------------------------------------------------- */

/* Up to 4 words in the low halves of lanes, and back. */
AVX2_INLINE __m256i load_lanes(const uint32_t *p, int64_t left)
{
    return _mm256_cvtepu32_epi64(left >= 4 ? _mm_loadu_si128((const __m128i *)(const void *)p)
                                           : _mm256_castsi256_si128(qsi_words8(p, left)));
}

AVX2_INLINE void store_lanes(uint32_t *p, __m256i x, int64_t left)
{
    const __m256i words = join_words(x, x);
    if (left >= 4)
        _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(words));
    else
        store_words(p, words, left);
}

/* a ? b : c, bit by bit. */
AVX2_INLINE __m256i select_bits(__m256i a, __m256i b, __m256i c)
{
    return _mm256_or_si256(_mm256_and_si256(a, b), _mm256_andnot_si256(a, c));
}

/* Bits of x under mask and those `shift` above change places. */
#define SWAP(x, shift, mask) do { \
        const __m256i t_ = _mm256_and_si256(_mm256_xor_si256(_mm256_srli_epi64(x, shift), x), _mm256_set1_epi64x(mask)); \
        x = _mm256_xor_si256(_mm256_xor_si256(x, t_), _mm256_slli_epi64(t_, shift)); \
    } while (0)

/* deep: s = w, near: s = -w. Opposing pulses lead from deep to 0 to near to a flip with s = 0, supporting ones back. The
 * codes of a word fill a lane: even bits (s = +1) are gathered in its low half, odd ones (s = -1) in its high half. */
AVX2_INLINE __m256i t2_codes(__m256i x, __m256i weight, __m256i rise, __m256i fall, int sticky, const qsi_draws *draws, int64_t i,
                             __m256i *flip)
{
    SWAP(x, 1, 0x2222222222222222);
    SWAP(x, 2, 0x0C0C0C0C0C0C0C0C);
    SWAP(x, 4, 0x00F000F000F000F0);
    SWAP(x, 8, 0x0000FF000000FF00);
    SWAP(x, 16, 0x00000000FFFF0000);
    const __m256i minus = _mm256_srli_epi64(x, 32);
    const __m256i deep = select_bits(weight, x, minus), near = select_bits(weight, minus, x);
    const __m256i support = select_bits(weight, rise, fall);
    __m256i against = select_bits(weight, fall, rise);
    if (sticky < 256 && !_mm256_testz_si256(against, deep))
        against = _mm256_or_si256(_mm256_andnot_si256(deep, against),
                                  escapes4(_mm256_and_si256(against, deep), sticky, draws, i));
    const __m256i idle = _mm256_andnot_si256(support, near), moved = _mm256_andnot_si256(deep, against);
    const __m256i deep_next = _mm256_or_si256(_mm256_andnot_si256(against, deep), _mm256_andnot_si256(near, support));
    const __m256i near_next = _mm256_or_si256(_mm256_andnot_si256(against, idle), _mm256_andnot_si256(near, moved));
    const __m256i plus_next = select_bits(weight, deep_next, near_next);
    const __m256i minus_next = select_bits(weight, near_next, deep_next);
    *flip = _mm256_and_si256(against, near);
    x = _mm256_blend_epi32(_mm256_slli_epi64(minus_next, 32), plus_next, 0x55);
    SWAP(x, 16, 0x00000000FFFF0000);
    SWAP(x, 8, 0x0000FF000000FF00);
    SWAP(x, 4, 0x00F000F000F000F0);
    SWAP(x, 2, 0x0C0C0C0C0C0C0C0C);
    SWAP(x, 1, 0x2222222222222222);
    return x;
}

AVX2 static int64_t fsm_t2(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down, int64_t n,
                           int sticky, const qsi_draws *draws)
{
    (void)ld;
    int64_t flips = 0;
    for (int64_t i = 0; i < n; i += 4) {
        const int64_t left = n - i;
        const __m256i weight = load_lanes(w + i, left);
        __m256i flip;
        const __m256i codes = t2_codes(qsi_words8(state + 2 * i, 2 * left), weight, load_lanes(up + i, left),
                                       load_lanes(down + i, left), sticky, draws, i, &flip);
        store_words(state + 2 * i, codes, 2 * left);
        store_lanes(w + i, _mm256_xor_si256(weight, flip), left);
        flips += count_bits(flip);
    }
    return flips;
}

/* ---- c8 --------------------------------------------------------------------------------------------------------- */

/* What a call of c8 has in registers. limit: 4 * amplitude, but no more than any step that matters. */
typedef struct c8_factors {
    __m256 alpha, a, amplitude, limit;
} c8_factors;

/* The steps of 8 weights, within -257 and 257. clamp(g / sigma, -4, 4) * amplitude is the product clamped: rounding keeps order. */
AVX2_INLINE __m256i c8_steps(const float *G, const float *b, const c8_factors *f, __m128i random)
{
    const __m256 sigma = _mm256_mul_ps(f->a, _mm256_loadu_ps(b)), g = _mm256_mul_ps(f->alpha, _mm256_loadu_ps(G));
    const __m256 moving = _mm256_cmp_ps(sigma, _mm256_setzero_ps(), _CMP_GT_OQ);
    __m256 s = _mm256_mul_ps(_mm256_div_ps(g, sigma), f->amplitude);
    s = _mm256_min_ps(f->limit, _mm256_max_ps(_mm256_sub_ps(_mm256_setzero_ps(), f->limit), s));   /* NaN stays NaN */
    s = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(random)), qsi_set8(0x1p-16f), s);
    s = _mm256_and_ps(_mm256_floor_ps(s), _mm256_and_ps(moving, _mm256_cmp_ps(s, s, _CMP_ORD_Q)));
    return _mm256_cvttps_epi32(s);
}

/* Numbers of 16 bits for a word of weights: 8 in each half of *even (draws 0, 2) and *odd (1, 3). */
AVX2_INLINE void c8_random(__m256i *even, __m256i *odd, const stream *s, uint32_t index)
{
    __m256i v[4];
    draw4(v, s, index, 1);
    const __m256i low = _mm256_blend_epi32(_mm256_slli_epi64(v[1], 32), v[0], 0x55);
    const __m256i high = _mm256_blend_epi32(_mm256_slli_epi64(v[3], 32), v[2], 0x55);
    *even = _mm256_unpacklo_epi64(low, high);
    *odd = _mm256_unpackhi_epi64(low, high);
}

/* Levels of 16 weights after steps of 8 and 8, in 16 bits; *still: all ones where the step is 0. */
AVX2_INLINE __m256i c8_levels(const int8_t *state, __m256i steps0, __m256i steps1, __m256i *still)
{
    const __m256i steps = _mm256_permute4x64_epi64(_mm256_packs_epi32(steps0, steps1), 0xD8);
    const __m256i old = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)state));
    *still = _mm256_cmpeq_epi16(steps, _mm256_setzero_si256());
    return _mm256_sub_epi16(old, steps);
}

/* To 8 bits, saturated, in order. */
AVX2_INLINE __m256i to_bytes(__m256i low, __m256i high)
{
    return _mm256_permute4x64_epi64(_mm256_packs_epi16(low, high), 0xD8);
}

AVX2 static int64_t fsm_c8(uint32_t *w, int8_t *state, const float *G, float alpha, float a, const float *b, float amplitude,
                           int64_t n, const qsi_draws *draws, uint32_t *moved, int64_t *moves)
{
    const float most = fabsf(4.0f * amplitude);
    const c8_factors f = {qsi_set8(alpha), qsi_set8(a), qsi_set8(amplitude), qsi_set8(most < 256.0f ? most : 256.0f)};
    const stream s = stream_of(QS_RANDOM_ROUNDING, draws);
    int64_t flips = 0, count = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t c = 32 * i;
        __m256i even, odd, still0, still1;
        c8_random(&even, &odd, &s, 4 * (draws->word + (uint32_t)i));
        const __m256i steps0 = c8_steps(G + c, b + c, &f, _mm256_castsi256_si128(even));
        const __m256i steps1 = c8_steps(G + c + 8, b + c + 8, &f, _mm256_castsi256_si128(odd));
        const __m256i low = c8_levels(state + c, steps0, steps1, &still0);
        const __m256i steps2 = c8_steps(G + c + 16, b + c + 16, &f, _mm256_extracti128_si256(even, 1));
        const __m256i steps3 = c8_steps(G + c + 24, b + c + 24, &f, _mm256_extracti128_si256(odd, 1));
        const __m256i next = to_bytes(low, c8_levels(state + c + 16, steps2, steps3, &still1));
        const uint32_t old = w[i];
        _mm256_storeu_si256((__m256i *)(void *)(state + c), next);
        w[i] = ~(uint32_t)_mm256_movemask_epi8(next);
        moved[i] = ~(uint32_t)_mm256_movemask_epi8(to_bytes(still0, still1));
        flips += _mm_popcnt_u32(old ^ w[i]);
        count += _mm_popcnt_u32(moved[i]);
    }
    *moves += count;
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
