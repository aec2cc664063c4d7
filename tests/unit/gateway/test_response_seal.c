/* Kept responses and whom they are about: what is sealed opens, with the keys of all its subjects and no fewer; nothing is sealed for one that is erased; what is damaged, or no entry, is refused. */
#include "tests/unit/support/check.h"

#include <stdlib.h>

#include "base/file.h"
#include "cache/answers.h"
#include "services/gateway/response_seal.h"

enum { ITEMS_MAX = 1 << 16 };
static char folder[64];
static struct keyring *keyring;
static const struct span record = SPAN("{\"response\":{\"text\":\"the captain\"},\"input\":[]}");

static void name(struct response_subjects *s, const char *subject) {
    char id[SEAL_KEY_ID_MAX];
    keyring_subject_id(keyring, SPAN("tenant"), span_str(subject), id);
    assert_int_equal(response_subjects_add(s, span_str(id)), 0);
}
static struct response_subjects subjects(const char *prefix, size_t n) {
    struct response_subjects s = {.n = 0};
    for (size_t i = 0; i < n; i++) {
        char text[64];
        snprintf(text, sizeof text, "%s-%zu", prefix, i);
        name(&s, text);
    }
    return s;
}

/* What items give: 0 and the record, or why not. */
static int open_items(struct span items, struct buf *plain, struct error *err) {
    struct response_subjects s;
    struct span text;
    buf_clear(plain);
    int r = response_items_read(items, &s, &text);
    if (r) return r;
    if (s.n) return response_unseal(keyring, &s, text, plain, err);
    return buf_append_span(plain, text);
}

static void test_open(void **state) {
    (void)state;
    for (size_t n = 0; n <= RESPONSE_SUBJECTS_MAX; n++) {
        struct response_subjects s = subjects("open", n), found;
        struct error err = {0};
        struct buf items, plain;
        struct span text;
        buf_init(&items, record.len + RESPONSE_SEAL_OVERHEAD);
        buf_init(&plain, ITEMS_MAX);
        CHECK(response_seal(keyring, &s, record, &items, &err) == 0, "%zu subjects: %s", n, err.message);
        assert_true(n == 0 || span_find(buf_span(&items), SPAN("captain")) < 0);
        assert_true(response_items_read(buf_span(&items), &found, &text) == 0 && found.n == n && memcmp(found.ids, s.ids, n * sizeof *s.ids) == 0);
        CHECK(open_items(buf_span(&items), &plain, &err) == 0 && span_eq(buf_span(&plain), record), "%zu subjects: %s", n, err.message);
        buf_fini(&items);
        buf_fini(&plain);
    }
}

/* Whichever of them is erased: what was kept is gone, what others have stays, and nothing is kept for it again. */
static void test_erased(void **state) {
    (void)state;
    for (size_t erased = 0; erased < 3; erased++) {
        char prefix[16];
        snprintf(prefix, sizeof prefix, "erased%zu", erased);
        struct response_subjects all = subjects(prefix, 3), others = {.n = 0};
        struct error err = {0};
        struct buf items, theirs, plain;
        buf_init(&items, ITEMS_MAX);
        buf_init(&theirs, ITEMS_MAX);
        buf_init(&plain, ITEMS_MAX);
        for (size_t i = 0; i < 3; i++)
            if (i != erased) assert_int_equal(response_subjects_add(&others, span_str(all.ids[i])), 0);
        assert_int_equal(response_seal(keyring, &all, record, &items, &err), 0);
        assert_int_equal(response_seal(keyring, &others, record, &theirs, &err), 0);
        assert_int_equal(keyring_erase(keyring, all.ids[erased], &err), 0);
        assert_int_equal(open_items(buf_span(&items), &plain, &err), E_NOT_FOUND);
        assert_true(span_find(buf_span(&plain), SPAN("captain")) < 0);
        CHECK(open_items(buf_span(&theirs), &plain, &err) == 0 && span_eq(buf_span(&plain), record), "%s", err.message);
        buf_clear(&items);
        assert_int_equal(response_seal(keyring, &all, record, &items, &err), E_NOT_FOUND);
        buf_fini(&items);
        buf_fini(&theirs);
        buf_fini(&plain);
    }
}

static void test_named(void **state) {
    struct response_subjects s = {.n = 0}, full = subjects("named", RESPONSE_SUBJECTS_MAX);
    struct buf text;
    struct json *v = NULL;
    (void)state;
    assert_int_equal(response_subjects_add(&s, SPAN("short")), E_INVALID);
    assert_int_equal(response_subjects_add(&s, span_str(full.ids[0])), 0);
    assert_int_equal(response_subjects_add(&s, span_str(full.ids[0])), 0);
    assert_int_equal(s.n, 1);
    assert_int_equal(response_subjects_add(&full, span_str(full.ids[3])), 0);
    assert_int_equal(response_subjects_add(&full, SPAN("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")), E_FULL);
    buf_init(&text, ITEMS_MAX);
    (void)buf_printf(&text, "{\"subjects\":[\"%s\",\"%s\"]}", full.ids[1], full.ids[0]);
    assert_int_equal(json_parse(buf_span(&text), &v, NULL), 0);
    assert_int_equal(response_subjects_take(&s, v), 0);
    assert_true(s.n == 2 && !strcmp(s.ids[0], full.ids[0]) && !strcmp(s.ids[1], full.ids[1]));
    json_free(v);
    assert_int_equal(response_subjects_take(&s, NULL), 0);
    assert_int_equal(json_parse(SPAN("{\"subjects\":[7]}"), &v, NULL), 0);
    assert_int_equal(response_subjects_take(&s, v), E_DATA_LOSS);
    json_free(v);
    buf_fini(&text);
}

static void test_damaged(void **state) {
    struct response_subjects s = subjects("damaged", 2), found;
    struct buf items, plain;
    struct span text;
    (void)state;
    buf_init(&items, ITEMS_MAX);
    buf_init(&plain, ITEMS_MAX);
    assert_int_equal(response_seal(keyring, &s, record, &items, NULL), 0);
    for (size_t n = 0; n < items.len; n++) { /* cut short */
        struct error err = {0};
        assert_int_not_equal(open_items(span_sub(buf_span(&items), 0, n), &plain, &err), 0);
    }
    for (size_t n = 0; n < items.len; n++) { /* a bit changed */
        struct error err = {0};
        char *bytes = span_dup(buf_span(&items));
        assert_non_null(bytes);
        bytes[n] ^= 1;
        assert_int_not_equal(open_items(span_of(bytes, items.len), &plain, &err), 0);
        mem_free(bytes);
    }
    assert_int_equal(response_items_read(SPAN(""), &found, &text), E_DATA_LOSS);
    buf_clear(&items); /* a record behind names: not what is written */
    assert_int_equal(answer_item(&items, 1, span_str(s.ids[0])), 0);
    assert_int_equal(answer_item(&items, 0, record), 0);
    assert_int_equal(response_items_read(buf_span(&items), &found, &text), E_DATA_LOSS);
    buf_clear(&items);
    assert_int_equal(answer_item(&items, 2, record), 0);
    assert_int_equal(response_items_read(buf_span(&items), &found, &text), E_DATA_LOSS);
    buf_fini(&items);
    buf_fini(&plain);
}

static void test_no_room(void **state) {
    struct response_subjects s = subjects("room", 2);
    (void)state;
    for (size_t room = 0; room < record.len + 200; room += 20) {
        struct error err = {0};
        struct buf items;
        buf_init(&items, room);
        assert_int_not_equal(response_seal(keyring, &s, record, &items, &err), 0);
        assert_true(err.message[0]);
        buf_fini(&items);
    }
}

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/genloop-response-seal-XXXXXX");
    return mkdtemp(folder) ? keyring_open(folder, &keyring, NULL) : -1;
}
static int tear_down(void **state) {
    (void)state;
    keyring_close(keyring);
    return dir_remove(folder, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_open), cmocka_unit_test(test_erased), cmocka_unit_test(test_named), cmocka_unit_test(test_damaged), cmocka_unit_test(test_no_room)};
    return cmocka_run_group_tests_name("gateway_response_seal", tests, set_up, tear_down);
}
