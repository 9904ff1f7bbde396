/* i8mm.c - aarch64 with I8MM (Armv8.6, and many cores from Armv8.2 on) as a level: int8 products by smmla. */
#include "cpu/i8mm.h"

#if QSI_HAVE_NEON
#include <sys/auxv.h>

int qsi_available_i8mm(void)
{
    const unsigned long i8mm = 1ul << 13;   /* HWCAP2_I8MM */
    return (getauxval(AT_HWCAP2) & i8mm) != 0;
}

void qsi_kernels_i8mm(qsi_kernels *table)
{
    qsi_i8mm_products(table);
    qsi_i8mm_gradient(table);
}

#else
int qsi_available_i8mm(void) { return 0; }

void qsi_kernels_i8mm(qsi_kernels *table) { (void)table; }
#endif
