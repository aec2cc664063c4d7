#include "tokenizer/vocabulary_write.h"

#include <stdio.h>

#include "base/alloc.h"

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

static int check(const struct tokenizer *t, const struct vocabulary_made *m, struct error *err) {
    struct tokenizer *again = NULL;
    bool same = true;
    int r = tokenizer_from_vocabulary(&m->v, &again, err);
    for (size_t i = 0; !r && i < sizeof TEXTS / sizeof *TEXTS; i++) {
        r = same_ids(t, again, span_str(TEXTS[i]), 0, &same, err);
        if (!r) r = same_ids(t, again, span_str(TEXTS[i]), TOKENIZER_ADD_SPECIAL, &same, err);
    }
    const struct json *added = json_get(m->root, "added_tokens");
    for (size_t i = 0; !r && i < json_size(added); i++) r = same_ids(t, again, json_string(json_get(json_at(added, i), "content")), 0, &same, err);
    tokenizer_free(again);
    if (!r && !same) r = error_set(err, E_UNSUPPORTED, "its tokenizer cannot be said in a GGUF file's metadata: what was read back gave other ids");
    return r;
}

int vocabulary_from_tokenizer(const struct tokenizer *t, uint32_t count, struct vocabulary_made *m, struct error *err) {
    struct buf text;
    struct tokens ids = {0};
    *m = (struct vocabulary_made){.root = NULL};
    vocabulary_init(&m->v);
    arena_init(&m->arena, ARENA_MAX);
    buf_init(&text, TEXT_MAX);
    int r = tokenizer_write(t, &text) ? no_memory(err) : json_parse(buf_span(&text), &m->root, err);
    buf_fini(&text);
    const struct json *model = json_get(m->root, "model");
    if (!r && !span_eq_str(json_string(json_get(model, "type")), "BPE")) r = error_set(err, E_UNSUPPORTED, "a tokenizer of kind %.*s is not written to GGUF", SPAN_ARG(span_sub(json_string(json_get(model, "type")), 0, 40)));
    bool fallback = json_bool(json_get(model, "byte_fallback"), false);
    m->v.model = fallback ? SPAN("llama") : SPAN("gpt2");
    if (!r) r = take_tokens(m, count, fallback, err);
    if (!r) r = fallback ? take_scores(m, err) : take_merges(m, err);
    if (!r && !fallback) r = find_pre(m->root, &m->v, err);
    if (!r) r = tokenizer_encode(t, SPAN("a"), TOKENIZER_ADD_SPECIAL, &ids, err);
    if (!r) {
        m->v.bos = tokenizer_bos(t);
        m->v.eos = tokenizer_eos(t);
        m->v.pad = tokenizer_pad(t);
        struct span unk = json_string(json_get(model, "unk_token"));
        m->v.unk = unk.len ? id_of(m, unk) : TOKEN_NONE;
        m->v.add_bos = ids.len > 0 && ids.ids[0] == m->v.bos;
        m->v.add_eos = ids.len > 0 && ids.ids[ids.len - 1] == m->v.eos;
        /* where a text is given a space in front: by the normalizer, or by Metaspace */
        struct buf stages;
        buf_init(&stages, PRE_MAX);
        (void)json_write(&stages, json_get(m->root, "normalizer"));
        (void)json_write(&stages, json_get(m->root, "pre_tokenizer"));
        struct span s = buf_span(&stages);
        if (fallback) m->v.add_space_prefix = span_find(s, SPAN("\"Prepend\"")) >= 0 || (span_find(s, SPAN("\"Metaspace\"")) >= 0 && span_find(s, SPAN("\"never\"")) < 0);
        buf_fini(&stages);
        r = check(t, m, err);
    }
    tokens_fini(&ids);
    return r;
}

void vocabulary_made_fini(struct vocabulary_made *m) {
    arena_fini(&m->arena);
    json_free(m->root);
    *m = (struct vocabulary_made){.root = NULL};
}
