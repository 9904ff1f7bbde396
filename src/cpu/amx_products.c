/* amx_products.c - packed products with bf16 or int8 activations on tiles.
 *
 * 32 bits of an output's row are a row of a tile of +-1 in bf16, 64 bits one in int8: a mask and a blend each. The words
 * of 32 outputs are put in order, then expanded two steps ahead into a ring of four slots in the level-1 cache, between
 * the products of 32 outputs and 32 tokens; expanding again for every 32 tokens costs less than fetching expanded weights
 * from further away. Activations of up to 128 tokens are packed into tiles once. Sums wait in scratch, outputs x tokens.
 *
 * Forward: words as stored. Backward: sums run along n, so 32 x 32 blocks of bits are transposed first. */
#include "cpu/amx.h"

#if QSI_HAVE_AVX512

enum {
    TOKENS = 128,      /* packed at once, in groups of 32 */
    STEPS = 32,        /* of depth packed at once: 32 columns each in bf16, 64 in int8 */
    BLOCK = 256,       /* outputs with sums in scratch at once */
    SLOT = 2 * QSI_TILE_BYTES,
    GROUP = STEPS * SLOT,
    PANEL = TOKENS / 32 * GROUP,
    BITS = STEPS * 32 * 8,   /* bytes of the words of 32 outputs, in order */
    FEW = 3            /* int8: tokens that the level below does faster */
};

_Static_assert(PANEL + 4 * SLOT + BITS + BLOCK * (TOKENS + 2 * STEPS) * sizeof(float) <= QSI_W1_SCRATCH,
               "QSI_W1_SCRATCH is too small");

/* One call. Activations [m, depth]: x (times the half scale_x[column], where given) or q. Result [m, outputs]: S times
 * the half scale_y[output], where given, times s[token], where given, + addend. */
typedef struct product {
    const float *x;
    const int8_t *q;
    const uint16_t *scale_x, *scale_y;
    const float *s, *addend;
    float *y;
    const uint32_t *w;
    int64_t ldx, ldadd, ldy, ldw, m, outputs, depth;
    int backward;
} product;

/* `depth` words of the outputs of a block: word b of output j is at[j * ld + b] or, in columns, at[b * BLOCK + j]. */
typedef struct words {
    const uint32_t *at;
    int64_t ld, outputs, depth;
    int columns;
} words;

/* ---- activations into tiles ------------------------------------------------------------------------------------- */

AMX_INLINE __m512 value16(const product *p, int64_t token, int64_t column)
{
    const int64_t left = p->depth - column;
    if (left <= 0)
        return _mm512_setzero_ps();
    const __m512 x = qsi_load16(p->x + token * p->ldx + column, left);
    return p->scale_x ? _mm512_mul_ps(qsi_halves16(p->scale_x + column, left), x) : x;
}

/* The depth of one step of a token: 64 bytes. */
AMX_INLINE __m512i line(const int i8, const product *p, int64_t token, int64_t column)
{
    const int64_t left = p->depth - column;
    if (!i8)
        return (__m512i)_mm512_cvtne2ps_pbh(value16(p, token, column + 16), value16(p, token, column));
    const __mmask64 some = left >= 64 ? ~0ull : _bzhi_u64(~0ull, (uint32_t)left);
    return _mm512_maskz_loadu_epi8(some, p->q + token * p->ldx + column);
}

/* to[steps][2 tiles] of up to 32 tokens from `token` on, columns from `column` on. What is not there is 0. */
AMX_INLINE void pack(const int i8, uint8_t *to, const product *p, int64_t token, int64_t column, int64_t steps)
{
    const int64_t rows = p->m - token;
    for (int64_t t = 0; t < steps; t++, column += i8 ? 64 : 32)
        for (int64_t first = 0; first < 32 && first < rows; first += 16) {
            uint8_t *tile = to + t * SLOT + first / 16 * QSI_TILE_BYTES;
            __m512i r[16];
            UNROLL
            for (int i = 0; i < 16; i++)
                r[i] = first + i < rows ? line(i8, p, token + first + i, column) : _mm512_setzero_si512();
            qsi_transpose16(r);
            UNROLL
            for (int i = 0; i < 16; i++)
                _mm512_store_si512(tile + 64 * i, r[i]);
        }
}

/* ---- weights into tiles ------------------------------------------------------------------------------------------ */

/* to[steps][32 outputs from j on]: one word each in bf16, two in int8. Beyond the outputs the last one again, beyond the
 * words 0. */
AMX_INLINE void order(const int i8, uint8_t *to, const words *w, int64_t j)
{
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    for (int64_t first = 0; first < 32; first += 16)
        for (int64_t b = 0; b < w->depth; b += 16) {
            __m512i r[16];
            UNROLL
            for (int i = 0; i < 16; i++) {
                const int64_t output = j + first + i < w->outputs ? j + first + i : w->outputs - 1;
                if (!w->columns)
                    r[i] = _mm512_maskz_loadu_epi32(qsi_mask16(w->depth - b), w->at + output * w->ld + b);
                else
                    r[i] = b + i < w->depth ? _mm512_loadu_si512(w->at + (b + i) * BLOCK + j + first)
                                            : _mm512_setzero_si512();
            }
            if (!w->columns)
                qsi_transpose16(r);
            UNROLL
            for (int i = 0; i < 16; i += 2) {
                uint8_t *const line = to + (i8 ? (b + i) / 2 * 256 + first * 8 : (b + i) * 128 + first * 4);
                _mm512_store_si512(line, i8 ? _mm512_permutex2var_epi32(r[i], low, r[i + 1]) : r[i]);
                _mm512_store_si512(line + (i8 ? 64 : 128), i8 ? _mm512_permutex2var_epi32(r[i], high, r[i + 1]) : r[i + 1]);
            }
        }
}

/* Rows first .. first + 7 of a slot: step t of 32 outputs as +-1. */
AMX_INLINE void expand(const int i8, uint8_t *slot, const uint8_t *bits, int64_t t, int first)
{
    const uint64_t *const pairs = (const uint64_t *)(const void *)(bits + t * 256);
    const uint32_t *const singles = (const uint32_t *)(const void *)(bits + t * 128);
    UNROLL
    for (int i = first; i < first + 8; i++)
        _mm512_store_si512(slot + 64 * i, i8 ? _mm512_mask_blend_epi8(pairs[i], _mm512_set1_epi8(-1), _mm512_set1_epi8(1))
                                             : _mm512_mask_blend_epi16(singles[i], _mm512_set1_epi16((short)0xBF80),
                                                                       _mm512_set1_epi16(0x3F80)));
}

/* ---- products --------------------------------------------------------------------------------------------------- */

#define PRODUCT(c, a, b) do { \
        if (i8) \
            QSI_TILE_I8(c, a, b); \
        else \
            QSI_TILE_BF16(c, a, b); \
    } while (0)

/* Step t; ahead: step t + 2 is expanded meanwhile. */
AMX_INLINE void step(const int i8, const int both, const int ahead, const uint8_t *x, uint8_t *ring, const uint8_t *bits,
                     int64_t t)
{
    const uint8_t *const slot = ring + t % 4 * SLOT;
    uint8_t *const next = ring + (t + 2) % 4 * SLOT;
    if (ahead)
        expand(i8, next, bits, t + 2, 0);
    QSI_TILE_LOAD(4, slot, 64);
    QSI_TILE_LOAD(6, x + t * SLOT, 64);
    PRODUCT(0, 4, 6);
    if (ahead)
        expand(i8, next, bits, t + 2, 8);
    QSI_TILE_LOAD(5, slot + QSI_TILE_BYTES, 64);
    PRODUCT(2, 5, 6);
    if (ahead)
        expand(i8, next, bits, t + 2, 16);
    if (both) {
        QSI_TILE_LOAD(7, x + t * SLOT + QSI_TILE_BYTES, 64);
        PRODUCT(1, 4, 7);
    }
    if (ahead)
        expand(i8, next, bits, t + 2, 24);
    if (both)
        PRODUCT(3, 5, 7);
}

/* sums [32 outputs][16 or (both) 32 tokens] = (load ? sums : 0) + products. */
AMX_INLINE void multiply(const int i8, const int both, float *sums, const uint8_t *x, uint8_t *ring, const uint8_t *bits,
                         int64_t steps, int load)
{
    const int64_t stride = TOKENS * sizeof *sums;
    float *const lower = sums + 16 * TOKENS;
    if (load) {
        QSI_TILE_LOAD(0, sums, stride);
        QSI_TILE_LOAD(1, sums + 16, stride);
        QSI_TILE_LOAD(2, lower, stride);
        QSI_TILE_LOAD(3, lower + 16, stride);
    } else {
        QSI_TILE_ZERO(0);
        QSI_TILE_ZERO(1);
        QSI_TILE_ZERO(2);
        QSI_TILE_ZERO(3);
    }
    for (int64_t t = 0; t < 2 && t < steps; t++)
        for (int i = 0; i < 32; i += 8)
            expand(i8, ring + t * SLOT, bits, t, i);
    for (int64_t t = 0; t < steps - 2; t++)
        step(i8, both, 1, x, ring, bits, t);
    for (int64_t t = steps < 2 ? 0 : steps - 2; t < steps; t++)
        step(i8, both, 0, x, ring, bits, t);
    QSI_TILE_STORE(0, sums, stride);
    QSI_TILE_STORE(1, sums + 16, stride);
    QSI_TILE_STORE(2, lower, stride);
    QSI_TILE_STORE(3, lower + 16, stride);
}

typedef void multiply_fn(float *sums, const uint8_t *x, uint8_t *ring, const uint8_t *bits, int64_t steps, int load);

#define MULTIPLY(name, i8, both) \
    AMX static void name(float *sums, const uint8_t *x, uint8_t *ring, const uint8_t *bits, int64_t steps, int load) \
    { \
        multiply(i8, both, sums, x, ring, bits, steps, load); \
    }
MULTIPLY(bf16_16, 0, 0)
MULTIPLY(bf16_32, 0, 1)
MULTIPLY(i8_16, 1, 0)
MULTIPLY(i8_32, 1, 1)

/* ---- results ---------------------------------------------------------------------------------------------------- */

/* y of `rows` tokens from `token` on and `count` outputs from `output` on. */
AMX_INLINE void finish(const int i8, const product *p, const float *sums, int64_t token, int64_t rows, int64_t output,
                       int64_t count)
{
    for (int64_t j = 0; j < count; j += 16) {
        const int64_t left = count - j;
        const __m512 alpha = p->scale_y ? qsi_halves16(p->scale_y + output + j, left) : qsi_set16(1.0f);
        for (int64_t first = 0; first < rows; first += 16) {
            __m512i r[16];
            UNROLL
            for (int i = 0; i < 16; i++) {
                const __m512i sum = _mm512_load_si512(sums + (j + i) * TOKENS + first);
                r[i] = i8 ? _mm512_castps_si512(_mm512_cvtepi32_ps(sum)) : sum;
            }
            qsi_transpose16(r);
            for (int64_t i = 0; i < 16 && first + i < rows; i++) {
                const int64_t t = token + first + i;
                const __m512 f = i8 ? _mm512_mul_ps(alpha, qsi_set16(p->s[t])) : alpha;
                __m512 sum = _mm512_castsi512_ps(r[i]);
                if (p->addend)
                    sum = _mm512_fmadd_ps(f, sum, qsi_load16(p->addend + t * p->ldadd + output + j, left));
                else
                    sum = _mm512_mul_ps(f, sum);
                qsi_store16(p->y + t * p->ldy + output + j, sum, left);
            }
        }
    }
}

/* ---- the whole product ------------------------------------------------------------------------------------------ */

/* The words of outputs from `output` on for `depth` columns from `column` on; backward: transposed into columns. */
static words words_of(const product *p, uint32_t *columns, int64_t output, int64_t count, int64_t column, int64_t depth)
{
    if (!p->backward)
        return (words){p->w + output * p->ldw + column / 32, p->ldw, count, depth / 32, 0};
    for (int64_t b = 0; b < depth; b += 32)
        qsi_avx2_transpose_bits(columns + b / 32 * BLOCK, p->w + (column + b) * p->ldw + output / 32, p->ldw,
                                depth - b < 32 ? depth - b : 32, count);
    return (words){columns, 0, count, (depth + 31) / 32, 1};
}

typedef struct workspace {
    uint8_t *panel, *ring, *bits;
    float *sums;
    uint32_t *columns;
} workspace;

/* One block: tokens from `token` on, count outputs from `output` on. */
AMX_INLINE void block(const int i8, const product *p, const workspace *space, int64_t token, int64_t rows, int64_t output,
                      int64_t count)
{
    const int64_t width = i8 ? 64 : 32;
    multiply_fn *const part[2] = {i8 ? i8_16 : bf16_16, i8 ? i8_32 : bf16_32};
    if (p->depth == 0)
        memset(space->sums, 0, BLOCK * TOKENS * sizeof *space->sums);
    for (int64_t c = 0; c < p->depth; c += STEPS * width) {
        const int64_t depth = p->depth - c < STEPS * width ? p->depth - c : STEPS * width;
        const int64_t steps = (depth + width - 1) / width;
        const words w = words_of(p, space->columns, output, count, c, depth);
        for (int64_t g = 0; g < rows && (output == 0 || p->depth > STEPS * width); g += 32)
            pack(i8, space->panel + g / 32 * GROUP, p, token + g, c, steps);
        for (int64_t j = 0; j < count; j += 32) {
            order(i8, space->bits, &w, j);
            for (int64_t g = 0; g < rows; g += 32)
                part[rows - g > 16](space->sums + j * TOKENS + g, space->panel + g / 32 * GROUP, space->ring, space->bits,
                                    steps, c > 0);
        }
    }
    finish(i8, p, space->sums, token, rows, output, count);
}

AMX_INLINE void run(const int i8, const product *p, void *scratch)
{
    workspace space = {.panel = scratch};
    space.ring = space.panel + PANEL;
    space.bits = space.ring + 4 * SLOT;
    space.sums = (float *)(void *)(space.bits + BITS);
    space.columns = (uint32_t *)(void *)(space.sums + BLOCK * TOKENS);
    QSI_TILES_BEGIN();
    for (int64_t i = 0; i < p->m; i += TOKENS)
        for (int64_t j = 0; j < p->outputs; j += BLOCK)
            block(i8, p, &space, i, p->m - i < TOKENS ? p->m - i : TOKENS, j,
                  p->outputs - j < BLOCK ? p->outputs - j : BLOCK);
    QSI_TILES_END();
}

AMX static void run_bf16(const product *p, void *scratch) { run(0, p, scratch); }
AMX static void run_i8(const product *p, void *scratch) { run(1, p, scratch); }

static qsi_kernels level_below(void)
{
    qsi_kernels table;
    qsi_kernels_init(&table, QSI_LEVEL_AVX512VNNI);
    return table;
}

/* bf16: for every number of tokens, so that a token's result does not depend on which others are computed beside it. */
static void w1_forward(float *y, int64_t ldy, const float *x, int64_t ldx, const uint32_t *w, int64_t ldw,
                       const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k, int bf16,
                       void *scratch)
{
    const product p = {.x = x, .scale_y = scale, .addend = addend, .y = y, .w = w, .ldx = ldx, .ldadd = ldadd, .ldy = ldy,
                       .ldw = ldw, .m = m, .outputs = n, .depth = k};
    if (bf16)
        run_bf16(&p, scratch);
    else
        level_below().w1_forward(y, ldy, x, ldx, w, ldw, scale, addend, ldadd, m, n, k, bf16, scratch);
}

static void w1_backward(float *dx, int64_t lddx, const float *dy, int64_t lddy, const uint32_t *w, int64_t ldw,
                        const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k, int bf16,
                        void *scratch)
{
    const product p = {.x = dy, .scale_x = scale, .addend = addend, .y = dx, .w = w, .ldx = lddy, .ldadd = ldadd,
                       .ldy = lddx, .ldw = ldw, .m = m, .outputs = k, .depth = n, .backward = 1};
    if (bf16)
        run_bf16(&p, scratch);
    else
        level_below().w1_backward(dx, lddx, dy, lddy, w, ldw, scale, addend, ldadd, m, n, k, bf16, scratch);
}

static void w1_i8_forward(float *y, int64_t ldy, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w,
                          int64_t ldw, const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n,
                          int64_t k, void *scratch)
{
    const product p = {.q = q, .s = s, .scale_y = scale, .addend = addend, .y = y, .w = w, .ldx = ldq, .ldadd = ldadd,
                       .ldy = ldy, .ldw = ldw, .m = m, .outputs = n, .depth = k};
    if (m > FEW)
        run_i8(&p, scratch);
    else
        level_below().w1_i8_forward(y, ldy, q, ldq, s, w, ldw, scale, addend, ldadd, m, n, k, scratch);
}

static void w1_i8_backward(float *dx, int64_t lddx, const int8_t *q, int64_t ldq, const float *s, const uint32_t *w,
                           int64_t ldw, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k, void *scratch)
{
    const product p = {.q = q, .s = s, .addend = addend, .y = dx, .w = w, .ldx = ldq, .ldadd = ldadd, .ldy = lddx,
                       .ldw = ldw, .m = m, .outputs = k, .depth = n, .backward = 1};
    if (m > FEW)
        run_i8(&p, scratch);
    else
        level_below().w1_i8_backward(dx, lddx, q, ldq, s, w, ldw, addend, ldadd, m, n, k, scratch);
}

void qsi_amx_products(qsi_kernels *table)
{
    table->w1_forward = w1_forward;
    table->w1_backward = w1_backward;
    table->w1_i8_forward = w1_i8_forward;
    table->w1_i8_backward = w1_i8_backward;
}

#else
typedef int qsi_amx_products_absent;
#endif
