/* peaks_scalar.c - bursts in plain C: what the compiler makes of it for the oldest processor. */
#include <math.h>
#include "cpu/peaks.h"

static void clock_burst(const float *memory, int64_t rounds)
{
    uint64_t x = (uint64_t)rounds, y = (uint64_t)(memory != NULL);   /* some processors add constants for nothing */
    PEAK_CHANGED(y);
    for (int64_t r = 0; r < rounds; r++) {
#define STEP(i) x += y; PEAK_CHANGED(x);
        PEAK_CHAINS(STEP)
#undef STEP
    }
}

/* Keeps a sum: the compiler may not leave out what led to it. */
static void keep(double sum)
{
    const volatile double kept = sum;
    (void)kept;
}

#define START(type) \
    type a0 = 0, a1 = 0, a2 = 0, a3 = 0, a4 = 0, a5 = 0, a6 = 0, a7 = 0, a8 = 0, a9 = 0
#define TOTAL ((double)a0 + (double)a1 + (double)a2 + (double)a3 + (double)a4 + (double)a5 + (double)a6 + (double)a7 + \
               (double)a8 + (double)a9)

static void fma_burst(const float *memory, int64_t rounds)
{
    START(float);
#define STEP(i) a##i = memory[i];   /* equal chains would become one */
    PEAK_CHAINS(STEP)
#undef STEP
    for (int64_t r = 0; r < rounds; r++) {
        PEAK_CHANGED(memory);
#define STEP(i) a##i = fmaf(a##i, memory[0], memory[1]);
        PEAK_CHAINS(STEP)
#undef STEP
    }
    keep(TOTAL);
}

static void table32_burst(const float *memory, int64_t rounds)
{
    START(float);
    for (int64_t r = 0; r < rounds; r++) {
        PEAK_CHANGED(memory);
#define STEP(i) a##i += memory[i];
        PEAK_CHAINS(STEP)
#undef STEP
    }
    keep(TOTAL);
}

static void table16_burst(const float *memory, int64_t rounds)
{
    const int16_t *table = (const int16_t *)(const void *)memory;
    START(uint32_t);
    for (int64_t r = 0; r < rounds; r++) {
        PEAK_CHANGED(table);
#define STEP(i) a##i += (uint32_t)table[i];
        PEAK_CHAINS(STEP)
#undef STEP
    }
    keep(TOTAL);
}

static void dot8_burst(const float *memory, int64_t rounds)
{
    const int8_t *q = (const int8_t *)(const void *)memory;
    START(uint32_t);
    for (int64_t r = 0; r < rounds; r++) {
        PEAK_CHANGED(q);
#define STEP(i) a##i += (uint32_t)(q[i] * q[16 + i]);
        PEAK_CHAINS(STEP)
#undef STEP
    }
    keep(TOTAL);
}

static void read_burst(const float *memory, int64_t rounds)
{
    const uint64_t *p = (const uint64_t *)(const void *)memory;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (int64_t r = 0; r < rounds; r++, p += 8) {
        a += p[0] + p[4];
        b += p[1] + p[5];
        c += p[2] + p[6];
        d += p[3] + p[7];
    }
    keep((double)(a + b + c + d));
}

const qsi_burst qsi_bursts_scalar[] = {
    {QS_PEAK_CLOCK, PEAK_CHAIN_COUNT, clock_burst},
    {QS_PEAK_FMA32, 2 * PEAK_CHAIN_COUNT, fma_burst},
    {QS_PEAK_TABLE32, 8 * PEAK_CHAIN_COUNT, table32_burst},
    {QS_PEAK_TABLE16, 10 * PEAK_CHAIN_COUNT, table16_burst},
    {QS_PEAK_DOT8, 2 * PEAK_CHAIN_COUNT, dot8_burst},
    {QS_PEAK_READ, 64, read_burst},
    {QS_PEAKS, 0, NULL},
};
