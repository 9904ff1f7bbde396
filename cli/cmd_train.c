/* cmd_train.c - qsbits train: one run, or with --dry-run what it would be. */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "dry_run.h"
#include "settings.h"
#include "signals.h"
#include "training.h"

static const char NAME[] = "train";

static int report(const training *t)
{
    const int number = strcmp(t->stopped, "signal") == 0 ? signals_caught() : 0;
    if (t->o.value[OPT_JSON].given) {
        const int code = print_json(NAME, training_result(t));
        if (code != 0)
            return code;
    }
    if (number != 0)
        return fail_with(128 + number, NAME,
                         "stopped by %s at step %lld, saved as %s; go on with: qsbits train --resume --out %s",
                         signals_name(number), (long long)qs_trainer_position(t->trainer), t->checkpoint, t->folder.path);
    training_tell_end(t);
    return 0;
}

static int start(const options *o)
{
    training *t = calloc(1, sizeof *t);
    if (t == NULL)
        return fail_with(71, NAME, "no memory; close other programs");
    int code = training_open(t, o, "");
    if (code == 0 && o->value[OPT_DRY_RUN].given) {
        code = dry_run(t);
    } else if (code == 0) {
        signals_catch();
        code = training_run(t);
        if (code == 0)
            code = report(t);
    }
    training_close(t);
    free(t);
    return code;
}

/* ---- the command ----------------------------------------------------------------------------------------------- */

static const int CODES[] = {64, 65, 66, 69, 70, 71, 73, 74, 129, 130, 143, 0};

const command train_command = {
    .name = "train",
    .bit = TRAIN,
    .required = "--data FILE|DIR|GLOB --out RUN",
    .summary = "train a model with 1-bit weights on a text",
    .about =
        "Trains a decoder whose weights are one bit each on the bytes of a text. There are no float copies of the weights\n"
        "and no float gradients: a small state beside every weight decides when its sign flips (--fsm-state). The run\n"
        "folder gets config.json, metrics.jsonl, a TensorBoard event file, step-NNNNNNNN checkpoints and result.json; look\n"
        "at it with qsbits report or tensorboard --logdir RUN. Ctrl-C finishes the step, saves and stops; --resume --out RUN\n"
        "goes on, and ends with the same bytes as a run that was never stopped, also with another number of threads.\n"
        "ste, bop, frozen, lora and adamw train the same network in other ways: qsbits compare runs several side by side.\n"
        "--from RUN continues a model on new text, without latents: signs, scales, embedding, head and norms are those of its newest\n"
        "checkpoint, and so is the shape; steps, rates and the state beside the weights begin anew. A smaller --density-start\n"
        "lets fewer bits flip: less of the old text is forgotten, and less of the new one learned. Such a run remembers what\n"
        "it came from, so --resume needs neither --from nor, once there is a checkpoint, those weights. Weights about which the\n"
        "new text has no opinion go back to the sign they had: --anchor says how fast, and 0 that they do not.\n"
        "--in-place trains a model that is larger than memory: it stays in its file and streams from it, --active-params of its\n"
        "weights train at a time, and what a phase has trained is written into the file at its end, so that a crash at any moment\n"
        "leaves the model whole. Checkpoints in RUN then hold the active rows only. qsbits init makes such a model, of any size\n"
        "or of the weights of a run; qsbits plan tells what fits.",
    .examples = {"qsbits train --data book.txt --out run1 --preset mini --steps 2000",
                 "qsbits train --from run1 --data notes.txt --out run2 --steps 500"},
    .exit_codes = CODES,
    .run = start,
    .more_help = settings_list_presets,
};
