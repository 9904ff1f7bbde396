/* progress.h - the progress of a run on standard error: one line that is redrawn on a terminal, else a plain line every
 * few seconds. Colours only on a terminal and only without NO_COLOR. */
#ifndef QSBITS_CLI_PROGRESS_H
#define QSBITS_CLI_PROGRESS_H

#include "common.h"

typedef struct progress {
    bool terminal, color;
    bool drawn;               /* a line without a newline stands on the terminal */
    bool flips;               /* the run has flips to show */
    int64_t step, steps;
    double time_limit;        /* seconds after `started` at which the run stops; 0: none */
    double started, shown;    /* clock */
    double loss, weight;      /* smoothed loss, sum of its weights */
    double step_seconds;      /* smoothed, of one step */
    double tokens_per_step;
    double last_flips;
} progress;

/* step: steps done before; steps: length of the run. */
void progress_start(progress *p, int64_t step, int64_t steps, int64_t tokens_per_step, bool flips, double time_limit);

/* After every step. seconds: time of this step. */
void progress_step(progress *p, const qs_step_info *info, double seconds);

/* A line of its own above the progress line. */
void progress_say(progress *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Draws the last state and leaves the line; does nothing the second time. */
void progress_end(progress *p);

#endif
