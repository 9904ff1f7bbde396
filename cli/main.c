/* main.c - the qsbits command: finds the command, parses its options, prints help. Uses the public API only. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "common.h"
#include "signals.h"

static const command *const COMMANDS[] = {
    &train_command, &eval_command, &generate_command, &inspect_command, &info_command, &signature_command, &bench_command,
};
enum { COMMAND_COUNT = sizeof COMMANDS / sizeof COMMANDS[0] };

static const struct { int code; const char *meaning; } EXIT_CODES[] = {
    {0, "done"},
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
};
enum { EXIT_CODE_COUNT = sizeof EXIT_CODES / sizeof EXIT_CODES[0] };

static void print_help(void)
{
    printf("qsbits %s - language models whose weights are one bit\n\nUsage: qsbits COMMAND [OPTION]...\n\nCommands:\n",
           qs_version());
    for (int i = 0; i < COMMAND_COUNT; i++)
        printf("  %-12s %s\n", COMMANDS[i]->name, COMMANDS[i]->summary);
    printf("\nqsbits COMMAND --help explains a command with all its options; qsbits --version prints the version.\n"
           "\nFirst run:\n"
           "  qsbits train --data book.txt --out run --steps 500\n"
           "  qsbits generate --model run --prompt \"The \" -n 400\n"
           "\nExit codes:\n");
    for (int i = 0; i < EXIT_CODE_COUNT; i++)
        printf("  %-4d %s\n", EXIT_CODES[i].code, EXIT_CODES[i].meaning);
    printf("\nEnvironment: NO_COLOR (no colours), QSBITS_CPU (kernel level), QSBITS_BACKEND_DIR (folder of plugins)\n");
}

static void print_command_help(const command *c)
{
    printf("Usage: qsbits %s%s%s%s%s [OPTION]...\n\n%s\n", c->name, c->operand == NULL ? "" : " ",
           c->operand == NULL ? "" : c->operand, c->required[0] == '\0' ? "" : " ", c->required, c->about);
    options_help(stdout, c);
    if (c->more_help != NULL)
        c->more_help(stdout);
    printf("\nExamples:\n  %s\n  %s\n\nExit codes:\n  0    done\n", c->examples[0], c->examples[1]);
    for (const int *code = c->exit_codes; *code != 0; code++)
        for (int i = 0; i < EXIT_CODE_COUNT; i++)
            if (EXIT_CODES[i].code == *code)
                printf("  %-4d %s\n", *code, EXIT_CODES[i].meaning);
}

static const command *find_command(const char *name)
{
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(COMMANDS[i]->name, name) == 0)
            return COMMANDS[i];
    return NULL;
}

static int fail_unknown_command(const char *name)
{
    const char *names[COMMAND_COUNT + 1];
    for (int i = 0; i < COMMAND_COUNT; i++)
        names[i] = COMMANDS[i]->name;
    names[COMMAND_COUNT] = NULL;
    const char *nearest = options_nearest(name, names);
    if (nearest != NULL)
        return fail_usage(NULL, "unknown command '%s'; did you mean %s? (qsbits --help lists all)", name, nearest);
    return fail_usage(NULL, "unknown command '%s'; see qsbits --help", name);
}

/* --help wins over everything else on the line, also over what is wrong there. */
static bool wants_help(int argc, char **argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

/* Threads that wait for each other spin for milliseconds by default, which is several times slower on a machine that does
 * something else as well; a short spin costs nothing on an idle one (docs/measurements.md, "Waiting"). The OpenMP runtime reads
 * its settings before main, so the program starts itself once more with the setting in place. */
static void wait_politely(char **argv)
{
    if (getenv("GOMP_SPINCOUNT") != NULL || getenv("OMP_WAIT_POLICY") != NULL || setenv("GOMP_SPINCOUNT", "1000", 1) != 0)
        return;
    char path[PATH_MAX];   /* the file's own name, so that ps and pkill know the process by it */
    const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length <= 0)
        return;
    path[length] = '\0';
    (void)execv(path, argv);
}

int main(int argc, char **argv)
{
    wait_politely(argv);
    signals_prepare();
    if (argc < 2)
        return fail_usage(NULL, "no command given; see qsbits --help");
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0) {
        printf("qsbits %s\n", qs_version());
        return flush_output(NULL);
    }
    const bool help = strcmp(name, "help") == 0;
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || (help && argc == 2)) {
        print_help();
        return flush_output(NULL);
    }
    const command *c = find_command(help ? argv[2] : name);
    if (c == NULL)
        return fail_unknown_command(help ? argv[2] : name);
    if (help || wants_help(argc - 2, argv + 2)) {
        print_command_help(c);
        return flush_output(c->name);
    }
    options o;
    const int code = options_parse(&o, c, argc - 2, argv + 2);
    return code != 0 ? code : c->run(&o);
}
