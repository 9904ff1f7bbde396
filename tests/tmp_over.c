#include "training_case.h"
#include <time.h>
static double now(void){struct timespec t; clock_gettime(CLOCK_MONOTONIC,&t); return t.tv_sec+1e-9*t.tv_nsec;}
int main(int argc, char **argv)
{
    int steps = argc > 1 ? atoi(argv[1]) : 200;
    for (int a = 0; a < ARMS; a++) {
        setup s = small_setup(arms[a].optimizer, arms[a].fsm, arms[a].recipe);
        s.options.batch = 2; s.options.steps = steps; s.config.ctx = 64; 
        if (argc > 2) { s.config.dim = atoi(argv[2]); s.config.ffn = 2 * s.config.dim; }
        qs_context *context = open_context(1, NULL, NULL);
        qs_text *text = one_window_text(context, s.config.ctx);
        qs_trainer *t = make_trainer(context, &s, text);
        double t0 = now();
        double first = train_to(t, 1).loss, mid = train_to(t, steps/2).loss, last = train_to(t, steps).loss;
        printf("%-10s %.4f %.4f %.4f  %.2fs\n", arms[a].name, first, mid, last, now()-t0);
        qs_trainer_free(&t); qs_text_free(&text); qs_close(&context);
    }
    /* lagged vs exact */
    for (int seed = 1; seed <= 3; seed++) for (int r = 0; r < 2; r++) {
        setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, r ? QS_RECIPE_EXACT : QS_RECIPE_DEFAULT);
        s.config.dim = 64; s.config.heads = 4; s.config.head_dim = 16; s.config.kv_heads = 4; s.config.ffn = 128; s.config.ctx = 32; s.config.layers = 2;
        s.options.batch = 8; s.options.steps = 250; s.options.seed = seed;
        qs_context *context = open_context(1, NULL, NULL);
        qs_text *text = prose_text(context, 40000, 0.1);
        qs_trainer *t = make_trainer(context, &s, text);
        double t0 = now(), lo = 9, hi = 0, mean = 0; int n = 0, lo_at=0, hi_at=0; qs_step_info i; double nats;
        for (int k = 1; k <= 250; k++) { i = train_to(t, k); if (k > 10) { double q = i.pulses / i.density; mean += q; n++; if (q < lo) lo = q, lo_at=k; if (q > hi) hi = q, hi_at=k; } }
        ok(qs_model_evaluate(qs_trainer_model(t), text, 0, 16, &nats, NULL));
        printf("seed %d %s val %.4f ratio %.3f@%d..%.3f@%d mean %.3f %.2fs\n", seed, r ? "exact" : "lagged", nats, lo, lo_at, hi, hi_at, mean / n, now()-t0);
        qs_trainer_free(&t); qs_text_free(&text); qs_close(&context);
    }
    return 0;
}
