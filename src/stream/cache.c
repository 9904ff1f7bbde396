/* cache.c - host memory of a stream: who has a place in it, and who stays.
 *
 * Where all slabs fit, each has a place of its own and is read once. Otherwise places are alike, and all but two are for slabs
 * that stay. A step uses the slabs in turn, forwards and backwards; of such an order a cache of what came last keeps nothing,
 * while a fixed set saves its share. Among slabs of the same use the set is spread evenly: while those of the set are used, the
 * disk has time to read the others ahead. */
#include <stdlib.h>
#include <sys/mman.h>
#include "stream/parts.h"

enum { LARGE_PAGE = 2 << 20 };

/* Memory of all places. Large pages, where the kernel gives them, make fewer pieces of one read. */
static qs_status take_memory(qsi_stream *s, int64_t bytes)
{
    qs_status status = QS_OK;
    const uint64_t total = qsi_memory_total();   /* 0: unknown */
    if (total && (uint64_t)bytes > total)
        QS_FAIL(QS_ERR_NOMEM, "cannot keep %lld bytes of slabs, this machine has %llu", (long long)bytes,
                (unsigned long long)total);
    const int64_t alignment = bytes >= LARGE_PAGE ? LARGE_PAGE : QSI_STREAM_PAGE;
    QS_TRY(qsi_account(s->context, QS_MEMORY_WEIGHTS, bytes));
    s->memory_bytes = bytes;
    s->memory = aligned_alloc((size_t)alignment, (size_t)qsi_round_up(bytes, alignment));
    if (!s->memory)
        QS_FAIL(QS_ERR_NOMEM, "cannot allocate %lld bytes for slabs", (long long)bytes);
    if (bytes >= LARGE_PAGE)
        (void)madvise(s->memory, (size_t)bytes, MADV_HUGEPAGE);
fail:
    return status;
}

qs_status qsi_stream_make_places(qsi_stream *s, const qsi_stream_size *size)
{
    qs_status status = QS_OK;
    s->fits = size->fits;
    s->n_places = size->places;
    if (!(s->places = qsi_alloc_array(s->context, QS_MEMORY_OTHER, s->n_places, sizeof *s->places)))
        QS_TRY(QS_ERR_NOMEM);
    QS_TRY(take_memory(s, size->place_bytes));
    int64_t at = 0;
    for (int64_t i = 0; i < s->n_places; i++) {
        s->places[i] = (qsi_stream_place){.data = s->memory + at, .slab = -1};
        at += s->fits ? qsi_stream_pages((int64_t)s->slabs[i].bytes) : size->place_bytes / size->places;
    }
fail:
    return status;
}

void qsi_stream_free_places(qsi_stream *s)
{
    (void)qsi_account(s->context, QS_MEMORY_WEIGHTS, -s->memory_bytes);
    free(s->memory);
    qsi_free(s->places);
}

/* Whether slab i is in the set of `room` slabs: more uses first; among equals, `room` left for m of them, number j is in where
 * the line (j + 1)·room/m passes a half. */
static bool is_kept(const qsi_stream *s, int64_t i, int64_t room)
{
    int64_t m = 0, j = 0;
    for (int64_t k = 0; k < s->count; k++) {
        room -= s->slabs[k].uses > s->slabs[i].uses;
        j += s->slabs[k].uses == s->slabs[i].uses && k < i;
        m += s->slabs[k].uses == s->slabs[i].uses;
    }
    if (room <= 0 || room >= m)
        return room > 0;
    return ((j + 1) * room + m / 2) / m > (j * room + m / 2) / m;
}

void qsi_stream_choose_kept(qsi_stream *s)
{
    for (int64_t i = 0; i < s->count; i++)
        s->slabs[i].kept = s->fits || is_kept(s, i, s->n_places - QSI_STREAM_STAGING);
}

int64_t qsi_stream_find_place(const qsi_stream *s, int64_t slab)
{
    int64_t best = -1, best_next = 0;
    if (s->fits)
        return slab;
    for (int64_t i = 0; i < s->n_places; i++) {
        const qsi_stream_place *p = &s->places[i];
        if (p->slab < 0)
            return i;
        if (p->reading || p->copying || p->wanted == s->searches || s->slabs[p->slab].kept)
            continue;
        const int64_t next = s->slabs[p->slab].first;
        if (best < 0 || next > best_next || (next == best_next && p->stamp < s->places[best].stamp)) {
            best = i;
            best_next = next;
        }
    }
    return best;
}
