/* cmd_compare.c - qsbits compare: several optimizers on one network, text and data order, over several seeds. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "compare_runs.h"
#include "compare_table.h"
#include "report.h"
#include "settings.h"
#include "signals.h"
#include "text.h"

static const char NAME[] = "compare";

/* The default of --arms without adamw, which cannot start from 1-bit weights. */
static const char ARMS_OF_BITS[] = "fsm:c4,ste,frozen";

/* ---- preparing ------------------------------------------------------------------------------------------------- */

/* Options that no arm would use. */
static int check_use(const comparison *c)
{
    if (c->o.value[OPT_RANK].given && arms_find(c->arms, c->count, QS_OPTIMIZER_LORA) < 0)
        return fail_usage(NAME, "--rank is for lora, and --arms has none; leave it away");
    if (c->o.value[OPT_ACTIVE_PARTS].given && arms_find(c->arms, c->count, QS_OPTIMIZER_FSM) < 0)
        return fail_usage(NAME, "--active-parts is for fsm, and --arms has none; leave it away");
    if (c->o.value[OPT_ANCHOR].given && !c->o.value[OPT_FROM].given)
        return fail_usage(NAME, "--anchor pulls weights back to the signs of --from; add --from RUN or leave it away");
    if (c->o.value[OPT_ANCHOR].given && arms_find(c->arms, c->count, QS_OPTIMIZER_FSM) < 0)
        return fail_usage(NAME, "--anchor is for fsm, and --arms has none; leave it away");
    return 0;
}

static int complete_options(comparison *c, const options *o)
{
    int code = 0;
    c->o = *o;
    if (o->value[OPT_CONFIG].given)
        code = settings_read(&c->o, o->value[OPT_CONFIG].text, &c->config);
    if (code == 0 && !c->o.value[OPT_OUT_FOLDER].given)
        code = fail_usage(NAME, "--out is missing; name a folder for the comparison, such as --out arms");
    if (code == 0 && !c->o.value[OPT_DATA].given)
        code = fail_usage(NAME, "--data is missing; name a text file, a folder of texts or a quoted pattern");
    if (code == 0 && c->o.value[OPT_FROM].given && !c->o.value[OPT_ARMS].given &&
        !options_set(&c->o, OPT_ARMS, "--arms", ARMS_OF_BITS))
        code = EXIT_INTERNAL;
    if (code == 0)
        code = arms_parse(c->o.value[OPT_ARMS].text, c->arms, &c->count);
    for (int i = 0; code == 0 && i < c->count; i++)
        if (c->arms[i].lr > 0.0 && c->o.value[OPT_SEARCH_LR].given)
            code = fail_usage(NAME, "--search-lr looks for rates, but %s has one; leave one of them away", c->arms[i].name);
    if (code == 0)
        code = check_use(c);
    if (code == 0)
        code = run_folder_init(&c->folder, c->o.value[OPT_OUT_FOLDER].text);
    return code;
}

/* What may differ when a comparison goes on: more arms, more seeds. */
static bool may_change(const char *key)
{
    return strcmp(key, options_row(OPT_ARMS)->name) == 0 || strcmp(key, options_row(OPT_SEEDS)->name) == 0;
}

/* A folder that holds another comparison is refused, naming the first setting that differs. */
static int check_settings(const comparison *c, json_t *ours)
{
    json_t *saved = NULL, *value = NULL;
    const char *key = NULL;
    int code = run_folder_read_config(&c->folder, &saved);
    json_t *theirs = json_object_get(saved, "options");
    if (code == 0 && saved != NULL && json_object_get(theirs, options_row(OPT_ARMS)->name) == NULL)
        code = fail_with(EXIT_CREATE, NAME, "%s is the folder of a training; choose another --out", c->folder.path);
    json_object_foreach(ours, key, value) {
        const json_t *other = json_object_get(theirs, key);
        if (code != 0 || saved == NULL)
            break;
        if (!may_change(key) && !json_equal(value, other))
            code = fail_with(EXIT_CREATE, NAME, "%s was made with %s %s, not %s; use the same settings or another --out",
                             c->folder.path, key, other == NULL ? "left away" : json_string_value(other),
                             json_string_value(value));
    }
    json_object_foreach(theirs, key, value)
        if (code == 0 && !may_change(key) && json_object_get(ours, key) == NULL)
            code = fail_with(EXIT_CREATE, NAME, "%s was made with --%s %s; use the same settings or another --out",
                             c->folder.path, key, json_string_value(value));
    json_decref(saved);
    return code;
}

/* The checkpoint that --from stands for now, for all runs, and whether every arm can train, from it where it is given. */
static int check_arms(comparison *c, qs_context *context)
{
    double rate;
    int code = origin_open(&c->o, context, NULL, false, true, &c->from);
    for (int i = 0; code == 0 && i < c->count; i++) {
        code = origin_check_optimizer(NAME, &c->from, "--arms:", c->arms[i].optimizer);
        if (code == 0)
            code = compare_default_rate(c, i, &rate);
    }
    return code;
}

/* Opens texts and checkpoint once, so that what is wrong with them is told before a folder is made. */
static int check_inputs(comparison *c)
{
    qs_context *context = NULL;
    qs_text *text = NULL, *also = NULL;
    int code = open_context(&c->o, &context);
    if (code == 0)
        code = check_arms(c, context);
    if (code == 0)
        code = open_text(&c->o, OPT_DATA, context, &text, &c->data);
    if (code == 0 && c->o.value[OPT_ALSO].given)
        code = open_text(&c->o, OPT_ALSO, context, &also, &c->also);
    if (c->also != NULL)
        c->o.value[OPT_ALSO].text = c->also;
    qs_text_free(&text);
    qs_text_free(&also);
    qs_close(&context);
    return code;
}

static int open_comparison(comparison *c, const options *o)
{
    memset(c, 0, sizeof *c);
    c->started = now_seconds();
    c->folder.lock = -1;
    int code = complete_options(c, o);
    if (code == 0)
        code = check_inputs(c);
    if (code != 0)
        return code;
    c->seeds = c->o.value[OPT_SEEDS].integer;
    c->planned = c->count * (int)c->seeds;
    c->results = calloc((size_t)c->planned, sizeof *c->results);
    if (c->o.value[OPT_SEARCH_LR].given)
        c->planned += c->count * (SEARCH_LEAST - 1);
    if (c->results == NULL)
        return fail_with(71, NAME, "no memory; close other programs");
    json_t *ours = settings_options(&c->o, c->data);
    code = check_settings(c, ours);
    if (code == 0)
        code = run_folder_create(&c->folder);
    if (code == 0)
        code = run_folder_write(&c->folder, c->folder.config, json_pack("{s:s, s:O}", "qsbits", qs_version(), "options", ours));
    json_decref(ours);
    return code;
}

static void close_comparison(comparison *c)
{
    for (int i = 0; c->results != NULL && i < c->count * (int)c->seeds; i++)
        json_decref(c->results[i]);
    free(c->results);
    run_folder_close(&c->folder);
    json_decref(c->config);
    free(c->data);
    free(c->also);
}

/* ---- running --------------------------------------------------------------------------------------------------- */

static bool has_test(const comparison *c) { return c->o.value[OPT_TEST_FRACTION].real > 0.0; }

/* compare.json, after every run: what there is can be looked at while the rest goes on. */
static int write_statistics(comparison *c, json_t *searches, json_t **out)
{
    char path[PATH_MAX];
    json_t *statistics = compare_statistics(c->arms, c->count, c->seeds, c->results, has_test(c), c->also != NULL);
    json_t *all = json_pack("{s:s, s:i, s:i, s:I, s:O}", "qsbits", qs_version(), "runs_done", c->done, "runs_planned", c->planned,
                            "seeds", (json_int_t)c->seeds, "search", searches);
    (void)json_object_update(all, statistics);
    json_decref(statistics);
    json_decref(*out);
    *out = json_incref(all);
    (void)snprintf(path, sizeof path, "%.*s/compare.json", PATH_MAX - 16, c->folder.path);
    return run_folder_write(&c->folder, path, all);
}

static int run_all(comparison *c, json_t *searches, json_t **statistics)
{
    int code = 0;
    for (int i = 0; code == 0 && i < c->count && c->o.value[OPT_SEARCH_LR].given; i++) {
        json_t *tried = NULL;
        code = compare_search(c, i, &tried);
        (void)json_object_set_new(searches, c->arms[i].name, tried);
        if (code == 0)
            code = write_statistics(c, searches, statistics);
    }
    for (int64_t seed = 0; code == 0 && seed < c->seeds; seed++) {
        for (int i = 0; code == 0 && i < c->count; i++) {
            json_t **result = &c->results[i * c->seeds + seed];
            if (*result == NULL)
                code = compare_run(c, i, c->arms[i].lr, seed + 1, result);
            if (code == 0)
                code = write_statistics(c, searches, statistics);
        }
    }
    return code;
}

/* compare.md and report.html. */
static int write_pages(const comparison *c, const json_t *statistics)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof path, "%.*s/compare.md", PATH_MAX - 16, c->folder.path);
    FILE *file = fopen(path, "w");
    if (file != NULL) {
        compare_print(file, statistics, true);
        if (has_test(c) || c->also != NULL)
            compare_caption(file, statistics);
    }
    if (file == NULL || fclose(file) != 0)
        return fail_with(EXIT_IO, NAME, "cannot write %s (%s); check the disk and its free space", path, strerror(errno));
    (void)snprintf(path, sizeof path, "%.*s/report.html", PATH_MAX - 16, c->folder.path);
    return report_write(NAME, 1, &c->folder.path, NULL, path);
}

static int finish(const comparison *c, json_t *statistics)
{
    const int code = write_pages(c, statistics);
    if (code != 0)
        return code;
    if (c->o.value[OPT_JSON].given)
        return print_json(NAME, json_incref(statistics));
    compare_print(stdout, statistics, false);
    compare_caption(stderr, statistics);
    fprintf(stderr, "%s/compare.md and report.html hold the table and the curves\n", c->folder.path);
    return flush_output(NAME);
}

static int start(const options *o)
{
    json_t *searches = json_object(), *statistics = NULL;
    comparison *c = calloc(1, sizeof *c);
    if (c == NULL)
        return fail_with(71, NAME, "no memory; close other programs");
    int code = open_comparison(c, o);
    if (code == 0) {
        signals_catch();
        code = run_all(c, searches, &statistics);
        if (code == EXIT_STOPPED || code > 128)
            (void)fail_with(code, NAME, "stopped after %d of %d runs; go on with the same command", c->done, c->planned);
        if (code == EXIT_STOPPED)  /* out of time: what there is so far */
            code = write_statistics(c, searches, &statistics);
        if (code == 0)
            code = finish(c, statistics);
    }
    close_comparison(c);
    json_decref(searches);
    json_decref(statistics);
    free(c);
    return code;
}

static const int CODES[] = {64, 65, 66, 69, 70, 71, 73, 74, 129, 130, 143, 0};

const command compare_command = {
    .name = "compare",
    .bit = COMPARE,
    .required = "--data FILE|DIR|GLOB --out DIR",
    .summary = "train several optimizers side by side and tell what they are worth",
    .about =
        "Trains every arm with every seed: the same network, text and order of data, each arm at its own learning rate\n"
        "(--arms ...@LR, the searched default, or --search-lr). Ends in a table: validation loss, paired differences to ste\n"
        "and closure (the share of the way from frozen signs to ste), each with its standard error over the seeds, measured\n"
        "bits per weight, speed and flips; as text (--json: an object), and in DIR as compare.json, compare.md and\n"
        "report.html. The same command goes on after Ctrl-C or a kill; more arms or seeds may be added to it later.\n"
        "--search-lr chooses by the validation loss of seed 1, whose run then stands in the table as well. With --test-fraction\n"
        "losses, differences and closure are those of the test part, which every run evaluates once, at its end: rates are\n"
        "searched, and the best checkpoints kept, by the validation part only, whose loss is a column of its own. --also adds\n"
        "what a second text has lost: its loss at the end less that before the first step. With --from every arm starts from\n"
        "the same checkpoint; adamw cannot start from 1-bit weights and is then no arm by default.",
    .examples = {"qsbits compare --data book.txt --out arms --arms fsm:c4,fsm:c2,ste,frozen,adamw,bop --seeds 3 --steps 1200",
                 "qsbits compare --data book.txt --out rates --arms fsm:c4,ste --search-lr --seeds 1 --steps 600"},
    .exit_codes = CODES,
    .run = start,
};
