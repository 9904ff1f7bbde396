/* cmd_generate.c - qsbits generate: writes text with a trained model, byte by byte. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "common.h"

typedef struct generation {
    unsigned char *bytes; /* [n], collected for JSON; NULL: written to standard output at once */
    int64_t count;
    int32_t last;         /* token */
    bool failed;          /* standard output did */
} generation;

static int on_token(void *user, int32_t token)
{
    generation *g = user;
    g->last = token;
    if (g->bytes != NULL)
        g->bytes[g->count] = (unsigned char)token;
    else
        g->failed = fputc(token, stdout) == EOF || fflush(stdout) != 0;
    g->count++;
    return g->failed;
}

/* Length of the UTF-8 sequence at s of at most n bytes, 0 if it is none (RFC 3629: no surrogates, shortest form). */
static int utf8_length(const unsigned char *s, int64_t n)
{
    const int length = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
    if (length == 0 || length > n)
        return 0;
    for (int i = 1; i < length; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    const bool longer = (s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xF0 && s[1] < 0x90);
    const bool outside = (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF4 && s[1] > 0x8F);
    return longer || outside ? 0 : length;
}

/* The bytes as JSON text; what is no UTF-8 becomes U+FFFD. */
static json_t *text_json(const unsigned char *bytes, int64_t n)
{
    char *text = malloc((size_t)n * 3 + 1);
    size_t length = 0;
    if (text == NULL)
        return NULL;
    for (int64_t i = 0; i < n;) {
        const int sequence = utf8_length(bytes + i, n - i);
        memcpy(text + length, sequence > 0 ? (const void *)(bytes + i) : "\xEF\xBF\xBD",
               sequence > 0 ? (size_t)sequence : 3);
        length += sequence > 0 ? (size_t)sequence : 3;
        i += sequence > 0 ? sequence : 1;
    }
    json_t *json = json_stringn(text, length);
    free(text);
    return json;
}

static int print_result(const options *o, const generation *g, const char *prompt, double seconds)
{
    json_t *tokens = json_array();
    for (int64_t i = 0; i < g->count; i++)
        (void)json_array_append_new(tokens, json_integer(g->bytes[i]));
    return print_json(o->command->name,
                      json_pack("{s:o, s:o, s:o, s:I, s:f, s:f, s:I, s:s}", "prompt",
                                text_json((const unsigned char *)prompt, (int64_t)strlen(prompt)), "text",
                                text_json(g->bytes, g->count), "tokens", tokens, "n", (json_int_t)g->count, "seconds",
                                seconds, "tokens_per_second", seconds > 0.0 ? (double)g->count / seconds : 0.0, "seed",
                                (json_int_t)o->value[OPT_DRAW_SEED].integer, "model", o->value[OPT_MODEL].text));
}

static qs_status generate(const options *o, qs_session *session, const char *prompt, generation *g)
{
    const int64_t n = (int64_t)strlen(prompt);
    qs_sampling sampling;
    qs_status status = QS_ERR_NOMEM;
    int32_t *tokens = malloc((size_t)n * sizeof *tokens);
    if (o->value[OPT_JSON].given)
        g->bytes = malloc((size_t)o->value[OPT_COUNT].integer);
    if (tokens != NULL && (g->bytes != NULL || !o->value[OPT_JSON].given)) {
        for (int64_t i = 0; i < n; i++)
            tokens[i] = (unsigned char)prompt[i];
        qs_sampling_default(&sampling);
        sampling.temperature = o->value[OPT_TEMP].real;
        sampling.top_k = o->value[OPT_TOP_K].integer;
        sampling.top_p = o->value[OPT_TOP_P].real;
        sampling.seed = (uint64_t)o->value[OPT_DRAW_SEED].integer;
        status = qs_generate(session, tokens, n, o->value[OPT_COUNT].integer, &sampling, on_token, g);
    }
    free(tokens);
    return status;
}

static int write_text(const options *o, qs_context *context, qs_model **model, qs_session **session)
{
    const bool json = o->value[OPT_JSON].given;
    const char *prompt =
        o->value[OPT_PROMPT].given && o->value[OPT_PROMPT].text[0] != '\0' ? o->value[OPT_PROMPT].text : "\n";
    generation g = {NULL, 0, '\n', false};
    qs_status status = qs_model_open(context, o->value[OPT_MODEL].text, model);
    if (status == QS_OK)
        status = qs_model_set_precision(*model, (qs_precision)o->value[OPT_PRECISION].integer);
    if (status == QS_OK)
        status = qs_session_create(*model, o->value[OPT_CONTEXT].given ? o->value[OPT_CONTEXT].integer : 0, session);
    if (status != QS_OK)
        return fail_library(o->command->name, status, status == QS_ERR_NOMEM ? "give a smaller --ctx" : NULL);
    const bool terminal = !json && isatty(STDOUT_FILENO);
    if (terminal && o->value[OPT_PROMPT].given)
        printf("%s", prompt);
    const double start = now_seconds();
    status = generate(o, *session, prompt, &g);
    const double seconds = now_seconds() - start;
    int code = 0;
    if (g.failed)
        code = fail_with(EXIT_IO, o->command->name, "cannot write to standard output (%s); check where it goes",
                         strerror(errno));
    else if (status != QS_OK)
        code = fail_library(o->command->name, status, NULL);
    else if (json)
        code = print_result(o, &g, prompt, seconds);
    if (terminal && g.last != '\n')
        printf("\n");
    free(g.bytes);
    return code;
}

static int run(const options *o)
{
    qs_context *context = NULL;
    qs_model *model = NULL;
    qs_session *session = NULL;
    if (!o->value[OPT_MODEL].given)
        return fail_usage(o->command->name, "--model is missing; name a run folder");
    int code = open_context(o, &context);
    if (code == 0)
        code = write_text(o, context, &model, &session);
    qs_session_free(&session);
    qs_model_free(&model);
    qs_close(&context);
    return code;
}

static const int CODES[] = {64, 65, 66, 69, 70, 71, 74, 0};

const command generate_command = {
    .name = "generate",
    .bit = GENERATE,
    .required = "--model RUN",
    .summary = "write text with a trained model",
    .about =
        "Continues the prompt with N tokens (bytes) drawn from the model and writes them to standard output as they come;\n"
        "on a terminal the prompt stands before them. The same model, prompt and --seed give the same text on every\n"
        "machine. When the context is full, its second half is kept and the text goes on.",
    .examples = {"qsbits generate --model run1 --prompt \"ROMEO:\" -n 500",
                 "qsbits generate -m run1 -p \"def \" --temp 0 --json"},
    .exit_codes = CODES,
    .run = run,
};
