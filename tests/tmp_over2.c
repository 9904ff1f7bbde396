#include "training_case.h"
#include <time.h>
static double now(void){struct timespec t; clock_gettime(CLOCK_MONOTONIC,&t); return t.tv_sec+1e-9*t.tv_nsec;}
int main(int argc, char **argv)
{
    int steps = argc > 1 ? atoi(argv[1]) : 200;
    for (int a = 0; a < ARMS; a++) {
        setup s = small_setup(arms[a].optimizer, arms[a].fsm, arms[a].recipe);
        s.options.batch = 2; s.options.steps = steps; s.config.ctx = 64; s.config.dim = 64; s.config.ffn = 128;
        s.options.lr = 1e-30; s.options.scale_lr = 1e-30; s.options.matrix_lr = 8e-3;
        qs_context *context = open_context(1, NULL, NULL);
        qs_text *text = one_window_text(context, s.config.ctx);
        qs_trainer *t = make_trainer(context, &s, text);
        double t0 = now();
        double first = train_to(t, 1).loss, mid = train_to(t, steps/2).loss, last = train_to(t, steps).loss;
        printf("%-10s %.4f %.4f %.4f  %.2fs\n", arms[a].name, first, mid, last, now()-t0);
        qs_trainer_free(&t); qs_text_free(&text); qs_close(&context);
    }
    for (int batch = 8; batch <= 32; batch *= 4) for (int seed = 1; seed <= 3; seed++) {
        setup s = small_setup(QS_OPTIMIZER_FSM, QS_FSM_C4, QS_RECIPE_DEFAULT);
        s.config.dim = 64; s.config.heads = 4; s.config.head_dim = 16; s.config.kv_heads = 4; s.config.ffn = 128; s.config.ctx = 32; s.config.layers = 2;
        s.options.batch = batch; s.options.steps = 250; s.options.seed = seed;
        qs_context *context = open_context(1, NULL, NULL);
        qs_text *text = prose_text(context, 40000, 0.1);
        qs_trainer *t = make_trainer(context, &s, text);
        double t0 = now(); double q = 0, d = 0; qs_step_info i;
        printf("batch %d seed %d:", batch, seed);
        for (int k = 1; k <= 250; k++) { i = train_to(t, k); if (k > 10) { q += i.pulses; d += i.density; if (k % 30 == 10) { printf(" %.3f", q / d); q = d = 0; } } }
        printf("  loss %.3f %.2fs\n", i.loss, now()-t0);
        qs_trainer_free(&t); qs_text_free(&text); qs_close(&context);
    }
    return 0;
}
