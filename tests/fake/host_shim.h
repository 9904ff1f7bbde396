/* host_shim.h - how the CPU backend, linked into the fake device, reaches the host. */
#ifndef HOST_SHIM_H
#define HOST_SHIM_H

#include "qsbits/backend.h"

/* Stored once by the query function; the same table for as long as the host lives. */
void shim_set_host(const qs_host_api *host);
const qs_host_api *shim_host(void);

/* What src/cpu would get from src/core/status.c and accounts.c. */
void qsi_fail_text(const char *format, ...) __attribute__((format(printf, 1, 2)));
qs_status qsi_account(qs_context *context, qs_memory_tag tag, int64_t bytes);

qs_backend_query_fn qsi_cpu_backend_query;

#endif
