/* attention.h - what the two attention drivers share: tiles of 64, and a block of keys with columns for keys. */
#ifndef QSI_ATTENTION_H
#define QSI_ATTENTION_H

#include <math.h>
#include "cpu/drivers.h"
#include "cpu/transpose.h"

enum {
    QSI_TILE = 64,                  /* queries of a tile, keys of a block: part of the documented order */
    QSI_KEY_STRIDE = QSI_TILE + 16  /* of a transposed block: a power of two would fall into few sets of the cache */
};

/* to[j][QSI_KEY_STRIDE] = rows[i][col + j], i < n <= QSI_TILE, j < d: a block of keys as the right side of a product. */
static inline void qsi_transpose_block(float *to, const qsi_slot *rows, int64_t first, int64_t n, int64_t col, int64_t d)
{
    qsi_transpose(to, QSI_KEY_STRIDE, qsi_f32(rows, first) + col, qsi_ld(rows), n, d);
}

static inline float qsi_attention_scale(int64_t head_dim)
{
    return 1.0f / sqrtf((float)head_dim);
}

#endif
