/* ops.c - queues: check, ask the backend, hand over. What a valid op is: op_check.c. */
#include "core/objects.h"

qs_status qs_queue_create(qs_context *context, qs_queue **out)
{
    qs_status status = QS_OK;
    qs_queue *queue = qsi_alloc(context, QS_MEMORY_OTHER, sizeof *queue);
    if (!queue)
        QS_TRY(QS_ERR_NOMEM);
    queue->context = context;
    QS_TRY(context->backend->queue_create(context->device, &queue->device_queue));
    *out = queue;
    return QS_OK;
fail:
    qsi_free(queue);
    return status;
}

void qs_queue_free(qs_queue **queue)
{
    if (!queue || !*queue)
        return;
    (*queue)->context->backend->queue_free((*queue)->device_queue);
    qsi_free(*queue);
    *queue = NULL;
}

static qs_status check_one(const qs_context *context, const qs_op *op)
{
    qs_status status = QS_OK;
    QS_TRY(qsi_op_check(context, op));
    if (!context->backend->supports(context->device, op))
        QS_FAIL(QS_ERR_UNSUPPORTED, "%s: the %s backend cannot run it as described", qs_op_name(op->code),
                context->backend->name);
fail:
    return status;
}

qs_status qs_submit(qs_queue *queue, const qs_op *ops, int64_t n)
{
    qs_status status = QS_OK;
    const qs_context *context = queue->context;
    if (n < 0 || (n > 0 && !ops))
        QS_FAIL(QS_ERR_ARG, "submit: %lld ops", (long long)n);
    for (int64_t i = 0; i < n; i++) {
        status = check_one(context, &ops[i]);
        if (status != QS_OK && n > 1)
            QS_FAIL(status, "%s (op %lld of %lld)", qs_last_error(), (long long)i + 1, (long long)n);
        QS_TRY(status);
    }
    if (n > 0)
        QS_TRY(context->backend->submit(queue->device_queue, ops, n));
fail:
    return status;
}

qs_status qs_sync(qs_queue *queue)
{
    return queue->context->backend->sync(queue->device_queue);
}
