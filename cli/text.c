/* text.c - see text.h. */
#include "text.h"

#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Characters that make a pattern, and those that a backslash must precede to stand for themselves in one. */
static const char PATTERN[] = "*?[";
static const char SPECIAL[] = "*?[\\";

static const double USUAL_SHARE = 0.1, MOST_SHARE = 0.5;

/* What --data or --also says, understood once. */
typedef struct source {
    const char *name;          /* of the command, for messages */
    const char *option;        /* "--data" */
    const char *value;
    bool standard_input;
    bool pattern;              /* no such file, and it holds characters of PATTERN */
    double share, test;        /* for validation and, behind it, for the final test */
} source;

static int fail_memory(const char *name)
{
    return fail_with(qs_status_exit_code(QS_ERR_NOMEM), name, "out of memory while the text is opened; use a smaller text");
}

/* ---- files that are left out ----------------------------------------------------------------------------------- */

enum { KINDS = 8, REASON = 64, PATH_SHOWN = 512, SUMMARY = KINDS * (REASON + 24) + PATH_SHOWN };

typedef struct left_out {
    int64_t total, count[KINDS];
    char reason[KINDS][REASON];  /* in the order of their first files; the last one stands for all that follow */
    char first[PATH_SHOWN];
    int kinds;
} left_out;

static void on_skipped(void *user, const char *path, const char *reason)
{
    left_out *l = user;
    int kind = 0;
    if (l->total++ == 0)
        (void)snprintf(l->first, sizeof l->first, "%s", path);
    while (kind < l->kinds && strncmp(l->reason[kind], reason, REASON - 1) != 0)
        kind++;
    if (kind == KINDS)
        kind--;
    if (kind == l->kinds) {
        l->kinds++;
        (void)snprintf(l->reason[kind], REASON, "%s", kind == KINDS - 1 ? "for another reason" : reason);
    }
    l->count[kind]++;
}

/* "2 hidden, 1 empty; first: PATH" */
static void summarize(const left_out *l, char out[SUMMARY])
{
    size_t used = 0;
    for (int i = 0; i < l->kinds; i++)
        used += (size_t)snprintf(out + used, SUMMARY - used, "%s%lld %s", i == 0 ? "" : ", ", (long long)l->count[i],
                                 l->reason[i]);
    (void)snprintf(out + used, SUMMARY - used, "; first: %s", l->first);
}

/* ---- the text -------------------------------------------------------------------------------------------------- */

static int open_paths(const source *s, qs_context *context, const char *const *paths, int64_t n, qs_text **out)
{
    left_out l = {.total = 0};
    char summary[SUMMARY];
    const qs_status status = qs_text_open(context, paths, n, s->share, on_skipped, &l, out);
    summarize(&l, summary);
    if (status != QS_OK)
        return fail_library(s->name, status, status == QS_ERR_FORMAT && l.total > 0 ? summary : NULL);
    if (l.total > 0)
        warn(s->name, "text: %lld file%s left out: %s", (long long)l.total, l.total == 1 ? "" : "s", summary);
    return 0;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int open_pattern(const source *s, qs_context *context, qs_text **out)
{
    glob_t found;
    const int result = glob(s->value, GLOB_NOSORT, NULL, &found);
    if (result == GLOB_NOSPACE)
        return fail_memory(s->name);
    if (result != 0)
        return fail_with(qs_status_exit_code(QS_ERR_NOINPUT), s->name,
                         "%s '%s' matches no file; check the pattern and the folder it starts from", s->option, s->value);
    qsort(found.gl_pathv, found.gl_pathc, sizeof *found.gl_pathv, by_bytes);
    const int code = open_paths(s, context, (const char *const *)found.gl_pathv, (int64_t)found.gl_pathc, out);
    globfree(&found);
    return code;
}

/* Standard input to its end. *bytes is to be freed in either case. */
static int read_standard_input(const source *s, uint64_t limit, unsigned char **bytes, uint64_t *n)
{
    uint64_t room = 0;
    char size[16];
    for (;;) {
        if (*n == room) {
            room = room == 0 ? 1 << 20 : 2 * room;
            unsigned char *longer = room > SIZE_MAX / 2 ? NULL : realloc(*bytes, room);
            if (longer == NULL)
                return fail_memory(s->name);
            *bytes = longer;
        }
        const ssize_t got = read(STDIN_FILENO, *bytes + *n, room - *n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail_with(EXIT_IO, s->name, "cannot read standard input (%s); check where it comes from",
                             strerror(errno));
        if (got == 0)
            return 0;
        *n += (uint64_t)got;
        if (*n > limit)
            return fail_with(EXIT_DATA, s->name,
                             "standard input holds more than %s, too much for memory; write it to a file and name that",
                             human_bytes((double)limit, size));
    }
}

static int open_standard_input(const source *s, qs_context *context, qs_text **out)
{
    qs_device_info device;
    unsigned char *bytes = NULL;
    uint64_t n = 0;
    qs_context_device(context, &device);
    int code = read_standard_input(s, device.memory_bytes / 3, &bytes, &n);  /* it is copied, and the model needs room too */
    if (code == 0 && n == 0)
        code = fail_with(EXIT_DATA, s->name, "standard input is empty; pipe a text into the command, or name a file");
    if (code == 0) {
        const qs_status status = qs_text_from_memory(context, bytes, (int64_t)n, s->share, out);
        code = status == QS_OK ? 0 : fail_library(s->name, status, NULL);
    }
    free(bytes);
    return code;
}

/* ---- the value ------------------------------------------------------------------------------------------------- */

/* The value behind the working folder, whose own special characters are escaped where the value is a pattern. */
static int make_absolute(const source *s, char **out)
{
    char *folder = s->value[0] == '/' || s->standard_input ? calloc(1, 1) : getcwd(NULL, 0);
    if (folder == NULL)
        return fail_with(EXIT_IO, s->name, "the working folder has no path (%s); name %s from the root on", strerror(errno),
                         s->option);
    char *path = malloc(2 * strlen(folder) + strlen(s->value) + 2), *to = path;
    if (path == NULL) {
        free(folder);
        return fail_memory(s->name);
    }
    for (const char *c = folder; *c != '\0'; c++) {
        if (s->pattern && strchr(SPECIAL, *c) != NULL)
            *to++ = '\\';
        *to++ = *c;
    }
    if (to != path && to[-1] != '/')
        *to++ = '/';
    (void)strcpy(to, s->value);
    free(folder);
    *out = path;
    return 0;
}

/* Of --data the parts must leave something to train on. */
static int check_shares(const source *s)
{
    if (s->share > MOST_SHARE)
        return fail_usage(s->name, "--val-fraction %g leaves too little to train on; give a number up to %g", s->share,
                          MOST_SHARE);
    if (s->share + s->test > MOST_SHARE)
        return fail_usage(s->name, "--val-fraction %g and --test-fraction %g together leave too little to train on; let them add up "
                          "to no more than %g", s->share, s->test, MOST_SHARE);
    return 0;
}

static int understand(const options *o, option_id id, source *s)
{
    const option_value *share = &o->value[OPT_VAL_FRACTION];
    const bool eval = o->command->bit == EVAL, data = id == OPT_DATA;
    struct stat info;
    *s = (source){.name = o->command->name, .option = data ? "--data" : "--also", .value = o->value[id].text};
    s->standard_input = strcmp(s->value, "-") == 0;
    s->pattern = strpbrk(s->value, PATTERN) != NULL && lstat(s->value, &info) != 0;
    s->test = data ? o->value[OPT_TEST_FRACTION].real : 0.0;
    s->share = share->given ? share->real : s->standard_input && s->test == 0.0 ? 1.0 : USUAL_SHARE;
    if (s->value[0] == '\0')
        return fail_usage(s->name, "%s is empty; name a text file, a folder of texts or a quoted pattern", s->option);
    if (s->standard_input && !eval)
        return fail_usage(s->name, "%s - is standard input, which only eval reads; write it to a file and name that", s->option);
    return eval || !data ? 0 : check_shares(s);
}

static int keep_test(const source *s, qs_text **text)
{
    const qs_status status = qs_text_keep_test(*text, s->test);
    if (status == QS_OK)
        return 0;
    qs_text_free(text);
    return fail_library(s->name, status, NULL);
}

int open_text(const options *o, option_id id, qs_context *context, qs_text **out, char **absolute)
{
    source s;
    char *path = NULL;
    int code = understand(o, id, &s);
    if (code == 0 && absolute != NULL)
        code = make_absolute(&s, &path);
    if (code == 0 && s.standard_input)
        code = open_standard_input(&s, context, out);
    else if (code == 0)
        code = s.pattern ? open_pattern(&s, context, out) : open_paths(&s, context, &s.value, 1, out);
    if (code == 0)
        code = keep_test(&s, out);
    if (code == 0 && absolute != NULL)
        *absolute = path;
    else
        free(path);
    return code;
}
