/* safetensors.c - reader of safetensors files (see safetensors.h). */
#include "safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "json_text.h"

/* Element sizes in bits; small floats are packed. */
static const struct { const char *name; int bits; } dtypes[] = {
    {"F32", 32}, {"F16", 16}, {"I32", 32}, {"U8", 8}, {"I8", 8}, {"BF16", 16}, {"F64", 64}, {"I64", 64}, {"I16", 16},
    {"U16", 16}, {"U32", 32}, {"U64", 64}, {"BOOL", 8}, {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"C64", 64},
    {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4},
};

qsi_shown qsi_show(const char *text)
{
    qsi_shown out;
    size_t n = strlen(text), shown = n < 80 ? n : 77;
    for (size_t i = 0; i < shown; i++)
        out.text[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
    memcpy(out.text + shown, n < 80 ? "" : "...", n < 80 ? 1 : 4);
    return out;
}

static qs_status check_claim(const qsi_safetensors *file, const char *path, const qsi_file_claim *claim)
{
    qs_status status = QS_OK;
    char hash[QSI_HEX];
    if (file->map.bytes != claim->bytes)
        QS_FAIL(QS_ERR_CORRUPT, "%s: %" PRIu64 " bytes, the manifest says %" PRIu64 "%s", path, file->map.bytes,
                claim->bytes, file->map.bytes < claim->bytes ? ": truncated" : "");
    qsi_checksum(file->map.data, claim->header_bytes, hash);
    if (strcmp(hash, claim->header_hash) != 0)
        QS_FAIL(QS_ERR_CORRUPT, "%s: header (offset 0, %" PRIu64 " bytes) has XXH3-128 %s, the manifest says %s", path,
                claim->header_bytes, hash, claim->header_hash);
fail:
    return status;
}

/* The JSON object of the header. */
static qs_status parse_json(qsi_safetensors *file, const char *path, json_t **out)
{
    qs_status status = QS_OK;
    const uint8_t *data = file->map.data;
    uint64_t length = 0;
    json_error_t error;
    if (file->map.bytes < 8)
        QS_FAIL(QS_ERR_FORMAT, "%s: %" PRIu64 " bytes; a safetensors file starts with 8 bytes of header length", path,
                file->map.bytes);
    for (int i = 7; i >= 0; i--)
        length = length << 8 | data[i];
    if (length > QSI_HEADER_LIMIT)
        QS_FAIL(QS_ERR_FORMAT, "%s: header of %" PRIu64 " bytes, the limit is %d: no safetensors file", path, length,
                QSI_HEADER_LIMIT);
    if (length > file->map.bytes - 8)
        QS_FAIL(QS_ERR_FORMAT, "%s: header of %" PRIu64 " bytes in a file of %" PRIu64 ": truncated or no safetensors file",
                path, length, file->map.bytes);
    if (length < 2 || data[8] != '{')
        QS_FAIL(QS_ERR_FORMAT, "%s: the header does not start with '{': no safetensors file", path);
    file->data_start = 8 + length;
    *out = json_loadb((const char *)data + 8, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (*out == NULL && qsi_json_no_memory(&error))
        QS_FAIL(QS_ERR_NOMEM, "no memory to read the header of %s", path);
    if (*out == NULL)
        QS_FAIL(QS_ERR_FORMAT, "%s: header, byte %d: %s", path, 8 + error.position, qsi_show(error.text).text);
fail:
    return status;
}

/* __metadata__ is kept; it must be an object of strings. */
static qs_status take_metadata(qsi_safetensors *file, const char *path, json_t *root)
{
    qs_status status = QS_OK;
    json_t *metadata = json_object_get(root, "__metadata__");
    if (metadata == NULL)
        return QS_OK;
    if (!json_is_object(metadata))
        QS_FAIL(QS_ERR_FORMAT, "%s: __metadata__ is no object", path);
    for (void *i = json_object_iter(metadata); i != NULL; i = json_object_iter_next(metadata, i))
        if (!json_is_string(json_object_iter_value(i)))
            QS_FAIL(QS_ERR_FORMAT, "%s: __metadata__ entry '%s' is no string", path,
                    qsi_show(json_object_iter_key(i)).text);
    file->metadata = json_incref(metadata);
    if (json_object_del(root, "__metadata__") != 0)
        QS_FAIL(QS_ERR_INTERNAL, "%s: __metadata__ cannot be set aside", path);
fail:
    return status;
}

/* Bytes of a tensor from dtype and shape; false on overflow or a fraction of a byte. */
static bool tensor_bytes(int bits, int rank, const int64_t *shape, int64_t *out)
{
    int64_t size = bits;
    for (int d = 0; d < rank; d++)
        if (!qsi_mul(size, shape[d], &size))
            return false;
    *out = size / 8;
    return size % 8 == 0;
}

static qs_status parse_shape(qsi_stored_tensor *t, const char *path, const char *name, json_t *shape)
{
    qs_status status = QS_OK;
    if (!json_is_array(shape) || json_array_size(shape) > QS_TENSOR_RANK)
        QS_FAIL(QS_ERR_FORMAT, "%s: tensor '%s': shape is no array of at most %d numbers", path, name, QS_TENSOR_RANK);
    t->rank = (int)json_array_size(shape);
    for (int d = 0; d < t->rank; d++) {
        json_t *size = json_array_get(shape, (size_t)d);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            QS_FAIL(QS_ERR_FORMAT, "%s: tensor '%s': dimension %d is no integer from 0 up", path, name, d);
        t->shape[d] = json_integer_value(size);
    }
fail:
    return status;
}

/* One header entry: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}. */
static qs_status parse_tensor(qsi_safetensors *file, const char *path, const char *raw_name, json_t *entry,
                              qsi_stored_tensor *t)
{
    qs_status status = QS_OK;
    qsi_shown name = qsi_show(raw_name);
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    json_t *offsets = json_object_get(entry, "data_offsets");
    json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    int64_t bytes = 0, bits = 0;
    if (!json_is_object(entry) || dtype == NULL)
        QS_FAIL(QS_ERR_FORMAT, "%s: tensor '%s' has no dtype", path, name.text);
    for (size_t k = 0; k < sizeof dtypes / sizeof *dtypes; k++)
        if (strcmp(dtype, dtypes[k].name) == 0) {
            t->dtype = dtypes[k].name;
            bits = dtypes[k].bits;
        }
    if (bits == 0)
        QS_FAIL(QS_ERR_FORMAT, "%s: tensor '%s': unknown dtype '%s'", path, name.text, qsi_show(dtype).text);
    QS_TRY(parse_shape(t, path, name.text, json_object_get(entry, "shape")));
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last) ||
        json_integer_value(first) < 0 || json_integer_value(last) < json_integer_value(first))
        QS_FAIL(QS_ERR_FORMAT, "%s: tensor '%s': data_offsets are not [begin, end] with 0 <= begin <= end", path, name.text);
    if (!tensor_bytes((int)bits, t->rank, t->shape, &bytes))
        QS_FAIL(QS_ERR_FORMAT, "%s: tensor '%s': its shape is no possible number of bytes", path, name.text);
    t->offset = (uint64_t)json_integer_value(first);
    t->bytes = (uint64_t)json_integer_value(last) - t->offset;
    if (t->bytes != (uint64_t)bytes)
        QS_FAIL(QS_ERR_FORMAT, "%s: tensor '%s': %" PRIu64 " bytes by its offsets, %" PRId64 " by its shape", path,
                name.text, t->bytes, bytes);
    if (t->offset + t->bytes > file->map.bytes - file->data_start)
        QS_FAIL(QS_ERR_CORRUPT, "%s: tensor '%s' ends at byte %" PRIu64 " of the data, the file holds %" PRIu64
                ": truncated", path, name.text, t->offset + t->bytes, file->map.bytes - file->data_start);
fail:
    return status;
}

static int compare_offsets(const void *a, const void *b)
{
    const qsi_stored_tensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Sorted tensors cover the data exactly; then offsets become offsets in the file. */
static qs_status check_cover(qsi_safetensors *file, const char *path)
{
    qs_status status = QS_OK;
    uint64_t end = 0, data_bytes = file->map.bytes - file->data_start;
    for (int64_t k = 0; k < file->count; k++) {
        qsi_stored_tensor *t = &file->tensors[k];
        if (t->offset != end)
            QS_FAIL(QS_ERR_FORMAT, "%s: tensor '%s' starts at byte %" PRIu64 " of the data, the one before it ends at %"
                    PRIu64 ": %s", path, qsi_show(t->name).text, t->offset, end, t->offset < end ? "they overlap" : "a gap");
        end += t->bytes;
        t->offset += file->data_start;
    }
    if (end != data_bytes)
        QS_FAIL(QS_ERR_FORMAT, "%s: the last tensor ends at byte %" PRIu64 " of the data, the file holds %" PRIu64, path,
                end, data_bytes);
fail:
    return status;
}

static qs_status parse_tensors(qs_context *context, qsi_safetensors *file, const char *path, json_t *root)
{
    qs_status status = QS_OK;
    int64_t count = (int64_t)json_object_size(root), k = 0, text = 0, at = 0;
    for (void *i = json_object_iter(root); i != NULL; i = json_object_iter_next(root, i))
        text += (int64_t)strlen(json_object_iter_key(i)) + 1;
    file->tensors = qsi_alloc_array(context, QS_MEMORY_IO, count, sizeof *file->tensors);
    file->names = qsi_alloc(context, QS_MEMORY_IO, text);
    if (file->tensors == NULL || file->names == NULL) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    for (void *i = json_object_iter(root); i != NULL; i = json_object_iter_next(root, i)) {
        const char *name = json_object_iter_key(i);
        int64_t bytes = (int64_t)strlen(name) + 1;
        QS_TRY(parse_tensor(file, path, name, json_object_iter_value(i), &file->tensors[k]));
        file->tensors[k++].name = memcpy(file->names + at, name, (size_t)bytes);
        at += bytes;
    }
    file->count = count;
    qsort(file->tensors, (size_t)count, sizeof *file->tensors, compare_offsets);
    QS_TRY(check_cover(file, path));
fail:
    return status;
}

qs_status qsi_safetensors_open(qs_context *context, const char *path, const qsi_file_claim *claim, qsi_safetensors *out)
{
    qs_status status = QS_OK;
    json_t *root = NULL;
    qsi_safetensors file;
    memset(&file, 0, sizeof file);
    QS_TRY(qsi_map_file(path, &file.map));
    if (claim != NULL)
        QS_TRY(check_claim(&file, path, claim));
    QS_TRY(parse_json(&file, path, &root));
    if (claim != NULL && file.data_start != claim->header_bytes)
        QS_FAIL(QS_ERR_FORMAT, "%s: data starts at byte %" PRIu64 ", the manifest says %" PRIu64, path, file.data_start,
                claim->header_bytes);
    QS_TRY(take_metadata(&file, path, root));
    QS_TRY(parse_tensors(context, &file, path, root));
    *out = file;
fail:
    if (status != QS_OK)
        qsi_safetensors_close(&file);
    json_decref(root);
    return status;
}

void qsi_safetensors_close(qsi_safetensors *file)
{
    json_decref(file->metadata);
    qsi_free(file->tensors);
    qsi_free(file->names);
    if (file->map.data != NULL)
        qsi_unmap(&file->map);
    memset(file, 0, sizeof *file);
}

const char *qsi_safetensors_mark(const qsi_safetensors *file, const char *key)
{
    return json_string_value(json_object_get(file->metadata, key));
}
