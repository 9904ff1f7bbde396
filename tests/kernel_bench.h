/* kernel_bench.h - timings of every slot for check_kernels --bench: the fastest batch of calls of at least 40 us within
 * 60 ms, on warm operands, one thread. Rates: 2 m n k operations for products, bytes read and written once for the rest. */
#ifndef KERNEL_BENCH_H
#define KERNEL_BENCH_H

#include <time.h>
#include "kernel_case.h"

typedef void bench_fn(test_case *c, const qsi_kernels table[QSI_LEVELS]);

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Times the call, which names its table k, at every available level. work per call, in unit "GFLOP/s" or "GB/s". */
#define TIME(c, table, work, unit, ...) do { \
        double scalar_ = 0.0; \
        for (int level_ = 0; level_ < QSI_LEVELS; level_++) { \
            const qsi_kernels *k = &(table)[level_]; \
            double best_ = 1e30; \
            if (!qsi_level_available((qsi_level)level_) || (only_level != NULL && level_ > 0 && \
                                                            strcmp(only_level, qsi_level_name((qsi_level)level_)) != 0)) \
                continue; \
            place(c); \
            const double begin_ = seconds_now(); \
            double end_ = begin_; \
            for (long calls_ = 1; end_ - begin_ < 0.06;) { \
                const double start_ = seconds_now(); \
                for (long call_ = 0; call_ < calls_; call_++) { \
                    __VA_ARGS__; \
                } \
                end_ = seconds_now(); \
                if (end_ - start_ < 4e-5) \
                    calls_ *= 2; \
                else \
                    best_ = fmin(best_, (end_ - start_) / (double)calls_); \
            } \
            scalar_ = level_ == 0 ? best_ : scalar_; \
            printf("%-14s %-28s %-8s %12.0f %8.1f %-7s %9.1f\n", (c)->slot, strchr((c)->shape + 5, ' ') + 1, \
                   qsi_level_name((qsi_level)level_), best_ * 1e9, (work) / best_ * 1e-9, unit, scalar_ / best_); \
        } \
    } while (0)

static const char *only_level;

enum product_kind { FORWARD, BACKWARD, I8_FORWARD, I8_BACKWARD };

static void bench_product(test_case *c, const qsi_kernels table[QSI_LEVELS], int64_t m, int64_t n, int64_t k0,
                          enum product_kind kind)
{
    begin(c, MILD, "m %d n %d k %d", (int)m, (int)n, (int)k0);
    const int y = floats(c, "y", UPDATE, m * n), x = floats(c, "x", UPDATE, m * k0), s = floats(c, "s", READ, m);
    const int q = quants(c, "q", m * (n > k0 ? n : k0)), w = operand_add(c, "w", READ, BITS, n * k0 / 8);
    const int scale = halves(c, "scale", n), scratch = operand_add(c, "scratch", SCRATCH, BITS, QSI_W1_SCRATCH);
    for (int64_t i = 0; i < n * k0 / 8; i++)
        c->op[w].initial[i] = (uint8_t)draw(c);
    const double work = 2.0 * (double)m * (double)n * (double)k0;
    switch (kind) {
    case FORWARD:
        TIME(c, table, work, "GOP/s",
             k->w1_forward(F(c, y), n, F(c, x), k0, W(c, w), k0 / 32, H(c, scale), NULL, 0, m, n, k0, 0, W(c, scratch)));
        break;
    case BACKWARD:
        TIME(c, table, work, "GOP/s",
             k->w1_backward(F(c, x), k0, F(c, y), n, W(c, w), k0 / 32, H(c, scale), NULL, 0, m, n, k0, 0, W(c, scratch)));
        break;
    case I8_FORWARD:
        TIME(c, table, work, "GOP/s",
             k->w1_i8_forward(F(c, y), n, Q(c, q), k0, F(c, s), W(c, w), k0 / 32, H(c, scale), NULL, 0, m, n, k0, W(c, scratch)));
        break;
    case I8_BACKWARD:
        TIME(c, table, work, "GOP/s",
             k->w1_i8_backward(F(c, x), k0, Q(c, q), n, F(c, s), W(c, w), k0 / 32, NULL, 0, m, n, k0, W(c, scratch)));
        break;
    }
}

static void bench_products(test_case *c, const qsi_kernels table[QSI_LEVELS], enum product_kind kind)
{
    static const int64_t shape[][3] = {{1, 1024, 1024},  {4, 1024, 1024}, {8, 1024, 1024},  {16, 256, 256},
                                       {256, 256, 256},  {512, 1024, 1024}, {1, 4096, 4096}, {128, 4096, 4096}};
    for (size_t i = 0; i < sizeof shape / sizeof shape[0]; i++)
        bench_product(c, table, shape[i][0], shape[i][1], shape[i][2], kind);
}

static void bench_w1_forward(test_case *c, const qsi_kernels table[QSI_LEVELS]) { bench_products(c, table, FORWARD); }
static void bench_w1_backward(test_case *c, const qsi_kernels table[QSI_LEVELS]) { bench_products(c, table, BACKWARD); }
static void bench_w1_i8_forward(test_case *c, const qsi_kernels table[QSI_LEVELS]) { bench_products(c, table, I8_FORWARD); }
static void bench_w1_i8_backward(test_case *c, const qsi_kernels table[QSI_LEVELS]) { bench_products(c, table, I8_BACKWARD); }

static void bench_i8_row(test_case *c, const qsi_kernels table[QSI_LEVELS])
{
    const int64_t n = 4096;
    float got = 0.0f;
    begin(c, MILD, "n %d", (int)n);
    const int q = operand_add(c, "q", WRITE, BITS, n), x = floats(c, "x", READ, n);
    TIME(c, table, 5.0 * (double)n, "GB/s", got += k->i8_row(Q(c, q), F(c, x), NULL, n));
    (void)got;
}

/* Tokens of a chunk with 256 features: operands, then tiles of weight gradients. */
static void bench_i8_features(test_case *c, const qsi_kernels table[QSI_LEVELS])
{
    const int64_t m = 256, n = 256;
    begin(c, MILD, "m %d n %d", (int)m, (int)n);
    const int q = operand_add(c, "q", UPDATE, BITS, m * n), s = floats(c, "s", WRITE, n), x = floats(c, "x", READ, m * n);
    TIME(c, table, 5.0 * (double)(m * n), "GB/s", k->i8_features(Q(c, q), n, F(c, s), F(c, x), n, m, n));
}

static void bench_bf16_features(test_case *c, const qsi_kernels table[QSI_LEVELS])
{
    const int64_t m = 256, n = 256;
    begin(c, MILD, "m %d n %d", (int)m, (int)n);
    const int q = operand_add(c, "q", UPDATE, BITS, 2 * m * n), x = floats(c, "x", READ, m * n);
    TIME(c, table, 6.0 * (double)(m * n), "GB/s", k->bf16_features(H(c, q), n, F(c, x), n, m, n));
}

static void bench_i8_gradient(test_case *c, const qsi_kernels table[QSI_LEVELS])
{
    const int64_t rows = 64, cols = 256, m = 256, n = 1024;   /* a tile of a matrix of n rows and columns */
    begin(c, MILD, "rows %d cols %d m %d", (int)rows, (int)cols, (int)m);
    const int g = floats(c, "g", UPDATE, rows * cols), s = floats(c, "s", READ, cols), a = quants(c, "a", n * m);
    const int b = quants(c, "b", n * m), scratch = operand_add(c, "scratch", SCRATCH, BITS, QSI_GRADIENT_SCRATCH);
    TIME(c, table, 2.0 * (double)(rows * cols * m), "GOP/s",
         k->i8_gradient(F(c, g), cols, Q(c, a), F(c, s), n, Q(c, b), F(c, s), n, rows, cols, m / 4, W(c, scratch)));
}

static void bench_bf16_gradient(test_case *c, const qsi_kernels table[QSI_LEVELS])
{
    const int64_t rows = 64, cols = 256, m = 256, n = 1024;
    begin(c, MILD, "rows %d cols %d m %d", (int)rows, (int)cols, (int)m);
    const int g = floats(c, "g", UPDATE, rows * cols), a = bf16s(c, "a", n * m), b = bf16s(c, "b", n * m);
    const int scratch = operand_add(c, "scratch", SCRATCH, BITS, QSI_GRADIENT_SCRATCH);
    TIME(c, table, 2.0 * (double)(rows * cols * m), "GOP/s",
         k->bf16_gradient(F(c, g), cols, H(c, a), n, H(c, b), n, rows, cols, m / 2, W(c, scratch)));
}

static void bench_f32_gemm(test_case *c, const qsi_kernels table[QSI_LEVELS])
{
    static const int64_t shape[][3] = {{256, 256, 256}, {32, 64, 256}, {32, 1024, 256},
                                       {64, 64, 64},    {1, 256, 256}, {37, 100, 77}};
    for (size_t i = 0; i < 2 * sizeof shape / sizeof shape[0]; i++) {
        const int64_t m = shape[i / 2][0], n = shape[i / 2][1], depth = shape[i / 2][2], by_row = i % 2 == 0;
        begin(c, MILD, "m %d n %d d %d %s", (int)m, (int)n, (int)depth, by_row ? "a rows" : "a columns");
        const int out = floats(c, "c", UPDATE, m * n), a = floats(c, "a", READ, m * depth);
        const int b = floats(c, "b", READ, depth * n);
        TIME(c, table, 2.0 * (double)m * (double)n * (double)depth, "GFLOP/s",
             k->f32_gemm(F(c, out), n, F(c, a), by_row ? depth : 1, by_row ? 1 : m, F(c, b), n, m, n, depth, 0));
    }
}

/* Kernels along one vector of floats: up to 6 operands of n floats, `moved` of them read or written per element. */
#define VECTOR_BENCH(name, count_, moved, call) \
    static void bench_##name(test_case *c, const qsi_kernels table[QSI_LEVELS]) \
    { \
        const int64_t n = (count_); \
        begin(c, MILD, "n %d", (int)n); \
        int v[6]; \
        float one[2] = {-INFINITY, 0.0f}, got = 0.0f; \
        for (int i = 0; i < 6; i++) \
            v[i] = floats(c, "v", UPDATE, n); \
        TIME(c, table, 4.0 * (moved) * (double)n, "GB/s", call); \
        (void)one; \
        (void)got; \
    }
#define V(i) F(c, v[i])
static const qs_adamw bench_rates = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.0f, 0.19f, 0.0975f};
VECTOR_BENCH(f32_add, 4096, 3, k->f32_add(V(0), V(1), n))
VECTOR_BENCH(f32_scale, 4096, 2, k->f32_scale(V(0), 1.0f, n))
VECTOR_BENCH(f32_dot, 4096, 2, got += k->f32_dot(V(0), V(1), n))
VECTOR_BENCH(rmsnorm, 1024, 3, k->rmsnorm(V(0), V(1), V(2), n, 1e-6f))
VECTOR_BENCH(rmsnorm_grad, 1024, 6, k->rmsnorm_grad(V(0), V(1), V(2), V(3), NULL, V(4), n, 1e-6f))
VECTOR_BENCH(rope, 64, 4, k->rope(V(0), V(1), V(2), 1.0f, n / 2))
VECTOR_BENCH(softmax_block, 64, 2, (one[0] = -INFINITY, got += k->softmax_block(V(0), n, 1.0f, &one[0], &one[1])))
VECTOR_BENCH(softmax_grad, 64, 4, k->softmax_grad(V(0), V(1), V(2), n, 0.1f, 0.5f, 0.1f))
VECTOR_BENCH(swiglu, 4096, 3, k->swiglu(V(0), V(1), V(2), n))
VECTOR_BENCH(swiglu_grad, 4096, 5, k->swiglu_grad(V(0), V(1), V(2), V(3), V(4), n))
VECTOR_BENCH(softmax_stats, 256, 1, (one[0] = -INFINITY, k->softmax_stats(V(0), n, &one[0], &one[1])))
VECTOR_BENCH(cross_entropy_grad, 256, 2, k->cross_entropy_grad(V(0), n, 3, 4.0f, 9.0f, 1.0f))
VECTOR_BENCH(adamw, 4096, 7, k->adamw(V(0), V(1), V(2), V(4), n, 0.0f, &bench_rates))
VECTOR_BENCH(binarize, 4096, 1, k->binarize(W(c, v[0]), V(1), n))
VECTOR_BENCH(bop, 4096, 3, k->bop(W(c, v[0]), V(1), V(2), n, 1.0f, 1e-3f, 0.5f))
VECTOR_BENCH(fsm_pulses, 1024, 4,
             k->fsm_pulses(V(0), n, 1e-9f, 0.5f, V(1), W(c, v[2]), V(3), V(4), V(3) + 16, W(c, v[5]), W(c, v[5]) + n / 32))
#undef V

static const qsi_draws some_draws = {.seed = 1, .step = 2, .tensor = 3, .row = 4};

/* All weights +1 in their deepest state, a quarter pulsed up and another down: with sticky 0 all draws are made and nothing moves. */
#define MACHINE_BENCH(name, planes, deepest, sticky) \
    static void bench_##name(test_case *c, const qsi_kernels table[QSI_LEVELS]) \
    { \
        const int64_t n = 128; \
        begin(c, MILD, "words %d sticky %d", (int)n, sticky); \
        const int w = words(c, "w", UPDATE, n), state = operand_add(c, "state", READ, BITS, 4 * (planes) * n); \
        const int up = words(c, "up", READ, n), down = words(c, "down", READ, n); \
        memset(c->op[w].initial, 255, c->op[w].bytes); \
        memset(c->op[state].initial, deepest, c->op[state].bytes); \
        memset(c->op[up].initial, 0x11, c->op[up].bytes); \
        memset(c->op[down].initial, 0x22, c->op[down].bytes); \
        TIME(c, table, 4.0 * (4 + 2 * (planes)) * (double)n, "GB/s", \
             k->name(W(c, w), W(c, state), n, W(c, up), W(c, down), n, sticky, &some_draws)); \
    }
MACHINE_BENCH(fsm_c2, 2, 255, 0)
MACHINE_BENCH(fsm_c4, 4, 255, 256)
MACHINE_BENCH(fsm_t2, 2, 0x55, 0)

static void bench_fsm_c8(test_case *c, const qsi_kernels table[QSI_LEVELS])
{
    const int64_t n = 32;
    begin(c, MILD, "words %d", (int)n);
    const int w = words(c, "w", UPDATE, n), state = bytes(c, "state", UPDATE, 32 * n), G = floats(c, "G", READ, 32 * n);
    const int b = floats(c, "b", READ, 32 * n), moved = words(c, "moved", UPDATE, n);
    int64_t moves = 0;
    TIME(c, table, 10.375 * 32.0 * (double)n, "GB/s",
         k->fsm_c8(W(c, w), (int8_t *)c->op[state].at, F(c, G), 1.0f, 1.0f, F(c, b), 2.0f, n, &some_draws, W(c, moved), &moves));
}

#endif
