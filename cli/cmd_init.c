/* cmd_init.c - qsbits init: a new model in a folder, as large as the disk, made tensor by tensor from a seed. */
#include "commands.h"
#include "common.h"
#include "from.h"
#include "progress.h"
#include "settings.h"
#include "signals.h"

static const char NAME[] = "init";

/* What is being written, and since when. */
typedef struct making {
    byte_progress progress;
    double started;
} making;

static int show(void *user, uint64_t done, uint64_t total)
{
    making *m = user;
    byte_progress_show(&m->progress, done, total);
    return signals_caught();
}

static int report(const options *o, const qs_model_config *config, const making *m)
{
    char weights[16], bytes[16], speed[16];
    qs_model_size size;
    const char *folder = o->value[OPT_OUT_MODEL].text;
    const double seconds = now_seconds() - m->started, total = (double)m->progress.total;
    const qs_status status = qs_model_size_of(config, &size);
    if (status != QS_OK)
        return fail_library(NAME, status, NULL);
    if (o->value[OPT_JSON].given)
        return print_json(NAME, json_pack("{s:s, s:I, s:o, s:I, s:I, s:I, s:f}", "path", folder, "seed",
                                          (json_int_t)o->value[OPT_INIT_SEED].integer, "model", settings_model_json(config),
                                          "packed_weights", (json_int_t)size.packed_weights, "float_params",
                                          (json_int_t)size.float_params, "bytes", (json_int_t)m->progress.total, "seconds",
                                          seconds));
    fprintf(stderr, "%s: %s weights of one bit, %s in %.1f s (%s/s); train it with: qsbits train --from %s --data FILE --out RUN\n",
            folder, human_count((double)size.packed_weights, weights), human_bytes(total, bytes), seconds,
            human_bytes(total / seconds, speed), folder);
    return 0;
}

static int make(const options *o, qs_context *context, const qs_model_config *config)
{
    making m;
    byte_progress_start(&m.progress);
    m.started = now_seconds();
    signals_catch();
    const char *folder = o->value[OPT_OUT_MODEL].text, *from = o->value[OPT_FROM].text;
    const qs_status status =
        from != NULL ? qs_model_write_copy(context, from, folder, show, &m)
                     : qs_model_write_new(context, config, (uint64_t)o->value[OPT_INIT_SEED].integer, folder, show, &m);
    byte_progress_end(&m.progress);
    const int number = signals_caught();
    if (status == QS_ERR_CANCELLED && number != 0)
        return fail_with(128 + number, NAME, "stopped by %s, nothing was left in %s; run the command again to make the model",
                         signals_name(number), o->value[OPT_OUT_MODEL].text);
    return status == QS_OK ? report(o, config, &m) : fail_library(NAME, status, NULL);
}

static int run(const options *o)
{
    qs_context *context = NULL;
    qs_model_config config;
    options told = *o;
    origin from;
    const char *folder = o->value[OPT_OUT_MODEL].text;
    if (folder == NULL)
        return fail_usage(NAME, "--out is missing; give the folder of the new model");
    if (folder[0] == '\0')
        return fail_usage(NAME, "--out is empty; give the folder of the new model");
    if (o->value[OPT_FROM].given && (o->value[OPT_CTX].given || o->value[OPT_INIT_SEED].given))
        return fail_usage(NAME, "--%s would change nothing, the weights and windows are those of --from; leave it away",
                          o->value[OPT_CTX].given ? "ctx" : "seed");
    int code = open_context(o, &context);
    if (code == 0)
        code = origin_open(&told, context, NULL, false, true, &from);
    if (code == 0)
        code = origin_model(&told, &from, &config);
    if (code == 0)
        code = make(&told, context, &config);
    qs_close(&context);
    return code;
}

static const int CODES[] = {64, 65, 66, 69, 70, 71, 73, 74, 129, 130, 143, 0};

const command init_command = {
    .name = "init",
    .bit = INIT,
    .required = "--out MODEL",
    .summary = "make a new model of any size, with random signs",
    .about =
        "Writes a model with random weights as a checkpoint of step 0: model.safetensors, manifest.json and a state.safetensors\n"
        "without tensors. It is made tensor by tensor, so that it needs a few megabytes of memory however large it is, and the\n"
        "disk is its limit: 90 billion weights are 11 GB. The same seed gives the same weights as qsbits train without --from,\n"
        "with every number of threads. inspect, eval, generate and train --from take the folder like that of any checkpoint.\n"
        "--from makes it of the weights of a checkpoint instead, without the training state, so that it may be trained in place.\n"
        "MODEL must be new or empty. If it cannot be finished (Ctrl-C, a full disk) nothing of it stays.",
    .examples = {"qsbits init --preset 90b --out model90b", "qsbits init --preset mini --ctx 512 --seed 7 --out model"},
    .exit_codes = CODES,
    .run = run,
    .more_help = settings_list_presets,
};
