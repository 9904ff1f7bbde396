/* fake_peer.c - a peer of qsbits bench for the tests: the plain loop, built by tests/CMakeLists.txt in several ways.
 * PEER_WRONG: results with the wrong sign; PEER_REFUSES: opens nothing; PEER_FAILS: runs fail; PEER_OLD: a table of
 * another version. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "qsbits/peer.h"

typedef struct product {
    qs_peer_shape shape;
} product;

static int open_product(const qs_peer_shape *shape, void **out, char *message, size_t message_bytes)
{
    product *p = malloc(sizeof *p);
#ifdef PEER_REFUSES
    free(p);
    p = NULL;
#endif
    if (p == NULL) {
        (void)snprintf(message, message_bytes, "no such shape here");
        return 1;
    }
    p->shape = *shape;
    *out = p;
    return 0;
}

/* fp16 that is no subnormal and no infinity */
static float half(uint16_t h)
{
    const uint32_t word = (h & 0x8000u) << 16 | ((h & 0x7FFFu) * 8192u + (112u << 23));
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

static int run(void *handle, const float *x, float *y)
{
    const qs_peer_shape *s = &((const product *)handle)->shape;
    for (int64_t m = 0; m < s->m; m++)
        for (int64_t n = 0; n < s->n; n++) {
            float sum = 0;
            for (int64_t k = 0; k < s->k; k++)
                sum += s->bits[n * (s->k / 32) + k / 32] >> (k % 32) & 1 ? x[m * s->k + k] : -x[m * s->k + k];
            y[m * s->n + n] = half(s->scales[n]) * sum;
#ifdef PEER_WRONG
            y[m * s->n + n] *= -1;
#endif
        }
#ifdef PEER_FAILS
    return 7;
#else
    return 0;
#endif
}

static int dw(void *handle, const float *dy, const float *x, float *out)
{
    const qs_peer_shape *s = &((const product *)handle)->shape;
    for (int64_t n = 0; n < s->n; n++)
        for (int64_t k = 0; k < s->k; k++) {
            float sum = 0;
            for (int64_t m = 0; m < s->m; m++)
                sum += dy[m * s->n + n] * x[m * s->k + k];
            out[n * s->k + k] = sum;
        }
    return 0;
}

#ifndef PEER_WRONG
static int64_t bytes(void *handle)
{
    const qs_peer_shape *s = &((const product *)handle)->shape;
    return s->n * s->k / 8;
}
#endif

static void close_product(void *handle)
{
    free(handle);
}

__attribute__((visibility("default"))) const qs_peer *qs_peer_query(void);

const qs_peer *qs_peer_query(void)
{
    static const qs_peer peer = {
        .struct_size = sizeof peer,
#ifdef PEER_OLD
        .version = QS_PEER_VERSION + 1,
#else
        .version = QS_PEER_VERSION,
#endif
        .name = "plain",
        .arithmetic = "f32",
        .open = open_product,
        .run = run,
        .dw = dw,
#ifndef PEER_WRONG
        .bytes = bytes,
#endif
        .close = close_product,
    };
    return &peer;
}
