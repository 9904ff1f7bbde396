/* signals.h - stopping cleanly: the first SIGINT, SIGTERM or SIGHUP sets a flag, the second ends the process. */
#ifndef QSBITS_CLI_SIGNALS_H
#define QSBITS_CLI_SIGNALS_H

/* Ignores signals that would end the process where a failed write should be reported instead (file size limit). */
void signals_prepare(void);

/* From here on the first signal only sets the flag; the second one exits at once with 128 + its number. A signal that
 * was ignored when the program started (nohup) stays ignored; a reader that closes our output ends nothing. */
void signals_catch(void);

/* Number of the signal that was caught, 0 if none. */
int signals_caught(void);

/* "SIGINT" for its number. */
const char *signals_name(int number);

#endif
