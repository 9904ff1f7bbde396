/* op_check.c - what a valid op is, as a table, and the check that reads it.
 *
 * Each slot of an op has a name, the formats it may hold and a shape in letters. A letter stands for a size and is bound
 * by the first slot that uses it; digits are themselves; '#' is the number of 256-row token chunks of letter M. What
 * a letter cannot say (multiples, ranges of scalars) is a function of the op. Nothing here allocates. */
#include "core/objects.h"

/* Sets of formats. */
enum {
    F32 = 1 << QS_F32,
    F16 = 1 << QS_F16,
    I32 = 1 << QS_I32,
    W1 = 1 << QS_W1,
    T2 = 1 << QS_T2,
    LEVELS = 1 << QS_T2 | 1 << QS_C2 | 1 << QS_C4 | 1 << QS_C8,
    ANY = (1 << QS_FORMATS) - 1
};

/* What a slot is to the op. OUT slots may overlap no other slot, except that they may be the very view of a slot
 * listed in `same` (bits of slot numbers). */
enum { ROLE_OUT = 1, ROLE_MAYBE = 2 };

typedef struct slot_rule {
    const char *name;
    uint16_t formats;
    char rows, cols;
    uint8_t role;
    uint16_t same;
} slot_rule;

typedef qs_status extra_fn(const qs_op *op, const char *name);

typedef struct op_rule {
    slot_rule slot[QS_OP_VIEWS];
    uint32_t flags;
    extra_fn *extra;
} op_rule;

static bool present(const qs_op *op, int slot)
{
    return op->view[slot].buffer != NULL;
}

/* ---- scalars and what letters cannot say ------------------------------------------------------------------------- */

/* i[index] in low..high, called text in messages. */
static qs_status check_int(const qs_op *op, const char *name, int index, const char *text, int64_t low, int64_t high)
{
    if (op->i[index] >= low && op->i[index] <= high)
        return QS_OK;
    qsi_fail_text("%s: %s is %lld, must lie in %lld..%lld", name, text, (long long)op->i[index], (long long)low,
                  (long long)high);
    return QS_ERR_ARG;
}

/* f[index] in low..high (NaN never is). */
static qs_status check_float(const qs_op *op, const char *name, int index, const char *text, float low, float high)
{
    if (op->f[index] >= low && op->f[index] <= high)
        return QS_OK;
    qsi_fail_text("%s: %s is %g, must lie in %g..%g", name, text, (double)op->f[index], (double)low, (double)high);
    return QS_ERR_ARG;
}

#define FINITE 3.4028234e38f
#define TINY 1.1754944e-38f

/* cols of a slot is a multiple of size. */
static qs_status check_multiple(const char *name, const char *slot, int64_t cols, const char *text, int64_t size)
{
    if (cols % size == 0)
        return QS_OK;
    qsi_fail_text("%s: %s has %lld columns, no multiple of %s %lld", name, slot, (long long)cols, text, (long long)size);
    return QS_ERR_SHAPE;
}

static qs_status extra_copy(const qs_op *op, const char *name)
{
    if (op->view[0].format == op->view[1].format)
        return QS_OK;
    qsi_fail_text("%s: y is %s, x is %s", name, qs_format_name((qs_format)op->view[0].format),
                  qs_format_name((qs_format)op->view[1].format));
    return QS_ERR_ARG;
}

/* The arithmetic of a product whose sums have `depth` terms: int8 sums of more would not fit a float. */
static qs_status check_precision(const qs_op *op, const char *name, int64_t depth)
{
    qs_status status = QS_OK;
    QS_TRY(check_int(op, name, 7, "precision", 0, QS_PRECISIONS - 1));
    if (op->i[7] == QS_PRECISION_INT8 && depth > 1 << 17)
        QS_FAIL(QS_ERR_SHAPE, "%s: int8 sums of %lld terms, at most %d are exact", name, (long long)depth, 1 << 17);
fail:
    return status;
}

/* LINEAR, LINEAR_DX: packed weights have a scale and a precision, float weights neither. */
static qs_status extra_linear(const qs_op *op, const char *name)
{
    bool packed = op->view[2].format == QS_W1;
    if (packed != present(op, 3)) {
        qsi_fail_text(packed ? "%s: scale is absent, w1 weights need one" : "%s: scale is present, f32 weights have none", name);
        return QS_ERR_ARG;
    }
    return packed ? check_precision(op, name, op->view[1].cols) : check_int(op, name, 7, "precision of f32 weights", 0, 0);
}

static qs_status extra_linear_dw(const qs_op *op, const char *name)
{
    return check_precision(op, name, QS_TOKEN_CHUNK);
}

static qs_status extra_rmsnorm(const qs_op *op, const char *name)
{
    qs_status status = QS_OK;
    int gain = op->code == QS_OP_RMSNORM ? 2 : 3;
    QS_TRY(check_float(op, name, 0, "eps", 0, FINITE));
    QS_TRY(check_multiple(name, "x", op->view[0].cols, "the gain's", op->view[gain].cols));
fail:
    return status;
}

static qs_status extra_factor(const qs_op *op, const char *name)
{
    return check_float(op, name, 0, "the factor", -FINITE, FINITE);
}

/* The first symbol of a block of logits. */
static qs_status extra_symbols(const qs_op *op, const char *name)
{
    return check_int(op, name, 0, "first", 0, INT32_MAX);
}

static qs_status extra_loss_grad(const qs_op *op, const char *name)
{
    qs_status status = QS_OK;
    QS_TRY(extra_symbols(op, name));
    QS_TRY(extra_factor(op, name));
fail:
    return status;
}

static qs_status extra_threshold(const qs_op *op, const char *name)
{
    return check_float(op, name, 0, "z0", -FINITE, FINITE);
}

static qs_status extra_clip(const qs_op *op, const char *name)
{
    return check_float(op, name, 0, "the limit", TINY, FINITE);
}

static qs_status extra_rope(const qs_op *op, const char *name)
{
    qs_status status = QS_OK;
    const qs_view *x = &op->view[0], *cosine = &op->view[1];
    QS_TRY(check_int(op, name, 0, "head_dim", 2, INT32_MAX));
    QS_TRY(check_int(op, name, 1, "seq", 1, INT64_MAX));
    QS_TRY(check_int(op, name, 2, "first", 0, INT64_MAX));
    if (op->i[0] % 2 || cosine->cols != op->i[0] / 2)
        QS_FAIL(QS_ERR_SHAPE, "%s: cosine has %lld columns, head_dim is %lld (twice that)", name, (long long)cosine->cols,
                (long long)op->i[0]);
    QS_TRY(check_multiple(name, "x", x->cols, "head_dim", op->i[0]));
    if (qsi_min(x->rows, op->i[1]) > cosine->rows - op->i[2])
        QS_FAIL(QS_ERR_SHAPE, "%s: cosine has %lld rows, x needs %lld from position %lld", name, (long long)cosine->rows,
                (long long)qsi_min(x->rows, op->i[1]), (long long)op->i[2]);
fail:
    return status;
}

/* Both attention ops: q [S*tq, H*d], k [S*tkv, G*d], lse [S*tq, H], H a multiple of G. */
static qs_status check_heads(const char *name, const qs_view *q, const qs_view *k, const qs_view *lse, int64_t head_dim,
                             int64_t tq, int64_t tkv)
{
    qs_status status = QS_OK;
    int64_t keys;
    QS_TRY(check_multiple(name, "q", q->cols, "head_dim", head_dim));
    QS_TRY(check_multiple(name, "k", k->cols, "head_dim", head_dim));
    if (q->cols % k->cols)
        QS_FAIL(QS_ERR_SHAPE, "%s: q has %lld heads, no multiple of the %lld of k", name, (long long)(q->cols / head_dim),
                (long long)(k->cols / head_dim));
    if (lse->cols != q->cols / head_dim)
        QS_FAIL(QS_ERR_SHAPE, "%s: lse has %lld columns, q has %lld heads", name, (long long)lse->cols,
                (long long)(q->cols / head_dim));
    if (q->rows % tq || !qsi_mul(q->rows / tq, tkv, &keys) || k->rows != keys)
        QS_FAIL(QS_ERR_SHAPE, "%s: q has %lld rows and k %lld, not whole sequences of %lld and %lld", name,
                (long long)q->rows, (long long)k->rows, (long long)tq, (long long)tkv);
fail:
    return status;
}

static qs_status extra_attention(const qs_op *op, const char *name)
{
    qs_status status = QS_OK;
    QS_TRY(check_int(op, name, 0, "head_dim", 1, INT32_MAX));
    QS_TRY(check_int(op, name, 1, "tq", 1, INT64_MAX));
    QS_TRY(check_int(op, name, 2, "tkv", op->i[1], INT64_MAX));
    QS_TRY(check_heads(name, &op->view[1], &op->view[2], &op->view[4], op->i[0], op->i[1], op->i[2]));
fail:
    return status;
}

static qs_status extra_attention_grad(const qs_op *op, const char *name)
{
    qs_status status = QS_OK;
    QS_TRY(check_int(op, name, 0, "head_dim", 1, INT32_MAX));
    QS_TRY(check_int(op, name, 1, "seq", 1, INT64_MAX));
    QS_TRY(check_heads(name, &op->view[4], &op->view[5], &op->view[8], op->i[0], op->i[1], op->i[1]));
fail:
    return status;
}

static qs_status extra_adamw(const qs_op *op, const char *name)
{
    static const char *const names[] = {"lr", "beta1", "beta2", "eps", "weight_decay", "c1", "c2"};
    static const float low[] = {0, 0, 0, 0, 0, TINY, TINY}, high[] = {FINITE, 1, 1, FINITE, FINITE, 1, 1};
    for (int j = 0; j < 7; j++)
        if (check_float(op, name, j, names[j], low[j], high[j]) != QS_OK)
            return QS_ERR_ARG;
    return QS_OK;
}

/* i[first], i[whole]: where the rows of w lie in their matrix; whole counts only beside a record of samples. */
static qs_status check_sample(const qs_op *op, const char *name, int slot, int first, int whole)
{
    const int64_t most = (int64_t)UINT32_MAX + 1;
    qs_status status = QS_OK;
    QS_TRY(check_int(op, name, first, "first_row", 0, most - op->view[0].rows));
    if (!present(op, slot))
        return QS_OK;
    QS_TRY(check_int(op, name, whole, "whole_rows", op->i[first] + op->view[0].rows, most));
    const int64_t rows = QS_SAMPLE_PLANES * qs_sample_rows(op->i[whole]);
    if (op->view[slot].rows != rows)
        QS_FAIL(QS_ERR_SHAPE, "%s: sample has %lld rows, a matrix of %lld rows needs %lld", name, (long long)op->view[slot].rows,
                (long long)op->i[whole], (long long)rows);
fail:
    return status;
}

static qs_status extra_binarize(const qs_op *op, const char *name)
{
    enum { SAMPLE = 3 };
    return check_sample(op, name, SAMPLE, 0, 1);
}

static qs_status extra_bop(const qs_op *op, const char *name)
{
    enum { SAMPLE = 5 };
    qs_status status = QS_OK;
    QS_TRY(check_float(op, name, 0, "gamma", 0, 1));
    QS_TRY(check_float(op, name, 1, "tau", 0, FINITE));
    QS_TRY(check_sample(op, name, SAMPLE, 0, 1));
fail:
    return status;
}

/* The scalars FSM_VISIT and FSM_RULE share; rows are those of w, state may be absent. anchor: the slot behind the sample. */
static qs_status check_fsm(const qs_op *op, const char *name, int sample)
{
    const int anchor = sample + 1;
    qs_status status = QS_OK;
    QS_TRY(check_int(op, name, 0, "fsm", 0, QS_FSMS - 1));
    QS_TRY(check_int(op, name, 1, "sticky", 0, 256));
    QS_TRY(check_int(op, name, 3, "step", 0, UINT32_MAX));
    QS_TRY(check_int(op, name, 4, "tensor", 0, (1 << 24) - 1));
    QS_TRY(check_sample(op, name, sample, 5, 6));
    const qs_fsm_rule *rule = qs_fsm_rule_of((qs_fsm)op->i[0]);
    if (present(op, 1) && op->view[1].format != (int32_t)rule->format)
        QS_FAIL(QS_ERR_ARG, "%s: state is %s, the machine %s has %s", name, qs_format_name((qs_format)op->view[1].format),
                rule->name, qs_format_name(rule->format));
    QS_TRY(check_int(op, name, 8, "pull", 0, QS_PULL_MOST));
    if (op->i[8] > 0 && !present(op, anchor))
        QS_FAIL(QS_ERR_ARG, "%s: anchor is absent, pull is %lld", name, (long long)op->i[8]);
    if (present(op, anchor) && op->i[0] == QS_FSM_C8)
        QS_FAIL(QS_ERR_ARG, "%s: anchor is present, the machine c8 has none", name);
fail:
    return status;
}

static qs_status extra_visit(const qs_op *op, const char *name)
{
    enum { STATE = 1, DY = 2, X = 3, DGRAD = 12, PULSES = 13, SAMPLE = 14 };
    qs_status status = QS_OK;
    QS_TRY(check_fsm(op, name, SAMPLE));
    QS_TRY(check_float(op, name, 0, "base", -FINITE, FINITE));
    QS_TRY(check_float(op, name, 1, "amplitude", 0, FINITE));
    if (present(op, DY) != present(op, X) || present(op, DY) == present(op, DGRAD))
        QS_FAIL(QS_ERR_ARG, "%s: either dy and x are present, or dgrad", name);
    if (!present(op, STATE) && !(op->flags & QS_FLAG_MEASURE))
        QS_FAIL(QS_ERR_ARG, "%s: state is absent", name);
    if (present(op, PULSES) && op->i[0] == QS_FSM_C8)
        QS_FAIL(QS_ERR_ARG, "%s: pulses are present, the machine c8 has none", name);
    QS_TRY(check_int(op, name, 7, "precision", 0, present(op, DGRAD) ? 0 : QS_PRECISIONS - 1));
fail:
    return status;
}

static qs_status extra_rule(const qs_op *op, const char *name)
{
    enum { SAMPLE = 4 };
    qs_status status = QS_OK;
    QS_TRY(check_int(op, name, 0, "fsm", 0, QS_FSM_C4));
    QS_TRY(check_fsm(op, name, SAMPLE));
fail:
    return status;
}

static qs_status extra_statistics(const qs_op *op, const char *name)
{
    qs_status status = QS_OK;
    QS_TRY(check_int(op, name, 0, "weights", 1, INT64_MAX));
    QS_TRY(check_float(op, name, 0, "beta", 0, 1));
    if (op->flags & QS_FLAG_FIRST)
        return QS_OK;
    QS_TRY(check_float(op, name, 1, "density", TINY, 1));
    QS_TRY(check_float(op, name, 2, "slope", TINY, FINITE));
fail:
    return status;
}

static qs_status extra_quantile(const qs_op *op, const char *name)
{
    int64_t weights;
    if (!qsi_mul(op->view[1].rows, op->view[1].cols, &weights))
        weights = INT64_MAX;
    return check_int(op, name, 0, "keep", 0, weights);
}

_Static_assert(QS_FSM_T2 < QS_FSM_C4 && QS_FSM_C2 < QS_FSM_C4 && QS_FSM_C4 < QS_FSM_C8, "extra_rule accepts t2, c2, c4");

/* ---- the table --------------------------------------------------------------------------------------------------- */

/* A required input, an input that may be absent, an output, an output that may be absent, an output that may be the very
 * view of the slots in `same`. */
#define IN(name, formats, rows, cols) {name, formats, rows, cols, 0, 0}
#define MAYBE(name, formats, rows, cols) {name, formats, rows, cols, ROLE_MAYBE, 0}
#define OUT(name, formats, rows, cols) {name, formats, rows, cols, ROLE_OUT, 0}
#define OUT_MAYBE(name, formats, rows, cols) {name, formats, rows, cols, ROLE_OUT | ROLE_MAYBE, 0}
#define OUT_SAME(same, name, formats, rows, cols) {name, formats, rows, cols, ROLE_OUT, same}
#define SLOT(slot) (1 << (slot))

static const op_rule rules[QS_OPS] = {
    [QS_OP_COPY] = {{
        OUT("y", ANY, 'M', 'N'), IN("x", ANY, 'M', 'N')}, 0, extra_copy},
    [QS_OP_EMBED] = {{
        OUT("y", F32, 'M', 'D'), IN("tokens", I32, '1', 'M'), IN("table", F32, 'V', 'D')}, 0, NULL},
    [QS_OP_EMBED_GRAD] = {{
        OUT("dtable", F32, 'V', 'D'), IN("tokens", I32, '1', 'M'), IN("dy", F32, 'M', 'D')}, QS_FLAG_ADD, NULL},
    [QS_OP_LINEAR] = {{
        OUT_SAME(SLOT(4), "y", F32, 'M', 'N'), IN("x", F32, 'M', 'K'), IN("w", W1 | F32, 'N', 'K'),
        MAYBE("scale", F16, '1', 'N'), MAYBE("addend", F32, 'M', 'N')}, 0, extra_linear},
    [QS_OP_LINEAR_DX] = {{
        OUT_SAME(SLOT(4), "dx", F32, 'M', 'K'), IN("dy", F32, 'M', 'N'), IN("w", W1 | F32, 'N', 'K'),
        MAYBE("scale", F16, '1', 'N'), MAYBE("addend", F32, 'M', 'K')}, 0, extra_linear},
    [QS_OP_LINEAR_DW] = {{
        OUT("dw", F32, 'N', 'K'), IN("dy", F32, 'M', 'N'), IN("x", F32, 'M', 'K')}, 0, extra_linear_dw},
    [QS_OP_RMSNORM] = {{
        OUT_SAME(SLOT(1), "y", F32, 'M', 'X'), IN("x", F32, 'M', 'X'), IN("gain", F32, '1', 'D')}, 0, extra_rmsnorm},
    [QS_OP_RMSNORM_GRAD] = {{
        OUT_SAME(SLOT(1) | SLOT(4), "dx", F32, 'M', 'X'), IN("dy", F32, 'M', 'X'), IN("x", F32, 'M', 'X'),
        IN("gain", F32, '1', 'D'), MAYBE("addend", F32, 'M', 'X'), OUT("partial", F32, '#', 'D')}, 0, extra_rmsnorm},
    [QS_OP_CHUNK_SUM] = {{
        OUT("out", F32, '1', 'D'), IN("partial", F32, 'C', 'D')}, 0, extra_factor},
    [QS_OP_ROPE] = {{
        OUT("x", F32, 'M', 'X'), IN("cosine", F32, 'P', 'J'), IN("sine", F32, 'P', 'J')}, QS_FLAG_INVERSE, extra_rope},
    [QS_OP_ATTENTION] = {{
        OUT("out", F32, 'Q', 'X'), IN("q", F32, 'Q', 'X'), IN("k", F32, 'T', 'Y'), IN("v", F32, 'T', 'Y'),
        OUT("lse", F32, 'Q', 'H')}, 0, extra_attention},
    [QS_OP_ATTENTION_GRAD] = {{
        OUT("dq", F32, 'Q', 'X'), OUT("dk", F32, 'T', 'Y'), OUT("dv", F32, 'T', 'Y'), IN("dout", F32, 'Q', 'X'),
        IN("q", F32, 'Q', 'X'), IN("k", F32, 'T', 'Y'), IN("v", F32, 'T', 'Y'), IN("out", F32, 'Q', 'X'),
        IN("lse", F32, 'Q', 'H')}, 0, extra_attention_grad},
    [QS_OP_SWIGLU] = {{
        OUT("y", F32, 'M', 'F'), IN("gate", F32, 'M', 'F'), IN("up", F32, 'M', 'F')}, 0, NULL},
    [QS_OP_SWIGLU_GRAD] = {{
        OUT_SAME(SLOT(3), "dgate", F32, 'M', 'F'), OUT_SAME(SLOT(4), "dup", F32, 'M', 'F'), IN("dy", F32, 'M', 'F'),
        IN("gate", F32, 'M', 'F'), IN("up", F32, 'M', 'F')}, 0, NULL},
    [QS_OP_SOFTMAX_STATS] = {{
        OUT("stats", F32, 'M', '3'), IN("logits", F32, 'M', 'N'), IN("targets", I32, '1', 'M')}, QS_FLAG_ADD, extra_symbols},
    [QS_OP_CROSS_ENTROPY] = {{
        IN("stats", F32, 'M', '3'), OUT("partial", F32, '#', '1')}, 0, NULL},
    [QS_OP_CROSS_ENTROPY_GRAD] = {{
        OUT("logits", F32, 'M', 'N'), IN("stats", F32, 'M', '3'), IN("targets", I32, '1', 'M')}, 0, extra_loss_grad},
    [QS_OP_SUM_SQUARES] = {{
        OUT("out", F32, '1', '1'), IN("x", F32, 'M', 'N'), MAYBE("row_scale", F16, '1', 'M')}, QS_FLAG_ADD, NULL},
    [QS_OP_CLIP_FACTOR] = {{
        OUT("out", F32, '1', '1'), IN("sum_squares", F32, '1', '1')}, 0, extra_clip},
    [QS_OP_ADAMW] = {{
        OUT("p", F32, 'R', 'N'), IN("g", F32, 'R', 'N'), OUT("m", F32, 'R', 'N'), OUT("v", F32, 'R', 'N'),
        MAYBE("factor", F32, '1', '1'), MAYBE("row_scale", F16, '1', 'R')}, 0, extra_adamw},
    [QS_OP_SCALES] = {{
        OUT("scale", F16, '1', 'N'), IN("master", F32, '1', 'N')}, 0, extra_factor},
    [QS_OP_BINARIZE] = {{
        OUT("w", W1, 'N', 'K'), IN("latent", F32, 'N', 'K'), OUT_MAYBE("counts", I32, '1', '4'),
        OUT_MAYBE("sample", W1, 'S', 'K')}, 0, extra_binarize},
    [QS_OP_SCALE_GRAD] = {{
        OUT("dmaster", F32, '1', 'N'), IN("w", W1, 'N', 'K'), IN("dw", F32, 'N', 'K')}, 0, extra_factor},
    [QS_OP_FSM_THRESHOLD] = {{
        OUT("a", F32, '1', 'N'), OUT("b", F32, '1', 'K'), OUT("theta", F32, '1', '1'), IN("r", F32, '1', 'N'),
        IN("c", F32, '1', 'K'), IN("control", F32, '1', '4')}, 0, extra_threshold},
    [QS_OP_FSM_VISIT] = {{
        OUT("w", W1, 'N', 'K'), OUT_MAYBE("state", LEVELS, 'N', 'K'), MAYBE("dy", F32, 'M', 'N'),
        MAYBE("x", F32, 'M', 'K'), IN("scale", F16, '1', 'N'), MAYBE("a", F32, '1', 'N'), MAYBE("b", F32, '1', 'K'),
        IN("theta", F32, '1', '1'), OUT("r_now", F32, '1', 'N'), OUT("c_now", F32, '1', 'K'),
        OUT("dmaster", F32, '1', 'N'), OUT("counts", I32, '1', '4'), MAYBE("dgrad", F32, 'N', 'K'),
        OUT_MAYBE("pulses", T2, 'N', 'K'), OUT_MAYBE("sample", W1, 'S', 'K'), MAYBE("anchor", W1, 'N', 'K')},
        QS_FLAG_MEASURE, extra_visit},
    [QS_OP_FSM_STATISTICS] = {{
        OUT("r", F32, '1', 'N'), OUT("c", F32, '1', 'K'), OUT("control", F32, '1', '4'), IN("r_now", F32, '1', 'N'),
        IN("c_now", F32, '1', 'K'), IN("counts", I32, '1', '4')}, QS_FLAG_FIRST, extra_statistics},
    [QS_OP_FSM_QUANTILE] = {{
        OUT("theta", F32, '1', '1'), IN("dgrad", F32, 'N', 'K'), IN("scale", F16, '1', 'N'),
        MAYBE("a", F32, '1', 'N'), MAYBE("b", F32, '1', 'K')}, 0, extra_quantile},
    [QS_OP_FSM_RULE] = {{
        OUT("w", W1, 'N', 'K'), OUT("state", LEVELS, 'N', 'K'), IN("pulses", T2, 'N', 'K'),
        OUT("counts", I32, '1', '4'), OUT_MAYBE("sample", W1, 'S', 'K'), MAYBE("anchor", W1, 'N', 'K')}, 0, extra_rule},
    [QS_OP_BOP] = {{
        OUT("w", W1, 'N', 'K'), OUT("average", F32, 'N', 'K'), IN("dgrad", F32, 'N', 'K'), IN("scale", F16, '1', 'N'),
        OUT_MAYBE("counts", I32, '1', '4'), OUT_MAYBE("sample", W1, 'S', 'K')}, 0, extra_bop},
};

static const char *const op_names[QS_OPS] = {
#define OP_TEXT(name, text, views, cls) text,
    QS_OP_LIST(OP_TEXT)
#undef OP_TEXT
};

static const uint8_t op_views[QS_OPS] = {
#define OP_VIEWS(name, text, views, cls) views,
    QS_OP_LIST(OP_VIEWS)
#undef OP_VIEWS
};

const char *qs_op_name(uint32_t code)
{
    return code < QS_OPS ? op_names[code] : NULL;
}

/* ---- the check --------------------------------------------------------------------------------------------------- */

/* Where a letter got its size. */
typedef struct binding {
    int64_t size;
    int slot;            /* which view bound it */
    bool is_rows;
} binding;

/* One side of one view against its letter; bound is indexed by letter - 'A'. */
static qs_status check_side(const qs_op *op, const op_rule *rule, int slot, bool is_rows, binding bound[26])
{
    qs_status status = QS_OK;
    const char *name = op_names[op->code], *text = rule->slot[slot].name, *side = is_rows ? "row" : "column";
    const qs_view *v = &op->view[slot];
    char letter = is_rows ? rule->slot[slot].rows : rule->slot[slot].cols;
    int64_t size = is_rows ? v->rows : v->cols;
    if (letter >= 'A' && letter <= 'Z') {
        binding *b = &bound[letter - 'A'];
        if (b->size == 0)
            *b = (binding){size, slot, is_rows};
        else if (b->size != size)
            QS_FAIL(QS_ERR_SHAPE, "%s: %s is [%lld,%lld], %s has %lld %ss", name, text, (long long)v->rows,
                    (long long)v->cols, rule->slot[b->slot].name, (long long)b->size, b->is_rows ? "row" : "column");
        return QS_OK;
    }
    int64_t need = letter == '#' ? qsi_ceil_div(bound['M' - 'A'].size, QS_TOKEN_CHUNK) : letter - '0';
    if (size != need)
        QS_FAIL(QS_ERR_SHAPE, "%s: %s is [%lld,%lld], must have %lld %s%s%s", name, text, (long long)v->rows,
                (long long)v->cols, (long long)need, side, need == 1 ? "" : "s",
                letter == '#' ? " (one per 256 tokens)" : "");
fail:
    return status;
}

static qs_status check_slot(const qs_context *context, const qs_op *op, const op_rule *rule, int slot, binding bound[26])
{
    qs_status status = QS_OK;
    const char *name = op_names[op->code];
    const slot_rule *s = &rule->slot[slot];
    const qs_view *v = &op->view[slot];
    if (!v->buffer && !(s->role & ROLE_MAYBE))
        QS_FAIL(QS_ERR_ARG, "%s: %s is absent", name, s->name);
    if (!v->buffer)
        return QS_OK;
    QS_TRY(qsi_view_check(context, v, name, s->name));
    if (!(s->formats >> v->format & 1))
        QS_FAIL(QS_ERR_ARG, "%s: %s is %s, which this op does not take", name, s->name,
                qs_format_name((qs_format)v->format));
    QS_TRY(check_side(op, rule, slot, true, bound));
    QS_TRY(check_side(op, rule, slot, false, bound));
fail:
    return status;
}

/* Whether two checked views share a byte. Exact for equal row distances (columns of one matrix may interleave without
 * overlapping); views of different distances overlap where their byte ranges do, unless rows have gaps. */
static bool overlap(const qs_view *a, const qs_view *b)
{
    if (a->buffer != b->buffer)
        return false;
    if (a->offset > b->offset) {
        const qs_view *t = a;
        a = b;
        b = t;
    }
    int64_t delta = (int64_t)(b->offset - a->offset);
    int64_t a_row = qs_row_bytes((qs_format)a->format, a->cols), b_row = qs_row_bytes((qs_format)b->format, b->cols);
    if (delta >= (a->rows - 1) * a->row_bytes + a_row)
        return false;
    if (a->row_bytes == b->row_bytes) {
        int64_t column = delta % a->row_bytes, row = delta / a->row_bytes;
        return column < a_row || (column + b_row > a->row_bytes && row + 1 < a->rows);
    }
    return (a_row == a->row_bytes || a->rows == 1) && (b_row == b->row_bytes || b->rows == 1);
}

static bool same_view(const qs_view *a, const qs_view *b)
{
    return a->buffer == b->buffer && a->offset == b->offset && a->row_bytes == b->row_bytes && a->format == b->format &&
           a->rows == b->rows && a->cols == b->cols;
}

static qs_status check_overlap(const qs_op *op, const op_rule *rule, int views)
{
    for (int i = 0; i < views; i++) {
        for (int j = 0; j < views && (rule->slot[i].role & ROLE_OUT) && present(op, i); j++) {
            if (i == j || !present(op, j) || !overlap(&op->view[i], &op->view[j]))
                continue;
            if ((rule->slot[i].same >> j & 1) && same_view(&op->view[i], &op->view[j]))
                continue;
            qsi_fail_text("%s: %s overlaps %s", op_names[op->code], rule->slot[i].name, rule->slot[j].name);
            return QS_ERR_ARG;
        }
    }
    return QS_OK;
}

qs_status qsi_op_check(const qs_context *context, const qs_op *op)
{
    qs_status status = QS_OK;
    binding bound[26] = {{0, 0, false}};
    if (op->size != sizeof *op || op->version != QS_OP_VERSION)
        QS_FAIL(QS_ERR_ARG, "an op of %u bytes, version %u; this library has %zu and %d", op->size, op->version, sizeof *op,
                (int)QS_OP_VERSION);
    if (op->code >= QS_OPS)
        QS_FAIL(QS_ERR_ARG, "op code %u does not exist", op->code);
    const op_rule *rule = &rules[op->code];
    const char *name = op_names[op->code];
    if (op->flags & ~rule->flags)
        QS_FAIL(QS_ERR_ARG, "%s: flags 0x%x, known are 0x%x", name, op->flags, rule->flags);
    for (int slot = 0; slot < op_views[op->code]; slot++)
        QS_TRY(check_slot(context, op, rule, slot, bound));
    for (int slot = op_views[op->code]; slot < QS_OP_VIEWS; slot++)
        if (present(op, slot))
            QS_FAIL(QS_ERR_ARG, "%s: view %d is present, the op has %d", name, slot, op_views[op->code]);
    if (rule->extra)
        QS_TRY(rule->extra(op, name));
    QS_TRY(check_overlap(op, rule, op_views[op->code]));
fail:
    return status;
}
