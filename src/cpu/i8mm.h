/* i8mm.h - what the files of the level share: its target attribute, its one instruction and the parts of its table. */
#ifndef QSI_I8MM_H
#define QSI_I8MM_H

#include "cpu/neon.h"

#if QSI_HAVE_NEON
void qsi_i8mm_products(qsi_kernels *table);
void qsi_i8mm_gradient(qsi_kernels *table);

#if defined(__clang__)
#define I8MM_TARGET target("i8mm")
#else
#define I8MM_TARGET target("arch=armv8.2-a+i8mm")
#endif
#define I8MM __attribute__((I8MM_TARGET))
#define I8MM_INLINE __attribute__((I8MM_TARGET, always_inline)) static inline

/* sum[2 i + j] += row i of a (8 bytes) times row j of b. Written out, as older compilers have the intrinsic only where
 * the whole file is compiled for the extension. */
I8MM_INLINE int32x4_t qsi_smmla(int32x4_t sum, int8x16_t a, int8x16_t b)
{
    __asm__("smmla %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(a), "w"(b));
    return sum;
}
#endif
#endif
