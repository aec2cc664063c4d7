/* Model directories: out and in again for each family, both modes, other number types; what does not fit config.json; whole or not at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/random.h"
#include "model/dir_files.h"
#include "model/model_dir.h"
#include "tokenizer/chat.h"
#include "tokenizer/train.h"

static char folder[] = "/tmp/genloop-model-XXXXXX", path[128];
static int set_up(void **state) {
    (void)state;
    memcpy(folder + sizeof folder - 7, "XXXXXX", 6);
    return mkdtemp(folder) ? 0 : -1;
}
static int tear_down(void **state) {
    (void)state;
    return dir_remove(folder, NULL);
}
static const char *in_folder(const char *name) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static struct tokenizer *trained(void) {
    struct tokenizer_trainer *tr = NULL;
    struct tokenizer *t = NULL;
    assert_int_equal(tokenizer_trainer_new(&tr, &(struct tokenizer_train_options){.vocab_size = 280}, NULL), 0);
    assert_int_equal(tokenizer_trainer_feed(tr, SPAN("the cat sat on the mat and the rat sat on the cat, the mat, the hat that sat"), NULL), 0);
    assert_int_equal(tokenizer_trainer_finish(tr, &t, NULL, NULL, NULL), 0);
    tokenizer_trainer_free(tr);
    return t;
}

static void small(struct model_config *c, const char *family, bool tied) {
    bool llama = strcmp(family, "llama") == 0;
    model_config_default(c, model_arch_find(span_str(family)), 2, 24, 4, llama ? 2 : 4, 16, 288);
    c->tie_embeddings = tied;
    c->eos_count = 2;
    c->eos_ids[0] = 0;
    c->eos_ids[1] = 2;
}
static void fill(struct model_weights *w) {
    struct random r;
    random_seed(&r, 9);
    for (size_t i = 0; i < w->flat_len; i++) w->flat[i] = (float)random_normal(&r);
}

static void test_round_trip(void **state) {
    (void)state;
    static const struct {
        const char *family;
        bool tied;
        enum safetensors_dtype dtype;
    } cases[] = {{"llama", false, DTYPE_F32}, {"llama", true, DTYPE_BF16}, {"gpt2", true, DTYPE_F32}, {"gpt2", false, DTYPE_F16}, {"gpt2", true, DTYPE_BF16}};
    struct tokenizer *t = trained();
    tokenizer_set_special(t, 0, 2, 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_config c;
        struct model_weights w = {0};
        struct error err = {0};
        small(&c, cases[i].family, cases[i].tied);
        assert_int_equal(model_weights_new(&w, &c, &err), 0);
        fill(&w);
        struct model_dir_parts parts = {.weights = &w, .dtype = cases[i].dtype, .tokenizer = t, .chat_template = CHAT_TEMPLATE_CHATML, .readme = SPAN("# A model\n"), .generation = &(struct model_generation){.do_sample = true, .temperature = 0.7, .top_p = 0.9, .top_k = 40, .repetition_penalty = 1}};
        char name[16];
        snprintf(name, sizeof name, "m%zu", i);
        if (model_dir_write(in_folder(name), &parts, &err)) fail_msg("%s", err.message);
        assert_int_equal(model_dir_write(path, &parts, &err), E_EXISTS);
        for (int mode = MODEL_WEIGHTS_FLAT; mode <= MODEL_WEIGHTS_MAP; mode++) {
            struct model_dir m = {0};
            if (model_dir_load(&m, path, (enum model_weights_mode)mode, 0, &err)) fail_msg("%s", err.message);
            assert_int_equal(m.weights.param_count, w.param_count);
            for (size_t p = 0; p < w.param_count; p++) {
                assert_int_equal(m.weights.params[p].role, w.params[p].role);
                float *got = mem_calloc(model_param_size(&w.params[p]), sizeof *got);
                model_view_to_f32(&m.weights.views[p], got);
                for (size_t k = 0; k < model_param_size(&w.params[p]); k++) {
                    float want = w.data[p][k];
                    if (cases[i].dtype == DTYPE_F16) want = f16_to_f32(f32_to_f16(want));
                    if (cases[i].dtype == DTYPE_BF16) want = bf16_to_f32(f32_to_bf16(want));
                    if (got[k] != want) fail_msg("%s %s: %s [%zu]", cases[i].family, mode ? "map" : "flat", model_role_name(w.params[p].role), k);
                }
                mem_free(got);
                model_view_release(&m.weights.views[p]); /* what is asked for again is read again */
            }
            if (mode == MODEL_WEIGHTS_MAP && c.arch->mlp == MODEL_MLP_GATED) assert_int_equal(m.weights.converted_bytes, 0);
            if (mode == MODEL_WEIGHTS_FLAT) assert_int_equal((uintptr_t)m.weights.flat % 64, 0);
            assert_true(m.config.eos_count == 2 && m.config.eos_ids[1] == 2);
            assert_string_equal(m.chat_template, CHAT_TEMPLATE_CHATML);
            assert_int_equal(tokenizer_eos(m.tokenizer), 2);
            assert_true(m.generation.do_sample && m.generation.temperature == 0.7 && m.generation.top_k == 40);
            /* roles */
            assert_true((model_weights_view(&m.weights, MODEL_LM_HEAD, 0) == model_weights_view(&m.weights, MODEL_EMBED_TOKENS, 0)) == cases[i].tied);
            assert_non_null(model_weights_view(&m.weights, MODEL_ATTN_K_W, 1));
            assert_null(model_weights_view(&m.weights, MODEL_ATTN_K_W, 2));
            assert_null(model_weights_view(&m.weights, MODEL_ATTN_Q_NORM_W, 0));
            assert_true((model_weights_view(&m.weights, MODEL_EMBED_POSITIONS, 0) != NULL) == (c.arch->positions == MODEL_POS_LEARNED));
            model_dir_fini(&m);
        }
        model_weights_fini(&w);
    }
    tokenizer_free(t);
}

/* GPT-2's own layout: q, k and v side by side, [in, out]. */
static void test_layout(void **state) {
    (void)state;
    struct model_config c;
    struct model_weights w = {0};
    struct error err = {0};
    small(&c, "gpt2", true);
    assert_int_equal(model_weights_new(&w, &c, &err), 0);
    fill(&w);
    struct model_dir_parts parts = {.weights = &w, .dtype = DTYPE_F32};
    if (model_dir_write(in_folder("layout"), &parts, &err)) fail_msg("%s", err.message);
    char file[160];
    snprintf(file, sizeof file, "%s/model.safetensors", path);
    struct safetensors *f = NULL;
    assert_int_equal(safetensors_open(&f, file, &err), 0);
    const struct safetensors_view *v = safetensors_find(f, SPAN("transformer.h.1.attn.c_attn.weight"));
    assert_non_null(v);
    assert_int_equal(v->shape[0], 24);
    assert_int_equal(v->shape[1], 72);
    static const enum model_role roles[] = {MODEL_ATTN_Q_W, MODEL_ATTN_K_W, MODEL_ATTN_V_W};
    const float *x = v->data;
    for (uint32_t in = 0; in < 24; in++)
        for (uint32_t out = 0; out < 72; out++) assert_true(x[in * 72 + out] == model_weights_get(&w, roles[out / 24], 1)[out % 24 * 24 + in]);
    safetensors_close(f);
    model_weights_fini(&w);
    /* per head: two heads of three, q k v of the first, then of the second */
    struct model_config heads = {.head_dim = 3};
    struct model_tensor t = {.fusing = MODEL_FUSED_PER_HEAD, .part_count = 3};
    static const uint32_t want[18][2] = {{0, 0}, {0, 1}, {0, 2}, {1, 0}, {1, 1}, {1, 2}, {2, 0}, {2, 1}, {2, 2}, {0, 3}, {0, 4}, {0, 5}, {1, 3}, {1, 4}, {1, 5}, {2, 3}, {2, 4}, {2, 5}};
    for (uint32_t row = 0; row < 18; row++) {
        uint32_t part, at;
        model_tensor_row(&heads, &t, row, &part, &at);
        assert_int_equal(part, want[row][0]);
        assert_int_equal(at, want[row][1]);
    }
}

/* Writes DIR with the tensors of a small llama, changed by what. */
enum change { SOUND,
              LACKS,
              SHAPE,
              TYPE,
              SURPLUS,
              SHARDS,
              BODY_ONLY,
              TWICE,
              BUFFER };
static void write_changed(const char *dir, enum change change) {
    struct model_config c;
    struct model_tensor *t = NULL;
    size_t count, flat;
    char file[200];
    struct buf text;
    small(&c, "llama", true);
    buf_init(&text, 1 << 16);
    assert_int_equal(dir_make(dir, NULL), 0);
    assert_int_equal(model_config_write(&c, &text), 0);
    snprintf(file, sizeof file, "%s/config.json", dir);
    assert_int_equal(file_write(file, buf_span(&text), 0644, NULL), 0);
    assert_int_equal(model_tensors(&c, &t, &count, &flat, NULL), 0);
    unsigned files = change == SHARDS || change == TWICE ? 2 : 1;
    for (unsigned k = 0; k < files; k++) {
        struct safetensors_writer *w = NULL;
        snprintf(file, sizeof file, files == 1 ? "%s/model.safetensors" : k ? "%s/model-00002-of-00002.safetensors"
                                                                            : "%s/model-00001-of-00002.safetensors",
                 dir);
        assert_int_equal(safetensors_writer_new(&w, file, NULL), 0);
        size_t bytes = 0;
        for (size_t i = 0; i < count; i++) {
            if (files == 2 && (i < count / 2) == (k == 1) && !(change == TWICE && i == 0)) continue;
            if (change == LACKS && i == 3) continue;
            uint64_t shape[2] = {t[i].rows, t[i].cols + (change == SHAPE && i == 3)};
            enum safetensors_dtype type = change == TYPE && i == 3 ? DTYPE_I32 : DTYPE_F32;
            const char *name = t[i].name + (change == BODY_ONLY ? strlen("model.") : 0);
            assert_int_equal(safetensors_writer_add(w, span_str(name), type, t[i].vector ? shape + 1 : shape, t[i].vector ? 1 : 2, NULL), 0);
            bytes += (size_t)(t[i].vector ? shape[1] : shape[0] * shape[1]) * 4;
        }
        if (change == SURPLUS || change == BUFFER) {
            assert_int_equal(safetensors_writer_add(w, change == BUFFER ? SPAN("model.layers.0.self_attn.rotary_emb.inv_freq") : SPAN("model.layers.7.mlp.up_proj.weight"), DTYPE_F32,
                                                    (const uint64_t[]){1}, 1, NULL),
                             0);
            bytes += 4;
        }
        void *zeros = mem_zalloc(bytes);
        assert_non_null(zeros);
        assert_int_equal(safetensors_writer_write(w, zeros, bytes, NULL), 0);
        assert_int_equal(safetensors_writer_commit(w, NULL), 0);
        mem_free(zeros);
        safetensors_writer_free(w);
    }
    if (files == 2) {
        struct json_out j;
        buf_clear(&text);
        json_begin(&j, &text);
        json_object(&j);
        json_key(&j, "weight_map");
        json_object(&j);
        for (size_t i = 0; i < count; i++) json_str(&j, t[i].name, i < count / 2 ? "model-00001-of-00002.safetensors" : "model-00002-of-00002.safetensors");
        json_object_end(&j);
        json_object_end(&j);
        snprintf(file, sizeof file, "%s/model.safetensors.index.json", dir);
        assert_int_equal(file_write(file, buf_span(&text), 0644, NULL), 0);
    }
    mem_free(t);
    buf_fini(&text);
}

static void test_changed(void **state) {
    (void)state;
    static const struct {
        enum change change;
        int code;
        const char *says;
    } cases[] = {
        {SOUND, 0, ""},
        {LACKS, E_INVALID, "lack the tensor model.layers.0.self_attn.k_proj.weight"},
        {SHAPE, E_INVALID, "model.layers.0.self_attn.k_proj.weight is not of shape [12, 24]"},
        {TYPE, E_UNSUPPORTED, "I32"},
        {SURPLUS, E_INVALID, "model.layers.7.mlp.up_proj.weight"},
        {SHARDS, 0, ""},
        {BODY_ONLY, 0, ""},
        {TWICE, E_INVALID, "twice"},
        {BUFFER, 0, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int mode = 0; mode < 2; mode++) {
            char name[16];
            struct model_dir m = {0};
            struct error err = {0};
            snprintf(name, sizeof name, "c%zu-%d", i, mode);
            write_changed(in_folder(name), cases[i].change);
            int r = model_dir_load(&m, path, (enum model_weights_mode)mode, 0, &err);
            if (r != cases[i].code || !strstr(err.message, cases[i].says)) fail_msg("change %d: %d %s", cases[i].change, r, err.message);
            model_dir_fini(&m);
        }
}

static void test_index(void **state) {
    (void)state;
    static const char *const texts[] = {"", "[]", "{}", "{\"weight_map\":{}}", "{\"weight_map\":{\"a\":1}}", "{\"weight_map\":{\"a\":\"../x.safetensors\"}}",
                                        "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "{\"weight_map\":{\"a\":\"x\\u0000y\"}}", "{\"weight_map\":{\"a\":\".\"}}"};
    char file[200];
    struct model_config c;
    small(&c, "llama", true);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct model_weights w = {0};
        assert_int_equal(dir_make(in_folder("index"), NULL), 0);
        snprintf(file, sizeof file, "%s/model.safetensors.index.json", path);
        assert_int_equal(file_write(file, span_str(texts[i]), 0644, NULL), 0);
        if (model_weights_load(&w, &c, path, MODEL_WEIGHTS_FLAT, NULL) != E_INVALID) fail_msg("case %zu", i);
    }
    struct model_weights w = {0};
    assert_int_equal(model_weights_load(&w, &c, in_folder("nowhere"), MODEL_WEIGHTS_FLAT, NULL), E_NOT_FOUND);
}

static void test_generation(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int code;
    } cases[] = {{"{\"eos_token_id\":[1,7,9]}", 0}, {"{\"temperature\":-1}", E_RANGE}, {"{\"top_p\":2}", E_RANGE}, {"{\"top_k\":-5}", E_RANGE},
                 {"{\"min_p\":1.5}", E_RANGE}, {"[]", E_INVALID}, {"{\"eos_token_id\":-1}", E_RANGE},
                 {"{\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", E_RANGE}, {"{", E_INVALID}};
    char file[200];
    write_changed(in_folder("generation"), SOUND);
    snprintf(file, sizeof file, "%s/generation_config.json", path);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_dir m = {0};
        assert_int_equal(file_write(file, span_str(cases[i].text), 0644, NULL), 0);
        int r = model_dir_load(&m, path, MODEL_WEIGHTS_FLAT, MODEL_DIR_NO_WEIGHTS, NULL);
        if (r != cases[i].code) fail_msg("case %zu: %d", i, r);
        if (!r) assert_true(m.config.eos_count == 3 && m.config.eos_ids[2] == 9 && m.weights.flat == NULL);
        model_dir_fini(&m);
    }
}

static int count_entry(void *arg, const char *name) {
    (void)name;
    ++*(int *)arg;
    return 0;
}

/* Every allocation fails once: no directory, nothing left beside it; then loading. */
static void test_no_memory(void **state) {
    (void)state;
    struct model_config c;
    struct model_weights w = {0};
    struct tokenizer *t = trained();
    small(&c, "gpt2", true);
    assert_int_equal(model_weights_new(&w, &c, NULL), 0);
    assert_int_equal(dir_make(in_folder("sweep"), NULL), 0);
    struct model_dir_parts parts = {.weights = &w, .dtype = DTYPE_F16, .tokenizer = t, .chat_template = CHAT_TEMPLATE_CHATML};
    uint64_t step = 1;
    for (uint64_t n = 1;; n += step) {
        alloc_fail_at(n);
        int r = model_dir_write(in_folder("sweep/m"), &parts, NULL);
        uint64_t asked = alloc_count();
        alloc_fail_at(0);
        int entries = 0;
        assert_int_equal(dir_list(in_folder("sweep"), &entries, count_entry, NULL), 0);
        assert_int_equal(entries, r == 0);
        if (asked < n) {
            assert_int_equal(r, 0);
            break;
        }
        if (n > 60) step = 1 + asked / 40;
    }
    for (uint64_t n = 1;; n++) {
        struct model_dir m = {0};
        alloc_fail_at(n);
        int r = model_dir_load(&m, in_folder("sweep/m"), n % 2 ? MODEL_WEIGHTS_FLAT : MODEL_WEIGHTS_MAP, 0, NULL);
        uint64_t asked = alloc_count();
        alloc_fail_at(0);
        model_dir_fini(&m);
        if (asked < n) {
            assert_int_equal(r, 0);
            break;
        }
        assert_int_not_equal(r, 0);
    }
    model_weights_fini(&w);
    tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_layout), cmocka_unit_test(test_changed),
                                       cmocka_unit_test(test_index), cmocka_unit_test(test_generation), cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
