/* qsbits/peer.h - how a foreign product with 1-bit weights is timed beside ours in one run: qsbits bench --peer FILE.so.
 *
 * FILE.so exports one function called qs_peer_query (qs_peer_query_fn) that returns a table in static storage. It needs
 * this header and nothing of qsbits else. Per shape the bench opens a product, which may convert the weights into
 * whatever it likes, compares the first result with its own and then runs both by turns. Everything is called from one
 * thread. Plain C11 or C++. */
#ifndef QSBITS_PEER_H
#define QSBITS_PEER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { QS_PEER_VERSION = 1 };

/* One product. Rows of the operands are contiguous; everything is valid until the product is closed. */
typedef struct qs_peer_shape {
    size_t struct_size;      /* sizeof(qs_peer_shape) of the caller; later versions add at the end */
    int64_t m, n, k;         /* rows of x, outputs, inputs; k is a multiple of 32 */
    const uint32_t *bits;    /* [n, k/32]: weight j of a row is bit j mod 32 of word j / 32; 0 is -1, 1 is +1 */
    const uint16_t *scales;  /* [n]: fp16 (IEEE binary16) factor of each output */
    int threads;             /* to use; 1: the process is bound to one core */
    const char *level;       /* instructions this machine has, as a kernel level of qsbits ("avx2", "avx512vnni") */
} qs_peer_shape;

/* Functions return 0 or, when they fail, another number. open then says why in message, which has message_bytes; the
 * product is left out with that line. Threads that a peer starts must not be busy once a function has returned. */
typedef struct qs_peer {
    size_t struct_size;      /* sizeof(qs_peer) */
    uint32_t version;        /* QS_PEER_VERSION */
    const char *name;        /* up to 15 characters; stands in the column of levels */
    const char *arithmetic;  /* up to 7 characters; stands in the column of classes: "int8", "f32", ... */
    int (*open)(const qs_peer_shape *shape, void **product, char *message, size_t message_bytes);
    /* y[m,n] = scales[n] * sum over k of x[m,k] * weight[n,k]; x, y fp32 */
    int (*run)(void *product, const float *x, float *y);
    /* dw[n,k] = sum over m of dy[m,n] * x[m,k], fp32; NULL where the peer has no such product. No weights are read. */
    int (*dw)(void *product, const float *dy, const float *x, float *dw);
    /* Bytes of weights that a run reads, at least 1; NULL: as many as the bits have. Says how many products it takes to
     * exceed the last cache: cold runs go from one to the next. */
    int64_t (*bytes)(void *product);
    void (*close)(void *product);
} qs_peer;

typedef const qs_peer *qs_peer_query_fn(void);
#define QS_PEER_QUERY_SYMBOL "qs_peer_query"

#ifdef __cplusplus
}
#endif
#endif
