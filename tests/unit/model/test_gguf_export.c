/*
 * Models as GGUF files: of every family that has a place there the file gives back the same configuration, tokenizer, template and weights, bit for bit (but for the 1 that is added to Gemma's norms
 * and taken away again); blocks stay blocks. What the format cannot say is refused by name, and then there is no file.
 */
#include "tests/unit/support/check.h"

#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "model/gguf_export.h"
#include "model/quantize.h"
#include "tests/unit/engine/support/tiny.h"

static char folder[64], path[256];
static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/genloop-export-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    return dir_remove(folder, NULL);
}

static bool near_gemma(const char *arch, float a, float b) { return strncmp(arch, "gemma", 5) == 0 && fabsf(a - b) < 1e-6f; }

static void check_weights(const char *arch, const struct model_weights *a, const struct model_weights *b) {
    assert_int_equal(a->param_count, b->param_count);
    for (size_t i = 0; i < a->param_count; i++) {
        const struct model_param *p = &a->params[i];
        size_t n = (size_t)p->rows * p->cols;
        float *x = mem_calloc(n, sizeof *x), *y = mem_calloc(n, sizeof *y);
        assert_true(x && y);
        model_view_to_f32(&a->views[i], x);
        model_view_to_f32(&b->views[i], y);
        for (size_t k = 0; k < n; k++)
            CHECK(memcmp(&x[k], &y[k], sizeof *x) == 0 || (p->rows == 1 && near_gemma(arch, x[k], y[k])), "%s: %s of layer %u (%u): value %zu is %g, not %g", arch, model_role_name(p->role), p->layer, p->index, k,
                  (double)y[k], (double)x[k]);
        mem_free(x);
        mem_free(y);
    }
}

static void check_tokenizer(const char *arch, const struct tokenizer *a, const struct tokenizer *b) {
    static const char *const texts[] = {"The engine takes rows, doesn't it? 123 naïve café", "  東京 🙂\n\nx", "<|im_start|>user", ""};
    struct error err = {0};
    for (size_t i = 0; i < COUNT(texts); i++) {
        struct tokens x = {0}, y = {0};
        assert_int_equal(tokenizer_encode(a, span_str(texts[i]), TOKENIZER_ADD_SPECIAL, &x, &err), 0);
        assert_int_equal(tokenizer_encode(b, span_str(texts[i]), TOKENIZER_ADD_SPECIAL, &y, &err), 0);
        CHECK(x.len == y.len && (x.len == 0 || memcmp(x.ids, y.ids, x.len * sizeof x.ids[0]) == 0), "%s: other ids for \"%s\"", arch, texts[i]);
        tokens_fini(&x);
        tokens_fini(&y);
    }
}

static void test_families(void **state) {
    static const char *const archs[] = {"llama", "qwen2", "qwen3", "mixtral", "gemma", "gpt2", "gpt_neox", "olmo2", "granite", "phi3"};
    (void)state;
    for (size_t i = 0; i < COUNT(archs); i++) {
        struct tiny t;
        struct model_dir m = {0}, again = {0};
        struct error err = {0};
        tiny_make(&t, archs[i], 11 + i);
        CHECK(model_dir_load(&m, t.path, MODEL_WEIGHTS_MAP, 0, &err) == 0, "%s: %s", archs[i], err.message);
        if (i % 2) m.generation = (struct model_generation){true, 0.7, 0.95, 1.05, i % 4 == 1 ? 0.05 : 0, 20 * (int64_t)(i % 3), 0};
        CHECK(model_write_gguf(&m, "tiny@1", path, &err) == 0, "%s: %s", archs[i], err.message);
        CHECK(model_dir_load(&again, path, MODEL_WEIGHTS_MAP, 0, &err) == 0, "%s: %s", archs[i], err.message);
        const struct model_generation *x = &m.generation, *y = &again.generation;
        CHECK(x->do_sample == y->do_sample && x->temperature == y->temperature && x->top_p == y->top_p && x->min_p == y->min_p && x->top_k == y->top_k && x->repetition_penalty == y->repetition_penalty,
              "%s: another sampling", archs[i]);
        check_weights(archs[i], &m.weights, &again.weights);
        check_tokenizer(archs[i], m.tokenizer, again.tokenizer);
        assert_true((m.chat_template == NULL) == (again.chat_template == NULL) && (!m.chat_template || strcmp(m.chat_template, again.chat_template) == 0));
        assert_true(m.config.eos_count == again.config.eos_count && m.config.eos_ids[0] == again.config.eos_ids[0]);
        model_dir_fini(&again);
        model_dir_fini(&m);
        tiny_remove(&t);
    }
}

/* Blocks go over as they are; a file that was read is written again. */
static void test_blocks(void **state) {
    struct model_config c;
    struct model_weights w = {0};
    struct model_dir m = {0}, again = {0};
    struct error err = {0};
    struct tiny t;
    char dir[256], weights[300];
    (void)state;
    tiny_make(&t, "llama", 3);
    model_config_default(&c, model_arch_find(SPAN("llama")), 2, 64, 4, 2, TINY_CONTEXT, TINY_VOCAB + 20); /* more embeddings than tokens */
    c.ffn = 96;
    CHECK(model_weights_new(&w, &c, &err) == 0, "%s", err.message);
    for (size_t i = 0; i < w.flat_len; i++) w.flat[i] = sinf((float)i * 0.7f) * 0.3f;
    snprintf(dir, sizeof dir, "%s/blocks", folder);
    const struct model_dir_parts parts = {.weights = &w, .dtype = DTYPE_F32, .tokenizer = t.tokenizer};
    CHECK(model_dir_write(dir, &parts, &err) == 0, "%s", err.message);
    snprintf(weights, sizeof weights, "%s/" MODEL_WEIGHTS_FILE, dir);
    CHECK(model_quantize(dir, weights, TENSOR_Q4_0, &err) == 0, "%s", err.message);
    CHECK(model_dir_load(&m, dir, MODEL_WEIGHTS_MAP, 0, &err) == 0, "%s", err.message);
    for (int turn = 0; turn < 2; turn++) { /* from roles, then from a file of llama.cpp's order */
        char out[300];
        snprintf(out, sizeof out, "%s/blocks-%d.gguf", folder, turn);
        CHECK(model_write_gguf(&m, "blocks", out, &err) == 0, "%s", err.message);
        CHECK(model_dir_load(&again, out, MODEL_WEIGHTS_MAP, 0, &err) == 0, "%s", err.message);
        assert_int_equal(model_weights_view(&again.weights, MODEL_ATTN_Q_W, 0)->type, TENSOR_Q4_0);
        assert_int_equal(model_weights_view(&again.weights, MODEL_EMBED_TOKENS, 0)->type, TENSOR_Q8_0);
        check_weights("blocks", &m.weights, &again.weights);
        check_tokenizer("blocks", m.tokenizer, again.tokenizer);
        model_dir_fini(&m);
        m = again;
        again = (struct model_dir){.tokenizer = NULL};
    }
    model_dir_fini(&m);
    model_weights_fini(&w);
    tiny_remove(&t);
}

/* ---- encoders ---- */

static const char BERT_TOKENIZER[] =
    "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":0,\"content\":\"[PAD]\",\"special\":true},{\"id\":1,\"content\":\"[UNK]\",\"special\":true},{\"id\":2,\"content\":\"[CLS]\",\"special\":true},"
    "{\"id\":3,\"content\":\"[SEP]\",\"special\":true},{\"id\":4,\"content\":\"[MASK]\",\"special\":true}],"
    "\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,\"strip_accents\":null,\"lowercase\":true},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"[CLS]\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"SpecialToken\":{\"id\":\"[SEP]\",\"type_id\":0}}],"
    "\"pair\":[{\"SpecialToken\":{\"id\":\"[CLS]\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"SpecialToken\":{\"id\":\"[SEP]\",\"type_id\":0}},{\"Sequence\":{\"id\":\"B\",\"type_id\":1}},"
    "{\"SpecialToken\":{\"id\":\"[SEP]\",\"type_id\":1}}],\"special_tokens\":{\"[CLS]\":{\"id\":\"[CLS]\",\"ids\":[2],\"tokens\":[\"[CLS]\"]},\"[SEP]\":{\"id\":\"[SEP]\",\"ids\":[3],\"tokens\":[\"[SEP]\"]}}},"
    "\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true},"
    "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":100,"
    "\"vocab\":{\"[PAD]\":0,\"[UNK]\":1,\"[CLS]\":2,\"[SEP]\":3,\"[MASK]\":4,\"the\":5,\"##ing\":6,\"engine\":7,\"row\":8,\"##s\":9,\"a\":10,\"##a\":11,\"paris\":12,\"[unused0]\":13}}}";

static void make_encoder(const char *arch, uint32_t labels, const char *dir, struct model_weights *w) {
    struct model_config c;
    struct tokenizer *t = NULL;
    struct error err = {0};
    model_config_default(&c, model_arch_find(span_str(arch)), 3, 32, 4, 0, 40, 20); /* more embeddings than tokens */
    c.ffn = 64;
    c.labels = labels;
    c.pad_id = c.position_offset ? c.position_offset - 1 : 0;
    c.tie_embeddings = true; /* as config.json has it in any case */
    if (c.local_window) {
        c.local_window = 5;
        c.global_every = 2;
    }
    CHECK(model_weights_new(w, &c, &err) == 0, "%s: %s", arch, err.message);
    for (size_t i = 0; i < w->flat_len; i++) w->flat[i] = sinf((float)i * 0.7f) * 0.3f;
    CHECK(tokenizer_parse(span_of(BERT_TOKENIZER, sizeof BERT_TOKENIZER - 1), &t, &err) == 0, "%s", err.message);
    const struct model_dir_parts parts = {.weights = w, .dtype = DTYPE_F32, .tokenizer = t};
    CHECK(model_dir_write(dir, &parts, &err) == 0, "%s: %s", arch, err.message);
    tokenizer_free(t);
}

/* By (role, layer): RoBERTa's file has no rows of positions that are no token's. */
static void check_encoder(const char *arch, const struct model_weights *a, const struct model_weights *b) {
    assert_int_equal(a->param_count, b->param_count);
    for (size_t i = 0; i < a->param_count; i++) {
        const struct model_param *p = &a->params[i];
        uint32_t skip = p->role == MODEL_EMBED_POSITIONS ? a->config.position_offset : 0;
        const struct model_view *x = &a->views[i], *y = model_weights_view(b, p->role, p->layer);
        CHECK(y && y->rows == x->rows - skip && y->cols == x->cols, "%s: %s of layer %u is of another shape", arch, model_role_name(p->role), p->layer);
        for (uint32_t r = 0; r < y->rows; r++) {
            float u[128], v[128];
            tensor_to_f32(x->type, model_view_row(x, r + skip), x->cols, u);
            tensor_to_f32(y->type, model_view_row(y, r), y->cols, v);
            CHECK(memcmp(u, v, x->cols * sizeof *u) == 0, "%s: %s of layer %u, row %u", arch, model_role_name(p->role), p->layer, r);
        }
    }
}

static void test_encoders(void **state) {
    static const struct {
        const char *arch;
        uint32_t labels;
    } cases[] = {{"bert", 0}, {"bert", 1}, {"roberta", 0}, {"roberta", 3}, {"xlm-roberta", 1}, {"distilbert", 0}, {"modernbert", 0}, {"modernbert", 2}};
    static char *names[] = {"no", "maybe", "yes"};
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *arch = cases[i].arch;
        struct model_weights w = {0};
        struct model_dir m = {0}, again = {0};
        struct error err = {0};
        char dir[256];
        snprintf(dir, sizeof dir, "%s/encoder-%zu", folder, i);
        make_encoder(arch, cases[i].labels, dir, &w);
        CHECK(model_dir_load(&m, dir, MODEL_WEIGHTS_MAP, 0, &err) == 0, "%s: %s", arch, err.message);
        m.pooling = (enum model_pooling)(i % 4);
        if (cases[i].labels) { /* borrowed for the writing */
            m.labels = names;
            m.label_count = cases[i].labels;
        }
        int r = model_write_gguf(&m, "encoder", path, &err);
        m.labels = NULL;
        CHECK(r == 0, "%s: %s", arch, err.message);
        CHECK(model_dir_load(&again, path, MODEL_WEIGHTS_MAP, 0, &err) == 0, "%s: %s", arch, err.message);
        CHECK(again.config.labels == cases[i].labels && again.config.context == m.config.context - m.config.position_offset, "%s: other labels or context", arch);
        CHECK(again.pooling == (cases[i].labels ? MODEL_POOLING_UNSAID : (enum model_pooling)(i % 4)), "%s: pooled otherwise", arch);
        assert_int_equal(again.label_count, cases[i].labels);
        for (uint32_t k = 0; k < again.label_count; k++) assert_string_equal(again.labels[k], names[k]);
        check_encoder(arch, &m.weights, &again.weights);
        check_tokenizer(arch, m.tokenizer, again.tokenizer);
        model_dir_fini(&again);
        model_dir_fini(&m);
        model_weights_fini(&w);
    }
}

static void test_encoder_refused(void **state) {
    struct model_weights w = {0};
    struct model_dir m = {0};
    struct error err = {0};
    char dir[256], never[300];
    (void)state;
    snprintf(dir, sizeof dir, "%s/refused", folder);
    snprintf(never, sizeof never, "%s/refused.gguf", folder);
    make_encoder("distilbert", 2, dir, &w);
    assert_int_equal(model_dir_load(&m, dir, MODEL_WEIGHTS_MAP, 0, &err), 0);
    CHECK(model_write_gguf(&m, "x", never, &err) == E_UNSUPPORTED && strstr(err.message, "DistilBERT") && strstr(err.message, "as it is"), "%s", err.message);
    m.config.labels = 0;
    m.config.activation = MODEL_ACT_RELU; /* which the format takes for granted is another */
    CHECK(model_write_gguf(&m, "x", never, &err) == E_UNSUPPORTED && strstr(err.message, "as it is"), "%s", err.message);
    assert_false(file_exists(never));
    model_dir_fini(&m);
    model_weights_fini(&w);
}

static void test_refused(void **state) {
    static const struct {
        const char *arch, *says;
    } cases[] = {{"opt", "opt"}, {"mistral", "sliding_window"}, {"qwen3_moe", "ffn_gate_inp"} /* a layer without experts */};
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct tiny t;
        struct model_dir m = {0};
        struct error err = {0};
        char never[300];
        snprintf(never, sizeof never, "%s/never.gguf", folder);
        tiny_make(&t, cases[i].arch, 1);
        assert_int_equal(model_dir_load(&m, t.path, MODEL_WEIGHTS_MAP, 0, &err), 0);
        CHECK(model_write_gguf(&m, "x", never, &err) == E_UNSUPPORTED, "%s is written", cases[i].arch);
        CHECK(strstr(err.message, cases[i].says) && strstr(err.message, "safetensors"), "%s: %s", cases[i].arch, err.message);
        assert_false(file_exists(never));
        strncat(never, ".unchecked", sizeof never - strlen(never) - 1);
        assert_false(file_exists(never));
        model_dir_fini(&m);
        tiny_remove(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_families), cmocka_unit_test(test_blocks), cmocka_unit_test(test_encoders), cmocka_unit_test(test_encoder_refused),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests_name("model_gguf_export", tests, set_up, tear_down);
}
