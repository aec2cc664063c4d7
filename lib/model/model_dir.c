/* The directory: which files there are, in what order they are read and checked, and how one appears whole. */
#include "model/model_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "model/dir_files.h"
#include "model/quantize.h"
#include "model/rules.h"

static int join(char path[PATH_MAX], const char *dir, const char *name, struct error *err) {
    int n = snprintf(path, PATH_MAX, "%s/%s", dir, name);
    return n < 0 || n >= PATH_MAX ? error_set(err, E_INVALID, "%.200s: the path is too long", dir) : 0;
}

/* Appends DIR/NAME; *found false where there is no such file. */
static int read_optional(const char *dir, const char *name, struct buf *out, bool *found, struct error *err) {
    char path[PATH_MAX];
    int r = join(path, dir, name, err);
    if (r) return r;
    *found = file_exists(path);
    return *found ? file_read(path, out, err) : 0;
}

/* ---- reading ---- */

/* A shard is a plain name in the same folder: an index must not lead elsewhere. */
static bool is_plain_name(struct span name) {
    return name.len > 0 && name.len < NAME_MAX && name.data[0] != '.' && span_find_char(name, '/') < 0 && !memchr(name.data, 0, name.len);
}

static int open_index(const char *dir, const struct json *root, struct safetensors ***files, size_t *count, struct error *err) {
    const struct json *map = json_get(root, "weight_map"), *value;
    if (json_type(map) != JSON_TYPE_OBJECT) return error_set(err, E_INVALID, "%s/model.safetensors.index.json has no weight_map", dir);
    char (*names)[NAME_MAX + 1] = mem_calloc(MODEL_SHARDS_MAX, sizeof names[0]);
    size_t n = 0;
    int r = names ? 0 : error_set(err, E_NOMEM, "%s: no memory", dir);
    void *it = NULL;
    struct span key;
    while (!r && json_next(map, &it, &key, &value)) {
        struct span name = json_string(value);
        if (!is_plain_name(name)) {
            r = error_set(err, E_INVALID, "%s/model.safetensors.index.json names a shard that is no file of this folder", dir);
            break;
        }
        size_t i = n; /* tensors of a shard mostly follow each other */
        while (i > 0 && !span_eq_str(name, names[i - 1])) i--;
        if (i > 0) continue;
        if (n == MODEL_SHARDS_MAX) r = error_set(err, E_TOO_LARGE, "%s: more than %d shards", dir, MODEL_SHARDS_MAX);
        else span_copy(names[n++], sizeof names[0], name);
    }
    if (!r && !n) r = error_set(err, E_INVALID, "%s/model.safetensors.index.json names no shard", dir);
    if (!r) {
        *files = mem_calloc(n, sizeof **files);
        if (!*files) r = error_set(err, E_NOMEM, "%s: no memory", dir);
    }
    for (size_t i = 0; !r && i < n; i++) {
        char path[PATH_MAX];
        r = join(path, dir, names[i], err);
        if (!r) r = safetensors_open(&(*files)[*count], path, err);
        if (!r) (*count)++;
    }
    mem_free(names);
    return r;
}

int model_dir_open_shards(const char *dir, struct safetensors ***files, size_t *count, struct error *err) {
    char path[PATH_MAX];
    *files = NULL;
    *count = 0;
    int r = join(path, dir, "model.safetensors", err);
    if (r) return r;
    if (file_exists(path)) {
        *files = mem_calloc(1, sizeof **files);
        if (!*files) return error_set(err, E_NOMEM, "%s: no memory", dir);
        r = safetensors_open(&(*files)[0], path, err);
        if (!r) *count = 1;
        return r;
    }
    struct buf text;
    struct json *root = NULL;
    bool found = false;
    buf_init(&text, MODEL_INDEX_FILE_MAX);
    r = read_optional(dir, "model.safetensors.index.json", &text, &found, err);
    if (!r && !found) r = error_set(err, E_NOT_FOUND, "%s has neither model.safetensors nor model.safetensors.index.json", dir);
    if (!r) {
        r = json_parse(buf_span(&text), &root, err);
        if (r) error_prefix(err, "%s/model.safetensors.index.json", dir);
    }
    if (!r) r = open_index(dir, root, files, count, err);
    json_free(root);
    buf_fini(&text);
    return r;
}

/* Of a T5 the file decides whether the head is the embeddings: what config.json says of it means something else in older releases of transformers (whether
 * the head's input is scaled), and the newer ones write that it is in any case. */
static int find_head(const char *dir, struct model_config *c, struct error *err) {
    struct safetensors **files = NULL;
    size_t count = 0;
    char path[PATH_MAX];
    bool untied = false;
    if (c->arch->kind != MODEL_ENCODER_DECODER) return 0;
    int r = join(path, dir, MODEL_WEIGHTS_FILE, err);
    if (!r && file_exists(path)) {
        r = model_weights_roles_head(path, &untied, err);
        c->tie_embeddings = !untied;
        return r;
    }
    if (!r) r = model_dir_open_shards(dir, &files, &count, err);
    c->tie_embeddings = true;
    for (size_t i = 0; i < count; i++) {
        c->tie_embeddings &= !safetensors_find(files[i], SPAN("lm_head.weight"));
        safetensors_close(files[i]);
    }
    mem_free(files);
    return r;
}

static const struct model_generation generation_default = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};

bool model_generation_in_range(const struct model_generation *g) {
    return g->temperature >= 0 && g->temperature <= 100 && g->top_p > 0 && g->top_p <= 1 && g->min_p >= 0 && g->min_p <= 1 && g->repetition_penalty > 0 && g->repetition_penalty <= 100 &&
           g->top_k >= 0 && g->max_length >= 0;
}

/* What it does not say of ids stays as c has it. */
static int parse_generation(struct span text, struct model_generation *g, struct model_config *c, struct error *err) {
    struct json *root = NULL;
    int r = json_parse(text, &root, err);
    if (!r && json_type(root) != JSON_TYPE_OBJECT) r = error_set(err, E_INVALID, "generation_config.json is no object");
    if (r) goto out;
    *g = (struct model_generation){
        .do_sample = json_bool(json_get(root, "do_sample"), false),
        .temperature = json_real(json_get(root, "temperature"), 1),
        .top_p = json_real(json_get(root, "top_p"), 1),
        .repetition_penalty = json_real(json_get(root, "repetition_penalty"), 1),
        .min_p = json_real(json_get(root, "min_p"), 0),
        .top_k = json_int(json_get(root, "top_k"), 0),
        .max_length = json_int(json_get(root, "max_length"), 0),
    };
    r = model_generation_in_range(g) ? 0 : error_set(err, E_RANGE, "generation_config.json: temperature, top_p, min_p, top_k, repetition_penalty or max_length is out of range");
    const struct json *eos = json_get(root, "eos_token_id");
    size_t n = json_is_null(eos) ? 0 : json_type(eos) == JSON_TYPE_ARRAY ? json_size(eos) : 1;
    if (!r && n > MODEL_EOS_MAX) r = error_set(err, E_RANGE, "generation_config.json: more than %d ids in eos_token_id", MODEL_EOS_MAX);
    for (size_t i = 0; !r && i < n; i++) {
        int64_t id = json_int(json_type(eos) == JSON_TYPE_ARRAY ? json_at(eos, i) : eos, -1);
        if (id < 0 || id >= MODEL_VOCAB_MAX) r = error_set(err, E_RANGE, "generation_config.json: eos_token_id is out of range");
        else c->eos_ids[i] = id;
    }
    if (!r && n) c->eos_count = (uint32_t)n;
    const struct json *start = json_get(root, "decoder_start_token_id");
    if (!r && c->start_id >= 0 && !json_is_null(start)) {
        int64_t id = json_int(start, -1);
        if (id < 0 || id >= c->vocab) r = error_set(err, E_RANGE, "generation_config.json: decoder_start_token_id is out of range");
        else c->start_id = id;
    }
out:
    json_free(root);
    return r;
}

int model_generation_check(struct span text, struct error *err) {
    struct model_generation g;
    struct model_config c = {.start_id = -1};
    return parse_generation(text, &g, &c, err);
}

/* The chat template: a file of its own (transformers since 4.43), or in tokenizer_config.json, there as a text or as named texts. */
static int load_template(const char *dir, const struct json *tokenizer_config, char **out, struct error *err) {
    struct buf text;
    bool found = false;
    buf_init(&text, MODEL_CONFIG_FILE_MAX);
    int r = read_optional(dir, "chat_template.jinja", &text, &found, err);
    struct span s = buf_span(&text);
    if (!r && !found) {
        const struct json *v = json_get(tokenizer_config, "chat_template");
        s = json_string(v);
        found = json_type(v) == JSON_TYPE_STRING;
        for (size_t i = 0; json_type(v) == JSON_TYPE_ARRAY && i < json_size(v); i++)
            if (span_eq_str(json_string(json_get(json_at(v, i), "name")), "default")) {
                s = json_string(json_get(json_at(v, i), "template"));
                found = true;
            }
    }
    if (!r && found && memchr(s.data, 0, s.len)) r = error_set(err, E_INVALID, "%s: the chat template has a NUL byte", dir);
    if (!r && found) {
        *out = span_dup(s);
        if (!*out) r = error_set(err, E_NOMEM, "%s: no memory", dir);
    }
    buf_fini(&text);
    return r;
}

static int load_tokenizer(struct model_dir *m, const char *dir, struct error *err) {
    struct buf text;
    struct json *config = NULL;
    char path[PATH_MAX];
    bool found = false;
    buf_init(&text, MODEL_CONFIG_FILE_MAX);
    int r = join(path, dir, "tokenizer.json", err);
    if (!r && file_exists(path)) r = tokenizer_load(path, &m->tokenizer, err);
    if (!r) r = read_optional(dir, "tokenizer_config.json", &text, &found, err);
    if (!r && found) {
        r = json_parse(buf_span(&text), &config, err);
        if (!r && m->tokenizer) r = tokenizer_parse_config(m->tokenizer, buf_span(&text), err);
        if (r) error_prefix(err, "%s", dir);
    }
    if (!r) r = load_template(dir, config, &m->chat_template, err);
    if (!r && m->tokenizer && m->config.vocab && tokenizer_vocab_size(m->tokenizer) > m->config.vocab) {
        /* ids beyond the embeddings would be read beyond the array; published models pad the other way */
        r = error_set(err, E_INVALID, "%s: the tokenizer has %u ids and the model's vocabulary %u", dir, tokenizer_vocab_size(m->tokenizer), m->config.vocab);
    }
    json_free(config);
    buf_fini(&text);
    return r;
}

/* generation_config.json where the directory has one. */
static int read_generation(struct model_dir *m, const char *dir, struct error *err) {
    struct buf text;
    bool found = false;
    buf_init(&text, MODEL_CONFIG_FILE_MAX);
    int r = read_optional(dir, "generation_config.json", &text, &found, err);
    if (!r && found) {
        r = parse_generation(buf_span(&text), &m->generation, &m->config, err);
        if (r) error_prefix(err, "%s", dir);
    }
    buf_fini(&text);
    return r;
}

int model_dir_load(struct model_dir *out, const char *dir, enum model_weights_mode mode, unsigned flags, struct error *err) {
    struct model_dir m = {.generation = generation_default};
    struct buf text;
    char path[PATH_MAX];
    struct stat st;
    if (stat(dir, &st) == 0 && S_ISREG(st.st_mode)) {
        int r = model_dir_load_gguf(&m, dir, mode, flags, err);
        if (r) model_dir_fini(&m);
        else *out = m;
        return r;
    }
    /* A directory whose weights are a GGUF file (an imported one: what stands beside it was taken from it, for whoever reads JSON) is that file. */
    int r = join(path, dir, "model.gguf", err);
    if (!r && file_exists(path)) {
        r = model_dir_load_gguf(&m, path, mode, flags, err);
        if (!r) r = read_generation(&m, dir, err);
        if (r) model_dir_fini(&m);
        else *out = m;
        return r;
    }
    buf_init(&text, MODEL_CONFIG_FILE_MAX);
    if (!r) r = join(path, dir, "config.json", err);
    bool bare = !r && (flags & MODEL_DIR_NO_CONFIG) && !file_exists(path);
    if (!r && !bare) r = file_read(path, &text, err);
    if (!r && !bare) {
        r = model_config_parse(buf_span(&text), &m.config, err);
        if (r) error_prefix(err, "%s", path);
    }
    if (!r) r = read_generation(&m, dir, err);
    if (!r) r = load_tokenizer(&m, dir, err);
    if (!r && !bare && !(flags & MODEL_DIR_NO_WEIGHTS)) r = find_head(dir, &m.config, err);
    if (!r && !bare && !(flags & MODEL_DIR_NO_WEIGHTS)) r = model_weights_load(&m.weights, &m.config, dir, mode, err);
    buf_fini(&text);
    if (r) model_dir_fini(&m);
    else *out = m;
    return r;
}

int model_dir_config(const char *dir, struct model_config *config, struct error *err) {
    struct buf text;
    char path[PATH_MAX];
    buf_init(&text, MODEL_CONFIG_FILE_MAX);
    int r = join(path, dir, "config.json", err);
    if (!r) r = file_read(path, &text, err);
    if (!r && (r = model_config_parse(buf_span(&text), config, err)) != 0) error_prefix(err, "%s", path);
    buf_fini(&text);
    return r;
}

void model_dir_fini(struct model_dir *m) {
    model_weights_fini(&m->weights);
    tokenizer_free(m->tokenizer);
    mem_free(m->chat_template);
    for (uint32_t i = 0; m->labels && i < m->label_count; i++) mem_free(m->labels[i]);
    mem_free(m->labels);
    *m = (struct model_dir){.tokenizer = NULL};
}

/* ---- writing ---- */

static void write_generation(const struct model_generation *g, const struct model_config *c, struct buf *out) {
    struct json_out w;
    json_begin(&w, out);
    json_object(&w);
    if (c->bos_id >= 0) json_num(&w, "bos_token_id", c->bos_id);
    if (c->start_id >= 0) json_num(&w, "decoder_start_token_id", c->start_id);
    json_flag(&w, "do_sample", g->do_sample);
    if (c->eos_count == 1) json_num(&w, "eos_token_id", c->eos_ids[0]);
    if (c->eos_count > 1) {
        json_key(&w, "eos_token_id");
        json_array(&w);
        for (uint32_t i = 0; i < c->eos_count; i++) json_put_int(&w, c->eos_ids[i]);
        json_array_end(&w);
    }
    if (g->max_length) json_num(&w, "max_length", g->max_length);
    if (c->pad_id >= 0) json_num(&w, "pad_token_id", c->pad_id);
    if (g->repetition_penalty != 1) json_flt(&w, "repetition_penalty", g->repetition_penalty);
    if (g->do_sample) { /* transformers warns of sampling options where there is no sampling */
        json_flt(&w, "temperature", g->temperature);
        if (g->min_p != 0) json_flt(&w, "min_p", g->min_p);
        if (g->top_k) json_num(&w, "top_k", g->top_k);
        json_flt(&w, "top_p", g->top_p);
    }
    json_object_end(&w);
    buf_append_char(out, '\n');
}

enum { TEXT_MAX = 256 << 20 }; /* the largest text we write is a tokenizer.json */

static int write_text(const char *dir, const char *name, struct span text, struct error *err) {
    char path[PATH_MAX];
    int r = join(path, dir, name, err);
    return r ? r : file_write_durable(path, text, 0644, err);
}

static int write_files(const char *dir, const struct model_dir_parts *p, struct error *err) {
    const struct model_config *c = &p->weights->config;
    char path[PATH_MAX];
    struct buf text;
    buf_init(&text, TEXT_MAX);
    const char *dtype = p->dtype == DTYPE_BF16 ? "bfloat16" : p->dtype == DTYPE_F16 ? "float16" : "float32";
    int r = model_config_write_dtype(c, dtype, &text);
    if (!r) r = write_text(dir, "config.json", buf_span(&text), err);
    else error_set(err, r, "%s: no memory", dir);
    if (r) goto out;
    buf_clear(&text);
    write_generation(p->generation ? p->generation : &generation_default, c, &text);
    r = text.failed ? error_set(err, text.failed, "%s: no memory", dir) : write_text(dir, "generation_config.json", buf_span(&text), err);
    if (r) goto out;
    if (p->tokenizer) {
        buf_clear(&text);
        r = tokenizer_write(p->tokenizer, &text) ? error_set(err, text.failed ? text.failed : E_NOMEM, "%s: no memory", dir) : write_text(dir, "tokenizer.json", buf_span(&text), err);
        if (r) goto out;
        buf_clear(&text);
        r = tokenizer_write_config(p->tokenizer, p->chat_template, c->context, &text)
                ? error_set(err, text.failed ? text.failed : E_NOMEM, "%s: no memory", dir)
                : write_text(dir, "tokenizer_config.json", buf_span(&text), err);
        if (r) goto out;
    }
    if (!r && p->readme.len) r = write_text(dir, "README.md", p->readme, err);
    if (!r && p->license.len) r = write_text(dir, "LICENSE", p->license, err);
    if (!r) r = join(path, dir, "model.safetensors", err);
    if (!r) r = model_weights_write(p->weights, path, p->dtype, err);
out:
    buf_fini(&text);
    return r;
}

int model_dir_write(const char *dir, const struct model_dir_parts *parts, struct error *err) {
    char temporary[PATH_MAX], parent[PATH_MAX], target[PATH_MAX], id[ID_TEXT_MAX];
    struct span name = span_str(dir);
    while (name.len > 1 && name.data[name.len - 1] == '/') name.len--;
    if (!name.len || name.len >= PATH_MAX - 64) return error_set(err, E_INVALID, "the path of the model directory is empty or too long");
    if (parts->tokenizer && tokenizer_vocab_size(parts->tokenizer) > parts->weights->config.vocab)
        return error_set(err, E_INVALID, "%s: the tokenizer has more ids than the model", dir);
    span_copy(target, sizeof target, name);
    snprintf(temporary, sizeof temporary, "%.*s.%s.tmp", SPAN_ARG(name), id_make(id));
    const char *slash = strrchr(target, '/');
    span_copy(parent, sizeof parent, slash == NULL ? SPAN(".") : span_of(target, slash == target ? 1 : (size_t)(slash - target)));
    if (file_exists(target)) return error_set(err, E_EXISTS, "%s exists already", target);
    int r = dir_make(parent, err);
    if (!r) r = dir_make(temporary, err);
    if (!r) r = write_files(temporary, parts, err);
    if (!r) r = dir_sync(temporary, err);
    if (!r && renameat2(AT_FDCWD, temporary, AT_FDCWD, target, RENAME_NOREPLACE) != 0) {
        if (errno == EEXIST) r = error_set(err, E_EXISTS, "%s exists already", target);
        else if (errno != EINVAL) r = error_errno(err, errno, "%s", target);
        else if (rename(temporary, target) != 0) r = error_errno(err, errno, "%s", target); /* a file system without RENAME_NOREPLACE */
    }
    if (!r) r = dir_sync(parent, err);
    if (r) dir_remove(temporary, NULL);
    return r;
}
