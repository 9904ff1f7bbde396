/* forward.c - the decoder forwards: embedding, one block, final norm. M tokens, D dim, A heads*head_dim, G kv_heads*head_dim, F ffn. */
#include "model/model.h"

void qsi_tape_add(qsi_arena *arena, const qs_model_config *c, qsi_tape *t, int64_t operand_rows, int64_t rows)
{
    const int64_t attention = c->heads * c->head_dim, group = c->kv_heads * c->head_dim;
    const int64_t attn_rows = c->sub_norm ? rows : operand_rows;
    qsi_arena_add(arena, &t->n1, QS_F32, operand_rows, c->dim);
    if (c->qk_norm) {
        qsi_arena_add(arena, &t->q_raw, QS_F32, rows, attention);
        qsi_arena_add(arena, &t->k_raw, QS_F32, rows, group);
    }
    qsi_arena_add(arena, &t->q, QS_F32, rows, attention);
    qsi_arena_add(arena, &t->k, QS_F32, rows, group);
    qsi_arena_add(arena, &t->v, QS_F32, rows, group);
    qsi_arena_add(arena, &t->attn, QS_F32, attn_rows, attention);
    qsi_arena_add(arena, &t->lse, QS_F32, rows, c->heads);
    qsi_arena_add(arena, &t->mid, QS_F32, rows, c->dim);
    qsi_arena_add(arena, &t->n2, QS_F32, operand_rows, c->dim);
    qsi_arena_add(arena, &t->gate, QS_F32, rows, c->ffn);
    qsi_arena_add(arena, &t->up, QS_F32, rows, c->ffn);
    qsi_arena_add(arena, &t->act, QS_F32, attn_rows, c->ffn);
    if (c->sub_norm) {
        qsi_arena_add(arena, &t->attn_norm, QS_F32, operand_rows, attention);
        qsi_arena_add(arena, &t->act_norm, QS_F32, operand_rows, c->ffn);
    }
    for (int i = 0; c->lora_rank > 0 && i < QSI_MATRICES; i++)
        qsi_arena_add(arena, &t->u[i], QS_F32, operand_rows, c->lora_rank);
}

void qsi_tape_alias(const qs_model_config *c, qsi_tape *t)
{
    if (!c->qk_norm) {
        t->q_raw = t->q;
        t->k_raw = t->k;
    }
    if (!c->sub_norm) {
        t->attn_norm = t->attn;
        t->act_norm = t->act;
    }
}

qsi_tape qsi_tape_rows(const qsi_tape *t, int64_t first, int64_t local, int64_t count)
{
    /* attn and act are operands themselves when there is no sub_norm (the same buffer offset then) */
    const bool own_attn = t->attn.offset != t->attn_norm.offset;
    const int64_t middle = own_attn ? local : first;
    qsi_tape r = {
        .n1 = qs_view_rows(t->n1, first, count),
        .q_raw = qs_view_rows(t->q_raw, local, count),
        .k_raw = qs_view_rows(t->k_raw, local, count),
        .q = qs_view_rows(t->q, local, count),
        .k = qs_view_rows(t->k, local, count),
        .v = qs_view_rows(t->v, local, count),
        .attn = qs_view_rows(t->attn, middle, count),
        .lse = qs_view_rows(t->lse, local, count),
        .attn_norm = qs_view_rows(t->attn_norm, first, count),
        .mid = qs_view_rows(t->mid, local, count),
        .n2 = qs_view_rows(t->n2, first, count),
        .gate = qs_view_rows(t->gate, local, count),
        .up = qs_view_rows(t->up, local, count),
        .act = qs_view_rows(t->act, middle, count),
        .act_norm = qs_view_rows(t->act_norm, first, count),
    };
    for (int i = 0; i < QSI_MATRICES && t->u[i].buffer; i++)
        r.u[i] = qs_view_rows(t->u[i], first, count);
    return r;
}

qs_status qsi_embed(qs_model *m, qs_view h, qs_view tokens)
{
    return qsi_run(m->queue, qs_op_embed(h, tokens, qsi_embedding(m)->view));
}

static qs_status linear(qs_model *m, int64_t block, int index, const qsi_tape *t, qs_view y, qs_view x, qs_view addend)
{
    qs_status status = QS_OK;
    const qsi_matrix *w = qsi_matrix_of(m, block, index);
    QS_TRY(qsi_run(m->queue, qs_op_with(qs_op_linear(y, x, w->weight, w->scale, addend), m->precision)));
    QS_TRY(qsi_adapter_forward(m, block, index, y, x, t->u[index]));
fail:
    return status;
}

static qs_op norm(const qs_model *m, int64_t block, int index, qs_view y, qs_view x)
{
    return qs_op_rmsnorm(y, x, qsi_float_of(m, block, index)->view, (float)m->config.norm_eps);
}

static qs_op rope(const qs_model *m, qs_view x, const qsi_place *p)
{
    return qs_op_rope(x, m->cosine, m->sine, m->config.head_dim, p->seq, p->first, 0);
}

/* n1 [M, D] -> attn_norm [M, A] */
static qs_status attention(qs_model *m, int64_t l, const qsi_tape *t, const qsi_place *p)
{
    qs_status status = QS_OK;
    QS_TRY(linear(m, l, QSI_Q, t, t->q_raw, t->n1, qs_absent()));
    QS_TRY(linear(m, l, QSI_K, t, t->k_raw, t->n1, qs_absent()));
    QS_TRY(linear(m, l, QSI_V, t, t->v, t->n1, qs_absent()));
    if (m->config.qk_norm) {
        QS_TRY(qsi_run(m->queue, norm(m, l, QSI_Q_NORM, t->q, t->q_raw)));
        QS_TRY(qsi_run(m->queue, norm(m, l, QSI_K_NORM, t->k, t->k_raw)));
    }
    QS_TRY(qsi_run(m->queue, rope(m, t->q, p)));
    QS_TRY(qsi_run(m->queue, rope(m, t->k, p)));
    QS_TRY(qsi_run(m->queue, qs_op_attention(t->attn, t->q, p->keys, p->values, t->lse, m->config.head_dim, p->seq, p->tkv)));
    if (m->config.sub_norm)
        QS_TRY(qsi_run(m->queue, norm(m, l, QSI_ATTN_SUB_NORM, t->attn_norm, t->attn)));
fail:
    return status;
}

/* n2 [M, D] -> act_norm [M, F] */
static qs_status feed_forward(qs_model *m, int64_t l, const qsi_tape *t)
{
    qs_status status = QS_OK;
    QS_TRY(linear(m, l, QSI_GATE, t, t->gate, t->n2, qs_absent()));
    QS_TRY(linear(m, l, QSI_UP, t, t->up, t->n2, qs_absent()));
    QS_TRY(qsi_run(m->queue, qs_op_swiglu(t->act, t->gate, t->up)));
    if (m->config.sub_norm)
        QS_TRY(qsi_run(m->queue, norm(m, l, QSI_FFN_SUB_NORM, t->act_norm, t->act)));
fail:
    return status;
}

qs_status qsi_block_forward(qs_model *m, int64_t l, const qsi_tape *t, const qsi_place *p, qs_view in, qs_view out)
{
    qs_status status = QS_OK;
    QS_TRY(qsi_run(m->queue, norm(m, l, QSI_INPUT_NORM, t->n1, in)));
    QS_TRY(attention(m, l, t, p));
    QS_TRY(linear(m, l, QSI_O, t, t->mid, t->attn_norm, in));
    QS_TRY(qsi_run(m->queue, norm(m, l, QSI_POST_NORM, t->n2, t->mid)));
    QS_TRY(feed_forward(m, l, t));
    QS_TRY(linear(m, l, QSI_DOWN, t, out, t->act_norm, t->mid));
fail:
    return status;
}

qs_status qsi_final_norm_forward(qs_model *m, qs_view h, qs_view normed)
{
    return qsi_run(m->queue, qs_op_rmsnorm(normed, h, qsi_final_norm(m)->view, (float)m->config.norm_eps));
}
