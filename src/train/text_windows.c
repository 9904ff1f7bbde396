/* text_windows.c - training windows in a permuted order that needs no memory. */
#include "qsbits/random.h"
#include "train/text.h"

static uint32_t draw(uint64_t seed, uint64_t epoch, uint32_t row, uint32_t index)
{
    uint32_t out[4];
    qs_philox(seed, (uint32_t)epoch, QS_RANDOM_DATA, (uint32_t)(epoch >> 32) & 0xffffff, row, index, out);
    return out[0];
}

/* A permutation of 0..n-1: four Feistel rounds over the smallest even number of bits that holds n - 1, walked until the
 * value is inside (Black and Rogaway, "Ciphers with arbitrary finite domains"). */
static uint64_t permute(uint64_t value, uint64_t n, uint64_t seed, uint64_t epoch)
{
    int half = 1;
    while (2 * half < 64 && (n - 1) >> (2 * half))
        half++;
    const uint64_t mask = (UINT64_C(1) << half) - 1;
    do {
        uint64_t left = value >> half, right = value & mask;
        for (uint32_t round = 1; round <= 4; round++) {
            const uint64_t next = left ^ (draw(seed, epoch, round, (uint32_t)right) & mask);
            left = right;
            right = next;
        }
        value = left << half | right;
    } while (value >= n);
    return value;
}

qs_status qs_text_next_window(const qs_text *text, int64_t ctx, uint64_t seed, qs_cursor *cursor, int64_t *start)
{
    qs_status status = QS_OK;
    const int64_t tokens = text->info.train_tokens;
    if (ctx < 1 || tokens < ctx + 1)
        QS_FAIL(QS_ERR_SHAPE,
                "the training part holds %lld tokens; one window of ctx %lld needs %lld: give more text or a smaller ctx",
                (long long)tokens, (long long)ctx, (long long)(ctx + 1));
    for (;;) {
        /* the offset leaves at least one whole window */
        const int64_t slack = qsi_min(ctx, tokens - ctx);
        const int64_t offset = (int64_t)(draw(seed, cursor->epoch, 0, 0) % (uint64_t)slack);
        const uint64_t windows = (uint64_t)((tokens - 1 - offset) / ctx);
        if (cursor->index < windows) {
            *start = offset + ctx * (int64_t)permute(cursor->index++, windows, seed, cursor->epoch);
            return QS_OK;
        }
        cursor->epoch++;
        cursor->index = 0;
    }
fail:
    return status;
}
