/* avx2.c - AVX2 as a level: whether this machine has it, and its slots. */
#include "cpu/avx2.h"

#if QSI_HAVE_AVX2
#include <cpuid.h>

/* Bit `bit` of register reg (0..3 = eax..edx) of a CPUID leaf; 0 for leaves the processor does not have. */
static int cpuid_bit(unsigned leaf, int reg, int bit)
{
    unsigned r[4] = {0, 0, 0, 0};
    if (!__get_cpuid_count(leaf, 0, &r[0], &r[1], &r[2], &r[3]))
        return 0;
    return (int)(r[reg] >> bit & 1);
}

/* The operating system saves xmm and ymm registers: OSXSAVE, then bits 1 and 2 of XCR0. */
static int ymm_enabled(void)
{
    if (!cpuid_bit(1, 2, 27))
        return 0;
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & 6) == 6;
}

int qsi_available_avx2(void)
{
    const int leaf1 = cpuid_bit(1, 2, 28) && cpuid_bit(1, 2, 12) && cpuid_bit(1, 2, 29) && cpuid_bit(1, 2, 23);
    const int leaf7 = cpuid_bit(7, 1, 3) && cpuid_bit(7, 1, 5) && cpuid_bit(7, 1, 8);
    return ymm_enabled() && leaf1 /* AVX, FMA, F16C, POPCNT */ && leaf7 /* BMI1, AVX2, BMI2 */;
}

void qsi_kernels_avx2(qsi_kernels *table)
{
    qsi_avx2_w1(table);
    qsi_avx2_dense(table);
    qsi_avx2_vector(table);
    qsi_avx2_attention(table);
    qsi_avx2_fsm(table);
    qsi_avx2_i8(table);
    qsi_avx2_gradient(table);
    qsi_avx2_w1_i8(table);
}

#else
int qsi_available_avx2(void) { return 0; }

void qsi_kernels_avx2(qsi_kernels *table) { (void)table; }
#endif
