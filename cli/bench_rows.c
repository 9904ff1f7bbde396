/* bench_rows.c - see bench_rows.h. */
#include "bench_rows.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const double BENCH_AGREEMENT = 0.05;

bool bench_rows_add(bench_rows *rows, const bench_row *row)
{
    if (rows->count == rows->capacity) {
        const int64_t wanted = rows->capacity == 0 ? 64 : 2 * rows->capacity;
        bench_row *more = realloc(rows->row, (size_t)wanted * sizeof *more);
        if (more == NULL)
            return false;
        rows->row = more;
        rows->capacity = wanted;
    }
    rows->row[rows->count++] = *row;
    return true;
}

void bench_rows_free(bench_rows *rows)
{
    free(rows->row);
    *rows = (bench_rows){NULL, 0, 0};
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

bench_times bench_times_of(double *times, int64_t count)
{
    qsort(times, (size_t)count, sizeof *times, by_value);
    return (bench_times){times[count / 2], times[count / 10], times[(9 * count) / 10], count};
}

void bench_tell(const char *format, ...)
{
    va_list arguments;
    const char *term = getenv("TERM");
    if (!isatty(STDERR_FILENO) || term == NULL || strcmp(term, "dumb") == 0)
        return;
    fprintf(stderr, "\r\033[K");
    va_start(arguments, format);
    if (format != NULL)
        vfprintf(stderr, format, arguments);
    va_end(arguments);
}

/* ---- the table ------------------------------------------------------------------------------------------------- */

/* A number with a width, or a dash where there is none. */
static void print_number(int width, int digits, double value, const char *unit)
{
    if (isfinite(value))
        printf(" %*.*f%s", width - (int)strlen(unit), digits, value, unit);
    else
        printf(" %*s", width, "-");
}

static double share_of_limit(const bench_row *r)
{
    return r->limit.seconds / r->times.median;
}

static bool disagrees(const bench_row *r)
{
    return r->peer && r->times.runs > 0 && !(r->difference <= BENCH_AGREEMENT);
}

static void print_row(const bench_row *r, bool peers)
{
    printf("  %-14s %5lld  %-5s %-12s %-4s", r->product, (long long)r->shape.m, r->class_name, r->level, r->weights);
    if (r->times.runs == 0) {
        printf("  left out: about %.0f s a run; a longer --seconds shows it\n", r->estimate);
        return;
    }
    const double ms = 1e3 * r->times.median;
    print_number(10, ms < 10.0 ? 3 : ms < 1000.0 ? 2 : 0, ms, "");
    print_number(8, 1, r->operations / r->times.median * 1e-9, "");
    print_number(9, 4, r->cycles, "");
    print_number(7, 1, r->words / r->times.median * 1e-9, "");
    print_number(6, 0, 100.0 * share_of_limit(r), "%");
    printf(" %-*s", peers ? 7 : 0, r->limit.by);
    if (peers)
        print_number(8, r->against_peer < 100.0 ? 2 : 0, r->against_peer, "x");
    if (disagrees(r))
        printf("  result is %.0f%% off", 100.0 * r->difference);
    printf("\n");
}

void bench_rows_print(const bench_rows *rows, int64_t first, int threads)
{
    bool peers = false;
    if (first >= rows->count)
        return;
    for (int64_t i = first; i < rows->count; i++)
        peers = peers || rows->row[i].peer;
    printf("\nN x K = %lld x %lld, %d thread%s\n  %-14s %5s  %-5s %-12s %-4s %10s %8s %9s %7s %6s %-*s%s\n",
           (long long)rows->row[first].shape.n, (long long)rows->row[first].shape.k, threads, threads == 1 ? "" : "s",
           "product", "M", "class", "level", "", "ms", "GOP/s", "cycles/w", "GB/s", "limit", peers ? 7 : 0, "by",
           peers ? "   x peer" : "");
    for (int64_t i = first; i < rows->count; i++) {
        if (i > first && rows->row[i].shape.m != rows->row[i - 1].shape.m)
            printf("\n");
        print_row(&rows->row[i], peers);
    }
}

/* ---- JSON ------------------------------------------------------------------------------------------------------ */

json_t *bench_row_json(const bench_row *r)
{
    const bench_times *t = &r->times;
    const bool measured = t->runs > 0;
    json_t *row = json_pack("{s:s, s:I, s:I, s:I, s:s, s:s, s:s, s:b, s:I}", "product", r->product, "m",
                            (json_int_t)r->shape.m, "n", (json_int_t)r->shape.n, "k", (json_int_t)r->shape.k, "class",
                            r->class_name, "level", r->level, "weights", r->weights, "peer", r->peer, "runs",
                            (json_int_t)t->runs);
    const struct { const char *name; double value; } numbers[] = {
        {"seconds", measured ? t->median : NAN},
        {"p10", measured ? t->p10 : NAN},
        {"p90", measured ? t->p90 : NAN},
        {"estimate", measured ? NAN : r->estimate},
        {"operations", r->operations},
        {"gops", measured ? r->operations / t->median * 1e-9 : NAN},
        {"cycles_per_weight", measured ? r->cycles : NAN},
        {"bytes_per_second", measured ? r->words / t->median : NAN},
        {"limit_seconds", r->limit.seconds},
        {"limit_share", measured ? share_of_limit(r) : NAN},
        {"against_peer", r->against_peer},
        {"difference", r->difference},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        (void)json_object_set_new(row, numbers[i].name, json_number(numbers[i].value));
    (void)json_object_set_new(row, "limited_by", json_string(r->limit.by));
    return row;
}
