/* report_data.c - see report_data.h: run folders and comparison folders, their settings and results. */
#include "report_data.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SETTINGS_LIMIT = 1 << 20, COMPARISON_LIMIT = 1 << 26 };

/* ---- texts and numbers ------------------------------------------------------------------------------------------ */

/* Bytes of the character at the start of a text that is not empty; 0 if it is none of UTF-8. */
static size_t character_bytes(const char *text)
{
    for (size_t n = 1; n <= 4 && text[n - 1] != '\0'; n++) {
        json_t *character = json_stringn(text, n);
        json_decref(character);
        if (character != NULL)
            return n;
    }
    return 0;
}

json_t *report_text(const char *text)
{
    static const char unknown[] = "\xEF\xBF\xBD";  /* U+FFFD */
    char out[TEXT_LIMIT + 4];
    size_t length = 0;
    while (*text != '\0') {
        const size_t n = character_bytes(text);
        const char *from = n > 0 ? text : unknown;
        const size_t bytes = n > 0 ? n : sizeof unknown - 1;
        if (length + bytes > TEXT_LIMIT)
            break;
        memcpy(out + length, from, bytes);
        length += bytes;
        text += n > 0 ? n : 1;
    }
    return json_stringn(out, length);
}

/* The texts, numbers and truth values of an object; an empty object where there is none. */
static json_t *scalars_of(json_t *object)
{
    json_t *out = json_object(), *value = NULL;
    const char *key = NULL;
    json_object_foreach(object, key, value) {
        if (strlen(key) > TEXT_LIMIT || json_is_object(value) || json_is_array(value))
            continue;
        if (json_is_string(value))
            (void)json_object_set_new(out, key, report_text(json_string_value(value)));
        else
            (void)json_object_set(out, key, value);
    }
    return out;
}

static json_t *number_of(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_incref(value) : json_null();
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

static bool is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

static bool join(char out[PATH_MAX], const char *folder, const char *name)
{
    const int n = snprintf(out, PATH_MAX, "%s/%s", folder, name);
    return n > 0 && n < PATH_MAX;
}

/* A file that holds one JSON object of at most limit bytes. 0 or an exit code after a message. */
static int read_object(const char *name, const char *path, int64_t limit, json_t **out)
{
    struct stat st;
    json_error_t error;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return fail_with(EXIT_DATA, name, "%s is no plain file; restore it or leave the folder out", path);
    FILE *file = fopen(path, "r");
    if (file == NULL || fstat(fileno(file), &st) != 0 || st.st_size > limit) {
        const int code = file == NULL
            ? fail_with(66, name, "cannot open %s (%s); check its permissions", path, strerror(errno))
            : fail_with(EXIT_DATA, name, "%s is larger than %lld bytes; it is not from qsbits", path, (long long)limit);
        if (file != NULL)
            (void)fclose(file);
        return code;
    }
    *out = json_loadf(file, 0, &error);
    (void)fclose(file);
    if (*out == NULL)
        return fail_with(EXIT_DATA, name, "%s, line %d: %s; the file is damaged, restore it or leave the folder out", path,
                         error.line, error.text);
    if (json_is_object(*out))
        return 0;
    json_decref(*out);
    *out = NULL;
    return fail_with(EXIT_DATA, name, "%s, line 1: no JSON object; the file is damaged, restore it or leave the folder out",
                     path);
}

/* ---- one run ---------------------------------------------------------------------------------------------------- */

/* Where a run comes from. */
typedef struct origin {
    int64_t comparison, seed;   /* -1: a run of its own */
    const char *arm;            /* NULL: the same */
} origin;

static int read_config(const char *name, const char *folder, json_t *run)
{
    static const char *const parts[] = {"options", "model", "training", "text"};
    char path[PATH_MAX];
    json_t *config = NULL;
    if (!join(path, folder, "config.json"))
        return fail_usage(name, "a path is longer than %d bytes; choose a shorter one", PATH_MAX);
    const int code = read_object(name, path, SETTINGS_LIMIT, &config);
    if (code != 0)
        return code;
    const bool ours =
        json_is_object(json_object_get(config, "options")) && json_is_string(json_object_get(config, "qsbits"));
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        (void)json_object_set_new(run, parts[i], scalars_of(json_object_get(config, parts[i])));
    json_decref(config);
    return ours ? 0 : fail_with(EXIT_DATA, name, "%s is not from qsbits train; name a folder that it wrote", path);
}

static int read_result(const char *name, const char *folder, json_t *run)
{
    char path[PATH_MAX];
    json_t *result = NULL;
    (void)json_object_set_new(run, "result", json_null());
    if (!join(path, folder, "result.json") || !is_file(path))
        return 0;
    const int code = read_object(name, path, SETTINGS_LIMIT, &result);
    if (code != 0)
        return code;
    json_t *memory = json_object_get(result, "memory");
    if (json_is_object(memory)) {
        (void)json_object_set_new(run, "memory", scalars_of(memory));
        (void)json_object_set_new(run, "memory_peak", json_true());
    }
    (void)json_object_set_new(run, "peak", number_of(result, "peak_bytes"));
    (void)json_object_set_new(run, "result", scalars_of(result));
    json_decref(result);
    return 0;
}

/* The last part of a path, also of "." and "run/". */
static json_t *label_of(const char *folder)
{
    char path[PATH_MAX];
    const char *slash = realpath(folder, path) == NULL ? NULL : strrchr(path, '/');
    return report_text(slash == NULL || slash[1] == '\0' ? folder : slash + 1);
}

static void warn_skipped(const char *name, const json_t *bits)
{
    size_t i = 0;
    const json_t *text = NULL;
    json_array_foreach(json_object_get(bits, "skipped"), i, text)
        warn(name, "%s", json_string_value(text));
}

static int add_run(const char *name, const char *folder, const origin *from, const char *tensor, json_t *runs)
{
    char path[PATH_MAX];
    if (json_array_size(runs) >= REPORT_RUNS)
        return fail_usage(name, "more than %d runs; name fewer folders", REPORT_RUNS);
    json_t *run = json_pack("{s:o, s:o, s:o, s:s?, s:o}", "label", label_of(folder), "folder", report_text(folder),
                            "comparison", from->comparison < 0 ? json_null() : json_integer((json_int_t)from->comparison),
                            "arm", from->arm, "seed", from->seed < 0 ? json_null() : json_integer((json_int_t)from->seed));
    int code = read_config(name, folder, run);
    if (code == 0)
        code = read_result(name, folder, run);
    if (code == 0 && join(path, folder, "metrics.jsonl"))
        code = report_metrics(name, path, run);
    if (code == 0) {
        json_t *bits = report_bits(folder, tensor);
        warn_skipped(name, bits);
        (void)json_object_set_new(run, "bits", bits);
        (void)json_array_append(runs, run);
    }
    json_decref(run);
    return code;
}

/* ---- a comparison ----------------------------------------------------------------------------------------------- */

/* {"mean","stderr","to"} or null. */
static json_t *estimate_of(const json_t *arm, const char *key)
{
    json_t *value = json_object_get(arm, key);
    return json_is_object(value) ? scalars_of(value) : json_null();
}

/* Folders of a comparison lie in it: a name without slashes, which is not "..". */
static bool is_plain_name(const char *text)
{
    return text != NULL && text[0] != '\0' && strchr(text, '/') == NULL && strcmp(text, ".") != 0 && strcmp(text, "..") != 0;
}

/* One seed of an arm: {"seed","val_loss","test_loss","run"}; run is null if its folder is gone. */
static int add_seed(const char *name, const char *folder, const json_t *seed, origin *from, const char *tensor, json_t *runs,
                    json_t *list)
{
    char path[PATH_MAX], config[PATH_MAX];
    const char *part = json_string_value(json_object_get(seed, "folder"));
    const json_t *number = json_object_get(seed, "seed");
    if (!is_plain_name(part) || !join(path, folder, part) || !join(config, path, "config.json"))
        return fail_with(EXIT_DATA, name,
                         "%s/compare.json names a run that does not lie in it; make it again with qsbits compare", folder);
    from->seed = json_is_integer(number) && json_integer_value(number) >= 0 ? (int64_t)json_integer_value(number) : -1;
    const bool there = is_file(config);
    const size_t index = json_array_size(runs);
    if (!there)
        warn(name, "%s is gone; its curves are left out", path);
    const int code = there ? add_run(name, path, from, tensor, runs) : 0;
    (void)json_array_append_new(list, json_pack("{s:o, s:o, s:o, s:o}", "seed", number_of(seed, "seed"), "val_loss",
                                                number_of(seed, "val_loss"), "test_loss", number_of(seed, "test_loss"), "run",
                                                there ? json_integer((json_int_t)index) : json_null()));
    return code;
}

static int add_arm(const char *name, const char *folder, json_t *arm, int64_t comparison, const char *tensor, json_t *runs,
                   json_t *arms)
{
    const char *text = json_string_value(json_object_get(arm, "arm"));
    size_t i = 0;
    json_t *seed = NULL, *list = json_array(), *title = report_text(text == NULL ? "?" : text);
    origin from = {comparison, -1, json_string_value(title)};
    int code = 0;
    json_array_foreach(json_object_get(arm, "runs"), i, seed)
        if (code == 0)
            code = add_seed(name, folder, seed, &from, tensor, runs, list);
    (void)json_array_append_new(
        arms, json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "arm", title, "lr", number_of(arm, "lr"), "loss",
                        estimate_of(arm, "loss"), "closure", estimate_of(arm, "closure"), "difference",
                        estimate_of(arm, "difference"), "validation", estimate_of(arm, "validation"), "also",
                        estimate_of(arm, "also"), "bits_per_weight", number_of(arm, "bits_per_weight"),
                        "tokens_per_second", number_of(arm, "tokens_per_second"), "flips_per_weight",
                        number_of(arm, "flips_per_weight"), "runs", list));
    return code;
}

static int add_comparison(const char *name, const char *folder, const char *path, const char *tensor, json_t *data)
{
    json_t *comparison = NULL, *arm = NULL, *arms = json_array();
    json_t *comparisons = json_object_get(data, "comparisons"), *runs = json_object_get(data, "runs");
    size_t i = 0;
    int code = read_object(name, path, COMPARISON_LIMIT, &comparison);
    json_t *list = json_object_get(comparison, "arms");
    if (code == 0 && !json_is_array(list))
        code = fail_with(EXIT_DATA, name, "%s holds no arms; make it again with qsbits compare", path);
    json_array_foreach(list, i, arm)
        if (code == 0)
            code = add_arm(name, folder, arm, (int64_t)json_array_size(comparisons), tensor, runs, arms);
    const char *reference = json_string_value(json_object_get(comparison, "reference"));
    const char *split = json_string_value(json_object_get(comparison, "split"));
    const bool tested = split != NULL && strcmp(split, "test") == 0, also = json_is_true(json_object_get(comparison, "also"));
    if (code == 0)
        (void)json_array_append_new(comparisons,
                                    json_pack("{s:o, s:o, s:o, s:b, s:b, s:O}", "label", label_of(folder), "reference",
                                              reference == NULL ? json_null() : report_text(reference), "steps",
                                              number_of(comparison, "steps"), "tested", tested, "also", also, "arms", arms));
    json_decref(arms);
    json_decref(comparison);
    return code;
}

/* ---- all of them ------------------------------------------------------------------------------------------------ */

static int add_operand(const char *name, const char *folder, const char *tensor, json_t *data)
{
    const origin own = {-1, -1, NULL};
    char config[PATH_MAX], compare[PATH_MAX];
    struct stat st;
    if (stat(folder, &st) != 0)
        return fail_with(66, name, "cannot open %s (%s); name a run folder or a comparison folder", folder, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return fail_with(EXIT_DATA, name, "%s is no folder; name a run folder or a comparison folder", folder);
    if (!join(config, folder, "config.json") || !join(compare, folder, "compare.json"))
        return fail_usage(name, "a path is longer than %d bytes; choose a shorter one", PATH_MAX);
    if (is_file(compare))
        return add_comparison(name, folder, compare, tensor, data);
    if (is_file(config))
        return add_run(name, folder, &own, tensor, json_object_get(data, "runs"));
    return fail_with(EXIT_DATA, name,
                     "%s holds neither config.json nor compare.json; name what qsbits train or compare wrote", folder);
}

/* Runs whose last parts of the path agree are told apart by the whole. */
static void tell_labels_apart(json_t *runs)
{
    const size_t count = json_array_size(runs);
    for (size_t i = 0; i < count; i++) {
        const json_t *label = json_object_get(json_array_get(runs, i), "label");
        for (size_t j = i + 1; j < count; j++) {
            json_t *a = json_array_get(runs, i), *b = json_array_get(runs, j);
            if (json_equal(label, json_object_get(b, "label"))) {
                (void)json_object_set(a, "title", json_object_get(a, "folder"));
                (void)json_object_set(b, "title", json_object_get(b, "folder"));
            }
        }
    }
    for (size_t i = 0; i < count; i++) {
        json_t *run = json_array_get(runs, i), *title = json_object_get(run, "title");
        if (title != NULL)
            (void)json_object_set(run, "label", title);
        (void)json_object_del(run, "title");
        (void)json_object_del(run, "folder");
    }
}

static bool any_bits(const json_t *runs)
{
    size_t i = 0;
    const json_t *run = NULL;
    json_array_foreach(runs, i, run)
        if (json_object_get(json_object_get(run, "bits"), "after") != NULL)
            return true;
    return false;
}

int report_collect(const char *name, int count, const char *const *folders, const char *tensor, json_t **data)
{
    int code = 0;
    json_t *all = json_pack("{s:s, s:[], s:[]}", "qsbits", qs_version(), "comparisons", "runs");
    json_t *runs = json_object_get(all, "runs");
    if (runs == NULL)
        code = fail_with(71, name, "no memory; close other programs");
    for (int i = 0; i < count && code == 0; i++)
        code = add_operand(name, folders[i], tensor, all);
    if (code == 0 && tensor != NULL && !any_bits(runs))
        code = fail_with(EXIT_DATA, name,
                         "no run has a checkpoint with the 1-bit tensor '%s'; qsbits inspect RUN lists them", tensor);
    if (code == 0)
        tell_labels_apart(runs);
    if (code == 0)
        *data = all;
    else
        json_decref(all);
    return code;
}
