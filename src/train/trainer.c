/* trainer.c - the training step, layer-major: forward over blocks, backward over blocks, each block's matrices visited once all
 * gradients through the block exist. */
#include <math.h>
#include <string.h>
#include "core/in_place.h"
#include "train/train.h"

qs_status qsi_trainer_check(qs_trainer *t, const qs_model_config *c)
{
    qs_status status = QS_OK;
    qs_cursor probe = {0, 0};
    int64_t start = 0;
    QS_TRY(qs_train_options_resolve(&t->options, c));
    if (c->vocab < 256)
        QS_FAIL(QS_ERR_SHAPE, "vocab is %lld; byte text needs 256", (long long)c->vocab);
    QS_TRY(qs_text_next_window(t->text, c->ctx, t->options.seed, &probe, &start));
    QS_TRY(qsi_trainer_rows(t, c->ctx));
fail:
    return status;
}

qs_status qsi_trainer_begin(qs_trainer *t)
{
    qs_status status = QS_OK;
    QS_TRY(qs_model_set_precision(t->model, t->options.precision));
    QS_TRY(qsi_trainer_buffers(t));
    QS_TRY(qsi_trainer_init_state(t));
fail:
    return status;
}

qs_status qs_trainer_create(qs_context *context, const qs_model_config *config, const qs_train_options *options,
                            qs_text *text, qs_trainer **out)
{
    qs_status status = QS_OK;
    qs_model_config c = *config;
    qs_trainer *t = qsi_alloc(context, QS_MEMORY_OTHER, sizeof *t);
    if (!t)
        return QS_ERR_NOMEM;
    t->context = context;
    t->text = text;
    t->options = *options;
    t->lock = -1;
    qsi_train_config(options, &c);
    QS_TRY(qs_model_config_resolve(&c));
    QS_TRY(qsi_trainer_check(t, &c));
    QS_TRY(qs_model_create(context, &c, t->options.seed, &t->model));
    QS_TRY(qsi_trainer_begin(t));
    *out = t;
    t = NULL;
fail:
    qs_trainer_free(&t);
    return status;
}

void qs_trainer_free(qs_trainer **trainer)
{
    if (!trainer || !*trainer)
        return;
    qsi_trainer_buffers_free(*trainer);
    qs_model_free(&(*trainer)->model);
    qsi_lock_release(&(*trainer)->lock);
    qsi_free(*trainer);
    *trainer = NULL;
}

int64_t qs_trainer_position(const qs_trainer *trainer) { return trainer->step; }

qs_model *qs_trainer_model(qs_trainer *trainer) { return trainer->model; }

const qs_train_options *qs_trainer_options(const qs_trainer *trainer) { return &trainer->options; }

/* ---- pieces of a step ------------------------------------------------------------------------------------------ */

/* Rows of a partial-sum tensor that belong to tokens first .. first+count-1. */
static qs_view chunk_rows(qs_view partial, int64_t first, int64_t count)
{
    return partial.buffer ? qs_view_rows(partial, first / QS_TOKEN_CHUNK, qsi_ceil_div(count, QS_TOKEN_CHUNK)) : partial;
}

static qs_status load_batch(qs_trainer *t, qs_cursor *cursor)
{
    qs_status status = QS_OK;
    const int64_t ctx = t->model->config.ctx;
    int32_t *targets = t->host_tokens + t->rows;
    for (int64_t s = 0; s < t->options.batch; s++) {
        int64_t start = 0;
        QS_TRY(qs_text_next_window(t->text, ctx, t->options.seed, cursor, &start));
        QS_TRY(qs_text_read(t->text, start, ctx + 1, t->host_window));
        for (int64_t i = 0; i < ctx; i++) {
            t->host_tokens[s * ctx + i] = t->host_window[i];
            targets[s * ctx + i] = t->host_window[i + 1];
        }
    }
    QS_TRY(qs_write(t->model->queue, t->tokens, t->host_tokens));
    QS_TRY(qs_write(t->model->queue, t->loss.targets, targets));
fail:
    return status;
}

/* One block over one micro-batch; the tape either holds all tokens of the step or, recomputed, one micro-batch. */
typedef struct piece {
    int64_t first, count;
    qsi_tape tape;
    qsi_place place;
} piece;

static piece piece_of(const qs_trainer *t, int64_t block, int64_t first)
{
    const int64_t ctx = t->model->config.ctx;
    piece p = {.first = first, .count = qsi_min(t->micro_rows, t->rows - first)};
    p.tape = qsi_tape_rows(&t->tapes[t->options.recompute ? 0 : block], first, t->options.recompute ? 0 : first, p.count);
    p.place = (qsi_place){.seq = ctx, .first = 0, .tkv = ctx, .keys = p.tape.k, .values = p.tape.v};
    return p;
}

static qs_status run_forward(qs_trainer *t, int64_t block, const piece *p)
{
    return qsi_block_forward(t->model, block, &p->tape, &p->place, qs_view_rows(t->h[block], p->first, p->count),
                             qs_view_rows(t->h[block + 1], p->first, p->count));
}

/* What one token counts in the mean loss. */
static float share_of(const qs_trainer *t) { return (float)(1.0 / (double)t->rows); }

static qs_status forward(qs_trainer *t, double *loss)
{
    qs_status status = QS_OK;
    qs_model *m = t->model;
    float value = 0.0f;
    QS_TRY(qsi_embed(m, t->h[0], t->tokens));
    for (int64_t l = 0; l < m->config.layers; l++) {
        QS_TRY(qsi_block_enter(m, l));
        for (int64_t first = 0; first < t->rows; first += t->micro_rows) {
            const piece p = piece_of(t, l, first);
            QS_TRY(run_forward(t, l, &p));
        }
        QS_TRY(qsi_block_leave(m, l));
    }
    QS_TRY(qsi_loss_forward(m, &t->loss, t->h[m->config.layers]));
    const qs_view partial = qs_view_at(t->partial.buffer, t->partial.offset, QS_F32, t->partial.rows, 1);  /* one sum a chunk */
    QS_TRY(qsi_run(m->queue, qs_op_cross_entropy(t->loss.stats, partial)));
    QS_TRY(qsi_run(m->queue, qs_op_chunk_sum(t->mean_loss, partial, share_of(t))));
    QS_TRY(qs_read(m->queue, t->mean_loss, &value));
    *loss = (double)value;
fail:
    return status;
}

/* Gives the gradients of head and final norm, and of the last residual stream. */
static qs_status head_backward(qs_trainer *t)
{
    qs_status status = QS_OK;
    qs_model *m = t->model;
    const int64_t head = qsi_head(m) - m->floats, final_norm = qsi_final_norm(m) - m->floats;
    const qs_view dout = t->grads.dout;
    QS_TRY(qsi_loss_backward(m, &t->loss, t->floats[head].grad, dout, share_of(t)));
    QS_TRY(qsi_run(m->queue, qs_op_rmsnorm_grad(dout, dout, t->h[m->config.layers], qsi_final_norm(m)->view, qs_absent(),
                                                t->partial, (float)m->config.norm_eps)));
    QS_TRY(qsi_run(m->queue, qs_op_chunk_sum(t->floats[final_norm].grad, t->partial, 1.0f)));
fail:
    return status;
}

static qsi_block_grads grads_rows(const qsi_block_grads *g, int64_t first, int64_t n)
{
    qsi_block_grads r = {
        .dout = qs_view_rows(g->dout, first, n), .din = qs_view_rows(g->din, first, n),
        .dmid = qs_view_rows(g->dmid, first, n), .dq = qs_view_rows(g->dq, first, n),
        .dk = qs_view_rows(g->dk, first, n),     .dv = qs_view_rows(g->dv, first, n),
        .dgate = qs_view_rows(g->dgate, first, n), .dup = qs_view_rows(g->dup, first, n),
        .dn = qs_view_rows(g->dn, 0, n),         .dattn = qs_view_rows(g->dattn, 0, n),
        .dact = qs_view_rows(g->dact, 0, n),
    };
    for (int i = 0; i < QSI_BLOCK_FLOATS; i++)
        r.gains[i] = chunk_rows(g->gains[i], first, n);
    for (int i = 0; i < QSI_MATRICES && g->du[i].buffer; i++)
        r.du[i] = qs_view_rows(g->du[i], first, n);
    return r;
}

static qs_status block_backward(qs_trainer *t, int64_t block)
{
    qs_status status = QS_OK;
    for (int64_t first = 0; first < t->rows; first += t->micro_rows) {
        const piece p = piece_of(t, block, first);
        const qsi_block_grads g = grads_rows(&t->grads, first, p.count);
        if (t->options.recompute)
            QS_TRY(run_forward(t, block, &p));
        QS_TRY(qsi_block_backward(t->model, block, &p.tape, &p.place, qs_view_rows(t->h[block], first, p.count), &g));
    }
    for (int i = 0; i < QSI_BLOCK_FLOATS; i++) {
        const qsi_adam *a = &t->floats[1 + block * QSI_BLOCK_FLOATS + i];
        if (a->grad.buffer)
            QS_TRY(qsi_run(t->model->queue, qs_op_chunk_sum(a->grad, t->grads.gains[i], 1.0f)));
    }
fail:
    return status;
}

/* The visits: every matrix with the dy and x of all tokens of the step. */
static qs_status block_update(qs_trainer *t, int64_t block, const qsi_rates *rates)
{
    qs_status status = QS_OK;
    const qsi_tape *tape = &t->tapes[t->options.recompute ? 0 : block];
    const qsi_block_grads *g = &t->grads;
    const qs_view operands[QSI_MATRICES][2] = {
        [QSI_Q] = {g->dq, tape->n1},         [QSI_K] = {g->dk, tape->n1},       [QSI_V] = {g->dv, tape->n1},
        [QSI_O] = {g->dmid, tape->attn_norm}, [QSI_GATE] = {g->dgate, tape->n2}, [QSI_UP] = {g->dup, tape->n2},
        [QSI_DOWN] = {g->dout, tape->act_norm},
    };
    for (int i = 0; i < QSI_MATRICES; i++) {
        QS_TRY(qsi_update_matrix(t, block * QSI_MATRICES + i, operands[i][0], operands[i][1], rates));
        QS_TRY(qsi_lora_gradients(t, block * QSI_MATRICES + i, operands[i][0], operands[i][1], tape->u[i]));
    }
fail:
    return status;
}

static qs_status backward(qs_trainer *t, const qsi_rates *rates)
{
    qs_status status = QS_OK;
    qsi_block_grads *g = &t->grads;
    g->dout = t->stream_grads[0];
    g->dmid = t->stream_grads[1];
    g->din = t->stream_grads[2];
    QS_TRY(head_backward(t));
    for (int64_t l = t->model->config.layers - 1; l >= t->lowest; l--) {
        QS_TRY(qsi_block_enter(t->model, l));
        QS_TRY(block_backward(t, l));
        QS_TRY(block_update(t, l, rates));
        QS_TRY(qsi_block_leave(t->model, l));
        const qs_view free_view = g->dmid;
        g->dmid = g->dout;
        g->dout = g->din;
        g->din = free_view;
    }
    if (t->lowest == 0)
        QS_TRY(qsi_run(t->model->queue, qs_op_embed_grad(t->floats[0].grad, t->tokens, g->dout,
                                                          t->model->config.tied ? QS_FLAG_ADD : 0)));
    QS_TRY(qsi_update_floats(t, rates));
fail:
    return status;
}

/* Share of pulses among the active weights and of flips among all, of the arms whose signs move. */
static qs_status read_counts(qs_trainer *t, qs_step_info *info)
{
    qs_status status = QS_OK;
    const int64_t n = qsi_matrix_count(t->model);
    int64_t pulses = 0, flips = 0, weights = 0, active = 0;
    if (!qsi_signs_move(&t->options))
        return QS_OK;
    QS_TRY(qs_read(t->model->queue, t->visit.counts, t->host_counts));
    for (int64_t i = 0; i < n; i++) {
        const int64_t rows = t->matrices[i].active.count;
        active += rows * t->model->matrices[i].cols;
        weights += t->model->matrices[i].rows * t->model->matrices[i].cols;
        if (rows == 0)
            continue;
        pulses += t->host_counts[4 * i];
        flips += t->host_counts[4 * i + 1];
    }
    info->pulses = (double)pulses / (double)active;
    info->flips = (double)flips / (double)weights;
fail:
    return status;
}

/* The order of blocks in a step, as far as it is known: in the first step of a phase, entered after the forward pass, only that. */
static qs_status expect_blocks(qs_trainer *t)
{
    qs_status status = QS_OK;
    const int64_t top = t->model->config.layers - 1;
    qsi_blocks_forget(t->model);
    QS_TRY(qsi_blocks_expect(t->model, 0, top));
    if (qsi_phase_covers(t, t->step))
        QS_TRY(qsi_blocks_expect(t->model, top, t->lowest));
fail:
    return status;
}

static qs_status enter_phase(qs_trainer *t)
{
    qs_status status = QS_OK;
    if (qsi_phase_covers(t, t->step))
        return QS_OK;
    QS_TRY(qsi_phase_enter(t, t->step));
    QS_TRY(qsi_blocks_expect(t->model, t->model->config.layers - 1, t->lowest));
fail:
    return status;
}

qs_status qs_trainer_step(qs_trainer *t, qs_step_info *info)
{
    qs_status status = QS_OK;
    qs_cursor cursor = t->cursor;
    qsi_rates rates;
    qs_step_info result = {.step = t->step + 1};
    if (t->step >= t->options.steps)
        QS_FAIL(QS_ERR_ARG, "all %lld steps of this run are done", (long long)t->options.steps);
    QS_TRY(qsi_trainer_check_started(t));
    QS_TRY(qs_trainer_merge(t));
    qsi_rates_at(&t->options, t->step, &rates);
    QS_TRY(load_batch(t, &cursor));
    QS_TRY(expect_blocks(t));
    QS_TRY(forward(t, &result.loss));
    if (!isfinite(result.loss))
        QS_FAIL(QS_ERR_NONFINITE, "the loss of step %lld is %g; lower the learning rates (now lr %g, scale_lr %g)",
                (long long)t->step + 1, result.loss, t->options.lr, t->options.scale_lr);
    QS_TRY(enter_phase(t));   /* not before: after NONFINITE the levels are those of the last step */
    qsi_health_begin(t);
    QS_TRY(backward(t, &rates));
    QS_TRY(read_counts(t, &result));
    result.density = t->options.optimizer == QS_OPTIMIZER_FSM && t->options.fsm != QS_FSM_C8 ? rates.density : 0.0;
    QS_TRY(qsi_health_end(t, result.density));
    QS_TRY(qs_sync(t->model->queue));
    t->cursor = cursor;
    t->step++;
    result.tokens = t->step * t->rows;
    result.lr = rates.lr;
    *info = result;
fail:
    return status;
}
