/* bench_ops.h - single operations to be timed: operands with plausible contents, built through the public API. */
#ifndef QSBITS_CLI_BENCH_OPS_H
#define QSBITS_CLI_BENCH_OPS_H

#include "common.h"

enum { BENCH_BUFFERS = 24, BENCH_HEAD_DIM = 64, BENCH_SEQUENCE = 128, BENCH_VOCAB = 256 };

/* M tokens, N outputs, K inputs. */
typedef struct bench_shape {
    int64_t m, n, k;
} bench_shape;

/* Buffers of one case. */
typedef struct bench_memory {
    qs_context *context;
    qs_queue *queue;
    qs_buffer *buffers[BENCH_BUFFERS];
    int count;
    uint32_t draws;   /* tensors filled so far, part of the random counter */
} bench_memory;

/* One line of the list: make fills op; work is the floating point operations of one run, 0 where that says nothing. */
typedef struct bench_case {
    const char *name, *what;
    qs_status (*make)(bench_memory *memory, bench_shape s, int variant, qs_op *op);
    int variant;
    double (*work)(bench_shape s);
} bench_case;

/* All cases; the list ends with a NULL name. */
extern const bench_case BENCH_CASES[];

/* The case called name. */
const bench_case *bench_find(const char *name);

void bench_free_buffers(bench_memory *memory);

/* Median seconds of a case over repetitions that take about `seconds` together (at least 3, after one to warm up). */
qs_status bench_time(qs_context *context, const bench_case *c, bench_shape s, double seconds, double *median, int64_t *runs);

#endif
