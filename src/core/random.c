/* random.c - the counter-based generator, Philox4x32-10 of Random123, with the counter laid out as random.h says. */
#include <Random123/philox.h>
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
