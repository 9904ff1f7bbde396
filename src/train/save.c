/* save.c - checkpoints of a trainer: writing, continuing, hashing (docs/format.md). */
#include <string.h>
#include <xxhash.h>
#include "io/checkpoint_write.h"
#include "io/json_text.h"
#include "train/train.h"

/* Shape of a tensor in file elements. */
static void file_shape(const qsi_persistent *p, qsi_saved_tensor *s)
{
    const int64_t n = p->view.rows, k = p->view.cols;
    s->rank = 2;
    s->shape[0] = n;
    switch ((qs_format)p->view.format) {
    case QS_W1: s->shape[1] = k / 32; break;
    case QS_T2: s->shape[1] = k / 16; break;
    case QS_C2:
    case QS_C4:
        s->rank = 3;
        s->shape[1] = p->view.format == QS_C2 ? 2 : 4;
        s->shape[2] = k / 32;
        break;
    default:
        s->shape[1] = k;
        if (n == 1) {
            s->rank = 1;
            s->shape[0] = k;
        }
    }
}

/* NULL without memory: a manifest that lacks something must not come to be. */
static json_t *manifest_of(const qs_trainer *t)
{
    qs_text_info text;
    qs_text_get_info(t->text, &text);
    json_t *config = json_pack("{s:o, s:o}", "model", qsi_model_config_to_json(&t->model->config), "train",
                               qsi_train_options_to_json(&t->options));
    json_t *all = json_pack("{s:i, s:s, s:o, s:I, s:I, s:I, s:{s:I, s:I}, s:{s:s, s:I, s:I}}", "format_version",
                            QS_CHECKPOINT_VERSION, "kind", "full", "config", config, "step", (json_int_t)t->step, "tokens",
                            (json_int_t)(t->step * t->rows), "seed", (json_int_t)t->options.seed, "cursor", "epoch",
                            (json_int_t)t->cursor.epoch, "index", (json_int_t)t->cursor.index, "text", "xxh3_128", text.hash,
                            "tokens", (json_int_t)text.tokens, "train_tokens", (json_int_t)text.train_tokens);
    bool whole = text.test_tokens == 0 ||
                 json_object_set_new(json_object_get(all, "text"), "test_tokens", json_integer((json_int_t)text.test_tokens)) == 0;
    if (t->options.health_window != 0)
        whole = whole && json_object_set_new(all, "health", qsi_health_to_json(t)) == 0;
    whole = whole && qsi_delta_to_json(t, all);
    if (t->from[0])
        whole = whole && json_object_set_new(all, "from", json_pack("{s:s}", "xxh3_128", t->from)) == 0;
    if (whole)
        return all;
    json_decref(all);
    return NULL;
}

qs_status qs_trainer_save(qs_trainer *t, const char *folder)
{
    qs_status status = QS_OK;
    qsi_persistent *tensors = NULL;
    qsi_saved_tensor *saved = NULL;
    json_t *manifest = NULL;
    int64_t count = 0;
    QS_TRY(qsi_trainer_check_started(t));
    QS_TRY(qsi_trainer_tensors(t, &tensors, &count));
    saved = qsi_alloc_array(t->context, QS_MEMORY_IO, count, sizeof *saved);
    manifest = manifest_of(t);
    if (!saved || !manifest)
        QS_FAIL(QS_ERR_NOMEM, "no memory to save %s", folder);
    for (int64_t i = 0; i < count; i++) {
        memcpy(saved[i].name, tensors[i].name, sizeof tensors[i].name);
        saved[i].format = (qs_format)tensors[i].view.format;
        saved[i].file = tensors[i].file;
        saved[i].slab = (int)tensors[i].slab;
        file_shape(&tensors[i], &saved[i]);
    }
    qsi_tensor_source source = {t->model->queue, tensors};
    QS_TRY(qsi_checkpoint_write(t->context, folder, saved, count, qsi_tensor_fetch, &source, manifest));
fail:
    json_decref(manifest);
    qsi_free(saved);
    qsi_free(tensors);
    return status;
}

/* ---- continuing ------------------------------------------------------------------------------------------------ */

/* ARG naming the first key whose value differs. */
static qs_status compare_settings(const char *folder, const char *what, json_t *saved, json_t *ours)
{
    qs_status status = QS_OK;
    const char *key = NULL;
    json_t *value = NULL;
    qsi_text theirs_text = {0}, our_text = {0};
    json_object_foreach(ours, key, value) {
        json_t *other = json_object_get(saved, key);
        const bool unknown = !other && json_is_number(value) && json_number_value(value) == 0.0;   /* to an older version: off */
        if (unknown || json_equal(value, other))
            continue;
        if (other)
            qsi_text_json(&theirs_text, other, 0);
        qsi_text_json(&our_text, value, 0);
        QS_FAIL(QS_ERR_ARG, "%s was trained with %s %s = %s, this run asks for %s; use the same settings or another output "
                "folder", folder, what, key, theirs_text.data ? theirs_text.data : "none",
                our_text.data ? our_text.data : "none");
    }
fail:
    qsi_text_free(&theirs_text);
    qsi_text_free(&our_text);
    return status;
}

static qs_status check_start(const qs_trainer *t, const char *folder, const json_t *saved)
{
    qs_status status = QS_OK;
    const json_t *entry = json_object_get(saved, "from");
    const char *checksum = json_string_value(json_object_get(entry, "xxh3_128"));
    if (entry && !qsi_is_checksum(checksum))
        QS_FAIL(QS_ERR_FORMAT, "%s: manifest.json does not say what the run was started from", folder);
    const char *theirs = entry ? checksum : "", *ours = t->from;
    if (strcmp(theirs, ours) != 0)
        QS_FAIL(QS_ERR_ARG, "%s was started from %s%s, this run from %s%s; start from the same weights or use another output folder",
                folder, theirs[0] ? "the weights " : "random weights", theirs, ours[0] ? "the weights " : "random weights", ours);
fail:
    return status;
}

/* Without a test part there is no test_tokens. */
static qs_status compare_tests(const char *folder, json_t *saved, json_t *ours)
{
    qs_status status = QS_OK;
    const json_int_t theirs = json_integer_value(json_object_get(saved, "test_tokens"));
    const json_int_t wanted = json_integer_value(json_object_get(ours, "test_tokens"));
    if (theirs != wanted)
        QS_FAIL(QS_ERR_ARG, "%s was trained with text test_tokens = %lld, this run asks for %lld; use the same settings or another "
                "output folder", folder, (long long)theirs, (long long)wanted);
fail:
    return status;
}

static qs_status check_manifest(const qs_trainer *t, const char *folder, json_t *saved)
{
    qs_status status = QS_OK;
    json_t *ours = manifest_of(t);
    json_t *config = json_object_get(saved, "config"), *our_config = json_object_get(ours, "config");
    if (!ours)
        QS_FAIL(QS_ERR_NOMEM, "no memory to compare this run with %s", folder);
    QS_TRY(compare_settings(folder, "model", json_object_get(config, "model"), json_object_get(our_config, "model")));
    QS_TRY(check_start(t, folder, saved));   /* before the settings that follow from it */
    QS_TRY(compare_settings(folder, "training", json_object_get(config, "train"), json_object_get(our_config, "train")));
    QS_TRY(compare_tests(folder, json_object_get(saved, "text"), json_object_get(ours, "text")));
    QS_TRY(compare_settings(folder, "text", json_object_get(saved, "text"), json_object_get(ours, "text")));
    if (!json_equal(json_object_get(saved, "seed"), json_object_get(ours, "seed")))
        QS_FAIL(QS_ERR_ARG, "%s was trained with seed %lld, this run asks for %lld", folder,
                (long long)json_integer_value(json_object_get(saved, "seed")), (long long)t->options.seed);
    const json_t *cursor = json_object_get(saved, "cursor");
    if (!json_is_integer(json_object_get(cursor, "epoch")) || !json_is_integer(json_object_get(cursor, "index")))
        QS_FAIL(QS_ERR_FORMAT, "%s: manifest.json has no data cursor", folder);
    const json_int_t step = json_integer_value(json_object_get(saved, "step"));
    if (step < 0 || step > t->options.steps)
        QS_FAIL(QS_ERR_FORMAT, "%s: step %lld lies outside the run's 0..%lld", folder, (long long)step, (long long)t->options.steps);
fail:
    json_decref(ours);
    return status;
}

qs_status qs_trainer_load(qs_trainer *t, const char *folder)
{
    qs_status status = QS_OK;
    qs_checkpoint *checkpoint = NULL;
    qsi_persistent *tensors = NULL;
    json_t *manifest = NULL;
    int64_t count = 0;
    bool measured = false;
    QS_TRY((t->model->streamed ? qsi_checkpoint_open_delta : qs_checkpoint_open)(t->context, folder, &checkpoint));
    const char *text = qs_checkpoint_manifest(checkpoint);
    if (!text)
        QS_FAIL(QS_ERR_FORMAT, "%s is not a checkpoint folder (no manifest.json)", folder);
    manifest = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    if (!manifest)
        QS_FAIL(QS_ERR_NOMEM, "no memory to read the manifest of %s", folder);   /* opening has parsed it */
    QS_TRY(check_manifest(t, folder, manifest));
    QS_TRY(qsi_delta_check(t, checkpoint, manifest));
    if (t->model->streamed)
        QS_TRY(qsi_model_load(t->model, t->model->source));   /* floats that the delta does not hold are those of its base */
    QS_TRY(qs_checkpoint_verify(checkpoint));
    const int64_t step = json_integer_value(json_object_get(manifest, "step"));
    qsi_phase_assign(t, qsi_max(0, step - 1));
    QS_TRY(qsi_health_from_json(t, folder, json_object_get(manifest, "health"), step, &measured));
    QS_TRY(qsi_trainer_tensors(t, &tensors, &count));
    for (int64_t i = 0; i < count; i++)
        if (tensors[i].part != QSI_OF_HEALTH || measured)
            QS_TRY(qsi_load_tensor(t->model->queue, checkpoint, tensors[i].name, tensors[i].view));
    qsi_delta_loaded(t);
    const json_t *cursor = json_object_get(manifest, "cursor");
    t->step = step;
    t->awaiting = false;
    t->cursor.epoch = (uint64_t)json_integer_value(json_object_get(cursor, "epoch"));
    t->cursor.index = (uint64_t)json_integer_value(json_object_get(cursor, "index"));
fail:
    json_decref(manifest);
    qsi_free(tensors);
    qs_checkpoint_close(&checkpoint);
    return status;
}

/* ---- hashing --------------------------------------------------------------------------------------------------- */

qs_status qs_trainer_hash(qs_trainer *t, uint64_t *hash)
{
    qs_status status = QS_OK;
    qsi_persistent *tensors = NULL;
    uint8_t *bytes = NULL;
    int64_t count = 0, most = 0;
    XXH3_state_t *state = XXH3_createState();
    QS_TRY(qsi_trainer_tensors(t, &tensors, &count));
    for (int64_t i = 0; i < count; i++)
        most = qsi_max(most, tensors[i].view.rows * qs_row_bytes((qs_format)tensors[i].view.format, tensors[i].view.cols));
    bytes = qsi_alloc(t->context, QS_MEMORY_IO, most);
    if (!bytes || !state)
        QS_FAIL(QS_ERR_NOMEM, "no memory to hash the trainer: its largest tensor has %lld bytes", (long long)most);
    XXH3_64bits_reset(state);
    for (int64_t i = 0; i < count; i++) {
        const qs_view v = tensors[i].view;
        if (tensors[i].part == QSI_OF_HEALTH)
            continue;
        QS_TRY(qs_read(t->model->queue, v, bytes));
        XXH3_64bits_update(state, bytes, (size_t)(v.rows * qs_row_bytes((qs_format)v.format, v.cols)));
    }
    *hash = XXH3_64bits_digest(state);
fail:
    XXH3_freeState(state);
    qsi_free(bytes);
    qsi_free(tensors);
    return status;
}
