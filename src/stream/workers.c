/* workers.c - the two threads of a stream: the reader fills places from the file, the copier fills slots from places.
 *
 * Each takes what order.c says is next, works without the lock, and tells under the lock what came of it; there is nothing to do
 * until something changes. Both work in pieces of a chunk, between which they see that their work is no longer wanted. A
 * failure is kept for qsi_stream_acquire, with its text, which belongs to a thread. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "stream/parts.h"

double qsi_stream_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Under the lock: a read or a copy begins, ends. begin gives the time, which end gets back. */
static double begin(qsi_stream *s, bool *under_way)
{
    const double now = qsi_stream_seconds();
    if (!s->reading && !s->copying)
        s->busy_since = now;
    *under_way = true;
    return now;
}

static void end(qsi_stream *s, bool *under_way, double began, double *seconds)
{
    const double now = qsi_stream_seconds();
    *seconds += now - began;
    *under_way = false;
    if (!s->reading && !s->copying)
        s->stats.transfer_seconds += now - s->busy_since;
}

void qsi_stream_keep_failure(qsi_stream *s, qs_status status)
{
    if (status == QS_OK || s->failed != QS_OK)
        return;
    s->failed = status;
    snprintf(s->text, sizeof s->text, "%s", qs_last_error());
}

/* Whether work begun in `epoch` is still wanted. */
static bool is_wanted(qsi_stream *s, int64_t epoch)
{
    pthread_mutex_lock(&s->lock);
    const bool wanted = !s->stop && s->epoch == epoch && s->failed == QS_OK;
    pthread_mutex_unlock(&s->lock);
    return wanted;
}

/* ---- the reader ---------------------------------------------------------------------------------------------------- */

/* Compares the checksum of slab i, which lies at data. CORRUPT. */
static qs_status verify(const qsi_stream *s, int64_t i, const uint8_t *data)
{
    qs_status status = QS_OK;
    char hash[QSI_HEX];
    const qsi_stream_slab *b = &s->slabs[i];
    qsi_checksum(data, b->bytes, hash);
    if (strcmp(hash, b->hash) != 0)
        QS_FAIL(QS_ERR_CORRUPT, "%s: slab %lld (offset %llu, %llu bytes) has XXH3-128 %s, the manifest says %s", s->file.path,
                (long long)(s->first + i), (unsigned long long)b->offset, (unsigned long long)b->bytes, hash, b->hash);
fail:
    return status;
}

/* Reads slab i to data as far as it is wanted: *done bytes of it. */
static qs_status read_bytes(qsi_stream *s, int64_t i, int64_t epoch, uint8_t *data, int64_t *done)
{
    qs_status status = QS_OK;
    const qsi_stream_slab *b = &s->slabs[i];
    const int64_t bytes = (int64_t)b->bytes;
    for (*done = 0; *done < bytes && is_wanted(s, epoch);) {
        const int64_t n = qsi_min(bytes - *done, QSI_STREAM_CHUNK);
        QS_TRY(qsi_slab_file_read(&s->file, s->first + i, b->offset + (uint64_t)*done, data + *done, n));
        *done += n;
    }
    QS_TRY(qsi_slab_file_check(&s->file, s->first + i));
fail:
    return status;
}

static void read_slab(qsi_stream *s, int64_t i, int64_t place)
{
    qsi_stream_slab *b = &s->slabs[i];
    qsi_stream_place *p = &s->places[place];
    const int64_t epoch = s->epoch;
    int64_t done = 0;
    if (p->slab >= 0)
        s->slabs[p->slab].place = -1;
    p->slab = i;
    p->reading = true;
    b->place = place;
    const double began = begin(s, &s->reading);
    pthread_mutex_unlock(&s->lock);
    qs_status status = read_bytes(s, i, epoch, p->data, &done);
    pthread_mutex_lock(&s->lock);
    end(s, &s->reading, began, &s->stats.read_seconds);
    s->stats.read_bytes += (uint64_t)done;
    pthread_mutex_unlock(&s->lock);
    const bool whole = status == QS_OK && done == (int64_t)b->bytes;
    if (whole && !b->verified)
        status = verify(s, i, p->data);
    pthread_mutex_lock(&s->lock);
    qsi_stream_keep_failure(s, status);
    p->reading = false;
    p->fresh = whole && status == QS_OK;
    p->stamp = ++s->clock;
    if (p->fresh)
        b->verified = true;
    else
        p->slab = b->place = -1;
    pthread_cond_broadcast(&s->changed);
}

static void *reader(void *stream)
{
    qsi_stream *s = stream;
    int64_t slab = 0, place = 0;
    pthread_mutex_lock(&s->lock);
    while (!s->stop)
        if (s->failed == QS_OK && qsi_stream_next_read(s, &slab, &place))
            read_slab(s, slab, place);
        else
            pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- the copier ---------------------------------------------------------------------------------------------------- */

/* Copies `bytes` bytes from data to the buffer as far as they are wanted: *done of them. */
static qs_status copy_bytes(qsi_stream *s, int64_t epoch, qs_buffer *buffer, const uint8_t *data, int64_t bytes, int64_t *done)
{
    qs_status status = QS_OK;
    for (*done = 0; *done < bytes && is_wanted(s, epoch);) {
        const int64_t n = qsi_min(bytes - *done, QSI_STREAM_CHUNK);
        QS_TRY(qs_write(s->queue, qs_view_at(buffer, (uint64_t)*done, QS_U8, 1, n), data + *done));
        *done += n;
    }
fail:
    return status;
}

static void copy_slab(qsi_stream *s, int64_t i, int64_t slot)
{
    qsi_stream_slab *b = &s->slabs[i];
    qsi_stream_place *p = &s->places[b->place];
    qsi_stream_slot *t = &s->slots[slot];
    const int64_t epoch = s->epoch, bytes = (int64_t)b->bytes;
    int64_t done = 0;
    if (t->slab >= 0)
        s->slabs[t->slab].slot = -1;
    t->slab = i;
    t->filling = true;
    b->slot = slot;
    p->copying = true;
    const double began = begin(s, &s->copying);
    pthread_mutex_unlock(&s->lock);
    const qs_status status = copy_bytes(s, epoch, t->buffer, p->data, bytes, &done);
    pthread_mutex_lock(&s->lock);
    end(s, &s->copying, began, &s->stats.copy_seconds);
    s->stats.copied_bytes += (uint64_t)done;
    qsi_stream_keep_failure(s, status);
    p->copying = t->filling = t->used = false;
    p->stamp = t->stamp = ++s->clock;
    if (status == QS_OK && done == bytes) {
        t->from_ram = !p->fresh;
        p->fresh = false;
    } else {
        t->slab = b->slot = -1;
    }
    pthread_cond_broadcast(&s->changed);
}

static void *copier(void *stream)
{
    qsi_stream *s = stream;
    int64_t slab = 0, slot = 0;
    pthread_mutex_lock(&s->lock);
    while (!s->stop)
        if (s->failed == QS_OK && qsi_stream_next_copy(s, &slab, &slot))
            copy_slab(s, slab, slot);
        else
            pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- starting and stopping ------------------------------------------------------------------------------------------- */

/* Signals stay with the threads of the program. */
qs_status qsi_stream_start(qsi_stream *s)
{
    qs_status status = QS_OK;
    static void *(*const work[])(void *) = {reader, copier};
    char reason[128];
    sigset_t all, before;
    int error = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (s->threads < 2 && !error) {
        error = pthread_create(&s->thread[s->threads], NULL, work[s->threads], s);
        s->threads += !error;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        QS_FAIL(QS_ERR_NOMEM, "cannot start a thread for slabs: %s", strerror_r(error, reason, sizeof reason));
fail:
    return status;
}

void qsi_stream_stop(qsi_stream *s)
{
    if (!s->locks)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    while (s->threads > 0)
        pthread_join(s->thread[--s->threads], NULL);
}
