/* train.c - trains a small model with 1-bit weights on a text and saves it.
 *
 *     train TEXT CHECKPOINT [STEPS]
 *
 * TEXT is a file or a folder of files; CHECKPOINT is a folder that is written, for generate.c or qsbits generate.
 * Build it against an installed qsbits: cc train.c $(pkg-config --cflags --libs qsbits) -o train */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <qsbits/qsbits.h>

enum { LINES = 10 };   /* of progress */

/* Tells of files of a folder that are no text. */
static void on_skip(void *user, const char *path, const char *reason)
{
    (void)user;
    fprintf(stderr, "train: left out %s: %s\n", path, reason);
}

static qs_status take_steps(qs_trainer *trainer, int64_t steps)
{
    qs_step_info info;
    for (int64_t step = 0; step < steps; step++) {
        const qs_status status = qs_trainer_step(trainer, &info);
        if (status != QS_OK)
            return status;
        if (step == 0 || info.step * LINES / steps != step * LINES / steps)
            printf("step %5" PRId64 "  loss %.4f nats per byte\n", info.step, info.loss);
    }
    return QS_OK;
}

/* The loss on the end of the text, which was not trained on. */
static qs_status validate(qs_trainer *trainer, qs_text *text)
{
    double nats = 0.0;
    const qs_status status = qs_model_evaluate(qs_trainer_model(trainer), text, 0, 32, &nats, NULL);
    if (status == QS_OK)
        printf("validation  loss %.4f nats per byte\n", nats);
    return status;
}

static qs_status train(const char *path, const char *checkpoint, int64_t steps)
{
    qs_context *context = NULL;
    qs_text *text = NULL;
    qs_trainer *trainer = NULL;
    qs_model_config config;
    qs_train_options options;

    qs_model_config_default(&config);   /* 2 blocks, 128 wide: the preset "tiny" */
    qs_train_options_default(&options);
    options.fsm = QS_FSM_C4;            /* 16 levels beside every weight */
    options.batch = 16;
    options.steps = steps;              /* rates fall to their end values over these */

    qs_status status = qs_open(&context, NULL);
    if (status == QS_OK)
        status = qs_text_open(context, &path, 1, 0.1, on_skip, NULL, &text);
    if (status == QS_OK)
        status = qs_trainer_create(context, &config, &options, text, &trainer);
    if (status == QS_OK)
        status = take_steps(trainer, steps);
    if (status == QS_OK)
        status = validate(trainer, text);
    if (status == QS_OK)
        status = qs_trainer_save(trainer, checkpoint);

    if (status != QS_OK)   /* before anything is freed: the text belongs to the last call */
        fprintf(stderr, "train: %s: %s\n", qs_status_text(status), qs_last_error());
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    qs_close(&context);
    return status;
}

int main(int argc, char **argv)
{
    const int64_t steps = argc > 3 ? strtoll(argv[3], NULL, 10) : 300;
    if (argc < 3 || argc > 4 || steps < 1) {
        fprintf(stderr, "usage: train TEXT CHECKPOINT [STEPS]\n");
        return 64;
    }
    const qs_status status = train(argv[1], argv[2], steps);
    if (status == QS_OK)
        printf("saved as %s\n", argv[2]);
    return qs_status_exit_code(status);
}
