/* peaks_amx.c - bursts of the tile products of AMX: six sums of 16 x 16, so that none waits for itself. */
#include "cpu/amx.h"
#include "cpu/peaks.h"

#if QSI_HAVE_AVX512

enum { SUMS = 6, PRODUCTS8 = 16 * 16 * 64, PRODUCTS16 = 16 * 16 * 32 };   /* of one tile instruction */

#define TILES_START(memory) do { \
        QSI_TILES_BEGIN(); \
        QSI_TILE_LOAD(6, memory, 64); \
        QSI_TILE_LOAD(7, memory, 64); \
        QSI_TILE_ZERO(0); \
        QSI_TILE_ZERO(1); \
        QSI_TILE_ZERO(2); \
        QSI_TILE_ZERO(3); \
        QSI_TILE_ZERO(4); \
        QSI_TILE_ZERO(5); \
    } while (0)

AMX static void dot8_burst(const float *memory, int64_t rounds)
{
    TILES_START(memory);
    for (int64_t r = 0; r < rounds; r++) {
        QSI_TILE_I8(0, 6, 7);
        QSI_TILE_I8(1, 6, 7);
        QSI_TILE_I8(2, 6, 7);
        QSI_TILE_I8(3, 6, 7);
        QSI_TILE_I8(4, 6, 7);
        QSI_TILE_I8(5, 6, 7);
    }
    QSI_TILES_END();
}

AMX static void dot16_burst(const float *memory, int64_t rounds)
{
    TILES_START(memory);
    for (int64_t r = 0; r < rounds; r++) {
        QSI_TILE_BF16(0, 6, 7);
        QSI_TILE_BF16(1, 6, 7);
        QSI_TILE_BF16(2, 6, 7);
        QSI_TILE_BF16(3, 6, 7);
        QSI_TILE_BF16(4, 6, 7);
        QSI_TILE_BF16(5, 6, 7);
    }
    QSI_TILES_END();
}

const qsi_burst qsi_bursts_amx[] = {
    {QS_PEAK_DOT8, 2.0 * PRODUCTS8 * SUMS, dot8_burst},
    {QS_PEAK_DOT16, 2.0 * PRODUCTS16 * SUMS, dot16_burst},
    {QS_PEAKS, 0, NULL},
};

#else
const qsi_burst qsi_bursts_amx[] = {{QS_PEAKS, 0, NULL}};
#endif
