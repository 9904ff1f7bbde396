/* session.c - one timeline of tokens with its KV cache: prefill, decode, generation. */
#include "model/model.h"

#include <string.h>

enum { PIECE = 64 };   /* tokens evaluated at a time; the bytes do not depend on it */

struct qs_session {
    qs_model *model;
    qsi_arena cache_arena, arena;
    qs_view *keys, *values;    /* [layers] of [capacity, kv_heads * head_dim] */
    qsi_tape tape;             /* PIECE rows; its k and v are unused */
    qs_view h[2], normed, logits, tokens;
    float *host_logits;
    int64_t capacity, position;
};

static qs_status allocate(qs_session *s)
{
    qs_status status = QS_OK;
    const qs_model_config *c = &s->model->config;
    qs_context *context = s->model->context;
    s->keys = qsi_alloc_array(context, QS_MEMORY_OTHER, c->layers, sizeof *s->keys);
    s->values = qsi_alloc_array(context, QS_MEMORY_OTHER, c->layers, sizeof *s->values);
    s->host_logits = qsi_alloc_array(context, QS_MEMORY_OTHER, c->vocab, sizeof *s->host_logits);
    if (!s->keys || !s->values || !s->host_logits)
        return QS_ERR_NOMEM;
    for (int64_t l = 0; l < c->layers; l++) {
        qsi_arena_add(&s->cache_arena, &s->keys[l], QS_F32, s->capacity, c->kv_heads * c->head_dim);
        qsi_arena_add(&s->cache_arena, &s->values[l], QS_F32, s->capacity, c->kv_heads * c->head_dim);
    }
    QS_TRY(qsi_arena_create(&s->cache_arena));
    qsi_tape_add(&s->arena, c, &s->tape, PIECE, PIECE);
    qsi_arena_add(&s->arena, &s->h[0], QS_F32, PIECE, c->dim);
    qsi_arena_add(&s->arena, &s->h[1], QS_F32, PIECE, c->dim);
    qsi_arena_add(&s->arena, &s->normed, QS_F32, 1, c->dim);
    qsi_arena_add(&s->arena, &s->logits, QS_F32, 1, c->vocab);
    qsi_arena_add(&s->arena, &s->tokens, QS_I32, 1, PIECE);
    QS_TRY(qsi_arena_create(&s->arena));
    qsi_tape_alias(c, &s->tape);
    QS_TRY(qsi_model_positions(s->model, s->capacity));
fail:
    return status;
}

qs_status qs_session_create(qs_model *model, int64_t context_tokens, qs_session **out)
{
    qs_status status = QS_OK;
    qs_session *s = NULL;
    if (context_tokens < 0 || context_tokens > 1 << 20)
        QS_FAIL(QS_ERR_ARG, "context of %lld tokens; it must lie in 1..1048576 (0: the model's)", (long long)context_tokens);
    s = qsi_alloc(model->context, QS_MEMORY_OTHER, sizeof *s);
    if (!s) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    s->model = model;
    s->capacity = context_tokens ? context_tokens : model->config.ctx;
    qsi_arena_init(&s->cache_arena, model->context, QS_MEMORY_KV_CACHE);
    qsi_arena_init(&s->arena, model->context, QS_MEMORY_ACTIVATIONS);
    QS_TRY(allocate(s));
    *out = s;
    s = NULL;
fail:
    qs_session_free(&s);
    return status;
}

void qs_session_free(qs_session **session)
{
    if (!session || !*session)
        return;
    qs_session *s = *session;
    qsi_arena_free(&s->cache_arena);
    qsi_arena_free(&s->arena);
    qsi_free(s->keys);
    qsi_free(s->values);
    qsi_free(s->host_logits);
    qsi_free(s);
    *session = NULL;
}

int64_t qs_session_position(const qs_session *session) { return session->position; }

void qs_session_reset(qs_session *session) { session->position = 0; }

/* n <= PIECE tokens at the current position; the last token's residual stream ends in *last [1, dim]. */
static qs_status advance(qs_session *s, const int32_t *tokens, int64_t n, qs_view *last)
{
    qs_status status = QS_OK;
    qs_model *m = s->model;
    qs_view ids = s->tokens;
    qsi_tape tape = qsi_tape_rows(&s->tape, 0, 0, n);
    ids.cols = n;
    QS_TRY(qs_write(m->queue, ids, tokens));
    QS_TRY(qsi_embed(m, qs_view_rows(s->h[0], 0, n), ids));
    qsi_blocks_forget(m);
    QS_TRY(qsi_blocks_expect(m, 0, m->config.layers - 1));
    for (int64_t l = 0; l < m->config.layers; l++) {
        const qsi_place place = {.seq = n, .first = s->position, .tkv = s->position + n,
                                 .keys = qs_view_rows(s->keys[l], 0, s->position + n),
                                 .values = qs_view_rows(s->values[l], 0, s->position + n)};
        tape.k = qs_view_rows(s->keys[l], s->position, n);
        tape.v = qs_view_rows(s->values[l], s->position, n);
        if (!m->config.qk_norm)
            tape.k_raw = tape.k;
        QS_TRY(qsi_block_enter(m, l));
        QS_TRY(qsi_block_forward(m, l, &tape, &place, qs_view_rows(s->h[l % 2], 0, n), qs_view_rows(s->h[(l + 1) % 2], 0, n)));
        QS_TRY(qsi_block_leave(m, l));
    }
    s->position += n;
    *last = qs_view_rows(s->h[m->config.layers % 2], n - 1, 1);
fail:
    return status;
}

qs_status qs_session_eval(qs_session *s, const int32_t *tokens, int64_t n, float *logits)
{
    qs_status status = QS_OK;
    qs_view last = qs_absent();
    if (n < 1 || n > s->capacity - s->position)
        QS_FAIL(QS_ERR_ARG, "%lld tokens do not fit: the context holds %lld of %lld", (long long)n, (long long)s->position,
                (long long)s->capacity);
    for (int64_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= s->model->config.vocab)
            QS_FAIL(QS_ERR_ARG, "token %d at %lld is outside 0..%lld", (int)tokens[i], (long long)i,
                    (long long)s->model->config.vocab - 1);
    for (int64_t i = 0; i < n; i += PIECE)
        QS_TRY(advance(s, tokens + i, qsi_min(PIECE, n - i), &last));
    if (logits) {
        QS_TRY(qsi_final_norm_forward(s->model, last, s->normed));
        QS_TRY(qsi_run(s->model->queue, qs_op_linear(s->logits, s->normed, qsi_head(s->model)->view, qs_absent(), qs_absent())));
        QS_TRY(qs_read(s->model->queue, s->logits, logits));
    }
fail:
    return status;
}

/* The context is full: keeps the newer half of the history [length] and evaluates it anew. */
static qs_status shift(qs_session *s, int32_t *history, int64_t *length)
{
    qs_status status = QS_OK;
    const int64_t keep = qsi_max(1, s->capacity / 2);
    memmove(history, history + *length - keep, (size_t)keep * sizeof *history);
    *length = keep;
    qs_session_reset(s);
    QS_TRY(qs_session_eval(s, history, keep, s->host_logits));
fail:
    return status;
}

qs_status qs_generate(qs_session *s, const int32_t *prompt, int64_t n_prompt, int64_t n, const qs_sampling *sampling,
                      qs_token_fn *fn, void *user)
{
    qs_status status = QS_OK;
    int32_t *history = NULL;
    int64_t length = 0;
    if (n_prompt < 1 || n < 0 || n > INT32_MAX)
        QS_FAIL(QS_ERR_ARG, "generation needs a prompt of at least one token and 0..2147483647 tokens to write");
    /* a prompt longer than the context: its newest part */
    const int64_t used = qsi_min(n_prompt, qsi_max(1, s->capacity - 1));
    history = qsi_alloc_array(s->model->context, QS_MEMORY_OTHER, s->capacity, sizeof *history);
    if (!history) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    memcpy(history, prompt + n_prompt - used, (size_t)used * sizeof *history);
    length = used;
    qs_session_reset(s);
    QS_TRY(qs_session_eval(s, history, length, s->host_logits));
    for (int64_t i = 0; i < n; i++) {
        int32_t token = 0;
        QS_TRY(qs_sample(s->host_logits, s->model->config.vocab, sampling, (uint32_t)i, &token));
        if (fn(user, token))
            QS_FAIL(QS_ERR_CANCELLED, "generation was stopped after %lld tokens", (long long)(i + 1));
        if (i + 1 == n)
            break;
        if (length == s->capacity)
            QS_TRY(shift(s, history, &length));
        history[length++] = token;
        QS_TRY(qs_session_eval(s, &token, 1, s->host_logits));
    }
fail:
    qsi_free(history);
    return status;
}
