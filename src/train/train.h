/* train.h - the trainer's parts: buffers of a step, the state of every matrix and float, schedules. */
#ifndef QSI_TRAIN_H
#define QSI_TRAIN_H

#include <jansson.h>
#include "io/checksum.h"
#include "model/model.h"
#include "qsbits/trainer.h"
#include "train/active.h"

/* A float parameter under AdamW. For row scales: the fp32 master, starting at 1. */
typedef struct qsi_adam {
    qs_view value, grad, m, v;
} qsi_adam;

/* What training keeps for one matrix; views that an arm does not need are absent. The first group is that of the n rows that train
 * in this phase, all of them without fsm; it lies in the trainer's dealt buffers and is absent where the matrix rests. */
typedef struct qsi_matrix_state {
    qsi_rows active;
    qs_view weight, half;       /* their signs [n, K] and fp16 scales [1, n]: those of the model, or apart from a streamed one */
    qs_view levels;             /* fsm: [n, K] in the rule's format */
    qs_view anchor;             /* fsm with an anchor: their signs when the phase began [n, K] */
    qs_view row_moment;         /* fsm default: r [1, n] */
    qs_view column_moment;      /* c [1, K] */
    qs_view control;            /* [1, 4] = {mu, 0, 0, 0} */
    qsi_adam scale;             /* packed arms: master of the row scales [1, n] */

    qs_view latent;             /* ste: F32 [N, K] */
    qs_view m, v;               /* ste, adamw: moments [N, K] */
    qs_view average;            /* bop: moving average of the gradient, F32 [N, K] */
    qs_view record;             /* fsm, ste, bop with health: of sampled rows (qsbits/ops.h, "the sample") */
} qsi_matrix_state;

/* Elements of the dealt buffers that a part takes, or all parts at most. */
typedef struct qsi_room {
    int64_t weights, rows, cols, controls;
} qsi_room;

/* The buffers whose pieces the matrices of a phase get: [1, elements of a room]. */
typedef struct qsi_dealt {
    qs_view levels;
    qs_view anchors;            /* W1, with options.anchor */
    qs_view weights, halves;    /* streamed models: W1 and F16 */
    qs_view row_moments, column_moments, controls;
    qsi_adam scales;
} qsi_dealt;

/* Scratch of the visit, shared by all matrices. */
typedef struct qsi_visit_scratch {
    qs_view a, b, theta, r_now, c_now, counts;
    qs_view dgrad;              /* [N, K] dense gradient: ste, bop, adamw, literal, exact */
    qs_view pulses;             /* T2: literal */
} qsi_visit_scratch;

/* What follows from the position in the schedule; float where it enters an op. */
typedef struct qsi_rates {
    double lr, matrix_lr, scale_lr;
    double density;
    float z0, slope, amplitude, beta;
    uint32_t pull;              /* of a candidate towards the anchor (qsbits/ops.h) */
    float c1, c2;               /* bias corrections of AdamW */
    bool first;                 /* first update of the run: statistics only */
} qsi_rates;

/* What is measured of the matrices (health.c). Without a window there are no lists and nothing of it is touched. */
typedef struct qsi_health {
    int64_t steps;              /* measured in the running window */
    double density;             /* sum of their wanted shares of pulses */
    int64_t *pulses, *flips;    /* [layers] sums of their counts */
    bool measuring;             /* the step at hand ends a window that was measured in full */
    qs_view squares;            /* F32 [matrices, 1]: sums of squares of the gradients of such a step */
    float *host_floats;         /* [most rows] */
    uint32_t *host_words;       /* [most columns / 4]: a row of a record, of states or of signs */
    int16_t *host_signs, *host_states;   /* [most columns]: a row as qs_unpack gives it */
    qs_health *results;         /* [layers + 1]: of the blocks, then of all */
} qsi_health;

struct qs_trainer {
    qs_context *context;
    qs_model *model;
    qs_text *text;
    qs_train_options options;   /* resolved */
    int64_t step;
    qs_cursor cursor;
    char from[QSI_HEX];         /* checksum of the weights the run was started from, "" for random ones */
    bool awaiting;              /* those weights, or a checkpoint of the run, are still to come */

    /* what trains in the phase at hand (active.h) */
    qsi_active active;
    qsi_phase phase;
    int64_t lowest;             /* block down to which the backward pass goes; floats below it do not train */
    qsi_dealt dealt;            /* state of its rows, dealt out anew in every phase */

    /* in place (in_file.c) */
    int lock;                   /* on the model's folder, -1 else */
    char base[QSI_HEX];         /* manifest checksum of the model that the phase began with */
    bool merged;                /* the rows of the phase are in the file */

    /* state that persists between steps */
    qsi_arena state_arena, float_arena, active_arena;
    qsi_matrix_state *matrices; /* [layers * QSI_MATRICES] */
    qsi_adam *floats;           /* [model->n_floats] */
    qsi_adam *adapters;         /* [model->n_adapters] */

    /* a step's own memory */
    qsi_arena activation_arena, gradient_arena, scratch_arena;
    int64_t rows, micro_rows;   /* tokens of a step and of a micro-batch */
    qs_view *h;                 /* [layers + 1] residual streams [rows, dim] */
    qsi_tape *tapes;            /* [layers], or one that is recomputed */
    qsi_block_grads grads;
    qs_view stream_grads[3];    /* rotate as dout, dmid, din */
    qsi_loss loss;
    qs_view partial, mean_loss, tokens;
    qs_view clip_sum, clip_factor;
    qsi_visit_scratch visit;
    int32_t *host_tokens;       /* [2 * rows]: tokens, targets */
    uint8_t *host_window;       /* [ctx + 1]: a window as it stands in the text */
    int32_t *host_counts;       /* [matrices, 4] */
    uint32_t *host_signs, *host_levels;   /* a row of signs, of levels */
    float *host_floats;         /* [most rows or columns of a matrix] */
    uint16_t *host_halves;
    int64_t *host_uses;         /* [layers] of the blocks in a step */
    qsi_health health;
};

/* ---- trainer.c ------------------------------------------------------------------------------------------------- */

/* Everything that can be refused before there is memory; resolves the options. config: of the model, resolved. */
qs_status qsi_trainer_check(qs_trainer *trainer, const qs_model_config *config);

/* Memory and start values of a trainer that was checked and has its model. */
qs_status qsi_trainer_begin(qs_trainer *trainer);

/* ---- options.c ------------------------------------------------------------------------------------------------- */

/* Threshold of bop on the moving average of the normalized gradient. */
extern const float qsi_bop_threshold;

/* Sets what follows of a config from what trains the model: dense, lora_rank. */
void qsi_train_config(const qs_train_options *options, qs_model_config *config);

/* Whether signs can flip. */
static inline bool qsi_signs_move(const qs_train_options *o)
{
    return o->optimizer == QS_OPTIMIZER_FSM || o->optimizer == QS_OPTIMIZER_STE || o->optimizer == QS_OPTIMIZER_BOP;
}

/* The options that decide trained bytes, as a JSON object (new reference). */
json_t *qsi_train_options_to_json(const qs_train_options *options);

/* ---- schedule.c ------------------------------------------------------------------------------------------------ */

void qsi_rates_at(const qs_train_options *options, int64_t step, qsi_rates *rates);

/* ---- buffers.c -------------------------------------------------------------------------------------------------- */

/* Sets rows and micro_rows from the resolved options. ARG when there are too many. */
qs_status qsi_trainer_rows(qs_trainer *trainer, int64_t ctx);

/* Adds what qsi_trainer_buffers would book to bytes: the trainer and its model are plans (context NULL) whose
 * lists hold one block. SHAPE when a size overflows. */
qs_status qsi_trainer_plan(qs_trainer *plan, qs_memory_plan *bytes);

qs_status qsi_trainer_buffers(qs_trainer *trainer);
void qsi_trainer_buffers_free(qs_trainer *trainer);

/* Start values of the state: latents, masters, the first phase. */
qs_status qsi_trainer_init_state(qs_trainer *trainer);

/* ---- phase.c: the state of the rows that train --------------------------------------------------------------------- */

/* Elements of a view of a row of columns: those of a range. */
static inline qs_view qsi_columns(qs_view view, qsi_rows range)
{
    view.offset += (uint64_t)qs_row_bytes((qs_format)view.format, range.first);
    view.cols = range.count;
    return view;
}

/* What the largest part takes. */
qsi_room qsi_phase_room(const qsi_active *active);

/* Makes the phase of `step` the trainer's: deals its buffers out to its rows. Their bytes stay. Without fsm all rows are active. */
void qsi_phase_assign(qs_trainer *trainer, int64_t step);

/* Whether the phase that is assigned is that of a step. */
static inline bool qsi_phase_covers(const qs_trainer *t, int64_t step)
{
    return step >= t->phase.first && step < t->phase.first + t->phase.steps;
}

/* Whether the backward pass of the phase gives float i a gradient: the embedding (as a head it always has one), norms, the head. */
static inline bool qsi_float_trains(const qs_trainer *t, int64_t i)
{
    if (i == 0)
        return t->lowest == 0 || t->model->config.tied;
    return t->floats[i].grad.buffer && (i - 1) / QSI_BLOCK_FLOATS >= t->lowest;
}

/* Assigns the phase of `step`, and its state gets start values. */
qs_status qsi_phase_enter(qs_trainer *trainer, int64_t step);

/* Masters of the active rows of a matrix that give its fp16 scales back. */
qs_status qsi_masters_of_scales(qs_trainer *trainer, int64_t index);

/* mu = 1 */
qs_status qsi_start_control(qs_trainer *trainer, qs_view control);

/* ---- in_file.c: training a model in place, streamed from its file ------------------------------------------------------ */

/* The rows of the phase that is assigned: copied out of the slabs, and laid over them from now on. Nothing for resident models. */
qs_status qsi_phase_fetch(qs_trainer *trainer);

/* From now on the rows of the phase, whose values are in memory, are used instead of those of the slabs; or those of the slabs. */
void qsi_lay_over(qs_trainer *trainer);
void qsi_lay_nothing_over(qs_trainer *trainer);

/* Tells the stream how often a step of the phase uses each block. */
void qsi_tell_uses(qs_trainer *trainer);

/* The manifest of a model (new reference; out may be NULL), and its own checksum, which names this state of the model. */
qs_status qsi_model_manifest(const qs_checkpoint *checkpoint, json_t **out, char seal[QSI_HEX]);

/* ---- delta.c: the rows of a phase in the model file and in deltas ------------------------------------------------------ */

/* Adds what makes the manifest of a checkpoint a delta; false without memory. */
bool qsi_delta_to_json(const qs_trainer *trainer, json_t *manifest);

/* Loading one: before, whether it fits the model that is trained, because it builds on it or was merged into it (ARG names both);
 * after, its rows are used from now on. Nothing for runs that are not in place. */
qs_status qsi_delta_check(qs_trainer *trainer, const qs_checkpoint *delta, const json_t *manifest);
void qsi_delta_loaded(qs_trainer *trainer);

/* ---- start.c: starting from the weights of a checkpoint --------------------------------------------------------------- */

/* ARG while the weights the run is to start from are missing. */
qs_status qsi_trainer_check_started(const qs_trainer *trainer);

/* ---- update.c: what happens to a matrix and to the floats once all gradients of the block exist ------------------- */

/* dy [rows, N], x [rows, K]. */
qs_status qsi_update_matrix(qs_trainer *trainer, int64_t index, qs_view dy, qs_view x, const qsi_rates *rates);
qs_status qsi_update_floats(qs_trainer *trainer, const qsi_rates *rates);

/* ---- lora.c: adapters ------------------------------------------------------------------------------------------------ */

/* Announces moments, gradients and the dy operands of A. */
void qsi_lora_add(qs_trainer *trainer);

/* Gradients of the adapters of matrix `index`: dy [rows, N], x [rows, K], u [rows, r] of all tokens of the step. */
qs_status qsi_lora_gradients(qs_trainer *trainer, int64_t index, qs_view dy, qs_view x, qs_view u);

/* ---- health.c: figures of the matrices over windows of steps (docs/numerics.md, "Health") --------------------------- */

/* In a step: at its start; after the update of a matrix; at its end, with host_counts of this step and the wanted share. */
void qsi_health_begin(qs_trainer *trainer);
qs_status qsi_health_gradient(qs_trainer *trainer, int64_t index);
qs_status qsi_health_end(qs_trainer *trainer, double density);

/* A phase begins: a window in which other rows trained gives no figures. */
void qsi_health_restart(qs_trainer *trainer);

/* The running window and the last figures as a JSON object (new reference), NULL when nothing is measured or without memory.
 * Back: *continued tells whether saved (may be NULL), of a run at `step`, has a window of the same length; if not, a new one
 * starts, with cleared records. FORMAT (names folder). */
json_t *qsi_health_to_json(const qs_trainer *trainer);
qs_status qsi_health_from_json(qs_trainer *trainer, const char *folder, const json_t *saved, int64_t step, bool *continued);

/* ---- tensors.c: the list of everything that persists -------------------------------------------------------------- */

typedef enum qsi_part {
    QSI_OF_FLOAT,
    QSI_OF_MATRIX,              /* counts in training_bits_per_weight */
    QSI_OF_HEALTH               /* counts there too; decides nothing, so it is not hashed and a checkpoint may lack it */
} qsi_part;

typedef struct qsi_persistent {
    char name[128];
    qs_view view;
    int file;                   /* 0 model, 1 state */
    int64_t slab;
    int64_t matrix;             /* whose state it is, -1: of none */
    qsi_part part;
} qsi_persistent;

static inline int64_t qsi_view_bytes(qs_view v) { return v.rows * qs_row_bytes((qs_format)v.format, v.cols); }

/* *out: array of *count entries in file order (qsi_free). */
qs_status qsi_trainer_tensors(const qs_trainer *trainer, qsi_persistent **out, int64_t *count);

/* For those who write them: a qs_fetch_fn whose user is a qsi_tensor_source. */
typedef struct qsi_tensor_source {
    qs_queue *queue;
    const qsi_persistent *tensors;
} qsi_tensor_source;
qs_status qsi_tensor_fetch(void *user, int64_t index, void *bytes, int64_t n_bytes);

#endif
