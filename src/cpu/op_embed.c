/* op_embed.c - COPY, EMBED and its gradient. */
#include "cpu/drivers.h"

/* ---- COPY ------------------------------------------------------------------------------------------------------- */

typedef struct copy_job {
    const qsi_run *run;
    int64_t bytes, rows;   /* of a row; rows per task */
} copy_job;

static void copy_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const copy_job *job = arg;
    const qsi_slot *y = &job->run->v[0], *x = &job->run->v[1];
    for (int64_t r = task * job->rows; r < qsi_min(y->rows, (task + 1) * job->rows); r++)
        memcpy(qsi_row(y, r), qsi_row(x, r), (size_t)job->bytes);
}

qs_status qsi_cpu_copy(qsi_run *run)
{
    static const int bits[] = {
#define FORMAT_BITS(name, text, width, multiple) width,
        QS_FORMAT_LIST(FORMAT_BITS)
#undef FORMAT_BITS
    };
    const int64_t bytes = run->v[0].cols * bits[run->op->view[0].format] / 8;
    copy_job job = {run, bytes, qsi_grain(bytes / 4)};
    qsi_each(run, qsi_ceil_div(run->v[0].rows, job.rows), copy_task, &job);
    return QS_OK;
}

/* ---- EMBED ------------------------------------------------------------------------------------------------------ */

/* The caller checks tokens; this keeps a caller's mistake from becoming a wild access. */
static qs_status check_tokens(const qsi_run *run, const char *name, int64_t tokens, int64_t symbols)
{
    const int32_t *token = qsi_row(&run->v[1], 0);
    for (int64_t m = 0; m < tokens; m++)
        if (token[m] < 0 || token[m] >= symbols) {
            run->queue->device->host->fail("%s: token %lld is %d, the table has %lld rows", name, (long long)m,
                                           (int)token[m], (long long)symbols);
            return QS_ERR_ARG;
        }
    return QS_OK;
}

static void embed_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const qsi_run *run = arg;
    const qsi_slot *y = &run->v[0], *table = &run->v[2];
    const int32_t *token = qsi_row(&run->v[1], 0);
    const int64_t rows = qsi_grain(y->cols);
    for (int64_t m = task * rows; m < qsi_min(y->rows, (task + 1) * rows); m++)
        memcpy(qsi_row(y, m), qsi_row(table, token[m]), (size_t)y->cols * sizeof(float));
}

qs_status qsi_cpu_embed(qsi_run *run)
{
    qs_status status = QS_OK;
    QS_TRY(check_tokens(run, "embed", run->v[0].rows, run->v[2].rows));
    qsi_each(run, qsi_ceil_div(run->v[0].rows, qsi_grain(run->v[0].cols)), embed_task, run);
fail:
    return status;
}

/* ---- EMBED_GRAD ------------------------------------------------------------------------------------------------- */

typedef struct embed_grad_job {
    const qsi_run *run;
    int64_t *start;        /* [symbols + 1]: tokens of symbol v are order[start[v]] .. order[start[v+1] - 1] */
    int64_t *order;        /* [tokens], ascending within a symbol */
} embed_grad_job;

enum { SYMBOLS = 16 };     /* per task */

/* One row of the table: chunk sums ascending from +0, combined by the tree of those chunks that hold the symbol. */
static void embed_grad_row(const embed_grad_job *job, int64_t symbol, float *slots)
{
    const qsi_run *run = job->run;
    const int64_t d = run->v[0].cols;
    qsi_tree tree = qsi_tree_start(run->kernels, slots, d);
    int64_t chunk = -1;
    float *sum = NULL;
    for (int64_t i = job->start[symbol]; i < job->start[symbol + 1]; i++) {
        const int64_t m = job->order[i];
        if (m / QS_TOKEN_CHUNK != chunk) {
            chunk = m / QS_TOKEN_CHUNK;
            sum = qsi_tree_next(&tree, chunk);
            memset(sum, 0, (size_t)d * sizeof *sum);
        }
        run->kernels->f32_add(sum, qsi_f32(&run->v[2], m), d);
    }
    const float *total = qsi_tree_finish(&tree);
    float *row = qsi_f32(&run->v[0], symbol);
    const bool add = run->op->flags & QS_FLAG_ADD;
    if (total && add)
        run->kernels->f32_add(row, total, d);
    else if (total)
        memcpy(row, total, (size_t)d * sizeof *total);
    else if (!add)
        memset(row, 0, (size_t)d * sizeof *row);
}

static void embed_grad_task(void *arg, int64_t task, int thread)
{
    const embed_grad_job *job = arg;
    for (int64_t v = task * SYMBOLS; v < qsi_min(job->run->v[0].rows, (task + 1) * SYMBOLS); v++)
        embed_grad_row(job, v, qsi_own(job->run, thread));
}

/* Stable counting sort of the tokens by symbol. */
static void sort_tokens(const embed_grad_job *job, int64_t symbols, int64_t tokens)
{
    const int32_t *token = qsi_row(&job->run->v[1], 0);
    memset(job->start, 0, (size_t)(symbols + 1) * sizeof *job->start);
    for (int64_t m = 0; m < tokens; m++)
        job->start[token[m] + 1]++;
    for (int64_t v = 0; v < symbols; v++)
        job->start[v + 1] += job->start[v];
    for (int64_t m = 0; m < tokens; m++)
        job->order[job->start[token[m]]++] = m;
    for (int64_t v = symbols; v > 0; v--)   /* every start has moved to the next one */
        job->start[v] = job->start[v - 1];
    job->start[0] = 0;
}

qs_status qsi_cpu_embed_grad(qsi_run *run)
{
    qs_status status = QS_OK;
    const int64_t symbols = run->v[0].rows, tokens = run->v[2].rows;
    const int64_t starts = (symbols + 1) * (int64_t)sizeof(int64_t), orders = tokens * (int64_t)sizeof(int64_t);
    const int64_t chunks = qsi_ceil_div(tokens, QS_TOKEN_CHUNK);
    QS_TRY(check_tokens(run, "embed_grad", tokens, symbols));
    QS_TRY(qsi_scratch_need(run, qsi_round_up(starts, 64) + orders, qsi_floats(qsi_tree_slots(chunks) * run->v[0].cols)));
    char *at = qsi_shared(run);
    embed_grad_job job = {.run = run};
    job.start = qsi_carve(&at, starts);
    job.order = qsi_carve(&at, orders);
    sort_tokens(&job, symbols, tokens);
    qsi_each(run, qsi_ceil_div(symbols, SYMBOLS), embed_grad_task, &job);
fail:
    return status;
}
