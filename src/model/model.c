/* model.c - parameters of the decoder: names, memory, loading. Their start values: init.c. */
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include "core/detmath.h"

static const char *const matrix_names[QSI_MATRICES] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",
};
static const char *const norm_names[QSI_BLOCK_FLOATS] = {
    "input_layernorm.weight",          "self_attn.q_norm.weight",          "self_attn.k_norm.weight",
    "self_attn.attn_sub_norm.weight", "post_attention_layernorm.weight", "mlp.ffn_sub_norm.weight",
};

/* ---- names and shapes ------------------------------------------------------------------------------------------ */

void qsi_matrix_shape(const qs_model_config *c, int index, int64_t *rows, int64_t *cols)
{
    const int64_t attention = c->heads * c->head_dim, group = c->kv_heads * c->head_dim;
    const int64_t shapes[QSI_MATRICES][2] = {{attention, c->dim}, {group, c->dim}, {group, c->dim}, {c->dim, attention},
                                             {c->ffn, c->dim},    {c->ffn, c->dim}, {c->dim, c->ffn}};
    *rows = shapes[index][0];
    *cols = shapes[index][1];
}

static void describe_matrices(qs_model *m)
{
    const qs_model_config *c = &m->config;
    for (int64_t l = 0; l < c->layers; l++) {
        for (int i = 0; i < QSI_MATRICES; i++) {
            qsi_matrix *x = qsi_matrix_of(m, qsi_listed_block(m, l), i);
            snprintf(x->name, sizeof x->name, "model.layers.%lld.%s", (long long)l, matrix_names[i]);
            qsi_matrix_shape(c, i, &x->rows, &x->cols);
            x->id = (uint32_t)(l * QSI_MATRICES + i);
            x->base = (float)(1.0 / sqrt((double)x->cols));
            if (i == QSI_O || i == QSI_DOWN)
                x->base = (float)(0.3 * sqrt(2.0 / (double)c->layers) / sqrt((double)x->cols));
            if (m->streamed)
                continue;
            qsi_arena_add(&m->weights, &x->weight, c->dense ? QS_F32 : QS_W1, x->rows, x->cols);
            if (!c->dense)
                qsi_arena_add(&m->weights, &x->scale, QS_F16, 1, x->rows);
        }
    }
}

static void describe_float(qs_model *m, qsi_float *f, const char *name, int64_t slab, int64_t rows, int64_t cols, double deviation)
{
    snprintf(f->name, sizeof f->name, "%s", name);
    f->slab = slab;
    f->deviation = (float)deviation;
    if (cols > 0)
        qsi_arena_add(&m->floats_arena, &f->view, QS_F32, rows, cols);
}

static void describe_floats(qs_model *m)
{
    const qs_model_config *c = &m->config;
    const int64_t attention = c->heads * c->head_dim;
    const int64_t widths[QSI_BLOCK_FLOATS] = {c->dim, c->qk_norm ? c->head_dim : 0, c->qk_norm ? c->head_dim : 0,
                                              c->sub_norm ? attention : 0, c->dim, c->sub_norm ? c->ffn : 0};
    char name[96];
    const double head = 1.0 / sqrt((double)c->dim);
    describe_float(m, qsi_embedding(m), "model.embed_tokens.weight", 0, c->vocab, c->dim, c->tied ? head : 0.5);
    for (int64_t l = 0; l < c->layers; l++) {
        for (int i = 0; i < QSI_BLOCK_FLOATS; i++) {
            snprintf(name, sizeof name, "model.layers.%lld.%s", (long long)l, norm_names[i]);
            describe_float(m, qsi_float_of(m, qsi_listed_block(m, l), i), name, 1 + l, 1, widths[i], 0.0);
        }
    }
    describe_float(m, qsi_final_norm(m), "model.norm.weight", 1 + c->layers, 1, c->dim, 0.0);
    describe_float(m, qsi_own_head(m), "lm_head.weight", 1 + c->layers, c->vocab, c->tied ? 0 : c->dim, head);
}

qs_status qs_model_tensor_id(const char *name, uint32_t *id)
{
    qs_status status = QS_OK;
    char expected[128];
    long long block = -1;
    if (sscanf(name, "model.layers.%4lld.", &block) != 1 || block < 0)
        QS_FAIL(QS_ERR_ARG, "%.96s is no matrix of a block", name);
    for (int i = 0; i < QSI_MATRICES; i++) {
        snprintf(expected, sizeof expected, "model.layers.%lld.%s.weight", block, matrix_names[i]);
        if (strcmp(name, expected) == 0) {
            *id = (uint32_t)(block * QSI_MATRICES + i);
            return QS_OK;
        }
    }
    QS_FAIL(QS_ERR_ARG, "%.96s is no matrix of a block", name);
fail:
    return status;
}

/* Names, shapes and place of every parameter. */
static void describe(qs_model *m)
{
    qsi_arena_init(&m->weights, m->context, QS_MEMORY_WEIGHTS);
    qsi_arena_init(&m->floats_arena, m->context, QS_MEMORY_FLOATS);
    describe_matrices(m);
    describe_floats(m);
    qsi_adapters_describe(m);
}

qs_status qsi_model_list(qs_context *context, const qs_model_config *config, bool streamed, qs_model **out)
{
    qs_status status = QS_OK;
    qs_model *m = qsi_alloc(context, QS_MEMORY_OTHER, sizeof *m);
    if (!m)
        return QS_ERR_NOMEM;
    m->context = context;
    m->config = *config;
    m->streamed = streamed;
    QS_TRY(qs_model_config_resolve(&m->config));
    m->n_floats = 3 + m->config.layers * QSI_BLOCK_FLOATS;
    m->matrices = qsi_alloc_array(context, QS_MEMORY_OTHER, qsi_matrix_count(m), sizeof *m->matrices);
    m->floats = qsi_alloc_array(context, QS_MEMORY_OTHER, m->n_floats, sizeof *m->floats);
    m->n_adapters = qsi_adapter_count(m);
    m->adapters = qsi_alloc_array(context, QS_MEMORY_OTHER, m->n_adapters, sizeof *m->adapters);
    if (!m->matrices || !m->floats || !m->adapters) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    describe(m);
    QS_TRY(m->weights.status);       /* a tensor that found no place has no shape */
    QS_TRY(m->floats_arena.status);
    *out = m;
    return QS_OK;
fail:
    qs_model_free(&m);
    return status;
}

qs_status qsi_model_allocate(qs_context *context, const qs_model_config *config, bool streamed, qs_model **out)
{
    qs_status status = QS_OK;
    qs_model *m = NULL;
    QS_TRY(qsi_model_list(context, config, streamed, &m));
    QS_TRY(qs_queue_create(context, &m->queue));
    QS_TRY(qsi_arena_create(&m->weights));
    QS_TRY(qsi_arena_create(&m->floats_arena));
    QS_TRY(qsi_model_positions(m, m->config.ctx));
    *out = m;
    return QS_OK;
fail:
    qs_model_free(&m);
    return status;
}

void qs_model_free(qs_model **model)
{
    if (!model || !*model)
        return;
    qs_model *m = *model;
    qsi_stream_free(&m->stream);
    qs_checkpoint_close(&m->source);
    qsi_arena_free(&m->weights);
    qsi_arena_free(&m->floats_arena);
    qs_buffer_free(&m->rope);
    qsi_free(m->matrices);
    qsi_free(m->floats);
    qsi_free(m->adapters);
    qs_queue_free(&m->queue);
    qsi_free(m);
    *model = NULL;
}

qs_status qs_model_set_precision(qs_model *model, qs_precision precision)
{
    qs_status status = QS_OK;
    if (!qs_precision_name(precision))
        QS_FAIL(QS_ERR_ARG, "precision is %d; there is no such arithmetic", (int)precision);
    if (model->config.dense && precision != QS_PRECISION_F32)
        QS_FAIL(QS_ERR_ARG, "precision is %s; a model of fp32 matrices computes in f32", qs_precision_name(precision));
    model->precision = precision;
fail:
    return status;
}

const qs_model_config *qs_model_get_config(const qs_model *model) { return &model->config; }

/* ---- RoPE tables ----------------------------------------------------------------------------------------------- */

/* table[p][j] = cos or sin of p * theta^(-2j/head_dim), rounded once from double. */
static void fill_rope(const qs_model *m, int64_t positions, float *cosine, float *sine)
{
    const int64_t half = m->config.head_dim / 2;
    for (int64_t j = 0; j < half; j++) {
        const double frequency = qsi_pow(m->config.rope_theta, -2.0 * (double)j / (double)m->config.head_dim);
        for (int64_t p = 0; p < positions; p++) {
            cosine[p * half + j] = (float)qsi_cos((double)p * frequency);
            sine[p * half + j] = (float)qsi_sin((double)p * frequency);
        }
    }
}

/* Bytes of one of the two tables. */
static int64_t rope_bytes(const qs_model_config *c, int64_t positions)
{
    return qsi_round_up(positions * (c->head_dim / 2) * (int64_t)sizeof(float), 64);
}

qs_status qsi_model_positions(qs_model *m, int64_t positions)
{
    qs_status status = QS_OK;
    const int64_t half = m->config.head_dim / 2;
    qs_buffer *buffer = NULL;
    float *host = NULL;
    if (positions <= m->positions)
        return QS_OK;
    host = qsi_alloc_array(m->context, QS_MEMORY_OTHER, positions * half, 2 * (int64_t)sizeof *host);
    if (!host) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    fill_rope(m, positions, host, host + positions * half);
    const int64_t table = rope_bytes(&m->config, positions);
    QS_TRY(qs_buffer_create(m->context, QS_MEMORY_FLOATS, (uint64_t)(2 * table), &buffer));
    const qs_view cosine = qs_view_at(buffer, 0, QS_F32, positions, half);
    const qs_view sine = qs_view_at(buffer, (uint64_t)table, QS_F32, positions, half);
    QS_TRY(qs_write(m->queue, cosine, host));
    QS_TRY(qs_write(m->queue, sine, host + positions * half));
    qs_buffer_free(&m->rope);
    m->rope = buffer;
    buffer = NULL;
    m->cosine = cosine;
    m->sine = sine;
    m->positions = positions;
fail:
    qs_buffer_free(&buffer);
    qsi_free(host);
    return status;
}

/* ---- planning -------------------------------------------------------------------------------------------------- */

qs_status qsi_plan_list(qs_memory_plan *bytes, qs_memory_pool pool, qs_memory_tag tag, int64_t count, int64_t size)
{
    qs_status status = QS_OK;
    int64_t more = 0, sum = 0;
    uint64_t *const all = &bytes->bytes[QS_MEMORY_POOLS][QS_MEMORY_TAGS];
    if (!qsi_mul(count, size, &more) || !qsi_add((int64_t)*all, more, &sum))   /* the largest sum there is */
        QS_FAIL(QS_ERR_SHAPE, "the memory for %s is too large to be counted", qs_memory_tag_name(tag));
    *all = (uint64_t)sum;
    bytes->bytes[pool][tag] += (uint64_t)more;
    bytes->bytes[pool][QS_MEMORY_TAGS] += (uint64_t)more;
    bytes->bytes[QS_MEMORY_POOLS][tag] += (uint64_t)more;
fail:
    return status;
}

qs_status qsi_plan_arena(qs_memory_plan *bytes, const qsi_arena *arena)
{
    qs_status status = QS_OK;
    int64_t more = 0;
    QS_TRY(qsi_arena_bytes(arena, &more));
    QS_TRY(qsi_plan_list(bytes, QS_POOL_DEVICE, arena->tag, more, 1));
fail:
    return status;
}

int64_t qsi_model_slab(const qs_model *m)
{
    int64_t bytes = 0;
    for (int i = 0; i < QSI_MATRICES; i++) {
        const qsi_matrix *x = &m->matrices[i];
        bytes += qsi_round_up(x->rows * qs_row_bytes(QS_W1, x->cols), QS_TENSOR_ALIGN);
        bytes += qsi_round_up(qs_row_bytes(QS_F16, x->rows), QS_TENSOR_ALIGN);
    }
    for (int i = 0; i < QSI_BLOCK_FLOATS; i++)
        bytes += qsi_round_up(qs_row_bytes(QS_F32, qsi_float_of(m, 0, i)->view.cols), QS_TENSOR_ALIGN);
    return qsi_round_up(bytes, QS_SLAB_ALIGN);
}

qs_status qsi_model_plan(qs_model *m, qs_memory_plan *bytes)
{
    qs_status status = QS_OK;
    const int64_t floats = 3 + m->config.layers * QSI_BLOCK_FLOATS;
    m->n_floats = 3 + QSI_BLOCK_FLOATS;
    describe(m);
    QS_TRY(qsi_plan_arena(bytes, &m->weights));
    QS_TRY(qsi_plan_arena(bytes, &m->floats_arena));
    QS_TRY(qsi_plan_list(bytes, QS_POOL_DEVICE, QS_MEMORY_FLOATS, 2, rope_bytes(&m->config, m->config.ctx)));
    QS_TRY(qsi_plan_list(bytes, QS_POOL_RAM, QS_MEMORY_OTHER, qsi_matrix_count(m), sizeof *m->matrices));
    QS_TRY(qsi_plan_list(bytes, QS_POOL_RAM, QS_MEMORY_OTHER, floats, sizeof *m->floats));
    QS_TRY(qsi_plan_list(bytes, QS_POOL_RAM, QS_MEMORY_OTHER, qsi_adapter_count(m), sizeof *m->adapters));
    QS_TRY(qsi_plan_list(bytes, QS_POOL_RAM, QS_MEMORY_OTHER, 1, sizeof *m));
fail:
    return status;
}

/* ---- loading --------------------------------------------------------------------------------------------------- */

qs_status qsi_load_tensor(qs_queue *queue, const qs_checkpoint *checkpoint, const char *name, qs_view view)
{
    qs_status status = QS_OK;
    const int64_t index = qs_checkpoint_find(checkpoint, name);
    qs_tensor_info info;
    if (index < 0)
        QS_FAIL(QS_ERR_FORMAT, "%s: there is no tensor %s", qs_checkpoint_path(checkpoint), name);
    QS_TRY(qs_checkpoint_tensor(checkpoint, index, &info));
    const int64_t bytes = view.rows * qs_row_bytes((qs_format)view.format, view.cols);
    if ((int64_t)info.bytes != bytes)
        QS_FAIL(QS_ERR_FORMAT, "%s: tensor %s holds %lld bytes; the config needs %lld (%s [%lld,%lld])",
                qs_checkpoint_path(checkpoint), name, (long long)info.bytes, (long long)bytes,
                qs_format_name((qs_format)view.format), (long long)view.rows, (long long)view.cols);
    QS_TRY(qs_write(queue, view, qs_checkpoint_data(checkpoint, index)));
fail:
    return status;
}

/* Matrices and floats from an open checkpoint of the same config. */
qs_status qsi_model_load(qs_model *m, const qs_checkpoint *checkpoint)
{
    qs_status status = QS_OK;
    char name[128];
    for (int64_t i = 0; i < qsi_matrix_count(m) && !m->streamed; i++) {
        const qsi_matrix *x = &m->matrices[i];
        snprintf(name, sizeof name, "%s.weight", x->name);
        QS_TRY(qsi_load_tensor(m->queue, checkpoint, name, x->weight));
        if (m->config.dense)
            continue;
        snprintf(name, sizeof name, "%s.weight_scale", x->name);
        QS_TRY(qsi_load_tensor(m->queue, checkpoint, name, x->scale));
    }
    for (int64_t i = 0; i < m->n_floats; i++)
        if (m->floats[i].view.buffer)
            QS_TRY(qsi_load_tensor(m->queue, checkpoint, m->floats[i].name, m->floats[i].view));
    for (int64_t i = 0; i < m->n_adapters; i++)
        QS_TRY(qsi_load_tensor(m->queue, checkpoint, m->adapters[i].name, m->adapters[i].view));
fail:
    return status;
}

qs_status qs_model_open(qs_context *context, const char *path, qs_model **out)
{
    qs_status status = QS_OK;
    qs_checkpoint *checkpoint = NULL;
    qs_model *m = NULL;
    qs_model_config config;
    QS_TRY(qs_checkpoint_open(context, path, &checkpoint));
    QS_TRY(qsi_model_config_of(checkpoint, &config));
    if (qs_checkpoint_manifest(checkpoint))
        QS_TRY(qs_checkpoint_verify(checkpoint));
    QS_TRY(qsi_model_allocate(context, &config, false, &m));
    QS_TRY(qsi_model_load(m, checkpoint));
    *out = m;
    m = NULL;
fail:
    qs_checkpoint_close(&checkpoint);
    qs_model_free(&m);
    return status;
}
