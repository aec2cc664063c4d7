#include "engine/draft_model.h"

#include <math.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "engine/forward.h"

struct draft_model {
    struct model_dir dir;
    uint32_t vocab;   /* ids that both models have */
    bool fewer;       /* the large one has more */
    uint32_t context; /* of this model, as far as it is asked about */
    struct forward *forward;
    struct kv_cache kv;
    uint8_t *filled;  /* [blocks] of its first so many tokens the keys are there */
    uint32_t blocks;
    float *logits;    /* [DRAFT_SEQUENCES_MAX, its own vocabulary] */
    struct sampler_scratch scratch;
    struct draft_costs costs;
};

/* --- life --- */

static int compare_tokens(const struct tokenizer *mine, const struct tokenizer *its, struct error *err) {
    uint32_t n = tokenizer_vocab_size(mine), want = tokenizer_vocab_size(its);
    for (uint32_t i = 0; i < n && i < want; i++) {
        struct span a = tokenizer_token_bytes(mine, i), b = tokenizer_token_bytes(its, i);
        if (!span_eq(a, b) || tokenizer_is_special(mine, i) != tokenizer_is_special(its, i))
            return error_set_param(err, E_INVALID, "draft", "the draft model has another vocabulary: its token %u is \"%.*s\", the model's \"%.*s\"; a draft model has the same tokenizer", i,
                                   a.len < 40 ? (int)a.len : 40, a.data, b.len < 40 ? (int)b.len : 40, b.data);
    }
    if (n != want)
        return error_set_param(err, E_INVALID, "draft", "the draft model has another vocabulary: %u tokens, the model %u; a draft model has the same tokenizer", n, want);
    return 0;
}

/* The same ids must mean the same. Rows of logits beyond them are padding, and may differ in number. */
static int compare_vocabularies(const struct model_dir *mine, const struct model_dir *its, struct error *err) {
    if (!mine->tokenizer != !its->tokenizer)
        return error_set_param(err, E_INVALID, "draft", "%s has no tokenizer, the other has one: a draft model has the same tokenizer", mine->tokenizer ? "the model" : "the draft model");
    if (mine->tokenizer) return compare_tokens(mine->tokenizer, its->tokenizer, err);
    if (mine->config.vocab != its->config.vocab)
        return error_set_param(err, E_INVALID, "draft", "the draft model has another vocabulary: %u tokens, the model %u", mine->config.vocab, its->config.vocab);
    return 0;
}

int draft_model_load(struct draft_model **out, const char *path, const struct model_dir *target, struct error *err) {
    struct draft_model *d = mem_zalloc(sizeof *d);
    if (!d) return error_set(err, E_NOMEM, "no memory for a draft model");
    int r = model_dir_load(&d->dir, path, MODEL_WEIGHTS_MAP, 0, err);
    if (r != 0) error_prefix(err, "draft model %s", path);
    if (r == 0 && (d->dir.config.arch->kind != MODEL_DECODER || d->dir.config.encoder_layers))
        r = error_set_param(err, E_UNSUPPORTED, "draft", "draft model %s: a %s model guesses no tokens; a decoder does", path, d->dir.config.arch->name);
    if (r == 0) r = compare_vocabularies(&d->dir, target, err);
    if (r != 0) {
        draft_model_free(d);
        return r;
    }
    d->fewer = d->dir.config.vocab < target->config.vocab;
    d->vocab = d->fewer ? d->dir.config.vocab : target->config.vocab;
    *out = d;
    return 0;
}

void draft_model_free(struct draft_model *d) {
    if (!d) return;
    forward_free(d->forward);
    kv_cache_fini(&d->kv);
    mem_free(d->filled);
    mem_free(d->logits);
    sampler_scratch_fini(&d->scratch);
    model_dir_fini(&d->dir);
    mem_free(d);
}

size_t draft_model_block_size(const struct draft_model *d, enum kv_type kv_type) {
    struct kv_shape shape;
    forward_kv_shape(&d->dir.config, kv_type, &shape);
    return kv_block_size(&shape);
}

/* As the engine does with its own: what computes no numbers is found now, and the memory is there. */
static int warm_up(struct draft_model *d, struct error *err) {
    uint32_t token = 0, block = 0;
    struct forward_item item = {.tokens = &token, .count = 1, .outputs = 1, .blocks = &block};
    (void)forward_step(d->forward, &d->kv, &item, 1);
    forward_logits(d->forward, 0, 1, d->logits, NULL);
    for (uint32_t i = 0; i < d->vocab; i++)
        if (!isfinite(d->logits[i])) return error_set(err, E_INVALID, "the draft model's output is not a number: its weights are damaged, or too large for their type");
    return 0;
}

int draft_model_start(struct draft_model *d, enum packed_kind kind, enum packed_activations activations, enum kv_type kv_type, uint32_t blocks, uint32_t context, struct pool *pool, struct error *err) {
    const struct model_config *c = &d->dir.config;
    struct kv_shape shape;
    forward_kv_shape(c, kv_type, &shape);
    d->context = c->context < context ? c->context : context;
    if (c->rope_scaling == MODEL_ROPE_LONGROPE && c->rope_original_context < d->context) d->context = c->rope_original_context; /* beyond it all would be computed again */
    d->blocks = blocks;
    int r = kv_cache_init(&d->kv, &shape, blocks, err);
    if (r == 0) r = forward_new(&d->forward, &d->dir.weights, kind, activations, DRAFT_ROWS_MAX, d->context, pool, NULL, err);
    if (r != 0) return r;
    model_weights_fini(&d->dir.weights);
    d->filled = mem_calloc(blocks, 1);
    d->logits = mem_alloc_aligned((size_t)DRAFT_SEQUENCES_MAX * c->vocab * sizeof *d->logits);
    if (!d->filled || !d->logits || sampler_scratch_init(&d->scratch, d->vocab) != 0) return error_set(err, E_NOMEM, "no memory for a draft model");
    return warm_up(d, err);
}

size_t draft_model_memory(const struct draft_model *d) { return forward_weights_size(d->forward) + d->kv.data_size; }

double draft_model_cost(const struct draft_model *d, uint32_t rows) { return draft_cost(&d->costs, rows); }

/* --- what it has computed --- */

void draft_model_forget(struct draft_model *d, const uint32_t *blocks, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) d->filled[blocks[i]] = 0;
}

/* Guesses that came out have been computed already, where the block is still the one that they were written to. */
static void keep_right(struct draft_model *d, const uint32_t *tokens, uint32_t len, const uint32_t *blocks, struct draft_fed *fed) {
    for (uint32_t i = 0; i < fed->count; i++) {
        uint32_t at = fed->from + i, index = at / KV_BLOCK_TOKENS;
        if (at >= len || tokens[at] != fed->tokens[i]) break;
        uint32_t block = blocks[index];
        if (block != fed->blocks[index - fed->from / KV_BLOCK_TOKENS] || d->filled[block] != at % KV_BLOCK_TOKENS) break;
        d->filled[block]++;
    }
    fed->count = 0;
}

/* Tokens of the sequence, from its first on, whose keys are there. Its last one never counts: its output is what is wanted. */
static uint32_t computed(const struct draft_model *d, const uint32_t *blocks, uint32_t len) {
    uint32_t n = 0;
    for (uint32_t i = 0; n < len; i++) {
        n += d->filled[blocks[i]];
        if (d->filled[blocks[i]] < KV_BLOCK_TOKENS) break;
    }
    return n < len ? n : len - 1;
}

/* The step that is about to be made fills them; until then nobody reads, in it the layers' keys are written before they are read. */
static void mark(struct draft_model *d, const uint32_t *blocks, uint32_t from, uint32_t to) {
    for (uint32_t i = from / KV_BLOCK_TOKENS; i * KV_BLOCK_TOKENS < to; i++) {
        uint32_t end = to - i * KV_BLOCK_TOKENS;
        d->filled[blocks[i]] = (uint8_t)(end < KV_BLOCK_TOKENS ? end : KV_BLOCK_TOKENS);
    }
}

uint32_t draft_model_behind(struct draft_model *d, const uint32_t *tokens, uint32_t len, uint32_t want, const uint32_t *blocks, struct draft_fed *fed) {
    keep_right(d, tokens, len, blocks, fed);
    if (len + want > d->context) return 0;
    uint32_t from = computed(d, blocks, len);
    for (uint32_t i = from; i < len; i++)
        if (tokens[i] >= d->vocab) return 0; /* the large model's padding: this one does not know it */
    return len - from;
}

/* --- guessing --- */

static uint32_t draw(struct draft_model *d, const struct draft_wish *w, uint32_t nth, float *logits) {
    struct sampler_params p = *w->sampling;
    uint32_t token;
    p.memory = NULL; /* DRY and mirostat remember what was said: of guesses there is nothing to remember */
    p.dry_multiplier = 0;
    p.mirostat = 0;
    if (d->fewer) p.bias_count = 0; /* either may be about tokens that this one has not */
    return sampler_draw(&p, d->fewer ? NULL : w->counts, w->draw + nth, logits, NULL, &d->scratch, &token) == 0 ? token : TOKEN_NONE;
}

/* One step for those that want an nth guess: first what they lack, then a token each. */
static size_t guess_nth(struct draft_model *d, struct draft_wish *wishes, size_t n, uint32_t nth, uint32_t rows_max) {
    struct forward_item items[DRAFT_SEQUENCES_MAX];
    struct draft_wish *of[DRAFT_SEQUENCES_MAX];
    size_t count = 0, rows = 0, outputs = 0;
    for (size_t i = 0; i < n; i++) {
        struct draft_wish *w = &wishes[i];
        if (w->got != nth || w->want <= nth) continue;
        uint32_t end = w->len + nth, from = nth == 0 ? computed(d, w->blocks, w->len) : end - 1, room = (uint32_t)(rows_max - rows - (n - 1 - i));
        uint32_t now = end - from < room ? end - from : room;
        bool whole = from + now == end;
        items[count++] = (struct forward_item){.tokens = w->tokens + from, .start = from, .count = now, .outputs = whole, .blocks = w->blocks};
        rows += now;
        if (nth == 0) mark(d, w->blocks, from, from + now);
        else {
            uint32_t at = w->fed->count++;
            w->fed->tokens[at] = w->tokens[end - 1];
            w->fed->blocks[(end - 1) / KV_BLOCK_TOKENS - w->fed->from / KV_BLOCK_TOKENS] = w->blocks[(end - 1) / KV_BLOCK_TOKENS];
        }
        if (whole) of[outputs++] = w;
    }
    if (count == 0) return 0;
    (void)forward_step(d->forward, &d->kv, items, count);
    if (outputs > 0) forward_logits(d->forward, 0, outputs, d->logits, NULL);
    for (size_t i = 0; i < outputs; i++) {
        uint32_t token = draw(d, of[i], nth, d->logits + i * d->dir.config.vocab);
        if (token == TOKEN_NONE) continue;
        of[i]->tokens[of[i]->len + nth] = of[i]->guesses[nth] = token;
        of[i]->got++;
    }
    return rows;
}

double draft_model_guess(struct draft_model *d, struct draft_wish *wishes, size_t n, uint32_t rows_max) {
    ASSERT(n <= DRAFT_SEQUENCES_MAX && rows_max >= DRAFT_ROWS_MIN && rows_max <= DRAFT_ROWS_MAX);
    int64_t began = clock_mono_us(), from = began;
    for (size_t i = 0; i < n; i++) {
        wishes[i].got = 0;
        *wishes[i].fed = (struct draft_fed){.from = wishes[i].len};
    }
    for (uint32_t nth = 0; nth < SCHEDULER_DRAFT_MAX; nth++) {
        size_t rows = guess_nth(d, wishes, n, nth, rows_max);
        if (rows == 0) break;
        int64_t now = clock_mono_us();
        draft_costs_add(&d->costs, (uint32_t)rows, (double)(now - from));
        from = now;
    }
    return (double)(from - began);
}
