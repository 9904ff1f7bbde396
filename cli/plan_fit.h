/* plan_fit.h - whether a run fits into the memory there is, and what would have to change so that it does. Used by plan and, before
 * anything is allocated, by train. */
#ifndef QSBITS_CLI_PLAN_FIT_H
#define QSBITS_CLI_PLAN_FIT_H

#include "common.h"

enum { EVALUATION_BATCH = 32 };   /* windows of a validation at a time, at most */

/* A run and its limits, bytes; 0: none. A twentieth of each limit is kept back. */
typedef struct plan_case {
    qs_model_config model;            /* resolved */
    qs_train_options training;
    bool in_place;
    qs_stream_options stream;         /* in place */
    uint64_t limit[QS_MEMORY_POOLS];
    uint64_t together;                /* of both pools, where they are the same memory */
    int64_t active_params;            /* as --active-params said; 0: not given */
    int64_t threads;                  /* of the device: each has scratch */
} plan_case;

typedef struct plan_verdict {
    qs_memory_plan memory;
    bool fits;
    qs_memory_pool pool;              /* where it does not, QS_MEMORY_POOLS: in both together */
    uint64_t needed, available;       /* there; available: without what is kept back */
} plan_verdict;

/* What may be changed, the first ones first. All up to MICRO_BATCH leave trained bytes alone. */
enum plan_knob {
    KNOB_RAM = 1,                     /* fewer blocks in RAM, where no budget decides it */
    KNOB_SLOTS = 2, KNOB_RECOMPUTE = 4, KNOB_MICRO_BATCH = 8, KNOB_BATCH = 16, KNOB_ACTIVE = 32,
    KNOBS_HARMLESS = KNOB_RAM | KNOB_SLOTS | KNOB_RECOMPUTE | KNOB_MICRO_BATCH,
    KNOBS = KNOBS_HARMLESS | KNOB_BATCH | KNOB_ACTIVE
};

/* Limits of --ram-budget and --device-budget, else of the machine; threads. */
void plan_set_limits(const options *o, const qs_context *context, plan_case *c);

/* What of a limit can be used. */
uint64_t plan_usable(uint64_t limit);

/* memory is that of qs_train_plan, of a validation, which runs beside it, and an upper estimate of the scratch of kernels (workspace).
 * Errors: as of qs_train_plan. */
qs_status plan_weigh(const plan_case *c, plan_verdict *out);

/* The case with the smallest change of `knobs` that fits: false where there is none; a case that fits stays as it is. */
bool plan_fit(const plan_case *c, unsigned knobs, plan_case *out);

/* Options that make one case the other, such as " --slots 2 --recompute"; "" where they are alike. */
enum { PLAN_TEXT = 192 };
char *plan_changes(const plan_case *from, const plan_case *to, char out[PLAN_TEXT]);

/* Most windows of a step that fit, 0: none; knobs: of KNOBS_HARMLESS. */
int64_t plan_most_windows(const plan_case *c, unsigned knobs);

#endif
