/* bench_world.h - operands of the products of one N x K in one context, and the ops on them. */
#ifndef QSBITS_CLI_BENCH_WORLD_H
#define QSBITS_CLI_BENCH_WORLD_H

#include "bench_ops.h"

/* Products that are timed: name, decoding (worth timing for few rows), packed (one of the operands is packed weights). */
#define BENCH_PRODUCT_LIST(X) \
    X(LINEAR,    "linear",       true,  true)   /* y = x w^T, packed */ \
    X(LINEAR_DX, "linear_dx",    false, true)   /* gradient of the input, packed */ \
    X(VISIT,     "fsm_visit c4", false, false)  /* weight gradient, threshold, rule */ \
    X(LINEAR_DW, "linear_dw",    false, false)  /* weight gradient alone, into memory */ \
    X(DENSE,     "dense",        true,  false)  /* y = x w^T with fp32 weights */

typedef enum bench_product {
#define BENCH_PRODUCT_ENUM(id, name, decoding, packed) PRODUCT_##id,
    BENCH_PRODUCT_LIST(BENCH_PRODUCT_ENUM)
#undef BENCH_PRODUCT_ENUM
    PRODUCTS
} bench_product;

typedef struct bench_product_row {
    const char *name;
    bool decoding, packed;
} bench_product_row;
extern const bench_product_row BENCH_PRODUCTS[PRODUCTS];

/* The same numbers for every context and peer. x [m, k], dy [m, n] for the largest m; bits [n, k/32]; scales [n]. */
typedef struct bench_host {
    bench_shape shape;
    float *x, *dy;
    uint32_t *bits;
    uint16_t *scales;
} bench_host;
qs_status bench_host_create(bench_shape s, bench_host *out);
void bench_host_free(bench_host *host);

enum { WORLD_X, WORLD_DY, WORLD_Y, WORLD_DX, WORLD_BITS, WORLD_SCALE, WORLD_MOVING, WORLD_STATE, WORLD_ROWS, WORLD_COLS,
       WORLD_ONES, WORLD_COUNTS, WORLD_DENSE, WORLD_DW, WORLD_BUFFERS };

typedef struct bench_world {
    qs_context *context;      /* borrowed */
    qs_queue *queue;
    bench_shape shape;        /* the largest */
    int64_t copies, stride;   /* of the bits, bytes between them */
    qs_buffer *buffer[WORLD_BUFFERS];
} bench_world;

/* copies: of the packed weights, for cold runs. */
qs_status bench_world_create(qs_context *context, const bench_host *host, int64_t copies, bench_world *out);
double bench_world_bytes(bench_shape s, int64_t copies);   /* it takes */
void bench_world_free(bench_world *world);

/* The op of a product at a shape that is at most the world's; copy: which of the packed weights. */
qs_op bench_world_op(const bench_world *world, bench_product product, qs_precision precision, bench_shape s, int64_t copy);

/* Runs an op; seconds it took. */
qs_status bench_world_run(const bench_world *world, const qs_op *op, double *seconds);

/* The result of PRODUCT_LINEAR or PRODUCT_LINEAR_DW as it stands: [m, n] or [n, k]. */
qs_status bench_world_read(const bench_world *world, bench_product product, bench_shape s, float *out);

#endif
