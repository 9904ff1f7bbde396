/* half.c - IEEE binary16 to binary32 and back, bit for bit what conversion instructions do. */
#include <string.h>
#include "qsbits/tensor.h"

float qs_half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 0x3FF, bits;
    float value;
    if (exponent == 31)          /* infinity, or NaN made quiet as hardware does */
        bits = sign | 0x7F800000u | fraction << 13 | (fraction ? 0x400000u : 0);
    else if (exponent)
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    else {                       /* subnormal: fraction * 2^-24 is exact */
        value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint16_t qs_float_to_half(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    uint32_t size = bits & 0x7FFFFFFF;
    if (size > 0x7F800000u)                      /* NaN: the top of the payload, quiet */
        return (uint16_t)(sign | 0x7E00 | (size >> 13 & 0x3FF));
    if (size >= 0x477FF000u)                     /* rounds to 65520 or more: infinity */
        return (uint16_t)(sign | 0x7C00);
    if (size < 0x33000001u)                      /* at most half of the smallest subnormal: zero */
        return sign;
    int shift = size >= 0x38800000u ? 13 : 126 - (int)(size >> 23);
    uint32_t kept = size >= 0x38800000u ? size - 0x38000000u : (size & 0x7FFFFF) | 0x800000;
    uint32_t half = kept >> shift, rest = kept & ((1u << shift) - 1), middle = 1u << (shift - 1);
    half += rest > middle || (rest == middle && (half & 1));
    return (uint16_t)(sign | half);
}
