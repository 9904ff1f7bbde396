/* signature.c - one number that certifies the arithmetic: every machine and baseline trains a tiny model on a fixed text. */
#include <string.h>
#include <xxhash.h>
#include "train/train.h"

static const char verse[] =
    "One bit for yes and one bit for no, packed side by side in a row; the pulses arrive, the levels survive, and that is how "
    "little weights grow. Count up when the push is the way that you lean, count down when it is not; and flip when you reach "
    "the edge of the scene, with all of the courage you've got. ";

enum { REPEATS = 8, STEPS = 6 };

typedef struct arm {
    qs_optimizer optimizer;
    qs_fsm fsm;
    qs_recipe recipe;
    int32_t qk_norm, sub_norm;
    qs_precision precision;
} arm;

#define FSM(fsm, recipe, qk, sub, precision) {QS_OPTIMIZER_FSM, QS_FSM_##fsm, QS_RECIPE_##recipe, qk, sub, QS_PRECISION_##precision}
static const arm arms[] = {
    FSM(C4, DEFAULT, 0, 1, F32), FSM(C2, DEFAULT, 1, 0, F32), FSM(T2, DEFAULT, 0, 1, F32), FSM(C8, DEFAULT, 0, 1, F32),
    FSM(T2, LITERAL, 0, 1, F32), FSM(C4, EXACT, 0, 1, F32), FSM(C4, DEFAULT, 0, 1, INT8),
    {QS_OPTIMIZER_STE, QS_FSM_C4, QS_RECIPE_DEFAULT, 1, 1, QS_PRECISION_F32},
    {QS_OPTIMIZER_ADAMW, QS_FSM_C4, QS_RECIPE_DEFAULT, 0, 1, QS_PRECISION_F32},
};

/* A model small enough to be quick on the scalar reference, with every odd size in it: grouped queries, two chunks of tokens. */
static void settings(const arm *a, qs_model_config *config, qs_train_options *options)
{
    qs_model_config_default(config);
    config->layers = 2;
    config->dim = 64;
    config->heads = 4;
    config->kv_heads = 2;
    config->ffn = 96;
    config->ctx = 40;
    config->qk_norm = a->qk_norm;
    config->sub_norm = a->sub_norm;
    qs_train_options_default(options);
    options->optimizer = a->optimizer;
    options->fsm = a->fsm;
    options->recipe = a->recipe;
    options->precision = a->precision;
    options->steps = STEPS;
    options->batch = 8;
    options->seed = 20260101;
    options->clip = 1.0;
}

static qs_status train_arm(qs_context *context, qs_text *text, const arm *a, uint64_t *hash)
{
    qs_status status = QS_OK;
    qs_model_config config;
    qs_train_options options;
    qs_trainer *trainer = NULL;
    qs_step_info info;
    settings(a, &config, &options);
    QS_TRY(qs_trainer_create(context, &config, &options, text, &trainer));
    for (int i = 0; i < STEPS; i++)
        QS_TRY(qs_trainer_step(trainer, &info));
    QS_TRY(qs_trainer_hash(trainer, hash));
fail:
    qs_trainer_free(&trainer);
    return status;
}

qs_status qs_signature(qs_context *context, uint64_t *signature)
{
    enum { ARMS = (int)(sizeof arms / sizeof arms[0]), VERSE = (int)sizeof verse - 1 };
    qs_status status = QS_OK;
    qs_text *text = NULL;
    char bytes[REPEATS * VERSE];
    uint8_t hashes[8 * ARMS];
    for (int i = 0; i < REPEATS; i++)
        memcpy(bytes + i * VERSE, verse, VERSE);
    QS_TRY(qs_text_from_memory(context, bytes, (int64_t)sizeof bytes, 0.1, &text));
    for (int i = 0; i < ARMS; i++) {
        uint64_t hash = 0;
        QS_TRY(train_arm(context, text, &arms[i], &hash));
        for (int b = 0; b < 8; b++)
            hashes[8 * i + b] = (uint8_t)(hash >> (8 * b));
    }
    *signature = XXH3_64bits(hashes, sizeof hashes);
fail:
    qs_text_free(&text);
    return status;
}
