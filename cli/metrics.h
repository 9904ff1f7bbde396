/* metrics.h - metrics.jsonl of a run folder: one JSON object per line, written and flushed as it happens. Kinds:
 *   {"step","tokens","loss","lr","density","pulses","flips","tokens_per_second","seconds"}
 *        every --log-every steps and before every checkpoint; loss, pulses and flips are means over the steps since the line
 *        before, so that mean times steps adds up to the sum over all steps, also behind a resume
 *   {"step","val_loss","val_tokens","final","seconds"}                   after every validation; final: over --final-windows
 *   {"step","also_loss","also_tokens","seconds"}                         of --also: before the first step, and at the end
 *   {"step","test_loss","test_tokens","seconds"}                         of --test-fraction: at the end
 *   {"step","health":{"window","all":H,"layers":[H, ...]},"memory":{tag:bytes, ..., "rss":bytes},"seconds"}
 *        after every health window of "window" steps; H = {"density","pulses","flips","dead","oscillating","deepest",
 *        "scale_drift","gradient_rms"} of qs_health, null where the arm has no such figure; memory: current bytes by tag of
 *        the accounts, rss: most memory the process ever held
 *   {"step","warning":{"layer","figure","value","least","most","text"}}
 *        when a figure has left its healthy range; layer null: all together
 * seconds is the wall time since this process started training. It, tokens_per_second, rss and the event file depend on time
 * and machine; nothing else in a run folder does. */
#ifndef QSBITS_CLI_METRICS_H
#define QSBITS_CLI_METRICS_H

#include "health_ranges.h"

enum { METRICS_RECENT = 50 };

/* What the final report needs of all steps, also those before a resume. */
typedef struct history {
    int64_t count;                  /* steps */
    double flips;                   /* sum over steps */
    double seconds;                 /* that all steps took, in whatever process */
    double recent[METRICS_RECENT];  /* losses of the last steps, by step modulo METRICS_RECENT; a mean is its steps' */
    double val_start, val_last;     /* NaN: unknown */
    int64_t val_step;               /* of val_last, -1: none */
    double best_loss;               /* of the validations that are not final, which alone compare; infinite: none */
    int64_t best_step;              /* of best_loss, -1: none */
    int64_t since_best;             /* validations since then */
    double also_start, also_last;   /* of --also; NaN: unknown */
    int64_t also_step, also_tokens; /* of also_last; -1: none */
    double test_loss;               /* NaN: not tested */
    int64_t test_step, test_tokens; /* of test_loss; -1: none */
} history;

typedef struct metrics {
    FILE *file;
    double started;
} metrics;

void history_clear(history *h);

/* steps steps with this mean loss and mean share of flips. */
void history_add(history *h, double loss, double flips, int64_t steps);
void history_validation(history *h, int64_t step, double val_loss, bool final);
void history_also(history *h, int64_t step, double loss, int64_t tokens);
void history_test(history *h, int64_t step, double loss, int64_t tokens);

/* Mean loss of the last steps in ascending order, NaN without steps. */
double history_recent_loss(const history *h);

/* Opens path for appending behind the lines up to and including step (later and broken ones are cut off) and collects
 * those lines in h, which it clears first. step < 0: starts anew. 0 or an exit code after a message. */
int metrics_open(metrics *m, const char *path, int64_t step, history *h);

/* All return false, with errno, when the line could not be written. info: means, as above. */
bool metrics_step(metrics *m, const qs_step_info *info, double tokens_per_second);
bool metrics_validation(metrics *m, int64_t step, double val_loss, int64_t val_tokens, bool final);
bool metrics_also(metrics *m, int64_t step, double loss, int64_t tokens);
bool metrics_test(metrics *m, int64_t step, double loss, int64_t tokens);

/* memory: bytes by tag, then rss. */
bool metrics_health(metrics *m, int64_t step, int64_t window, const qs_health *all, const qs_health *blocks, int64_t layers,
                    const uint64_t memory[QS_MEMORY_TAGS + 1]);
bool metrics_warning(metrics *m, int64_t step, int64_t block, const health_warning *warning);

void metrics_close(metrics *m);

#endif
