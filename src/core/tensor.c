/* tensor.c - buffers, views, and the copies between host and device. */
#include <string.h>
#include "core/objects.h"

/* ---- buffers ----------------------------------------------------------------------------------------------------- */

qs_status qs_buffer_create(qs_context *context, qs_memory_tag tag, uint64_t bytes, qs_buffer **out)
{
    qs_status status = QS_OK;
    qs_buffer *buffer = NULL;
    bool booked = false;
    if (bytes == 0 || bytes > INT64_MAX)
        QS_FAIL(QS_ERR_ARG, "a buffer of %llu bytes cannot exist", (unsigned long long)bytes);
    if (!(buffer = qsi_alloc(context, QS_MEMORY_OTHER, sizeof *buffer)))
        QS_TRY(QS_ERR_NOMEM);
    *buffer = (qs_buffer){context, NULL, bytes, tag};
    QS_TRY(qsi_account_device(context, tag, (int64_t)bytes));
    booked = true;
    status = context->backend->alloc(context->device, bytes, &buffer->memory);
    if (status != QS_OK)
        QS_FAIL(status, "cannot allocate %llu bytes for %s on %s", (unsigned long long)bytes, qs_memory_tag_name(tag),
                context->backend->name);
    *out = buffer;
    return QS_OK;
fail:
    if (booked)
        (void)qsi_account_device(context, tag, -(int64_t)bytes);
    qsi_free(buffer);
    return status;
}

void qs_buffer_free(qs_buffer **buffer)
{
    if (!buffer || !*buffer)
        return;
    qs_buffer *b = *buffer;
    b->context->backend->free(b->context->device, b->memory, b->bytes);
    (void)qsi_account_device(b->context, b->tag, -(int64_t)b->bytes);
    qsi_free(b);
    *buffer = NULL;
}

uint64_t qs_buffer_bytes(const qs_buffer *buffer)
{
    return buffer->bytes;
}

/* ---- views ------------------------------------------------------------------------------------------------------- */

qs_view qs_view_at(qs_buffer *buffer, uint64_t offset, qs_format format, int64_t rows, int64_t cols)
{
    return (qs_view){buffer, offset, rows, cols, qs_row_bytes(format, cols), format, 0};
}

/* A range outside the view has -1 rows, which every check refuses. */
qs_view qs_view_rows(qs_view view, int64_t first, int64_t count)
{
    bool inside = first >= 0 && count >= 0 && first <= view.rows && count <= view.rows - first && view.row_bytes >= 0;
    if (!inside) {
        view.rows = -1;
        return view;
    }
    view.offset += (uint64_t)first * (uint64_t)view.row_bytes;
    view.rows = count;
    return view;
}

qs_status qsi_view_check(const qs_context *context, const qs_view *v, const char *op, const char *slot)
{
    qs_status status = QS_OK;
    int64_t last, end;
    if ((uint32_t)v->format >= QS_FORMATS || v->reserved != 0)
        QS_FAIL(QS_ERR_ARG, "%s: %s has no valid format (%d)", op, slot, (int)v->format);
    const qsi_format *facts = qsi_format_of((qs_format)v->format);
    if (v->buffer->context != context)
        QS_FAIL(QS_ERR_ARG, "%s: %s lies in a buffer of another context", op, slot);
    if (v->rows < 1 || v->cols < 1)
        QS_FAIL(QS_ERR_SHAPE, "%s: %s is [%lld,%lld]", op, slot, (long long)v->rows, (long long)v->cols);
    int64_t row = qs_row_bytes((qs_format)v->format, v->cols);
    if (row < 0)
        QS_FAIL(QS_ERR_SHAPE, "%s: %s has %lld columns, %s needs a multiple of %d", op, slot, (long long)v->cols,
                facts->name, facts->multiple);
    if (v->row_bytes < row || v->row_bytes % facts->alignment || v->offset % (unsigned)facts->alignment)
        QS_FAIL(QS_ERR_ARG, "%s: %s has offset %llu and rows %lld bytes apart; %s rows of %lld bytes are aligned to %d", op,
                slot, (unsigned long long)v->offset, (long long)v->row_bytes, facts->name, (long long)row, facts->alignment);
    if (v->offset > INT64_MAX || !qsi_mul(v->rows - 1, v->row_bytes, &last) || !qsi_add(last, row, &end) ||
        !qsi_add(end, (int64_t)v->offset, &end) || (uint64_t)end > v->buffer->bytes)
        QS_FAIL(QS_ERR_SHAPE, "%s: %s is [%lld,%lld] %s at offset %llu, beyond its buffer of %llu bytes", op, slot,
                (long long)v->rows, (long long)v->cols, facts->name, (unsigned long long)v->offset,
                (unsigned long long)v->buffer->bytes);
fail:
    return status;
}

/* ---- copies ------------------------------------------------------------------------------------------------------ */

qs_status qs_write(qs_queue *queue, qs_view view, const void *host)
{
    qs_status status = QS_OK;
    qs_context *context = queue->context;
    if (!view.buffer || !host)
        QS_FAIL(QS_ERR_ARG, "write: the %s is absent", view.buffer ? "host memory" : "view");
    QS_TRY(qsi_view_check(context, &view, "write", "the view"));
    if (view.format == QS_T2)
        QS_TRY(qsi_t2_check(host, view.rows, view.cols));
    QS_TRY(context->backend->write(queue->device_queue, (char *)view.buffer->memory + view.offset, view.row_bytes, host,
                                   qs_row_bytes((qs_format)view.format, view.cols), view.rows));
fail:
    return status;
}

qs_status qs_read(qs_queue *queue, qs_view view, void *host)
{
    qs_status status = QS_OK;
    qs_context *context = queue->context;
    if (!view.buffer || !host)
        QS_FAIL(QS_ERR_ARG, "read: the %s is absent", view.buffer ? "host memory" : "view");
    QS_TRY(qsi_view_check(context, &view, "read", "the view"));
    QS_TRY(context->backend->read(queue->device_queue, (const char *)view.buffer->memory + view.offset, view.row_bytes, host,
                                  qs_row_bytes((qs_format)view.format, view.cols), view.rows));
fail:
    return status;
}
