/*
 * Weights in other types. The writer: what it writes the reader reads, the same calls give the same bytes, a file that is not finished is not there. Quantizing: every parameter of every family is found
 * again with the value that the type makes of it, as rows and as one flat array; what lies about its shapes, or is another's file, is refused.
 */
#include "tests/unit/support/check.h"

#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "model/gguf_write.h"
#include "model/quantize.h"
#include "tests/unit/engine/support/tiny.h"

static char folder[64];
static char *at(const char *name) {
    static char ring[4][256];
    static int turn;
    char *path = ring[turn++ % 4];
    snprintf(path, 256, "%s/%s", folder, name);
    return path;
}
static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/genloop-quantize-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}
static int tear_down(void **state) {
    (void)state;
    return dir_remove(folder, NULL);
}

/* ---- the writer ---- */

static void write_sample(const char *path) {
    struct gguf_writer *w = NULL;
    struct error err = {0};
    const struct span words[] = {SPAN("one"), SPAN(""), SPAN("東京")};
    const float scores[] = {0.5f, -1, 3};
    const int32_t types[] = {1, -2, 3};
    float a[3] = {1, 2, 3}, b[2 * 32];
    uint8_t blocks[2 * 34];
    for (int i = 0; i < 64; i++) b[i] = (float)i - 20;
    assert_int_equal(tensor_from_f32(TENSOR_Q8_0, b, 64, blocks), 0);
    assert_int_equal(gguf_writer_new(&w, path, &err), 0);
    gguf_put_string(w, "general.architecture", SPAN("test"));
    gguf_put_u32(w, "n", 7);
    gguf_put_f32(w, "eps", 0.25f);
    gguf_put_bool(w, "flag", true);
    gguf_put_strings(w, "words", words, 3);
    gguf_put_numbers(w, "scores", GGUF_F32, scores, 3);
    gguf_put_numbers(w, "types", GGUF_I32, types, 3);
    assert_int_equal(gguf_writer_add(w, SPAN("a"), TENSOR_F32, (uint64_t[]){3}, 1, &err), 0);
    assert_int_equal(gguf_writer_add(w, SPAN("b"), TENSOR_Q8_0, (uint64_t[]){2, 32}, 2, &err), 0);
    assert_int_equal(gguf_writer_add(w, SPAN("c"), TENSOR_F32, (uint64_t[]){1, 3, 1}, 3, &err), 0);
    assert_int_equal(gguf_writer_write(w, a, sizeof a, &err), 0);
    assert_int_equal(gguf_writer_write(w, blocks, 5, &err), 0); /* pieces of any size */
    assert_int_equal(gguf_writer_write(w, blocks + 5, sizeof blocks - 5, &err), 0);
    assert_int_equal(gguf_writer_commit(w, &err), E_STATE);
    assert_false(file_exists(path));
    assert_int_equal(gguf_writer_write(w, a, sizeof a, &err), 0);
    assert_int_equal(gguf_writer_write(w, a, 1, &err), E_STATE); /* more than there is */
    CHECK(gguf_writer_commit(w, &err) == 0, "%s", err.message);
    gguf_writer_free(w);
}

static void test_writer(void **state) {
    struct error err = {0};
    struct gguf *g = NULL;
    struct buf first, second;
    (void)state;
    write_sample(at("a.gguf"));
    write_sample(at("b.gguf"));
    buf_init(&first, 1 << 20);
    buf_init(&second, 1 << 20);
    assert_int_equal(file_read(at("a.gguf"), &first, &err), 0);
    assert_int_equal(file_read(at("b.gguf"), &second, &err), 0);
    assert_true(span_eq(buf_span(&first), buf_span(&second)));
    CHECK(gguf_open(&g, at("a.gguf"), &err) == 0, "%s", err.message);
    assert_true(span_eq_str(gguf_string(g, "general.architecture"), "test"));
    assert_int_equal(gguf_integer(g, "n", 0), 7);
    assert_true(gguf_real(g, "eps", 0) == 0.25 && gguf_bool(g, "flag", false));
    struct span rest = gguf_find(g, "words")->elements;
    assert_true(span_eq_str(gguf_next_string(&rest), "one") && !gguf_next_string(&rest).len && span_eq_str(gguf_next_string(&rest), "東京"));
    assert_true(gguf_number(gguf_find(g, "scores"), 1) == -1 && gguf_number(gguf_find(g, "types"), 1) == -2);
    const struct gguf_tensor *b = gguf_tensor_find(g, SPAN("b")), *c = gguf_tensor_find(g, SPAN("c"));
    float values[64];
    assert_true(b && b->rows == 2 && b->cols == 32 && b->type == TENSOR_Q8_0 && (uintptr_t)b->data % GGUF_ALIGNMENT == 0);
    tensor_to_f32(b->type, b->data, 64, values);
    assert_true(fabsf(values[63] - 43) < 0.5f);
    assert_true(c && c->dims == 3 && c->shape[0] == 1 && c->shape[1] == 3 && c->shape[2] == 1 && memcmp(c->data, (float[]){1, 2, 3}, 12) == 0);
    gguf_close(g);
    buf_fini(&first);
    buf_fini(&second);
}

static void test_writer_refuses(void **state) {
    struct gguf_writer *w = NULL;
    struct error err = {0};
    char *path = at("never.gguf");
    (void)state;
    assert_int_equal(gguf_writer_new(&w, path, &err), 0);
    assert_int_equal(gguf_writer_add(w, SPAN(""), TENSOR_F32, (uint64_t[]){3}, 1, &err), E_INVALID);
    assert_int_equal(gguf_writer_add(w, SPAN("odd"), TENSOR_Q4_0, (uint64_t[]){2, 33}, 2, &err), E_INVALID);
    assert_int_equal(gguf_writer_add(w, SPAN("five"), TENSOR_F32, (uint64_t[]){1, 1, 1, 1, 1}, 5, &err), E_INVALID);
    assert_int_equal(gguf_writer_add(w, SPAN("huge"), TENSOR_F32, (uint64_t[]){UINT64_MAX, 2, 2}, 3, &err), E_TOO_LARGE);
    assert_int_equal(gguf_writer_add(w, SPAN("huge"), TENSOR_F32, (uint64_t[]){UINT64_MAX / 2, 2}, 2, &err), E_TOO_LARGE);
    assert_int_equal(gguf_writer_add(w, SPAN("x"), TENSOR_F32, (uint64_t[]){2}, 1, &err), 0);
    assert_int_equal(gguf_writer_write(w, "1234", 4, &err), 0);
    assert_int_equal(gguf_writer_add(w, SPAN("late"), TENSOR_F32, (uint64_t[]){2}, 1, &err), E_STATE);
    gguf_writer_free(w); /* half-way: nothing stays */
    assert_false(file_exists(path));
    assert_int_equal(gguf_writer_new(&w, at("no/such/folder/x.gguf"), &err), 0);
    assert_int_equal(gguf_writer_commit(w, &err), E_NOT_FOUND);
    gguf_writer_free(w);
}

/* ---- quantizing ---- */

/* DIR with its weights in the type, beside the rest of its files. */
static void quantized(const char *dir, const char *name, enum tensor_type type) {
    static const char *const files[] = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"};
    struct error err = {0};
    char from[512], to[512];
    assert_int_equal(dir_make(at(name), &err), 0);
    for (size_t i = 0; i < COUNT(files); i++) {
        snprintf(from, sizeof from, "%s/%s", dir, files[i]);
        snprintf(to, sizeof to, "%s/%s", at(name), files[i]);
        assert_int_equal(link(from, to), 0);
    }
    snprintf(to, sizeof to, "%s/" MODEL_WEIGHTS_FILE, at(name));
    CHECK(model_quantize(dir, to, type, &err) == 0, "%s: %s", dir, err.message);
}

static void check_param(const char *arch, const struct model_param *p, const float *original, const struct model_view *v, const float *flat, enum tensor_type wanted, bool kept) {
    size_t n = (size_t)p->rows * p->cols, size = 0;
    float *read = mem_calloc(n, sizeof *read), *expected = mem_calloc(n, sizeof *expected);
    uint8_t *packed;
    assert_int_equal(tensor_size(v->type, p->rows, p->cols, &size), 0);
    packed = mem_alloc(size);
    assert_true(read && expected && packed);
    CHECK(v->type == (kept ? TENSOR_F32 : wanted), "%s: %s is stored as %s", arch, model_role_name(p->role), tensor_type_name(v->type));
    assert_int_equal(tensor_from_f32(v->type, original, n, packed), 0);
    tensor_to_f32(v->type, packed, n, expected);
    model_view_to_f32(v, read);
    CHECK(memcmp(read, expected, n * sizeof *read) == 0, "%s: %s of layer %u (%u) is another", arch, model_role_name(p->role), p->layer, p->index);
    CHECK(memcmp(flat, expected, n * sizeof *read) == 0, "%s: %s of layer %u, flat, is another", arch, model_role_name(p->role), p->layer);
    mem_free(read);
    mem_free(expected);
    mem_free(packed);
}

static void check_model(const char *arch, const char *dir, const struct model_weights *original, enum tensor_type type) {
    struct model_dir m = {0}, flat = {0};
    struct error err = {0};
    char name[64];
    size_t packed = 0;
    snprintf(name, sizeof name, "%s-%s", arch, tensor_type_name(type));
    quantized(dir, name, type);
    CHECK(model_dir_load(&m, at(name), MODEL_WEIGHTS_MAP, 0, &err) == 0, "%s: %s", arch, err.message);
    CHECK(model_dir_load(&flat, at(name), MODEL_WEIGHTS_FLAT, 0, &err) == 0, "%s: %s", arch, err.message);
    assert_int_equal(m.weights.param_count, original->param_count);
    for (size_t i = 0; i < m.weights.param_count; i++) {
        const struct model_param *p = &m.weights.params[i];
        bool small = p->rows == 1 || p->role == MODEL_ROUTER_W || p->role == MODEL_EMBED_POSITIONS || p->role == MODEL_ATTN_Q_NORM_W || p->role == MODEL_ATTN_K_NORM_W ||
                     p->role == MODEL_ATTN_POSITION_W;
        bool rough = type == TENSOR_Q4_0 || type == TENSOR_Q4_1, head = p->role == MODEL_EMBED_TOKENS || p->role == MODEL_LM_HEAD;
        enum tensor_type wanted = rough && head ? TENSOR_Q8_0 : type;
        bool kept = small || p->cols % tensor_block(wanted) != 0;
        packed += !kept;
        check_param(arch, p, original->data[i], &m.weights.views[i], flat.weights.flat + p->offset, wanted, kept);
    }
    assert_true(packed > 0);
    model_dir_fini(&m);
    model_dir_fini(&flat);
}

static void test_families(void **state) {
    static const char *const archs[] = {"llama", "gpt2", "phi3", "gpt_neox", "mixtral", "qwen3_moe", "gemma2", "stablelm", "opt", "granite", "t5", "umt5"};
    (void)state;
    for (size_t i = 0; i < COUNT(archs); i++) {
        struct tiny t;
        tiny_make(&t, archs[i], 5 + i);
        check_model(archs[i], t.path, &t.weights, TENSOR_BF16); /* widths are no multiple of 32: blocks are for the next test */
        tiny_remove(&t);
    }
}

/* A model whose rows are whole blocks, in random values. */
static void test_types(void **state) {
    static const enum tensor_type types[] = {TENSOR_F16, TENSOR_Q8_0, TENSOR_Q4_0, TENSOR_Q4_1};
    struct model_config c;
    struct model_weights w = {0};
    struct error err = {0};
    struct tiny t;
    (void)state;
    tiny_make(&t, "llama", 3);
    model_config_default(&c, model_arch_find(SPAN("llama")), 2, 64, 4, 2, TINY_CONTEXT, TINY_VOCAB);
    c.ffn = 96;
    CHECK(model_weights_new(&w, &c, &err) == 0, "%s", err.message);
    for (size_t i = 0; i < w.flat_len; i++) w.flat[i] = sinf((float)i * 0.7f) * 0.3f;
    const struct model_dir_parts parts = {.weights = &w, .dtype = DTYPE_F32, .tokenizer = t.tokenizer};
    char blocks[256];
    snprintf(blocks, sizeof blocks, "%s", at("blocks"));
    CHECK(model_dir_write(blocks, &parts, &err) == 0, "%s", err.message);
    for (size_t i = 0; i < COUNT(types); i++) check_model("blocks", blocks, &w, types[i]);
    /* from one quantized model to another, and again to the type that it has: the same file */
    char first[256], again[256];
    struct buf a, b;
    snprintf(first, sizeof first, "%s/" MODEL_WEIGHTS_FILE, at("blocks-Q8_0"));
    snprintf(again, sizeof again, "%s", at("again.gguf"));
    buf_init(&a, 16 << 20);
    buf_init(&b, 16 << 20);
    CHECK(model_quantize(at("blocks-Q8_0"), again, TENSOR_Q8_0, &err) == 0, "%s", err.message);
    assert_true(file_read(first, &a, &err) == 0 && file_read(again, &b, &err) == 0 && span_eq(buf_span(&a), buf_span(&b)));
    /* a number that is none */
    w.flat[w.flat_len / 2] = NAN;
    CHECK(model_dir_write(at("broken"), &parts, &err) == 0, "%s", err.message);
    assert_int_equal(model_quantize(at("broken"), again, TENSOR_Q8_0, &err), E_INVALID);
    assert_non_null(strstr(err.message, "no number"));
    buf_fini(&a);
    buf_fini(&b);
    model_weights_fini(&w);
    tiny_remove(&t);
}

static void test_refused(void **state) {
    struct error err = {0};
    struct model_dir m = {0};
    struct gguf_writer *w = NULL;
    enum tensor_type type;
    struct tiny llama, other;
    char path[512];
    struct buf bytes;
    (void)state;
    assert_int_equal(model_quantize_type(SPAN("q4_1"), &type, &err), 0);
    assert_int_equal(type, TENSOR_Q4_1);
    assert_int_equal(model_quantize_type(SPAN("q2_k"), &type, &err), E_INVALID);
    assert_non_null(strstr(err.message, "q8_0"));
    tiny_make(&llama, "llama", 1);
    tiny_make(&other, "qwen3", 1);
    quantized(llama.path, "sound", TENSOR_F16);
    snprintf(path, sizeof path, "%s/" MODEL_WEIGHTS_FILE, at("sound"));
    /* another model's weights */
    CHECK(model_quantize(other.path, path, TENSOR_F16, &err) == 0, "%s", err.message);
    assert_int_equal(model_dir_load(&m, at("sound"), MODEL_WEIGHTS_MAP, 0, &err), E_INVALID);
    assert_non_null(strstr(err.message, MODEL_WEIGHTS_FILE));
    /* a GGUF file of other things */
    assert_int_equal(gguf_writer_new(&w, path, &err), 0);
    gguf_put_string(w, "general.architecture", SPAN("llama"));
    assert_int_equal(gguf_writer_commit(w, &err), 0);
    gguf_writer_free(w);
    assert_int_equal(model_dir_load(&m, at("sound"), MODEL_WEIGHTS_MAP, 0, &err), E_INVALID);
    assert_non_null(strstr(err.message, "model.gguf"));
    /* cut off anywhere */
    CHECK(model_quantize(llama.path, path, TENSOR_F16, &err) == 0, "%s", err.message);
    buf_init(&bytes, 16 << 20);
    assert_int_equal(file_read(path, &bytes, &err), 0);
    for (size_t len = 0; len < bytes.len; len += 1 + bytes.len / 97) {
        assert_int_equal(file_write(path, span_sub(buf_span(&bytes), 0, len), 0644, &err), 0);
        CHECK(model_dir_load(&m, at("sound"), MODEL_WEIGHTS_MAP, 0, &err) < 0, "%zu of %zu bytes are taken for a model", len, bytes.len);
    }
    buf_fini(&bytes);
    tiny_remove(&llama);
    tiny_remove(&other);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_writer), cmocka_unit_test(test_writer_refuses), cmocka_unit_test(test_families), cmocka_unit_test(test_types), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests_name("model_quantize", tests, set_up, tear_down);
}
