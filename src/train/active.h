/* active.h - which rows of which matrices train, in what order and for how long (docs/fsm.md, "The active set").
 *
 * A run is phases; a phase trains one part of all rows and leaves the rest of the signs and row scales alone. Parts are made of units
 * of 32 rows, the blocks in which column statistics are summed, and hold about the same number of weights. Every part comes
 * once in a sweep. One part: ordinary training. */
#ifndef QSI_ACTIVE_H
#define QSI_ACTIVE_H

#include "model/model.h"
#include "qsbits/trainer.h"

enum { QSI_PHASE_STEPS = 4 };   /* the fewest of a phase, the first of which only measures */

typedef struct qsi_active {
    qs_active_by by;
    qs_active_order order;
    uint64_t seed;
    int64_t parts, phases;     /* phases: parts times sweeps */
    int64_t steps;             /* of the run */
    int64_t layers, rows[QSI_MATRICES], cols[QSI_MATRICES];
} qsi_active;

typedef struct qsi_phase {
    int64_t index;             /* 0 .. phases-1 */
    int64_t part;              /* 0 .. parts-1 */
    int64_t first, steps;      /* first step of the run in it, and how many */
} qsi_phase;

typedef struct qsi_rows {
    int64_t first, count;
} qsi_rows;

/* From resolved options and config. */
qsi_active qsi_active_of(const qs_train_options *options, const qs_model_config *config);

/* The phase that a step belongs to. */
qsi_phase qsi_active_phase(const qsi_active *active, int64_t step);

/* Rows of matrix `index` (block * QSI_MATRICES + position) in a part; count 0 when it rests. */
qsi_rows qsi_active_rows(const qsi_active *active, int64_t part, int64_t index);

/* Blocks first .. next-1 are those that may have rows of a part. */
void qsi_active_blocks(const qsi_active *active, int64_t part, int64_t *first, int64_t *next);

/* Weights of a part, and of all parts. */
int64_t qsi_active_weights(const qsi_active *active, int64_t part);
int64_t qsi_active_all(const qsi_active *active);

#endif
