/*
 * One table of keys (section, name, type, where it goes, range) behind reading, checking and writing: a key that is not in it is unknown. Keys of what is
 * not built yet are in the table too, so that they are named as such and not as typing errors.
 */
#include "train/recipe.h"

#include <limits.h>
#include <math.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "model/arch.h"

enum kind { K_STRING, K_U32, K_U64, K_REAL, K_BOOL, K_TRISTATE, K_BETAS, K_ENUM, K_LATER };

struct key {
    const char *section, *name; /* section "": top level */
    enum kind kind;
    size_t at;   /* offset in struct train_recipe */
    double min, max; /* numbers; a string's size in max */
    const char *const *names; /* K_ENUM, in the enum's order */
};

/* The first ones are built. */
static const char *const objectives[] = {"pretrain", "sft",  "dpo",  "mlm", "contrastive", "distill", "classify", "reward", "kto",    "orpo",
                                         "ppo",      "grpo", "rloo", "vae", "gan",         "diffusion", "tvae",  "ctgan",  "tabddpm", NULL};
static const char *const schedules[] = {"constant", "linear", "cosine", "wsd", NULL};
static const char *const decays[] = {"linear", "cosine", "1-sqrt", NULL};
static const char *const dpo_losses[] = {"sigmoid", "ipo", "robust", "hinge", "apo_zero", "apo_down", NULL};
static const char *const optimizers[] = {"adamw", "lion", "adafactor", "muon", "sgd", NULL};
static const char *const precisions[] = {"f32", "bf16", NULL};

#define AT(field) offsetof(struct train_recipe, field)
#define SIZE(field) (double)sizeof(((struct train_recipe *)0)->field)
static const struct key keys[] = {
    {"", "objective", K_ENUM, AT(objective), 0, RECIPE_OBJECTIVES, objectives},
    {"model", "base", K_STRING, AT(model.base), 0, SIZE(model.base), NULL},
    {"model", "architecture", K_STRING, AT(model.architecture), 0, SIZE(model.architecture), NULL},
    {"model", "layers", K_U32, AT(model.layers), 1, MODEL_LAYERS_MAX, NULL},
    {"model", "width", K_U32, AT(model.width), 1, MODEL_WIDTH_MAX, NULL},
    {"model", "heads", K_U32, AT(model.heads), 1, MODEL_HEADS_MAX, NULL},
    {"model", "kv_heads", K_U32, AT(model.kv_heads), 1, MODEL_HEADS_MAX, NULL},
    {"model", "ffn", K_U32, AT(model.ffn), 1, MODEL_FFN_MAX, NULL},
    {"model", "context", K_U32, AT(model.context), 1, RECIPE_LENGTH_MAX, NULL},
    {"model", "vocab", K_U32, AT(model.vocab), 1, MODEL_VOCAB_MAX, NULL},
    {"model", "tie_embeddings", K_TRISTATE, AT(model.tie_embeddings), 0, 1, NULL},
    {"data", "dataset", K_STRING, AT(data.dataset), 0, SIZE(data.dataset), NULL},
    {"data", "tokens", K_STRING, AT(data.tokens), 0, SIZE(data.tokens), NULL},
    {"data", "file", K_STRING, AT(data.file), 0, SIZE(data.file), NULL},
    {"data", "shuffle", K_BOOL, AT(data.shuffle), 0, 1, NULL},
    {"data", "tokenizer", K_STRING, AT(data.tokenizer), 0, SIZE(data.tokenizer), NULL},
    {"batch", "sequences", K_U32, AT(batch.sequences), 1, RECIPE_SEQUENCES_MAX, NULL},
    {"batch", "length", K_U32, AT(batch.length), 1, RECIPE_LENGTH_MAX, NULL},
    {"batch", "accumulate", K_U32, AT(batch.accumulate), 1, RECIPE_SEQUENCES_MAX, NULL},
    {"optimizer", "name", K_ENUM, SIZE_MAX, 0, 1, optimizers},
    {"optimizer", "lr", K_REAL, AT(optimizer.lr), 0, 1e6, NULL},
    {"optimizer", "betas", K_BETAS, AT(optimizer.beta1), 0, 1, NULL},
    {"optimizer", "eps", K_REAL, AT(optimizer.eps), 0, 1, NULL},
    {"optimizer", "weight_decay", K_REAL, AT(optimizer.weight_decay), 0, 1e6, NULL},
    {"schedule", "name", K_ENUM, AT(schedule.kind), 0, 4, schedules},
    {"schedule", "warmup_steps", K_U64, AT(schedule.warmup_steps), 0, 1e12, NULL},
    {"schedule", "min_lr_ratio", K_REAL, AT(schedule.min_lr_ratio), 0, 1, NULL},
    {"schedule", "decay_steps", K_U64, AT(schedule.decay_steps), 0, 1e12, NULL},
    {"schedule", "decay_type", K_ENUM, AT(schedule.decay), 0, 3, decays},
    {"dpo", "beta", K_REAL, AT(dpo.beta), 0, 1e6, NULL},
    {"dpo", "loss_type", K_ENUM, AT(dpo.loss_type), 0, 3, dpo_losses},
    {"dpo", "label_smoothing", K_REAL, AT(dpo.label_smoothing), 0, 0.5, NULL},
    {"", "steps", K_U64, AT(steps), 1, 1e12, NULL},
    {"", "max_grad_norm", K_REAL, AT(max_grad_norm), 0, 1e12, NULL},
    {"", "precision", K_ENUM, SIZE_MAX, 0, 1, precisions},
    {"", "seed", K_U64, AT(seed), 0, 9e18, NULL},
    {"", "threads", K_U32, AT(threads), 0, 256, NULL},
    {"checkpoint", "every", K_U64, AT(checkpoint.every), 0, 1e12, NULL},
    {"checkpoint", "keep", K_U32, AT(checkpoint.keep), 1, 1000, NULL},
    {"evaluate", "every", K_U64, AT(evaluate.every), 0, 1e12, NULL},
    {"evaluate", "on", K_STRING, AT(evaluate.on), 0, SIZE(evaluate.on), NULL},
    {"adapter", "kind", K_LATER, 0, 0, 0, NULL},
    {"adapter", "rank", K_LATER, 0, 0, 0, NULL},
    {"adapter", "alpha", K_LATER, 0, 0, 0, NULL},
    {"adapter", "dropout", K_LATER, 0, 0, 0, NULL},
    {"adapter", "targets", K_LATER, 0, 0, 0, NULL},
    {"adapter", "from", K_LATER, 0, 0, 0, NULL},
    {"kto", "beta", K_LATER, 0, 0, 0, NULL},
    {"kto", "desirable_weight", K_LATER, 0, 0, 0, NULL},
    {"kto", "undesirable_weight", K_LATER, 0, 0, 0, NULL},
    {"orpo", "beta", K_LATER, 0, 0, 0, NULL},
};
enum { KEYS = sizeof keys / sizeof keys[0] };

/* What the first K_LATER or unbuilt name was: said once the whole recipe has been read, because what is wrong comes before what is not built. */
struct reading {
    struct train_recipe *recipe;
    bool seen[KEYS];
    const char *later; /* a text, NULL: nothing */
    char later_key[ERROR_PARAM_MAX];
    struct error *err;
};

static void path_of(const struct key *k, char out[ERROR_PARAM_MAX]) {
    snprintf(out, ERROR_PARAM_MAX, "%s%s%s", k->section, k->section[0] ? "." : "", k->name);
}

static void later(struct reading *r, const struct key *k, const char *what) {
    if (r->later) return;
    r->later = what;
    path_of(k, r->later_key);
}

static void names_of(const char *const *names, double built, char *out, size_t size) {
    size_t at = 0;
    out[0] = '\0';
    for (size_t i = 0; names[i] && (double)i < built && at < size; i++) {
        int n = snprintf(out + at, size - at, "%s%s", i ? ", " : "", names[i]);
        at += n > 0 ? (size_t)n : 0;
    }
}

static int wrong(struct reading *r, const struct key *k, const char *wanted, const struct json *v) {
    char path[ERROR_PARAM_MAX];
    path_of(k, path);
    return error_set_param(r->err, E_INVALID, path, "recipe: %s must be %s, not %s", path, wanted, json_type_name(v));
}

static bool number(const struct json *v) { return json_type(v) == JSON_TYPE_INT || json_type(v) == JSON_TYPE_REAL; }

static int in_range(struct reading *r, const struct key *k, double value) {
    if (value >= k->min && value <= k->max) return 0;
    char path[ERROR_PARAM_MAX];
    path_of(k, path);
    return error_set_param(r->err, E_RANGE, path, "recipe: %s is %g, not within %g to %g", path, value, k->min, k->max);
}

static int read_enum(struct reading *r, const struct key *k, const struct json *v, void *to) {
    if (json_type(v) != JSON_TYPE_STRING) return wrong(r, k, "a name", v);
    struct span name = json_string(v);
    for (int i = 0; k->names[i]; i++) {
        if (!span_eq_str(name, k->names[i])) continue;
        if (i >= k->max) later(r, k, k->names[i]);
        else if (to) memcpy(to, &(unsigned){(unsigned)i}, sizeof(unsigned));
        return 0;
    }
    char path[ERROR_PARAM_MAX], all[256];
    path_of(k, path);
    names_of(k->names, 1e9, all, sizeof all);
    return error_set_param(r->err, E_INVALID, path, "recipe: %s is \"%.*s\", not one of %s", path, (int)(name.len < 64 ? name.len : 64), name.data, all);
}

static int read_value(struct reading *r, const struct key *k, const struct json *v) {
    void *to = k->at == SIZE_MAX ? NULL : (char *)r->recipe + k->at;
    int e;
    switch (k->kind) {
    case K_LATER: later(r, k, k->section); return 0;
    case K_ENUM: return read_enum(r, k, v, to);
    case K_STRING: {
        struct span s = json_string(v);
        if (json_type(v) != JSON_TYPE_STRING) return wrong(r, k, "a string", v);
        char path[ERROR_PARAM_MAX];
        path_of(k, path);
        if (s.len == 0 || (double)s.len >= k->max || memchr(s.data, 0, s.len))
            return error_set_param(r->err, E_INVALID, path, "recipe: %s must have 1 to %d bytes and no NUL", path, (int)k->max - 1);
        span_copy(to, (size_t)k->max, s);
        return 0;
    }
    case K_U32:
    case K_U64: {
        double x = json_real(v, NAN);
        if (!number(v) || x != floor(x)) return wrong(r, k, "a whole number", v);
        if ((e = in_range(r, k, x))) return e;
        if (k->kind == K_U32) memcpy(to, &(uint32_t){(uint32_t)x}, sizeof(uint32_t));
        else memcpy(to, &(uint64_t){(uint64_t)json_int(v, 0)}, sizeof(uint64_t));
        return 0;
    }
    case K_REAL:
        if (!number(v)) return wrong(r, k, "a number", v);
        if ((e = in_range(r, k, json_real(v, NAN)))) return e;
        memcpy(to, &(double){json_real(v, 0)}, sizeof(double));
        return 0;
    case K_BOOL:
        if (json_type(v) != JSON_TYPE_BOOL) return wrong(r, k, "true or false", v);
        memcpy(to, &(bool){json_bool(v, false)}, sizeof(bool));
        return 0;
    case K_TRISTATE:
        if (json_type(v) != JSON_TYPE_BOOL) return wrong(r, k, "true or false", v);
        memcpy(to, &(int){json_bool(v, false)}, sizeof(int));
        return 0;
    case K_BETAS:
        if (json_type(v) != JSON_TYPE_ARRAY || json_size(v) != 2 || !number(json_at(v, 0)) || !number(json_at(v, 1)))
            return wrong(r, k, "two numbers", v);
        for (size_t i = 0; i < 2; i++) {
            double beta = json_real(json_at(v, i), NAN);
            if ((e = in_range(r, k, beta))) return e;
            if (beta >= 1) return error_set_param(r->err, E_RANGE, "optimizer.betas", "recipe: optimizer.betas must be below 1");
        }
        r->recipe->optimizer.beta1 = json_real(json_at(v, 0), 0);
        r->recipe->optimizer.beta2 = json_real(json_at(v, 1), 0);
        return 0;
    }
    return 0;
}

/* "objective, steps, model.…" of one section, for messages. */
static void keys_of(const char *section, char *out, size_t size) {
    size_t at = 0;
    out[0] = '\0';
    for (size_t i = 0; i < KEYS && at < size; i++) {
        bool here = strcmp(keys[i].section, section) == 0;
        bool opens = !section[0] && keys[i].section[0] && (i == 0 || strcmp(keys[i - 1].section, keys[i].section) != 0);
        if (!here && !opens) continue;
        int n = snprintf(out + at, size - at, "%s%s", at ? ", " : "", here ? keys[i].name : keys[i].section);
        at += n > 0 ? (size_t)n : 0;
    }
}

static int unknown(struct reading *r, const char *section, struct span key) {
    char all[ERROR_MESSAGE_MAX / 2], path[ERROR_PARAM_MAX];
    keys_of(section, all, sizeof all);
    int len = (int)(key.len < 64 ? key.len : 64);
    snprintf(path, sizeof path, "%s%s%.*s", section, section[0] ? "." : "", len, key.data);
    return error_set_param(r->err, E_INVALID, path, "recipe: unknown key \"%.*s\"%s%s; there are: %s", len, key.data, section[0] ? " in " : "", section, all);
}

static int read_section(struct reading *r, const char *section, const struct json *map) {
    void *iterator = NULL;
    struct span name;
    const struct json *v;
    while (json_next(map, &iterator, &name, &v)) {
        size_t i = 0;
        while (i < KEYS && !(strcmp(keys[i].section, section) == 0 && span_eq_str(name, keys[i].name))) i++;
        if (i < KEYS) {
            if (json_is_null(v)) return wrong(r, &keys[i], "set", v);
            int e = read_value(r, &keys[i], v);
            if (e) return e;
            r->seen[i] = true;
            continue;
        }
        const char *sub = NULL;
        for (i = 0; i < KEYS && !section[0]; i++)
            if (keys[i].section[0] && span_eq_str(name, keys[i].section)) sub = keys[i].section;
        if (!sub) return unknown(r, section, name);
        if (json_type(v) != JSON_TYPE_OBJECT)
            return error_set_param(r->err, E_INVALID, sub, "recipe: %s must be a map of its keys, not %s", sub, json_type_name(v));
        int e = read_section(r, sub, v); /* one level: sections have no sections */
        if (e) return e;
    }
    return 0;
}

static bool seen(const struct reading *r, const char *section, const char *name) {
    for (size_t i = 0; i < KEYS; i++)
        if (strcmp(keys[i].section, section) == 0 && strcmp(keys[i].name, name) == 0) return r->seen[i];
    return false;
}

void recipe_default(struct train_recipe *r, enum recipe_objective objective) {
    memset(r, 0, sizeof *r);
    r->objective = objective;
    r->model.tie_embeddings = -1;
    r->data.shuffle = true;
    r->batch.sequences = 8;
    r->batch.accumulate = 1;
    r->optimizer.lr = objective == RECIPE_PRETRAIN ? 3e-4 : objective == RECIPE_SFT ? 2e-5 : 1e-6; /* TRL's */
    r->optimizer.beta1 = 0.9;
    r->optimizer.beta2 = 0.999;
    r->optimizer.eps = 1e-8;
    r->schedule.kind = NN_SCHEDULE_LINEAR; /* as TrainingArguments */
    r->dpo.beta = 0.1;
    r->steps = 0; /* must be given */
    r->max_grad_norm = 1;
    r->seed = 42;
    r->checkpoint.every = 500;
    r->checkpoint.keep = 2;
}

int recipe_check(const struct train_recipe *r, struct error *err) {
    const char *from = r->model.base[0] ? NULL : r->model.architecture;
    if (r->steps == 0) return error_set_param(err, E_INVALID, "steps", "recipe: steps is missing");
    if (from && !from[0]) return error_set_param(err, E_INVALID, "model", "recipe: model needs base or architecture");
    if (!from && r->model.architecture[0])
        return error_set_param(err, E_INVALID, "model.architecture", "recipe: model has base and architecture; the base has its own");
    if (!from && (r->model.layers || r->model.width || r->model.heads || r->model.kv_heads || r->model.ffn || r->model.context || r->model.vocab ||
                  r->model.tie_embeddings >= 0))
        return error_set_param(err, E_INVALID, "model", "recipe: model has base and sizes; the base has its own");
    if (from) {
        const struct model_arch *arch = model_arch_find(span_str(from));
        if (!arch) return error_set_param(err, E_INVALID, "model.architecture", "recipe: model.architecture is \"%s\", not one of %s", from, model_arch_names());
        if (arch->kind != MODEL_DECODER) return error_set_param(err, E_UNSUPPORTED, "model.architecture", "recipe: \"%s\" is no decoder; only those are trained", from);
        if (!r->model.layers || !r->model.width || !r->model.heads || !r->model.context)
            return error_set_param(err, E_INVALID, "model", "recipe: model.architecture needs layers, width, heads and context");
        if (r->objective == RECIPE_DPO) return error_set_param(err, E_INVALID, "model.base", "recipe: dpo needs model.base");
    }
    int sources = (r->data.dataset[0] != 0) + (r->data.tokens[0] != 0) + (r->data.file[0] != 0);
    if (sources != 1) return error_set_param(err, E_INVALID, "data", "recipe: data needs one of dataset, tokens and file");
    if (r->data.tokens[0] && r->objective != RECIPE_PRETRAIN)
        return error_set_param(err, E_INVALID, "data.tokens", "recipe: data.tokens is for pretrain; %s needs file", recipe_objective_name(r->objective));
    if (r->batch.sequences == 0 || r->batch.accumulate == 0 || r->batch.accumulate > r->batch.sequences)
        return error_set_param(err, E_INVALID, "batch.accumulate", "recipe: batch.accumulate must be 1 to batch.sequences (%u)", r->batch.sequences);
    if (r->schedule.warmup_steps > r->steps)
        return error_set_param(err, E_RANGE, "schedule.warmup_steps", "recipe: schedule.warmup_steps is above steps (%llu)", (unsigned long long)r->steps);
    if (r->schedule.kind == NN_SCHEDULE_WSD && (r->schedule.decay_steps == 0 || r->schedule.decay_steps > r->steps - r->schedule.warmup_steps))
        return error_set_param(err, E_RANGE, "schedule.decay_steps", "recipe: wsd needs schedule.decay_steps, 1 to steps - warmup_steps");
    if (r->objective == RECIPE_DPO && r->dpo.beta <= 0) return error_set_param(err, E_RANGE, "dpo.beta", "recipe: dpo.beta must be above 0");
    if (r->dpo.label_smoothing < 0 || r->dpo.label_smoothing >= 0.5)
        return error_set_param(err, E_RANGE, "dpo.label_smoothing", "recipe: dpo.label_smoothing must be 0 to below 0.5");
    if (r->objective == RECIPE_DPO && r->dpo.loss_type == RECIPE_DPO_IPO && r->dpo.label_smoothing > 0)
        return error_set_param(err, E_INVALID, "dpo.label_smoothing", "recipe: dpo.loss_type ipo has no label smoothing");
    if (r->evaluate.every && !r->evaluate.on[0])
        return error_set_param(err, E_INVALID, "evaluate.on", "recipe: evaluate.every needs evaluate.on");
    return 0;
}

static int put_given(const char *what, const char *value, char to[RECIPE_PATH_MAX], struct error *err) {
    if (!value || !value[0]) return 0;
    if (strlen(value) >= RECIPE_PATH_MAX) return error_set_param(err, E_TOO_LARGE, what, "recipe: %s is longer than %d bytes", what, RECIPE_PATH_MAX - 1);
    span_copy(to, RECIPE_PATH_MAX, span_str(value));
    return 0;
}

int recipe_parse(struct span yaml, struct train_recipe *out, struct error *err) { return recipe_parse_given(yaml, &(struct recipe_given){0}, out, err); }

int recipe_parse_given(struct span yaml, const struct recipe_given *given, struct train_recipe *out, struct error *err) {
    if (yaml.len > RECIPE_SIZE_MAX) return error_set(err, E_TOO_LARGE, "recipe: more than %d bytes", RECIPE_SIZE_MAX);
    struct json *root = NULL;
    struct train_recipe *recipe = mem_zalloc(sizeof *recipe);
    if (!recipe) return error_set(err, E_NOMEM, "no memory");
    struct reading r = {.recipe = recipe, .err = err};
    int e = yaml_parse(yaml, &root, err);
    if (e) {
        error_prefix(err, "recipe");
        goto out;
    }
    if (json_type(root) != JSON_TYPE_OBJECT) {
        e = error_set(err, E_INVALID, "recipe: must be a map of keys, not %s", json_type_name(root));
        goto out;
    }
    /* The objective first: defaults hang on it. */
    if (!json_get(root, "objective")) {
        e = error_set_param(err, E_INVALID, "objective", "recipe: objective is missing");
        goto out;
    }
    e = read_value(&r, &keys[0], json_get(root, "objective"));
    if (e) goto out;
    recipe_default(recipe, recipe->objective);
    if ((e = read_section(&r, "", root))) goto out;
    if ((e = put_given("data.dataset", given->dataset, recipe->data.dataset, err)) || (e = put_given("model.base", given->base, recipe->model.base, err))) goto out;
    if (given->dataset && given->dataset[0]) recipe->data.tokens[0] = recipe->data.file[0] = '\0';
    if (!seen(&r, "data", "shuffle")) recipe->data.shuffle = recipe->data.tokens[0] == 0;
    if (!seen(&r, "schedule", "name") && seen(&r, "schedule", "decay_steps")) {
        e = error_set_param(err, E_INVALID, "schedule.name", "recipe: schedule.decay_steps is for wsd");
        goto out;
    }
    if (r.later) {
        e = error_set_param(err, E_UNSUPPORTED, r.later_key, "recipe: %s: %s is not built yet", r.later_key, r.later);
        goto out;
    }
    if ((e = recipe_check(recipe, err))) goto out;
    *out = *recipe;
out:
    json_free(root);
    mem_free(recipe);
    return e;
}

int recipe_load(const char *path, struct train_recipe *r, struct error *err) {
    struct buf text;
    buf_init(&text, RECIPE_SIZE_MAX);
    int e = file_read(path, &text, err);
    if (!e) {
        e = recipe_parse(buf_span(&text), r, err);
        if (e) error_prefix(err, "%s", path);
    }
    buf_fini(&text);
    return e;
}

static void write_real(struct buf *out, double v) {
    struct json_out w;
    json_begin(&w, out);
    json_put_real(&w, v);
}

int recipe_write(const struct train_recipe *r, struct buf *out) {
    const char *section = "";
    for (size_t i = 0; i < KEYS; i++) {
        const struct key *k = &keys[i];
        const char *from = k->at == SIZE_MAX ? NULL : (const char *)r + k->at;
        if (k->kind == K_LATER) continue;
        /* what has no value of its own stays away */
        uint32_t u32 = 0;
        uint64_t u64 = 0;
        double real = 0;
        int tri = -1;
        if (k->kind == K_STRING && !from[0]) continue;
        if (k->kind == K_U32) memcpy(&u32, from, sizeof u32);
        if (k->kind == K_U64) memcpy(&u64, from, sizeof u64);
        if (k->kind == K_REAL) memcpy(&real, from, sizeof real);
        if (k->kind == K_TRISTATE) memcpy(&tri, from, sizeof tri);
        if (k->kind == K_U32 && u32 < k->min) continue;
        if (k->kind == K_TRISTATE && tri < 0) continue;
        if (strcmp(k->section, "schedule") == 0 && strncmp(k->name, "decay", 5) == 0 && r->schedule.kind != NN_SCHEDULE_WSD) continue;
        if (strcmp(k->section, "dpo") == 0 && r->objective != RECIPE_DPO) continue;
        if (strcmp(k->section, section) != 0) {
            section = k->section;
            if (section[0]) buf_printf(out, "%s:\n", section);
        }
        buf_printf(out, "%s%s: ", section[0] ? "  " : "", k->name);
        switch (k->kind) {
        case K_STRING: {
            struct json_out w;
            json_begin(&w, out);
            json_put_str(&w, from);
            break;
        }
        case K_U32: buf_printf(out, "%u", u32); break;
        case K_U64: buf_printf(out, "%llu", (unsigned long long)u64); break;
        case K_REAL: write_real(out, real); break;
        case K_BOOL: buf_append_str(out, *(const bool *)(const void *)from ? "true" : "false"); break;
        case K_TRISTATE: buf_append_str(out, tri ? "true" : "false"); break;
        case K_BETAS:
            buf_append_char(out, '[');
            write_real(out, r->optimizer.beta1);
            buf_append_str(out, ", ");
            write_real(out, r->optimizer.beta2);
            buf_append_char(out, ']');
            break;
        case K_ENUM: {
            unsigned value = 0;
            if (from) memcpy(&value, from, sizeof value);
            buf_append_str(out, k->names[value]);
            break;
        }
        case K_LATER: break;
        }
        buf_append_char(out, '\n');
    }
    return out->failed;
}

const char *recipe_objective_name(enum recipe_objective o) { return objectives[o]; }

struct nn_schedule recipe_schedule(const struct train_recipe *r) {
    struct nn_schedule s = r->schedule;
    s.lr = r->optimizer.lr;
    s.steps = r->steps;
    return s;
}
