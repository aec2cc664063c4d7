/*
 * What lies beside an encoder's weights and says how its vectors are to be used: sentence-transformers' modules.json, 1_Pooling/config.json and
 * sentence_bert_config.json, and the names of a classifier's labels in config.json; a GGUF file says pooling and labels itself, where no file beside it does. The parsers are pure;
 * encoder_settings_load reads the files.
 */
#ifndef GENLOOP_ENGINE_ENCODER_SETTINGS_H
#define GENLOOP_ENGINE_ENCODER_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/span.h"
#include "model/model_dir.h"

/* How the vectors of a text's tokens become one. */
enum encoder_pooling { ENCODER_MEAN, ENCODER_CLS, ENCODER_LAST };
/* "mean", "cls" or "last"; E_INVALID. */
int encoder_pooling_parse(struct span name, enum encoder_pooling *pooling);

enum { ENCODER_FOLDER_MAX = 64, ENCODER_SETTINGS_FILE_MAX = 4 << 20 /* 65,536 labels of 64 bytes */ };

struct encoder_settings {
    enum encoder_pooling pooling; /* ENCODER_MEAN where no file says */
    uint32_t tokens_max;          /* of one text; 0: no file says */
    char **labels;                /* owned, [label_count]; NULL: no file names them, and they are LABEL_0, … */
    uint32_t label_count;
    bool multi_label;             /* several labels may hold at once: each has a probability of its own */
};
/* Of the model directory or GGUF file at PATH, which has been loaded as m. E_INVALID, E_UNSUPPORTED: a module or a kind of pooling that is not built. */
int encoder_settings_load(struct encoder_settings *s, const char *path, const struct model_dir *m, struct error *err);
/* Into m, for a GGUF file of it. E_UNSUPPORTED: what a file cannot say; E_NOMEM. */
int encoder_settings_tell(const struct encoder_settings *s, struct model_dir *m, struct error *err);
/* What m, which is a GGUF file, says, as the files that DIR lacks: modules.json with 1_Pooling/config.json, and config.json with the labels' names. */
int encoder_settings_write(const char *dir, const struct model_dir *m, struct error *err);
void encoder_settings_fini(struct encoder_settings *s); /* safe on a zeroed struct and twice */

/* modules.json: the folder of the Pooling module; empty where there is none. */
int encoder_parse_modules(struct span text, char folder[ENCODER_FOLDER_MAX], struct error *err);
int encoder_parse_pooling(struct span text, enum encoder_pooling *pooling, struct error *err);
/* sentence_bert_config.json: max_seq_length. */
int encoder_parse_sentence(struct span text, uint32_t *tokens_max, struct error *err);
/* id2label and problem_type of config.json, into s. */
int encoder_parse_labels(struct span text, uint32_t label_count, struct encoder_settings *s, struct error *err);

#endif
