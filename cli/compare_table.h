/* compare_table.h - what a comparison ends in: means with standard errors over the seeds, paired differences, closure; as JSON,
 * as a table for the terminal and in Markdown. */
#ifndef QSBITS_CLI_COMPARE_TABLE_H
#define QSBITS_CLI_COMPARE_TABLE_H

#include "compare_arms.h"

/* results[arm * seeds + seed - 1]: training_result of a run that is done, NULL where it is not (borrowed).
 * {"reference","arms":[{"arm","lr","runs":[...],"loss":{"mean","stderr"},"difference":{"to","mean","stderr"}|null,
 *   "closure":{"mean","stderr"}|null,"bits_per_weight","tokens_per_second","flips_per_weight"}]} (new reference).
 * test: loss, difference and closure are those of the test part; "split" is then "test", and arms have "validation":{"mean","stderr"}
 * as well. also: there is a second text; "also" is then true, and arms have "also":{"mean","stderr"}, of the loss on that text at the
 * end less that at the start.
 * Differences are taken seed by seed to ste, without it to the first arm; closure is (frozen - x) / (frozen - ste) per seed, null
 * where ste is not better than frozen with every seed.
 * A standard error needs two seeds and is null for one; runs whose loss was not finite make their arm's figures null. */
json_t *compare_statistics(const arm *arms, int count, int64_t seeds, json_t *const *results, bool test, bool also);

/* The same as a table; markdown: with bars. */
void compare_print(FILE *out, const json_t *statistics, bool markdown);

/* What its columns are; statistics with "seeds". */
void compare_caption(FILE *out, const json_t *statistics);

#endif
