#include "tiny.h"

#include <math.h>
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

/* What each family does otherwise than the others, as small as it goes. */
static void tiny_config(struct model_config *c, const char *arch, uint32_t context) {
    const struct model_arch *a = model_arch_find(span_str(arch));
    assert_non_null(a);
    bool relative = a->positions == MODEL_POS_RELATIVE, grouped = a->mlp == MODEL_MLP_GATED && !relative, rope = a->positions == MODEL_POS_ROPE, free_heads = grouped && strcmp(arch, "stablelm") != 0;
    model_config_default(c, a, 3, rope && !free_heads ? 56 : 52, 4, grouped ? 2 : 4, context, TINY_VOCAB);
    if (free_heads) c->head_dim = 18; /* no power of two, and not width / heads */
    if (rope) c->rotary_dim = c->rotary_dim * 4 < 4 * c->head_dim && !free_heads ? 6 : c->head_dim;
    c->attn_scale = (float)(1 / sqrt((double)c->head_dim));
    if (relative) {
        c->attn_scale = 1;
        c->head_dim = 18;
        c->encoder_layers = 2;
        c->position_buckets = 10;
        c->position_distance = 40;
    }
    if (c->experts) {
        c->experts = 5;
        c->experts_used = 2;
        c->expert_ffn = 38;
        if (strcmp(arch, "mixtral") == 0) c->ffn = c->expert_ffn;
        else c->layer_flags[1] = 0; /* one layer with an MLP */
    }
    if (strcmp(arch, "mistral") == 0 || strncmp(arch, "gemma2", 6) == 0 || strncmp(arch, "gemma3", 6) == 0) {
        bool all = strcmp(arch, "mistral") == 0;
        c->window = 20;
        for (uint32_t i = 0; i < 3; i++)
            if (all || i != 1) c->layer_flags[i] = (uint8_t)(MODEL_LAYER_WINDOW | (c->rope_theta_local > 0 ? MODEL_LAYER_ROPE_LOCAL : 0));
    }
    if (strncmp(arch, "gemma2", 6) == 0) {
        c->attn_softcap = 5;
        c->logits_softcap = 10;
    }
    if (strcmp(arch, "phi3") == 0) {
        c->rope_scaling = MODEL_ROPE_LONGROPE;
        c->rope_original_context = TINY_BORDER;
        c->rope_factor = (double)context / TINY_BORDER;
        c->rope_attention_factor = sqrt(1 + log(c->rope_factor) / log(TINY_BORDER));
        for (uint32_t i = 0; i < c->rotary_dim / 2; i++) {
            c->rope_short[i] = 1 + 0.125f * (float)i;
            c->rope_long[i] = 1 + (float)i;
        }
    }
    if (strcmp(arch, "granite") == 0) {
        c->embed_scale = 3;
        c->residual_scale = 0.4f;
        c->logits_scale = 0.5f;
    }
    if (strcmp(arch, "opt") == 0) { /* as OPT 350M */
        c->embed_width = 36;
        c->norm_place = MODEL_NORM_POST;
        c->no_final_norm = true;
    }
    if (strcmp(arch, "stablelm") == 0) { /* as StableLM 2 12B */
        c->qk_norm = MODEL_QK_NORM_LAYERS;
        c->norm_place = MODEL_NORM_PARALLEL;
    }
}

void tiny_make(struct tiny *t, const char *arch, uint64_t seed) { tiny_make_long(t, arch, seed, TINY_CONTEXT); }

void tiny_make_long(struct tiny *t, const char *arch, uint64_t seed, uint32_t context) {
    struct error err;
    *t = (struct tiny){0};
    struct tokenizer_trainer *trainer;
    struct tokenizer_train_options options = {.vocab_size = TINY_VOCAB};
    if (tokenizer_trainer_new(&trainer, &options, &err) != 0 || tokenizer_trainer_feed(trainer, span_str(TEXT), &err) != 0 ||
        tokenizer_trainer_feed(trainer, span_str(TEXT), &err) != 0 || tokenizer_trainer_finish(trainer, &t->tokenizer, NULL, NULL, &err) != 0)
        fail_msg("tokenizer: %s", err.message);
    tokenizer_trainer_free(trainer);

    struct model_config c;
    tiny_config(&c, arch, context);
    c.eos_ids[0] = tokenizer_find(t->tokenizer, SPAN(TOKENIZER_END_OF_TEXT));
    c.eos_count = 1;
    if (model_weights_new(&t->weights, &c, &err) != 0) fail_msg("weights: %s", err.message);
    struct random r;
    random_seed(&r, seed);
    for (size_t p = 0; p < t->weights.param_count; p++) {
        const struct model_param *param = &t->weights.params[p];
        bool matrix = model_param_is_matrix(param), norm = !matrix && c.arch->norm != MODEL_NORM_RMS_PLUS_ONE && strstr(model_role_name(param->role), "norm_w");
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

struct engine *tiny_engine(const struct tiny *t, struct engine_options o) {
    struct engine *e = NULL;
    struct error err;
    if (engine_new(&e, t->path, &o, &err) != 0) fail_msg("%s", err.message);
    return e;
}

struct engine_request tiny_request(const uint32_t *tokens, size_t n, int64_t max) {
    struct engine_request r;
    engine_request_init(&r);
    r.tokens = tokens;
    r.token_count = n;
    r.tokens_max = max;
    r.ignore_eos = r.seed_set = true;
    return r;
}

void tiny_tokens(uint32_t *out, size_t n, uint64_t seed) {
    struct random r;
    random_seed(&r, seed);
    for (size_t i = 0; i < n; i++) out[i] = (uint32_t)random_below(&r, TINY_VOCAB);
}

void tiny_same(const char *name, const struct engine_result *a, const struct engine_result *b) {
    if (a->error.code != 0 || b->error.code != 0) fail_msg("%s: %s%s", name, a->error.message, b->error.message);
    if (a->token_count != b->token_count || memcmp(a->tokens, b->tokens, a->token_count * sizeof *a->tokens) != 0) fail_msg("%s: other tokens", name);
    for (size_t i = 0; a->logprobs && i < a->token_count; i++)
        if (!b->logprobs || a->logprobs[i].logprob != b->logprobs[i].logprob) fail_msg("%s: another log-probability at %zu", name, i);
    if (a->prompt_count != b->prompt_count || (a->prompt_count && memcmp(a->prompt_logprobs, b->prompt_logprobs, a->prompt_count * sizeof *a->prompt_logprobs) != 0))
        fail_msg("%s: other log-probabilities of the prompt", name);
}
