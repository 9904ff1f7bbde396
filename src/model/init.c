/* init.c - start values: what a new model holds follows from the seed alone, element by element, so any thread may make any rows.
 * The same list of tensors fills a model in memory and a checkpoint on disk; on disk no more than one tensor exists at a time. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "core/detmath.h"
#include "core/in_place.h"
#include "core/threads.h"
#include "io/checkpoint_write.h"
#include "model/model.h"
#include "qsbits/random.h"

/* TASK: elements that a thread makes at a time; PIECE: elements on their way to a device. */
enum { FLOAT_ID = 1 << 16, ADAPTER_ID = 1 << 17, TASK = 1 << 16, PIECE = 1 << 20, TENSOR_NAME = 128 };

typedef enum start_kind { START_SIGNS, START_NORMAL, START_EQUAL } start_kind;

typedef struct start_tensor {
    char name[TENSOR_NAME];
    qs_view view;        /* format and shape; without a buffer where the model has no memory */
    int64_t slab;
    start_kind kind;
    uint32_t id;         /* of the random numbers */
    float value;         /* deviation of NORMAL; of EQUAL every element */
} start_tensor;

typedef struct start_list {
    start_tensor *tensors;
    int64_t count;
} start_list;

/* ---- the list, in file order (docs/format.md, section 3) -------------------------------------------------------- */

static void put(start_list *l, const char *base, const char *suffix, qs_view view, int64_t slab, start_kind kind, uint32_t id,
                float value)
{
    if (view.rows == 0 || view.cols == 0)   /* a norm that this model does not have */
        return;
    start_tensor *t = &l->tensors[l->count++];
    snprintf(t->name, sizeof t->name, "%s%s", base, suffix);
    t->view = view;
    t->slab = slab;
    t->kind = kind;
    t->id = id;
    t->value = value;
}

static void put_matrix(start_list *l, const qs_model *m, const qsi_matrix *x, int64_t slab)
{
    put(l, x->name, ".weight", x->weight, slab, m->config.dense ? START_NORMAL : START_SIGNS, x->id, x->base);
    if (!m->config.dense)
        put(l, x->name, ".weight_scale", x->scale, slab, START_EQUAL, 0, x->base);
}

static void put_float(start_list *l, const qs_model *m, int64_t index)
{
    const qsi_float *f = &m->floats[index];
    const bool drawn = f->deviation > 0.0f;
    put(l, f->name, "", f->view, f->slab, drawn ? START_NORMAL : START_EQUAL, (uint32_t)(FLOAT_ID + index),
        drawn ? f->deviation : 1.0f);
}

/* B starts at 0. */
static void put_adapter(start_list *l, const qsi_float *a, uint32_t matrix)
{
    put(l, a[QSI_LORA_A].name, "", a[QSI_LORA_A].view, a[QSI_LORA_A].slab, START_NORMAL, ADAPTER_ID + matrix,
        a[QSI_LORA_A].deviation);
    put(l, a[QSI_LORA_B].name, "", a[QSI_LORA_B].view, a[QSI_LORA_B].slab, START_EQUAL, 0, 0.0f);
}

static qs_status list_tensors(const qs_model *m, start_list *l)
{
    const int64_t most = 2 * qsi_matrix_count(m) + m->n_floats + m->n_adapters;
    l->count = 0;
    l->tensors = qsi_alloc_array(m->context, QS_MEMORY_OTHER, most, sizeof *l->tensors);
    if (!l->tensors)
        return QS_ERR_NOMEM;
    put_float(l, m, 0);
    for (int64_t b = 0; b < m->config.layers; b++) {
        for (int i = 0; i < QSI_MATRICES; i++)
            put_matrix(l, m, qsi_matrix_of(m, b, i), 1 + b);
        for (int i = 0; i < QSI_BLOCK_FLOATS; i++)
            put_float(l, m, 1 + b * QSI_BLOCK_FLOATS + i);
        for (int i = 0; i < QSI_MATRICES && m->n_adapters > 0; i++)
            put_adapter(l, qsi_adapter_of(m, b, i), qsi_matrix_of(m, b, i)->id);
    }
    put_float(l, m, m->n_floats - 2);
    put_float(l, m, m->n_floats - 1);
    return QS_OK;
}

static int64_t row_bytes(const start_tensor *t) { return qs_row_bytes((qs_format)t->view.format, t->view.cols); }

/* ---- values ------------------------------------------------------------------------------------------------------ */

void qsi_normals(uint64_t seed, uint32_t tensor, int64_t first, int64_t count, float *out)
{
    uint32_t word[4];
    for (int64_t i = 0; i < count; i += 2) {
        const int64_t pair = (first + i) / 2;
        qs_philox(seed, 0, QS_RANDOM_FLOATS, tensor, (uint32_t)(pair >> 32), (uint32_t)(pair / 2), word);
        const uint32_t *u = word + 2 * (pair % 2);
        const double radius = sqrt(-2.0 * qsi_log(((double)u[0] + 0.5) / 4294967296.0));
        const double angle = 6.283185307179586 * (((double)u[1] + 0.5) / 4294967296.0);
        out[i] = (float)(radius * qsi_cos(angle));
        if (i + 1 < count)
            out[i + 1] = (float)(radius * qsi_sin(angle));
    }
}

/* Rows of a tensor being made by all threads. */
typedef struct filling {
    const start_tensor *tensor;
    uint64_t seed;
    int64_t first, count, per_task;   /* rows */
    uint8_t *out;                     /* where row `first` goes */
} filling;

static void fill_equal(const start_tensor *t, int64_t n, void *out)
{
    float *wide = out;
    uint16_t *half = out;
    for (int64_t i = 0; i < n; i++) {
        if (t->view.format == QS_F16)
            half[i] = qs_float_to_half(t->value);
        else
            wide[i] = t->value;
    }
}

static void fill_task(void *arg, int64_t task, int thread)
{
    const filling *f = arg;
    const start_tensor *t = f->tensor;
    const int64_t begin = task * f->per_task, rows = qsi_min(f->per_task, f->count - begin), cols = t->view.cols;
    uint8_t *out = f->out + begin * row_bytes(t);
    (void)thread;
    if (t->kind == START_EQUAL)
        fill_equal(t, rows * cols, out);
    for (int64_t r = 0; r < rows && t->kind == START_SIGNS; r++)   /* a described matrix is never refused */
        (void)!qs_random_signs(f->seed, t->id, f->first + begin + r, cols, (uint32_t *)(void *)(out + r * row_bytes(t)));
    if (t->kind == START_NORMAL) {
        float *values = (float *)(void *)out;
        qsi_normals(f->seed, t->id, (f->first + begin) * cols, rows * cols, values);
        for (int64_t i = 0; i < rows * cols; i++)
            values[i] *= t->value;
    }
}

/* Rows first .. first+count-1 as they lie in a file; out is 64-byte aligned. */
static void fill_rows(const start_tensor *t, int threads, uint64_t seed, int64_t first, int64_t count, void *out)
{
    filling f = {t, seed, first, count, qsi_max(1, TASK / t->view.cols), out};
    qsi_parallel_for(threads, qsi_ceil_div(count, f.per_task), fill_task, &f);
}

static int threads_of(const qs_context *context)
{
    qs_device_info device;
    qs_context_device(context, &device);
    return device.threads;
}

/* ---- a model in memory ------------------------------------------------------------------------------------------- */

static qs_status fill_view(qs_model *m, const start_tensor *t, uint64_t seed, void *host)
{
    qs_status status = QS_OK;
    const int64_t rows = qsi_max(1, PIECE / t->view.cols);
    for (int64_t r = 0; r < t->view.rows; r += rows) {
        const int64_t n = qsi_min(rows, t->view.rows - r);
        fill_rows(t, threads_of(m->context), seed, r, n, host);
        QS_TRY(qs_write(m->queue, qs_view_rows(t->view, r, n), host));
    }
fail:
    return status;
}

static qs_status fill_model(qs_model *m, uint64_t seed)
{
    qs_status status = QS_OK;
    start_list l = {NULL, 0};
    int64_t most = 0;
    void *host = NULL;
    QS_TRY(list_tensors(m, &l));
    for (int64_t i = 0; i < l.count; i++) {
        const qs_view *v = &l.tensors[i].view;
        most = qsi_max(most, qsi_min(v->rows, qsi_max(1, PIECE / v->cols)) * row_bytes(&l.tensors[i]));
    }
    host = qsi_alloc(m->context, QS_MEMORY_OTHER, most);
    if (!host)
        QS_TRY(QS_ERR_NOMEM);
    for (int64_t i = 0; i < l.count; i++)
        QS_TRY(fill_view(m, &l.tensors[i], seed, host));
fail:
    qsi_free(host);
    qsi_free(l.tensors);
    return status;
}

qs_status qs_model_create(qs_context *context, const qs_model_config *config, uint64_t seed, qs_model **out)
{
    qs_status status = QS_OK;
    qs_model *m = NULL;
    QS_TRY(qsi_model_allocate(context, config, false, &m));
    QS_TRY(fill_model(m, seed));
    *out = m;
    return QS_OK;
fail:
    qs_model_free(&m);
    return status;
}

/* ---- a model on disk --------------------------------------------------------------------------------------------- */

typedef struct writing {
    const start_list *list;
    const qs_checkpoint *source;  /* whose values they are; NULL: start values of the seed */
    int threads;
    uint64_t seed, done, total;   /* bytes of tensors */
    qs_progress_fn *progress;
    void *user;
} writing;

static qs_status tell(writing *w)
{
    if (!w->progress || w->progress(w->user, w->done, w->total) == 0)
        return QS_OK;
    qsi_fail_text("stopped after %llu of %llu bytes", (unsigned long long)w->done, (unsigned long long)w->total);
    return QS_ERR_CANCELLED;
}

static qs_status take(const qs_checkpoint *source, const start_tensor *t, void *bytes, int64_t n_bytes)
{
    qs_status status = QS_OK;
    const int64_t index = qs_checkpoint_find(source, t->name);
    qs_tensor_info info;
    if (index < 0)
        QS_FAIL(QS_ERR_FORMAT, "%s: there is no tensor %s", qs_checkpoint_path(source), t->name);
    QS_TRY(qs_checkpoint_tensor(source, index, &info));
    if ((int64_t)info.bytes != n_bytes || info.format != (int)t->view.format)
        QS_FAIL(QS_ERR_FORMAT, "%s: tensor %s holds %llu bytes of %s; the config needs %lld of %s", qs_checkpoint_path(source), t->name,
                (unsigned long long)info.bytes, info.dtype, (long long)n_bytes, qs_format_name((qs_format)t->view.format));
    memcpy(bytes, qs_checkpoint_data(source, index), (size_t)n_bytes);
fail:
    return status;
}

static qs_status fetch(void *user, int64_t index, void *bytes, int64_t n_bytes)
{
    qs_status status = QS_OK;
    writing *w = user;
    const start_tensor *t = &w->list->tensors[index];
    if (w->source)
        QS_TRY(take(w->source, t, bytes, n_bytes));
    else
        fill_rows(t, w->threads, w->seed, 0, t->view.rows, bytes);
    w->done += (uint64_t)n_bytes;
    QS_TRY(tell(w));
fail:
    return status;
}

/* What may stand where the folder is to come: nothing, or an empty folder; beside it at most what a save left that was cut off. */
static qs_status check_place(const char *folder)
{
    qs_status status = QS_OK;
    char **names = NULL;
    int64_t count = 0;
    if (!folder || !folder[0])
        QS_FAIL(QS_ERR_ARG, "a model needs the path of a folder");
    if (qsi_is_link(folder) || qsi_path_exists(folder)) {
        if (!qsi_is_directory(folder) || qsi_is_link(folder))
            QS_FAIL(QS_ERR_CREATE, "%s exists and is not a folder; choose another name", folder);
        QS_TRY(qsi_list_directory(folder, &names, &count));
        if (count > 0)
            QS_FAIL(QS_ERR_CREATE, "%s exists and is not empty; choose another name or remove it", folder);
    }
    QS_TRY(qsi_checkpoint_check_beside(folder));
fail:
    qsi_free_names(names, count);
    return status;
}

/* A full disk is known beforehand where the file system tells how full it is. */
static qs_status check_space(const char *folder, uint64_t bytes)
{
    qs_status status = QS_OK;
    uint64_t left = 0;
    if (qsi_space_left(folder, &left) && left < bytes)
        QS_FAIL(QS_ERR_IO, "%s needs %.2f GB and its disk has %.2f GB left, %.2f GB are missing; remove something there or choose "
                "another disk", folder, 1e-9 * (double)bytes, 1e-9 * (double)left, 1e-9 * (double)(bytes - left));
fail:
    return status;
}

/* Fills saved [list]; *bytes: of tensors, *space: of the checkpoint, rounded up. */
static void describe_saved(const start_list *l, qs_saved_tensor *saved, uint64_t *bytes, uint64_t *space)
{
    enum { HEADER_ENTRY = 512 };   /* more than a tensor takes in the header and padding */
    *bytes = 0;
    *space = 1 << 20;
    for (int64_t i = 0; i < l->count; i++) {
        const start_tensor *t = &l->tensors[i];
        const bool vector = t->view.rows == 1;
        memcpy(saved[i].name, t->name, sizeof t->name);
        saved[i].format = (qs_format)t->view.format;
        saved[i].rank = vector ? 1 : 2;
        saved[i].shape[0] = vector ? t->view.cols : t->view.rows;
        saved[i].shape[1] = vector ? 0 : t->view.format == QS_W1 ? t->view.cols / 32 : t->view.cols;
        saved[i].slab = (int)t->slab;
        *bytes += (uint64_t)(t->view.rows * row_bytes(t));
    }
    *space += *bytes + (uint64_t)l->count * (HEADER_ENTRY + QS_TENSOR_ALIGN) + (uint64_t)l->tensors[l->count - 1].slab * QS_SLAB_ALIGN;
}

static json_t *manifest_of(const qs_model_config *config, uint64_t seed)
{
    return json_pack("{s:{s:o}, s:i, s:I}", "config", "model", qsi_model_config_to_json(config), "step", 0, "seed",
                     (json_int_t)seed);
}

/* w: all but the list and its bytes. */
static qs_status write_model(qs_context *context, const qs_model_config *config, writing *w, const char *folder)
{
    qs_status status = QS_OK;
    qs_model *m = NULL;
    start_list l = {NULL, 0};
    qs_saved_tensor *saved = NULL;
    json_t *manifest = NULL;
    uint64_t space = 0;
    w->list = &l;
    w->threads = threads_of(context);
    QS_TRY(qsi_model_list(context, config, false, &m));
    QS_TRY(list_tensors(m, &l));
    saved = qsi_alloc_array(context, QS_MEMORY_IO, l.count, sizeof *saved);
    manifest = manifest_of(&m->config, w->seed);
    if (!saved || !manifest)
        QS_FAIL(QS_ERR_NOMEM, "no memory to write %s", folder);
    describe_saved(&l, saved, &w->total, &space);
    QS_TRY(check_place(folder));
    QS_TRY(check_space(folder, space));
    QS_TRY(tell(w));
    QS_TRY(qsi_checkpoint_write(context, folder, saved, l.count, fetch, w, manifest));
fail:
    json_decref(manifest);
    qsi_free(saved);
    qsi_free(l.tensors);
    qs_model_free(&m);
    return status;
}

qs_status qs_model_write_new(qs_context *context, const qs_model_config *config, uint64_t seed, const char *folder,
                             qs_progress_fn *progress, void *user)
{
    writing w = {.seed = seed, .progress = progress, .user = user};
    return write_model(context, config, &w, folder);
}

qs_status qs_model_write_copy(qs_context *context, const char *path, const char *folder, qs_progress_fn *progress, void *user)
{
    qs_status status = QS_OK;
    qs_checkpoint *source = NULL;
    qs_model_config config;
    QS_TRY(qs_checkpoint_open(context, path, &source));
    QS_TRY(qsi_model_config_of(source, &config));
    if (qs_checkpoint_manifest(source))
        QS_TRY(qs_checkpoint_verify(source));
    writing w = {.source = source, .progress = progress, .user = user};
    QS_TRY(write_model(context, &config, &w, folder));
fail:
    qs_checkpoint_close(&source);
    return status;
}
