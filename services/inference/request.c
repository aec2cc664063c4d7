#include "request.h"

static int check_given_once(const Genloop__V1__GenerateRequest *m, struct error *err) {
    int given = (m->n_messages > 0) + (m->prompt[0] != 0) + (m->n_prompt_tokens > 0);
    if (given > 1) return error_set_param(err, E_INVALID, "prompt", "messages, prompt and prompt_tokens exclude each other");
    if (m->n > 1) return error_set_param(err, E_UNSUPPORTED, "n", "n above 1 is not built yet");
    if (m->n_stop > STOP_STRINGS_MAX) return error_set_param(err, E_INVALID, "stop", "at most %d stop strings are taken", STOP_STRINGS_MAX);
    if (m->n_logit_bias > SAMPLER_BIAS_MAX) return error_set_param(err, E_INVALID, "logit_bias", "at most %d entries are taken", SAMPLER_BIAS_MAX);
    if (m->n_messages > CHAT_MESSAGES_MAX) return error_set_param(err, E_INVALID, "messages", "at most %d messages are taken", CHAT_MESSAGES_MAX);
    return 0;
}

static struct chat_message *chat_of(Genloop__V1__ChatMessage *const *messages, size_t n, struct arena *arena) {
    struct chat_message *out = arena_calloc(arena, n + 1, sizeof *out);
    for (size_t i = 0; out && i < n; i++) out[i] = (struct chat_message){span_str(messages[i]->role), span_str(messages[i]->content)};
    return out;
}

int request_of_tokens(const Genloop__V1__TokenizeRequest *m, struct arena *arena, struct engine_request *out, struct error *err) {
    struct engine_request r;
    if (m->n_messages > 0 && m->prompt[0]) return error_set_param(err, E_INVALID, "prompt", "messages and prompt exclude each other");
    engine_request_init(&r);
    r.tokens_only = true;
    if (m->n_messages > 0) {
        r.messages = chat_of(m->messages, m->n_messages, arena);
        r.message_count = m->n_messages;
        r.no_special = m->no_generation_prompt;
        if (!r.messages) return error_set(err, E_NOMEM, "no memory for a request");
    } else {
        r.prompt = span_str(m->prompt);
        r.no_special = m->no_special;
    }
    *out = r;
    return 0;
}

int request_from_message(const Genloop__V1__GenerateRequest *m, struct arena *arena, struct engine_request *out, struct error *err) {
    struct engine_request r;
    int result = check_given_once(m, err);
    if (result != 0) return result;
    engine_request_init(&r);
    struct chat_message *messages = chat_of(m->messages, m->n_messages, arena);
    struct span *stop = arena_calloc(arena, m->n_stop + 1, sizeof *stop);
    struct sampler_bias *bias = arena_calloc(arena, m->n_logit_bias + 1, sizeof *bias);
    if (!messages || !stop || !bias) return error_set(err, E_NOMEM, "no memory for a request");

    if (m->n_prompt_tokens > 0) {
        r.tokens = m->prompt_tokens;
        r.token_count = m->n_prompt_tokens;
    } else if (m->n_messages > 0) {
        r.messages = messages;
        r.message_count = m->n_messages;
    } else r.prompt = span_str(m->prompt);

    struct sampler_params *s = &r.sampling;
    if (m->max_tokens_set_case) r.tokens_max = m->max_tokens;
    if (m->temperature_set_case) s->temperature = m->temperature;
    if (m->top_p_set_case) s->top_p = m->top_p;
    if (m->min_p_set_case) s->min_p = m->min_p;
    if (m->frequency_penalty_set_case) s->frequency_penalty = m->frequency_penalty;
    if (m->presence_penalty_set_case) s->presence_penalty = m->presence_penalty;
    if (m->repetition_penalty_set_case) s->repetition_penalty = m->repetition_penalty;
    s->top_k = m->top_k;
    s->seed = m->seed_set_case ? m->seed : 0;
    r.seed_set = m->seed_set_case != 0;
    for (size_t i = 0; i < m->n_logit_bias; i++) bias[i] = (struct sampler_bias){m->logit_bias[i]->key, m->logit_bias[i]->value};
    s->bias = bias;
    s->bias_count = m->n_logit_bias;
    for (size_t i = 0; i < m->n_stop; i++)
        if (m->stop[i][0]) stop[r.stop_count++] = span_str(m->stop[i]); /* an empty one, or one that began with a NUL, ends nothing */
    r.stop = stop;
    r.stop_tokens = m->stop_tokens;
    r.stop_token_count = m->n_stop_tokens;
    r.ignore_eos = m->ignore_eos;
    r.echo = m->echo;
    r.logprobs = m->logprobs;
    r.top_logprobs = m->top_logprobs;
    r.prompt_logprobs = m->echo && m->logprobs;
    r.priority = m->priority;
    *out = r;
    return 0;
}
