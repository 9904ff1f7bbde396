/* pages.c - see pages.h. A matrix of a few MB spans more small pages than the second-level TLB has entries; one large page
 * stands for 512 of them. The kernel is asked (madvise), not told: without large pages it gives small ones. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "core/internal.h"
#include "cpu/pages.h"

static int is_large(int64_t bytes) { return bytes >= QSI_LARGE_PAGE; }

/* Address space for one large page more than needed, of which the unaligned ends go back. */
static void *map_aligned(int64_t bytes)
{
    const size_t whole = (size_t)(bytes + QSI_LARGE_PAGE);
    char *start = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    char *memory = start + (-(uintptr_t)start & (QSI_LARGE_PAGE - 1));
    char *end = memory + bytes;
    if (memory > start)
        munmap(start, (size_t)(memory - start));
    if (start + whole > end)
        munmap(end, (size_t)(start + whole - end));
    (void)madvise(memory, (size_t)bytes, MADV_HUGEPAGE);
    return memory;
}

void *qsi_pages_alloc(int64_t bytes)
{
    if (bytes > INT64_MAX - 2 * QSI_LARGE_PAGE)
        return NULL;
    if (is_large(bytes))
        return map_aligned(qsi_round_up(bytes, QSI_LARGE_PAGE));
    const size_t whole = (size_t)qsi_round_up(bytes, QSI_PAGE);
    void *memory = aligned_alloc(QSI_PAGE, whole);
    return memory ? memset(memory, 0, whole) : NULL;
}

void qsi_pages_free(void *memory, int64_t bytes)
{
    if (memory && is_large(bytes))
        munmap(memory, (size_t)qsi_round_up(bytes, QSI_LARGE_PAGE));
    else
        free(memory);
}
