/* status.c - status codes and the detail text of the last failure.
 *
 * The text is per thread and of fixed size: recording a failure must work when there is no memory. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "core/internal.h"

static _Thread_local char last_error[1024];

const char *qs_status_text(qs_status status)
{
    switch (status) {
#define STATUS_CASE(name, value, exit_code, text) case (qs_status)(value): return text;
        QS_STATUS_LIST(STATUS_CASE)
#undef STATUS_CASE
    }
    return "unknown status";
}

int qs_status_exit_code(qs_status status)
{
    switch (status) {
#define STATUS_CASE(name, value, exit_code, text) case (qs_status)(value): return exit_code;
        QS_STATUS_LIST(STATUS_CASE)
#undef STATUS_CASE
    }
    return 70;
}

const char *qs_last_error(void)
{
    return last_error;
}

/* Formats beside the stored text first: the arguments may include it ("reading %s: %s", path, qs_last_error()). */
void qsi_fail_text(const char *format, ...)
{
    char text[sizeof last_error];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(last_error, text, sizeof last_error);
}
