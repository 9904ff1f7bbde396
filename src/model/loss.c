/* loss.c - head and loss, a block of symbols at a time: the logits of a large vocabulary never exist all at once.
 *
 * The forward pass keeps three numbers a token, the backward pass computes logits again where they are gone. It goes from the
 * last block to the first, because the logits of the last one are still there: a vocabulary of one block computes nothing twice. */
#include "model/model.h"

void qsi_loss_add(qsi_arena *arena, const qs_model_config *c, qsi_loss *l, int64_t rows)
{
    qsi_arena_add(arena, &l->normed, QS_F32, rows, c->dim);
    qsi_arena_add(arena, &l->logits, QS_F32, rows, qsi_min(c->vocab, QSI_LOSS_BLOCK));
    qsi_arena_add(arena, &l->stats, QS_F32, rows, 3);
    qsi_arena_add(arena, &l->targets, QS_I32, 1, rows);
}

qsi_loss qsi_loss_rows(const qsi_loss *l, int64_t count)
{
    qsi_loss r = {.normed = qs_view_rows(l->normed, 0, count), .logits = qs_view_rows(l->logits, 0, count),
                  .stats = qs_view_rows(l->stats, 0, count), .targets = l->targets};
    r.targets.cols = count;
    return r;
}

/* Symbols first .. first + n - 1: their rows of the head or of its gradient, their logits. */
typedef struct block {
    int64_t first, n;
    qs_view logits;
} block;

static block block_of(const qs_model *m, const qsi_loss *l, int64_t first)
{
    block b = {first, qsi_min(QSI_LOSS_BLOCK, m->config.vocab - first), l->logits};
    b.logits.cols = b.n;
    return b;
}

static qs_status block_forward(qs_model *m, const qsi_loss *l, const block *b)
{
    return qsi_run(m->queue, qs_op_linear(b->logits, l->normed, qs_view_rows(qsi_head(m)->view, b->first, b->n), qs_absent(),
                                          qs_absent()));
}

qs_status qsi_loss_forward(qs_model *m, const qsi_loss *l, qs_view h)
{
    qs_status status = QS_OK;
    QS_TRY(qsi_final_norm_forward(m, h, l->normed));
    for (int64_t first = 0; first < m->config.vocab; first += QSI_LOSS_BLOCK) {
        const block b = block_of(m, l, first);
        QS_TRY(block_forward(m, l, &b));
        QS_TRY(qsi_run(m->queue, qs_op_softmax_stats(l->stats, b.logits, l->targets, first, first ? QS_FLAG_ADD : 0)));
    }
fail:
    return status;
}

qs_status qsi_loss_backward(qs_model *m, const qsi_loss *l, qs_view dhead, qs_view dnormed, float factor)
{
    qs_status status = QS_OK;
    const int64_t last = (m->config.vocab - 1) / QSI_LOSS_BLOCK * QSI_LOSS_BLOCK;
    for (int64_t first = last; first >= 0; first -= QSI_LOSS_BLOCK) {
        const block b = block_of(m, l, first);
        const qs_view head = qs_view_rows(qsi_head(m)->view, first, b.n), rows = qs_view_rows(dhead, first, b.n);
        const qs_view above = first < last ? dnormed : qs_absent();   /* what the blocks above gave */
        if (first < last)
            QS_TRY(block_forward(m, l, &b));
        QS_TRY(qsi_run(m->queue, qs_op_cross_entropy_grad(b.logits, l->stats, l->targets, first, factor)));
        QS_TRY(qsi_run(m->queue, qs_op_linear_dw(rows, b.logits, l->normed)));
        QS_TRY(qsi_run(m->queue, qs_op_linear_dx(dnormed, b.logits, head, qs_absent(), above)));
    }
fail:
    return status;
}
