/* metrics.c - see metrics.h. */
#include "metrics.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void history_clear(history *h)
{
    memset(h, 0, sizeof *h);
    h->val_start = NAN;
    h->val_last = NAN;
}

void history_add(history *h, double loss, double flips)
{
    h->flips += flips;
    h->recent[h->count % METRICS_RECENT] = loss;
    h->count++;
}

double history_recent_loss(const history *h)
{
    const int64_t n = h->count < METRICS_RECENT ? h->count : METRICS_RECENT;
    double sum = 0.0;
    for (int64_t i = h->count - n; i < h->count; i++)
        sum += h->recent[i % METRICS_RECENT];
    return n == 0 ? NAN : sum / (double)n;
}

/* Adds a line to h; false if it is no line of ours or belongs to a later step. */
static bool read_line(const char *text, int64_t step, history *h)
{
    json_t *line = json_loads(text, 0, NULL);
    const json_t *at = json_object_get(line, "step");
    const json_t *val = json_object_get(line, "val_loss");
    const bool ours = json_is_integer(at) && json_integer_value(at) <= step;
    if (ours && val != NULL) {
        h->val_last = json_is_number(val) ? json_number_value(val) : NAN;
        if (json_integer_value(at) == 0)
            h->val_start = h->val_last;
    } else if (ours) {
        history_add(h, json_number_value(json_object_get(line, "loss")), json_number_value(json_object_get(line, "flips")));
    }
    json_decref(line);
    return ours;
}

/* Bytes of the lines to keep. */
static off_t read_history(FILE *file, int64_t step, history *h)
{
    char *line = NULL;
    size_t capacity = 0;
    off_t keep = 0;
    for (ssize_t n; (n = getline(&line, &capacity, file)) > 0; keep += n)
        if (line[n - 1] != '\n' || !read_line(line, step, h))
            break;
    free(line);
    return keep;
}

int metrics_open(metrics *m, const char *path, int64_t step, history *h)
{
    off_t keep = 0;
    memset(m, 0, sizeof *m);
    m->path = path;
    m->started = now_seconds();
    FILE *old = step < 0 ? NULL : fopen(path, "r");
    if (old != NULL) {
        keep = read_history(old, step, h);
        (void)fclose(old);
    }
    m->file = fopen(path, "a");
    if (m->file == NULL)
        return fail_with(EXIT_CREATE, "train", "cannot open %s (%s); choose another --out", path, strerror(errno));
    if (ftruncate(fileno(m->file), keep) != 0)
        return fail_with(EXIT_IO, "train", "cannot shorten %s (%s); check the disk", path, strerror(errno));
    return 0;
}

/* Writes one line; takes the reference of line. */
static int write_line(metrics *m, json_t *line)
{
    char *text = line == NULL ? NULL : json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(line);
    if (text == NULL)
        return fail_with(EXIT_INTERNAL, "train", "cannot format a line of %s; report this", m->path);
    const bool written = fprintf(m->file, "%s\n", text) > 0 && fflush(m->file) == 0;
    free(text);
    return written ? 0
                   : fail_with(EXIT_IO, "train", "cannot write %s (%s); free space on the disk, then use --resume", m->path,
                               strerror(errno));
}

int metrics_step(metrics *m, const qs_step_info *info)
{
    return write_line(m, json_pack("{s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "step", (json_int_t)info->step, "tokens",
                                   (json_int_t)info->tokens, "loss", json_number(info->loss), "lr", json_number(info->lr),
                                   "density", json_number(info->density), "pulses", json_number(info->pulses), "flips",
                                   json_number(info->flips), "seconds", json_number(now_seconds() - m->started)));
}

int metrics_validation(metrics *m, int64_t step, double val_loss, int64_t val_tokens)
{
    return write_line(m,
                      json_pack("{s:I, s:o, s:I, s:o}", "step", (json_int_t)step, "val_loss", json_number(val_loss),
                                "val_tokens", (json_int_t)val_tokens, "seconds", json_number(now_seconds() - m->started)));
}

void metrics_close(metrics *m)
{
    if (m->file != NULL)
        (void)fclose(m->file);
    m->file = NULL;
}
