/* cmd_info.c - qsbits info: what this build and this machine have. */
#include <string.h>

#include "commands.h"
#include "common.h"
#include "self_test.h"

typedef struct backend_list {
    json_t *json;
    bool print;
} backend_list;

static void on_backend(void *user, const char *name, const char *reason)
{
    const backend_list *list = user;
    (void)json_array_append_new(list->json,
                                json_pack("{s:s, s:b, s:s?}", "name", name, "usable", reason == NULL, "reason", reason));
    if (list->print)
        printf("  %-10s %s%s\n", name, reason == NULL ? "usable" : "not usable: ", reason == NULL ? "" : reason);
}

static json_t *levels_json(void)
{
    json_t *levels = json_array();
    for (int i = 0; i < qs_cpu_level_count(); i++) {
        int available = 0;
        const char *name = qs_cpu_level_name(i, &available);
        (void)json_array_append_new(levels, json_pack("{s:s, s:b}", "name", name, "available", available));
    }
    return levels;
}

static void print_levels(const char *used)
{
    for (int here = 1; here >= 0; here--) {
        int count = 0;
        for (int i = 0; i < qs_cpu_level_count(); i++) {
            int available = 0;
            const char *name = qs_cpu_level_name(i, &available);
            if (available == here)
                printf("%s %s%s", count++ > 0 ? "" : here ? "levels   " : "; not on this machine:", name,
                       used[0] != '\0' && strcmp(used, name) == 0 ? " (used)" : "");
        }
    }
    printf("\n");
}

/* Tells or collects everything; *result is the JSON, filled also where a self-test fails. */
static int describe(const options *o, qs_context *context, json_t **result)
{
    const bool json = o->value[OPT_JSON].given;
    qs_device_info device;
    char memory[16];
    json_t *test = NULL;
    qs_context_device(context, &device);
    if (!json) {
        printf("version   %s\ndevice    %s: %s\n", qs_version(), device.backend, device.description);
        print_levels(device.level);
        printf("threads   %d\nmemory    %s\nbackends\n", device.threads, human_bytes((double)device.memory_bytes, memory));
    }
    backend_list list = {json_array(), !json};
    const qs_status status = qs_backend_list(NULL, on_backend, &list);
    *result = json_pack("{s:s, s:s, s:s, s:s, s:o, s:i, s:I, s:o}", "version", qs_version(), "backend", device.backend,
                        "description", device.description, "level", device.level, "levels", levels_json(), "threads",
                        device.threads, "memory_bytes", (json_int_t)device.memory_bytes, "backends", list.json);
    if (status != QS_OK)
        return fail_library(o->command->name, status, NULL);
    const int code = o->value[OPT_SELF_TEST].given ? self_test(o, context, &test) : 0;
    if (test != NULL)
        (void)json_object_set_new(*result, "self_test", test);
    return code;
}

static int run(const options *o)
{
    qs_context *context = NULL;
    json_t *result = NULL;
    int code = open_context(o, &context);
    if (code != 0)
        return code;
    code = describe(o, context, &result);
    const bool whole = code == 0 || json_object_get(result, "self_test") != NULL;
    const int output = !whole                        ? 0
                       : o->value[OPT_JSON].given ? print_json(o->command->name, json_incref(result))
                                                  : flush_output(o->command->name);
    json_decref(result);
    qs_close(&context);
    return code != 0 ? code : output;
}

static const int CODES[] = {64, 69, 70, 71, 74, 0};

const command info_command = {
    .name = "info",
    .bit = INFO,
    .required = "",
    .summary = "version, processor levels, threads, memory, backends",
    .about =
        "Tells what qsbits found on this machine: the version, the kernel levels of the processor and the one in use, the\n"
        "number of threads, the memory, and every backend with the reason where one cannot be used. Put its output into\n"
        "bug reports. --self-test also runs every operation on that level and on the scalar one and compares the results.",
    .examples = {"qsbits info", "qsbits info --self-test --cpu avx2"},
    .exit_codes = CODES,
    .run = run,
};
