/* cmd_signature.c - qsbits signature: one number that changes only when trained bytes change. */
#include <inttypes.h>

#include "commands.h"
#include "common.h"

static int run(const options *o)
{
    qs_context *context = NULL;
    uint64_t signature = 0;
    int code = open_context(o, &context);
    if (code != 0)
        return code;
    const qs_status status = qs_signature(context, &signature);
    if (status != QS_OK) {
        code = fail_library(o->command->name, status, "report this");
    } else if (o->value[OPT_JSON].given) {
        char text[17];
        (void)snprintf(text, sizeof text, "%016" PRIx64, signature);
        code = print_json(o->command->name, json_pack("{s:s, s:s}", "signature", text, "version", qs_version()));
    } else {
        printf("%016" PRIx64 "\n", signature);
        code = flush_output(o->command->name);
    }
    qs_close(&context);
    return code;
}

static const int CODES[] = {64, 69, 70, 71, 74, 0};

const command signature_command = {
    .name = "signature",
    .bit = SIGNATURE,
    .required = "",
    .summary = "train a tiny model and print one number that pins the arithmetic",
    .about =
        "Trains a tiny built-in model with every state machine and baseline and prints a 64-bit hash of the result as 16\n"
        "hex digits. The number is the same for every thread count, kernel level and compiler; it changes only when a\n"
        "change of the program changes trained bytes. Two machines that print the same number train the same models.",
    .examples = {"qsbits signature", "qsbits signature --cpu scalar --threads 1"},
    .exit_codes = CODES,
    .run = run,
};
