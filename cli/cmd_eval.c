/* cmd_eval.c - qsbits eval: the loss of a model on the validation or the test part of a text. */
#include <math.h>

#include "commands.h"
#include "common.h"
#include "text.h"

enum { BATCH = 32 };
enum { SPLIT_VAL, SPLIT_TEST };  /* in the order of CHOICES_SPLIT */

typedef struct evaluation {
    qs_text_info text;
    int64_t tokens;
    double loss, seconds;
} evaluation;

static bool is_test(const options *o) { return o->value[OPT_SPLIT].integer == SPLIT_TEST; }

static int tell(const options *o, const evaluation *e)
{
    const double bits = e->loss / log(2.0);
    if (o->value[OPT_JSON].given)
        return print_json(o->command->name,
                          json_pack("{s:o, s:o, s:o, s:I, s:f, s:f, s:f, s:s, s:s}", is_test(o) ? "test_loss" : "val_loss",
                                    json_number(e->loss), "perplexity", json_number(exp(e->loss)), "bits_per_byte",
                                    json_number(bits), "tokens",
                                    (json_int_t)e->tokens, "seconds", e->seconds, "entropy0", e->text.entropy0, "entropy1",
                                    e->text.entropy1, "text_hash", e->text.hash, "model", o->value[OPT_MODEL].text));
    printf("loss           %.6f nats per byte\nperplexity     %.4f\nbits per byte  %.4f\ntokens         %lld\n"
           "entropy        %.4f (order 0), %.4f (order 1) nats per byte\n",
           e->loss, exp(e->loss), bits, (long long)e->tokens, e->text.entropy0, e->text.entropy1);
    return flush_output(o->command->name);
}

static int evaluate(const options *o, qs_context *context, qs_model **model, qs_text **text, evaluation *e)
{
    qs_status status = qs_model_open(context, o->value[OPT_MODEL].text, model);
    if (status != QS_OK)
        return fail_library(o->command->name, status, NULL);
    status = qs_model_set_precision(*model, (qs_precision)o->value[OPT_PRECISION].integer);
    if (status != QS_OK)
        return fail_library(o->command->name, status, NULL);
    const int code = open_text(o, OPT_DATA, context, text, NULL);
    if (code != 0)
        return code;
    const double start = now_seconds();
    qs_text_get_info(*text, &e->text);
    status = (is_test(o) ? qs_model_test : qs_model_evaluate)(*model, *text, o->value[OPT_WINDOWS].integer, BATCH, &e->loss,
                                                              &e->tokens);
    e->seconds = now_seconds() - start;
    return status == QS_OK ? 0 : fail_library(o->command->name, status, NULL);
}

static int run(const options *o)
{
    qs_context *context = NULL;
    qs_model *model = NULL;
    qs_text *text = NULL;
    evaluation e;
    if (!o->value[OPT_MODEL].given)
        return fail_usage(o->command->name, "--model is missing; name a run folder");
    if (!o->value[OPT_DATA].given)
        return fail_usage(o->command->name, "--data is missing; name a text file, a folder of texts, a quoted pattern or -");
    if (is_test(o) && o->value[OPT_TEST_FRACTION].real == 0.0)
        return fail_usage(o->command->name, "--split test needs to know how much of the text that is; add the --test-fraction of the "
                          "training");
    int code = open_context(o, &context);
    if (code == 0)
        code = evaluate(o, context, &model, &text, &e);
    if (code == 0)
        code = tell(o, &e);
    qs_text_free(&text);
    qs_model_free(&model);
    qs_close(&context);
    return code;
}

static const int CODES[] = {64, 65, 66, 69, 70, 71, 74, 0};

const command eval_command = {
    .name = "eval",
    .bit = EVAL,
    .required = "--model RUN --data FILE|DIR|GLOB|-",
    .summary = "loss of a model on the end of a text",
    .about =
        "Measures the mean negative log-likelihood of the validation part of a text (its last --val-fraction), in fixed\n"
        "windows that do not overlap, each of the model's context. With the text and the fraction of the training it is\n"
        "the val_loss that train reports; --val-fraction 1 takes all of it. --data - reads standard input, by default all\n"
        "of it. A run with --test-fraction has its validation part before the test part: give eval the same fractions, and\n"
        "--split test for the last part. Perplexity is per byte; bits per byte is the loss divided by ln 2.",
    .examples = {"qsbits eval --model run1 --data book.txt", "qsbits eval -m run1/step-00001000 --data - --json < other.txt"},
    .exit_codes = CODES,
    .run = run,
};
