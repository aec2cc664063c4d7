/* Encoders: a text alone equals the text in company, bit for bit, on any number of threads; pooling; what is refused; the files beside the weights. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/random.h"
#include "engine/embedder.h"

enum { VOCAB = 96, WIDTH = 48, LABELS = 3, CONTEXT = 200, TEXTS = 60 };

static struct encoder *make(const char *arch, uint32_t labels, enum packed_kind kind, int threads) {
    struct model_dir dir = {.tokenizer = NULL};
    struct error err;
    struct encoder *e = NULL;
    struct encoder_options options = {.threads = threads, .weights = kind};
    model_config_default(&dir.config, model_arch_find(span_str(arch)), 3, WIDTH, 4, 0, CONTEXT, VOCAB);
    dir.config.labels = labels;
    if (dir.config.local_window) {
        dir.config.local_window = 5;
        dir.config.global_every = 2;
    }
    if (model_weights_new(&dir.weights, &dir.config, &err) != 0) fail_msg("weights: %s", err.message);
    struct random r;
    random_seed(&r, 7);
    for (size_t i = 0; i < dir.weights.flat_len; i++) dir.weights.flat[i] = (float)random_normal(&r) * 0.3f;
    if (encoder_new_from(&e, &dir, NULL, &options, &err) != 0) fail_msg("%s: %s", arch, err.message);
    return e;
}

struct batch {
    struct encoder_text texts[TEXTS];
    uint32_t ids[TEXTS][CONTEXT];
    uint8_t types[TEXTS][CONTEXT];
    float out[TEXTS][WIDTH];
};
static void fill(struct batch *b, const struct encoder *e, uint64_t seed) {
    struct random r;
    random_seed(&r, seed);
    memset(b, 0, sizeof *b);
    for (size_t i = 0; i < TEXTS; i++) {
        struct encoder_text *t = &b->texts[i];
        t->count = i == 0 ? encoder_tokens_max(e) : 1 + random_u64(&r) % (i % 3 ? 20 : 120);
        for (size_t k = 0; k < t->count; k++) {
            b->ids[i][k] = (uint32_t)(random_u64(&r) % VOCAB);
            b->types[i][k] = (uint8_t)(encoder_model(e)->types ? random_u64(&r) % encoder_model(e)->types : 0);
        }
        t->ids = b->ids[i];
        t->types = i % 2 ? b->types[i] : NULL;
        t->score = encoder_model(e)->labels && i % 4 == 1;
        t->pooling = (enum encoder_pooling)(i % 3);
        t->normalize = i % 5 == 0;
        t->out = b->out[i];
        assert_int_equal(encoder_check(e, t, NULL), 0);
    }
}

static void test_alone_as_in_company(void **state) {
    (void)state;
    static const struct {
        const char *arch;
        uint32_t labels;
        enum packed_kind kind;
    } cases[] = {{"bert", 0, PACKED_F32}, {"bert", LABELS, PACKED_Q8}, {"roberta", 1, PACKED_F32}, {"distilbert", LABELS, PACKED_F32}, {"modernbert", LABELS, PACKED_F32}, {"modernbert", 0, PACKED_Q8}};
    static struct batch together, alone;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct encoder *one = make(cases[c].arch, cases[c].labels, cases[c].kind, 1), *three = make(cases[c].arch, cases[c].labels, cases[c].kind, 3);
        fill(&together, three, 11 + c);
        fill(&alone, one, 11 + c);
        encoder_run(three, together.texts, TEXTS);
        for (size_t i = TEXTS; i-- > 0;) encoder_run(one, &alone.texts[i], 1);
        for (size_t i = 0; i < TEXTS; i++) {
            for (size_t k = 0; k < WIDTH; k++) assert_true(isfinite(alone.out[i][k]));
            if (memcmp(together.out[i], alone.out[i], sizeof alone.out[i]) != 0) fail_msg("%s, case %zu: text %zu of %zu tokens", cases[c].arch, c, i, alone.texts[i].count);
        }
        encoder_run(three, alone.texts + 1, 1); /* few rows: the matrices are split */
        assert_memory_equal(together.out[1], alone.out[1], sizeof alone.out[1]);
        encoder_free(one);
        encoder_free(three);
    }
}

static void test_pooling(void **state) {
    (void)state;
    struct encoder *e = make("bert", 0, PACKED_F32, 1);
    uint32_t ids[] = {5, 9, 5, 17};
    float mean[WIDTH], cls[WIDTH], last[WIDTH], length[WIDTH], single[WIDTH], typed[WIDTH];
    uint8_t types[] = {0, 0, 1, 1};
    struct encoder_text t[] = {{ids, NULL, 4, false, ENCODER_MEAN, false, mean}, {ids, NULL, 4, false, ENCODER_CLS, false, cls}, {ids, NULL, 4, false, ENCODER_LAST, false, last},
                               {ids, NULL, 4, false, ENCODER_MEAN, true, length}, {ids, NULL, 1, false, ENCODER_MEAN, false, single}, {ids, types, 4, false, ENCODER_MEAN, false, typed}};
    encoder_run(e, t, sizeof t / sizeof *t);
    double norm = 0, square = 0;
    for (size_t i = 0; i < WIDTH; i++) {
        norm += (double)mean[i] * (double)mean[i];
        square += (double)length[i] * (double)length[i];
    }
    assert_true(fabs(square - 1) < 1e-5);
    for (size_t i = 0; i < WIDTH; i++) assert_true(fabs((double)length[i] - (double)mean[i] / sqrt(norm)) < 1e-5);
    assert_memory_not_equal(mean, cls, sizeof mean);
    assert_memory_not_equal(cls, last, sizeof cls);
    assert_memory_not_equal(mean, typed, sizeof mean);
    /* of one token the kinds agree */
    t[4].pooling = ENCODER_LAST;
    t[4].out = last;
    encoder_run(e, &t[4], 1);
    assert_memory_equal(single, last, sizeof last);
    encoder_free(e);
}

/* What is stored in blocks is computed in blocks, and takes less memory than the same values in f32; several types in one matrix too. */
static void test_blocks(void **state) {
    static const struct {
        enum model_role role;
        enum tensor_type type;
    } stored[2][7] = {{{MODEL_EMBED_TOKENS, TENSOR_Q8_0}, {MODEL_ATTN_Q_W, TENSOR_Q8_0}, {MODEL_ATTN_K_W, TENSOR_Q8_0}, {MODEL_ATTN_V_W, TENSOR_Q8_0}, {MODEL_ATTN_O_W, TENSOR_Q8_0}, {MODEL_MLP_UP_W, TENSOR_Q8_0}, {MODEL_MLP_DOWN_W, TENSOR_Q8_0}},
                      {{MODEL_EMBED_TOKENS, TENSOR_F16}, {MODEL_ATTN_Q_W, TENSOR_Q4_0}, {MODEL_ATTN_K_W, TENSOR_Q4_1}, {MODEL_ATTN_V_W, TENSOR_Q8_0}, {MODEL_ATTN_O_W, TENSOR_Q4_1}, {MODEL_MLP_UP_W, TENSOR_Q8_0}, {MODEL_MLP_DOWN_W, TENSOR_F16}}};
    enum { WIDE = 128, WORDS = 1 << 15 /* so that weights outweigh the room that activations take as blocks */ };
    (void)state;
    for (size_t set = 0; set < 2; set++) {
        struct encoder *e[2] = {NULL, NULL};
        float out[2][WIDE];
        uint8_t *kept[64] = {NULL};
        size_t keeps = 0;
        for (int blocks = 0; blocks < 2; blocks++) { /* first the values that blocks hold, in f32 */
            struct model_dir dir = {.tokenizer = NULL};
            struct error err;
            struct random r;
            model_config_default(&dir.config, model_arch_find(SPAN("bert")), 2, WIDE, 4, 0, CONTEXT, WORDS);
            if (model_weights_new(&dir.weights, &dir.config, &err) != 0) fail_msg("weights: %s", err.message);
            random_seed(&r, 17);
            for (size_t i = 0; i < dir.weights.flat_len; i++) dir.weights.flat[i] = (float)random_normal(&r) * 0.1f;
            for (size_t i = 0; i < dir.weights.param_count; i++) {
                const struct model_param *p = &dir.weights.params[i];
                size_t n = model_param_size(p), size, row;
                for (size_t k = 0; k < 7; k++) {
                    if (stored[set][k].role != p->role) continue;
                    enum tensor_type type = stored[set][k].type;
                    assert_int_equal(tensor_size(type, p->rows, p->cols, &size), 0);
                    assert_int_equal(tensor_size(type, 1, p->cols, &row), 0);
                    assert_true(keeps < sizeof kept / sizeof *kept);
                    uint8_t *raw = kept[keeps++] = mem_alloc(size);
                    assert_non_null(raw);
                    assert_int_equal(tensor_from_f32(type, dir.weights.flat + p->offset, n, raw), 0);
                    if (blocks) dir.weights.views[i] = (struct model_view){.type = type, .data = raw, .row_size = row, .rows = p->rows, .cols = p->cols};
                    else tensor_to_f32(type, raw, n, dir.weights.flat + p->offset);
                }
            }
            if (encoder_new_from(&e[blocks], &dir, NULL, &(struct encoder_options){.threads = 2}, &err) != 0) fail_msg("%s", err.message);
            struct encoder_text text = {.ids = (const uint32_t[]){5, 9, 77, 17, 1}, .count = 5, .normalize = true, .out = out[blocks]};
            encoder_run(e[blocks], &text, 1);
        }
        double cosine = 0;
        for (size_t i = 0; i < WIDE; i++) cosine += (double)out[0][i] * (double)out[1][i];
        if (!(cosine > 0.999)) fail_msg("set %zu: the cosine is %g", set, cosine);
        assert_true(encoder_memory(e[1]) + (set ? 0 : WORDS * WIDE) < encoder_memory(e[0]));
        for (int i = 0; i < 2; i++) encoder_free(e[i]);
        for (size_t i = 0; i < keeps; i++) mem_free(kept[i]);
    }
}

static void test_refused(void **state) {
    (void)state;
    struct encoder *e = make("roberta", 0, PACKED_F32, 1);
    static uint32_t ids[CONTEXT + 1];
    uint8_t type = 9;
    struct error err = {0};
    struct encoder_text t = {.ids = ids, .count = 0};
    assert_int_equal(encoder_tokens_max(e), CONTEXT - 2);
    assert_int_equal(encoder_check(e, &t, &err), E_INVALID);
    t.count = CONTEXT - 1;
    assert_int_equal(encoder_check(e, &t, &err), E_RANGE);
    assert_non_null(strstr(err.message, "198"));
    t.count = 1;
    t.types = &type;
    assert_int_equal(encoder_check(e, &t, &err), E_INVALID);
    t.types = NULL;
    ids[0] = VOCAB;
    assert_int_equal(encoder_check(e, &t, &err), E_INVALID);
    ids[0] = 3;
    t.score = true;
    assert_int_equal(encoder_check(e, &t, &err), E_UNSUPPORTED);
    encoder_free(e);
}

static void test_probabilities(void **state) {
    (void)state;
    struct encoder *one = make("bert", 1, PACKED_F32, 1), *many = make("bert", LABELS, PACKED_F32, 1);
    float a[] = {0}, b[LABELS] = {1, 2, 3};
    encoder_probabilities(one, a);
    encoder_probabilities(many, b);
    assert_true(a[0] == 0.5f);
    assert_true(fabs((double)(b[0] + b[1] + b[2]) - 1) < 1e-6 && b[2] > b[1] && fabs((double)b[2] / (double)b[1] - exp(1)) < 1e-5);
    encoder_free(one);
    encoder_free(many);
}

static void test_settings(void **state) {
    (void)state;
    char folder[ENCODER_FOLDER_MAX];
    struct error err;
    static const struct {
        const char *text, *folder;
        int code;
    } modules[] = {
        {"[{\"type\":\"sentence_transformers.models.Transformer\",\"path\":\"\"},{\"type\":\"sentence_transformers.models.Pooling\",\"path\":\"1_Pooling\"},"
         "{\"type\":\"sentence_transformers.models.Normalize\",\"path\":\"2_Normalize\"}]", "1_Pooling", 0},
        {"[]", "", 0},
        {"{}", "", E_INVALID},
        {"[{\"type\":\"sentence_transformers.models.Dense\",\"path\":\"2_Dense\"}]", "", E_UNSUPPORTED},
        {"[{\"type\":\"x.Pooling\",\"path\":\"../up\"}]", "", E_INVALID},
        {"[{\"type\":\"x.Pooling\",\"path\":\"a/b\"}]", "", E_INVALID},
        {"[{\"type\":\"x.Pooling\"}]", "", E_INVALID},
    };
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++) {
        if (encoder_parse_modules(span_str(modules[i].text), folder, &err) != modules[i].code) fail_msg("modules %zu: %s", i, err.message);
        if (modules[i].code == 0) assert_string_equal(folder, modules[i].folder);
    }
    static const struct {
        const char *text;
        int code;
        enum encoder_pooling pooling;
    } pooling[] = {
        {"{\"pooling_mode_cls_token\":true,\"pooling_mode_mean_tokens\":false}", 0, ENCODER_CLS},
        {"{\"pooling_mode_mean_tokens\":true}", 0, ENCODER_MEAN},
        {"{\"pooling_mode_lasttoken\":true}", 0, ENCODER_LAST},
        {"{\"pooling_mode\":\"cls\"}", 0, ENCODER_CLS},
        {"{\"pooling_mode_cls_token\":true,\"pooling_mode_mean_tokens\":true}", E_UNSUPPORTED, ENCODER_MEAN},
        {"{\"pooling_mode_max_tokens\":true}", E_UNSUPPORTED, ENCODER_MEAN},
        {"{}", E_UNSUPPORTED, ENCODER_MEAN},
        {"{", E_INVALID, ENCODER_MEAN},
    };
    for (size_t i = 0; i < sizeof pooling / sizeof *pooling; i++) {
        enum encoder_pooling got = ENCODER_MEAN;
        if (encoder_parse_pooling(span_str(pooling[i].text), &got, &err) != pooling[i].code) fail_msg("pooling %zu", i);
        if (pooling[i].code == 0) assert_int_equal(got, pooling[i].pooling);
    }
    uint32_t tokens = 7;
    assert_int_equal(encoder_parse_sentence(SPAN("{\"max_seq_length\":256}"), &tokens, &err), 0);
    assert_int_equal(tokens, 256);
    assert_int_equal(encoder_parse_sentence(SPAN("{\"max_seq_length\":null}"), &tokens, &err), 0);
    assert_int_equal(encoder_parse_sentence(SPAN("{\"max_seq_length\":0}"), &tokens, &err), E_RANGE);
    assert_int_equal(tokens, 256);
    static const struct {
        const char *text;
        int code;
    } labels[] = {{"{\"id2label\":{\"0\":\"no\",\"1\":\"yes\"},\"problem_type\":\"multi_label_classification\"}", 0}, {"{}", 0},
                  {"{\"id2label\":{\"0\":\"no\"}}", E_INVALID}, {"{\"id2label\":{\"0\":\"no\",\"2\":\"yes\"}}", E_INVALID}, {"{\"id2label\":{\"0\":\"no\",\"00\":\"yes\"}}", E_INVALID},
                  {"{\"id2label\":{\"0\":\"no\",\"1\":1}}", E_INVALID}};
    for (size_t i = 0; i < sizeof labels / sizeof *labels; i++) {
        struct encoder_settings s = {.labels = NULL};
        if (encoder_parse_labels(span_str(labels[i].text), 2, &s, &err) != labels[i].code) fail_msg("labels %zu: %s", i, err.message);
        if (i == 0) assert_string_equal(s.labels[1], "yes");
        if (i == 0) assert_true(s.multi_label);
        encoder_settings_fini(&s);
    }
}

/* A GGUF file says pooling and labels itself; what lies beside goes before it; and both ways into each other. */
static void test_said_by_a_file(void **state) {
    char dir[64] = "/tmp/genloop-encoder-settings-XXXXXX", path[128];
    char *names[] = {"no", "yes"};
    struct model_dir m = {.config = {.labels = 2}, .pooling = MODEL_POOLING_LAST, .labels = names, .label_count = 2}, other = {.config = {.labels = 2}};
    struct encoder_settings s = {.labels = NULL};
    struct error err = {0};
    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(encoder_settings_load(&s, dir, &m, &err), 0);
    assert_true(s.pooling == ENCODER_LAST && s.label_count == 2);
    assert_string_equal(s.labels[1], "yes");
    assert_int_equal(encoder_settings_tell(&s, &other, &err), 0);
    assert_true(other.pooling == MODEL_POOLING_LAST && other.label_count == 2);
    assert_string_equal(other.labels[0], "no");
    s.multi_label = true;
    assert_int_equal(encoder_settings_tell(&s, &other, &err), E_UNSUPPORTED);
    encoder_settings_fini(&s);
    model_dir_fini(&other);

    (void)snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(file_write(path, SPAN("{\"hidden_size\":8}"), 0644, &err), 0);
    if (encoder_settings_write(dir, &m, &err) != 0) fail_msg("%s", err.message);
    other = (struct model_dir){.config = {.labels = 2}}; /* a directory says nothing itself */
    assert_int_equal(encoder_settings_load(&s, dir, &other, &err), 0);
    assert_true(s.pooling == ENCODER_LAST && s.label_count == 2);
    assert_string_equal(s.labels[1], "yes");
    encoder_settings_fini(&s);
    m.pooling = MODEL_POOLING_CLS;
    m.labels[0] = "other";
    assert_int_equal(encoder_settings_write(dir, &m, &err), 0); /* what is there stays */
    assert_int_equal(encoder_settings_load(&s, dir, &m, &err), 0);
    assert_true(s.pooling == ENCODER_LAST);
    assert_string_equal(s.labels[0], "no");
    encoder_settings_fini(&s);
    assert_int_equal(dir_remove(dir, NULL), 0);
}

/* --- the embedder --- */

struct outcome {
    pthread_mutex_t lock;
    pthread_cond_t told;
    bool over;
    int code;
    char param[64];
    size_t rows, cols;
    uint64_t tokens;
    float values[TEXTS * WIDTH];
};
static void on_answer(void *arg, const struct embedder_answer *a) {
    struct outcome *o = arg;
    pthread_mutex_lock(&o->lock);
    o->code = a->error ? a->error->code : 0;
    if (a->error) span_copy(o->param, sizeof o->param, span_str(a->error->param));
    o->rows = a->rows;
    o->cols = a->cols;
    o->tokens = a->tokens;
    assert_true(a->rows * a->cols <= TEXTS * WIDTH);
    if (a->rows) memcpy(o->values, a->values, a->rows * a->cols * sizeof(float));
    o->over = true;
    pthread_cond_signal(&o->told);
    pthread_mutex_unlock(&o->lock);
}
static void outcome_init(struct outcome *o) {
    memset(o, 0, sizeof *o);
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->told, NULL);
}
static void outcome_wait(struct outcome *o) {
    pthread_mutex_lock(&o->lock);
    while (!o->over) pthread_cond_wait(&o->told, &o->lock);
    pthread_mutex_unlock(&o->lock);
}

static void test_embedder(void **state) {
    (void)state;
    enum { REQUESTS = 24 };
    static struct batch b;
    static struct outcome o[REQUESTS];
    struct encoder *reference = make("bert", 0, PACKED_F32, 1);
    struct embedder *e = NULL;
    struct error err = {0};
    uint64_t id[REQUESTS];
    fill(&b, reference, 3);
    for (size_t i = 0; i < TEXTS; i++) {
        b.texts[i].types = NULL; /* ids come without */
        b.texts[i].pooling = ENCODER_MEAN;
        b.texts[i].normalize = true;
    }
    encoder_run(reference, b.texts, TEXTS);
    assert_int_equal(embedder_new_from(&e, make("bert", 0, PACKED_F32, 2), 0, &err), 0);
    for (size_t k = 0; k < REQUESTS; k++) { /* all at once, of one to 24 texts */
        struct embedder_input in[REQUESTS];
        for (size_t i = 0; i <= k; i++) in[i] = (struct embedder_input){.tokens = b.ids[(k + i) % TEXTS], .token_count = b.texts[(k + i) % TEXTS].count};
        struct embedder_request r = {.task = EMBEDDER_EMBED, .inputs = in, .count = k + 1, .dimensions = k == 5 ? 7 : 0};
        outcome_init(&o[k]);
        if (embedder_submit(e, &r, &o[k], on_answer, &id[k], &err) != 0) fail_msg("%s", err.message);
    }
    for (size_t k = 0; k < REQUESTS; k++) {
        outcome_wait(&o[k]);
        assert_int_equal(o[k].code, 0);
        assert_int_equal(o[k].rows, k + 1);
        assert_int_equal(o[k].cols, k == 5 ? 7 : WIDTH);
        for (size_t i = 0; i <= k; i++) {
            const float *want = b.out[(k + i) % TEXTS];
            if (k != 5) assert_memory_equal(o[k].values + i * WIDTH, want, WIDTH * sizeof(float));
            double length = 0;
            for (size_t c = 0; c < 7; c++) length += (double)want[c] * (double)want[c];
            for (size_t c = 0; k == 5 && c < 7; c++) assert_true(fabs((double)o[k].values[i * 7 + c] - (double)want[c] / sqrt(length)) < 1e-6);
        }
    }
    /* what is wrong: at once, or once the tokens are looked at; a neighbour's fault is nobody else's */
    uint32_t ids[] = {1, VOCAB};
    struct embedder_input bad = {.tokens = ids, .token_count = 2}, text = {.text = SPAN("a")}, long_one = {.tokens = b.ids[0], .token_count = CONTEXT + 1};
    struct embedder_request r = {.task = EMBEDDER_EMBED, .inputs = &bad, .count = 1};
    outcome_init(&o[0]);
    assert_int_equal(embedder_submit(e, &r, &o[0], on_answer, &id[0], &err), 0);
    outcome_wait(&o[0]);
    assert_int_equal(o[0].code, E_INVALID);
    assert_string_equal(o[0].param, "input");
    r.dimensions = WIDTH + 1;
    assert_int_equal(embedder_submit(e, &r, &o[0], on_answer, &id[0], &err), E_INVALID);
    assert_string_equal(err.param, "dimensions");
    r.dimensions = 0;
    r.inputs = &text;
    assert_int_equal(embedder_submit(e, &r, &o[0], on_answer, &id[0], &err), E_UNSUPPORTED); /* no tokenizer */
    r.task = EMBEDDER_CLASSIFY;
    assert_int_equal(embedder_submit(e, &r, &o[0], on_answer, &id[0], &err), E_UNSUPPORTED); /* no classifier */
    r.task = EMBEDDER_EMBED;
    r.count = 0;
    assert_int_equal(embedder_submit(e, &r, &o[0], on_answer, &id[0], &err), E_INVALID);
    r = (struct embedder_request){.task = EMBEDDER_EMBED, .inputs = &long_one, .count = 1};
    b.ids[1][0] = 1; /* what lies behind b.ids[0] is read as its token CONTEXT + 1 */
    outcome_init(&o[0]);
    assert_int_equal(embedder_submit(e, &r, &o[0], on_answer, &id[0], &err), 0);
    outcome_wait(&o[0]);
    assert_int_equal(o[0].code, E_RANGE);
    /* cancelled, late, and let go: every request has its one answer */
    struct embedder_input many[TEXTS];
    for (size_t i = 0; i < TEXTS; i++) many[i] = (struct embedder_input){.tokens = b.ids[0], .token_count = CONTEXT};
    for (size_t k = 0; k < REQUESTS; k++) {
        r = (struct embedder_request){.task = EMBEDDER_EMBED, .inputs = many, .count = TEXTS, .deadline_ms = k == 1 ? 1 : 0};
        outcome_init(&o[k]);
        assert_int_equal(embedder_submit(e, &r, &o[k], on_answer, &id[k], &err), 0);
        if (k % 2 == 0) embedder_cancel(e, id[k]);
    }
    outcome_wait(&o[1]);
    assert_int_equal(o[1].code, E_DEADLINE);
    embedder_free(e);
    for (size_t k = 0; k < REQUESTS; k++) {
        outcome_wait(&o[k]);
        assert_true(o[k].code == 0 || o[k].code == E_CANCELLED || k == 1);
    }
    encoder_free(reference);
}

/* Holds the embedder's thread until it may go on. */
struct gate {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    bool reached, open;
};
static void on_answer_held(void *arg, const struct embedder_answer *a) {
    struct gate *g = arg;
    (void)a;
    pthread_mutex_lock(&g->lock);
    g->reached = true;
    pthread_cond_broadcast(&g->moved);
    while (!g->open) pthread_cond_wait(&g->moved, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void test_embedder_is_full(void **state) {
    (void)state;
    enum { QUEUE = 128 };
    static struct outcome o[QUEUE];
    struct gate gate = {.reached = false};
    struct embedder *e = NULL;
    struct error err = {0};
    struct embedder_stats s;
    uint32_t ids[] = {1, 2};
    uint64_t id;
    struct embedder_input one = {.tokens = ids, .token_count = 2};
    struct embedder_request r = {.task = EMBEDDER_EMBED, .inputs = &one, .count = 1};
    pthread_mutex_init(&gate.lock, NULL);
    pthread_cond_init(&gate.moved, NULL);
    assert_int_equal(embedder_new_from(&e, make("bert", 0, PACKED_F32, 1), QUEUE, &err), 0);
    assert_int_equal(embedder_submit(e, &r, &gate, on_answer_held, &id, &err), 0);
    pthread_mutex_lock(&gate.lock);
    while (!gate.reached) pthread_cond_wait(&gate.moved, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
    for (size_t n = 0; n < QUEUE; n++) {
        outcome_init(&o[n]);
        assert_int_equal(embedder_submit(e, &r, &o[n], on_answer, &id, &err), 0);
    }
    assert_int_equal(embedder_submit(e, &r, &o[0], on_answer, &id, &err), E_FULL);
    embedder_get_stats(e, &s);
    assert_int_equal(s.waiting, QUEUE);
    assert_true(s.bytes > 0);
    pthread_mutex_lock(&gate.lock);
    gate.open = true;
    pthread_cond_broadcast(&gate.moved);
    pthread_mutex_unlock(&gate.lock);
    for (size_t i = 0; i < QUEUE; i++) {
        outcome_wait(&o[i]);
        assert_int_equal(o[i].code, 0);
    }
    embedder_get_stats(e, &s);
    assert_int_equal(s.texts, QUEUE + 1);
    embedder_free(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_alone_as_in_company), cmocka_unit_test(test_pooling), cmocka_unit_test(test_blocks), cmocka_unit_test(test_refused), cmocka_unit_test(test_probabilities), cmocka_unit_test(test_settings), cmocka_unit_test(test_said_by_a_file),
                                       cmocka_unit_test(test_embedder), cmocka_unit_test(test_embedder_is_full)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
