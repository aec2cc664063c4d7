/*
 * A request for text, from OpenAI's JSON to what a replica understands: the part that chat and legacy completions share. Pure: JSON in, message out, nothing is
 * looked up. Each parameter of the API is a row of a table that says how it is read; a name that no row knows is refused.
 *
 * The order of complaints is a promise: what is wrong is named before what is right but not built (contracts.md).
 */
#ifndef GATEWAY_GENERATE_REQUEST_H
#define GATEWAY_GENERATE_REQUEST_H

#include "base/arena.h"
#include "base/error.h"
#include "base/json.h"
#include "genloop/v1/generation.pb-c.h"

enum {
    REQUEST_ARENA_MAX = 64 * 1024 * 1024, /* what a body of 8 MiB may become: a list of 4 million token ids is 32 MiB of pointers and ids */
    REQUEST_MODEL_MAX = 256,
    MAX_TOKENS_MAX = 1 << 20,             /* contracts.md: above it max_tokens is refused */
    N_MAX = 128,                          /* OpenAI's own */
    STOP_MAX = 16, STOP_BYTES_MAX = 1024, /* OpenAI stops at 4, vLLM takes more; a stop string longer than a paragraph never matches */
    LOGIT_BIAS_MAX = 1024,                /* the engine's sampler; OpenAI stops at 300 */
    TOP_LOGPROBS_MAX = 20,                /* OpenAI's own */
    MESSAGES_MAX = 4096,                  /* lib/tokenizer takes so many */
    PROMPTS_MAX = 128,
    USER_MAX = 512,
    SESSION_BYTES_MAX = 256,
    STOP_TOKENS_MAX = 64,
    TOOLS_MAX = 128,                      /* OpenAI's own */
    CONSTRAINT_BYTES_MAX = 1 << 20,       /* the engine's grammars */
    CHOICES_MAX = 4096,
    BREAKERS_MAX = 64, BREAKER_BYTES_MAX = 64, /* a breaker is a word or a sign */
};
#define TOP_P_LEAST 1e-9 /* OpenAI takes 0: the most likely token alone, as any share below its probability */

/* What both JSON and protobuf are held to: X(field, case of its oneof, lowest, highest). */
#define GENERATE_RANGES(X)                                               \
    X(temperature, TEMPERATURE_SET_TEMPERATURE, 0, 2)                    \
    X(min_p, MIN_P_SET_MIN_P, 0, 1)                                      \
    X(frequency_penalty, FREQUENCY_PENALTY_SET_FREQUENCY_PENALTY, -2, 2) \
    X(presence_penalty, PRESENCE_PENALTY_SET_PRESENCE_PENALTY, -2, 2)    \
    X(repetition_penalty, REPETITION_PENALTY_SET_REPETITION_PENALTY, 0.01, 2) /* it divides: 0 has no meaning */ \
    X(typical_p, TYPICAL_P_SET_TYPICAL_P, 0.001, 1)                      \
    X(top_n_sigma, TOP_N_SIGMA_SET_TOP_N_SIGMA, -1, 1000) /* llama.cpp writes "off" as -1 */ \
    X(dry_multiplier, DRY_MULTIPLIER_SET_DRY_MULTIPLIER, 0, 100)         \
    X(dry_base, DRY_BASE_SET_DRY_BASE, 1, 100)                           \
    X(xtc_probability, XTC_PROBABILITY_SET_XTC_PROBABILITY, 0, 1)        \
    X(xtc_threshold, XTC_THRESHOLD_SET_XTC_THRESHOLD, 0, 1)              \
    X(mirostat_tau, MIROSTAT_TAU_SET_MIROSTAT_TAU, 0, 100)               \
    X(mirostat_eta, MIROSTAT_ETA_SET_MIROSTAT_ETA, 0, 1)

struct prompt {
    const char *text; /* or, where NULL: */
    uint32_t *tokens;
    size_t n_tokens;
};

struct generate_request {
    struct arena *arena;                      /* holds all that the message points to */
    Genloop__V1__GenerateRequest message;     /* model as the client named it; without prompt or tokens */
    struct prompt *prompts;                   /* of completions; a chat has none and its messages are in the message */
    size_t n_prompts;
    uint32_t n, best_of;                      /* choices, and candidates that they are chosen from */
    bool chat, stream, include_usage, echo;
    char unsupported[ERROR_PARAM_MAX];        /* the first parameter that is right but not built; "" */
    /* what only reading needs */
    bool has_max_tokens, has_max_completion_tokens, has_stream_options, has_top_logprobs;
    const struct json *tools, *tool_choice;
};

struct parameter {
    const char *name;
    /* Reads a value that is neither absent nor null. */
    int (*take)(struct generate_request *r, const char *name, const struct json *v, struct error *err);
};

/* Reads every key of the object by the rows. E_INVALID names the parameter. */
int parameters_read(struct generate_request *r, const struct json *body, const struct parameter *rows, size_t n_rows, const struct parameter *more, size_t n_more, struct error *err);
/* What the two doors share: model, sampling, stop, stream, n, user. */
extern const struct parameter SHARED_PARAMETERS[];
extern const size_t SHARED_PARAMETERS_COUNT;
/* Checks between parameters; then what is not built. */
int parameters_finish(struct generate_request *r, struct error *err);

/* Helpers of the rows. */
int take_unsupported(struct generate_request *r, const char *name, const struct json *v, struct error *err);
void note_unsupported(struct generate_request *r, const char *name);
int wrong_type(const char *name, const char *expected, const struct json *v, struct error *err);
int take_real(const char *name, const struct json *v, double low, double high, double *out, struct error *err);
int take_integer(const char *name, const struct json *v, int64_t low, int64_t high, int64_t *out, struct error *err);
int take_token_limit(struct generate_request *r, const char *name, const struct json *v, int64_t least, struct error *err); /* into message.max_tokens */
int take_flag(const char *name, const struct json *v, bool *out, struct error *err);
/* A C string in the arena; U+0000 becomes U+FFFD, since a C string would end there. */
int take_text(struct generate_request *r, const char *name, const struct json *v, size_t size_max, char **out, struct error *err);
char *text_in_arena(struct arena *arena, struct span s);
int take_model(struct generate_request *r, const char *name, const struct json *v, struct error *err);
int take_user(struct generate_request *r, const char *name, const struct json *v, struct error *err);
int take_messages(struct generate_request *r, const char *name, const struct json *v, struct error *err); /* chat.c, as the next six */
int take_tools(struct generate_request *r, const char *name, const struct json *v, struct error *err);   /* checks them; they are in r->tools */
int put_tools(struct generate_request *r, struct error *err);                                             /* r->tools go into the message, in order */
/* What the parameters on tools say together, and put_tools. */
int tools_finish(struct generate_request *r, struct error *err);
int take_parallel_calls(struct generate_request *r, const char *name, const struct json *v, struct error *err);
int take_only_false(struct generate_request *r, const char *name, const struct json *v, struct error *err); /* true asks for what is not built */
/* The form of the answer: text, json_object, json_schema. schema: where the schema and its name stand. `name` outlives the request: the replica's errors name it. */
int take_format(struct generate_request *r, const char *name, const struct json *v, const struct json *schema, struct error *err);
/* Further variables of the chat template, as vLLM takes them. */
int take_template_arguments(struct generate_request *r, const char *name, const struct json *v, struct error *err);
/* A value as JSON text in the arena; NULL where it has no room. */
char *json_text_in_arena(struct arena *arena, const struct json *v);
/* A list of token ids. */
int take_tokens(struct generate_request *r, const char *name, const struct json *v, uint32_t **tokens, size_t *n, struct error *err);

/* The doors. `body` is borrowed until the request is done with. arena: of REQUEST_ARENA_MAX. */
int chat_request_read(struct generate_request *r, struct arena *arena, const struct json *body, struct error *err);
int completion_request_read(struct generate_request *r, struct arena *arena, const struct json *body, struct error *err);
/* From a packed GenerateRequest, whose strings are UTF-8 (wire/texts.h). stream: for GenerateStream. */
int message_request_read(struct generate_request *r, struct arena *arena, struct span packed, bool stream, struct error *err);

#endif
