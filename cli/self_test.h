/* self_test.h - every operation on the kernel level in use beside the scalar one, through the public API. */
#ifndef QSBITS_CLI_SELF_TEST_H
#define QSBITS_CLI_SELF_TEST_H

#include "common.h"

/* Compares context with a scalar one of one thread, prints a line per operation and precision unless o asks for JSON, and
 * stores {"level", "reference", "passed", "operations": [...]} (new reference) in *out. 0, EXIT_INTERNAL after a message
 * when something differs (*out is stored then, too), or another exit code after a message. */
int self_test(const options *o, qs_context *context, json_t **out);

#endif
