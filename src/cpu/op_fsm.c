/* op_fsm.c - FSM_VISIT, the one visit of a matrix in a step, and FSM_RULE.
 *
 * A task owns whole rows (up to four row blocks) and walks them in column tiles: the tile's gradient sums are in the core's
 * own cache when they are measured, thresholded and fed to the rule. What continues from tile to tile are the 16 stripes
 * of r and dmaster per row; what leaves a task besides results are the column sums of its row blocks, [blocks, K], whose
 * chunk tree is the column statistic. Nothing else grows with the matrix. */
#include "cpu/fold.h"
#include "cpu/sample.h"
#include "qsbits/random.h"

enum { W, STATE, DY, X, SCALE, A, B, THETA, R_NOW, C_NOW, DMASTER, COUNTS, DGRAD, PULSES, SAMPLE, ANCHOR };   /* of FSM_VISIT */
enum { ROWS = QSI_GRAD_ROWS, COLS = QSI_GRAD_COLS, WORDS = COLS / 32 };

/* What both ops need to apply a rule. */
typedef struct rule_job {
    const qsi_run *run;
    const qsi_slot *w, *state, *pulses, *anchor;
    qs_fsm fsm;
    int sticky;
    uint32_t pull;
    qsi_draws draws;       /* of row 0 of the views, word 0 */
    qsi_sample sample;
    qsi_moves *moves;      /* [tasks] */
    int64_t group;         /* rows per task */
} rule_job;

typedef struct visit_job {
    rule_job rule;
    bool measure, emit;    /* statistics only; pulses go to a tensor instead of the rule */
    float theta;
    float *columns;        /* [row blocks, K]: sums of g^2 over the rows of a block */
    qsi_grad grad;
} visit_job;

/* What a thread works on. */
typedef struct desk {
    uint32_t up[WORDS], down[WORDS];
    float row[ROWS][16], dot[ROWS][16];
    float ones[COLS];      /* stands for b where it is absent */
} desk;

static rule_job rule_of(const qsi_run *run, int pulses, int sample, int anchor, int64_t group)
{
    const qs_op *op = run->op;
    return (rule_job){.run = run, .w = &run->v[0], .state = &run->v[1], .pulses = &run->v[pulses], .anchor = &run->v[anchor],
                      .fsm = (qs_fsm)op->i[0], .sticky = (int)op->i[1], .pull = (uint32_t)op->i[8], .moves = qsi_shared(run),
                      .group = group,
                      .draws = {(uint64_t)op->i[2], (uint32_t)op->i[3], (uint32_t)op->i[4], (uint32_t)op->i[5], 0},
                      .sample = {&run->v[sample], op->i[5], op->i[6]}};
}

/* Those of columns k .. of a row. */
static qsi_draws draws_of(const rule_job *job, int64_t row, int64_t k)
{
    qsi_draws draws = job->draws;
    draws.row += (uint32_t)row;
    draws.word = (uint32_t)(k / 32);
    return draws;
}

/* ---- pulses as bit planes and as T2 ----------------------------------------------------------------------------- */

/* Bit i of x at bit 2i, and back. */
static uint32_t spread(uint32_t x)
{
    x = (x | x << 8) & 0x00FF00FFu;
    x = (x | x << 4) & 0x0F0F0F0Fu;
    x = (x | x << 2) & 0x33333333u;
    return (x | x << 1) & 0x55555555u;
}
static uint32_t gather(uint32_t x)
{
    x &= 0x55555555u;
    x = (x | x >> 1) & 0x33333333u;
    x = (x | x >> 2) & 0x0F0F0F0Fu;
    x = (x | x >> 4) & 0x00FF00FFu;
    return (x | x >> 8) & 0x0000FFFFu;
}

static void planes_to_t2(uint32_t *t2, const uint32_t *up, const uint32_t *down, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        t2[2 * j] = spread(up[j] & 0xFFFF) | spread(down[j] & 0xFFFF) << 1;
        t2[2 * j + 1] = spread(up[j] >> 16) | spread(down[j] >> 16) << 1;
    }
}

static void t2_to_planes(uint32_t *up, uint32_t *down, const uint32_t *t2, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        up[j] = gather(t2[2 * j]) | gather(t2[2 * j + 1]) << 16;
        down[j] = gather(t2[2 * j] >> 1) | gather(t2[2 * j + 1] >> 1) << 16;
    }
}

static int64_t count_bits(const uint32_t *up, const uint32_t *down, int64_t n)
{
    int64_t count = 0;
    for (int64_t j = 0; j < n; j++)
        count += __builtin_popcount(up[j] | down[j]);
    return count;
}

/* ---- rules ------------------------------------------------------------------------------------------------------ */

/* The kernel of the machine on columns k .. k + 32 n - 1 of a row; returns flips. */
static int64_t move_states(const rule_job *job, int64_t row, int64_t k, int64_t n, const uint32_t *up, const uint32_t *down)
{
    const qsi_kernels *kernels = job->run->kernels;
    const qsi_draws draws = draws_of(job, row, k);
    uint32_t *w = (uint32_t *)qsi_row(job->w, row) + k / 32, *state = qsi_row(job->state, row);
    const int64_t plane = job->w->cols / 32;
    if (job->fsm == QS_FSM_T2)
        return kernels->fsm_t2(w, state + k / 16, 0, up, down, n, job->sticky, &draws);
    return (job->fsm == QS_FSM_C2 ? kernels->fsm_c2 : kernels->fsm_c4)(w, state + k / 32, plane, up, down, n, job->sticky, &draws);
}

/* In a sampled row: what happened to columns k .., whose n words were `before`. */
static void record(const rule_job *job, int64_t row, int64_t k, int64_t n, const uint32_t *pulsed, const uint32_t *before)
{
    const uint32_t *w = (const uint32_t *)qsi_row(job->w, row) + k / 32;
    uint32_t flipped[WORDS];
    for (int64_t j = 0; j < n; j++)
        flipped[j] = before[j] ^ w[j];
    qsi_sample_note(qsi_sample_of(&job->sample, row) + k / 32, qsi_ld(job->sample.record), pulsed, flipped, n);
}

/* Weights without a pulse get one towards their anchor where a candidate says so. */
static void pull_back(const rule_job *job, int64_t row, int64_t k, int64_t n, uint32_t *up, uint32_t *down)
{
    const uint32_t *anchor = (const uint32_t *)qsi_row(job->anchor, row) + k / 32;
    const qsi_draws d = draws_of(job, row, k);
    for (int64_t j = 0; j < n; j++) {
        uint32_t candidate[4], pulled = 0;
        qs_philox(d.seed, d.step, QS_RANDOM_ANCHOR, d.tensor, d.row, d.word + (uint32_t)j, candidate);
        for (int c = 0; c < 4; c++)
            pulled |= (uint32_t)(candidate[c] >> 5 < job->pull) << (candidate[c] & 31);
        pulled &= ~(up[j] | down[j]);
        up[j] |= pulled & anchor[j];
        down[j] |= pulled & ~anchor[j];
    }
}

/* Pulls, then the rule, recorded in a sampled row, where pulls are no pulses; returns flips. */
static int64_t apply_rule(const rule_job *job, int64_t row, int64_t k, int64_t n, uint32_t *up, uint32_t *down)
{
    uint32_t pulsed[WORDS], before[WORDS];
    const bool sampled = qsi_sample_of(&job->sample, row) != NULL;
    for (int64_t j = 0; sampled && j < n; j++)
        pulsed[j] = up[j] | down[j];
    if (job->pull > 0)
        pull_back(job, row, k, n, up, down);
    if (!sampled)
        return move_states(job, row, k, n, up, down);
    memcpy(before, (const uint32_t *)qsi_row(job->w, row) + k / 32, (size_t)n * sizeof *before);
    const int64_t flips = move_states(job, row, k, n, up, down);
    record(job, row, k, n, pulsed, before);
    return flips;
}

/* ---- FSM_VISIT -------------------------------------------------------------------------------------------------- */

/* The same for c8, on n words from the unscaled sums G; b as in visit_row. */
static void apply_c8(const visit_job *job, int64_t row, int64_t k, int64_t n, const float *G, float alpha, float a, const float *b,
                     qsi_moves *moves)
{
    const rule_job *rule = &job->rule;
    uint32_t *w = (uint32_t *)qsi_row(rule->w, row) + k / 32, before[WORDS], moved[WORDS];
    const qsi_draws draws = draws_of(rule, row, k);
    memcpy(before, w, (size_t)n * sizeof *w);
    moves->flips += rule->run->kernels->fsm_c8(w, (int8_t *)qsi_row(rule->state, row) + k, G, alpha, a, b, rule->run->op->f[1],
                                               n, &draws, moved, &moves->pulses);
    if (qsi_sample_of(&rule->sample, row))
        record(rule, row, k, n, moved, before);
}

/* Row `row` (number i of the task), columns k .. k+n-1 with unscaled sums G: statistics, then pulses, then the rule. */
static void visit_row(const visit_job *job, desk *d, int64_t i, int64_t row, int64_t k, int64_t n, const float *G,
                      qsi_moves *moves)
{
    const qsi_run *run = job->rule.run;
    const qsi_slot *v = run->v;
    const float alpha = qs_half_to_float(((const uint16_t *)qsi_row(&v[SCALE], 0))[row]);
    const float a = v[A].p ? qsi_f32(&v[A], 0)[row] : 1.0f, *b = v[B].p ? qsi_f32(&v[B], 0) + k : d->ones;
    float *columns = job->columns + row / QS_ROW_BLOCK * v[W].cols + k;
    uint32_t *w = (uint32_t *)qsi_row(&v[W], row) + k / 32;
    const bool still = job->measure || job->rule.fsm == QS_FSM_C8;
    moves->pulses += run->kernels->fsm_pulses(G, n, alpha, job->theta * a, b, w, d->row[i], columns, d->dot[i],
                                              still ? NULL : d->up, still ? NULL : d->down);
    if (job->measure)
        return;
    if (job->rule.fsm == QS_FSM_C8)
        apply_c8(job, row, k, n / 32, G, alpha, a, b, moves);
    else if (job->emit)
        planes_to_t2((uint32_t *)qsi_row(&v[PULSES], row) + k / 16, d->up, d->down, n / 32);
    else
        moves->flips += apply_rule(&job->rule, row, k, n / 32, d->up, d->down);
}

static void visit_task(void *arg, int64_t task, int thread)
{
    const visit_job *job = arg;
    const qsi_run *run = job->rule.run;
    const qsi_slot *v = run->v;
    const int64_t first = task * job->rule.group, rows = qsi_min(job->rule.group, v[W].rows - first), cols = v[W].cols;
    char *scratch = qsi_own(run, thread);
    desk *d = qsi_carve(&scratch, (int64_t)sizeof *d);
    qsi_moves moves = {0, 0};
    memset(d->row, 0, sizeof d->row);
    memset(d->dot, 0, sizeof d->dot);
    for (int j = 0; j < COLS; j++)
        d->ones[j] = 1.0f;
    memset(job->columns + first / QS_ROW_BLOCK * cols, 0,
           (size_t)(qsi_ceil_div(rows, QS_ROW_BLOCK) * cols) * sizeof *job->columns);
    for (int64_t k = 0; k < cols; k += COLS) {
        const int64_t n = qsi_min(COLS, cols - k);
        const float *tile = NULL;
        if (!v[DGRAD].p)
            tile = qsi_grad_tile(&job->grad, first, rows, k, n, scratch);
        for (int64_t i = 0; i < rows; i++)
            visit_row(job, d, i, first + i, k, n, tile ? tile + i * n : qsi_f32(&v[DGRAD], first + i) + k, &moves);
    }
    for (int64_t i = 0; i < rows; i++) {
        qsi_f32(&v[R_NOW], 0)[first + i] = qsi_fold16(d->row[i]) / (float)cols;
        qsi_f32(&v[DMASTER], 0)[first + i] = run->op->f[0] * qsi_fold16(d->dot[i]);
    }
    job->rule.moves[task] = moves;
}

/* c_now of COLS columns: the chunk tree over row blocks, divided by the number of rows. */
static void column_task(void *arg, int64_t task, int thread)
{
    const visit_job *job = arg;
    const qsi_run *run = job->rule.run;
    const int64_t rows = run->v[W].rows, cols = run->v[W].cols, k = task * COLS, n = qsi_min(COLS, cols - k);
    qsi_tree tree = qsi_tree_start(run->kernels, qsi_own(run, thread), n);
    for (int64_t block = 0; block < qsi_ceil_div(rows, QS_ROW_BLOCK); block++)
        memcpy(qsi_tree_next(&tree, block), job->columns + block * cols + k, (size_t)n * sizeof(float));
    const float *sum = qsi_tree_finish(&tree);
    for (int64_t j = 0; j < n; j++)
        qsi_f32(&run->v[C_NOW], 0)[k + j] = sum[j] / (float)rows;
}

qs_status qsi_cpu_fsm_visit(qsi_run *run)
{
    qs_status status = QS_OK;
    const int64_t rows = run->v[W].rows, cols = run->v[W].cols, blocks = qsi_ceil_div(rows, QS_ROW_BLOCK);
    qsi_weigh(run, rows * cols * (16 + run->v[DY].rows));
    const qs_precision precision = (qs_precision)run->op->i[7];
    const int64_t group = qsi_grad_group(precision, rows, run->threads), tasks = qsi_ceil_div(rows, group);
    const int64_t moves = qsi_round_up(tasks * (int64_t)sizeof(qsi_moves), 64);
    const bool dense = run->v[DGRAD].p != NULL;
    const int64_t tile = (int64_t)sizeof(desk) + 64 + (dense ? 0 : qsi_grad_scratch(precision, run->v[DY].rows));
    const int64_t operands = dense ? 0 : qsi_grad_shared(precision, &run->v[DY], &run->v[X]);
    const int64_t tree = qsi_floats(qsi_tree_slots(blocks) * COLS);
    QS_TRY(qsi_scratch_need(run, moves + qsi_floats(blocks * cols) + operands, qsi_max(tile, tree)));
    visit_job job = {.rule = rule_of(run, PULSES, SAMPLE, ANCHOR, group)};
    job.measure = (run->op->flags & QS_FLAG_MEASURE) != 0;
    job.emit = run->v[PULSES].p != NULL;
    job.theta = run->v[THETA].p ? *qsi_f32(&run->v[THETA], 0) : 0.0f;
    job.columns = (float *)(void *)((char *)qsi_shared(run) + moves);
    if (!dense)
        job.grad = qsi_grad_start(run, precision, &run->v[DY], &run->v[X], (char *)job.columns + qsi_floats(blocks * cols));
    qsi_each(run, tasks, visit_task, &job);
    qsi_each(run, qsi_ceil_div(cols, COLS), column_task, &job);
    qsi_store_moves(job.rule.moves, tasks, &run->v[COUNTS]);
fail:
    return status;
}

/* ---- FSM_RULE --------------------------------------------------------------------------------------------------- */

static void rule_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const rule_job *job = arg;
    qsi_moves moves = {0, 0};
    for (int64_t row = task * job->group; row < qsi_min(job->w->rows, (task + 1) * job->group); row++)
        for (int64_t k = 0; k < job->w->cols; k += COLS) {
            const int64_t n = qsi_min(COLS, job->w->cols - k) / 32;
            uint32_t up[WORDS], down[WORDS];
            t2_to_planes(up, down, (const uint32_t *)qsi_row(job->pulses, row) + k / 16, n);
            moves.pulses += count_bits(up, down, n);
            moves.flips += apply_rule(job, row, k, n, up, down);
        }
    job->moves[task] = moves;
}

qs_status qsi_cpu_fsm_rule(qsi_run *run)
{
    qs_status status = QS_OK;
    const int64_t tasks = qsi_ceil_div(run->v[0].rows, QS_ROW_BLOCK);
    QS_TRY(qsi_scratch_need(run, tasks * (int64_t)sizeof(qsi_moves), 0));
    rule_job job = rule_of(run, 2, 4, 5, QS_ROW_BLOCK);
    qsi_each(run, tasks, rule_task, &job);
    qsi_store_moves(job.moves, tasks, &run->v[3]);
fail:
    return status;
}
