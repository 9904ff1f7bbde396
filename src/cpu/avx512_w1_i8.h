/* avx512_w1_i8.h - the codes of int8 products: what avx512_w1_i8_codes.c makes and avx512_w1_i8.c looks up. */
#ifndef QSI_AVX512_W1_I8_H
#define QSI_AVX512_W1_I8_H

#include "cpu/avx512.h"

#if QSI_HAVE_AVX512

/* A group is 5 columns of depth, a piece of depth 96 groups; 4 blocks of 32 outputs are next to each other. */
enum {
    QSI_I8_LANES = 32,
    QSI_I8_GROUP = 5,
    QSI_I8_GROUPS = 96,
    QSI_I8_DEPTH = QSI_I8_GROUP * QSI_I8_GROUPS,
    QSI_I8_BLOCKS = 4,
    QSI_I8_STRIP = QSI_I8_BLOCKS * QSI_I8_LANES
};

static inline int64_t qsi_i8_least(int64_t a, int64_t b) { return a < b ? a : b; }

/* codes[count / 128 rounded up][96][128] of count rows of `words` words, at most one piece. Of 16 columns 0 .. 4, 5 .. 9 and
 * 10 .. 14 are groups; the 16th columns of 5 half-words, or of those left, are a group after these. Of a code the low 5
 * bits count; those of absent outputs are undefined. */
void qsi_avx512_w1_i8_rows(uint16_t *codes, const uint32_t *w, int64_t ldw, int64_t count, int64_t words);

/* The same of count columns, a multiple of 32, of `rows` rows: groups are 5 rows, rows beyond count as clear bits. */
void qsi_avx512_w1_i8_columns(uint16_t *codes, const uint32_t *w, int64_t ldw, int64_t rows, int64_t count);

#endif
#endif
