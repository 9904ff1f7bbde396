/* formats.c - what the formats are, and size arithmetic that notices overflow. */
#include "core/internal.h"

bool qsi_mul(int64_t a, int64_t b, int64_t *out)
{
    return a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, out);
}

bool qsi_add(int64_t a, int64_t b, int64_t *out)
{
    return a >= 0 && b >= 0 && !__builtin_add_overflow(a, b, out);
}

static const qsi_format formats[QS_FORMATS] = {
#define FORMAT_FACTS(name, text, bits, multiple) {text, bits, multiple, bits == 8 ? 1 : bits == 16 ? 2 : 4},
    QS_FORMAT_LIST(FORMAT_FACTS)
#undef FORMAT_FACTS
};

const qsi_format *qsi_format_of(qs_format format)
{
    return (unsigned)format < QS_FORMATS ? &formats[format] : NULL;
}

const char *qs_format_name(qs_format format)
{
    return (unsigned)format < QS_FORMATS ? formats[format].name : NULL;
}

const char *qs_precision_name(qs_precision precision)
{
    static const char *const names[QS_PRECISIONS] = {
#define PRECISION_TEXT(name, text, what) text,
        QS_PRECISION_LIST(PRECISION_TEXT)
#undef PRECISION_TEXT
    };
    return (unsigned)precision < QS_PRECISIONS ? names[precision] : NULL;
}

int64_t qs_row_bytes(qs_format format, int64_t cols)
{
    int64_t bits;
    if ((unsigned)format >= QS_FORMATS || cols < 0 || cols % formats[format].multiple)
        return -1;
    return qsi_mul(cols, formats[format].bits, &bits) ? bits / 8 : -1;
}
