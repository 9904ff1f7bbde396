/* bench_ops.c - see bench_ops.h. */
#include "bench_ops.h"

#include <stdlib.h>
#include <string.h>

enum { FEWEST_RUNS = 3, MOST_RUNS = 1000 };

/* ---- operands -------------------------------------------------------------------------------------------------- */

static void fill(const bench_memory *memory, unsigned char *bytes, int64_t n)
{
    uint32_t words[4];
    for (int64_t at = 0; at < n; at += 16) {
        const uint64_t block = (uint64_t)at / 16;
        qs_philox(1, 0, QS_RANDOM_FLOATS, memory->draws, (uint32_t)(block >> 32), (uint32_t)block, words);
        memcpy(bytes + at, words, n - at < 16 ? (size_t)(n - at) : 16);
    }
}

/* Random words become numbers in [-1, 1), halves near 0.05, tokens below the vocabulary, valid states. */
static void shape_values(qs_format format, unsigned char *bytes, int64_t n)
{
    const uint16_t scale = qs_float_to_half(0.05f);
    for (int64_t i = 0; format == QS_F32 && i < n / 4; i++) {
        int32_t word;
        memcpy(&word, bytes + 4 * i, 4);
        const float value = (float)(word >> 8) * 0x1p-23f;
        memcpy(bytes + 4 * i, &value, 4);
    }
    for (int64_t i = 0; format == QS_I32 && i < n / 4; i++) {
        const int32_t token = bytes[4 * i];
        memcpy(bytes + 4 * i, &token, 4);
    }
    for (int64_t i = 0; format == QS_F16 && i < n / 2; i++)
        memcpy(bytes + 2 * i, &scale, 2);
    for (int64_t i = 0; format == QS_T2 && i < n; i++)
        bytes[i] &= 0x55;
}

static qs_status operand(bench_memory *memory, qs_format format, int64_t rows, int64_t cols, qs_view *out)
{
    const int64_t bytes = rows * qs_row_bytes(format, cols);
    qs_buffer **buffer = &memory->buffers[memory->count];
    qs_status status = qs_buffer_create(memory->context, QS_MEMORY_OTHER, (uint64_t)(bytes > 0 ? bytes : 1), buffer);
    if (status != QS_OK)
        return status;
    memory->count++;
    memory->draws++;
    unsigned char *host = malloc((size_t)bytes);
    if (host == NULL)
        return QS_ERR_NOMEM;
    fill(memory, host, bytes);
    shape_values(format, host, bytes);
    *out = qs_view_at(*buffer, 0, format, rows, cols);
    status = qs_write(memory->queue, *out, host);
    free(host);
    return status;
}

void bench_free_buffers(bench_memory *memory)
{
    while (memory->count > 0)
        qs_buffer_free(&memory->buffers[--memory->count]);
}

/* Views by one line each: format, rows, columns. */
typedef struct want {
    qs_format format;
    int64_t rows, cols;
} want;

static qs_status operands(bench_memory *memory, int count, const want *wants, qs_view *views)
{
    qs_status status = QS_OK;
    for (int i = 0; i < count && status == QS_OK; i++)
        status = operand(memory, wants[i].format, wants[i].rows, wants[i].cols, &views[i]);
    return status;
}

/* ---- cases ----------------------------------------------------------------------------------------------------- */

static int64_t chunks(int64_t tokens)
{
    return (tokens + QS_TOKEN_CHUNK - 1) / QS_TOKEN_CHUNK;
}

/* variant: format of the weights */
static qs_status make_linear(bench_memory *memory, bench_shape s, int variant, qs_op *op)
{
    qs_view v[4];
    const want wants[] = {{QS_F32, s.m, s.n}, {QS_F32, s.m, s.k}, {(qs_format)variant, s.n, s.k}, {QS_F16, 1, s.n}};
    const qs_status status = operands(memory, 4, wants, v);
    *op = qs_op_linear(v[0], v[1], v[2], variant == QS_W1 ? v[3] : qs_absent(), qs_absent());
    return status;
}

static qs_status make_linear_dx(bench_memory *memory, bench_shape s, int variant, qs_op *op)
{
    qs_view v[4];
    const want wants[] = {{QS_F32, s.m, s.k}, {QS_F32, s.m, s.n}, {(qs_format)variant, s.n, s.k}, {QS_F16, 1, s.n}};
    const qs_status status = operands(memory, 4, wants, v);
    *op = qs_op_linear_dx(v[0], v[1], v[2], variant == QS_W1 ? v[3] : qs_absent(), qs_absent());
    return status;
}

static qs_status make_linear_dw(bench_memory *memory, bench_shape s, int variant, qs_op *op)
{
    qs_view v[3];
    const want wants[] = {{QS_F32, s.n, s.k}, {QS_F32, s.m, s.n}, {QS_F32, s.m, s.k}};
    const qs_status status = operands(memory, 3, wants, v);
    (void)variant;
    *op = qs_op_linear_dw(v[0], v[1], v[2]);
    return status;
}

/* Levels in the middle of the chain; the sign byte of c8 must repeat the weight. */
static qs_status write_c8_state(const bench_memory *memory, qs_view w, qs_view state)
{
    const int64_t weights = w.rows * w.cols;
    unsigned char *bits = malloc((size_t)(weights / 8)), *levels = malloc((size_t)weights);
    qs_status status = bits == NULL || levels == NULL ? QS_ERR_NOMEM : qs_read(memory->queue, w, bits);
    for (int64_t i = 0; status == QS_OK && i < weights; i++)
        levels[i] = (bits[i / 8] >> (i % 8)) & 1 ? 63 : 0xC0;
    if (status == QS_OK)
        status = qs_write(memory->queue, state, levels);
    free(bits);
    free(levels);
    return status;
}

/* variant: the state machine; a tenth of the weights is pulsed */
static qs_status make_visit(bench_memory *memory, bench_shape s, int variant, qs_op *op)
{
    enum { W, STATE, DY, X, SCALE, A, B, THETA, R_NOW, C_NOW, DMASTER, COUNTS, VIEWS };
    qs_view v[VIEWS];
    const qs_fsm_rule *rule = qs_fsm_rule_of((qs_fsm)variant);
    const want wants[VIEWS] = {{QS_W1, s.n, s.k}, {rule->format, s.n, s.k}, {QS_F32, s.m, s.n}, {QS_F32, s.m, s.k},
                               {QS_F16, 1, s.n},  {QS_F32, 1, s.n},         {QS_F32, 1, s.k},   {QS_F32, 1, 1},
                               {QS_F32, 1, s.n},  {QS_F32, 1, s.k},         {QS_F32, 1, s.n},   {QS_I32, 1, 4}};
    qs_status status = operands(memory, VIEWS, wants, v);
    if (status == QS_OK && rule->format == QS_C8)
        status = write_c8_state(memory, v[W], v[STATE]);
    *op = qs_op_fsm_visit(&(qs_fsm_visit){
        .w = v[W], .state = v[STATE], .dy = v[DY], .x = v[X], .scale = v[SCALE], .a = v[A], .b = v[B], .theta = v[THETA],
        .r_now = v[R_NOW], .c_now = v[C_NOW], .dmaster = v[DMASTER], .counts = v[COUNTS], .fsm = (qs_fsm)variant,
        .sticky = rule->default_sticky, .seed = 1, .base = 0.05f, .amplitude = 1.0f});
    return status;
}

static bench_shape attention_shape(bench_shape s)
{
    const int64_t sequences = s.m < BENCH_SEQUENCE ? 1 : s.m / BENCH_SEQUENCE;
    const int64_t length = s.m < BENCH_SEQUENCE ? s.m : BENCH_SEQUENCE;
    const int64_t heads = s.k < BENCH_HEAD_DIM ? 1 : s.k / BENCH_HEAD_DIM;
    return (bench_shape){sequences, length, heads};
}

/* variant: 0 forward, 1 gradient */
static qs_status make_attention(bench_memory *memory, bench_shape s, int variant, qs_op *op)
{
    const bench_shape a = attention_shape(s);
    const int64_t rows = a.m * a.n, cols = a.k * BENCH_HEAD_DIM;
    qs_view v[9];
    want wants[9];
    for (int i = 0; i < 9; i++)
        wants[i] = (want){QS_F32, rows, cols};
    wants[8].cols = a.k;
    const qs_status status = operands(memory, 9, wants, v);
    *op = variant == 0 ? qs_op_attention(v[0], v[1], v[2], v[3], v[8], BENCH_HEAD_DIM, a.n, a.n)
                       : qs_op_attention_grad(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], BENCH_HEAD_DIM, a.n);
    return status;
}

static qs_status make_rmsnorm(bench_memory *memory, bench_shape s, int variant, qs_op *op)
{
    qs_view v[5];
    const want wants[] = {
        {QS_F32, s.m, s.k}, {QS_F32, s.m, s.k}, {QS_F32, 1, s.k}, {QS_F32, s.m, s.k}, {QS_F32, chunks(s.m), s.k}};
    const qs_status status = operands(memory, 5, wants, v);
    *op = variant == 0 ? qs_op_rmsnorm(v[0], v[1], v[2], 1e-5f)
                       : qs_op_rmsnorm_grad(v[0], v[3], v[1], v[2], qs_absent(), v[4], 1e-5f);
    return status;
}

static qs_status make_swiglu(bench_memory *memory, bench_shape s, int variant, qs_op *op)
{
    qs_view v[5];
    const want one = {QS_F32, s.m, s.n};
    const want wants[] = {one, one, one, one, one};
    const qs_status status = operands(memory, 5, wants, v);
    *op = variant == 0 ? qs_op_swiglu(v[0], v[1], v[2]) : qs_op_swiglu_grad(v[0], v[1], v[2], v[3], v[4]);
    return status;
}

static qs_status make_cross_entropy(bench_memory *memory, bench_shape s, int variant, qs_op *op)
{
    qs_view v[3];
    const want wants[] = {{QS_F32, s.m, BENCH_VOCAB}, {QS_I32, 1, s.m}, {QS_F32, chunks(s.m), 1}};
    const qs_status status = operands(memory, 3, wants, v);
    (void)variant;
    *op = qs_op_cross_entropy(v[0], v[1], v[2], 1.0f, 0);
    return status;
}

static qs_status make_adamw(bench_memory *memory, bench_shape s, int variant, qs_op *op)
{
    qs_view v[4];
    const want one = {QS_F32, s.n, s.k};
    const want wants[] = {one, one, one, one};
    const qs_adamw a = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.0f, 0.1f, 0.05f};
    const qs_status status = operands(memory, 4, wants, v);
    (void)variant;
    *op = qs_op_adamw(v[0], v[1], v[2], v[3], qs_absent(), qs_absent(), a);
    return status;
}

static double product_work(bench_shape s)
{
    return 2.0 * (double)s.m * (double)s.n * (double)s.k;
}

/* Two products of the lower triangle. */
static double attention_work(bench_shape s)
{
    const bench_shape a = attention_shape(s);
    return 2.0 * (double)(a.m * a.k) * (double)a.n * (double)(a.n + 1) * BENCH_HEAD_DIM;
}

static double attention_grad_work(bench_shape s)
{
    return 2.5 * attention_work(s);
}

const bench_case BENCH_CASES[] = {
    {"linear", "1-bit weights, forward", make_linear, QS_W1, product_work},
    {"linear_dx", "1-bit weights, gradient of the input", make_linear_dx, QS_W1, product_work},
    {"fsm_visit t2", "weight gradient, threshold, rule", make_visit, QS_FSM_T2, product_work},
    {"fsm_visit c2", "", make_visit, QS_FSM_C2, product_work},
    {"fsm_visit c4", "", make_visit, QS_FSM_C4, product_work},
    {"fsm_visit c8", "", make_visit, QS_FSM_C8, product_work},
    {"linear f32", "fp32 weights (head, adamw)", make_linear, QS_F32, product_work},
    {"linear_dx f32", "", make_linear_dx, QS_F32, product_work},
    {"linear_dw", "dense weight gradient (head, baselines)", make_linear_dw, 0, product_work},
    {"attention", "heads of 64, sequences of 128, causal", make_attention, 0, attention_work},
    {"attention_grad", "", make_attention, 1, attention_grad_work},
    {"rmsnorm", "[M, K]", make_rmsnorm, 0, NULL},
    {"rmsnorm_grad", "[M, K]", make_rmsnorm, 1, NULL},
    {"swiglu", "[M, N]", make_swiglu, 0, NULL},
    {"swiglu_grad", "[M, N]", make_swiglu, 1, NULL},
    {"cross_entropy", "[M, 256]", make_cross_entropy, 0, NULL},
    {"adamw", "[N, K]", make_adamw, 0, NULL},
    {NULL, NULL, NULL, 0, NULL},
};

const bench_case *bench_find(const char *name)
{
    const bench_case *c = BENCH_CASES;
    while (c->name != NULL && strcmp(c->name, name) != 0)
        c++;
    return c->name == NULL ? NULL : c;
}

/* ---- timing ---------------------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static qs_status run_once(qs_queue *queue, const qs_op *op, double *seconds)
{
    const double start = now_seconds();
    qs_status status = qs_submit(queue, op, 1);
    if (status == QS_OK)
        status = qs_sync(queue);
    *seconds = now_seconds() - start;
    return status;
}

qs_status bench_time(qs_context *context, const bench_case *c, bench_shape s, double seconds, double *median, int64_t *runs)
{
    double *times = malloc(MOST_RUNS * sizeof *times);
    bench_memory memory = {.context = context};
    qs_op op;
    double total = 0.0, warm_up = 0.0;
    int64_t count = 0;
    qs_status status = times == NULL ? QS_ERR_NOMEM : qs_queue_create(context, &memory.queue);
    if (status == QS_OK)
        status = c->make(&memory, s, c->variant, &op);
    if (status == QS_OK)
        status = run_once(memory.queue, &op, &warm_up);
    while (status == QS_OK && count < MOST_RUNS && (count < FEWEST_RUNS || total < seconds)) {
        status = run_once(memory.queue, &op, &times[count]);
        total += times[count++];
    }
    if (status == QS_OK) {
        qsort(times, (size_t)count, sizeof *times, by_value);
        *median = times[count / 2];
        *runs = count;
    }
    bench_free_buffers(&memory);
    qs_queue_free(&memory.queue);
    free(times);
    return status;
}
