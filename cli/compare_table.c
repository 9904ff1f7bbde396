/* compare_table.c - see compare_table.h. */
#include "compare_table.h"

#include <math.h>
#include <string.h>

typedef struct sample {
    double sum, squares;   /* of deviations from the first value, which keeps them exact */
    double first;
    int64_t count;
} sample;

static void sample_add(sample *s, double value)
{
    if (s->count++ == 0)
        s->first = value;
    const double d = value - s->first;
    s->sum += d;
    s->squares += d * d;
}

static double sample_mean(const sample *s)
{
    return s->count == 0 ? NAN : s->first + s->sum / (double)s->count;
}

/* Of the mean: sqrt(variance / n) with the unbiased variance. */
static double sample_error(const sample *s)
{
    const double n = (double)s->count;
    if (s->count < 2)
        return NAN;
    const double variance = (s->squares - s->sum * s->sum / n) / (n - 1.0);
    return sqrt((variance > 0.0 ? variance : 0.0) / n);
}

static json_t *sample_json(const sample *s, const char *to)
{
    if (s->count == 0)
        return json_null();
    json_t *value = json_pack("{s:o, s:o}", "mean", json_number(sample_mean(s)), "stderr", json_number(sample_error(s)));
    if (to != NULL)
        (void)json_object_set_new(value, "to", json_string(to));
    return value;
}

/* ---- statistics ------------------------------------------------------------------------------------------------ */

static double number(const json_t *result, const char *key)
{
    const json_t *value = json_object_get(result, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* What is compared. */
typedef struct figures {
    json_t *const *results;    /* [arms * seeds] */
    int64_t seeds;
    const char *loss;          /* key of a result: "val_loss" or "test_loss" */
    bool also;
} figures;

/* The loss of a run, NaN while it is not done or was not finite. */
static double loss_of(const figures *f, int index, int64_t seed)
{
    return index < 0 ? NAN : number(f->results[index * f->seeds + seed], f->loss);
}

static json_t *run_json(const json_t *result, int64_t seed)
{
    static const char *const keys[] = {"folder", "val_loss", "test_loss", "also_loss", "also_loss_start", "train_loss", "best_loss",
                                       "tokens_per_second", "flips_per_weight", "training_bits_per_weight", "lr", "seconds",
                                       "stopped"};
    json_t *run = json_pack("{s:I}", "seed", (json_int_t)seed);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        json_t *value = json_object_get(result, keys[i]);
        if (value != NULL)
            (void)json_object_set(run, keys[i], value);
    }
    return run;
}

static json_t *mean_of(const figures *f, int index, const char *key)
{
    sample s = {0.0, 0.0, 0.0, 0};
    for (int64_t seed = 0; seed < f->seeds; seed++) {
        const double value = number(f->results[index * f->seeds + seed], key);
        if (isfinite(value))
            sample_add(&s, value);
    }
    return json_number(sample_mean(&s));
}

/* Of key, less key `less` where that is not NULL; null where a run that is done lacks it or was not finite. */
static json_t *estimate_of(const figures *f, int index, const char *key, const char *less)
{
    sample s = {0.0, 0.0, 0.0, 0};
    for (int64_t seed = 0; seed < f->seeds; seed++) {
        const json_t *result = f->results[index * f->seeds + seed];
        const double value = number(result, key) - (less == NULL ? 0.0 : number(result, less));
        if (result == NULL)
            continue;
        if (!isfinite(value))
            return json_null();
        sample_add(&s, value);
    }
    return sample_json(&s, NULL);
}

typedef struct references {
    int to, ste, frozen;   /* arms, -1: there is none */
    const char *name;      /* of `to` */
} references;

static json_t *arm_json(const arm *a, int index, const figures *f, const references *r)
{
    sample loss = {0.0, 0.0, 0.0, 0}, difference = loss, closure = loss;
    json_t *runs = json_array();
    bool finite = true, spread = true;   /* spread: ste is better than frozen, so that there is a way to close */
    for (int64_t seed = 0; seed < f->seeds; seed++) {
        const json_t *result = f->results[index * f->seeds + seed];
        const double x = loss_of(f, index, seed), other = loss_of(f, r->to, seed);
        const double frozen = loss_of(f, r->frozen, seed), ste = loss_of(f, r->ste, seed);
        if (result == NULL)
            continue;
        (void)json_array_append_new(runs, run_json(result, seed + 1));
        finite = finite && isfinite(x);
        sample_add(&loss, x);
        if (isfinite(other) && index != r->to)
            sample_add(&difference, x - other);
        spread = spread && frozen > ste;
        if (spread)
            sample_add(&closure, (frozen - x) / (frozen - ste));
    }
    const sample none = {0.0, 0.0, 0.0, 0};
    json_t *out = json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "arm", a->name, "lr", mean_of(f, index, "lr"), "runs",
                            runs, "loss", sample_json(finite ? &loss : &none, NULL), "difference",
                            sample_json(finite ? &difference : &none, r->name), "closure",
                            sample_json(finite && spread ? &closure : &none, NULL), "bits_per_weight",
                            mean_of(f, index, "training_bits_per_weight"), "tokens_per_second",
                            mean_of(f, index, "tokens_per_second"), "flips_per_weight", mean_of(f, index, "flips_per_weight"));
    if (strcmp(f->loss, "val_loss") != 0)
        (void)json_object_set_new(out, "validation", estimate_of(f, index, "val_loss", NULL));
    if (f->also)
        (void)json_object_set_new(out, "also", estimate_of(f, index, "also_loss", "also_loss_start"));
    return out;
}

json_t *compare_statistics(const arm *arms, int count, int64_t seeds, json_t *const *results, bool test, bool also)
{
    const figures f = {.results = results, .seeds = seeds, .loss = test ? "test_loss" : "val_loss", .also = also};
    references r = {.ste = arms_find(arms, count, QS_OPTIMIZER_STE), .frozen = arms_find(arms, count, QS_OPTIMIZER_FROZEN)};
    r.to = r.ste < 0 ? 0 : r.ste;
    r.name = arms[r.to].name;
    json_t *list = json_array();
    for (int i = 0; i < count; i++)
        (void)json_array_append_new(list, arm_json(&arms[i], i, &f, &r));
    json_t *out = json_pack("{s:s, s:o}", "reference", r.name, "arms", list);
    if (test)
        (void)json_object_set_new(out, "split", json_string("test"));
    if (also)
        (void)json_object_set_new(out, "also", json_true());
    return out;
}

/* ---- tables ---------------------------------------------------------------------------------------------------- */

enum { COLUMNS = 10, CELL = 40 };

/* The rows of a table with their cells; columns that nothing asks for are left out. */
typedef struct table {
    char cells[MAX_ARMS + 1][COLUMNS][CELL];   /* row 0 is the head */
    int rows, columns;
} table;

static bool is_tested(const json_t *statistics) { return json_object_get(statistics, "split") != NULL; }
static bool has_also(const json_t *statistics) { return json_object_get(statistics, "also") != NULL; }

/* "1.7698 ± 0.0034", "-" where there is nothing. */
static void error_cell(char out[CELL], const json_t *value, double factor, const char *mean_format, const char *error_format)
{
    char mean[CELL / 2] = "-", error[CELL / 2] = "";
    const double m = number(value, "mean") * factor, e = number(value, "stderr") * factor;
    if (isfinite(m))
        (void)snprintf(mean, sizeof mean, mean_format, m);
    if (isfinite(m) && isfinite(e))
        (void)snprintf(error, sizeof error, error_format, e);
    (void)snprintf(out, CELL, "%s%s", mean, error);
}

static void number_cell(char out[CELL], double value, const char *format)
{
    (void)snprintf(out, CELL, "-");
    if (isfinite(value))
        (void)snprintf(out, CELL, format, value);
}

/* Returns how many cells the head has. */
static int fill_head(char cells[COLUMNS][CELL], const json_t *statistics)
{
    static const char *const last[] = {"bits/weight", "tokens/s", "flips/weight"};
    int n = 0;
    (void)snprintf(cells[n++], CELL, "arm");
    (void)snprintf(cells[n++], CELL, "lr");
    (void)snprintf(cells[n++], CELL, "%s", is_tested(statistics) ? "test loss" : "loss");
    (void)snprintf(cells[n++], CELL, "to %.30s", json_string_value(json_object_get(statistics, "reference")));
    (void)snprintf(cells[n++], CELL, "closure");
    if (is_tested(statistics))
        (void)snprintf(cells[n++], CELL, "validation");
    if (has_also(statistics))
        (void)snprintf(cells[n++], CELL, "also change");
    for (size_t i = 0; i < sizeof last / sizeof last[0]; i++)
        (void)snprintf(cells[n++], CELL, "%s", last[i]);
    return n;
}

static void fill_row(char cells[COLUMNS][CELL], const json_t *a, const json_t *statistics)
{
    int n = 0;
    (void)snprintf(cells[n++], CELL, "%s", json_string_value(json_object_get(a, "arm")));
    number_cell(cells[n++], number(a, "lr"), "%g");
    error_cell(cells[n++], json_object_get(a, "loss"), 1.0, "%.4f", " ± %.4f");
    error_cell(cells[n++], json_object_get(a, "difference"), 1.0, "%+.4f", " ± %.4f");
    error_cell(cells[n++], json_object_get(a, "closure"), 100.0, "%.0f%%", " ± %.0f%%");
    if (is_tested(statistics))
        error_cell(cells[n++], json_object_get(a, "validation"), 1.0, "%.4f", " ± %.4f");
    if (has_also(statistics))
        error_cell(cells[n++], json_object_get(a, "also"), 1.0, "%+.4f", " ± %.4f");
    number_cell(cells[n++], number(a, "bits_per_weight"), "%.2f");
    number_cell(cells[n++], number(a, "tokens_per_second"), "%.0f");
    number_cell(cells[n++], number(a, "flips_per_weight"), "%.2f");
}

/* Characters on the screen: bytes that continue a UTF-8 character take no place. */
static int shown_width(const char *text)
{
    int width = 0;
    for (; *text != '\0'; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static void print_row(FILE *out, const table *t, int row, const int widths[COLUMNS], bool markdown)
{
    for (int i = 0; i < t->columns; i++) {
        const char *cell = t->cells[row][i];
        const int fill = widths[i] - shown_width(cell);
        (void)fputs(i > 0 ? (markdown ? " | " : "  ") : markdown ? "| " : "", out);
        fprintf(out, "%*s%s%*s", i > 0 ? fill : 0, "", cell, i == 0 ? fill : 0, "");
    }
    (void)fputs(markdown ? " |\n" : "\n", out);
}

void compare_print(FILE *out, const json_t *statistics, bool markdown)
{
    table t;
    int widths[COLUMNS] = {0};
    const json_t *arms = json_object_get(statistics, "arms");
    t.rows = 1 + (int)json_array_size(arms);
    t.columns = fill_head(t.cells[0], statistics);
    for (int i = 1; i < t.rows; i++)
        fill_row(t.cells[i], json_array_get(arms, (size_t)i - 1), statistics);
    for (int i = 0; i < t.rows; i++)
        for (int j = 0; j < t.columns; j++)
            widths[j] = shown_width(t.cells[i][j]) > widths[j] ? shown_width(t.cells[i][j]) : widths[j];
    for (int i = 0; i < t.rows; i++) {
        print_row(out, &t, i, widths, markdown);
        for (int j = 0; i == 0 && markdown && j < t.columns; j++)
            (void)fputs(j == 0 ? "|---|" : j < t.columns - 1 ? "--:|" : "--:|\n", out);
    }
}

void compare_caption(FILE *out, const json_t *statistics)
{
    const long long seeds = (long long)json_integer_value(json_object_get(statistics, "seeds"));
    fprintf(out, "\nloss: %s, nats per byte, mean ± standard error of %lld seed%s; closure: share of the way from frozen to ste\n",
            is_tested(statistics) ? "test part" : "validation", seeds, seeds == 1 ? "" : "s");
    if (is_tested(statistics))
        fprintf(out, "The test part was evaluated once, at the end of each run; rates are searched on validation only.\n");
    if (has_also(statistics))
        fprintf(out, "also change: loss on the text of --also at the end less that before the first step; above 0 is forgotten.\n");
}
