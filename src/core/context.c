/* context.c - opening and closing a context: options, backend, device, log, and the host services a backend gets. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/objects.h"

const char *qs_version(void)
{
    return QSBITS_VERSION;
}

void qs_options_default(qs_options *options)
{
    *options = (qs_options){.struct_size = sizeof *options};
}

/* Options of an older caller are a prefix of ours; the rest keeps its default. */
static qs_status options_copy(const qs_options *given, qs_options *out)
{
    qs_status status = QS_OK;
    qs_options_default(out);
    if (given && (given->struct_size < offsetof(qs_options, threads) + sizeof given->threads ||
                  given->struct_size > sizeof *out))
        QS_FAIL(QS_ERR_ARG, "options have %zu bytes where this library knows %zu; start from qs_options_default",
                given->struct_size, sizeof *out);
    if (given)
        memcpy(out, given, given->struct_size);
    out->struct_size = sizeof *out;
    if (out->threads < 0 || out->threads > 1024)
        QS_FAIL(QS_ERR_ARG, "%d threads: 0 (automatic) or 1 to 1024", out->threads);
fail:
    return status;
}

static int64_t budget_of(uint64_t bytes) { return bytes == 0 || bytes > INT64_MAX ? INT64_MAX : (int64_t)bytes; }

qs_status qs_open(qs_context **out, const qs_options *options)
{
    qs_status status = QS_OK;
    qs_context *context = NULL;
    qs_options o;
    QS_TRY(options_copy(options, &o));
    if (!(context = calloc(1, sizeof *context)))
        QS_FAIL(QS_ERR_NOMEM, "cannot allocate a context");
    context->threads = o.threads ? o.threads : qsi_cpu_count();
    context->budget[QS_POOL_RAM] = budget_of(o.ram_budget);
    context->budget[QS_POOL_DEVICE] = budget_of(o.device_budget);
    context->log = o.log;
    context->log_user = o.log_user;
    const char *device = o.device ? o.device : "cpu", *level = o.cpu;
    if (!level && strcmp(device, "cpu") == 0)
        level = secure_getenv("QSBITS_CPU");
    QS_TRY(qsi_backend_find(device, o.backend_dir, &context->backend));
    QS_TRY(context->backend->open(context, level && *level ? level : NULL, context->threads, &context->device));
    *out = context;
    return QS_OK;
fail:
    free(context);
    return status;
}

void qs_close(qs_context **context)
{
    if (!context || !*context)
        return;
    (*context)->backend->close((*context)->device);
    free(*context);
    *context = NULL;
}

void qs_context_device(const qs_context *context, qs_device_info *info)
{
    memset(info, 0, sizeof *info);
    context->backend->info(context->device, info);
}

void qsi_log_line(qs_context *context, qs_log_level level, const char *format, ...)
{
    char text[512];
    if (!context || !context->log)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    context->log(context->log_user, level, text);
}
