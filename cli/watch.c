/* watch.c - see watch.h. Metrics and events say the same at the same steps: a scalar of the event file is the float of a
 * number in metrics.jsonl. */
#include "watch.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 64, SAID_MOST = 4, QUIET_WINDOWS = 10 };

/* A message about a file belongs below the progress line, not into it. */
static int told(watch *w, bool written, const char *kind, const char *path)
{
    const int error = errno;
    if (written)
        return 0;
    watch_end(w);
    return fail_with(EXIT_IO, "train", "cannot write %s %s (%s); free space on the disk, then use --resume", kind, path,
                     strerror(error));
}

static int told_metrics(watch *w, bool written)
{
    return told(w, written, "the file", w->metrics_path);
}

static int told_events(watch *w, bool written)
{
    return told(w, written, "an event file in", w->folder);
}

/* ---- opening and closing --------------------------------------------------------------------------------------- */

int watch_open(watch *w, const watch_setup *setup)
{
    memset(w, 0, sizeof *w);
    w->metrics_path = setup->metrics_path;
    w->folder = setup->folder;
    w->log_every = setup->log_every;
    w->tokens_per_step = (double)setup->tokens_per_step;
    w->layers = setup->layers;
    w->fsm = setup->fsm;
    progress_start(&w->progress, setup->label, setup->first_step, setup->steps, setup->tokens_per_step, setup->fsm,
                   setup->time_limit);
    w->health = calloc((size_t)w->layers + 1, sizeof *w->health);
    w->quiet = calloc((size_t)w->layers + 1, HEALTH_FIGURES);
    if (w->health == NULL || w->quiet == NULL)
        return fail_with(qs_status_exit_code(QS_ERR_NOMEM), "train",
                         "no memory for the health of %lld blocks; use a smaller model", (long long)w->layers);
    int code = metrics_open(&w->metrics, setup->metrics_path, setup->saved_step, &w->history);
    if (code == 0 && setup->events)
        code = events_open(&w->events, setup->folder, setup->saved_step);
    progress_validation(&w->progress, w->history.val_last);
    return code;
}

void watch_end(watch *w)
{
    if (w->progress.label != NULL)
        progress_end(&w->progress);
}

void watch_close(watch *w)
{
    watch_end(w);
    metrics_close(&w->metrics);
    events_close(&w->events);
    free(w->health);
    free(w->quiet);
    memset(w, 0, sizeof *w);
}

/* ---- steps and validations ------------------------------------------------------------------------------------- */

static int tell_steps(watch *w)
{
    static const char *const names[] = {"loss/train", "rate/lr", "speed/tokens_per_second", "flips/step", "pulses/measured",
                                        "pulses/wanted"};
    const double n = (double)w->since_steps;
    const double speed = w->since_seconds > 0.0 ? n * w->tokens_per_step / w->since_seconds : NAN;
    qs_step_info mean = w->since;
    mean.loss /= n;
    mean.pulses /= n;
    mean.flips /= n;
    const double values[] = {mean.loss, mean.lr, speed, mean.flips, mean.pulses, mean.density};
    w->since = (qs_step_info){.step = mean.step};
    w->since_steps = 0;
    w->since_seconds = 0.0;
    const int count = !w->fsm ? 4 : mean.density > 0.0 ? 6 : 5;  /* c8 has pulses but wants no share of them */
    const int code = told_metrics(w, metrics_step(&w->metrics, &mean, speed));
    return code != 0 ? code : told_events(w, events_write(&w->events, mean.step, count, names, values));
}

int watch_step(watch *w, const qs_step_info *info, double seconds)
{
    const qs_step_info before = w->since;
    w->since = *info;
    w->since.loss += before.loss;
    w->since.pulses += before.pulses;
    w->since.flips += before.flips;
    w->since_seconds += seconds;
    w->since_steps++;
    history_add(&w->history, info->loss, info->flips, 1);
    w->history.seconds += seconds;
    progress_step(&w->progress, info, seconds);
    return w->log_every > 0 && info->step % w->log_every == 0 ? tell_steps(w) : 0;
}

int watch_save(watch *w)
{
    return w->since_steps > 0 ? tell_steps(w) : 0;
}

int watch_validation(watch *w, int64_t step, double val_loss, int64_t val_tokens, bool final)
{
    static const char *const name = "loss/validation";
    const bool again = w->history.val_step == step;  /* on the way and final: one point is enough in a plot */
    history_validation(&w->history, step, val_loss, final);
    progress_validation(&w->progress, val_loss);
    progress_say(&w->progress, "step %lld  %svalidation loss %.4f", (long long)step, final && step > 0 ? "final " : "", val_loss);
    const int code = told_metrics(w, metrics_validation(&w->metrics, step, val_loss, val_tokens, final));
    return code != 0 || again ? code : told_events(w, events_write(&w->events, step, 1, &name, &val_loss));
}

int watch_also(watch *w, int64_t step, double loss, int64_t tokens)
{
    static const char *const name = "loss/also";
    const bool again = w->history.also_step == step;  /* as above */
    history_also(&w->history, step, loss, tokens);
    progress_say(&w->progress, "step %lld  loss %.4f on the text of --also", (long long)step, loss);
    const int code = told_metrics(w, metrics_also(&w->metrics, step, loss, tokens));
    return code != 0 || again ? code : told_events(w, events_write(&w->events, step, 1, &name, &loss));
}

int watch_test(watch *w, int64_t step, double loss, int64_t tokens)
{
    static const char *const name = "loss/test";
    history_test(&w->history, step, loss, tokens);
    progress_say(&w->progress, "step %lld  test loss %.4f", (long long)step, loss);
    const int code = told_metrics(w, metrics_test(&w->metrics, step, loss, tokens));
    return code != 0 ? code : told_events(w, events_write(&w->events, step, 1, &name, &loss));
}

/* ---- health ---------------------------------------------------------------------------------------------------- */

static const qs_health no_figures = {
#define NO_FIGURE(name) .name = NAN,
    .step = 0, HEALTH_FIGURE_LIST(NO_FIGURE)
#undef NO_FIGURE
};

/* A block of which nothing is active has no pulses to judge. */
static bool rests(const watch *w, int64_t block) { return w->fsm && isnan(w->health[1 + block].pulses); }

static int tell_memory(watch *w, int64_t step, const uint64_t memory[QS_MEMORY_TAGS + 1])
{
    char names[QS_MEMORY_TAGS + 1][NAME_BYTES];
    const char *list[QS_MEMORY_TAGS + 1];
    double values[QS_MEMORY_TAGS + 1];
    for (int i = 0; i <= QS_MEMORY_TAGS; i++) {
        const char *name = i == QS_MEMORY_TAGS ? "rss" : qs_memory_tag_name((qs_memory_tag)i);
        (void)snprintf(names[i], NAME_BYTES, "memory/%s", name);
        list[i] = names[i];
        values[i] = (double)memory[i];
    }
    return told_events(w, events_write(&w->events, step, QS_MEMORY_TAGS + 1, list, values));
}

static int tell_figures(watch *w, int64_t step, int64_t block)
{
    char names[HEALTH_FIGURES][NAME_BYTES];
    const char *list[HEALTH_FIGURES];
    double values[HEALTH_FIGURES];
    for (int i = 0; i < HEALTH_FIGURES; i++) {
        const char *name = health_name((health_figure)i);
        if (block < 0)
            (void)snprintf(names[i], NAME_BYTES, "health/%s", name);
        else
            (void)snprintf(names[i], NAME_BYTES, "health_layers/%s/%02lld", name, (long long)block);
        list[i] = names[i];
        values[i] = health_value(&w->health[1 + block], (health_figure)i);
    }
    return told_events(w, events_write(&w->events, step, HEALTH_FIGURES, list, values));
}

/* Warnings of one block or of all. A figure that comes and goes is told once: it must have been healthy for a while. What
 * holds for all together is not told again for every block. */
static int warn_about(watch *w, const health_place *place, uint8_t *of_all, int *standing, int *said)
{
    const int64_t step = w->health[0].step;
    health_warning warnings[HEALTH_FIGURES];
    uint8_t *quiet = &w->quiet[(1 + place->block) * HEALTH_FIGURES];
    const int count = health_check(&w->health[1 + place->block], place, warnings);
    int code = 0;
    for (int i = 0; i < HEALTH_FIGURES; i++)
        quiet[i] -= quiet[i] > 0;
    for (int i = 0; i < count && code == 0; i++) {
        const health_figure figure = warnings[i].figure;
        if (place->block >= 0 && of_all[figure] == QUIET_WINDOWS)
            continue;
        ++*standing;
        const bool known = quiet[figure] > 0;
        quiet[figure] = QUIET_WINDOWS;
        if (known)
            continue;
        if (++*said <= SAID_MOST)
            progress_say(&w->progress, "warning: step %lld, %s", (long long)step, warnings[i].text);
        code = told_metrics(w, metrics_warning(&w->metrics, step, place->block, &warnings[i]));
    }
    return code;
}

/* phase: of the window's last step. */
static int warn_all(watch *w, const qs_train_options *settings, const qs_phase *phase, int64_t step)
{
    int standing = 0, said = 0, code = 0;
    for (int64_t block = -1; block < w->layers && code == 0; block++) {
        const health_place place = {.block = block, .window = settings->health_window,
                                    .step = phase->index / phase->parts * phase->steps + step - phase->first,
                                    .steps = phase->phases / phase->parts * phase->steps, .sticky = settings->sticky < 256,
                                    .all = &w->health[0]};
        if (!rests(w, block))
            code = warn_about(w, &place, w->quiet, &standing, &said);
    }
    if (said > SAID_MOST)
        progress_say(&w->progress, "warning: step %lld, %d more in %s", (long long)step, said - SAID_MOST, w->metrics_path);
    progress_health(&w->progress, standing, w->health[0].dead);
    return code;
}

/* Figures of the window that ends at step; none where another phase began in it, or the run went on with another window. */
static qs_status read_health(watch *w, const qs_trainer *trainer, int64_t step)
{
    qs_status status = QS_OK;
    for (int64_t block = -1; block < w->layers && status == QS_OK; block++) {
        qs_health *health = &w->health[1 + block];
        status = qs_trainer_health(trainer, block, health);
        if (health->step != step)
            *health = no_figures;
    }
    return status;
}

int watch_health(watch *w, const qs_context *context, qs_trainer *trainer, int64_t step)
{
    uint64_t memory[QS_MEMORY_TAGS + 1];
    qs_phase phase;
    const qs_train_options *settings = qs_trainer_options(trainer);
    const qs_status status = read_health(w, trainer, step);
    if (status != QS_OK) {
        watch_end(w);
        return fail_library("train", status, NULL);
    }
    qs_train_phase(qs_model_get_config(qs_trainer_model(trainer)), settings, step - 1, &phase);
    for (int i = 0; i < QS_MEMORY_TAGS; i++) {
        qs_memory_usage usage;
        qs_memory(context, (qs_memory_tag)i, &usage);
        memory[i] = usage.current_bytes;
    }
    memory[QS_MEMORY_TAGS] = qs_peak_rss();
    int code = told_metrics(w, metrics_health(&w->metrics, step, settings->health_window, &w->health[0], &w->health[1],
                                              w->layers, memory));
    if (code == 0)
        code = tell_memory(w, step, memory);
    for (int64_t block = -1; block < w->layers && code == 0; block++)
        code = tell_figures(w, step, block);
    return code == 0 ? warn_all(w, settings, &phase, step) : code;
}
