/* commands.c - the tables of commands.h. */
#include "commands.h"

#include <string.h>

const command *const COMMANDS[COMMAND_COUNT] = {
#define COMMAND_ROW(name) &name##_command,
    COMMAND_LIST(COMMAND_ROW)
#undef COMMAND_ROW
};

const explained PLAIN_WORDS[] = {
    {"help", "explain a command with all its options"},
    {"--help", "list the commands"},
    {"--version", "print the version"},
    {NULL, NULL},
};

const explained ENVIRONMENT[] = {
    {"NO_COLOR", "no colours on a terminal, unless it is empty"},
    {"QSBITS_CPU", "kernel level, as --cpu"},
    {"QSBITS_BACKEND_DIR", "absolute folder of plugins, instead of the library's"},
    {"OMP_WAIT_POLICY", "how threads wait for each other; without it and GOMP_SPINCOUNT they spin for a short time"},
    {NULL, NULL},
};

const exit_code EXIT_CODES[] = {
    {0, "done"},
    {1, "bench --compare: something became slower"},
    {64, "wrong usage: an unknown option, a value out of range, settings that disagree"},
    {65, "bad data: not a text or checkpoint, too short, damaged, a loss that is not finite"},
    {66, "no such input"},
    {69, "not supported here: a backend or device that is missing"},
    {70, "internal error"},
    {71, "out of memory"},
    {73, "cannot create the output, or it exists already"},
    {74, "input/output error: disk full, write failed"},
    {129, "stopped by SIGHUP; train has saved before"},
    {130, "stopped by SIGINT (Ctrl-C); train has saved before"},
    {143, "stopped by SIGTERM; train has saved before"},
    {0, NULL},
};

const char *const FIRST_RUN[] = {
    "qsbits train --data book.txt --out run --steps 500",
    "qsbits generate --model run --prompt \"The \" -n 400",
    NULL,
};

const command *find_command(const char *name)
{
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(COMMANDS[i]->name, name) == 0)
            return COMMANDS[i];
    return NULL;
}

char *command_usage(const command *c, char out[USAGE_TEXT])
{
    (void)snprintf(out, USAGE_TEXT, "%s%s%s%s%s [OPTION]...", c->name, c->operand == NULL ? "" : " ",
                   c->operand == NULL ? "" : c->operand, c->required[0] == '\0' ? "" : " ", c->required);
    return out;
}
