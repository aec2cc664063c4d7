#include "generate_request.h"

#include <math.h>

int wrong_type(const char *name, const char *expected, const struct json *v, struct error *err) {
    return error_set_param(err, E_INVALID, name, "'%s' must be %s, not %s", name, expected, json_type_name(v));
}

int take_real(const char *name, const struct json *v, double low, double high, double *out, struct error *err) {
    if (json_type(v) != JSON_TYPE_INT && json_type(v) != JSON_TYPE_REAL) return wrong_type(name, "a number", v, err);
    double d = json_real(v, NAN);
    if (!(d >= low && d <= high)) return error_set_param(err, E_INVALID, name, "'%s' must lie between %g and %g", name, low, high);
    *out = d;
    return 0;
}

int take_integer(const char *name, const struct json *v, int64_t low, int64_t high, int64_t *out, struct error *err) {
    double d = json_real(v, NAN);
    bool whole = json_type(v) == JSON_TYPE_INT || (json_type(v) == JSON_TYPE_REAL && d == floor(d) && fabs(d) < 9007199254740992.0);
    if (!whole) return wrong_type(name, "a whole number", v, err);
    int64_t i = json_int(v, 0);
    if (i < low || i > high) return error_set_param(err, E_INVALID, name, "'%s' must lie between %lld and %lld", name, (long long)low, (long long)high);
    *out = i;
    return 0;
}

int take_flag(const char *name, const struct json *v, bool *out, struct error *err) {
    if (json_type(v) != JSON_TYPE_BOOL) return wrong_type(name, "true or false", v, err);
    *out = json_bool(v, false);
    return 0;
}

static int no_memory(const char *name, struct error *err) { return error_set_param(err, E_TOO_LARGE, name, "'%s' is too large", name); }

char *text_in_arena(struct arena *arena, struct span s) {
    size_t nuls = 0, n = 0;
    for (size_t i = 0; i < s.len; i++) nuls += s.data[i] == 0;
    char *text = arena_alloc(arena, s.len + 2 * nuls + 1);
    if (!text) return NULL;
    for (size_t i = 0; i < s.len; i++) {
        if (s.data[i]) {
            text[n++] = s.data[i];
        } else {
            memcpy(text + n, "\xef\xbf\xbd", 3);
            n += 3;
        }
    }
    text[n] = 0;
    return text;
}

int take_text(struct generate_request *r, const char *name, const struct json *v, size_t size_max, char **out, struct error *err) {
    if (json_type(v) != JSON_TYPE_STRING) return wrong_type(name, "a string", v, err);
    if (json_string(v).len > size_max) return error_set_param(err, E_INVALID, name, "'%s' must have at most %zu bytes", name, size_max);
    char *text = text_in_arena(r->arena, json_string(v));
    if (!text) return no_memory(name, err);
    *out = text;
    return 0;
}

char *json_text_in_arena(struct arena *arena, const struct json *v) {
    struct buf text;
    buf_init(&text, REQUEST_ARENA_MAX);
    char *out = json_write(&text, v) == 0 ? text_in_arena(arena, buf_span(&text)) : NULL;
    buf_fini(&text);
    return out;
}

int take_tokens(struct generate_request *r, const char *name, const struct json *v, uint32_t **tokens, size_t *n, struct error *err) {
    size_t count = json_size(v);
    uint32_t *list = arena_calloc(r->arena, count ? count : 1, sizeof *list);
    if (!list) return no_memory(name, err);
    for (size_t i = 0; i < count; i++) {
        int64_t id;
        int code = take_integer(name, json_at(v, i), 0, UINT32_MAX, &id, err);
        if (code < 0) return code;
        list[i] = (uint32_t)id;
    }
    *tokens = list;
    *n = count;
    return 0;
}

void note_unsupported(struct generate_request *r, const char *name) {
    if (!r->unsupported[0]) span_copy(r->unsupported, sizeof r->unsupported, span_str(name));
}

int take_unsupported(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    (void)v;
    (void)err;
    note_unsupported(r, name);
    return 0;
}

/* ---- the shared rows ---- */

int take_model(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int code = take_text(r, name, v, REQUEST_MODEL_MAX, &r->message.model, err);
    if (code == 0 && !r->message.model[0]) code = error_set_param(err, E_INVALID, name, "'model' is empty: name a model, name@version or an alias such as production");
    return code;
}

int take_token_limit(struct generate_request *r, const char *name, const struct json *v, int64_t least, struct error *err) {
    int64_t n;
    int code = take_integer(name, v, least, MAX_TOKENS_MAX, &n, err);
    if (code < 0) return code;
    r->message.max_tokens_set_case = GENLOOP__V1__GENERATE_REQUEST__MAX_TOKENS_SET_MAX_TOKENS;
    r->message.max_tokens = (uint32_t)n;
    return 0;
}

static int take_max_tokens(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int code = take_token_limit(r, name, v, 1, err);
    if (code == 0) *(strcmp(name, "max_tokens") == 0 ? &r->has_max_tokens : &r->has_max_completion_tokens) = true;
    return code;
}

#define TAKE_REAL(FIELD, CASE, LOW, HIGH)                                                                                                       \
    static int take_##FIELD(struct generate_request *r, const char *name, const struct json *v, struct error *err) {                             \
        int code = take_real(name, v, LOW, HIGH, &r->message.FIELD, err);                                                                        \
        if (code == 0) r->message.FIELD##_set_case = GENLOOP__V1__GENERATE_REQUEST__##CASE;                                                      \
        return code;                                                                                                                             \
    }
GENERATE_RANGES(TAKE_REAL)

static int take_top_p(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int code = take_real(name, v, 0, 1, &r->message.top_p, err);
    if (code < 0) return code;
    if (r->message.top_p < TOP_P_LEAST) r->message.top_p = TOP_P_LEAST;
    r->message.top_p_set_case = GENLOOP__V1__GENERATE_REQUEST__TOP_P_SET_TOP_P;
    return 0;
}

static int take_top_k(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int64_t k;
    int code = take_integer(name, v, -1, INT32_MAX, &k, err);
    if (code == 0) r->message.top_k = k > 0 ? (uint32_t)k : UINT32_MAX; /* vLLM writes "all" as -1, others as 0 */
    return code;
}

static int take_seed(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int64_t seed;
    int code = take_integer(name, v, INT64_MIN, INT64_MAX, &seed, err);
    if (code < 0) return code;
    r->message.seed_set_case = GENLOOP__V1__GENERATE_REQUEST__SEED_SET_SEED;
    r->message.seed = (uint64_t)seed;
    return 0;
}

static int take_n(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int64_t n;
    int code = take_integer(name, v, 1, N_MAX, &n, err);
    if (code == 0) r->n = (uint32_t)n;
    return code;
}

static int take_stop(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    size_t n = json_type(v) == JSON_TYPE_ARRAY ? json_size(v) : 1;
    if (json_type(v) != JSON_TYPE_ARRAY && json_type(v) != JSON_TYPE_STRING) return wrong_type(name, "a string or a list of strings", v, err);
    if (n > STOP_MAX) return error_set_param(err, E_INVALID, name, "'stop' must have at most %d strings", STOP_MAX);
    r->message.stop = arena_calloc(r->arena, n ? n : 1, sizeof *r->message.stop);
    if (!r->message.stop) return no_memory(name, err);
    r->message.n_stop = 0;
    for (size_t i = 0; i < n; i++) {
        const struct json *one = json_type(v) == JSON_TYPE_ARRAY ? json_at(v, i) : v;
        if (json_type(one) == JSON_TYPE_STRING && json_string(one).len == 0) return error_set_param(err, E_INVALID, name, "'stop' has an empty string: it would stop every answer at once");
        char *text;
        int code = take_text(r, name, one, STOP_BYTES_MAX, &text, err);
        if (code < 0) return code;
        if (span_find_char(json_string(one), 0) < 0) r->message.stop[r->message.n_stop++] = text; /* answers carry no U+0000, so that one never matches */
    }
    return 0;
}

static int take_logit_bias(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    void *iterator = NULL;
    struct span key;
    const struct json *value;
    if (json_type(v) != JSON_TYPE_OBJECT) return wrong_type(name, "an object of token ids and numbers", v, err);
    if (json_size(v) > LOGIT_BIAS_MAX) return error_set_param(err, E_INVALID, name, "'logit_bias' must have at most %d tokens", LOGIT_BIAS_MAX);
    Genloop__V1__GenerateRequest__LogitBiasEntry *entries = arena_calloc(r->arena, json_size(v) + 1, sizeof *entries);
    r->message.logit_bias = arena_calloc(r->arena, json_size(v) + 1, sizeof *r->message.logit_bias);
    r->message.n_logit_bias = 0;
    if (!entries || !r->message.logit_bias) return no_memory(name, err);
    while (json_next(v, &iterator, &key, &value)) {
        uint64_t token;
        double bias;
        if (span_to_u64(key, &token) < 0 || token > UINT32_MAX) return error_set_param(err, E_INVALID, name, "'logit_bias': its names must be token ids");
        int code = take_real(name, value, -100, 100, &bias, err);
        if (code < 0) return code;
        Genloop__V1__GenerateRequest__LogitBiasEntry *e = &entries[r->message.n_logit_bias];
        genloop__v1__generate_request__logit_bias_entry__init(e);
        e->key = (uint32_t)token;
        e->value = (float)bias;
        r->message.logit_bias[r->message.n_logit_bias++] = e;
    }
    return 0;
}

static int take_stop_token_ids(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    if (json_type(v) != JSON_TYPE_ARRAY) return wrong_type(name, "a list of token ids", v, err);
    if (json_size(v) > STOP_TOKENS_MAX) return error_set_param(err, E_INVALID, name, "'%s' must have at most %d ids", name, STOP_TOKENS_MAX);
    return take_tokens(r, name, v, &r->message.stop_tokens, &r->message.n_stop_tokens, err);
}

static int take_ignore_eos(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    bool flag = false;
    int code = take_flag(name, v, &flag, err);
    if (code == 0) r->message.ignore_eos = flag;
    return code;
}

static int take_priority(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int64_t n;
    int code = take_integer(name, v, -100, 100, &n, err);
    if (code == 0) r->message.priority = (int32_t)n;
    return code;
}

static int take_stream(struct generate_request *r, const char *name, const struct json *v, struct error *err) { return take_flag(name, v, &r->stream, err); }

static int take_stream_options(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    void *iterator = NULL;
    struct span key;
    const struct json *value;
    if (json_type(v) != JSON_TYPE_OBJECT) return wrong_type(name, "an object", v, err);
    r->has_stream_options = true;
    while (json_next(v, &iterator, &key, &value)) {
        bool flag = false;
        int code = 0;
        if (span_eq_str(key, "include_usage")) {
            if (!json_is_null(value)) code = take_flag("stream_options.include_usage", value, &r->include_usage, err);
        } else if (span_eq_str(key, "include_obfuscation")) {
            if (!json_is_null(value)) code = take_flag("stream_options.include_obfuscation", value, &flag, err);
            if (flag) note_unsupported(r, "stream_options.include_obfuscation");
        } else {
            code = error_set_param(err, E_INVALID, name, "'stream_options' has no '%.*s'", (int)(key.len < 64 ? key.len : 64), key.data);
        }
        if (code < 0) return code;
    }
    return 0;
}

/* OpenAI's `user` and its successor: whom the request is for; what is captured is sealed under it. */
int take_user(struct generate_request *r, const char *name, const struct json *v, struct error *err) { return take_text(r, name, v, USER_MAX, &r->message.user, err); }
/* A hint at which requests share a prefix: those go to one replica, which has it cached. */
static int take_session(struct generate_request *r, const char *name, const struct json *v, struct error *err) { return take_text(r, name, v, SESSION_BYTES_MAX, &r->message.session, err); }

static int take_service_tier(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    if (json_type(v) != JSON_TYPE_STRING) return wrong_type(name, "a string", v, err);
    struct span tier = json_string(v);
    if (span_eq_str(tier, "auto") || span_eq_str(tier, "default")) return 0; /* the only one there is */
    if (span_eq_str(tier, "flex") || span_eq_str(tier, "priority") || span_eq_str(tier, "scale")) note_unsupported(r, name);
    else return error_set_param(err, E_INVALID, name, "'service_tier' must be auto or default");
    return 0;
}

/* ---- samplers ---- */

static int take_mirostat(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int64_t n;
    int code = take_integer(name, v, 0, 2, &n, err);
    if (code == 0) r->message.mirostat = (uint32_t)n;
    return code;
}

static int take_dry_allowed_length(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int64_t n;
    int code = take_integer(name, v, 0, MAX_TOKENS_MAX, &n, err);
    if (code < 0) return code;
    r->message.dry_allowed_length_set_case = GENLOOP__V1__GENERATE_REQUEST__DRY_ALLOWED_LENGTH_SET_DRY_ALLOWED_LENGTH;
    r->message.dry_allowed_length = (uint32_t)n;
    return 0;
}

static int take_dry_answer_only(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    bool flag = false;
    int code = take_flag(name, v, &flag, err);
    if (code == 0) r->message.dry_answer_only = flag;
    return code;
}

static int take_texts(struct generate_request *r, const char *name, const struct json *v, size_t count_max, size_t size_max, Genloop__V1__Texts **out, struct error *err) {
    if (json_type(v) != JSON_TYPE_ARRAY) return wrong_type(name, "a list of strings", v, err);
    size_t n = json_size(v);
    if (n > count_max) return error_set_param(err, E_INVALID, name, "'%s' must have at most %zu strings", name, count_max);
    Genloop__V1__Texts *texts = arena_alloc(r->arena, sizeof *texts);
    if (!texts) return no_memory(name, err);
    genloop__v1__texts__init(texts);
    if (!(texts->texts = arena_calloc(r->arena, n + 1, sizeof *texts->texts))) return no_memory(name, err);
    for (size_t i = 0; i < n; i++) {
        int code = take_text(r, name, json_at(v, i), size_max, &texts->texts[i], err);
        if (code < 0) return code;
        if (!texts->texts[i][0]) return error_set_param(err, E_INVALID, name, "'%s' has an empty string", name);
    }
    texts->n_texts = n;
    *out = texts;
    return 0;
}

static int take_dry_sequence_breakers(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    return take_texts(r, name, v, BREAKERS_MAX, BREAKER_BYTES_MAX, &r->message.dry_sequence_breakers, err);
}

/* ---- structured output ---- */

/* One form is asked for, by whatever name; the schema, pattern or grammar itself is read by the replica, which says what is wrong with it. */
static int set_constraint(struct generate_request *r, const char *name, Genloop__V1__GenerateRequest__ConstraintCase kind, struct error *err) {
    if (r->message.constraint_case) return error_set_param(err, E_INVALID, name, "'%s' and '%s' both say what the answer must be: give one", r->message.constraint_param, name);
    r->message.constraint_case = kind;
    r->message.constraint_param = (char *)(uintptr_t)name; /* a row's name */
    return 0;
}

static int take_schema(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    char *text = json_type(v) == JSON_TYPE_STRING ? text_in_arena(r->arena, json_string(v)) : json_text_in_arena(r->arena, v);
    if (!text) return no_memory(name, err);
    if (strlen(text) > CONSTRAINT_BYTES_MAX) return error_set_param(err, E_INVALID, name, "'%s': the schema must have at most %d bytes", name, CONSTRAINT_BYTES_MAX);
    int code = set_constraint(r, name, GENLOOP__V1__GENERATE_REQUEST__CONSTRAINT_JSON_SCHEMA, err);
    if (code == 0) r->message.json_schema = text;
    return code;
}

static int take_json_object(struct generate_request *r, const char *name, struct error *err) {
    int code = set_constraint(r, name, GENLOOP__V1__GENERATE_REQUEST__CONSTRAINT_JSON_OBJECT, err);
    if (code == 0) r->message.json_object = true;
    return code;
}

static int take_guided_json(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    if (json_type(v) != JSON_TYPE_OBJECT && json_type(v) != JSON_TYPE_STRING) return wrong_type(name, "a JSON schema", v, err);
    return take_schema(r, name, v, err);
}

static int take_guided_regex(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    char *text;
    int code = take_text(r, name, v, CONSTRAINT_BYTES_MAX, &text, err);
    if (code == 0) code = set_constraint(r, name, GENLOOP__V1__GENERATE_REQUEST__CONSTRAINT_REGEX, err);
    if (code == 0) r->message.regex = text;
    return code;
}

static int take_guided_grammar(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    char *text;
    int code = take_text(r, name, v, CONSTRAINT_BYTES_MAX, &text, err);
    if (code == 0) code = set_constraint(r, name, GENLOOP__V1__GENERATE_REQUEST__CONSTRAINT_GRAMMAR, err);
    if (code == 0) r->message.grammar = text;
    return code;
}

static int take_guided_choice(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    Genloop__V1__Texts *texts = NULL;
    int code = take_texts(r, name, v, CHOICES_MAX, CONSTRAINT_BYTES_MAX, &texts, err);
    if (code == 0 && texts->n_texts == 0) code = error_set_param(err, E_INVALID, name, "'%s' has nothing to choose from", name);
    if (code == 0) code = set_constraint(r, name, GENLOOP__V1__GENERATE_REQUEST__CONSTRAINT_CHOICE, err);
    if (code == 0) r->message.choice = texts;
    return code;
}

/* vLLM's newer form of the guided_ parameters: {"json": …} and so on, one of them. */
static int take_structured_outputs(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    void *iterator = NULL;
    struct span key;
    const struct json *value;
    int code = 0;
    if (json_type(v) != JSON_TYPE_OBJECT) return wrong_type(name, "an object", v, err);
    while (code == 0 && json_next(v, &iterator, &key, &value)) {
        bool object = false;
        if (json_is_null(value)) continue;
        if (span_eq_str(key, "json")) code = take_guided_json(r, name, value, err);
        else if (span_eq_str(key, "regex")) code = take_guided_regex(r, name, value, err);
        else if (span_eq_str(key, "grammar")) code = take_guided_grammar(r, name, value, err);
        else if (span_eq_str(key, "choice")) code = take_guided_choice(r, name, value, err);
        else if (span_eq_str(key, "json_object")) {
            code = take_flag(name, value, &object, err);
            if (code == 0 && object) code = take_json_object(r, name, err);
        } else code = error_set_param(err, E_INVALID, name, "'structured_outputs' has no '%.*s': it takes json, regex, grammar, choice or json_object", (int)(key.len < 64 ? key.len : 64), key.data);
    }
    return code;
}

int take_format(struct generate_request *r, const char *name, const struct json *v, const struct json *schema, struct error *err) {
    struct span type = json_string(json_get(v, "type"));
    char param[ERROR_PARAM_MAX];
    if (json_type(v) != JSON_TYPE_OBJECT) return wrong_type(name, "an object", v, err);
    if (span_eq_str(type, "text")) return 0;
    if (span_eq_str(type, "json_object")) return take_json_object(r, name, err);
    (void)snprintf(param, sizeof param, "%s.%s", name, !span_eq_str(type, "json_schema") ? "type" : schema == v ? "schema" : "json_schema");
    if (!span_eq_str(type, "json_schema")) return error_set_param(err, E_INVALID, param, "'%s' must be text, json_object or json_schema", param);
    if (json_string(json_get(schema, "name")).len == 0 || json_type(json_get(schema, "schema")) != JSON_TYPE_OBJECT)
        return error_set_param(err, E_INVALID, param, "'%s' needs a name and a schema", schema == v ? name : param);
    return take_schema(r, name, json_get(schema, "schema"), err);
}

static int take_response_format(struct generate_request *r, const char *name, const struct json *v, struct error *err) { return take_format(r, name, v, json_get(v, "json_schema"), err); }

const struct parameter SHARED_PARAMETERS[] = {
    {"model", take_model},
    {"max_tokens", take_max_tokens},
    {"temperature", take_temperature},
    {"top_p", take_top_p},
    {"top_k", take_top_k},
    {"min_p", take_min_p},
    {"frequency_penalty", take_frequency_penalty},
    {"presence_penalty", take_presence_penalty},
    {"repetition_penalty", take_repetition_penalty},
    {"typical_p", take_typical_p},
    {"top_n_sigma", take_top_n_sigma},
    {"dry_multiplier", take_dry_multiplier},
    {"dry_base", take_dry_base},
    {"dry_allowed_length", take_dry_allowed_length},
    {"dry_sequence_breakers", take_dry_sequence_breakers},
    {"dry_answer_only", take_dry_answer_only},
    {"xtc_probability", take_xtc_probability},
    {"xtc_threshold", take_xtc_threshold},
    {"mirostat", take_mirostat},
    {"mirostat_tau", take_mirostat_tau},
    {"mirostat_eta", take_mirostat_eta},
    {"response_format", take_response_format},
    {"guided_json", take_guided_json},
    {"guided_regex", take_guided_regex},
    {"guided_grammar", take_guided_grammar},
    {"guided_choice", take_guided_choice},
    {"structured_outputs", take_structured_outputs},
    {"seed", take_seed},
    {"n", take_n},
    {"stop", take_stop},
    {"stop_token_ids", take_stop_token_ids},
    {"ignore_eos", take_ignore_eos},
    {"logit_bias", take_logit_bias},
    {"priority", take_priority},
    {"stream", take_stream},
    {"stream_options", take_stream_options},
    {"user", take_user},
    {"safety_identifier", take_user},
    {"prompt_cache_key", take_session},
    {"service_tier", take_service_tier},
};
const size_t SHARED_PARAMETERS_COUNT = sizeof SHARED_PARAMETERS / sizeof *SHARED_PARAMETERS;

/* ---- reading ---- */

static const struct parameter *row_of(const struct parameter *rows, size_t n, struct span name) {
    for (size_t i = 0; i < n; i++)
        if (span_eq_str(name, rows[i].name)) return &rows[i];
    return NULL;
}

int parameters_read(struct generate_request *r, const struct json *body, const struct parameter *rows, size_t n_rows, const struct parameter *more, size_t n_more, struct error *err) {
    void *iterator = NULL;
    struct span name;
    const struct json *value;
    if (json_type(body) != JSON_TYPE_OBJECT) return error_set(err, E_INVALID, "the body must be a JSON object, not %s", json_type_name(body));
    while (json_next(body, &iterator, &name, &value)) {
        const struct parameter *row = row_of(rows, n_rows, name);
        if (!row) row = row_of(more, n_more, name);
        if (!row) {
            char param[ERROR_PARAM_MAX];
            span_copy(param, sizeof param, name);
            return error_set_param(err, E_INVALID, param, "unrecognized parameter '%s'", param);
        }
        if (json_is_null(value)) continue;
        int code = row->take(r, row->name, value, err);
        if (code < 0) return code;
    }
    return 0;
}

int parameters_finish(struct generate_request *r, struct error *err) {
    if (!r->message.model || !r->message.model[0]) return error_set_param(err, E_INVALID, "model", "'model' is required: a model, name@version or an alias such as production");
    if (r->has_max_tokens && r->has_max_completion_tokens) return error_set_param(err, E_INVALID, "max_tokens", "'max_tokens' and 'max_completion_tokens' are the same limit: give one");
    if (r->has_stream_options && !r->stream) return error_set_param(err, E_INVALID, "stream_options", "'stream_options' is for 'stream': true");
    if (r->unsupported[0]) return error_set_param(err, E_UNSUPPORTED, r->unsupported, "'%s' is not supported yet", r->unsupported);
    return 0;
}
