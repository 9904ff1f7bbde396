/* health_ranges.c - see health_ranges.h. One table says what is healthy when, compared with what, and what to change. A bound
 * is a factor times a reference plus a slack, so that a figure is compared with what its schedule makes likely. */
#include "health_ranges.h"

#include <math.h>

enum { LEAST_WINDOW = 20 };  /* steps below which a window says little */
static const double LEAST_DENSITY = 0.0125, COLD_FROM = 0.85, SLACK_WINDOW = 100.0;

static const char *const NAMES[HEALTH_FIGURES] = {
#define HEALTH_NAME(name) #name,
    HEALTH_FIGURE_LIST(HEALTH_NAME)
#undef HEALTH_NAME
};

const char *health_name(health_figure figure) { return NAMES[figure]; }

double health_value(const qs_health *health, health_figure figure)
{
    const double values[HEALTH_FIGURES] = {
#define HEALTH_VALUE(name) health->name,
        HEALTH_FIGURE_LIST(HEALTH_VALUE)
#undef HEALTH_VALUE
    };
    return values[figure];
}

/* ---- references ------------------------------------------------------------------------------------------------- */

/* Steps of the window that could pulse: the first of a run only measures. */
static double pulsing_steps(const health_place *place)
{
    return (double)(place->window - (place->step <= place->window));
}

static double one(const qs_health *health, const health_place *place)
{
    (void)health;
    (void)place;
    return 1.0;
}

static double wanted_pulses(const qs_health *health, const health_place *place)
{
    return health->density * pulsing_steps(place) / (double)place->window;
}

/* Share of weights that chance alone leaves without a pulse at density d: (1 - d)^n, were all weights alike and n steps
 * independent. Neither holds, so half the steps count; and a density below LEAST_DENSITY excuses no weights that rest. */
static double left_by_chance(const qs_health *health, const health_place *place)
{
    const double density = isnan(health->density) ? health->pulses : health->density;  /* c8 wants no share of pulses */
    return pow(1.0 - fmax(density, LEAST_DENSITY), 0.5 * pulsing_steps(place));
}

/* Flips per weight in the window. */
static double flips_per_weight(const qs_health *health, const health_place *place)
{
    return health->flips * (double)place->window;
}

/* Where no sign can flip (frozen) the scales do what flips do elsewhere, and go further. */
static double freedom_of_scales(const qs_health *health, const health_place *place)
{
    (void)place;
    return isnan(health->flips) ? 4.0 : 1.0;
}

static double of_all_blocks(const qs_health *health, const health_place *place)
{
    (void)health;
    return place->all->gradient_rms;
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

typedef enum scope { BOTH, TOGETHER, EACH } scope;  /* all together and each block, all together only, each block only */
typedef enum phase { ALWAYS, HOT, COLD } phase;     /* by the middle of the window: before or behind COLD_FROM of the run */
typedef enum machine { ANY, FREE, STICKY } machine; /* stickiness off or on, which guards the deepest state */

typedef struct range {
    health_figure figure;
    scope scope;
    phase phase;
    machine machine;
    double (*reference)(const qs_health *health, const health_place *place);
    double least, most;        /* factors of the reference; 0 and infinity: no bound */
    double slack;              /* on both sides, for SLACK_WINDOW steps; more in shorter windows: what rests does so for a while */
    const char *low, *high;    /* what to change */
} range;

/* What healthy and sick runs show: docs/measurements.md, "Health". Each figure has one row at most for a place. */
static const range RANGES[] = {
    /* wanted at the end: above, weights never settle; below, the last steps move nothing */
    {HEALTH_density, TOGETHER, COLD, ANY, one, 0.003, 0.15, 0.0, "raise --density-end", "lower --density-end"},
    {HEALTH_pulses, BOTH, ALWAYS, ANY, wanted_pulses, 0.6, 2.0, 0.0,
     "gradients change faster than the threshold follows: lower --lr or --scale-lr", "lower --lr or --scale-lr"},
    {HEALTH_flips, BOTH, HOT, ANY, one, 1e-6, 0.1, 0.0, "nothing is learned: raise --density-start or lower --lr",
     "lower --density-start or take a machine of more levels (--fsm-state)"},
    {HEALTH_flips, BOTH, COLD, ANY, one, 0.0, 0.01, 0.0, "", "weights do not settle: lower --density-end"},
    {HEALTH_dead, BOTH, HOT, ANY, left_by_chance, 0.0, 1.0, 0.02, "",
     "no gradient or too few pulses: lower --lr and --scale-lr, raise --density-start, take --fsm-recipe default"},
    {HEALTH_dead, BOTH, COLD, ANY, left_by_chance, 0.0, 1.0, 0.02, "", "raise --density-end, or lower --lr and --scale-lr"},
    {HEALTH_oscillating, BOTH, ALWAYS, ANY, flips_per_weight, 0.0, 0.18, 0.01, "",
     "the same weights flip to and fro: use a larger --batch or take a machine of more levels (--fsm-state)"},
    {HEALTH_deepest, BOTH, ALWAYS, FREE, one, 0.0, 0.5, 0.0, "", "weights are stuck: lower --lr or raise --density-end"},
    {HEALTH_deepest, BOTH, ALWAYS, STICKY, one, 0.0, 0.985, 0.0, "",
     "weights are stuck: take a machine of more levels (--fsm-state)"},
    {HEALTH_scale_drift, BOTH, ALWAYS, ANY, freedom_of_scales, 0.0, 2.0, 0.0, "", "lower --scale-lr or --lr"},
    {HEALTH_gradient_rms, TOGETHER, ALWAYS, ANY, one, 1e-15, 1.0, 0.0, "no gradient arrives: lower --lr, look at the text",
     "lower --lr and --scale-lr"},
    {HEALTH_gradient_rms, EACH, ALWAYS, ANY, of_all_blocks, 0.01, 20.0, 0.0,
     "hardly a gradient arrives here: lower --lr and --scale-lr", "lower --lr and --scale-lr"},
};

/* What stands behind a value, and whether it is shown as a percentage. */
static const struct { bool percent, window; const char *what; } TOLD[HEALTH_FIGURES] = {
    [HEALTH_density] = {true, false, "of the weights are to be pulsed per step"},
    [HEALTH_pulses] = {true, false, "of the weights were pulsed per step"},
    [HEALTH_flips] = {true, false, "of the weights flipped per step"},
    [HEALTH_dead] = {true, true, "of the weights were not pulsed"},
    [HEALTH_oscillating] = {true, true, "of the weights flipped more than 3 times"},
    [HEALTH_deepest] = {true, false, "of the weights are in their deepest state"},
    [HEALTH_scale_drift] = {true, false, "away from their start are the row scales"},
    [HEALTH_gradient_rms] = {false, false, "is the gradient per weight"},
};

/* ---- checking --------------------------------------------------------------------------------------------------- */

static void show(char out[32], double value, bool percent)
{
    if (percent && fabs(value) >= 1.0)
        (void)snprintf(out, 32, "%.0f%%", 100.0 * value);
    else
        (void)snprintf(out, 32, "%.3g%s", percent ? 100.0 * value : value, percent ? "%" : "");
}

static void tell(health_warning *warning, const range *row, const health_place *place)
{
    char value[32], bound[32], where[40] = "all layers", window[40] = "";
    const bool percent = TOLD[row->figure].percent, high = !(warning->value < warning->least);
    show(value, warning->value, percent);
    show(bound, high ? warning->most : warning->least, percent);
    if (place->block >= 0)
        (void)snprintf(where, sizeof where, "layer %lld", (long long)place->block);
    if (TOLD[row->figure].window)
        (void)snprintf(window, sizeof window, " in %lld steps", (long long)place->window);
    (void)snprintf(warning->text, sizeof warning->text, "%s: %s %s%s (healthy: %s %s); %s", where, value,
                   TOLD[row->figure].what, window, high ? "at most" : "at least", bound, high ? row->high : row->low);
}

static bool holds(const range *row, const health_place *place)
{
    const double middle = (double)place->step - 0.5 * (double)place->window;
    const phase now = middle < COLD_FROM * (double)place->steps ? HOT : COLD;
    return (row->scope == BOTH || (row->scope == TOGETHER) == (place->block < 0)) &&
           (row->phase == ALWAYS || row->phase == now) && (row->machine == ANY || (row->machine == STICKY) == place->sticky);
}

int health_check(const qs_health *health, const health_place *place, health_warning warnings[HEALTH_FIGURES])
{
    int count = 0;
    if (health->step <= 0 || place->window < LEAST_WINDOW)
        return 0;
    for (size_t i = 0; i < sizeof RANGES / sizeof RANGES[0]; i++) {
        const range *row = &RANGES[i];
        if (!holds(row, place))
            continue;
        const double value = health_value(health, row->figure), reference = row->reference(health, place);
        const double slack = row->slack * pow(SLACK_WINDOW / (double)place->window, 1.5);
        const double least = row->least * reference - slack, most = row->most * reference + slack;
        const bool broken = isnan(value) && row->figure == HEALTH_gradient_rms;  /* every arm has this one */
        if (!(value < least) && !(value > most) && !broken)
            continue;
        warnings[count] = (health_warning){.figure = row->figure, .value = value, .least = fmax(least, 0.0), .most = most};
        tell(&warnings[count++], row, place);
    }
    return count;
}
