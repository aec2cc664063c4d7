/*
 * Encoders out of a GGUF file, written here tensor by tensor as llama.cpp's converter does: which family it is told by what is there (token types, a head), q, k and v in one tensor or apart, what pooling
 * and labels the file names; what is refused, by name; and thousands of files with bytes changed.
 */
#include "tests/unit/support/model_file.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "model/gguf_write.h"

enum { WIDTH = 32, FFN = 64, VOCAB = 40, HEADS = 2, CONTEXT = 24, TYPES = 2, CHANGES = 3000, HEAD_BYTES = 2600 };
static char path[256];

/* What a file has otherwise than a plain BERT's body. */
struct file {
    const char *arch, *leave_out; /* a tensor */
    uint32_t labels, types, names, pooling, kv_heads;
    bool causal, dense, fused;
    float eps;
};
static const struct file plain = {.arch = "bert", .types = TYPES, .pooling = 2, .eps = 1e-12f};

struct list {
    struct gguf_writer *w;
    const struct file *f;
    struct {
        char name[64];
        uint64_t rows, cols;
    } one[64];
    size_t n;
};
static void tensor(struct list *l, const char *name, uint64_t rows, uint64_t cols) {
    struct error err = {0};
    if (l->f->leave_out && !strcmp(l->f->leave_out, name)) return;
    assert_true(l->n < COUNT(l->one));
    snprintf(l->one[l->n].name, sizeof l->one[l->n].name, "%s", name);
    l->one[l->n].rows = rows ? rows : 1;
    l->one[l->n++].cols = cols;
    uint64_t shape[2] = {rows, cols};
    CHECK(gguf_writer_add(l->w, span_str(name), TENSOR_F32, rows ? shape : shape + 1, rows ? 2 : 1, &err) == 0, "%s", err.message);
}
/* in 0: a norm */
static void linear(struct list *l, const char *name, uint64_t out, uint64_t in) {
    char full[64];
    snprintf(full, sizeof full, "%s.weight", name);
    tensor(l, full, in ? out : 0, in ? in : out);
    snprintf(full, sizeof full, "%s.bias", name);
    tensor(l, full, 0, out);
}
static float value(size_t tensor, size_t i) { return (float)((int)((i * 7 + tensor * 13) % 31) - 15) / 8.0f; }

static void number(struct gguf_writer *w, const char *arch, const char *name, uint32_t v) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", arch, name);
    gguf_put_u32(w, key, v);
}

static void write_file(const struct file *f) {
    static const struct span names[] = {SPAN("no"), SPAN("maybe"), SPAN("yes")};
    struct error err = {0};
    struct list l = {.f = f};
    CHECK(gguf_writer_new(&l.w, path, &err) == 0, "%s", err.message);
    bool modern = !strcmp(f->arch, "modern-bert");
    char key[96];
    gguf_put_string(l.w, "general.architecture", span_str(f->arch));
    number(l.w, f->arch, "block_count", 2);
    number(l.w, f->arch, "context_length", CONTEXT);
    number(l.w, f->arch, "embedding_length", WIDTH);
    number(l.w, f->arch, "feed_forward_length", FFN);
    number(l.w, f->arch, "attention.head_count", HEADS);
    if (f->kv_heads) number(l.w, f->arch, "attention.head_count_kv", f->kv_heads);
    snprintf(key, sizeof key, "%s.attention.layer_norm_epsilon", f->arch);
    gguf_put_f32(l.w, key, f->eps);
    snprintf(key, sizeof key, "%s.attention.causal", f->arch);
    gguf_put_bool(l.w, key, f->causal);
    number(l.w, f->arch, "pooling_type", f->pooling);
    if (modern) {
        number(l.w, f->arch, "attention.sliding_window", 8);
        snprintf(key, sizeof key, "%s.attention.sliding_window_pattern", f->arch);
        gguf_put_numbers(l.w, key, GGUF_I32, (const int32_t[]){0, 1}, 2);
    }
    snprintf(key, sizeof key, "%s.classifier.output_labels", f->arch);
    if (f->names) gguf_put_strings(l.w, key, names, f->names);
    gguf_put_string(l.w, "tokenizer.ggml.model", SPAN("no_vocab"));

    tensor(&l, "token_embd.weight", VOCAB, WIDTH);
    if (!modern) tensor(&l, "position_embd.weight", CONTEXT, WIDTH);
    if (f->types) tensor(&l, "token_types.weight", f->types, WIDTH);
    tensor(&l, "token_embd_norm.weight", 0, WIDTH);
    if (!modern) tensor(&l, "token_embd_norm.bias", 0, WIDTH);
    for (int i = 0; i < 2; i++) {
        static const struct {
            const char *name;
            uint64_t out, in;
        } of_bert[] = {{"attn_output", WIDTH, WIDTH}, {"attn_output_norm", WIDTH, 0}, {"ffn_up", FFN, WIDTH}, {"ffn_down", WIDTH, FFN}, {"layer_output_norm", WIDTH, 0}},
          of_modern[] = {{"attn_qkv", 3 * WIDTH, WIDTH}, {"attn_output", WIDTH, WIDTH}, {"ffn_up", 2 * FFN, WIDTH}, {"ffn_down", WIDTH, FFN}}, apart[] = {{"attn_q", WIDTH, WIDTH}, {"attn_k", WIDTH, WIDTH}, {"attn_v", WIDTH, WIDTH}};
        char name[64];
        for (size_t k = 0; modern && k < COUNT(of_modern); k++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", i, of_modern[k].name);
            tensor(&l, name, of_modern[k].out, of_modern[k].in);
        }
        if (modern) {
            snprintf(name, sizeof name, "blk.%d.attn_norm.weight", i);
            if (i) tensor(&l, name, 0, WIDTH);
            snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", i);
            tensor(&l, name, 0, WIDTH);
            continue;
        }
        for (size_t k = 0; k < COUNT(apart) && !f->fused; k++) {
            snprintf(name, sizeof name, "blk.%d.%s", i, apart[k].name);
            linear(&l, name, apart[k].out, apart[k].in);
        }
        snprintf(name, sizeof name, "blk.%d.attn_qkv", i);
        if (f->fused) linear(&l, name, 3 * WIDTH, WIDTH);
        for (size_t k = 0; k < COUNT(of_bert); k++) {
            snprintf(name, sizeof name, "blk.%d.%s", i, of_bert[k].name);
            linear(&l, name, of_bert[k].out, of_bert[k].in);
        }
    }
    if (modern) tensor(&l, "output_norm.weight", 0, WIDTH);
    if (f->dense && modern) tensor(&l, "cls.weight", WIDTH, WIDTH);
    if (f->dense && modern) tensor(&l, "cls.norm.weight", 0, WIDTH);
    if (f->dense && !modern) linear(&l, "cls", WIDTH, WIDTH);
    if (f->labels) linear(&l, "cls.output", f->labels, WIDTH);
    for (size_t t = 0; t < l.n; t++) {
        size_t n = (size_t)((l.one[t].cols ? l.one[t].cols : 1) * l.one[t].rows);
        float *x = mem_calloc(n, sizeof *x);
        assert_non_null(x);
        for (size_t i = 0; i < n; i++) x[i] = value(t, i);
        CHECK(gguf_writer_write(l.w, x, n * sizeof *x, &err) == 0, "%s", err.message);
        mem_free(x);
    }
    CHECK(gguf_writer_commit(l.w, &err) == 0, "%s", err.message);
    gguf_writer_free(l.w);
}

static struct file with(struct file f, void (*change)(struct file *f)) {
    change(&f);
    return f;
}
static void a_classifier(struct file *f) { f->labels = f->names = 3, f->dense = true, f->pooling = 4; }
static void one_label(struct file *f) { f->labels = 1, f->dense = true, f->pooling = 4; }
static void one_tensor(struct file *f) { f->fused = true; }
static void no_types(struct file *f) { f->types = 0; }
static void a_modern(struct file *f) { f->arch = "modern-bert", f->types = 0, f->eps = 1e-5f, f->pooling = 1; }
static void a_masked_modern(struct file *f) { a_modern(f), f->dense = true; }
static void a_modern_classifier(struct file *f) { a_modern(f), a_classifier(f); }

static void test_read(void **state) {
    static const struct {
        const char *name;
        void (*change)(struct file *f);
        const char *arch;
        uint32_t labels;
        enum model_pooling pooling;
    } cases[] = {
        {"q, k and v in one", one_tensor, "bert", 0, MODEL_POOLING_CLS},
        {"a classifier", a_classifier, "bert", 3, MODEL_POOLING_UNSAID},
        {"a reranker", one_label, "bert", 1, MODEL_POOLING_UNSAID},
        {"without token types", no_types, "distilbert", 0, MODEL_POOLING_CLS},
        {"ModernBERT", a_modern, "modernbert", 0, MODEL_POOLING_MEAN},
        {"ModernBERT with the head of its training", a_masked_modern, "modernbert", 0, MODEL_POOLING_MEAN},
        {"ModernBERT that classifies", a_modern_classifier, "modernbert", 3, MODEL_POOLING_UNSAID},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct model_dir map = {0}, flat = {0};
        struct error err = {0};
        struct file f = with(plain, cases[i].change);
        write_file(&f);
        CHECK(model_dir_load(&map, path, MODEL_WEIGHTS_MAP, 0, &err) == 0, "%s: %s", cases[i].name, err.message);
        CHECK(model_dir_load(&flat, path, MODEL_WEIGHTS_FLAT, 0, &err) == 0, "%s: %s", cases[i].name, err.message);
        const struct model_config *c = &map.config;
        CHECK(!strcmp(c->arch->name, cases[i].arch) && c->labels == cases[i].labels && map.pooling == cases[i].pooling && c->types == (f.types ? TYPES : 0) && c->context == CONTEXT && c->position_offset == 0,
              "%s is a %s with %u labels, pooling %d", cases[i].name, c->arch->name, c->labels, (int)map.pooling);
        assert_int_equal(map.label_count, f.names);
        if (f.names) assert_string_equal(map.labels[1], "maybe");
        if (c->local_window) assert_true(c->local_window == 4 && c->global_every == 2);
        for (size_t p = 0; p < map.weights.param_count; p++) {
            size_t n = model_param_size(&map.weights.params[p]);
            float *x = mem_calloc(n, sizeof *x);
            assert_non_null(x);
            model_view_to_f32(&map.weights.views[p], x);
            assert_memory_equal(x, flat.weights.data[p], n * sizeof *x);
            mem_free(x);
        }
        if (f.fused) { /* the second third of the tensor behind the embeddings */
            const float *k = model_weights_get(&flat.weights, MODEL_ATTN_K_W, 0);
            for (size_t n = 0; n < WIDTH * WIDTH; n++) assert_true(k[n] == value(5, WIDTH * WIDTH + n));
        }
        model_dir_fini(&map);
        model_dir_fini(&flat);
    }
}

static void causal(struct file *f) { f->causal = true; }
static void no_dense(struct file *f) { f->labels = 1, f->pooling = 4; }
static void dense_alone(struct file *f) { f->dense = true; }
static void ranks(struct file *f) { f->pooling = 4; }
static void strange_pooling(struct file *f) { f->pooling = 9; }
static void too_few_names(struct file *f) { a_classifier(f), f->names = 2; }
static void fewer_keys(struct file *f) { f->kv_heads = 1; }
static void other_eps(struct file *f) { f->types = 0, f->eps = 1e-5f; }
static void no_norm(struct file *f) { f->leave_out = "blk.1.layer_output_norm.weight"; }
static void no_positions(struct file *f) { f->leave_out = "position_embd.weight"; }
static void no_embeddings(struct file *f) { f->leave_out = "token_embd.weight"; }
static void nomic(struct file *f) { f->arch = "nomic-bert"; }
static void jina(struct file *f) { f->arch = "jina-bert-v2"; }

static void test_refused(void **state) {
    static const struct {
        void (*change)(struct file *f);
        int code;
        const char *says;
    } cases[] = {
        {causal, E_UNSUPPORTED, "bert.attention.causal"}, {no_dense, E_UNSUPPORTED, "cls.weight"}, {dense_alone, E_UNSUPPORTED, "cls.output.weight"}, {ranks, E_INVALID, "cls.output.weight"},
        {strange_pooling, E_UNSUPPORTED, "bert.pooling_type 9"}, {too_few_names, E_INVALID, "output_labels"}, {fewer_keys, E_UNSUPPORTED, "fewer heads"}, {other_eps, E_UNSUPPORTED, "layer_norm_epsilon"},
        {no_norm, E_INVALID, "blk.1.layer_output_norm.weight"}, {no_positions, E_INVALID, "position_embd.weight"}, {no_embeddings, E_INVALID, "token_embd.weight"},
        {nomic, E_UNSUPPORTED, "\"nomic-bert\""}, {jina, E_UNSUPPORTED, "\"jina-bert-v2\""},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct model_dir m = {0};
        struct error err = {0};
        struct file f = with(plain, cases[i].change);
        write_file(&f);
        int r = model_dir_load(&m, path, MODEL_WEIGHTS_MAP, 0, &err);
        CHECK(r == cases[i].code && strstr(err.message, cases[i].says) && strstr(err.message, path), "%s: %d %s", cases[i].says, r, err.message);
    }
}

static void test_without_memory(void **state) {
    struct file f = with(plain, a_classifier);
    (void)state;
    write_file(&f);
    load_without_memory(path);
}

static void test_changed(void **state) {
    static void (*const changes[])(struct file *f) = {a_classifier, a_modern_classifier};
    (void)state;
    for (size_t k = 0; k < COUNT(changes); k++) {
        struct file f = with(plain, changes[k]);
        write_file(&f);
        load_changed(path, HEAD_BYTES, CHANGES, 4 + k);
    }
}

static int set_up(void **state) {
    (void)state;
    snprintf(path, sizeof path, "/tmp/genloop-test-gguf-encoders-%d.gguf", (int)getpid());
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    unlink(path);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_read), cmocka_unit_test(test_refused), cmocka_unit_test(test_without_memory), cmocka_unit_test(test_changed)};
    return cmocka_run_group_tests_name("model_gguf_encoders", tests, set_up, tear_down);
}
