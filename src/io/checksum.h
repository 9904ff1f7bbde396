/* checksum.h - XXH3-128 as 32 hex digits, high half first (the canonical form other programs print). */
#ifndef QSI_CHECKSUM_H
#define QSI_CHECKSUM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

enum { QSI_HEX = 33 };  /* 32 digits and NUL */

/* Whether text (may be NULL) is 32 lower-case hex digits and no more. */
static inline bool qsi_is_checksum(const char *text)
{
    return text && strlen(text) == QSI_HEX - 1 && strspn(text, "0123456789abcdef") == QSI_HEX - 1;
}

static inline void qsi_hash_hex(XXH128_hash_t hash, char out[QSI_HEX])
{
    snprintf(out, QSI_HEX, "%016llx%016llx", (unsigned long long)hash.high64, (unsigned long long)hash.low64);
}

static inline void qsi_checksum(const void *data, uint64_t bytes, char out[QSI_HEX])
{
    qsi_hash_hex(XXH3_128bits(data, (size_t)bytes), out);
}

#endif
