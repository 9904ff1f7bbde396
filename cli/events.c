/* events.c - see events.h. Numbers of fields and wire types are those of event.proto and summary.proto. */
#include "events.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* field << 3 | wire type (0 varint, 1 fixed64, 2 length-delimited, 5 fixed32) */
enum {
    EVENT_WALL_TIME = 1 << 3 | 1, EVENT_STEP = 2 << 3 | 0, EVENT_FILE_VERSION = 3 << 3 | 2, EVENT_SUMMARY = 5 << 3 | 2,
    EVENT_SESSION_LOG = 7 << 3 | 2, SUMMARY_VALUE = 1 << 3 | 2, VALUE_TAG = 1 << 3 | 2, VALUE_SIMPLE = 2 << 3 | 5,
    SESSION_LOG_STATUS = 1 << 3 | 0, STATUS_START = 1
};
enum { VARINT_MOST = 10, EVENT_MOST = 64, VALUE_MOST = 32, HOST_MOST = 64 };
static const char PREFIX[] = "events.out.tfevents.";

/* ---- bytes ----------------------------------------------------------------------------------------------------- */

static uint8_t *put_varint(uint8_t *to, uint64_t value)
{
    for (; value > 127; value >>= 7)
        *to++ = (uint8_t)(value | 128);
    *to++ = (uint8_t)value;
    return to;
}

static uint8_t *put_fixed(uint8_t *to, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        *to++ = (uint8_t)(value >> (8 * i));
    return to;
}

static uint8_t *put_bytes(uint8_t *to, int field, const void *bytes, size_t n)
{
    to = put_varint(put_varint(to, (uint64_t)field), n);
    memcpy(to, bytes, n);
    return to + n;
}

static size_t varint_bytes(uint64_t value)
{
    uint8_t scratch[VARINT_MOST];
    return (size_t)(put_varint(scratch, value) - scratch);
}

/* CRC-32C (Castagnoli, reflected polynomial 82F63B78) by half bytes, masked as the record format wants it: rotated and moved
 * by a constant, so that the checksum of data that holds checksums stays meaningful. */
static uint32_t masked_crc(const uint8_t *bytes, size_t n)
{
    static const uint32_t table[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
                                       0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
                                       0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        crc = table[(crc ^ bytes[i]) & 15] ^ crc >> 4;
        crc = table[(crc ^ (uint32_t)(bytes[i] >> 4)) & 15] ^ crc >> 4;
    }
    crc = ~crc;
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* ---- records --------------------------------------------------------------------------------------------------- */

/* Length, CRC of the length, event, CRC of the event; flushed. */
static bool write_record(FILE *file, const uint8_t *event, size_t n)
{
    uint8_t head[12], tail[4];
    (void)put_fixed(head, n, 8);
    (void)put_fixed(head + 8, masked_crc(head, 8), 4);
    (void)put_fixed(tail, masked_crc(event, n), 4);
    return fwrite(head, 1, sizeof head, file) == sizeof head && fwrite(event, 1, n, file) == n &&
           fwrite(tail, 1, sizeof tail, file) == sizeof tail && fflush(file) == 0;
}

static uint8_t *put_event_head(uint8_t *to, int64_t step)
{
    struct timespec now;
    uint64_t bits;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    const double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    memcpy(&bits, &seconds, sizeof bits);
    to = put_fixed(put_varint(to, EVENT_WALL_TIME), bits, 8);
    return put_varint(put_varint(to, EVENT_STEP), (uint64_t)step);
}

static bool write_head(FILE *file, int64_t next_step)
{
    static const char version[] = "brain.Event:2";
    static const uint8_t start[] = {SESSION_LOG_STATUS, STATUS_START};
    uint8_t event[EVENT_MOST];
    const uint8_t *end = put_bytes(put_event_head(event, 0), EVENT_FILE_VERSION, version, sizeof version - 1);
    if (!write_record(file, event, (size_t)(end - event)))
        return false;
    end = put_bytes(put_event_head(event, next_step), EVENT_SESSION_LOG, start, sizeof start);
    return write_record(file, event, (size_t)(end - event));
}

/* Bytes of one Summary.Value behind its own length. */
static size_t value_bytes(const char *name)
{
    const size_t n = strlen(name);
    return 1 + varint_bytes(n) + n + 1 + 4;
}

/* Also false for what no float holds. */
static bool is_plottable(double value) { return fabs(value) <= (double)FLT_MAX; }

static uint8_t *put_value(uint8_t *to, const char *name, double value)
{
    const float narrow = (float)value;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    to = put_varint(put_varint(to, SUMMARY_VALUE), value_bytes(name));
    to = put_bytes(to, VALUE_TAG, name, strlen(name));
    return put_fixed(put_varint(to, VALUE_SIMPLE), bits, 4);
}

static bool reserve(events *e, size_t bytes)
{
    if (bytes > e->capacity) {
        uint8_t *larger = realloc(e->event, 2 * bytes);
        if (larger == NULL)
            return false;
        e->event = larger;
        e->capacity = 2 * bytes;
    }
    return true;
}

bool events_write(events *e, int64_t step, int count, const char *const *names, const double *values)
{
    size_t summary = 0, most = EVENT_MOST;
    if (e->file == NULL)
        return true;
    for (int i = 0; i < count; i++) {
        most += strlen(names[i]) + VALUE_MOST;
        if (is_plottable(values[i]))
            summary += 1 + varint_bytes(value_bytes(names[i])) + value_bytes(names[i]);
    }
    if (summary == 0)
        return true;
    if (!reserve(e, most))
        return false;
    uint8_t *to = put_varint(put_varint(put_event_head(e->event, step), EVENT_SUMMARY), summary);
    for (int i = 0; i < count; i++)
        if (is_plottable(values[i]))
            to = put_value(to, names[i], values[i]);
    return write_record(e->file, e->event, (size_t)(to - e->event));
}

/* ---- the file -------------------------------------------------------------------------------------------------- */

/* TensorBoard reads the files of a folder in the order of their names: a second that is later than those of all that are
 * there, also where the clock went back or the last process began in this very second. */
static long long name_seconds(const char *folder)
{
    long long seconds = (long long)time(NULL);
    DIR *list = opendir(folder);
    if (list == NULL)
        return seconds;
    for (const struct dirent *entry; (entry = readdir(list)) != NULL;) {
        if (strncmp(entry->d_name, PREFIX, sizeof PREFIX - 1) != 0)
            continue;
        const long long other = strtoll(entry->d_name + sizeof PREFIX - 1, NULL, 10);
        if (other >= seconds && other < 9999999999)
            seconds = other + 1;
    }
    (void)closedir(list);
    return seconds;
}

int events_open(events *e, const char *folder, int64_t step)
{
    char path[PATH_MAX], host[HOST_MOST] = "localhost";
    memset(e, 0, sizeof *e);
    if (gethostname(host, sizeof host - 1) != 0 || host[0] == '\0' || strchr(host, '/') != NULL)
        (void)snprintf(host, sizeof host, "localhost");
    const int n = snprintf(path, sizeof path, "%s/%s%010lld.%s.%lld", folder, PREFIX, name_seconds(folder), host,
                           (long long)getpid());
    if (n < 0 || (size_t)n >= sizeof path)
        return fail_with(EXIT_CREATE, "train", "--out is too long for an event file; choose a shorter path or --no-events");
    const int descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    e->file = descriptor < 0 ? NULL : fdopen(descriptor, "w");
    if (e->file == NULL) {
        const int code = fail_with(EXIT_CREATE, "train", "cannot create %s (%s); choose another --out or use --no-events",
                                   path, strerror(errno));
        if (descriptor >= 0)
            (void)close(descriptor);
        return code;
    }
    if (!write_head(e->file, step + 1))
        return fail_with(EXIT_IO, "train", "cannot write %s (%s); free space on the disk or use --no-events", path,
                         strerror(errno));
    return 0;
}

void events_close(events *e)
{
    if (e->file != NULL)
        (void)fclose(e->file);
    free(e->event);
    memset(e, 0, sizeof *e);
}
