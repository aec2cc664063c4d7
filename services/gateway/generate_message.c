/* A request for text that comes as protobuf (gRPC): the GenerateRequest is there already, and is held to what the JSON doors hold theirs to. */
#include "generate_request.h"

#include <string.h>

static void *take(void *arena, size_t size) { return arena_alloc(arena, size); }
static void give(void *arena, void *pointer) { /* the arena goes as a whole */
    (void)arena;
    (void)pointer;
}

static int check_length(const char *name, const char *text, size_t size_max, struct error *err) {
    return strlen(text) <= size_max ? 0 : error_set_param(err, E_INVALID, name, "'%s' must have at most %zu bytes", name, size_max);
}

#define CHECK_RANGE(FIELD, CASE, LOW, HIGH)                                                                                                         \
    if (m->FIELD##_set_case && !(m->FIELD >= (LOW) && m->FIELD <= (HIGH)))                                                                          \
        return error_set_param(err, E_INVALID, #FIELD, "'%s' must lie between %g and %g", #FIELD, (double)(LOW), (double)(HIGH));

static int check_numbers(Genloop__V1__GenerateRequest *m, struct error *err) {
    GENERATE_RANGES(CHECK_RANGE)
    CHECK_RANGE(top_p, TOP_P_SET_TOP_P, 0, 1)
    if (m->top_p_set_case && m->top_p < TOP_P_LEAST) m->top_p = TOP_P_LEAST;
    if (m->max_tokens_set_case && (m->max_tokens < 1 || m->max_tokens > MAX_TOKENS_MAX)) return error_set_param(err, E_INVALID, "max_tokens", "'max_tokens' must lie between 1 and %d", MAX_TOKENS_MAX);
    if (m->mirostat > 2) return error_set_param(err, E_INVALID, "mirostat", "'mirostat' must be 0, 1 or 2");
    if (m->dry_allowed_length_set_case && m->dry_allowed_length > MAX_TOKENS_MAX) return error_set_param(err, E_INVALID, "dry_allowed_length", "'dry_allowed_length' must be at most %d", MAX_TOKENS_MAX);
    if (m->n > N_MAX) return error_set_param(err, E_INVALID, "n", "'n' must be at most %d", N_MAX);
    if (m->priority < -100 || m->priority > 100) return error_set_param(err, E_INVALID, "priority", "'priority' must lie between -100 and 100");
    if (m->top_logprobs > TOP_LOGPROBS_MAX) return error_set_param(err, E_INVALID, "top_logprobs", "'top_logprobs' must be at most %d", TOP_LOGPROBS_MAX);
    if (m->top_logprobs > 0 && !m->logprobs) return error_set_param(err, E_INVALID, "top_logprobs", "'top_logprobs' needs 'logprobs'");
    return 0;
}

static int check_texts(const char *name, const Genloop__V1__Texts *texts, size_t count_max, size_t size_max, struct error *err) {
    if (texts->n_texts > count_max) return error_set_param(err, E_INVALID, name, "'%s' must have at most %zu strings", name, count_max);
    for (size_t i = 0; i < texts->n_texts; i++) {
        if (!texts->texts[i][0]) return error_set_param(err, E_INVALID, name, "'%s' has an empty string", name);
        int r = check_length(name, texts->texts[i], size_max, err);
        if (r < 0) return r;
    }
    return 0;
}

/* Its name is the field's, whatever the caller says: another could be a lie in an error. */
static int check_constraint(Genloop__V1__GenerateRequest *m, struct error *err) {
    m->constraint_param = (char *)"";
    switch (m->constraint_case) {
    case GENLOOP__V1__GENERATE_REQUEST__CONSTRAINT_JSON_SCHEMA: m->constraint_param = (char *)"json_schema"; return check_length("json_schema", m->json_schema, CONSTRAINT_BYTES_MAX, err);
    case GENLOOP__V1__GENERATE_REQUEST__CONSTRAINT_JSON_OBJECT:
        if (!m->json_object) m->constraint_case = GENLOOP__V1__GENERATE_REQUEST__CONSTRAINT__NOT_SET;
        m->constraint_param = (char *)"json_object";
        return 0;
    case GENLOOP__V1__GENERATE_REQUEST__CONSTRAINT_REGEX: m->constraint_param = (char *)"regex"; return check_length("regex", m->regex, CONSTRAINT_BYTES_MAX, err);
    case GENLOOP__V1__GENERATE_REQUEST__CONSTRAINT_GRAMMAR: m->constraint_param = (char *)"grammar"; return check_length("grammar", m->grammar, CONSTRAINT_BYTES_MAX, err);
    case GENLOOP__V1__GENERATE_REQUEST__CONSTRAINT_CHOICE:
        m->constraint_param = (char *)"choice";
        if (m->choice->n_texts == 0) return error_set_param(err, E_INVALID, "choice", "'choice' has nothing to choose from");
        return check_texts("choice", m->choice, CHOICES_MAX, CONSTRAINT_BYTES_MAX, err);
    default: return 0;
    }
}

static int check_lists(const Genloop__V1__GenerateRequest *m, struct error *err) {
    int r = 0;
    if (m->n_stop > STOP_MAX) return error_set_param(err, E_INVALID, "stop", "'stop' must have at most %d strings", STOP_MAX);
    for (size_t i = 0; i < m->n_stop; i++) {
        if (!m->stop[i][0]) return error_set_param(err, E_INVALID, "stop", "'stop' has an empty string: it would stop every answer at once");
        if ((r = check_length("stop", m->stop[i], STOP_BYTES_MAX, err)) < 0) return r;
    }
    if (m->n_stop_tokens > STOP_TOKENS_MAX) return error_set_param(err, E_INVALID, "stop_tokens", "'stop_tokens' must have at most %d ids", STOP_TOKENS_MAX);
    if (m->n_logit_bias > LOGIT_BIAS_MAX) return error_set_param(err, E_INVALID, "logit_bias", "'logit_bias' must have at most %d tokens", LOGIT_BIAS_MAX);
    for (size_t i = 0; i < m->n_logit_bias; i++)
        if (!(m->logit_bias[i]->value >= -100 && m->logit_bias[i]->value <= 100)) return error_set_param(err, E_INVALID, "logit_bias", "'logit_bias' must lie between -100 and 100");
    if (m->n_tools > TOOLS_MAX) return error_set_param(err, E_INVALID, "tools", "'tools' must have at most %d functions", TOOLS_MAX);
    if (m->dry_sequence_breakers && (r = check_texts("dry_sequence_breakers", m->dry_sequence_breakers, BREAKERS_MAX, BREAKER_BYTES_MAX, err)) < 0) return r;
    if (m->n_messages > MESSAGES_MAX) return error_set_param(err, E_INVALID, "messages", "'messages' must have at most %d messages", MESSAGES_MAX);
    return 0;
}

static int check_messages(struct generate_request *r, struct error *err) {
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    Genloop__V1__GenerateRequest *m = &r->message;
    char param[ERROR_PARAM_MAX];
    for (size_t i = 0; i < m->n_messages; i++) {
        size_t k = 0;
        while (k < 5 && strcmp(m->messages[i]->role, roles[k]) != 0) k++;
        (void)snprintf(param, sizeof param, "messages.%zu.role", i);
        if (k == 5) return error_set_param(err, E_INVALID, param, "'%s' must be system, developer, user, assistant or tool", param);
        (void)snprintf(param, sizeof param, "messages.%zu.name", i);
        if (strlen(m->messages[i]->name) > USER_MAX) return error_set_param(err, E_INVALID, param, "'%s' must have at most %d bytes", param, USER_MAX);
    }
    return 0;
}

int message_request_read(struct generate_request *r, struct arena *arena, struct span packed, bool stream, struct error *err) {
    ProtobufCAllocator in_arena = {take, give, arena};
    *r = (struct generate_request){.arena = arena, .stream = stream};
    genloop__v1__generate_request__init(&r->message);
    Genloop__V1__GenerateRequest *given = genloop__v1__generate_request__unpack(&in_arena, packed.len, (const uint8_t *)(packed.data ? packed.data : ""));
    if (!given) return error_set(err, E_INTERNAL, "the message is no genloop.v1.GenerateRequest, or takes too much memory");
    Genloop__V1__GenerateRequest *m = &r->message;
    *m = *given;
    int sources = (m->n_messages > 0) + (m->prompt[0] != 0) + (m->n_prompt_tokens > 0), code;
    if (m->model[0] && (code = check_length("model", m->model, REQUEST_MODEL_MAX, err)) < 0) return code;
    if ((code = check_length("user", m->user, USER_MAX, err)) < 0 || (code = check_length("session", m->session, SESSION_BYTES_MAX, err)) < 0) return code;
    if ((code = check_constraint(m, err)) < 0 || (code = check_numbers(m, err)) < 0 || (code = check_lists(m, err)) < 0 || (code = check_messages(r, err)) < 0) return code;
    r->n = m->n ? m->n : 1;
    r->best_of = r->n;
    r->echo = m->echo;
    r->chat = m->n_messages > 0;
    if (m->model[0] && sources != 1) {
        static const char words[] = "messages, prompt and prompt_tokens exclude each other";
        return error_set_param(err, E_INVALID, r->chat ? "messages" : "prompt", "%s", sources ? words : "'messages' is required, or 'prompt' or 'prompt_tokens'");
    }
    if (!stream && r->n > 1) return error_set_param(err, E_INVALID, "n", "'n' above 1 is for GenerateStream: a reply of Generate has room for one");
    if (!r->chat) {
        if (!(r->prompts = arena_calloc(arena, 1, sizeof *r->prompts))) return error_set(err, E_TOO_LARGE, "the request is too large");
        r->prompts[0] = (struct prompt){.text = m->n_prompt_tokens ? NULL : m->prompt, .tokens = m->prompt_tokens, .n_tokens = m->n_prompt_tokens};
        r->n_prompts = 1;
    }
    return parameters_finish(r, err);
}
