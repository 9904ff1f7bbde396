/* lora.c - what trains the adapters of a model (docs/numerics.md, "LoRA"): their moments and gradients. Without adapters nothing
 * of it exists. Moments belong to the state, because adapters are what trains the matrices. */
#include "train/train.h"

void qsi_lora_add(qs_trainer *t)
{
    const int64_t per_block = QSI_LORA_PARTS * QSI_MATRICES;
    for (int64_t i = 0; i < qsi_adapter_count(t->model); i++) {
        const int64_t listed = qsi_listed_block(t->model, i / per_block) * per_block + i % per_block;
        const qs_view value = t->model->adapters[listed].view;
        qsi_adam *a = &t->adapters[listed];
        a->value = value;
        qsi_arena_add(&t->state_arena, &a->m, QS_F32, value.rows, value.cols);
        qsi_arena_add(&t->state_arena, &a->v, QS_F32, value.rows, value.cols);
        qsi_arena_add(&t->gradient_arena, &a->grad, QS_F32, value.rows, value.cols);
    }
    for (int i = 0; i < QSI_MATRICES && qsi_adapter_count(t->model) > 0; i++)
        qsi_arena_add(&t->activation_arena, &t->grads.du[i], QS_F32, t->rows, t->model->config.lora_rank);
}

qs_status qsi_lora_gradients(qs_trainer *t, int64_t index, qs_view dy, qs_view x, qs_view u)
{
    qs_status status = QS_OK;
    if (qsi_adapter_count(t->model) == 0)
        return QS_OK;
    const qsi_adam *a = &t->adapters[QSI_LORA_PARTS * index];
    QS_TRY(qsi_run(t->model->queue, qs_op_linear_dw(a[QSI_LORA_A].grad, t->grads.du[index % QSI_MATRICES], x)));
    QS_TRY(qsi_run(t->model->queue, qs_op_linear_dw(a[QSI_LORA_B].grad, dy, u)));
fail:
    return status;
}
