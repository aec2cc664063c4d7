/*
 * Responses that are kept: POST /v1/responses with `store` (the default) leaves one in the cache's Redis, for GET, DELETE, its input items and previous_response_id, as long as gateway.responses_ttl says
 * and Redis' memory lasts. It lies under a keyed hash of tenant and id and is sealed with a key of the same hash, as answers are (lib/cache/answers.h): who reads Redis learns nothing, and a tenant finds
 * only what is his. Of a conversation that names its subject it is sealed with the subject's key as well (response_seal.h), so that whoever erases that erases this. What is kept is the response and all items of its conversation, so that one look is enough however long a conversation is; gateway.responses_max bounds it.
 *
 * On the loop's thread.
 */
#ifndef GATEWAY_RESPONSES_H
#define GATEWAY_RESPONSES_H

#include "cache/link.h"
#include "exchange.h"
#include "response_answer.h"
#include "response_request.h"
#include "response_seal.h"

/* What a generation (generate.c) has more where it is a response. */
struct response {
    struct response_request request;
    struct response_answer answer;
    struct response_subjects subjects; /* whom this request and those before it name */
    struct keep *sealing;      /* on a worker */
    struct link_call *keeping; /* Redis is asked to keep it */
    void *arg;
    void (*on_kept)(void *arg);
};
/* NULL: no memory. */
struct response *response_new(struct exchange *x);
void response_free(struct response *p); /* NULL is accepted; what Redis was asked goes on without us */
/* Whom it is about: user, of the request, "" where it names nobody, and those of the response before (as generate_response has it). Where it cannot be kept so it is not kept. */
void response_name_subjects(struct response *p, const struct exchange *x, const char *user, const struct json *context);
/* Keeps the answer, which is closed. True: on_kept follows, and answer.stored says whether it is; false: it is known already. */
bool response_keep(struct response *p, struct exchange *x, void *arg, void (*on_kept)(void *arg));

/* generate.c. context: the items of the response before, read in the call; NULL: there is none. */
void generate_response(struct exchange *x, const struct json *body, const struct json *context);

#endif
