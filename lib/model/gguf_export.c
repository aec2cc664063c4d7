#include "model/gguf_export.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include "base/alloc.h"
#include "model/dir_files.h"
#include "model/gguf_write.h"
#include "tokenizer/vocabulary_write.h"

enum { KEY_MAX = 128, PATH_SIZE = 4096 };

/* What to do where the format cannot say it. */
static const char *instead(const struct model_config *c) { return c->arch->kind == MODEL_ENCODER ? "export it as it is" : "export it as safetensors"; }

/* ---- metadata ---- */

struct target {
    struct gguf_writer *w;
    const struct gguf_arch *a;
    const struct model_config *c;
};
static const char *key(const struct target *t, const char *name, char full[KEY_MAX]) {
    (void)snprintf(full, KEY_MAX, "%s.%s", t->a->name, name);
    return full;
}
static void put_count(const struct target *t, const char *name, uint32_t v) {
    char full[KEY_MAX];
    gguf_put_u32(t->w, key(t, name, full), v);
}
static void put_real(const struct target *t, const char *name, double v) {
    char full[KEY_MAX];
    gguf_put_f32(t->w, key(t, name, full), (float)v);
}
static void put_text(const struct target *t, const char *name, const char *v) {
    char full[KEY_MAX];
    gguf_put_string(t->w, key(t, name, full), span_str(v));
}


static void put_rope(const struct target *t) {
    const struct model_config *c = t->c;
    put_count(t, "rope.dimension_count", c->rotary_dim);
    put_real(t, "rope.freq_base", c->rope_theta);
    if (c->rope_scaling == MODEL_ROPE_LINEAR || c->rope_scaling == MODEL_ROPE_YARN) {
        put_text(t, "rope.scaling.type", c->rope_scaling == MODEL_ROPE_LINEAR ? "linear" : "yarn");
        put_real(t, "rope.scaling.factor", c->rope_factor);
    }
    if (c->rope_scaling == MODEL_ROPE_YARN) {
        put_count(t, "rope.scaling.original_context_length", c->rope_original_context);
        put_real(t, "rope.scaling.attn_factor", c->rope_attention_factor);
        put_real(t, "rope.scaling.yarn_beta_fast", c->rope_beta_fast);
        put_real(t, "rope.scaling.yarn_beta_slow", c->rope_beta_slow);
    }
    if (c->rope_scaling == MODEL_ROPE_LONGROPE) {
        put_count(t, "rope.scaling.original_context_length", c->rope_original_context);
        put_real(t, "rope.scaling.attn_factor", c->rope_attention_factor);
    }
}

static void put_model(const struct target *t) {
    const struct model_config *c = t->c;
    bool rms = c->arch->norm != MODEL_NORM_LAYER;
    put_count(t, "vocab_size", c->vocab);
    put_count(t, "context_length", c->context);
    put_count(t, "embedding_length", c->width);
    put_count(t, "block_count", c->layers);
    put_count(t, "feed_forward_length", c->ffn);
    put_count(t, "attention.head_count", c->heads);
    put_count(t, "attention.head_count_kv", c->kv_heads);
    put_count(t, "attention.key_length", c->head_dim);
    put_count(t, "attention.value_length", c->head_dim);
    put_real(t, rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon", (double)c->norm_eps);
    if (c->arch->positions == MODEL_POS_ROPE) put_rope(t);
    if (c->window) put_count(t, "attention.sliding_window", c->window);
    if (c->attn_softcap > 0) put_real(t, "attn_logit_softcapping", (double)c->attn_softcap);
    if (c->logits_softcap > 0) put_real(t, "final_logit_softcapping", (double)c->logits_softcap);
    if (c->experts) {
        put_count(t, "expert_count", c->experts);
        put_count(t, "expert_used_count", c->experts_used);
        put_count(t, "expert_feed_forward_length", c->expert_ffn);
    }
    if (!strcmp(t->a->name, "granite")) {
        put_real(t, "attention.scale", (double)c->attn_scale);
        put_real(t, "embedding_scale", (double)c->embed_scale);
        put_real(t, "residual_scale", (double)c->residual_scale);
        put_real(t, "logit_scale", 1 / (double)c->logits_scale);
    }
    if (!strcmp(t->a->name, "gptneox") || !strcmp(t->a->name, "stablelm")) {
        char full[KEY_MAX];
        gguf_put_bool(t->w, key(t, "use_parallel_residual", full), c->norm_place == MODEL_NORM_PARALLEL);
    }
}

static void put_t5(const struct target *t, const struct model_dir *m) {
    const struct model_config *c = t->c;
    const bool both = c->arch->kind == MODEL_ENCODER_DECODER;
    put_count(t, "vocab_size", c->vocab);
    put_count(t, "context_length", c->context);
    put_count(t, "embedding_length", c->width);
    put_count(t, "feed_forward_length", c->ffn);
    put_count(t, "block_count", both ? c->encoder_layers : c->layers);
    put_count(t, "attention.head_count", c->heads);
    put_count(t, "attention.key_length", c->head_dim);
    put_count(t, "attention.value_length", c->head_dim);
    put_real(t, "attention.layer_norm_epsilon", (double)c->norm_eps);
    put_real(t, "attention.layer_norm_rms_epsilon", (double)c->norm_eps);
    put_count(t, "attention.relative_buckets_count", c->position_buckets);
    if (!both && m->pooling != MODEL_POOLING_UNSAID) put_count(t, "pooling_type", (uint32_t)m->pooling);
    if (!both) return;
    put_count(t, "decoder_block_count", c->layers);
    put_count(t, "decoder_start_token_id", (uint32_t)c->start_id);
    if ((c->logits_scale != 1) != c->tie_embeddings) put_real(t, "logit_scale", (double)c->logits_scale);
}

/* Of a classifier the pooling is its own: it ranks. */
static int put_encoder(const struct target *t, const struct model_dir *m, struct error *err) {
    const struct model_config *c = t->c;
    char full[KEY_MAX];
    put_count(t, "vocab_size", c->vocab);
    put_count(t, "context_length", c->context - c->position_offset);
    put_count(t, "embedding_length", c->width);
    put_count(t, "block_count", c->layers);
    put_count(t, "feed_forward_length", c->ffn);
    put_count(t, "attention.head_count", c->heads);
    put_real(t, "attention.layer_norm_epsilon", (double)c->norm_eps);
    gguf_put_bool(t->w, key(t, "attention.causal", full), false);
    if (c->labels || m->pooling != MODEL_POOLING_UNSAID) put_count(t, "pooling_type", c->labels ? GGUF_POOLING_RANK : (uint32_t)m->pooling);
    gguf_put_u32(t->w, "tokenizer.ggml.token_type_count", c->types ? c->types : 1);
    if (c->arch->positions == MODEL_POS_ROPE) {
        put_real(t, "rope.freq_base", c->rope_theta);
        put_real(t, "rope.freq_base_swa", c->rope_theta_local);
        put_text(t, "rope.scaling.type", "none");
        put_count(t, "attention.sliding_window", 2 * c->local_window);
        put_count(t, "attention.sliding_window_pattern", c->global_every);
        put_text(t, "hidden_activation", model_activation_name(c->activation));
        if (c->labels) put_count(t, "classifier.pooling_type", c->head_mean ? MODEL_POOLING_MEAN : MODEL_POOLING_CLS);
    }
    if (!c->labels) return 0;
    /* one name for each output, or readers take it that there is one output */
    struct span *names = mem_calloc(c->labels, sizeof *names);
    char (*numbered)[24] = mem_calloc(c->labels, sizeof *numbered);
    for (uint32_t i = 0; names && numbered && i < c->labels; i++) {
        (void)snprintf(numbered[i], sizeof numbered[i], "LABEL_%u", i);
        names[i] = span_str(m->labels && i < m->label_count ? m->labels[i] : numbered[i]);
    }
    int r = names && numbered ? 0 : error_set(err, E_NOMEM, "no memory for labels");
    if (!r) gguf_put_strings(t->w, key(t, "classifier.output_labels", full), names, c->labels);
    mem_free(names);
    mem_free(numbered);
    return r;
}

static void put_id(struct gguf_writer *w, const char *name, int64_t id) {
    if (id >= 0 && id < (int64_t)TOKEN_NONE) gguf_put_u32(w, name, (uint32_t)id);
}

/* What a request that does not say gets, where the model says something of it. */
static void put_sampling(struct gguf_writer *w, const struct model_generation *g) {
    if (!g->do_sample) return;
    gguf_put_f32(w, "general.sampling.temp", (float)g->temperature);
    gguf_put_f32(w, "general.sampling.top_p", (float)g->top_p);
    if (g->top_k > 0 && g->top_k <= INT32_MAX) gguf_put_u32(w, "general.sampling.top_k", (uint32_t)g->top_k);
    if (g->min_p != 0) gguf_put_f32(w, "general.sampling.min_p", (float)g->min_p);
    if (g->repetition_penalty != 1) gguf_put_f32(w, "general.sampling.penalty_repeat", (float)g->repetition_penalty);
}

static void put_flag(struct gguf_writer *w, const char *name, int flag) {
    if (flag >= 0) gguf_put_bool(w, name, flag > 0);
}

static int put_tokenizer(struct gguf_writer *w, const struct model_dir *m, struct error *err) {
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    const struct model_config *c = &m->config;
    struct vocabulary_made made;
    if (!m->tokenizer) {
        gguf_put_string(w, "tokenizer.ggml.model", SPAN("no_vocab"));
        for (uint32_t i = 0; i < c->eos_count && i < sizeof ends / sizeof *ends; i++) put_id(w, ends[i], c->eos_ids[i]);
        return 0;
    }
    const bool encoder = c->arch->kind == MODEL_ENCODER;
    int r = vocabulary_from_tokenizer(m->tokenizer, c->vocab, encoder, &made, err);
    const struct vocabulary *v = &made.v;
    if (!r) {
        gguf_put_string(w, "tokenizer.ggml.model", v->model);
        if (v->pre.len || !span_eq_str(v->model, "gpt2")) gguf_put_string(w, "tokenizer.ggml.pre", v->pre.len ? v->pre : SPAN("default"));
        gguf_put_strings(w, "tokenizer.ggml.tokens", v->tokens, v->count);
        gguf_put_numbers(w, "tokenizer.ggml.token_type", GGUF_I32, v->types, v->count);
        if (v->scores) gguf_put_numbers(w, "tokenizer.ggml.scores", GGUF_F32, v->scores, v->count);
        if (v->merges) gguf_put_strings(w, "tokenizer.ggml.merges", v->merges, v->merge_count);
        put_id(w, "tokenizer.ggml.bos_token_id", v->bos != TOKEN_NONE ? (int64_t)v->bos : c->bos_id);
        put_id(w, "tokenizer.ggml.padding_token_id", v->pad != TOKEN_NONE ? (int64_t)v->pad : c->pad_id);
        if (v->unk != TOKEN_NONE) gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", v->unk);
        size_t n = 0;
        for (uint32_t i = 0; !encoder && i < c->eos_count && n < sizeof ends / sizeof *ends; i++) put_id(w, ends[n++], c->eos_ids[i]);
        if (!n && v->eos != TOKEN_NONE) put_id(w, ends[0], v->eos);
        gguf_put_bool(w, "tokenizer.ggml.add_bos_token", v->add_bos > 0);
        gguf_put_bool(w, "tokenizer.ggml.add_eos_token", v->add_eos > 0);
        put_flag(w, "tokenizer.ggml.add_sep_token", v->add_sep);
        put_flag(w, "tokenizer.ggml.remove_extra_whitespaces", v->remove_extra_whitespaces);
        put_flag(w, "tokenizer.ggml.normalizer.lowercase", v->lowercase);
        put_flag(w, "tokenizer.ggml.normalizer.strip_accents", v->strip_accents);
        if (v->sep != TOKEN_NONE) gguf_put_u32(w, "tokenizer.ggml.seperator_token_id", v->sep); /* so spelled */
        if (v->mask != TOKEN_NONE) gguf_put_u32(w, "tokenizer.ggml.mask_token_id", v->mask);
        if (v->charsmap.len) gguf_put_numbers(w, "tokenizer.ggml.precompiled_charsmap", GGUF_U8, v->charsmap.data, v->charsmap.len);
        if (v->add_space_prefix >= 0) gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", v->add_space_prefix > 0);
        if (m->chat_template) gguf_put_string(w, "tokenizer.chat_template", span_str(m->chat_template));
    }
    vocabulary_made_fini(&made);
    return r;
}

/* ---- tensors ---- */

/* What goes into one tensor of the file: parameters one behind the other. */
struct out {
    char name[MODEL_TENSOR_NAME_MAX];
    size_t part[3]; /* indices of params */
    size_t parts;
    uint32_t run;   /* of part[0] and those that follow it: experts, or heads with norms of their own */
    enum tensor_type type;
    bool vector, permuted;
    uint32_t skip; /* first rows that are left out: RoBERTa's positions that are no token's */
    float add;
};

static bool fuses(const struct target *t, const struct model_param *p) {
    bool attention = !strcmp(t->a->name, "gpt2") || !strcmp(t->a->name, "gptneox") || !strcmp(t->a->name, "phi3") || !strcmp(t->a->name, "modern-bert");
    switch (p->role) {
    case MODEL_ATTN_Q_W:
    case MODEL_ATTN_K_W:
    case MODEL_ATTN_V_W:
    case MODEL_ATTN_Q_B:
    case MODEL_ATTN_K_B:
    case MODEL_ATTN_V_B: return attention;
    case MODEL_MLP_GATE_W:
    case MODEL_MLP_UP_W: return !strcmp(t->a->name, "phi3") || !strcmp(t->a->name, "modern-bert");
    default: return false;
    }
}

/* false: it is in the tensor of another parameter. */
static int plan(const struct target *t, const struct model_weights *w, size_t i, struct out *o, bool *is, struct error *err) {
    const struct model_param *p = &w->params[i];
    const struct gguf_place *at = gguf_place_of(t->c, p->role);
    if (!at) return error_set(err, E_UNSUPPORTED, "%s has no place in a GGUF file", model_role_name(p->role));
    *o = (struct out){.part = {i}, .parts = 1, .run = 1};
    *is = p->index == 0;
    const char *name = at->name;
    if (fuses(t, p)) {
        bool mlp = p->role == MODEL_MLP_GATE_W || p->role == MODEL_MLP_UP_W, bias = p->role == MODEL_ATTN_Q_B || p->role == MODEL_ATTN_K_B || p->role == MODEL_ATTN_V_B;
        const enum model_role first = mlp ? MODEL_MLP_GATE_W : bias ? MODEL_ATTN_Q_B : MODEL_ATTN_Q_W;
        const enum model_role rest[2] = {mlp ? MODEL_MLP_UP_W : bias ? MODEL_ATTN_K_B : MODEL_ATTN_K_W, mlp ? MODEL_ROLES : bias ? MODEL_ATTN_V_B : MODEL_ATTN_V_W};
        *is = p->role == first;
        for (int k = 0; k < 2 && rest[k] != MODEL_ROLES; k++) {
            ptrdiff_t other = model_weights_find(w, rest[k], p->layer);
            if (other < 0) return error_set(err, E_UNSUPPORTED, "%s of layer %u stands alone", model_role_name(p->role), p->layer);
            o->part[o->parts++] = (size_t)other;
        }
        name = at->fused;
    }
    while (i + o->run < w->param_count && w->params[i + o->run].role == p->role && w->params[i + o->run].layer == p->layer && w->params[i + o->run].index == o->run) o->run++;
    gguf_tensor_name(t->c, p->role, p->layer, name, o->name);
    o->vector = p->rows == 1 && o->run == 1;
    o->type = w->views[i].type;
    for (size_t k = 1; k < o->parts; k++)
        if (w->views[o->part[k]].type != o->type) o->type = TENSOR_F32;
    if (o->vector || p->rows == 1 || p->role == MODEL_ROUTER_W || p->role == MODEL_EMBED_POSITIONS || p->role == MODEL_EMBED_TYPES || p->role == MODEL_ATTN_POSITION_W) o->type = TENSOR_F32;
    o->skip = p->role == MODEL_EMBED_POSITIONS ? t->c->position_offset : 0;
    o->permuted = t->a->permuted && (p->role == MODEL_ATTN_Q_W || p->role == MODEL_ATTN_K_W || p->role == MODEL_ATTN_Q_B || p->role == MODEL_ATTN_K_B);
    o->add = t->a->norm_plus_one && gguf_is_norm_weight(p->role) ? 1 : 0;
    return 0;
}

/* Which of our rows lies at row f of the file: halves of a head, interleaved. */
static uint32_t permuted_row(uint32_t f, uint32_t D) {
    uint32_t j = f % D, half = D / 2;
    return f - j + (j % 2 ? half + j / 2 : j / 2);
}

static int add(struct gguf_writer *g, const struct model_weights *w, const struct out *o, struct error *err) {
    const struct model_param *p = &w->params[o->part[0]];
    uint64_t rows = 0, cols = p->cols;
    for (size_t k = 0; k < o->parts; k++) rows += (o->vector ? w->params[o->part[k]].cols : w->params[o->part[k]].rows) - o->skip;
    if (o->vector) return gguf_writer_add(g, span_str(o->name), o->type, (uint64_t[]){rows}, 1, err);
    if (o->run > 1 && p->rows > 1) return gguf_writer_add(g, span_str(o->name), o->type, (uint64_t[]){o->run, rows, cols}, 3, err);
    return gguf_writer_add(g, span_str(o->name), o->type, (uint64_t[]){rows * o->run, cols}, 2, err);
}

/* One parameter's rows; of a vector its values, permuted and added to as the tensor wants. */
static int write_param(const struct target *t, const struct model_view *v, const struct out *o, struct error *err) {
    size_t size = 0;
    if (tensor_size(o->type, 1, v->cols, &size)) return error_set(err, E_INVALID, "%s has rows of no whole blocks", o->name);
    float *row = mem_calloc(v->cols, sizeof *row), *turned = mem_calloc(v->cols, sizeof *turned);
    uint8_t *packed = mem_alloc(size);
    int r = row && turned && packed ? 0 : error_set(err, E_NOMEM, "no memory for a row of %u", v->cols);
    for (uint32_t f = o->skip; !r && f < v->rows; f++) {
        const void *from = model_view_row(v, o->permuted && !o->vector ? permuted_row(f, t->c->head_dim) : f);
        if (v->type == o->type && !o->vector && o->add == 0) {
            r = gguf_writer_write(t->w, from, size, err);
            continue;
        }
        tensor_to_f32(v->type, from, v->cols, row);
        for (uint32_t k = 0; k < v->cols; k++) turned[k] = row[o->permuted && o->vector ? permuted_row(k, t->c->head_dim) : k] + o->add;
        if (tensor_from_f32(o->type, turned, v->cols, packed)) r = error_set(err, E_UNSUPPORTED, "%s cannot be written as %s", o->name, tensor_type_name(o->type));
        if (!r) r = gguf_writer_write(t->w, packed, size, err);
    }
    mem_free(row);
    mem_free(turned);
    mem_free(packed);
    return r;
}

static int write_tensors(const struct target *t, const struct model_weights *w, struct error *err) {
    struct out o;
    bool is = false;
    float factors[3][MODEL_ROPE_FACTORS_MAX];
    const char *names[2] = {"rope_freqs.weight", NULL};
    uint64_t n = t->c->rotary_dim / 2;
    size_t lists = 0;
    int r = 0;
    if (t->c->arch->positions == MODEL_POS_ROPE && t->c->rope_scaling == MODEL_ROPE_LLAMA3) { /* what each frequency is divided by */
        struct model_config unscaled = *t->c;
        unscaled.rope_scaling = MODEL_ROPE_DEFAULT;
        if (n > MODEL_ROPE_FACTORS_MAX) return error_set(err, E_UNSUPPORTED, "more than %d frequencies", MODEL_ROPE_FACTORS_MAX);
        model_rope_frequencies(&unscaled, factors[0]);
        model_rope_frequencies(t->c, factors[2]);
        for (uint64_t i = 0; i < n; i++) factors[0][i] /= factors[2][i];
        lists = 1;
    } else if (t->c->rope_scaling == MODEL_ROPE_LONGROPE) {
        memcpy(factors[0], t->c->rope_long, sizeof t->c->rope_long);
        memcpy(factors[1], t->c->rope_short, sizeof t->c->rope_short);
        names[0] = "rope_factors_long.weight";
        names[1] = "rope_factors_short.weight";
        lists = 2;
    }
    for (size_t i = 0; !r && i < lists; i++) r = gguf_writer_add(t->w, span_str(names[i]), TENSOR_F32, &n, 1, err);
    for (size_t i = 0; !r && i < w->param_count; i++) {
        r = plan(t, w, i, &o, &is, err);
        if (!r && is) r = add(t->w, w, &o, err);
    }
    for (size_t i = 0; !r && i < lists; i++) r = gguf_writer_write(t->w, factors[i], (size_t)n * sizeof(float), err);
    for (size_t i = 0; !r && i < w->param_count; i++) {
        r = plan(t, w, i, &o, &is, err);
        for (size_t k = 0; !r && is && k < o.parts; k++)
            for (uint32_t x = 0; !r && x < o.run; x++) r = write_param(t, &w->views[o.part[k] + x], &o, err);
    }
    return r;
}

/* ---- whether it is the same model ---- */

static const struct field {
    const char *name; /* as config.json has it, about */
    size_t at, size;
} fields[] = {
#define FIELD(NAME, MEMBER) {NAME, offsetof(struct model_config, MEMBER), sizeof((struct model_config *)0)->MEMBER}
    FIELD("num_hidden_layers", layers), FIELD("hidden_size", width), FIELD("num_attention_heads", heads), FIELD("num_key_value_heads", kv_heads), FIELD("head_dim", head_dim),
    FIELD("max_position_embeddings", context), FIELD("vocab_size", vocab), FIELD("hidden_act", activation), FIELD("rms_norm_eps", norm_eps), FIELD("partial_rotary_factor", rotary_dim),
    FIELD("tie_word_embeddings", tie_embeddings), FIELD("attention_bias", attn_bias), FIELD("mlp_bias", mlp_bias), FIELD("attention scale", attn_scale), FIELD("attn_logit_softcapping", attn_softcap),
    FIELD("final_logit_softcapping", logits_softcap), FIELD("embedding scale", embed_scale), FIELD("residual scale", residual_scale), FIELD("logits scale", logits_scale), FIELD("word_embed_proj_dim", embed_width),
    FIELD("sliding_window", window), FIELD("place of the norms", norm_place), FIELD("final norm", no_final_norm), FIELD("norms of q and k", qk_norm), FIELD("num_experts", experts), FIELD("num_experts_per_tok", experts_used),
    FIELD("moe_intermediate_size", expert_ffn), FIELD("norm_topk_prob", experts_normed), FIELD("layer_types", layer_flags), FIELD("rope_local_base_freq", rope_theta_local),
    FIELD("type_vocab_size", types), FIELD("id2label", labels), FIELD("classifier_pooling", head_mean), FIELD("classifier_activation", head_activation), FIELD("local_attention", local_window),
    FIELD("global_attn_every_n_layers", global_every), FIELD("number of encoder layers", encoder_layers), FIELD("feed_forward_proj", mlp), FIELD("relative_attention_num_buckets", position_buckets),
    FIELD("relative_attention_max_distance", position_distance), FIELD("decoder_start_token_id", start_id),
#undef FIELD
};

static int check_config(const struct model_config *a, const struct model_config *b, struct error *err) {
    float fa[MODEL_HEAD_DIM_MAX / 2], fb[MODEL_HEAD_DIM_MAX / 2];
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (memcmp((const char *)a + fields[i].at, (const char *)b + fields[i].at, fields[i].size) != 0)
            return error_set(err, E_UNSUPPORTED, "a GGUF file of this family cannot say its %s: what was read back has another; %s", fields[i].name, instead(a));
    if (a->arch->head != b->arch->head) return error_set(err, E_UNSUPPORTED, "a GGUF file of this family cannot say its classifier; %s", instead(a));
    if (!a->experts && a->ffn != b->ffn) return error_set(err, E_UNSUPPORTED, "a GGUF file of this family cannot say its intermediate_size; %s", instead(a));
    if (a->arch->positions != MODEL_POS_ROPE) return 0;
    for (enum model_rope_kind kind = 0; kind < MODEL_ROPE_KINDS; kind++) {
        if (!model_rope_has(a, kind)) continue;
        if (!model_rope_has(b, kind) && kind == MODEL_ROPE_KIND_LOCAL) return error_set(err, E_UNSUPPORTED, "a GGUF file of this family cannot say its local rotation; %s", instead(a));
        model_rope_frequencies_of(a, kind, fa);
        model_rope_frequencies_of(b, kind, fb);
        for (uint32_t i = 0; i < a->rotary_dim / 2; i++)
            if (!(fabsf(fa[i] - fb[i]) <= 1e-6f * fabsf(fa[i]))) return error_set(err, E_UNSUPPORTED, "a GGUF file of this family cannot say its rope_scaling; %s", instead(a));
    }
    return 0;
}

static int check(const struct model_dir *m, const char *path, struct error *err) {
    struct model_dir again = {0};
    struct model_config wanted = m->config;
    wanted.context -= wanted.position_offset; /* positions begin at 0 there */
    wanted.position_offset = 0;
    int r = model_dir_load(&again, path, MODEL_WEIGHTS_MAP, 0, err);
    if (r == E_INVALID || r == E_UNSUPPORTED) {
        struct error why = *err;
        r = error_set(err, E_UNSUPPORTED, "a GGUF file cannot say what this model is (%.200s); %s", why.message, instead(&m->config));
    }
    if (!r) r = check_config(&wanted, &again.config, err);
    if (!r && again.weights.param_count != m->weights.param_count) r = error_set(err, E_UNSUPPORTED, "what was read back has %zu parameters and not %zu", again.weights.param_count, m->weights.param_count);
    model_dir_fini(&again);
    return r;
}

/* llama.cpp's number of a file's main type. */
static uint32_t file_type(const struct model_weights *w) {
    static const uint32_t numbers[TENSOR_TYPES] = {[TENSOR_F32] = 0,  [TENSOR_F16] = 1,  [TENSOR_BF16] = 32, [TENSOR_Q8_0] = 7,  [TENSOR_Q4_0] = 2, [TENSOR_Q4_1] = 3,
                                                   [TENSOR_Q5_0] = 8, [TENSOR_Q5_1] = 9, [TENSOR_Q4_K] = 15, [TENSOR_Q5_K] = 17, [TENSOR_Q6_K] = 18};
    const struct model_view *v = model_weights_view(w, MODEL_ATTN_Q_W, 0);
    return numbers[v ? v->type : TENSOR_F32];
}

int model_write_gguf(const struct model_dir *m, const char *name, const char *path, struct error *err) {
    struct target t = {.a = gguf_arch_of_config(&m->config), .c = &m->config};
    char unchecked[PATH_SIZE];
    if (!t.a) return error_set(err, E_UNSUPPORTED, "%s models are not written to GGUF: %s", m->config.arch->name, instead(&m->config));
    if (m->config.arch->head == MODEL_HEAD_RELU && m->config.labels)
        return error_set(err, E_UNSUPPORTED, "a classifier of DistilBERT is not written to GGUF, since what reads it there computes its dense layer otherwise: %s", instead(&m->config));
    if (snprintf(unchecked, sizeof unchecked, "%s.unchecked", path) >= (int)sizeof unchecked) return error_set(err, E_INVALID, "%.200s: the path is too long", path);
    int r = gguf_writer_new(&t.w, unchecked, err);
    if (r) return r;
    gguf_put_string(t.w, "general.architecture", span_str(t.a->name));
    gguf_put_string(t.w, "general.name", span_str(name));
    gguf_put_u32(t.w, "general.file_type", file_type(&m->weights));
    put_sampling(t.w, &m->generation);
    gguf_put_u32(t.w, "general.quantization_version", 2);
    if (gguf_is_t5(t.a)) put_t5(&t, m);
    else if (m->config.arch->kind == MODEL_ENCODER) r = put_encoder(&t, m, err);
    else put_model(&t);
    if (!r) r = put_tokenizer(t.w, m, err);
    if (!r) r = write_tensors(&t, &m->weights, err);
    if (!r) r = gguf_writer_commit(t.w, err);
    gguf_writer_free(t.w);
    if (!r) r = check(m, unchecked, err);
    if (!r && rename(unchecked, path) != 0) r = error_errno(err, errno, "%s", path);
    if (r) (void)unlink(unchecked);
    return r;
}
