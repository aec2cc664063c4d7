#include "tokenizer/vocabulary_write.h"

#include <stdio.h>

#include "base/alloc.h"
#include "tokenizer/internal.h"

enum { TEXT_MAX = 256 << 20, PRE_MAX = 1 << 16 };
#define ARENA_MAX ((size_t)1 << 30)

static int no_memory(struct error *err) { return error_set(err, E_NOMEM, "no memory for a vocabulary"); }

/* ---- how it cuts ---- */

/* JSON as one text, keys sorted; where offsets are cut does not change ids. */
static int plain(const struct json *v, struct buf *out) {
    static const char no[] = "\"trim_offsets\":false", yes[] = "\"trim_offsets\":true";
    struct buf text;
    buf_init(&text, PRE_MAX);
    int r = json_write(&text, v);
    struct span rest = buf_span(&text);
    for (ptrdiff_t at; r == 0 && (at = span_find(rest, span_of(no, sizeof no - 1))) >= 0; rest = span_skip(rest, (size_t)at + sizeof no - 1)) {
        (void)buf_append_span(out, span_sub(rest, 0, (size_t)at));
        (void)buf_append_str(out, yes);
    }
    (void)buf_append_span(out, rest);
    buf_fini(&text);
    return r ? r : out->failed;
}

/* The name of the pre-tokenizer. */
static int find_pre(const struct json *root, struct vocabulary *v, struct error *err) {
    const struct json *model = json_get(root, "model");
    bool nfc = span_eq_str(json_string(json_get(json_get(root, "normalizer"), "type")), "NFC"), ignore = json_bool(json_get(model, "ignore_merges"), false), other_ignore, other_nfc;
    struct buf mine, other;
    const char *text = NULL, *name;
    buf_init(&mine, PRE_MAX);
    buf_init(&other, PRE_MAX);
    int r = plain(json_get(root, "pre_tokenizer"), &mine);
    for (size_t i = 0; !r && (name = vocabulary_pre_at(i, &text, &other_ignore, &other_nfc)) != NULL; i++) {
        struct json *known = NULL;
        buf_clear(&other);
        r = json_parse(span_str(text), &known, err);
        if (!r) r = plain(known, &other);
        json_free(known);
        if (r || ignore != other_ignore || nfc != other_nfc || !span_eq(buf_span(&mine), buf_span(&other))) continue;
        v->pre = span_str(name);
        break;
    }
    buf_fini(&mine);
    buf_fini(&other);
    if (r) return no_memory(err);
    return v->pre.len ? 0 : error_set(err, E_UNSUPPORTED, "the way in which its tokenizer cuts a text has no name in GGUF");
}

/* ---- tokens ---- */

static int set_token(struct span *tokens, uint32_t count, const struct json *id, struct span text, int64_t *at, struct error *err) {
    *at = json_int(id, -1);
    if (*at < 0 || *at >= (int64_t)count) return error_set(err, E_INVALID, "token \"%.*s\" has an id beyond the %u that the model has", SPAN_ARG(span_sub(text, 0, 40)), count);
    tokens[*at] = text;
    return 0;
}

static bool is_byte(struct span s) {
    uint8_t b;
    return s.len == 6 && span_starts(s, SPAN("<0x")) && s.data[5] == '>' && hex_decode(span_sub(s, 3, 2), &b) == 0;
}

static int take_tokens(struct vocabulary_made *m, uint32_t count, bool bytes, struct error *err) {
    const struct json *vocab = json_get(json_get(m->root, "model"), "vocab"), *added = json_get(m->root, "added_tokens"), *id;
    struct span *tokens = arena_calloc(&m->arena, count, sizeof *tokens), key;
    int32_t *types = arena_calloc(&m->arena, count, sizeof *types);
    void *it = NULL;
    int64_t at;
    int r = tokens && types ? 0 : no_memory(err);
    while (!r && json_next(vocab, &it, &key, &id)) {
        r = set_token(tokens, count, id, key, &at, err);
        if (!r) types[at] = bytes && is_byte(key) ? VOCABULARY_BYTE : VOCABULARY_NORMAL;
    }
    for (size_t i = 0; !r && i < json_size(added); i++) {
        const struct json *a = json_at(added, i);
        r = set_token(tokens, count, json_get(a, "id"), json_string(json_get(a, "content")), &at, err);
        if (!r) types[at] = json_bool(json_get(a, "special"), false) ? VOCABULARY_CONTROL : VOCABULARY_USER_DEFINED;
    }
    for (uint32_t i = 0; !r && i < count; i++) {
        if (types[i]) continue;
        char *name = arena_printf(&m->arena, "[PAD%u]", i);
        if (!name) return no_memory(err);
        tokens[i] = span_str(name);
        types[i] = VOCABULARY_UNUSED;
    }
    m->v.tokens = tokens;
    m->v.types = types;
    m->v.count = count;
    return r;
}

/* WordPiece: parts lose their "##", and words get a U+2581 in front; tokens in brackets of their own that are special stay. */
static int mark_words(struct vocabulary_made *m, struct error *err) {
    struct span *tokens = arena_calloc(&m->arena, m->v.count, sizeof *tokens);
    if (!tokens) return no_memory(err);
    for (size_t i = 0; i < m->v.count; i++) {
        struct span s = tokens[i] = m->v.tokens[i];
        if (m->v.types[i] != VOCABULARY_NORMAL) continue;
        if (span_starts(s, SPAN("##"))) tokens[i] = span_skip(s, 2);
        else {
            char *text = arena_printf(&m->arena, "\xE2\x96\x81%.*s", SPAN_ARG(s));
            if (!text) return no_memory(err);
            tokens[i] = span_str(text);
        }
    }
    m->v.tokens = tokens;
    return 0;
}

/* Unigram: [["piece", score], …], the id being the place. */
static int take_pieces(struct vocabulary_made *m, uint32_t count, struct error *err) {
    const struct json *vocab = json_get(json_get(m->root, "model"), "vocab"), *added = json_get(m->root, "added_tokens");
    bool bytes = json_bool(json_get(json_get(m->root, "model"), "byte_fallback"), false);
    struct span *tokens = arena_calloc(&m->arena, count, sizeof *tokens);
    int32_t *types = arena_calloc(&m->arena, count, sizeof *types);
    float *scores = arena_calloc(&m->arena, count, sizeof *scores);
    int64_t at, unk = json_int(json_get(json_get(m->root, "model"), "unk_id"), -1);
    int r = tokens && types && scores ? 0 : no_memory(err);
    if (!r && json_size(vocab) > count) r = error_set(err, E_INVALID, "the tokenizer has %zu pieces, more than the %u that the model has", json_size(vocab), count);
    for (size_t i = 0; !r && i < json_size(vocab); i++) {
        tokens[i] = json_string(json_at(json_at(vocab, i), 0));
        scores[i] = (float)json_real(json_at(json_at(vocab, i), 1), 0);
        types[i] = bytes && is_byte(tokens[i]) ? VOCABULARY_BYTE : VOCABULARY_NORMAL;
    }
    for (size_t i = 0; !r && i < json_size(added); i++) {
        const struct json *a = json_at(added, i);
        r = set_token(tokens, count, json_get(a, "id"), json_string(json_get(a, "content")), &at, err);
        if (!r) types[at] = at == unk ? VOCABULARY_UNKNOWN : json_bool(json_get(a, "special"), false) ? VOCABULARY_CONTROL : VOCABULARY_USER_DEFINED;
    }
    for (uint32_t i = 0; !r && i < count; i++) {
        if (types[i]) continue;
        char *name = arena_printf(&m->arena, "[PAD%u]", i);
        if (!name) return no_memory(err);
        tokens[i] = span_str(name);
        scores[i] = -10000; /* as the converter has it: never chosen */
        types[i] = VOCABULARY_UNUSED;
    }
    m->v.tokens = tokens;
    m->v.types = types;
    m->v.scores = scores;
    m->v.count = count;
    m->v.unk = unk >= 0 && unk < (int64_t)count ? (uint32_t)unk : TOKEN_NONE;
    return r;
}

/* The charsmap of a normalizer, alone or among others. */
static int take_charsmap(struct vocabulary_made *m, struct error *err) {
    const struct json *n = json_get(m->root, "normalizer"), *list = json_get(n, "normalizers");
    size_t count = json_size(list);
    for (size_t i = 0; i <= count; i++) {
        const struct json *one = i < count ? json_at(list, i) : n;
        if (!span_eq_str(json_string(json_get(one, "type")), "Precompiled")) continue;
        struct span text = json_string(json_get(one, "precompiled_charsmap"));
        if (token_base64(text, &m->arena, &m->v.charsmap) != 0) return error_set(err, E_INVALID, "the tokenizer's precompiled_charsmap is no base64");
        return 0;
    }
    return 0;
}

static uint32_t id_of(const struct vocabulary_made *m, struct span text) {
    char name[1024];
    if (text.len >= sizeof name || memchr(text.data, 0, text.len)) return TOKEN_NONE;
    int64_t id = json_int(json_get(json_get(json_get(m->root, "model"), "vocab"), span_copy(name, sizeof name, text)), -1);
    return id >= 0 && id < (int64_t)m->v.count ? (uint32_t)id : TOKEN_NONE;
}

/* A merge as tokenizer.json has it: "a b", or ["a", "b"]. */
static bool halves(const struct json *merge, struct span *left, struct span *right) {
    if (json_type(merge) == JSON_TYPE_ARRAY) {
        *left = json_string(json_at(merge, 0));
        *right = json_string(json_at(merge, 1));
    } else {
        *right = json_string(merge);
        if (!span_cut(right, ' ', left)) return false;
    }
    return left->len && right->len;
}

static int take_merges(struct vocabulary_made *m, struct error *err) {
    const struct json *merges = json_get(json_get(m->root, "model"), "merges");
    size_t n = json_size(merges);
    struct span *list = arena_calloc(&m->arena, n + 1, sizeof *list), left, right;
    if (!list) return no_memory(err);
    for (size_t i = 0; i < n; i++) {
        if (!halves(json_at(merges, i), &left, &right)) return error_set(err, E_INVALID, "merge %zu of the tokenizer is none", i);
        char *text = arena_printf(&m->arena, "%.*s %.*s", SPAN_ARG(left), SPAN_ARG(right));
        if (!text) return no_memory(err);
        list[i] = span_str(text);
    }
    m->v.merges = list;
    m->v.merge_count = n;
    return 0;
}

/* SentencePiece's files have a score for each token, by which its merges are ranked: the first merge that makes a token gives its. */
static int take_scores(struct vocabulary_made *m, struct error *err) {
    const struct json *merges = json_get(json_get(m->root, "model"), "merges");
    size_t n = json_size(merges);
    float *scores = arena_calloc(&m->arena, m->v.count, sizeof *scores);
    struct buf text;
    struct span left, right;
    int r = scores ? 0 : no_memory(err);
    buf_init(&text, 1 << 16);
    for (size_t i = 0; !r && i < m->v.count; i++) scores[i] = m->v.types[i] == VOCABULARY_NORMAL ? -1e7f : 0;
    for (size_t i = 0; !r && i < n; i++) {
        if (!halves(json_at(merges, i), &left, &right)) r = error_set(err, E_INVALID, "merge %zu of the tokenizer is none", i);
        buf_clear(&text);
        (void)buf_append_span(&text, left);
        (void)buf_append_span(&text, right);
        uint32_t id = id_of(m, buf_span(&text));
        if (id != TOKEN_NONE && scores[id] <= -1e7f) scores[id] = -(float)i;
    }
    buf_fini(&text);
    m->v.scores = scores;
    return r;
}

/* ---- whether it is the same ---- */

static const char *const TEXTS[] = {
    "The quick brown fox doesn't jump; it's 12,345.67 miles — isn't it?", " leading, trailing  and   runs of spaces ", "def f(x):\n    return {\"a\": [1, 22, 333, 4444]}  # done\n\n\n\tif x: pass\r\n",
    "Übergrößen naïve café Ñandú Ça va? Καλημέρα, привет мир", "東京は日本の首都です。你好，世界！ 안녕하세요", "emoji 🙂🎉 and 👩‍👩‍👧 e\u0301 combined", "https://example.org/a_b?c=%20d&e=f#g user@example.com $5.00 50% C++ <b>x</b>",
    "ALLCAPS CamelCase snake_case I'LL we've 2nd 3RD x86_64 0xFF", "", "\n", "a"};

static int same_ids(const struct tokenizer *a, const struct tokenizer *b, struct span text, unsigned flags, bool *same, struct error *err) {
    struct tokens x = {0}, y = {0};
    int r = tokenizer_encode(a, text, flags, &x, err);
    if (!r) r = tokenizer_encode(b, text, flags, &y, err);
    if (!r) *same &= x.len == y.len && (x.len == 0 || memcmp(x.ids, y.ids, x.len * sizeof x.ids[0]) == 0);
    tokens_fini(&x);
    tokens_fini(&y);
    return r;
}

static int same_pair(const struct tokenizer *a, const struct tokenizer *b, bool *same, struct error *err) {
    struct tokens x = {0}, y = {0};
    uint8_t *x_types = NULL, *y_types = NULL;
    int r = tokenizer_encode_pair(a, SPAN("What is the capital of France?"), SPAN("Paris is."), TOKENIZER_ADD_SPECIAL, 0, &x, &x_types, err);
    if (!r) r = tokenizer_encode_pair(b, SPAN("What is the capital of France?"), SPAN("Paris is."), TOKENIZER_ADD_SPECIAL, 0, &y, &y_types, err);
    if (!r) *same &= x.len == y.len && (x.len == 0 || (memcmp(x.ids, y.ids, x.len * sizeof x.ids[0]) == 0 && memcmp(x_types, y_types, x.len) == 0));
    tokens_fini(&x);
    tokens_fini(&y);
    mem_free(x_types);
    mem_free(y_types);
    return r;
}

static int check(const struct tokenizer *t, const struct vocabulary_made *m, bool pairs, struct error *err) {
    struct tokenizer *again = NULL;
    bool same = true;
    int r = tokenizer_from_vocabulary(&m->v, &again, err);
    for (size_t i = 0; !r && i < sizeof TEXTS / sizeof *TEXTS; i++) {
        r = same_ids(t, again, span_str(TEXTS[i]), 0, &same, err);
        if (!r) r = same_ids(t, again, span_str(TEXTS[i]), TOKENIZER_ADD_SPECIAL, &same, err);
    }
    const struct json *added = json_get(m->root, "added_tokens");
    for (size_t i = 0; !r && i < json_size(added); i++) r = same_ids(t, again, json_string(json_get(json_at(added, i), "content")), 0, &same, err);
    if (!r && pairs) r = same_pair(t, again, &same, err);
    tokenizer_free(again);
    if (!r && !same) r = error_set(err, E_UNSUPPORTED, "its tokenizer cannot be said in a GGUF file's metadata: what was read back gave other ids");
    return r;
}

/* What stands around a text: bos and eos. Encoders have theirs in the post-processor alone. */
static int find_ends(const struct tokenizer *t, struct vocabulary_made *m, bool encoder, struct error *err) {
    struct tokens bare = {0}, ids = {0}, pair = {0};
    int r = tokenizer_encode(t, SPAN("a"), 0, &bare, err);
    if (!r) r = tokenizer_encode(t, SPAN("a"), TOKENIZER_ADD_SPECIAL, &ids, err);
    if (!r && encoder) r = tokenizer_encode_pair(t, SPAN("a"), SPAN("a"), TOKENIZER_ADD_SPECIAL, 0, &pair, NULL, err);
    m->v.bos = tokenizer_bos(t);
    m->v.eos = tokenizer_eos(t);
    m->v.pad = tokenizer_pad(t);
    if (!r && encoder) {
        if (ids.len > 0 && (bare.len == 0 || ids.ids[0] != bare.ids[0])) m->v.bos = ids.ids[0];
        m->v.add_sep = pair.len > 2 * bare.len + 3; /* RoBERTa sets two between the texts of a pair */
        if (ids.len > 1 && (bare.len == 0 || ids.ids[ids.len - 1] != bare.ids[bare.len - 1])) m->v.sep = m->v.eos = ids.ids[ids.len - 1];
    }
    m->v.add_bos = ids.len > 0 && ids.ids[0] == m->v.bos;
    m->v.add_eos = ids.len > 0 && ids.ids[ids.len - 1] == m->v.eos;
    tokens_fini(&bare);
    tokens_fini(&ids);
    tokens_fini(&pair);
    return r;
}

static void find_mask(struct vocabulary_made *m) {
    for (uint32_t i = 0; i < m->v.count; i++)
        if (m->v.types[i] == VOCABULARY_CONTROL && (span_eq_str(m->v.tokens[i], "[MASK]") || span_eq_str(m->v.tokens[i], "<mask>"))) m->v.mask = i;
}

/* The parts of a tokenizer.json that say how words are cut and joined, as text. */
static void stages_of(const struct json *root, struct buf *out) {
    (void)json_write(out, json_get(root, "normalizer"));
    (void)json_write(out, json_get(root, "pre_tokenizer"));
}

static int say_bpe(struct vocabulary_made *m, uint32_t count, struct error *err) {
    const struct json *model = json_get(m->root, "model");
    bool fallback = json_bool(json_get(model, "byte_fallback"), false);
    struct span unk = json_string(json_get(model, "unk_token"));
    struct buf stages;
    m->v.model = fallback ? SPAN("llama") : SPAN("gpt2");
    int r = take_tokens(m, count, fallback, err);
    if (!r) r = fallback ? take_scores(m, err) : take_merges(m, err);
    if (!r && !fallback) r = find_pre(m->root, &m->v, err);
    if (r) return r;
    m->v.unk = unk.len ? id_of(m, unk) : TOKEN_NONE;
    /* where a text is given a space in front: by the normalizer, or by Metaspace */
    buf_init(&stages, PRE_MAX);
    stages_of(m->root, &stages);
    struct span s = buf_span(&stages);
    if (fallback) m->v.add_space_prefix = span_find(s, SPAN("\"Prepend\"")) >= 0 || (span_find(s, SPAN("\"Metaspace\"")) >= 0 && span_find(s, SPAN("\"never\"")) < 0);
    buf_fini(&stages);
    return 0;
}

static int say_wordpiece(struct vocabulary_made *m, uint32_t count, struct error *err) {
    const struct json *model = json_get(m->root, "model"), *n = json_get(m->root, "normalizer");
    m->v.model = SPAN("bert");
    int r = take_tokens(m, count, false, err);
    if (!r) m->v.unk = id_of(m, json_string(json_get(model, "unk_token")));
    if (!r) r = mark_words(m, err);
    m->v.lowercase = json_bool(json_get(n, "lowercase"), false);
    if (!json_is_null(json_get(n, "strip_accents"))) m->v.strip_accents = json_bool(json_get(n, "strip_accents"), false);
    return r;
}

static int say_unigram(struct vocabulary_made *m, uint32_t count, struct error *err) {
    struct buf stages;
    m->v.model = SPAN("t5");
    int r = take_pieces(m, count, err);
    if (!r) r = take_charsmap(m, err);
    buf_init(&stages, PRE_MAX);
    (void)json_write(&stages, json_get(m->root, "pre_tokenizer"));
    m->v.add_space_prefix = span_find(buf_span(&stages), SPAN("\"never\"")) < 0;
    buf_fini(&stages);
    return r;
}

int vocabulary_from_tokenizer(const struct tokenizer *t, uint32_t count, bool encoder, struct vocabulary_made *m, struct error *err) {
    struct buf text;
    *m = (struct vocabulary_made){.root = NULL};
    vocabulary_init(&m->v);
    arena_init(&m->arena, ARENA_MAX);
    buf_init(&text, TEXT_MAX);
    int r = tokenizer_write(t, &text) ? no_memory(err) : json_parse(buf_span(&text), &m->root, err);
    buf_fini(&text);
    struct span kind = json_string(json_get(json_get(m->root, "model"), "type"));
    bool unigram = span_eq_str(kind, "Unigram");
    if (r) return r;
    if (span_eq_str(kind, "BPE")) r = say_bpe(m, count, err);
    else if (span_eq_str(kind, "WordPiece")) r = say_wordpiece(m, count, err);
    else if (unigram) r = say_unigram(m, count, err);
    else r = error_set(err, E_UNSUPPORTED, "a tokenizer of kind %.*s is not written to GGUF", SPAN_ARG(span_sub(kind, 0, 40)));
    if (!r) r = find_ends(t, m, encoder, err);
    if (r) return r;
    if (encoder) find_mask(m);
    if (unigram) m->v.remove_extra_whitespaces = 1; /* what is read back shows which it is */
    r = check(t, m, encoder, err);
    if (r == E_UNSUPPORTED && unigram) {
        m->v.remove_extra_whitespaces = 0;
        r = check(t, m, encoder, err);
    }
    return r;
}

void vocabulary_made_fini(struct vocabulary_made *m) {
    arena_fini(&m->arena);
    json_free(m->root);
    *m = (struct vocabulary_made){.root = NULL};
}
