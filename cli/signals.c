/* signals.c - see signals.h. Handlers touch one volatile flag and call nothing but _exit. */
#include "signals.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

static const int CAUGHT[] = {SIGINT, SIGTERM, SIGHUP};

/* The one variable of the program that is not local: a handler can reach nothing else. */
static volatile sig_atomic_t caught;

static void on_signal(int number)
{
    if (caught != 0)
        _exit(128 + number);
    caught = number;
}

void signals_prepare(void)
{
    (void)signal(SIGXFSZ, SIG_IGN);
}

void signals_catch(void)
{
    struct sigaction action, old;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    (void)sigemptyset(&action.sa_mask);
    (void)signal(SIGPIPE, SIG_IGN);  /* a closed terminal or pipe must not end a training */
    for (size_t i = 0; i < sizeof CAUGHT / sizeof CAUGHT[0]; i++) {
        if (sigaction(CAUGHT[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            (void)sigaction(CAUGHT[i], &action, NULL);
    }
}

int signals_caught(void)
{
    return caught;
}

const char *signals_name(int number)
{
    return number == SIGINT ? "SIGINT" : number == SIGTERM ? "SIGTERM" : number == SIGHUP ? "SIGHUP" : "signal";
}
