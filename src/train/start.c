/* start.c - a run that starts from the weights of a checkpoint instead of random ones. What a model file holds is taken, and
 * of the state file what says the same more finely: masters of row scales, latents. Everything else starts as in any run; what
 * depends on signs is made from the new ones. All is checked before the first byte of the trainer changes. */
#include <stdio.h>
#include <string.h>
#include "io/json_text.h"
#include "train/train.h"

enum { TENSOR_NAME = 128 };

/* Tensors of the source by index, -1 where it has none. */
typedef struct refined {
    int64_t master, latent;
} refined;

typedef struct source {
    qs_checkpoint *checkpoint;
    const char *path;
    qs_model_config config;
    qsi_persistent *tensors;    /* what the trainer keeps, model file first */
    int64_t count;
    refined *refined;           /* [matrices] */
    XXH3_state_t *sum;
} source;

static qs_status check_new(const qs_trainer *t)
{
    qs_status status = QS_OK;
    if (t->model->streamed)
        QS_FAIL(QS_ERR_ARG, "a model that is trained in place has its weights; start a run in memory from others");
    if (t->step != 0 || (t->from[0] && !t->awaiting))
        QS_FAIL(QS_ERR_ARG, "the trainer has done %lld steps%s%s; what a run starts from is settled once, before the first "
                "step", (long long)t->step, t->from[0] ? " from the weights " : "", t->from);
fail:
    return status;
}

/* ---- checking -------------------------------------------------------------------------------------------------- */

/* ARG naming the first field that differs. */
static qs_status compare_fields(const char *path, const qs_model_config *theirs, const qs_model_config *ours)
{
    qs_status status = QS_OK;
    const char *key = NULL;
    json_t *value = NULL, *saved = qsi_model_config_to_json(theirs), *wanted = qsi_model_config_to_json(ours);
    qsi_text theirs_text = {0}, our_text = {0};
    if (!saved || !wanted)
        QS_FAIL(QS_ERR_NOMEM, "no memory to compare this run with %s", path);
    json_object_foreach(wanted, key, value) {
        const json_t *other = json_object_get(saved, key);
        if (json_equal(value, other))
            continue;
        if (other)
            qsi_text_json(&theirs_text, other, 0);
        qsi_text_json(&our_text, value, 0);
        QS_FAIL(QS_ERR_ARG, "%s has %s = %s, this run %s; start from a model of the same shape", path, key,
                theirs_text.data ? theirs_text.data : "none", our_text.data ? our_text.data : "none");
    }
fail:
    qsi_text_free(&theirs_text);
    qsi_text_free(&our_text);
    json_decref(saved);
    json_decref(wanted);
    return status;
}

/* ctx says only how long windows are. Adapters may be new, but not left behind: the model would not be the same. */
static qs_status compare_configs(const char *path, const qs_model_config *saved, const qs_model_config *ours)
{
    qs_status status = QS_OK;
    qs_model_config theirs = *saved;
    theirs.ctx = ours->ctx;
    if (theirs.lora_rank == 0)
        theirs.lora_rank = ours->lora_rank;
    if (theirs.dense != ours->dense)
        QS_FAIL(QS_ERR_ARG, "%s has %s matrices and this run trains %s ones; start from a model of the same kind, or use "
                "another optimizer", path, theirs.dense ? "dense fp32" : "1-bit", ours->dense ? "dense fp32" : "1-bit");
    if (theirs.lora_rank != ours->lora_rank)
        QS_FAIL(QS_ERR_ARG, "%s has adapters of lora_rank = %lld, this run %lld; train them further with lora, at the same "
                "rank", path, (long long)theirs.lora_rank, (long long)ours->lora_rank);
    QS_TRY(compare_fields(path, &theirs, ours));
fail:
    return status;
}

/* Whether start values stand where the source has nothing: a model without adapters gets those of any start. */
static bool may_lack(const source *s, const qsi_persistent *p)
{
    return s->config.lora_rank == 0 && strstr(p->name, ".lora_") != NULL;
}

/* A tensor of that name, format and size; its bytes enter the checksum. *index -1 if there is none and it is not needed. */
static qs_status take_tensor(source *s, const char *name, qs_view view, bool needed, int64_t *index)
{
    qs_status status = QS_OK;
    qs_tensor_info info;
    const qs_format format = (qs_format)view.format;
    const int64_t bytes = view.rows * qs_row_bytes(format, view.cols);
    *index = qs_checkpoint_find(s->checkpoint, name);
    if (*index < 0 && needed)
        QS_FAIL(QS_ERR_FORMAT, "%s: there is no tensor %s", s->path, name);
    if (*index < 0)
        return QS_OK;
    QS_TRY(qs_checkpoint_tensor(s->checkpoint, *index, &info));
    if (info.format != (int)format || (int64_t)info.bytes != bytes)
        QS_FAIL(QS_ERR_FORMAT, "%s: tensor %s holds %llu bytes of %s; the config needs %lld bytes of %s", s->path, name,
                (unsigned long long)info.bytes, info.dtype, (long long)bytes, qs_format_name(format));
    XXH3_128bits_update(s->sum, qs_checkpoint_data(s->checkpoint, *index), (size_t)bytes);
fail:
    return status;
}

/* A master must give the scale beside it: the model that was evaluated is the one that is trained on. */
static qs_status check_masters(const source *s, const qsi_matrix *x, int64_t master)
{
    qs_status status = QS_OK;
    char name[TENSOR_NAME];
    snprintf(name, sizeof name, "%s.weight_scale", x->name);
    const float *a = qs_checkpoint_data(s->checkpoint, master);
    const uint16_t *scale = qs_checkpoint_data(s->checkpoint, qs_checkpoint_find(s->checkpoint, name));
    for (int64_t n = 0; n < x->rows; n++)
        if (qs_float_to_half(x->base * a[n]) != scale[n])
            QS_FAIL(QS_ERR_CORRUPT, "%s: row %lld of %s: its master gives the scale %g, the model file says %g", s->path,
                    (long long)n, name, (double)(x->base * a[n]), (double)qs_half_to_float(scale[n]));
fail:
    return status;
}

static qs_status check_matrix(const qs_trainer *t, source *s, int64_t index)
{
    qs_status status = QS_OK;
    char name[TENSOR_NAME];
    const qsi_matrix *x = &t->model->matrices[index];
    refined *r = &s->refined[index];
    snprintf(name, sizeof name, "%s.latent", x->name);
    QS_TRY(take_tensor(s, name, qs_view_at(NULL, 0, QS_F32, x->rows, x->cols), false, &r->latent));
    snprintf(name, sizeof name, "%s.weight_scale_master", x->name);
    QS_TRY(take_tensor(s, name, qs_view_at(NULL, 0, QS_F32, 1, x->rows), false, &r->master));
    if (r->master >= 0)
        QS_TRY(check_masters(s, x, r->master));
fail:
    return status;
}

/* Everything that will be taken; gives the checksum of it. */
static qs_status check_all(const qs_trainer *t, source *s, char sum[QSI_HEX])
{
    qs_status status = QS_OK;
    int64_t index = 0;
    XXH3_128bits_reset(s->sum);
    for (int64_t i = 0; i < s->count && s->tensors[i].file == 0; i++)
        QS_TRY(take_tensor(s, s->tensors[i].name, s->tensors[i].view, !may_lack(s, &s->tensors[i]), &index));
    for (int64_t i = 0; i < qsi_matrix_count(t->model) && !s->config.dense; i++)
        QS_TRY(check_matrix(t, s, i));
    qsi_hash_hex(XXH3_128bits_digest(s->sum), sum);
    if (t->awaiting && strcmp(sum, t->from) != 0)
        QS_FAIL(QS_ERR_ARG, "%s holds the weights %s, but this run was started from %s; give it those, or start a new run",
                s->path, sum, t->from);
fail:
    return status;
}

static qs_status open_source(qs_trainer *t, const char *path, source *s)
{
    qs_status status = QS_OK;
    memset(s, 0, sizeof *s);
    QS_TRY(check_new(t));
    QS_TRY(qs_checkpoint_open(t->context, path, &s->checkpoint));
    s->path = qs_checkpoint_path(s->checkpoint);
    QS_TRY(qsi_model_config_of(s->checkpoint, &s->config));
    QS_TRY(compare_configs(s->path, &s->config, &t->model->config));
    if (qs_checkpoint_manifest(s->checkpoint))
        QS_TRY(qs_checkpoint_verify(s->checkpoint));
    QS_TRY(qsi_trainer_tensors(t, &s->tensors, &s->count));
    s->refined = qsi_alloc_array(t->context, QS_MEMORY_IO, qsi_matrix_count(t->model), sizeof *s->refined);
    s->sum = XXH3_createState();
    if (!s->refined || !s->sum)
        QS_FAIL(QS_ERR_NOMEM, "no memory to start from %s", s->path);
fail:
    return status;
}

static void close_source(source *s)
{
    XXH3_freeState(s->sum);
    qsi_free(s->refined);
    qsi_free(s->tensors);
    qs_checkpoint_close(&s->checkpoint);
}

/* ---- taking ---------------------------------------------------------------------------------------------------- */

/* Masters and latents, over those that the start values gave. */
static qs_status take_refined(qs_trainer *t, const source *s, int64_t index)
{
    qs_status status = QS_OK;
    const qsi_matrix_state *m = &t->matrices[index];
    const refined *r = &s->refined[index];
    if (m->latent.buffer && r->latent >= 0)
        QS_TRY(qs_write(t->model->queue, m->latent, qs_checkpoint_data(s->checkpoint, r->latent)));
    if (m->scale.value.buffer && r->master >= 0 && t->active.parts == 1)
        QS_TRY(qs_write(t->model->queue, m->scale.value, qs_checkpoint_data(s->checkpoint, r->master)));
    else if (m->scale.value.buffer)
        QS_TRY(qsi_masters_of_scales(t, index));
fail:
    return status;
}

static qs_status take_all(qs_trainer *t, const source *s)
{
    qs_status status = QS_OK;
    for (int64_t i = 0; i < s->count && s->tensors[i].file == 0; i++)
        if (qs_checkpoint_find(s->checkpoint, s->tensors[i].name) >= 0)
            QS_TRY(qsi_load_tensor(t->model->queue, s->checkpoint, s->tensors[i].name, s->tensors[i].view));
    QS_TRY(qsi_trainer_init_state(t));
    for (int64_t i = 0; i < qsi_matrix_count(t->model); i++)
        QS_TRY(take_refined(t, s, i));
fail:
    return status;
}

/* ---- public ---------------------------------------------------------------------------------------------------- */

qs_status qs_trainer_start_from(qs_trainer *t, const char *path)
{
    qs_status status = QS_OK;
    source s;
    char sum[QSI_HEX];
    QS_TRY(open_source(t, path, &s));
    QS_TRY(check_all(t, &s, sum));
    QS_TRY(take_all(t, &s));
    memcpy(t->from, sum, sizeof sum);
    t->awaiting = false;
fail:
    close_source(&s);
    return status;
}

const char *qs_trainer_from(const qs_trainer *t) { return t->from; }

qs_status qs_trainer_expect_from(qs_trainer *t, const char *checksum)
{
    qs_status status = QS_OK;
    if (!qsi_is_checksum(checksum))
        QS_FAIL(QS_ERR_ARG, "the checksum of the weights to start from is not 32 hex digits");
    QS_TRY(check_new(t));
    memcpy(t->from, checksum, sizeof t->from);
    t->awaiting = true;
fail:
    return status;
}

qs_status qsi_trainer_check_started(const qs_trainer *t)
{
    qs_status status = QS_OK;
    if (t->awaiting)
        QS_FAIL(QS_ERR_ARG, "this run starts from the weights %s, which it has not got yet; give it those, or a checkpoint "
                "of the run", t->from);
fail:
    return status;
}
