/* dry_run.c - see dry_run.h. Memory is planned from the shapes; the time is measured on the first steps of the run itself. */
#include "dry_run.h"

#include <math.h>
#include <stdlib.h>

#include "plan_fit.h"
#include "settings.h"

enum { TIMED_STEPS = 5, UNTIMED_STEPS = 2, SCHEDULE_ROWS = 10 };

typedef struct plan {
    plan_case run;
    plan_verdict verdict;
    double step_seconds;                 /* median of the timed steps, NaN where nothing was run */
} plan;

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Takes a few steps of the run, in memory only; the first ones, which still allocate, do not count. */
static int measure(training *t, plan *p)
{
    double seconds[TIMED_STEPS];
    int count = 0;
    qs_status status = qs_trainer_create(t->context, &t->model, &t->settings, t->text, &t->trainer);
    if (status == QS_OK && !t->from.needless)   /* time is the same with other weights */
        status = origin_start(&t->from, t->trainer);
    for (int i = 0; status == QS_OK && i < UNTIMED_STEPS + TIMED_STEPS && i < t->settings.steps; i++) {
        qs_step_info info;
        const double before = now_seconds();
        status = qs_trainer_step(t->trainer, &info);
        if (i >= UNTIMED_STEPS)
            seconds[count++] = now_seconds() - before;
    }
    if (status == QS_OK)
        status = qs_trainer_bits(t->trainer, &t->bits);
    if (status != QS_OK)
        return fail_library("train", status, NULL);
    qsort(seconds, (size_t)count, sizeof *seconds, by_size);
    if (count > 0)
        p->step_seconds = seconds[count / 2];
    return 0;
}

/* Of both pools together: what can be used, where there is a limit. */
static double available(const plan *p)
{
    const plan_case *c = &p->run;
    const double pools = (double)plan_usable(c->limit[QS_POOL_RAM]) + (double)plan_usable(c->limit[QS_POOL_DEVICE]);
    const double machine = (double)plan_usable(c->together);
    const bool both = c->limit[QS_POOL_RAM] > 0 && c->limit[QS_POOL_DEVICE] > 0;
    return both && (c->together == 0 || pools < machine) ? pools : machine;
}

static json_t *memory_json(const plan *p)
{
    json_t *memory = json_object();
    const qs_memory_plan *m = &p->verdict.memory;
    for (int tag = 0; tag < QS_MEMORY_TAGS; tag++)
        (void)json_object_set_new(memory, qs_memory_tag_name((qs_memory_tag)tag), json_integer((json_int_t)m->bytes[QS_MEMORY_POOLS][tag]));
    (void)json_object_set_new(memory, "all", json_integer((json_int_t)m->bytes[QS_MEMORY_POOLS][QS_MEMORY_TAGS]));
    (void)json_object_set_new(memory, "ram", json_integer((json_int_t)m->bytes[QS_POOL_RAM][QS_MEMORY_TAGS]));
    (void)json_object_set_new(memory, "device", json_integer((json_int_t)m->bytes[QS_POOL_DEVICE][QS_MEMORY_TAGS]));
    (void)json_object_set_new(memory, "available", json_integer((json_int_t)available(p)));
    return memory;
}

/* Steps at which the schedule is shown: the first, the last and evenly between. */
static int64_t shown_step(const training *t, int row)
{
    return (int64_t)((double)(t->settings.steps - 1) * row / SCHEDULE_ROWS + 0.5);
}

static json_t *schedule_json(const training *t)
{
    json_t *rows = json_array();
    for (int i = 0; i <= SCHEDULE_ROWS; i++) {
        qs_rates r;
        qs_train_rates(&t->settings, shown_step(t, i), &r);
        (void)json_array_append_new(rows, json_pack("{s:I, s:f, s:f, s:f, s:f, s:f}", "step", (json_int_t)shown_step(t, i) + 1,
                                                    "lr", r.lr, "matrix_lr", r.matrix_lr, "scale_lr", r.scale_lr, "density",
                                                    r.density, "amplitude", r.amplitude));
    }
    return rows;
}

static int print_plan_json(const training *t, const plan *p)
{
    json_t *result = training_config(t);
    (void)json_object_set_new(result, "memory", memory_json(p));
    (void)json_object_set_new(result, "fits", json_boolean(p->verdict.fits));
    (void)json_object_set_new(result, "schedule", schedule_json(t));
    (void)json_object_set_new(result, "step_seconds", json_number(p->step_seconds));
    (void)json_object_set_new(result, "seconds", json_number(p->step_seconds * (double)t->settings.steps));
    return print_json("train", result);
}

static void print_memory(const plan *p)
{
    char ram[16], device[16], most[16];
    const uint64_t *host = p->verdict.memory.bytes[QS_POOL_RAM], *there = p->verdict.memory.bytes[QS_POOL_DEVICE];
    printf("\nMemory\n  %-12s %10s %10s\n", "", "RAM", "device");
    for (int tag = 0; tag < QS_MEMORY_TAGS; tag++)
        if (host[tag] + there[tag] > 0)
            printf("  %-12s %10s %10s\n", qs_memory_tag_name((qs_memory_tag)tag), host[tag] > 0 ? human_bytes((double)host[tag], ram) : "-",
                   there[tag] > 0 ? human_bytes((double)there[tag], device) : "-");
    printf("  %-12s %10s %10s of %s%s\n", "together", human_bytes((double)host[QS_MEMORY_TAGS], ram),
           human_bytes((double)there[QS_MEMORY_TAGS], device), human_bytes(available(p), most),
           p->verdict.fits ? "" : ": does not fit; use a smaller shape, --micro-batch or --recompute");
}

static void print_schedule(const training *t)
{
    const bool fsm = t->settings.optimizer == QS_OPTIMIZER_FSM, moves = fsm && t->settings.fsm == QS_FSM_C8;
    printf("\nSchedule\n  %10s %12s %12s %12s%s\n", "step", "lr", "matrix lr", "scale lr",
           moves ? "    amplitude" : fsm ? "      density" : "");
    for (int i = 0; i <= SCHEDULE_ROWS; i++) {
        qs_rates r;
        qs_train_rates(&t->settings, shown_step(t, i), &r);
        printf("  %10lld %12.5g %12.5g %12.5g", (long long)shown_step(t, i) + 1, r.lr, r.matrix_lr, r.scale_lr);
        if (fsm)
            printf(" %12.5g", moves ? r.amplitude : r.density);
        putchar('\n');
    }
}

static int print_plan(const training *t, const plan *p)
{
    json_t *config = training_config(t);
    char *text = json_dumps(json_object_get(config, "options"), JSON_INDENT(2));
    training_tell_start(t);
    printf("Settings (a file for --config)\n%s\n", text == NULL ? "" : text);
    print_memory(p);
    print_schedule(t);
    if (isfinite(p->step_seconds)) {
        char clock[24];
        printf("\nTime\n  about %s for %lld steps, measured on %d; validations and checkpoints come on top\n",
               human_time(p->step_seconds * (double)t->settings.steps, clock), (long long)t->settings.steps,
               TIMED_STEPS);
    }
    free(text);
    json_decref(config);
    return flush_output("train");
}

static qs_status weigh(const training *t, plan *p)
{
    p->run = (plan_case){.model = t->model, .training = t->settings, .in_place = t->in_place};
    qs_stream_options_default(&p->run.stream);
    p->run.stream.slots = t->o.value[OPT_SLOTS].integer;
    plan_set_limits(&t->o, t->context, &p->run);
    return plan_weigh(&p->run, &p->verdict);
}

/* A model that is trained in place would be changed by steps, so none are taken. */
int dry_run(training *t)
{
    plan p = {.step_seconds = NAN};
    const qs_status status = weigh(t, &p);
    if (status != QS_OK)
        return fail_library("train", status, NULL);
    const int code = p.verdict.fits && !t->in_place ? measure(t, &p) : 0;
    if (code != 0)
        return code;
    return t->o.value[OPT_JSON].given ? print_plan_json(t, &p) : print_plan(t, &p);
}
