/* bench_turns.h - the clock of bench_products: everything that is to be timed at one shape takes turns until each had its
 * time. */
#ifndef QSBITS_CLI_BENCH_TURNS_H
#define QSBITS_CLI_BENCH_TURNS_H

#include "bench_peer.h"
#include "bench_rows.h"

typedef struct bench_turn {
    bench_row row;                       /* times, cycles, estimate and difference are filled in */
    bench_product product;
    qs_precision precision;
    const bench_world *world;            /* ours, or NULL */
    const bench_peer_product *foreign;   /* a peer's, or NULL */
    bool cold, dropped;                  /* dropped: a peer that failed */
    double clock;                        /* cycles per second of all threads together */
    double spent, last;                  /* seconds in all; of the run before */
    int64_t runs;                        /* of any kind: which copy of the weights is next */
    double *times;
    int64_t count;
} bench_turn;

typedef struct bench_turns {
    double seconds;                      /* of each */
    double from, to;                     /* of what share of the whole measurement this is */
    bench_turn *turn;
    int count;
    bool failed;                         /* no memory while adding */
} bench_turns;

/* Adds a copy of turn, or sets failed. */
void bench_turns_add(bench_turns *turns, const bench_turn *turn);

/* Times all. Results of peers are compared with those of the first of worlds. 0 or an exit code after a message. */
int bench_turns_run(bench_turns *turns, const bench_world *worlds);
void bench_turns_free(bench_turns *turns);

#endif
