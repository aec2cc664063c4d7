/*
 * What forward.c (the step) and forward_load.c (packing of weights, memory) share; nobody else includes this. All of it is made by forward_new and is
 * immutable from then on, but for the activations and the step in hand.
 */
#ifndef GENLOOP_ENGINE_FORWARD_INTERNAL_H
#define GENLOOP_ENGINE_FORWARD_INTERNAL_H

#include <stdatomic.h>

#include "engine/forward.h"
#include "engine/matrix_pack.h"

enum { LOGITS_INPUT_ROWS = 64 }; /* rows of the output made ready at once for the head */

/* Matrices of one input, one below the other: those of one kind are packed as one, each of another kind is a part of its own. */
struct matrix {
    struct packed part[MATRIX_PARTS_MAX];
    uint32_t parts;
};

struct norm {
    const float *weight, *bias; /* NULL weight: no such norm */
};
struct layer {
    struct norm attn_norm, mlp_norm, attn_post_norm, mlp_post_norm;
    const float *q_norm, *k_norm; /* as the model's qk_norm says */
    bool rope_local;
    uint32_t window;              /* 0: none */
    struct matrix router, *expert_gate_up, *expert_down; /* [experts]; NULL where the layer has an MLP */
    struct matrix qkv, o, gate_up, down; /* gate_up: gate and up are two parts; up alone where the MLP is plain */
    struct norm cross_norm;               /* the rest of these: of a decoder beside an encoder */
    struct matrix cross_q, cross_kv, cross_o;
    const float *positions;               /* position_bias.h; NULL: none */
    const float *qkv_bias, *o_bias, *gate_up_bias, *down_bias;
};
/* Rows of the step with one adapter that lie behind each other. */
struct adapter_group {
    const struct model_adapter *adapter;
    uint32_t first, rows;
    struct packed_input mid[ADAPTER_INPUT_PLACES]; /* A x of the places that take the input in hand, ready for B */
};
struct forward {
    struct model_config config;
    enum packed_kind kind;
    bool blocks;   /* some matrix is in blocks */
    bool prepared; /* x is made into something for the matrices: packed_form_any(form) */
    struct packed_form form; /* of the step in hand */
    uint32_t rows_max, context;
    struct pool *pool;
    struct layer *layers;
    struct norm final_norm;
    struct matrix head, embed_in, embed_out; /* the latter two where embeddings are narrower */
    const float *head_bias;
    struct matrix *experts; /* what the layers' point into */
    bool branch_apart;      /* what attention and MLP add is normed or scaled first: it is made in h */
    struct matrix embed; /* no parts: rows of head */
    const float *embed_positions;
    float embed_scale;
    float *inv_freq[MODEL_ROPE_KINDS]; /* [rotary_dim / 2], NULL: no such kind */
    uint32_t rope_tables;              /* of a row: the global one, the local one */
    struct matrix_memory memory; /* packed weights */
    float *vectors; /* norms and biases */
    size_t vectors_used, vectors_size;
    /* activations */
    void *scratch;
    size_t scratch_size;
    float *x, *h, *h2, *qkv, *att, *act, *rope, *out;
    void *input_memory, *input2_memory, *act_memory;
    float **attention_scratch; /* per thread */
    float *adapter_memory;     /* adapter_memory_size: A x; touched by rows with an adapter only */
    /* rows of experts, a row of the step having one for each expert that it goes to, those of an expert behind each other: "slots" */
    float *router_logits, *expert_weight, *expert_in, *expert_act, *expert_out;
    void *expert_in_memory, *expert_act_memory;
    struct packed_input expert_input, expert_act_input;
    uint32_t *expert_picked, *slot_row, *row_slot; /* [R · used] each; picked and row_slot by row, slot_row by slot */
    uint32_t *expert_first, *active;               /* [experts + 1] slots; the experts that have some */
    uint32_t active_count;
    size_t slots;
    uint32_t outputs;
    void *on_layer_arg;
    bool (*on_layer)(void *arg);
    /* the step in hand */
    struct kv_cache *kv;
    struct adapter_group *adapter_groups; /* [R] */
    size_t adapter_group_count;           /* 0: no item has an adapter */
    uint32_t *item_group;                 /* [items] UINT32_MAX: it has none */
    const struct forward_item *items;
    size_t item_count, rows;
    size_t *work_before;     /* [items + 1] pieces of attention before this item: tiles, or a tile's tokens in several pieces */
    uint32_t *item_pieces;   /* [items] of each of its tiles, which so many threads can share */
    size_t *parts_before;    /* [items] where an item's parts are, for tiles of several pieces */
    float *parts;            /* attention_part_size each */
    size_t parts_max;
    atomic_uint *unfinished; /* pieces of a tile of several, [ATTENTION_PIECES · threads] */
    uint32_t *shared_before; /* [items] such tiles before this item */
    uint32_t *row_item;  /* [rows] */
    uint32_t *item_row;  /* [items] its first row */
    struct packed_input input, input2, act_input; /* act_input: of down, made piece by piece by the phase of gate and up */
    const struct layer *layer;
    uint32_t layer_index;
    bool cross; /* attention is over the source */
    const uint32_t *source_blocks; /* of forward_source */
    uint32_t source_start;
    const struct matrix *w;
    const struct packed_input *w_input;
    struct packed_output w_output;
    float *maxima;            /* of the logits in hand; NULL: not wanted */
    size_t w_panels, w_parts; /* a piece; parts that x's rows are taken in */
};

/* forward_adapter.c: what the adapters of the step's rows add, where there are groups. */
size_t adapter_memory_size(size_t rows);
void adapter_groups(struct forward *f, const struct forward_item *items, size_t n); /* of a new step */
struct adapter_target {
    enum adapter_place place;
    float *y; /* [R, out], rows `stride` apart */
    size_t stride;
};
/* To n products of the same input. */
void adapter_add(struct forward *f, const struct adapter_target *targets, size_t n, const struct packed_input *in);
/* Of gate and up, whose products exist piece by piece only (forward.c's inner_rows): first A x of all rows, then columns [first, first + width), whole panels, of some rows' terms to y. */
void adapter_inner(struct forward *f, const struct packed_input *in);
void adapter_add_inner(const struct forward *f, size_t row, size_t rows, enum adapter_place place, size_t first, size_t width, float *y, size_t stride);
enum { ATTENTION_PIECES = 4 }; /* per thread, at least, where tokens are many enough: they are not equally long */

/* forward.c, for forward_cross.c */
void forward_each_row(struct forward *f, size_t rows, void (*fn)(struct forward *f, size_t row, int thread));
void forward_multiply(struct forward *f, const struct matrix *w, const struct packed_input *in, float *y, size_t stride, const float *bias, bool add);
void forward_attend(struct forward *f); /* f->qkv → f->att */
/* forward_cross.c */
void forward_cross_attention(struct forward *f);

#endif
