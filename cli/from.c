/* from.c - see from.h. */
#include "from.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "settings.h"

/* ---- what a run remembers -------------------------------------------------------------------------------------- */

/* Whether a path as given stands for `saved`, a checkpoint from the root on: for itself, or for the run that it lies in. */
static bool stands_for(const char *text, const char *saved)
{
    char folder[PATH_MAX] = "", path[PATH_MAX];
    if (text[0] != '/' && getcwd(folder, sizeof folder) == NULL)
        return false;
    const int n = snprintf(path, sizeof path, "%s%s%s", folder, folder[0] == '\0' ? "" : "/", text);
    if (n <= 0 || n >= PATH_MAX)
        return false;
    size_t length = (size_t)n;
    while (length > 1 && path[length - 1] == '/')
        length--;
    return strncmp(path, saved, length) == 0 && (saved[length] == '\0' || saved[length] == '/');
}

/* Path, checksum and model of a run that started from something. */
static bool recall(const json_t *config, origin *out)
{
    const char *path = json_string_value(json_object_get(json_object_get(config, "options"), options_row(OPT_FROM)->name));
    const char *checksum = json_string_value(json_object_get(json_object_get(config, "from"), "xxh3_128"));
    if (path == NULL || checksum == NULL || strlen(path) >= sizeof out->path || strlen(checksum) >= sizeof out->checksum ||
        !settings_model_from_json(json_object_get(config, "model"), &out->model))
        return false;
    (void)strcpy(out->path, path);
    (void)strcpy(out->checksum, checksum);
    return true;
}

/* ---- what a checkpoint says ------------------------------------------------------------------------------------ */

static int read_model(const char *name, const qs_checkpoint *checkpoint, origin *out)
{
    const char *text = qs_checkpoint_config(checkpoint);
    const qs_status status = qs_checkpoint_check_model(checkpoint);
    if (status != QS_OK)
        return fail_library(name, status, "--from takes what qsbits train wrote");
    json_t *config = text == NULL ? NULL : json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    const bool read = settings_model_from_json(json_object_get(config, "model"), &out->model);
    json_decref(config);
    return read ? 0
                : fail_with(EXIT_DATA, name, "%s does not tell the shape of its model; --from takes what qsbits train wrote",
                            qs_checkpoint_path(checkpoint));
}

static int open_checkpoint(const options *o, qs_context *context, origin *out)
{
    const char *name = o->command->name;
    qs_checkpoint *checkpoint = NULL;
    const qs_status status = qs_checkpoint_open(context, o->value[OPT_FROM].text, &checkpoint);
    if (status != QS_OK)
        return fail_library(name, status, status == QS_ERR_NOINPUT ? "--from takes a run folder, a checkpoint folder or a "
                                                                     "model.safetensors" : NULL);
    int code = read_model(name, checkpoint, out);
    if (code == 0 && realpath(qs_checkpoint_path(checkpoint), out->path) == NULL)
        code = fail_with(66, name, "cannot find %s again (%s); check the path given with --from",
                         qs_checkpoint_path(checkpoint), strerror(errno));
    qs_checkpoint_close(&checkpoint);
    return code;
}

/* What the options say from now on. */
static int settle(options *o, origin *from)
{
    bool set = options_set(o, OPT_FROM, "--from", from->path);
    (void)snprintf(from->rank, sizeof from->rank, "%lld", (long long)from->model.lora_rank);
    if (from->model.lora_rank > 0 && !o->value[OPT_RANK].given)
        set = set && options_set(o, OPT_RANK, "--from", from->rank);
    return set ? 0 : EXIT_INTERNAL;
}

int origin_open(options *o, qs_context *context, const json_t *config, bool begun, bool told, origin *out)
{
    memset(out, 0, sizeof *out);
    const option_value *v = &o->value[OPT_FROM];
    if (!v->given)
        return 0;
    if (v->text[0] == '\0')
        return fail_usage(o->command->name, "--from is empty; name a run folder, checkpoint folder or model.safetensors");
    const bool recalled = recall(config, out);
    const bool gone = access(v->text, F_OK) != 0 && errno == ENOENT;
    out->needless = recalled && begun && (!told || (gone && stands_for(v->text, out->path)));
    if (told && !out->needless)
        out->checksum[0] = '\0';
    const int code = out->needless ? 0 : open_checkpoint(o, context, out);
    return code != 0 ? code : settle(o, out);
}

/* ---- the shape ------------------------------------------------------------------------------------------------- */

static int fail_shape(const options *o, const origin *from, option_id id, const char *what, int64_t ours, int64_t theirs)
{
    return fail_usage(o->command->name, "--%s%s%s gives %s %lld, but %s has %lld; leave it away, the shape comes from "
                      "--from", options_row(id)->name, id == OPT_PRESET ? " " : "", id == OPT_PRESET ? o->value[id].text : "", what,
                      (long long)ours, from->path, (long long)theirs);
}

/* Options of the shape: id, field. A 0 stands for the field's default. */
#define SHAPE_OPTIONS(X) \
    X(OPT_LAYERS, layers) X(OPT_DIM, dim) X(OPT_HEADS, heads) X(OPT_KV_HEADS, kv_heads) X(OPT_HEAD_DIM, head_dim) \
    X(OPT_FFN, ffn)

static int check_sizes(const options *o, const origin *from)
{
    const qs_model_config *theirs = &from->model;
    const option_value *v = o->value;
    qs_model_config automatic = *theirs, preset;
    automatic.kv_heads = automatic.head_dim = automatic.ffn = 0;
    if (qs_model_config_resolve(&automatic) != QS_OK)
        automatic = *theirs;  /* there are no such defaults: a 0 says nothing */
#define CHECK(id, field) \
    if (v[id].given && (v[id].integer != 0 ? v[id].integer : automatic.field) != theirs->field) \
        return fail_shape(o, from, id, #field, v[id].integer, theirs->field);
    SHAPE_OPTIONS(CHECK)
#undef CHECK
    if (theirs->lora_rank > 0 && v[OPT_RANK].integer != theirs->lora_rank)
        return fail_shape(o, from, OPT_RANK, "lora_rank", v[OPT_RANK].integer, theirs->lora_rank);
    if (!v[OPT_PRESET].given)
        return 0;
    const int code = settings_model(o, &preset);
    if (code != 0)
        return code;
#define CHECK(id, field) \
    if (preset.field != theirs->field) \
        return fail_shape(o, from, OPT_PRESET, #field, preset.field, theirs->field);
    SHAPE_OPTIONS(CHECK)
#undef CHECK
    return 0;
}

/* Flags can only turn something on, or off. */
static int check_switches(const options *o, const origin *from)
{
    const option_value *v = o->value;
    if (v[OPT_QK_NORM].integer != 0 && !from->model.qk_norm)
        return fail_shape(o, from, OPT_QK_NORM, "qk_norm", 1, 0);
    if (v[OPT_NO_SUB_NORM].integer != 0 && from->model.sub_norm)
        return fail_shape(o, from, OPT_NO_SUB_NORM, "sub_norm", 0, 1);
    if (v[OPT_TIED].integer != 0 && !from->model.tied)
        return fail_shape(o, from, OPT_TIED, "tied", 1, 0);
    return 0;
}

int origin_model(const options *o, const origin *from, qs_model_config *config)
{
    if (from->path[0] == '\0')
        return settings_model(o, config);
    int code = check_sizes(o, from);
    if (code == 0)
        code = check_switches(o, from);
    *config = from->model;
    if (o->value[OPT_CTX].given)
        config->ctx = o->value[OPT_CTX].integer;
    if (o->value[OPT_OPTIMIZER].integer == QS_OPTIMIZER_LORA)
        config->lora_rank = o->value[OPT_RANK].given ? o->value[OPT_RANK].integer : QS_LORA_RANK;
    return code;
}

int origin_check_optimizer(const char *name, const origin *from, const char *option, qs_optimizer optimizer)
{
    const bool dense = optimizer == QS_OPTIMIZER_ADAMW;
    const char *word = options_choice_text(OPT_OPTIMIZER, optimizer);
    if (from->path[0] == '\0')
        return 0;
    if ((from->model.dense != 0) != dense)
        return fail_usage(name, "%s %s trains %s matrices, but %s holds %s ones; %s", option, word, dense ? "fp32" : "1-bit",
                          from->path, dense ? "1-bit" : "fp32",
                          dense ? "take an optimizer of 1-bit weights" : "only adamw can start from them");
    if (from->model.lora_rank > 0 && optimizer != QS_OPTIMIZER_LORA)
        return fail_usage(name, "%s %s would leave behind the adapters of %s; only lora can start from them", option, word,
                          from->path);
    return 0;
}

/* ---- the weights ----------------------------------------------------------------------------------------------- */

qs_status origin_start(const origin *from, qs_trainer *trainer)
{
    qs_status status = QS_OK;
    if (from->path[0] == '\0')
        return QS_OK;
    if (from->checksum[0] != '\0')
        status = qs_trainer_expect_from(trainer, from->checksum);
    return status != QS_OK || from->needless ? status : qs_trainer_start_from(trainer, from->path);
}
