/* bf16.h - the upper half of an fp32: round to nearest even, NaN stays NaN (made quiet). */
#ifndef QSI_BF16_H
#define QSI_BF16_H

#include <stdint.h>
#include <string.h>

static inline uint16_t qsi_float_to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7FFFFFFF) > 0x7F800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static inline float qsi_bf16_to_float(uint16_t x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#endif
