/* Sealing: opens with its own key only, and not at all once the key is erased. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <sys/stat.h>

#include "base/file.h"
#include "store/seal.h"

struct fixture {
    char dir[64];
    struct keyring *keyring;
};

static int setup(void **state) {
    static struct fixture f;
    struct error err = {0};
    (void)snprintf(f.dir, sizeof f.dir, "/tmp/genloop-seal-XXXXXX");
    if (!mkdtemp(f.dir)) return -1;
    if (keyring_open(f.dir, &f.keyring, &err) < 0) fail_msg("%s", err.message);
    *state = &f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    keyring_close(f->keyring);
    return dir_remove(f->dir, NULL);
}

static void seal_and_open(void **state) {
    struct fixture *f = *state;
    char a[SEAL_KEY_ID_MAX], b[SEAL_KEY_ID_MAX];
    struct buf sealed, plain;
    struct keyring *again;
    buf_init(&sealed, 1000);
    buf_init(&plain, 1000);
    keyring_subject_id(f->keyring, SPAN("t"), SPAN("alice"), a);
    keyring_subject_id(f->keyring, SPAN("t"), SPAN("bob"), b);
    static const struct span texts[] = {{"", 0}, {"x", 1}, {"a prompt with a \0 in it", 23}};
    for (size_t i = 0; i < 3; i++) {
        buf_clear(&sealed);
        buf_clear(&plain);
        assert_int_equal(keyring_seal(f->keyring, a, texts[i], &sealed, NULL), 0);
        if (texts[i].len > 1) assert_true(span_find(buf_span(&sealed), texts[i]) < 0);
        assert_int_equal(keyring_open_sealed(f->keyring, a, buf_span(&sealed), &plain, NULL), 0);
        assert_true(span_eq(buf_span(&plain), texts[i]));
        assert_int_equal(keyring_open_sealed(f->keyring, b, buf_span(&sealed), &plain, NULL), E_NOT_FOUND); /* bob has no key yet */
        for (size_t at = 0; at < sealed.len; at += 7) { /* any byte changed */
            sealed.data[sealed.start + at] = (char)(sealed.data[sealed.start + at] ^ 1);
            assert_int_equal(keyring_open_sealed(f->keyring, a, buf_span(&sealed), &plain, NULL), E_DATA_LOSS);
            sealed.data[sealed.start + at] = (char)(sealed.data[sealed.start + at] ^ 1);
        }
        for (size_t len = 0; len < sealed.len; len++) assert_int_equal(keyring_open_sealed(f->keyring, a, span_sub(buf_span(&sealed), 0, len), &plain, NULL), E_DATA_LOSS);
    }
    struct buf other;
    buf_init(&other, 1000);
    assert_int_equal(keyring_seal(f->keyring, b, SPAN("y"), &other, NULL), 0);
    assert_int_equal(keyring_open_sealed(f->keyring, b, buf_span(&sealed), &plain, NULL), E_DATA_LOSS);
    buf_fini(&other);
    /* Another process: the same ids, the same keys. */
    char same[SEAL_KEY_ID_MAX];
    assert_int_equal(keyring_open(f->dir, &again, NULL), 0);
    keyring_subject_id(again, SPAN("t"), SPAN("alice"), same);
    assert_string_equal(a, same);
    buf_clear(&plain);
    assert_int_equal(keyring_open_sealed(again, a, buf_span(&sealed), &plain, NULL), 0);
    assert_true(span_eq(buf_span(&plain), texts[2]));
    keyring_close(again);
    buf_fini(&sealed);
    buf_fini(&plain);
}

static void ids(void **state) {
    struct fixture *f = *state;
    static const char *const pairs[][2] = {{"", ""}, {"a", ""}, {"", "a"}, {"ab", "c"}, {"a", "bc"}};
    char id[5][SEAL_KEY_ID_MAX];
    for (size_t i = 0; i < 5; i++) {
        keyring_subject_id(f->keyring, span_str(pairs[i][0]), span_str(pairs[i][1]), id[i]);
        assert_int_equal(strlen(id[i]), 64);
        for (size_t j = 0; j < i; j++) assert_string_not_equal(id[i], id[j]);
    }
    struct buf out;
    buf_init(&out, 100);
    static const char *const bad[] = {"", "../secret", "subjects", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdeF"};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(keyring_seal(f->keyring, bad[i], SPAN("x"), &out, NULL), E_INVALID);
        assert_int_equal(keyring_open_sealed(f->keyring, bad[i], SPAN("x"), &out, NULL), E_INVALID);
        assert_int_equal(keyring_erase(f->keyring, bad[i], NULL), E_INVALID);
    }
    buf_fini(&out);
}

static void erased_for_ever(void **state) {
    struct fixture *f = *state;
    char id[SEAL_KEY_ID_MAX], never[SEAL_KEY_ID_MAX], path[200];
    struct buf sealed, plain;
    struct stat st;
    buf_init(&sealed, 1000);
    buf_init(&plain, 1000);
    keyring_subject_id(f->keyring, SPAN("t"), SPAN("carol"), id);
    keyring_subject_id(f->keyring, SPAN("t"), SPAN("dave"), never);
    assert_int_equal(keyring_seal(f->keyring, id, SPAN("secret"), &sealed, NULL), 0);
    (void)snprintf(path, sizeof path, "%s/%s.key", f->dir, id);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(stat(f->dir, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_true(keyring_has(f->keyring, id));
    assert_int_equal(keyring_erase(f->keyring, id, NULL), 0);
    assert_false(keyring_has(f->keyring, id));
    assert_false(keyring_has(f->keyring, never));
    assert_false(keyring_has(f->keyring, "../secret"));
    assert_int_equal(keyring_erase(f->keyring, id, NULL), 0);
    assert_int_equal(keyring_erase(f->keyring, never, NULL), 0);
    assert_false(file_exists(path));
    assert_int_equal(keyring_open_sealed(f->keyring, id, buf_span(&sealed), &plain, NULL), E_NOT_FOUND);
    assert_int_equal(keyring_seal(f->keyring, id, SPAN("again"), &sealed, NULL), E_NOT_FOUND);
    assert_int_equal(keyring_seal(f->keyring, never, SPAN("first"), &sealed, NULL), E_NOT_FOUND);
    buf_fini(&sealed);
    buf_fini(&plain);
}

static pthread_barrier_t barrier;
static struct buf outputs[4];

static void *seal_at_once(void *arg) {
    struct fixture *f = arg;
    static int next;
    int i = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
    char id[SEAL_KEY_ID_MAX];
    keyring_subject_id(f->keyring, SPAN("t"), SPAN("eve"), id);
    (void)pthread_barrier_wait(&barrier);
    return keyring_seal(f->keyring, id, SPAN("together"), &outputs[i], NULL) == 0 ? NULL : "failed";
}

static void first_use_by_many(void **state) {
    struct fixture *f = *state;
    pthread_t threads[4];
    char id[SEAL_KEY_ID_MAX];
    (void)pthread_barrier_init(&barrier, NULL, 4);
    for (int i = 0; i < 4; i++) buf_init(&outputs[i], 200);
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, seal_at_once, f), 0);
    for (int i = 0; i < 4; i++) {
        void *said;
        (void)pthread_join(threads[i], &said);
        assert_null(said);
    }
    (void)pthread_barrier_destroy(&barrier);
    keyring_subject_id(f->keyring, SPAN("t"), SPAN("eve"), id);
    for (int i = 0; i < 4; i++) {
        struct buf plain;
        buf_init(&plain, 100);
        assert_int_equal(keyring_open_sealed(f->keyring, id, buf_span(&outputs[i]), &plain, NULL), 0);
        buf_fini(&plain);
        buf_fini(&outputs[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(seal_and_open, setup, teardown), cmocka_unit_test_setup_teardown(ids, setup, teardown),
        cmocka_unit_test_setup_teardown(erased_for_ever, setup, teardown), cmocka_unit_test_setup_teardown(first_use_by_many, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
