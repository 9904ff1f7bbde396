/* kernel_case.h - one call of a kernel on guarded operands, for check_kernels.c.
 *
 * An operand lives in an arena between two inaccessible pages and is placed so that it ends at the second or begins after
 * the first; the bytes on its open side are canaries. A case is run by the scalar reference and by the tested level from
 * the same initial bytes; results must agree bit for bit (NaN equals NaN), inputs must be untouched. */
#ifndef KERNEL_CASE_H
#define KERNEL_CASE_H

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "cpu/kernels.h"

enum { OPERANDS = 16, ARENA_BYTES = 4 << 20, PAGE = 65536, CANARY_BYTES = 256, CANARY = 0xA5 };
enum kind { READ, WRITE, UPDATE, SCRATCH };   /* WRITE starts as canaries, SCRATCH is not compared */
enum type { FLOATS, BITS };

/* How floats are drawn. The oracles in double hold for MILD; the rest is for the comparison between levels. */
enum style { MILD, CANCELLING, EXTREME, SPECIAL, POISONED, STYLES };

typedef struct operand {
    const char *name;
    enum kind kind;
    enum type type;
    size_t bytes;
    uint8_t *arena, *at, *initial, *result[2];
} operand;

typedef struct test_case {
    const char *slot, *level;
    const qsi_kernels *scalar, *tested;  /* tested is NULL where the level has no kernel of its own */
    uint64_t random;
    enum style style;
    int count, ends, failures;
    int bound;   /* floats need not be equal: the check compares them with a bound */
    long cases;
    char shape[160];
    operand op[OPERANDS];
} test_case;

/* splitmix64 (Steele, Lea, Flood) */
static uint64_t draw(test_case *c)
{
    uint64_t z = c->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static int64_t draw_below(test_case *c, int64_t n) { return (int64_t)(draw(c) % (uint64_t)n); }

static double draw_unit(test_case *c) { return (double)(draw(c) >> 11) * 0x1p-53; }

static float draw_special(test_case *c)
{
    static const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 0x1p-149f, -0x1p-149f, 0x1p-126f, 1.0f, -1.0f,
                                    0x1.fffffep+127f, -0x1.fffffep+127f, 0x1.fffffcp-127f, 88.72f, -87.31f, 0x1p-24f};
    return special[draw_below(c, (int64_t)(sizeof special / sizeof special[0]))];
}

static float draw_float(test_case *c)
{
    const double mild = draw_unit(c) + draw_unit(c) + draw_unit(c) + draw_unit(c) - 2.0;
    switch (c->style) {
    case MILD: break;
    case CANCELLING: return (float)(draw_below(c, 5) - 2) * (draw(c) & 1 ? 1.0f : -1.0f);
    case EXTREME: return ldexpf((float)mild, (int)draw_below(c, 270) - 140);
    case SPECIAL: return draw_below(c, 60) == 0 ? draw_special(c) : (float)(mild * 8.0);
    case POISONED: return draw_below(c, 3) == 0 ? draw_special(c) : (float)(mild * 40.0);
    case STYLES: break;
    }
    return (float)mild;
}

static void say(test_case *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(test_case *c, const char *format, ...)
{
    if (c->failures++ >= 5)
        return;
    va_list args;
    va_start(args, format);
    fprintf(stderr, "FAIL %s %s [%s, style %d, %s guard]: ", c->slot, c->level, c->shape, (int)c->style,
            c->ends ? "upper" : "lower");
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

static void *map_pages(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static int case_open(test_case *c)
{
    for (int i = 0; i < OPERANDS; i++) {
        operand *o = &c->op[i];
        uint8_t *whole = map_pages(ARENA_BYTES + 2 * PAGE);
        o->initial = map_pages(ARENA_BYTES);
        o->result[0] = map_pages(ARENA_BYTES);
        o->result[1] = map_pages(ARENA_BYTES);
        if (!whole || !o->initial || !o->result[0] || !o->result[1] || mprotect(whole, PAGE, PROT_NONE) != 0 ||
            mprotect(whole + PAGE + ARENA_BYTES, PAGE, PROT_NONE) != 0)
            return -1;
        o->arena = whole + PAGE;
    }
    return 0;
}

/* Starts a case; its seed and shape name it in a failure. */
static void begin(test_case *c, enum style style, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void begin(test_case *c, enum style style, const char *format, ...)
{
    const int used = snprintf(c->shape, sizeof c->shape, "seed %016llx ", (unsigned long long)c->random);
    va_list args;
    va_start(args, format);
    vsnprintf(c->shape + used, sizeof c->shape - (size_t)used, format, args);
    va_end(args);
    c->style = style;
    c->count = c->bound = 0;
    c->cases++;
}

static int operand_add(test_case *c, const char *name, enum kind kind, enum type type, int64_t bytes)
{
    if (c->count >= OPERANDS || bytes > ARENA_BYTES - CANARY_BYTES) {
        fprintf(stderr, "%s: operand %s does not fit\n", c->slot, name);
        abort();
    }
    operand *o = &c->op[c->count];
    o->name = name;
    o->kind = kind;
    o->type = type;
    o->bytes = (size_t)bytes;
    memset(o->initial, CANARY, kind == SCRATCH ? 0 : o->bytes);
    return c->count++;
}

static int floats(test_case *c, const char *name, enum kind kind, int64_t n)
{
    const int i = operand_add(c, name, kind, FLOATS, n * 4);
    for (int64_t j = 0; kind != WRITE && j < n; j++)
        ((float *)(void *)c->op[i].initial)[j] = draw_float(c);
    return i;
}

/* Words: random, all zero, all one, or sparse, one pattern for the whole operand. */
static int words(test_case *c, const char *name, enum kind kind, int64_t n)
{
    const int i = operand_add(c, name, kind, BITS, n * 4);
    const int64_t pattern = draw_below(c, 8);
    for (int64_t j = 0; kind != WRITE && j < n; j++) {
        const uint32_t word = (uint32_t)draw(c);
        const uint32_t sparse = word & (uint32_t)draw(c) & (uint32_t)draw(c);
        ((uint32_t *)(void *)c->op[i].initial)[j] = pattern == 0 ? 0 : pattern == 1 ? ~0u : pattern == 2 ? sparse : word;
    }
    return i;
}

static int bytes(test_case *c, const char *name, enum kind kind, int64_t n)
{
    const int i = operand_add(c, name, kind, BITS, n);
    for (int64_t j = 0; kind != WRITE && j < n; j++)
        c->op[i].initial[j] = (uint8_t)draw(c);
    return i;
}

/* fp16 scales: 2^-9..2^0, or anything at all. */
static int halves(test_case *c, const char *name, int64_t n)
{
    const int i = operand_add(c, name, READ, BITS, n * 2);
    for (int64_t j = 0; j < n; j++) {
        const uint16_t any = (uint16_t)draw(c), mild = (uint16_t)(0x1800 + any % 0x2400);
        ((uint16_t *)(void *)c->op[i].initial)[j] = c->style >= EXTREME && any % 7 == 0 ? any : mild;
    }
    return i;
}

static float *F(test_case *c, int i) { return i < 0 ? NULL : (float *)(void *)c->op[i].at; }
static uint32_t *W(test_case *c, int i) { return i < 0 ? NULL : (uint32_t *)(void *)c->op[i].at; }
static uint16_t *H(test_case *c, int i) { return (uint16_t *)(void *)c->op[i].at; }
static const float *F0(test_case *c, int i) { return (const float *)(void *)c->op[i].initial; }
static const uint32_t *W0(test_case *c, int i) { return (const uint32_t *)(void *)c->op[i].initial; }
static const float *FR(test_case *c, int i) { return (const float *)(void *)c->op[i].result[0]; }
static const uint32_t *WR(test_case *c, int i) { return (const uint32_t *)(void *)c->op[i].result[0]; }

static void place(test_case *c)
{
    for (int i = 0; i < c->count; i++) {
        operand *o = &c->op[i];
        o->at = c->ends ? o->arena + ARENA_BYTES - o->bytes : o->arena;
        memcpy(o->at, o->initial, o->kind == SCRATCH ? 0 : o->bytes);
        memset(c->ends ? o->at - CANARY_BYTES : o->at + o->bytes, CANARY, CANARY_BYTES);
    }
}

static void collect(test_case *c, int side)
{
    static uint8_t canary[CANARY_BYTES];
    memset(canary, CANARY, sizeof canary);
    for (int i = 0; i < c->count; i++) {
        operand *o = &c->op[i];
        memcpy(o->result[side], o->at, o->kind == SCRATCH ? 0 : o->bytes);
        if (memcmp(c->ends ? o->at - CANARY_BYTES : o->at + o->bytes, canary, CANARY_BYTES) != 0)
            say(c, "wrote %s %s (%s)", c->ends ? "before" : "after", o->name, side ? c->level : "scalar");
        if (o->kind == READ && memcmp(o->at, o->initial, o->bytes) != 0)
            say(c, "changed its input %s (%s)", o->name, side ? c->level : "scalar");
    }
}

static void compare(test_case *c)
{
    for (int i = 0; i < c->count; i++) {
        const operand *o = &c->op[i];
        if (o->kind == READ || o->kind == SCRATCH || (c->bound && o->type == FLOATS) ||
            memcmp(o->result[0], o->result[1], o->bytes) == 0)
            continue;
        for (size_t at = 0; at < o->bytes; at += o->type == FLOATS ? 4 : 1) {
            if (o->type == BITS) {
                if (o->result[0][at] != o->result[1][at])
                    say(c, "%s byte %zu: scalar %02x, %s %02x", o->name, at, o->result[0][at], c->level, o->result[1][at]);
                continue;
            }
            float a, b;
            memcpy(&a, o->result[0] + at, 4);
            memcpy(&b, o->result[1] + at, 4);
            if (memcmp(&a, &b, 4) != 0 && !(a != a && b != b))
                say(c, "%s[%zu]: scalar %a (%.9g), %s %a (%.9g)", o->name, at / 4, (double)a, (double)a, c->level, (double)b,
                    (double)b);
        }
    }
}

/* Runs the call, which names its table k, on both sides at both ends of the arenas. */
#define RUN(c, ...) do { \
        for ((c)->ends = 0; (c)->ends < 2; (c)->ends++) { \
            for (int side = 0; side < ((c)->tested != NULL ? 2 : 1); side++) { \
                const qsi_kernels *k = side ? (c)->tested : (c)->scalar; \
                place(c); \
                __VA_ARGS__; \
                collect(c, side); \
            } \
            if ((c)->tested != NULL) \
                compare(c); \
        } \
    } while (0)

/* The reference against a formula in double: |got - want| <= bound, plus what denormal results lose. */
static void near(test_case *c, const char *name, int64_t index, float got, double want, double bound)
{
    if (!(fabs((double)got - want) <= bound + 0x1p-140))
        say(c, "%s[%lld] of the reference: %.9g, formula in double %.12g, bound %.3g", name, (long long)index, (double)got,
            want, bound);
}

static void same(test_case *c, const char *name, int64_t index, int64_t got, int64_t want)
{
    if (got != want)
        say(c, "%s[%lld] of the reference: %lld, rule %lld", name, (long long)index, (long long)got, (long long)want);
}

#endif
