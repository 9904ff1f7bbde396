/* op_attention.c - ATTENTION: causal, grouped-query, online softmax over blocks of 64 keys.
 *
 * A task is a tile of queries of all heads that share a key group, so that a block of keys is transposed once for all of
 * them. Everything a query computes depends on its own keys in ascending order only: not on the tile it is in, nor on how
 * many queries there are, so decoding a token gives the bytes of the whole pass. Up to FEW queries wait for memory: a task
 * takes many key groups, whose keys lie side by side, and reads a block of them in that order first. Keys a query may not
 * see are never multiplied, not even by zero, so their values cannot leak. */
#include "core/detmath.h"
#include "cpu/attention.h"

enum { OUT, Q, K, V, LSE };
enum { BAND = 6, FEW = 4 };   /* BAND: rows of the diagonal that go together as far as all of them see */

typedef struct attention_job {
    const qsi_run *run;
    int64_t head_dim, tq, tkv, groups, heads;   /* heads: per group */
    int64_t tiles, tile;                        /* tiles per sequence, queries per tile */
    int64_t span;                               /* groups of a task */
    float scale;
} attention_job;

/* One task's place and scratch. */
typedef struct query_tile {
    int64_t row, count;          /* first row of q, queries */
    int64_t key_row;             /* first row of k and v of the sequence */
    int64_t group, groups;       /* first group, how many */
    int64_t seen;                /* keys that the first query sees; each next query sees one more */
    float *keys;                 /* [head_dim, QSI_KEY_STRIDE] */
    float *scores;               /* [tile, 64] */
    float *sums, *top, *total;   /* [heads of all groups, tile, head_dim], [heads, tile] twice */
} query_tile;

static int64_t scratch_bytes(const attention_job *job)
{
    const int64_t rows = job->span * job->heads * job->tile;
    return qsi_floats(job->head_dim * QSI_KEY_STRIDE) + qsi_floats(job->tile * QSI_TILE) + qsi_floats(rows * job->head_dim) +
           2 * qsi_floats(rows);
}

static query_tile tile_of(const attention_job *job, int64_t task, void *scratch)
{
    const int64_t per_sequence = qsi_ceil_div(job->groups, job->span) * job->tiles, sequence = task / per_sequence;
    const int64_t first = (job->tiles - 1 - task % job->tiles) * job->tile;   /* longest first */
    const int64_t rows = job->span * job->heads * job->tile;
    char *at = scratch;
    query_tile t = {.row = sequence * job->tq + first, .count = qsi_min(job->tile, job->tq - first)};
    t.key_row = sequence * job->tkv;
    t.group = task % per_sequence / job->tiles * job->span;
    t.groups = qsi_min(job->span, job->groups - t.group);
    t.seen = job->tkv - job->tq + first + 1;
    t.keys = qsi_carve(&at, qsi_floats(job->head_dim * QSI_KEY_STRIDE));
    t.scores = qsi_carve(&at, qsi_floats(job->tile * QSI_TILE));
    t.sums = qsi_carve(&at, qsi_floats(rows * job->head_dim));
    t.top = qsi_carve(&at, qsi_floats(rows));
    t.total = qsi_carve(&at, qsi_floats(rows));
    memset(t.sums, 0, (size_t)(rows * job->head_dim) * sizeof *t.sums);
    for (int64_t i = 0; i < rows; i++) {
        t.top[i] = -INFINITY;
        t.total[i] = 0.0f;
    }
    return t;
}

/* sums of head, [i..i+rows-1], += p v over keys from..from+count-1 of the block that starts at key. */
static void add_values(const attention_job *job, const query_tile *t, int64_t head, int64_t i, int64_t rows, int64_t key,
                       int64_t from, int64_t count)
{
    const qsi_slot *v = &job->run->v[V];
    const int64_t d = job->head_dim, group = t->group + head / job->heads;
    float *sums = t->sums + head * job->tile * d;
    job->run->kernels->f32_gemm(sums + i * d, d, t->scores + i * QSI_TILE + from, QSI_TILE, 1,
                                qsi_f32(v, t->key_row + key + from) + group * d, qsi_ld(v), rows, d, count, 1);
}

/* Queries of one head against the block of n keys from `key`. */
static void attend(const attention_job *job, const query_tile *t, int64_t head, int64_t key, int64_t n)
{
    const qsi_kernels *kernels = job->run->kernels;
    const qsi_slot *q = &job->run->v[Q];
    const int64_t d = job->head_dim, seen = t->seen - key;   /* keys of this block that query 0 sees, may be <= 0 or > n */
    float *sums = t->sums + head * job->tile * d, *top = t->top + head * job->tile, *total = t->total + head * job->tile;
    kernels->f32_gemm(t->scores, QSI_TILE, qsi_f32(q, t->row) + (t->group * job->heads + head) * d, qsi_ld(q), 1, t->keys,
                      QSI_KEY_STRIDE, t->count, n, d, 0);
    for (int64_t i = qsi_max(0, 1 - seen); i < t->count; i++) {
        const float shrink = kernels->softmax_block(t->scores + i * QSI_TILE, qsi_min(n, seen + i), job->scale, top + i,
                                                    total + i);
        kernels->f32_scale(sums + i * d, shrink, d);
    }
    if (seen >= n) {
        add_values(job, t, head, 0, t->count, key, 0, n);
        return;
    }
    for (int64_t i = qsi_max(0, 1 - seen), rows; i < t->count; i += rows) {
        const int64_t common = qsi_min(n, seen + i);   /* all rows of the band see these */
        rows = qsi_min(BAND, t->count - i);
        add_values(job, t, head, i, rows, key, 0, common);
        for (int64_t j = 1; j < rows && common < n; j++)
            add_values(job, t, head, i + j, 1, key, common, qsi_min(n, seen + i + j) - common);
    }
}

/* out = sums / total, lse = top + log(total). */
static void finish(const attention_job *job, const query_tile *t, int64_t head)
{
    const int64_t d = job->head_dim, h = t->group * job->heads + head;
    for (int64_t i = 0; i < t->count; i++) {
        const float *sums = t->sums + (head * job->tile + i) * d;
        const float top = t->top[head * job->tile + i], total = t->total[head * job->tile + i];
        float *out = qsi_f32(&job->run->v[OUT], t->row + i) + h * d;
        for (int64_t j = 0; j < d; j++)
            out[j] = sums[j] / total;
        qsi_f32(&job->run->v[LSE], t->row + i)[h] = (float)((double)top + qsi_log((double)total));
    }
}

/* Reads n keys and then values from `row` on, of the task's groups, into the caches. */
static void read_block(const attention_job *job, const query_tile *t, int64_t row, int64_t n)
{
    const int64_t bytes = t->groups * job->head_dim * (int64_t)sizeof(float);
    for (int which = K; which <= V; which++) {
        const qsi_slot *from = &job->run->v[which];
        qsi_read_ahead(qsi_f32(from, t->key_row + row) + t->group * job->head_dim, from->stride, n, bytes);
    }
}

static void attention_task(void *arg, int64_t task, int thread)
{
    const attention_job *job = arg;
    const query_tile t = tile_of(job, task, qsi_own(job->run, thread));
    const int64_t keys = t.seen + t.count - 1;   /* that the last query sees */
    for (int64_t key = 0; key < keys; key += QSI_TILE) {
        const int64_t n = qsi_min(QSI_TILE, keys - key);
        if (job->tq <= FEW)
            read_block(job, &t, key, n);
        for (int64_t group = 0; group < t.groups; group++) {
            const int64_t col = (t.group + group) * job->head_dim;
            qsi_transpose_block(t.keys, &job->run->v[K], t.key_row + key, n, col, job->head_dim);
            for (int64_t head = 0; head < job->heads; head++)
                attend(job, &t, group * job->heads + head, key, n);
        }
    }
    for (int64_t head = 0; head < t.groups * job->heads; head++)
        finish(job, &t, head);
}

qs_status qsi_cpu_attention(qsi_run *run)
{
    qs_status status = QS_OK;
    const int64_t head_dim = run->op->i[0], tq = run->op->i[1];
    attention_job job = {.run = run, .head_dim = head_dim, .tq = tq, .tkv = run->op->i[2]};
    qsi_weigh(run, run->v[Q].rows * run->v[Q].cols * job.tkv);
    job.groups = run->v[K].cols / head_dim;
    job.heads = run->v[Q].cols / head_dim / job.groups;
    job.tile = qsi_min(QSI_TILE, tq);
    job.tiles = qsi_ceil_div(tq, job.tile);
    job.span = tq > FEW ? 1 : qsi_ceil_div(job.groups, qsi_ceil_div(run->threads, run->v[Q].rows / tq));
    job.scale = qsi_attention_scale(head_dim);
    QS_TRY(qsi_scratch_need(run, 0, scratch_bytes(&job)));
    qsi_each(run, run->v[Q].rows / tq * qsi_ceil_div(job.groups, job.span) * job.tiles, attention_task, &job);
fail:
    return status;
}
