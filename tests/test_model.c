/* test_model.c - configurations, evaluation, sessions, sampling and generation of a model. */
#include <math.h>
#include "training_case.h"

enum { VOCAB = 256 };

/* A model of random signs with every option of the graph that a session must get right. */
static qs_model_config session_config(int graph)
{
    qs_model_config c = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT).config;
    c.ctx = 80;               /* more than one piece of a prefill, more than one tile of keys */
    c.qk_norm = graph & 1;
    c.sub_norm = graph >> 1 & 1;
    c.tied = graph == 3;
    c.dense = graph == 2;
    c.lora_rank = graph == 4 ? 3 : 0;
    return c;
}
enum { GRAPHS = 5 };

static void tokens_of(int32_t *tokens, int64_t n)
{
    char bytes[1024];
    assert_true(n <= (int64_t)sizeof bytes);
    write_prose(3, bytes, n);
    for (int64_t i = 0; i < n; i++)
        tokens[i] = (uint8_t)bytes[i];
}

/* ---- configurations ---------------------------------------------------------------------------------------------- */

static void test_config_defaults(void **state)
{
    (void)state;
    qs_model_config c;
    qs_model_config_default(&c);
    c.dim = 96;
    c.heads = 3;
    c.ffn = 0;
    ok(qs_model_config_resolve(&c));
    assert_int_equal(c.kv_heads, 3);
    assert_int_equal(c.head_dim, 32);
    assert_int_equal(c.ffn, 256);   /* 8 * 96 / 3 */
    c.dim = 128;
    c.heads = 4;
    c.head_dim = c.ffn = c.kv_heads = 0;
    ok(qs_model_config_resolve(&c));
    assert_int_equal(c.ffn, 384);   /* 341.3 rounded up to a multiple of 128 */
}

static void test_config_refused(void **state)
{
    (void)state;
    static const struct { size_t field; int64_t value; const char *text; } bad[] = {
#define FIELD(name, value) {offsetof(qs_model_config, name), value, #name}
        FIELD(vocab, 1), FIELD(vocab, -5), FIELD(layers, 0), FIELD(layers, 4097), FIELD(dim, 48), FIELD(dim, 0), FIELD(dim, -32),
        FIELD(dim, INT64_MAX), FIELD(heads, 0), FIELD(heads, 1025), FIELD(heads, INT64_MIN), FIELD(kv_heads, 3),
        FIELD(kv_heads, -1), FIELD(head_dim, 3), FIELD(head_dim, 514), FIELD(head_dim, 5), FIELD(ffn, 33), FIELD(ffn, -64),
        FIELD(ctx, 1), FIELD(ctx, 1048577), FIELD(lora_rank, -1), FIELD(lora_rank, 129), FIELD(lora_rank, INT64_MAX),
#undef FIELD
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        qs_model_config c, copy;
        qs_model_config_default(&c);
        memcpy((char *)&c + bad[i].field, &bad[i].value, sizeof bad[i].value);
        copy = c;
        refuses(qs_model_config_resolve(&c), QS_ERR_ARG, bad[i].text);
        assert_memory_equal(&c, &copy, sizeof c);
        qs_context *context = open_context(1, NULL, NULL);
        qs_model *model = NULL;
        refuses(qs_model_create(context, &c, 1, &model), QS_ERR_ARG, bad[i].text);
        assert_null(model);
        qs_close(&context);
    }
    qs_model_config c;
    qs_model_config_default(&c);
    c.qk_norm = 2;
    refuses(qs_model_config_resolve(&c), QS_ERR_ARG, "qk_norm");
    qs_model_config_default(&c);
    c.lora_rank = 1025;
    c.dim = c.ffn = 2048;
    refuses(qs_model_config_resolve(&c), QS_ERR_ARG, "lora_rank is 1025; it must lie in 1..1024");
    c.lora_rank = 4;
    c.dense = 1;
    refuses(qs_model_config_resolve(&c), QS_ERR_ARG, "lora_rank is 4 in a model of fp32 matrices");
    qs_model_config_default(&c);
    c.rope_theta = NAN;
    refuses(qs_model_config_resolve(&c), QS_ERR_ARG, "rope_theta");
    qs_model_config_default(&c);
    c.norm_eps = 0.0;
    refuses(qs_model_config_resolve(&c), QS_ERR_ARG, "norm_eps");
    qs_model_config_default(&c);
    c.struct_size -= 8;
    refuses(qs_model_config_resolve(&c), QS_ERR_ARG, "struct_size");
}

static void test_presets(void **state)
{
    (void)state;
    qs_model_config c;
    qs_model_size size, before = {0, 0, 0};
    for (int i = 0; i < qs_model_preset_count(); i++) {
        qs_model_config_default(&c);
        ok(qs_model_preset(qs_model_preset_name(i), &c));
        ok(qs_model_size_of(&c, &size));
        assert_true(size.packed_weights > before.packed_weights);
        before = size;
    }
    assert_null(qs_model_preset_name(-1));
    assert_null(qs_model_preset_name(qs_model_preset_count()));
    refuses(qs_model_preset("huge", &c), QS_ERR_ARG, "huge");
    refuses(qs_model_preset(NULL, &c), QS_ERR_ARG, "tiny");
    ok(qs_model_preset("90b", &c));
    ok(qs_model_size_of(&c, &size));
    assert_int_equal(size.packed_weights, INT64_C(90) * 999161856);
}

/* What a model really occupies is what qs_model_size_of says, and all of it is given back. */
static void test_size_and_memory(void **state)
{
    (void)state;
    for (int graph = 0; graph < GRAPHS; graph++) {
        qs_model_config c = session_config(graph);
        qs_context *context = open_context(1, NULL, NULL);
        qs_memory_usage start, weights, end;
        qs_model *model = NULL;
        qs_model_size size;
        qs_memory(context, QS_MEMORY_TAGS, &start);
        ok(qs_model_create(context, &c, 1, &model));
        ok(qs_model_size_of(qs_model_get_config(model), &size));
        qs_memory(context, QS_MEMORY_WEIGHTS, &weights);
        assert_true(weights.current_bytes >= (uint64_t)size.packed_bytes);
        assert_true(weights.current_bytes < (uint64_t)size.packed_bytes + 64 * 1024);
        qs_model_free(&model);
        qs_memory(context, QS_MEMORY_TAGS, &end);
        assert_int_equal(end.current_bytes, start.current_bytes);
        qs_close(&context);
    }
}

/* ---- evaluation -------------------------------------------------------------------------------------------------- */

static void test_evaluate_batches(void **state)
{
    (void)state;
    static const int64_t batches[] = {1, 2, 3, 7, 1000};
    qs_model_config c = session_config(1);
    c.ctx = 23;               /* windows start at odd places of every buffer */
    double want = 0.0, nats = 0.0;
    int64_t tokens = 0;
    for (int threads = 1; threads <= 3; threads += 2) {
        qs_context *context = open_context(threads, NULL, NULL);
        qs_text *text = prose_text(context, 2000, 0.2);   /* 400 tokens: 17 windows */
        qs_model *model = NULL;
        ok(qs_model_create(context, &c, 1, &model));
        for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++) {
            ok(qs_model_evaluate(model, text, 0, batches[i], &nats, &tokens));
            assert_int_equal(tokens, 17 * 23);
            want = want > 0.0 ? want : nats;
            assert_true(nats == want);
            ok(qs_model_evaluate(model, text, 5, batches[i], &nats, &tokens));
            assert_int_equal(tokens, 5 * 23);
        }
        ok(qs_model_evaluate(model, text, 1000, 0, &nats, NULL));
        assert_true(nats == want);
        /* random signs know nothing: somewhat above ln 256 */
        assert_true(nats > 5.4 && nats < 6.5);
        qs_model_free(&model);
        qs_text_free(&text);
        qs_close(&context);
    }
}

static void test_evaluate_refused(void **state)
{
    (void)state;
    qs_model_config c = session_config(0);
    qs_context *context = open_context(1, NULL, NULL);
    qs_text *text = prose_text(context, 200, 0.4);    /* 80 tokens of validation, 81 are needed */
    qs_model *model = NULL;
    double nats = -1.0;
    ok(qs_model_create(context, &c, 1, &model));
    refuses(qs_model_evaluate(model, text, 0, 1, &nats, NULL), QS_ERR_SHAPE, "81");
    assert_true(nats == -1.0);
    qs_model_free(&model);
    c.vocab = 100;
    ok(qs_model_create(context, &c, 1, &model));
    refuses(qs_model_evaluate(model, text, 0, 1, &nats, NULL), QS_ERR_SHAPE, "100");
    qs_model_free(&model);
    refuses(qs_model_open(context, "/nowhere/at/all", &model), QS_ERR_NOINPUT, "/nowhere/at/all");
    assert_null(model);
    qs_text_free(&text);
    qs_close(&context);
}

/* ---- sessions ---------------------------------------------------------------------------------------------------- */

typedef struct world {
    qs_context *context;
    qs_model *model;
    qs_session *session;
} world;

static world open_world(const qs_model_config *c, int64_t capacity, int threads)
{
    world w = {open_context(threads, NULL, NULL), NULL, NULL};
    ok(qs_model_create(w.context, c, 1, &w.model));
    ok(qs_session_create(w.model, capacity, &w.session));
    return w;
}

static void close_world(world *w)
{
    qs_session_free(&w->session);
    qs_model_free(&w->model);
    qs_close(&w->context);
}

/* One by one, in pieces of 2, 7, 64 and 65, and at once: the same logits after every piece. */
static void test_session_pieces(void **state)
{
    (void)state;
    enum { N = 80 };
    static const int64_t pieces[] = {2, 7, 64, 65, N};
    static float want[N][VOCAB];
    float logits[VOCAB];
    int32_t tokens[N];
    tokens_of(tokens, N);
    for (int graph = 0; graph < GRAPHS; graph++) {
        const qs_model_config c = session_config(graph);
        world w = open_world(&c, 0, 1);
        for (int i = 0; i < N; i++)
            ok(qs_session_eval(w.session, tokens + i, 1, want[i]));
        for (size_t p = 0; p < sizeof pieces / sizeof pieces[0]; p++) {
            qs_session_reset(w.session);
            assert_int_equal(qs_session_position(w.session), 0);
            for (int64_t i = 0; i < N; i += pieces[p]) {
                const int64_t n = N - i < pieces[p] ? N - i : pieces[p];
                ok(qs_session_eval(w.session, tokens + i, n, logits));
                assert_memory_equal(logits, want[i + n - 1], sizeof logits);
                assert_int_equal(qs_session_position(w.session), i + n);
            }
        }
        close_world(&w);
        /* threads and a longer cache do not show either */
        w = open_world(&c, 3 * N, 3);
        ok(qs_session_eval(w.session, tokens, N, logits));
        assert_memory_equal(logits, want[N - 1], sizeof logits);
        close_world(&w);
    }
}

/* The logits of a session are those whose loss qs_model_evaluate reports. */
static void test_session_equals_evaluate(void **state)
{
    (void)state;
    float logits[VOCAB];
    for (int graph = 0; graph < GRAPHS; graph++) {
        const qs_model_config c = session_config(graph);
        world w = open_world(&c, 0, 1);
        qs_text *text = one_window_text(w.context, c.ctx);
        uint8_t bytes[128];
        assert_true(c.ctx < (int64_t)sizeof bytes);
        ok(qs_text_read(text, 0, c.ctx + 1, bytes));
        double sum = 0.0, nats = 0.0;
        for (int64_t i = 0; i < c.ctx; i++) {
            const int32_t token = bytes[i];
            ok(qs_session_eval(w.session, &token, 1, logits));
            sum += log_loss(logits, VOCAB, bytes[i + 1]);
        }
        ok(qs_model_evaluate(w.model, text, 0, 1, &nats, NULL));
        assert_true(fabs(sum / (double)c.ctx - nats) < 1e-6 * nats);
        qs_text_free(&text);
        close_world(&w);
    }
}

static void test_session_refused(void **state)
{
    (void)state;
    const qs_model_config c = session_config(0);
    world w = open_world(&c, 10, 1);
    qs_session *none = NULL;
    int32_t tokens[11] = {0};
    refuses(qs_session_create(w.model, -1, &none), QS_ERR_ARG, "-1");
    refuses(qs_session_create(w.model, (1 << 20) + 1, &none), QS_ERR_ARG, "1048577");
    assert_null(none);
    refuses(qs_session_eval(w.session, tokens, 0, NULL), QS_ERR_ARG, "0 tokens");
    refuses(qs_session_eval(w.session, tokens, 11, NULL), QS_ERR_ARG, "11 tokens");
    ok(qs_session_eval(w.session, tokens, 8, NULL));
    refuses(qs_session_eval(w.session, tokens, 3, NULL), QS_ERR_ARG, "8 of 10");
    tokens[1] = 256;
    refuses(qs_session_eval(w.session, tokens, 2, NULL), QS_ERR_ARG, "token 256");
    tokens[1] = -1;
    refuses(qs_session_eval(w.session, tokens, 2, NULL), QS_ERR_ARG, "token -1");
    assert_int_equal(qs_session_position(w.session), 8);
    ok(qs_session_eval(w.session, tokens, 1, NULL));
    close_world(&w);
}

/* ---- sampling ---------------------------------------------------------------------------------------------------- */

static qs_sampling sampling_of(double temperature, int64_t top_k, double top_p, uint64_t seed)
{
    return (qs_sampling){.temperature = temperature, .top_k = top_k, .top_p = top_p, .seed = seed};
}

static void test_sample(void **state)
{
    (void)state;
    enum { N = 5, DRAWS = 20000 };
    const float logits[N] = {1.0f, 3.0f, 0.0f, 3.0f, 2.0f};
    int32_t token = -1, counts[N] = {0};
    qs_sampling s;
    const qs_sampling greedy[] = {sampling_of(0.0, 0, 1.0, 1), sampling_of(1.0, 1, 1.0, 1), sampling_of(1.0, 0, 1e-9, 1)};
    for (int g = 0; g < 3; g++) {
        for (uint32_t i = 0; i < 50; i++) {
            ok(qs_sample(logits, N, &greedy[g], i, &token));
            assert_int_equal(token, 1);   /* the smaller one of the two best */
        }
    }
    s = sampling_of(2.0, 0, 1.0, 9);
    double sum = 0.0;
    for (int i = 0; i < N; i++)
        sum += exp((double)logits[i] / 2.0);
    for (uint32_t i = 0; i < DRAWS; i++) {
        ok(qs_sample(logits, N, &s, i, &token));
        counts[token]++;
    }
    for (int i = 0; i < N; i++) {
        const double p = exp((double)logits[i] / 2.0) / sum, deviation = sqrt(DRAWS * p * (1.0 - p));
        assert_true(fabs(counts[i] - DRAWS * p) < 4.0 * deviation);
    }
    /* the best three; the fewest that hold 70%: shares are .05 .39 .02 .39 .14 */
    const qs_sampling cut[] = {sampling_of(1.0, 3, 1.0, 4), sampling_of(1.0, 0, 0.7, 4)};
    const int allowed[2][N] = {{0, 1, 0, 1, 1}, {0, 1, 0, 1, 0}};
    for (int c = 0; c < 2; c++) {
        memset(counts, 0, sizeof counts);
        for (uint32_t i = 0; i < 500; i++) {
            ok(qs_sample(logits, N, &cut[c], i, &token));
            counts[token]++;
        }
        for (int i = 0; i < N; i++)
            assert_int_equal(counts[i] > 0, allowed[c][i]);
    }
}

static void test_sample_refused(void **state)
{
    (void)state;
    float logits[3] = {0.0f, 1.0f, 2.0f};
    int32_t token = -7;
    const qs_sampling bad[] = {sampling_of(-1.0, 0, 1.0, 1), sampling_of(NAN, 0, 1.0, 1), sampling_of(1.0, -1, 1.0, 1),
                               sampling_of(1.0, 0, 0.0, 1), sampling_of(1.0, 0, 1.5, 1), sampling_of(1.0, 0, NAN, 1)};
    static const char *const text[] = {"temperature", "temperature", "top_k", "top_p", "top_p", "top_p"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        refuses(qs_sample(logits, 3, &bad[i], 0, &token), QS_ERR_ARG, text[i]);
    const qs_sampling fine = sampling_of(1.0, 0, 1.0, 1);
    refuses(qs_sample(logits, 0, &fine, 0, &token), QS_ERR_ARG, "0 symbols");
    logits[1] = NAN;
    refuses(qs_sample(logits, 3, &fine, 0, &token), QS_ERR_NONFINITE, "token 1");
    logits[1] = -INFINITY;
    refuses(qs_sample(logits, 3, &fine, 0, &token), QS_ERR_NONFINITE, "token 1");
    assert_int_equal(token, -7);
}

/* ---- generation -------------------------------------------------------------------------------------------------- */

typedef struct listener {
    int32_t tokens[256];
    int count, stop_at;
} listener;

static int listen(void *user, int32_t token)
{
    listener *l = user;
    assert_true(l->count < 256);
    l->tokens[l->count++] = token;
    return l->count == l->stop_at;
}

static void test_generate_deterministic(void **state)
{
    (void)state;
    enum { PROMPT = 5, N = 60 };
    const qs_model_config c = session_config(1);
    int32_t prompt[PROMPT];
    listener a = {.count = 0}, b = {.count = 0}, other = {.count = 0}, few = {.count = 0, .stop_at = 7};
    qs_sampling s;
    tokens_of(prompt, PROMPT);
    qs_sampling_default(&s);
    world w = open_world(&c, 0, 1), w3 = open_world(&c, 0, 3);
    ok(qs_generate(w.session, prompt, PROMPT, N, &s, listen, &a));
    ok(qs_generate(w3.session, prompt, PROMPT, N, &s, listen, &b));
    assert_int_equal(a.count, N);
    assert_memory_equal(&a, &b, sizeof a);
    s.seed++;
    ok(qs_generate(w.session, prompt, PROMPT, N, &s, listen, &other));
    assert_memory_not_equal(a.tokens, other.tokens, N * sizeof a.tokens[0]);
    s.seed--;
    refuses(qs_generate(w.session, prompt, PROMPT, N, &s, listen, &few), QS_ERR_CANCELLED, "7");
    assert_int_equal(few.count, 7);
    assert_memory_equal(few.tokens, a.tokens, 7 * sizeof a.tokens[0]);
    refuses(qs_generate(w.session, prompt, 0, N, &s, listen, &few), QS_ERR_ARG, "prompt");
    ok(qs_generate(w.session, prompt, PROMPT, 0, &s, listen, &few));
    assert_int_equal(few.count, 7);
    close_world(&w);
    close_world(&w3);
}

/* What generation must do, step by step with an own session: when the context is full, its newer half is evaluated anew. */
static void test_generate_shifts(void **state)
{
    (void)state;
    enum { PROMPT = 30, CAPACITY = 12, N = 50 };
    const qs_model_config c = session_config(0);
    int32_t prompt[PROMPT], history[CAPACITY + 1], token = 0;
    float logits[VOCAB];
    listener got = {.count = 0};
    const qs_sampling s = sampling_of(1.0, 20, 0.9, 3);
    tokens_of(prompt, PROMPT);
    world w = open_world(&c, CAPACITY, 1), own = open_world(&c, CAPACITY, 1);
    ok(qs_generate(w.session, prompt, PROMPT, N, &s, listen, &got));
    int64_t length = CAPACITY - 1;         /* the newest part of a prompt that does not fit, with room for one token */
    memcpy(history, prompt + PROMPT - length, (size_t)length * sizeof *history);
    ok(qs_session_eval(own.session, history, length, logits));
    for (int i = 0; i < N; i++) {
        ok(qs_sample(logits, VOCAB, &s, (uint32_t)i, &token));
        assert_int_equal(got.tokens[i], token);
        if (length == CAPACITY) {
            length = CAPACITY / 2;
            memmove(history, history + CAPACITY - length, (size_t)length * sizeof *history);
            qs_session_reset(own.session);
            ok(qs_session_eval(own.session, history, length, logits));
        }
        history[length++] = token;
        ok(qs_session_eval(own.session, &token, 1, logits));
    }
    assert_int_equal(got.count, N);
    close_world(&w);
    close_world(&own);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_defaults),  cmocka_unit_test(test_config_refused),
        cmocka_unit_test(test_presets),          cmocka_unit_test(test_size_and_memory),
        cmocka_unit_test(test_evaluate_batches), cmocka_unit_test(test_evaluate_refused),
        cmocka_unit_test(test_session_pieces),   cmocka_unit_test(test_session_equals_evaluate),
        cmocka_unit_test(test_session_refused),  cmocka_unit_test(test_sample),
        cmocka_unit_test(test_sample_refused),   cmocka_unit_test(test_generate_deterministic),
        cmocka_unit_test(test_generate_shifts),
    };
    return cmocka_run_group_tests(tests, make_test_folder, drop_test_folder);
}
