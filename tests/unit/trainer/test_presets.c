/* The recipes that ship are recipes: each takes a data set (and what goes on from a model, a model), each is named where there is no such preset, each shuffles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "services/trainer/presets.h"
#include "train/recipe.h"

static void test_presets(void **state) {
    (void)state;
    struct span rest = span_str(PRESET_NAMES), name;
    int named = 0;
    while (span_cut(&rest, ',', &name)) {
        if (!preset_find(span_trim(name))) fail_msg("%.*s is named and not there", SPAN_ARG(name));
        named++;
    }
    assert_int_equal(named, PRESETS_COUNT);
    assert_null(preset_find(SPAN("pretrain")));
    for (int i = 0; i < PRESETS_COUNT; i++) {
        static struct train_recipe r;
        struct error err = {0};
        struct span text = span_str(PRESETS[i].recipe);
        bool fresh = strstr(PRESETS[i].recipe, "architecture") != NULL;
        if (recipe_parse_given(text, &(struct recipe_given){"docs@1", fresh ? "" : "base@1"}, &r, &err)) fail_msg("%s: %s", PRESETS[i].name, err.message);
        /* Some hundred steps in the order of the rows would see the first documents alone. */
        if (!r.data.shuffle) fail_msg("%s does not shuffle", PRESETS[i].name);
        assert_int_equal(recipe_parse_given(text, &(struct recipe_given){"docs@1", fresh ? "base@1" : ""}, &r, &err), E_INVALID);
        assert_int_equal(recipe_parse_given(text, &(struct recipe_given){"", fresh ? "" : "base@1"}, &r, &err), E_INVALID);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_presets)};
    return cmocka_run_group_tests_name("trainer_presets", tests, NULL, NULL);
}
