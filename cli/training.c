/* training.c - see training.h. */
#include "training.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base_copy.h"
#include "plan_check.h"
#include "plan_fit.h"
#include "settings.h"
#include "signals.h"
#include "training_texts.h"

static const char NAME[] = "train";
static const char OUT_OF_SPACE[] = "see to free space and permissions; no step is lost, go on with --resume";
enum { SHARE_OF_RUN = 10, LEAST_INTERVAL = 20, SECONDS_PER_MINUTE = 60 };

/* ---- preparing ------------------------------------------------------------------------------------------------- */

/* A run that goes on finds its copy where the run is now. */
static int find_base(training *t)
{
    char copy[PATH_MAX];
    if (t->files[1] == NULL || t->o.value[OPT_KEEP_BASE].integer == 0)
        return 0;
    if (snprintf(copy, sizeof copy, "%s/model", t->folder.path) >= PATH_MAX || realpath(copy, t->copy) == NULL)
        return fail_with(66, NAME, "the model of this run, %s, is not there (%s); put it back", copy, strerror(errno));
    return options_set(&t->o, OPT_FROM, "--from", t->copy) ? 0 : EXIT_INTERNAL;
}

static int complete_options(training *t, const options *o)
{
    int code = 0;
    t->o = *o;
    if (o->value[OPT_CONFIG].given)
        code = settings_read(&t->o, o->value[OPT_CONFIG].text, &t->files[0]);
    if (code == 0 && !o->value[OPT_OUT].given && !o->value[OPT_DRY_RUN].given)
        code = fail_usage(NAME, "--out is missing; name a run folder, such as --out run1");
    if (code == 0 && o->value[OPT_OUT].given)
        code = run_folder_init(&t->folder, t->o.value[OPT_OUT].text);
    if (code == 0 && o->value[OPT_OUT].given)
        code = run_folder_check(&t->folder, o->value[OPT_RESUME].given);
    if (code == 0 && o->value[OPT_RESUME].given)
        code = run_folder_read_config(&t->folder, &t->files[1]);
    t->from_told = t->o.value[OPT_FROM].given;
    if (code == 0 && t->files[1] != NULL)
        code = settings_merge(&t->o, t->files[1], t->folder.config);
    t->in_place = t->o.value[OPT_IN_PLACE].integer != 0;
    if (code == 0)
        code = find_base(t);
    if (code == 0 && !t->o.value[OPT_DATA].given)
        code = fail_usage(NAME, "--data is missing; name a text file, a folder of texts or a quoted pattern");
    return code;
}

static int64_t automatic_interval(const training *t)
{
    const int64_t share = t->settings.steps / SHARE_OF_RUN;
    return share > LEAST_INTERVAL ? share : LEAST_INTERVAL;
}

/* "500" is steps, "30m" minutes. */
static int read_save_every(training *t)
{
    const option_value *v = &t->o.value[OPT_SAVE_EVERY];
    char *end = NULL;
    t->save_steps = automatic_interval(t);
    if (!v->given)
        return 0;
    const double value = strtod(v->text, &end);
    const bool minutes = end != v->text && strcmp(end, "m") == 0;
    if (end == v->text || !(value >= 0.0 && value <= 2147483648.0) || (*end != '\0' && !minutes) ||
        (!minutes && value != floor(value)) || (minutes && value == 0.0))
        return fail_usage(NAME, "--save-every '%s' is neither steps nor minutes; write --save-every 500 or --save-every 30m",
                          v->text);
    t->save_steps = minutes ? 0 : (int64_t)value;
    t->save_seconds = minutes ? value * SECONDS_PER_MINUTE : 0.0;
    return 0;
}

static int open_origin(training *t)
{
    const bool begun = t->files[1] != NULL && run_folder_begun(&t->folder);
    int code = origin_open(&t->o, t->context, t->files[1], begun, t->from_told, &t->from);
    if (code == 0)
        code = origin_check_optimizer(NAME, &t->from, "--optimizer", (qs_optimizer)t->o.value[OPT_OPTIMIZER].integer);
    return code;
}

static int read_settings(training *t)
{
    int code = open_origin(t);
    if (code == 0)
        code = settings_check_use(&t->o);
    if (code == 0)
        code = origin_model(&t->o, &t->from, &t->model);
    if (code != 0)
        return code;
    settings_training(&t->o, &t->model, &t->settings);
    if (t->in_place)
        t->settings.health_window = 0;   /* a record of all rows would not fit where the rows do not */
    const qs_status status = qs_train_options_resolve(&t->settings, &t->model);
    if (status != QS_OK)
        return fail_library(NAME, status, NULL);
    t->eval_every = t->o.value[OPT_EVAL_EVERY].given ? t->o.value[OPT_EVAL_EVERY].integer : automatic_interval(t);
    if (t->eval_every == 0 && (t->o.value[OPT_KEEP_BEST].given || t->o.value[OPT_PATIENCE].integer > 0))
        return fail_usage(NAME, "--%s needs validations on the way, and --eval-every is 0; leave one of them away",
                          t->o.value[OPT_KEEP_BEST].given ? "keep-best" : "patience");
    return read_save_every(t);
}

int training_open(training *t, const options *o, const char *label)
{
    memset(t, 0, sizeof *t);
    t->label = label;
    t->started = now_seconds();
    t->saved_step = -1;
    t->folder.lock = -1;
    t->stopped = "steps";
    int code = complete_options(t, o);
    if (code == 0)
        code = open_context(&t->o, &t->context);
    if (code == 0)
        code = read_settings(t);
    if (code == 0)
        code = training_open_texts(t);
    return code;
}

static int64_t evaluation_batch(const training *t)
{
    return t->settings.micro_batch < EVALUATION_BATCH ? t->settings.micro_batch : EVALUATION_BATCH;
}

/* Mean loss over the first windows (0: all) of the validation part of a text. */
static qs_status evaluate(const training *t, qs_text *text, int64_t windows, double *loss, int64_t *tokens)
{
    return qs_model_evaluate(qs_trainer_model(t->trainer), text, windows, evaluation_batch(t), loss, tokens);
}

static qs_status open_in_place(training *t)
{
    return qs_trainer_create_in_place(t->context, t->from.path, &t->stream, t->model.ctx, &t->settings, t->text, &t->trainer);
}

/* Before anything is allocated or written. */
static int check_memory(training *t)
{
    qs_cursor probe = {0, 0};
    int64_t start = 0;
    qs_stream_options_default(&t->stream);
    t->stream.slots = t->o.value[OPT_SLOTS].integer;
    if (qs_text_next_window(t->text, t->model.ctx, t->settings.seed, &probe, &start) != QS_OK)
        return 0;   /* too short: the trainer says so */
    return plan_check(&t->o, t->context, &t->model, &t->settings, t->in_place ? &t->stream : NULL);
}

/* The copy takes the place of the model of --from, now and when the run goes on. */
static int keep_base(training *t)
{
    char copy[PATH_MAX];
    int code = run_folder_create(&t->folder);
    if (code == 0)
        code = base_copy(t->from.path, t->folder.path, copy);
    if (code == 0)
        (void)strcpy(t->from.path, copy);
    if (code == 0 && !options_set(&t->o, OPT_FROM, "--from", t->from.path))
        code = EXIT_INTERNAL;
    return code;
}

/* Everything that can be refused is, before the first file is written: a window is evaluated too. */
static int create_trainer(training *t)
{
    double loss = 0.0;
    qs_status status = t->in_place ? open_in_place(t) : qs_trainer_create(t->context, &t->model, &t->settings, t->text, &t->trainer);
    if (status == QS_OK && !t->in_place)
        status = origin_start(&t->from, t->trainer);
    if (status == QS_OK)
        status = evaluate(t, t->text, 1, &loss, NULL);
    if (status == QS_OK)
        status = qs_trainer_bits(t->trainer, &t->bits);
    return status == QS_OK ? 0 : fail_library(NAME, status, NULL);
}

static void on_skipped(void *user, const char *path, const char *reason)
{
    ++*(int *)user;
    warn(NAME, "skipped %s: %s", path, reason);
}

/* Continues from the newest valid checkpoint, if there is one. Checkpoints of which none is whole are not trained over. */
static int resume(training *t)
{
    int skipped = 0;
    qs_status status =
        qs_checkpoint_latest(t->context, t->folder.path, t->checkpoint, sizeof t->checkpoint, on_skipped, &skipped);
    if (status == QS_ERR_NOINPUT && skipped > 0)
        return fail_with(EXIT_DATA, NAME, "%s holds %d checkpoint%s, none of them whole; restore one, or choose another --out",
                         t->folder.path, skipped, skipped == 1 ? "" : "s");
    if (status == QS_ERR_NOINPUT) {
        t->checkpoint[0] = '\0';
        return 0;
    }
    if (status != QS_OK)
        return fail_library(NAME, status, NULL);
    status = qs_trainer_load(t->trainer, t->checkpoint);
    if (status == QS_OK)
        status = qs_trainer_merge(t->trainer);   /* of a phase that was over, but not in the file yet */
    if (status != QS_OK)
        return fail_library(NAME, status, NULL);
    t->first_step = qs_trainer_position(t->trainer);
    t->saved_step = t->first_step;
    return 0;
}

static double seconds_left(const training *t)
{
    const option_value *limit = &t->o.value[OPT_TIME_LIMIT];
    return limit->given ? t->started + limit->real - now_seconds() : INFINITY;
}

static int open_folder(training *t)
{
    int code = t->folder.lock >= 0 ? 0 : run_folder_create(&t->folder);
    if (code == 0 && t->o.value[OPT_RESUME].given)
        code = resume(t);
    if (code == 0 && t->first_step > 0)
        code = training_check_also(t, t->files[1]);
    if (code == 0)
        code = run_folder_write(&t->folder, t->folder.config, training_config(t));
    if (code != 0)
        return code;
    const double left = seconds_left(t);
    const watch_setup setup = {
        .metrics_path = t->folder.metrics,
        .folder = t->folder.path,
        .label = t->label,
        .events = !t->o.value[OPT_NO_EVENTS].given,
        .fsm = t->settings.optimizer == QS_OPTIMIZER_FSM,
        .first_step = t->first_step,
        .saved_step = t->saved_step,
        .steps = t->settings.steps,
        .log_every = t->o.value[OPT_LOG_EVERY].integer,
        .tokens_per_step = t->settings.batch * t->model.ctx,
        .layers = t->model.layers,
        .time_limit = isfinite(left) ? left : 0.0,
    };
    return watch_open(&t->watch, &setup);
}

/* ---- training -------------------------------------------------------------------------------------------------- */

static int fail_run(training *t, qs_status status, const char *todo)
{
    watch_end(&t->watch);
    return fail_library(NAME, status, todo);
}

/* The run ends here; what was saved before stays. */
static int stop_nonfinite(training *t, int64_t step)
{
    watch_end(&t->watch);
    t->stopped = "nonfinite";
    return fail_with(EXIT_DATA, NAME,
                     "%s%sthe loss is not finite at step %lld; lower --lr (now %g) or --scale-lr (now %g) and start again in "
                     "another --out; %s%s",
                     t->label, t->label[0] == '\0' ? "" : ": ", (long long)step, t->settings.lr, t->settings.scale_lr,
                     t->checkpoint[0] == '\0' ? "no checkpoint was saved" : "the last good checkpoint is ", t->checkpoint);
}

/* What came of an evaluation: 0 where there is a loss to tell. */
static int check_loss(training *t, qs_status status, double loss)
{
    if (status == QS_ERR_NONFINITE || (status == QS_OK && !isfinite(loss)))
        return stop_nonfinite(t, qs_trainer_position(t->trainer));
    return status == QS_OK ? 0 : fail_run(t, status, NULL);
}

static int validate(training *t, int64_t windows, bool final)
{
    double loss = 0.0;
    const qs_status status = evaluate(t, t->text, windows, &loss, &t->val_tokens);
    const int code = check_loss(t, status, loss);
    return code != 0 ? code : watch_validation(&t->watch, qs_trainer_position(t->trainer), loss, t->val_tokens, final);
}

/* The figures before the first step, and those at the end. */
static int validate_whole(training *t)
{
    double loss = 0.0;
    int64_t tokens = 0;
    const int64_t windows = t->o.value[OPT_FINAL_WINDOWS].integer;
    int code = validate(t, windows, true);
    if (code != 0 || t->also == NULL)
        return code;
    const qs_status status = evaluate(t, t->also, windows, &loss, &tokens);
    code = check_loss(t, status, loss);
    return code != 0 ? code : watch_also(&t->watch, qs_trainer_position(t->trainer), loss, tokens);
}

/* The test part: once, when a run is over. A run that can go on is not (a signal, the time), and one that was over before has its
 * figure in metrics.jsonl. */
static int test(training *t)
{
    double loss = 0.0;
    int64_t tokens = 0;
    const int64_t step = qs_trainer_position(t->trainer);
    const bool over = strcmp(t->stopped, "steps") == 0 || strcmp(t->stopped, "patience") == 0;
    if (t->text_info.test_tokens == 0 || !over || t->watch.history.test_step == step)
        return 0;
    const qs_status status = qs_model_test(qs_trainer_model(t->trainer), t->text, 0, evaluation_batch(t), &loss, &tokens);
    const int code = check_loss(t, status, loss);
    return code != 0 ? code : watch_test(&t->watch, step, loss, tokens);
}

/* A state that cannot even be evaluated must not push good checkpoints out, so one window is tried first. */
static int save(training *t)
{
    char path[PATH_MAX];
    double loss = 0.0;
    const int64_t step = qs_trainer_position(t->trainer);
    t->saved_at = now_seconds();
    if (step == t->saved_step) {   /* a kill may have come before what it replaces was removed */
        run_folder_prune(&t->folder, step, t->o.value[OPT_KEEP].integer);
        return 0;
    }
    qs_status status = evaluate(t, t->text, 1, &loss, NULL);
    if (status == QS_ERR_NONFINITE || (status == QS_OK && !isfinite(loss)))
        return stop_nonfinite(t, step);
    run_folder_checkpoint(&t->folder, step, path);
    const int code = watch_save(&t->watch);
    if (code != 0)
        return code;
    if (status == QS_OK)
        status = qs_trainer_save(t->trainer, path);
    if (status != QS_OK)
        return fail_run(t, status,
                        "free space or permissions are missing in --out; older checkpoints are whole, go on with --resume");
    (void)snprintf(t->checkpoint, sizeof t->checkpoint, "%s", path);
    t->saved_step = step;
    run_folder_prune(&t->folder, step, t->o.value[OPT_KEEP].integer);
    return 0;
}

/* A validation on the way; the best one so far is saved and named RUN/best where that is asked for. */
static int validate_on_the_way(training *t)
{
    const int64_t step = qs_trainer_position(t->trainer);
    int code = validate(t, t->o.value[OPT_EVAL_WINDOWS].integer, false);
    if (code != 0 || !t->o.value[OPT_KEEP_BEST].given || t->watch.history.best_step != step)
        return code;
    code = save(t);
    return code != 0 ? code : run_folder_name_best(&t->folder, step);
}

static bool patience_is_over(const training *t)
{
    const int64_t patience = t->o.value[OPT_PATIENCE].integer;
    return patience > 0 && t->watch.history.since_best >= patience;
}

static bool save_is_due(const training *t, int64_t step)
{
    if (t->save_seconds > 0.0)
        return now_seconds() - t->saved_at >= t->save_seconds;
    return t->save_steps > 0 && step % t->save_steps == 0;
}

/* A phase is over: what it has trained goes into the model's file. The checkpoint comes first, from which a killed merge is finished. */
static int merge(training *t)
{
    int code = save(t);
    if (code != 0)
        return code;
    const qs_status status = qs_trainer_merge(t->trainer);
    return status == QS_OK ? 0
                           : fail_run(t, status, status == QS_ERR_IO ? OUT_OF_SPACE : NULL);
}

static int one_step(training *t)
{
    qs_step_info info;
    const int64_t window = t->settings.health_window;
    const double before = now_seconds();
    const qs_status status = qs_trainer_step(t->trainer, &info);
    const double seconds = now_seconds() - before;
    if (status == QS_ERR_NONFINITE)
        return stop_nonfinite(t, qs_trainer_position(t->trainer) + 1);
    if (status != QS_OK)
        return fail_run(t, status, NULL);
    int code = watch_step(&t->watch, &info, seconds);
    if (code == 0 && window > 0 && info.step % window == 0)
        code = watch_health(&t->watch, t->context, t->trainer, info.step);
    if (code == 0 && t->eval_every > 0 && info.step % t->eval_every == 0)
        code = validate_on_the_way(t);
    if (code == 0 && save_is_due(t, info.step))
        code = save(t);
    if (code == 0 && qs_trainer_must_merge(t->trainer))
        code = merge(t);
    return code;
}

/* Steps until the end, the time limit, the end of patience or a signal; then saves. */
static int take_steps(training *t)
{
    int code = 0;
    t->saved_at = now_seconds();
    while (code == 0 && qs_trainer_position(t->trainer) < t->settings.steps) {
        t->stopped = signals_caught() != 0 ? "signal"
                     : seconds_left(t) <= 0.0 ? "time"
                     : patience_is_over(t)    ? "patience"
                                              : "steps";
        if (strcmp(t->stopped, "steps") != 0)
            break;
        code = one_step(t);
    }
    watch_end(&t->watch);
    return code == 0 ? save(t) : code;
}

/* A run that was done before keeps the result of the process that trained it. */
static int finish(training *t)
{
    int code = 0;
    if (t->first_step == t->settings.steps && access(t->folder.result, F_OK) == 0)
        return 0;
    if (strcmp(t->stopped, "signal") != 0)
        code = validate_whole(t);
    if (code == 0)
        code = test(t);
    if (code != 0)
        return code;
    return run_folder_write(&t->folder, t->folder.result, training_result(t));
}

int training_run(training *t)
{
    int code = check_memory(t);
    const bool copies = code == 0 && t->o.value[OPT_KEEP_BASE].integer != 0 && t->files[1] == NULL;
    if (copies && (code = keep_base(t)) != 0)
        return code;
    if (code == 0)
        code = create_trainer(t);
    if (code == 0)
        code = open_folder(t);
    if (code != 0 && copies)
        base_copy_remove(t->from.path);
    if (code != 0)
        return code;
    if (t->label[0] == '\0')
        training_tell_start(t);
    if (t->first_step == 0)
        code = validate_whole(t);
    if (code == 0)
        code = take_steps(t);
    if (code == 0)
        code = finish(t);
    if (strcmp(t->stopped, "nonfinite") == 0 && run_folder_write(&t->folder, t->folder.result, training_result(t)) != 0)
        code = EXIT_IO;
    return code;
}

void training_close(training *t)
{
    watch_close(&t->watch);
    run_folder_close(&t->folder);
    qs_trainer_free(&t->trainer);
    qs_text_free(&t->text);
    qs_text_free(&t->also);
    qs_close(&t->context);
    json_decref(t->files[0]);
    json_decref(t->files[1]);
    free(t->data);
    free(t->also_path);
}
