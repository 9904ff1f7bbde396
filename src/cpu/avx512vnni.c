/* avx512vnni.c - AVX-512 with VNNI and BF16 as a level (Cooper Lake, Zen 4, Sapphire Rapids and later). */
#include "cpu/avx512vnni.h"

#if QSI_HAVE_AVX512
#include <cpuid.h>

int qsi_available_avx512vnni(void)
{
    unsigned r[4] = {0, 0, 0, 0}, s[4] = {0, 0, 0, 0};
    if (!qsi_available_avx512() || !__get_cpuid_count(7, 0, &r[0], &r[1], &r[2], &r[3]) ||
        !__get_cpuid_count(7, 1, &s[0], &s[1], &s[2], &s[3]))
        return 0;
    return (r[2] >> 11 & 1) && (s[0] >> 5 & 1);   /* AVX512_VNNI, AVX512_BF16 */
}

void qsi_kernels_avx512vnni(qsi_kernels *table)
{
    qsi_avx512vnni_gradient(table);
    qsi_avx512vnni_w1_few(table);
}

#else
int qsi_available_avx512vnni(void) { return 0; }

void qsi_kernels_avx512vnni(qsi_kernels *table) { (void)table; }
#endif
