/* rundir.h - a run folder: RUN/config.json (settings), RUN/metrics.jsonl, RUN/step-NNNNNNNN/ (checkpoints), RUN/best (a link to
 * the checkpoint with the best validation, with --keep-best), RUN/result.json (of the last process that trained here). */
#ifndef QSBITS_CLI_RUNDIR_H
#define QSBITS_CLI_RUNDIR_H

#include <limits.h>
#include "common.h"

typedef struct run_folder {
    const char *path;                /* as given; borrowed */
    char config[PATH_MAX], metrics[PATH_MAX], result[PATH_MAX], best[PATH_MAX];
    int lock;                        /* open folder with an flock, -1 before run_folder_create */
    bool created;                    /* the folder did not exist before */
    bool resume;                     /* as run_folder_check was told */
} run_folder;

/* Sets the paths. 0 or 64 after a message (too long). */
int run_folder_init(run_folder *run, const char *path);

/* Refuses (73, after a message) what must not be trained into: a file, a foreign config.json and, unless resume, a
 * folder that holds checkpoints. */
int run_folder_check(run_folder *run, bool resume);

/* Whether the folder holds checkpoints, whole or not. */
bool run_folder_begun(const run_folder *run);

/* Makes the folder with its parents, locks it against a second trainer and checks it again: another one may have trained
 * here since run_folder_check. Removes unfinished checkpoints. */
int run_folder_create(run_folder *run);

/* Unlocks; removes the folder again if it was created here and is still empty. */
void run_folder_close(run_folder *run);

/* config.json as an object; *out is NULL if there is none. 0 or an exit code. */
int run_folder_read_config(const run_folder *run, json_t **out);

/* Writes config.json or result.json by way of a temporary file. Takes the reference. */
int run_folder_write(const run_folder *run, const char *path, json_t *value);

/* Path of the checkpoint of a step. */
void run_folder_checkpoint(const run_folder *run, int64_t step, char out[PATH_MAX]);

/* Points RUN/best to the checkpoint of a step, at once and in place of what it named before. */
int run_folder_name_best(const run_folder *run, int64_t step);

/* Removes all checkpoints but the best and the newest `keep` ones up to `step`. Failures are warnings: the training goes on. */
void run_folder_prune(const run_folder *run, int64_t step, int64_t keep);

#endif
