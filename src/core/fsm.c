/* fsm.c - the state machines as constant data.
 *
 * The tables are written by macros from the definition of a level chain, and in full for t2; tests/test_core.c derives
 * every entry again from the written rule. Index order: next[w][state][pulse], pulse 0 none, 1 = +1, 2 = -1. */
#include <string.h>
#include "qsbits/fsm.h"

/* State s holds level s + 1. Support deepens up to K - 1, against loses a level; below the first, the weight flips and
 * lands on the first level of the other sign. */
#define SUPPORT(K, w, s) {(w), (s) + 1 < (K) ? (s) + 1 : (K) - 1}
#define AGAINST(w, s) {(s) > 0 ? (w) : 1 - (w), (s) > 0 ? (s) - 1 : 0}
#define NEGATIVE(K, s) {{0, (s)}, AGAINST(0, s), SUPPORT(K, 0, s)}
#define POSITIVE(K, s) {{1, (s)}, SUPPORT(K, 1, s), AGAINST(1, s)}
#define FOUR(ROW, K, s) ROW(K, s), ROW(K, (s) + 1), ROW(K, (s) + 2), ROW(K, (s) + 3)
#define SIXTEEN(ROW) FOUR(ROW, 16, 0), FOUR(ROW, 16, 4), FOUR(ROW, 16, 8), FOUR(ROW, 16, 12)

#define FSM_HEAD(text_, format_, levels_, sticky_) \
    .name = (text_), .format = (format_), .levels = (levels_), .default_sticky = (sticky_)

/* T2 codes of the state: 0 is s = 0, 1 is s = +1, 2 is s = -1. t = s + d; t = -2w flips to s = 0, t = +2w stays at w. */
#define FSM_TABLE_T2 \
    .table_states = 3, \
    .next = {{{{0, 0}, {0, 1}, {0, 2}}, {{0, 1}, {1, 0}, {0, 0}}, {{0, 2}, {0, 0}, {0, 2}}}, \
             {{{1, 0}, {1, 1}, {1, 2}}, {{1, 1}, {1, 1}, {1, 0}}, {{1, 2}, {1, 0}, {0, 0}}}}, \
    .deepest = {{[2] = 1}, {[1] = 1}}
#define FSM_TABLE_C2 \
    .table_states = 4, .next = {{FOUR(NEGATIVE, 4, 0)}, {FOUR(POSITIVE, 4, 0)}}, .deepest = {{[3] = 1}, {[3] = 1}}
#define FSM_TABLE_C4 \
    .table_states = 16, .next = {{SIXTEEN(NEGATIVE)}, {SIXTEEN(POSITIVE)}}, .deepest = {{[15] = 1}, {[15] = 1}}
#define FSM_TABLE_C8 .table_states = 0

static const qs_fsm_rule rules[QS_FSMS] = {
#define FSM_RULE(name, text, format, levels, sticky) {FSM_HEAD(text, format, levels, sticky), FSM_TABLE_##name},
    QS_FSM_LIST(FSM_RULE)
#undef FSM_RULE
};

const qs_fsm_rule *qs_fsm_rule_of(qs_fsm fsm)
{
    return (unsigned)fsm < QS_FSMS ? &rules[fsm] : NULL;
}

int qs_fsm_by_name(const char *text)
{
    for (int i = 0; i < QS_FSMS; i++)
        if (strcmp(rules[i].name, text) == 0)
            return i;
    return -1;
}
