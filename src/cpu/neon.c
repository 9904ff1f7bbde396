/* neon.c - NEON as a level: the baseline of aarch64, always there. */
#include "cpu/neon.h"

int qsi_available_neon(void) { return QSI_HAVE_NEON; }

void qsi_kernels_neon(qsi_kernels *table)
{
#if QSI_HAVE_NEON
    qsi_neon_w1(table);
    qsi_neon_i8(table);
    qsi_neon_features(table);
    qsi_neon_gradient(table);
    qsi_neon_dense(table);
    qsi_neon_vector(table);
    qsi_neon_attention(table);
    qsi_neon_fsm(table);
#else
    (void)table;
#endif
}
