#include "tiny.h"

#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/random.h"
#include "tokenizer/chat.h"
#include "tokenizer/train.h"

static const char TEXT[] = "The engine takes rows of every running sequence. A row never depends on the rows beside it, and the cache is made of blocks. "
                           "naïve café, 東京 and emoji 🙂 are more than one byte each; the engine never cuts a character.";

void tiny_make(struct tiny *t, const char *arch, uint64_t seed) {
    struct error err;
    *t = (struct tiny){0};
    struct tokenizer_trainer *trainer;
    struct tokenizer_train_options options = {.vocab_size = TINY_VOCAB};
    if (tokenizer_trainer_new(&trainer, &options, &err) != 0 || tokenizer_trainer_feed(trainer, span_str(TEXT), &err) != 0 ||
        tokenizer_trainer_feed(trainer, span_str(TEXT), &err) != 0 || tokenizer_trainer_finish(trainer, &t->tokenizer, NULL, NULL, &err) != 0)
        fail_msg("tokenizer: %s", err.message);
    tokenizer_trainer_free(trainer);

    struct model_config c;
    model_config_default(&c, model_arch_find(span_str(arch)), 3, 52, 4, strcmp(arch, "llama") == 0 ? 2 : 4, TINY_CONTEXT, TINY_VOCAB);
    if (strcmp(arch, "llama") == 0) c.head_dim = 18; /* no power of two, and not width / heads */
    c.attn_scale = 0.25f;
    if (strcmp(arch, "llama") != 0) c.attn_scale = 0.2773501f; /* 1/√13, as its family has it */
    else c.attn_scale = 0.23570226f;                           /* 1/√18 */
    c.rotary_dim = strcmp(arch, "llama") == 0 ? 18 : c.rotary_dim;
    c.eos_ids[0] = tokenizer_find(t->tokenizer, SPAN(TOKENIZER_END_OF_TEXT));
    c.eos_count = 1;
    if (model_weights_new(&t->weights, &c, &err) != 0) fail_msg("weights: %s", err.message);
    struct random r;
    random_seed(&r, seed);
    for (size_t p = 0; p < t->weights.param_count; p++) {
        const struct model_param *param = &t->weights.params[p];
        bool matrix = model_param_is_matrix(param), norm = !matrix && strstr(model_role_name(param->role), "norm_w");
        for (size_t i = 0; i < model_param_size(param); i++)
            t->weights.flat[param->offset + i] = (float)(random_normal(&r) * (matrix ? 0.25 : 0.1)) + (norm ? 1.0f : 0.0f);
    }
    char name[] = "/tmp/genloop-engine-XXXXXX";
    assert_non_null(mkdtemp(name));
    span_copy(t->path, sizeof t->path, span_str(name));
    snprintf(t->path + strlen(name), sizeof t->path - strlen(name), "/model");
    struct model_dir_parts parts = {.weights = &t->weights, .dtype = DTYPE_F32, .tokenizer = t->tokenizer, .chat_template = CHAT_TEMPLATE_CHATML};
    if (model_dir_write(t->path, &parts, &err) != 0) fail_msg("%s: %s", t->path, err.message);
}

void tiny_remove(struct tiny *t) {
    char parent[64];
    span_copy(parent, sizeof parent, span_of(t->path, strlen(t->path) - strlen("/model")));
    assert_int_equal(dir_remove(parent, NULL), 0);
    model_weights_fini(&t->weights);
    tokenizer_free(t->tokenizer);
}
