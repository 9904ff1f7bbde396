/* progress.c - see progress.h. Nothing here reaches the training. */
#include "progress.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static const double REDRAW_SECONDS = 0.1, PLAIN_SECONDS = 5.0;
static const double LOSS_DECAY = 0.95, TIME_DECAY = 0.9;
enum { BAR_WIDTH = 20, NARROWEST = 20 };

void progress_start(progress *p, int64_t step, int64_t steps, int64_t tokens_per_step, bool flips, double time_limit)
{
    const char *term = getenv("TERM");
    const char *no_color = getenv("NO_COLOR");
    memset(p, 0, sizeof *p);
    p->terminal = isatty(STDERR_FILENO) && term != NULL && strcmp(term, "dumb") != 0;
    p->color = p->terminal && (no_color == NULL || no_color[0] == '\0');
    p->step = step;
    p->steps = steps;
    p->tokens_per_step = (double)tokens_per_step;
    p->flips = flips;
    p->time_limit = time_limit;
    p->started = now_seconds();
}

static char *clock_text(double seconds, char *out, size_t out_bytes)
{
    const long long s = seconds < 0.0 ? 0 : (long long)(seconds + 0.5);
    if (s >= 3600)
        (void)snprintf(out, out_bytes, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        (void)snprintf(out, out_bytes, "%02lld:%02lld", s / 60, s % 60);
    return out;
}

static double seconds_left(const progress *p)
{
    double left = (double)(p->steps - p->step) * p->step_seconds;
    if (p->time_limit > 0.0 && p->started + p->time_limit - now_seconds() < left)
        left = p->started + p->time_limit - now_seconds();
    return left;
}

/* The facts without the bar. */
static void state_text(const progress *p, char *out, size_t out_bytes)
{
    char left[32], rate[16], flips[32] = "";
    if (p->flips)
        (void)snprintf(flips, sizeof flips, "  flips %.3f%%", 100.0 * p->last_flips);
    (void)snprintf(out, out_bytes, "%lld/%lld  loss %.4f  %s tok/s%s  left %s", (long long)p->step, (long long)p->steps,
                   p->weight > 0.0 ? p->loss / p->weight : 0.0,
                   human_count(p->step_seconds > 0.0 ? p->tokens_per_step / p->step_seconds : 0.0, rate), flips,
                   clock_text(seconds_left(p), left, sizeof left));
}

static void draw_terminal(progress *p)
{
    char text[160], bar[BAR_WIDTH + 1], line[256];
    struct winsize size;
    const double share = (double)p->step / (double)p->steps;
    const int filled = (int)(share * BAR_WIDTH);
    int width = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= NARROWEST ? size.ws_col - 1 : 79;
    state_text(p, text, sizeof text);
    memset(bar, '-', BAR_WIDTH);
    memset(bar, '#', (size_t)filled);
    bar[BAR_WIDTH] = '\0';
    (void)snprintf(line, sizeof line, "%3.0f%% [%s] %s", 100.0 * share, bar, text);
    if ((int)strlen(line) > width)  /* a narrow window: the facts matter more than the bar */
        (void)snprintf(line, sizeof line, "%3.0f%% %s", 100.0 * share, text);
    if (width >= (int)sizeof line)
        width = (int)sizeof line - 1;
    fprintf(stderr, "\r%s%.*s%s\033[K", p->color ? "\033[36m" : "", width, line, p->color ? "\033[0m" : "");
    p->drawn = true;
}

static void draw(progress *p)
{
    char text[160];
    p->shown = now_seconds();
    if (p->terminal) {
        draw_terminal(p);
    } else {
        state_text(p, text, sizeof text);
        fprintf(stderr, "step %s\n", text);
    }
    (void)fflush(stderr);
}

void progress_step(progress *p, const qs_step_info *info, double seconds)
{
    p->step = info->step;
    p->loss = LOSS_DECAY * p->loss + (1.0 - LOSS_DECAY) * info->loss;
    p->weight = LOSS_DECAY * p->weight + (1.0 - LOSS_DECAY);
    p->step_seconds = p->step_seconds <= 0.0 ? seconds : TIME_DECAY * p->step_seconds + (1.0 - TIME_DECAY) * seconds;
    p->last_flips = info->flips;
    if (now_seconds() - p->shown >= (p->terminal ? REDRAW_SECONDS : PLAIN_SECONDS))
        draw(p);
}

void progress_say(progress *p, const char *format, ...)
{
    va_list arguments;
    if (p->drawn)
        fprintf(stderr, "\r\033[K");
    p->drawn = false;
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    (void)fflush(stderr);
}

void progress_end(progress *p)
{
    if (p->weight > 0.0)
        draw(p);
    if (p->drawn)
        fputc('\n', stderr);
    p->drawn = false;
    p->weight = 0.0;
}
