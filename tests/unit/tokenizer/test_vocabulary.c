/* Vocabularies as GGUF files have them: the ids and texts of each kind, every named splitting, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "tokenizer/internal.h"
#include "tokenizer/vocabulary_write.h"

#define BAR "\xE2\x96\x81"
#define COUNT(list) (sizeof(list) / sizeof(list)[0])

static void check(const struct vocabulary *v, const char *text, unsigned flags, const uint32_t *want, size_t count, const char *back) {
    struct tokenizer *t = NULL;
    struct error err = {0};
    struct tokens ids = {0};
    struct buf out;
    if (tokenizer_from_vocabulary(v, &t, &err)) fail_msg("%s", err.message);
    assert_int_equal(tokenizer_encode(t, span_str(text), flags, &ids, &err), 0);
    if (ids.len != count || memcmp(ids.ids, want, count * sizeof want[0]) != 0) {
        for (size_t i = 0; i < ids.len; i++) print_error("%u ", ids.ids[i]);
        fail_msg("%.*s: %s has other ids", SPAN_ARG(v->model), text);
    }
    buf_init(&out, 4096);
    assert_int_equal(tokenizer_decode(t, ids.ids, ids.len, true, &out), 0);
    if (!span_eq_str(buf_span(&out), back)) fail_msg("%.*s: %s is [%s]", SPAN_ARG(v->model), text, buf_cstr(&out));
    buf_fini(&out);
    tokens_fini(&ids);
    tokenizer_free(t);
}

static void test_gpt2(void **state) {
    (void)state;
    const struct span tokens[] = {SPAN("<|end|>"), SPAN("h"), SPAN("e"), SPAN("\xC4\xA0"), SPAN("1"), SPAN("2"), SPAN("he"), SPAN("\xC4\xA0he"), SPAN("12"), SPAN("<u>")};
    const struct span merges[] = {SPAN("h e"), SPAN("\xC4\xA0 he"), SPAN("1 2")};
    const int32_t types[] = {3, 1, 1, 1, 1, 1, 1, 1, 1, 4};
    struct vocabulary v;
    vocabulary_init(&v);
    v.model = SPAN("gpt2");
    v.tokens = tokens;
    v.count = COUNT(tokens);
    v.types = types;
    v.merges = merges;
    v.merge_count = COUNT(merges);
    v.bos = v.eos = 0;
    v.pre = SPAN("smollm");
    check(&v, "he he12<|end|><u>", TOKENIZER_ADD_SPECIAL, (const uint32_t[]){6, 7, 4, 5, 0, 9}, 6, "he he12<u>");
    v.add_bos = 1;
    v.pre = SPAN("llama-bpe");
    check(&v, "he he12", TOKENIZER_ADD_SPECIAL, (const uint32_t[]){0, 6, 7, 8}, 4, "he he12");
    check(&v, "he he12", 0, (const uint32_t[]){6, 7, 8}, 3, "he he12");
    /* every name that is known makes a tokenizer */
    static const char *const names[] = {"", "default", "gpt-2", "mpt", "olmo", "jais", "phi-2", "roberta-bpe", "jina-v2-code", "llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe", "dbrx",
                                        "chatglm-bpe", "qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b",
                                        "gpt-4o", "llama4", "tekken", "deepseek-v3", "falcon", "bloom", "poro-chat", "viking"};
    for (size_t i = 0; i < COUNT(names); i++) {
        struct tokenizer *t = NULL;
        struct error err = {0};
        struct tokens ids = {0};
        v.pre = span_str(names[i]);
        if (tokenizer_from_vocabulary(&v, &t, &err)) fail_msg("%s: %s", names[i], err.message);
        assert_int_equal(tokenizer_encode(t, SPAN("he he"), 0, &ids, &err), 0);
        if (ids.len != 2 || ids.ids[0] != 6 || ids.ids[1] != 7) fail_msg("%s", names[i]);
        if (strcmp(names[i], "llama4") == 0 || strcmp(names[i], "deepseek-v3") == 0) /* by hand, not by a regex engine */
            for (size_t k = 0; k < t->pretokenizer.count; k++) assert_non_null(t->pretokenizer.steps[k].match);
        tokens_fini(&ids);
        tokenizer_free(t);
    }
}

static void test_llama(void **state) {
    (void)state;
    const struct span tokens[] = {SPAN("<unk>"), SPAN("<s>"), SPAN("</s>"), SPAN("<0xC3>"), SPAN("<0xA9>"), SPAN(BAR), SPAN("a"), SPAN("b"), SPAN("ab"), SPAN(BAR "a"), SPAN(BAR "ab"), SPAN("  ")};
    const int32_t types[] = {2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 4};
    const float scores[] = {0, 0, 0, 0, 0, -9, -9, -9, -1, -2, -3, 0};
    struct vocabulary v;
    vocabulary_init(&v);
    v.model = SPAN("llama");
    v.tokens = tokens;
    v.count = COUNT(tokens);
    v.types = types;
    v.scores = scores;
    v.bos = 1;
    v.eos = 2;
    v.unk = 0;
    check(&v, "ab a\xC3\xA9?</s>", TOKENIZER_ADD_SPECIAL, (const uint32_t[]){1, 10, 9, 3, 4, 0, 2}, 7, "ab a\xC3\xA9");
    v.add_space_prefix = 0;
    v.add_bos = 0;
    v.add_eos = 1;
    check(&v, "ab  a", TOKENIZER_ADD_SPECIAL, (const uint32_t[]){8, 11, 6, 2}, 4, "ab  a");
}

static void test_bert(void **state) {
    (void)state;
    const struct span tokens[] = {SPAN("[PAD]"), SPAN("[UNK]"), SPAN("[CLS]"), SPAN("[SEP]"), SPAN(BAR "fox"), SPAN("es"), SPAN(BAR "!")};
    const int32_t types[] = {3, 3, 3, 3, 1, 1, 1};
    struct vocabulary v;
    vocabulary_init(&v);
    v.model = SPAN("bert");
    v.tokens = tokens;
    v.count = COUNT(tokens);
    v.types = types;
    v.cls = 2;
    v.sep = 3;
    v.unk = 1;
    check(&v, "FOXES! x", TOKENIZER_ADD_SPECIAL, (const uint32_t[]){2, 4, 5, 6, 1, 3}, 6, "foxes!");
    v.lowercase = 0; /* as the file says, not as the vocabulary looks */
    check(&v, "FOX foxes!", TOKENIZER_ADD_SPECIAL, (const uint32_t[]){2, 1, 4, 5, 6, 3}, 6, "foxes!");
}

static void test_t5(void **state) {
    (void)state;
    const struct span tokens[] = {SPAN("<pad>"), SPAN("</s>"), SPAN("<unk>"), SPAN(BAR), SPAN("a"), SPAN(BAR "a"), SPAN("b")};
    const int32_t types[] = {3, 3, 2, 1, 1, 1, 1};
    const float scores[] = {0, 0, 0, -2, -2, -2.5f, -3};
    struct vocabulary v;
    vocabulary_init(&v);
    v.model = SPAN("t5");
    v.tokens = tokens;
    v.count = COUNT(tokens);
    v.types = types;
    v.scores = scores;
    v.eos = 1;
    v.unk = 2;
    check(&v, "ab  b ?", TOKENIZER_ADD_SPECIAL, (const uint32_t[]){5, 6, 3, 6, 3, 2, 1}, 7, "ab b ");
}

/* ---- the way back ---- */

/* What stands there is said again, and once more from what was made of it. */
static void check_back(const struct vocabulary *v, uint32_t count, bool encoder) {
    struct tokenizer *t = NULL;
    struct error err = {0};
    struct vocabulary_made made;
    if (tokenizer_from_vocabulary(v, &t, &err)) fail_msg("%.*s: %s", SPAN_ARG(v->model), err.message);
    if (vocabulary_from_tokenizer(t, count, encoder, &made, &err)) fail_msg("%.*s: %s", SPAN_ARG(v->model), err.message);
    const struct vocabulary *b = &made.v;
    assert_true(span_eq(b->model, v->model) && b->count == count);
    for (size_t i = 0; i < v->count; i++) {
        if (!span_eq(b->tokens[i], v->tokens[i]) || b->types[i] != v->types[i]) fail_msg("%.*s: token %zu is [%.*s] of type %d", SPAN_ARG(v->model), i, SPAN_ARG(b->tokens[i]), b->types[i]);
        if (v->scores) assert_true(b->scores[i] == v->scores[i]);
    }
    for (size_t i = v->count; i < count; i++) assert_int_equal(b->types[i], VOCABULARY_UNUSED);
    if (encoder) assert_true(b->bos == v->bos && b->eos == v->eos && b->sep == v->eos && b->add_bos == 1 && b->add_eos == 1 && b->unk == v->unk && b->mask == v->mask && b->add_sep == v->add_sep);
    if (v->lowercase >= 0) assert_true(b->lowercase == v->lowercase && b->strip_accents == v->strip_accents);
    if (v->remove_extra_whitespaces >= 0) assert_int_equal(b->remove_extra_whitespaces, v->remove_extra_whitespaces);
    vocabulary_made_fini(&made);
    tokenizer_free(t);
}

static void test_back(void **state) {
    (void)state;
    const struct span words[] = {SPAN("[PAD]"), SPAN("[UNK]"), SPAN("[CLS]"), SPAN("[SEP]"), SPAN("[MASK]"), SPAN(BAR "fox"), SPAN("es"), SPAN(BAR "!"), SPAN(BAR "A")};
    const int32_t word_types[] = {3, 3, 3, 3, 3, 1, 1, 1, 1};
    struct vocabulary bert;
    vocabulary_init(&bert);
    bert.model = SPAN("bert");
    bert.tokens = words;
    bert.count = COUNT(words);
    bert.types = word_types;
    bert.bos = 2;
    bert.eos = 3;
    bert.unk = 1;
    bert.mask = 4;
    bert.add_sep = 0;
    for (int i = 0; i < 4; i++) {
        bert.lowercase = i & 1;
        bert.strip_accents = i & 2 ? 1 : -1;
        check_back(&bert, (uint32_t)bert.count + (i == 3 ? 5 : 0), true); /* more embeddings than tokens */
    }

    const struct span pieces[] = {SPAN("<s>"), SPAN("<pad>"), SPAN("</s>"), SPAN("<unk>"), SPAN(BAR), SPAN("a"), SPAN(BAR "a"), SPAN("b"), SPAN("<mask>")};
    const int32_t piece_types[] = {3, 3, 3, 2, 1, 1, 1, 1, 3};
    const float scores[] = {0, 0, 0, 0, -2, -2, -2.5f, -3, 0};
    struct vocabulary t5;
    vocabulary_init(&t5);
    t5.model = SPAN("t5");
    t5.tokens = pieces;
    t5.count = COUNT(pieces);
    t5.types = piece_types;
    t5.scores = scores;
    t5.bos = 0;
    t5.eos = 2;
    t5.unk = 3;
    t5.mask = 8;
    t5.add_bos = t5.add_eos = t5.add_sep = 1;
    for (int i = 0; i < 2; i++) {
        t5.remove_extra_whitespaces = i;
        check_back(&t5, (uint32_t)t5.count + (uint32_t)i, true);
    }

    const struct span tokens[] = {SPAN("<s>"), SPAN("</s>"), SPAN("h"), SPAN("e"), SPAN("a"), SPAN("\xC4\xA0"), SPAN("he"), SPAN("\xC4\xA0he"), SPAN("<mask>")};
    const struct span merges[] = {SPAN("h e"), SPAN("\xC4\xA0 he")};
    const int32_t types[] = {3, 3, 1, 1, 1, 1, 1, 1, 3};
    struct vocabulary roberta;
    vocabulary_init(&roberta);
    roberta.model = SPAN("gpt2");
    roberta.pre = SPAN("gpt-2");
    roberta.tokens = tokens;
    roberta.count = COUNT(tokens);
    roberta.types = types;
    roberta.merges = merges;
    roberta.merge_count = COUNT(merges);
    roberta.bos = 0;
    roberta.eos = 1;
    roberta.mask = 8;
    roberta.add_bos = roberta.add_eos = roberta.add_sep = 1;
    check_back(&roberta, COUNT(tokens), true);
    check_back(&roberta, COUNT(tokens), false);

    struct tokenizer *t = NULL;
    assert_int_equal(tokenizer_from_vocabulary(&t5, &t, NULL), 0);
    for (uint64_t n = 1;; n++) {
        struct vocabulary_made made;
        alloc_fail_at(n);
        int r = vocabulary_from_tokenizer(t, COUNT(pieces), true, &made, NULL);
        uint64_t asked = alloc_count();
        alloc_fail_at(0);
        vocabulary_made_fini(&made);
        if (asked < n) {
            assert_int_equal(r, 0);
            break;
        }
        assert_int_not_equal(r, 0);
    }
    tokenizer_free(t);
}

static void test_refused(void **state) {
    (void)state;
    const struct span one[] = {SPAN("a"), SPAN("b")}, twice[] = {SPAN("a"), SPAN("a")}, broken[] = {SPAN("a"), SPAN("\xFF")};
    const struct span merges[] = {SPAN("a c")};
    struct vocabulary good;
    vocabulary_init(&good);
    good.model = SPAN("gpt2");
    good.pre = SPAN("gpt-2");
    good.tokens = one;
    good.count = 2;
    struct vocabulary strange = good, pre = good, none = good, dup = good, raw = good, merge = good, id = good;
    strange.model = SPAN("rwkv");
    pre.pre = SPAN("klingon");
    none.count = 0;
    dup.tokens = twice;
    raw.tokens = broken;
    merge.merges = merges;
    merge.merge_count = 1;
    id.eos = 2;
    const struct {
        const struct vocabulary *v;
        int code;
        const char *says;
    } cases[] = {{&strange, E_UNSUPPORTED, "rwkv"}, {&pre, E_UNSUPPORTED, "klingon"}, {&none, E_INVALID, "tokens"}, {&dup, E_INVALID, "twice"},
                 {&raw, E_INVALID, "UTF-8"},        {&merge, E_INVALID, "merges.0"},  {&id, E_INVALID, "special id 2"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct tokenizer *t = NULL;
        struct error err = {0};
        int r = tokenizer_from_vocabulary(cases[i].v, &t, &err);
        if (r != cases[i].code || !strstr(err.message, cases[i].says) || t) fail_msg("case %zu: %d %s", i, r, err.message);
    }
    for (uint64_t n = 1;; n++) {
        struct tokenizer *t = NULL;
        alloc_fail_at(n);
        int r = tokenizer_from_vocabulary(&good, &t, NULL);
        uint64_t asked = alloc_count();
        alloc_fail_at(0);
        tokenizer_free(t);
        if (asked < n) {
            assert_int_equal(r, 0);
            break;
        }
        assert_int_not_equal(r, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gpt2), cmocka_unit_test(test_llama), cmocka_unit_test(test_bert), cmocka_unit_test(test_t5), cmocka_unit_test(test_back),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
