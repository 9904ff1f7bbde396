/* qsbits/context.h - a context: one device, its threads, its memory accounts.
 *
 * Threads: a context may be shared for reading; objects made from it (queues, models, trainers, sessions)
 * belong to one thread at a time. A context must outlive everything made from it. */
#ifndef QSBITS_CONTEXT_H
#define QSBITS_CONTEXT_H

#include <stddef.h>
#include <stdint.h>
#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qs_context qs_context;

typedef enum qs_log_level { QS_LOG_DEBUG = 0, QS_LOG_INFO = 1, QS_LOG_WARNING = 2 } qs_log_level;

/* Receives one line without newline. Called from the thread that called the library. */
typedef void qs_log_fn(void *user, qs_log_level level, const char *text);

typedef struct qs_options {
    size_t struct_size;      /* set by qs_options_default */
    int threads;             /* 0: as many as affinity mask and cgroup quota allow; else 1..1024 */
    const char *cpu;         /* kernel level: NULL = $QSBITS_CPU or the best; "scalar", "avx2", "avx512" */
    const char *device;      /* NULL or "cpu"; else the name of a plugin ("cuda" loads
                                libqsbits-cuda.so from backend_dir) or its absolute path */
    const char *backend_dir; /* absolute folder of plugins; NULL = $QSBITS_BACKEND_DIR or the library's folder */
    qs_log_fn *log;          /* NULL: silent */
    void *log_user;
    uint64_t ram_budget;     /* bytes that may be booked in host memory at a time; 0: no limit */
    uint64_t device_budget;  /* and in device memory. The CPU's device memory is RAM as well, but a pool of its own */
} qs_options;

QS_API void qs_options_default(qs_options *options);

/* Opens a context. *out is owned by the caller (qs_close). options may be NULL.
 * Errors: ARG (unknown level, thread count), DEVICE (plugin missing or refused, with the reason), NOMEM. */
QS_API QS_CHECK qs_status qs_open(qs_context **out, const qs_options *options);

/* Frees the context and stores NULL; accepts NULL and pointer to NULL. */
QS_API void qs_close(qs_context **context);

/* Version of the library, "0.1.0". */
QS_API const char *qs_version(void);

/* What the context runs on. All strings live as long as the context. */
typedef struct qs_device_info {
    const char *backend;     /* "cpu", "cuda", ... */
    const char *description; /* processor or device name */
    const char *level;       /* kernel level in use, "" where levels do not exist */
    int threads;             /* worker threads, 1 on devices */
    uint64_t memory_bytes;   /* memory of the device (for the CPU: of machine and cgroup, the smaller) */
} qs_device_info;
QS_API void qs_context_device(const qs_context *context, qs_device_info *info);

/* CPU kernel levels known to this build, weakest first: name, and 1 if this machine can execute it.
 * Returns the number of levels; index outside 0..n-1 returns NULL. */
QS_API int qs_cpu_level_count(void);
QS_API const char *qs_cpu_level_name(int index, int *available);

/* Backends known by name: "cpu" and every libqsbits-<name>.so in backend_dir (NULL as in qs_options).
 * For each, calls fn(user, name, reason): reason is NULL if it can be used, else why it cannot. */
typedef void qs_backend_fn(void *user, const char *name, const char *reason);
QS_API QS_CHECK qs_status qs_backend_list(const char *backend_dir, qs_backend_fn *fn, void *user);

/* Memory accounts. Every byte the library allocates for this context, on host and device, is booked under one tag. */
#define QS_MEMORY_TAG_LIST(X) \
    X(WEIGHTS,     "weights")      /* packed or dense weights and fp16 scales */ \
    X(STATE,       "state")        /* of matrices: levels, statistics, scale masters, latents, moments */ \
    X(FLOATS,      "floats")       /* float parameters (embedding, head, norms) and RoPE tables */ \
    X(OPTIMIZER,   "optimizer")    /* AdamW moments of float parameters */ \
    X(ACTIVATIONS, "activations")  /* activations and their gradients */ \
    X(GRADIENTS,   "gradients")    /* of floats and row scales; dense or T2 ones of matrices (baselines, literal) */ \
    X(WORKSPACE,   "workspace")    /* scratch of kernels */ \
    X(KV_CACHE,    "kv-cache") \
    X(ACTIVE,      "active")       /* rows that train in a phase of a streamed model: weights and fp16 scales */ \
    X(SLOTS,       "slots")        /* device buffers through which slabs of a streamed model pass */ \
    X(DATA,        "data")         /* text and token windows */ \
    X(IO,          "io")           /* buffers for files */ \
    X(OTHER,       "other")

typedef enum qs_memory_tag {
#define QS_MEMORY_TAG_ENUM(name, text) QS_MEMORY_##name,
    QS_MEMORY_TAG_LIST(QS_MEMORY_TAG_ENUM)
#undef QS_MEMORY_TAG_ENUM
    QS_MEMORY_TAGS
} qs_memory_tag;

/* Where memory lies: the host's, or the device's (buffers and scratch of kernels). Each has a budget of its own; an allocation that
 * would exceed it fails with NOMEM, whose text names the pool, what is booked and what was asked for. */
typedef enum qs_memory_pool { QS_POOL_RAM, QS_POOL_DEVICE, QS_MEMORY_POOLS } qs_memory_pool;

typedef struct qs_memory_usage {
    uint64_t current_bytes;
    uint64_t peak_bytes;
    uint64_t allocations;    /* how many allocations were ever made; constant over a steady-state step */
} qs_memory_usage;

/* Bytes by pool and tag: of a run before it exists (qs_train_plan). As in accounts, the last pool is both together and the last tag the
 * sum of all. */
typedef struct qs_memory_plan {
    uint64_t bytes[QS_MEMORY_POOLS + 1][QS_MEMORY_TAGS + 1];
} qs_memory_plan;

/* The account of one tag in one pool (QS_MEMORY_POOLS: in both), or of all tags together for tag = QS_MEMORY_TAGS. A peak is that of
 * the sum asked for. */
QS_API void qs_memory_in(const qs_context *context, qs_memory_pool pool, qs_memory_tag tag, qs_memory_usage *usage);

/* The same in both pools together. */
QS_API void qs_memory(const qs_context *context, qs_memory_tag tag, qs_memory_usage *usage);
QS_API const char *qs_memory_tag_name(qs_memory_tag tag);

/* Most memory this process ever held, bytes: all of it, also what no context booked. */
QS_API uint64_t qs_peak_rss(void);

/* Sets every peak to the current value. */
QS_API void qs_memory_reset_peak(qs_context *context);

#ifdef __cplusplus
}
#endif
#endif
