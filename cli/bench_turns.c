/* bench_turns.c - see bench_turns.h. */
#include "bench_turns.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FEWEST_RUNS = 3, MOST_RUNS = 1000, PILOT_SHARE = 64, PILOT_ROWS = 32 };

/* A turn lasts so long; runs longer than SHORT need no run before them that fills the caches; a run that would take this
 * many times its time is left out. */
static const double TURN_SECONDS = 0.005, SHORT_SECONDS = 0.02, MOST_TIMES = 5.0, PILOT_OPERATIONS = 1e8;

void bench_turns_add(bench_turns *turns, const bench_turn *turn)
{
    bench_turn *more = realloc(turns->turn, (size_t)(turns->count + 1) * sizeof *more);
    double *times = malloc(MOST_RUNS * sizeof *times);
    turns->turn = more != NULL ? more : turns->turn;
    if (more == NULL || times == NULL) {
        free(times);
        turns->failed = true;
        return;
    }
    more[turns->count] = *turn;
    more[turns->count++].times = times;
}

void bench_turns_free(bench_turns *turns)
{
    for (int i = 0; i < turns->count; i++)
        free(turns->turn[i].times);
    free(turns->turn);
    turns->turn = NULL;
    turns->count = 0;
}

/* ---- one run --------------------------------------------------------------------------------------------------- */

/* 0, or an exit code after a message; a peer that fails is dropped. */
static int run_once(bench_turn *t, double *seconds)
{
    *seconds = 0.0;
    if (t->foreign != NULL) {
        const int64_t copy = t->cold ? t->runs++ % t->foreign->copies : 0;
        t->dropped = !bench_peer_run(t->foreign, t->product == PRODUCT_LINEAR_DW, copy, seconds);
    } else {
        const int64_t copy = t->cold ? t->runs++ % t->world->copies : 0;
        const qs_op op = bench_world_op(t->world, t->product, t->precision, t->row.shape, copy);
        const qs_status status = bench_world_run(t->world, &op, seconds);
        if (status != QS_OK)
            return fail_library(BENCH_NAME, status, NULL);
    }
    t->spent += *seconds;
    t->last = *seconds;
    return 0;
}

/* Seconds a run will take, from one with a part of the outputs. */
static int estimate(bench_turn *t)
{
    bench_shape small = t->row.shape;
    if (t->foreign != NULL || t->row.operations < PILOT_OPERATIONS)
        return 0;
    small.n = small.n / PILOT_SHARE / PILOT_ROWS * PILOT_ROWS;
    small.n = small.n < PILOT_ROWS ? PILOT_ROWS : small.n;
    const qs_op op = bench_world_op(t->world, t->product, t->precision, small, 0);
    double seconds = 0.0;
    const qs_status status = bench_world_run(t->world, &op, &seconds);
    t->row.estimate = seconds * (double)t->row.shape.n / (double)small.n;
    return status == QS_OK ? 0 : fail_library(BENCH_NAME, status, NULL);
}

/* ---- by turns -------------------------------------------------------------------------------------------------- */

static bool too_long(const bench_turns *turns, const bench_turn *t)
{
    return t->row.estimate > MOST_TIMES * turns->seconds && t->row.estimate > SHORT_SECONDS;
}

static bool finished(const bench_turns *turns, const bench_turn *t)
{
    return t->dropped || too_long(turns, t) || t->count == MOST_RUNS ||
           (t->spent >= turns->seconds && t->count >= FEWEST_RUNS) ||
           (t->spent >= MOST_TIMES * turns->seconds && t->spent > SHORT_SECONDS && t->count > 0);
}

static int take_turn(bench_turn *t)
{
    double seconds = 0.0, used = 0.0;
    int code = t->last < SHORT_SECONDS ? run_once(t, &seconds) : 0;   /* fills the caches */
    while (code == 0 && !t->dropped && used < TURN_SECONDS && t->count < MOST_RUNS) {
        code = run_once(t, &seconds);
        t->times[t->count++] = seconds;
        used += seconds;
    }
    return code;
}

/* How far everything is, ten times a second. */
static void tell(const bench_turns *turns, double *told)
{
    const bench_shape s = turns->turn[0].row.shape;
    double share = 0.0;
    if (now_seconds() < *told + 0.1)
        return;
    for (int i = 0; i < turns->count; i++) {
        const double own = turns->turn[i].spent / turns->seconds;
        share += (finished(turns, &turns->turn[i]) || own > 1.0 ? 1.0 : own) / turns->count;
    }
    bench_tell("%3.0f%%  N x K = %lld x %lld, M = %lld: %d rows by turns",
               100.0 * (turns->from + share * (turns->to - turns->from)), (long long)s.n, (long long)s.k, (long long)s.m,
               turns->count);
    *told = now_seconds();
}

static int all_by_turns(bench_turns *turns)
{
    double told = 0.0;
    bool left = true;
    int code = 0;
    while (left && code == 0) {
        left = false;
        for (int i = 0; i < turns->count && code == 0; i++) {
            if (finished(turns, &turns->turn[i]))
                continue;
            left = true;
            code = take_turn(&turns->turn[i]);
            tell(turns, &told);
        }
    }
    bench_tell(NULL);
    return code;
}

/* ---- peers ----------------------------------------------------------------------------------------------------- */

/* The result of a peer beside our fp32 one. */
static int compare_result(bench_turn *t, const bench_world *world)
{
    const bench_shape s = t->row.shape;
    const bool dw = t->product == PRODUCT_LINEAR_DW;
    const int64_t count = dw ? s.n * s.k : s.m * s.n;
    const qs_op op = bench_world_op(world, t->product, QS_PRECISION_F32, s, 0);
    float *reference = malloc((size_t)count * sizeof *reference);
    double seconds = 0.0;
    qs_status status = reference == NULL ? QS_ERR_NOMEM : bench_world_run(world, &op, &seconds);
    if (status == QS_OK)
        status = bench_world_read(world, t->product, s, reference);
    if (status == QS_OK) {
        t->dropped = !bench_peer_run(t->foreign, dw, 0, &seconds);
        t->row.difference = t->dropped ? NAN : bench_peer_difference(t->foreign, reference, count);
        if (!t->dropped && !t->cold && !(t->row.difference <= BENCH_AGREEMENT))
            warn(BENCH_NAME, "the result of peer %s differs from ours by %.3g%% at M,N,K = %lld,%lld,%lld, more than %g%%; "
                 "its times say nothing before it is mended", t->row.level, 100.0 * t->row.difference, (long long)s.m,
                 (long long)s.n, (long long)s.k, 100.0 * BENCH_AGREEMENT);
    }
    free(reference);
    return status == QS_OK ? 0 : fail_library(BENCH_NAME, status, "give a smaller --shape");
}

int bench_turns_run(bench_turns *turns, const bench_world *worlds)
{
    int code = 0;
    for (int i = 0; i < turns->count && code == 0; i++) {
        bench_turn *t = &turns->turn[i];
        code = t->foreign == NULL ? estimate(t) : compare_result(t, &worlds[0]);
    }
    if (code == 0)
        code = all_by_turns(turns);
    for (int i = 0; i < turns->count && code == 0; i++) {
        bench_turn *t = &turns->turn[i];
        if (t->count == 0 || t->dropped)
            continue;
        t->row.times = bench_times_of(t->times, t->count);
        t->row.cycles = t->row.times.median * t->clock / (0.5 * t->row.operations);
    }
    return code;
}
