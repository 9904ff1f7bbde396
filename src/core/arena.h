/* arena.h - many tensors in one device buffer: announce the views, create the buffer, and every view points into it. */
#ifndef QSI_ARENA_H
#define QSI_ARENA_H

#include "core/internal.h"

typedef struct qsi_arena_slot {
    qs_view *view;
    qs_format format;
    int64_t rows, cols;
} qsi_arena_slot;

typedef struct qsi_arena {
    qs_context *context;
    qs_memory_tag tag;
    qs_buffer *buffer;
    qsi_arena_slot *slots;
    int64_t count, capacity;
    qs_status status;        /* the first failure of qsi_arena_add, reported by qsi_arena_create */
} qsi_arena;

void qsi_arena_init(qsi_arena *arena, qs_context *context, qs_memory_tag tag);

/* Announces a tensor. *view is filled by qsi_arena_create and must stay where it is until then. */
void qsi_arena_add(qsi_arena *arena, qs_view *view, qs_format format, int64_t rows, int64_t cols);

/* Allocates the zeroed buffer (none if nothing was announced). SHAPE, NOMEM. */
qs_status qsi_arena_create(qsi_arena *arena);
void qsi_arena_free(qsi_arena *arena);

#endif
