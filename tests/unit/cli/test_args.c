/* The command line against a verb's row, the help and completion that come from the table, and what logs and progress look like. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/log_file.h"
#include "cli/output.h"
#include "cli/platform.h"

static const struct cli_option OPTIONS[] = {
    {.name = "--home", .kind = CLI_DIR, .value = "DIR", .doc = "home"},
    {.name = "--port", .kind = CLI_INT, .value = "N", .min = 1, .max = 65535, .doc = "port"},
    {.name = "--share", .kind = CLI_REAL, .value = "X", .doc = "share"},
    {.name = "--detach", .kind = CLI_FLAG, .doc = "detach", .letter = 'd'},
    {.name = "--kind", .kind = CLI_TEXT, .value = "unet|vae", .doc = "kind"},
    {.name = "--label", .kind = CLI_TEXT, .value = "TEXT", .doc = "label", .repeat = true},
    {0},
};
static const struct verb VERB = {.name = "try", .operands = "NAME [MORE]", .operands_min = 1, .operands_max = 2, .summary = "Try", .options = OPTIONS, .json = true};

enum { WORDS_MAX = 10 };

static void test_refused(void **state) {
    static const struct {
        const char *words[WORDS_MAX];
        const char *says;
    } cases[] = {
        {{NULL}, "something is missing: NAME [MORE]"},
        {{"a", "b", "c", NULL}, "\"c\" is too much"},
        {{"a", "--nothing", NULL}, "unknown option \"--nothing\""},
        {{"a", "-x", NULL}, "unknown option \"-x\""},
        {{"a", "-dx", NULL}, "a letter stands alone"},
        {{"a", "--port", NULL}, "--port needs a value: N"},
        {{"a", "--home", "--detach", NULL}, "--home needs a value: DIR"},
        {{"a", "--port", "x", NULL}, "whole number, not \"x\""},
        {{"a", "--port", "1.5", NULL}, "whole number"},
        {{"a", "--port=0", NULL}, "must be from 1 to 65535, not 0"},
        {{"a", "--port=99999999999999999999", NULL}, "whole number"},
        {{"a", "--share", "half", NULL}, "must be a number, not \"half\""},
        {{"a", "--detach=yes", NULL}, "--detach takes no value"},
        {{"a", "--kind", "gan", NULL}, "must be one of unet|vae, not \"gan\""},
        {{"a", "--hom", "x", NULL}, "unknown option \"--hom\""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cli *c = NULL;
        struct error err = {0};
        int n = 0;
        while (cases[i].words[n]) n++;
        int r = cli_parse(&VERB, n, (char *const *)(uintptr_t)cases[i].words, &c, &err);
        if (r != E_INVALID || c || !strstr(err.message, cases[i].says)) fail_msg("case %zu: %d, \"%s\" instead of \"%s\"", i, r, err.message, cases[i].says);
    }
}

static void test_taken(void **state) {
    static const char *const words[] = {"one", "--home", "/x", "-d", "--port=81", "--label", "a", "--port", "82", "--label=--b", "--share", "-0.5", "--json", "--", "--two"};
    struct cli *c = NULL;
    (void)state;
    assert_int_equal(cli_parse(&VERB, sizeof words / sizeof *words, (char *const *)(uintptr_t)words, &c, NULL), 0);
    assert_int_equal(cli_operands(c), 2);
    assert_string_equal(cli_operand(c, 1), "--two");
    assert_null(cli_operand(c, 2));
    assert_string_equal(cli_text(c, "--home"), "/x");
    assert_int_equal(cli_int(c, "--port", 0), 82); /* the last counts */
    assert_true(cli_flag(c, "--detach"));
    assert_true(cli_json(c));
    assert_true(cli_real(c, "--share", 0) == -0.5);
    assert_string_equal(cli_text_at(c, "--label", 0), "a");
    assert_string_equal(cli_text_at(c, "--label", 1), "--b");
    assert_null(cli_text_at(c, "--label", 2));
    assert_null(cli_text(c, "--kind"));
    cli_free(c);
    static const char *const help[] = {"one", "--help"};
    assert_int_equal(cli_parse(&VERB, 2, (char *const *)(uintptr_t)help, &c, NULL), E_CANCELLED);
}

static void test_many_options(void **state) {
    const char *words[CLI_OPTIONS_MAX + 2] = {"one"};
    struct cli *c = NULL;
    struct error err = {0};
    (void)state;
    for (int i = 1; i < CLI_OPTIONS_MAX + 2; i++) words[i] = "--detach";
    assert_int_equal(cli_parse(&VERB, CLI_OPTIONS_MAX + 1, (char *const *)(uintptr_t)words, &c, &err), 0);
    cli_free(c);
    assert_int_equal(cli_parse(&VERB, CLI_OPTIONS_MAX + 2, (char *const *)(uintptr_t)words, &c, &err), E_INVALID);
}

/* ---- logs ---- */

static void test_log_lines(void **state) {
    static const struct {
        const char *line;
        bool text;
        const char *out;
    } cases[] = {
        {"{\"time\":\"2026-11-25T16:00:00.000Z\",\"level\":\"info\"}", false, "{\"time\":\"2026-11-25T16:00:00.000Z\",\"level\":\"info\"}\n"},
        {"2026-11-25T16:00:00.000Z info  ingest a.b: c", true, "2026-11-25T16:00:00.000Z info  ingest a.b: c\n"},
        {"77:M 25 Nov 2026 16:00:00.123 * Ready", false, "{\"time\":\"1970-01-01T00:00:00.000Z\",\"level\":\"info\",\"service\":\"log\",\"event\":\"redis\",\"message\":\"Ready\"}\n"},
        {"77:M 25 Nov 2026 16:00:00.123 # Low \"memory\"", false, "{\"time\":\"1970-01-01T00:00:00.000Z\",\"level\":\"warn\",\"service\":\"log\",\"event\":\"redis\",\"message\":\"Low \\\"memory\\\"\"}\n"},
        {"77:signal-handler (1) Received SIGTERM", false, "{\"time\":\"1970-01-01T00:00:00.000Z\",\"level\":\"info\",\"service\":\"log\",\"event\":\"redis\",\"message\":\"signal-handler (1) Received SIGTERM\"}\n"},
        {"assertion failed: x", false, "{\"time\":\"1970-01-01T00:00:00.000Z\",\"level\":\"error\",\"service\":\"log\",\"event\":\"output\",\"message\":\"assertion failed: x\"}\n"},
        {"a\x1b[2J\xff", true, "1970-01-01T00:00:00.000Z error log output: a [2J\xff\n"},
        {"77:M", false, "{\"time\":\"1970-01-01T00:00:00.000Z\",\"level\":\"error\",\"service\":\"log\",\"event\":\"output\",\"message\":\"77:M\"}\n"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf out;
        buf_init(&out, 4096);
        assert_int_equal(log_line_render("log", cases[i].text, 0, span_str(cases[i].line), &out), 0);
        if (!span_eq_str(buf_span(&out), cases[i].out)) fail_msg("%s: %s", cases[i].line, buf_cstr(&out));
        buf_fini(&out);
    }
}

/* Lines arrive in pieces and are whole in the file; full files move on and the oldest goes. */
static void test_log_rotation(void **state) {
    char home[] = "/tmp/genloop-test-XXXXXX", path[64];
    struct log_file f;
    struct buf all;
    (void)state;
    assert_non_null(mkdtemp(home));
    (void)snprintf(path, sizeof path, "%s/logs", home);
    assert_int_equal(dir_make(path, NULL), 0);
    assert_int_equal(log_file_open(&f, home, "x", 1000, 2, false, NULL), 0);
    for (int i = 0; i < 60; i++) {
        char line[80];
        int n = snprintf(line, sizeof line, "{\"time\":\"\",\"level\":\"%s\",\"message\":\"number %02d\"}\n", i == 30 ? "error" : "info", i);
        for (int k = 0; k < n; k += 7) log_file_feed(&f, span_of(line + k, (size_t)(n - k < 7 ? n - k : 7)));
    }
    assert_string_equal(f.last_error, "number 30");
    log_file_feed(&f, SPAN("without an end"));
    log_file_close(&f);
    buf_init(&all, 1 << 16);
    static const char *const names[] = {"x.log.2", "x.log.1", "x.log"};
    for (int i = 0; i < 3; i++) {
        size_t before = all.len;
        (void)snprintf(path, sizeof path, "%s/logs/%s", home, names[i]);
        assert_int_equal(file_read(path, &all, NULL), 0);
        assert_true(all.len - before <= 1000 && all.len > before);
    }
    (void)snprintf(path, sizeof path, "%s/logs/x.log.3", home);
    assert_false(file_exists(path));
    struct span rest = buf_span(&all), line;
    int last = -1, n = 0;
    while (span_cut(&rest, '\n', &line)) {
        struct json *root = NULL;
        int64_t number;
        assert_int_equal(json_parse(line, &root, NULL), 0);
        struct span message = json_string(json_get(root, "message"));
        if (span_starts(message, SPAN("number ")) && span_to_i64(span_skip(message, 7), &number) == 0) {
            assert_true(last < 0 || number == last + 1);
            last = (int)number;
        } else {
            assert_true(span_eq_str(message, "without an end"));
        }
        json_free(root);
        n++;
    }
    assert_int_equal(last, 59);
    assert_true(n > 20 && n < 60);
    buf_fini(&all);
    assert_int_equal(dir_remove(home, NULL), 0);
}

/* ---- tables, figures, progress ---- */

static void test_table(void **state) {
    struct table t;
    struct buf out;
    (void)state;
    buf_init(&out, 4096);
    table_init(&t, "NAME|>LAG|NOTE");
    table_cell(&t, "gateway");
    table_cell(&t, "%d", 7);
    table_cell(&t, "%s", "");
    table_cell(&t, "größe"); /* columns count characters */
    table_cell(&t, "1234");
    table_cell(&t, "a\nb");
    assert_int_equal(table_render(&t, &out), 0);
    assert_string_equal(buf_cstr(&out), "NAME      LAG  NOTE\ngateway     7\ngröße    1234  a b\n");
    table_fini(&t);
    buf_fini(&out);
}

static void test_figures(void **state) {
    char out[FIGURE_MAX];
    (void)state;
    assert_string_equal(figure_bytes(0, out), "0 B");
    assert_string_equal(figure_bytes(1536, out), "1.5 KiB");
    assert_string_equal(figure_bytes((uint64_t)300 << 20, out), "300 MiB");
    assert_string_equal(figure_ms(340, out), "340 ms");
    assert_string_equal(figure_ms(9940, out), "9.9 s");
    assert_string_equal(figure_ms(200000, out), "3 min 20 s");
    assert_string_equal(figure_ms(86400000LL * 3 + 3600000, out), "3 d 1 h");
    assert_string_equal(figure_count(950, out), "950");
    assert_string_equal(figure_count(12345, out), "12.3 k");
    assert_string_equal(figure_count(4.5e6, out), "4.5 M");
}

static void test_progress(void **state) {
    static const struct {
        struct progress p;
        int width;
        const char *line;
    } cases[] = {
        {{.label = "train", .unit = "steps", .total = 200, .done = 50, .rate = 10, .note = "loss 2.31"}, 80, "train  25% 50 of 200 steps, 10/s, 15 s left, loss 2.31"},
        {{.label = "train", .unit = "steps", .total = 200, .done = 50, .rate = 10, .terminal = true}, 80, "train [####............]  25% 50 of 200 steps, 10/s, 15 s left"},
        {{.label = "train", .unit = "steps", .total = 200, .done = 50, .rate = 10, .terminal = true}, 30, "train  25% 50 of 200 steps, 1"},
        {{.label = "upload", .unit = "B", .done = 2048}, 80, "upload 2.0 KiB"},
        {{.label = "upload", .unit = "B", .total = 4096, .done = 4096, .rate = 100, .finished = true}, 80, "upload 100% 4.0 KiB of 4.0 KiB in 2.0 s"},
        {{.label = "more", .unit = "x", .total = 10, .done = 12, .rate = 1}, 80, "more 100% 12 of 10 x, 1/s"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[256];
        progress_render(&cases[i].p, 2000, cases[i].width, line, sizeof line);
        if (strcmp(line, cases[i].line) != 0) fail_msg("case %zu: \"%s\" instead of \"%s\"", i, line, cases[i].line);
    }
}

/* ---- the configuration that the first `up` writes ---- */

static void test_template(void **state) {
    struct buf out;
    struct json *root = NULL;
    (void)state;
    buf_init(&out, 1 << 16);
    assert_int_equal(platform_template("127.0.0.1:8123", &out), 0);
    assert_int_equal(yaml_parse(buf_span(&out), &root, NULL), 0);
    assert_true(span_eq_str(json_string(json_get(json_get(root, "gateway"), "listen")), "127.0.0.1:8123"));
    assert_int_equal(json_size(root), 1);
    json_free(root);
    buf_fini(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_refused), cmocka_unit_test(test_taken), cmocka_unit_test(test_many_options), cmocka_unit_test(test_log_lines), cmocka_unit_test(test_log_rotation),
                                       cmocka_unit_test(test_table), cmocka_unit_test(test_figures), cmocka_unit_test(test_progress), cmocka_unit_test(test_template)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
