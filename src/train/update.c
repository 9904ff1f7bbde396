/* update.c - what happens to one matrix in a step, per optimizer, and to the float parameters at its end. */
#include "train/train.h"

/* Vectors and matrices over the first part of a shared scratch. */
static qs_view vector(qs_view scratch, int64_t n)
{
    scratch.cols = n;
    scratch.row_bytes = qs_row_bytes((qs_format)scratch.format, n);
    return scratch;
}

static qs_view matrix(qs_view scratch, int64_t rows, int64_t cols)
{
    return qs_view_at(scratch.buffer, scratch.offset, (qs_format)scratch.format, rows, cols);
}

static qs_adamw adamw(double lr, double weight_decay, const qsi_rates *r)
{
    return (qs_adamw){.lr = (float)lr, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = (float)weight_decay,
                      .c1 = r->c1, .c2 = r->c2};
}

/* The visit of the active rows with everything that does not depend on the recipe. */
static qs_fsm_visit visit_of(qs_trainer *t, int64_t index, const qsi_rates *r)
{
    const qsi_matrix *x = &t->model->matrices[index];
    const qsi_visit_scratch *s = &t->visit;
    const qsi_matrix_state *m = &t->matrices[index];
    return (qs_fsm_visit){
        .w = m->weight,
        .state = m->levels,
        .scale = m->half,
        .a = vector(s->a, m->active.count),
        .b = vector(s->b, x->cols),
        .theta = s->theta,
        .r_now = vector(s->r_now, m->active.count),
        .c_now = vector(s->c_now, x->cols),
        .dmaster = m->scale.grad,
        .counts = qs_view_rows(s->counts, index, 1),
        .sample = m->record,
        .anchor = m->anchor,
        .first_row = m->active.first,
        .whole_rows = x->rows,
        .fsm = t->options.fsm,
        .sticky = t->options.sticky,
        .seed = t->options.seed,
        .step = (uint32_t)t->step,
        .tensor = x->id,
        .base = x->base,
        .amplitude = r->amplitude,
        .pull = r->pull,
    };
}

static qs_op threshold(qs_trainer *t, int64_t index, const qs_fsm_visit *u, const qsi_rates *r)
{
    const qsi_matrix_state *m = &t->matrices[index];
    return qs_op_fsm_threshold(u->a, u->b, u->theta, m->row_moment, m->column_moment, m->control, r->z0);
}

static qs_op statistics(qs_trainer *t, int64_t index, const qs_fsm_visit *u, const qsi_rates *r)
{
    const qsi_matrix_state *m = &t->matrices[index];
    const qsi_matrix *x = &t->model->matrices[index];
    return qs_op_fsm_statistics(m->row_moment, m->column_moment, m->control, u->r_now, u->c_now, u->counts,
                                r->beta, (float)r->density, r->slope, m->active.count * x->cols, r->first ? QS_FLAG_FIRST : 0);
}

/* One visit: statistics of the steps before decide this one. */
static qs_status fsm_lagged(qs_trainer *t, int64_t index, qs_view dy, qs_view x, const qsi_rates *r)
{
    qs_status status = QS_OK;
    qs_queue *queue = t->model->queue;
    qs_fsm_visit u = visit_of(t, index, r);
    u.dy = dy;
    u.x = x;
    if (r->first)
        u.flags = QS_FLAG_MEASURE;
    else
        QS_TRY(qsi_run(queue, threshold(t, index, &u, r)));
    QS_TRY(qsi_run(queue, qs_op_with(qs_op_fsm_visit(&u), t->model->precision)));
    QS_TRY(qsi_run(queue, statistics(t, index, &u, r)));
fail:
    return status;
}

static int64_t pulses_wanted(qs_view w, double density) { return (int64_t)(density * (double)(w.rows * w.cols)); }

/* Two visits of a dense gradient: this step's statistics and quantile decide it. */
static qs_status fsm_exact(qs_trainer *t, int64_t index, qs_view dy, qs_view x, const qsi_rates *r)
{
    qs_status status = QS_OK;
    qs_queue *queue = t->model->queue;
    const qsi_matrix *m = &t->model->matrices[index];
    qs_fsm_visit u = visit_of(t, index, r);
    u.dgrad = matrix(t->visit.dgrad, u.w.rows, m->cols);
    u.flags = QS_FLAG_MEASURE;
    QS_TRY(qsi_run(queue, qs_op_with(qs_op_linear_dw(u.dgrad, dy, x), t->model->precision)));
    QS_TRY(qsi_run(queue, qs_op_fsm_visit(&u)));
    QS_TRY(qsi_run(queue, statistics(t, index, &u, r)));
    QS_TRY(qsi_run(queue, threshold(t, index, &u, r)));
    QS_TRY(qsi_run(queue, qs_op_fsm_quantile(u.theta, u.dgrad, u.scale, u.a, u.b, pulses_wanted(u.w, r->density))));
    u.flags = 0;
    QS_TRY(qsi_run(queue, qs_op_fsm_visit(&u)));
fail:
    return status;
}

/* The method as published: the raw gradient's largest 2% become a T2 tensor in memory, then the rule reads it. */
static qs_status fsm_literal(qs_trainer *t, int64_t index, qs_view dy, qs_view x, const qsi_rates *r)
{
    qs_status status = QS_OK;
    qs_queue *queue = t->model->queue;
    const qsi_matrix *m = &t->model->matrices[index];
    qs_fsm_visit u = visit_of(t, index, r);
    u.dgrad = matrix(t->visit.dgrad, u.w.rows, m->cols);
    u.pulses = matrix(t->visit.pulses, u.w.rows, m->cols);
    u.a = u.b = qs_absent();
    QS_TRY(qsi_run(queue, qs_op_with(qs_op_linear_dw(u.dgrad, dy, x), t->model->precision)));
    QS_TRY(qsi_run(queue, qs_op_fsm_quantile(u.theta, u.dgrad, u.scale, u.a, u.b, pulses_wanted(u.w, r->density))));
    QS_TRY(qsi_run(queue, qs_op_fsm_visit(&u)));
    QS_TRY(qsi_run(queue, qs_op_fsm_rule(&u)));
fail:
    return status;
}

/* Only the scales' gradient; the signs stay. */
static qs_status frozen(qs_trainer *t, int64_t index, qs_view dy, qs_view x, const qsi_rates *r)
{
    qs_fsm_visit u = visit_of(t, index, r);
    u.dy = dy;
    u.x = x;
    u.flags = QS_FLAG_MEASURE;
    return qsi_run(t->model->queue, qs_op_with(qs_op_fsm_visit(&u), t->model->precision));
}

/* The dense gradient of an arm that needs one, and from it that of the row scales where there are some. */
static qs_status dense_gradient(qs_trainer *t, int64_t index, qs_view dy, qs_view x, qs_view *dgrad)
{
    qs_status status = QS_OK;
    const qsi_matrix *m = &t->model->matrices[index];
    const qs_view dmaster = t->matrices[index].scale.grad;
    *dgrad = matrix(t->visit.dgrad, m->rows, m->cols);
    QS_TRY(qsi_run(t->model->queue, qs_op_with(qs_op_linear_dw(*dgrad, dy, x), t->model->precision)));
    if (dmaster.buffer)
        QS_TRY(qsi_run(t->model->queue, qs_op_scale_grad(dmaster, m->weight, *dgrad, m->base)));
fail:
    return status;
}

/* Straight-through: the gradient with respect to the sign moves the latent, whose sign is the weight (Courbariaux et al.). */
static qs_status straight_through(qs_trainer *t, int64_t index, qs_view dy, qs_view x, const qsi_rates *r)
{
    qs_status status = QS_OK;
    qs_queue *queue = t->model->queue;
    const qsi_matrix *m = &t->model->matrices[index];
    const qsi_matrix_state *s = &t->matrices[index];
    qs_view dgrad;
    QS_TRY(dense_gradient(t, index, dy, x, &dgrad));
    QS_TRY(qsi_run(queue, qs_op_adamw(s->latent, dgrad, s->m, s->v, qs_absent(), m->scale,
                                      adamw(r->matrix_lr, t->options.weight_decay, r))));
    QS_TRY(qsi_run(queue, qs_op_binarize(m->weight, s->latent, qs_view_rows(t->visit.counts, index, 1), s->record, 0, m->rows)));
fail:
    return status;
}

/* No latents: a sign flips once the moving average of its normalized gradient stands far enough against it (Helwegen et al.). */
static qs_status bop(qs_trainer *t, int64_t index, qs_view dy, qs_view x, const qsi_rates *r)
{
    qs_status status = QS_OK;
    const qsi_matrix *m = &t->model->matrices[index];
    const qsi_matrix_state *s = &t->matrices[index];
    qs_view dgrad;
    QS_TRY(dense_gradient(t, index, dy, x, &dgrad));
    QS_TRY(qsi_run(t->model->queue,
                   qs_op_bop(m->weight, s->average, dgrad, m->scale, qs_view_rows(t->visit.counts, index, 1), s->record,
                             (float)r->matrix_lr, qsi_bop_threshold, 0, m->rows)));
fail:
    return status;
}

static qs_status dense(qs_trainer *t, int64_t index, qs_view dy, qs_view x, const qsi_rates *r)
{
    qs_status status = QS_OK;
    const qsi_matrix_state *s = &t->matrices[index];
    qs_view dgrad;
    QS_TRY(dense_gradient(t, index, dy, x, &dgrad));
    QS_TRY(qsi_run(t->model->queue, qs_op_adamw(t->model->matrices[index].weight, dgrad, s->m, s->v, qs_absent(), qs_absent(),
                                                adamw(r->matrix_lr, t->options.weight_decay, r))));
fail:
    return status;
}

static qs_status update(qs_trainer *t, int64_t index, qs_view dy, qs_view x, const qsi_rates *r)
{
    switch (t->options.optimizer) {
    case QS_OPTIMIZER_LORA:   /* adapters are updated with the floats */
    case QS_OPTIMIZER_FROZEN: return frozen(t, index, dy, x, r);
    case QS_OPTIMIZER_STE: return straight_through(t, index, dy, x, r);
    case QS_OPTIMIZER_BOP: return bop(t, index, dy, x, r);
    case QS_OPTIMIZER_ADAMW: return dense(t, index, dy, x, r);
    default: break;
    }
    switch (t->options.recipe) {
    case QS_RECIPE_LITERAL: return fsm_literal(t, index, dy, x, r);
    case QS_RECIPE_EXACT: return fsm_exact(t, index, dy, x, r);
    default: return fsm_lagged(t, index, dy, x, r);
    }
}

qs_status qsi_update_matrix(qs_trainer *t, int64_t index, qs_view dy, qs_view x, const qsi_rates *r)
{
    qs_status status = QS_OK;
    const qsi_rows active = t->matrices[index].active;
    if (active.count == 0)
        return QS_OK;
    QS_TRY(update(t, index, qsi_columns(dy, active), x, r));
    QS_TRY(qsi_health_gradient(t, index));
fail:
    return status;
}

/* ---- floats ---------------------------------------------------------------------------------------------------- */

/* The gradient of number i of floats, scale masters (of active rows) and adapters, one after the other; absent where none trains. */
static qs_view clipped(const qs_trainer *t, int64_t i)
{
    const int64_t floats = t->model->n_floats, scales = qsi_matrix_count(t->model);
    if (i < floats)
        return qsi_float_trains(t, i) ? t->floats[i].grad : qs_absent();
    if (i >= floats + scales)
        return t->adapters[i - floats - scales].grad;
    return t->matrices[i - floats].scale.grad;
}

/* clip_factor = min(1, clip / norm of all their gradients) */
static qs_status measure_clip(qs_trainer *t)
{
    qs_status status = QS_OK;
    uint32_t flags = 0;
    const int64_t count = t->model->n_floats + qsi_matrix_count(t->model) + t->model->n_adapters;
    for (int64_t i = 0; i < count; i++) {
        const qs_view grad = clipped(t, i);
        if (!grad.buffer)
            continue;
        QS_TRY(qsi_run(t->model->queue, qs_op_sum_squares(t->clip_sum, grad, qs_absent(), flags)));
        flags = QS_FLAG_ADD;
    }
    QS_TRY(qsi_run(t->model->queue, qs_op_clip_factor(t->clip_factor, t->clip_sum, (float)t->options.clip)));
fail:
    return status;
}

qs_status qsi_update_floats(qs_trainer *t, const qsi_rates *r)
{
    qs_status status = QS_OK;
    qs_queue *queue = t->model->queue;
    const qs_view factor = t->options.clip > 0.0 ? t->clip_factor : qs_absent();
    if (t->options.clip > 0.0)
        QS_TRY(measure_clip(t));
    for (int64_t i = 0; i < t->model->n_floats; i++) {
        const qsi_adam *a = &t->floats[i];
        if (qsi_float_trains(t, i))
            QS_TRY(qsi_run(queue, qs_op_adamw(a->value, a->grad, a->m, a->v, factor, qs_absent(), adamw(r->lr, 0.0, r))));
    }
    for (int64_t i = 0; i < qsi_matrix_count(t->model); i++) {
        const qsi_adam *a = &t->matrices[i].scale;
        if (!a->grad.buffer)
            continue;
        QS_TRY(qsi_run(queue, qs_op_adamw(a->value, a->grad, a->m, a->v, factor, qs_absent(), adamw(r->scale_lr, 0.0, r))));
        QS_TRY(qsi_run(queue, qs_op_scales(t->matrices[i].half, a->value, t->model->matrices[i].base)));
    }
    for (int64_t i = 0; i < t->model->n_adapters; i++) {
        const qsi_adam *a = &t->adapters[i];
        const double rate = (i % QSI_LORA_PARTS == QSI_LORA_B ? QSI_LORA_FACTOR : 1) * r->matrix_lr;
        QS_TRY(qsi_run(queue, qs_op_adamw(a->value, a->grad, a->m, a->v, factor, qs_absent(), adamw(rate, 0.0, r))));
    }
fail:
    return status;
}
