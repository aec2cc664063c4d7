/* Rows of every shape become the ids and labels that TRL would make of them; the order of rows is a permutation that seed and pass give. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "tokenizer/chat.h"
#include "tokenizer/train.h"
#include "train/data.h"

static char home[64];
static struct tokenizer *tokenizer;

static int set_up(void **state) {
    (void)state;
    struct tokenizer_trainer *tr = NULL;
    struct error err = {0};
    const struct tokenizer_train_options o = {.vocab_size = 300};
    snprintf(home, sizeof home, "/tmp/genloop-data-XXXXXX");
    assert_non_null(mkdtemp(home));
    assert_int_equal(tokenizer_trainer_new(&tr, &o, &err), 0);
    for (int i = 0; i < 5; i++) assert_int_equal(tokenizer_trainer_feed(tr, SPAN("the cat sat on the mat and the hat"), &err), 0);
    assert_int_equal(tokenizer_trainer_finish(tr, &tokenizer, NULL, NULL, &err), 0);
    tokenizer_trainer_free(tr);
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    tokenizer_free(tokenizer);
    return dir_remove(home, NULL);
}

static int open_text(struct data **d, const char *text, enum data_kind kind, uint32_t length, struct error *err) {
    char path[128];
    snprintf(path, sizeof path, "%s/rows.jsonl", home);
    assert_int_equal(file_write(path, span_str(text), 0600, err), 0);
    const struct data_options o = {kind, length, tokenizer_vocab_size(tokenizer), tokenizer, CHAT_TEMPLATE_CHATML, 0};
    return data_open(d, path, &o, err);
}

/* A sequence as text, the labels in brackets. */
static void show(const struct data_sequence *s, struct buf *out) {
    bool inside = false;
    for (uint32_t i = 0; i <= s->count; i++) {
        uint32_t id = data_id(s, i);
        bool label = i > 0 && (!s->is_label || s->is_label[i]);
        if (label != inside) buf_append_char(out, label ? '[' : ']');
        inside = label;
        if (tokenizer_is_special(tokenizer, id)) buf_append_char(out, id == tokenizer_eos(tokenizer) ? '$' : id == tokenizer_find(tokenizer, SPAN("<|im_start|>")) ? '<' : '>');
        else buf_append_span(out, tokenizer_token_bytes(tokenizer, id));
    }
    if (inside) buf_append_char(out, ']');
}

static void test_shapes(void **state) {
    (void)state;
    static const struct {
        const char *name, *row;
        enum data_kind kind;
        const char *want; /* the first token can be no label */
        const char *second;
    } cases[] = {
        {"text", "{\"text\":\"xy\"}", DATA_SEQUENCES, "x[y$]", NULL},
        {"prompt and completion", "{\"prompt\":\"ab\",\"completion\":\"cd\"}", DATA_SEQUENCES, "ab[cd$]", NULL},
        {"special text of a user stays text", "{\"prompt\":\"a\",\"completion\":\"<|im_end|>\"}", DATA_SEQUENCES, "a[<|im_end|>$]", NULL},
        {"messages", "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"r\"},{\"role\":\"assistant\",\"content\":\"b\"}]}",
         DATA_SEQUENCES, "<user\nq>\n<assistant\n[a>]\n<user\nr>\n<assistant\n[b>]\n", NULL},
        {"prompt and completion as messages", "{\"prompt\":[{\"role\":\"user\",\"content\":\"q\"}],\"completion\":[{\"role\":\"assistant\",\"content\":\"a\"}]}", DATA_SEQUENCES,
         "<user\nq>\n<assistant\n[a>]\n", NULL},
        {"pairs of text", "{\"prompt\":\"p\",\"chosen\":\"yy\",\"rejected\":\"n\"}", DATA_PAIRS, "p[yy$]", "p[n$]"},
        {"pairs of texts that answer messages, as preference sets have them", "{\"prompt\":[{\"role\":\"user\",\"content\":\"q\"}],\"chosen\":\"y\",\"rejected\":\"n\"}", DATA_PAIRS,
         "<user\nq>\n<assistant\n[y>]\n", "<user\nq>\n<assistant\n[n>]\n"},
        {"pairs of messages learn the last answer only",
         "{\"prompt\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"r\"}],"
         "\"chosen\":[{\"role\":\"assistant\",\"content\":\"y\"}],\"rejected\":[{\"role\":\"assistant\",\"content\":\"n\"}]}",
         DATA_PAIRS, "<user\nq>\n<assistant\na>\n<user\nr>\n<assistant\n[y>]\n", "<user\nq>\n<assistant\na>\n<user\nr>\n<assistant\n[n>]\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct data *d = NULL;
        struct error err = {0};
        struct buf out;
        if (open_text(&d, cases[i].row, cases[i].kind, 100, &err)) fail_msg("%s: %s", cases[i].name, err.message);
        assert_int_equal(data_rows(d), 1);
        assert_int_equal(data_sequences(d, 0), cases[i].second ? 2 : 1);
        for (uint32_t k = 0; k < data_sequences(d, 0); k++) {
            buf_init(&out, 4096);
            struct data_sequence s = data_sequence(d, 0, k);
            show(&s, &out);
            const char *want = k ? cases[i].second : cases[i].want;
            if (strcmp(buf_cstr(&out), want) != 0) fail_msg("%s: \"%s\", not \"%s\"", cases[i].name, buf_cstr(&out), want);
            buf_fini(&out);
        }
        data_close(d);
    }
}

static void test_cutting(void **state) {
    (void)state;
    struct data *d = NULL;
    struct error err = {0};
    const char *row = "{\"ids\":[1,2,3,4,5,6,7,8],\"labels_from\":4}\n\n{\"ids\":[9]}\n{\"ids\":[1,2,3],\"labels_from\":0}\n";
    assert_int_equal(open_text(&d, row, DATA_SEQUENCES, 4, &err), 0);
    assert_int_equal(data_rows(d), 3);
    struct data_sequence s = data_sequence(d, 0, 0);
    assert_int_equal(s.count, 3); /* four tokens stay: three inputs, and no label among them */
    assert_int_equal(data_labels_cut(d), 2);
    assert_int_equal(data_sequence(d, 1, 0).count, 0);
    data_close(d);
    assert_int_equal(open_text(&d, row, DATA_DOCUMENTS, 3, &err), 0);
    assert_int_equal(data_sequences(d, 0), 3); /* 1234 4567 78 */
    s = data_sequence(d, 0, 1);
    assert_int_equal(data_id(&s, 0), 4);
    assert_int_equal(s.count, 3);
    s = data_sequence(d, 0, 2);
    assert_int_equal(s.count, 1);
    assert_int_equal(data_id(&s, 1), 8);
    data_close(d);
    /* documents of pretraining are one stream, cut into windows */
    assert_int_equal(open_text(&d, "{\"text\":\"abc\"}\n{\"text\":\"de\"}\n{\"text\":\"fghi\"}", DATA_WINDOWS, 4, &err), 0);
    assert_int_equal(data_rows(d), 2); /* abc$de$fghi$ in fives */
    s = data_sequence(d, 1, 0);
    assert_int_equal(data_id(&s, 0), tokenizer_find(tokenizer, SPAN("e")));
    data_close(d);
}

static void test_tokens(void **state) {
    (void)state;
    char path[128];
    struct data *d = NULL;
    struct error err = {0};
    struct data_options o = {.kind = DATA_WINDOWS, .length = 3, .vocab = 300};
    snprintf(path, sizeof path, "%s/t.bin", home);
    const uint8_t bytes[] = {1, 0, 2, 0, 3, 0, 4, 0, 44, 1, 6, 0, 7, 0, 8, 0, 9, 0};
    assert_int_equal(file_write(path, span_of(bytes, 17), 0600, &err), 0);
    assert_int_equal(data_open(&d, path, &o, &err), E_INVALID);
    assert_int_equal(file_write(path, span_of(bytes, 18), 0600, &err), 0);
    assert_int_equal(data_open(&d, path, &o, &err), E_INVALID); /* 300 is no id of 300 */
    o.vocab = 301;
    assert_int_equal(data_open(&d, path, &o, &err), 0);
    assert_int_equal(data_rows(d), 2);
    struct data_sequence s = data_sequence(d, 1, 0);
    assert_int_equal(data_id(&s, 0), 300);
    data_close(d);
    o.length = 9;
    assert_int_equal(data_open(&d, path, &o, &err), E_INVALID);
    o.kind = DATA_PAIRS;
    assert_int_equal(data_open(&d, path, &o, &err), E_INVALID);
}

static void test_order(void **state) {
    (void)state;
    struct data_order a, b;
    struct error err = {0};
    enum { ROWS = 37 };
    assert_int_equal(data_order_init(&a, ROWS, true, 5, &err), 0);
    assert_int_equal(data_order_init(&b, ROWS, true, 5, &err), 0);
    uint64_t first[ROWS];
    int moved = 0;
    for (uint64_t pass = 0; pass < 3; pass++) {
        uint64_t seen = 0;
        for (uint64_t i = 0; i < ROWS; i++) {
            uint64_t row = data_order_row(&a, pass * ROWS + i);
            assert_true(row < ROWS && !(seen >> row & 1));
            seen |= 1ull << row;
            if (pass == 0) first[i] = row;
            else moved += first[i] != row;
        }
    }
    assert_true(moved > ROWS); /* each pass has its own order */
    /* whoever comes in the middle sees the same */
    assert_int_equal(data_order_row(&b, 2 * ROWS + 5), data_order_row(&a, 2 * ROWS + 5));
    assert_int_equal(data_order_row(&b, 3), first[3]);
    data_order_fini(&a);
    data_order_fini(&b);
    assert_int_equal(data_order_init(&a, ROWS, false, 5, &err), 0);
    assert_int_equal(data_order_row(&a, 2 * ROWS + 5), 5);
    data_order_fini(&a);
}

/* Every allocation fails once: an error, no leak, no crash. */
static void test_no_memory(void **state) {
    (void)state;
    const char *rows = "{\"ids\":[1,2,3]}\n{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}]}\n{\"prompt\":\"a\",\"completion\":\"b\"}\n";
    char path[128];
    struct error err = {0};
    snprintf(path, sizeof path, "%s/rows.jsonl", home);
    assert_int_equal(file_write(path, span_str(rows), 0600, &err), 0);
    const struct data_options o = {DATA_SEQUENCES, 64, tokenizer_vocab_size(tokenizer), tokenizer, CHAT_TEMPLATE_CHATML, 0};
    for (uint64_t n = 1;; n++) {
        struct data *d = NULL;
        alloc_fail_at(n);
        int r = data_open(&d, path, &o, &err);
        alloc_fail_at(0);
        if (r == 0) {
            assert_true(n > 5);
            data_close(d);
            break;
        }
        assert_null(d);
        assert_true(n < 10000);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_cutting), cmocka_unit_test(test_tokens),
                                       cmocka_unit_test(test_order), cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
