/* memory.c - host memory that knows its account.
 *
 * Every block is preceded by a header of one cache line that holds its size, tag and context, so that freeing needs
 * nothing but the pointer. calloc gives untouched zero pages for large blocks; the line is aligned by hand. */
#include <stdlib.h>
#include <string.h>
#include "core/internal.h"

enum { LINE = 64 };

typedef struct header {
    void *base;            /* what calloc returned */
    qs_context *context;   /* NULL: not booked */
    int64_t bytes;
    qs_memory_tag tag;
} header;

_Static_assert(sizeof(header) <= LINE, "the header fits the line before the block");

const char *qs_memory_tag_name(qs_memory_tag tag)
{
#define TAG_TEXT(name, text) text,
    static const char *const names[] = {QS_MEMORY_TAG_LIST(TAG_TEXT)};
#undef TAG_TEXT
    if (tag == QS_MEMORY_TAGS)
        return "total";
    return (unsigned)tag < QS_MEMORY_TAGS ? names[tag] : "unknown";
}

void *qsi_alloc(qs_context *context, qs_memory_tag tag, int64_t bytes)
{
    if (bytes < 0 || bytes > INT64_MAX - 2 * LINE) {
        qsi_fail_text("cannot allocate %lld bytes", (long long)bytes);
        return NULL;
    }
    if (qsi_account(context, tag, bytes) != QS_OK)
        return NULL;
    char *base = calloc(1, (size_t)bytes + 2 * LINE);
    if (!base) {
        (void)qsi_account(context, tag, -bytes);
        qsi_fail_text("cannot allocate %lld bytes for %s", (long long)bytes, qs_memory_tag_name(tag));
        return NULL;
    }
    char *block = base + 2 * LINE - (uintptr_t)base % LINE;
    header *h = (header *)(void *)(block - LINE);
    *h = (header){base, context, bytes, tag};
    return block;
}

void *qsi_alloc_array(qs_context *context, qs_memory_tag tag, int64_t count, int64_t size)
{
    int64_t bytes;
    if (!qsi_mul(count, size, &bytes)) {
        qsi_fail_text("cannot allocate %lld elements of %lld bytes", (long long)count, (long long)size);
        return NULL;
    }
    return qsi_alloc(context, tag, bytes);
}

void qsi_free(void *memory)
{
    if (!memory)
        return;
    header h = *(header *)(void *)((char *)memory - LINE);
    if (h.context)
        (void)qsi_account(h.context, h.tag, -h.bytes);
    free(h.base);
}

char *qsi_strdup(qs_context *context, const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = qsi_alloc(context, QS_MEMORY_OTHER, (int64_t)bytes);
    return copy ? memcpy(copy, text, bytes) : NULL;
}
