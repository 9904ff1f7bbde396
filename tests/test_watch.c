/* test_watch.c - what a run tells: metrics.jsonl read back, the progress line in windows of many widths and without a
 * terminal, the healthy ranges. The event files are tests/test_events.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <math.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "cli/events.h"
#include "cli/metrics.h"
#include "cli/progress.h"

enum { OUTPUT_BYTES = 1 << 16 };

/* ---- metrics ----------------------------------------------------------------------------------------------------- */

static void fresh_path(char path[64])
{
    (void)snprintf(path, 64, "/tmp/qsbits-watch-XXXXXX");
    const int file = mkstemp(path);
    assert_true(file >= 0);
    (void)close(file);
}

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static char *read_text(const char *path, char text[OUTPUT_BYTES])
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    text[fread(text, 1, OUTPUT_BYTES - 1, file)] = '\0';
    (void)fclose(file);
    return text;
}

static void append_step(metrics *m, int64_t step, double loss, double flips)
{
    const qs_step_info info = {.step = step, .tokens = 10 * step, .loss = loss, .flips = flips};
    assert_true(metrics_step(m, &info, 1000.0));
}

/* Steps 1-4 with a mean of 0.25 flips, 5-6 with 0.5, 7-10 with 0.125; lines of every kind between. */
static void write_run(const char *path)
{
    metrics m;
    history h;
    const qs_health health[3] = {{.step = 4, .density = NAN, .dead = 0.25}, {.step = 4, .dead = 0.5}, {.step = 4}};
    const uint64_t memory[QS_MEMORY_TAGS + 1] = {7};
    health_warning warning = {.figure = HEALTH_dead, .value = 0.5, .most = INFINITY, .text = "quoted \"text\""};
    assert_int_equal(metrics_open(&m, path, -1, &h), 0);
    assert_true(metrics_validation(&m, 0, 5.5, 160, true));
    append_step(&m, 4, 4.0, 0.25);
    assert_true(metrics_health(&m, 4, 4, &health[0], &health[1], 2, memory));
    assert_true(metrics_warning(&m, 4, 0, &warning));
    assert_true(metrics_validation(&m, 4, 3.0, 16, false));
    append_step(&m, 6, 2.0, 0.5);
    assert_true(metrics_validation(&m, 6, 3.5, 16, false));
    assert_true(metrics_validation(&m, 6, 2.5, 160, true));
    append_step(&m, 10, 1.0, 0.125);
    assert_true(metrics_warning(&m, 10, -1, &warning));
    metrics_close(&m);
}

static void test_metrics_resume(void **state)
{
    (void)state;
    char path[64], text[OUTPUT_BYTES], *end;
    metrics m;
    history h;
    fresh_path(path);
    write_run(path);
    assert_int_equal(metrics_open(&m, path, 6, &h), 0);
    assert_int_equal(h.count, 6);
    assert_float_equal(h.flips, 4 * 0.25 + 2 * 0.5, 1e-12);
    assert_float_equal(history_recent_loss(&h), (4 * 4.0 + 2 * 2.0) / 6, 1e-12);
    assert_float_equal(h.val_start, 5.5, 0.0);
    assert_float_equal(h.val_last, 2.5, 0.0);
    assert_float_equal(h.best_loss, 3.0, 0.0);
    assert_int_equal(h.best_step, 4);
    assert_int_equal(h.since_best, 1);
    append_step(&m, 7, 9.0, 0.0);
    metrics_close(&m);
    (void)read_text(path, text);
    assert_null(strstr(text, "\"step\":10,"));
    assert_non_null(strstr(text, "\"warning\":{\"layer\":0,\"figure\":\"dead\",\"value\":0.5,\"least\":0.0,\"most\":null,"));
    assert_non_null(strstr(text, "\"layers\":[{\"density\":0.0,"));
    assert_non_null(strstr(text, "\"all\":{\"density\":null,"));
    end = strrchr(text, '{');
    assert_non_null(strstr(end, "\"step\":7,"));
    assert_int_equal(text[strlen(text) - 1], '\n');
    (void)unlink(path);
}

/* What ends the lines that are kept: the number of steps of the first line only is counted. */
static void test_metrics_damage(void **state)
{
    (void)state;
    static const char good[] = "{\"step\":2,\"loss\":1.0,\"flips\":0.5}\n";
    static const char *const bad[] = {
        "{\"step\":3", "{\"step\":3}\n", "{\"step\":1,\"loss\":1.0}\n", "{\"step\":2,\"loss\":1.0}\n",
        "{\"step\":3.0,\"loss\":1.0}\n", "{\"step\":-1,\"val_loss\":1.0}\n", "\n", "[3]\n", "nonsense\n",
        "{\"step\":9,\"loss\":1.0}\n", "{\"step\":3,\"loss\":1.0}",
        "{\"step\":99999999999999999999,\"loss\":1}\n", "{\"step\":3,\"other\":1}\n",
    };
    char path[64], text[OUTPUT_BYTES];
    metrics m;
    history h;
    fresh_path(path);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        (void)snprintf(text, sizeof text, "%s%s%s", good, bad[i], "{\"step\":4,\"loss\":1.0,\"flips\":0.5}\n");
        write_text(path, text);
        assert_int_equal(metrics_open(&m, path, 8, &h), 0);
        metrics_close(&m);
        assert_int_equal(h.count, 2);
        assert_float_equal(h.flips, 1.0, 0.0);
        assert_string_equal(read_text(path, text), good);
    }
    assert_int_equal(metrics_open(&m, path, -1, &h), 0);
    metrics_close(&m);
    assert_string_equal(read_text(path, text), "");
    assert_true(isnan(history_recent_loss(&h)));
    (void)unlink(path);
}

static void test_metrics_full_disk(void **state)
{
    (void)state;
    metrics m = {.file = fopen("/dev/full", "w")};
    assert_non_null(m.file);
    assert_false(metrics_validation(&m, 1, 1.0, 1, true));
    metrics_close(&m);
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static void test_events_failures(void **state)
{
    (void)state;
    static const char *const name = "a";
    const double one = 1.0, nothing = NAN;
    events e = {.file = NULL};
    assert_true(events_write(&e, 1, 1, &name, &one));  /* switched off */
    e.file = fopen("/dev/full", "w");
    assert_non_null(e.file);
    assert_true(events_write(&e, 1, 1, &name, &nothing));
    assert_false(events_write(&e, 1, 1, &name, &one));
    events_close(&e);
    assert_int_equal(events_open(&e, "/dev/null/folder", 0), 73);
    events_close(&e);
}

/* ---- progress ---------------------------------------------------------------------------------------------------- */

typedef struct screen {
    const char *term, *no_color, *label;
    int columns, later_columns;  /* of the window, and of the window before the last line; 0: a pipe */
} screen;

/* Runs a little training's progress in a child whose stderr is the pty or pipe; what it wrote, in text. */
static void play(const screen *s, int64_t steps, char text[OUTPUT_BYTES])
{
    int main_side, other_side, status, pipe_sides[2];
    struct winsize size = {.ws_row = 24, .ws_col = (unsigned short)s->columns};
    if (s->columns > 0) {
        assert_int_equal(openpty(&main_side, &other_side, NULL, NULL, &size), 0);
    } else {
        assert_int_equal(pipe(pipe_sides), 0);
        main_side = pipe_sides[0];
        other_side = pipe_sides[1];
    }
    const pid_t child = fork();
    if (child == 0) {
        progress p;
        (void)dup2(other_side, STDERR_FILENO);
        (void)setenv("TERM", s->term, 1);
        (void)(s->no_color != NULL ? setenv("NO_COLOR", s->no_color, 1) : unsetenv("NO_COLOR"));
        progress_start(&p, s->label, 0, 1000000, 2048, true, 0.0);
        for (int64_t step = 1; step <= steps; step++) {
            const qs_step_info info = {.step = step, .tokens = 2048 * step, .loss = 1.25, .flips = 0.00123};
            progress_step(&p, &info, 0.2);
            progress_validation(&p, 1.5);
            progress_health(&p, 2, 0.125);
        }
        size.ws_col = (unsigned short)s->later_columns;
        if (s->columns > 0)
            (void)ioctl(STDERR_FILENO, TIOCSWINSZ, &size);
        progress_say(&p, "step %d said", 7);
        progress_end(&p);
        progress_end(&p);
        _exit(0);
    }
    (void)close(other_side);
    size_t n = 0;
    for (ssize_t got; n < OUTPUT_BYTES - 1 && (got = read(main_side, text + n, OUTPUT_BYTES - 1 - n)) > 0;)
        n += (size_t)got;
    text[n] = '\0';
    (void)close(main_side);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* The columns of a drawn line: without escape sequences; the test's labels are of wide characters, two columns each. */
static int columns_until(const char *text, const char *end)
{
    int columns = 0;
    for (; text < end; text++) {
        if (*text == '\033')
            text += strcspn(text, "mK");
        else if ((unsigned char)*text >= 0xE0)
            columns += 2;
        else if ((unsigned char)*text < 0x80)
            columns++;
    }
    return columns;
}

static bool is_whole_utf8(const char *text)
{
    for (; *text != '\0'; text++) {
        const unsigned char byte = (unsigned char)*text;
        const int more = byte < 0x80 ? 0 : byte < 0xC0 ? -1 : byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
        if (more < 0)
            return false;
        for (int i = 0; i < more; i++)
            if (((unsigned char)*++text & 0xC0) != 0x80)
                return false;
    }
    return true;
}

static int widest(const char *text)
{
    int most = 0;
    while (*text != '\0') {
        const char *end = text + strcspn(text, "\r\n");
        if (strstr(text, "said") == NULL || strstr(text, "said") > end) {
            const int columns = columns_until(text, end);
            most = columns > most ? columns : most;
        }
        text = end + (*end != '\0');
    }
    return most;
}

static void test_progress_widths(void **state)
{
    (void)state;
    static const int widths[] = {1, 2, 7, 20, 40, 60, 80, 100, 140, 200, 500};
    static const char *const labels[] = {"", "c4 seed 1", "\xe4\xb8\xad\xe6\x96\x87\xe5\xad\x97 \xc3\xa4"};
    char text[OUTPUT_BYTES];
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        for (size_t k = 0; k < sizeof labels / sizeof labels[0]; k++) {
            const screen s = {.term = "xterm", .label = labels[k], .columns = widths[i], .later_columns = widths[i]};
            play(&s, 3, text);
            assert_in_range(widest(text), 0, widths[i] > 1 ? widths[i] - 1 : 0);
            assert_true(is_whole_utf8(text));
            assert_true(widths[i] < 8 || strstr(text, "0%") != NULL);
            assert_true(widths[i] < 40 || (strstr(text, "loss 1.2500") && strstr(text, "left ")));
            assert_true(widths[i] < 140 || (strstr(text, "val 1.5000") && strstr(text, "health 2 warnings") &&
                                            strstr(text, "tok/s") && strstr(text, "mem ") && strstr(text, "flips 0.123%")));
            assert_true(widths[i] < 200 || (strstr(text, "dead 12.5%") && strstr(text, "[----")));
            assert_string_equal(text + strlen(text) - 5, "\033[K\r\n");
        }
    }
}

static void test_progress_resize(void **state)
{
    (void)state;
    char text[OUTPUT_BYTES];
    const screen s = {.term = "xterm", .label = "", .columns = 150, .later_columns = 30};
    play(&s, 1, text);
    const char *after = strstr(text, "said");
    assert_non_null(after);
    assert_true(widest(text) > 60);
    assert_in_range(widest(after + 4), 15, 29);
}

static void test_progress_colors(void **state)
{
    (void)state;
    char text[OUTPUT_BYTES];
    screen s = {.term = "xterm", .label = "", .columns = 80, .later_columns = 80};
    play(&s, 2, text);
    assert_non_null(strstr(text, "\033[36m"));
    assert_non_null(strstr(text, "\033[33m"));  /* there are warnings later */
    s.no_color = "1";
    play(&s, 2, text);
    assert_null(strstr(text, "\033[3"));
    assert_non_null(strstr(text, "\033[K"));
    s.no_color = "";
    play(&s, 2, text);
    assert_non_null(strstr(text, "\033[36m"));
}

/* A line at the first step, the message, a line at the last step: nothing else in so short a time. */
static void test_progress_plain(void **state)
{
    (void)state;
    static const screen screens[] = {
        {.term = "xterm", .label = "", .columns = 0},
        {.term = "dumb", .label = "c4", .columns = 40, .later_columns = 40},
        {.term = "", .label = "c4", .columns = 40, .later_columns = 40},
    };
    char text[OUTPUT_BYTES];
    for (size_t i = 0; i < sizeof screens / sizeof screens[0]; i++) {
        play(&screens[i], 4, text);
        int lines = 0;
        for (const char *c = text; *c != '\0'; c++)
            lines += *c == '\n';
        assert_int_equal(lines, 3);
        assert_null(strchr(text, '\033'));
        assert_non_null(strstr(text, screens[i].label[0] == '\0' ? "\nstep 7 said" : "\nc4: step 7 said"));
        assert_non_null(strstr(text, "1/1000000  loss 1.2500"));
        assert_non_null(strstr(text, "4/1000000  loss 1.2500  val 1.5000  10.2k tok/s  flips 0.123%"));
        assert_non_null(strstr(text, "flips 0.123%  health 2 warnings  dead 12.5%"));
        play(&screens[i], 1, text);  /* the last line was told already */
        assert_null(strstr(strstr(text, "said"), "loss"));
    }
}

/* ---- health ------------------------------------------------------------------------------------------------------ */

/* A healthy window in the middle of a run of 1000 steps, density 50%. */
static const qs_health well = {.step = 500, .density = 0.5, .pulses = 0.52, .flips = 0.015, .dead = 0.0, .oscillating = 0.17,
                               .deepest = 0.1, .scale_drift = 0.4, .gradient_rms = 1e-5};

typedef struct health_case {
    const char *what;
    health_figure changed;     /* HEALTH_FIGURES: none */
    double value;
    double density;            /* with pulses of the same share, 0: as above */
    int64_t block, window, step;
    bool sticky;
    int figure;                /* that must be warned about, -1: none */
    const char *text;          /* part of the warning */
} health_case;

static const health_case HEALTH_CASES[] = {
    {"well", HEALTH_FIGURES, 0.0, 0.0, 0, 100, 500, false, -1, NULL},
    {"well at the end", HEALTH_flips, 0.001, 0.025, -1, 100, 1000, false, -1, NULL},
    {"a window too short to tell", HEALTH_dead, 1.0, 0.0, 0, 19, 500, false, -1, NULL},
    {"no window yet", HEALTH_dead, 1.0, 0.0, 0, 100, 0, false, -1, NULL},
    {"dead as by chance", HEALTH_dead, 0.15, 0.025, 0, 100, 700, false, -1, NULL},
    {"dead above chance", HEALTH_dead, 0.35, 0.025, 3, 100, 700, false, HEALTH_dead, "layer 3: 35% of the weights were"},
    {"the same in a short window", HEALTH_dead, 0.35, 0.025, 0, 40, 700, false, -1, NULL},
    {"one matrix of seven is dead", HEALTH_dead, 0.05, 0.0, 0, 100, 500, false, HEALTH_dead, "(healthy: at most 2%); "},
    {"at rest at the end", HEALTH_dead, 0.7, 0.004, 0, 100, 1000, false, HEALTH_dead, "raise --density-end"},
    {"the first step does not pulse", HEALTH_pulses, 0.29, 0.5, 0, 20, 20, false, -1, NULL},
    {"too few pulses", HEALTH_pulses, 0.25, 0.0, 0, 100, 500, false, HEALTH_pulses, "at least 30%"},
    {"too many pulses", HEALTH_pulses, 0.06, 0.02, 0, 100, 700, false, HEALTH_pulses, "at most 4%"},
    {"no wanted share, as in c8", HEALTH_density, NAN, 0.0, 0, 100, 500, false, -1, NULL},
    {"wanted too high at the end", HEALTH_density, 0.3, 0.3, -1, 100, 1000, false, HEALTH_density, "all layers: 30%"},
    {"a setting is told once, not for blocks", HEALTH_density, 0.3, 0.3, 0, 100, 1000, false, -1, NULL},
    {"wanted too low at the end", HEALTH_density, 0.001, 0.001, -1, 100, 1000, false, HEALTH_density, "raise --density-end"},
    {"wanted high while hot", HEALTH_density, 0.9, 0.9, -1, 100, 500, false, -1, NULL},
    {"no flips while hot", HEALTH_flips, 0.0, 0.0, 0, 100, 500, false, HEALTH_flips, "raise --density-start"},
    {"flips at the end", HEALTH_flips, 0.02, 0.025, 0, 100, 1000, false, HEALTH_flips, "lower --density-end"},
    {"an arm without flips", HEALTH_flips, NAN, 0.0, 0, 100, 500, false, -1, NULL},
    {"to and fro", HEALTH_oscillating, 0.3, 0.0, 0, 100, 500, false, HEALTH_oscillating, "more than 3 times in 100 steps"},
    {"a long window flips often", HEALTH_oscillating, 0.3, 0.0, 0, 200, 500, false, -1, NULL},
    {"stuck", HEALTH_deepest, 0.9, 0.0, 0, 100, 500, false, HEALTH_deepest, "deepest state"},
    {"a sticky machine stays deep", HEALTH_deepest, 0.93, 0.0, 0, 100, 500, true, -1, NULL},
    {"a sticky machine, stuck", HEALTH_deepest, 0.99, 0.0, 0, 100, 500, true, HEALTH_deepest, "--fsm-state"},
    {"scales far away", HEALTH_scale_drift, 4.7, 0.0, 0, 100, 500, false, HEALTH_scale_drift, "470% away from their start"},
    {"no gradient in a block", HEALTH_gradient_rms, 0.0, 0.0, 0, 100, 500, false, HEALTH_gradient_rms, "at least 1e-07"},
    {"far above the others", HEALTH_gradient_rms, 1e-3, 0.0, 0, 100, 500, false, HEALTH_gradient_rms, "most 0.0002"},
    {"none at all", HEALTH_gradient_rms, 0.0, 0.0, -1, 100, 500, false, HEALTH_gradient_rms, "no gradient arrives"},
    {"a gradient that is no number", HEALTH_gradient_rms, NAN, 0.0, -1, 100, 500, false, HEALTH_gradient_rms, "nan is the"},
    {"an endless gradient", HEALTH_gradient_rms, INFINITY, 0.0, -1, 100, 500, false, HEALTH_gradient_rms, "inf is the"},
};

static double *field_of(qs_health *health, health_figure figure)
{
    double *const fields[HEALTH_FIGURES] = {&health->density,     &health->pulses,  &health->flips,       &health->dead,
                                            &health->oscillating, &health->deepest, &health->scale_drift,
                                            &health->gradient_rms};
    return fields[figure];
}

static void test_health_ranges(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof HEALTH_CASES / sizeof HEALTH_CASES[0]; i++) {
        const health_case *c = &HEALTH_CASES[i];
        health_warning warnings[HEALTH_FIGURES];
        qs_health health = well;
        const health_place place = {.block = c->block, .window = c->window, .step = c->step, .steps = 1000,
                                    .sticky = c->sticky, .all = &well};
        health.step = c->step;
        if (c->density > 0.0) {  /* what follows from a low density in a healthy run */
            health.density = health.pulses = c->density;
            health.flips = c->density / 30.0;
            health.oscillating = 0.0;
        }
        if (c->changed == HEALTH_flips)
            health.oscillating = 0.0;
        if (c->changed < HEALTH_FIGURES)
            *field_of(&health, c->changed) = c->value;
        const int count = health_check(&health, &place, warnings);
        if (count != (c->figure >= 0) ||
            (count == 1 && ((int)warnings[0].figure != c->figure || !strstr(warnings[0].text, c->text))))
            fail_msg("%s: %d warnings, \"%s\"", c->what, count, count > 0 ? warnings[0].text : "");
        if (count == 1 && !isnan(warnings[0].value))
            assert_true(warnings[0].value < warnings[0].least || warnings[0].value > warnings[0].most);
    }
}

/* The same drift of scales is a warning where signs flip and none where they cannot. */
static void test_health_frozen(void **state)
{
    (void)state;
    health_warning warnings[HEALTH_FIGURES];
    qs_health health = well;
    const health_place place = {.block = 0, .window = 100, .step = 500, .steps = 1000, .all = &well};
    health.scale_drift = 2.5;
    assert_int_equal(health_check(&health, &place, warnings), 1);
    health.flips = NAN;
    assert_int_equal(health_check(&health, &place, warnings), 0);
}

/* Every figure has its own name and value. */
static void test_health_figures(void **state)
{
    (void)state;
    qs_health health = well;
    for (int i = 0; i < HEALTH_FIGURES; i++)
        *field_of(&health, (health_figure)i) = i;
    for (int i = 0; i < HEALTH_FIGURES; i++)
        assert_float_equal(health_value(&health, (health_figure)i), i, 0.0);
    assert_string_equal(health_name(HEALTH_gradient_rms), "gradient_rms");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metrics_resume),  cmocka_unit_test(test_metrics_damage),
        cmocka_unit_test(test_metrics_full_disk), cmocka_unit_test(test_events_failures),
        cmocka_unit_test(test_progress_widths), cmocka_unit_test(test_progress_resize),
        cmocka_unit_test(test_progress_colors), cmocka_unit_test(test_progress_plain),
        cmocka_unit_test(test_health_ranges),   cmocka_unit_test(test_health_frozen),
        cmocka_unit_test(test_health_figures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
