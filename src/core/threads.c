/* threads.c - parallel loops; the only file with OpenMP in it, and it works without.
 *
 * The team always has the same size, even for fewer tasks: OpenMP keeps its threads between loops only while the
 * size stays. What goes wrong in a task travels in arg; the caller reports it. */
#ifdef _OPENMP
#include <omp.h>
#endif
#include "core/threads.h"

#ifdef _OPENMP
void qsi_parallel_for(int threads, int64_t tasks, qsi_task_fn *fn, void *arg)
{
    if (threads <= 1 || tasks <= 1) {
        for (int64_t task = 0; task < tasks; task++)
            fn(arg, task, 0);
        return;
    }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t task = 0; task < tasks; task++)
        fn(arg, task, omp_get_thread_num());
}
#else
void qsi_parallel_for(int threads, int64_t tasks, qsi_task_fn *fn, void *arg)
{
    (void)threads;
    for (int64_t task = 0; task < tasks; task++)
        fn(arg, task, 0);
}
#endif
