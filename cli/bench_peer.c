/* bench_peer.c - see bench_peer.h. */
#include "bench_peer.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MESSAGE = 256, MOST_COPIES = 1024, NO_INPUT = 66, UNSUPPORTED = 69, NAME_LENGTH = 15, ARITHMETIC_LENGTH = 7 };

/* ---- loading --------------------------------------------------------------------------------------------------- */

/* A text of 1 to most printable characters. */
static bool is_word(const char *text, size_t most)
{
    const size_t length = text == NULL ? 0 : strlen(text);
    for (size_t i = 0; i < length; i++)
        if (text[i] < ' ' || text[i] > '~')
            return false;
    return length > 0 && length <= most;
}

/* What is wrong with a table, NULL if nothing. */
static const char *fault_of(const qs_peer *p)
{
    if (p == NULL)
        return "returned no table";
    if (p->struct_size < sizeof *p || p->version != QS_PEER_VERSION)
        return "is of another version";
    if (!is_word(p->name, NAME_LENGTH) || !is_word(p->arithmetic, ARITHMETIC_LENGTH))
        return "has no name or arithmetic, or too long ones";
    return p->open == NULL || p->run == NULL || p->close == NULL ? "lacks open, run or close" : NULL;
}

static int load_one(const char *file, const qs_peer **out)
{
    char *path = realpath(file, NULL);
    if (path == NULL)
        return fail_with(NO_INPUT, BENCH_NAME, "cannot open the peer '%s' (%s); check the path", file, strerror(errno));
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);   /* never closed: its threads may still wait somewhere in it */
    free(path);
    if (library == NULL)
        return fail_with(UNSUPPORTED, BENCH_NAME, "%s; build the peer as a shared object for this machine", dlerror());
    qs_peer_query_fn *query;
    void *symbol = dlsym(library, QS_PEER_QUERY_SYMBOL);
    memcpy(&query, &symbol, sizeof query);   /* ISO C has no conversion of object pointers to functions */
    if (symbol == NULL)
        return fail_with(UNSUPPORTED, BENCH_NAME, "%s exports no %s; see qsbits/peer.h", file, QS_PEER_QUERY_SYMBOL);
    *out = query();
    const char *fault = fault_of(*out);
    if (fault != NULL)
        return fail_with(UNSUPPORTED, BENCH_NAME, "the table of %s %s; build it with the qsbits/peer.h of this version (%d)",
                         file, fault, QS_PEER_VERSION);
    return 0;
}

int bench_peers_load(const char *list, bench_peers *out)
{
    char file[PATH_MAX];
    out->count = 0;
    while (list != NULL && *list != '\0') {
        const size_t length = strcspn(list, ",");
        if (length == 0 || length >= sizeof file)
            return fail_usage(BENCH_NAME, "--peer '%s' is no list of files; separate their names by commas", list);
        if (out->count == BENCH_MOST_PEERS)
            return fail_usage(BENCH_NAME, "--peer names more than %d files; give fewer", BENCH_MOST_PEERS);
        memcpy(file, list, length);
        file[length] = '\0';
        const int code = load_one(file, &out->peer[out->count]);
        if (code != 0)
            return code;
        out->count++;
        list += length + (list[length] == ',');
    }
    return 0;
}

/* ---- products -------------------------------------------------------------------------------------------------- */

/* Opens one more product, with bits of its own. */
static bool open_copy(bench_peer_product *p, const qs_peer_shape *shape)
{
    const size_t bytes = (size_t)(shape->n * shape->k / 8);
    char message[MESSAGE] = "no reason given";
    qs_peer_shape mine = *shape;
    uint32_t *bits = aligned_alloc(64, (bytes + 63) / 64 * 64);
    bool opened = false;
    if (bits != NULL) {
        memcpy(bits, shape->bits, bytes);
        mine.bits = p->bits[p->copies] = bits;
        opened = p->peer->open(&mine, &p->handle[p->copies], message, sizeof message) == 0;
        message[MESSAGE - 1] = '\0';
    }
    if (opened)
        p->copies++;
    else
        warn(BENCH_NAME, "peer %s leaves %lld x %lld, M = %lld out: %s", p->peer->name, (long long)shape->n,
             (long long)shape->k, (long long)shape->m, bits == NULL ? "out of memory" : message);
    return opened;
}

bool bench_peer_open(const qs_peer *peer, const bench_host *host, int64_t m, int64_t cold, int threads,
                     const char *level, bench_peer_product *out)
{
    const bench_shape s = host->shape;
    const int64_t results = peer->dw != NULL && s.k > m ? s.n * s.k : s.n * m;
    const qs_peer_shape shape = {.struct_size = sizeof shape, .m = m, .n = s.n, .k = s.k, .bits = host->bits,
                                 .scales = host->scales, .threads = threads, .level = level};
    *out = (bench_peer_product){.peer = peer, .host = host};
    out->handle = calloc(MOST_COPIES, sizeof *out->handle);
    out->bits = calloc(MOST_COPIES + 1, sizeof *out->bits);   /* one that was not opened */
    out->out = malloc((size_t)results * sizeof *out->out);
    if (out->handle == NULL || out->bits == NULL || out->out == NULL) {
        warn(BENCH_NAME, "peer %s leaves %lld x %lld out: out of memory", peer->name, (long long)s.n, (long long)s.k);
        return false;
    }
    if (!open_copy(out, &shape))
        return false;
    const int64_t bytes = peer->bytes == NULL ? s.n * s.k / 8 : peer->bytes(out->handle[0]);
    out->bytes = (double)(bytes > 0 ? bytes : 1);
    while (cold > 0 && out->copies < MOST_COPIES && (double)out->copies * out->bytes <= (double)cold)
        if (!open_copy(out, &shape))
            return false;
    return true;
}

void bench_peer_close(bench_peer_product *product)
{
    for (int64_t i = 0; i < product->copies; i++)
        product->peer->close(product->handle[i]);
    for (int64_t i = 0; product->bits != NULL && i <= product->copies; i++)
        free(product->bits[i]);
    free(product->bits);
    free(product->handle);
    free(product->out);
    *product = (bench_peer_product){.peer = NULL};
}

bool bench_peer_run(const bench_peer_product *p, bool dw, int64_t copy, double *seconds)
{
    const double start = now_seconds();
    const int failed = dw ? p->peer->dw(p->handle[copy], p->host->dy, p->host->x, p->out)
                          : p->peer->run(p->handle[copy], p->host->x, p->out);
    *seconds = now_seconds() - start;
    if (failed != 0)
        warn(BENCH_NAME, "peer %s failed with %d; its row is left out", p->peer->name, failed);
    return failed == 0;
}

double bench_peer_difference(const bench_peer_product *product, const float *reference, int64_t count)
{
    double difference = 0.0, size = 0.0;
    for (int64_t i = 0; i < count; i++) {
        const double wanted = (double)reference[i], d = (double)product->out[i] - wanted;
        difference += d * d;
        size += wanted * wanted;
    }
    return sqrt(difference / size);
}
