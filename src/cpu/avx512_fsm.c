/* avx512_fsm.c - pulses as masks, machines as boolean algebra (8 words a step), c8 in 16 lanes, random numbers from 8 counters
 * at a time, where a weight may need them.
 *
 * A part of a row is 8 words in most calls: the chains hold it in one register of 256 bits, t2 and the draws in one of 512. */
#include <math.h>
#include "cpu/avx512.h"
#include "qsbits/random.h"

#if QSI_HAVE_AVX512

/* ---- pulses ----------------------------------------------------------------------------------------------------- */

/* Statistics of 16 elements whose weights are the low bits of w; with b, the masks of elements pushed up and down. */
AVX512_INLINE void pulses16(const float *G, __m512 alpha, __m512 threshold, const float *b, uint32_t w, __m512 *row,
                            float *col, __m512 *dot, __mmask16 *up, __mmask16 *down)
{
    const __m512 sign = qsi_set16(-0.0f), zero = _mm512_setzero_ps();
    const __m512 raw = _mm512_loadu_ps(G), g = _mm512_mul_ps(alpha, raw);
    *row = _mm512_fmadd_ps(g, g, *row);
    *dot = _mm512_add_ps(*dot, _mm512_mask_xor_ps(raw, (__mmask16)~w, raw, sign));
    _mm512_storeu_ps(col, _mm512_fmadd_ps(g, g, _mm512_loadu_ps(col)));
    if (b == NULL)
        return;
    const __m512 t = _mm512_mul_ps(threshold, _mm512_loadu_ps(b));
    const __mmask16 positive = _mm512_cmp_ps_mask(t, zero, _CMP_GT_OQ);
    const __mmask16 pulsed = _mm512_mask_cmp_ps_mask(positive, _mm512_abs_ps(g), t, _CMP_GT_OQ);
    *up = _mm512_mask_cmp_ps_mask(pulsed, g, zero, _CMP_LT_OQ);
    *down = _mm512_mask_cmp_ps_mask(pulsed, g, zero, _CMP_GT_OQ);
}

AVX512 static int64_t fsm_pulses(const float *G, int64_t k, float alpha, float threshold, const float *b, const uint32_t *w,
                                 float row[16], float *col, float dot[16], uint32_t *up, uint32_t *down)
{
    int64_t pulses = 0;
    const __m512 a = qsi_set16(alpha), level = qsi_set16(threshold);
    __m512 rows = _mm512_loadu_ps(row), dots = _mm512_loadu_ps(dot);
    for (int64_t j = 0; j < k / 32; j++) {
        const int64_t c = 32 * j;
        __mmask16 ups[2] = {0, 0}, downs[2] = {0, 0};
        if (up == NULL) {
            pulses16(G + c, a, level, NULL, w[j], &rows, col + c, &dots, NULL, NULL);
            pulses16(G + c + 16, a, level, NULL, w[j] >> 16, &rows, col + c + 16, &dots, NULL, NULL);
            continue;
        }
        pulses16(G + c, a, level, b + c, w[j], &rows, col + c, &dots, &ups[0], &downs[0]);
        pulses16(G + c + 16, a, level, b + c + 16, w[j] >> 16, &rows, col + c + 16, &dots, &ups[1], &downs[1]);
        up[j] = (uint32_t)ups[1] << 16 | ups[0];
        down[j] = (uint32_t)downs[1] << 16 | downs[0];
        pulses += _mm_popcnt_u32(up[j] | down[j]);
    }
    _mm512_storeu_ps(row, rows);
    _mm512_storeu_ps(dot, dots);
    return pulses;
}

/* Truth tables of vpternlog: bit 4 a + 2 b + c of the number is f(a, b, c). */
enum {
    SELECT = 0xCA,         /* a ? b : c */
    AND_NOT_OR = 0xF2,     /* a | (~b & c) */
    XOR_AND = 0x28,        /* (a ^ b) & c */
    XOR_XOR = 0x96
};

/* ---- random numbers --------------------------------------------------------------------------------------------- */

/* What Philox4x32-10 has for a row and a purpose: the counter and the keys of all rounds. */
typedef struct stream {
    uint32_t step, purpose, row, key0[10], key1[10];
} stream;

AVX512_INLINE stream stream_of(qs_random_purpose purpose, const qsi_draws *d)
{
    stream s = {d->step, (uint32_t)purpose << 24 | (d->tensor & 0xFFFFFFu), d->row, {0}, {0}};
    UNROLL
    for (uint32_t round = 0; round < 10; round++) {
        s.key0[round] = (uint32_t)d->seed + round * 0x9E3779B9u;
        s.key1[round] = (uint32_t)(d->seed >> 32) + round * 0xBB67AE85u;
    }
    return s;
}

/* The draws of 8 indices first, first + by, ..., each word in the low half of a 64-bit lane; high halves may be anything. */
AVX512_INLINE void draw8(__m512i v[4], const stream *s, uint32_t first, uint32_t by)
{
    const __m512i factor0 = _mm512_set1_epi64(0xD2511F53), factor1 = _mm512_set1_epi64(0xCD9E8D57);
    const __m512i lanes = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
    v[0] = _mm512_set1_epi64(s->step);
    v[1] = _mm512_set1_epi64(s->purpose);
    v[2] = _mm512_set1_epi64(s->row);
    v[3] = _mm512_add_epi64(_mm512_set1_epi64(first), _mm512_mullo_epi32(_mm512_set1_epi64(by), lanes));
    UNROLL
    for (int round = 0; round < 10; round++) {
        const __m512i p0 = _mm512_mul_epu32(v[0], factor0), p1 = _mm512_mul_epu32(v[2], factor1);
        const __m512i k0 = _mm512_set1_epi32((int32_t)s->key0[round]), k1 = _mm512_set1_epi32((int32_t)s->key1[round]);
        v[0] = _mm512_ternarylogic_epi32(_mm512_srli_epi64(p1, 32), v[1], k0, XOR_XOR);
        v[1] = p1;
        v[2] = _mm512_ternarylogic_epi32(_mm512_srli_epi64(p0, 32), v[3], k1, XOR_XOR);
        v[3] = p0;
    }
}

/* Of the bits in asked (words i .. in the low halves of lanes), those whose number is below sticky. The numbers are read from the
 * highest bit down; their lower halves are drawn only if some number equals sticky so far. Not inlined: the chains would prepare the
 * constants of draws that most calls need not make. */
__attribute__((noinline)) AVX512 static __m512i escapes8(__m512i asked, int sticky, const qsi_draws *draws, int64_t i)
{
    const stream s = stream_of(QS_RANDOM_STICKY, draws);
    const uint32_t index = 2 * (draws->word + (uint32_t)i);
    __m512i equal = asked, below = _mm512_setzero_si512(), v[4];
    for (int half = 1; half >= 0 && _mm512_test_epi64_mask(equal, equal) != 0; half--) {
        draw8(v, &s, index + (uint32_t)half, 2);
        UNROLL
        for (int q = 3; q >= 0; q--) {
            if (sticky >> (4 * half + q) & 1) {
                below = _mm512_ternarylogic_epi64(below, v[q], equal, AND_NOT_OR);
                equal = _mm512_and_si512(equal, v[q]);
            } else
                equal = _mm512_andnot_si512(v[q], equal);
        }
    }
    return below;
}

/* ---- chains ----------------------------------------------------------------------------------------------------- */

/* The first `left` of 8 words, or all: loads give 0 elsewhere, stores leave the rest alone. */
AVX512_INLINE __m256i load_words(const uint32_t *p, int64_t left)
{
    return _mm256_maskz_loadu_epi32((__mmask8)qsi_mask16(left), p);
}
AVX512_INLINE void store_words(uint32_t *p, __m256i x, int64_t left)
{
    _mm256_mask_storeu_epi32(p, (__mmask8)qsi_mask16(left), x);
}

AVX512_INLINE int64_t count_bits(__m256i x)
{
    return _mm_popcnt_u64((uint64_t)_mm256_extract_epi64(x, 0)) + _mm_popcnt_u64((uint64_t)_mm256_extract_epi64(x, 1)) +
           _mm_popcnt_u64((uint64_t)_mm256_extract_epi64(x, 2)) + _mm_popcnt_u64((uint64_t)_mm256_extract_epi64(x, 3));
}

/* Planes hold level - 1. A supporting pulse adds 1 unless all planes are set, an opposing one subtracts 1 or, at level 1, flips the
 * weight and leaves the level. */
AVX512_INLINE int64_t chain(const int planes, uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down,
                            int64_t n, int sticky, const qsi_draws *draws)
{
    int64_t flips = 0;
    for (int64_t i = 0; i < n; i += 8) {
        const int64_t left = n - i;
        const __m256i weight = load_words(w + i, left), rise = load_words(up + i, left), fall = load_words(down + i, left);
        __m256i plane[4], deepest = _mm256_set1_epi32(-1), some = _mm256_setzero_si256();
        UNROLL
        for (int p = 0; p < planes; p++) {
            plane[p] = load_words(state + p * ld + i, left);
            deepest = _mm256_and_si256(deepest, plane[p]);
            some = _mm256_or_si256(some, plane[p]);
        }
        __m256i carry = _mm256_andnot_si256(deepest, _mm256_ternarylogic_epi32(weight, rise, fall, SELECT));
        __m256i against = _mm256_ternarylogic_epi32(weight, fall, rise, SELECT);
        const __m256i leaving = _mm256_and_si256(against, deepest);
        if (sticky < 256 && !_mm256_testz_si256(leaving, leaving)) {
            const __m512i free_ = escapes8(_mm512_cvtepu32_epi64(leaving), sticky, draws, i);
            against = _mm256_or_si256(_mm256_andnot_si256(deepest, against), _mm512_cvtepi64_epi32(free_));
        }
        const __m256i flip = _mm256_andnot_si256(some, against);
        __m256i borrow = _mm256_and_si256(against, some);
        UNROLL
        for (int p = 0; p < planes; p++) {
            const __m256i old = plane[p];
            store_words(state + p * ld + i, _mm256_ternarylogic_epi32(old, carry, borrow, XOR_XOR), left);
            carry = _mm256_and_si256(carry, old);
            borrow = _mm256_andnot_si256(old, borrow);
        }
        store_words(w + i, _mm256_xor_si256(weight, flip), left);
        flips += count_bits(flip);
    }
    return flips;
}

AVX512 static int64_t fsm_c2(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down, int64_t n,
                             int sticky, const qsi_draws *draws)
{
    return chain(2, w, state, ld, up, down, n, sticky, draws);
}

AVX512 static int64_t fsm_c4(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down, int64_t n,
                             int sticky, const qsi_draws *draws)
{
    return chain(4, w, state, ld, up, down, n, sticky, draws);
}

/* ---- t2 --------------------------------------------------------------------------------------------------------- */

/* Bits of x under mask and those `shift` above change places. */
#define SWAP(x, shift, mask) do { \
        const __m512i t_ = _mm512_ternarylogic_epi64(_mm512_srli_epi64(x, shift), x, _mm512_set1_epi64(mask), XOR_AND); \
        x = _mm512_ternarylogic_epi64(x, t_, _mm512_slli_epi64(t_, shift), XOR_XOR); \
    } while (0)

/* Words in the low halves of 64-bit lanes. */
AVX512_INLINE __m512i load_lanes(const uint32_t *p, int64_t left) { return _mm512_cvtepu32_epi64(load_words(p, left)); }

/* deep: s = w, near: s = -w. Opposing pulses lead from deep to 0 to near to a flip with s = 0, supporting ones back. The
 * codes of a word fill a lane: even bits (s = +1) are gathered in its low half, odd ones (s = -1) in its high half. */
AVX512_INLINE __m512i t2_codes(__m512i x, __m512i weight, __m512i rise, __m512i fall, int sticky, const qsi_draws *draws, int64_t i,
                               __m512i *flip)
{
    SWAP(x, 1, 0x2222222222222222);
    SWAP(x, 2, 0x0C0C0C0C0C0C0C0C);
    SWAP(x, 4, 0x00F000F000F000F0);
    SWAP(x, 8, 0x0000FF000000FF00);
    SWAP(x, 16, 0x00000000FFFF0000);
    const __m512i minus = _mm512_srli_epi64(x, 32);
    const __m512i deep = _mm512_ternarylogic_epi64(weight, x, minus, SELECT);
    const __m512i near = _mm512_ternarylogic_epi64(weight, minus, x, SELECT);
    const __m512i support = _mm512_ternarylogic_epi64(weight, rise, fall, SELECT);
    __m512i against = _mm512_ternarylogic_epi64(weight, fall, rise, SELECT);
    const __m512i leaving = _mm512_and_si512(against, deep);
    if (sticky < 256 && _mm512_test_epi64_mask(leaving, leaving) != 0)
        against = _mm512_ternarylogic_epi64(escapes8(leaving, sticky, draws, i), deep, against, AND_NOT_OR);
    const __m512i idle = _mm512_andnot_si512(support, near), moved = _mm512_andnot_si512(deep, against);
    const __m512i deep_next = _mm512_or_si512(_mm512_andnot_si512(against, deep), _mm512_andnot_si512(near, support));
    const __m512i near_next = _mm512_or_si512(_mm512_andnot_si512(against, idle), _mm512_andnot_si512(near, moved));
    const __m512i plus_next = _mm512_ternarylogic_epi64(weight, deep_next, near_next, SELECT);
    const __m512i minus_next = _mm512_ternarylogic_epi64(weight, near_next, deep_next, SELECT);
    *flip = _mm512_and_si512(against, near);
    x = _mm512_mask_mov_epi32(_mm512_slli_epi64(minus_next, 32), 0x5555, plus_next);
    SWAP(x, 16, 0x00000000FFFF0000);
    SWAP(x, 8, 0x0000FF000000FF00);
    SWAP(x, 4, 0x00F000F000F000F0);
    SWAP(x, 2, 0x0C0C0C0C0C0C0C0C);
    SWAP(x, 1, 0x2222222222222222);
    return x;
}

AVX512 static int64_t fsm_t2(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down, int64_t n,
                             int sticky, const qsi_draws *draws)
{
    (void)ld;
    int64_t flips = 0;
    for (int64_t i = 0; i < n; i += 8) {
        const int64_t left = n - i;
        const __mmask8 mask = (__mmask8)qsi_mask16(left);
        const __m512i weight = load_lanes(w + i, left);
        __m512i flip;
        const __m512i codes = t2_codes(_mm512_maskz_loadu_epi64(mask, state + 2 * i), weight, load_lanes(up + i, left),
                                       load_lanes(down + i, left), sticky, draws, i, &flip);
        _mm512_mask_storeu_epi64(state + 2 * i, mask, codes);
        store_words(w + i, _mm512_cvtepi64_epi32(_mm512_xor_si512(weight, flip)), left);
        flips += count_bits(_mm512_cvtepi64_epi32(flip));
    }
    return flips;
}

/* ---- c8 --------------------------------------------------------------------------------------------------------- */

/* What a call of c8 has in registers. limit: 4 * amplitude, but no more than any step that matters. */
typedef struct c8_factors {
    __m512 alpha, a, amplitude, limit;
} c8_factors;

/* The steps of 16 weights, within -257 and 257. clamp(g / sigma, -4, 4) * amplitude is the product clamped: rounding keeps order. */
AVX512_INLINE __m256i c8_steps(const float *G, const float *b, const c8_factors *f, __m256i random)
{
    const __m512 sigma = _mm512_mul_ps(f->a, _mm512_loadu_ps(b)), g = _mm512_mul_ps(f->alpha, _mm512_loadu_ps(G));
    const __mmask16 moving = _mm512_cmp_ps_mask(sigma, _mm512_setzero_ps(), _CMP_GT_OQ);
    __m512 s = _mm512_mul_ps(_mm512_div_ps(g, sigma), f->amplitude);
    s = _mm512_min_ps(f->limit, _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), f->limit), s));   /* NaN stays NaN */
    s = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(random)), qsi_set16(0x1p-16f), s);
    s = _mm512_maskz_roundscale_ps(_mm512_mask_cmp_ps_mask(moving, s, s, _CMP_ORD_Q), s,
                                   _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    return _mm512_cvtepi32_epi16(_mm512_cvttps_epi32(s));
}

/* One word; the mask of weights that stepped goes to *moved, their number is added to *moves. Returns flips. */
AVX512_INLINE int64_t c8_word(uint32_t *w, int8_t *state, const float *G, const float *b, const c8_factors *f, __m512i random,
                              uint32_t *moved, int64_t *moves)
{
    const __m256i low = c8_steps(G, b, f, _mm512_castsi512_si256(random));
    const __m256i high = c8_steps(G + 16, b + 16, f, _mm512_extracti64x4_epi64(random, 1));
    const __m512i steps = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    const __m512i old = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)state));
    const __m256i next = _mm512_cvtsepi16_epi8(_mm512_sub_epi16(old, steps));
    const uint32_t word = *w;
    _mm256_storeu_si256((__m256i *)(void *)state, next);
    *w = ~(uint32_t)_mm256_movepi8_mask(next);
    *moved = _mm512_test_epi16_mask(steps, steps);
    *moves += _mm_popcnt_u32(*moved);
    return _mm_popcnt_u32(word ^ *w);
}

/* Numbers of 16 bits for two words of weights, 8 from each of 8 draws. */
AVX512_INLINE void c8_random(__m512i *first, __m512i *second, const stream *s, uint32_t index)
{
    __m512i v[4];
    draw8(v, s, index, 1);
    const __m512i even = _mm512_mask_mov_epi32(_mm512_slli_epi64(v[1], 32), 0x5555, v[0]);
    const __m512i odd = _mm512_mask_mov_epi32(_mm512_slli_epi64(v[3], 32), 0x5555, v[2]);
    *first = _mm512_permutex2var_epi64(even, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), odd);
    *second = _mm512_permutex2var_epi64(even, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), odd);
}

AVX512 static int64_t fsm_c8(uint32_t *w, int8_t *state, const float *G, float alpha, float a, const float *b, float amplitude,
                             int64_t n, const qsi_draws *draws, uint32_t *moved, int64_t *moves)
{
    const float most = fabsf(4.0f * amplitude);
    const c8_factors f = {qsi_set16(alpha), qsi_set16(a), qsi_set16(amplitude), qsi_set16(most < 256.0f ? most : 256.0f)};
    const stream s = stream_of(QS_RANDOM_ROUNDING, draws);
    int64_t flips = 0, count = 0;
    for (int64_t i = 0; i < n; i += 2) {
        const int64_t c = 32 * i;
        __m512i first, second;
        c8_random(&first, &second, &s, 4 * (draws->word + (uint32_t)i));
        flips += c8_word(&w[i], state + c, G + c, b + c, &f, first, &moved[i], &count);
        if (i + 1 < n)
            flips += c8_word(&w[i + 1], state + c + 32, G + c + 32, b + c + 32, &f, second, &moved[i + 1], &count);
    }
    *moves += count;
    return flips;
}

void qsi_avx512_fsm(qsi_kernels *table)
{
    table->fsm_pulses = fsm_pulses;
    table->fsm_c2 = fsm_c2;
    table->fsm_c4 = fsm_c4;
    table->fsm_t2 = fsm_t2;
    table->fsm_c8 = fsm_c8;
}

#else
typedef int qsi_avx512_fsm_absent;
#endif
