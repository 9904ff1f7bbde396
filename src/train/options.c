/* options.c - settings of a run: defaults, automatic values, checks, JSON. */
#include <math.h>
#include <string.h>
#include "train/train.h"

/* Rate of the float parameters found by the search of docs/learning.md, "Learning rates", at 2 layers x 128, batch
 * 32 x 64; latents and dense weights take the same, row scales SCALE_RATE times it. */
static const double SCALE_RATE = 11.25;

/* bop: share of a new gradient in the moving average, and the threshold, whose unit is the RMS of a row's gradient. Found together
 * at the size above, 300 steps, seed 1, floats at 4e-3, nats per byte on 300 windows (ste 1.991, frozen 2.109): (0.003, 0.06)
 * 2.083, (0.01, 0.1) 2.020, (0.03, 0.12) 2.011, (0.03, 0.18) 2.003, (0.06, 0.2) 1.999, (0.06, 0.3) 2.010, (0.1, 0.22) 2.019,
 * (0.1, 0.33) 1.990, (0.1, 0.67) 2.042; after 500 steps (0.1, 0.33) 1.871, (0.2, 0.55) 1.909, ste 1.871, frozen 2.025. The best
 * threshold of a share is about 1.5 sqrt(share / 2), that many deviations of the average of pure noise. */
static const double BOP_SHARE = 0.1;
const float qsi_bop_threshold = 0.33f;

/* Sweeps of an active set, and the fewest steps of a phase for which there are so many: c8 on halves, 3 layers x 96, 3240 steps, nats
 * per byte: 1.475 with one sweep, 1.467 with four (docs/learning.md). */
enum { SWEEPS = 4, SWEEP_STEPS = 50 };

static double searched_rate(const qs_train_options *o)
{
    if (o->optimizer == QS_OPTIMIZER_FROZEN)
        return 3.2e-2;
    return o->optimizer == QS_OPTIMIZER_FSM && o->recipe == QS_RECIPE_LITERAL ? 8e-3 : 4e-3;
}

void qsi_train_config(const qs_train_options *o, qs_model_config *config)
{
    config->dense = o->optimizer == QS_OPTIMIZER_ADAMW;
    config->lora_rank = o->optimizer != QS_OPTIMIZER_LORA ? 0 : o->lora_rank > 0 ? o->lora_rank : QS_LORA_RANK;
}

void qs_train_options_default(qs_train_options *o)
{
    memset(o, 0, sizeof *o);
    o->struct_size = sizeof *o;
    o->optimizer = QS_OPTIMIZER_FSM;
    o->fsm = QS_FSM_C4;
    o->recipe = QS_RECIPE_DEFAULT;
    o->schedule = QS_SCHEDULE_COSINE;
    o->steps = 1000;
    o->batch = 32;
    o->seed = 1;
    o->warmup = -1;
    o->final_lr = -1.0;
    o->sticky = -1;
    o->health_window = -1;
}

/* The literal method has no freedom left: every step away allowed, 2% of the weights. */
static void fill_literal(qs_train_options *o)
{
    o->sticky = 256;
    o->density_start = o->density_end = 0.02;
}

/* Half a phase is short enough for a whole window to lie in every phase. */
static int64_t automatic_window(const qs_train_options *o)
{
    const int64_t window = qsi_min(100, qsi_max(20, o->steps / 10));
    return o->active_parts > 1 ? qsi_max(1, qsi_min(window, o->steps / o->active_parts / o->sweeps / 2)) : window;
}

static void fill_automatic(qs_train_options *o, const qs_model_config *model)
{
    if (o->optimizer == QS_OPTIMIZER_FSM && o->recipe == QS_RECIPE_LITERAL)
        fill_literal(o);
    if (!(o->lr > 0.0))
        o->lr = searched_rate(o);
    if (!(o->matrix_lr > 0.0))
        o->matrix_lr = o->optimizer == QS_OPTIMIZER_BOP ? BOP_SHARE : o->lr;
    if (!(o->scale_lr > 0.0))
        o->scale_lr = SCALE_RATE * o->lr;
    if (o->warmup < 0)
        o->warmup = qsi_min(50, o->steps / 10);
    if (o->final_lr < 0.0)
        o->final_lr = 0.05;
    if (!(o->density_start > 0.0))
        o->density_start = 0.8;
    if (!(o->density_end > 0.0))
        o->density_end = 0.02;
    if (!(o->amplitude_start > 0.0))
        o->amplitude_start = 1024.0 / (double)model->dim;
    if (!(o->amplitude_end > 0.0))
        o->amplitude_end = 0.0375 * o->amplitude_start;
    if (o->anchor < 0.0)
        o->anchor = 0.0;
    if (o->micro_batch == 0)
        o->micro_batch = o->batch;
    if (o->lora_rank <= 0)
        o->lora_rank = QS_LORA_RANK;
    if (o->sticky < 0)
        o->sticky = qs_fsm_rule_of(o->fsm)->default_sticky;
    if (o->active_parts <= 0)
        o->active_parts = 1;
    if (o->sweeps <= 0)
        o->sweeps = o->active_parts > 1 ? qsi_max(1, qsi_min(SWEEPS, o->steps / SWEEP_STEPS / o->active_parts)) : 1;
    if (o->health_window < 0)
        o->health_window = automatic_window(o);
}

#define REAL_RANGES(X) \
    X(lr, 0.0, 1e38) X(matrix_lr, 0.0, 1e38) X(scale_lr, 0.0, 1e38) X(final_lr, 0.0, 1.0) X(weight_decay, 0.0, 1.0) \
    X(clip, 0.0, 1e9) X(density_start, 0.0, 1.0) X(density_end, 0.0, 1.0) X(amplitude_start, 0.0, 128.0) \
    X(amplitude_end, 0.0, 128.0) X(anchor, 0.0, 1.0)
#define INTEGER_RANGES(X) \
    X(steps, 1, INT64_C(1) << 31) X(batch, 1, 1 << 20) X(micro_batch, 1, o.batch) X(warmup, 0, o.steps) X(sticky, 0, 256) \
    X(recompute, 0, 1) X(full_backward, 0, 1) X(optimizer, 0, QS_OPTIMIZERS - 1) X(fsm, 0, QS_FSMS - 1) X(recipe, 0, QS_RECIPE_EXACT) \
    X(schedule, 0, QS_SCHEDULE_CONSTANT) X(precision, 0, QS_PRECISIONS - 1) X(health_window, 0, INT64_C(1) << 31) \
    X(lora_rank, 1, 1024) \
    X(active_parts, 1, 1024) X(sweeps, 1, 1 << 20) X(active_by, 0, QS_ACTIVE_BY_BLOCKS) X(active_order, 0, QS_ACTIVE_RANDOM)

static qs_status check_active(const qs_train_options *o, const qs_model_config *model)
{
    qs_status status = QS_OK;
    const int64_t phases = o->active_parts * o->sweeps;
    const qsi_active active = qsi_active_of(o, model);
    if (phases == 1)
        return QS_OK;
    if (o->optimizer != QS_OPTIMIZER_FSM)
        QS_FAIL(QS_ERR_ARG, "active_parts is %lld and sweeps %lld; only fsm trains a part of the weights at a time",
                (long long)o->active_parts, (long long)o->sweeps);
    if (o->active_parts == 1)
        QS_FAIL(QS_ERR_ARG, "sweeps is %lld; with one part, which is always active, there is one", (long long)o->sweeps);
    if (o->steps < QSI_PHASE_STEPS * phases)
        QS_FAIL(QS_ERR_ARG, "%lld steps are too few for %lld phases (parts times sweeps); every phase needs at least %d",
                (long long)o->steps, (long long)phases, QSI_PHASE_STEPS);
    for (int64_t part = 0; part < o->active_parts; part++)
        if (qsi_active_weights(&active, part) == 0)
            QS_FAIL(QS_ERR_ARG, "active_parts is %lld; part %lld would be empty: matrices are cut into units of 32 rows, take fewer "
                    "parts", (long long)o->active_parts, (long long)part);
fail:
    return status;
}

qs_status qs_train_options_resolve(qs_train_options *options, const qs_model_config *model)
{
    qs_status status = QS_OK;
    qs_train_options o;
    if (!options || options->struct_size != sizeof *options)
        QS_FAIL(QS_ERR_ARG, "training options: struct_size is not that of this library; start from qs_train_options_default");
    o = *options;
    if (!qs_fsm_rule_of(o.fsm))
        QS_FAIL(QS_ERR_ARG, "fsm is %d; there is no such state machine", (int)o.fsm);
#define CHECK(field, low, high) \
    if (isnan(o.field)) \
        QS_FAIL(QS_ERR_ARG, #field " is not a number");
    REAL_RANGES(CHECK)
#undef CHECK
    fill_automatic(&o, model);
#define CHECK(field, low, high) \
    if ((int64_t)o.field < (int64_t)(low) || (int64_t)o.field > (int64_t)(high)) \
        QS_FAIL(QS_ERR_ARG, #field " is %lld; it must lie in %lld..%lld", (long long)o.field, (long long)(low), (long long)(high));
    INTEGER_RANGES(CHECK)
#undef CHECK
#define CHECK(field, low, high) \
    if (!(o.field >= (low) && o.field <= (high))) \
        QS_FAIL(QS_ERR_ARG, #field " is %g; it must lie in %g..%g", o.field, (double)(low), (double)(high));
    REAL_RANGES(CHECK)
#undef CHECK
    if (o.optimizer == QS_OPTIMIZER_ADAMW && o.precision != QS_PRECISION_F32)
        QS_FAIL(QS_ERR_ARG, "precision is %s; adamw trains fp32 matrices in f32", qs_precision_name(o.precision));
    if (o.optimizer == QS_OPTIMIZER_BOP && o.matrix_lr > 1.0)
        QS_FAIL(QS_ERR_ARG, "matrix_lr is %g; for bop it is a share and must lie in 0..1", o.matrix_lr);
    if (o.micro_batch != o.batch && (o.micro_batch * model->ctx) % QS_TOKEN_CHUNK)
        QS_FAIL(QS_ERR_ARG, "micro_batch %lld times ctx %lld must be a multiple of %d tokens, so that sums over tokens keep their order",
                (long long)o.micro_batch, (long long)model->ctx, QS_TOKEN_CHUNK);
    if (o.optimizer == QS_OPTIMIZER_FSM && o.recipe == QS_RECIPE_LITERAL && o.fsm != QS_FSM_T2)
        QS_FAIL(QS_ERR_ARG, "fsm is %s; the literal recipe is the machine t2", qs_fsm_rule_of(o.fsm)->name);
    if (o.optimizer == QS_OPTIMIZER_FSM && o.recipe == QS_RECIPE_EXACT && o.fsm == QS_FSM_C8)
        QS_FAIL(QS_ERR_ARG, "the exact recipe has no meaning for c8, which uses no threshold");
    if (o.anchor > 0.0 && (o.optimizer != QS_OPTIMIZER_FSM || o.recipe != QS_RECIPE_DEFAULT || o.fsm == QS_FSM_C8))
        QS_FAIL(QS_ERR_ARG, "anchor is %g; only fsm with its default recipe and t2, c2 or c4 pulls weights back, others need 0", o.anchor);
    QS_TRY(check_active(&o, model));
    *options = o;
fail:
    return status;
}

json_t *qsi_train_options_to_json(const qs_train_options *o)
{
    int missing = 0;   /* a member without memory */
    json_t *object = json_object();
    const char *optimizers[] = {
#define NAME(name, text, what) text,
        QS_OPTIMIZER_LIST(NAME)
#undef NAME
    };
    const char *recipes[] = {"default", "literal", "exact"};
    const char *schedules[] = {"cosine", "linear", "constant"};
    const char *bys[] = {"rows", "blocks"}, *orders[] = {"bottom-up", "top-down", "random"};
    missing |= json_object_set_new(object, "optimizer", json_string(optimizers[o->optimizer]));
    missing |= json_object_set_new(object, "fsm_state", json_string(qs_fsm_rule_of(o->fsm)->name));
    missing |= json_object_set_new(object, "fsm_recipe", json_string(recipes[o->recipe]));
    missing |= json_object_set_new(object, "schedule", json_string(schedules[o->schedule]));
    missing |= json_object_set_new(object, "precision", json_string(qs_precision_name(o->precision)));
    missing |= json_object_set_new(object, "active_by", json_string(bys[o->active_by]));
    missing |= json_object_set_new(object, "active_order", json_string(orders[o->active_order]));
#define PUT_INTEGER(field) missing |= json_object_set_new(object, #field, json_integer((json_int_t)o->field));
    PUT_INTEGER(steps)
    PUT_INTEGER(batch)
    PUT_INTEGER(warmup)
    PUT_INTEGER(sticky)
    PUT_INTEGER(active_parts)
    PUT_INTEGER(sweeps)
    PUT_INTEGER(full_backward)
#undef PUT_INTEGER
#define PUT_REAL(field, low, high) missing |= json_object_set_new(object, #field, json_real(o->field));
    REAL_RANGES(PUT_REAL)
#undef PUT_REAL
    if (!missing)
        return object;
    json_decref(object);
    return NULL;
}
