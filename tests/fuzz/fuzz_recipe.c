/* Any bytes as a recipe: refused with a message, or written as YAML that reads back to the same values. */
#include "base/error.h"
#include "train/recipe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct train_recipe r, again;
    struct error err = {0};
    memset(&r, 0, sizeof r);
    if (recipe_parse(span_of(data, size), &r, &err)) {
        ASSERT(err.message[0]);
        return 0;
    }
    struct buf out;
    buf_init(&out, 2 * RECIPE_SIZE_MAX);
    ASSERT(recipe_write(&r, &out) == 0);
    ASSERT(recipe_parse(buf_span(&out), &again, &err) == 0);
    ASSERT(memcmp(&r, &again, sizeof r) == 0);
    buf_fini(&out);
    return 0;
}
