/* commands.h - the commands of qsbits, one file each. A new command: a file, a line here, a line in main.c. */
#ifndef QSBITS_CLI_COMMANDS_H
#define QSBITS_CLI_COMMANDS_H

#include "options.h"

extern const command train_command;
extern const command eval_command;
extern const command generate_command;
extern const command inspect_command;
extern const command info_command;
extern const command signature_command;
extern const command bench_command;

#endif
