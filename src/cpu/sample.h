/* sample.h - the record of sampled rows (qsbits/ops.h, "the sample") and the counts that ops which move signs leave behind. */
#ifndef QSI_SAMPLE_H
#define QSI_SAMPLE_H

#include "cpu/drivers.h"

/* Where the rows of an op lie in their matrix, and the record, whose p is NULL without one. */
typedef struct qsi_sample {
    const qsi_slot *record;
    int64_t first_row, whole_rows;
} qsi_sample;

/* Plane 0 of the record of a row of the views; NULL when the row is none of the sampled ones. Planes are qsi_ld(record) words
 * apart. */
static inline uint32_t *qsi_sample_of(const qsi_sample *s, int64_t row)
{
    const int64_t whole = s->first_row + row, group = whole / QS_SAMPLE_GROUP;
    if (!s->record->p || qs_sample_row(s->whole_rows, group) != whole)
        return NULL;
    return qsi_row(s->record, QS_SAMPLE_PLANES * group);
}

/* Adds what happened to 32 n weights to their codes, planes ld words apart: a saturating counter in which the first pulse makes 0
 * to 1 and a flip adds 1 on top of that. */
static inline void qsi_sample_note(uint32_t *plane, int64_t ld, const uint32_t *pulsed, const uint32_t *flipped, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t p0 = plane[i], p1 = plane[ld + i], p2 = plane[2 * ld + i];
        p0 |= (pulsed[i] | flipped[i]) & ~(p1 | p2);
        const uint32_t more = flipped[i] & ~(p2 & p0), carry = p0 & more;
        plane[i] = p0 ^ more;
        plane[ld + i] = p1 ^ carry;
        plane[2 * ld + i] = p2 ^ (p1 & carry);
    }
}

/* What a task counted. */
typedef struct qsi_moves {
    int64_t pulses, flips;
} qsi_moves;

/* counts = {pulses, flips, 0, 0} over all tasks; counts may be absent. */
static inline void qsi_store_moves(const qsi_moves *moves, int64_t tasks, const qsi_slot *counts)
{
    qsi_moves sum = {0, 0};
    if (!counts->p)
        return;
    for (int64_t t = 0; t < tasks; t++) {
        sum.pulses += moves[t].pulses;
        sum.flips += moves[t].flips;
    }
    int32_t *out = qsi_row(counts, 0);
    out[0] = (int32_t)qsi_min(sum.pulses, INT32_MAX);
    out[1] = (int32_t)qsi_min(sum.flips, INT32_MAX);
    out[2] = out[3] = 0;
}

#endif
