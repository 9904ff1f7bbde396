/* transpose.h - what a product of few tokens with rows of floats waits for: reading the rows, and transposing them, 4 x 4 at
 * a time in vectors that every processor has. Element by element that would take longer than the product. */
#ifndef QSI_TRANSPOSE_H
#define QSI_TRANSPOSE_H

#include <stdint.h>
#include <string.h>

typedef float qsi_float4 __attribute__((vector_size(16)));

static inline qsi_float4 qsi_get4(const float *p)
{
    qsi_float4 v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void qsi_put4(float *p, qsi_float4 v)
{
    memcpy(p, &v, sizeof v);
}

/* to[j][i] = from[i][j], i, j < 4; rows of to and from are ldt and ldf floats apart. */
static inline void qsi_transpose4x4(float *to, int64_t ldt, const float *from, int64_t ldf)
{
    const qsi_float4 a = qsi_get4(from), b = qsi_get4(from + ldf);
    const qsi_float4 c = qsi_get4(from + 2 * ldf), d = qsi_get4(from + 3 * ldf);
    const qsi_float4 ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const qsi_float4 cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    qsi_put4(to, __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5));
    qsi_put4(to + ldt, __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7));
    qsi_put4(to + 2 * ldt, __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5));
    qsi_put4(to + 3 * ldt, __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7));
}

/* to[j][i] = from[i][j], i < rows, j < cols. By so many columns that reading goes forward and lines of to stay near. */
static inline void qsi_transpose(float *to, int64_t ldt, const float *from, int64_t ldf, int64_t rows, int64_t cols)
{
    enum { COLS = 128 };
    const int64_t whole_rows = rows - rows % 4, whole_cols = cols - cols % 4;
    for (int64_t j0 = 0; j0 < whole_cols; j0 += COLS)
        for (int64_t i = 0; i < whole_rows; i += 4)
            for (int64_t j = j0; j < j0 + COLS && j < whole_cols; j += 4)
                qsi_transpose4x4(to + j * ldt + i, ldt, from + i * ldf + j, ldf);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = i < whole_rows ? whole_cols : 0; j < cols; j++)
            to[j * ldt + i] = from[i * ldf + j];
}

/* Reads the rows into the caches, bytes of each, one after the other: so they come from memory several times as fast as
 * piece by piece, and hints to fetch them would be lost when there are many at once. */
static inline void qsi_read_ahead(const void *rows, int64_t stride, int64_t count, int64_t bytes)
{
    enum { LINE = 64 };
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < bytes; j += LINE)
            (void)((const volatile char *)rows)[i * stride + j];
}

#endif
