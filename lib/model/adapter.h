/*
 * LoRA adapters (Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models") in PEFT's layout: adapter_config.json and adapter_model.safetensors. A target of
 * the base model, W x, becomes W x + s · B (A x) with A [rank, in], B [out, rank] and s = alpha / rank, or alpha / √rank with rsLoRA (Kalajdzievski 2023).
 *
 * Like everything that comes in from outside an adapter is checked whole before any of it is used: each tensor must be half of a pair that belongs to a matrix of the base,
 * with the sizes that it has there. What changes the arithmetic in a way that is not built (DoRA, biases, modules_to_save, embeddings, experts, initialisations
 * that alter the base, keys that are not known) is refused by name: an adapter is never computed as something that it is not.
 *
 * Names. PEFT calls a matrix by its module, `base_model.model.` + the base's tensor without `.weight`. A tensor that holds several parameters (GPT-2's c_attn, Phi-3's
 * qkv_proj, NeoX' query_key_value) has one A and one B; here each parameter has its own rows of B and shares A. Conv1D (fan_in_fan_out) makes no difference: A
 * and B are stored alike.
 *
 * Loaded, A and B are packed as weights are (tensor/quant.h), so that the same kernels multiply them; the A of matrices with one input are one matrix. Immutable from then on: any
 * thread may read.
 */
#ifndef GENLOOP_MODEL_ADAPTER_H
#define GENLOOP_MODEL_ADAPTER_H

#include "base/error.h"
#include "base/json.h"
#include "base/sha256.h"
#include "base/span.h"
#include "model/arch.h"
#include "tensor/quant.h"

enum {
    ADAPTER_RANK_MAX = 512,        /* vLLM's highest max_lora_rank; bounds what a row keeps between A and B */
    ADAPTER_CONFIG_MAX = 1 << 20,  /* bytes of adapter_config.json: rank patterns may name every module */
    ADAPTER_PATTERN_MAX = 256,     /* bytes of one key of rank_pattern or alpha_pattern */
    ADAPTER_PATTERNS_MAX = 16384,  /* keys of one of them: each module of a model of a thousand layers */
    ADAPTER_BASE_MAX = 512,        /* bytes of base_model_name_or_path */
};

/* adapter_config.json. */
struct adapter_config {
    char base[ADAPTER_BASE_MAX]; /* base_model_name_or_path; "" where it does not say */
    uint32_t rank;
    double alpha;
    bool rslora;
    struct json *root;           /* owned: the patterns */
};
/* E_INVALID, E_RANGE; E_UNSUPPORTED names what is not built. */
int adapter_config_parse(struct span text, struct adapter_config *c, struct error *err);
void adapter_config_fini(struct adapter_config *c); /* safe on a zeroed struct and twice */
/* Of one module, "model.layers.0.self_attn.q_proj": rank_pattern and alpha_pattern where one of their keys matches its end, as PEFT matches them. */
void adapter_config_module(const struct adapter_config *c, struct span module, uint32_t *rank, double *scaling);

/* The matrices of a layer that may have a term, and what they are multiplied with. */
enum adapter_place { ADAPTER_Q, ADAPTER_K, ADAPTER_V, ADAPTER_O, ADAPTER_GATE, ADAPTER_UP, ADAPTER_DOWN, ADAPTER_PLACES };
enum adapter_input { ADAPTER_OF_QKV, ADAPTER_OF_O, ADAPTER_OF_MLP, ADAPTER_OF_DOWN, ADAPTER_INPUTS };
enum { ADAPTER_INPUT_PLACES = 3 }; /* of one input, at most */
struct adapter_term {
    uint32_t rank;   /* 0: none here */
    uint32_t first;  /* where its rows begin in the A of its input; the same where parameters of one tensor share them */
    struct packed b; /* s · B, [out, rank]; beside an A in blocks f16: blocks of 32 ranks would mostly be half empty */
};
struct model_adapter {
    uint32_t layers;
    enum packed_kind kind;      /* of A */
    struct adapter_term *terms; /* owned, [layers, ADAPTER_PLACES] */
    struct packed *lower;       /* owned, [layers, ADAPTER_INPUTS]: the A of all that take this input, one below the other; rows 0: none */
    uint8_t *data;              /* owned (quant_map): what all of these point into */
    size_t size;                /* bytes of data */
    size_t parameters;          /* numbers in the file */
    uint8_t digest[SHA256_SIZE]; /* of all numbers and the kind: two adapters with the same one compute the same */
};
static inline const struct adapter_term *model_adapter_term(const struct model_adapter *a, uint32_t layer, enum adapter_place place) {
    return &a->terms[(size_t)layer * ADAPTER_PLACES + place];
}
static inline const struct packed *model_adapter_lower(const struct model_adapter *a, uint32_t layer, enum adapter_input input) {
    return &a->lower[(size_t)layer * ADAPTER_INPUTS + input];
}
extern const enum adapter_input ADAPTER_INPUT_OF[ADAPTER_PLACES];
/* What an adapter is best packed as beside weights of this kind: q8 where they are blocks, whose inputs are in int8 anyway; 16 bits beside 16 bits; else f32. */
enum packed_kind model_adapter_kind(enum packed_kind weights);

/* Whether DIR is one: it has an adapter_config.json. */
bool model_adapter_is(const char *dir);
/* DIR/adapter_config.json alone: adapter_config_fini. */
int model_adapter_config(const char *dir, struct adapter_config *c, struct error *err);
/* For a base with this configuration, packed as `kind`. Returns owned in *a. E_NOT_FOUND: a file is missing; E_INVALID, E_UNSUPPORTED name file, tensor or key. */
int model_adapter_load(struct model_adapter **a, const char *dir, const struct model_config *base, enum packed_kind kind, struct error *err);
void model_adapter_free(struct model_adapter *a); /* NULL is accepted */

#endif
