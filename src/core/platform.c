/* platform.c - what the machine offers: time, processors, memory, within the limits of affinity and control groups.
 *
 * Containers limit a process through cgroups, version 1 (a mount per controller) or 2 (one tree). The limit that
 * holds is the smallest from the group of the process up to the root, as far as the tree is visible. */
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "core/internal.h"

/* ---- control groups ---------------------------------------------------------------------------------------------- */

/* Reads up to two numbers of a small file; "max" counts as -1. Returns how many there were. */
static int read_numbers(const char *path, long long out[2])
{
    char text[128] = "";
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    char *got = fgets(text, sizeof text, file);
    fclose(file);
    int n = 0;
    for (char *save = NULL, *word = got ? strtok_r(text, " \n", &save) : NULL; word && n < 2; n++) {
        char *end;
        out[n] = strtoll(word, &end, 10);
        if (end == word)
            out[n] = -1;
        word = strtok_r(NULL, " \n", &save);
    }
    return n;
}

/* The limit one folder of a cgroup tree sets; a negative value when it sets none. */
typedef double limit_fn(const char *folder);

static double cpu_v2(const char *folder)
{
    char path[PATH_MAX + 32];
    long long n[2];
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    return read_numbers(path, n) == 2 && n[0] > 0 && n[1] > 0 ? (double)n[0] / (double)n[1] : -1;
}

static double cpu_v1(const char *folder)
{
    char path[PATH_MAX + 32];
    long long quota[2], period[2];
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (read_numbers(path, quota) < 1 || quota[0] <= 0)
        return -1;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    return read_numbers(path, period) >= 1 && period[0] > 0 ? (double)quota[0] / (double)period[0] : -1;
}

static double memory_v2(const char *folder)
{
    char path[PATH_MAX + 32];
    long long n[2];
    snprintf(path, sizeof path, "%s/memory.max", folder);
    return read_numbers(path, n) >= 1 && n[0] > 0 ? (double)n[0] : -1;
}

static double memory_v1(const char *folder)
{
    char path[PATH_MAX + 32];
    long long n[2];
    snprintf(path, sizeof path, "%s/memory.limit_in_bytes", folder);
    return read_numbers(path, n) >= 1 && n[0] > 0 ? (double)n[0] : -1;
}

/* The smallest limit from mount/group up to mount itself. */
static double smallest_limit(const char *mount, const char *group, limit_fn *limit)
{
    char folder[PATH_MAX];
    int length = snprintf(folder, sizeof folder, "%s%s", mount, group);
    if (length < 0 || (size_t)length >= sizeof folder)
        return -1;
    double best = -1;
    for (;;) {
        double here = limit(folder);
        if (here > 0 && (best < 0 || here < best))
            best = here;
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < strlen(mount))
            return best;
        *slash = '\0';
    }
}

/* True if the comma-separated list names the controller. */
static bool names_controller(char *list, const char *controller)
{
    for (char *save = NULL, *word = strtok_r(list, ",", &save); word; word = strtok_r(NULL, ",", &save))
        if (strcmp(word, controller) == 0)
            return true;
    return false;
}

double qsi_cgroup_limit(const char *membership, const char *root, const char *controller)
{
    bool cpu = strcmp(controller, "cpu") == 0;
    char line[PATH_MAX], mount[PATH_MAX];
    double best = -1;
    FILE *file = fopen(membership, "re");
    if (!file)
        return -1;
    while (fgets(line, sizeof line, file)) {   /* "id:controllers:/group"; version 2 has id 0 and no controllers */
        line[strcspn(line, "\n")] = '\0';
        char *list = strchr(line, ':'), *group = list ? strchr(list + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        list++;
        double limit = -1;
        if (!*list) {
            limit = smallest_limit(root, group, cpu ? cpu_v2 : memory_v2);
        } else if (names_controller(list, controller)) {
            snprintf(mount, sizeof mount, "%s/%s", root, controller);
            limit = smallest_limit(mount, group, cpu ? cpu_v1 : memory_v1);
        }
        if (limit > 0 && (best < 0 || limit < best))
            best = limit;
    }
    fclose(file);
    return best;
}

static double own_cgroup_limit(const char *controller)
{
    return qsi_cgroup_limit("/proc/self/cgroup", "/sys/fs/cgroup", controller);
}

/* ---- processors and memory --------------------------------------------------------------------------------------- */

/* Processors of the affinity mask; the mask of a large machine may exceed cpu_set_t. */
static int affinity_count(void)
{
    for (int size = 1024; size <= 1 << 20; size *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)size);
        if (!set)
            break;
        int failed = sched_getaffinity(0, CPU_ALLOC_SIZE((size_t)size), set);
        int count = failed ? 0 : CPU_COUNT_S(CPU_ALLOC_SIZE((size_t)size), set);
        CPU_FREE(set);
        if (!failed && count > 0)
            return count;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

int qsi_cpu_count(void)
{
    int count = affinity_count();
    double quota = own_cgroup_limit("cpu");
    if (quota > 0 && quota < count)
        count = (int)quota;
    return count < 1 ? 1 : count > 1024 ? 1024 : count;
}

uint64_t qsi_memory_total(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    double total = pages > 0 && page > 0 ? (double)pages * (double)page : 0, limit = own_cgroup_limit("memory");
    return (uint64_t)(limit > 0 && (limit < total || total <= 0) ? limit : total);
}

/* VmHWM is this program's own; ru_maxrss, the fallback, includes what the parent had at fork. */
uint64_t qs_peak_rss(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/self/status", "re");
    while (file && !kib && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %llu kB", &kib) != 1)
            kib = 0;
    if (file)
        fclose(file);
    if (!kib) {
        struct rusage usage;
        if (getrusage(RUSAGE_SELF, &usage) == 0)
            kib = (unsigned long long)usage.ru_maxrss;
    }
    return kib * 1024;
}
