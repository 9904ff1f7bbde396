/* rundir.h - a run folder: RUN/config.json (settings), RUN/metrics.jsonl, RUN/step-NNNNNNNN/ (checkpoints). */
#ifndef QSBITS_CLI_RUNDIR_H
#define QSBITS_CLI_RUNDIR_H

#include <limits.h>
#include "common.h"

typedef struct run_folder {
    const char *path;                /* as given; borrowed */
    char config[PATH_MAX], metrics[PATH_MAX];
    int lock;                        /* open folder with an flock, -1 before run_folder_create */
    bool created;                    /* the folder did not exist before */
} run_folder;

/* Sets the paths. 0 or 64 after a message (too long). */
int run_folder_init(run_folder *run, const char *path);

/* Refuses (73, after a message) what must not be trained into: a file, a foreign config.json and, unless resume, a
 * folder that holds checkpoints. */
int run_folder_check(const run_folder *run, bool resume);

/* Makes the folder with its parents and locks it against a second trainer; removes unfinished checkpoints. */
int run_folder_create(run_folder *run);

/* Unlocks; removes the folder again if it was created here and is still empty. */
void run_folder_close(run_folder *run);

/* config.json as an object; *out is NULL if there is none. 0 or an exit code. */
int run_folder_read_config(const run_folder *run, json_t **out);

/* Writes config.json by way of a temporary file. Takes the reference. */
int run_folder_write_config(const run_folder *run, json_t *config);

/* Path of the checkpoint of a step. */
void run_folder_checkpoint(const run_folder *run, int64_t step, char out[PATH_MAX]);

/* Removes all checkpoints but the newest `keep` ones up to `step`. Failures are warnings: the training goes on. */
void run_folder_prune(const run_folder *run, int64_t step, int64_t keep);

#endif
