/*
 * The doors that encoders answer, as pure functions: JSON (or a gRPC message) as the EncodeRequest that a replica takes, and its reply in the door's own shape.
 *     /v1/embeddings   OpenAI's: input (text, texts, ids, lists of ids), encoding_format, dimensions
 *     /v1/rerank       Jina's and Cohere's, as vLLM has it: query, documents, top_n, return_documents
 *     /v1/score        vLLM's: text_1, text_2: one with each of several, or pair by pair
 *     /v1/classify     vLLM's: input
 *     /v1/moderations  OpenAI's, by a classifier whose labels are the categories
 *     Generation.Embed and Rerank
 */
#ifndef GATEWAY_ENCODE_REQUEST_H
#define GATEWAY_ENCODE_REQUEST_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/json.h"
#include "genloop/v1/generation.pb-c.h"

enum encode_door { ENCODE_EMBEDDINGS, ENCODE_RERANK, ENCODE_SCORE, ENCODE_CLASSIFY, ENCODE_MODERATIONS, ENCODE_CALL_EMBED, ENCODE_CALL_RERANK };

struct encode_request {
    enum encode_door door;
    Genloop__V1__EncodeRequest message; /* model as the client named it */
    bool base64, return_documents;
    uint32_t top_n; /* 0: all */
};
/* body: of the JSON doors; packed: of the calls. arena: of REQUEST_ARENA_MAX; what is read lies in it. E_INVALID and E_UNSUPPORTED name the parameter. */
int encode_request_read(struct encode_request *r, enum encode_door door, struct arena *arena, const struct json *body, struct span packed, struct error *err);

/* Of whom an answer is. */
struct encode_answer {
    const char *model, *request_id;
    int64_t created_s;
};
/* E_UNKNOWN: the reply does not fit the request. Failures of out are out's. */
int encode_answer_write(struct buf *out, const struct encode_request *r, const Genloop__V1__EncodeReply *reply, const struct encode_answer *a, struct error *err);
/* The message of a call, in the arena; NULL without memory or where the reply does not fit. */
ProtobufCMessage *encode_answer_message(struct arena *arena, const struct encode_request *r, const Genloop__V1__EncodeReply *reply, const struct encode_answer *a);

#endif
