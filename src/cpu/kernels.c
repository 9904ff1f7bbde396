/* kernels.c - the table of each level, by the list of levels. */
#include <string.h>
#include "cpu/kernels.h"

typedef struct level_row {
    const char *name;
    qsi_level base;
    int executed;
    int (*available)(void);
    void (*fill)(qsi_kernels *table);
} level_row;

static const level_row levels[QSI_LEVELS] = {
#define QSI_LEVEL_ROW(name, text, base, executed) {#text, QSI_LEVEL_##base, executed, qsi_available_##text, qsi_kernels_##text},
    QSI_LEVEL_LIST(QSI_LEVEL_ROW)
#undef QSI_LEVEL_ROW
};

void qsi_kernels_init(qsi_kernels *table, qsi_level level)
{
    if (level == QSI_LEVEL_SCALAR)
        memset(table, 0, sizeof *table);
    else
        qsi_kernels_init(table, levels[level].base);
    levels[level].fill(table);
}

int qsi_level_available(qsi_level level) { return (unsigned)level < QSI_LEVELS && levels[level].available(); }

const char *qsi_level_name(qsi_level level) { return (unsigned)level < QSI_LEVELS ? levels[level].name : NULL; }

int qsi_level_by_name(const char *name)
{
    for (int level = QSI_LEVELS - 1; level >= 0; level--) {
        if (name != NULL ? strcmp(name, levels[level].name) != 0 : !levels[level].executed)
            continue;
        if (qsi_level_available((qsi_level)level))
            return level;
        if (name != NULL)
            return -2;
    }
    return -1;
}
