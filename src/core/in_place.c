/* in_place.c - see in_place.h. Every failure names the file and the system's reason. */
#include "core/in_place.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static qs_status fail_file(qs_status status, const char *verb, const char *path, int error)
{
    char buffer[128];
    qsi_fail_text("cannot %s %s: %s", verb, path, strerror_r(error, buffer, sizeof buffer));
    return status;
}

/* ---- random access ----------------------------------------------------------------------------------------------- */

qs_status qsi_file_open(const char *path, bool writable, qsi_file *out)
{
    qs_status status = QS_OK;
    struct stat info;
    const char *verb = writable ? "change" : "read";
    const int fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);   /* a pipe must not make it wait */
    if (fd < 0)
        return fail_file(errno == ENOENT || errno == ENOTDIR ? QS_ERR_NOINPUT : QS_ERR_IO, verb, path, errno);
    if (fstat(fd, &info) != 0)
        QS_TRY(fail_file(QS_ERR_IO, verb, path, errno));
    if (!S_ISREG(info.st_mode))
        QS_FAIL(QS_ERR_NOINPUT, "cannot %s %s: not a regular file", verb, path);
    *out = (qsi_file){fd, (uint64_t)info.st_size, path};
    return QS_OK;
fail:
    close(fd);
    return status;
}

void qsi_file_close(qsi_file *file)
{
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
}

/* The system takes at most this at a time. */
static size_t part_of(uint64_t n) { return n < (1u << 30) ? (size_t)n : (size_t)1 << 30; }

qs_status qsi_file_read(const qsi_file *file, uint64_t offset, void *data, uint64_t n)
{
    uint8_t *out = data;
    while (n > 0) {
        const ssize_t done = pread(file->fd, out, part_of(n), (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return fail_file(QS_ERR_IO, "read", file->path, errno);
        if (done == 0) {
            qsi_fail_text("%s ends at byte %llu: truncated while it was read", file->path, (unsigned long long)offset);
            return QS_ERR_CORRUPT;
        }
        out += done;
        offset += (uint64_t)done;
        n -= (uint64_t)done;
    }
    return QS_OK;
}

qs_status qsi_file_write(const qsi_file *file, uint64_t offset, const void *data, uint64_t n)
{
    const uint8_t *in = data;
    while (n > 0) {
        const ssize_t done = pwrite(file->fd, in, part_of(n), (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return fail_file(QS_ERR_IO, "write", file->path, done < 0 ? errno : ENOSPC);
        in += done;
        offset += (uint64_t)done;
        n -= (uint64_t)done;
    }
    return QS_OK;
}

static int sync_again(int fd)
{
    int result;
    do
        result = fsync(fd);
    while (result != 0 && errno == EINTR);
    return result;
}

qs_status qsi_file_sync(const qsi_file *file)
{
    return sync_again(file->fd) == 0 ? QS_OK : fail_file(QS_ERR_IO, "write", file->path, errno);
}

/* ---- folders ------------------------------------------------------------------------------------------------------ */

/* The folder that holds path; false if that is too long. */
static bool folder_of(const char *path, char out[PATH_MAX])
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    while (n > 0 && path[n - 1] != '/')
        n--;
    while (n > 1 && path[n - 1] == '/')
        n--;
    if (n >= PATH_MAX)
        return false;
    snprintf(out, PATH_MAX, "%.*s", n > 0 ? (int)n : 1, n > 0 ? path : ".");
    return true;
}

qs_status qsi_remove_durable(const char *path)
{
    qs_status status = QS_OK;
    char folder[PATH_MAX];
    if (unlink(path) != 0 && errno != ENOENT)
        return fail_file(QS_ERR_IO, "remove", path, errno);
    if (!folder_of(path, folder))
        return fail_file(QS_ERR_IO, "sync the folder of", path, ENAMETOOLONG);
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail_file(QS_ERR_IO, "sync", folder, errno);
    if (sync_again(fd) != 0 && errno != EINVAL)   /* some file systems cannot */
        status = fail_file(QS_ERR_IO, "sync", folder, errno);
    close(fd);
    return status;
}

qs_status qsi_lock_take(const char *folder, int *lock)
{
    qs_status status = QS_OK;
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail_file(errno == ENOENT || errno == ENOTDIR ? QS_ERR_NOINPUT : QS_ERR_IO, "lock", folder, errno);
    int result;
    do
        result = flock(fd, LOCK_EX | LOCK_NB);
    while (result != 0 && errno == EINTR);
    if (result != 0 && errno == EWOULDBLOCK)
        QS_FAIL(QS_ERR_CREATE, "%s is being trained by another process; wait for it, or train a copy of the folder", folder);
    if (result != 0)
        QS_TRY(fail_file(QS_ERR_IO, "lock", folder, errno));
    *lock = fd;
    return QS_OK;
fail:
    close(fd);
    return status;
}

void qsi_lock_release(int *lock)
{
    if (*lock >= 0)
        close(*lock);
    *lock = -1;
}

bool qsi_space_left(const char *path, uint64_t *bytes)
{
    struct statvfs info;
    char at[PATH_MAX], above[PATH_MAX];
    if (strlen(path) >= sizeof at)
        return false;
    strcpy(at, path);
    while (statvfs(at, &info) != 0) {   /* upwards to what exists */
        if (errno != ENOENT || strcmp(at, "/") == 0 || strcmp(at, ".") == 0 || !folder_of(at, above))
            return false;
        strcpy(at, above);
    }
    *bytes = (uint64_t)info.f_bavail * info.f_frsize;
    return info.f_blocks > 0;
}
