/* bench_rows.h - what a measurement of products consists of, as a table for people and as JSON. */
#ifndef QSBITS_CLI_BENCH_ROWS_H
#define QSBITS_CLI_BENCH_ROWS_H

#include "bench_machine.h"
#include "bench_ops.h"

/* Seconds of one run. */
typedef struct bench_times {
    double median, p10, p90;
    int64_t runs;            /* 0: not measured */
} bench_times;

/* One product in one way. Numbers that do not apply are NaN. */
typedef struct bench_row {
    const char *product;     /* "linear", ... */
    bench_shape shape;
    char class_name[8];      /* precision, or what a peer says */
    char level[16];          /* kernel level, or a peer's name */
    const char *weights;     /* "warm": the same matrix again and again; "cold": the next of many; "": neither matters */
    bool peer;
    bench_times times;
    double estimate;         /* seconds a run would take, where it was left out for its length */
    double operations;       /* 2 M N K */
    double words;            /* bytes of packed words read; NaN: no packed words, or used by many rows */
    double cycles;           /* of a core, per weight and row of x; of all threads together */
    bench_limit limit;
    double against_peer;     /* time of the fastest peer / ours */
    double difference;       /* peers: RMS of the difference to our fp32 result / RMS of that */
} bench_row;

typedef struct bench_rows {
    bench_row *row;
    int64_t count, capacity;
} bench_rows;

/* A difference beyond this is no rounding: 5%. */
extern const double BENCH_AGREEMENT;

/* Adds a copy; false without memory. */
bool bench_rows_add(bench_rows *rows, const bench_row *row);
void bench_rows_free(bench_rows *rows);

/* The title of a shape and its rows from first on, aligned. */
void bench_rows_print(const bench_rows *rows, int64_t first, int threads);

/* One row as JSON (new reference). */
json_t *bench_row_json(const bench_row *row);

/* What is being measured, as a line on standard error that the next one overwrites; only at a terminal. NULL clears it. */
void bench_tell(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Median and the 10th and 90th of 100 of times, which are sorted. */
bench_times bench_times_of(double *times, int64_t count);

#endif
