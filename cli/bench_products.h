/* bench_products.h - products of packed and dense weights, timed side by side: kernel levels, precisions and peers by
 * turns, so that whatever slows the machine for a while slows all of them. */
#ifndef QSBITS_CLI_BENCH_PRODUCTS_H
#define QSBITS_CLI_BENCH_PRODUCTS_H

#include "bench_peer.h"
#include "bench_rows.h"

enum { BENCH_MOST_LEVELS = 16, BENCH_DECODING = 16 };   /* rows of x up to which a product counts as decoding */

/* A context and what its machine can do. */
typedef struct bench_level {
    qs_context *context;
    char name[16];
    bench_machine machine;
} bench_level;

typedef struct bench_setup {
    bench_level level[BENCH_MOST_LEVELS];
    int level_count;
    bool precision[QS_PRECISIONS];
    bool every_product;      /* also those that decoding does not need, for few rows */
    bench_caches caches;
    bench_peers peers;
    double seconds;          /* of each row */
    int threads;
} bench_setup;

/* Times everything at N x K and each of the row counts (ascending) and adds the rows; measures the machines once more
 * before each. from, to: of what share of the whole measurement this is, for the line at a terminal. 0 or an exit code
 * after a message. */
int bench_products(bench_setup *setup, int64_t n, int64_t k, const int64_t *m, int m_count, double from, double to,
                   bench_rows *rows);

#endif
