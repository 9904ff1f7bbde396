/* qsbits/random.h - counter-based random numbers: the same draw whatever the thread, device or resume.
 * Source: Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC11), as in Random123. */
#ifndef QSBITS_RANDOM_H
#define QSBITS_RANDOM_H

#include <stdint.h>
#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a draw is for: bits 24..31 of the second counter word; bits 0..23 are the tensor id. */
typedef enum qs_random_purpose {
    QS_RANDOM_WEIGHTS = 1,    /* initial signs */
    QS_RANDOM_LEVELS = 2,     /* start levels */
    QS_RANDOM_FLOATS = 3,     /* initial float parameters */
    QS_RANDOM_DATA = 4,       /* window offset and permutation */
    QS_RANDOM_STICKY = 5,     /* stickiness of the deepest state, 8 bits a weight */
    QS_RANDOM_ROUNDING = 6,   /* stochastic rounding of c8, 16 bits a weight */
    QS_RANDOM_SAMPLING = 7,   /* text generation */
    QS_RANDOM_ORDER = 8,      /* order of the parts of an active set */
    QS_RANDOM_ANCHOR = 9      /* pulls towards the anchor sign, 4 candidates of 32 weights */
} qs_random_purpose;

/* Philox4x32-10: key = seed (low word first), counter = (step, purpose << 24 | tensor, row, index).
 * Zero key and counter give 6627e8d5 e169c58d bc57ac4c 9b00dbd8. */
QS_API void qs_philox(uint64_t seed, uint32_t step, qs_random_purpose purpose, uint32_t tensor,
                      uint32_t row, uint32_t index, uint32_t out[4]);

/* The signs a matrix starts from, one row of cols weights as W1 words: words [cols / 32]; word j is word j mod 4 of draw j div 4 of
 * (WEIGHTS, tensor, row). tensor: of qs_model_tensor_id. Errors: ARG (cols no positive multiple of 32, row outside 0..2^32-1). */
QS_API QS_CHECK qs_status qs_random_signs(uint64_t seed, uint32_t tensor, int64_t row, int64_t cols, uint32_t *words);

#ifdef __cplusplus
}
#endif
#endif
