/* kernels.c - the table of each level, by the list of levels. */
#include <string.h>
#include "cpu/kernels.h"

typedef struct level_row {
    const char *name;
    int (*available)(void);
    void (*fill)(qsi_kernels *table);
} level_row;

static const level_row levels[QSI_LEVELS] = {
#define QSI_LEVEL_ROW(name, text) {#text, qsi_available_##text, qsi_kernels_##text},
    QSI_LEVEL_LIST(QSI_LEVEL_ROW)
#undef QSI_LEVEL_ROW
};

void qsi_kernels_init(qsi_kernels *table, qsi_level level)
{
    memset(table, 0, sizeof *table);
    for (int i = 0; i <= (int)level && i < QSI_LEVELS; i++)
        levels[i].fill(table);
}

int qsi_level_available(qsi_level level) { return (unsigned)level < QSI_LEVELS && levels[level].available(); }

const char *qsi_level_name(qsi_level level) { return (unsigned)level < QSI_LEVELS ? levels[level].name : NULL; }

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
