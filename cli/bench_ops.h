/* bench_ops.h - single operations with operands of plausible contents, built through the public API: what a training step is
 * made of (bench_step.c) and what the self-test compares (self_test.c). */
#ifndef QSBITS_CLI_BENCH_OPS_H
#define QSBITS_CLI_BENCH_OPS_H

#include "common.h"

enum { BENCH_BUFFERS = 24 };
extern const char BENCH_NAME[];   /* of the command, for messages */

/* M tokens, N outputs, K inputs. Attention and rotation look at the last four instead: sequences of seq tokens (M is a
 * multiple of it), heads of head_dim, as many groups of keys and values as kv_heads says. */
typedef struct bench_shape {
    int64_t m, n, k;
    int64_t seq, heads, kv_heads, head_dim;
} bench_shape;

/* Buffers of one case, each under one view. */
typedef struct bench_memory {
    qs_context *context;
    qs_queue *queue;
    qs_buffer *buffers[BENCH_BUFFERS];
    qs_view views[BENCH_BUFFERS];
    int count;
    uint32_t draws;   /* tensors filled so far, part of the random counter: the same draws in every context */
} bench_memory;

/* One line of the list: make fills op. precise: the op has a precision (qs_op_with). */
typedef struct bench_case {
    const char *name;
    qs_status (*make)(bench_memory *memory, bench_shape s, int variant, qs_op *op);
    int variant;
    bool precise;
} bench_case;

/* All cases; the list ends with a NULL name. */
extern const bench_case BENCH_CASES[];

/* The case called name. */
const bench_case *bench_find(const char *name);

/* Random bytes that mean something in the format: numbers in [-1, 1), halves near 0.05, tokens below 256, valid states.
 * The same bytes for the same draw. */
void bench_fill(qs_format format, uint32_t draw, void *bytes, int64_t n);

void bench_free_buffers(bench_memory *memory);

/* Median seconds of a case in each precision that is on, by turns; repetitions take about `seconds` for each (at least 3,
 * after one to warm up). A case without a precision is timed once, as f32. */
qs_status bench_time(qs_context *context, const bench_case *c, bench_shape s, const bool on[QS_PRECISIONS], double seconds,
                     double median[QS_PRECISIONS]);

#endif
