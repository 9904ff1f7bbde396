/* training_texts.h - the texts of a run: --data with its parts, and the second text of --also, of which a run only tells how much
 * was forgotten. */
#ifndef QSBITS_CLI_TRAINING_TEXTS_H
#define QSBITS_CLI_TRAINING_TEXTS_H

#include "training.h"

/* Opens them. What could only be evaluated at the end is refused here: a test part, or a validation part of --also, without a whole
 * window. 0 or an exit code after a message. */
int training_open_texts(training *t);

/* A run that goes on goes on with the text of --also that it was begun with, as config.json (may be NULL) describes it: figures over
 * two texts do not compare. 0 or 64 after a message. */
int training_check_also(const training *t, const json_t *config);

#endif
