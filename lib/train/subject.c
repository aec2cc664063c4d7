#include "train/subject.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/sha256.h"
#include "nn/decoder.h"
#include "tokenizer/chat.h"

static int join(char out[SUBJECT_PATH_MAX], const char *dir, const char *name, struct error *err) {
    int n = snprintf(out, SUBJECT_PATH_MAX, "%s/%s", dir, name);
    return n > 0 && n < SUBJECT_PATH_MAX ? 0 : error_set(err, E_TOO_LARGE, "path too long: %s", dir);
}

/* ---- reading ---- */

static int load_template(struct subject *s, const char *dir, struct error *err) {
    char path[SUBJECT_PATH_MAX];
    struct buf text;
    struct json *root = NULL;
    buf_init(&text, MODEL_CONFIG_FILE_MAX);
    int r = join(path, dir, "tokenizer_config.json", err);
    if (!r && file_exists(path)) {
        r = file_read(path, &text, err);
        if (!r) r = tokenizer_parse_config(s->tokenizer, buf_span(&text), err);
        if (!r) r = json_parse(buf_span(&text), &root, err);
        const struct json *t = r ? NULL : json_get(root, "chat_template");
        if (json_type(t) == JSON_TYPE_STRING && !(s->chat_template = span_dup(json_string(t)))) r = error_set(err, E_NOMEM, "no memory");
    }
    if (!r && !s->chat_template && !(r = join(path, dir, "chat_template.jinja", err)) && file_exists(path)) {
        buf_clear(&text);
        r = file_read(path, &text, err);
        if (!r && !(s->chat_template = buf_detach(&text, NULL))) r = error_set(err, E_NOMEM, "no memory");
    }
    json_free(root);
    buf_fini(&text);
    return r;
}

static int load_tokenizer(struct subject *s, const char *dir, struct error *err) {
    char path[SUBJECT_PATH_MAX];
    int r = join(path, dir, "tokenizer.json", err);
    if (!r) r = tokenizer_load(path, &s->tokenizer, err);
    if (!r) r = load_template(s, dir, err);
    if (!r && !s->chat_template && tokenizer_find(s->tokenizer, SPAN(TOKENIZER_IM_START)) != TOKEN_NONE &&
        !(s->chat_template = mem_strdup(CHAT_TEMPLATE_CHATML)))
        r = error_set(err, E_NOMEM, "no memory");
    if (!r) span_copy(s->tokenizer_dir, sizeof s->tokenizer_dir, span_str(dir));
    return r;
}

int subject_load(struct subject *s, const char *base_dir, const char *tokenizer_dir, struct error *err) {
    struct model_dir m = {0};
    *s = (struct subject){0};
    int r = model_dir_load(&m, base_dir, MODEL_WEIGHTS_FLAT, 0, err);
    if (!r && m.config.arch->kind != MODEL_DECODER)
        r = error_set_param(err, E_UNSUPPORTED, "model.base", "%s is no decoder (%s); only those are trained", base_dir, m.config.arch->name);
    if (r) {
        model_dir_fini(&m);
        return r;
    }
    s->config = m.config;
    s->weights = m.weights;
    m.weights = (struct model_weights){0};
    span_copy(s->base_dir, sizeof s->base_dir, span_str(base_dir));
    if (tokenizer_dir) {
        r = load_tokenizer(s, tokenizer_dir, err);
    } else {
        s->tokenizer = m.tokenizer;
        s->chat_template = m.chat_template;
        m.tokenizer = NULL;
        m.chat_template = NULL;
        if (s->tokenizer) span_copy(s->tokenizer_dir, sizeof s->tokenizer_dir, span_str(base_dir));
    }
    model_dir_fini(&m);
    if (!r && s->tokenizer && tokenizer_vocab_size(s->tokenizer) > s->config.vocab)
        r = error_set(err, E_INVALID, "the tokenizer has %u ids, the model %u", tokenizer_vocab_size(s->tokenizer), s->config.vocab);
    if (r) subject_fini(s);
    return r;
}

int subject_new(struct subject *s, const struct train_recipe *recipe, const char *tokenizer_dir, struct error *err) {
    *s = (struct subject){0};
    const struct model_arch *arch = model_arch_find(span_str(recipe->model.architecture));
    ASSERT(arch); /* recipe_check */
    int r = tokenizer_dir ? load_tokenizer(s, tokenizer_dir, err) : 0;
    if (r) goto fail;
    uint32_t vocab = recipe->model.vocab ? recipe->model.vocab : s->tokenizer ? tokenizer_vocab_size(s->tokenizer) : 0;
    if (!vocab) {
        r = error_set_param(err, E_INVALID, "model.vocab", "recipe: model.vocab is missing, and there is no tokenizer to take it from");
        goto fail;
    }
    if (s->tokenizer && tokenizer_vocab_size(s->tokenizer) > vocab) {
        r = error_set_param(err, E_INVALID, "model.vocab", "recipe: model.vocab is %u, the tokenizer has %u ids", vocab, tokenizer_vocab_size(s->tokenizer));
        goto fail;
    }
    struct model_config *c = &s->config;
    model_config_default(c, arch, recipe->model.layers, recipe->model.width, recipe->model.heads, recipe->model.kv_heads, recipe->model.context, vocab);
    if (recipe->model.ffn) c->ffn = recipe->model.ffn;
    if (recipe->model.tie_embeddings >= 0) c->tie_embeddings = recipe->model.tie_embeddings;
    if (s->tokenizer) {
        uint32_t bos = tokenizer_bos(s->tokenizer), eos = tokenizer_eos(s->tokenizer), pad = tokenizer_pad(s->tokenizer);
        uint32_t im_end = tokenizer_find(s->tokenizer, SPAN(TOKENIZER_IM_END));
        c->bos_id = bos == TOKEN_NONE ? -1 : (int64_t)bos;
        c->pad_id = pad == TOKEN_NONE ? -1 : (int64_t)pad;
        c->eos_count = 0;
        if (eos != TOKEN_NONE) c->eos_ids[c->eos_count++] = eos;
        if (im_end != TOKEN_NONE && im_end != eos) c->eos_ids[c->eos_count++] = im_end; /* an answer ends there */
    }
    if ((r = model_config_check(c, err))) goto fail;
    if ((r = model_weights_new(&s->weights, c, err))) goto fail;
    nn_decoder_init(c, s->weights.params, s->weights.param_count, recipe->seed, s->weights.flat);
    return 0;
fail:
    subject_fini(s);
    return r;
}

void subject_fini(struct subject *s) {
    model_weights_fini(&s->weights);
    tokenizer_free(s->tokenizer);
    mem_free(s->chat_template);
    *s = (struct subject){0};
}

/* ---- writing ---- */

static int copy_file(const char *from_dir, const char *to_dir, const char *name, struct error *err) {
    char from[SUBJECT_PATH_MAX], to[SUBJECT_PATH_MAX];
    int r = join(from, from_dir, name, err);
    if (!r) r = join(to, to_dir, name, err);
    if (r || !file_exists(from)) return r;
    struct buf bytes;
    buf_init(&bytes, MODEL_TOKENIZER_FILE_MAX);
    r = file_read(from, &bytes, err);
    if (!r) r = file_write_durable(to, buf_span(&bytes), 0644, err);
    buf_fini(&bytes);
    return r;
}

/* The base's config.json with all its keys; what its weights are stored as is float32 now. */
static int copy_config(const char *from_dir, const char *to_dir, struct error *err) {
    char path[SUBJECT_PATH_MAX];
    struct buf in, out;
    struct json *root = NULL;
    buf_init(&in, MODEL_CONFIG_FILE_MAX);
    buf_init(&out, 2 * MODEL_CONFIG_FILE_MAX);
    int r = join(path, from_dir, "config.json", err);
    if (!r) r = file_read(path, &in, err);
    if (!r) r = json_parse(buf_span(&in), &root, err);
    if (!r) {
        struct json_out w;
        void *iterator = NULL;
        struct span key;
        const struct json *v;
        json_begin(&w, &out);
        json_object(&w);
        while (json_next(root, &iterator, &key, &v)) {
            json_key_span(&w, key);
            if (span_eq_str(key, "dtype") || span_eq_str(key, "torch_dtype")) json_put_str(&w, "float32");
            else json_put_value(&w, v);
        }
        json_object_end(&w);
        buf_append_char(&out, '\n');
        r = out.failed ? error_set(err, out.failed, "config.json") : join(path, to_dir, "config.json", err);
    }
    if (!r) r = file_write_durable(path, buf_span(&out), 0644, err);
    json_free(root);
    buf_fini(&in);
    buf_fini(&out);
    return r;
}

struct moving {
    const char *from, *to;
    struct error *err;
    bool weights; /* this round moves them, or all the others */
};

static bool is_weights(const char *name) { return span_ends(span_str(name), SPAN(".safetensors")); }

static int move_entry(void *arg, const char *name) {
    struct moving *m = arg;
    char from[SUBJECT_PATH_MAX], to[SUBJECT_PATH_MAX];
    if (is_weights(name) != m->weights) return 0;
    int r = join(from, m->from, name, m->err);
    if (!r) r = join(to, m->to, name, m->err);
    if (!r && rename(from, to)) r = error_errno(m->err, errno, "%s", to);
    return r;
}

/* Their files, as transformers writes them; those that are there are copied. */
static const char *const tokenizer_files[] = {"tokenizer.json",  "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                                              "vocab.json",      "merges.txt",            "tokenizer.model",         "chat_template.jinja"};

int subject_write(const struct subject *s, const char *out_dir, struct span readme, char sha256[65], struct error *err) {
    char writing[SUBJECT_PATH_MAX], path[SUBJECT_PATH_MAX];
    int r = dir_make(out_dir, err);
    if (!r) r = join(writing, out_dir, ".writing", err);
    if (!r) r = dir_remove(writing, err); /* of a run that was cut off here */
    if (r) return r;
    struct model_dir_parts parts = {
        .weights = &s->weights,
        .dtype = DTYPE_F32,
        .tokenizer = s->tokenizer,
        .chat_template = s->chat_template,
        .readme = readme,
    };
    r = model_dir_write(writing, &parts, err);
    if (!r && s->base_dir[0]) {
        r = copy_config(s->base_dir, writing, err);
        if (!r) r = copy_file(s->base_dir, writing, "generation_config.json", err);
        if (!r) r = copy_file(s->base_dir, writing, "LICENSE", err);
    }
    for (size_t i = 0; !r && s->tokenizer_dir[0] && i < sizeof tokenizer_files / sizeof tokenizer_files[0]; i++)
        r = copy_file(s->tokenizer_dir, writing, tokenizer_files[i], err);
    struct file_map map = {0};
    if (!r) r = join(path, writing, "model.safetensors", err);
    if (!r) r = file_map_open(&map, path, err);
    if (!r) sha256_hex(span_of(map.data, map.len), sha256);
    file_map_close(&map);
    struct moving m = {writing, out_dir, err, false};
    if (!r) r = dir_list(writing, &m, move_entry, err);
    if (!r) r = dir_sync(out_dir, err);
    m.weights = true;
    if (!r) r = dir_list(writing, &m, move_entry, err);
    if (!r) r = dir_sync(out_dir, err);
    if (!r) r = dir_remove(writing, err);
    return r;
}

bool subject_is_written(const char *out_dir) {
    char path[SUBJECT_PATH_MAX];
    return join(path, out_dir, "model.safetensors", NULL) == 0 && file_exists(path);
}
