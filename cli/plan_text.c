/* plan_text.c - qsbits plan for people: tables of bytes, times and what they follow from. */
#include <math.h>
#include <string.h>

#include "plan_run.h"

static const char *const POOLS[] = {"RAM", "device", "together"};
static const char *const TITLES[PLAN_METHODS] = {
#define TITLE(id, key, title) title,
    PLAN_METHOD_LIST(TITLE)
#undef TITLE
};

/* Bytes of a table in one unit, with 4 places: what stands in a column can be added up by hand. */
typedef struct unit {
    const char *name;
    double bytes;
} unit;

static unit unit_for(double largest)
{
    return largest >= 1e9 ? (unit){"GB", 1e9} : largest >= 1e6 ? (unit){"MB", 1e6} : (unit){"kB", 1e3};
}

static void print_bytes(double bytes, unit u, int width)
{
    if (bytes == 0.0)
        printf("%*s", width, "-");
    else
        printf("%*.4f", width, bytes / u.bytes);
}

/* "5.71 s", "3.97 ms", "26.9 min"; a missing rate is a dash. */
static char *duration(double seconds, char out[32])
{
    if (isnan(seconds))
        (void)snprintf(out, 32, "-");
    else if (seconds < 0.001)
        (void)snprintf(out, 32, "%.3g us", seconds * 1e6);
    else if (seconds < 1.0)
        (void)snprintf(out, 32, "%.2f ms", seconds * 1e3);
    else if (seconds < 120.0)
        (void)snprintf(out, 32, "%.2f s", seconds);
    else if (seconds < 7200.0)
        (void)snprintf(out, 32, "%.1f min", seconds / 60.0);
    else if (seconds < 172800.0)
        (void)snprintf(out, 32, "%.1f h", seconds / 3600.0);
    else
        (void)snprintf(out, 32, "%.1f days", seconds / 86400.0);
    return out;
}

static void print_head(const plan_run *p)
{
    const plan_case *c = &p->run;
    const qs_model_config *m = &c->model;
    char weights[16], active[16], floats[16];
    printf("%s: %s weights in %lld blocks %lld wide, %s floats, %lld symbols\n", p->model.name, human_count(p->counts.weights, weights),
           (long long)m->layers, (long long)m->dim, human_count(p->counts.embeddings + p->counts.norms, floats), (long long)m->vocab);
    printf("step: %lld window%s of %lld tokens = %lld tokens, %s products%s\n", (long long)c->training.batch,
           c->training.batch == 1 ? "" : "s", (long long)m->ctx, (long long)(c->training.batch * m->ctx),
           qs_precision_name(c->training.precision), c->training.recompute ? ", block inputs kept and the rest computed again" : "");
    printf("phased: %lld parts of at most %s weights, state %s, %lld slots\n", (long long)p->phased.training.active_parts,
           human_count(p->counts.active, active), qs_fsm_rule_of(c->training.fsm)->name, (long long)p->phased.stream.slots);
}

/* ---- memory ---------------------------------------------------------------------------------------------------------- */

static void print_methods(const plan_run *p)
{
    const unit u = unit_for(p->methods[PLAN_BY_ADAMW16].bytes[QS_MEMORY_POOLS][PLAN_COMPONENTS]);
    printf("\nMemory of training this shape, %s\n  %-12s", u.name, "");
    for (int i = 0; i < PLAN_METHODS; i++)
        printf("%14s", TITLES[i]);
    printf("\n");
    for (int component = 0; component <= PLAN_COMPONENTS; component++) {
        printf("  %-12s", plan_component_name((plan_component)component));
        for (int i = 0; i < PLAN_METHODS; i++)
            print_bytes(p->methods[i].bytes[QS_MEMORY_POOLS][component], u, 14);
        printf("\n");
    }
    printf("  %-12s", "fits");
    for (int i = 0; i < PLAN_METHODS; i++)
        printf("%14s", p->fits[i]);
    printf("\n  AdamW is counted, not run by qsbits: 16-bit weights and gradients, moments of 4 or 1 bytes, 16-bit activations of\n"
           "  the same graph. ste, fsm: what qsbits books, fp32 activations.\n");
}

static void print_figures(const plan_figures *f, const char *title)
{
    char weights[16], active[16];
    const unit u = unit_for(f->adamw16);
    printf("\n%s: %s weights, %s active, %s\n", title, human_count(f->weights, weights), human_count(f->active, active), u.name);
    printf("  %-40s %12.4f\n", "16-bit AdamW, 12 bytes a weight", f->adamw16 / u.bytes);
    printf("  %-40s %12.4f\n", "fully packed, 5 bits a weight", f->packed / u.bytes);
    printf("  %-40s %12.4f\n", "base weights in RAM, 1 bit", f->base / u.bytes);
    printf("  %-24s%12s%12s%12s%12s\n", "active part by state", "weights", "gradients", "states", "together");
    for (int i = 0; i < PLAN_DEPTHS; i++)
        printf("    %-22s%12.4f%12.4f%12.4f%12.4f\n", f->depth[i].name, f->depth[i].weights / u.bytes,
               f->depth[i].gradients / u.bytes, f->depth[i].states / u.bytes, f->depth[i].together / u.bytes);
}

static void print_limits(const plan_run *p, unit u)
{
    const plan_case *c = &p->run;
    const double limits[] = {(double)c->limit[QS_POOL_RAM], (double)c->limit[QS_POOL_DEVICE], (double)c->together};
    printf("  %-12s", "there is");
    for (int pool = 0; pool <= QS_MEMORY_POOLS; pool++)
        print_bytes(limits[pool], u, 14);
    printf("\n  %-12s", "5% kept back");
    for (int pool = 0; pool <= QS_MEMORY_POOLS; pool++)
        print_bytes(limits[pool] - (double)plan_usable((uint64_t)limits[pool]), u, 14);
    printf("\n");
}

static void print_tiers(const plan_run *p)
{
    const unit u = unit_for(p->parts.bytes[QS_MEMORY_POOLS][PLAN_COMPONENTS]);
    char file[16], checkpoint[16];
    printf("\nWhere it lies (%s), %s\n  %-12s%14s%14s%14s\n", p->run.in_place ? "fsm phased, in place" : "fsm, all in memory", u.name, "",
           POOLS[0], POOLS[1], POOLS[2]);
    for (int component = 0; component <= PLAN_COMPONENTS; component++) {
        printf("  %-12s", plan_component_name((plan_component)component));
        for (int pool = 0; pool <= QS_MEMORY_POOLS; pool++)
            print_bytes(p->parts.bytes[pool][component], u, 14);
        printf("%s%s\n", component < PLAN_COMPONENTS ? "  " : "", plan_component_text((plan_component)component));
    }
    print_limits(p, u);
    printf("  disk: model %s, a checkpoint %s\n", human_bytes(p->model_file, file), human_bytes(p->checkpoint, checkpoint));
    if (p->run.in_place && p->kept >= (double)p->run.model.layers)
        printf("  all %lld blocks stay in RAM and are read once\n", (long long)p->run.model.layers);
    else if (p->run.in_place)
        printf("  %.0f of %lld blocks stay in RAM, the others are read in every pass\n", p->kept, (long long)p->run.model.layers);
}

static void print_verdict(const plan_run *p)
{
    const plan_verdict *v = &p->verdict;
    char needed[16], available[16], token[16];
    if (v->fits)
        printf("  it fits");
    else
        printf("  it does not fit: it needs %s of %s, %s can be used", human_bytes((double)v->needed, needed),
               v->pool == QS_MEMORY_POOLS ? "memory" : POOLS[v->pool], human_bytes((double)v->available, available));
    if (p->most_windows > 0)
        printf("; at most %lld tokens a step do (%lld window%s of %lld), %s a token\n", (long long)(p->most_windows * p->most_ctx),
               (long long)p->most_windows, p->most_windows == 1 ? "" : "s", (long long)p->most_ctx, human_bytes(p->token_bytes, token));
    else
        printf("; no window fits, a token takes %s\n", human_bytes(p->token_bytes, token));
}

/* ---- times ------------------------------------------------------------------------------------------------------------ */

static void print_rates(const plan_run *p)
{
#define ROW(id, key, unit, title) {title, unit},
    static const char *const rows[][2] = {PLAN_RATE_LIST(ROW)};
#undef ROW
    printf("\nRates\n");
    for (int i = 0; i < PLAN_RATES; i++) {
        const double rate = p->rates.per_second[i];
        if (isnan(rate))
            printf("  %-36s not measured; give --%s\n", rows[i][0], i == PLAN_RATE_DISK ? "disk, or a MODEL on it" : "memory");
        else
            printf("  %-36s %10.3f G%s, %s\n", rows[i][0], rate / 1e9, rows[i][1], p->rates.given[i] ? "given" : "measured");
    }
}

static void print_link_row(const plan_figures *f, const char *name, double rate)
{
    char once[32], step[32], base[32], block[32];
    if (!isnan(rate))
        printf("  %-28s%10.3f%12s%12s%12s%12s\n", name, rate / 1e9, duration(f->once / rate, once), duration(f->step / rate, step),
               duration(f->base / rate, base), duration(f->block / rate, block));
}

static void print_link(const plan_run *p)
{
    const plan_figures *f = p->nominal.weights > 0.0 ? &p->nominal : &p->shape;
    const bool given = p->rates.given[PLAN_RATE_LINK];
    char weights[16], once[16], step[16], base[16], block[16];
    printf("\nOver the link, %s weights\n  %-28s%10s%12s%12s%12s%12s\n", human_count(f->weights, weights), "", "GB/s",
           human_bytes(f->once, once), human_bytes(f->step, step), human_bytes(f->base, base), human_bytes(f->block, block));
    print_link_row(f, given ? "--link" : "measured", p->rates.per_second[PLAN_RATE_LINK]);
    print_link_row(f, "PCIe 4.0 x16, lanes", PLAN_PCIE4_RAW);
    print_link_row(f, "PCIe 4.0 x16, after coding", PLAN_PCIE4);
    printf("  columns: 16-bit weights once; what an offloaded 16-bit step moves at least (weights forward and back again, gradients\n"
           "  out); 1-bit weights once; a block of them\n");
}

static void print_times(const plan_run *p)
{
    const plan_times *t = &p->times;
    char one[32], two[32], bytes[16], read[16];
    printf("\nTime, an estimate from these rates\n  %-12s%s computing %.4g GOP", "step", duration(t->compute, one), t->operations / 1e9);
    if (p->run.in_place)
        printf(", %s moving %s to the device and %s from disk", duration(t->transfer, two), human_bytes(t->copied, bytes),
               human_bytes(t->read, read));
    printf("\n");
    if (!isnan(t->hidden))
        printf("  %-12s%.0f%% of the transfer hides behind computing\n", "", 100.0 * t->hidden);
    printf("  %-12s%s a step, %.4g tokens a second\n", "", duration(t->step, one),
           (double)(p->run.training.batch * p->run.model.ctx) / t->step);
    if (t->phases_of_sweep > 1.0)
        printf("  %-12s%s, %.4g steps; a weight gets about %.3g pulses in it%s\n", "phase", duration(t->phase, one), t->phase_steps,
               t->pulses, t->pulses < 10.0 ? ", fewer than 10: give more --steps or fewer --sweeps" : "");
    if (t->phases_of_sweep > 1.0 && !isnan(t->merge))
        printf("  %-12s%s of it to write its blocks into the file\n", "", duration(t->merge, one));
    if (t->phases_of_sweep > 1.0)
        printf("  %-12s%s, %.0f phases: all weights once\n", "sweep", duration(t->sweep, one), t->phases_of_sweep);
    printf("  %-12s%s, %lld steps\n", "run", duration(t->run, one), (long long)p->run.training.steps);
}

/* ---- all -------------------------------------------------------------------------------------------------------------- */

int plan_run_print(const plan_run *p)
{
    char commands[PLAN_COMMANDS], token[16];
    print_head(p);
    print_methods(p);
    if (p->nominal.weights > 0.0)
        print_figures(&p->nominal, "Round figures");
    print_figures(&p->shape, "The same of this shape");
    printf("  left out of these figures, counted below: scales, norms, embedding and head, activations with operands (%s a\n"
           "  token), slots, buffers\n",
           human_bytes(p->token_bytes, token));
    print_tiers(p);
    print_verdict(p);
    print_rates(p);
    print_link(p);
    print_times(p);
    printf("\nTo run it%s\n%s\n", p->verdict.fits ? "" : ", once it fits", plan_run_commands(p, commands));
    return flush_output(p->o->command->name);
}
