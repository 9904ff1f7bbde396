/* in_file.c - training in place: the model stays in its file, the rows of a phase are in memory. What becomes of them: delta.c. */
#include <stdio.h>
#include <string.h>
#include "core/in_place.h"
#include "io/manifest.h"
#include "io/merge.h"
#include "train/train.h"

enum { SLOTS = 3 };

void qs_stream_options_default(qs_stream_options *options)
{
    *options = (qs_stream_options){.struct_size = sizeof *options, .slots = SLOTS};
}

/* ---- the rows of a phase ---------------------------------------------------------------------------------------- */

static bool block_trains(const qs_trainer *t, int64_t block)
{
    for (int i = 0; i < QSI_MATRICES; i++)
        if (t->matrices[block * QSI_MATRICES + i].active.count > 0)
            return true;
    return false;
}

void qsi_lay_nothing_over(qs_trainer *t)
{
    for (int64_t i = 0; i < qsi_matrix_count(t->model); i++)
        t->model->matrices[i].trained_weight = t->model->matrices[i].trained_scale = qs_absent();
}

void qsi_lay_over(qs_trainer *t)
{
    for (int64_t i = 0; i < qsi_matrix_count(t->model); i++) {
        qsi_matrix *x = &t->model->matrices[i];
        x->trained_first = t->matrices[i].active.first;
        x->trained_weight = t->matrices[i].weight;
        x->trained_scale = t->matrices[i].half;
    }
}

static qs_status copy_rows(qs_trainer *t, int64_t block)
{
    qs_status status = QS_OK;
    for (int64_t i = block * QSI_MATRICES; i < (block + 1) * QSI_MATRICES; i++) {
        const qsi_matrix *x = &t->model->matrices[i];
        const qsi_matrix_state *s = &t->matrices[i];
        if (s->active.count == 0)
            continue;
        QS_TRY(qsi_run(t->model->queue, qs_op_copy(s->weight, qs_view_rows(x->weight, s->active.first, s->active.count))));
        QS_TRY(qsi_run(t->model->queue, qs_op_copy(s->half, qsi_columns(x->scale, s->active))));
    }
fail:
    return status;
}

void qsi_tell_uses(qs_trainer *t)
{
    for (int64_t l = 0; l < t->model->config.layers; l++)
        t->host_uses[l] = l >= t->lowest ? 2 : 1;
    qsi_stream_uses(t->model->stream, t->host_uses);
}

qs_status qsi_phase_fetch(qs_trainer *t)
{
    qs_status status = QS_OK;
    if (!t->model->streamed)
        return QS_OK;
    qsi_lay_nothing_over(t);
    qsi_blocks_forget(t->model);
    qsi_tell_uses(t);
    for (int64_t l = t->lowest; l < t->model->config.layers; l++)
        if (block_trains(t, l))
            QS_TRY(qsi_blocks_expect(t->model, l, l));
    for (int64_t l = t->lowest; l < t->model->config.layers; l++) {
        if (!block_trains(t, l))
            continue;
        QS_TRY(qsi_block_enter(t->model, l));
        QS_TRY(copy_rows(t, l));
        QS_TRY(qsi_block_leave(t->model, l));
    }
    qsi_lay_over(t);
    t->merged = false;
fail:
    return status;
}

/* ---- the model ---------------------------------------------------------------------------------------------------- */

qs_status qsi_model_manifest(const qs_checkpoint *checkpoint, json_t **out, char seal[QSI_HEX])
{
    qs_status status = QS_OK;
    json_t *manifest = json_loads(qs_checkpoint_manifest(checkpoint), JSON_REJECT_DUPLICATES, NULL);
    if (!manifest)
        QS_FAIL(QS_ERR_NOMEM, "no memory to read the manifest of %s", qs_checkpoint_path(checkpoint));
    snprintf(seal, QSI_HEX, "%s", json_string_value(json_object_get(manifest, QSI_SEAL)));
    if (out)
        *out = manifest;
    else
        json_decref(manifest);
fail:
    return status;
}

/* Levels of another run would say nothing about signs that have moved on. */
static qs_status check_stateless(const qs_checkpoint *checkpoint)
{
    qs_status status = QS_OK;
    for (int64_t i = 0; i < qs_checkpoint_count(checkpoint); i++) {
        qs_tensor_info info;
        QS_TRY(qs_checkpoint_tensor(checkpoint, i, &info));
        if (strcmp(info.file, qsi_file_names[QSI_STATE_FILE]) == 0)
            QS_FAIL(QS_ERR_ARG, "%s holds the training state of another run (%s); make a model of it with qsbits init --from, or "
                    "continue it with --from", qs_checkpoint_path(checkpoint), info.name);
    }
fail:
    return status;
}

/* Slots and host memory for slabs, as a plan of the run has them within what is left of the RAM budget. */
static qs_status plan_stream(qs_trainer *t, const qs_checkpoint *checkpoint, const qs_stream_options *stream, int64_t ctx,
                             qsi_stream_options *out)
{
    qs_status status = QS_OK;
    qs_model_config config;
    qs_memory_usage used;
    qs_memory_plan plan;
    const int64_t budget = qsi_budget(t->context, QS_POOL_RAM);
    QS_TRY(qsi_model_config_of(checkpoint, &config));
    if (ctx > 0)
        config.ctx = ctx;
    qs_memory_in(t->context, QS_POOL_RAM, QS_MEMORY_TAGS, &used);
    const uint64_t left = budget == INT64_MAX ? 0 : qsi_max(1, budget - (int64_t)used.current_bytes);
    QS_TRY(qs_train_plan(&config, &t->options, stream, left, &plan));
    *out = (qsi_stream_options){.slots = stream->slots, .ram_bytes = (int64_t)plan.bytes[QS_POOL_RAM][QS_MEMORY_WEIGHTS]};
fail:
    return status;
}

static qs_status open_model(qs_trainer *t, const char *folder, const qs_stream_options *options, int64_t ctx)
{
    qs_status status = QS_OK;
    qs_checkpoint *checkpoint = NULL;
    qsi_stream_options o;
    QS_TRY(qsi_lock_take(folder, &t->lock));
    QS_TRY(qsi_model_recover(t->context, folder, NULL));
    QS_TRY(qs_checkpoint_open(t->context, folder, &checkpoint));
    QS_TRY(check_stateless(checkpoint));
    QS_TRY(qsi_model_manifest(checkpoint, NULL, t->base));
    QS_TRY(plan_stream(t, checkpoint, options, ctx, &o));
    QS_TRY(qsi_model_open_streamed(t->context, folder, ctx, &o, &t->model));
fail:
    qs_checkpoint_close(&checkpoint);
    return status;
}

qs_status qs_trainer_create_in_place(qs_context *context, const char *folder, const qs_stream_options *stream, int64_t ctx,
                                     const qs_train_options *options, qs_text *text, qs_trainer **out)
{
    qs_status status = QS_OK;
    qs_trainer *t = qsi_alloc(context, QS_MEMORY_OTHER, sizeof *t);
    if (!t)
        return QS_ERR_NOMEM;
    t->context = context;
    t->text = text;
    t->options = *options;
    t->options.health_window = 0;
    t->lock = -1;
    if (options->optimizer != QS_OPTIMIZER_FSM || options->recipe != QS_RECIPE_DEFAULT)
        QS_FAIL(QS_ERR_ARG, "only fsm with its default recipe trains a model in place");
    QS_TRY(open_model(t, folder, stream, ctx));
    QS_TRY(qsi_trainer_check(t, &t->model->config));
    QS_TRY(qsi_trainer_begin(t));
    *out = t;
    t = NULL;
fail:
    qs_trainer_free(&t);
    return status;
}

void qs_trainer_stream_stats(const qs_trainer *t, qs_stream_stats *stats)
{
    qsi_stream_stats s = {0};
    if (t->model->stream)
        qsi_stream_get_stats(t->model->stream, &s);
    *stats = (qs_stream_stats){s.acquired, s.from_slot, s.from_ram, s.read_bytes, s.copied_bytes,
                               s.read_seconds, s.copy_seconds, s.transfer_seconds, s.wait_seconds};
}
