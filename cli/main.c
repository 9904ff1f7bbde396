/* main.c - the qsbits command: finds the command, parses its options, prints help. Uses the public API only. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "common.h"
#include "signals.h"

static void print_help(void)
{
    printf("qsbits %s - language models whose weights are one bit\n\nUsage: qsbits COMMAND [OPTION]...\n\nCommands:\n",
           qs_version());
    for (int i = 0; i < COMMAND_COUNT; i++)
        printf("  %-12s %s\n", COMMANDS[i]->name, COMMANDS[i]->summary);
    printf("\nqsbits COMMAND --help explains a command with all its options; qsbits --version prints the version.\n"
           "\nFirst run:\n");
    for (const char *const *line = FIRST_RUN; *line != NULL; line++)
        printf("  %s\n", *line);
    printf("\nExit codes:\n");
    for (const exit_code *e = EXIT_CODES; e->meaning != NULL; e++)
        printf("  %-4d %s\n", e->code, e->meaning);
    printf("\nEnvironment:\n");
    for (const explained *e = ENVIRONMENT; e->name != NULL; e++)
        printf("  %-19s %s\n", e->name, e->meaning);
}

static void print_command_help(const command *c)
{
    char usage[USAGE_TEXT];
    printf("Usage: qsbits %s\n\n%s\n", command_usage(c, usage), c->about);
    options_help(stdout, c);
    if (c->more_help != NULL)
        c->more_help(stdout);
    printf("\nExamples:\n  %s\n  %s\n\nExit codes:\n  0    done\n", c->examples[0], c->examples[1]);
    for (const int *code = c->exit_codes; *code != 0; code++)
        for (const exit_code *e = EXIT_CODES; e->meaning != NULL; e++)
            if (e->code == *code)
                printf("  %-4d %s\n", *code, e->meaning);
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
