/*
 * A tokenizer as Hugging Face's tokenizer.json describes it, in its five stages, each a file with a table of the kinds it knows:
 *   added tokens → normalizer.c → pretokenizer.c → model.c (bpe.c, unigram.c, wordpiece.c) → postprocessor.c, and back through decoder.c
 * A kind that is not in a table is E_UNSUPPORTED by its name: never ids that are almost right. A new kind is a row in its stage's table.
 * The file's truncation and padding are a caller's defaults, not the tokenizer's: they are not applied (transformers sets its own too).
 * struct tokenizer is immutable after load: any thread may use it. Ids are dense enough to index arrays of tokenizer_vocab_size.
 */
#ifndef GENLOOP_TOKENIZER_TOKENIZER_H
#define GENLOOP_TOKENIZER_TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/span.h"

enum {
    TOKENIZER_VOCAB_MAX = 1 << 22,      /* ids; the largest published vocabularies have 262,144 */
    TOKENIZER_TOKEN_BYTES_MAX = 4096,   /* of one token */
    TOKENIZER_ADDED_MAX = 1 << 16,
    TOKENIZER_TEXT_MAX = 256 << 20,     /* bytes of one encode: offsets are 32 bits */
};
#define TOKEN_NONE UINT32_MAX

/* The tokens that documents and chats of our own models use. */
#define TOKENIZER_END_OF_TEXT "<|endoftext|>"
#define TOKENIZER_IM_START "<|im_start|>"
#define TOKENIZER_IM_END "<|im_end|>"

struct tokenizer;

/* From the text of tokenizer.json. E_INVALID, E_UNSUPPORTED, E_TOO_LARGE, E_NOMEM. */
int tokenizer_parse(struct span text, struct tokenizer **t, struct error *err);
int tokenizer_load(const char *path, struct tokenizer **t, struct error *err);
/* Reads bos, eos and pad of tokenizer_config.json into t; before t is shared. */
int tokenizer_parse_config(struct tokenizer *t, struct span text, struct error *err);
void tokenizer_free(struct tokenizer *t); /* NULL is accepted */

/* tokenizer.json that Hugging Face's tokenizers loads and that gives equal ids; the same tokenizer gives the same bytes. */
int tokenizer_write(const struct tokenizer *t, struct buf *out);
/* tokenizer_config.json; chat_template may be NULL, context 0. */
int tokenizer_write_config(const struct tokenizer *t, const char *chat_template, uint32_t context, struct buf *out);

uint32_t tokenizer_vocab_size(const struct tokenizer *t); /* highest id + 1, added tokens too */
/* The token's bytes as decode gives them (a special token's own text); empty for an id that is none. Borrowed. */
struct span tokenizer_token_bytes(const struct tokenizer *t, uint32_t id);
/* The id of exactly these bytes (an added token's text first), TOKEN_NONE where there is none. */
uint32_t tokenizer_find(const struct tokenizer *t, struct span bytes);
bool tokenizer_is_special(const struct tokenizer *t, uint32_t id);
uint32_t tokenizer_bos(const struct tokenizer *t); /* TOKEN_NONE where there is none; likewise below */
uint32_t tokenizer_eos(const struct tokenizer *t);
uint32_t tokenizer_pad(const struct tokenizer *t);
void tokenizer_set_special(struct tokenizer *t, uint32_t bos, uint32_t eos, uint32_t pad); /* before t is shared */
/* SHA-256 of what tokenizer_write gives, as hex: two tokenizers with one digest give the same ids. */
int tokenizer_digest(const struct tokenizer *t, char hex[65]);

/* Ids that grow; start with zeros. Owned memory, freed by tokens_fini. */
struct token_offset {
    uint32_t start, end; /* bytes in the text that was encoded; empty for a token that a post-processor added */
};
struct tokens {
    uint32_t *ids;
    struct token_offset *offsets; /* NULL but with TOKENIZER_OFFSETS */
    size_t len, capacity, offsets_capacity;
};
void tokens_fini(struct tokens *ids);
void tokens_clear(struct tokens *ids); /* keeps the memory */

enum {
    TOKENIZER_ADD_SPECIAL = 1,  /* what the post-processor adds (bos, …) */
    TOKENIZER_NO_SPECIALS = 2,  /* text that looks like a special token is text: for what users wrote */
    TOKENIZER_OFFSETS = 4,
};
/* Appends the text's ids to out (all or none). Text that is no UTF-8 is E_INVALID. Time is O(n log n) in the text's length. */
int tokenizer_encode(const struct tokenizer *t, struct span text, unsigned flags, struct tokens *out, struct error *err);
/* A text in pieces: encoded as if it were one (merges go over the borders), but special tokens are seen only whole inside a trusted piece. */
struct tokenizer_piece {
    struct span text;
    bool trusted;
};
int tokenizer_encode_pieces(const struct tokenizer *t, const struct tokenizer_piece *pieces, size_t count, unsigned flags, struct tokens *out,
                            struct error *err);

/*
 * One text, or a text and its pair as a cross-encoder takes them (`second` with data NULL: there is none), put together by the post-processor. With ids_max above 0
 * there are at most that many ids: the longer text loses its end first, as transformers' truncation does. *types, where not NULL, receives an owned array (mem_free)
 * of the token types, one for each id that was appended. Offsets are those in an id's own text.
 */
int tokenizer_encode_pair(const struct tokenizer *t, struct span first, struct span second, unsigned flags, size_t ids_max, struct tokens *out, uint8_t **types,
                          struct error *err);

/* Appends the text; bytes that make no UTF-8 become U+FFFD, as in the reference implementation. An id that is no token adds nothing. */
int tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t count, bool skip_special, struct buf *out);

/*
 * Decoding as ids come: what is appended is whole characters only, and all of it together is what tokenizer_decode gives. A run of byte tokens of a tokenizer
 * with byte fallback is held until it ends, since one wrong byte makes U+FFFD of each. detokenizer_fini after the last use.
 */
enum { DECODER_STEPS_MAX = 8 };
struct detokenizer {
    const struct tokenizer *tokenizer; /* borrowed */
    bool skip_special;
    uint8_t held_len;
    char held[4]; /* the begin of a character whose end has not come */
    struct {
        uint32_t seen, held;
        struct buf text;
    } steps[DECODER_STEPS_MAX];
    struct buf scratch;
};
void detokenizer_init(struct detokenizer *d, const struct tokenizer *t, bool skip_special);
void detokenizer_fini(struct detokenizer *d); /* safe on a zeroed struct and twice */
int detokenizer_push(struct detokenizer *d, uint32_t id, struct buf *out);
int detokenizer_finish(struct detokenizer *d, struct buf *out); /* an unfinished character becomes U+FFFD */

#endif
