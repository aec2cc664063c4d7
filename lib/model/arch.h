/*
 * What a transformer is, as plain data. A row of the tables in arch_decoders.c, arch_encoders.c and arch_t5.c (struct model_arch) says how a family is put together; struct
 * model_config holds the numbers of one model of it. The trainer builds its tape and the engine plans its fused steps from these
 * two alone, and both name parameters by (role, layer), never by a file's names: a family that is not here yet is a new row, not
 * new code beside this. To add one: a row there with its rules (file name, role, dimensions), its keys of config.json in config.c and config_decoders.c,
 * a case in tests/unit/model; a new enum value only where the family does something that none before it did.
 *
 * Layout of every parameter as trainer and engine see it: f32, row-major, matrices [out, in] (y = x · Wᵀ + b), embeddings [vocab, width],
 * vectors [1, n]. What files do otherwise (GPT-2's Conv1D is [in, out]; its q, k and v are one tensor) is undone by model_dir.h.
 * Plain data, no allocation but in model_tensors; any thread.
 */
#ifndef GENLOOP_MODEL_ARCH_H
#define GENLOOP_MODEL_ARCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/json.h"

/* Limits: above the largest published dense models of 2025 (Llama 3.1 405B: 126 layers, 16,384 wide, 53,248 inner, 128 heads), so that a
 * product of any three of them fits 64 bits and a config.json cannot ask for what no machine holds by a slip of a digit. */
enum {
    MODEL_LAYERS_MAX = 1024,
    MODEL_WIDTH_MAX = 1 << 17,
    MODEL_HEADS_MAX = 1024,
    MODEL_HEAD_DIM_MAX = 1024,
    MODEL_FFN_MAX = 1 << 20,
    MODEL_CONTEXT_MAX = 1 << 24,
    MODEL_VOCAB_MAX = 1 << 22,
    MODEL_EOS_MAX = 8, /* Llama 3 has three */
    MODEL_BUCKETS_MAX = 1024,     /* of distances: T5 has 32 */
    MODEL_DISTANCE_MAX = 1 << 14, /* from which on they are one: T5 has 128 */
    MODEL_TYPES_MAX = 256,        /* token types: BERT has 2 */
    MODEL_LABELS_MAX = 1 << 16,   /* of a classifier */
    MODEL_TENSOR_NAME_MAX = 128,
    MODEL_PARTS_MAX = 3, /* q, k and v in one tensor */
    MODEL_EXPERTS_MAX = 1024,        /* Qwen 3 has 128, DeepSeek V3 256 */
    MODEL_EXPERTS_USED_MAX = 64,     /* of them, for a token; Qwen 3: 8 */
    MODEL_TENSORS_MAX = 1 << 18,     /* Qwen 3 235B: 37,000; a list of so many takes 60 MiB */
    MODEL_ROPE_FACTORS_MAX = 128,    /* of longrope: heads of 256, rotated whole */
};

enum model_kind { MODEL_DECODER, MODEL_ENCODER, MODEL_ENCODER_DECODER };

enum model_norm {
    MODEL_NORM_RMS,          /* x / rms(x) · w                     Zhang & Sennrich 2019 */
    MODEL_NORM_RMS_PLUS_ONE, /* x / rms(x) · (1 + w): Gemma */
    MODEL_NORM_LAYER,        /* (x − mean) / deviation · w + b      Ba et al. 2016 */
};
enum model_norm_place {
    MODEL_NORM_PRE,      /* x + f(norm(x)): GPT-2, Llama */
    MODEL_NORM_POST,     /* norm(x + f(x)): BERT; ATTN_NORM and MLP_NORM lie behind their branch then */
    MODEL_NORM_SANDWICH, /* x + norm(f(norm(x))): Gemma 2 and 3 */
    MODEL_NORM_PARALLEL, /* x + attn(norm1(x)) + mlp(norm2(x)), one norm where there is no MLP_NORM: NeoX, Phi */
    MODEL_NORM_OUTPUT,   /* x + norm(f(x)), the norms being the ..._POST_NORM ones: OLMo 2 */
};
/* Norms of q and k before the rotation. */
enum model_qk_norm {
    MODEL_QK_NORM_NONE,
    MODEL_QK_NORM_HEAD,   /* the RMS norm of the family over each head, one weight for all: Qwen 3, Gemma 3 */
    MODEL_QK_NORM_WIDE,   /* over all heads at once: OLMo 2 */
    MODEL_QK_NORM_LAYERS, /* a layer norm without bias over each head, each its own weight: StableLM 2 12B */
};
enum model_activation { MODEL_ACT_SILU, MODEL_ACT_GELU, MODEL_ACT_GELU_TANH, MODEL_ACT_GELU_QUICK, MODEL_ACT_RELU };
enum model_mlp {
    MODEL_MLP_GATED, /* down(act(gate(x)) · up(x)) */
    MODEL_MLP_PLAIN, /* down(act(up(x))) */
};
enum model_positions {
    MODEL_POS_ROPE,    /* rotation of q and k, halves paired (i, i + D/2): Llama, NeoX and all that came after (transformers' rotate_half) */
    MODEL_POS_LEARNED, /* a row of EMBED_POSITIONS added to the token's */
    MODEL_POS_RELATIVE, /* a learnt number for each head and bucket of distances, added to q·k: Raffel et al. 2020, "T5" */
    MODEL_POS_NONE,
};
/* An encoder's classifier, on the pooled vector p. */
enum model_head {
    MODEL_HEAD_NONE,
    MODEL_HEAD_TANH,     /* out(tanh(dense(p))): BERT, RoBERTa */
    MODEL_HEAD_RELU,     /* out(relu(dense(p))): DistilBERT */
    MODEL_HEAD_ACT_NORM, /* out(norm(act(dense(p)))): ModernBERT */
};
enum model_rope_scaling {
    MODEL_ROPE_DEFAULT,
    MODEL_ROPE_LINEAR,
    MODEL_ROPE_LLAMA3,
    MODEL_ROPE_YARN,     /* Peng et al. 2023 */
    MODEL_ROPE_LONGROPE, /* Ding et al. 2024: other factors for sequences beyond the original context */
};

/* Every parameter of every family. Layer roles exist once per layer, the others once (layer 0). */
enum model_role {
    MODEL_EMBED_TOKENS,    /* [vocab, width] */
    MODEL_EMBED_POSITIONS, /* [context, width] */
    MODEL_FINAL_NORM_W,    /* [1, width] */
    MODEL_FINAL_NORM_B,
    MODEL_LM_HEAD,         /* [vocab, width]; absent where tied: model_weights_get gives EMBED_TOKENS then */
    MODEL_LM_HEAD_B,       /* [1, vocab] */
    MODEL_EMBED_IN_W,      /* [width, embed_width], where embeddings are narrower than the model: OPT 350M */
    MODEL_EMBED_OUT_W,     /* [embed_width, width], likewise before the head */
    MODEL_EMBED_TYPES,     /* [types, width] */
    MODEL_EMBED_NORM_W,    /* [1, width] over the sum of the embeddings */
    MODEL_EMBED_NORM_B,
    MODEL_HEAD_DENSE_W,    /* [width, width] */
    MODEL_HEAD_DENSE_B,
    MODEL_HEAD_NORM_W,     /* [1, width] */
    MODEL_HEAD_OUT_W,      /* [labels, width] */
    MODEL_HEAD_OUT_B,
    MODEL_ENCODER_NORM_W,  /* [1, width] behind the last layer of the encoder beside a decoder */
    /* of a layer */
    MODEL_ATTN_NORM_W, /* [1, width] before attention */
    MODEL_ATTN_NORM_B,
    MODEL_ATTN_Q_W, /* [heads · head_dim, width] */
    MODEL_ATTN_Q_B, /* [1, heads · head_dim] */
    MODEL_ATTN_K_W, /* [kv_heads · head_dim, width] */
    MODEL_ATTN_K_B,
    MODEL_ATTN_V_W,
    MODEL_ATTN_V_B,
    MODEL_ATTN_Q_NORM_W, /* [1, head_dim], wide: [1, heads · head_dim], layers: [1, head_dim] for each head (index) */
    MODEL_ATTN_K_NORM_W,
    MODEL_ATTN_O_W, /* [width, heads · head_dim] */
    MODEL_ATTN_O_B,
    MODEL_ATTN_POSITION_W,  /* [buckets, heads] relative positions; of the first layer, used by all, or of each its own */
    MODEL_CROSS_NORM_W,     /* [1, width] before the attention of a decoder's layer over what the encoder made */
    MODEL_CROSS_Q_W,        /* [heads · head_dim, width] */
    MODEL_CROSS_K_W,
    MODEL_CROSS_V_W,
    MODEL_CROSS_O_W,        /* [width, heads · head_dim] */
    MODEL_ATTN_POST_NORM_W, /* sandwich */
    MODEL_MLP_NORM_W,       /* [1, width] before the MLP */
    MODEL_MLP_NORM_B,
    MODEL_MLP_GATE_W, /* [ffn, width] */
    MODEL_MLP_GATE_B,
    MODEL_MLP_UP_W, /* [ffn, width] */
    MODEL_MLP_UP_B,
    MODEL_MLP_DOWN_W, /* [width, ffn] */
    MODEL_MLP_DOWN_B,
    MODEL_MLP_POST_NORM_W, /* sandwich */
    /* of a layer with experts, in place of the MLP; the last three once for each expert (struct model_param's index) */
    MODEL_ROUTER_W,      /* [experts, width] */
    MODEL_EXPERT_GATE_W, /* [expert_ffn, width] */
    MODEL_EXPERT_UP_W,
    MODEL_EXPERT_DOWN_W, /* [width, expert_ffn] */
    MODEL_ROLES,
};
#define MODEL_ROLE_FIRST_OF_LAYER MODEL_ATTN_NORM_W
const char *model_role_name(enum model_role role); /* "attn_q_w", for messages */
static inline bool model_role_in_layer(enum model_role role) { return role >= MODEL_ROLE_FIRST_OF_LAYER; }

struct model_tensor_rule; /* arch.c */

/* A family. */
struct model_arch {
    const char *name;         /* in our recipes: "llama" */
    const char *model_type;   /* in config.json */
    const char *architecture; /* "LlamaForCausalLM" */
    enum model_kind kind;
    enum model_norm norm;
    enum model_norm_place norm_place; /* where config.json does not say */
    enum model_mlp mlp;
    enum model_positions positions;
    enum model_qk_norm qk_norm;
    bool embed_scaled;        /* embeddings × √width: Gemma */
    bool norm_bias;           /* layer norms with bias */
    uint32_t positions_before; /* rows of EMBED_POSITIONS before that of position 0, beyond the context: 2 in OPT */
    bool tie_default;         /* where config.json does not say */
    int attn_bias;            /* -1: as config.json says; 0 none; 1 on q, k and v; 2 on o too */
    int mlp_bias;             /* -1, 0, 1 */
    /* of encoders */
    uint32_t token_types;     /* how many where config.json does not say; 0: the family has none */
    bool positions_after_pad; /* the first token's row of EMBED_POSITIONS is pad_id + 1: RoBERTa */
    enum model_head head;     /* where the class is ...ForSequenceClassification */
    enum model_activation activation_default;
    const char *base_prefix;  /* "model." or "transformer.": absent in files saved from the body alone */
    const char *layer_prefix; /* behind it: "layers.", "h." */
    const char *encoder_prefix; /* likewise of the encoder's layers beside a decoder; NULL: there is none */
    const struct model_tensor_rule *rules;
    size_t rule_count;
};

size_t model_arch_count(void);
const struct model_arch *model_arch_at(size_t index);
/* By our name or by transformers' class or model_type; NULL where there is none. */
const struct model_arch *model_arch_find(struct span name);
/* "llama, gpt2": for messages. */
const char *model_arch_names(void);

/* What a layer does otherwise than its neighbours. */
enum {
    MODEL_LAYER_WINDOW = 1,     /* attention sees the last `window` tokens only */
    MODEL_LAYER_ROPE_LOCAL = 2, /* rotates by rope_theta_local */
    MODEL_LAYER_EXPERTS = 4,    /* experts in place of the MLP */
};

/* One model's numbers. Open: fill it by hand (model_config_default, then fields, then model_config_check) or from config.json. */
struct model_config {
    const struct model_arch *arch;
    uint32_t layers, width, heads, kv_heads, head_dim, ffn, context, vocab;
    uint32_t encoder_layers; /* beside the decoder's `layers`: by (role, layer) they are layers [layers, layers + encoder_layers); 0: there is no encoder */
    enum model_mlp mlp;      /* the family's, but where config.json decides */
    enum model_activation activation;
    float norm_eps;
    double rope_theta; /* 0 where positions are not rotary */
    enum model_rope_scaling rope_scaling;
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor; /* linear: factor; llama3: all three and the next */
    uint32_t rope_original_context;
    double rope_beta_fast, rope_beta_slow; /* yarn */
    bool rope_truncate;                    /* yarn: the range in whole dimensions */
    double rope_attention_factor;          /* on cosines and sines: 1 but with yarn and longrope */
    float rope_short[MODEL_ROPE_FACTORS_MAX], rope_long[MODEL_ROPE_FACTORS_MAX]; /* longrope, [rotary_dim / 2] */
    uint32_t rotary_dim; /* of head_dim that is rotated; head_dim but for partial rotary families */
    bool tie_embeddings;
    int attn_bias; /* 0 none, 1 on q, k and v, 2 on o too */
    bool mlp_bias;
    float attn_scale;       /* on q·k: 1/√head_dim but where a family says otherwise */
    float attn_softcap;     /* c · tanh(q·k / c): Gemma 2; 0: none */
    float logits_softcap;
    float embed_scale;      /* × embeddings */
    float residual_scale;   /* × what attention and MLP add */
    float logits_scale;     /* × logits, before their cap */
    uint32_t embed_width;   /* width but where embeddings are projected */
    uint32_t window;        /* 0: none */
    uint32_t position_buckets, position_distance; /* relative positions: how many; from this distance on all are in one */
    enum model_norm_place norm_place;
    bool no_final_norm;
    enum model_qk_norm qk_norm;
    uint32_t experts, experts_used, expert_ffn; /* 0: no layer has any */
    bool experts_normed;    /* weights of the experts used sum to 1 */
    uint8_t layer_flags[MODEL_LAYERS_MAX];
    float initializer_range;
    /* of encoders; 0 elsewhere */
    uint32_t types;           /* rows of EMBED_TYPES */
    uint32_t position_offset; /* the first token's row of EMBED_POSITIONS: of `context` rows so many are no token's */
    uint32_t labels;          /* the classifier's outputs; 0: the body alone */
    bool head_mean;           /* the classifier takes the mean of all tokens, not the first's vector */
    enum model_activation head_activation;
    uint32_t local_window;    /* tokens to either side that a local layer sees; 0: no layer is local */
    uint32_t global_every;    /* every so many layers, from the first on, one sees all */
    double rope_theta_local;  /* of layers with MODEL_LAYER_ROPE_LOCAL (Gemma 3 too), unscaled; 0: none */
    int64_t bos_id, pad_id; /* -1: none */
    int64_t start_id;       /* an answer's first token, told and not generated, where an encoder has read the prompt; -1: no encoder */
    int64_t eos_ids[MODEL_EOS_MAX]; /* any of these ends a generation */
    uint32_t eos_count;
};

/* The family's defaults with these sizes: kv_heads 0 = heads; head_dim = width / heads; ffn 0 = the family's habit (4·width; gated: 8/3·width rounded
 * up to 32); theta 10000, eps 1e-5, ids -1. Does not check. */
void model_config_default(struct model_config *c, const struct model_arch *arch, uint32_t layers, uint32_t width, uint32_t heads,
                          uint32_t kv_heads, uint32_t context, uint32_t vocab);
/* Ranges and relations of all numbers. E_INVALID or E_RANGE; err names the key as config.json has it. */
int model_config_check(const struct model_config *c, struct error *err);
/* From config.json. E_UNSUPPORTED names a family or an option that this release does not compute (never computed wrongly instead). */
int model_config_parse(struct span text, struct model_config *c, struct error *err);
int model_config_from_json(const struct json *root, struct model_config *c, struct error *err);
/* Appends a config.json that transformers opens, keys sorted, ending in a newline. */
int model_config_write(const struct model_config *c, struct buf *out);
static inline uint32_t model_config_layers(const struct model_config *c) { return c->layers + c->encoder_layers; }
/* Learnable numbers; a tied head counts once. */
uint64_t model_config_param_count(const struct model_config *c);
/* inv_freq[rotary_dim / 2] with the model's scaling applied: angle = position · inv_freq[i], cosine and sine × rope_attention_factor. The one place that
 * knows the scaling kinds. Of longrope: for sequences within the original context. */
void model_rope_frequencies(const struct model_config *c, float *inv_freq);
enum model_rope_kind {
    MODEL_ROPE_KIND_GLOBAL,
    MODEL_ROPE_KIND_LONG,  /* longrope beyond the original context */
    MODEL_ROPE_KIND_LOCAL, /* of layers with MODEL_LAYER_ROPE_LOCAL; never scaled */
    MODEL_ROPE_KINDS,
};
bool model_rope_has(const struct model_config *c, enum model_rope_kind kind);
void model_rope_frequencies_of(const struct model_config *c, enum model_rope_kind kind, float *inv_freq);
/* Of relative positions: the row of ATTN_POSITION_W for a key `offset` tokens behind (−) or ahead of the query; both: keys ahead are seen, and have half of
 * the buckets. */
uint32_t model_position_bucket(const struct model_config *c, int64_t offset, bool both);
/* The name that config.json uses: "silu", "gelu", "gelu_new", … */
const char *model_activation_name(enum model_activation a);

/* One parameter as trainer and engine see it. */
struct model_param {
    enum model_role role;
    uint32_t layer;
    uint32_t index;      /* which expert or head of the layer; those of one role follow each other in list and memory */
    uint32_t rows, cols; /* [out, in]; a vector is [1, n] */
    size_t offset;       /* in floats, in the flat array of all parameters */
};
static inline size_t model_param_size(const struct model_param *p) { return (size_t)p->rows * p->cols; }
/* Weight decay belongs on these. */
static inline bool model_param_is_matrix(const struct model_param *p) { return p->rows > 1 && p->cols > 1; }

enum model_fusing {
    MODEL_FUSED_STACKED,  /* the parts one behind the other along out */
    MODEL_FUSED_PER_HEAD, /* q, k and v of head 0, then of head 1, …: NeoX */
};
/* One tensor of the file and the one to three parameters in it. */
struct model_tensor {
    char name[MODEL_TENSOR_NAME_MAX];
    uint32_t rows, cols; /* after undoing transposition: [out, in] */
    bool transposed;     /* the file holds [in, out] */
    bool vector;         /* the file holds one dimension: [cols] */
    enum model_fusing fusing;
    uint32_t part_count;
    struct model_param parts[MODEL_PARTS_MAX]; /* with their offsets in the flat array */
};
/* All tensors of the model in a fixed order (embeddings, layers, final norm, head); offsets count up in that order. Returns owned (mem_free) in *tensors;
 * *flat_len: floats in all. The config must have passed model_config_check. E_NOMEM, E_TOO_LARGE where the sizes overflow. */
int model_tensors(const struct model_config *c, struct model_tensor **tensors, size_t *count, size_t *flat_len, struct error *err);
/* Whether a tensor that is not in that list may be in a file all the same (buffers that old checkpoints carry, a tied head). */
bool model_tensor_ignored(const struct model_config *c, struct span name);

#endif
