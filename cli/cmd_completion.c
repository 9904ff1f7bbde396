/* cmd_completion.c - qsbits completion: scripts that let a shell complete commands, options and values, made from the tables
 * that --help is made of. A script knows three kinds of values: one of some words, a path, and anything else. */
#include <string.h>

#include "commands.h"
#include "common.h"

typedef enum completed { NOTHING, WORDS, PATHS } completed;
enum { WORDS_TEXT = 512 };

/* ---- values ---------------------------------------------------------------------------------------------------- */

static void add_word(char words[WORDS_TEXT], const char *word)
{
    const size_t length = strlen(words);
    (void)snprintf(words + length, WORDS_TEXT - length, "%s%s", length == 0 ? "" : " ", word);
}

/* "a|b" as "a b". */
static completed split(const char *choices, char words[WORDS_TEXT])
{
    (void)snprintf(words, WORDS_TEXT, "%s", choices);
    for (char *c = words; *c != '\0'; c++)
        if (*c == '|')
            *c = ' ';
    return WORDS;
}

static completed path_or_nothing(const char *value)
{
    static const char *const paths[] = {"FILE", "DIR", "RUN", "MODEL", "PATH"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        if (strstr(value, paths[i]) != NULL)
            return PATHS;
    return NOTHING;
}

static completed completes_option(option_id id, char words[WORDS_TEXT])
{
    const option_row *row = options_row(id);
    char text[OPTION_TEXT];
    words[0] = '\0';
    if (row->kind == CHOICE)
        return split(options_value_text(row, text), words);
    if (id == OPT_PRESET)
        for (int i = 0; i < qs_model_preset_count(); i++)
            add_word(words, qs_model_preset_name(i));
    if (id == OPT_CPU)
        for (int i = 0; i < qs_cpu_level_count(); i++)
            add_word(words, qs_cpu_level_name(i, NULL));
    return words[0] != '\0' ? WORDS : row->kind == TEXT ? path_or_nothing(row->value) : NOTHING;
}

/* Operands are paths, told in capitals, or one of some words. */
static completed completes_operand(const command *c, char words[WORDS_TEXT])
{
    if (c->operand == NULL)
        return NOTHING;
    const completed kind = path_or_nothing(c->operand);
    return kind == PATHS ? PATHS : split(c->operand, words);
}

static void command_names(char words[WORDS_TEXT])
{
    words[0] = '\0';
    for (int i = 0; i < COMMAND_COUNT; i++)
        add_word(words, COMMANDS[i]->name);
}

/* Text inside single quotes: characters in special get a backslash, a single quote is written as quote. */
static void put_quoted(const char *text, const char *special, const char *quote)
{
    for (; *text != '\0'; text++) {
        if (*text == '\'') {
            fputs(quote, stdout);
        } else {
            if (strchr(special, *text) != NULL)
                putchar('\\');
            putchar(*text);
        }
    }
}

/* ---- bash ------------------------------------------------------------------------------------------------------ */

static void bash_names(const option_row *row, const char *between)
{
    printf("--%s", row->name);
    if (row->letter != 0)
        printf("%s-%c", between, row->letter);
}

/* What may stand behind an option: a branch for each with words, one for all of another kind. */
static void bash_words(const option_id *ids, int count)
{
    char words[WORDS_TEXT];
    for (int i = 0; i < count; i++) {
        if (completes_option(ids[i], words) != WORDS)
            continue;
        fputs("        ", stdout);
        bash_names(options_row(ids[i]), " | ");
        printf(") words='%s' ;;\n", words);
    }
}

static void bash_others(const option_id *ids, int count, completed kind, const char *action)
{
    char words[WORDS_TEXT];
    bool any = false;
    for (int i = 0; i < count; i++) {
        if (options_row(ids[i])->kind == FLAG || completes_option(ids[i], words) != kind)
            continue;
        fputs(any ? " | " : "        ", stdout);
        bash_names(options_row(ids[i]), " | ");
        any = true;
    }
    if (any)
        printf(") %s ;;\n", action);
}

static void bash_command(const command *c)
{
    option_id ids[OPTIONS];
    char words[WORDS_TEXT];
    const int count = options_listed(c, ids);
    printf("    %s)\n        options='", c->name);
    for (int i = 0; i < count; i++) {
        fputs(i == 0 ? "" : " ", stdout);
        bash_names(options_row(ids[i]), " ");
    }
    fputs("'\n        case $previous in\n", stdout);
    bash_words(ids, count);
    bash_others(ids, count, PATHS, "paths=1");
    bash_others(ids, count, NOTHING, "return");
    const completed operand = completes_operand(c, words);
    if (operand == WORDS)
        printf("        *) [[ $current == -* ]] || words='%s' ;;\n", words);
    if (operand == PATHS)
        puts("        *) [[ $current == -* ]] || paths=1 ;;");
    puts("        esac\n        ;;");
}

static void bash(void)
{
    char words[WORDS_TEXT];
    command_names(words);
    fputs("# bash completion of qsbits, written by: qsbits completion bash\n"
          "_qsbits()\n"
          "{\n"
          "    local command=${COMP_WORDS[1]} current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}\n"
          "    local options='' words='' paths=''\n"
          "    COMPREPLY=()\n"
          "    if ((COMP_CWORD == 1)); then\n"
          "        command=''\n"
          "    elif [[ $current == = ]]; then      # --name=value comes as three words\n"
          "        current=''\n"
          "    elif [[ $previous == = ]]; then\n"
          "        previous=${COMP_WORDS[COMP_CWORD - 2]}\n"
          "    fi\n"
          "    case $command in\n", stdout);
    printf("    '') words='%s", words);
    for (const explained *e = PLAIN_WORDS; e->name != NULL; e++)
        printf(" %s", e->name);
    printf("' ;;\n    help) words='%s' ;;\n", words);
    for (int i = 0; i < COMMAND_COUNT; i++)
        bash_command(COMMANDS[i]);
    fputs("    esac\n"
          "    if [[ -n $paths ]]; then\n"
          "        compopt -o filenames -o default 2>/dev/null\n"
          "        mapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n"
          "    else\n"
          "        mapfile -t COMPREPLY < <(compgen -W \"${words:-$options}\" -- \"$current\")\n"
          "    fi\n"
          "}\n"
          "complete -F _qsbits qsbits\n", stdout);
}

/* ---- zsh ------------------------------------------------------------------------------------------------------- */

static const char ZSH_QUOTE[] = "'\\''";

/* What follows the brackets of a specification: ":message:action". */
static void zsh_value(const char *message, completed kind, const char *words)
{
    putchar(':');
    put_quoted(message, "\\:", ZSH_QUOTE);
    if (kind == WORDS)
        printf(":(%s)", words);
    else
        fputs(kind == PATHS ? ":_files" : ": ", stdout);
}

/* One specification of _arguments; dashes and name as written, sign behind the name where a value follows. */
static void zsh_spec(option_id id, const char *name, const char *sign)
{
    const option_row *row = options_row(id);
    char words[WORDS_TEXT], message[OPTION_TEXT];
    fputs(" \\\n            '", stdout);
    if (row->letter != 0)
        printf("(-%c --%s)", row->letter, row->name);
    printf("%s%s[", name, row->kind == FLAG ? "" : sign);
    put_quoted(row->help, "\\[]", ZSH_QUOTE);
    putchar(']');
    if (row->kind != FLAG) {
        const completed kind = completes_option(id, words);
        zsh_value(row->kind == CHOICE ? row->name : options_value_text(row, message), kind, words);
    }
    putchar('\'');
}

static void zsh_option(option_id id)
{
    const option_row *row = options_row(id);
    const char letter[] = {'-', row->letter, '\0'};
    char name[OPTION_TEXT];
    (void)snprintf(name, sizeof name, "--%s", row->name);
    zsh_spec(id, name, "=");
    if (row->letter != 0)
        zsh_spec(id, letter, "+");
}

static void zsh_command(const command *c)
{
    option_id ids[OPTIONS];
    char words[WORDS_TEXT];
    const int count = options_listed(c, ids);
    const completed operand = completes_operand(c, words);
    printf("    %s)\n        _arguments -S", c->name);
    for (int i = 0; i < count; i++)
        zsh_option(ids[i]);
    if (operand != NOTHING) {
        printf(" \\\n            '%s", strstr(c->operand, "...") == NULL ? "1" : "*");
        zsh_value(c->operand, operand, words);
        putchar('\'');
    }
    puts("\n        ;;");
}

static void zsh_word(const char *name, const char *meaning)
{
    fputs("        '", stdout);
    put_quoted(name, "\\:", ZSH_QUOTE);
    putchar(':');
    put_quoted(meaning, "\\", ZSH_QUOTE);
    puts("'");
}

static void zsh(void)
{
    puts("#compdef qsbits\n"
         "# zsh completion of qsbits, written by: qsbits completion zsh\n"
         "_qsbits()\n"
         "{\n"
         "    local command=$words[2]\n"
         "    local -a names plain\n"
         "    names=(");
    for (int i = 0; i < COMMAND_COUNT; i++)
        zsh_word(COMMANDS[i]->name, COMMANDS[i]->summary);
    puts("    )\n    plain=(");
    for (const explained *e = PLAIN_WORDS; e->name != NULL; e++)
        zsh_word(e->name, e->meaning);
    puts("    )\n"
         "    if ((CURRENT == 2)); then\n"
         "        _describe -t commands 'command' names -- plain\n"
         "        return\n"
         "    fi\n"
         "    shift words\n"
         "    ((CURRENT--))\n"
         "    case $command in\n"
         "    help)\n"
         "        _describe -t commands 'command' names\n"
         "        ;;");
    for (int i = 0; i < COMMAND_COUNT; i++)
        zsh_command(COMMANDS[i]);
    puts("    esac\n"
         "}\n"
         "# found in $fpath this file is the function; read by source it only makes the function known\n"
         "if [[ $funcstack[1] == _qsbits ]]; then\n"
         "    _qsbits \"$@\"\n"
         "else\n"
         "    compdef _qsbits qsbits\n"
         "fi");
}

/* ---- fish ------------------------------------------------------------------------------------------------------ */

static void fish_rule(const char *condition, const char *argument)
{
    printf("complete -c qsbits -n '%s%s%s'", condition, argument[0] == '\0' ? "" : " ", argument);
}

static void fish_told(const char *meaning)
{
    fputs(" -d '", stdout);
    put_quoted(meaning, "\\", "\\'");
    puts("'");
}

static void fish_value(completed kind, const char *words)
{
    fputs(kind == PATHS ? " -r -F" : " -x", stdout);
    if (kind == WORDS)
        printf(" -a '%s'", words);
}

static void fish_command(const command *c)
{
    option_id ids[OPTIONS];
    char words[WORDS_TEXT];
    const int count = options_listed(c, ids);
    fish_rule("__qsbits_first", "");
    printf(" -a %s", c->name);
    fish_told(c->summary);
    fish_rule("__qsbits_command", "help");
    printf(" -a %s", c->name);
    fish_told(c->summary);
    for (int i = 0; i < count; i++) {
        const option_row *row = options_row(ids[i]);
        fish_rule("__qsbits_command", c->name);
        printf(" -l %s", row->name);
        if (row->letter != 0)
            printf(" -s %c", row->letter);
        if (row->kind != FLAG) {
            const completed kind = completes_option(ids[i], words);
            fish_value(kind, words);
        }
        fish_told(row->help);
    }
    const completed operand = completes_operand(c, words);
    if (operand == NOTHING)
        return;
    fish_rule("__qsbits_command", c->name);
    if (operand == WORDS)
        printf(" -a '%s'\n", words);
    else
        puts(" -F");
}

static void fish(void)
{
    puts("# fish completion of qsbits, written by: qsbits completion fish\n"
         "function __qsbits_first\n"
         "    test (count (commandline -opc)) -eq 1\n"
         "end\n"
         "function __qsbits_command\n"
         "    set -l words (commandline -opc)\n"
         "    test (count $words) -ge 2; and test \"$words[2]\" = $argv[1]\n"
         "end\n"
         "complete -c qsbits -f");
    for (const explained *e = PLAIN_WORDS; e->name != NULL; e++) {
        fish_rule("__qsbits_first", "");
        printf(" -a %s", e->name);
        fish_told(e->meaning);
    }
    for (int i = 0; i < COMMAND_COUNT; i++)
        fish_command(COMMANDS[i]);
}

/* ---- the command ----------------------------------------------------------------------------------------------- */

static int run(const options *o)
{
    static const struct { const char *name; void (*write)(void); } shells[] = {{"bash", bash}, {"zsh", zsh}, {"fish", fish}};
    if (o->operand_count == 0)
        return fail_usage(o->command->name, "the shell is missing; give one of %s", o->command->operand);
    for (size_t i = 0; i < sizeof shells / sizeof shells[0]; i++) {
        if (strcmp(o->operands[0], shells[i].name) == 0) {
            shells[i].write();
            return flush_output(o->command->name);
        }
    }
    return fail_usage(o->command->name, "unknown shell '%s'; give one of %s", o->operands[0], o->command->operand);
}

static const int CODES[] = {64, 74, 0};

const command completion_command = {
    .name = "completion",
    .bit = COMPLETION,
    .operand = "bash|zsh|fish",
    .required = "",
    .summary = "write a script that lets a shell complete qsbits commands",
    .about =
        "Writes a script to standard output that lets the shell complete commands, options, choices, presets and paths.\n"
        "make install puts the three scripts where the shells look for them; without an installation see the examples.",
    .examples = {"source <(qsbits completion bash)", "qsbits completion fish > ~/.config/fish/completions/qsbits.fish"},
    .exit_codes = CODES,
    .run = run,
};
