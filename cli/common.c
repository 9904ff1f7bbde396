/* common.c - messages, exit codes, the context, JSON output, numbers for people. */
#include "common.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

/* One line, whatever bytes an argument of the user holds. */
static void print_line(const char *name, const char *kind, const char *format, va_list arguments)
{
    char text[2048];
    (void)vsnprintf(text, sizeof text, format, arguments);
    for (char *c = text; *c != '\0'; c++)
        if ((unsigned char)*c < 32 || *c == 127)
            *c = '?';
    fprintf(stderr, "qsbits%s%s: %s%s\n", name == NULL ? "" : " ", name == NULL ? "" : name, kind, text);
}

int fail_with(int code, const char *name, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_line(name, "", format, arguments);
    va_end(arguments);
    return code;
}

int fail_usage(const char *name, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_line(name, "", format, arguments);
    va_end(arguments);
    return EXIT_USAGE;
}

void warn(const char *name, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_line(name, "warning: ", format, arguments);
    va_end(arguments);
}

static const char *hint(qs_status status)
{
    switch (status) {
    case QS_ERR_ARG: return "change the option, --help shows the ranges";
    case QS_ERR_SHAPE: return "use a longer text, a smaller --ctx or another --val-fraction";
    case QS_ERR_FORMAT: return "give what qsbits train wrote, or a text";
    case QS_ERR_NOMEM: return "use a smaller model, --micro-batch or --recompute";
    case QS_ERR_IO: return "check the disk, its free space and the permissions";
    case QS_ERR_NOINPUT: return "check the path";
    case QS_ERR_CREATE: return "choose a folder that can be written";
    case QS_ERR_CORRUPT: return "use an older checkpoint of the run or train again";
    case QS_ERR_VERSION: return "use the version of qsbits that wrote it";
    case QS_ERR_UNSUPPORTED: return "see qsbits info";
    case QS_ERR_DEVICE: return "see qsbits info, or leave --device away";
    case QS_ERR_NONFINITE: return "lower --lr or --scale-lr";
    case QS_ERR_CANCELLED: return "run it again";
    case QS_ERR_INTERNAL: return "report this with the command line";
    case QS_OK: break;
    }
    return "see --help";
}

int fail_library(const char *name, qs_status status, const char *todo)
{
    const char *detail = qs_last_error();
    if (todo == NULL && strstr(detail, "; ") != NULL)
        return fail_with(qs_status_exit_code(status), name, "%s", detail);
    return fail_with(qs_status_exit_code(status), name, "%s; %s", detail[0] == '\0' ? qs_status_text(status) : detail,
                     todo == NULL ? hint(status) : todo);
}

static void log_line(void *user, qs_log_level level, const char *text)
{
    if (level >= QS_LOG_WARNING)
        warn((const char *)user, "%s", text);
}

int open_context(const options *o, qs_context **out)
{
    qs_options settings;
    qs_options_default(&settings);
    settings.threads = (int)o->value[OPT_THREADS].integer;
    settings.cpu = o->value[OPT_CPU].text;
    settings.device = o->value[OPT_DEVICE].text;
    settings.ram_budget = (uint64_t)o->value[OPT_RAM_BUDGET].integer;
    settings.device_budget = (uint64_t)o->value[OPT_DEVICE_BUDGET].integer;
    settings.log = log_line;
    settings.log_user = (void *)(uintptr_t)o->command->name;
    const qs_status status = qs_open(out, &settings);
    return status == QS_OK ? 0 : fail_library(o->command->name, status, "see qsbits info for what this machine has");
}

int flush_output(const char *name)
{
    if (fflush(stdout) != 0 || ferror(stdout) != 0)
        return fail_with(EXIT_IO, name, "cannot write to standard output (%s); check where it goes", strerror(errno));
    return 0;
}

int print_json(const char *name, json_t *value)
{
    int code = 0;
    if (value == NULL || json_dumpf(value, stdout, JSON_COMPACT | JSON_REAL_PRECISION(17)) != 0)
        code = fail_with(EXIT_IO, name, "cannot write the JSON result; check where standard output goes");
    else
        (void)fputc('\n', stdout);
    json_decref(value);
    return code != 0 ? code : flush_output(name);
}

json_t *json_number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static char *human(double value, const char *const units[5], double base, char *out)
{
    int unit = 0;
    while (unit < 4 && fabs(value) >= base * 0.9995) {
        value /= base;
        unit++;
    }
    const int digits = unit == 0 ? 0 : fabs(value) < 9.995 ? 2 : fabs(value) < 99.95 ? 1 : 0;
    (void)snprintf(out, 16, "%.*f%s", digits, value, units[unit]);
    return out;
}

char *human_bytes(double bytes, char *out)
{
    static const char *const units[5] = {" B", " kB", " MB", " GB", " TB"};
    return human(bytes, units, 1000.0, out);
}

char *human_count(double count, char *out)
{
    static const char *const units[5] = {"", "k", "M", "G", "T"};
    return human(count, units, 1000.0, out);
}

char *human_time(double seconds, char *out)
{
    const long long s = seconds > 0.0 && seconds < 1e15 ? (long long)(seconds + 0.5) : 0, day = 86400;
    if (s >= day)
        (void)snprintf(out, 24, "%lld d %02lld:%02lld", s / day, s % day / 3600, s / 60 % 60);
    else if (s >= 3600)
        (void)snprintf(out, 24, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        (void)snprintf(out, 24, "%02lld:%02lld", s / 60, s % 60);
    return out;
}

double now_seconds(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
