/* accounts.c - the memory accounts of a context, by pool and tag. Booked by every allocation of the library and by backends for
 * their scratch; a positive booking counts as one allocation. */
#include <string.h>
#include "core/objects.h"

static const char *const pool_names[QS_MEMORY_POOLS] = {"RAM", "device"};

static void raise_peak(qsi_tally *tally, int64_t now)
{
    int64_t peak = atomic_load(&tally->peak);
    while (now > peak && !atomic_compare_exchange_weak(&tally->peak, &peak, now)) {
    }
}

static void tally_book(qsi_tally *tally, int64_t bytes)
{
    raise_peak(tally, atomic_fetch_add(&tally->current, bytes) + bytes);
    if (bytes > 0)
        atomic_fetch_add(&tally->allocations, 1);
}

/* The sum of a pool grows by bytes, unless that is more than its budget. */
static qs_status pool_book(qs_context *context, qs_memory_pool pool, qs_memory_tag tag, int64_t bytes)
{
    qs_status status = QS_OK;
    qsi_tally *tally = &context->tally[pool][QS_MEMORY_TAGS];
    int64_t before = atomic_load(&tally->current);
    do {
        if (bytes > 0 && before > context->budget[pool] - bytes)
            QS_FAIL(QS_ERR_NOMEM, "%s needs %lld bytes more, but %lld of the %s budget of %lld bytes are taken; raise it or make the "
                    "run smaller", qs_memory_tag_name(tag), (long long)bytes, (long long)before, pool_names[pool],
                    (long long)context->budget[pool]);
    } while (!atomic_compare_exchange_weak(&tally->current, &before, before + bytes));
    raise_peak(tally, before + bytes);
    if (bytes > 0)
        atomic_fetch_add(&tally->allocations, 1);
fail:
    return status;
}

static qs_status book(qs_context *context, qs_memory_pool pool, qs_memory_tag tag, int64_t bytes)
{
    qs_status status = QS_OK;
    if ((unsigned)tag >= QS_MEMORY_TAGS)
        QS_FAIL(QS_ERR_ARG, "memory tag %d does not exist", (int)tag);
    if (!context)
        return QS_OK;
    QS_TRY(pool_book(context, pool, tag, bytes));
    tally_book(&context->tally[pool][tag], bytes);
    tally_book(&context->tally[QS_MEMORY_POOLS][tag], bytes);
    tally_book(&context->tally[QS_MEMORY_POOLS][QS_MEMORY_TAGS], bytes);
fail:
    return status;
}

qs_status qsi_account(qs_context *context, qs_memory_tag tag, int64_t bytes)
{
    return book(context, QS_POOL_RAM, tag, bytes);
}

qs_status qsi_account_device(qs_context *context, qs_memory_tag tag, int64_t bytes)
{
    return book(context, QS_POOL_DEVICE, tag, bytes);
}

int64_t qsi_budget(const qs_context *context, qs_memory_pool pool) { return context->budget[pool]; }

void qs_memory_in(const qs_context *context, qs_memory_pool pool, qs_memory_tag tag, qs_memory_usage *usage)
{
    memset(usage, 0, sizeof *usage);
    if ((unsigned)tag > QS_MEMORY_TAGS || (unsigned)pool > QS_MEMORY_POOLS)
        return;
    const qsi_tally *tally = &context->tally[pool][tag];
    usage->current_bytes = (uint64_t)atomic_load(&tally->current);
    usage->peak_bytes = (uint64_t)atomic_load(&tally->peak);
    usage->allocations = (uint64_t)atomic_load(&tally->allocations);
}

void qs_memory(const qs_context *context, qs_memory_tag tag, qs_memory_usage *usage)
{
    qs_memory_in(context, QS_MEMORY_POOLS, tag, usage);
}

void qs_memory_reset_peak(qs_context *context)
{
    for (int pool = 0; pool <= QS_MEMORY_POOLS; pool++)
        for (int tag = 0; tag <= QS_MEMORY_TAGS; tag++)
            atomic_store(&context->tally[pool][tag].peak, atomic_load(&context->tally[pool][tag].current));
}
