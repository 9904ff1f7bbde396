/* base_copy.c - see base_copy.h. */
#include "base_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const FILES[] = {"model.safetensors", "state.safetensors", "manifest.json"};
enum { N_FILES = 3 };

static ssize_t copy_piece(int from, int to)
{
    static char piece[1 << 16];
    const ssize_t n = read(from, piece, sizeof piece);
    for (ssize_t done = 0; done < n;) {
        const ssize_t written = write(to, piece + done, (size_t)(n - done));
        if (written <= 0)
            return -1;
        done += written;
    }
    return n;
}

/* Shared blocks or a copy inside the kernel where both files lie on such a file system, else piece by piece. */
static int copy_bytes(int from, int to)
{
    struct stat info;
    bool shared = true;
    if (fstat(from, &info) != 0)
        return -1;
    for (off_t left = info.st_size; left > 0;) {
        const ssize_t n = shared ? copy_file_range(from, NULL, to, NULL, (size_t)left, 0) : copy_piece(from, to);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && shared && left == info.st_size && errno != ENOSPC && errno != EIO) {
            shared = false;
            continue;
        }
        if (n <= 0)
            return -1;
        left -= n;
    }
    return fsync(to);
}

static int copy_file(const char *from_folder, const char *to_folder, const char *name)
{
    char from[PATH_MAX], to[PATH_MAX];
    if (snprintf(from, sizeof from, "%s/%s", from_folder, name) >= PATH_MAX ||
        snprintf(to, sizeof to, "%s/%s", to_folder, name) >= PATH_MAX)
        return fail_usage("train", "the path %s/%s is too long; choose a shorter --out", to_folder, name);
    const int source = open(from, O_RDONLY | O_CLOEXEC), target = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    const bool good = source >= 0 && target >= 0 && copy_bytes(source, target) == 0;
    const int reason = errno;
    if (source >= 0)
        (void)close(source);
    if (target >= 0)
        (void)close(target);
    return good ? 0
                : fail_with(EXIT_IO, "train", "cannot copy %s to %s (%s); make room there, or train without --keep-base", from, to,
                            strerror(reason));
}

void base_copy_remove(const char *folder)
{
    char path[PATH_MAX];
    for (int i = 0; i < N_FILES; i++)
        if (snprintf(path, sizeof path, "%s/%s", folder, FILES[i]) < PATH_MAX)
            (void)unlink(path);
    (void)rmdir(folder);
}

int base_copy(const char *model, const char *run, char out[PATH_MAX])
{
    char root[PATH_MAX], unfinished[PATH_MAX];
    int code = 0;
    if (realpath(run, root) == NULL || snprintf(out, PATH_MAX, "%s/model", root) >= PATH_MAX ||
        snprintf(unfinished, sizeof unfinished, "%s/model.tmp", root) >= PATH_MAX)
        return fail_usage("train", "the path of %s is too long; choose a shorter --out", run);
    if (access(out, F_OK) == 0)
        return fail_with(EXIT_CREATE, "train", "%s exists already and may be another model; remove it or choose another --out", out);
    base_copy_remove(unfinished);
    if (mkdir(unfinished, 0777) != 0)
        return fail_with(EXIT_CREATE, "train", "cannot make %s (%s); choose another --out", unfinished, strerror(errno));
    for (int i = 0; i < N_FILES && code == 0; i++)
        code = copy_file(model, unfinished, FILES[i]);
    if (code == 0 && rename(unfinished, out) != 0)
        code = fail_with(EXIT_IO, "train", "cannot rename %s (%s); see to its permissions", unfinished, strerror(errno));
    if (code != 0)
        base_copy_remove(unfinished);
    return code;
}
