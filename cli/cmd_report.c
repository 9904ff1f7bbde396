/* cmd_report.c - qsbits report: one HTML page about training runs. The page is that of cli/report/, which the build embeds as
 * report_page; the data of the runs go where it says PLACEHOLDER. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "commands.h"
#include "common.h"
#include "report.h"
#include "report_data.h"

static const char NAME[] = "report";
static const char PLACEHOLDER[] = "{{data}}";

/* Made by cmake/embed.cmake; ends with a zero byte. */
extern const unsigned char report_page[];

/* JSON text inside a script element: no character that could end the element or begin another. */
static bool write_data(FILE *file, const char *text, size_t *bytes)
{
    for (; *text != '\0'; text++) {
        const bool markup = *text == '<' || *text == '>' || *text == '&';
        if (markup ? fprintf(file, "\\u%04x", (unsigned)*text) < 0 : fputc(*text, file) == EOF)
            return false;
        *bytes += markup ? 6 : 1;
    }
    return true;
}

static bool write_page(FILE *file, const char *data, size_t *bytes)
{
    const char *page = (const char *)report_page, *place = strstr(page, PLACEHOLDER);
    const size_t head = (size_t)(place - page);
    const char *tail = place + sizeof PLACEHOLDER - 1;
    *bytes = head + strlen(tail);
    return fwrite(page, 1, head, file) == head && write_data(file, data, bytes) && fputs(tail, file) >= 0;
}

/* By way of a temporary file beside it, so that an old page stays until the new one is whole. A link is followed; devices and pipes
 * are written as they are. */
static int write_file(const char *name, const char *path, const char *data, size_t *bytes)
{
    char target[PATH_MAX], temporary[PATH_MAX];
    struct stat info;
    const bool direct = stat(path, &info) == 0 && !S_ISREG(info.st_mode);
    if (path[0] == '\0' || strlen(path) >= PATH_MAX - 32)
        return fail_usage(name, "--out '%.64s' is empty or too long; choose another name", path);
    if (direct || realpath(path, target) == NULL)
        (void)snprintf(target, sizeof target, "%s", path);
    if (direct)
        (void)snprintf(temporary, sizeof temporary, "%s", path);
    else if (snprintf(temporary, sizeof temporary, "%s.%ld.tmp", target, (long)getpid()) >= PATH_MAX)
        return fail_usage(name, "--out '%.64s' is too long; choose another name", path);
    FILE *file = fopen(temporary, direct ? "w" : "wx");
    if (file == NULL)
        return fail_with(EXIT_CREATE, name, "cannot create %s (%s); choose another --out", temporary, strerror(errno));
    const bool written = write_page(file, data, bytes) && fflush(file) == 0 && (direct || fsync(fileno(file)) == 0);
    const int reason = errno;
    int code = 0;
    if (fclose(file) != 0 || !written)
        code = fail_with(EXIT_IO, name, "cannot write %s (%s); check the disk and its free space", path, strerror(reason));
    else if (!direct && rename(temporary, target) != 0)
        code = fail_with(EXIT_CREATE, name, "cannot create %s (%s); choose another --out", path, strerror(errno));
    if (code != 0 && !direct)
        (void)unlink(temporary);
    return code;
}

int report_write(const char *name, int count, const char *const *folders, const char *tensor, const char *path)
{
    json_t *data = NULL;
    size_t bytes = 0;
    char size[16];
    int code = report_collect(name, count, folders, tensor, &data);
    if (code != 0)
        return code;
    const size_t runs = json_array_size(json_object_get(data, "runs"));
    char *text = json_dumps(data, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(15));
    json_decref(data);
    if (text == NULL)
        return fail_with(71, name, "no memory for the page; close other programs");
    const bool standard = strcmp(path, "-") == 0;
    if (!standard)
        code = write_file(name, path, text, &bytes);
    else if (!write_page(stdout, text, &bytes) || flush_output(name) != 0)
        code = EXIT_IO;
    free(text);
    if (code == 0)
        fprintf(stderr, "%s: %zu run%s, %s\n", standard ? "standard output" : path, runs, runs == 1 ? "" : "s",
                human_bytes((double)bytes, size));
    return code;
}

/* ---- the command ----------------------------------------------------------------------------------------------- */

static int run(const options *o)
{
    if (o->operand_count == 0)
        return fail_usage(NAME, "nothing to report on; name run folders or a comparison folder");
    return report_write(NAME, o->operand_count, o->operands, o->value[OPT_BITMAP].text, o->value[OPT_OUT_PAGE].text);
}

static const int CODES[] = {64, 65, 66, 71, 73, 74, 0};

const command report_command = {
    .name = "report",
    .bit = REPORT,
    .operand = "RUN...",
    .required = "",
    .summary = "one HTML page about runs: curves, health, settings, bit maps",
    .about =
        "Writes one page that needs nothing but itself, so it can be mailed, archived and printed: loss curves, density and\n"
        "flip rate, health of every layer, settings and results side by side, memory, warnings, and the signs of one matrix\n"
        "before and after training. A RUN is a folder of qsbits train, also of a run that still goes on, or a folder of\n"
        "qsbits compare, whose table then stands on top. The same folders give the same bytes.",
    .examples = {"qsbits report run1 run2 --out runs.html",
                 "qsbits report run1 --tensor model.layers.0.mlp.up_proj.weight"},
    .exit_codes = CODES,
    .run = run,
};
