/* plan.c - the memory of a run before it exists: the same announcements of tensors as those of a real one, on arenas that
 * only count. One block stands for all, so that a plan of any size takes no memory of its own. */
#include <string.h>
#include "train/train.h"

typedef struct stand_in {
    qs_model model;
    qs_trainer trainer;
    qsi_matrix matrices[QSI_MATRICES];
    qsi_matrix_state states[QSI_MATRICES];
    qsi_float floats[3 + QSI_BLOCK_FLOATS];
    qsi_adam moments[3 + QSI_BLOCK_FLOATS];
    qsi_float adapters[QSI_LORA_PARTS * QSI_MATRICES];
    qsi_adam adapter_moments[QSI_LORA_PARTS * QSI_MATRICES];
    qs_view h;
    qsi_tape tape;
} stand_in;

static qs_status resolve(stand_in *s, const qs_model_config *config, const qs_train_options *options)
{
    qs_status status = QS_OK;
    qs_trainer *t = &s->trainer;
    memset(s, 0, sizeof *s);
    s->model.config = *config;
    qsi_train_config(options, &s->model.config);
    s->model.matrices = s->matrices;
    s->model.floats = s->floats;
    s->model.adapters = s->adapters;
    t->options = *options;
    t->model = &s->model;
    t->matrices = s->states;
    t->floats = s->moments;
    t->adapters = s->adapter_moments;
    t->h = &s->h;
    t->tapes = &s->tape;
    QS_TRY(qs_model_config_resolve(&s->model.config));
    QS_TRY(qs_train_options_resolve(&t->options, &s->model.config));
    QS_TRY(qsi_trainer_rows(t, s->model.config.ctx));
fail:
    return status;
}

qs_status qs_train_plan(const qs_model_config *config, const qs_train_options *options, uint64_t bytes[QS_MEMORY_TAGS + 1])
{
    qs_status status = QS_OK;
    stand_in s;
    int64_t count[QS_MEMORY_TAGS + 1] = {0};
    QS_TRY(resolve(&s, config, options));
    QS_TRY(qsi_model_plan(&s.model, count));
    QS_TRY(qsi_trainer_plan(&s.trainer, count));
    for (int i = 0; i < QS_MEMORY_TAGS; i++)
        if (!qsi_add(count[QS_MEMORY_TAGS], count[i], &count[QS_MEMORY_TAGS]))
            QS_FAIL(QS_ERR_SHAPE, "the memory of this run is too large to be counted");
    for (int i = 0; i <= QS_MEMORY_TAGS; i++)
        bytes[i] = (uint64_t)count[i];
fail:
    return status == QS_ERR_SHAPE ? QS_ERR_ARG : status;
}
