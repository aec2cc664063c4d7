/* Training against the definition (recount everything after each merge), and what it promises: order of documents, ties, limits, special tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "tokenizer/internal.h"
#include "tokenizer/train.h"

static struct tokenizer *train(const struct tokenizer_train_options *options, const char *const *documents, size_t count) {
    struct tokenizer_trainer *tr = NULL;
    struct tokenizer *t = NULL;
    struct error err = {0};
    if (tokenizer_trainer_new(&tr, options, &err)) fail_msg("%s", err.message);
    for (size_t i = 0; i < count; i++)
        if (tokenizer_trainer_feed(tr, span_str(documents[i]), &err)) fail_msg("%s", err.message);
    if (tokenizer_trainer_finish(tr, &t, NULL, NULL, &err)) fail_msg("%s", err.message);
    tokenizer_trainer_free(tr);
    return t;
}

/* The definition: words as lists of ids, all pairs counted anew for every merge, most frequent first, then lowest ids. */
enum { WORDS = 4096, LETTERS = 64 };
struct naive_word {
    uint32_t ids[LETTERS];
    size_t len;
};
static void check_naive(const struct tokenizer *t, const char *text, uint64_t min_frequency) {
    struct naive_word *words = mem_calloc(WORDS, sizeof *words);
    assert_non_null(words);
    size_t n = 0, len = strlen(text);
    for (size_t at = 0; at < len;) {
        size_t piece = pretokenizer_match_gpt2(text + at, len - at);
        assert_true(n < WORDS && piece <= LETTERS);
        for (size_t i = 0; i < piece; i++) words[n].ids[words[n].len++] = t->bpe.bytes[(uint8_t)text[at + i]];
        n++;
        at += piece;
    }
    uint32_t ids = tokenizer_vocab_size(t);
    uint32_t *counts = mem_alloc((size_t)ids * ids * sizeof *counts);
    assert_non_null(counts);
    for (uint32_t m = 0;; m++) {
        memset(counts, 0, (size_t)ids * ids * sizeof *counts);
        for (size_t w = 0; w < n; w++)
            for (size_t i = 0; i + 1 < words[w].len; i++) counts[(size_t)words[w].ids[i] * ids + words[w].ids[i + 1]]++;
        uint32_t best = 0, left = 0, right = 0;
        for (uint32_t a = 0; a < ids; a++)
            for (uint32_t b = 0; b < ids; b++)
                if (counts[(size_t)a * ids + b] > best) {
                    best = counts[(size_t)a * ids + b];
                    left = a;
                    right = b;
                }
        if (m == t->bpe.merge_count) {
            if (t->entry_count == 340) break; /* the vocabulary is full */
            assert_true(best < min_frequency);
            break;
        }
        if (left != t->bpe.merges[m].left || right != t->bpe.merges[m].right)
            fail_msg("merge %u is %u %u, not %u %u (%u times)", m, t->bpe.merges[m].left, t->bpe.merges[m].right, left, right, best);
        uint32_t result = t->bpe.merges[m].result;
        for (size_t w = 0; w < n; w++) {
            size_t to = 0;
            for (size_t i = 0; i < words[w].len;) {
                if (i + 1 < words[w].len && words[w].ids[i] == left && words[w].ids[i + 1] == right) {
                    words[w].ids[to++] = result;
                    i += 2;
                } else {
                    words[w].ids[to++] = words[w].ids[i++];
                }
            }
            words[w].len = to;
        }
    }
    mem_free(counts);
    mem_free(words);
}

static void test_definition(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct random r;
        char text[3000];
        size_t n = 500 + (size_t)(seed * 200);
        random_seed(&r, seed);
        for (size_t i = 0; i < n; i++) text[i] = seed % 2 ? "abc a"[random_below(&r, 5)] : "abcdefgh .1"[random_below(&r, 11)];
        /* the longest run of spaces or letters must fit the naive model */
        for (size_t i = 20; i < n; i += 21) {
            text[i] = '.';
            text[i - 1] = 'x';
        }
        text[n] = 0;
        const char *documents[] = {text};
        struct tokenizer_train_options options = {.vocab_size = 340, .min_frequency = seed % 3 + 1};
        struct tokenizer *t = train(&options, documents, 1);
        check_naive(t, text, options.min_frequency);
        tokenizer_free(t);
    }
}

static void test_order(void **state) {
    (void)state;
    static const char *const one[] = {"the cat sat on the mat", "other cats sit there", "matter matters most", "sat sat sat cat cat"};
    static const char *const two[] = {"sat sat sat cat cat", "matter matters most", "the cat sat on the mat", "other cats sit there"};
    struct tokenizer_train_options options = {.vocab_size = 300};
    struct tokenizer *a = train(&options, one, 4), *b = train(&options, two, 4);
    char x[65], y[65];
    assert_int_equal(tokenizer_digest(a, x), 0);
    assert_int_equal(tokenizer_digest(b, y), 0);
    assert_string_equal(x, y);
    assert_true(a->bpe.merge_count > 5);
    tokenizer_free(a);
    tokenizer_free(b);
}

static void test_layout(void **state) {
    (void)state;
    static const char *const documents[] = {"aaaa aaaa bb bb bb"};
    struct tokenizer_train_options options = {.vocab_size = 1000};
    struct tokenizer *t = train(&options, documents, 1);
    assert_true(span_eq_str(tokenizer_token_bytes(t, 0), TOKENIZER_END_OF_TEXT));
    assert_true(span_eq_str(tokenizer_token_bytes(t, 2), TOKENIZER_IM_END));
    assert_true(span_eq_str(tokenizer_token_bytes(t, 3), "!"));
    assert_true(tokenizer_is_special(t, 1));
    assert_false(tokenizer_is_special(t, 3));
    assert_int_equal(tokenizer_eos(t), 0);
    assert_true(tokenizer_vocab_size(t) < 1000); /* nothing left to merge */
    assert_true(tokenizer_find(t, SPAN("aaaa")) != TOKEN_NONE);
    assert_true(tokenizer_find(t, SPAN(" bb")) != TOKEN_NONE);
    tokenizer_free(t);
}

/* Text must not merge into a special token that is made of letters. */
static void test_special_is_no_merge(void **state) {
    (void)state;
    static const char *const documents[] = {"stop stop stop stop stop stop stop"}, *const specials[] = {"stop", "<|x|>"};
    struct tokenizer_train_options options = {.vocab_size = 300, .specials = specials, .special_count = 2};
    struct tokenizer *t = train(&options, documents, 1);
    for (uint32_t i = 0; i < t->bpe.merge_count; i++) assert_true(t->bpe.merges[i].result > 1);
    struct tokens ids = {0};
    assert_int_equal(tokenizer_encode(t, SPAN("stop"), TOKENIZER_NO_SPECIALS, &ids, NULL), 0);
    for (size_t i = 0; i < ids.len; i++) assert_true(ids.ids[i] > 1);
    tokens_fini(&ids);
    tokenizer_free(t);
}

static int stop_at_once(void *arg, uint32_t done, uint32_t wanted) {
    (void)done, (void)wanted;
    ++*(int *)arg;
    return E_CANCELLED;
}

static void test_limits(void **state) {
    (void)state;
    struct tokenizer_trainer *tr = NULL;
    struct error err = {0};
    static const char *const twice[] = {"<a>", "<a>"}, *const byte[] = {"a"};
    assert_int_equal(tokenizer_trainer_new(&tr, &(struct tokenizer_train_options){.vocab_size = 258}, &err), E_RANGE);
    assert_int_equal(tokenizer_trainer_new(&tr, &(struct tokenizer_train_options){.vocab_size = 300, .specials = twice, .special_count = 2}, &err), E_INVALID);
    assert_int_equal(tokenizer_trainer_new(&tr, &(struct tokenizer_train_options){.vocab_size = 300, .specials = byte, .special_count = 1}, &err), E_INVALID);
    assert_int_equal(tokenizer_trainer_new(&tr, &(struct tokenizer_train_options){.vocab_size = 400, .words_max = 3}, &err), 0);
    assert_int_equal(tokenizer_trainer_feed(tr, SPAN("one two one"), &err), 0);
    assert_int_equal(tokenizer_trainer_feed(tr, SPAN("\xFF"), &err), E_INVALID);
    assert_int_equal(tokenizer_trainer_feed(tr, SPAN("a b c d e"), &err), E_FULL);
    tokenizer_trainer_free(tr);
    /* a long run is cut, at a character's border, and the vocabulary still decodes */
    assert_int_equal(tokenizer_trainer_new(&tr, &(struct tokenizer_train_options){.vocab_size = 400}, &err), 0);
    struct buf run;
    buf_init(&run, 1 << 16);
    buf_append_char(&run, 'x');
    for (int i = 0; i < 5000; i++) buf_append(&run, "\xC3\xA9", 2);
    assert_int_equal(tokenizer_trainer_feed(tr, buf_span(&run), &err), 0);
    struct tokenizer *t = NULL;
    int calls = 0;
    assert_int_equal(tokenizer_trainer_finish(tr, &t, NULL, NULL, &err), 0);
    struct tokens ids = {0};
    struct buf back;
    buf_init(&back, 1 << 16);
    assert_int_equal(tokenizer_encode(t, buf_span(&run), 0, &ids, &err), 0);
    assert_int_equal(tokenizer_decode(t, ids.ids, ids.len, false, &back), 0);
    assert_true(span_eq(buf_span(&back), buf_span(&run)));
    tokenizer_free(t);
    tokenizer_trainer_free(tr);
    /* the caller's word stops it */
    t = NULL;
    assert_int_equal(tokenizer_trainer_new(&tr, &(struct tokenizer_train_options){.vocab_size = 400, .min_frequency = 1}, &err), 0);
    assert_int_equal(tokenizer_trainer_feed(tr, SPAN("abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz0123456789012345678901234567890123456789 qwertyuiopasdfghjklzxcvbnm"
                                                     "mnbvcxzlkjhgfdsapoiuytrewq"), &err), 0);
    assert_int_equal(tokenizer_trainer_finish(tr, &t, &calls, stop_at_once, &err), E_CANCELLED);
    assert_int_equal(calls, 1);
    assert_null(t);
    tokenizer_trainer_free(tr);
    tokens_fini(&ids);
    buf_fini(&run);
    buf_fini(&back);
}

static void test_no_memory(void **state) {
    (void)state;
    for (uint64_t n = 1;; n++) {
        struct tokenizer_trainer *tr = NULL;
        struct tokenizer *t = NULL;
        alloc_fail_at(n);
        int r = tokenizer_trainer_new(&tr, &(struct tokenizer_train_options){.vocab_size = 280}, NULL);
        if (!r) r = tokenizer_trainer_feed(tr, SPAN("the other brother's mother bothers the others there"), NULL);
        if (!r) r = tokenizer_trainer_finish(tr, &t, NULL, NULL, NULL);
        uint64_t asked = alloc_count();
        alloc_fail_at(0);
        tokenizer_free(t);
        tokenizer_trainer_free(tr);
        if (asked < n) {
            assert_int_equal(r, 0);
            break;
        }
        assert_int_equal(r, E_NOMEM);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definition), cmocka_unit_test(test_order),  cmocka_unit_test(test_layout),
        cmocka_unit_test(test_special_is_no_merge), cmocka_unit_test(test_limits), cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
