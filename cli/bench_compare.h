/* bench_compare.h - this measurement beside an older one that was written with --json. */
#ifndef QSBITS_CLI_BENCH_COMPARE_H
#define QSBITS_CLI_BENCH_COMPARE_H

#include "bench_ops.h"

/* Exit code when something became slower. */
enum { EXIT_SLOWER = 1 };

/* Reads the older result (new reference). 0 or an exit code after a message. */
int bench_compare_read(const char *path, json_t **old);

/* {"rows": [...], "slower", "faster", "same", "unmatched", "machine_changed"} (new reference): rows of both results with
 * the same product, shape, class, level and weights. Slower: by more than 2%, and 90 of 100 runs take longer than 90 of
 * 100 did. */
json_t *bench_compare(json_t *old, json_t *now);

void bench_compare_print(const char *path, json_t *comparison);

#endif
