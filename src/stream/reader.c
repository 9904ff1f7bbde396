/* reader.c - the model file as a stream reads it: large reads past the page cache, of a file that must stay as it was.
 *
 * A model that does not fit into memory would only push other things out of the page cache, so reads bypass it (O_DIRECT) where
 * the file system can; one that cannot says EINVAL at open or at the first read. What such reads need, offsets, lengths and
 * memory in whole pages, holds for all but the end of the last slab, which is read through the page cache. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include "stream/parts.h"

typedef struct reason_text { char text[128]; } reason_text;

static const char *reason_of(int error, reason_text *buffer) { return strerror_r(error, buffer->text, sizeof buffer->text); }

qs_status qsi_slab_file_open(qs_context *context, const char *path, uint64_t bytes, qsi_slab_file *file)
{
    qs_status status = QS_OK;
    reason_text buffer;
    *file = (qsi_slab_file){.direct = -1, .plain = -1};
    if (!(file->path = qsi_strdup(context, path)))
        QS_TRY(QS_ERR_NOMEM);
    file->plain = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);   /* a pipe must not make the open wait */
    if (file->plain < 0)
        QS_FAIL(errno == ENOENT || errno == ENOTDIR ? QS_ERR_NOINPUT : QS_ERR_IO, "cannot read %s: %s", path,
                reason_of(errno, &buffer));
    if (fstat(file->plain, &file->seen) != 0)
        QS_FAIL(QS_ERR_IO, "cannot read %s: %s", path, reason_of(errno, &buffer));
    if (!S_ISREG(file->seen.st_mode))
        QS_FAIL(QS_ERR_NOINPUT, "cannot read %s: not a regular file", path);
    if ((uint64_t)file->seen.st_size != bytes)
        QS_FAIL(QS_ERR_CORRUPT, "%s has %lld bytes, the manifest says %llu", path, (long long)file->seen.st_size,
                (unsigned long long)bytes);
    struct stat direct;
    file->direct = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (file->direct >= 0 && (fstat(file->direct, &direct) != 0 || direct.st_ino != file->seen.st_ino ||
                              direct.st_dev != file->seen.st_dev))
        QS_FAIL(QS_ERR_IO, "%s was replaced while it was opened; leave the files of a model alone", path);
    return QS_OK;
fail:
    qsi_slab_file_close(file);
    return status;
}

void qsi_slab_file_close(qsi_slab_file *file)
{
    if (file->direct >= 0)
        close(file->direct);
    if (file->plain >= 0)
        close(file->plain);
    qsi_free(file->path);
    *file = (qsi_slab_file){.direct = -1, .plain = -1};
}

qs_status qsi_slab_file_check(const qsi_slab_file *file, int64_t slab)
{
    qs_status status = QS_OK;
    reason_text buffer;
    struct stat now;
    if (fstat(file->plain, &now) != 0)
        QS_FAIL(QS_ERR_IO, "%s: slab %lld: %s", file->path, (long long)slab, reason_of(errno, &buffer));
    if (now.st_size != file->seen.st_size || now.st_mtim.tv_sec != file->seen.st_mtim.tv_sec ||
        now.st_mtim.tv_nsec != file->seen.st_mtim.tv_nsec)
        QS_FAIL(QS_ERR_IO, "%s was changed while it was in use (seen at slab %lld, now %lld bytes); leave the files of a model "
                "alone", file->path, (long long)slab, (long long)now.st_size);
fail:
    return status;
}

qs_status qsi_slab_file_read(qsi_slab_file *file, int64_t slab, uint64_t offset, uint8_t *to, int64_t n)
{
    qs_status status = QS_OK;
    reason_text buffer;
    while (n > 0) {
        const bool direct = file->direct >= 0 && n >= QSI_STREAM_PAGE && offset % QSI_STREAM_PAGE == 0;
        const int64_t wanted = direct ? n - n % QSI_STREAM_PAGE : n;
        const ssize_t got = pread(direct ? file->direct : file->plain, to, (size_t)wanted, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EINVAL && direct) {   /* not past the page cache after all */
            close(file->direct);
            file->direct = -1;
            continue;
        }
        if (got < 0)
            QS_FAIL(QS_ERR_IO, "cannot read %s: slab %lld, offset %llu: %s", file->path, (long long)slab,
                    (unsigned long long)offset, reason_of(errno, &buffer));
        if (got == 0) {
            QS_TRY(qsi_slab_file_check(file, slab));
            QS_FAIL(QS_ERR_IO, "cannot read %s: slab %lld: the file ends at offset %llu", file->path, (long long)slab,
                    (unsigned long long)offset);
        }
        offset += (uint64_t)got;
        to += got;
        n -= got;
    }
fail:
    return status;
}
