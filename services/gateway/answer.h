/*
 * Answers in OpenAI's JSON: pure writers. An answer has an id, a time and a model; a choice gathers its text, its log-probabilities (as the JSON that they will be) and how it
 * ended, or is written on as chunks. sse: each chunk is `data: {…}` and an empty line.
 */
#ifndef GATEWAY_ANSWER_H
#define GATEWAY_ANSWER_H

#include "base/buf.h"
#include "base/json.h"
#include "genloop/v1/generation.pb-c.h"

enum { ANSWER_TEXT_MAX = 16 << 20 }; /* a million tokens of sixteen bytes */

struct answer {
    bool chat;
    const char *id;    /* "chatcmpl-…", "cmpl-…" */
    int64_t created_s;
    const char *model; /* name@version */
};
struct answer_usage {
    uint64_t prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens;
};
struct choice {
    uint32_t index;
    struct buf reasoning, calls; /* calls: items of a JSON list, likewise */
    struct buf text, logprobs; /* logprobs: items of a JSON list, with commas between; for completions: see answer.c */
    struct buf plain; /* of chunks: one with a mark for its text, at plain_at */
    size_t plain_at;
    struct buf tokens, offsets, tops; /* of completions: parallel lists */
    char finish_reason[16];
    double logprob_sum;
    uint64_t logprob_count, offset; /* offset: characters so far */
    bool has_logprobs, role_told;
};
void choice_init(struct choice *c, uint32_t index);
void choice_fini(struct choice *c);
/* Takes in a piece, for the whole. Failures stay in c->text.failed and c->logprobs.failed. */
void choice_add(struct choice *c, const struct answer *a, const Genloop__V1__GenerateReply *reply);

/* A token with its log-probability and its candidates, as chats and responses list them. */
void answer_position_write(struct json_out *w, const Genloop__V1__PositionLogprobs *p);
/* A key and its list, of items that are JSON with commas between. */
void answer_list_write(struct json_out *w, const char *key, const struct buf *items);

/* The whole. */
void answer_write(struct buf *out, const struct answer *a, const struct choice *choices, size_t n, const struct answer_usage *usage);
/* One event (or two: the role first; or three: the end last) of a piece; usage_field: the client asked for usage, so that every chunk has the field. */
void answer_chunk(struct buf *out, const struct answer *a, struct choice *c, const Genloop__V1__GenerateReply *reply, bool usage_field);
/* The last event before [DONE], where usage was asked for. */
void answer_usage_chunk(struct buf *out, const struct answer *a, const struct answer_usage *usage);

#endif
