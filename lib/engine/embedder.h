/*
 * A replica's encoder: one model in memory and a thread of its own that computes the texts of all requests together, pass by pass. Nothing here blocks the caller:
 * requests are copied and queued, and what comes of one is told by a callback, once.
 *
 *     embedder_submit ─► incoming ─► active: tokens, then passes ─► on_answer
 *
 * A pass takes one text of each request in turn until it is full (encoder_pass_rows), so that a short request waits for a pass or two and not for the two thousand texts of
 * the one before it. Between passes what was cancelled and what is late goes. A text's numbers do not depend on the others of its pass (encoder.h).
 *
 * Threads. Every function but new and free may be called from any thread at any time. on_answer is called on the embedder's thread (of what is left: on embedder_free's); it must not block.
 */
#ifndef GENLOOP_ENGINE_EMBEDDER_H
#define GENLOOP_ENGINE_EMBEDDER_H

#include "engine/encoder.h"

struct embedder;

enum {
    EMBEDDER_QUEUE_DEFAULT = 512,    /* requests before E_FULL; the contract wants 128 */
    EMBEDDER_INPUTS_MAX = 2048,      /* of one request: OpenAI's own */
    EMBEDDER_BYTES_MAX = 256 << 20,  /* of all requests' texts and results: 30 of the largest bodies */
};

struct embedder_options {
    int threads;              /* 0: all CPUs that this process may use */
    uint32_t queue_max;       /* 0: EMBEDDER_QUEUE_DEFAULT */
    enum packed_kind weights;
    struct packed_cache packed; /* as of encoder_options */
};
/* Loads a model directory and starts the threads. Blocks while it loads. Errors of encoder_new. */
int embedder_new(struct embedder **e, const char *dir, const struct embedder_options *options, struct error *err);
/* The same with an encoder that is there; takes it over (also on failure). */
int embedder_new_from(struct embedder **e, struct encoder *encoder, uint32_t queue_max, struct error *err);
/* Answers what is left with E_CANCELLED, ends the threads, frees. NULL is accepted. Not from a callback. */
void embedder_free(struct embedder *e);
const struct encoder *embedder_encoder(const struct embedder *e);
void embedder_set_threads(struct embedder *e, int threads);

enum embedder_task {
    EMBEDDER_EMBED,    /* a vector of length 1 per input, pooled as the model's files say */
    EMBEDDER_SCORE,    /* a number per pair: the probability of a cross-encoder with one label; of a model without a classifier the cosine of the two vectors */
    EMBEDDER_CLASSIFY, /* the probability of each label, per input */
};
struct embedder_input {
    struct span text;
    struct span pair; /* data NULL: none; SCORE needs one */
    const uint32_t *tokens; /* EMBED: instead of text, taken as they stand; NULL: none */
    size_t token_count;
};
struct embedder_request {
    enum embedder_task task;
    const struct embedder_input *inputs; /* copied */
    size_t count;        /* 1 … EMBEDDER_INPUTS_MAX */
    uint32_t dimensions; /* EMBED: the first so many of each vector, brought to length 1 again (Kusupati et al. 2022, "Matryoshka"); 0: all */
    bool truncate;       /* a text of more tokens than the model takes loses its end, of a pair the longer one; else it is E_RANGE */
    int64_t deadline_ms; /* of clock_mono_ms; 0: none */
};
struct embedder_answer {
    const struct error *error; /* NULL: all is there */
    const float *values;       /* [rows, cols], borrowed for the call */
    size_t rows, cols;
    uint64_t tokens;           /* of all inputs */
};
/* Checks and queues. E_INVALID and E_UNSUPPORTED name the parameter; E_FULL: too much waits; E_STATE: the embedder is being freed. What only the tokens show comes as an answer with an error. */
int embedder_submit(struct embedder *e, const struct embedder_request *r, void *arg, void (*on_answer)(void *arg, const struct embedder_answer *answer), uint64_t *id, struct error *err);
/* Takes effect before the next pass; the answer comes with E_CANCELLED. An id that is gone is fine. */
void embedder_cancel(struct embedder *e, uint64_t id);

struct embedder_stats {
    uint32_t waiting;   /* requests, the ones at work too */
    uint64_t bytes;     /* of their texts */
    uint64_t tokens, texts, requests, passes; /* computed since the start */
};
void embedder_get_stats(struct embedder *e, struct embedder_stats *s);

#endif
