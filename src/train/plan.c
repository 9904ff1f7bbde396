/* plan.c - the memory of a run before it exists: the same announcements of tensors as those of a real one, on arenas that
 * only count. One block stands for all, so that a plan of any size takes no memory of its own. */
#include <string.h>
#include "stream/size.h"
#include "train/train.h"

enum { MARGIN = 20 };   /* 1/20 of the RAM budget stays free */

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

/* What a budget (0: none) leaves for blocks, which take `all` at most. */
static int64_t room_of(int64_t budget, int64_t used, int64_t all)
{
    return budget == 0 ? all : qsi_min(all, budget - budget / MARGIN - used);
}

/* What streams: blocks in host memory and in slots, and what keeps count of them. */
static qs_status plan_stream(const stand_in *s, const qs_stream_options *in_place, uint64_t ram_budget, qs_memory_plan *plan)
{
    qs_status status = QS_OK;
    const int64_t slab = qsi_model_slab(&s->model), page = qsi_stream_pages(slab), layers = s->model.config.layers;
    qsi_stream_options options = {.slots = in_place->slots};
    qsi_stream_size size;
    int64_t all = 0;
    if (in_place->struct_size != sizeof *in_place)
        QS_FAIL(QS_ERR_ARG, "stream options: struct_size is not that of this library; start from qs_stream_options_default");
    if (in_place->slots < 2 || in_place->slots > 1024)
        QS_FAIL(QS_ERR_ARG, "slots is %lld; a model streams through 2 to 1024", (long long)in_place->slots);
    if (!qsi_mul(page, layers, &all) || in_place->ram_bytes > INT64_MAX || ram_budget > INT64_MAX)
        QS_FAIL(QS_ERR_SHAPE, "the blocks of this model are too large to be counted");
    options.ram_bytes = all;
    QS_TRY(qsi_stream_size_of(layers, all, slab, &options, &size));
    const int64_t used = (int64_t)plan->bytes[QS_POOL_RAM][QS_MEMORY_TAGS] + size.list_bytes;
    options.ram_bytes = in_place->ram_bytes > 0 ? (int64_t)in_place->ram_bytes
                                                : qsi_max(room_of((int64_t)ram_budget, used, all), qsi_stream_least(all, slab));
    QS_TRY(qsi_stream_size_of(layers, all, slab, &options, &size));
    QS_TRY(qsi_plan_list(plan, QS_POOL_RAM, QS_MEMORY_WEIGHTS, 1, size.place_bytes));
    QS_TRY(qsi_plan_list(plan, QS_POOL_RAM, QS_MEMORY_OTHER, 1, size.list_bytes));
    QS_TRY(qsi_plan_list(plan, QS_POOL_DEVICE, QS_MEMORY_SLOTS, in_place->slots, size.slot_bytes));
fail:
    return status;
}

static qs_status check_in_place(const qs_train_options *o)
{
    qs_status status = QS_OK;
    if (o->optimizer != QS_OPTIMIZER_FSM || o->recipe != QS_RECIPE_DEFAULT)
        QS_FAIL(QS_ERR_ARG, "only fsm with its default recipe trains a model in place");
fail:
    return status;
}

qs_status qs_train_plan(const qs_model_config *config, const qs_train_options *options, const qs_stream_options *in_place,
                        uint64_t ram_budget, qs_memory_plan *plan)
{
    qs_status status = QS_OK;
    stand_in s;
    qs_memory_plan bytes = {0};
    qs_train_options o = *options;
    if (in_place) {
        QS_TRY(check_in_place(options));
        o.health_window = 0;
    }
    QS_TRY(resolve(&s, config, &o));
    s.model.streamed = in_place != NULL;
    QS_TRY(qsi_model_plan(&s.model, &bytes));
    QS_TRY(qsi_trainer_plan(&s.trainer, &bytes));
    if (in_place)
        QS_TRY(plan_stream(&s, in_place, ram_budget, &bytes));
    *plan = bytes;
fail:
    return status == QS_ERR_SHAPE ? QS_ERR_ARG : status;
}
