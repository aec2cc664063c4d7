/* POST /v1/completions: OpenAI's older door. A prompt is a text, a list of texts, a list of token ids or a list of such lists; each prompt is a request of its own to a replica, and
 * choices are numbered through. */
#include "generate_request.h"

enum { COMPLETION_TOKENS_DEFAULT = 16 }; /* OpenAI's own */

static int take_prompt(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    static const char expected[] = "a string, a list of strings, a list of token ids or a list of such lists";
    const struct json *first = json_at(v, 0);
    bool text = json_type(v) == JSON_TYPE_STRING, ids = json_type(v) == JSON_TYPE_ARRAY && json_type(first) == JSON_TYPE_INT;
    size_t n = text || ids ? 1 : json_size(v);
    if (!text && json_type(v) != JSON_TYPE_ARRAY) return wrong_type(name, expected, v, err);
    if (n == 0) return error_set_param(err, E_INVALID, name, "'prompt' is an empty list");
    if (n > PROMPTS_MAX) return error_set_param(err, E_INVALID, name, "'prompt' must have at most %d prompts", PROMPTS_MAX);
    r->prompts = arena_calloc(r->arena, n, sizeof *r->prompts);
    if (!r->prompts) return error_set_param(err, E_TOO_LARGE, name, "'prompt' is too large");
    for (size_t i = 0; i < n; i++) {
        const struct json *one = text || ids ? v : json_at(v, i);
        struct prompt *p = &r->prompts[i];
        int code;
        if (json_type(one) == JSON_TYPE_STRING) {
            char *copy;
            if ((code = take_text(r, name, one, SIZE_MAX, &copy, err)) < 0) return code;
            p->text = copy;
        } else if (json_type(one) == JSON_TYPE_ARRAY) {
            if (json_size(one) == 0) return error_set_param(err, E_INVALID, name, "'prompt' has an empty list of token ids");
            if ((code = take_tokens(r, name, one, &p->tokens, &p->n_tokens, err)) < 0) return code;
        } else {
            return wrong_type(name, expected, one, err);
        }
        if (json_type(one) != json_type(text || ids ? v : first)) return error_set_param(err, E_INVALID, name, "'prompt' mixes texts and token ids");
    }
    r->n_prompts = n;
    return 0;
}

static int take_logprobs(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int64_t n;
    int code = take_integer(name, v, 0, TOP_LOGPROBS_MAX, &n, err);
    if (code < 0) return code;
    r->message.logprobs = true;
    r->message.top_logprobs = (uint32_t)n;
    return 0;
}

static int take_echo(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int code = take_flag(name, v, &r->echo, err);
    if (code == 0) r->message.echo = r->echo;
    return code;
}

static int take_best_of(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int64_t n;
    int code = take_integer(name, v, 1, N_MAX, &n, err);
    if (code == 0) r->best_of = (uint32_t)n;
    return code;
}

/* Here 0 has a meaning: the prompt is echoed and scored, and nothing is written. */
static int take_max_tokens(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int code = take_token_limit(r, name, v, 0, err);
    if (code == 0) r->has_max_tokens = true;
    return code;
}

static int take_suffix(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    if (json_type(v) != JSON_TYPE_STRING) return wrong_type(name, "a string", v, err);
    if (json_string(v).len > 0) note_unsupported(r, name);
    return 0;
}

static const struct parameter COMPLETION_PARAMETERS[] = {
    {"prompt", take_prompt}, {"logprobs", take_logprobs}, {"echo", take_echo}, {"best_of", take_best_of}, {"max_tokens", take_max_tokens}, {"suffix", take_suffix},
};

int completion_request_read(struct generate_request *r, struct arena *arena, const struct json *body, struct error *err) {
    *r = (struct generate_request){.arena = arena, .n = 1};
    genloop__v1__generate_request__init(&r->message);
    int code = parameters_read(r, body, COMPLETION_PARAMETERS, sizeof COMPLETION_PARAMETERS / sizeof *COMPLETION_PARAMETERS, SHARED_PARAMETERS, SHARED_PARAMETERS_COUNT, err);
    if (code < 0) return code;
    if (!r->message.model[0]) return parameters_finish(r, err);
    if (r->n_prompts == 0) return error_set_param(err, E_INVALID, "prompt", "'prompt' is required");
    if (r->best_of == 0) r->best_of = r->n;
    if (r->best_of < r->n) return error_set_param(err, E_INVALID, "best_of", "'best_of' must be at least 'n'");
    if (r->best_of > r->n && r->stream) return error_set_param(err, E_INVALID, "best_of", "'best_of' above 'n' cannot be streamed: which is best shows at the end");
    if (r->n_prompts * r->best_of > N_MAX) return error_set_param(err, E_INVALID, r->best_of > r->n ? "best_of" : "n", "prompts times choices must be at most %d", N_MAX);
    if (r->has_max_tokens && r->message.max_tokens == 0 && !r->echo) return error_set_param(err, E_INVALID, "max_tokens", "'max_tokens' of 0 is for 'echo': true, which then gives the prompt alone");
    if (!r->has_max_tokens) {
        r->message.max_tokens_set_case = GENLOOP__V1__GENERATE_REQUEST__MAX_TOKENS_SET_MAX_TOKENS;
        r->message.max_tokens = COMPLETION_TOKENS_DEFAULT;
    }
    r->message.n = r->best_of;
    return parameters_finish(r, err);
}
