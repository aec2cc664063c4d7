/*
 * A tokenizer from the metadata of a GGUF file (tokenizer.ggml.*), where a model comes without a tokenizer.json. The reader of the file fills struct vocabulary with
 * what stands there, borrowed; tokenizer_from_vocabulary makes of it the tokenizer.json that Hugging Face's converter would have, so that ids are the same, tokenizer_write
 * writes it, and nothing else in the library knows where a tokenizer came from.
 *
 * Kinds (tokenizer.ggml.model): gpt2 (byte-level BPE; `pre` names the splitting), llama (SentencePiece's BPE: merges are found from the scores), bert (WordPiece),
 * t5 (Unigram), gemma4 and others are E_UNSUPPORTED by name, as is a `pre` that is not in the table.
 */
#ifndef GENLOOP_TOKENIZER_VOCABULARY_H
#define GENLOOP_TOKENIZER_VOCABULARY_H

#include "tokenizer/tokenizer.h"

/* tokenizer.ggml.token_type */
enum { VOCABULARY_NORMAL = 1, VOCABULARY_UNKNOWN = 2, VOCABULARY_CONTROL = 3, VOCABULARY_USER_DEFINED = 4, VOCABULARY_UNUSED = 5, VOCABULARY_BYTE = 6 };

struct vocabulary {
    struct span model; /* tokenizer.ggml.model */
    struct span pre;   /* tokenizer.ggml.pre; empty: absent */
    const struct span *tokens; /* tokenizer.ggml.tokens */
    size_t count;
    const float *scores;     /* of `count`, or NULL */
    const int32_t *types;    /* of `count`, or NULL: all normal */
    const struct span *merges; /* "a b", or NULL */
    size_t merge_count;
    struct span charsmap; /* tokenizer.ggml.precompiled_charsmap, its bytes */
    /* Ids; TOKEN_NONE where the key is absent. */
    uint32_t bos, eos, unk, pad, sep, cls, mask;
    /* tokenizer.ggml.add_*: -1 where the key is absent: then what the kind does by default. */
    int add_bos, add_eos, add_sep, add_space_prefix, remove_extra_whitespaces;
    int lowercase, strip_accents; /* tokenizer.ggml.normalizer.*, of kind bert */
};

/* `vocabulary` with nothing in it: ids TOKEN_NONE, flags -1. */
void vocabulary_init(struct vocabulary *v);
/* bos, eos and pad of the tokenizer are set. E_INVALID, E_UNSUPPORTED, E_TOO_LARGE, E_NOMEM. */
int tokenizer_from_vocabulary(const struct vocabulary *v, struct tokenizer **t, struct error *err);

#endif
