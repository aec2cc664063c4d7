/*
 * What engine.c (life, intake), engine_step.c (the engine's thread) and engine_batch.c share; nobody else includes this.
 *
 * Locking: e->lock guards the list of live requests, what other threads want of them (cancelled, granted), the intake queue, the inbox and
 * the figures. Everything else of a request belongs first to the submitter, then to the intake thread, then to the engine's thread.
 */
#ifndef GENLOOP_ENGINE_INTERNAL_H
#define GENLOOP_ENGINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/pool.h"
#include "base/sha256.h"
#include "engine/draft.h"
#include "engine/draft_model.h"
#include "engine/encoder.h"
#include "engine/engine.h"
#include "engine/forward.h"
#include "engine/scheduler.h"

enum { ENGINE_LOGITS_ROWS = 32 }; /* rows of logits at once: 32 × 262,144 floats are 32 MiB */

struct request {
    uint64_t id;
    struct engine_request given; /* pointers in it: ours below, or NULL */
    void *arg;
    void (*on_event)(void *arg, const struct engine_event *event);
    struct request *next; /* in the intake queue or inbox */

    /* owned copies */
    char *prompt, *chat;
    struct chat_message *messages;
    char **message_texts;
    struct sampler_bias *bias;
    uint32_t *stop_tokens;
    char *constraint;

    /* under the lock: wishes of other threads */
    bool cancelled, arrived; /* arrived: at the engine's thread */
    bool in_chunk;           /* rows of its prompt are being computed: where it leaves, the step is given up */
    uint64_t granted;

    /* the sequence */
    uint32_t *tokens; /* prompt and answer */
    uint32_t *source, source_len; /* with an encoder: the prompt, of which `tokens` has none (engine_source.h) */
    uint32_t *target; /* of given.target_count: until it is among `tokens` */
    uint32_t prompt_len, len, tokens_max;
    uint32_t cached;     /* of the prompt: taken from the prefix cache */
    uint32_t scored;     /* prompt_logprobs: positions before it have been told */
    uint8_t scope[SHA256_SIZE]; /* digest of engine_request.scope and adapter */
    bool long_context; /* as which it is computed: LongRoPE */
    bool chat_stop; /* the end of a chat's turn ends it too */
    bool in_reasoning;
    struct error failed; /* found at intake */
    struct sampler_counts counts;
    bool counts_needed;
    struct sampler_memory memory;
    uint64_t *breakers; /* DRY: a bit for each token; with it the room that it needs */
    uint32_t *runs;
    struct grammar_matcher *grammar; /* NULL: the answer is free */
    uint32_t *ends;                  /* with grammar: tokens that end the answer */
    size_t end_count;
    struct draft_record draft, by_model; /* what came of guesses looked up, and of the draft model's */
    struct draft_fed fed;
    bool modelled; /* the guesses in hand are the draft model's */
    uint32_t guesses[SCHEDULER_DRAFT_MAX]; /* of the step in hand; also behind the tokens, where a step reads them */
    struct detokenizer detokenizer;
    struct stop_matcher stop;
    struct buf text, raw; /* what the next event says; a token's text before the stop matcher */
    struct engine_logprobs logprobs; /* of the token in hand */
    float *prompt_logprobs;
    uint32_t *prompt_argmax; /* of a chunk, [step rows] */
    struct engine_logprobs *prompt_tops; /* likewise; NULL: not asked for */
    struct sampler_candidate *top_logits;
    size_t top_logit_count;
    bool echoed;
};

/* One row of logits and what it is for. */
struct output {
    struct request *request;
    uint32_t item;
    uint32_t position; /* of the row's own token */
    uint32_t row;      /* of the item */
    bool sample, score;
    uint32_t token; /* sampled */
    float logprob;  /* score: of the next token of the prompt */
    int result;
};

/* Sources that the encoder reads at once. */
struct source_pass {
    struct encoder_text *texts; /* [encoder_texts_max] */
    uint64_t *ids, *admitted;   /* of their requests; at which admission (scheduler_sequence.admitted) */
    size_t rows;
    uint32_t count, layer; /* 0: none is read; layers of the decoder that have their keys and values */
    bool encoded;
};

struct engine {
    struct model_dir dir;
    struct chat_template *chat_template; /* NULL: chat_error says why */
    struct error chat_error;
    struct engine_options options;
    struct pool *pool;
    struct forward *forward;
    struct model_adapter *adapter; /* options.adapter */
    struct encoder *encoder; /* beside it; NULL: the model has none */
    struct kv_cache kv;
    struct scheduler scheduler;
    uint32_t context, im_end;
    struct grammar_vocab *vocab; /* the intake thread's: made when the first constraint comes */
    pthread_t intake_thread, step_thread;
    int threads_started;

    pthread_mutex_t lock;
    pthread_cond_t intake_wake, step_wake;
    struct request **live; /* [live_max] */
    uint32_t live_count, live_max;
    struct request *intake_first, **intake_last, *inbox_first, **inbox_last;
    bool wishes;   /* somebody cancelled or granted */
    bool stopping;
    uint64_t next_id;
    uint32_t running; /* as the engine's thread last saw it */
    struct engine_stats stats;

    /* the engine's thread */
    atomic_bool give_up;      /* set by others: who a step's chunk is for has left */
    atomic_bool arrived;      /* set by others: somebody is in the inbox */
    bool gave_up;             /* the last step was: the next one is not, so that whoever comes and goes cannot stop the others */
    bool may_begin_anew;      /* the step in hand may, for who arrives while half of its layers are still to come */
    uint32_t step_layer;
    int64_t step_deadline_ms; /* of those that have a chunk in it */
    struct request **slots; /* [sequences_max] */
    struct request **gone;  /* [live_max] cancelled ones, for a moment */
    struct request **queued; /* [live_max] waiting in the scheduler */
    uint32_t queued_count;
    struct forward_item *items;
    struct output *outputs; /* [step rows] */
    float *logits;          /* [ENGINE_LOGITS_ROWS, vocab] */
    float *maxima;          /* [ENGINE_LOGITS_ROWS, kernels_maxima_count(vocab)] of them */
    struct sampler_scratch *scratch; /* per thread */
    struct draft_costs costs;
    struct draft_model *draft; /* NULL: none */
    struct draft_budget budget;
    uint64_t drafted, drafted_right;
    uint32_t step_guesses, step_right; /* of the draft model, in the step in hand */
    uint64_t steps_begun_anew;
    uint64_t guessed, guessed_right, unpublished; /* unpublished: tokens of right guesses that the figures do not have yet */
    struct source_pass pass;
    uint64_t source_tokens; /* read, and not yet in the figures */
    int64_t rate_from_us;
    uint64_t rate_tokens;
};

void *engine_intake_main(void *engine);
void *engine_step_main(void *engine);
void request_free(struct request *q);

#endif
