/* bench_products.c - see bench_products.h. */
#include "bench_products.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_turns.h"

/* ---- limits ---------------------------------------------------------------------------------------------------- */

static unsigned way(qs_peak peak)
{
    return 1u << peak;
}

/* What may do the arithmetic of a product: packed weights as lookups of sums or as products with ±1, fp32 x fp32 as it
 * is. */
static unsigned ways_of(bench_product product, qs_precision precision)
{
    const bool packed = BENCH_PRODUCTS[product].packed;
    switch (precision) {
    case QS_PRECISION_INT8: return packed ? way(QS_PEAK_TABLE16) | way(QS_PEAK_DOT8) : way(QS_PEAK_DOT8);
    case QS_PRECISION_BF16: return way(QS_PEAK_FMA32) | way(QS_PEAK_DOT16) | (packed ? way(QS_PEAK_TABLE32) : 0u);
    default: return way(QS_PEAK_FMA32) | (packed ? way(QS_PEAK_TABLE32) : 0u);
    }
}

static bench_work work_of(bench_product product, qs_precision precision, bench_shape s, bool cold)
{
    const double m = (double)s.m, n = (double)s.n, k = (double)s.k;
    bench_work w = {.operations = 2.0 * m * n * k, .ways = ways_of(product, precision)};
    w.bytes = 4.0 * m * (n + k);
    if (BENCH_PRODUCTS[product].packed)
        w.bytes += n * k / 8.0 + 2.0 * n;
    else
        w.bytes += product == PRODUCT_VISIT ? 10.0 / 8.0 * n * k : 4.0 * n * k;   /* visit: 5 bits, read and written */
    w.resident = cold ? 0.0 : w.bytes;
    return w;
}

/* ---- the rows of one M ----------------------------------------------------------------------------------------- */

static bench_row row_of(bench_product product, bench_shape s, bool cold)
{
    const bool decoding = product == PRODUCT_LINEAR && s.m <= BENCH_DECODING;
    return (bench_row){
        .product = BENCH_PRODUCTS[product].name,
        .shape = s,
        .weights = cold ? "cold" : decoding ? "warm" : "",
        .operations = 2.0 * (double)s.m * (double)s.n * (double)s.k,
        .words = decoding ? (double)(s.n * s.k) / 8.0 : NAN,
        .cycles = NAN,
        .limit = {NAN, ""},
        .against_peer = NAN,
        .difference = NAN,
    };
}

/* Cycles per second of all threads; NaN on a device that was not measured. */
static double clock_of(const bench_setup *b, int level)
{
    return b->level[level].machine.level == NULL ? NAN : b->level[level].machine.rate[QS_PEAK_CLOCK];
}

static void add_own(const bench_setup *b, bench_turns *turns, const bench_world *worlds, bench_product product,
                    bench_shape s, bool cold)
{
    for (int level = 0; level < b->level_count; level++)
        for (int p = 0; p < QS_PRECISIONS; p++) {
            if (!b->precision[p] || (product == PRODUCT_DENSE && p != QS_PRECISION_F32))
                continue;
            const bench_work work = work_of(product, (qs_precision)p, s, cold);
            bench_turn turn = {.world = &worlds[level], .product = product, .precision = (qs_precision)p, .cold = cold,
                               .row = row_of(product, s, cold)};
            (void)snprintf(turn.row.class_name, sizeof turn.row.class_name, "%s", qs_precision_name((qs_precision)p));
            (void)snprintf(turn.row.level, sizeof turn.row.level, "%s", b->level[level].name);
            if (b->level[level].machine.level != NULL)
                turn.row.limit = bench_limit_of(&b->level[level].machine, &b->caches, &work);
            turn.clock = clock_of(b, level);
            bench_turns_add(turns, &turn);
        }
}

static void add_peers(const bench_setup *b, bench_turns *turns, const bench_peer_product *products, bench_product product,
                      bench_shape s, bool cold)
{
    for (int i = 0; i < b->peers.count; i++) {
        const bench_peer_product *p = &products[i];
        if (p->peer == NULL || (product != PRODUCT_LINEAR && (product != PRODUCT_LINEAR_DW || p->peer->dw == NULL)) ||
            (cold && p->copies < 2))
            continue;
        bench_turn turn = {.foreign = p, .product = product, .cold = cold, .row = row_of(product, s, cold),
                           .clock = clock_of(b, 0)};
        turn.row.peer = true;
        turn.row.words = isnan(turn.row.words) ? NAN : p->bytes;
        (void)snprintf(turn.row.class_name, sizeof turn.row.class_name, "%s", p->peer->arithmetic);
        (void)snprintf(turn.row.level, sizeof turn.row.level, "%s", p->peer->name);
        bench_turns_add(turns, &turn);
    }
}

static void add_all(const bench_setup *b, bench_turns *turns, const bench_world *worlds, const bench_peer_product *products,
                    bench_shape s)
{
    const bool decoding = s.m <= BENCH_DECODING, can_cool = worlds[0].copies > 1;
    for (int p = 0; p < PRODUCTS; p++) {
        if (decoding && !b->every_product && !BENCH_PRODUCTS[p].decoding)
            continue;
        for (int cold = 0; cold <= (p == PRODUCT_LINEAR && decoding && can_cool); cold++) {
            add_own(b, turns, worlds, (bench_product)p, s, cold != 0);
            add_peers(b, turns, products, (bench_product)p, s, cold != 0);
        }
    }
}

/* Opens every peer at m rows; those that do not open have no peer in them. */
static void open_peers(const bench_setup *b, const bench_host *host, int64_t m, bench_peer_product *products)
{
    const int64_t cold = m <= BENCH_DECODING ? 2 * b->caches.last : 0;
    for (int i = 0; i < b->peers.count; i++)
        if (!bench_peer_open(b->peers.peer[i], host, m, cold, b->threads, b->level[0].name, &products[i]))
            bench_peer_close(&products[i]);
}

/* Time of the fastest peer in the same product / ours. */
static void compare_with_peers(const bench_turns *turns)
{
    for (int i = 0; i < turns->count; i++) {
        bench_row *own = &turns->turn[i].row;
        for (int j = 0; j < turns->count && !own->peer; j++) {
            const bench_row *r = &turns->turn[j].row;
            const double ratio = r->times.median / own->times.median;
            const bool agrees = !(r->difference > BENCH_AGREEMENT);   /* cold runs are not compared */
            if (r->peer && agrees && r->times.runs > 0 && own->times.runs > 0 && strcmp(r->product, own->product) == 0 &&
                strcmp(r->weights, own->weights) == 0 && !(own->against_peer <= ratio))
                own->against_peer = ratio;
        }
    }
}

static int bench_m(bench_setup *b, const bench_host *host, const bench_world *worlds, int64_t m, double from, double to,
                   bench_rows *rows)
{
    bench_shape s = host->shape;
    bench_turns turns = {.seconds = b->seconds, .from = from, .to = to};
    bench_peer_product products[BENCH_MOST_PEERS] = {{.peer = NULL}};
    s.m = m;
    for (int i = 0; i < b->level_count; i++)
        if (b->level[i].machine.level != NULL && bench_machine_again(&b->level[i].machine) != QS_OK)
            return fail_with(71, BENCH_NAME, "out of memory; give a smaller --shape");
    open_peers(b, host, m, products);
    add_all(b, &turns, worlds, products, s);
    int code = turns.failed ? fail_with(71, BENCH_NAME, "out of memory; give a smaller --shape")
                            : bench_turns_run(&turns, worlds);
    compare_with_peers(&turns);
    for (int i = 0; i < turns.count && code == 0; i++)
        if (!turns.turn[i].dropped && !bench_rows_add(rows, &turns.turn[i].row))
            code = fail_with(71, BENCH_NAME, "out of memory; give a smaller --shape");
    bench_turns_free(&turns);
    for (int i = 0; i < b->peers.count; i++)
        bench_peer_close(&products[i]);
    return code;
}

/* ---- one N x K ------------------------------------------------------------------------------------------------- */

/* Copies of the packed weights that together are twice the last cache, within a quarter of the memory; 1: no cold runs. */
static int64_t copies_of(const bench_setup *b, bench_shape s, bool decoding)
{
    const double bytes = (double)(s.n * s.k) / 8.0, wanted = 2.0 * (double)b->caches.last;
    const double budget = (double)b->caches.memory / 4.0 / b->level_count;
    if (!decoding || wanted + bytes > budget)
        return 1;
    return 1 + (int64_t)ceil(wanted / bytes);
}

static int create_worlds(const bench_setup *b, const bench_host *host, int64_t copies, bench_world *worlds)
{
    qs_status status = QS_OK;
    for (int i = 0; i < b->level_count && status == QS_OK; i++)
        status = bench_world_create(b->level[i].context, host, copies, &worlds[i]);
    return status == QS_OK ? 0 : fail_library(BENCH_NAME, status, "give a smaller --shape");
}

int bench_products(bench_setup *b, int64_t n, int64_t k, const int64_t *m, int m_count, double from, double to,
                   bench_rows *rows)
{
    const bench_shape largest = {.m = m[m_count - 1], .n = n, .k = k};
    const int64_t copies = copies_of(b, largest, m[0] <= BENCH_DECODING);
    const double bytes = bench_world_bytes(largest, copies) * (b->level_count + 1);   /* and what they are filled from */
    bench_world worlds[BENCH_MOST_LEVELS] = {{.queue = NULL}};
    bench_host host;
    char text[16];
    if (bytes > 0.75 * (double)b->caches.memory)
        return fail_with(71, BENCH_NAME,
                         "the operands take %s, more than this machine has to spare; give a smaller --shape%s",
                         human_bytes(bytes, text), b->level_count > 1 ? " or one --cpu" : "");
    if (bench_host_create(largest, &host) != QS_OK)
        return fail_with(71, BENCH_NAME, "out of memory; give a smaller --shape");
    int code = create_worlds(b, &host, copies, worlds);
    for (int i = 0; i < m_count && code == 0; i++) {
        const double step = (to - from) / m_count;
        code = bench_m(b, &host, worlds, m[i], from + i * step, from + (i + 1) * step, rows);
    }
    for (int i = 0; i < b->level_count; i++)
        bench_world_free(&worlds[i]);
    bench_host_free(&host);
    return code;
}
