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
    qs_status status = QS_OK;
    const int64_t capacity = arena->capacity ? 2 * arena->capacity : 32;
    qsi_arena_slot *slots = qsi_alloc_array(arena->context, QS_MEMORY_OTHER, capacity, sizeof *slots);
    if (!slots) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    if (arena->count)
        memcpy(slots, arena->slots, (size_t)arena->count * sizeof *slots);
    qsi_free(arena->slots);
    arena->slots = slots;
    arena->capacity = capacity;
fail:
    return status;
}

void qsi_arena_add(qsi_arena *arena, qs_view *view, qs_format format, int64_t rows, int64_t cols)
{
    if (arena->status == QS_OK && arena->count == arena->capacity)
        arena->status = grow(arena);
    if (arena->status != QS_OK)
        return;
    arena->slots[arena->count++] = (qsi_arena_slot){view, format, rows, cols};
}

/* The offset of each slot goes into its view; *total is the size of the buffer. */
static qs_status place(qsi_arena *arena, int64_t *total)
{
    qs_status status = QS_OK;
    int64_t offset = 0;
    for (int64_t i = 0; i < arena->count; i++) {
        const qsi_arena_slot *s = &arena->slots[i];
        const int64_t row = qs_row_bytes(s->format, s->cols);
        int64_t bytes = 0;
        if (row < 0 || !qsi_mul(row, s->rows, &bytes) || !qsi_add(offset, bytes, &bytes) ||
            bytes > INT64_MAX - TENSOR_ALIGNMENT)
            QS_FAIL(QS_ERR_SHAPE, "tensor [%lld,%lld] of format %s is too large or does not fit the format",
                    (long long)s->rows, (long long)s->cols, qs_format_name(s->format));
        s->view->offset = (uint64_t)offset;
        offset = qsi_round_up(bytes, TENSOR_ALIGNMENT);
    }
    *total = offset;
fail:
    return status;
}

qs_status qsi_arena_create(qsi_arena *arena)
{
    qs_status status = arena->status;
    int64_t total = 0;
    if (status != QS_OK)
        goto fail;
    QS_TRY(place(arena, &total));
    if (total > 0)
        QS_TRY(qs_buffer_create(arena->context, arena->tag, (uint64_t)total, &arena->buffer));
    for (int64_t i = 0; i < arena->count; i++) {
        const qsi_arena_slot *s = &arena->slots[i];
        *s->view = qs_view_at(arena->buffer, s->view->offset, s->format, s->rows, s->cols);
    }
fail:
    qsi_free(arena->slots);
    arena->slots = NULL;
    arena->count = arena->capacity = 0;
    return status;
}

void qsi_arena_free(qsi_arena *arena)
{
    qsi_free(arena->slots);
    arena->slots = NULL;
    qs_buffer_free(&arena->buffer);
}
