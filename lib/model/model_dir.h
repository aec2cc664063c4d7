/*
 * A model as a directory in Hugging Face's layout: config.json, model.safetensors (or shards with model.safetensors.index.json),
 * generation_config.json, tokenizer.json, tokenizer_config.json (with chat_template), README.md. What is read is checked whole before any of it is
 * used: every tensor that the architecture has must be there with its shape, and none that it does not have. What is written appears whole or not at
 * all: a temporary directory beside the target, fsync, rename.
 *
 * weights.gguf takes the place of model.safetensors where weights are stored in blocks (quantize.h).
 *
 * A GGUF file is a model too (gguf.h): configuration, weights, tokenizer and chat template are in its metadata and tensors.
 *
 * struct model_weights holds the parameters by (role, layer), always [out, in] (arch.h). Either one flat array of f32 of its own (the trainer: values,
 * gradients and moments are then three flat arrays of the same layout), or, with MODEL_WEIGHTS_MAP, views of the mapped file in the type that the file has
 * (the engine packs from them row by row), f32 copies only of what files hold in another order. Read by any thread once loaded.
 */
#ifndef GENLOOP_MODEL_MODEL_DIR_H
#define GENLOOP_MODEL_MODEL_DIR_H

#include "base/error.h"
#include "base/span.h"
#include "model/arch.h"
#include "model/safetensors.h"
#include "tensor/dtype.h"
#include "tokenizer/tokenizer.h"

enum {
    MODEL_SHARDS_MAX = 1024,
    MODEL_CONFIG_FILE_MAX = 16 << 20,    /* bytes of config.json, tokenizer_config.json and their like; Gemma 3 lists its added tokens there in 1.2 MB */
    MODEL_TOKENIZER_FILE_MAX = 64 << 20, /* bytes; Gemma 3's tokenizer.json has 33 MB */
    MODEL_INDEX_FILE_MAX = 16 << 20,
};

enum model_weights_mode {
    MODEL_WEIGHTS_FLAT, /* one owned, writable, 64-byte aligned array */
    MODEL_WEIGHTS_MAP,  /* borrow from the mapping where possible; read-only */
};

/* A parameter as it is stored. */
struct model_view {
    enum tensor_type type;
    const uint8_t *data;  /* borrowed from the mapping or from a copy of it; of any alignment */
    size_t row_size;      /* bytes from a row to the next */
    uint32_t rows, cols;
    bool mapped;          /* lies in a mapped file */
    uint32_t interleaved; /* 0, or the size of a head whose rows lie as (0, D/2), (1, D/2 + 1), …: llama's q and k in GGUF, for a rotation of neighbours */
};
/* Row r as arch.h counts them. */
static inline const void *model_view_row(const struct model_view *v, uint32_t r) {
    uint32_t D = v->interleaved, half = D / 2, i = D ? r % D : 0;
    if (D) r = r - i + (i < half ? 2 * i : 2 * (i - half) + 1);
    return v->data + (size_t)r * v->row_size;
}
/* All of it, [rows, cols]. */
void model_view_to_f32(const struct model_view *v, float *out);

struct model_weights {
    struct model_config config;
    struct model_param *params; /* owned; in the order of model_tensors, a fused tensor's parts one after another */
    struct model_view *views;   /* owned; views[i] is params[i] */
    const float **data;         /* owned; data[i] is params[i]'s [rows, cols], NULL where it is not stored as f32 in that order */
    size_t param_count;
    float *flat;                /* MODEL_WEIGHTS_FLAT: all parameters at their offsets; else NULL */
    size_t flat_len;            /* floats */
    size_t converted_bytes;     /* MODEL_WEIGHTS_MAP: memory beside the mapping */
    struct model_weights_index *index; /* (role, layer) → i, and what the views borrow from */
};

/* Zeros, MODEL_WEIGHTS_FLAT; to be initialised and trained. The config is checked. */
int model_weights_new(struct model_weights *w, const struct model_config *config, struct error *err);
/* From DIR/weights.gguf, else DIR/model.safetensors or its shards. */
int model_weights_load(struct model_weights *w, const struct model_config *config, const char *dir, enum model_weights_mode mode, struct error *err);
void model_weights_fini(struct model_weights *w); /* safe on a zeroed struct and twice */
/* The same from a GGUF file that the caller has opened; views borrow from it. E_INVALID names file and
 * tensor. */
struct gguf;
int model_weights_load_gguf(struct model_weights *w, const struct model_config *config, const struct gguf *file, const char *path, enum model_weights_mode mode,
                            struct error *err);
/* The parameter, NULL where the architecture has none; LM_HEAD of a tied model is EMBED_TOKENS. */
const struct model_view *model_weights_view(const struct model_weights *w, enum model_role role, uint32_t layer);
/* It is packed: its pages of the file may go. Whoever reads it all the same reads it from the file again. */
void model_view_release(const struct model_view *v);
/* Its f32 values where that is how it is stored (always in a flat array), else NULL. */
const float *model_weights_get(const struct model_weights *w, enum model_role role, uint32_t layer);
/* Its index in params and data, -1 where there is none; LM_HEAD of a tied model is EMBED_TOKENS' index. */
ptrdiff_t model_weights_find(const struct model_weights *w, enum model_role role, uint32_t layer);

/* generation_config.json, or general.sampling.* of a GGUF file: what a request that does not say gets. */
struct model_generation {
    bool do_sample;
    double temperature, top_p, repetition_penalty; /* 1 where absent */
    double min_p;                                   /* 0 where absent */
    int64_t top_k;                                  /* 0 where absent */
    int64_t max_length;                             /* 0 where absent */
};

/* How an encoder makes one vector of a text's, as GGUF numbers it. */
enum model_pooling { MODEL_POOLING_UNSAID, MODEL_POOLING_MEAN, MODEL_POOLING_CLS, MODEL_POOLING_LAST };

/* A loaded directory or GGUF file. */
struct model_dir {
    struct model_config config;   /* eos_ids: of generation_config.json where that has some */
    struct model_weights weights;
    struct tokenizer *tokenizer;  /* NULL where the directory has none */
    char *chat_template;          /* owned text, NULL where there is none (tokenizer_config.json or chat_template.jinja) */
    struct model_generation generation;
    /* What a GGUF file says of an encoder's use; of a directory files beside the weights say it, which engine/encoder_settings.h reads. */
    enum model_pooling pooling;
    char **labels;                /* owned, [label_count]; NULL: it names none */
    uint32_t label_count;
};
/* MODEL_DIR_NO_WEIGHTS: configuration and tokenizer only. MODEL_DIR_NO_CONFIG: a tokenizer that came without a model is one too; config stays zeros then. */
enum { MODEL_DIR_NO_WEIGHTS = 1, MODEL_DIR_NO_CONFIG = 2 };
/* dir: a directory, or a file that begins as GGUF does. Beside a directory's model.gguf only generation_config.json is read: it goes before what the file says. */
int model_dir_load(struct model_dir *m, const char *dir, enum model_weights_mode mode, unsigned flags, struct error *err);
/* A generation_config.json alone: E_INVALID, E_RANGE. */
int model_generation_check(struct span text, struct error *err);
/* Its config.json alone. */
int model_dir_config(const char *dir, struct model_config *config, struct error *err);
void model_dir_fini(struct model_dir *m); /* safe on a zeroed struct and twice */

/* What is written. Borrowed for the call. */
struct model_dir_parts {
    const struct model_weights *weights;        /* its config is config.json */
    enum safetensors_dtype dtype;               /* DTYPE_F32, DTYPE_BF16 or DTYPE_F16 of the file */
    const struct tokenizer *tokenizer;          /* NULL: none */
    const char *chat_template;                  /* NULL: none */
    const struct model_generation *generation;  /* NULL: greedy defaults */
    struct span readme;                         /* the model card; empty: none */
    struct span license;                        /* empty: none */
};
/* Writes DIR whole or not at all; E_EXISTS where there is something at DIR already. The same parts give the same bytes. */
int model_dir_write(const char *dir, const struct model_dir_parts *parts, struct error *err);

#endif
