/* training.h - one run of `qsbits train` from options to result: prepares, takes the steps, validates, saves. Used by train and,
 * for every arm and seed, by compare. Time decides only when to stop, to save and what to show; every trained byte follows from
 * settings, text and seed. */
#ifndef QSBITS_CLI_TRAINING_H
#define QSBITS_CLI_TRAINING_H

#include "from.h"
#include "rundir.h"
#include "watch.h"

typedef struct training {
    options o;                      /* of the command line, completed from --config and, when resuming, config.json */
    const char *label;              /* what the progress line starts with, "" for a single run */
    json_t *files[2];               /* --config and config.json; own strings of o */
    char *data, *also_path;         /* absolute paths or patterns of the texts; also_path NULL: no --also */
    qs_context *context;
    qs_text *text, *also;
    qs_text_info text_info, also_info;
    origin from;                    /* of --from */
    char copy[PATH_MAX];       /* --keep-base: of the model, where the run goes on */
    bool in_place;             /* --in-place */
    bool from_told;                 /* --from was given for this process, not by config.json */
    qs_model_config model;          /* resolved */
    qs_train_options settings;      /* resolved */
    qs_stream_options stream;       /* of a run in place */
    qs_trainer *trainer;
    run_folder folder;
    watch watch;
    char checkpoint[PATH_MAX];      /* newest good one, "" if none */
    int64_t first_step;             /* where this process began */
    int64_t saved_step;             /* of checkpoint, -1 if none */
    int64_t eval_every;             /* steps; 0: never */
    int64_t save_steps;             /* steps between checkpoints; 0: by save_seconds, or at the end only */
    double save_seconds, saved_at;  /* 0: not by time; clock of the newest checkpoint */
    int64_t val_tokens;             /* of the last validation */
    qs_bits bits;
    double started;                 /* clock */
    const char *stopped;            /* "steps", "time", "patience", "signal", "nonfinite" */
} training;

/* Prepares a run without touching its folder: options completed and checked, text open. label: as above.
 * 0 or an exit code after a message. t is to be closed in either case. */
int training_open(training *t, const options *o, const char *label);

/* Opens the run folder (resuming where asked for), takes the steps, saves, validates, writes RUN/result.json. Returns 0 also
 * when time, patience or a signal stopped it (t->stopped tells); else an exit code after a message (65 with stopped =
 * "nonfinite": the loss is not finite). */
int training_run(training *t);

void training_close(training *t);

/* The settings of the run as one object: what RUN/config.json holds (new reference). */
json_t *training_config(const training *t);

/* The result as one object: what --json prints and RUN/result.json holds (new reference). Speed and flips are those of the whole
 * run, also of processes before a resume; seconds and peak_rss_bytes are of this process, peak_bytes of this run in it. */
json_t *training_result(const training *t);

/* What is about to be trained, and what came of it, for people, on standard error. */
void training_tell_start(const training *t);
void training_tell_end(const training *t);

#endif
