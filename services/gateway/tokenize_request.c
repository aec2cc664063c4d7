#include "tokenize_request.h"

static struct tokenize_request *mine(struct generate_request *r) { return (struct tokenize_request *)r; } /* base is its first member */

static int take_prompt(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    mine(r)->has_prompt = true;
    return take_text(r, name, v, SIZE_MAX, &mine(r)->message.prompt, err);
}
static int take_special(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    mine(r)->has_special = true;
    return take_flag(name, v, &mine(r)->special, err);
}
static int take_generation(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    mine(r)->has_generation = true;
    return take_flag(name, v, &mine(r)->generation, err);
}
static int take_strings(struct generate_request *r, const char *name, const struct json *v, struct error *err) { return take_flag(name, v, &mine(r)->strings, err); }

static const struct parameter TOKENIZE_PARAMETERS[] = {
    {"model", take_model}, {"prompt", take_prompt}, {"messages", take_messages}, {"add_special_tokens", take_special}, {"add_generation_prompt", take_generation},
    {"return_token_strs", take_strings}, {"tools", take_tools}, {"chat_template", take_unsupported}, {"chat_template_kwargs", take_template_arguments}, {"user", take_user},
};

int tokenize_request_read(struct tokenize_request *r, struct arena *arena, const struct json *body, struct error *err) {
    *r = (struct tokenize_request){.base = {.arena = arena}, .special = true, .generation = true};
    genloop__v1__generate_request__init(&r->base.message);
    genloop__v1__tokenize_request__init(&r->message);
    int code = parameters_read(&r->base, body, TOKENIZE_PARAMETERS, sizeof TOKENIZE_PARAMETERS / sizeof *TOKENIZE_PARAMETERS, NULL, 0, err);
    if (code < 0) return code;
    bool chat = r->base.message.n_messages > 0;
    if (r->base.message.model[0] && !chat && !r->has_prompt) return error_set_param(err, E_INVALID, "prompt", "'prompt' or 'messages' is required");
    if (chat && r->has_prompt) return error_set_param(err, E_INVALID, "messages", "'prompt' and 'messages' exclude each other");
    if (!chat && r->has_generation) return error_set_param(err, E_INVALID, "add_generation_prompt", "'add_generation_prompt' is for 'messages'");
    if (chat && r->has_special && r->special) note_unsupported(&r->base, "add_special_tokens"); /* what a chat begins with is the template's to say */
    if (!chat && (json_size(r->base.tools) > 0 || r->base.message.template_arguments[0]))
        return error_set_param(err, E_INVALID, json_size(r->base.tools) ? "tools" : "chat_template_kwargs", "'tools' and 'chat_template_kwargs' are for 'messages'");
    if ((code = parameters_finish(&r->base, err)) < 0 || (code = put_tools(&r->base, err)) < 0) return code;
    r->message.tools = r->base.message.tools;
    r->message.n_tools = r->base.message.n_tools;
    r->message.template_arguments = r->base.message.template_arguments;
    r->message.model = r->base.message.model;
    r->message.messages = r->base.message.messages;
    r->message.n_messages = r->base.message.n_messages;
    r->message.no_special = !r->special;
    r->message.no_generation_prompt = !r->generation;
    r->message.strings = r->strings;
    return 0;
}

static int take_ids(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    struct detokenize_request *d = (struct detokenize_request *)r;
    if (json_type(v) != JSON_TYPE_ARRAY) return wrong_type(name, "a list of token ids", v, err);
    if (json_size(v) > DETOKENIZE_TOKENS_MAX) return error_set_param(err, E_INVALID, name, "'%s' must have at most %d ids", name, DETOKENIZE_TOKENS_MAX);
    d->has_tokens = true;
    return take_tokens(r, name, v, &d->message.tokens, &d->message.n_tokens, err);
}

static const struct parameter DETOKENIZE_PARAMETERS[] = {{"model", take_model}, {"tokens", take_ids}, {"user", take_user}};

int detokenize_request_read(struct detokenize_request *r, struct arena *arena, const struct json *body, struct error *err) {
    *r = (struct detokenize_request){.base = {.arena = arena}};
    genloop__v1__generate_request__init(&r->base.message);
    genloop__v1__detokenize_request__init(&r->message);
    int code = parameters_read(&r->base, body, DETOKENIZE_PARAMETERS, sizeof DETOKENIZE_PARAMETERS / sizeof *DETOKENIZE_PARAMETERS, NULL, 0, err);
    if (code < 0) return code;
    if (r->base.message.model[0] && !r->has_tokens) return error_set_param(err, E_INVALID, "tokens", "'tokens' is required");
    if ((code = parameters_finish(&r->base, err)) < 0) return code;
    r->message.model = r->base.message.model;
    return 0;
}

void tokenize_answer(struct buf *out, const Genloop__V1__TokenizeReply *reply, bool strings) {
    struct json_out w;
    json_begin(&w, out);
    json_object(&w);
    json_num(&w, "count", (int64_t)reply->n_tokens);
    json_num(&w, "max_model_len", reply->context);
    json_key(&w, "tokens");
    json_array(&w);
    for (size_t i = 0; i < reply->n_tokens; i++) json_put_uint(&w, reply->tokens[i]);
    json_array_end(&w);
    json_key(&w, "token_strs");
    if (strings) {
        json_array(&w);
        for (size_t i = 0; i < reply->n_strings; i++) json_put_span(&w, span_of(reply->strings[i].data, reply->strings[i].len));
        json_array_end(&w);
    } else {
        json_put_null(&w);
    }
    json_object_end(&w);
}

void detokenize_answer(struct buf *out, const Genloop__V1__DetokenizeReply *reply) {
    struct json_out w;
    json_begin(&w, out);
    json_object(&w);
    json_str(&w, "prompt", reply->text);
    json_object_end(&w);
}
