/* commands.h - the commands of qsbits, one file cmd_<name>.c each, and what help, manual and completions tell about all of
 * them. A new command: a file and a word in COMMAND_LIST. */
#ifndef QSBITS_CLI_COMMANDS_H
#define QSBITS_CLI_COMMANDS_H

#include <stddef.h>
#include "options.h"

/* In the order of the help page. */
#define COMMAND_LIST(X) \
    X(train) X(plan) X(init) X(compare) X(eval) X(generate) X(report) X(inspect) X(info) X(signature) X(bench) X(completion) X(manual)

#define COMMAND_EXTERN(name) extern const command name##_command;
COMMAND_LIST(COMMAND_EXTERN)
#undef COMMAND_EXTERN

#define COMMAND_ONE(name) +1
enum { COMMAND_COUNT = 0 COMMAND_LIST(COMMAND_ONE) };
#undef COMMAND_ONE

extern const command *const COMMANDS[COMMAND_COUNT];

/* A word and what it means. */
typedef struct explained {
    const char *name, *meaning;
} explained;

/* Words in the place of a command that are none, and the variables that qsbits reads; both end with a name of NULL. */
extern const explained PLAIN_WORDS[];
extern const explained ENVIRONMENT[];

/* Ascending; ends with a meaning of NULL. */
typedef struct exit_code {
    int code;
    const char *meaning;
} exit_code;
extern const exit_code EXIT_CODES[];

/* Command lines of a first run; ends with NULL. */
extern const char *const FIRST_RUN[];

/* The command called name, NULL if there is none. */
const command *find_command(const char *name);

/* What stands behind "qsbits" in the usage line of a command, in out; returns out. */
enum { USAGE_TEXT = 160 };
char *command_usage(const command *c, char out[USAGE_TEXT]);

#endif
