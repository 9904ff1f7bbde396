/* manifest.c - reading manifest.json (see manifest.h). Every number is checked before anything relies on it. */
#include "manifest.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const qsi_file_names[QSI_FILES] = {"model.safetensors", "state.safetensors"};

bool qsi_manifest_hash(char *text, int64_t length, const char *seal, char hash[QSI_HEX], int64_t *at)
{
    char pattern[80], digits[QSI_HEX - 1];
    int n = snprintf(pattern, sizeof pattern, "\"" QSI_SEAL "\": \"%s\"", seal);
    char *found = strstr(text, pattern);
    if (n < 0 || n >= (int)sizeof pattern || found == NULL || strstr(found + 1, pattern) != NULL)
        return false;
    found += n - 1 - (int)sizeof digits;
    memcpy(digits, found, sizeof digits);
    memset(found, '0', sizeof digits);
    qsi_checksum(text, (uint64_t)length, hash);
    memcpy(found, digits, sizeof digits);
    if (at != NULL)
        *at = found - text;
    return true;
}

/* A non-negative integer member. */
static bool take_size(const json_t *object, const char *key, uint64_t *out)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

/* A member of exactly 32 lower-case hex digits. */
static bool take_hash(const json_t *object, const char *key, char out[QSI_HEX])
{
    const char *value = json_string_value(json_object_get(object, key));
    if (!qsi_is_checksum(value))
        return false;
    memcpy(out, value, QSI_HEX);
    return true;
}

/* Slabs lie one after the other from the end of the header to the end of the file. */
static qs_status take_slabs(qs_context *context, const char *path, const char *name, const json_t *slabs,
                            qsi_manifest_file *out)
{
    qs_status status = QS_OK;
    int64_t count = (int64_t)json_array_size(slabs);
    uint64_t end = out->claim.header_bytes;
    if (count == 0)
        QS_FAIL(QS_ERR_FORMAT, "%s: %s lists no slabs", path, name);
    out->slabs = qsi_alloc_array(context, QS_MEMORY_IO, count, sizeof *out->slabs);
    if (out->slabs == NULL) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    for (int64_t k = 0; k < count; k++) {
        const json_t *entry = json_array_get(slabs, (size_t)k);
        qsi_slab *slab = &out->slabs[k];
        if (!take_size(entry, "offset", &slab->offset) || !take_size(entry, "length", &slab->bytes) ||
            !take_hash(entry, "xxh3_128", slab->hash))
            QS_FAIL(QS_ERR_FORMAT, "%s: %s slab %" PRId64 " has no offset, length and xxh3_128", path, name, k);
        if (slab->offset != end || slab->offset % QS_SLAB_ALIGN != 0 || slab->bytes > out->claim.bytes - end)
            QS_FAIL(QS_ERR_FORMAT, "%s: %s slab %" PRId64 ": offset %" PRIu64 ", length %" PRIu64
                    " do not continue at %" PRIu64 " in steps of %d", path, name, k, slab->offset, slab->bytes, end,
                    QS_SLAB_ALIGN);
        end += slab->bytes;
    }
    if (end != out->claim.bytes)
        QS_FAIL(QS_ERR_FORMAT, "%s: the slabs of %s end at %" PRIu64 ", the file at %" PRIu64, path, name, end,
                out->claim.bytes);
fail:
    return status;
}

static qs_status take_file(qs_context *context, const char *path, int which, qsi_manifest *m)
{
    qs_status status = QS_OK;
    const char *name = qsi_file_names[which];
    const json_t *file = json_object_get(json_object_get(m->root, "files"), name);
    const json_t *header = json_object_get(file, "header"), *slabs = json_object_get(file, "slabs");
    qsi_manifest_file *out = &m->file[which];
    if (!take_size(file, "length", &out->claim.bytes) || !take_size(header, "length", &out->claim.header_bytes) ||
        !take_hash(header, "xxh3_128", out->claim.header_hash) || !json_is_array(slabs))
        QS_FAIL(QS_ERR_FORMAT, "%s: files.%s lacks length, header or slabs", path, name);
    if (out->claim.header_bytes > out->claim.bytes || out->claim.header_bytes < 16 ||
        out->claim.header_bytes % QS_SLAB_ALIGN != 0)
        QS_FAIL(QS_ERR_FORMAT, "%s: %s: a header of %" PRIu64 " bytes in a file of %" PRIu64, path, name,
                out->claim.header_bytes, out->claim.bytes);
    QS_TRY(take_slabs(context, path, name, slabs, out));
    if (which > 0 && (int64_t)json_array_size(slabs) != m->slab_count)
        QS_FAIL(QS_ERR_FORMAT, "%s: %zu slabs in %s, %" PRId64 " in %s", path, json_array_size(slabs), name, m->slab_count,
                qsi_file_names[0]);
    m->slab_count = (int64_t)json_array_size(slabs);
fail:
    return status;
}

/* Version and kind first: of a newer format nothing else is believed. */
static qs_status check_kind(const char *path, const json_t *root)
{
    qs_status status = QS_OK;
    uint64_t version = 0;
    const char *kind = json_string_value(json_object_get(root, "kind"));
    if (!take_size(root, "format_version", &version) || kind == NULL)
        QS_FAIL(QS_ERR_FORMAT, "%s: no format_version and kind: not a manifest of qsbits", path);
    if (version != QS_CHECKPOINT_VERSION)
        QS_FAIL(QS_ERR_VERSION, "%s: format version %" PRIu64 ", this program knows %d", path, version,
                QS_CHECKPOINT_VERSION);
    if (strcmp(kind, "full") != 0 && strcmp(kind, QSI_DELTA) != 0)
        QS_FAIL(QS_ERR_VERSION, "%s: unknown kind '%s', known are full and " QSI_DELTA, path, qsi_show(kind).text);
fail:
    return status;
}

bool qsi_manifest_is_delta(const json_t *root)
{
    const char *kind = json_string_value(json_object_get(root, "kind"));
    return kind != NULL && strcmp(kind, QSI_DELTA) == 0;
}

static int compare_ranges(const void *a, const void *b)
{
    return strcmp(((const qsi_range *)a)->tensor, ((const qsi_range *)b)->tensor);
}

const qsi_range *qsi_range_find(const qsi_range *ranges, int64_t count, const char *tensor)
{
    const qsi_range wanted = {tensor, 0, 0};
    return count > 0 ? bsearch(&wanted, ranges, (size_t)count, sizeof *ranges, compare_ranges) : NULL;
}

qs_status qsi_delta_read(qs_context *context, const char *name, const json_t *root, const char **base, qsi_range **ranges,
                         int64_t *count)
{
    qs_status status = QS_OK;
    const json_t *list = json_object_get(root, "ranges");
    const char *seal = json_string_value(json_object_get(root, "base"));
    const int64_t n = (int64_t)json_array_size(list);
    qsi_range *out = NULL;
    if (!qsi_is_checksum(seal) || !json_is_array(list))
        QS_FAIL(QS_ERR_FORMAT, "%s: a delta has a base (32 hex digits) and ranges (a list)", name);
    out = qsi_alloc_array(context, QS_MEMORY_IO, n, sizeof *out);
    if (out == NULL)
        QS_TRY(QS_ERR_NOMEM);
    for (int64_t k = 0; k < n; k++) {
        const json_t *entry = json_array_get(list, (size_t)k);
        uint64_t first = 0, rows = 0;
        out[k].tensor = json_string_value(json_object_get(entry, "tensor"));
        if (out[k].tensor == NULL || !take_size(entry, "first_row", &first) || !take_size(entry, "rows", &rows) || rows == 0 ||
            first > INT64_MAX - rows)
            QS_FAIL(QS_ERR_FORMAT, "%s: range %" PRId64 " has no tensor, first_row and rows", name, k);
        out[k].first_row = (int64_t)first;
        out[k].rows = (int64_t)rows;
    }
    if (n > 0)
        qsort(out, (size_t)n, sizeof *out, compare_ranges);
    for (int64_t k = 1; k < n; k++)
        if (strcmp(out[k - 1].tensor, out[k].tensor) == 0)
            QS_FAIL(QS_ERR_FORMAT, "%s: two ranges of tensor '%s'", name, qsi_show(out[k].tensor).text);
    *base = seal;
    *ranges = out;
    *count = n;
    out = NULL;
fail:
    qsi_free(out);
    return status;
}

static qs_status check_seal(const char *path, const qsi_manifest *m, int64_t length)
{
    qs_status status = QS_OK;
    char seal[QSI_HEX], hash[QSI_HEX];
    if (!take_hash(m->root, QSI_SEAL, seal) || !qsi_manifest_hash(m->text, length, seal, hash, NULL))
        QS_FAIL(QS_ERR_CORRUPT, "%s: no readable " QSI_SEAL, path);
    if (strcmp(seal, hash) != 0)
        QS_FAIL(QS_ERR_CORRUPT, "%s: its XXH3-128 is %s, it says %s", path, hash, seal);
fail:
    return status;
}

/* The text of the file, NUL-terminated. */
static qs_status load_text(qs_context *context, const char *path, char **out, int64_t *length)
{
    qs_status status = QS_OK;
    qsi_mapping map = {NULL, 0};
    QS_TRY(qsi_map_file(path, &map));
    if (map.bytes == 0 || map.bytes > QSI_MANIFEST_LIMIT)
        QS_FAIL(QS_ERR_CORRUPT, "%s: %" PRIu64 " bytes; a manifest has 1 to %d", path, map.bytes, QSI_MANIFEST_LIMIT);
    *length = (int64_t)map.bytes;
    *out = qsi_alloc(context, QS_MEMORY_IO, *length + 1);
    if (*out == NULL)
        status = QS_ERR_NOMEM;
    else
        memcpy(*out, map.data, map.bytes);
fail:
    if (map.data != NULL)
        qsi_unmap(&map);
    return status;
}

qs_status qsi_manifest_parse(qs_context *context, const char *path, char *text, int64_t length, qsi_manifest *out)
{
    qs_status status = QS_OK;
    qsi_manifest m;
    json_error_t error;
    uint64_t step = 0;
    memset(&m, 0, sizeof m);
    m.text = text;
    m.root = json_loadb(m.text, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (m.root == NULL && qsi_json_no_memory(&error))
        QS_FAIL(QS_ERR_NOMEM, "no memory to read %s", path);
    if (m.root == NULL)
        QS_FAIL(QS_ERR_CORRUPT, "%s: line %d, column %d: %s", path, error.line, error.column, qsi_show(error.text).text);
    QS_TRY(check_kind(path, m.root));
    QS_TRY(check_seal(path, &m, length));
    if (!json_is_object(json_object_get(m.root, "config")) || !take_size(m.root, "step", &step))
        QS_FAIL(QS_ERR_FORMAT, "%s: no config and step", path);
    if (json_object_size(json_object_get(m.root, "files")) != QSI_FILES)
        QS_FAIL(QS_ERR_FORMAT, "%s: files are not %s and %s", path, qsi_file_names[0], qsi_file_names[1]);
    for (int which = 0; which < QSI_FILES; which++)
        QS_TRY(take_file(context, path, which, &m));
    if (qsi_manifest_is_delta(m.root))
        QS_TRY(qsi_delta_read(context, path, m.root, &m.base, &m.ranges, &m.range_count));
    *out = m;
fail:
    if (status != QS_OK)
        qsi_manifest_close(&m);
    return status;
}

qs_status qsi_manifest_open(qs_context *context, const char *folder, qsi_manifest *out)
{
    qs_status status = QS_OK;
    char *text = NULL;
    int64_t length = 0;
    char *path = qsi_path_join(folder, QSI_MANIFEST_NAME);
    if (path == NULL)
        return QS_ERR_NOMEM;
    if (!qsi_path_exists(path))
        QS_FAIL(QS_ERR_CORRUPT, "%s is missing: no complete checkpoint", path);
    QS_TRY(load_text(context, path, &text, &length));
    QS_TRY(qsi_manifest_parse(context, path, text, length, out));
fail:
    qsi_free(path);
    return status;
}

qs_status qsi_manifest_text(const json_t *root, qsi_text *text)
{
    qs_status status = QS_OK;
    char hash[QSI_HEX];
    int64_t at = 0;
    qsi_text_json(text, root, 2);
    qsi_text_add(text, "\n", 1);
    QS_TRY(text->failed);
    if (text->length > QSI_MANIFEST_LIMIT)
        QS_FAIL(QS_ERR_ARG, "a manifest of %" PRId64 " bytes, the limit is %d", text->length, QSI_MANIFEST_LIMIT);
    if (!qsi_manifest_hash(text->data, text->length, json_string_value(json_object_get(root, QSI_SEAL)), hash, &at))
        QS_FAIL(QS_ERR_ARG, "the manifest fields must not hold " QSI_SEAL);
    memcpy(text->data + at, hash, QSI_HEX - 1);
fail:
    return status;
}

void qsi_manifest_close(qsi_manifest *manifest)
{
    for (int which = 0; which < QSI_FILES; which++)
        qsi_free(manifest->file[which].slabs);
    qsi_free(manifest->ranges);
    qsi_free(manifest->text);
    json_decref(manifest->root);
    memset(manifest, 0, sizeof *manifest);
}
