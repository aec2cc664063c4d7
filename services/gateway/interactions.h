/*
 * What is kept of a conversation. Every answered request becomes an Interaction on its topic; what was asked and answered goes with it only as far as the configuration
 * says (gateway.capture): none: nothing; hashed: a keyed hash of the prompt; full: the text, sealed with the key of its subject, in the store. Sealing and storing
 * happen on workers, the event is published after them; an answer never waits for either. At most INTERACTIONS_WAITING_MAX wait: beyond it the text is left
 * out (and counted), the event goes all the same.
 */
#ifndef GATEWAY_INTERACTIONS_H
#define GATEWAY_INTERACTIONS_H

#include "genloop/v1/interactions.pb-c.h"
#include "gateway.h"

enum { INTERACTIONS_WAITING_MAX = 512 };

int interactions_open(struct gateway *g, struct interactions **i, struct error *err);
void interactions_close(struct interactions *i); /* what is under way ends by itself */
size_t interactions_waiting(struct interactions *i);
bool capture_from_name(const char *name, enum capture *capture);
/* facts: all fields but content, capture and prompt_sha256; copied. prompt: what was asked, as JSON ("messages" or "prompt" with its value); answer: the text. */
void interactions_add(struct interactions *i, const Genloop__V1__Interaction *facts, struct span prompt_json, struct span answer);

#endif
