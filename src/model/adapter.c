/* adapter.c - low-rank adapters of the 1-bit matrices (Hu et al., LoRA): y = scale (W x) + B (A x), A [r, K], B [N, r], F32.
 * LoRA's constant alpha / r stands in B, which starts at 0 and moves that many times as far (docs/numerics.md, "LoRA"), so that
 * plain products are all it takes. */
#include <math.h>
#include <stdio.h>
#include "model/model.h"

static void describe_part(qs_model *m, qsi_float *f, const qsi_matrix *x, const char *part, int64_t rows, int64_t cols)
{
    snprintf(f->name, sizeof f->name, "%.80s.%s", x->name, part);
    f->slab = 1 + x->id / QSI_MATRICES;
    qsi_arena_add(&m->weights, &f->view, QS_F32, rows, cols);
}

void qsi_adapters_describe(qs_model *m)
{
    const int64_t rank = m->config.lora_rank;
    for (int64_t l = 0; rank > 0 && l < m->config.layers; l++) {
        for (int i = 0; i < QSI_MATRICES; i++) {
            const qsi_matrix *x = qsi_matrix_of(m, qsi_listed_block(m, l), i);
            qsi_float *a = qsi_adapter_of(m, qsi_listed_block(m, l), i);
            describe_part(m, &a[QSI_LORA_A], x, "lora_A", rank, x->cols);
            describe_part(m, &a[QSI_LORA_B], x, "lora_B", x->rows, rank);
            a[QSI_LORA_A].deviation = (float)(1.0 / sqrt((double)x->cols));
        }
    }
}

qs_status qsi_adapter_forward(qs_model *m, int64_t block, int index, qs_view y, qs_view x, qs_view u)
{
    qs_status status = QS_OK;
    if (m->config.lora_rank == 0)
        return QS_OK;
    const qsi_float *a = qsi_adapter_of(m, block, index);
    QS_TRY(qsi_run(m->queue, qs_op_linear(u, x, a[QSI_LORA_A].view, qs_absent(), qs_absent())));
    QS_TRY(qsi_run(m->queue, qs_op_linear(y, u, a[QSI_LORA_B].view, qs_absent(), y)));
fail:
    return status;
}

qs_status qsi_adapter_backward(qs_model *m, int64_t block, int index, qs_view dx, qs_view dy, qs_view du)
{
    qs_status status = QS_OK;
    if (m->config.lora_rank == 0)
        return QS_OK;
    const qsi_float *a = qsi_adapter_of(m, block, index);
    QS_TRY(qsi_run(m->queue, qs_op_linear_dx(du, dy, a[QSI_LORA_B].view, qs_absent(), qs_absent())));
    QS_TRY(qsi_run(m->queue, qs_op_linear_dx(dx, du, a[QSI_LORA_A].view, qs_absent(), dx)));
fail:
    return status;
}
