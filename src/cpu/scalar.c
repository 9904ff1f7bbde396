/* scalar.c - the scalar reference as a level: always there, fills every slot. */
#include "cpu/scalar.h"

int qsi_available_scalar(void) { return 1; }

void qsi_kernels_scalar(qsi_kernels *table)
{
    qsi_scalar_w1(table);
    qsi_scalar_i8(table);
    qsi_scalar_dense(table);
    qsi_scalar_vector(table);
    qsi_scalar_attention(table);
    qsi_scalar_fsm(table);
}
