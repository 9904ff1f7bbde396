/* json_text.c - the one JSON writer (see json_text.h). */
#include "json_text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/internal.h"

enum { TEXT_FIRST = 1024, TEXT_DEPTH = 64 };

static void text_fail(qsi_text *text, qs_status status)
{
    if (text->failed == QS_OK)
        text->failed = status;
}

/* Room for n more bytes and the final NUL. */
static bool text_reserve(qsi_text *text, int64_t n)
{
    int64_t need = 0, capacity = qsi_max(text->capacity, TEXT_FIRST);
    if (text->failed != QS_OK)
        return false;
    if (!qsi_add(text->length, n, &need) || need > INT64_MAX / 4) {
        qsi_fail_text("text of more than %lld bytes", (long long)(INT64_MAX / 4));
        text_fail(text, QS_ERR_NOMEM);
        return false;
    }
    need += 1;
    if (need <= text->capacity)
        return true;
    while (capacity < need)
        capacity *= 2;
    char *data = qsi_alloc(text->context, QS_MEMORY_IO, capacity);
    if (data == NULL) {
        text_fail(text, QS_ERR_NOMEM);
        return false;
    }
    if (text->length > 0)
        memcpy(data, text->data, (size_t)text->length);
    qsi_free(text->data);
    text->data = data;
    text->capacity = capacity;
    return true;
}

void qsi_text_add(qsi_text *text, const char *bytes, int64_t n)
{
    if (!text_reserve(text, n))
        return;
    if (n > 0)
        memcpy(text->data + text->length, bytes, (size_t)n);
    text->length += n;
    text->data[text->length] = '\0';
}

void qsi_text_print(qsi_text *text, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n < 0 || n >= (int)sizeof line) {
        qsi_fail_text("a formatted piece of text exceeds %d bytes", (int)sizeof line);
        text_fail(text, QS_ERR_INTERNAL);
        return;
    }
    qsi_text_add(text, line, n);
}

void qsi_text_free(qsi_text *text)
{
    qsi_free(text->data);
    text->data = NULL;
    text->length = text->capacity = 0;
}

void qsi_text_string(qsi_text *text, const char *utf8)
{
    static const char plain[] = "\"\\\b\f\n\r\t", escape[] = "\"\\bfnrt";
    qsi_text_add(text, "\"", 1);
    for (const char *c = utf8; *c != '\0'; c++) {
        const char *special = strchr(plain, *c);
        if (special != NULL)
            qsi_text_print(text, "\\%c", escape[special - plain]);
        else if ((unsigned char)*c < 0x20)
            qsi_text_print(text, "\\u%04x", (unsigned)(unsigned char)*c);
        else
            qsi_text_add(text, c, 1);
    }
    qsi_text_add(text, "\"", 1);
}

/* The fewest digits that read back equal, without an exponent from 1e-4 up to below 1e16: the text Python gives. The
 * locale's decimal point, whatever its bytes are, becomes '.'. */
static void text_real(qsi_text *text, double value)
{
    char digits[64], out[64];
    size_t n = 0;
    int precision = 1;
    for (; precision < 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value)
            break;
    }
    snprintf(digits, sizeof digits, "%.*e", precision - 1, value);
    int exponent = atoi(strrchr(digits, 'e') + 1);
    if (exponent < 16)
        snprintf(digits, sizeof digits, "%.*g", exponent < precision ? precision : exponent + 1, value);
    bool real = false, point = false;
    for (const char *c = digits; *c != '\0'; c++) {
        bool number = strchr("0123456789+-e", *c) != NULL;
        if (number)
            out[n++] = *c;
        else if (!point)
            out[n++] = '.';
        point = point || !number;
        real = real || !number || *c == 'e';
    }
    qsi_text_add(text, out, (int64_t)n);
    if (!real)
        qsi_text_add(text, ".0", 2);
}

static void text_line(qsi_text *text, int indent, int depth)
{
    if (indent > 0)
        qsi_text_print(text, "\n%*s", indent * depth, "");
}

static void text_value(qsi_text *text, const json_t *value, int indent, int depth);

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void text_object(qsi_text *text, const json_t *value, int indent, int depth)
{
    int64_t count = (int64_t)json_object_size(value), at = 0;
    const char **keys = qsi_alloc_array(text->context, QS_MEMORY_IO, count, sizeof *keys);
    if (keys == NULL) {
        text_fail(text, QS_ERR_NOMEM);
        return;
    }
    /* jansson iterates over non-const objects only; nothing is changed */
    json_t *object = json_incref((json_t *)(uintptr_t)value);
    for (void *i = json_object_iter(object); i != NULL && at < count; i = json_object_iter_next(object, i))
        keys[at++] = json_object_iter_key(i);
    qsort(keys, (size_t)count, sizeof *keys, compare_keys);
    qsi_text_add(text, "{", 1);
    for (int64_t k = 0; k < count; k++) {
        if (k > 0)
            qsi_text_add(text, ",", 1);
        text_line(text, indent, depth + 1);
        qsi_text_string(text, keys[k]);
        qsi_text_add(text, ": ", indent > 0 ? 2 : 1);
        text_value(text, json_object_get(object, keys[k]), indent, depth + 1);
    }
    if (count > 0)
        text_line(text, indent, depth);
    qsi_text_add(text, "}", 1);
    json_decref(object);
    qsi_free(keys);
}

static void text_array(qsi_text *text, const json_t *value, int indent, int depth)
{
    size_t count = json_array_size(value);
    qsi_text_add(text, "[", 1);
    for (size_t k = 0; k < count; k++) {
        if (k > 0)
            qsi_text_add(text, ",", 1);
        text_line(text, indent, depth + 1);
        text_value(text, json_array_get(value, k), indent, depth + 1);
    }
    if (count > 0)
        text_line(text, indent, depth);
    qsi_text_add(text, "]", 1);
}

static void text_value(qsi_text *text, const json_t *value, int indent, int depth)
{
    if (text->failed != QS_OK)
        return;
    if (depth > TEXT_DEPTH) {
        qsi_fail_text("JSON is nested deeper than %d levels", TEXT_DEPTH);
        text_fail(text, QS_ERR_ARG);
        return;
    }
    switch (json_typeof(value)) {
    case JSON_OBJECT: text_object(text, value, indent, depth); break;
    case JSON_ARRAY: text_array(text, value, indent, depth); break;
    case JSON_STRING: qsi_text_string(text, json_string_value(value)); break;
    case JSON_INTEGER: qsi_text_print(text, "%lld", (long long)json_integer_value(value)); break;
    case JSON_REAL: text_real(text, json_real_value(value)); break;
    case JSON_TRUE: qsi_text_add(text, "true", 4); break;
    case JSON_FALSE: qsi_text_add(text, "false", 5); break;
    case JSON_NULL: qsi_text_add(text, "null", 4); break;
    }
}

/* jansson 2.14 has no error for it. It says nothing at all, or finds fault with a string that it had no room for: with the
 * whole of it, or with no text. A string that is really wrong has an error of its own. */
bool qsi_json_no_memory(const json_error_t *error)
{
    static const char *const faults[] = {"", "string or '}' expected", "invalid token"};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        const size_t n = strlen(faults[i]);
        const char *rest = error->text + n;
        if (strncmp(error->text, faults[i], n) == 0 && (*rest == '\0' || strncmp(rest, " near '\"", 8) == 0))
            return true;
    }
    return false;
}

void qsi_text_json(qsi_text *text, const json_t *value, int indent)
{
    text_value(text, value, indent, 0);
}
