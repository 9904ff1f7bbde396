/* generate.c - opens a trained model and lets it go on with a prompt.
 *
 *     generate CHECKPOINT PROMPT [BYTES]
 *
 * CHECKPOINT is what train.c or qsbits train has written. Bytes are the tokens of these models.
 * Build it against an installed qsbits: cc generate.c $(pkg-config --cflags --libs qsbits) -o generate */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qsbits/qsbits.h>

/* Writes each token as it comes; another result than 0 would end the generation. */
static int on_token(void *user, int32_t token)
{
    return putc(token, (FILE *)user) == EOF;
}

static qs_status go_on(qs_session *session, const char *prompt, int64_t n)
{
    const size_t length = strlen(prompt);
    qs_sampling sampling;
    int32_t *tokens = malloc((length + 1) * sizeof *tokens);
    if (tokens == NULL)
        return QS_ERR_NOMEM;
    for (size_t i = 0; i < length; i++)
        tokens[i] = (unsigned char)prompt[i];
    qs_sampling_default(&sampling);
    sampling.temperature = 0.7;
    sampling.seed = 1;                  /* the same seed, model and prompt give the same text */
    const qs_status status = qs_generate(session, tokens, (int64_t)length, n, &sampling, on_token, stdout);
    free(tokens);
    return status;
}

static qs_status generate(const char *checkpoint, const char *prompt, int64_t n)
{
    qs_context *context = NULL;
    qs_model *model = NULL;
    qs_session *session = NULL;

    qs_status status = qs_open(&context, NULL);
    if (status == QS_OK)
        status = qs_model_open(context, checkpoint, &model);
    if (status == QS_OK)
        status = qs_session_create(model, 0, &session);
    if (status == QS_OK) {
        fputs(prompt, stdout);
        status = go_on(session, prompt, n);
        putchar('\n');
    }

    if (status != QS_OK)   /* before anything is freed: the text belongs to the last call */
        fprintf(stderr, "generate: %s: %s\n", qs_status_text(status), qs_last_error());
    qs_session_free(&session);
    qs_model_free(&model);
    qs_close(&context);
    return status;
}

int main(int argc, char **argv)
{
    const int64_t n = argc > 3 ? strtoll(argv[3], NULL, 10) : 200;
    if (argc < 3 || argc > 4 || argv[2][0] == '\0' || n < 1) {
        fprintf(stderr, "usage: generate CHECKPOINT PROMPT [BYTES]\n");
        return 64;
    }
    return qs_status_exit_code(generate(argv[1], argv[2], n));
}
