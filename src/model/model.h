/* model.h - the decoder's parameters and the passes over one block, shared by evaluation, sessions and the trainer. */
#ifndef QSI_MODEL_H
#define QSI_MODEL_H

#include <jansson.h>
#include "core/arena.h"
#include "qsbits/checkpoint.h"
#include "qsbits/model.h"
#include "stream/stream.h"

/* The matrices of a block, in file order. */
enum { QSI_Q, QSI_K, QSI_V, QSI_O, QSI_GATE, QSI_UP, QSI_DOWN, QSI_MATRICES };

typedef struct qsi_matrix {
    char name[96];        /* model.layers.<l>.self_attn.q_proj */
    int64_t rows, cols;   /* [out, in] */
    uint32_t id;          /* block * QSI_MATRICES + index, for random numbers */
    float base;           /* alpha0: scale = base * master */
    qs_view weight;       /* W1, or F32 in dense models; streamed: inside a slot, absent while its block is not entered */
    qs_view scale;        /* F16 [1, rows]; absent in dense models */
    /* streamed: rows that train live apart and are laid over the slab whenever its block is entered; absent where none do */
    int64_t trained_first;
    qs_view trained_weight, trained_scale;
    int64_t weight_at, scale_at;   /* streamed: place in the slab, bytes */
} qsi_matrix;

/* A float parameter; the list of them is the order of files, optimizers and random ids. */
typedef struct qsi_float {
    char name[96];
    qs_view view;         /* F32 [rows, cols]; vectors [1, d] */
    int64_t slab;         /* 0 embedding, 1 + l block l, 1 + layers final */
    float deviation;      /* initial values: normal with this deviation, or all ones when 0 */
} qsi_float;

/* The two adapters of a matrix in qs_model.adapters, and alpha / r, which stands in B. */
enum { QSI_LORA_A, QSI_LORA_B, QSI_LORA_PARTS, QSI_LORA_FACTOR = 2 };

/* Positions in qs_model.floats: FLOATS_OF_BLOCK per block after the embedding; absent norms have no buffer. */
enum { QSI_INPUT_NORM, QSI_Q_NORM, QSI_K_NORM, QSI_ATTN_SUB_NORM, QSI_POST_NORM, QSI_FFN_SUB_NORM, QSI_BLOCK_FLOATS };

struct qs_model {
    qs_context *context;       /* NULL: a plan, which only counts bytes; its lists hold one block, which stands for all */
    qs_queue *queue;
    qs_model_config config;    /* resolved */
    qs_precision precision;    /* of products with W1 weights */
    qsi_arena weights, floats_arena;
    qsi_matrix *matrices;      /* [layers * QSI_MATRICES] */
    qsi_float *floats;         /* [n_floats]: embedding, blocks, final norm, head */
    int64_t n_floats;
    qsi_float *adapters;       /* [n_adapters]: QSI_LORA_PARTS per matrix; apart from the floats, whose ids they leave alone */
    int64_t n_adapters;        /* 0 without lora_rank */
    qs_view cosine, sine;      /* RoPE tables [positions, head_dim / 2] */
    qs_buffer *rope;
    int64_t positions;
    bool streamed;             /* matrices come through slots (streamed.c); everything else is as in any model */
    qs_checkpoint *source;     /* the model file they come from */
    qsi_stream *stream;
    int64_t entered;           /* 1 + the block that is entered, 0 for none */
};

static inline qsi_matrix *qsi_matrix_of(const qs_model *m, int64_t block, int index)
{
    return &m->matrices[block * QSI_MATRICES + index];
}
static inline qsi_float *qsi_float_of(const qs_model *m, int64_t block, int index)
{
    return &m->floats[1 + block * QSI_BLOCK_FLOATS + index];
}
/* [QSI_LORA_PARTS] */
static inline qsi_float *qsi_adapter_of(const qs_model *m, int64_t block, int index)
{
    return &m->adapters[(block * QSI_MATRICES + index) * QSI_LORA_PARTS];
}
static inline qsi_float *qsi_embedding(const qs_model *m) { return &m->floats[0]; }
static inline qsi_float *qsi_final_norm(const qs_model *m) { return &m->floats[m->n_floats - 2]; }
/* The entry of a head of its own; its view is absent when the embedding is the head. */
static inline qsi_float *qsi_own_head(const qs_model *m) { return &m->floats[m->n_floats - 1]; }
static inline qsi_float *qsi_head(const qs_model *m) { return m->config.tied ? &m->floats[0] : qsi_own_head(m); }
static inline int64_t qsi_listed_block(const qs_model *m, int64_t block) { return m->context ? block : 0; }
static inline int64_t qsi_matrix_count(const qs_model *m) { return m->config.layers * QSI_MATRICES; }
static inline int64_t qsi_adapter_count(const qs_model *m)
{
    return m->config.lora_rank > 0 ? QSI_LORA_PARTS * qsi_matrix_count(m) : 0;
}

/* ---- config.c -------------------------------------------------------------------------------------------------- */

/* The config as a JSON object (new reference), and back; FORMAT names the missing or wrong field. */
json_t *qsi_model_config_to_json(const qs_model_config *config);
qs_status qsi_model_config_from_json(const json_t *object, qs_model_config *config);

/* The config of what may be used as a model. FORMAT (also for foreign files and lone state files), NOMEM. */
qs_status qsi_model_config_of(const qs_checkpoint *checkpoint, qs_model_config *config);

/* ---- model.c --------------------------------------------------------------------------------------------------- */

/* Outputs and inputs of matrix 0 .. QSI_MATRICES-1 of every block. */
void qsi_matrix_shape(const qs_model_config *config, int index, int64_t *rows, int64_t *cols);

/* A model with names, shapes and places but neither memory nor queue. A streamed one has no memory for its matrices. */
qs_status qsi_model_list(qs_context *context, const qs_model_config *config, bool streamed, qs_model **out);

/* A model with memory and names but zero values. */
qs_status qsi_model_allocate(qs_context *context, const qs_model_config *config, bool streamed, qs_model **out);

/* Every parameter from a checkpoint of its config; of a streamed model the floats only. */
qs_status qsi_model_load(qs_model *model, const qs_checkpoint *checkpoint);

/* Adds what a model books when it is created, without what streams, to bytes. The model is zero but for its resolved config, whether
 * it is streamed and lists for one block. SHAPE when a size overflows. */
qs_status qsi_model_plan(qs_model *plan, qs_memory_plan *bytes);

/* Of a model that was planned: bytes of the slab of a block in its file (docs/format.md). */
int64_t qsi_model_slab(const qs_model *plan);

/* count * size bytes more, in both pools together as well, and in the sums over tags. SHAPE when a sum overflows. */
qs_status qsi_plan_list(qs_memory_plan *bytes, qs_memory_pool pool, qs_memory_tag tag, int64_t count, int64_t size);

/* Those of an arena. SHAPE. */
qs_status qsi_plan_arena(qs_memory_plan *bytes, const qsi_arena *arena);

/* RoPE tables for at least `positions` positions. */
qs_status qsi_model_positions(qs_model *model, int64_t positions);

/* Reads a tensor of a checkpoint into a view; FORMAT when missing or of another size. */
qs_status qsi_load_tensor(qs_queue *queue, const qs_checkpoint *checkpoint, const char *name, qs_view view);

/* ---- init.c: start values (qs_model_create, qs_model_write_new) ------------------------------------------------------ */

/* count normal numbers of mean 0, deviation 1 (Box-Muller) starting at index first of (seed, FLOATS|tensor). */
void qsi_normals(uint64_t seed, uint32_t tensor, int64_t first, int64_t count, float *out);

/* ---- streamed.c: models whose matrices come through slots ------------------------------------------------------------ */

/* Opens a model of which only the float parameters are in memory, for windows of ctx tokens (0: its own). Errors: as qs_model_open and
 * qsi_stream_create; ARG for dense models and those with adapters. */
qs_status qsi_model_open_streamed(qs_context *context, const char *path, int64_t ctx, const qsi_stream_options *options,
                                  qs_model **out);

/* Announces that blocks first .. last, ascending or descending, will be entered one after the other, after those announced before; and
 * takes all announcements back, as every pass does that may follow a broken one. */
qs_status qsi_blocks_expect(qs_model *model, int64_t first, int64_t last);
void qsi_blocks_forget(qs_model *model);

/* Ops may use the matrices of a block from enter to leave. With a resident model all four do nothing. */
qs_status qsi_block_enter(qs_model *model, int64_t block);
qs_status qsi_block_leave(qs_model *model, int64_t block);

/* ---- adapter.c: low-rank adapters; without lora_rank all of them do nothing ------------------------------------------ */

/* Names, shapes and place; the matrices are described already. */
void qsi_adapters_describe(qs_model *model);

/* y [M, N] += B (A x); u [M, r] keeps A x. */
qs_status qsi_adapter_forward(qs_model *model, int64_t block, int index, qs_view y, qs_view x, qs_view u);

/* du [M, r] = dy B, the dy operand of A; dx [M, K] += du A. */
qs_status qsi_adapter_backward(qs_model *model, int64_t block, int index, qs_view dx, qs_view dy, qs_view du);

/* ---- forward.c, backward.c: one block over a range of tokens ----------------------------------------------------- */

/* What a block computes on its way, rows are tokens. Without qk_norm q_raw = q, k_raw = k; without sub_norm attn = attn_norm,
 * act = act_norm (the same views). x operands of matrices: n1 (q, k, v), attn_norm (o), n2 (gate, up), act_norm (down); of the
 * B of adapters: u, absent without them. */
typedef struct qsi_tape {
    qs_view n1, q_raw, k_raw, q, k, v, attn, lse, attn_norm, mid, n2, gate, up, act, act_norm;
    qs_view u[QSI_MATRICES];
} qsi_tape;

/* Announces a tape of `rows` tokens, the operands of matrices with `operand_rows` (>= rows). */
void qsi_tape_add(qsi_arena *arena, const qs_model_config *config, qsi_tape *tape, int64_t operand_rows, int64_t rows);

/* After the arena is created: fills the views that stand for others. */
void qsi_tape_alias(const qs_model_config *config, qsi_tape *tape);

/* Tokens first .. first+count-1 of the operands; the others from local_first (0 when they hold one micro-batch only). */
qsi_tape qsi_tape_rows(const qsi_tape *tape, int64_t first, int64_t local_first, int64_t count);

/* Where the tokens stand: sequences of `seq` tokens starting at position `first`; keys and values [S * tkv, .] attended. */
typedef struct qsi_place {
    int64_t seq, first, tkv;
    qs_view keys, values;
} qsi_place;

qs_status qsi_embed(qs_model *model, qs_view h, qs_view tokens);
qs_status qsi_block_forward(qs_model *model, int64_t block, const qsi_tape *tape, const qsi_place *place, qs_view in, qs_view out);
qs_status qsi_final_norm_forward(qs_model *model, qs_view h, qs_view normed);

/* Gradients of one block. dout [M, dim]: gradient of the block's output (= dy of down); din: of its input. The others are the
 * dy operands of the matrices; dmid is that of o. scratch: dn [., dim], dattn [., heads*head_dim], dact [., ffn]. gains:
 * partial sums [C, d] per norm, in the order of the float indices; absent where the norm is. du: of adapters, or absent. */
typedef struct qsi_block_grads {
    qs_view dout, din, dmid, dq, dk, dv, dgate, dup;
    qs_view dn, dattn, dact;
    qs_view gains[QSI_BLOCK_FLOATS];
    qs_view du[QSI_MATRICES];
} qsi_block_grads;

qs_status qsi_block_backward(qs_model *model, int64_t block, const qsi_tape *tape, const qsi_place *place, qs_view in,
                             const qsi_block_grads *grads);

/* ---- loss.c: head and loss over a range of tokens --------------------------------------------------------------- */

/* Symbols whose logits exist at a time. It decides bytes (docs/numerics.md, "Loss"). */
enum { QSI_LOSS_BLOCK = 4096 };

typedef struct qsi_loss {
    qs_view normed;    /* [M, dim] output of the final norm */
    qs_view logits;    /* [M, at most QSI_LOSS_BLOCK] of the block at hand; in the backward pass their gradients */
    qs_view stats;     /* [M, 3] of qs_op_softmax_stats */
    qs_view targets;   /* I32 [1, M] */
} qsi_loss;

void qsi_loss_add(qsi_arena *arena, const qs_model_config *config, qsi_loss *loss, int64_t rows);

/* The first `count` tokens. */
qsi_loss qsi_loss_rows(const qsi_loss *loss, int64_t count);

/* From the last residual stream h [M, dim]: normed, and stats of all symbols. */
qs_status qsi_loss_forward(qs_model *model, const qsi_loss *loss, qs_view h);

/* After qsi_loss_forward: dhead [vocab, dim] and dnormed [M, dim], gradients of factor times the sum of the losses. */
qs_status qsi_loss_backward(qs_model *model, const qsi_loss *loss, qs_view dhead, qs_view dnormed, float factor);

static inline qs_status qsi_run(qs_queue *queue, qs_op op) { return qs_submit(queue, &op, 1); }

#endif
