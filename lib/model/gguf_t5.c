/*
 * T5 and what came of it in a GGUF file: what gguf_model.c is to decoders. llama.cpp's "t5" is the encoder-decoder, its layers under "enc.blk." and "dec.blk."; "t5encoder" the encoder alone. What
 * config.json says and the file does not is told by its tensors: a gate means gated-gelu (its approximation), none ReLU; a head of its own, untied; distances of each layer's own, umT5. From 128 tokens on
 * every distance is one: readers know no other number.
 *
 * A tied head takes what is scaled by 1/√width (transformers; llama.cpp leaves it out, which changes no greedy token). A model that does otherwise says `t5.logit_scale`, which readers that do not know it pass by.
 */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "model/dir_files.h"
#include "model/gguf.h"
#include "model/rules.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
enum { KEY_MAX = 128, CONTEXT_DEFAULT = 512 /* what the converter writes where config.json says nothing */, PAD_DEFAULT = 0, END_DEFAULT = 1 };

bool gguf_is_t5(const struct gguf_arch *a) { return !strcmp(a->name, "t5") || !strcmp(a->name, "t5encoder"); }

static const struct gguf_place places[] = {
    {MODEL_EMBED_TOKENS, "token_embd.weight", NULL}, {MODEL_FINAL_NORM_W, "dec.output_norm.weight", NULL}, {MODEL_ENCODER_NORM_W, "enc.output_norm.weight", NULL}, {MODEL_LM_HEAD, "output.weight", NULL},
    {MODEL_ATTN_NORM_W, "attn_norm.weight", NULL}, {MODEL_ATTN_Q_W, "attn_q.weight", NULL}, {MODEL_ATTN_K_W, "attn_k.weight", NULL}, {MODEL_ATTN_V_W, "attn_v.weight", NULL},
    {MODEL_ATTN_O_W, "attn_o.weight", NULL}, {MODEL_ATTN_POSITION_W, "attn_rel_b.weight", NULL},
    {MODEL_CROSS_NORM_W, "cross_attn_norm.weight", NULL}, {MODEL_CROSS_Q_W, "cross_attn_q.weight", NULL}, {MODEL_CROSS_K_W, "cross_attn_k.weight", NULL}, {MODEL_CROSS_V_W, "cross_attn_v.weight", NULL},
    {MODEL_CROSS_O_W, "cross_attn_o.weight", NULL},
    {MODEL_MLP_NORM_W, "ffn_norm.weight", NULL}, {MODEL_MLP_GATE_W, "ffn_gate.weight", NULL}, {MODEL_MLP_UP_W, "ffn_up.weight", NULL}, {MODEL_MLP_DOWN_W, "ffn_down.weight", NULL},
};
static const struct gguf_place encoder_norm = {MODEL_FINAL_NORM_W, "enc.output_norm.weight", NULL};

const struct gguf_place *gguf_t5_place_of(const struct model_config *c, enum model_role role) {
    if (c->arch->kind == MODEL_ENCODER && role == MODEL_FINAL_NORM_W) return &encoder_norm;
    for (size_t i = 0; i < COUNT(places); i++)
        if (places[i].role == role) return &places[i];
    return NULL;
}

void gguf_t5_tensor_name(const struct model_config *c, uint32_t layer, const char *part, char name[MODEL_TENSOR_NAME_MAX]) {
    const bool beside = c->arch->kind == MODEL_ENCODER_DECODER;
    const bool decoder = beside && layer < c->layers;
    (void)snprintf(name, MODEL_TENSOR_NAME_MAX, "%s.blk.%u.%s", decoder ? "dec" : "enc", beside && !decoder ? layer - c->layers : layer, part);
}

/* Numbers that the first checkpoints carry and nothing uses; beside an encoder alone a head. */
bool gguf_t5_tensor_ignored(const struct model_config *c, struct span name) {
    return span_eq_str(name, "dec.blk.0.cross_attn_rel_b.weight") || (c->arch->kind == MODEL_ENCODER && span_eq_str(name, "output.weight"));
}

struct source {
    const struct gguf *g;
    const char *arch, *path;
};
static const char *key_of(const struct source *s, const char *key, char full[KEY_MAX]) {
    (void)snprintf(full, KEY_MAX, "%s.%s", s->arch, key);
    return full;
}
static int64_t integer(const struct source *s, const char *key, int64_t otherwise) {
    char full[KEY_MAX];
    return gguf_integer(s->g, key_of(s, key, full), otherwise);
}
static bool has(const struct source *s, const char *tensor) { return gguf_tensor_find(s->g, span_str(tensor)) != NULL; }

/* Whether what goes into the head is scaled, where the file says so. */
static int put_scale(struct json_out *w, const struct source *s, int64_t width, struct error *err) {
    char key[KEY_MAX];
    if (!gguf_find(s->g, key_of(s, "logit_scale", key))) return 0;
    double scale = gguf_real(s->g, key, 0), scaled = 1 / sqrt((double)width);
    if (scale != 1 && !(fabs(scale - scaled) <= 1e-6 * scaled)) return error_set(err, E_UNSUPPORTED, "%s: %s is neither 1 nor 1/√%lld, the root of the width", s->path, key, (long long)width);
    json_flag(w, "scale_decoder_outputs", scale != 1);
    return 0;
}

static void put_id(struct json_out *w, const char *key, int64_t id) {
    if (id >= 0) json_num(w, key, id);
}

int gguf_t5_put_config(struct json_out *w, const struct gguf *g, const struct gguf_arch *a, const char *path, struct error *err) {
    const struct source s = {g, a->name, path};
    const struct gguf_tensor *embed = gguf_tensor_find(g, SPAN("token_embd.weight"));
    const bool both = !strcmp(a->name, "t5"), gated = has(&s, "enc.blk.0.ffn_gate.weight"), own = has(&s, "enc.blk.1.attn_rel_b.weight") || has(&s, "dec.blk.1.attn_rel_b.weight");
    /* what a file of this vocabulary means where it does not name them, as its readers have it */
    const bool ids = span_eq_str(gguf_string(g, "tokenizer.ggml.model"), "t5");
    static const char *const keys[] = {"block_count", "embedding_length", "attention.head_count", "feed_forward_length", "attention.relative_buckets_count"};
    static const char *const names[] = {"num_layers", "d_model", "num_heads", "d_ff", "relative_attention_num_buckets"};
    int64_t n[COUNT(keys)];
    char key[KEY_MAX];
    if (!embed || embed->dims != 2) return error_set(err, E_INVALID, "%s: tensor token_embd.weight is missing or no matrix", path);
    for (size_t i = 0; i < COUNT(keys); i++)
        if ((n[i] = integer(&s, keys[i], -1)) < 1) return error_set(err, E_INVALID, "%s: %s.%s is missing or no count", path, a->name, keys[i]);
    int64_t head = integer(&s, "attention.key_length", n[1] / n[2]), pad = gguf_integer(g, "tokenizer.ggml.padding_token_id", ids ? PAD_DEFAULT : -1);
    if (!gguf_find(g, key_of(&s, "attention.layer_norm_rms_epsilon", key))) return error_set(err, E_INVALID, "%s: %s is missing", path, key);
    double eps = config_shortest((float)gguf_real(g, key, 0));
    if (integer(&s, "attention.head_count_kv", n[2]) != n[2]) return error_set(err, E_UNSUPPORTED, "%s: %s with fewer heads of keys than of queries is not built", path, a->name);
    if (integer(&s, "attention.value_length", head) != head) return error_set(err, E_UNSUPPORTED, "%s: keys and values of different length are not built", path);
    json_object(w);
    json_key(w, "architectures");
    json_array(w);
    json_put_str(w, both ? (own ? "UMT5ForConditionalGeneration" : "T5ForConditionalGeneration") : own ? "UMT5EncoderModel" : "T5EncoderModel");
    json_array_end(w);
    json_str(w, "model_type", own ? "umt5" : "t5");
    for (size_t i = 0; i < COUNT(keys); i++) json_num(w, names[i], n[i]);
    json_num(w, "d_kv", head);
    json_num(w, "n_positions", integer(&s, "context_length", CONTEXT_DEFAULT));
    json_flt(w, "layer_norm_epsilon", eps);
    json_str(w, "feed_forward_proj", gated ? "gated-gelu" : "relu");
    json_num(w, "vocab_size", embed->rows <= MODEL_VOCAB_MAX ? (int64_t)embed->rows : -1);
    json_flag(w, "is_encoder_decoder", both);
    json_flag(w, "tie_word_embeddings", !both || !has(&s, "output.weight"));
    put_id(w, "bos_token_id", gguf_integer(g, "tokenizer.ggml.bos_token_id", -1));
    put_id(w, "eos_token_id", gguf_integer(g, "tokenizer.ggml.eos_token_id", ids ? END_DEFAULT : -1));
    put_id(w, "pad_token_id", pad);
    int r = 0;
    if (both) {
        json_num(w, "num_decoder_layers", integer(&s, "decoder_block_count", n[0]));
        put_id(w, "decoder_start_token_id", integer(&s, "decoder_start_token_id", pad));
        r = put_scale(w, &s, n[1], err);
    }
    json_object_end(w);
    return r;
}
