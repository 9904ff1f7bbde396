/* qsbits/bench.h - what this machine can do at best, measured: rates of the instructions that products are made of and of
 * reading memory. They are the yardsticks of qsbits bench (docs/measurements.md, "The machine limit"). */
#ifndef QSBITS_BENCH_H
#define QSBITS_BENCH_H

#include "context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* name, text, unit of the rate, what is counted */
#define QS_PEAK_LIST(X) \
    X(CLOCK,   "clock",   "Hz",   "additions that wait for each other, one a cycle") \
    X(FMA32,   "fma32",   "op/s", "fp32 multiply and add, 2 operations a lane") \
    X(TABLE32, "table32", "op/s", "fp32 sums of 4 activations, looked up and added: 8 operations a lane") \
    X(TABLE16, "table16", "op/s", "int16 sums of 5 activations, looked up and added: 10 operations a lane") \
    X(DOT8,    "dot8",    "op/s", "products of int8, added: 2 operations each") \
    X(DOT16,   "dot16",   "op/s", "products of bf16, added in fp32: 2 operations each; 0 where no instruction does it") \
    X(READ,    "read",    "B/s",  "bytes loaded, one after the other, again and again")

typedef enum qs_peak {
#define QS_PEAK_ENUM(name, text, unit, what) QS_PEAK_##name,
    QS_PEAK_LIST(QS_PEAK_ENUM)
#undef QS_PEAK_ENUM
    QS_PEAKS
} qs_peak;

/* "fma32"; NULL outside the list. */
QS_API const char *qs_peak_name(qs_peak what);

/* Runs independent instructions of one kind for `seconds` (above 0, at most 60) on every thread and tells their rate in
 * the best 2 ms of that, of all threads together. level: as in qs_options.cpu; what a level adds nothing to is measured
 * with the instructions of the level it extends, and of several ways the fastest counts. threads: as in qs_options.
 * bytes: READ only, memory that all threads read together, each a part of its own; at least 4096. Its pages lie as those
 * of tensors do. Errors: ARG (level, threads, bytes, seconds), DEVICE (level not available here), NOMEM. */
QS_API QS_CHECK qs_status qs_cpu_peak(const char *level, int threads, qs_peak what, uint64_t bytes, double seconds,
                                      double *per_second);

#ifdef __cplusplus
}
#endif
#endif
