/* settings.h - from options to a model and a training, and to config.json and back. */
#ifndef QSBITS_CLI_SETTINGS_H
#define QSBITS_CLI_SETTINGS_H

#include "common.h"

/* Shape of --preset with the options that override it; not resolved. 0 or an exit code after a message. */
int settings_model(const options *o, qs_model_config *config);

/* Training options; automatic fields are left automatic. */
void settings_training(const options *o, qs_train_options *training);

/* Takes every setting that is not given from the "options" of a config.json (borrowed; its strings are used as long as
 * o is). 0 or an exit code after a message. */
int settings_merge(options *o, const json_t *config);

/* The object of config.json: what was asked for and what it was resolved to. data: absolute path of the text. */
json_t *settings_config(const options *o, const char *data, const qs_text_info *text, const qs_model_config *model,
                        const qs_train_options *training);

#endif
