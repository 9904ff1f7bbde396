/* test_ops.c - every op through the public API alone: values against naive double arithmetic, gradients against central
 * differences, written orders bit for bit, equal bytes for every thread count and kernel level, memory of the visit. */
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

/* ---- a context with one buffer, and host memory that teardown frees -------------------------------------------------- */

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

static void *host(int64_t count, size_t size)
{
    assert_true(n_blocks < BLOCKS);
    void *p = calloc((size_t)count, size);
    assert_non_null(p);
    blocks[n_blocks++] = p;
    return p;
}

static int free_host(void **state)
{
    (void)state;
    while (n_blocks > 0)
        free(blocks[--n_blocks]);
    return 0;
}

static void ok(qs_status status)
{
    if (status != QS_OK)
        fail_msg("%s: %s", qs_status_text(status), qs_last_error());
}

static world open_world(const char *level, int threads, uint64_t bytes)
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

static void close_world(world *w)
{
    qs_buffer_free(&w->buffer);
    qs_queue_free(&w->queue);
    qs_close(&w->context);
}

static qs_view fresh(world *w, qs_format format, int64_t rows, int64_t cols)
{
    qs_view v = qs_view_at(w->buffer, w->used, format, rows, cols);
    v.row_bytes += rows > 1 ? w->gap : 0;
    w->used += ((uint64_t)(rows * v.row_bytes) + 63) / 64 * 64;
    assert_true(w->used <= qs_buffer_bytes(w->buffer));
    return v;
}

static qs_view put(world *w, qs_format format, int64_t rows, int64_t cols, const void *data)
{
    qs_view v = fresh(w, format, rows, cols);
    ok(qs_write(w->queue, v, data));
    return v;
}

static qs_view put_f32(world *w, int64_t rows, int64_t cols, const float *data)
{
    return put(w, QS_F32, rows, cols, data);
}

static void *get(world *w, qs_view v)
{
    void *data = host(v.rows, (size_t)qs_row_bytes((qs_format)v.format, v.cols));
    ok(qs_read(w->queue, v, data));
    return data;
}

static void submit(world *w, qs_op op)
{
    ok(qs_submit(w->queue, &op, 1));
}

/* ---- values ---------------------------------------------------------------------------------------------------------- */

static uint32_t bits(uint64_t seed, int64_t i)
{
    uint32_t out[4];
    qs_philox(seed, 7, QS_RANDOM_FLOATS, 1, 0, (uint32_t)(i / 4), out);
    return out[i % 4];
}

/* Uniform in (-size, size). */
static float *noise(int64_t count, float size, uint64_t seed)
{
    float *x = host(count, sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = size * ((float)(int32_t)bits(seed, i) * 0x1p-31f);
    return x;
}

static int32_t *symbols(int64_t count, int64_t limit, uint64_t seed)
{
    int32_t *t = host(count, sizeof *t);
    for (int64_t i = 0; i < count; i++)
        t[i] = (int32_t)(bits(seed, i) % (uint32_t)limit);
    return t;
}

/* Random valid packed values; random bits are valid in every format but T2. */
static void *packed(qs_format format, int64_t rows, int64_t cols, uint64_t seed)
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
static uint16_t *scales(int64_t count, uint64_t seed)
{
    uint16_t *s = host(count, sizeof *s);
    const float *x = noise(count, 0.02f, seed);
    for (int64_t i = 0; i < count; i++)
        s[i] = qs_float_to_half(0.05f + x[i]);
    return s;
}

static int sign_at(const uint32_t *w, int64_t cols, int64_t n, int64_t k)
{
    return w[n * (cols / 32) + k / 32] >> (k % 32) & 1 ? 1 : -1;
}

static double *widen(const float *x, int64_t count)
{
    double *y = host(count, sizeof *y);
    for (int64_t i = 0; i < count; i++)
        y[i] = (double)x[i];
    return y;
}

static void assert_close(const float *x, const double *expected, int64_t count, double tolerance, const char *what)
{
    for (int64_t i = 0; i < count; i++)
        if (!(fabs((double)x[i] - expected[i]) <= tolerance * (1.0 + fabs(expected[i]))))
            fail_msg("%s: element %lld is %.9g, expected %.9g", what, (long long)i, (double)x[i], expected[i]);
}

static void assert_same(const void *x, const void *expected, int64_t bytes, const char *what)
{
    const unsigned char *a = x, *b = expected;
    for (int64_t i = 0; i < bytes; i++)
        if (a[i] != b[i])
            fail_msg("%s: byte %lld of %lld differs", what, (long long)i, (long long)bytes);
}

static float fold16(const float *stripe)
{
    float s[16];
    memcpy(s, stripe, sizeof s);
    for (int half = 8; half >= 1; half /= 2)
        for (int j = 0; j < half; j++)
            s[j] = s[j] + s[j + half];
    return s[0];
}

/* The chunk tree as the page defines it: node (l, i), absent children skipped; present NULL = all. */
static int tree(const float *partial, const char *present, int64_t count, int level, int64_t i, float *sum)
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

static float tree_sum(const float *partial, const char *present, int64_t count)
{
    float sum = 0;
    return tree(partial, present, count, 20, 0, &sum) ? sum : 0.0f;
}

static int64_t chunks_of(int64_t tokens)
{
    return (tokens + QS_TOKEN_CHUNK - 1) / QS_TOKEN_CHUNK;
}

/* ---- products -------------------------------------------------------------------------------------------------------- */

static float signed_value(float x, int sign) { return sign > 0 ? x : -x; }

static float dot_w1(const float *x, const uint32_t *w, int64_t cols, int64_t n)
{
    float sum = 0;
    for (int64_t k = 0; k < cols; k += 4) {
        float v[4];
        for (int q = 0; q < 4; q++)
            v[q] = signed_value(x[k + q], sign_at(w, cols, n, k + q));
        sum = sum + ((v[0] + v[1]) + (v[2] + v[3]));
    }
    return sum;
}

static float dot_w1_rows(const float *dy, const uint16_t *scale, const uint32_t *w, int64_t rows, int64_t cols, int64_t k)
{
    float sum = 0;
    for (int64_t n = 0; n < rows; n += 4) {
        float v[4] = {0};
        for (int64_t q = 0; q < 4 && n + q < rows; q++)
            v[q] = signed_value(qs_half_to_float(scale[n + q]) * dy[n + q], sign_at(w, cols, n + q, k));
        sum = sum + ((v[0] + v[1]) + (v[2] + v[3]));
    }
    return sum;
}

static void packed_products(world *w, int64_t M, int64_t N, int64_t K, int with_addend)
{
    const float *x = noise(M * K, 1, 1), *dy = noise(M * N, 1, 2), *add_y = noise(M * N, 1, 3), *add_x = noise(M * K, 1, 4);
    const uint32_t *weight = packed(QS_W1, N, K, 5);
    const uint16_t *scale = scales(N, 6);
    const qs_view vw = put(w, QS_W1, N, K, weight), vs = put(w, QS_F16, 1, N, scale);
    const qs_view y = put_f32(w, M, N, add_y), dx = put_f32(w, M, K, add_x), none = qs_absent();
    submit(w, qs_op_linear(y, put_f32(w, M, K, x), vw, vs, with_addend ? y : none));
    submit(w, qs_op_linear_dx(dx, put_f32(w, M, N, dy), vw, vs, with_addend ? dx : none));
    const float *got_y = get(w, y), *got_dx = get(w, dx);
    for (int64_t m = 0; m < M; m++) {
        for (int64_t n = 0; n < N; n++) {
            const float s = dot_w1(x + m * K, weight, K, n), alpha = qs_half_to_float(scale[n]);
            const float expected = with_addend ? fmaf(alpha, s, add_y[m * N + n]) : alpha * s;
            assert_true(got_y[m * N + n] == expected);
        }
        for (int64_t k = 0; k < K; k++) {
            const float s = dot_w1_rows(dy + m * N, scale, weight, N, K, k);
            assert_true(got_dx[m * K + k] == (with_addend ? s + add_x[m * K + k] : s));
        }
    }
    w->used = 0;
}

static void float_products(world *w, int64_t M, int64_t N, int64_t K, int with_addend)
{
    const float *x = noise(M * K, 1, 1), *dy = noise(M * N, 1, 2), *add_y = noise(M * N, 1, 3), *add_x = noise(M * K, 1, 4);
    const float *weight = noise(N * K, 1, 5);
    const qs_view vw = put_f32(w, N, K, weight), y = put_f32(w, M, N, add_y), dx = put_f32(w, M, K, add_x), none = qs_absent();
    submit(w, qs_op_linear(y, put_f32(w, M, K, x), vw, none, with_addend ? y : none));
    submit(w, qs_op_linear_dx(dx, put_f32(w, M, N, dy), vw, none, with_addend ? dx : none));
    const float *got_y = get(w, y), *got_dx = get(w, dx);
    for (int64_t m = 0; m < M; m++) {
        for (int64_t n = 0; n < N; n++) {
            float s = 0;
            for (int64_t k = 0; k < K; k++)
                s = fmaf(x[m * K + k], weight[n * K + k], s);
            assert_true(got_y[m * N + n] == (with_addend ? s + add_y[m * N + n] : s));
        }
        for (int64_t k = 0; k < K; k++) {
            float s = 0;
            for (int64_t n = 0; n < N; n++)
                s = fmaf(dy[m * N + n], weight[n * K + k], s);
            assert_true(got_dx[m * K + k] == (with_addend ? s + add_x[m * K + k] : s));
        }
    }
    w->used = 0;
}

/* The written orders, bit for bit. */
static void test_products(void **state)
{
    (void)state;
    world w = open_world(NULL, 2, BYTES);
    w.gap = 12;
    for (int addend = 0; addend < 2; addend++) {
        packed_products(&w, 1, 97, 64, addend);
        packed_products(&w, 7, 33, 96, addend);
        packed_products(&w, 131, 70, 160, addend);
        float_products(&w, 1, 70, 45, addend);
        float_products(&w, 131, 67, 33, addend);
        float_products(&w, 3, 5, 1030, addend);
    }
    close_world(&w);
}

/* dw[n,k]: fma over the tokens of a chunk ascending, chunks by the tree. */
static float dw_exact(const float *dy, const float *x, int64_t M, int64_t N, int64_t K, int64_t n, int64_t k)
{
    float partial[64];
    for (int64_t c = 0; c < chunks_of(M); c++) {
        partial[c] = 0;
        for (int64_t m = c * QS_TOKEN_CHUNK; m < M && m < (c + 1) * QS_TOKEN_CHUNK; m++)
            partial[c] = fmaf(dy[m * N + n], x[m * K + k], partial[c]);
    }
    return tree_sum(partial, NULL, chunks_of(M));
}

static void test_linear_dw(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {{1, 33, 5}, {256, 40, 300}, {257, 70, 33}, {1300, 35, 290}, {1792, 3, 64}};
    world w = open_world(NULL, 2, BYTES);
    w.gap = 4;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const int64_t M = shapes[s][0], N = shapes[s][1], K = shapes[s][2];
        const float *dy = noise(M * N, 1, 1), *x = noise(M * K, 1, 2);
        const qs_view dw = fresh(&w, QS_F32, N, K);
        submit(&w, qs_op_linear_dw(dw, put_f32(&w, M, N, dy), put_f32(&w, M, K, x)));
        const float *got = get(&w, dw);
        for (int64_t i = 0; i < N * K; i += 1 + (N * K > 5000 ? 6 : 0))
            assert_true(got[i] == dw_exact(dy, x, M, N, K, i / K, i % K));
        w.used = 0;
    }
    close_world(&w);
}

/* ---- gradients against central differences --------------------------------------------------------------------------- */

enum { INPUTS = 3 };
typedef struct problem {
    int64_t i[8];                        /* sizes, as the forward function wants them */
    double *in[INPUTS];
    int64_t count[INPUTS], outputs;
    const double *dout;                  /* loss = sum dout * out */
    void (*forward)(const struct problem *p, double *out);
    const void *extra;
} problem;

static double loss_of(const problem *p)
{
    double *out = calloc((size_t)p->outputs, sizeof *out), loss = 0;
    assert_non_null(out);
    p->forward(p, out);
    for (int64_t j = 0; j < p->outputs; j++)
        loss += p->dout[j] * out[j];
    free(out);
    return loss;
}

/* grad of input `which`, about `samples` elements of it. */
static void check_gradient(problem *p, int which, const float *grad, int samples, const char *what)
{
    const int64_t step = p->count[which] / samples + 1;
    for (int64_t i = 0; i < p->count[which]; i += step) {
        const double h = 1e-4, x = p->in[which][i];
        p->in[which][i] = x + h;
        const double up = loss_of(p);
        p->in[which][i] = x - h;
        const double down = loss_of(p);
        p->in[which][i] = x;
        const double expected = (up - down) / (2 * h);
        if (!(fabs((double)grad[i] - expected) <= 2e-4 * (1 + fabs(expected))))
            fail_msg("%s: gradient %lld is %.9g, differences say %.9g", what, (long long)i, (double)grad[i], expected);
    }
}

/* i = {M, N, K}; in = x, w, scale (count 0: none) */
static void linear_forward(const problem *p, double *out)
{
    const int64_t M = p->i[0], N = p->i[1], K = p->i[2];
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            double s = 0;
            for (int64_t k = 0; k < K; k++)
                s += p->in[0][m * K + k] * p->in[1][n * K + k];
            out[m * N + n] = s * (p->count[2] ? p->in[2][n] : 1);
        }
}

static void test_linear_gradients(void **state)
{
    (void)state;
    const int64_t M = 19, N = 13, K = 32;
    world w = open_world(NULL, 2, BYTES);
    const float *x = noise(M * K, 1, 1), *dy = noise(M * N, 1, 2), *dense = noise(N * K, 1, 3);
    const qs_view none = qs_absent(), vx = put_f32(&w, M, K, x), vdy = put_f32(&w, M, N, dy), dx = fresh(&w, QS_F32, M, K);
    const qs_view dw = fresh(&w, QS_F32, N, K), dmaster = fresh(&w, QS_F32, 1, N);
    problem p = {.i = {M, N, K}, .in = {widen(x, M * K), widen(dense, N * K)}, .count = {M * K, N * K}, .outputs = M * N,
                 .dout = widen(dy, M * N), .forward = linear_forward};
    submit(&w, qs_op_linear_dx(dx, vdy, put_f32(&w, N, K, dense), none, none));
    submit(&w, qs_op_linear_dw(dw, vdy, vx));
    check_gradient(&p, 0, get(&w, dx), 60, "linear_dx f32");
    check_gradient(&p, 1, get(&w, dw), 60, "linear_dw");

    const uint32_t *weight = packed(QS_W1, N, K, 4);
    const uint16_t *scale = scales(N, 5);
    const qs_view vw = put(&w, QS_W1, N, K, weight);
    p.in[2] = host(N, sizeof(double));
    p.count[2] = N;
    for (int64_t n = 0; n < N; n++)
        p.in[2][n] = (double)qs_half_to_float(scale[n]);
    for (int64_t i = 0; i < N * K; i++)
        p.in[1][i] = sign_at(weight, K, i / K, i % K);
    submit(&w, qs_op_linear_dx(dx, vdy, vw, put(&w, QS_F16, 1, N, scale), none));
    submit(&w, qs_op_scale_grad(dmaster, vw, dw, 1.0f));
    check_gradient(&p, 0, get(&w, dx), 60, "linear_dx w1");
    check_gradient(&p, 2, get(&w, dmaster), 13, "scale_grad");
    close_world(&w);
}

/* i = {M, groups, d}; in = x, gain */
static void rmsnorm_forward(const problem *p, double *out)
{
    const int64_t d = p->i[2];
    for (int64_t g = 0; g < p->i[0] * p->i[1]; g++) {
        double squares = 0;
        for (int64_t j = 0; j < d; j++)
            squares += p->in[0][g * d + j] * p->in[0][g * d + j];
        const double rstd = 1 / sqrt(squares / (double)d + 1e-5);
        for (int64_t j = 0; j < d; j++)
            out[g * d + j] = p->in[0][g * d + j] * rstd * p->in[1][j];
    }
}

static void test_rmsnorm(void **state)
{
    (void)state;
    const int64_t M = 300, G = 3, d = 21, X = G * d;
    world w = open_world(NULL, 2, BYTES);
    const float *x = noise(M * X, 1, 1), *gain = noise(d, 1, 2), *dy = noise(M * X, 1, 3), *add = noise(M * X, 1, 4);
    const qs_view vx = put_f32(&w, M, X, x), vg = put_f32(&w, 1, d, gain), y = fresh(&w, QS_F32, M, X);
    const qs_view dx = put_f32(&w, M, X, add), partial = fresh(&w, QS_F32, 2, d), dgain = fresh(&w, QS_F32, 1, d);
    problem p = {.i = {M, G, d}, .in = {widen(x, M * X), widen(gain, d)}, .count = {M * X, d}, .outputs = M * X,
                 .dout = widen(dy, M * X), .forward = rmsnorm_forward};
    double *expected = host(M * X, sizeof *expected);
    rmsnorm_forward(&p, expected);
    submit(&w, qs_op_rmsnorm(y, vx, vg, 1e-5f));
    assert_close(get(&w, y), expected, M * X, 1e-6, "rmsnorm");
    submit(&w, qs_op_rmsnorm_grad(dx, put_f32(&w, M, X, dy), vx, vg, dx, partial, 1e-5f));
    submit(&w, qs_op_chunk_sum(dgain, partial, 1.0f));
    float *got = get(&w, dx);
    for (int64_t i = 0; i < M * X; i++)
        got[i] -= add[i];
    check_gradient(&p, 0, got, 60, "rmsnorm_grad");
    check_gradient(&p, 1, get(&w, dgain), 21, "rmsnorm_grad, gain");
    close_world(&w);
}

static void swiglu_forward(const problem *p, double *out)
{
    for (int64_t i = 0; i < p->outputs; i++)
        out[i] = p->in[0][i] / (1 + exp(-p->in[0][i])) * p->in[1][i];
}

static void test_swiglu(void **state)
{
    (void)state;
    const int64_t M = 5, F = 77, n = M * F;
    world w = open_world(NULL, 2, BYTES);
    const float *gate = noise(n, 4, 1), *up = noise(n, 2, 2), *dy = noise(n, 1, 3);
    const qs_view vg = put_f32(&w, M, F, gate), vu = put_f32(&w, M, F, up), y = fresh(&w, QS_F32, M, F);
    problem p = {.in = {widen(gate, n), widen(up, n)}, .count = {n, n}, .outputs = n, .dout = widen(dy, n),
                 .forward = swiglu_forward};
    double *expected = host(n, sizeof *expected);
    swiglu_forward(&p, expected);
    submit(&w, qs_op_swiglu(y, vg, vu));
    assert_close(get(&w, y), expected, n, 1e-6, "swiglu");
    submit(&w, qs_op_swiglu_grad(vg, vu, put_f32(&w, M, F, dy), vg, vu));
    check_gradient(&p, 0, get(&w, vg), 80, "swiglu_grad, gate");
    check_gradient(&p, 1, get(&w, vu), 80, "swiglu_grad, up");
    close_world(&w);
}

/* i = {M, heads, head_dim, seq, first}; extra: angles per (position, pair) */
static void rope_forward(const problem *p, double *out)
{
    const int64_t H = p->i[1], d = p->i[2], half = d / 2;
    const double *angle = p->extra;
    for (int64_t m = 0; m < p->i[0]; m++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t j = 0; j < half; j++) {
                const double a = angle[(p->i[4] + m % p->i[3]) * half + j], *x = p->in[0] + (m * H + h) * d;
                double *y = out + (m * H + h) * d;
                y[j] = x[j] * cos(a) - x[j + half] * sin(a);
                y[j + half] = x[j + half] * cos(a) + x[j] * sin(a);
            }
}

static void test_rope(void **state)
{
    (void)state;
    enum { M = 14, H = 3, D = 10, SEQ = 7, FIRST = 2, POSITIONS = 9, X = H * D };
    world w = open_world(NULL, 2, BYTES);
    const float *x = noise(M * X, 1, 1), *dy = noise(M * X, 1, 2), *angle = noise(POSITIONS * D / 2, 3, 3);
    float *table = host(POSITIONS * D, sizeof *table);
    for (int i = 0; i < POSITIONS * D / 2; i++) {
        table[i] = (float)cos((double)angle[i]);
        table[POSITIONS * D / 2 + i] = (float)sin((double)angle[i]);
    }
    const qs_view cosine = put_f32(&w, POSITIONS, D / 2, table);
    const qs_view sine = put_f32(&w, POSITIONS, D / 2, table + POSITIONS * D / 2);
    const qs_view vx = put_f32(&w, M, X, x), vdy = put_f32(&w, M, X, dy);
    problem p = {.i = {M, H, D, SEQ, FIRST}, .in = {widen(x, M * X)}, .count = {M * X}, .outputs = M * X,
                 .dout = widen(dy, M * X), .forward = rope_forward, .extra = widen(angle, POSITIONS * D / 2)};
    double expected[M * X];
    rope_forward(&p, expected);
    submit(&w, qs_op_rope(vx, cosine, sine, D, SEQ, FIRST, 0));
    assert_close(get(&w, vx), expected, M * X, 1e-6, "rope");
    submit(&w, qs_op_rope(vdy, cosine, sine, D, SEQ, FIRST, QS_FLAG_INVERSE));
    check_gradient(&p, 0, get(&w, vdy), 100, "rope inverse");
    close_world(&w);
}

/* i = {M, V}; extra: targets; out[0] = sum of losses */
static void loss_forward(const problem *p, double *out)
{
    const int32_t *target = p->extra;
    const int64_t V = p->i[1];
    for (int64_t m = 0; m < p->i[0]; m++) {
        double z = 0;
        for (int64_t v = 0; v < V; v++)
            z += exp(p->in[0][m * V + v]);
        out[0] += log(z) - p->in[0][m * V + target[m]];
    }
}

static void test_cross_entropy(void **state)
{
    (void)state;
    const int64_t M = 300, V = 37;
    world w = open_world(NULL, 2, BYTES);
    const float *logits = noise(M * V, 5, 1);
    const int32_t *targets = symbols(M, V, 2);
    const qs_view vl = put_f32(&w, M, V, logits), vt = put(&w, QS_I32, 1, M, targets), partial = fresh(&w, QS_F32, 2, 1);
    const double factor = 0.25;
    problem p = {.i = {M, V}, .in = {widen(logits, M * V)}, .count = {M * V}, .outputs = 1, .dout = &factor,
                 .forward = loss_forward, .extra = targets};
    double expected = 0;
    loss_forward(&p, &expected);
    submit(&w, qs_op_cross_entropy(vl, vt, partial, 1.0f, QS_FLAG_NO_GRAD));
    assert_same(get(&w, vl), logits, M * V * 4, "cross_entropy without gradient");
    const float *only = get(&w, partial);
    submit(&w, qs_op_cross_entropy(vl, vt, partial, 0.25f, 0));
    const float *loss = get(&w, partial), total = loss[0] + loss[1];
    assert_same(loss, only, 8, "the loss with and without gradient");
    assert_close(&total, &expected, 1, 1e-6, "cross_entropy");
    check_gradient(&p, 0, get(&w, vl), 100, "cross_entropy");
    close_world(&w);
}

/* ---- attention --------------------------------------------------------------------------------------------------------- */

typedef struct heads {
    int64_t S, tq, tkv, H, G, d;
} heads;

/* i = {S, tq, tkv, H, G, d}; in = q, k, v */
static void attention_forward(const problem *p, double *out)
{
    const int64_t tq = p->i[1], tkv = p->i[2], H = p->i[3], G = p->i[4], d = p->i[5];
    double *score = calloc((size_t)tkv, sizeof *score);
    assert_non_null(score);
    for (int64_t r = 0; r < p->i[0] * tq * H; r++) {
        const int64_t row = r / H, s = row / tq, h = r % H, g = h / (H / G), seen = tkv - tq + row % tq + 1;
        double top = -INFINITY, sum = 0;
        for (int64_t j = 0; j < seen; j++) {
            score[j] = 0;
            for (int64_t c = 0; c < d; c++)
                score[j] += p->in[0][r * d + c] * p->in[1][((s * tkv + j) * G + g) * d + c];
            score[j] /= sqrt((double)d);
            top = score[j] > top ? score[j] : top;
        }
        for (int64_t j = 0; j < seen; j++)
            sum += score[j] = exp(score[j] - top);
        for (int64_t j = 0; j < seen; j++)
            for (int64_t c = 0; c < d; c++)
                out[r * d + c] += score[j] / sum * p->in[2][((s * tkv + j) * G + g) * d + c];
    }
    free(score);
}

static problem attention_problem(heads a, const float *q, const float *k, const float *v, const float *dout)
{
    const int64_t rows = a.S * a.tq * a.H * a.d, keys = a.S * a.tkv * a.G * a.d;
    return (problem){.i = {a.S, a.tq, a.tkv, a.H, a.G, a.d}, .in = {widen(q, rows), widen(k, keys), widen(v, keys)},
                     .count = {rows, keys, keys}, .outputs = rows, .dout = widen(dout, rows), .forward = attention_forward};
}

static void test_attention(void **state)
{
    (void)state;
    static const heads shapes[] = {{2, 5, 5, 4, 2, 8}, {1, 130, 130, 2, 1, 17}, {2, 67, 150, 6, 2, 12}, {3, 1, 66, 3, 3, 32}};
    world w = open_world(NULL, 2, BYTES);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const heads a = shapes[i];
        const int64_t rows = a.S * a.tq, keys = a.S * a.tkv, X = a.H * a.d, Y = a.G * a.d;
        const float *q = noise(rows * X, 3, 1), *k = noise(keys * Y, 3, 2), *v = noise(keys * Y, 1, 3);
        const qs_view out = fresh(&w, QS_F32, rows, X), lse = fresh(&w, QS_F32, rows, a.H);
        problem p = attention_problem(a, q, k, v, q);
        double *expected = host(rows * X, sizeof *expected);
        attention_forward(&p, expected);
        submit(&w, qs_op_attention(out, put_f32(&w, rows, X, q), put_f32(&w, keys, Y, k), put_f32(&w, keys, Y, v), lse, a.d,
                                   a.tq, a.tkv));
        assert_close(get(&w, out), expected, rows * X, 5e-6, "attention");
        w.used = 0;
    }
    close_world(&w);
}

/* Any split of the queries gives the bytes of the whole, and keys a query may not see cannot reach it. */
static void test_decode_equals_prefill(void **state)
{
    (void)state;
    enum { T = 150, H = 4, G = 2, D = 24, X = H * D, Y = G * D };
    static const int64_t steps[] = {1, 5, 64, 67};
    world w = open_world(NULL, 2, BYTES);
    const float *q = noise(T * X, 3, 1);
    float *k = noise(T * Y, 3, 2), *v = noise(T * Y, 1, 3);
    const qs_view vq = put_f32(&w, T, X, q), vk = put_f32(&w, T, Y, k), vv = put_f32(&w, T, Y, v);
    const qs_view out = fresh(&w, QS_F32, T, X), lse = fresh(&w, QS_F32, T, H);
    submit(&w, qs_op_attention(out, vq, vk, vv, lse, D, T, T));
    const float *whole = get(&w, out), *whole_lse = get(&w, lse);
    for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
        for (int64_t t = 0; t < T; t += steps[s]) {
            const int64_t n = steps[s] < T - t ? steps[s] : T - t;
            submit(&w, qs_op_attention(qs_view_rows(out, t, n), qs_view_rows(vq, t, n), qs_view_rows(vk, 0, t + n),
                                       qs_view_rows(vv, 0, t + n), qs_view_rows(lse, t, n), D, n, t + n));
        }
        assert_same(get(&w, out), whole, T * X * 4, "attention in steps");
        assert_same(get(&w, lse), whole_lse, T * H * 4, "lse in steps");
    }
    for (int64_t i = 100 * Y; i < T * Y; i++)
        k[i] = v[i] = i % 2 ? NAN : INFINITY;
    ok(qs_write(w.queue, vk, k));
    ok(qs_write(w.queue, vv, v));
    submit(&w, qs_op_attention(out, vq, vk, vv, lse, D, T, T));
    assert_same(get(&w, out), whole, 100 * X * 4, "attention before poisoned keys");
    close_world(&w);
}

static void test_attention_gradient(void **state)
{
    (void)state;
    static const heads shapes[] = {{2, 9, 9, 4, 2, 6}, {1, 131, 131, 2, 1, 8}, {2, 70, 70, 3, 3, 5}};
    world w = open_world(NULL, 2, BYTES);
    w.gap = 8;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const heads a = shapes[i];
        const int64_t rows = a.S * a.tq, X = a.H * a.d, Y = a.G * a.d;
        const float *q = noise(rows * X, 2, 1), *k = noise(rows * Y, 2, 2), *v = noise(rows * Y, 1, 3);
        const float *dout = noise(rows * X, 1, 4);
        const qs_view vq = put_f32(&w, rows, X, q), vk = put_f32(&w, rows, Y, k), vv = put_f32(&w, rows, Y, v);
        const qs_view out = fresh(&w, QS_F32, rows, X), lse = fresh(&w, QS_F32, rows, a.H), dq = fresh(&w, QS_F32, rows, X);
        const qs_view dk = fresh(&w, QS_F32, rows, Y), dv = fresh(&w, QS_F32, rows, Y);
        submit(&w, qs_op_attention(out, vq, vk, vv, lse, a.d, a.tq, a.tkv));
        submit(&w, qs_op_attention_grad(dq, dk, dv, put_f32(&w, rows, X, dout), vq, vk, vv, out, lse, a.d, a.tq));
        problem p = attention_problem(a, q, k, v, dout);
        check_gradient(&p, 0, get(&w, dq), 12, "attention_grad, q");
        check_gradient(&p, 1, get(&w, dk), 12, "attention_grad, k");
        check_gradient(&p, 2, get(&w, dv), 12, "attention_grad, v");
        w.used = 0;
    }
    close_world(&w);
}

/* ---- embedding, sums, optimizer ---------------------------------------------------------------------------------------- */

static void test_embed(void **state)
{
    (void)state;
    const int64_t M = 1300, V = 40, D = 6;
    world w = open_world(NULL, 2, BYTES);
    int32_t *tokens = symbols(M, V - 1, 1);          /* symbol V-1 never occurs */
    for (int64_t m = 256; m < 512; m++)
        tokens[m] = tokens[m] == 3 ? 4 : tokens[m];  /* 3 is missing in one chunk */
    const float *table = noise(V * D, 1, 2), *dy = noise(M * D, 1, 3);
    const qs_view vt = put(&w, QS_I32, 1, M, tokens), y = fresh(&w, QS_F32, M, D), dtable = put_f32(&w, V, D, table);
    submit(&w, qs_op_embed(y, vt, dtable));
    const float *got = get(&w, y);
    for (int64_t i = 0; i < M * D; i++)
        assert_true(got[i] == table[tokens[i / D] * D + i % D]);
    submit(&w, qs_op_embed_grad(dtable, vt, put_f32(&w, M, D, dy)));
    got = get(&w, dtable);
    for (int64_t i = 0; i < V * D; i++) {
        float partial[8] = {0};
        char present[8] = {0};
        for (int64_t m = 0; m < M; m++)
            if (tokens[m] == i / D) {
                partial[m / QS_TOKEN_CHUNK] = partial[m / QS_TOKEN_CHUNK] + dy[m * D + i % D];
                present[m / QS_TOKEN_CHUNK] = 1;
            }
        assert_true(got[i] == tree_sum(partial, present, chunks_of(M)));
    }
    tokens[7] = (int32_t)V;
    ok(qs_write(w.queue, vt, tokens));
    const qs_op bad = qs_op_embed(y, vt, dtable);
    assert_int_equal(qs_submit(w.queue, &bad, 1), QS_ERR_ARG);
    close_world(&w);
}

static void test_sums(void **state)
{
    (void)state;
    world w = open_world(NULL, 2, BYTES);
    for (int64_t C = 1; C < 20; C++) {
        const float *partial = noise(C * 300, 1, (uint64_t)C);
        const qs_view out = fresh(&w, QS_F32, 1, 300);
        submit(&w, qs_op_chunk_sum(out, put_f32(&w, C, 300, partial), 0.3f));
        const float *got = get(&w, out);
        for (int64_t j = 0; j < 300; j++) {
            float column[20];
            for (int64_t c = 0; c < C; c++)
                column[c] = partial[c * 300 + j];
            assert_true(got[j] == 0.3f * tree_sum(column, NULL, C));
        }
    }
    const int64_t R = 1100, N = 21;
    const float *x = noise(R * N, 1, 1);
    float sums[8] = {0};
    for (int64_t r = 0; r < R; r++) {
        float stripe[16] = {0};
        for (int64_t j = 0; j < N; j++)
            stripe[j % 16] = fmaf(x[r * N + j], x[r * N + j], stripe[j % 16]);
        sums[r / QS_TOKEN_CHUNK] = sums[r / QS_TOKEN_CHUNK] + fold16(stripe);
    }
    const float total = tree_sum(sums, NULL, chunks_of(R)), start = 2.5f, limit = 1.5f;
    const qs_view vx = put_f32(&w, R, N, x), out = put_f32(&w, 1, 1, &start), factor = fresh(&w, QS_F32, 1, 1);
    submit(&w, qs_op_sum_squares(out, vx, QS_FLAG_ADD));
    assert_true(*(const float *)get(&w, out) == start + total);
    submit(&w, qs_op_sum_squares(out, vx, 0));
    assert_true(*(const float *)get(&w, out) == total);
    submit(&w, qs_op_clip_factor(factor, out, limit));
    assert_true(*(const float *)get(&w, factor) == limit / sqrtf(total));
    submit(&w, qs_op_clip_factor(factor, out, 1e9f));
    assert_true(*(const float *)get(&w, factor) == 1.0f);
    submit(&w, qs_op_clip_factor(factor, put_f32(&w, 1, 1, &(float){0}), limit));
    assert_true(*(const float *)get(&w, factor) == 1.0f);
    close_world(&w);
}

static void test_optimizer(void **state)
{
    (void)state;
    const int64_t R = 7, N = 33, n = R * N;
    const qs_adamw a = {.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .c1 = 0.19f, .c2 = 0.1f};
    world w = open_world(NULL, 2, BYTES);
    const float *p = noise(n, 1, 1), *g = noise(n, 1, 2), *m = noise(n, 1, 3), factor = 0.7f;
    float *v = noise(n, 1, 4);
    for (int64_t i = 0; i < n; i++)
        v[i] = fabsf(v[i]);
    const uint16_t *scale = scales(R, 5);
    const qs_view vp = put_f32(&w, R, N, p), vm = put_f32(&w, R, N, m), vv = put_f32(&w, R, N, v);
    submit(&w, qs_op_adamw(vp, put_f32(&w, R, N, g), vm, vv, put_f32(&w, 1, 1, &factor), put(&w, QS_F16, 1, R, scale), a));
    double *expected = host(n, sizeof *expected);
    for (int64_t i = 0; i < n; i++) {
        const double q = (double)g[i] * (double)(factor * qs_half_to_float(scale[i / N]));
        const double m1 = 0.9 * (double)m[i] + 0.1 * q, v1 = 0.95 * (double)v[i] + 0.05 * q * q;
        expected[i] = (double)p[i] * (1 - 0.01 * 0.1) - 0.01 * (m1 / 0.19) / (sqrt(v1 / 0.1) + 1e-8);
    }
    assert_close(get(&w, vp), expected, n, 1e-6, "adamw");

    const float *latent = noise(4 * 96, 1, 6);
    const qs_view vw = fresh(&w, QS_W1, 4, 96), half = fresh(&w, QS_F16, 1, 50);
    submit(&w, qs_op_binarize(vw, put_f32(&w, 4, 96, latent)));
    const uint32_t *bitsof = get(&w, vw);
    for (int64_t i = 0; i < 4 * 96; i++)
        assert_int_equal(sign_at(bitsof, 96, i / 96, i % 96), latent[i] >= 0 ? 1 : -1);
    submit(&w, qs_op_scales(half, put_f32(&w, 1, 50, latent), 0.37f));
    const uint16_t *halves = get(&w, half);
    for (int64_t i = 0; i < 50; i++)
        assert_int_equal(halves[i], qs_float_to_half(0.37f * latent[i]));
    const qs_view copy = fresh(&w, QS_W1, 4, 96);
    submit(&w, qs_op_copy(copy, vw));
    assert_same(get(&w, copy), bitsof, 4 * 12, "copy");
    close_world(&w);
}

/* ---- the state machine ------------------------------------------------------------------------------------------------- */

enum { FN = 100, FK = 320, FM = 600, FIRST_ROW = 64 };   /* 4 row blocks, the last of 4; 3 token chunks */

/* A matrix in the middle of training, on the device. */
typedef struct matrix {
    qs_fsm_visit u;
    qs_view r, c, control, dw;
} matrix;

static matrix make_matrix(world *w, qs_fsm fsm, int sticky)
{
    const qs_format format = qs_fsm_rule_of(fsm)->format;
    const float *b = noise(FM * FN, 1, 1), *x = noise(FM * FK, 1, 2);
    matrix t = {.u = {.fsm = fsm, .sticky = sticky, .seed = 0x123456789abcdefULL, .step = 5, .tensor = 9, .base = 0.3f,
                      .first_row = FIRST_ROW, .amplitude = 2.5f}};
    t.u.w = put(w, QS_W1, FN, FK, packed(QS_W1, FN, FK, 3));
    t.u.state = put(w, format, FN, FK, packed(format, FN, FK, 4));
    t.u.dy = put_f32(w, FM, FN, b);
    t.u.x = put_f32(w, FM, FK, x);
    t.u.scale = put(w, QS_F16, 1, FN, scales(FN, 5));
    t.u.a = fresh(w, QS_F32, 1, FN);
    t.u.b = fresh(w, QS_F32, 1, FK);
    t.u.theta = fresh(w, QS_F32, 1, 1);
    t.u.r_now = fresh(w, QS_F32, 1, FN);
    t.u.c_now = fresh(w, QS_F32, 1, FK);
    t.u.dmaster = fresh(w, QS_F32, 1, FN);
    t.u.counts = fresh(w, QS_I32, 1, 4);
    t.r = fresh(w, QS_F32, 1, FN);
    t.c = fresh(w, QS_F32, 1, FK);
    t.control = fresh(w, QS_F32, 1, 4);
    t.dw = fresh(w, QS_F32, FN, FK);
    if (fsm == QS_FSM_C8) {   /* bits repeat the sign of the level */
        const int8_t *state = get(w, t.u.state);
        uint32_t *signs = host(FN * FK / 32, sizeof *signs);
        for (int64_t i = 0; i < FN * FK; i++)
            signs[i / 32] |= (uint32_t)(state[i] >= 0) << (i % 32);
        ok(qs_write(w->queue, t.u.w, signs));
    }
    return t;
}

/* Step 1 measures, step 2 acts on what step 1 measured: the lagged visit, up to the point where it acts. */
static void measure(world *w, matrix *t)
{
    qs_fsm_visit first = t->u;
    first.flags = QS_FLAG_MEASURE;
    first.state = qs_absent();
    submit(w, qs_op_fsm_visit(&first));
    submit(w, qs_op_fsm_statistics(t->r, t->c, t->control, t->u.r_now, t->u.c_now, t->u.counts, 0.5f, 0.5f, 1.0f, FN * FK,
                                   QS_FLAG_FIRST));
    submit(w, qs_op_fsm_threshold(t->u.a, t->u.b, t->u.theta, t->r, t->c, t->control, 0.8f));
    submit(w, qs_op_linear_dw(t->dw, t->u.dy, t->u.x));
}

/* Everything a visit leaves behind. */
typedef struct outcome {
    int16_t *w, *state;    /* as qs_unpack gives them */
    float *r, *c, *dmaster;
    int32_t counts[4];
} outcome;

static outcome read_outcome(world *w, const matrix *t)
{
    outcome o = {.w = host(FN * FK, 2), .state = host(FN * FK, 2), .r = get(w, t->u.r_now), .c = get(w, t->u.c_now),
                 .dmaster = get(w, t->u.dmaster)};
    ok(qs_unpack(QS_W1, FN, FK, get(w, t->u.w), o.w));
    ok(qs_unpack((qs_format)t->u.state.format, FN, FK, get(w, t->u.state), o.state));
    memcpy(o.counts, get(w, t->u.counts), sizeof o.counts);
    return o;
}

static uint32_t philox_word(const qs_fsm_visit *u, qs_random_purpose purpose, int64_t row, int64_t index, int word)
{
    uint32_t out[4];
    qs_philox(u->seed, u->step, purpose, u->tensor, (uint32_t)(u->first_row + row), (uint32_t)index, out);
    return out[word];
}

/* The rule table, with stickiness: 8 random bits of column k are bit k mod 32 of words 0..7. */
static void reference_rule(const qs_fsm_visit *u, int64_t row, int64_t k, int pulse, int16_t *w, int16_t *state)
{
    const qs_fsm_rule *rule = qs_fsm_rule_of(u->fsm);
    const int t2 = u->fsm == QS_FSM_T2, sign = *w > 0, code = t2 ? (*state + 3) % 3 : *state - 1;
    if (rule->deepest[sign][code]) {
        int number = 0;
        for (int q = 0; q < 8; q++)
            number |= (int)(philox_word(u, QS_RANDOM_STICKY, row, k / 32 * 2 + q / 4, q % 4) >> (k % 32) & 1) << q;
        if (number >= u->sticky)
            pulse = 0;
    }
    const int next_w = rule->next[sign][code][pulse].w, next = rule->next[sign][code][pulse].state;
    *w = next_w ? 1 : -1;
    *state = (int16_t)(t2 ? (next == 2 ? -1 : next) : next + 1);
}

/* c8; returns whether the level moved. Levels run through half-integers: latent = value - 1 above zero. */
static int reference_c8(const qs_fsm_visit *u, int64_t row, int64_t k, float g, float sigma, int16_t *w, int16_t *state)
{
    const int i = (int)(k % 32), h = i % 8;
    const uint32_t half = philox_word(u, QS_RANDOM_ROUNDING, row, k / 32 * 4 + i / 8, h / 2) >> 16 * (h % 2) & 0xFFFF;
    const float ratio = fmaxf(-4, fminf(4, g / sigma));
    const float steps = floorf((sigma > 0 ? ratio * u->amplitude : 0) + (float)half * 0x1p-16f);
    const float latent = (float)(*state > 0 ? *state - 1 : *state) - steps;
    const int moved = (int)fmaxf(-128, fminf(127, latent));
    *state = (int16_t)(moved >= 0 ? moved + 1 : moved);
    *w = moved >= 0 ? 1 : -1;
    return steps != 0;
}

/* The visit from the dense sums G, in plain C: o holds w and state before, everything after. */
static void reference_visit(world *w, const matrix *t, outcome *o)
{
    const float *G = get(w, t->dw), *a = get(w, t->u.a), *b = get(w, t->u.b), theta = *(float *)get(w, t->u.theta);
    const uint16_t *scale = get(w, t->u.scale);
    float *blocks_of = host(FK * 4, sizeof *blocks_of);   /* [K][row blocks] */
    memset(o->counts, 0, sizeof o->counts);
    for (int64_t n = 0; n < FN; n++) {
        float row[16] = {0}, dot[16] = {0};
        const float alpha = qs_half_to_float(scale[n]), threshold = theta * a[n];
        for (int64_t k = 0; k < FK; k++) {
            int16_t *weight = &o->w[n * FK + k], *state = &o->state[n * FK + k];
            const float sum = G[n * FK + k], g = alpha * sum, limit = threshold * b[k];
            const int16_t old = *weight;
            float *block = &blocks_of[k * 4 + n / QS_ROW_BLOCK];
            row[k % 16] = fmaf(g, g, row[k % 16]);
            *block = fmaf(g, g, *block);
            dot[k % 16] = dot[k % 16] + (old > 0 ? sum : -sum);
            const int pulse = limit > 0 && fabsf(g) > limit ? (g < 0 ? 1 : 2) : 0;
            if (t->u.fsm == QS_FSM_C8)
                o->counts[0] += reference_c8(&t->u, n, k, g, a[n] * b[k], weight, state);
            else
                reference_rule(&t->u, n, k, pulse, weight, state);
            o->counts[0] += t->u.fsm != QS_FSM_C8 && pulse;
            o->counts[1] += *weight != old;
        }
        o->r[n] = fold16(row) / (float)FK;
        o->dmaster[n] = t->u.base * fold16(dot);
    }
    for (int64_t k = 0; k < FK; k++)
        o->c[k] = tree_sum(blocks_of + k * 4, NULL, 4) / (float)FN;
}

static void assert_outcome(const outcome *got, const outcome *expected, const char *what)
{
    assert_same(got->counts, expected->counts, sizeof got->counts, what);
    assert_same(got->w, expected->w, FN * FK * 2, what);
    assert_same(got->state, expected->state, FN * FK * 2, what);
    assert_same(got->r, expected->r, FN * 4, what);
    assert_same(got->c, expected->c, FK * 4, what);
    assert_same(got->dmaster, expected->dmaster, FN * 4, what);
}

static void test_visit(void **state)
{
    (void)state;
    static const int sticky[] = {256, 13, 0};
    for (int fsm = 0; fsm < QS_FSMS; fsm++)
        for (int s = 0; s < (fsm == QS_FSM_C8 ? 1 : 3); s++) {
            const char *name = qs_fsm_rule_of((qs_fsm)fsm)->name;
            world w = open_world(NULL, 2, BYTES);
            w.gap = 4;
            matrix t = make_matrix(&w, (qs_fsm)fsm, sticky[s]);
            measure(&w, &t);
            outcome expected = read_outcome(&w, &t);
            const outcome measured = expected;
            const void *bytes_w = get(&w, t.u.w), *bytes_state = get(&w, t.u.state);
            expected.r = host(FN, 4), expected.c = host(FK, 4), expected.dmaster = host(FN, 4);
            reference_visit(&w, &t, &expected);
            assert_same(measured.r, expected.r, FN * 4, "r of the measuring visit");
            assert_int_equal(measured.counts[0] + measured.counts[1], 0);
            submit(&w, qs_op_fsm_visit(&t.u));
            outcome got = read_outcome(&w, &t);
            assert_outcome(&got, &expected, name);
            assert_true(got.counts[0] > FN * FK / 10 && got.counts[1] > 0);

            ok(qs_write(w.queue, t.u.w, bytes_w));   /* the same from dense sums */
            ok(qs_write(w.queue, t.u.state, bytes_state));
            qs_fsm_visit dense = t.u;
            dense.dy = dense.x = qs_absent();
            dense.dgrad = t.dw;
            submit(&w, qs_op_fsm_visit(&dense));
            got = read_outcome(&w, &t);
            assert_outcome(&got, &expected, "visit of dense sums");
            if (fsm != QS_FSM_C8) {                  /* and in two steps, through stored pulses */
                ok(qs_write(w.queue, t.u.w, bytes_w));
                ok(qs_write(w.queue, t.u.state, bytes_state));
                t.u.pulses = fresh(&w, QS_T2, FN, FK);
                submit(&w, qs_op_fsm_visit(&t.u));
                submit(&w, qs_op_fsm_rule(&t.u));
                got = read_outcome(&w, &t);
                assert_outcome(&got, &expected, "visit and rule");
            }
            close_world(&w);
            free_host(NULL);
        }
}

static void test_threshold_and_statistics(void **state)
{
    (void)state;
    world w = open_world(NULL, 1, BYTES);
    const float *noise_r = noise(FN, 1, 1), *noise_c = noise(FK, 1, 2);
    float r[FN], c[FK], stripe[16] = {0}, control[4] = {1.25f};
    for (int64_t n = 0; n < FN; n++) {
        r[n] = fabsf(noise_r[n]);
        stripe[n % 16] = stripe[n % 16] + r[n];
    }
    for (int64_t k = 0; k < FK; k++)
        c[k] = fabsf(noise_c[k]);
    const float mean = fold16(stripe) / (float)FN;
    const qs_view va = fresh(&w, QS_F32, 1, FN), vb = fresh(&w, QS_F32, 1, FK), theta = fresh(&w, QS_F32, 1, 1);
    const qs_view vr = put_f32(&w, 1, FN, r), vc = put_f32(&w, 1, FK, c), vm = put_f32(&w, 1, 4, control);
    submit(&w, qs_op_fsm_threshold(va, vb, theta, vr, vc, vm, 2.0f));
    const float *a = get(&w, va), *b = get(&w, vb);
    assert_true(*(float *)get(&w, theta) == 2.5f);
    for (int64_t n = 0; n < FN; n++)
        assert_true(a[n] == sqrtf(r[n]));
    for (int64_t k = 0; k < FK; k++)
        assert_true(b[k] == sqrtf(c[k] / mean));

    /* golden: mu = 1, rho = 0.02, q = 0.04; slope = 2 z0 phi(z0) / rho at z0 = 2.3263479 */
    const int32_t counts[4] = {FN * FK * 4 / 100};
    const float slope = 2 * 2.3263479f * 0.02665214f / 0.02f;
    const qs_view vn = put(&w, QS_I32, 1, 4, counts), r_now = put_f32(&w, 1, FN, c), c_now = put_f32(&w, 1, FK, noise_c);
    submit(&w, qs_op_fsm_statistics(vr, vc, vm, r_now, c_now, vn, 0.9f, 0.02f, slope, FN * FK, QS_FLAG_FIRST));
    assert_true(*(float *)get(&w, vm) == 1.0f);
    assert_same(get(&w, vr), c, sizeof r, "r of the first measurement");
    submit(&w, qs_op_fsm_statistics(vr, vc, vm, put_f32(&w, 1, FN, r), c_now, vn, 0.9f, 0.02f, slope, FN * FK, 0));
    assert_true(fabsf(*(float *)get(&w, vm) - 1.05749f) < 5e-6f);
    const float *moved = get(&w, vr);
    for (int64_t n = 0; n < FN; n++)
        assert_true(moved[n] == fmaf(0.9f, c[n], (1.0f - 0.9f) * r[n]));
    close_world(&w);
}

static int descending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static void test_quantile(void **state)
{
    (void)state;
    enum { N = 33, K = 64 };
    static const int64_t keeps[] = {0, 1, 2, 40, 700, N * K - 1, N * K};
    world w = open_world(NULL, 2, BYTES);
    const float *G = noise(N * K, 1, 1), *a = noise(N, 1, 2), *b = noise(K, 1, 3);   /* half of the a, b are negative */
    const uint16_t *scale = scales(N, 4);
    float keys[N * K], expected;
    for (int64_t i = 0; i < N * K; i++) {
        const float sigma = a[i / K] * b[i % K];
        keys[i] = sigma > 0 ? fabsf(qs_half_to_float(scale[i / K]) * G[i]) / sigma : 0.0f;
    }
    qsort(keys, N * K, sizeof *keys, descending);
    const qs_view theta = fresh(&w, QS_F32, 1, 1), vG = put_f32(&w, N, K, G), va = put_f32(&w, 1, N, a);
    const qs_view vs = put(&w, QS_F16, 1, N, scale), vb = put_f32(&w, 1, K, b);
    for (size_t i = 0; i < sizeof keeps / sizeof *keeps; i++) {
        expected = keeps[i] < N * K ? keys[keeps[i]] : 0.0f;
        submit(&w, qs_op_fsm_quantile(theta, vG, vs, va, vb, keeps[i]));
        assert_same(get(&w, theta), &expected, 4, "quantile");
    }
    close_world(&w);
}

/* ---- equal bytes for every thread count and level ------------------------------------------------------------------------ */

enum { RESULTS = 128 };
typedef struct results {
    int count;
    uint64_t hash[RESULTS];
    const char *name[RESULTS];
    char seen[QS_OPS];
} results;

/* Runs an op and notes the bytes of its outputs (FNV-1a). */
static void note(world *w, results *r, qs_op op, int outputs)
{
    uint64_t hash = 14695981039346656037ULL;
    submit(w, op);
    for (int i = 0; i < outputs; i++) {
        if (!op.view[i].buffer)
            continue;
        const unsigned char *bytes = get(w, op.view[i]);
        for (int64_t j = 0; j < op.view[i].rows * qs_row_bytes((qs_format)op.view[i].format, op.view[i].cols); j++)
            hash = (hash ^ bytes[j]) * 1099511628211ULL;
    }
    assert_true(r->count < RESULTS);
    r->hash[r->count] = hash;
    r->name[r->count++] = qs_op_name(op.code);
    r->seen[op.code] = 1;
}

static void run_linears(world *w, results *r)
{
    static const int64_t tokens[] = {1, 9, 70, 300};
    const int64_t N = 200, K = 96;
    const qs_view packed_w = put(w, QS_W1, N, K, packed(QS_W1, N, K, 1)), dense = put_f32(w, N, K, noise(N * K, 1, 2));
    const qs_view scale = put(w, QS_F16, 1, N, scales(N, 3)), none = qs_absent();
    for (int i = 0; i < 4; i++) {
        const int64_t M = tokens[i];
        const qs_view x = put_f32(w, M, K, noise(M * K, 1, 4)), dy = put_f32(w, M, N, noise(M * N, 1, 5));
        const qs_view y = fresh(w, QS_F32, M, N), dx = fresh(w, QS_F32, M, K);
        note(w, r, qs_op_linear(y, x, packed_w, scale, none), 1);
        note(w, r, qs_op_linear(y, x, dense, none, dy), 1);
        note(w, r, qs_op_linear_dx(dx, dy, packed_w, scale, x), 1);
        note(w, r, qs_op_linear_dx(dx, dy, dense, none, none), 1);
    }
}

static void run_rows(world *w, results *r)
{
    const int64_t M = 700, X = 48, d = 12, V = 31;
    const qs_view x = put_f32(w, M, X, noise(M * X, 2, 1)), dy = put_f32(w, M, X, noise(M * X, 2, 2)), y = fresh(w, QS_F32, M, X);
    const qs_view gain = put_f32(w, 1, d, noise(d, 1, 3)), partial = fresh(w, QS_F32, 3, d), dx = fresh(w, QS_F32, M, X);
    const qs_view angle = put_f32(w, 9, d / 2, noise(9 * d / 2, 1, 4)), one = put_f32(w, 1, 1, noise(1, 1, 5));
    const qs_view tokens = put(w, QS_I32, 1, M, symbols(M, V, 6)), table = put_f32(w, V, X, noise(V * X, 1, 7));
    const qs_view losses = fresh(w, QS_F32, 3, 1), latent = put_f32(w, 64, 96, noise(64 * 96, 1, 8));
    note(w, r, qs_op_copy(y, x), 1);
    note(w, r, qs_op_embed(y, tokens, table), 1);
    note(w, r, qs_op_embed_grad(table, tokens, dy), 1);
    note(w, r, qs_op_rmsnorm(y, x, gain, 1e-5f), 1);
    qs_op norm = qs_op_rmsnorm_grad(dx, dy, x, gain, y, partial, 1e-5f);
    note(w, r, norm, 6);
    note(w, r, qs_op_chunk_sum(gain, partial, 0.7f), 1);
    note(w, r, qs_op_rope(y, angle, angle, d, 7, 2, QS_FLAG_INVERSE), 1);
    note(w, r, qs_op_swiglu(y, x, dy), 1);
    note(w, r, qs_op_swiglu_grad(x, y, dx, x, y), 2);
    note(w, r, qs_op_cross_entropy(dy, put(w, QS_I32, 1, M, symbols(M, X, 9)), losses, 0.1f, 0), 3);
    note(w, r, qs_op_sum_squares(one, x, QS_FLAG_ADD), 1);
    note(w, r, qs_op_clip_factor(one, one.buffer ? put_f32(w, 1, 1, &(float){7}) : one, 2), 1);
    const qs_adamw a = {.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .c1 = 0.1f, .c2 = 0.05f};
    const qs_view v = fresh(w, QS_F32, M, X), m = fresh(w, QS_F32, M, X);
    note(w, r, qs_op_adamw(x, dy, m, v, one, put(w, QS_F16, 1, M, scales(M, 10)), a), 4);
    const qs_view long_x = put_f32(w, 1, 20001, noise(20001, 1, 11)), long_m = fresh(w, QS_F32, 1, 20001);
    const qs_view long_v = fresh(w, QS_F32, 1, 20001), long_g = put_f32(w, 1, 20001, noise(20001, 1, 12));
    note(w, r, qs_op_adamw(long_x, long_g, long_m, long_v, qs_absent(), qs_absent(), a), 4);
    note(w, r, qs_op_scales(fresh(w, QS_F16, 1, 96), qs_view_at(latent.buffer, latent.offset, QS_F32, 1, 96), 0.2f), 1);
    const qs_view bits_of = fresh(w, QS_W1, 64, 96);
    note(w, r, qs_op_binarize(bits_of, latent), 1);
    note(w, r, qs_op_scale_grad(fresh(w, QS_F32, 1, 64), bits_of, latent, 0.2f), 1);
}

static void run_attention(world *w, results *r)
{
    const int64_t T = 200, H = 6, G = 2, d = 20;
    const qs_view q = put_f32(w, T, H * d, noise(T * H * d, 2, 1)), k = put_f32(w, T, G * d, noise(T * G * d, 2, 2));
    const qs_view v = put_f32(w, T, G * d, noise(T * G * d, 1, 3)), dout = put_f32(w, T, H * d, noise(T * H * d, 1, 4));
    const qs_view out = fresh(w, QS_F32, T, H * d), lse = fresh(w, QS_F32, T, H), dq = fresh(w, QS_F32, T, H * d);
    qs_op op = qs_op_attention(out, q, k, v, lse, d, 100, 100);
    note(w, r, op, 5);
    note(w, r, qs_op_attention_grad(dq, fresh(w, QS_F32, T, G * d), fresh(w, QS_F32, T, G * d), dout, q, k, v, out, lse, d, 100),
         3);
}

static void run_fsm(world *w, results *r)
{
    for (int fsm = 0; fsm < QS_FSMS; fsm++) {
        const uint64_t used = w->used;
        matrix t = make_matrix(w, (qs_fsm)fsm, 100);
        measure(w, &t);
        note(w, r, qs_op_linear_dw(t.dw, t.u.dy, t.u.x), 1);
        note(w, r, qs_op_fsm_threshold(t.u.a, t.u.b, t.u.theta, t.r, t.c, t.control, 0.8f), 3);
        note(w, r, qs_op_fsm_quantile(t.u.theta, t.dw, t.u.scale, t.u.a, t.u.b, FN * FK / 3), 1);
        note(w, r, qs_op_fsm_visit(&t.u), 12);
        note(w, r, qs_op_fsm_statistics(t.r, t.c, t.control, t.u.r_now, t.u.c_now, t.u.counts, 0.9f, 0.3f, 2, FN * FK, 0), 3);
        if (fsm != QS_FSM_C8) {
            t.u.pulses = put(w, QS_T2, FN, FK, packed(QS_T2, FN, FK, 3));
            note(w, r, qs_op_fsm_rule(&t.u), 4);
        }
        w->used = used;
    }
}

static results run_everything(const char *level, int threads, int64_t gap)
{
    results r = {0};
    world w = open_world(level, threads, BYTES);
    w.gap = gap;
    void (*const parts[])(world *, results *) = {run_linears, run_rows, run_attention, run_fsm};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        w.used = 0;
        parts[i](&w, &r);
    }
    close_world(&w);
    free_host(NULL);
    return r;
}

static void test_equal_bytes(void **state)
{
    (void)state;
    static const int threads[] = {1, 2, 3, 7};
    const results expected = run_everything("scalar", 1, 0);
    for (int code = 0; code < QS_OPS; code++)
        if (!expected.seen[code])
            fail_msg("%s is not covered", qs_op_name((uint32_t)code));
    for (int i = 0; i < 5; i++) {
        const char *level = i == 4 ? "scalar" : NULL;
        const int n = i == 4 ? 3 : threads[i];
        const results got = run_everything(level, n, 4 * i);
        assert_int_equal(got.count, expected.count);
        for (int j = 0; j < got.count; j++)
            if (got.hash[j] != expected.hash[j])
                fail_msg("%s (result %d), level %s, %d threads: other bytes than scalar with 1", got.name[j], j,
                         level ? level : "best", n);
    }
}

/* ---- memory -------------------------------------------------------------------------------------------------------------- */

/* Peak bytes of one visit of an [n, n] matrix at M tokens besides its operands; a second one allocates nothing. */
static uint64_t visit_bytes(int64_t n, int64_t M)
{
    world w = open_world(NULL, 2, (uint64_t)(8 * n * M + n * n / 8 + n * n / 2 + 40 * n + 8192));
    qs_memory_usage before, after, again;
    qs_fsm_visit u = {.fsm = QS_FSM_C4, .sticky = 256, .base = 1};
    u.w = fresh(&w, QS_W1, n, n);
    u.state = fresh(&w, QS_C4, n, n);
    u.dy = fresh(&w, QS_F32, M, n);
    u.x = fresh(&w, QS_F32, M, n);
    u.scale = fresh(&w, QS_F16, 1, n);
    u.a = fresh(&w, QS_F32, 1, n);
    u.b = fresh(&w, QS_F32, 1, n);
    u.theta = fresh(&w, QS_F32, 1, 1);
    u.r_now = fresh(&w, QS_F32, 1, n);
    u.c_now = fresh(&w, QS_F32, 1, n);
    u.dmaster = fresh(&w, QS_F32, 1, n);
    u.counts = fresh(&w, QS_I32, 1, 4);
    qs_memory(w.context, QS_MEMORY_TAGS, &before);
    submit(&w, qs_op_fsm_visit(&u));
    qs_memory(w.context, QS_MEMORY_TAGS, &after);
    if (n <= 1024) {
        submit(&w, qs_op_fsm_visit(&u));
        qs_memory(w.context, QS_MEMORY_TAGS, &again);
        assert_int_equal(again.allocations, after.allocations);
    }
    close_world(&w);
    return after.peak_bytes - before.current_bytes;
}

static void test_visit_memory(void **state)
{
    (void)state;
    int fast = 0;
    for (int i = 1; i < qs_cpu_level_count(); i++) {
        int available = 0;
        (void)qs_cpu_level_name(i, &available);
        fast |= available;
    }
    const int64_t M = fast ? 256 : 4;   /* the scalar level would need minutes; scratch is the same up to a chunk */
    const uint64_t small = visit_bytes(1024, M), large = visit_bytes(4096, M);
    assert_true(small > 0 && large >= small);
    assert_true(large - small < 4096u * 4096u - 1024u * 1024u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_products, free_host),
        cmocka_unit_test_teardown(test_linear_dw, free_host),
        cmocka_unit_test_teardown(test_linear_gradients, free_host),
        cmocka_unit_test_teardown(test_rmsnorm, free_host),
        cmocka_unit_test_teardown(test_swiglu, free_host),
        cmocka_unit_test_teardown(test_rope, free_host),
        cmocka_unit_test_teardown(test_cross_entropy, free_host),
        cmocka_unit_test_teardown(test_attention, free_host),
        cmocka_unit_test_teardown(test_decode_equals_prefill, free_host),
        cmocka_unit_test_teardown(test_attention_gradient, free_host),
        cmocka_unit_test_teardown(test_embed, free_host),
        cmocka_unit_test_teardown(test_sums, free_host),
        cmocka_unit_test_teardown(test_optimizer, free_host),
        cmocka_unit_test_teardown(test_visit, free_host),
        cmocka_unit_test_teardown(test_threshold_and_statistics, free_host),
        cmocka_unit_test_teardown(test_quantile, free_host),
        cmocka_unit_test_teardown(test_equal_bytes, free_host),
        cmocka_unit_test_teardown(test_visit_memory, free_host),
    };
    return cmocka_run_group_tests_name("ops", tests, NULL, NULL);
}
