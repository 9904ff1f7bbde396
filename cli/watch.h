/* watch.h - everything a run tells while it goes on: metrics.jsonl, the event file, the progress line, warnings about the
 * health of the weights. The training loop calls one function per thing that happened. */
#ifndef QSBITS_CLI_WATCH_H
#define QSBITS_CLI_WATCH_H

#include "events.h"
#include "metrics.h"
#include "progress.h"

typedef struct watch {
    metrics metrics;
    events events;
    progress progress;
    history history;
    const char *metrics_path, *folder;  /* borrowed */
    int64_t log_every;         /* 0: no step lines but those before checkpoints */
    double tokens_per_step;
    int64_t layers;
    bool fsm;                  /* the run has pulses */
    /* the steps since the last step line: sums, and the last one */
    qs_step_info since;
    double since_seconds;
    int64_t since_steps;
    qs_health *health;         /* [1 + layers] of a window: all together, then each block */
    uint8_t *quiet;            /* [1 + layers, HEALTH_FIGURES] healthy windows until a warning is told again; 0: at once */
} watch;

/* What the functions below need to know of a run; strings are borrowed. */
typedef struct watch_setup {
    const char *metrics_path, *folder;
    const char *label;         /* shown before the progress line, "" for a single run */
    bool events, fsm;
    int64_t first_step, saved_step;   /* saved_step < 0: metrics start anew */
    int64_t steps, log_every, tokens_per_step, layers;
    double time_limit;         /* seconds from now, 0: none */
} watch_setup;

/* All return 0 or an exit code after a message. w is to be closed in either case. */
int watch_open(watch *w, const watch_setup *setup);

/* After a step, which took `seconds`. */
int watch_step(watch *w, const qs_step_info *info, double seconds);

/* Before a checkpoint is written: the line of the steps since the last one, so that a resume finds sums over all steps. */
int watch_save(watch *w);

/* After a validation. final: the first or the last one of a run, over other windows than those on the way. */
int watch_validation(watch *w, int64_t step, double val_loss, int64_t val_tokens, bool final);

/* After the text of --also, and after the test part, was evaluated. */
int watch_also(watch *w, int64_t step, double loss, int64_t tokens);
int watch_test(watch *w, int64_t step, double loss, int64_t tokens);

/* At the end of a health window: reads the health of every block and the memory accounts, writes them, warns. */
int watch_health(watch *w, const qs_context *context, qs_trainer *trainer, int64_t step);

/* Finishes the progress line; then closes the files. Both do nothing the second time, nor on a zeroed watch. */
void watch_end(watch *w);
void watch_close(watch *w);

#endif
