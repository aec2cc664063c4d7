/* What encoder.c (the pass) and encoder_load.c (packing of weights, memory) share; nobody else includes this. */
#ifndef GENLOOP_ENGINE_ENCODER_INTERNAL_H
#define GENLOOP_ENGINE_ENCODER_INTERNAL_H

#include "base/pool.h"
#include "engine/encoder.h"
#include "engine/matrix_pack.h"

struct encoder_norm {
    const float *weight, *bias; /* weight NULL: none, what is normed is taken as it is */
};
struct encoder_layer {
    struct encoder_norm attn_norm, mlp_norm;
    struct packed qkv, o, up, down; /* up: gate and up, one below the other, where the MLP is gated */
    const float *positions; /* position_bias.h; NULL: none */
    const float *qkv_bias, *o_bias, *up_bias, *down_bias;
};
struct encoder {
    struct model_dir dir; /* its weights are gone once packed */
    const struct model_weights *weights; /* while it loads: dir's, or those of the whole model that it is the encoder of */
    uint32_t first_layer;                /* there: its first */
    const struct packed *embeddings;     /* the decoder's beside it, borrowed, or embed_rows; NULL: embed */
    struct packed embed_rows;
    bool pool_borrowed;
    struct encoder_settings settings;
    struct pool *pool;
    enum packed_kind kind;
    struct packed_form form; /* what x is made into for the matrices, or for some of them; */
    bool prepared;           /* anything */
    bool post;   /* norms lie behind their branches */
    uint32_t tokens_max, rows_max, texts_max, pass_rows;
    struct encoder_layer *layers;
    struct encoder_norm embed_norm, final_norm, head_norm;
    struct packed head_dense, head_out;
    const float *head_dense_bias, *head_out_bias;
    const float *embed, *embed_positions, *embed_types; /* NULL: none */
    float *rope[2];  /* [tokens_max, head_dim]: cosines and sines of each position; of layers that see all, of local ones */
    struct matrix_memory memory; /* packed weights */
    float *vectors; /* embeddings, norms, biases, rope */
    size_t vectors_used, vectors_size;
    /* activations: R rows, C width, F inner */
    void *scratch;
    size_t scratch_size;
    float *x;       /* [R, C] */
    float *h;       /* [R, C] what the matrices take; x itself where norms lie behind */
    float *qkv;     /* [R, 3 Q], Q being heads · head size */
    float *tiles;   /* keys and values of each head in blocks of 16 tokens, as attention.h wants them */
    float *att;     /* [R, Q] */
    float *up;      /* [R, F], gated [R, 2 F] */
    float *act;     /* [R, F]; up itself where plain */
    float *pooled, *dense; /* [texts, C] */
    float *scores;  /* [texts, labels] */
    void *input_memory[3];
    float **attention_scratch; /* per thread */
    uint32_t *row_text, *row_position; /* [R] */
    uint32_t *text_row, *text_block; /* [texts]: its first row; its first block of tiles */
    /* the pass in hand */
    const struct encoder_text *texts;
    size_t text_count, rows, blocks_used;
    uint32_t layers_done;
    struct packed_input in_h, in_att, in_act;
    uint32_t layer_index;
    size_t parts; /* pieces of a text's queries */
    const struct encoder_step *steps;
    size_t step_count, step_pieces; /* of the rows: a thread takes one through all steps */
    size_t step_unit;               /* rows that are multiplied together */
};

/* Packs and makes room; e->dir, e->settings, e->pool and e->kind are set. */
int encoder_load(struct encoder *e, const struct packed_cache *cache, struct error *err);

#endif
