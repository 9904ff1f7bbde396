/* buffers.c - all memory of a trainer, allocated once: what persists, and what a step needs. Start values of the state. */
#include <math.h>
#include <string.h>
#include "qsbits/random.h"
#include "train/train.h"

static bool is_fsm(const qs_trainer *t) { return t->options.optimizer == QS_OPTIMIZER_FSM; }

static bool needs_dense_gradient(const qs_trainer *t)
{
    switch (t->options.optimizer) {
    case QS_OPTIMIZER_STE:
    case QS_OPTIMIZER_BOP:
    case QS_OPTIMIZER_ADAMW: return true;
    case QS_OPTIMIZER_FSM: return t->options.recipe != QS_RECIPE_DEFAULT;
    default: return false;
    }
}

/* Whether what happens to sampled rows is recorded. */
static bool has_record(const qs_trainer *t)
{
    return t->options.health_window > 0 && qsi_signs_move(&t->options);
}

static void add_adam(qsi_arena *arena, qsi_adam *a, int64_t rows, int64_t cols)
{
    qsi_arena_add(arena, &a->m, QS_F32, rows, cols);
    qsi_arena_add(arena, &a->v, QS_F32, rows, cols);
}

static void add_matrix_state(qs_trainer *t, int64_t index)
{
    const qsi_matrix *x = &t->model->matrices[index];
    qsi_matrix_state *s = &t->matrices[index];
    qsi_arena *arena = &t->state_arena;
    if (t->options.optimizer == QS_OPTIMIZER_STE)
        qsi_arena_add(arena, &s->latent, QS_F32, x->rows, x->cols);
    if (t->options.optimizer == QS_OPTIMIZER_BOP)
        qsi_arena_add(arena, &s->average, QS_F32, x->rows, x->cols);
    if (has_record(t))
        qsi_arena_add(arena, &s->record, QS_W1, QS_SAMPLE_PLANES * qs_sample_rows(x->rows), x->cols);
    if (t->options.optimizer == QS_OPTIMIZER_STE || t->options.optimizer == QS_OPTIMIZER_ADAMW) {
        qsi_arena_add(arena, &s->m, QS_F32, x->rows, x->cols);
        qsi_arena_add(arena, &s->v, QS_F32, x->rows, x->cols);
    }
}

/* The buffers that are dealt out to the rows of a phase (phase.c). */
static void add_dealt(qs_trainer *t)
{
    const qsi_room room = qsi_phase_room(&t->active);
    qsi_dealt *d = &t->dealt;
    qsi_arena *arena = &t->state_arena;
    if (is_fsm(t))
        qsi_arena_add(arena, &d->levels, qs_fsm_rule_of(t->options.fsm)->format, 1, room.weights);
    if (t->options.anchor > 0.0)
        qsi_arena_add(arena, &d->anchors, QS_W1, 1, room.weights);
    if (is_fsm(t) && t->options.recipe != QS_RECIPE_LITERAL) {
        qsi_arena_add(arena, &d->row_moments, QS_F32, 1, room.rows);
        qsi_arena_add(arena, &d->column_moments, QS_F32, 1, room.cols);
        qsi_arena_add(arena, &d->controls, QS_F32, 1, room.controls);
    }
    if (t->options.optimizer != QS_OPTIMIZER_ADAMW) {
        qsi_arena_add(arena, &d->scales.value, QS_F32, 1, room.rows);
        add_adam(arena, &d->scales, 1, room.rows);
        qsi_arena_add(&t->gradient_arena, &d->scales.grad, QS_F32, 1, room.rows);
    }
    if (t->model->streamed) {
        qsi_arena_add(&t->active_arena, &d->weights, QS_W1, 1, room.weights);
        qsi_arena_add(&t->active_arena, &d->halves, QS_F16, 1, room.rows);
    }
}

static void add_float(qs_trainer *t, int64_t index)
{
    const qs_view value = t->model->floats[index].view;
    qsi_adam *a = &t->floats[index];
    if (value.rows == 0)
        return;
    a->value = value;
    add_adam(&t->float_arena, a, value.rows, value.cols);
    qsi_arena_add(&t->gradient_arena, &a->grad, QS_F32, value.rows, value.cols);
}

/* State of all parameters, in the order of the model's lists. */
static void add_parameters(qs_trainer *t)
{
    add_float(t, 0);
    for (int64_t l = 0; l < t->model->config.layers; l++) {
        const int64_t block = qsi_listed_block(t->model, l);
        for (int i = 0; i < QSI_MATRICES; i++)
            add_matrix_state(t, block * QSI_MATRICES + i);
        for (int i = 0; i < QSI_BLOCK_FLOATS; i++)
            add_float(t, 1 + block * QSI_BLOCK_FLOATS + i);
    }
    add_float(t, t->model->n_floats - 2);
    add_float(t, t->model->n_floats - 1);
}

/* Scratch of the visits, as large as the largest matrix needs; blocks are alike. */
static void add_visit_scratch(qs_trainer *t)
{
    int64_t rows = 0, cols = 0, weights = 0;
    for (int i = 0; i < QSI_MATRICES; i++) {
        rows = qsi_max(rows, t->model->matrices[i].rows);
        cols = qsi_max(cols, t->model->matrices[i].cols);
        weights = qsi_max(weights, t->model->matrices[i].rows * t->model->matrices[i].cols);
    }
    qsi_visit_scratch *s = &t->visit;
    qsi_arena_add(&t->scratch_arena, &s->a, QS_F32, 1, rows);
    qsi_arena_add(&t->scratch_arena, &s->b, QS_F32, 1, cols);
    qsi_arena_add(&t->scratch_arena, &s->theta, QS_F32, 1, 1);
    qsi_arena_add(&t->scratch_arena, &s->r_now, QS_F32, 1, rows);
    qsi_arena_add(&t->scratch_arena, &s->c_now, QS_F32, 1, cols);
    qsi_arena_add(&t->scratch_arena, &s->counts, QS_I32, qsi_matrix_count(t->model), 4);
    if (t->options.health_window > 0)
        qsi_arena_add(&t->scratch_arena, &t->health.squares, QS_F32, qsi_matrix_count(t->model), 1);
    qsi_arena_add(&t->scratch_arena, &t->clip_sum, QS_F32, 1, 1);
    qsi_arena_add(&t->scratch_arena, &t->clip_factor, QS_F32, 1, 1);
    if (needs_dense_gradient(t))
        qsi_arena_add(&t->gradient_arena, &s->dgrad, QS_F32, 1, weights);
    if (is_fsm(t) && t->options.recipe == QS_RECIPE_LITERAL)
        qsi_arena_add(&t->gradient_arena, &s->pulses, QS_T2, 1, weights);
}

static void add_block_grads(qs_trainer *t)
{
    const qs_model_config *c = &t->model->config;
    const int64_t attention = c->heads * c->head_dim, group = c->kv_heads * c->head_dim;
    const int64_t chunks = qsi_ceil_div(t->rows, QS_TOKEN_CHUNK);
    qsi_arena *arena = &t->activation_arena;
    qsi_block_grads *g = &t->grads;
    for (int i = 0; i < 3; i++)
        qsi_arena_add(arena, &t->stream_grads[i], QS_F32, t->rows, c->dim);
    qsi_arena_add(arena, &g->dq, QS_F32, t->rows, attention);
    qsi_arena_add(arena, &g->dk, QS_F32, t->rows, group);
    qsi_arena_add(arena, &g->dv, QS_F32, t->rows, group);
    qsi_arena_add(arena, &g->dgate, QS_F32, t->rows, c->ffn);
    qsi_arena_add(arena, &g->dup, QS_F32, t->rows, c->ffn);
    qsi_arena_add(arena, &g->dn, QS_F32, t->micro_rows, c->dim);
    qsi_arena_add(arena, &g->dattn, QS_F32, t->micro_rows, attention);
    qsi_arena_add(arena, &g->dact, QS_F32, t->micro_rows, c->ffn);
    for (int i = 0; i < QSI_BLOCK_FLOATS; i++) {
        const qs_view norm = qsi_float_of(t->model, 0, i)->view;
        if (norm.rows)
            qsi_arena_add(arena, &g->gains[i], QS_F32, chunks, norm.cols);
    }
}

static void add_activations(qs_trainer *t)
{
    const qs_model_config *c = &t->model->config;
    const int64_t chunks = qsi_ceil_div(t->rows, QS_TOKEN_CHUNK);
    qsi_arena *arena = &t->activation_arena;
    for (int64_t l = 0; l <= c->layers; l++)
        qsi_arena_add(arena, &t->h[qsi_listed_block(t->model, l)], QS_F32, t->rows, c->dim);
    for (int64_t l = 0; l < (t->options.recompute ? 1 : c->layers); l++)
        qsi_tape_add(arena, c, &t->tapes[qsi_listed_block(t->model, l)], t->rows,
                     t->options.recompute ? t->micro_rows : t->rows);
    add_block_grads(t);
    qsi_loss_add(arena, c, &t->loss, t->rows);
    qsi_arena_add(arena, &t->partial, QS_F32, chunks, qsi_max(c->dim, 1));
    qsi_arena_add(arena, &t->mean_loss, QS_F32, 1, 1);
    qsi_arena_add(arena, &t->tokens, QS_I32, 1, t->rows);
}

/* The most rows and columns a matrix has. */
static int64_t most_wide(const qs_model_config *c)
{
    return qsi_max(qsi_max(c->dim, c->ffn), c->heads * c->head_dim);
}

/* Lists in host memory: name, tag, entries; c is the config. Those of health are empty without a window. */
#define MEASURED(entries) (t->options.health_window > 0 ? (entries) : 0)
#define LISTS(X) \
    X(matrices, OTHER, c->layers * QSI_MATRICES) \
    X(floats, OTHER, 3 + c->layers * QSI_BLOCK_FLOATS) \
    X(adapters, OTHER, qsi_adapter_count(t->model)) \
    X(h, OTHER, c->layers + 1) \
    X(tapes, OTHER, c->layers) \
    X(host_tokens, DATA, 2 * t->rows) \
    X(host_window, DATA, c->ctx + 1) \
    X(host_counts, OTHER, 4 * c->layers * QSI_MATRICES) \
    X(host_signs, OTHER, most_wide(c) / 32) \
    X(host_levels, OTHER, most_wide(c) / 4) \
    X(host_floats, OTHER, most_wide(c)) \
    X(host_halves, OTHER, most_wide(c)) \
    X(host_uses, OTHER, c->layers) \
    X(health.pulses, OTHER, MEASURED(c->layers)) \
    X(health.flips, OTHER, MEASURED(c->layers)) \
    X(health.host_floats, OTHER, MEASURED(most_wide(c))) \
    X(health.host_words, OTHER, MEASURED(most_wide(c) / 4)) \
    X(health.host_signs, OTHER, MEASURED(most_wide(c))) \
    X(health.host_states, OTHER, MEASURED(most_wide(c))) \
    X(health.results, OTHER, MEASURED(c->layers + 1))

static qs_status allocate_lists(qs_trainer *t)
{
    const qs_model_config *c = &t->model->config;
#define ALLOCATE(list, tag, entries) \
    if (!(t->list = qsi_alloc_array(t->context, QS_MEMORY_##tag, entries, sizeof *t->list))) \
        return QS_ERR_NOMEM;
    LISTS(ALLOCATE)
#undef ALLOCATE
    return QS_OK;
}

static void announce(qs_trainer *t)
{
    t->active = qsi_active_of(&t->options, &t->model->config);
    qsi_arena_init(&t->state_arena, t->context, QS_MEMORY_STATE);
    qsi_arena_init(&t->float_arena, t->context, QS_MEMORY_OPTIMIZER);
    qsi_arena_init(&t->active_arena, t->context, QS_MEMORY_ACTIVE);
    qsi_arena_init(&t->gradient_arena, t->context, QS_MEMORY_GRADIENTS);
    qsi_arena_init(&t->activation_arena, t->context, QS_MEMORY_ACTIVATIONS);
    qsi_arena_init(&t->scratch_arena, t->context, QS_MEMORY_WORKSPACE);
    add_dealt(t);
    add_parameters(t);
    qsi_lora_add(t);
    add_visit_scratch(t);
    add_activations(t);
}

qs_status qsi_trainer_rows(qs_trainer *t, int64_t ctx)
{
    qs_status status = QS_OK;
    if (!qsi_mul(t->options.batch, ctx, &t->rows) || t->rows > INT32_MAX)
        QS_FAIL(QS_ERR_ARG, "batch %lld times ctx %lld is too many tokens for one step", (long long)t->options.batch,
                (long long)ctx);
    t->micro_rows = t->options.micro_batch * ctx;
fail:
    return status;
}

qs_status qsi_trainer_plan(qs_trainer *t, qs_memory_plan *bytes)
{
    qs_status status = QS_OK;
    const qs_model_config *c = &t->model->config;
    announce(t);
    QS_TRY(qsi_plan_arena(bytes, &t->state_arena));
    QS_TRY(qsi_plan_arena(bytes, &t->float_arena));
    QS_TRY(qsi_plan_arena(bytes, &t->active_arena));
    QS_TRY(qsi_plan_arena(bytes, &t->gradient_arena));
    QS_TRY(qsi_plan_arena(bytes, &t->activation_arena));
    QS_TRY(qsi_plan_arena(bytes, &t->scratch_arena));
#define COUNT(list, tag, entries) QS_TRY(qsi_plan_list(bytes, QS_POOL_RAM, QS_MEMORY_##tag, entries, sizeof *t->list));
    LISTS(COUNT)
#undef COUNT
    QS_TRY(qsi_plan_list(bytes, QS_POOL_RAM, QS_MEMORY_OTHER, 1, sizeof *t));
fail:
    return status;
}

qs_status qsi_trainer_buffers(qs_trainer *t)
{
    qs_status status = QS_OK;
    QS_TRY(allocate_lists(t));
    announce(t);
    QS_TRY(qsi_arena_create(&t->state_arena));
    QS_TRY(qsi_arena_create(&t->float_arena));
    QS_TRY(qsi_arena_create(&t->active_arena));
    QS_TRY(qsi_arena_create(&t->gradient_arena));
    QS_TRY(qsi_arena_create(&t->activation_arena));
    QS_TRY(qsi_arena_create(&t->scratch_arena));
    for (int64_t l = 0; l < (t->options.recompute ? 1 : t->model->config.layers); l++)
        qsi_tape_alias(&t->model->config, &t->tapes[l]);
fail:
    return status;
}

void qsi_trainer_buffers_free(qs_trainer *t)
{
    qsi_arena_free(&t->state_arena);
    qsi_arena_free(&t->float_arena);
    qsi_arena_free(&t->active_arena);
    qsi_arena_free(&t->gradient_arena);
    qsi_arena_free(&t->activation_arena);
    qsi_arena_free(&t->scratch_arena);
#define FREE(list, tag, entries) qsi_free(t->list);
    LISTS(FREE)
#undef FREE
}

/* ---- start values ---------------------------------------------------------------------------------------------- */

/* Latents: the sign of the weight times |normal| / sqrt(fan-in). */
static qs_status init_latents(qs_trainer *t, const qsi_matrix *x, qs_view latent)
{
    qs_status status = QS_OK;
    float *host = qsi_alloc_array(t->context, QS_MEMORY_OTHER, x->cols, sizeof *host);
    uint32_t *signs = qsi_alloc(t->context, QS_MEMORY_OTHER, x->cols / 8);
    const float deviation = (float)(1.0 / sqrt((double)x->cols));
    if (!host || !signs) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    for (int64_t n = 0; n < x->rows; n++) {
        QS_TRY(qs_read(t->model->queue, qs_view_rows(x->weight, n, 1), signs));
        qsi_normals(t->options.seed, x->id, n * x->cols, x->cols, host);
        for (int64_t k = 0; k < x->cols; k++) {
            const float size = (host[k] < 0.0f ? -host[k] : host[k]) * deviation;
            host[k] = (signs[k / 32] >> (k % 32) & 1) ? size : -size;
        }
        QS_TRY(qs_write(t->model->queue, qs_view_rows(latent, n, 1), host));
    }
fail:
    qsi_free(host);
    qsi_free(signs);
    return status;
}

static qs_status init_ones(qs_trainer *t, qs_view view)
{
    qs_status status = QS_OK;
    float *host = qsi_alloc_array(t->context, QS_MEMORY_OTHER, view.cols, sizeof *host);
    if (!host)
        return QS_ERR_NOMEM;
    for (int64_t i = 0; i < view.cols; i++)
        host[i] = 1.0f;
    QS_TRY(qs_write(t->model->queue, view, host));
fail:
    qsi_free(host);
    return status;
}

qs_status qsi_trainer_init_state(qs_trainer *t)
{
    qs_status status = QS_OK;
    qsi_phase_assign(t, 0);
    for (int64_t i = 0; i < qsi_matrix_count(t->model); i++) {
        const qsi_matrix *x = &t->model->matrices[i];
        const qsi_matrix_state *s = &t->matrices[i];
        QS_TRY(qsi_start_control(t, s->control));
        if (s->latent.buffer)
            QS_TRY(init_latents(t, x, s->latent));
        if (s->scale.value.buffer)
            QS_TRY(init_ones(t, s->scale.value));
    }
    QS_TRY(qsi_phase_enter(t, 0));
fail:
    return status;
}
