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
    CHAR_L = 1,     /* \p{L} */
    CHAR_N = 2,     /* \p{N}: Rust's char::is_numeric */
    CHAR_S = 4,     /* \s: White_Space */
    CHAR_NL = 8,    /* \r or \n */
    CHAR_M = 16,    /* \p{M} */
    CHAR_UPPER = 32, /* \p{Lu} and \p{Lt} */
    CHAR_LOWER = 64, /* \p{Ll} */
    CHAR_PS = 128,  /* \p{P} and \p{S} */
};
extern const uint8_t char_ascii_class[128];
uint8_t char_class_wide(uint32_t code_point);
/* The character at s[0..n), which is valid UTF-8 and not empty. */
static inline uint32_t char_at(const char *s, size_t n, size_t *len) {
    uint8_t b = (uint8_t)s[0];
    *len = 1;
    if (b < 0x80) return b;
    if (b < 0xE0 && n >= 2) {
        *len = 2;
        return ((uint32_t)(b & 0x1F) << 6) | ((uint8_t)s[1] & 0x3Fu);
    }
    if (b < 0xF0 && n >= 3) {
        *len = 3;
        return ((uint32_t)(b & 0x0F) << 12) | (((uint8_t)s[1] & 0x3Fu) << 6) | ((uint8_t)s[2] & 0x3Fu);
    }
    if (n >= 4) {
        *len = 4;
        return ((uint32_t)(b & 0x07) << 18) | (((uint8_t)s[1] & 0x3Fu) << 12) | (((uint8_t)s[2] & 0x3Fu) << 6) | ((uint8_t)s[3] & 0x3Fu);
    }
    return 0xFFFD;
}
static inline uint8_t char_class_at(const char *s, size_t n, size_t *len) {
    uint32_t c = char_at(s, n, len);
    return c < 0x80 ? char_ascii_class[c] : char_class_wide(c);
}
bool char_is_punctuation(uint32_t c); /* as BERT means it: ASCII's that are no letter or digit, and \p{P} */
/* Categories as the reference implementation's normalizers have them (categories.c). */
bool char_is_bert_mark(uint32_t c);
bool char_is_accent(uint32_t c);
bool char_is_bert_control(uint32_t c);

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
struct normalizing;
struct added_token {
    struct span content;
    struct span normal; /* what is searched for: the content, or what the normalizer makes of it */
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
    const struct normalizing *normalized; /* not NULL: offsets asked for are of this text, to be led back to the original first */
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

/* ---- text that was rewritten, and where it comes from (rewrite.c) ---- */
/* One stretch of rewritten text and where it comes from; `same`: byte for byte. */
struct normalized_part {
    uint32_t start, end, from_start, from_end;
    bool same;
};
struct normalized {
    struct buf text;
    struct normalized_part *parts; /* without `track` none are kept, and origins cannot be asked for */
    size_t count, capacity;
    bool track, changed;
};
void normalized_init(struct normalized *n, bool track);
void normalized_clear(struct normalized *n); /* keeps the memory */
void normalized_fini(struct normalized *n);
/* Appends the bytes [from_start, from_end) of `text` as they are, or `piece` in their place. E_NOMEM, E_FULL. */
int normalized_keep(struct normalized *n, struct span text, size_t from_start, size_t from_end);
int normalized_put(struct normalized *n, struct span piece, size_t from_start, size_t from_end);
/* Where [*start, *end) of the rewritten text comes from; whole parts where they changed. */
void normalized_origin(const struct normalized *n, size_t *start, size_t *end);

/* ---- regular expressions as files have them (regex.c: Oniguruma's, by PCRE2) ---- */
struct regex {
    struct regex *next; /* of the tokenizer's list */
    void *code, *context, *general;
};
int token_regex_new(struct span pattern, struct regex **list, struct regex **regex, struct error *err); /* put on the list, which owns it */
void token_regex_free_list(struct regex *list);
/* The first match of text[from..]: 1, 0 where there is none, or E_INVALID where it would take too many steps, E_NOMEM. An empty match is none. */
int token_regex_find(const struct regex *re, struct span text, size_t from, size_t *start, size_t *end, struct error *err);

/* What a stage's parser may keep things in. */
struct keep {
    struct arena *arena;
    struct regex **regexes;
};
/* "String" or "Regex" of a Pattern. */
struct pattern {
    struct span string; /* of a Regex too */
    struct regex *regex; /* NULL: the string as it stands */
};
int pattern_parse(const struct json *v, const char *stage, bool compile, const struct keep *keep, struct pattern *p, struct error *err);
/* As token_regex_find. */
int pattern_find(const struct pattern *p, struct span text, size_t from, size_t *start, size_t *end, struct error *err);

/* ---- stage 2: normalizer (normalizer.c, charsmap.c) ---- */
enum { NORMALIZER_STEPS_MAX = 16 };
struct normalizer_step {
    int (*run)(const struct normalizer_step *s, struct span text, struct normalized *n, struct error *err);
    struct pattern pattern;
    struct span content; /* of Replace, Prepend; the strings of Precompiled */
    unsigned flags;
    const uint32_t *trie; /* of Precompiled */
    size_t trie_len;
};
struct normalizer {
    struct normalizer_step steps[NORMALIZER_STEPS_MAX];
    size_t count;
};
int normalizer_parse(const struct json *v, const struct keep *keep, struct normalizer *n, struct error *err);
int token_base64(struct span s, struct arena *arena, struct span *out); /* charsmap.c; E_INVALID, E_NOMEM */
int charsmap_parse(const struct json *v, const struct keep *keep, struct normalizer_step *s, struct error *err);
int charsmap_run(const struct normalizer_step *s, struct span text, struct normalized *n, struct error *err);
/* A text and what the steps made of it. */
struct normalizing {
    struct normalized layers[NORMALIZER_STEPS_MAX]; /* of the steps that changed something */
    size_t count;
};
/* *result is the text itself where nothing changed (n->count 0), else borrowed from n. */
int normalizer_run(const struct normalizer *r, struct span text, bool track, struct normalizing *n, struct span *result, struct error *err);
void normalizing_fini(struct normalizing *n);
void normalizing_origin(const struct normalizing *n, size_t *start, size_t *end);

/* ---- stage 3: pre-tokenizer (pretokenizer.c, patterns.c) ---- */
enum { PRETOKENIZER_STEPS_MAX = 8 };
typedef size_t (*pretokenizer_match)(const char *s, size_t n); /* length of the match that begins at s, n > 0, UTF-8; 0 where none does */
size_t pretokenizer_match_gpt2(const char *s, size_t n);
/* The hand-written matcher of a published expression, NULL where there is none. */
pretokenizer_match pretokenizer_pattern(struct span regex);
enum split_behavior { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_MERGED_PREVIOUS, SPLIT_MERGED_NEXT, SPLIT_CONTIGUOUS };
enum rewrite_kind { REWRITE_NONE, REWRITE_SPACE, REWRITE_METASPACE, REWRITE_ALPHABET };
struct pretokenizer_step {
    pretokenizer_match match; /* or */
    struct pattern pattern;   /* or, where its string is empty too, the piece is not cut */
    enum split_behavior behavior;
    bool invert;
    enum rewrite_kind rewrite; /* of the piece, before it is cut */
    enum { PREPEND_NEVER, PREPEND_ALWAYS, PREPEND_FIRST } prepend;
    struct span replacement;
};
struct pretokenizer {
    struct pretokenizer_step steps[PRETOKENIZER_STEPS_MAX];
    size_t count;
    bool byte_level; /* the last step gives the bytes' alphabet: they are kept as bytes instead */
    bool first;      /* a step wants to know whether a piece begins the text */
};
int pretokenizer_parse(const struct json *v, const struct keep *keep, struct pretokenizer *p, struct error *err);
struct splitter {
    const struct pretokenizer *p;
    bool begins, track; /* the text's first byte is the original's first; origins will be asked for */
    size_t depth, piece_at; /* piece_at: of the last piece in its level's text */
    struct splitter_level {
        struct span text;
        size_t at, parent_at; /* parent_at: where the text begins in the text of the level above */
        size_t next_end;      /* of the segment that was looked at ahead, which begins at `at`; 0: none was */
        bool next_match, begins;
        struct normalized rewritten;
    } level[PRETOKENIZER_STEPS_MAX];
    bool done;
};
void splitter_init(struct splitter *s, const struct pretokenizer *p, struct span text, bool begins, bool track);
void splitter_reset(struct splitter *s, struct span text, bool begins); /* another text, same memory */
/* 1 and the next piece, 0 at the end, or an error. */
int splitter_next(struct splitter *s, struct span *piece, struct error *err);
/* From places in the last piece to places in the text. */
void splitter_origin(const struct splitter *s, size_t *start, size_t *end);
void splitter_fini(struct splitter *s);

/* ---- stage 4: model (model.c; bpe.c, trie.c, unigram.c, wordpiece.c) ---- */
struct scratch; /* what the words of one call share: the cache of words, symbols, … */
struct scratch *model_scratch_new(size_t text_len); /* NULL without memory */
void model_scratch_free(struct scratch *s);
/* Appends the ids of a piece whose first byte is at `base`. */
int model_encode(const struct tokenizer *t, struct scratch *s, struct span word, struct tokens *out, bool offsets, uint32_t base, struct error *err);

struct bpe_merge {
    uint32_t left, right, result;
};
struct bpe {
    struct bpe_merge *merges; /* by rank */
    uint32_t merge_count;
    struct bpe_slot {
        uint64_t key; /* left << 32 | right + 1; 0 is free */
        uint32_t rank;
    } *slots; /* open addressing */
    size_t mask;
    uint32_t bytes[256]; /* id of each byte's token (of each ASCII character's, where the text is not byte-level), TOKEN_NONE where the vocabulary has none */
    bool ignore_merges, fuse_unk;
    struct span prefix, suffix; /* continuing_subword_prefix, end_of_word_suffix */
    bool cut; /* no merge goes over the border before a U+2581 that follows another character: words may be cut there, */
    bool crossed[256]; /* but for those behind these bytes */
};
struct bpe_scratch;
int bpe_index(struct bpe *m, struct arena *arena); /* from merges */
void bpe_find_cut(struct tokenizer *t);
struct bpe_scratch *bpe_scratch_new(void);
void bpe_scratch_free(struct bpe_scratch *s);
int bpe_encode_word(const struct tokenizer *t, struct bpe_scratch *s, struct span word, struct tokens *out, bool offsets, uint32_t base, struct error *err);
/* The next word of a stretch that may be cut, from `at`. */
size_t bpe_cut_word(const struct bpe *m, struct span text, size_t at);

/* Tokens by their bytes, a byte a step. */
enum { TRIE_NODES_MAX = 1 << 24 };
struct trie {
    uint64_t *slots; /* open addressing: child << 32 | parent << 8 | byte; child 0 is free */
    size_t mask;
    uint32_t *ids; /* by node: id + 1, or 0 */
    uint32_t count;
    uint32_t first[256]; /* children of the root; 0: none */
};
int token_trie_add(struct trie *t, struct span key, uint32_t id, struct error *err); /* the last id of a key counts */
void token_trie_fini(struct trie *t);
static inline uint32_t trie_step(const struct trie *t, uint32_t node, uint8_t byte) { /* 0: no such child; node 0 is the root */
    if (node == 0) return t->first[byte];
    uint64_t key = (uint64_t)node << 8 | byte;
    for (size_t i = (size_t)((key * 0x9E3779B97F4A7C15u) >> 32) & t->mask; t->slots[i]; i = (i + 1) & t->mask)
        if ((uint32_t)t->slots[i] == (uint32_t)key) return (uint32_t)(t->slots[i] >> 32);
    return 0;
}

struct unigram {
    double *scores; /* by id */
    double unk_score;
    bool byte_fallback;
};
struct unigram_scratch;
struct unigram_scratch *unigram_scratch_new(void);
void unigram_scratch_free(struct unigram_scratch *s);
int unigram_encode_word(const struct tokenizer *t, struct unigram_scratch *s, struct span word, struct tokens *out, bool offsets, uint32_t base, struct error *err);

struct wordpiece {
    struct span prefix; /* continuing_subword_prefix */
    uint32_t prefix_node; /* where the trie stands behind it; 0: no token begins so (or the prefix is empty) */
    uint32_t characters_max;
};
int wordpiece_encode_word(const struct tokenizer *t, struct span word, struct tokens *out, bool offsets, uint32_t base, struct error *err);

/* ---- stage 5: post-processor (postprocessor.c) ---- */
enum { POSTPROCESSOR_ITEMS_MAX = 32 };
struct postprocessor_item {
    uint32_t id;   /* TOKEN_NONE: a text */
    uint8_t text;  /* 0 or 1 */
    uint8_t type;
};
struct postprocessor_template {
    struct postprocessor_item items[POSTPROCESSOR_ITEMS_MAX];
    uint32_t count; /* 0: the texts as they are */
};
struct postprocessor {
    struct postprocessor_template single, pair;
};
int postprocessor_parse(const struct json *v, struct postprocessor *p, struct error *err);

/* ---- back: decoder (decoder.c) ---- */
enum decoder_kind { DECODER_BYTE_LEVEL, DECODER_REPLACE, DECODER_METASPACE, DECODER_WORDPIECE, DECODER_BPE, DECODER_BYTE_FALLBACK, DECODER_FUSE, DECODER_STRIP, DECODER_JOIN };
struct decoder_step {
    enum decoder_kind kind;
    bool fused; /* behind a step that makes one text of all */
    struct pattern pattern;
    struct span text; /* content, prefix, suffix or replacement */
    uint32_t start, stop; /* of Strip */
    bool flag; /* cleanup; whether a first space was prepended */
    uint8_t *border; /* of Replace behind Fuse: Knuth, Morris and Pratt's table */
};
struct decoder {
    struct decoder_step steps[DECODER_STEPS_MAX];
    size_t count;
    bool plain; /* ByteLevel alone over entries that are bytes */
};
int decoder_parse(const struct json *v, bool byte_level, const struct keep *keep, struct decoder *d, struct error *err);
/* What a token in the middle of a text gives; appended. The scratch is the caller's, for all of its tokens. */
struct decoder_scratch {
    struct buf a, b;
};
void decoder_scratch_init(struct decoder_scratch *s);
void decoder_scratch_fini(struct decoder_scratch *s);
int decoder_shown(const struct tokenizer *t, uint32_t id, struct decoder_scratch *scratch, struct buf *out);
int byte_token(struct span text); /* the byte of <0xNN>, -1 where it is none */

/* ---- the tokenizer (tokenizer.c, tokenizer_file.c) ---- */
enum model_kind { MODEL_BPE, MODEL_WORDPIECE, MODEL_UNIGRAM, MODEL_WORDLEVEL };
struct token_entry {
    struct span bytes; /* raw */
    struct span shown; /* what it gives in a text; data NULL: its bytes */
    bool present, special, raw, in_model; /* raw: bytes are the file's text, which is not of the alphabet; in_model: an entry of the model's vocabulary */
};
struct token_slot { /* what tells a token without a look at its entry, which is a cache line more */
    const char *data;
    uint32_t tag, id; /* tag: of the hash, whether raw, and the length up to 255; id + 1; 0 is free */
};
struct tokenizer {
    struct arena arena;
    struct token_entry *entries; /* by id */
    uint32_t entry_count;
    struct token_slot *by_bytes; /* open addressing over bytes of entries */
    size_t by_bytes_mask;
    struct added_token *added;
    size_t added_count;
    struct added_set added_raw, added_normalized;
    struct normalizer normalizer;
    struct pretokenizer pretokenizer;
    bool byte_level; /* = pretokenizer.byte_level: entries are bytes, not text */
    enum model_kind model;
    struct bpe bpe;
    struct trie trie; /* of WordPiece and Unigram */
    struct unigram unigram;
    struct wordpiece wordpiece;
    uint32_t unk; /* TOKEN_NONE: none */
    uint32_t byte_ids[256]; /* of <0xNN>, where has_byte_fallback */
    bool byte_fallback;
    struct postprocessor postprocessor;
    struct decoder decoder;
    struct regex *regexes;
    /* the stages' JSON as it was read, for tokenizer_write */
    struct span normalizer_json, pretokenizer_json, postprocessor_json, decoder_json;
    struct span unigram_json; /* model.vocab of Unigram, whose scores must come back as they were */
    uint32_t bos, eos, pad;
};
/* Builds the indexes: over entries, then over added tokens and bpe.merges; used by parse and by training. */
int tokenizer_index(struct tokenizer *t, bool unique, struct error *err); /* unique: no two of the model's tokens may be equal */
int tokenizer_finish(struct tokenizer *t, struct error *err);
struct tokenizer *tokenizer_alloc(void);

int tokens_push(struct tokens *out, bool offsets, uint32_t id, uint32_t start, uint32_t end);
/* The id of an entry of the model with exactly these bytes as words have them (text where the tokenizer is not byte-level), TOKEN_NONE where there is none. */
uint32_t tokenizer_find_model(const struct tokenizer *t, struct span bytes);
uint32_t tokenizer_find_entry(const struct tokenizer *t, struct span bytes, bool raw);
/* Many at once, so that the memory that each needs is on its way while the others are worked on: a vocabulary is larger than a cache. */
struct token_key {
    struct span bytes;
    bool raw;
    uint32_t id; /* out */
    uint64_t hash;
};
void tokenizer_find_entries(const struct tokenizer *t, struct token_key *keys, size_t count);
/* The text of a token as the file has it: its own, or its bytes' characters written to scratch. */
struct span tokenizer_entry_text(const struct tokenizer *t, uint32_t id, struct buf *scratch);

#endif
