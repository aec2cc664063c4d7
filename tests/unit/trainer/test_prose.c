/* The built-in prose: whole passages of four sentences that fall in two halves, and rows as an evaluation reads them, none twice. */
#include "tests/unit/support/check.h"

#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "gates/gates.h"
#include "services/trainer/prose.h"

static void test_halves(void **state) {
    (void)state;
    for (int i = 0; i < PROSE_PASSAGES; i++) {
        struct span first, second, all = span_str(PROSE[i]);
        prose_halves(i, &first, &second);
        CHECK(first.len + 1 + second.len == all.len && second.len > 40 && first.len > 40, "passage %d", i);
        CHECK(first.data[first.len - 1] == '.' && second.data[second.len - 1] == '.' && second.data[0] >= 'A' && second.data[0] <= 'Z', "passage %d: its halves are no sentences", i);
        int ends = 0;
        for (size_t k = 0; k < all.len; k++) ends += all.data[k] == '.';
        CHECK(ends == PROSE_SENTENCES, "passage %d has %d sentences", i, ends);
        for (int k = 0; k < i; k++) CHECK(!span_eq_str(all, PROSE[k]), "passages %d and %d are one", i, k);
    }
}

static size_t rows(const char *path, const char *key) {
    struct buf text;
    struct error err = {0};
    struct span rest, line, seen[PROSE_PASSAGES * PROSE_SENTENCES];
    size_t n = 0;
    buf_init(&text, 1 << 20);
    assert_int_equal(file_read(path, &text, &err), 0);
    rest = buf_span(&text);
    while (span_cut(&rest, '\n', &line)) {
        struct json *row = NULL;
        if (!line.len) continue;
        CHECK(json_parse(line, &row, &err) == 0 && json_string(json_get(row, key)).len > 10, "%s: %.*s", path, SPAN_ARG(line));
        json_free(row);
        for (size_t k = 0; k < n; k++) CHECK(!span_eq(seen[k], line), "twice: %.*s", SPAN_ARG(line));
        assert_true(n < sizeof seen / sizeof *seen);
        seen[n++] = line;
    }
    buf_fini(&text);
    return n;
}

static void test_rows(void **state) {
    (void)state;
    char folder[] = "/tmp/genloop-prose-XXXXXX", documents[64], prompts[64];
    struct error err = {0};
    assert_non_null(mkdtemp(folder));
    snprintf(documents, sizeof documents, "%s/documents", folder);
    snprintf(prompts, sizeof prompts, "%s/prompts", folder);
    assert_int_equal(prose_write(documents, prompts, &err), 0);
    assert_int_equal(rows(documents, "text"), PROSE_PASSAGES);
    assert_int_equal(rows(prompts, "prompt"), PROSE_PASSAGES * PROSE_SENTENCES);
    /* enough for the gates as they are by default */
    assert_true(PROSE_PASSAGES >= GATE_LIMITS_DEFAULT.documents_min && PROSE_PASSAGES * PROSE_SENTENCES >= GATE_LIMITS_DEFAULT.samples_min);
    assert_int_equal(dir_remove(folder, &err), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_halves), cmocka_unit_test(test_rows)};
    return cmocka_run_group_tests_name("trainer_prose", tests, NULL, NULL);
}
