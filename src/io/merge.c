/* merge.c - see merge.h. Committing is the rename of the journal; what follows only repeats what it says, by the same code as after
 * a crash:
 *
 *     merge.journal.tmp -> sync -> merge.journal | rows to model.safetensors -> sync | manifest.json | journal removed
 *
 * New checksums of slabs are made while the journal is written, from the file with the patches laid over it. */
#include "merge.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/in_place.h"
#include "json_text.h"
#include "manifest.h"

enum { CHUNK = 1 << 20, HEAD = 48, RECORD = 16, SUM = 16, JOURNAL_VERSION = 1 };
static const char MAGIC[8] = {'q', 's', 'b', 'm', 'e', 'r', 'g', 'e'};

static void put_number(uint8_t *out, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)(value >> 8 * i);
}

static uint64_t get_number(const uint8_t *in)
{
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | in[i];
    return value;
}

/* A checksum as 16 bytes, in the order of its digits, and back. */
static void bytes_of_hex(const char *hex, uint8_t out[SUM])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < SUM; i++)
        out[i] = (uint8_t)((strchr(digits, hex[2 * i]) - digits) << 4 | (strchr(digits, hex[2 * i + 1]) - digits));
}

static void hex_of_bytes(const uint8_t in[SUM], char out[QSI_HEX])
{
    for (int i = 0; i < SUM; i++)
        snprintf(out + 2 * i, 3, "%02x", in[i]);
}

static void digest_bytes(XXH3_state_t *state, uint8_t out[SUM])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
    memcpy(out, canonical.digest, SUM);
}

/* ---- what a merge and a recovery hold ----------------------------------------------------------------------------- */

/* Bytes of the model file that are replaced. */
typedef struct span {
    uint64_t offset, bytes;
    int64_t patch;           /* index; unused in a recovery */
} span;

typedef struct merge {
    qs_context *context;
    const char *folder;
    char *journal_path, *manifest_path, *model_path;
    qsi_manifest now;        /* the manifest in the folder */
    span *spans;             /* by offset */
    int64_t count;
    uint8_t *chunk;          /* [CHUNK] */
    XXH3_state_t *sum;       /* of the journal */
    qsi_file model;
} merge;

static void merge_close(merge *m)
{
    qsi_file_close(&m->model);
    qsi_manifest_close(&m->now);
    XXH3_freeState(m->sum);
    qsi_free(m->chunk);
    qsi_free(m->spans);
    qsi_free(m->journal_path);
    qsi_free(m->manifest_path);
    qsi_free(m->model_path);
}

static qs_status merge_open(merge *m, qs_context *context, const char *folder)
{
    qs_status status = QS_OK;
    memset(m, 0, sizeof *m);
    m->context = context;
    m->folder = folder;
    m->model.fd = -1;
    m->journal_path = qsi_path_join(folder, QSI_JOURNAL_NAME);
    m->manifest_path = qsi_path_join(folder, QSI_MANIFEST_NAME);
    m->model_path = qsi_path_join(folder, qsi_file_names[QSI_MODEL_FILE]);
    m->chunk = qsi_alloc(context, QS_MEMORY_IO, CHUNK);
    m->sum = XXH3_createState();
    if (!m->journal_path || !m->manifest_path || !m->model_path || !m->chunk || !m->sum)
        QS_FAIL(QS_ERR_NOMEM, "no memory to merge rows into %s", folder);
    XXH3_128bits_reset(m->sum);
fail:
    return status;
}

/* ---- patches ------------------------------------------------------------------------------------------------------ */

static int compare_spans(const void *a, const void *b)
{
    const uint64_t x = ((const span *)a)->offset, y = ((const span *)b)->offset;
    return (x > y) - (x < y);
}

static qs_status place_patch(const qs_checkpoint *c, const qsi_patch *p, span *out)
{
    qs_status status = QS_OK;
    qs_tensor_info t;
    const int64_t index = memchr(p->name, '\0', sizeof p->name) ? qs_checkpoint_find(c, p->name) : -1;
    int64_t end = 0;
    if (index < 0)
        QS_FAIL(QS_ERR_ARG, "%s: there is no tensor '%.80s'", qs_checkpoint_path(c), p->name);
    QS_TRY(qs_checkpoint_tensor(c, index, &t));
    const int64_t rows = t.rank == 1 ? t.cols : t.rows;
    if (strcmp(t.file, qsi_file_names[QSI_MODEL_FILE]) != 0)
        QS_FAIL(QS_ERR_ARG, "%s: tensor '%s' is in %s; rows are merged into %s", qs_checkpoint_path(c), p->name, t.file,
                qsi_file_names[QSI_MODEL_FILE]);
    if (p->first_row < 0 || p->rows < 1 || !qsi_add(p->first_row, p->rows, &end) || end > rows)
        QS_FAIL(QS_ERR_ARG, "%s: rows %" PRId64 " .. %" PRId64 " + %" PRId64 " of tensor '%s', which has %" PRId64,
                qs_checkpoint_path(c), p->first_row, p->first_row, p->rows, p->name, rows);
    const uint64_t row = t.bytes / (uint64_t)rows;
    out->offset = t.offset + (uint64_t)p->first_row * row;
    out->bytes = (uint64_t)p->rows * row;
fail:
    return status;
}

/* Spans of the patches in the order of the file. */
static qs_status place_patches(merge *m, const qs_checkpoint *c, const qsi_patch *patches, int64_t count)
{
    qs_status status = QS_OK;
    if (count < 1 || patches == NULL)
        QS_FAIL(QS_ERR_ARG, "%s: %" PRId64 " patches to merge", m->folder, count);
    m->spans = qsi_alloc_array(m->context, QS_MEMORY_IO, count, sizeof *m->spans);
    if (m->spans == NULL)
        QS_TRY(QS_ERR_NOMEM);
    m->count = count;
    for (int64_t k = 0; k < count; k++) {
        m->spans[k].patch = k;
        QS_TRY(place_patch(c, &patches[k], &m->spans[k]));
    }
    qsort(m->spans, (size_t)count, sizeof *m->spans, compare_spans);
    for (int64_t k = 1; k < count; k++)
        if (m->spans[k].offset < m->spans[k - 1].offset + m->spans[k - 1].bytes)
            QS_FAIL(QS_ERR_ARG, "%s: two patches replace the same rows of tensor '%s'", m->folder,
                    patches[m->spans[k].patch].name);
fail:
    return status;
}

/* ---- the new manifest --------------------------------------------------------------------------------------------- */

/* A copy of the manifest with the fields in place of its own. */
static qs_status manifest_begin(const merge *m, const json_t *fields, json_t **out)
{
    qs_status status = QS_OK;
    static const char *const ours[] = {"config", "files", "format_version", "kind", QSI_SEAL};
    json_t *root = NULL;
    const json_t *step = json_object_get(fields, "step");
    if (fields != NULL && !json_is_object(fields))
        QS_FAIL(QS_ERR_ARG, "the fields of a merge are no object");
    for (size_t k = 0; k < sizeof ours / sizeof *ours; k++)
        if (json_object_get(fields, ours[k]) != NULL)
            QS_FAIL(QS_ERR_ARG, "a merge does not change the field %s of a manifest", ours[k]);
    if (step != NULL && (!json_is_integer(step) || json_integer_value(step) < 0))
        QS_FAIL(QS_ERR_ARG, "the step of a merge is no integer from 0 up");
    root = json_deep_copy(m->now.root);
    /* jansson takes a non-const object but only reads it */
    if (root == NULL || !json_equal(root, m->now.root) ||
        (fields != NULL && json_object_update(root, (json_t *)(uintptr_t)fields) != 0))
        QS_FAIL(QS_ERR_NOMEM, "no memory for the manifest");
    *out = root;
    root = NULL;
fail:
    json_decref(root);
    return status;
}

static qs_status manifest_slab(json_t *root, int64_t slab, const char *hash)
{
    qs_status status = QS_OK;
    json_t *file = json_object_get(json_object_get(root, "files"), qsi_file_names[QSI_MODEL_FILE]);
    json_t *entry = json_array_get(json_object_get(file, "slabs"), (size_t)slab);
    if (json_object_set_new(entry, "xxh3_128", json_string(hash)) != 0)
        QS_FAIL(QS_ERR_NOMEM, "no memory for the manifest");
fail:
    return status;
}

/* ---- writing the journal ------------------------------------------------------------------------------------------ */

/* A slab whose checksums are being made: as it is, and as it will be. */
typedef struct rehash {
    XXH3_state_t *before, *after;
    int64_t slab;            /* -1: none */
    uint64_t at;             /* in the file: what both have seen ends here */
} rehash;

static qs_status journal_write(merge *m, qsi_writer *writer, const void *data, uint64_t bytes)
{
    XXH3_128bits_update(m->sum, data, (size_t)bytes);
    return qsi_writer_write(writer, data, bytes);
}

/* The file up to `end` enters the checksums; `after` only where it stays. */
static qs_status hash_file(const merge *m, rehash *r, uint64_t end, bool stays)
{
    qs_status status = QS_OK;
    while (r->at < end) {
        const uint64_t n = end - r->at < CHUNK ? end - r->at : CHUNK;
        QS_TRY(qsi_file_read(&m->model, r->at, m->chunk, n));
        XXH3_128bits_update(r->before, m->chunk, (size_t)n);
        if (stays)
            XXH3_128bits_update(r->after, m->chunk, (size_t)n);
        r->at += n;
    }
fail:
    return status;
}

static qs_status finish_slab(const merge *m, rehash *r, json_t *root)
{
    qs_status status = QS_OK;
    char hash[QSI_HEX];
    if (r->slab < 0)
        return QS_OK;
    const qsi_slab *slab = &m->now.file[QSI_MODEL_FILE].slabs[r->slab];
    QS_TRY(hash_file(m, r, slab->offset + slab->bytes, true));
    qsi_hash_hex(XXH3_128bits_digest(r->before), hash);
    if (strcmp(hash, slab->hash) != 0)
        QS_FAIL(QS_ERR_CORRUPT, "%s: slab %" PRId64 " (offset %" PRIu64 ", %" PRIu64 " bytes) has XXH3-128 %s, the manifest says %s",
                m->model_path, r->slab, slab->offset, slab->bytes, hash, slab->hash);
    qsi_hash_hex(XXH3_128bits_digest(r->after), hash);
    QS_TRY(manifest_slab(root, r->slab, hash));
fail:
    return status;
}

/* The slab that holds a span whole. */
static qs_status find_slab(const merge *m, const span *s, int64_t *out)
{
    qs_status status = QS_OK;
    const qsi_slab *slabs = m->now.file[QSI_MODEL_FILE].slabs;
    int64_t k = 0;
    while (k < m->now.slab_count - 1 && s->offset >= slabs[k].offset + slabs[k].bytes)
        k++;
    if (s->offset < slabs[k].offset || s->offset + s->bytes > slabs[k].offset + slabs[k].bytes)
        QS_FAIL(QS_ERR_FORMAT, "%s: the tensor at byte %" PRIu64 " lies in no slab", m->model_path, s->offset);
    *out = k;
fail:
    return status;
}

/* Fetches one patch into the journal and the checksum of its slab. */
static qs_status write_span(merge *m, qsi_writer *writer, const span *s, qsi_fetch_fn *fetch, void *user, uint8_t *patch, rehash *r,
                            json_t *root)
{
    qs_status status = QS_OK;
    int64_t slab = 0;
    QS_TRY(find_slab(m, s, &slab));
    if (slab != r->slab) {
        QS_TRY(finish_slab(m, r, root));
        XXH3_128bits_reset(r->before);
        XXH3_128bits_reset(r->after);
        r->slab = slab;
        r->at = m->now.file[QSI_MODEL_FILE].slabs[slab].offset;
    }
    QS_TRY(fetch(user, s->patch, patch, (int64_t)s->bytes));
    QS_TRY(hash_file(m, r, s->offset, true));
    QS_TRY(hash_file(m, r, s->offset + s->bytes, false));
    XXH3_128bits_update(r->after, patch, (size_t)s->bytes);
    QS_TRY(journal_write(m, writer, patch, s->bytes));
fail:
    return status;
}

/* Head and records. */
static qs_status write_head(merge *m, qsi_writer *writer)
{
    qs_status status = QS_OK;
    uint8_t head[HEAD], record[RECORD];
    memcpy(head, MAGIC, sizeof MAGIC);
    put_number(head + 8, JOURNAL_VERSION);
    put_number(head + 16, (uint64_t)m->count);
    put_number(head + 24, m->model.bytes);
    bytes_of_hex(json_string_value(json_object_get(m->now.root, QSI_SEAL)), head + 32);
    QS_TRY(journal_write(m, writer, head, HEAD));
    for (int64_t k = 0; k < m->count; k++) {
        put_number(record, m->spans[k].offset);
        put_number(record + 8, m->spans[k].bytes);
        QS_TRY(journal_write(m, writer, record, RECORD));
    }
fail:
    return status;
}

static qs_status write_data(merge *m, qsi_writer *writer, qsi_fetch_fn *fetch, void *user, json_t *root)
{
    qs_status status = QS_OK;
    rehash r = {XXH3_createState(), XXH3_createState(), -1, 0};
    uint64_t most = 0;
    uint8_t *patch = NULL;
    for (int64_t k = 0; k < m->count; k++)
        most = m->spans[k].bytes > most ? m->spans[k].bytes : most;
    patch = qsi_alloc(m->context, QS_MEMORY_IO, (int64_t)most);
    if (!r.before || !r.after || !patch)
        QS_FAIL(QS_ERR_NOMEM, "no memory to merge rows into %s: the largest patch has %" PRIu64 " bytes", m->folder, most);
    for (int64_t k = 0; k < m->count; k++)
        QS_TRY(write_span(m, writer, &m->spans[k], fetch, user, patch, &r, root));
    QS_TRY(finish_slab(m, &r, root));
fail:
    XXH3_freeState(r.before);
    XXH3_freeState(r.after);
    qsi_free(patch);
    return status;
}

/* After this the merge will happen; after a failure it will not. */
static qs_status write_journal(merge *m, qsi_fetch_fn *fetch, void *user, json_t *root)
{
    qs_status status = QS_OK;
    qsi_writer *writer = NULL;
    qsi_text text = {m->context, NULL, 0, 0, QS_OK};
    uint8_t sum[SUM];
    QS_TRY(qsi_writer_open(m->journal_path, &writer));
    QS_TRY(write_head(m, writer));
    QS_TRY(write_data(m, writer, fetch, user, root));
    QS_TRY(qsi_manifest_text(root, &text));
    QS_TRY(journal_write(m, writer, text.data, (uint64_t)text.length));
    digest_bytes(m->sum, sum);
    QS_TRY(qsi_writer_write(writer, sum, SUM));
    status = qsi_writer_commit(&writer);
    if (status != QS_OK && qsi_path_exists(m->journal_path)) {   /* renamed, but not surely for good */
        char reason[1024];
        snprintf(reason, sizeof reason, "%s", qs_last_error());
        (void)!qsi_remove_durable(m->journal_path);
        qsi_fail_text("%s", reason);
    }
fail:
    qsi_writer_abort(&writer);
    qsi_text_free(&text);
    return status;
}

/* ---- recovering --------------------------------------------------------------------------------------------------- */

/* A journal whose checksum holds; nothing in it has been believed yet. */
typedef struct journal {
    qsi_file file;
    uint64_t data;           /* where the data of the first span begins */
    qsi_manifest then;       /* the manifest it leads to */
    char base[QSI_HEX];      /* seal of the manifest it was made for */
    uint64_t model_bytes;
} journal;

/* *whole: the checksum at the end is that of everything before it. */
static qs_status check_sum(merge *m, const qsi_file *file, bool *whole)
{
    qs_status status = QS_OK;
    uint8_t said[SUM], sum[SUM];
    *whole = false;
    if (file->bytes < HEAD + SUM)
        return QS_OK;
    XXH3_128bits_reset(m->sum);
    for (uint64_t at = 0; at < file->bytes - SUM;) {
        const uint64_t n = file->bytes - SUM - at < CHUNK ? file->bytes - SUM - at : CHUNK;
        QS_TRY(qsi_file_read(file, at, m->chunk, n));
        XXH3_128bits_update(m->sum, m->chunk, (size_t)n);
        at += n;
    }
    QS_TRY(qsi_file_read(file, file->bytes - SUM, said, SUM));
    digest_bytes(m->sum, sum);
    *whole = memcmp(said, sum, SUM) == 0;
fail:
    return status;
}

/* Spans: ascending, inside the data of the model file, and no more data than the journal has. */
static qs_status read_spans(merge *m, journal *j, uint64_t *data_end)
{
    qs_status status = QS_OK;
    uint8_t record[RECORD];
    uint64_t end = m->now.file[QSI_MODEL_FILE].claim.header_bytes, left = j->file.bytes - SUM - j->data;
    m->spans = qsi_alloc_array(m->context, QS_MEMORY_IO, m->count, sizeof *m->spans);
    if (m->spans == NULL)
        QS_TRY(QS_ERR_NOMEM);
    for (int64_t k = 0; k < m->count; k++) {
        span *s = &m->spans[k];
        QS_TRY(qsi_file_read(&j->file, HEAD + (uint64_t)k * RECORD, record, RECORD));
        s->offset = get_number(record);
        s->bytes = get_number(record + 8);
        if (s->offset < end || s->offset > j->model_bytes || s->bytes > j->model_bytes - s->offset || s->bytes > left)
            QS_FAIL(QS_ERR_FORMAT, "%s: record %" PRId64 " (offset %" PRIu64 ", %" PRIu64 " bytes) does not fit", m->journal_path, k,
                    s->offset, s->bytes);
        end = s->offset + s->bytes;
        left -= s->bytes;
    }
    *data_end = j->file.bytes - SUM - left;
fail:
    return status;
}

/* The manifest at the end of the journal: of the same files with the same headers. */
static qs_status read_manifest(merge *m, journal *j, uint64_t from)
{
    qs_status status = QS_OK;
    const uint64_t bytes = j->file.bytes - SUM - from;
    char *text = NULL;
    if (bytes == 0 || bytes > QSI_MANIFEST_LIMIT)
        QS_FAIL(QS_ERR_FORMAT, "%s: a manifest of %" PRIu64 " bytes", m->journal_path, bytes);
    text = qsi_alloc(m->context, QS_MEMORY_IO, (int64_t)bytes + 1);
    if (text == NULL)
        QS_TRY(QS_ERR_NOMEM);
    QS_TRY(qsi_file_read(&j->file, from, text, bytes));
    status = qsi_manifest_parse(m->context, m->journal_path, text, (int64_t)bytes, &j->then);
    text = NULL;   /* taken in any case */
    QS_TRY(status);
    if (m->now.base != NULL || j->then.base != NULL)
        QS_FAIL(QS_ERR_FORMAT, "%s is in or for a delta checkpoint, into which nothing is merged", m->journal_path);
    for (int f = 0; f < QSI_FILES; f++) {
        const qsi_file_claim *x = &m->now.file[f].claim, *y = &j->then.file[f].claim;
        if (x->bytes != y->bytes || x->header_bytes != y->header_bytes || strcmp(x->header_hash, y->header_hash) != 0)
            QS_FAIL(QS_ERR_FORMAT, "%s: its manifest describes another %s", m->journal_path, qsi_file_names[f]);
    }
fail:
    qsi_free(text);
    return status;
}

/* Everything the journal says, checked against the folder. */
static qs_status read_journal(merge *m, journal *j)
{
    qs_status status = QS_OK;
    uint8_t head[HEAD];
    uint64_t from = 0;
    QS_TRY(qsi_file_read(&j->file, 0, head, HEAD));
    if (memcmp(head, MAGIC, sizeof MAGIC) != 0)
        QS_FAIL(QS_ERR_FORMAT, "%s is no journal of qsbits; move it elsewhere", m->journal_path);
    if (get_number(head + 8) != JOURNAL_VERSION)
        QS_FAIL(QS_ERR_VERSION, "%s: version %" PRIu64 ", this program knows %d", m->journal_path, get_number(head + 8),
                JOURNAL_VERSION);
    if (get_number(head + 16) > (j->file.bytes - HEAD - SUM) / RECORD)
        QS_FAIL(QS_ERR_FORMAT, "%s: %" PRIu64 " records in %" PRIu64 " bytes", m->journal_path, get_number(head + 16), j->file.bytes);
    m->count = (int64_t)get_number(head + 16);
    j->model_bytes = get_number(head + 24);
    hex_of_bytes(head + 32, j->base);
    j->data = HEAD + (uint64_t)m->count * RECORD;
    if (j->model_bytes != m->now.file[QSI_MODEL_FILE].claim.bytes)
        QS_FAIL(QS_ERR_FORMAT, "%s belongs to a model file of %" PRIu64 " bytes, this one has %" PRIu64 "; move it elsewhere",
                m->journal_path, j->model_bytes, m->now.file[QSI_MODEL_FILE].claim.bytes);
    QS_TRY(read_spans(m, j, &from));
    QS_TRY(read_manifest(m, j, from));
fail:
    return status;
}

/* Copies the spans into the model file. */
static qs_status apply_spans(merge *m, const journal *j)
{
    qs_status status = QS_OK;
    uint64_t from = j->data;
    qsi_file_close(&m->model);
    QS_TRY(qsi_file_open(m->model_path, true, &m->model));
    if (m->model.bytes != j->model_bytes)
        QS_FAIL(QS_ERR_CORRUPT, "%s: %" PRIu64 " bytes, the manifest says %" PRIu64, m->model_path, m->model.bytes, j->model_bytes);
    for (int64_t k = 0; k < m->count; k++) {
        for (uint64_t done = 0; done < m->spans[k].bytes;) {
            const uint64_t left = m->spans[k].bytes - done, n = left < CHUNK ? left : CHUNK;
            QS_TRY(qsi_file_read(&j->file, from, m->chunk, n));
            QS_TRY(qsi_file_write(&m->model, m->spans[k].offset + done, m->chunk, n));
            from += n;
            done += n;
        }
    }
    QS_TRY(qsi_file_sync(&m->model));
fail:
    return status;
}

static qs_status put_manifest(const merge *m, const journal *j)
{
    qs_status status = QS_OK;
    qsi_writer *writer = NULL;
    QS_TRY(qsi_writer_open(m->manifest_path, &writer));
    QS_TRY(qsi_writer_write(writer, j->then.text, strlen(j->then.text)));
    QS_TRY(qsi_writer_commit(&writer));
fail:
    qsi_writer_abort(&writer);
    return status;
}

static const char *seal_of(const qsi_manifest *manifest) { return json_string_value(json_object_get(manifest->root, QSI_SEAL)); }

/* The manifest in the folder tells how far the merge came. */
static qs_status redo(merge *m, journal *j)
{
    qs_status status = QS_OK;
    QS_TRY(qsi_manifest_open(m->context, m->folder, &m->now));
    QS_TRY(read_journal(m, j));
    if (strcmp(seal_of(&m->now), seal_of(&j->then)) != 0) {
        if (strcmp(seal_of(&m->now), j->base) != 0)
            QS_FAIL(QS_ERR_FORMAT, "%s was made for the manifest %s, this one is %s; move it elsewhere", m->journal_path, j->base,
                    seal_of(&m->now));
        QS_TRY(apply_spans(m, j));
        QS_TRY(put_manifest(m, j));
    }
    QS_TRY(qsi_remove_durable(m->journal_path));
fail:
    return status;
}

/* What never got its name decides nothing. */
static qs_status drop_unfinished(const merge *m)
{
    qs_status status = QS_OK;
    const size_t n = strlen(m->journal_path) + 5;
    char *path = qsi_alloc(NULL, QS_MEMORY_IO, (int64_t)n);
    if (path == NULL)
        return QS_ERR_NOMEM;
    snprintf(path, n, "%s.tmp", m->journal_path);
    if (qsi_path_exists(path))
        status = qsi_remove_durable(path);
    qsi_free(path);
    return status;
}

qs_status qsi_model_recover(qs_context *context, const char *folder, bool *recovered)
{
    qs_status status = QS_OK;
    merge m;
    journal j;
    bool whole = false;
    memset(&j, 0, sizeof j);
    j.file.fd = -1;
    QS_TRY(merge_open(&m, context, folder));
    QS_TRY(drop_unfinished(&m));
    if (qsi_path_exists(m.journal_path)) {
        QS_TRY(qsi_file_open(m.journal_path, false, &j.file));
        QS_TRY(check_sum(&m, &j.file, &whole));
        if (!whole)
            QS_TRY(qsi_remove_durable(m.journal_path));
        else
            QS_TRY(redo(&m, &j));
    }
    if (recovered != NULL)
        *recovered = whole;
fail:
    qsi_file_close(&j.file);
    qsi_manifest_close(&j.then);
    merge_close(&m);
    return status;
}

qs_status qsi_model_settle(qs_context *context, const char *folder)
{
    qs_status status = QS_OK;
    int lock = -1;
    bool recovered = false;
    char reason[1024];
    char *path = qsi_path_join(folder, QSI_JOURNAL_NAME);
    if (path == NULL)
        return QS_ERR_NOMEM;
    if (!qsi_path_exists(path))
        goto fail;
    if (qsi_lock_take(folder, &lock) != QS_OK) {
        snprintf(reason, sizeof reason, "%s", qs_last_error());
        QS_FAIL(QS_ERR_IO, "rows are being merged into %s (" QSI_JOURNAL_NAME "): %s", folder, reason);
    }
    status = qsi_model_recover(context, folder, &recovered);
    if (status == QS_ERR_IO || status == QS_ERR_CREATE) {
        snprintf(reason, sizeof reason, "%s", qs_last_error());
        QS_FAIL(QS_ERR_IO, "%s was cut off while rows were merged into it (" QSI_JOURNAL_NAME "), and to finish that failed: %s; open "
                "it where it can be written", folder, reason);
    }
    QS_TRY(status);
    qsi_log_line(context, QS_LOG_WARNING, "%s: a merge of rows was cut off; %s", folder,
                 recovered ? "it is finished now" : "it had changed nothing");
fail:
    qsi_lock_release(&lock);
    qsi_free(path);
    return status;
}

/* ---- merging ------------------------------------------------------------------------------------------------------ */

/* Header entries, sizes and the state file of the folder. */
static qs_status check_folder(merge *m, const qs_checkpoint *c)
{
    qs_status status = QS_OK;
    qs_tensor_info t;
    if (qs_checkpoint_manifest(c) == NULL || strcmp(qs_checkpoint_path(c), m->folder) != 0)
        QS_FAIL(QS_ERR_FORMAT, "%s is no checkpoint folder, into which rows could be merged", m->folder);
    const int64_t count = qs_checkpoint_count(c);
    if (count > 0)
        QS_TRY(qs_checkpoint_tensor(c, count - 1, &t));
    if (count > 0 && strcmp(t.file, qsi_file_names[QSI_STATE_FILE]) == 0)
        QS_FAIL(QS_ERR_UNSUPPORTED, "%s holds training state (%s), which would not fit rows that are merged; train in place what qsbits "
                "init wrote", m->folder, qsi_file_names[QSI_STATE_FILE]);
    QS_TRY(qsi_manifest_open(m->context, m->folder, &m->now));
    QS_TRY(qsi_file_open(m->model_path, false, &m->model));
fail:
    return status;
}

qs_status qsi_model_merge(qs_context *context, const char *folder, const qsi_patch *patches, int64_t count, qsi_fetch_fn *fetch,
                          void *user, const json_t *fields)
{
    qs_status status = QS_OK;
    merge m;
    qs_checkpoint *c = NULL;
    json_t *root = NULL;
    QS_TRY(merge_open(&m, context, folder));
    QS_TRY(qsi_model_recover(context, folder, NULL));
    QS_TRY(qs_checkpoint_open(context, folder, &c));
    QS_TRY(check_folder(&m, c));
    QS_TRY(place_patches(&m, c, patches, count));
    QS_TRY(manifest_begin(&m, fields, &root));
    qs_checkpoint_close(&c);   /* its mapping must not outlive the bytes */
    QS_TRY(write_journal(&m, fetch, user, root));
    status = qsi_model_recover(context, folder, NULL);
    if (status != QS_OK) {
        char reason[1024];
        snprintf(reason, sizeof reason, "%s", qs_last_error());
        QS_FAIL(status, "%s; the rows are safe in %s, and the merge is finished when the model is opened next", reason,
                m.journal_path);
    }
fail:
    json_decref(root);
    qs_checkpoint_close(&c);
    merge_close(&m);
    return status;
}
