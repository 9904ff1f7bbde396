/* check_i8.h - checks of the int8 and bf16 operands and of the products with them, for check_kernels.c. */
#ifndef QSBITS_CHECK_I8_H
#define QSBITS_CHECK_I8_H

/* Bytes of an operand as the reference left them, and floats of the variant under test (the reference where there is none). */
static const int8_t *QR(test_case *c, int i) { return (const int8_t *)c->op[i].result[0]; }
static int8_t *Q(test_case *c, int i) { return (int8_t *)c->op[i].at; }
static const int8_t *Q0(test_case *c, int i) { return (const int8_t *)c->op[i].initial; }

/* int8 operands as i8_row and i8_features make them: -127 .. 127, the ends often. */
static int quants(test_case *c, const char *name, int64_t n)
{
    const int i = operand_add(c, name, READ, BITS, n);
    for (int64_t j = 0; j < n; j++) {
        const int64_t any = draw_below(c, 300) - 150;
        c->op[i].initial[j] = (uint8_t)(int8_t)(any < -127 ? -127 : any > 127 ? 127 : any);
    }
    return i;
}

/* The greatest sums there are: operand q is 127 or -127 by the place along the sum, the same for all tokens, and the weights
 * agree with its signs, or disagree, everywhere. */
static void greatest_sums(test_case *c, int q, int64_t ldq, int w, int64_t ldw, const product *p, int backward)
{
    const int64_t depth = backward ? p->n : p->k, alternate = draw_below(c, 3), against = draw_below(c, 2);
    uint32_t *word = (uint32_t *)(void *)c->op[w].initial;
    for (int64_t d = 0; d < depth; d++) {
        const int64_t minus = alternate == 2 ? d * 7 / 3 % 2 : alternate;
        for (int64_t t = 0; t < p->m; t++)
            c->op[q].initial[t * ldq + d] = (uint8_t)(minus ? -127 : 127);
        for (int64_t j = 0; j < (backward ? p->k / 32 : p->n); j++) {
            uint32_t *at = backward ? word + d * ldw + j : word + j * ldw + d / 32;
            const uint32_t bits = backward ? ~0u : 1u << (d % 32);
            *at = (minus != 0) == (against != 0) ? *at | bits : *at & ~bits;
        }
    }
}

/* What quantizing t to q with scale s must satisfy: within half a step and a rounding of it. */
static void near_quant(test_case *c, int64_t index, int8_t q, float s, double t)
{
    if (s > 0.0f && !(fabs(q * (double)s - t) <= s * (0.5 + 127 * 4 * U)))
        say(c, "q[%lld] of the reference: %d * %g for %g", (long long)index, q, (double)s, t);
    if (s == 0.0f && q != 0)
        say(c, "q[%lld] of the reference: %d with scale 0", (long long)index, q);
}

static void check_i8_row(test_case *c)
{
    FOR_VECTORS(c, n) {
        const int scaled = (int)draw_below(c, 2);
        const int q = operand_add(c, "q", WRITE, BITS, n), x = floats(c, "x", READ, n), s = floats(c, "s", WRITE, 1);
        const int scale = halves(c, "scale", n);
        RUN(c, *F(c, s) = k->i8_row(Q(c, q), F(c, x), scaled ? H(c, scale) : NULL, n));
        for (int64_t j = 0; c->style == MILD && j < n; j++) {
            const double alpha = qs_half_to_float(((const uint16_t *)(const void *)c->op[scale].initial)[j]);
            near_quant(c, j, QR(c, q)[j], *FR(c, s), F0(c, x)[j] * (scaled ? alpha : 1.0));
        }
    }
}

static void check_w1_i8(test_case *c, int backward)
{
    for (int i = 0; i < 120; i++) {
        product p = backward ? draw_product(c, i, 37, 544) : draw_product(c, i, 521, 64);
        if (i % 40 == 27) {   /* sums beyond 16 bits */
            p.m = 1 + draw_below(c, 9);
            p.n = backward ? 1500 : 70;
            p.k = backward ? 64 : 1504;
        }
        const int greatest = i % 8 == 3;
        if (greatest) {
            static const int64_t tokens[] = {1, 2, 3, 4, 5, 7, 9, 10, 12, 17, 33}, depths[] = {256, 480, 512, 992, 1504};
            const int64_t deep = depths[draw_below(c, 5)];
            p.m = tokens[draw_below(c, 11)];
            p.n = backward ? deep : 1 + draw_below(c, 70);
            p.k = backward ? 64 : deep;
        }
        const int64_t out = backward ? p.k : p.n, depth = backward ? p.n : p.k;
        p.ld[0] = out + draw_below(c, 3);
        p.ld[1] = depth + draw_below(c, 3);
        p.ld[2] = p.k / 32 + draw_below(c, 3);
        p.ld[3] = p.addend == 2 ? p.ld[0] : out + draw_below(c, 3);
        begin(c, (enum style)(i % STYLES), "m %d n %d k %d ld %d %d %d %d addend %d", (int)p.m, (int)p.n, (int)p.k,
              (int)p.ld[0], (int)p.ld[1], (int)p.ld[2], (int)p.ld[3], p.addend);
        const int y = floats(c, "y", p.addend == 2 ? UPDATE : WRITE, span(p.m, out, p.ld[0]));
        const int q = quants(c, "q", span(p.m, depth, p.ld[1])), s = floats(c, "s", READ, p.m);
        const int w = words(c, "w", READ, span(p.n, p.k / 32, p.ld[2])), scale = halves(c, "scale", p.n);
        const int scratch = operand_add(c, "scratch", SCRATCH, BITS, QSI_W1_SCRATCH);
        const int add = p.addend == 2 ? y : p.addend ? floats(c, "addend", READ, span(p.m, out, p.ld[3])) : -1;
        if (greatest)
            greatest_sums(c, q, p.ld[1], w, p.ld[2], &p, backward);
        if (backward)
            RUN(c, k->w1_i8_backward(F(c, y), p.ld[0], Q(c, q), p.ld[1], F(c, s), W(c, w), p.ld[2], F(c, add), p.ld[3], p.m,
                                     p.n, p.k, W(c, scratch)));
        else
            RUN(c, k->w1_i8_forward(F(c, y), p.ld[0], Q(c, q), p.ld[1], F(c, s), W(c, w), p.ld[2], H(c, scale), F(c, add),
                                    p.ld[3], p.m, p.n, p.k, W(c, scratch)));
        for (int64_t at = 0; c->style == MILD && at < p.m * out; at++) {
            const int64_t t = at / out, j = at % out;
            const double alpha = backward ? 1.0 : qs_half_to_float(((const uint16_t *)(const void *)c->op[scale].initial)[j]);
            const double extra = add < 0 ? 0.0 : F0(c, add)[t * p.ld[3] + j], factor = alpha * F0(c, s)[t];
            double sum = 0.0;
            for (int64_t d = 0; d < depth; d++)
                sum += Q0(c, q)[t * p.ld[1] + d] * (backward ? weight_of(W0(c, w), p.ld[2], d, j) : weight_of(W0(c, w), p.ld[2], j, d));
            near(c, "y", at, FR(c, y)[t * p.ld[0] + j], factor * sum + extra, U * (3 * fabs(factor * sum) + fabs(extra)));
        }
    }
}

static void check_w1_i8_forward(test_case *c) { check_w1_i8(c, 0); }
static void check_w1_i8_backward(test_case *c) { check_w1_i8(c, 1); }

/* Tokens and features of a chunk. */
static int64_t draw_tokens(test_case *c) { return draw_below(c, 8) == 0 ? 256 : draw_below(c, 40); }

static void check_i8_features(test_case *c)
{
    for (int i = 0; i < 150; i++) {
        const int64_t m = draw_tokens(c), n = draw_below(c, 70), ldx = n + draw_below(c, 3), ldq = n + draw_below(c, 3);
        const int64_t quads = (m + 3) / 4;
        begin(c, (enum style)(i % STYLES), "m %d n %d ld %d %d", (int)m, (int)n, (int)ldq, (int)ldx);
        const int q = operand_add(c, "q", UPDATE, BITS, 4 * span(quads, n, ldq)), s = floats(c, "s", WRITE, n);
        const int x = floats(c, "x", READ, span(m, n, ldx));
        RUN(c, k->i8_features(Q(c, q), ldq, F(c, s), F(c, x), ldx, m, n));
        for (int64_t at = 0; c->style == MILD && at < 4 * quads * n; at++) {
            const int64_t t = at / n, j = at % n;
            near_quant(c, at, QR(c, q)[(t / 4 * ldq + j) * 4 + t % 4], FR(c, s)[j], t < m ? F0(c, x)[t * ldx + j] : 0.0);
        }
    }
}

static void check_i8_gradient(test_case *c)
{
    for (int i = 0; i < 150; i++) {
        const int64_t rows = draw_below(c, 70), cols = draw_below(c, 90);
        const int64_t quads = draw_below(c, 10) == 0 || i % 8 == 3 ? 64 : draw_below(c, 12);
        const int64_t ldg = cols + draw_below(c, 3), lda = rows + draw_below(c, 3), ldb = cols + draw_below(c, 3);
        begin(c, (enum style)(i % STYLES), "rows %d cols %d quads %d ld %d %d %d", (int)rows, (int)cols, (int)quads, (int)ldg,
              (int)lda, (int)ldb);
        const int g = floats(c, "g", UPDATE, span(rows, cols, ldg)), sa = floats(c, "sa", READ, rows);
        const int a = quants(c, "a", 4 * span(quads, rows, lda)), b = quants(c, "b", 4 * span(quads, cols, ldb));
        const int sb = floats(c, "sb", READ, cols), scratch = operand_add(c, "scratch", SCRATCH, BITS, QSI_GRADIENT_SCRATCH);
        if (i % 8 == 3) {   /* the greatest sums there are */
            memset(c->op[a].initial, 127, c->op[a].bytes);
            memset(c->op[b].initial, i % 16 == 3 ? 127 : (uint8_t)-127, c->op[b].bytes);
        }
        RUN(c, k->i8_gradient(F(c, g), ldg, Q(c, a), F(c, sa), lda, Q(c, b), F(c, sb), ldb, rows, cols, quads, W(c, scratch)));
        for (int64_t at = 0; c->style == MILD && at < rows * cols; at++) {
            const int64_t r = at / cols, j = at % cols;
            double sum = 0.0;
            for (int64_t t = 0; t < 4 * quads; t++)
                sum += Q0(c, a)[(t / 4 * lda + r) * 4 + t % 4] * Q0(c, b)[(t / 4 * ldb + j) * 4 + t % 4];
            sum *= (double)F0(c, sa)[r] * F0(c, sb)[j];
            near(c, "g", at, FR(c, g)[r * ldg + j], sum, 3 * U * fabs(sum));
        }
    }
}

static const uint16_t *HR(test_case *c, int i) { return (const uint16_t *)(const void *)c->op[i].result[0]; }

/* A bf16 number in double. */
static double wide(uint16_t bf16)
{
    const uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void check_bf16_features(test_case *c)
{
    for (int i = 0; i < 150; i++) {
        const int64_t m = draw_tokens(c), n = draw_below(c, 70), ldx = n + draw_below(c, 3), ldq = n + draw_below(c, 3);
        const int64_t pairs = (m + 1) / 2;
        begin(c, (enum style)(i % STYLES), "m %d n %d ld %d %d", (int)m, (int)n, (int)ldq, (int)ldx);
        const int q = operand_add(c, "q", UPDATE, BITS, 4 * span(pairs, n, ldq)), x = floats(c, "x", READ, span(m, n, ldx));
        RUN(c, k->bf16_features(H(c, q), ldq, F(c, x), ldx, m, n));
        for (int64_t at = 0; at < 2 * pairs * n; at++) {
            const int64_t t = at / n, j = at % n;
            const double want = t < m ? F0(c, x)[t * ldx + j] : 0.0, got = wide(HR(c, q)[(t / 2 * ldq + j) * 2 + t % 2]);
            if (want != want ? got == got : fabs(want) < 0x1.FFp127 && !(fabs(got - want) <= fabs(want) * 0x1p-8 + 0x1p-134))
                say(c, "q[%lld] of the reference: %g for %g", (long long)at, got, want);
        }
    }
}

/* bf16 values: upper halves of the style's floats. */
static int bf16s(test_case *c, const char *name, int64_t n)
{
    const int i = operand_add(c, name, READ, BITS, 2 * n);
    for (int64_t j = 0; j < n; j++) {
        const float value = draw_float(c);
        memcpy(c->op[i].initial + 2 * j, (const char *)&value + 2, 2);
    }
    return i;
}

static double bf16_at(test_case *c, int i, int64_t at) { return wide(((const uint16_t *)(const void *)c->op[i].initial)[at]); }

/* The BOUND of docs/numerics.md, section 1, t = 1, for a result whose terms and their sum of magnitudes are finite; a level may
 * take subnormal numbers for 0. */
static void check_bf16_gradient(test_case *c)
{
    for (int i = 0; i < 150; i++) {
        const int64_t rows = draw_below(c, 70), cols = draw_below(c, 90), pairs = draw_below(c, 10) == 0 ? 128 : draw_below(c, 20);
        const int64_t ldg = cols + draw_below(c, 3), lda = rows + draw_below(c, 3), ldb = cols + draw_below(c, 3);
        begin(c, (enum style)(i % STYLES), "rows %d cols %d pairs %d ld %d %d %d", (int)rows, (int)cols, (int)pairs, (int)ldg,
              (int)lda, (int)ldb);
        const int g = floats(c, "g", UPDATE, span(rows, cols, ldg)), a = bf16s(c, "a", 2 * span(pairs, rows, lda));
        const int b = bf16s(c, "b", 2 * span(pairs, cols, ldb));
        const int scratch = operand_add(c, "scratch", SCRATCH, BITS, QSI_GRADIENT_SCRATCH);
        c->bound = 1;
        RUN(c, k->bf16_gradient(F(c, g), ldg, H(c, a), lda, H(c, b), ldb, rows, cols, pairs, W(c, scratch)));
        for (int64_t at = 0; at < rows * cols; at++) {
            const int64_t r = at / cols, j = at % cols;
            double sum = 0.0, magnitude = 0.0, subnormal = 0.0;
            for (int64_t t = 0; t < 2 * pairs; t++) {
                const double p = bf16_at(c, a, (t / 2 * lda + r) * 2 + t % 2), q = bf16_at(c, b, (t / 2 * ldb + j) * 2 + t % 2);
                sum += p * q;
                magnitude += fabs(p * q);
                subnormal += fabs(p) < 0x1p-126 || fabs(q) < 0x1p-126 || fabs(p * q) < 0x1p-126 ? fabs(p * q) : 0.0;
            }
            const float *got = (const float *)(const void *)c->op[g].result[c->tested != NULL];
            if (sum != sum && got[r * ldg + j] == got[r * ldg + j])
                say(c, "g[%lld]: %g where a term is not a number", (long long)at, (double)got[r * ldg + j]);
            if (magnitude < 1e38)
                near(c, "g", at, got[r * ldg + j], sum, U * (double)(2 * pairs + 8) * magnitude + subnormal + 0x1p-125);
        }
    }
}

#endif
