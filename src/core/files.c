/* files.c - paths, mapped files, and files that appear whole or not at all.
 *
 * A writer fills NAME.tmp and renames it over NAME after fsync, then syncs the folder: after a crash NAME is the old file
 * or the new one. Devices and pipes (/dev/stdout, /dev/full) cannot be renamed over and are written directly. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/internal.h"

/* ---- paths ------------------------------------------------------------------------------------------------------- */

typedef struct reason_text { char text[128]; } reason_text;

/* The system's text of an error number, without the shared buffer of strerror. */
static const char *reason(int error, reason_text *buffer)
{
    return strerror_r(error, buffer->text, sizeof buffer->text);
}

/* Records "cannot VERB PATH: reason" for an error number, which errno keeps. */
static qs_status fail_path(qs_status status, const char *verb, const char *path, int error)
{
    reason_text buffer;
    qsi_fail_text("cannot %s %s: %s", verb, path, reason(error, &buffer));
    errno = error;
    return status;
}

bool qsi_path_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

bool qsi_is_directory(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool qsi_is_link(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0 && S_ISLNK(info.st_mode);
}

char *qsi_path_join(const char *folder, const char *name)
{
    size_t length = strlen(folder), bytes = length + strlen(name) + 2;
    const char *slash = length && folder[length - 1] != '/' ? "/" : "";
    char *path = qsi_alloc(NULL, QS_MEMORY_OTHER, (int64_t)bytes);
    if (path)
        snprintf(path, bytes, "%s%s%s", folder, slash, name);
    return path;
}

qs_status qsi_mkdir(const char *path)
{
    char part[PATH_MAX];
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof part)
        return fail_path(QS_ERR_CREATE, "create the folder", path, length ? ENAMETOOLONG : ENOENT);
    memcpy(part, path, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (part[i] != '/' && part[i] != '\0')
            continue;
        char kept = part[i];
        part[i] = '\0';
        if (mkdir(part, 0777) != 0) {
            int error = errno;   /* a parent that exists may answer EROFS or EACCES as well as EEXIST */
            if (!qsi_is_directory(part))
                return fail_path(QS_ERR_CREATE, "create the folder", part, error == EEXIST ? ENOTDIR : error);
        }
        part[i] = kept;
    }
    return QS_OK;
}

/* fsync, over again where a signal came between. */
static int sync_file(int fd)
{
    int result;
    do
        result = fsync(fd);
    while (result != 0 && errno == EINTR);
    return result;
}

/* Syncs the folder that holds path, so that a rename in it is durable. Some file systems cannot (EINVAL). */
static int sync_folder_of(const char *path)
{
    char folder[PATH_MAX];
    size_t length = strlen(path);
    if (length >= sizeof folder)
        return ENAMETOOLONG;
    memcpy(folder, path, length + 1);
    char *slash = strrchr(folder, '/');
    if (!slash)
        strcpy(folder, ".");
    else
        slash[slash == folder] = '\0';
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    int error = sync_file(fd) != 0 && errno != EINVAL ? errno : 0;
    close(fd);
    return error;
}

qs_status qsi_rename_durable(const char *from, const char *to)
{
    reason_text buffer;
    if (rename(from, to) != 0) {
        qsi_fail_text("cannot rename %s to %s: %s", from, to, reason(errno, &buffer));
        return QS_ERR_IO;
    }
    int error = sync_folder_of(to);
    return error ? fail_path(QS_ERR_IO, "sync the folder of", to, error) : QS_OK;
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    if (remove(path) == 0 || errno == ENOENT)
        return 0;
    fail_path(QS_ERR_IO, "remove", path, errno);
    return 1;
}

qs_status qsi_remove_tree(const char *path)
{
    int result = nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    if (result < 0 && errno != ENOENT)
        return fail_path(QS_ERR_IO, "remove", path, errno);
    return result > 0 ? QS_ERR_IO : QS_OK;
}

static int visible(const struct dirent *entry)
{
    return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

qs_status qsi_list_directory(const char *path, char ***names, int64_t *count)
{
    qs_status status = QS_OK;
    struct dirent **entries = NULL;
    char **list = NULL;
    int n = scandir(path, &entries, visible, by_bytes);
    if (n < 0)
        return fail_path(errno == ENOENT || errno == ENOTDIR ? QS_ERR_NOINPUT : errno == ENOMEM ? QS_ERR_NOMEM : QS_ERR_IO,
                         "list", path, errno);
    if (!(list = qsi_alloc_array(NULL, QS_MEMORY_OTHER, (int64_t)n, sizeof *list)))
        QS_TRY(QS_ERR_NOMEM);
    for (int i = 0; i < n; i++)
        if (!(list[i] = qsi_strdup(NULL, entries[i]->d_name)))
            QS_TRY(QS_ERR_NOMEM);
    *names = list;
    *count = n;
    list = NULL;
fail:
    for (int i = 0; i < n; i++)
        free(entries[i]);
    free(entries);
    qsi_free_names(list, n);
    return status;
}

void qsi_free_names(char **names, int64_t count)
{
    for (int64_t i = 0; names && i < count; i++)
        qsi_free(names[i]);
    qsi_free(names);
}

/* ---- mapped files ------------------------------------------------------------------------------------------------ */

qs_status qsi_map_file(const char *path, qsi_mapping *out)
{
    qs_status status = QS_OK;
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);   /* a pipe must not make the open wait */
    if (fd < 0)
        return fail_path(errno == ENOENT || errno == ENOTDIR ? QS_ERR_NOINPUT : QS_ERR_IO, "read", path, errno);
    if (fstat(fd, &info) != 0)
        QS_TRY(fail_path(QS_ERR_IO, "read", path, errno));
    if (!S_ISREG(info.st_mode))
        QS_FAIL(QS_ERR_NOINPUT, "cannot read %s: not a regular file", path);
    if (info.st_size == 0) {
        *out = (qsi_mapping){(const uint8_t *)"", 0};
    } else {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            QS_TRY(fail_path(QS_ERR_IO, "map", path, errno));
        *out = (qsi_mapping){data, (uint64_t)info.st_size};
    }
fail:
    close(fd);
    return status;
}

void qsi_unmap(qsi_mapping *mapping)
{
    if (mapping->bytes)
        munmap((void *)(uintptr_t)mapping->data, (size_t)mapping->bytes);
    *mapping = (qsi_mapping){NULL, 0};
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

enum { WRITER_BUFFER = 1 << 16 };

struct qsi_writer {
    int fd;
    bool direct;        /* a device or pipe: no .tmp, no rename */
    char *path, *tmp;   /* tmp is what is open; equal to path when direct */
    int64_t written;    /* bytes that the system has */
    int64_t filled;
    uint8_t buffer[WRITER_BUFFER];
};

static qs_status writer_fail(const qsi_writer *w, int error)
{
    return fail_path(QS_ERR_IO, "write", w->path, error);
}

static void writer_free(qsi_writer *w)
{
    if (w->fd >= 0)
        close(w->fd);
    if (w->fd >= 0 && !w->direct)
        unlink(w->tmp);
    qsi_free(w->path);
    qsi_free(w->tmp);
    qsi_free(w);
}

qs_status qsi_writer_open(const char *path, qsi_writer **out)
{
    qs_status status = QS_OK;
    struct stat info;
    size_t bytes = strlen(path) + 5;
    qsi_writer *w = qsi_alloc(NULL, QS_MEMORY_IO, sizeof *w);
    if (!w)
        QS_TRY(QS_ERR_NOMEM);
    w->fd = -1;
    if (!(w->path = qsi_strdup(NULL, path)) || !(w->tmp = qsi_alloc(NULL, QS_MEMORY_OTHER, (int64_t)bytes)))
        QS_TRY(QS_ERR_NOMEM);
    bool exists = stat(path, &info) == 0;
    if (exists && S_ISDIR(info.st_mode))
        QS_TRY(fail_path(QS_ERR_CREATE, "write", path, EISDIR));
    w->direct = exists && !S_ISREG(info.st_mode);
    snprintf(w->tmp, bytes, "%s%s", path, w->direct ? "" : ".tmp");
    w->fd = open(w->tmp, O_WRONLY | O_CLOEXEC | (w->direct ? 0 : O_CREAT | O_TRUNC), 0666);
    if (w->fd < 0)
        QS_TRY(fail_path(QS_ERR_CREATE, "write", path, errno));
    *out = w;
    return QS_OK;
fail:
    if (w)
        writer_free(w);
    return status;
}

static qs_status write_all(qsi_writer *w, const uint8_t *data, uint64_t bytes)
{
    while (bytes) {
        ssize_t done = write(w->fd, data, bytes < (1u << 30) ? (size_t)bytes : (size_t)1 << 30);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return writer_fail(w, done < 0 ? errno : ENOSPC);
        data += done;
        bytes -= (uint64_t)done;
        w->written += done;
    }
    return QS_OK;
}

/* A large piece, which the disk is to begin with at once: otherwise it rests until fsync while the next piece is made. */
static qs_status write_large(qsi_writer *w, const uint8_t *data, uint64_t bytes)
{
    const int64_t first = w->written;
    const qs_status status = write_all(w, data, bytes);
    if (!w->direct)
        (void)sync_file_range(w->fd, first, w->written - first, SYNC_FILE_RANGE_WRITE);
    return status;
}

static qs_status flush(qsi_writer *w)
{
    int64_t filled = w->filled;
    w->filled = 0;
    return write_all(w, w->buffer, (uint64_t)filled);
}

/* Small pieces are gathered; a large one goes out as it is. */
qs_status qsi_writer_write(qsi_writer *w, const void *data, uint64_t bytes)
{
    qs_status status = QS_OK;
    if (bytes > (uint64_t)(WRITER_BUFFER - w->filled))
        QS_TRY(flush(w));
    if (bytes >= WRITER_BUFFER)
        return write_large(w, data, bytes);
    if (bytes)
        memcpy(w->buffer + w->filled, data, (size_t)bytes);
    w->filled += (int64_t)bytes;
fail:
    return status;
}

/* Frees the writer whatever happens; after a failure the temporary file is gone and the old file untouched. */
qs_status qsi_writer_commit(qsi_writer **writer)
{
    qs_status status = QS_OK;
    qsi_writer *w = *writer;
    *writer = NULL;
    QS_TRY(flush(w));
    if (sync_file(w->fd) != 0 && !w->direct)
        QS_TRY(writer_fail(w, errno));
    int fd = w->fd;
    w->fd = -1;
    if (close(fd) != 0 && errno != EINTR) {   /* interrupted it is closed all the same */
        status = writer_fail(w, errno);
        if (!w->direct)
            unlink(w->tmp);
    } else if (!w->direct) {
        status = qsi_rename_durable(w->tmp, w->path);
        if (status != QS_OK)
            unlink(w->tmp);
    }
fail:
    writer_free(w);
    return status;
}

void qsi_writer_abort(qsi_writer **writer)
{
    if (!writer || !*writer)
        return;
    writer_free(*writer);
    *writer = NULL;
}
