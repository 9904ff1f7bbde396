/* peaks_avx512.c - bursts of AVX-512. Tables: lines of the first cache, or 16 and 32 entries in a register. */
#include "cpu/avx512.h"
#include "cpu/peaks.h"

#if QSI_HAVE_AVX512

#define FLOATS(p, i) _mm512_load_ps((p) + 16 * (i))
#define WORDS(p, i) _mm512_load_si512((const void *)((p) + 16 * (i)))

AVX512 static void fma_burst(const float *memory, int64_t rounds)
{
    const __m512 x = FLOATS(memory, 0);
#define START(i) __m512 a##i = FLOATS(memory, i);
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
#define STEP(i) a##i = _mm512_fmadd_ps(a##i, x, x);
        PEAK_CHAINS(STEP)
#undef STEP
    }
#define END(i) PEAK_USED(a##i);
    PEAK_CHAINS(END)
#undef END
}

AVX512 static void lines32_burst(const float *memory, int64_t rounds)
{
#define START(i) __m512 a##i = FLOATS(memory, i);
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
        PEAK_CHANGED(memory);
#define STEP(i) a##i = _mm512_add_ps(a##i, FLOATS(memory, i));
        PEAK_CHAINS(STEP)
#undef STEP
    }
#define END(i) PEAK_USED(a##i);
    PEAK_CHAINS(END)
#undef END
}

AVX512 static void permute32_burst(const float *memory, int64_t rounds)
{
    const __m512 table = FLOATS(memory, 0);
    __m512i index = WORDS(memory, 1);
#define START(i) __m512 a##i = FLOATS(memory, i);
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
#define STEP(i) PEAK_CHANGED_VECTOR(index); a##i = _mm512_add_ps(a##i, _mm512_permutexvar_ps(index, table));
        PEAK_CHAINS(STEP)
#undef STEP
    }
#define END(i) PEAK_USED(a##i);
    PEAK_CHAINS(END)
#undef END
}

AVX512 static void lines16_burst(const float *memory, int64_t rounds)
{
#define START(i) __m512i a##i = WORDS(memory, i);
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
        PEAK_CHANGED(memory);
#define STEP(i) a##i = _mm512_add_epi16(a##i, WORDS(memory, i));
        PEAK_CHAINS(STEP)
#undef STEP
    }
#define END(i) PEAK_USED(a##i);
    PEAK_CHAINS(END)
#undef END
}

AVX512 static void permute16_burst(const float *memory, int64_t rounds)
{
    const __m512i table = WORDS(memory, 0);
    __m512i index = WORDS(memory, 1);
#define START(i) __m512i a##i = WORDS(memory, i);
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
#define STEP(i) PEAK_CHANGED_VECTOR(index); a##i = _mm512_add_epi16(a##i, _mm512_permutexvar_epi16(index, table));
        PEAK_CHAINS(STEP)
#undef STEP
    }
#define END(i) PEAK_USED(a##i);
    PEAK_CHAINS(END)
#undef END
}

/* As with AVX2. */
AVX512 static void dot8_burst(const float *memory, int64_t rounds)
{
    __m512i x = WORDS(memory, 0);
#define START(i) __m512i a##i = WORDS(memory, i);
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
#define STEP(i) PEAK_CHANGED_VECTOR(x); a##i = _mm512_add_epi16(a##i, _mm512_maddubs_epi16(x, x));
        PEAK_CHAINS(STEP)
#undef STEP
    }
#define END(i) PEAK_USED(a##i);
    PEAK_CHAINS(END)
#undef END
}

AVX512 static void read_burst(const float *memory, int64_t rounds)
{
    __m512i a = WORDS(memory, 0), b = a, c = a, d = a;
    for (int64_t r = 0; r < rounds; r++, memory += 128) {
        a = _mm512_or_si512(a, WORDS(memory, 0));
        b = _mm512_or_si512(b, WORDS(memory, 1));
        c = _mm512_or_si512(c, WORDS(memory, 2));
        d = _mm512_or_si512(d, WORDS(memory, 3));
        a = _mm512_or_si512(a, WORDS(memory, 4));
        b = _mm512_or_si512(b, WORDS(memory, 5));
        c = _mm512_or_si512(c, WORDS(memory, 6));
        d = _mm512_or_si512(d, WORDS(memory, 7));
    }
    PEAK_USED(_mm512_or_si512(_mm512_or_si512(a, b), _mm512_or_si512(c, d)));
}

const qsi_burst qsi_bursts_avx512[] = {
    {QS_PEAK_FMA32, 2 * 16 * PEAK_CHAIN_COUNT, fma_burst},
    {QS_PEAK_TABLE32, 8 * 16 * PEAK_CHAIN_COUNT, lines32_burst},
    {QS_PEAK_TABLE32, 8 * 16 * PEAK_CHAIN_COUNT, permute32_burst},
    {QS_PEAK_TABLE16, 10 * 32 * PEAK_CHAIN_COUNT, lines16_burst},
    {QS_PEAK_TABLE16, 10 * 32 * PEAK_CHAIN_COUNT, permute16_burst},
    {QS_PEAK_DOT8, 2 * 64 * PEAK_CHAIN_COUNT, dot8_burst},
    {QS_PEAK_READ, 512, read_burst},
    {QS_PEAKS, 0, NULL},
};

#else
const qsi_burst qsi_bursts_avx512[] = {{QS_PEAKS, 0, NULL}};
#endif
