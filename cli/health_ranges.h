/* health_ranges.h - the healthy range of every figure of qs_health, and what to change when one leaves it. The ranges are
 * measured: docs/measurements.md, "Health". */
#ifndef QSBITS_CLI_HEALTH_RANGES_H
#define QSBITS_CLI_HEALTH_RANGES_H

#include "common.h"

/* Figures of qs_health; their names in metrics.jsonl and events. */
#define HEALTH_FIGURE_LIST(X) \
    X(density) X(pulses) X(flips) X(dead) X(oscillating) X(deepest) X(scale_drift) X(gradient_rms)

typedef enum health_figure {
#define HEALTH_ENUM(name) HEALTH_##name,
    HEALTH_FIGURE_LIST(HEALTH_ENUM)
#undef HEALTH_ENUM
    HEALTH_FIGURES
} health_figure;

const char *health_name(health_figure figure);
double health_value(const qs_health *health, health_figure figure);

typedef struct health_warning {
    health_figure figure;
    double value, least, most; /* of the figure itself, whatever the range follows from; least 0: no bound */
    char text[256];            /* "layer 3: 71% of weights were not pulsed in 100 steps (healthy: at most 55%); raise ..." */
} health_warning;

/* Where and when something was measured: the same figure means something else while the run is hot and beside others. */
typedef struct health_place {
    int64_t block;             /* < 0: all together */
    int64_t window;            /* steps */
    int64_t step, steps;       /* end of the window and length of the run, both in the own time of the part that is active */
    bool sticky;               /* the machine seldom leaves its deepest state (stickiness below 256) */
    const qs_health *all;      /* of all blocks in the same window */
} health_place;

/* Checks one block or all together. Fills warnings[0..count-1] and returns count, at most HEALTH_FIGURES: one per figure. */
int health_check(const qs_health *health, const health_place *place, health_warning warnings[HEALTH_FIGURES]);

#endif
