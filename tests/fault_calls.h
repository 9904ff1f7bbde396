/* fault_calls.h - calls of the system that fail, or end the process, when a test says so.
 *
 * The program is linked with --wrap for each of them (tests/CMakeLists.txt), so what is tested is the library as it is. The
 * memory of jansson comes through its own hook. Nothing here is for more than one thread. */
#ifndef FAULT_CALLS_H
#define FAULT_CALLS_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <jansson.h>
#include <xxhash.h>

/* Kinds of calls, one bit each. */
enum { CALLS_FILL = 1, CALLS_CHANGE = 2, CALLS_READ = 4, CALLS_MEMORY = 8 };

typedef enum fault_kind {
    FAULT_ERROR,         /* returns its failure with `error` */
    FAULT_SHORT,         /* write: half the bytes; other calls are as always */
    FAULT_DIE_BEFORE,    /* the process ends instead of the call */
    FAULT_DIE_AFTER      /* the process ends after the call, a write halfway */
} fault_kind;

enum { FAULT_DIED = 99 };

static struct fault {
    int calls;               /* which kinds count; 0: none, everything works */
    fault_kind kind;
    int error;
    bool lasting;            /* every call from number `at` on, not that one alone */
    int64_t at, seen;
} fault;

static inline void fault_arm(int calls, fault_kind kind, int error, int64_t at, bool lasting)
{
    fault = (struct fault){calls, kind, error, lasting, at, 0};
}

/* Everything works again; true if the fault came to pass. */
static inline bool fault_disarm(void)
{
    fault.calls = 0;
    return fault.seen >= fault.at;
}

static bool strikes(int calls)
{
    if (!(fault.calls & calls))
        return false;
    fault.seen++;
    if (fault.seen != fault.at && !(fault.lasting && fault.seen > fault.at))
        return false;
    if (fault.kind == FAULT_DIE_BEFORE)
        _exit(FAULT_DIED);
    errno = fault.error;
    return true;
}

/* result name(parameters) gives `failed` when struck, the real result otherwise. */
#define FAULTY(calls, result, failed, name, parameters, arguments) \
    result __real_##name parameters; \
    result __wrap_##name parameters; \
    result __wrap_##name parameters \
    { \
        const bool struck = strikes(calls); \
        if (struck && fault.kind == FAULT_ERROR) \
            return failed; \
        result done = __real_##name arguments; \
        if (struck && fault.kind == FAULT_DIE_AFTER) \
            _exit(FAULT_DIED); \
        return done; \
    }

typedef int select_fn(const struct dirent *);
typedef int compare_fn(const struct dirent **, const struct dirent **);

/* A full disk fails calls that fill it; a broken one fails all. */
FAULTY(CALLS_FILL, int, -1, mkdir, (const char *path, mode_t mode), (path, mode))
FAULTY(CALLS_FILL, int, -1, rename, (const char *from, const char *to), (from, to))
FAULTY(CALLS_CHANGE, int, -1, remove, (const char *path), (path))
FAULTY(CALLS_CHANGE, int, -1, unlink, (const char *path), (path))
FAULTY(CALLS_CHANGE, int, -1, nftw, (const char *path, __nftw_func_t visit, int depth, int flags),
       (path, visit, depth, flags))
FAULTY(CALLS_READ, int, -1, scandir, (const char *path, struct dirent ***list, select_fn *chosen, compare_fn *order),
       (path, list, chosen, order))
FAULTY(CALLS_READ, int, -1, fstat, (int fd, struct stat *info), (fd, info))
FAULTY(CALLS_READ, ssize_t, -1, read, (int fd, void *data, size_t bytes), (fd, data, bytes))
FAULTY(CALLS_READ, ssize_t, -1, pread, (int fd, void *data, size_t bytes, off_t at), (fd, data, bytes, at))
FAULTY(CALLS_READ, void *, MAP_FAILED, mmap, (void *at, size_t bytes, int access, int flags, int fd, off_t offset),
       (at, bytes, access, flags, fd, offset))
FAULTY(CALLS_MEMORY, void *, NULL, calloc, (size_t count, size_t bytes), (count, bytes))
FAULTY(CALLS_MEMORY, void *, NULL, aligned_alloc, (size_t alignment, size_t bytes), (alignment, bytes))
FAULTY(CALLS_MEMORY, XXH3_state_t *, NULL, XXH3_createState, (void), ())

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list more;
        va_start(more, flags);
        mode = va_arg(more, mode_t);
        va_end(more);
    }
    const bool struck = strikes(flags & O_CREAT ? CALLS_FILL : CALLS_READ);
    if (struck && fault.kind == FAULT_ERROR)
        return -1;
    const int fd = __real_open(path, flags, mode);
    if (struck && fault.kind == FAULT_DIE_AFTER)
        _exit(FAULT_DIED);
    return fd;
}

/* The descriptor is gone also where close fails, as on Linux. */
int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
    const bool struck = strikes(CALLS_FILL);
    const int done = __real_close(fd);
    if (struck && fault.kind == FAULT_DIE_AFTER)
        _exit(FAULT_DIED);
    if (struck && fault.kind == FAULT_ERROR)
        errno = fault.error;
    return struck && fault.kind == FAULT_ERROR ? -1 : done;
}

ssize_t __real_write(int fd, const void *data, size_t bytes);
ssize_t __wrap_write(int fd, const void *data, size_t bytes);
ssize_t __wrap_write(int fd, const void *data, size_t bytes)
{
    const bool struck = strikes(CALLS_FILL);
    if (struck && fault.kind == FAULT_ERROR)
        return -1;
    const ssize_t done = __real_write(fd, data, struck ? (bytes + 1) / 2 : bytes);
    if (struck && fault.kind == FAULT_DIE_AFTER)
        _exit(FAULT_DIED);
    return done;
}

ssize_t __real_pwrite(int fd, const void *data, size_t bytes, off_t at);
ssize_t __wrap_pwrite(int fd, const void *data, size_t bytes, off_t at);
ssize_t __wrap_pwrite(int fd, const void *data, size_t bytes, off_t at)
{
    const bool struck = strikes(CALLS_FILL);
    if (struck && fault.kind == FAULT_ERROR)
        return -1;
    const ssize_t done = __real_pwrite(fd, data, struck ? (bytes + 1) / 2 : bytes, at);
    if (struck && fault.kind == FAULT_DIE_AFTER)
        _exit(FAULT_DIED);
    return done;
}

/* Only the status matters: these tests cut no power, and thousands of true syncs would take minutes. */
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
    (void)fd;
    const bool struck = strikes(CALLS_FILL);
    if (struck && fault.kind == FAULT_DIE_AFTER)
        _exit(FAULT_DIED);
    return struck && fault.kind == FAULT_ERROR ? -1 : 0;
}

/* ---- the memory of jansson ---------------------------------------------------------------------------------------- */

static int64_t json_blocks;   /* that are in use */

/* The text of a token grows in powers of two from 32. Where that fails jansson 2.14 goes on without the character; without a
 * closing quote it reads past the token and may abort. That cannot be mended here, so such a growth never fails. */
static bool is_token_text(size_t bytes)
{
    return JANSSON_VERSION_HEX <= 0x020e00 && bytes >= 32 && (bytes & (bytes - 1)) == 0;
}

static void *json_take(size_t bytes)
{
    const bool struck = !is_token_text(bytes) && strikes(CALLS_MEMORY);
    void *block = struck ? NULL : malloc(bytes);
    json_blocks += block != NULL;
    return block;
}

static void json_give(void *block)
{
    json_blocks -= block != NULL;
    free(block);
}

#endif
