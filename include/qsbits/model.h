/* qsbits/model.h - the decoder: configuration, creation, opening, evaluation, text generation.
 * Graph: docs/numerics.md, "The model" (pre-norm, grouped-query attention, RoPE, SwiGLU; optional QK-norm and sub-norm). */
#ifndef QSBITS_MODEL_H
#define QSBITS_MODEL_H

#include "data.h"
#include "ops.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qs_model_config {
    size_t struct_size;  /* set by qs_model_config_default */
    int64_t vocab;       /* symbols; 256 for bytes */
    int64_t layers;      /* blocks, 1..4096 */
    int64_t dim;         /* width, a multiple of 32 */
    int64_t heads;       /* query heads, 1..1024 */
    int64_t kv_heads;    /* 0 = heads; else a divisor of heads */
    int64_t head_dim;    /* 0 = dim / heads; even, 4..512; heads and kv_heads times head_dim are multiples of 32 */
    int64_t ffn;         /* 0 = 8 * dim / 3 rounded up to a multiple of 128; a multiple of 32 */
    int64_t ctx;         /* tokens of a training window, 2..1048576 */
    int32_t qk_norm;     /* 1: RMSNorm on q and k per head */
    int32_t sub_norm;    /* 1 (default): RMSNorm before the attention-output and down products */
    int32_t dense;       /* 1: matrices are fp32 without scales (the adamw baseline) */
    int32_t tied;        /* 1: the embedding is the head as well */
    int64_t lora_rank;   /* rank of fp32 low-rank adapters beside every 1-bit matrix: 1..1024, at most the smallest side of a matrix;
                            0 (default): none. A trainer sets it from its options */
    double rope_theta;   /* 10000 */
    double norm_eps;     /* 1e-5 */
} qs_model_config;

QS_API void qs_model_config_default(qs_model_config *config);

/* Shapes by name, smallest first; index outside 0..n-1 gives NULL. */
QS_API int qs_model_preset_count(void);
QS_API const char *qs_model_preset_name(int index);

/* Sets the shape fields of config from a preset. ARG (names the presets) when there is none of that name. */
QS_API QS_CHECK qs_status qs_model_preset(const char *name, qs_model_config *config);

/* Fills the fields that are 0 for "default" and checks all. ARG names the field, its value and the range. */
QS_API QS_CHECK qs_status qs_model_config_resolve(qs_model_config *config);

/* Counts that follow from a resolved config. */
typedef struct qs_model_size {
    int64_t packed_weights;   /* weights in the 1-bit matrices (or their dense twins) */
    int64_t float_params;     /* embedding, head, norms, row scales, adapters */
    int64_t packed_bytes;     /* W1 words, fp16 scales and adapters of an inference file */
} qs_model_size;
QS_API QS_CHECK qs_status qs_model_size_of(const qs_model_config *config, qs_model_size *size);

/* Number of a matrix in the random draws it starts from (qs_random_signs), which follows from its name alone: 7 times the block plus
 * its place in the block. name: of the tensor, "model.layers.3.mlp.up_proj.weight". Errors: ARG (no matrix of a block). */
QS_API QS_CHECK qs_status qs_model_tensor_id(const char *name, uint32_t *id);

typedef struct qs_model qs_model;

/* A model with random signs (or dense normal weights) from the seed. config is resolved first. *out is owned by the caller.
 * Errors: as qs_model_config_resolve; NOMEM; DEVICE. */
QS_API QS_CHECK qs_status qs_model_create(qs_context *context, const qs_model_config *config, uint64_t seed, qs_model **out);

/* Receives how many of the bytes are done; anything but 0 stops the writing, which then fails with CANCELLED. */
typedef int qs_progress_fn(void *user, uint64_t done, uint64_t total);

/* Writes the model that qs_model_create(config, seed) would make as a checkpoint of step 0 without training state (docs/format.md),
 * tensor by tensor: no more than the largest one is held in memory, so a model may be larger than that. The same bytes for every
 * thread count. folder is new or empty; it comes to be whole or, after any failure, not at all. progress may be NULL.
 * Errors: as qs_model_config_resolve; CREATE (something stands there); IO (too little space, told before anything is written;
 * failed writes); CANCELLED; NOMEM. */
QS_API QS_CHECK qs_status qs_model_write_new(qs_context *context, const qs_model_config *config, uint64_t seed, const char *folder,
                                             qs_progress_fn *progress, void *user);

/* The same with the weights of a checkpoint, whatever qs_checkpoint_open opens, without its training state: a model of its own that
 * may be trained in place. Errors: also those of qs_checkpoint_open. */
QS_API QS_CHECK qs_status qs_model_write_copy(qs_context *context, const char *path, const char *folder, qs_progress_fn *progress,
                                              void *user);

/* Opens a run folder (its newest valid checkpoint), a checkpoint folder, or a model.safetensors inside one.
 * Errors: NOINPUT, FORMAT, CORRUPT, VERSION, NOMEM; the text names the file. */
QS_API QS_CHECK qs_status qs_model_open(qs_context *context, const char *path, qs_model **out);
QS_API void qs_model_free(qs_model **model);

/* Arithmetic of the products with 1-bit weights from now on, f32 until it is called; dense models have f32 only. A trainer sets that
 * of its options. Errors: ARG. */
QS_API QS_CHECK qs_status qs_model_set_precision(qs_model *model, qs_precision precision);

/* The resolved config; borrowed. */
QS_API const qs_model_config *qs_model_get_config(const qs_model *model);

/* Mean negative log-likelihood in nats per token over the first `windows` (0 = all) non-overlapping windows of ctx tokens of
 * the validation part of text. batch: sequences at a time (memory only; the result does not depend on it). *tokens (may be
 * NULL) receives how many predictions it averages. Sum over windows in double, ascending. DATA errors: SHAPE if the
 * validation part is shorter than one window. */
QS_API QS_CHECK qs_status qs_model_evaluate(qs_model *model, qs_text *text, int64_t windows, int64_t batch,
                                            double *nats, int64_t *tokens);

/* Bytes that an evaluation with this batch books while it runs. Errors: as qs_model_config_resolve; ARG (batch, a size overflows). */
QS_API QS_CHECK qs_status qs_model_evaluate_plan(const qs_model_config *config, int64_t batch, qs_memory_plan *plan);

/* The same over the test part (qs_text_keep_test). It is for the one figure at the end: whoever chooses by it needs another one. */
QS_API QS_CHECK qs_status qs_model_test(qs_model *model, qs_text *text, int64_t windows, int64_t batch, double *nats,
                                        int64_t *tokens);

/* One timeline of tokens with its KV cache. Positions 0 .. context_tokens-1. */
typedef struct qs_session qs_session;

/* context_tokens: 0 = the model's ctx. The session borrows the model, which must outlive it. */
QS_API QS_CHECK qs_status qs_session_create(qs_model *model, int64_t context_tokens, qs_session **out);
QS_API void qs_session_free(qs_session **session);
QS_API int64_t qs_session_position(const qs_session *session);
QS_API void qs_session_reset(qs_session *session);

/* Appends n tokens and returns the logits after the last one: logits [vocab], host memory of the caller, may be NULL.
 * Evaluating tokens one by one or together gives the same bytes. Errors: ARG (token out of range, context full). */
QS_API QS_CHECK qs_status qs_session_eval(qs_session *session, const int32_t *tokens, int64_t n, float *logits);

typedef struct qs_sampling {
    double temperature;  /* 0 = greedy; default 0.8 */
    int64_t top_k;       /* 0 = off; default 40 */
    double top_p;        /* 1 = off; default 0.95 */
    uint64_t seed;
} qs_sampling;
QS_API void qs_sampling_default(qs_sampling *sampling);

/* Draws one token from logits [vocab]; index is the number of the draw (Philox counter). Ties go to the smaller token. */
QS_API QS_CHECK qs_status qs_sample(const float *logits, int64_t vocab, const qs_sampling *sampling, uint32_t index, int32_t *token);

/* Evaluates the prompt (n_prompt >= 1) and then samples n tokens; each is handed to fn, whose non-zero result stops early with
 * CANCELLED. When the context is full, the second half of it is evaluated anew and generation goes on. */
typedef int qs_token_fn(void *user, int32_t token);
QS_API QS_CHECK qs_status qs_generate(qs_session *session, const int32_t *prompt, int64_t n_prompt, int64_t n,
                                      const qs_sampling *sampling, qs_token_fn *fn, void *user);

#ifdef __cplusplus
}
#endif
#endif
