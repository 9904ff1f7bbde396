/* avx512_w1_i8_codes.c - bits of packed weights as codes of 5 in lanes of 16 bits.
 *
 * Forward, lanes are rows: half-words of 32 rows are transposed and shifted. Backward, lanes are columns: a word of bits is
 * a mask of 32 lanes as it is, and those of 5 rows add 1, 2, 4, 8 and 16. */
#include "cpu/avx512_w1_i8.h"

#if QSI_HAVE_AVX512

enum {
    LANES = QSI_I8_LANES,
    GROUP = QSI_I8_GROUP,
    BLOCKS = QSI_I8_BLOCKS,
    STRIP = QSI_I8_STRIP,
    WORDS = QSI_I8_DEPTH / 32
};

/* to[h], lane i: half-word h of 4 words of row i. Rows and words beyond the counts are 0. */
AVX512_INLINE void load_halves(__m512i to[8], const uint32_t *w, int64_t ldw, int64_t rows, int64_t words)
{
    const __mmask8 mask = (__mmask8)_bzhi_u32(15, (uint32_t)words);
    __m512i r[8], s[8];
    UNROLL
    for (int j = 0; j < 8; j++) {
        r[j] = _mm512_setzero_si512();
        UNROLL
        for (int lane = 0; lane < 4; lane++)
            if (8 * lane + j < rows) {
                const uint32_t *from = w + (8 * lane + j) * ldw;
                r[j] = _mm512_mask_broadcast_i32x4(r[j], (__mmask16)(15 << 4 * lane),
                                                   words >= 4 ? _mm_loadu_si128((const __m128i *)(const void *)from)
                                                              : _mm_maskz_loadu_epi32(mask, from));
            }
    }
    UNROLL
    for (int j = 0; j < 8; j += 2) {
        s[j] = _mm512_unpacklo_epi16(r[j], r[j + 1]);
        s[j + 1] = _mm512_unpackhi_epi16(r[j], r[j + 1]);
    }
    UNROLL
    for (int j = 0; j < 8; j++) {
        const int from = j / 4 * 4 + j % 4 / 2;
        r[j] = j % 2 ? _mm512_unpackhi_epi32(s[from], s[from + 2]) : _mm512_unpacklo_epi32(s[from], s[from + 2]);
    }
    UNROLL
    for (int j = 0; j < 8; j++)
        to[j] = j % 2 ? _mm512_unpackhi_epi64(r[j / 2], r[j / 2 + 4]) : _mm512_unpacklo_epi64(r[j / 2], r[j / 2 + 4]);
}

/* x >> by, by > 0: a multiplication, as on Zen 4 shifts share their unit with the shuffles above. */
#define SHIFTED(x, by) _mm512_mulhi_epu16(x, _mm512_set1_epi16((int16_t)(1 << (16 - (by)))))

/* codes[groups][BLOCKS][32] of one block of up to 32 rows. */
AVX512 static void block_of_rows(uint16_t *codes, const uint32_t *w, int64_t ldw, int64_t rows, int64_t words)
{
    __m512i half[2 * (WORDS + 1)];
    for (int64_t j = 0; j < words; j += 4) {
        if (rows >= LANES && words - j >= 4)
            load_halves(half + 2 * j, w + j, ldw, LANES, 4);
        else
            load_halves(half + 2 * j, w + j, ldw, rows, words - j);
    }
    for (int64_t h0 = 0; h0 < 2 * words; h0 += GROUP) {
        __m512i last = _mm512_setzero_si512(), bit = _mm512_set1_epi16(1);
        for (int64_t h = h0; h < h0 + GROUP && h < 2 * words; h++) {
            _mm512_store_si512(codes, half[h]);
            _mm512_store_si512(codes + STRIP, SHIFTED(half[h], 5));
            _mm512_store_si512(codes + 2 * STRIP, SHIFTED(half[h], 10));
            const __m512i twice = _mm512_add_epi16(bit, bit), top = _mm512_mulhi_epu16(half[h], twice);
            last = _mm512_ternarylogic_epi32(last, top, bit, 0xF8);   /* last | (top & bit) */
            bit = twice;
            codes += 3 * STRIP;
        }
        _mm512_store_si512(codes, last);
        codes += STRIP;
    }
}

/* codes[groups][BLOCKS][32] of `blocks` words of each row: a word's bits are the mask of a block. */
AVX512_INLINE void strip_of_columns(uint16_t *codes, const uint32_t *w, int64_t ldw, int64_t rows, int64_t blocks)
{
    for (int64_t d = 0; d < rows; d += GROUP) {
        __m512i x[BLOCKS];
        UNROLL
        for (int b = 0; b < BLOCKS; b++)
            x[b] = _mm512_setzero_si512();
        UNROLL
        for (int j = 0; j < GROUP; j++) {
            if (d + j >= rows)
                break;
            const __m512i bit = _mm512_set1_epi16((int16_t)(1 << j));
            UNROLL
            for (int b = 0; b < BLOCKS; b++)
                if (b < blocks)
                    x[b] = _mm512_mask_add_epi16(x[b], _cvtu32_mask32(w[j * ldw + b]), x[b], bit);
        }
        UNROLL
        for (int b = 0; b < BLOCKS; b++)
            _mm512_store_si512(codes + b * LANES, x[b]);
        codes += STRIP;
        w += GROUP * ldw;
    }
}

void qsi_avx512_w1_i8_rows(uint16_t *codes, const uint32_t *w, int64_t ldw, int64_t count, int64_t words)
{
    for (int64_t i = 0; i < count; i += LANES)
        block_of_rows(codes + i / STRIP * STRIP * QSI_I8_GROUPS + i % STRIP, w + i * ldw, ldw, qsi_i8_least(LANES, count - i),
                      words);
}

AVX512 void qsi_avx512_w1_i8_columns(uint16_t *codes, const uint32_t *w, int64_t ldw, int64_t rows, int64_t count)
{
    for (int64_t c = 0; c < count; c += STRIP) {
        uint16_t *const to = codes + c * QSI_I8_GROUPS;
        if (count - c >= STRIP)
            strip_of_columns(to, w + c / 32, ldw, rows, BLOCKS);
        else
            strip_of_columns(to, w + c / 32, ldw, rows, (count - c) / LANES);
    }
}

#else
typedef int qsi_avx512_w1_i8_codes_absent;
#endif
