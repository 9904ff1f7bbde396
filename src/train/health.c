/* health.c - whether the matrices of a run are well: pulses, flips, dead and oscillating weights, drift of scales, size of
 * gradients, over windows of steps that end at multiples of health_window (docs/numerics.md, "Health"). Nothing here decides a
 * trained byte. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "train/train.h"

/* The figures of qs_health, as they are saved. */
#define FIGURES(X) X(density) X(pulses) X(flips) X(dead) X(oscillating) X(deepest) X(scale_drift) X(gradient_rms)

static const qs_health unknown = {
#define UNKNOWN(figure) .figure = NAN,
    .step = 0, FIGURES(UNKNOWN)
#undef UNKNOWN
};

static bool is_fsm(const qs_trainer *t) { return t->options.optimizer == QS_OPTIMIZER_FSM; }

/* Whether the gradient of a matrix was a dense tensor in its update; if not, its visit has left r_now. */
static bool has_dense_gradient(const qs_trainer *t) { return t->visit.dgrad.buffer && !is_fsm(t); }

static int64_t weights_of(const qs_trainer *t, int64_t block)
{
    int64_t weights = 0;
    for (int i = 0; i < QSI_MATRICES; i++) {
        const qsi_matrix *x = qsi_matrix_of(t->model, block, i);
        weights += x->rows * x->cols;
    }
    return weights;
}

qs_status qs_trainer_health(const qs_trainer *t, int64_t block, qs_health *health)
{
    qs_status status = QS_OK;
    const int64_t layers = t->model->config.layers;
    if (block < -1 || block >= layers)
        QS_FAIL(QS_ERR_ARG, "block is %lld; it must lie in 0..%lld, or be -1 for all", (long long)block, (long long)layers - 1);
    *health = unknown;
    if (t->options.health_window > 0 && t->health.results[0].step > 0)
        *health = t->health.results[block < 0 ? layers : block];
fail:
    return status;
}

/* ---- in a step ------------------------------------------------------------------------------------------------- */

static bool ends_window(const qs_trainer *t)
{
    return (t->step + 1) % t->options.health_window == 0;
}

void qsi_health_begin(qs_trainer *t)
{
    const int64_t window = t->options.health_window;
    t->health.measuring = window > 0 && ends_window(t) && t->health.steps + 1 == window;
}

/* Of the visit the sum of r_now, of a dense gradient the sum of its squares. */
qs_status qsi_health_gradient(qs_trainer *t, int64_t index)
{
    const qsi_matrix *x = &t->model->matrices[index];
    const qsi_visit_scratch *s = &t->visit;
    if (!t->health.measuring)
        return QS_OK;
    const qs_view out = qs_view_rows(t->health.squares, index, 1);
    if (!has_dense_gradient(t)) {
        const qs_view r_now = qs_view_at(s->r_now.buffer, s->r_now.offset, QS_F32, t->matrices[index].active.count, 1);
        return qsi_run(t->model->queue, qs_op_chunk_sum(out, r_now, 1.0f));
    }
    const qs_view dgrad = qs_view_at(s->dgrad.buffer, s->dgrad.offset, QS_F32, x->rows, x->cols);
    return qsi_run(t->model->queue, qs_op_sum_squares(out, dgrad, x->scale, 0));
}

/* ---- the end of a window --------------------------------------------------------------------------------------- */

/* Sums over matrices. */
typedef struct tally {
    int64_t weights, rows, pulses, flips;
    int64_t sampled, dead, oscillating, deepest;   /* weights */
    double drift, gradient;                        /* sums of squares: of a' - 1 over rows, of the gradient over weights */
} tally;

static void add(tally *sum, const tally *x)
{
    sum->weights += x->weights;
    sum->rows += x->rows;
    sum->pulses += x->pulses;
    sum->flips += x->flips;
    sum->sampled += x->sampled;
    sum->dead += x->dead;
    sum->oscillating += x->oscillating;
    sum->deepest += x->deepest;
    sum->drift += x->drift;
    sum->gradient += x->gradient;
}

/* value: as qs_unpack gives a state. */
static bool is_deepest(qs_fsm fsm, int sign, int value)
{
    const qs_fsm_rule *rule = qs_fsm_rule_of(fsm);
    switch (fsm) {
    case QS_FSM_C8: return abs(value) == rule->levels;
    case QS_FSM_T2: return rule->deepest[sign > 0][(value + 3) % 3];
    default: return rule->deepest[sign > 0][value - 1];
    }
}

static qs_status count_deepest(qs_trainer *t, int64_t index, int64_t row, int64_t *count)
{
    qs_status status = QS_OK;
    const qsi_matrix *x = &t->model->matrices[index];
    const qs_view levels = t->matrices[index].levels;
    qsi_health *h = &t->health;
    QS_TRY(qs_read(t->model->queue, qs_view_rows(t->matrices[index].weight, row - t->matrices[index].active.first, 1), h->host_words));
    QS_TRY(qs_unpack(QS_W1, 1, x->cols, h->host_words, h->host_signs));
    QS_TRY(qs_read(t->model->queue, qs_view_rows(levels, row - t->matrices[index].active.first, 1), h->host_words));
    QS_TRY(qs_unpack((qs_format)levels.format, 1, x->cols, h->host_words, h->host_states));
    for (int64_t k = 0; k < x->cols; k++)
        *count += is_deepest(t->options.fsm, h->host_signs[k], h->host_states[k]);
fail:
    return status;
}

static bool is_active(const qs_trainer *t, int64_t index, int64_t row)
{
    const qsi_rows active = t->matrices[index].active;
    return row >= active.first && row < active.first + active.count;
}

/* The record of sampled row j, which it clears. */
static qs_status count_record(qs_trainer *t, int64_t index, int64_t j, tally *sum)
{
    qs_status status = QS_OK;
    const int64_t cols = t->model->matrices[index].cols, words = cols / 32;
    const qs_view record = qs_view_rows(t->matrices[index].record, QS_SAMPLE_PLANES * j, QS_SAMPLE_PLANES);
    uint32_t *plane = t->health.host_words;
    QS_TRY(qs_read(t->model->queue, record, plane));
    for (int64_t i = 0; i < words; i++) {
        const uint32_t p0 = plane[i], p1 = plane[words + i], p2 = plane[2 * words + i];
        sum->dead += __builtin_popcount(~(p0 | p1 | p2));
        sum->oscillating += __builtin_popcount(p2 & (p0 | p1));
    }
    sum->sampled += cols;
    memset(plane, 0, (size_t)(QS_SAMPLE_PLANES * words) * sizeof *plane);
    QS_TRY(qs_write(t->model->queue, record, plane));
fail:
    return status;
}

static qs_status add_drift(qs_trainer *t, int64_t index, double *sum)
{
    qs_status status = QS_OK;
    const qs_view master = t->matrices[index].scale.value;
    QS_TRY(qs_read(t->model->queue, master, t->health.host_floats));
    for (int64_t n = 0; n < master.cols; n++) {
        const double drift = (double)t->health.host_floats[n] - 1.0;
        *sum += drift * drift;
    }
fail:
    return status;
}

/* Sums of squares of a block's gradients: r_now is a mean over columns. */
static qs_status add_gradients(qs_trainer *t, int64_t block, double *sum)
{
    qs_status status = QS_OK;
    const float *squares = t->health.host_floats;
    QS_TRY(qs_read(t->model->queue, qs_view_rows(t->health.squares, block * QSI_MATRICES, QSI_MATRICES), t->health.host_floats));
    for (int i = 0; i < QSI_MATRICES; i++)
        if (t->matrices[block * QSI_MATRICES + i].active.count > 0)
            *sum += (double)squares[i] * (has_dense_gradient(t) ? 1.0 : (double)qsi_matrix_of(t->model, block, i)->cols);
fail:
    return status;
}

static qs_status measure_block(qs_trainer *t, int64_t block, tally *sum)
{
    qs_status status = QS_OK;
    QS_TRY(add_gradients(t, block, &sum->gradient));
    for (int64_t index = block * QSI_MATRICES; index < (block + 1) * QSI_MATRICES; index++) {
        const qsi_matrix *x = &t->model->matrices[index];
        const qsi_matrix_state *s = &t->matrices[index];
        for (int64_t j = 0; s->record.buffer && j < qs_sample_rows(x->rows); j++) {
            const int64_t row = qs_sample_row(x->rows, j);
            if (!is_active(t, index, row))
                continue;
            QS_TRY(count_record(t, index, j, sum));
            if (s->levels.buffer)
                QS_TRY(count_deepest(t, index, row, &sum->deepest));
        }
        if (s->scale.value.buffer)
            QS_TRY(add_drift(t, index, &sum->drift));
        sum->rows += s->active.count;
        sum->weights += s->active.count * x->cols;
    }
    sum->pulses = t->health.pulses[block];
    sum->flips = t->health.flips[block];
fail:
    return status;
}

/* Every figure that the arm has. */
static qs_health figures(const qs_trainer *t, const tally *x)
{
    const double window = (double)t->options.health_window, weights = (double)x->weights, sampled = (double)x->sampled;
    qs_health r = unknown;
    r.step = t->step + 1;
    if (is_fsm(t)) {
        r.density = t->options.fsm == QS_FSM_C8 ? NAN : t->health.density / window;
        r.pulses = (double)x->pulses / (window * weights);
        r.dead = (double)x->dead / sampled;
        r.deepest = (double)x->deepest / sampled;
    }
    if (qsi_signs_move(&t->options)) {
        r.flips = (double)x->flips / (window * weights);
        r.oscillating = (double)x->oscillating / sampled;
    }
    if (t->options.optimizer != QS_OPTIMIZER_ADAMW)
        r.scale_drift = sqrt(x->drift / (double)x->rows);
    r.gradient_rms = sqrt(x->gradient / weights);
    return r;
}

static qs_status measure(qs_trainer *t)
{
    qs_status status = QS_OK;
    const int64_t layers = t->model->config.layers;
    tally all = {0};
    for (int64_t block = 0; block < layers; block++) {
        tally sum = {0};
        QS_TRY(measure_block(t, block, &sum));
        t->health.results[block] = figures(t, &sum);
        add(&all, &sum);
    }
    t->health.results[layers] = figures(t, &all);
fail:
    return status;
}

static void clear_sums(qs_trainer *t)
{
    qsi_health *h = &t->health;
    const size_t bytes = (size_t)t->model->config.layers * sizeof *h->pulses;
    h->steps = 0;
    h->density = 0.0;
    memset(h->pulses, 0, bytes);
    memset(h->flips, 0, bytes);
}

void qsi_health_restart(qs_trainer *t)
{
    if (t->options.health_window > 0)
        clear_sums(t);
}

static qs_status clear_records(qs_trainer *t)
{
    qs_status status = QS_OK;
    for (int64_t i = 0; i < qsi_matrix_count(t->model); i++) {
        const qs_view record = t->matrices[i].record;
        if (!record.buffer)
            continue;
        memset(t->health.host_words, 0, (size_t)qs_row_bytes(QS_W1, record.cols));
        for (int64_t row = 0; row < record.rows; row++)
            QS_TRY(qs_write(t->model->queue, qs_view_rows(record, row, 1), t->health.host_words));
    }
fail:
    return status;
}

qs_status qsi_health_end(qs_trainer *t, double density)
{
    qs_status status = QS_OK;
    qsi_health *h = &t->health;
    if (t->options.health_window == 0)
        return QS_OK;
    h->steps++;
    h->density += density;
    for (int64_t i = 0; i < qsi_matrix_count(t->model); i++) {
        if (t->matrices[i].active.count == 0)
            continue;
        h->pulses[i / QSI_MATRICES] += t->host_counts[4 * i];
        h->flips[i / QSI_MATRICES] += t->host_counts[4 * i + 1];
    }
    if (h->measuring)
        QS_TRY(measure(t));
    else if (ends_window(t))
        QS_TRY(clear_records(t));
    if (ends_window(t))
        clear_sums(t);
fail:
    return status;
}

/* ---- in the manifest of a checkpoint ----------------------------------------------------------------------------- */

/* object, or NULL (and no object) where a member of it is missing for want of memory. */
static json_t *if_whole(json_t *object, int missing)
{
    if (!missing)
        return object;
    json_decref(object);
    return NULL;
}

static json_t *counts_to_json(const int64_t *counts, int64_t n)
{
    int missing = 0;
    json_t *array = json_array();
    for (int64_t i = 0; i < n; i++)
        missing |= json_array_append_new(array, json_integer((json_int_t)counts[i]));
    return if_whole(array, missing);
}

static json_t *results_to_json(const qs_health *results, int64_t n)
{
    int missing = 0;
    json_t *object = json_object();
    missing |= json_object_set_new(object, "step", json_integer((json_int_t)results[0].step));
#define PUT(figure) { \
        json_t *array = json_array(); \
        for (int64_t i = 0; i < n; i++) \
            missing |= json_array_append_new(array, isfinite(results[i].figure) ? json_real(results[i].figure) : json_null()); \
        missing |= json_object_set_new(object, #figure, array); \
    }
    FIGURES(PUT)
#undef PUT
    return if_whole(object, missing);
}

json_t *qsi_health_to_json(const qs_trainer *t)
{
    const qsi_health *h = &t->health;
    const int64_t layers = t->model->config.layers;
    if (t->options.health_window == 0)
        return NULL;
    int missing = 0;
    json_t *object = json_object();
    missing |= json_object_set_new(object, "window", json_integer((json_int_t)t->options.health_window));
    missing |= json_object_set_new(object, "steps", json_integer((json_int_t)h->steps));
    missing |= json_object_set_new(object, "density", json_real(h->density));
    missing |= json_object_set_new(object, "pulses", counts_to_json(h->pulses, layers));
    missing |= json_object_set_new(object, "flips", counts_to_json(h->flips, layers));
    if (h->results[0].step > 0)
        missing |= json_object_set_new(object, "last", results_to_json(h->results, layers + 1));
    return if_whole(object, missing);
}

/* An integer in 0..most. */
static bool integer_from(const json_t *value, double most, int64_t *out)
{
    *out = json_integer_value(value);
    return json_is_integer(value) && *out >= 0 && (double)*out <= most;
}

/* Sums over `steps` steps of counts that are at most the weights of a block. */
static bool counts_from(const qs_trainer *t, const json_t *array, int64_t steps, int64_t *counts)
{
    const int64_t layers = t->model->config.layers;
    bool good = json_array_size(array) == (size_t)layers;
    for (int64_t b = 0; good && b < layers; b++)
        good = integer_from(json_array_get(array, (size_t)b), (double)steps * (double)weights_of(t, b), &counts[b]);
    return good;
}

/* last: absent as long as no window has ended. */
static bool results_from(qs_trainer *t, const json_t *last, int64_t step)
{
    const size_t n = (size_t)t->model->config.layers + 1;
    qs_health *r = t->health.results;
    int64_t end = 0;
    if (!last)
        return true;
    bool good = integer_from(json_object_get(last, "step"), (double)step, &end) && end > 0;
#define GET(figure) { \
        const json_t *array = json_object_get(last, #figure); \
        good = good && json_array_size(array) == n; \
        for (size_t i = 0; good && i < n; i++) { \
            const json_t *value = json_array_get(array, i); \
            good = json_is_number(value) || json_is_null(value); \
            r[i].figure = json_is_null(value) ? NAN : json_number_value(value); \
        } \
    }
    FIGURES(GET)
#undef GET
    for (size_t i = 0; good && i < n; i++)
        r[i].step = end;
    return good;
}

qs_status qsi_health_from_json(qs_trainer *t, const char *folder, const json_t *saved, int64_t step, bool *continued)
{
    qs_status status = QS_OK;
    qsi_health *h = &t->health;
    const int64_t window = t->options.health_window;
    *continued = false;
    if (window == 0)
        return QS_OK;
    clear_sums(t);
    memset(h->results, 0, (size_t)(t->model->config.layers + 1) * sizeof *h->results);
    *continued = json_integer_value(json_object_get(saved, "window")) == window;
    if (!*continued) {
        QS_TRY(clear_records(t));
        return QS_OK;
    }
    h->density = json_number_value(json_object_get(saved, "density"));
    if (!integer_from(json_object_get(saved, "steps"), (double)(step % window), &h->steps) ||
        !json_is_number(json_object_get(saved, "density")) || !(h->density >= 0.0 && h->density <= (double)h->steps) ||
        !counts_from(t, json_object_get(saved, "pulses"), h->steps, h->pulses) ||
        !counts_from(t, json_object_get(saved, "flips"), h->steps, h->flips) ||
        !results_from(t, json_object_get(saved, "last"), step))
        QS_FAIL(QS_ERR_FORMAT, "%s: manifest.json: the figures under health make no sense; resume with another health_window",
                folder);
fail:
    return status;
}
