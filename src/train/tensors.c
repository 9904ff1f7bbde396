/* tensors.c - the list of everything that persists between two steps, in the order of the files; saving, loading, hashing and
 * the count of bits per weight derive from it. */
#include <stdio.h>
#include "train/train.h"

typedef struct list {
    qsi_persistent *entries;
    int64_t count;
} list;

static void put(list *l, const char *base, const char *suffix, qs_view view, int file, int64_t slab, qsi_part part)
{
    if (!view.buffer)
        return;
    qsi_persistent *p = &l->entries[l->count++];
    snprintf(p->name, sizeof p->name, "%s%s", base, suffix);
    p->view = view;
    p->file = file;
    p->slab = slab;
    p->part = part;
    p->matrix = -1;
}

static void put_parts(list *l, const qs_trainer *t, int64_t index, int file)
{
    const qsi_matrix *x = &t->model->matrices[index];
    const qsi_matrix_state *s = &t->matrices[index];
    const int64_t slab = 1 + index / QSI_MATRICES;
    if (file == 0) {
        const bool apart = t->model->streamed;   /* a delta holds the rows of the phase */
        put(l, x->name, ".weight", apart ? s->weight : x->weight, 0, slab, QSI_OF_MATRIX);
        put(l, x->name, ".weight_scale", apart ? s->half : x->scale, 0, slab, QSI_OF_MATRIX);
        return;
    }
    put(l, x->name, ".weight_state", s->levels, 1, slab, QSI_OF_MATRIX);
    put(l, x->name, ".anchor", s->anchor, 1, slab, QSI_OF_MATRIX);
    put(l, x->name, ".latent", s->latent, 1, slab, QSI_OF_MATRIX);
    put(l, x->name, ".weight.adam_m", s->m, 1, slab, QSI_OF_MATRIX);
    put(l, x->name, ".weight.adam_v", s->v, 1, slab, QSI_OF_MATRIX);
    put(l, x->name, ".bop_average", s->average, 1, slab, QSI_OF_MATRIX);
    put(l, x->name, ".weight_scale_master", s->scale.value, 1, slab, QSI_OF_MATRIX);
    put(l, x->name, ".weight_scale_master.adam_m", s->scale.m, 1, slab, QSI_OF_MATRIX);
    put(l, x->name, ".weight_scale_master.adam_v", s->scale.v, 1, slab, QSI_OF_MATRIX);
    put(l, x->name, ".row_moment", s->row_moment, 1, slab, QSI_OF_MATRIX);
    put(l, x->name, ".column_moment", s->column_moment, 1, slab, QSI_OF_MATRIX);
    put(l, x->name, ".control", s->control, 1, slab, QSI_OF_MATRIX);
    put(l, x->name, ".health", s->record, 1, slab, QSI_OF_HEALTH);
}

static void put_matrix(list *l, const qs_trainer *t, int64_t index, int file)
{
    const int64_t first = l->count;
    put_parts(l, t, index, file);
    for (int64_t i = first; i < l->count; i++)
        l->entries[i].matrix = index;
}

static void put_float(list *l, const qs_trainer *t, int64_t index, int file)
{
    const qsi_float *f = &t->model->floats[index];
    if (file == 0 && t->model->streamed && !qsi_float_trains(t, index))
        return;   /* as in the model that the delta builds on */
    if (file == 0)
        put(l, f->name, "", f->view, 0, f->slab, QSI_OF_FLOAT);
    else {
        put(l, f->name, ".adam_m", t->floats[index].m, 1, f->slab, QSI_OF_FLOAT);
        put(l, f->name, ".adam_v", t->floats[index].v, 1, f->slab, QSI_OF_FLOAT);
    }
}

/* The adapters of a block; they train its matrices and count like them. */
static void put_adapters(list *l, const qs_trainer *t, int64_t block, int file)
{
    const int64_t per_block = t->model->n_adapters / t->model->config.layers;
    for (int64_t i = block * per_block; i < (block + 1) * per_block; i++) {
        const qsi_float *f = &t->model->adapters[i];
        if (file == 0)
            put(l, f->name, "", f->view, 0, f->slab, QSI_OF_MATRIX);
        else {
            put(l, f->name, ".adam_m", t->adapters[i].m, 1, f->slab, QSI_OF_MATRIX);
            put(l, f->name, ".adam_v", t->adapters[i].v, 1, f->slab, QSI_OF_MATRIX);
        }
    }
}

static void put_file(list *l, const qs_trainer *t, int file)
{
    put_float(l, t, 0, file);
    for (int64_t b = 0; b < t->model->config.layers; b++) {
        for (int i = 0; i < QSI_MATRICES; i++)
            put_matrix(l, t, b * QSI_MATRICES + i, file);
        for (int i = 0; i < QSI_BLOCK_FLOATS; i++)
            put_float(l, t, 1 + b * QSI_BLOCK_FLOATS + i, file);
        put_adapters(l, t, b, file);
    }
    put_float(l, t, t->model->n_floats - 2, file);
    put_float(l, t, t->model->n_floats - 1, file);
}

qs_status qsi_trainer_tensors(const qs_trainer *t, qsi_persistent **out, int64_t *count)
{
    enum { PER_MATRIX = 15, PER_FLOAT = 3 };
    const int64_t most = PER_MATRIX * qsi_matrix_count(t->model) + PER_FLOAT * (t->model->n_floats + t->model->n_adapters);
    list l = {qsi_alloc_array(t->context, QS_MEMORY_IO, most, sizeof *l.entries), 0};
    if (!l.entries)
        return QS_ERR_NOMEM;
    put_file(&l, t, 0);
    put_file(&l, t, 1);
    *out = l.entries;
    *count = l.count;
    return QS_OK;
}

qs_status qsi_tensor_fetch(void *user, int64_t index, void *bytes, int64_t n_bytes)
{
    const qsi_tensor_source *source = user;
    (void)n_bytes;
    return qs_read(source->queue, source->tensors[index].view, bytes);
}

qs_status qs_trainer_bits(const qs_trainer *t, qs_bits *bits)
{
    qs_status status = QS_OK;
    qsi_persistent *tensors = NULL;
    int64_t count = 0, bytes[2] = {0, 0}, health = 0, weights = 0;
    QS_TRY(qsi_trainer_tensors(t, &tensors, &count));
    for (int64_t i = 0; i < count; i++) {
        if (tensors[i].part != QSI_OF_FLOAT)
            bytes[tensors[i].file] += qsi_view_bytes(tensors[i].view);
        if (tensors[i].part == QSI_OF_HEALTH)
            health += qsi_view_bytes(tensors[i].view);
    }
    for (int64_t i = 0; i < qsi_matrix_count(t->model); i++) {
        const qsi_matrix *x = &t->model->matrices[i];
        weights += x->rows * x->cols;
        if (t->model->streamed)   /* what of it is in memory was counted; the rest is in the file */
            bytes[0] += (x->rows - t->matrices[i].active.count) * (x->cols / 8 + 2);
    }
    bits->packed_weights = weights;
    bits->packed_bits_per_weight = 8.0 * (double)bytes[0] / (double)weights;
    bits->training_bytes = bytes[0] + bytes[1];
    bits->training_bits_per_weight = 8.0 * (double)bits->training_bytes / (double)weights;
    bits->health_bits_per_weight = 8.0 * (double)health / (double)weights;
    bits->adamw16_bytes = 12 * weights;
fail:
    qsi_free(tensors);
    return status;
}
