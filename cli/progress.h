/* progress.h - the progress of a run on standard error, for people who look at it now and then for days: one line that is
 * redrawn on a terminal, else a plain line every few seconds, later every minute. Colours only on a terminal and only
 * without NO_COLOR; TERM=dumb is no terminal. */
#ifndef QSBITS_CLI_PROGRESS_H
#define QSBITS_CLI_PROGRESS_H

#include "common.h"

typedef struct progress {
    const char *label;        /* borrowed; in front of everything, "" for a single run */
    bool terminal, color;
    bool drawn;               /* a line without a newline stands on the terminal */
    bool flips;               /* the run has flips to show */
    int64_t step, steps;
    int64_t first_step;       /* done before this process */
    int64_t told_step;        /* of the last line, -1: none */
    double time_limit;        /* seconds after `started` at which the run stops; 0: none */
    double started, shown;    /* clock */
    double first_began;       /* clock when the first step of this process began, 0: none yet */
    double loss, weight;      /* smoothed loss, sum of its weights */
    double step_seconds;      /* smoothed, of one step */
    double tokens_per_step;
    double last_flips;
    double val_loss;          /* NaN: none yet */
    int warnings;             /* standing health warnings, -1: health was not measured yet */
    double dead;              /* share of all weights, NaN: unknown */
} progress;

/* step: steps done before; steps: length of the run. */
void progress_start(progress *p, const char *label, int64_t step, int64_t steps, int64_t tokens_per_step, bool flips,
                    double time_limit);

/* After every step. seconds: time of this step. */
void progress_step(progress *p, const qs_step_info *info, double seconds);

/* What the next lines show of a validation and of a health window. */
void progress_validation(progress *p, double val_loss);
void progress_health(progress *p, int warnings, double dead);

/* A line of its own above the progress line. */
void progress_say(progress *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Draws the last state and leaves the line; does nothing the second time. */
void progress_end(progress *p);

/* The same for bytes that are written: how many, how fast, how long it will take. */
typedef struct byte_progress {
    bool terminal, color, drawn;
    uint64_t done, total;
    double started, shown;    /* clock; shown 0: not yet */
} byte_progress;

void byte_progress_start(byte_progress *p);

/* After every piece; draws where it is due. */
void byte_progress_show(byte_progress *p, uint64_t done, uint64_t total);

/* Leaves the line. */
void byte_progress_end(byte_progress *p);

#endif
