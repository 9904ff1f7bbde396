/* avx512.c - AVX-512 as a level: whether this machine has it, and its slots. What is not overridden stays with AVX2. */
#include "cpu/avx512.h"

#if QSI_HAVE_AVX512
#include <cpuid.h>

/* The operating system saves xmm, ymm, mask registers and both parts of zmm: OSXSAVE, then bits 1, 2 and 5, 6, 7 of XCR0. */
static int zmm_enabled(void)
{
    unsigned r[4] = {0, 0, 0, 0}, low, high;
    if (!__get_cpuid_count(1, 0, &r[0], &r[1], &r[2], &r[3]) || !(r[2] >> 27 & 1))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & 0xE6) == 0xE6;
}

int qsi_available_avx512(void)
{
    const unsigned wanted = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;   /* F, DQ, BW, VL */
    unsigned r[4] = {0, 0, 0, 0};
    if (!qsi_available_avx2() || !zmm_enabled() || !__get_cpuid_count(7, 0, &r[0], &r[1], &r[2], &r[3]))
        return 0;
    return (r[1] & wanted) == wanted;
}

void qsi_kernels_avx512(qsi_kernels *table)
{
    qsi_avx512_w1(table);
    qsi_avx512_w1_i8(table);
    qsi_avx512_dense(table);
    qsi_avx512_vector(table);
    qsi_avx512_attention(table);
    qsi_avx512_fsm(table);
    qsi_avx512_i8(table);
}

#else
int qsi_available_avx512(void) { return 0; }

void qsi_kernels_avx512(qsi_kernels *table) { (void)table; }
#endif
