/* phase.c - the state of the rows that train in a phase: where it lies, and its start values (docs/fsm.md). It is dealt out of one
 * buffer a kind, anew in every phase. The literal recipe starts from 0, all other levels at random. */
#include <string.h>
#include "qsbits/random.h"
#include "train/train.h"

/* What a matrix gets starts on multiples of these, so that every piece is aligned to 64 bytes: W1 words, fp16 scales, fp32 vectors. */
enum { WEIGHTS = 512, ROWS = 32, CONTROL = 16 };

static void add_room(qsi_room *room, int64_t rows, int64_t cols)
{
    if (rows == 0)
        return;
    room->weights += qsi_round_up(rows * cols, WEIGHTS);
    room->rows += qsi_round_up(rows, ROWS);
    room->cols += qsi_round_up(cols, ROWS);
    room->controls += CONTROL;
}

qsi_room qsi_phase_room(const qsi_active *a)
{
    qsi_room most = {0};
    for (int64_t part = 0; part < a->parts; part++) {
        qsi_room room = {0};
        int64_t first = 0, next = 0;
        qsi_active_blocks(a, part, &first, &next);
        for (int64_t i = first * QSI_MATRICES; i < next * QSI_MATRICES; i++)
            add_room(&room, qsi_active_rows(a, part, i).count, a->cols[i % QSI_MATRICES]);
        most.weights = qsi_max(most.weights, room.weights);
        most.rows = qsi_max(most.rows, room.rows);
        most.cols = qsi_max(most.cols, room.cols);
        most.controls = qsi_max(most.controls, room.controls);
    }
    return most;
}

/* [rows, cols] from element `at` of a buffer on, absent where the buffer is. */
static qs_view cut(qs_view buffer, int64_t at, int64_t rows, int64_t cols)
{
    const qs_format format = (qs_format)buffer.format;
    if (!buffer.buffer || rows == 0)
        return qs_absent();
    return qs_view_at(buffer.buffer, buffer.offset + (uint64_t)qs_row_bytes(format, at), format, rows, cols);
}

static void deal(qs_trainer *t, int64_t index, const qsi_room *at)
{
    const qsi_matrix *x = &t->model->matrices[index];
    const qsi_dealt *d = &t->dealt;
    qsi_matrix_state *s = &t->matrices[index];
    const int64_t n = s->active.count, vector = n > 0;
    s->levels = cut(d->levels, at->weights, n, x->cols);
    s->anchor = cut(d->anchors, at->weights, n, x->cols);
    s->row_moment = cut(d->row_moments, at->rows, vector, n);
    s->column_moment = cut(d->column_moments, at->cols, vector, x->cols);
    s->control = cut(d->controls, at->controls, vector, 4);
    s->scale.value = cut(d->scales.value, at->rows, vector, n);
    s->scale.grad = cut(d->scales.grad, at->rows, vector, n);
    s->scale.m = cut(d->scales.m, at->rows, vector, n);
    s->scale.v = cut(d->scales.v, at->rows, vector, n);
    s->weight = s->half = qs_absent();
    if (t->model->streamed) {
        s->weight = cut(d->weights, at->weights, n, x->cols);
        s->half = cut(d->halves, at->rows, vector, n);
    } else if (n > 0) {
        s->weight = qs_view_rows(x->weight, s->active.first, n);
        s->half = x->scale.buffer ? qsi_columns(x->scale, s->active) : qs_absent();
    }
}

void qsi_phase_assign(qs_trainer *t, int64_t step)
{
    const bool fsm = t->options.optimizer == QS_OPTIMIZER_FSM;
    qsi_room at = {0};
    t->phase = qsi_active_phase(&t->active, step);
    t->lowest = t->options.full_backward ? 0 : t->model->config.layers - 1;
    for (int64_t i = 0; i < qsi_matrix_count(t->model); i++) {
        qsi_rows *active = &t->matrices[i].active;
        *active = fsm ? qsi_active_rows(&t->active, t->phase.part, i) : (qsi_rows){0, t->model->matrices[i].rows};
        deal(t, i, &at);
        add_room(&at, active->count, t->model->matrices[i].cols);
        if (active->count > 0)
            t->lowest = qsi_min(t->lowest, i / QSI_MATRICES);
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
            QS_TRY(qs_read(t->model->queue, qs_view_rows(s->weight, n, 1), t->host_signs));
            random_bytes(&d, t->host_signs, (int8_t *)t->host_levels);
            break;
        default: random_planes(&d, t->options.fsm == QS_FSM_C2 ? 2 : 4, t->host_levels);
        }
        QS_TRY(qs_write(t->model->queue, qs_view_rows(s->levels, n, 1), t->host_levels));
    }
fail:
    return status;
}

/* Two roundings of 2^-24 are small beside half a step of fp16: these masters give the scales back. */
qs_status qsi_masters_of_scales(qs_trainer *t, int64_t index)
{
    qs_status status = QS_OK;
    const qsi_matrix_state *s = &t->matrices[index];
    QS_TRY(qs_read(t->model->queue, s->half, t->host_halves));
    for (int64_t n = 0; n < s->active.count; n++)
        t->host_floats[n] = qs_half_to_float(t->host_halves[n]) / t->model->matrices[index].base;
    QS_TRY(qs_write(t->model->queue, s->scale.value, t->host_floats));
fail:
    return status;
}

qs_status qsi_start_control(qs_trainer *t, qs_view control)
{
    const float start[4] = {1.0f, 0.0f, 0.0f, 0.0f};
    return control.buffer ? qs_write(t->model->queue, control, start) : QS_OK;
}

static qs_status clear(qs_trainer *t, qs_view vector)
{
    memset(t->host_floats, 0, (size_t)vector.cols * sizeof *t->host_floats);
    return vector.buffer ? qs_write(t->model->queue, vector, t->host_floats) : QS_OK;
}

/* What a matrix had in another phase is gone: its scales go on from their fp16 values. */
static qs_status start_vectors(qs_trainer *t, int64_t index)
{
    qs_status status = QS_OK;
    const qsi_matrix_state *s = &t->matrices[index];
    QS_TRY(qsi_masters_of_scales(t, index));
    QS_TRY(clear(t, s->scale.m));
    QS_TRY(clear(t, s->scale.v));
    QS_TRY(clear(t, s->row_moment));
    QS_TRY(clear(t, s->column_moment));
    QS_TRY(qsi_start_control(t, s->control));
fail:
    return status;
}

qs_status qsi_phase_enter(qs_trainer *t, int64_t step)
{
    qs_status status = QS_OK;
    qsi_phase_assign(t, step);
    QS_TRY(qsi_phase_fetch(t));
    if (step > 0)
        qsi_health_restart(t);
    for (int64_t i = 0; i < qsi_matrix_count(t->model); i++) {
        if (!t->matrices[i].levels.buffer)
            continue;
        QS_TRY(start_levels(t, i));
        if (t->matrices[i].anchor.buffer)
            QS_TRY(qsi_run(t->model->queue, qs_op_copy(t->matrices[i].anchor, t->matrices[i].weight)));
        if (t->active.parts > 1 || t->model->streamed)
            QS_TRY(start_vectors(t, i));
    }
fail:
    if (status != QS_OK)
        t->phase.steps = 0;   /* not entered: the next try starts anew */
    return status;
}
