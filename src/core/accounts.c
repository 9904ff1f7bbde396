/* accounts.c - the memory accounts of a context. Booked by every allocation of the library and by backends for their
 * scratch; a positive booking counts as one allocation. */
#include <string.h>
#include "core/objects.h"

static void tally_book(qsi_tally *tally, int64_t bytes)
{
    int64_t now = atomic_fetch_add(&tally->current, bytes) + bytes;
    int64_t peak = atomic_load(&tally->peak);
    while (now > peak && !atomic_compare_exchange_weak(&tally->peak, &peak, now)) {
    }
    if (bytes > 0)
        atomic_fetch_add(&tally->allocations, 1);
}

qs_status qsi_account(qs_context *context, qs_memory_tag tag, int64_t bytes)
{
    if ((unsigned)tag >= QS_MEMORY_TAGS) {
        qsi_fail_text("memory tag %d does not exist", (int)tag);
        return QS_ERR_ARG;
    }
    if (context) {
        tally_book(&context->tally[tag], bytes);
        tally_book(&context->tally[QS_MEMORY_TAGS], bytes);
    }
    return QS_OK;
}

void qs_memory(const qs_context *context, qs_memory_tag tag, qs_memory_usage *usage)
{
    memset(usage, 0, sizeof *usage);
    if ((unsigned)tag > QS_MEMORY_TAGS)
        return;
    const qsi_tally *tally = &context->tally[tag];
    usage->current_bytes = (uint64_t)atomic_load(&tally->current);
    usage->peak_bytes = (uint64_t)atomic_load(&tally->peak);
    usage->allocations = (uint64_t)atomic_load(&tally->allocations);
}

void qs_memory_reset_peak(qs_context *context)
{
    for (int i = 0; i <= QS_MEMORY_TAGS; i++)
        atomic_store(&context->tally[i].peak, atomic_load(&context->tally[i].current));
}
