/* The local store: what is put comes back, damage is noticed, directories go round, hostile manifests stay inside. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utime.h>

#include "base/alloc.h"
#include "store/store.h"

struct fixture {
    char dir[64], url[80];
    struct store *store;
};

static int setup(void **state) {
    static struct fixture f;
    struct error err = {0};
    (void)snprintf(f.dir, sizeof f.dir, "/tmp/genloop-store-XXXXXX");
    if (!mkdtemp(f.dir)) return -1;
    (void)snprintf(f.url, sizeof f.url, "file:%s", f.dir);
    if (store_open(f.url, &f.store, &err) < 0) fail_msg("%s", err.message);
    *state = &f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    store_close(f->store);
    return dir_remove(f->dir, NULL);
}

static void object_file(const struct fixture *f, const char *sha256, char path[256]) { (void)snprintf(path, 256, "%s/objects/%.2s/%s", f->dir, sha256, sha256 + 2); }

static void damage(const struct fixture *f, const char *sha256) {
    char path[256];
    object_file(f, sha256, path);
    assert_int_equal(chmod(path, 0644), 0);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "X", 1, 0), 1);
    (void)close(fd);
}

static void put_and_get(void **state) {
    struct fixture *f = *state;
    static const struct {
        const char *name;
        struct span bytes;
        const char *sha256;
    } cases[] = {
        {"empty", {"", 0}, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", {"abc", 3}, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"with NUL", {"a\0b", 3}, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct object_ref ref, again;
        struct buf out;
        struct file_map map;
        buf_init(&out, 100);
        assert_int_equal(store_put(f->store, cases[i].bytes, &ref, NULL), 0);
        assert_int_equal(store_put(f->store, cases[i].bytes, &again, NULL), 0);
        assert_string_equal(ref.sha256, again.sha256);
        if (cases[i].sha256) assert_string_equal(ref.sha256, cases[i].sha256);
        assert_int_equal(ref.size, cases[i].bytes.len);
        assert_true(store_has(f->store, ref.sha256));
        assert_int_equal(store_get(f->store, ref.sha256, &out, NULL), 0);
        if (!span_eq(buf_span(&out), cases[i].bytes)) fail_msg("%s: other bytes", cases[i].name);
        assert_int_equal(store_map(f->store, ref.sha256, &map, NULL), 0);
        assert_int_equal(map.len, cases[i].bytes.len);
        file_map_close(&map);
        assert_int_equal(store_delete(f->store, ref.sha256, NULL), 0);
        assert_int_equal(store_delete(f->store, ref.sha256, NULL), 0);
        assert_false(store_has(f->store, ref.sha256));
        buf_clear(&out);
        assert_int_equal(store_get(f->store, ref.sha256, &out, NULL), E_NOT_FOUND);
        assert_int_equal(store_map(f->store, ref.sha256, &map, NULL), E_NOT_FOUND);
        buf_fini(&out);
    }
}

static void damage_is_noticed_and_healed(void **state) {
    struct fixture *f = *state;
    struct object_ref ref;
    struct buf out;
    struct file_map map;
    struct error err = {0};
    buf_init(&out, 100);
    assert_int_equal(store_put(f->store, SPAN("hello"), &ref, NULL), 0);
    damage(f, ref.sha256);
    assert_int_equal(buf_append_str(&out, "before"), 0);
    assert_int_equal(store_get(f->store, ref.sha256, &out, &err), E_DATA_LOSS);
    assert_true(span_eq_str(buf_span(&out), "before"));
    assert_int_equal(store_map(f->store, ref.sha256, &map, NULL), E_DATA_LOSS);
    assert_int_equal(store_put(f->store, SPAN("hello"), &ref, NULL), 0);
    assert_int_equal(store_map(f->store, ref.sha256, &map, NULL), 0);
    file_map_close(&map);
    buf_fini(&out);
}

static void names_are_checked(void **state) {
    struct fixture *f = *state;
    static const char *const names[] = {"", "abc", "../../../../etc/passwd", "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
                                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad0"};
    struct buf out;
    buf_init(&out, 100);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_int_equal(store_get(f->store, names[i], &out, NULL), E_INVALID);
        assert_int_equal(store_delete(f->store, names[i], NULL), E_INVALID);
        assert_false(store_has(f->store, names[i]));
    }
    buf_fini(&out);
    struct store *s;
    assert_int_equal(store_open("s3://bucket", &s, NULL), E_UNSUPPORTED);
    assert_int_equal(store_open("/tmp", &s, NULL), E_INVALID);
    assert_int_equal(store_open("file:", &s, NULL), E_INVALID);
}

static void writer(void **state) {
    struct fixture *f = *state;
    struct store_writer *w;
    struct object_ref ref, whole;
    assert_int_equal(store_writer_open(f->store, 6, &w, NULL), 0);
    assert_int_equal(store_write(w, SPAN("abc"), NULL), 0);
    assert_int_equal(store_write(w, SPAN("defg"), NULL), E_TOO_LARGE);
    assert_int_equal(store_write(w, SPAN("def"), NULL), 0);
    assert_int_equal(store_writer_commit(w, &ref, NULL), 0);
    assert_int_equal(store_put(f->store, SPAN("abcdef"), &whole, NULL), 0);
    assert_string_equal(ref.sha256, whole.sha256);
    assert_int_equal(ref.size, 6);
    assert_int_equal(store_writer_open(f->store, 6, &w, NULL), 0);
    assert_int_equal(store_write(w, SPAN("zzz"), NULL), 0);
    store_writer_abort(w);
    store_writer_abort(NULL);
    char hex[SHA256_HEX_MAX];
    assert_false(store_has(f->store, sha256_hex(SPAN("zzz"), hex)));
}

static int count(void *arg, const char *name) {
    (void)name;
    ++*(int *)arg;
    return 0;
}

static void old_temporary_files_go(void **state) {
    struct fixture *f = *state;
    char old[128], young[128], tmp[128];
    (void)snprintf(old, sizeof old, "%s/tmp/old", f->dir);
    (void)snprintf(young, sizeof young, "%s/tmp/young", f->dir);
    (void)snprintf(tmp, sizeof tmp, "%s/tmp", f->dir);
    assert_int_equal(file_write(old, SPAN("x"), 0644, NULL), 0);
    assert_int_equal(file_write(young, SPAN("x"), 0644, NULL), 0);
    assert_int_equal(utime(old, &(struct utimbuf){.actime = 1, .modtime = 1}), 0);
    struct store *again;
    assert_int_equal(store_open(f->url, &again, NULL), 0);
    store_close(again);
    assert_false(file_exists(old));
    assert_true(file_exists(young));
    int n = 0;
    (void)unlink(young);
    assert_int_equal(dir_list(tmp, &n, count, NULL), 0);
    assert_int_equal(n, 0);
}

static void another_format_is_refused(void **state) {
    struct fixture *f = *state;
    char path[128];
    struct store *s;
    struct error err = {0};
    (void)snprintf(path, sizeof path, "%s/format", f->dir);
    assert_int_equal(file_write(path, SPAN("2\n"), 0644, NULL), 0);
    assert_int_equal(store_open(f->url, &s, &err), E_UNSUPPORTED);
}

static void directories_go_round(void **state) {
    struct fixture *f = *state;
    char dir[128], path[256], out[128], again[128];
    struct object_ref manifest, same;
    struct buf text;
    struct error err = {0};
    buf_init(&text, 10000);
    (void)snprintf(dir, sizeof dir, "%s/in", f->dir);
    (void)snprintf(out, sizeof out, "%s/out", f->dir);
    (void)snprintf(again, sizeof again, "%s/again", f->dir);
    (void)snprintf(path, sizeof path, "%s/b/c", dir);
    assert_int_equal(dir_make(path, NULL), 0);
    static const char *const files[] = {"b/c/deep", "a", "b/x", "b.x"};
    for (size_t i = 0; i < 4; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        assert_int_equal(file_write(path, span_str(files[i]), 0644, NULL), 0);
    }
    if (store_put_dir(f->store, dir, &manifest, &err) < 0) fail_msg("%s", err.message);
    assert_int_equal(store_get(f->store, manifest.sha256, &text, NULL), 0);
    assert_true(span_starts(buf_span(&text), SPAN("{\"format\":1,\"files\":{\"a\":{\"sha256\":\"")));
    if (store_get_dir(f->store, manifest.sha256, out, &err) < 0) fail_msg("%s", err.message);
    for (size_t i = 0; i < 4; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", out, files[i]);
        buf_clear(&text);
        assert_int_equal(file_read(path, &text, NULL), 0);
        assert_true(span_eq_str(buf_span(&text), files[i]));
    }
    assert_int_equal(store_put_dir(f->store, out, &same, NULL), 0);
    assert_string_equal(same.sha256, manifest.sha256);
    assert_int_equal(store_get_dir(f->store, manifest.sha256, out, NULL), E_EXISTS);
    char hex[SHA256_HEX_MAX];
    (void)sha256_hex(SPAN("b/x"), hex);
    struct store *fresh; /* one that has checked nothing yet */
    assert_int_equal(store_open(f->url, &fresh, NULL), 0);
    damage(f, hex);
    assert_int_equal(store_get_dir(fresh, manifest.sha256, again, NULL), E_DATA_LOSS);
    store_close(fresh);
    assert_false(file_exists(again));
    buf_fini(&text);
}

static void hostile_manifests(void **state) {
    struct fixture *f = *state;
    struct object_ref object, manifest;
    char text[600], out[128];
    (void)snprintf(out, sizeof out, "%s/out", f->dir);
    assert_int_equal(store_put(f->store, SPAN("x"), &object, NULL), 0);
    static const char *const paths[] = {"../x", "/etc/x", "a/../../x", "a//b", "", "./x", "a/", "a\\\\b", "a\\u0000b", "..", "x/.", "1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        (void)snprintf(text, sizeof text, "{\"format\":1,\"files\":{\"%s\":{\"sha256\":\"%s\",\"size\":1}}}", paths[i], object.sha256);
        assert_int_equal(store_put(f->store, span_str(text), &manifest, NULL), 0);
        int r = store_get_dir(f->store, manifest.sha256, out, NULL);
        if (r >= 0 || file_exists(out)) fail_msg("path \"%s\" was laid out (%d)", paths[i], r);
    }
    static const char *const bad[] = {"", "[]", "{\"format\":2,\"files\":{}}", "{\"format\":1}", "{\"format\":1,\"files\":{\"a\":{\"sha256\":\"..\"}}}", "{\"format\":1,\"files\":{\"a\":7}}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(store_put(f->store, span_str(bad[i]), &manifest, NULL), 0);
        assert_true(store_get_dir(f->store, manifest.sha256, out, NULL) < 0);
        assert_false(file_exists(out));
    }
}

static void *put_many(void *arg) {
    struct store *s = arg;
    for (int i = 0; i < 30; i++) {
        char text[16];
        struct object_ref ref;
        struct file_map map;
        (void)snprintf(text, sizeof text, "%d", i);
        if (store_put(s, span_str(text), &ref, NULL) < 0 || store_map(s, ref.sha256, &map, NULL) < 0) return "failed";
        file_map_close(&map);
    }
    return NULL;
}

static void many_threads(void **state) {
    struct fixture *f = *state;
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, put_many, f->store), 0);
    for (int i = 0; i < 4; i++) {
        void *said;
        (void)pthread_join(threads[i], &said);
        assert_null(said);
    }
}

static void allocation_failures(void **state) {
    struct fixture *f = *state;
    char dir[128], path[160];
    struct object_ref ref;
    (void)snprintf(dir, sizeof dir, "%s/in", f->dir);
    (void)snprintf(path, sizeof path, "%s/a", dir);
    assert_int_equal(dir_make(dir, NULL), 0);
    assert_int_equal(file_write(path, SPAN("a"), 0644, NULL), 0);
    for (uint64_t n = 1; n < 200; n++) {
        alloc_fail_at(n);
        int r = store_put_dir(f->store, dir, &ref, NULL);
        alloc_fail_at(0);
        if (r == 0) return;
    }
    fail_msg("never enough memory");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(put_and_get, setup, teardown), cmocka_unit_test_setup_teardown(damage_is_noticed_and_healed, setup, teardown),
        cmocka_unit_test_setup_teardown(names_are_checked, setup, teardown), cmocka_unit_test_setup_teardown(writer, setup, teardown),
        cmocka_unit_test_setup_teardown(old_temporary_files_go, setup, teardown), cmocka_unit_test_setup_teardown(another_format_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(directories_go_round, setup, teardown), cmocka_unit_test_setup_teardown(hostile_manifests, setup, teardown),
        cmocka_unit_test_setup_teardown(many_threads, setup, teardown), cmocka_unit_test_setup_teardown(allocation_failures, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
