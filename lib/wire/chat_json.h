/* A chat's message as OpenAI's JSON has it: what chat templates read, and what is kept of a conversation. */
#ifndef GENLOOP_WIRE_CHAT_JSON_H
#define GENLOOP_WIRE_CHAT_JSON_H

#include "base/json.h"
#include "genloop/v1/generation.pb-c.h"

/* "tool_calls":[{"id","type":"function","function":{"name","arguments"}}…], into the object that is open. */
void chat_json_calls(struct json_out *w, const Genloop__V1__ChatMessage *m);

#endif
