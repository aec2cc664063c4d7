/* The template interpreter: what jinja2 gives, what must not happen whatever a template says, and whose every byte is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "template_cases.h"
#include "tokenizer/template.h"

enum { VARS_MAX = 32 };

/* Every member of the object is a variable. */
static size_t vars_of(const struct json *object, struct template_var *vars) {
    void *iterator = NULL;
    struct span key;
    const struct json *value;
    size_t n = 0;
    while (n < VARS_MAX - 2 && json_next(object, &iterator, &key, &value)) vars[n++] = (struct template_var){.name = key, .json = value};
    vars[n++] = (struct template_var){.name = SPAN("add_generation_prompt"), .flag = true};
    return n;
}

static int render(const char *text, const char *variables, struct template_output *out, struct error *err) {
    struct template_var vars[VARS_MAX];
    struct template *t = NULL;
    struct json *object = NULL;
    assert_int_equal(json_parse(span_str(variables), &object, err), 0);
    int r = template_parse(span_str(text), &t, err);
    if (!r) r = template_render(t, vars, vars_of(object, vars), 0, out, err);
    template_free(t);
    json_free(object);
    return r;
}

static void test_as_jinja2(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct template_output out;
        struct error err = {0};
        template_output_init(&out);
        int r = render(cases[i].template, case_variables, &out, &err);
        if ((r == 0) != (cases[i].text != NULL)) fail_msg("%s\nis %d (%s), but jinja2 %s", cases[i].template, r, err.message, cases[i].text ? "renders it" : "raises");
        if (r && (r != E_INVALID && r != E_UNSUPPORTED)) fail_msg("%s\nis %d (%s)", cases[i].template, r, err.message);
        if (r && !err.message[0]) fail_msg("%s\nfails without a word", cases[i].template);
        if (!r && !span_eq_str(buf_span(&out.text), cases[i].text)) fail_msg("%s\ngives  %s\njinja2 %s", cases[i].template, buf_cstr(&out.text), cases[i].text);
        template_output_fini(&out);
    }
}

static void test_messages(void **state) {
    (void)state;
    static const struct {
        const char *template, *part;
        int code;
    } bad[] = {
        {"{{ raise_exception('roles must alternate') }}", "roles must alternate", E_INVALID},
        {"\n\n{{ nothing.x }}", "line 3: 'nothing' is undefined", E_INVALID},
        {"{% if x %}", "line 1: {% elif %} is missing", E_INVALID},
        {"{{ 'a' | nope }}", "no filter named 'nope'", E_INVALID},
        {"{{ 1 is nope }}", "no test named 'nope'", E_INVALID},
        {"{% include 'a' %}", "no tag {% include %}", E_UNSUPPORTED},
        {"\xFF", "UTF-8", E_INVALID},
        {"{% for x in y recursive %}{% endfor %}", "recursive", E_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct template_output out;
        struct error err = {0};
        template_output_init(&out);
        assert_int_equal(render(bad[i].template, "{}", &out, &err), bad[i].code);
        if (!strstr(err.message, bad[i].part)) fail_msg("%s\nsays \"%s\", not \"%s\"", bad[i].template, err.message, bad[i].part);
        template_output_fini(&out);
    }
}

/* A template ends and stays within its limits, whatever it says. */
static void test_limits(void **state) {
    (void)state;
    struct buf deep, chain, blocks;
    buf_init(&deep, 1 << 20);
    buf_init(&chain, 1 << 20);
    buf_init(&blocks, 1 << 20);
    buf_append_str(&deep, "{{ ");
    for (int i = 0; i < 200; i++) buf_append_str(&deep, "(");
    buf_append_str(&chain, "{{ 1");
    for (int i = 0; i < 1000; i++) buf_append_str(&chain, " + 1");
    buf_append_str(&chain, " }}");
    for (int i = 0; i < 200; i++) buf_append_str(&blocks, "{% if true %}");
    const struct {
        const char *what, *template;
        int code;
    } bad[] = {
        {"loops without end", "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", E_TOO_LARGE},
        {"a macro that calls itself", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", E_TOO_LARGE},
        {"two macros that call each other", "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}", E_TOO_LARGE},
        {"a namespace within itself", "{% set n = namespace() %}{% set n.n = n %}{{ n }}", E_TOO_LARGE},
        {"a string that doubles", "{% set n = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(100) %}{% set n.s = n.s + n.s %}{% endfor %}", E_TOO_LARGE},
        {"a list that doubles", "{% set n = namespace(s=[1,2]) %}{% for i in range(100) %}{% set n.s = n.s + n.s %}{% endfor %}", E_TOO_LARGE},
        {"output", "{% for a in range(100000) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' * 1000 }}{% endfor %}", E_TOO_LARGE},
        {"a repeated string", "{{ 'abc' * 9223372036854775807 }}", E_TOO_LARGE},
        {"a repeated list", "{{ [1] * 9223372036854775807 }}", E_TOO_LARGE},
        {"a long range", "{{ range(9223372036854775807) }}", E_INVALID},
        {"a range that overflows", "{{ range(-9223372036854775807, 9223372036854775807) }}", E_INVALID},
        {"a sum that overflows", "{{ 9223372036854775807 + 1 }}", E_INVALID},
        {"a power", "{{ 10 ** 100 }}", E_INVALID},
        {"the division that overflows", "{{ (-9223372036854775807 - 1) // -1 }}", E_INVALID},
        {"a map of maps", "{{ [[1]] | map('map', 'map', 'map', 'upper') | list }}", E_INVALID},
        {"parentheses", buf_cstr(&deep), E_TOO_LARGE},
        {"a chain", buf_cstr(&chain), E_TOO_LARGE},
        {"blocks", buf_cstr(&blocks), E_TOO_LARGE},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct template_output out;
        struct error err = {0};
        template_output_init(&out);
        int r = render(bad[i].template, "{}", &out, &err);
        if (r != bad[i].code) fail_msg("%s: %d (%s)", bad[i].what, r, err.message);
        template_output_fini(&out);
    }
    buf_fini(&deep);
    buf_fini(&chain);
    buf_fini(&blocks);
}

/* T of the template, u of the user: the whole output byte by byte. */
static void test_taint(void **state) {
    (void)state;
    static const struct {
        const char *template, *text, *whose;
    } tables[] = {
        {"ab{{ u }}cd{{ 'x' + u + 'y' }}", "abUVcdxUVy", "TTuuTTTuuT"},
        {"{{ u | upper }}{{ (u ~ 'z') | lower }}{{ ('q' ~ u)[::-1] }}", "UVuvzVUq", "uuuuTuuT"},
        {"{{ (' ' ~ u ~ ' ') | trim }}{{ ('a,' ~ u).split(',')[1] }}{{ ('a' ~ u)[1:] }}{{ ('a' ~ u)[0] }}", "UVUVUVa", "uuuuuuT"},
        {"{{ 'aXb'.replace('X', u) }}{{ u.replace('U', 'w') }}{{ [u, 'k'] | join('-') }}", "aUVbwVUV-k", "TuuTTuuuTT"},
        {"{% set x %}a{{ u }}{% endset %}{{ x }}{% macro m(v) %}<{{ v }}>{% endmacro %}{{ m(u) }}", "aUV<UV>", "TuuTuuT"},
        {"{{ r }}{{ d.role }}{{ d.other }}{{ n }}{{ n + 1 }}{{ 3 }}", "useruseruser563", "uuuuTTTTuuuuuuT"},
        {"{{ d | tojson }}", "{\"role\": \"user\", \"other\": \"user\"}", "uuuuuuuuuuTTTTuuuuuuuuuuuuuuuuuuu"},
        {"{{ 'x' ~ '' ~ empty ~ 'y' }}", "xy", "TT"},
        {"{{ [u] }}{{ u | default('k') }}{{ none_there | default('k') }}", "['UV']UVk", "uuuuuuuuT"},
    };
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        struct template_output out;
        struct error err = {0};
        template_output_init(&out);
        assert_int_equal(render(tables[i].template, "{\"u\":\"UV\",\"r\":\"user\",\"empty\":\"\",\"n\":5,\"d\":{\"role\":\"user\",\"other\":\"user\"}}", &out, &err), 0);
        assert_string_equal(buf_cstr(&out.text), tables[i].text);
        size_t at = 0;
        for (size_t p = 0; p < out.piece_count; p++)
            for (; at < out.pieces[p].end; at++)
                if ((tables[i].whose[at] == 'T') != out.pieces[p].trusted) fail_msg("%s: byte %zu of %s", tables[i].template, at, tables[i].text);
        assert_int_equal(at, strlen(tables[i].whose));
        template_output_fini(&out);
    }
}

static void test_generation(void **state) {
    (void)state;
    struct template_output out;
    struct error err = {0};
    template_output_init(&out);
    assert_int_equal(render("{% for m in l %}[{% generation %}{{ m }}!{% endgeneration %}]{% endfor %}", "{\"l\":[\"ab\",\"c\"]}", &out, &err), 0);
    assert_string_equal(buf_cstr(&out.text), "[ab!][c!]");
    assert_int_equal(out.generated_count, 2);
    assert_int_equal(out.generated[0].start, 1);
    assert_int_equal(out.generated[0].end, 4);
    assert_int_equal(out.generated[1].start, 6);
    assert_int_equal(out.generated[1].end, 8);
    template_output_fini(&out);
}

static void test_clock(void **state) {
    (void)state;
    struct template_output out;
    struct error err = {0};
    template_output_init(&out);
    assert_int_equal(render("{{ strftime_now('%d %b %Y') }}", "{}", &out, &err), 0);
    assert_string_equal(buf_cstr(&out.text), "01 Jan 1970");
    template_output_fini(&out);
}

static void test_no_memory(void **state) {
    (void)state;
    static const char text[] = "{% macro m(a, b=1) %}{{ a ~ b }}{% endmacro %}{% for x in l | sort %}{% set y = x | upper %}{{ m(y) }}{% generation %}{{ l | tojson(indent=1) }}"
                               "{% endgeneration %}{{ x.split('b') | join('-') | replace('a', 'c') }}{% endfor %}{{ namespace(a=1).a }}";
    for (uint64_t n = 1;; n++) {
        struct json *object = NULL;
        struct template *t = NULL;
        struct template_output out;
        struct template_var vars[VARS_MAX];
        template_output_init(&out);
        assert_int_equal(json_parse(SPAN("{\"l\":[\"abab\",\"b\"]}"), &object, NULL), 0);
        size_t count = vars_of(object, vars);
        alloc_fail_at(n);
        int r = template_parse(span_str(text), &t, NULL);
        if (!r) r = template_render(t, vars, count, 0, &out, NULL);
        uint64_t asked = alloc_count();
        alloc_fail_at(0);
        if (r) assert_int_equal(out.text.len, 0);
        template_free(t);
        template_output_fini(&out);
        json_free(object);
        if (asked < n) {
            assert_int_equal(r, 0);
            break;
        }
        assert_int_equal(r, E_NOMEM);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_as_jinja2), cmocka_unit_test(test_messages), cmocka_unit_test(test_limits), cmocka_unit_test(test_taint),
                                       cmocka_unit_test(test_generation), cmocka_unit_test(test_clock), cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
