/* host_shim.c - failing and booking through the host API. */
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include "host_shim.h"

static _Atomic(const qs_host_api *) stored;

void shim_set_host(const qs_host_api *host)
{
    atomic_store(&stored, host);
}

const qs_host_api *shim_host(void)
{
    return atomic_load(&stored);
}

void qsi_fail_text(const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    shim_host()->fail("%s", text);
}

qs_status qsi_account(qs_context *context, qs_memory_tag tag, int64_t bytes)
{
    return context ? shim_host()->account(context, tag, bytes) : QS_OK;
}
