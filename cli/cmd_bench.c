/* cmd_bench.c - qsbits bench: time of single operations and of whole training steps. */
#include <stdlib.h>
#include <string.h>

#include "bench_ops.h"
#include "commands.h"

static const char NAME[] = "bench";
static const char STEP_PRESET[] = "mini";
enum { STEP_BATCH = 8, WARM_STEPS = 2, MEASURED_STEPS = 3, TEXT_BYTES = 1 << 17 };
static const int64_t MOST_EXTENT = 1 << 20;

/* "M,N,K"; false after a message. */
static bool parse_shape(const char *text, bench_shape *s)
{
    long long m = 0, n = 0, k = 0;
    int end = 0;
    const bool parsed = sscanf(text, "%7lld,%7lld,%7lld%n", &m, &n, &k, &end) == 3 && text[end] == '\0';
    *s = (bench_shape){m, n, k};
    if (parsed && m > 0 && n > 0 && k > 0 && m <= MOST_EXTENT && n <= MOST_EXTENT && k <= MOST_EXTENT && n % 32 == 0 &&
        k % 32 == 0)
        return true;
    (void)fail_usage(NAME,
                     "--shape '%s' is no shape; give M,N,K up to %lld with N and K multiples of 32, such as 4096,512,512",
                     text, (long long)MOST_EXTENT);
    return false;
}

/* ---- single operations ----------------------------------------------------------------------------------------- */

static qs_status bench_operations(const options *o, qs_context *context, bench_shape s, json_t *list)
{
    qs_status status = QS_OK;
    const bool json = o->value[OPT_JSON].given;
    if (!json)
        printf("operations at M,N,K = %lld,%lld,%lld\n%-16s %12s %10s %6s\n", (long long)s.m, (long long)s.n, (long long)s.k,
               "operation", "median ms", "GFLOP/s", "runs");
    for (const bench_case *c = BENCH_CASES; c->name != NULL && status == QS_OK; c++) {
        double median = 0.0;
        int64_t runs = 0;
        status = bench_time(context, c, s, o->value[OPT_SECONDS].real, &median, &runs);
        if (status != QS_OK)
            break;
        const double rate = c->work == NULL ? 0.0 : c->work(s) / median * 1e-9;
        if (!json && c->work != NULL)
            printf("%-16s %12.3f %10.2f %6lld  %s\n", c->name, 1e3 * median, rate, (long long)runs, c->what);
        else if (!json)
            printf("%-16s %12.3f %10s %6lld  %s\n", c->name, 1e3 * median, "", (long long)runs, c->what);
        (void)json_array_append_new(list,
                                    json_pack("{s:s, s:f, s:I, s:o}", "op", c->name, "seconds", median, "runs",
                                              (json_int_t)runs, "gflops", c->work == NULL ? json_null() : json_real(rate)));
    }
    return status;
}

/* ---- a training step ------------------------------------------------------------------------------------------- */

/* How often an operation runs in a step of the model, and at which shape. */
typedef struct part {
    const char *name;
    bench_shape shape;
    int64_t count;
} part;

static qs_status bench_parts(const options *o, qs_context *context, const qs_model_config *c, double step, json_t *list)
{
    const int64_t m = STEP_BATCH * c->ctx, d = c->dim, f = c->ffn, layers = c->layers;
    const part parts[] = {
        {"linear", {m, d, d}, 4 * layers},       {"linear", {m, f, d}, 2 * layers},
        {"linear", {m, d, f}, layers},           {"linear_dx", {m, d, d}, 4 * layers},
        {"linear_dx", {m, f, d}, 2 * layers},    {"linear_dx", {m, d, f}, layers},
        {"fsm_visit c4", {m, d, d}, 4 * layers}, {"fsm_visit c4", {m, f, d}, 2 * layers},
        {"fsm_visit c4", {m, d, f}, layers},     {"linear f32", {m, c->vocab, d}, 1},
        {"linear_dx f32", {m, c->vocab, d}, 1},  {"linear_dw", {m, c->vocab, d}, 1},
        {"attention", {m, d, d}, layers},        {"attention_grad", {m, d, d}, layers},
        {"rmsnorm", {m, d, d}, 3 * layers},      {"rmsnorm", {m, f, f}, layers},
        {"rmsnorm_grad", {m, d, d}, 3 * layers}, {"rmsnorm_grad", {m, f, f}, layers},
        {"swiglu", {m, f, f}, layers},           {"swiglu_grad", {m, f, f}, layers},
        {"cross_entropy", {m, d, d}, 1},
    };
    qs_status status = QS_OK;
    double known = 0.0;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0] && status == QS_OK; i++) {
        const part *p = &parts[i];
        double median = 0.0;
        int64_t runs = 0;
        status = bench_time(context, bench_find(p->name), p->shape, o->value[OPT_SECONDS].real * 0.2, &median, &runs);
        const double share = median * (double)p->count;
        known += share;
        if (status == QS_OK && !o->value[OPT_JSON].given)
            printf("  %-16s %5lld,%5lld,%5lld  x %-4lld %9.2f ms %6.1f%%\n", p->name, (long long)p->shape.m,
                   (long long)p->shape.n, (long long)p->shape.k, (long long)p->count, 1e3 * share, 100.0 * share / step);
        (void)json_array_append_new(list, json_pack("{s:s, s:[I,I,I], s:I, s:f}", "op", p->name, "shape",
                                                    (json_int_t)p->shape.m, (json_int_t)p->shape.n, (json_int_t)p->shape.k,
                                                    "count", (json_int_t)p->count, "seconds", share));
    }
    if (status == QS_OK && !o->value[OPT_JSON].given)
        printf("  %-45s %9.2f ms %6.1f%%\n", "everything else", 1e3 * (step - known), 100.0 * (step - known) / step);
    return status;
}

static qs_status time_steps(qs_trainer *trainer, double *median)
{
    double times[MEASURED_STEPS];
    qs_step_info info;
    qs_status status = QS_OK;
    for (int i = -WARM_STEPS; i < MEASURED_STEPS && status == QS_OK; i++) {
        const double start = now_seconds();
        status = qs_trainer_step(trainer, &info);
        if (i >= 0)
            times[i] = now_seconds() - start;
    }
    if (status != QS_OK)
        return status;
    const double a = times[0], b = times[1], c = times[2];
    *median = a < b ? (b < c ? b : a < c ? c : a) : (a < c ? a : b < c ? c : b);
    return QS_OK;
}

/* A text without meaning: speed does not depend on it. */
static qs_status make_text(qs_context *context, qs_text **text)
{
    unsigned char *bytes = malloc(TEXT_BYTES);
    if (bytes == NULL)
        return QS_ERR_NOMEM;
    for (int i = 0; i < TEXT_BYTES; i += 16) {
        uint32_t words[4];
        qs_philox(1, 0, QS_RANDOM_DATA, 0, 0, (uint32_t)i, words);
        memcpy(bytes + i, words, 16);
    }
    const qs_status status = qs_text_from_memory(context, bytes, TEXT_BYTES, 0.1, text);
    free(bytes);
    return status;
}

static qs_status bench_step(const options *o, qs_context *context, json_t *result)
{
    qs_text *text = NULL;
    qs_trainer *trainer = NULL;
    qs_model_config config;
    qs_train_options training;
    double step = 0.0;
    json_t *parts = json_array();
    qs_model_config_default(&config);
    qs_train_options_default(&training);
    training.batch = STEP_BATCH;
    qs_status status = qs_model_preset(STEP_PRESET, &config);
    if (status == QS_OK)
        status = qs_model_config_resolve(&config);
    if (status == QS_OK)
        status = make_text(context, &text);
    if (status == QS_OK)
        status = qs_trainer_create(context, &config, &training, text, &trainer);
    if (status == QS_OK)
        status = time_steps(trainer, &step);
    const double tokens = (double)(STEP_BATCH * config.ctx);
    if (status == QS_OK && !o->value[OPT_JSON].given)
        printf("\ntraining step, preset %s, fsm c4, %lld x %lld tokens: %.2f ms, %.0f tokens/s\n", STEP_PRESET,
               (long long)STEP_BATCH, (long long)config.ctx, 1e3 * step, tokens / step);
    if (status == QS_OK)
        status = bench_parts(o, context, &config, step, parts);
    if (status == QS_OK)
        (void)json_object_set_new(result, "step", json_pack("{s:s, s:f, s:f, s:O}", "preset", STEP_PRESET, "seconds", step,
                                                            "tokens_per_second", tokens / step, "parts", parts));
    json_decref(parts);
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    return status;
}

static int run(const options *o)
{
    qs_context *context = NULL;
    qs_device_info device;
    bench_shape shape;
    if (!parse_shape(o->value[OPT_SHAPE].text, &shape))
        return EXIT_USAGE;
    int code = open_context(o, &context);
    if (code != 0)
        return code;
    qs_context_device(context, &device);
    json_t *operations = json_array();
    json_t *result = json_pack("{s:s, s:s, s:i, s:[I,I,I], s:O}", "backend", device.backend, "level", device.level,
                               "threads", device.threads, "shape", (json_int_t)shape.m, (json_int_t)shape.n,
                               (json_int_t)shape.k, "operations", operations);
    if (!o->value[OPT_JSON].given)
        printf("%s %s, %d threads\n", device.backend, device.level, device.threads);
    qs_status status = bench_operations(o, context, shape, operations);
    if (status == QS_OK)
        status = bench_step(o, context, result);
    if (status != QS_OK)
        code = fail_library(NAME, status, status == QS_ERR_NOMEM ? "give a smaller --shape" : NULL);
    else if (o->value[OPT_JSON].given)
        code = print_json(NAME, json_incref(result));
    else
        code = flush_output(NAME);
    json_decref(result);
    json_decref(operations);
    qs_close(&context);
    return code;
}

static const int CODES[] = {64, 69, 70, 71, 74, 0};

const command bench_command = {
    .name = "bench",
    .bit = BENCH,
    .required = "",
    .summary = "time of every operation and of a training step",
    .about =
        "Times the operations of training at one shape (--shape, M tokens, N outputs, K inputs) and a whole training\n"
        "step of the preset mini, with the share of each operation as it takes when run alone. Times are medians.\n"
        "Compare levels and thread counts with --cpu and --threads; close other programs first.",
    .examples = {"qsbits bench", "qsbits bench --shape 1024,1024,1024 --seconds 1 --threads 1 --json"},
    .exit_codes = CODES,
    .run = run,
};
