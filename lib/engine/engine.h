/*
 * A replica's engine: one model in memory, and a thread of its own that computes steps for all running requests together (continuous
 * batching). Nothing here blocks the caller: requests are copied and queued, and what comes of them is told by a callback.
 *
 *     engine_submit ─► intake thread (chat template, tokens) ─► engine thread: queue ─► steps ─► on_event … on_event (finished)
 *
 * Threads. Every function but engine_new and engine_free may be called from any thread at any time. on_event is called on the engine's thread, in order per request,
 * the last time with `finish` set; it must not block (post to your loop) and may call engine_cancel, engine_grant and engine_submit.
 * What an event points to is borrowed for the call.
 *
 * Repeatable: a request with the same tokens, parameters and seed gives the same tokens, whatever runs beside it, however its prompt
 * is cut and whatever the number of threads (forward.h, sampler.h).
 *
 * Adapters: requests of one engine may each be computed with an adapter of their own (model/adapter.h), in one batch; the engine keeps none of them, and
 * whoever loaded one frees it after the last event of the last request that has it.
 */
#ifndef GENLOOP_ENGINE_ENGINE_H
#define GENLOOP_ENGINE_ENGINE_H

#include "base/error.h"
#include "base/span.h"
#include "engine/grammar.h"
#include "engine/kv_cache.h"
#include "engine/packed_cache.h"
#include "engine/sampler.h"
#include "engine/stop.h"
#include "model/adapter.h"
#include "model/model_dir.h"
#include "tensor/quant.h"
#include "tokenizer/chat.h"

struct engine;

enum {
    ENGINE_QUEUE_MIN = 128,          /* requests that wait before E_FULL: the contract's number */
    ENGINE_QUEUE_DEFAULT = 512,
    ENGINE_SEQUENCES_DEFAULT = 32,   /* on a few cores a step of more serves nobody sooner */
    ENGINE_STOP_TOKENS_MAX = 64,
    ENGINE_TOP_LOGITS_MAX = 1 << 16,
    ENGINE_TOKENS_MAX = 1 << 20,     /* max_tokens above it are refused: the contract's number */
};

enum engine_guessing {
    ENGINE_GUESS_OFF,
    ENGINE_GUESS_LOOKUP, /* prompt lookup (draft.h), while it pays */
    ENGINE_GUESS_ALWAYS, /* the draft model where there is one, then prompt lookup, whatever it costs: for tests and measurements */
};
struct engine_options {
    int threads;             /* 0: all CPUs that this process may use */
    size_t kv_bytes;         /* of the KV cache, with the draft model's; 0: what sequences_max full contexts take, at most 1 GiB */
    uint32_t sequences_max;  /* running at once; 0: ENGINE_SEQUENCES_DEFAULT */
    uint32_t queue_max;      /* waiting; 0: ENGINE_QUEUE_DEFAULT; at least ENGINE_QUEUE_MIN */
    uint32_t context;        /* 0: the model's own; longer ones are cut to it */
    uint32_t step_rows;      /* tokens of a step while nothing streams; 0: 256 */
    uint32_t step_rows_mixed; /* prompt tokens of a step while something does; 0: 64 */
    enum packed_kind weights; /* PACKED_STORED: as the model has them; else turned into that kind when loaded */
    enum packed_activations activations; /* what inputs of products with weights in blocks are rounded to; an encoder beside a decoder stays with int8 */
    enum kv_type kv_type;    /* what keys and values are kept as: a type that is smaller holds more of them in kv_bytes */
    enum engine_guessing guessing;
    const char *adapter;      /* a directory: of every request that brings none of its own; NULL: none. Read by engine_new alone */
    struct packed_cache packed; /* copies of packed weights, borrowed for the loading; with zeros: none. A model in memory needs an identity for one */
    const char *draft;        /* a model directory or file with the same tokenizer, which guesses while it pays (draft_model.h); NULL: none. Likewise */
    uint32_t draft_tokens;    /* guesses of it per step, at most; 0: SCHEDULER_DRAFT_MAX */
};

/* Loads a model directory and starts the threads. Blocks while it loads. Errors of model_dir_load, forward_new and draft_model_load. */
int engine_new(struct engine **e, const char *model_dir, const struct engine_options *options, struct error *err);
/* The same with a directory that is in memory; takes *dir over (also on failure). */
int engine_new_from(struct engine **e, struct model_dir *dir, const struct engine_options *options, struct error *err);
/* Cancels what is left (each request gets its last event), ends the threads, frees. NULL is accepted. Not from a callback. */
void engine_free(struct engine *e);

/* How many of options.threads compute from the next step on (1 to all of them): replicas of one machine share its cores as they come and go. */
void engine_set_threads(struct engine *e, int threads);

const struct model_config *engine_model(const struct engine *e);
const struct tokenizer *engine_tokenizer(const struct engine *e); /* NULL: the model has none */
const struct model_generation *engine_generation(const struct engine *e);
bool engine_has_chat(const struct engine *e);
const struct chat_template *engine_chat_template(const struct engine *e); /* NULL: it has none, or one that cannot be read */
uint32_t engine_context(const struct engine *e); /* tokens that prompt and answer have together */
enum packed_kind engine_adapter_kind(const struct engine *e); /* what model_adapter_load is to make of a request's adapter */
size_t engine_adapter_parameters(const struct engine *e); /* of options.adapter; 0: there is none */
size_t engine_memory(const struct engine *e);    /* bytes: weights and the whole KV cache, the draft model's too */
/* Of the packed matrices: their bytes, which a step reads once for all its rows; what they are packed as, in 12 bits where bf16 allowed it (tensor/quant.h); multiply-adds of a row, without and for its logits. */
struct engine_weights {
    size_t size, multiply_adds, multiply_adds_logits;
    enum packed_kind kind;
    bool in_12_bits;
};
void engine_get_weights(const struct engine *e, struct engine_weights *w);

struct engine_request {
    /* The prompt, one of four; all is copied. Tokens are taken as they stand. */
    const uint32_t *tokens;
    size_t token_count;
    const struct chat_message *messages;
    size_t message_count;
    struct span chat;   /* JSON: {"messages": […], "tools": […], "chat_template_kwargs": {…}}, as chat_template_prompt takes it; data NULL: none */
    struct span prompt; /* where none of the others is given */
    /* What the decoder beside an encoder is made to say first, behind its start token; prompt_logprobs are of it: how likely it is, given the prompt. Copied; only such models take one. */
    const uint32_t *target;
    size_t target_count;

    int64_t tokens_max; /* −1: what the context leaves; 0: compute the prompt only. More than the context leaves is cut to it */
    struct sampler_params sampling;
    bool seed_set; /* else the engine draws one */
    const struct span *dry_breakers; /* NULL: newline, ":", "\"" and "*". A token whose text has one of them ends what DRY compares */
    size_t dry_breaker_count;
    const struct span *stop;
    size_t stop_count;
    const uint32_t *stop_tokens;
    size_t stop_token_count;
    bool ignore_eos;
    bool tokens_only;     /* nothing is computed: the one event has the prompt's tokens, which may be more than the context holds */
    bool no_special;      /* of a text: nothing is added to it; of a chat: no answer is begun */
    bool keep_special;    /* special tokens are told as text, but for the one that ends the answer: calls of tools are marked by them */
    bool no_guesses;      /* no speculative decoding, whatever the engine's options say; the tokens are the same */
    bool echo;            /* the prompt's text is the first of the answer's */
    bool logprobs;
    uint32_t top_logprobs;
    bool prompt_logprobs; /* of each prompt token after the first, or of each of the target's; with top_logprobs the most likely ones too */
    uint32_t top_logits;  /* of the first new position: so many highest */
    int64_t deadline_ms;  /* of clock_mono_ms; 0: none */
    int32_t priority;     /* higher goes first, and takes the place of lower ones that run: those go on later, at the token where they stood */
    const struct model_adapter *adapter; /* computed with it, and borrowed until the last event; loaded for engine_model. NULL: the engine's own, where it has one */
    struct span scope;    /* those of the same scope, and adapter, share the keys and values of common prefixes: the tenant. Copied */
    enum grammar_kind constraint; /* what the answer must be (grammar.h); GRAMMAR_NONE: anything */
    struct span constraint_text;
    const char *constraint_param; /* what errors call it, borrowed for good; NULL: response_format */
    uint32_t credit;      /* tokens that may be produced before engine_grant; SCHEDULER_CREDIT_UNLIMITED (UINT32_MAX): no limit */
};
/* Sampling defaults of sampler_params_default, tokens_max −1, no limit of credit. */
void engine_request_init(struct engine_request *r);

enum engine_finish {
    ENGINE_RUNNING,
    ENGINE_STOP,      /* an end-of-sequence or stop token, or a stop string */
    ENGINE_LENGTH,    /* tokens_max or the context */
    ENGINE_CANCELLED,
    ENGINE_DEADLINE,
    ENGINE_ERROR,     /* event.error says why */
};
const char *engine_finish_name(enum engine_finish f); /* "stop", "length", …; "" while it runs */

struct engine_usage {
    uint32_t prompt_tokens, completion_tokens;
    uint32_t cached_tokens; /* of the prompt: another request of the same scope had computed them */
};
struct engine_logprobs {
    float logprob;
    uint32_t top_count;
    struct sampler_logprob top[SAMPLER_TOP_LOGPROBS_MAX];
};

struct engine_event {
    uint64_t id;
    struct span text;        /* new text: whole characters, nothing that may belong to a stop string */
    const uint32_t *tokens;  /* new tokens, the one that ended it too */
    const struct engine_logprobs *logprobs; /* [token_count] where asked for */
    size_t token_count;
    bool stop_token;         /* the last of the tokens is one that ended it, and has no text */
    bool in_reasoning;       /* the chat's prompt ended within <think> */
    /* prompt_logprobs: of the prompt's tokens [prompt_first, prompt_first + prompt_count), in order, as the prompt is computed */
    const float *prompt_logprobs;
    const uint32_t *prompt_argmax; /* the most likely token instead of each */
    const struct engine_logprobs *prompt_tops; /* the same with the most likely tokens, where top_logprobs were asked for */
    size_t prompt_first, prompt_count;
    const uint32_t *prompt_tokens; /* prompt_logprobs: all of the prompt's tokens (start token and target, where there is one), in the event that has its echo and in those that have log-probabilities of it; tokens_only: likewise */
    const struct sampler_candidate *top_logits; /* with the first token */
    size_t top_logit_count;
    enum engine_finish finish;
    const struct error *error; /* ENGINE_ERROR, ENGINE_CANCELLED, ENGINE_DEADLINE */
    struct engine_usage usage; /* so far */
};

/* Checks and queues. E_INVALID names the parameter; E_FULL: too many wait; E_STATE: the engine is being freed. What only the prompt's tokens show
 * comes as an event with ENGINE_ERROR: E_RANGE where the prompt does not fit the context, E_UNSUPPORTED a chat template that is not known. */
int engine_submit(struct engine *e, const struct engine_request *r, void *arg, void (*on_event)(void *arg, const struct engine_event *event), uint64_t *id,
                  struct error *err);
/* Takes effect before the next step; slot and KV blocks are free then, and the last event comes. An id that is gone is fine. */
void engine_cancel(struct engine *e, uint64_t id);
/* Allows so many more tokens. A request without credit keeps its place, and the others do not wait for it. */
void engine_grant(struct engine *e, uint64_t id, uint32_t tokens);

struct engine_stats {
    uint32_t queued, running;      /* requests */
    uint64_t queued_tokens;        /* what the queued ones may take */
    uint32_t kv_blocks_free, kv_blocks_total;
    double tokens_per_second;      /* produced, of about the last second; 0 when idle */
    uint64_t prompt_tokens, completion_tokens, cached_tokens, steps, requests, preempted; /* since the start; prompt_tokens: computed */
    uint64_t steps_begun_anew; /* for a prompt that arrived early in a step of few streams */
    uint64_t guessed, guessed_right; /* tokens, likewise: speculative decoding */
    uint64_t drafted, drafted_right; /* of these: guessed by the draft model */
    uint32_t kv_blocks_cached;     /* of the free ones: with prefixes that somebody may want again */
};
void engine_get_stats(struct engine *e, struct engine_stats *s);

/* --- for those who can wait: evaluation, `genloop run`, tests --- */

struct engine_result {
    uint32_t *tokens; /* owned */
    size_t token_count;
    char *text; /* owned, terminated; NULL where the model has no tokenizer */
    size_t text_len;
    struct engine_logprobs *logprobs; /* owned, [token_count] where asked for */
    float *prompt_logprobs;           /* owned, [prompt_count]: of the tokens after the first, or of the target */
    uint32_t *prompt_argmax;
    size_t prompt_count;
    struct sampler_candidate *top_logits; /* owned */
    size_t top_logit_count;
    enum engine_finish finish;
    struct engine_usage usage;
    struct error error; /* of this request alone */
};
/* Runs n requests, as many at a time as the engine takes, and waits for all. 0 though single ones may have failed (results[i].error). results:
 * n, to be freed by engine_result_fini each, also on failure. Not from a callback. E_STATE: the engine is being freed. */
int engine_generate_batch(struct engine *e, const struct engine_request *requests, size_t n, struct engine_result *results, struct error *err);
/* For waits that somebody may want to end, or to see go on. Both from the calling thread, and either may be NULL. */
enum { ENGINE_WATCH_MS = 200 };
struct engine_watch {
    void *arg;
    bool (*should_stop)(void *arg);                    /* asked whenever a request ends and at least each ENGINE_WATCH_MS */
    void (*on_finished)(void *arg, size_t finished);   /* so many of the n requests have ended; never fewer than before */
};
/* The same, watched. E_CANCELLED: should_stop said so; what was left has been cancelled (within a step), and the results are of what had ended. watch may be NULL. */
int engine_generate_watched(struct engine *e, const struct engine_request *requests, size_t n, struct engine_result *results, const struct engine_watch *watch, struct error *err);
void engine_result_fini(struct engine_result *r); /* safe on a zeroed struct */
/* Sum of −log p of each document's tokens after the first, given those before it: nll[i], over counts[i] − 1 tokens. Documents are cut to the context.
 * E_INVALID: an empty document or an id beyond the vocabulary. */
int engine_score(struct engine *e, const uint32_t *const *documents, const size_t *counts, size_t n, double *nll, struct error *err);

#endif
