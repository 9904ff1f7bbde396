/* compare_arms.h - the arms of a comparison: OPTIMIZER[:STATE[-PARTS[xSWEEPS]][:RECIPE]][/PRECISION][@LR], separated by commas. */
#ifndef QSBITS_CLI_COMPARE_ARMS_H
#define QSBITS_CLI_COMPARE_ARMS_H

#include "common.h"

enum { MAX_ARMS = 32, ARM_NAME = 96 };

typedef struct arm {
    char name[ARM_NAME];     /* as tables show it: "fsm:c4", "ste/int8@0.002" */
    char folder[ARM_NAME];   /* its part of a folder's name: "fsm-c4" */
    qs_optimizer optimizer;
    qs_fsm fsm;
    int parts, sweeps;       /* of the active set; 0: the default */
    qs_recipe recipe;
    qs_precision precision;
    double lr;               /* 0: the default of the optimizer */
} arm;

/* Fills arms[0..*count-1] from the text of --arms. 0 or 64 after a message. */
int arms_parse(const char *text, arm arms[MAX_ARMS], int *count);

/* Index of the first arm with this optimizer, -1 if there is none. */
int arms_find(const arm *arms, int count, qs_optimizer optimizer);

#endif
