/* size.h - the memory of a stream, which its plans and its allocations take from one place. */
#ifndef QSI_STREAM_SIZE_H
#define QSI_STREAM_SIZE_H

#include "stream/stream.h"

typedef struct qsi_stream_size {
    bool fits;               /* every slab has a place of its own */
    int64_t places;
    int64_t place_bytes;     /* of all places: host memory for slabs */
    int64_t slot_bytes;      /* of one slot */
    int64_t list_bytes;      /* of what keeps count of slabs, places and slots */
} qsi_stream_size;

/* What a stream of `count` slabs books. all: bytes of the slabs, each in whole pages (qsi_stream_pages); largest: of the largest. ARG
 * where options.ram_bytes hold neither all nor two of the largest. */
qs_status qsi_stream_size_of(int64_t count, int64_t all, int64_t largest, const qsi_stream_options *options, qsi_stream_size *size);

/* A slab in whole pages, at least one. */
int64_t qsi_stream_pages(int64_t bytes);

/* The least options.ram_bytes. */
int64_t qsi_stream_least(int64_t all, int64_t largest);

#endif
