/* adapter_config.json: which keys there are, what each may say, and which numbers a module gets. */
#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "model/adapter.h"

/* What a key may say so that the pair of matrices is all there is to an adapter. */
enum rule {
    RULE_READ,    /* read below */
    RULE_ANY,     /* of training, of how it was initialised, or told by the tensors themselves */
    RULE_NOTHING, /* null, false, "" or empty: anything else is another arithmetic */
};
static const struct {
    const char *key;
    enum rule rule;
    const char *what; /* RULE_NOTHING: what it would be */
} KEYS[] = {
    {"peft_type", RULE_READ, NULL},
    {"task_type", RULE_READ, NULL},
    {"r", RULE_READ, NULL},
    {"lora_alpha", RULE_READ, NULL},
    {"use_rslora", RULE_READ, NULL},
    {"rank_pattern", RULE_READ, NULL},
    {"alpha_pattern", RULE_READ, NULL},
    {"bias", RULE_READ, NULL},
    {"init_lora_weights", RULE_READ, NULL},
    {"base_model_name_or_path", RULE_READ, NULL},
    {"auto_mapping", RULE_ANY, NULL},
    {"peft_version", RULE_ANY, NULL},
    {"revision", RULE_ANY, NULL},
    {"inference_mode", RULE_ANY, NULL},
    {"target_modules", RULE_ANY, NULL},
    {"exclude_modules", RULE_ANY, NULL},
    {"layers_to_transform", RULE_ANY, NULL},
    {"layers_pattern", RULE_ANY, NULL},
    {"lora_dropout", RULE_ANY, NULL},
    {"fan_in_fan_out", RULE_ANY, NULL},
    {"megatron_core", RULE_ANY, NULL},
    {"qalora_group_size", RULE_ANY, NULL},
    {"loftq_config", RULE_ANY, NULL},
    {"eva_config", RULE_ANY, NULL},
    {"corda_config", RULE_ANY, NULL},
    {"lora_ga_config", RULE_ANY, NULL},
    {"runtime_config", RULE_ANY, NULL},
    {"ensure_weight_tying", RULE_ANY, NULL},
    {"use_dora", RULE_NOTHING, "DoRA"},
    {"modules_to_save", RULE_NOTHING, "modules that are replaced whole"},
    {"lora_bias", RULE_NOTHING, "biases of B"},
    {"layer_replication", RULE_NOTHING, "layers that are repeated"},
    {"trainable_token_indices", RULE_NOTHING, "tokens with embeddings of their own"},
    {"target_parameters", RULE_NOTHING, "targets that are no modules"},
    {"megatron_config", RULE_NOTHING, "Megatron's layers"},
    {"alora_invocation_tokens", RULE_NOTHING, "activated LoRA"},
    {"use_qalora", RULE_NOTHING, "QALoRA"},
    {"use_bdlora", RULE_NOTHING, "block-diagonal LoRA"},
    {"arrow_config", RULE_NOTHING, "Arrow's routing"},
    {"kasa_config", RULE_NOTHING, "KaSA"},
    {"velora_config", RULE_NOTHING, "VeLoRA"},
    {"monteclora_config", RULE_NOTHING, "MonteCLoRA"},
};

static bool says_nothing(const struct json *v) {
    switch (json_type(v)) {
    case JSON_TYPE_NULL: return true;
    case JSON_TYPE_BOOL: return !json_bool(v, true);
    case JSON_TYPE_STRING: return json_string(v).len == 0;
    case JSON_TYPE_ARRAY:
    case JSON_TYPE_OBJECT: return json_size(v) == 0;
    default: return false;
    }
}

static int check_key(struct span key, const struct json *v, struct error *err) {
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) {
        if (!span_eq_str(key, KEYS[i].key)) continue;
        if (KEYS[i].rule != RULE_NOTHING || says_nothing(v)) return 0;
        return error_set_param(err, E_UNSUPPORTED, KEYS[i].key, "%s: %s is not built: train the adapter without it", KEYS[i].key, KEYS[i].what);
    }
    if (says_nothing(v)) return 0;
    return error_set(err, E_UNSUPPORTED, "the key %.*s is not known, and an adapter that needs it would be computed wrongly", SPAN_ARG(span_sub(key, 0, 80)));
}

/* ---- patterns ----
 * PEFT matches ^(.*\.)?(KEY)$ with KEY a regular expression. Names are all that is found in published adapters: taken are characters, '.', '\.', '.*', and ^ and $ at the
 * ends, which a scan with one place to go back to decides in at most length × length steps; every other sign of regular expressions is refused. */

static int check_pattern(const char *which, struct span key, struct error *err) {
    if (key.len == 0 || key.len > ADAPTER_PATTERN_MAX)
        return error_set_param(err, E_INVALID, which, "%s: a key has %zu bytes; 1 to %d are taken", which, key.len, ADAPTER_PATTERN_MAX);
    for (size_t i = 0; i < key.len; i++) {
        char c = key.data[i];
        bool fine = c != 0 && !strchr("*+?()[]{}|\\^$", c);
        fine |= c == '\\' && i + 1 < key.len && key.data[i + 1] == '.';
        fine |= c == '*' && i > 0 && key.data[i - 1] == '.' && (i < 2 || key.data[i - 2] != '\\') && (i + 1 == key.len || key.data[i + 1] != '*');
        fine |= (c == '^' && i == 0) || (c == '$' && i + 1 == key.len);
        if (!fine)
            return error_set_param(err, E_UNSUPPORTED, which, "%s: the key \"%.*s\" is a regular expression that is not built; names, '.', '.*', ^ and $ are", which, SPAN_ARG(span_sub(key, 0, 120)));
    }
    return 0;
}

/* The next sign of a checked pattern: a character, any, or any number of any. Returns its length. */
enum sign { SIGN_CHAR, SIGN_ANY, SIGN_MANY };
static size_t next_sign(struct span p, enum sign *sign, char *c) {
    *c = p.data[0];
    *sign = SIGN_CHAR;
    if (*c == '\\') {
        *c = '.';
        return 2;
    }
    if (*c != '.') return 1;
    *sign = p.len > 1 && p.data[1] == '*' ? SIGN_MANY : SIGN_ANY;
    return *sign == SIGN_MANY ? 2 : 1;
}

/* Whether the pattern, without its ends, is all of the text. */
static bool matches_whole(struct span p, struct span text) {
    struct span retry_p = {0}, retry_text = {0};
    bool retry = false;
    for (;;) {
        enum sign sign = SIGN_CHAR;
        char c = 0;
        size_t n = p.len ? next_sign(p, &sign, &c) : 0;
        if (n && sign == SIGN_MANY) {
            retry = true;
            retry_p = p = span_skip(p, n);
            retry_text = text;
            continue;
        }
        if (!n && !text.len) return true;
        if (n && text.len && (sign == SIGN_ANY || text.data[0] == c)) {
            p = span_skip(p, n);
            text = span_skip(text, 1);
            continue;
        }
        if (!retry || !retry_text.len) return false;
        p = retry_p;
        text = retry_text = span_skip(retry_text, 1);
    }
}

static bool matches(struct span key, struct span module) {
    bool start = key.data[0] == '^';
    if (start) key = span_skip(key, 1);
    if (key.len && key.data[key.len - 1] == '$') key.len--;
    if (matches_whole(key, module)) return true;
    for (size_t i = 0; !start && i < module.len; i++)
        if (module.data[i] == '.' && matches_whole(key, span_skip(module, i + 1))) return true;
    return false;
}

/* The first key in the order of the file, as PEFT takes it. */
static const struct json *pattern_of(const struct json *patterns, struct span module) {
    void *it = NULL;
    struct span key;
    const struct json *value;
    while (json_next(patterns, &it, &key, &value))
        if (matches(key, module)) return value;
    return NULL;
}

static bool is_number(const struct json *v) { return json_type(v) == JSON_TYPE_INT || json_type(v) == JSON_TYPE_REAL; }
static bool alpha_is_fine(const struct json *v) { return is_number(v) && isfinite(json_real(v, 0)) && fabs(json_real(v, 0)) <= 1e9; }
static bool rank_is_fine(const struct json *v) { return json_int(v, 0) >= 1 && json_int(v, 0) <= ADAPTER_RANK_MAX; }

static int check_patterns(const struct json *root, const char *which, bool (*fine)(const struct json *v), struct error *err) {
    const struct json *patterns = json_get(root, which), *value;
    if (json_is_null(patterns)) return 0;
    if (json_type(patterns) != JSON_TYPE_OBJECT) return error_set_param(err, E_INVALID, which, "%s is %s, not an object", which, json_type_name(patterns));
    if (json_size(patterns) > ADAPTER_PATTERNS_MAX) return error_set_param(err, E_TOO_LARGE, which, "%s has more than %d keys", which, ADAPTER_PATTERNS_MAX);
    void *it = NULL;
    struct span key;
    int r = 0;
    while (r == 0 && json_next(patterns, &it, &key, &value)) {
        r = check_pattern(which, key, err);
        if (r == 0 && !fine(value)) r = error_set_param(err, E_RANGE, which, "%s: the value of \"%.*s\" is no number that is taken (ranks: 1 to %d)", which, SPAN_ARG(span_sub(key, 0, 120)), ADAPTER_RANK_MAX);
    }
    return r;
}

/* Initialisations that leave the base as it is. The others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) take a part out of its weights. */
static int check_init(const struct json *v, struct error *err) {
    static const char *const harmless[] = {"gaussian", "eva", "orthogonal"};
    if (json_is_null(v) || json_type(v) == JSON_TYPE_BOOL) return 0;
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        if (span_eq_str(json_string(v), harmless[i])) return 0;
    return error_set_param(err, E_UNSUPPORTED, "init_lora_weights", "init_lora_weights: \"%.*s\" changes the base's own weights and is not built: save the adapter converted to plain LoRA",
                           SPAN_ARG(span_sub(json_string(v), 0, 40)));
}

static int read_root(const struct json *root, struct adapter_config *c, struct error *err) {
    if (json_type(root) != JSON_TYPE_OBJECT) return error_set(err, E_INVALID, "it is %s, not an object", json_type_name(root));
    struct span kind = json_string(json_get(root, "peft_type")), task = json_string(json_get(root, "task_type")), bias = json_string(json_get(root, "bias"));
    if (!span_eq_str(kind, "LORA"))
        return error_set_param(err, kind.len ? E_UNSUPPORTED : E_INVALID, "peft_type", "peft_type is \"%.*s\"; LORA is built", SPAN_ARG(span_sub(kind, 0, 40)));
    if (task.len && !span_eq_str(task, "CAUSAL_LM"))
        return error_set_param(err, E_UNSUPPORTED, "task_type", "task_type %.*s is not built; CAUSAL_LM is", SPAN_ARG(span_sub(task, 0, 40)));
    if (bias.len && !span_eq_str(bias, "none"))
        return error_set_param(err, E_UNSUPPORTED, "bias", "bias \"%.*s\" is not built: train the adapter with bias none", SPAN_ARG(span_sub(bias, 0, 40)));
    void *it = NULL;
    struct span key;
    const struct json *value;
    int r = 0;
    while (r == 0 && json_next(root, &it, &key, &value)) r = check_key(key, value, err);
    if (r == 0) r = check_init(json_get(root, "init_lora_weights"), err);
    if (r == 0 && !rank_is_fine(json_get(root, "r"))) r = error_set_param(err, E_RANGE, "r", "r is not between 1 and %d", ADAPTER_RANK_MAX);
    const struct json *alpha = json_get(root, "lora_alpha"), *rslora = json_get(root, "use_rslora"), *base = json_get(root, "base_model_name_or_path");
    if (r == 0 && !alpha_is_fine(alpha)) r = error_set_param(err, E_INVALID, "lora_alpha", "lora_alpha is no number that is taken");
    if (r == 0 && !json_is_null(rslora) && json_type(rslora) != JSON_TYPE_BOOL) r = error_set_param(err, E_INVALID, "use_rslora", "use_rslora is %s, not true or false", json_type_name(rslora));
    if (r == 0 && (json_string(base).len >= ADAPTER_BASE_MAX || (json_string(base).len && memchr(json_string(base).data, 0, json_string(base).len))))
        r = error_set_param(err, E_INVALID, "base_model_name_or_path", "base_model_name_or_path is no name");
    if (r == 0) r = check_patterns(root, "rank_pattern", rank_is_fine, err);
    if (r == 0) r = check_patterns(root, "alpha_pattern", alpha_is_fine, err);
    if (r != 0) return r;
    c->rank = (uint32_t)json_int(json_get(root, "r"), 0);
    c->alpha = json_real(alpha, 0);
    c->rslora = json_bool(rslora, false);
    span_copy(c->base, sizeof c->base, json_string(base));
    return 0;
}

int adapter_config_parse(struct span text, struct adapter_config *c, struct error *err) {
    struct adapter_config n = {.rank = 0};
    int r = json_parse(text, &n.root, err);
    if (r == 0) r = read_root(n.root, &n, err);
    if (r != 0) {
        adapter_config_fini(&n);
        return r;
    }
    *c = n;
    return 0;
}

void adapter_config_fini(struct adapter_config *c) {
    json_free(c->root);
    c->root = NULL;
}

void adapter_config_module(const struct adapter_config *c, struct span module, uint32_t *rank, double *scaling) {
    const struct json *own_rank = pattern_of(json_get(c->root, "rank_pattern"), module), *own_alpha = pattern_of(json_get(c->root, "alpha_pattern"), module);
    *rank = own_rank ? (uint32_t)json_int(own_rank, 0) : c->rank;
    double alpha = own_alpha ? json_real(own_alpha, 0) : c->alpha;
    *scaling = c->rslora ? alpha / sqrt(*rank) : alpha / *rank;
}
