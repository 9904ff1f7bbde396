/* backward.c - gradients of one block, in the reverse order of forward.c. The dy operands of all matrices stay in the caller's
 * views for the visit of the weights; no weight changes here. */
#include "model/model.h"

static qs_status linear_dx(qs_model *m, int64_t block, int index, const qsi_block_grads *g, qs_view dx, qs_view dy,
                           qs_view addend)
{
    qs_status status = QS_OK;
    const qsi_matrix *w = qsi_matrix_of(m, block, index);
    QS_TRY(qsi_run(m->queue, qs_op_with(qs_op_linear_dx(dx, dy, w->weight, w->scale, addend), m->precision)));
    QS_TRY(qsi_adapter_backward(m, block, index, dx, dy, g->du[index]));
fail:
    return status;
}

static qs_op norm_grad(const qs_model *m, int64_t block, int index, qs_view dx, qs_view dy, qs_view x, qs_view addend,
                       const qsi_block_grads *g)
{
    return qs_op_rmsnorm_grad(dx, dy, x, qsi_float_of(m, block, index)->view, addend, g->gains[index], (float)m->config.norm_eps);
}

/* dout -> dgate, dup (operands) and dmid = dout + gradient through the feed-forward part */
static qs_status feed_forward(qs_model *m, int64_t l, const qsi_tape *t, const qsi_block_grads *g)
{
    qs_status status = QS_OK;
    QS_TRY(linear_dx(m, l, QSI_DOWN, g, g->dact, g->dout, qs_absent()));
    if (m->config.sub_norm)
        QS_TRY(qsi_run(m->queue, norm_grad(m, l, QSI_FFN_SUB_NORM, g->dact, g->dact, t->act, qs_absent(), g)));
    QS_TRY(qsi_run(m->queue, qs_op_swiglu_grad(g->dgate, g->dup, g->dact, t->gate, t->up)));
    QS_TRY(linear_dx(m, l, QSI_GATE, g, g->dn, g->dgate, qs_absent()));
    QS_TRY(linear_dx(m, l, QSI_UP, g, g->dn, g->dup, g->dn));
    QS_TRY(qsi_run(m->queue, norm_grad(m, l, QSI_POST_NORM, g->dmid, g->dn, t->mid, g->dout, g)));
fail:
    return status;
}

/* dmid -> dq, dk, dv: gradients of the outputs of the three matrices */
static qs_status attention(qs_model *m, int64_t l, const qsi_tape *t, const qsi_place *p, const qsi_block_grads *g)
{
    qs_status status = QS_OK;
    const int64_t hd = m->config.head_dim;
    QS_TRY(linear_dx(m, l, QSI_O, g, g->dattn, g->dmid, qs_absent()));
    if (m->config.sub_norm)
        QS_TRY(qsi_run(m->queue, norm_grad(m, l, QSI_ATTN_SUB_NORM, g->dattn, g->dattn, t->attn, qs_absent(), g)));
    QS_TRY(qsi_run(m->queue, qs_op_attention_grad(g->dq, g->dk, g->dv, g->dattn, t->q, t->k, t->v, t->attn, t->lse, hd, p->seq)));
    QS_TRY(qsi_run(m->queue, qs_op_rope(g->dq, m->cosine, m->sine, hd, p->seq, p->first, QS_FLAG_INVERSE)));
    QS_TRY(qsi_run(m->queue, qs_op_rope(g->dk, m->cosine, m->sine, hd, p->seq, p->first, QS_FLAG_INVERSE)));
    if (m->config.qk_norm) {
        QS_TRY(qsi_run(m->queue, norm_grad(m, l, QSI_Q_NORM, g->dq, g->dq, t->q_raw, qs_absent(), g)));
        QS_TRY(qsi_run(m->queue, norm_grad(m, l, QSI_K_NORM, g->dk, g->dk, t->k_raw, qs_absent(), g)));
    }
fail:
    return status;
}

qs_status qsi_block_backward(qs_model *m, int64_t l, const qsi_tape *t, const qsi_place *p, qs_view in, const qsi_block_grads *g)
{
    qs_status status = QS_OK;
    QS_TRY(feed_forward(m, l, t, g));
    QS_TRY(attention(m, l, t, p, g));
    QS_TRY(linear_dx(m, l, QSI_Q, g, g->dn, g->dq, qs_absent()));
    QS_TRY(linear_dx(m, l, QSI_K, g, g->dn, g->dk, g->dn));
    QS_TRY(linear_dx(m, l, QSI_V, g, g->dn, g->dv, g->dn));
    QS_TRY(qsi_run(m->queue, norm_grad(m, l, QSI_INPUT_NORM, g->din, g->dn, in, g->dmid, g)));
fail:
    return status;
}
