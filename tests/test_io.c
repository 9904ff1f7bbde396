/* test_io.c - checkpoints and safetensors files: round trips, golden bytes, and everything that a disk, an editor or an
 * attacker can do to them. A file may be refused, never believed and never crash the reader. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <ftw.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "io/checkpoint_write.h"

enum { PATH = 512, PATHS = 100, MAX_FILE = 1 << 17 };

/* ---- files ------------------------------------------------------------------------------------------------------ */

static char root[PATH];

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static int make_root(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/qsbits-io-XXXXXX", base != NULL ? base : "/tmp");
    return mkdtemp(root) != NULL ? 0 : -1;
}

static int drop_root(void **state)
{
    (void)state;
    return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* root/name; the text stays valid. */
static const char *at(const char *name)
{
    static char known[PATHS][PATH];
    static int count;
    char path[PATH];
    int n = snprintf(path, PATH, "%s/%s", root, name);
    assert_true(n > 0 && n < PATH);
    for (int k = 0; k < count; k++)
        if (strcmp(known[k], path) == 0)
            return known[k];
    assert_true(count < PATHS);
    return memcpy(known[count++], path, (size_t)n + 1);
}

static void put(const char *path, const void *data, size_t bytes)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

static size_t get(const char *path, uint8_t out[MAX_FILE])
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(out, 1, MAX_FILE, f);
    assert_true(n < MAX_FILE);
    fclose(f);
    return n;
}

static int exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

/* ---- a small checkpoint ------------------------------------------------------------------------------------------ */

static const qs_saved_tensor tensors[] = {
    {"model.embed_tokens.weight", QS_F32, 2, {5, 32, 0}, 0, 0},
    {"model.layers.0.input_layernorm.weight", QS_F32, 1, {32, 0, 0}, 0, 1},
    {"model.layers.0.self_attn.q_proj.weight", QS_W1, 2, {33, 1, 0}, 0, 1},
    {"model.layers.0.self_attn.q_proj.weight_scale", QS_F16, 1, {33, 0, 0}, 0, 1},
    {"model.layers.1.self_attn.q_proj.weight", QS_W1, 2, {1024, 1, 0}, 0, 2},
    {"model.norm.weight", QS_F32, 1, {32, 0, 0}, 0, 3},
    {"model.layers.0.self_attn.q_proj.weight_state", QS_C4, 3, {33, 4, 1}, 1, 1},
    {"model.layers.0.self_attn.q_proj.control", QS_F32, 1, {4, 0, 0}, 1, 1},
    {"model.layers.0.self_attn.k_proj.weight_state", QS_C2, 3, {32, 2, 2}, 1, 1},
    {"model.layers.0.self_attn.v_proj.weight_state", QS_T2, 2, {32, 4, 0}, 1, 1},
    {"model.layers.1.self_attn.q_proj.weight_state", QS_C8, 2, {32, 96, 0}, 1, 2},
};
enum { TENSORS = sizeof tensors / sizeof *tensors };
static const char manifest_fields[] = "{\"step\": 3, \"config\": {\"layers\": 2, \"norm_eps\": 1e-5, \"rope_theta\":"
                                      " 10000.0, \"name\": \"a\\\"b\\u0001\"}, \"tokens\": 768, \"seed\": \"7\"}";

typedef struct source { int fail_at; unsigned salt; } source;

/* Bytes that name their tensor and place; T2 words get no code 11. */
static qs_status fetch(void *user, int64_t index, void *bytes, int64_t n)
{
    const source *s = user;
    uint8_t *out = bytes;
    if (index == s->fail_at)
        return QS_ERR_DEVICE;
    for (int64_t i = 0; i < n; i++) {
        out[i] = (uint8_t)((unsigned)index * 37 + (unsigned)i * 11 + (unsigned)(i >> 8) + s->salt);
        if (tensors[index].format == QS_T2)
            out[i] &= 0x55;
    }
    return QS_OK;
}

static qs_status save(const char *folder, unsigned salt)
{
    source s = {-1, salt};
    return qs_checkpoint_write(NULL, folder, tensors, TENSORS, fetch, &s, manifest_fields);
}

/* QS_OK only if the folder opens and every checksum holds. */
static qs_status check(const char *path)
{
    qs_checkpoint *c = NULL;
    qs_status status = qs_checkpoint_open(NULL, path, &c);
    if (status == QS_OK)
        status = qs_checkpoint_verify(c);
    qs_checkpoint_close(&c);
    return status;
}

static void expect(qs_status got, qs_status wanted, const char *text)
{
    if (got != wanted || strstr(qs_last_error(), text) == NULL)
        fail_msg("status %d, wanted %d with '%s': %s", (int)got, (int)wanted, text, qs_last_error());
}

/* ---- round trip --------------------------------------------------------------------------------------------------- */

static void test_round_trip(void **state)
{
    (void)state;
    const char *folder = at("round/deep/step-00000003/");
    assert_int_equal(save(folder, 0), QS_OK);
    qs_checkpoint *c = NULL;
    assert_int_equal(qs_checkpoint_open(NULL, folder, &c), QS_OK);
    assert_int_equal(qs_checkpoint_verify(c), QS_OK);
    assert_int_equal(qs_checkpoint_native(c), 1);
    assert_int_equal(qs_checkpoint_check_model(c), QS_OK);
    assert_int_equal(qs_checkpoint_count(c), TENSORS);
    for (int64_t k = 0; k < TENSORS; k++) {
        qs_tensor_info info;
        uint8_t wanted[1 << 16];
        source s = {-1, 0};
        assert_int_equal(qs_checkpoint_tensor(c, k, &info), QS_OK);
        assert_string_equal(info.name, tensors[k].name);
        assert_int_equal(info.format, tensors[k].format);
        assert_int_equal(info.rank, tensors[k].rank);
        assert_memory_equal(info.shape, tensors[k].shape, (size_t)info.rank * sizeof(int64_t));
        assert_int_equal(info.bytes, info.rows * qs_row_bytes((qs_format)info.format, info.cols));
        assert_int_equal(info.offset % QS_TENSOR_ALIGN, 0);
        assert_int_equal(qs_checkpoint_find(c, info.name), k);
        fetch(&s, k, wanted, (int64_t)info.bytes);
        assert_memory_equal(qs_checkpoint_data(c, k), wanted, info.bytes);
    }
    assert_int_equal(qs_checkpoint_find(c, "pad.0"), -1);
    assert_null(qs_checkpoint_data(c, TENSORS));
    assert_int_equal(qs_checkpoint_tensor(c, -1, NULL), QS_ERR_ARG);
    qs_checkpoint_close(&c);
    assert_null(c);
    qs_checkpoint_close(&c);
}

static void test_slabs(void **state)
{
    (void)state;
    const char *folder = at("slabs");
    assert_int_equal(save(folder, 0), QS_OK);
    qs_checkpoint *c = NULL;
    assert_int_equal(qs_checkpoint_open(NULL, folder, &c), QS_OK);
    static const qs_slab_info wanted[2][4] = {{{4096, 4096}, {8192, 4096}, {12288, 4096}, {16384, 128}},
                                              {{4096, 0}, {4096, 4096}, {8192, 4096}, {12288, 0}}};
    for (int f = 0; f < 2; f++) {
        assert_int_equal(qs_checkpoint_slab_count(c, f), 4);
        for (int64_t k = 0; k < 4; k++) {
            qs_slab_info slab;
            assert_int_equal(qs_checkpoint_slab(c, f, k, &slab), QS_OK);
            assert_int_equal(slab.offset, wanted[f][k].offset);
            assert_int_equal(slab.bytes, wanted[f][k].bytes);
        }
    }
    qs_slab_info slab;
    assert_int_equal(qs_checkpoint_slab(c, 0, 4, &slab), QS_ERR_ARG);
    qs_checkpoint_close(&c);
}

/* ---- golden bytes --------------------------------------------------------------------------------------------------- */

static void hash_file(const char *path, char out[33])
{
    static uint8_t bytes[MAX_FILE];
    XXH128_hash_t h = XXH3_128bits(bytes, get(path, bytes));
    snprintf(out, 33, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
}

static const char golden_manifest[] =
    "{\n"
    "  \"config\": {\n"
    "    \"layers\": 2,\n"
    "    \"name\": \"a\\\"b\\u0001\",\n"
    "    \"norm_eps\": 1e-05,\n"
    "    \"rope_theta\": 10000.0\n"
    "  },\n"
    "  \"files\": {\n"
    "    \"model.safetensors\": {\n"
    "      \"header\": {\n"
    "        \"length\": 4096,\n"
    "        \"xxh3_128\": \"b8fe69036ca9e50bc9aacb51639e07a5\"\n"
    "      },\n"
    "      \"length\": 16512,\n"
    "      \"slabs\": [\n"
    "        {\n"
    "          \"length\": 4096,\n"
    "          \"offset\": 4096,\n"
    "          \"xxh3_128\": \"c12fd77c537a190abae08257a8d5b424\"\n"
    "        },\n"
    "        {\n"
    "          \"length\": 4096,\n"
    "          \"offset\": 8192,\n"
    "          \"xxh3_128\": \"fdeab894b1df442eccf6805c0e49292c\"\n"
    "        },\n"
    "        {\n"
    "          \"length\": 4096,\n"
    "          \"offset\": 12288,\n"
    "          \"xxh3_128\": \"872a7c20b0e6db2726783e0afd08cf49\"\n"
    "        },\n"
    "        {\n"
    "          \"length\": 128,\n"
    "          \"offset\": 16384,\n"
    "          \"xxh3_128\": \"8fa19aa5a5e3183eb24afbafa93fbd55\"\n"
    "        }\n"
    "      ]\n"
    "    },\n"
    "    \"state.safetensors\": {\n"
    "      \"header\": {\n"
    "        \"length\": 4096,\n"
    "        \"xxh3_128\": \"cd9fcab0ae60dc584bb8b1c3ac594ad5\"\n"
    "      },\n"
    "      \"length\": 12288,\n"
    "      \"slabs\": [\n"
    "        {\n"
    "          \"length\": 0,\n"
    "          \"offset\": 4096,\n"
    "          \"xxh3_128\": \"99aa06d3014798d86001c324468d497f\"\n"
    "        },\n"
    "        {\n"
    "          \"length\": 4096,\n"
    "          \"offset\": 4096,\n"
    "          \"xxh3_128\": \"50d4439f6b38a5b5d157f1e18fa79fa3\"\n"
    "        },\n"
    "        {\n"
    "          \"length\": 4096,\n"
    "          \"offset\": 8192,\n"
    "          \"xxh3_128\": \"9f60ab75362295bdd574d1e5a633e847\"\n"
    "        },\n"
    "        {\n"
    "          \"length\": 0,\n"
    "          \"offset\": 12288,\n"
    "          \"xxh3_128\": \"99aa06d3014798d86001c324468d497f\"\n"
    "        }\n"
    "      ]\n"
    "    }\n"
    "  },\n"
    "  \"format_version\": 1,\n"
    "  \"kind\": \"full\",\n"
    "  \"manifest_xxh3_128\": \"0f8ab995631ce5e70997ab923368b285\",\n"
    "  \"seed\": \"7\",\n"
    "  \"step\": 3,\n"
    "  \"tokens\": 768\n"
    "}\n";

static const char golden_header[] =
    "{\"__metadata__\":{\"qsbits_config\":\"{\\\"layers\\\":2,\\\"name\\\":\\\"a\\\\\\\"b\\\\u0001\\\","
    "\\\"norm_eps\\\":1e-05,\\\"rope_theta\\\":10000.0}\",\"qsbits_format_version\":\"1\"},"
    "\"model.embed_tokens.weight\":{\"dtype\":\"F32\",\"shape\":[5,32],\"data_offsets\":[0,640]},"
    "\"pad.0\":{\"dtype\":\"U8\",\"shape\":[3456],\"data_offsets\":[640,4096]},"
    "\"model.layers.0.input_layernorm.weight\":{\"dtype\":\"F32\",\"shape\":[32],\"data_offsets\":[4096,4224]},"
    "\"model.layers.0.self_attn.q_proj.weight\":{\"dtype\":\"I32\",\"shape\":[33,1],\"data_offsets\":[4224,4356]},"
    "\"pad.1\":{\"dtype\":\"U8\",\"shape\":[60],\"data_offsets\":[4356,4416]},"
    "\"model.layers.0.self_attn.q_proj.weight_scale\":{\"dtype\":\"F16\",\"shape\":[33],\"data_offsets\":[4416,4482]},"
    "\"pad.2\":{\"dtype\":\"U8\",\"shape\":[3710],\"data_offsets\":[4482,8192]},"
    "\"model.layers.1.self_attn.q_proj.weight\":{\"dtype\":\"I32\",\"shape\":[1024,1],\"data_offsets\":[8192,12288]},"
    "\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[32],\"data_offsets\":[12288,12416]}}";

static void test_golden(void **state)
{
    (void)state;
    static uint8_t bytes[MAX_FILE];
    char hash[33];
    assert_int_equal(save(at("golden"), 0), QS_OK);
    size_t n = get(at("golden/manifest.json"), bytes);
    bytes[n] = 0;
    assert_string_equal((char *)bytes, golden_manifest);
    get(at("golden/model.safetensors"), bytes);
    assert_memory_equal(bytes, "\xf8\x0f\0\0\0\0\0\0", 8);
    assert_memory_equal(bytes + 8, golden_header, sizeof golden_header - 1);
    for (size_t i = 8 + sizeof golden_header - 1; i < 4096; i++)
        assert_int_equal(bytes[i], ' ');
    hash_file(at("golden/model.safetensors"), hash);
    assert_string_equal(hash, "9e10902470e7a85b04730dd0d88dbd7a");
    hash_file(at("golden/state.safetensors"), hash);
    assert_string_equal(hash, "53b57303cacfbe9e6083c4eac63fea79");
}

/* The words of docs/format.md, "Packed words". */
static void test_golden_words(void **state)
{
    (void)state;
    int16_t values[32];
    uint32_t words[4];
    uint8_t bytes[32];
    for (int i = 0; i < 32; i++)
        values[i] = i % 2 == 0 ? 1 : -1;
    assert_int_equal(qs_pack(QS_W1, 1, 32, values, words), QS_OK);
    assert_int_equal(words[0], 0x55555555);
    memset(values, 0, sizeof values);
    values[1] = 1;
    values[2] = -1;
    assert_int_equal(qs_pack(QS_T2, 1, 32, values, words), QS_OK);
    assert_int_equal(words[0], 0x24);
    for (int i = 0; i < 32; i++)
        values[i] = (int16_t)(i % 16 + 1);
    assert_int_equal(qs_pack(QS_C4, 1, 32, values, words), QS_OK);
    assert_true(words[0] == 0xAAAAAAAA && words[1] == 0xCCCCCCCC && words[2] == 0xF0F0F0F0 && words[3] == 0xFF00FF00);
    for (int i = 0; i < 32; i++)
        values[i] = (int16_t)(i % 4 + 1);
    assert_int_equal(qs_pack(QS_C2, 1, 32, values, words), QS_OK);
    assert_true(words[0] == 0xAAAAAAAA && words[1] == 0xCCCCCCCC);
    for (int i = 0; i < 32; i++)
        values[i] = (int16_t)(i % 4 == 0 ? 1 : i % 4 == 1 ? 128 : i % 4 == 2 ? -1 : -128);
    assert_int_equal(qs_pack(QS_C8, 1, 32, values, bytes), QS_OK);
    assert_memory_equal(bytes, "\x00\x7f\xff\x80", 4);
}

/* ---- damage ------------------------------------------------------------------------------------------------------ */

static void test_truncated(void **state)
{
    (void)state;
    static const char *const files[] = {"cut/model.safetensors", "cut/state.safetensors", "cut/manifest.json"};
    static uint8_t bytes[MAX_FILE];
    assert_int_equal(save(at("cut"), 0), QS_OK);
    for (int f = 0; f < 3; f++) {
        const char *path = at(files[f]);
        size_t n = get(path, bytes);
        for (size_t length = 0; length < n; length += length < 300 || length > n - 20 ? 1 : 97) {
            put(path, bytes, length);
            qs_status status = check(at("cut"));
            if (status != QS_ERR_CORRUPT)
                fail_msg("%s cut to %zu: %d %s", files[f], length, (int)status, qs_last_error());
            if (f < 2) {
                qs_checkpoint *c = NULL;
                status = qs_checkpoint_open(NULL, path, &c);
                assert_true(status == QS_ERR_CORRUPT || status == QS_ERR_FORMAT);
                assert_null(c);
            }
        }
        put(path, bytes, n);
        assert_int_equal(check(at("cut")), QS_OK);
        bytes[n] = 0;
        put(path, bytes, n + 1);
        assert_int_equal(check(at("cut")), QS_ERR_CORRUPT);
        put(path, bytes, n);
    }
}

static void test_flipped(void **state)
{
    (void)state;
    static const char *const files[] = {"flip/model.safetensors", "flip/state.safetensors", "flip/manifest.json"};
    static uint8_t bytes[MAX_FILE];
    assert_int_equal(save(at("flip"), 0), QS_OK);
    for (int f = 0; f < 3; f++) {
        const char *path = at(files[f]);
        size_t n = get(path, bytes);
        for (size_t k = 0; k < n; k += f == 2 ? 1 : 41) {
            bytes[k] ^= (uint8_t)(1u << k % 8);
            put(path, bytes, n);
            bytes[k] ^= (uint8_t)(1u << k % 8);
            qs_status status = check(at("flip"));
            if (status == QS_OK || (f < 2 && (status != QS_ERR_CORRUPT || strstr(qs_last_error(), files[f]) == NULL)))
                fail_msg("%s bit %zu of byte %zu: %d %s", files[f], k % 8, k, (int)status, qs_last_error());
        }
        put(path, bytes, n);
    }
    get(at("flip/state.safetensors"), bytes);
    bytes[8192 + 5] ^= 64;
    put(at("flip/state.safetensors"), bytes, 12288);
    expect(check(at("flip")), QS_ERR_CORRUPT, "flip/state.safetensors: slab 2 (offset 8192, 4096 bytes)");
}

static void test_missing(void **state)
{
    (void)state;
    expect(check(at("nothing")), QS_ERR_NOINPUT, "no such file or folder");
    expect(check(""), QS_ERR_ARG, "no path");
    assert_int_equal(mkdir(at("empty"), 0777), 0);
    expect(check(at("empty")), QS_ERR_NOINPUT, "holds no checkpoint");
    assert_int_equal(save(at("miss"), 0), QS_OK);
    assert_int_equal(remove(at("miss/state.safetensors")), 0);
    expect(check(at("miss")), QS_ERR_CORRUPT, "state.safetensors is missing");
    assert_int_equal(remove(at("miss/manifest.json")), 0);
    expect(check(at("miss")), QS_ERR_CORRUPT, "manifest.json is missing");
}

/* Replaces text in a manifest and gives it a fitting checksum again. */
static void edit_manifest(const char *path, const char *original, const char *from, const char *to)
{
    static char text[MAX_FILE];
    const char *found = strstr(original, from);
    assert_non_null(found);
    int n = snprintf(text, sizeof text, "%.*s%s%s", (int)(found - original), original, to, found + strlen(from));
    char *seal = strstr(text, "\"manifest_xxh3_128\": \""), digits[33];
    if (seal != NULL) {
        seal += strlen("\"manifest_xxh3_128\": \"");
        memset(seal, '0', 32);
        XXH128_hash_t h = XXH3_128bits(text, (size_t)n);
        snprintf(digits, sizeof digits, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
        memcpy(seal, digits, 32);
    }
    put(path, text, (size_t)n);
}

/* A manifest that is whole but says something else. */
static void test_hostile_manifest(void **state)
{
    (void)state;
    static const struct { const char *from, *to; qs_status status; const char *text; } cases[] = {
        {"\"format_version\": 1", "\"format_version\": 2", QS_ERR_VERSION, "format version 2"},
        {"\"format_version\": 1", "\"format_version\": \"1\"", QS_ERR_FORMAT, "no format_version"},
        {"\"kind\": \"full\"", "\"kind\": \"delta\"", QS_ERR_FORMAT, "a delta has a base"},
        {"\"kind\": \"full\"", "\"kind\": \"x\\u001b[2J\"", QS_ERR_VERSION, "unknown kind 'x?[2J'"},
        {"\"kind\": \"full\"", "\"kind\": \"full\", \"kind\": \"full\"", QS_ERR_CORRUPT, "duplicate"},
        {"\"step\": 3", "\"step\": -3", QS_ERR_FORMAT, "no config and step"},
        {"\"offset\": 4096", "\"offset\": 0", QS_ERR_FORMAT, "do not continue"},
        {"\"offset\": 4096", "\"offset\": 9223372036854775807", QS_ERR_FORMAT, "do not continue"},
        {"\"length\": 4096,\n          \"offset\": 4096", "\"length\": 9223372036854775807,\n \"offset\": 4096",
         QS_ERR_FORMAT, "do not continue"},
        {"\"length\": 4096,\n          \"offset\": 4096", "\"length\": 4095,\n \"offset\": 4096", QS_ERR_FORMAT,
         "do not continue"},
        {"\"length\": 16512", "\"length\": 16513", QS_ERR_FORMAT, "the slabs of model.safetensors end at 16512"},
        {"\"length\": 16512", "\"length\": 99999999999999999999", QS_ERR_CORRUPT, "integer"},
        {"\"header\": {\n        \"length\": 4096", "\"header\": {\n        \"length\": 0", QS_ERR_FORMAT, "header of 0"},
        {"\"header\": {\n        \"length\": 4096", "\"header\": {\n        \"length\": 1048576", QS_ERR_FORMAT,
         "header of 1048576"},
        {"\"manifest_xxh3_128\"", "\"manifest_xxh3_129\"", QS_ERR_CORRUPT, "no readable"},
        {"\"model.safetensors\"", "\"../model.safetensors\"", QS_ERR_FORMAT, "files.model.safetensors"},
        {"\"config\": {", "\"konfig\": {", QS_ERR_FORMAT, "no config"},
        {"{", "[", QS_ERR_CORRUPT, "manifest.json: line"},
    };
    static char original[MAX_FILE];
    assert_int_equal(save(at("hostile"), 0), QS_OK);
    const char *path = at("hostile/manifest.json");
    original[get(path, (uint8_t *)original)] = '\0';
    edit_manifest(path, original, "\"step\": 3", "\"step\": 4");
    assert_int_equal(check(at("hostile")), QS_OK);
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        edit_manifest(path, original, cases[k].from, cases[k].to);
        expect(check(at("hostile")), cases[k].status, cases[k].text);
    }
}

/* ---- files of other programs, hostile headers -------------------------------------------------------------------- */

/* header, then data_bytes bytes of 0xAB. */
static void put_safetensors(const char *path, const char *header, size_t data_bytes)
{
    static uint8_t bytes[MAX_FILE];
    size_t n = strlen(header);
    assert_true(8 + n + data_bytes < sizeof bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)((uint64_t)n >> 8 * i);
    memcpy(bytes + 8, header, n);
    memset(bytes + 8 + n, 0xab, data_bytes);
    put(path, bytes, 8 + n + data_bytes);
}

static void test_foreign(void **state)
{
    (void)state;
    const char *path = at("foreign.safetensors");
    put_safetensors(path, "{\"b.weight\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[24,36]},\"__metadata__\":"
                          "{\"format\":\"pt\"},\"a.weight\":{\"dtype\":\"I32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                          "\"pad.0\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[36,39]},"
                          "\"s\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[39,41]},"
                          "\"empty\":{\"dtype\":\"F4\",\"shape\":[0,9223372036854775807],\"data_offsets\":[41,41]}}  ", 41);
    qs_checkpoint *c = NULL;
    qs_tensor_info info;
    assert_int_equal(qs_checkpoint_open(NULL, path, &c), QS_OK);
    assert_int_equal(qs_checkpoint_native(c), 0);
    assert_null(qs_checkpoint_manifest(c));
    assert_null(qs_checkpoint_config(c));
    expect(qs_checkpoint_check_model(c), QS_ERR_FORMAT, "of another program: no qsbits packed tensors");
    expect(qs_checkpoint_verify(c), QS_ERR_UNSUPPORTED, "single file");
    assert_int_equal(qs_checkpoint_count(c), 5);
    assert_int_equal(qs_checkpoint_tensor(c, 0, &info), QS_OK);
    assert_string_equal(info.name, "a.weight");
    assert_int_equal(info.format, QS_I32);
    assert_int_equal(qs_checkpoint_tensor(c, 1, &info), QS_OK);
    assert_string_equal(info.dtype, "BF16");
    assert_string_equal(info.file, "foreign.safetensors");
    assert_int_equal(info.format, -1);
    assert_int_equal(info.cols, 3);
    assert_int_equal(qs_checkpoint_tensor(c, qs_checkpoint_find(c, "s"), &info), QS_OK);
    assert_int_equal(info.rank, 0);
    assert_int_equal(info.rows * info.cols, 1);
    qs_checkpoint_close(&c);
    put_safetensors(path, "{}", 0);
    assert_int_equal(qs_checkpoint_open(NULL, path, &c), QS_OK);
    assert_int_equal(qs_checkpoint_count(c), 0);
    assert_int_equal(qs_checkpoint_find(c, ""), -1);
    qs_checkpoint_close(&c);
}

#define ONE(dtype, shape, offsets) "{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define TWO(first, second) "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" first "}," \
                           "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" second "}}"

static void test_hostile_header(void **state)
{
    (void)state;
    static const struct { const char *header; size_t data; qs_status status; const char *text; } cases[] = {
        {"", 0, QS_ERR_FORMAT, "does not start with '{'"},
        {"[]", 0, QS_ERR_FORMAT, "does not start with '{'"},
        {"{", 8, QS_ERR_FORMAT, "does not start with '{'"},
        {"{x}", 0, QS_ERR_FORMAT, "header, byte"},
        {"{} x", 0, QS_ERR_FORMAT, "header, byte"},
        {"{\"a\xff\":1}", 0, QS_ERR_FORMAT, "header, byte"},
        {"{\"a\\u0000b\":1}", 0, QS_ERR_FORMAT, "header, byte"},
        {"{\"a\":1}", 0, QS_ERR_FORMAT, "tensor 'a' has no dtype"},
        {"{\"a\":{}}", 0, QS_ERR_FORMAT, "tensor 'a' has no dtype"},
        {"{\"a\\u001b[2J\":{}}", 0, QS_ERR_FORMAT, "tensor 'a?[2J' has no dtype"},
        {"{\"__metadata__\":[]}", 0, QS_ERR_FORMAT, "__metadata__ is no object"},
        {"{\"__metadata__\":{\"a\":1}}", 0, QS_ERR_FORMAT, "'a' is no string"},
        {"{\"__metadata__\":{\"qsbits_format_version\":\"2\"}}", 0, QS_ERR_VERSION, "format version 2"},
        {"{\"__metadata__\":{\"qsbits_format_version\":\"1\"}}", 0, QS_ERR_FORMAT, "no multiple of 4096"},
        {ONE("F33", "[1]", "[0,4]"), 4, QS_ERR_FORMAT, "unknown dtype 'F33'"},
        {ONE("F32", "1", "[0,4]"), 4, QS_ERR_FORMAT, "shape is no array"},
        {ONE("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, QS_ERR_FORMAT, "shape is no array of at most 8"},
        {ONE("F32", "[-1]", "[0,4]"), 4, QS_ERR_FORMAT, "dimension 0"},
        {ONE("F32", "[-1,-1]", "[0,4]"), 4, QS_ERR_FORMAT, "dimension 0"},
        {ONE("F32", "[1.0]", "[0,4]"), 4, QS_ERR_FORMAT, "dimension 0"},
        {ONE("F32", "[4294967296,4294967296]", "[0,0]"), 0, QS_ERR_FORMAT, "no possible number of bytes"},
        {ONE("F32", "[4611686018427387904]", "[0,0]"), 0, QS_ERR_FORMAT, "no possible number of bytes"},
        {ONE("F32", "[18446744073709551617]", "[0,4]"), 4, QS_ERR_FORMAT, "integer"},
        {ONE("F4", "[3]", "[0,1]"), 1, QS_ERR_FORMAT, "no possible number of bytes"},
        {ONE("F32", "[1]", "[0,8]"), 8, QS_ERR_FORMAT, "8 bytes by its offsets, 4 by its shape"},
        {ONE("F32", "[1]", "[0]"), 4, QS_ERR_FORMAT, "data_offsets"},
        {ONE("F32", "[1]", "[4,0]"), 4, QS_ERR_FORMAT, "data_offsets"},
        {ONE("F32", "[1]", "[-4,0]"), 4, QS_ERR_FORMAT, "data_offsets"},
        {ONE("F32", "[1]", "[9223372036854775803,9223372036854775807]"), 4, QS_ERR_CORRUPT, "truncated"},
        {ONE("F32", "[2]", "[0,8]"), 7, QS_ERR_CORRUPT, "truncated"},
        {ONE("F32", "[2]", "[0,8]"), 9, QS_ERR_FORMAT, "the last tensor ends at byte 8 of the data, the file holds 9"},
        {ONE("F32", "[1]", "[4,8]"), 8, QS_ERR_FORMAT, "a gap"},
        {TWO("[0,4]", "[2,6]"), 6, QS_ERR_FORMAT, "they overlap"},
        {TWO("[0,4]", "[0,4]"), 4, QS_ERR_FORMAT, "they overlap"},
        {TWO("[0,4]", "[5,9]"), 9, QS_ERR_FORMAT, "a gap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, QS_ERR_FORMAT, "duplicate"},
    };
    const char *path = at("hostile.safetensors");
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        qs_checkpoint *c = NULL;
        put_safetensors(path, cases[k].header, cases[k].data);
        expect(qs_checkpoint_open(NULL, path, &c), cases[k].status, cases[k].text);
        assert_null(c);
        assert_non_null(strstr(qs_last_error(), path));
    }
}

static void test_header_length(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {0, 1, 3, 100, 100000000, 100000001, UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63};
    const char *path = at("length.safetensors");
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        uint8_t bytes[10] = {0, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
        qs_checkpoint *c = NULL;
        for (int i = 0; i < 8; i++)
            bytes[i] = (uint8_t)(lengths[k] >> 8 * i);
        put(path, bytes, sizeof bytes);
        expect(qs_checkpoint_open(NULL, path, &c), QS_ERR_FORMAT, path);
    }
    /* deeper than any parser should follow */
    static char deep[60000];
    memset(deep, '[', sizeof deep - 1);
    memcpy(deep, "{\"a\":", 5);
    put_safetensors(path, deep, 0);
    qs_checkpoint *c = NULL;
    expect(qs_checkpoint_open(NULL, path, &c), QS_ERR_FORMAT, "depth");
    expect(qs_checkpoint_open(NULL, "/dev/null", &c), QS_ERR_NOINPUT, "not a regular file");
}

/* A single file carries the config that its manifest has; a lone state file is no model. */
static void test_single_file(void **state)
{
    (void)state;
    qs_checkpoint *c = NULL;
    assert_int_equal(save(at("single"), 0), QS_OK);
    assert_int_equal(qs_checkpoint_open(NULL, at("single"), &c), QS_OK);
    char config[256];
    snprintf(config, sizeof config, "%s", qs_checkpoint_config(c));
    qs_checkpoint_close(&c);
    assert_int_equal(qs_checkpoint_open(NULL, at("single/model.safetensors"), &c), QS_OK);
    assert_int_equal(qs_checkpoint_native(c), 1);
    assert_int_equal(qs_checkpoint_check_model(c), QS_OK);
    assert_string_equal(qs_checkpoint_config(c), config);
    assert_int_equal(qs_checkpoint_count(c), 6);
    qs_checkpoint_close(&c);
    assert_int_equal(qs_checkpoint_open(NULL, at("single/state.safetensors"), &c), QS_OK);
    expect(qs_checkpoint_check_model(c), QS_ERR_FORMAT, "training state only");
    qs_checkpoint_close(&c);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static void test_write_arguments(void **state)
{
    (void)state;
    source s = {-1, 0};
    const char *folder = at("arguments");
    static const struct { qs_saved_tensor t; qs_status status; const char *text; } cases[] = {
        {{"", QS_F32, 1, {1, 0, 0}, 0, 0}, QS_ERR_ARG, "tensor name"},
        {{"pad.1", QS_U8, 1, {1, 0, 0}, 0, 0}, QS_ERR_ARG, "tensor name"},
        {{"a b", QS_F32, 1, {1, 0, 0}, 0, 0}, QS_ERR_ARG, "byte 1"},
        {{"a", QS_FORMATS, 1, {1, 0, 0}, 0, 0}, QS_ERR_ARG, "unknown format"},
        {{"a", QS_F32, 0, {1, 0, 0}, 0, 0}, QS_ERR_SHAPE, "rank 0"},
        {{"a", QS_F32, 4, {1, 1, 1}, 0, 0}, QS_ERR_SHAPE, "rank 4"},
        {{"a", QS_F32, 2, {1, 0, 0}, 0, 0}, QS_ERR_SHAPE, "dimension 1 is 0"},
        {{"a", QS_F32, 2, {1, -5, 0}, 0, 0}, QS_ERR_SHAPE, "dimension 1 is -5"},
        {{"a", QS_F32, 2, {INT64_MAX, 2, 0}, 0, 0}, QS_ERR_SHAPE, "dimension"},
        {{"a", QS_W1, 1, {4, 0, 0}, 0, 0}, QS_ERR_SHAPE, "format w1"},
        {{"a", QS_T2, 2, {4, 3, 0}, 0, 0}, QS_ERR_SHAPE, "format t2"},
        {{"a", QS_C2, 3, {4, 4, 1}, 0, 0}, QS_ERR_SHAPE, "format c2"},
        {{"a", QS_C4, 2, {4, 4, 0}, 0, 0}, QS_ERR_SHAPE, "format c4"},
        {{"a", QS_C8, 2, {4, 33, 0}, 0, 0}, QS_ERR_SHAPE, "format c8"},
        {{"a", QS_F32, 1, {1, 0, 0}, 2, 0}, QS_ERR_ARG, "file 2"},
        {{"a", QS_F32, 1, {1, 0, 0}, 0, -1}, QS_ERR_ARG, "slab -1"},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        expect(qs_checkpoint_write(NULL, folder, &cases[k].t, 1, fetch, &s, manifest_fields), cases[k].status,
               cases[k].text);
    static const qs_saved_tensor twice[] = {{"a", QS_F32, 1, {1, 0, 0}, 0, 0}, {"a", QS_F32, 1, {1, 0, 0}, 1, 0}};
    expect(qs_checkpoint_write(NULL, folder, twice, 2, fetch, &s, manifest_fields), QS_ERR_ARG,
           "two tensors are called 'a'");
    static const qs_saved_tensor order[] = {{"a", QS_F32, 1, {1, 0, 0}, 0, 1}, {"b", QS_F32, 1, {1, 0, 0}, 0, 0}};
    expect(qs_checkpoint_write(NULL, folder, order, 2, fetch, &s, manifest_fields), QS_ERR_ARG, "out of order");
    static const struct { const char *manifest, *text; } manifests[] = {
        {NULL, "needs a manifest"}, {"{", "manifest, line"}, {"[]", "manifest object"}, {"{}", "config"},
        {"{\"step\":1,\"config\":{},\"kind\":\"half\"}", "kind"},
        {"{\"step\":1,\"config\":{},\"kind\":\"delta\"}", "a delta has a base"},
        {"{\"step\":1,\"config\":{},\"format_version\":2}", "format_version"},
        {"{\"step\":1,\"config\":{},\"files\":{}}", "added by the writer"},
        {"{\"step\":-1,\"config\":{}}", "step"},
        {"{\"step\":1,\"config\":{\"manifest_xxh3_128\":\"00000000000000000000000000000000\"}}", "manifest_xxh3_128"},
    };
    for (size_t k = 0; k < sizeof manifests / sizeof *manifests; k++)
        expect(qs_checkpoint_write(NULL, folder, tensors, TENSORS, fetch, &s, manifests[k].manifest), QS_ERR_ARG,
               manifests[k].text);
    expect(qs_checkpoint_write(NULL, folder, tensors, 0, fetch, &s, manifest_fields), QS_ERR_ARG, "0 tensors");
    assert_false(exists(folder) || exists(at("arguments.tmp")));
}

/* No failure leaves anything but the checkpoint that was there before. */
static void test_write_failures(void **state)
{
    (void)state;
    const char *folder = at("full/step-00000001");
    static uint8_t before[MAX_FILE], after[MAX_FILE];
    put(at("file"), "x", 1);
    expect(save(at("file/step-00000001"), 0), QS_ERR_CREATE, "file");
    assert_int_equal(save(folder, 0), QS_OK);
    size_t n = get(at("full/step-00000001/model.safetensors"), before);
    for (int k = 0; k < TENSORS; k++) {
        source s = {k, 1};
        assert_int_equal(qs_checkpoint_write(NULL, folder, tensors, TENSORS, fetch, &s, manifest_fields), QS_ERR_DEVICE);
    }
    struct rlimit limit, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    signal(SIGXFSZ, SIG_IGN);
    static const rlim_t sizes[] = {0, 100, 1000, 4096, 8000, 12000, 16511};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        char reason[256];
        small.rlim_cur = sizes[k];
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        qs_status status = save(folder, 1), fresh = save(at("full/step-00000002"), 1);
        snprintf(reason, sizeof reason, "%s", qs_last_error());
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        assert_int_equal(status, QS_ERR_IO);
        assert_int_equal(fresh, QS_ERR_IO);
        assert_non_null(strstr(reason, "full/step-00000002.tmp/"));
        assert_false(exists(at("full/step-00000001.tmp")) || exists(at("full/step-00000002.tmp")));
        assert_false(exists(at("full/step-00000001.old")) || exists(at("full/step-00000002")));
        assert_int_equal(check(folder), QS_OK);
    }
    assert_int_equal(get(at("full/step-00000001/model.safetensors"), after), n);
    assert_memory_equal(before, after, n);
}

static void test_replace(void **state)
{
    (void)state;
    const char *folder = at("again/step-00000001");
    qs_checkpoint *c = NULL;
    assert_int_equal(save(folder, 0), QS_OK);
    assert_int_equal(qs_checkpoint_open(NULL, folder, &c), QS_OK);
    /* leftovers of a killed save do not matter */
    assert_int_equal(mkdir(at("again/step-00000001.tmp"), 0777), 0);
    put(at("again/step-00000001.tmp/junk"), "x", 1);
    assert_int_equal(save(folder, 5), QS_OK);
    assert_int_equal(*(const uint8_t *)qs_checkpoint_data(c, 0), 0);
    qs_checkpoint_close(&c);
    assert_int_equal(qs_checkpoint_open(NULL, folder, &c), QS_OK);
    assert_int_equal(*(const uint8_t *)qs_checkpoint_data(c, 0), 5);
    qs_checkpoint_close(&c);
    assert_false(exists(at("again/step-00000001.tmp")) || exists(at("again/step-00000001.old")));
    /* cut off between the renames: the old one is found, and the next save cleans up */
    assert_int_equal(rename(folder, at("again/step-00000001.old")), 0);
    char found[PATH];
    assert_int_equal(qs_checkpoint_latest(NULL, at("again"), found, sizeof found, NULL, NULL), QS_OK);
    assert_non_null(strstr(found, "again/step-00000001.old"));
    assert_int_equal(save(folder, 6), QS_OK);
    assert_false(exists(at("again/step-00000001.old")));
    assert_int_equal(check(at("again")), QS_OK);
}

/* ---- the newest checkpoint --------------------------------------------------------------------------------------- */

typedef struct skips { int count; char text[1024]; } skips;

static void on_skip(void *user, const char *path, const char *reason)
{
    skips *s = user;
    s->count++;
    snprintf(s->text, sizeof s->text, "%s: %s", path, reason);
}

static void test_latest(void **state)
{
    (void)state;
    static uint8_t bytes[MAX_FILE];
    char found[PATH];
    skips s = {0, ""};
    assert_int_equal(mkdir(at("run"), 0777), 0);
    expect(qs_checkpoint_latest(NULL, at("run"), found, sizeof found, on_skip, &s), QS_ERR_NOINPUT, "holds no checkpoint");
    expect(qs_checkpoint_latest(NULL, at("walk"), found, sizeof found, on_skip, &s), QS_ERR_NOINPUT, "no such folder");
    static const char *const ignored[] = {"run/step-1", "run/step-00000099x", "run/step-00000099.tmp", "run/other"};
    for (int k = 0; k < 4; k++)
        assert_int_equal(save(at(ignored[k]), 0), QS_OK);
    assert_int_equal(save(at("run/step-00000002"), 0), QS_OK);
    assert_int_equal(save(at("run/step-00000010"), 0), QS_OK);
    assert_int_equal(save(at("run/step-100000000"), 0), QS_OK);
    assert_int_equal(mkdir(at("run/step-00000011"), 0777), 0);
    put(at("run/step-00000012"), "x", 1);
    assert_int_equal(qs_checkpoint_latest(NULL, at("run"), found, sizeof found, on_skip, &s), QS_OK);
    assert_string_equal(found, at("run/step-100000000"));
    assert_int_equal(s.count, 0);
    size_t n = get(at("run/step-100000000/model.safetensors"), bytes);
    bytes[n - 1] ^= 1;
    put(at("run/step-100000000/model.safetensors"), bytes, n);
    assert_int_equal(qs_checkpoint_latest(NULL, at("run"), found, sizeof found, on_skip, &s), QS_OK);
    assert_string_equal(found, at("run/step-00000010"));
    assert_int_equal(s.count, 3);
    put(at("run/step-00000010/manifest.json"), "{}", 2);
    s.count = 0;
    assert_int_equal(qs_checkpoint_latest(NULL, at("run"), found, sizeof found, on_skip, &s), QS_OK);
    assert_string_equal(found, at("run/step-00000002"));
    assert_int_equal(s.count, 4);
    assert_non_null(strstr(s.text, "format_version"));
    expect(qs_checkpoint_latest(NULL, at("run"), found, 10, NULL, NULL), QS_ERR_ARG, "room is for 10");
    qs_checkpoint *c = NULL;
    assert_int_equal(qs_checkpoint_open(NULL, at("run"), &c), QS_OK);
    assert_string_equal(qs_checkpoint_path(c), at("run/step-00000002"));
    qs_checkpoint_close(&c);
    assert_int_equal(remove(at("run/step-00000002/manifest.json")), 0);
    expect(qs_checkpoint_latest(NULL, at("run"), found, sizeof found, NULL, NULL), QS_ERR_NOINPUT, "is whole");
}

/* ---- rows on top of another checkpoint ---------------------------------------------------------------------------- */

#define BASE "0123456789abcdef0123456789abcdef"
static const qs_saved_tensor rows[] = {
    {"model.embed_tokens.weight", QS_F32, 2, {5, 32, 0}, 0, 0},                          /* whole, without a range */
    {"model.layers.0.self_attn.q_proj.weight", QS_W1, 2, {10, 1, 0}, 0, 1},
    {"model.layers.0.self_attn.q_proj.weight_scale", QS_F16, 1, {10, 0, 0}, 0, 1},
    {"model.norm.weight", QS_F32, 1, {32, 0, 0}, 0, 3},                                  /* whole, with a range */
    {"model.layers.0.self_attn.q_proj.weight_state", QS_C4, 3, {10, 4, 1}, 1, 1},
};
static const char ranges[] = "{\"tensor\": \"model.layers.0.self_attn.q_proj.weight_scale\", \"first_row\": 20, \"rows\": 10},"
                             "{\"tensor\": \"model.layers.0.self_attn.q_proj.weight\", \"first_row\": 20, \"rows\": 10},"
                             "{\"tensor\": \"model.layers.0.self_attn.q_proj.weight_state\", \"first_row\": 0, \"rows\": 10},"
                             "{\"tensor\": \"model.norm.weight\", \"first_row\": 0, \"rows\": 32}";

static qs_status save_delta(const char *folder, const char *base, const char *list)
{
    char text[2048];
    source s = {-1, 0};
    snprintf(text, sizeof text, "{\"step\": 4, \"config\": {\"layers\": 2}, \"kind\": \"delta\", \"base\": \"%s\", \"ranges\": [%s]}",
             base, list);
    return qs_checkpoint_write(NULL, folder, rows, sizeof rows / sizeof *rows, fetch, &s, text);
}

static qs_status check_delta(const char *path)
{
    qs_checkpoint *c = NULL;
    qs_status status = qsi_checkpoint_open_delta(NULL, path, &c);
    if (status == QS_OK)
        status = qs_checkpoint_verify(c);
    qs_checkpoint_close(&c);
    return status;
}

static void test_delta(void **state)
{
    (void)state;
    qs_checkpoint *c = NULL;
    qs_tensor_info info;
    assert_int_equal(save_delta(at("delta"), BASE, ranges), QS_OK);
    expect(check(at("delta")), QS_ERR_UNSUPPORTED, "a delta checkpoint");
    assert_non_null(strstr(qs_last_error(), BASE));
    assert_int_equal(check_delta(at("delta")), QS_OK);
    assert_int_equal(qsi_checkpoint_open_delta(NULL, at("delta"), &c), QS_OK);
    assert_int_equal(qs_checkpoint_count(c), sizeof rows / sizeof *rows);
    assert_int_equal(qs_checkpoint_tensor(c, qs_checkpoint_find(c, rows[1].name), &info), QS_OK);
    assert_true(info.rows == 10 && info.cols == 32 && info.format == QS_W1);
    qs_checkpoint_close(&c);
    assert_int_equal(qs_checkpoint_open(NULL, at("delta/model.safetensors"), &c), QS_OK);
    expect(qs_checkpoint_check_model(c), QS_ERR_FORMAT, "rows of a delta");
    qs_checkpoint_close(&c);
    assert_int_equal(save(at("full"), 0), QS_OK);
    assert_int_equal(check_delta(at("full")), QS_OK);
    assert_int_equal(save_delta(at("whole"), BASE, ""), QS_OK);   /* no ranges: all tensors are whole */
    assert_int_equal(check_delta(at("whole")), QS_OK);
}

static void test_delta_arguments(void **state)
{
    (void)state;
    static const struct { const char *base, *list, *text; } cases[] = {
        {"0123", ranges, "a delta has a base"},
        {"0123456789ABCDEF0123456789ABCDEF", ranges, "a delta has a base"},
        {BASE, "1", "range 0 has no tensor"},
        {BASE, "{\"tensor\": \"model.norm.weight\", \"first_row\": 0}", "range 0 has no tensor"},
        {BASE, "{\"tensor\": \"model.norm.weight\", \"first_row\": -1, \"rows\": 32}", "range 0 has no tensor"},
        {BASE, "{\"tensor\": \"model.norm.weight\", \"first_row\": 0, \"rows\": 0}", "range 0 has no tensor"},
        {BASE, "{\"tensor\": \"model.norm.weight\", \"first_row\": 9223372036854775800, \"rows\": 32}", "range 0 has no tensor"},
        {BASE, "{\"tensor\": \"model.norm.weight\", \"first_row\": 0, \"rows\": 31}", "has 32 rows, its range 31"},
        {BASE, "{\"tensor\": \"model.norm.bias\", \"first_row\": 0, \"rows\": 32}", "1 of 1 ranges"},
        {BASE, "{\"tensor\": \"model.norm.weight\", \"first_row\": 0, \"rows\": 32},"
               "{\"tensor\": \"model.norm.weight\", \"first_row\": 32, \"rows\": 32}", "two ranges of tensor 'model.norm.weight'"},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        expect(save_delta(at("bad"), cases[k].base, cases[k].list), QS_ERR_ARG, cases[k].text);
    assert_false(exists(at("bad")) || exists(at("bad.tmp")));
}

static void test_delta_hostile(void **state)
{
    (void)state;
    static const struct { const char *from, *to; qs_status status; const char *text; } cases[] = {
        {"\"base\": \"0123", "\"base\": \"012", QS_ERR_FORMAT, "a delta has a base"},
        {"\"base\":", "\"bass\":", QS_ERR_FORMAT, "a delta has a base"},
        {"\"ranges\": [", "\"ranges\": 3, \"r\": [", QS_ERR_FORMAT, "a delta has a base"},
        {"\"rows\": 32", "\"rows\": 33", QS_ERR_FORMAT, "has 32 rows, its range 33"},
        {"\"rows\": 32", "\"rows\": 9223372036854775807", QS_ERR_FORMAT, "its range 9223372036854775807"},
        {"\"rows\": 32", "\"rows\": \"32\"", QS_ERR_FORMAT, "range 3 has no tensor"},
        {"\"tensor\": \"model.norm.weight\"", "\"tensor\": \"pad.0\"", QS_ERR_FORMAT, "which is not there"},
        {"\"tensor\": \"model.norm.weight\"", "\"tensor\": \"model.layers.0.self_attn.q_proj.weight\"", QS_ERR_FORMAT, "two ranges"},
    };
    static char original[MAX_FILE];
    assert_int_equal(save_delta(at("trick"), BASE, ranges), QS_OK);
    const char *path = at("trick/manifest.json");
    original[get(path, (uint8_t *)original)] = '\0';
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        edit_manifest(path, original, cases[k].from, cases[k].to);
        expect(check_delta(at("trick")), cases[k].status, cases[k].text);
        assert_int_not_equal(check(at("trick")), QS_OK);
    }
}

/* The run of a model that is trained in place. */
static void test_delta_latest(void **state)
{
    (void)state;
    static uint8_t bytes[MAX_FILE];
    char found[PATH];
    skips s = {0, ""};
    assert_int_equal(mkdir(at("inplace"), 0777), 0);
    assert_int_equal(save_delta(at("inplace/step-00000003"), BASE, ranges), QS_OK);
    assert_int_equal(save_delta(at("inplace/step-00000004"), BASE, ranges), QS_OK);
    assert_int_equal(qs_checkpoint_latest(NULL, at("inplace"), found, sizeof found, on_skip, &s), QS_OK);
    assert_string_equal(found, at("inplace/step-00000004"));
    expect(check(at("inplace")), QS_ERR_UNSUPPORTED, "step-00000004 is a delta");
    const size_t n = get(at("inplace/step-00000004/model.safetensors"), bytes);
    bytes[n - 1] ^= 1;
    put(at("inplace/step-00000004/model.safetensors"), bytes, n);
    assert_int_equal(qs_checkpoint_latest(NULL, at("inplace"), found, sizeof found, on_skip, &s), QS_OK);
    assert_string_equal(found, at("inplace/step-00000003"));
    assert_int_equal(s.count, 1);
}

static void log_line(void *user, qs_log_level level, const char *text)
{
    on_skip(user, level == QS_LOG_WARNING ? "warning" : "other", text);
}

/* With a context memory is booked and given back, and skipped checkpoints are logged. */
static void test_context(void **state)
{
    (void)state;
    skips s = {0, ""};
    qs_context *context = NULL;
    qs_options options;
    qs_checkpoint *c = NULL;
    qs_memory_usage usage;
    qs_options_default(&options);
    options.threads = 1;
    options.log = log_line;
    options.log_user = &s;
    assert_int_equal(qs_open(&context, &options), QS_OK);
    source src = {-1, 0};
    assert_int_equal(qs_checkpoint_write(context, at("booked/step-00000001"), tensors, TENSORS, fetch, &src,
                                         manifest_fields), QS_OK);
    assert_int_equal(mkdir(at("booked/step-00000002"), 0777), 0);
    assert_int_equal(qs_checkpoint_open(context, at("booked"), &c), QS_OK);
    assert_int_equal(s.count, 1);
    assert_non_null(strstr(s.text, "warning: skipped"));
    qs_memory(context, QS_MEMORY_IO, &usage);
    assert_true(usage.current_bytes > 0);
    qs_checkpoint_close(&c);
    qs_memory(context, QS_MEMORY_TAGS, &usage);
    assert_int_equal(usage.current_bytes, 0);
    qs_close(&context);
}

/* ---- random damage ----------------------------------------------------------------------------------------------- */

static uint64_t random_state = 1;

static uint32_t draw(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % below;
}

/* Touches everything the reader offers. */
static uint64_t walk(const qs_checkpoint *c)
{
    uint64_t sum = 0;
    qs_tensor_info info;
    for (int64_t k = 0; k < qs_checkpoint_count(c); k++) {
        assert_int_equal(qs_checkpoint_tensor(c, k, &info), QS_OK);
        const uint8_t *data = qs_checkpoint_data(c, k);
        assert_int_equal(qs_checkpoint_find(c, info.name), k);
        if (info.bytes > 0)
            sum += (uint64_t)data[0] + data[info.bytes - 1] + (uint64_t)info.rows + (uint64_t)info.cols;
        if (info.format >= 0 && info.bytes > 0)
            assert_int_equal(info.rows * qs_row_bytes((qs_format)info.format, info.cols), info.bytes);
    }
    return sum + (uint64_t)qs_checkpoint_native(c) + (qs_checkpoint_config(c) != NULL);
}

/* One to four edits within the first n bytes; most keep JSON readable. */
static void mutate(uint8_t *bytes, size_t n)
{
    static const char pieces[] = "0123456789\"{}[]:,-.eIFU8x\\ ";
    for (uint32_t edits = 1 + draw(4); edits > 0; edits--) {
        size_t k = draw((uint32_t)n);
        switch (draw(4)) {
        case 0: bytes[k] = (uint8_t)draw(256); break;
        case 1: bytes[k] = (uint8_t)pieces[draw(sizeof pieces - 1)]; break;
        case 2: bytes[k] ^= (uint8_t)(1u << draw(8)); break;
        default:
            for (size_t tries = 0; tries < 200 && (bytes[k] < '0' || bytes[k] > '9'); tries++)
                k = draw((uint32_t)n);
            bytes[k] = (uint8_t)('0' + draw(10));
        }
    }
}

static void test_fuzz_header(void **state)
{
    (void)state;
    static uint8_t original[MAX_FILE], bytes[MAX_FILE];
    static const char *const files[] = {"fuzz/model.safetensors", "fuzz/state.safetensors"};
    int opened = 0;
    assert_int_equal(save(at("fuzz"), 0), QS_OK);
    for (int k = 0; k < 4000; k++) {
        size_t n = get(at(files[k % 2]), original), used = 4096;
        while (original[used - 1] == ' ')
            used--;
        memcpy(bytes, original, n);
        mutate(bytes + (draw(8) == 0 ? 0 : 8), used - 8);
        put(at("fuzz.safetensors"), bytes, draw(16) == 0 ? draw((uint32_t)n) : n);
        qs_checkpoint *c = NULL;
        if (qs_checkpoint_open(NULL, at("fuzz.safetensors"), &c) == QS_OK) {
            opened++;
            walk(c);
        }
        qs_checkpoint_close(&c);
    }
    assert_true(opened > 20);
}

/* Manifests with a fitting checksum, so that everything behind it is reached. */
static void test_fuzz_manifest(void **state)
{
    (void)state;
    static uint8_t original[MAX_FILE], bytes[MAX_FILE];
    assert_int_equal(save(at("fuzzed"), 0), QS_OK);
    const char *path = at("fuzzed/manifest.json");
    size_t n = get(path, original);
    for (int k = 0; k < 3000; k++) {
        memcpy(bytes, original, n + 1);
        mutate(bytes, n);
        bytes[n] = '\0';
        if (strlen((char *)bytes) == n)
            edit_manifest(path, (char *)bytes, "", "");
        else
            put(path, bytes, n);
        qs_checkpoint *c = NULL;
        if (qs_checkpoint_open(NULL, at("fuzzed"), &c) == QS_OK) {
            walk(c);
            (void)!qs_checkpoint_verify(c);
        }
        qs_checkpoint_close(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_slabs),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_golden_words),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_flipped),
        cmocka_unit_test(test_missing),
        cmocka_unit_test(test_hostile_manifest),
        cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_hostile_header),
        cmocka_unit_test(test_header_length),
        cmocka_unit_test(test_single_file),
        cmocka_unit_test(test_write_arguments),
        cmocka_unit_test(test_write_failures),
        cmocka_unit_test(test_replace),
        cmocka_unit_test(test_latest),
        cmocka_unit_test(test_delta),
        cmocka_unit_test(test_delta_arguments),
        cmocka_unit_test(test_delta_hostile),
        cmocka_unit_test(test_delta_latest),
        cmocka_unit_test(test_context),
        cmocka_unit_test(test_fuzz_header),
        cmocka_unit_test(test_fuzz_manifest),
    };
    return cmocka_run_group_tests(tests, make_root, drop_root);
}
