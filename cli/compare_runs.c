/* compare_runs.c - see compare_runs.h. */
#include "compare_runs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "settings.h"
#include "signals.h"
#include "training.h"

static const char NAME[] = "compare";
enum { LABEL = 160, NUMBER = 32, SEARCH_REACH = 6, SEARCH_RATES = 2 * SEARCH_REACH + 1 };

/* ---- one run --------------------------------------------------------------------------------------------------- */

/* The values of one run that are not those of the comparison; the texts live here while it goes on. */
typedef struct run_texts {
    char seed[NUMBER], lr[NUMBER], parts[NUMBER], sweeps[NUMBER], seconds[NUMBER], folder[PATH_MAX];
} run_texts;

static void fill_texts(const comparison *c, const arm *a, double lr, int64_t seed, run_texts *texts)
{
    char rate[NUMBER] = "";
    if (lr > 0.0)
        (void)snprintf(rate, sizeof rate, "-lr%g", lr);
    (void)snprintf(texts->folder, sizeof texts->folder, "%.*s/%s%s-%lld", PATH_MAX - ARM_NAME - 2 * NUMBER, c->folder.path,
                   a->folder, rate, (long long)seed);
    (void)snprintf(texts->seed, sizeof texts->seed, "%lld", (long long)seed);
    (void)snprintf(texts->lr, sizeof texts->lr, "%.17g", lr);
    (void)snprintf(texts->parts, sizeof texts->parts, "%d", a->parts);
    (void)snprintf(texts->sweeps, sizeof texts->sweeps, "%d", a->sweeps);
    (void)snprintf(texts->seconds, sizeof texts->seconds, "%.3f",
                   fmax(0.0, c->started + c->o.value[OPT_TIME_LIMIT].real - now_seconds()));
}

static bool set(options *o, option_id id, const char *text)
{
    return text == NULL || options_set(o, id, NAME, text);
}

/* Whether an option of the comparison is one for this arm as well: what only some optimizers have is for those arms. */
static bool concerns(option_id id, const comparison *c, const arm *a)
{
    const bool fsm = a->optimizer == QS_OPTIMIZER_FSM, chain = fsm && a->fsm != QS_FSM_C8 && a->recipe == QS_RECIPE_DEFAULT;
    const bool parts = a->parts > 1 || (a->parts == 0 && c->o.value[OPT_ACTIVE_PARTS].integer > 1);
    switch (id) {
    case OPT_CONFIG:
    case OPT_JSON: return false;
    case OPT_RANK: return a->optimizer == QS_OPTIMIZER_LORA;
    case OPT_ACTIVE_PARTS:
    case OPT_SWEEPS:
    case OPT_ACTIVE_BY:
    case OPT_ACTIVE_ORDER: return fsm && parts;
    case OPT_ANCHOR: return chain;
    default: return options_of(id, &train_command);
    }
}

/* Options as if `qsbits train` had been called for this run. */
static bool run_options(const comparison *c, const arm *a, const run_texts *texts, double lr, options *o)
{
    const bool fsm = a->optimizer == QS_OPTIMIZER_FSM;
    if (options_parse(o, &train_command, 0, NULL) != 0)
        return false;
    for (int i = 0; i < OPTIONS; i++)
        if (c->o.value[i].given && concerns((option_id)i, c, a))
            o->value[i] = c->o.value[i];
    return set(o, OPT_OPTIMIZER, options_choice_text(OPT_OPTIMIZER, a->optimizer)) &&
           set(o, OPT_FSM_STATE, fsm ? options_choice_text(OPT_FSM_STATE, a->fsm) : NULL) &&
           set(o, OPT_ACTIVE_PARTS, a->parts > 0 ? texts->parts : NULL) &&
           set(o, OPT_SWEEPS, a->sweeps > 0 ? texts->sweeps : NULL) &&
           set(o, OPT_FSM_RECIPE, fsm ? options_choice_text(OPT_FSM_RECIPE, a->recipe) : NULL) &&
           set(o, OPT_PRECISION, qs_precision_name(a->precision)) &&
           set(o, OPT_DATA, c->data) && set(o, OPT_SEED, texts->seed) && set(o, OPT_LR, lr > 0.0 ? texts->lr : NULL) &&
           set(o, OPT_OUT, texts->folder) && set(o, OPT_RESUME, "true") &&
           set(o, OPT_TIME_LIMIT, c->o.value[OPT_TIME_LIMIT].given ? texts->seconds : NULL);
}

/* RUN/result.json of a run that came to its end, NULL else. */
static json_t *finished_result(const char *folder)
{
    static const char *const ends[] = {"steps", "patience", "nonfinite"};
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/result.json", folder) >= PATH_MAX)
        return NULL;
    json_t *result = json_load_file(path, 0, NULL);
    const char *stopped = json_string_value(json_object_get(result, "stopped"));
    for (size_t i = 0; stopped != NULL && i < sizeof ends / sizeof ends[0]; i++)
        if (strcmp(stopped, ends[i]) == 0)
            return result;
    json_decref(result);
    return NULL;
}

static double time_left(const comparison *c)
{
    double all = 0.0, left = 0.0;
    int runs = 0, ahead = c->planned - c->done;
    for (int i = 0; i < c->count; i++) {
        all += c->arm_seconds[i];
        runs += c->arm_runs[i];
    }
    for (int i = 0; i < c->count && !c->o.value[OPT_SEARCH_LR].given; i++) {
        for (int64_t seed = 0; seed < c->seeds && c->arm_runs[i] > 0; seed++) {
            if (c->results[i * c->seeds + seed] == NULL) {
                left += c->arm_seconds[i] / c->arm_runs[i];
                ahead--;
            }
        }
    }
    return runs == 0 || c->planned == c->done ? NAN : left + ahead * all / runs;
}

static void tell(const comparison *c, const char *label, const json_t *result)
{
    char left[64] = "", clock[24];
    const double seconds = time_left(c);
    const json_t *loss = json_object_get(result, "val_loss");
    if (isfinite(seconds))
        (void)snprintf(left, sizeof left, "; about %s left for the others", human_time(seconds, clock));
    if (json_is_number(loss))
        fprintf(stderr, "%s  validation %.4f%s\n", label, json_number_value(loss), left);
    else
        fprintf(stderr, "%s  no finite loss%s\n", label, left);
}

static int train(comparison *c, int index, const options *o, const char *label, json_t **result)
{
    training *t = calloc(1, sizeof *t);
    if (t == NULL)
        return fail_with(71, NAME, "no memory; close other programs");
    int code = training_open(t, o, label);
    if (code == 0)
        code = training_run(t);
    if (code == 0 && strcmp(t->stopped, "signal") == 0)
        code = 128 + signals_caught();
    else if (code == 0 && strcmp(t->stopped, "time") == 0)
        code = EXIT_STOPPED;
    else if (code == 0 || strcmp(t->stopped, "nonfinite") == 0) {
        *result = training_result(t);
        c->arm_seconds[index] += now_seconds() - t->started;
        c->arm_runs[index]++;
        code = 0;
    }
    training_close(t);
    free(t);
    return code;
}

int compare_run(comparison *c, int index, double lr, int64_t seed, json_t **result)
{
    options o;
    run_texts texts;
    char label[LABEL], rate[NUMBER] = "";
    const arm *a = &c->arms[index];
    fill_texts(c, a, lr, seed, &texts);
    if (lr > 0.0 && a->lr <= 0.0)
        (void)snprintf(rate, sizeof rate, " lr %g", lr);
    (void)snprintf(label, sizeof label, "[%d/%d] %s%s seed %lld", c->done + 1, c->planned, a->name, rate, (long long)seed);
    if (!run_options(c, a, &texts, lr, &o))
        return EXIT_INTERNAL;
    *result = finished_result(texts.folder);
    const int code = *result != NULL ? 0 : train(c, index, &o, label, result);
    if (code != 0)
        return code;
    (void)json_object_set_new(*result, "folder", json_string(strrchr(texts.folder, '/') + 1));
    c->done++;
    tell(c, label, *result);
    return 0;
}

/* ---- search ---------------------------------------------------------------------------------------------------- */

/* Rates center * 2^-SEARCH_REACH .. center * 2^SEARCH_REACH and what they gave. */
typedef struct search {
    double center;
    int tried;
    json_t *results[SEARCH_RATES];   /* NULL: not tried */
} search;

static double rate_of(const search *s, int index)
{
    return ldexp(s->center, index - SEARCH_REACH);
}

/* A loss that is not finite is worse than any other. */
static double loss_of(const json_t *result)
{
    const json_t *loss = json_object_get(result, "val_loss");
    return json_is_number(loss) ? json_number_value(loss) : INFINITY;
}

static int best_of(const search *s)
{
    int best = SEARCH_REACH;
    for (int i = 0; i < SEARCH_RATES; i++)
        if (s->results[i] != NULL && loss_of(s->results[i]) < loss_of(s->results[best]))
            best = i;
    return best;
}

static int try_rate(comparison *c, int index, search *s, int rate)
{
    if (rate < 0 || rate >= SEARCH_RATES || s->results[rate] != NULL)
        return 0;
    c->planned += ++s->tried > SEARCH_LEAST;
    return compare_run(c, index, rate_of(s, rate), 1, &s->results[rate]);
}

/* Tries neighbours of the best rate until both are known. */
static int walk(comparison *c, int index, search *s)
{
    int code = try_rate(c, index, s, SEARCH_REACH);
    while (code == 0) {
        const int best = best_of(s);
        if (best == 0 || best == SEARCH_RATES - 1 || !isfinite(loss_of(s->results[best])))
            return fail_with(EXIT_DATA, NAME,
                             "the best rate found for %s is %g, at the edge of the rates tried; set one with --arms %s@RATE",
                             c->arms[index].name, rate_of(s, best), c->arms[index].name);
        if (s->results[best - 1] != NULL && s->results[best + 1] != NULL)
            return 0;
        code = try_rate(c, index, s, best - 1);
        if (code == 0)
            code = try_rate(c, index, s, best + 1);
    }
    return code;
}

int compare_default_rate(const comparison *c, int index, double *rate)
{
    const arm *a = &c->arms[index];
    options o;
    run_texts texts;
    qs_model_config model;
    qs_train_options settings;
    fill_texts(c, a, 0.0, 1, &texts);
    if (!run_options(c, a, &texts, 0.0, &o))
        return EXIT_INTERNAL;
    const int code = origin_model(&o, &c->from, &model);
    if (code != 0)
        return code;
    settings_training(&o, &model, &settings);
    const qs_status status = qs_train_options_resolve(&settings, &model);
    *rate = settings.lr;
    return status == QS_OK ? 0 : fail_library(NAME, status, NULL);
}

int compare_search(comparison *c, int index, json_t **tried)
{
    search s = {.tried = 0};
    arm *a = &c->arms[index];
    int code = compare_default_rate(c, index, &s.center);
    if (code == 0)
        code = walk(c, index, &s);
    *tried = json_array();
    for (int i = 0; i < SEARCH_RATES; i++)
        if (s.results[i] != NULL)
            (void)json_array_append_new(*tried, json_pack("{s:f, s:o}", "lr", rate_of(&s, i), "val_loss",
                                                          json_number(loss_of(s.results[i]))));
    if (code == 0) {
        const int best = best_of(&s);
        a->lr = rate_of(&s, best);
        c->results[index * c->seeds] = json_incref(s.results[best]);
    }
    for (int i = 0; i < SEARCH_RATES; i++)
        json_decref(s.results[i]);
    return code;
}
