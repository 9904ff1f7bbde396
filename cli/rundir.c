/* rundir.c - see rundir.h. */
#include "rundir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char CHECKPOINT_PREFIX[] = "step-";
enum { MAX_LISTED = 4096, DIGITS_LEAST = 8, DIGITS_MOST = 18 };

static int join(char out[PATH_MAX], const char *folder, const char *name)
{
    const int n = snprintf(out, PATH_MAX, "%s/%s", folder, name);
    return n > 0 && n < PATH_MAX ? 0 : -1;
}

int run_folder_init(run_folder *run, const char *path)
{
    memset(run, 0, sizeof *run);
    run->path = path;
    run->lock = -1;
    if (path[0] == '\0')
        return fail_usage("train", "--out is empty; give the path of a run folder");
    if (strlen(path) > PATH_MAX - 64 || join(run->config, path, "config.json") != 0 ||
        join(run->metrics, path, "metrics.jsonl") != 0 || join(run->result, path, "result.json") != 0 ||
        join(run->best, path, "best") != 0)
        return fail_usage("train", "--out is longer than %d bytes; choose a shorter path", PATH_MAX - 64);
    return 0;
}

/* The step of a checkpoint's folder name, -1 if it is none. suffix: what follows the digits. */
static int64_t step_of(const char *name, const char **suffix)
{
    const size_t prefix = sizeof CHECKPOINT_PREFIX - 1;
    if (strncmp(name, CHECKPOINT_PREFIX, prefix) != 0)
        return -1;
    const size_t digits = strspn(name + prefix, "0123456789");
    if (digits < DIGITS_LEAST || digits > DIGITS_MOST)
        return -1;
    *suffix = name + prefix + digits;
    return strtoll(name + prefix, NULL, 10);
}

/* Steps of the checkpoints in the folder with this suffix ("" for whole ones), unsorted; at most MAX_LISTED. */
static int list_steps(const run_folder *run, const char *suffix, int64_t *steps)
{
    int count = 0;
    DIR *folder = opendir(run->path);
    if (folder == NULL)
        return 0;
    for (const struct dirent *entry; count < MAX_LISTED && (entry = readdir(folder)) != NULL;) {
        const char *rest = "";
        const int64_t step = step_of(entry->d_name, &rest);
        if (step >= 0 && strcmp(rest, suffix) == 0)
            steps[count++] = step;
    }
    (void)closedir(folder);
    return count;
}

bool run_folder_begun(const run_folder *run)
{
    int64_t steps[MAX_LISTED];
    return list_steps(run, "", steps) > 0 || list_steps(run, ".old", steps) > 0;
}

int run_folder_check(run_folder *run, bool resume)
{
    struct stat st;
    run->resume = resume;
    if (stat(run->path, &st) != 0) {
        if (errno == ENOENT)
            return 0;
        return fail_with(EXIT_CREATE, "train", "cannot use --out %s (%s); choose another folder", run->path,
                         strerror(errno));
    }
    if (!S_ISDIR(st.st_mode))
        return fail_with(EXIT_CREATE, "train", "--out %s is not a folder; choose another name", run->path);
    json_t *config = NULL;
    const int code = run_folder_read_config(run, &config);
    json_decref(config);
    if (code != 0)
        return code;
    if (!resume && run_folder_begun(run))
        return fail_with(EXIT_CREATE, "train",
                         "%s already holds checkpoints; continue them with --resume or choose another --out", run->path);
    return 0;
}

/* mkdir with parents. */
static int make_folder(const char *path, bool *created)
{
    char part[PATH_MAX];
    (void)snprintf(part, sizeof part, "%s", path);
    for (char *slash = strchr(part + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return -1;
        *slash = '/';
    }
    *created = mkdir(path, 0777) == 0;
    return *created || errno == EEXIST ? 0 : -1;
}

/* A checkpoint is a flat folder; anything else in it stays, and with it the folder. */
static int remove_checkpoint(const char *path)
{
    char file[PATH_MAX];
    DIR *folder = opendir(path);
    if (folder == NULL)
        return -1;
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && join(file, path, entry->d_name) == 0)
            (void)unlink(file);
    (void)closedir(folder);
    return rmdir(path);
}

static void checkpoint_path(const run_folder *run, int64_t step, const char *suffix, char out[PATH_MAX])
{
    (void)snprintf(out, PATH_MAX, "%s/%s%08lld%s", run->path, CHECKPOINT_PREFIX, (long long)step, suffix);
}

void run_folder_checkpoint(const run_folder *run, int64_t step, char out[PATH_MAX])
{
    checkpoint_path(run, step, "", out);
}

int run_folder_create(run_folder *run)
{
    int64_t steps[MAX_LISTED];
    char path[PATH_MAX];
    if (make_folder(run->path, &run->created) != 0)
        return fail_with(EXIT_CREATE, "train", "cannot make the folder %s (%s); choose another --out", run->path,
                         strerror(errno));
    run->lock = open(run->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (run->lock < 0)
        return fail_with(EXIT_CREATE, "train", "cannot open the folder %s (%s); choose another --out", run->path,
                         strerror(errno));
    const bool locked = flock(run->lock, LOCK_EX | LOCK_NB) == 0;
    if (!locked && errno != EWOULDBLOCK)
        warn("train", "cannot lock %s (%s); see to it that no other process trains there", run->path, strerror(errno));
    else if (!locked)
        return fail_with(EXIT_CREATE, "train", "another process is training in %s; wait for it or choose another --out",
                         run->path);
    if (access(run->path, W_OK | X_OK) != 0)
        return fail_with(EXIT_CREATE, "train", "cannot write to %s (%s); choose another --out", run->path, strerror(errno));
    const int code = run_folder_check(run, run->resume);
    if (code != 0)
        return code;
    for (int i = list_steps(run, ".tmp", steps) - 1; i >= 0; i--) {
        checkpoint_path(run, steps[i], ".tmp", path);
        (void)remove_checkpoint(path);
    }
    return 0;
}

void run_folder_close(run_folder *run)
{
    if (run->lock >= 0)
        (void)close(run->lock);
    run->lock = -1;
    if (run->created)
        (void)rmdir(run->path);  /* succeeds only while it is empty */
}

int run_folder_read_config(const run_folder *run, json_t **out)
{
    struct stat st;
    json_error_t error;
    *out = NULL;
    if (stat(run->config, &st) != 0 && errno == ENOENT)
        return 0;
    json_t *config = json_load_file(run->config, 0, &error);
    if (json_is_object(json_object_get(config, "options")) && json_object_get(config, "qsbits") != NULL) {
        *out = config;
        return 0;
    }
    if (config == NULL)
        return fail_with(EXIT_CREATE, "train", "%s is damaged (line %d: %s); restore it or choose another --out", run->config,
                         error.line, error.text);
    json_decref(config);
    return fail_with(EXIT_CREATE, "train", "%s is not from qsbits train; choose another --out", run->config);
}

/* Flushed to the disk before it takes its name. */
static int write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    if (file == NULL)
        return -1;
    const bool written = fputs(text, file) >= 0 && fputc('\n', file) != EOF && fflush(file) == 0 && fsync(fileno(file)) == 0;
    return fclose(file) == 0 && written ? 0 : -1;
}

int run_folder_write(const run_folder *run, const char *path, json_t *value)
{
    char temporary[PATH_MAX];
    int code = 0;
    char *text = json_dumps(value, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    json_decref(value);
    if (text == NULL || join(temporary, run->path, "json.tmp") != 0)
        code = fail_with(EXIT_INTERNAL, "train", "cannot format %s; report this", path);
    else if (write_file(temporary, text) != 0 || rename(temporary, path) != 0) {
        code = fail_with(EXIT_IO, "train", "cannot write %s (%s); check the disk and its free space", path, strerror(errno));
        (void)unlink(temporary);
    }
    free(text);
    return code;
}

/* The step that RUN/best names, -1 if there is no such link. */
static int64_t best_step(const run_folder *run)
{
    char name[64];
    const char *suffix = "";
    const ssize_t n = readlink(run->best, name, sizeof name - 1);
    if (n <= 0)
        return -1;
    name[n] = '\0';
    const int64_t step = step_of(name, &suffix);
    return suffix[0] == '\0' ? step : -1;
}

int run_folder_name_best(const run_folder *run, int64_t step)
{
    char temporary[PATH_MAX], path[PATH_MAX];
    checkpoint_path(run, step, "", path);
    if (join(temporary, run->path, "best.tmp") != 0)
        return fail_with(EXIT_INTERNAL, "train", "cannot name the best checkpoint; report this");
    (void)unlink(temporary);
    if (symlink(strrchr(path, '/') + 1, temporary) != 0 || rename(temporary, run->best) != 0)
        return fail_with(EXIT_CREATE, "train", "cannot make the link %s (%s); leave --keep-best away", run->best,
                         strerror(errno));
    return 0;
}

static int by_falling_step(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

void run_folder_prune(const run_folder *run, int64_t step, int64_t keep)
{
    int64_t steps[MAX_LISTED];
    char path[PATH_MAX];
    const int64_t best = best_step(run);
    const int count = list_steps(run, "", steps);
    qsort(steps, (size_t)count, sizeof *steps, by_falling_step);
    int64_t kept = 0;
    for (int i = 0; i < count; i++) {
        if (steps[i] > step || kept++ < keep || steps[i] == best)
            continue;
        checkpoint_path(run, steps[i], "", path);
        if (remove_checkpoint(path) != 0)
            warn("train", "cannot remove the old checkpoint %s (%s)", path, strerror(errno));
    }
}
