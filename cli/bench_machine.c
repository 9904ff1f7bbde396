/* bench_machine.c - see bench_machine.h. */
#include "bench_machine.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { REPEATS = 2, DEFAULT_L2 = 1 << 20, DEFAULT_L3 = 16 << 20, LEAST_MEMORY_BYTES = 64 << 20, MOST_CPUS = 4096 };
static const double BURST_SECONDS = 0.01;
static const char *const PLACE_NAMES[PLACES] = {"L2", "L3", "memory"};

/* ---- caches ---------------------------------------------------------------------------------------------------- */

/* First line of a file of the kernel about cache number index of a processor; false if there is none. */
static bool read_cache_file(int cpu, int index, const char *name, char text[64])
{
    char path[128];
    (void)snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cache/index%d/%s", cpu, index, name);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false;
    const bool got = fgets(text, 64, file) != NULL;
    (void)fclose(file);
    return got;
}

/* "1024K" of the cache called index, 0 if unknown. */
static int64_t cache_bytes(int index)
{
    char text[64], unit = 0;
    long long size = 0;
    if (!read_cache_file(0, index, "size", text) || sscanf(text, "%12lld%c", &size, &unit) < 1 || size <= 0)
        return 0;
    return unit == 'K' ? size << 10 : unit == 'M' ? size << 20 : size;
}

/* How many caches of that index the machine has: processors that are the first of those sharing theirs. */
static int64_t cache_count(int index)
{
    char text[64];
    int64_t count = 0;
    for (int cpu = 0; cpu < MOST_CPUS && read_cache_file(cpu, index, "shared_cpu_list", text); cpu++)
        count += atoi(text) == cpu;
    return count > 0 ? count : 1;
}

bench_caches bench_caches_of(const qs_device_info *device)
{
    /* what the kernel tells is right inside virtual machines where sysconf is not */
    const long l2 = sysconf(_SC_LEVEL2_CACHE_SIZE), l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
    bench_caches c = {cache_bytes(2), cache_bytes(3), 0, (int64_t)device->memory_bytes};
    c.l2 = c.l2 > 0 ? c.l2 : l2 > 0 ? l2 : DEFAULT_L2;
    c.l3 = c.l3 > 0 ? c.l3 : l3 > 0 ? l3 : DEFAULT_L3;
    c.last = c.l3 * cache_count(3);
    return c;
}

/* ---- rates ----------------------------------------------------------------------------------------------------- */

static qs_status raise(const bench_machine *m, qs_peak what, int64_t bytes, double *rate)
{
    double now = 0.0;
    const qs_status status = qs_cpu_peak(m->level, m->threads, what, (uint64_t)bytes, BURST_SECONDS, &now);
    *rate = now > *rate ? now : *rate;
    return status;
}

qs_status bench_machine_again(bench_machine *m)
{
    qs_status status = QS_OK;
    for (int i = 0; i < QS_PEAK_READ && status == QS_OK; i++)
        status = raise(m, (qs_peak)i, 0, &m->rate[i]);
    for (int i = 0; i < PLACES && status == QS_OK; i++)
        status = raise(m, QS_PEAK_READ, m->read_bytes[i], &m->read[i]);
    return status;
}

qs_status bench_machine_measure(const char *level, int threads, const bench_caches *caches, bench_machine *out)
{
    qs_status status = QS_OK;
    const int64_t most = caches->memory / 8, outside = 2 * caches->last;
    *out = (bench_machine){.level = level, .threads = threads};
    out->read_bytes[PLACE_L2] = caches->l2 / 2 * threads;
    out->read_bytes[PLACE_L3] = (threads > 1 ? caches->last : caches->l3) / 2;
    out->read_bytes[PLACE_MEMORY] = outside < LEAST_MEMORY_BYTES ? LEAST_MEMORY_BYTES : outside;
    for (int i = 0; i < PLACES; i++)
        if (out->read_bytes[i] > most && most > 1 << 20)
            out->read_bytes[i] = most;
    for (int i = 0; i < REPEATS && status == QS_OK; i++)
        status = bench_machine_again(out);
    return status;
}

/* Three quarters of a cache: the rest is for operands, results and scratch. */
static bench_place place_of(const bench_machine *m, const bench_caches *c, double resident)
{
    const double l3 = (double)(m->threads > 1 ? c->last : c->l3);
    if (resident <= 0.0 || resident > 0.75 * l3)
        return PLACE_MEMORY;
    return resident > 0.75 * (double)c->l2 * m->threads ? PLACE_L3 : PLACE_L2;
}

bench_limit bench_limit_of(const bench_machine *machine, const bench_caches *caches, const bench_work *work)
{
    bench_limit arithmetic = {0.0, ""};
    double best = 0.0;
    for (int i = 0; i < QS_PEAK_READ; i++) {
        if ((work->ways >> i & 1) == 0 || machine->rate[i] <= best)
            continue;
        best = machine->rate[i];
        arithmetic = (bench_limit){work->operations / best, qs_peak_name((qs_peak)i)};
    }
    const bench_place place = place_of(machine, caches, work->resident);
    const bench_limit reading = {work->bytes / machine->read[place], PLACE_NAMES[place]};
    return reading.seconds > arithmetic.seconds ? reading : arithmetic;
}

/* ---- output ---------------------------------------------------------------------------------------------------- */

static const char *const RATE_NAMES[QS_PEAK_READ] = {"clock",        "fp32 multiply-add", "fp32 tables",
                                                     "int16 tables", "int8 products",     "bf16 products"};

static void print_rates(const bench_machine *machines, int count, int peak)
{
    printf("  %-20s %-6s", RATE_NAMES[peak], peak == QS_PEAK_CLOCK ? "GHz" : "GOP/s");
    for (int i = 0; i < count; i++) {
        const double rate = machines[i].rate[peak] * 1e-9;
        if (peak == QS_PEAK_CLOCK)
            printf("%16.2f", rate / machines[i].threads);
        else if (rate > 0.0)
            printf("%16.1f", rate);
        else
            printf("%16s", "-");
    }
    printf("\n");
}

void bench_machine_print(const bench_machine *machines, int count)
{
    char text[32], size[16];
    printf("\n  %-27s", "at best");
    for (int i = 0; i < count; i++)
        printf("%16s", machines[i].level);
    printf("\n  %-27s", "");
    for (int i = 0; i < count; i++) {
        (void)snprintf(text, sizeof text, "%d thread%s", machines[i].threads, machines[i].threads == 1 ? "" : "s");
        printf("%16s", text);
    }
    printf("\n");
    for (int peak = 0; peak < QS_PEAK_READ; peak++)
        print_rates(machines, count, peak);
    for (int place = 0; place < PLACES; place++) {
        (void)snprintf(text, sizeof text, "%s, %s", PLACE_NAMES[place],
                       human_bytes((double)machines[count - 1].read_bytes[place], size));
        printf("  read %-15s %-6s", text, "GB/s");
        for (int i = 0; i < count; i++)
            printf("%16.1f", machines[i].read[place] * 1e-9);
        printf("\n");
    }
}

json_t *bench_machine_json(const bench_machine *machine)
{
    json_t *rates = json_object(), *reads = json_object();
    for (int i = 0; i < QS_PEAK_READ; i++)
        (void)json_object_set_new(rates, qs_peak_name((qs_peak)i), json_number(machine->rate[i]));
    for (int i = 0; i < PLACES; i++)
        (void)json_object_set_new(reads, PLACE_NAMES[i],
                                  json_pack("{s:I, s:f}", "bytes", (json_int_t)machine->read_bytes[i], "bytes_per_second",
                                            machine->read[i]));
    return json_pack("{s:s, s:i, s:o, s:o}", "level", machine->level, "threads", machine->threads, "rates", rates, "read",
                     reads);
}
