/* kernels.h - the table of CPU kernels. One slot per line of kernels.def; the scalar reference fills every slot, each
 * ISA level overrides some. Tests see this header, nothing else of src/cpu. */
#ifndef QSI_KERNELS_H
#define QSI_KERNELS_H

#include <stdint.h>
#include "qsbits/ops.h"

enum { QSI_W1_SCRATCH = 1024 * 1024, QSI_GRADIENT_SCRATCH = 256 * 1024 };

/* Where the random numbers of a part of a row come from (docs/numerics.md, section 3): Philox with key seed and counter (step,
 * purpose and tensor, row, index); word: the one of the row that the part begins with. */
typedef struct qsi_draws {
    uint64_t seed;
    uint32_t step, tensor, row, word;
} qsi_draws;

typedef struct qsi_kernels {
#define QS_KERNEL(name, cls, result, params) result (*name) params;
#include "kernels.def"
#undef QS_KERNEL
} qsi_kernels;

/* Levels, each after the one it extends: (name, text, base, executed). A level brings two functions, in a file of its name:
 * qsi_available_<text>, whether this machine and its operating system can execute it, and qsi_kernels_<text>, which overrides
 * slots of its base. executed 0: it was compiled but nothing has run it; such a level is taken only by name. NEON and I8MM have
 * run under qemu only (docs/measurements.md, section 7). */
#define QSI_LEVEL_LIST(X) \
    X(SCALAR, scalar, SCALAR, 1) \
    X(NEON, neon, SCALAR, 1)              /* aarch64 */ \
    X(I8MM, i8mm, NEON, 1)                /* and I8MM */ \
    X(AVX2, avx2, SCALAR, 1)              /* AVX2, FMA, F16C, BMI1, BMI2, POPCNT */ \
    X(AVXVNNI, avxvnni, AVX2, 0)          /* and AVX-VNNI */ \
    X(AVX512, avx512, AVX2, 1)            /* AVX-512 F, BW, DQ, VL */ \
    X(AVX512VNNI, avx512vnni, AVX512, 1)  /* and VNNI, BF16 */ \
    X(AMX, amx, AVX512VNNI, 0)            /* and tiles of int8 and bf16 */

typedef enum qsi_level {
#define QSI_LEVEL_ENUM(name, text, base, executed) QSI_LEVEL_##name,
    QSI_LEVEL_LIST(QSI_LEVEL_ENUM)
#undef QSI_LEVEL_ENUM
    QSI_LEVELS
} qsi_level;

#define QSI_LEVEL_DECLARE(name, text, base, executed) \
    int qsi_available_##text(void); \
    void qsi_kernels_##text(qsi_kernels *table);
QSI_LEVEL_LIST(QSI_LEVEL_DECLARE)
#undef QSI_LEVEL_DECLARE

/* Fills the table for a level. Pure: the same level gives the same table; the level need not be available (calling is). */
void qsi_kernels_init(qsi_kernels *table, qsi_level level);
int qsi_level_available(qsi_level level);
const char *qsi_level_name(qsi_level level);

/* The last available level that was executed somewhere, or the one called name; -1 if unknown, -2 if not available here.
 * name NULL = best. */
int qsi_level_by_name(const char *name);

#endif
