/* test_golden_step.c - one whole update step of a 32x32 matrix, for every machine, against tests/golden/step32.txt.
 *
 * The step is written out in docs/format.md ("One update step of a 32x32 matrix"); tests/test_golden_step.py computes the same file from
 * that text alone. QSBITS_GOLDEN=write prints what the library computes, in the format of the file. */
#include "ops_world.h"

enum { SIDE = 32, TOKENS = 32, SEED = 7, STEP = 1, TENSOR = 5 };

static void fill_operands(float *x, float *dy, uint32_t *w)
{
    for (int m = 0; m < TOKENS; m++) {
        for (int j = 0; j < SIDE; j++) {
            x[m * SIDE + j] = (float)((7 * m + 3 * j) % 17 - 8) / 8.0f;
            dy[m * SIDE + j] = (float)((5 * m + 11 * j + m * j) % 13 - 6) / 64.0f;
        }
    }
    for (uint32_t n = 0; n < SIDE; n++)
        w[n] = (n + 1) * 0x9E3779B9u;
}

/* Level - 1 = (5n + 3k) mod levels; t2: s of code (n + k) mod 3. */
static void fill_state(qs_fsm fsm, const uint32_t *w, void *packed)
{
    const qs_fsm_rule *rule = qs_fsm_rule_of(fsm);
    int16_t values[SIDE * SIDE];
    for (int n = 0; n < SIDE; n++) {
        for (int k = 0; k < SIDE; k++) {
            const int level = (5 * n + 3 * k) % rule->levels + 1, code = (n + k) % 3;
            const int sign = (w[n] >> k & 1) ? 1 : -1;
            values[n * SIDE + k] = (int16_t)(fsm == QS_FSM_T2 ? (code == 2 ? -1 : code) : fsm == QS_FSM_C8 ? sign * level : level);
        }
    }
    ok(qs_pack(rule->format, SIDE, SIDE, values, packed));
}

static qs_view place(qs_buffer *buffer, uint64_t *at, qs_format format, int64_t rows, int64_t cols)
{
    const qs_view v = qs_view_at(buffer, *at, format, rows, cols);
    *at += 8192;
    return v;
}

/* Measure, take over the statistics, then one lagged visit at a wanted share of 1/4. Prints one line of the golden file. */
static void run_step(qs_context *context, qs_fsm fsm, char *line, size_t size)
{
    qs_queue *queue = NULL;
    qs_buffer *buffer = NULL;
    float x[TOKENS * SIDE], dy[TOKENS * SIDE];
    uint32_t w[SIDE], state[8 * SIDE];
    uint64_t at = 0;
    const qs_fsm_rule *rule = qs_fsm_rule_of(fsm);
    uint16_t scale[SIDE];
    const float control[4] = {1.0f, 0.0f, 0.0f, 0.0f};
    int32_t counts[4];
    fill_operands(x, dy, w);
    fill_state(fsm, w, state);
    for (int n = 0; n < SIDE; n++)
        scale[n] = qs_float_to_half(0.17677669f);
    ok(qs_queue_create(context, &queue));
    ok(qs_buffer_create(context, QS_MEMORY_OTHER, 20 * 8192, &buffer));
    const qs_view r = place(buffer, &at, QS_F32, 1, SIDE), c = place(buffer, &at, QS_F32, 1, SIDE);
    const qs_view mu = place(buffer, &at, QS_F32, 1, 4);
    qs_fsm_visit u = {.fsm = fsm, .sticky = rule->default_sticky, .seed = SEED, .step = STEP, .tensor = TENSOR, .base = 0.17677669f,
                      .amplitude = 8.0f, .flags = QS_FLAG_MEASURE};
    u.w = place(buffer, &at, QS_W1, SIDE, SIDE);
    u.state = place(buffer, &at, rule->format, SIDE, SIDE);
    u.dy = place(buffer, &at, QS_F32, TOKENS, SIDE);
    u.x = place(buffer, &at, QS_F32, TOKENS, SIDE);
    u.scale = place(buffer, &at, QS_F16, 1, SIDE);
    u.a = place(buffer, &at, QS_F32, 1, SIDE);
    u.b = place(buffer, &at, QS_F32, 1, SIDE);
    u.theta = place(buffer, &at, QS_F32, 1, 1);
    u.r_now = place(buffer, &at, QS_F32, 1, SIDE);
    u.c_now = place(buffer, &at, QS_F32, 1, SIDE);
    u.dmaster = place(buffer, &at, QS_F32, 1, SIDE);
    u.counts = place(buffer, &at, QS_I32, 1, 4);
    ok(qs_write(queue, u.w, w));
    ok(qs_write(queue, u.state, state));
    ok(qs_write(queue, u.dy, dy));
    ok(qs_write(queue, u.x, x));
    ok(qs_write(queue, u.scale, scale));
    ok(qs_write(queue, mu, control));
    const qs_op first[] = {qs_op_fsm_visit(&u), qs_op_fsm_statistics(r, c, mu, u.r_now, u.c_now, u.counts, 0.0f, 0.25f, 1.0f,
                                                                     SIDE * SIDE, QS_FLAG_FIRST)};
    ok(qs_submit(queue, first, 2));
    u.flags = 0;
    const qs_op second[] = {qs_op_fsm_threshold(u.a, u.b, u.theta, r, c, mu, 1.1503494f), qs_op_fsm_visit(&u)};
    ok(qs_submit(queue, second, 2));
    ok(qs_read(queue, u.w, w));
    ok(qs_read(queue, u.state, state));
    ok(qs_read(queue, u.counts, counts));
    int used = snprintf(line, size, "%s %d %d", rule->name, (int)counts[0], (int)counts[1]);
    for (int n = 0; n < SIDE; n++)
        used += snprintf(line + used, size - (size_t)used, " %08x", w[n]);
    const int64_t words = SIDE * qs_row_bytes(rule->format, SIDE) / 4;
    for (int64_t i = 0; i < words; i++)
        used += snprintf(line + used, size - (size_t)used, " %08x", state[i]);
    qs_buffer_free(&buffer);
    qs_queue_free(&queue);
}

static void test_golden_step(void **test)
{
    (void)test;
    static char computed[8192], expected[8192];
    char path[4096];
    qs_context *context = NULL;
    const char *source = getenv("QSBITS_SOURCE");
    snprintf(path, sizeof path, "%s/tests/golden/step32.txt", source ? source : ".");
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    ok(qs_open(&context, NULL));
    for (int fsm = 0; fsm < QS_FSMS; fsm++) {
        run_step(context, (qs_fsm)fsm, computed, sizeof computed);
        if (getenv("QSBITS_GOLDEN")) {
            printf("%s\n", computed);
            continue;
        }
        assert_non_null(fgets(expected, sizeof expected, file));
        expected[strcspn(expected, "\n")] = 0;
        assert_string_equal(computed, expected);
    }
    qs_close(&context);
    fclose(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden_step)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
