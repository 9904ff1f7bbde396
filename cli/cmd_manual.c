/* cmd_manual.c - qsbits manual: the man page, made from the tables that --help is made of. Format: man(7), as groff and
 * mandoc read it. */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "common.h"

static const explained FILES[] = {
    {"RUN/config.json", "settings of the run, also for --config"},
    {"RUN/metrics.jsonl", "one JSON object per logged step, validation and window of health"},
    {"RUN/events.out.tfevents.*", "the same for TensorBoard"},
    {"RUN/step-NNNNNNNN/", "a checkpoint: model.safetensors, state.safetensors, manifest.json"},
    {"RUN/best", "link to the checkpoint with the best validation (--keep-best)"},
    {"RUN/result.json", "what the last training in RUN came to"},
    {"libqsbits-NAME.so", "plugin of the backend NAME, beside libqsbits.so or in QSBITS_BACKEND_DIR"},
    {NULL, NULL},
};

/* ---- roff ------------------------------------------------------------------------------------------------------ */

/* Text as it is, whatever it holds: no character is taken for a request, an escape, or typographically. A dot could only be
 * a request at the start of a line; the empty \& before it is right everywhere. */
static void put_text(const char *text)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '\\': fputs("\\e", stdout); break;
        case '-': fputs("\\-", stdout); break;
        case '.': fputs("\\&.", stdout); break;
        case '\'': fputs("\\(aq", stdout); break;
        case '`': fputs("\\(ga", stdout); break;
        case '"': fputs("\\(dq", stdout); break;
        case '^': fputs("\\(ha", stdout); break;
        case '~': fputs("\\(ti", stdout); break;
        default: putchar(*text); break;
        }
    }
}

/* In a font, 'B' or 'I'. */
static void put_font(char font, const char *text)
{
    printf("\\f%c", font);
    put_text(text);
    fputs("\\fR", stdout);
}

/* Lines as they are. */
static void put_lines(const char *text)
{
    fputs(".PP\n.EX\n", stdout);
    put_text(text);
    fputs(".EE\n", stdout);
}

static void put_explained(const explained *list)
{
    for (; list->name != NULL; list++) {
        fputs(".TP\n", stdout);
        put_font('B', list->name);
        putchar('\n');
        put_text(list->meaning);
        putchar('\n');
    }
}

/* ---- sections -------------------------------------------------------------------------------------------------- */

/* Left-aligned and without hyphenation, so that names stay whole. */
static void put_head(void)
{
    printf(".TH QSBITS 1 \"\" \"qsbits %s\" \"User Commands\"\n.nr HY 0\n.ad l\n.nh\n.SH NAME\n", qs_version());
    put_text("qsbits");
    fputs(" \\- ", stdout);
    put_text("train and run language models whose weights are one bit");
    fputs("\n.SH SYNOPSIS\n", stdout);
    for (int i = 0; i < COMMAND_COUNT; i++) {
        char usage[USAGE_TEXT];
        put_font('B', "qsbits");
        putchar(' ');
        put_text(command_usage(COMMANDS[i], usage));
        fputs("\n.br\n", stdout);
    }
    put_text("qsbits help COMMAND");
    fputs("\n.SH DESCRIPTION\n", stdout);
    put_text("qsbits trains decoders whose matrices hold one bit per weight, without a float copy of the weights and without\n"
             "a stored gradient, and evaluates, samples and inspects them. Text goes in as files of bytes; models come out\n"
             "as safetensors files with checksums. The same command line gives the same bytes on every machine, with every\n"
             "number of threads.\n");
    fputs(".PP\n", stdout);
    put_text("An option with a value is written --name VALUE or --name=VALUE; -- ends the options. qsbits COMMAND --help\n"
             "explains a command, qsbits --version prints the version.\n");
}

static void put_option(const option_row *row)
{
    char text[OPTION_TEXT];
    const char name[] = {'-', row->letter, '\0'};
    fputs(".TP\n", stdout);
    if (row->letter != 0) {
        put_font('B', name);
        fputs(", ", stdout);
    }
    fputs("\\fB\\-\\-", stdout);
    put_text(row->name);
    fputs("\\fR", stdout);
    if (options_value_text(row, text)[0] != '\0') {
        putchar(' ');
        put_font(row->kind == CHOICE ? 'B' : 'I', text);
    }
    putchar('\n');
    put_text(row->help);
    if (options_default_text(row, text)[0] != '\0') {
        fputs("\n[", stdout);
        put_text(text);
        putchar(']');
    }
    putchar('\n');
}

static int put_more_help(const command *c)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *memory = open_memstream(&text, &bytes);
    if (memory == NULL)
        return fail_with(71, "manual", "no memory; close other programs");
    c->more_help(memory);
    const bool whole = fclose(memory) == 0;
    if (whole)
        put_lines(text + strspn(text, "\n"));
    free(text);
    return whole ? 0 : fail_with(71, "manual", "no memory; close other programs");
}

static int put_command(const command *c)
{
    option_id ids[OPTIONS];
    const int count = options_listed(c, ids);
    fputs(".SS ", stdout);
    put_text(c->name);
    putchar('\n');
    put_text(c->about);
    putchar('\n');
    for (int i = 0; i < count; i++) {
        const option_row *row = options_row(ids[i]);
        if (i == 0 || strcmp(row->group, options_row(ids[i - 1])->group) != 0) {
            fputs(".PP\n", stdout);
            put_text(row->group);
            fputs(":\n", stdout);
        }
        put_option(row);
    }
    return c->more_help == NULL ? 0 : put_more_help(c);
}

static void put_exit_codes(void)
{
    fputs(".SH EXIT STATUS\n", stdout);
    for (const exit_code *e = EXIT_CODES; e->meaning != NULL; e++) {
        printf(".TP\n\\fB%d\\fR\n", e->code);
        put_text(e->meaning);
        putchar('\n');
    }
}

static void put_examples(void)
{
    fputs(".SH EXAMPLES\nA first run:\n.PP\n.EX\n", stdout);
    for (const char *const *line = FIRST_RUN; *line != NULL; line++) {
        put_text(*line);
        putchar('\n');
    }
    fputs(".EE\n", stdout);
    for (int i = 0; i < COMMAND_COUNT; i++) {
        const command *c = COMMANDS[i];
        fputs(".PP\n", stdout);
        put_text(c->name);
        fputs(": ", stdout);
        put_text(c->summary);
        fputs("\n.PP\n.EX\n", stdout);
        for (size_t j = 0; j < sizeof c->examples / sizeof c->examples[0]; j++) {
            put_text(c->examples[j]);
            putchar('\n');
        }
        fputs(".EE\n", stdout);
    }
}

static int run(const options *o)
{
    int code = 0;
    put_head();
    fputs(".SH COMMANDS\n", stdout);
    for (int i = 0; i < COMMAND_COUNT && code == 0; i++)
        code = put_command(COMMANDS[i]);
    if (code != 0)
        return code;
    put_exit_codes();
    fputs(".SH ENVIRONMENT\n", stdout);
    put_explained(ENVIRONMENT);
    fputs(".SH FILES\n", stdout);
    put_explained(FILES);
    put_examples();
    fputs(".SH SEE ALSO\n", stdout);
    put_text("README.md and docs/ (design.md, format.md, numerics.md, fsm.md, learning.md, measurements.md) in share/doc/qsbits of the\n"
             "installation; the library's manual is its headers, include/qsbits/qsbits.h first; pkg-config qsbits.\n");
    return flush_output(o->command->name);
}

static const int CODES[] = {64, 71, 74, 0};

const command manual_command = {
    .name = "manual",
    .bit = MANUAL,
    .required = "",
    .summary = "write the man page",
    .about =
        "Writes the manual page qsbits(1) to standard output, in the format of man(7), with every command and option. make\n"
        "install puts it into share/man/man1.",
    .examples = {"qsbits manual | man -l -", "qsbits manual > qsbits.1"},
    .exit_codes = CODES,
    .run = run,
};
