/* cmd_inspect.c - qsbits inspect: what is inside a checkpoint or a safetensors file, down to single weights. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "common.h"

static const char NAME[] = "inspect";
enum { WIDEST_NAME = 80, WORD_BYTES = 4, LINE_WORDS = 8, LINE_VALUES = 32, FILES = 2 };
static const char MARGIN[] = "       ";

static const int FORMAT_BITS[] = {
#define BITS(name, text, bits, multiple) bits,
    QS_FORMAT_LIST(BITS)
#undef BITS
};

static bool is_packed(int format)
{
    return format >= QS_W1 && format < QS_FORMATS;
}

/* Shown as one character each. */
static bool is_symbol(int format)
{
    return format == QS_W1 || format == QS_T2;
}

static const char *format_text(const qs_tensor_info *t)
{
    return t->format >= 0 ? qs_format_name((qs_format)t->format) : t->dtype;
}

static double bits_per_element(const qs_tensor_info *t)
{
    const double elements = (double)t->rows * (double)t->cols;
    return elements > 0.0 ? 8.0 * (double)t->bytes / elements : 0.0;
}

/* ---- the list -------------------------------------------------------------------------------------------------- */

typedef struct totals {
    const char *file;
    int64_t tensors;
    uint64_t bytes;
    double weights, weight_bytes, scale_bytes, adapter_bytes;  /* of W1 tensors; fp16 scales; adapters */
} totals;

/* An adapter itself, not its moments. */
static bool is_adapter(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot != NULL && (strcmp(dot, ".lora_A") == 0 || strcmp(dot, ".lora_B") == 0);
}

static void add_totals(totals *all, const qs_tensor_info *t)
{
    totals *of = all[0].file == NULL || strcmp(all[0].file, t->file) == 0 ? &all[0] : &all[1];
    of->file = t->file;
    of->tensors++;
    of->bytes += t->bytes;
    if (t->format == QS_W1) {
        of->weights += (double)t->rows * (double)t->cols;
        of->weight_bytes += (double)t->bytes;
    } else if (t->format == QS_F16) {
        of->scale_bytes += (double)t->bytes;
    } else if (is_adapter(t->name)) {
        of->adapter_bytes += (double)t->bytes;
    }
}

static json_t *tensor_json(const qs_tensor_info *t)
{
    json_t *shape = json_array();
    for (int i = 0; i < t->rank; i++)
        (void)json_array_append_new(shape, json_integer((json_int_t)t->shape[i]));
    return json_pack("{s:s, s:s, s:s, s:s?, s:o, s:I, s:I, s:f, s:I, s:I}", "name", t->name, "file", t->file, "dtype",
                     t->dtype, "format", t->format >= 0 ? qs_format_name((qs_format)t->format) : NULL, "shape", shape,
                     "rows", (json_int_t)t->rows, "cols", (json_int_t)t->cols, "bits_per_weight", bits_per_element(t),
                     "bytes", (json_int_t)t->bytes, "offset", (json_int_t)t->offset);
}

static void print_tensor(const qs_tensor_info *t, int width)
{
    char shape[48];
    (void)snprintf(shape, sizeof shape, "[%lld, %lld]", (long long)t->rows, (long long)t->cols);
    printf("%-*s %-5s %-16s %6.2f %12" PRIu64 "\n", width, t->name, format_text(t), shape, bits_per_element(t), t->bytes);
}

static double packed_bits(const totals *t)
{
    return t->weights > 0.0 ? 8.0 * (t->weight_bytes + t->scale_bytes + t->adapter_bytes) / t->weights : NAN;
}

static void print_totals(const totals *all)
{
    char size[16];
    for (int i = 0; i < FILES && all[i].file != NULL; i++) {
        printf("%s: %lld tensors, %s", all[i].file, (long long)all[i].tensors, human_bytes((double)all[i].bytes, size));
        if (all[i].weights > 0.0)
            printf("; %s 1-bit weights at %.3f bits, scales%s included", human_count(all[i].weights, size),
                   packed_bits(&all[i]), all[i].adapter_bytes > 0.0 ? " and adapters" : "");
        printf("\n");
    }
}

static json_t *totals_json(const totals *all)
{
    json_t *files = json_array();
    for (int i = 0; i < FILES && all[i].file != NULL; i++) {
        const totals *t = &all[i];
        (void)json_array_append_new(
            files, json_pack("{s:s, s:I, s:I, s:I, s:o}", "name", t->file, "tensors", (json_int_t)t->tensors, "bytes",
                             (json_int_t)t->bytes, "packed_weights", (json_int_t)t->weights, "packed_bits_per_weight",
                             json_number(packed_bits(t))));
    }
    return files;
}

static int name_width(const qs_checkpoint *checkpoint)
{
    size_t width = sizeof "tensor" - 1;
    qs_tensor_info t;
    for (int64_t i = 0; i < qs_checkpoint_count(checkpoint); i++)
        if (qs_checkpoint_tensor(checkpoint, i, &t) == QS_OK && strlen(t.name) > width)
            width = strlen(t.name);
    return width < WIDEST_NAME ? (int)width : WIDEST_NAME;
}

static int list_tensors(const options *o, const qs_checkpoint *checkpoint)
{
    const bool json = o->value[OPT_JSON].given;
    totals all[FILES] = {{0}};
    json_t *tensors = json_array();
    const int width = json ? 0 : name_width(checkpoint);
    if (!json)
        printf("%s\n%-*s %-5s %-16s %6s %12s\n", qs_checkpoint_path(checkpoint), width, "tensor", "fmt", "shape", "bits",
               "bytes");
    for (int64_t i = 0; i < qs_checkpoint_count(checkpoint); i++) {
        qs_tensor_info t;
        const qs_status status = qs_checkpoint_tensor(checkpoint, i, &t);
        if (status != QS_OK) {
            json_decref(tensors);
            return fail_library(NAME, status, NULL);
        }
        add_totals(all, &t);
        if (json)
            (void)json_array_append_new(tensors, tensor_json(&t));
        else
            print_tensor(&t, width);
    }
    if (json) {
        const char *text = qs_checkpoint_manifest(checkpoint);
        json_t *manifest = text == NULL ? NULL : json_loads(text, 0, NULL);
        return print_json(NAME, json_pack("{s:s, s:b, s:b, s:o, s:o, s:o}", "path", qs_checkpoint_path(checkpoint), "native",
                                          qs_checkpoint_native(checkpoint), "verified", o->value[OPT_VERIFY].given,
                                          "manifest", manifest == NULL ? json_null() : manifest, "files", totals_json(all),
                                          "tensors", tensors));
    }
    json_decref(tensors);
    print_totals(all);
    if (o->value[OPT_VERIFY].given)
        printf("all checksums hold\n");
    return flush_output(NAME);
}

/* ---- one tensor ------------------------------------------------------------------------------------------------ */

/* A window on the first elements of a tensor, in whole words. */
typedef struct selection {
    qs_tensor_info info;
    const unsigned char *data;
    int64_t words;      /* asked for: of the first plane where there are planes; at most all */
    int64_t per_word;   /* elements in such a word */
    int planes;
    json_t *hex, *values;
} selection;

static uint32_t word_at(const selection *s, int64_t index)
{
    uint32_t word = 0;
    const uint64_t at = (uint64_t)index * WORD_BYTES;
    const uint64_t left = s->info.bytes - at;
    for (uint64_t i = 0; i < WORD_BYTES && i < left; i++)
        word |= (uint32_t)s->data[at + i] << (8 * i);
    return word;
}

static void add_hex(selection *s, int64_t index)
{
    char text[9];
    (void)snprintf(text, sizeof text, "%08" PRIx32, word_at(s, index));
    (void)json_array_append_new(s->hex, json_string(text));
}

/* Words and values of packed rows; in C2 and C4 the words of a row are told plane by plane. */
static qs_status select_packed(selection *s)
{
    const qs_tensor_info *t = &s->info;
    const int64_t row_bytes = qs_row_bytes((qs_format)t->format, t->cols);
    const int64_t plane_words = row_bytes / WORD_BYTES / s->planes;
    int16_t *row = plane_words <= 0 ? NULL : malloc((size_t)t->cols * sizeof *row);
    qs_status status = row == NULL && t->bytes > 0 ? QS_ERR_NOMEM : QS_OK;
    int64_t left = row == NULL ? 0 : s->words;
    for (int64_t n = 0; left > 0 && n < t->rows && status == QS_OK; n++) {
        const int64_t take = left < plane_words ? left : plane_words;
        for (int p = 0; p < s->planes; p++)
            for (int64_t j = 0; j < take; j++)
                add_hex(s, (n * s->planes + p) * plane_words + j);
        status = qs_unpack((qs_format)t->format, 1, t->cols, s->data + n * row_bytes, row);
        for (int64_t k = 0; status == QS_OK && k < take * s->per_word; k++)
            (void)json_array_append_new(s->values, json_integer(row[k]));
        left -= take;
    }
    free(row);
    return status;
}

/* A number of a plain format; false where the format is unknown. */
static bool add_number(selection *s, int64_t index)
{
    float real;
    int32_t integer;
    uint16_t half;
    switch (s->info.format) {
    case QS_F32:
        memcpy(&real, s->data + index * 4, sizeof real);
        return json_array_append_new(s->values, json_number((double)real)) == 0;
    case QS_F16:
        memcpy(&half, s->data + index * 2, sizeof half);
        return json_array_append_new(s->values, json_number((double)qs_half_to_float(half))) == 0;
    case QS_I32:
        memcpy(&integer, s->data + index * 4, sizeof integer);
        return json_array_append_new(s->values, json_integer(integer)) == 0;
    case QS_U8:
        return json_array_append_new(s->values, json_integer(s->data[index])) == 0;
    default:
        return false;
    }
}

static void select_plain(selection *s)
{
    const int64_t elements = s->info.rows * s->info.cols;
    for (int64_t i = 0; i < s->words; i++)
        add_hex(s, i);
    for (int64_t i = 0; i < s->words * s->per_word && i < elements; i++)
        if (!add_number(s, i))
            break;
}

static void print_value(const selection *s, const json_t *value)
{
    if (is_symbol(s->info.format))
        printf("%c", "-0+"[json_integer_value(value) + 1]);
    else if (json_is_integer(value))
        printf("%lld", (long long)json_integer_value(value));
    else
        printf("%.7g", json_is_null(value) ? NAN : json_number_value(value));
}

/* Between items: a margin at the start of a line, else a space unless the items are single symbols. */
static const char *separator(int64_t i, int per_line, const char *title, bool tight)
{
    return i == 0 ? title : i % per_line == 0 ? MARGIN : tight ? "" : " ";
}

static void print_selection(const selection *s)
{
    const int64_t words = (int64_t)json_array_size(s->hex), values = (int64_t)json_array_size(s->values);
    const int line_values = is_packed(s->info.format) ? LINE_VALUES : LINE_WORDS;
    printf("%s  %s  [%lld, %lld]  in %s\n", s->info.name, format_text(&s->info), (long long)s->info.rows,
           (long long)s->info.cols, s->info.file);
    for (int64_t i = 0; i < words; i++)
        printf("%s%s%s", separator(i, LINE_WORDS, "words  ", false), json_string_value(json_array_get(s->hex, (size_t)i)),
               i % LINE_WORDS == LINE_WORDS - 1 || i == words - 1 ? "\n" : "");
    for (int64_t i = 0; i < values; i++) {
        printf("%s", separator(i, line_values, "values ", is_symbol(s->info.format)));
        print_value(s, json_array_get(s->values, (size_t)i));
        printf("%s", i % line_values == line_values - 1 || i == values - 1 ? "\n" : "");
    }
}

static int show_selection(const options *o, selection *s)
{
    const int format = s->info.format;
    s->planes = format == QS_C2 ? 2 : format == QS_C4 ? 4 : 1;
    s->per_word = format == QS_C2 || format == QS_C4 ? 32 : format >= 0 ? 32 / FORMAT_BITS[format] : 1;
    const int64_t all = (int64_t)((s->info.bytes + WORD_BYTES - 1) / WORD_BYTES) / s->planes;
    s->words = o->value[OPT_WORDS].integer;
    if (s->words == 0 || s->words > all)
        s->words = all;
    if (is_packed(format)) {
        const qs_status status = select_packed(s);
        if (status != QS_OK)
            return fail_library(NAME, status, NULL);
    } else {
        select_plain(s);
    }
    if (!o->value[OPT_JSON].given) {
        print_selection(s);
        return flush_output(NAME);
    }
    return print_json(NAME, json_pack("{s:s, s:s, s:s, s:I, s:I, s:O, s:O}", "name", s->info.name, "file", s->info.file,
                                      "format", format_text(&s->info), "rows", (json_int_t)s->info.rows, "cols",
                                      (json_int_t)s->info.cols, "words", s->hex, "values", s->values));
}

static int show_tensor(const options *o, const qs_checkpoint *checkpoint)
{
    selection s;
    const char *name = o->value[OPT_TENSOR].text;
    const int64_t index = qs_checkpoint_find(checkpoint, name);
    memset(&s, 0, sizeof s);
    if (index < 0)
        return fail_with(EXIT_DATA, NAME, "%s holds no tensor '%s'; qsbits inspect %s lists them",
                         qs_checkpoint_path(checkpoint), name, o->operands[0]);
    const qs_status status = qs_checkpoint_tensor(checkpoint, index, &s.info);
    if (status != QS_OK)
        return fail_library(NAME, status, NULL);
    s.data = qs_checkpoint_data(checkpoint, index);
    s.hex = json_array();
    s.values = json_array();
    const int code = show_selection(o, &s);
    json_decref(s.hex);
    json_decref(s.values);
    return code;
}

/* ---- the command ----------------------------------------------------------------------------------------------- */

static int inspect(const options *o, const qs_checkpoint *checkpoint)
{
    if (o->value[OPT_VERIFY].given) {
        const qs_status status = qs_checkpoint_verify(checkpoint);
        if (status != QS_OK)
            return fail_library(NAME, status, status == QS_ERR_UNSUPPORTED ? "name the checkpoint folder instead" : NULL);
    }
    return o->value[OPT_TENSOR].given ? show_tensor(o, checkpoint) : list_tensors(o, checkpoint);
}

static int run(const options *o)
{
    qs_context *context = NULL;
    qs_checkpoint *checkpoint = NULL;
    if (o->operand_count == 0)
        return fail_usage(NAME, "nothing to inspect; name a run folder, a checkpoint or a safetensors file");
    int code = open_context(o, &context);
    if (code == 0) {
        const qs_status status = qs_checkpoint_open(context, o->operands[0], &checkpoint);
        code = status == QS_OK ? inspect(o, checkpoint) : fail_library(NAME, status, NULL);
    }
    qs_checkpoint_close(&checkpoint);
    qs_close(&context);
    return code;
}

static const int CODES[] = {64, 65, 66, 69, 70, 71, 74, 0};

const command inspect_command = {
    .name = "inspect",
    .bit = INSPECT,
    .operand = "RUN|FILE",
    .required = "",
    .summary = "tensors of a checkpoint or a safetensors file, their bits and values",
    .about =
        "Lists the tensors of a run folder (its newest checkpoint), a checkpoint folder or any safetensors file: format,\n"
        "shape, bits per weight, bytes, and totals per file. With --tensor it shows the first 32-bit words in hex and\n"
        "what they mean: signs of 1-bit weights (w1), ternary values (t2), levels 1..K (c2, c4; the words of all planes\n"
        "of these columns, plane by plane), signed levels (c8) or numbers. --verify compares every checksum first.",
    .examples = {"qsbits inspect run1 --verify",
                 "qsbits inspect run1 --tensor model.layers.0.self_attn.q_proj.weight --words 4"},
    .exit_codes = CODES,
    .run = run,
};
