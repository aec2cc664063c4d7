/* Grammars: what texts they take, that a mask is what trying each token gives, that every walk over masks ends in what an independent check takes, and what is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "engine/grammar.h"
#include "json_check.h"

/* Every byte, then some that are longer, and an end. */
static const char *const LONGER[] = {"\", \"", "\": ", "{\"", "\"}", "}}", "[[", "]]", "true", "false", "null", "abc", "ab", "12", "123", "0.", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x99\x82\xF0\x9F",
                                     ", ", "\\n", "\\u00", "-1", "e1", "word", "\"word\"", "a\", \"b\": ", "{\"a\": {\"a\": ", "20", "-0", "x y", "\xCE\xB1\xCE\xB2", "\"}, {\"", "\"]}", "0}"};
enum { LONGER_COUNT = sizeof LONGER / sizeof *LONGER, EOS = 256 + LONGER_COUNT, V };

static struct span bytes_of(void *arg, uint32_t id) {
    static char all[256];
    (void)arg;
    if (id == EOS) return SPAN("");
    if (id >= 256) return span_str(LONGER[id - 256]);
    all[id] = (char)id;
    return span_of(&all[id], 1);
}

static struct grammar_vocab *vocab;
static int set_up(void **state) {
    (void)state;
    return grammar_vocab_new(&vocab, V, NULL, bytes_of, NULL);
}
static int tear_down(void **state) {
    (void)state;
    grammar_vocab_free(vocab);
    return 0;
}

static struct grammar *compiled(enum grammar_kind kind, const char *text) {
    struct grammar *g = NULL;
    struct error err = {0};
    if (grammar_compile(vocab, kind, span_str(text), &g, &err) != 0) fail_msg("%s: %s", text, err.message);
    return g;
}

/* Whether the text, byte by byte, is whole. */
static bool takes(struct grammar *g, const char *text) {
    struct grammar_matcher *m;
    bool good = true;
    assert_int_equal(grammar_matcher_new(g, 1 << 20, &m), 0);
    for (const char *c = text; *c && good; c++) good = grammar_accept(m, (uint8_t)*c) == 0;
    good = good && grammar_may_end(m);
    grammar_matcher_free(m);
    return good;
}

struct language {
    const char *text, *good[12], *bad[12];
};

static void check_language(enum grammar_kind kind, const struct language *l) {
    struct grammar *g = compiled(kind, l->text);
    for (size_t i = 0; i < 12 && l->good[i]; i++)
        if (!takes(g, l->good[i])) fail_msg("%s: does not take %s", l->text, l->good[i]);
    for (size_t i = 0; i < 12 && l->bad[i]; i++)
        if (takes(g, l->bad[i])) fail_msg("%s: takes %s", l->text, l->bad[i]);
    grammar_unref(g);
}

static const struct language PATTERNS[] = {
    {"abc", {"abc"}, {"ab", "abcd", ""}},
    {"a*", {"", "a", "aaaa"}, {"b"}},
    {"(ab|cd)+e?", {"ab", "abcde", "cde"}, {"", "e", "abc"}},
    {"[a-c]{2,3}", {"ab", "abc"}, {"a", "abca", "ad"}},
    {"a{0}b", {"b"}, {"ab"}},
    {"a{2,}", {"aa", "aaaaa"}, {"a"}},
    {"(?:x(y{2}){2}){1,2}", {"xyyyy", "xyyyyxyyyy"}, {"xyy", "xyyyyxyyyyxyyyy"}},
    {"[^a-z]", {"A", "\xC3\xA9", "\xF0\x9F\x99\x82", "\n"}, {"a", "\xC3", "AB"}},
    {".", {"a", "\xE2\x82\xAC"}, {"\n", ""}},
    {"[\xCE\xB1-\xCF\x89]{2,5}", {"\xCE\xB1\xCF\x89"}, {"\xCE\xB1", "\xCF\x8A\xCE\xB1"}},
    {"\\d+\\.\\d{2}", {"12.34"}, {"12.3", "12,34"}},
    {"\\w+\\s\\W", {"ab_1 -"}, {"ab1 a"}},
    {"^a|b$", {"a", "b"}, {"ab"}},
    {"x{,2}y", {"y", "xxy"}, {"xxxy"}},
    {"a+?b*?", {"aab"}, {"b"}},
    {"\\u00e9\\x41\\u{1F642}", {"\xC3\xA9" "A\xF0\x9F\x99\x82"}, {"e"}},
    {"[]a]?", {""}, {"a"}},
    {"(?P<year>[0-9]{4})-(?<m>[0-9]{2})", {"2024-12"}, {"24-12"}},
    {"{}", {"{}"}, {"", "{"}},
};

static void test_patterns(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof PATTERNS / sizeof *PATTERNS; i++)
        if (strcmp(PATTERNS[i].text, "[]a]?") != 0) check_language(GRAMMAR_REGEX, &PATTERNS[i]);
}

static const struct language NOTATIONS[] = {
    {"root ::= \"a\" | \"b\" x\nx ::= [0-9]+ # digits\n", {"a", "b1", "b12"}, {"b", "ab"}},
    {"root ::= expr\nexpr ::= term ((\"+\" | \"-\") term)*\nterm ::= [0-9] | \"(\" expr \")\"", {"1", "1+2", "(1+2)-3", "((1))"}, {"(1", "1+", ")"}},
    {"root ::= (\"x\" \"y\"?){2,3}", {"xx", "xyxyx"}, {"x", "xxxx"}},
    {"root ::= \"\\n\" . [^\\n]", {"\nab", "\n\xC3\xA9" "b"}, {"\na\n"}},
    {"root ::= s\ns ::= \"(\" s \")\" s | \"\"", {"", "()", "(()())()"}, {"(", ")("}},
    {"root ::= empty \"a\" empty\nempty ::= \"b\"*", {"a", "bbab"}, {"b"}},
    {"root ::=\n  \"a\" |\n  \"b\"\n\nunused ::= \"c\"", {"a", "b"}, {"c"}},
};

static void test_notation(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof NOTATIONS / sizeof *NOTATIONS; i++) check_language(GRAMMAR_GBNF, &NOTATIONS[i]);
    static const struct language choice = {"[\"yes\", \"no\", \"no way\"]", {"yes", "no", "no way"}, {"n", "yes no", ""}};
    check_language(GRAMMAR_CHOICE, &choice);
}

#define RECORD(P, R) "{\"type\":\"object\",\"properties\":{" P "},\"required\":[" R "],\"additionalProperties\":false}"
static const struct language SCHEMAS[] = {
    {RECORD("\"a\":{\"type\":\"boolean\"}", "\"a\""), {"{\"a\": true}", "{\"a\": false}"}, {"{}", "{\"a\":true}", "{\"a\": 1}", "{\"a\": true, \"b\": 1}"}},
    {"{\"type\":\"integer\",\"minimum\":-7,\"maximum\":7}", {"-7", "0", "7", "-1"}, {"8", "-8", "00", "-0", "1.0", "10"}},
    {"{\"type\":\"integer\",\"minimum\":1987,\"maximum\":2034}", {"1987", "1999", "2000", "2034"}, {"1986", "2035", "198", "20341"}},
    {"{\"type\":\"integer\",\"exclusiveMinimum\":9,\"exclusiveMaximum\":101}", {"10", "99", "100"}, {"9", "101", "1"}},
    {"{\"type\":\"integer\",\"minimum\":0.5}", {"1", "9999999999999999"}, {"0", "10000000000000000"}},
    {"{\"type\":\"number\"}", {"0", "-1.5", "12.25", "-0.5", "9999999999999999"}, {"01", "1.", ".5", "1e5", "12345678901234567", "123456789012345.67"}},
    {"{\"type\":\"number\",\"minimum\":-1.5,\"maximum\":2.25}", {"-1.5", "-1.4999", "0", "2.25", "2.2", "-0.5"}, {"-1.51", "2.251", "3", "-2"}},
    {"{\"type\":\"number\",\"exclusiveMinimum\":0,\"exclusiveMaximum\":1}", {"0.5", "0.001", "0.999"}, {"0", "1", "0.0", "1.0", "-0.5"}},
    {"{\"type\":\"number\",\"minimum\":0.1,\"maximum\":0.15}", {"0.1", "0.12", "0.15"}, {"0.09", "0.2", "0.151", "0"}},
    {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", {"\"ab\"", "\"a\\n\\\"\"", "\"\xF0\x9F\x99\x82\xC3\xA9\"", "\"\\u00e9ab\""}, {"\"a\"", "\"abcd\"", "\"\"", "\"a\nb\""}},
    {"{\"type\":\"string\",\"maxLength\":0}", {"\"\""}, {"\"a\""}},
    {"{\"type\":\"string\",\"pattern\":\"^[a-z]{1,3}$\"}", {"\"a\"", "\"abc\""}, {"\"\"", "\"abcd\"", "\"A\""}},
    {"{\"type\":\"string\",\"pattern\":\"b\",\"maxLength\":3}", {"\"b\"", "\"abc\"", "\"bbb\""}, {"\"a\"", "\"abcd\"", "\"\""}},
    {"{\"type\":\"string\",\"pattern\":\"^a|b$\"}", {"\"a\"", "\"axx\"", "\"xxb\"", "\"b\""}, {"\"xax\"", "\"bx\""}},
    {"{\"pattern\":\"^\\\"\\\\\\\\$\"}", {"\"\\\"\\\\\""}, {"\"\\\"\""}},
    {"{\"enum\":[\"a\",\"ab\",\"abc\",1,null,[1,{\"x\":2}]]}", {"\"a\"", "\"abc\"", "1", "null", "[1, {\"x\": 2}]"}, {"\"b\"", "2"}},
    {"{\"enum\":[\"say \\\"hi\\\"\",\"new\\nline\"],\"type\":\"string\"}", {"\"say \\\"hi\\\"\"", "\"new\\nline\""}, {"\"say\""}},
    {"{\"const\":{\"a\":[]}}", {"{\"a\": []}"}, {"{}"}},
    {"{\"type\":[\"boolean\",\"null\"]}", {"true", "null"}, {"1", "\"a\""}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":9},\"minItems\":2,\"maxItems\":3}", {"[1, 2]", "[1, 2, 3]"}, {"[1]", "[1, 2, 3, 4]", "[]", "[1,2]"}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"null\"}}", {"[]", "[null]", "[null, null, null]"}, {"[1]"}},
    {"{\"type\":\"array\",\"prefixItems\":[{\"type\":\"null\"},{\"type\":\"boolean\"}]}", {"[]", "[null, true]"}, {"[true]", "[null, true, 1]"}},
    {"{\"type\":\"array\",\"prefixItems\":[{\"type\":\"null\"}],\"items\":{\"type\":\"boolean\"},\"minItems\":1}", {"[null]", "[null, true, false]"}, {"[]", "[null, null]"}},
    {"{\"properties\":{\"a\":{\"type\":\"null\"},\"b\":{\"type\":\"null\"}},\"required\":[\"b\"]}", {"{\"b\": null}", "{\"a\": null, \"b\": null}"}, {"{\"a\": null}", "{\"b\": null, \"a\": null}", "{}"}},
    {"{\"properties\":{\"a\":{\"type\":\"null\"},\"b\":{\"type\":\"null\"}}}", {"{}", "{\"a\": null}", "{\"b\": null}", "{\"a\": null, \"b\": null}"}, {"{, \"b\": null}"}},
    {"{\"type\":\"object\",\"additionalProperties\":{\"type\":\"null\"}}", {"{}", "{\"x\": null, \"y\": null}"}, {"{\"x\": 1}"}},
    {"{\"properties\":{\"ab\":{\"type\":\"null\"}},\"additionalProperties\":{\"type\":\"boolean\"}}", {"{}", "{\"ab\": null}", "{\"a\": true}", "{\"ab\": null, \"abc\": true}", "{\"x\": true}"}, {"{\"ab\": true}", "{\"a\": null}"}},
    {"{\"anyOf\":[" RECORD("\"r\":{\"type\":\"null\"}", "\"r\"") "," RECORD("\"rx\":{\"type\":\"null\"}", "\"rx\"") "]}", {"{\"r\": null}", "{\"rx\": null}"}, {"{}", "{\"r\": null, \"rx\": null}"}},
    {"{\"allOf\":[{\"properties\":{\"a\":{\"type\":\"integer\",\"minimum\":3}},\"required\":[\"a\"]},{\"properties\":{\"a\":{\"maximum\":5}}}]}", {"{\"a\": 3}", "{\"a\": 5}"}, {"{\"a\": 2}", "{\"a\": 6}", "{}"}},
    {"{\"$ref\":\"#/$defs/n\",\"$defs\":{\"n\":" RECORD("\"v\":{\"type\":\"null\"},\"next\":{\"anyOf\":[{\"type\":\"null\"},{\"$ref\":\"#/$defs/n\"}]}", "\"v\",\"next\"") "}}",
     {"{\"v\": null, \"next\": null}", "{\"v\": null, \"next\": {\"v\": null, \"next\": null}}"}, {"{\"v\": null}"}},
    {"{\"properties\":{\"x\":{\"$ref\":\"#/definitions/a~1b\",\"description\":\"d\",\"minimum\":2}},\"required\":[\"x\"],\"definitions\":{\"a/b\":{\"type\":\"integer\",\"maximum\":4}}}", {"{\"x\": 2}", "{\"x\": 4}"}, {"{\"x\": 1}", "{\"x\": 5}"}},
    {"{\"type\":\"string\",\"format\":\"date\"}", {"\"2024-02-29\"", "\"1999-12-31\""}, {"\"2023-02-29\"", "\"2024-04-31\"", "\"2024-13-01\"", "\"1900-02-29\""}},
    {"{\"type\":\"string\",\"format\":\"date-time\"}", {"\"2024-02-29T23:59:59Z\"", "\"1999-12-31T00:00:00.5+01:00\""}, {"\"2024-02-29\"", "\"2024-02-29T24:00:00Z\""}},
    {"{\"type\":\"string\",\"format\":\"uuid\"}", {"\"123e4567-e89b-12d3-a456-426614174000\""}, {"\"123e4567e89b12d3a456426614174000\""}},
    {"{\"type\":\"string\",\"format\":\"ipv4\"}", {"\"255.0.10.1\""}, {"\"256.0.0.1\"", "\"1.2.3\"", "\"01.2.3.4\""}},
    {"{\"type\":\"string\",\"format\":\"email\"}", {"\"a.b@example.org\""}, {"\"a@\"", "\".a@b.c\""}},
    {"{\"type\":\"string\",\"format\":\"uri\"}", {"\"https://example.org:80/a/b\""}, {"\"example.org\""}},
    {"{\"properties\":{\"a\":{\"$id\":\"in\",\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/x\"},\"minItems\":1,\"$defs\":{\"x\":{\"const\":1}}}},\"required\":[\"a\"],\"$defs\":{\"x\":{\"const\":2}}}", {"{\"a\": [1]}"}, {"{\"a\": [2]}"}},
    {"{}", {"1", "\"a\"", "[{\"a\": [null, true]}]", "{}"}, {"[1,2]", "tru"}},
    {"{\"properties\":{\"\xC3\xA9\\\"\":{\"enum\":[\"\xF0\x9F\x99\x82\"]}},\"required\":[\"\xC3\xA9\\\"\"]}", {"{\"\xC3\xA9\\\"\": \"\xF0\x9F\x99\x82\"}"}, {"{}"}},
};

static void test_schemas(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof SCHEMAS / sizeof *SCHEMAS; i++) check_language(GRAMMAR_JSON_SCHEMA, &SCHEMAS[i]);
    static const struct language object = {"", {"{}", "{\"a\": [1, {}], \"\": null}"}, {"[]", "{\"a\"}", "1"}};
    check_language(GRAMMAR_JSON_OBJECT, &object);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        enum grammar_kind kind;
        const char *text, *says;
        int code;
    } cases[] = {
        {GRAMMAR_JSON_SCHEMA, "{\"type\":\"strnig\"}", "'strnig' is no type", E_INVALID},
        {GRAMMAR_JSON_SCHEMA, "{\"properties\":{\"a\":{\"not\":{}}}}", "#/properties/a: 'not' is not supported", E_UNSUPPORTED},
        {GRAMMAR_JSON_SCHEMA, "{\"type\":\"integer\",\"multipleOf\":3}", "'multipleOf' is not supported", E_UNSUPPORTED},
        {GRAMMAR_JSON_SCHEMA, "{\"type\":\"array\",\"uniqueItems\":true}", "'uniqueItems' is not supported", E_UNSUPPORTED},
        {GRAMMAR_JSON_SCHEMA, "{\"properties\":{\"x\":{\"pattern\":\"([\"}}}", "#/properties/x", E_INVALID},
        {GRAMMAR_JSON_SCHEMA, "{\"pattern\":\"(?=a)\"}", "(?=a is not supported", E_UNSUPPORTED},
        {GRAMMAR_JSON_SCHEMA, "{\"pattern\":\"(a)\\\\1\"}", "\\1 is not supported", E_UNSUPPORTED},
        {GRAMMAR_JSON_SCHEMA, "{\"format\":\"iri\"}", "the format 'iri' is not supported", E_UNSUPPORTED},
        {GRAMMAR_JSON_SCHEMA, "{\"$ref\":\"#/$defs/no\"}", "'#/$defs/no', which is not there", E_INVALID},
        {GRAMMAR_JSON_SCHEMA, "{\"$ref\":\"#\"}", "nothing satisfies it", E_INVALID},
        {GRAMMAR_JSON_SCHEMA, "{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}", "left recursion", E_INVALID},
        {GRAMMAR_JSON_SCHEMA, "{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", "nothing satisfies it", E_INVALID},
        {GRAMMAR_JSON_SCHEMA, "false", "nothing satisfies it", E_INVALID},
        {GRAMMAR_JSON_SCHEMA, "[]", "must be an object, true or false", E_INVALID},
        {GRAMMAR_JSON_SCHEMA, "{\"required\":[\"a\"],\"additionalProperties\":false}", "'required' names a property", E_INVALID},
        {GRAMMAR_JSON_SCHEMA, "{\"minLength\":9000}", "'minLength' above", E_TOO_LARGE},
        {GRAMMAR_REGEX, "a**", "repetition of a repetition", E_UNSUPPORTED},
        {GRAMMAR_REGEX, "*a", "nothing to repeat", E_INVALID},
        {GRAMMAR_REGEX, "(a", "( is not closed", E_INVALID},
        {GRAMMAR_REGEX, "a)", ") without (", E_INVALID},
        {GRAMMAR_REGEX, "[b-a]", "a range that ends before it begins", E_INVALID},
        {GRAMMAR_REGEX, "a\\", "ends in a backslash", E_INVALID},
        {GRAMMAR_REGEX, "a{5000}", "above 4096", E_TOO_LARGE},
        {GRAMMAR_REGEX, "(a|b)*a(a|b){24}", "too", E_TOO_LARGE},
        {GRAMMAR_REGEX, "((a{99}){99}){99}", "too", E_TOO_LARGE},
        {GRAMMAR_GBNF, "a ::= \"x\"", "the rule 'root' is used and never defined", E_INVALID},
        {GRAMMAR_GBNF, "root ::= x", "the rule 'x' is used and never defined", E_INVALID},
        {GRAMMAR_GBNF, "root ::= root \"a\" | \"b\"", "left recursion", E_INVALID},
        {GRAMMAR_GBNF, "root ::= \"a\"\nroot ::= \"b\"", "line 2: the rule 'root' is defined twice", E_INVALID},
        {GRAMMAR_GBNF, "root ::= \"a", "not closed", E_INVALID},
        {GRAMMAR_GBNF, "root = \"a\"", "is expected", E_INVALID},
        {GRAMMAR_CHOICE, "[]", "strings are needed", E_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct grammar *g = NULL;
        struct error err = {0};
        int r = grammar_compile(vocab, cases[i].kind, span_str(cases[i].text), &g, &err);
        if (r != cases[i].code || span_find(span_str(err.message), span_str(cases[i].says)) < 0) fail_msg("%s: %d, %s", cases[i].text, r, err.message);
    }
}

/* --- walks --- */

static void check_mask(const char *name, struct grammar_matcher *m, const float *logits) {
    for (uint32_t t = 0; t < V; t++) {
        bool may;
        if (t == EOS) may = grammar_may_end(m);
        else {
            grammar_mark(m);
            may = grammar_accept(m, t) == 0;
            grammar_rollback(m);
        }
        if (may != (logits[t] != GRAMMAR_MASKED)) fail_msg("%s: token %u is %s, but the mask says otherwise", name, t, may ? "possible" : "impossible");
    }
}

/* A walk of at most `most` tokens; the text. */
static void walk(const char *name, struct grammar *g, uint64_t seed, uint32_t most, bool eager, struct buf *text, bool *whole) {
    struct grammar_matcher *m;
    struct random r;
    float logits[V];
    static const uint32_t ends[] = {EOS};
    random_seed(&r, seed);
    buf_clear(text);
    assert_int_equal(grammar_matcher_new(g, most, &m), 0);
    *whole = false;
    for (uint32_t n = 0; n < most && !*whole; n++) {
        for (uint32_t i = 0; i < V; i++) logits[i] = 0;
        uint32_t allowed = grammar_mask(m, ends, 1, logits, V), counted = 0, token = 0;
        for (uint32_t i = 0; i < V; i++) counted += logits[i] != GRAMMAR_MASKED;
        assert_int_equal(allowed, counted);
        if (allowed == 0) fail_msg("%s, seed %llu: nothing goes on from %.*s", name, (unsigned long long)seed, SPAN_ARG(buf_span(text)));
        if (n < 40) check_mask(name, m, logits);
        uint64_t pick = random_below(&r, allowed);
        for (uint32_t i = 0; i < V; i++)
            if (logits[i] != GRAMMAR_MASKED && pick-- == 0) token = i;
        if (token != EOS) token = grammar_hold(m, token);
        if (token == EOS || token == GRAMMAR_END) {
            if (!grammar_may_end(m)) fail_msg("%s, seed %llu: ends at %.*s", name, (unsigned long long)seed, SPAN_ARG(buf_span(text)));
            *whole = true;
            break;
        }
        if (grammar_accept(m, token) != 0) fail_msg("%s, seed %llu: token %u is held and not taken after %.*s", name, (unsigned long long)seed, token, SPAN_ARG(buf_span(text)));
        buf_append_span(text, bytes_of(NULL, token));
        *whole = grammar_must_end(m) || (eager && grammar_may_end(m));
    }
    *whole |= grammar_may_end(m);
    grammar_matcher_free(m);
}

static void test_walks(void **state) {
    (void)state;
    struct buf text;
    buf_init(&text, 1 << 20);
    for (size_t i = 0; i < sizeof SCHEMAS / sizeof *SCHEMAS; i++) {
        if (strstr(SCHEMAS[i].text, "$id")) continue; /* the check below knows one document */
        struct grammar *g = compiled(GRAMMAR_JSON_SCHEMA, SCHEMAS[i].text);
        struct json *schema, *value;
        struct error err = {0};
        assert_int_equal(json_parse(span_str(SCHEMAS[i].text), &schema, NULL), 0);
        for (uint64_t seed = 1; seed <= 12; seed++) {
            bool whole;
            walk(SCHEMAS[i].text, g, seed, 60 + grammar_shortest(g), seed % 2, &text, &whole);
            if (!whole) fail_msg("%s, seed %llu: is not whole: %.*s", SCHEMAS[i].text, (unsigned long long)seed, SPAN_ARG(buf_span(&text)));
            if (json_parse(buf_span(&text), &value, &err) != 0) {
                if (span_find(span_str(err.message), SPAN("twice")) >= 0) continue; /* a free object may repeat itself */
                fail_msg("%s, seed %llu: %s: %.*s", SCHEMAS[i].text, (unsigned long long)seed, err.message, SPAN_ARG(buf_span(&text)));
            }
            if (!json_check(schema, schema, value)) fail_msg("%s, seed %llu: is not valid: %.*s", SCHEMAS[i].text, (unsigned long long)seed, SPAN_ARG(buf_span(&text)));
            json_free(value);
        }
        json_free(schema);
        grammar_unref(g);
    }
    for (size_t i = 0; i < sizeof NOTATIONS / sizeof *NOTATIONS; i++) {
        struct grammar *g = compiled(GRAMMAR_GBNF, NOTATIONS[i].text);
        for (uint64_t seed = 1; seed <= 12; seed++) {
            bool whole;
            walk(NOTATIONS[i].text, g, seed, 30, false, &text, &whole);
            if (!whole || !takes(g, buf_cstr(&text))) fail_msg("%s, seed %llu: %.*s", NOTATIONS[i].text, (unsigned long long)seed, SPAN_ARG(buf_span(&text)));
        }
        grammar_unref(g);
    }
    buf_fini(&text);
}

/* A vocabulary of many words, so that places come again within a mask, whole subtrees stay where they are, and more sets are met than are kept: each mask is what trying each token gives. */
enum { WORDS = 6000, WORD_MAX = 14 };
static struct span word_of(void *arg, uint32_t id) {
    const char(*words)[WORD_MAX + 1] = arg;
    return span_str(words[id]);
}
static void test_many_words(void **state) {
    (void)state;
    static char words[WORDS][WORD_MAX + 1];
    static float logits[WORDS];
    static const char *const parts[] = {"a", "b", "a", "b", "c", "z", "Q", "0", "7", " ", "(", ")", "+", "-", "\"", "\\", "\n", ",", ":", "{", "}", "\xC3", "\xA9", "\xE2\x82\xAC"};
    enum { PARTS = sizeof parts / sizeof *parts };
    static const struct {
        enum grammar_kind kind;
        const char *text, *from;
    } rows[] = {
        {GRAMMAR_GBNF, "root ::= expr (\"\\n\" expr)*\nexpr ::= term (ws [-+] ws term)*\nterm ::= [0-9]+ | [a-z]+ | \"(\" ws expr ws \")\"\nws ::= \" \"?\n", "((ab + (c - 7)) + a) + b"},
        {GRAMMAR_GBNF, "root ::= \"(\" root \")\" root | [ab] root | \"\"\n", "((a)b((ba)))a"},
        {GRAMMAR_REGEX, "(a|b)*a(a|b){10}c*", "abbabaabba"},
        {GRAMMAR_REGEX, "[^\"]{2,40}(\"[a-z ]+\")?", "ab \xC3\xA9"},
        {GRAMMAR_JSON_OBJECT, "", "{\"a\": [\"b c\", {\"z\": 7}, \"\xC3\xA9\"]}"},
        {GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\",\"maxLength\":9}", "\"abc"},
    };
    struct random r;
    struct grammar_vocab *many;
    random_seed(&r, 11);
    for (uint32_t i = 0; i < WORDS; i++) {
        if (i < 255) {
            words[i][0] = (char)(i + 1);
            continue;
        }
        for (uint64_t n = 1 + random_below(&r, 12), k = 0; k < n; k++) {
            const char *part = parts[random_below(&r, i % 2 ? 4 : PARTS)];
            if (strlen(words[i]) + strlen(part) <= WORD_MAX) memcpy(words[i] + strlen(words[i]), part, strlen(part));
        }
    }
    assert_int_equal(grammar_vocab_new(&many, WORDS, words, word_of, NULL), 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct grammar *g = NULL;
        struct grammar_matcher *m;
        struct error err;
        if (grammar_compile(many, rows[i].kind, span_str(rows[i].text), &g, &err) != 0) fail_msg("%s: %s", rows[i].text, err.message);
        for (int again = 0; again < 2; again++) { /* the second time masks are known */
            assert_int_equal(grammar_matcher_new(g, 1000, &m), 0);
            for (size_t at = 0;; at++) {
                uint32_t taken = 0;
                for (uint32_t t = 0; t < WORDS; t++) logits[t] = 0;
                uint32_t allowed = grammar_mask(m, NULL, 0, logits, WORDS);
                for (uint32_t t = 0; t < WORDS; t++) {
                    grammar_mark(m);
                    bool may = grammar_accept(m, t) == 0;
                    grammar_rollback(m);
                    taken += may;
                    if (may != (logits[t] != GRAMMAR_MASKED)) fail_msg("%s at %zu: '%s' is %s, but the mask says otherwise", rows[i].text, at, words[t], may ? "possible" : "impossible");
                }
                assert_int_equal(allowed, taken);
                if (!rows[i].from[at]) break;
                assert_int_equal(grammar_accept(m, (uint32_t)(uint8_t)rows[i].from[at] - 1), 0);
            }
            grammar_matcher_free(m);
        }
        grammar_unref(g);
    }
    grammar_vocab_free(many);
}

/* Whatever the room, from the shortest answer up: it is whole. Nested as deep as it likes, too. */
static void test_always_ends(void **state) {
    (void)state;
    static const char *const texts[] = {"{}", "{\"$ref\":\"#/$defs/n\",\"$defs\":{\"n\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/n\"},\"minItems\":1,\"maxItems\":2},\"m\":{}}}",
                                        "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"},\"b\":{\"type\":\"array\",\"items\":{\"type\":\"string\",\"minLength\":5}}},\"required\":[\"a\",\"b\"]}",
                                        "{\"anyOf\":[{\"type\":\"null\"},{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}]}"};
    struct buf text;
    buf_init(&text, 1 << 20);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (i == 1) { /* has no end at all */
            struct grammar *none = NULL;
            assert_int_equal(grammar_compile(vocab, GRAMMAR_JSON_SCHEMA, span_str(texts[i]), &none, NULL), E_INVALID);
            continue;
        }
        struct grammar *g = compiled(GRAMMAR_JSON_SCHEMA, texts[i]);
        for (uint32_t most = grammar_shortest(g); most < 700; most += 1 + most / 4) {
            bool whole;
            walk(texts[i], g, most, most, false, &text, &whole);
            if (!whole) fail_msg("%s: in %u tokens it is not whole: %.*s", texts[i], most, SPAN_ARG(buf_span(&text)));
        }
        grammar_unref(g);
    }
    buf_fini(&text);
}

static void test_is_kept(void **state) {
    (void)state;
    struct grammar *a = compiled(GRAMMAR_REGEX, "kept[0-9]"), *b = compiled(GRAMMAR_REGEX, "kept[0-9]");
    assert_ptr_equal(a, b);
    grammar_unref(a);
    grammar_unref(b);
    for (int i = 0; i < 3 * GRAMMAR_KEPT_MAX; i++) {
        char text[32];
        (void)snprintf(text, sizeof text, "x{%d}", i + 1);
        grammar_unref(compiled(GRAMMAR_REGEX, text));
    }
}

static void test_without_memory(void **state) {
    (void)state;
    for (uint64_t n = 1;; n++) {
        struct grammar *g = NULL;
        struct grammar_matcher *m = NULL;
        char text[64];
        (void)snprintf(text, sizeof text, "{\"type\":\"string\",\"pattern\":\"^a{%u}$\"}", (unsigned)n % 40 + 1);
        alloc_fail_at(n);
        int r = grammar_compile(vocab, GRAMMAR_JSON_SCHEMA, span_str(text), &g, NULL);
        if (r == 0) r = grammar_matcher_new(g, 10, &m);
        alloc_fail_at(0);
        grammar_matcher_free(m);
        grammar_unref(g);
        if (r == 0 && n > 200) break;
        if (r != 0) assert_true(r == E_NOMEM || r == E_INVALID);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_patterns), cmocka_unit_test(test_notation), cmocka_unit_test(test_schemas), cmocka_unit_test(test_refusals), cmocka_unit_test(test_walks), cmocka_unit_test(test_many_words),
                                       cmocka_unit_test(test_always_ends), cmocka_unit_test(test_is_kept), cmocka_unit_test(test_without_memory)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
