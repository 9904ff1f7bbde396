/* backend_load.c - finding, opening and refusing backends.
 *
 * The built-in CPU backend and plugins go through the same checks. A plugin is opened by absolute path, so no search
 * path of the system decides what code runs, and never closed: its threads and driver may not survive that. */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/objects.h"

static const char plugin_prefix[] = "libqsbits-", plugin_suffix[] = ".so";

static void *host_view_data(const qs_view *view)
{
    return view->buffer ? (char *)view->buffer->memory + view->offset : NULL;
}

static const qs_host_api host = {sizeof host, QS_BACKEND_ABI_MAJOR, QS_BACKEND_ABI_MINOR, qsi_fail_text, qsi_account_device,
                                 host_view_data};

/* ---- refusing ---------------------------------------------------------------------------------------------------- */

static const char *first_null_entry(const qs_backend *b)
{
    struct { const char *name; bool filled; } entries[] = {
        {"name", b->name}, {"open", b->open}, {"close", b->close}, {"info", b->info}, {"alloc", b->alloc}, {"free", b->free},
        {"queue_create", b->queue_create}, {"queue_free", b->queue_free}, {"write", b->write}, {"read", b->read},
        {"supports", b->supports}, {"submit", b->submit}, {"sync", b->sync}};
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        if (!entries[i].filled)
            return entries[i].name;
    return NULL;
}

/* Asks for the table and checks it; whence names the backend in texts. The ABI number is read first: it says how the
 * rest is to be read. */
static qs_status query(qs_backend_query_fn *fn, const char *whence, const qs_backend **out)
{
    qs_status status = QS_OK;
    qsi_fail_text("no reason given");
    const qs_backend *b = fn(QS_BACKEND_ABI_MAJOR, &host);
    if (!b)
        QS_FAIL(QS_ERR_DEVICE, "%s: %s", whence, qs_last_error());
    if (b->abi_major != QS_BACKEND_ABI_MAJOR)
        QS_FAIL(QS_ERR_DEVICE, "%s: made for backend ABI %u.%u, this library has %d.%d", whence, b->abi_major, b->abi_minor,
                (int)QS_BACKEND_ABI_MAJOR, (int)QS_BACKEND_ABI_MINOR);
    if (b->struct_size < sizeof *b)
        QS_FAIL(QS_ERR_DEVICE, "%s: its table has %zu bytes, ABI %d.%d needs %zu", whence, b->struct_size,
                (int)QS_BACKEND_ABI_MAJOR, (int)QS_BACKEND_ABI_MINOR, sizeof *b);
    const char *null_entry = first_null_entry(b);
    if (null_entry)
        QS_FAIL(QS_ERR_DEVICE, "%s: the entry %s of its table is empty", whence, null_entry);
    *out = b;
fail:
    return status;
}

static qs_status load(const char *path, const qs_backend **out)
{
    qs_status status = QS_OK;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        QS_FAIL(QS_ERR_DEVICE, "cannot load the backend: %s", dlerror());
    void *symbol = dlsym(library, QS_BACKEND_QUERY_SYMBOL);
    if (!symbol)
        QS_FAIL(QS_ERR_DEVICE, "%s: not a qsbits backend, it does not export %s", path, QS_BACKEND_QUERY_SYMBOL);
    qs_backend_query_fn *fn;
    memcpy(&fn, &symbol, sizeof fn);   /* ISO C has no conversion from object to function pointers */
    QS_TRY(query(fn, path, out));
fail:
    return status;
}

/* ---- finding ----------------------------------------------------------------------------------------------------- */

/* backend_dir, else $QSBITS_BACKEND_DIR, else the folder of this library (of the program when linked statically). */
static qs_status plugin_folder(const char *backend_dir, char folder[PATH_MAX])
{
    qs_status status = QS_OK;
    const char *given = backend_dir ? backend_dir : secure_getenv("QSBITS_BACKEND_DIR");
    if (given && *given) {
        if (given[0] != '/' || strlen(given) >= PATH_MAX)
            QS_FAIL(QS_ERR_ARG, "the backend folder \"%s\" is not an absolute path", given);
        strcpy(folder, given);
        return QS_OK;
    }
    Dl_info info;
    void *here;
    const char *(*self)(void) = qs_version;
    memcpy(&here, &self, sizeof here);
    if (!dladdr(here, &info) || !info.dli_fname || !realpath(info.dli_fname, folder))
        QS_FAIL(QS_ERR_DEVICE, "the folder of the library is not known; set backend_dir or QSBITS_BACKEND_DIR");
    *strrchr(folder, '/') = '\0';
fail:
    return status;
}

static bool plain_name(const char *name)
{
    return *name && strlen(name) < 64 && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == strlen(name);
}

qs_status qsi_backend_find(const char *device, const char *backend_dir, const qs_backend **out)
{
    qs_status status = QS_OK;
    char folder[PATH_MAX], path[PATH_MAX + 80];
    if (strcmp(device, "cpu") == 0)
        return query(qsi_cpu_backend_query, "cpu", out);
    if (device[0] == '/')
        return load(device, out);
    if (strchr(device, '/'))
        QS_FAIL(QS_ERR_DEVICE, "the backend \"%s\" is a relative path; give a name or an absolute path", device);
    if (!plain_name(device))
        QS_FAIL(QS_ERR_DEVICE, "\"%s\" is not the name of a backend", device);
    QS_TRY(plugin_folder(backend_dir, folder));
    snprintf(path, sizeof path, "%s/%s%s%s", folder, plugin_prefix, device, plugin_suffix);
    if (!qsi_path_exists(path))
        QS_FAIL(QS_ERR_DEVICE, "no backend \"%s\": %s does not exist", device, path);
    QS_TRY(load(path, out));
fail:
    return status;
}

/* The <name> of libqsbits-<name>.so; false for other files. */
static bool plugin_name(const char *file, char name[64])
{
    size_t prefix = sizeof plugin_prefix - 1, suffix = sizeof plugin_suffix - 1, length = strlen(file);
    if (length <= prefix + suffix || length - prefix - suffix >= 64 || strncmp(file, plugin_prefix, prefix) != 0 ||
        strcmp(file + length - suffix, plugin_suffix) != 0)
        return false;
    memcpy(name, file + prefix, length - prefix - suffix);
    name[length - prefix - suffix] = '\0';
    return plain_name(name);
}

qs_status qs_backend_list(const char *backend_dir, qs_backend_fn *fn, void *user)
{
    qs_status status = QS_OK;
    const qs_backend *backend;
    char folder[PATH_MAX], name[64], **files = NULL;
    int64_t count = 0;
    QS_TRY(plugin_folder(backend_dir, folder));
    QS_TRY(qsi_list_directory(folder, &files, &count));
    fn(user, "cpu", qsi_backend_find("cpu", NULL, &backend) == QS_OK ? NULL : qs_last_error());
    for (int64_t i = 0; i < count; i++)
        if (plugin_name(files[i], name))
            fn(user, name, qsi_backend_find(name, folder, &backend) == QS_OK ? NULL : qs_last_error());
fail:
    qsi_free_names(files, count);
    return status;
}
