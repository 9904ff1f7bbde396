/* bench_step.c - see bench_step.h. Whole steps are timed as they run; operations alone, at the shapes and as often as a
 * step has them. What is left is small operations, waiting and caches that an operation alone finds warmer. */
#include "bench_step.h"

#include <stdlib.h>
#include <string.h>

enum { WARM_STEPS = 2, FEWEST_STEPS = 3, MOST_STEPS = 50, TEXT_BYTES = 1 << 17, TEXT_WINDOWS = 32, MOST_PARTS = 40 };
enum { SHAPE_TEXT = 64 };
static const double PART_SHARE = 0.2, STEP_SHARE = 4.0;   /* of --seconds, for one operation and for whole steps */

/* How often an operation runs in a step, at which shape, and how long all of these take with each precision. */
typedef struct part {
    const bench_case *op;
    bench_shape shape;
    int64_t count;
    bool precise;                     /* changes with the precision */
    double seconds[QS_PRECISIONS];
} part;

typedef struct profile {
    qs_model_config config;
    int64_t batch, tokens;
    bool on[QS_PRECISIONS];
    bench_times step[QS_PRECISIONS];
    part part[MOST_PARTS];
    int parts;
} profile;

/* ---- what a step is made of ------------------------------------------------------------------------------------- */

/* Adds count operations, to those of the same name and shape if there are some. */
static void add(profile *p, const char *name, bench_shape s, int64_t count, bool precise)
{
    const bench_case *op = bench_find(name);
    for (int i = 0; i < p->parts; i++)
        if (p->part[i].op == op && p->part[i].precise == precise && memcmp(&p->part[i].shape, &s, sizeof s) == 0) {
            p->part[i].count += count;
            return;
        }
    if (p->parts < MOST_PARTS)
        p->part[p->parts++] = (part){.op = op, .shape = s, .count = count, .precise = precise};
}

/* One product with packed weights in all blocks: forward, gradient of the input, visit. */
static void add_product(profile *p, const char *name, int64_t outputs, int64_t inputs, int64_t count)
{
    add(p, name, (bench_shape){.m = p->tokens, .n = outputs, .k = inputs}, count * p->config.layers, true);
}

static void add_products(profile *p, const char *name)
{
    const qs_model_config *c = &p->config;
    const int64_t queries = c->heads * c->head_dim, keys = c->kv_heads * c->head_dim;
    add_product(p, name, queries, c->dim, 1);
    add_product(p, name, keys, c->dim, 2);
    add_product(p, name, c->dim, queries, 1);
    add_product(p, name, c->ffn, c->dim, 2);
    add_product(p, name, c->dim, c->ffn, 1);
}

static void add_norms(profile *p, const char *name)
{
    const qs_model_config *c = &p->config;
    const int64_t m = p->tokens, queries = c->heads * c->head_dim;
    add(p, name, (bench_shape){.m = m, .k = c->dim}, 2 * c->layers + 1, false);
    if (c->sub_norm) {
        add(p, name, (bench_shape){.m = m, .k = queries}, c->layers, false);
        add(p, name, (bench_shape){.m = m, .k = c->ffn}, c->layers, false);
    }
}

static void add_parts(profile *p)
{
    const qs_model_config *c = &p->config;
    const int64_t m = p->tokens;
    const bench_shape head = {.m = m, .n = c->vocab, .k = c->dim}, gate = {.m = m, .n = c->ffn};
    bench_shape attention = {.m = m, .seq = c->ctx, .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim};
    add_products(p, "linear");
    add_products(p, "linear_dx");
    add_products(p, "fsm_visit c4");
    add(p, "attention", attention, c->layers, false);
    add(p, "attention_grad", attention, c->layers, false);
    add_norms(p, "rmsnorm");
    add_norms(p, "rmsnorm_grad");
    add(p, "rope", attention, 2 * c->layers, false);
    attention.heads = c->kv_heads;
    add(p, "rope", attention, 2 * c->layers, false);
    add(p, "swiglu", gate, c->layers, false);
    add(p, "swiglu_grad", gate, c->layers, false);
    add(p, "linear f32", head, 1, false);
    add(p, "linear_dx f32", head, 1, false);
    add(p, "linear_dw", head, 1, false);
    add(p, "softmax_stats", (bench_shape){.m = m}, 1, false);
    add(p, "cross_entropy_grad", (bench_shape){.m = m}, 1, false);
    add(p, "embed", head, 1, false);
    add(p, "embed_grad", head, 1, false);
    add(p, "adamw", (bench_shape){.n = c->vocab, .k = c->dim}, 2, false);
}

static qs_train_options training_of(const profile *p, qs_precision precision)
{
    qs_train_options training;
    qs_train_options_default(&training);
    training.batch = p->batch;
    training.precision = precision;
    return training;
}

/* ---- timing ---------------------------------------------------------------------------------------------------- */

static qs_status time_parts(profile *p, qs_context *context, double seconds)
{
    static const bool only_f32[QS_PRECISIONS] = {[QS_PRECISION_F32] = true};
    qs_status status = QS_OK;
    for (int i = 0; i < p->parts && status == QS_OK; i++) {
        part *one = &p->part[i];
        double median[QS_PRECISIONS] = {0.0};
        bench_tell("training step: %s, %d of %d operations", one->op->name, i + 1, p->parts);
        status = bench_time(context, one->op, one->shape, one->precise ? p->on : only_f32, PART_SHARE * seconds, median);
        for (int q = 0; q < QS_PRECISIONS; q++)
            one->seconds[q] = median[one->precise ? q : QS_PRECISION_F32] * (double)one->count;
    }
    return status;
}

/* A trainer in every precision that takes part, and its times. */
typedef struct course {
    qs_trainer *trainer[QS_PRECISIONS];
    double times[QS_PRECISIONS][MOST_STEPS];
} course;

/* One step of each; times go to number index, nowhere while that is negative. */
static qs_status step_all(course *c, int index, double *spent)
{
    qs_step_info info;
    qs_status status = QS_OK;
    for (int i = 0; i < QS_PRECISIONS && status == QS_OK; i++) {
        if (c->trainer[i] == NULL)
            continue;
        bench_tell("training step: %s", qs_precision_name((qs_precision)i));
        const double start = now_seconds();
        status = qs_trainer_step(c->trainer[i], &info);
        const double seconds = now_seconds() - start;
        *spent += index < 0 ? 0.0 : seconds;
        if (index >= 0)
            c->times[i][index] = seconds;
    }
    return status;
}

/* Steps in all the precisions that are on, by turns. */
static qs_status time_steps(profile *p, qs_context *context, qs_text *text, const bool on[QS_PRECISIONS], double seconds)
{
    qs_status status = QS_OK;
    course c = {.trainer = {NULL}};
    double spent = 0.0;
    int count = -WARM_STEPS, ways = 0;
    for (int i = 0; i < QS_PRECISIONS && status == QS_OK; i++) {
        const qs_train_options training = training_of(p, (qs_precision)i);
        if (on[i])
            status = qs_trainer_create(context, &p->config, &training, text, &c.trainer[i]);
        ways += on[i];
    }
    while (status == QS_OK && count < MOST_STEPS && (count < FEWEST_STEPS || spent < STEP_SHARE * seconds * ways))
        status = step_all(&c, count++, &spent);
    for (int i = 0; i < QS_PRECISIONS; i++) {
        if (on[i] && status == QS_OK)
            p->step[i] = bench_times_of(c.times[i], count);
        qs_trainer_free(&c.trainer[i]);
    }
    return status;
}

/* A text without meaning: speed does not depend on it. */
static qs_status make_text(qs_context *context, int64_t ctx, qs_text **text)
{
    const int64_t wanted = TEXT_WINDOWS * (ctx + 1), bytes = wanted < TEXT_BYTES ? TEXT_BYTES : wanted;
    unsigned char *memory = malloc((size_t)bytes);
    if (memory == NULL)
        return QS_ERR_NOMEM;
    bench_fill(QS_U8, 1, memory, bytes);
    const qs_status status = qs_text_from_memory(context, memory, bytes, 0.1, text);
    free(memory);
    return status;
}

/* All precisions by turns where half of the memory holds all of them, else one after the other. */
static qs_status time_all_steps(profile *p, qs_context *context, qs_text *text, double seconds)
{
    qs_device_info device;
    qs_memory_plan plan = {0};
    const qs_train_options training = training_of(p, QS_PRECISION_F32);
    qs_status status = qs_train_plan(&p->config, &training, NULL, 0, &plan);
    qs_context_device(context, &device);
    if (status == QS_OK && plan.bytes[QS_MEMORY_POOLS][QS_MEMORY_TAGS] < device.memory_bytes / 2 / QS_PRECISIONS)
        return time_steps(p, context, text, p->on, seconds);
    for (int i = 0; i < QS_PRECISIONS && status == QS_OK; i++) {
        bool one[QS_PRECISIONS] = {false};
        one[i] = p->on[i];
        if (one[i])
            status = time_steps(p, context, text, one, seconds);
    }
    return status;
}

static qs_status time_all(profile *p, qs_context *context, double seconds)
{
    qs_text *text = NULL;
    qs_status status = make_text(context, p->config.ctx, &text);
    if (status == QS_OK)
        status = time_all_steps(p, context, text, seconds);
    if (status == QS_OK)
        status = time_parts(p, context, seconds);
    bench_tell(NULL);
    qs_text_free(&text);
    return status;
}

/* ---- output ---------------------------------------------------------------------------------------------------- */

static void print_line(const profile *p, const char *name, const char *shape, int64_t count,
                       const double seconds[QS_PRECISIONS])
{
    char times[24] = "";
    if (count > 0)
        (void)snprintf(times, sizeof times, "x %lld", (long long)count);
    printf("  %-18s %-18s %-6s", name, shape, times);
    for (int i = 0; i < QS_PRECISIONS; i++)
        if (p->on[i])
            printf(" %10.2f %5.1f%%", 1e3 * seconds[i], 100.0 * seconds[i] / p->step[i].median);
    printf("\n");
}

static void shape_text(const part *one, char out[SHAPE_TEXT])
{
    const bench_shape *s = &one->shape;
    if (s->seq > 0)
        (void)snprintf(out, SHAPE_TEXT, "%lld heads of %lld", (long long)s->heads, (long long)s->head_dim);
    else if (s->n > 0 && s->k > 0)
        (void)snprintf(out, SHAPE_TEXT, "%lld x %lld", (long long)s->n, (long long)s->k);
    else
        (void)snprintf(out, SHAPE_TEXT, "%lld", (long long)(s->n + s->k));
    if (s->n + s->k + s->seq == 0)
        out[0] = '\0';
}

static void print(const profile *p)
{
    const qs_model_config *c = &p->config;
    double rest[QS_PRECISIONS], whole[QS_PRECISIONS];
    printf("\ntraining step, fsm c4: %lld layers, %lld wide, ffn %lld, %lld heads, %lld kv heads; %lld x %lld = %lld "
           "tokens\n  %-44s",
           (long long)c->layers, (long long)c->dim, (long long)c->ffn, (long long)c->heads, (long long)c->kv_heads,
           (long long)p->batch, (long long)c->ctx, (long long)p->tokens, "operation, N x K");
    for (int i = 0; i < QS_PRECISIONS; i++) {
        rest[i] = whole[i] = p->step[i].median;
        if (p->on[i])
            printf(" %7s ms  share", qs_precision_name((qs_precision)i));
    }
    printf("\n");
    for (int k = 0; k < p->parts; k++) {
        char shape[SHAPE_TEXT];
        shape_text(&p->part[k], shape);
        print_line(p, p->part[k].op->name, shape, p->part[k].count, p->part[k].seconds);
        for (int i = 0; i < QS_PRECISIONS; i++)
            rest[i] -= p->part[k].seconds[i];
    }
    print_line(p, "everything else", "", 0, rest);
    print_line(p, "step", "", 0, whole);
    printf("  %-44s", "tokens a second");
    for (int i = 0; i < QS_PRECISIONS; i++)
        if (p->on[i])
            printf(" %10.0f       ", (double)p->tokens / whole[i]);
    printf("\n");
}

static json_t *class_json(const profile *p, int precision)
{
    json_t *parts = json_array();
    const bench_times *t = &p->step[precision];
    for (int i = 0; i < p->parts; i++) {
        const part *one = &p->part[i];
        const bench_shape *s = &one->shape;
        (void)json_array_append_new(
            parts, json_pack("{s:s, s:[I,I,I], s:I, s:f, s:f}", "op", one->op->name, "shape", (json_int_t)s->m,
                             (json_int_t)s->n, (json_int_t)s->k, "count", (json_int_t)one->count, "seconds",
                             one->seconds[precision], "share", one->seconds[precision] / t->median));
    }
    return json_pack("{s:s, s:f, s:f, s:f, s:I, s:f, s:o}", "class", qs_precision_name((qs_precision)precision), "seconds",
                     t->median, "p10", t->p10, "p90", t->p90, "runs", (json_int_t)t->runs, "tokens_per_second",
                     (double)p->tokens / t->median, "parts", parts);
}

static json_t *profile_json(const profile *p, const char *level)
{
    const qs_model_config *c = &p->config;
    json_t *classes = json_array();
    for (int i = 0; i < QS_PRECISIONS; i++)
        if (p->on[i])
            (void)json_array_append_new(classes, class_json(p, i));
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "level", level, "layers",
                     (json_int_t)c->layers, "dim", (json_int_t)c->dim, "ffn", (json_int_t)c->ffn, "heads",
                     (json_int_t)c->heads, "kv_heads", (json_int_t)c->kv_heads, "ctx", (json_int_t)c->ctx, "batch",
                     (json_int_t)p->batch, "tokens", (json_int_t)p->tokens, "classes", classes);
}

int bench_step(const options *o, qs_context *context, const qs_model_config *model, const bool precision[QS_PRECISIONS],
               json_t **out)
{
    qs_device_info device;
    profile *p = calloc(1, sizeof *p);
    if (p == NULL)
        return fail_with(71, BENCH_NAME, "out of memory; close other programs");
    p->config = *model;
    p->batch = o->value[OPT_BATCH].integer;
    p->tokens = p->batch * p->config.ctx;
    memcpy(p->on, precision, sizeof p->on);
    add_parts(p);
    const qs_status status = time_all(p, context, o->value[OPT_SECONDS].real);
    const int code = status == QS_OK ? 0 : fail_library(BENCH_NAME, status, "give a smaller --batch or model");
    if (code == 0) {
        qs_context_device(context, &device);
        *out = profile_json(p, device.level);
        if (!o->value[OPT_JSON].given)
            print(p);
    }
    free(p);
    return code;
}
