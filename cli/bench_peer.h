/* bench_peer.h - foreign products from shared objects (qsbits/peer.h). */
#ifndef QSBITS_CLI_BENCH_PEER_H
#define QSBITS_CLI_BENCH_PEER_H

#include "bench_world.h"
#include "qsbits/peer.h"

enum { BENCH_MOST_PEERS = 8 };

typedef struct bench_peers {
    const qs_peer *peer[BENCH_MOST_PEERS];
    int count;
} bench_peers;

/* Loads every file of a comma-separated list; they stay loaded. 0 or an exit code after a message. */
int bench_peers_load(const char *list, bench_peers *out);

/* A product of a peer, several times where it is to be run cold. */
typedef struct bench_peer_product {
    const qs_peer *peer;
    const bench_host *host;   /* borrowed */
    int64_t copies;
    double bytes;             /* of weights that a run reads */
    void **handle;            /* [copies] */
    uint32_t **bits;          /* [copies]: a peer may use the bits in place */
    float *out;               /* [m, n], with dw also [n, k] */
} bench_peer_product;

/* False after a warning with the peer's own words; close it in any case. cold: open as many copies as exceed this many
 * bytes together, 0: one. threads, level: for the peer. */
bool bench_peer_open(const qs_peer *peer, const bench_host *host, int64_t m, int64_t cold, int threads,
                     const char *level, bench_peer_product *out);
void bench_peer_close(bench_peer_product *product);

/* One run of the product (of the weight gradient: dw) with a copy; false after a warning. */
bool bench_peer_run(const bench_peer_product *product, bool dw, int64_t copy, double *seconds);

/* RMS of the difference between the last result and reference / RMS of reference, over count numbers. */
double bench_peer_difference(const bench_peer_product *product, const float *reference, int64_t count);

#endif
