/* events.h - TensorBoard event files: records of a length, its masked CRC-32C, a protocol buffer `Event` and the CRC of
 * that (tensorflow/core/lib/io/record_writer, tensorflow/core/util/event.proto). Only scalars are written. */
#ifndef QSBITS_CLI_EVENTS_H
#define QSBITS_CLI_EVENTS_H

#include "common.h"

typedef struct events {
    FILE *file;          /* NULL: switched off, every call does nothing and succeeds */
    uint8_t *event;      /* the message being built */
    size_t capacity;
} events;

/* Opens a new file events.out.tfevents.<seconds>.<host>.<pid> in folder, which TensorBoard reads after those that are there.
 * It begins with a session start that makes TensorBoard forget what older files hold from step + 1 on; step < 0: all of it.
 * 0, or 73/74 after a message. */
int events_open(events *e, const char *folder, int64_t step);

/* One record with the scalars names[i] = values[i] at a step; values that are not finite are left out. False, with errno,
 * when it could not be written. */
bool events_write(events *e, int64_t step, int count, const char *const *names, const double *values);

void events_close(events *e);

#endif
