/* avx512_fsm.c - pulses as masks, t2 as boolean algebra (8 words a step), c8 in 16 lanes, escape draws 8 counters at a time.
 *
 * The level chains stay with AVX2: the driver hands over 8 words at a time, one AVX2 register. */
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

AVX512 static void fsm_pulses(const float *G, int64_t k, float alpha, float threshold, const float *b, const uint32_t *w,
                              float row[16], float *col, float dot[16], uint32_t *up, uint32_t *down)
{
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
    }
    _mm512_storeu_ps(row, rows);
    _mm512_storeu_ps(dot, dots);
}

/* ---- t2 --------------------------------------------------------------------------------------------------------- */

/* 8 words or fewer in the low halves of 64-bit lanes, and back. */
AVX512_INLINE __m512i load_words(const uint32_t *p, int64_t left)
{
    return _mm512_cvtepu32_epi64(_mm256_maskz_loadu_epi32((__mmask8)qsi_mask16(left), p));
}

AVX512_INLINE void store_words(uint32_t *p, __m512i x, int64_t left)
{
    const __m256i words = _mm512_cvtepi64_epi32(x);
    if (left >= 8)
        _mm256_storeu_si256((__m256i *)(void *)p, words);
    else
        _mm256_mask_storeu_epi32(p, (__mmask8)qsi_mask16(left), words);
}

/* Truth tables of vpternlog: bit 4 a + 2 b + c of the number is f(a, b, c). */
enum {
    SELECT = 0xCA,         /* a ? b : c */
    OR_NOT_AND = 0xA2,     /* (a | ~b) & c */
    XOR_AND = 0x28,        /* (a ^ b) & c */
    XOR_XOR = 0x96,
    NOT_OR = 0xCF          /* ~a | b */
};

/* Bits of x under mask and those `shift` above change places. */
#define SWAP(x, shift, mask) do { \
        const __m512i t_ = _mm512_ternarylogic_epi64(_mm512_srli_epi64(x, shift), x, _mm512_set1_epi64(mask), XOR_AND); \
        x = _mm512_ternarylogic_epi64(x, t_, _mm512_slli_epi64(t_, shift), XOR_XOR); \
    } while (0)

/* deep: s = w, near: s = -w. Opposing pulses lead from deep to 0 to near to a flip with s = 0, supporting ones back. The
 * codes of a word fill a lane: even bits (s = +1) are gathered in its low half, odd ones (s = -1) in its high half. */
AVX512_INLINE __m512i t2_codes(__m512i x, __m512i weight, __m512i rise, __m512i fall, __m512i free_, __m512i *flip)
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
    const __m512i against = _mm512_ternarylogic_epi64(free_, deep, _mm512_ternarylogic_epi64(weight, fall, rise, SELECT),
                                                      OR_NOT_AND);
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

AVX512 static int64_t fsm_t2(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down,
                             const uint32_t *escape, int64_t n)
{
    (void)ld;
    int64_t flips = 0;
    for (int64_t i = 0; i < n; i += 8) {
        const int64_t left = n - i;
        const __mmask8 mask = (__mmask8)qsi_mask16(left);
        const __m512i weight = load_words(w + i, left);
        const __m512i free_ = escape ? load_words(escape + i, left) : _mm512_set1_epi64(UINT32_MAX);
        __m512i flip;
        const __m512i codes = t2_codes(_mm512_maskz_loadu_epi64(mask, state + 2 * i), weight, load_words(up + i, left),
                                       load_words(down + i, left), free_, &flip);
        if (left >= 8)
            _mm512_storeu_si512(state + 2 * i, codes);
        else
            _mm512_mask_storeu_epi64(state + 2 * i, mask, codes);
        store_words(w + i, _mm512_xor_si512(weight, flip), left);
        uint64_t flipped[8];
        _mm512_storeu_si512(flipped, flip);
        for (int j = 0; j < 8; j++)
            flips += _mm_popcnt_u64(flipped[j]);
    }
    return flips;
}

/* ---- c8 --------------------------------------------------------------------------------------------------------- */

/* 16 weights; returns the mask of those at level 0 or above, *moved the mask of those that stepped. */
AVX512_INLINE __mmask16 c8_16(int8_t *state, const float *G, __m512 alpha, __m512 a, const float *b, __m512 amplitude,
                              const uint16_t *random, __mmask16 *moved)
{
    const __m512 zero = _mm512_setzero_ps();
    const __m512 sigma = _mm512_mul_ps(a, _mm512_loadu_ps(b)), g = _mm512_mul_ps(alpha, _mm512_loadu_ps(G));
    __m512 s = _mm512_max_ps(qsi_set16(-4.0f), _mm512_div_ps(g, sigma));
    s = _mm512_mul_ps(_mm512_min_ps(qsi_set16(4.0f), s), amplitude);
    const __mmask16 moving = _mm512_cmp_ps_mask(sigma, zero, _CMP_GT_OQ);
    s = _mm512_maskz_mov_ps(_mm512_mask_cmp_ps_mask(moving, s, s, _CMP_ORD_Q), s);
    const __m512i draw = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)random));
    const __m512 part = _mm512_mul_ps(_mm512_cvtepi32_ps(draw), qsi_set16(0x1p-16f));
    const __m512 steps = _mm512_roundscale_ps(_mm512_add_ps(s, part), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    const __m512i old = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)state));
    __m512 level = _mm512_sub_ps(_mm512_cvtepi32_ps(old), steps);
    level = _mm512_min_ps(qsi_set16(127.0f), _mm512_max_ps(qsi_set16(-128.0f), level));
    const __m512i next = _mm512_cvttps_epi32(level);
    _mm_storeu_si128((__m128i *)(void *)state, _mm512_cvtepi32_epi8(next));
    *moved = _mm512_cmp_ps_mask(steps, zero, _CMP_NEQ_OQ);
    return (__mmask16)~_mm512_movepi32_mask(next);
}

AVX512 static int64_t fsm_c8(uint32_t *w, int8_t *state, const float *G, float alpha, float a, const float *b,
                             float amplitude, const uint16_t *random, int64_t n, int64_t *moved)
{
    const __m512 factor = qsi_set16(alpha), sigma = qsi_set16(a), size = qsi_set16(amplitude);
    int64_t flips = 0, steps_made = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t c = 32 * i;
        uint32_t word = 0, stepped = 0;
        for (int q = 0; q < 32; q += 16) {
            __mmask16 moved16;
            word |= (uint32_t)c8_16(state + c + q, G + c + q, factor, sigma, b + c + q, size, random + c + q, &moved16) << q;
            stepped |= (uint32_t)moved16 << q;
        }
        flips += _mm_popcnt_u32(w[i] ^ word);
        steps_made += _mm_popcnt_u32(stepped);
        w[i] = word;
    }
    *moved += steps_made;
    return flips;
}

/* ---- escape draws ----------------------------------------------------------------------------------------------- */

/* Philox4x32-10 of 8 counters, one in the low half of every 64-bit lane; high halves may be anything. */
AVX512_INLINE void philox8(__m512i v[4], uint64_t seed)
{
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    const __m512i first = _mm512_set1_epi64(0xD2511F53), second = _mm512_set1_epi64(0xCD9E8D57);
    UNROLL
    for (int round = 0; round < 10; round++) {
        const __m512i p0 = _mm512_mul_epu32(v[0], first), p1 = _mm512_mul_epu32(v[2], second);
        const __m512i k0 = _mm512_set1_epi32((int32_t)key0), k1 = _mm512_set1_epi32((int32_t)key1);
        v[0] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), v[1], k0, XOR_XOR);
        v[1] = p1;
        v[2] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), v[3], k1, XOR_XOR);
        v[3] = p0;
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
    }
}

/* "The number with bit q of plane q is below sticky", from the lowest bit up: number < bound if its bit is below the
 * bound's, or equal to it and the lower bits were below. */
AVX512 static void fsm_escape(uint32_t *escape, int64_t n, int sticky, uint64_t seed, uint32_t step, uint32_t tensor,
                              uint32_t row, uint32_t first_word)
{
    const __m512i even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
    for (int64_t i = 0; i < n; i += 8) {
        __m512i below = _mm512_setzero_si512();
        for (uint32_t half = 0; half < 2; half++) {
            const uint32_t index = 2 * (first_word + (uint32_t)i) + half;
            __m512i v[4] = {_mm512_set1_epi64(step),
                            _mm512_set1_epi64((uint32_t)QS_RANDOM_STICKY << 24 | (tensor & 0xFFFFFFu)),
                            _mm512_set1_epi64(row), _mm512_add_epi64(_mm512_set1_epi64(index), even)};
            philox8(v, seed);
            UNROLL
            for (uint32_t q = 0; q < 4; q++)
                below = sticky >> (4 * half + q) & 1
                            ? _mm512_ternarylogic_epi64(v[q], below, below, NOT_OR)
                            : _mm512_andnot_si512(v[q], below);
        }
        if (sticky >= 256)
            below = _mm512_set1_epi64(-1);
        store_words(escape + i, below, n - i);
    }
}

void qsi_avx512_fsm(qsi_kernels *table)
{
    table->fsm_pulses = fsm_pulses;
    table->fsm_t2 = fsm_t2;
    table->fsm_c8 = fsm_c8;
    table->fsm_escape = fsm_escape;
}

#else
typedef int qsi_avx512_fsm_absent;
#endif
