/* peaks_neon.c - bursts of NEON and of I8MM. Twenty chains: wide processors begin four operations of four cycles at a
 * time. */
#include "cpu/i8mm.h"
#include "cpu/peaks.h"

#if QSI_HAVE_NEON

enum { CHAINS = 2 * PEAK_CHAIN_COUNT };
#define USED(i) __asm__ volatile("" : : "w"(a##i), "w"(b##i));
#define FLOATS(p, i) vld1q_f32((p) + 4 * (i))
#define HALVES(p, i) vld1q_s16((const int16_t *)(const void *)((p) + 4 * (i)))
#define BYTES(p, i) vld1q_s8((const int8_t *)(const void *)((p) + 4 * (i)))
#define WORDS(p, i) vld1q_s32((const int32_t *)(const void *)((p) + 4 * (i)))

static void fma_burst(const float *memory, int64_t rounds)
{
    const float32x4_t x = FLOATS(memory, 0);
#define START(i) float32x4_t a##i = FLOATS(memory, i), b##i = FLOATS(memory, 10 + (i));
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
#define STEP(i) a##i = vfmaq_f32(a##i, a##i, x); b##i = vfmaq_f32(b##i, b##i, x);
        PEAK_CHAINS(STEP)
#undef STEP
    }
    PEAK_CHAINS(USED)
}

static void table32_burst(const float *memory, int64_t rounds)
{
#define START(i) float32x4_t a##i = FLOATS(memory, i), b##i = FLOATS(memory, 10 + (i));
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
        PEAK_CHANGED(memory);
#define STEP(i) a##i = vaddq_f32(a##i, FLOATS(memory, i)); b##i = vaddq_f32(b##i, FLOATS(memory, 10 + (i)));
        PEAK_CHAINS(STEP)
#undef STEP
    }
    PEAK_CHAINS(USED)
}

static void table16_burst(const float *memory, int64_t rounds)
{
#define START(i) int16x8_t a##i = HALVES(memory, i), b##i = HALVES(memory, 10 + (i));
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
        PEAK_CHANGED(memory);
#define STEP(i) a##i = vaddq_s16(a##i, HALVES(memory, i)); b##i = vaddq_s16(b##i, HALVES(memory, 10 + (i)));
        PEAK_CHAINS(STEP)
#undef STEP
    }
    PEAK_CHAINS(USED)
}

/* Products added in int16: sums are widened too seldom to count. */
static void dot8_burst(const float *memory, int64_t rounds)
{
    const int8x16_t x = BYTES(memory, 0);
#define START(i) int16x8_t a##i = HALVES(memory, i), b##i = HALVES(memory, 10 + (i));
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
#define STEP(i) a##i = vmlal_s8(a##i, vget_low_s8(x), vget_low_s8(x)); b##i = vmlal_high_s8(b##i, x, x);
        PEAK_CHAINS(STEP)
#undef STEP
    }
    PEAK_CHAINS(USED)
}

I8MM static void dot8_i8mm_burst(const float *memory, int64_t rounds)
{
    const int8x16_t x = BYTES(memory, 0);
#define START(i) int32x4_t a##i = WORDS(memory, i), b##i = WORDS(memory, 10 + (i));
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
#define STEP(i) a##i = qsi_smmla(a##i, x, x); b##i = qsi_smmla(b##i, x, x);
        PEAK_CHAINS(STEP)
#undef STEP
    }
    PEAK_CHAINS(USED)
}

static void read_burst(const float *memory, int64_t rounds)
{
    int32x4_t a = WORDS(memory, 0), b = a, c = a, d = a;
    for (int64_t r = 0; r < rounds; r++, memory += 32) {
        a = vorrq_s32(a, WORDS(memory, 0));
        b = vorrq_s32(b, WORDS(memory, 1));
        c = vorrq_s32(c, WORDS(memory, 2));
        d = vorrq_s32(d, WORDS(memory, 3));
        a = vorrq_s32(a, WORDS(memory, 4));
        b = vorrq_s32(b, WORDS(memory, 5));
        c = vorrq_s32(c, WORDS(memory, 6));
        d = vorrq_s32(d, WORDS(memory, 7));
    }
    a = vorrq_s32(vorrq_s32(a, b), vorrq_s32(c, d));
    __asm__ volatile("" : : "w"(a));
}

const qsi_burst qsi_bursts_neon[] = {
    {QS_PEAK_FMA32, 2 * 4 * CHAINS, fma_burst},
    {QS_PEAK_TABLE32, 8 * 4 * CHAINS, table32_burst},
    {QS_PEAK_TABLE16, 10 * 8 * CHAINS, table16_burst},
    {QS_PEAK_DOT8, 2 * 8 * CHAINS, dot8_burst},
    {QS_PEAK_READ, 128, read_burst},
    {QS_PEAKS, 0, NULL},
};

const qsi_burst qsi_bursts_i8mm[] = {
    {QS_PEAK_DOT8, 2 * 32 * CHAINS, dot8_i8mm_burst},
    {QS_PEAKS, 0, NULL},
};

#else
const qsi_burst qsi_bursts_neon[] = {{QS_PEAKS, 0, NULL}};
const qsi_burst qsi_bursts_i8mm[] = {{QS_PEAKS, 0, NULL}};
#endif
