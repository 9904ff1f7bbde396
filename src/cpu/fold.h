/* fold.h - the end of every striped sum: 16 partial sums (index mod 16) folded in one fixed tree, whose first levels
 * are the natural halvings of vector registers. Stripes start at +0. */
#ifndef QSI_FOLD_H
#define QSI_FOLD_H

static inline float qsi_fold16(const float stripe[16])
{
    float s[8];
    for (int j = 0; j < 8; j++)
        s[j] = stripe[j] + stripe[j + 8];
    for (int half = 4; half >= 1; half /= 2)
        for (int j = 0; j < half; j++)
            s[j] = s[j] + s[j + half];
    return s[0];
}

#endif
