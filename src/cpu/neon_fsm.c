/* neon_fsm.c - pulses and state machines as boolean algebra: 128 weights a step for the chains, 32 for t2 (its codes are
 * split into planes by shifts), 4 for c8; random numbers from 4 counters at a time, where a weight may need them. */
#include "cpu/neon.h"
#include "qsbits/random.h"

#if QSI_HAVE_NEON

static int64_t fsm_pulses(const float *G, int64_t k, float alpha, float threshold, const float *b, const uint32_t *w,
                          float row[16], float *col, float dot[16], uint32_t *up, uint32_t *down)
{
    int64_t pulses = 0;
    const float32x4_t zero = vdupq_n_f32(0.0f);
    float32x4_t rows[4], dots[4];
    UNROLL
    for (int q = 0; q < 4; q++) {
        rows[q] = vld1q_f32(row + 4 * q);
        dots[q] = vld1q_f32(dot + 4 * q);
    }
    for (int64_t j = 0; j < k / 32; j++) {
        uint32_t ups = 0, downs = 0;
        UNROLL
        for (int q = 0; q < 8; q++) {
            const int64_t c = 32 * j + 4 * q;
            const float32x4_t raw = vld1q_f32(G + c), g = vmulq_f32(vdupq_n_f32(alpha), raw);
            rows[q % 4] = vfmaq_f32(rows[q % 4], g, g);
            vst1q_f32(col + c, vfmaq_f32(vld1q_f32(col + c), g, g));
            dots[q % 4] = vaddq_f32(dots[q % 4], qsi_signed4(raw, qsi_lanes_of(w[j], 4 * q)));
            if (up == NULL)
                continue;
            const float32x4_t t = vmulq_f32(vdupq_n_f32(threshold), vld1q_f32(b + c));
            const uint32x4_t pulsed = vandq_u32(vcgtq_f32(t, zero), vcgtq_f32(vabsq_f32(g), t));
            ups |= qsi_bits_of(vandq_u32(pulsed, vcltq_f32(g, zero))) << 4 * q;
            downs |= qsi_bits_of(vandq_u32(pulsed, vcgtq_f32(g, zero))) << 4 * q;
        }
        if (up != NULL) {
            up[j] = ups;
            down[j] = downs;
            pulses += __builtin_popcount(ups | downs);
        }
    }
    UNROLL
    for (int q = 0; q < 4; q++) {
        vst1q_f32(row + 4 * q, rows[q]);
        vst1q_f32(dot + 4 * q, dots[q]);
    }
    return pulses;
}

/* ---- random numbers --------------------------------------------------------------------------------------------- */

/* v * factor: the high words of the products; *v becomes the low ones. */
NEON_INLINE uint32x4_t multiply(uint32x4_t *v, uint32_t factor)
{
    const uint32x4_t low = vreinterpretq_u32_u64(vmull_n_u32(vget_low_u32(*v), factor));
    const uint32x4_t high = vreinterpretq_u32_u64(vmull_n_u32(vget_high_u32(*v), factor));
    *v = vuzp1q_u32(low, high);
    return vuzp2q_u32(low, high);
}

/* The draws of indices first, first + by, ...: Philox4x32-10 of 4 counters. */
NEON_INLINE void draw4(uint32x4_t v[4], qs_random_purpose purpose, const qsi_draws *d, uint32_t first, uint32_t by)
{
    static const uint32_t lanes[4] = {0, 1, 2, 3};
    uint32_t key0 = (uint32_t)d->seed, key1 = (uint32_t)(d->seed >> 32);
    v[0] = vdupq_n_u32(d->step);
    v[1] = vdupq_n_u32((uint32_t)purpose << 24 | (d->tensor & 0xFFFFFFu));
    v[2] = vdupq_n_u32(d->row);
    v[3] = vmlaq_n_u32(vdupq_n_u32(first), vld1q_u32(lanes), by);
    UNROLL
    for (int round = 0; round < 10; round++) {
        const uint32x4_t high0 = multiply(&v[0], 0xD2511F53), high1 = multiply(&v[2], 0xCD9E8D57);
        const uint32x4_t low0 = v[0];
        v[0] = veorq_u32(veorq_u32(high1, v[1]), vdupq_n_u32(key0));
        v[1] = v[2];
        v[2] = veorq_u32(veorq_u32(high0, v[3]), vdupq_n_u32(key1));
        v[3] = low0;
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
    }
}

/* Of the bits in asked (words i ..), those whose number is below sticky. The numbers are read from the highest bit down; their lower
 * halves are drawn only if some number equals sticky so far. */
NEON_INLINE uint32x4_t escapes4(uint32x4_t asked, int sticky, const qsi_draws *draws, int64_t i)
{
    const uint32_t index = 2 * (draws->word + (uint32_t)i);
    uint32x4_t equal = asked, below = vdupq_n_u32(0), v[4];
    for (int half = 1; half >= 0 && vmaxvq_u32(equal) != 0; half--) {
        draw4(v, QS_RANDOM_STICKY, draws, index + (uint32_t)half, 2);
        UNROLL
        for (int q = 3; q >= 0; q--) {
            const uint32x4_t less = vbicq_u32(equal, v[q]);
            if (sticky >> (4 * half + q) & 1) {
                below = vorrq_u32(below, less);
                equal = vandq_u32(equal, v[q]);
            } else
                equal = less;
        }
    }
    return below;
}

/* ---- machines --------------------------------------------------------------------------------------------------- */

/* The first `left` of 4 words, left > 0: loads give 0 elsewhere, stores leave the rest alone. */
NEON_INLINE uint32x4_t load_words(const uint32_t *p, int64_t left)
{
    if (left >= 4)
        return vld1q_u32(p);
    uint32_t part[4] = {p[0], left > 1 ? p[1] : 0, left > 2 ? p[2] : 0, 0};
    return vld1q_u32(part);
}

NEON_INLINE void store_words(uint32_t *p, uint32x4_t x, int64_t left)
{
    if (left >= 4) {
        vst1q_u32(p, x);
        return;
    }
    uint32_t part[4];
    vst1q_u32(part, x);
    memcpy(p, part, (size_t)left * sizeof *p);
}

/* Level chains: planes hold level - 1. A supporting pulse adds 1 unless all planes are set, an opposing one subtracts 1
 * or, at level 1, flips the weight and leaves the level. */
NEON_INLINE int64_t chain(const int planes, uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up,
                          const uint32_t *down, int64_t n, int sticky, const qsi_draws *draws)
{
    int64_t flips = 0;
    for (int64_t i = 0; i < n; i += 4) {
        const int64_t left = n - i;
        const uint32x4_t weight = load_words(w + i, left);
        const uint32x4_t rise = load_words(up + i, left), fall = load_words(down + i, left);
        uint32x4_t plane[4], deepest = vdupq_n_u32(UINT32_MAX), some = vdupq_n_u32(0);
        UNROLL
        for (int p = 0; p < planes; p++) {
            plane[p] = load_words(state + p * ld + i, left);
            deepest = vandq_u32(deepest, plane[p]);
            some = vorrq_u32(some, plane[p]);
        }
        uint32x4_t carry = vbicq_u32(vbslq_u32(weight, rise, fall), deepest), against = vbslq_u32(weight, fall, rise);
        if (sticky < 256)
            against = vorrq_u32(vbicq_u32(against, deepest), escapes4(vandq_u32(against, deepest), sticky, draws, i));
        const uint32x4_t flip = vbicq_u32(against, some);
        uint32x4_t borrow = vandq_u32(against, some);
        UNROLL
        for (int p = 0; p < planes; p++) {
            const uint32x4_t old = plane[p], change = vorrq_u32(carry, borrow);
            carry = vandq_u32(carry, old);
            borrow = vbicq_u32(borrow, old);
            store_words(state + p * ld + i, veorq_u32(old, change), left);
        }
        store_words(w + i, veorq_u32(weight, flip), left);
        flips += vaddlvq_u8(vcntq_u8(vreinterpretq_u8_u32(flip)));
    }
    return flips;
}

static int64_t fsm_c2(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down, int64_t n,
                      int sticky, const qsi_draws *draws)
{
    return chain(2, w, state, ld, up, down, n, sticky, draws);
}

static int64_t fsm_c4(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down, int64_t n,
                      int sticky, const qsi_draws *draws)
{
    return chain(4, w, state, ld, up, down, n, sticky, draws);
}

/* The even bits of x, side by side; and back. */
static uint32_t gather_bits(uint64_t x)
{
    x &= 0x5555555555555555u;
    x = (x | x >> 1) & 0x3333333333333333u;
    x = (x | x >> 2) & 0x0F0F0F0F0F0F0F0Fu;
    x = (x | x >> 4) & 0x00FF00FF00FF00FFu;
    x = (x | x >> 8) & 0x0000FFFF0000FFFFu;
    return (uint32_t)(x | x >> 16);
}

static uint64_t spread_bits(uint32_t word)
{
    uint64_t x = word;
    x = (x | x << 16) & 0x0000FFFF0000FFFFu;
    x = (x | x << 8) & 0x00FF00FF00FF00FFu;
    x = (x | x << 4) & 0x0F0F0F0F0F0F0F0Fu;
    x = (x | x << 2) & 0x3333333333333333u;
    return (x | x << 1) & 0x5555555555555555u;
}

/* deep: s = w, close: s = -w. Opposing pulses lead from deep to 0 to close to a flip with s = 0, supporting ones back. */
static int64_t fsm_t2(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down, int64_t n,
                      int sticky, const qsi_draws *draws)
{
    (void)ld;
    int64_t flips = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint64_t codes = (uint64_t)state[2 * i + 1] << 32 | state[2 * i];
        const uint32_t plus = gather_bits(codes), minus = gather_bits(codes >> 1), weight = w[i];
        const uint32_t deep = (plus & weight) | (minus & ~weight), close = (minus & weight) | (plus & ~weight);
        const uint32_t support = (up[i] & weight) | (down[i] & ~weight);
        uint32_t against = (down[i] & weight) | (up[i] & ~weight);
        if (sticky < 256) {
            const uint32x4_t leaving = vsetq_lane_u32(against & deep, vdupq_n_u32(0), 0);
            against = (against & ~deep) | vgetq_lane_u32(escapes4(leaving, sticky, draws, i), 0);
        }
        const uint32_t flip = against & close;
        const uint32_t deep_next = (deep & ~against) | (support & ~close);
        const uint32_t close_next = (close & ~support & ~against) | (against & ~deep & ~close);
        const uint64_t next = spread_bits((deep_next & weight) | (close_next & ~weight)) |
                              spread_bits((close_next & weight) | (deep_next & ~weight)) << 1;
        state[2 * i] = (uint32_t)next;
        state[2 * i + 1] = (uint32_t)(next >> 32);
        w[i] = weight ^ flip;
        flips += __builtin_popcount(flip);
    }
    return flips;
}

static int64_t fsm_c8(uint32_t *w, int8_t *state, const float *G, float alpha, float a, const float *b, float amplitude,
                      int64_t n, const qsi_draws *draws, uint32_t *moved, int64_t *moves)
{
    const float32x4_t zero = vdupq_n_f32(0.0f);
    int64_t flips = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t word = 0, stepped = 0;
        uint32x4_t v[4];
        uint16_t random[32];   /* the four words of a draw are 8 numbers */
        draw4(v, QS_RANDOM_ROUNDING, draws, 4 * (draws->word + (uint32_t)i), 1);
        const uint32x4x4_t numbers = {{v[0], v[1], v[2], v[3]}};
        vst4q_u32((uint32_t *)(void *)random, numbers);
        for (int q = 0; q < 8; q++) {
            const int64_t c = 32 * i + 4 * q;
            int8_t *level = state + c;
            const float32x4_t sigma = vmulq_f32(vdupq_n_f32(a), vld1q_f32(b + c));
            const float32x4_t g = vmulq_f32(vdupq_n_f32(alpha), vld1q_f32(G + c));
            float32x4_t s = vmaxq_f32(vdupq_n_f32(-4.0f), vdivq_f32(g, sigma));   /* NaN stays NaN */
            s = vmulq_f32(vminq_f32(vdupq_n_f32(4.0f), s), vdupq_n_f32(amplitude));
            s = qsi_where4(vandq_u32(vcgtq_f32(sigma, zero), vceqq_f32(s, s)), s);
            const float32x4_t part = vmulq_f32(vcvtq_f32_u32(vmovl_u16(vld1_u16(random + 4 * q))), vdupq_n_f32(0x1p-16f));
            const float32x4_t steps = vrndmq_f32(vaddq_f32(s, part));
            const int32_t old[4] = {level[0], level[1], level[2], level[3]};
            const float32x4_t moving = vsubq_f32(vcvtq_f32_s32(vld1q_s32(old)), steps);
            const int32x4_t next = vcvtq_s32_f32(vminq_f32(vdupq_n_f32(127.0f), vmaxq_f32(vdupq_n_f32(-128.0f), moving)));
            int32_t now[4];
            vst1q_s32(now, next);
            for (int t = 0; t < 4; t++)
                level[t] = (int8_t)now[t];
            word |= qsi_bits_of(vcgeq_s32(next, vdupq_n_s32(0))) << 4 * q;
            stepped |= qsi_bits_of(vmvnq_u32(vceqq_f32(steps, zero))) << 4 * q;
        }
        flips += __builtin_popcount(w[i] ^ word);
        *moves += __builtin_popcount(stepped);
        moved[i] = stepped;
        w[i] = word;
    }
    return flips;
}

void qsi_neon_fsm(qsi_kernels *table)
{
    table->fsm_pulses = fsm_pulses;
    table->fsm_c2 = fsm_c2;
    table->fsm_c4 = fsm_c4;
    table->fsm_t2 = fsm_t2;
    table->fsm_c8 = fsm_c8;
}

#else
typedef int qsi_neon_fsm_absent;
#endif
