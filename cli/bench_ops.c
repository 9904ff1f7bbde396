/* bench_ops.c - see bench_ops.h. */
#include "bench_ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char BENCH_NAME[] = "bench";

enum { FEWEST_RUNS = 3, MOST_RUNS = 1000, PATTERN = 3 << 20, VOCAB = 256 };

/* ---- operands -------------------------------------------------------------------------------------------------- */

/* Random words, the first PATTERN bytes drawn and then repeated: drawing gigabytes takes longer than what is timed. */
static void fill(uint32_t draw, unsigned char *bytes, int64_t n)
{
    const int64_t drawn = n < PATTERN ? n : PATTERN;
    uint32_t words[4];
    for (int64_t at = 0; at < drawn; at += 16) {
        qs_philox(1, 0, QS_RANDOM_FLOATS, draw, 0, (uint32_t)(at / 16), words);
        memcpy(bytes + at, words, drawn - at < 16 ? (size_t)(drawn - at) : 16);
    }
    for (int64_t at = drawn; at < n; at += drawn)
        memcpy(bytes + at, bytes, (size_t)(n - at < drawn ? n - at : drawn));
}

void bench_fill(qs_format format, uint32_t draw, void *memory, int64_t n)
{
    unsigned char *bytes = memory;
    const uint16_t scale = qs_float_to_half(0.05f);
    fill(draw, bytes, n);
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
    for (int64_t i = 0; format == QS_F16 && i < n / 2; i++) {
        const uint16_t near = (uint16_t)(scale + bytes[2 * i]);
        memcpy(bytes + 2 * i, &near, 2);
    }
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
    *out = memory->views[memory->count++] = qs_view_at(*buffer, 0, format, rows, cols);
    unsigned char *host = malloc((size_t)bytes);
    if (host == NULL)
        return QS_ERR_NOMEM;
    bench_fill(format, ++memory->draws, host, bytes);
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
    memset(views, 0, (size_t)count * sizeof *views);
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

static qs_status write_all(const bench_memory *memory, qs_view view, float value)
{
    const int64_t count = view.rows * view.cols;
    float *host = malloc((size_t)count * sizeof *host);
    if (host == NULL)
        return QS_ERR_NOMEM;
    for (int64_t i = 0; i < count; i++)
        host[i] = value;
    const qs_status status = qs_write(memory->queue, view, host);
    free(host);
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
    /* the sum of m products of numbers in [-1, 1) has a deviation of sqrt(m) / 3; a tenth lies beyond 1.64 deviations */
    if (status == QS_OK)
        status = write_all(memory, v[THETA], 1.64f * 0.05f * sqrtf((float)s.m) / 3.0f);
    if (status == QS_OK)
        status = write_all(memory, v[A], 1.0f);
    if (status == QS_OK)
        status = write_all(memory, v[B], 1.0f);
    *op = qs_op_fsm_visit(&(qs_fsm_visit){
        .w = v[W], .state = v[STATE], .dy = v[DY], .x = v[X], .scale = v[SCALE], .a = v[A], .b = v[B], .theta = v[THETA],
        .r_now = v[R_NOW], .c_now = v[C_NOW], .dmaster = v[DMASTER], .counts = v[COUNTS], .fsm = (qs_fsm)variant,
        .sticky = rule->default_sticky, .seed = 1, .base = 0.05f, .amplitude = 1.0f});
    return status;
}

/* variant: 0 forward, 1 gradient */
static qs_status make_attention(bench_memory *memory, bench_shape s, int variant, qs_op *op)
{
    enum { OUT, Q, K, V, LSE, DOUT, DQ, DK, DV, VIEWS };
    qs_view v[VIEWS];
    const want one = {QS_F32, s.m, s.heads * s.head_dim}, group = {QS_F32, s.m, s.kv_heads * s.head_dim};
    const want wants[VIEWS] = {one, one, group, group, {QS_F32, s.m, s.heads}, one, one, group, group};
    const qs_status status = operands(memory, variant == 0 ? DOUT : VIEWS, wants, v);
    if (status == QS_OK && variant == 0)
        *op = qs_op_attention(v[OUT], v[Q], v[K], v[V], v[LSE], s.head_dim, s.seq, s.seq);
    else if (status == QS_OK)
        *op = qs_op_attention_grad(v[DQ], v[DK], v[DV], v[DOUT], v[Q], v[K], v[V], v[OUT], v[LSE], s.head_dim, s.seq);
    return status;
}

static qs_status make_rope(bench_memory *memory, bench_shape s, int variant, qs_op *op)
{
    qs_view v[3];
    const want wants[] = {
        {QS_F32, s.m, s.heads * s.head_dim}, {QS_F32, s.seq, s.head_dim / 2}, {QS_F32, s.seq, s.head_dim / 2}};
    const qs_status status = operands(memory, 3, wants, v);
    (void)variant;
    *op = qs_op_rope(v[0], v[1], v[2], s.head_dim, s.seq, 0, 0);
    return status;
}

/* variant: 0 forward, 1 gradient; the table has N symbols */
static qs_status make_embed(bench_memory *memory, bench_shape s, int variant, qs_op *op)
{
    qs_view v[3];
    const want wants[] = {{QS_F32, s.m, s.k}, {QS_I32, 1, s.m}, {QS_F32, s.n, s.k}};
    const qs_status status = operands(memory, 3, wants, v);
    *op = variant == 0 ? qs_op_embed(v[0], v[1], v[2]) : qs_op_embed_grad(v[2], v[1], v[0], 0);
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
    const want wants[] = {{QS_F32, s.m, VOCAB}, {QS_F32, s.m, 3}, {QS_I32, 1, s.m}};
    const qs_status status = operands(memory, 3, wants, v);
    *op = variant == 0 ? qs_op_softmax_stats(v[1], v[0], v[2], 0, 0) : qs_op_cross_entropy_grad(v[0], v[1], v[2], 0, 1.0f);
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

const bench_case BENCH_CASES[] = {
    {"linear", make_linear, QS_W1, true},
    {"linear_dx", make_linear_dx, QS_W1, true},
    {"linear_dw", make_linear_dw, 0, true},
    {"linear f32", make_linear, QS_F32, false},
    {"linear_dx f32", make_linear_dx, QS_F32, false},
    {"fsm_visit t2", make_visit, QS_FSM_T2, true},
    {"fsm_visit c2", make_visit, QS_FSM_C2, true},
    {"fsm_visit c4", make_visit, QS_FSM_C4, true},
    {"fsm_visit c8", make_visit, QS_FSM_C8, true},
    {"attention", make_attention, 0, false},
    {"attention_grad", make_attention, 1, false},
    {"rope", make_rope, 0, false},
    {"rmsnorm", make_rmsnorm, 0, false},
    {"rmsnorm_grad", make_rmsnorm, 1, false},
    {"swiglu", make_swiglu, 0, false},
    {"swiglu_grad", make_swiglu, 1, false},
    {"embed", make_embed, 0, false},
    {"embed_grad", make_embed, 1, false},
    {"softmax_stats", make_cross_entropy, 0, false},
    {"cross_entropy_grad", make_cross_entropy, 1, false},
    {"adamw", make_adamw, 0, false},
    {NULL, NULL, 0, false},
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

/* One run in each precision that is on; times[p] receives it as number count. */
static qs_status run_round(qs_queue *queue, const qs_op *op, const bool on[QS_PRECISIONS],
                           double *const times[QS_PRECISIONS], int64_t count, double *spent)
{
    qs_status status = QS_OK;
    for (int p = 0; p < QS_PRECISIONS && status == QS_OK; p++) {
        if (!on[p])
            continue;
        const qs_op one = p == QS_PRECISION_F32 ? *op : qs_op_with(*op, (qs_precision)p);
        status = run_once(queue, &one, &times[p][count]);
        *spent += times[p][count];
    }
    return status;
}

static qs_status run_rounds(bench_memory *memory, const bench_case *c, bench_shape s, const bool on[QS_PRECISIONS],
                            double seconds, double *const times[QS_PRECISIONS], int64_t *count)
{
    qs_op op;
    double total = 0.0, warm_up = 0.0;
    qs_status status = qs_queue_create(memory->context, &memory->queue);
    if (status == QS_OK)
        status = c->make(memory, s, c->variant, &op);
    if (status == QS_OK)
        status = run_round(memory->queue, &op, on, times, 0, &warm_up);
    while (status == QS_OK && *count < MOST_RUNS && (*count < FEWEST_RUNS || total < seconds)) {
        status = run_round(memory->queue, &op, on, times, *count, &total);
        ++*count;
    }
    return status;
}

qs_status bench_time(qs_context *context, const bench_case *c, bench_shape s, const bool on[QS_PRECISIONS], double seconds,
                     double median[QS_PRECISIONS])
{
    static const bool only_f32[QS_PRECISIONS] = {[QS_PRECISION_F32] = true};
    const bool *which = c->precise ? on : only_f32;
    double *memory_of_times = malloc(QS_PRECISIONS * MOST_RUNS * sizeof *memory_of_times);
    double *times[QS_PRECISIONS];
    bench_memory memory = {.context = context};
    int64_t count = 0;
    int ways = 0;
    if (memory_of_times == NULL)
        return QS_ERR_NOMEM;
    for (int p = 0; p < QS_PRECISIONS; p++) {
        times[p] = memory_of_times + p * MOST_RUNS;
        ways += which[p];
    }
    const qs_status status = run_rounds(&memory, c, s, which, seconds * ways, times, &count);
    for (int p = 0; p < QS_PRECISIONS && status == QS_OK; p++) {
        qsort(times[p], which[p] ? (size_t)count : 0, sizeof *times[p], by_value);
        median[p] = which[p] ? times[p][count / 2] : 0.0;
    }
    bench_free_buffers(&memory);
    qs_queue_free(&memory.queue);
    free(memory_of_times);
    return status;
}
