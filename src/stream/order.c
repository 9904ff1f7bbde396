/* order.c - the order of acquisitions to come, and what follows from it: which slab is copied next, which is read next.
 *
 * The order is known ahead, so the content that is needed latest gives way, and only to a slab that is needed before it. Copies
 * go strictly in the order. Reads run ahead of them: qsi_stream_next_read plays the copies to come, up to the first whose
 * slab is not in RAM. */
#include "stream/parts.h"

void qsi_stream_append(qsi_stream *s, int64_t slab)
{
    qsi_stream_slab *b = &s->slabs[slab];
    *qsi_stream_at(s, s->tail) = (qsi_stream_expected){slab, QSI_STREAM_NEVER};
    if (b->first == QSI_STREAM_NEVER)
        b->first = s->tail;
    else
        qsi_stream_at(s, b->last)->next = s->tail;
    b->last = s->tail++;
}

void qsi_stream_advance(qsi_stream *s)
{
    const qsi_stream_expected *e = qsi_stream_at(s, s->head++);
    s->slabs[e->slab].first = e->next;
}

void qsi_stream_forget(qsi_stream *s)
{
    while (s->head < s->tail)
        qsi_stream_advance(s);
}

bool qsi_stream_next_copy(qsi_stream *s, int64_t *slab, int64_t *slot)
{
    int64_t p = s->head, best = -1, best_next = 0;
    while (p < s->tail && s->slabs[qsi_stream_at(s, p)->slab].slot >= 0)
        p++;
    if (p == s->tail)
        return false;
    *slab = qsi_stream_at(s, p)->slab;
    const int64_t place = s->slabs[*slab].place;
    if (place < 0 || s->places[place].reading)
        return false;
    for (int64_t i = 0; i < s->n_slots; i++) {
        const qsi_stream_slot *t = &s->slots[i];
        const int64_t next = t->slab < 0 ? QSI_STREAM_NEVER : s->slabs[t->slab].first;
        if (t->held || next < p)
            continue;
        if (best < 0 || next > best_next || (next == best_next && t->stamp < s->slots[best].stamp)) {
            best = i;
            best_next = next;
        }
    }
    *slot = best;
    return best >= 0;
}

/* The slot that the copies to come would give the slab of position p. */
static void play_copy(const qsi_stream *s, int64_t p, int64_t slab)
{
    qsi_stream_guess *best = &s->guess[0];
    for (int64_t i = 1; i < s->n_slots; i++) {
        qsi_stream_guess *g = &s->guess[i];
        if (g->next > best->next || (g->next == best->next && g->stamp < best->stamp))
            best = g;
    }
    *best = (qsi_stream_guess){slab, qsi_stream_at(s, p)->next, s->clock + 1 + p - s->head};
}

/* Whether the slab of position p will lie in a slot by then; if so its next use is noted. */
static bool lies_there(const qsi_stream *s, int64_t p, int64_t slab)
{
    for (int64_t i = 0; i < s->n_slots; i++)
        if (s->guess[i].slab == slab) {
            s->guess[i].next = qsi_stream_at(s, p)->next;
            s->guess[i].stamp = s->clock + 1 + p - s->head;
            return true;
        }
    return false;
}

bool qsi_stream_next_read(qsi_stream *s, int64_t *slab, int64_t *place)
{
    for (int64_t i = 0; i < s->n_slots; i++) {
        const qsi_stream_slot *t = &s->slots[i];
        s->guess[i] = t->slab < 0 ? (qsi_stream_guess){-1, QSI_STREAM_NEVER, -1}
                                  : (qsi_stream_guess){t->slab, s->slabs[t->slab].first, t->held ? s->clock : t->stamp};
    }
    s->searches++;
    for (int64_t p = s->head; p < s->tail; p++) {
        *slab = qsi_stream_at(s, p)->slab;
        if (lies_there(s, p, *slab))
            continue;
        if (s->slabs[*slab].place < 0) {
            *place = qsi_stream_find_place(s, *slab);
            return *place >= 0;
        }
        s->places[s->slabs[*slab].place].wanted = s->searches;
        play_copy(s, p, *slab);
    }
    return false;
}
