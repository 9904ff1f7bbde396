/* settings.h - from options to a model and a training, and to config.json and back. */
#ifndef QSBITS_CLI_SETTINGS_H
#define QSBITS_CLI_SETTINGS_H

#include "common.h"

/* Shape of --preset with the options that override it; not resolved. 0 or an exit code after a message. */
int settings_model(const options *o, qs_model_config *config);

/* The presets and what they hold, for help pages. */
void settings_list_presets(FILE *out);

/* Training options; automatic fields are left automatic. */
void settings_training(const options *o, const qs_model_config *model, qs_train_options *training);

/* Takes every setting that is not given from a JSON object (borrowed; its strings are used as long as o is): either the "options"
 * of a config.json, or the object itself. Values are texts, numbers or true and false. Settings of other commands are passed
 * over; a name that no option has is refused. path: for messages. 0 or an exit code after a message. */
int settings_merge(options *o, json_t *config, const char *path);

/* Reads a JSON file and merges it. *out (the caller's, also after an error) owns strings of o. */
int settings_read(options *o, const char *path, json_t **out);

/* The model that "model" of config.json, or of a checkpoint's config, describes; resolved. False where it describes none. */
bool settings_model_from_json(const json_t *model, qs_model_config *config);

/* A model as "model" of config.json (new reference). */
json_t *settings_model_json(const qs_model_config *config);

/* Refuses (64, after a message) options that would decide nothing: --rank without lora, those of parts without parts. */
int settings_check_use(const options *o);

/* The settings of a command as texts by name (new reference). data: absolute path or pattern of the text. */
json_t *settings_options(const options *o, const char *data);

/* The object of config.json: what was asked for and what it was resolved to. data: absolute path of the text. */
json_t *settings_config(const options *o, const char *data, const qs_text_info *text, const qs_model_config *model,
                        const qs_train_options *training);

#endif
