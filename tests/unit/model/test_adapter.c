/* adapter_config.json: what is read, what is refused and by which name, and which module gets which numbers. The tensors are held to PEFT's in tests/conformance and to the engine in tests/unit/engine. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "model/adapter.h"

#define CONFIG(more) "{\"peft_type\":\"LORA\",\"task_type\":\"CAUSAL_LM\",\"r\":8,\"lora_alpha\":16" more "}"

static void test_modules(void **state) {
    (void)state;
    static const struct {
        const char *name, *text, *module;
        uint32_t rank;
        double scaling;
    } rows[] = {
        {"no pattern", CONFIG(""), "model.layers.0.mlp.up_proj", 8, 2},
        {"rsLoRA", CONFIG(",\"use_rslora\":true"), "model.layers.0.mlp.up_proj", 8, 5.656854249492381},
        {"a last name", CONFIG(",\"rank_pattern\":{\"up_proj\":4}"), "model.layers.0.mlp.up_proj", 4, 4},
        {"a last name is whole", CONFIG(",\"rank_pattern\":{\"p_proj\":4}"), "model.layers.0.mlp.up_proj", 8, 2},
        {"two names", CONFIG(",\"rank_pattern\":{\"mlp.up_proj\":2},\"alpha_pattern\":{\"layers.0.mlp.up_proj\":1}"), "model.layers.0.mlp.up_proj", 2, 0.5},
        {"another layer", CONFIG(",\"alpha_pattern\":{\"layers.1.mlp.up_proj\":1}"), "model.layers.0.mlp.up_proj", 8, 2},
        {"a dot is any sign", CONFIG(",\"alpha_pattern\":{\"mlp_up_proj\":1,\"mlp.up.proj\":24}"), "model.layers.0.mlp.up_proj", 8, 3},
        {"an escaped one is a dot", CONFIG(",\"alpha_pattern\":{\"mlp\\\\.up\\\\.proj\":1}"), "model.layers.0.mlp.up_proj", 8, 2},
        {"from the start", CONFIG(",\"alpha_pattern\":{\"^mlp.up_proj\":1,\"^model.layers.0.*proj$\":40}"), "model.layers.0.mlp.up_proj", 8, 5},
        {"anything twice", CONFIG(",\"alpha_pattern\":{\".*0.*up_proj\":8}"), "model.layers.0.mlp.up_proj", 8, 1},
        {"anything that ends elsewhere", CONFIG(",\"alpha_pattern\":{\"model.*up\":8}"), "model.layers.0.mlp.up_proj", 8, 2},
        {"the first of two", CONFIG(",\"alpha_pattern\":{\"up_proj\":8,\"mlp.up_proj\":80}"), "model.layers.0.mlp.up_proj", 8, 1},
        {"the whole name", CONFIG(",\"rank_pattern\":{\"up_proj\":5}"), "up_proj", 5, 3.2},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct adapter_config c;
        struct error err;
        uint32_t rank;
        double scaling;
        if (adapter_config_parse(span_str(rows[i].text), &c, &err) != 0) fail_msg("%s: %s", rows[i].name, err.message);
        adapter_config_module(&c, span_str(rows[i].module), &rank, &scaling);
        if (rank != rows[i].rank || fabs(scaling - rows[i].scaling) > 1e-12) fail_msg("%s: rank %u, scaling %.17g", rows[i].name, rank, scaling);
        adapter_config_fini(&c);
    }
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int code;
        const char *word;
    } rows[] = {
        {"[1]", E_INVALID, "not an object"},
        {"{", E_INVALID, "1"},
        {"{\"r\":8}", E_INVALID, "peft_type"},
        {"{\"peft_type\":\"LOHA\"}", E_UNSUPPORTED, "LOHA"},
        {CONFIG(",\"use_dora\":true"), E_UNSUPPORTED, "DoRA"},
        {CONFIG(",\"bias\":\"lora_only\""), E_UNSUPPORTED, "lora_only"},
        {CONFIG(",\"modules_to_save\":[\"lm_head\"]"), E_UNSUPPORTED, "modules_to_save"},
        {CONFIG(",\"trainable_token_indices\":[3]"), E_UNSUPPORTED, "trainable_token_indices"},
        {CONFIG(",\"init_lora_weights\":\"pissa_niter_4\""), E_UNSUPPORTED, "pissa_niter_4"},
        {CONFIG(",\"what_comes_next\":{\"a\":1}"), E_UNSUPPORTED, "what_comes_next"},
        {CONFIG(",\"rank_pattern\":[8]"), E_INVALID, "rank_pattern"},
        {CONFIG(",\"rank_pattern\":{\"q_proj\":513}"), E_RANGE, "rank_pattern"},
        {CONFIG(",\"alpha_pattern\":{\"q_proj\":\"x\"}"), E_RANGE, "alpha_pattern"},
        {CONFIG(",\"alpha_pattern\":{\"(q|k)_proj\":1}"), E_UNSUPPORTED, "(q|k)_proj"},
        {CONFIG(",\"alpha_pattern\":{\"q_proj+\":1}"), E_UNSUPPORTED, "regular expression"},
        {CONFIG(",\"alpha_pattern\":{\"q\\\\d\":1}"), E_UNSUPPORTED, "regular expression"},
        {CONFIG(",\"alpha_pattern\":{\"a.**\":1}"), E_UNSUPPORTED, "regular expression"},
        {CONFIG(",\"alpha_pattern\":{\"\":1}"), E_INVALID, "0 bytes"},
        {"{\"peft_type\":\"LORA\",\"r\":0,\"lora_alpha\":1}", E_RANGE, "r is not"},
        {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":1e300}", E_INVALID, "lora_alpha"},
        {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":1,\"use_rslora\":1}", E_INVALID, "use_rslora"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct adapter_config c;
        struct error err = {0};
        int r = adapter_config_parse(span_str(rows[i].text), &c, &err);
        if (r != rows[i].code || !strstr(err.message, rows[i].word)) fail_msg("%s: %d, %s", rows[i].text, r, err.message);
    }
    /* what says nothing asks for nothing, known or not */
    struct adapter_config c;
    assert_int_equal(adapter_config_parse(SPAN(CONFIG(",\"use_dora\":false,\"modules_to_save\":null,\"layer_replication\":[],\"what_comes_next\":null,\"base_model_name_or_path\":\"org/base\"")), &c, NULL), 0);
    assert_string_equal(c.base, "org/base");
    adapter_config_fini(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_modules), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests_name("adapter", tests, NULL, NULL);
}
