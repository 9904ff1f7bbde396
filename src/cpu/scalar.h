/* scalar.h - the parts of the scalar reference, one per file; each fills its slots. Nothing but scalar.c includes it
 * besides the parts themselves. */
#ifndef QSI_SCALAR_H
#define QSI_SCALAR_H

#include "cpu/kernels.h"

void qsi_scalar_w1(qsi_kernels *table);
void qsi_scalar_i8(qsi_kernels *table);
void qsi_scalar_dense(qsi_kernels *table);
void qsi_scalar_vector(qsi_kernels *table);
void qsi_scalar_attention(qsi_kernels *table);
void qsi_scalar_fsm(qsi_kernels *table);

#endif
