/* qsbits/status.h - status codes and the error text that goes with them.
 *
 * Every function that can fail returns a qs_status. On failure its out-parameters are untouched and
 * qs_last_error() holds one sentence that names what was wrong, with the values that disagreed.
 * The library never exits, aborts or prints. */
#ifndef QSBITS_STATUS_H
#define QSBITS_STATUS_H

#if defined(__GNUC__)
#define QS_API __attribute__((visibility("default")))
#define QS_CHECK __attribute__((warn_unused_result))
#else
#define QS_API
#define QS_CHECK
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* name, value (pinned), process exit code (sysexits.h where one fits), short text */
#define QS_STATUS_LIST(X) \
    X(OK,            0,   0, "ok") \
    X(ARG,          -1,  64, "invalid argument") \
    X(SHAPE,        -2,  65, "shape mismatch") \
    X(FORMAT,       -3,  65, "malformed or foreign data") \
    X(NOMEM,        -4,  71, "out of memory") \
    X(IO,           -5,  74, "input/output error") \
    X(NOINPUT,      -6,  66, "no such input") \
    X(CREATE,       -7,  73, "cannot create output") \
    X(CORRUPT,      -8,  65, "damaged data") \
    X(VERSION,      -9,  65, "unsupported version") \
    X(UNSUPPORTED, -10,  69, "not supported here") \
    X(DEVICE,      -11,  69, "device unavailable") \
    X(CANCELLED,   -12, 130, "cancelled") \
    X(NONFINITE,   -13,  65, "non-finite value") \
    X(INTERNAL,    -14,  70, "internal error")

typedef enum qs_status {
#define QS_STATUS_ENUM(name, value, exit_code, text) QS_ERR_##name = (value),
    QS_STATUS_LIST(QS_STATUS_ENUM)
#undef QS_STATUS_ENUM
    QS_OK = 0
} qs_status;

/* The short text of a status ("shape mismatch"); "unknown status" for other values. Static storage. */
QS_API const char *qs_status_text(qs_status status);

/* The exit code a command-line program returns for a status; 70 for unknown values. */
QS_API int qs_status_exit_code(qs_status status);

/* The detail text of the last failure in the calling thread, "" if there was none. Valid until the next
 * qsbits call of this thread. Failures inside worker threads are carried to the caller. */
QS_API const char *qs_last_error(void);

#ifdef __cplusplus
}
#endif
#endif
