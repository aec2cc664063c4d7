#include "engine/engine_source.h"

#include "base/alloc.h"

static const uint32_t WARM_BLOCK = 1;

int source_init(struct engine *e, struct error *err) {
    struct source_pass *p = &e->pass;
    if (!e->dir.config.encoder_layers) return 0;
    int r = encoder_new_beside(&e->encoder, &e->dir.weights, e->options.weights, e->context, forward_embeddings(e->forward), e->pool, &e->options.packed, err);
    if (r != 0) return r;
    size_t n = encoder_texts_max(e->encoder);
    p->texts = mem_calloc(n, sizeof *p->texts);
    p->ids = mem_calloc(n, sizeof *p->ids);
    p->admitted = mem_calloc(n, sizeof *p->admitted);
    return p->texts && p->ids && p->admitted ? 0 : error_set(err, E_NOMEM, "no memory for an engine");
}

void source_fini(struct engine *e) {
    encoder_free(e->encoder);
    mem_free(e->pass.texts);
    mem_free(e->pass.ids);
    mem_free(e->pass.admitted);
}

int source_check(const struct engine *e, const struct engine_request *r, struct error *err) {
    const char *name = e->dir.config.arch->name;
    if (!e->encoder && r->target_count > 0)
        return error_set_param(err, E_UNSUPPORTED, "target", "%s models take no target: theirs goes on from the prompt; give both as the prompt", name);
    if (!e->encoder) return 0;
    if (r->echo) return error_set_param(err, E_UNSUPPORTED, "echo", "echo is not possible with %s models: the answer does not continue the prompt, an encoder reads it", name);
    if (r->prompt_logprobs && r->target_count == 0)
        return error_set_param(err, E_UNSUPPORTED, "prompt_logprobs", "%s models give their prompt no log-probabilities: an encoder reads it, and nothing predicts it; give a target (genloop run --target), which has them", name);
    if (r->target_count >= e->context)
        return error_set_param(err, E_RANGE, "target", "the target has %zu tokens; behind the start token the context has room for %u", r->target_count, e->context - 1);
    for (size_t i = 0; i < r->target_count; i++)
        if (r->target[i] >= e->dir.config.vocab) return error_set_param(err, E_INVALID, "target", "token %u of the target is beyond the vocabulary of %u", r->target[i], e->dir.config.vocab);
    return 0;
}

int source_take(struct engine *e, struct request *q, const struct tokens *ids, struct error *err) {
    const struct model_config *c = &e->dir.config;
    size_t n = q->tokens ? q->prompt_len : ids->len;
    uint32_t empty = c->eos_count ? (uint32_t)c->eos_ids[0] : (uint32_t)c->start_id; /* an empty text is its end alone */
    const uint32_t *from = n ? (q->tokens ? q->tokens : ids->ids) : &empty;
    if (n == 0) n = 1;
    if (n > e->context)
        return error_set_param(err, E_RANGE, q->messages || q->chat ? "messages" : "prompt", "the prompt has %zu tokens; the model's encoder takes at most %u", n, e->context);
    for (size_t i = 0; i < n; i++)
        if (from[i] >= c->vocab) return error_set(err, E_INVALID, "the tokenizer gives token %u, the model has %u", from[i], c->vocab);
    size_t targets = q->given.target_count;
    uint32_t *start = mem_calloc(1 + targets, sizeof *start);
    q->source = mem_calloc(n, sizeof *q->source);
    if (!start || !q->source) {
        mem_free(start);
        return error_set(err, E_NOMEM, "no memory for a request");
    }
    memcpy(q->source, from, n * sizeof *from);
    q->source_len = (uint32_t)n;
    *start = (uint32_t)c->start_id;
    if (targets) memcpy(start + 1, q->target, targets * sizeof *start);
    mem_free(q->tokens);
    q->tokens = start;
    q->prompt_len = q->len = 1 + (uint32_t)targets;
    return 0;
}

static uint32_t *source_blocks(const struct engine *e, uint32_t slot, uint32_t count) {
    const struct scheduler_sequence *s = &e->scheduler.slots[slot];
    return s->blocks + s->block_count - kv_blocks_for(count);
}

void source_item(const struct engine *e, uint32_t slot, struct forward_item *item) {
    if (!e->encoder) return;
    item->source_count = e->scheduler.slots[slot].request.source;
    item->source_blocks = source_blocks(e, slot, item->source_count);
}

void source_warm_up(struct engine *e, struct forward_item *item) {
    if (!e->encoder) return;
    uint32_t token = (uint32_t)e->dir.config.start_id;
    struct encoder_text text = {.ids = &token, .count = 1};
    encoder_begin(e->encoder, &text, 1);
    encoder_advance(e->encoder, e->dir.config.encoder_layers);
    for (uint32_t i = 0; i < e->dir.config.layers; i++) forward_source(e->forward, &e->kv, i, encoder_rows(e->encoder, 0), 1, &WARM_BLOCK);
    item->source_blocks = &WARM_BLOCK;
    item->source_count = 1;
}

/* Whether the text of a pass still goes where it was going: its sequence runs, admitted when it was. */
static bool is_wanted(const struct engine *e, uint32_t text, uint32_t *slot) {
    *slot = scheduler_find(&e->scheduler, e->pass.ids[text]);
    return *slot != UINT32_MAX && e->scheduler.slots[*slot].admitted == e->pass.admitted[text];
}

/* Those that have waited longest, as many as others may wait for. */
static void begin(struct engine *e, uint32_t rows_max) {
    struct source_pass *p = &e->pass;
    size_t rows = 0;
    for (uint32_t i = 0; i < e->scheduler.running && p->count < encoder_texts_max(e->encoder); i++) {
        const struct scheduler_sequence *s = &e->scheduler.slots[e->scheduler.by_age[i]];
        if (!s->held) continue;
        const struct request *q = e->slots[e->scheduler.by_age[i]];
        if (p->count > 0 && rows + q->source_len > rows_max) break;
        p->texts[p->count] = (struct encoder_text){.ids = q->source, .count = q->source_len};
        p->ids[p->count] = s->request.id;
        p->admitted[p->count++] = s->admitted;
        rows += q->source_len;
    }
    p->rows = rows;
    p->layer = 0;
    p->encoded = false;
    if (p->count == 0) return;
    encoder_begin(e->encoder, p->texts, p->count);
    for (uint32_t i = 0; i < p->count; i++) p->texts[i].ids = NULL; /* a request may leave before the pass is done */
}

/* Layers of `all` that rows_max rows would go through whole, in as long. */
static uint32_t share(size_t rows_max, size_t rows, uint32_t all) {
    size_t n = rows_max * all / rows;
    return n < 1 ? 1 : n > all ? all : (uint32_t)n;
}

bool source_work(struct engine *e) {
    struct source_pass *p = &e->pass;
    const struct scheduler *s = &e->scheduler;
    uint32_t held = 0, layers = e->dir.config.layers, slot, rows_max = e->encoder ? encoder_pass_rows(e->encoder) : 0;
    if (!e->encoder) return false;
    for (uint32_t i = 0; i < s->running; i++) held += s->slots[s->by_age[i]].held;
    if (rows_max > e->context) rows_max = e->context;
    if (p->count > 0) { /* whoever is gone or gave way needs it no longer */
        uint32_t wanted = 0;
        for (uint32_t i = 0; i < p->count; i++) wanted += is_wanted(e, i, &slot);
        if (wanted == 0) p->count = 0;
    }
    if (p->count == 0) begin(e, rows_max);
    if (p->count == 0) return false;
    if (held < s->running && rows_max > e->options.step_rows_mixed) rows_max = e->options.step_rows_mixed; /* others stream */
    if (!p->encoded) {
        p->encoded = encoder_advance(e->encoder, share(rows_max, p->rows, e->dir.config.encoder_layers));
        return true;
    }
    uint32_t to = p->layer + share(rows_max, p->rows, layers);
    if (to > layers) to = layers;
    for (uint32_t i = 0; i < p->count; i++) {
        if (!is_wanted(e, i, &slot)) continue;
        uint32_t count = (uint32_t)p->texts[i].count;
        for (uint32_t layer = p->layer; layer < to; layer++)
            forward_source(e->forward, &e->kv, layer, encoder_rows(e->encoder, i), count, source_blocks(e, slot, count));
        if (to < layers) continue;
        scheduler_release(&e->scheduler, slot);
        e->source_tokens += count;
    }
    p->layer = to;
    if (to == layers) p->count = 0;
    return true;
}
