/* evaluate.c - loss over the fixed windows of a text's validation part, and of its test part. */
#include "model/model.h"

#include <string.h>

/* Memory of a pass over `rows` tokens; blocks ping-pong between two residual streams and share one tape. */
typedef struct evaluation {
    qsi_arena arena;
    qsi_tape tape;
    qs_view h[2], partial, tokens;
    qsi_loss loss;
    int32_t *host_tokens, *host_targets;
    uint8_t *host_bytes;       /* [rows + 1] */
    float *host_partial;
} evaluation;

static void evaluation_free(evaluation *e)
{
    qsi_arena_free(&e->arena);
    qsi_free(e->host_tokens);
    qsi_free(e->host_targets);
    qsi_free(e->host_bytes);
    qsi_free(e->host_partial);
}

static void announce(evaluation *e, qs_context *context, const qs_model_config *c, int64_t rows)
{
    memset(e, 0, sizeof *e);
    qsi_arena_init(&e->arena, context, QS_MEMORY_ACTIVATIONS);
    qsi_tape_add(&e->arena, c, &e->tape, rows, rows);
    qsi_arena_add(&e->arena, &e->h[0], QS_F32, rows, c->dim);
    qsi_arena_add(&e->arena, &e->h[1], QS_F32, rows, c->dim);
    qsi_loss_add(&e->arena, c, &e->loss, rows);
    qsi_arena_add(&e->arena, &e->partial, QS_F32, qsi_ceil_div(rows, QS_TOKEN_CHUNK), 1);
    qsi_arena_add(&e->arena, &e->tokens, QS_I32, 1, rows);
}

/* Lists in host memory: name, entries. */
#define LISTS(X) \
    X(host_tokens, rows) \
    X(host_targets, rows) \
    X(host_bytes, rows + 1) \
    X(host_partial, e->partial.rows)

/* The caller frees it, also after a failure. */
static qs_status evaluation_create(qs_model *m, int64_t rows, evaluation *e)
{
    qs_status status = QS_OK;
    announce(e, m->context, &m->config, rows);
    QS_TRY(qsi_arena_create(&e->arena));
    qsi_tape_alias(&m->config, &e->tape);
#define ALLOCATE(list, entries) \
    if (!(e->list = qsi_alloc_array(m->context, QS_MEMORY_DATA, entries, sizeof *e->list))) \
        QS_TRY(QS_ERR_NOMEM);
    LISTS(ALLOCATE)
#undef ALLOCATE
fail:
    return status;
}

qs_status qs_model_evaluate_plan(const qs_model_config *config, int64_t batch, qs_memory_plan *plan)
{
    qs_status status = QS_OK;
    evaluation all, *const e = &all;
    qs_memory_plan bytes = {0};
    qs_model_config c = *config;
    int64_t rows = 0;
    QS_TRY(qs_model_config_resolve(&c));
    if (batch < 1 || !qsi_mul(batch, c.ctx, &rows) || rows > INT32_MAX)
        QS_FAIL(QS_ERR_ARG, "batch is %lld; it must be 1 or more, and times ctx %lld less than 2^31", (long long)batch,
                (long long)c.ctx);
    announce(e, NULL, &c, rows);
    QS_TRY(qsi_plan_arena(&bytes, &e->arena));
#define COUNT(list, entries) QS_TRY(qsi_plan_list(&bytes, QS_POOL_RAM, QS_MEMORY_DATA, entries, sizeof *e->list));
    LISTS(COUNT)
#undef COUNT
    *plan = bytes;
fail:
    return status == QS_ERR_SHAPE ? QS_ERR_ARG : status;
}

/* One window [ctx]: the sum of its token losses. Windows are summed one by one, so the batch does not matter. */
static qs_status window_loss(qs_model *m, evaluation *e, int64_t sequence, double *sum)
{
    qs_status status = QS_OK;
    const int64_t ctx = m->config.ctx, chunks = qsi_ceil_div(ctx, QS_TOKEN_CHUNK);
    const qs_view partial = qs_view_rows(e->partial, 0, chunks);
    QS_TRY(qsi_run(m->queue, qs_op_cross_entropy(qs_view_rows(e->loss.stats, sequence * ctx, ctx), partial)));
    QS_TRY(qs_read(m->queue, partial, e->host_partial));
    for (int64_t i = 0; i < chunks; i++)
        *sum += (double)e->host_partial[i];
fail:
    return status;
}

/* The `sequences` windows from token `first` of the text on. */
static qs_status batch_loss(qs_model *m, evaluation *e, qs_text *text, int64_t first, int64_t sequences, double *sum)
{
    qs_status status = QS_OK;
    const int64_t ctx = m->config.ctx, rows = sequences * ctx;
    const qsi_tape tape = qsi_tape_rows(&e->tape, 0, 0, rows);
    const qsi_place place = {.seq = ctx, .first = 0, .tkv = ctx, .keys = tape.k, .values = tape.v};
    const qsi_loss loss = qsi_loss_rows(&e->loss, rows);
    qs_view tokens = e->tokens;
    tokens.cols = rows;
    QS_TRY(qs_text_read(text, first, rows + 1, e->host_bytes));
    for (int64_t i = 0; i < rows; i++) {
        e->host_tokens[i] = e->host_bytes[i];
        e->host_targets[i] = e->host_bytes[i + 1];
    }
    QS_TRY(qs_write(m->queue, tokens, e->host_tokens));
    QS_TRY(qs_write(m->queue, loss.targets, e->host_targets));
    QS_TRY(qsi_embed(m, qs_view_rows(e->h[0], 0, rows), tokens));
    qsi_blocks_forget(m);
    QS_TRY(qsi_blocks_expect(m, 0, m->config.layers - 1));
    for (int64_t l = 0; l < m->config.layers; l++) {
        QS_TRY(qsi_block_enter(m, l));
        QS_TRY(qsi_block_forward(m, l, &tape, &place, qs_view_rows(e->h[l % 2], 0, rows), qs_view_rows(e->h[(l + 1) % 2], 0, rows)));
        QS_TRY(qsi_block_leave(m, l));
    }
    QS_TRY(qsi_loss_forward(m, &loss, qs_view_rows(e->h[m->config.layers % 2], 0, rows)));
    for (int64_t s = 0; s < sequences; s++)
        QS_TRY(window_loss(m, e, s, sum));
fail:
    return status;
}

/* Tokens first .. first + tokens - 1 of a text. */
typedef struct part {
    const char *name;          /* for messages */
    int64_t first, tokens;
} part;

static qs_status evaluate_part(qs_model *m, qs_text *text, const part *p, int64_t windows, int64_t batch, double *nats,
                               int64_t *tokens)
{
    qs_status status = QS_OK;
    evaluation e = {.host_tokens = NULL};
    const int64_t ctx = m->config.ctx;
    double sum = 0.0;
    if (m->config.vocab < 256)
        QS_FAIL(QS_ERR_SHAPE, "the model knows %lld symbols; byte text needs 256", (long long)m->config.vocab);
    const int64_t all = (p->tokens - 1) / ctx;
    if (all < 1)
        QS_FAIL(QS_ERR_SHAPE, "the %s part holds %lld tokens; one window of ctx %lld needs %lld: give more text, a larger "
                "%s share or a smaller ctx", p->name, (long long)p->tokens, (long long)ctx, (long long)(ctx + 1), p->name);
    const int64_t n = windows > 0 ? qsi_min(windows, all) : all;
    const int64_t per_pass = qsi_max(1, qsi_min(batch > 0 ? batch : 1, n));
    QS_TRY(evaluation_create(m, per_pass * ctx, &e));
    for (int64_t w = 0; w < n; w += per_pass)
        QS_TRY(batch_loss(m, &e, text, p->first + w * ctx, qsi_min(per_pass, n - w), &sum));
    *nats = sum / (double)(n * ctx);
    if (tokens)
        *tokens = n * ctx;
fail:
    evaluation_free(&e);
    return status;
}

qs_status qs_model_evaluate(qs_model *model, qs_text *text, int64_t windows, int64_t batch, double *nats, int64_t *tokens)
{
    qs_text_info info;
    qs_text_get_info(text, &info);
    const part validation = {"validation", info.train_tokens, info.val_tokens};
    return evaluate_part(model, text, &validation, windows, batch, nats, tokens);
}

qs_status qs_model_test(qs_model *model, qs_text *text, int64_t windows, int64_t batch, double *nats, int64_t *tokens)
{
    qs_text_info info;
    qs_text_get_info(text, &info);
    const part test = {"test", info.train_tokens + info.val_tokens, info.test_tokens};
    return evaluate_part(model, text, &test, windows, batch, nats, tokens);
}
