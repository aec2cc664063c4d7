#include "test.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

static char root[64];

static const char *at(const char *name, char out[256]) {
    snprintf(out, 256, "%s/%s", root, name);
    return out;
}

static void whole_files(void **state) {
    (void)state;
    char p[256];
    struct error err = {0};
    struct buf b;
    buf_init(&b, 10);
    assert_int_equal(file_read(at("none", p), &b, &err), E_NOT_FOUND);
    assert_non_null(strstr(err.message, p));
    assert_int_equal(file_write_durable(at("a", p), SPAN("0123456789"), 0640, &err), 0);
    struct stat st;
    assert_int_equal(stat(p, &st), 0);
    assert_int_equal(st.st_mode & 0777 & ~0640u, 0);
    assert_int_equal(file_read(p, &b, &err), 0);
    assert_string_equal(buf_cstr(&b), "0123456789");
    assert_int_equal(file_read(p, &b, &err), E_TOO_LARGE); /* appends: it is full */
    assert_int_equal(b.len, 10);
    buf_clear(&b);
    assert_int_equal(file_write(p, SPAN("x"), 0644, &err), 0);
    assert_int_equal(file_read(p, &b, &err), 0);
    assert_string_equal(buf_cstr(&b), "x");
    buf_clear(&b);
    assert_int_equal(file_read("/proc/self/status", &b, &err), E_TOO_LARGE); /* it says that it has no bytes */
    assert_int_equal(b.len, 0);
    assert_int_equal(file_read(root, &b, &err), E_IO);
    assert_int_equal(file_write(at("none/a", p), SPAN("x"), 0644, &err), E_NOT_FOUND);
    buf_fini(&b);
    struct file_map m;
    assert_int_equal(file_map_open(&m, at("a", p), &err), 0);
    assert_true(span_eq(span_of(m.data, m.len), SPAN("x")));
    file_map_close(&m);
    file_map_close(&m);
    assert_int_equal(file_write(at("empty", p), SPAN(""), 0644, &err), 0);
    assert_int_equal(file_map_open(&m, p, &err), 0);
    assert_true(m.data == NULL && m.len == 0);
    assert_int_equal(file_map_open(&m, root, &err), E_INVALID);
}

static int join(void *arg, const char *name) {
    char *all = arg;
    size_t n = strlen(all);
    snprintf(all + n, 256 - n, "%s,", name);
    return strcmp(name, "stop") == 0 ? 7 : 0;
}

static void folders(void **state) {
    (void)state;
    char p[256], q[256], all[256] = "";
    struct error err = {0};
    assert_int_equal(dir_make(at("d/e//f/", p), &err), 0);
    assert_int_equal(dir_make(p, &err), 0);
    file_write(at("d/b", p), SPAN(""), 0644, &err);
    file_write(at("d/a", p), SPAN(""), 0644, &err);
    assert_int_equal(dir_list(at("d", p), all, join, &err), 0);
    assert_string_equal(all, "a,b,e,");
    file_write(at("d/stop", p), SPAN(""), 0644, &err);
    file_write(at("d/zz", p), SPAN(""), 0644, &err);
    all[0] = 0;
    assert_int_equal(dir_list(at("d", p), all, join, &err), 7);
    assert_string_equal(all, "a,b,e,stop,");
    assert_int_equal(dir_list(at("none", p), all, join, &err), E_NOT_FOUND);
    assert_int_equal(dir_make(at("d/a", p), &err), E_EXISTS);
    assert_int_equal(dir_make(at("d/a/b", p), &err), E_NOT_FOUND);
    /* a link out of the tree is removed, not followed */
    file_write(at("kept", p), SPAN(""), 0644, &err);
    assert_int_equal(symlink(root, at("d/e/link", q)), 0);
    assert_int_equal(dir_remove(at("d", q), &err), 0);
    assert_false(file_exists(q));
    assert_true(file_exists(p));
    assert_int_equal(dir_remove(q, &err), 0);
}

static int set_up(void **state) {
    (void)state;
    snprintf(root, sizeof root, "/tmp/genloop-test-file-%d", (int)getpid());
    return dir_make(root, NULL);
}

static int tear_down(void **state) {
    (void)state;
    return dir_remove(root, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole_files), cmocka_unit_test(folders)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
