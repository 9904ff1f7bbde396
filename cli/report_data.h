/* report_data.h - what a report shows, read from run folders and comparison folders into one JSON object:
 *   {"qsbits","comparisons":[COMPARISON],"runs":[RUN]}
 *   COMPARISON  {"label","reference","steps","tested" (losses are those of the test part),"also" (there is a second text),"arms":
 *               [{"arm","lr","loss","closure","difference","validation","also","bits_per_weight","tokens_per_second",
 *               "flips_per_weight","runs":[{"seed","val_loss","test_loss","run"}]}]}: compare.json, each run by its index in "runs"
 *               (null: not there)
 *   RUN         {"label","comparison","arm","seed" (null for a run of its own),"options","model","training","text" (config.json),
 *               "result" (result.json, null while it goes on),"memory":{tag:bytes},"memory_peak" (false: of the last health line),
 *               "rss","last_step","train","val","health","warnings","warning_count","bits"}
 *   "train", "val", "health": columns of at most about 1000 points, see report_metrics; "bits": see report_bits.
 * Numbers keep six digits in columns; what is not finite is null. Every text is valid UTF-8, none is longer than TEXT_LIMIT. */
#ifndef QSBITS_CLI_REPORT_DATA_H
#define QSBITS_CLI_REPORT_DATA_H

#include <limits.h>
#include "common.h"

enum { REPORT_RUNS = 256 };

/* *data: new reference. name: the command, for messages. 0 or an exit code after a message. */
int report_collect(const char *name, int count, const char *const *folders, const char *tensor, json_t **data);

/* ---- report_metrics.c ------------------------------------------------------------------------------------------- */

/* Reads metrics.jsonl into the keys of a run: {"train":{"step","loss","density","pulses","flips"}, "val":{"step","loss"},
 * "health":{"window","step","all":H,"layers":[H, ...]} or null, "last_step", "warnings", "warning_count"}, H = columns by figure;
 * and, where the run does not have them yet, "memory" and "rss" of the newest health line. A file that is not there is an empty
 * one, and a last line that is cut off is passed over. 0 or an exit code after a message with file and line. */
int report_metrics(const char *name, const char *path, json_t *run);

/* ---- report_bits.c ---------------------------------------------------------------------------------------------- */

/* The signs of a 1-bit matrix at the start and in the newest valid checkpoint of a run folder: {"tensor","rows","cols",
 * "shown_rows","shown_cols","before","after" (base64 of w1 rows),"before_from":"seed" or a checkpoint's name,"step","flipped"
 * (share of all weights of the matrix)}, or {"note": why there are none}. "skipped": checkpoints passed over. New reference. */
json_t *report_bits(const char *folder, const char *tensor);

/* A text of any bytes as valid UTF-8 of at most TEXT_LIMIT bytes (report_data.c). */
enum { TEXT_LIMIT = 400 };
json_t *report_text(const char *text);

#endif
