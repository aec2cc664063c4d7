/*
 * POST /v1/tokenize and /v1/detokenize, as vLLM has them: JSON as the messages that a replica takes, and its replies as JSON. Pure.
 *     {"model", "prompt" | "messages", "add_special_tokens", "add_generation_prompt", "return_token_strs"} → {"count", "max_model_len", "tokens", "token_strs"}
 *     {"model", "tokens"} → {"prompt"}
 */
#ifndef GATEWAY_TOKENIZE_REQUEST_H
#define GATEWAY_TOKENIZE_REQUEST_H

#include "base/buf.h"
#include "generate_request.h"

enum { DETOKENIZE_TOKENS_MAX = 1 << 17 }; /* what a replica takes */

struct tokenize_request {
    struct generate_request base; /* first: the rows that chat has too are read into it */
    Genloop__V1__TokenizeRequest message;
    bool has_prompt, has_special, special, has_generation, generation, strings;
};
struct detokenize_request {
    struct generate_request base;
    Genloop__V1__DetokenizeRequest message;
    bool has_tokens;
};
/* arena: of REQUEST_ARENA_MAX; the message borrows from it. E_INVALID names the parameter, E_UNSUPPORTED what is right but not built. */
int tokenize_request_read(struct tokenize_request *r, struct arena *arena, const struct json *body, struct error *err);
int detokenize_request_read(struct detokenize_request *r, struct arena *arena, const struct json *body, struct error *err);

void tokenize_answer(struct buf *out, const Genloop__V1__TokenizeReply *reply, bool strings);
void detokenize_answer(struct buf *out, const Genloop__V1__DetokenizeReply *reply);

#endif
