/* scalar_fsm.c - reference of pulses and state machines. The chains and t2 read the rule tables of qsbits/fsm.h weight by
 * weight; c8 and the pulses are their formulas. */
#include <math.h>
#include "cpu/scalar.h"
#include "qsbits/random.h"

static int64_t fsm_pulses(const float *G, int64_t k, float alpha, float threshold, const float *b, const uint32_t *w,
                          float row[16], float *col, float dot[16], uint32_t *up, uint32_t *down)
{
    int64_t pulses = 0;
    for (int64_t c = 0; c < k; c++) {
        const float g = alpha * G[c];
        row[c % 16] = fmaf(g, g, row[c % 16]);
        col[c] = fmaf(g, g, col[c]);
        dot[c % 16] = dot[c % 16] + ((w[c / 32] >> (c % 32) & 1) ? G[c] : -G[c]);
        if (up == NULL)
            continue;
        if (c % 32 == 0)
            up[c / 32] = down[c / 32] = 0;
        const float t = threshold * b[c];
        const int pulsed = t > 0.0f && fabsf(g) > t;
        up[c / 32] |= (uint32_t)(pulsed && g < 0.0f) << (c % 32);
        down[c / 32] |= (uint32_t)(pulsed && g > 0.0f) << (c % 32);
        pulses += pulsed;
    }
    return pulses;
}

typedef struct cell { unsigned w, state; } cell;

/* One weight, one pulse (0 none, 1 up, 2 down): in the deepest state a pulse counts only if the escape draw allows it; a
 * supporting pulse changes nothing there anyway. */
static cell step(const qs_fsm_rule *rule, cell now, unsigned pulse, unsigned escape)
{
    if (rule->deepest[now.w][now.state] && !escape)
        pulse = 0;
    const cell next = {rule->next[now.w][now.state][pulse].w, rule->next[now.w][now.state][pulse].state};
    return next;
}

static unsigned bit_of(uint32_t word, int bit) { return word >> bit & 1; }

static unsigned pulse_of(uint32_t up, uint32_t down, int bit) { return bit_of(up, bit) ? 1 : bit_of(down, bit) ? 2 : 0; }

static void draw(uint32_t out[4], qs_random_purpose purpose, const qsi_draws *d, uint32_t index)
{
    qs_philox(d->seed, d->step, purpose, d->tensor, d->row, index, out);
}

/* "The number with bit q of plane q is below sticky", for the 32 weights of word i: from the lowest bit up, number < bound if
 * its bit is below the bound's, or equal to it and the lower bits were below. */
static uint32_t escapes(int sticky, const qsi_draws *draws, int64_t i)
{
    uint32_t plane[8], below = 0;
    if (sticky >= 256)
        return UINT32_MAX;
    for (uint32_t half = 0; half < 2; half++)
        draw(plane + 4 * half, QS_RANDOM_STICKY, draws, 2 * (draws->word + (uint32_t)i) + half);
    for (int q = 0; q < 8; q++)
        below = (sticky >> q & 1) ? ~plane[q] | below : ~plane[q] & below;
    return below;
}

static int64_t chain(qs_fsm fsm, int planes, uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up,
                     const uint32_t *down, int64_t n, int sticky, const qsi_draws *draws)
{
    const qs_fsm_rule *rule = qs_fsm_rule_of(fsm);
    int64_t flips = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t escape = escapes(sticky, draws, i);
        for (int bit = 0; bit < 32; bit++) {
            cell now = {bit_of(w[i], bit), 0};
            for (int p = 0; p < planes; p++)
                now.state |= bit_of(state[p * ld + i], bit) << p;
            const cell next = step(rule, now, pulse_of(up[i], down[i], bit), bit_of(escape, bit));
            flips += next.w != now.w;
            w[i] ^= (uint32_t)(next.w ^ now.w) << bit;
            for (int p = 0; p < planes; p++)
                state[p * ld + i] ^= (uint32_t)((next.state ^ now.state) >> p & 1) << bit;
        }
    }
    return flips;
}

static int64_t fsm_c2(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down, int64_t n,
                      int sticky, const qsi_draws *draws)
{
    return chain(QS_FSM_C2, 2, w, state, ld, up, down, n, sticky, draws);
}

static int64_t fsm_c4(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down, int64_t n,
                      int sticky, const qsi_draws *draws)
{
    return chain(QS_FSM_C4, 4, w, state, ld, up, down, n, sticky, draws);
}

static int64_t fsm_t2(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down, int64_t n,
                      int sticky, const qsi_draws *draws)
{
    (void)ld;
    const qs_fsm_rule *rule = qs_fsm_rule_of(QS_FSM_T2);
    int64_t flips = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t escape = escapes(sticky, draws, i);
        for (int bit = 0; bit < 32; bit++) {
            uint32_t *codes = &state[2 * i + bit / 16];
            const int shift = 2 * (bit % 16);
            const cell now = {bit_of(w[i], bit), *codes >> shift & 3};
            const cell next = step(rule, now, pulse_of(up[i], down[i], bit), bit_of(escape, bit));
            flips += next.w != now.w;
            w[i] ^= (uint32_t)(next.w ^ now.w) << bit;
            *codes ^= (uint32_t)(next.state ^ now.state) << shift;
        }
    }
    return flips;
}

static float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

/* 16 bits for each of 8 weights: block k of the row. */
static void halves(uint16_t random[8], const qsi_draws *draws, uint32_t k)
{
    uint32_t words[4];
    draw(words, QS_RANDOM_ROUNDING, draws, k);
    for (int h = 0; h < 8; h++)
        random[h] = (uint16_t)(words[h / 2] >> 16 * (h % 2));
}

static int64_t fsm_c8(uint32_t *w, int8_t *state, const float *G, float alpha, float a, const float *b, float amplitude,
                      int64_t n, const qsi_draws *draws, uint32_t *moved, int64_t *moves)
{
    int64_t flips = 0;
    uint16_t random[8];
    for (int64_t c = 0; c < 32 * n; c++) {
        const float sigma = a * b[c], g = alpha * G[c];
        float s = sigma > 0.0f ? clamp(g / sigma, -4.0f, 4.0f) * amplitude : 0.0f;
        if (s != s)
            s = 0.0f;
        if (c % 8 == 0)
            halves(random, draws, 4 * draws->word + (uint32_t)(c / 8));
        if (c % 32 == 0)
            moved[c / 32] = 0;
        const float steps = floorf(s + (float)random[c % 8] * 0x1p-16f);
        state[c] = (int8_t)clamp((float)state[c] - steps, -128.0f, 127.0f);
        const uint32_t now = state[c] >= 0, old = w[c / 32] >> (c % 32) & 1, stepped = steps != 0.0f;
        w[c / 32] ^= (now ^ old) << (c % 32);
        moved[c / 32] |= stepped << (c % 32);
        flips += now != old;
        *moves += stepped;
    }
    return flips;
}

void qsi_scalar_fsm(qsi_kernels *table)
{
    table->fsm_pulses = fsm_pulses;
    table->fsm_c2 = fsm_c2;
    table->fsm_c4 = fsm_c4;
    table->fsm_t2 = fsm_t2;
    table->fsm_c8 = fsm_c8;
}
