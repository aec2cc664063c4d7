/*
 * A model out of a GGUF file: the file's metadata as the config.json that its converter read (so that defaults, checks and refusals are those of config.c), and its tensors
 * under the names of llama.cpp (gguf-py's tensor_mapping). What the converters change is undone: rows of q and k that were interleaved for a rotation of neighbours (llama,
 * granite: LlamaModel.permute) are read in our order, 1 is taken from Gemma's norms again. Nothing is transposed there, and fused tensors are always stacked.
 */
#include <math.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "model/dir_files.h"
#include "model/gguf.h"
#include "model/rules.h"
#include "tokenizer/vocabulary.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
enum { KEY_MAX = 128 };

static const struct gguf_arch archs[] = {
    {"llama", "llama", "silu", true, false},       {"qwen2", "qwen2", "silu", false, false},
    {"qwen3", "qwen3", "silu", false, false},      {"qwen3moe", "qwen3_moe", "silu", false, false},
    {"gemma", "gemma", "gelu_pytorch_tanh", false, true}, {"gemma2", "gemma2", "gelu_pytorch_tanh", false, true},
    {"gemma3", "gemma3_text", "gelu_pytorch_tanh", false, true}, {"phi2", "phi", "gelu_new", false, false},
    {"phi3", "phi3", "silu", false, false},        {"gpt2", "gpt2", "gelu_new", false, false},
    {"gptneox", "gpt_neox", "gelu", false, false}, {"stablelm", "stablelm", "silu", false, false},
    {"olmo2", "olmo2", "silu", false, false},      {"granite", "granite", "silu", true, false},
    {"bert", "bert", "gelu", false, false},        {"modern-bert", "modernbert", "gelu", false, false},
    {"t5", "t5", "", false, false},                {"t5encoder", "t5", "", false, false},
};

const struct gguf_arch *gguf_arch_of_config(const struct model_config *c) {
    const char *type = c->arch->model_type;
    if (!strcmp(type, "mistral") || !strcmp(type, "mixtral")) type = "llama";
    if (!strcmp(type, "roberta") || !strcmp(type, "xlm-roberta") || !strcmp(type, "distilbert")) type = "bert";
    const char *t5 = !config_is_t5(c->arch) ? NULL : c->arch->kind == MODEL_ENCODER ? "t5encoder" : "t5";
    for (size_t i = 0; i < COUNT(archs); i++)
        if (t5 ? !strcmp(archs[i].name, t5) : !strcmp(archs[i].model_type, type)) return &archs[i];
    return NULL;
}

static const struct gguf_arch *arch_of(const struct gguf *g) {
    struct span name = gguf_string(g, "general.architecture");
    for (size_t i = 0; i < COUNT(archs); i++)
        if (name.data && span_eq_str(name, archs[i].name)) return &archs[i];
    return NULL;
}

/* ---- configuration ---- */

/* ARCH.key */
struct source {
    const struct gguf *g;
    const struct gguf_arch *a;
    const char *path;
};
static const struct gguf_value *value_of(const struct source *s, const char *key) {
    char full[KEY_MAX];
    snprintf(full, sizeof full, "%s.%s", s->a->name, key);
    return gguf_find(s->g, full);
}
static int64_t integer(const struct source *s, const char *key, int64_t otherwise) {
    char full[KEY_MAX];
    snprintf(full, sizeof full, "%s.%s", s->a->name, key);
    return gguf_integer(s->g, full, otherwise);
}
static double real(const struct source *s, const char *key, double otherwise) {
    char full[KEY_MAX];
    snprintf(full, sizeof full, "%s.%s", s->a->name, key);
    return gguf_real(s->g, full, otherwise);
}
/* f32 in the file, a decimal in config.json: 1e-5 and not 9.99999975e-06 */
static double shortened(double v) { return config_shortest((float)v); }
static bool has_tensor(const struct gguf *g, const char *name) { return gguf_tensor_find(g, span_str(name)) != NULL; }

/* A number that some files have for each layer (Gemma 3n, OpenELM): only where it is the same in all. -1 where absent. */
static int per_layer(const struct source *s, const char *key, int64_t otherwise, int64_t *out, struct error *err) {
    const struct gguf_value *v = value_of(s, key);
    *out = integer(s, key, otherwise);
    if (!v || v->type != GGUF_ARRAY) return 0;
    for (uint64_t i = 0; i < v->count; i++)
        if (v->of == GGUF_STRING || gguf_number(v, i) != gguf_number(v, 0)) return error_set(err, E_UNSUPPORTED, "%s: layers that differ in %s.%s are not built", s->path, s->a->name, key);
    double n = v->count ? gguf_number(v, 0) : -1;
    if (!(n >= 0 && n < 0x1p31)) return error_set(err, E_INVALID, "%s: %s.%s is out of range", s->path, s->a->name, key);
    *out = (int64_t)n;
    return 0;
}

static int put_factors(struct json_out *w, const struct source *s, const char *key, const char *tensor, uint64_t want, struct error *err) {
    const struct gguf_tensor *t = gguf_tensor_find(s->g, span_str(tensor));
    if (!t || t->type != TENSOR_F32 || t->rows != 1 || t->cols != want || want > MODEL_ROPE_FACTORS_MAX)
        return error_set(err, E_INVALID, "%s: tensor %s is no list of %llu factors", s->path, tensor, (unsigned long long)want);
    float factors[MODEL_ROPE_FACTORS_MAX];
    tensor_to_f32(t->type, t->data, (size_t)want, factors);
    json_key(w, key);
    json_array(w);
    for (uint64_t i = 0; i < want; i++) json_put_real(w, isfinite(factors[i]) ? config_shortest(factors[i]) : -1); /* refused by the check */
    json_array_end(w);
    return 0;
}

static int put_scaling(struct json_out *w, const struct source *s, int64_t context, int64_t rotary, struct error *err) {
    char key[KEY_MAX];
    snprintf(key, sizeof key, "%s.rope.scaling.type", s->a->name);
    struct span type = gguf_string(s->g, key);
    int64_t original = integer(s, "rope.scaling.original_context_length", context);
    bool freqs = has_tensor(s->g, "rope_freqs.weight"), factors = has_tensor(s->g, "rope_factors_long.weight");
    if (!factors && !freqs && (!type.len || span_eq_str(type, "none"))) return 0;
    json_key(w, "rope_scaling");
    json_object(w);
    int r = 0;
    if (factors || freqs) { /* Llama 3's stretching comes as one factor per frequency: the same at any length, cosines as they are */
        json_str(w, "rope_type", "longrope");
        r = put_factors(w, s, "short_factor", freqs ? "rope_freqs.weight" : "rope_factors_short.weight", (uint64_t)rotary / 2, err);
        if (!r) r = put_factors(w, s, "long_factor", freqs ? "rope_freqs.weight" : "rope_factors_long.weight", (uint64_t)rotary / 2, err);
        original = freqs ? context : original;
        double attention = real(s, "rope.scaling.attn_factor", freqs ? 1 : 0);
        if (attention > 0) json_flt(w, "attention_factor", attention);
    } else if (span_eq_str(type, "linear") || span_eq_str(type, "yarn")) {
        json_key(w, "rope_type");
        json_put_span(w, type);
        json_flt(w, "factor", shortened(real(s, "rope.scaling.factor", 1)));
        if (span_eq_str(type, "yarn")) {
            json_num(w, "original_max_position_embeddings", original);
            if (value_of(s, "rope.scaling.attn_factor")) json_flt(w, "attention_factor", real(s, "rope.scaling.attn_factor", 1));
            if (value_of(s, "rope.scaling.yarn_beta_fast")) json_flt(w, "beta_fast", shortened(real(s, "rope.scaling.yarn_beta_fast", 32)));
            if (value_of(s, "rope.scaling.yarn_beta_slow")) json_flt(w, "beta_slow", shortened(real(s, "rope.scaling.yarn_beta_slow", 1)));
        }
    } else r = error_set(err, E_UNSUPPORTED, "%s: %s \"%.*s\" is not built", s->path, key, SPAN_ARG(span_sub(type, 0, 40)));
    json_object_end(w);
    if (factors || freqs) json_num(w, "original_max_position_embeddings", original); /* not in rope_scaling: Phi-3's own default goes before that */
    return r;
}

static void put_id(struct json_out *w, const struct source *s, const char *key, const char *from) {
    int64_t id = gguf_integer(s->g, from, -1);
    if (id >= 0) json_num(w, key, id);
}

static int put_config(struct json_out *w, const struct source *s, struct error *err) {
    const struct gguf *g = s->g;
    const struct gguf_tensor *embed = gguf_tensor_find(g, SPAN("token_embd.weight"));
    int64_t layers = integer(s, "block_count", -1), width = integer(s, "embedding_length", -1), context = integer(s, "context_length", -1), heads, kv_heads, ffn;
    int64_t experts = integer(s, "expert_count", 0);
    bool neox = !strcmp(s->a->name, "gptneox"), gemma = s->a->norm_plus_one, granite = !strcmp(s->a->name, "granite"), stablelm = !strcmp(s->a->name, "stablelm");
    bool moe = !strcmp(s->a->name, "qwen3moe"), gpt2 = !strcmp(s->a->name, "gpt2"), mixtral = !strcmp(s->a->name, "llama") && experts > 0;
    if (!embed || embed->dims != 2) return error_set(err, E_INVALID, "%s: tensor token_embd.weight is missing or no matrix", s->path);
    int r = per_layer(s, "attention.head_count", -1, &heads, err);
    if (!r) r = per_layer(s, "attention.head_count_kv", heads, &kv_heads, err);
    if (!r) r = per_layer(s, "feed_forward_length", moe ? width : -1, &ffn, err);
    if (r) return r;
    const struct {
        const char *key;
        int64_t value;
    } needed[] = {{"block_count", layers}, {"embedding_length", width}, {"context_length", context}, {"attention.head_count", heads}, {"feed_forward_length", ffn}};
    for (size_t i = 0; i < COUNT(needed); i++)
        if (needed[i].value < 1) return error_set(err, E_INVALID, "%s: %s.%s is missing or no count", s->path, s->a->name, needed[i].key);
    int64_t head = integer(s, "attention.key_length", width / heads), rotary = integer(s, "rope.dimension_count", head);
    if (head < 1 || integer(s, "attention.value_length", head) != head) return error_set(err, E_UNSUPPORTED, "%s: keys and values of different length are not built", s->path);
    double eps = value_of(s, "attention.layer_norm_rms_epsilon") ? real(s, "attention.layer_norm_rms_epsilon", 1e-5) : real(s, "attention.layer_norm_epsilon", 1e-5);

    /* the keys of all families: each reads its own */
    json_object(w);
    json_str(w, "model_type", mixtral ? "mixtral" : s->a->model_type);
    json_num(w, gpt2 ? "n_layer" : "num_hidden_layers", layers);
    json_num(w, gpt2 ? "n_embd" : "hidden_size", width);
    json_num(w, gpt2 ? "n_head" : "num_attention_heads", heads);
    json_num(w, gpt2 ? "n_inner" : "intermediate_size", ffn);
    json_num(w, gpt2 ? "n_positions" : "max_position_embeddings", context);
    json_str(w, gpt2 ? "activation_function" : "hidden_act", s->a->activation);
    if (gemma) json_str(w, "hidden_activation", s->a->activation);
    json_num(w, "num_key_value_heads", kv_heads);
    if (!gpt2 && !neox && !stablelm && strcmp(s->a->name, "phi2")) json_num(w, "head_dim", head);
    json_flt(w, "rms_norm_eps", shortened(eps));
    json_flt(w, gpt2 ? "layer_norm_epsilon" : "layer_norm_eps", shortened(eps));
    json_num(w, "vocab_size", embed->rows <= MODEL_VOCAB_MAX ? (int64_t)embed->rows : -1);
    json_flag(w, "tie_word_embeddings", !has_tensor(g, "output.weight"));
    bool bias = has_tensor(g, "blk.0.attn_q.bias") || has_tensor(g, "blk.0.attn_qkv.bias");
    json_flag(w, "attention_bias", bias);
    json_flag(w, "use_qkv_bias", bias);
    json_flag(w, "mlp_bias", has_tensor(g, "blk.0.ffn_down.bias"));
    if (value_of(s, "rope.freq_base")) json_flt(w, neox ? "rotary_emb_base" : "rope_theta", shortened(real(s, "rope.freq_base", 10000)));
    /* a share that gives rotary again where the product is cut to a whole number */
    double share = (double)rotary / (double)head;
    if (!gpt2 && rotary > 0 && rotary <= head) json_flt(w, neox ? "rotary_pct" : "partial_rotary_factor", (int64_t)((double)head * share) < rotary ? nextafter(share, 2) : share);
    if (!gpt2) r = put_scaling(w, s, context, rotary, err);
    if (neox || stablelm) {
        char key[KEY_MAX];
        snprintf(key, sizeof key, "%s.use_parallel_residual", s->a->name);
        json_flag(w, "use_parallel_residual", stablelm ? !has_tensor(g, "blk.0.ffn_norm.weight") : gguf_bool(g, key, true));
    }
    if (stablelm) json_flag(w, "qk_layernorm", has_tensor(g, "blk.0.attn_q_norm.weight"));
    int64_t window = integer(s, "attention.sliding_window", 0);
    if (window > 0) json_num(w, "sliding_window", window);
    if (value_of(s, "attn_logit_softcapping")) json_flt(w, "attn_logit_softcapping", shortened(real(s, "attn_logit_softcapping", 0)));
    if (value_of(s, "final_logit_softcapping")) json_flt(w, "final_logit_softcapping", shortened(real(s, "final_logit_softcapping", 0)));
    /* of Gemma's models the 27B alone scales by the width (llama.cpp knows them by their layers) */
    if (gemma) json_num(w, "query_pre_attn_scalar", layers == (strcmp(s->a->name, "gemma2") ? 62 : 46) ? width / heads : head);
    if (granite) {
        if (value_of(s, "attention.scale")) json_flt(w, "attention_multiplier", shortened(real(s, "attention.scale", 1)));
        json_flt(w, "embedding_multiplier", shortened(real(s, "embedding_scale", 1)));
        json_flt(w, "residual_multiplier", shortened(real(s, "residual_scale", 1)));
        json_flt(w, "logits_scaling", shortened(real(s, "logit_scale", 1)));
    }
    if (experts > 0) {
        json_num(w, mixtral ? "num_local_experts" : "num_experts", experts);
        json_num(w, "num_experts_per_tok", integer(s, "expert_used_count", 1));
        json_num(w, "moe_intermediate_size", integer(s, "expert_feed_forward_length", ffn));
        json_flag(w, "norm_topk_prob", true);
    }
    put_id(w, s, "bos_token_id", "tokenizer.ggml.bos_token_id");
    put_id(w, s, "pad_token_id", "tokenizer.ggml.padding_token_id");
    /* the end of a turn ends a generation as the end of a text does */
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    int64_t seen[COUNT(ends)];
    size_t n = 0;
    json_key(w, "eos_token_id");
    json_array(w);
    for (size_t i = 0; i < COUNT(ends); i++) {
        int64_t id = gguf_integer(g, ends[i], -1);
        for (size_t k = 0; k < n; k++)
            if (seen[k] == id) id = -1;
        if (id < 0) continue;
        seen[n++] = id;
        json_put_int(w, id);
    }
    json_array_end(w);
    json_object_end(w);
    return r;
}

int model_config_from_gguf(const struct gguf *g, const char *path, struct model_config *c, struct error *err) {
    struct source s = {g, arch_of(g), path};
    struct span name = gguf_string(g, "general.architecture");
    if (!s.a && !name.data) return error_set(err, E_INVALID, "%s does not say its general.architecture", path);
    if (!s.a) return error_set(err, E_UNSUPPORTED, "%s: models of architecture \"%.*s\" are not built from GGUF", path, SPAN_ARG(span_sub(name, 0, 40)));
    struct buf text;
    struct json_out w;
    buf_init(&text, MODEL_CONFIG_FILE_MAX);
    json_begin(&w, &text);
    bool encoder = model_encoder_find(span_str(s.a->model_type)) != NULL;
    int r = gguf_is_t5(s.a) ? gguf_t5_put_config(&w, g, s.a, path, err) : encoder ? gguf_encoder_put_config(&w, g, s.a, path, err) : put_config(&w, &s, err);
    if (!r && text.failed) r = error_set(err, text.failed, "%s: no memory", path);
    if (!r && (r = model_config_parse(buf_span(&text), c, err)) != 0) error_prefix(err, "%s", path);
    buf_fini(&text);
    return r;
}

/* ---- weights ---- */

/* Where a role lies. `fused`: the tensor that holds it with others, where there is no own; at which of the fused tensor's rows it begins, says fused_row. */
static const struct gguf_place places[] = {
    {MODEL_EMBED_TOKENS, "token_embd.weight", NULL}, {MODEL_EMBED_POSITIONS, "position_embd.weight", NULL},
    {MODEL_FINAL_NORM_W, "output_norm.weight", NULL}, {MODEL_FINAL_NORM_B, "output_norm.bias", NULL},
    {MODEL_LM_HEAD, "output.weight", NULL}, {MODEL_LM_HEAD_B, "output.bias", NULL},
    {MODEL_ATTN_NORM_W, "attn_norm.weight", NULL}, {MODEL_ATTN_NORM_B, "attn_norm.bias", NULL},
    {MODEL_ATTN_Q_W, "attn_q.weight", "attn_qkv.weight"}, {MODEL_ATTN_Q_B, "attn_q.bias", "attn_qkv.bias"},
    {MODEL_ATTN_K_W, "attn_k.weight", "attn_qkv.weight"}, {MODEL_ATTN_K_B, "attn_k.bias", "attn_qkv.bias"},
    {MODEL_ATTN_V_W, "attn_v.weight", "attn_qkv.weight"}, {MODEL_ATTN_V_B, "attn_v.bias", "attn_qkv.bias"},
    {MODEL_ATTN_Q_NORM_W, "attn_q_norm.weight", NULL}, {MODEL_ATTN_K_NORM_W, "attn_k_norm.weight", NULL},
    {MODEL_ATTN_O_W, "attn_output.weight", NULL}, {MODEL_ATTN_O_B, "attn_output.bias", NULL},
    {MODEL_ATTN_POST_NORM_W, "post_attention_norm.weight", NULL},
    {MODEL_MLP_NORM_W, "ffn_norm.weight", NULL}, {MODEL_MLP_NORM_B, "ffn_norm.bias", NULL},
    {MODEL_MLP_GATE_W, "ffn_gate.weight", "ffn_up.weight"}, {MODEL_MLP_GATE_B, "ffn_gate.bias", NULL},
    {MODEL_MLP_UP_W, "ffn_up.weight", "ffn_up.weight"}, {MODEL_MLP_UP_B, "ffn_up.bias", NULL},
    {MODEL_MLP_DOWN_W, "ffn_down.weight", NULL}, {MODEL_MLP_DOWN_B, "ffn_down.bias", NULL},
    {MODEL_MLP_POST_NORM_W, "post_ffw_norm.weight", NULL},
    {MODEL_ROUTER_W, "ffn_gate_inp.weight", NULL}, {MODEL_EXPERT_GATE_W, "ffn_gate_exps.weight", NULL},
    {MODEL_EXPERT_UP_W, "ffn_up_exps.weight", NULL}, {MODEL_EXPERT_DOWN_W, "ffn_down_exps.weight", NULL},
};
/* Read as configuration. */
static const char *const no_weights[] = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"};

const struct gguf_place *gguf_place_of(const struct model_config *c, enum model_role role) {
    if (config_is_t5(c->arch)) return gguf_t5_place_of(c, role);
    if (c->arch->kind == MODEL_ENCODER) return gguf_encoder_place_of(c, role);
    for (size_t i = 0; i < COUNT(places); i++)
        if (places[i].role == role) return &places[i];
    return NULL;
}

void gguf_tensor_name(const struct model_config *c, enum model_role role, uint32_t layer, const char *part, char name[MODEL_TENSOR_NAME_MAX]) {
    if (!model_role_in_layer(role)) (void)snprintf(name, MODEL_TENSOR_NAME_MAX, "%s", part);
    else if (config_is_t5(c->arch)) gguf_t5_tensor_name(c, layer, part, name);
    else (void)snprintf(name, MODEL_TENSOR_NAME_MAX, "blk.%u.%s", layer, part);
}

/* Values before the parameter in the tensor that holds it with others, and in that tensor in all. */
static void fused_place(const struct model_config *c, const struct model_param *p, uint64_t *before, uint64_t *all) {
    uint64_t q = (uint64_t)c->heads * c->head_dim, k = (uint64_t)c->kv_heads * c->head_dim;
    switch (p->role) {
    case MODEL_ATTN_K_W:
    case MODEL_ATTN_K_B: *before = q; break;
    case MODEL_ATTN_V_W:
    case MODEL_ATTN_V_B: *before = q + k; break;
    case MODEL_MLP_UP_W: *before = c->ffn; break;
    default: *before = 0;
    }
    *all = p->role == MODEL_MLP_GATE_W || p->role == MODEL_MLP_UP_W ? 2 * (uint64_t)c->ffn : q + 2 * k;
}

bool gguf_is_norm_weight(enum model_role r) {
    return r == MODEL_FINAL_NORM_W || r == MODEL_ATTN_NORM_W || r == MODEL_ATTN_Q_NORM_W || r == MODEL_ATTN_K_NORM_W || r == MODEL_ATTN_POST_NORM_W || r == MODEL_MLP_NORM_W ||
           r == MODEL_MLP_POST_NORM_W;
}

/* The view of params[i]; marks the tensor as used. */
static int find_view(const struct model_weights *w, const struct gguf *g, const char *path, size_t i, bool permuted, bool *used, struct model_view *v, struct error *err) {
    const struct model_param *p = &w->params[i];
    const struct gguf_place *at = gguf_place_of(&w->config, p->role);
    char name[MODEL_TENSOR_NAME_MAX];
    if (!at) return error_set(err, E_UNSUPPORTED, "%s: %s has no place in a GGUF file", path, model_role_name(p->role));
    bool gate_in_up = false;
    const struct gguf_tensor *t = NULL;
    if (at->fused && p->role == MODEL_MLP_UP_W) { /* two in one where there is no gate */
        snprintf(name, sizeof name, "blk.%u.ffn_gate.weight", p->layer);
        gate_in_up = w->config.arch->mlp == MODEL_MLP_GATED && !gguf_tensor_find(g, span_str(name));
    }
    for (int fused = gate_in_up; !t && fused < (at->fused ? 2 : 1); fused++) {
        const char *part = fused ? at->fused : at->name;
        gguf_tensor_name(&w->config, p->role, p->layer, part, name);
        t = gguf_tensor_find(g, span_str(name));
        gate_in_up = fused;
    }
    if (!t) {
        gguf_tensor_name(&w->config, p->role, p->layer, at->name, name);
        return error_set(err, E_INVALID, "%s lacks the tensor %s", path, name);
    }
    uint64_t before = (uint64_t)p->index * p->rows, all = 0;
    bool vector = p->rows == 1 && p->role != MODEL_ATTN_Q_NORM_W && p->role != MODEL_ATTN_K_NORM_W && p->role != MODEL_HEAD_OUT_W; /* of one label: a row */
    if (gate_in_up) fused_place(&w->config, p, &before, &all);
    else if (p->role == MODEL_EXPERT_GATE_W || p->role == MODEL_EXPERT_UP_W || p->role == MODEL_EXPERT_DOWN_W) all = (uint64_t)w->config.experts * p->rows;
    else if (w->config.qk_norm == MODEL_QK_NORM_LAYERS && (p->role == MODEL_ATTN_Q_NORM_W || p->role == MODEL_ATTN_K_NORM_W))
        all = p->role == MODEL_ATTN_Q_NORM_W ? w->config.heads : w->config.kv_heads;
    else all = vector ? p->cols : p->rows;
    uint64_t rows = vector ? 1 : all, cols = vector ? all : p->cols;
    if (t->rows != rows || t->cols != cols)
        return error_set(err, E_INVALID, "%s: tensor %s is of shape [%llu, %llu], not [%llu, %llu] as the metadata says", path, name, (unsigned long long)t->rows,
                         (unsigned long long)t->cols, (unsigned long long)rows, (unsigned long long)cols);
    size_t row;
    int r = tensor_size(t->type, 1, t->cols, &row); /* the reader has checked the whole */
    if (r) return error_set(err, r, "%s: tensor %s has rows of no whole blocks", path, name);
    if (vector && tensor_block(t->type) > 1) return error_set(err, E_UNSUPPORTED, "%s: tensor %s, a vector, is of type %s", path, name, tensor_type_name(t->type));
    *v = (struct model_view){.type = t->type, .rows = p->rows, .cols = p->cols, .row_size = row, .mapped = true};
    v->data = (const uint8_t *)t->data + (vector ? before * tensor_block_bytes(t->type) : before * row);
    if (permuted && (p->role == MODEL_ATTN_Q_W || p->role == MODEL_ATTN_K_W)) v->interleaved = w->config.head_dim;
    used[t - gguf_tensor_at(g, 0)] = true;
    return 0;
}

/* Vectors are small: those that the converter changed are made anew. */
static int own_vector(struct model_weights *w, size_t i, const struct model_view *v, float add, uint32_t interleaved, struct error *err) {
    float *copy, *plain = mem_calloc(v->cols ? v->cols : 1, sizeof *plain);
    int r = plain ? model_weights_copy(w, v->cols, &copy, err) : error_set(err, E_NOMEM, "no memory for the model's weights");
    if (!r) {
        tensor_to_f32(v->type, v->data, v->cols, plain);
        for (uint32_t k = 0; k < v->cols; k++) {
            uint32_t D = interleaved, half = D / 2, j = D ? k % D : 0;
            copy[k] = plain[D ? k - j + (j < half ? 2 * j : 2 * (j - half) + 1) : k] + add;
        }
        model_weights_put_f32(w, i, copy);
    }
    mem_free(plain);
    return r;
}

int model_weights_load_gguf(struct model_weights *out, const struct model_config *config, const struct gguf *g, const char *path, enum model_weights_mode mode,
                            struct error *err) {
    const struct gguf_arch *a = arch_of(g);
    struct model_tensor *tensors = NULL;
    struct model_weights w = {0};
    size_t count = 0;
    bool *used = mem_calloc(gguf_tensor_count(g) + 1, sizeof *used);
    int r = used ? model_weights_layout(&w, config, &tensors, &count, err) : error_set(err, E_NOMEM, "%s: no memory", path);
    mem_free(tensors);
    if (!r && !a) r = error_set(err, E_UNSUPPORTED, "%s: its architecture is not built", path);
    for (size_t i = 0; !r && i < w.param_count; i++) { /* all is looked at before any memory is taken */
        r = find_view(&w, g, path, i, a->permuted, used, &w.views[i], err);
    }
    for (size_t i = 0; !r && i < gguf_tensor_count(g); i++) {
        bool known = used[i];
        known |= config_is_t5(config->arch) ? gguf_t5_tensor_ignored(config, gguf_tensor_at(g, i)->name) : gguf_encoder_tensor_ignored(config, gguf_tensor_at(g, i)->name);
        for (size_t k = 0; k < COUNT(no_weights); k++) known |= span_eq_str(gguf_tensor_at(g, i)->name, no_weights[k]);
        if (!known) r = error_set(err, E_INVALID, "%s: there is a tensor %.*s that %s models do not have", path, SPAN_ARG(span_sub(gguf_tensor_at(g, i)->name, 0, 120)), a->name);
    }
    struct model_view *from = NULL;
    if (!r && mode == MODEL_WEIGHTS_FLAT) {
        from = w.views;
        w.views = mem_calloc(w.param_count, sizeof w.views[0]);
        r = w.views ? model_weights_flat(&w, err) : error_set(err, E_NOMEM, "%s: no memory", path);
    }
    for (size_t i = 0; !r && i < w.param_count; i++) {
        const struct model_param *p = &w.params[i];
        struct model_view v = from ? from[i] : w.views[i];
        float add = a->norm_plus_one && gguf_is_norm_weight(p->role) ? -1 : 0;
        bool turned = a->permuted && (p->role == MODEL_ATTN_Q_B || p->role == MODEL_ATTN_K_B);
        if (add != 0 || turned) {
            r = own_vector(&w, i, &v, add, turned ? config->head_dim : 0, err);
            if (!r && from) {
                memcpy(w.flat + p->offset, w.data[i], v.cols * sizeof(float));
                model_weights_put_f32(&w, i, w.flat + p->offset);
            }
        } else if (from) model_view_to_f32(&v, w.flat + p->offset);
        else if (v.type == TENSOR_F32 && !v.interleaved && (uintptr_t)v.data % sizeof(float) == 0) w.data[i] = (const float *)(const void *)v.data;
    }
    mem_free(from);
    mem_free(used);
    if (r) model_weights_fini(&w);
    else *out = w;
    return r;
}

/* ---- tokenizer and template ---- */

/* An array of strings as spans; NULL and 0 where absent. */
static int take_strings(const struct gguf *g, const char *path, const char *key, struct span **out, size_t *count, struct error *err) {
    const struct gguf_value *v = gguf_find(g, key);
    *out = NULL;
    *count = 0;
    if (!v) return 0;
    if (v->type != GGUF_ARRAY || v->of != GGUF_STRING) return error_set(err, E_INVALID, "%s: %s is no list of strings", path, key);
    struct span rest = v->elements;
    *out = mem_calloc(v->count ? (size_t)v->count : 1, sizeof **out);
    if (!*out) return error_set(err, E_NOMEM, "%s: no memory", path);
    for (uint64_t i = 0; i < v->count; i++) (*out)[i] = gguf_next_string(&rest);
    *count = (size_t)v->count;
    return 0;
}

/* The array with this key where it has a number for each token; NULL where absent. */
static int numbers_of(const struct gguf *g, const char *path, const char *key, size_t count, const struct gguf_value **out, struct error *err) {
    *out = gguf_find(g, key);
    if (*out && ((*out)->type != GGUF_ARRAY || (*out)->of == GGUF_STRING || (*out)->count != count))
        return error_set(err, E_INVALID, "%s: %s has no number for each of %zu tokens", path, key, count);
    return 0;
}

static uint32_t token_of(const struct gguf *g, const char *key) {
    int64_t id = gguf_integer(g, key, -1);
    return id >= 0 && id < (int64_t)TOKEN_NONE ? (uint32_t)id : TOKEN_NONE;
}
static int flag_of(const struct gguf *g, const char *key) { return gguf_find(g, key) ? gguf_bool(g, key, false) : -1; }

int gguf_load_tokenizer(const struct gguf *g, const char *path, struct tokenizer **t, struct error *err) {
    struct vocabulary v;
    struct span *tokens = NULL, *merges = NULL;
    float *scores = NULL;
    int32_t *types = NULL;
    const struct gguf_value *list, *map = gguf_find(g, "tokenizer.ggml.precompiled_charsmap");
    vocabulary_init(&v);
    v.model = gguf_string(g, "tokenizer.ggml.model");
    if (!v.model.data || span_eq_str(v.model, "no_vocab") || span_eq_str(v.model, "none")) return 0;
    v.pre = gguf_string(g, "tokenizer.ggml.pre");
    int r = take_strings(g, path, "tokenizer.ggml.tokens", &tokens, &v.count, err);
    if (!r) r = take_strings(g, path, "tokenizer.ggml.merges", &merges, &v.merge_count, err);
    v.tokens = tokens;
    v.merges = merges;
    if (!r) r = numbers_of(g, path, "tokenizer.ggml.scores", v.count, &list, err);
    if (!r && list) {
        v.scores = scores = mem_calloc(v.count + 1, sizeof *scores);
        if (!scores) r = error_set(err, E_NOMEM, "%s: no memory", path);
        for (size_t i = 0; !r && i < v.count; i++) scores[i] = (float)gguf_number(list, i);
    }
    if (!r) r = numbers_of(g, path, "tokenizer.ggml.token_type", v.count, &list, err);
    if (!r && list) {
        v.types = types = mem_calloc(v.count + 1, sizeof *types);
        if (!types) r = error_set(err, E_NOMEM, "%s: no memory", path);
        for (size_t i = 0; !r && i < v.count; i++) {
            double n = gguf_number(list, i);
            types[i] = n >= 0 && n <= 64 ? (int32_t)n : 0;
        }
    }
    if (!r && map && map->type == GGUF_ARRAY && (map->of == GGUF_U8 || map->of == GGUF_I8)) v.charsmap = map->elements;
    v.bos = token_of(g, "tokenizer.ggml.bos_token_id");
    v.eos = token_of(g, "tokenizer.ggml.eos_token_id");
    v.unk = token_of(g, "tokenizer.ggml.unknown_token_id");
    v.pad = token_of(g, "tokenizer.ggml.padding_token_id");
    v.sep = token_of(g, "tokenizer.ggml.seperator_token_id"); /* so spelled in files */
    v.cls = token_of(g, "tokenizer.ggml.cls_token_id");
    v.mask = token_of(g, "tokenizer.ggml.mask_token_id");
    v.add_bos = flag_of(g, "tokenizer.ggml.add_bos_token");
    v.add_eos = flag_of(g, "tokenizer.ggml.add_eos_token");
    v.add_sep = flag_of(g, "tokenizer.ggml.add_sep_token");
    v.add_space_prefix = flag_of(g, "tokenizer.ggml.add_space_prefix");
    v.remove_extra_whitespaces = flag_of(g, "tokenizer.ggml.remove_extra_whitespaces");
    v.lowercase = flag_of(g, "tokenizer.ggml.normalizer.lowercase");
    v.strip_accents = flag_of(g, "tokenizer.ggml.normalizer.strip_accents");
    if (!r && (r = tokenizer_from_vocabulary(&v, t, err)) != 0) error_prefix(err, "%s", path);
    mem_free(tokens);
    mem_free(merges);
    mem_free(scores);
    mem_free(types);
    return r;
}

/* general.sampling.*, as llama.cpp's converter takes it from a generation_config.json. */
static int read_sampling(const struct gguf *g, const char *path, struct model_generation *out, struct error *err) {
    static const char *const keys[] = {"general.sampling.temp", "general.sampling.top_k", "general.sampling.top_p", "general.sampling.min_p", "general.sampling.penalty_repeat"};
    for (size_t i = 0; i < COUNT(keys); i++) out->do_sample |= gguf_find(g, keys[i]) != NULL;
    out->temperature = shortened(gguf_real(g, keys[0], out->temperature));
    out->top_k = gguf_integer(g, keys[1], out->top_k);
    out->top_p = shortened(gguf_real(g, keys[2], out->top_p));
    out->min_p = shortened(gguf_real(g, keys[3], out->min_p));
    out->repetition_penalty = shortened(gguf_real(g, keys[4], out->repetition_penalty));
    if (out->top_k == -1) out->top_k = 0; /* all, as others write it */
    return model_generation_in_range(out) ? 0 : error_set(err, E_RANGE, "%s: one of general.sampling.* is out of range", path);
}

int model_dir_load_gguf(struct model_dir *m, const char *path, enum model_weights_mode mode, unsigned flags, struct error *err) {
    struct gguf *g = NULL;
    int r = gguf_open(&g, path, err);
    if (!r && !((flags & MODEL_DIR_NO_CONFIG) && (flags & MODEL_DIR_NO_WEIGHTS) && !arch_of(g))) r = model_config_from_gguf(g, path, &m->config, err);
    if (!r) r = gguf_load_tokenizer(g, path, &m->tokenizer, err);
    if (!r && m->tokenizer && m->config.vocab && tokenizer_vocab_size(m->tokenizer) > m->config.vocab)
        r = error_set(err, E_INVALID, "%s: the tokenizer has %u ids and the model's vocabulary %u", path, tokenizer_vocab_size(m->tokenizer), m->config.vocab);
    if (!r) r = read_sampling(g, path, &m->generation, err);
    if (!r && m->config.arch && m->config.arch->kind == MODEL_ENCODER) r = gguf_encoder_read_use(g, path, m, err);
    struct span template = r ? span_of(NULL, 0) : gguf_string(g, "tokenizer.chat_template");
    if (!r && template.data && memchr(template.data, 0, template.len)) r = error_set(err, E_INVALID, "%s: the chat template has a NUL byte", path);
    if (!r && template.data && !(m->chat_template = span_dup(template))) r = error_set(err, E_NOMEM, "%s: no memory", path);
    if (!r && !(flags & MODEL_DIR_NO_WEIGHTS)) {
        r = model_weights_load_gguf(&m->weights, &m->config, g, path, mode, err);
        if (!r && mode == MODEL_WEIGHTS_MAP) {
            m->weights.index->gguf = g;
            g = NULL;
        }
    }
    gguf_close(g);
    return r;
}
