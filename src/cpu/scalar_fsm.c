/* scalar_fsm.c - reference of pulses and state machines. The chains and t2 read the rule tables of qsbits/fsm.h weight by
 * weight; c8 and the pulses are their formulas. */
#include <math.h>
#include <Random123/philox.h>
#include "cpu/scalar.h"
#include "qsbits/random.h"

static void fsm_pulses(const float *G, int64_t k, float alpha, float threshold, const float *b, const uint32_t *w,
                       float row[16], float *col, float dot[16], uint32_t *up, uint32_t *down)
{
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
    }
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

static int64_t chain(qs_fsm fsm, int planes, uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up,
                     const uint32_t *down, const uint32_t *escape, int64_t n)
{
    const qs_fsm_rule *rule = qs_fsm_rule_of(fsm);
    int64_t flips = 0;
    for (int64_t i = 0; i < n; i++)
        for (int bit = 0; bit < 32; bit++) {
            cell now = {bit_of(w[i], bit), 0};
            for (int p = 0; p < planes; p++)
                now.state |= bit_of(state[p * ld + i], bit) << p;
            const cell next = step(rule, now, pulse_of(up[i], down[i], bit), escape ? bit_of(escape[i], bit) : 1);
            flips += next.w != now.w;
            w[i] ^= (uint32_t)(next.w ^ now.w) << bit;
            for (int p = 0; p < planes; p++)
                state[p * ld + i] ^= (uint32_t)((next.state ^ now.state) >> p & 1) << bit;
        }
    return flips;
}

static int64_t fsm_c2(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down,
                      const uint32_t *escape, int64_t n)
{
    return chain(QS_FSM_C2, 2, w, state, ld, up, down, escape, n);
}

static int64_t fsm_c4(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down,
                      const uint32_t *escape, int64_t n)
{
    return chain(QS_FSM_C4, 4, w, state, ld, up, down, escape, n);
}

static int64_t fsm_t2(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down,
                      const uint32_t *escape, int64_t n)
{
    (void)ld;
    const qs_fsm_rule *rule = qs_fsm_rule_of(QS_FSM_T2);
    int64_t flips = 0;
    for (int64_t i = 0; i < n; i++)
        for (int bit = 0; bit < 32; bit++) {
            uint32_t *codes = &state[2 * i + bit / 16];
            const int shift = 2 * (bit % 16);
            const cell now = {bit_of(w[i], bit), *codes >> shift & 3};
            const cell next = step(rule, now, pulse_of(up[i], down[i], bit), escape ? bit_of(escape[i], bit) : 1);
            flips += next.w != now.w;
            w[i] ^= (uint32_t)(next.w ^ now.w) << bit;
            *codes ^= (uint32_t)(next.state ^ now.state) << shift;
        }
    return flips;
}

static float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

static int64_t fsm_c8(uint32_t *w, int8_t *state, const float *G, float alpha, float a, const float *b, float amplitude,
                      const uint16_t *random, int64_t n, int64_t *moved)
{
    int64_t flips = 0;
    for (int64_t c = 0; c < 32 * n; c++) {
        const float sigma = a * b[c], g = alpha * G[c];
        float s = sigma > 0.0f ? clamp(g / sigma, -4.0f, 4.0f) * amplitude : 0.0f;
        if (s != s)
            s = 0.0f;
        const float steps = floorf(s + (float)random[c] * 0x1p-16f);
        state[c] = (int8_t)clamp((float)state[c] - steps, -128.0f, 127.0f);
        *moved += steps != 0.0f;
        const uint32_t now = state[c] >= 0, old = w[c / 32] >> (c % 32) & 1;
        w[c / 32] ^= (now ^ old) << (c % 32);
        flips += now != old;
    }
    return flips;
}

/* "The number with bit q of plane q is below sticky", for 32 numbers at once: from the lowest bit up, number < bound if its
 * bit is below the bound's, or equal to it and the lower bits were below. */
static void fsm_escape(uint32_t *escape, int64_t n, int sticky, uint64_t seed, uint32_t step_index, uint32_t tensor,
                       uint32_t row, uint32_t first_word)
{
    const philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
    for (int64_t i = 0; i < n; i++) {
        uint32_t below = 0;
        for (uint32_t half = 0; half < 2; half++) {
            const philox4x32_ctr_t counter = {{step_index, (uint32_t)QS_RANDOM_STICKY << 24 | (tensor & 0xFFFFFFu), row,
                                               2 * (first_word + (uint32_t)i) + half}};
            const philox4x32_ctr_t plane = philox4x32(counter, key);
            for (uint32_t q = 0; q < 4; q++)
                below = (sticky >> (4 * half + q) & 1) ? ~plane.v[q] | below : ~plane.v[q] & below;
        }
        escape[i] = sticky >= 256 ? UINT32_MAX : below;
    }
}

void qsi_scalar_fsm(qsi_kernels *table)
{
    table->fsm_pulses = fsm_pulses;
    table->fsm_c2 = fsm_c2;
    table->fsm_c4 = fsm_c4;
    table->fsm_t2 = fsm_t2;
    table->fsm_c8 = fsm_c8;
    table->fsm_escape = fsm_escape;
}
