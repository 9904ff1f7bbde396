/* qsbits/fsm.h - the state machines that replace an optimizer for 1-bit weights.
 * Rules and their notation: docs/numerics.md, "The state machine". */
#ifndef QSBITS_FSM_H
#define QSBITS_FSM_H

#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* name, text, state format, levels per sign, default stickiness (in 1/256: a step away from the deepest state
 * happens with this probability; 256 = always) */
#define QS_FSM_LIST(X) \
    X(T2, "t2", QS_T2,   3,  13)  /* ternary 2-step inertia machine */ \
    X(C2, "c2", QS_C2,   4,  13)  /* chain of 4 levels */ \
    X(C4, "c4", QS_C4,  16, 256)  /* chain of 16 levels, the default */ \
    X(C8, "c8", QS_C8, 128, 256)  /* 8-bit level moved by stochastic rounding */

typedef enum qs_fsm {
#define QS_FSM_ENUM(name, text, format, levels, sticky) QS_FSM_##name,
    QS_FSM_LIST(QS_FSM_ENUM)
#undef QS_FSM_ENUM
    QS_FSMS
} qs_fsm;

/* A rule as data. state is the code stored in the format of the rule: level - 1 for chains (0..levels-1);
 * for t2 the T2 code (0: s = 0, 1: s = +1, 2: s = -1; 3 is invalid). w: 0 = -1, 1 = +1. pulse: 0 = none,
 * 1 = +1, 2 = -1 (T2 codes). c8 has no such table (its step is a number of levels): table_states is 0. */
typedef struct qs_fsm_rule {
    const char *name;
    qs_format format;
    int levels;
    int default_sticky;            /* 0..256 */
    int table_states;              /* 3, 4 or 16 */
    struct { uint8_t w, state; } next[2][16][3];
    uint8_t deepest[2][16];        /* 1 where (w, state) is the deepest state, which stickiness guards */
} qs_fsm_rule;

/* The rule of a machine; static storage, NULL outside the list. */
QS_API const qs_fsm_rule *qs_fsm_rule_of(qs_fsm fsm);

/* The machine called text ("c4"), or -1. */
QS_API int qs_fsm_by_name(const char *text);

#ifdef __cplusplus
}
#endif
#endif
