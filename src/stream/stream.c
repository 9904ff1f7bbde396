/* stream.c - a stream as its user sees it (stream.h): made, told what comes, asked for it, freed.
 *
 * Everything here runs in the thread of the user and shares the lock with the two threads of workers.c. */
#include <string.h>
#include "io/manifest.h"
#include "stream/parts.h"

/* ---- making and freeing -------------------------------------------------------------------------------------------- */

/* What the manifest says of the slabs. */
static qs_status take_slabs(qsi_stream *s, const qsi_manifest_file *file)
{
    if (!(s->slabs = qsi_alloc_array(s->context, QS_MEMORY_OTHER, s->count, sizeof *s->slabs)))
        return QS_ERR_NOMEM;
    for (int64_t i = 0; i < s->count; i++) {
        const qsi_slab *from = &file->slabs[s->first + i];
        qsi_stream_slab *b = &s->slabs[i];
        *b = (qsi_stream_slab){.offset = from->offset, .bytes = from->bytes, .place = -1, .slot = -1,
                               .first = QSI_STREAM_NEVER, .last = QSI_STREAM_NEVER};
        memcpy(b->hash, from->hash, sizeof b->hash);
    }
    return QS_OK;
}

/* What these slabs take. ARG: too little memory for them. */
static qs_status measure(const qsi_stream *s, const qsi_stream_options *options, qsi_stream_size *size)
{
    int64_t all = 0, largest = 0;
    for (int64_t i = 0; i < s->count; i++) {   /* the sum fits: a file is as long, but for a page per slab */
        all += qsi_stream_pages((int64_t)s->slabs[i].bytes);
        largest = qsi_max(largest, (int64_t)s->slabs[i].bytes);
    }
    return qsi_stream_size_of(s->count, all, largest, options, size);
}

static qs_status make_slots(qsi_stream *s, int64_t slots, int64_t bytes)
{
    qs_status status = QS_OK;
    s->slots = qsi_alloc_array(s->context, QS_MEMORY_OTHER, slots, sizeof *s->slots);
    s->guess = qsi_alloc_array(s->context, QS_MEMORY_OTHER, slots, sizeof *s->guess);
    if (!s->slots || !s->guess)
        QS_TRY(QS_ERR_NOMEM);
    for (; s->n_slots < slots; s->n_slots++) {
        s->slots[s->n_slots].slab = -1;
        QS_TRY(qs_buffer_create(s->context, QS_MEMORY_SLOTS, (uint64_t)bytes, &s->slots[s->n_slots].buffer));
    }
    QS_TRY(qs_queue_create(s->context, &s->queue));
fail:
    return status;
}

static qs_status make_locks(qsi_stream *s)
{
    qs_status status = QS_OK;
    if (pthread_mutex_init(&s->lock, NULL) != 0)
        QS_FAIL(QS_ERR_NOMEM, "cannot make a lock for slabs");
    if (pthread_cond_init(&s->changed, NULL) != 0) {
        pthread_mutex_destroy(&s->lock);
        QS_FAIL(QS_ERR_NOMEM, "cannot make a lock for slabs");
    }
    s->locks = true;
fail:
    return status;
}

static qs_status check_options(const qs_checkpoint *checkpoint, int64_t first, int64_t count, const qsi_stream_options *options)
{
    qs_status status = QS_OK;
    const int64_t slabs = qs_checkpoint_slab_count(checkpoint, QSI_MODEL_FILE);
    if (!qs_checkpoint_manifest(checkpoint))
        QS_FAIL(QS_ERR_UNSUPPORTED, "%s is a single file: slabs stream from a checkpoint folder, whose manifest lists them",
                qs_checkpoint_path(checkpoint));
    if (first < 0 || count < 1 || first > slabs || count > slabs - first)
        QS_FAIL(QS_ERR_ARG, "%lld slabs from number %lld on; %s has %lld", (long long)count, (long long)first,
                qs_checkpoint_path(checkpoint), (long long)slabs);
    if (options->slots < 2)
        QS_FAIL(QS_ERR_ARG, "%lld slots for slabs; give at least 2", (long long)options->slots);
fail:
    return status;
}

qs_status qsi_stream_create(qs_context *context, const qs_checkpoint *checkpoint, int64_t first, int64_t count,
                            const qsi_stream_options *options, qsi_stream **out)
{
    qs_status status = QS_OK;
    qsi_stream *s = NULL;
    const char *path = NULL;
    qsi_stream_size size;
    QS_TRY(check_options(checkpoint, first, count, options));
    const qsi_manifest_file *file = qsi_checkpoint_file(checkpoint, QSI_MODEL_FILE, &path);
    if (!(s = qsi_alloc(context, QS_MEMORY_OTHER, sizeof *s)))
        QS_TRY(QS_ERR_NOMEM);
    s->context = context;
    s->first = first;
    s->count = count;
    s->file.direct = s->file.plain = -1;
    QS_TRY(take_slabs(s, file));
    QS_TRY(measure(s, options, &size));
    s->capacity = QSI_STREAM_ORDERS * count;
    if (!(s->order = qsi_alloc_array(context, QS_MEMORY_OTHER, s->capacity, sizeof *s->order)))
        QS_TRY(QS_ERR_NOMEM);
    QS_TRY(qsi_slab_file_open(context, path, file->claim.bytes, &s->file));
    QS_TRY(qsi_stream_make_places(s, &size));
    QS_TRY(make_slots(s, options->slots, size.slot_bytes));
    qsi_stream_choose_kept(s);
    QS_TRY(make_locks(s));
    QS_TRY(qsi_stream_start(s));
    *out = s;
    return QS_OK;
fail:
    qsi_stream_free(&s);
    return status;
}

void qsi_stream_free(qsi_stream **stream)
{
    qsi_stream *s = *stream;
    if (!s)
        return;
    qsi_stream_stop(s);
    if (s->locks) {
        pthread_cond_destroy(&s->changed);
        pthread_mutex_destroy(&s->lock);
    }
    qs_queue_free(&s->queue);
    for (int64_t i = 0; i < s->n_slots; i++)
        qs_buffer_free(&s->slots[i].buffer);
    qsi_free(s->slots);
    qsi_free(s->guess);
    qsi_stream_free_places(s);
    qsi_slab_file_close(&s->file);
    qsi_free(s->order);
    qsi_free(s->slabs);
    qsi_free(s);
    *stream = NULL;
}

/* ---- what comes ------------------------------------------------------------------------------------------------------ */

void qsi_stream_uses(qsi_stream *s, const int64_t *uses)
{
    pthread_mutex_lock(&s->lock);
    for (int64_t i = 0; i < s->count; i++)
        s->slabs[i].uses = uses[i];
    qsi_stream_choose_kept(s);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

qs_status qsi_stream_expect(qsi_stream *s, const int64_t *slabs, int64_t n)
{
    qs_status status = QS_OK;
    pthread_mutex_lock(&s->lock);
    if (n < 0 || n > s->capacity - (s->tail - s->head))
        QS_FAIL(QS_ERR_ARG, "%lld slabs more are expected; there is room for %lld", (long long)n,
                (long long)(s->capacity - (s->tail - s->head)));
    for (int64_t i = 0; i < n; i++)
        if (slabs[i] < 0 || slabs[i] >= s->count)
            QS_FAIL(QS_ERR_ARG, "slab %lld of a stream of %lld", (long long)slabs[i], (long long)s->count);
    for (int64_t i = 0; i < n; i++)
        qsi_stream_append(s, slabs[i]);
    pthread_cond_broadcast(&s->changed);
fail:
    pthread_mutex_unlock(&s->lock);
    return status;
}

void qsi_stream_cancel(qsi_stream *s)
{
    pthread_mutex_lock(&s->lock);
    qsi_stream_forget(s);
    s->epoch++;
    pthread_mutex_unlock(&s->lock);
}

/* ---- asking for it --------------------------------------------------------------------------------------------------- */

static bool in_slot(const qsi_stream *s, int64_t slab)
{
    const int64_t slot = s->slabs[slab].slot;
    return slot >= 0 && !s->slots[slot].filling;
}

static bool all_held(const qsi_stream *s)
{
    int64_t held = 0;
    for (int64_t i = 0; i < s->n_slots; i++)
        held += s->slots[i].held > 0;
    return held == s->n_slots;
}

/* Waits, under the lock, until the slab lies in a slot or something failed. */
static qs_status wait_for(qsi_stream *s, int64_t slab)
{
    qs_status status = QS_OK;
    if (s->failed == QS_OK && !in_slot(s, slab)) {
        const double began = qsi_stream_seconds();
        while (s->failed == QS_OK && !in_slot(s, slab))
            pthread_cond_wait(&s->changed, &s->lock);
        s->stats.wait_seconds += qsi_stream_seconds() - began;
    }
    if (s->failed != QS_OK)
        QS_FAIL(s->failed, "%s", s->text);
fail:
    return status;
}

qs_status qsi_stream_acquire(qsi_stream *s, int64_t slab, qs_view *bytes)
{
    qs_status status = QS_OK;
    pthread_mutex_lock(&s->lock);
    if (s->failed != QS_OK)
        QS_FAIL(s->failed, "%s", s->text);
    if (s->head == s->tail || qsi_stream_at(s, s->head)->slab != slab)
        QS_FAIL(QS_ERR_ARG, "slab %lld is not the next one expected (%lld)", (long long)slab,
                s->head == s->tail ? -1LL : (long long)qsi_stream_at(s, s->head)->slab);
    if (s->slabs[slab].slot < 0 && all_held(s))
        QS_FAIL(QS_ERR_ARG, "slab %lld: all %lld slots are held", (long long)slab, (long long)s->n_slots);
    QS_TRY(wait_for(s, slab));
    qsi_stream_slot *slot = &s->slots[s->slabs[slab].slot];
    *bytes = qs_view_at(slot->buffer, 0, QS_U8, 1, (int64_t)s->slabs[slab].bytes);
    s->stats.acquired++;
    s->stats.from_slot += slot->used;
    s->stats.from_ram += !slot->used && slot->from_ram;
    slot->used = true;
    slot->held++;
    qsi_stream_advance(s);
    pthread_cond_broadcast(&s->changed);
fail:
    pthread_mutex_unlock(&s->lock);
    return status;
}

void qsi_stream_release(qsi_stream *s, int64_t slab)
{
    pthread_mutex_lock(&s->lock);
    const int64_t at = slab >= 0 && slab < s->count ? s->slabs[slab].slot : -1;
    if (at >= 0 && s->slots[at].held > 0) {
        s->slots[at].held--;
        s->slots[at].stamp = ++s->clock;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
}

/* ---- other bytes ----------------------------------------------------------------------------------------------------- */

/* Under the lock: the threads do nothing, and have nothing to do. */
static void wait_for_rest(qsi_stream *s)
{
    for (int64_t i = 0; i < s->n_places; i++)
        while (s->places[i].reading)
            pthread_cond_wait(&s->changed, &s->lock);
    for (int64_t i = 0; i < s->n_slots; i++)
        while (s->slots[i].filling)
            pthread_cond_wait(&s->changed, &s->lock);
}

void qsi_stream_rest(qsi_stream *s)
{
    qsi_stream_cancel(s);
    pthread_mutex_lock(&s->lock);
    wait_for_rest(s);
    pthread_mutex_unlock(&s->lock);
}

/* The file as it is now, and what its manifest says of the slab. */
static qs_status look_again(qsi_stream *s, const qs_checkpoint *checkpoint, int64_t slab)
{
    qs_status status = QS_OK;
    const char *path = NULL;
    const qsi_manifest_file *file = qsi_checkpoint_file(checkpoint, QSI_MODEL_FILE, &path);
    qsi_stream_slab *b = &s->slabs[slab];
    if (!file || s->first + s->count > qs_checkpoint_slab_count(checkpoint, QSI_MODEL_FILE))
        QS_FAIL(QS_ERR_ARG, "%s is not the checkpoint whose slabs are in use", qs_checkpoint_path(checkpoint));
    const qsi_slab *now = &file->slabs[s->first + slab];
    if (now->offset != b->offset || now->bytes != b->bytes)
        QS_FAIL(QS_ERR_ARG, "%s: slab %lld lies elsewhere than before", path, (long long)(s->first + slab));
    memcpy(b->hash, now->hash, sizeof b->hash);
    b->verified = false;
    qsi_slab_file_close(&s->file);
    QS_TRY(qsi_slab_file_open(s->context, path, file->claim.bytes, &s->file));
fail:
    return status;
}

/* A failure shows at the next acquire. */
void qsi_stream_changed(qsi_stream *s, const qs_checkpoint *checkpoint, int64_t slab)
{
    pthread_mutex_lock(&s->lock);
    wait_for_rest(s);
    qsi_stream_slab *b = &s->slabs[slab];
    if (b->place >= 0)
        s->places[b->place].slab = -1;
    if (b->slot >= 0)
        s->slots[b->slot].slab = -1;
    b->place = b->slot = -1;
    if (s->failed == QS_OK)
        qsi_stream_keep_failure(s, look_again(s, checkpoint, slab));
    pthread_mutex_unlock(&s->lock);
}

void qsi_stream_get_stats(const qsi_stream *stream, qsi_stream_stats *stats)
{
    qsi_stream *s = (qsi_stream *)(uintptr_t)stream;   /* the lock is no part of what it says */
    pthread_mutex_lock(&s->lock);
    *stats = s->stats;
    pthread_mutex_unlock(&s->lock);
}
