/* test_core.c - formats and their golden words, half precision, random numbers, rule tables, sizes, memory accounts,
 * status codes. Golden words are those of docs/format.md. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <math.h>
#include "core/internal.h"
#include "qsbits/fsm.h"
#include "qsbits/random.h"

static void assert_says(const char *part)
{
    if (!strstr(qs_last_error(), part))
        fail_msg("\"%s\" does not contain \"%s\"", qs_last_error(), part);
}

/* ---- status ------------------------------------------------------------------------------------------------------ */

static void test_status(void **state)
{
    (void)state;
    assert_string_equal(qs_status_text(QS_ERR_SHAPE), "shape mismatch");
    assert_string_equal(qs_status_text(QS_OK), "ok");
    assert_string_equal(qs_status_text((qs_status)17), "unknown status");
    assert_int_equal(qs_status_exit_code(QS_OK), 0);
    assert_int_equal(qs_status_exit_code(QS_ERR_NOINPUT), 66);
    assert_int_equal(qs_status_exit_code((qs_status)-99), 70);
    qsi_fail_text("inner %d", 1);
    qsi_fail_text("outer: %s", qs_last_error());
    assert_string_equal(qs_last_error(), "outer: inner 1");
}

/* ---- formats ----------------------------------------------------------------------------------------------------- */

static uint32_t word_at(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void test_golden_words(void **state)
{
    (void)state;
    int16_t values[32];
    uint8_t packed[32];
    for (int i = 0; i < 32; i++)
        values[i] = i % 2 ? -1 : 1;
    assert_int_equal(qs_pack(QS_W1, 1, 32, values, packed), QS_OK);
    assert_int_equal(word_at(packed), 0x55555555u);
    for (int i = 0; i < 32; i++)
        values[i] = 1;
    assert_int_equal(qs_pack(QS_W1, 1, 32, values, packed), QS_OK);
    assert_int_equal(word_at(packed), 0xFFFFFFFFu);
    memset(values, 0, sizeof values);
    values[1] = 1;
    values[2] = -1;
    assert_int_equal(qs_pack(QS_T2, 1, 32, values, packed), QS_OK);
    assert_int_equal(word_at(packed), 0x00000024u);
    assert_int_equal(word_at(packed + 4), 0u);
    for (int i = 0; i < 32; i++)
        values[i] = (int16_t)(i % 16 + 1);
    assert_int_equal(qs_pack(QS_C4, 1, 32, values, packed), QS_OK);
    static const uint32_t planes[] = {0xAAAAAAAAu, 0xCCCCCCCCu, 0xF0F0F0F0u, 0xFF00FF00u};
    for (int i = 0; i < 4; i++)
        assert_int_equal(word_at(packed + 4 * i), planes[i]);
    for (int i = 0; i < 32; i++)
        values[i] = (int16_t)(i % 2 ? -(i + 1) : i + 1);
    assert_int_equal(qs_pack(QS_C8, 1, 32, values, packed), QS_OK);
    for (int i = 0; i < 32; i++)   /* +L-1 for w = +1, -L for w = -1 */
        assert_int_equal((int8_t)packed[i], i % 2 ? -(i + 1) : i);
}

/* A random value the format has. */
static int16_t random_value(qs_format format)
{
    int r = rand();
    switch (format) {
    case QS_W1: return (int16_t)(r % 2 ? 1 : -1);
    case QS_T2: return (int16_t)(r % 3 - 1);
    case QS_C2: return (int16_t)(r % 4 + 1);
    case QS_C4: return (int16_t)(r % 16 + 1);
    default: return (int16_t)(r % 2 ? r / 2 % 128 + 1 : -(r / 2 % 128) - 1);
    }
}

static void test_round_trips(void **state)
{
    (void)state;
    enum { ROWS = 5, COLS = 96 };
    static const qs_format formats[] = {QS_W1, QS_T2, QS_C2, QS_C4, QS_C8};
    int16_t values[ROWS * COLS], back[ROWS * COLS];
    uint8_t packed[ROWS * COLS], single[COLS];
    srand(1);
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++) {
        int64_t row = qs_row_bytes(formats[f], COLS);
        for (int i = 0; i < ROWS * COLS; i++)
            values[i] = random_value(formats[f]);
        assert_int_equal(qs_pack(formats[f], ROWS, COLS, values, packed), QS_OK);
        assert_int_equal(qs_unpack(formats[f], ROWS, COLS, packed, back), QS_OK);
        assert_memory_equal(values, back, sizeof values);
        assert_int_equal(qs_pack(formats[f], 1, COLS, values + 3 * COLS, single), QS_OK);
        assert_memory_equal(single, packed + 3 * row, (size_t)row);   /* a row is a range of bytes */
    }
}

static void test_pack_refusals(void **state)
{
    (void)state;
    int16_t values[64];
    uint8_t packed[64];
    for (int i = 0; i < 64; i++)
        values[i] = 1;
    values[37] = 0;
    memset(packed, 0xEE, sizeof packed);
    assert_int_equal(qs_pack(QS_W1, 2, 32, values, packed), QS_ERR_ARG);
    assert_says("value 0 in row 1, column 5");
    assert_int_equal(packed[0], 0xEE);
    values[37] = 17;
    assert_int_equal(qs_pack(QS_C4, 2, 32, values, packed), QS_ERR_ARG);
    values[37] = -129;
    assert_int_equal(qs_pack(QS_C8, 2, 32, values, packed), QS_ERR_ARG);
    assert_int_equal(qs_pack(QS_W1, 1, 33, values, packed), QS_ERR_SHAPE);
    assert_int_equal(qs_pack(QS_W1, -1, 32, values, packed), QS_ERR_SHAPE);
    assert_int_equal(qs_pack(QS_F32, 1, 32, values, packed), QS_ERR_ARG);
    assert_int_equal(qs_pack((qs_format)99, 1, 32, values, packed), QS_ERR_ARG);
    memset(packed, 0, sizeof packed);
    packed[9] = 0x0C;   /* bytes 8..15 are row 1; bits 10, 11 are its column 5 */
    assert_int_equal(qs_unpack(QS_T2, 2, 32, packed, values), QS_ERR_CORRUPT);
    assert_says("row 1, column 5");
    assert_int_equal(values[0], 1);
}

static void test_row_bytes(void **state)
{
    (void)state;
    assert_int_equal(qs_row_bytes(QS_F32, 3), 12);
    assert_int_equal(qs_row_bytes(QS_F16, 3), 6);
    assert_int_equal(qs_row_bytes(QS_W1, 64), 8);
    assert_int_equal(qs_row_bytes(QS_T2, 64), 16);
    assert_int_equal(qs_row_bytes(QS_C4, 64), 32);
    assert_int_equal(qs_row_bytes(QS_C8, 64), 64);
    assert_int_equal(qs_row_bytes(QS_W1, 63), -1);
    assert_int_equal(qs_row_bytes(QS_W1, -32), -1);
    assert_int_equal(qs_row_bytes(QS_F32, INT64_MAX / 8), -1);
    assert_int_equal(qs_row_bytes((qs_format)-1, 32), -1);
    assert_string_equal(qs_format_name(QS_C2), "c2");
    assert_null(qs_format_name(QS_FORMATS));
}

/* ---- half precision ---------------------------------------------------------------------------------------------- */

/* The value by definition. */
static double half_value(uint16_t half)
{
    int exponent = half >> 10 & 31, fraction = half & 0x3FF;
    double size = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return half & 0x8000 ? -size : size;
}

static void test_half_exhaustive(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float value = qs_half_to_float((uint16_t)h);
        bool nan = (h >> 10 & 31) == 31 && (h & 0x3FF), inf = (h >> 10 & 31) == 31 && !(h & 0x3FF);
        uint16_t back = qs_float_to_half(value);
        if (nan) {
            assert_true(isnan(value));
            assert_int_equal(back, h | 0x200);
        } else {
            double want = inf ? (h >> 15 ? -(double)INFINITY : (double)INFINITY) : half_value((uint16_t)h);
            assert_true((double)value == want && !signbit(value) == !(h >> 15));
            assert_int_equal(back, h);
        }
    }
}

/* Between two neighbours: the middle goes to the even one, a hair beside it to the nearer. */
static void test_half_rounding(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7BFF; h++) {
        double low = half_value((uint16_t)h), high = half_value((uint16_t)(h + 1));
        float middle = (float)((low + high) / 2);
        assert_int_equal(qs_float_to_half(middle), h + (h & 1));
        assert_int_equal(qs_float_to_half(nextafterf(middle, 0)), h);
        assert_int_equal(qs_float_to_half(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(qs_float_to_half(-middle), (h + (h & 1)) | 0x8000);
    }
    assert_int_equal(qs_float_to_half(65519.996f), 0x7BFF);
    assert_int_equal(qs_float_to_half(65520.0f), 0x7C00);
    assert_int_equal(qs_float_to_half(1e-30f), 0);
    assert_int_equal(qs_float_to_half(-1e30f), 0xFC00);
}

/* ---- random numbers ---------------------------------------------------------------------------------------------- */

static void test_philox(void **state)
{
    (void)state;
    static const uint32_t golden[] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
    /* Random123's known answer for the digits of pi: counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0 */
    static const uint32_t pi[] = {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u};
    uint32_t out[4];
    qs_philox(0, 0, (qs_random_purpose)0, 0, 0, 0, out);
    assert_memory_equal(out, golden, sizeof out);
    qs_philox(0x299f31d0a4093822u, 0x243f6a88u, (qs_random_purpose)0x85, 0xa308d3u, 0x13198a2eu, 0x03707344u, out);
    assert_memory_equal(out, pi, sizeof out);
}

/* ---- state machines ---------------------------------------------------------------------------------------------- */

static int sign_of(int code)   /* T2 codes */
{
    return code == 1 ? 1 : code == 2 ? -1 : 0;
}

static int code_of(int sign)
{
    return sign == 1 ? 1 : sign == -1 ? 2 : 0;
}

static void test_rule_t2(void **state)
{
    (void)state;
    const qs_fsm_rule *rule = qs_fsm_rule_of(QS_FSM_T2);
    assert_int_equal(rule->table_states, 3);
    for (int wi = 0; wi < 2; wi++) {
        for (int s = 0; s < 3; s++) {
            int w = wi ? 1 : -1;
            assert_int_equal(rule->deepest[wi][s], sign_of(s) == w);
            for (int d = 0; d < 3; d++) {
                int t = sign_of(s) + sign_of(d);
                int new_w = t == -2 * w ? -w : w, new_s = t == -2 * w ? 0 : t == 2 * w ? w : t;
                assert_int_equal(rule->next[wi][s][d].w, new_w == 1);
                assert_int_equal(rule->next[wi][s][d].state, code_of(new_s));
            }
        }
    }
}

static void test_rule_chains(void **state)
{
    (void)state;
    static const struct { qs_fsm fsm; int levels; } chains[] = {{QS_FSM_C2, 4}, {QS_FSM_C4, 16}};
    for (int c = 0; c < 2; c++) {
        const qs_fsm_rule *rule = qs_fsm_rule_of(chains[c].fsm);
        assert_int_equal(rule->levels, chains[c].levels);
        assert_int_equal(rule->table_states, chains[c].levels);
        for (int wi = 0; wi < 2; wi++) {
            for (int level = 1; level <= rule->levels; level++) {
                int w = wi ? 1 : -1;
                assert_int_equal(rule->deepest[wi][level - 1], level == rule->levels);
                for (int p = 0; p < 3; p++) {
                    int d = sign_of(p), new_w = w, new_level = level;
                    if (d == w)
                        new_level = level + 1 > rule->levels ? rule->levels : level + 1;
                    else if (d == -w && --new_level == 0)
                        new_w = -w, new_level = 1;
                    assert_int_equal(rule->next[wi][level - 1][p].w, new_w == 1);
                    assert_int_equal(rule->next[wi][level - 1][p].state, new_level - 1);
                }
            }
        }
    }
}

static void test_rule_facts(void **state)
{
    (void)state;
    assert_int_equal(qs_fsm_rule_of(QS_FSM_C8)->table_states, 0);
    assert_int_equal(qs_fsm_rule_of(QS_FSM_C8)->levels, 128);
    assert_int_equal(qs_fsm_rule_of(QS_FSM_C4)->default_sticky, 256);
    assert_int_equal(qs_fsm_rule_of(QS_FSM_T2)->default_sticky, 13);
    assert_int_equal(qs_fsm_rule_of(QS_FSM_C2)->format, QS_C2);
    assert_int_equal(qs_fsm_by_name("c2"), QS_FSM_C2);
    assert_int_equal(qs_fsm_by_name("c3"), -1);
    assert_null(qs_fsm_rule_of(QS_FSMS));
    assert_null(qs_fsm_rule_of((qs_fsm)-1));
}

/* ---- sizes and memory -------------------------------------------------------------------------------------------- */

static void test_sizes(void **state)
{
    (void)state;
    int64_t out = 7;
    assert_true(qsi_mul(INT64_MAX / 2, 2, &out));
    assert_int_equal(out, INT64_MAX - 1);
    assert_false(qsi_mul(INT64_MAX / 2 + 1, 2, &out));
    assert_false(qsi_mul(-1, 2, &out));
    assert_true(qsi_mul(0, INT64_MAX, &out) && out == 0);
    assert_true(qsi_add(INT64_MAX - 1, 1, &out) && out == INT64_MAX);
    assert_false(qsi_add(INT64_MAX, 1, &out));
    assert_false(qsi_add(1, -1, &out));
    assert_int_equal(qsi_ceil_div(257, 256), 2);
    assert_int_equal(qsi_round_up(65, 64), 128);
    assert_null(qsi_alloc_array(NULL, QS_MEMORY_IO, INT64_MAX / 4, 8));
    assert_null(qsi_alloc(NULL, QS_MEMORY_IO, -1));
    assert_null(qsi_alloc(NULL, QS_MEMORY_IO, INT64_MAX));
}

static qs_memory_usage usage_of(qs_context *context, qs_memory_tag tag)
{
    qs_memory_usage usage;
    qs_memory(context, tag, &usage);
    return usage;
}

static void test_accounts(void **state)
{
    (void)state;
    qs_context *context = NULL;
    qs_options options;
    qs_options_default(&options);
    options.threads = 1;
    assert_int_equal(qs_open(&context, &options), QS_OK);
    qs_memory_usage before = usage_of(context, QS_MEMORY_TAGS);
    uint8_t *a = qsi_alloc(context, QS_MEMORY_DATA, 1000), *b = qsi_alloc(context, QS_MEMORY_DATA, 500);
    void *empty = qsi_alloc(context, QS_MEMORY_DATA, 0);
    assert_non_null(a);
    assert_non_null(b);
    assert_non_null(empty);
    assert_int_equal((uintptr_t)a % 64, 0);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(a[i], 0);
    qsi_free(a);
    assert_int_equal(usage_of(context, QS_MEMORY_DATA).current_bytes, 500);
    assert_int_equal(usage_of(context, QS_MEMORY_DATA).peak_bytes, 1500);
    assert_int_equal(usage_of(context, QS_MEMORY_DATA).allocations, 2);
    assert_int_equal(usage_of(context, QS_MEMORY_TAGS).peak_bytes, before.current_bytes + 1500);
    qs_memory_reset_peak(context);
    assert_int_equal(usage_of(context, QS_MEMORY_DATA).peak_bytes, 500);
    qsi_free(b);
    qsi_free(empty);
    qsi_free(NULL);
    qs_buffer *buffer = NULL;
    assert_int_equal(qs_buffer_create(context, QS_MEMORY_STATE, 12345, &buffer), QS_OK);
    assert_int_equal(usage_of(context, QS_MEMORY_STATE).current_bytes, 12345);
    assert_int_equal(qs_buffer_create(context, QS_MEMORY_STATE, 0, &(qs_buffer *){NULL}), QS_ERR_ARG);
    assert_int_equal(qs_buffer_create(context, QS_MEMORY_STATE, (uint64_t)1 << 62, &(qs_buffer *){NULL}), QS_ERR_NOMEM);
    assert_says("for state");
    qs_buffer_free(&buffer);
    assert_null(buffer);
    assert_int_equal(usage_of(context, QS_MEMORY_STATE).current_bytes, 0);
    assert_int_equal(usage_of(context, QS_MEMORY_TAGS).current_bytes, before.current_bytes);
    assert_int_equal(qsi_account(context, QS_MEMORY_TAGS, 1), QS_ERR_ARG);
    assert_string_equal(qs_memory_tag_name(QS_MEMORY_KV_CACHE), "kv-cache");
    qs_close(&context);
    assert_null(context);
    qs_close(&context);
}

static void test_options(void **state)
{
    (void)state;
    qs_context *context = NULL;
    qs_options options;
    qs_options_default(&options);
    options.threads = 1025;
    assert_int_equal(qs_open(&context, &options), QS_ERR_ARG);
    assert_says("1025 threads");
    options.threads = 1;
    options.cpu = "imaginary";
    assert_int_equal(qs_open(&context, &options), QS_ERR_ARG);
    assert_says("imaginary");
    memset(&options, 0, sizeof options);
    assert_int_equal(qs_open(&context, &options), QS_ERR_ARG);
    assert_says("qs_options_default");
    assert_null(context);
    assert_string_equal(qs_version(), "0.1.0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status),        cmocka_unit_test(test_golden_words),   cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_pack_refusals), cmocka_unit_test(test_row_bytes),      cmocka_unit_test(test_half_exhaustive),
        cmocka_unit_test(test_half_rounding), cmocka_unit_test(test_philox),         cmocka_unit_test(test_rule_t2),
        cmocka_unit_test(test_rule_chains),   cmocka_unit_test(test_rule_facts),     cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_accounts),      cmocka_unit_test(test_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
