/* cmd_train.c - qsbits train: prepares a run, takes the steps, validates, saves, reports. Time decides only when to stop
 * and what to show; every trained byte follows from settings, text and seed. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "metrics.h"
#include "progress.h"
#include "rundir.h"
#include "settings.h"
#include "signals.h"

static const char NAME[] = "train";
enum { SHARE_OF_RUN = 10, LEAST_INTERVAL = 20, EVALUATION_BATCH = 32 };

typedef struct run {
    options o;                      /* of the command line, completed from config.json when resuming */
    json_t *config;                 /* config.json as it was; owns strings of o */
    char *data;                     /* absolute path of the text */
    qs_context *context;
    qs_text *text;
    qs_text_info text_info;
    qs_model_config model;
    qs_train_options training;
    qs_trainer *trainer;
    run_folder folder;
    metrics metrics;
    history history;
    progress progress;
    char checkpoint[PATH_MAX];      /* newest good one, "" if none */
    int64_t first_step;             /* where this process began */
    int64_t saved_step;             /* of checkpoint, -1 if none */
    int64_t eval_every, save_every; /* 0: never, at the end only */
    int64_t val_tokens;             /* of the last validation */
    qs_bits bits;
    double started, step_seconds;   /* clock at the start; time spent in steps */
    const char *stopped;            /* "steps", "time", "signal" */
} run;

/* ---- preparing ------------------------------------------------------------------------------------------------- */

static int complete_options(run *r, const options *o)
{
    r->o = *o;
    if (!r->o.value[OPT_OUT].given)
        return fail_usage(NAME, "--out is missing; name a run folder, such as --out run1");
    int code = run_folder_init(&r->folder, r->o.value[OPT_OUT].text);
    if (code == 0)
        code = run_folder_check(&r->folder, o->value[OPT_RESUME].given);
    if (code == 0 && o->value[OPT_RESUME].given)
        code = run_folder_read_config(&r->folder, &r->config);
    if (code == 0 && r->config != NULL)
        code = settings_merge(&r->o, r->config);
    if (code == 0 && !r->o.value[OPT_DATA].given)
        code = fail_usage(NAME, "--data is missing; name a text file or a folder of texts");
    return code;
}

static int64_t interval(const run *r, option_id id)
{
    const int64_t automatic = r->training.steps / SHARE_OF_RUN;
    if (r->o.value[id].given)
        return r->o.value[id].integer;
    return automatic > LEAST_INTERVAL ? automatic : LEAST_INTERVAL;
}

static int open_text(run *r)
{
    const char *path = r->o.value[OPT_DATA].text;
    const qs_status status = qs_text_open(r->context, path, r->o.value[OPT_VAL_FRACTION].real, &r->text);
    if (status != QS_OK)
        return fail_library(NAME, status, status == QS_ERR_FORMAT ? "give --data a file or folder with text in it"
                                                                  : "check the path given with --data");
    qs_text_get_info(r->text, &r->text_info);
    r->data = realpath(path, NULL);
    return r->data != NULL ? 0 : fail_with(66, NAME, "cannot find %s again; check the path given with --data", path);
}

/* Mean loss over the first windows (0: all) of the validation part. */
static qs_status evaluate(const run *r, int64_t windows, double *loss, int64_t *tokens)
{
    const int64_t batch = r->training.micro_batch < EVALUATION_BATCH ? r->training.micro_batch : EVALUATION_BATCH;
    return qs_model_evaluate(qs_trainer_model(r->trainer), r->text, windows, batch, loss, tokens);
}

/* Everything that can be refused before the first file is written. */
static int create_trainer(run *r)
{
    double loss = 0.0;
    int code = open_context(&r->o, &r->context);
    if (code == 0)
        code = settings_model(&r->o, &r->model);
    if (code != 0)
        return code;
    settings_training(&r->o, &r->training);
    qs_status status = qs_train_options_resolve(&r->training, &r->model);
    if (status != QS_OK)
        return fail_library(NAME, status, NULL);
    code = open_text(r);
    if (code != 0)
        return code;
    status = qs_trainer_create(r->context, &r->model, &r->training, r->text, &r->trainer);
    if (status == QS_OK)
        status = evaluate(r, 1, &loss, NULL);
    if (status == QS_OK)
        status = qs_trainer_bits(r->trainer, &r->bits);
    if (status != QS_OK)
        return fail_library(NAME, status, NULL);
    r->eval_every = interval(r, OPT_EVAL_EVERY);
    r->save_every = interval(r, OPT_SAVE_EVERY);
    return 0;
}

static void on_skipped(void *user, const char *path, const char *reason)
{
    (void)user;
    warn(NAME, "skipped %s: %s", path, reason);
}

/* Continues from the newest valid checkpoint, if there is one. */
static int resume(run *r)
{
    qs_status status =
        qs_checkpoint_latest(r->context, r->folder.path, r->checkpoint, sizeof r->checkpoint, on_skipped, NULL);
    if (status == QS_ERR_NOINPUT) {
        r->checkpoint[0] = '\0';
        return 0;
    }
    if (status != QS_OK)
        return fail_library(NAME, status, NULL);
    status = qs_trainer_load(r->trainer, r->checkpoint);
    if (status != QS_OK)
        return fail_library(NAME, status,
                            status == QS_ERR_ARG ? "use the settings and the text of the run, or another --out" : NULL);
    r->first_step = qs_trainer_position(r->trainer);
    r->saved_step = r->first_step;
    return 0;
}

static int open_folder(run *r)
{
    int code = run_folder_create(&r->folder);
    if (code == 0 && r->o.value[OPT_RESUME].given)
        code = resume(r);
    if (code == 0)
        code = run_folder_write_config(&r->folder, settings_config(&r->o, r->data, &r->text_info, &r->model, &r->training));
    if (code == 0)
        code = metrics_open(&r->metrics, r->folder.metrics, r->saved_step, &r->history);
    return code;
}

/* ---- telling --------------------------------------------------------------------------------------------------- */

static void tell_memory(const run *r)
{
    char ours[16], theirs[16];
    const qs_bits *b = &r->bits;
    fprintf(stderr,
            "memory  %s for the matrices and all that trains them (%.2f bits per weight); 16-bit AdamW would take %s,\n"
            "        %.1f times as much\n",
            human_bytes((double)b->training_bytes, ours), b->training_bits_per_weight,
            human_bytes((double)b->adamw16_bytes, theirs), (double)b->adamw16_bytes / (double)b->training_bytes);
}

static void tell_start(const run *r)
{
    char a[16], b[16];
    qs_device_info device;
    qs_model_size size = {0, 0, 0};
    const qs_model_config *c = &r->model;
    const qs_text_info *t = &r->text_info;
    qs_context_device(r->context, &device);
    if (qs_model_size_of(c, &size) != QS_OK)
        size.packed_weights = 0;
    fprintf(stderr, "qsbits %s, %s%s%s, %d thread%s\n", qs_version(), device.backend, device.level[0] == '\0' ? "" : " ",
            device.level, device.threads, device.threads == 1 ? "" : "s");
    fprintf(stderr, "model   %lld layers, %lld wide, ffn %lld, %lld heads, ctx %lld: %s %s weights, %s float parameters\n",
            (long long)c->layers, (long long)c->dim, (long long)c->ffn, (long long)c->heads, (long long)c->ctx,
            human_count((double)size.packed_weights, a), c->dense ? "fp32" : "1-bit",
            human_count((double)size.float_params, b));
    fprintf(stderr,
            "text    %s in %lld file%s (%lld skipped), the last %s to validate; entropy %.3f (order 0),\n"
            "        %.3f (order 1) nats per byte\n",
            human_bytes((double)t->tokens, a), (long long)t->files, t->files == 1 ? "" : "s", (long long)t->skipped,
            human_bytes((double)t->val_tokens, b), t->entropy0, t->entropy1);
    tell_memory(r);
    fprintf(stderr, "train   %lld steps of %lld x %lld tokens, %s%s%s, rate %g, seed %llu\n", (long long)r->training.steps,
            (long long)r->training.batch, (long long)c->ctx, options_choice_text(OPT_OPTIMIZER, r->training.optimizer),
            r->training.optimizer == QS_OPTIMIZER_FSM ? " " : "",
            r->training.optimizer == QS_OPTIMIZER_FSM ? options_choice_text(OPT_FSM_STATE, r->training.fsm) : "",
            r->training.lr, (unsigned long long)r->training.seed);
    if (r->first_step > 0)
        fprintf(stderr, "resume  step %lld, %s\n", (long long)r->first_step, r->checkpoint);
}

static void tell_end(const run *r)
{
    const history *h = &r->history;
    fprintf(stderr, "\nloss    validation %.4f at the start, %.4f now; entropy of the text %.3f (order 0), %.3f (order 1)\n"
                    "        nats per byte\n", h->val_start, h->val_last, r->text_info.entropy0, r->text_info.entropy1);
    tell_memory(r);
    if (strcmp(r->stopped, "time") == 0)
        fprintf(stderr, "time    limit reached at step %lld of %lld; go on with: qsbits train --resume --out %s\n",
                (long long)qs_trainer_position(r->trainer), (long long)r->training.steps, r->folder.path);
    fprintf(stderr, "run     %s\nnext    qsbits generate --model %s --prompt \"The \" -n 400\n", r->checkpoint,
            r->folder.path);
}

static json_t *result_json(const run *r)
{
    const history *h = &r->history;
    const int64_t step = qs_trainer_position(r->trainer), step_tokens = r->training.batch * r->model.ctx;
    const bool fsm = r->training.optimizer == QS_OPTIMIZER_FSM;
    const qs_bits *bits = &r->bits;
    json_t *result = json_pack("{s:I, s:I, s:I, s:f, s:f, s:f, s:o, s:o, s:o, s:I, s:f, s:f, s:f, s:I, s:I, s:I, s:I}",
        "step", (json_int_t)step, "steps", (json_int_t)r->training.steps, "tokens", (json_int_t)(step * step_tokens),
        "seconds", now_seconds() - r->started, "step_seconds", r->step_seconds,
        "tokens_per_second", r->step_seconds > 0.0 ? (double)((step - r->first_step) * step_tokens) / r->step_seconds : 0.0,
        "train_loss", json_number(history_recent_loss(h)), "val_loss", json_number(h->val_last),
        "val_loss_start", json_number(h->val_start), "val_tokens", (json_int_t)r->val_tokens,
        "flips_per_weight", h->flips, "packed_bits_per_weight", bits->packed_bits_per_weight,
        "training_bits_per_weight", bits->training_bits_per_weight, "packed_weights", (json_int_t)bits->packed_weights,
        "training_bytes", (json_int_t)bits->training_bytes, "adamw16_bytes", (json_int_t)bits->adamw16_bytes,
        "peak_rss_bytes", (json_int_t)qs_peak_rss());
    json_t *settings = json_pack("{s:f, s:f, s:s, s:s?, s:s?, s:I, s:f, s:f, s:f, s:I, s:s, s:s, s:s}",
        "entropy0", r->text_info.entropy0, "entropy1", r->text_info.entropy1,
        "optimizer", options_choice_text(OPT_OPTIMIZER, r->training.optimizer),
        "fsm_state", fsm ? options_choice_text(OPT_FSM_STATE, r->training.fsm) : NULL,
        "fsm_recipe", fsm ? options_choice_text(OPT_FSM_RECIPE, r->training.recipe) : NULL,
        "seed", (json_int_t)r->training.seed, "lr", r->training.lr, "matrix_lr", r->training.matrix_lr,
        "scale_lr", r->training.scale_lr, "resumed_from", (json_int_t)r->first_step,
        "checkpoint", r->checkpoint, "run", r->folder.path, "stopped", r->stopped);
    (void)json_object_update(result, settings);
    json_decref(settings);
    return result;
}

/* ---- training -------------------------------------------------------------------------------------------------- */

static int fail_nonfinite(run *r, int64_t step)
{
    progress_end(&r->progress);
    return fail_with(
        EXIT_DATA, NAME,
        "the loss is not finite at step %lld; lower --lr (now %g) or --scale-lr (now %g) and start again in another "
        "--out; %s%s",
        (long long)step, r->training.lr, r->training.scale_lr,
        r->checkpoint[0] == '\0' ? "no checkpoint was saved" : "the last good checkpoint is ", r->checkpoint);
}

static int fail_run(run *r, qs_status status, const char *todo)
{
    progress_end(&r->progress);
    return fail_library(NAME, status, todo);
}

static int validate(run *r, int64_t windows)
{
    double loss = 0.0;
    const int64_t step = qs_trainer_position(r->trainer);
    const qs_status status = evaluate(r, windows, &loss, &r->val_tokens);
    if (status == QS_ERR_NONFINITE || (status == QS_OK && !isfinite(loss)))
        return fail_nonfinite(r, step);
    if (status != QS_OK)
        return fail_run(r, status, NULL);
    r->history.val_last = loss;
    if (step == 0)
        r->history.val_start = loss;
    progress_say(&r->progress, "step %lld  validation loss %.4f", (long long)step, loss);
    return metrics_validation(&r->metrics, step, loss, r->val_tokens);
}

/* A state that cannot even be evaluated must not push good checkpoints out, so one window is tried first. */
static int save(run *r)
{
    char path[PATH_MAX];
    double loss = 0.0;
    const int64_t step = qs_trainer_position(r->trainer);
    if (step == r->saved_step)
        return 0;
    qs_status status = evaluate(r, 1, &loss, NULL);
    if (status == QS_ERR_NONFINITE || (status == QS_OK && !isfinite(loss)))
        return fail_nonfinite(r, step);
    run_folder_checkpoint(&r->folder, step, path);
    if (status == QS_OK)
        status = qs_trainer_save(r->trainer, path);
    if (status != QS_OK)
        return fail_run(r, status,
                        "free space or permissions are missing in --out; older checkpoints are whole, go on with --resume");
    (void)snprintf(r->checkpoint, sizeof r->checkpoint, "%s", path);
    r->saved_step = step;
    run_folder_prune(&r->folder, step, r->o.value[OPT_KEEP].integer);
    return 0;
}

static int one_step(run *r)
{
    qs_step_info info;
    const double before = now_seconds();
    const qs_status status = qs_trainer_step(r->trainer, &info);
    const double seconds = now_seconds() - before;
    if (status == QS_ERR_NONFINITE)
        return fail_nonfinite(r, qs_trainer_position(r->trainer) + 1);
    if (status != QS_OK)
        return fail_run(r, status, NULL);
    r->step_seconds += seconds;
    history_add(&r->history, info.loss, info.flips);
    progress_step(&r->progress, &info, seconds);
    int code = metrics_step(&r->metrics, &info);
    if (code == 0 && r->eval_every > 0 && info.step % r->eval_every == 0 && info.step < r->training.steps)
        code = validate(r, r->o.value[OPT_EVAL_WINDOWS].integer);
    if (code == 0 && r->save_every > 0 && info.step % r->save_every == 0)
        code = save(r);
    return code;
}

/* Steps until the end, the time limit or a signal; then saves. */
static int take_steps(run *r)
{
    const double limit = r->o.value[OPT_TIME_LIMIT].given ? r->o.value[OPT_TIME_LIMIT].real : 0.0;
    int code = 0;
    r->stopped = "steps";
    progress_start(&r->progress, r->first_step, r->training.steps, r->training.batch * r->model.ctx,
                   r->training.optimizer == QS_OPTIMIZER_FSM, limit > 0.0 ? r->started + limit - now_seconds() : 0.0);
    while (code == 0 && qs_trainer_position(r->trainer) < r->training.steps) {
        if (signals_caught() != 0) {
            r->stopped = "signal";
            break;
        }
        if (limit > 0.0 && now_seconds() - r->started >= limit) {
            r->stopped = "time";
            break;
        }
        code = one_step(r);
    }
    progress_end(&r->progress);
    return code == 0 ? save(r) : code;
}

static int report(run *r)
{
    const int number = strcmp(r->stopped, "signal") == 0 ? signals_caught() : 0;
    int code = 0;
    if (number == 0)
        code = validate(r, r->o.value[OPT_FINAL_WINDOWS].integer);
    if (code == 0 && r->o.value[OPT_JSON].given)
        code = print_json(NAME, result_json(r));
    if (code == 0 && number == 0)
        tell_end(r);
    if (code == 0 && number != 0)
        code = fail_with(128 + number, NAME,
                         "stopped by %s at step %lld, saved as %s; go on with: qsbits train --resume --out %s",
                         signals_name(number), (long long)qs_trainer_position(r->trainer), r->checkpoint, r->folder.path);
    return code;
}

static int train(run *r, const options *o)
{
    int code = complete_options(r, o);
    if (code == 0)
        code = create_trainer(r);
    if (code == 0)
        code = open_folder(r);
    if (code != 0)
        return code;
    tell_start(r);
    if (r->first_step == 0)
        code = validate(r, r->o.value[OPT_FINAL_WINDOWS].integer);
    if (code == 0)
        code = take_steps(r);
    return code == 0 ? report(r) : code;
}

static int start(const options *o)
{
    run *r = calloc(1, sizeof *r);
    if (r == NULL)
        return fail_with(71, NAME, "no memory; close other programs");
    r->started = now_seconds();
    r->saved_step = -1;
    r->folder.lock = -1;
    history_clear(&r->history);
    signals_catch();
    const int code = train(r, o);
    metrics_close(&r->metrics);
    run_folder_close(&r->folder);
    qs_trainer_free(&r->trainer);
    qs_text_free(&r->text);
    qs_close(&r->context);
    json_decref(r->config);
    free(r->data);
    free(r);
    return code;
}

/* ---- the command ----------------------------------------------------------------------------------------------- */

static void list_presets(FILE *out)
{
    fprintf(out, "\nPresets:\n");
    for (int i = 0; i < qs_model_preset_count(); i++) {
        char weights[16], bytes[16];
        qs_model_config c;
        qs_model_size size;
        qs_model_config_default(&c);
        if (qs_model_preset(qs_model_preset_name(i), &c) == QS_OK && qs_model_config_resolve(&c) == QS_OK &&
            qs_model_size_of(&c, &size) == QS_OK)
            fprintf(out,
                    "  %-8s %3lld layers, %5lld wide, ffn %5lld, %2lld heads, %2lld kv heads, ctx %4lld: %s weights in %s\n",
                    qs_model_preset_name(i), (long long)c.layers, (long long)c.dim, (long long)c.ffn, (long long)c.heads,
                    (long long)c.kv_heads, (long long)c.ctx, human_count((double)size.packed_weights, weights),
                    human_bytes((double)size.packed_bytes, bytes));
    }
}

static const int CODES[] = {64, 65, 66, 69, 70, 71, 73, 74, 129, 130, 143, 0};

const command train_command = {
    .name = "train",
    .bit = TRAIN,
    .required = "--data FILE|DIR --out RUN",
    .summary = "train a model with 1-bit weights on a text",
    .about =
        "Trains a decoder whose weights are one bit each on the bytes of a text. There are no float copies of the weights\n"
        "and no float gradients: a small state beside every weight decides when its sign flips (--fsm-state). The run\n"
        "folder gets config.json, metrics.jsonl (one line per step) and step-NNNNNNNN checkpoints. Ctrl-C finishes the\n"
        "step, saves and stops; --resume --out RUN goes on, and ends with the same bytes as a run that was never stopped,\n"
        "also with another number of threads. ste, frozen and adamw train the same network in other ways, to compare.",
    .examples = {"qsbits train --data book.txt --out run1 --preset mini --steps 2000",
                 "qsbits train --resume --out run1 --time-limit 3600 --json"},
    .exit_codes = CODES,
    .run = start,
    .more_help = list_presets,
};
