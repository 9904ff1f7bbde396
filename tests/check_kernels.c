/* check_kernels.c - every slot of kernels.def, at every level above scalar, against the scalar reference bit for bit; and
 * the reference against formulas in double with derived bounds, or against the written rules.
 *
 * Each slot runs in a process of its own: a crash is one failure. A slot without a check_<slot> here does not compile.
 *   check_kernels [--level NAME] [--slot PREFIX] [--seed N] [--bench] */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "kernel_case.h"
#include "qsbits/random.h"

#define U 0x1p-24   /* half an ulp, relative */

/* Lengths of vectors: everything around the lane and stripe counts, and some long ones. */
static const int lengths[] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 23, 24, 25,
                              31, 32, 33, 39, 40, 41, 47, 48, 49, 63, 64, 65, 100, 127, 128, 129, 1000, 1023, 1025, 2100};
enum { LENGTHS = sizeof lengths / sizeof lengths[0] };

#define FOR_VECTORS(c, n) \
    for (int at_ = 0; at_ < LENGTHS * STYLES; at_++) \
        for (int64_t n = lengths[at_ / STYLES], once_ = (begin(c, (enum style)(at_ % STYLES), "n %d", (int)n), 1); once_; \
             once_ = 0)

/* ---- packed products ------------------------------------------------------------------------------------------- */

typedef struct product { int64_t m, n, k, ld[4]; int addend; } product;   /* ld: output, input, words, addend */

static product draw_product(test_case *c, int index, int64_t out, int64_t in)
{
    static const int64_t tokens[] = {1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 24, 25, 31, 32, 35, 65, 0, 100};
    product p = {.m = tokens[index % 18], .n = draw_below(c, 70), .k = 32 * draw_below(c, 5)};
    p.addend = (int)draw_below(c, 3);
    if (index % 40 == 17) {   /* beyond one block of outputs and one group of tiles */
        p.m = 100;
        p.n = out;
        p.k = in;
    }
    return p;
}

static double weight_of(const uint32_t *w, int64_t ldw, int64_t row, int64_t column)
{
    return (w[row * ldw + column / 32] >> (column % 32) & 1) ? 1.0 : -1.0;
}

/* Rows of cols elements ld apart: what they span. */
static int64_t span(int64_t rows, int64_t cols, int64_t ld) { return rows > 0 && cols > 0 ? (rows - 1) * ld + cols : 0; }

/* An operand of a product: rounded to bf16, nearest even, with bf16. NaN stays what it is. */
static double operand_of(float x, int bf16)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (!bf16 || x != x)
        return x;
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* A level whose bf16 products run on tiles is BOUND: not equal to the reference, which adds in a defined order. */
static void begin_product(test_case *c, int bf16) { c->bound = bf16 && strcmp(c->level, "amx") == 0; }

/* One sum of a product, scaled by alpha, plus extra. sum: of `depth` terms, of their magnitudes, of the subnormal ones.
 * BOUND: docs/numerics.md, section 1, t = 1, for the level under test wherever nothing overflows; tiles take subnormal
 * numbers for 0. Else the reference, whose additions in groups of 4 are fewer, for mild numbers. */
static void near_product(test_case *c, const char *name, int result, int64_t row, int64_t column, int64_t ld, int64_t depth,
                         double alpha, const double sum[3], double extra)
{
    const float got = ((const float *)(const void *)c->op[result].result[c->bound])[row * ld + column];
    const double want = alpha * sum[0] + extra, magnitude = fabs(alpha) * sum[1];
    if (!c->bound)
        near(c, name, row * ld + column, got, want, U * ((double)(depth / 4 + 6) * magnitude + fabs(extra)));
    else if (sum[1] < 1e38 && magnitude + fabs(extra) < 1e38)
        near(c, name, row * ld + column, got, want, U * ((double)(depth + 8) * magnitude + 2.0 * fabs(extra)) +
             fabs(alpha) * (sum[2] + (double)depth * 0x1p-125) + 0x1p-125);
    else if (want != want && got == got)
        say(c, "%s[%lld]: %g where a term is not a number", name, (long long)(row * ld + column), (double)got);
}

static void add_term(double sum[3], double weight, double x)
{
    sum[0] += weight * x;
    sum[1] += fabs(x);
    sum[2] += fabs(x) < 0x1p-126 ? fabs(x) : 0.0;
}

static void check_w1_forward(test_case *c)
{
    for (int i = 0; i < 120; i++) {
        product p = draw_product(c, i, 521, 64);
        p.ld[0] = p.n + draw_below(c, 3);
        p.ld[1] = p.k + draw_below(c, 3);
        p.ld[2] = p.k / 32 + draw_below(c, 3);
        p.ld[3] = p.addend == 2 ? p.ld[0] : p.n + draw_below(c, 3);
        const int bf16 = i / STYLES % 2;
        begin(c, (enum style)(i % STYLES), "m %d n %d k %d ld %d %d %d %d addend %d bf16 %d", (int)p.m, (int)p.n,
              (int)p.k, (int)p.ld[0], (int)p.ld[1], (int)p.ld[2], (int)p.ld[3], p.addend, bf16);
        begin_product(c, bf16);
        const int y = floats(c, "y", p.addend == 2 ? UPDATE : WRITE, span(p.m, p.n, p.ld[0]));
        const int x = floats(c, "x", READ, span(p.m, p.k, p.ld[1])), w = words(c, "w", READ, span(p.n, p.k / 32, p.ld[2]));
        const int scale = halves(c, "scale", p.n), scratch = operand_add(c, "scratch", SCRATCH, BITS, QSI_W1_SCRATCH);
        const int add = p.addend == 2 ? y : p.addend ? floats(c, "addend", READ, span(p.m, p.n, p.ld[3])) : -1;
        RUN(c, k->w1_forward(F(c, y), p.ld[0], F(c, x), p.ld[1], W(c, w), p.ld[2], H(c, scale), F(c, add), p.ld[3], p.m, p.n,
                             p.k, bf16, W(c, scratch)));
        for (int64_t at = 0; (c->style == MILD || c->bound) && at < p.m * p.n; at++) {
            const int64_t t = at / p.n, j = at % p.n;
            const double alpha = qs_half_to_float(((const uint16_t *)(const void *)c->op[scale].initial)[j]);
            double sum[3] = {0.0, 0.0, 0.0};
            for (int64_t q = 0; q < p.k; q++)
                add_term(sum, weight_of(W0(c, w), p.ld[2], j, q), operand_of(F0(c, x)[t * p.ld[1] + q], bf16));
            near_product(c, "y", y, t, j, p.ld[0], p.k, alpha, sum, add < 0 ? 0.0 : F0(c, add)[t * p.ld[3] + j]);
        }
    }
}

static void check_w1_backward(test_case *c)
{
    for (int i = 0; i < 120; i++) {
        product p = draw_product(c, i, 37, 544);
        p.ld[0] = p.k + draw_below(c, 3);
        p.ld[1] = p.n + draw_below(c, 3);
        p.ld[2] = p.k / 32 + draw_below(c, 3);
        p.ld[3] = p.addend == 2 ? p.ld[0] : p.k + draw_below(c, 3);
        const int bf16 = i / STYLES % 2;
        begin(c, (enum style)(i % STYLES), "m %d n %d k %d ld %d %d %d %d addend %d bf16 %d", (int)p.m, (int)p.n,
              (int)p.k, (int)p.ld[0], (int)p.ld[1], (int)p.ld[2], (int)p.ld[3], p.addend, bf16);
        begin_product(c, bf16);
        const int dx = floats(c, "dx", p.addend == 2 ? UPDATE : WRITE, span(p.m, p.k, p.ld[0]));
        const int dy = floats(c, "dy", READ, span(p.m, p.n, p.ld[1])), w = words(c, "w", READ, span(p.n, p.k / 32, p.ld[2]));
        const int scale = halves(c, "scale", p.n), scratch = operand_add(c, "scratch", SCRATCH, BITS, QSI_W1_SCRATCH);
        const int add = p.addend == 2 ? dx : p.addend ? floats(c, "addend", READ, span(p.m, p.k, p.ld[3])) : -1;
        RUN(c, k->w1_backward(F(c, dx), p.ld[0], F(c, dy), p.ld[1], W(c, w), p.ld[2], H(c, scale), F(c, add), p.ld[3], p.m,
                              p.n, p.k, bf16, W(c, scratch)));
        for (int64_t at = 0; (c->style == MILD || c->bound) && at < p.m * p.k; at++) {
            const int64_t t = at / p.k, q = at % p.k;
            double sum[3] = {0.0, 0.0, 0.0};
            for (int64_t j = 0; j < p.n; j++) {
                const float alpha = qs_half_to_float(((const uint16_t *)(const void *)c->op[scale].initial)[j]);
                add_term(sum, weight_of(W0(c, w), p.ld[2], j, q), operand_of(alpha * F0(c, dy)[t * p.ld[1] + j], bf16));
            }
            near_product(c, "dx", dx, t, q, p.ld[0], p.n, 1.0, sum, add < 0 ? 0.0 : F0(c, add)[t * p.ld[3] + q]);
        }
    }
}

#include "check_i8.h"

/* ---- dense products and plain vectors -------------------------------------------------------------------------- */

static void check_f32_gemm(test_case *c)
{
    for (int i = 0; i < 260; i++) {
        int64_t m = draw_below(c, 41), n = draw_below(c, 70), depth = draw_below(c, 41);
        if (i % 20 == 3)
            depth = 250 + draw_below(c, 280);
        const int transposed = (int)draw_below(c, 3), accumulate = (int)draw_below(c, 2);
        const int64_t ldc = n + draw_below(c, 3), ldb = n + draw_below(c, 3), pad = draw_below(c, 3);
        const int64_t a_row = transposed == 1 ? 1 : transposed == 2 ? 2 : depth + pad;
        const int64_t a_depth = transposed == 1 ? m + pad : transposed == 2 ? 2 * m + pad : 1;
        begin(c, (enum style)(i % STYLES), "m %d n %d depth %d ldc %d ldb %d a %d %d accumulate %d", (int)m, (int)n,
              (int)depth, (int)ldc, (int)ldb, (int)a_row, (int)a_depth, accumulate);
        const int out = floats(c, "c", UPDATE, span(m, n, ldc));
        const int a = floats(c, "a", READ, m && depth ? (m - 1) * a_row + (depth - 1) * a_depth + 1 : 0);
        const int b = floats(c, "b", READ, span(depth, n, ldb));
        RUN(c, k->f32_gemm(F(c, out), ldc, F(c, a), a_row, a_depth, F(c, b), ldb, m, n, depth, accumulate));
        for (int64_t at = 0; c->style == MILD && at < m * n; at++) {
            const int64_t r = at / n, j = at % n;
            double sum = accumulate ? F0(c, out)[r * ldc + j] : 0.0, magnitude = fabs(sum);
            for (int64_t p = 0; p < depth; p++) {
                const double term = (double)F0(c, a)[r * a_row + p * a_depth] * F0(c, b)[p * ldb + j];
                sum += term;
                magnitude += fabs(term);
            }
            near(c, "c", at, FR(c, out)[r * ldc + j], sum, U * magnitude * (double)(depth + 2));
        }
    }
}

static void check_f32_add(test_case *c)
{
    FOR_VECTORS(c, n) {
        const int y = floats(c, "y", UPDATE, n), x = floats(c, "x", READ, n);
        RUN(c, k->f32_add(F(c, y), F(c, x), n));
        for (int64_t j = 0; c->style == MILD && j < n; j++)   /* rounding twice from 53 bits is innocuous */
            near(c, "y", j, FR(c, y)[j], (float)((double)F0(c, y)[j] + F0(c, x)[j]), 0.0);
    }
}

static void check_f32_scale(test_case *c)
{
    FOR_VECTORS(c, n) {
        const int y = floats(c, "y", UPDATE, n);
        const float factor = draw_float(c);
        RUN(c, k->f32_scale(F(c, y), factor, n));
        for (int64_t j = 0; c->style == MILD && j < n; j++)
            near(c, "y", j, FR(c, y)[j], (float)((double)F0(c, y)[j] * factor), 0.0);
    }
}

static void check_f32_dot(test_case *c)
{
    FOR_VECTORS(c, n) {
        const int out = floats(c, "result", WRITE, 1), x = floats(c, "x", READ, n), y = floats(c, "y", READ, n);
        RUN(c, *F(c, out) = k->f32_dot(F(c, x), F(c, y), n));
        double sum = 0.0, magnitude = 0.0;
        for (int64_t j = 0; j < n; j++) {
            sum += (double)F0(c, x)[j] * F0(c, y)[j];
            magnitude += fabs((double)F0(c, x)[j] * F0(c, y)[j]);
        }
        if (c->style == MILD)
            near(c, "result", 0, *FR(c, out), sum, U * magnitude * (double)(n / 16 + 6));
    }
}

/* ---- norms, rope ----------------------------------------------------------------------------------------------- */

static double rstd_of(const float *x, int64_t d, double eps)
{
    double sum = 0.0;
    for (int64_t j = 0; j < d; j++)
        sum += (double)x[j] * x[j];
    return 1.0 / sqrt(sum / (double)d + eps);
}

static void check_rmsnorm(test_case *c)
{
    FOR_VECTORS(c, d) {
        const int in_place = (int)draw_below(c, 2);
        const int y = floats(c, "y", in_place ? UPDATE : WRITE, d), x = in_place ? y : floats(c, "x", READ, d);
        const int gain = floats(c, "gain", READ, d);
        RUN(c, k->rmsnorm(F(c, y), F(c, x), F(c, gain), d, 1e-6f));
        const double rstd = rstd_of(F0(c, x), d, (double)1e-6f);
        for (int64_t j = 0; c->style == MILD && j < d; j++) {
            const double want = F0(c, x)[j] * rstd * F0(c, gain)[j];
            near(c, "y", j, FR(c, y)[j], want, U * fabs(want) * (double)(d / 16 + 16));
        }
    }
}

static void check_rmsnorm_grad(test_case *c)
{
    FOR_VECTORS(c, d) {
        const int alias = (int)draw_below(c, 4);   /* 0: none, no addend; 1: addend; 2: dx is dy; 3: dx is addend */
        const int dx = floats(c, "dx", alias >= 2 ? UPDATE : WRITE, d), x = floats(c, "x", READ, d);
        const int dy = alias == 2 ? dx : floats(c, "dy", READ, d), gain = floats(c, "gain", READ, d);
        const int add = alias == 3 ? dx : alias == 1 ? floats(c, "addend", READ, d) : -1;
        const int dgain = floats(c, "dgain", UPDATE, d);
        RUN(c, k->rmsnorm_grad(F(c, dx), F(c, dy), F(c, x), F(c, gain), F(c, add), F(c, dgain), d, 1e-6f));
        const double rstd = rstd_of(F0(c, x), d, (double)1e-6f);
        double mean = 0.0, magnitude = 0.0;
        for (int64_t j = 0; j < d; j++) {
            const double term = (double)F0(c, dy)[j] * F0(c, gain)[j] * F0(c, x)[j] * rstd;
            mean += term / (double)d;
            magnitude += fabs(term) / (double)d;
        }
        for (int64_t j = 0; c->style == MILD && j < d; j++) {
            const double h = F0(c, x)[j] * rstd, g = F0(c, dy)[j], t = g * F0(c, gain)[j], old = F0(c, dgain)[j];
            const double extra = add < 0 ? 0.0 : F0(c, add)[j], slack = U * (double)(d / 8 + 40);
            near(c, "dx", j, FR(c, dx)[j], rstd * (t - h * mean) + extra,
                 slack * (rstd * (fabs(t) + fabs(h) * magnitude) + fabs(extra)));
            near(c, "dgain", j, FR(c, dgain)[j], old + g * h, slack * (fabs(g * h) + fabs(old)));
        }
    }
}

static void check_rope(test_case *c)
{
    FOR_VECTORS(c, half) {
        const int x = floats(c, "x", UPDATE, 2 * half), co = floats(c, "cosine", READ, half);
        const int si = floats(c, "sine", READ, half);
        const float sign = draw(c) & 1 ? 1.0f : -1.0f;
        RUN(c, k->rope(F(c, x), F(c, co), F(c, si), sign, half));
        for (int64_t j = 0; c->style == MILD && j < half; j++) {
            const double a = F0(c, x)[j], b = F0(c, x)[j + half], r = F0(c, co)[j], s = (double)sign * F0(c, si)[j];
            near(c, "x", j, FR(c, x)[j], a * r - b * s, 3.0 * U * (fabs(a * r) + fabs(b * s)));
            near(c, "x", j + half, FR(c, x)[j + half], b * r + a * s, 3.0 * U * (fabs(b * r) + fabs(a * s)));
        }
    }
}

/* ---- exponentials ---------------------------------------------------------------------------------------------- */

static void check_softmax_block(test_case *c)
{
    FOR_VECTORS(c, length) {
        const int64_t n = length % 65;
        const int first = (int)draw_below(c, 2), p = floats(c, "p", UPDATE, n), out = floats(c, "factor", WRITE, 1);
        const int top = floats(c, "top", UPDATE, 1), sum = floats(c, "sum", UPDATE, 1);
        const float scale = c->style == MILD ? 7.3f : draw_float(c), start[2] = {-INFINITY, 0.0f};
        if (first || c->style == MILD) {
            memcpy(c->op[top].initial, first ? &start[0] : &(float){0.25f}, 4);
            memcpy(c->op[sum].initial, first ? &start[1] : &(float){3.0f}, 4);
        }
        RUN(c, *F(c, out) = k->softmax_block(F(c, p), n, scale, F(c, top), F(c, sum)));
        if (c->style != MILD)
            continue;
        double peak = *F0(c, top), total = 0.0;
        for (int64_t j = 0; j < n; j++)
            peak = fmax(peak, (double)F0(c, p)[j] * scale);
        const double factor = n == 0 ? 1.0 : exp(*F0(c, top) - peak);
        for (int64_t j = 0; j < n; j++) {
            const double t = (double)F0(c, p)[j] * scale, want = exp(t - peak);
            near(c, "p", j, FR(c, p)[j], want, U * want * (4.0 + fabs(t) + fabs(peak) + fabs(t - peak)));
            total += want;
        }
        near(c, "factor", 0, *FR(c, out), factor, U * factor * (4.0 + 3.0 * fabs(peak)));
        near(c, "sum", 0, *FR(c, sum), *F0(c, sum) * factor + total, 100.0 * U * (*F0(c, sum) * factor + total));
    }
}

/* exp itself through p = exp(p * 1 - 0): every level over a dense sweep, the reference within 1.5 ulp of libm's double. */
static void sweep_exp(test_case *c)
{
    for (int part = 0; part < 24; part++) {
        begin(c, MILD, "exp, part %d", part);
        const int64_t n = 40000;
        const int p = floats(c, "p", UPDATE, n), ds = floats(c, "ds", WRITE, n), dp = floats(c, "dp", READ, n);
        float *x = (float *)(void *)c->op[p].initial;
        for (int64_t j = 0; j < n; j++) {
            const double unit = ((double)j + draw_unit(c)) / (double)n;
            x[j] = part < 8    ? (float)((unit + part) * 22.5 - 90.0)
                   : part < 16 ? (float)(unit * 2.0 - 1.0)
                   : part < 20 ? ldexpf((float)unit, -(int)draw_below(c, 140)) * (draw(c) & 1 ? 1.0f : -1.0f)
                   : part < 22 ? (part == 20 ? 88.71875f : -87.3125f) + ldexpf((float)(j - n / 2), -17)
                   : part < 23 ? (float)((double)draw_below(c, 250) * 0.34657359027997264 - 43.0 + unit * 1e-3)
                               : draw_special(c);
        }
        RUN(c, k->softmax_grad(F(c, p), F(c, ds), F(c, dp), n, 1.0f, 0.0f, 0.0f));
        for (int64_t j = 0; j < n; j++) {
            const float got = FR(c, p)[j];
            const double want = exp((double)x[j]);
            if (x[j] != x[j] ? got == got : x[j] > 88.71875f ? got != INFINITY : x[j] < -87.3125f ? got != 0.0f : 0)
                say(c, "exp(%a) of the reference: %a", (double)x[j], (double)got);
            if (x[j] >= -87.3125f && x[j] <= 88.71875f)
                near(c, "exp", j, got, want, 1.5 * ldexp(1.0, ilogb(want) - 23));
        }
    }
}

static void check_softmax_grad(test_case *c)
{
    sweep_exp(c);
    FOR_VECTORS(c, n) {
        const int in_place = (int)draw_below(c, 2), p = floats(c, "p", UPDATE, n);
        const int ds = floats(c, "ds", in_place ? UPDATE : WRITE, n), dp = in_place ? ds : floats(c, "dp", READ, n);
        const float scale = draw_float(c), lse = draw_float(c), dot = draw_float(c);
        RUN(c, k->softmax_grad(F(c, p), F(c, ds), F(c, dp), n, scale, lse, dot));
        for (int64_t j = 0; c->style == MILD && j < n; j++) {
            const double t = (double)F0(c, p)[j] * scale, e = exp(t - lse), d = (double)F0(c, dp)[j] - dot;
            const double slack = U * (8.0 + fabs(t) + fabs(t - lse));
            near(c, "p", j, FR(c, p)[j], e, slack * e);
            near(c, "ds", j, FR(c, ds)[j], e * d * scale, slack * fabs(e * d * scale));
        }
    }
}

static void check_swiglu(test_case *c)
{
    FOR_VECTORS(c, n) {
        const int y = floats(c, "y", WRITE, n), gate = floats(c, "gate", READ, n), up = floats(c, "up", READ, n);
        RUN(c, k->swiglu(F(c, y), F(c, gate), F(c, up), n));
        for (int64_t j = 0; c->style == MILD && j < n; j++) {
            const double g = F0(c, gate)[j], want = g / (1.0 + exp(-g)) * F0(c, up)[j];
            near(c, "y", j, FR(c, y)[j], want, 8.0 * U * fabs(want));
        }
    }
}

static void check_swiglu_grad(test_case *c)
{
    FOR_VECTORS(c, n) {
        const int in_place = (int)draw_below(c, 2);
        const int dgate = floats(c, "dgate", in_place ? UPDATE : WRITE, n);
        const int dup = floats(c, "dup", in_place ? UPDATE : WRITE, n);
        const int gate = in_place ? dgate : floats(c, "gate", READ, n), up = in_place ? dup : floats(c, "up", READ, n);
        const int dy = floats(c, "dy", READ, n);
        RUN(c, k->swiglu_grad(F(c, dgate), F(c, dup), F(c, dy), F(c, gate), F(c, up), n));
        for (int64_t j = 0; c->style == MILD && j < n; j++) {
            const double g = F0(c, gate)[j], u = F0(c, up)[j], d = F0(c, dy)[j], s = 1.0 / (1.0 + exp(-g));
            near(c, "dup", j, FR(c, dup)[j], d * g * s, 8.0 * U * fabs(d * g * s));
            near(c, "dgate", j, FR(c, dgate)[j], d * u * s * (1.0 + g * (1.0 - s)),
                 12.0 * U * fabs(d * u) * s * (1.0 + fabs(g)));
        }
    }
}

static void check_softmax_stats(test_case *c)
{
    FOR_VECTORS(c, n) {
        const int first = (int)draw_below(c, 2), logits = floats(c, "logits", READ, n);
        const int top = floats(c, "top", UPDATE, 1), sum = floats(c, "sum", UPDATE, 1);
        if (first || c->style == MILD) {
            memcpy(c->op[top].initial, &(float){first ? -INFINITY : 0.25f}, 4);
            memcpy(c->op[sum].initial, &(float){first ? 0.0f : 3.0f}, 4);
        }
        RUN(c, k->softmax_stats(F(c, logits), n, F(c, top), F(c, sum)));
        if (c->style != MILD || n == 0)
            continue;
        double peak = *F0(c, top), total = 0.0;
        for (int64_t j = 0; j < n; j++)
            peak = fmax(peak, F0(c, logits)[j]);
        for (int64_t j = 0; j < n; j++)
            total += exp(F0(c, logits)[j] - peak);
        total += *F0(c, sum) * exp(*F0(c, top) - peak);
        near(c, "top", 0, *FR(c, top), peak, 0.0);
        near(c, "sum", 0, *FR(c, sum), total, U * 100.0 * total);
    }
}

static void check_cross_entropy_grad(test_case *c)
{
    FOR_VECTORS(c, n) {
        const int logits = floats(c, "logits", UPDATE, n);
        const int64_t target = draw_below(c, n + 4) - 2;   /* also just outside, on both sides */
        const float top = c->style == MILD ? 2.5f : draw_float(c), sum = c->style == MILD ? 7.1f : draw_float(c);
        const float factor = draw_float(c);
        RUN(c, k->cross_entropy_grad(F(c, logits), n, target, top, sum, factor));
        for (int64_t j = 0; c->style == MILD && j < n; j++) {
            const double e = exp(F0(c, logits)[j] - (double)top) / sum, want = (e - (j == target)) * factor;
            near(c, "logits", j, FR(c, logits)[j], want, U * fabs((double)factor) * (12.0 * e + 4.0 * (j == target)));
        }
    }
}

/* ---- AdamW, binarize ------------------------------------------------------------------------------------------- */

static void check_adamw(test_case *c)
{
    FOR_VECTORS(c, n) {
        const qs_adamw a = {.lr = 8e-3f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f,
                            .weight_decay = draw(c) & 1 ? 0.1f : 0.0f, .c1 = 0.19f, .c2 = 0.0975f};
        const int p = floats(c, "p", UPDATE, n), g = floats(c, "g", READ, n), m = floats(c, "m", UPDATE, n);
        const int v = floats(c, "v", UPDATE, n);
        const float gscale = c->style == MILD ? 0.5f : draw_float(c);
        for (int64_t j = 0; c->style != POISONED && j < n; j++)
            ((float *)(void *)c->op[v].initial)[j] = fabsf(F0(c, v)[j]);
        RUN(c, k->adamw(F(c, p), F(c, g), F(c, m), F(c, v), n, gscale, &a));
        for (int64_t j = 0; c->style == MILD && j < n; j++) {
            const double q = (double)F0(c, g)[j] * gscale, m0 = F0(c, m)[j], v0 = F0(c, v)[j], p0 = F0(c, p)[j];
            const double m1 = m0 + (double)(1.0f - a.beta1) * (q - m0), v1 = v0 + (double)(1.0f - a.beta2) * (q * q - v0);
            const double root = sqrt(v1 / (double)a.c2) + (double)a.eps, step = m1 / (double)a.c1 / root, lr = a.lr;
            const double m_slack = 3.0 * U * (fabs(m0) + fabs(q)), v_slack = 3.0 * U * (v0 + q * q);
            near(c, "m", j, FR(c, m)[j], m1, m_slack);
            near(c, "v", j, FR(c, v)[j], v1, v_slack);
            near(c, "p", j, FR(c, p)[j], p0 - lr * (double)a.weight_decay * p0 - lr * step,
                 4.0 * U * (fabs(p0) + lr * fabs(step)) + lr * (m_slack / (double)a.c1 / root + fabs(step) * v_slack / v1));
        }
    }
}

static void check_binarize(test_case *c)
{
    FOR_VECTORS(c, length) {
        const int64_t k0 = length % 64 * 32;
        const int w = words(c, "w", WRITE, k0 / 32), latent = floats(c, "latent", READ, k0);
        RUN(c, k->binarize(W(c, w), F(c, latent), k0));
        for (int64_t j = 0; j < k0; j++)
            same(c, "w", j, WR(c, w)[j / 32] >> (j % 32) & 1, F0(c, latent)[j] >= 0.0f);
    }
}

static void check_bop(test_case *c)
{
    FOR_VECTORS(c, length) {
        const int64_t k0 = length % 64 * 32;
        const int w = words(c, "w", UPDATE, k0 / 32), average = floats(c, "average", UPDATE, k0), G = floats(c, "G", READ, k0);
        const int still = draw_below(c, 8) == 0;   /* a row of zeros, whose divisor is 0 */
        const float divisor = still ? 0.0f : c->style == MILD ? -0.7f : draw_float(c);
        const float gamma = c->style == MILD ? 0.3f : draw_float(c), tau = c->style == MILD ? 0.2f : fabsf(draw_float(c));
        RUN(c, k->bop(W(c, w), F(c, average), F(c, G), k0, divisor, gamma, tau));
        for (int64_t j = 0; c->style == MILD && j < k0; j++) {
            const double u = still ? 0.0 : (double)F0(c, G)[j] / divisor, a = F0(c, average)[j];
            const int before = weight_of(W0(c, w), 0, 0, j) > 0 ? 1 : -1, against = before * FR(c, average)[j] > tau;
            near(c, "average", j, FR(c, average)[j], a + (double)gamma * (u - a), 3.0 * U * (fabs(u) + fabs(a)));
            same(c, "w", j, WR(c, w)[j / 32] >> (j % 32) & 1, (before > 0) != against);
        }
    }
}

/* ---- pulses and state machines --------------------------------------------------------------------------------- */

static void pulses_oracle(test_case *c, int64_t k, double alpha, float threshold, const int op[8])
{
    const float *G = F0(c, op[0]), *b = F0(c, op[1]);
    double row[16], dot[16], size[16];
    for (int j = 0; j < 16; j++) {
        row[j] = F0(c, op[3])[j];
        dot[j] = F0(c, op[5])[j];
        size[j] = fabs(dot[j]);
    }
    for (int64_t j = 0; j < k; j++) {
        const double g = alpha * G[j], t = (double)threshold * b[j];
        row[j % 16] += g * g;
        dot[j % 16] += weight_of(W0(c, op[2]), 0, 0, j) * G[j];
        size[j % 16] += fabs((double)G[j]);
        near(c, "col", j, FR(c, op[4])[j], F0(c, op[4])[j] + g * g, 4.0 * U * (fabs((double)F0(c, op[4])[j]) + g * g));
        if (op[6] < 0 || fabs(fabs(g) - t) <= 8.0 * U * fabs(t))
            continue;
        same(c, "up", j, WR(c, op[6])[j / 32] >> (j % 32) & 1, t > 0.0 && fabs(g) > t && g < 0.0);
        same(c, "down", j, WR(c, op[7])[j / 32] >> (j % 32) & 1, t > 0.0 && fabs(g) > t && g > 0.0);
    }
    for (int j = 0; j < 16; j++) {
        const double start = fabs((double)F0(c, op[3])[j]);
        near(c, "row", j, FR(c, op[3])[j], row[j], U * (double)(k / 16 + 4) * (fabs(row[j]) + 2.0 * start));
        near(c, "dot", j, FR(c, op[5])[j], dot[j], U * (double)(k / 16 + 4) * size[j]);
    }
}

static unsigned bit_at(const uint32_t *words_, int64_t i) { return words_[i / 32] >> (i % 32) & 1; }

static void check_fsm_pulses(test_case *c)
{
    FOR_VECTORS(c, length) {
        const int64_t k0 = length % 64 * 32;
        const int pulsing = draw_below(c, 4) != 0, G = floats(c, "G", READ, k0), b = floats(c, "b", READ, pulsing ? k0 : 0);
        const int w = words(c, "w", READ, k0 / 32), row = floats(c, "row", UPDATE, 16), col = floats(c, "col", UPDATE, k0);
        const int dot = floats(c, "dot", UPDATE, 16), up = pulsing ? words(c, "up", WRITE, k0 / 32) : -1;
        const int down = pulsing ? words(c, "down", WRITE, k0 / 32) : -1, op[8] = {G, b, w, row, col, dot, up, down};
        const float alpha = c->style == MILD ? 0.3f : draw_float(c), threshold = c->style == MILD ? 0.5f : draw_float(c);
        const int count = bytes(c, "pulses", WRITE, 8);
        RUN(c, const int64_t pulses = k->fsm_pulses(F(c, G), k0, alpha, threshold, pulsing ? F(c, b) : NULL, W(c, w), F(c, row),
                                                    F(c, col), F(c, dot), W(c, up), W(c, down));
            memcpy(c->op[count].at, &pulses, 8));
        int64_t want = 0, got;
        for (int64_t j = 0; pulsing && j < k0; j++)
            want += bit_at(WR(c, up), j) | bit_at(WR(c, down), j);
        memcpy(&got, c->op[count].result[0], 8);
        same(c, "pulses", 0, got, want);
        if (c->style == MILD)
            pulses_oracle(c, k0, alpha, threshold, op);
    }
}

/* The written rules, independent of the tables: level 1..levels for chains, s = -1..1 for t2. escape: a step away from
 * the deepest state may happen. */
static void rule_chain(int levels, int *w, int *level, int d, int escape)
{
    if (d == *w)
        *level = *level < levels ? *level + 1 : levels;
    else if (d == -*w && (*level < levels || escape)) {
        *level -= 1;
        if (*level == 0) {
            *level = 1;
            *w = -*w;
        }
    }
}

static void rule_t2(int *w, int *s, int d, int escape)
{
    if (*s == *w && d == -*w && !escape)
        return;
    const int t = *s + d;
    if (t == -2 * *w) {
        *w = -*w;
        *s = 0;
    } else {
        *s = t == 2 * *w ? *w : t;
    }
}

typedef int64_t machine(uint32_t *w, uint32_t *state, int64_t ld, const uint32_t *up, const uint32_t *down, int64_t n,
                        int sticky, const qsi_draws *draws);
enum { T2 = 0 };   /* "planes" of t2 */

static int state_at(const uint32_t *state, int planes, int64_t ld, int64_t i)
{
    static const int t2[4] = {0, 1, -1, 99};
    if (planes == T2)
        return t2[state[i / 16] >> (2 * (i % 16)) & 3];
    int level = 1;
    for (int p = 0; p < planes; p++)
        level += (int)bit_at(state + p * ld, i) << p;
    return level;
}

/* Makes a legal case of what was drawn: pulses disjoint, no T2 code 11; and, if enumerate, weight i is combination i of (w,
 * state, pulse), so that 3 words hold every entry of every table. */
static void legalize(int planes, int64_t ld, int64_t n, int enumerate, uint32_t *w, uint32_t *state, uint32_t *up, uint32_t *down)
{
    for (int64_t i = 0; enumerate && i < 32 * n; i++) {
        const int64_t states = planes == T2 ? 3 : 1 << planes, code = i % states, pulse = i / states % 3;
        const uint32_t bit = 1u << (i % 32), sign = (uint32_t)(i / states / 3 & 1);
        w[i / 32] = (w[i / 32] & ~bit) | (sign ? bit : 0);
        up[i / 32] = (up[i / 32] & ~bit) | (pulse == 1 ? bit : 0);
        down[i / 32] = (down[i / 32] & ~bit) | (pulse == 2 ? bit : 0);
        for (int p = 0; p < planes; p++)
            state[p * ld + i / 32] = (state[p * ld + i / 32] & ~bit) | ((code >> p & 1) ? bit : 0);
        if (planes == T2)
            state[i / 16] = (state[i / 16] & ~(3u << 2 * (i % 16))) | (uint32_t)code << 2 * (i % 16);
    }
    for (int64_t i = 0; i < n; i++)
        down[i] &= ~up[i];
    for (int64_t i = 0; planes == T2 && i < 2 * n; i++)
        state[i] &= ~(state[i] << 1 & 0xaaaaaaaau);
}

static qsi_draws draw_draws(test_case *c)
{
    const qsi_draws d = {draw(c), (uint32_t)draw(c), (uint32_t)draw(c) >> 8, (uint32_t)draw(c), (uint32_t)draw(c) >> 4};
    return d;
}

/* Whether the 8-bit number of weight i is below sticky. */
static int escapes(const qsi_draws *d, int64_t i, int sticky)
{
    uint32_t plane[8];
    int number = 0;
    for (uint32_t half = 0; half < 2; half++)
        qs_philox(d->seed, d->step, QS_RANDOM_STICKY, d->tensor, d->row, 2 * (d->word + (uint32_t)(i / 32)) + half,
                  plane + 4 * half);
    for (int q = 0; q < 8; q++)
        number |= (int)(plane[q] >> i % 32 & 1) << q;
    return number < sticky;
}

/* Every number below which a step may happen; 256 (all) every third time. */
static void check_machine(test_case *c, int planes, size_t slot)
{
    for (int i = 0; i < 390; i++) {
        const int64_t n = i < 6 ? 6 : i % 41, ld = n + draw_below(c, 3);
        const int sticky = i < 6 ? 128 : i % 3 == 0 ? 256 : i * 2 / 3 - 4;
        const qsi_draws draws = draw_draws(c);
        begin(c, MILD, "n %d ld %d sticky %d", (int)n, (int)ld, sticky);
        const int w = words(c, "w", UPDATE, n), flips = bytes(c, "flips", WRITE, 8);
        const int state = words(c, "state", UPDATE, planes == T2 ? 2 * n : span(planes, n, ld));
        const int up = words(c, "up", READ, n), down = words(c, "down", READ, n);
        legalize(planes, ld, n, i < 6, (uint32_t *)(void *)c->op[w].initial, (uint32_t *)(void *)c->op[state].initial,
                 (uint32_t *)(void *)c->op[up].initial, (uint32_t *)(void *)c->op[down].initial);
        RUN(c, machine *run; memcpy(&run, (const char *)k + slot, sizeof run);
            const int64_t count = run(W(c, w), W(c, state), ld, W(c, up), W(c, down), n, sticky, &draws);
            memcpy(c->op[flips].at, &count, 8));
        int64_t want = 0, got;
        for (int64_t j = 0; j < 32 * n; j++) {
            const int before = bit_at(W0(c, w), j) ? 1 : -1, d = (int)bit_at(W0(c, up), j) - (int)bit_at(W0(c, down), j);
            int sign = before, level = state_at(W0(c, state), planes, ld, j);
            const int free_ = escapes(&draws, j, sticky);
            if (planes == T2)
                rule_t2(&sign, &level, d, free_);
            else
                rule_chain(1 << planes, &sign, &level, d, free_);
            want += sign != before;
            same(c, "w", j, bit_at(WR(c, w), j), sign > 0);
            same(c, "state", j, state_at(WR(c, state), planes, ld, j), level);
        }
        memcpy(&got, c->op[flips].result[0], 8);
        same(c, "flips", 0, got, want);
    }
}

static void check_fsm_c2(test_case *c) { check_machine(c, 2, offsetof(qsi_kernels, fsm_c2)); }
static void check_fsm_c4(test_case *c) { check_machine(c, 4, offsetof(qsi_kernels, fsm_c4)); }
static void check_fsm_t2(test_case *c) { check_machine(c, T2, offsetof(qsi_kernels, fsm_t2)); }

/* The number of weight i for stochastic rounding, over 2^16. */
static double rounding(const qsi_draws *d, int64_t i)
{
    uint32_t out[4];
    qs_philox(d->seed, d->step, QS_RANDOM_ROUNDING, d->tensor, d->row, 4 * d->word + (uint32_t)(i / 8), out);
    return (double)(out[i % 8 / 2] >> 16 * (i % 2) & 0xffff) / 65536.0;
}

static void check_fsm_c8(test_case *c)
{
    FOR_VECTORS(c, length) {
        const int64_t n = length % 41;
        const int w = words(c, "w", UPDATE, n), state = bytes(c, "state", UPDATE, 32 * n), G = floats(c, "G", READ, 32 * n);
        const int b = floats(c, "b", READ, 32 * n), stepped = words(c, "moved", WRITE, n);
        const int counts = bytes(c, "counts", UPDATE, 16);
        const float alpha = c->style == MILD ? 0.7f : draw_float(c), a = c->style == MILD ? 0.4f : draw_float(c);
        const float amplitude = c->style == MILD ? 4.0f : draw_below(c, 4) == 0 ? 100.0f : draw_float(c);
        const qsi_draws draws = draw_draws(c);
        memset(c->op[counts].initial, 0, 16);
        RUN(c, int64_t *count = (int64_t *)(void *)c->op[counts].at;
            count[0] = k->fsm_c8(W(c, w), (int8_t *)c->op[state].at, F(c, G), alpha, a, F(c, b), amplitude, n, &draws,
                                 W(c, stepped), &count[1]));
        int64_t moved = 0, flips = 0, got[2];
        for (int64_t j = 0; j < 32 * n; j++) {
            flips += bit_at(WR(c, w), j) != bit_at(W0(c, w), j);
            moved += bit_at(WR(c, stepped), j);
        }
        memcpy(got, c->op[counts].result[0], 16);
        same(c, "flips", 0, got[0], flips);
        same(c, "moves", 0, got[1], moved);
        for (int64_t j = 0; c->style == MILD && j < 32 * n; j++) {
            const double sigma = (double)a * F0(c, b)[j], part = rounding(&draws, j);
            const double s = sigma > 0.0 ? fmax(-4.0, fmin(4.0, (double)alpha * F0(c, G)[j] / sigma)) * amplitude : 0.0;
            const int old = (int8_t)c->op[state].initial[j], now = (int8_t)c->op[state].result[0][j];
            const int close = fabs(s + part - rint(s + part)) < 1e-5;
            if (!close || s == 0.0 || fabs(s) == 4.0 * (double)amplitude) {
                same(c, "state", j, now, (int64_t)fmax(-128.0, fmin(127.0, old - floor(s + part))));
                same(c, "moved", j, bit_at(WR(c, stepped), j), floor(s + part) != 0.0);
            }
            same(c, "w", j, bit_at(WR(c, w), j), now >= 0);
        }
    }
}

/* ---- running --------------------------------------------------------------------------------------------------- */

#include "kernel_bench.h"

typedef void check_fn(test_case *c);
typedef struct slot { const char *name; size_t offset; check_fn *check; bench_fn *bench; } slot;
static const slot slots[] = {
#define QS_KERNEL(name, cls, result, params) {#name, offsetof(qsi_kernels, name), check_##name, bench_##name},
#include "cpu/kernels.def"
#undef QS_KERNEL
};
enum { SLOTS = sizeof slots / sizeof slots[0], ROUNDS = 3 };

static uint64_t first_seed = 1;

/* In a child: the slot at one level (scalar: the reference against its oracles). Returns failures. */
static int run_level(const slot *s, const qsi_kernels *scalar, const qsi_kernels *tested, const char *level)
{
    static test_case c;
    c = (test_case){.slot = s->name, .level = level, .scalar = scalar, .tested = tested};
    for (const char *p = s->name; *p; p++)
        c.random = (c.random ^ (uint64_t)(unsigned char)*p) * 0x100000001b3u;
    c.random += first_seed;
    if (case_open(&c) != 0) {
        fprintf(stderr, "%s: no memory for operands\n", s->name);
        return 1;
    }
    for (int round = 0; round < ROUNDS; round++)
        s->check(&c);
    if (c.failures > 5)
        fprintf(stderr, "FAIL %s %s: %d disagreements in %ld cases\n", s->name, level, c.failures, c.cases);
    return c.failures;
}

static int run_child(const slot *s)
{
    qsi_kernels scalar, tested;
    int failures = 0, ran = 0;
    qsi_kernels_init(&scalar, QSI_LEVEL_SCALAR);
    for (int level = QSI_LEVEL_SCALAR + 1; level < QSI_LEVELS; level++) {
        const char *name = qsi_level_name((qsi_level)level);
        if (!qsi_level_available((qsi_level)level) || (only_level != NULL && strcmp(only_level, name) != 0))
            continue;
        qsi_kernels_init(&tested, (qsi_level)level);
        if (memcmp((const char *)&scalar + s->offset, (const char *)&tested + s->offset, sizeof(void (*)(void))) == 0)
            continue;
        failures += run_level(s, &scalar, &tested, name);
        ran++;
    }
    if (ran == 0)
        failures += run_level(s, &scalar, NULL, "scalar");
    return failures;
}

static void run_slot(const slot *s)
{
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        const int failures = run_child(s);
        fflush(NULL);
        _exit(failures != 0);
    }
    int status = 0;
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status))
        fprintf(stderr, "FAIL %s: signal %d\n", s->name, WTERMSIG(status));
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_slot(void **state) { run_slot(*state); }

static void test_levels(void **state)
{
    (void)state;
    const int best = qsi_level_by_name(NULL);
    assert_true(best >= 0 && qsi_level_available((qsi_level)best));
    assert_int_equal(qsi_level_by_name("no such level"), -1);
    assert_int_equal(qsi_level_by_name("scalar"), QSI_LEVEL_SCALAR);
    assert_null(qsi_level_name(QSI_LEVELS));
    for (int level = 0; level < QSI_LEVELS; level++) {
        qsi_kernels table, again;
        assert_int_equal(qsi_level_by_name(qsi_level_name((qsi_level)level)),
                         qsi_level_available((qsi_level)level) ? level : -2);
        qsi_kernels_init(&table, (qsi_level)level);
        qsi_kernels_init(&again, (qsi_level)level);
        assert_memory_equal(&table, &again, sizeof table);
        for (int i = 0; i < SLOTS; i++) {
            static const char none[sizeof(void (*)(void))];
            assert_memory_not_equal((const char *)&table + slots[i].offset, none, sizeof none);
        }
    }
}

static int bench(const char *prefix)
{
    static test_case c;
    static qsi_kernels table[QSI_LEVELS];
    if (case_open(&c) != 0)
        return 1;
    printf("%-14s %-28s %-8s %12s %16s %9s\n", "kernel", "size", "level", "ns/call", "rate", "x scalar");
    for (int i = 0; i < SLOTS; i++) {
        if (strncmp(slots[i].name, prefix, strlen(prefix)) != 0)
            continue;
        for (int level = 0; level < QSI_LEVELS; level++)
            qsi_kernels_init(&table[level], (qsi_level)level);
        c.slot = slots[i].name;
        c.random = first_seed;
        slots[i].bench(&c, table);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *prefix = "";
    int timing = 0;
    for (int i = 1; i < argc; i++) {
        const int more = i + 1 < argc;
        if (strcmp(argv[i], "--level") == 0 && more)
            only_level = argv[++i];
        else if (strcmp(argv[i], "--slot") == 0 && more)
            prefix = argv[++i];
        else if (strcmp(argv[i], "--seed") == 0 && more)
            first_seed = strtoull(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--bench") == 0)
            timing = 1;
        else {
            fprintf(stderr, "usage: check_kernels [--level NAME] [--slot PREFIX] [--seed N] [--bench]\n");
            return 64;
        }
    }
    if (only_level != NULL && qsi_level_by_name(only_level) < 0) {
        fprintf(stderr, "level %s is unknown or not available here\n", only_level);
        return 64;
    }
    if (timing)
        return bench(prefix);
    struct CMUnitTest tests[SLOTS + 1] = {cmocka_unit_test(test_levels)};
    size_t count = 1;
    for (int i = 0; i < SLOTS; i++)
        if (strncmp(slots[i].name, prefix, strlen(prefix)) == 0)
            tests[count++] = (struct CMUnitTest){slots[i].name, test_slot, NULL, NULL, (void *)(uintptr_t)&slots[i]};
    return _cmocka_run_group_tests("kernels", tests, count, NULL, NULL);
}
