/* amx.c - AVX-512 with VNNI, BF16 and AMX tiles of int8 and bf16 as a level (Sapphire Rapids and later). */
#include "cpu/amx.h"

#if QSI_HAVE_AVX512 && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The operating system saves tiles: bits 17 and 18 of XCR0. */
static int tiles_enabled(void)
{
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low >> 17 & 3) == 3;
}

/* Linux grants the tile data to a process that asks, once for all its threads; asking again is harmless. */
static int tiles_granted(void)
{
    const long request_permission = 0x1023, tile_data = 18;   /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA */
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

int qsi_available_amx(void)
{
    const unsigned wanted = 1u << 22 | 1u << 24 | 1u << 25;   /* AMX_BF16, AMX_TILE, AMX_INT8 */
    unsigned r[4] = {0, 0, 0, 0};
    if (!qsi_available_avx512vnni() || !__get_cpuid_count(7, 0, &r[0], &r[1], &r[2], &r[3]) || (r[3] & wanted) != wanted)
        return 0;
    return tiles_enabled() && tiles_granted();
}

void qsi_kernels_amx(qsi_kernels *table)
{
    qsi_amx_products(table);
    qsi_amx_gradient(table);
}

#else
int qsi_available_amx(void) { return 0; }

void qsi_kernels_amx(qsi_kernels *table) { (void)table; }
#endif
