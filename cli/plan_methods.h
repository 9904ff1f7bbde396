/* plan_methods.h - what training a shape takes in memory, component by component: by 16-bit and 8-bit AdamW from their bytes a weight, by
 * our optimizers from the library's own plan. */
#ifndef QSBITS_CLI_PLAN_METHODS_H
#define QSBITS_CLI_PLAN_METHODS_H

#include "plan_fit.h"

/* id, name, what it is */
#define PLAN_COMPONENT_LIST(X) \
    X(WEIGHTS,     "weights",     "1 bit each: of the file in RAM, the active ones on the device") \
    X(STATES,      "states",      "levels beside weights") \
    X(GRADIENTS,   "gradients",   "of matrices and row scales") \
    X(SCALES,      "scales",      "of rows, masters and moments; statistics") \
    X(FLOATS,      "floats",      "norms with gradients and moments, RoPE tables") \
    X(EMBEDDINGS,  "embeddings",  "and head, with gradients and moments") \
    X(ACTIVATIONS, "activations", "and their gradients; those of a validation") \
    X(SLOTS,       "slots",       "blocks of the model on the device") \
    X(BUFFERS,     "buffers",     "lists, scratch, token windows, page ends")

typedef enum plan_component {
#define PLAN_COMPONENT_ENUM(id, name, what) PLAN_##id,
    PLAN_COMPONENT_LIST(PLAN_COMPONENT_ENUM)
#undef PLAN_COMPONENT_ENUM
    PLAN_COMPONENTS
} plan_component;

#define PLAN_METHOD_LIST(X) \
    X(ADAMW16, "adamw-16bit", "AdamW 16 bit") \
    X(ADAMW8,  "adamw-8bit",  "AdamW 8 bit") \
    X(STE,     "ste",         "ste") \
    X(FSM,     "fsm",         "fsm") \
    X(PHASED,  "fsm-phased",  "fsm phased")

typedef enum plan_method {
#define PLAN_METHOD_ENUM(id, key, title) PLAN_BY_##id,
    PLAN_METHOD_LIST(PLAN_METHOD_ENUM)
#undef PLAN_METHOD_ENUM
    PLAN_METHODS
} plan_method;

/* What bytes follow from. */
typedef struct plan_counts {
    double weights, rows;       /* of all matrices */
    double active;              /* weights of the largest part */
    double embeddings, norms;   /* elements */
} plan_counts;

/* Bytes by pool (QS_MEMORY_POOLS: both) and component; the last component is the sum. */
typedef struct plan_parts {
    double bytes[QS_MEMORY_POOLS + 1][PLAN_COMPONENTS + 1];
} plan_parts;

const char *plan_component_name(plan_component component);
const char *plan_component_text(plan_component component);

plan_counts plan_count(const plan_case *c);

/* Bits of a state beside a weight of one bit. */
double plan_state_bits(qs_fsm fsm);

/* The components of a plan of c. */
plan_parts plan_split(const plan_case *c, const plan_counts *counts, const qs_memory_plan *memory);

/* All methods on the shape of c, which is the phased one. Errors: as qs_train_plan. */
qs_status plan_all_methods(const plan_case *c, const plan_counts *counts, plan_parts out[PLAN_METHODS]);

#endif
