/* stream.h - slabs of a model file on their way to the device: file -> RAM -> slots.
 *
 * A slab is one block of a model file: a page-aligned range of bytes under one checksum (docs/format.md). The caller announces the
 * order in which it will use slabs; threads of the stream read them ahead into RAM and copy them into slots, device buffers of the
 * size of the largest slab. Slabs for which the RAM budget suffices stay there; the others are read again each time.
 *
 * A stream belongs to one thread; its own threads are started by qsi_stream_create and end in qsi_stream_free, also after an error. */
#ifndef QSI_STREAM_H
#define QSI_STREAM_H

#include "core/internal.h"
#include "qsbits/checkpoint.h"

typedef struct qsi_stream qsi_stream;

typedef struct qsi_stream_options {
    int64_t slots;       /* device buffers, at least 2 */
    int64_t ram_bytes;   /* host memory for slabs, those that stay and those on their way; at least two of the largest slab */
} qsi_stream_options;

/* A stream over slabs first .. first+count-1 of the model file of a checkpoint that has a manifest. Opens the file by itself, past the
 * page cache where the file system allows; the checkpoint must outlive the stream. All host memory is booked under
 * QS_MEMORY_WEIGHTS, the slots under QS_MEMORY_SLOTS. Nothing is read before the first expect, nothing allocated in passing.
 * Errors: ARG (options), UNSUPPORTED (no manifest), NOMEM, IO, NOINPUT, CORRUPT (the file has another size). */
qs_status qsi_stream_create(qs_context *context, const qs_checkpoint *checkpoint, int64_t first, int64_t count,
                            const qsi_stream_options *options, qsi_stream **out);

/* Stops threads, drops what is under way, frees; stores NULL. Accepts pointer to NULL. */
void qsi_stream_free(qsi_stream **stream);

/* How often each slab [count] will be acquired per step: as many as fit stay in RAM, those of most uses first, spread evenly among
 * equals, so that the reads of the others spread over a step. What stays and is no longer wanted is dropped. Without a call all
 * count the same. */
void qsi_stream_uses(qsi_stream *stream, const int64_t *uses);

/* Appends n slabs (0 .. count-1) to the order of acquisitions to come, at most 8*count at a time; prefetching starts at once. What
 * is in RAM and in slots gives way by this order, so it should reach a few slabs ahead. ARG. */
qs_status qsi_stream_expect(qsi_stream *stream, const int64_t *slabs, int64_t n);

/* Waits until the next expected slab lies in a slot: *bytes is a U8 view [1, bytes of the slab]. A slab that still lies in a slot is
 * not copied again. At most slots slabs may be held at a time. The first time a slab is read its checksum is compared. A
 * slab without bytes has a view without columns. What the user writes into a slot stays there until a slab is copied to it. Errors:
 * ARG (not the next expected, all slots held); CORRUPT, IO (file, slab, offset, what failed), those of qs_write: then the stream can
 * only be freed. */
qs_status qsi_stream_acquire(qsi_stream *stream, int64_t slab, qs_view *bytes);

/* Gives the slot back; the queue has run everything that reads it. */
void qsi_stream_release(qsi_stream *stream, int64_t slab);

/* Waits until nothing is read or copied any more; what was expected is dropped. For whoever changes the file. */
void qsi_stream_rest(qsi_stream *stream);

/* Drops what is expected, e.g. after a cancelled step, and what is on its way. Slabs held stay held. Waits for nothing. */
void qsi_stream_cancel(qsi_stream *stream);

/* The bytes of a slab in the file have changed: copies in RAM and slots are dropped, its checksum is that of the checkpoint given,
 * which is the same file opened anew and takes the place of the old one. No slab is held or expected. */
void qsi_stream_changed(qsi_stream *stream, const qs_checkpoint *checkpoint, int64_t slab);

typedef struct qsi_stream_stats {
    int64_t acquired;                /* slabs */
    int64_t from_slot, from_ram;     /* of them without a copy; without a read */
    uint64_t read_bytes, copied_bytes;
    double read_seconds, copy_seconds;   /* in which a read, a copy was under way */
    double transfer_seconds;         /* in which either was */
    double wait_seconds;             /* in which acquire waited */
} qsi_stream_stats;

void qsi_stream_get_stats(const qsi_stream *stream, qsi_stream_stats *stats);

#endif
