/* cmd_info.c - qsbits info: what this build and this machine have. */
#include <string.h>

#include "commands.h"
#include "common.h"

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
    printf("levels   ");
    for (int i = 0; i < qs_cpu_level_count(); i++) {
        int available = 0;
        const char *name = qs_cpu_level_name(i, &available);
        printf(" %s%s%s", name, available ? "" : " (not on this machine)",
               used[0] != '\0' && strcmp(used, name) == 0 ? " (used)" : "");
    }
    printf("\n");
}

static int run(const options *o)
{
    const bool json = o->value[OPT_JSON].given;
    qs_context *context = NULL;
    qs_device_info device;
    char memory[16];
    int code = open_context(o, &context);
    if (code != 0)
        return code;
    qs_context_device(context, &device);
    if (!json) {
        printf("version   %s\ndevice    %s: %s\n", qs_version(), device.backend, device.description);
        print_levels(device.level);
        printf("threads   %d\nmemory    %s\nbackends\n", device.threads, human_bytes((double)device.memory_bytes, memory));
    }
    backend_list list = {json_array(), !json};
    const qs_status status = qs_backend_list(NULL, on_backend, &list);
    if (status != QS_OK) {
        code = fail_library(o->command->name, status, NULL);
        json_decref(list.json);
    } else if (json) {
        code = print_json(o->command->name,
                          json_pack("{s:s, s:s, s:s, s:s, s:o, s:i, s:I, s:o}", "version", qs_version(), "backend",
                                    device.backend, "description", device.description, "level", device.level, "levels",
                                    levels_json(), "threads", device.threads, "memory_bytes",
                                    (json_int_t)device.memory_bytes, "backends", list.json));
    } else {
        json_decref(list.json);
        code = flush_output(o->command->name);
    }
    qs_close(&context);
    return code;
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
        "bug reports.",
    .examples = {"qsbits info", "qsbits info --json --cpu scalar"},
    .exit_codes = CODES,
    .run = run,
};
