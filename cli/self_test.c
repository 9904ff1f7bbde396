/* self_test.c - see self_test.h. An operation runs on the same operands in both contexts; then everything it could have
 * written is compared. What docs/numerics.md promises byte for byte must be equal; where a level may sum bf16 in its own
 * order, numbers may differ by a thousandth of their size and one decision in a thousand may fall the other way. */
#include "self_test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_ops.h"

static const double BOUND = 1e-3;
enum { FEW_BITS = 2, DIFFERENCE_TEXT = 96 };

/* Odd and ordinary: one row, less and more than a block of rows, than a chunk of tokens, than the lanes of any level, than the
 * columns that any kernel takes at a time. */
static const bench_shape SHAPES[] = {
    {.m = 1, .n = 33, .k = 64, .seq = 1, .heads = 2, .kv_heads = 1, .head_dim = 6},
    {.m = 5, .n = 96, .k = 32, .seq = 5, .heads = 3, .kv_heads = 3, .head_dim = 32},
    {.m = 2, .n = 40, .k = 2080, .seq = 2, .heads = 2, .kv_heads = 1, .head_dim = 16},
    {.m = 34, .n = 70, .k = 1024, .seq = 17, .heads = 4, .kv_heads = 2, .head_dim = 16},
    {.m = 260, .n = 64, .k = 96, .seq = 130, .heads = 2, .kv_heads = 1, .head_dim = 40},
};
enum { SHAPE_COUNT = sizeof SHAPES / sizeof SHAPES[0] };

/* One case in both contexts. */
typedef struct twin {
    bench_memory memory[2];      /* tested, reference */
    bool exact;
    char difference[DIFFERENCE_TEXT];
} twin;

/* ---- comparing ------------------------------------------------------------------------------------------------- */

static int bits_set(unsigned char byte)
{
    int count = 0;
    for (; byte != 0; byte &= (unsigned char)(byte - 1))
        count++;
    return count;
}

/* Greatest difference of two tensors beside the root mean square of the second. */
static double float_difference(const unsigned char *a, const unsigned char *b, int64_t bytes)
{
    double greatest = 0.0, squares = 0.0;
    for (int64_t i = 0; i < bytes; i += 4) {
        float x, y;
        memcpy(&x, a + i, 4);
        memcpy(&y, b + i, 4);
        const double d = fabs((double)x - (double)y);
        if (isnan(d) && !(isnan(x) && isnan(y)))
            return INFINITY;
        greatest = d > greatest ? d : greatest;
        squares += isnan(y) ? 0.0 : (double)y * (double)y;
    }
    return greatest == 0.0 ? 0.0 : greatest / sqrt(squares / ((double)bytes / 4.0));
}

static void tell(twin *t, int view, const char *what, double value)
{
    (void)snprintf(t->difference, sizeof t->difference, "operand %d: %s %.3g", view, what, value);
}

/* Whether two tensors are close enough; else t->difference says what differs. */
static bool close_enough(twin *t, int view, qs_format format, const unsigned char *a, const unsigned char *b, int64_t bytes)
{
    if (memcmp(a, b, (size_t)bytes) == 0)
        return true;
    if (format == QS_F32) {
        const double d = float_difference(a, b, bytes);
        tell(t, view, "numbers differ by a share of", d);
        return !t->exact && d <= BOUND;
    }
    int64_t differing = 0;
    for (int64_t i = 0; i < bytes; i++)
        differing += bits_set(a[i] ^ b[i]);
    tell(t, view, "bits that differ:", (double)differing);
    return !t->exact && (double)differing <= FEW_BITS + BOUND * 8.0 * (double)bytes;
}

static qs_status compare_view(twin *t, int view, bool *equal)
{
    const qs_view *v = &t->memory[0].views[view];
    const int64_t bytes = v->rows * qs_row_bytes((qs_format)v->format, v->cols);
    unsigned char *host = malloc(2 * (size_t)bytes);
    qs_status status = host == NULL ? QS_ERR_NOMEM : QS_OK;
    for (int i = 0; i < 2 && status == QS_OK; i++)
        status = qs_read(t->memory[i].queue, t->memory[i].views[view], host + i * bytes);
    if (status == QS_OK)
        *equal = close_enough(t, view, (qs_format)v->format, host, host + bytes, bytes);
    free(host);
    return status;
}

/* ---- running --------------------------------------------------------------------------------------------------- */

static qs_status run_both(twin *t, const bench_case *c, bench_shape s, qs_precision precision)
{
    qs_status status = QS_OK;
    for (int i = 0; i < 2 && status == QS_OK; i++) {
        qs_op op;
        t->memory[i].draws = 0;
        status = c->make(&t->memory[i], s, c->variant, &op);
        if (status != QS_OK)
            break;
        if (c->precise)
            op = qs_op_with(op, precision);
        status = qs_submit(t->memory[i].queue, &op, 1);
        if (status == QS_OK)
            status = qs_sync(t->memory[i].queue);
    }
    return status;
}

/* One operation at one shape; *equal: whether it passed. */
static qs_status test_case(twin *t, const bench_case *c, bench_shape s, qs_precision precision, bool *equal)
{
    *equal = true;
    t->exact = precision != QS_PRECISION_BF16;
    qs_status status = run_both(t, c, s, precision);
    for (int view = 0; view < t->memory[0].count && status == QS_OK && *equal; view++)
        status = compare_view(t, view, equal);
    bench_free_buffers(&t->memory[0]);
    bench_free_buffers(&t->memory[1]);
    return status;
}

/* One operation in one precision at all shapes. */
static qs_status test_operation(twin *t, const bench_case *c, qs_precision precision, bool json, json_t *list, int *failures)
{
    bool passed = true;
    qs_status status = QS_OK;
    for (int i = 0; i < SHAPE_COUNT && status == QS_OK && passed; i++) {
        bench_shape s = SHAPES[i];
        s.n = strncmp(c->name, "embed", 5) == 0 ? 256 : s.n;   /* tokens are bytes */
        status = test_case(t, c, s, precision, &passed);
    }
    if (status != QS_OK)
        return status;
    const char *class_name = c->precise ? qs_precision_name(precision) : "";
    if (!json)
        printf("  %-18s %-5s %s%s\n", c->name, class_name, passed ? "as scalar" : "DIFFERS: ", passed ? "" : t->difference);
    (void)json_array_append_new(list, json_pack("{s:s, s:s, s:b, s:s}", "operation", c->name, "class", class_name,
                                                "passed", passed, "difference", passed ? "" : t->difference));
    *failures += !passed;
    return QS_OK;
}

static qs_status test_all(twin *t, bool json, json_t *list, int *failures)
{
    qs_status status = QS_OK;
    for (const bench_case *c = BENCH_CASES; c->name != NULL && status == QS_OK; c++)
        for (int p = 0; p < (c->precise ? QS_PRECISIONS : 1) && status == QS_OK; p++)
            status = test_operation(t, c, (qs_precision)p, json, list, failures);
    return status;
}

/* ---- the test -------------------------------------------------------------------------------------------------- */

static qs_status open_reference(qs_context **out)
{
    qs_options settings;
    qs_options_default(&settings);
    settings.cpu = "scalar";
    settings.threads = 1;
    return qs_open(out, &settings);
}

int self_test(const options *o, qs_context *context, json_t **out)
{
    qs_context *reference = NULL;
    qs_device_info device;
    twin t = {.memory = {{.context = context}}};
    json_t *list = json_array();
    int failures = 0;
    const double start = now_seconds();
    qs_context_device(context, &device);
    if (!o->value[OPT_JSON].given)
        printf("self-test of %s %s\n", device.backend, device.level);
    qs_status status = open_reference(&reference);
    t.memory[1].context = reference;
    for (int i = 0; i < 2 && status == QS_OK; i++)
        status = qs_queue_create(t.memory[i].context, &t.memory[i].queue);
    if (status == QS_OK)
        status = test_all(&t, o->value[OPT_JSON].given, list, &failures);
    int code = status == QS_OK ? 0 : fail_library(o->command->name, status, NULL);
    if (status == QS_OK)
        *out = json_pack("{s:s, s:s, s:b, s:f, s:O}", "level", device.level, "reference", "scalar", "passed", failures == 0,
                         "seconds", now_seconds() - start, "operations", list);
    if (failures > 0)
        code = fail_with(EXIT_INTERNAL, o->command->name,
                         "%s %s differs from the scalar level in %d of %d operations; use another --cpu and report this",
                         device.backend, device.level, failures, (int)json_array_size(list));
    for (int i = 0; i < 2; i++) {
        bench_free_buffers(&t.memory[i]);
        qs_queue_free(&t.memory[i].queue);
    }
    qs_close(&reference);
    json_decref(list);
    return code;
}
