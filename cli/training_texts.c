/* training_texts.c - see training_texts.h. */
#include "training_texts.h"

#include <string.h>

#include "text.h"

static const char NAME[] = "train";

static int check_windows(const training *t)
{
    const int64_t test = t->text_info.test_tokens, also = t->also_info.val_tokens, least = t->model.ctx + 1;
    const int code = qs_status_exit_code(QS_ERR_SHAPE);
    if (t->o.value[OPT_TEST_FRACTION].real > 0.0 && test < least)
        return fail_with(code, NAME, "--test-fraction %g keeps %lld tokens; one window of ctx %lld needs %lld: give more text, a larger "
                         "share or a smaller --ctx", t->o.value[OPT_TEST_FRACTION].real, (long long)test, (long long)t->model.ctx,
                         (long long)least);
    if (t->also != NULL && also < least)
        return fail_with(code, NAME, "the validation part of --also %s holds %lld tokens; one window of ctx %lld needs %lld: give more "
                         "text, a larger --val-fraction or a smaller --ctx", t->also_path, (long long)also, (long long)t->model.ctx,
                         (long long)least);
    return 0;
}

int training_open_texts(training *t)
{
    int code = open_text(&t->o, OPT_DATA, t->context, &t->text, &t->data);
    if (code == 0)
        qs_text_get_info(t->text, &t->text_info);
    if (code == 0 && t->o.value[OPT_ALSO].given) {
        code = open_text(&t->o, OPT_ALSO, t->context, &t->also, &t->also_path);
        if (code != 0)
            return code;
        qs_text_get_info(t->also, &t->also_info);
        t->o.value[OPT_ALSO].text = t->also_path;  /* config.json names it from the root on, as the text of --data */
    }
    return code == 0 ? check_windows(t) : code;
}

int training_check_also(const training *t, const json_t *config)
{
    const json_t *also = json_object_get(config, "also");
    const char *hash = json_string_value(json_object_get(also, "hash"));
    if (t->also == NULL || hash == NULL || strcmp(hash, t->also_info.hash) == 0)
        return 0;
    return fail_usage(NAME, "--also %s is not the text that %s was begun with; give that one, or choose another --out", t->also_path,
                      t->folder.path);
}
