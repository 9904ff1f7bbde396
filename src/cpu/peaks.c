/* peaks.c - qs_cpu_peak: the bursts of a level on every thread, timed. */
#include <string.h>
#include <time.h>
#include "core/internal.h"
#include "core/threads.h"
#include "cpu/pages.h"
#include "cpu/peaks.h"

enum { ROUNDS = 2048, PIECE = 256 * 1024, LEAST_BYTES = 4096, MOST_SECONDS = 60 };

static const double WINDOW = 0.002;   /* seconds: short beside what a scheduler gives, long beside the start of a loop */

const char *qs_peak_name(qs_peak what)
{
    static const char *const names[] = {
#define PEAK_TEXT(name, text, unit, what) text,
        QS_PEAK_LIST(PEAK_TEXT)
#undef PEAK_TEXT
    };
    return (unsigned)what < QS_PEAKS ? names[what] : NULL;
}

typedef struct level_row {
    qsi_level base;
    const qsi_burst *bursts;
} level_row;

static const level_row levels[QSI_LEVELS] = {
#define PEAK_LEVEL(name, text, base, executed) {QSI_LEVEL_##base, qsi_bursts_##text},
    QSI_LEVEL_LIST(PEAK_LEVEL)
#undef PEAK_LEVEL
};

static bool has(const qsi_burst *bursts, qs_peak what)
{
    while (bursts->run && bursts->what != what)
        bursts++;
    return bursts->run != NULL;
}

/* The table of the level, or of the nearest one it extends, that knows `what`; that of the last one if none does. */
static const qsi_burst *bursts_for(qsi_level level, qs_peak what)
{
    while (!has(levels[level].bursts, what) && levels[level].base != level)
        level = levels[level].base;
    return levels[level].bursts;
}

/* ---- measuring -------------------------------------------------------------------------------------------------- */

/* What one thread did in one window. */
typedef struct span {
    double start, end, work;
    int64_t at;            /* READ: where it goes on, bytes into its slice */
} span;

typedef struct job {
    const qsi_burst *burst;
    char *memory;
    int64_t slice;         /* READ: bytes of each thread */
    double seconds;        /* of a window */
    span *spans;           /* [threads] */
} job;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Some rounds of the burst: of READ the next piece of the slice. */
static void some_rounds(const job *j, const char *memory, span *s)
{
    if (!j->slice) {
        j->burst->run((const float *)(const void *)memory, ROUNDS);
        s->work += ROUNDS * j->burst->work;
        return;
    }
    const int64_t bytes = qsi_min(PIECE, j->slice - s->at);
    j->burst->run((const float *)(const void *)(memory + s->at), (int64_t)((double)bytes / j->burst->work));
    s->work += (double)bytes;
    s->at = s->at + bytes == j->slice ? 0 : s->at + bytes;
}

static void window_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const job *j = arg;
    span s = {.at = j->spans[task].at};
    s.start = now();
    do {
        some_rounds(j, j->memory + task * j->slice, &s);
        s.end = now();
    } while (s.end - s.start < j->seconds);
    j->spans[task] = s;
}

/* Work of all threads in a window over the time from the first start to the last end. */
static double window_rate(job *j, int threads)
{
    qsi_parallel_for(threads, threads, window_task, j);
    span all = j->spans[0];
    for (int i = 1; i < threads; i++) {
        all.start = j->spans[i].start < all.start ? j->spans[i].start : all.start;
        all.end = j->spans[i].end > all.end ? j->spans[i].end : all.end;
        all.work += j->spans[i].work;
    }
    return all.work / (all.end - all.start);
}

/* The best window: what else the machine does only slows. The first pass over memory that is to be in a cache is lost by
 * that. */
static double best_rate(job *j, int threads, double seconds)
{
    const double start = now();
    double best = 0;
    do {
        const double rate = window_rate(j, threads);
        best = rate > best ? rate : best;
    } while (now() - start < seconds);
    return best;
}

typedef struct fill {
    char *memory;
    int64_t bytes;
} fill;

/* One large page of ones: pages that nobody wrote are all the same one, and threads write by turns as for tensors. */
static void fill_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const fill *f = arg;
    const float one = 1.0f;
    const int64_t end = qsi_min(f->bytes, (task + 1) * QSI_LARGE_PAGE);
    for (int64_t at = task * QSI_LARGE_PAGE; at < end; at += (int64_t)sizeof one)
        memcpy(f->memory + at, &one, sizeof one);
}

static qs_status check(const char *level, int *threads, qs_peak what, uint64_t bytes, double seconds, int *found)
{
    qs_status status = QS_OK;
    *found = qsi_level_by_name(level);
    if (*found == -2)
        QS_FAIL(QS_ERR_DEVICE, "kernel level %s cannot run on this machine", level);
    if (*found < 0)
        QS_FAIL(QS_ERR_ARG, "kernel level %s does not exist", level ? level : "(best)");
    if (*threads < 0 || *threads > 1024)
        QS_FAIL(QS_ERR_ARG, "%d threads: 0 (automatic) or 1 to 1024", *threads);
    *threads = *threads ? *threads : qsi_cpu_count();
    if ((unsigned)what >= QS_PEAKS)
        QS_FAIL(QS_ERR_ARG, "there is no peak %d", (int)what);
    if (what == QS_PEAK_READ && (bytes < LEAST_BYTES || bytes > INT64_MAX / 2))
        QS_FAIL(QS_ERR_ARG, "%llu bytes to read; at least %d", (unsigned long long)bytes, LEAST_BYTES);
    if (!(seconds > 0) || seconds > MOST_SECONDS)
        QS_FAIL(QS_ERR_ARG, "%g seconds; above 0, at most %d", seconds, MOST_SECONDS);
fail:
    return status;
}

qs_status qs_cpu_peak(const char *level, int threads, qs_peak what, uint64_t bytes, double seconds, double *per_second)
{
    qs_status status = QS_OK;
    int found = 0;
    double best = 0;
    int64_t whole = QSI_PEAK_TABLE;
    job j = {.seconds = WINDOW};
    QS_TRY(check(level, &threads, what, bytes, seconds, &found));
    if (what == QS_PEAK_READ)
        j.slice = qsi_round_up(qsi_ceil_div((int64_t)bytes, threads), QSI_PAGE);
    whole = qsi_max(j.slice * threads, whole);
    j.spans = qsi_alloc_array(NULL, QS_MEMORY_WORKSPACE, threads, sizeof *j.spans);
    if (!j.spans || !(j.memory = qsi_pages_alloc(whole)))
        QS_FAIL(QS_ERR_NOMEM, "cannot allocate %lld bytes to read", (long long)whole);
    qsi_parallel_for(threads, qsi_ceil_div(whole, QSI_LARGE_PAGE), fill_task, &(fill){j.memory, whole});
    for (const qsi_burst *b = bursts_for((qsi_level)found, what); b->run; b++) {
        if (b->what != what)
            continue;
        j.burst = b;
        const double rate = best_rate(&j, threads, seconds);
        best = rate > best ? rate : best;
    }
    *per_second = best;
fail:
    if (j.memory)
        qsi_pages_free(j.memory, whole);
    qsi_free(j.spans);
    return status;
}
