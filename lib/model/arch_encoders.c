/*
 * The families that read a text from both sides: what arch.c is to decoders. Their body gives a vector per token (embeddings); with a head for
 * classification, which the class in config.json tells of, it gives a score per label.
 */
#include "base/alloc.h"
#include "model/rules.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define MATRIX(scope, when, name, role, rows, cols) {scope, when, name, {role}, 1, rows, cols, false, false, MODEL_FUSED_STACKED, EACH_ONE}
#define VECTOR(scope, when, name, role, n) {scope, when, name, {role}, 1, DIM_ONE, n, false, true, MODEL_FUSED_STACKED, EACH_ONE}
#define LINEAR(scope, when, name, role, out, in) MATRIX(scope, when, name ".weight", role##_W, out, in), VECTOR(scope, when, name ".bias", role##_B, out)
#define NORM(scope, name, role) VECTOR(scope, IF_ALWAYS, name ".weight", role##_W, DIM_WIDTH), VECTOR(scope, IF_ALWAYS, name ".bias", role##_B, DIM_WIDTH)

/* Devlin et al. 2019, "BERT"; Liu et al. 2019, "RoBERTa": the same body */
#define BERT_BODY \
    MATRIX(SCOPE_BASE, IF_ALWAYS, "embeddings.word_embeddings.weight", MODEL_EMBED_TOKENS, DIM_VOCAB, DIM_WIDTH), \
    MATRIX(SCOPE_BASE, IF_ALWAYS, "embeddings.position_embeddings.weight", MODEL_EMBED_POSITIONS, DIM_CONTEXT, DIM_WIDTH), \
    MATRIX(SCOPE_BASE, IF_ALWAYS, "embeddings.token_type_embeddings.weight", MODEL_EMBED_TYPES, DIM_TYPES, DIM_WIDTH), \
    NORM(SCOPE_BASE, "embeddings.LayerNorm", MODEL_EMBED_NORM), \
    LINEAR(SCOPE_LAYER, IF_ALWAYS, "attention.self.query", MODEL_ATTN_Q, DIM_Q, DIM_WIDTH), \
    LINEAR(SCOPE_LAYER, IF_ALWAYS, "attention.self.key", MODEL_ATTN_K, DIM_KV, DIM_WIDTH), \
    LINEAR(SCOPE_LAYER, IF_ALWAYS, "attention.self.value", MODEL_ATTN_V, DIM_KV, DIM_WIDTH), \
    LINEAR(SCOPE_LAYER, IF_ALWAYS, "attention.output.dense", MODEL_ATTN_O, DIM_WIDTH, DIM_Q), \
    NORM(SCOPE_LAYER, "attention.output.LayerNorm", MODEL_ATTN_NORM), \
    LINEAR(SCOPE_LAYER, IF_ALWAYS, "intermediate.dense", MODEL_MLP_UP, DIM_FFN, DIM_WIDTH), \
    LINEAR(SCOPE_LAYER, IF_ALWAYS, "output.dense", MODEL_MLP_DOWN, DIM_WIDTH, DIM_FFN), \
    NORM(SCOPE_LAYER, "output.LayerNorm", MODEL_MLP_NORM)
static const struct model_tensor_rule bert_rules[] = {
    BERT_BODY,
    LINEAR(SCOPE_BASE_END, IF_HEAD, "pooler.dense", MODEL_HEAD_DENSE, DIM_WIDTH, DIM_WIDTH),
    LINEAR(SCOPE_ROOT, IF_HEAD, "classifier", MODEL_HEAD_OUT, DIM_LABELS, DIM_WIDTH),
};
static const struct model_tensor_rule roberta_rules[] = {
    BERT_BODY,
    LINEAR(SCOPE_ROOT, IF_HEAD, "classifier.dense", MODEL_HEAD_DENSE, DIM_WIDTH, DIM_WIDTH),
    LINEAR(SCOPE_ROOT, IF_HEAD, "classifier.out_proj", MODEL_HEAD_OUT, DIM_LABELS, DIM_WIDTH),
};

/* Sanh et al. 2019, "DistilBERT": no token types */
static const struct model_tensor_rule distilbert_rules[] = {
    MATRIX(SCOPE_BASE, IF_ALWAYS, "embeddings.word_embeddings.weight", MODEL_EMBED_TOKENS, DIM_VOCAB, DIM_WIDTH),
    MATRIX(SCOPE_BASE, IF_ALWAYS, "embeddings.position_embeddings.weight", MODEL_EMBED_POSITIONS, DIM_CONTEXT, DIM_WIDTH),
    NORM(SCOPE_BASE, "embeddings.LayerNorm", MODEL_EMBED_NORM),
    LINEAR(SCOPE_LAYER, IF_ALWAYS, "attention.q_lin", MODEL_ATTN_Q, DIM_Q, DIM_WIDTH),
    LINEAR(SCOPE_LAYER, IF_ALWAYS, "attention.k_lin", MODEL_ATTN_K, DIM_KV, DIM_WIDTH),
    LINEAR(SCOPE_LAYER, IF_ALWAYS, "attention.v_lin", MODEL_ATTN_V, DIM_KV, DIM_WIDTH),
    LINEAR(SCOPE_LAYER, IF_ALWAYS, "attention.out_lin", MODEL_ATTN_O, DIM_WIDTH, DIM_Q),
    NORM(SCOPE_LAYER, "sa_layer_norm", MODEL_ATTN_NORM),
    LINEAR(SCOPE_LAYER, IF_ALWAYS, "ffn.lin1", MODEL_MLP_UP, DIM_FFN, DIM_WIDTH),
    LINEAR(SCOPE_LAYER, IF_ALWAYS, "ffn.lin2", MODEL_MLP_DOWN, DIM_WIDTH, DIM_FFN),
    NORM(SCOPE_LAYER, "output_layer_norm", MODEL_MLP_NORM),
    LINEAR(SCOPE_ROOT, IF_HEAD, "pre_classifier", MODEL_HEAD_DENSE, DIM_WIDTH, DIM_WIDTH),
    LINEAR(SCOPE_ROOT, IF_HEAD, "classifier", MODEL_HEAD_OUT, DIM_LABELS, DIM_WIDTH),
};

/* Warner et al. 2024, "Smarter, Better, Faster, Longer": rotary, gated, norms first, most layers look at their neighbourhood only */
static const struct model_tensor_rule modernbert_rules[] = {
    MATRIX(SCOPE_BASE, IF_ALWAYS, "embeddings.tok_embeddings.weight", MODEL_EMBED_TOKENS, DIM_VOCAB, DIM_WIDTH),
    VECTOR(SCOPE_BASE, IF_ALWAYS, "embeddings.norm.weight", MODEL_EMBED_NORM_W, DIM_WIDTH),
    VECTOR(SCOPE_LAYER, IF_NOT_FIRST, "attn_norm.weight", MODEL_ATTN_NORM_W, DIM_WIDTH), /* the first follows embeddings.norm */
    {SCOPE_LAYER, IF_ALWAYS, "attn.Wqkv.weight", {MODEL_ATTN_Q_W, MODEL_ATTN_K_W, MODEL_ATTN_V_W}, 3, DIM_QKV, DIM_WIDTH, false, false, MODEL_FUSED_STACKED, EACH_ONE},
    {SCOPE_LAYER, IF_ATTN_BIAS, "attn.Wqkv.bias", {MODEL_ATTN_Q_B, MODEL_ATTN_K_B, MODEL_ATTN_V_B}, 3, DIM_ONE, DIM_QKV, false, true, MODEL_FUSED_STACKED, EACH_ONE},
    MATRIX(SCOPE_LAYER, IF_ALWAYS, "attn.Wo.weight", MODEL_ATTN_O_W, DIM_WIDTH, DIM_Q),
    VECTOR(SCOPE_LAYER, IF_OUT_BIAS, "attn.Wo.bias", MODEL_ATTN_O_B, DIM_WIDTH),
    VECTOR(SCOPE_LAYER, IF_ALWAYS, "mlp_norm.weight", MODEL_MLP_NORM_W, DIM_WIDTH),
    {SCOPE_LAYER, IF_ALWAYS, "mlp.Wi.weight", {MODEL_MLP_GATE_W, MODEL_MLP_UP_W}, 2, DIM_GATE_UP, DIM_WIDTH, false, false, MODEL_FUSED_STACKED, EACH_ONE},
    {SCOPE_LAYER, IF_MLP_BIAS, "mlp.Wi.bias", {MODEL_MLP_GATE_B, MODEL_MLP_UP_B}, 2, DIM_ONE, DIM_GATE_UP, false, true, MODEL_FUSED_STACKED, EACH_ONE},
    MATRIX(SCOPE_LAYER, IF_ALWAYS, "mlp.Wo.weight", MODEL_MLP_DOWN_W, DIM_WIDTH, DIM_FFN),
    VECTOR(SCOPE_LAYER, IF_MLP_BIAS, "mlp.Wo.bias", MODEL_MLP_DOWN_B, DIM_WIDTH),
    VECTOR(SCOPE_BASE_END, IF_ALWAYS, "final_norm.weight", MODEL_FINAL_NORM_W, DIM_WIDTH),
    MATRIX(SCOPE_ROOT, IF_HEAD, "head.dense.weight", MODEL_HEAD_DENSE_W, DIM_WIDTH, DIM_WIDTH),
    VECTOR(SCOPE_ROOT, IF_HEAD, "head.norm.weight", MODEL_HEAD_NORM_W, DIM_WIDTH),
    LINEAR(SCOPE_ROOT, IF_HEAD, "classifier", MODEL_HEAD_OUT, DIM_LABELS, DIM_WIDTH),
};

#define BERT_LIKE \
    .kind = MODEL_ENCODER, .norm = MODEL_NORM_LAYER, .norm_place = MODEL_NORM_POST, .mlp = MODEL_MLP_PLAIN, .positions = MODEL_POS_LEARNED, .norm_bias = true, \
    .tie_default = true, .attn_bias = 2, .mlp_bias = 1, .activation_default = MODEL_ACT_GELU
const struct model_arch MODEL_ENCODERS[] = {
    {
        .name = "bert", .model_type = "bert", .architecture = "BertModel", BERT_LIKE, .token_types = 2, .head = MODEL_HEAD_TANH,
        .base_prefix = "bert.", .layer_prefix = "encoder.layer.", .rules = bert_rules, .rule_count = COUNT(bert_rules),
    },
    {
        .name = "roberta", .model_type = "roberta", .architecture = "RobertaModel", BERT_LIKE, .token_types = 2, .positions_after_pad = true, .head = MODEL_HEAD_TANH,
        .base_prefix = "roberta.", .layer_prefix = "encoder.layer.", .rules = roberta_rules, .rule_count = COUNT(roberta_rules),
    },
    {
        .name = "xlm-roberta", .model_type = "xlm-roberta", .architecture = "XLMRobertaModel", BERT_LIKE, .token_types = 2, .positions_after_pad = true,
        .head = MODEL_HEAD_TANH, .base_prefix = "roberta.", .layer_prefix = "encoder.layer.", .rules = roberta_rules, .rule_count = COUNT(roberta_rules),
    },
    {
        .name = "distilbert", .model_type = "distilbert", .architecture = "DistilBertModel", BERT_LIKE, .head = MODEL_HEAD_RELU,
        .base_prefix = "distilbert.", .layer_prefix = "transformer.layer.", .rules = distilbert_rules, .rule_count = COUNT(distilbert_rules),
    },
    {
        .name = "modernbert", .model_type = "modernbert", .architecture = "ModernBertModel", .kind = MODEL_ENCODER,
        .norm = MODEL_NORM_LAYER, .norm_place = MODEL_NORM_PRE, .mlp = MODEL_MLP_GATED, .positions = MODEL_POS_ROPE,
        .tie_default = true, .attn_bias = -1, .mlp_bias = -1, .activation_default = MODEL_ACT_GELU, .head = MODEL_HEAD_ACT_NORM,
        .base_prefix = "model.", .layer_prefix = "layers.", .rules = modernbert_rules, .rule_count = COUNT(modernbert_rules),
    },
};
const size_t MODEL_ENCODERS_COUNT = COUNT(MODEL_ENCODERS);

/* The classes that share the body: what their own heads are for is not wanted, but for classification. */
static const char *const classes[] = {"Model", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification"};

const struct model_arch *model_encoder_find(struct span name) {
    for (size_t i = 0; i < COUNT(MODEL_ENCODERS); i++) {
        const struct model_arch *a = &MODEL_ENCODERS[i];
        struct span stem = span_of(a->architecture, strlen(a->architecture) - strlen(classes[0]));
        if (span_eq_str(name, a->name) || span_eq_str(name, a->model_type)) return a;
        if (!span_starts(name, stem)) continue;
        for (size_t k = 0; k < COUNT(classes); k++)
            if (span_eq_str(span_sub(name, stem.len, name.len), classes[k])) return a;
    }
    return NULL;
}

bool model_encoder_class_has_head(struct span name) { return span_ends(name, SPAN("ForSequenceClassification")); }

/* Of pre-training, or of sentence encoders' checkpoints: the body's vectors do not need them. */
bool model_encoder_tensor_ignored(const struct model_config *c, struct span name) {
    static const char *const of_body[] = {"pooler.", "cls.", "lm_head.", "vocab_", "head.", "decoder."}, *const of_head[] = {"pooler."};
    struct span prefix = span_str(c->arch->base_prefix);
    if (span_ends(name, SPAN("embeddings.position_ids")) || span_ends(name, SPAN("embeddings.token_type_ids"))) return true;
    if (span_starts(name, prefix)) name = span_sub(name, prefix.len, name.len);
    for (size_t i = 0; c->labels == 0 && i < COUNT(of_body); i++)
        if (span_starts(name, span_str(of_body[i]))) return true;
    for (size_t i = 0; c->labels > 0 && c->arch->rules != bert_rules && i < COUNT(of_head); i++)
        if (span_starts(name, span_str(of_head[i]))) return true;
    return false;
}
