/* threads.h - the only door to OpenMP. Results never depend on the number of threads: a task writes what no other writes. */
#ifndef QSI_THREADS_H
#define QSI_THREADS_H

#include <stdint.h>

/* fn(arg, task, thread) for task 0..tasks-1, thread 0..threads-1; tasks are handed out dynamically unless there is one
 * thread or one task, then in order in the calling thread. */
typedef void qsi_task_fn(void *arg, int64_t task, int thread);
void qsi_parallel_for(int threads, int64_t tasks, qsi_task_fn *fn, void *arg);

#endif
