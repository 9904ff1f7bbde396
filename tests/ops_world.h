/* ops_world.h - what the tests of ops share: a context with one buffer to place views in, host memory that the teardown
 * frees, reproducible values, and the chunk tree and striped sums written down once more. */
#ifndef OPS_WORLD_H
#define OPS_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "qsbits/ops.h"
#include "qsbits/random.h"

/* ---- a context with one buffer, and host memory that teardown frees --------------------------------------------- */

typedef struct world {
    qs_context *context;
    qs_queue *queue;
    qs_buffer *buffer;
    uint64_t used;
    int64_t gap;           /* bytes between rows of new views, a multiple of 4 */
} world;

enum { BYTES = 24 << 20, BLOCKS = 4096 };
static void *blocks[BLOCKS];
static int n_blocks;

static inline void *host(int64_t count, size_t size)
{
    assert_true(n_blocks < BLOCKS);
    void *p = calloc((size_t)count, size);
    assert_non_null(p);
    blocks[n_blocks++] = p;
    return p;
}

static inline int free_host(void **state)
{
    (void)state;
    while (n_blocks > 0)
        free(blocks[--n_blocks]);
    return 0;
}

static inline void ok(qs_status status)
{
    if (status != QS_OK)
        fail_msg("%s: %s", qs_status_text(status), qs_last_error());
}

static inline world open_world(const char *level, int threads, uint64_t bytes)
{
    world w = {0};
    qs_options options;
    qs_options_default(&options);
    options.cpu = level;
    options.threads = threads;
    ok(qs_open(&w.context, &options));
    ok(qs_queue_create(w.context, &w.queue));
    ok(qs_buffer_create(w.context, QS_MEMORY_OTHER, bytes, &w.buffer));
    return w;
}

static inline void close_world(world *w)
{
    qs_buffer_free(&w->buffer);
    qs_queue_free(&w->queue);
    qs_close(&w->context);
}

static inline qs_view fresh(world *w, qs_format format, int64_t rows, int64_t cols)
{
    qs_view v = qs_view_at(w->buffer, w->used, format, rows, cols);
    v.row_bytes += rows > 1 ? w->gap : 0;
    w->used += ((uint64_t)(rows * v.row_bytes) + 63) / 64 * 64;
    assert_true(w->used <= qs_buffer_bytes(w->buffer));
    return v;
}

static inline qs_view put(world *w, qs_format format, int64_t rows, int64_t cols, const void *data)
{
    qs_view v = fresh(w, format, rows, cols);
    ok(qs_write(w->queue, v, data));
    return v;
}

static inline qs_view put_f32(world *w, int64_t rows, int64_t cols, const float *data)
{
    return put(w, QS_F32, rows, cols, data);
}

static inline qs_view zeros(world *w, int64_t rows, int64_t cols)
{
    return put_f32(w, rows, cols, host(rows * cols, sizeof(float)));
}

static inline void *get(world *w, qs_view v)
{
    void *data = host(v.rows, (size_t)qs_row_bytes((qs_format)v.format, v.cols));
    ok(qs_read(w->queue, v, data));
    return data;
}

static inline void submit(world *w, qs_op op)
{
    ok(qs_submit(w->queue, &op, 1));
}

/* ---- values ----------------------------------------------------------------------------------------------------- */

static inline uint32_t bits(uint64_t seed, int64_t i)
{
    uint32_t out[4];
    qs_philox(seed, 7, QS_RANDOM_FLOATS, 1, 0, (uint32_t)(i / 4), out);
    return out[i % 4];
}

/* Uniform in (-size, size). */
static inline float *noise(int64_t count, float size, uint64_t seed)
{
    float *x = host(count, sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = size * ((float)(int32_t)bits(seed, i) * 0x1p-31f);
    return x;
}

static inline int32_t *symbols(int64_t count, int64_t limit, uint64_t seed)
{
    int32_t *t = host(count, sizeof *t);
    for (int64_t i = 0; i < count; i++)
        t[i] = (int32_t)(bits(seed, i) % (uint32_t)limit);
    return t;
}

/* Random valid packed values; random bits are valid in every format but T2. */
static inline void *packed(qs_format format, int64_t rows, int64_t cols, uint64_t seed)
{
    const int64_t words = rows * qs_row_bytes(format, cols) / 4;
    uint32_t *p = host(words, sizeof *p);
    for (int64_t i = 0; i < words; i++) {
        p[i] = bits(seed, i);
        if (format == QS_T2)
            p[i] &= ~((p[i] & 0x55555555u) << 1);
    }
    return p;
}

/* fp16 scales around 0.05 */
static inline uint16_t *scales(int64_t count, uint64_t seed)
{
    uint16_t *s = host(count, sizeof *s);
    const float *x = noise(count, 0.02f, seed);
    for (int64_t i = 0; i < count; i++)
        s[i] = qs_float_to_half(0.05f + x[i]);
    return s;
}

static inline int sign_at(const uint32_t *w, int64_t cols, int64_t n, int64_t k)
{
    return w[n * (cols / 32) + k / 32] >> (k % 32) & 1 ? 1 : -1;
}

static inline double *widen(const float *x, int64_t count)
{
    double *y = host(count, sizeof *y);
    for (int64_t i = 0; i < count; i++)
        y[i] = (double)x[i];
    return y;
}

static inline void assert_close(const float *x, const double *expected, int64_t count, double tolerance, const char *what)
{
    for (int64_t i = 0; i < count; i++)
        if (!(fabs((double)x[i] - expected[i]) <= tolerance * (1.0 + fabs(expected[i]))))
            fail_msg("%s: element %lld is %.9g, expected %.9g", what, (long long)i, (double)x[i], expected[i]);
}

static inline void assert_same(const void *x, const void *expected, int64_t bytes, const char *what)
{
    const unsigned char *a = x, *b = expected;
    for (int64_t i = 0; i < bytes; i++)
        if (a[i] != b[i])
            fail_msg("%s: byte %lld of %lld differs", what, (long long)i, (long long)bytes);
}

static inline float fold16(const float *stripe)
{
    float s[16];
    memcpy(s, stripe, sizeof s);
    for (int half = 8; half >= 1; half /= 2)
        for (int j = 0; j < half; j++)
            s[j] = s[j] + s[j + half];
    return s[0];
}

/* The chunk tree as the page defines it: node (l, i), absent children skipped; present NULL = all. */
static inline int tree(const float *partial, const char *present, int64_t count, int level, int64_t i, float *sum)
{
    if (i << level >= count)
        return 0;
    if (level == 0) {
        *sum = partial[i];
        return present ? present[i] : 1;
    }
    float left = 0, right = 0;
    const int has_left = tree(partial, present, count, level - 1, 2 * i, &left);
    const int has_right = tree(partial, present, count, level - 1, 2 * i + 1, &right);
    *sum = has_left && has_right ? left + right : has_left ? left : right;
    return has_left || has_right;
}

static inline float tree_sum(const float *partial, const char *present, int64_t count)
{
    float sum = 0;
    return tree(partial, present, count, 20, 0, &sum) ? sum : 0.0f;
}

static inline int64_t chunks_of(int64_t tokens)
{
    return (tokens + QS_TOKEN_CHUNK - 1) / QS_TOKEN_CHUNK;
}

#endif
