/* The files of a split as they come back from the store, the manifest that names them, the data card, and the list of attempts over deaths of the process. */
#include "tests/unit/support/check.h"

#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

#include "base/file.h"
#include "base/json.h"
#include "services/ingest/attempts.h"
#include "services/ingest/manifest.h"

static char home[64];
static struct store *store;

static int set_up(void **state) {
    (void)state;
    char url[96];
    snprintf(home, sizeof home, "/tmp/genloop-ingest-XXXXXX");
    assert_non_null(mkdtemp(home));
    snprintf(url, sizeof url, "file:%s/store", home);
    return store_open(url, &store, NULL);
}
static int tear_down(void **state) {
    (void)state;
    store_close(store);
    return dir_remove(home, NULL);
}

static void unpack(const struct object_ref *ref, struct buf *out) {
    struct buf packed;
    buf_init(&packed, 256 << 20);
    assert_int_equal(store_get(store, ref->sha256, &packed, NULL), 0);
    ZSTD_DCtx *z = ZSTD_createDCtx();
    ZSTD_inBuffer in = {buf_span(&packed).data, packed.len, 0};
    size_t left = 1;
    while (in.pos < in.size) {
        char *to = buf_reserve(out, 1 << 16);
        assert_non_null(to);
        ZSTD_outBuffer piece = {to, 1 << 16, 0};
        left = ZSTD_decompressStream(z, &piece, &in);
        assert_false(ZSTD_isError(left));
        buf_commit(out, piece.pos);
    }
    assert_int_equal(left, 0); /* the frame ends */
    ZSTD_freeDCtx(z);
    buf_fini(&packed);
}

static uint32_t id_at(struct span bytes, size_t i, bool wide) {
    const unsigned char *p = (const unsigned char *)bytes.data + i * (wide ? 4 : 2);
    return wide ? (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24 : (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static void write_split(struct split *s, bool wide, int documents) {
    struct error err = {0};
    assert_int_equal(split_open(s, store, wide, &err), 0);
    for (int d = 0; d < documents; d++) {
        uint32_t ids[3] = {(uint32_t)d, wide ? 70000 : 65535, 7};
        char text[64];
        snprintf(text, sizeof text, "text \"%d\"\n", d);
        assert_int_equal(split_add(s, ids, 3, 1, SPAN("id"), span_str(text), SPAN("t"), SPAN("s"), SPAN("en"), &err), 0);
        struct span turns[] = {SPAN("q"), span_str(text)};
        assert_int_equal(split_add_pair(s, turns, 2, &err), 0);
    }
    assert_int_equal(split_finish(s, &err), 0);
}

static void test_round_trip(void **state) {
    (void)state;
    for (int wide = 0; wide < 2; wide++)
        for (int documents = 0; documents <= 500; documents += 250) {
            struct split s, again;
            struct buf bytes;
            write_split(&s, wide, documents);
            buf_init(&bytes, 64 << 20);
            assert_true(s.documents == (uint64_t)documents && s.tokens_count == (uint64_t)documents * 4 && s.pairs_count == (uint64_t)documents && s.tokens_shards.n == 1);
            assert_int_equal(store_get(store, s.tokens_shards.items[0].object.sha256, &bytes, NULL), 0);
            assert_int_equal(bytes.len, (size_t)documents * 4 * (wide ? 4 : 2));
            for (size_t d = 0; d < (size_t)documents; d++) {
                assert_int_equal(id_at(buf_span(&bytes), d * 4, wide), d);
                assert_int_equal(id_at(buf_span(&bytes), d * 4 + 1, wide), wide ? 70000 : 65535);
                assert_int_equal(id_at(buf_span(&bytes), d * 4 + 3, wide), 1);
            }
            buf_clear(&bytes);
            assert_int_equal(store_get(store, s.index_ref.object.sha256, &bytes, NULL), 0);
            assert_int_equal(bytes.len, (size_t)documents * 8);
            for (size_t d = 0; d < (size_t)documents; d++) assert_int_equal(id_at(buf_span(&bytes), d * 2, true), d * 4);
            buf_clear(&bytes);
            assert_int_equal(s.samples_shards.n, 1);
            unpack(&s.samples_shards.items[0].object, &bytes);
            struct span rest = buf_span(&bytes), line;
            int n = 0;
            while (span_cut(&rest, '\n', &line)) {
                struct json *row = NULL;
                char text[64];
                snprintf(text, sizeof text, "text \"%d\"\n", n++);
                assert_int_equal(json_parse(line, &row, NULL), 0);
                assert_true(span_eq_str(json_string(json_get(row, "text")), text) && span_eq_str(json_string(json_get(row, "language")), "en"));
                json_free(row);
            }
            assert_int_equal(n, documents);
            buf_clear(&bytes);
            unpack(&s.pairs_ref.object, &bytes);
            size_t lines = 0;
            for (size_t i = 0; i < bytes.len; i++) lines += buf_span(&bytes).data[i] == '\n';
            assert_int_equal(lines, documents);
            write_split(&again, wide, documents); /* the same again gives the same objects */
            assert_string_equal(again.tokens_shards.items[0].object.sha256, s.tokens_shards.items[0].object.sha256);
            assert_string_equal(again.samples_shards.items[0].object.sha256, s.samples_shards.items[0].object.sha256);
            assert_string_equal(again.pairs_ref.object.sha256, s.pairs_ref.object.sha256);
            buf_fini(&bytes);
            split_close(&s);
            split_close(&s);
            split_close(&again);
        }
}

/* A document may begin in one shard and end in the next. */
static void test_shard_border(void **state) {
    (void)state;
    enum { IDS = SHARD_BYTES_MAX / 2 - 2 };
    struct split s;
    struct error err = {0};
    uint32_t *ids = mem_calloc(IDS, sizeof *ids), few[] = {11, 12, 13, 14};
    assert_non_null(ids);
    assert_int_equal(split_open(&s, store, false, &err), 0);
    assert_int_equal(split_add(&s, ids, IDS, 1, SPAN("a"), SPAN("x"), SPAN(""), SPAN(""), SPAN(""), &err), 0);
    assert_int_equal(split_add(&s, few, 4, 1, SPAN("b"), SPAN("y"), SPAN(""), SPAN(""), SPAN(""), &err), 0);
    assert_int_equal(split_finish(&s, &err), 0);
    assert_int_equal(s.tokens_shards.n, 2);
    assert_true(s.tokens_shards.items[0].count == SHARD_BYTES_MAX / 2 && s.tokens_shards.items[0].object.size == SHARD_BYTES_MAX && s.tokens_shards.items[1].count == 4);
    struct buf bytes;
    buf_init(&bytes, SHARD_BYTES_MAX);
    assert_int_equal(store_get(store, s.tokens_shards.items[0].object.sha256, &bytes, NULL), 0);
    assert_int_equal(id_at(buf_span(&bytes), SHARD_BYTES_MAX / 2 - 1, false), 11);
    buf_clear(&bytes);
    assert_int_equal(store_get(store, s.tokens_shards.items[1].object.sha256, &bytes, NULL), 0);
    assert_true(id_at(buf_span(&bytes), 0, false) == 12 && id_at(buf_span(&bytes), 3, false) == 1);
    buf_fini(&bytes);
    split_close(&s);
    mem_free(ids);
}

static int write_all(void *arg) {
    struct split s;
    struct error err = {0};
    uint32_t ids[] = {1, 2};
    struct span turns[] = {SPAN("q"), SPAN("a")};
    (void)arg;
    int r = split_open(&s, store, false, &err);
    if (!r) r = split_add(&s, ids, 2, 0, SPAN("id"), SPAN("text"), SPAN(""), SPAN(""), SPAN(""), &err);
    if (!r) r = split_add_pair(&s, turns, 2, &err);
    if (!r) r = split_finish(&s, &err);
    split_close(&s);
    return r;
}
static void test_without_memory(void **state) {
    (void)state;
    sweep("split", write_all, NULL, E_NOMEM);
}

static void test_manifest(void **state) {
    (void)state;
    struct split train, held_out;
    write_split(&train, false, 20);
    write_split(&held_out, false, 0);
    struct dataset_facts f = {.name = "books \"1\"", .tenant = "t", .build_id = "b", .version = 3, .vocab = 4096, .created_time_ms = 1700000000000, .train = &train, .held_out = &held_out, .held_out_share = 0.05, .seed = 7,
                              .received = 25, .accepted = 20, .rejected = 5, .duplicates = 1, .records = 20, .redactions = 2};
    f.reasons[REASON_BINARY] = 4;
    f.reasons[REASON_DUPLICATE] = 1;
    snprintf(f.tokenizer.sha256, sizeof f.tokenizer.sha256, "%064d", 1);
    for (int i = 0; i < FACTS_TAGS_MAX + 10; i++) {
        char tag[16];
        snprintf(tag, sizeof tag, "l%d", i);
        tag_table_add(&f.languages, tag, (uint64_t)(100 + i));
    }
    tag_table_add(&f.languages, "l0", 1000000);
    tag_table_sort(&f.languages);
    assert_int_equal(f.languages.n, FACTS_TAGS_MAX); /* what does not fit is counted together */
    assert_string_equal(f.languages.items[0].tag, "l0");
    uint64_t documents = 0;
    for (size_t i = 0; i < f.languages.n; i++) documents += f.languages.items[i].documents;
    assert_int_equal(documents, FACTS_TAGS_MAX + 11);
    tag_table_add(&f.licences, "MIT | <b>\nx", 1);
    struct buf one, two;
    struct json *m = NULL;
    buf_init(&one, 1 << 20);
    buf_init(&two, 1 << 20);
    assert_int_equal(manifest_write(&f, &one), 0);
    assert_int_equal(manifest_write(&f, &two), 0);
    assert_true(span_eq(buf_span(&one), buf_span(&two)));
    assert_int_equal(json_parse(buf_span(&one), &m, NULL), 0);
    assert_int_equal(json_int(json_get(m, "format"), 0), 1);
    assert_true(span_eq_str(json_string(json_get(m, "name")), "books \"1\"") && span_eq_str(json_string(json_get(m, "token_type")), "uint16"));
    const struct json *split = json_get(json_get(m, "splits"), "train"), *shard = json_at(json_get(split, "tokens"), 0);
    assert_true(span_eq_str(json_string(json_get(shard, "sha256")), train.tokens_shards.items[0].object.sha256) && json_int(json_get(shard, "count"), 0) == 80 && json_int(json_get(shard, "size"), 0) == 160);
    assert_int_equal(json_int(json_get(split, "token_count"), 0), 80);
    assert_int_equal(json_int(json_get(json_get(json_get(m, "counts"), "rejected_by_reason"), "binary"), 0), 4);
    assert_int_equal(json_size(json_get(json_get(json_get(m, "counts"), "rejected_by_reason"), "too_short")), 0);
    json_free(m);
    buf_clear(&one);
    assert_int_equal(dataset_card_write(&f, &one), 0);
    assert_true(span_is_utf8(buf_span(&one)) && span_find(buf_span(&one), SPAN("MIT")) > 0);
    buf_fini(&two);
    buf_init(&two, 100);
    assert_int_equal(manifest_write(&f, &two), E_FULL);
    buf_fini(&one);
    buf_fini(&two);
    split_close(&train);
    split_close(&held_out);
}

static void test_attempts(void **state) {
    (void)state;
    char path[96];
    static char ids[4][65];
    struct error err = {0};
    struct attempts a;
    snprintf(path, sizeof path, "%s/attempts", home);
    for (int i = 0; i < 4; i++) memset(ids[i], 'a' + i, 64);
    assert_int_equal(attempts_open(&a, path, &err), 0); /* no file: nobody is a suspect */
    assert_int_equal(a.n, 0);
    assert_int_equal(attempts_begin(&a, ids, 3, &err), 0);
    attempts_close(&a); /* it died with three in hand */
    assert_int_equal(attempts_open(&a, path, &err), 0);
    assert_true(a.n == 3 && attempts_of(&a, span_str(ids[0])) == 1 && attempts_of(&a, span_str(ids[3])) == 0);
    assert_int_equal(attempts_begin(&a, &ids[0], 1, &err), 0);
    attempts_end(&a, &ids[0], 1); /* innocent */
    assert_int_equal(attempts_of(&a, span_str(ids[0])), 0);
    assert_int_equal(attempts_begin(&a, &ids[1], 1, &err), 0);
    attempts_close(&a); /* it died with the second alone */
    assert_int_equal(attempts_open(&a, path, &err), 0);
    assert_true(a.n == 2 && attempts_of(&a, span_str(ids[1])) == 2 && attempts_of(&a, span_str(ids[2])) == 1);
    assert_int_equal(attempts_begin(&a, &ids[1], 1, &err), 0);
    attempts_close(&a);
    assert_int_equal(attempts_open(&a, path, &err), 0);
    assert_int_equal(attempts_of(&a, span_str(ids[1])), 3);
    attempts_close(&a);
    /* A file that makes no sense counts as none, line by line. */
    static const char *const broken[] = {"", "\n\n", "x", "1 short\n", "-1 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n", "99999999999999999999 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"};
    for (size_t i = 0; i < COUNT(broken); i++) {
        assert_int_equal(file_write(path, span_str(broken[i]), 0600, &err), 0);
        assert_int_equal(attempts_open(&a, path, &err), 0);
        CHECK(a.n == 0, "%s: %zu", broken[i], a.n);
        attempts_close(&a);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_shard_border), cmocka_unit_test(test_without_memory), cmocka_unit_test(test_manifest), cmocka_unit_test(test_attempts)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
