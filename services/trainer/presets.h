/*
 * The recipes that ship, by name: YAML like anybody's, without data and, for fine-tuning, without a base, which the request names. Sized for two cores: quickstart
 * takes a model through pre-training and one improvement in minutes.
 */
#ifndef GENLOOP_TRAINER_PRESETS_H
#define GENLOOP_TRAINER_PRESETS_H

#include "base/span.h"

struct preset {
    const char *name, *recipe;
};
extern const struct preset PRESETS[];
extern const int PRESETS_COUNT;
extern const char PRESET_NAMES[]; /* "pretrain-small, sft-small, …", for messages */
/* NULL where there is none. */
const struct preset *preset_find(struct span name);

#endif
