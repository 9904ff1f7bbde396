/* report_metrics.c - metrics.jsonl as columns of a report, each thinned out to what a picture can show. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "report_data.h"

enum {
    POINTS = 1000,           /* of a curve */
    LAYER_POINTS = 6000,     /* of all layers' curves of one figure together */
    LAYER_POINTS_LEAST = 60, /* of each */
    LINE_BYTES = 1 << 22,
    LAYERS_MOST = 4096,
    WARNINGS_SHOWN = 100
};

static const char *const STEP_FIGURES[] = {"loss", "density", "pulses", "flips"};
static const char *const HEALTH[] = {"density",     "pulses",      "flips",       "dead",
                                     "oscillating", "deepest",     "scale_drift", "gradient_rms"};
enum { STEP_COUNT = sizeof STEP_FIGURES / sizeof STEP_FIGURES[0], HEALTH_COUNT = sizeof HEALTH / sizeof HEALTH[0] };

/* Rows of `width` numbers, the first of which is the step and rises. */
typedef struct rows {
    double *value;
    int64_t width, count, capacity;
} rows;

typedef struct reading {
    rows steps, validations, health;  /* health: the figures of all layers together, then those of each */
    int64_t layers, window, last_step, warning_count;
    json_t *warnings, *memory;
} reading;

/* ---- rows ------------------------------------------------------------------------------------------------------- */

/* A new row of width numbers, of which the first is set; NULL without memory. Lines of a resumed run replace older ones. */
static double *add_row(rows *r, int64_t width, int64_t step)
{
    r->width = width;
    while (r->count > 0 && r->value[(r->count - 1) * width] >= (double)step)
        r->count--;
    if (r->count == r->capacity) {
        const int64_t capacity = r->capacity == 0 ? 256 : 2 * r->capacity;
        double *value = realloc(r->value, (size_t)capacity * (size_t)width * sizeof *value);
        if (value == NULL)
            return NULL;
        r->value = value;
        r->capacity = capacity;
    }
    double *row = r->value + r->count++ * width;
    row[0] = (double)step;
    return row;
}

/* Six digits, whole numbers as such. */
static json_t *short_number(double value)
{
    char text[32];
    if (!isfinite(value))
        return json_null();
    if (value == rint(value) && fabs(value) < 1e15)
        return json_integer((json_int_t)value);
    (void)snprintf(text, sizeof text, "%.6g", value);
    return json_real(strtod(text, NULL));
}

/* Mean of the finite values of rows first .. last-1. */
static double mean_of(const rows *r, int64_t column, int64_t first, int64_t last)
{
    double sum = 0.0;
    int64_t n = 0;
    for (int64_t i = first; i < last; i++) {
        const double value = r->value[i * r->width + column];
        sum += isfinite(value) ? value : 0.0;
        n += isfinite(value);
    }
    return n == 0 ? NAN : sum / (double)n;
}

/* A column in at most `points` points: the first row, means over the rows between in groups of equal size, the last row. */
static json_t *column_json(const rows *r, int64_t column, int64_t points)
{
    json_t *out = json_array();
    const int64_t n = r->count < points ? r->count : points;
    for (int64_t i = 0; i < n; i++) {
        int64_t first = i, last = i + 1;
        if (r->count > points && i > 0) {
            first = i == n - 1 ? r->count - 1 : 1 + (i - 1) * (r->count - 2) / (n - 2);
            last = i == n - 1 ? r->count : 1 + i * (r->count - 2) / (n - 2);
        }
        (void)json_array_append_new(out, short_number(mean_of(r, column, first, last)));
    }
    return out;
}

/* {"step": ..., names[i]: column first + i}. with_step: false leaves the steps out. */
static json_t *columns_json(const rows *r, const char *const *names, int count, int64_t first, int64_t points,
                            bool with_step)
{
    json_t *out = json_object();
    if (with_step)
        (void)json_object_set_new(out, "step", column_json(r, 0, points));
    for (int i = 0; i < count; i++)
        (void)json_object_set_new(out, names[i], column_json(r, first + i, points));
    return out;
}

/* ---- lines ------------------------------------------------------------------------------------------------------ */

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static void read_numbers(const json_t *object, const char *const *names, int count, double *out)
{
    for (int i = 0; i < count; i++)
        out[i] = number(object, names[i]);
}

static bool read_health(reading *r, int64_t step, const json_t *line, const json_t *health)
{
    const json_t *layers = json_object_get(health, "layers"), *window = json_object_get(health, "window");
    const int64_t count = (int64_t)json_array_size(layers);
    if (r->health.count == 0 && r->health.capacity == 0)
        r->layers = count < LAYERS_MOST ? count : LAYERS_MOST;
    double *row = add_row(&r->health, 1 + (1 + r->layers) * HEALTH_COUNT, step);
    if (row == NULL)
        return false;
    read_numbers(json_object_get(health, "all"), HEALTH, HEALTH_COUNT, row + 1);
    for (int64_t l = 0; l < r->layers; l++)
        read_numbers(json_array_get(layers, (size_t)l), HEALTH, HEALTH_COUNT, row + 1 + (1 + l) * HEALTH_COUNT);
    r->window = json_is_integer(window) ? (int64_t)json_integer_value(window) : 0;
    json_t *memory = json_object_get(line, "memory");
    if (json_is_object(memory)) {
        json_decref(r->memory);
        r->memory = json_incref(memory);
    }
    return true;
}

static void read_warning(reading *r, int64_t step, const json_t *warning)
{
    const char *figure = json_string_value(json_object_get(warning, "figure"));
    const char *text = json_string_value(json_object_get(warning, "text"));
    if (r->warning_count++ >= WARNINGS_SHOWN)
        return;
    (void)json_array_append_new(
        r->warnings, json_pack("{s:I, s:o, s:o, s:o}", "step", (json_int_t)step, "figure",
                               report_text(figure == NULL ? "" : figure), "text", report_text(text == NULL ? "" : text),
                               "layer", json_is_integer(json_object_get(warning, "layer"))
                                   ? json_incref(json_object_get(warning, "layer"))
                                   : json_null()));
}

/* One line by its kind; other kinds are passed over. False without memory. */
static bool read_kind(reading *r, int64_t step, const json_t *line)
{
    const json_t *health = json_object_get(line, "health"), *warning = json_object_get(line, "warning");
    double *row = NULL;
    r->last_step = step;
    if (json_object_get(line, "val_loss") != NULL) {
        row = add_row(&r->validations, 2, step);
        if (row != NULL)
            row[1] = number(line, "val_loss");
        return row != NULL;
    }
    if (json_is_object(health))
        return read_health(r, step, line, health);
    if (json_is_object(warning)) {
        read_warning(r, step, warning);
        return true;
    }
    if (json_object_get(line, "loss") == NULL)
        return true;
    row = add_row(&r->steps, 1 + STEP_COUNT, step);
    if (row != NULL)
        read_numbers(line, STEP_FIGURES, STEP_COUNT, row + 1);
    return row != NULL;
}

/* A whole line. 0 or an exit code after a message. */
static int read_line(const char *name, const char *path, int64_t at, const char *text, reading *r)
{
    json_error_t error;
    int code = 0;
    json_t *line = json_loads(text, 0, &error);
    const json_t *step = json_object_get(line, "step");
    if (line == NULL)
        code = fail_with(EXIT_DATA, name, "%s, line %lld: %s; the file is damaged, remove that line", path, (long long)at,
                         error.text);
    else if (!json_is_integer(step) || json_integer_value(step) < 0 || json_integer_value(step) > INT64_C(1) << 53)
        code = fail_with(EXIT_DATA, name, "%s, line %lld: no \"step\"; the file is damaged, remove that line", path,
                         (long long)at);
    else if (!read_kind(r, (int64_t)json_integer_value(step), line))
        code = fail_with(71, name, "no memory for %s; close other programs", path);
    json_decref(line);
    return code;
}

static int read_lines(const char *name, const char *path, FILE *file, char *line, reading *r)
{
    int code = 0;
    for (int64_t at = 1; code == 0 && fgets(line, LINE_BYTES, file) != NULL; at++) {
        const size_t length = strlen(line);
        if (length > 0 && line[length - 1] == '\n')
            code = read_line(name, path, at, line, r);
        else if (feof(file) == 0)
            code = fail_with(EXIT_DATA, name,
                             "%s, line %lld: a zero byte or more than %d bytes; the file is damaged, remove that line", path,
                             (long long)at, LINE_BYTES);
    }
    if (code == 0 && ferror(file) != 0)
        code = fail_with(EXIT_IO, name, "cannot read %s (%s); check the disk", path, strerror(errno));
    return code;
}

/* ---- the run ---------------------------------------------------------------------------------------------------- */

static json_t *health_json(const reading *r)
{
    if (r->health.count == 0)
        return json_null();
    int64_t points = LAYER_POINTS / (r->layers + 1);
    points = points < LAYER_POINTS_LEAST ? LAYER_POINTS_LEAST : points > POINTS ? POINTS : points;
    json_t *layers = json_array();
    for (int64_t l = 0; l < r->layers; l++)
        (void)json_array_append_new(
            layers, columns_json(&r->health, HEALTH, HEALTH_COUNT, 1 + (1 + l) * HEALTH_COUNT, points, false));
    return json_pack("{s:I, s:o, s:o, s:o}", "window", (json_int_t)r->window, "step", column_json(&r->health, 0, points),
                     "all", columns_json(&r->health, HEALTH, HEALTH_COUNT, 1, points, false), "layers", layers);
}

/* The memory of the newest health line stands in for the result that a run in progress does not have. */
static void put_memory(json_t *memory, json_t *run)
{
    json_t *tags = json_object(), *value = NULL;
    const char *tag = NULL;
    double all = 0.0;
    json_object_foreach(memory, tag, value) {
        if (!json_is_number(value) || strlen(tag) > TEXT_LIMIT || strcmp(tag, "rss") == 0)
            continue;
        (void)json_object_set(tags, tag, value);
        all += json_number_value(value);
    }
    if (all > 0.0 && !json_is_number(json_object_get(run, "peak")))
        (void)json_object_set_new(run, "peak", json_number(all));
    if (json_object_get(run, "memory") == NULL && memory != NULL)
        (void)json_object_set(run, "memory", tags);
    json_decref(tags);
}

int report_metrics(const char *name, const char *path, json_t *run)
{
    static const char *const loss[] = {"loss"};
    int code = 0;
    reading r;
    memset(&r, 0, sizeof r);
    r.warnings = json_array();
    struct stat info;
    const bool odd = stat(path, &info) == 0 && !S_ISREG(info.st_mode);  /* a pipe would have to be waited for */
    FILE *file = odd ? NULL : fopen(path, "r");
    char *line = malloc(LINE_BYTES);
    if (odd)
        code = fail_with(EXIT_DATA, name, "%s is no plain file; restore it or leave the folder out", path);
    else if (line == NULL)
        code = fail_with(71, name, "no memory for %s; close other programs", path);
    else if (file != NULL)
        code = read_lines(name, path, file, line, &r);
    else if (errno != ENOENT)
        code = fail_with(66, name, "cannot open %s (%s); check its permissions", path, strerror(errno));
    if (code == 0) {
        (void)json_object_set_new(run, "train", columns_json(&r.steps, STEP_FIGURES, STEP_COUNT, 1, POINTS, true));
        (void)json_object_set_new(run, "val", columns_json(&r.validations, loss, 1, 1, POINTS, true));
        (void)json_object_set_new(run, "health", health_json(&r));
        (void)json_object_set_new(run, "last_step", json_integer((json_int_t)r.last_step));
        (void)json_object_set(run, "warnings", r.warnings);
        (void)json_object_set_new(run, "warning_count", json_integer((json_int_t)r.warning_count));
        put_memory(r.memory, run);
    }
    if (file != NULL)
        (void)fclose(file);
    free(line);
    free(r.steps.value);
    free(r.validations.value);
    free(r.health.value);
    json_decref(r.warnings);
    json_decref(r.memory);
    return code;
}
