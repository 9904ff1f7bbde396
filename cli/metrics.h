/* metrics.h - metrics.jsonl of a run folder: one JSON object per line, written and flushed as it happens. Two kinds:
 *   {"step","tokens","loss","lr","density","pulses","flips","seconds"}   after every step
 *   {"step","val_loss","val_tokens","seconds"}                           after every validation
 * seconds is the wall time since this process started training; nothing else in a run folder depends on time. */
#ifndef QSBITS_CLI_METRICS_H
#define QSBITS_CLI_METRICS_H

#include "common.h"

enum { METRICS_RECENT = 50 };

/* What the final report needs of all steps, also those before a resume. */
typedef struct history {
    double flips;                   /* sum over steps */
    double recent[METRICS_RECENT];  /* losses of the last steps, by step modulo METRICS_RECENT */
    int64_t count;                  /* of steps */
    double val_start, val_last;     /* NaN: unknown */
} history;

typedef struct metrics {
    FILE *file;
    const char *path;  /* borrowed */
    double started;
} metrics;

void history_clear(history *h);
void history_add(history *h, double loss, double flips);

/* Mean loss of the last steps in ascending order, NaN without steps. */
double history_recent_loss(const history *h);

/* Opens path for appending behind the lines up to and including step (later and broken ones are cut off) and collects
 * those lines in h. step < 0: starts anew. 0 or an exit code after a message. */
int metrics_open(metrics *m, const char *path, int64_t step, history *h);

/* 0, or 74 after a message. */
int metrics_step(metrics *m, const qs_step_info *info);
int metrics_validation(metrics *m, int64_t step, double val_loss, int64_t val_tokens);

void metrics_close(metrics *m);

#endif
