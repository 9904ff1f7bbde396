/* pages.h - memory of tensors and scratch: page-aligned, zero, in large pages where it is large. */
#ifndef QSI_PAGES_H
#define QSI_PAGES_H

#include <stdint.h>

enum { QSI_PAGE = 4096, QSI_LARGE_PAGE = 2 << 20 };

/* bytes > 0. From QSI_LARGE_PAGE on the pages are untouched: whoever writes first decides on which node they lie. NULL when
 * there is no memory. */
void *qsi_pages_alloc(int64_t bytes);
void qsi_pages_free(void *memory, int64_t bytes);

#endif
