/* avx512_w1_few.c - the packed product for few tokens (generation), up to 4 at a time: nothing is worth keeping in scratch
 * but the tables of all k columns, 16 bytes a column and token. Words of 16 rows are transposed in registers and their
 * codes shifted down group by group. */
#include "cpu/avx512_w1.h"

#if QSI_HAVE_AVX512

/* Group g of the low half-word of w: a shift to the right, written as a multiplication because on Zen 4 shifts share their
 * unit with permutes and multiplications do not. */
#define CODE(w, g) ((g) == 0 ? (w) : _mm512_mulhi_epu16(w, _mm512_set1_epi16((int16_t)(1 << (16 - 4 * (g))))))

/* s[R][T] += 4 groups, the low half of each lane of words. */
#define QUARTER(g) do { \
        __m512i code[4]; \
        UNROLL \
        for (int r = 0; r < R; r++) \
            code[r] = CODE(half[r], g); \
        UNROLL \
        for (int t = 0; t < T; t++) { \
            const __m512 entries = _mm512_load_ps(table + ((g) * T + t) * 16); \
            UNROLL \
            for (int r = 0; r < R; r += 2) \
                QSI_STEP(r * T + t, (r + 1) * T + t, code[r], code[r + 1], entries); \
        } \
    } while (0)

/* y[t, 16 rows]; rows <= 0: nothing. */
AVX512_INLINE void finish(float *y, __m512 sum, const uint16_t *scale, const float *addend, int64_t rows)
{
    if (rows <= 0)
        return;
    const __m512 factor = qsi_halves16(scale, rows);
    if (addend != NULL)
        qsi_store16(y, _mm512_fmadd_ps(factor, sum, qsi_load16(addend, rows)), rows);
    else
        qsi_store16(y, _mm512_mul_ps(factor, sum), rows);
}

/* Fetches the i-th pair of lines behind the `bytes` of the rows at hand, which are soon to be multiplied where rows lie
 * without gaps. In this order and evenly spread, weights come from memory as fast as they are multiplied; in the order of
 * their use, a line of each row in turn, at half of that. */
AVX512_INLINE void fetch(const uint32_t *w, int64_t bytes, int64_t i)
{
    _mm_prefetch((const char *)w + bytes + 128 * i, _MM_HINT_T1);
    _mm_prefetch((const char *)w + bytes + 128 * i + 64, _MM_HINT_T1);
}

/* T tokens, R blocks of 16 rows at once: T R chains of additions, as the latency of one would bind. */
AVX512_INLINE void few(const int T, const int R, float *y, int64_t ldy, const float *x, int64_t ldx, const uint32_t *w,
                       int64_t ldw, const uint16_t *scale, const float *addend, int64_t ldadd, int64_t n, int64_t k,
                       int bf16, float *tables)
{
    const __m512 one = qsi_set16(1.0f);
    for (int64_t c = 0; c < k; c += 16)
        for (int t = 0; t < T; t++)
            qsi_tabulate(tables + (c / 4 * T + t) * 16, T * 16, qsi_rounded16(_mm512_loadu_ps(x + t * ldx + c), bf16));
    for (int64_t n0 = 0; n0 < n; n0 += 16 * R) {
        const float *table = tables;
        __m512 s[8];
        UNROLL
        for (int i = 0; i < R * T; i++)
            s[i] = _mm512_setzero_ps();
        for (int64_t j0 = 0; j0 < k / 32; j0 += 4) {
            const int64_t count = k / 32 - j0 < 4 ? k / 32 - j0 : 4;
            __m512i block[4][4];
            UNROLL
            for (int r = 0; r < R; r++)
                qsi_load_rows(block[r], w + (n0 + 16 * r) * ldw + j0, ldw, n - n0 - 16 * r, count);
            for (int64_t j = 0; j < 2 * count; j++) {
                __m512i half[4];
                if (R == 4 || j % 2)
                    fetch(w + n0 * ldw, 64 * R * ldw, R == 4 ? 2 * j0 + j : j0 + j / 2);
                UNROLL
                for (int r = 0; r < R; r++)
                    half[r] = j % 2 ? _mm512_srli_epi32(block[r][j / 2], 16) : block[r][j / 2];
                QUARTER(0);
                QUARTER(1);
                QUARTER(2);
                QUARTER(3);
                table += 4 * T * 16;
            }
        }
        UNROLL
        for (int r = 0; r < R; r++)
            UNROLL
            for (int t = 0; t < T; t++)
                finish(y + t * ldy + n0 + 16 * r, s[r * T + t], scale + n0 + 16 * r,
                       addend ? addend + t * ldadd + n0 + 16 * r : NULL, n - n0 - 16 * r);
    }
}

#define FEW(T, R) \
    AVX512 static void few##T(float *y, int64_t ldy, const float *x, int64_t ldx, const uint32_t *w, int64_t ldw, \
                              const uint16_t *scale, const float *addend, int64_t ldadd, int64_t n, int64_t k, \
                              int bf16, float *table) \
    { \
        few(T, R, y, ldy, x, ldx, w, ldw, scale, addend, ldadd, n, k, bf16, table); \
    }
FEW(1, 4)
FEW(2, 4)
FEW(3, 2)
FEW(4, 2)

typedef void few_fn(float *y, int64_t ldy, const float *x, int64_t ldx, const uint32_t *w, int64_t ldw,
                    const uint16_t *scale, const float *addend, int64_t ldadd, int64_t n, int64_t k, int bf16, float *table);

int qsi_avx512_w1_few(float *y, int64_t ldy, const float *x, int64_t ldx, const uint32_t *w, int64_t ldw,
                      const uint16_t *scale, const float *addend, int64_t ldadd, int64_t m, int64_t n, int64_t k,
                      int bf16, float *table)
{
    static few_fn *const few_of[] = {NULL, few1, few2, few3, few4};
    const int64_t fit = k > 0 ? QSI_W1_SCRATCH / (16 * k) : 4, most = fit < 4 ? fit : 4;
    if (most == 0)
        return 0;
    for (int64_t i = 0, rows; i < m; i += rows) {
        const int64_t rounds = (m - i + most - 1) / most;
        rows = (m - i + rounds - 1) / rounds;
        few_of[rows](y + i * ldy, ldy, x + i * ldx, ldx, w, ldw, scale, addend ? addend + i * ldadd : NULL, ldadd, n, k,
                     bf16, table);
    }
    return 1;
}

#else
typedef int qsi_avx512_w1_few_absent;
#endif
