/* levels.c - the state of the rows that are active: where it lies, and its start values in every phase (docs/fsm.md). The
 * literal recipe starts from 0, everything else at random. */
#include <string.h>
#include "qsbits/random.h"
#include "train/train.h"

/* Levels of a matrix start on a multiple of so many weights: 64 bytes in the narrowest format, two bits each. */
enum { ALIGNED = 256 };

static int64_t place_of(const qsi_active *a, int64_t part, int64_t index)
{
    return qsi_round_up(qsi_active_rows(a, part, index).count * a->cols[index % QSI_MATRICES], ALIGNED);
}

int64_t qsi_levels_most(const qsi_active *a)
{
    int64_t most = 0;
    for (int64_t part = 0; part < a->parts; part++) {
        int64_t weights = 0;
        for (int64_t i = 0; i < a->layers * QSI_MATRICES; i++)
            weights += place_of(a, part, i);
        most = qsi_max(most, weights);
    }
    return most;
}

void qsi_phase_assign(qs_trainer *t, int64_t step)
{
    const bool fsm = t->options.optimizer == QS_OPTIMIZER_FSM;
    int64_t place = 0;
    t->phase = qsi_active_phase(&t->active, step);
    for (int64_t i = 0; i < qsi_matrix_count(t->model); i++) {
        qsi_matrix_state *s = &t->matrices[i];
        s->active = fsm ? qsi_active_rows(&t->active, t->phase.part, i) : (qsi_rows){0, t->model->matrices[i].rows};
        s->levels = qs_absent();
        if (!fsm || s->active.count == 0)
            continue;
        s->levels = qs_view_at(t->levels.buffer, t->levels.offset + (uint64_t)qs_row_bytes((qs_format)t->levels.format, place),
                               (qs_format)t->levels.format, s->active.count, t->model->matrices[i].cols);
        place += place_of(&t->active, t->phase.part, i);
    }
}

/* ---- start values ---------------------------------------------------------------------------------------------- */

/* A row of start levels. */
typedef struct draw {
    uint64_t seed;
    uint32_t phase, tensor, row;
    int64_t cols;
} draw;

static void philox(const draw *d, int64_t index, uint32_t out[4])
{
    qs_philox(d->seed, d->phase, QS_RANDOM_LEVELS, d->tensor, d->row, (uint32_t)index, out);
}

/* Uniform levels: planes of C2 and C4 are random bits (plane p, word j: word j mod 4 of Philox block p * 2^20 + j div 4). */
static void random_planes(const draw *d, int planes, uint32_t *out)
{
    const int64_t words = d->cols / 32;
    uint32_t four[4];
    for (int64_t p = 0; p < planes; p++)
        for (int64_t j = 0; j < words; j++) {
            if (j % 4 == 0)
                philox(d, (p << 20) + j / 4, four);
            out[p * words + j] = four[j % 4];
        }
}

/* Uniform states of t2: the code of column k is draw mod 3, draw = word k mod 4 of Philox block k div 4. */
static void random_ternary(const draw *d, uint32_t *out)
{
    uint32_t four[4];
    memset(out, 0, (size_t)(d->cols / 4));
    for (int64_t k = 0; k < d->cols; k++) {
        if (k % 4 == 0)
            philox(d, k / 4, four);
        out[k / 16] |= (four[k % 4] % 3) << (2 * (k % 16));
    }
}

/* Uniform signed levels of c8: level - 1 is byte k mod 16 of Philox block k div 16, without its top bit; w from the sign words. */
static void random_bytes(const draw *d, const uint32_t *w, int8_t *out)
{
    uint32_t four[4];
    for (int64_t k = 0; k < d->cols; k++) {
        if (k % 16 == 0)
            philox(d, k / 16, four);
        const int level = (int)(four[k % 16 / 4] >> (8 * (k % 4)) & 127);
        out[k] = (int8_t)((w[k / 32] >> (k % 32) & 1) ? level : -1 - level);
    }
}

static qs_status start_levels(qs_trainer *t, int64_t index)
{
    qs_status status = QS_OK;
    const qsi_matrix *x = &t->model->matrices[index];
    const qsi_matrix_state *s = &t->matrices[index];
    for (int64_t n = 0; n < s->active.count; n++) {
        const draw d = {t->options.seed, (uint32_t)t->phase.index, x->id, (uint32_t)(s->active.first + n), x->cols};
        switch (t->options.recipe == QS_RECIPE_LITERAL ? QS_FSMS : t->options.fsm) {
        case QS_FSMS: memset(t->host_levels, 0, (size_t)qs_row_bytes((qs_format)s->levels.format, x->cols)); break;
        case QS_FSM_T2: random_ternary(&d, t->host_levels); break;
        case QS_FSM_C8:
            QS_TRY(qs_read(t->model->queue, qs_view_rows(x->weight, s->active.first + n, 1), t->host_signs));
            random_bytes(&d, t->host_signs, (int8_t *)t->host_levels);
            break;
        default: random_planes(&d, t->options.fsm == QS_FSM_C2 ? 2 : 4, t->host_levels);
        }
        QS_TRY(qs_write(t->model->queue, qs_view_rows(s->levels, n, 1), t->host_levels));
    }
fail:
    return status;
}

qs_status qsi_phase_enter(qs_trainer *t, int64_t step)
{
    qs_status status = QS_OK;
    if (step >= t->phase.first && step < t->phase.first + t->phase.steps)
        return QS_OK;
    qsi_phase_assign(t, step);
    if (step > 0)
        qsi_health_restart(t);
    for (int64_t i = 0; i < qsi_matrix_count(t->model); i++)
        if (t->matrices[i].levels.buffer)
            QS_TRY(start_levels(t, i));
fail:
    if (status != QS_OK)
        t->phase.steps = 0;   /* not entered: the next try starts anew */
    return status;
}
