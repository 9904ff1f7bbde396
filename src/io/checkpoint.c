/* checkpoint.c - opening, listing and checking checkpoints and single safetensors files (include/qsbits/checkpoint.h). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "json_text.h"
#include "manifest.h"
#include "merge.h"

/* A tensor of one of the files that is no padding. */
typedef struct entry {
    int file;
    const qsi_stored_tensor *tensor;
} entry;

struct qs_checkpoint {
    qs_context *context;
    char *path;
    int native;
    int files;                       /* 1 or QSI_FILES */
    qsi_safetensors file[QSI_FILES];
    char *file_path[QSI_FILES];
    const char *file_name[QSI_FILES];
    qsi_manifest manifest;           /* text NULL for a single file */
    char *config;
    int64_t count;
    entry *entries;
    int64_t *by_name;                /* indices into entries, sorted by name */
};

static bool has_suffix(const char *text, const char *suffix)
{
    size_t n = strlen(text), m = strlen(suffix);
    return n >= m && strcmp(text + n - m, suffix) == 0;
}

/* "pad.<n>" of native files. */
static bool is_padding(const qsi_stored_tensor *t)
{
    if (strncmp(t->name, "pad.", 4) != 0 || strcmp(t->dtype, "U8") != 0 || t->rank != 1)
        return false;
    const char *digits = t->name + 4;
    return digits[0] != '\0' && digits[strspn(digits, "0123456789")] == '\0';
}

/* The promises of native files that readers rely on: a known version, aligned tensors. */
static qs_status check_native(const qs_checkpoint *c, int f)
{
    qs_status status = QS_OK;
    const qsi_safetensors *file = &c->file[f];
    const char *version = qsi_safetensors_mark(file, QSI_MARK);
    char known[16];
    snprintf(known, sizeof known, "%d", QS_CHECKPOINT_VERSION);
    if (version == NULL)
        QS_FAIL(QS_ERR_FORMAT, "%s: no " QSI_MARK " in its header", c->file_path[f]);
    if (strcmp(version, known) != 0)
        QS_FAIL(QS_ERR_VERSION, "%s: format version %s, this program knows %s", c->file_path[f], qsi_show(version).text,
                known);
    if (file->data_start % QS_SLAB_ALIGN != 0)
        QS_FAIL(QS_ERR_FORMAT, "%s: data starts at byte %" PRIu64 ", no multiple of %d", c->file_path[f], file->data_start,
                QS_SLAB_ALIGN);
    for (int64_t t = 0; t < file->count; t++)
        if (file->tensors[t].offset % QS_TENSOR_ALIGN != 0 && !is_padding(&file->tensors[t]))
            QS_FAIL(QS_ERR_FORMAT, "%s: tensor '%s' starts at byte %" PRIu64 ", no multiple of %d", c->file_path[f],
                    qsi_show(file->tensors[t].name).text, file->tensors[t].offset, QS_TENSOR_ALIGN);
fail:
    return status;
}

/* What sorting by name moves: the name beside its index. */
typedef struct named {
    const char *name;
    int64_t index;
} named;

static int compare_named(const void *a, const void *b)
{
    return strcmp(((const named *)a)->name, ((const named *)b)->name);
}

/* Fills by_name; no name may occur twice over both files. */
static qs_status index_names(qs_checkpoint *c)
{
    qs_status status = QS_OK;
    named *list = qsi_alloc_array(c->context, QS_MEMORY_IO, c->count, sizeof *list);
    c->by_name = qsi_alloc_array(c->context, QS_MEMORY_IO, c->count, sizeof *c->by_name);
    if (list == NULL || c->by_name == NULL) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    for (int64_t k = 0; k < c->count; k++)
        list[k] = (named){c->entries[k].tensor->name, k};
    qsort(list, (size_t)c->count, sizeof *list, compare_named);
    for (int64_t k = 0; k < c->count; k++) {
        if (k > 0 && strcmp(list[k - 1].name, list[k].name) == 0)
            QS_FAIL(QS_ERR_FORMAT, "%s: tensor '%s' is in both files", c->path, qsi_show(list[k].name).text);
        c->by_name[k] = list[k].index;
    }
fail:
    qsi_free(list);
    return status;
}

/* Lists the tensors of the opened files. */
static qs_status build_index(qs_checkpoint *c)
{
    qs_status status = QS_OK;
    int64_t room = 0;
    for (int f = 0; f < c->files; f++)
        room += c->file[f].count;
    c->entries = qsi_alloc_array(c->context, QS_MEMORY_IO, room, sizeof *c->entries);
    if (c->entries == NULL) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    for (int f = 0; f < c->files; f++)
        for (int64_t t = 0; t < c->file[f].count; t++)
            if (!c->native || !is_padding(&c->file[f].tensors[t]))
                c->entries[c->count++] = (entry){f, &c->file[f].tensors[t]};
    QS_TRY(index_names(c));
fail:
    return status;
}

/* Every range of a delta is that of a tensor, which has its rows. */
static qs_status check_ranges(const qs_checkpoint *c)
{
    qs_status status = QS_OK;
    qs_tensor_info t;
    for (int64_t k = 0; k < c->manifest.range_count; k++) {
        const qsi_range *range = &c->manifest.ranges[k];
        const int64_t index = qs_checkpoint_find(c, range->tensor);
        if (index < 0)
            QS_FAIL(QS_ERR_FORMAT, "%s: a range of tensor '%s', which is not there", c->path, qsi_show(range->tensor).text);
        QS_TRY(qs_checkpoint_tensor(c, index, &t));
        const int64_t rows = t.rank == 1 ? t.cols : t.rows;
        if (rows != range->rows)
            QS_FAIL(QS_ERR_FORMAT, "%s: tensor '%s' has %" PRId64 " rows, its range %" PRId64, c->path, qsi_show(t.name).text, rows,
                    range->rows);
    }
fail:
    return status;
}

/* The config of the manifest as text, or that of a model file's header. */
static qs_status take_config(qs_checkpoint *c)
{
    qs_status status = QS_OK;
    qsi_text text = {c->context, NULL, 0, 0, QS_OK};
    const char *mark = qsi_safetensors_mark(&c->file[0], QSI_MARK_CONFIG);
    if (c->manifest.root != NULL)
        qsi_text_json(&text, json_object_get(c->manifest.root, "config"), 0);
    else if (c->native && mark != NULL)
        qsi_text_add(&text, mark, (int64_t)strlen(mark));
    QS_TRY(text.failed);
    c->config = text.data;
    text.data = NULL;
fail:
    qsi_text_free(&text);
    return status;
}

/* Opens both files as the manifest describes them. Takes over c->path. */
static qs_status open_folder(qs_checkpoint *c)
{
    qs_status status = QS_OK;
    QS_TRY(qsi_model_settle(c->context, c->path));
    QS_TRY(qsi_manifest_open(c->context, c->path, &c->manifest));
    c->native = 1;
    for (int f = 0; f < QSI_FILES; f++) {
        c->file_name[f] = qsi_file_names[f];
        c->file_path[f] = qsi_path_join(c->path, qsi_file_names[f]);
        if (c->file_path[f] == NULL) {
            status = QS_ERR_NOMEM;
            goto fail;
        }
        if (!qsi_path_exists(c->file_path[f]))
            QS_FAIL(QS_ERR_CORRUPT, "%s is missing", c->file_path[f]);
        QS_TRY(qsi_safetensors_open(c->context, c->file_path[f], &c->manifest.file[f].claim, &c->file[f]));
        c->files++;
        QS_TRY(check_native(c, f));
    }
fail:
    return status;
}

static qs_status look_for(const char *folder, const char *name, bool *found)
{
    char *path = qsi_path_join(folder, name);
    if (path == NULL)
        return QS_ERR_NOMEM;
    *found = qsi_path_exists(path);
    qsi_free(path);
    return QS_OK;
}

/* The model file of a checkpoint is whole when the checkpoint is. */
static qs_status settle_folder_of(qs_checkpoint *c)
{
    qs_status status = QS_OK;
    const char *name = c->file_name[0];
    bool manifest = false;
    char *folder = qsi_strdup(c->context, c->path);
    if (folder == NULL)
        return QS_ERR_NOMEM;
    if (strcmp(name, qsi_file_names[QSI_MODEL_FILE]) != 0)
        goto fail;
    strcpy(folder + (name - c->path), name == c->path ? "." : "");   /* shorter than the name */
    QS_TRY(look_for(folder, QSI_MANIFEST_NAME, &manifest));
    if (manifest)
        QS_TRY(qsi_model_settle(c->context, folder));
fail:
    qsi_free(folder);
    return status;
}

static qs_status open_file(qs_checkpoint *c)
{
    qs_status status = QS_OK;
    const char *slash = strrchr(c->path, '/');
    c->file_name[0] = slash != NULL ? slash + 1 : c->path;
    QS_TRY(settle_folder_of(c));
    c->file_path[0] = qsi_strdup(c->context, c->path);
    if (c->file_path[0] == NULL) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    QS_TRY(qsi_safetensors_open(c->context, c->path, NULL, &c->file[0]));
    c->files = 1;
    c->native = qsi_safetensors_mark(&c->file[0], QSI_MARK) != NULL;
    if (c->native)
        QS_TRY(check_native(c, 0));
fail:
    return status;
}

static void log_skipped(void *user, const char *path, const char *reason)
{
    qs_context *context = user;
    if (context != NULL)
        qsi_log_line(context, QS_LOG_WARNING, "skipped %s: %s", path, reason);
}

/* The file or checkpoint folder that path stands for. */
static qs_status resolve_path(qs_context *context, const char *path, char **out)
{
    qs_status status = QS_OK;
    char latest[4096];
    bool manifest = false, model = false, state = false;
    if (path == NULL || path[0] == '\0')
        QS_FAIL(QS_ERR_ARG, "no path given");
    if (!qsi_path_exists(path))
        QS_FAIL(QS_ERR_NOINPUT, "%s: no such file or folder", path);
    if (qsi_is_directory(path))
        QS_TRY(look_for(path, QSI_MANIFEST_NAME, &manifest));
    if (qsi_is_directory(path) && !manifest) {
        QS_TRY(look_for(path, qsi_file_names[QSI_MODEL_FILE], &model));
        QS_TRY(look_for(path, qsi_file_names[QSI_STATE_FILE], &state));
        if (model || state)
            QS_FAIL(QS_ERR_CORRUPT, "%s: " QSI_MANIFEST_NAME " is missing: no complete checkpoint", path);
        QS_TRY(qs_checkpoint_latest(context, path, latest, sizeof latest, log_skipped, context));
        path = latest;
    }
    *out = qsi_strdup(context, path);
    if (*out == NULL)
        status = QS_ERR_NOMEM;
fail:
    return status;
}

qs_status qsi_checkpoint_open_delta(qs_context *context, const char *path, qs_checkpoint **out)
{
    qs_status status = QS_OK;
    qs_checkpoint *c = qsi_alloc(context, QS_MEMORY_IO, sizeof *c);
    if (c == NULL)
        return QS_ERR_NOMEM;
    c->context = context;
    QS_TRY(resolve_path(context, path, &c->path));
    QS_TRY(qsi_is_directory(c->path) ? open_folder(c) : open_file(c));
    QS_TRY(build_index(c));
    QS_TRY(check_ranges(c));
    QS_TRY(take_config(c));
    *out = c;
    c = NULL;
fail:
    qs_checkpoint_close(&c);
    return status;
}

qs_status qs_checkpoint_open(qs_context *context, const char *path, qs_checkpoint **out)
{
    qs_status status = QS_OK;
    qs_checkpoint *c = NULL;
    QS_TRY(qsi_checkpoint_open_delta(context, path, &c));
    if (c->manifest.base != NULL)
        QS_FAIL(QS_ERR_UNSUPPORTED, "%s is a delta checkpoint: of a run in place, only the rows that train in its phase, to be laid over "
                "the model with manifest %s; open the folder of that model, or continue the run with --resume", c->path,
                c->manifest.base);
    *out = c;
    c = NULL;
fail:
    qs_checkpoint_close(&c);
    return status;
}

void qs_checkpoint_close(qs_checkpoint **checkpoint)
{
    if (checkpoint == NULL || *checkpoint == NULL)
        return;
    qs_checkpoint *c = *checkpoint;
    for (int f = 0; f < c->files; f++)
        qsi_safetensors_close(&c->file[f]);
    for (int f = 0; f < QSI_FILES; f++)
        qsi_free(c->file_path[f]);
    qsi_manifest_close(&c->manifest);
    qsi_free(c->path);
    qsi_free(c->config);
    qsi_free(c->entries);
    qsi_free(c->by_name);
    qsi_free(c);
    *checkpoint = NULL;
}

const char *qs_checkpoint_path(const qs_checkpoint *checkpoint)
{
    return checkpoint->path;
}

const char *qs_checkpoint_manifest(const qs_checkpoint *checkpoint)
{
    return checkpoint->manifest.text;
}

const char *qs_checkpoint_config(const qs_checkpoint *checkpoint)
{
    return checkpoint->config;
}

int qs_checkpoint_native(const qs_checkpoint *checkpoint)
{
    return checkpoint->native;
}

qs_status qs_checkpoint_check_model(const qs_checkpoint *c)
{
    qs_status status = QS_OK;
    if (!c->native)
        QS_FAIL(QS_ERR_FORMAT, "%s is a safetensors file of another program: no qsbits packed tensors", c->path);
    if (c->config == NULL)
        QS_FAIL(QS_ERR_FORMAT, "%s holds training state only, or rows of a delta: open its checkpoint folder or %s", c->path,
                qsi_file_names[0]);
fail:
    return status;
}

int64_t qs_checkpoint_count(const qs_checkpoint *checkpoint)
{
    return checkpoint->count;
}

/* The format a native tensor's name, dtype and shape stand for (docs/format.md, "Tensors"), -1 if none. */
static int format_of(const qsi_stored_tensor *t, int native)
{
    if (native && strcmp(t->dtype, "I8") == 0 && has_suffix(t->name, ".weight_state") && t->rank == 2)
        return QS_C8;
    if (native && strcmp(t->dtype, "I32") == 0 && has_suffix(t->name, ".weight_state")) {
        if (t->rank == 3)
            return t->shape[1] == 2 ? QS_C2 : t->shape[1] == 4 ? QS_C4 : QS_I32;
        return t->rank == 2 && t->shape[1] % 2 == 0 ? QS_T2 : QS_I32;
    }
    const int signs = has_suffix(t->name, ".weight") || has_suffix(t->name, ".anchor");
    if (native && strcmp(t->dtype, "I32") == 0 && signs && t->rank == 2)
        return QS_W1;
    for (int format = QS_F32; format <= QS_U8; format++) {
        static const char *const dtypes[] = {"F32", "F16", "I32", "U8"};
        if (strcmp(t->dtype, dtypes[format - QS_F32]) == 0)
            return format;
    }
    return -1;
}

/* Rows and columns as meant. Products fit: the reader has checked that the bytes do. An empty tensor may have dimensions
 * whose product does not fit; it is [0, last]. */
static void matrix_of(const qsi_stored_tensor *t, int format, int64_t *rows, int64_t *cols)
{
    *rows = 1;
    *cols = t->rank > 0 ? t->shape[t->rank - 1] : 1;
    for (int d = 0; d + 1 < t->rank; d++)
        *rows = t->bytes > 0 ? *rows * t->shape[d] : 0;
    if (t->bytes > 0 && (format == QS_W1 || format == QS_C2 || format == QS_C4))
        *cols *= 32;
    else if (t->bytes > 0 && format == QS_T2)
        *cols *= 16;
    if (t->bytes > 0 && t->rank == 3 && (format == QS_C2 || format == QS_C4))
        *rows = t->shape[0];
}

qs_status qs_checkpoint_tensor(const qs_checkpoint *c, int64_t index, qs_tensor_info *info)
{
    if (index < 0 || index >= c->count) {
        qsi_fail_text("tensor %" PRId64 " of %" PRId64, index, c->count);
        return QS_ERR_ARG;
    }
    const entry *e = &c->entries[index];
    const qsi_stored_tensor *t = e->tensor;
    memset(info, 0, sizeof *info);
    info->name = t->name;
    info->file = c->file_name[e->file];
    info->dtype = t->dtype;
    info->rank = t->rank;
    memcpy(info->shape, t->shape, sizeof info->shape);
    info->offset = t->offset;
    info->bytes = t->bytes;
    info->format = format_of(t, c->native);
    matrix_of(t, info->format, &info->rows, &info->cols);
    return QS_OK;
}

int64_t qs_checkpoint_find(const qs_checkpoint *c, const char *name)
{
    int64_t low = 0, high = c->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        int order = strcmp(name, c->entries[c->by_name[middle]].tensor->name);
        if (order == 0)
            return c->by_name[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return -1;
}

const void *qs_checkpoint_data(const qs_checkpoint *c, int64_t index)
{
    if (index < 0 || index >= c->count)
        return NULL;
    return c->file[c->entries[index].file].map.data + c->entries[index].tensor->offset;
}

int64_t qs_checkpoint_slab_count(const qs_checkpoint *c, int file)
{
    return file >= 0 && file < QSI_FILES ? c->manifest.slab_count : 0;
}

qs_status qs_checkpoint_slab(const qs_checkpoint *c, int file, int64_t index, qs_slab_info *info)
{
    if (index < 0 || index >= qs_checkpoint_slab_count(c, file)) {
        qsi_fail_text("slab %" PRId64 " of file %d, which has %" PRId64, index, file, qs_checkpoint_slab_count(c, file));
        return QS_ERR_ARG;
    }
    const qsi_slab *slab = &c->manifest.file[file].slabs[index];
    *info = (qs_slab_info){slab->offset, slab->bytes};
    return QS_OK;
}

const qsi_manifest_file *qsi_checkpoint_file(const qs_checkpoint *c, int file, const char **path)
{
    if (c->manifest.text == NULL)
        return NULL;
    *path = c->file_path[file];
    return &c->manifest.file[file];
}

qs_status qsi_checkpoint_verify_slab(const qs_checkpoint *c, int f, int64_t k)
{
    qs_status status = QS_OK;
    char hash[QSI_HEX];
    const qsi_slab *slab = &c->manifest.file[f].slabs[k];
    qsi_checksum(c->file[f].map.data + slab->offset, slab->bytes, hash);
    if (strcmp(hash, slab->hash) != 0)
        QS_FAIL(QS_ERR_CORRUPT, "%s: slab %" PRId64 " (offset %" PRIu64 ", %" PRIu64 " bytes) has XXH3-128 %s, the manifest says %s",
                c->file_path[f], k, slab->offset, slab->bytes, hash, slab->hash);
fail:
    return status;
}

qs_status qs_checkpoint_verify(const qs_checkpoint *c)
{
    qs_status status = QS_OK;
    char hash[QSI_HEX];
    if (c->manifest.text == NULL)
        QS_FAIL(QS_ERR_UNSUPPORTED, "%s is a single file: checksums are in the manifest of a checkpoint folder", c->path);
    for (int f = 0; f < QSI_FILES; f++) {
        const qsi_manifest_file *file = &c->manifest.file[f];
        qsi_checksum(c->file[f].map.data, file->claim.header_bytes, hash);
        if (strcmp(hash, file->claim.header_hash) != 0)
            QS_FAIL(QS_ERR_CORRUPT, "%s: header (offset 0, %" PRIu64 " bytes) has XXH3-128 %s, the manifest says %s",
                    c->file_path[f], file->claim.header_bytes, hash, file->claim.header_hash);
        for (int64_t k = 0; k < c->manifest.slab_count; k++)
            QS_TRY(qsi_checkpoint_verify_slab(c, f, k));
    }
fail:
    return status;
}
