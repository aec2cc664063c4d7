/* Encoders' config.json and tensors: the classes that share a body, the head that a class tells of, what is refused, what is written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "model/arch.h"

#define BERT(class, type, more) \
    "{\"architectures\":[\"" class "\"],\"model_type\":\"" type "\",\"hidden_size\":64,\"intermediate_size\":160,\"num_hidden_layers\":3,\"num_attention_heads\":4," \
    "\"max_position_embeddings\":128,\"vocab_size\":384" more "}"
#define DISTIL(class, more) \
    "{\"architectures\":[\"" class "\"],\"model_type\":\"distilbert\",\"dim\":64,\"hidden_dim\":160,\"n_layers\":3,\"n_heads\":4," \
    "\"max_position_embeddings\":128,\"vocab_size\":384" more "}"

static void test_families(void **state) {
    (void)state;
    static const struct {
        const char *text, *arch, *first, *last;
        size_t tensors;
        uint32_t labels, types, offset;
    } cases[] = {
        {BERT("BertModel", "bert", ""), "bert", "bert.embeddings.word_embeddings.weight", "bert.encoder.layer.2.output.LayerNorm.bias", 5 + 3 * 16, 0, 2, 0},
        {BERT("BertForMaskedLM", "bert", ",\"type_vocab_size\":3"), "bert", "bert.embeddings.word_embeddings.weight", "bert.encoder.layer.2.output.LayerNorm.bias", 5 + 3 * 16, 0, 3, 0},
        {BERT("BertForSequenceClassification", "bert", ",\"id2label\":{\"0\":\"a\",\"1\":\"b\",\"2\":\"c\"}"), "bert", "bert.embeddings.word_embeddings.weight", "classifier.bias", 5 + 3 * 16 + 4, 3, 2, 0},
        {BERT("RobertaModel", "roberta", ",\"type_vocab_size\":1,\"pad_token_id\":1"), "roberta", "roberta.embeddings.word_embeddings.weight", "roberta.encoder.layer.2.output.LayerNorm.bias", 5 + 3 * 16, 0, 1, 2},
        {BERT("XLMRobertaForSequenceClassification", "xlm-roberta", ",\"num_labels\":1"), "xlm-roberta", "roberta.embeddings.word_embeddings.weight", "classifier.out_proj.bias", 5 + 3 * 16 + 4, 1, 2, 2},
        {DISTIL("DistilBertModel", ""), "distilbert", "distilbert.embeddings.word_embeddings.weight", "distilbert.transformer.layer.2.output_layer_norm.bias", 4 + 3 * 16, 0, 0, 0},
        {DISTIL("DistilBertForSequenceClassification", ""), "distilbert", "distilbert.embeddings.word_embeddings.weight", "classifier.bias", 4 + 3 * 16 + 4, 2, 0, 0},
        {BERT("ModernBertModel", "modernbert", ""), "modernbert", "model.embeddings.tok_embeddings.weight", "model.final_norm.weight", 2 + 5 + 2 * 6 + 1, 0, 0, 0},
        {BERT("ModernBertForSequenceClassification", "modernbert", ",\"classifier_pooling\":\"mean\",\"attention_bias\":true,\"mlp_bias\":true"), "modernbert",
         "model.embeddings.tok_embeddings.weight", "classifier.bias", 2 + 9 + 2 * 10 + 1 + 4, 2, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config c, again;
        struct model_tensor *t = NULL;
        struct error err = {0};
        struct buf out;
        size_t count = 0, flat = 0;
        if (model_config_parse(span_str(cases[i].text), &c, &err)) fail_msg("case %zu: %s", i, err.message);
        assert_string_equal(c.arch->name, cases[i].arch);
        assert_int_equal(c.labels, cases[i].labels);
        assert_int_equal(c.types, cases[i].types);
        assert_int_equal(c.position_offset, cases[i].offset);
        assert_int_equal(model_tensors(&c, &t, &count, &flat, NULL), 0);
        assert_int_equal(count, cases[i].tensors);
        assert_string_equal(t[0].name, cases[i].first);
        assert_string_equal(t[count - 1].name, cases[i].last);
        assert_int_equal(model_config_param_count(&c), flat);
        mem_free(t);
        /* written, it is the same model */
        buf_init(&out, 1 << 16);
        assert_int_equal(model_config_write(&c, &out), 0);
        if (model_config_parse(buf_span(&out), &again, &err)) fail_msg("case %zu: %s", i, err.message);
        assert_true(again.arch == c.arch && again.labels == c.labels && again.types == c.types && again.position_offset == c.position_offset && again.norm_eps == c.norm_eps &&
                    again.global_every == c.global_every && again.local_window == c.local_window && again.head_mean == c.head_mean && again.attn_bias == c.attn_bias);
        buf_fini(&out);
    }
}

static void test_modern(void **state) {
    (void)state;
    struct model_config c;
    struct error err = {0};
    if (model_config_parse(SPAN(BERT("ModernBertModel", "modernbert", ",\"local_attention\":16,\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_attention\"],"
                                     "\"rope_parameters\":{\"full_attention\":{\"rope_theta\":5000},\"sliding_attention\":{\"rope_theta\":700,\"rope_type\":\"default\"}}")), &c, &err))
        fail_msg("%s", err.message);
    assert_int_equal(c.local_window, 8);
    assert_int_equal(c.global_every, 2);
    assert_true(c.rope_theta == 5000 && c.rope_theta_local == 700);
    assert_int_equal(model_config_parse(SPAN(BERT("ModernBertModel", "modernbert", "")), &c, &err), 0); /* as published: transformers 4's keys, or none */
    assert_int_equal(c.local_window, 64);
    assert_int_equal(c.global_every, 3);
    assert_true(c.rope_theta == 160000 && c.rope_theta_local == 10000);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
        int code;
    } cases[] = {
        {BERT("BertForTokenClassification", "bert", ""), "BertForTokenClassification", E_UNSUPPORTED},
        {BERT("BertModel", "bert", ",\"position_embedding_type\":\"relative_key\""), "relative_key", E_UNSUPPORTED},
        {BERT("BertModel", "bert", ",\"is_decoder\":true"), "is_decoder", E_UNSUPPORTED},
        {BERT("BertModel", "bert", ",\"type_vocab_size\":0"), "type_vocab_size", E_RANGE},
        {BERT("BertForSequenceClassification", "bert", ",\"num_labels\":0"), "labels", E_RANGE},
        {BERT("RobertaModel", "roberta", ",\"pad_token_id\":127"), "position", E_RANGE},
        {BERT("ModernBertModel", "modernbert", ",\"norm_bias\":true"), "norm_bias", E_UNSUPPORTED},
        {BERT("ModernBertModel", "modernbert", ",\"local_attention\":1"), "local_attention", E_RANGE},
        {BERT("ModernBertModel", "modernbert", ",\"layer_types\":[\"sliding_attention\",\"full_attention\",\"full_attention\"]"), "layer_types", E_UNSUPPORTED},
        {BERT("ModernBertForSequenceClassification", "modernbert", ",\"classifier_pooling\":\"max\""), "max", E_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_config c;
        struct error err = {0};
        int r = model_config_parse(span_str(cases[i].text), &c, &err);
        if (r != cases[i].code || !strstr(err.message, cases[i].says)) fail_msg("case %zu: %d %s", i, r, err.message);
    }
}

static void test_ignored(void **state) {
    (void)state;
    static const struct {
        const char *text, *tensor;
        bool ignored;
    } cases[] = {
        {BERT("BertModel", "bert", ""), "embeddings.position_ids", true},
        {BERT("BertModel", "bert", ""), "pooler.dense.weight", true},
        {BERT("BertModel", "bert", ""), "bert.pooler.dense.weight", true},
        {BERT("BertModel", "bert", ""), "cls.predictions.bias", true},
        {BERT("BertModel", "bert", ""), "encoder.layer.7.output.dense.weight", false},
        {BERT("BertForSequenceClassification", "bert", ""), "bert.pooler.dense.weight", false},
        {BERT("RobertaForSequenceClassification", "roberta", ""), "roberta.pooler.dense.weight", true},
        {DISTIL("DistilBertForMaskedLM", ""), "vocab_transform.weight", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config c;
        assert_int_equal(model_config_parse(span_str(cases[i].text), &c, NULL), 0);
        if (model_tensor_ignored(&c, span_str(cases[i].tensor)) != cases[i].ignored) fail_msg("case %zu: %s", i, cases[i].tensor);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_families), cmocka_unit_test(test_modern), cmocka_unit_test(test_refused), cmocka_unit_test(test_ignored)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
