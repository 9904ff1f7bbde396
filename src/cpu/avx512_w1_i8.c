/* avx512_w1_i8.c - packed products of int8 tokens: 32 outputs across lanes of 16 bits, 4 tokens x 128 outputs in registers.
 *
 * The 5 signs of a group choose one of 32 sums. Those of a token are one register and the codes of 32 outputs index it
 * (vpermw reads the low 5 bits of a lane), so one permute and one subtraction serve 160 signed products. An entry is the
 * sum of the values whose sign is minus; a product is (sum of all values) - 2 (sum of entries). Starting at half the sum
 * of all, rounded down, 16 bits hold the result for up to 516 columns; that they wrap on the way does not matter. For 480
 * columns the tables of 4 tokens (24 KB) stay in the level-1 cache while all outputs pass; then the halves are widened and
 * added up. */
#include "cpu/avx2.h"
#include "cpu/avx512_w1_i8.h"

#if QSI_HAVE_AVX512

enum {
    LANES = QSI_I8_LANES,
    HALF = LANES / 2,
    GROUP = QSI_I8_GROUP,
    GROUPS = QSI_I8_GROUPS,
    DEPTH = QSI_I8_DEPTH,
    BLOCKS = QSI_I8_BLOCKS,     /* of 32 outputs, share registers */
    STRIP = QSI_I8_STRIP,
    TILE = 4,                   /* tokens that do */
    FEW = 2,                    /* forward: up to so many tokens avx2_w1_i8_few.c is faster */
    OUTPUTS = 2048,             /* with codes and sums in scratch at once */
    TOKENS = 256,               /* that share codes, less where the sums would not fit */
    CODE_BYTES = 2 * OUTPUTS * GROUPS,
    TABLE_BYTES = 2 * TILE * GROUPS * LANES,
    SUM_BYTES = 512 * 1024,
    VALUES = 64,                /* a token's values in its buffer, between zeros */
    LAST = VALUES + 512,        /* and there the last one of each 16 */
    BUFFER = LAST + 64
};

_Static_assert(CODE_BYTES + TABLE_BYTES + SUM_BYTES <= QSI_W1_SCRATCH, "QSI_W1_SCRATCH is too small");

/* A piece of depth: what its tiles share. */
typedef struct piece {
    uint16_t *codes;            /* [blocks / BLOCKS][GROUPS][BLOCKS][32] */
    int16_t *table;             /* [groups][tokens of the tile][32] */
    uint16_t at[GROUPS];        /* where in a token's buffer a group starts */
    int64_t depth, groups, blocks;
    int fresh;                  /* the first one of the sums */
} piece;

/* ---- tables ----------------------------------------------------------------------------------------------------- */

/* Fills a buffer with `depth` values and returns their sum. */
AVX512_INLINE int32_t copy_values(int8_t buffer[BUFFER], const int8_t *q, int64_t depth)
{
    __m512i sum = _mm512_setzero_si512();
    _mm512_store_si512(buffer, sum);
    for (int64_t i = 0; i < LAST - VALUES; i += 64) {
        const int64_t left = depth - i;
        const __m512i x = left >= 64 ? _mm512_loadu_si512(q + i)
                                     : _mm512_maskz_loadu_epi8(left > 0 ? _bzhi_u64(UINT64_MAX, (uint32_t)left) : 0, q + i);
        _mm512_store_si512(buffer + VALUES + i, x);
        sum = _mm512_add_epi16(sum, _mm512_maddubs_epi16(_mm512_set1_epi8(1), x));
    }
    for (int64_t h = 0; h < DEPTH / 16; h++)
        buffer[LAST + h] = buffer[VALUES + 16 * h + 15];
    return _mm512_reduce_add_epi32(_mm512_madd_epi16(sum, _mm512_set1_epi16(1)));
}

AVX512_INLINE __m512i broadcast4(const int8_t *x)
{
    int32_t word;
    memcpy(&word, x, sizeof word);
    return _mm512_set1_epi32(word);
}

/* Weights of the 2 bytes that lane i multiplies, 1 where that bit of i is clear: of values -1 .. 2, value 0 alone; of values
 * 1 .. 4 an even lane has two and the odd one beside it the others, and both need the same. */
static const uint8_t table_weights[2][64] __attribute__((aligned(64))) = {
#define CLEAR(i, bit) (~(i) >> (bit) & 1)
#define FIRST(i) 0, 1, 0, 0
#define OTHERS(i) CLEAR(i, 1), CLEAR(i, 2), CLEAR(i, 3), CLEAR(i, 4)
#define EVEN(X) X(0), X(2), X(4), X(6), X(8), X(10), X(12), X(14), X(16), X(18), X(20), X(22), X(24), X(26), X(28), X(30)
    {EVEN(FIRST)}, {EVEN(OTHERS)}};
#undef CLEAR
#undef FIRST
#undef OTHERS
#undef EVEN

/* The tables of T tokens; sum[T]: of their values. */
AVX512_INLINE void tabulate(const int T, const piece *p, int32_t sum[TILE], const int8_t *q, int64_t ldq)
{
    const __m512i first = _mm512_load_si512(table_weights[0]), others = _mm512_load_si512(table_weights[1]);
    int8_t buffer[TILE][BUFFER] __attribute__((aligned(64)));
    int16_t *table = p->table;
    for (int64_t t = 0; t < T; t++)
        sum[t] = copy_values(buffer[t], q + t * ldq, p->depth);
    for (int64_t g = 0; g < p->groups; g++)
        UNROLL
        for (int t = 0; t < T; t++) {
            const int8_t *const x = buffer[t] + p->at[g];
            const __m512i a = _mm512_maddubs_epi16(first, broadcast4(x - 1));
            const __m512i b = _mm512_maddubs_epi16(others, broadcast4(x + 1));
            _mm512_store_si512(table, _mm512_add_epi16(_mm512_add_epi16(a, b), _mm512_rol_epi32(b, 16)));
            table += LANES;
        }
}

static void place_groups(piece *p, int backward)
{
    p->groups = 0;
    if (backward) {
        for (; GROUP * p->groups < p->depth; p->groups++)
            p->at[p->groups] = (uint16_t)(VALUES + GROUP * p->groups);
        return;
    }
    for (int64_t h = 0; h < p->depth / 16; h++) {
        for (int64_t i = 0; i < 3; i++)
            p->at[p->groups++] = (uint16_t)(VALUES + 16 * h + GROUP * i);
        if (h % GROUP == GROUP - 1 || h == p->depth / 16 - 1)
            p->at[p->groups++] = (uint16_t)(LAST + h / GROUP * GROUP);
    }
}

/* ---- sums ------------------------------------------------------------------------------------------------------- */

/* Two blocks of one token. In this order Zen 4 does 95 % of the one permute a cycle that it could; additions between the
 * permutes take their units. */
#define STEP(a, b, code_a, code_b, entries) \
    do { \
        __m512i p_, q_; \
        __asm__ volatile("vpermw %6, %4, %2\n\tvpermw %6, %5, %3\n\tvpsubw %2, %0, %0\n\tvpsubw %3, %1, %1" \
                         : "+v"(s[a]), "+v"(s[b]), "=&v"(p_), "=&v"(q_) \
                         : "v"(code_a), "v"(code_b), "v"(entries)); \
    } while (0)

/* sums[R][T][2][16] (+)= halves of the products of T tokens and R blocks: even outputs, then odd ones. */
AVX512_INLINE void add_entries(const int T, const int R, const piece *p, int32_t *sums, const int32_t sum[TILE],
                               const uint16_t *codes)
{
    const int16_t *table = p->table, *const end = table + p->groups * T * LANES;
    const __mmask16 keep = p->fresh ? 0 : 0xFFFF;
    __m512i s[TILE * BLOCKS];
    UNROLL
    for (int i = 0; i < R * T; i++)
        s[i] = _mm512_set1_epi16((int16_t)(sum[i % T] >> 1));
    for (; table < end; table += T * LANES) {
        __m512i code[BLOCKS];
        UNROLL
        for (int r = 0; r < R; r++)
            code[r] = _mm512_load_si512(codes + r * LANES);
        UNROLL
        for (int t = 0; t < T; t++) {
            __m512i entries;
            __asm__ volatile("vmovdqa64 %1, %0" : "=v"(entries) : "m"(*(const __m512i *)(const void *)(table + t * LANES)));
            UNROLL
            for (int r = 0; r < R; r += 2)
                STEP(r * T + t, (r + 1) * T + t, code[r], code[r + 1], entries);
        }
        codes += STRIP;
    }
    UNROLL
    for (int i = 0; i < R * T; i++) {
        int32_t *const to = sums + i * LANES;
        const __m512i even = _mm512_madd_epi16(s[i], _mm512_set1_epi32(1));
        const __m512i odd = _mm512_madd_epi16(s[i], _mm512_set1_epi32(1 << 16));
        _mm512_store_si512(to, _mm512_add_epi32(even, _mm512_maskz_load_epi32(keep, to)));
        _mm512_store_si512(to + HALF, _mm512_add_epi32(odd, _mm512_maskz_load_epi32(keep, to + HALF)));
    }
}

/* sums[blocks][tokens][2][16] (+)= one piece of depth of a tile; lost[tokens] += what the halves of odd sums lack. */
typedef void tile_fn(const piece *p, int32_t *sums, int32_t *lost, const int8_t *q, int64_t ldq);

#define TILE_OF(T) \
    AVX512 static void tile##T(const piece *p, int32_t *sums, int32_t *lost, const int8_t *q, int64_t ldq) \
    { \
        int32_t sum[TILE]; \
        int64_t b = 0; \
        tabulate(T, p, sum, q, ldq); \
        for (; b + 2 < p->blocks; b += BLOCKS) \
            add_entries(T, BLOCKS, p, sums + b * T * LANES, sum, p->codes + b * GROUPS * LANES); \
        if (b < p->blocks) \
            add_entries(T, 2, p, sums + b * T * LANES, sum, p->codes + b * GROUPS * LANES); \
        for (int t = 0; t < T; t++) \
            lost[t] += sum[t] & 1; \
    }
TILE_OF(1) TILE_OF(2) TILE_OF(3) TILE_OF(4)

static tile_fn *const tile_of[TILE + 1] = {NULL, tile1, tile2, tile3, tile4};

/* ---- products --------------------------------------------------------------------------------------------------- */

typedef struct product {
    float *out;
    const int8_t *in;
    const float *addend, *s;
    int64_t ld_out, ld_in, ld_add;
    const uint32_t *w;
    int64_t ldw;
    const uint16_t *scale;      /* NULL: backward, outputs are columns of w */
    int64_t tokens, outputs, depth;
} product;

/* Parts of at most `most`, as even as can be: the size of the first one. */
static int64_t part_of(int64_t n, int64_t most)
{
    const int64_t parts = (n + most - 1) / most;
    return parts ? (n + parts - 1) / parts : 0;
}

/* Up to 16 outputs of a token from halves of their sums. */
AVX512_INLINE void finish16(const product *a, int64_t token, int64_t output, __m512i half, __m512i lost, int64_t left)
{
    if (left <= 0)
        return;
    const __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_add_epi32(half, half), lost));
    const __m512 s = qsi_set16(a->s[token]), factor = a->scale ? _mm512_mul_ps(qsi_halves16(a->scale + output, left), s) : s;
    float *const out = a->out + token * a->ld_out + output;
    if (a->addend)
        qsi_store16(out, _mm512_fmadd_ps(factor, sum, qsi_load16(a->addend + token * a->ld_add + output, left)), left);
    else
        qsi_store16(out, _mm512_mul_ps(factor, sum), left);
}

/* count outputs of the `rows` tokens of a tile. */
AVX512 static void finish(const product *a, int64_t token, int64_t output, const int32_t *sums, const int32_t *lost,
                          int64_t rows, int64_t count)
{
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    for (int64_t o = 0; o < count; o += LANES)
        for (int64_t t = 0; t < rows; t++) {
            const int32_t *const from = sums + o * rows + t * LANES;
            const __m512i even = _mm512_load_si512(from), odd = _mm512_load_si512(from + HALF);
            const __m512i rest = _mm512_set1_epi32(lost[t]);
            finish16(a, token + t, output + o, _mm512_permutex2var_epi32(even, low, odd), rest, count - o);
            finish16(a, token + t, output + o + HALF, _mm512_permutex2var_epi32(even, high, odd), rest, count - o - HALF);
        }
}

/* tokens x count outputs with codes and sums in scratch. */
static void rectangle(const product *a, char *scratch, int64_t token, int64_t tokens, int64_t output, int64_t count)
{
    piece p = {.codes = (uint16_t *)(void *)scratch, .table = (int16_t *)(void *)(scratch + CODE_BYTES)};
    int32_t *const sums = (int32_t *)(void *)(scratch + CODE_BYTES + TABLE_BYTES), lost[TOKENS] = {0};
    const int64_t stride = (count + STRIP - 1) / STRIP * STRIP;
    p.blocks = (count + LANES - 1) / LANES;
    if (a->depth == 0)
        memset(sums, 0, (size_t)(tokens * stride) * sizeof *sums);
    for (int64_t d = 0; d < a->depth; d += DEPTH) {
        p.depth = qsi_i8_least(DEPTH, a->depth - d);
        p.fresh = d == 0;
        place_groups(&p, a->scale == NULL);
        if (a->scale)
            qsi_avx512_w1_i8_rows(p.codes, a->w + output * a->ldw + d / 32, a->ldw, count, p.depth / 32);
        else
            qsi_avx512_w1_i8_columns(p.codes, a->w + d * a->ldw + output / 32, a->ldw, p.depth, count);
        for (int64_t i = 0, rows; i < tokens; i += rows) {
            rows = part_of(tokens - i, TILE);
            tile_of[rows](&p, sums + i * stride, lost + i, a->in + (token + i) * a->ld_in + d, a->ld_in);
        }
    }
    for (int64_t i = 0, rows; i < tokens; i += rows) {
        rows = part_of(tokens - i, TILE);
        finish(a, token + i, output, sums + i * stride, lost + i, rows, count);
    }
}

static void run(const product *a, void *scratch)
{
    const int64_t outputs = (part_of(a->outputs, OUTPUTS) + STRIP - 1) / STRIP * STRIP;
    const int64_t most = qsi_i8_least(TOKENS, SUM_BYTES / 4 / (outputs + !outputs));
    for (int64_t i = 0, tokens; i < a->tokens; i += tokens) {
        tokens = part_of(a->tokens - i, most);
        for (int64_t o = 0; o < a->outputs; o += outputs)
            rectangle(a, scratch, i, tokens, o, qsi_i8_least(outputs, a->outputs - o));
    }
}

void qsi_avx512_w1_i8_forward(float *y, int64_t ldy, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w,
                              int64_t ldw, const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n,
                              int64_t k, void *scratch)
{
    const product all = {y, q, addend, s, ldy, ldq, ldadd, w, ldw, scale, m, n, k};
    if (m >= 1 && m <= FEW)
        qsi_avx2_w1_i8_few(y, ldy, q, ldq, s, w, ldw, scale, addend, ldadd, m, n, k, scratch);
    else
        run(&all, scratch);
}

void qsi_avx512_w1_i8_backward(float *dx, int64_t lddx, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w,
                               int64_t ldw, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k,
                               void *scratch)
{
    const product all = {dx, q, addend, s, lddx, ldq, ldadd, w, ldw, NULL, m, k, n};
    run(&all, scratch);
}

void qsi_avx512_w1_i8(qsi_kernels *table)
{
    table->w1_i8_forward = qsi_avx512_w1_i8_forward;
    table->w1_i8_backward = qsi_avx512_w1_i8_backward;
}

#else
typedef int qsi_avx512_w1_i8_absent;
#endif
