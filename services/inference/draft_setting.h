/* The setting inference.draft: which model guesses for which, "MODEL=DRAFT,MODEL=DRAFT". Pure. */
#ifndef INFERENCE_DRAFT_SETTING_H
#define INFERENCE_DRAFT_SETTING_H

#include <stdbool.h>

#include "base/error.h"
#include "base/span.h"

/* E_INVALID names what is no pair of model names, or stands twice. */
int draft_setting_check(struct span setting, struct error *err);
/* The draft of a model, name@version, as it is written; a pair of that very version goes before one of its name. */
bool draft_setting_find(struct span setting, struct span model, struct span *draft);

#endif
