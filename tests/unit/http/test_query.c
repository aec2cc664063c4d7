#include "test.h"

#include "base/buf.h"
#include "base/random.h"
#include "http/query.h"

static void percent(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool plus;
        int r;
        const char *out;
    } cases[] = {{"", false, 0, ""}, {"a%20b+c", false, 0, "a b+c"}, {"a%20b+c", true, 0, "a b c"}, {"%c3%A9", false, 0, "\xc3\xa9"}, {"%", false, E_INVALID, ""}, {"%4", false, E_INVALID, ""}, {"%zz", false, E_INVALID, ""}, {"a%00", false, E_INVALID, ""}, {"%%20", false, E_INVALID, ""}, {"0123456789", false, E_FULL, ""}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf out;
        buf_init(&out, 9);
        int r = http_percent_decode(span_str(cases[i].text), cases[i].plus, &out);
        CHECK(r == cases[i].r && strcmp(buf_cstr(&out), cases[i].out) == 0, "%s: %d %s", cases[i].text, r, buf_cstr(&out));
        buf_fini(&out);
    }
}

static void queries(void **state) {
    (void)state;
    static const struct {
        const char *query, *name;
        int r;
        const char *value;
    } cases[] = {{"a=1&b=2", "b", 0, "2"}, {"a=1&a=2", "a", 0, "1"}, {"&&a", "a", 0, ""}, {"a=", "a", 0, ""}, {"a=b=c", "a", 0, "b=c"}, {"x%5B%5D=%26", "x[]", 0, "&"}, {"a+b=c+d", "a b", 0, "c d"}, {"", "a", E_NOT_FOUND, ""}, {"aa=1", "a", E_NOT_FOUND, ""}, {"%zz=1&a=2", "a", 0, "2"}, {"a=%zz", "a", E_INVALID, ""}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf out;
        buf_init(&out, 100);
        int r = http_query_get(span_str(cases[i].query), cases[i].name, &out);
        CHECK(r == cases[i].r && strcmp(buf_cstr(&out), cases[i].value) == 0, "%s: %d %s", cases[i].query, r, buf_cstr(&out));
        buf_fini(&out);
    }
}

static void parameters(void **state) {
    (void)state;
    static const struct {
        const char *field, *name;
        int r;
        const char *value;
    } cases[] = {{"text/plain; charset=utf-8", "charset", 0, "utf-8"}, {"form-data; name=\"a b\"; filename=\"c\\\"d\\e.txt\"", "filename", 0, "c\"d\\e.txt"}, {"form-data;name=a;x=y", "NAME", 0, "a"}, {"a; filename=\"x;name=y\"; name=z", "name", 0, "z"}, {"text/plain", "charset", E_NOT_FOUND, ""},
                 {"a; name=\"x", "name", E_INVALID, ""}, {"a; name=x; name=y", "name", E_INVALID, ""}, {"a; name", "name", E_INVALID, ""}, {"a; name=x y", "name", E_INVALID, ""}, {"a; =x", "name", E_INVALID, ""}, {"a;;name=x;", "name", 0, "x"}, {"a; name=", "name", E_INVALID, ""}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf out;
        buf_init(&out, 100);
        int r = http_field_parameter(span_str(cases[i].field), cases[i].name, &out);
        CHECK(r == cases[i].r && (r || strcmp(buf_cstr(&out), cases[i].value) == 0), "%s: %d %s", cases[i].field, r, buf_cstr(&out));
        buf_fini(&out);
    }
    assert_true(http_media_type_is(SPAN("Application/JSON ; charset=utf-8"), "application/json"));
    assert_false(http_media_type_is(SPAN("application/jsonl"), "application/json"));
}

/* Events as text: "<name|file|type>data;" per part, "." for the end, "!" for a refusal. cut 0 whole, 1 byte by byte, else random. */
static void events_of(struct span text, int cut, struct random *random, struct buf *out) {
    struct multipart m;
    assert_int_equal(multipart_init(&m, SPAN("multipart/form-data; boundary=XyZ")), 0);
    for (size_t at = 0; at < text.len;) {
        struct span rest = span_sub(text, at, cut == 0 ? text.len : cut == 1 ? 1 : 1 + random_below(random, 9)), data;
        at += rest.len;
        for (enum multipart_event e; (e = multipart_next(&m, &rest, &data)) != MULTIPART_NEED;) {
            if (e == MULTIPART_PART) buf_printf(out, "<%s|%s|%s>", buf_cstr(&m.name), buf_cstr(&m.file_name), buf_cstr(&m.content_type));
            else if (e == MULTIPART_DATA) buf_append_span(out, data);
            else buf_append_char(out, e == MULTIPART_PART_END ? ';' : e == MULTIPART_END ? '.' : '!');
            if (e != MULTIPART_REFUSED) continue;
            assert_true(multipart_reason(&m)[0]);
            multipart_fini(&m);
            return;
        }
    }
    multipart_fini(&m);
}

#define PART(name, data) "--XyZ\r\nContent-Disposition: form-data; name=\"" name "\"\r\n\r\n" data "\r\n"

static void forms(void **state) {
    (void)state;
    static const struct {
        const char *text, *events;
    } cases[] = {
        {PART("a", "1") PART("b", "two") "--XyZ--\r\n", "<a||>1;<b||>two;."},
        {"--XyZ\r\nContent-Type: text/x\r\nX: y\r\ncontent-disposition: form-data; filename=\"f.txt\"; name=file\r\n\r\n\r\n\r\n--Xy\r\n--XyZ--", "<file|f.txt|text/x>\r\n\r\n--Xy;."},
        {"preamble\r\n" PART("a", "") "--XyZ--ignored\r\n--XyZ\r\n", "<a||>;."},
        {PART("a", "\r") "--XyZ--", "<a||>\r;."},
        {PART("a", "\r\r\n\r\r\n-") "--XyZ--", "<a||>\r\r\n\r\r\n-;."},
        {PART("a", "--XyY") "--XyZ--", "<a||>--XyY;."},
        {"--XyZ\r\nContent-Disposition: form-data; name=a\r\n\r\n--XyZ--", "<a||>;."},
        {"--XyZ--", "."},
        {PART("a", "1") "--XyZ", "<a||>1;"},
        {"nothing", ""},
        {"--XyZ  \r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--XyZ--", "<a||>1;."},
        {"--XyZq\r\n", "!"},
        {"--XyZ\r\n\r\nx\r\n--XyZ--", "!"},
        {"--XyZ\r\nContent-Disposition: attachment; name=a\r\n\r\n", "!"},
        {"--XyZ\r\nContent-Disposition: form-data\r\n\r\n", "!"},
        {"--XyZ\r\nContent-Disposition: form-data; name=a\r\nContent-Disposition: form-data; name=b\r\n\r\n", "!"},
        {"--XyZ\r\nno colon\r\n\r\n", "!"},
    };
    struct random random;
    random_seed(&random, 4);
    for (size_t i = 0; i < COUNT(cases); i++)
        for (int cut = 0; cut < 20; cut++) {
            struct buf out;
            buf_init(&out, 1000);
            events_of(span_str(cases[i].text), cut, &random, &out);
            CHECK(strcmp(buf_cstr(&out), cases[i].events) == 0, "case %zu, cut %d: %s, wanted %s", i, cut, buf_cstr(&out), cases[i].events);
            buf_fini(&out);
        }
}

static void boundaries(void **state) {
    (void)state;
    static const struct {
        const char *type;
        bool good;
    } cases[] = {{"multipart/form-data; boundary=x", true}, {"Multipart/Form-Data; charset=utf-8; boundary=\"a b\"", true}, {"multipart/form-data", false}, {"multipart/form-data; boundary=", false}, {"multipart/form-data; boundary=\"\"", false}, {"multipart/form-data; boundary=\"a \"", false},
                 {"multipart/form-data; boundary=\"a\\\"b\"", false}, {"multipart/mixed; boundary=x", false}, {"multipart/form-data; boundary=01234567890123456789012345678901234567890123456789012345678901234567890", false}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct multipart m;
        CHECK((multipart_init(&m, span_str(cases[i].type)) == 0) == cases[i].good, "%s", cases[i].type);
        multipart_fini(&m);
        multipart_fini(&m);
    }
    struct multipart m;
    struct buf text;
    struct span rest, data;
    enum multipart_event e;
    multipart_init(&m, SPAN("multipart/form-data; boundary=XyZ"));
    buf_init(&text, 1 << 20);
    for (int i = 0; i < MULTIPART_PARTS_MAX + 1; i++) buf_append_str(&text, PART("a", ""));
    rest = buf_span(&text);
    while ((e = multipart_next(&m, &rest, &data)) != MULTIPART_NEED && e != MULTIPART_REFUSED) {}
    assert_int_equal(e, MULTIPART_REFUSED);
    multipart_fini(&m);
    multipart_init(&m, SPAN("multipart/form-data; boundary=XyZ"));
    buf_clear(&text);
    buf_append_str(&text, "--XyZ\r\nX: ");
    for (int i = 0; i < MULTIPART_HEAD_MAX; i++) buf_append_char(&text, 'y');
    rest = buf_span(&text);
    while ((e = multipart_next(&m, &rest, &data)) != MULTIPART_NEED && e != MULTIPART_REFUSED) {}
    assert_int_equal(e, MULTIPART_REFUSED);
    multipart_fini(&m);
    buf_fini(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(percent), cmocka_unit_test(queries), cmocka_unit_test(parameters), cmocka_unit_test(forms), cmocka_unit_test(boundaries)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
