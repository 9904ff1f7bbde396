/* bench_compare.c - see bench_compare.h. Works on the JSON of both, of which nothing is taken for granted. */
#include "bench_compare.h"

#include <errno.h>
#include <math.h>
#include <string.h>

static const double NOTICED = 1.02;
static const char *const KEYS[] = {"product", "m", "n", "k", "class", "level", "weights"};
static const char *const STEP_KEYS[] = {"level", "layers", "dim", "ffn", "heads", "kv_heads", "ctx", "batch"};
enum { KEY_COUNT = sizeof KEYS / sizeof KEYS[0], STEP_KEY_COUNT = sizeof STEP_KEYS / sizeof STEP_KEYS[0] };

int bench_compare_read(const char *path, json_t **old)
{
    json_error_t error;
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return fail_with(66, BENCH_NAME, "cannot open %s (%s); check the path given with --compare", path, strerror(errno));
    *old = json_loadf(file, 0, &error);
    (void)fclose(file);
    if (*old == NULL)
        return fail_with(EXIT_DATA, BENCH_NAME, "%s, line %d: %s; give what qsbits bench --json wrote", path, error.line,
                         error.text);
    if (json_is_array(json_object_get(*old, "rows")))
        return 0;
    json_decref(*old);
    *old = NULL;
    return fail_with(EXIT_DATA, BENCH_NAME, "%s holds no rows of products; give what qsbits bench --json wrote", path);
}

/* ---- matching -------------------------------------------------------------------------------------------------- */

static bool same(json_t *a, json_t *b, const char *const *keys, int count)
{
    for (int i = 0; i < count; i++) {
        json_t *x = json_object_get(a, keys[i]), *y = json_object_get(b, keys[i]);
        if (x == NULL || y == NULL || json_equal(x, y) == 0)
            return false;
    }
    return true;
}

static json_t *find(json_t *rows, json_t *row, const char *const *keys, int count)
{
    json_t *one = NULL;
    size_t i = 0;
    json_array_foreach(rows, i, one)
        if (same(one, row, keys, count))
            return one;
    return NULL;
}

static double number(json_t *row, const char *key)
{
    json_t *value = json_object_get(row, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* b takes longer than a, beyond both spreads. */
static bool longer(json_t *a, json_t *b)
{
    return number(b, "seconds") > NOTICED * number(a, "seconds") && number(b, "p10") > number(a, "p90");
}

static void count(json_t *comparison, const char *what)
{
    json_t *value = json_object_get(comparison, what);
    (void)json_object_set_new(comparison, what, json_integer(json_integer_value(value) + 1));
}

/* Adds a pair, whose key fields are those of what. */
static void add_pair(json_t *comparison, json_t *what, json_t *old, json_t *now)
{
    const double before = number(old, "seconds"), after = number(now, "seconds");
    if (!(before > 0.0) || !(after > 0.0)) {
        count(comparison, "unmatched");
        return;
    }
    const char *verdict = longer(old, now) ? "slower" : longer(now, old) ? "faster" : "same";
    json_t *row = json_pack("{s:f, s:f, s:f, s:s}", "old_seconds", before, "seconds", after, "ratio", after / before,
                            "verdict", verdict);
    for (int i = 0; i < KEY_COUNT; i++)
        (void)json_object_set(row, KEYS[i], json_object_get(what, KEYS[i]));
    (void)json_array_append_new(json_object_get(comparison, "rows"), row);
    count(comparison, verdict);
}

/* A training step or generation (what key holds) as rows: its tokens stand as m. */
static void compare_models(json_t *comparison, json_t *before, json_t *after, const char *key, const char *name)
{
    static const char *const class_key[] = {"class"};
    json_t *old = json_object_get(before, key), *now = json_object_get(after, key), *one = NULL;
    const bool step = json_object_get(now, "batch") != NULL;
    const bool matches = same(old, now, STEP_KEYS, STEP_KEY_COUNT - (step ? 0 : 1));   /* batch is the last */
    size_t i = 0;
    json_array_foreach(json_object_get(now, "classes"), i, one) {
        json_t *what = json_pack("{s:s, s:I, s:O, s:O, s:O, s:O, s:s}", "product", name, "m",
                                 step ? json_integer_value(json_object_get(now, "tokens")) : (json_int_t)1, "n",
                                 json_object_get(now, "layers"), "k", json_object_get(now, "dim"), "class",
                                 json_object_get(one, "class"), "level", json_object_get(now, "level"), "weights", "");
        add_pair(comparison, what, matches ? find(json_object_get(old, "classes"), one, class_key, 1) : NULL, one);
        json_decref(what);
    }
}

json_t *bench_compare(json_t *old, json_t *now)
{
    static const char *const machine[] = {"description", "threads"};
    json_t *row = NULL;
    size_t i = 0;
    json_t *comparison = json_pack("{s:[], s:i, s:i, s:i, s:i, s:b}", "rows", "slower", 0, "faster", 0, "same", 0,
                                   "unmatched", 0, "machine_changed", !same(old, now, machine, 2));
    json_array_foreach(json_object_get(now, "rows"), i, row)
        add_pair(comparison, row, find(json_object_get(old, "rows"), row, KEYS, KEY_COUNT), row);
    compare_models(comparison, old, now, "step", "training step");
    compare_models(comparison, old, now, "generate", "generation");
    return comparison;
}

/* ---- output ---------------------------------------------------------------------------------------------------- */

static const char *text(json_t *row, const char *key)
{
    const char *value = json_string_value(json_object_get(row, key));
    return value == NULL ? "" : value;
}

static long long whole(json_t *row, const char *key)
{
    return (long long)json_integer_value(json_object_get(row, key));
}

void bench_compare_print(const char *path, json_t *comparison)
{
    json_t *row = NULL;
    size_t i = 0;
    const bool changed = json_is_true(json_object_get(comparison, "machine_changed"));
    printf("\nbeside %s%s\n  %-14s %5s %6s %6s  %-5s %-12s %-4s %10s %10s %7s\n", path,
           changed ? ", measured on another machine or with other threads" : "", "product", "M", "N", "K",
           "class", "level", "", "old ms", "new ms", "ratio");
    json_array_foreach(json_object_get(comparison, "rows"), i, row) {
        const char *verdict = text(row, "verdict");
        printf("  %-14s %5lld %6lld %6lld  %-5s %-12s %-4s %10.3f %10.3f %7.3f  %s\n", text(row, "product"), whole(row, "m"),
               whole(row, "n"), whole(row, "k"), text(row, "class"), text(row, "level"), text(row, "weights"),
               1e3 * number(row, "old_seconds"), 1e3 * number(row, "seconds"), number(row, "ratio"),
               strcmp(verdict, "same") == 0 ? "" : verdict);
    }
    printf("  %lld slower, %lld faster, %lld the same within their spread, %lld without a partner\n",
           whole(comparison, "slower"), whole(comparison, "faster"), whole(comparison, "same"),
           whole(comparison, "unmatched"));
}
