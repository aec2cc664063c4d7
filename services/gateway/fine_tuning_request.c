#include "fine_tuning_request.h"

#include "generate_request.h"

enum { ID_MAX = 128,
       MODEL_MAX = 256,
       SUFFIX_MAX = 64,
       EPOCHS_MAX = 50,
       BATCH_MAX = 256,
       METADATA_MAX = 16,
       KEY_MAX = 64,
       VALUE_MAX = 512 }; /* OpenAI's own */

struct reading {
    struct arena *arena;
    Genloop__V1__FineTuning *f;
    char unsupported[ERROR_PARAM_MAX];
    const struct json *hyperparameters; /* the older place of them */
};

struct key {
    const char *name;
    int (*read)(struct reading *r, const char *name, const struct json *v, struct error *err);
};

static int read_keys(struct reading *r, const char *where, const struct json *object, const struct key *keys, size_t n, struct error *err) {
    void *iterator = NULL;
    struct span key;
    const struct json *value;
    if (json_type(object) != JSON_TYPE_OBJECT) return wrong_type(where, "an object", object, err);
    while (json_next(object, &iterator, &key, &value)) {
        char name[ERROR_PARAM_MAX];
        size_t i = 0;
        while (i < n && !span_eq_str(key, keys[i].name)) i++;
        (void)snprintf(name, sizeof name, "%.30s%s%.*s", where, where[0] ? "." : "", (int)(key.len < 32 ? key.len : 32), key.data);
        if (i == n) return error_set_param(err, E_INVALID, name, "unrecognized parameter '%s'", name);
        int code = json_is_null(value) ? 0 : keys[i].read(r, name, value, err);
        if (code < 0) return code;
    }
    return 0;
}

static int read_string(struct reading *r, const char *name, const struct json *v, size_t most, char **out, struct error *err) {
    struct span s = json_string(v);
    if (json_type(v) != JSON_TYPE_STRING) return wrong_type(name, "a string", v, err);
    if (s.len > most) return error_set_param(err, E_INVALID, name, "'%s' must have at most %zu bytes", name, most);
    if (s.len && memchr(s.data, 0, s.len)) return error_set_param(err, E_INVALID, name, "'%s' must not have U+0000 in it", name);
    struct span copy = arena_span(r->arena, s);
    if (!copy.data) return error_set(err, E_NOMEM, "no memory for the request");
    *out = (char *)(uintptr_t)copy.data;
    return 0;
}

#define READ_STRING(NAME, MOST) \
    static int read_##NAME(struct reading *r, const char *name, const struct json *v, struct error *err) { return read_string(r, name, v, MOST, &r->f->NAME, err); }
READ_STRING(model, MODEL_MAX)
READ_STRING(training_file, ID_MAX)
READ_STRING(validation_file, ID_MAX)
READ_STRING(suffix, SUFFIX_MAX)

static int read_seed(struct reading *r, const char *name, const struct json *v, struct error *err) {
    int64_t seed;
    int code = take_integer(name, v, 0, INT32_MAX, &seed, err);
    if (code == 0) r->f->seed = (uint64_t)seed;
    return code;
}

/* A number, or "auto": the trainer's choice. */
static bool is_auto(const struct json *v) { return json_type(v) == JSON_TYPE_STRING && span_eq_str(json_string(v), "auto"); }

static int read_epochs(struct reading *r, const char *name, const struct json *v, struct error *err) {
    int64_t n = 0;
    int code = is_auto(v) ? 0 : take_integer(name, v, 1, EPOCHS_MAX, &n, err);
    if (code == 0) r->f->epochs = (uint32_t)n;
    return code;
}

static int read_batch_size(struct reading *r, const char *name, const struct json *v, struct error *err) {
    int64_t n = 0;
    int code = is_auto(v) ? 0 : take_integer(name, v, 1, BATCH_MAX, &n, err);
    if (code == 0) r->f->batch_size = (uint32_t)n;
    return code;
}

static int read_positive(const char *name, const struct json *v, double most, double *out, struct error *err) {
    double d = 0;
    int code = is_auto(v) ? 0 : take_real(name, v, 0, most, &d, err);
    if (code == 0 && !is_auto(v) && !(d > 0)) code = error_set_param(err, E_INVALID, name, "'%s' must be above 0", name);
    if (code == 0) *out = d;
    return code;
}

static int read_multiplier(struct reading *r, const char *name, const struct json *v, struct error *err) { return read_positive(name, v, 100, &r->f->learning_rate_multiplier, err); }
static int read_beta(struct reading *r, const char *name, const struct json *v, struct error *err) { return read_positive(name, v, 10, &r->f->beta, err); }

static const struct key SUPERVISED[] = {{"n_epochs", read_epochs}, {"batch_size", read_batch_size}, {"learning_rate_multiplier", read_multiplier}};
static const struct key DPO[] = {{"n_epochs", read_epochs}, {"batch_size", read_batch_size}, {"learning_rate_multiplier", read_multiplier}, {"beta", read_beta}};

static int read_old_hyperparameters(struct reading *r, const char *name, const struct json *v, struct error *err) {
    r->hyperparameters = v;
    return json_type(v) == JSON_TYPE_OBJECT ? 0 : wrong_type(name, "an object", v, err);
}

static int read_supervised_hyperparameters(struct reading *r, const char *name, const struct json *v, struct error *err) {
    (void)name;
    return read_keys(r, "method.supervised", v, SUPERVISED, sizeof SUPERVISED / sizeof *SUPERVISED, err);
}
static int read_dpo_hyperparameters(struct reading *r, const char *name, const struct json *v, struct error *err) {
    (void)name;
    return read_keys(r, "method.dpo", v, DPO, sizeof DPO / sizeof *DPO, err);
}

static int read_type(struct reading *r, const char *name, const struct json *v, struct error *err) {
    int code = read_string(r, name, v, ID_MAX, &r->f->method, err);
    if (code < 0) return code;
    if (strcmp(r->f->method, "reinforcement") == 0) span_copy(r->unsupported, sizeof r->unsupported, SPAN("method.type"));
    else if (strcmp(r->f->method, "supervised") != 0 && strcmp(r->f->method, "dpo") != 0)
        return error_set_param(err, E_INVALID, name, "'%s' must be supervised, dpo or reinforcement, not \"%.64s\"", name, r->f->method);
    return 0;
}

/* Of the type that is named; checked once the type is known. */
static int read_later(struct reading *r, const char *name, const struct json *v, struct error *err) {
    (void)r;
    return json_type(v) == JSON_TYPE_OBJECT ? 0 : wrong_type(name, "an object", v, err);
}

static int read_method(struct reading *r, const char *name, const struct json *v, struct error *err) {
    static const struct key keys[] = {{"type", read_type}, {"supervised", read_later}, {"dpo", read_later}, {"reinforcement", read_later}};
    static const struct key supervised[] = {{"hyperparameters", read_supervised_hyperparameters}}, dpo[] = {{"hyperparameters", read_dpo_hyperparameters}};
    int code = read_keys(r, name, v, keys, sizeof keys / sizeof *keys, err);
    if (code < 0) return code;
    if (!r->f->method[0]) return error_set_param(err, E_INVALID, "method.type", "'method.type' is required: supervised or dpo");
    for (size_t i = 1; i < sizeof keys / sizeof *keys; i++)
        if (!json_is_null(json_get(v, keys[i].name)) && strcmp(keys[i].name, r->f->method) != 0)
            return error_set_param(err, E_INVALID, "method", "'method.%s' does not go with method.type %s", keys[i].name, r->f->method);
    const struct json *own = json_get(v, r->f->method);
    if (json_is_null(own) || r->unsupported[0]) return 0;
    return strcmp(r->f->method, "dpo") == 0 ? read_keys(r, "method.dpo", own, dpo, 1, err) : read_keys(r, "method.supervised", own, supervised, 1, err);
}

static int read_integrations(struct reading *r, const char *name, const struct json *v, struct error *err) {
    if (json_type(v) != JSON_TYPE_ARRAY) return wrong_type(name, "an array", v, err);
    if (json_size(v)) span_copy(r->unsupported, sizeof r->unsupported, SPAN("integrations"));
    return 0;
}

static int read_metadata(struct reading *r, const char *name, const struct json *v, struct error *err) {
    void *iterator = NULL;
    struct span key;
    const struct json *value;
    size_t n = json_size(v);
    if (json_type(v) != JSON_TYPE_OBJECT) return wrong_type(name, "an object of strings", v, err);
    if (n > METADATA_MAX) return error_set_param(err, E_INVALID, name, "'%s' must have at most %d keys", name, METADATA_MAX);
    Genloop__V1__FineTuning__MetadataEntry **list = arena_calloc(r->arena, n + 1, sizeof *list), *entries = arena_calloc(r->arena, n + 1, sizeof *entries);
    if (!list || !entries) return error_set(err, E_NOMEM, "no memory for the request");
    for (size_t i = 0; json_next(v, &iterator, &key, &value); i++) {
        genloop__v1__fine_tuning__metadata_entry__init(&entries[i]);
        list[i] = &entries[i];
        if (key.len > KEY_MAX || (key.len && memchr(key.data, 0, key.len))) return error_set_param(err, E_INVALID, name, "'%s': a key has at most %d bytes", name, KEY_MAX);
        struct span copy = arena_span(r->arena, key);
        if (!copy.data) return error_set(err, E_NOMEM, "no memory for the request");
        entries[i].key = (char *)(uintptr_t)copy.data;
        int code = read_string(r, name, value, VALUE_MAX, &entries[i].value, err);
        if (code < 0) return code;
    }
    r->f->metadata = list;
    r->f->n_metadata = n;
    return 0;
}

int fine_tuning_request_read(const struct json *body, struct arena *arena, Genloop__V1__FineTuning *f, struct error *err) {
    static const struct key keys[] = {
        {"model", read_model},
        {"training_file", read_training_file},
        {"validation_file", read_validation_file},
        {"suffix", read_suffix},
        {"seed", read_seed},
        {"hyperparameters", read_old_hyperparameters},
        {"method", read_method},
        {"integrations", read_integrations},
        {"metadata", read_metadata},
    };
    struct reading r = {.arena = arena, .f = f};
    genloop__v1__fine_tuning__init(f);
    int code = read_keys(&r, "", body, keys, sizeof keys / sizeof *keys, err);
    if (code < 0) return code;
    if (!f->model[0]) return error_set_param(err, E_INVALID, "model", "'model' is required: the model to fine-tune, by name, name@version or alias");
    if (!f->training_file[0]) return error_set_param(err, E_INVALID, "training_file", "'training_file' is required: the id of a file of purpose fine-tune");
    if (r.hyperparameters && !json_is_null(json_get(body, "method"))) return error_set_param(err, E_INVALID, "hyperparameters", "'hyperparameters' and 'method' are two places for the same: give 'method'");
    if (r.hyperparameters && (code = read_keys(&r, "hyperparameters", r.hyperparameters, SUPERVISED, sizeof SUPERVISED / sizeof *SUPERVISED, err)) < 0) return code;
    if (!f->method[0]) f->method = (char *)(uintptr_t) "supervised";
    if (r.unsupported[0]) return error_set_param(err, E_UNSUPPORTED, r.unsupported, "'%s' is known, but not built yet", r.unsupported);
    return 0;
}
