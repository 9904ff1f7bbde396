/* bench_generate.h - writing text one token at a time with a model of a given shape, beside what reading its weights takes. */
#ifndef QSBITS_CLI_BENCH_GENERATE_H
#define QSBITS_CLI_BENCH_GENERATE_H

#include "bench_products.h"

/* Times single tokens of a model (resolved) with each precision that is on, on the first level, and products of peers;
 * prints them unless o asks for JSON, and stores their JSON (new reference) in *out. 0 or an exit code after a message. */
int bench_generate(const options *o, const bench_setup *setup, const qs_model_config *model, json_t **out);

#endif
