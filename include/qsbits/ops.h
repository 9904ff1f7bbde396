/* qsbits/ops.h - the operations of a backend and the queue that runs them.
 *
 * An op is a plain descriptor: a code, up to 16 views, integers, floats. Fill one with the qs_op_* functions
 * below, which are the list of what exists and the meaning of every slot. Letters: M tokens, N outputs, K inputs,
 * D model width, F ffn width, V symbols, H heads, C = ceil(M/256) token chunks. Activations are F32 [M, .].
 * "(absent)" marks views that may be qs_absent(). Outputs must not overlap inputs unless said.
 * Orders of summation: docs/numerics.md. Sums over tokens use 256-token chunks counted from row 0 of the views. */
#ifndef QSBITS_OPS_H
#define QSBITS_OPS_H

#include <string.h>
#include "fsm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* name, text, views used, precision class (EXACT, ORDERED: see docs/numerics.md) */
#define QS_OP_LIST(X) \
    X(COPY,            "copy",            2, EXACT) \
    X(EMBED,           "embed",           3, EXACT) \
    X(EMBED_GRAD,      "embed_grad",      3, ORDERED) \
    X(LINEAR,          "linear",          5, ORDERED) \
    X(LINEAR_DX,       "linear_dx",       5, ORDERED) \
    X(LINEAR_DW,       "linear_dw",       3, ORDERED) \
    X(RMSNORM,         "rmsnorm",         3, ORDERED) \
    X(RMSNORM_GRAD,    "rmsnorm_grad",    6, ORDERED) \
    X(CHUNK_SUM,       "chunk_sum",       2, ORDERED) \
    X(ROPE,            "rope",            3, ORDERED) \
    X(ATTENTION,       "attention",       5, ORDERED) \
    X(ATTENTION_GRAD,  "attention_grad",  9, ORDERED) \
    X(SWIGLU,          "swiglu",          3, ORDERED) \
    X(SWIGLU_GRAD,     "swiglu_grad",     5, ORDERED) \
    X(SOFTMAX_STATS,   "softmax_stats",   3, ORDERED) \
    X(CROSS_ENTROPY,   "cross_entropy",   2, ORDERED) \
    X(CROSS_ENTROPY_GRAD, "cross_entropy_grad", 3, ORDERED) \
    X(SUM_SQUARES,     "sum_squares",     3, ORDERED) \
    X(CLIP_FACTOR,     "clip_factor",     2, ORDERED) \
    X(ADAMW,           "adamw",           6, ORDERED) \
    X(SCALES,          "scales",          2, ORDERED) \
    X(BINARIZE,        "binarize",        4, EXACT) \
    X(SCALE_GRAD,      "scale_grad",      3, ORDERED) \
    X(FSM_THRESHOLD,   "fsm_threshold",   6, ORDERED) \
    X(FSM_VISIT,       "fsm_visit",      16, ORDERED) \
    X(FSM_STATISTICS,  "fsm_statistics",  6, ORDERED) \
    X(FSM_QUANTILE,    "fsm_quantile",    5, ORDERED) \
    X(FSM_RULE,        "fsm_rule",        6, EXACT) \
    X(BOP,             "bop",             6, ORDERED)

typedef enum qs_op_code {
#define QS_OP_ENUM(name, text, views, cls) QS_OP_##name,
    QS_OP_LIST(QS_OP_ENUM)
#undef QS_OP_ENUM
    QS_OPS
} qs_op_code;

enum { QS_OP_VERSION = 3, QS_OP_VIEWS = 16, QS_TOKEN_CHUNK = 256, QS_ROW_BLOCK = 32 };

enum qs_op_flags {
    QS_FLAG_INVERSE = 1,   /* ROPE: rotate backwards (the gradient) */
    QS_FLAG_MEASURE = 4,   /* FSM_VISIT: statistics and dscale only, nothing moves */
    QS_FLAG_FIRST = 8,     /* FSM_STATISTICS: the measurement sets r and c, mu = 1 */
    QS_FLAG_ADD = 16       /* SUM_SQUARES, EMBED_GRAD, SOFTMAX_STATS: add to what the output holds */
};

typedef struct qs_op {
    uint32_t size;         /* sizeof(qs_op) */
    uint32_t version;      /* QS_OP_VERSION */
    uint32_t code;         /* qs_op_code */
    uint32_t flags;        /* qs_op_flags */
    qs_view view[QS_OP_VIEWS];
    int64_t i[9];
    float f[8];
} qs_op;

/* A queue runs ops in order; ops of one queue see each other's results. Owned by the caller, freed before the context. */
typedef struct qs_queue qs_queue;
QS_API QS_CHECK qs_status qs_queue_create(qs_context *context, qs_queue **out);
QS_API void qs_queue_free(qs_queue **queue);

/* Checks every op (code, formats, shapes, bounds, ranges) and hands them to the device; may return before they ran.
 * Errors: ARG or SHAPE (nothing submitted; names op, slot and the sizes that disagree), UNSUPPORTED, NOMEM, DEVICE. */
QS_API QS_CHECK qs_status qs_submit(qs_queue *queue, const qs_op *ops, int64_t n);

/* Waits for everything submitted. Errors: DEVICE (what failed on the device since the last sync). */
QS_API QS_CHECK qs_status qs_sync(qs_queue *queue);

/* Host <-> device, rows packed tightly on the host side: view.rows * qs_row_bytes(view.format, view.cols) bytes.
 * Both are ordered after what was submitted and complete on return. */
QS_API QS_CHECK qs_status qs_write(qs_queue *queue, qs_view view, const void *host);
QS_API QS_CHECK qs_status qs_read(qs_queue *queue, qs_view view, void *host);

/* Text of an op code ("linear"), NULL outside the list. */
QS_API const char *qs_op_name(uint32_t code);

/* ---- constructors ---------------------------------------------------------------------------------------------- */

static inline qs_view qs_absent(void)
{
    qs_view v;
    memset(&v, 0, sizeof v);
    return v;
}

static inline qs_op qs_op_new(qs_op_code code, uint32_t flags)
{
    qs_op op;
    memset(&op, 0, sizeof op);
    op.size = (uint32_t)sizeof op;
    op.version = QS_OP_VERSION;
    op.code = (uint32_t)code;
    op.flags = flags;
    return op;
}

static inline qs_op qs_op_views(qs_op_code code, uint32_t flags, int n, const qs_view *views)
{
    qs_op op = qs_op_new(code, flags);
    memcpy(op.view, views, (size_t)n * sizeof *views);
    return op;
}

/* The same op in another arithmetic. Only LINEAR and LINEAR_DX with W1 weights, LINEAR_DW and FSM_VISIT with dy and x have a
 * precision; constructors give f32. */
static inline qs_op qs_op_with(qs_op op, qs_precision precision)
{
    op.i[7] = (int64_t)precision;
    return op;
}

/* y = x, same shape and format. */
static inline qs_op qs_op_copy(qs_view y, qs_view x)
{
    const qs_view v[] = {y, x};
    return qs_op_views(QS_OP_COPY, 0, 2, v);
}

/* y[m] = table[tokens[m]]; y [M, D], tokens I32 [1, M], table F32 [V, D]. Tokens must lie in 0..V-1 (the caller checks). */
static inline qs_op qs_op_embed(qs_view y, qs_view tokens, qs_view table)
{
    const qs_view v[] = {y, tokens, table};
    return qs_op_views(QS_OP_EMBED, 0, 3, v);
}

/* dtable[v] = sum of dy[m] over tokens m with tokens[m] = v (chunk tree); rows of absent symbols become 0. With ADD the sum is
 * added to what dtable holds (an embedding that is the head as well). */
static inline qs_op qs_op_embed_grad(qs_view dtable, qs_view tokens, qs_view dy, uint32_t flags)
{
    const qs_view v[] = {dtable, tokens, dy};
    return qs_op_views(QS_OP_EMBED_GRAD, flags, 3, v);
}

/* y[m,n] = scale[n] * sum_k x[m,k] w[n,k] + addend[m,n]. w W1 with scale F16 [1, N], or w F32 with scale absent.
 * addend [M, N] (absent), may be y itself. */
static inline qs_op qs_op_linear(qs_view y, qs_view x, qs_view w, qs_view scale, qs_view addend)
{
    const qs_view v[] = {y, x, w, scale, addend};
    return qs_op_views(QS_OP_LINEAR, 0, 5, v);
}

/* dx[m,k] = sum_n scale[n] dy[m,n] w[n,k] + addend[m,k]. addend [M, K] (absent), may be dx itself. */
static inline qs_op qs_op_linear_dx(qs_view dx, qs_view dy, qs_view w, qs_view scale, qs_view addend)
{
    const qs_view v[] = {dx, dy, w, scale, addend};
    return qs_op_views(QS_OP_LINEAR_DX, 0, 5, v);
}

/* dw[n,k] = sum_m dy[m,n] x[m,k] (chunk tree), F32 [N, K]. */
static inline qs_op qs_op_linear_dw(qs_view dw, qs_view dy, qs_view x)
{
    const qs_view v[] = {dw, dy, x};
    return qs_op_views(QS_OP_LINEAR_DW, 0, 3, v);
}

/* Every group of d = gain.cols columns of x: y = x / sqrt(mean(x^2) + eps) * gain. x, y [M, G*d]; gain F32 [1, d]. y may be x. */
static inline qs_op qs_op_rmsnorm(qs_view y, qs_view x, qs_view gain, float eps)
{
    const qs_view v[] = {y, x, gain};
    qs_op op = qs_op_views(QS_OP_RMSNORM, 0, 3, v);
    op.f[0] = eps;
    return op;
}

/* dx = gradient of RMSNORM + addend [M, G*d] (absent, may be dx). partial [C, d]: sums of the gain gradient per token
 * chunk. dx may be dy. */
static inline qs_op qs_op_rmsnorm_grad(qs_view dx, qs_view dy, qs_view x, qs_view gain, qs_view addend, qs_view partial,
                                       float eps)
{
    const qs_view v[] = {dx, dy, x, gain, addend, partial};
    qs_op op = qs_op_views(QS_OP_RMSNORM_GRAD, 0, 6, v);
    op.f[0] = eps;
    return op;
}

/* out [1, d] = factor * (binary tree sum over the rows of partial [C, d]). */
static inline qs_op qs_op_chunk_sum(qs_view out, qs_view partial, float factor)
{
    const qs_view v[] = {out, partial};
    qs_op op = qs_op_views(QS_OP_CHUNK_SUM, 0, 2, v);
    op.f[0] = factor;
    return op;
}

/* Rotates pairs (j, j + head_dim/2) of every head of x [M, heads*head_dim] in place; row m has position
 * first + m mod seq; cosine, sine F32 [positions, head_dim/2]. Su et al., RoFormer; pairing as in GPT-NeoX. */
static inline qs_op qs_op_rope(qs_view x, qs_view cosine, qs_view sine, int64_t head_dim, int64_t seq, int64_t first,
                               uint32_t flags)
{
    const qs_view v[] = {x, cosine, sine};
    qs_op op = qs_op_views(QS_OP_ROPE, flags, 3, v);
    op.i[0] = head_dim;
    op.i[1] = seq;
    op.i[2] = first;
    return op;
}

/* Causal attention of S sequences. q, out [S*tq, H*head_dim]; k, v [S*tkv, G*head_dim], head h reads group h / (H/G);
 * query i of a sequence sees keys 0 .. tkv - tq + i. lse [S*tq, H]: log of the sum of exponentials (for the gradient).
 * Scores are scaled by 1/sqrt(head_dim). Blocks of 64 keys, online softmax (Milakov and Gimelshein; Dao et al.). */
static inline qs_op qs_op_attention(qs_view out, qs_view q, qs_view k, qs_view v, qs_view lse, int64_t head_dim, int64_t tq,
                                    int64_t tkv)
{
    const qs_view views[] = {out, q, k, v, lse};
    qs_op op = qs_op_views(QS_OP_ATTENTION, 0, 5, views);
    op.i[0] = head_dim;
    op.i[1] = tq;
    op.i[2] = tkv;
    return op;
}

/* Gradients of ATTENTION with tq = tkv = seq; scores are recomputed per tile, nothing of size seq^2 is stored. */
static inline qs_op qs_op_attention_grad(qs_view dq, qs_view dk, qs_view dv, qs_view dout, qs_view q, qs_view k, qs_view v,
                                         qs_view out, qs_view lse, int64_t head_dim, int64_t seq)
{
    const qs_view views[] = {dq, dk, dv, dout, q, k, v, out, lse};
    qs_op op = qs_op_views(QS_OP_ATTENTION_GRAD, 0, 9, views);
    op.i[0] = head_dim;
    op.i[1] = seq;
    return op;
}

/* y = silu(gate) * up, all [M, F]. Shazeer, "GLU variants". */
static inline qs_op qs_op_swiglu(qs_view y, qs_view gate, qs_view up)
{
    const qs_view v[] = {y, gate, up};
    return qs_op_views(QS_OP_SWIGLU, 0, 3, v);
}

/* dgate may be gate, dup may be up. */
static inline qs_op qs_op_swiglu_grad(qs_view dgate, qs_view dup, qs_view dy, qs_view gate, qs_view up)
{
    const qs_view v[] = {dgate, dup, dy, gate, up};
    return qs_op_views(QS_OP_SWIGLU_GRAD, 0, 5, v);
}

/* Softmax and loss of logits that come in blocks of symbols: logits [M, N] are those of symbols first .. first + N - 1.
 * stats [M, 3] = {largest logit, sum of exp(logit - largest), logit of the target} of the symbols seen. Without ADD nothing was
 * seen before; with ADD stats is continued by the next symbols (the bytes are those of one op over all if every block but the
 * last is a multiple of 1024). targets I32 [1, M] are symbols; the logit of one that was not seen is NaN, and so is its loss. */
static inline qs_op qs_op_softmax_stats(qs_view stats, qs_view logits, qs_view targets, int64_t first, uint32_t flags)
{
    const qs_view v[] = {stats, logits, targets};
    qs_op op = qs_op_views(QS_OP_SOFTMAX_STATS, flags, 3, v);
    op.i[0] = first;
    return op;
}

/* partial [C, 1] = sums per token chunk of -log softmax(logits)[target], from stats [M, 3] of all symbols. */
static inline qs_op qs_op_cross_entropy(qs_view stats, qs_view partial)
{
    const qs_view v[] = {stats, partial};
    return qs_op_views(QS_OP_CROSS_ENTROPY, 0, 2, v);
}

/* logits [M, N] of symbols first .. first + N - 1 := factor * d(loss)/d(logits), with stats [M, 3] of all symbols. */
static inline qs_op qs_op_cross_entropy_grad(qs_view logits, qs_view stats, qs_view targets, int64_t first, float factor)
{
    const qs_view v[] = {logits, stats, targets};
    qs_op op = qs_op_views(QS_OP_CROSS_ENTROPY_GRAD, 0, 3, v);
    op.i[0] = first;
    op.f[0] = factor;
    return op;
}

/* out [1, 1] (+)= sum of (row_scale[m] x[m,k])^2, x F32 [M, K], row_scale F16 [1, M] (absent: 1). */
static inline qs_op qs_op_sum_squares(qs_view out, qs_view x, qs_view row_scale, uint32_t flags)
{
    const qs_view v[] = {out, x, row_scale};
    return qs_op_views(QS_OP_SUM_SQUARES, flags, 3, v);
}

/* out [1, 1] = min(1, limit / sqrt(sum_squares)); 1 when sum_squares is 0. */
static inline qs_op qs_op_clip_factor(qs_view out, qs_view sum_squares, float limit)
{
    const qs_view v[] = {out, sum_squares};
    qs_op op = qs_op_views(QS_OP_CLIP_FACTOR, 0, 2, v);
    op.f[0] = limit;
    return op;
}

/* AdamW (Loshchilov and Hutter) on p, with gradient g, moments m, v, all F32 of one shape:
 * g' = g * factor[0] * row_scale[row]; decoupled decay; bias corrections c1 = 1 - beta1^t, c2 = 1 - beta2^t.
 * factor F32 [1, 1] (absent), row_scale F16 [1, rows] (absent). */
typedef struct qs_adamw {
    float lr, beta1, beta2, eps, weight_decay, c1, c2;
} qs_adamw;
static inline qs_op qs_op_adamw(qs_view p, qs_view g, qs_view m, qs_view v, qs_view factor, qs_view row_scale, qs_adamw a)
{
    const qs_view views[] = {p, g, m, v, factor, row_scale};
    qs_op op = qs_op_views(QS_OP_ADAMW, 0, 6, views);
    op.f[0] = a.lr;
    op.f[1] = a.beta1;
    op.f[2] = a.beta2;
    op.f[3] = a.eps;
    op.f[4] = a.weight_decay;
    op.f[5] = a.c1;
    op.f[6] = a.c2;
    return op;
}

/* scale F16 [1, N] = round(base * master), master F32 [1, N]. */
static inline qs_op qs_op_scales(qs_view scale, qs_view master, float base)
{
    const qs_view v[] = {scale, master};
    qs_op op = qs_op_views(QS_OP_SCALES, 0, 2, v);
    op.f[0] = base;
    return op;
}

/* ---- the sample: what happened to the weights of one row in 256 -------------------------------------------------- */

/* An op that may flip signs keeps a record of the sampled rows of a matrix when it is given one: sample W1 [3 * S, K], where
 * S = qs_sample_rows(rows of the whole matrix). Rows 3 j .. 3 j + 2 are bit planes 0 .. 2 of a code for every weight of sampled
 * row number j: 0 not pulsed since the record was cleared, 1 pulsed but not flipped, 2 .. 4 flipped 1 .. 3 times, 5 more often.
 * Views of a range of the matrix's rows leave the others' records alone. BINARIZE and BOP know no pulses, only flips. */
enum { QS_SAMPLE_GROUP = 256, QS_SAMPLE_PLANES = 3 };

static inline int64_t qs_sample_rows(int64_t whole_rows)
{
    return (whole_rows + QS_SAMPLE_GROUP - 1) / QS_SAMPLE_GROUP;
}

/* The row that stands for group j of a matrix: never the same place in two groups that follow each other. */
static inline int64_t qs_sample_row(int64_t whole_rows, int64_t j)
{
    const int64_t first = j * QS_SAMPLE_GROUP, left = whole_rows - first;
    return first + 97 * (j + 1) % (left < QS_SAMPLE_GROUP ? left : (int64_t)QS_SAMPLE_GROUP);
}

/* w W1 [N, K]: bit = (latent >= 0), latent F32 [N, K]. counts I32 [1, 4] (absent) = {0, flips, 0, 0}. sample (absent): the
 * record of the flips of a whole matrix of whole_rows rows, of which row 0 of the views is first_row ("the sample"). */
static inline qs_op qs_op_binarize(qs_view w, qs_view latent, qs_view counts, qs_view sample, int64_t first_row,
                                   int64_t whole_rows)
{
    const qs_view v[] = {w, latent, counts, sample};
    qs_op op = qs_op_views(QS_OP_BINARIZE, 0, 4, v);
    op.i[0] = first_row;
    op.i[1] = whole_rows;
    return op;
}

/* Bop (Helwegen et al. 2019) on w W1 [N, K]. With g[n,k] = scale[n] * dgrad[n,k], u = g / sqrt(mean_k g^2) (0 in a row without
 * gradient): average := average + gamma (u - average); w flips where average * w > tau. average, dgrad F32 [N, K], scale
 * F16 [1, N]; gamma 0..1, tau >= 0; the rest as in BINARIZE. */
static inline qs_op qs_op_bop(qs_view w, qs_view average, qs_view dgrad, qs_view scale, qs_view counts, qs_view sample,
                              float gamma, float tau, int64_t first_row, int64_t whole_rows)
{
    const qs_view v[] = {w, average, dgrad, scale, counts, sample};
    qs_op op = qs_op_views(QS_OP_BOP, 0, 6, v);
    op.f[0] = gamma;
    op.f[1] = tau;
    op.i[0] = first_row;
    op.i[1] = whole_rows;
    return op;
}

/* dmaster [1, N] = base * sum_k w[n,k] dw[n,k], dw F32 [N, K] of LINEAR_DW. */
static inline qs_op qs_op_scale_grad(qs_view dmaster, qs_view w, qs_view dw, float base)
{
    const qs_view v[] = {dmaster, w, dw};
    qs_op op = qs_op_views(QS_OP_SCALE_GRAD, 0, 3, v);
    op.f[0] = base;
    return op;
}

/* ---- the state machine: threshold -> visit -> statistics (docs/numerics.md, "One visit") ----------------------- */

/* a[n] = sqrt(r[n]), b[k] = sqrt(c[k] / mean(r)), theta = mu * z0. a, r [1, N]; b, c [1, K]; theta [1, 1];
 * control F32 [1, 4] = {mu, 0, 0, 0}. */
static inline qs_op qs_op_fsm_threshold(qs_view a, qs_view b, qs_view theta, qs_view r, qs_view c, qs_view control, float z0)
{
    const qs_view v[] = {a, b, theta, r, c, control};
    qs_op op = qs_op_views(QS_OP_FSM_THRESHOLD, 0, 6, v);
    op.f[0] = z0;
    return op;
}

/* A pull with which every candidate counts: each weight is then pulled with probability 1/8, nearly. */
enum { QS_PULL_MOST = 1 << 27 };

/* The one visit of a matrix in a step. With g[n,k] = scale[n] * sum_m dy[m,n] x[m,k]:
 *   r_now[n] = mean_k g^2, c_now[k] = mean_n g^2, dmaster[n] = base * sum_k w g / scale (that is, of the unscaled sums),
 *   pulses where |g| > (theta a[n]) b[k], rule applied to w and state, counts I32 [1, 4] = {pulses, flips, 0, 0}.
 * dgrad F32 [N, K] (absent): the unscaled sums, in place of dy and x (then absent). pulses T2 [N, K] (absent): the
 * pulses are stored there and the rule is not applied (FSM_RULE does). state is absent only with MEASURE; a, b (absent)
 * count as 1. sample (absent): "the sample" above, kept where the rule is applied; a pulse counts also where the rule cannot move
 * the state any more, c8's step where it is not 0.
 * anchor W1 [N, K] (absent; t2, c2, c4 only): signs to which weights that are not pulsed are pulled back. Candidate u, of four a word
 * of 32 weights and step (docs/numerics.md, "Anchor"), gives weight u mod 32 a pulse in the direction of its anchor where u div 32 is
 * below pull. Such a pulse is none in counts and sample, a flip that it causes is one. Read where the rule is applied. */
typedef struct qs_fsm_visit {
    qs_view w, state, dy, x, scale, a, b, theta, r_now, c_now, dmaster, counts, dgrad, pulses, sample, anchor;
    qs_fsm fsm;
    int sticky;          /* 0..256 */
    uint64_t seed;
    uint32_t step;
    uint32_t tensor;     /* id below 2^24, for the random numbers */
    int64_t first_row;   /* row of the whole matrix that row 0 of the views is */
    int64_t whole_rows;  /* rows of the whole matrix; read with sample only */
    float base;          /* alpha0 */
    float amplitude;     /* c8 only: levels per sigma */
    uint32_t pull;       /* 0..QS_PULL_MOST; above 0 anchor must be present */
    uint32_t flags;
} qs_fsm_visit;
static inline qs_op qs_op_fsm_visit(const qs_fsm_visit *u)
{
    const qs_view v[] = {u->w, u->state, u->dy, u->x, u->scale, u->a, u->b, u->theta, u->r_now, u->c_now, u->dmaster,
                         u->counts, u->dgrad, u->pulses, u->sample, u->anchor};
    qs_op op = qs_op_views(QS_OP_FSM_VISIT, u->flags, 16, v);
    op.i[0] = (int64_t)u->fsm;
    op.i[1] = u->sticky;
    op.i[2] = (int64_t)u->seed;
    op.i[3] = (int64_t)u->step;
    op.i[4] = (int64_t)u->tensor;
    op.i[5] = u->first_row;
    op.i[6] = u->whole_rows;
    op.i[8] = (int64_t)u->pull;
    op.f[0] = u->base;
    op.f[1] = u->amplitude;
    return op;
}

/* r := beta r + (1 - beta) r_now, c likewise; mu moves so that the share counts[0] / weights follows density.
 * slope = max(1/2, 2 z0 phi(z0) / density). FIRST: r := r_now, c := c_now, mu := 1. */
static inline qs_op qs_op_fsm_statistics(qs_view r, qs_view c, qs_view control, qs_view r_now, qs_view c_now, qs_view counts,
                                         float beta, float density, float slope, int64_t weights, uint32_t flags)
{
    const qs_view v[] = {r, c, control, r_now, c_now, counts};
    qs_op op = qs_op_views(QS_OP_FSM_STATISTICS, flags, 6, v);
    op.f[0] = beta;
    op.f[1] = density;
    op.f[2] = slope;
    op.i[0] = weights;
    return op;
}

/* theta [1, 1]: the value that exactly `keep` of the |scale[n] dgrad[n,k]| / (a[n] b[k]) exceed, ties aside: the
 * (keep+1)-th largest (0 when keep = N*K). a, b (absent) count as 1. Only for the exact mode and the literal recipe. */
static inline qs_op qs_op_fsm_quantile(qs_view theta, qs_view dgrad, qs_view scale, qs_view a, qs_view b, int64_t keep)
{
    const qs_view v[] = {theta, dgrad, scale, a, b};
    qs_op op = qs_op_views(QS_OP_FSM_QUANTILE, 0, 5, v);
    op.i[0] = keep;
    return op;
}

/* Applies the rule to w and state for the given pulses T2 [N, K]; counts, sample and anchor as in FSM_VISIT; t2, c2, c4 only. Scalars
 * as there. */
static inline qs_op qs_op_fsm_rule(const qs_fsm_visit *u)
{
    const qs_view v[] = {u->w, u->state, u->pulses, u->counts, u->sample, u->anchor};
    qs_op op = qs_op_views(QS_OP_FSM_RULE, u->flags, 6, v);
    op.i[0] = (int64_t)u->fsm;
    op.i[1] = u->sticky;
    op.i[2] = (int64_t)u->seed;
    op.i[3] = (int64_t)u->step;
    op.i[4] = (int64_t)u->tensor;
    op.i[5] = u->first_row;
    op.i[6] = u->whole_rows;
    op.i[8] = (int64_t)u->pull;
    return op;
}

#ifdef __cplusplus
}
#endif
#endif
