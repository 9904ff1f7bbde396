/* peaks_avx512vnni.c - bursts of the dot products that VNNI and BF16 add. */
#include "cpu/avx512vnni.h"
#include "cpu/peaks.h"

#if QSI_HAVE_AVX512

AVX512VNNI static void dot8_burst(const float *memory, int64_t rounds)
{
    const __m512i x = _mm512_load_si512(memory);
#define START(i) __m512i a##i = _mm512_load_si512(memory + 16 * i);
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
#define STEP(i) a##i = _mm512_dpbusd_epi32(a##i, x, x);
        PEAK_CHAINS(STEP)
#undef STEP
    }
#define END(i) PEAK_USED(a##i);
    PEAK_CHAINS(END)
#undef END
}

AVX512VNNI static void dot16_burst(const float *memory, int64_t rounds)
{
    const __m512bh x = (__m512bh)_mm512_load_si512(memory);
#define START(i) __m512 a##i = _mm512_load_ps(memory + 16 * i);
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
#define STEP(i) a##i = _mm512_dpbf16_ps(a##i, x, x);
        PEAK_CHAINS(STEP)
#undef STEP
    }
#define END(i) PEAK_USED(a##i);
    PEAK_CHAINS(END)
#undef END
}

const qsi_burst qsi_bursts_avx512vnni[] = {
    {QS_PEAK_DOT8, 2 * 64 * PEAK_CHAIN_COUNT, dot8_burst},
    {QS_PEAK_DOT16, 2 * 32 * PEAK_CHAIN_COUNT, dot16_burst},
    {QS_PEAKS, 0, NULL},
};

#else
const qsi_burst qsi_bursts_avx512vnni[] = {{QS_PEAKS, 0, NULL}};
#endif
