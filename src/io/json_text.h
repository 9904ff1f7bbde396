/* json_text.h - JSON written in one defined way, because checkpoints must have the same bytes everywhere: the texts of
 * jansson differ between its versions (digits of real numbers) and follow the locale. Reading stays with jansson. */
#ifndef QSI_JSON_TEXT_H
#define QSI_JSON_TEXT_H

#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>
#include "qsbits/context.h"

/* A growing text, always NUL-terminated once something was added. Start with {context} and zeros; a failure (memory,
 * nesting) sticks in `failed` with the detail text set and later calls do nothing. */
typedef struct qsi_text {
    qs_context *context;
    char *data;
    int64_t length, capacity;
    qs_status failed;
} qsi_text;

void qsi_text_add(qsi_text *text, const char *bytes, int64_t n);
void qsi_text_print(qsi_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void qsi_text_free(qsi_text *text);

/* A JSON string with its quotes: UTF-8 as it is, control characters, quote and backslash escaped. */
void qsi_text_string(qsi_text *text, const char *utf8);

/* Keys sorted by byte value. indent > 0: each member on its own line, that many spaces per level, ": " after keys;
 * indent 0: no white space at all. Real numbers have the fewest of 1..17 significant digits that read back equal and
 * always a point or an exponent. That is what Python's json.dumps(..., sort_keys=True, ensure_ascii=False) writes with
 * indent=2, or with separators=(",", ":"). No newline at the end. */
void qsi_text_json(qsi_text *text, const json_t *value, int indent);

/* Whether reading failed for want of memory: then the text may be whole and must not be called damaged. */
bool qsi_json_no_memory(const json_error_t *error);

#endif
