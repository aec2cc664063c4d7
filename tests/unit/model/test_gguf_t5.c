/*
 * T5 out of a GGUF file, written here tensor by tensor as llama.cpp's converter does: which of its kin it is told by what is there (a gate, a head, distances of each layer's own, the encoder alone), blocks
 * stay blocks, and what is written from it is the same model again; what is refused, by name; a load without memory; and thousands of files with bytes changed.
 */
#include "tests/unit/support/model_file.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "model/gguf_export.h"
#include "model/gguf_write.h"

enum { WIDTH = 32, HEADS = 2, HEAD = 32, FFN = 64, VOCAB = 40, BUCKETS = 8, ENCODER = 3, DECODER = 2, CHANGES = 3000, HEAD_BYTES = 3600, TENSORS_MAX = 96 };
static char path[256], again_path[256];

/* What a file has otherwise than a T5 1.0. */
struct file {
    const char *arch, *leave_out, *leave_out_key;
    const char *more; /* a tensor */
    bool gated, untied, own, t5_ids, no_ids;
    uint32_t kv_heads, value_length, buckets, width;
    float scale; /* 0: the file does not say */
    enum tensor_type type; /* of matrices */
};
static const struct file plain = {.arch = "t5", .buckets = BUCKETS};

struct list {
    struct gguf_writer *w;
    const struct file *f;
    struct {
        char name[64];
        uint64_t rows, cols;
        enum tensor_type type;
    } one[TENSORS_MAX];
    size_t n;
};
static void tensor(struct list *l, const char *name, uint64_t rows, uint64_t cols) {
    struct error err = {0};
    if (l->f->leave_out && !strcmp(l->f->leave_out, name)) return;
    assert_true(l->n < TENSORS_MAX);
    enum tensor_type type = rows && !strstr(name, "rel_b") ? l->f->type : TENSOR_F32;
    snprintf(l->one[l->n].name, sizeof l->one[l->n].name, "%s", name);
    l->one[l->n].rows = rows ? rows : 1;
    l->one[l->n].type = type;
    l->one[l->n++].cols = cols;
    uint64_t shape[2] = {rows, cols};
    CHECK(gguf_writer_add(l->w, span_str(name), type, rows ? shape : shape + 1, rows ? 2 : 1, &err) == 0, "%s", err.message);
}
static void layer(struct list *l, const char *side, int i) {
    const struct {
        const char *name;
        uint64_t rows, cols;
        bool is;
    } all[] = {
        {"attn_norm", 0, WIDTH, true},   {"attn_q", HEADS * HEAD, WIDTH, true},      {"attn_k", HEADS * HEAD, WIDTH, true},  {"attn_v", HEADS * HEAD, WIDTH, true},
        {"attn_o", WIDTH, HEADS * HEAD, true}, {"attn_rel_b", BUCKETS, HEADS, i == 0 || l->f->own}, {"ffn_norm", 0, WIDTH, true}, {"ffn_gate", FFN, WIDTH, l->f->gated},
        {"ffn_up", FFN, WIDTH, true},    {"ffn_down", WIDTH, FFN, true},
        {"cross_attn_norm", 0, WIDTH, side[0] == 'd'}, {"cross_attn_q", HEADS * HEAD, WIDTH, side[0] == 'd'}, {"cross_attn_k", HEADS * HEAD, WIDTH, side[0] == 'd'},
        {"cross_attn_v", HEADS * HEAD, WIDTH, side[0] == 'd'}, {"cross_attn_o", WIDTH, HEADS * HEAD, side[0] == 'd'},
    };
    char name[64];
    for (size_t k = 0; k < COUNT(all); k++) {
        snprintf(name, sizeof name, "%s.blk.%d.%s.weight", side, i, all[k].name);
        if (all[k].is) tensor(l, name, all[k].rows, all[k].cols);
    }
}
static float value(size_t tensor, size_t i) { return (float)((int)((i * 7 + tensor * 13) % 31) - 15) / 8.0f; }

static void number(const struct list *l, const char *name, uint32_t v) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", l->f->arch, name);
    if (!l->f->leave_out_key || strcmp(l->f->leave_out_key, name) != 0) gguf_put_u32(l->w, key, v);
}
static void real(const struct list *l, const char *name, float v) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", l->f->arch, name);
    if (!l->f->leave_out_key || strcmp(l->f->leave_out_key, name) != 0) gguf_put_f32(l->w, key, v);
}

static void write_file(const struct file *f) {
    static const struct span pieces[] = {SPAN("<pad>"), SPAN("</s>"), SPAN("<unk>"), SPAN("\xE2\x96\x81"), SPAN("a"), SPAN("\xE2\x96\x81" "a")};
    static const int32_t types[] = {3, 3, 2, 1, 1, 1};
    static const float scores[] = {0, 0, 0, -2, -3, -1};
    struct error err = {0};
    struct list l = {.f = f};
    const bool both = !strcmp(f->arch, "t5");
    CHECK(gguf_writer_new(&l.w, path, &err) == 0, "%s", err.message);
    gguf_put_string(l.w, "general.architecture", span_str(f->arch));
    number(&l, "context_length", 512);
    number(&l, "embedding_length", f->width ? f->width : WIDTH);
    number(&l, "feed_forward_length", FFN);
    number(&l, "block_count", ENCODER);
    number(&l, "attention.head_count", HEADS);
    number(&l, "attention.key_length", HEAD);
    number(&l, "attention.value_length", f->value_length ? f->value_length : HEAD);
    if (f->kv_heads) number(&l, "attention.head_count_kv", f->kv_heads);
    number(&l, "attention.relative_buckets_count", f->buckets);
    real(&l, "attention.layer_norm_epsilon", 1e-6f);
    real(&l, "attention.layer_norm_rms_epsilon", 1e-6f);
    if (both) number(&l, "decoder_block_count", DECODER);
    if (both) number(&l, "decoder_start_token_id", 3);
    if (f->scale != 0) real(&l, "logit_scale", f->scale);
    if (!f->t5_ids) gguf_put_string(l.w, "tokenizer.ggml.model", SPAN("no_vocab"));
    else {
        gguf_put_string(l.w, "tokenizer.ggml.model", SPAN("t5"));
        gguf_put_strings(l.w, "tokenizer.ggml.tokens", pieces, COUNT(pieces));
        gguf_put_numbers(l.w, "tokenizer.ggml.token_type", GGUF_I32, types, COUNT(types));
        gguf_put_numbers(l.w, "tokenizer.ggml.scores", GGUF_F32, scores, COUNT(scores));
    }
    if (!f->no_ids) gguf_put_u32(l.w, "tokenizer.ggml.eos_token_id", 1);
    if (!f->no_ids) gguf_put_u32(l.w, "tokenizer.ggml.padding_token_id", 0);

    tensor(&l, "token_embd.weight", VOCAB, WIDTH);
    for (int i = 0; both && i < DECODER; i++) layer(&l, "dec", i);
    if (both) tensor(&l, "dec.output_norm.weight", 0, WIDTH);
    for (int i = 0; i < ENCODER; i++) layer(&l, "enc", i);
    tensor(&l, "enc.output_norm.weight", 0, WIDTH);
    if (f->untied) tensor(&l, "output.weight", VOCAB, WIDTH);
    if (f->more) tensor(&l, f->more, BUCKETS, HEADS);
    for (size_t t = 0; t < l.n; t++) {
        size_t n = (size_t)(l.one[t].rows * l.one[t].cols), size = 0;
        float *x = mem_calloc(n, sizeof *x);
        assert_true(x && tensor_size(l.one[t].type, l.one[t].rows, l.one[t].cols, &size) == 0);
        uint8_t *packed = mem_alloc(size);
        assert_non_null(packed);
        for (size_t i = 0; i < n; i++) x[i] = value(t, i);
        assert_int_equal(tensor_from_f32(l.one[t].type, x, n, packed), 0);
        CHECK(gguf_writer_write(l.w, packed, size, &err) == 0, "%s", err.message);
        mem_free(packed);
        mem_free(x);
    }
    CHECK(gguf_writer_commit(l.w, &err) == 0, "%s", err.message);
    gguf_writer_free(l.w);
}

static struct file with(struct file f, void (*change)(struct file *f)) {
    change(&f);
    return f;
}
static void as_it_is(struct file *f) { (void)f; }
static void a_flan(struct file *f) { f->gated = f->untied = true; }
static void tied_unscaled(struct file *f) { f->gated = true, f->scale = 1; }
static void untied_scaled(struct file *f) { a_flan(f), f->scale = 1 / sqrtf(WIDTH); }
static void a_umt5(struct file *f) { a_flan(f), f->own = true; }
static void an_encoder(struct file *f) { f->arch = "t5encoder"; }
static void a_umt5_encoder(struct file *f) { an_encoder(f), f->gated = f->own = true; }
static void with_a_head(struct file *f) { an_encoder(f), f->untied = true; }
static void unused_distances(struct file *f) { f->more = "dec.blk.0.cross_attn_rel_b.weight"; }
static void in_q8_0(struct file *f) { a_flan(f), f->type = TENSOR_Q8_0; }
static void in_q4_0(struct file *f) { f->type = TENSOR_Q4_0; }
static void in_f16(struct file *f) { f->type = TENSOR_F16; }
static void an_encoder_in_blocks(struct file *f) { an_encoder(f), f->type = TENSOR_Q4_1; }
static void no_ids(struct file *f) { f->t5_ids = f->no_ids = true, f->leave_out_key = "decoder_start_token_id"; }

static void check_same(const char *name, const struct model_dir *a, const struct model_dir *b) {
    assert_int_equal(a->weights.param_count, b->weights.param_count);
    for (size_t p = 0; p < a->weights.param_count; p++) {
        const struct model_view *x = &a->weights.views[p], *y = &b->weights.views[p];
        CHECK(x->type == y->type && x->row_size == y->row_size && memcmp(x->data, y->data, x->row_size * x->rows) == 0, "%s: %s of layer %u is written otherwise", name,
              model_role_name(a->weights.params[p].role), a->weights.params[p].layer);
    }
}

static void test_read(void **state) {
    static const struct {
        const char *name;
        void (*change)(struct file *f);
        const char *arch;
        enum model_mlp mlp;
        bool tied, scaled;
    } cases[] = {
        {"T5 1.0", as_it_is, "t5", MODEL_MLP_PLAIN, true, true},
        {"Flan-T5", a_flan, "t5", MODEL_MLP_GATED, false, false},
        {"a tied head that is not scaled", tied_unscaled, "t5", MODEL_MLP_GATED, true, false},
        {"an untied head that is scaled", untied_scaled, "t5", MODEL_MLP_GATED, false, true},
        {"umT5", a_umt5, "umt5", MODEL_MLP_GATED, false, false},
        {"the encoder alone", an_encoder, "t5-encoder", MODEL_MLP_PLAIN, true, false},
        {"the encoder beside a head", with_a_head, "t5-encoder", MODEL_MLP_PLAIN, true, false},
        {"umT5's encoder alone", a_umt5_encoder, "umt5-encoder", MODEL_MLP_GATED, true, false},
        {"numbers that nothing uses", unused_distances, "t5", MODEL_MLP_PLAIN, true, true},
        {"Q8_0", in_q8_0, "t5", MODEL_MLP_GATED, false, false},
        {"Q4_0", in_q4_0, "t5", MODEL_MLP_PLAIN, true, true},
        {"F16", in_f16, "t5", MODEL_MLP_PLAIN, true, true},
        {"an encoder in Q4_1", an_encoder_in_blocks, "t5-encoder", MODEL_MLP_PLAIN, true, false},
        {"ids that the file does not name", no_ids, "t5", MODEL_MLP_PLAIN, true, true},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct model_dir map = {0}, flat = {0}, again = {0};
        struct error err = {0};
        struct file f = with(plain, cases[i].change);
        const bool both = !strcmp(f.arch, "t5");
        write_file(&f);
        CHECK(model_dir_load(&map, path, MODEL_WEIGHTS_MAP, 0, &err) == 0, "%s: %s", cases[i].name, err.message);
        CHECK(model_dir_load(&flat, path, MODEL_WEIGHTS_FLAT, 0, &err) == 0, "%s: %s", cases[i].name, err.message);
        const struct model_config *c = &map.config;
        CHECK(!strcmp(c->arch->name, cases[i].arch) && c->mlp == cases[i].mlp && c->activation == (f.gated ? MODEL_ACT_GELU_TANH : MODEL_ACT_RELU) && c->tie_embeddings == cases[i].tied, "%s is a %s", cases[i].name,
              c->arch->name);
        CHECK(c->logits_scale == (cases[i].scaled ? (float)(1 / sqrt((double)WIDTH)) : 1), "%s: logits × %g", cases[i].name, (double)c->logits_scale);
        assert_true(c->layers == (both ? DECODER : ENCODER) && c->encoder_layers == (both ? ENCODER : 0) && c->position_buckets == BUCKETS && c->position_distance == 128 && c->head_dim == HEAD);
        CHECK(c->eos_count == 1 && c->eos_ids[0] == 1 && c->pad_id == 0 && c->start_id == (both ? (f.no_ids ? 0 : 3) : -1), "%s: starts with %lld", cases[i].name, (long long)c->start_id);
        for (size_t p = 0; p < map.weights.param_count; p++) {
            const struct model_param *param = &map.weights.params[p];
            const struct model_view *v = &map.weights.views[p];
            size_t n = model_param_size(param);
            float *x = mem_calloc(n, sizeof *x);
            assert_non_null(x);
            model_view_to_f32(v, x);
            assert_memory_equal(x, flat.weights.data[p], n * sizeof *x);
            mem_free(x);
            bool small = param->rows == 1 || param->role == MODEL_ATTN_POSITION_W;
            CHECK(v->type == (small ? TENSOR_F32 : f.type) && v->mapped, "%s: %s of layer %u is %s", cases[i].name, model_role_name(param->role), param->layer, tensor_type_name(v->type));
        }
        if (f.type == TENSOR_F32 && both) { /* tensors by their sides: the decoder's come first in the file, and its k is the fourth */
            const float *k = model_weights_get(&flat.weights, MODEL_ATTN_K_W, 0);
            for (size_t n = 0; n < HEADS * HEAD * WIDTH; n++) assert_true(k[n] == value(3, n));
            assert_non_null(model_weights_view(&flat.weights, MODEL_CROSS_K_W, DECODER - 1));
            assert_null(model_weights_view(&flat.weights, MODEL_CROSS_K_W, DECODER));
            assert_non_null(model_weights_view(&flat.weights, MODEL_MLP_UP_W, DECODER + ENCODER - 1));
        }
        if (f.t5_ids) {
            struct tokens ids = {0};
            assert_int_equal(tokenizer_encode(map.tokenizer, SPAN("a z"), TOKENIZER_ADD_SPECIAL, &ids, &err), 0);
            const uint32_t want[] = {5, 3, 2, 1};
            assert_true(ids.len == COUNT(want) && !memcmp(ids.ids, want, sizeof want));
            tokens_fini(&ids);
        }
        CHECK(model_write_gguf(&map, "again", again_path, &err) == 0, "%s: %s", cases[i].name, err.message);
        CHECK(model_dir_load(&again, again_path, MODEL_WEIGHTS_MAP, 0, &err) == 0, "%s: %s", cases[i].name, err.message);
        check_same(cases[i].name, &map, &again);
        assert_true(again.config.logits_scale == c->logits_scale && again.config.start_id == c->start_id && again.config.arch == c->arch && again.config.context == c->context);
        model_dir_fini(&again);
        model_dir_fini(&map);
        model_dir_fini(&flat);
    }
}

static void strange_scale(struct file *f) { f->scale = 0.5f; }
static void no_scale(struct file *f) { f->scale = NAN; }
static void fewer_keys(struct file *f) { f->kv_heads = 1; }
static void other_values(struct file *f) { f->value_length = 16; }
static void no_buckets(struct file *f) { f->leave_out_key = "attention.relative_buckets_count"; }
static void few_buckets(struct file *f) { f->buckets = 2; }
static void many_buckets(struct file *f) { f->buckets = BUCKETS * 2; }
static void no_eps(struct file *f) { f->leave_out_key = "attention.layer_norm_rms_epsilon"; }
static void no_layers(struct file *f) { f->leave_out_key = "block_count"; }
static void other_width(struct file *f) { f->width = 64; }
static void no_embeddings(struct file *f) { f->leave_out = "token_embd.weight"; }
static void no_cross(struct file *f) { f->leave_out = "dec.blk.1.cross_attn_v.weight"; }
static void no_encoder(struct file *f) { f->leave_out = "enc.blk.2.attn_q.weight"; }
static void no_positions(struct file *f) { f->leave_out = "enc.blk.0.attn_rel_b.weight"; }
static void half_gated(struct file *f) { f->gated = true, f->leave_out = "dec.blk.0.ffn_gate.weight"; }
static void one_own(struct file *f) { f->own = true, f->leave_out = "dec.blk.1.attn_rel_b.weight"; }
static void decodes(struct file *f) { an_encoder(f), f->more = "dec.blk.0.attn_q.weight"; }
static void no_start(struct file *f) { f->no_ids = true, f->leave_out_key = "decoder_start_token_id"; }

static void test_refused(void **state) {
    static const struct {
        void (*change)(struct file *f);
        int code;
        const char *says;
    } cases[] = {
        {strange_scale, E_UNSUPPORTED, "t5.logit_scale"}, {no_scale, E_UNSUPPORTED, "t5.logit_scale"}, {fewer_keys, E_UNSUPPORTED, "fewer heads"}, {other_values, E_UNSUPPORTED, "different length"},
        {no_buckets, E_INVALID, "t5.attention.relative_buckets_count"}, {few_buckets, E_RANGE, "relative_attention_num_buckets"}, {many_buckets, E_INVALID, "attn_rel_b.weight"},
        {no_eps, E_INVALID, "t5.attention.layer_norm_rms_epsilon"}, {no_layers, E_INVALID, "t5.block_count"}, {other_width, E_INVALID, "token_embd.weight"}, {no_embeddings, E_INVALID, "token_embd.weight"},
        {no_cross, E_INVALID, "dec.blk.1.cross_attn_v.weight"}, {no_encoder, E_INVALID, "enc.blk.2.attn_q.weight"}, {no_positions, E_INVALID, "enc.blk.0.attn_rel_b.weight"},
        {half_gated, E_INVALID, "dec.blk.0.ffn_gate.weight"}, {one_own, E_INVALID, "dec.blk.1.attn_rel_b.weight"}, {decodes, E_INVALID, "dec.blk.0.attn_q.weight"}, {no_start, E_RANGE, "decoder_start_token_id"},
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

/* What the format has no word for is no file. */
static void test_not_said(void **state) {
    static const char *const says[] = {"relative_attention_max_distance", "hidden_act"};
    (void)state;
    for (size_t i = 0; i < COUNT(says); i++) {
        struct model_dir m = {0};
        struct error err = {0};
        struct file f = with(plain, a_flan);
        write_file(&f);
        unlink(again_path);
        CHECK(model_dir_load(&m, path, MODEL_WEIGHTS_MAP, 0, &err) == 0, "%s", err.message);
        if (i == 0) m.config.position_distance = 64;
        else m.config.activation = MODEL_ACT_SILU;
        int r = model_write_gguf(&m, "none", again_path, &err);
        CHECK(r == E_UNSUPPORTED && strstr(err.message, says[i]) && !file_exists(again_path), "%s: %d %s", says[i], r, err.message);
        model_dir_fini(&m);
    }
}

static void test_without_memory(void **state) {
    struct file f = with(plain, a_umt5);
    (void)state;
    write_file(&f);
    load_without_memory(path);
}

static void test_changed(void **state) {
    static void (*const changes[])(struct file *f) = {in_q8_0, a_umt5_encoder};
    (void)state;
    for (size_t k = 0; k < COUNT(changes); k++) {
        struct file f = with(plain, changes[k]);
        write_file(&f);
        size_t loaded = load_changed(path, HEAD_BYTES, CHANGES, 9 + k);
        CHECK(loaded > 0 && loaded < CHANGES, "%zu of %d files load", loaded, CHANGES);
    }
}

static int set_up(void **state) {
    (void)state;
    snprintf(path, sizeof path, "/tmp/genloop-test-gguf-t5-%d.gguf", (int)getpid());
    snprintf(again_path, sizeof again_path, "/tmp/genloop-test-gguf-t5-%d-again.gguf", (int)getpid());
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    unlink(path);
    unlink(again_path);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_read), cmocka_unit_test(test_refused), cmocka_unit_test(test_not_said), cmocka_unit_test(test_without_memory), cmocka_unit_test(test_changed)};
    return cmocka_run_group_tests_name("model_gguf_t5", tests, set_up, tear_down);
}
