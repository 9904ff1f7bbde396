/* plan_check.c - see plan_check.h. */
#include "plan_check.h"
#include "plan_fit.h"

enum { EXIT_MEMORY = 71 };

/* What there is of a pool, and who says so. */
static const char *limit_name(qs_memory_pool pool, const options *o)
{
    const option_id budget = pool == QS_POOL_RAM ? OPT_RAM_BUDGET : OPT_DEVICE_BUDGET;
    if (pool == QS_MEMORY_POOLS || !o->value[budget].given)
        return "this machine";
    return pool == QS_POOL_RAM ? "--ram-budget" : "--device-budget";
}

static int refuse(const options *o, const plan_case *c, const plan_verdict *v)
{
    static const char *const pools[] = {"RAM", "device memory", "memory"};
    char needed[16], available[16], changes[PLAN_TEXT];
    plan_case smaller;
    const bool found = plan_fit(c, KNOBS, &smaller);   /* what is harmless goes first */
    const bool harmless = found && smaller.training.batch == c->training.batch &&
                          smaller.training.active_parts == c->training.active_parts;
    if (!found)
        return fail_with(EXIT_MEMORY, o->command->name,
                         "the run needs %s of %s and %s of %s can be used (5%% are kept back); take a smaller model, or see what fits "
                         "with qsbits plan", human_bytes((double)v->needed, needed), pools[v->pool],
                         human_bytes((double)v->available, available), limit_name(v->pool, o));
    return fail_with(EXIT_MEMORY, o->command->name,
                     "the run needs %s of %s and %s of %s can be used (5%% are kept back); it fits with%s%s",
                     human_bytes((double)v->needed, needed), pools[v->pool], human_bytes((double)v->available, available),
                     limit_name(v->pool, o), plan_changes(c, &smaller, changes),
                     harmless ? ", which changes no result; --fit does it by itself" : "");
}

int plan_check(const options *o, const qs_context *context, const qs_model_config *model, qs_train_options *settings,
               qs_stream_options *stream)
{
    char changes[PLAN_TEXT];
    plan_verdict verdict;
    plan_case fitting, c = {.model = *model, .training = *settings, .in_place = stream != NULL,
                            .active_params = o->value[OPT_ACTIVE_PARAMS].integer};
    if (stream != NULL)
        c.stream = *stream;
    plan_set_limits(o, context, &c);
    const qs_status status = plan_weigh(&c, &verdict);
    if (status != QS_OK)
        return fail_library(o->command->name, status, NULL);
    if (verdict.fits)
        return 0;
    if (!o->value[OPT_FIT].given || !plan_fit(&c, KNOBS_HARMLESS, &fitting))
        return refuse(o, &c, &verdict);
    fprintf(stderr, "qsbits %s: to fit into memory:%s\n", o->command->name, plan_changes(&c, &fitting, changes));
    *settings = fitting.training;
    if (stream != NULL) {
        *stream = fitting.stream;
        if (plan_weigh(&fitting, &verdict) == QS_OK && c.limit[QS_POOL_RAM] != fitting.limit[QS_POOL_RAM])
            stream->ram_bytes = verdict.memory.bytes[QS_POOL_RAM][QS_MEMORY_WEIGHTS];
    }
    return 0;
}
