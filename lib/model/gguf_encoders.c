/*
 * Encoders out of a GGUF file: what gguf_model.c is to decoders. llama.cpp's "bert" holds the bodies of BERT, of RoBERTa and XLM-R (their position embeddings without the rows that are no token's, so that
 * positions begin at 0: a BERT's then) and of DistilBERT (which has no token types); "modern-bert" ModernBERT. Of a classifier `cls` is the dense layer and `cls.output` what follows. Its converter leaves
 * the dense layer of BERT's own classifiers out, and what computes such a file computes another model: it is refused.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "model/dir_files.h"
#include "model/gguf.h"
#include "model/rules.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
enum { KEY_MAX = 128, LABEL_BYTES_MAX = 1024, LOCAL_DEFAULT = 128, GLOBAL_EVERY_DEFAULT = 3 };

struct source {
    const struct gguf *g;
    const char *arch, *path;
    bool modern;
};
static int64_t integer(const struct source *s, const char *key, int64_t otherwise) {
    char full[KEY_MAX];
    snprintf(full, sizeof full, "%s.%s", s->arch, key);
    return gguf_integer(s->g, full, otherwise);
}
static const struct gguf_value *value_of(const struct source *s, const char *key) {
    char full[KEY_MAX];
    snprintf(full, sizeof full, "%s.%s", s->arch, key);
    return gguf_find(s->g, full);
}
/* f32 in the file, a decimal in config.json */
static double real(const struct source *s, const char *key, double otherwise) {
    const struct gguf_value *v = value_of(s, key);
    return v && v->type != GGUF_ARRAY && v->type != GGUF_STRING ? config_shortest((float)v->real) : otherwise;
}
static const struct gguf_tensor *tensor(const struct source *s, const char *name) { return gguf_tensor_find(s->g, span_str(name)); }

static const struct gguf_place places[] = {
    {MODEL_EMBED_TOKENS, "token_embd.weight", NULL}, {MODEL_EMBED_POSITIONS, "position_embd.weight", NULL}, {MODEL_EMBED_TYPES, "token_types.weight", NULL},
    {MODEL_EMBED_NORM_W, "token_embd_norm.weight", NULL}, {MODEL_EMBED_NORM_B, "token_embd_norm.bias", NULL}, {MODEL_FINAL_NORM_W, "output_norm.weight", NULL},
    {MODEL_HEAD_DENSE_W, "cls.weight", NULL}, {MODEL_HEAD_DENSE_B, "cls.bias", NULL}, {MODEL_HEAD_NORM_W, "cls.norm.weight", NULL},
    {MODEL_HEAD_OUT_W, "cls.output.weight", NULL}, {MODEL_HEAD_OUT_B, "cls.output.bias", NULL},
    {MODEL_ATTN_Q_W, "attn_q.weight", "attn_qkv.weight"}, {MODEL_ATTN_Q_B, "attn_q.bias", "attn_qkv.bias"}, {MODEL_ATTN_K_W, "attn_k.weight", "attn_qkv.weight"},
    {MODEL_ATTN_K_B, "attn_k.bias", "attn_qkv.bias"}, {MODEL_ATTN_V_W, "attn_v.weight", "attn_qkv.weight"}, {MODEL_ATTN_V_B, "attn_v.bias", "attn_qkv.bias"},
    {MODEL_ATTN_O_W, "attn_output.weight", NULL}, {MODEL_ATTN_O_B, "attn_output.bias", NULL},
    {MODEL_MLP_GATE_W, "ffn_gate.weight", "ffn_up.weight"}, {MODEL_MLP_UP_W, "ffn_up.weight", "ffn_up.weight"}, {MODEL_MLP_UP_B, "ffn_up.bias", NULL},
    {MODEL_MLP_DOWN_W, "ffn_down.weight", NULL}, {MODEL_MLP_DOWN_B, "ffn_down.bias", NULL},
};
static const struct gguf_place norms_before[] = {{MODEL_ATTN_NORM_W, "attn_norm.weight", NULL}, {MODEL_MLP_NORM_W, "ffn_norm.weight", NULL}};
static const struct gguf_place norms_behind[] = {{MODEL_ATTN_NORM_W, "attn_output_norm.weight", NULL}, {MODEL_ATTN_NORM_B, "attn_output_norm.bias", NULL},
                                                 {MODEL_MLP_NORM_W, "layer_output_norm.weight", NULL}, {MODEL_MLP_NORM_B, "layer_output_norm.bias", NULL}};

static const struct gguf_place *find(const struct gguf_place *list, size_t n, enum model_role role) {
    for (size_t i = 0; i < n; i++)
        if (list[i].role == role) return &list[i];
    return NULL;
}

const struct gguf_place *gguf_encoder_place_of(const struct model_config *c, enum model_role role) {
    const struct gguf_place *at = c->arch->norm_place == MODEL_NORM_POST ? find(norms_behind, COUNT(norms_behind), role) : find(norms_before, COUNT(norms_before), role);
    return at ? at : find(places, COUNT(places), role);
}

/* The head of a masked language model, from which ModernBERT's body comes. */
bool gguf_encoder_tensor_ignored(const struct model_config *c, struct span name) {
    return c->arch->head == MODEL_HEAD_ACT_NORM && !c->labels && (span_eq_str(name, "cls.weight") || span_eq_str(name, "cls.norm.weight"));
}

static int check_head(const struct source *s, struct error *err) {
    bool dense = tensor(s, "cls.weight") != NULL, out = tensor(s, "cls.output.weight") != NULL;
    if (out && !dense)
        return error_set(err, E_UNSUPPORTED, "%s is a classifier without its dense layer (cls.weight), which llama.cpp's converter leaves out of BERT's: its scores would be another model's; take the model's safetensors",
                         s->path);
    if (dense && !out && !s->modern) return error_set(err, E_UNSUPPORTED, "%s has a classifier's dense layer (cls.weight) and no cls.output.weight: such a head is not built", s->path);
    if (!out && integer(s, "pooling_type", 0) == GGUF_POOLING_RANK) return error_set(err, E_INVALID, "%s says that it ranks, and has no classifier (cls.output.weight)", s->path);
    return 0;
}

static void put_id(struct json_out *w, const struct source *s, const char *key, const char *from) {
    int64_t id = gguf_integer(s->g, from, -1);
    if (id >= 0) json_num(w, key, id);
}

/* How many layers from one that sees all to the next: a number, or for each layer whether it is local. */
static int read_every(const struct source *s, int64_t layers, int64_t *every, struct error *err) {
    const struct gguf_value *v = value_of(s, "attention.sliding_window_pattern");
    *every = GLOBAL_EVERY_DEFAULT;
    if (v && v->type != GGUF_ARRAY) *every = integer(s, "attention.sliding_window_pattern", -1);
    if (!v || v->type != GGUF_ARRAY) return 0;
    if (v->of == GGUF_STRING || v->count != (uint64_t)layers) return error_set(err, E_INVALID, "%s: %s.attention.sliding_window_pattern does not say it for each layer", s->path, s->arch);
    *every = 1;
    while (*every < layers && gguf_number(v, (uint64_t)*every) != 0) ++*every;
    for (int64_t i = 0; i < layers; i++)
        if ((gguf_number(v, (uint64_t)i) != 0) != (i % *every != 0))
            return error_set(err, E_UNSUPPORTED, "%s: %s.attention.sliding_window_pattern is built where one layer in every so many, from the first on, sees all", s->path, s->arch);
    return 0;
}

/* classifier.pooling_type: where a file does not say, it is the mean, as in the first files of its kind. */
static int put_modern(struct json_out *w, const struct source *s, int64_t layers, int64_t context, struct error *err) {
    int64_t every, window = integer(s, "attention.sliding_window", 0), pooling = integer(s, "classifier.pooling_type", MODEL_POOLING_MEAN);
    char key[KEY_MAX];
    int r = read_every(s, layers, &every, err);
    if (r) return r;
    if (pooling != MODEL_POOLING_MEAN && pooling != MODEL_POOLING_CLS) return error_set(err, E_UNSUPPORTED, "%s: %s.classifier.pooling_type is neither 1 (mean) nor 2 (cls)", s->path, s->arch);
    snprintf(key, sizeof key, "%s.hidden_activation", s->arch);
    struct span act = gguf_string(s->g, key);
    json_key(w, "hidden_activation");
    json_put_span(w, act.len ? act : SPAN("gelu"));
    double theta = real(s, "rope.freq_base", 160000);
    json_flt(w, "global_rope_theta", theta);
    json_flt(w, "local_rope_theta", real(s, "rope.freq_base_swa", theta));
    json_num(w, "global_attn_every_n_layers", window > 0 ? every : 1);
    json_num(w, "local_attention", window > 0 ? window : 2 * context);
    json_str(w, "classifier_pooling", pooling == MODEL_POOLING_CLS ? "cls" : "mean");
    json_flag(w, "attention_bias", false);
    json_flag(w, "mlp_bias", false);
    return 0;
}

int gguf_encoder_put_config(struct json_out *w, const struct gguf *g, const struct gguf_arch *a, const char *path, struct error *err) {
    const struct source s = {g, a->name, path, !strcmp(a->name, "modern-bert")};
    const struct gguf_tensor *embed = tensor(&s, "token_embd.weight"), *types = tensor(&s, "token_types.weight"), *out = tensor(&s, "cls.output.weight");
    const bool distil = !s.modern && !types;
    static const char *const keys[] = {"block_count", "embedding_length", "attention.head_count", "feed_forward_length", "context_length"};
    static const char *const names[] = {"num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings"};
    static const char *const distil_names[] = {"n_layers", "dim", "n_heads", "hidden_dim", "max_position_embeddings"};
    char causal[KEY_MAX];
    int64_t n[COUNT(keys)];
    snprintf(causal, sizeof causal, "%s.attention.causal", a->name);
    if (gguf_bool(g, causal, false)) return error_set(err, E_UNSUPPORTED, "%s: %s is true: an encoder sees its text whole", path, causal);
    if (!embed || embed->dims != 2) return error_set(err, E_INVALID, "%s: tensor token_embd.weight is missing or no matrix", path);
    for (size_t i = 0; i < COUNT(keys); i++)
        if ((n[i] = integer(&s, keys[i], -1)) < 1) return error_set(err, E_INVALID, "%s: %s.%s is missing or no count", path, a->name, keys[i]);
    if (integer(&s, "attention.head_count_kv", n[2]) != n[2]) return error_set(err, E_UNSUPPORTED, "%s: an encoder with fewer heads of keys than of queries is not built", path);
    double eps = real(&s, "attention.layer_norm_epsilon", s.modern ? 1e-5 : 1e-12);
    if (distil && eps != 1e-12) return error_set(err, E_UNSUPPORTED, "%s has no token types, as DistilBERT, and another %s.attention.layer_norm_epsilon than its 1e-12: such a model is not built", path, a->name);
    int r = check_head(&s, err);
    if (r) return r;
    json_object(w);
    json_key(w, "architectures");
    json_array(w);
    json_put_str(w, s.modern ? (out ? "ModernBertForSequenceClassification" : "ModernBertModel") : distil ? (out ? "DistilBertForSequenceClassification" : "DistilBertModel")
                                                                                                     : out ? "BertForSequenceClassification" : "BertModel");
    json_array_end(w);
    json_str(w, "model_type", distil ? "distilbert" : a->model_type);
    for (size_t i = 0; i < COUNT(keys); i++) json_num(w, distil ? distil_names[i] : names[i], n[i]);
    json_flt(w, s.modern ? "norm_eps" : "layer_norm_eps", eps);
    json_num(w, "vocab_size", embed->rows <= MODEL_VOCAB_MAX ? (int64_t)embed->rows : -1);
    if (types) json_num(w, "type_vocab_size", types->rows <= MODEL_TYPES_MAX ? (int64_t)types->rows : -1);
    if (out) json_num(w, "num_labels", out->rows <= MODEL_LABELS_MAX ? (int64_t)out->rows : -1);
    if (s.modern) r = put_modern(w, &s, n[0], n[4], err);
    else json_str(w, distil ? "activation" : "hidden_act", a->activation);
    put_id(w, &s, "bos_token_id", "tokenizer.ggml.bos_token_id");
    put_id(w, &s, "eos_token_id", "tokenizer.ggml.eos_token_id");
    put_id(w, &s, "pad_token_id", "tokenizer.ggml.padding_token_id");
    json_object_end(w);
    return r;
}

static int read_labels(const struct gguf_value *v, const char *path, struct model_dir *m, struct error *err) {
    if (v->type != GGUF_ARRAY || v->of != GGUF_STRING || v->count != m->config.labels)
        return error_set(err, E_INVALID, "%s: classifier.output_labels has no name for each of %u labels", path, m->config.labels);
    struct span rest = v->elements;
    m->labels = mem_calloc(m->config.labels, sizeof *m->labels);
    if (!m->labels) return error_set(err, E_NOMEM, "%s: no memory for labels", path);
    m->label_count = m->config.labels;
    for (uint32_t i = 0; i < m->label_count; i++) {
        struct span name = gguf_next_string(&rest);
        if (!name.len || name.len > LABEL_BYTES_MAX || memchr(name.data, 0, name.len) || !span_is_utf8(name)) return error_set(err, E_INVALID, "%s: classifier.output_labels: name %u is none", path, i);
        if (!(m->labels[i] = span_dup(name))) return error_set(err, E_NOMEM, "%s: no memory for labels", path);
    }
    return 0;
}

int gguf_encoder_read_use(const struct gguf *g, const char *path, struct model_dir *m, struct error *err) {
    const struct gguf_arch *a = gguf_arch_of_config(&m->config);
    const struct source s = {g, a->name, path, false};
    const struct gguf_value *labels = value_of(&s, "classifier.output_labels");
    int64_t pooling = integer(&s, "pooling_type", 0);
    if (pooling < 0 || pooling > GGUF_POOLING_RANK) return error_set(err, E_UNSUPPORTED, "%s: %s.pooling_type %lld is none of 0 (none), 1 (mean), 2 (cls), 3 (last) and 4 (rank)", path, a->name, (long long)pooling);
    m->pooling = pooling == GGUF_POOLING_RANK ? MODEL_POOLING_UNSAID : (enum model_pooling)pooling;
    return labels && m->config.labels ? read_labels(labels, path, m, err) : 0;
}
