/* random.c - the counter-based generator, Philox4x32-10 of Random123, with the counter laid out as random.h says. */
#include <Random123/philox.h>
#include <string.h>
#include "core/internal.h"
#include "qsbits/random.h"

void qs_philox(uint64_t seed, uint32_t step, qs_random_purpose purpose, uint32_t tensor, uint32_t row, uint32_t index,
               uint32_t out[4])
{
    philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
    philox4x32_ctr_t counter = {{step, (uint32_t)purpose << 24 | (tensor & 0xFFFFFFu), row, index}};
    philox4x32_ctr_t draw = philox4x32(counter, key);
    for (int i = 0; i < 4; i++)
        out[i] = draw.v[i];
}

qs_status qs_random_signs(uint64_t seed, uint32_t tensor, int64_t row, int64_t cols, uint32_t *words)
{
    qs_status status = QS_OK;
    uint32_t draw[4];
    if (cols < 32 || cols % 32 != 0 || row < 0 || row > (int64_t)UINT32_MAX)
        QS_FAIL(QS_ERR_ARG, "row %lld of %lld columns is none of a 1-bit matrix", (long long)row, (long long)cols);
    for (int64_t j = 0; j < cols / 32; j += 4) {
        qs_philox(seed, 0, QS_RANDOM_WEIGHTS, tensor, (uint32_t)row, (uint32_t)(j / 4), draw);
        memcpy(words + j, draw, (size_t)qsi_min(4, cols / 32 - j) * sizeof *draw);
    }
fail:
    return status;
}
