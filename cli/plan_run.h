/* plan_run.h - everything that qsbits plan tells: the run it chose and its figures. plan_run.c finds them, plan_text.c prints them,
 * plan_json.c makes an object of them. */
#ifndef QSBITS_CLI_PLAN_RUN_H
#define QSBITS_CLI_PLAN_RUN_H

#include "plan_model.h"
#include "plan_times.h"

/* Active weights, gradients and states of a number of weights at a state depth, bytes. */
typedef struct plan_depth {
    const char *name;
    double weights, gradients, states, together;
} plan_depth;
enum { PLAN_DEPTHS = 5 };

/* The round figures: only multiplications, for a number of weights and of active weights. */
typedef struct plan_figures {
    double weights, active;
    double adamw16, packed, base;       /* 12 bytes, 5 bits, 1 bit a weight */
    plan_depth depth[PLAN_DEPTHS];
    double once, step;                  /* bytes of 16-bit weights; that an offloaded step moves */
    double block;                       /* of a block of 1-bit weights */
} plan_figures;

typedef struct plan_run {
    const options *o;
    plan_model model;
    plan_case phased;                   /* in parts, in place */
    plan_case run;                      /* what is recommended: that, or all at once in memory */
    plan_counts counts;                 /* of phased */
    plan_verdict verdict;               /* of run */
    plan_parts parts;                   /* of run */
    plan_parts methods[PLAN_METHODS];
    const char *fits[PLAN_METHODS];     /* "yes", "offloaded", "no" */
    plan_figures shape, nominal;        /* nominal.weights 0: none */
    double slab, kept;                  /* bytes of a block, blocks that stay in RAM */
    double model_file, checkpoint;      /* bytes on disk */
    int64_t most_windows, most_ctx;     /* that fit; of the run's ctx, or one of a shorter one */
    double token_bytes;                 /* that one token more takes */
    plan_rates rates;
    plan_times times;
} plan_run;

/* 0 or an exit code after a message. */
int plan_run_make(const options *o, qs_context *context, plan_run *out);

/* The command lines, one after the other, in out; returns out. */
enum { PLAN_COMMANDS = 2048 };
char *plan_run_commands(const plan_run *p, char out[PLAN_COMMANDS]);

/* 0 or an exit code after a message. */
int plan_run_print(const plan_run *p);
json_t *plan_run_json(const plan_run *p);

#endif
