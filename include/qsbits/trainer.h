/* qsbits/trainer.h - training: one object that takes steps, saves and resumes. */
#ifndef QSBITS_TRAINER_H
#define QSBITS_TRAINER_H

#include "fsm.h"
#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What trains the matrices. Embedding, head, norms and row scales are trained by AdamW in every arm. */
#define QS_OPTIMIZER_LIST(X) \
    X(FSM,    "fsm",    "1-bit weights moved by a state machine") \
    X(STE,    "ste",    "1-bit weights with fp32 latents, straight-through, AdamW (BitNet style)") \
    X(BOP,    "bop",    "1-bit weights flipped by an fp32 moving average of the gradient (Helwegen et al.)") \
    X(FROZEN, "frozen", "random 1-bit weights that never change") \
    X(LORA,   "lora",   "1-bit weights that never change beside fp32 low-rank adapters, AdamW (Hu et al.)") \
    X(ADAMW,  "adamw",  "dense fp32 weights, AdamW")

typedef enum qs_optimizer {
#define QS_OPTIMIZER_ENUM(name, text, what) QS_OPTIMIZER_##name,
    QS_OPTIMIZER_LIST(QS_OPTIMIZER_ENUM)
#undef QS_OPTIMIZER_ENUM
    QS_OPTIMIZERS
} qs_optimizer;

typedef enum qs_recipe {
    QS_RECIPE_DEFAULT,   /* docs/numerics.md: normalised, one visit, hot then cold */
    QS_RECIPE_LITERAL,   /* the method as published (t2 only): from 0, T2 gradient in memory, constant density 2%, raw gradient */
    QS_RECIPE_EXACT      /* the default with same-step statistics and quantile: two visits and a dense gradient; for tests */
} qs_recipe;

/* The active set (docs/fsm.md): which rows train at a time. Its parts are shares of the rows of every matrix, or shares of the
 * model from the first matrix of block 0 to the last of the top block. */
typedef enum qs_active_by { QS_ACTIVE_BY_ROWS, QS_ACTIVE_BY_BLOCKS } qs_active_by;
typedef enum qs_active_order { QS_ACTIVE_BOTTOM_UP, QS_ACTIVE_TOP_DOWN, QS_ACTIVE_RANDOM } qs_active_order;

typedef enum qs_schedule { QS_SCHEDULE_COSINE, QS_SCHEDULE_LINEAR, QS_SCHEDULE_CONSTANT } qs_schedule;

/* Rank of the adapters of lora where none is given. */
enum { QS_LORA_RANK = 8 };

typedef struct qs_train_options {
    size_t struct_size;        /* set by qs_train_options_default */
    qs_optimizer optimizer;
    qs_fsm fsm;
    qs_recipe recipe;
    qs_schedule schedule;      /* of the learning rates, after warm-up */
    int64_t steps;             /* length of the run: schedules end there */
    int64_t batch;             /* sequences per step */
    int64_t micro_batch;       /* sequences at a time; 0 = batch. micro_batch * ctx must be a multiple of 256 unless = batch;
                                  memory only, the trained bytes are the same */
    int32_t recompute;         /* 1: keep only block inputs and recompute the rest; memory only, the same bytes */
    int32_t full_backward;     /* 1: the backward pass always goes down to block 0; 0 (default): to the lowest block in which a row is
                                  active, and the embedding and the norms below it rest */
    uint64_t seed;
    double lr;                 /* float parameters; <= 0: the searched rate of the optimizer (docs/learning.md) */
    double matrix_lr;          /* latents (ste), dense weights (adamw), adapters (lora; B of them twice that), share of a new gradient
                                  in the average (bop, at most 1); <= 0: lr (ste, adamw, lora), the searched share (bop) */
    double scale_lr;           /* row scales; <= 0: searched multiple of lr */
    int64_t warmup;            /* steps; < 0: min(50, steps / 10) */
    double final_lr;           /* share of the rate at the end, 0..1; < 0: 0.05 */
    double weight_decay;       /* of matrices in ste and adamw; default 0 */
    double clip;               /* global norm limit of the float parameters' gradient; 0 = off (default) */
    double density_start;      /* share of weights pulsed; <= 0: 0.8 */
    double density_end;        /* <= 0: 0.02 */
    double amplitude_start;    /* c8: levels per sigma; <= 0: by width */
    double amplitude_end;
    double anchor;             /* t2, c2, c4 with the default recipe: weights that are not pulsed are pulled one level back to the sign they
                                  had when their phase began, with probability anchor * density (1/8 at most), for 1 bit a weight; 0..1;
                                  <= 0 (default): never. For runs that qs_trainer_start_from starts; 0.2 is what the command takes then */
    int32_t sticky;            /* 0..256; < 0: the rule's default */
    qs_precision precision;    /* of the products with 1-bit weights and of their gradients; adamw has f32 only */
    int64_t active_parts;      /* fsm: parts that the rows of all matrices are cut into; one part at a time keeps a state and trains, the
                                  others rest. 1: everything always trains; <= 0: 1 */
    int64_t sweeps;            /* how often every part has its turn; <= 0: 4, or fewer in short runs */
    qs_active_by active_by;
    qs_active_order active_order;
    int64_t lora_rank;         /* of the adapters, lora only; see qs_model_config; <= 0: QS_LORA_RANK */
    int64_t health_window;     /* steps over which qs_trainer_health measures; 0: never; < 0: steps / 10 within 20..100, at most half a
                                  phase. Trained bytes are the same */
} qs_train_options;

QS_API void qs_train_options_default(qs_train_options *options);

/* Fills automatic fields and checks all against the model; ARG names field, value and range. */
QS_API QS_CHECK qs_status qs_train_options_resolve(qs_train_options *options, const qs_model_config *model);

typedef struct qs_trainer qs_trainer;

/* A new run at step 0. Copies config and options; borrows context and text, which must outlive the trainer.
 * config.dense and config.lora_rank are set from the options. Errors: ARG, SHAPE (text too short), NOMEM, DEVICE. */
QS_API QS_CHECK qs_status qs_trainer_create(qs_context *context, const qs_model_config *config, const qs_train_options *options,
                                            qs_text *text, qs_trainer **out);
QS_API void qs_trainer_free(qs_trainer **trainer);

/* ---- in place ------------------------------------------------------------------------------------------------------- */

/* How the blocks of a model that stays in its file reach the device. */
typedef struct qs_stream_options {
    size_t struct_size;        /* set by qs_stream_options_default */
    int64_t slots;             /* device buffers of one block each, 2..1024; default 3 */
    uint64_t ram_bytes;        /* host memory for blocks, at least two of them; 0 (default): for all, or what the RAM budget leaves */
} qs_stream_options;

QS_API void qs_stream_options_default(qs_stream_options *options);

/* A run that trains the model in `folder` (of qs_model_write_new, without training state) in place and phase by phase: only the rows of a
 * phase, their state and the float parameters are in memory; the blocks stream from the file through slots. fsm only, active_by
 * blocks or rows; health is not measured. ctx: 0 = the model's. The file does not change within a phase: checkpoints are deltas, and
 * qs_trainer_merge writes the rows of a phase that is over into it. The folder is locked as long as the trainer lives. Trained bytes
 * are those of a resident run that starts from the same model. Errors: as qs_trainer_create and qs_checkpoint_open; ARG (optimizer,
 * options of stream, a model with state), CREATE (locked by another process), NOMEM (budget: names the pool). */
QS_API QS_CHECK qs_status qs_trainer_create_in_place(qs_context *context, const char *folder, const qs_stream_options *stream,
                                                     int64_t ctx, const qs_train_options *options, qs_text *text, qs_trainer **out);

/* Whether the phase of the last step is over and its rows are not in the file yet. Save a checkpoint before merging: it is from
 * there that a run goes on which is killed between the two. */
QS_API int qs_trainer_must_merge(const qs_trainer *trainer);

/* Writes the rows of the phase and the float parameters into the model file: after a crash at any moment the file is as before or as
 * after. Nothing for other runs. qs_trainer_step does it by itself where the caller has not. Errors: IO: the model is as before, or the
 * text says that the next opening finishes what has begun; CORRUPT (a block that is to change is damaged). */
QS_API QS_CHECK qs_status qs_trainer_merge(qs_trainer *trainer);

/* What streaming took since the trainer exists; zero where nothing streams. */
typedef struct qs_stream_stats {
    int64_t blocks;            /* that passed */
    int64_t from_slot, from_ram;   /* of them without a copy, without a read of the file */
    uint64_t read_bytes, copied_bytes;
    double read_seconds, copy_seconds, transfer_seconds;   /* transfer: a read or a copy was under way */
    double wait_seconds;       /* in which training waited for a block */
} qs_stream_stats;
QS_API void qs_trainer_stream_stats(const qs_trainer *trainer, qs_stream_stats *stats);

typedef struct qs_step_info {
    int64_t step;              /* steps done, this one included */
    int64_t tokens;            /* trained on so far */
    double loss;               /* mean nats per token of this step's batch, before its update */
    double lr;                 /* of the float parameters in this step */
    double density;            /* wanted share of weights pulsed (fsm); 0 else */
    double pulses;             /* measured share of the active weights; 0 else */
    double flips;              /* share of packed weights whose sign changed in this step; 0 for frozen, lora and adamw */
} qs_step_info;

/* One step. NONFINITE: the loss is not finite; nothing was updated and the trainer may still be saved.
 * ARG when all steps are done. In a steady state (from the third step on) a step allocates nothing. */
QS_API QS_CHECK qs_status qs_trainer_step(qs_trainer *trainer, qs_step_info *info);

/* Health of the matrices of one block, or of all, over the last whole window of options.health_window steps (windows end at
 * its multiples, also across a resume). Shares are of weights; NaN where an arm has no such figure. dead, oscillating and
 * deepest are counted on a fixed sample, one row of every 256 of a matrix and at least one; its record of 3 bits a weight (0.012 bits
 * per weight of large matrices, 0.0198 at preset tiny, more where matrices have fewer than 150 rows) is booked as state, saved with
 * checkpoints, and no part of qs_trainer_hash. */
typedef struct qs_health {
    int64_t step;              /* last step of the window; 0: no window has ended, everything else is NaN */
    double density;            /* wanted share pulsed per step, mean of the window (t2, c2, c4) */
    double pulses;             /* measured share, mean of the window (fsm) */
    double flips;              /* share whose sign changed per step, mean of the window (fsm, ste, bop) */
    double dead;               /* sample: share not pulsed once in the window (fsm) */
    double oscillating;        /* sample: share flipped more than 3 times in the window (fsm, ste, bop) */
    double deepest;            /* sample: share in the deepest state of its sign at the end of the window (fsm) */
    double scale_drift;        /* row scales at the end of the window: RMS of scale / start - 1 (all but adamw) */
    double gradient_rms;       /* in the window's last step: RMS of the loss gradient per weight, scale included where there is one */
} qs_health;

/* block: 0..layers-1, or -1 for all together. Errors: ARG (block). */
QS_API QS_CHECK qs_status qs_trainer_health(const qs_trainer *trainer, int64_t block, qs_health *health);

/* Bytes that a run of these settings books when it is created, before anything is allocated. in_place: how the blocks of a model stream
 * that is trained in place (options.health_window counts as 0); NULL: it is resident. ram_budget: what host memory there is for all
 * of the run, 0: no limit; where in_place asks for no size, blocks get what it leaves, at least two of them, with a twentieth kept
 * back. Scratch of kernels (workspace), token windows of validations and file buffers come on top, small beside the rest.
 * Both are resolved first. Errors: as qs_model_config_resolve and qs_train_options_resolve; ARG when a size overflows, and for
 * what does not train in place. */
QS_API QS_CHECK qs_status qs_train_plan(const qs_model_config *config, const qs_train_options *options,
                                        const qs_stream_options *in_place, uint64_t ram_budget, qs_memory_plan *plan);

/* Rates of a step (0 .. steps-1) of a resolved run, as the step will use them: for showing a schedule before the run. */
typedef struct qs_rates {
    double lr, matrix_lr, scale_lr;
    double density;            /* wanted share pulsed (t2, c2, c4), else 0 */
    double amplitude;          /* levels per sigma (c8), else 0 */
} qs_rates;
QS_API void qs_train_rates(const qs_train_options *options, int64_t step, qs_rates *rates);

/* The phase that a step of a resolved run belongs to. */
typedef struct qs_phase {
    int64_t index, phases;     /* which of how many */
    int64_t part, parts;
    int64_t first, steps;      /* its first step and how many it has */
    int64_t weights;           /* how many train in it */
} qs_phase;
QS_API void qs_train_phase(const qs_model_config *config, const qs_train_options *options, int64_t step, qs_phase *phase);

/* Rows first .. first + count - 1 of the matrix `tensor` (qs_model_tensor_id) train in that phase; count is 0 when it rests. Config and
 * options are resolved. */
QS_API void qs_train_active_rows(const qs_model_config *config, const qs_train_options *options, int64_t step, uint32_t tensor,
                                 int64_t *first, int64_t *count);

/* Steps done. */
QS_API int64_t qs_trainer_position(const qs_trainer *trainer);

/* The model being trained; borrowed. May be evaluated and sampled between steps. */
QS_API qs_model *qs_trainer_model(qs_trainer *trainer);

/* Resolved options; borrowed. */
QS_API const qs_train_options *qs_trainer_options(const qs_trainer *trainer);

/* Bits that persist between two steps, from the real allocations. qs_trainer_bits fails only with NOMEM. */
typedef struct qs_bits {
    int64_t packed_weights;
    double packed_bits_per_weight;    /* of an inference file: W1, fp16 scales, adapters */
    double training_bits_per_weight;  /* weights, levels, anchor or latents and moments, scales with masters and moments, statistics,
                                         adapters with moments, the record of health */
    double health_bits_per_weight;    /* the record's share of that */
    int64_t adamw16_bytes;            /* what 16-bit weights and gradients with fp32 AdamW would take for the same weights: 12 bytes each */
    int64_t training_bytes;           /* training_bits_per_weight * packed_weights / 8 */
} qs_bits;
QS_API QS_CHECK qs_status qs_trainer_bits(const qs_trainer *trainer, qs_bits *bits);

/* Starts a new run from the weights of a checkpoint instead of random ones: once, before the first step, from whatever
 * qs_checkpoint_open opens. Taken are signs (or dense weights), row scales with their fp32 masters where there are some,
 * embedding, head, norms, adapters, and in ste the latents of a checkpoint of ste. Everything else, levels and moments, is as
 * at any start; step, schedules and order of data are those of the new run. The shape must be that of the run; ctx may differ,
 * and lora may start from a model without adapters. Errors: as qs_checkpoint_open; ARG names the first field that differs and
 * both values. After an error other than NOMEM, IO and DEVICE the trainer is as it was. */
QS_API QS_CHECK qs_status qs_trainer_start_from(qs_trainer *trainer, const char *path);

/* What the run was started from: XXH3-128 of those weights (docs/format.md, section 4), "" where they were random. Every
 * checkpoint of the run names it. Borrowed, as long as the trainer. */
QS_API const char *qs_trainer_from(const qs_trainer *trainer);

/* Says that this run was started from weights with this checksum. It may then load its own checkpoint without those weights, or
 * be started from them and no others; until one of the two has happened it neither steps nor saves. Errors: ARG (no checksum;
 * steps are done). */
QS_API QS_CHECK qs_status qs_trainer_expect_from(qs_trainer *trainer, const char *checksum);

/* Writes a checkpoint folder (docs/format.md): to folder.tmp, fsync, rename. CREATE, IO: nothing half-written remains. */
QS_API QS_CHECK qs_status qs_trainer_save(qs_trainer *trainer, const char *folder);

/* Continues from a checkpoint of the same config, options and text: the bytes after the next step are those of a run that was
 * never stopped. Errors: NOINPUT, CORRUPT, FORMAT, VERSION; ARG when the run's settings, or the weights it was started from
 * (qs_trainer_from), differ (names the first). Settings are compared before anything is loaded; after an error other than ARG the
 * trainer may be half loaded: free it. */
QS_API QS_CHECK qs_status qs_trainer_load(qs_trainer *trainer, const char *folder);

/* XXH3-64 over everything that persists: the same for every thread count, kernel level, micro-batch and compiler. */
QS_API QS_CHECK qs_status qs_trainer_hash(qs_trainer *trainer, uint64_t *hash);

/* Trains a tiny built-in model with each machine and baseline and returns one number. */
QS_API QS_CHECK qs_status qs_signature(qs_context *context, uint64_t *signature);

#ifdef __cplusplus
}
#endif
#endif
