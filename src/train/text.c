/* text.c - byte text that stays on disk: opening, statistics, reading through a few open files. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "core/detmath.h"
#include "io/checksum.h"
#include "train/text.h"

/* ---- statistics ------------------------------------------------------------------------------------------------ */

struct qsi_text_intake {
    XXH3_state_t *hash;
    int64_t pairs[256][256];   /* [token before][token], across the borders of files */
    int64_t tokens;
    uint8_t first, last;
};

qs_status qsi_intake_create(qs_context *context, qsi_text_intake **out)
{
    qs_status status = QS_OK;
    qsi_text_intake *in = qsi_alloc(context, QS_MEMORY_OTHER, sizeof *in);
    if (!in)
        return QS_ERR_NOMEM;
    in->hash = XXH3_createState();
    if (!in->hash || XXH3_128bits_reset(in->hash) == XXH_ERROR)
        QS_FAIL(QS_ERR_NOMEM, "cannot allocate the state of a hash");
    *out = in;
    return QS_OK;
fail:
    qsi_intake_free(&in);
    return status;
}

void qsi_intake_free(qsi_text_intake **intake)
{
    if (!*intake)
        return;
    XXH3_freeState((*intake)->hash);
    qsi_free(*intake);
    *intake = NULL;
}

void qsi_intake_take(qsi_text_intake *in, const uint8_t *bytes, int64_t n)
{
    if (n == 0)
        return;
    (void)XXH3_128bits_update(in->hash, bytes, (size_t)n);
    if (in->tokens == 0)
        in->first = bytes[0];
    else
        in->pairs[in->last][bytes[0]]++;
    for (int64_t i = 1; i < n; i++)
        in->pairs[bytes[i - 1]][bytes[i]]++;
    in->last = bytes[n - 1];
    in->tokens += n;
}

/* -sum n log(n / total) over the counts */
static double count_entropy(const int64_t *counts, int64_t total)
{
    double sum = 0.0;
    for (int i = 0; i < 256; i++)
        if (counts[i])
            sum -= (double)counts[i] * qsi_log((double)counts[i] / (double)total);
    return sum;
}

static void measure(const qsi_text_intake *in, qs_text_info *info)
{
    int64_t single[256] = {0};
    double sum = 0.0;
    single[in->first] = 1;   /* every other token ends a pair */
    for (int i = 0; i < 256; i++) {
        int64_t row = 0;
        for (int j = 0; j < 256; j++) {
            row += in->pairs[i][j];
            single[j] += in->pairs[i][j];
        }
        sum += count_entropy(in->pairs[i], row);
    }
    info->entropy0 = count_entropy(single, in->tokens) / (double)in->tokens;
    info->entropy1 = in->tokens > 1 ? sum / (double)(in->tokens - 1) : 0.0;
    qsi_hash_hex(XXH3_128bits_digest(in->hash), info->hash);
}

/* ---- opening --------------------------------------------------------------------------------------------------- */

static qs_status create(qs_context *context, double val_fraction, qs_text **out)
{
    qs_status status = QS_OK;
    if (!(val_fraction > 0.0 && val_fraction <= 1.0))
        QS_FAIL(QS_ERR_ARG, "the validation share is %g; it must lie in (0, 1]", val_fraction);
    *out = qsi_alloc(context, QS_MEMORY_OTHER, sizeof **out);
    if (!*out)
        return QS_ERR_NOMEM;
    (*out)->context = context;
fail:
    return status;
}

/* name and more: what was to be read, for the message. */
static qs_status finish(qs_text *t, const qsi_text_intake *in, double val_fraction, const char *name, int64_t more)
{
    qs_status status = QS_OK;
    if (t->info.tokens == 0 && more)
        QS_FAIL(QS_ERR_FORMAT, "%s and %lld more hold no text (left out: %lld)", name, (long long)more,
                (long long)t->info.skipped);
    if (t->info.tokens == 0)
        QS_FAIL(QS_ERR_FORMAT, "%s holds no text (left out: %lld)", name, (long long)t->info.skipped);
    t->info.val_tokens = (int64_t)(val_fraction * (double)t->info.tokens);
    t->info.train_tokens = t->info.tokens - t->info.val_tokens;
    measure(in, &t->info);
fail:
    return status;
}

qs_status qs_text_open(qs_context *context, const char *const *paths, int64_t n_paths, double val_fraction, qs_skip_fn *skip,
                       void *user, qs_text **out)
{
    qs_status status = QS_OK;
    qs_text *t = NULL;
    qsi_text_intake *in = NULL;
    if (!paths || n_paths < 1)
        QS_FAIL(QS_ERR_ARG, "a text of no files: give at least one path");
    QS_TRY(create(context, val_fraction, &t));
    QS_TRY(qsi_intake_create(context, &in));
    QS_TRY(qsi_text_take_paths(t, paths, n_paths, in, skip, user));
    QS_TRY(finish(t, in, val_fraction, paths[0], n_paths - 1));
    *out = t;
    t = NULL;
fail:
    qsi_intake_free(&in);
    qs_text_free(&t);
    return status;
}

qs_status qs_text_from_memory(qs_context *context, const void *bytes, int64_t n, double val_fraction, qs_text **out)
{
    qs_status status = QS_OK;
    qs_text *t = NULL;
    qsi_text_intake *in = NULL;
    QS_TRY(create(context, val_fraction, &t));
    QS_TRY(qsi_intake_create(context, &in));
    if (!(t->memory = qsi_alloc(context, QS_MEMORY_DATA, n))) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    if (n)
        memcpy(t->memory, bytes, (size_t)n);
    qsi_intake_take(in, t->memory, n);
    t->info.tokens = n;
    t->info.files = 1;
    QS_TRY(finish(t, in, val_fraction, "the text", 0));
    *out = t;
    t = NULL;
fail:
    qsi_intake_free(&in);
    qs_text_free(&t);
    return status;
}

qs_status qs_text_keep_test(qs_text *t, double test_fraction)
{
    qs_status status = QS_OK;
    const int64_t tokens = t->info.tokens, before = t->info.val_tokens;
    if (!(test_fraction >= 0.0 && test_fraction < 1.0))
        QS_FAIL(QS_ERR_ARG, "the test share is %g; it must lie in [0, 1)", test_fraction);
    const int64_t test = (int64_t)(test_fraction * (double)tokens);
    if (test > tokens - before)
        QS_FAIL(QS_ERR_ARG, "the test share %g takes %lld of %lld tokens and validation %lld, more than there are; make one of them "
                "smaller", test_fraction, (long long)test, (long long)tokens, (long long)before);
    t->info.test_tokens = test;
    t->info.train_tokens = tokens - before - test;
fail:
    return status;
}

void qs_text_free(qs_text **text)
{
    if (!text || !*text)
        return;
    for (int i = 0; i < QSI_OPEN_FILES; i++)
        if ((*text)->files[i].open)
            close((*text)->files[i].descriptor);
    qsi_free((*text)->memory);
    qsi_free((*text)->segments);
    qsi_free((*text)->names);
    qsi_free(*text);
    *text = NULL;
}

void qs_text_get_info(const qs_text *text, qs_text_info *info) { *info = text->info; }

/* ---- reading --------------------------------------------------------------------------------------------------- */

static qs_status fail_changed(const qs_text *t, const qsi_segment *s)
{
    qsi_fail_text("%s was changed while it is trained on; bring the old file back and resume, or start a new run",
                  t->names + s->path);
    return QS_ERR_IO;
}

static qs_status fail_read(const qs_text *t, const qsi_segment *s, int error)
{
    char reason[128];
    qsi_fail_text("cannot read %s: %s", t->names + s->path, strerror_r(error, reason, sizeof reason));
    return error == ENOENT || error == ENOTDIR ? QS_ERR_NOINPUT : QS_ERR_IO;
}

/* The place of the file that was not used for the longest time, free to open another one. */
static qsi_open_file *free_place(qs_text *t)
{
    qsi_open_file *oldest = &t->files[0];
    for (int i = 0; i < QSI_OPEN_FILES && oldest->open; i++)
        if (!t->files[i].open || t->files[i].used < oldest->used)
            oldest = &t->files[i];
    if (oldest->open)
        close(oldest->descriptor);
    oldest->open = false;
    return oldest;
}

/* Opens the file of a segment again: it must still be the one that was read first. */
static qs_status reopen(qs_text *t, int64_t segment, qsi_open_file *f)
{
    qs_status status = QS_OK;
    const qsi_segment *s = &t->segments[segment];
    struct stat info;
    const int fd = open(t->names + s->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return fail_read(t, s, errno);
    if (fstat(fd, &info) != 0)
        QS_TRY(fail_read(t, s, errno));
    if (!S_ISREG(info.st_mode) || info.st_size != s->bytes || info.st_ino != s->inode ||
        info.st_mtim.tv_sec != s->changed.tv_sec || info.st_mtim.tv_nsec != s->changed.tv_nsec)
        QS_TRY(fail_changed(t, s));
    *f = (qsi_open_file){.open = true, .descriptor = fd, .segment = segment};
    return QS_OK;
fail:
    close(fd);
    return status;
}

static qs_status open_segment(qs_text *t, int64_t segment, int *descriptor)
{
    qs_status status = QS_OK;
    qsi_open_file *f = NULL;
    for (int i = 0; i < QSI_OPEN_FILES && !f; i++)
        if (t->files[i].open && t->files[i].segment == segment)
            f = &t->files[i];
    if (!f) {
        f = free_place(t);
        QS_TRY(reopen(t, segment, f));
    }
    f->used = ++t->clock;
    *descriptor = f->descriptor;
fail:
    return status;
}

/* n bytes of a segment from its offset. */
static qs_status read_segment(qs_text *t, int64_t segment, int64_t offset, int64_t n, uint8_t *bytes)
{
    qs_status status = QS_OK;
    int fd = -1;
    QS_TRY(open_segment(t, segment, &fd));
    while (n > 0) {
        const ssize_t got = pread(fd, bytes, (size_t)qsi_min(n, 1 << 30), (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            QS_TRY(fail_read(t, &t->segments[segment], errno));
        if (got == 0)
            QS_TRY(fail_changed(t, &t->segments[segment]));
        bytes += got;
        offset += got;
        n -= got;
    }
fail:
    return status;
}

/* The segment that holds token `at`: the last one that does not start behind it. */
static int64_t find_segment(const qs_text *t, int64_t at)
{
    int64_t low = 0, high = t->n_segments;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (t->segments[middle].first <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

qs_status qs_text_read(qs_text *t, int64_t first, int64_t n, uint8_t *bytes)
{
    qs_status status = QS_OK;
    if (first < 0 || n < 0 || first > t->info.tokens || n > t->info.tokens - first)
        QS_FAIL(QS_ERR_ARG, "%lld tokens from token %lld on lie outside the text of %lld", (long long)n, (long long)first,
                (long long)t->info.tokens);
    if (t->memory && n)
        memcpy(bytes, t->memory + first, (size_t)n);
    if (t->memory || n == 0)
        return QS_OK;
    for (int64_t i = find_segment(t, first); n > 0; i++) {
        const int64_t offset = first - t->segments[i].first;
        const int64_t count = qsi_min(n, t->segments[i].bytes - offset);
        QS_TRY(read_segment(t, i, offset, count, bytes));
        bytes += count;
        first += count;
        n -= count;
    }
fail:
    return status;
}
