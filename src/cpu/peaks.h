/* peaks.h - loops that do one kind of instruction as fast as the machine can, for qs_cpu_peak. Every level has a table of
 * them, an empty one where it brings no instruction that the level it extends has not. */
#ifndef QSI_PEAKS_H
#define QSI_PEAKS_H

#include "cpu/kernels.h"
#include "qsbits/bench.h"

enum { QSI_PEAK_TABLE = 4096 };   /* bytes of the operands: they stay in the first cache */

/* run: `rounds` rounds of `work` operations (READ: bytes) each. memory: QSI_PEAK_TABLE bytes, 64-byte aligned, all floats 1
 * (READ: rounds * work bytes). A table ends with run NULL. */
typedef struct qsi_burst {
    qs_peak what;
    double work;
    void (*run)(const float *memory, int64_t rounds);
} qsi_burst;

#define QSI_BURSTS_DECLARE(name, text, base, executed) extern const qsi_burst qsi_bursts_##text[];
QSI_LEVEL_LIST(QSI_BURSTS_DECLARE)
#undef QSI_BURSTS_DECLARE

/* Ten chains that do not wait for each other hide four or five cycles of latency on two units. Each starts from a place
 * of its own in memory: the compiler would make one chain of equal ones. */
#define PEAK_CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)
enum { PEAK_CHAIN_COUNT = 10 };

/* The compiler must take a pointer or vector for changed, so that what is made of it stays in the loop; a vector for
 * used. Vectors of x86. */
#define PEAK_CHANGED(pointer) __asm__ volatile("" : "+r"(pointer))
#define PEAK_CHANGED_VECTOR(vector) __asm__ volatile("" : "+v"(vector))
#define PEAK_USED(vector) __asm__ volatile("" : : "v"(vector))

#endif
