/* What chat.c and chat_prompt.c share; nobody else includes this. */
#ifndef GENLOOP_TOKENIZER_CHAT_INTERNAL_H
#define GENLOOP_TOKENIZER_CHAT_INTERNAL_H

#include "tokenizer/chat.h"

bool chat_template_says(const struct chat_template *c, const char *name); /* template_says */

#endif
