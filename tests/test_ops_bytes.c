/* test_ops_bytes.c - the state machine's ops against plain C, bit for bit; every op gives equal bytes for every thread
 * count, kernel level and row distance; memory of the visit. Public API alone. */
#include "ops_world.h"

/* ---- the state machine ------------------------------------------------------------------------------------------ */

/* 4 row blocks, the last of 4; 3 token chunks. The rows are the end of a matrix of two groups and a piece: a row of the last
 * group is among them, row 97 of the first is not. */
enum { FN = 100, FK = 320, FM = 600, FIRST_ROW = 490, WHOLE = FIRST_ROW + FN, GROUPS = 3, SAMPLED = 512 + 291 % (WHOLE - 512) };

/* ---- codes of sampled rows --------------------------------------------------------------------------------------- */

/* Planes of random codes 0..5 in `rows` sampled rows. */
static uint32_t *packed_codes(int64_t rows, int64_t cols, uint64_t seed)
{
    uint32_t *planes = host(3 * rows * cols / 32, sizeof *planes);
    for (int64_t i = 0; i < rows * cols; i++)
        for (int p = 0; p < 3; p++)
            planes[(3 * (i / cols) + p) * (cols / 32) + i % cols / 32] |= (bits(seed, i) % 6 >> p & 1) << (i % 32);
    return planes;
}

/* codes [rows, cols] of a record. */
static uint8_t *codes_of(world *w, qs_view sample)
{
    const int64_t cols = sample.cols, rows = sample.rows / 3;
    const uint32_t *planes = get(w, sample);
    uint8_t *codes = host(rows * cols, 1);
    for (int64_t i = 0; i < rows * cols; i++)
        for (int p = 0; p < 3; p++)
            codes[i] |= (uint8_t)((planes[(3 * (i / cols) + p) * (cols / 32) + i % cols / 32] >> (i % 32) & 1) << p);
    return codes;
}

/* What a code becomes. */
static uint8_t next_code(uint8_t code, int pulsed, int flipped)
{
    static const uint8_t flip[] = {2, 2, 3, 4, 5, 5};
    return flipped ? flip[code] : pulsed && code == 0 ? 1 : code;
}

/* ---- a matrix ---------------------------------------------------------------------------------------------------- */

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
                      .first_row = FIRST_ROW, .whole_rows = WHOLE, .amplitude = 2.5f}};
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
    t.u.sample = put(w, QS_W1, 3 * GROUPS, FK, packed_codes(GROUPS, FK, 6));
    t.r = fresh(w, QS_F32, 1, FN);
    t.c = fresh(w, QS_F32, 1, FK);
    t.control = zeros(w, 1, 4);
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
    uint8_t *codes;        /* [GROUPS, FK] */
} outcome;

static outcome read_outcome(world *w, const matrix *t)
{
    outcome o = {.w = host(FN * FK, 2), .state = host(FN * FK, 2), .r = get(w, t->u.r_now), .c = get(w, t->u.c_now),
                 .dmaster = get(w, t->u.dmaster), .codes = codes_of(w, t->u.sample)};
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

/* The pulse of a weight that has none: towards its anchor if one of the four candidates of its word says so. */
static int reference_pull(const qs_fsm_visit *u, const uint32_t *anchor, int64_t row, int64_t k)
{
    for (int c = 0; c < 4; c++) {
        const uint32_t candidate = philox_word(u, QS_RANDOM_ANCHOR, row, k / 32, c);
        if (candidate % 32 == (uint32_t)(k % 32) && candidate / 32 < u->pull)
            return sign_at(anchor, FK, row, k) > 0 ? 1 : 2;
    }
    return 0;
}

/* The visit from the dense sums G, in plain C: o holds w and state before, everything after. */
static void reference_visit(world *w, const matrix *t, outcome *o)
{
    const float *G = get(w, t->dw), *a = get(w, t->u.a), *b = get(w, t->u.b), theta = *(float *)get(w, t->u.theta);
    const uint16_t *scale = get(w, t->u.scale);
    const uint32_t *anchor = t->u.anchor.buffer ? get(w, t->u.anchor) : NULL;
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
            int pulse = limit > 0 && fabsf(g) > limit ? (g < 0 ? 1 : 2) : 0;
            if (t->u.fsm == QS_FSM_C8)
                pulse = reference_c8(&t->u, n, k, g, a[n] * b[k], weight, state);
            else
                reference_rule(&t->u, n, k, pulse || !anchor ? pulse : reference_pull(&t->u, anchor, n, k), weight, state);
            o->counts[0] += pulse != 0;
            o->counts[1] += *weight != old;
            if (FIRST_ROW + n == SAMPLED) {
                uint8_t *code = &o->codes[2 * FK + k];
                *code = next_code(*code, pulse != 0, *weight != old);
            }
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
    assert_same(got->codes, expected->codes, GROUPS * FK, what);
}

/* Signs of a moment in the past. */
static void give_anchor(world *w, matrix *t, uint32_t pull)
{
    t->u.anchor = put(w, QS_W1, FN, FK, packed(QS_W1, FN, FK, 7));
    t->u.pull = pull;
}

/* The visit, in one op and through stored pulses, with pulls; returns the flips. Pulls are no pulses. */
static int32_t check_anchor(qs_fsm fsm, int sticky, uint32_t pull, int32_t *pulses)
{
    world w = open_world(NULL, 2, BYTES);
    w.gap = 4;
    matrix t = make_matrix(&w, fsm, sticky);
    measure(&w, &t);
    give_anchor(&w, &t, pull);
    const void *signs = get(&w, t.u.w), *levels = get(&w, t.u.state), *codes = get(&w, t.u.sample);
    outcome expected = read_outcome(&w, &t);
    reference_visit(&w, &t, &expected);
    submit(&w, qs_op_fsm_visit(&t.u));
    outcome got = read_outcome(&w, &t);
    assert_outcome(&got, &expected, "visit with an anchor");
    ok(qs_write(w.queue, t.u.w, signs));
    ok(qs_write(w.queue, t.u.state, levels));
    ok(qs_write(w.queue, t.u.sample, codes));
    t.u.pulses = fresh(&w, QS_T2, FN, FK);
    submit(&w, qs_op_fsm_visit(&t.u));
    submit(&w, qs_op_fsm_rule(&t.u));
    got = read_outcome(&w, &t);
    assert_outcome(&got, &expected, "visit and rule with an anchor");
    *pulses = got.counts[0];
    close_world(&w);
    free_host(NULL);
    return got.counts[1];
}

static void test_anchor(void **state)
{
    (void)state;
    static const uint32_t pulls[] = {0, 1, QS_PULL_MOST / 5, QS_PULL_MOST};
    for (int fsm = 0; fsm <= QS_FSM_C4; fsm++)
        for (int sticky = 13; sticky <= 256; sticky += 243) {
            int32_t flips[4], pulses[4];
            for (int i = 0; i < 4; i++)
                flips[i] = check_anchor((qs_fsm)fsm, sticky, pulls[i], &pulses[i]);
            assert_true(flips[0] > 0 && flips[1] == flips[0] && flips[2] > flips[0] && flips[3] > flips[2]);
            assert_true(pulses[0] > 0 && pulses[1] == pulses[0] && pulses[2] == pulses[0] && pulses[3] == pulses[0]);
        }
}

/* Without a pulse anywhere, each weight is pulled with probability 1/8, nearly: two candidates of a word may be the same weight. All
 * levels start away from both ends, so a pull moves each by one towards or away from its flip. */
static void test_anchor_share(void **state)
{
    (void)state;
    world w = open_world(NULL, 1, BYTES);
    matrix t = make_matrix(&w, QS_FSM_C4, 256);
    measure(&w, &t);
    give_anchor(&w, &t, QS_PULL_MOST);
    uint32_t *levels = host(FN * FK / 8, sizeof *levels);
    for (int64_t i = 0; i < FN * FK / 8; i++)   /* level 8: the lower three of four planes */
        levels[i] = i % (4 * FK / 32) < 3 * FK / 32 ? UINT32_MAX : 0;
    ok(qs_write(w.queue, t.u.state, levels));
    const float none = INFINITY;
    ok(qs_write(w.queue, t.u.theta, &none));
    const uint32_t *anchor = get(&w, t.u.anchor), *signs = get(&w, t.u.w);
    const uint8_t *codes = codes_of(&w, t.u.sample);
    submit(&w, qs_op_fsm_visit(&t.u));
    const outcome got = read_outcome(&w, &t);
    int64_t pulled = 0;
    for (int64_t i = 0; i < FN * FK; i++) {
        const int home = sign_at(anchor, FK, i / FK, i % FK) == sign_at(signs, FK, i / FK, i % FK);
        assert_true(got.state[i] == 8 || got.state[i] == (home ? 9 : 7));
        pulled += got.state[i] != 8;
    }
    const double share = (double)pulled / (FN * FK), wanted = 1.0 - pow(31.0 / 32.0, 4.0);
    assert_true(fabs(share - wanted) < 0.01);
    assert_int_equal(got.counts[0] + got.counts[1], 0);
    assert_same(got.codes, codes, GROUPS * FK, "sample without pulses");
    close_world(&w);
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
            const void *bytes_w = get(&w, t.u.w), *bytes_state = get(&w, t.u.state), *bytes_sample = get(&w, t.u.sample);
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
            ok(qs_write(w.queue, t.u.sample, bytes_sample));
            qs_fsm_visit dense = t.u;
            dense.dy = dense.x = qs_absent();
            dense.dgrad = t.dw;
            submit(&w, qs_op_fsm_visit(&dense));
            got = read_outcome(&w, &t);
            assert_outcome(&got, &expected, "visit of dense sums");
            if (fsm != QS_FSM_C8) {                  /* and in two steps, through stored pulses */
                ok(qs_write(w.queue, t.u.w, bytes_w));
                ok(qs_write(w.queue, t.u.state, bytes_state));
                ok(qs_write(w.queue, t.u.sample, bytes_sample));
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

/* Which rows stand for their groups, as the page says. */
static void test_sample_rows(void **state)
{
    (void)state;
    assert_int_equal(qs_sample_rows(1), 1);
    assert_int_equal(qs_sample_rows(256), 1);
    assert_int_equal(qs_sample_rows(257), 2);
    assert_int_equal(qs_sample_row(1, 0), 0);
    assert_int_equal(qs_sample_row(97, 0), 0);
    assert_int_equal(qs_sample_row(128, 0), 97);
    assert_int_equal(qs_sample_row(4096, 0), 97);
    assert_int_equal(qs_sample_row(4096, 1), 256 + 194);
    assert_int_equal(qs_sample_row(4096, 15), 15 * 256 + 1552 % 256);
    assert_int_equal(qs_sample_row(257, 1), 256);
    assert_int_equal(qs_sample_row(WHOLE, 2), SAMPLED);
    assert_true(SAMPLED >= FIRST_ROW && qs_sample_row(WHOLE, 1) < FIRST_ROW);
    for (int64_t rows = 1; rows < 3000; rows += 7)
        for (int64_t j = 0; j < qs_sample_rows(rows); j++)
            assert_true(qs_sample_row(rows, j) / 256 == j && qs_sample_row(rows, j) < rows);
}

/* ---- signs from floats ------------------------------------------------------------------------------------------- */

enum { SN = 600, SK = 9000 / 32 * 32, SHORT = 64 };   /* rows of more than a piece of the driver, and short ones */

typedef struct signs {
    uint32_t *w;           /* [rows, cols / 32] */
    float *average;
    uint8_t *codes;
    int32_t flips;
} signs;

static void note_flip(signs *s, int64_t rows, int64_t cols, int64_t n, int64_t k, int flip)
{
    if (qs_sample_row(rows, n / 256) == n)
        s->codes[n / 256 * cols + k] = next_code(s->codes[n / 256 * cols + k], 0, flip);
    s->w[n * (cols / 32) + k / 32] ^= (uint32_t)flip << (k % 32);
    s->flips += flip;
}

/* Bop in plain C. */
static void reference_bop(signs *s, const float *G, const uint16_t *scale, int64_t rows, int64_t cols, float gamma, float tau)
{
    for (int64_t n = 0; n < rows; n++) {
        float stripe[16] = {0};
        for (int64_t k = 0; k < cols; k++)
            stripe[k % 16] = fmaf(G[n * cols + k], G[n * cols + k], stripe[k % 16]);
        const float alpha = qs_half_to_float(scale[n]), rms = sqrtf(fold16(stripe) / (float)cols);
        for (int64_t k = 0; k < cols; k++) {
            const float u = rms > 0 && alpha != 0 ? G[n * cols + k] / (alpha > 0 ? rms : -rms) : 0.0f;
            float *average = &s->average[n * cols + k];
            *average = fmaf(gamma, u - *average, *average);
            note_flip(s, rows, cols, n, k, (float)sign_at(s->w, cols, n, k) * *average > tau);
        }
    }
}

/* The whole matrix at once and in ranges of rows; row 0 has no gradient, row 1 a negative scale. */
static void check_bop(int64_t rows, int64_t cols)
{
    world w = open_world(NULL, 2, 100u << 20);
    float *G = noise(rows * cols, 1, 1);
    uint16_t *scale = scales(rows, 2);
    memset(G, 0, (size_t)cols * sizeof *G);
    scale[1 % rows] = qs_float_to_half(-0.1f);
    const qs_view vG = put_f32(&w, rows, cols, G), vs = put(&w, QS_F16, 1, rows, scale), counts = fresh(&w, QS_I32, 1, 4);
    const int64_t sampled = qs_sample_rows(rows), cut = rows / 3;
    for (int parts = 0; parts < 2; parts++) {
        signs want = {.w = packed(QS_W1, rows, cols, 3), .average = noise(rows * cols, 0.5f, 4)};
        const qs_view vw = put(&w, QS_W1, rows, cols, want.w), va = put_f32(&w, rows, cols, want.average);
        const qs_view sample = put(&w, QS_W1, 3 * sampled, cols, packed_codes(sampled, cols, 5));
        want.codes = codes_of(&w, sample);
        for (int step = 0; step < 2; step++) {
            want.flips = 0;
            reference_bop(&want, G, scale, rows, cols, 0.7f, 0.4f);
            if (parts) {
                submit(&w, qs_op_bop(qs_view_rows(vw, 0, cut), qs_view_rows(va, 0, cut), qs_view_rows(vG, 0, cut),
                                     qs_view_at(vs.buffer, vs.offset, QS_F16, 1, cut), qs_absent(), sample, 0.7f, 0.4f, 0, rows));
                submit(&w, qs_op_bop(qs_view_rows(vw, cut, rows - cut), qs_view_rows(va, cut, rows - cut),
                                     qs_view_rows(vG, cut, rows - cut), put(&w, QS_F16, 1, rows - cut, scale + cut), counts, sample,
                                     0.7f, 0.4f, cut, rows));
            } else {
                submit(&w, qs_op_bop(vw, va, vG, vs, counts, sample, 0.7f, 0.4f, 0, rows));
                const int32_t counted[4] = {0, want.flips};
                assert_same(get(&w, counts), counted, sizeof counted, "counts of bop");
            }
            assert_true(want.flips > 0);
            assert_same(get(&w, vw), want.w, rows * cols / 8, "w of bop");
            assert_same(get(&w, va), want.average, rows * cols * 4, "average of bop");
            assert_same(codes_of(&w, sample), want.codes, sampled * cols, "sample of bop");
        }
    }
    close_world(&w);
    free_host(NULL);
}

static void test_bop(void **state)
{
    (void)state;
    check_bop(SN, SHORT);
    check_bop(7, SK);
}

static void test_binarize(void **state)
{
    (void)state;
    const int64_t cut = 250, sampled = qs_sample_rows(SN);
    world w = open_world(NULL, 2, BYTES);
    signs want = {.w = packed(QS_W1, SN, SHORT, 1)};
    const float *latent = noise(SN * SHORT, 1, 2);
    const qs_view vw = put(&w, QS_W1, SN, SHORT, want.w), vl = put_f32(&w, SN, SHORT, latent);
    const qs_view sample = put(&w, QS_W1, 3 * sampled, SHORT, packed_codes(sampled, SHORT, 3)), counts = fresh(&w, QS_I32, 1, 4);
    const void *before = get(&w, sample);
    want.codes = codes_of(&w, sample);
    for (int64_t i = 0; i < SN * SHORT; i++)
        note_flip(&want, SN, SHORT, i / SHORT, i % SHORT, (latent[i] >= 0) != (sign_at(want.w, SHORT, i / SHORT, i % SHORT) > 0));
    const int32_t counted[4] = {0, want.flips};
    const void *start = get(&w, vw);
    submit(&w, qs_op_binarize(vw, vl, counts, sample, 0, SN));
    assert_same(get(&w, counts), counted, sizeof counted, "counts of binarize");
    assert_same(get(&w, vw), want.w, SN * SHORT / 8, "w of binarize");
    assert_same(codes_of(&w, sample), want.codes, sampled * SHORT, "sample of binarize");
    ok(qs_write(w.queue, vw, start));
    ok(qs_write(w.queue, sample, before));
    submit(&w, qs_op_binarize(qs_view_rows(vw, cut, SN - cut), qs_view_rows(vl, cut, SN - cut), qs_absent(), sample, cut, SN));
    submit(&w, qs_op_binarize(qs_view_rows(vw, 0, cut), qs_view_rows(vl, 0, cut), qs_absent(), sample, 0, SN));
    assert_same(codes_of(&w, sample), want.codes, sampled * SHORT, "sample of binarize in ranges");
    close_world(&w);
}

/* ---- the rest of the visit --------------------------------------------------------------------------------------- */

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

/* ---- equal bytes for every thread count and level --------------------------------------------------------------- */

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
        note(w, r, qs_op_with(qs_op_linear(y, x, packed_w, scale, dy), QS_PRECISION_INT8), 1);
        note(w, r, qs_op_with(qs_op_linear_dx(dx, dy, packed_w, scale, none), QS_PRECISION_INT8), 1);
        note(w, r, qs_op_with(qs_op_linear_dw(fresh(w, QS_F32, N, K), dy, x), QS_PRECISION_INT8), 1);
    }
}

static void run_rows(world *w, results *r)
{
    const int64_t M = 700, X = 48, d = 12, V = 31;
    const qs_view x = put_f32(w, M, X, noise(M * X, 2, 1)), dy = put_f32(w, M, X, noise(M * X, 2, 2));
    const qs_view y = fresh(w, QS_F32, M, X);
    const qs_view gain = put_f32(w, 1, d, noise(d, 1, 3)), partial = fresh(w, QS_F32, 3, d), dx = fresh(w, QS_F32, M, X);
    const qs_view angle = put_f32(w, 9, d / 2, noise(9 * d / 2, 1, 4)), one = put_f32(w, 1, 1, noise(1, 1, 5));
    const qs_view tokens = put(w, QS_I32, 1, M, symbols(M, V, 6)), table = put_f32(w, V, X, noise(V * X, 1, 7));
    const qs_view stats = fresh(w, QS_F32, M, 3), latent = put_f32(w, 64, 96, noise(64 * 96, 1, 8));
    note(w, r, qs_op_copy(y, x), 1);
    note(w, r, qs_op_embed(y, tokens, table), 1);
    note(w, r, qs_op_embed_grad(table, tokens, dy, QS_FLAG_ADD), 1);
    note(w, r, qs_op_rmsnorm(y, x, gain, 1e-5f), 1);
    qs_op norm = qs_op_rmsnorm_grad(dx, dy, x, gain, y, partial, 1e-5f);
    note(w, r, norm, 6);
    note(w, r, qs_op_chunk_sum(gain, partial, 0.7f), 1);
    note(w, r, qs_op_rope(y, angle, angle, d, 7, 2, QS_FLAG_INVERSE), 1);
    note(w, r, qs_op_swiglu(y, x, dy), 1);
    note(w, r, qs_op_swiglu_grad(x, y, dx, x, y), 2);
    const qs_view targets = put(w, QS_I32, 1, M, symbols(M, 2 * X, 9));   /* of two blocks: x, dy */
    note(w, r, qs_op_softmax_stats(stats, x, targets, 0, 0), 1);
    note(w, r, qs_op_softmax_stats(stats, dy, targets, X, QS_FLAG_ADD), 1);
    note(w, r, qs_op_cross_entropy(stats, fresh(w, QS_F32, 3, 1)), 2);
    note(w, r, qs_op_cross_entropy_grad(dy, stats, targets, X, 0.1f), 1);
    note(w, r, qs_op_sum_squares(one, x, qs_absent(), QS_FLAG_ADD), 1);
    note(w, r, qs_op_sum_squares(one, x, put(w, QS_F16, 1, M, scales(M, 13)), 0), 1);
    note(w, r, qs_op_clip_factor(one, put_f32(w, 1, 1, &(float){7}), 2), 1);
    const qs_adamw a = {.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .c1 = 0.1f,
                        .c2 = 0.05f};
    const qs_view v = zeros(w, M, X), m = zeros(w, M, X);
    note(w, r, qs_op_adamw(x, dy, m, v, one, put(w, QS_F16, 1, M, scales(M, 10)), a), 4);
    const qs_view long_x = put_f32(w, 1, 20001, noise(20001, 1, 11)), long_m = zeros(w, 1, 20001);
    const qs_view long_v = zeros(w, 1, 20001), long_g = put_f32(w, 1, 20001, noise(20001, 1, 12));
    note(w, r, qs_op_adamw(long_x, long_g, long_m, long_v, qs_absent(), qs_absent(), a), 4);
    note(w, r, qs_op_scales(fresh(w, QS_F16, 1, 96), qs_view_at(latent.buffer, latent.offset, QS_F32, 1, 96), 0.2f), 1);
    const qs_view bits_of = put(w, QS_W1, 64, 96, packed(QS_W1, 64, 96, 17));
    const qs_view counts = fresh(w, QS_I32, 1, 4), sample = put(w, QS_W1, 3, 96, packed(QS_W1, 3, 96, 14));
    note(w, r, qs_op_binarize(bits_of, latent, counts, sample, 64, 128), 4);
    note(w, r, qs_op_scale_grad(fresh(w, QS_F32, 1, 64), bits_of, latent, 0.2f), 1);
    note(w, r, qs_op_bop(bits_of, latent, put_f32(w, 64, 96, noise(64 * 96, 1, 15)), put(w, QS_F16, 1, 64, scales(64, 16)), counts,
                         sample, 0.6f, 0.3f, 64, 128), 6);
}

static void run_attention(world *w, results *r)
{
    const int64_t T = 200, H = 6, G = 2, d = 20;
    const qs_view q = put_f32(w, T, H * d, noise(T * H * d, 2, 1)), k = put_f32(w, T, G * d, noise(T * G * d, 2, 2));
    const qs_view v = put_f32(w, T, G * d, noise(T * G * d, 1, 3)), dout = put_f32(w, T, H * d, noise(T * H * d, 1, 4));
    const qs_view out = fresh(w, QS_F32, T, H * d), lse = fresh(w, QS_F32, T, H), dq = fresh(w, QS_F32, T, H * d);
    qs_op op = qs_op_attention(out, q, k, v, lse, d, 100, 100);
    note(w, r, op, 5);
    const qs_view dk = fresh(w, QS_F32, T, G * d), dv = fresh(w, QS_F32, T, G * d);
    note(w, r, qs_op_attention_grad(dq, dk, dv, dout, q, k, v, out, lse, d, 100), 3);
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
        note(w, r, qs_op_fsm_visit(&t.u), 15);
        note(w, r, qs_op_with(qs_op_fsm_visit(&t.u), QS_PRECISION_INT8), 15);
        if (fsm != QS_FSM_C8) {
            give_anchor(w, &t, QS_PULL_MOST / 3);
            note(w, r, qs_op_fsm_visit(&t.u), 15);
        }
        note(w, r, qs_op_fsm_statistics(t.r, t.c, t.control, t.u.r_now, t.u.c_now, t.u.counts, 0.9f, 0.3f, 2, FN * FK, 0),
             3);
        if (fsm != QS_FSM_C8) {
            t.u.pulses = put(w, QS_T2, FN, FK, packed(QS_T2, FN, FK, 3));
            note(w, r, qs_op_fsm_rule(&t.u), 5);
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

/* ---- memory ----------------------------------------------------------------------------------------------------- */

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
        cmocka_unit_test_teardown(test_visit, free_host),
        cmocka_unit_test_teardown(test_anchor, free_host),
        cmocka_unit_test_teardown(test_anchor_share, free_host),
        cmocka_unit_test_teardown(test_sample_rows, free_host),
        cmocka_unit_test_teardown(test_bop, free_host),
        cmocka_unit_test_teardown(test_binarize, free_host),
        cmocka_unit_test_teardown(test_threshold_and_statistics, free_host),
        cmocka_unit_test_teardown(test_quantile, free_host),
        cmocka_unit_test_teardown(test_equal_bytes, free_host),
        cmocka_unit_test_teardown(test_visit_memory, free_host),
    };
    return cmocka_run_group_tests_name("ops, bytes", tests, NULL, NULL);
}
