/* bench_generate.c - see bench_generate.h. One model of random signs serves all precisions; its weights are what every token
 * reads once. Peers have no model: of them the products of one token are timed, without anything between, which favours
 * them. All take turns. */
#include "bench_generate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT = 16, FEWEST_TOKENS = 5, MOST_TOKENS = 2000, MOST_SHAPES = 5, SEED = 1 };
static const double TURN_SECONDS = 0.02;

/* Products of one shape in a token, and one of a peer that is run in their place. */
typedef struct foreign_shape {
    int64_t n, k, count;
    bench_host host;
    bench_peer_product product;
    double *times;                       /* [MOST_TOKENS] */
} foreign_shape;

/* The products of one peer; runs: of each shape. */
typedef struct foreign {
    const qs_peer *peer;
    foreign_shape shape[MOST_SHAPES];
    int64_t runs;
    double spent, seconds;               /* of a token */
    bool out;                            /* it failed */
} foreign;

typedef struct generation {
    const bench_setup *setup;
    qs_model_config config;
    qs_model_size size;
    bench_limit limit;
    qs_model *model;
    qs_session *session;
    float *logits;
    int64_t written;                     /* tokens in all: chooses the next */
    double *times[QS_PRECISIONS], spent[QS_PRECISIONS];
    int64_t count[QS_PRECISIONS];
    bench_times token[QS_PRECISIONS];
    foreign peer[BENCH_MOST_PEERS];
} generation;

/* ---- ours ------------------------------------------------------------------------------------------------------ */

/* The prompt once more when the context is full. */
static qs_status start_over(generation *g)
{
    int32_t tokens[PROMPT];
    const int64_t count = g->config.ctx / 2 < PROMPT ? g->config.ctx / 2 : PROMPT;
    for (int64_t i = 0; i < count; i++)
        tokens[i] = (int32_t)(i * 37 % g->config.vocab);
    qs_session_reset(g->session);
    return qs_session_eval(g->session, tokens, count, g->logits);
}

static qs_status one_token(generation *g, double *seconds)
{
    const int32_t token = (int32_t)(g->written++ * 101 % g->config.vocab);
    qs_status status = QS_OK;
    if (qs_session_position(g->session) == 0 || qs_session_position(g->session) == g->config.ctx)
        status = start_over(g);
    const double start = now_seconds();
    if (status == QS_OK)
        status = qs_session_eval(g->session, &token, 1, g->logits);
    *seconds = now_seconds() - start;
    return status;
}

/* Tokens for a turn, after one that is not counted. */
static qs_status take_turn(generation *g, int precision)
{
    double seconds = 0.0, used = 0.0;
    qs_status status = qs_model_set_precision(g->model, (qs_precision)precision);
    if (status == QS_OK)
        status = one_token(g, &seconds);
    while (status == QS_OK && used < TURN_SECONDS && g->count[precision] < MOST_TOKENS) {
        status = one_token(g, &seconds);
        g->times[precision][g->count[precision]++] = seconds;
        used += seconds;
    }
    g->spent[precision] += used;
    return status;
}

static bool finished(const generation *g, int precision)
{
    const int64_t count = g->count[precision];
    return !g->setup->precision[precision] || count == MOST_TOKENS ||
           (count >= FEWEST_TOKENS && g->spent[precision] >= g->setup->seconds);
}

/* ---- peers ----------------------------------------------------------------------------------------------------- */

static void close_peer(foreign *f)
{
    for (int i = 0; i < MOST_SHAPES; i++) {
        bench_peer_close(&f->shape[i].product);
        bench_host_free(&f->shape[i].host);
        free(f->shape[i].times);
        f->shape[i].times = NULL;
    }
}

/* The shapes of a block, each with how many of its products a token has. */
static void count_shapes(const qs_model_config *c, foreign *f)
{
    const int64_t queries = c->heads * c->head_dim, keys = c->kv_heads * c->head_dim;
    const int64_t all[MOST_SHAPES][3] = {
        {queries, c->dim, 1}, {keys, c->dim, 2}, {c->dim, queries, 1}, {c->ffn, c->dim, 2}, {c->dim, c->ffn, 1}};
    for (int i = 0; i < MOST_SHAPES; i++) {
        int at = 0;
        while (at < i && (f->shape[at].n != all[i][0] || f->shape[at].k != all[i][1]))
            at++;
        f->shape[at].n = all[i][0];
        f->shape[at].k = all[i][1];
        f->shape[at].count += all[i][2] * c->layers;
    }
}

/* Opens a peer at all shapes: where our weights come from memory, with more copies than the last caches hold. */
static bool open_peer(const generation *g, foreign *f)
{
    const bench_setup *s = g->setup;
    const int64_t cold = (double)g->size.packed_bytes > 0.75 * (double)s->caches.last ? 2 * s->caches.last / 3 : 0;
    count_shapes(&g->config, f);
    for (int i = 0; i < MOST_SHAPES; i++) {
        foreign_shape *one = &f->shape[i];
        if (one->count == 0)
            continue;
        one->times = malloc(MOST_TOKENS * sizeof *one->times);
        if (one->times == NULL ||
            bench_host_create((bench_shape){.m = 1, .n = one->n, .k = one->k}, &one->host) != QS_OK) {
            warn(BENCH_NAME, "peer %s is left out: out of memory", f->peer->name);
            return false;
        }
        if (!bench_peer_open(f->peer, &one->host, 1, cold, s->threads, s->level[0].name, &one->product))
            return false;
    }
    return true;
}

/* One product of each shape after the other, for a turn; the first ones warm up. */
static void take_foreign_turn(foreign *f)
{
    double used = 0.0, seconds = 0.0;
    for (int64_t round = -1; used < TURN_SECONDS && f->runs < MOST_TOKENS && !f->out; round++) {
        for (int i = 0; i < MOST_SHAPES && !f->out; i++) {
            foreign_shape *one = &f->shape[i];
            if (one->count == 0)
                continue;
            f->out = !bench_peer_run(&one->product, false, (f->runs + round + 1) % one->product.copies, &seconds);
            one->times[f->runs] = seconds;
            used += round < 0 ? 0.0 : seconds;
        }
        f->runs += round >= 0;
    }
    f->spent += used;
}

static bool finished_foreign(const generation *g, const foreign *f)
{
    return f->out || f->runs == MOST_TOKENS || (f->runs >= FEWEST_TOKENS && f->spent >= g->setup->seconds);
}

static void sum_up(foreign *f)
{
    for (int i = 0; i < MOST_SHAPES; i++)
        if (f->shape[i].count > 0)
            f->seconds += (double)f->shape[i].count * bench_times_of(f->shape[i].times, f->runs).median;
}

/* ---- the measurement ------------------------------------------------------------------------------------------- */

static qs_status all_by_turns(generation *g)
{
    qs_status status = QS_OK;
    for (bool left = true; left && status == QS_OK;) {
        left = false;
        for (int i = 0; i < QS_PRECISIONS && status == QS_OK; i++)
            if (!finished(g, i)) {
                left = true;
                bench_tell("generation: %s", qs_precision_name((qs_precision)i));
                status = take_turn(g, i);
            }
        for (int i = 0; i < g->setup->peers.count; i++)
            if (!finished_foreign(g, &g->peer[i])) {
                left = true;
                bench_tell("generation: %s", g->peer[i].peer->name);
                take_foreign_turn(&g->peer[i]);
            }
    }
    bench_tell(NULL);
    return status;
}

static qs_status prepare(generation *g)
{
    const bench_level *level = &g->setup->level[0];
    const bench_work reading = {.bytes = (double)g->size.packed_bytes, .resident = (double)g->size.packed_bytes};
    bench_tell("generation: a model of random signs");
    g->limit = (bench_limit){NAN, ""};
    if (level->machine.level != NULL)
        g->limit = bench_limit_of(&level->machine, &g->setup->caches, &reading);
    for (int i = 0; i < g->setup->peers.count; i++) {
        g->peer[i].peer = g->setup->peers.peer[i];
        g->peer[i].out = !open_peer(g, &g->peer[i]);
    }
    g->logits = malloc((size_t)g->config.vocab * sizeof *g->logits);
    for (int i = 0; i < QS_PRECISIONS; i++) {
        g->times[i] = malloc(MOST_TOKENS * sizeof *g->times[i]);
        if (g->logits == NULL || g->times[i] == NULL)
            return QS_ERR_NOMEM;
    }
    qs_status status = qs_model_create(level->context, &g->config, SEED, &g->model);
    return status == QS_OK ? qs_session_create(g->model, g->config.ctx, &g->session) : status;
}

static qs_status time_all(generation *g)
{
    qs_status status = qs_model_size_of(&g->config, &g->size);
    if (status == QS_OK)
        status = prepare(g);
    if (status == QS_OK)
        status = all_by_turns(g);
    for (int i = 0; i < QS_PRECISIONS && status == QS_OK; i++)
        if (g->setup->precision[i])
            g->token[i] = bench_times_of(g->times[i], g->count[i]);
    for (int i = 0; i < g->setup->peers.count && status == QS_OK; i++)
        if (!g->peer[i].out)
            sum_up(&g->peer[i]);
    return status;
}

static void free_all(generation *g)
{
    qs_session_free(&g->session);
    qs_model_free(&g->model);
    free(g->logits);
    for (int i = 0; i < QS_PRECISIONS; i++)
        free(g->times[i]);
    for (int i = 0; i < BENCH_MOST_PEERS; i++)
        close_peer(&g->peer[i]);
    free(g);
}

/* ---- output ---------------------------------------------------------------------------------------------------- */

/* Time of the fastest peer / ours, NaN without peers. */
static double against_peers(const generation *g, double seconds)
{
    double best = NAN;
    for (int i = 0; i < g->setup->peers.count; i++)
        if (!g->peer[i].out && !(best <= g->peer[i].seconds))
            best = g->peer[i].seconds;
    return best / seconds;
}

static void print_line(const char *class_name, const char *level, double seconds, const char *rest)
{
    printf("  %-7s %-15s %10.1f %10.3f%s\n", class_name, level, 1.0 / seconds, 1e3 * seconds, rest);
}

static void print(const generation *g)
{
    const qs_model_config *c = &g->config;
    const bool bounded = isfinite(g->limit.seconds);
    char weights[16], bytes[16], rest[64];
    printf("\ngeneration: %lld layers, %lld wide, ffn %lld, %lld heads, %lld kv heads; %s weights, %s packed; %d thread%s\n"
           "  %-7s %-15s %10s %10s %7s %6s %-6s%s\n",
           (long long)c->layers, (long long)c->dim, (long long)c->ffn, (long long)c->heads, (long long)c->kv_heads,
           human_count((double)g->size.packed_weights, weights), human_bytes((double)g->size.packed_bytes, bytes),
           g->setup->threads, g->setup->threads == 1 ? "" : "s", "class", "level", "tokens/s", "ms/token", "GB/s",
           "limit", "by", g->setup->peers.count > 0 ? "   x peer" : "");
    for (int i = 0; i < QS_PRECISIONS; i++) {
        const double seconds = g->token[i].median, x = against_peers(g, seconds);
        char limit[16] = "     -", ratio[24] = "";
        if (!g->setup->precision[i])
            continue;
        if (bounded)
            (void)snprintf(limit, sizeof limit, "%5.0f%%", 100.0 * g->limit.seconds / seconds);
        if (isfinite(x))
            (void)snprintf(ratio, sizeof ratio, " %7.2fx", x);
        (void)snprintf(rest, sizeof rest, " %7.1f %s %-6s%s", (double)g->size.packed_bytes / seconds * 1e-9, limit,
                       g->limit.by, ratio);
        print_line(qs_precision_name((qs_precision)i), g->setup->level[0].name, seconds, rest);
    }
    for (int i = 0; i < g->setup->peers.count; i++)
        if (!g->peer[i].out)
            print_line(g->peer[i].peer->arithmetic, g->peer[i].peer->name, g->peer[i].seconds, "  products alone");
}

static json_t *classes_json(const generation *g)
{
    json_t *classes = json_array();
    for (int i = 0; i < QS_PRECISIONS; i++) {
        const bench_times *t = &g->token[i];
        if (!g->setup->precision[i])
            continue;
        json_t *one = json_pack("{s:s, s:f, s:f, s:f, s:I, s:f, s:f, s:s}", "class", qs_precision_name((qs_precision)i),
                                "seconds", t->median, "p10", t->p10, "p90", t->p90, "runs", (json_int_t)t->runs,
                                "tokens_per_second", 1.0 / t->median, "bytes_per_second",
                                (double)g->size.packed_bytes / t->median, "limited_by", g->limit.by);
        (void)json_object_set_new(one, "limit_seconds", json_number(g->limit.seconds));
        (void)json_object_set_new(one, "limit_share", json_number(g->limit.seconds / t->median));
        (void)json_object_set_new(one, "against_peer", json_number(against_peers(g, t->median)));
        (void)json_array_append_new(classes, one);
    }
    return classes;
}

static json_t *generation_json(const generation *g)
{
    const qs_model_config *c = &g->config;
    json_t *peers = json_array();
    for (int i = 0; i < g->setup->peers.count; i++)
        if (!g->peer[i].out)
            (void)json_array_append_new(peers, json_pack("{s:s, s:s, s:f, s:I}", "name", g->peer[i].peer->name, "class",
                                                         g->peer[i].peer->arithmetic, "seconds", g->peer[i].seconds, "runs",
                                                         (json_int_t)g->peer[i].runs));
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "level", g->setup->level[0].name, "layers",
                     (json_int_t)c->layers, "dim", (json_int_t)c->dim, "ffn", (json_int_t)c->ffn, "heads",
                     (json_int_t)c->heads, "kv_heads", (json_int_t)c->kv_heads, "ctx", (json_int_t)c->ctx, "weights",
                     (json_int_t)g->size.packed_weights, "packed_bytes", (json_int_t)g->size.packed_bytes, "classes",
                     classes_json(g), "peers", peers);
}

int bench_generate(const options *o, const bench_setup *setup, const qs_model_config *model, json_t **out)
{
    generation *g = calloc(1, sizeof *g);
    if (g == NULL)
        return fail_with(71, BENCH_NAME, "out of memory; close other programs");
    g->setup = setup;
    g->config = *model;
    const qs_status status = time_all(g);
    const int code = status == QS_OK ? 0 : fail_library(BENCH_NAME, status, "give a smaller model");
    if (code == 0) {
        *out = generation_json(g);
        if (!o->value[OPT_JSON].given)
            print(g);
    }
    free_all(g);
    return code;
}
