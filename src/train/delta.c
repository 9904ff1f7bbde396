/* delta.c - what becomes of the rows of a phase that trains in place: merged into the model file, or kept in deltas. */
#include <stdio.h>
#include <string.h>
#include <xxhash.h>
#include "io/manifest.h"
#include "io/merge.h"
#include "train/train.h"

/* ---- merging ------------------------------------------------------------------------------------------------------- */

int qs_trainer_must_merge(const qs_trainer *t)
{
    return t->model->streamed && !t->merged && t->step > 0 && t->step == t->phase.first + t->phase.steps;
}

/* Where the rows of tensor p of the model file lie, of a vector its elements: all but those of matrices are whole. */
static qsi_patch patch_of(const qs_trainer *t, const qsi_persistent *p)
{
    qsi_patch patch = {.rows = p->view.format != QS_W1 && p->view.rows == 1 ? p->view.cols : p->view.rows};
    snprintf(patch.name, sizeof patch.name, "%s", p->name);
    if (p->matrix >= 0)
        patch.first_row = t->matrices[p->matrix].active.first;
    return patch;
}

/* The checksum of the tensors of the model file that a phase changes, as their bytes lie in the file, one after the other. */
static qs_status rows_sum(const qs_trainer *t, const qsi_persistent *tensors, int64_t count, char sum[QSI_HEX])
{
    qs_status status = QS_OK;
    int64_t most = 0;
    uint8_t *bytes = NULL;
    XXH3_state_t *state = XXH3_createState();
    for (int64_t i = 0; i < count; i++)
        most = qsi_max(most, qsi_view_bytes(tensors[i].view));
    bytes = qsi_alloc(t->context, QS_MEMORY_IO, most);
    if (!bytes || !state)
        QS_FAIL(QS_ERR_NOMEM, "no memory to merge a tensor of %lld bytes", (long long)most);
    XXH3_128bits_reset(state);
    for (int64_t i = 0; i < count; i++) {
        QS_TRY(qs_read(t->model->queue, tensors[i].view, bytes));
        XXH3_128bits_update(state, bytes, (size_t)qsi_view_bytes(tensors[i].view));
    }
    qsi_hash_hex(XXH3_128bits_digest(state), sum);
fail:
    XXH3_freeState(state);
    qsi_free(bytes);
    return status;
}

/* The file has changed: it is opened anew, and blocks whose rows or norms trained are read again. */
static qs_status reopen(qs_trainer *t)
{
    qs_status status = QS_OK;
    qs_checkpoint *checkpoint = NULL;
    QS_TRY(qs_checkpoint_open(t->context, qs_checkpoint_path(t->model->source), &checkpoint));
    QS_TRY(qsi_model_manifest(checkpoint, NULL, t->base));
    for (int64_t l = t->lowest; l < t->model->config.layers; l++)
        qsi_stream_changed(t->model->stream, checkpoint, l);
    qs_checkpoint_close(&t->model->source);
    t->model->source = checkpoint;
    checkpoint = NULL;
fail:
    qs_checkpoint_close(&checkpoint);
    return status;
}

qs_status qs_trainer_merge(qs_trainer *t)
{
    qs_status status = QS_OK;
    qsi_persistent *tensors = NULL;
    qsi_patch *patches = NULL;
    json_t *fields = NULL;
    char sum[QSI_HEX];
    int64_t count = 0, patched = 0;
    if (!qs_trainer_must_merge(t))
        return QS_OK;
    QS_TRY(qsi_trainer_tensors(t, &tensors, &count));
    patches = qsi_alloc_array(t->context, QS_MEMORY_IO, count, sizeof *patches);
    if (!patches)
        QS_TRY(QS_ERR_NOMEM);
    for (; patched < count && tensors[patched].file == 0; patched++)
        patches[patched] = patch_of(t, &tensors[patched]);
    qsi_stream_rest(t->model->stream);
    /* which state the model was in before, and what came in: so the run's checkpoint is known to be in it */
    QS_TRY(rows_sum(t, tensors, patched, sum));
    fields = json_pack("{s:{s:s, s:I, s:s}}", "merged", "base", t->base, "step", (json_int_t)t->step, "rows", sum);
    if (!fields)
        QS_FAIL(QS_ERR_NOMEM, "no memory for the manifest of %s", qs_checkpoint_path(t->model->source));
    qsi_tensor_source s = {t->model->queue, tensors};
    QS_TRY(qsi_model_merge(t->context, qs_checkpoint_path(t->model->source), patches, patched, qsi_tensor_fetch, &s, fields));
    QS_TRY(reopen(t));
    qsi_lay_nothing_over(t);
    t->merged = true;
fail:
    json_decref(fields);
    qsi_free(patches);
    qsi_free(tensors);
    return status;
}

/* ---- deltas ----------------------------------------------------------------------------------------------------------- */

bool qsi_delta_to_json(const qs_trainer *t, json_t *manifest)
{
    qsi_persistent *tensors = NULL;
    int64_t count = 0;
    if (!t->model->streamed)
        return true;
    json_t *ranges = json_array();
    bool whole = ranges && qsi_trainer_tensors(t, &tensors, &count) == QS_OK;
    for (int64_t i = 0; whole && i < count && tensors[i].file == 0; i++) {
        const qsi_patch patch = patch_of(t, &tensors[i]);
        whole = json_array_append_new(ranges, json_pack("{s:s, s:I, s:I}", "tensor", patch.name, "first_row",
                                                        (json_int_t)patch.first_row, "rows", (json_int_t)patch.rows)) == 0;
    }
    qsi_free(tensors);
    return json_object_set_new(manifest, "ranges", ranges) == 0 && whole &&
           json_object_set_new(manifest, "base", json_string(t->base)) == 0 &&
           json_object_set_new(manifest, "kind", json_string("delta")) == 0;
}

/* The same of a delta. */
static qs_status delta_sum(const qs_checkpoint *delta, char sum[QSI_HEX])
{
    qs_status status = QS_OK;
    XXH3_state_t *state = XXH3_createState();
    if (!state)
        QS_FAIL(QS_ERR_NOMEM, "no memory to read %s", qs_checkpoint_path(delta));
    XXH3_128bits_reset(state);
    for (int64_t i = 0; i < qs_checkpoint_count(delta); i++) {
        qs_tensor_info info;
        QS_TRY(qs_checkpoint_tensor(delta, i, &info));
        if (strcmp(info.file, qsi_file_names[QSI_MODEL_FILE]) == 0)
            XXH3_128bits_update(state, qs_checkpoint_data(delta, i), (size_t)info.bytes);
    }
    qsi_hash_hex(XXH3_128bits_digest(state), sum);
fail:
    XXH3_freeState(state);
    return status;
}

/* Whether the last merge into the model was that of this delta. */
static qs_status is_merged(const json_t *model, const json_t *manifest, const qs_checkpoint *delta, bool *merged)
{
    qs_status status = QS_OK;
    char sum[QSI_HEX];
    const json_t *last = json_object_get(model, "merged");
    const char *rows = json_string_value(json_object_get(last, "rows"));
    *merged = false;
    if (!rows || !json_equal(json_object_get(last, "base"), json_object_get(manifest, "base")) ||
        !json_equal(json_object_get(last, "step"), json_object_get(manifest, "step")))
        return QS_OK;
    QS_TRY(delta_sum(delta, sum));
    *merged = strcmp(rows, sum) == 0;
fail:
    return status;
}

qs_status qsi_delta_check(qs_trainer *t, const qs_checkpoint *delta, const json_t *manifest)
{
    qs_status status = QS_OK;
    char seal[QSI_HEX];
    json_t *model = NULL;
    bool merged = false;
    const char *base = json_string_value(json_object_get(manifest, "base")), *path = qs_checkpoint_path(delta);
    if (!t->model->streamed)
        return QS_OK;
    if (!qsi_is_checksum(base))
        QS_FAIL(QS_ERR_ARG, "%s is a checkpoint of a whole model; a run that trains in place continues from deltas", path);
    QS_TRY(qsi_model_manifest(t->model->source, &model, seal));
    QS_TRY(is_merged(model, manifest, delta, &merged));
    if (!merged && strcmp(base, t->base) != 0)
        QS_FAIL(QS_ERR_ARG, "%s builds on the model %s, but %s is %s; it has been trained since, or it is another model; put that one "
                "back, or start a new run", path, base, qs_checkpoint_path(t->model->source), t->base);
    t->merged = merged;
fail:
    json_decref(model);
    return status;
}

/* Slots may hold blocks with the rows of another phase laid over them. */
void qsi_delta_loaded(qs_trainer *t)
{
    if (!t->model->streamed)
        return;
    qsi_blocks_forget(t->model);
    for (int64_t l = 0; l < t->model->config.layers; l++)
        qsi_stream_changed(t->model->stream, t->model->source, l);
    qsi_tell_uses(t);
    qsi_lay_nothing_over(t);
    if (!t->merged)
        qsi_lay_over(t);
}
