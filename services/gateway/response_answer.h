/*
 * A response in OpenAI's JSON: pure. It gathers the pieces of an answer as output items (reasoning, messages, calls of functions), one open at a time, and tells of each step by an event where
 * somebody streams:
 *
 *     created, in_progress ──► (output_item.added [content_part.added, deltas, done] output_item.done)* ──► completed | incomplete | failed
 *
 * Whole or streamed, the items are the same ones. Events are `event: TYPE`, `data: {"type":TYPE,…}`; sequence_number counts them from 0.
 */
#ifndef GATEWAY_RESPONSE_ANSWER_H
#define GATEWAY_RESPONSE_ANSWER_H

#include "answer.h"
#include "base/error.h"

enum response_open { RESPONSE_NONE, RESPONSE_REASONING, RESPONSE_MESSAGE };

struct response_answer {
    const char *id, *model, *stem;  /* stem: what items' ids are made of; all borrowed */
    int64_t created_s;
    const struct json *asked;       /* the request, whose parameters are repeated; borrowed */
    bool stored;
    struct answer_usage usage;
    struct buf output, text, logprobs; /* output: items that are done, with commas between; text and logprobs: of the one that is open */
    enum response_open open;
    uint32_t n_items, sequence;
    bool begun, cut;                /* begun: created is told; cut: the answer ended at max_output_tokens */
};
/* Zeroes it. */
void response_answer_init(struct response_answer *a);
void response_answer_fini(struct response_answer *a);

/* Takes in a piece. events: what it tells is appended; NULL: nobody streams. What fails is in the bufs' failed. */
void response_answer_add(struct response_answer *a, const Genloop__V1__GenerateReply *reply, struct buf *events);
/* There are no more pieces: what is open is done. An answer of nothing is a message without text. */
void response_answer_close(struct response_answer *a, struct buf *events);
/* The response as it is; why NULL: completed or incomplete, otherwise failed. */
void response_answer_write(struct buf *out, const struct response_answer *a, const struct error *why);
/* The last event. */
void response_answer_end(struct response_answer *a, const struct error *why, struct buf *events);

#endif
