/* checkpoint_write.c - saving a checkpoint folder so that a crash, a full disk or a kill at any moment leaves a whole one:
 * everything goes to folder.tmp, is synced, and takes its name last. An older checkpoint of the same name steps aside to
 * folder.old for the moment between the two renames; readers know that name (checkpoint_latest.c). */
#include "checkpoint_write.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "json_text.h"
#include "manifest.h"
#include "safetensors_write.h"

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Names are unique over both files; *slabs is one more than the highest slab. */
static qs_status check_tensors(qs_context *context, const qs_saved_tensor *tensors, int64_t count, int64_t *slabs)
{
    qs_status status = QS_OK;
    int64_t bytes = 0;
    const char **names = NULL;
    if (count < 1 || tensors == NULL)
        QS_FAIL(QS_ERR_ARG, "a checkpoint of %" PRId64 " tensors", count);
    names = qsi_alloc_array(context, QS_MEMORY_IO, count, sizeof *names);
    if (names == NULL) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    for (int64_t t = 0; t < count; t++) {
        QS_TRY(qsi_saved_tensor_bytes(&tensors[t], &bytes));
        if (tensors[t].file < 0 || tensors[t].file >= QSI_FILES || tensors[t].slab < 0 || tensors[t].slab > 1 << 20)
            QS_FAIL(QS_ERR_ARG, "tensor '%s': file %d, slab %d", tensors[t].name, tensors[t].file, tensors[t].slab);
        names[t] = tensors[t].name;
        *slabs = qsi_max(*slabs, (int64_t)tensors[t].slab + 1);
    }
    qsort(names, (size_t)count, sizeof *names, compare_names);
    for (int64_t t = 1; t < count; t++)
        if (strcmp(names[t - 1], names[t]) == 0)
            QS_FAIL(QS_ERR_ARG, "two tensors are called '%s'", names[t]);
fail:
    qsi_free(names);
    return status;
}

/* A copy of fields with our own added; "files" is filled later. */
static qs_status manifest_begin(const json_t *fields, json_t **out)
{
    qs_status status = QS_OK;
    json_t *root = NULL, *version = json_object_get(fields, "format_version"), *kind = json_object_get(fields, "kind");
    json_t *step = json_object_get(fields, "step");
    if (!json_is_object(json_object_get(fields, "config")) || !json_is_integer(step) || json_integer_value(step) < 0)
        QS_FAIL(QS_ERR_ARG, "a manifest needs a config (object) and a step (integer from 0 up)");
    if (version != NULL && json_integer_value(version) != QS_CHECKPOINT_VERSION)
        QS_FAIL(QS_ERR_ARG, "manifest format_version must be %d", QS_CHECKPOINT_VERSION);
    if (kind != NULL && !qsi_manifest_is_delta(fields) && (!json_is_string(kind) || strcmp(json_string_value(kind), "full") != 0))
        QS_FAIL(QS_ERR_ARG, "manifest kind must be \"full\" or \"" QSI_DELTA "\"");
    if (json_object_get(fields, "files") != NULL || json_object_get(fields, QSI_SEAL) != NULL)
        QS_FAIL(QS_ERR_ARG, "manifest fields files and " QSI_SEAL " are added by the writer");
    /* values are shared and stay as they are; jansson takes a non-const object but only reads it. json_copy would hide a
     * member that found no memory. */
    root = json_object();
    if (json_object_update(root, (json_t *)(uintptr_t)fields) != 0 ||
        json_object_set_new(root, "format_version", json_integer(QS_CHECKPOINT_VERSION)) != 0 ||
        json_object_set_new(root, "kind", json_string(qsi_manifest_is_delta(fields) ? QSI_DELTA : "full")) != 0 ||
        json_object_set_new(root, "files", json_object()) != 0 ||
        json_object_set_new(root, QSI_SEAL, json_string("00000000000000000000000000000000")) != 0)
        QS_FAIL(QS_ERR_NOMEM, "no memory for the manifest");
    *out = root;
    root = NULL;
fail:
    json_decref(root);
    return status;
}

/* Seals the manifest with its checksum and writes it. */
static qs_status manifest_write(qs_context *context, const char *path, const json_t *root)
{
    qs_status status = QS_OK;
    qsi_text text = {context, NULL, 0, 0, QS_OK};
    qsi_writer *writer = NULL;
    QS_TRY(qsi_manifest_text(root, &text));
    QS_TRY(qsi_writer_open(path, &writer));
    QS_TRY(qsi_writer_write(writer, text.data, (uint64_t)text.length));
    QS_TRY(qsi_writer_commit(&writer));
fail:
    qsi_writer_abort(&writer);
    qsi_text_free(&text);
    return status;
}

/* Rows as meant, of a vector its elements. */
static int64_t rows_of(const qs_saved_tensor *t)
{
    const bool planes = t->format == QS_C2 || t->format == QS_C4;
    return t->rank == 3 && !planes ? t->shape[0] * t->shape[1] : t->shape[0];
}

/* Base and ranges of a delta: every range is that of a tensor, which has its rows. */
static qs_status check_delta(qs_context *context, const qs_saved_tensor *tensors, int64_t count, const json_t *root)
{
    qs_status status = QS_OK;
    const char *base = NULL;
    qsi_range *ranges = NULL;
    int64_t listed = 0, found = 0;
    if (!qsi_manifest_is_delta(root))
        return QS_OK;
    status = qsi_delta_read(context, "manifest", root, &base, &ranges, &listed);
    QS_TRY(status == QS_ERR_FORMAT ? QS_ERR_ARG : status);   /* here it is the caller's */
    for (int64_t t = 0; t < count; t++) {
        const qsi_range *range = qsi_range_find(ranges, listed, tensors[t].name);
        if (range != NULL && range->rows != rows_of(&tensors[t]))
            QS_FAIL(QS_ERR_ARG, "tensor '%s' has %" PRId64 " rows, its range %" PRId64, tensors[t].name, rows_of(&tensors[t]),
                    range->rows);
        found += range != NULL;
    }
    if (found != listed)
        QS_FAIL(QS_ERR_ARG, "%" PRId64 " of %" PRId64 " ranges are of tensors that are not saved", listed - found, listed);
fail:
    qsi_free(ranges);
    return status;
}

/* What a save needs at hand. */
typedef struct save {
    qs_context *context;
    const char *temporary;
    const qs_saved_tensor *tensors;
    int64_t count, slabs;
    qs_fetch_fn *fetch;
    void *user;
    json_t *root;            /* of the manifest */
} save;

static qs_status write_file(const save *s, int which)
{
    qs_status status = QS_OK;
    json_t *entry = NULL;
    qsi_text config = {s->context, NULL, 0, 0, QS_OK};
    char *path = qsi_path_join(s->temporary, qsi_file_names[which]);
    if (path == NULL) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    if (which == QSI_MODEL_FILE && !qsi_manifest_is_delta(s->root))   /* rows alone are no model */
        qsi_text_json(&config, json_object_get(s->root, "config"), 0);
    QS_TRY(config.failed);
    QS_TRY(qsi_safetensors_write(s->context, path, s->tensors, s->count, which, s->slabs, config.data, s->fetch, s->user,
                                 &entry));
    if (json_object_set_new(json_object_get(s->root, "files"), qsi_file_names[which], entry) != 0)
        QS_FAIL(QS_ERR_NOMEM, "no memory for the manifest");
fail:
    qsi_free(path);
    qsi_text_free(&config);
    return status;
}

/* Fills folder.tmp. */
static qs_status write_folder(const save *s)
{
    qs_status status = QS_OK;
    char *path = qsi_path_join(s->temporary, QSI_MANIFEST_NAME);
    if (path == NULL) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    if (qsi_path_exists(s->temporary))
        QS_TRY(qsi_remove_tree(s->temporary));
    QS_TRY(qsi_mkdir(s->temporary));
    for (int which = 0; which < QSI_FILES; which++)
        QS_TRY(write_file(s, which));
    QS_TRY(manifest_write(s->context, path, s->root));
fail:
    qsi_free(path);
    return status;
}

/* A rename whose sync failed has happened all the same and is taken back. */
static qs_status move(const char *from, const char *to)
{
    const qs_status status = qsi_rename_durable(from, to);
    if (status != QS_OK && !qsi_path_exists(from)) {
        char reason[1024];
        snprintf(reason, sizeof reason, "%s", qs_last_error());
        (void)!qsi_rename_durable(to, from);
        qsi_fail_text("%s", reason);
    }
    return status;
}

/* folder.tmp becomes folder; a failure puts the old one back. */
static qs_status take_place(qs_context *context, const char *temporary, const char *folder, const char *old)
{
    qs_status status = QS_OK;
    const bool replaces = qsi_path_exists(folder);
    if (replaces) {
        QS_TRY(qsi_remove_tree(old));
        QS_TRY(move(folder, old));
    }
    status = move(temporary, folder);
    if (status != QS_OK && replaces && !qsi_path_exists(folder)) {
        char reason[1024];
        snprintf(reason, sizeof reason, "%s", qs_last_error());
        (void)!qsi_rename_durable(old, folder);
        if (!qsi_path_exists(folder))
            QS_FAIL(status, "%s; the checkpoint before it is now %s", reason, old);
        QS_FAIL(status, "%s", reason);
    }
    QS_TRY(status);
    if (qsi_path_exists(old) && qsi_remove_tree(old) != QS_OK && context != NULL)
        qsi_log_line(context, QS_LOG_WARNING, "%s was replaced, but %s", folder, qs_last_error());
fail:
    return status;
}

/* path with a suffix; qsi_free. */
static char *with_suffix(qs_context *context, const char *path, const char *suffix)
{
    int64_t n = (int64_t)strlen(path), m = (int64_t)strlen(suffix);
    while (n > 1 && path[n - 1] == '/')
        n--;
    char *out = qsi_alloc(context, QS_MEMORY_IO, n + m + 1);
    if (out != NULL) {
        memcpy(out, path, (size_t)n);
        memcpy(out + n, suffix, (size_t)m + 1);
    }
    return out;
}

static bool is_of_checkpoint(const char *name)
{
    static const char *const known[] = {"model.safetensors", "state.safetensors", QSI_MANIFEST_NAME};
    for (int k = 0; k < 3; k++) {
        const size_t n = strlen(known[k]);
        if (strncmp(name, known[k], n) == 0 && (name[n] == '\0' || strcmp(name + n, ".tmp") == 0))
            return true;
    }
    return false;
}

qs_status qsi_checkpoint_check_beside(const char *folder)
{
    qs_status status = QS_OK;
    static const char *const suffixes[] = {".tmp", ".old"};
    char *path = NULL, **names = NULL;
    int64_t count = 0;
    for (int s = 0; s < 2; s++) {
        path = with_suffix(NULL, folder, suffixes[s]);
        if (path == NULL)
            QS_TRY(QS_ERR_NOMEM);
        if (qsi_is_link(path) || (qsi_path_exists(path) && !qsi_is_directory(path)))
            QS_FAIL(QS_ERR_CREATE, "%s is in the way of %s; rename it or choose another name", path, folder);
        if (qsi_path_exists(path))
            QS_TRY(qsi_list_directory(path, &names, &count));
        for (int64_t k = 0; k < count; k++)
            if (!is_of_checkpoint(names[k]))
                QS_FAIL(QS_ERR_CREATE, "%s/%s is in the way of %s; rename it or choose another name", path, names[k], folder);
        qsi_free_names(names, count);
        qsi_free(path);
        names = NULL;
        path = NULL;
        count = 0;
    }
fail:
    qsi_free_names(names, count);
    qsi_free(path);
    return status;
}

qs_status qsi_checkpoint_write(qs_context *context, const char *folder, const qsi_saved_tensor *tensors, int64_t count,
                               qsi_fetch_fn *fetch, void *user, json_t *manifest_fields)
{
    qs_status status = QS_OK;
    save s = {context, NULL, tensors, count, 0, fetch, user, NULL};
    char *name = NULL, *temporary = NULL, *old = NULL;
    if (folder == NULL || folder[0] == '\0' || fetch == NULL || !json_is_object(manifest_fields))
        QS_FAIL(QS_ERR_ARG, "a checkpoint needs a folder, a fetch function and a manifest object");
    name = with_suffix(context, folder, "");
    temporary = with_suffix(context, folder, ".tmp");
    old = with_suffix(context, folder, ".old");
    if (name == NULL || temporary == NULL || old == NULL) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    QS_TRY(check_tensors(context, tensors, count, &s.slabs));
    QS_TRY(manifest_begin(manifest_fields, &s.root));
    QS_TRY(check_delta(context, tensors, count, s.root));
    s.temporary = temporary;
    status = write_folder(&s);
    if (status == QS_OK)
        status = take_place(context, temporary, name, old);
    if (status != QS_OK) {
        char reason[1024];
        snprintf(reason, sizeof reason, "%s", qs_last_error());
        if (qsi_path_exists(temporary) && qsi_remove_tree(temporary) != QS_OK)
            QS_FAIL(status, "%s; %s could not be removed", reason, temporary);
        QS_FAIL(status, "%s", reason);
    }
fail:
    json_decref(s.root);
    qsi_free(name);
    qsi_free(temporary);
    qsi_free(old);
    return status;
}

qs_status qs_checkpoint_write(qs_context *context, const char *folder, const qs_saved_tensor *tensors, int64_t count,
                              qs_fetch_fn *fetch, void *user, const char *manifest)
{
    qs_status status = QS_OK;
    json_error_t error;
    json_t *fields = NULL;
    if (manifest == NULL)
        QS_FAIL(QS_ERR_ARG, "a checkpoint needs a manifest");
    fields = json_loads(manifest, JSON_REJECT_DUPLICATES, &error);
    if (fields == NULL && qsi_json_no_memory(&error))
        QS_FAIL(QS_ERR_NOMEM, "no memory to read the manifest of %s", folder);
    if (fields == NULL)
        QS_FAIL(QS_ERR_ARG, "manifest, line %d, column %d: %s", error.line, error.column, error.text);
    QS_TRY(qsi_checkpoint_write(context, folder, tensors, count, fetch, user, fields));
fail:
    json_decref(fields);
    return status;
}
