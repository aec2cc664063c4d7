/* A model out of a GGUF file: a small llama with tensors of several types, read as views and as one array, refused where metadata and tensors disagree, and thousands of files with bytes changed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/random.h"
#include "model/model_dir.h"

enum { WIDTH = 32, FFN = 64, VOCAB = 40, HEADS = 2, FILE_MAX = 1 << 20, CHANGES = 3000 };
static char path[256];

static void put_u32(struct buf *b, uint32_t v) { buf_append(b, &v, sizeof v); }
static void put_u64(struct buf *b, uint64_t v) { buf_append(b, &v, sizeof v); }
static void put_text(struct buf *b, const char *s) {
    put_u64(b, strlen(s));
    buf_append_str(b, s);
}
static void put_number(struct buf *b, const char *key, uint32_t v) {
    put_text(b, key);
    put_u32(b, 4);
    put_u32(b, v);
}

static const struct tensor {
    const char *name;
    uint32_t rows, cols; /* rows 0: a vector */
    uint32_t ggml;
    enum tensor_type type;
} tensors[] = {
    {"token_embd.weight", VOCAB, WIDTH, 8, TENSOR_Q8_0},         {"output_norm.weight", 0, WIDTH, 0, TENSOR_F32},
    {"blk.0.attn_norm.weight", 0, WIDTH, 0, TENSOR_F32},         {"blk.0.attn_q.weight", WIDTH, WIDTH, 0, TENSOR_F32},
    {"blk.0.attn_k.weight", WIDTH / 2, WIDTH, 1, TENSOR_F16},    {"blk.0.attn_v.weight", WIDTH / 2, WIDTH, 3, TENSOR_Q4_1},
    {"blk.0.attn_output.weight", WIDTH, WIDTH, 2, TENSOR_Q4_0},  {"blk.0.ffn_norm.weight", 0, WIDTH, 0, TENSOR_F32},
    {"blk.0.ffn_gate.weight", FFN, WIDTH, 30, TENSOR_BF16},      {"blk.0.ffn_up.weight", FFN, WIDTH, 8, TENSOR_Q8_0},
    {"blk.0.ffn_down.weight", WIDTH, FFN, 8, TENSOR_Q8_0},
};
#define COUNT (sizeof tensors / sizeof *tensors)

static float value(size_t tensor, size_t i) { return (float)((int)((i * 7 + tensor * 13) % 31) - 15) / 8.0f; }

/* skip: a tensor that is left out; -1: none. */
static void make(struct buf *out, int skip, uint32_t heads, const char *arch) {
    struct buf data;
    buf_init(&data, FILE_MAX);
    buf_append_str(out, "GGUF");
    put_u32(out, 3);
    put_u64(out, COUNT - (skip >= 0));
    put_u64(out, 9);
    put_text(out, "general.architecture");
    put_u32(out, 8);
    put_text(out, arch);
    put_number(out, "llama.block_count", 1);
    put_number(out, "llama.context_length", 64);
    put_number(out, "llama.embedding_length", WIDTH);
    put_number(out, "llama.feed_forward_length", FFN);
    put_number(out, "llama.attention.head_count", heads);
    put_number(out, "llama.attention.head_count_kv", 1);
    put_number(out, "tokenizer.ggml.eos_token_id", 2);
    put_number(out, "tokenizer.ggml.eot_token_id", 5);
    for (size_t t = 0; t < COUNT; t++) {
        if ((int)t == skip) continue;
        size_t rows = tensors[t].rows ? tensors[t].rows : 1, n = rows * tensors[t].cols, size = 0;
        float *x = mem_calloc(n, sizeof *x);
        uint8_t *raw = mem_calloc(n, sizeof(float));
        for (size_t i = 0; i < n; i++) x[i] = value(t, i);
        assert_int_equal(tensor_size(tensors[t].type, rows, tensors[t].cols, &size), 0);
        assert_int_equal(tensor_from_f32(tensors[t].type, x, n, raw), 0);
        put_text(out, tensors[t].name);
        put_u32(out, tensors[t].rows ? 2 : 1);
        put_u64(out, tensors[t].cols);
        if (tensors[t].rows) put_u64(out, tensors[t].rows);
        put_u32(out, tensors[t].ggml);
        put_u64(out, data.len);
        buf_append(&data, raw, size);
        while (data.len % 32) buf_append_char(&data, 0);
        mem_free(raw);
        mem_free(x);
    }
    while (out->len % 32) buf_append_char(out, 0);
    buf_append_span(out, buf_span(&data));
    buf_fini(&data);
}

static int load(struct span bytes, enum model_weights_mode mode, struct model_dir *m, struct error *err) {
    assert_int_equal(file_write(path, bytes, 0644, NULL), 0);
    return model_dir_load(m, path, mode, 0, err);
}

static void test_round_trip(void **state) {
    (void)state;
    struct buf file;
    buf_init(&file, FILE_MAX);
    make(&file, -1, HEADS, "llama");
    struct model_dir flat = {0}, map = {0};
    struct error err = {0};
    if (load(buf_span(&file), MODEL_WEIGHTS_FLAT, &flat, &err) || load(buf_span(&file), MODEL_WEIGHTS_MAP, &map, &err)) fail_msg("%s", err.message);
    assert_true(map.config.tie_embeddings && map.config.vocab == VOCAB && map.config.heads == HEADS && map.config.kv_heads == 1 && map.config.eos_count == 2 && map.config.eos_ids[1] == 5);
    assert_null(map.tokenizer);
    for (size_t p = 0; p < map.weights.param_count; p++) {
        size_t n = model_param_size(&map.weights.params[p]);
        float *x = mem_calloc(n, sizeof *x);
        model_view_to_f32(&map.weights.views[p], x);
        model_view_release(&map.weights.views[p]);
        assert_memory_equal(x, flat.weights.data[p], n * sizeof *x);
        mem_free(x);
    }
    /* types stay, rows of q and k come apart again: ours 0, 1, … of a head are the file's 0, 2, …, then 1, 3, … */
    assert_int_equal(model_weights_view(&map.weights, MODEL_ATTN_V_W, 0)->type, TENSOR_Q4_1);
    const float *q = model_weights_get(&flat.weights, MODEL_ATTN_Q_W, 0);
    size_t D = WIDTH / HEADS;
    for (size_t h = 0; h < HEADS; h++)
        for (size_t r = 0; r < D; r++) {
            size_t stored = h * D + (r < D / 2 ? 2 * r : 2 * (r - D / 2) + 1);
            for (size_t c = 0; c < WIDTH; c++) assert_true(q[(h * D + r) * WIDTH + c] == value(3, stored * WIDTH + c));
        }
    model_dir_fini(&flat);
    model_dir_fini(&map);
    buf_fini(&file);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *name, *arch;
        int skip;
        uint32_t heads;
        int r;
        const char *says;
    } cases[] = {
        {"a tensor is missing", "llama", 5, HEADS, E_INVALID, "blk.0.attn_v.weight"}, {"heads that do not fit", "llama", -1, 4, E_INVALID, "blk.0.attn_k.weight"},
        {"no heads", "llama", -1, 0, E_INVALID, "attention.head_count"},             {"an architecture that is not read", "rwkv", -1, HEADS, E_UNSUPPORTED, "rwkv"},
        {"no embedding", "llama", 0, HEADS, E_INVALID, "token_embd.weight"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf file;
        struct model_dir m = {0};
        struct error err = {0};
        buf_init(&file, FILE_MAX);
        make(&file, cases[i].skip, cases[i].heads, cases[i].arch);
        int r = load(buf_span(&file), MODEL_WEIGHTS_MAP, &m, &err);
        if (r != cases[i].r || !strstr(err.message, cases[i].says) || !strstr(err.message, path)) fail_msg("%s: %d %s", cases[i].name, r, err.message);
        buf_fini(&file);
    }
}

/* Whatever is changed: refused with a word, or a model whose every value can be read. */
static void test_changed(void **state) {
    (void)state;
    struct buf file;
    struct random random;
    buf_init(&file, FILE_MAX);
    make(&file, -1, HEADS, "llama");
    size_t head = file.len < 1400 ? file.len : 1400;
    random_seed(&random, 4);
    for (int i = 0; i < CHANGES; i++) {
        struct model_dir m = {0};
        struct error err = {0};
        char *bytes = span_dup(buf_span(&file));
        assert_non_null(bytes);
        for (uint64_t k = random_below(&random, 3) + 1; k; k--) bytes[random_below(&random, head)] = (char)random_u64(&random);
        int r = load(span_of(bytes, file.len), i % 2 ? MODEL_WEIGHTS_FLAT : MODEL_WEIGHTS_MAP, &m, &err);
        if (r) assert_true(err.message[0]);
        for (size_t p = 0; !r && p < m.weights.param_count; p++) {
            float *x = mem_calloc(model_param_size(&m.weights.params[p]), sizeof *x);
            model_view_to_f32(&m.weights.views[p], x);
            mem_free(x);
        }
        model_dir_fini(&m);
        mem_free(bytes);
    }
    buf_fini(&file);
}

static int setup(void **state) {
    (void)state;
    snprintf(path, sizeof path, "/tmp/genloop-test-gguf-model-%d.gguf", (int)getpid());
    return 0;
}
static int teardown(void **state) {
    (void)state;
    unlink(path);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refused), cmocka_unit_test(test_changed)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
