/* merge.h - replacing rows in the model file of a checkpoint in place, so that a crash at any moment leaves the model as it was
 * before or as it is after: a redo journal beside the files (docs/format.md, section 4, "Merging"). */
#ifndef QSI_MERGE_H
#define QSI_MERGE_H

#include <stdbool.h>
#include <jansson.h>
#include "checkpoint_write.h"

#define QSI_JOURNAL_NAME "merge.journal"

/* Rows of a tensor of the model file as meant (of a W1 matrix: rows of words); of a tensor of rank 1 its elements. */
typedef struct qsi_patch {
    char name[160];
    int64_t first_row, rows;
} qsi_patch;

/* Replaces the rows of all patches, which do not overlap, in the checkpoint `folder`; fetch gives the bytes of patch `index` as they lie
 * in the file, in the order of the file, and knows nothing of what is not patched. fields, borrowed, take the place of those of the
 * manifest ("step", "tokens", ...); those that describe files and model cannot be given. The caller holds the lock of the folder
 * (core/in_place.h) and nobody has mapped what is replaced in the belief that it stays. Memory: the largest patch and 1 MiB.
 * A merge that was cut off before is finished first. Errors, with the model as it was: ARG (no such tensor, rows out of range, overlap,
 * fields), FORMAT, CORRUPT (a slab does not have its checksum: damage must not be signed anew), UNSUPPORTED (a state file with tensors,
 * which would no longer fit), those of fetch, IO (disk full), NOMEM. IO with the model neither before nor after: the text says
 * so; the next opening, or qsi_model_recover, finishes it. */
qs_status qsi_model_merge(qs_context *context, const char *folder, const qsi_patch *patches, int64_t count, qsi_fetch_fn *fetch,
                          void *user, const json_t *fields);

/* Finishes a merge that was cut off: with a whole journal the model is as after it, else as before. The caller holds the lock.
 * *recovered (may be NULL) says whether there was one to finish. Nothing to do is fine. Errors: VERSION, FORMAT (a journal of another
 * model), CORRUPT, IO, NOMEM; the journal stays then. */
qs_status qsi_model_recover(qs_context *context, const char *folder, bool *recovered);

/* For opening: recovers with the lock where there is a journal. As above; IO also where another process holds the lock. */
qs_status qsi_model_settle(qs_context *context, const char *folder);

#endif
