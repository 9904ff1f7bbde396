/* cmd_plan.c - qsbits plan: memory and time of a training before it is begun. */
#include <stdlib.h>

#include "commands.h"
#include "common.h"
#include "plan_run.h"
#include "settings.h"

static const char NAME[] = "plan";

/* A plan may be for another machine: what it measures must not run into its budgets. */
static int open_without_budgets(const options *o, qs_context **out)
{
    options free_of = *o;
    free_of.value[OPT_RAM_BUDGET].integer = free_of.value[OPT_DEVICE_BUDGET].integer = 0;
    return open_context(&free_of, out);
}

static int run(const options *o)
{
    qs_context *context = NULL;
    plan_run *p = malloc(sizeof *p);
    if (p == NULL)
        return fail_with(71, NAME, "no memory; close other programs");
    int code = settings_check_use(o);
    if (code == 0)
        code = open_without_budgets(o, &context);
    if (code == 0)
        code = plan_run_make(o, context, p);
    if (code == 0)
        code = o->value[OPT_JSON].given ? print_json(NAME, plan_run_json(p)) : plan_run_print(p);
    qs_close(&context);
    free(p);
    return code;
}

static void more_help(FILE *out)
{
    settings_list_presets(out);
    fprintf(out,
            "\nHow to read it:\n"
            "  memory        bytes of 16-bit and 8-bit AdamW, of ste, of fsm with all weights at once, and of fsm in phases, where\n"
            "                only the active part has a state and the rest streams from its file; fits: yes, offloaded (part of it\n"
            "                in RAM, moved in every step), no\n"
            "  round figures for the number in the preset's name or --weights, by multiplication alone, beside those of the shape\n"
            "  where it lies RAM and device by component; the CPU's device memory is RAM too, but counted apart; without budgets\n"
            "                both together may take what the machine has, less 5%%\n"
            "  tokens        the most of a step that fit, with what else can be given up (--recompute, --micro-batch)\n"
            "  rates         of this machine, or given: to plan for another one give all four and both budgets\n"
            "  time          products and transfers of a step; a transfer hides behind computing as far as it is shorter\n"
            "\nWithout --batch the largest up to 32 that fits, without --active-params as few parts as fit, without --steps as many\n"
            "that a weight gets about 10 pulses in a phase.\n");
}

static const int CODES[] = {64, 65, 66, 69, 70, 71, 74, 0};

const command plan_command = {
    .name = "plan",
    .bit = PLAN,
    .operand = "[MODEL|FILE]",
    .required = "",
    .summary = "memory and time of a training before it is begun, and the command line for it",
    .about =
        "Tells what training a model takes: bytes by component and where they lie, for AdamW, ste, fsm and fsm in phases side by\n"
        "side, whether it fits, how many tokens a step can have, time of a step, a phase and a sweep over all weights, and\n"
        "the command line to run. The model is a preset or a shape by options, a folder or model.safetensors of qsbits, or the\n"
        "config.json of a model on Hugging Face (or the folder it lies in). Nothing is trained and nothing written; rates that are\n"
        "not given are measured in about a second. Memory is what the library itself counts for that run, exact but for scratch of\n"
        "kernels, which is estimated from above; time is that of products and transfers, small operations come on top.",
    .examples = {"qsbits plan --preset 90b --active-params 1.5B --ram-budget 12GB --device-budget 8GB --link 32GB/s",
                 "qsbits plan Llama-3-8B/config.json --ctx 512 --json"},
    .exit_codes = CODES,
    .run = run,
    .more_help = more_help,
};
