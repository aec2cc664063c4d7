#include "test.h"

#include "base/json.h"
#include "base/json_reader.h"
#include "base/random.h"

/* Each text and what it reads as, written out again; NULL where it is refused, with a part of the message. */
struct reading {
    const char *text, *out, *message;
};

static void check_readings(const struct reading *cases, size_t n, int (*parse)(struct span, struct json **, struct error *)) {
    for (size_t i = 0; i < n; i++) {
        struct json *root = NULL;
        struct error err = {0};
        int r = parse(span_str(cases[i].text), &root, &err);
        CHECK((r == 0) == (cases[i].out != NULL), "%s: %d %s", cases[i].text, r, err.message);
        if (r) {
            CHECK(r == E_INVALID && root == NULL, "%s: %d", cases[i].text, r);
            CHECK(strstr(err.message, cases[i].message), "%s: %s", cases[i].text, err.message);
            continue;
        }
        struct buf out;
        buf_init(&out, 1 << 20);
        assert_int_equal(json_write(&out, root), 0);
        CHECK(strcmp(buf_cstr(&out), cases[i].out) == 0, "%s: %s", cases[i].text, buf_cstr(&out));
        buf_fini(&out);
        json_free(root);
    }
}

static void json_texts(void **state) {
    (void)state;
    static const struct reading cases[] = {
        {"null", "null", NULL}, {" true ", "true", NULL}, {"false", "false", NULL}, {"0", "0", NULL}, {"-5", "-5", NULL}, {"1.5e2", "150.0", NULL},
        {"9223372036854775807", "9223372036854775807", NULL}, {"9223372036854775808", "9.223372036854776e+18", NULL}, {"0.1", "0.1", NULL},
        {"\"\"", "\"\"", NULL}, {"\"a\\u00e9\\n\\u0000\\ud83d\\ude00\\/\"", "\"a\xc3\xa9\\n\\u0000\xf0\x9f\x98\x80/\"", NULL}, {"[]", "[]", NULL}, {"{}", "{}", NULL},
        {"[1,[2,[]],{\"a\":{}}]", "[1,[2,[]],{\"a\":{}}]", NULL}, {"{\"b\":1,\"a\":[null]}", "{\"b\":1,\"a\":[null]}", NULL}, {"{\"\":0}", "{\"\":0}", NULL},
        {"", NULL, "line 1, column 1: the text ends"}, {"  ", NULL, "the text ends"}, {"nul", NULL, "not a value"}, {"[1,]", NULL, "column 4: not a value"}, {"[1 2]", NULL, "expected ',' or ']'"},
        {"{\"a\":1,}", NULL, "expected a key"}, {"{\"a\" 1}", NULL, "expected ':'"}, {"{a:1}", NULL, "expected a key"}, {"{\n\"a\":\nx}", NULL, "line 3, column 1"}, {"01", NULL, "leading zeros"}, {"-", NULL, "not a value"},
        {"+1", NULL, "not a value"}, {"1.", NULL, "digits"}, {"1e", NULL, "exponent"}, {".5", NULL, "not a value"}, {"1e999", NULL, "double"}, {"NaN", NULL, "not a value"}, {"'a'", NULL, "not a value"},
        {"\"a", NULL, "does not end"}, {"\"a\\", NULL, "ends inside"}, {"\"\\x\"", NULL, "escape"}, {"\"\\u12g4\"", NULL, "escape"}, {"\"\\ud800\"", NULL, "surrogate"}, {"\"\\udc00\"", NULL, "surrogate"},
        {"\"\\ud800\\u0041\"", NULL, "surrogate"}, {"\"\n\"", NULL, "control character"}, {"\"\xff\"", NULL, "UTF-8"}, {"\"\xc0\xaf\"", NULL, "UTF-8"}, {"\"\xed\xa0\x80\"", NULL, "UTF-8"}, {"1 1", NULL, "behind the value"}, {"[", NULL, "ends"},
        {"[1", NULL, "ends inside an array"}, {"{\"a\":1", NULL, "ends inside an object"}, {"]", NULL, "not a value"}, {"{\"a\":1,\"a\":2}", NULL, "\"a\" twice"}, {"{\"a\":1,\"\\u0061\":2}", NULL, "\"a\" twice"}, {"\xef\xbb\xbf{}", NULL, "not a value"},
        {"{\"k1\":1,\"k2\":1,\"k3\":1,\"k4\":1,\"k5\":1,\"k6\":1,\"k7\":1,\"k8\":1,\"k9\":1,\"k10\":1,\"k5\":2}", NULL, "\"k5\" twice"}, {"/**/1", NULL, "not a value"}, {"[1}", NULL, "expected ',' or ']'"},
    };
    check_readings(cases, COUNT(cases), json_parse);
}

static void yaml_texts(void **state) {
    (void)state;
    static const struct reading cases[] = {
        {"", "null", NULL}, {"a: 1", "{\"a\":1}", NULL}, {"a: {b: [1, 2.5, x]}", "{\"a\":{\"b\":[1,2.5,\"x\"]}}", NULL}, {"- a\n- - b\n  - ~\n", "[\"a\",[\"b\",null]]", NULL},
        {"{\"json\": [true, \"x\", null]}", "{\"json\":[true,\"x\",null]}", NULL}, {"a: '1'\nb: \"true\"\nc: yes\nd: Off\ne: y", "{\"a\":\"1\",\"b\":\"true\",\"c\":true,\"d\":false,\"e\":\"y\"}", NULL},
        {"[3.0e-4, 1.0e-8, 1e-8, .5, +7, -7, 0x1F, 010, 0, -0.5, 1_000, 12:30, 1.2.3, 0xzz, '', +-1, --1]",
         "[0.0003,1e-08,1e-08,0.5,7,-7,31,\"010\",0,-0.5,\"1_000\",\"12:30\",\"1.2.3\",\"0xzz\",\"\",\"+-1\",\"--1\"]", NULL},
        {"on: held-out\nnull: 1\n1: x", "{\"on\":\"held-out\",\"null\":1,\"1\":\"x\"}", NULL}, {"t: |\n  a\n  b\nf: >\n  a\n  b\n", "{\"t\":\"a\\nb\\n\",\"f\":\"a b\\n\"}", NULL},
        {"a:\nb: # nothing\n", "{\"a\":null,\"b\":null}", NULL}, {"k: v: w", NULL, "line 1"}, {"a: 1\na: 2", NULL, "\"a\" twice"}, {"a: &x 1\nb: *x", NULL, "anchors"}, {"a: *x", NULL, "anchors"}, {"a: !!str 1", NULL, "tags"},
        {"--- 1\n--- 2", NULL, "more than one document"}, {"? [a]\n: 1", NULL, "key"}, {"{a: 1", NULL, "YAML: line"}, {"<<: {a: 1}", NULL, "merge"}, {"a: \"\\q\"", NULL, "YAML: line"}, {"\t- a", NULL, "YAML: line"},
        {"--- 5", "5", NULL}, {"18446744073709551616", "1.8446744073709552e+19", NULL},
    };
    check_readings(cases, COUNT(cases), yaml_parse);
}

static void depth(void **state) {
    (void)state;
    char text[3 * JSON_DEPTH_MAX + 10];
    int (*const parsers[])(struct span, struct json **, struct error *) = {json_parse, yaml_parse};
    for (size_t p = 0; p < 2; p++)
        for (size_t n = JSON_DEPTH_MAX - 1; n <= JSON_DEPTH_MAX + 1; n++) {
            memset(text, '[', n);
            memset(text + n, ']', n);
            struct json *root = NULL;
            struct error err;
            int r = parsers[p](span_of(text, 2 * n), &root, &err);
            CHECK(r == (n > JSON_DEPTH_MAX ? E_INVALID : 0), "depth %zu: %d", n, r);
            if (r) {
                assert_non_null(strstr(err.message, "too deeply"));
                continue;
            }
            struct buf out;
            buf_init(&out, 1000);
            json_write(&out, root);
            assert_true(span_eq(buf_span(&out), span_of(text, 2 * n)));
            buf_fini(&out);
            json_free(root);
        }
    enum { MANY = 1 << 20 };
    char *many = mem_alloc(MANY);
    struct json *root;
    for (int i = 0; i < 3; i++) {
        memset(many, "[{-"[i], MANY);
        if (i == 2)
            for (int j = 1; j < MANY; j += 2) many[j] = ' ';
        assert_int_equal(json_parse(span_of(many, MANY), &root, NULL), E_INVALID);
        assert_int_equal(yaml_parse(span_of(many, MANY), &root, NULL), E_INVALID);
    }
    mem_free(many);
}

static void accessors(void **state) {
    (void)state;
    struct json *root;
    struct span text = SPAN("{\"i\":3,\"r\":2.0,\"f\":2.5,\"s\":\"a\\u0000b\",\"t\":true,\"n\":null,\"a\":[10,11],\"o\":{\"x\":1}}");
    assert_int_equal(json_parse(text, &root, NULL), 0);
    assert_int_equal(json_int(json_get(root, "i"), -1), 3);
    assert_int_equal(json_int(json_get(root, "r"), -1), 2);
    assert_int_equal(json_int(json_get(root, "f"), -1), -1);
    assert_int_equal(json_int(json_get(root, "s"), -1), -1);
    assert_true(json_real(json_get(root, "i"), 0) == 3.0 && json_real(json_get(root, "none"), 9) == 9);
    assert_true(span_eq(json_string(json_get(root, "s")), SPAN("a\0b")));
    assert_true(json_bool(json_get(root, "t"), false) && json_bool(json_get(root, "i"), true));
    assert_true(json_is_null(json_get(root, "n")) && json_is_null(json_get(root, "none")) && !json_is_null(json_get(root, "i")));
    assert_int_equal(json_int(json_at(json_get(root, "a"), 1), 0), 11);
    assert_null(json_at(json_get(root, "a"), 2));
    assert_null(json_at(root, 0));
    assert_null(json_get(json_get(root, "a"), "x"));
    assert_int_equal(json_size(root), 8);
    assert_int_equal(json_size(json_get(root, "s")), 0);
    assert_string_equal(json_type_name(json_get(root, "o")), "an object");
    char order[20] = "";
    void *it = NULL;
    struct span key;
    size_t n = 0;
    while (json_next(root, &it, &key, NULL)) order[n++] = key.data[0];
    assert_string_equal(order, "irfstnao");
    json_free(root);
    json_free(NULL);

    struct buf big; /* an object with its hash index */
    buf_init(&big, 1 << 22);
    buf_append_char(&big, '{');
    for (int i = 0; i < 50000; i++) buf_printf(&big, "%s\"key %d\":%d", i ? "," : "", i, i);
    buf_append_char(&big, '}');
    assert_int_equal(json_parse(buf_span(&big), &root, NULL), 0);
    for (int i = 0; i < 50000; i++) {
        char name[20];
        snprintf(name, sizeof name, "key %d", i);
        assert_int_equal(json_int(json_get(root, name), -1), i);
    }
    assert_null(json_get(root, "key 50000"));
    json_free(root);
    buf_fini(&big);
}

static void writer(void **state) {
    (void)state;
    struct buf out;
    struct json_out w;
    buf_init(&out, 10000);
    json_begin(&w, &out);
    json_object(&w);
    json_str(&w, "a\"b", "x\ty\x01\x7f");
    json_str(&w, "none", NULL);
    json_span(&w, "bad", span_of("a\xff\xc3", 3));
    json_num(&w, "i", INT64_MIN);
    json_flt(&w, "r", 0.1);
    json_flt(&w, "nan", __builtin_nan(""));
    json_flag(&w, "t", true);
    json_key(&w, "list");
    json_array(&w);
    json_put_uint(&w, UINT64_MAX);
    json_object(&w);
    json_object_end(&w);
    json_put_raw(&w, SPAN("[0]"));
    json_put_real(&w, 3);
    json_array_end(&w);
    json_object_end(&w);
    assert_string_equal(buf_cstr(&out), "{\"a\\\"b\":\"x\\ty\\u0001\x7f\",\"none\":null,\"bad\":\"a\xef\xbf\xbd\xef\xbf\xbd\",\"i\":-9223372036854775808,\"r\":0.1,\"nan\":null,\"t\":true,"
                                        "\"list\":[18446744073709551615,{},[0],3.0]}");
    buf_fini(&out);
    struct random r;
    random_seed(&r, 3);
    buf_init(&out, 1000);
    for (int i = 0; i < 20000; i++) { /* every double reads back as itself */
        uint64_t bits = random_u64(&r);
        double v, back;
        memcpy(&v, &bits, sizeof v);
        if (!__builtin_isfinite(v)) continue;
        buf_clear(&out);
        json_begin(&w, &out);
        json_put_real(&w, v);
        CHECK(span_to_f64(buf_span(&out), &back) == 0 && memcmp(&v, &back, sizeof v) == 0, "%a: %s", v, buf_cstr(&out));
    }
    buf_fini(&out);
}

/* Random texts from JSON's own pieces: jansson and we agree on which are JSON, and what we write reads back as the same. */
static void against_jansson(void **state) {
    (void)state;
    static const char *const pieces[] = {"{", "}", "[", "]", ",", ":", "\"a\"", "\"b\"", "\"\\u0041\"", "\"\\ud83d\\ude00\"", "\"\\ud83d\"", "1", "-0", "1.5", "01", "1e5", "1e", "true", "null", " ", "\n", "\"", "\\", "\xc3\xa9", "\xc3", "\x01"};
    struct random r;
    uint64_t seed;
    random_bytes(&seed, sizeof seed);
    random_seed(&r, seed);
    int accepted = 0;
    for (int i = 0; i < 200000; i++) {
        char text[200] = "";
        size_t len = 0;
        int n = 1 + (int)random_below(&r, 9);
        for (int k = 0; k < n; k++) {
            const char *piece = pieces[random_below(&r, COUNT(pieces))];
            memcpy(text + len, piece, strlen(piece));
            len += strlen(piece);
        }
        struct json *root = NULL, *again = NULL;
        struct error err = {0};
        int ours = json_parse(span_of(text, len), &root, &err) == 0;
        CHECK(ours == jansson_accepts(text, len), "seed %llu: \"%.*s\": %s", (unsigned long long)seed, (int)len, text, err.message);
        if (!ours) continue;
        accepted++;
        struct buf one, two;
        buf_init(&one, 1000);
        buf_init(&two, 1000);
        json_write(&one, root);
        assert_int_equal(json_parse(buf_span(&one), &again, NULL), 0);
        json_write(&two, again);
        CHECK(span_eq(buf_span(&one), buf_span(&two)), "seed %llu: %.*s", (unsigned long long)seed, (int)len, text);
        buf_fini(&one);
        buf_fini(&two);
        json_free(root);
        json_free(again);
    }
    assert_true(accepted > 1000);
}

/* The reader goes over white space and strings eight bytes at a time: every place in such a step, against the parser. */
static void reader_against_parser(void **state) {
    (void)state;
    static const struct {
        const char *name, *text;
    } special[] = {{"nothing", ""}, {"an escaped quote", "\\\""}, {"a backslash", "\\\\"}, {"a newline", "\\n"}, {"a pair", "\\ud83d\\ude00"}, {"two bytes", "\xC3\xA9"},
                   {"three bytes", "\xE2\x96\x81"}, {"DEL", "\x7F"}, {"a raw control character", "\x1F"}, {"a raw tab", "\t"}, {"a bad escape", "\\x"}, {"half a pair", "\\ud83d"}};
    for (size_t c = 0; c < sizeof special / sizeof special[0]; c++)
        for (int indent = 0; indent <= 18; indent++)
            for (int before = 0; before <= 18; before++) {
                char text[128], room[128];
                int n = snprintf(text, sizeof text, "{\n%*s\"k\"%*s:%*s\"%.*s%saaaa\" \n\t\r }", indent, "", indent % 9, "", before, "", before, "bbbbbbbbbbbbbbbbbbbb", special[c].text);
                assert_true(n > 0 && n < (int)sizeof text);
                struct json *root = NULL;
                struct json_reader r;
                struct span key = {NULL, 0}, value = {NULL, 0}, whole = {NULL, 0};
                bool valid = json_parse(span_str(text), &root, NULL) == 0;
                json_reader_init(&r, span_str(text));
                bool skipped = json_reader_skip(&r, &whole, NULL) == 0 && json_reader_end(&r, NULL) == 0;
                CHECK(skipped == valid, "%s, %d, %d: skipped %d, parsed %d", special[c].name, indent, before, skipped, valid);
                CHECK(!valid || span_eq_str(whole, text), "%s, %d, %d: skipped \"%.*s\"", special[c].name, indent, before, SPAN_ARG(whole));
                json_reader_init(&r, span_str(text));
                bool read = json_reader_enter(&r, '{', NULL) == 0 && json_reader_key(&r, room, sizeof room, &key, NULL) == 1 && span_eq_str(key, "k") &&
                            json_reader_string(&r, room, sizeof room, &value, NULL) == 0 && json_reader_key(&r, room, 0, &key, NULL) == 0 && json_reader_end(&r, NULL) == 0;
                CHECK(read == valid, "%s, %d, %d: read %d, parsed %d", special[c].name, indent, before, read, valid);
                CHECK(!valid || span_eq(value, json_string(json_get(root, "k"))), "%s, %d, %d: \"%.*s\"", special[c].name, indent, before, SPAN_ARG(value));
                json_free(root);
            }
}

static void without_memory(void **state) {
    (void)state;
    struct span text = SPAN("{\"a\":[1,2,3,4,5,6,7,8,9,10,11],\"b\":{\"c\\n\":\"d\\u0041\"},\"1\":0,\"2\":0,\"3\":0,\"4\":0,\"5\":0,\"6\":0,\"7\":0,\"8\":0}");
    int (*const parsers[])(struct span, struct json **, struct error *) = {json_parse, yaml_parse};
    for (size_t p = 0; p < 2; p++) {
        bool done = false;
        for (uint64_t at = 1; !done && at < 1000; at++) {
            struct json *root = NULL;
            struct error err = {0};
            alloc_fail_at(at);
            int r = parsers[p](text, &root, &err);
            alloc_fail_at(0);
            CHECK(r == 0 || (r == E_NOMEM && root == NULL && err.code == E_NOMEM), "allocation %d: %d", (int)at, r);
            done = r == 0;
            json_free(root);
        }
        assert_true(done);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(json_texts), cmocka_unit_test(yaml_texts), cmocka_unit_test(depth),         cmocka_unit_test(accessors),
                                       cmocka_unit_test(writer),     cmocka_unit_test(against_jansson), cmocka_unit_test(reader_against_parser),
                                       cmocka_unit_test(without_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
