/* qsbits/tensor.h - formats, device buffers, and views into them. Byte layouts: docs/format.md. */
#ifndef QSBITS_TENSOR_H
#define QSBITS_TENSOR_H

#include "context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* name, text, bits per element, columns must be a multiple of */
#define QS_FORMAT_LIST(X) \
    X(F32, "f32", 32, 1) \
    X(F16, "f16", 16, 1) \
    X(I32, "i32", 32, 1) \
    X(U8,  "u8",   8, 1) \
    X(W1,  "w1",   1, 32)  /* weights, 0 = -1, 1 = +1 */ \
    X(T2,  "t2",   2, 32)  /* -1, 0, +1: 00 = 0, 01 = +1, 10 = -1 */ \
    X(C2,  "c2",   2, 32)  /* level 1..4 in 2 planes per row */ \
    X(C4,  "c4",   4, 32)  /* level 1..16 in 4 planes per row */ \
    X(C8,  "c8",   8, 32)  /* level 1..128 and the sign, int8 */

typedef enum qs_format {
#define QS_FORMAT_ENUM(name, text, bits, multiple) QS_##name,
    QS_FORMAT_LIST(QS_FORMAT_ENUM)
#undef QS_FORMAT_ENUM
    QS_FORMATS
} qs_format;

QS_API const char *qs_format_name(qs_format format);

/* Bytes of one row of cols elements without padding, or -1 if cols does not fit the format or overflows. */
QS_API int64_t qs_row_bytes(qs_format format, int64_t cols);

/* Arithmetic of the packed products and of the weight gradient (docs/numerics.md, section 1): name, text, what. */
#define QS_PRECISION_LIST(X) \
    X(F32,  "f32",  "fp32 in one defined order") \
    X(INT8, "int8", "operands in int8 with a scale per row or feature, exact sums") \
    X(BF16, "bf16", "operands rounded to bf16, fp32 sums")

typedef enum qs_precision {
#define QS_PRECISION_ENUM(name, text, what) QS_PRECISION_##name,
    QS_PRECISION_LIST(QS_PRECISION_ENUM)
#undef QS_PRECISION_ENUM
    QS_PRECISIONS
} qs_precision;

/* "int8"; NULL outside the list. */
QS_API const char *qs_precision_name(qs_precision precision);

/* Memory of one device. Zeroed when created; 4096-byte aligned. The host never dereferences it. */
typedef struct qs_buffer qs_buffer;

/* *out is owned by the caller. bytes > 0. Errors: ARG, NOMEM (names size and tag). */
QS_API QS_CHECK qs_status qs_buffer_create(qs_context *context, qs_memory_tag tag, uint64_t bytes, qs_buffer **out);
QS_API void qs_buffer_free(qs_buffer **buffer);
QS_API uint64_t qs_buffer_bytes(const qs_buffer *buffer);

/* A matrix [rows, cols] inside a buffer; a plain value that owns nothing. buffer NULL means "absent".
 * Vectors are [1, n]. Rows of packed formats are contiguous; row_bytes may exceed the packed row. */
typedef struct qs_view {
    qs_buffer *buffer;
    uint64_t offset;     /* bytes from the start of the buffer, a multiple of 64 for the first row of a tensor */
    int64_t rows;
    int64_t cols;
    int64_t row_bytes;   /* distance between rows */
    int32_t format;      /* qs_format */
    int32_t reserved;    /* 0 */
} qs_view;

/* A tightly packed view; not checked against the buffer (qs_submit, qs_read and qs_write check). */
QS_API qs_view qs_view_at(qs_buffer *buffer, uint64_t offset, qs_format format, int64_t rows, int64_t cols);

/* Rows first .. first+count-1 of a view. A range outside the view gives -1 rows, which every use refuses. */
QS_API qs_view qs_view_rows(qs_view view, int64_t first, int64_t count);

/* Packing on the host, canonical bytes of docs/format.md. values: [rows, cols] row-major int16.
 *   W1: -1, +1 · T2: -1, 0, +1 · C2, C4: levels 1..4, 1..16 · C8: signed level w*L, 1 <= |w*L| <= 128.
 * packed: rows * qs_row_bytes(format, cols) bytes. Errors: ARG (value out of range, with its position),
 * SHAPE (cols); qs_unpack: CORRUPT (code 11 of T2). */
QS_API QS_CHECK qs_status qs_pack(qs_format format, int64_t rows, int64_t cols, const int16_t *values, void *packed);
QS_API QS_CHECK qs_status qs_unpack(qs_format format, int64_t rows, int64_t cols, const void *packed, int16_t *values);

/* fp16 (IEEE binary16) to fp32 and back, round to nearest even, NaN kept. */
QS_API float qs_half_to_float(uint16_t half);
QS_API uint16_t qs_float_to_half(float value);

#ifdef __cplusplus
}
#endif
#endif
