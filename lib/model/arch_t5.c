/*
 * T5 and what came of it (Raffel et al. 2020, "Exploring the Limits of Transfer Learning"): an encoder reads the prompt, a decoder writes the answer and looks at
 * what the encoder made in every layer. Positions are told by a learnt number for each head and bucket of distances; norms are RMS and without bias, q·k is not
 * scaled. T5 1.0 has a plain MLP with ReLU; 1.1, Flan-T5, mT5 (Xue et al. 2021) and umT5 (Chung et al. 2023) a gated one: config.json says which. In umT5 each layer has
 * numbers of its own for positions, elsewhere the first one's are everybody's.
 *
 * Their encoders alone are encoders like others: they embed.
 */
#include "model/rules.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define RULES(r) .rules = r, .rule_count = COUNT(r)
#define MATRIX(scope, when, name, role, rows, cols) {scope, when, name, {role}, 1, rows, cols, false, false, MODEL_FUSED_STACKED, EACH_ONE}
#define VECTOR(scope, name, role) {scope, IF_ALWAYS, name, {role}, 1, DIM_ONE, DIM_WIDTH, false, true, MODEL_FUSED_STACKED, EACH_ONE}

#define EMBED MATRIX(SCOPE_BASE, IF_ALWAYS, "shared.weight", MODEL_EMBED_TOKENS, DIM_VOCAB, DIM_WIDTH)
#define SELF(scope, positions) \
    VECTOR(scope, "layer.0.layer_norm.weight", MODEL_ATTN_NORM_W), \
    MATRIX(scope, IF_ALWAYS, "layer.0.SelfAttention.q.weight", MODEL_ATTN_Q_W, DIM_Q, DIM_WIDTH), \
    MATRIX(scope, IF_ALWAYS, "layer.0.SelfAttention.k.weight", MODEL_ATTN_K_W, DIM_KV, DIM_WIDTH), \
    MATRIX(scope, IF_ALWAYS, "layer.0.SelfAttention.v.weight", MODEL_ATTN_V_W, DIM_KV, DIM_WIDTH), \
    MATRIX(scope, IF_ALWAYS, "layer.0.SelfAttention.o.weight", MODEL_ATTN_O_W, DIM_WIDTH, DIM_Q), \
    MATRIX(scope, positions, "layer.0.SelfAttention.relative_attention_bias.weight", MODEL_ATTN_POSITION_W, DIM_BUCKETS, DIM_HEADS)
#define CROSS \
    VECTOR(SCOPE_LAYER, "layer.1.layer_norm.weight", MODEL_CROSS_NORM_W), \
    MATRIX(SCOPE_LAYER, IF_ALWAYS, "layer.1.EncDecAttention.q.weight", MODEL_CROSS_Q_W, DIM_Q, DIM_WIDTH), \
    MATRIX(SCOPE_LAYER, IF_ALWAYS, "layer.1.EncDecAttention.k.weight", MODEL_CROSS_K_W, DIM_KV, DIM_WIDTH), \
    MATRIX(SCOPE_LAYER, IF_ALWAYS, "layer.1.EncDecAttention.v.weight", MODEL_CROSS_V_W, DIM_KV, DIM_WIDTH), \
    MATRIX(SCOPE_LAYER, IF_ALWAYS, "layer.1.EncDecAttention.o.weight", MODEL_CROSS_O_W, DIM_WIDTH, DIM_Q)
#define MLP(scope, layer) \
    VECTOR(scope, layer ".layer_norm.weight", MODEL_MLP_NORM_W), \
    MATRIX(scope, IF_GATED, layer ".DenseReluDense.wi_0.weight", MODEL_MLP_GATE_W, DIM_FFN, DIM_WIDTH), \
    MATRIX(scope, IF_GATED, layer ".DenseReluDense.wi_1.weight", MODEL_MLP_UP_W, DIM_FFN, DIM_WIDTH), \
    MATRIX(scope, IF_PLAIN, layer ".DenseReluDense.wi.weight", MODEL_MLP_UP_W, DIM_FFN, DIM_WIDTH), \
    MATRIX(scope, IF_ALWAYS, layer ".DenseReluDense.wo.weight", MODEL_MLP_DOWN_W, DIM_WIDTH, DIM_FFN)
#define BOTH(positions) \
    EMBED, SELF(SCOPE_LAYER, positions), CROSS, MLP(SCOPE_LAYER, "layer.2"), SELF(SCOPE_ENCODER, positions), MLP(SCOPE_ENCODER, "layer.1"), \
    VECTOR(SCOPE_BASE_END, "encoder.final_layer_norm.weight", MODEL_ENCODER_NORM_W), \
    VECTOR(SCOPE_BASE_END, "decoder.final_layer_norm.weight", MODEL_FINAL_NORM_W), \
    MATRIX(SCOPE_ROOT, IF_UNTIED, "lm_head.weight", MODEL_LM_HEAD, DIM_VOCAB, DIM_WIDTH)
#define ENCODER(positions) \
    EMBED, SELF(SCOPE_LAYER, positions), MLP(SCOPE_LAYER, "layer.1"), VECTOR(SCOPE_BASE_END, "encoder.final_layer_norm.weight", MODEL_FINAL_NORM_W)

static const struct model_tensor_rule t5_rules[] = {BOTH(IF_FIRST)};
static const struct model_tensor_rule umt5_rules[] = {BOTH(IF_ALWAYS)};
static const struct model_tensor_rule t5_encoder_rules[] = {ENCODER(IF_FIRST)};
static const struct model_tensor_rule umt5_encoder_rules[] = {ENCODER(IF_ALWAYS)};

#define T5_SHAPE(id, type, class) \
    .name = id, .model_type = type, .architecture = class, .norm = MODEL_NORM_RMS, .norm_place = MODEL_NORM_PRE, .positions = MODEL_POS_RELATIVE, \
    .tie_default = true, .base_prefix = ""
#define GATED .mlp = MODEL_MLP_GATED, .activation_default = MODEL_ACT_GELU_TANH
#define PLAIN .mlp = MODEL_MLP_PLAIN, .activation_default = MODEL_ACT_RELU
#define DECODES .kind = MODEL_ENCODER_DECODER, .layer_prefix = "decoder.block.", .encoder_prefix = "encoder.block."
#define EMBEDS .kind = MODEL_ENCODER, .layer_prefix = "encoder.block."

const struct model_arch MODEL_T5[] = {
    {T5_SHAPE("t5", "t5", "T5ForConditionalGeneration"), DECODES, PLAIN, RULES(t5_rules)},
    {T5_SHAPE("mt5", "mt5", "MT5ForConditionalGeneration"), DECODES, GATED, RULES(t5_rules)},
    {T5_SHAPE("umt5", "umt5", "UMT5ForConditionalGeneration"), DECODES, GATED, RULES(umt5_rules)},
    {T5_SHAPE("t5-encoder", "t5", "T5EncoderModel"), EMBEDS, PLAIN, RULES(t5_encoder_rules)},
    {T5_SHAPE("mt5-encoder", "mt5", "MT5EncoderModel"), EMBEDS, GATED, RULES(t5_encoder_rules)},
    {T5_SHAPE("umt5-encoder", "umt5", "UMT5EncoderModel"), EMBEDS, GATED, RULES(umt5_encoder_rules)},
};
const size_t MODEL_T5_COUNT = COUNT(MODEL_T5);

/* The embeddings under the names of both sides; numbers that the first checkpoints carry and nothing uses; beside an encoder alone, the decoder. */
bool model_t5_tensor_ignored(const struct model_config *c, struct span name) {
    static const char *const names[] = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"};
    for (size_t i = 0; i < COUNT(names); i++)
        if (span_eq_str(name, names[i])) return true;
    return c->arch->kind == MODEL_ENCODER && (span_starts(name, SPAN("decoder.")) || span_eq_str(name, "lm_head.weight"));
}
