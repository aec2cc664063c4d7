/* Tokenizers of every kind (data/kinds.jsonl, which data/make_kinds.py had Hugging Face's tokenizers compute): ids, pairs, text back, whole and in a stream; what is
 * written reads back as the same; offsets are in order and lead back; and models against their definitions on random texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/random.h"
#include "base/sha256.h"
#include "tokenizer/internal.h"

static struct buf file;

static int setup(void **state) {
    (void)state;
    struct error err;
    buf_init(&file, 16 << 20);
    int r = file_read(GENLOOP_TEST_DATA "/kinds.jsonl", &file, &err);
    if (r) print_error("%s\n", err.message);
    return r;
}
static int teardown(void **state) {
    (void)state;
    buf_fini(&file);
    return 0;
}

static bool same_ids(const struct tokens *ids, const struct json *want) {
    if (ids->len != json_size(want)) return false;
    for (size_t i = 0; i < ids->len; i++)
        if (json_int(json_at(want, i), -1) != (int64_t)ids->ids[i]) return false;
    return true;
}

static void check_decode(const char *name, const struct tokenizer *t, const struct json *ids, bool skip, const struct json *want, struct span text) {
    uint32_t list[4096];
    size_t n = json_size(ids);
    struct buf whole, streamed;
    struct detokenizer d;
    if (json_is_null(want)) return;
    assert_true(n <= 4096);
    buf_init(&whole, 1 << 20);
    buf_init(&streamed, 1 << 20);
    for (size_t i = 0; i < n; i++) list[i] = (uint32_t)json_int(json_at(ids, i), 0);
    assert_int_equal(tokenizer_decode(t, list, n, skip, &whole), 0);
    if (!span_eq(buf_span(&whole), json_string(want)))
        fail_msg("%s: %.*s decoded%s is [%s], not [%.*s]", name, SPAN_ARG(text), skip ? " without specials" : "", buf_cstr(&whole), SPAN_ARG(json_string(want)));
    detokenizer_init(&d, t, skip);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(detokenizer_push(&d, list[i], &streamed), 0);
        assert_true(span_is_utf8(buf_span(&streamed)));
    }
    assert_int_equal(detokenizer_finish(&d, &streamed), 0);
    assert_true(span_eq(buf_span(&streamed), buf_span(&whole)));
    detokenizer_fini(&d);
    buf_fini(&whole);
    buf_fini(&streamed);
}

static void check_row(const char *name, const struct tokenizer *t, const struct json *row) {
    struct span text = json_string(json_get(row, "text"));
    const struct json *pair = json_get(row, "pair");
    struct tokens ids = {0};
    struct error err = {0};
    if (pair) {
        uint8_t *types = NULL;
        struct span second = json_string(pair);
        if (!second.data) second = SPAN("");
        assert_int_equal(tokenizer_encode_pair(t, text, second, TOKENIZER_ADD_SPECIAL, 0, &ids, &types, &err), 0);
        bool same = same_ids(&ids, json_get(row, "ids"));
        for (size_t i = 0; same && i < ids.len; i++) same = json_int(json_at(json_get(row, "types"), i), -1) == types[i];
        if (!same) fail_msg("%s: the pair %.*s, %.*s", name, SPAN_ARG(text), SPAN_ARG(second));
        mem_free(types);
        tokens_fini(&ids);
        return;
    }
    for (unsigned special = 0; special < 2; special++) {
        tokens_clear(&ids);
        if (tokenizer_encode(t, text, special ? TOKENIZER_ADD_SPECIAL : 0, &ids, &err)) fail_msg("%s: %.*s: %s", name, SPAN_ARG(text), err.message);
        if (!same_ids(&ids, json_get(row, special ? "ids" : "plain"))) {
            for (size_t i = 0; i < ids.len; i++) print_error("%u ", ids.ids[i]);
            fail_msg("%s: %.*s: other ids%s", name, SPAN_ARG(text), special ? "" : " without specials");
        }
    }
    struct tokens with = {0};
    assert_int_equal(tokenizer_encode(t, text, TOKENIZER_ADD_SPECIAL | TOKENIZER_OFFSETS, &with, &err), 0);
    assert_int_equal(with.len, ids.len);
    for (size_t i = 0; i < with.len; i++) {
        assert_int_equal(with.ids[i], ids.ids[i]);
        if (with.offsets[i].start > with.offsets[i].end || with.offsets[i].end > text.len) fail_msg("%s: %.*s: offsets of id %zu", name, SPAN_ARG(text), i);
    }
    tokens_fini(&with);
    tokens_fini(&ids);
    check_decode(name, t, json_get(row, "plain"), false, json_get(row, "decoded"), text);
    check_decode(name, t, json_get(row, "ids"), true, json_get(row, "skipped"), text);
}

static void test_kinds(void **state) {
    (void)state;
    struct span rest = buf_span(&file), line;
    unsigned kinds = 0;
    while (span_cut(&rest, '\n', &line)) {
        struct json *v = NULL;
        struct tokenizer *t = NULL, *again = NULL;
        struct error err = {0};
        struct buf text, written, rewritten;
        char name[128];
        buf_init(&text, 1 << 22);
        buf_init(&written, 1 << 22);
        buf_init(&rewritten, 1 << 22);
        if (json_parse(line, &v, &err)) fail_msg("%s", err.message);
        span_copy(name, sizeof name, json_string(json_get(v, "name")));
        assert_int_equal(json_write(&text, json_get(v, "tokenizer")), 0);
        if (tokenizer_parse(buf_span(&text), &t, &err)) fail_msg("%s: %s", name, err.message);
        const struct json *rows = json_get(v, "rows");
        for (size_t i = 0; i < json_size(rows); i++) check_row(name, t, json_at(rows, i));
        assert_int_equal(tokenizer_write(t, &written), 0);
        if (tokenizer_parse(buf_span(&written), &again, &err)) fail_msg("%s: what was written: %s", name, err.message);
        for (size_t i = 0; i < json_size(rows); i++) check_row(name, again, json_at(rows, i));
        assert_int_equal(tokenizer_write(again, &rewritten), 0);
        assert_true(span_eq(buf_span(&written), buf_span(&rewritten)));
        tokenizer_free(t);
        tokenizer_free(again);
        json_free(v);
        buf_fini(&text);
        buf_fini(&written);
        buf_fini(&rewritten);
        kinds++;
    }
    assert_true(kinds > 70);
}

/* The tokenizer of a line by its name. */
static struct tokenizer *kind(const char *name) {
    struct span rest = buf_span(&file), line;
    while (span_cut(&rest, '\n', &line)) {
        struct json *v = NULL;
        struct tokenizer *t = NULL;
        assert_int_equal(json_parse(line, &v, NULL), 0);
        if (span_eq_str(json_string(json_get(v, "name")), name)) {
            struct buf text;
            buf_init(&text, 1 << 22);
            assert_int_equal(json_write(&text, json_get(v, "tokenizer")), 0);
            assert_int_equal(tokenizer_parse(buf_span(&text), &t, NULL), 0);
            buf_fini(&text);
        }
        json_free(v);
        if (t) return t;
    }
    fail_msg("no kind %s", name);
    return NULL;
}

/* Unigram by trying every segmentation of a short word: the best score is reached. */
static double best_score(const struct tokenizer *t, struct span word, size_t at) {
    if (at == word.len) return 0;
    double best = -1e300;
    for (size_t n = 1; at + n <= word.len; n++) {
        uint32_t id = tokenizer_find_model(t, span_sub(word, at, n));
        if (id == TOKEN_NONE && n > 1) continue;
        double here = (id == TOKEN_NONE ? t->unigram.unk_score : t->unigram.scores[id]) + best_score(t, word, at + n);
        if (here > best) best = here;
    }
    return best;
}

static void test_unigram(void **state) {
    (void)state;
    struct tokenizer *t = kind("Unigram");
    struct random r;
    random_seed(&r, 21);
    for (int i = 0; i < 500; i++) {
        char word[14];
        size_t n = 1 + (size_t)random_below(&r, 13);
        for (size_t k = 0; k < n; k++) word[k] = "abchelo#wdr"[random_below(&r, 11)];
        struct tokens ids = {0};
        struct scratch *s = model_scratch_new(1);
        assert_int_equal(model_encode(t, s, span_of(word, n), &ids, true, 0, NULL), 0);
        double score = 0;
        size_t at = 0;
        for (size_t k = 0; k < ids.len; k++) { /* neighbours that are unknown are one token: each character of it counts */
            size_t len = ids.offsets[k].end - ids.offsets[k].start;
            assert_int_equal(ids.offsets[k].start, at);
            at = ids.offsets[k].end;
            score += ids.ids[k] == t->unk ? t->unigram.unk_score * (double)len : t->unigram.scores[ids.ids[k]];
        }
        assert_int_equal(at, n);
        double want = best_score(t, span_of(word, n), 0);
        if (score < want - 1e-9 || score > want + 1e-9) fail_msg("%.*s: %f, not %f", (int)n, word, score, want);
        tokens_fini(&ids);
        model_scratch_free(s);
    }
    tokenizer_free(t);
}

/* WordPiece as its definition says: the longest token at each place, by looking every length up. */
static void test_wordpiece(void **state) {
    (void)state;
    struct tokenizer *t = kind("WordPiece cleanup True");
    struct random r;
    random_seed(&r, 22);
    for (int i = 0; i < 1000; i++) {
        char word[40], piece[64];
        uint32_t want[40];
        size_t n = 1 + (size_t)random_below(&r, 33), count = 0;
        for (size_t k = 0; k < n; k++) word[k] = "thequickbrownfox$"[random_below(&r, i % 4 ? 16 : 17)];
        bool known = n <= 30;
        for (size_t at = 0; known && at < n;) {
            size_t len = n - at;
            uint32_t id = TOKEN_NONE;
            for (; len > 0 && id == TOKEN_NONE; len--) {
                (void)snprintf(piece, sizeof piece, "%s%.*s", at ? "##" : "", (int)len, word + at);
                id = tokenizer_find_model(t, span_str(piece));
            }
            known = id != TOKEN_NONE;
            want[count++] = id;
            at += len + 1;
        }
        if (!known) {
            want[0] = t->unk;
            count = 1;
        }
        struct tokens ids = {0};
        assert_int_equal(wordpiece_encode_word(t, span_of(word, n), &ids, false, 0, NULL), 0);
        if (ids.len != count || memcmp(ids.ids, want, count * sizeof want[0]) != 0) fail_msg("%.*s", (int)n, word);
        tokens_fini(&ids);
    }
    tokenizer_free(t);
}

/* Words that are told apart give what the text as one word gives. */
static void test_cut(void **state) {
    (void)state;
    struct tokenizer *t = kind("SentencePiece BPE, legacy");
    struct random r;
    random_seed(&r, 23);
    assert_true(t->bpe.cut);
    for (int i = 0; i < 500; i++) {
        char text[200];
        size_t n = 1 + (size_t)random_below(&r, 199);
        for (size_t k = 0; k < n; k++) text[k] = "the hello world fox ab abc  "[random_below(&r, 28)];
        struct tokens a = {0}, b = {0};
        t->bpe.cut = true;
        assert_int_equal(tokenizer_encode(t, span_of(text, n), 0, &a, NULL), 0);
        t->bpe.cut = false;
        assert_int_equal(tokenizer_encode(t, span_of(text, n), 0, &b, NULL), 0);
        assert_int_equal(a.len, b.len);
        assert_memory_equal(a.ids, b.ids, a.len * sizeof a.ids[0]);
        tokens_fini(&a);
        tokens_fini(&b);
    }
    tokenizer_free(t);
}

/* The longer text of a pair is cut first. */
static void test_pair_max(void **state) {
    (void)state;
    struct tokenizer *t = kind("WordPiece cleanup True");
    static const struct {
        size_t first, second, max, want_first, want_second;
    } cases[] = {{5, 3, 0, 5, 3}, {5, 3, 11, 5, 3}, {5, 3, 10, 4, 3}, {9, 3, 9, 3, 3}, {9, 3, 8, 3, 2}, {2, 9, 8, 2, 3}, {9, 9, 10, 3, 4}, {4, 0, 5, 2, 0}, {1, 1, 3, 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[2][32];
        for (int k = 0; k < 2; k++) {
            size_t n = k ? cases[i].second : cases[i].first;
            for (size_t j = 0; j < n; j++) memcpy(text[k] + 2 * j, "a ", 2);
            text[k][2 * n] = 0;
        }
        struct tokens ids = {0};
        uint8_t *types = NULL;
        size_t ones = 0;
        assert_int_equal(tokenizer_encode_pair(t, span_str(text[0]), span_str(text[1]), TOKENIZER_ADD_SPECIAL, cases[i].max, &ids, &types, NULL), 0);
        for (size_t k = 0; k < ids.len; k++) ones += types[k];
        if (ids.len != cases[i].want_first + cases[i].want_second + 3 || ones != cases[i].want_second + 1) fail_msg("case %zu: %zu ids, %zu of the second", i, ids.len, ones);
        mem_free(types);
        tokens_fini(&ids);
    }
    struct tokens ids = {0};
    assert_int_equal(tokenizer_encode_pair(t, SPAN("a"), SPAN("b"), TOKENIZER_ADD_SPECIAL, 2, &ids, NULL, NULL), E_INVALID);
    assert_int_equal(tokenizer_encode_pair(t, SPAN("a a a"), (struct span){NULL, 0}, TOKENIZER_ADD_SPECIAL, 4, &ids, NULL, NULL), 0);
    assert_int_equal(ids.len, 4);
    tokens_fini(&ids);
    tokenizer_free(t);
}

/* What a token shows in a text. */
static void test_shown(void **state) {
    (void)state;
    struct tokenizer *t = kind("SentencePiece BPE, legacy"), *w = kind("WordPiece cleanup True");
    assert_true(span_eq_str(tokenizer_token_bytes(t, tokenizer_find_model(t, SPAN("\xE2\x96\x81the"))), " the"));
    assert_true(span_eq_str(tokenizer_token_bytes(t, t->byte_ids[0xE4]), "\xE4"));
    assert_true(span_eq_str(tokenizer_token_bytes(w, tokenizer_find_model(w, SPAN("quick"))), " quick"));
    assert_true(span_eq_str(tokenizer_token_bytes(w, tokenizer_find_model(w, SPAN("##u"))), "u"));
    tokenizer_free(t);
    tokenizer_free(w);
}

/* Texts that would take a quadratic time take none to speak of (a minute each, if they did), in every model. */
static void test_long(void **state) {
    (void)state;
    static const char *const names[] = {"Unigram, uncut", "SentencePiece BPE, Metaspace first", "WordPiece cleanup True", "Unigram with bytes", "normalizer NFKC", "pre-tokenizer Whitespace"};
    static const char *const units[] = {"a", "ab", " ", "\xE2\x96\x81", "\xCC\x81\xCC\xA3", "\xF0\x9F\x98\x80", "a b", "\n"};
    char *text = mem_alloc(1 << 18);
    assert_non_null(text);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct tokenizer *t = kind(names[i]);
        for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
            size_t n = 0, len = strlen(units[u]);
            while (n + len <= 1 << 18) {
                memcpy(text + n, units[u], len);
                n += len;
            }
            struct tokens ids = {0};
            assert_int_equal(tokenizer_encode(t, span_of(text, n), 0, &ids, NULL), 0);
            tokens_fini(&ids);
        }
        tokenizer_free(t);
    }
    mem_free(text);
}

/* Every allocation fails once, in kinds that allocate each in its own way. */
static void test_no_memory(void **state) {
    (void)state;
    static const char *const names[] = {"WordPiece cleanup True", "SentencePiece BPE, legacy", "Unigram with bytes", "pre-tokenizer Split by a regex Isolated", "decoders", "normalizer NFKC"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct tokenizer *t = kind(names[i]);
        struct buf text;
        buf_init(&text, 1 << 22);
        assert_int_equal(tokenizer_write(t, &text), 0);
        tokenizer_free(t);
        for (uint64_t n = 1;; n++) {
            struct tokenizer *again = NULL;
            struct tokens ids = {0};
            struct buf back;
            uint8_t *types = NULL;
            buf_init(&back, 1 << 16);
            alloc_fail_at(n);
            int r = tokenizer_parse(buf_span(&text), &again, NULL);
            if (!r) r = tokenizer_encode(again, SPAN("hello w\xC3\xB6rld a\xCC\x81 \xF0\x9F\x98\x80 the fox"), TOKENIZER_OFFSETS, &ids, NULL);
            if (!r) r = tokenizer_decode(again, ids.ids, ids.len, false, &back);
            if (!r) r = tokenizer_encode_pair(again, SPAN("a b"), SPAN("the fox"), TOKENIZER_ADD_SPECIAL | TOKENIZER_OFFSETS, 0, &ids, &types, NULL);
            uint64_t asked = alloc_count();
            alloc_fail_at(0);
            mem_free(types);
            tokens_fini(&ids);
            buf_fini(&back);
            tokenizer_free(again);
            if (asked < n) {
                assert_int_equal(r, 0);
                break;
            }
            assert_int_not_equal(r, 0);
        }
        buf_fini(&text);
    }
}

/* data/unigram.jsonl: a vocabulary, and what the reference implementation makes of random strings with it (data/make_unigram.py). */
static void test_unigram_reference(void **state) {
    (void)state;
    struct buf text;
    struct error err = {0};
    struct tokenizer *t = NULL;
    struct tokens ids = {0};
    struct span rest, line;
    size_t count = 0;
    buf_init(&text, 4 << 20);
    if (file_read(GENLOOP_TEST_DATA "/unigram.jsonl", &text, &err)) fail_msg("%s", err.message);
    rest = buf_span(&text);
    assert_true(span_cut(&rest, '\n', &line));
    if (tokenizer_parse(line, &t, &err)) fail_msg("%s", err.message);
    while (span_cut(&rest, '\n', &line)) {
        struct json *row = NULL;
        assert_int_equal(json_parse(line, &row, NULL), 0);
        tokens_clear(&ids);
        if (tokenizer_encode(t, json_string(json_get(row, "text")), 0, &ids, &err)) fail_msg("%.*s: %s", SPAN_ARG(line), err.message);
        if (!same_ids(&ids, json_get(row, "ids"))) fail_msg("other ids for %.*s", SPAN_ARG(line));
        json_free(row);
        count++;
    }
    assert_int_equal(count, 400);
    tokens_fini(&ids);
    tokenizer_free(t);
    buf_fini(&text);
}

/* Every code point between two letters, through the normalizers that go by categories: the digests of what tokenizers 0.23.3 makes of them. */
static void test_characters(void **state) {
    (void)state;
    static const struct {
        const char *name, *json, *digest;
    } cases[] = {
        {"BERT's accents", "{\"type\":\"BertNormalizer\",\"clean_text\":false,\"handle_chinese_chars\":false,\"strip_accents\":true,\"lowercase\":false}",
         "17667b14981416f2faf035803542306221b6c6c91d26f15e7d2073b4c936ad45"},
        {"BERT, uncased", "{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,\"strip_accents\":null,\"lowercase\":true}",
         "4d5411cddf7aa7c56a9d819eebd755e3aa8949f7d3ac57278ed2e1e5368f7cd4"},
        {"StripAccents", "{\"type\":\"StripAccents\"}", "5fa1901bb34e83683ffba4ed88168faad80579304030c824d52c020dec11cb99"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf text, made;
        struct tokenizer *t = NULL;
        struct tokens ids = {0};
        struct error err = {0};
        char hex[65];
        buf_init(&text, 1 << 20);
        buf_init(&made, 64 << 20);
        buf_printf(&text, "{\"normalizer\":%s,\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"merges\":[],\"vocab\":{", cases[i].json);
        for (int b = 0; b < 256; b++) buf_printf(&text, "%s\"<0x%02X>\":%d", b ? "," : "", (unsigned)b, b); /* an id is a byte */
        buf_printf(&text, "}}}");
        if (tokenizer_parse(buf_span(&text), &t, &err)) fail_msg("%s: %s", cases[i].name, err.message);
        buf_clear(&text);
        for (uint32_t c = 0; c < 0x110000; c++) {
            char bytes[4];
            size_t n = utf8_encode(c, bytes);
            if (n) {
                buf_append_char(&text, 'x');
                buf_append(&text, bytes, n);
                buf_append_char(&text, 'y');
            }
            if (c % 512 != 511) continue;
            tokens_clear(&ids);
            if (tokenizer_encode(t, buf_span(&text), 0, &ids, &err)) fail_msg("%s: %s", cases[i].name, err.message);
            for (size_t k = 0; k < ids.len; k++) buf_append_char(&made, (char)ids.ids[k]);
            buf_clear(&text);
        }
        assert_false(text.failed || made.failed);
        sha256_hex(buf_span(&made), hex);
        if (strcmp(hex, cases[i].digest)) fail_msg("%s: %s, not %s", cases[i].name, hex, cases[i].digest);
        tokens_fini(&ids);
        tokenizer_free(t);
        buf_fini(&text);
        buf_fini(&made);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),    cmocka_unit_test(test_unigram), cmocka_unit_test(test_wordpiece), cmocka_unit_test(test_cut),
        cmocka_unit_test(test_pair_max), cmocka_unit_test(test_shown),   cmocka_unit_test(test_long),      cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_characters), cmocka_unit_test(test_unigram_reference),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
