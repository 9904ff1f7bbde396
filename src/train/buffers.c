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
    case QS_OPTIMIZER_ADAMW: return true;
    case QS_OPTIMIZER_FSM: return t->options.recipe != QS_RECIPE_DEFAULT;
    default: return false;
    }
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
    if (is_fsm(t)) {
        qsi_arena_add(arena, &s->levels, qs_fsm_rule_of(t->options.fsm)->format, x->rows, x->cols);
        if (t->options.recipe != QS_RECIPE_LITERAL) {
            qsi_arena_add(arena, &s->row_moment, QS_F32, 1, x->rows);
            qsi_arena_add(arena, &s->column_moment, QS_F32, 1, x->cols);
            qsi_arena_add(arena, &s->control, QS_F32, 1, 4);
        }
    }
    if (t->options.optimizer == QS_OPTIMIZER_STE)
        qsi_arena_add(arena, &s->latent, QS_F32, x->rows, x->cols);
    if (t->options.optimizer == QS_OPTIMIZER_STE || t->options.optimizer == QS_OPTIMIZER_ADAMW) {
        qsi_arena_add(arena, &s->m, QS_F32, x->rows, x->cols);
        qsi_arena_add(arena, &s->v, QS_F32, x->rows, x->cols);
    }
    if (t->options.optimizer != QS_OPTIMIZER_ADAMW) {
        qsi_arena_add(arena, &s->scale.value, QS_F32, 1, x->rows);
        add_adam(arena, &s->scale, 1, x->rows);
        qsi_arena_add(&t->gradient_arena, &s->scale.grad, QS_F32, 1, x->rows);
    }
}

static void add_floats(qs_trainer *t)
{
    for (int64_t i = 0; i < t->model->n_floats; i++) {
        const qs_view value = t->model->floats[i].view;
        if (!value.buffer)
            continue;
        t->floats[i].value = value;
        add_adam(&t->float_arena, &t->floats[i], value.rows, value.cols);
        qsi_arena_add(&t->gradient_arena, &t->floats[i].grad, QS_F32, value.rows, value.cols);
    }
}

/* Scratch of the visits, as large as the largest matrix needs. */
static void add_visit_scratch(qs_trainer *t)
{
    int64_t rows = 0, cols = 0, weights = 0;
    for (int64_t i = 0; i < qsi_matrix_count(t->model); i++) {
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
        if (norm.buffer)
            qsi_arena_add(arena, &g->gains[i], QS_F32, chunks, norm.cols);
    }
}

static void add_activations(qs_trainer *t)
{
    const qs_model_config *c = &t->model->config;
    const int64_t chunks = qsi_ceil_div(t->rows, QS_TOKEN_CHUNK);
    qsi_arena *arena = &t->activation_arena;
    for (int64_t l = 0; l <= c->layers; l++)
        qsi_arena_add(arena, &t->h[l], QS_F32, t->rows, c->dim);
    for (int64_t l = 0; l < (t->options.recompute ? 1 : c->layers); l++)
        qsi_tape_add(arena, c, &t->tapes[l], t->rows, t->options.recompute ? t->micro_rows : t->rows);
    add_block_grads(t);
    qsi_arena_add(arena, &t->normed, QS_F32, t->rows, c->dim);
    qsi_arena_add(arena, &t->logits, QS_F32, t->rows, c->vocab);
    qsi_arena_add(arena, &t->dnormed, QS_F32, t->micro_rows, c->dim);
    qsi_arena_add(arena, &t->partial, QS_F32, chunks, qsi_max(c->dim, 1));
    qsi_arena_add(arena, &t->loss, QS_F32, 1, 1);
    qsi_arena_add(arena, &t->tokens, QS_I32, 1, t->rows);
    qsi_arena_add(arena, &t->targets, QS_I32, 1, t->rows);
}

static qs_status allocate_lists(qs_trainer *t)
{
    qs_context *context = t->context;
    const int64_t layers = t->model->config.layers, matrices = qsi_matrix_count(t->model);
    t->matrices = qsi_alloc_array(context, QS_MEMORY_OTHER, matrices, sizeof *t->matrices);
    t->floats = qsi_alloc_array(context, QS_MEMORY_OTHER, t->model->n_floats, sizeof *t->floats);
    t->h = qsi_alloc_array(context, QS_MEMORY_OTHER, layers + 1, sizeof *t->h);
    t->tapes = qsi_alloc_array(context, QS_MEMORY_OTHER, layers, sizeof *t->tapes);
    t->host_tokens = qsi_alloc_array(context, QS_MEMORY_DATA, 2 * t->rows, sizeof *t->host_tokens);
    t->host_counts = qsi_alloc_array(context, QS_MEMORY_OTHER, 4 * matrices, sizeof *t->host_counts);
    const bool all = t->matrices && t->floats && t->h && t->tapes && t->host_tokens && t->host_counts;
    return all ? QS_OK : QS_ERR_NOMEM;
}

qs_status qsi_trainer_buffers(qs_trainer *t)
{
    qs_status status = QS_OK;
    qsi_arena_init(&t->state_arena, t->context, QS_MEMORY_STATE);
    qsi_arena_init(&t->float_arena, t->context, QS_MEMORY_OPTIMIZER);
    qsi_arena_init(&t->gradient_arena, t->context, QS_MEMORY_GRADIENTS);
    qsi_arena_init(&t->activation_arena, t->context, QS_MEMORY_ACTIVATIONS);
    qsi_arena_init(&t->scratch_arena, t->context, QS_MEMORY_WORKSPACE);
    QS_TRY(allocate_lists(t));
    for (int64_t i = 0; i < qsi_matrix_count(t->model); i++)
        add_matrix_state(t, i);
    add_floats(t);
    add_visit_scratch(t);
    add_activations(t);
    QS_TRY(qsi_arena_create(&t->state_arena));
    QS_TRY(qsi_arena_create(&t->float_arena));
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
    qsi_arena_free(&t->gradient_arena);
    qsi_arena_free(&t->activation_arena);
    qsi_arena_free(&t->scratch_arena);
    qsi_free(t->matrices);
    qsi_free(t->floats);
    qsi_free(t->h);
    qsi_free(t->tapes);
    qsi_free(t->host_tokens);
    qsi_free(t->host_counts);
}

/* ---- start values ---------------------------------------------------------------------------------------------- */

/* Uniform levels: planes of C2 and C4 are random bits (plane p, word j: word j mod 4 of Philox block p * 2^20 + j div 4). */
static void random_planes(uint64_t seed, uint32_t tensor, uint32_t row, int planes, int64_t words, uint32_t *out)
{
    uint32_t draw[4];
    for (int p = 0; p < planes; p++) {
        for (int64_t j = 0; j < words; j++) {
            if (j % 4 == 0)
                qs_philox(seed, 0, QS_RANDOM_LEVELS, tensor, row, ((uint32_t)p << 20) + (uint32_t)(j / 4), draw);
            out[p * words + j] = draw[j % 4];
        }
    }
}

/* Uniform states of t2: the code of column k is draw mod 3, draw = word k mod 4 of Philox block k div 4. */
static void random_ternary(uint64_t seed, uint32_t tensor, uint32_t row, int64_t cols, uint32_t *out)
{
    uint32_t draw[4];
    memset(out, 0, (size_t)(cols / 4));
    for (int64_t k = 0; k < cols; k++) {
        if (k % 4 == 0)
            qs_philox(seed, 0, QS_RANDOM_LEVELS, tensor, row, (uint32_t)(k / 4), draw);
        out[k / 16] |= (draw[k % 4] % 3) << (2 * (k % 16));
    }
}

/* Uniform signed levels of c8: level - 1 is byte k mod 16 of Philox block k div 16, without its top bit; w from the sign words. */
static void random_bytes(uint64_t seed, uint32_t tensor, uint32_t row, int64_t cols, const uint32_t *w, int8_t *out)
{
    uint32_t draw[4];
    for (int64_t k = 0; k < cols; k++) {
        if (k % 16 == 0)
            qs_philox(seed, 0, QS_RANDOM_LEVELS, tensor, row, (uint32_t)(k / 16), draw);
        const int level = (int)(draw[k % 16 / 4] >> (8 * (k % 4)) & 127);
        out[k] = (int8_t)((w[k / 32] >> (k % 32) & 1) ? level : -1 - level);
    }
}

static qs_status init_levels(qs_trainer *t, const qsi_matrix *x, qs_view levels)
{
    qs_status status = QS_OK;
    uint32_t *host = qsi_alloc(t->context, QS_MEMORY_OTHER, x->cols);
    uint32_t *signs = qsi_alloc(t->context, QS_MEMORY_OTHER, x->cols / 8);
    const uint64_t seed = t->options.seed;
    if (!host || !signs) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    for (int64_t n = 0; n < x->rows; n++) {
        const uint32_t row = (uint32_t)n;
        switch (t->options.fsm) {
        case QS_FSM_T2: random_ternary(seed, x->id, row, x->cols, host); break;
        case QS_FSM_C8:
            QS_TRY(qs_read(t->model->queue, qs_view_rows(x->weight, n, 1), signs));
            random_bytes(seed, x->id, row, x->cols, signs, (int8_t *)host);
            break;
        default: random_planes(seed, x->id, row, t->options.fsm == QS_FSM_C2 ? 2 : 4, x->cols / 32, host);
        }
        QS_TRY(qs_write(t->model->queue, qs_view_rows(levels, n, 1), host));
    }
fail:
    qsi_free(host);
    qsi_free(signs);
    return status;
}

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
    const float control[4] = {1.0f, 0.0f, 0.0f, 0.0f};
    for (int64_t i = 0; i < qsi_matrix_count(t->model); i++) {
        const qsi_matrix *x = &t->model->matrices[i];
        const qsi_matrix_state *s = &t->matrices[i];
        if (s->levels.buffer && t->options.recipe != QS_RECIPE_LITERAL)
            QS_TRY(init_levels(t, x, s->levels));
        if (s->control.buffer)
            QS_TRY(qs_write(t->model->queue, s->control, control));
        if (s->latent.buffer)
            QS_TRY(init_latents(t, x, s->latent));
        if (s->scale.value.buffer)
            QS_TRY(init_ones(t, s->scale.value));
    }
fail:
    return status;
}
