/* metrics.c - see metrics.h. */
#include "metrics.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE_MOST = 1 << 24 };  /* bytes of a line; one with the health of 4096 blocks has a million */

/* ---- history --------------------------------------------------------------------------------------------------- */

void history_clear(history *h)
{
    memset(h, 0, sizeof *h);
    h->val_start = NAN;
    h->val_last = NAN;
    h->val_step = -1;
    h->best_loss = INFINITY;
    h->best_step = -1;
    h->also_start = NAN;
    h->also_last = NAN;
    h->also_step = -1;
    h->test_loss = NAN;
    h->test_step = -1;
}

void history_add(history *h, double loss, double flips, int64_t steps)
{
    const int64_t shown = steps < METRICS_RECENT ? steps : METRICS_RECENT;
    h->flips += flips * (double)steps;
    h->count += steps;
    for (int64_t i = h->count - shown; i < h->count; i++)
        h->recent[i % METRICS_RECENT] = loss;
}

void history_validation(history *h, int64_t step, double val_loss, bool final)
{
    h->val_last = val_loss;
    h->val_step = step;
    if (step == 0)
        h->val_start = val_loss;
    if (final)
        return;
    h->since_best++;
    if (val_loss < h->best_loss) {
        h->best_loss = val_loss;
        h->best_step = step;
        h->since_best = 0;
    }
}

void history_also(history *h, int64_t step, double loss, int64_t tokens)
{
    if (step == 0)
        h->also_start = loss;
    else if (tokens != h->also_tokens)
        h->also_start = NAN;  /* over other windows: they do not compare */
    h->also_last = loss;
    h->also_step = step;
    h->also_tokens = tokens;
}

void history_test(history *h, int64_t step, double loss, int64_t tokens)
{
    h->test_loss = loss;
    h->test_step = step;
    h->test_tokens = tokens;
}

double history_recent_loss(const history *h)
{
    const int64_t n = h->count < METRICS_RECENT ? h->count : METRICS_RECENT;
    double sum = 0.0;
    for (int64_t i = h->count - n; i < h->count; i++)
        sum += h->recent[i % METRICS_RECENT];
    return n == 0 ? NAN : sum / (double)n;
}

/* ---- reading back ---------------------------------------------------------------------------------------------- */

/* Steps never fall from line to line; those of step lines rise. */
typedef struct reader {
    history *history;
    int64_t step, step_line;  /* of the line before, of the step line before */
} reader;

static double number_or_nan(const json_t *value)
{
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* Adds a line to the history; false if it is no line of ours or belongs to a later step. */
static bool read_line(reader *r, const char *text, int64_t last_step)
{
    json_t *line = json_loads(text, 0, NULL);
    const json_t *at = json_object_get(line, "step"), *loss = json_object_get(line, "loss");
    const json_t *val = json_object_get(line, "val_loss"), *also = json_object_get(line, "also_loss");
    const json_t *test = json_object_get(line, "test_loss");
    const int64_t step = json_is_integer(at) ? json_integer_value(at) : -1;
    bool ours = step >= r->step && step <= last_step;
    if (ours && loss != NULL) {
        ours = step > r->step_line;
        if (ours) {
            const double tokens = number_or_nan(json_object_get(line, "tokens")) / (double)step * (double)(step - r->step_line);
            const double seconds = tokens / number_or_nan(json_object_get(line, "tokens_per_second"));
            history_add(r->history, json_number_value(loss), json_number_value(json_object_get(line, "flips")),
                        step - r->step_line);
            r->history->seconds += isfinite(seconds) ? seconds : 0.0;
        }
        r->step_line = step;
    } else if (ours && val != NULL) {
        history_validation(r->history, step, number_or_nan(val), json_is_true(json_object_get(line, "final")));
    } else if (ours && also != NULL) {
        history_also(r->history, step, number_or_nan(also), json_integer_value(json_object_get(line, "also_tokens")));
    } else if (ours && test != NULL) {
        history_test(r->history, step, number_or_nan(test), json_integer_value(json_object_get(line, "test_tokens")));
    } else if (ours) {
        ours = json_object_get(line, "health") != NULL || json_object_get(line, "warning") != NULL;
    }
    r->step = step;
    json_decref(line);
    return ours;
}

/* Bytes of the lines to keep. A line without an end, with a 0 byte or too long is broken. */
static off_t read_history(FILE *file, int64_t step, history *h)
{
    reader r = {h, 0, 0};
    off_t keep = 0;
    char *line = malloc(LINE_MOST);
    while (line != NULL && fgets(line, LINE_MOST, file) != NULL) {
        const size_t n = strlen(line);
        if (n == 0 || line[n - 1] != '\n' || !read_line(&r, line, step))
            break;
        keep += (off_t)n;
    }
    free(line);
    return keep;
}

int metrics_open(metrics *m, const char *path, int64_t step, history *h)
{
    memset(m, 0, sizeof *m);
    history_clear(h);
    m->started = now_seconds();
    m->file = fopen(path, "a+e");
    if (m->file == NULL)
        return fail_with(EXIT_CREATE, "train", "cannot open %s (%s); choose another --out", path, strerror(errno));
    const off_t keep = step < 0 ? 0 : read_history(m->file, step, h);
    if (fseeko(m->file, keep, SEEK_SET) != 0 || ftruncate(fileno(m->file), keep) != 0)
        return fail_with(EXIT_IO, "train", "cannot shorten %s (%s); check the disk", path, strerror(errno));
    return 0;
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

/* Takes the reference of line. Without memory for it there is none for the training either, so ENOMEM is told. */
static bool write_line(metrics *m, json_t *line)
{
    char *text = line == NULL ? NULL : json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(line);
    if (text == NULL) {
        errno = ENOMEM;
        return false;
    }
    const bool written = fprintf(m->file, "%s\n", text) > 0 && fflush(m->file) == 0;
    free(text);
    return written;
}

static json_t *seconds(const metrics *m) { return json_number(now_seconds() - m->started); }

bool metrics_step(metrics *m, const qs_step_info *info, double tokens_per_second)
{
    return write_line(m, json_pack("{s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "step", (json_int_t)info->step, "tokens",
                                   (json_int_t)info->tokens, "loss", json_number(info->loss), "lr", json_number(info->lr),
                                   "density", json_number(info->density), "pulses", json_number(info->pulses), "flips",
                                   json_number(info->flips), "tokens_per_second", json_number(tokens_per_second), "seconds",
                                   seconds(m)));
}

bool metrics_validation(metrics *m, int64_t step, double val_loss, int64_t val_tokens, bool final)
{
    return write_line(m, json_pack("{s:I, s:o, s:I, s:b, s:o}", "step", (json_int_t)step, "val_loss", json_number(val_loss),
                                   "val_tokens", (json_int_t)val_tokens, "final", final, "seconds", seconds(m)));
}

bool metrics_also(metrics *m, int64_t step, double loss, int64_t tokens)
{
    return write_line(m, json_pack("{s:I, s:o, s:I, s:o}", "step", (json_int_t)step, "also_loss", json_number(loss),
                                   "also_tokens", (json_int_t)tokens, "seconds", seconds(m)));
}

bool metrics_test(metrics *m, int64_t step, double loss, int64_t tokens)
{
    return write_line(m, json_pack("{s:I, s:o, s:I, s:o}", "step", (json_int_t)step, "test_loss", json_number(loss),
                                   "test_tokens", (json_int_t)tokens, "seconds", seconds(m)));
}

static json_t *health_json(const qs_health *health)
{
    json_t *figures = json_object();
    for (health_figure i = 0; i < HEALTH_FIGURES; i++)
        (void)json_object_set_new(figures, health_name(i), json_number(health_value(health, i)));
    return figures;
}

static json_t *memory_json(const uint64_t memory[QS_MEMORY_TAGS + 1])
{
    json_t *bytes = json_object();
    for (int i = 0; i < QS_MEMORY_TAGS; i++)
        (void)json_object_set_new(bytes, qs_memory_tag_name((qs_memory_tag)i), json_integer((json_int_t)memory[i]));
    (void)json_object_set_new(bytes, "rss", json_integer((json_int_t)memory[QS_MEMORY_TAGS]));
    return bytes;
}

bool metrics_health(metrics *m, int64_t step, int64_t window, const qs_health *all, const qs_health *blocks, int64_t layers,
                    const uint64_t memory[QS_MEMORY_TAGS + 1])
{
    json_t *list = json_array();
    for (int64_t i = 0; i < layers; i++)
        (void)json_array_append_new(list, health_json(&blocks[i]));
    return write_line(m, json_pack("{s:I, s:{s:I, s:o, s:o}, s:o, s:o}", "step", (json_int_t)step, "health", "window",
                                   (json_int_t)window, "all", health_json(all), "layers", list, "memory",
                                   memory_json(memory), "seconds", seconds(m)));
}

bool metrics_warning(metrics *m, int64_t step, int64_t block, const health_warning *warning)
{
    return write_line(m, json_pack("{s:I, s:{s:o, s:s, s:o, s:o, s:o, s:s}}", "step", (json_int_t)step, "warning", "layer",
                                   block < 0 ? json_null() : json_integer((json_int_t)block), "figure",
                                   health_name(warning->figure), "value", json_number(warning->value), "least",
                                   json_number(warning->least), "most", json_number(warning->most), "text", warning->text));
}

void metrics_close(metrics *m)
{
    if (m->file != NULL)
        (void)fclose(m->file);
    m->file = NULL;
}
