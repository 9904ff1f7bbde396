/* drivers.h - what the drivers of the CPU backend share: an op made ready to run, scratch memory, the chunk tree.
 *
 * A driver cuts one op into tasks of single-threaded kernel calls. Where a sum is cut is decided by shapes and the
 * documented orders alone; how tasks are grouped may depend on the number of threads, because it changes no byte. */
#ifndef QSI_DRIVERS_H
#define QSI_DRIVERS_H

#include <string.h>
#include "core/internal.h"
#include "core/threads.h"
#include "cpu/kernels.h"

struct qs_device {
    const qs_host_api *host;
    qs_context *context;
    qsi_kernels kernels;
    qsi_level level;
    int threads;
    char description[64];
};

/* A piece of scratch: grown on demand, never shrunk, so that a steady-state step allocates nothing. */
typedef struct qsi_scratch {
    char *memory;
    int64_t bytes;
} qsi_scratch;

struct qs_device_queue {
    qs_device *device;
    qsi_scratch shared;   /* one for all tasks of an op */
    qsi_scratch own;      /* threads slices of own_slice bytes */
    int64_t own_slice;
};

/* A view with its address; p is NULL where the view is absent. */
typedef struct qsi_slot {
    char *p;
    int64_t stride;       /* bytes between rows */
    int64_t rows, cols;
} qsi_slot;

typedef struct qsi_run {
    qs_device_queue *queue;
    const qsi_kernels *kernels;
    const qs_op *op;
    int threads;
    qsi_slot v[QS_OP_VIEWS];
} qsi_run;

typedef qs_status qsi_driver(qsi_run *run);

qsi_driver qsi_cpu_copy, qsi_cpu_embed, qsi_cpu_embed_grad;                                       /* op_embed.c */
qsi_driver qsi_cpu_linear, qsi_cpu_linear_dx;                                                     /* op_linear.c */
qsi_driver qsi_cpu_linear_dw;                                                                     /* op_gradient.c */
qsi_driver qsi_cpu_rmsnorm, qsi_cpu_rmsnorm_grad, qsi_cpu_rope, qsi_cpu_swiglu, qsi_cpu_swiglu_grad;  /* op_rows.c */
qsi_driver qsi_cpu_chunk_sum, qsi_cpu_sum_squares;                                                /* op_sums.c */
qsi_driver qsi_cpu_softmax_stats, qsi_cpu_cross_entropy, qsi_cpu_cross_entropy_grad;              /* op_loss.c */
qsi_driver qsi_cpu_attention;                                                                     /* op_attention.c */
qsi_driver qsi_cpu_attention_grad;                                                                /* op_attention_grad.c */
qsi_driver qsi_cpu_clip_factor, qsi_cpu_adamw, qsi_cpu_scales, qsi_cpu_scale_grad;                /* op_optimizer.c */
qsi_driver qsi_cpu_binarize, qsi_cpu_bop;                                                         /* op_signs.c */
qsi_driver qsi_cpu_fsm_visit, qsi_cpu_fsm_rule;                                                   /* op_fsm.c */
qsi_driver qsi_cpu_fsm_threshold, qsi_cpu_fsm_statistics, qsi_cpu_fsm_quantile;                   /* op_control.c */

/* ---- views ------------------------------------------------------------------------------------------------------ */

static inline void *qsi_row(const qsi_slot *s, int64_t row)
{
    return s->p + row * s->stride;
}
static inline float *qsi_f32(const qsi_slot *s, int64_t row)
{
    return qsi_row(s, row);
}
/* Row distance in 4-byte elements (floats, words), 0 where absent. */
static inline int64_t qsi_ld(const qsi_slot *s)
{
    return s->stride / 4;
}

/* ---- tasks ------------------------------------------------------------------------------------------------------ */

static inline void qsi_each(const qsi_run *run, int64_t tasks, qsi_task_fn *fn, void *arg)
{
    qsi_parallel_for(run->threads, tasks, fn, arg);
}

/* An op of few multiply-adds is done in a few microseconds, less than it takes to wake threads. */
static inline void qsi_weigh(qsi_run *run, int64_t multiply_adds)
{
    if (multiply_adds < 1 << 17)
        run->threads = 1;
}

/* Rows per task when a row has cols elements of cheap work: enough to outweigh handing out the task. */
static inline int64_t qsi_grain(int64_t cols)
{
    return qsi_max(1, 8192 / qsi_max(1, cols));
}

/* ---- scratch (backend_cpu.c) ------------------------------------------------------------------------------------ */

/* At least these many bytes, 64-byte aligned, contents undefined. Pointers from before are invalid. NOMEM. */
qs_status qsi_scratch_need(qsi_run *run, int64_t shared, int64_t own);

static inline void *qsi_own(const qsi_run *run, int thread)
{
    return run->queue->own.memory + thread * run->queue->own_slice;
}
static inline void *qsi_shared(const qsi_run *run)
{
    return run->queue->shared.memory;
}

/* Bytes of count floats, rounded up so that what follows stays aligned; qsi_carve takes them from *at. */
static inline int64_t qsi_floats(int64_t count)
{
    return qsi_round_up(count * (int64_t)sizeof(float), 64);
}
static inline void *qsi_carve(char **at, int64_t bytes)
{
    void *p = *at;
    *at += qsi_round_up(bytes, 64);
    return p;
}

/* ---- the chunk tree (op_sums.c) --------------------------------------------------------------------------------- */

/* Combines partial vectors of n floats that come with ascending ids: node (l, i) = sum over ids in [i 2^l, (i+1) 2^l),
 * left + right, absent children skipped. Keeps one slot per level, as a binary counter does. */
enum { QSI_TREE_SLOTS = 64 };
typedef struct qsi_tree {
    const qsi_kernels *kernels;
    float *slots;         /* [qsi_tree_slots(ids), n] */
    int64_t n;
    int depth;
    int64_t id[QSI_TREE_SLOTS];
} qsi_tree;

/* Slots needed for ids 0 .. ids-1. */
int64_t qsi_tree_slots(int64_t ids);
qsi_tree qsi_tree_start(const qsi_kernels *kernels, float *slots, int64_t n);

/* Where to write partial `id`, contents undefined; finish returns the root, NULL if there was no partial. */
float *qsi_tree_next(qsi_tree *tree, int64_t id);
const float *qsi_tree_finish(qsi_tree *tree);

/* ---- weight gradients tile by tile (op_gradient.c) -------------------------------------------------------------- */

/* Sums over tokens of dy[m,n] x[m,k] for up to QSI_GRAD_ROWS rows n by QSI_GRAD_COLS columns k. */
enum { QSI_GRAD_ROWS = 128, QSI_GRAD_COLS = 256 };
_Static_assert(QSI_GRAD_ROWS % QS_ROW_BLOCK == 0 && QSI_GRAD_COLS % 32 == 0, "tiles are whole row blocks and words");

/* dy or x of all tokens; int8 and bf16: converted, chunk by chunk, [chunks][256 tokens x features], int8 with [chunks, features]
 * scales. */
typedef struct qsi_operand {
    const qsi_slot *from;
    char *packed;
    float *scale;
} qsi_operand;

typedef struct qsi_grad {
    const qsi_kernels *kernels;
    qs_precision precision;
    qsi_operand dy, x;
} qsi_grad;

/* Bytes of shared scratch for converted operands, and of own scratch for a tile. */
int64_t qsi_grad_shared(qs_precision precision, const qsi_slot *dy, const qsi_slot *x);
int64_t qsi_grad_scratch(qs_precision precision, int64_t tokens);

/* Converts the operands in memory (qsi_grad_shared bytes, 64-byte aligned), in tasks of its own. */
qsi_grad qsi_grad_start(const qsi_run *run, qs_precision precision, const qsi_slot *dy, const qsi_slot *x, char *memory);

/* The tile at (row, col): [rows, cols], tightly packed, in scratch. */
const float *qsi_grad_tile(const qsi_grad *grad, int64_t row, int64_t rows, int64_t col, int64_t cols, char *scratch);

/* Rows per task: QSI_GRAD_ROWS in fp32, whose kernel packs x anew for every task, half of them else; one row block where that
 * would leave threads without work. */
int64_t qsi_grad_group(qs_precision precision, int64_t rows, int threads);

#endif
