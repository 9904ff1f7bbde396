/* amx.h - what the files of the level share: its target attribute, the tile instructions, transposes of 16 x 16 numbers.
 *
 * All eight tiles are 16 rows of 64 bytes. A tile of weights or of the left operand has a row per output and its depth
 * along the row; one of the right operand has a row per 4 bytes of depth and a column per token or feature; sums are
 * outputs x tokens. The instructions are written out: the intrinsics of gcc 12 do not tell the compiler which memory they
 * read. */
#ifndef QSI_AMX_H
#define QSI_AMX_H

#include "cpu/avx2.h"
#include "cpu/avx512vnni.h"

#if QSI_HAVE_AVX512
#define AMX_TARGET \
    target("amx-tile,amx-int8,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c,bmi,bmi2," \
           "popcnt")
#define AMX __attribute__((AMX_TARGET))
#define AMX_INLINE __attribute__((AMX_TARGET, always_inline)) static inline

enum { QSI_TILE_BYTES = 1024 };

/* The operand of ldtilecfg; bytes of a row, and rows, of each tile. */
typedef struct qsi_tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} qsi_tile_config;

_Static_assert(sizeof(qsi_tile_config) == 64, "ldtilecfg reads 64 bytes");

void qsi_amx_products(qsi_kernels *table);
void qsi_amx_gradient(qsi_kernels *table);

/* Tiles belong to the thread and anything may change them between calls, so a kernel configures them first and releases
 * them last. */
#define QSI_TILES_BEGIN() do { \
        static const qsi_tile_config config_ = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, \
                                                {16, 16, 16, 16, 16, 16, 16, 16}}; \
        __asm__ volatile("ldtilecfg %0" : : "m"(config_) : "memory"); \
    } while (0)
#define QSI_TILES_END() __asm__ volatile("tilerelease" : : : "memory")
#define QSI_TILE_ZERO(c) __asm__ volatile("tilezero %%tmm" #c : : : "memory")
#define QSI_TILE_LOAD(c, from, stride) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #c : : "r"((const void *)(from)), "r"((int64_t)(stride)) : "memory")
#define QSI_TILE_STORE(c, to, stride) \
    __asm__ volatile("tilestored %%tmm" #c ", (%0,%1,1)" : : "r"((void *)(to)), "r"((int64_t)(stride)) : "memory")

/* Tile c += left tile a times right tile b: 4 signed bytes or 2 bf16 a step. */
#define QSI_TILE_I8(c, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")
#define QSI_TILE_BF16(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")

/* Number i of r[j] and number j of r[i] change places. */
AMX_INLINE void qsi_transpose16(__m512i r[16])
{
    __m512i t[16];
    UNROLL
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    UNROLL
    for (int i = 0; i < 16; i += 4) {   /* r[i + c], quarter q: column 4 q + c of rows i .. i + 3 */
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL
    for (int c = 0; c < 4; c++) {
        t[c] = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x44);
        t[4 + c] = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x44);
        t[8 + c] = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xEE);
        t[12 + c] = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xEE);
    }
    UNROLL
    for (int c = 0; c < 4; c++) {
        r[c] = _mm512_shuffle_i32x4(t[c], t[4 + c], 0x88);
        r[4 + c] = _mm512_shuffle_i32x4(t[c], t[4 + c], 0xDD);
        r[8 + c] = _mm512_shuffle_i32x4(t[8 + c], t[12 + c], 0x88);
        r[12 + c] = _mm512_shuffle_i32x4(t[8 + c], t[12 + c], 0xDD);
    }
}
#endif
#endif
