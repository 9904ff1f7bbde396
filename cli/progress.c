/* progress.c - see progress.h. The line is made of parts; a window that is too narrow loses the least important ones first.
 * Nothing here reaches the training. */
#include "progress.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* A log of plain lines starts soon, is dense while somebody is still there, and stays readable after days. */
static const double REDRAW_SECONDS = 0.1, PLAIN_SECONDS = 5.0, LATE_PLAIN_SECONDS = 60.0, LATE = 600.0;
static const double LOSS_DECAY = 0.95, TIME_DECAY = 0.9;
static const char CALM[] = "\033[36m", WARNING[] = "\033[33m";
enum { BAR_WIDTH = 20, DEFAULT_WIDTH = 80, PART_BYTES = 64, MOST_PARTS = 12 };

static bool is_terminal(void)
{
    const char *term = getenv("TERM");
    return isatty(STDERR_FILENO) && term != NULL && term[0] != '\0' && strcmp(term, "dumb") != 0;
}

static bool is_coloured(void)
{
    const char *no_color = getenv("NO_COLOR");
    return no_color == NULL || no_color[0] == '\0';
}

void progress_start(progress *p, const char *label, int64_t step, int64_t steps, int64_t tokens_per_step, bool flips,
                    double time_limit)
{
    memset(p, 0, sizeof *p);
    p->label = label;
    p->terminal = is_terminal();
    p->color = p->terminal && is_coloured();
    p->first_step = step;
    p->step = step;
    p->steps = steps;
    p->told_step = -1;
    p->tokens_per_step = (double)tokens_per_step;
    p->flips = flips;
    p->time_limit = time_limit;
    p->started = now_seconds();
    p->val_loss = NAN;
    p->warnings = -1;
    p->dead = NAN;
}

/* By the pace of the whole process, in which validations and checkpoints have their part. */
static double seconds_left(const progress *p)
{
    const double now = now_seconds();
    const double pace = (now - p->first_began) / (double)(p->step - p->first_step);
    const double left = (double)(p->steps - p->step) * pace, limit = p->started + p->time_limit - now;
    return p->time_limit > 0.0 && limit < left ? limit : left;
}

/* ---- parts ----------------------------------------------------------------------------------------------------- */

/* In the order of the line. rank: the greater, the earlier a part is dropped. */
typedef struct parts {
    int count;
    struct { int rank; char text[PART_BYTES]; } part[MOST_PARTS];
} parts;

static void add(parts *line, int rank, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void add(parts *line, int rank, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    line->part[line->count].rank = rank;
    (void)vsnprintf(line->part[line->count].text, PART_BYTES, format, arguments);
    va_end(arguments);
    line->count++;
}

static void add_bar(parts *line, int rank, double share)
{
    char bar[BAR_WIDTH + 1] = "";
    memset(bar, '-', BAR_WIDTH);
    memset(bar, '#', (size_t)(share * BAR_WIDTH));
    add(line, rank, "[%s]", bar);
}

static void collect(const progress *p, parts *line)
{
    char text[32];
    const double share = (double)p->step / (double)p->steps;
    line->count = 0;
    if (p->label[0] != '\0')
        add(line, 3, "%s", p->label);
    add(line, 0, "%3.0f%%", floor(100.0 * share));
    if (p->terminal)
        add_bar(line, 11, share);
    add(line, 4, "%lld/%lld", (long long)p->step, (long long)p->steps);
    add(line, 1, "loss %.4f", p->loss / p->weight);
    if (isfinite(p->val_loss))
        add(line, 6, "val %.4f", p->val_loss);
    add(line, 7, "%s tok/s", human_count(p->tokens_per_step / p->step_seconds, text));
    if (p->flips)
        add(line, 8, "flips %.3f%%", 100.0 * p->last_flips);
    if (p->warnings == 0)
        add(line, 5, "health ok");
    else if (p->warnings > 0)
        add(line, 5, "health %d warning%s", p->warnings, p->warnings == 1 ? "" : "s");
    if (isfinite(p->dead))
        add(line, 10, "dead %.1f%%", 100.0 * p->dead);
    add(line, 9, "mem %s", human_bytes((double)qs_peak_rss(), text));
    add(line, 2, "left %s", human_time(seconds_left(p), text));
}

/* ---- width ----------------------------------------------------------------------------------------------------- */

static int window_width(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : DEFAULT_WIDTH;
}

/* Columns of a UTF-8 character that starts with this byte, at most: the long ones may be wide, bytes inside have none. */
static int columns_of(unsigned char byte) { return byte < 0x80 ? 1 : byte < 0xC0 ? 0 : byte < 0xE0 ? 1 : 2; }

static int columns(const char *text)
{
    int sum = 0;
    for (; *text != '\0'; text++)
        sum += columns_of((unsigned char)*text);
    return sum;
}

static void drop_least(parts *line)
{
    int least = 0;
    for (int i = 1; i < line->count; i++)
        if (line->part[i].rank > line->part[least].rank)
            least = i;
    line->count--;
    memmove(&line->part[least], &line->part[least + 1], (size_t)(line->count - least) * sizeof line->part[0]);
}

static int parts_columns(const parts *line)
{
    int sum = 2 * (line->count - 1);
    for (int i = 0; i < line->count; i++)
        sum += columns(line->part[i].text);
    return sum;
}

/* Bytes of a text that fit, whole characters only. */
static int fitting_bytes(const char *text, int width)
{
    int bytes = 0, sum = 0;
    for (; text[bytes] != '\0'; bytes++) {
        sum += columns_of((unsigned char)text[bytes]);
        if (sum > width)
            break;
    }
    return bytes;
}

/* The parts that fit, two blanks between them; control characters (of a label) become '?'. */
static void compose(parts *line, int width, char *out, size_t out_bytes)
{
    size_t n = 0;
    while (line->count > 1 && parts_columns(line) > width)
        drop_least(line);
    out[0] = '\0';
    for (int i = 0; i < line->count && n + 1 < out_bytes; i++)
        n += (size_t)snprintf(out + n, out_bytes - n, "%s%s", i == 0 ? "" : "  ", line->part[i].text);
    out[fitting_bytes(out, width)] = '\0';
    for (char *c = out; *c != '\0'; c++)
        if ((unsigned char)*c < 32 || *c == 127)
            *c = '?';
}

/* ---- drawing --------------------------------------------------------------------------------------------------- */

/* The last column stays free: a terminal may wrap behind it. color: NULL for none. */
static void print_parts(parts *line, bool terminal, const char *color)
{
    char text[MOST_PARTS * (PART_BYTES + 2)];
    compose(line, terminal ? window_width() - 1 : (int)sizeof text, text, sizeof text);
    if (terminal)
        fprintf(stderr, "\r%s%s%s\033[K", color == NULL ? "" : color, text, color == NULL ? "" : "\033[0m");
    else
        fprintf(stderr, "%s\n", text);
    (void)fflush(stderr);
}

static void draw(progress *p)
{
    parts line;
    p->shown = now_seconds();
    p->told_step = p->step;
    collect(p, &line);
    print_parts(&line, p->terminal, !p->color ? NULL : p->warnings > 0 ? WARNING : CALM);
    p->drawn = p->terminal;
}

/* Whether so much time has passed since the last line. */
static bool is_time(bool terminal, double started, double shown)
{
    const double now = now_seconds();
    return now - shown >= (terminal ? REDRAW_SECONDS : now - started < LATE ? PLAIN_SECONDS : LATE_PLAIN_SECONDS);
}

void progress_step(progress *p, const qs_step_info *info, double seconds)
{
    if (p->first_began <= 0.0)
        p->first_began = now_seconds() - seconds;
    p->step = info->step;
    p->loss = LOSS_DECAY * p->loss + (1.0 - LOSS_DECAY) * info->loss;
    p->weight = LOSS_DECAY * p->weight + (1.0 - LOSS_DECAY);
    p->step_seconds = p->step_seconds <= 0.0 ? seconds : TIME_DECAY * p->step_seconds + (1.0 - TIME_DECAY) * seconds;
    p->last_flips = info->flips;
    p->flips = p->flips || info->flips > 0.0;
    if (p->told_step < 0 || is_time(p->terminal, p->started, p->shown))
        draw(p);
}

void progress_validation(progress *p, double val_loss)
{
    p->val_loss = val_loss;
}

void progress_health(progress *p, int warnings, double dead)
{
    p->warnings = warnings;
    p->dead = dead;
}

void progress_say(progress *p, const char *format, ...)
{
    va_list arguments;
    if (p->drawn)
        fprintf(stderr, "\r\033[K");
    p->drawn = false;
    if (p->label[0] != '\0')
        fprintf(stderr, "%s: ", p->label);
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    (void)fflush(stderr);
}

void progress_end(progress *p)
{
    if (p->weight > 0.0 && (p->terminal || p->told_step != p->step))
        draw(p);
    if (p->drawn)
        fputc('\n', stderr);
    p->drawn = false;
    p->weight = 0.0;
}

/* ---- bytes ----------------------------------------------------------------------------------------------------- */

void byte_progress_start(byte_progress *p)
{
    memset(p, 0, sizeof *p);
    p->terminal = is_terminal();
    p->color = p->terminal && is_coloured();
    p->started = now_seconds();
}

static void draw_bytes(byte_progress *p)
{
    parts line = {.count = 0};
    char done[16], total[16], text[32];
    const double share = p->total > 0 ? (double)p->done / (double)p->total : 1.0, seconds = now_seconds() - p->started;
    p->shown = now_seconds();
    add(&line, 0, "%3.0f%%", floor(100.0 * share));
    if (p->terminal)
        add_bar(&line, 4, share);
    add(&line, 1, "%s of %s", human_bytes((double)p->done, done), human_bytes((double)p->total, total));
    add(&line, 3, "%s/s", human_bytes((double)p->done / seconds, text));
    add(&line, 2, "left %s", human_time(seconds * (1.0 - share) / share, text));
    print_parts(&line, p->terminal, p->color ? CALM : NULL);
    p->drawn = p->terminal;
}

void byte_progress_show(byte_progress *p, uint64_t done, uint64_t total)
{
    p->done = done;
    p->total = total;
    if (done > 0 && is_time(p->terminal, p->started, p->shown > 0.0 ? p->shown : p->started))
        draw_bytes(p);
}

void byte_progress_end(byte_progress *p)
{
    if (p->drawn)
        draw_bytes(p);
    if (p->drawn)
        fputc('\n', stderr);
    p->drawn = false;
}
