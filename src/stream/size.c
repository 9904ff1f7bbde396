/* size.c - see size.h. Where all slabs fit, each has a place of its own size; otherwise places are as large as the largest slab. */
#include "stream/size.h"
#include "stream/parts.h"

int64_t qsi_stream_pages(int64_t bytes)
{
    return qsi_max(QSI_STREAM_PAGE, qsi_round_up(bytes, QSI_STREAM_PAGE));
}

int64_t qsi_stream_least(int64_t all, int64_t largest)
{
    return qsi_min(all, QSI_STREAM_STAGING * qsi_stream_pages(largest));
}

qs_status qsi_stream_size_of(int64_t count, int64_t all, int64_t largest, const qsi_stream_options *options, qsi_stream_size *size)
{
    qs_status status = QS_OK;
    const int64_t page = qsi_stream_pages(largest), entries = sizeof(qsi_stream_slab) + QSI_STREAM_ORDERS * sizeof(qsi_stream_expected);
    *size = (qsi_stream_size){.fits = all <= options->ram_bytes, .slot_bytes = qsi_max(QSI_STREAM_PAGE, largest)};
    size->places = size->fits ? count : options->ram_bytes / page;
    if (!size->fits && size->places < QSI_STREAM_STAGING)
        QS_FAIL(QS_ERR_ARG, "%lld bytes of memory for slabs hold no two of %lld; give at least %lld", (long long)options->ram_bytes,
                (long long)page, (long long)qsi_stream_least(all, largest));
    size->place_bytes = size->fits ? all : size->places * page;
    size->list_bytes = (int64_t)sizeof(qsi_stream) + count * entries + size->places * (int64_t)sizeof(qsi_stream_place) +
                       options->slots * (int64_t)(sizeof(qsi_stream_slot) + sizeof(qsi_stream_guess));
fail:
    return status;
}
