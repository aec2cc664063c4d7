/* Models of the hub: names and what is chosen, as tables; and fetching, from a stand-in of the hub's paths that redirects, cuts off, ignores ranges and lies. */
#include "tests/unit/support/check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/loop.h"
#include "base/sha256.h"
#include "cli/hub.h"
#include "http/server.h"

static void test_names(void **state) {
    static const struct {
        const char *text, *repo, *revision, *file; /* repo NULL: refused */
    } cases[] = {
        {"org/name", "org/name", "main", ""},
        {"gpt2", "gpt2", "main", ""},
        {"HuggingFaceTB/SmolLM2-135M-Instruct@v1.0", "HuggingFaceTB/SmolLM2-135M-Instruct", "v1.0", ""},
        {"a/b@refs/pr/1:sub/c.gguf", "a/b", "refs/pr/1", "sub/c.gguf"},
        {"a/b:c.gguf", "a/b", "main", "c.gguf"},
        {"", NULL, NULL, NULL}, {"a/b/c", NULL, NULL, NULL}, {"../b", NULL, NULL, NULL}, {"a/..", NULL, NULL, NULL}, {"a/b@", NULL, NULL, NULL}, {"a/b@../x", NULL, NULL, NULL}, {"a/b:", NULL, NULL, NULL},
        {"a/b:/etc/passwd", NULL, NULL, NULL}, {"a/b:../c", NULL, NULL, NULL}, {"a/b:c/../../d", NULL, NULL, NULL}, {"a b/c", NULL, NULL, NULL}, {"a/-b", NULL, NULL, NULL}, {"a/b..c", NULL, NULL, NULL},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct hub_ref ref;
        struct error err = {0};
        int r = hub_ref_parse(span_str(cases[i].text), &ref, &err);
        if (!cases[i].repo) {
            if (r != E_INVALID || !err.message[0]) fail_msg("\"%s\": %d", cases[i].text, r);
        } else if (r != 0 || strcmp(ref.repo, cases[i].repo) != 0 || strcmp(ref.revision, cases[i].revision) != 0 || strcmp(ref.file, cases[i].file) != 0)
            fail_msg("\"%s\": %d, %s %s %s", cases[i].text, r, ref.repo, ref.revision, ref.file);
    }
}

#define SIBLING(NAME) "{\"rfilename\":\"" NAME "\",\"size\":3}"
static void test_choice(void **state) {
    static const struct {
        const char *name, *siblings, *file;
        int code;
        size_t n;
        const char *says;
    } cases[] = {
        {"a model", SIBLING("config.json") "," SIBLING("model.safetensors") "," SIBLING("onnx/model.onnx") "," SIBLING("pytorch_model.bin") "," SIBLING("README.md"), "", 0, 3, NULL},
        {"shards", SIBLING("model-00001-of-00002.safetensors") "," SIBLING("model-00002-of-00002.safetensors") "," SIBLING("model.safetensors.index.json"), "", 0, 3, NULL},
        {"a sentence encoder", SIBLING("model.safetensors") "," SIBLING("modules.json") "," SIBLING("1_Pooling/config.json"), "", 0, 3, NULL},
        {"one file", SIBLING("a.gguf") "," SIBLING("b.gguf"), "b.gguf", 0, 1, NULL},
        {"a file that is not there", SIBLING("a.gguf"), "b.gguf", E_NOT_FOUND, 0, "b.gguf"},
        {"GGUF alone", SIBLING("README.md") "," SIBLING("a.gguf") "," SIBLING("b.gguf"), "", E_UNSUPPORTED, 0, "a.gguf, b.gguf"},
        {"pickled alone", SIBLING("config.json") "," SIBLING("pytorch_model.bin"), "", E_UNSUPPORTED, 0, "safetensors"},
        {"nothing", SIBLING("README.md"), "", E_UNSUPPORTED, 0, "no safetensors"},
        {"no size", "{\"rfilename\":\"model.safetensors\"}", "", E_INVALID, 0, "size"},
        {"no digest", "{\"rfilename\":\"model.safetensors\",\"size\":3,\"lfs\":{\"sha256\":\"xyz\"}}", "", E_INVALID, 0, "SHA-256"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct hub_ref ref = {.repo = "org/name", .revision = "main"};
        struct hub_files files = {0};
        struct error err = {0};
        struct json *root = NULL;
        struct buf text;
        buf_init(&text, 4096);
        (void)buf_printf(&text, "{\"sha\":\"0123abc\",\"siblings\":[%s]}", cases[i].siblings);
        assert_int_equal(json_parse(buf_span(&text), &root, &err), 0);
        (void)snprintf(ref.file, sizeof ref.file, "%s", cases[i].file);
        int r = hub_choose(root, &ref, &files, &err);
        if (r != cases[i].code || (r == 0 && files.n != cases[i].n)) fail_msg("%s: %d, %zu files: %s", cases[i].name, r, files.n, err.message);
        if (cases[i].says && !strstr(err.message, cases[i].says)) fail_msg("%s: %s", cases[i].name, err.message);
        hub_files_fini(&files);
        json_free(root);
        buf_fini(&text);
    }
    struct json *root = NULL;
    struct hub_files files = {0};
    struct hub_ref ref = {.repo = "org/name"};
    assert_int_equal(json_parse(SPAN("{\"a\":1}"), &root, NULL), 0);
    assert_int_equal(hub_choose(root, &ref, &files, NULL), E_INVALID);
    json_free(root);
}

/* ---- the stand-in ---- */

enum { WEIGHTS = 3 << 20 };
static struct loop *loop;
static struct http_server *server;
static pthread_t thread;
static char *weights, digest[SHA256_HEX_MAX], folder[] = "/tmp/genloop-hub-XXXXXX";
static atomic_int questions, pieces, ranges, port, cuts_left, shown_elsewhere;
static atomic_bool ignores_range, unready;
static _Atomic(const char *) refuses; /* x-error-code of a refusal */

static void respond(struct http_exchange *x, int status, struct span body) { (void)http_respond(x, status, "application/json", body); }

/* The weights from `from` on; cut in the middle where a cut is left. */
static void send_weights(struct http_exchange *x, size_t from) {
    size_t to = WEIGHTS;
    bool cut = atomic_load(&cuts_left) > 0;
    if (cut) {
        atomic_fetch_sub(&cuts_left, 1);
        to = from + (WEIGHTS - from) / 2;
    }
    if (!cut) {
        (void)http_respond(x, from ? 206 : 200, "application/octet-stream", span_of(weights + from, to - from));
        return;
    }
    (void)http_stream_begin(x, from ? 206 : 200, "application/octet-stream");
    for (size_t at = from; at < to; at += 65536) /* what the buffer does not take is lost with the rest */
        if (http_stream_write(x, span_of(weights + at, to - at < 65536 ? to - at : 65536)) < 0) break;
    http_abort(x);
}

static void on_request(void *arg, struct http_exchange *x) {
    struct span path = http_path(x), range = http_header(x, "range"), bearer = http_header(x, "authorization");
    char text[1024];
    (void)arg;
    if (atomic_load(&unready)) {
        atomic_store(&unready, false);
        respond(x, 503, SPAN("{}"));
    } else if (atomic_load(&refuses)) {
        (void)http_header_add(x, "x-error-code", span_str(atomic_load(&refuses)));
        respond(x, strcmp(atomic_load(&refuses), "GatedRepo") == 0 ? 403 : strcmp(atomic_load(&refuses), "RepoNotFound") == 0 ? 401 : 404, SPAN("{\"error\":\"no\"}"));
    } else if (span_eq_str(path, "/api/models/org/name/revision/main")) {
        atomic_fetch_add(&questions, 1);
        assert_true(span_eq_str(http_query(x), "blobs=true") && span_eq_str(bearer, "Bearer hf_secret"));
        (void)snprintf(text, sizeof text, "{\"sha\":\"c0ffee\",\"siblings\":[{\"rfilename\":\"config.json\",\"size\":2},{\"rfilename\":\"model.safetensors\",\"size\":%d,\"lfs\":{\"sha256\":\"%s\",\"size\":%d}}]}", WEIGHTS, digest, WEIGHTS);
        respond(x, 200, span_str(text));
    } else if (span_eq_str(path, "/org/name/resolve/c0ffee/config.json")) {
        respond(x, 200, SPAN("{}"));
    } else if (span_eq_str(path, "/org/name/resolve/c0ffee/model.safetensors")) {
        (void)snprintf(text, sizeof text, "http://localhost:%d/elsewhere", atomic_load(&port));
        (void)http_header_add(x, "Location", span_str(text));
        respond(x, 302, SPAN(""));
    } else if (span_eq_str(path, "/elsewhere")) {
        int64_t from = 0;
        atomic_fetch_add(&pieces, 1);
        if (bearer.data) atomic_fetch_add(&shown_elsewhere, 1);
        if (range.data && !atomic_load(&ignores_range)) {
            atomic_fetch_add(&ranges, 1);
            struct span number = span_sub(range, 6, range.len - 7); /* "bytes=N-" */
            assert_int_equal(span_to_i64(number, &from), 0);
        }
        send_weights(x, (size_t)from);
    } else respond(x, 404, SPAN("{}"));
}

static void *serve(void *arg) {
    (void)arg;
    (void)loop_run(loop);
    return NULL;
}

static int set_up(void **state) {
    struct error err = {0};
    (void)state;
    weights = malloc(WEIGHTS);
    for (size_t i = 0; i < WEIGHTS; i++) weights[i] = (char)(i * 2654435761u >> 13);
    (void)sha256_hex(span_of(weights, WEIGHTS), digest);
    loop = loop_new(&err);
    server = loop ? http_server_open(loop, "127.0.0.1:0", NULL, NULL, on_request, &err) : NULL;
    if (!server || !mkdtemp(folder)) return -1;
    atomic_store(&port, http_server_port(server));
    char url[64];
    (void)snprintf(url, sizeof url, "http://127.0.0.1:%d", http_server_port(server));
    (void)setenv("HF_ENDPOINT", url, 1);
    (void)setenv("HF_TOKEN", "hf_secret", 1);
    return pthread_create(&thread, NULL, serve, NULL);
}

static void stop(void *arg) {
    (void)arg;
    http_server_close(server);
    loop_stop(loop);
}

static int tear_down(void **state) {
    (void)state;
    (void)loop_post(loop, stop, NULL);
    pthread_join(thread, NULL);
    loop_free(loop);
    free(weights);
    return dir_remove(folder, NULL);
}

static void progress(void *arg, const char *file, uint64_t done, uint64_t total) {
    uint64_t *last = arg;
    assert_true(file[0] && done <= total && total == WEIGHTS + 2);
    *last = done;
}

static int get(const char *text, char path[HUB_PATH_MAX], uint64_t *done, struct error *err) {
    struct hub_ref ref;
    const struct hub_progress p = {done, progress};
    *err = (struct error){0};
    questions = pieces = ranges = 0;
    assert_int_equal(hub_ref_parse(span_str(text), &ref, err), 0);
    return hub_get(&ref, folder, &p, path, err);
}

static void expect_whole(const char *path) {
    char name[HUB_PATH_MAX + 32];
    struct file_map map = {0};
    (void)snprintf(name, sizeof name, "%s/model.safetensors", path);
    assert_int_equal(file_map_open(&map, name, NULL), 0);
    assert_true(map.len == WEIGHTS && memcmp(map.data, weights, WEIGHTS) == 0);
    file_map_close(&map);
    (void)snprintf(name, sizeof name, "%s/model.safetensors.part", path);
    assert_false(file_exists(name));
}

static void forget(void) { assert_int_equal(dir_remove(folder, NULL), 0); }

static void test_fetch(void **state) {
    char path[HUB_PATH_MAX], want[HUB_PATH_MAX];
    struct error err;
    uint64_t done = 0;
    (void)state;
    if (get("org/name", path, &done, &err) != 0) fail_msg("%s", err.message);
    (void)snprintf(want, sizeof want, "%s/org--name/c0ffee", folder);
    assert_string_equal(path, want);
    assert_int_equal(done, WEIGHTS + 2);
    assert_int_equal(shown_elsewhere, 0); /* the token is the hub's alone */
    expect_whole(path);
    assert_int_equal(get("org/name", path, &done, &err), 0); /* again: one question */
    assert_int_equal(questions, 1);
    assert_int_equal(pieces, 0);
    forget();
}

static void test_cut(void **state) {
    char path[HUB_PATH_MAX];
    struct error err;
    uint64_t done = 0;
    (void)state;
    cuts_left = 3;
    unready = true;
    if (get("org/name", path, &done, &err) != 0) fail_msg("%s", err.message);
    assert_int_equal(pieces, 4);
    assert_true(ranges >= 1);
    expect_whole(path);
    forget();
    cuts_left = 1; /* and one that knows no ranges sends it whole */
    ignores_range = true;
    if (get("org/name", path, &done, &err) != 0) fail_msg("%s", err.message);
    ignores_range = false;
    expect_whole(path);
    forget();
}

static void test_left_over(void **state) {
    char path[HUB_PATH_MAX], part[HUB_PATH_MAX + 64];
    struct error err;
    uint64_t done = 0;
    (void)state;
    (void)snprintf(path, sizeof path, "%s/org--name/c0ffee", folder);
    assert_int_equal(dir_make(path, &err), 0);
    (void)snprintf(part, sizeof part, "%s/model.safetensors.part", path);
    assert_int_equal(file_write(part, span_of(weights, WEIGHTS / 3), 0644, &err), 0);
    if (get("org/name", path, &done, &err) != 0) fail_msg("%s", err.message);
    assert_int_equal(ranges, 1);
    expect_whole(path);
    forget();
    /* What is not a beginning of it is found by its digest, and goes. */
    assert_int_equal(dir_make(path, &err), 0);
    assert_int_equal(file_write(part, SPAN("something else"), 0644, &err), 0);
    assert_int_equal(get("org/name", path, &done, &err), E_DATA_LOSS);
    assert_non_null(strstr(err.message, digest));
    assert_false(file_exists(part));
    assert_int_equal(get("org/name", path, &done, &err), 0);
    expect_whole(path);
    forget();
}

static void test_refusals(void **state) {
    static const struct {
        const char *code;
        int error;
        const char *says;
    } cases[] = {{"RepoNotFound", E_NOT_FOUND, "HF_TOKEN"}, {"GatedRepo", E_DENIED, "terms"}, {"RevisionNotFound", E_NOT_FOUND, "revision main"}};
    char path[HUB_PATH_MAX];
    struct error err;
    uint64_t done = 0;
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        atomic_store(&refuses, cases[i].code);
        int r = get("org/name", path, &done, &err);
        if (r != cases[i].error || !strstr(err.message, cases[i].says)) fail_msg("%s: %d, %s", cases[i].code, r, err.message);
    }
    atomic_store(&refuses, NULL);
    assert_int_equal(get("org/name:other.gguf", path, &done, &err), E_NOT_FOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_names), cmocka_unit_test(test_choice), cmocka_unit_test(test_fetch), cmocka_unit_test(test_cut), cmocka_unit_test(test_left_over), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
