/* common.h - what the commands share: messages, exit codes, the context, JSON output, numbers for people. */
#ifndef QSBITS_CLI_COMMON_H
#define QSBITS_CLI_COMMON_H

#include <jansson.h>
#include "options.h"

/* Exit codes that are not those of a qs_status. */
enum { EXIT_DONE = 0, EXIT_USAGE = 64, EXIT_DATA = 65, EXIT_INTERNAL = 70, EXIT_CREATE = 73, EXIT_IO = 74 };

/* "qsbits <command>: <text>" on standard error; text says what is wrong; what to do. Returns code. */
int fail_with(int code, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same with the exit code of wrong usage. */
int fail_usage(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Reports the library's last failure and returns its exit code. todo: what to do; NULL: what the failure itself says
 * behind a semicolon, else a hint by status. */
int fail_library(const char *name, qs_status status, const char *todo);

/* A warning on standard error; goes on. */
void warn(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Opens the context of --threads, --cpu and --device; warnings of the library go to standard error. 0 or an exit code. */
int open_context(const options *o, qs_context **out);

/* Prints value (its reference is taken) and a newline on standard output. 0, or 74 after a message. */
int print_json(const char *name, json_t *value);

/* Flushes standard output. 0, or 74 after a message. */
int flush_output(const char *name);

/* A real, or null where it is not finite (JSON knows no NaN). */
json_t *json_number(double value);

/* "12.3 MB", "1.2 M": three digits and a unit, in out (at least 16 bytes); returns out. */
char *human_bytes(double bytes, char *out);
char *human_count(double count, char *out);

/* "01:15", "2:03:04", "3 d 04:05" in out (at least 24 bytes); returns out. Negative counts as 0. */
char *human_time(double seconds, char *out);

/* Seconds of a clock that only runs forward. */
double now_seconds(void);

#endif
