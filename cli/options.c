/* options.c - parser and help of the option list of options.h. */
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common.h"

static const option_row LIST[OPTIONS] = {
#define OPTION_ROW(id, name, letter, kind, least, most, commands, traits, group, value, preset, help) \
    {name, letter, kind, (double)(least), (double)(most), commands, traits, group, value, preset, help},
    OPTION_LIST(OPTION_ROW)
#undef OPTION_ROW
};

enum { NAME_WIDTH = 27 };

const option_row *options_row(option_id id)
{
    return &LIST[id];
}

bool options_of(option_id id, const command *which)
{
    return (LIST[id].commands & which->bit) != 0;
}

bool options_is_setting(option_id id, const command *which)
{
    return options_of(id, which) && LIST[id].traits == SETTING;
}

/* ---- nearest word ---------------------------------------------------------------------------------------------- */

enum { WORD_LIMIT = 40 };

static int least3(int a, int b, int c)
{
    const int ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Edit distance with swaps of neighbours (optimal string alignment); words beyond WORD_LIMIT are far from everything. */
static int edit_distance(const char *a, const char *b)
{
    const size_t n = strlen(a), m = strlen(b);
    int d[WORD_LIMIT + 1][WORD_LIMIT + 1];
    if (n > WORD_LIMIT || m > WORD_LIMIT)
        return WORD_LIMIT;
    for (size_t i = 0; i <= n; i++)
        d[i][0] = (int)i;
    for (size_t j = 0; j <= m; j++)
        d[0][j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        for (size_t j = 1; j <= m; j++) {
            d[i][j] = least3(d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = least3(d[i][j], d[i - 2][j - 2] + 1, WORD_LIMIT);
        }
    }
    return d[n][m];
}

const char *options_nearest(const char *word, const char *const *candidates)
{
    const char *nearest = NULL;
    int best = WORD_LIMIT;
    for (; *candidates != NULL; candidates++) {
        const int distance = edit_distance(word, *candidates);
        if (distance < best) {
            best = distance;
            nearest = *candidates;
        }
    }
    return best <= 1 + (int)strlen(word) / 3 ? nearest : NULL;
}

/* ---- values ---------------------------------------------------------------------------------------------------- */

/* Copies choice number index of "a|b|" to out; false when there is none. */
static bool nth_choice(const char *choices, int64_t index, char *out, size_t out_bytes)
{
    for (const char *start = choices; *start != '\0'; index--) {
        const size_t length = strcspn(start, "|");
        if (index == 0 && length < out_bytes) {
            memcpy(out, start, length);
            out[length] = '\0';
            return true;
        }
        start += length + (start[length] == '|');
    }
    return false;
}

static int64_t choice_index(const char *choices, const char *text)
{
    char choice[WORD_LIMIT];
    for (int64_t i = 0; nth_choice(choices, i, choice, sizeof choice); i++)
        if (strcmp(choice, text) == 0)
            return i;
    return -1;
}

static bool set_integer(const options *o, const option_row *row, option_value *v, const char *where, const char *text)
{
    char *end = NULL;
    errno = 0;
    const long long parsed = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || text[strspn(text, "+-0123456789")] != '\0') {
        (void)fail_usage(o->command->name, "%s '%s' is not a whole number; give one such as %s 10", where, text, where);
        return false;
    }
    /* INT64_MAX is not a double: the range check of such rows is that of the parser */
    if (errno == ERANGE || (double)parsed < row->least || (double)parsed > row->greatest) {
        (void)fail_usage(o->command->name, "%s %s is out of range; give a number from %.0f to %.0f", where, text, row->least,
                         row->greatest);
        return false;
    }
    v->integer = parsed;
    return true;
}

static bool set_real(const options *o, const option_row *row, option_value *v, const char *where, const char *text)
{
    char *end = NULL;
    const double parsed = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(parsed)) {
        (void)fail_usage(o->command->name, "%s '%s' is not a number; give one such as %s 0.01", where, text, where);
        return false;
    }
    if (parsed < row->least || parsed > row->greatest) {
        (void)fail_usage(o->command->name, "%s %s is out of range; give a number from %g to %g", where, text, row->least,
                         row->greatest);
        return false;
    }
    v->real = parsed;
    return true;
}

/* The factor of a unit behind a number: K, M, G or B, T in steps of 1000, or of 1024 with an i behind them, perhaps of bytes (B) or
 * operations (OP); 0 if there is none such. */
static double unit_factor(const char *unit)
{
    static const char letters[] = "kmgt";
    const char first = *unit == 'B' && unit[1] == '\0' ? 'g' : (char)tolower((unsigned char)*unit);   /* B alone: billions */
    const char *at = first != '\0' ? strchr(letters, first) : NULL;
    if (*unit == '\0' || at == NULL)
        return *unit == '\0' ? 1.0 : 0.0;
    const double base = unit[1] == 'i' ? 1024.0 : 1000.0;
    const char *rest = unit + (unit[1] == 'i' ? 2 : 1);
    return *rest == '\0' || strcmp(rest, "B") == 0 || strcmp(rest, "OP") == 0 ? pow(base, (double)(at - letters + 1)) : 0.0;
}

static bool set_amount(const options *o, const option_row *row, option_value *v, const char *where, const char *text)
{
    char *end = NULL, plain[WORD_LIMIT];
    const bool bytes = strcmp(row->value, "SIZE") == 0, rate = strcmp(row->value, "RATE") == 0;
    const size_t length = strlen(text), second = rate && length > 2 && strcmp(text + length - 2, "/s") == 0 ? 2 : 0;
    (void)snprintf(plain, sizeof plain, "%.*s", length < sizeof plain ? (int)(length - second) : 0, text);
    const double number = strtod(plain, &end), factor = end == plain || !isfinite(number) ? 0.0 : unit_factor(end);
    if (factor == 0.0) {
        (void)fail_usage(o->command->name, "%s '%s' is no %s; give one such as %s %s", where, text,
                         bytes ? "size" : rate ? "rate" : "number", where, bytes ? "12GB or 512MiB" : rate ? "32GB/s" : "1.5B or 300M");
        return false;
    }
    if (!(number * factor >= row->least && number * factor <= row->greatest)) {
        (void)fail_usage(o->command->name, "%s %s is out of range; give %.0f or more", where, text, row->least);
        return false;
    }
    v->integer = (int64_t)(number * factor);
    return true;
}

static bool set_value(options *o, option_id id, const char *where, const char *text)
{
    const option_row *row = &LIST[id];
    option_value *v = &o->value[id];
    if (row->kind == INT && !set_integer(o, row, v, where, text))
        return false;
    if (row->kind == REAL && !set_real(o, row, v, where, text))
        return false;
    if (row->kind == AMOUNT && !set_amount(o, row, v, where, text))
        return false;
    if (row->kind == CHOICE) {
        const int64_t index = choice_index(row->value, text);
        if (index < 0) {
            (void)fail_usage(o->command->name, "%s '%s' is unknown; give one of %.*s", where, text,
                             (int)strlen(row->value) - 1, row->value);
            return false;
        }
        v->integer = index;
    }
    if (row->kind == FLAG) {
        v->integer = strcmp(text, "true") == 0;
        if (!v->integer && strcmp(text, "false") != 0) {
            (void)fail_usage(o->command->name, "%s '%s' is neither true nor false; give one of them", where, text);
            return false;
        }
    }
    v->text = text;
    return true;
}

bool options_set(options *o, option_id id, const char *where, const char *text)
{
    if (!set_value(o, id, where, text))
        return false;
    o->value[id].given = true;
    return true;
}

const char *options_choice_text(option_id id, int64_t index)
{
    static const char *const optimizer[] = {
#define ROW(name, text, what) text,
        QS_OPTIMIZER_LIST(ROW)
#undef ROW
    };
    static const char *const fsm[] = {
#define ROW(name, text, format, levels, sticky) text,
        QS_FSM_LIST(ROW)
#undef ROW
    };
    static const char *const recipe[] = {"default", "literal", "exact"};
    static const char *const schedule[] = {"cosine", "linear", "constant"};
    static const char *const by[] = {"rows", "blocks"}, *const order[] = {"bottom-up", "top-down", "random"};
    switch (id) {
    case OPT_OPTIMIZER: return optimizer[index];
    case OPT_FSM_STATE: return fsm[index];
    case OPT_FSM_RECIPE: return recipe[index];
    case OPT_PRECISION: return qs_precision_name((qs_precision)index);
    case OPT_SCHEDULE: return schedule[index];
    case OPT_ACTIVE_BY: return by[index];
    case OPT_ACTIVE_ORDER: return order[index];
    default: return "";
    }
}

/* ---- arguments ------------------------------------------------------------------------------------------------- */

/* The option called name (length bytes) of a command, OPTIONS if there is none. */
static option_id find_long(const command *which, const char *name, size_t length)
{
    for (int i = 0; i < OPTIONS; i++)
        if ((LIST[i].commands & which->bit) != 0 && strlen(LIST[i].name) == length &&
            memcmp(LIST[i].name, name, length) == 0)
            return (option_id)i;
    return OPTIONS;
}

static option_id find_short(const command *which, char letter)
{
    for (int i = 0; i < OPTIONS; i++)
        if ((LIST[i].commands & which->bit) != 0 && LIST[i].letter == letter)
            return (option_id)i;
    return OPTIONS;
}

static int fail_unknown(const command *which, const char *argument, size_t length)
{
    const char *names[OPTIONS + 1];
    char word[WORD_LIMIT + 1] = "";
    int count = 0;
    const char *name = argument + strspn(argument, "-");
    const size_t name_length = length - (size_t)(name - argument);
    for (int i = 0; i < OPTIONS; i++)
        if ((LIST[i].commands & which->bit) != 0)
            names[count++] = LIST[i].name;
    names[count] = NULL;
    if (name_length <= WORD_LIMIT) {
        memcpy(word, name, name_length);
        const char *nearest = name_length < 2 ? NULL : options_nearest(word, names);
        if (nearest != NULL)
            return fail_usage(which->name, "unknown option %.*s; did you mean --%s? (qsbits %s --help lists all)",
                              (int)length, argument, nearest, which->name);
    }
    return fail_usage(which->name, "unknown option %.*s; see qsbits %s --help", (int)length, argument, which->name);
}

/* The value of the option in argv[*i]: behind '=', or the next argument. NULL after a message. */
static const char *take_value(const command *which, const char *where, const char *attached, int argc, char **argv, int *i)
{
    if (attached != NULL)
        return attached;
    if (*i + 1 >= argc) {
        (void)fail_usage(which->name, "%s needs a value; write %s VALUE", where, where);
        return NULL;
    }
    const char *next = argv[*i + 1];
    if (strncmp(next, "--", 2) == 0 && find_long(which, next + 2, strcspn(next + 2, "=")) != OPTIONS) {
        (void)fail_usage(which->name, "%s needs a value but %s follows; write %s=VALUE", where, next, where);
        return NULL;
    }
    ++*i;
    return next;
}

/* One argument that starts with '-'. Returns 0 or 64. */
static int take_option(options *o, int argc, char **argv, int *i)
{
    const char *argument = argv[*i];
    const char *attached = NULL;
    char where[WORD_LIMIT + 3];
    size_t length = strlen(argument);
    option_id id;
    if (argument[1] == '-') {
        length = strcspn(argument, "=");
        id = find_long(o->command, argument + 2, length - 2);
        attached = argument[length] == '=' ? argument + length + 1 : NULL;
    } else {
        id = find_short(o->command, argument[1]);
        attached = length > 2 ? argument + 2 + (argument[2] == '=') : NULL;
        if (id == OPTIONS || (LIST[id].kind == FLAG && attached != NULL))
            return fail_unknown(o->command, argument, length);
        length = 2;
    }
    if (id == OPTIONS)
        return fail_unknown(o->command, argument, length);
    (void)snprintf(where, sizeof where, "%.*s", (int)length, argument);
    if (LIST[id].kind == FLAG) {
        if (attached != NULL)
            return fail_usage(o->command->name, "%s takes no value; write %s alone", where, where);
        return options_set(o, id, where, "true") ? 0 : 64;
    }
    const char *text = take_value(o->command, where, attached, argc, argv, i);
    return text != NULL && options_set(o, id, where, text) ? 0 : 64;
}

int options_parse(options *o, const command *which, int argc, char **argv)
{
    const bool several = which->operand != NULL && strstr(which->operand, "...") != NULL;
    bool only_operands = false;
    memset(o, 0, sizeof *o);
    o->command = which;
    o->operands = (const char *const *)argv;  /* moved to the front as they come */
    for (int i = 0; i < OPTIONS; i++)
        if ((LIST[i].commands & which->bit) != 0 && LIST[i].preset != NULL && LIST[i].preset[0] != '(' &&
            !set_value(o, (option_id)i, LIST[i].name, LIST[i].preset))
            return 70;
    for (int i = 0; i < argc; i++) {
        if (!only_operands && strcmp(argv[i], "--") == 0) {
            only_operands = true;
        } else if (!only_operands && argv[i][0] == '-' && argv[i][1] != '\0') {
            const int code = take_option(o, argc, argv, &i);
            if (code != 0)
                return code;
        } else if (which->operand == NULL) {
            return fail_usage(which->name, "unexpected argument '%s'; options start with --, see qsbits %s --help", argv[i],
                              which->name);
        } else if (o->operand_count > 0 && !several) {
            return fail_usage(which->name, "unexpected argument '%s'; give one %s", argv[i], which->operand);
        } else {
            argv[o->operand_count++] = argv[i];
        }
    }
    return 0;
}

/* ---- help ------------------------------------------------------------------------------------------------------ */

int options_listed(const command *which, option_id ids[OPTIONS])
{
    bool listed[OPTIONS] = {false};
    int count = 0;
    for (int i = 0; i < OPTIONS; i++) {
        if (listed[i] || (LIST[i].commands & which->bit) == 0)
            continue;
        for (int j = i; j < OPTIONS; j++) {
            if ((LIST[j].commands & which->bit) != 0 && strcmp(LIST[j].group, LIST[i].group) == 0) {
                ids[count++] = (option_id)j;
                listed[j] = true;
            }
        }
    }
    return count;
}

char *options_value_text(const option_row *row, char out[OPTION_TEXT])
{
    const char *value = row->value == NULL ? "" : row->value;
    (void)snprintf(out, OPTION_TEXT, "%.*s", (int)strlen(value) - (row->kind == CHOICE), value);
    return out;
}

char *options_default_text(const option_row *row, char out[OPTION_TEXT])
{
    const char *preset = row->preset == NULL ? "" : row->preset;
    const bool told = preset[0] == '(';
    (void)snprintf(out, OPTION_TEXT, "%.*s", (int)strlen(preset) - 2 * told, preset + told);
    return out;
}

static void help_row(FILE *out, const option_row *row)
{
    char name[2 * OPTION_TEXT], text[OPTION_TEXT];
    char letter[8] = "    ";
    if (row->letter != 0)
        (void)snprintf(letter, sizeof letter, "-%c, ", row->letter);
    (void)snprintf(name, sizeof name, "%s--%s%s%s", letter, row->name, row->value == NULL ? "" : " ",
                   options_value_text(row, text));
    if (strlen(name) <= NAME_WIDTH)
        fprintf(out, "  %-*s %s", NAME_WIDTH, name, row->help);
    else
        fprintf(out, "  %s\n  %-*s %s", name, NAME_WIDTH, "", row->help);
    if (options_default_text(row, text)[0] != '\0')
        fprintf(out, " [%s]", text);
    fputc('\n', out);
}

void options_help(FILE *out, const command *which)
{
    option_id ids[OPTIONS];
    const int count = options_listed(which, ids);
    for (int i = 0; i < count; i++) {
        const option_row *row = &LIST[ids[i]];
        if (i == 0 || strcmp(row->group, LIST[ids[i - 1]].group) != 0)
            fprintf(out, "\n%s:\n", row->group);
        help_row(out, row);
    }
}
