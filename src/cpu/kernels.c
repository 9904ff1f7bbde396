/* kernels.c - which kernel levels exist, which of them this machine can execute, and the table of each. */
#include <string.h>
#include "cpu/avx2.h"
#include "cpu/kernels.h"
#include "cpu/scalar.h"

#if QSI_HAVE_AVX2
#include <cpuid.h>

/* Bit `bit` of register reg (0..3 = eax..edx) of a CPUID leaf; 0 for leaves the processor does not have. */
static int cpuid_bit(unsigned leaf, int reg, int bit)
{
    unsigned r[4] = {0, 0, 0, 0};
    if (!__get_cpuid_count(leaf, 0, &r[0], &r[1], &r[2], &r[3]))
        return 0;
    return (int)(r[reg] >> bit & 1);
}

/* The operating system saves xmm and ymm registers: OSXSAVE, then bits 1 and 2 of XCR0. */
static int ymm_enabled(void)
{
    if (!cpuid_bit(1, 2, 27))
        return 0;
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & 6) == 6;
}

static int avx2_available(void)
{
    const int leaf1 = cpuid_bit(1, 2, 28) && cpuid_bit(1, 2, 12) && cpuid_bit(1, 2, 29) && cpuid_bit(1, 2, 23);
    const int leaf7 = cpuid_bit(7, 1, 3) && cpuid_bit(7, 1, 5) && cpuid_bit(7, 1, 8);
    return ymm_enabled() && leaf1 /* AVX, FMA, F16C, POPCNT */ && leaf7 /* BMI1, AVX2, BMI2 */;
}
#else
static int avx2_available(void) { return 0; }
#endif

void qsi_kernels_scalar(qsi_kernels *table)
{
    qsi_scalar_w1(table);
    qsi_scalar_dense(table);
    qsi_scalar_vector(table);
    qsi_scalar_attention(table);
    qsi_scalar_fsm(table);
}

void qsi_kernels_avx2(qsi_kernels *table)
{
#if QSI_HAVE_AVX2
    qsi_avx2_w1(table);
    qsi_avx2_dense(table);
    qsi_avx2_vector(table);
    qsi_avx2_attention(table);
    qsi_avx2_fsm(table);
#else
    (void)table;
#endif
}

void qsi_kernels_init(qsi_kernels *table, qsi_level level)
{
    memset(table, 0, sizeof *table);
    qsi_kernels_scalar(table);
    if (level >= QSI_LEVEL_AVX2)
        qsi_kernels_avx2(table);
}

int qsi_level_available(qsi_level level)
{
    switch (level) {
    case QSI_LEVEL_SCALAR: return 1;
    case QSI_LEVEL_AVX2: return avx2_available();
    case QSI_LEVELS: break;
    }
    return 0;
}

const char *qsi_level_name(qsi_level level)
{
    static const char *const names[] = {
#define QSI_LEVEL_TEXT(name, text) text,
        QSI_LEVEL_LIST(QSI_LEVEL_TEXT)
#undef QSI_LEVEL_TEXT
    };
    return (unsigned)level < QSI_LEVELS ? names[level] : NULL;
}

int qsi_level_by_name(const char *name)
{
    for (int level = QSI_LEVELS - 1; level >= 0; level--) {
        if (name != NULL && strcmp(name, qsi_level_name((qsi_level)level)) != 0)
            continue;
        if (qsi_level_available((qsi_level)level))
            return level;
        if (name != NULL)
            return -2;
    }
    return -1;
}
