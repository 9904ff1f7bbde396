/* peaks_avxvnni.c - the burst of the dot product that AVX-VNNI adds. */
#include "cpu/avxvnni.h"
#include "cpu/peaks.h"

#if QSI_HAVE_AVX2

#define WORDS(p, i) _mm256_load_si256((const __m256i *)(const void *)((p) + 8 * (i)))

AVXVNNI static void dot8_burst(const float *memory, int64_t rounds)
{
    const __m256i x = WORDS(memory, 0);
#define START(i) __m256i a##i = WORDS(memory, i);
    PEAK_CHAINS(START)
#undef START
    for (int64_t r = 0; r < rounds; r++) {
#define STEP(i) a##i = qsi_dot8(a##i, x, x);
        PEAK_CHAINS(STEP)
#undef STEP
    }
#define END(i) PEAK_USED(a##i);
    PEAK_CHAINS(END)
#undef END
}

const qsi_burst qsi_bursts_avxvnni[] = {
    {QS_PEAK_DOT8, 2 * 32 * PEAK_CHAIN_COUNT, dot8_burst},
    {QS_PEAKS, 0, NULL},
};

#else
const qsi_burst qsi_bursts_avxvnni[] = {{QS_PEAKS, 0, NULL}};
#endif
