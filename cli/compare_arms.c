/* compare_arms.c - see compare_arms.h. */
#include "compare_arms.h"

#include <stdlib.h>
#include <string.h>

static const char NAME[] = "compare";
static const char HOW[] = "write --arms fsm:c4,fsm:t2:literal,fsm:c8-2x4,fsm:c8/int8,ste@0.004,frozen";

/* Index of word (length bytes) among the choices of an option, -1 if it is none. */
static int choice(option_id id, int count, const char *word, size_t length)
{
    for (int i = 0; i < count; i++) {
        const char *text = options_choice_text(id, i);
        if (strlen(text) == length && memcmp(text, word, length) == 0)
            return i;
    }
    return -1;
}

static int fail_word(const char *what, const char *word, size_t length)
{
    return fail_usage(NAME, "--arms: no %s is called '%.*s'; %s", what, (int)length, word, HOW);
}

/* Length of text up to the sign, all of it where there is none. */
static size_t until(const char *text, size_t length, char sign)
{
    const char *at = memchr(text, sign, length);
    return at == NULL ? length : (size_t)(at - text);
}

/* Digits that are a number in 1..most; 0: they are not. */
static int parse_count(const char *text, size_t length, int most)
{
    long value = 0;
    for (size_t i = 0; i < length && value <= most; i++)
        value = text[i] >= '0' && text[i] <= '9' ? 10 * value + (text[i] - '0') : (long)most + 1;
    return value <= most ? (int)value : 0;
}

/* PARTS or PARTSxSWEEPS. */
static int parse_parts(arm *a, const char *text, size_t length)
{
    const size_t parts = until(text, length, 'x');
    a->parts = parse_count(text, parts, 1024);
    a->sweeps = parts < length ? parse_count(text + parts + 1, length - parts - 1, 1 << 20) : 0;
    if (a->parts == 0 || (parts < length && a->sweeps == 0))
        return fail_usage(NAME, "--arms: '%.*s' are no parts and sweeps; %s", (int)length, text, HOW);
    return 0;
}

/* The parts between colons, behind the optimizer. */
static int parse_machine(arm *a, const char *text, size_t length)
{
    const char *colon = memchr(text, ':', length);
    const size_t whole = colon == NULL ? length : (size_t)(colon - text), state = until(text, whole, '-');
    const int fsm = choice(OPT_FSM_STATE, QS_FSMS, text, state);
    if (fsm < 0)
        return fail_word("state", text, state);
    a->fsm = (qs_fsm)fsm;
    if (state < whole) {
        const int code = parse_parts(a, text + state + 1, whole - state - 1);
        if (code != 0)
            return code;
    }
    if (colon == NULL)
        return 0;
    const int recipe = choice(OPT_FSM_RECIPE, QS_RECIPE_EXACT + 1, colon + 1, length - whole - 1);
    if (recipe < 0)
        return fail_word("recipe", colon + 1, length - whole - 1);
    a->recipe = (qs_recipe)recipe;
    return 0;
}

static int parse_precision(arm *a, const char *text, size_t length)
{
    const int precision = choice(OPT_PRECISION, QS_PRECISIONS, text, length);
    if (precision < 0)
        return fail_word("precision", text, length);
    a->precision = (qs_precision)precision;
    if (a->optimizer == QS_OPTIMIZER_ADAMW && a->precision != QS_PRECISION_F32)
        return fail_usage(NAME, "--arms: adamw trains fp32 matrices in f32, not in %.*s; %s", (int)length, text, HOW);
    return 0;
}

static int parse_rate(arm *a, const char *text, size_t length)
{
    char number[32] = "";
    char *end = number;
    if (length < sizeof number)
        memcpy(number, text, length);
    a->lr = strtod(number, &end);
    if (end == number || *end != '\0' || !(a->lr >= 1e-12 && a->lr <= 1e30))
        return fail_usage(NAME, "--arms: '%.*s' is not a learning rate; %s", (int)length, text, HOW);
    return 0;
}

/* Tables and folders are named by what was resolved, so that ":c4" may be left away. */
static void name_arm(arm *a)
{
    char rate[32] = "", parts[32] = "";
    const bool fsm = a->optimizer == QS_OPTIMIZER_FSM, plain = a->recipe == QS_RECIPE_DEFAULT;
    const bool f32 = a->precision == QS_PRECISION_F32;
    if (a->lr > 0.0)
        (void)snprintf(rate, sizeof rate, "@%g", a->lr);
    if (a->parts > 0)
        (void)snprintf(parts, sizeof parts, a->sweeps > 0 ? "-%dx%d" : "-%d", a->parts, a->sweeps);
    (void)snprintf(a->name, sizeof a->name, "%s%s%s%s%s%s%s%s%s", options_choice_text(OPT_OPTIMIZER, a->optimizer), fsm ? ":" : "",
                   fsm ? options_choice_text(OPT_FSM_STATE, a->fsm) : "", parts, plain ? "" : ":",
                   plain ? "" : options_choice_text(OPT_FSM_RECIPE, a->recipe), f32 ? "" : "/",
                   f32 ? "" : qs_precision_name(a->precision), rate);
    (void)snprintf(a->folder, sizeof a->folder, "%.*s", (int)strcspn(a->name, "@"), a->name);
    for (char *c = a->folder; *c != '\0'; c++)
        if (*c == ':' || *c == '/')
            *c = '-';
}

static int parse_arm(arm *a, const char *text, size_t length)
{
    memset(a, 0, sizeof *a);
    a->fsm = QS_FSM_C4;
    const size_t whole = until(text, length, '@'), body = until(text, whole, '/'), head = until(text, body, ':');
    const int optimizer = choice(OPT_OPTIMIZER, QS_OPTIMIZERS, text, head);
    if (optimizer < 0)
        return fail_word("optimizer", text, head);
    a->optimizer = (qs_optimizer)optimizer;
    int code = 0;
    if (head < body && a->optimizer != QS_OPTIMIZER_FSM)
        return fail_usage(NAME, "--arms: '%.*s' takes no state, only fsm does; %s", (int)length, text, HOW);
    if (head < body)
        code = parse_machine(a, text + head + 1, body - head - 1);
    if (code == 0 && body < whole)
        code = parse_precision(a, text + body + 1, whole - body - 1);
    if (code == 0 && whole < length)
        code = parse_rate(a, text + whole + 1, length - whole - 1);
    name_arm(a);
    return code;
}

int arms_parse(const char *text, arm arms[MAX_ARMS], int *count)
{
    *count = 0;
    for (const char *start = text;; start++) {
        const size_t length = strcspn(start, ",");
        if (*count == MAX_ARMS)
            return fail_usage(NAME, "--arms names more than %d arms; compare fewer", MAX_ARMS);
        const int code = parse_arm(&arms[*count], start, length);
        if (code != 0)
            return code;
        for (int i = 0; i < *count; i++)
            if (strcmp(arms[i].name, arms[*count].name) == 0)
                return fail_usage(NAME, "--arms names %s twice; name each arm once", arms[i].name);
        ++*count;
        start += length;
        if (*start == '\0')
            return 0;
    }
}

int arms_find(const arm *arms, int count, qs_optimizer optimizer)
{
    for (int i = 0; i < count; i++)
        if (arms[i].optimizer == optimizer)
            return i;
    return -1;
}
