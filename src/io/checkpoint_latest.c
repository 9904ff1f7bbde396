/* checkpoint_latest.c - the newest checkpoint of a run folder that is whole. Candidates are step-NNNNNNNN and, because a
 * save that replaces a step may be cut off between its two renames (checkpoint_write.c), step-NNNNNNNN.old. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "checkpoint_write.h"
#include "core/internal.h"

typedef struct candidate {
    int64_t step;
    int old;
    const char *name;
} candidate;

/* "step-" and 8 to 18 digits, perhaps ".old". */
static bool parse_name(const char *name, candidate *out)
{
    if (strncmp(name, "step-", 5) != 0)
        return false;
    const char *digits = name + 5;
    size_t n = strspn(digits, "0123456789");
    out->old = strcmp(digits + n, ".old") == 0;
    out->name = name;
    out->step = 0;
    if (n < 8 || n > 18 || (!out->old && digits[n] != '\0'))
        return false;
    for (size_t i = 0; i < n; i++)
        out->step = out->step * 10 + (digits[i] - '0');
    return true;
}

/* Highest step first, a name without ".old" before one with it. */
static int compare_candidates(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->step != y->step)
        return x->step > y->step ? -1 : 1;
    return x->old != y->old ? x->old - y->old : strcmp(x->name, y->name);
}

static qs_status try_checkpoint(qs_context *context, const char *path)
{
    qs_status status = QS_OK;
    qs_checkpoint *checkpoint = NULL;
    if (!qsi_is_directory(path))
        QS_FAIL(QS_ERR_FORMAT, "%s is no folder", path);
    /* an empty or foreign folder must not be searched as a run folder of its own */
    char *manifest = qsi_path_join(path, "manifest.json");
    if (manifest == NULL)
        QS_TRY(QS_ERR_NOMEM);
    bool there = qsi_path_exists(manifest);
    qsi_free(manifest);
    if (!there)
        QS_FAIL(QS_ERR_CORRUPT, "%s: manifest.json is missing: no complete checkpoint", path);
    QS_TRY(qsi_checkpoint_open_delta(context, path, &checkpoint));
    QS_TRY(qs_checkpoint_verify(checkpoint));
fail:
    qs_checkpoint_close(&checkpoint);
    return status;
}

/* The newest candidate that holds, as a path to be freed; *found NULL if there is none. */
static qs_status choose(qs_context *context, const char *run_folder, const candidate *list, int64_t count,
                        qs_checkpoint_skipped_fn *skipped, void *user, char **found)
{
    for (int64_t k = 0; k < count; k++) {
        char reason[1024];
        char *path = qsi_path_join(run_folder, list[k].name);
        if (path == NULL)
            return QS_ERR_NOMEM;
        qs_status status = try_checkpoint(context, path);
        if (status == QS_OK) {
            *found = path;
            return QS_OK;
        }
        snprintf(reason, sizeof reason, "%s", qs_last_error());
        if (skipped != NULL && status != QS_ERR_NOMEM)
            skipped(user, path, reason);
        qsi_free(path);
        if (status == QS_ERR_NOMEM)
            return status;
    }
    return QS_OK;
}

qs_status qs_checkpoint_latest(qs_context *context, const char *run_folder, char *out, size_t out_bytes,
                               qs_checkpoint_skipped_fn *skipped, void *user)
{
    qs_status status = QS_OK;
    char **names = NULL, *found = NULL;
    int64_t count = 0, candidates = 0;
    candidate *list = NULL;
    if (run_folder == NULL || out == NULL)
        QS_FAIL(QS_ERR_ARG, "no run folder, or nowhere to put the path");
    if (!qsi_is_directory(run_folder))
        QS_FAIL(QS_ERR_NOINPUT, "%s: no such folder", run_folder);
    QS_TRY(qsi_list_directory(run_folder, &names, &count));
    list = qsi_alloc_array(context, QS_MEMORY_IO, count, sizeof *list);
    if (list == NULL) {
        status = QS_ERR_NOMEM;
        goto fail;
    }
    for (int64_t k = 0; k < count; k++)
        candidates += parse_name(names[k], &list[candidates]);
    qsort(list, (size_t)candidates, sizeof *list, compare_candidates);
    QS_TRY(choose(context, run_folder, list, candidates, skipped, user, &found));
    if (found == NULL && candidates == 0)
        QS_FAIL(QS_ERR_NOINPUT, "%s holds no checkpoint (manifest.json or step-NNNNNNNN)", run_folder);
    if (found == NULL)
        QS_FAIL(QS_ERR_NOINPUT, "%s: none of its %" PRId64 " checkpoints is whole", run_folder, candidates);
    if (strlen(found) >= out_bytes)
        QS_FAIL(QS_ERR_ARG, "the path of the checkpoint has %zu bytes, room is for %zu", strlen(found) + 1, out_bytes);
    memcpy(out, found, strlen(found) + 1);
fail:
    qsi_free(found);
    qsi_free(list);
    qsi_free_names(names, count);
    return status;
}
