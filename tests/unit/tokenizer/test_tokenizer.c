/* The stages of a byte-level tokenizer: splitting, merging (against a naive model), special tokens, text back, files in and out, hostile files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "tokenizer/internal.h"
#include "tokenizer/train.h"

static const char corpus[] =
    "The quick brown fox jumps over the lazy dog. The dog's name isn't known; they'll ask 12 or 345 times.\n\n"
    "    for (int i = 0; i < 100; i++) { sum += values[i]; }\n\tzürich, naïve café, 北京市 and Привет мир! 😀😀\n"
    "the theory of the thing that they think is there then; other mothers bother brothers. 2024-11-24 3.14159\n";

/* What a stage's parser keeps things in. */
struct kept {
    struct arena arena;
    struct regex *regexes;
    struct keep keep;
};
static struct kept keep_init(struct kept *k) {
    struct kept made = {.keep = {&k->arena, &k->regexes}};
    arena_init(&made.arena, 1 << 20);
    return made;
}
static void keep_fini(struct kept *k) {
    token_regex_free_list(k->regexes);
    arena_fini(&k->arena);
}

static struct tokenizer *trained(uint32_t vocab) {
    struct tokenizer_train_options options = {.vocab_size = vocab};
    struct tokenizer_trainer *tr = NULL;
    struct tokenizer *t = NULL;
    assert_int_equal(tokenizer_trainer_new(&tr, &options, NULL), 0);
    for (int i = 0; i < 3; i++) assert_int_equal(tokenizer_trainer_feed(tr, span_str(corpus), NULL), 0);
    assert_int_equal(tokenizer_trainer_finish(tr, &t, NULL, NULL, NULL), 0);
    tokenizer_trainer_free(tr);
    return t;
}

/* ---- pre-tokenizers: pieces as the reference implementation gives them, parted by | ---- */
#define GPT2 "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
#define SPLIT(regex) "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"},\"behavior\":\"Isolated\",\"invert\":false}," \
                     "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}"
#define TAIL "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define HEAD "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|"
#define LLAMA3 SPLIT(HEAD "\\\\p{N}{1,3}" TAIL)
#define QWEN2 SPLIT(HEAD "\\\\p{N}" TAIL)
#define SMOLLM "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true}," GPT2 "]}"

static void test_split(void **state) {
    (void)state;
    static const struct {
        const char *pre, *text, *pieces;
    } cases[] = {
        {GPT2, "Hello world", "Hello| world"},
        {GPT2, "it's they'll we're I'd I'm you've can't o'clock", "it|'s| they|'ll| we|'re| I|'d| I|'m| you|'ve| can|'t| o|'|clock"},
        {GPT2, "IT'S", "IT|'|S"},
        {GPT2, "a  b   c\n", "a| | b|  | c|\n"},
        {GPT2, "a\n\nb \n c", "a|\n|\n|b| \n| c"},
        {GPT2, "x=1234+y;", "x|=|1234|+|y|;"},
        {GPT2, "trailing   ", "trailing|   "},
        {GPT2, " !?a1", " !?|a|1"},
        {GPT2, "na\xC3\xAFve \xE5\x8C\x97\xE4\xBA\xAC\xF0\x9F\x98\x80", "na\xC3\xAFve| \xE5\x8C\x97\xE4\xBA\xAC|\xF0\x9F\x98\x80"},
        {GPT2, "a\xC2\xA0 b", "a|\xC2\xA0| b"},
        {GPT2, "\xC2\xBD\xE2\x85\xA7", "\xC2\xBD\xE2\x85\xA7"},
        {LLAMA3, "Hello world", "Hello| world"},
        {LLAMA3, "IT'S it's 'LLa", "IT|'S| it|'s| '|LLa"},
        {LLAMA3, "x=12345;", "x|=|123|45|;"},
        {LLAMA3, "(foo)\n\n  bar", "(foo|)\n\n| | bar"},
        {LLAMA3, "a \n \n  b", "a| \n \n| | b"},
        {LLAMA3, "\tx\t\ty", "\tx|\t|\ty"},
        {LLAMA3, "\n\n\n", "\n\n\n"},
        {LLAMA3, "a'\xC5\xBF", "a|'\xC5\xBF"},
        {QWEN2, "x=12345 6", "x|=|1|2|3|4|5| |6"},
        {QWEN2, "...\r\nend", "...\r\n|end"},
        {SMOLLM, "a 12b", "a| |1|2|b"},
        {SMOLLM, "v1.2 3", "v|1|.|2| |3"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct json *v = NULL;
        struct pretokenizer p;
        struct error err = {0};
        struct kept k = keep_init(&k);
        assert_int_equal(json_parse(span_str(cases[i].pre), &v, &err), 0);
        if (pretokenizer_parse(v, &k.keep, &p, &err)) fail_msg("case %zu: %s", i, err.message);
        json_free(v);
        struct splitter s;
        struct buf got;
        struct span piece;
        buf_init(&got, 4096);
        splitter_init(&s, &p, span_str(cases[i].text), true, true);
        while (splitter_next(&s, &piece, &err) > 0) {
            if (got.len) buf_append_char(&got, '|');
            buf_append_span(&got, piece);
        }
        splitter_fini(&s);
        keep_fini(&k);
        if (!span_eq_str(buf_span(&got), cases[i].pieces)) fail_msg("case %zu: %s gave %s", i, cases[i].text, buf_cstr(&got));
        buf_fini(&got);
    }
}

/* Any text is cut into pieces without a gap by every matcher. */
static void random_text(struct random *r, struct buf *out, size_t characters) {
    static const uint32_t interesting[] = {' ', ' ', ' ', '\n', '\r', '\t', '\'', 's', 'l', 'L', '1', '9', '.', '<', '|', 0x85, 0xA0, 0xE9, 0x301, 0x17F, 0x3000, 0x4E2D, 0x1F600, 0x2028, 0xBD, 0x661};
    buf_clear(out);
    for (size_t i = 0; i < characters; i++) {
        uint32_t c = random_below(r, 3) ? interesting[random_below(r, sizeof interesting / sizeof interesting[0])] : 'a' + (uint32_t)random_below(r, 26);
        char text[4];
        buf_append(out, text, utf8_encode(c, text));
    }
}

static void test_split_covers(void **state) {
    (void)state;
    static const char *const pres[] = {GPT2, LLAMA3, QWEN2, SMOLLM};
    struct random r;
    struct buf text;
    random_seed(&r, 7);
    buf_init(&text, 1 << 16);
    for (size_t k = 0; k < 4; k++) {
        struct json *v = NULL;
        struct pretokenizer p;
        assert_int_equal(json_parse(span_str(pres[k]), &v, NULL), 0);
        struct kept kept = keep_init(&kept);
        assert_int_equal(pretokenizer_parse(v, &kept.keep, &p, NULL), 0);
        json_free(v);
        for (int i = 0; i < 500; i++) {
            random_text(&r, &text, 1 + (size_t)random_below(&r, 60));
            struct splitter s;
            struct span piece;
            size_t at = 0;
            splitter_init(&s, &p, buf_span(&text), true, true);
            while (splitter_next(&s, &piece, NULL) > 0) {
                size_t start = 0, end = piece.len;
                splitter_origin(&s, &start, &end);
                assert_int_equal(start, at);
                assert_true(end > start);
                at = end;
            }
            assert_int_equal(at, text.len);
            splitter_fini(&s);
        }
        keep_fini(&kept);
    }
    buf_fini(&text);
}

static void test_alphabet(void **state) {
    (void)state;
    assert_true(char_is_punctuation('!') && char_is_punctuation(0x3001) && char_is_punctuation(0x2E42));
    assert_false(char_is_punctuation('a') || char_is_punctuation(0x2E43) || char_is_punctuation(0x20AC)); /* since Unicode 9; a symbol */
    bool seen[256] = {false};
    uint32_t last = 0;
    for (unsigned i = 0; i < 256; i++) {
        assert_int_equal(alphabet_to_byte(byte_to_alphabet((uint8_t)i)), (int)i);
        uint32_t c = byte_to_alphabet(alphabet_order[i]);
        assert_false(seen[alphabet_order[i]]);
        seen[alphabet_order[i]] = true;
        assert_true(c > last);
        last = c;
    }
    assert_int_equal(byte_to_alphabet(' '), 0x120);  /* Ġ */
    assert_int_equal(byte_to_alphabet('\n'), 0x10A); /* Ċ */
    assert_int_equal(byte_to_alphabet(0xAD), 0x143);
    assert_int_equal(alphabet_to_byte(0x144), -1);
    assert_int_equal(alphabet_to_byte(' '), -1);
}

/* ---- merging, against the definition ---- */
static size_t naive(const struct tokenizer *t, struct span word, uint32_t *ids) {
    size_t n = 0;
    for (size_t i = 0; i < word.len; i++) ids[n++] = t->bpe.bytes[(uint8_t)word.data[i]];
    for (;;) {
        uint32_t best = UINT32_MAX;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (uint32_t m = 0; m < t->bpe.merge_count && m < best; m++)
                if (t->bpe.merges[m].left == ids[i] && t->bpe.merges[m].right == ids[i + 1]) {
                    best = m;
                    at = i;
                }
        if (best == UINT32_MAX) return n;
        ids[at] = t->bpe.merges[best].result;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

static void test_merging(void **state) {
    (void)state;
    struct tokenizer *t = trained(420);
    struct random r;
    random_seed(&r, 11);
    static const char pieces[] = "thethenotherbrothers   ---- 12";
    for (int i = 0; i < 300; i++) {
        char text[400];
        uint32_t want[400];
        size_t n = 1 + (size_t)random_below(&r, i % 10 == 0 ? 390 : 60); /* both sides of the scan's limit, and of the cache's word */
        for (size_t k = 0; k < n; k++) text[k] = i % 3 ? pieces[random_below(&r, sizeof pieces - 1)] : "ther"[random_below(&r, 4)];
        struct tokens got = {0};
        struct scratch *scratch = model_scratch_new(i % 2 ? 1 << 20 : 1);
        assert_non_null(scratch);
        size_t count = naive(t, span_of(text, n), want);
        for (int again = 0; again < 2; again++) { /* the second time from the cache */
            tokens_clear(&got);
            assert_int_equal(model_encode(t, scratch, span_of(text, n), &got, true, 100, NULL), 0);
            assert_int_equal(got.len, count);
            assert_memory_equal(got.ids, want, count * sizeof want[0]);
            size_t at = 100;
            for (size_t k = 0; k < got.len; k++) {
                assert_int_equal(got.offsets[k].start, at);
                at += tokenizer_token_bytes(t, got.ids[k]).len;
                assert_int_equal(got.offsets[k].end, at);
            }
        }
        model_scratch_free(scratch);
        tokens_fini(&got);
    }
    tokenizer_free(t);
}

/* A megabyte without a border: the time would be minutes if it were quadratic. */
static void test_long_word(void **state) {
    (void)state;
    struct tokenizer *t = trained(400);
    size_t n = 1 << 20;
    char *text = mem_alloc(n);
    struct tokens ids = {0};
    assert_non_null(text);
    memset(text, 'a', n);
    for (size_t i = 0; i < n; i += 3) text[i] = "the"[i % 7 % 3];
    assert_int_equal(tokenizer_encode(t, span_of(text, n), 0, &ids, NULL), 0);
    struct buf back;
    buf_init(&back, 1 << 21);
    assert_int_equal(tokenizer_decode(t, ids.ids, ids.len, false, &back), 0);
    assert_int_equal(back.len, n);
    assert_memory_equal(buf_span(&back).data, text, n);
    buf_fini(&back);
    tokens_fini(&ids);
    mem_free(text);
    tokenizer_free(t);
}

/* ---- round trips ---- */
static void test_round_trip(void **state) {
    (void)state;
    struct tokenizer *t = trained(400);
    struct random r;
    struct buf text, back, streamed;
    random_seed(&r, 3);
    buf_init(&text, 1 << 16);
    buf_init(&back, 1 << 16);
    buf_init(&streamed, 1 << 16);
    for (int i = 0; i < 300; i++) {
        random_text(&r, &text, (size_t)random_below(&r, 80));
        struct tokens ids = {0};
        assert_int_equal(tokenizer_encode(t, buf_span(&text), TOKENIZER_OFFSETS, &ids, NULL), 0);
        buf_clear(&back);
        buf_clear(&streamed);
        assert_int_equal(tokenizer_decode(t, ids.ids, ids.len, false, &back), 0);
        assert_true(span_eq(buf_span(&back), buf_span(&text)));
        struct detokenizer d;
        detokenizer_init(&d, t, false);
        size_t at = 0;
        for (size_t k = 0; k < ids.len; k++) {
            assert_int_equal(ids.offsets[k].start, at);
            at = ids.offsets[k].end;
            assert_int_equal(detokenizer_push(&d, ids.ids[k], &streamed), 0);
            assert_true(span_is_utf8(buf_span(&streamed))); /* never half a character */
        }
        assert_int_equal(at, text.len);
        assert_int_equal(detokenizer_finish(&d, &streamed), 0);
        assert_true(span_eq(buf_span(&streamed), buf_span(&text)));
        detokenizer_fini(&d);
        tokens_fini(&ids);
    }
    buf_fini(&text);
    buf_fini(&back);
    buf_fini(&streamed);
    tokenizer_free(t);
}

/* Bytes that make no character: as Rust's String::from_utf8_lossy. */
static void test_lossy(void **state) {
    (void)state;
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        {"a\xFF" "b", "a\xEF\xBF\xBD" "b"},
        {"\xE4\xB8", "\xEF\xBF\xBD"},
        {"\xE4\xB8" "a", "\xEF\xBF\xBD" "a"},
        {"\xF0\x9F\x98\xF0\x9F\x98\x80", "\xEF\xBF\xBD\xF0\x9F\x98\x80"},
        {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xC0\xAF", "\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xF4\x90\x80\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\x80", "\xEF\xBF\xBD"},
    };
    struct tokenizer *t = trained(259);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t ids[16];
        size_t n = strlen(cases[i].bytes);
        for (size_t k = 0; k < n; k++) ids[k] = t->bpe.bytes[(uint8_t)cases[i].bytes[k]];
        struct buf out;
        buf_init(&out, 64);
        assert_int_equal(tokenizer_decode(t, ids, n, false, &out), 0);
        if (!span_eq_str(buf_span(&out), cases[i].text)) fail_msg("case %zu", i);
        buf_fini(&out);
    }
    tokenizer_free(t);
}

/* ---- special tokens ---- */
static void test_special(void **state) {
    (void)state;
    struct tokenizer *t = trained(400);
    struct span text = SPAN("a<|im_start|>b<|endoftext|><|im_end|");
    struct tokens ids = {0};
    assert_int_equal(tokenizer_encode(t, text, TOKENIZER_OFFSETS, &ids, NULL), 0);
    assert_int_equal(ids.ids[1], 1);
    assert_int_equal(ids.offsets[1].start, 1);
    assert_int_equal(ids.offsets[1].end, 13);
    assert_int_equal(ids.ids[3], 0);
    for (size_t i = 4; i < ids.len; i++) assert_true(ids.ids[i] > 2);
    struct buf out;
    buf_init(&out, 256);
    assert_int_equal(tokenizer_decode(t, ids.ids, ids.len, true, &out), 0);
    assert_true(span_eq_str(buf_span(&out), "ab<|im_end|"));
    tokens_clear(&ids);
    assert_int_equal(tokenizer_encode(t, text, TOKENIZER_NO_SPECIALS, &ids, NULL), 0);
    for (size_t i = 0; i < ids.len; i++) assert_false(tokenizer_is_special(t, ids.ids[i]));
    /* a special token half in a trusted piece and half in another is text */
    const struct tokenizer_piece pieces[] = {{SPAN("<|im_"), true}, {SPAN("start|>"), false}, {SPAN("<|im_end|>"), true}, {SPAN("<|im_end|>"), false}};
    tokens_clear(&ids);
    assert_int_equal(tokenizer_encode_pieces(t, pieces, 4, 0, &ids, NULL), 0);
    unsigned specials = 0;
    for (size_t i = 0; i < ids.len; i++) specials += tokenizer_is_special(t, ids.ids[i]);
    assert_int_equal(specials, 1);
    buf_clear(&out);
    assert_int_equal(tokenizer_decode(t, ids.ids, ids.len, false, &out), 0);
    assert_true(span_eq_str(buf_span(&out), "<|im_start|><|im_end|><|im_end|>"));
    /* half a character from each of two hands is an error */
    const struct tokenizer_piece halves[] = {{SPAN("\xC3"), false}, {SPAN("\xA9"), false}};
    size_t len = ids.len;
    assert_int_equal(tokenizer_encode_pieces(t, halves, 2, 0, &ids, NULL), E_INVALID);
    assert_int_equal(ids.len, len);
    assert_int_equal(tokenizer_find(t, SPAN("<|im_end|>")), 2);
    assert_int_equal(tokenizer_find(t, SPAN("no such token")), TOKEN_NONE);
    assert_int_equal(tokenizer_token_bytes(t, 100000).len, 0);
    buf_fini(&out);
    tokens_fini(&ids);
    tokenizer_free(t);
}

/* ---- files ---- */
static void test_write(void **state) {
    (void)state;
    struct tokenizer *t = trained(400), *again = NULL;
    struct buf a, b;
    struct error err = {0};
    char x[65], y[65];
    buf_init(&a, 1 << 20);
    buf_init(&b, 1 << 20);
    assert_int_equal(tokenizer_write(t, &a), 0);
    if (tokenizer_parse(buf_span(&a), &again, &err)) fail_msg("%s", err.message);
    assert_int_equal(tokenizer_write(again, &b), 0);
    assert_true(span_eq(buf_span(&a), buf_span(&b)));
    assert_int_equal(tokenizer_digest(t, x), 0);
    assert_int_equal(tokenizer_digest(again, y), 0);
    assert_string_equal(x, y);
    struct tokens p = {0}, q = {0};
    assert_int_equal(tokenizer_encode(t, span_str(corpus), 0, &p, NULL), 0);
    assert_int_equal(tokenizer_encode(again, span_str(corpus), 0, &q, NULL), 0);
    assert_int_equal(p.len, q.len);
    assert_memory_equal(p.ids, q.ids, p.len * sizeof p.ids[0]);
    buf_clear(&a);
    tokenizer_set_special(t, 0, 2, TOKEN_NONE);
    assert_int_equal(tokenizer_write_config(t, "{{ \"x\" }}", 1024, &a), 0);
    assert_int_equal(tokenizer_parse_config(again, buf_span(&a), &err), 0);
    assert_int_equal(tokenizer_bos(again), 0);
    assert_int_equal(tokenizer_eos(again), 2);
    assert_int_equal(tokenizer_pad(again), TOKEN_NONE);
    assert_int_equal(tokenizer_parse_config(again, SPAN("{\"eos_token\":{\"content\":\"<nothing>\"}}"), &err), E_INVALID);
    assert_int_equal(tokenizer_eos(again), 2);
    tokens_fini(&p);
    tokens_fini(&q);
    buf_fini(&a);
    buf_fini(&b);
    tokenizer_free(t);
    tokenizer_free(again);
}

#define FILE_OF(added, norm, pre, post, dec, model)                                                                                                     \
    "{\"added_tokens\":" added ",\"normalizer\":" norm ",\"pre_tokenizer\":" pre ",\"post_processor\":" post ",\"decoder\":" dec ",\"model\":" model "}"
#define DEC "{\"type\":\"ByteLevel\"}"
#define TINY "{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\xC4\xA0\":3,\"\xC3\x83\":4,\"\xC2\xA9\":5,\"e\":6,\"\xC3\x8C\":7,\"\xC4\xA3\":8},\"merges\":[\"a b\"]}"

static void test_normalized(void **state) {
    (void)state;
    /* NFC: e + U+0301 becomes é, whose bytes are the tokens 4 and 5; offsets lead back to the original */
    static const char file[] = FILE_OF("[{\"id\":9,\"content\":\"<x>\",\"special\":true,\"normalized\":false}]", "{\"type\":\"NFC\"}", GPT2, "null", DEC, TINY);
    struct tokenizer *t = NULL;
    struct error err = {0};
    if (tokenizer_parse(span_str(file), &t, &err)) fail_msg("%s", err.message);
    struct tokens ids = {0};
    assert_int_equal(tokenizer_encode(t, SPAN("ab<x>ae\xCC\x81 ab"), TOKENIZER_OFFSETS, &ids, &err), 0);
    static const uint32_t want[] = {2, 9, 0, 4, 5, 3, 2};
    static const struct token_offset offsets[] = {{0, 2}, {2, 5}, {5, 6}, {6, 9}, {6, 9}, {9, 10}, {10, 12}};
    assert_int_equal(ids.len, 7);
    assert_memory_equal(ids.ids, want, sizeof want);
    assert_memory_equal(ids.offsets, offsets, sizeof offsets);
    /* a run of marks takes no quadratic time (a minute, if it did) */
    struct buf marks;
    buf_init(&marks, 1 << 20);
    buf_append_char(&marks, 'a');
    for (int i = 0; i < 200000; i++) buf_append(&marks, i % 2 ? "\xCC\x81" : "\xCC\xA3", 2);
    assert_int_equal(tokenizer_encode(t, buf_span(&marks), 0, &ids, &err), 0);
    buf_fini(&marks);
    tokens_fini(&ids);
    tokenizer_free(t);
}

static void test_added(void **state) {
    (void)state;
    static const char file[] = FILE_OF("[{\"id\":9,\"content\":\"<x>\",\"special\":true},{\"id\":10,\"content\":\"<x>>\",\"special\":false,\"normalized\":true},"
                                       "{\"id\":11,\"content\":\"ba\",\"single_word\":true,\"normalized\":false},{\"id\":12,\"content\":\"#\",\"lstrip\":true,\"rstrip\":true}]",
                                       "null", GPT2,
                                       "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<x>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],"
                                       "\"special_tokens\":{\"<x>\":{\"id\":\"<x>\",\"ids\":[9],\"tokens\":[\"<x>\"]}}}",
                                       DEC, TINY);
    static const struct {
        const char *text;
        unsigned flags;
        uint32_t ids[8];
        size_t count;
    } cases[] = {
        {"ab", TOKENIZER_ADD_SPECIAL, {9, 2}, 2},
        {"", TOKENIZER_ADD_SPECIAL, {9}, 1},
        {"ab", 0, {2}, 1},
        {"<x>>a", 0, {9, 0}, 2}, /* raw tokens first; what is left of <x>> is >, which has no token */
        {"ba", 0, {11}, 1},
        {"a ba a", 0, {0, 3, 11, 3, 0}, 5},
        {"bab", 0, {1, 2}, 2}, /* not a word of its own */
        {"a # a", 0, {0, 12, 0}, 3},
    };
    struct tokenizer *t = NULL;
    struct error err = {0};
    if (tokenizer_parse(span_str(file), &t, &err)) fail_msg("%s", err.message);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tokens ids = {0};
        assert_int_equal(tokenizer_encode(t, span_str(cases[i].text), cases[i].flags, &ids, &err), 0);
        if (ids.len != cases[i].count || memcmp(ids.ids, cases[i].ids, ids.len * sizeof ids.ids[0]) != 0) fail_msg("case %zu: %s", i, cases[i].text);
        tokens_fini(&ids);
    }
    tokenizer_free(t);
}

static void test_hostile(void **state) {
    (void)state;
#define WITH_MODEL(model) FILE_OF("[]", "null", GPT2, "null", DEC, model)
    static const struct {
        const char *name, *text;
        int code;
        const char *says;
    } cases[] = {
        {"empty", "", E_INVALID, ""},
        {"no JSON", "{", E_INVALID, ""},
        {"a list", "[]", E_INVALID, "not an object"},
        {"nothing in it", "{}", E_INVALID, "no model"},
        {"unigram of nothing", WITH_MODEL("{\"type\":\"Unigram\",\"vocab\":[]}"), E_INVALID, "empty"},
        {"unigram without scores", WITH_MODEL("{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}"), E_INVALID, "vocab.0"},
        {"unigram with a score that is none", WITH_MODEL("{\"type\":\"Unigram\",\"vocab\":[[\"a\",\"b\"]]}"), E_INVALID, "vocab.0"},
        {"unigram of triples", WITH_MODEL("{\"type\":\"Unigram\",\"vocab\":[[\"a\",1,2]]}"), E_INVALID, "vocab.0"},
        {"unigram with a strange unk_id", WITH_MODEL("{\"type\":\"Unigram\",\"unk_id\":7,\"vocab\":[[\"a\",-1]]}"), E_INVALID, "unk_id"},
        {"unknown model", WITH_MODEL("{\"type\":\"Tiktoken\",\"vocab\":{}}"), E_UNSUPPORTED, "Tiktoken"},
        {"no type", WITH_MODEL("{\"vocab\":{\"a\":0}}"), E_UNSUPPORTED, "none"},
        {"member twice", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"model\":{}}", E_INVALID, "twice"},
        {"something behind", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}} x", E_INVALID, "nothing more"},
        {"no vocabulary", WITH_MODEL("{\"type\":\"BPE\",\"merges\":[]}"), E_INVALID, "vocab"},
        {"vocabulary is a list", WITH_MODEL("{\"type\":\"BPE\",\"vocab\":[1],\"merges\":[]}"), E_INVALID, "vocab"},
        {"no merges, and none of any type", WITH_MODEL("{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":null}"), E_INVALID, "merges"},
        {"no merges", WITH_MODEL("{\"type\":\"BPE\",\"vocab\":{\"a\":0}}"), E_INVALID, "merges"},
        {"empty vocabulary", WITH_MODEL("{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}"), E_INVALID, "empty"},
        {"negative id", WITH_MODEL("{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}"), E_INVALID, "out of range"},
        {"huge id", WITH_MODEL("{\"type\":\"BPE\",\"vocab\":{\"a\":4000000},\"merges\":[]}"), E_INVALID, "out of range"},
        {"real id", WITH_MODEL("{\"type\":\"BPE\",\"vocab\":{\"a\":0.5},\"merges\":[]}"), E_INVALID, "out of range"},
        {"id twice", WITH_MODEL("{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}"), E_INVALID, "two tokens"},
        {"key twice", WITH_MODEL("{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}"), E_INVALID, ""},
        {"merge of strangers", WITH_MODEL("{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a c\"]}"), E_INVALID, "merges.0"},
        {"merge without result", WITH_MODEL("{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}"), E_INVALID, "merges.0"},
        {"merge of three", WITH_MODEL("{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]}"), E_INVALID, "merges.0"},
        {"merge is a number", WITH_MODEL("{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[7]}"), E_INVALID, "merges.0"},
        {"dropout", WITH_MODEL("{\"type\":\"BPE\",\"dropout\":0.1,\"vocab\":{\"a\":0},\"merges\":[]}"), E_UNSUPPORTED, "dropout"},
        {"unknown token without an alphabet", WITH_MODEL("{\"type\":\"BPE\",\"unk_token\":\"a\",\"vocab\":{\"a\":0},\"merges\":[]}"), E_UNSUPPORTED, "unk_token"},
        {"normalizer", FILE_OF("[]", "{\"type\":\"Rot13\"}", GPT2, "null", DEC, TINY), E_UNSUPPORTED, "Rot13"},
        {"a pattern of nothing", FILE_OF("[]", "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"x\"}", GPT2, "null", DEC, TINY), E_INVALID, "pattern"},
        {"a map that is none", FILE_OF("[]", "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AQ==\"}", GPT2, "null", DEC, TINY), E_INVALID, "charsmap"},
        {"a map larger than it is", FILE_OF("[]", "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"////fwAA\"}", GPT2, "null", DEC, TINY), E_INVALID, "charsmap"},
        {"pre-tokenizer", FILE_OF("[]", "null", "{\"type\":\"UnicodeScripts\"}", "null", DEC, TINY), E_UNSUPPORTED, "UnicodeScripts"},
        {"metaspace of two", FILE_OF("[]", "null", "{\"type\":\"Metaspace\",\"replacement\":\"__\"}", "null", DEC, TINY), E_INVALID, "one character"},
        {"broken regex", FILE_OF("[]", "null", SPLIT("(x"), "null", DEC, TINY), E_UNSUPPORTED, "(x"},
        {"intersection", FILE_OF("[]", "null", SPLIT("[a&&b]"), "null", DEC, TINY), E_UNSUPPORTED, "intersection"},
        {"endless steps", FILE_OF("[]", "null", "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\"},{\"type\":\"Digits\"},{\"type\":\"Digits\"},{\"type\":\"Digits\"},"
                                                "{\"type\":\"Digits\"},{\"type\":\"Digits\"},{\"type\":\"Digits\"},{\"type\":\"Digits\"},{\"type\":\"Digits\"}]}", "null", DEC, TINY), E_UNSUPPORTED, "steps"},
        {"post-processor", FILE_OF("[]", "null", GPT2, "{\"type\":\"Fortune\"}", DEC, TINY), E_UNSUPPORTED, "Fortune"},
        {"bert without ids", FILE_OF("[]", "null", GPT2, "{\"type\":\"BertProcessing\"}", DEC, TINY), E_INVALID, "id"},
        {"template of a stranger", FILE_OF("[]", "null", GPT2, "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"q\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{}}", DEC, TINY), E_INVALID, "no ids"},
        {"template id beyond", FILE_OF("[]", "null", GPT2, "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"q\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"q\":{\"ids\":[77]}}}", DEC, TINY), E_INVALID, "77"},
        {"decoder", FILE_OF("[]", "null", GPT2, "null", "{\"type\":\"CTC\"}", TINY), E_UNSUPPORTED, "CTC"},
        {"tokens behind a text", FILE_OF("[]", "null", GPT2, "null", "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"ByteFallback\"}]}", TINY), E_UNSUPPORTED, "behind"},
        {"added with another's id", FILE_OF("[{\"id\":0,\"content\":\"<x>\"}]", "null", GPT2, "null", DEC, TINY), E_INVALID, "another"},
        {"added without content", FILE_OF("[{\"id\":20}]", "null", GPT2, "null", DEC, TINY), E_INVALID, "added_tokens.0"},
        {"added is a string", FILE_OF("\"x\"", "null", GPT2, "null", DEC, TINY), E_INVALID, "added_tokens"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error err = {0};
        struct tokenizer *t = NULL;
        int r = tokenizer_parse(span_str(cases[i].text), &t, &err);
        if (r != cases[i].code || !strstr(err.message, cases[i].says) || t) fail_msg("%s: %d %s", cases[i].name, r, err.message);
    }
}

/* Every allocation fails once: an error, no crash, no leak. */
static void test_no_memory(void **state) {
    (void)state;
    struct tokenizer *t = trained(300);
    struct buf file;
    buf_init(&file, 1 << 20);
    assert_int_equal(tokenizer_write(t, &file), 0);
    for (uint64_t n = 1;; n++) {
        struct tokenizer *again = NULL;
        struct tokens ids = {0};
        alloc_fail_at(n);
        int r = tokenizer_parse(buf_span(&file), &again, NULL);
        if (!r) r = tokenizer_encode(again, span_str(corpus), TOKENIZER_OFFSETS, &ids, NULL);
        uint64_t asked = alloc_count();
        alloc_fail_at(0);
        tokens_fini(&ids);
        tokenizer_free(again);
        if (asked < n) {
            assert_int_equal(r, 0);
            break;
        }
        assert_int_not_equal(r, 0);
    }
    buf_fini(&file);
    tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split),   cmocka_unit_test(test_split_covers), cmocka_unit_test(test_alphabet),   cmocka_unit_test(test_merging),
        cmocka_unit_test(test_long_word), cmocka_unit_test(test_round_trip), cmocka_unit_test(test_lossy),      cmocka_unit_test(test_special),
        cmocka_unit_test(test_write),   cmocka_unit_test(test_normalized),   cmocka_unit_test(test_added),      cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
