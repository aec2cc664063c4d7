/*
 * tokenizer.json in and out. The file is read once, front to back, without a tree (base/json_reader.h): vocabularies have hundreds of thousands of tokens and merges.
 * Only the small stages become trees. What is written reads back as the same tokenizer, and the same tokenizer gives the same bytes.
 */
#include "base/alloc.h"
#include "base/file.h"
#include "base/json_reader.h"
#include "base/sha256.h"
#include "tokenizer/internal.h"

enum {
    FILE_MAX = 64 << 20,       /* bytes of tokenizer.json; Gemma 3's has 33 MB */
    OUT_MAX = 256 << 20,       /* what tokenizer_digest may write */
    SPARSE_MAX = 1 << 16,      /* ids beyond the number of tokens: a file of ten tokens must not make four million entries */
    STAGE_MAX = 16 << 20,      /* of one stage; a character map has half a megabyte */
};

static int no_memory(struct error *err) { return error_set(err, E_NOMEM, "no memory for the tokenizer"); }

/* The members of an object by name, as spans of the text. A member that is not in the list is left alone; one that comes twice is refused. */
struct member {
    const char *key;
    struct span value;    /* data NULL: absent or null */
    struct member *inner; /* of an object that is read on the way: its members */
    size_t inner_count;
};
static int read_members(struct json_reader *r, const char *what, struct member *members, size_t count, struct error *err) {
    char room[256];
    struct span key;
    int more;
    if (json_reader_peek(r) != JSON_TYPE_OBJECT) return error_set(err, E_INVALID, "%s is not an object", what);
    int e = json_reader_enter(r, '{', err);
    if (e) return e;
    while ((more = json_reader_key(r, room, sizeof room, &key, err)) > 0) {
        struct member *m = NULL;
        for (size_t i = 0; i < count; i++)
            if (span_eq_str(key, members[i].key)) m = &members[i];
        if (m && m->value.data) return error_set(err, E_INVALID, "%s has \"%s\" twice", what, m->key);
        bool object = json_reader_peek(r) == JSON_TYPE_OBJECT; /* which goes over white space */
        struct span value = {r->at, 0};
        if (m && m->inner && object) { /* once deep: an inner one has none */
            e = read_members(r, m->key, m->inner, m->inner_count, err);
            value.len = (size_t)(r->at - value.data);
        } else {
            e = json_reader_skip(r, &value, err);
        }
        if (e) return e;
        if (m && !span_eq_str(value, "null")) m->value = value;
    }
    return more;
}

/* ---- the vocabulary ---- */

struct raw_token {
    struct span text; /* the file's, in the tokenizer's arena */
    uint32_t id;
};
struct reading {
    struct tokenizer *t;
    struct raw_token *tokens;
    size_t count, capacity;
    char *blob; /* texts, in the arena */
    size_t blob_len, blob_size;
    struct error *err;
};

static int keep_blob(struct reading *g, struct span s, struct span *kept) {
    if (s.len > g->blob_size - g->blob_len) return error_set(g->err, E_INTERNAL, "the vocabulary is longer than its text");
    char *p = g->blob + g->blob_len;
    if (s.len) memcpy(p, s.data, s.len);
    g->blob_len += s.len;
    *kept = span_of(p, s.len);
    return 0;
}
static int token_add(struct reading *g, struct span text, uint64_t id) {
    int r = array_reserve(&g->tokens, &g->capacity, g->count + 1, sizeof g->tokens[0]);
    if (r) return no_memory(g->err);
    struct raw_token *k = &g->tokens[g->count];
    r = keep_blob(g, text, &k->text);
    if (r) return r;
    k->id = (uint32_t)id;
    g->count++;
    return 0;
}

static int read_vocab_object(struct reading *g, struct span text) {
    struct json_reader r;
    char room[TOKENIZER_TOKEN_BYTES_MAX];
    struct span key, digits;
    int more, e;
    json_reader_init(&r, text);
    if (json_reader_peek(&r) != JSON_TYPE_OBJECT) return error_set(g->err, E_INVALID, "model.vocab is not an object");
    e = json_reader_enter(&r, '{', g->err);
    while (!e && (more = json_reader_key(&r, room, sizeof room, &key, g->err)) != 0) {
        uint64_t id;
        if (more < 0) return more;
        if (key.len > TOKENIZER_TOKEN_BYTES_MAX) return error_set(g->err, E_TOO_LARGE, "model.vocab: a token is longer than %d bytes", TOKENIZER_TOKEN_BYTES_MAX);
        if (json_reader_peek(&r) != JSON_TYPE_REAL || json_reader_number(&r, &digits, NULL) || span_to_u64(digits, &id) || id >= TOKENIZER_VOCAB_MAX)
            return error_set(g->err, E_INVALID, "model.vocab: the id of \"%.*s\" is out of range", SPAN_ARG(span_sub(key, 0, 40)));
        e = token_add(g, key, id);
    }
    return e;
}

/* Unigram's: [[text, score], …]; an id is a place. */
static int read_vocab_list(struct reading *g, struct span text) {
    struct json_reader r;
    char room[TOKENIZER_TOKEN_BYTES_MAX];
    struct tokenizer *t = g->t;
    size_t capacity = 0;
    double *scores = NULL, lowest = 0;
    int more = 0, e;
    json_reader_init(&r, text);
    if (json_reader_peek(&r) != JSON_TYPE_ARRAY) return error_set(g->err, E_INVALID, "model.vocab is not a list");
    e = json_reader_enter(&r, '[', g->err);
    while (!e && (more = json_reader_item(&r, g->err)) > 0) {
        struct span key, digits;
        double score;
        e = json_reader_enter(&r, '[', g->err);
        if (!e && json_reader_item(&r, g->err) != 1) e = error_set(g->err, E_INVALID, "model.vocab.%zu is no text with its score", g->count);
        if (!e) e = json_reader_string(&r, room, sizeof room, &key, g->err);
        if (!e && (json_reader_item(&r, g->err) != 1 || json_reader_number(&r, &digits, g->err) || span_to_f64(digits, &score) || json_reader_item(&r, g->err) != 0))
            e = error_set(g->err, E_INVALID, "model.vocab.%zu is no text with its score", g->count);
        if (!e && (key.len > TOKENIZER_TOKEN_BYTES_MAX || g->count >= TOKENIZER_VOCAB_MAX))
            e = error_set(g->err, E_TOO_LARGE, "model.vocab: a token is longer than %d bytes, or there are more than %d", TOKENIZER_TOKEN_BYTES_MAX, TOKENIZER_VOCAB_MAX);
        if (!e && array_reserve(&scores, &capacity, g->count + 1, sizeof scores[0])) e = no_memory(g->err);
        if (e) break;
        scores[g->count] = score;
        if (g->count == 0 || score < lowest) lowest = score;
        e = token_add(g, key, g->count);
    }
    if (!e && more < 0) e = more;
    if (!e) {
        t->unigram.scores = arena_calloc(&t->arena, g->count + 1, sizeof scores[0]);
        t->unigram.unk_score = lowest - 10; /* SentencePiece's kUnkPenalty */
        if (!t->unigram.scores) e = no_memory(g->err);
        else if (g->count) memcpy(t->unigram.scores, scores, g->count * sizeof scores[0]);
    }
    mem_free(scores);
    return e;
}

static int entry_set(struct reading *g, uint32_t id, struct span text, bool in_model) {
    struct token_entry *e = &g->t->entries[id];
    e->present = true;
    e->in_model = in_model;
    e->raw = true;
    e->bytes = text;
    if (g->t->byte_level && text.len) e->bytes.len = alphabet_read(text, (char *)(uintptr_t)text.data, &e->raw); /* in place: bytes are never longer than their characters */
    return 0;
}

/* Ids and texts of the model's vocabulary and of the added tokens. */
static int read_vocab(struct reading *g, struct span vocab, const struct json *added) {
    struct tokenizer *t = g->t;
    struct error *err = g->err;
    if (!vocab.data) return error_set(err, E_INVALID, "model.vocab is missing");
    if (json_size(added) > TOKENIZER_ADDED_MAX) return error_set(err, E_TOO_LARGE, "more than %d added tokens", TOKENIZER_ADDED_MAX);
    size_t contents = 0;
    for (size_t i = 0; i < json_size(added); i++) contents += json_string(json_get(json_at(added, i), "content")).len;
    g->blob_size = vocab.len + contents;
    g->blob = arena_alloc_raw(&t->arena, g->blob_size + 1);
    if (!g->blob) return no_memory(err);
    int r = t->model == MODEL_UNIGRAM ? read_vocab_list(g, vocab) : read_vocab_object(g, vocab);
    if (r) return r;
    if (!g->count) return error_set(err, E_INVALID, "model.vocab is empty");
    uint64_t id_max = g->count + json_size(added) + SPARSE_MAX;
    int64_t highest = -1;
    if (id_max > TOKENIZER_VOCAB_MAX) id_max = TOKENIZER_VOCAB_MAX;
    for (size_t i = 0; i < g->count; i++) {
        if (g->tokens[i].id >= id_max) return error_set(err, E_INVALID, "model.vocab: the id of \"%.*s\" is out of range", SPAN_ARG(span_sub(g->tokens[i].text, 0, 40)));
        if (g->tokens[i].id > highest) highest = g->tokens[i].id;
    }
    for (size_t i = 0; i < json_size(added); i++) {
        const struct json *a = json_at(added, i);
        int64_t id = json_int(json_get(a, "id"), -1);
        struct span content = json_string(json_get(a, "content"));
        if (id < 0 || (uint64_t)id >= id_max || !content.len) return error_set(err, E_INVALID, "added_tokens.%zu: needs a content and an id in range", i);
        if (content.len > TOKENIZER_TOKEN_BYTES_MAX) return error_set(err, E_TOO_LARGE, "added_tokens.%zu: longer than %d bytes", i, TOKENIZER_TOKEN_BYTES_MAX);
        if (id > highest) highest = id;
    }
    t->entry_count = (uint32_t)(highest + 1);
    t->entries = arena_calloc(&t->arena, t->entry_count, sizeof t->entries[0]);
    t->added = arena_calloc(&t->arena, json_size(added) + 1, sizeof t->added[0]);
    if (!t->entries || !t->added) return no_memory(err);
    for (size_t i = 0; i < g->count; i++) {
        uint32_t id = g->tokens[i].id;
        if (t->entries[id].present) return error_set(err, E_INVALID, "model.vocab: two tokens have the id %u", id);
        r = entry_set(g, id, g->tokens[i].text, true);
        if (r) return r;
    }
    r = tokenizer_index(t, t->model != MODEL_UNIGRAM, err);
    for (size_t i = 0; !r && i < json_size(added); i++) {
        const struct json *a = json_at(added, i);
        uint32_t id = (uint32_t)json_int(json_get(a, "id"), 0);
        struct span text = json_string(json_get(a, "content")), content = arena_span(&t->arena, text);
        if (!content.data) return no_memory(err);
        char bytes[TOKENIZER_TOKEN_BYTES_MAX];
        struct span key = text;
        bool raw = true;
        if (t->byte_level) key = span_of(bytes, alphabet_read(text, bytes, &raw));
        uint32_t same = tokenizer_find_entry(t, key, raw);
        if (same != TOKEN_NONE ? same != id && t->model != MODEL_UNIGRAM : t->entries[id].present)
            return error_set(err, E_INVALID, "added_tokens.%zu: its id %u is another token's", i, id);
        if (!t->entries[id].present) {
            r = keep_blob(g, text, &key);
            if (!r) r = entry_set(g, id, key, false);
            if (r) return r;
        }
        bool special = json_bool(json_get(a, "special"), false);
        t->entries[id].special |= special;
        t->added[t->added_count++] = (struct added_token){
            .content = content,
            .id = id,
            .special = special,
            .lstrip = json_bool(json_get(a, "lstrip"), false),
            .rstrip = json_bool(json_get(a, "rstrip"), false),
            .single_word = json_bool(json_get(a, "single_word"), false),
            .normalized = json_bool(json_get(a, "normalized"), !special),
        };
    }
    return r;
}

/* The id of a token by its text in the file. */
static uint32_t find_text(const struct tokenizer *t, struct span text) {
    if (!t->byte_level) return tokenizer_find_entry(t, text, true);
    char bytes[2 * TOKENIZER_TOKEN_BYTES_MAX];
    bool raw = false;
    if (text.len > sizeof bytes) return TOKEN_NONE;
    struct span key = span_of(bytes, alphabet_read(text, bytes, &raw));
    return tokenizer_find_entry(t, key, raw);
}

/* Merges whose tokens are looked up together. */
enum { BATCH = 32, BATCH_BYTES = BATCH * 64 + 8 * TOKENIZER_TOKEN_BYTES_MAX };
struct merge_batch {
    struct token_key keys[3 * BATCH]; /* left, right, result */
    size_t count, used;
    char room[BATCH_BYTES];
};

static int batch_flush(struct tokenizer *t, struct merge_batch *b, size_t *capacity, struct bpe_merge **merges, struct error *err) {
    tokenizer_find_entries(t, b->keys, 3 * b->count);
    for (size_t k = 0; k < b->count; k++) {
        struct bpe_merge m = {b->keys[3 * k].id, b->keys[3 * k + 1].id, b->keys[3 * k + 2].id};
        uint32_t i = t->bpe.merge_count;
        if (m.left == TOKEN_NONE || m.right == TOKEN_NONE || m.result == TOKEN_NONE)
            return error_set(err, E_INVALID, "model.merges.%u names a token that the vocabulary lacks", i);
        if (i == TOKENIZER_VOCAB_MAX) return error_set(err, E_TOO_LARGE, "more than %d merges", TOKENIZER_VOCAB_MAX);
        if (array_reserve(merges, capacity, (size_t)i + 1, sizeof m)) return no_memory(err);
        (*merges)[t->bpe.merge_count++] = m;
    }
    b->count = b->used = 0;
    return 0;
}

static struct token_key batch_key(const struct tokenizer *t, struct merge_batch *b, struct span text) {
    struct token_key k = {.raw = true};
    char *room = b->room + b->used;
    size_t len = text.len;
    if (t->byte_level) len = alphabet_read(text, room, &k.raw);
    else memcpy(room, text.data, len);
    b->used += len;
    k.bytes = span_of(room, len);
    return k;
}

static int merge_add(struct tokenizer *t, struct merge_batch *b, struct span left, struct span right, size_t *capacity, struct bpe_merge **merges, struct error *err) {
    if (!left.len || !right.len || left.len + right.len > 2 * TOKENIZER_TOKEN_BYTES_MAX)
        return error_set(err, E_INVALID, "model.merges.%zu is no pair of two tokens", t->bpe.merge_count + b->count);
    if (b->count == BATCH || sizeof b->room - b->used < 2 * (left.len + right.len)) {
        int r = batch_flush(t, b, capacity, merges, err);
        if (r) return r;
    }
    struct token_key *k = &b->keys[3 * b->count++];
    k[0] = batch_key(t, b, left);
    k[1] = batch_key(t, b, right);
    if (k[0].raw == k[1].raw && !t->bpe.prefix.len) {
        k[2] = (struct token_key){.bytes = {k[0].bytes.data, k[0].bytes.len + k[1].bytes.len}, .raw = k[0].raw};
        if (!t->byte_level || !k[0].raw) return 0;
    }
    /* The right one's continuing_subword_prefix is not in the result; of texts that are none of the alphabet only the whole says whether it is. */
    size_t prefix = t->bpe.prefix.len <= right.len ? t->bpe.prefix.len : right.len;
    char joined[2 * TOKENIZER_TOKEN_BYTES_MAX];
    memcpy(joined, left.data, left.len);
    memcpy(joined + left.len, right.data + prefix, right.len - prefix);
    k[2] = batch_key(t, b, span_of(joined, left.len + right.len - prefix));
    return 0;
}

static int read_merges(struct tokenizer *t, struct span text, struct error *err) {
    struct json_reader r;
    char room[2 * TOKENIZER_TOKEN_BYTES_MAX + 1], room2[TOKENIZER_TOKEN_BYTES_MAX];
    struct bpe_merge *merges = NULL;
    struct merge_batch *batch = NULL;
    size_t capacity = 0;
    int more = 0, e;
    json_reader_init(&r, text);
    if (!text.data || json_reader_peek(&r) != JSON_TYPE_ARRAY) return error_set(err, E_INVALID, "model.merges is not a list");
    batch = mem_alloc(sizeof *batch);
    if (!batch) return no_memory(err);
    batch->count = batch->used = 0;
    e = json_reader_enter(&r, '[', err);
    while (!e && (more = json_reader_item(&r, err)) > 0) {
        struct span left = {NULL, 0}, right = {NULL, 0};
        if (json_reader_peek(&r) == JSON_TYPE_ARRAY) {
            e = json_reader_enter(&r, '[', err);
            if (!e && json_reader_item(&r, err) == 1) e = json_reader_string(&r, room, sizeof room, &left, err);
            if (!e && json_reader_item(&r, err) == 1) e = json_reader_string(&r, room2, sizeof room2, &right, err);
            if (!e && json_reader_item(&r, err) != 0) right.len = 0;
        } else if (json_reader_peek(&r) == JSON_TYPE_STRING) {
            struct span pair;
            e = json_reader_string(&r, room, sizeof room, &pair, err);
            ptrdiff_t space = e ? -1 : span_find_char(pair, ' ');
            if (space > 0) {
                left = span_sub(pair, 0, (size_t)space);
                right = span_skip(pair, (size_t)space + 1);
                if (span_find_char(right, ' ') >= 0) right.len = 0;
            }
        } else {
            e = json_reader_skip(&r, NULL, err);
        }
        if (!e) e = merge_add(t, batch, left, right, &capacity, &merges, err);
    }
    if (!e && more < 0) e = more;
    if (!e) e = batch_flush(t, batch, &capacity, &merges, err);
    if (!e) {
        t->bpe.merges = arena_calloc(&t->arena, (size_t)t->bpe.merge_count + 1, sizeof merges[0]);
        if (!t->bpe.merges) e = no_memory(err);
        else if (t->bpe.merge_count) memcpy(t->bpe.merges, merges, t->bpe.merge_count * sizeof merges[0]);
    }
    mem_free(merges);
    mem_free(batch);
    return e;
}

/* ---- the models ---- */

/* The parts of the model's object that are small, as a tree. */
static int small_model(const struct member *m, size_t count, struct json **tree, struct error *err) {
    struct buf text;
    struct json_out w;
    buf_init(&text, STAGE_MAX);
    json_begin(&w, &text);
    json_object(&w);
    for (size_t i = 0; i < count; i++)
        if (m[i].value.data) {
            json_key(&w, m[i].key);
            json_put_raw(&w, m[i].value);
        }
    json_object_end(&w);
    int r = text.failed ? error_set(err, text.failed, "the model's parameters are too large") : json_parse(buf_span(&text), tree, err);
    buf_fini(&text);
    return r;
}

static int keep_affix(struct tokenizer *t, const struct json *m, const char *key, struct span *kept, struct error *err) {
    struct span s = json_string(json_get(m, key));
    if (s.len > TOKENIZER_TOKEN_BYTES_MAX) return error_set(err, E_TOO_LARGE, "model.%s is longer than %d bytes", key, TOKENIZER_TOKEN_BYTES_MAX);
    *kept = s.len ? arena_span(&t->arena, s) : (struct span){NULL, 0};
    return s.len && !kept->data ? no_memory(err) : 0;
}

static int find_unk(struct tokenizer *t, const struct json *m, struct error *err) {
    struct span unk = json_string(json_get(m, "unk_token"));
    if (!unk.len) return 0;
    t->unk = find_text(t, unk);
    /* one that the vocabulary lacks is an error of the text that needs it */
    (void)err;
    return 0;
}

static int build_trie(struct tokenizer *t, struct error *err) {
    int r = 0;
    for (uint32_t id = 0; !r && id < t->entry_count; id++)
        if (t->entries[id].in_model && t->entries[id].bytes.len) r = token_trie_add(&t->trie, t->entries[id].bytes, id, err);
    return r;
}

/* The members of the model's object. */
enum { TYPE, VOCAB, MERGES, SMALL, MODEL_MEMBERS = 12 };
static const char *const model_keys[MODEL_MEMBERS] = {"type", "vocab", "merges", "dropout", "unk_token", "unk_id", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                                                      "byte_fallback", "ignore_merges", "max_input_chars_per_word"};

static int parse_model(struct reading *g, const struct member *m, const struct json *added) {
    struct tokenizer *t = g->t;
    struct error *err = g->err;
    static const struct {
        const char *name;
        enum model_kind kind;
    } kinds[] = {{"BPE", MODEL_BPE}, {"WordPiece", MODEL_WORDPIECE}, {"Unigram", MODEL_UNIGRAM}, {"WordLevel", MODEL_WORDLEVEL}};
    struct json *tree = NULL;
    int r = small_model(m + SMALL, MODEL_MEMBERS - SMALL, &tree, err);
    if (r) return r;
    struct span type = m[TYPE].value.len >= 2 ? span_sub(m[TYPE].value, 1, m[TYPE].value.len - 2) : (struct span){NULL, 0};
    if (!type.len) type = m[MERGES].value.data ? SPAN("BPE") : SPAN("(none)"); /* old files of BPE have no type */
    bool known = false;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (span_eq_str(type, kinds[i].name)) {
            t->model = kinds[i].kind;
            known = true;
        }
    if (!known) r = error_set(err, E_UNSUPPORTED, "model: type %.*s is not built", SPAN_ARG(span_sub(type, 0, 60)));
    if (!r && json_real(json_get(tree, "dropout"), 0) != 0) r = error_set(err, E_UNSUPPORTED, "model: BPE with dropout is not built");
    if (!r && t->byte_level && (t->model == MODEL_WORDPIECE || t->model == MODEL_UNIGRAM)) { /* their tries are over text */
        t->byte_level = false;
        if (t->pretokenizer.count == PRETOKENIZER_STEPS_MAX) r = error_set(err, E_UNSUPPORTED, "pre_tokenizer: more than %d steps", PRETOKENIZER_STEPS_MAX);
        else t->pretokenizer.steps[t->pretokenizer.count++] = (struct pretokenizer_step){.rewrite = REWRITE_ALPHABET, .behavior = SPLIT_ISOLATED};
    }
    if (!r) r = keep_affix(t, tree, "continuing_subword_prefix", t->model == MODEL_WORDPIECE ? &t->wordpiece.prefix : &t->bpe.prefix, err);
    if (!r) r = keep_affix(t, tree, "end_of_word_suffix", &t->bpe.suffix, err);
    if (!r && t->byte_level && (t->bpe.prefix.len || t->bpe.suffix.len)) { /* words are text then, as their tokens are */
        t->byte_level = false;
        if (t->pretokenizer.count == PRETOKENIZER_STEPS_MAX) r = error_set(err, E_UNSUPPORTED, "pre_tokenizer: more than %d steps", PRETOKENIZER_STEPS_MAX);
        else t->pretokenizer.steps[t->pretokenizer.count++] = (struct pretokenizer_step){.rewrite = REWRITE_ALPHABET, .behavior = SPLIT_ISOLATED};
    }
    if (!r) r = read_vocab(g, m[VOCAB].value, added);
    if (!r) r = find_unk(t, tree, err);
    if (r) goto out;
    t->byte_fallback = json_bool(json_get(tree, "byte_fallback"), false);
    t->bpe.fuse_unk = json_bool(json_get(tree, "fuse_unk"), false);
    t->bpe.ignore_merges = json_bool(json_get(tree, "ignore_merges"), false);
    if (t->model == MODEL_BPE) {
        r = read_merges(t, m[MERGES].value, err);
        if (!r && t->byte_level && (t->unk != TOKEN_NONE || t->byte_fallback))
            for (unsigned b = 0; !r && b < 256; b++)
                /* With every byte in the vocabulary nothing is ever unknown, and these two have no effect; without, they are another tokenizer. */
                if (t->bpe.bytes[b] == TOKEN_NONE) r = error_set(err, E_UNSUPPORTED, "model: byte-level BPE with unk_token or byte_fallback and an incomplete alphabet is not built");
    } else if (t->model == MODEL_WORDPIECE) {
        int64_t max = json_int(json_get(tree, "max_input_chars_per_word"), 100);
        t->wordpiece.characters_max = max < 0 ? 0 : max > TOKENIZER_TEXT_MAX ? TOKENIZER_TEXT_MAX : (uint32_t)max;
        r = build_trie(t, err);
        for (size_t i = 0; !r && i < t->wordpiece.prefix.len; i++) {
            t->wordpiece.prefix_node = trie_step(&t->trie, t->wordpiece.prefix_node, (uint8_t)t->wordpiece.prefix.data[i]);
            if (!t->wordpiece.prefix_node) break;
        }
    } else if (t->model == MODEL_UNIGRAM) {
        int64_t unk = json_int(json_get(tree, "unk_id"), -1);
        if (unk >= (int64_t)g->count) r = error_set(err, E_INVALID, "model.unk_id is no token of the vocabulary");
        else if (unk >= 0) t->unk = (uint32_t)unk;
        if (!r) r = build_trie(t, err);
        t->unigram_json = arena_span(&t->arena, m[VOCAB].value);
        if (!r && !t->unigram_json.data) r = no_memory(err);
    }
out:
    json_free(tree);
    return r;
}

/* ---- the file ---- */

static int keep_json(struct tokenizer *t, const struct json *v, struct span *kept, struct error *err) {
    struct buf text;
    buf_init(&text, STAGE_MAX);
    int r = json_is_null(v) ? buf_append_str(&text, "null") : json_write(&text, v);
    if (!r) {
        *kept = arena_span(&t->arena, buf_span(&text));
        if (!kept->data) r = E_NOMEM;
    }
    buf_fini(&text);
    return r ? error_set(err, r, "a stage of the tokenizer is too large") : 0;
}

/* What tokens give in a text, where that is not what the file calls them. */
static int show_tokens(struct tokenizer *t, struct error *err) {
    if (t->decoder.plain) return 0;
    struct buf shown;
    struct decoder_scratch scratch;
    size_t at = 0;
    int r = 0;
    buf_init(&shown, OUT_MAX);
    uint32_t *ends = mem_calloc((size_t)t->entry_count + 1, sizeof ends[0]);
    if (!ends) return no_memory(err);
    decoder_scratch_init(&scratch);
    for (uint32_t id = 0; !r && id < t->entry_count; id++) {
        if (t->entries[id].present) r = decoder_shown(t, id, &scratch, &shown);
        ends[id] = (uint32_t)shown.len;
    }
    decoder_scratch_fini(&scratch);
    struct span all = r ? (struct span){NULL, 0} : arena_span(&t->arena, buf_span(&shown));
    for (uint32_t id = 0; all.data && id < t->entry_count; id++) {
        if (t->entries[id].present) t->entries[id].shown = span_sub(all, at, ends[id] - at);
        at = ends[id];
    }
    mem_free(ends);
    buf_fini(&shown);
    return all.data ? 0 : no_memory(err);
}

static int parse_stage(struct span text, struct json **tree, const char *what, struct error *err) {
    *tree = NULL;
    if (!text.data) return 0;
    if (text.len > STAGE_MAX) return error_set(err, E_TOO_LARGE, "%s has more than %d bytes", what, STAGE_MAX);
    int r = json_parse(text, tree, err);
    return r ? error_prefix(err, "%s", what) : 0;
}

int tokenizer_parse(struct span text, struct tokenizer **out, struct error *err) {
    if (text.len > FILE_MAX) return error_set(err, E_TOO_LARGE, "tokenizer.json has more than %d bytes", FILE_MAX);
    if (!span_is_utf8(text)) return error_set(err, E_INVALID, "tokenizer.json is no UTF-8");
    enum { NORMALIZER, PRETOKENIZER, POSTPROCESSOR, DECODER, ADDED, MODEL, MEMBERS };
    struct member inner[MODEL_MEMBERS] = {{.key = NULL}};
    struct member m[MEMBERS] = {{.key = "normalizer"}, {.key = "pre_tokenizer"}, {.key = "post_processor"}, {.key = "decoder"}, {.key = "added_tokens"},
                                {.key = "model", .inner = inner, .inner_count = MODEL_MEMBERS}};
    for (size_t i = 0; i < MODEL_MEMBERS; i++) inner[i].key = model_keys[i];
    struct json *stage[MODEL] = {NULL};
    struct json_reader reader;
    json_reader_init(&reader, text);
    int r = read_members(&reader, "the tokenizer", m, MEMBERS, err);
    if (!r) r = json_reader_end(&reader, err);
    if (r) return r;
    if (!m[MODEL].value.data) return error_set(err, E_INVALID, "the tokenizer has no model");
    if (*m[MODEL].value.data != '{') return error_set(err, E_INVALID, "model is not an object");
    struct tokenizer *t = tokenizer_alloc();
    if (!t) return no_memory(err);
    struct reading g = {.t = t, .err = err};
    struct keep keep = {&t->arena, &t->regexes};
    struct span *const kept[] = {&t->normalizer_json, &t->pretokenizer_json, &t->postprocessor_json, &t->decoder_json};
    for (int i = 0; !r && i < MODEL; i++) r = parse_stage(m[i].value, &stage[i], m[i].key, err);
    /* The small stages first: what cannot be computed is refused before the vocabulary is read. */
    if (!r) r = normalizer_parse(stage[NORMALIZER], &keep, &t->normalizer, err);
    if (!r) r = pretokenizer_parse(stage[PRETOKENIZER], &keep, &t->pretokenizer, err);
    if (!r) r = postprocessor_parse(stage[POSTPROCESSOR], &t->postprocessor, err);
    for (int i = 0; !r && i < ADDED; i++) r = keep_json(t, stage[i], kept[i], err);
    if (!r && stage[ADDED] && json_type(stage[ADDED]) != JSON_TYPE_ARRAY) r = error_set(err, E_INVALID, "added_tokens is %s, not a list", json_type_name(stage[ADDED]));
    t->byte_level = t->pretokenizer.byte_level;
    if (!r) r = parse_model(&g, inner, stage[ADDED]);
    if (!r) r = decoder_parse(stage[DECODER], t->byte_level, &keep, &t->decoder, err);
    if (!r) r = tokenizer_finish(t, err);
    if (!r) r = show_tokens(t, err);
    for (int k = 0; !r && k < 2; k++) {
        const struct postprocessor_template *p = k ? &t->postprocessor.pair : &t->postprocessor.single;
        for (uint32_t i = 0; !r && i < p->count; i++) {
            uint32_t id = p->items[i].id;
            if (id != TOKEN_NONE && (id >= t->entry_count || !t->entries[id].present)) r = error_set(err, E_INVALID, "post_processor: id %u is no token", id);
        }
    }
    for (int i = 0; i < MODEL; i++) json_free(stage[i]);
    mem_free(g.tokens);
    if (r) tokenizer_free(t);
    else *out = t;
    return r;
}

int tokenizer_load(const char *path, struct tokenizer **t, struct error *err) {
    struct file_map map; /* not a copy: of 33 MB it takes longer than reading the merges */
    int r = file_map_open(&map, path, err);
    if (r) return r;
    r = tokenizer_parse(span_of(map.data, map.len), t, err);
    if (r) error_prefix(err, "%s", path);
    file_map_close(&map);
    return r;
}

int tokenizer_parse_config(struct tokenizer *t, struct span text, struct error *err) {
    struct json *root = NULL;
    int r = json_parse(text, &root, err);
    if (r) return r;
    const struct {
        const char *key;
        uint32_t *id;
    } keys[] = {{"bos_token", &t->bos}, {"eos_token", &t->eos}, {"pad_token", &t->pad}};
    uint32_t ids[3] = {TOKEN_NONE, TOKEN_NONE, TOKEN_NONE};
    for (size_t i = 0; !r && i < 3; i++) {
        const struct json *v = json_get(root, keys[i].key);
        struct span content = json_string(json_type(v) == JSON_TYPE_OBJECT ? json_get(v, "content") : v);
        if (!content.len) continue;
        ids[i] = tokenizer_find(t, content);
        if (ids[i] == TOKEN_NONE)
            r = error_set(err, E_INVALID, "tokenizer_config.json: %s \"%.*s\" is not in the vocabulary", keys[i].key, SPAN_ARG(span_sub(content, 0, 60)));
    }
    for (size_t i = 0; !r && i < 3; i++) *keys[i].id = ids[i];
    json_free(root);
    return r;
}

/* ---- writing ---- */

static void put_token(struct json_out *w, const struct tokenizer *t, uint32_t id, struct buf *scratch, bool as_key) {
    buf_clear(scratch);
    struct span text = tokenizer_entry_text(t, id, scratch);
    if (scratch->failed && !w->out->failed) w->out->failed = scratch->failed;
    if (as_key) json_key_span(w, text);
    else json_put_span(w, text);
}

static void put_affix(struct json_out *w, const char *key, struct span s) {
    json_key(w, key);
    if (s.len) json_put_span(w, s);
    else json_put_null(w);
}
static void put_unk(struct json_out *w, const struct tokenizer *t, struct buf *scratch) {
    json_key(w, "unk_token");
    if (t->unk == TOKEN_NONE) json_put_null(w);
    else put_token(w, t, t->unk, scratch, false);
}
static void put_vocab(struct json_out *w, const struct tokenizer *t, struct buf *scratch) {
    json_key(w, "vocab");
    json_object(w);
    for (uint32_t id = 0; id < t->entry_count; id++)
        if (t->entries[id].in_model) {
            put_token(w, t, id, scratch, true);
            json_put_int(w, id);
        }
    json_object_end(w);
}

static void put_bpe(struct json_out *w, const struct tokenizer *t, struct buf *scratch, struct buf *line) {
    json_str(w, "type", "BPE");
    json_key(w, "dropout");
    json_put_null(w);
    if (t->byte_level) { /* nothing is ever unknown, or it would have been refused */
        json_key(w, "unk_token");
        json_put_null(w);
    } else put_unk(w, t, scratch);
    put_affix(w, "continuing_subword_prefix", t->bpe.prefix);
    put_affix(w, "end_of_word_suffix", t->bpe.suffix);
    json_flag(w, "fuse_unk", !t->byte_level && t->bpe.fuse_unk);
    json_flag(w, "byte_fallback", !t->byte_level && t->byte_fallback);
    json_flag(w, "ignore_merges", t->bpe.ignore_merges);
    put_vocab(w, t, scratch);
    /* "a b" is what every release of the reference implementation reads; a token that is not of the alphabet may have a space, and needs the newer form. */
    bool pairs = false;
    for (uint32_t i = 0; i < t->bpe.merge_count; i++) pairs |= t->entries[t->bpe.merges[i].left].raw | t->entries[t->bpe.merges[i].right].raw;
    json_key(w, "merges");
    json_array(w);
    for (uint32_t i = 0; i < t->bpe.merge_count; i++) {
        const struct bpe_merge *m = &t->bpe.merges[i];
        if (pairs) {
            json_array(w);
            put_token(w, t, m->left, scratch, false);
            put_token(w, t, m->right, scratch, false);
            json_array_end(w);
            continue;
        }
        buf_clear(line);
        alphabet_write(t->entries[m->left].bytes, line);
        buf_append_char(line, ' ');
        alphabet_write(t->entries[m->right].bytes, line);
        if (line->failed && !w->out->failed) w->out->failed = line->failed;
        json_put_span(w, buf_span(line));
    }
    json_array_end(w);
}

static void put_model(struct json_out *w, const struct tokenizer *t, struct buf *scratch, struct buf *line) {
    switch (t->model) {
    case MODEL_BPE: put_bpe(w, t, scratch, line); break;
    case MODEL_WORDPIECE:
        json_str(w, "type", "WordPiece");
        put_unk(w, t, scratch);
        json_span(w, "continuing_subword_prefix", t->wordpiece.prefix);
        json_num(w, "max_input_chars_per_word", t->wordpiece.characters_max);
        put_vocab(w, t, scratch);
        break;
    case MODEL_UNIGRAM:
        json_str(w, "type", "Unigram");
        json_key(w, "unk_id");
        if (t->unk == TOKEN_NONE) json_put_null(w);
        else json_put_uint(w, t->unk);
        json_key(w, "vocab");
        json_put_raw(w, t->unigram_json);
        json_flag(w, "byte_fallback", t->byte_fallback);
        break;
    case MODEL_WORDLEVEL:
        json_str(w, "type", "WordLevel");
        put_vocab(w, t, scratch);
        put_unk(w, t, scratch);
        break;
    }
}

int tokenizer_write(const struct tokenizer *t, struct buf *out) {
    struct buf scratch, line;
    buf_init(&scratch, 4 * TOKENIZER_TOKEN_BYTES_MAX);
    buf_init(&line, 8 * TOKENIZER_TOKEN_BYTES_MAX);
    struct json_out w;
    json_begin(&w, out);
    json_object(&w);
    json_str(&w, "version", "1.0");
    json_key(&w, "truncation");
    json_put_null(&w);
    json_key(&w, "padding");
    json_put_null(&w);
    json_key(&w, "added_tokens");
    json_array(&w);
    for (size_t i = 0; i < t->added_count; i++) {
        const struct added_token *a = &t->added[i];
        json_object(&w);
        json_num(&w, "id", a->id);
        json_span(&w, "content", a->content);
        json_flag(&w, "single_word", a->single_word);
        json_flag(&w, "lstrip", a->lstrip);
        json_flag(&w, "rstrip", a->rstrip);
        json_flag(&w, "normalized", a->normalized);
        json_flag(&w, "special", a->special);
        json_object_end(&w);
    }
    json_array_end(&w);
    const struct {
        const char *key;
        struct span json;
    } stages[] = {{"normalizer", t->normalizer_json}, {"pre_tokenizer", t->pretokenizer_json}, {"post_processor", t->postprocessor_json}, {"decoder", t->decoder_json}};
    for (size_t i = 0; i < sizeof stages / sizeof stages[0]; i++) {
        json_key(&w, stages[i].key);
        json_put_raw(&w, stages[i].json);
    }
    json_key(&w, "model");
    json_object(&w);
    put_model(&w, t, &scratch, &line);
    json_object_end(&w);
    json_object_end(&w);
    buf_append_char(out, '\n');
    buf_fini(&scratch);
    buf_fini(&line);
    return out->failed;
}

static void put_special(struct json_out *w, const struct tokenizer *t, const char *key, uint32_t id) {
    if (id == TOKEN_NONE) return;
    json_span(w, key, t->entries[id].bytes);
}

int tokenizer_write_config(const struct tokenizer *t, const char *chat_template, uint32_t context, struct buf *out) {
    struct json_out w;
    json_begin(&w, out);
    json_object(&w);
    json_key(&w, "added_tokens_decoder");
    json_object(&w);
    for (size_t i = 0; i < t->added_count; i++) {
        const struct added_token *a = &t->added[i];
        struct buf key;
        buf_init(&key, 16);
        buf_printf(&key, "%u", a->id);
        json_key_span(&w, buf_span(&key));
        if (key.failed && !out->failed) out->failed = key.failed;
        buf_fini(&key);
        json_object(&w);
        json_span(&w, "content", a->content);
        json_flag(&w, "lstrip", a->lstrip);
        json_flag(&w, "normalized", a->normalized);
        json_flag(&w, "rstrip", a->rstrip);
        json_flag(&w, "single_word", a->single_word);
        json_flag(&w, "special", a->special);
        json_object_end(&w);
    }
    json_object_end(&w);
    put_special(&w, t, "bos_token", t->bos);
    if (chat_template) json_str(&w, "chat_template", chat_template);
    json_flag(&w, "clean_up_tokenization_spaces", false);
    put_special(&w, t, "eos_token", t->eos);
    if (context) json_num(&w, "model_max_length", context);
    put_special(&w, t, "pad_token", t->pad);
    json_str(&w, "tokenizer_class", "PreTrainedTokenizerFast");
    json_object_end(&w);
    buf_append_char(out, '\n');
    return out->failed;
}

int tokenizer_digest(const struct tokenizer *t, char hex[65]) {
    struct buf text;
    buf_init(&text, OUT_MAX);
    int r = tokenizer_write(t, &text);
    if (!r) sha256_hex(buf_span(&text), hex);
    buf_fini(&text);
    return r;
}

