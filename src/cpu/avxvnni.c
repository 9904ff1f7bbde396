/* avxvnni.c - AVX2 with AVX-VNNI as a level (Alder Lake, Zen 5 and later, where AVX-512 is absent or off). */
#include "cpu/avxvnni.h"

#if QSI_HAVE_AVX2
#include <cpuid.h>

int qsi_available_avxvnni(void)
{
    unsigned r[4] = {0, 0, 0, 0};
    return qsi_available_avx2() && __get_cpuid_count(7, 1, &r[0], &r[1], &r[2], &r[3]) && (r[0] >> 4 & 1);
}

void qsi_kernels_avxvnni(qsi_kernels *table)
{
    qsi_avxvnni_few(table);
    qsi_avxvnni_gradient(table);
}

#else
int qsi_available_avxvnni(void) { return 0; }

void qsi_kernels_avxvnni(qsi_kernels *table) { (void)table; }
#endif
