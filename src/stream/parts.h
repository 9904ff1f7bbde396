/* parts.h - what a stream is made of; shared by the files of src/stream only.
 *
 * A slab passes through a *place* (host memory) and a *slot* (device memory). What replaces what follows from the order of
 * acquisitions to come: every slab knows the first position at which it is expected (order.c), and a content gives way when it
 * is not needed before the slab that comes. All of it is written under the lock of the stream, except the bytes themselves:
 * those of a place belong to the reader while `reading`, those of a slot to the copier while `filling`. */
#ifndef QSI_STREAM_PARTS_H
#define QSI_STREAM_PARTS_H

#include <pthread.h>
#include <sys/stat.h>
#include "io/checksum.h"
#include "stream/size.h"

enum { QSI_STREAM_CHUNK = 8 << 20,   /* bytes of one read or copy: what a cancelled one may still take */
       QSI_STREAM_PAGE = 4096,       /* unit of reads past the page cache; QS_SLAB_ALIGN is a multiple */
       QSI_STREAM_STAGING = 2,       /* places for slabs that do not stay: one is read while another is copied */
       QSI_STREAM_ORDERS = 8 };      /* as many positions per slab may be expected at a time */

#define QSI_STREAM_NEVER INT64_MAX   /* a position behind all others */

/* ---- the file (reader.c) ----------------------------------------------------------------------------------------- */

typedef struct qsi_slab_file {
    char *path;
    int direct, plain;        /* descriptors past and through the page cache; -1: not open */
    struct stat seen;         /* when it was opened */
} qsi_slab_file;

/* Opens path, of `bytes` bytes; file->path is a copy. Errors: NOINPUT, IO, CORRUPT (another size), NOMEM. close accepts a
 * file of zeros with -1 descriptors. */
qs_status qsi_slab_file_open(qs_context *context, const char *path, uint64_t bytes, qsi_slab_file *file);
void qsi_slab_file_close(qsi_slab_file *file);

/* Reads n bytes at offset, a multiple of QSI_STREAM_PAGE, to page-aligned memory. slab names them in messages. IO. */
qs_status qsi_slab_file_read(qsi_slab_file *file, int64_t slab, uint64_t offset, uint8_t *to, int64_t n);

/* IO if size or time are not those seen at open. */
qs_status qsi_slab_file_check(const qsi_slab_file *file, int64_t slab);

/* ---- the parts ----------------------------------------------------------------------------------------------------- */

typedef struct qsi_stream_slab {
    uint64_t offset, bytes;
    char hash[QSI_HEX];
    bool verified;            /* its bytes had this hash once */
    bool kept;                /* stays in RAM once read */
    int64_t uses;             /* per step, as told */
    int64_t place, slot;      /* where it lies or is about to; -1: nowhere */
    int64_t first, last;      /* positions at which it is expected; NEVER: not expected */
} qsi_stream_slab;

typedef struct qsi_stream_place {
    uint8_t *data;            /* page-aligned, whole pages */
    int64_t slab;             /* -1: empty */
    bool reading, copying;
    bool fresh;               /* read, and not copied since */
    int64_t stamp;            /* larger: read or copied later */
    int64_t wanted;           /* the search for the next read that found it needed; see qsi_stream_next_read */
} qsi_stream_place;

typedef struct qsi_stream_slot {
    qs_buffer *buffer;
    int64_t slab;             /* -1: empty */
    bool filling;
    bool from_ram;            /* its bytes were copied without a read */
    bool used;                /* acquired since they were copied */
    int64_t held;             /* acquisitions not yet released */
    int64_t stamp;            /* larger: released later */
} qsi_stream_slot;

/* What qsi_stream_next_read assumes of a slot. */
typedef struct qsi_stream_guess { int64_t slab, next, stamp; } qsi_stream_guess;

/* A position of the order. */
typedef struct qsi_stream_expected {
    int64_t slab;
    int64_t next;             /* position at which it is expected again, or NEVER */
} qsi_stream_expected;

struct qsi_stream {
    qs_context *context;
    int64_t first, count;     /* slabs of the file */
    qsi_slab_file file;       /* the reader's while `reading` */
    qsi_stream_slab *slabs;   /* [count] */

    int64_t n_places;
    qsi_stream_place *places;
    bool fits;                /* every slab has a place of its own */
    uint8_t *memory;          /* of all places */
    int64_t memory_bytes;

    int64_t n_slots;
    qsi_stream_slot *slots;
    qsi_stream_guess *guess;  /* [n_slots] scratch of the reader */
    qs_queue *queue;          /* the copier's */

    int64_t capacity, head, tail;      /* positions head..tail-1 are expected */
    qsi_stream_expected *order;        /* [capacity], position p at p % capacity */
    int64_t clock;                     /* of stamps */
    int64_t searches;                  /* of places */

    pthread_mutex_t lock;
    pthread_cond_t changed;   /* any of this */
    bool locks;               /* both exist */
    int threads;              /* that run: 0, 1 or 2 */
    pthread_t thread[2];
    bool stop;
    int64_t epoch;            /* counts cancellations; work begun in an earlier one is dropped */
    bool reading, copying;
    qs_status failed;         /* the first failure of a thread, and its text */
    char text[1024];
    qsi_stream_stats stats;
    double busy_since;        /* seconds, where reading or copying */
};

/* ---- order.c: what is expected ------------------------------------------------------------------------------------- */

void qsi_stream_append(qsi_stream *s, int64_t slab);   /* there is room */
void qsi_stream_advance(qsi_stream *s);                /* past head */
void qsi_stream_forget(qsi_stream *s);                 /* everything expected */

static inline qsi_stream_expected *qsi_stream_at(const qsi_stream *s, int64_t position)
{
    return &s->order[position % s->capacity];
}

/* The next copy: the first expected slab in no slot, if it lies in RAM and a slot may take it. False: nothing to copy. */
bool qsi_stream_next_copy(qsi_stream *s, int64_t *slab, int64_t *slot);

/* The next read: the first expected slab that will be copied and is not in RAM, and a place for it. False: nothing to read, or
 * every place is needed before it. */
bool qsi_stream_next_read(qsi_stream *s, int64_t *slab, int64_t *place);

/* ---- cache.c: what lies in RAM ------------------------------------------------------------------------------------- */

qs_status qsi_stream_make_places(qsi_stream *s, const qsi_stream_size *size);   /* NOMEM */
void qsi_stream_free_places(qsi_stream *s);

/* Chooses what is kept, by uses. */
void qsi_stream_choose_kept(qsi_stream *s);

/* A place that the slab may be read into: empty, or its content is neither kept nor wanted by this search. -1: none. */
int64_t qsi_stream_find_place(const qsi_stream *s, int64_t slab);

/* ---- workers.c: the threads ---------------------------------------------------------------------------------------- */

qs_status qsi_stream_start(qsi_stream *s);
void qsi_stream_stop(qsi_stream *s);        /* waits for their end */
double qsi_stream_seconds(void);            /* of a clock that only goes forward */

/* Under the lock: keeps the first failure, and the text of the thread that calls. */
void qsi_stream_keep_failure(qsi_stream *s, qs_status status);

#endif
