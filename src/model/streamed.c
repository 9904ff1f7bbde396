/* streamed.c - a model larger than memory: its matrices stay in the model file and pass through slots, block by block. The norms of
 * blocks, the embedding and the head are resident. Rows that train live apart and are laid over the slab of their block. */
#include "model/model.h"

#include <stdio.h>
#include "io/manifest.h"

static qs_status check_streamable(const qs_checkpoint *checkpoint, const qs_model_config *c)
{
    qs_status status = QS_OK;
    if (c->dense || c->lora_rank > 0)
        QS_FAIL(QS_ERR_ARG, "%s has %s; only models of 1-bit weights alone are streamed, open this one as a whole",
                qs_checkpoint_path(checkpoint), c->dense ? "dense fp32 matrices" : "adapters");
    if (!qs_checkpoint_manifest(checkpoint))
        QS_FAIL(QS_ERR_ARG, "%s has no manifest with the checksums of its slabs; give the folder it lies in",
                qs_checkpoint_path(checkpoint));
    if (qs_checkpoint_slab_count(checkpoint, 0) != c->layers + 2)
        QS_FAIL(QS_ERR_FORMAT, "%s has %lld slabs; a model of %lld blocks has %lld", qs_checkpoint_path(checkpoint),
                (long long)qs_checkpoint_slab_count(checkpoint, 0), (long long)c->layers, (long long)(c->layers + 2));
fail:
    return status;
}

/* Place of a tensor inside the slab of its block, and that it has the size it must have. */
static qs_status locate(const qs_checkpoint *checkpoint, const char *name, const qs_slab_info *slab, int64_t bytes, int64_t *at)
{
    qs_status status = QS_OK;
    qs_tensor_info info;
    const int64_t index = qs_checkpoint_find(checkpoint, name);
    if (index < 0)
        QS_FAIL(QS_ERR_FORMAT, "%s: there is no tensor %s", qs_checkpoint_path(checkpoint), name);
    QS_TRY(qs_checkpoint_tensor(checkpoint, index, &info));
    if ((int64_t)info.bytes != bytes || info.offset < slab->offset || info.offset + info.bytes > slab->offset + slab->bytes)
        QS_FAIL(QS_ERR_FORMAT, "%s: tensor %s holds %llu bytes at %llu; the config needs %lld inside the slab of its block",
                qs_checkpoint_path(checkpoint), name, (unsigned long long)info.bytes, (unsigned long long)info.offset, (long long)bytes);
    *at = (int64_t)(info.offset - slab->offset);
fail:
    return status;
}

static qs_status locate_matrices(qs_model *m)
{
    qs_status status = QS_OK;
    char name[128];
    for (int64_t i = 0; i < qsi_matrix_count(m); i++) {
        qsi_matrix *x = &m->matrices[i];
        qs_slab_info slab;
        QS_TRY(qs_checkpoint_slab(m->source, 0, 1 + i / QSI_MATRICES, &slab));
        snprintf(name, sizeof name, "%s.weight", x->name);
        QS_TRY(locate(m->source, name, &slab, x->rows * qs_row_bytes(QS_W1, x->cols), &x->weight_at));
        snprintf(name, sizeof name, "%s.weight_scale", x->name);
        QS_TRY(locate(m->source, name, &slab, qs_row_bytes(QS_F16, x->rows), &x->scale_at));
    }
fail:
    return status;
}

qs_status qsi_model_open_streamed(qs_context *context, const char *path, int64_t ctx, const qsi_stream_options *options,
                                  qs_model **out)
{
    qs_status status = QS_OK;
    qs_checkpoint *checkpoint = NULL;
    qs_model *m = NULL;
    qs_model_config config;
    QS_TRY(qs_checkpoint_open(context, path, &checkpoint));
    QS_TRY(qsi_model_config_of(checkpoint, &config));
    QS_TRY(check_streamable(checkpoint, &config));
    /* blocks are checked when they stream; these are not streamed */
    QS_TRY(qsi_checkpoint_verify_slab(checkpoint, QSI_MODEL_FILE, 0));
    QS_TRY(qsi_checkpoint_verify_slab(checkpoint, QSI_MODEL_FILE, config.layers + 1));
    if (ctx > 0)
        config.ctx = ctx;
    QS_TRY(qsi_model_allocate(context, &config, true, &m));
    m->source = checkpoint;
    checkpoint = NULL;
    QS_TRY(locate_matrices(m));
    QS_TRY(qsi_model_load(m, m->source));
    QS_TRY(qsi_stream_create(context, m->source, 1, m->config.layers, options, &m->stream));
    *out = m;
    m = NULL;
fail:
    qs_checkpoint_close(&checkpoint);
    qs_model_free(&m);
    return status;
}

/* ---- passing through ------------------------------------------------------------------------------------------------ */

qs_status qsi_blocks_expect(qs_model *m, int64_t first, int64_t last)
{
    qs_status status = QS_OK;
    const int64_t step = first <= last ? 1 : -1;
    for (int64_t block = first; m->stream && block != last + step; block += step)
        QS_TRY(qsi_stream_expect(m->stream, &block, 1));
fail:
    return status;
}

void qsi_blocks_forget(qs_model *m)
{
    if (!m->stream)
        return;
    qsi_stream_cancel(m->stream);
    if (m->entered > 0)
        (void)!qsi_block_leave(m, m->entered - 1);
}

/* The rows that train, over what the file says. */
static qs_status lay_over(qs_model *m, const qsi_matrix *x)
{
    qs_status status = QS_OK;
    const int64_t count = x->trained_weight.rows;
    if (!x->trained_weight.buffer)
        return QS_OK;
    QS_TRY(qsi_run(m->queue, qs_op_copy(qs_view_rows(x->weight, x->trained_first, count), x->trained_weight)));
    qs_view scale = x->scale;
    scale.offset += (uint64_t)qs_row_bytes(QS_F16, x->trained_first);
    scale.cols = count;
    QS_TRY(qsi_run(m->queue, qs_op_copy(scale, x->trained_scale)));
fail:
    return status;
}

qs_status qsi_block_enter(qs_model *m, int64_t block)
{
    qs_status status = QS_OK;
    qs_view slab;
    if (!m->stream)
        return QS_OK;
    QS_TRY(qsi_stream_acquire(m->stream, block, &slab));
    m->entered = 1 + block;
    for (int i = 0; i < QSI_MATRICES; i++) {
        qsi_matrix *x = qsi_matrix_of(m, block, i);
        x->weight = qs_view_at(slab.buffer, slab.offset + (uint64_t)x->weight_at, QS_W1, x->rows, x->cols);
        x->scale = qs_view_at(slab.buffer, slab.offset + (uint64_t)x->scale_at, QS_F16, 1, x->rows);
        QS_TRY(lay_over(m, x));
    }
fail:
    return status;
}

qs_status qsi_block_leave(qs_model *m, int64_t block)
{
    qs_status status = QS_OK;
    if (!m->stream)
        return QS_OK;
    for (int i = 0; i < QSI_MATRICES; i++)
        qsi_matrix_of(m, block, i)->weight = qsi_matrix_of(m, block, i)->scale = qs_absent();
    status = qs_sync(m->queue);   /* what reads the slot has run */
    qsi_stream_release(m->stream, block);
    m->entered = 0;
    return status;
}
