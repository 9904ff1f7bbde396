/* report_bits.c - the signs of one 1-bit matrix before and after training, for the bit maps of a report. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "report_data.h"

enum { SHOWN = 512, WORD_BITS = 32 };

static json_t *note(const char *format, const char *value)
{
    char text[TEXT_LIMIT];
    (void)snprintf(text, sizeof text, format, value);
    return json_pack("{s:o}", "note", report_text(text));
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

/* ---- pictures --------------------------------------------------------------------------------------------------- */

/* The top left corner that is shown, as rows of whole bytes. */
typedef struct picture {
    int64_t rows, row_bytes;
    unsigned char bytes[SHOWN * SHOWN / 8];
} picture;

static void put_row(picture *p, int64_t row, const uint32_t *words)
{
    for (int64_t i = 0; row < p->rows && i < p->row_bytes; i++)
        p->bytes[row * p->row_bytes + i] = (unsigned char)(words[i / 4] >> 8 * (i % 4));
}

static json_t *base64(const unsigned char *bytes, int64_t count)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const int64_t length = (count + 2) / 3 * 4;
    char *out = malloc((size_t)length + 1);
    if (out == NULL)
        return NULL;
    for (int64_t i = 0, o = 0; i < count; i += 3, o += 4) {
        const uint32_t b = i + 1 < count ? bytes[i + 1] : 0, c = i + 2 < count ? bytes[i + 2] : 0;
        const uint32_t three = (uint32_t)bytes[i] << 16 | b << 8 | c;
        out[o] = digits[three >> 18];
        out[o + 1] = digits[three >> 12 & 63];
        out[o + 2] = i + 1 < count ? digits[three >> 6 & 63] : '=';
        out[o + 3] = i + 2 < count ? digits[three & 63] : '=';
    }
    json_t *text = json_stringn(out, (size_t)length);
    free(out);
    return text;
}

/* ---- where the signs were before -------------------------------------------------------------------------------- */

/* Rows of the matrix at the start: draws of the seed, or the words of an older checkpoint. */
typedef struct start {
    bool from_seed;
    uint64_t seed;
    uint32_t id;
    qs_checkpoint *checkpoint;
    const uint32_t *words;
} start;

/* The checkpoint's manifest holds the seed, the tensor's name says which draws are its own. */
static bool find_seed(start *s, const qs_checkpoint *checkpoint, const char *tensor)
{
    const char *text = qs_checkpoint_manifest(checkpoint);
    json_t *manifest = text == NULL ? NULL : json_loads(text, 0, NULL);
    const json_t *seed = json_object_get(manifest, "seed");
    s->from_seed = json_is_integer(seed) && qs_model_tensor_id(tensor, &s->id) == QS_OK;
    s->seed = s->from_seed ? (uint64_t)json_integer_value(seed) : 0;
    json_decref(manifest);
    return s->from_seed;
}

/* The name after `previous` ("" at first) in byte order among the checkpoints of a folder, "" if there is none. */
static void next_checkpoint(const char *folder, const char *previous, char out[64])
{
    DIR *entries = opendir(folder);
    out[0] = '\0';
    if (entries == NULL)
        return;
    for (const struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        const char *name = entry->d_name;
        const size_t length = strlen(name);
        const bool ours =
            length > 5 && length < 64 && strncmp(name, "step-", 5) == 0 && 5 + strspn(name + 5, "0123456789") == length;
        if (ours && strcmp(name, previous) > 0 && (out[0] == '\0' || strcmp(name, out) < 0))
            memcpy(out, name, length + 1);
    }
    (void)closedir(entries);
}

/* The same tensor in the oldest valid checkpoint before the newest. */
static bool find_oldest(start *s, const char *folder, const qs_checkpoint *newest, const qs_tensor_info *tensor)
{
    char name[64], previous[64] = "", path[PATH_MAX];
    const char *last = last_part(qs_checkpoint_path(newest));
    for (next_checkpoint(folder, previous, name); name[0] != '\0' && strcmp(name, last) < 0;
         next_checkpoint(folder, previous, name)) {
        qs_tensor_info info;
        memcpy(previous, name, sizeof previous);
        if (snprintf(path, sizeof path, "%s/%s", folder, name) >= PATH_MAX ||
            qs_checkpoint_open(NULL, path, &s->checkpoint) != QS_OK)
            continue;
        const int64_t index = qs_checkpoint_find(s->checkpoint, tensor->name);
        if (index >= 0 && qs_checkpoint_verify(s->checkpoint) == QS_OK &&
            qs_checkpoint_tensor(s->checkpoint, index, &info) == QS_OK && info.format == QS_W1 &&
            info.rows == tensor->rows && info.cols == tensor->cols) {
            s->words = qs_checkpoint_data(s->checkpoint, index);
            return true;
        }
        qs_checkpoint_close(&s->checkpoint);
    }
    return false;
}

/* ---- comparing -------------------------------------------------------------------------------------------------- */

/* Fills both pictures; returns how many weights differ, -1 after a failure. */
static int64_t compare_rows(const start *s, const uint32_t *after, const qs_tensor_info *t, uint32_t *row, picture *old,
                            picture *now)
{
    const int64_t words = t->cols / WORD_BITS;
    int64_t flipped = 0;
    old->rows = now->rows = t->rows < SHOWN ? t->rows : SHOWN;
    old->row_bytes = now->row_bytes = (t->cols < SHOWN ? t->cols : SHOWN) / 8;
    for (int64_t n = 0; n < t->rows; n++) {
        const uint32_t *before = row;
        if (!s->from_seed)
            before = s->words + n * words;
        else if (qs_random_signs(s->seed, s->id, n, t->cols, row) != QS_OK)
            return -1;
        for (int64_t j = 0; j < words; j++)
            flipped += __builtin_popcount(before[j] ^ after[n * words + j]);
        put_row(old, n, before);
        put_row(now, n, after + n * words);
    }
    return flipped;
}

static json_t *maps_json(const start *s, const qs_checkpoint *checkpoint, int64_t index, const qs_tensor_info *t)
{
    json_t *out = NULL;
    uint32_t *row = malloc((size_t)t->cols / 8 + sizeof *row);
    picture *pictures = calloc(2, sizeof *pictures);
    const int64_t flipped = row == NULL || pictures == NULL
        ? -1 : compare_rows(s, qs_checkpoint_data(checkpoint, index), t, row, &pictures[0], &pictures[1]);
    const char *name = last_part(qs_checkpoint_path(checkpoint));
    const int64_t bytes = flipped < 0 ? 0 : pictures->rows * pictures->row_bytes;
    if (flipped >= 0)
        out = json_pack("{s:o, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:f}", "tensor", report_text(t->name), "rows",
                        (json_int_t)t->rows, "cols", (json_int_t)t->cols, "shown_rows", (json_int_t)pictures->rows,
                        "shown_cols", (json_int_t)pictures->row_bytes * 8, "before", base64(pictures[0].bytes, bytes),
                        "after", base64(pictures[1].bytes, bytes), "before_from",
                        report_text(s->from_seed ? "seed" : last_part(qs_checkpoint_path(s->checkpoint))), "checkpoint",
                        report_text(name), "flipped", (double)flipped / ((double)t->rows * (double)t->cols));
    free(row);
    free(pictures);
    return out != NULL ? out : note("%s", "the signs could not be compared");
}

/* ---- choosing --------------------------------------------------------------------------------------------------- */

/* Index of the 1-bit matrix asked for, or of the first one; -1 if there is none. */
static int64_t find_tensor(const qs_checkpoint *checkpoint, const char *tensor, qs_tensor_info *t)
{
    for (int64_t i = 0; i < qs_checkpoint_count(checkpoint); i++)
        if (qs_checkpoint_tensor(checkpoint, i, t) == QS_OK && t->format == QS_W1 && t->rows > 0 && t->cols > 0 &&
            (tensor == NULL || strcmp(t->name, tensor) == 0))
            return i;
    return -1;
}

static json_t *maps_of(const char *folder, const char *tensor, const qs_checkpoint *checkpoint)
{
    qs_tensor_info t;
    start s;
    const int64_t index = find_tensor(checkpoint, tensor, &t);
    memset(&s, 0, sizeof s);
    if (index < 0)
        return tensor == NULL ? note("%s", "this run has no 1-bit weights") : note("no 1-bit tensor is called %s", tensor);
    json_t *out = find_seed(&s, checkpoint, t.name) || find_oldest(&s, folder, checkpoint, &t)
        ? maps_json(&s, checkpoint, index, &t)
        : note("%s", "the start signs are not known: no seed and no older checkpoint");
    qs_checkpoint_close(&s.checkpoint);
    return out;
}

static void on_skipped(void *user, const char *path, const char *reason)
{
    char text[TEXT_LIMIT];
    (void)snprintf(text, sizeof text, "%s was passed over: %s", path, reason);
    (void)json_array_append_new(user, report_text(text));
}

json_t *report_bits(const char *folder, const char *tensor)
{
    char path[PATH_MAX];
    qs_checkpoint *checkpoint = NULL;
    json_t *skipped = json_array(), *out = NULL;
    qs_status status = qs_checkpoint_latest(NULL, folder, path, sizeof path, on_skipped, skipped);
    if (status == QS_OK)
        status = qs_checkpoint_open(NULL, path, &checkpoint);
    if (status == QS_OK)
        out = maps_of(folder, tensor, checkpoint);
    else
        out = status == QS_ERR_NOINPUT ? note("%s", "there is no valid checkpoint yet") : note("%s", qs_last_error());
    qs_checkpoint_close(&checkpoint);
    (void)json_object_set_new(out, "skipped", skipped);
    return out;
}
