/* avx512vnni.h - what the files of the level share: its target attribute and the parts of its table. */
#ifndef QSI_AVX512VNNI_H
#define QSI_AVX512VNNI_H

#include "cpu/avx512.h"

#if QSI_HAVE_AVX512
#define AVX512VNNI_TARGET \
    target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c,bmi,bmi2,popcnt")
#define AVX512VNNI __attribute__((AVX512VNNI_TARGET))
#define AVX512VNNI_INLINE __attribute__((AVX512VNNI_TARGET, always_inline)) static inline

void qsi_avx512vnni_gradient(qsi_kernels *table);
void qsi_avx512vnni_w1_few(qsi_kernels *table);

#endif
#endif
