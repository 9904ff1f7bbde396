/* safetensors_write.c - lays out and writes a native safetensors file (see safetensors_write.h). The whole layout follows
 * from names, formats and shapes, so the header is written first and the data is streamed behind it. */
#include "safetensors_write.h"

#include <inttypes.h>
#include <string.h>
#include "json_text.h"

enum { MAX_NAME = 160, PAD = -1 };

/* What lies one after the other in the data section: a tensor, or padding. */
typedef struct piece {
    int64_t tensor;          /* index among the tensors, or PAD */
    int64_t slab;
    int64_t offset, bytes;   /* in the data section */
} piece;

typedef struct layout {
    piece *pieces;
    int64_t count;
    int64_t bytes;           /* of the data section */
    int64_t largest;         /* bytes of the largest tensor */
} layout;

static const char *dtype_of(qs_format format)
{
    switch (format) {
    case QS_F32: return "F32";
    case QS_F16: return "F16";
    case QS_U8: return "U8";
    case QS_C8: return "I8";
    case QS_I32: case QS_W1: case QS_T2: case QS_C2: case QS_C4: return "I32";
    case QS_FORMATS: break;
    }
    return NULL;
}

static int64_t element_bytes(qs_format format)
{
    return format == QS_F16 ? 2 : format == QS_U8 || format == QS_C8 ? 1 : 4;
}

/* Shape rules of packed formats: docs/format.md, "Tensors". */
static bool shape_fits(const qs_saved_tensor *t)
{
    switch (t->format) {
    case QS_W1: return t->rank == 2;
    case QS_T2: return t->rank == 2 && t->shape[1] % 2 == 0;
    case QS_C2: return t->rank == 3 && t->shape[1] == 2;
    case QS_C4: return t->rank == 3 && t->shape[1] == 4;
    case QS_C8: return t->rank == 2 && t->shape[1] % 32 == 0;
    default: return true;
    }
}

qs_status qsi_saved_tensor_bytes(const qs_saved_tensor *t, int64_t *bytes)
{
    qs_status status = QS_OK;
    if (memchr(t->name, '\0', MAX_NAME) == NULL || t->name[0] == '\0' || strncmp(t->name, "pad.", 4) == 0 ||
        strcmp(t->name, "__metadata__") == 0)
        QS_FAIL(QS_ERR_ARG, "a tensor name must have 1 to %d bytes and be none of pad.* and __metadata__", MAX_NAME - 1);
    for (const char *c = t->name; *c != '\0'; c++)
        if (*c <= 0x20 || *c > 0x7e)
            QS_FAIL(QS_ERR_ARG, "tensor name '%s': byte %d is not a visible ASCII character", qsi_show(t->name).text,
                    (int)(c - t->name));
    if (dtype_of(t->format) == NULL)
        QS_FAIL(QS_ERR_ARG, "tensor '%s': unknown format %d", t->name, (int)t->format);
    if (t->rank < 1 || t->rank > 3)
        QS_FAIL(QS_ERR_SHAPE, "tensor '%s': rank %d, allowed are 1 to 3", t->name, t->rank);
    int64_t size = element_bytes(t->format);
    for (int d = 0; d < t->rank; d++)
        if (t->shape[d] < 1 || !qsi_mul(size, t->shape[d], &size))
            QS_FAIL(QS_ERR_SHAPE, "tensor '%s': dimension %d is %" PRId64, t->name, d, t->shape[d]);
    if (!shape_fits(t))
        QS_FAIL(QS_ERR_SHAPE, "tensor '%s': a shape [%" PRId64 ", %" PRId64 ", %" PRId64 "] of rank %d does not fit "
                "format %s", t->name, t->shape[0], t->shape[1], t->shape[2], t->rank, qs_format_name(t->format));
    *bytes = size;
fail:
    return status;
}

/* Appends padding up to a multiple of align. */
static bool layout_pad(layout *l, int64_t align, int64_t slab)
{
    int64_t end = 0;
    if (!qsi_add(l->bytes, align, &end))
        return false;
    end = l->bytes % align == 0 ? l->bytes : qsi_round_up(l->bytes, align);
    if (end > l->bytes)
        l->pieces[l->count++] = (piece){PAD, slab, l->bytes, end - l->bytes};
    l->bytes = end;
    return true;
}

/* A tensor on the next multiple of QS_TENSOR_ALIGN. */
static qs_status layout_tensor(layout *l, const qs_saved_tensor *tensor, int64_t index, int64_t slab)
{
    qs_status status = QS_OK;
    int64_t bytes = 0, end = 0;
    QS_TRY(qsi_saved_tensor_bytes(tensor, &bytes));
    if (!layout_pad(l, QS_TENSOR_ALIGN, slab) || !qsi_add(l->bytes, bytes, &end))
        QS_FAIL(QS_ERR_SHAPE, "tensor '%s' ends beyond 2^63 bytes", tensor->name);
    l->pieces[l->count++] = (piece){index, slab, l->bytes, bytes};
    l->bytes = end;
    l->largest = qsi_max(l->largest, bytes);
fail:
    return status;
}

/* At most one piece of padding before each tensor and each slab. */
static qs_status layout_build(qs_context *context, const qs_saved_tensor *tensors, int64_t count, int which,
                              int64_t slab_count, layout *l)
{
    qs_status status = QS_OK;
    int64_t t = 0, room = 0;
    if (!qsi_mul(count, 2, &room) || !qsi_add(room, slab_count, &room))
        QS_FAIL(QS_ERR_ARG, "%" PRId64 " tensors are too many", count);
    l->pieces = qsi_alloc_array(context, QS_MEMORY_IO, room, sizeof *l->pieces);
    if (l->pieces == NULL) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    for (int64_t slab = 0; slab < slab_count; slab++) {
        if (!layout_pad(l, QS_SLAB_ALIGN, slab - 1))
            QS_FAIL(QS_ERR_SHAPE, "slab %" PRId64 " starts beyond 2^63 bytes", slab);
        for (; t < count && (tensors[t].file != which || tensors[t].slab == slab); t++)
            if (tensors[t].file == which)
                QS_TRY(layout_tensor(l, &tensors[t], t, slab));
    }
    if (t != count)
        QS_FAIL(QS_ERR_ARG, "tensor '%s' has slab %d, out of order", tensors[t].name, tensors[t].slab);
fail:
    return status;
}

/* The header with its 8 bytes of length, padded with spaces to a multiple of 4096: keys in file order. */
static qs_status header_build(const layout *l, const qs_saved_tensor *tensors, const char *config, qsi_text *text)
{
    int64_t pads = 0;
    qsi_text_add(text, "\0\0\0\0\0\0\0\0", 8);
    qsi_text_print(text, "{\"__metadata__\":{");
    if (config != NULL) {
        qsi_text_print(text, "\"" QSI_MARK_CONFIG "\":");
        qsi_text_string(text, config);
        qsi_text_add(text, ",", 1);
    }
    qsi_text_print(text, "\"" QSI_MARK "\":\"%d\"}", QS_CHECKPOINT_VERSION);
    for (int64_t k = 0; k < l->count; k++) {
        const piece *p = &l->pieces[k];
        if (p->tensor == PAD) {
            qsi_text_print(text, ",\"pad.%" PRId64 "\":{\"dtype\":\"U8\",\"shape\":[%" PRId64 "]", pads++, p->bytes);
        } else {
            const qs_saved_tensor *t = &tensors[p->tensor];
            qsi_text_add(text, ",", 1);
            qsi_text_string(text, t->name);
            qsi_text_print(text, ":{\"dtype\":\"%s\",\"shape\":[", dtype_of(t->format));
            for (int d = 0; d < t->rank; d++)
                qsi_text_print(text, "%s%" PRId64, d > 0 ? "," : "", t->shape[d]);
            qsi_text_add(text, "]", 1);
        }
        qsi_text_print(text, ",\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", p->offset, p->offset + p->bytes);
    }
    qsi_text_add(text, "}", 1);
    while (text->failed == QS_OK && text->length % QS_SLAB_ALIGN != 0)
        qsi_text_add(text, " ", 1);
    if (text->failed != QS_OK)
        return text->failed;
    if (text->length - 8 > QSI_HEADER_LIMIT) {
        qsi_fail_text("a header of %" PRId64 " bytes, the limit is %d", text->length - 8, QSI_HEADER_LIMIT);
        return QS_ERR_ARG;
    }
    for (int i = 0; i < 8; i++)
        text->data[i] = (char)(unsigned char)((uint64_t)(text->length - 8) >> 8 * i & 0xff);
    return QS_OK;
}

/* {"length": bytes, "xxh3_128": hash}, with an offset where it is not negative; NULL without memory. */
static json_t *span_json(int64_t offset, int64_t bytes, const char *hash)
{
    json_t *span = json_pack("{s:I, s:s}", "length", (json_int_t)bytes, "xxh3_128", hash);
    if (span == NULL || offset < 0 || json_object_set_new(span, "offset", json_integer((json_int_t)offset)) == 0)
        return span;
    json_decref(span);
    return NULL;
}

typedef struct stream {
    qsi_writer *writer;
    XXH3_state_t *hash;
    uint8_t *buffer;         /* the largest tensor, at least QS_SLAB_ALIGN */
    int64_t header_bytes;
} stream;

static qs_status write_piece(stream *s, const piece *p, qs_fetch_fn *fetch, void *user)
{
    qs_status status = QS_OK;
    if (p->tensor == PAD)
        memset(s->buffer, 0, (size_t)p->bytes);
    else
        QS_TRY(fetch(user, p->tensor, s->buffer, p->bytes));
    XXH3_128bits_update(s->hash, s->buffer, (size_t)p->bytes);
    QS_TRY(qsi_writer_write(s->writer, s->buffer, (uint64_t)p->bytes));
fail:
    return status;
}

/* Writes all slabs; *slabs receives their list. */
static qs_status write_slabs(stream *s, const layout *l, int64_t slab_count, qs_fetch_fn *fetch, void *user, json_t *slabs)
{
    qs_status status = QS_OK;
    int64_t k = 0, offset = 0;
    char hash[QSI_HEX];
    for (int64_t slab = 0; slab < slab_count; slab++) {
        int64_t first = offset;
        XXH3_128bits_reset(s->hash);
        for (; k < l->count && l->pieces[k].slab == slab; k++) {
            QS_TRY(write_piece(s, &l->pieces[k], fetch, user));
            offset = l->pieces[k].offset + l->pieces[k].bytes;
        }
        qsi_hash_hex(XXH3_128bits_digest(s->hash), hash);
        if (json_array_append_new(slabs, span_json(s->header_bytes + first, offset - first, hash)) != 0)
            QS_FAIL(QS_ERR_NOMEM, "no memory for the list of slabs");
    }
fail:
    return status;
}

qs_status qsi_safetensors_write(qs_context *context, const char *path, const qs_saved_tensor *tensors, int64_t count,
                                int which, int64_t slab_count, const char *config, qs_fetch_fn *fetch, void *user,
                                json_t **out)
{
    qs_status status = QS_OK;
    layout l = {NULL, 0, 0, 0};
    qsi_text header = {context, NULL, 0, 0, QS_OK};
    stream s = {NULL, NULL, NULL, 0};
    json_t *slabs = json_array(), *entry = NULL;
    char hash[QSI_HEX];
    QS_TRY(layout_build(context, tensors, count, which, slab_count, &l));
    QS_TRY(header_build(&l, tensors, config, &header));
    s.header_bytes = header.length;
    s.hash = XXH3_createState();
    s.buffer = qsi_alloc(context, QS_MEMORY_IO, qsi_max(l.largest, QS_SLAB_ALIGN));
    if (slabs == NULL || s.hash == NULL || s.buffer == NULL)
        QS_FAIL(QS_ERR_NOMEM, "no memory to write %s: its largest tensor has %" PRId64 " bytes", path, l.largest);
    QS_TRY(qsi_writer_open(path, &s.writer));
    QS_TRY(qsi_writer_write(s.writer, header.data, (uint64_t)header.length));
    QS_TRY(write_slabs(&s, &l, slab_count, fetch, user, slabs));
    qsi_checksum(header.data, (uint64_t)header.length, hash);
    entry = json_pack("{s:I, s:o, s:O}", "length", (json_int_t)(header.length + l.bytes), "header",
                      span_json(-1, header.length, hash), "slabs", slabs);
    if (entry == NULL)
        QS_FAIL(QS_ERR_NOMEM, "no memory for the manifest");
    QS_TRY(qsi_writer_commit(&s.writer));
    *out = entry;
    entry = NULL;
fail:
    qsi_writer_abort(&s.writer);
    json_decref(entry);
    json_decref(slabs);
    XXH3_freeState(s.hash);
    qsi_free(s.buffer);
    qsi_free(l.pieces);
    qsi_text_free(&header);
    return status;
}
