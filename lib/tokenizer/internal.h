/*
 * What the stages of lib/tokenizer share: the tokenizer itself and one function or two per stage. Not for other libraries.
 * Each stage's file holds the table of the kinds it knows; `parse` reads the stage's JSON and refuses what is not in the table by name.
 */
#ifndef GENLOOP_TOKENIZER_INTERNAL_H
#define GENLOOP_TOKENIZER_INTERNAL_H

#include "base/arena.h"
#include "base/json.h"
#include "tokenizer/tokenizer.h"

/* ---- characters (chars.c) ---- */
enum {
    CHAR_L = 1,  /* \p{L} */
    CHAR_N = 2,  /* \p{N} */
    CHAR_S = 4,  /* \s: White_Space */
    CHAR_NL = 8, /* \r or \n */
    CHAR_M = 16, /* \p{M} */
    CHAR_ND = 32, /* numeric as Rust's char::is_numeric: \p{N} */
};
extern const uint8_t char_ascii_class[128];
uint8_t char_class_wide(uint32_t code_point);
/* Class and length of the character at s[0..n), which is valid UTF-8 and not empty. */
static inline uint8_t char_class_at(const char *s, size_t n, size_t *len) {
    uint8_t b = (uint8_t)s[0];
    if (b < 0x80) {
        *len = 1;
        return char_ascii_class[b];
    }
    uint32_t c;
    if (b < 0xE0 && n >= 2) {
        c = ((uint32_t)(b & 0x1F) << 6) | ((uint8_t)s[1] & 0x3Fu);
        *len = 2;
    } else if (b < 0xF0 && n >= 3) {
        c = ((uint32_t)(b & 0x0F) << 12) | (((uint8_t)s[1] & 0x3Fu) << 6) | ((uint8_t)s[2] & 0x3Fu);
        *len = 3;
    } else if (n >= 4) {
        c = ((uint32_t)(b & 0x07) << 18) | (((uint8_t)s[1] & 0x3Fu) << 12) | (((uint8_t)s[2] & 0x3Fu) << 6) | ((uint8_t)s[3] & 0x3Fu);
        *len = 4;
    } else {
        *len = 1;
        return 0;
    }
    return char_class_wide(c);
}

/* GPT-2's alphabet: every byte has a printable character (Radford et al. 2019, bytes_to_unicode). */
uint32_t byte_to_alphabet(uint8_t byte);
/* -1 where the character is none of the 256. */
int alphabet_to_byte(uint32_t code_point);
/* The 256 bytes in the order of their characters' code points: the order of ids in a trained vocabulary. */
extern const uint8_t alphabet_order[256];
/* Raw bytes → alphabet characters. */
int alphabet_write(struct span bytes, struct buf *out);
/* Alphabet characters → raw bytes into out (s.len bytes suffice); the text itself where a character is none of the alphabet (*raw true then). Returns the length. */
size_t alphabet_read(struct span s, char *out, bool *raw);

/* ---- stage 1: added tokens (added.c) ---- */
struct normalized;
struct added_token {
    struct span content;
    uint32_t id;
    bool special, lstrip, rstrip, single_word, normalized;
};
/* A set that is searched: pointers sorted by content; first[b] … first[b + 1] begin with byte b. */
struct added_set {
    const struct added_token **sorted;
    size_t count;
    uint32_t first[257];
};
struct trust { /* which part of a text may hold special tokens */
    const struct tokenizer_piece *pieces; /* NULL: all of it, or none with no_specials */
    size_t count;
    bool no_specials;
    const struct normalized *normalized; /* not NULL: offsets asked for are of this text, to be led back to the original first */
    size_t shift;                        /* added to an offset to get one in the pieces' text */
    size_t cursor, cursor_at;            /* questions come in ascending order: the piece of the last one and where it begins */
};
struct added_match {
    const struct added_token *token; /* NULL: none until the end */
    size_t start, end;               /* with the white space that lstrip and rstrip take */
};
int added_set_init(struct added_set *set, const struct added_token *tokens, size_t count, bool normalized, struct arena *arena);
/* The next match at or after `from`. */
struct added_match added_find(const struct added_set *set, struct span text, size_t from, struct trust *trust);

/* ---- stage 2: normalizer (normalizer.c) ---- */
enum normalizer_kind { NORMALIZER_NONE, NORMALIZER_NFC };
int normalizer_parse(const struct json *v, enum normalizer_kind *kind, struct error *err);
/* One stretch of normalized text and where it comes from; `same`: byte for byte. */
struct normalized_part {
    uint32_t start, end, from_start, from_end;
    bool same;
};
struct normalized {
    struct buf text;
    struct normalized_part *parts;
    size_t count, capacity;
};
/* *changed false: the text is normal already, and n is untouched. */
int normalizer_run(enum normalizer_kind kind, struct span text, struct normalized *n, bool *changed, struct error *err);
void normalized_fini(struct normalized *n);
/* Where [*start, *end) of the normalized text comes from; whole parts where they changed. */
void normalized_origin(const struct normalized *n, size_t *start, size_t *end);

/* ---- stage 3: pre-tokenizer (pretokenizer.c) ---- */
enum { PRETOKENIZER_STEPS_MAX = 8 };
typedef size_t (*pretokenizer_match)(const char *s, size_t n); /* length of the first piece of s, n > 0, UTF-8 */
struct pretokenizer {
    pretokenizer_match steps[PRETOKENIZER_STEPS_MAX];
    size_t count;
    bool byte_level, prefix_space;
};
int pretokenizer_parse(const struct json *v, struct pretokenizer *p, struct error *err);
size_t pretokenizer_match_gpt2(const char *s, size_t n);
struct splitter {
    const struct pretokenizer *p;
    const char *text;
    struct {
        size_t at, end;
    } level[PRETOKENIZER_STEPS_MAX + 1];
    size_t depth;
};
void splitter_init(struct splitter *s, const struct pretokenizer *p, struct span text);
bool splitter_next(struct splitter *s, size_t *start, size_t *end);

/* ---- stage 4: model (bpe.c) ---- */
struct bpe_merge {
    uint32_t left, right, result;
};
struct bpe {
    struct bpe_merge *merges; /* by rank */
    uint32_t merge_count;
    uint64_t *keys; /* open addressing: left << 32 | right + 1; 0 is free */
    uint32_t *ranks;
    size_t mask;
    uint32_t bytes[256]; /* id of each byte's token, TOKEN_NONE where the vocabulary has none */
    bool ignore_merges;
};
int bpe_index(struct bpe *m, struct arena *arena); /* from merges */
struct bpe_scratch;
struct bpe_scratch *bpe_scratch_new(size_t text_len); /* NULL without memory */
void bpe_scratch_free(struct bpe_scratch *s);
int bpe_encode_word(const struct tokenizer *t, struct bpe_scratch *s, struct span word, struct tokens *out, bool offsets, uint32_t base, struct error *err);

/* ---- stage 5: post-processor (postprocessor.c) ---- */
enum { POSTPROCESSOR_IDS_MAX = 16 };
struct postprocessor {
    uint32_t before[POSTPROCESSOR_IDS_MAX], after[POSTPROCESSOR_IDS_MAX];
    uint32_t before_count, after_count;
};
int postprocessor_parse(const struct json *v, struct postprocessor *p, struct error *err);

/* ---- back: decoder (decoder.c) ---- */
int decoder_parse(const struct json *v, struct error *err);

/* ---- the tokenizer (tokenizer.c) ---- */
struct token_entry {
    struct span bytes; /* raw */
    bool present, special, raw, in_model; /* raw: the text was not of the alphabet; in_model: an entry of the model's vocabulary */
};
struct tokenizer {
    struct arena arena;
    struct token_entry *entries; /* by id */
    uint32_t entry_count;
    uint32_t *by_bytes; /* open addressing over bytes of entries: id + 1; 0 is free */
    size_t by_bytes_mask;
    struct added_token *added;
    size_t added_count;
    struct added_set added_raw, added_normalized;
    enum normalizer_kind normalizer;
    struct pretokenizer pretokenizer;
    struct bpe bpe;
    struct postprocessor postprocessor;
    /* the stages' JSON as it was read, for tokenizer_write */
    struct span normalizer_json, pretokenizer_json, postprocessor_json, decoder_json;
    uint32_t bos, eos, pad;
};
/* Builds the indexes over entries, added and bpe.merges; used by parse and by training. */
int tokenizer_index(struct tokenizer *t, struct error *err);
struct tokenizer *tokenizer_alloc(void);

int tokens_push(struct tokens *out, bool offsets, uint32_t id, uint32_t start, uint32_t end);
/* The id of an entry of the model with exactly these bytes, TOKEN_NONE where there is none. */
uint32_t tokenizer_find_model(const struct tokenizer *t, struct span bytes);

#endif
