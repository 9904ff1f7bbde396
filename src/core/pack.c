/* pack.c - the canonical bytes of packed formats. Layouts: docs/format.md.
 *
 * The plain host reference: one value at a time, words stored byte by byte in little-endian order. All bit formats
 * are planes of 32-bit words: a value's code has bit p in plane p (W1, C2, C4), or its two bits side by side (T2). */
#include <string.h>
#include "core/objects.h"

static uint32_t load_word(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void store_word(uint8_t *p, uint32_t word)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(word >> 8 * i);
}

/* ---- codes ------------------------------------------------------------------------------------------------------- */

/* The code of a value, or -1 when the format does not have the value. */
static int encode(qs_format format, int value)
{
    switch (format) {
    case QS_W1: return value == 1 ? 1 : value == -1 ? 0 : -1;
    case QS_T2: return value == 0 ? 0 : value == 1 ? 1 : value == -1 ? 2 : -1;
    case QS_C2: return value >= 1 && value <= 4 ? value - 1 : -1;
    case QS_C4: return value >= 1 && value <= 16 ? value - 1 : -1;
    case QS_C8: return value >= 1 && value <= 128 ? value - 1 : value <= -1 && value >= -128 ? value + 256 : -1;
    default: return -1;
    }
}

static int16_t decode(qs_format format, int code)
{
    switch (format) {
    case QS_W1: return code ? 1 : -1;
    case QS_T2: return (int16_t)(code == 2 ? -1 : code);
    case QS_C8: return (int16_t)(code < 128 ? code + 1 : code - 256);
    default: return (int16_t)(code + 1);
    }
}

/* Where a format keeps bit p of column k of a row of cols: word and bit. */
static void place(qs_format format, int64_t cols, int64_t k, int p, int64_t *word, int *bit)
{
    if (format == QS_T2) {
        *word = k / 16;
        *bit = (int)(k % 16) * 2 + p;
    } else if (format == QS_C8) {
        *word = k / 4;
        *bit = (int)(k % 4) * 8 + p;
    } else {
        *word = p * (cols / 32) + k / 32;
        *bit = (int)(k % 32);
    }
}

/* Bits of a code; 0 for formats that are not packed. */
static int bits_of_format(qs_format format)
{
    const qsi_format *facts = qsi_format_of(format);
    return facts && facts->multiple == 32 ? facts->bits : 0;
}

static qs_status check_shape(qs_format format, int64_t rows, int64_t cols)
{
    int64_t row = qs_row_bytes(format, cols), total;
    if (bits_of_format(format) == 0) {
        qsi_fail_text("%s is not a packed format", qs_format_name(format) ? qs_format_name(format) : "this value");
        return QS_ERR_ARG;
    }
    if (row < 0 || !qsi_mul(rows, row, &total)) {
        qsi_fail_text("%lld rows of %lld columns do not fit %s", (long long)rows, (long long)cols, qs_format_name(format));
        return QS_ERR_SHAPE;
    }
    return QS_OK;
}

/* ---- packing ----------------------------------------------------------------------------------------------------- */

/* All values are known to exist in the format; row is zero. */
static void pack_row(qs_format format, int64_t cols, const int16_t *values, uint8_t *row)
{
    for (int64_t k = 0; k < cols; k++) {
        int code = encode(format, values[k]);
        for (int p = 0; p < bits_of_format(format); p++) {
            int64_t word;
            int bit;
            place(format, cols, k, p, &word, &bit);
            store_word(row + 4 * word, load_word(row + 4 * word) | (uint32_t)(code >> p & 1) << bit);
        }
    }
}

qs_status qs_pack(qs_format format, int64_t rows, int64_t cols, const int16_t *values, void *packed)
{
    qs_status status = QS_OK;
    QS_TRY(check_shape(format, rows, cols));
    int64_t row_bytes = qs_row_bytes(format, cols);
    for (int64_t i = 0; i < rows * cols; i++)   /* before anything is written: a failure leaves the output untouched */
        if (encode(format, values[i]) < 0)
            QS_FAIL(QS_ERR_ARG, "value %d in row %lld, column %lld does not exist in %s", values[i], (long long)(i / cols),
                    (long long)(i % cols), qs_format_name(format));
    memset(packed, 0, (size_t)(rows * row_bytes));
    for (int64_t r = 0; r < rows; r++)
        pack_row(format, cols, values + r * cols, (uint8_t *)packed + r * row_bytes);
fail:
    return status;
}

qs_status qs_unpack(qs_format format, int64_t rows, int64_t cols, const void *packed, int16_t *values)
{
    qs_status status = QS_OK;
    QS_TRY(check_shape(format, rows, cols));
    if (format == QS_T2)
        QS_TRY(qsi_t2_check(packed, rows, cols));
    int64_t row_bytes = qs_row_bytes(format, cols);
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t *row = (const uint8_t *)packed + r * row_bytes;
        for (int64_t k = 0; k < cols; k++) {
            int code = 0;
            for (int p = 0; p < bits_of_format(format); p++) {
                int64_t word;
                int bit;
                place(format, cols, k, p, &word, &bit);
                code |= (int)(load_word(row + 4 * word) >> bit & 1) << p;
            }
            values[r * cols + k] = decode(format, code);
        }
    }
fail:
    return status;
}

qs_status qsi_t2_check(const void *packed, int64_t rows, int64_t cols)
{
    const uint8_t *bytes = packed;
    int64_t words = cols / 16;
    for (int64_t i = 0; i < rows * words; i++) {
        uint32_t word = load_word(bytes + 4 * i), both = word & word >> 1 & 0x55555555u;
        if (both) {
            qsi_fail_text("t2 code 11 in row %lld, column %lld", (long long)(i / words),
                          (long long)(i % words * 16 + __builtin_ctz(both) / 2));
            return QS_ERR_CORRUPT;
        }
    }
    return QS_OK;
}
