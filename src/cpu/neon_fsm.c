/* neon_fsm.c - pulses and state machines as boolean algebra: 128 weights a step for the chains, 32 for t2 (its codes are
 * split into planes by shifts), 4 for c8. */
#include "cpu/neon.h"

#if QSI_HAVE_NEON

static void fsm_pulses(const float *G, int64_t k, float alpha, float threshold, const float *b, const uint32_t *w,
                       float row[16], float *col, float dot[16], uint32_t *up, uint32_t *down)
{
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
        }
    }
    UNROLL
    for (int q = 0; q < 4; q++) {
        vst1q_f32(row + 4 * q, rows[q]);
        vst1q_f32(dot + 4 * q, dots[q]);
    }
}

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
                          const uint32_t *down, const uint32_t *escape, int64_t n)
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
        if (escape != NULL)
            against = vbicq_u32(against, vbicq_u32(deepest, load_words(escape + i, left)));
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

static int64_t fsm_c2(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down,
                      const uint32_t *escape, int64_t n)
{
    return chain(2, w, state, ld, up, down, escape, n);
}

static int64_t fsm_c4(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down,
                      const uint32_t *escape, int64_t n)
{
    return chain(4, w, state, ld, up, down, escape, n);
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
static int64_t fsm_t2(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down,
                      const uint32_t *escape, int64_t n)
{
    (void)ld;
    int64_t flips = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint64_t codes = (uint64_t)state[2 * i + 1] << 32 | state[2 * i];
        const uint32_t plus = gather_bits(codes), minus = gather_bits(codes >> 1), weight = w[i];
        const uint32_t deep = (plus & weight) | (minus & ~weight), close = (minus & weight) | (plus & ~weight);
        const uint32_t support = (up[i] & weight) | (down[i] & ~weight);
        const uint32_t against = ((down[i] & weight) | (up[i] & ~weight)) & (escape ? ~deep | escape[i] : UINT32_MAX);
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
                      const uint16_t *random, int64_t n, int64_t *moved)
{
    const float32x4_t zero = vdupq_n_f32(0.0f);
    int64_t flips = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t word = 0, stepped = 0;
        for (int q = 0; q < 8; q++) {
            const int64_t c = 32 * i + 4 * q;
            int8_t *level = state + c;
            const float32x4_t sigma = vmulq_f32(vdupq_n_f32(a), vld1q_f32(b + c));
            const float32x4_t g = vmulq_f32(vdupq_n_f32(alpha), vld1q_f32(G + c));
            float32x4_t s = vmaxq_f32(vdupq_n_f32(-4.0f), vdivq_f32(g, sigma));   /* NaN stays NaN */
            s = vmulq_f32(vminq_f32(vdupq_n_f32(4.0f), s), vdupq_n_f32(amplitude));
            s = qsi_where4(vandq_u32(vcgtq_f32(sigma, zero), vceqq_f32(s, s)), s);
            const float32x4_t part = vmulq_f32(vcvtq_f32_u32(vmovl_u16(vld1_u16(random + c))), vdupq_n_f32(0x1p-16f));
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
        *moved += __builtin_popcount(stepped);
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
