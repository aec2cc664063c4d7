/* Packed copies: read back as they were written, refused when anything in them has changed, never more than the folder may hold; a model from its copy is the model. */
#include "tests/unit/support/check.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/file.h"
#include "base/random.h"
#include "engine/encoder.h"
#include "engine/engine.h"
#include "engine/matrix_pack.h"
#include "tests/unit/engine/support/tiny.h"

enum { WEIGHTS = 2 * PACKED_COPY_CHUNK + 4196 /* three chunks */, NEWS_MAX = 8 };

static char root[] = "/tmp/genloop-packed-XXXXXX";
static uint8_t *weights, *back;
static struct pool *pool;

static int set_up(void **state) {
    (void)state;
    struct random r;
    assert_non_null(mkdtemp(root));
    assert_non_null(weights = mem_alloc_aligned(WEIGHTS));
    assert_non_null(back = mem_alloc_aligned(WEIGHTS));
    assert_non_null(pool = pool_new(2));
    random_seed(&r, 11);
    for (size_t i = 0; i < WEIGHTS; i++) weights[i] = (uint8_t)random_u64(&r);
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    mem_free(weights);
    mem_free(back);
    pool_free(pool);
    assert_int_equal(dir_remove(root, NULL), 0);
    return 0;
}

static void key_of(struct packed_copy_key *key, const char *text, size_t size) {
    *key = (struct packed_copy_key){.words = "layout 1 for a test", .size = size};
    sha256_of(span_str(text), key->digest);
}

static void poke(const char *path, off_t at, int flip) {
    uint8_t byte;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= (uint8_t)flip;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static int count_entry(void *arg, const char *name) {
    (void)name;
    ++*(int *)arg;
    return 0;
}
static int entries(const char *dir) {
    int n = 0;
    if (file_exists(dir)) assert_int_equal(dir_list(dir, &n, count_entry, NULL), 0);
    return n;
}

static void test_damage(void **state) {
    static const struct {
        const char *name;
        off_t at; /* of a bit that changes; or what ftruncate takes */
        bool cut;
        int want;
    } cases[] = {
        {"magic", 0, false, E_DATA_LOSS},
        {"version", 8, false, E_NOT_FOUND}, /* another program's */
        {"size of the head", 12, false, E_DATA_LOSS},
        {"size of the weights", 16, false, E_DATA_LOSS},
        {"size of a chunk", 26, false, E_DATA_LOSS},
        {"checksum of the head", 28, false, E_DATA_LOSS},
        {"key", 40, false, E_DATA_LOSS},
        {"words", 70, false, E_DATA_LOSS},
        {"a chunk's checksum", 132, false, E_DATA_LOSS},
        {"first byte", PACKED_COPY_OFFSET, false, E_DATA_LOSS},
        {"a byte amid", PACKED_COPY_OFFSET + PACKED_COPY_CHUNK + 77, false, E_DATA_LOSS},
        {"last byte", PACKED_COPY_OFFSET + WEIGHTS - 1, false, E_DATA_LOSS},
        {"between head and weights", PACKED_COPY_OFFSET - 1, false, 0}, /* is nobody's */
        {"empty", 0, true, E_DATA_LOSS},
        {"a part of the head", 100, true, E_DATA_LOSS},
        {"the head alone", 4096, true, E_DATA_LOSS},
        {"a byte less", PACKED_COPY_OFFSET + WEIGHTS - 1, true, E_DATA_LOSS},
        {"a byte more", PACKED_COPY_OFFSET + WEIGHTS + 1, true, E_DATA_LOSS},
    };
    char path[128];
    struct packed_copy_key key, other;
    struct error err = {0};
    (void)state;
    key_of(&key, "a", WEIGHTS);
    (void)snprintf(path, sizeof path, "%s/one", root);
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(packed_copy_write(path, &key, weights, NULL, &err), 0);
        if (cases[i].cut) assert_int_equal(truncate(path, cases[i].at), 0);
        else poke(path, cases[i].at, 4);
        int r = packed_copy_read(path, &key, back, pool, &err);
        if (r != cases[i].want || (r != 0 && !strstr(err.message, path))) fail_msg("%s: %d (%s)", cases[i].name, r, err.message);
    }
    assert_int_equal(packed_copy_write(path, &key, weights, NULL, &err), 0);
    memset(back, 0, WEIGHTS);
    assert_int_equal(packed_copy_read(path, &key, back, pool, &err), 0);
    assert_memory_equal(back, weights, WEIGHTS);
    key_of(&other, "b", WEIGHTS);
    assert_int_equal(packed_copy_read(path, &other, back, pool, &err), E_NOT_FOUND);
    key_of(&other, "a", WEIGHTS - 1);
    assert_int_equal(packed_copy_read(path, &other, back, pool, &err), E_NOT_FOUND);
    key_of(&other, "a", WEIGHTS + 9); /* there is room for more */
    memset(back, 0, WEIGHTS);
    assert_int_equal(packed_copy_read(path, &other, back, pool, &err), 0);
    assert_memory_equal(back, weights, WEIGHTS);
    key_of(&other, "a", 0);
    assert_int_equal(packed_copy_read(path, &other, back, pool, &err), E_TOO_LARGE);
    assert_int_equal(packed_copy_write(path, &other, weights, NULL, &err), E_TOO_LARGE);
    assert_int_equal(packed_copy_read("/nonexistent", &key, back, pool, &err), E_NOT_FOUND);
    assert_int_equal(packed_copy_read(root, &key, back, pool, &err), E_DATA_LOSS);
    const atomic_bool stop = true;
    assert_int_equal(packed_copy_write(path, &key, weights, &stop, &err), E_CANCELLED);
    assert_int_equal(packed_copy_read(path, &key, back, pool, &err), 0); /* the old one stands */
    assert_int_equal(entries(root), 1);                                  /* and nothing is left beside it */
    unlink(path);
}

struct news {
    enum packed_cache_news all[NEWS_MAX];
    size_t n;
    char path[PACKED_CACHE_PATH_MAX];
    struct error why;
};
static void on_news(void *arg, enum packed_cache_news what, const char *path, const struct error *why) {
    struct news *n = arg;
    assert_true(n->n < NEWS_MAX);
    n->all[n->n++] = what;
    span_copy(n->path, sizeof n->path, span_str(path));
    if (why) n->why = *why;
}
static struct packed_cache folder(const char *dir, const char *identity, struct news *news) {
    *news = (struct news){.n = 0};
    return (struct packed_cache){.dir = dir, .identity = identity, .arg = news, .on_news = on_news};
}

/* One chunk for each letter, each used a second after the one before. */
static void keep(const char *dir, const char *identity, int64_t second) {
    struct news news;
    struct packed_cache c = folder(dir, identity, &news);
    struct packed_copy_key key;
    key_of(&key, identity, PACKED_COPY_CHUNK);
    c.size_max = 2 * ((uint64_t)PACKED_COPY_CHUNK + PACKED_COPY_OFFSET);
    assert_null(packed_cache_write(&c, &key, weights));
    if (news.n != 1 || news.all[0] != PACKED_CACHE_WRITTEN) fail_msg("%s: %s", identity, news.why.message);
    const struct timespec when[2] = {{second, 0}, {second, 0}};
    assert_int_equal(utimensat(AT_FDCWD, news.path, when, 0), 0);
}
static bool has(const char *dir, const char *identity) {
    struct news news;
    struct packed_cache c = folder(dir, identity, &news);
    struct packed_copy_key key;
    key_of(&key, identity, PACKED_COPY_CHUNK);
    return packed_cache_read(&c, &key, back, pool);
}

static void test_folder(void **state) {
    char dir[128], path[300];
    struct error err;
    struct news news;
    (void)state;
    (void)snprintf(dir, sizeof dir, "%s/folder/of/copies", root);
    assert_false(has(dir, "a"));
    keep(dir, "a", 1000);
    keep(dir, "b", 2000);
    assert_true(has(dir, "a")); /* now it is b that was used longest ago */
    (void)snprintf(path, sizeof path, "%s/notes.packed", dir);
    assert_int_equal(file_write(path, SPAN("mine"), 0644, &err), 0);
    keep(dir, "c", 3000);
    assert_true(has(dir, "a"));
    assert_false(has(dir, "b"));
    assert_true(has(dir, "c"));
    assert_true(file_exists(path)); /* it is no copy of ours */
    /* what a writer has left that is long gone, and what one writes at this moment */
    (void)snprintf(path, sizeof path, "%s/0123456789abcdef-0123456789abcdef.packed.0000000000000000.tmp", dir);
    assert_int_equal(file_write(path, SPAN("half"), 0644, &err), 0);
    keep(dir, "a", 5000);
    assert_true(file_exists(path));
    assert_int_equal(utimensat(AT_FDCWD, path, (const struct timespec[2]){{1000, 0}, {1000, 0}}, 0), 0);
    keep(dir, "a", 5000);
    assert_false(file_exists(path));
    assert_true(has(dir, "c")); /* a copy that is written anew takes no room twice, */
    keep(dir, "c", 4000);
    keep(dir, "a", 6000);
    assert_true(has(dir, "c")); /* also where others were used longer ago */
    packed_cache_forget(dir, "c");
    assert_false(has(dir, "c"));
    assert_true(has(dir, "a"));
    /* what cannot be, costs nothing but a word */
    struct packed_copy_key key;
    struct packed_cache c = folder(dir, "large", &news);
    key_of(&key, "large", PACKED_COPY_CHUNK);
    c.size_max = PACKED_COPY_CHUNK;
    assert_null(packed_cache_write(&c, &key, weights));
    assert_true(news.n == 1 && news.all[0] == PACKED_CACHE_NOT_WRITTEN && news.why.code == E_TOO_LARGE);
    c = folder("/proc/no/such", "large", &news);
    assert_null(packed_cache_write(&c, &key, weights));
    assert_true(news.n == 1 && news.all[0] == PACKED_CACHE_NOT_WRITTEN);
    c = folder(dir, "small", &news);
    c.size_min = PACKED_COPY_CHUNK + 1;
    assert_null(packed_cache_write(&c, &key, weights));
    assert_int_equal(news.n, 0);
    /* beside the caller, who may leave at any time */
    for (int i = 0; i < 20; i++) {
        c = folder(dir, "beside", &news);
        c.background = true;
        struct packed_writer *w = packed_cache_write(&c, &key, weights);
        if (i % 2) usleep((useconds_t)i * 200);
        packed_writer_free(w);
        assert_true(news.n == 0 || news.all[0] == PACKED_CACHE_WRITTEN);
    }
    packed_cache_forget(dir, "beside");
    packed_cache_forget(dir, "a");
    assert_int_equal(entries(dir), 1);
}

static void generate(const char *model, struct packed_cache cache, enum packed_kind kind, uint32_t out[16]) {
    struct engine *e = NULL;
    struct engine_options o = {.threads = 2, .sequences_max = 1, .kv_bytes = 1 << 20, .weights = kind, .packed = cache};
    struct engine_request r;
    struct engine_result result = {0};
    struct error err;
    if (engine_new(&e, model, &o, &err) != 0) fail_msg("%s", err.message);
    engine_request_init(&r);
    r.tokens = (const uint32_t[]){5, 9, 2};
    r.token_count = 3;
    r.tokens_max = 16;
    r.ignore_eos = true;
    r.sampling.temperature = 0;
    assert_int_equal(engine_generate_batch(e, &r, 1, &result, &err), 0);
    assert_int_equal(result.token_count, 16);
    memcpy(out, result.tokens, 16 * sizeof *out);
    engine_result_fini(&result);
    engine_free(e);
}

static void expect(const char *what, const struct news *news, const enum packed_cache_news *want, size_t n) {
    if (news->n != n || (n && memcmp(news->all, want, n * sizeof *want) != 0)) fail_msg("%s: %zu news, the first %d: %s", what, news->n, (int)news->all[0], news->why.message);
}
#define EXPECT(what, news, ...) expect(what, news, (const enum packed_cache_news[]){__VA_ARGS__}, COUNT(((const enum packed_cache_news[]){__VA_ARGS__})))

static void test_engine(void **state) {
    static const char *const archs[] = {"llama", "qwen3_moe", "gpt2", "gemma2"};
    (void)state;
    for (size_t i = 0; i < COUNT(archs); i++) {
        struct tiny t;
        struct news news;
        struct packed_cache none = {.dir = NULL};
        uint32_t want[16], got[16];
        char dir[128], file[300];
        (void)snprintf(dir, sizeof dir, "%s/engine", root);
        tiny_make(&t, archs[i], 3);
        generate(t.path, none, PACKED_STORED, want);
        generate(t.path, folder(dir, NULL, &news), PACKED_STORED, got);
        EXPECT("first", &news, PACKED_CACHE_WRITTEN);
        assert_memory_equal(got, want, sizeof want);
        memset(got, 0, sizeof got);
        generate(t.path, folder(dir, NULL, &news), PACKED_STORED, got);
        EXPECT("second", &news, PACKED_CACHE_READ);
        assert_memory_equal(got, want, sizeof want);
        poke(news.path, PACKED_COPY_OFFSET + 1000, 1);
        generate(t.path, folder(dir, NULL, &news), PACKED_STORED, got);
        EXPECT("damaged", &news, PACKED_CACHE_REFUSED, PACKED_CACHE_WRITTEN);
        assert_memory_equal(got, want, sizeof want);
        generate(t.path, folder(dir, NULL, &news), PACKED_Q8, got);
        EXPECT("another kind", &news, PACKED_CACHE_WRITTEN);
        assert_int_equal(entries(dir), 2);
        generate(t.path, folder(dir, "a digest", &news), PACKED_STORED, got);
        EXPECT("by its contents", &news, PACKED_CACHE_WRITTEN);
        quant_kernels_use(QUANT_KERNELS[QUANT_KERNELS_COUNT - 1]);
        generate(t.path, folder(dir, "a digest", &news), PACKED_STORED, got);
        quant_kernels_use(NULL);
        if (QUANT_KERNELS[QUANT_KERNELS_COUNT - 1] == quant_kernels()) EXPECT("the same kernels", &news, PACKED_CACHE_READ);
        else EXPECT("other kernels", &news, PACKED_CACHE_WRITTEN);
        (void)snprintf(file, sizeof file, "%s/model.safetensors", t.path);
        assert_int_equal(utimensat(AT_FDCWD, file, (const struct timespec[2]){{1000, 0}, {1000, 0}}, 0), 0);
        generate(t.path, folder(dir, NULL, &news), PACKED_STORED, got);
        EXPECT("the model was touched", &news, PACKED_CACHE_WRITTEN);
        assert_memory_equal(got, want, sizeof want);
        struct packed_cache beside = folder(dir, "beside", &news);
        beside.background = true;
        generate(t.path, beside, PACKED_STORED, got);
        assert_memory_equal(got, want, sizeof want);
        tiny_remove(&t);
        assert_int_equal(dir_remove(dir, NULL), 0);
    }
}

static void embed(const char *path, struct packed_cache cache, float *out) {
    struct encoder *e = NULL;
    struct error err;
    struct encoder_text text = {.ids = (const uint32_t[]){1, 2, 3}, .count = 3, .out = out};
    if (encoder_new(&e, path, &(struct encoder_options){.threads = 2, .packed = cache}, &err) != 0) fail_msg("%s", err.message);
    encoder_run(e, &text, 1);
    encoder_free(e);
}
static void test_encoder(void **state) {
    struct model_dir_parts parts = {.dtype = DTYPE_F32};
    struct model_config config = {0};
    struct model_weights w;
    struct error err;
    struct news news;
    struct random r;
    char dir[128], model[128];
    float want[48], got[48];
    (void)state;
    (void)snprintf(dir, sizeof dir, "%s/encoder", root);
    (void)snprintf(model, sizeof model, "%s/bert", root);
    model_config_default(&config, model_arch_find(SPAN("bert")), 2, COUNT(want), 4, 0, 32, 50);
    if (model_weights_new(&w, &config, &err) != 0) fail_msg("%s", err.message);
    random_seed(&r, 3);
    for (size_t i = 0; i < w.flat_len; i++) w.flat[i] = (float)random_normal(&r) * 0.3f;
    parts.weights = &w;
    if (model_dir_write(model, &parts, &err) != 0) fail_msg("%s", err.message);
    embed(model, (struct packed_cache){.dir = NULL}, want);
    embed(model, folder(dir, NULL, &news), got);
    EXPECT("first", &news, PACKED_CACHE_WRITTEN);
    assert_memory_equal(got, want, sizeof want);
    embed(model, folder(dir, NULL, &news), got);
    EXPECT("second", &news, PACKED_CACHE_READ);
    assert_memory_equal(got, want, sizeof want);
    model_weights_fini(&w);
}

/* Two matrices of bf16: one is kept in 12 bits; the other, with more signs and exponents than those have codes for, as it is. Both are what they were, from the copy too. */
static void test_short(void **state) {
    enum { ROWS = 130, COLS = 160 };
    static uint16_t values[2][ROWS][COLS];
    struct random r;
    struct news news;
    struct error err;
    struct packed w[2];
    char dir[128];
    (void)state;
    (void)snprintf(dir, sizeof dir, "%s/short", root);
    random_seed(&r, 6);
    for (size_t i = 0; i < ROWS; i++)
        for (size_t k = 0; k < COLS; k++) {
            values[0][i][k] = (uint16_t)(random_below(&r, 2) << 15 | (120 + random_below(&r, 12)) << 7 | random_below(&r, 128));
            values[1][i][k] = (uint16_t)(random_below(&r, 2) << 15 | random_below(&r, 255) << 7 | random_below(&r, 128));
        }
    for (int turn = 0; turn < 2; turn++) {
        struct matrix_memory m;
        const struct packed_cache cache = folder(dir, "bf16", &news);
        matrix_memory_init(&m, pool);
        for (int pass = 0; pass < 2; pass++) {
            for (size_t i = 0; i < 2; i++) {
                const struct model_view v = {.type = TENSOR_BF16, .data = (const uint8_t *)values[i], .row_size = sizeof values[i][0], .rows = ROWS, .cols = COLS};
                const struct matrix_source from = {.part = {&v}, .part_rows = {ROWS}, .cols = COLS, .name = "a matrix"};
                assert_int_equal(matrix_pack(&m, &from, PACKED_BF16, &w[i], &err), 0);
            }
            if (pass == 0) assert_int_equal(matrix_memory_take(&m, &cache, &err), 0);
        }
        assert_int_equal(m.filled, turn);
        matrix_memory_keep(&m, &cache);
        assert_int_equal(w[0].kind, PACKED_SHORT);
        assert_int_equal(w[1].kind, PACKED_BF16);
        assert_int_equal(packed_values(&w[0]), PACKED_BF16);
        assert_true(m.used * 16 < m.size * 15);
        for (size_t i = 0; i < 2; i++)
            for (size_t row = 0; row < ROWS; row++) {
                float got[COLS];
                packed_get_row(&w[i], row, got);
                for (size_t k = 0; k < COLS; k++) {
                    uint32_t bits;
                    memcpy(&bits, &got[k], sizeof bits);
                    if (bits != (uint32_t)values[i][row][k] << 16) fail_msg("matrix %zu, turn %d: [%zu, %zu] is %08x, not %04x", i, turn, row, k, bits, values[i][row][k]);
                }
            }
        matrix_memory_fini(&m);
        if (turn == 0) EXPECT("first", &news, PACKED_CACHE_WRITTEN);
        else EXPECT("second", &news, PACKED_CACHE_READ);
    }
    assert_int_equal(dir_remove(dir, NULL), 0);
}

/* What the bytes of every kind are, as these kernels pack them. Where this fails by intent, PACKED_LAYOUT_VERSION is to be raised with the numbers below: copies of the old layout are about. */
static void assert_layout(const uint32_t want[PACKED_ALL]) {
    enum { ROWS = 70, COLS = 96 };
    static float x[ROWS][COLS];
    struct random r;
    random_seed(&r, 5);
    for (size_t i = 0; i < ROWS; i++)
        for (size_t k = 0; k < COLS; k++) x[i][k] = (float)((int)(random_u64(&r) % 2001) - 1000) / 1024.0f;
    for (enum packed_kind kind = PACKED_F32; kind < PACKED_ALL; kind++) {
        struct packed w;
        if (want[kind] == 0) continue;
        size_t size;
        assert_int_equal(packed_size(kind, ROWS, COLS, &size), 0);
        assert_true(size <= WEIGHTS);
        memset(back, 0, size);
        assert_int_equal(packed_init(&w, kind, ROWS, COLS, back), 0);
        for (size_t p = 0; p < w.panels; p++) {
            const void *rows[PACKED_PANEL_MAX] = {NULL};
            for (size_t i = 0; i < packed_panel_rows(kind) && p * packed_panel_rows(kind) + i < ROWS; i++) rows[i] = x[p * packed_panel_rows(kind) + i];
            assert_int_equal(packed_fill(&w, p, TENSOR_F32, rows), 0);
        }
        if (crc32c(back, size) != want[kind]) fail_msg("%s by %s: 0x%08x", packed_kind_name(kind), quant_kernels()->name, crc32c(back, size));
    }
}
static void test_layout(void **state) {
    /* not split: that is encoders', and no copy is made of it */
    static const uint32_t in_lanes[PACKED_ALL] = {[PACKED_SHORT] = 0xb5420c7a, [PACKED_F32] = 0xb25820ac, [PACKED_BF16] = 0xb6c9ad79, [PACKED_F16] = 0x5c092b43, [PACKED_Q8] = 0x4cd5ab55,
                                                  [PACKED_Q4] = 0xc4495fc0, [PACKED_Q4M] = 0xe3a59946};
    static const uint32_t in_a_run[PACKED_ALL] = {[PACKED_SHORT] = 0xb74c5589};
    (void)state;
    assert_int_equal(PACKED_LAYOUT_VERSION, 6);
    for (size_t k = 0; k < QUANT_KERNELS_COUNT; k++) { /* to pack takes nothing that a CPU might not have */
        quant_kernels_use(QUANT_KERNELS[k]);
        assert_layout(QUANT_KERNELS[k]->short_in_a_run ? in_a_run : in_lanes);
    }
    quant_kernels_use(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_damage), cmocka_unit_test(test_folder), cmocka_unit_test(test_engine), cmocka_unit_test(test_encoder), cmocka_unit_test(test_short), cmocka_unit_test(test_layout)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
