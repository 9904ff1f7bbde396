/* text_files.c - finds the files of a text and reads each once, in pieces, for its statistics and its hash. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "train/text.h"

enum { PIECE = 1 << 20, PROBE_BYTES = 65536, LEAST_GROWTH = 64 };

typedef struct walk {
    qs_text *text;
    qsi_text_intake *intake;
    qs_skip_fn *skip;
    void *user;
    uint8_t *piece;            /* [PIECE] */
} walk;

typedef struct reason_text { char text[128]; } reason_text;

static const char *reason_of(int error, reason_text *buffer) { return strerror_r(error, buffer->text, sizeof buffer->text); }

static void leave_out(walk *w, const char *path, const char *reason)
{
    w->text->info.skipped++;
    if (w->skip)
        w->skip(w->user, path, reason);
}

/* A file that cannot be read: an error where it was named itself, left out where a folder was. error 0: no file of text. */
static qs_status refuse(walk *w, const char *path, bool named, int error, const char *reason)
{
    if (!named) {
        leave_out(w, path, reason);
        return QS_OK;
    }
    qsi_fail_text("cannot read %s: %s", path, reason);
    return error == 0 || error == ENOENT || error == ENOTDIR ? QS_ERR_NOINPUT : QS_ERR_IO;
}

static qs_status refuse_error(walk *w, const char *path, bool named, int error)
{
    reason_text buffer;
    return refuse(w, path, named, error, reason_of(error, &buffer));
}

/* ---- segments -------------------------------------------------------------------------------------------------- */

/* The list, or a longer copy of it when it has no room for `need` entries of `size` bytes; without memory NULL, and the list
 * stays. */
static void *with_room(qs_context *context, void *list, int64_t used, int64_t need, int64_t size, int64_t *capacity)
{
    if (need <= *capacity)
        return list;
    const int64_t entries = qsi_max(need, qsi_max(2 * *capacity, LEAST_GROWTH));
    void *longer = qsi_alloc_array(context, QS_MEMORY_DATA, entries, size);
    if (!longer)
        return NULL;
    if (used)
        memcpy(longer, list, (size_t)(used * size));
    qsi_free(list);
    *capacity = entries;
    return longer;
}

static qs_status append_segment(qs_text *t, const char *path, const struct stat *info)
{
    qs_status status = QS_OK;
    const int64_t length = (int64_t)strlen(path) + 1;
    int64_t tokens = 0;
    if (!qsi_add(t->info.tokens, (int64_t)info->st_size, &tokens))
        QS_FAIL(QS_ERR_NOMEM, "the text is too large: %s is one file too many", path);
    qsi_segment *segments = with_room(t->context, t->segments, t->n_segments, t->n_segments + 1, sizeof *segments,
                                      &t->segment_capacity);
    if (!segments)
        return QS_ERR_NOMEM;
    t->segments = segments;
    char *names = with_room(t->context, t->names, t->names_used, t->names_used + length, 1, &t->names_capacity);
    if (!names)
        return QS_ERR_NOMEM;
    t->names = names;
    memcpy(names + t->names_used, path, (size_t)length);
    segments[t->n_segments++] = (qsi_segment){.first = t->info.tokens, .bytes = (int64_t)info->st_size,
                                              .path = t->names_used, .inode = (uint64_t)info->st_ino,
                                              .changed = info->st_mtim};
    t->names_used += length;
    t->info.tokens = tokens;
fail:
    return status;
}

/* ---- one file -------------------------------------------------------------------------------------------------- */

/* Fills the piece with n bytes. 0, or the error number; ENODATA when the file ends before. */
static int read_piece(walk *w, int fd, int64_t n)
{
    for (int64_t done = 0; done < n;) {
        const ssize_t got = read(fd, w->piece + done, (size_t)(n - done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? errno : ENODATA;
        done += got;
    }
    return 0;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* All `before` says there is, the first n bytes of which are in the piece already. */
static qs_status take_bytes(walk *w, const char *path, int fd, const struct stat *before, int64_t n)
{
    qs_status status = QS_OK;
    const int64_t bytes = (int64_t)before->st_size;
    struct stat after;
    int error = 0;
    qsi_intake_take(w->intake, w->piece, n);
    for (int64_t done = n; done < bytes && !error; done += n) {
        n = qsi_min(bytes - done, PIECE);
        error = read_piece(w, fd, n);
        if (!error)
            qsi_intake_take(w->intake, w->piece, n);
    }
    if (error && error != ENODATA)
        QS_TRY(refuse_error(w, path, true, error));
    if (error || fstat(fd, &after) != 0 || !same_file(before, &after))
        QS_FAIL(QS_ERR_IO, "%s was changed while it was read; leave the files of a text alone", path);
    QS_TRY(append_segment(w->text, path, before));
    w->text->info.files++;
fail:
    return status;
}

static qs_status take_open_file(walk *w, const char *path, bool named, int fd)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return refuse_error(w, path, named, errno);
    if (!S_ISREG(info.st_mode))
        return refuse(w, path, named, 0, "not a regular file");
    if (info.st_size == 0 && !named) {
        leave_out(w, path, "empty");
        return QS_OK;
    }
    if (info.st_size == 0) {
        w->text->info.files++;
        return QS_OK;
    }
    const int64_t n = qsi_min((int64_t)info.st_size, PIECE);
    const int error = read_piece(w, fd, n);
    if (error)
        return error == ENODATA ? refuse(w, path, named, error, "shorter than its size")
                                : refuse_error(w, path, named, error);
    if (!named && memchr(w->piece, 0, (size_t)qsi_min(n, PROBE_BYTES))) {
        leave_out(w, path, "has a NUL byte in its first 64 KiB");
        return QS_OK;
    }
    return take_bytes(w, path, fd, &info, n);
}

/* Devices and pipes are not even opened: that alone may wait or do something. */
static qs_status take_file(walk *w, const char *path, bool named)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return refuse_error(w, path, named, errno);
    if (!S_ISREG(info.st_mode))
        return refuse(w, path, named, 0, "not a regular file");
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return refuse_error(w, path, named, errno);
    const qs_status status = take_open_file(w, path, named, fd);
    close(fd);
    return status;
}

/* ---- folders --------------------------------------------------------------------------------------------------- */

static qs_status take_folder(walk *w, const char *path, bool named);

static qs_status take_entry(walk *w, const char *path, const char *name)
{
    if (name[0] == '.') {
        leave_out(w, path, "hidden");
        return QS_OK;
    }
    if (!qsi_is_directory(path))
        return take_file(w, path, false);
    if (qsi_is_link(path)) {   /* could lead back here, or to text that is read anyway */
        leave_out(w, path, "a link to a folder");
        return QS_OK;
    }
    return take_folder(w, path, false);
}

static qs_status take_folder(walk *w, const char *path, bool named)
{
    char **names = NULL;
    int64_t count = 0;
    qs_status status = qsi_list_directory(path, &names, &count);
    if (status != QS_OK && status != QS_ERR_NOMEM)
        return refuse_error(w, path, named, errno);
    for (int64_t i = 0; i < count && status == QS_OK; i++) {
        char *child = qsi_path_join(path, names[i]);
        status = child ? take_entry(w, child, names[i]) : QS_ERR_NOMEM;
        qsi_free(child);
    }
    qsi_free_names(names, count);
    return status;
}

qs_status qsi_text_take_paths(qs_text *text, const char *const *paths, int64_t n_paths, qsi_text_intake *intake,
                              qs_skip_fn *skip, void *user)
{
    qs_status status = QS_OK;
    walk w = {.text = text, .intake = intake, .skip = skip, .user = user};
    if (!(w.piece = qsi_alloc(text->context, QS_MEMORY_IO, PIECE)))
        return QS_ERR_NOMEM;
    for (int64_t i = 0; i < n_paths; i++)
        QS_TRY(qsi_is_directory(paths[i]) ? take_folder(&w, paths[i], true) : take_file(&w, paths[i], true));
fail:
    qsi_free(w.piece);
    return status;
}
