/* The tokenizer itself: reading and writing tokenizer.json, the vocabulary's index, and encoding through the stages. */
#include "tokenizer/tokenizer.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/sha256.h"
#include "tokenizer/internal.h"

enum {
    FILE_MAX = 64 << 20,       /* bytes of tokenizer.json; Gemma 3's has 33 MB */
    OUT_MAX = 256 << 20,       /* what tokenizer_digest may write */
    SPARSE_MAX = 1 << 16,      /* ids beyond the number of tokens: a file of ten tokens must not make four million entries */
};
static const size_t arena_max = (size_t)1 << 30; /* a vocabulary of TOKENIZER_VOCAB_MAX with its index takes 400 MB */

/* ---- ids that grow ---- */

void tokens_fini(struct tokens *ids) {
    mem_free(ids->ids);
    mem_free(ids->offsets);
    *ids = (struct tokens){.ids = NULL};
}
void tokens_clear(struct tokens *ids) { ids->len = 0; }

int tokens_push(struct tokens *out, bool offsets, uint32_t id, uint32_t start, uint32_t end) {
    int r = 0;
    if (out->len == out->capacity) r = array_reserve(&out->ids, &out->capacity, out->len + 1, sizeof out->ids[0]);
    if (!r && offsets && out->len >= out->offsets_capacity)
        r = array_reserve(&out->offsets, &out->offsets_capacity, out->capacity, sizeof out->offsets[0]);
    if (r) return r;
    out->ids[out->len] = id;
    if (offsets) out->offsets[out->len] = (struct token_offset){start, end};
    out->len++;
    return 0;
}

/* ---- the vocabulary ---- */

struct tokenizer *tokenizer_alloc(void) {
    struct tokenizer *t = mem_zalloc(sizeof *t);
    if (!t) return NULL;
    arena_init(&t->arena, arena_max);
    t->bos = t->eos = t->pad = TOKEN_NONE;
    return t;
}

void tokenizer_free(struct tokenizer *t) {
    if (!t) return;
    arena_fini(&t->arena);
    mem_free(t);
}

static int no_memory(struct error *err) { return error_set(err, E_NOMEM, "no memory for the tokenizer"); }

uint32_t tokenizer_find_model(const struct tokenizer *t, struct span bytes) {
    for (size_t i = span_hash(bytes) & t->by_bytes_mask; t->by_bytes[i]; i = (i + 1) & t->by_bytes_mask)
        if (span_eq(t->entries[t->by_bytes[i] - 1].bytes, bytes)) return t->by_bytes[i] - 1;
    return TOKEN_NONE;
}

int tokenizer_index(struct tokenizer *t, struct error *err) {
    size_t slots = 16;
    while (slots < (size_t)t->entry_count * 2) slots *= 2;
    t->by_bytes_mask = slots - 1;
    t->by_bytes = arena_calloc(&t->arena, slots, sizeof t->by_bytes[0]);
    if (!t->by_bytes) return no_memory(err);
    for (unsigned b = 0; b < 256; b++) t->bpe.bytes[b] = TOKEN_NONE;
    for (uint32_t id = 0; id < t->entry_count; id++) {
        const struct token_entry *e = &t->entries[id];
        if (!e->in_model || e->raw) continue;
        if (e->bytes.len == 1) t->bpe.bytes[(uint8_t)e->bytes.data[0]] = id;
        size_t i = span_hash(e->bytes) & t->by_bytes_mask;
        while (t->by_bytes[i]) i = (i + 1) & t->by_bytes_mask;
        t->by_bytes[i] = id + 1;
    }
    if (added_set_init(&t->added_raw, t->added, t->added_count, false, &t->arena) ||
        added_set_init(&t->added_normalized, t->added, t->added_count, true, &t->arena) || bpe_index(&t->bpe, &t->arena))
        return no_memory(err);
    return 0;
}

uint32_t tokenizer_vocab_size(const struct tokenizer *t) { return t->entry_count; }
struct span tokenizer_token_bytes(const struct tokenizer *t, uint32_t id) {
    return id < t->entry_count ? t->entries[id].bytes : (struct span){NULL, 0};
}
uint32_t tokenizer_find(const struct tokenizer *t, struct span bytes) {
    for (size_t i = 0; i < t->added_count; i++)
        if (span_eq(t->added[i].content, bytes)) return t->added[i].id;
    return tokenizer_find_model(t, bytes);
}
bool tokenizer_is_special(const struct tokenizer *t, uint32_t id) { return id < t->entry_count && t->entries[id].special; }
uint32_t tokenizer_bos(const struct tokenizer *t) { return t->bos; }
uint32_t tokenizer_eos(const struct tokenizer *t) { return t->eos; }
uint32_t tokenizer_pad(const struct tokenizer *t) { return t->pad; }
void tokenizer_set_special(struct tokenizer *t, uint32_t bos, uint32_t eos, uint32_t pad) {
    t->bos = bos;
    t->eos = eos;
    t->pad = pad;
}

/* ---- reading ---- */

static int entry_set(struct tokenizer *t, uint32_t id, struct span text, bool in_model, struct error *err) {
    char *bytes = arena_alloc(&t->arena, text.len + 1);
    if (!bytes) return no_memory(err);
    struct token_entry *e = &t->entries[id];
    e->bytes.data = bytes;
    e->bytes.len = alphabet_read(text, bytes, &e->raw);
    e->present = true;
    e->in_model = in_model;
    return 0;
}

/* Ids and texts of the model's vocabulary and of the added tokens. */
static int parse_vocab(struct tokenizer *t, const struct json *vocab, const struct json *added, struct error *err) {
    if (json_type(vocab) != JSON_TYPE_OBJECT) return error_set(err, E_INVALID, "model.vocab is %s, not an object", json_type_name(vocab));
    size_t count = json_size(vocab) + json_size(added);
    if (json_size(vocab) > TOKENIZER_VOCAB_MAX || json_size(added) > TOKENIZER_ADDED_MAX)
        return error_set(err, E_TOO_LARGE, "more than %d tokens or %d added tokens", TOKENIZER_VOCAB_MAX, TOKENIZER_ADDED_MAX);
    int64_t id_max = (int64_t)count + SPARSE_MAX, highest = -1;
    void *it = NULL;
    struct span key;
    const struct json *v;
    while (json_next(vocab, &it, &key, &v)) {
        int64_t id = json_type(v) == JSON_TYPE_INT ? json_int(v, -1) : -1;
        if (id < 0 || id >= id_max || id >= TOKENIZER_VOCAB_MAX)
            return error_set(err, E_INVALID, "model.vocab: the id of \"%.*s\" is out of range", SPAN_ARG(span_sub(key, 0, 40)));
        if (key.len > TOKENIZER_TOKEN_BYTES_MAX) return error_set(err, E_TOO_LARGE, "model.vocab: a token is longer than %d bytes", TOKENIZER_TOKEN_BYTES_MAX);
        if (id > highest) highest = id;
    }
    for (size_t i = 0; i < json_size(added); i++) {
        const struct json *a = json_at(added, i);
        int64_t id = json_int(json_get(a, "id"), -1);
        struct span content = json_string(json_get(a, "content"));
        if (id < 0 || id >= id_max || id >= TOKENIZER_VOCAB_MAX || !content.len)
            return error_set(err, E_INVALID, "added_tokens.%zu: needs a content and an id in range", i);
        if (content.len > TOKENIZER_TOKEN_BYTES_MAX) return error_set(err, E_TOO_LARGE, "added_tokens.%zu: longer than %d bytes", i, TOKENIZER_TOKEN_BYTES_MAX);
        if (id > highest) highest = id;
    }
    if (highest < 0) return error_set(err, E_INVALID, "model.vocab is empty");
    t->entry_count = (uint32_t)(highest + 1);
    t->entries = arena_calloc(&t->arena, t->entry_count, sizeof t->entries[0]);
    t->added = arena_calloc(&t->arena, json_size(added) + 1, sizeof t->added[0]);
    if (!t->entries || !t->added) return no_memory(err);
    it = NULL;
    while (json_next(vocab, &it, &key, &v)) {
        uint32_t id = (uint32_t)json_int(v, 0);
        if (t->entries[id].present) return error_set(err, E_INVALID, "model.vocab: two tokens have the id %u", id);
        int r = entry_set(t, id, key, true, err);
        if (r) return r;
    }
    for (size_t i = 0; i < json_size(added); i++) {
        const struct json *a = json_at(added, i);
        uint32_t id = (uint32_t)json_int(json_get(a, "id"), 0);
        struct span content = arena_span(&t->arena, json_string(json_get(a, "content")));
        if (!content.data) return no_memory(err);
        const struct json *same = json_get_span(vocab, content);
        if (same ? json_int(same, -1) != id : t->entries[id].present)
            return error_set(err, E_INVALID, "added_tokens.%zu: its id %u is another token's", i, id);
        if (!same) {
            int r = entry_set(t, id, content, false, err);
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
    return 0;
}

static int parse_merges(struct tokenizer *t, const struct json *merges, const struct json *vocab, struct error *err) {
    if (json_type(merges) != JSON_TYPE_ARRAY) return error_set(err, E_INVALID, "model.merges is %s, not a list", json_type_name(merges));
    size_t count = json_size(merges);
    if (count > TOKENIZER_VOCAB_MAX) return error_set(err, E_TOO_LARGE, "more than %d merges", TOKENIZER_VOCAB_MAX);
    t->bpe.merges = arena_calloc(&t->arena, count + 1, sizeof t->bpe.merges[0]);
    if (!t->bpe.merges) return no_memory(err);
    char joined[2 * TOKENIZER_TOKEN_BYTES_MAX];
    for (size_t i = 0; i < count; i++) {
        const struct json *m = json_at(merges, i);
        struct span left, right;
        if (json_type(m) == JSON_TYPE_ARRAY && json_size(m) == 2) {
            left = json_string(json_at(m, 0));
            right = json_string(json_at(m, 1));
        } else {
            struct span text = json_string(m);
            ptrdiff_t space = span_find_char(text, ' ');
            left = span_sub(text, 0, space < 0 ? 0 : (size_t)space);
            right = span_skip(text, space < 0 ? text.len : (size_t)space + 1);
            if (span_find_char(right, ' ') >= 0) right.len = 0;
        }
        if (!left.len || !right.len || left.len + right.len > sizeof joined)
            return error_set(err, E_INVALID, "model.merges.%zu is no pair of two tokens", i);
        memcpy(joined, left.data, left.len);
        memcpy(joined + left.len, right.data, right.len);
        int64_t a = json_int(json_get_span(vocab, left), -1), b = json_int(json_get_span(vocab, right), -1);
        int64_t c = json_int(json_get_span(vocab, span_of(joined, left.len + right.len)), -1);
        if (a < 0 || b < 0 || c < 0) return error_set(err, E_INVALID, "model.merges.%zu names a token that the vocabulary lacks", i);
        t->bpe.merges[i] = (struct bpe_merge){(uint32_t)a, (uint32_t)b, (uint32_t)c};
    }
    t->bpe.merge_count = (uint32_t)count;
    return 0;
}

static int parse_model(struct tokenizer *t, const struct json *root, struct error *err) {
    const struct json *m = json_get(root, "model"), *merges = json_get(m, "merges");
    struct span type = json_string(json_get(m, "type"));
    /* old files of BPE have no type */
    if (!span_eq_str(type, "BPE") && !(span_empty(type) && merges))
        return error_set(err, E_UNSUPPORTED, "model: type %.*s is not built", SPAN_ARG(span_sub(span_empty(type) ? SPAN("(none)") : type, 0, 60)));
    if (json_real(json_get(m, "dropout"), 0) != 0) return error_set(err, E_UNSUPPORTED, "model: BPE with dropout is not built");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++)
        if (json_string(json_get(m, affixes[i])).len) return error_set(err, E_UNSUPPORTED, "model: BPE with %s is not built", affixes[i]);
    t->bpe.ignore_merges = json_bool(json_get(m, "ignore_merges"), false);
    const struct json *added = json_get(root, "added_tokens");
    if (!json_is_null(added) && json_type(added) != JSON_TYPE_ARRAY) return error_set(err, E_INVALID, "added_tokens is %s, not a list", json_type_name(added));
    int r = parse_vocab(t, json_get(m, "vocab"), added, err);
    if (!r) r = parse_merges(t, merges, json_get(m, "vocab"), err);
    if (!r) r = tokenizer_index(t, err);
    if (r) return r;
    /* With every byte in the vocabulary nothing is ever unknown, and these two have no effect; without, they are another tokenizer. */
    if (json_string(json_get(m, "unk_token")).len || json_bool(json_get(m, "byte_fallback"), false))
        for (unsigned b = 0; b < 256; b++)
            if (t->bpe.bytes[b] == TOKEN_NONE) return error_set(err, E_UNSUPPORTED, "model: BPE with unk_token or byte_fallback and an incomplete alphabet is not built");
    return 0;
}

static int keep_json(struct tokenizer *t, const struct json *v, struct span *kept, struct error *err) {
    struct buf text;
    buf_init(&text, 1 << 20);
    int r = json_is_null(v) ? buf_append_str(&text, "null") : json_write(&text, v);
    if (!r) {
        *kept = arena_span(&t->arena, buf_span(&text));
        if (!kept->data) r = E_NOMEM;
    }
    buf_fini(&text);
    return r ? error_set(err, r, "a stage of the tokenizer is too large") : 0;
}

int tokenizer_parse(struct span text, struct tokenizer **out, struct error *err) {
    if (text.len > FILE_MAX) return error_set(err, E_TOO_LARGE, "tokenizer.json has more than %d bytes", FILE_MAX);
    struct json *root = NULL;
    struct tokenizer *t = NULL;
    int r = json_parse(text, &root, err);
    if (r) return r;
    t = tokenizer_alloc();
    if (!t) {
        r = no_memory(err);
        goto out;
    }
    if (json_type(root) != JSON_TYPE_OBJECT) {
        r = error_set(err, E_INVALID, "the tokenizer is %s, not an object", json_type_name(root));
        goto out;
    }
    const struct {
        const char *key;
        struct span *kept;
    } stages[] = {{"normalizer", &t->normalizer_json}, {"pre_tokenizer", &t->pretokenizer_json}, {"post_processor", &t->postprocessor_json}, {"decoder", &t->decoder_json}};
    /* The small stages first: what cannot be computed is refused before the vocabulary is read. */
    r = normalizer_parse(json_get(root, "normalizer"), &t->normalizer, err);
    if (!r) r = pretokenizer_parse(json_get(root, "pre_tokenizer"), &t->pretokenizer, err);
    if (!r) r = postprocessor_parse(json_get(root, "post_processor"), &t->postprocessor, err);
    if (!r) r = decoder_parse(json_get(root, "decoder"), err);
    for (size_t i = 0; !r && i < sizeof stages / sizeof stages[0]; i++) r = keep_json(t, json_get(root, stages[i].key), stages[i].kept, err);
    if (!r) r = parse_model(t, root, err);
    for (uint32_t i = 0; !r && i < t->postprocessor.before_count + t->postprocessor.after_count; i++) {
        uint32_t id = i < t->postprocessor.before_count ? t->postprocessor.before[i] : t->postprocessor.after[i - t->postprocessor.before_count];
        if (id >= t->entry_count || !t->entries[id].present) r = error_set(err, E_INVALID, "post_processor: id %u is no token", id);
    }
out:
    json_free(root);
    if (r) tokenizer_free(t);
    else *out = t;
    return r;
}

int tokenizer_load(const char *path, struct tokenizer **t, struct error *err) {
    struct buf text;
    buf_init(&text, FILE_MAX);
    int r = file_read(path, &text, err);
    if (!r) {
        r = tokenizer_parse(buf_span(&text), t, err);
        if (r) error_prefix(err, "%s", path);
    }
    buf_fini(&text);
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
    const struct token_entry *e = &t->entries[id];
    struct span text = e->bytes;
    if (!e->raw) {
        buf_clear(scratch);
        if (alphabet_write(e->bytes, scratch)) w->out->failed = w->out->failed ? w->out->failed : E_NOMEM;
        text = buf_span(scratch);
    }
    if (as_key) json_key_span(w, text);
    else json_put_span(w, text);
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
    json_str(&w, "type", "BPE");
    static const char *const nulls[] = {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 4; i++) {
        json_key(&w, nulls[i]);
        json_put_null(&w);
    }
    json_flag(&w, "fuse_unk", false);
    json_flag(&w, "byte_fallback", false);
    json_flag(&w, "ignore_merges", t->bpe.ignore_merges);
    json_key(&w, "vocab");
    json_object(&w);
    for (uint32_t id = 0; id < t->entry_count; id++)
        if (t->entries[id].in_model) {
            put_token(&w, t, id, &scratch, true);
            json_put_int(&w, id);
        }
    json_object_end(&w);
    /* "a b" is what every release of the reference implementation reads; a token that is not of the alphabet may have a space, and needs the newer form. */
    bool pairs = false;
    for (uint32_t i = 0; i < t->bpe.merge_count; i++) pairs |= t->entries[t->bpe.merges[i].left].raw | t->entries[t->bpe.merges[i].right].raw;
    json_key(&w, "merges");
    json_array(&w);
    for (uint32_t i = 0; i < t->bpe.merge_count; i++) {
        const struct bpe_merge *m = &t->bpe.merges[i];
        if (pairs) {
            json_array(&w);
            put_token(&w, t, m->left, &scratch, false);
            put_token(&w, t, m->right, &scratch, false);
            json_array_end(&w);
            continue;
        }
        buf_clear(&line);
        alphabet_write(t->entries[m->left].bytes, &line);
        buf_append_char(&line, ' ');
        alphabet_write(t->entries[m->right].bytes, &line);
        if (line.failed && !out->failed) out->failed = line.failed;
        json_put_span(&w, buf_span(&line));
    }
    json_array_end(&w);
    json_object_end(&w);
    json_object_end(&w);
    buf_append_char(out, '\n');
    buf_fini(&scratch);
    buf_fini(&line);
    return out->failed;
}

static void put_special(struct json_out *w, const struct tokenizer *t, const char *key, uint32_t id) {
    if (id == TOKEN_NONE) return;
    json_span(w, key, tokenizer_token_bytes(t, id));
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

/* ---- encoding ---- */

struct encoding {
    const struct tokenizer *t;
    struct bpe_scratch *scratch;
    struct tokens *out;
    bool offsets;
    struct error *err;
};

/* A stretch without added tokens; `at` is its place in the text whose offsets are meant. */
static int encode_stretch(struct encoding *e, struct span text, size_t at) {
    if (!text.len) return 0;
    const struct tokenizer *t = e->t;
    struct buf prefixed = {0};
    int r = 0;
    size_t first = e->out->len;
    bool prefix = t->pretokenizer.prefix_space && text.data[0] != ' ';
    if (prefix) {
        buf_init(&prefixed, text.len + 1);
        if (buf_append_char(&prefixed, ' ') || buf_append_span(&prefixed, text)) {
            r = error_set(e->err, E_NOMEM, "no memory for tokens");
            goto out;
        }
        text = buf_span(&prefixed);
    }
    struct splitter s;
    splitter_init(&s, &t->pretokenizer, text);
    size_t start, end;
    while (!r && splitter_next(&s, &start, &end))
        r = bpe_encode_word(t, e->scratch, span_sub(text, start, end - start), e->out, e->offsets, (uint32_t)(at + start), e->err);
    if (prefix && e->offsets)
        for (size_t i = first; i < e->out->len; i++) {
            struct token_offset *o = &e->out->offsets[i];
            if (o->start > at) o->start--;
            if (o->end > at) o->end--;
        }
out:
    buf_fini(&prefixed);
    return r;
}

/* A stretch between raw added tokens, which begins at `at` of the text: normalized, then cut at the added tokens that want that. */
static int encode_segment(struct encoding *e, struct span text, size_t at, struct trust *trust) {
    const struct tokenizer *t = e->t;
    struct normalized n = {.count = 0};
    bool changed;
    size_t first = e->out->len;
    int r = normalizer_run(t->normalizer, text, &n, &changed, e->err);
    if (r) return r;
    struct span normal = changed ? buf_span(&n.text) : text;
    size_t base = changed ? 0 : at;
    trust->shift = at;
    trust->normalized = changed ? &n : NULL;
    for (size_t from = 0; !r && from < normal.len;) {
        struct added_match m = added_find(&t->added_normalized, normal, from, trust);
        r = encode_stretch(e, span_sub(normal, from, m.start - from), base + from);
        if (!r && m.token) {
            r = tokens_push(e->out, e->offsets, m.token->id, (uint32_t)(base + m.start), (uint32_t)(base + m.end));
            if (r) error_set(e->err, r, "no memory for tokens");
        }
        from = m.end;
    }
    if (changed && e->offsets)
        for (size_t i = first; i < e->out->len; i++) {
            size_t start = e->out->offsets[i].start, end = e->out->offsets[i].end;
            normalized_origin(&n, &start, &end);
            e->out->offsets[i] = (struct token_offset){(uint32_t)(at + start), (uint32_t)(at + end)};
        }
    trust->normalized = NULL;
    trust->shift = 0;
    if (changed) normalized_fini(&n);
    return r;
}

static int encode(const struct tokenizer *t, struct span text, struct trust *trust, unsigned flags, struct tokens *out, struct error *err) {
    if (text.len > TOKENIZER_TEXT_MAX) return error_set(err, E_TOO_LARGE, "the text has more than %d bytes", TOKENIZER_TEXT_MAX);
    struct encoding e = {.t = t, .out = out, .offsets = flags & TOKENIZER_OFFSETS, .err = err};
    e.scratch = bpe_scratch_new(text.len);
    if (!e.scratch) return error_set(err, E_NOMEM, "no memory for tokens");
    size_t len = out->len;
    int r = 0;
    bool special = flags & TOKENIZER_ADD_SPECIAL;
    for (uint32_t i = 0; !r && special && i < t->postprocessor.before_count; i++) r = tokens_push(out, e.offsets, t->postprocessor.before[i], 0, 0);
    for (size_t from = 0; !r && from < text.len;) {
        struct added_match m = added_find(&t->added_raw, text, from, trust);
        r = encode_segment(&e, span_sub(text, from, m.start - from), from, trust);
        if (!r && m.token) r = tokens_push(out, e.offsets, m.token->id, (uint32_t)m.start, (uint32_t)m.end);
        from = m.end;
    }
    for (uint32_t i = 0; !r && special && i < t->postprocessor.after_count; i++)
        r = tokens_push(out, e.offsets, t->postprocessor.after[i], (uint32_t)text.len, (uint32_t)text.len);
    bpe_scratch_free(e.scratch);
    if (r) {
        out->len = len;
        if (r == E_NOMEM) error_set(err, r, "no memory for tokens");
    }
    return r;
}

int tokenizer_encode(const struct tokenizer *t, struct span text, unsigned flags, struct tokens *out, struct error *err) {
    if (!span_is_utf8(text)) return error_set(err, E_INVALID, "the text is no UTF-8");
    struct trust trust = {.no_specials = flags & TOKENIZER_NO_SPECIALS};
    return encode(t, text, &trust, flags, out, err);
}

int tokenizer_encode_pieces(const struct tokenizer *t, const struct tokenizer_piece *pieces, size_t count, unsigned flags, struct tokens *out,
                            struct error *err) {
    struct buf text;
    buf_init(&text, TOKENIZER_TEXT_MAX);
    int r = 0;
    for (size_t i = 0; !r && i < count; i++) {
        /* each for itself: two halves of a character from different hands are no character */
        if (!span_is_utf8(pieces[i].text)) r = error_set(err, E_INVALID, "the text is no UTF-8");
        else if (buf_append_span(&text, pieces[i].text))
            r = error_set(err, text.failed == E_FULL ? E_TOO_LARGE : E_NOMEM, "the text has more than %d bytes, or there is no memory for it", TOKENIZER_TEXT_MAX);
    }
    struct trust trust = {.pieces = count ? pieces : NULL, .count = count, .no_specials = flags & TOKENIZER_NO_SPECIALS};
    if (flags & TOKENIZER_NO_SPECIALS) trust.pieces = NULL;
    if (!r) r = encode(t, buf_span(&text), &trust, flags, out, err);
    buf_fini(&text);
    return r;
}
