/* op_attention_grad.c - ATTENTION_GRAD: scores are recomputed from lse, block of 64 keys by tile of 64 queries.
 *
 * A task is one key group of one sequence: key blocks ascending, then the heads of the group, then query tiles from the
 * diagonal on. So dq sums over keys ascending; dk and dv over heads, then queries ascending. Masked pairs of a diagonal tile
 * take part with p = ds = 0, which is exact for finite operands; a NaN or infinity may spread to other tokens of its own
 * sequence, never to another. */
#include "cpu/attention.h"

enum { DQ, DK, DV, DOUT, Q, K, V, OUT, LSE };

typedef struct attention_grad_job {
    const qsi_run *run;
    int64_t head_dim, seq, groups, heads;   /* heads: per group */
    float scale;
} attention_grad_job;

/* One block of keys of a task. */
typedef struct key_block {
    int64_t row, group;       /* first row of the sequence */
    int64_t key, count;
    float *keys, *values;     /* [head_dim, 64] */
    float *p, *ds;            /* [64, 64] */
} key_block;

/* p and ds of the n queries from `query` (in the sequence), zero where masked. */
static void probabilities(const attention_grad_job *job, const key_block *b, int64_t head, int64_t query, int64_t n)
{
    const qsi_kernels *kernels = job->run->kernels;
    const qsi_slot *v = job->run->v;
    const int64_t d = job->head_dim, col = head * d, row = b->row + query;
    kernels->f32_gemm(b->p, QSI_TILE, qsi_f32(&v[Q], row) + col, qsi_ld(&v[Q]), 1, b->keys, QSI_KEY_STRIDE, n, b->count, d, 0);
    kernels->f32_gemm(b->ds, QSI_TILE, qsi_f32(&v[DOUT], row) + col, qsi_ld(&v[DOUT]), 1, b->values, QSI_KEY_STRIDE, n,
                      b->count, d, 0);
    for (int64_t i = 0; i < n; i++) {
        const int64_t seen = qsi_min(b->count, query + i + 1 - b->key);
        const float dot = kernels->f32_dot(qsi_f32(&v[DOUT], row + i) + col, qsi_f32(&v[OUT], row + i) + col, d);
        float *p = b->p + i * QSI_TILE, *ds = b->ds + i * QSI_TILE;
        kernels->softmax_grad(p, ds, ds, seen, job->scale, qsi_f32(&v[LSE], row + i)[head], dot);
        memset(p + seen, 0, (size_t)(b->count - seen) * sizeof *p);
        memset(ds + seen, 0, (size_t)(b->count - seen) * sizeof *ds);
    }
}

/* The tile's share of dq, dk, dv; fresh: the first one of dk and dv. */
static void accumulate(const attention_grad_job *job, const key_block *b, int64_t head, int64_t query, int64_t n, bool fresh)
{
    const qsi_kernels *kernels = job->run->kernels;
    const qsi_slot *v = job->run->v;
    const int64_t d = job->head_dim, col = head * d, group = b->group * d, row = b->row + query, key = b->row + b->key;
    kernels->f32_gemm(qsi_f32(&v[DV], key) + group, qsi_ld(&v[DV]), b->p, 1, QSI_TILE, qsi_f32(&v[DOUT], row) + col,
                      qsi_ld(&v[DOUT]), b->count, d, n, !fresh);
    kernels->f32_gemm(qsi_f32(&v[DK], key) + group, qsi_ld(&v[DK]), b->ds, 1, QSI_TILE, qsi_f32(&v[Q], row) + col,
                      qsi_ld(&v[Q]), b->count, d, n, !fresh);
    kernels->f32_gemm(qsi_f32(&v[DQ], row) + col, qsi_ld(&v[DQ]), b->ds, QSI_TILE, 1, qsi_f32(&v[K], key) + group,
                      qsi_ld(&v[K]), n, d, b->count, b->key > 0);
}

static void attention_grad_task(void *arg, int64_t task, int thread)
{
    const attention_grad_job *job = arg;
    const qsi_slot *v = job->run->v;
    const int64_t d = job->head_dim;
    char *at = qsi_own(job->run, thread);
    key_block b = {.row = task / job->groups * job->seq, .group = task % job->groups};
    b.keys = qsi_carve(&at, qsi_floats(d * QSI_KEY_STRIDE));
    b.values = qsi_carve(&at, qsi_floats(d * QSI_KEY_STRIDE));
    b.p = qsi_carve(&at, qsi_floats(QSI_TILE * QSI_TILE));
    b.ds = qsi_carve(&at, qsi_floats(QSI_TILE * QSI_TILE));
    for (b.key = 0; b.key < job->seq; b.key += QSI_TILE) {
        b.count = qsi_min(QSI_TILE, job->seq - b.key);
        qsi_transpose_block(b.keys, &v[K], b.row + b.key, b.count, b.group * d, d);
        qsi_transpose_block(b.values, &v[V], b.row + b.key, b.count, b.group * d, d);
        for (int64_t h = 0; h < job->heads; h++)
            for (int64_t query = b.key; query < job->seq; query += QSI_TILE) {
                const int64_t n = qsi_min(QSI_TILE, job->seq - query), head = b.group * job->heads + h;
                probabilities(job, &b, head, query, n);
                accumulate(job, &b, head, query, n, h == 0 && query == b.key);
            }
    }
}

qs_status qsi_cpu_attention_grad(qsi_run *run)
{
    qs_status status = QS_OK;
    const int64_t head_dim = run->op->i[0], seq = run->op->i[1];
    attention_grad_job job = {.run = run, .head_dim = head_dim, .seq = seq, .groups = run->v[K].cols / head_dim};
    qsi_weigh(run, run->v[Q].rows * run->v[Q].cols * seq);
    job.heads = run->v[Q].cols / head_dim / job.groups;
    job.scale = qsi_attention_scale(head_dim);
    QS_TRY(qsi_scratch_need(run, 0, 2 * qsi_floats(head_dim * QSI_KEY_STRIDE) + 2 * qsi_floats(QSI_TILE * QSI_TILE)));
    qsi_each(run, run->v[Q].rows / seq * job.groups, attention_grad_task, &job);
fail:
    return status;
}
