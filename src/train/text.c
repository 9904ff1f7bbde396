/* text.c - byte text: files and folders, statistics, training windows in a permuted order that needs no memory. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "core/detmath.h"
#include "core/internal.h"
#include "qsbits/data.h"
#include "qsbits/random.h"

enum { PROBE_BYTES = 65536 };

struct qs_text {
    qs_context *context;
    uint8_t *bytes;
    int64_t capacity;
    qs_text_info info;
};

/* ---- reading --------------------------------------------------------------------------------------------------- */

static qs_status append(qs_text *t, const uint8_t *data, int64_t n)
{
    qs_status status = QS_OK;
    int64_t need = 0;
    if (!qsi_add(t->info.tokens, n, &need))
        QS_FAIL(QS_ERR_NOMEM, "the text is too large");
    if (need > t->capacity) {
        const int64_t capacity = qsi_max(need, t->info.files ? 2 * t->capacity : need);
        uint8_t *bytes = qsi_alloc(t->context, QS_MEMORY_DATA, capacity);
        if (!bytes)
            return QS_ERR_NOMEM;
        if (t->info.tokens)
            memcpy(bytes, t->bytes, (size_t)t->info.tokens);
        qsi_free(t->bytes);
        t->bytes = bytes;
        t->capacity = capacity;
    }
    if (n)
        memcpy(t->bytes + t->info.tokens, data, (size_t)n);
    t->info.tokens = need;
    t->info.files++;
fail:
    return status;
}

static qs_status read_file(qs_text *t, const char *path, bool only_text)
{
    qs_status status = QS_OK;
    qsi_mapping map = {NULL, 0};
    QS_TRY(qsi_map_file(path, &map));
    const size_t probe = (size_t)qsi_min((int64_t)map.bytes, PROBE_BYTES);
    if (only_text && (probe == 0 || memchr(map.data, 0, probe)))
        t->info.skipped++;
    else
        QS_TRY(append(t, map.data, (int64_t)map.bytes));
fail:
    qsi_unmap(&map);
    return status;
}

static qs_status read_folder(qs_text *t, const char *path)
{
    qs_status status = QS_OK;
    char **names = NULL;
    int64_t count = 0;
    char *child = NULL;
    QS_TRY(qsi_list_directory(path, &names, &count));
    for (int64_t i = 0; i < count; i++) {
        if (names[i][0] == '.') {
            t->info.skipped++;
            continue;
        }
        qsi_free(child);
        child = qsi_path_join(path, names[i]);
        if (!child) {
            status = QS_ERR_NOMEM;
            goto fail;
        }
        const bool folder = qsi_is_directory(child);
        if (folder && qsi_is_link(child)) {   /* could lead back here, or to text that is read anyway */
            t->info.skipped++;
            continue;
        }
        status = folder ? read_folder(t, child) : read_file(t, child, true);
        if (status == QS_ERR_NOMEM)
            goto fail;
        if (status != QS_OK)
            t->info.skipped++;
        status = QS_OK;
    }
fail:
    qsi_free(child);
    qsi_free_names(names, count);
    return status;
}

/* ---- statistics ------------------------------------------------------------------------------------------------ */

/* -sum n log(n / total) over the counts */
static double count_entropy(const int64_t *counts, int64_t total)
{
    double sum = 0.0;
    for (int i = 0; i < 256; i++)
        if (counts[i])
            sum -= (double)counts[i] * qsi_log((double)counts[i] / (double)total);
    return sum;
}

static qs_status measure(qs_text *t)
{
    qs_status status = QS_OK;
    const int64_t n = t->info.tokens;
    int64_t single[256] = {0};
    int64_t(*pairs)[256] = qsi_alloc(t->context, QS_MEMORY_OTHER, 256 * (int64_t)sizeof *pairs);
    if (!pairs)
        return QS_ERR_NOMEM;
    for (int64_t i = 0; i < n; i++) {
        single[t->bytes[i]]++;
        if (i)
            pairs[t->bytes[i - 1]][t->bytes[i]]++;
    }
    t->info.entropy0 = count_entropy(single, n) / (double)n;
    double sum = 0.0;
    for (int i = 0; i < 256; i++) {
        int64_t row = 0;
        for (int j = 0; j < 256; j++)
            row += pairs[i][j];
        sum += count_entropy(pairs[i], row);
    }
    t->info.entropy1 = n > 1 ? sum / (double)(n - 1) : 0.0;
    const XXH128_hash_t hash = XXH3_128bits(t->bytes, (size_t)n);
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    for (int i = 0; i < 16; i++) {
        t->info.hash[2 * i] = "0123456789abcdef"[canonical.digest[i] >> 4];
        t->info.hash[2 * i + 1] = "0123456789abcdef"[canonical.digest[i] & 15];
    }
    qsi_free(pairs);
    return status;
}

static qs_status finish(qs_text *t, double val_fraction, const char *path)
{
    qs_status status = QS_OK;
    if (t->info.tokens == 0)
        QS_FAIL(QS_ERR_FORMAT, "%s holds no text (%lld files skipped: hidden, empty, or with a NUL byte)", path,
                (long long)t->info.skipped);
    t->info.val_tokens = (int64_t)(val_fraction * (double)t->info.tokens);
    t->info.train_tokens = t->info.tokens - t->info.val_tokens;
    QS_TRY(measure(t));
fail:
    return status;
}

static qs_status create(qs_context *context, double val_fraction, qs_text **out)
{
    qs_status status = QS_OK;
    if (!(val_fraction > 0.0 && val_fraction <= 0.5))
        QS_FAIL(QS_ERR_ARG, "the validation share is %g; it must lie in (0, 0.5]", val_fraction);
    *out = qsi_alloc(context, QS_MEMORY_OTHER, sizeof **out);
    if (!*out)
        return QS_ERR_NOMEM;
    (*out)->context = context;
fail:
    return status;
}

qs_status qs_text_open(qs_context *context, const char *path, double val_fraction, qs_text **out)
{
    qs_status status = QS_OK;
    qs_text *t = NULL;
    QS_TRY(create(context, val_fraction, &t));
    QS_TRY(qsi_is_directory(path) ? read_folder(t, path) : read_file(t, path, false));
    QS_TRY(finish(t, val_fraction, path));
    *out = t;
    t = NULL;
fail:
    qs_text_free(&t);
    return status;
}

qs_status qs_text_from_memory(qs_context *context, const void *bytes, int64_t n, double val_fraction, qs_text **out)
{
    qs_status status = QS_OK;
    qs_text *t = NULL;
    QS_TRY(create(context, val_fraction, &t));
    QS_TRY(append(t, bytes, n));
    QS_TRY(finish(t, val_fraction, "the text"));
    *out = t;
    t = NULL;
fail:
    qs_text_free(&t);
    return status;
}

void qs_text_free(qs_text **text)
{
    if (!text || !*text)
        return;
    qsi_free((*text)->bytes);
    qsi_free(*text);
    *text = NULL;
}

void qs_text_get_info(const qs_text *text, qs_text_info *info) { *info = text->info; }

const uint8_t *qs_text_bytes(const qs_text *text) { return text->bytes; }

/* ---- windows --------------------------------------------------------------------------------------------------- */

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
        QS_FAIL(QS_ERR_SHAPE, "the training part holds %lld tokens; one window of ctx %lld needs %lld: give more text or a smaller ctx",
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
