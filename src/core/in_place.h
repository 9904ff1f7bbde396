/* in_place.h - what changing files in place takes beyond files.c: random access, locks on folders, the space that is left. */
#ifndef QSI_IN_PLACE_H
#define QSI_IN_PLACE_H

#include "core/internal.h"

/* A regular file open for reading, or for reading and writing; its size is that at opening. NOINPUT, IO. */
typedef struct qsi_file {
    int fd;                  /* -1: closed */
    uint64_t bytes;
    const char *path;        /* borrowed, for messages */
} qsi_file;
qs_status qsi_file_open(const char *path, bool writable, qsi_file *out);
void qsi_file_close(qsi_file *file);         /* accepts a closed one */

/* Exactly n bytes at offset. IO; CORRUPT where the file ends before. */
qs_status qsi_file_read(const qsi_file *file, uint64_t offset, void *data, uint64_t n);
qs_status qsi_file_write(const qsi_file *file, uint64_t offset, const void *data, uint64_t n);   /* IO */
qs_status qsi_file_sync(const qsi_file *file);                                                  /* IO */

/* Removes a file and syncs its folder; fine if it does not exist. IO. */
qs_status qsi_remove_durable(const char *path);

/* Takes the exclusive lock of a folder that is trained in place: an flock on the folder itself, so that it holds no more files for it
 * and the lock ends with the process. *lock is a descriptor. CREATE: another process holds it; NOINPUT, IO. */
qs_status qsi_lock_take(const char *folder, int *lock);
void qsi_lock_release(int *lock);            /* stores -1; accepts -1 */

/* Bytes that a user may still write where path is or would be; false if the file system does not say. */
bool qsi_space_left(const char *path, uint64_t *bytes);

#endif
