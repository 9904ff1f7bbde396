/* arena.c - many tensors in one device buffer, each on a multiple of 64 bytes. */
#include "core/arena.h"

#include <string.h>

enum { TENSOR_ALIGNMENT = 64 };

void qsi_arena_init(qsi_arena *arena, qs_context *context, qs_memory_tag tag)
{
    memset(arena, 0, sizeof *arena);
    arena->context = context;
    arena->tag = tag;
}

static qs_status grow(qsi_arena *arena)
{
    const int64_t capacity = arena->capacity ? 2 * arena->capacity : 32;
    qs_view **views = qsi_alloc_array(arena->context, QS_MEMORY_OTHER, capacity, sizeof *views);
    if (!views)
        return QS_ERR_NOMEM;
    if (arena->count)
        memcpy(views, arena->views, (size_t)arena->count * sizeof *views);
    qsi_free(arena->views);
    arena->views = views;
    arena->capacity = capacity;
    return QS_OK;
}

/* The view behind all that were announced before; the buffer grows by it. */
static qs_status place(qsi_arena *arena, qs_view *view, qs_format format, int64_t rows, int64_t cols)
{
    qs_status status = QS_OK;
    const int64_t row = qs_row_bytes(format, cols);
    int64_t bytes = 0;
    if (row < 0 || !qsi_mul(row, rows, &bytes) || !qsi_add(arena->bytes, bytes, &bytes) ||
        bytes > INT64_MAX - TENSOR_ALIGNMENT)
        QS_FAIL(QS_ERR_SHAPE, "tensor [%lld,%lld] of format %s is too large or does not fit the format", (long long)rows,
                (long long)cols, qs_format_name(format));
    *view = qs_view_at(NULL, (uint64_t)arena->bytes, format, rows, cols);
    arena->bytes = qsi_round_up(bytes, TENSOR_ALIGNMENT);
fail:
    return status;
}

void qsi_arena_add(qsi_arena *arena, qs_view *view, qs_format format, int64_t rows, int64_t cols)
{
    if (arena->status == QS_OK)
        arena->status = place(arena, view, format, rows, cols);
    if (!arena->context)
        return;
    if (arena->status == QS_OK && arena->count == arena->capacity)
        arena->status = grow(arena);
    if (arena->status == QS_OK)
        arena->views[arena->count++] = view;
}

qs_status qsi_arena_bytes(const qsi_arena *arena, int64_t *bytes)
{
    if (arena->status == QS_OK)
        *bytes = arena->bytes;
    return arena->status;
}

qs_status qsi_arena_create(qsi_arena *arena)
{
    qs_status status = arena->status;
    if (status != QS_OK)
        goto fail;
    if (arena->bytes > 0)
        QS_TRY(qs_buffer_create(arena->context, arena->tag, (uint64_t)arena->bytes, &arena->buffer));
    for (int64_t i = 0; i < arena->count; i++)
        arena->views[i]->buffer = arena->buffer;
fail:
    qsi_free(arena->views);
    arena->views = NULL;
    arena->count = arena->capacity = 0;
    return status;
}

void qsi_arena_free(qsi_arena *arena)
{
    qsi_free(arena->views);
    arena->views = NULL;
    qs_buffer_free(&arena->buffer);
}
