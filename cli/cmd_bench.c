/* cmd_bench.c - qsbits bench: products beside what the machine could do, a training step and what it is made of,
 * generation. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "bench_compare.h"
#include "bench_generate.h"
#include "bench_products.h"
#include "bench_step.h"
#include "commands.h"
#include "settings.h"

static const int64_t MOST_EXTENT = 1 << 20;

/* Without --shape: one token, a few, and prompts or training. N x K of a square product and of the longest of a 8b model. */
static const int64_t ROWS[] = {1, 16, 128, 512};
static const int64_t MATRICES[][2] = {{4096, 4096}, {4096, 14336}};
enum { ROW_COUNT = sizeof ROWS / sizeof ROWS[0], MATRIX_COUNT = sizeof MATRICES / sizeof MATRICES[0] };

typedef struct bench {
    const options *o;
    bench_setup setup;
    qs_device_info device;
    bench_machine single;                            /* the first level on one thread, where there are several */
    bench_rows rows;
    qs_model_config model;                           /* of step and generation */
    json_t *step, *generation, *old;
    bool headed;                                     /* the line about the device was printed */
} bench;

/* "M,N,K"; false after a message. */
static bool parse_shape(const char *text, bench_shape *s)
{
    long long m = 0, n = 0, k = 0;
    int end = 0;
    const bool parsed = sscanf(text, "%7lld,%7lld,%7lld%n", &m, &n, &k, &end) == 3 && text[end] == '\0';
    *s = (bench_shape){.m = m, .n = n, .k = k};
    if (parsed && m > 0 && n > 0 && k > 0 && m <= MOST_EXTENT && n <= MOST_EXTENT && k <= MOST_EXTENT && n % 32 == 0 &&
        k % 32 == 0)
        return true;
    (void)fail_usage(BENCH_NAME,
                     "--shape '%s' is no shape; give M,N,K up to %lld with N and K multiples of 32, such as 4096,512,512",
                     text, (long long)MOST_EXTENT);
    return false;
}

/* ---- contexts and the machine ----------------------------------------------------------------------------------- */

/* One thread stays on the core it runs on; where that cannot be arranged the times are merely less steady. */
static void pin(const options *o)
{
    cpu_set_t one;
    const int cpu = o->value[OPT_THREADS].integer == 1 ? sched_getcpu() : -1;
    if (cpu < 0 || cpu >= CPU_SETSIZE)
        return;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    (void)sched_setaffinity(0, sizeof one, &one);
}

static int open_level(bench *b, const char *cpu)
{
    options o = *b->o;
    bench_level *level = &b->setup.level[b->setup.level_count];
    qs_device_info device;
    if (cpu != NULL)
        o.value[OPT_CPU].text = cpu;
    const int code = open_context(&o, &level->context);
    if (code != 0)
        return code;
    b->setup.level_count++;
    qs_context_device(level->context, &device);
    (void)snprintf(level->name, sizeof level->name, "%s", device.level[0] != '\0' ? device.level : device.backend);
    return 0;
}

/* The level of --cpu, the best, or with --levels all that can run here, the best first. */
static int open_levels(bench *b)
{
    int code = 0;
    if (!b->o->value[OPT_LEVELS].given)
        return open_level(b, NULL);
    if (b->o->value[OPT_CPU].given || b->o->value[OPT_DEVICE].given)
        return fail_usage(BENCH_NAME, "--levels takes every kernel level of the processor; leave --%s away",
                          b->o->value[OPT_CPU].given ? "cpu" : "device");
    for (int i = qs_cpu_level_count() - 1; i >= 0 && code == 0 && b->setup.level_count < BENCH_MOST_LEVELS; i--) {
        int available = 0;
        const char *name = qs_cpu_level_name(i, &available);
        code = available ? open_level(b, name) : 0;
    }
    return code;
}

static int measure_machine(bench *b)
{
    bench_setup *s = &b->setup;
    qs_status status = QS_OK;
    if (strcmp(b->device.backend, "cpu") != 0)
        return 0;
    bench_tell("what the machine can do at best");
    if (s->threads > 1)
        status = bench_machine_measure(s->level[0].name, 1, &s->caches, &b->single);
    for (int i = 0; i < s->level_count && status == QS_OK; i++)
        status = bench_machine_measure(s->level[i].name, s->threads, &s->caches, &s->level[i].machine);
    bench_tell(NULL);
    return status == QS_OK ? 0 : fail_library(BENCH_NAME, status, NULL);
}

/* All machines, the single thread first; returns how many. */
static int machines_of(const bench *b, bench_machine out[BENCH_MOST_LEVELS + 1])
{
    int count = 0;
    if (b->single.level != NULL)
        out[count++] = b->single;
    for (int i = 0; i < b->setup.level_count; i++)
        if (b->setup.level[i].machine.level != NULL)
            out[count++] = b->setup.level[i].machine;
    return count;
}

static int prepare(bench *b)
{
    const option_value *v = b->o->value;
    bench_setup *s = &b->setup;
    s->seconds = v[OPT_SECONDS].real;
    for (int i = 0; i < QS_PRECISIONS; i++)
        s->precision[i] = !v[OPT_CLASS].given || v[OPT_CLASS].integer == i;
    int code = v[OPT_COMPARE].text == NULL ? 0 : bench_compare_read(v[OPT_COMPARE].text, &b->old);
    pin(b->o);   /* before a peer starts threads */
    if (code == 0)
        code = bench_peers_load(v[OPT_PEER].text, &s->peers);
    if (code == 0)
        code = open_levels(b);
    if (code == 0) {
        qs_context_device(s->level[0].context, &b->device);
        s->threads = b->device.threads;
        s->caches = bench_caches_of(&b->device);
    }
    return code;
}

static void print_head(bench *b)
{
    if (!b->headed && !b->o->value[OPT_JSON].given)
        printf("%s: %s, %d thread%s\n", b->device.backend, b->device.description, b->device.threads,
               b->device.threads == 1 ? "" : "s");
    b->headed = true;
}

/* ---- products -------------------------------------------------------------------------------------------------- */

static int products_of(bench *b, int64_t n, int64_t k, const int64_t *m, int m_count, double from, double to)
{
    const int64_t first = b->rows.count;
    const int code = bench_products(&b->setup, n, k, m, m_count, from, to, &b->rows);
    if (code != 0)
        return code;
    print_head(b);
    if (!b->o->value[OPT_JSON].given)
        bench_rows_print(&b->rows, first, b->setup.threads);
    (void)fflush(stdout);
    return 0;
}

static int products(bench *b, const bench_shape *given)
{
    bench_machine machines[BENCH_MOST_LEVELS + 1];
    int code = 0;
    b->setup.every_product = given != NULL;
    if (given != NULL)
        code = products_of(b, given->n, given->k, &given->m, 1, 0.0, 1.0);
    for (int i = 0; i < MATRIX_COUNT && code == 0 && given == NULL; i++)
        code = products_of(b, MATRICES[i][0], MATRICES[i][1], ROWS, ROW_COUNT, (double)i / MATRIX_COUNT,
                           (double)(i + 1) / MATRIX_COUNT);
    const int count = machines_of(b, machines);   /* at the end: the rates have risen since the start */
    if (code == 0 && !b->o->value[OPT_JSON].given && count > 0)
        bench_machine_print(machines, count);
    return code;
}

/* ---- the result ------------------------------------------------------------------------------------------------ */

static json_t *result_json(const bench *b)
{
    const bench_caches *c = &b->setup.caches;
    bench_machine measured[BENCH_MOST_LEVELS + 1];
    const int count = machines_of(b, measured);
    json_t *machines = json_array(), *rows = json_array();
    for (int i = 0; i < count; i++)
        (void)json_array_append_new(machines, bench_machine_json(&measured[i]));
    for (int64_t i = 0; i < b->rows.count; i++)
        (void)json_array_append_new(rows, bench_row_json(&b->rows.row[i]));
    json_t *result = json_pack("{s:s, s:s, s:s, s:s, s:i, s:{s:I, s:I, s:I}, s:o, s:o}", "qsbits", qs_version(), "backend",
                               b->device.backend, "description", b->device.description, "level", b->setup.level[0].name,
                               "threads", b->device.threads, "caches", "l2", (json_int_t)c->l2, "l3", (json_int_t)c->l3,
                               "last", (json_int_t)c->last, "machine", machines, "rows", rows);
    if (b->step != NULL)
        (void)json_object_set(result, "step", b->step);
    if (b->generation != NULL)
        (void)json_object_set(result, "generate", b->generation);
    return result;
}

static int report(const bench *b)
{
    const bool json = b->o->value[OPT_JSON].given;
    json_t *result = result_json(b), *comparison = NULL;
    int code = 0;
    bool slower = false;
    if (b->old != NULL) {
        comparison = bench_compare(b->old, result);
        slower = json_integer_value(json_object_get(comparison, "slower")) > 0;
        if (!json)
            bench_compare_print(b->o->value[OPT_COMPARE].text, comparison);
        (void)json_object_set_new(result, "comparison", comparison);
    }
    code = json ? print_json(BENCH_NAME, json_incref(result)) : flush_output(BENCH_NAME);
    json_decref(result);
    return code == 0 && slower ? EXIT_SLOWER : code;
}

static int measure(bench *b, const bench_shape *given)
{
    const option_value *v = b->o->value;
    const bool all = !v[OPT_SHAPE].given && !v[OPT_STEP].given && !v[OPT_GENERATION].given;
    const bool with_products = all || v[OPT_SHAPE].given, with_generation = all || v[OPT_GENERATION].given;
    int code = settings_model(b->o, &b->model);
    if (code == 0)
        code = prepare(b);
    if (code == 0 && (with_products || with_generation))
        code = measure_machine(b);
    if (code == 0 && with_products)
        code = products(b, given);
    if (code == 0)
        print_head(b);
    if (code == 0 && (all || v[OPT_STEP].given))
        code = bench_step(b->o, b->setup.level[0].context, &b->model, b->setup.precision, &b->step);
    if (code == 0 && with_generation)
        code = bench_generate(b->o, &b->setup, &b->model, &b->generation);
    return code == 0 ? report(b) : code;
}

static int run(const options *o)
{
    bench_shape shape;
    const bool given = o->value[OPT_SHAPE].given;
    if (given && !parse_shape(o->value[OPT_SHAPE].text, &shape))
        return EXIT_USAGE;
    bench *b = calloc(1, sizeof *b);
    if (b == NULL)
        return fail_with(71, BENCH_NAME, "out of memory; close other programs");
    b->o = o;
    const int code = measure(b, given ? &shape : NULL);
    for (int i = 0; i < b->setup.level_count; i++)
        qs_close(&b->setup.level[i].context);
    bench_rows_free(&b->rows);
    json_decref(b->step);
    json_decref(b->generation);
    json_decref(b->old);
    free(b);
    return code;
}

static void explain(FILE *out)
{
    fprintf(out,
            "\nColumns:\n"
            "  linear        y = x w^T with 1-bit weights;  linear_dx  the gradient of x;  dense  y = x w^T in fp32\n"
            "  fsm_visit c4  weight gradient, threshold and rule in one;  linear_dw  the weight gradient into memory\n"
            "  warm, cold    the same matrix again and again; the next of more than the last cache holds\n"
            "  cycles/w      cycles of a core per weight and row of x, by a clock that was measured\n"
            "  GB/s          packed weights, each read once\n"
            "  tokens/s      of a model of random signs that writes one token at a time; its limit is reading all packed\n"
            "                weights once a token, and its peers are timed without anything between their products\n"
            "  limit, by     share of what the machine could do at best, and what sets that: the arithmetic that serves\n"
            "                the class best, or reading every operand once from where it lies\n"
            "  x peer        time of the fastest peer / ours\n");
    fprintf(out, "\nPresets:\n ");
    for (int i = 0; i < qs_model_preset_count(); i++)
        fprintf(out, " %s", qs_model_preset_name(i));
    fprintf(out, "\n");
}

static const int CODES[] = {EXIT_SLOWER, 64, 65, 66, 69, 70, 71, 74, 0};

const command bench_command = {
    .name = "bench",
    .bit = BENCH,
    .required = "",
    .summary = "speed of products, a training step and generation, beside what the machine could do",
    .about =
        "Times products with 1-bit weights (M rows of x, N outputs, K inputs) in every precision, for one token, a few\n"
        "and prompts or training, beside the peak arithmetic and bandwidth that it measures as well; a training step\n"
        "with the share of each operation as it takes when run alone; and generation, one token at a time. What is compared\n"
        "takes turns in one run; times are medians. Takes about a minute; --shape, --step or --generate alone take less.\n"
        "With --threads 1 the process stays on one core. Close other programs first.",
    .examples = {"qsbits bench --shape 1,4096,4096 --levels --threads 1",
                 "qsbits bench --step --preset small --batch 8 --compare before.json"},
    .exit_codes = CODES,
    .run = run,
    .more_help = explain,
};
