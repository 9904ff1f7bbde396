/* peaks_avx2.c - bursts of AVX2 and FMA. Tables are lines of the first cache that an addition reads as its operand. */
#include "cpu/avx2.h"
#include "cpu/peaks.h"

#if QSI_HAVE_AVX2

#define FLOATS(p, i) _mm256_load_ps((p) + 8 * (i))
#define WORDS(p, i) _mm256_load_si256((const __m256i *)(const void *)((p) + 8 * (i)))

AVX2 static void fma_burst(const float *memory, int64_t rounds)
{
    const __m256 x = FLOATS(memory, 0);
#define START(i) __m256 a##i = FLOATS(memory, i);
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
#define STEP(i) a##i = _mm256_fmadd_ps(a##i, x, x);
        PEAK_CHAINS(STEP)
#undef STEP
    }
#define END(i) PEAK_USED(a##i);
    PEAK_CHAINS(END)
#undef END
}

AVX2 static void table32_burst(const float *memory, int64_t rounds)
{
#define START(i) __m256 a##i = FLOATS(memory, i);
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
        PEAK_CHANGED(memory);
#define STEP(i) a##i = _mm256_add_ps(a##i, FLOATS(memory, i));
        PEAK_CHAINS(STEP)
#undef STEP
    }
#define END(i) PEAK_USED(a##i);
    PEAK_CHAINS(END)
#undef END
}

AVX2 static void table16_burst(const float *memory, int64_t rounds)
{
#define START(i) __m256i a##i = WORDS(memory, i);
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
        PEAK_CHANGED(memory);
#define STEP(i) a##i = _mm256_add_epi16(a##i, WORDS(memory, i));
        PEAK_CHAINS(STEP)
#undef STEP
    }
#define END(i) PEAK_USED(a##i);
    PEAK_CHAINS(END)
#undef END
}

/* Pairs of products in int16, added there: sums are widened too seldom to count. */
AVX2 static void dot8_burst(const float *memory, int64_t rounds)
{
    __m256i x = WORDS(memory, 0);
#define START(i) __m256i a##i = WORDS(memory, i);
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
#define STEP(i) PEAK_CHANGED_VECTOR(x); a##i = _mm256_add_epi16(a##i, _mm256_maddubs_epi16(x, x));
        PEAK_CHAINS(STEP)
#undef STEP
    }
#define END(i) PEAK_USED(a##i);
    PEAK_CHAINS(END)
#undef END
}

AVX2 static void read_burst(const float *memory, int64_t rounds)
{
    __m256i a = WORDS(memory, 0), b = a, c = a, d = a;
    for (int64_t r = 0; r < rounds; r++, memory += 64) {
        a = _mm256_or_si256(a, WORDS(memory, 0));
        b = _mm256_or_si256(b, WORDS(memory, 1));
        c = _mm256_or_si256(c, WORDS(memory, 2));
        d = _mm256_or_si256(d, WORDS(memory, 3));
        a = _mm256_or_si256(a, WORDS(memory, 4));
        b = _mm256_or_si256(b, WORDS(memory, 5));
        c = _mm256_or_si256(c, WORDS(memory, 6));
        d = _mm256_or_si256(d, WORDS(memory, 7));
    }
    PEAK_USED(_mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d)));
}

const qsi_burst qsi_bursts_avx2[] = {
    {QS_PEAK_FMA32, 2 * 8 * PEAK_CHAIN_COUNT, fma_burst},
    {QS_PEAK_TABLE32, 8 * 8 * PEAK_CHAIN_COUNT, table32_burst},
    {QS_PEAK_TABLE16, 10 * 16 * PEAK_CHAIN_COUNT, table16_burst},
    {QS_PEAK_DOT8, 2 * 32 * PEAK_CHAIN_COUNT, dot8_burst},
    {QS_PEAK_READ, 256, read_burst},
    {QS_PEAKS, 0, NULL},
};

#else
const qsi_burst qsi_bursts_avx2[] = {{QS_PEAKS, 0, NULL}};
#endif
