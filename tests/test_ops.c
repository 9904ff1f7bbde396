/* test_ops.c - float and packed ops through the public API alone: values against naive double arithmetic, gradients
 * against central differences, written orders bit for bit, decoding equal to the whole pass. */
#include "ops_world.h"

/* ---- products --------------------------------------------------------------------------------------------------- */

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
    const qs_view vw = put_f32(w, N, K, weight), y = put_f32(w, M, N, add_y), dx = put_f32(w, M, K, add_x);
    const qs_view none = qs_absent();
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

/* ---- int8 and bf16 ---------------------------------------------------------------------------------------------- */

/* n values `step` apart, to int8 as docs/numerics.md says; returns the scale. */
static float quantized(int8_t *q, const float *x, int64_t step, int64_t n)
{
    float top = 0;
    for (int64_t i = 0; i < n; i++)
        top = fmaxf(top, fabsf(x[i * step]));
    for (int64_t i = 0; i < n; i++)
        q[i] = (int8_t)rintf(x[i * step] * (127.0f / top));
    return top / 127.0f;
}

static void int8_products(world *w, int64_t M, int64_t N, int64_t K, int with_addend)
{
    const float *x = noise(M * K, 1, 1), *dy = noise(M * N, 1, 2), *add_y = noise(M * N, 1, 3), *add_x = noise(M * K, 1, 4);
    const uint32_t *weight = packed(QS_W1, N, K, 5);
    const uint16_t *scale = scales(N, 6);
    const qs_view vw = put(w, QS_W1, N, K, weight), vs = put(w, QS_F16, 1, N, scale);
    const qs_view y = put_f32(w, M, N, add_y), dx = put_f32(w, M, K, add_x), none = qs_absent();
    int8_t *q = host(N > K ? N : K, 1);
    float *d = host(N, sizeof *d);
    submit(w, qs_op_with(qs_op_linear(y, put_f32(w, M, K, x), vw, vs, with_addend ? y : none), QS_PRECISION_INT8));
    submit(w, qs_op_with(qs_op_linear_dx(dx, put_f32(w, M, N, dy), vw, vs, with_addend ? dx : none), QS_PRECISION_INT8));
    const float *got_y = get(w, y), *got_dx = get(w, dx);
    for (int64_t m = 0; m < M; m++) {
        const float s = quantized(q, x + m * K, 1, K);
        for (int64_t n = 0; n < N; n++) {
            const float factor = qs_half_to_float(scale[n]) * s;
            int32_t sum = 0;
            for (int64_t k = 0; k < K; k++)
                sum += q[k] * sign_at(weight, K, n, k);
            assert_true(got_y[m * N + n] == (with_addend ? fmaf(factor, (float)sum, add_y[m * N + n]) : factor * (float)sum));
        }
        for (int64_t n = 0; n < N; n++)
            d[n] = qs_half_to_float(scale[n]) * dy[m * N + n];
        const float sd = quantized(q, d, 1, N);
        for (int64_t k = 0; k < K; k++) {
            int32_t sum = 0;
            for (int64_t n = 0; n < N; n++)
                sum += q[n] * sign_at(weight, K, n, k);
            assert_true(got_dx[m * K + k] == (with_addend ? fmaf(sd, (float)sum, add_x[m * K + k]) : sd * (float)sum));
        }
    }
    w->used = 0;
}

static void test_int8(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {{1, 33, 96}, {9, 40, 320}, {70, 131, 64}, {300, 64, 160}};
    world w = open_world(NULL, 2, BYTES);
    w.gap = 4;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int addend = 0; addend < 2; addend++)
            int8_products(&w, shapes[s][0], shapes[s][1], shapes[s][2], addend);
    close_world(&w);
}

/* Features to int8 with a scale per chunk, chunks by the tree. */
static float dw_int8(const float *dy, const float *x, int64_t M, int64_t N, int64_t K, int64_t n, int64_t k)
{
    float partial[64];
    for (int64_t c = 0; c < chunks_of(M); c++) {
        const int64_t first = c * QS_TOKEN_CHUNK, count = M - first < QS_TOKEN_CHUNK ? M - first : QS_TOKEN_CHUNK;
        int8_t a[QS_TOKEN_CHUNK], b[QS_TOKEN_CHUNK];
        const float sa = quantized(a, dy + first * N + n, N, count), sb = quantized(b, x + first * K + k, K, count);
        int32_t sum = 0;
        for (int64_t m = 0; m < count; m++)
            sum += a[m] * b[m];
        partial[c] = sa * sb * (float)sum;
    }
    return tree_sum(partial, NULL, chunks_of(M));
}

/* bf16: the bound of docs/numerics.md, with 2^-8 twice for the rounding of the operands. */
static int dw_bf16_near(const float *dy, const float *x, int64_t M, int64_t N, int64_t K, int64_t n, int64_t k, float got)
{
    double sum = 0, magnitude = 0;
    for (int64_t m = 0; m < M; m++) {
        sum += (double)dy[m * N + n] * x[m * K + k];
        magnitude += fabs((double)dy[m * N + n] * x[m * K + k]);
    }
    return fabs(got - sum) <= magnitude * (0x1.01p-7 + 0x1p-24 * 300);
}

static void test_dw_classes(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {{1, 33, 5}, {256, 40, 300}, {257, 70, 33}, {1300, 35, 290}, {1792, 3, 64}};
    world w = open_world(NULL, 2, BYTES);
    w.gap = 4;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const int64_t M = shapes[s][0], N = shapes[s][1], K = shapes[s][2];
        const float *dy = noise(M * N, 1, 1), *x = noise(M * K, 1, 2);
        const qs_view vdy = put_f32(&w, M, N, dy), vx = put_f32(&w, M, K, x);
        const qs_view int8 = fresh(&w, QS_F32, N, K), bf16 = fresh(&w, QS_F32, N, K);
        submit(&w, qs_op_with(qs_op_linear_dw(int8, vdy, vx), QS_PRECISION_INT8));
        submit(&w, qs_op_with(qs_op_linear_dw(bf16, vdy, vx), QS_PRECISION_BF16));
        const float *got8 = get(&w, int8), *got16 = get(&w, bf16);
        for (int64_t i = 0; i < N * K; i += 1 + (N * K > 5000 ? 6 : 0)) {
            assert_true(got8[i] == dw_int8(dy, x, M, N, K, i / K, i % K));
            assert_true(dw_bf16_near(dy, x, M, N, K, i / K, i % K, got16[i]));
        }
        w.used = 0;
    }
    close_world(&w);
}

/* bf16 operands that bf16 holds exactly change nothing; others are rounded. */
static void test_bf16_products(void **state)
{
    (void)state;
    const int64_t M = 37, N = 50, K = 96;
    world w = open_world(NULL, 2, BYTES);
    float *x = (float *)host(M * K, sizeof *x);
    for (int64_t i = 0; i < M * K; i++)
        x[i] = (float)(i * 37 % 255 - 127) * 0x1p-4f;
    const qs_view vx = put_f32(&w, M, K, x), vw = put(&w, QS_W1, N, K, packed(QS_W1, N, K, 5)), vs = put(&w, QS_F16, 1, N, scales(N, 6));
    const qs_view y = fresh(&w, QS_F32, M, N), z = fresh(&w, QS_F32, M, N);
    submit(&w, qs_op_linear(y, vx, vw, vs, qs_absent()));
    submit(&w, qs_op_with(qs_op_linear(z, vx, vw, vs, qs_absent()), QS_PRECISION_BF16));
    const float *a = get(&w, y), *b = get(&w, z);
    for (int64_t i = 0; i < M * N; i++)
        assert_true(fabsf(a[i] - b[i]) <= 1e-4f * (1 + fabsf(a[i])));
    for (int64_t i = 0; i < M * K; i++)
        x[i] *= 1 + 0x1p-12f;   /* lost in 8 bits */
    ok(qs_write(w.queue, vx, x));
    submit(&w, qs_op_with(qs_op_linear(y, vx, vw, vs, qs_absent()), QS_PRECISION_BF16));
    const float *c = get(&w, y);
    for (int64_t i = 0; i < M * N; i++)
        assert_true(fabsf(c[i] - b[i]) <= 1e-4f * (1 + fabsf(b[i])));
    close_world(&w);
}

/* ---- gradients against central differences ---------------------------------------------------------------------- */

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

/* Columns first .. first + n - 1. */
static qs_view columns(qs_view v, int64_t first, int64_t n)
{
    v.offset += (uint64_t)(4 * first);
    v.cols = n;
    return v;
}

/* Statistics of all columns of logits, which come in blocks. */
static void softmax_blocks(world *w, qs_view stats, qs_view logits, qs_view targets, int64_t block)
{
    for (int64_t first = 0; first < logits.cols; first += block) {
        const int64_t n = logits.cols - first < block ? logits.cols - first : block;
        submit(w, qs_op_softmax_stats(stats, columns(logits, first, n), targets, first, first ? QS_FLAG_ADD : 0));
    }
}

/* Targets in every block; the last block is a short one, or there is only one. */
static void test_cross_entropy(void **state)
{
    (void)state;
    const int64_t M = 300, V = 37;
    world w = open_world(NULL, 2, BYTES);
    w.gap = 8;
    const float *logits = noise(M * V, 5, 1);
    const int32_t *targets = symbols(M, V, 2);
    const qs_view vt = put(&w, QS_I32, 1, M, targets), stats = fresh(&w, QS_F32, M, 3), partial = fresh(&w, QS_F32, 2, 1);
    const double factor = 0.25;
    problem p = {.i = {M, V}, .in = {widen(logits, M * V)}, .count = {M * V}, .outputs = 1, .dout = &factor,
                 .forward = loss_forward, .extra = targets};
    double expected = 0;
    loss_forward(&p, &expected);
    for (int64_t block = 16; block <= 48; block += 16) {
        const qs_view vl = put_f32(&w, M, V, logits);
        softmax_blocks(&w, stats, vl, vt, block);
        submit(&w, qs_op_cross_entropy(stats, partial));
        assert_same(get(&w, vl), logits, M * V * 4, "logits after softmax_stats");
        const float *loss = get(&w, partial), total = loss[0] + loss[1];
        assert_close(&total, &expected, 1, 1e-6, "cross_entropy");
        for (int64_t first = 0; first < V; first += block)
            submit(&w, qs_op_cross_entropy_grad(columns(vl, first, V - first < block ? V - first : block), stats, vt, first, 0.25f));
        check_gradient(&p, 0, get(&w, vl), 100, "cross_entropy_grad");
    }
    close_world(&w);
}

/* Blocks of whole 1024s leave no trace; statistics of the largest logit and of the target are exact. */
static void test_softmax_blocks(void **state)
{
    (void)state;
    const int64_t M = 5, V = 3 * 1024 + 201;
    static const int64_t cuts[] = {1024, 2048, 3072, 4096};
    world w = open_world(NULL, 2, BYTES);
    const float *logits = noise(M * V, 30, 1);
    const int32_t targets[] = {0, 1023, 1024, 3272, 3273};   /* the last one does not exist */
    const qs_view vl = put_f32(&w, M, V, logits), vt = put(&w, QS_I32, 1, M, targets), partial = fresh(&w, QS_F32, 1, 1);
    const qs_view stats = fresh(&w, QS_F32, M, 3);
    const float *want = NULL;
    for (int i = 0; i < 4; i++) {
        softmax_blocks(&w, stats, vl, vt, cuts[i]);
        const float *got = get(&w, stats);
        want = want ? want : got;
        assert_same(got, want, M * 12, "statistics in blocks");
    }
    for (int64_t m = 0; m < M; m++) {
        float top = -INFINITY;
        double sum = 0;
        for (int64_t v = 0; v < V; v++)
            top = fmaxf(top, logits[m * V + v]);
        for (int64_t v = 0; v < V; v++)
            sum += exp((double)logits[m * V + v] - (double)top);
        assert_true(want[3 * m] == top);
        assert_close(want + 3 * m + 1, &sum, 1, 1e-6, "sum of exponentials");
        assert_true(m == 4 ? isnan(want[3 * m + 2]) : want[3 * m + 2] == logits[m * V + targets[m]]);
    }
    submit(&w, qs_op_cross_entropy(stats, partial));
    assert_true(isnan(*(float *)get(&w, partial)));
    close_world(&w);
}

/* ---- attention -------------------------------------------------------------------------------------------------- */

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
    static const heads shapes[] = {{2, 5, 5, 4, 2, 8}, {1, 130, 130, 2, 1, 17}, {2, 67, 150, 6, 2, 12},
                                   {3, 1, 66, 3, 3, 32}};
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

/* ---- embedding, sums, optimizer --------------------------------------------------------------------------------- */

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
    const qs_view vdy = put_f32(&w, M, D, dy);
    submit(&w, qs_op_embed_grad(dtable, vt, vdy, 0));
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
    submit(&w, qs_op_embed_grad(dtable, vt, vdy, QS_FLAG_ADD));
    const float *twice = get(&w, dtable);
    for (int64_t i = 0; i < V * D; i++)
        assert_true(twice[i] == got[i] + got[i]);
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
    submit(&w, qs_op_sum_squares(out, vx, qs_absent(), QS_FLAG_ADD));
    assert_true(*(const float *)get(&w, out) == start + total);
    submit(&w, qs_op_sum_squares(out, vx, qs_absent(), 0));
    assert_true(*(const float *)get(&w, out) == total);
    const uint16_t *scale = scales(R, 2);
    float scaled[8] = {0};
    for (int64_t r = 0; r < R; r++) {
        float stripe[16] = {0};
        for (int64_t j = 0; j < N; j++)
            stripe[j % 16] = fmaf(x[r * N + j], x[r * N + j], stripe[j % 16]);
        const float s = qs_half_to_float(scale[r]);
        scaled[r / QS_TOKEN_CHUNK] = scaled[r / QS_TOKEN_CHUNK] + (s * s) * fold16(stripe);
    }
    submit(&w, qs_op_sum_squares(out, vx, put(&w, QS_F16, 1, R, scale), 0));
    assert_true(*(const float *)get(&w, out) == tree_sum(scaled, NULL, chunks_of(R)));
    submit(&w, qs_op_sum_squares(out, vx, qs_absent(), 0));
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
    const qs_adamw a = {.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .c1 = 0.19f,
                        .c2 = 0.1f};
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
    submit(&w, qs_op_binarize(vw, put_f32(&w, 4, 96, latent), qs_absent(), qs_absent(), 0, 0));
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_products, free_host),
        cmocka_unit_test_teardown(test_linear_dw, free_host),
        cmocka_unit_test_teardown(test_int8, free_host),
        cmocka_unit_test_teardown(test_dw_classes, free_host),
        cmocka_unit_test_teardown(test_bf16_products, free_host),
        cmocka_unit_test_teardown(test_linear_gradients, free_host),
        cmocka_unit_test_teardown(test_rmsnorm, free_host),
        cmocka_unit_test_teardown(test_swiglu, free_host),
        cmocka_unit_test_teardown(test_rope, free_host),
        cmocka_unit_test_teardown(test_cross_entropy, free_host),
        cmocka_unit_test_teardown(test_softmax_blocks, free_host),
        cmocka_unit_test_teardown(test_attention, free_host),
        cmocka_unit_test_teardown(test_decode_equals_prefill, free_host),
        cmocka_unit_test_teardown(test_attention_gradient, free_host),
        cmocka_unit_test_teardown(test_embed, free_host),
        cmocka_unit_test_teardown(test_sums, free_host),
        cmocka_unit_test_teardown(test_optimizer, free_host),
    };
    return cmocka_run_group_tests_name("ops", tests, NULL, NULL);
}
