/* test_op_check.c - qs_submit refuses what ops.h does not describe, and says why.
 *
 * One valid op of every code is built and submitted; then every view of it is bent in every way the check must notice.
 * A table of single mistakes pins the texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <math.h>
#include "qsbits/ops.h"

enum { M = 300, N = 64, K = 96, V = 11, HEAD = 8, SEQ = 60, BYTES = 8 << 20 };
enum { FIRST = 200, WHOLE = 300, SAMPLED = 3 * 2 };   /* the N rows lie in a matrix of two groups */

static qs_context *context;
static qs_queue *queue;
static qs_buffer *buffer;
static uint64_t used;   /* bytes of buffer given out */

/* A view of its own, with room for one more row and 32 more columns. */
static qs_view fresh(qs_format format, int64_t rows, int64_t cols)
{
    qs_view view = qs_view_at(buffer, used, format, rows, cols);
    used += ((uint64_t)(rows + 1) * (uint64_t)(view.row_bytes + 32 * 4) + 63) / 64 * 64;
    assert_true(used <= BYTES);
    return view;
}

static qs_view f32(int64_t rows, int64_t cols)
{
    return fresh(QS_F32, rows, cols);
}

static qs_fsm_visit valid_visit(void)
{
    qs_fsm_visit u;
    memset(&u, 0, sizeof u);
    u.w = fresh(QS_W1, N, K);
    u.state = fresh(QS_C4, N, K);
    u.dy = f32(M, N);
    u.x = f32(M, K);
    u.scale = fresh(QS_F16, 1, N);
    u.a = f32(1, N);
    u.b = f32(1, K);
    u.theta = f32(1, 1);
    u.r_now = f32(1, N);
    u.c_now = f32(1, K);
    u.dmaster = f32(1, N);
    u.counts = fresh(QS_I32, 1, 4);
    u.pulses = fresh(QS_T2, N, K);
    u.sample = fresh(QS_W1, SAMPLED, K);
    u.anchor = fresh(QS_W1, N, K);
    u.pull = 5;
    u.fsm = QS_FSM_C4;
    u.sticky = 256;
    u.base = 1;
    u.first_row = FIRST;
    u.whole_rows = WHOLE;
    return u;
}

static qs_op valid_fsm(qs_op_code code)
{
    qs_fsm_visit u = valid_visit();
    switch (code) {
    case QS_OP_FSM_THRESHOLD: return qs_op_fsm_threshold(u.a, u.b, u.theta, u.r_now, u.c_now, f32(1, 4), 1.0f);
    case QS_OP_FSM_VISIT: return qs_op_fsm_visit(&u);
    case QS_OP_FSM_STATISTICS:
        return qs_op_fsm_statistics(u.a, u.b, f32(1, 4), u.r_now, u.c_now, u.counts, 0.5f, 0.5f, 0.5f, N * K, 0);
    case QS_OP_FSM_QUANTILE: return qs_op_fsm_quantile(u.theta, f32(N, K), u.scale, u.a, u.b, 7);
    default: return qs_op_fsm_rule(&u);
    }
}

static qs_op valid_op(qs_op_code code)
{
    const qs_adamw adamw = {1e-3f, 0.9f, 0.95f, 1e-8f, 0, 0.1f, 0.05f};
    used = 0;
    switch (code) {
    case QS_OP_COPY: return qs_op_copy(fresh(QS_C4, M, K), fresh(QS_C4, M, K));
    case QS_OP_EMBED: return qs_op_embed(f32(M, N), fresh(QS_I32, 1, M), f32(V, N));
    case QS_OP_EMBED_GRAD: return qs_op_embed_grad(f32(V, N), fresh(QS_I32, 1, M), f32(M, N), 0);
    case QS_OP_LINEAR: return qs_op_linear(f32(M, N), f32(M, K), fresh(QS_W1, N, K), fresh(QS_F16, 1, N), f32(M, N));
    case QS_OP_LINEAR_DX: return qs_op_linear_dx(f32(M, K), f32(M, N), fresh(QS_W1, N, K), fresh(QS_F16, 1, N), f32(M, K));
    case QS_OP_LINEAR_DW: return qs_op_linear_dw(f32(N, K), f32(M, N), f32(M, K));
    case QS_OP_RMSNORM: return qs_op_rmsnorm(f32(M, N), f32(M, N), f32(1, 16), 1e-5f);
    case QS_OP_RMSNORM_GRAD:
        return qs_op_rmsnorm_grad(f32(M, N), f32(M, N), f32(M, N), f32(1, 16), f32(M, N), f32(2, 16), 1e-5f);
    case QS_OP_CHUNK_SUM: return qs_op_chunk_sum(f32(1, N), f32(3, N), 1);
    case QS_OP_ROPE: return qs_op_rope(f32(M, N), f32(SEQ, HEAD / 2), f32(SEQ, HEAD / 2), HEAD, SEQ, 0, 0);
    case QS_OP_ATTENTION:
        return qs_op_attention(f32(M, N), f32(M, N), f32(M, 16), f32(M, 16), f32(M, N / HEAD), HEAD, SEQ, SEQ);
    case QS_OP_ATTENTION_GRAD:
        return qs_op_attention_grad(f32(M, N), f32(M, 16), f32(M, 16), f32(M, N), f32(M, N), f32(M, 16), f32(M, 16),
                                    f32(M, N), f32(M, N / HEAD), HEAD, SEQ);
    case QS_OP_SWIGLU: return qs_op_swiglu(f32(M, N), f32(M, N), f32(M, N));
    case QS_OP_SWIGLU_GRAD: return qs_op_swiglu_grad(f32(M, N), f32(M, N), f32(M, N), f32(M, N), f32(M, N));
    case QS_OP_SOFTMAX_STATS: return qs_op_softmax_stats(f32(M, 3), f32(M, V), fresh(QS_I32, 1, M), 0, 0);
    case QS_OP_CROSS_ENTROPY: return qs_op_cross_entropy(f32(M, 3), f32(2, 1));
    case QS_OP_CROSS_ENTROPY_GRAD: return qs_op_cross_entropy_grad(f32(M, V), f32(M, 3), fresh(QS_I32, 1, M), 0, 1);
    case QS_OP_SUM_SQUARES: return qs_op_sum_squares(f32(1, 1), f32(M, N), fresh(QS_F16, 1, M), 0);
    case QS_OP_CLIP_FACTOR: return qs_op_clip_factor(f32(1, 1), f32(1, 1), 1);
    case QS_OP_ADAMW:
        return qs_op_adamw(f32(N, K), f32(N, K), f32(N, K), f32(N, K), f32(1, 1), fresh(QS_F16, 1, N), adamw);
    case QS_OP_SCALES: return qs_op_scales(fresh(QS_F16, 1, N), f32(1, N), 1);
    case QS_OP_BINARIZE:
        return qs_op_binarize(fresh(QS_W1, N, K), f32(N, K), fresh(QS_I32, 1, 4), fresh(QS_W1, SAMPLED, K), FIRST, WHOLE);
    case QS_OP_BOP:
        return qs_op_bop(fresh(QS_W1, N, K), f32(N, K), f32(N, K), fresh(QS_F16, 1, N), fresh(QS_I32, 1, 4),
                         fresh(QS_W1, SAMPLED, K), 0.1f, 0.1f, FIRST, WHOLE);
    case QS_OP_SCALE_GRAD: return qs_op_scale_grad(f32(1, N), fresh(QS_W1, N, K), f32(N, K), 1);
    default: return valid_fsm(code);
    }
}

static int view_count(qs_op_code code)
{
    static const int counts[] = {
#define OP_VIEWS(name, text, views, cls) views,
        QS_OP_LIST(OP_VIEWS)
#undef OP_VIEWS
    };
    return counts[code];
}

/* ---- every op, every view ---------------------------------------------------------------------------------------- */

static void assert_refused(const qs_op *op, qs_status want, const char *what, int slot)
{
    qs_status got = qs_submit(queue, op, 1);
    if (got == QS_OK || (want != QS_OK && got != want))
        fail_msg("%s: view %d with %s: status %d, %s", qs_op_name(op->code), slot, what, got, qs_last_error());
    if (strncmp(qs_last_error(), qs_op_name(op->code), strlen(qs_op_name(op->code))) != 0)
        fail_msg("%s: view %d with %s: \"%s\" does not name the op", qs_op_name(op->code), slot, what, qs_last_error());
}

/* All data zero: tokens and targets are then valid symbols. */
static void test_valid_ops(void **state)
{
    (void)state;
    uint8_t *zero = test_calloc(1, BYTES);
    for (int code = 0; code < QS_OPS; code++) {
        qs_op op = valid_op((qs_op_code)code);
        assert_int_equal(qs_write(queue, qs_view_at(buffer, 0, QS_U8, 1, BYTES), zero), QS_OK);
        if (qs_submit(queue, &op, 1) != QS_OK)
            fail_msg("%s refused: %s", qs_op_name((uint32_t)code), qs_last_error());
        assert_int_equal(qs_sync(queue), QS_OK);
    }
    test_free(zero);
    assert_int_equal(qs_submit(queue, NULL, 0), QS_OK);
}

static bool may_be_absent(int code, int slot)
{
    return ((code == QS_OP_LINEAR || code == QS_OP_LINEAR_DX || code == QS_OP_RMSNORM_GRAD) && slot == 4) ||
           (code == QS_OP_ADAMW && slot >= 4) || (code == QS_OP_FSM_QUANTILE && slot >= 3) ||
           (code == QS_OP_FSM_VISIT && (slot == 5 || slot == 6 || slot >= 13)) || (code == QS_OP_FSM_RULE && slot >= 4) ||
           (code == QS_OP_SUM_SQUARES && slot == 2) || (code == QS_OP_BINARIZE && slot >= 2) || (code == QS_OP_BOP && slot >= 4);
}

static void test_bent_views(void **state)
{
    (void)state;
    for (int code = 0; code < QS_OPS; code++) {
        for (int slot = 0; slot < view_count((qs_op_code)code); slot++) {
            qs_op op = valid_op((qs_op_code)code);
            const qs_view good = op.view[slot];
            if (!good.buffer)
                continue;
            qs_view *v = &op.view[slot];
            *v = qs_absent();
            if (!may_be_absent(code, slot))
                assert_refused(&op, QS_ERR_ARG, "no buffer", slot);
            *v = good, v->format = good.format == QS_U8 ? QS_F32 : QS_U8;
            assert_refused(&op, QS_ERR_ARG, "another format", slot);
            *v = good, v->format = QS_FORMATS;
            assert_refused(&op, QS_ERR_ARG, "no format", slot);
            *v = good, v->offset = BYTES - 64;
            if (good.rows * good.row_bytes > 64)
                assert_refused(&op, QS_ERR_SHAPE, "an offset near the end", slot);
            *v = good, v->offset = UINT64_MAX - 63;
            assert_refused(&op, QS_ERR_SHAPE, "an offset beyond everything", slot);
            *v = good, v->offset += 1;
            assert_refused(&op, QS_ERR_ARG, "an odd offset", slot);
            *v = good, v->row_bytes -= 4;
            assert_refused(&op, QS_ERR_ARG, "short rows", slot);
            *v = good, v->rows = INT64_MAX, v->row_bytes = INT64_MAX / 64 * 64;
            assert_refused(&op, QS_ERR_SHAPE, "an overflowing size", slot);
            *v = good, v->rows = 0;
            assert_refused(&op, QS_ERR_SHAPE, "no rows", slot);
            *v = qs_view_rows(good, 1, good.rows);
            assert_refused(&op, QS_ERR_SHAPE, "rows outside the view", slot);
        }
    }
}

/* Views whose rows or columns no other view repeats (301 tokens are as many chunks as 300). */
static bool free_side(int code, int slot, bool rows)
{
    return (!rows && code == QS_OP_SUM_SQUARES && slot == 1) || (rows && code == QS_OP_EMBED && slot == 2) ||
           (rows && code == QS_OP_EMBED_GRAD && slot == 0) || (rows && code == QS_OP_CHUNK_SUM && slot == 1) ||
           (rows && code == QS_OP_ROPE && slot == 0) || (!rows && code == QS_OP_SOFTMAX_STATS && slot == 1) ||
           (rows && code == QS_OP_CROSS_ENTROPY && slot == 0) || (!rows && code == QS_OP_CROSS_ENTROPY_GRAD && slot == 0);
}

static void test_bent_shapes(void **state)
{
    (void)state;
    for (int code = 0; code < QS_OPS; code++) {
        for (int slot = 0; slot < view_count((qs_op_code)code); slot++) {
            qs_op op = valid_op((qs_op_code)code);
            qs_view *v = &op.view[slot];
            if (!v->buffer)
                continue;
            v->rows += 1;
            if (!free_side(code, slot, true))
                assert_refused(&op, QS_ERR_SHAPE, "one more row", slot);
            v->rows -= 1;
            v->cols += v->format >= QS_W1 ? 32 : 1;
            v->row_bytes = qs_row_bytes((qs_format)v->format, v->cols);
            if (!free_side(code, slot, false))
                assert_refused(&op, QS_ERR_SHAPE, "more columns", slot);
        }
    }
}

static void test_overlap(void **state)
{
    (void)state;
    for (int code = 0; code < QS_OPS; code++) {   /* the first output on top of the second view */
        qs_op op = valid_op((qs_op_code)code);
        bool allowed = code == QS_OP_RMSNORM || code == QS_OP_RMSNORM_GRAD;
        op.view[0].offset = op.view[1].offset;
        if (allowed)
            assert_int_equal(qs_submit(queue, &op, 1), QS_OK);
        else
            assert_refused(&op, QS_ERR_ARG, "the memory of view 1", 0);
        op = valid_op((qs_op_code)code);
        op.view[1].offset = op.view[0].offset + (op.view[0].rows > 1 ? (uint64_t)op.view[0].row_bytes : 0);
        if (!allowed || op.view[0].rows > 1)
            assert_refused(&op, QS_ERR_ARG, "memory shifted by a row", 1);
    }
    qs_op op = valid_op(QS_OP_LINEAR);
    op.view[0] = op.view[4];
    assert_int_equal(qs_submit(queue, &op, 1), QS_OK);
    /* Column ranges of one matrix interleave without sharing a byte. */
    used = 0;
    qs_view wide = f32(M, 3 * N), part[3];
    for (int i = 0; i < 3; i++) {
        part[i] = wide;
        part[i].cols = N;
        part[i].offset += (uint64_t)(4 * N * i);
    }
    op = qs_op_swiglu(part[1], part[0], part[2]);
    assert_int_equal(qs_submit(queue, &op, 1), QS_OK);
    op.view[0].offset += 4;
    assert_refused(&op, QS_ERR_ARG, "columns shifted by one", 0);
}

/* ---- texts ------------------------------------------------------------------------------------------------------- */

static void says(qs_op op, qs_status want, const char *text)
{
    assert_int_equal(qs_submit(queue, &op, 1), want);
    if (!strstr(qs_last_error(), text))
        fail_msg("\"%s\" does not contain \"%s\"", qs_last_error(), text);
}

/* A valid op with one integer or float changed. */
static qs_op with_int(qs_op_code code, int index, int64_t value)
{
    qs_op op = valid_op(code);
    op.i[index] = value;
    return op;
}

static qs_op with_float(qs_op_code code, int index, float value)
{
    qs_op op = valid_op(code);
    op.f[index] = value;
    return op;
}

static qs_op with_flags(qs_op_code code, uint32_t flags)
{
    qs_op op = valid_op(code);
    op.flags = flags;
    return op;
}

static void test_shape_texts(void **state)
{
    (void)state;
    used = 0;
    qs_view scale = fresh(QS_F16, 1, 128);
    says(qs_op_linear(f32(4, 128), f32(4, 384), fresh(QS_W1, 128, 256), scale, qs_absent()), QS_ERR_SHAPE,
         "linear: w is [128,256], x has 384 columns");
    says(qs_op_linear(f32(4, 128), f32(4, 256), fresh(QS_W1, 128, 256), qs_absent(), qs_absent()), QS_ERR_ARG,
         "linear: scale is absent, w1 weights need one");
    says(qs_op_linear(f32(4, 128), f32(4, 256), f32(128, 256), scale, qs_absent()), QS_ERR_ARG,
         "linear: scale is present, f32 weights have none");
    says(qs_op_linear(f32(4, 128), f32(4, 256), fresh(QS_T2, 128, 256), scale, qs_absent()), QS_ERR_ARG,
         "linear: w is t2, which this op does not take");
    says(qs_op_with(qs_op_linear(f32(4, 128), f32(4, 256), f32(128, 256), qs_absent(), qs_absent()), QS_PRECISION_INT8), QS_ERR_ARG,
         "linear: precision of f32 weights is 1, must lie in 0..0");
    says(qs_op_with(qs_op_linear_dw(f32(N, K), f32(M, N), f32(M, K)), (qs_precision)QS_PRECISIONS), QS_ERR_ARG,
         "linear_dw: precision is 3, must lie in 0..2");
    const qs_view long_row = qs_view_at(scale.buffer, 0, QS_F32, 1, (1 << 17) + 32);
    says(qs_op_with(qs_op_linear(f32(1, 128), long_row, qs_view_at(scale.buffer, 0, QS_W1, 128, (1 << 17) + 32), scale, qs_absent()),
                    QS_PRECISION_INT8), QS_ERR_SHAPE, "linear: int8 sums of 131104 terms, at most 131072 are exact");
    says(qs_op_copy(f32(2, 32), fresh(QS_I32, 2, 32)), QS_ERR_ARG, "copy: y is f32, x is i32");
    says(qs_op_softmax_stats(f32(M, 2), f32(M, V), fresh(QS_I32, 1, M), 0, 0), QS_ERR_SHAPE,
         "softmax_stats: stats is [300,2], must have 3 columns");
    says(qs_op_cross_entropy(f32(M, 3), f32(3, 1)), QS_ERR_SHAPE,
         "cross_entropy: partial is [3,1], must have 2 rows (one per 256 tokens)");
    says(qs_op_rmsnorm(f32(4, 100), f32(4, 100), f32(1, 64), 0), QS_ERR_SHAPE,
         "rmsnorm: x has 100 columns, no multiple of the gain's 64");
    says(qs_op_embed(f32(4, 8), fresh(QS_I32, 2, 4), f32(V, 8)), QS_ERR_SHAPE, "embed: tokens is [2,4], must have 1 row");
    says(qs_op_attention(f32(4, 64), f32(4, 64), f32(4, 24), f32(4, 24), f32(4, 8), 8, 4, 4), QS_ERR_SHAPE,
         "attention: q has 8 heads, no multiple of the 3 of k");
    says(qs_op_attention(f32(4, 64), f32(4, 64), f32(6, 16), f32(6, 16), f32(4, 8), 8, 2, 4), QS_ERR_SHAPE,
         "not whole sequences of 2 and 4");
    says(qs_op_rope(f32(8, 64), f32(8, 4), f32(8, 4), 8, 8, 1, 0), QS_ERR_SHAPE,
         "rope: cosine has 8 rows, x needs 8 from position 1");
    says(qs_op_scales(fresh(QS_F16, 1, 64), qs_view_at(buffer, BYTES - 64, QS_F32, 1, 64), 1), QS_ERR_SHAPE,
         "scales: master is [1,64] f32 at offset 8388544, beyond its buffer of 8388608 bytes");
    says(qs_op_binarize(qs_view_at(buffer, 0, QS_W1, 2, 33), f32(2, 33), qs_absent(), qs_absent(), 0, 0), QS_ERR_SHAPE,
         "binarize: w has 33 columns, w1 needs a multiple of 32");
    says(with_int(QS_OP_BOP, 1, 512), QS_OK, "");
    says(with_int(QS_OP_BOP, 1, 513), QS_ERR_SHAPE, "bop: sample has 6 rows, a matrix of 513 rows needs 9");
}

static void test_scalar_texts(void **state)
{
    (void)state;
    says(with_int(QS_OP_FSM_VISIT, 0, QS_FSMS), QS_ERR_ARG, "fsm_visit: fsm is 4, must lie in 0..3");
    says(with_int(QS_OP_FSM_VISIT, 0, QS_FSM_C2), QS_ERR_ARG, "fsm_visit: state is c4, the machine c2 has c2");
    says(with_int(QS_OP_FSM_VISIT, 1, 257), QS_ERR_ARG, "fsm_visit: sticky is 257, must lie in 0..256");
    says(with_int(QS_OP_FSM_VISIT, 3, -1), QS_ERR_ARG, "fsm_visit: step is -1");
    says(with_int(QS_OP_FSM_VISIT, 4, 1 << 24), QS_ERR_ARG, "fsm_visit: tensor is 16777216");
    says(with_int(QS_OP_FSM_VISIT, 5, UINT32_MAX), QS_ERR_ARG, "fsm_visit: first_row is 4294967295");
    says(with_int(QS_OP_FSM_VISIT, 6, FIRST + N - 1), QS_ERR_ARG, "fsm_visit: whole_rows is 263, must lie in 264..4294967296");
    says(with_int(QS_OP_FSM_RULE, 6, INT64_MAX), QS_ERR_ARG, "fsm_rule: whole_rows is 9223372036854775807");
    says(with_int(QS_OP_FSM_VISIT, 8, -1), QS_ERR_ARG, "fsm_visit: pull is -1, must lie in 0..134217728");
    says(with_int(QS_OP_FSM_VISIT, 8, QS_PULL_MOST), QS_OK, "");
    says(with_int(QS_OP_FSM_RULE, 8, QS_PULL_MOST + 1), QS_ERR_ARG, "fsm_rule: pull is 134217729");
    says(with_int(QS_OP_BINARIZE, 0, -1), QS_ERR_ARG, "binarize: first_row is -1");
    says(with_int(QS_OP_BINARIZE, 0, INT64_MAX), QS_ERR_ARG, "binarize: first_row is 9223372036854775807");
    says(with_int(QS_OP_BOP, 1, 0), QS_ERR_ARG, "bop: whole_rows is 0");
    says(with_float(QS_OP_BOP, 0, 1.5f), QS_ERR_ARG, "bop: gamma is 1.5, must lie in 0..1");
    says(with_float(QS_OP_BOP, 1, NAN), QS_ERR_ARG, "bop: tau is nan");
    says(with_int(QS_OP_FSM_QUANTILE, 0, N * K + 1), QS_ERR_ARG, "fsm_quantile: keep is 6145, must lie in 0..6144");
    says(with_int(QS_OP_ROPE, 0, 0), QS_ERR_ARG, "rope: head_dim is 0");
    says(with_int(QS_OP_ROPE, 2, INT64_MAX), QS_ERR_SHAPE, "rope: cosine has 60 rows");
    says(with_int(QS_OP_ATTENTION, 2, SEQ - 1), QS_ERR_ARG, "attention: tkv is 59, must lie in 60..");
    says(with_int(QS_OP_ATTENTION_GRAD, 1, 0), QS_ERR_ARG, "attention_grad: seq is 0");
    says(with_int(QS_OP_FSM_STATISTICS, 0, 0), QS_ERR_ARG, "fsm_statistics: weights is 0");
    says(with_float(QS_OP_ADAMW, 1, 1.5f), QS_ERR_ARG, "adamw: beta1 is 1.5, must lie in 0..1");
    says(with_float(QS_OP_ADAMW, 0, NAN), QS_ERR_ARG, "adamw: lr is nan");
    says(with_float(QS_OP_ADAMW, 5, 0), QS_ERR_ARG, "adamw: c1 is 0");
    says(with_float(QS_OP_RMSNORM, 0, -1), QS_ERR_ARG, "rmsnorm: eps is -1");
    says(with_float(QS_OP_CLIP_FACTOR, 0, 0), QS_ERR_ARG, "clip_factor: the limit is 0");
    says(with_float(QS_OP_FSM_STATISTICS, 0, 2), QS_ERR_ARG, "fsm_statistics: beta is 2");
    says(with_float(QS_OP_CROSS_ENTROPY_GRAD, 0, INFINITY), QS_ERR_ARG, "cross_entropy_grad: the factor is inf");
    says(with_int(QS_OP_CROSS_ENTROPY_GRAD, 0, -1), QS_ERR_ARG, "cross_entropy_grad: first is -1, must lie in 0..2147483647");
    says(with_int(QS_OP_SOFTMAX_STATS, 0, INT64_MAX), QS_ERR_ARG, "softmax_stats: first is 9223372036854775807");
    says(with_flags(QS_OP_SOFTMAX_STATS, QS_FLAG_FIRST), QS_ERR_ARG, "softmax_stats: flags 0x8, known are 0x10");
    says(with_flags(QS_OP_LINEAR, QS_FLAG_ADD), QS_ERR_ARG, "linear: flags 0x10, known are 0x0");
}

static void test_anchor_texts(void **state)
{
    (void)state;
    enum { STATE = 1, ANCHOR_OF_RULE = 5, ANCHOR = 15 };
    qs_op op = valid_op(QS_OP_FSM_VISIT);
    op.view[ANCHOR] = qs_absent();
    says(op, QS_ERR_ARG, "fsm_visit: anchor is absent, pull is 5");
    op.i[8] = 0;
    says(op, QS_OK, "");
    op = valid_op(QS_OP_FSM_RULE);
    op.view[ANCHOR_OF_RULE] = qs_absent();
    says(op, QS_ERR_ARG, "fsm_rule: anchor is absent, pull is 5");
    op = valid_op(QS_OP_FSM_VISIT);
    op.i[0] = QS_FSM_C8;
    op.view[STATE] = fresh(QS_C8, N, K);
    says(op, QS_ERR_ARG, "fsm_visit: anchor is present, the machine c8 has none");
    op = valid_op(QS_OP_FSM_VISIT);
    op.view[ANCHOR] = op.view[0];
    says(op, QS_ERR_ARG, "fsm_visit: w overlaps anchor");
}

static void test_descriptor_texts(void **state)
{
    (void)state;
    qs_op op = valid_op(QS_OP_COPY);
    op.version = QS_OP_VERSION - 1;
    says(op, QS_ERR_ARG, "version 2");
    op = valid_op(QS_OP_COPY);
    op.code = QS_OPS;
    says(op, QS_ERR_ARG, "op code 29 does not exist");
    op = valid_op(QS_OP_COPY);
    op.view[2] = f32(1, 1);
    says(op, QS_ERR_ARG, "copy: view 2 is present, the op has 2");
    qs_fsm_visit u = valid_visit();
    u.dgrad = f32(N, K);
    says(qs_op_fsm_visit(&u), QS_ERR_ARG, "fsm_visit: either dy and x are present, or dgrad");
    used = 0;
    u = valid_visit();
    u.state = qs_absent();
    says(qs_op_fsm_visit(&u), QS_ERR_ARG, "fsm_visit: state is absent");
    used = 0;
    u = valid_visit();
    u.fsm = QS_FSM_C8;
    u.state = fresh(QS_C8, N, K);
    says(qs_op_fsm_rule(&u), QS_ERR_ARG, "fsm_rule: fsm is 3, must lie in 0..2");
    qs_op two[] = {valid_op(QS_OP_COPY), with_float(QS_OP_CLIP_FACTOR, 0, -1)};
    assert_int_equal(qs_submit(queue, two, 2), QS_ERR_ARG);
    assert_non_null(strstr(qs_last_error(), "(op 2 of 2)"));
}

/* ---- copies between host and device ------------------------------------------------------------------------------ */

static void test_write_read(void **state)
{
    (void)state;
    float out[6], in[6] = {1, 2, 3, 4, 5, 6};
    qs_view view = qs_view_at(buffer, 64, QS_F32, 2, 3);
    view.row_bytes = 64;
    assert_int_equal(qs_write(queue, view, in), QS_OK);
    assert_int_equal(qs_read(queue, view, out), QS_OK);
    assert_memory_equal(in, out, sizeof in);
    assert_int_equal(qs_read(queue, qs_view_rows(view, 1, 1), out), QS_OK);
    assert_memory_equal(in + 3, out, 3 * sizeof *in);
    assert_int_equal(qs_read(queue, qs_view_rows(view, 1, 2), out), QS_ERR_SHAPE);
    assert_int_equal(qs_write(queue, qs_absent(), in), QS_ERR_ARG);
    assert_int_equal(qs_write(queue, qs_view_at(buffer, BYTES, QS_F32, 1, 1), in), QS_ERR_SHAPE);
    uint32_t codes[2] = {0, 0xC0000000u};
    assert_int_equal(qs_write(queue, qs_view_at(buffer, 0, QS_T2, 1, 32), codes), QS_ERR_CORRUPT);
    assert_non_null(strstr(qs_last_error(), "row 0, column 31"));
}

static void test_foreign_buffer(void **state)
{
    (void)state;
    qs_options options;
    qs_options_default(&options);
    options.threads = 1;
    qs_context *other = NULL;
    qs_buffer *foreign = NULL;
    assert_int_equal(qs_open(&other, &options), QS_OK);
    assert_int_equal(qs_buffer_create(other, QS_MEMORY_OTHER, 4096, &foreign), QS_OK);
    used = 0;
    says(qs_op_clip_factor(f32(1, 1), qs_view_at(foreign, 0, QS_F32, 1, 1), 1), QS_ERR_ARG,
         "clip_factor: sum_squares lies in a buffer of another context");
    qs_buffer_free(&foreign);
    qs_close(&other);
}

static int setup(void **state)
{
    (void)state;
    qs_options options;
    qs_options_default(&options);
    options.threads = 1;
    if (qs_open(&context, &options) != QS_OK || qs_queue_create(context, &queue) != QS_OK)
        return -1;
    return qs_buffer_create(context, QS_MEMORY_OTHER, BYTES, &buffer) == QS_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    qs_buffer_free(&buffer);
    qs_queue_free(&queue);
    qs_close(&context);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_valid_ops),   cmocka_unit_test(test_bent_views),      cmocka_unit_test(test_bent_shapes),
        cmocka_unit_test(test_overlap),     cmocka_unit_test(test_shape_texts),     cmocka_unit_test(test_scalar_texts),
        cmocka_unit_test(test_write_read),  cmocka_unit_test(test_descriptor_texts), cmocka_unit_test(test_foreign_buffer),
        cmocka_unit_test(test_anchor_texts),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
