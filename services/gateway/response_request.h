/*
 * POST /v1/responses: the request as OpenAI defines it, read into the same GenerateRequest that chats become (generate_request.h). Its items (messages, reasoning, calls and their outputs) are turns of
 * a chat: reasoning, an assistant's message and the calls behind it are one turn of the assistant. Pure.
 *
 * What the response will be kept with is made here too: its items in the form that /v1/responses/{id}/input_items gives, so that a later request with previous_response_id begins where this one ended.
 */
#ifndef GATEWAY_RESPONSE_REQUEST_H
#define GATEWAY_RESPONSE_REQUEST_H

#include "generate_request.h"

enum {
    RESPONSE_ITEM_ID_MAX = 192,
    RESPONSE_ECHO_MAX = 1 << 20,    /* instructions, tools, text and metadata together: a stream's events repeat them three times, and no context here holds as many tokens */
    RESPONSE_METADATA_MAX = 16, RESPONSE_METADATA_KEY_MAX = 64, RESPONSE_METADATA_VALUE_MAX = 512, /* OpenAI's own */
    RESPONSE_TOOL_CALLS_MAX = 1024, /* of max_tool_calls, which bounds OpenAI's own tools; there are none here */
};

struct response_request {
    struct buf items; /* the conversation without instructions, as a JSON list; its cap is the caller's: what does not fit is in items.failed, and the response is not kept */
    bool store;
};

/* context: what was kept of the response before (responses.c: its `input`, and `output` of its `response`), or NULL. stem: what ids are made of. out->items: initialised by the caller. E_INVALID, E_UNSUPPORTED, E_TOO_LARGE name the parameter. */
int response_request_read(struct generate_request *r, struct arena *arena, const struct json *body, const struct json *context, const char *stem, struct response_request *out, struct error *err);

#endif
