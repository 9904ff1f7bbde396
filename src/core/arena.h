/* arena.h - many tensors in one device buffer: announce the views, create the buffer, and every view points into it. */
#ifndef QSI_ARENA_H
#define QSI_ARENA_H

#include "core/internal.h"

typedef struct qsi_arena {
    qs_context *context;     /* NULL: a plan, which only counts bytes */
    qs_memory_tag tag;
    qs_buffer *buffer;
    int64_t bytes;           /* of all that is announced */
    qs_view **views;         /* announced, until the buffer exists; none in a plan */
    int64_t count, capacity;
    qs_status status;        /* the first failure of qsi_arena_add, reported by qsi_arena_create and qsi_arena_bytes */
} qsi_arena;

void qsi_arena_init(qsi_arena *arena, qs_context *context, qs_memory_tag tag);

/* Announces a tensor: *view gets its shape at once and its buffer from qsi_arena_create, until when it must stay where it is
 * (in a plan it may be announced again). */
void qsi_arena_add(qsi_arena *arena, qs_view *view, qs_format format, int64_t rows, int64_t cols);

/* Size of the buffer that qsi_arena_create makes. SHAPE. */
qs_status qsi_arena_bytes(const qsi_arena *arena, int64_t *bytes);

/* Allocates the zeroed buffer (none if nothing was announced). SHAPE, NOMEM. */
qs_status qsi_arena_create(qsi_arena *arena);
void qsi_arena_free(qsi_arena *arena);

#endif
