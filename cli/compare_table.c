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

/* val_loss of a run, NaN while it is not done or was not finite. */
static double loss_of(json_t *const *results, int64_t seeds, int index, int64_t seed)
{
    return index < 0 ? NAN : number(results[index * seeds + seed], "val_loss");
}

static json_t *run_json(const json_t *result, int64_t seed)
{
    static const char *const keys[] = {"folder", "val_loss", "train_loss", "best_loss", "tokens_per_second",
                                       "flips_per_weight", "training_bits_per_weight", "lr", "seconds", "stopped"};
    json_t *run = json_pack("{s:I}", "seed", (json_int_t)seed);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        json_t *value = json_object_get(result, keys[i]);
        if (value != NULL)
            (void)json_object_set(run, keys[i], value);
    }
    return run;
}

static json_t *mean_of(json_t *const *results, int64_t seeds, int index, const char *key)
{
    sample s = {0.0, 0.0, 0.0, 0};
    for (int64_t seed = 0; seed < seeds; seed++) {
        const double value = number(results[index * seeds + seed], key);
        if (isfinite(value))
            sample_add(&s, value);
    }
    return json_number(sample_mean(&s));
}

typedef struct references {
    int to, ste, frozen;   /* arms, -1: there is none */
    const char *name;      /* of `to` */
} references;

static json_t *arm_json(const arm *a, int index, int64_t seeds, json_t *const *results, const references *r)
{
    sample loss = {0.0, 0.0, 0.0, 0}, difference = loss, closure = loss;
    json_t *runs = json_array();
    bool finite = true, spread = true;   /* spread: ste is better than frozen, so that there is a way to close */
    for (int64_t seed = 0; seed < seeds; seed++) {
        const json_t *result = results[index * seeds + seed];
        const double x = loss_of(results, seeds, index, seed), other = loss_of(results, seeds, r->to, seed);
        const double frozen = loss_of(results, seeds, r->frozen, seed), ste = loss_of(results, seeds, r->ste, seed);
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
    return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "arm", a->name, "lr", mean_of(results, seeds, index, "lr"),
                     "runs", runs, "loss", sample_json(finite ? &loss : &none, NULL), "difference",
                     sample_json(finite ? &difference : &none, r->name), "closure", sample_json(finite && spread ? &closure : &none, NULL),
                     "bits_per_weight", mean_of(results, seeds, index, "training_bits_per_weight"), "tokens_per_second",
                     mean_of(results, seeds, index, "tokens_per_second"), "flips_per_weight",
                     mean_of(results, seeds, index, "flips_per_weight"));
}

json_t *compare_statistics(const arm *arms, int count, int64_t seeds, json_t *const *results)
{
    references r = {.ste = arms_find(arms, count, QS_OPTIMIZER_STE), .frozen = arms_find(arms, count, QS_OPTIMIZER_FROZEN)};
    r.to = r.ste < 0 ? 0 : r.ste;
    r.name = arms[r.to].name;
    json_t *list = json_array();
    for (int i = 0; i < count; i++)
        (void)json_array_append_new(list, arm_json(&arms[i], i, seeds, results, &r));
    return json_pack("{s:s, s:o}", "reference", r.name, "arms", list);
}

/* ---- tables ---------------------------------------------------------------------------------------------------- */

enum { COLUMNS = 8, CELL = 40 };

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

static void fill_row(char cells[COLUMNS][CELL], const json_t *a)
{
    (void)snprintf(cells[0], CELL, "%s", json_string_value(json_object_get(a, "arm")));
    number_cell(cells[1], number(a, "lr"), "%g");
    error_cell(cells[2], json_object_get(a, "loss"), 1.0, "%.4f", " ± %.4f");
    error_cell(cells[3], json_object_get(a, "difference"), 1.0, "%+.4f", " ± %.4f");
    error_cell(cells[4], json_object_get(a, "closure"), 100.0, "%.0f%%", " ± %.0f%%");
    number_cell(cells[5], number(a, "bits_per_weight"), "%.2f");
    number_cell(cells[6], number(a, "tokens_per_second"), "%.0f");
    number_cell(cells[7], number(a, "flips_per_weight"), "%.2f");
}

/* Characters on the screen: bytes that continue a UTF-8 character take no place. */
static int shown_width(const char *text)
{
    int width = 0;
    for (; *text != '\0'; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static void print_row(FILE *out, char cells[COLUMNS][CELL], const int widths[COLUMNS], bool markdown)
{
    for (int i = 0; i < COLUMNS; i++) {
        const int fill = widths[i] - shown_width(cells[i]);
        (void)fputs(i > 0 ? (markdown ? " | " : "  ") : markdown ? "| " : "", out);
        fprintf(out, "%*s%s%*s", i > 0 ? fill : 0, "", cells[i], i == 0 ? fill : 0, "");
    }
    (void)fputs(markdown ? " |\n" : "\n", out);
}

void compare_print(FILE *out, const json_t *statistics, bool markdown)
{
    char rows[MAX_ARMS + 1][COLUMNS][CELL] = {{"arm", "lr", "loss", "", "closure", "bits/weight", "tokens/s", "flips/weight"}};
    int widths[COLUMNS] = {0};
    const json_t *arms = json_object_get(statistics, "arms");
    const int count = (int)json_array_size(arms);
    (void)snprintf(rows[0][3], CELL, "to %.30s", json_string_value(json_object_get(statistics, "reference")));
    for (int i = 0; i < count; i++)
        fill_row(rows[i + 1], json_array_get(arms, (size_t)i));
    for (int i = 0; i <= count; i++)
        for (int j = 0; j < COLUMNS; j++)
            widths[j] = shown_width(rows[i][j]) > widths[j] ? shown_width(rows[i][j]) : widths[j];
    for (int i = 0; i <= count; i++) {
        print_row(out, rows[i], widths, markdown);
        if (i == 0 && markdown)
            fprintf(out, "|---|--:|--:|--:|--:|--:|--:|--:|\n");
    }
}
