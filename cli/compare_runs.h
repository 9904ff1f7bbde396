/* compare_runs.h - the runs of a comparison: each one is a run folder of `qsbits train` below the comparison's folder, so that a
 * comparison that was stopped goes on where it was, and every run can be looked at by itself. */
#ifndef QSBITS_CLI_COMPARE_RUNS_H
#define QSBITS_CLI_COMPARE_RUNS_H

#include "compare_arms.h"
#include "from.h"
#include "rundir.h"

typedef struct comparison {
    options o;                       /* of the command line, completed from --config */
    json_t *config;                  /* --config; owns strings of o */
    char *data, *also;               /* absolute paths or patterns of the texts; also NULL: no --also */
    run_folder folder;               /* of the comparison: settings and lock */
    origin from;                     /* of --from, the same for all */
    arm arms[MAX_ARMS];
    int count;
    int64_t seeds;
    json_t **results;                /* [count * seeds], by arm and seed; NULL: not done */
    double started;
    int done, planned;               /* runs */
    double arm_seconds[MAX_ARMS];    /* taken by runs of this process, and how many: for the estimate of the time left */
    int arm_runs[MAX_ARMS];
} comparison;

/* Trains one run to its end, or takes the result of one that came to its end before. lr 0: the default rate. *result (new
 * reference) is that of training_result with "folder", relative to the comparison. A loss that is not finite is a result with
 * val_loss null. 0, or an exit code after a message; 128 + number when a signal stopped it, EXIT_STOPPED when the time is up. */
enum { EXIT_STOPPED = -1 };
int compare_run(comparison *c, int arm, double lr, int64_t seed, json_t **result);

/* The rate the library takes for an arm where none is given. 0, or an exit code after a message where the arm's settings are
 * refused. */
int compare_default_rate(const comparison *c, int arm, double *rate);

/* Fewest rates that a search tries: the best one and its neighbours. */
enum { SEARCH_LEAST = 3 };

/* Finds the best rate of an arm with seed 1: tries half, once and twice the default, and further on in steps of two while the best
 * is at the edge. Stores it in the arm and its run as the result of seed 1; *tried (new reference) is [{"lr","val_loss"}, ...].
 * A best rate that stays at the edge is refused (65, after a message). */
int compare_search(comparison *c, int arm, json_t **tried);

#endif
