/* plan_model.h - the shape that is planned: of options, of a model or a run, or of a config.json of Hugging Face. */
#ifndef QSBITS_CLI_PLAN_MODEL_H
#define QSBITS_CLI_PLAN_MODEL_H

#include <limits.h>
#include "common.h"

typedef struct plan_model {
    qs_model_config config;     /* resolved */
    char name[PATH_MAX];        /* what it came from, "preset 90b" */
    char file[PATH_MAX];        /* a large file of the model, "" if there is none: the disk to measure */
    bool native;                /* a model that can be trained in place as it is */
    double nominal;             /* weights for the round figures, 0: those of the shape */
} plan_model;

/* 0 or an exit code after a message. */
int plan_model_read(const options *o, qs_context *context, plan_model *out);

#endif
