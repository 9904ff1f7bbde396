/* bench_machine.h - what the machine could do at best, measured, and the least time a product could take on it. */
#ifndef QSBITS_CLI_BENCH_MACHINE_H
#define QSBITS_CLI_BENCH_MACHINE_H

#include "common.h"

/* Where what a product reads lies: rates of reading differ. */
typedef enum bench_place { PLACE_L2, PLACE_L3, PLACE_MEMORY, PLACES } bench_place;

/* Sizes in bytes; last: of all last caches together, which a rotation must exceed. memory: of the machine or container. */
typedef struct bench_caches {
    int64_t l2, l3, last, memory;
} bench_caches;

/* Rates of a level on some threads, of all threads together. */
typedef struct bench_machine {
    const char *level;
    int threads;
    double rate[QS_PEAK_READ];   /* per second, by qs_peak */
    double read[PLACES];         /* bytes per second */
    int64_t read_bytes[PLACES];  /* working set of the measurement */
} bench_machine;

/* What a product must do at least. ways: bit p set where arithmetic of peak p may do it. */
typedef struct bench_work {
    double operations, bytes;    /* bytes that must be read or written once */
    unsigned ways;
    double resident;             /* bytes that it meets again in the next run; 0: none, they come from memory */
} bench_work;

/* The least time, and what sets it: "fma32", "table16", ... or "L2", "L3", "memory". */
typedef struct bench_limit {
    double seconds;
    const char *by;
} bench_limit;

bench_caches bench_caches_of(const qs_device_info *device);

/* Takes about a quarter of a second. again: measures once more and keeps the greater rates, as what disturbs only slows. */
qs_status bench_machine_measure(const char *level, int threads, const bench_caches *caches, bench_machine *out);
qs_status bench_machine_again(bench_machine *machine);

bench_limit bench_limit_of(const bench_machine *machine, const bench_caches *caches, const bench_work *work);

/* Prints machines side by side; their JSON (new reference). */
void bench_machine_print(const bench_machine *machines, int count);
json_t *bench_machine_json(const bench_machine *machine);

#endif
