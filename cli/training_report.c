/* training_report.c - what a run tells about itself before and after, for people and as one JSON object. */
#include "training.h"

#include <math.h>
#include <string.h>

#include "settings.h"

static void tell_memory(const training *t)
{
    char ours[16], theirs[16];
    const qs_bits *b = &t->bits;
    fprintf(stderr,
            "memory  %s for the matrices and all that trains them (%.2f bits per weight); 16-bit AdamW would take %s,\n"
            "        %.1f times as much\n",
            human_bytes((double)b->training_bytes, ours), b->training_bits_per_weight,
            human_bytes((double)b->adamw16_bytes, theirs), (double)b->adamw16_bytes / (double)b->training_bytes);
}

static void tell_device(const training *t)
{
    qs_device_info device;
    qs_context_device(t->context, &device);
    fprintf(stderr, "qsbits %s, %s%s%s, %d thread%s\n", qs_version(), device.backend, device.level[0] == '\0' ? "" : " ",
            device.level, device.threads, device.threads == 1 ? "" : "s");
}

static void tell_model(const training *t)
{
    char weights[16], floats[16];
    qs_model_size size = {0, 0, 0};
    const qs_model_config *c = &t->model;
    if (qs_model_size_of(c, &size) != QS_OK)
        size.packed_weights = 0;
    fprintf(stderr, "model   %lld layers, %lld wide, ffn %lld, %lld heads, ctx %lld: %s %s weights, %s float parameters\n",
            (long long)c->layers, (long long)c->dim, (long long)c->ffn, (long long)c->heads, (long long)c->ctx,
            human_count((double)size.packed_weights, weights), c->dense ? "fp32" : "1-bit",
            human_count((double)size.float_params, floats));
}

static void tell_text(const training *t)
{
    char all[16], validation[16], test[40] = "", tested[16];
    const qs_text_info *x = &t->text_info, *also = &t->also_info;
    if (x->test_tokens > 0)
        (void)snprintf(test, sizeof test, "%s to test, before them ", human_bytes((double)x->test_tokens, tested));
    fprintf(stderr,
            "text    %s in %lld file%s (%lld left out), the last %s%s to validate; entropy %.3f (order 0),\n"
            "        %.3f (order 1) nats per byte\n",
            human_bytes((double)x->tokens, all), (long long)x->files, x->files == 1 ? "" : "s", (long long)x->skipped, test,
            human_bytes((double)x->val_tokens, validation), x->entropy0, x->entropy1);
    if (t->also != NULL)
        fprintf(stderr, "also    %s in %lld file%s, the last %s to see what is forgotten\n", human_bytes((double)also->tokens, all),
                (long long)also->files, also->files == 1 ? "" : "s", human_bytes((double)also->val_tokens, validation));
}

/* What there is to say about an optimizer beside its name, "" for nothing. */
static void name_details(const qs_train_options *o, char text[64])
{
    const char *fsm = options_choice_text(OPT_FSM_STATE, o->fsm);
    text[0] = '\0';
    if (o->optimizer == QS_OPTIMIZER_FSM)
        (void)snprintf(text, 64, " %s", fsm);
    if (o->optimizer == QS_OPTIMIZER_FSM && o->active_parts > 1)
        (void)snprintf(text, 64, " %s on 1/%lld of the weights at a time, %lld sweep%s", fsm, (long long)o->active_parts,
                       (long long)o->sweeps, o->sweeps == 1 ? "" : "s");
    if (o->optimizer == QS_OPTIMIZER_LORA)
        (void)snprintf(text, 64, " of rank %lld", (long long)o->lora_rank);
}

void training_tell_start(const training *t)
{
    char details[64];
    name_details(&t->settings, details);
    tell_device(t);
    tell_model(t);
    tell_text(t);
    if (t->trainer != NULL)
        tell_memory(t);
    fprintf(stderr, "train   %lld steps of %lld x %lld tokens, %s%s, rate %g, seed %llu\n", (long long)t->settings.steps,
            (long long)t->settings.batch, (long long)t->model.ctx, options_choice_text(OPT_OPTIMIZER, t->settings.optimizer),
            details, t->settings.lr, (unsigned long long)t->settings.seed);
    if (t->from.path[0] != '\0')
        fprintf(stderr, "from    %s\n", t->from.path);
    if (t->first_step > 0)
        fprintf(stderr, "resume  step %lld, %s\n", (long long)t->first_step, t->checkpoint);
}

/* Tested where it stands now: what went on after a test has to be tested anew. */
static bool is_tested(const training *t)
{
    return t->watch.history.test_step == qs_trainer_position(t->trainer);
}

/* Of the test part and of --also. */
static void tell_figures(const training *t)
{
    const history *h = &t->watch.history;
    if (t->text_info.test_tokens > 0 && is_tested(t))
        fprintf(stderr, "test    %.4f over %lld tokens that nothing was chosen by\n", h->test_loss, (long long)h->test_tokens);
    else if (t->text_info.test_tokens > 0)
        fprintf(stderr, "test    kept for the end of the run\n");
    if (t->also != NULL && isfinite(h->also_start))
        fprintf(stderr, "also    %.4f at the start, %.4f now: %+.4f\n", h->also_start, h->also_last,
                h->also_last - h->also_start);
    else if (t->also != NULL)
        fprintf(stderr, "also    unknown at the start, %.4f now\n", h->also_last);
}

/* Share of the time in which blocks were read or copied that training did not wait for. */
static double share_hidden(const qs_stream_stats *s)
{
    return s->transfer_seconds > 0.0 ? fmax(0.0, 1.0 - s->wait_seconds / s->transfer_seconds) : 1.0;
}

static void tell_streaming(const training *t)
{
    char read[16], copied[16], ram[16], device[16];
    qs_stream_stats s;
    qs_memory_usage u[QS_MEMORY_POOLS];
    qs_trainer_stream_stats(t->trainer, &s);
    for (int pool = 0; pool < QS_MEMORY_POOLS; pool++)
        qs_memory_in(t->context, (qs_memory_pool)pool, QS_MEMORY_TAGS, &u[pool]);
    fprintf(stderr,
            "stream  %lld blocks passed, %s read from the file, %s copied to the device; %.1f s of transfers, waited %.1f s\n"
            "        (%.1f%% hidden)\npeak    %s of RAM, %s of device memory\n",
            (long long)s.blocks, human_bytes((double)s.read_bytes, read), human_bytes((double)s.copied_bytes, copied),
            s.transfer_seconds, s.wait_seconds, 100.0 * share_hidden(&s), human_bytes((double)u[QS_POOL_RAM].peak_bytes, ram),
            human_bytes((double)u[QS_POOL_DEVICE].peak_bytes, device));
}

void training_tell_end(const training *t)
{
    const history *h = &t->watch.history;
    fprintf(stderr, "\nloss    validation %.4f at the start, %.4f now; entropy of the text %.3f (order 0), %.3f (order 1)\n"
                    "        nats per byte\n", h->val_start, h->val_last, t->text_info.entropy0, t->text_info.entropy1);
    tell_figures(t);
    tell_memory(t);
    if (strcmp(t->stopped, "time") == 0)
        fprintf(stderr, "time    limit reached at step %lld of %lld; go on with: qsbits train --resume --out %s\n",
                (long long)qs_trainer_position(t->trainer), (long long)t->settings.steps, t->folder.path);
    if (strcmp(t->stopped, "patience") == 0)
        fprintf(stderr, "early   no better validation than %.4f of step %lld in %lld validations, so it stopped at step %lld of %lld\n",
                h->best_loss, (long long)h->best_step, (long long)h->since_best, (long long)qs_trainer_position(t->trainer),
                (long long)t->settings.steps);
    if (t->o.value[OPT_KEEP_BEST].given && h->best_step > 0)
        fprintf(stderr, "best    %s, validation %.4f at step %lld\n", t->folder.best, h->best_loss, (long long)h->best_step);
    if (t->in_place)
        tell_streaming(t);
    fprintf(stderr, "run     %s\nnext    qsbits generate --model %s --prompt \"The \" -n 400\n        qsbits report %s\n",
            t->checkpoint, t->in_place ? t->from.path : t->folder.path, t->folder.path);
}

static json_t *pool_json(const training *t, qs_memory_pool pool)
{
    json_t *tags = json_object();
    for (int tag = 0; tag <= QS_MEMORY_TAGS; tag++) {
        qs_memory_usage usage;
        qs_memory_in(t->context, pool, (qs_memory_tag)tag, &usage);
        (void)json_object_set_new(tags, tag == QS_MEMORY_TAGS ? "all" : qs_memory_tag_name((qs_memory_tag)tag),
                                  json_integer((json_int_t)usage.peak_bytes));
    }
    return tags;
}

static json_t *streaming_json(const training *t)
{
    qs_stream_stats s;
    qs_trainer_stream_stats(t->trainer, &s);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "blocks", (json_int_t)s.blocks, "from_slot",
                     (json_int_t)s.from_slot, "from_ram", (json_int_t)s.from_ram, "read_bytes", (json_int_t)s.read_bytes,
                     "copied_bytes", (json_int_t)s.copied_bytes, "read_seconds", s.read_seconds, "copy_seconds", s.copy_seconds,
                     "transfer_seconds", s.transfer_seconds, "wait_seconds", s.wait_seconds, "hidden", share_hidden(&s));
}

static json_t *memory_json(const training *t)
{
    json_t *memory = json_object();
    for (int tag = 0; tag < QS_MEMORY_TAGS; tag++) {
        qs_memory_usage usage;
        qs_memory(t->context, (qs_memory_tag)tag, &usage);
        (void)json_object_set_new(memory, qs_memory_tag_name((qs_memory_tag)tag), json_integer((json_int_t)usage.peak_bytes));
    }
    return memory;
}

/* Where the run stands. */
static json_t *outcome_json(const training *t)
{
    const history *h = &t->watch.history;
    const int64_t step = qs_trainer_position(t->trainer), step_tokens = t->settings.batch * t->model.ctx;
    const double val_loss = strcmp(t->stopped, "nonfinite") == 0 ? NAN : h->val_last;
    const double speed = h->seconds > 0.0 ? (double)(step * step_tokens) / h->seconds : 0.0;
    return json_pack("{s:I, s:I, s:I, s:f, s:f, s:f, s:o, s:o, s:o, s:I, s:o, s:I, s:f}",
        "step", (json_int_t)step, "steps", (json_int_t)t->settings.steps, "tokens", (json_int_t)(step * step_tokens),
        "seconds", now_seconds() - t->started, "step_seconds", h->seconds, "tokens_per_second", speed,
        "train_loss", json_number(history_recent_loss(h)), "val_loss", json_number(val_loss),
        "val_loss_start", json_number(h->val_start), "val_tokens", (json_int_t)t->val_tokens,
        "best_loss", json_number(h->best_loss), "best_step", (json_int_t)h->best_step, "flips_per_weight", h->flips);
}

json_t *training_config(const training *t)
{
    const qs_text_info *also = &t->also_info;
    json_t *config = settings_config(&t->o, t->data, &t->text_info, &t->model, &t->settings);
    if (t->text_info.test_tokens > 0)
        (void)json_object_set_new(json_object_get(config, "text"), "test_tokens",
                                  json_integer((json_int_t)t->text_info.test_tokens));
    if (t->trainer != NULL && qs_trainer_from(t->trainer)[0] != '\0')
        (void)json_object_set_new(config, "from", json_pack("{s:s}", "xxh3_128", qs_trainer_from(t->trainer)));
    if (t->also != NULL)
        (void)json_object_set_new(config, "also",
                                  json_pack("{s:I, s:I, s:I, s:I, s:s}", "tokens", (json_int_t)also->tokens, "val_tokens",
                                            (json_int_t)also->val_tokens, "files", (json_int_t)also->files, "skipped",
                                            (json_int_t)also->skipped, "hash", also->hash));
    return config;
}

/* Of the test part and of --also, where a run has them. */
static json_t *figures_json(const training *t)
{
    const history *h = &t->watch.history;
    const bool nonfinite = strcmp(t->stopped, "nonfinite") == 0;
    json_t *figures = json_object();
    if (t->text_info.test_tokens > 0) {
        (void)json_object_set_new(figures, "test_loss", json_number(is_tested(t) && !nonfinite ? h->test_loss : NAN));
        (void)json_object_set_new(figures, "test_tokens", json_integer((json_int_t)(is_tested(t) ? h->test_tokens : 0)));
    }
    if (t->also != NULL) {
        (void)json_object_set_new(figures, "also_loss", json_number(nonfinite ? NAN : h->also_last));
        (void)json_object_set_new(figures, "also_loss_start", json_number(h->also_start));
        (void)json_object_set_new(figures, "also_tokens", json_integer((json_int_t)h->also_tokens));
    }
    return figures;
}

json_t *training_result(const training *t)
{
    json_t *before = t->first_step == t->settings.steps ? json_load_file(t->folder.result, 0, NULL) : NULL;
    if (before != NULL)  /* nothing was left to do */
        return before;
    const bool fsm = t->settings.optimizer == QS_OPTIMIZER_FSM;
    const qs_bits *bits = &t->bits;
    json_t *result = outcome_json(t);
    json_t *settings = json_pack("{s:f, s:f, s:s, s:s?, s:s?, s:I, s:f, s:f, s:f, s:I, s:s, s:s, s:s}",
        "entropy0", t->text_info.entropy0, "entropy1", t->text_info.entropy1,
        "optimizer", options_choice_text(OPT_OPTIMIZER, t->settings.optimizer),
        "fsm_state", fsm ? options_choice_text(OPT_FSM_STATE, t->settings.fsm) : NULL,
        "fsm_recipe", fsm ? options_choice_text(OPT_FSM_RECIPE, t->settings.recipe) : NULL,
        "seed", (json_int_t)t->settings.seed, "lr", t->settings.lr, "matrix_lr", t->settings.matrix_lr,
        "scale_lr", t->settings.scale_lr, "resumed_from", (json_int_t)t->first_step,
        "checkpoint", t->checkpoint, "run", t->folder.path, "stopped", t->stopped);
    qs_memory_usage all;
    qs_memory(t->context, QS_MEMORY_TAGS, &all);
    json_t *sizes = json_pack("{s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:o}",
        "packed_bits_per_weight", bits->packed_bits_per_weight, "training_bits_per_weight", bits->training_bits_per_weight,
        "health_bits_per_weight", bits->health_bits_per_weight, "packed_weights", (json_int_t)bits->packed_weights,
        "training_bytes", (json_int_t)bits->training_bytes, "adamw16_bytes", (json_int_t)bits->adamw16_bytes,
        "peak_rss_bytes", (json_int_t)qs_peak_rss(), "peak_bytes", (json_int_t)all.peak_bytes, "memory", memory_json(t));
    json_t *figures = figures_json(t);
    (void)json_object_update(result, figures);
    (void)json_object_update(result, settings);
    (void)json_object_update(result, sizes);
    if (qs_trainer_from(t->trainer)[0] != '\0')
        (void)json_object_set_new(result, "from", json_string(qs_trainer_from(t->trainer)));
    if (t->in_place) {
        (void)json_object_set_new(result, "model", json_string(t->from.path));
        (void)json_object_set_new(result, "streaming", streaming_json(t));
        (void)json_object_set_new(result, "pools", json_pack("{s:o, s:o}", "ram", pool_json(t, QS_POOL_RAM), "device",
                                                             pool_json(t, QS_POOL_DEVICE)));
    }
    json_decref(figures);
    json_decref(settings);
    json_decref(sizes);
    return result;
}
