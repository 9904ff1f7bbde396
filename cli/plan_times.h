/* plan_times.h - how long a planned run takes: operations and bytes of a step from the shape, rates given or measured in about a
 * second. It is an estimate: products at the rate of one large one, transfers at the rate of large ones, blocks one after the other. */
#ifndef QSBITS_CLI_PLAN_TIMES_H
#define QSBITS_CLI_PLAN_TIMES_H

#include "plan_methods.h"

/* id, key, unit, title */
#define PLAN_RATE_LIST(X) \
    X(DISK,    "disk",    "B/s",  "disk to RAM") \
    X(LINK,    "link",    "B/s",  "RAM to device") \
    X(MEMORY,  "memory",  "B/s",  "reading memory") \
    X(FORWARD, "forward", "op/s", "products forward") \
    X(INPUT,   "input",   "op/s", "gradients of inputs") \
    X(VISIT,   "visit",   "op/s", "gradients of weights and their rule")

typedef enum plan_rate {
#define PLAN_RATE_ENUM(id, key, unit, title) PLAN_RATE_##id,
    PLAN_RATE_LIST(PLAN_RATE_ENUM)
#undef PLAN_RATE_ENUM
    PLAN_RATES
} plan_rate;

typedef struct plan_rates {
    double per_second[PLAN_RATES];   /* NaN: neither given nor measured */
    bool given[PLAN_RATES];
} plan_rates;

/* Bytes of a second of PCIe 4.0 x16: of its lanes, and what their coding (128 of 130 bits) leaves. */
extern const double PLAN_PCIE4_RAW, PLAN_PCIE4;

/* Rates of options, the others measured on the context; file: of the model, "" if there is none. Errors: as of the library. */
qs_status plan_rates_of(const options *o, qs_context *context, const plan_case *c, const char *file, plan_rates *out);

/* Means over the phases of a sweep; NaN where a rate is missing. Seconds. */
typedef struct plan_times {
    double operations;               /* of a step */
    double compute;                  /* of a step: products, attention, head, optimizer of floats */
    double copied, read;             /* bytes to the device and from disk, in a step */
    double transfer;                 /* of a step: the slower one of both */
    double hidden;                   /* share of transfer behind compute; NaN where nothing is transferred */
    double step;
    double merge;                    /* of a phase: writing its blocks into the file */
    double phase_steps, phase, sweep, run;
    double phases_of_sweep, sweeps;
    double pulses;                   /* that a weight gets in a phase, at the mean density */
} plan_times;

/* kept: blocks that stay in RAM. Settings of c are resolved. */
plan_times plan_times_of(const plan_case *c, const plan_counts *counts, const plan_rates *rates, double slab, double kept);

#endif
