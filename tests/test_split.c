/* test_split.c - the three parts of a text: training, validation, final test. They lie one behind the other, nothing that is done with
 * one reads another, and a run goes on with the split it was begun with only. */
#include <math.h>
#include <stdbool.h>
#include "training_case.h"

enum { CTX = 16, PART = 4 * CTX + 1, TEXT = 10 * PART };

/* n tokens of prose, parts by share. */
static qs_text *split_text(qs_context *context, int64_t n, double val, double test)
{
    qs_text *text = prose_text(context, n, val);
    ok(qs_text_keep_test(text, test));
    return text;
}

static qs_text_info info_of(const qs_text *text)
{
    qs_text_info info;
    qs_text_get_info(text, &info);
    return info;
}

/* ---- sizes ------------------------------------------------------------------------------------------------------- */

static void test_shares(void **state)
{
    (void)state;
    static const double shares[] = {1e-6, 0.01, 0.1, 1.0 / 3.0, 0.25, 0.5, 0.9, 0.999};
    enum { SHARES = (int)(sizeof shares / sizeof shares[0]) };
    qs_context *context = open_context(1, NULL, NULL);
    for (int64_t n = 1; n < 70; n++)
        for (int v = 0; v < SHARES; v++)
            for (int t = 0; t < SHARES; t++) {
                qs_text *text = prose_text(context, n, shares[v]);
                const int64_t val = (int64_t)(shares[v] * (double)n), test = (int64_t)(shares[t] * (double)n);
                const qs_text_info before = info_of(text);
                if (val + test > n) {
                    refuses(qs_text_keep_test(text, shares[t]), QS_ERR_ARG, "more than there are");
                    assert_int_equal(info_of(text).train_tokens, before.train_tokens);
                    assert_int_equal(info_of(text).test_tokens, 0);
                } else {
                    ok(qs_text_keep_test(text, shares[t]));
                    const qs_text_info info = info_of(text);
                    assert_int_equal(info.test_tokens, test);
                    assert_int_equal(info.val_tokens, before.val_tokens);
                    assert_int_equal(info.train_tokens + info.val_tokens + info.test_tokens, n);
                    assert_string_equal(info.hash, before.hash);
                }
                qs_text_free(&text);
            }
    qs_close(&context);
}

static void test_shares_refused(void **state)
{
    (void)state;
    static const double shares[] = {-0.1, 1.0, 1.5, NAN, INFINITY};
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = prose_text(context, 100, 0.1);
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++)
        refuses(qs_text_keep_test(text, shares[i]), QS_ERR_ARG, "[0, 1)");
    refuses(qs_text_keep_test(text, 0.95), QS_ERR_ARG, "95 of 100 tokens and validation 10");
    assert_int_equal(info_of(text).train_tokens, 90);
    ok(qs_text_keep_test(text, 0.0));
    assert_int_equal(info_of(text).train_tokens, 90);
    assert_int_equal(info_of(text).test_tokens, 0);
    qs_text_free(&text);
    qs_close(&context);
}

/* The smallest text that can be trained, validated and tested, and what is said of each part that is one token short. */
static void test_smallest(void **state)
{
    (void)state;
    static const int64_t parts[][3] = {{17, 17, 17}, {16, 17, 17}, {17, 16, 17}, {17, 17, 16}, {17, 17, 0}};
    const setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    qs_context *context = open_context(1, NULL, NULL);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const int64_t *p = parts[i], n = p[0] + p[1] + p[2];
        const bool trains = p[0] == 17;
        qs_text *text = split_text(context, n, ((double)p[1] + 0.5) / (double)n, p[2] ? ((double)p[2] + 0.5) / (double)n : 0.0);
        qs_trainer *trainer = NULL;
        double nats = -1.0;
        int64_t tokens = 0;
        assert_int_equal(info_of(text).train_tokens, p[0]);
        if (trains)
            ok(qs_trainer_create(context, &s.config, &s.options, text, &trainer));
        else
            refuses(qs_trainer_create(context, &s.config, &s.options, text, &trainer), QS_ERR_SHAPE, "training part holds 16 tokens");
        if (trains && p[1] == 17)
            ok(qs_model_evaluate(qs_trainer_model(trainer), text, 0, 1, &nats, &tokens));
        else if (trains)
            refuses(qs_model_evaluate(qs_trainer_model(trainer), text, 0, 1, &nats, &tokens), QS_ERR_SHAPE,
                    "the validation part holds 16 tokens");
        if (trains && p[2] == 17) {
            ok(qs_model_test(qs_trainer_model(trainer), text, 0, 1, &nats, &tokens));
            assert_int_equal(tokens, CTX);
        } else if (trains) {
            refuses(qs_model_test(qs_trainer_model(trainer), text, 0, 1, &nats, &tokens), QS_ERR_SHAPE,
                    p[2] ? "the test part holds 16 tokens" : "the test part holds 0 tokens");
        }
        qs_trainer_free(&trainer);
        qs_text_free(&text);
    }
    qs_close(&context);
}

/* ---- what reads which part --------------------------------------------------------------------------------------- */

/* Training windows stay in the training part and reach its first and its last token. */
static void test_training_windows(void **state)
{
    (void)state;
    static const int64_t sizes[] = {60, 61, 100, 333, 2000};
    qs_context *context = open_context(1, NULL, NULL);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        qs_text *text = split_text(context, sizes[i], 0.2, 0.3);
        const int64_t train = info_of(text).train_tokens;
        int64_t first = train, last = 0, start = -1;
        for (qs_cursor cursor = {0, 0}; cursor.epoch < 300; ) {
            ok(qs_text_next_window(text, CTX, 3, &cursor, &start));
            first = start < first ? start : first;
            last = start + CTX > last ? start + CTX : last;
        }
        assert_int_equal(first, 0);
        assert_int_equal(last, train - 1);
        qs_text_free(&text);
    }
    qs_close(&context);
}

typedef struct losses {
    double val, test;
    uint64_t trained;          /* hash after a few steps */
} losses;

/* Of 520 tokens to train on, 65 to validate on and 65 to test on. */
static losses losses_of(qs_context *context, const char bytes[TEXT])
{
    losses l;
    int64_t tokens = 0;
    const setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    qs_text *text = NULL;
    ok(qs_text_from_memory(context, bytes, TEXT, 0.1, &text));
    ok(qs_text_keep_test(text, 0.1));
    assert_int_equal(info_of(text).train_tokens, 8 * PART);
    qs_trainer *trainer = make_trainer(context, &s, text);
    ok(qs_model_evaluate(qs_trainer_model(trainer), text, 0, 3, &l.val, &tokens));
    assert_int_equal(tokens, 4 * CTX);
    ok(qs_model_test(qs_trainer_model(trainer), text, 0, 3, &l.test, &tokens));
    assert_int_equal(tokens, 4 * CTX);
    train_to(trainer, 4);
    l.trained = hash_of(trainer);
    qs_trainer_free(&trainer);
    qs_text_free(&text);
    return l;
}

/* Changing tokens changes what reads them and nothing else; first and last token of every part are read. */
static void test_nothing_is_shared(void **state)
{
    (void)state;
    enum { TRAIN, VAL, TEST };
    static const struct { int64_t first, tokens; int part; } changes[] = {
        {0, 8 * PART, TRAIN},      {8 * PART, PART, VAL},     {9 * PART, PART, TEST},     {8 * PART, 1, VAL},
        {9 * PART - 1, 1, VAL},    {9 * PART, 1, TEST},       {TEXT - 1, 1, TEST},
    };
    static char bytes[TEXT], changed[TEXT];
    qs_context *context = open_context(1, NULL, NULL);
    write_prose(7, bytes, TEXT);
    const losses want = losses_of(context, bytes);
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        memcpy(changed, bytes, TEXT);
        for (int64_t j = changes[i].first; j < changes[i].first + changes[i].tokens; j++)
            changed[j] = (char)(changed[j] ^ 0x15);
        const losses l = losses_of(context, changed);
        assert_int_equal(l.trained == want.trained, changes[i].part != TRAIN);
        assert_int_equal(l.val == want.val, changes[i].part != VAL);
        assert_int_equal(l.test == want.test, changes[i].part != TEST);
    }
    qs_close(&context);
}

/* The test part is evaluated as the validation part of the same text without one is: the same windows, in files too. */
static void test_same_windows(void **state)
{
    (void)state;
    static char bytes[TEXT];
    const setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    const file_path path = path_of("text");
    const char *paths[] = {path.text};
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *memory = NULL, *file = NULL;
    double want = 0.0, nats = 0.0;
    write_prose(7, bytes, TEXT);
    FILE *f = fopen(path.text, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, TEXT, f), TEXT);
    assert_int_equal(fclose(f), 0);
    ok(qs_text_from_memory(context, bytes, TEXT, 0.3, &memory));
    ok(qs_text_open(context, paths, 1, 0.2, NULL, NULL, &file));
    ok(qs_text_keep_test(file, 0.3));
    assert_int_equal(info_of(file).train_tokens, TEXT / 2);
    qs_trainer *trainer = make_trainer(context, &s, memory);
    for (int64_t windows = 0; windows < 30; windows += 7) {
        ok(qs_model_evaluate(qs_trainer_model(trainer), memory, windows, 2, &want, NULL));
        ok(qs_model_test(qs_trainer_model(trainer), file, windows, 5, &nats, NULL));
        assert_true(want == nats);
    }
    qs_trainer_free(&trainer);
    qs_text_free(&memory);
    qs_text_free(&file);
    qs_close(&context);
}

/* ---- going on ---------------------------------------------------------------------------------------------------- */

/* Also where the training part is the same. */
static void test_other_split(void **state)
{
    (void)state;
    static const struct { double val, test; const char *says; } splits[] = {
        {0.2, 0.1, NULL}, {0.3, 0.0, "text test_tokens = 300, this run asks for 0"}, {0.1, 0.2, "test_tokens = 300, this run asks for 600"},
        {0.2, 0.2, "test_tokens = 300, this run asks for 600"}, {0.3, 0.1, "train_tokens = 2100"}, {0.2, 0.0, "test_tokens = 300"},
    };
    const setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
    const file_path tested = path_of("tested"), plain = path_of("plain");
    qs_context *context = open_context(1, NULL, NULL);
    for (int i = 0; i < 2; i++) {
        qs_text *text = i == 0 ? split_text(context, 3000, 0.2, 0.1) : split_text(context, 3000, 0.3, 0.0);
        qs_trainer *trainer = make_trainer(context, &s, text);
        train_to(trainer, 2);
        ok(qs_trainer_save(trainer, i == 0 ? tested.text : plain.text));
        qs_trainer_free(&trainer);
        qs_text_free(&text);
    }
    for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++) {
        qs_text *text = split_text(context, 3000, splits[i].val, splits[i].test);
        qs_trainer *trainer = make_trainer(context, &s, text);
        if (splits[i].says)
            refuses(qs_trainer_load(trainer, tested.text), QS_ERR_ARG, splits[i].says);
        else
            ok(qs_trainer_load(trainer, tested.text));
        if (i == 0)
            refuses(qs_trainer_load(trainer, plain.text), QS_ERR_ARG, "text test_tokens = 0, this run asks for 300");
        qs_trainer_free(&trainer);
        qs_text_free(&text);
    }
    /* a run without a test part has no word of it in its checkpoints */
    qs_checkpoint *checkpoint = open_checkpoint(plain.text);
    assert_null(strstr(qs_checkpoint_manifest(checkpoint), "test"));
    qs_checkpoint_close(&checkpoint);
    qs_close(&context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shares),          cmocka_unit_test(test_shares_refused),
        cmocka_unit_test(test_smallest),        cmocka_unit_test(test_training_windows),
        cmocka_unit_test(test_nothing_is_shared), cmocka_unit_test(test_same_windows),
        cmocka_unit_test(test_other_split),
    };
    return cmocka_run_group_tests(tests, make_test_folder, drop_test_folder);
}
