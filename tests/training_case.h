/* training_case.h - small runs and the files they leave, for the tests of model and trainer.
 *
 * Everything here fails the running test instead of returning a status. Functions are inline because no program uses all. */
#ifndef TRAINING_CASE_H
#define TRAINING_CASE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <ftw.h>
#include <math.h>
#include <unistd.h>
#include "qsbits/qsbits.h"

/* The call must return QS_OK; the library's text is part of the failure. */
#define ok(call) \
    do { \
        qs_status ok_status = (call); \
        if (ok_status != QS_OK) \
            fail_msg("%s: %s (%s)", #call, qs_status_text(ok_status), qs_last_error()); \
    } while (0)

/* The call must return `status` and say `text`. */
#define refuses(call, status, text) \
    do { \
        qs_status refuses_status = (call); \
        if (refuses_status != (status)) \
            fail_msg("%s: %s, not %s (%s)", #call, qs_status_text(refuses_status), qs_status_text(status), qs_last_error()); \
        if (!strstr(qs_last_error(), (text))) \
            fail_msg("%s: \"%s\" does not say \"%s\"", #call, qs_last_error(), (text)); \
    } while (0)

/* ---- contexts, texts, settings ----------------------------------------------------------------------------------- */

/* cpu and device may be NULL. */
static inline qs_context *open_context(int threads, const char *cpu, const char *device)
{
    qs_context *context = NULL;
    qs_options options;
    qs_options_default(&options);
    options.threads = threads;
    options.cpu = cpu;
    options.device = device;
    ok(qs_open(&context, &options));
    return context;
}

/* n bytes of sentences from a fixed list of words; the same for the same seed (Knuth's 64-bit linear congruence). */
static inline void write_prose(uint64_t seed, char *out, int64_t n)
{
    static const char *const words[] = {
        "the", "bit", "and", "row", "of", "weights", "flips", "when", "a", "pulse", "comes", "twice", "level", "by", "little",
        "is", "never", "lost", "while", "signs", "stay", "cold", "or", "turn", "hot", "in", "small", "steps", "it", "learns"};
    uint64_t state = seed;
    int64_t at = 0;
    while (at < n) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const char *word = words[(state >> 33) % (sizeof words / sizeof words[0])];
        for (const char *c = word; *c && at < n; c++)
            out[at++] = *c;
        if (at < n)
            out[at++] = (state >> 60) == 0 ? '\n' : ' ';
    }
}

/* A prose text of n tokens, the last share of it for validation. */
static inline qs_text *prose_text(qs_context *context, int64_t n, double share)
{
    qs_text *text = NULL;
    char *bytes = malloc((size_t)n);
    assert_non_null(bytes);
    write_prose(7, bytes, n);
    ok(qs_text_from_memory(context, bytes, n, share, &text));
    free(bytes);
    return text;
}

/* Exactly one window of ctx + 1 tokens to train on, and the same window to validate on. */
static inline qs_text *one_window_text(qs_context *context, int64_t ctx)
{
    qs_text *text = NULL;
    const int64_t n = ctx + 1;
    char *bytes = malloc((size_t)(2 * n));
    assert_non_null(bytes);
    write_prose(11, bytes, n);
    memcpy(bytes + n, bytes, (size_t)n);
    ok(qs_text_from_memory(context, bytes, 2 * n, 0.5, &text));
    free(bytes);
    return text;
}

typedef struct setup {
    qs_model_config config;
    qs_train_options options;
} setup;

/* Two layers of 32, grouped queries, wide heads, 288 tokens a step: a chunk and a short one. As small as it can be, because the
 * scalar reference takes nanoseconds for one fma. */
static inline setup small_setup(qs_optimizer optimizer, qs_fsm fsm, qs_recipe recipe)
{
    setup s;
    qs_model_config_default(&s.config);
    s.config.layers = 2;
    s.config.dim = 32;
    s.config.heads = 2;
    s.config.kv_heads = 1;
    s.config.head_dim = 32;
    s.config.ffn = 64;
    s.config.ctx = 16;
    qs_train_options_default(&s.options);
    s.options.optimizer = optimizer;
    s.options.fsm = fsm;
    s.options.recipe = recipe;
    s.options.batch = 18;
    s.options.steps = 100;
    s.options.seed = 5;
    return s;
}

/* Every way to train: optimizer, machine, recipe. */
typedef struct arm {
    const char *name;
    qs_optimizer optimizer;
    qs_fsm fsm;
    qs_recipe recipe;
} arm;

static const arm arms[] = {
    {"t2", QS_OPTIMIZER_FSM, QS_FSM_T2, QS_RECIPE_DEFAULT},         {"c2", QS_OPTIMIZER_FSM, QS_FSM_C2, QS_RECIPE_DEFAULT},
    {"c4", QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT},         {"c8", QS_OPTIMIZER_FSM, QS_FSM_C8, QS_RECIPE_DEFAULT},
    {"literal", QS_OPTIMIZER_FSM, QS_FSM_T2, QS_RECIPE_LITERAL},    {"exact t2", QS_OPTIMIZER_FSM, QS_FSM_T2, QS_RECIPE_EXACT},
    {"exact c2", QS_OPTIMIZER_FSM, QS_FSM_C2, QS_RECIPE_EXACT},     {"exact c4", QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_EXACT},
    {"ste", QS_OPTIMIZER_STE, QS_FSM_C4, QS_RECIPE_DEFAULT},        {"frozen", QS_OPTIMIZER_FROZEN, QS_FSM_C4, QS_RECIPE_DEFAULT},
    {"adamw", QS_OPTIMIZER_ADAMW, QS_FSM_C4, QS_RECIPE_DEFAULT},    {"bop", QS_OPTIMIZER_BOP, QS_FSM_C4, QS_RECIPE_DEFAULT},
    {"lora", QS_OPTIMIZER_LORA, QS_FSM_C4, QS_RECIPE_DEFAULT},
};
enum { ARMS = (int)(sizeof arms / sizeof arms[0]) };

static inline qs_trainer *make_trainer(qs_context *context, const setup *s, qs_text *text)
{
    qs_trainer *trainer = NULL;
    ok(qs_trainer_create(context, &s->config, &s->options, text, &trainer));
    return trainer;
}

/* A trainer with a context and a prose text of its own. level may be NULL. */
typedef struct run_case {
    qs_context *context;
    qs_text *text;
    qs_trainer *trainer;
} run_case;

static inline run_case open_run_case(const setup *s, int64_t tokens, int threads, const char *level)
{
    run_case r = {open_context(threads, level, NULL), NULL, NULL};
    r.text = prose_text(r.context, tokens, 0.1);
    r.trainer = make_trainer(r.context, s, r.text);
    return r;
}

static inline void close_run_case(run_case *r)
{
    qs_trainer_free(&r->trainer);
    qs_text_free(&r->text);
    qs_close(&r->context);
}

/* Cross-entropy of one token, from its logits [vocab]. */
static inline double log_loss(const float *logits, int64_t vocab, int64_t target)
{
    double most = logits[0], sum = 0.0;
    for (int64_t i = 1; i < vocab; i++)
        most = logits[i] > most ? logits[i] : most;
    for (int64_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - most);
    return log(sum) + most - (double)logits[target];
}

/* Takes steps until `position`; returns what the last one said. */
static inline qs_step_info train_to(qs_trainer *trainer, int64_t position)
{
    qs_step_info info;
    memset(&info, 0, sizeof info);
    while (qs_trainer_position(trainer) < position)
        ok(qs_trainer_step(trainer, &info));
    return info;
}

static inline uint64_t hash_of(qs_trainer *trainer)
{
    uint64_t hash = 0;
    ok(qs_trainer_hash(trainer, &hash));
    return hash;
}

/* ---- a folder of the test's own ---------------------------------------------------------------------------------- */

static char test_folder[256];

static inline int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static inline int make_test_folder(void **state)
{
    const char *base = getenv("TMPDIR");
    (void)state;
    const int n = snprintf(test_folder, sizeof test_folder, "%s/qsbits-train-XXXXXX", base ? base : "/tmp");
    return n > 0 && n < (int)sizeof test_folder && mkdtemp(test_folder) ? 0 : -1;
}

static inline int drop_test_folder(void **state)
{
    (void)state;
    return nftw(test_folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

typedef struct file_path {
    char text[320];
} file_path;

static inline file_path path_of(const char *name)
{
    file_path p;
    const int n = snprintf(p.text, sizeof p.text, "%s/%s", test_folder, name);
    assert_true(n > 0 && n < (int)sizeof p.text);
    return p;
}

/* ---- tensors of a checkpoint ------------------------------------------------------------------------------------- */

static inline qs_checkpoint *open_checkpoint(const char *path)
{
    qs_checkpoint *checkpoint = NULL;
    ok(qs_checkpoint_open(NULL, path, &checkpoint));
    return checkpoint;
}

/* The floats of tensor base.suffix and how many they are; NULL if there is no such tensor. */
static inline const float *floats_of(const qs_checkpoint *checkpoint, const char *base, const char *suffix, int64_t *count)
{
    char name[192];
    qs_tensor_info info;
    snprintf(name, sizeof name, "%s%s", base, suffix);
    const int64_t index = qs_checkpoint_find(checkpoint, name);
    if (index < 0)
        return NULL;
    ok(qs_checkpoint_tensor(checkpoint, index, &info));
    assert_int_equal(info.format, QS_F32);
    *count = info.rows * info.cols;
    return qs_checkpoint_data(checkpoint, index);
}

#endif
