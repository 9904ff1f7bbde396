/* avxvnni.h - what the files of the level share: its target attribute, its one instruction and the parts of its table. */
#ifndef QSI_AVXVNNI_H
#define QSI_AVXVNNI_H

#include "cpu/avx2.h"

#if QSI_HAVE_AVX2
#define AVXVNNI_TARGET target("avxvnni,avx2,fma,f16c,bmi,bmi2,popcnt")
#define AVXVNNI __attribute__((AVXVNNI_TARGET))
#define AVXVNNI_INLINE __attribute__((AVXVNNI_TARGET, always_inline)) static inline

void qsi_avxvnni_few(qsi_kernels *table);
void qsi_avxvnni_gradient(qsi_kernels *table);

/* sum + dot products of 4 unsigned and 4 signed bytes; around the intrinsic gcc 12 copies and spills sums. */
AVXVNNI_INLINE __m256i qsi_dot8(__m256i sum, __m256i bytes, __m256i q)
{
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(bytes), "x"(q));
    return sum;
}
#endif
#endif
