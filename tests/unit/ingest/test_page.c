/* Rows out of a version's files: pages in their order and in a drawn one, over several files; and what is wrong is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <zstd.h>

#include "base/alloc.h"
#include "services/ingest/rows.h"

enum { FILES = 3, ROWS = 10, BYTES = 1 << 20 };

static struct {
    char dir[64];
    struct store *store;
    struct object_ref files[FILES], broken;
} t;

static struct object_ref put_rows(int from, int n) {
    struct buf text;
    struct object_ref ref;
    struct error err;
    char packed[65536];
    buf_init(&text, 65536);
    for (int i = 0; i < n; i++) (void)buf_printf(&text, "{\"row\":%d}\n", from + i);
    size_t size = ZSTD_compress(packed, sizeof packed, buf_span(&text).data, text.len, 1);
    assert_false(ZSTD_isError(size));
    if (store_put(t.store, span_of(packed, size), &ref, &err) < 0) fail_msg("%s", err.message);
    buf_fini(&text);
    return ref;
}

static int setup(void **state) {
    char url[80];
    struct error err;
    (void)state;
    (void)snprintf(t.dir, sizeof t.dir, "/tmp/genloop-rows-XXXXXX");
    if (!mkdtemp(t.dir)) return -1;
    (void)snprintf(url, sizeof url, "file:%s", t.dir);
    if (store_open(url, &t.store, &err) < 0) fail_msg("%s", err.message);
    for (int i = 0; i < FILES; i++) t.files[i] = put_rows(i * ROWS, ROWS);
    return store_put(t.store, SPAN("this is no zstd"), &t.broken, &err);
}

static int teardown(void **state) {
    (void)state;
    store_close(t.store);
    return dir_remove(t.dir, NULL);
}

static const char *manifest(int rows_told) {
    static char text[2048];
    (void)snprintf(text, sizeof text,
                   "{\"splits\":{\"train\":{\"samples\":[{\"sha256\":\"%s\",\"rows\":%d},{\"sha256\":\"%s\",\"rows\":%d},{\"sha256\":\"%s\",\"rows\":%d}],"
                   "\"pairs\":{\"sha256\":\"%s\",\"rows\":10}},\"held_out\":{\"samples\":[{\"sha256\":\"%s\",\"rows\":10}],\"pairs\":{\"sha256\":\"%s\",\"rows\":0}}}}",
                   t.files[0].sha256, ROWS, t.files[1].sha256, ROWS, t.files[2].sha256, rows_told, t.files[1].sha256, t.broken.sha256, t.files[0].sha256);
    return text;
}

static int note(void *arg, struct span row) {
    struct buf *out = arg;
    int64_t n = -1;
    span_to_i64(span_sub(row, 7, row.len - 8), &n);
    return buf_printf(out, "%lld ", (long long)n);
}

static void read_as(const struct rows_wanted *wanted, const char *expected, uint64_t total, uint64_t next) {
    struct buf out;
    struct rows_given given = {0};
    struct error err = {0};
    buf_init(&out, 65536);
    if (rows_read(t.store, span_str(manifest(ROWS)), wanted, BYTES, &out, note, &given, &err) < 0) fail_msg("%s", err.message);
    if (expected) assert_string_equal(buf_cstr(&out), expected);
    assert_int_equal(given.total, total);
    assert_int_equal(given.next_offset, next);
    buf_fini(&out);
}

static void test_pages(void **state) {
    (void)state;
    read_as(&(struct rows_wanted){.limit = 3}, "0 1 2 ", 30, 3);
    read_as(&(struct rows_wanted){.limit = 4, .offset = 8}, "8 9 10 11 ", 30, 12); /* over the border of two files */
    read_as(&(struct rows_wanted){.limit = 12, .offset = 9}, "9 10 11 12 13 14 15 16 17 18 19 20 ", 30, 21);
    read_as(&(struct rows_wanted){.limit = 100, .offset = 27}, "27 28 29 ", 30, 0);
    read_as(&(struct rows_wanted){.limit = 3, .offset = 27}, "27 28 29 ", 30, 0);
    read_as(&(struct rows_wanted){.limit = 100, .offset = 30}, "", 30, 0);
    read_as(&(struct rows_wanted){.limit = 100, .offset = UINT64_MAX}, "", 30, 0);
    read_as(&(struct rows_wanted){.limit = 2, .offset = 1, .pairs = true}, "11 12 ", 10, 3);
    read_as(&(struct rows_wanted){.limit = 2, .pairs = true, .held_out = true}, "", 0, 0);
}

/* Pages of one order fit together: each row once. Another seed is another order. */
static void test_drawn(void **state) {
    struct buf whole, other, pieces;
    struct rows_given given;
    struct error err = {0};
    bool seen[FILES * ROWS] = {false};
    (void)state;
    buf_init(&whole, 4096);
    buf_init(&other, 4096);
    buf_init(&pieces, 4096);
    struct rows_wanted w = {.limit = 30, .shuffled = true, .seed = 7};
    assert_int_equal(rows_read(t.store, span_str(manifest(ROWS)), &w, BYTES, &whole, note, &given, &err), 0);
    w.seed = 8;
    assert_int_equal(rows_read(t.store, span_str(manifest(ROWS)), &w, BYTES, &other, note, &given, &err), 0);
    assert_string_not_equal(buf_cstr(&whole), buf_cstr(&other));
    w = (struct rows_wanted){.limit = 7, .shuffled = true, .seed = 7};
    do {
        assert_int_equal(rows_read(t.store, span_str(manifest(ROWS)), &w, BYTES, &pieces, note, &given, &err), 0);
        w.offset = given.next_offset;
    } while (w.offset);
    assert_string_equal(buf_cstr(&whole), buf_cstr(&pieces));
    struct span rest = buf_span(&whole), word;
    while (span_cut(&rest, ' ', &word)) {
        int64_t n;
        if (!word.len) continue;
        assert_int_equal(span_to_i64(word, &n), 0);
        assert_in_range(n, 0, FILES * ROWS - 1);
        assert_false(seen[n]);
        seen[n] = true;
    }
    for (int i = 0; i < FILES * ROWS; i++) assert_true(seen[i]);
    buf_fini(&whole);
    buf_fini(&other);
    buf_fini(&pieces);
}

static void test_limits(void **state) {
    struct buf out;
    struct rows_given given = {0};
    struct error err = {0};
    struct rows_wanted w = {.limit = 30};
    (void)state;
    buf_init(&out, 4096);
    /* A page ends where its bytes do, and the next one goes on there. */
    assert_int_equal(rows_read(t.store, span_str(manifest(ROWS)), &w, 100, &out, note, &given, &err), 0);
    assert_in_range(given.next_offset, 1, 29);
    w.offset = given.next_offset;
    while (w.offset) {
        assert_int_equal(rows_read(t.store, span_str(manifest(ROWS)), &w, 100, &out, note, &given, &err), 0);
        w.offset = given.next_offset;
    }
    assert_string_equal(buf_cstr(&out), "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 ");
    w = (struct rows_wanted){.limit = 30, .shuffled = true};
    assert_int_equal(rows_read(t.store, span_str(manifest(ROWS)), &w, 100, &out, note, &given, &err), E_TOO_LARGE);
    assert_string_equal(err.param, "limit");
    buf_fini(&out);
}

static void test_damage(void **state) {
    struct rows_given given;
    struct error err = {0};
    struct buf out;
    struct rows_wanted w = {.limit = 100};
    (void)state;
    buf_init(&out, 4096);
    assert_int_equal(rows_read(t.store, span_str(manifest(ROWS + 1)), &w, BYTES, &out, note, &given, &err), E_DATA_LOSS); /* one more than there are */
    w.held_out = true;
    assert_int_equal(rows_read(t.store, span_str(manifest(ROWS)), &w, BYTES, &out, note, &given, &err), E_DATA_LOSS); /* no zstd */
    assert_int_equal(rows_read(t.store, SPAN("{\"splits\":{}}"), &w, BYTES, &out, note, &given, &err), E_NOT_FOUND);
    assert_int_equal(rows_read(t.store, SPAN("no JSON"), &w, BYTES, &out, note, &given, &err), E_INVALID);
    buf_fini(&out);
}

static void test_request(void **state) {
    struct rows_wanted w;
    struct error err = {0};
    Genloop__V1__ListRowsRequest q = GENLOOP__V1__LIST_ROWS_REQUEST__INIT;
    (void)state;
    assert_int_equal(rows_wanted_read(&q, &w, &err), 0);
    assert_true(w.limit == ROWS_LIMIT_DEFAULT && !w.held_out && !w.pairs && !w.shuffled);
    q.split = (char *)(uintptr_t)"held_out";
    q.kind = (char *)(uintptr_t)"pairs";
    q.shuffled_case = GENLOOP__V1__LIST_ROWS_REQUEST__SHUFFLED_SEED; /* a seed of 0 is one */
    q.limit = ROWS_LIMIT_MAX;
    assert_int_equal(rows_wanted_read(&q, &w, &err), 0);
    assert_true(w.held_out && w.pairs && w.shuffled && w.seed == 0);
    q.limit = ROWS_LIMIT_MAX + 1;
    assert_int_equal(rows_wanted_read(&q, &w, &err), E_INVALID);
    assert_string_equal(err.param, "limit");
    q.limit = 1;
    q.split = (char *)(uintptr_t)"test";
    assert_int_equal(rows_wanted_read(&q, &w, &err), E_INVALID);
    assert_string_equal(err.param, "split");
    q.split = (char *)(uintptr_t)"";
    q.kind = (char *)(uintptr_t)"tokens";
    assert_int_equal(rows_wanted_read(&q, &w, &err), E_INVALID);
    assert_string_equal(err.param, "kind");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages), cmocka_unit_test(test_drawn), cmocka_unit_test(test_limits), cmocka_unit_test(test_damage), cmocka_unit_test(test_request),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
