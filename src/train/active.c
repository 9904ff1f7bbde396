/* active.c - the active set: parts of all rows, and when each has its turn. Integers and Philox only: every machine agrees. */
#include "qsbits/random.h"
#include "train/active.h"

enum { UNIT = QS_ROW_BLOCK };

qsi_active qsi_active_of(const qs_train_options *o, const qs_model_config *c)
{
    qsi_active a = {.by = o->active_by, .order = o->active_order, .seed = o->seed, .parts = o->active_parts,
                    .phases = o->active_parts * o->sweeps, .steps = o->steps, .layers = c->layers};
    for (int i = 0; i < QSI_MATRICES; i++)
        qsi_matrix_shape(c, i, &a.rows[i], &a.cols[i]);
    return a;
}

/* ---- when ------------------------------------------------------------------------------------------------------- */

/* Position of a part in a sweep of random order: how many draw a smaller number, or the same and come before it. */
static int64_t rank_of(const qsi_active *a, int64_t sweep, int64_t part)
{
    uint32_t own[4], other[4];
    int64_t rank = 0;
    qs_philox(a->seed, (uint32_t)sweep, QS_RANDOM_ORDER, 0, 0, (uint32_t)part, own);
    for (int64_t p = 0; p < a->parts; p++) {
        qs_philox(a->seed, (uint32_t)sweep, QS_RANDOM_ORDER, 0, 0, (uint32_t)p, other);
        rank += other[0] < own[0] || (other[0] == own[0] && p < part);
    }
    return rank;
}

static int64_t part_at(const qsi_active *a, int64_t sweep, int64_t position)
{
    if (a->order == QS_ACTIVE_TOP_DOWN)
        return a->parts - 1 - position;
    if (a->order == QS_ACTIVE_RANDOM)
        for (int64_t part = 0; part < a->parts; part++)
            if (rank_of(a, sweep, part) == position)
                return part;
    return position;
}

/* Phase p starts at step ceil(p steps / phases). */
qsi_phase qsi_active_phase(const qsi_active *a, int64_t step)
{
    const int64_t index = step * a->phases / a->steps;
    const int64_t first = qsi_ceil_div(index * a->steps, a->phases), next = qsi_ceil_div((index + 1) * a->steps, a->phases);
    return (qsi_phase){.index = index, .part = part_at(a, index / a->parts, index % a->parts), .first = first,
                       .steps = next - first};
}

/* ---- which ------------------------------------------------------------------------------------------------------ */

static int64_t units_of(const qsi_active *a, int64_t index) { return qsi_ceil_div(a->rows[index % QSI_MATRICES], UNIT); }

/* Units first .. next-1; the last one of a matrix may have fewer rows. */
static qsi_rows rows_of_units(const qsi_active *a, int64_t index, int64_t first, int64_t next)
{
    const int64_t rows = a->rows[index % QSI_MATRICES], from = qsi_min(first * UNIT, rows);
    return (qsi_rows){from, qsi_min(next * UNIT, rows) - from};
}

/* The units of a matrix that make share p of `parts`; from matrix to matrix shares move on by one, so that what does not divide
 * evenly is spread over all parts. */
static qsi_rows rows_of_matrix(const qsi_active *a, int64_t part, int64_t index)
{
    const int64_t units = units_of(a, index), p = (part + index) % a->parts;
    return rows_of_units(a, index, units * p / a->parts, units * (p + 1) / a->parts);
}

/* Weights before matrix `index`, the matrices of block 0 first. */
static int64_t weights_before(const qsi_active *a, int64_t index)
{
    int64_t block = 0, rest = 0;
    for (int i = 0; i < QSI_MATRICES; i++) {
        block += a->rows[i] * a->cols[i];
        rest += i < index % QSI_MATRICES ? a->rows[i] * a->cols[i] : 0;
    }
    return index / QSI_MATRICES * block + rest;
}

/* Weights before share p of all. */
static int64_t edge_of(const qsi_active *a, int64_t p)
{
    const int64_t all = qsi_active_all(a);
    return all / a->parts * p + all % a->parts * p / a->parts;
}

/* Units of the matrix that begin before share p of all weights ends. */
static int64_t units_before(const qsi_active *a, int64_t p, int64_t index)
{
    const int64_t inside = qsi_max(0, edge_of(a, p) - weights_before(a, index));
    return qsi_min(units_of(a, index), qsi_ceil_div(inside, UNIT * a->cols[index % QSI_MATRICES]));
}

static qsi_rows rows_of_model(const qsi_active *a, int64_t part, int64_t index)
{
    return rows_of_units(a, index, units_before(a, part, index), units_before(a, part + 1, index));
}

qsi_rows qsi_active_rows(const qsi_active *a, int64_t part, int64_t index)
{
    return a->by == QS_ACTIVE_BY_ROWS ? rows_of_matrix(a, part, index) : rows_of_model(a, part, index);
}

void qsi_active_blocks(const qsi_active *a, int64_t part, int64_t *first, int64_t *next)
{
    const int64_t block = weights_before(a, QSI_MATRICES);
    const bool all = a->by == QS_ACTIVE_BY_ROWS;
    *first = all ? 0 : edge_of(a, part) / block;
    *next = all ? a->layers : qsi_min(a->layers, qsi_ceil_div(edge_of(a, part + 1), block));
}

int64_t qsi_active_weights(const qsi_active *a, int64_t part)
{
    int64_t weights = 0, first = 0, next = 0;
    qsi_active_blocks(a, part, &first, &next);
    for (int64_t i = first * QSI_MATRICES; i < next * QSI_MATRICES; i++)
        weights += qsi_active_rows(a, part, i).count * a->cols[i % QSI_MATRICES];
    return weights;
}

int64_t qsi_active_all(const qsi_active *a) { return weights_before(a, a->layers * QSI_MATRICES); }

/* ---- for those who plan a run ----------------------------------------------------------------------------------- */

void qs_train_phase(const qs_model_config *config, const qs_train_options *options, int64_t step, qs_phase *phase)
{
    const qsi_active a = qsi_active_of(options, config);
    const qsi_phase p = qsi_active_phase(&a, step);
    *phase = (qs_phase){.index = p.index, .phases = a.phases, .part = p.part, .parts = a.parts, .first = p.first, .steps = p.steps,
                        .weights = qsi_active_weights(&a, p.part)};
}

void qs_train_active_rows(const qs_model_config *config, const qs_train_options *options, int64_t step, uint32_t tensor,
                          int64_t *first, int64_t *count)
{
    const qsi_active a = qsi_active_of(options, config);
    const qsi_rows rows = qsi_active_rows(&a, qsi_active_phase(&a, step).part, tensor);
    *first = rows.first;
    *count = rows.count;
}
