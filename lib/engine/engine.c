/* The engine's life, and a request's way to its thread: checked and copied by the submitter, made tokens by the intake thread. */
#include "engine/engine.h"

#include <math.h>

#include "base/alloc.h"
#include "base/random.h"
#include "engine/engine_internal.h"
#include "engine/engine_source.h"
#include "tensor/kernels.h"
#include "tensor/quant.h"

enum { KV_BYTES_DEFAULT_MAX = 1 << 30, STEP_ROWS_DEFAULT = 256, STEP_ROWS_MIXED_DEFAULT = 64, PROMPT_BYTES_MAX = 16 << 20, WARM_ROWS = 8 };

void engine_request_init(struct engine_request *r) {
    *r = (struct engine_request){.tokens_max = -1, .credit = SCHEDULER_CREDIT_UNLIMITED};
    sampler_params_default(&r->sampling);
}

const char *engine_finish_name(enum engine_finish f) {
    static const char *const names[] = {"", "stop", "length", "cancelled", "deadline", "error"};
    return names[f];
}

void engine_set_threads(struct engine *e, int threads) { pool_set_active(e->pool, threads); }
const struct model_config *engine_model(const struct engine *e) { return &e->dir.config; }
const struct tokenizer *engine_tokenizer(const struct engine *e) { return e->dir.tokenizer; }
const struct model_generation *engine_generation(const struct engine *e) { return &e->dir.generation; }
bool engine_has_chat(const struct engine *e) { return e->chat_template != NULL; }
const struct chat_template *engine_chat_template(const struct engine *e) { return e->chat_template; }
uint32_t engine_context(const struct engine *e) { return e->context; }
void engine_get_weights(const struct engine *e, struct engine_weights *w) {
    *w = (struct engine_weights){.size = forward_read_size(e->forward), .kind = forward_weights_kind(e->forward), .in_12_bits = forward_weights_short(e->forward)};
    forward_multiply_adds(e->forward, &w->multiply_adds, &w->multiply_adds_logits);
}
enum packed_kind engine_adapter_kind(const struct engine *e) { return forward_adapter_kind(e->forward); }
size_t engine_adapter_parameters(const struct engine *e) { return e->adapter ? e->adapter->parameters : 0; }
size_t engine_memory(const struct engine *e) {
    return forward_weights_size(e->forward) + e->kv.data_size + (e->adapter ? e->adapter->size : 0) + (e->encoder ? encoder_memory(e->encoder) : 0) +
           (e->draft ? draft_model_memory(e->draft) : 0);
}

/* --- a request's memory --- */

void request_free(struct request *q) {
    if (!q) return;
    mem_free(q->prompt);
    mem_free(q->chat);
    for (size_t i = 0; q->message_texts && i < 2 * q->given.message_count; i++) mem_free(q->message_texts[i]);
    mem_free(q->message_texts);
    mem_free(q->messages);
    mem_free(q->bias);
    mem_free(q->stop_tokens);
    mem_free(q->constraint);
    mem_free(q->ends);
    grammar_matcher_free(q->grammar);
    mem_free(q->breakers);
    mem_free(q->runs);
    mem_free(q->tokens);
    mem_free(q->source);
    mem_free(q->target);
    sampler_counts_fini(&q->counts);
    stop_fini(&q->stop);
    buf_fini(&q->text);
    buf_fini(&q->raw);
    detokenizer_fini(&q->detokenizer);
    mem_free(q->prompt_logprobs);
    mem_free(q->prompt_argmax);
    mem_free(q->prompt_tops);
    mem_free(q->top_logits);
    mem_free(q);
}

static int copy_array(void *out, const void *from, size_t count, size_t size) {
    void *copy = mem_calloc(count ? count : 1, size);
    if (!copy) return E_NOMEM;
    if (count) memcpy(copy, from, count * size);
    *(void **)out = copy;
    return 0;
}

static int copy_messages(struct request *q, const struct engine_request *r) {
    q->messages = mem_calloc(r->message_count, sizeof *q->messages);
    q->message_texts = mem_calloc(2 * r->message_count, sizeof *q->message_texts);
    if (!q->messages || !q->message_texts) return E_NOMEM;
    for (size_t i = 0; i < r->message_count; i++) {
        char *role = q->message_texts[2 * i] = span_dup(r->messages[i].role);
        char *content = q->message_texts[2 * i + 1] = span_dup(r->messages[i].content);
        if (!role || !content) return E_NOMEM;
        q->messages[i] = (struct chat_message){span_of(role, r->messages[i].role.len), span_of(content, r->messages[i].content.len)};
    }
    return 0;
}

static int check(const struct engine *e, const struct engine_request *r, struct error *err) {
    uint32_t vocab = e->dir.config.vocab;
    if (r->adapter && (r->adapter->layers != e->dir.config.layers || (packed_kind_is_blocks(r->adapter->kind) && !packed_kind_is_blocks(engine_adapter_kind(e)))))
        return error_set_param(err, E_INVALID, "model", "the adapter is of another model");
    int r0 = sampler_params_check(&r->sampling, vocab, err);
    if (r0 == 0) r0 = source_check(e, r, err);
    if (r0 != 0) return r0;
    if (r->tokens_max > ENGINE_TOKENS_MAX || r->tokens_max < -1)
        return error_set_param(err, E_INVALID, "max_tokens", "max_tokens must be 0 to %d", ENGINE_TOKENS_MAX);
    if (r->top_logprobs > SAMPLER_TOP_LOGPROBS_MAX || r->top_logprobs > vocab)
        return error_set_param(err, E_INVALID, "top_logprobs", "top_logprobs must be 0 to %d", SAMPLER_TOP_LOGPROBS_MAX);
    if (r->top_logits > ENGINE_TOP_LOGITS_MAX)
        return error_set_param(err, E_INVALID, "top_logits", "top_logits must be 0 to %d", ENGINE_TOP_LOGITS_MAX);
    if (r->stop_token_count > ENGINE_STOP_TOKENS_MAX)
        return error_set_param(err, E_INVALID, "stop_tokens", "at most %d stop tokens are taken", ENGINE_STOP_TOKENS_MAX);
    for (size_t i = 0; i < r->token_count; i++)
        if (r->tokens[i] >= vocab)
            return error_set_param(err, E_INVALID, "prompt_tokens", "token %u is beyond the vocabulary of %u", r->tokens[i], vocab);
    if (r->token_count > e->context)
        return error_set_param(err, E_RANGE, "prompt_tokens", "%zu prompt tokens do not fit the context of %u", r->token_count, e->context);
    if (r->message_count > CHAT_MESSAGES_MAX)
        return error_set_param(err, E_INVALID, "messages", "%zu messages, at most %d are taken", r->message_count, CHAT_MESSAGES_MAX);
    size_t bytes = r->prompt.len + r->chat.len;
    for (size_t i = 0; i < r->message_count; i++) bytes += r->messages[i].role.len + r->messages[i].content.len;
    if (bytes > PROMPT_BYTES_MAX) return error_set_param(err, E_TOO_LARGE, "prompt", "a prompt of %zu bytes is above %d", bytes, PROMPT_BYTES_MAX);
    if (!r->tokens && !e->dir.tokenizer)
        return error_set_param(err, E_UNSUPPORTED, "prompt", "the model has no tokenizer: give the prompt's tokens");
    if (r->stop_count > 0 && !e->dir.tokenizer) return error_set_param(err, E_UNSUPPORTED, "stop", "the model has no tokenizer: stop strings need one");
    if (r->constraint != GRAMMAR_NONE && !e->dir.tokenizer)
        return error_set_param(err, E_UNSUPPORTED, r->constraint_param ? r->constraint_param : "response_format", "the model has no tokenizer: a constraint needs one");
    return 0;
}

/* Who may share keys and values: the scope, and those computed with the same numbers. What comes from the two is told apart, so that no scope can be named like another's with an
 * adapter. */
static void digest_scope(struct span scope, const struct model_adapter *adapter, uint8_t out[SHA256_SIZE]) {
    struct sha256 h;
    uint8_t adapted = adapter != NULL;
    sha256_init(&h);
    sha256_update(&h, &adapted, 1);
    if (adapter) sha256_update(&h, adapter->digest, sizeof adapter->digest);
    sha256_update(&h, scope.data, scope.len);
    sha256_final(&h, out);
}

static bool has_breaker(struct span text, const struct span *breakers, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (span_find(text, breakers[i]) >= 0) return true;
    return false;
}

/* The tokens that end what DRY compares. */
static int make_breakers(const struct engine *e, struct request *q, const struct engine_request *r) {
    static const struct span usual[] = {{"\n", 1}, {":", 1}, {"\"", 1}, {"*", 1}};
    const struct span *breakers = r->dry_breakers ? r->dry_breakers : usual;
    size_t n = r->dry_breakers ? r->dry_breaker_count : 4;
    uint32_t vocab = e->dir.config.vocab;
    if (!(q->breakers = mem_calloc(vocab / 64 + 1, sizeof *q->breakers))) return E_NOMEM;
    for (uint32_t t = 0; e->dir.tokenizer && t < vocab && t < tokenizer_vocab_size(e->dir.tokenizer); t++)
        if (has_breaker(tokenizer_token_bytes(e->dir.tokenizer, t), breakers, n)) q->breakers[t / 64] |= 1ull << (t % 64);
    return 0;
}

static int copy_request(const struct engine *e, const struct engine_request *r, struct request **out, struct error *err) {
    struct request *q = mem_zalloc(sizeof *q);
    if (!q) return error_set(err, E_NOMEM, "no memory for a request");
    q->given = *r;
    q->given.tokens = q->given.target = NULL;
    q->given.prompt = q->given.chat = (struct span){0};
    q->given.messages = NULL;
    q->given.stop = NULL;
    q->given.stop_tokens = NULL;
    q->given.sampling.bias = NULL;
    q->given.constraint_text = (struct span){0};
    q->given.dry_breakers = NULL;
    q->memory.mu = 2 * r->sampling.mirostat_tau;
    q->given.sampling.memory = &q->memory;
    q->given.scope = (struct span){0};
    if (!q->given.adapter) q->given.adapter = e->adapter;
    digest_scope(r->scope, q->given.adapter, q->scope);
    buf_init(&q->text, 64 << 20); /* an echoed prompt at most; a token's text is far below */
    buf_init(&q->raw, 64 << 20);
    int result = stop_init(&q->stop, r->stop, r->stop_count, err);
    if (result != 0) goto out;
    result = E_NOMEM;
    if (r->tokens && copy_array(&q->tokens, r->tokens, r->token_count, sizeof *r->tokens) != 0) goto out;
    if (r->target_count > 0 && copy_array(&q->target, r->target, r->target_count, sizeof *r->target) != 0) goto out;
    if (r->message_count > 0 && !r->tokens && copy_messages(q, r) != 0) goto out;
    if (!r->tokens && r->chat.data && !(q->chat = span_dup(r->chat))) goto out;
    if (!r->tokens && !r->chat.data && r->message_count == 0 && !(q->prompt = span_dup(r->prompt))) goto out;
    if (r->constraint != GRAMMAR_NONE && !(q->constraint = span_dup(r->constraint_text))) goto out;
    q->given.constraint_text = span_of(q->constraint, r->constraint_text.len);
    if (r->sampling.dry_multiplier != 0 && make_breakers(e, q, r) != 0) goto out;
    if (copy_array(&q->bias, r->sampling.bias, r->sampling.bias_count, sizeof *q->bias) != 0) goto out;
    if (copy_array(&q->stop_tokens, r->stop_tokens, r->stop_token_count, sizeof *q->stop_tokens) != 0) goto out;
    if (r->prompt_logprobs) {
        q->prompt_logprobs = mem_calloc(e->options.step_rows, sizeof *q->prompt_logprobs);
        q->prompt_argmax = mem_calloc(e->options.step_rows, sizeof *q->prompt_argmax);
        if (r->top_logprobs > 0) q->prompt_tops = mem_calloc(e->options.step_rows, sizeof *q->prompt_tops);
        if (!q->prompt_logprobs || !q->prompt_argmax || (r->top_logprobs > 0 && !q->prompt_tops)) goto out;
    }
    if (r->top_logits > 0) {
        uint32_t k = r->top_logits < e->dir.config.vocab ? r->top_logits : e->dir.config.vocab;
        if (!(q->top_logits = mem_calloc(k, sizeof *q->top_logits))) goto out;
        q->given.top_logits = k;
    }
    q->given.sampling.bias = q->bias;
    q->given.stop_tokens = q->stop_tokens;
    q->given.messages = q->messages;
    q->given.prompt = span_of(q->prompt, q->prompt ? r->prompt.len : 0);
    q->given.chat = span_of(q->chat, q->chat ? r->chat.len : 0);
    q->prompt_len = (uint32_t)r->token_count;
    draft_record_init(&q->draft);
    draft_record_init(&q->by_model);
    if (!r->seed_set) random_bytes(&q->given.sampling.seed, sizeof q->given.sampling.seed);
    q->counts_needed = r->sampling.repetition_penalty != 1 || r->sampling.frequency_penalty != 0 || r->sampling.presence_penalty != 0;
    *out = q;
    return 0;
out:
    request_free(q);
    return result == E_NOMEM ? error_set(err, E_NOMEM, "no memory for a request") : result;
}

int engine_submit(struct engine *e, const struct engine_request *r, void *arg, void (*on_event)(void *arg, const struct engine_event *event), uint64_t *id,
                  struct error *err) {
    struct request *q = NULL;
    int result = check(e, r, err);
    if (result == 0) result = copy_request(e, r, &q, err);
    if (result != 0) return result;
    q->arg = arg;
    q->on_event = on_event;
    pthread_mutex_lock(&e->lock);
    uint32_t waiting = e->live_count - e->running;
    if (e->stopping) result = error_set(err, E_STATE, "the engine is stopping");
    else if (waiting >= e->options.queue_max || e->live_count == e->live_max)
        result = error_set(err, E_FULL, "%u requests are waiting already; try again later", waiting);
    else {
        q->id = ++e->next_id;
        if (id) *id = q->id;
        e->live[e->live_count++] = q;
        e->stats.requests++;
        *e->intake_last = q;
        e->intake_last = &q->next;
        pthread_cond_signal(&e->intake_wake);
        q = NULL;
    }
    pthread_mutex_unlock(&e->lock);
    request_free(q);
    return result;
}

static struct request *find_live(struct engine *e, uint64_t id) {
    for (uint32_t i = 0; i < e->live_count; i++)
        if (e->live[i]->id == id) return e->live[i];
    return NULL;
}

void engine_cancel(struct engine *e, uint64_t id) {
    pthread_mutex_lock(&e->lock);
    struct request *q = find_live(e, id);
    if (q) {
        q->cancelled = true;
        if (q->in_chunk) atomic_store(&e->give_up, true);
        e->wishes = true;
        pthread_cond_signal(&e->step_wake);
    }
    pthread_mutex_unlock(&e->lock);
}

void engine_grant(struct engine *e, uint64_t id, uint32_t tokens) {
    pthread_mutex_lock(&e->lock);
    struct request *q = find_live(e, id);
    if (q) {
        q->granted += tokens;
        e->wishes = true;
        pthread_cond_signal(&e->step_wake);
    }
    pthread_mutex_unlock(&e->lock);
}

void engine_get_stats(struct engine *e, struct engine_stats *s) {
    pthread_mutex_lock(&e->lock);
    *s = e->stats;
    s->running = e->running;
    s->queued = e->live_count - e->running;
    pthread_mutex_unlock(&e->lock);
}

/* --- intake --- */

static int make_chat(struct engine *e, struct request *q, struct tokens *ids, struct error *err) {
    if (!e->chat_template) {
        bool none = !e->dir.chat_template;
        if (none) return error_set_param(err, E_UNSUPPORTED, "messages", "the model has no chat template: use completions");
        return error_set_param(err, E_UNSUPPORTED, "messages", "the model's chat template cannot be used: %s", e->chat_error.message);
    }
    if (!q->chat) return chat_template_prompt_plain(e->chat_template, e->dir.tokenizer, q->messages, q->given.message_count, !q->given.no_special, ids, &q->in_reasoning, err);
    struct json *root = NULL;
    int r = json_parse(q->given.chat, &root, err);
    struct chat chat = {.messages = json_get(root, "messages"), .tools = json_get(root, "tools"), .kwargs = json_get(root, "chat_template_kwargs"), .add_generation_prompt = !q->given.no_special};
    if (!r) r = chat_template_prompt(e->chat_template, e->dir.tokenizer, &chat, ids, &q->in_reasoning, err);
    json_free(root);
    if (r == E_INVALID && err && !err->param[0]) span_copy(err->param, sizeof err->param, SPAN("messages"));
    return r;
}

static struct span token_text(void *arg, uint32_t id) {
    const struct tokenizer *t = arg;
    return id >= tokenizer_vocab_size(t) || tokenizer_is_special(t, id) ? SPAN("") : tokenizer_token_bytes(t, id);
}

/* What the answer must be, compiled, and the tokens that may end it. */
static int make_grammar(struct engine *e, struct request *q, struct error *err) {
    const char *param = q->given.constraint_param ? q->given.constraint_param : "response_format";
    const struct model_config *c = &e->dir.config;
    struct grammar *g = NULL;
    int r = 0;
    if (!e->vocab) r = grammar_vocab_new(&e->vocab, c->vocab, e->dir.tokenizer, token_text, err);
    if (r == 0) r = grammar_compile(e->vocab, q->given.constraint, q->given.constraint_text, &g, err);
    if (r == E_UNSUPPORTED || r == E_TOO_LARGE) r = E_INVALID; /* of the parameter, not of what we are */
    if (r == E_INVALID) {
        struct error said = *err;
        return error_set_param(err, r, param, "'%s': %s", param, said.message);
    }
    if (r == 0) r = grammar_matcher_new(g, q->tokens_max, &q->grammar);
    grammar_unref(g);
    if (r == 0 && !(q->ends = mem_calloc(q->given.stop_token_count + c->eos_count + 2, sizeof *q->ends))) r = E_NOMEM;
    if (r != 0) return error_set(err, r, "no memory for a request");
    for (size_t i = 0; i < q->given.stop_token_count; i++) q->ends[q->end_count++] = q->stop_tokens[i];
    if (q->given.ignore_eos) return 0;
    for (uint32_t i = 0; i < c->eos_count; i++) q->ends[q->end_count++] = (uint32_t)c->eos_ids[i];
    if (q->chat_stop) q->ends[q->end_count++] = e->im_end;
    if (c->eos_count == 0 && tokenizer_eos(e->dir.tokenizer) != TOKEN_NONE) q->ends[q->end_count++] = tokenizer_eos(e->dir.tokenizer);
    return 0;
}

/* The prompt's ids, and room for the whole answer: the token path allocates nothing. */
static int make_tokens(struct engine *e, struct request *q, struct error *err) {
    struct tokens ids = {0};
    int r = 0;
    if (!q->tokens) {
        if (q->messages || q->chat) {
            r = make_chat(e, q, &ids, err);
            q->chat_stop = e->im_end != TOKEN_NONE && e->dir.chat_template && strstr(e->dir.chat_template, TOKENIZER_IM_END);
        } else r = tokenizer_encode(e->dir.tokenizer, q->given.prompt, q->given.no_special ? 0 : TOKENIZER_ADD_SPECIAL, &ids, err);
    }
    if (r != 0) goto out;
    if (q->given.tokens_only) {
        if (!q->tokens) {
            q->tokens = ids.ids;
            q->prompt_len = q->len = (uint32_t)ids.len;
            ids.ids = NULL;
        }
        goto out;
    }
    if (e->encoder && (r = source_take(e, q, &ids, err)) != 0) goto out;
    size_t n = q->tokens ? q->prompt_len : ids.len;
    uint32_t start = TOKEN_NONE; /* an empty text begins where documents begin */
    if (n == 0 && e->dir.tokenizer) {
        start = tokenizer_bos(e->dir.tokenizer);
        if (start == TOKEN_NONE) start = tokenizer_eos(e->dir.tokenizer);
    }
    if (n == 0 && start == TOKEN_NONE) {
        r = error_set_param(err, E_INVALID, "prompt", "the prompt is empty, and the model has no token to begin with");
        goto out;
    }
    if (n == 0) n = 1;
    if (n > e->context || (n == e->context && q->given.tokens_max != 0)) {
        r = error_set_param(err, E_RANGE, q->messages || q->chat ? "messages" : "prompt", "the prompt has %zu tokens; the context has room for %u", n, e->context);
        goto out;
    }
    uint32_t room = e->context - (uint32_t)n;
    q->tokens_max = q->given.tokens_max < 0 || q->given.tokens_max > room ? room : (uint32_t)q->given.tokens_max;
    uint32_t *all = mem_calloc(n + q->tokens_max, sizeof *all);
    if (!all) {
        r = error_set(err, E_NOMEM, "no memory for a request");
        goto out;
    }
    if (start != TOKEN_NONE) all[0] = start;
    else memcpy(all, q->tokens ? q->tokens : ids.ids, n * sizeof *all);
    mem_free(q->tokens);
    q->tokens = all;
    q->prompt_len = q->len = (uint32_t)n;
    for (size_t i = 0; i < n && r == 0; i++)
        if (all[i] >= e->dir.config.vocab) r = error_set(err, E_INVALID, "the tokenizer gives token %u, the model has %u", all[i], e->dir.config.vocab);
    if (r == 0 && q->counts_needed && (r = sampler_counts_prompt(&q->counts, all, n)) != 0) error_set(err, r, "no memory for a request");
    if (r == 0 && q->breakers) {
        if (!(q->runs = mem_calloc(n + q->tokens_max, sizeof *q->runs))) r = error_set(err, E_NOMEM, "no memory for a request");
        q->memory.tokens = q->tokens;
        q->memory.prompt = q->prompt_len;
        q->memory.breakers = q->breakers;
        q->memory.runs = q->runs;
    }
    if (r == 0 && q->given.constraint != GRAMMAR_NONE && q->tokens_max > 0) r = make_grammar(e, q, err);
    if (e->dir.tokenizer) detokenizer_init(&q->detokenizer, e->dir.tokenizer, !q->given.keep_special);
out:
    tokens_fini(&ids);
    return r;
}

void *engine_intake_main(void *arg) {
    struct engine *e = arg;
    pthread_mutex_lock(&e->lock);
    for (;;) {
        while (!e->intake_first && !e->stopping) pthread_cond_wait(&e->intake_wake, &e->lock);
        struct request *q = e->intake_first;
        if (!q) break; /* stopping: what came before is in the inbox, and the engine's thread ends it */
        e->intake_first = q->next;
        if (!e->intake_first) e->intake_last = &e->intake_first;
        q->next = NULL;
        bool wanted = !q->cancelled && !e->stopping;
        pthread_mutex_unlock(&e->lock);
        if (wanted) make_tokens(e, q, &q->failed);
        pthread_mutex_lock(&e->lock);
        *e->inbox_last = q;
        e->inbox_last = &q->next;
        if (wanted && q->failed.code == 0 && q->given.priority >= 0) atomic_store(&e->arrived, true); /* below 0 is who can wait: jobs */
        pthread_cond_signal(&e->step_wake);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

/* --- life --- */

static int make_tables(struct engine *e, struct error *err) {
    const struct model_config *c = &e->dir.config;
    struct engine_options *o = &e->options;
    struct kv_shape shape;
    forward_kv_shape(c, o->kv_type, &shape);
    size_t block = kv_block_size(&shape), want;
    size_t parts = c->encoder_layers ? 2 : 1; /* of a sequence: its source, as long as what is written may be */
    if (e->draft && !size_add(block, draft_model_block_size(e->draft, o->kv_type), &block)) return error_set(err, E_RANGE, "a KV block does not fit the address space");
    e->context = o->context > 0 && o->context < c->context ? o->context : c->context;
    if (!size_mul((size_t)kv_blocks_for(e->context) * parts * o->sequences_max, block, &want)) want = SIZE_MAX;
    if (o->kv_bytes == 0) o->kv_bytes = want < KV_BYTES_DEFAULT_MAX ? want : KV_BYTES_DEFAULT_MAX;
    size_t blocks = o->kv_bytes / block;
    if (blocks > KV_BLOCKS_MAX) blocks = KV_BLOCKS_MAX;
    if (blocks < parts) return error_set(err, E_RANGE, "a KV cache of %zu bytes holds no block of %zu", o->kv_bytes, block * parts);
    if (blocks / parts * KV_BLOCK_TOKENS < e->context) e->context = (uint32_t)(blocks / parts * KV_BLOCK_TOKENS);

    struct scheduler_config config = {.sequences_max = o->sequences_max, .queue_max = o->queue_max + o->sequences_max, .step_rows = o->step_rows,
                                      .step_rows_mixed = o->step_rows_mixed, .blocks = (uint32_t)blocks, .context = e->context,
                                      .source_max = c->encoder_layers ? e->context : 0};
    random_bytes(&config.seed, sizeof config.seed);
    int r = scheduler_init(&e->scheduler, &config, err);
    if (r == 0) r = kv_cache_init(&e->kv, &shape, (uint32_t)blocks, err);
    if (r == 0) r = forward_new(&e->forward, &e->dir.weights, o->weights, o->activations, o->step_rows, e->context, e->pool, &o->packed, err);
    if (r == 0) {
        e->scheduler.config.read_apart = forward_reads_apart(e->forward);
        e->scheduler.config.tile_rows = e->scheduler.config.read_apart ? QUANT_SIDE : (uint32_t)packed_unit_rows(forward_weights_kind(e->forward)) / packed_terms(o->activations);
    }
    if (r == 0) r = source_init(e, err);
    o->packed = (struct packed_cache){.dir = NULL}; /* it was borrowed */
    if (r == 0 && e->draft && (r = draft_model_start(e->draft, o->weights, o->activations, o->kv_type, (uint32_t)blocks, e->context, e->pool, err)) != 0) error_prefix(err, "draft model");
    if (r != 0) return r;
    model_weights_fini(&e->dir.weights); /* packed: the file's pages go */
    if (o->adapter && (r = model_adapter_load(&e->adapter, o->adapter, c, forward_adapter_kind(e->forward), err)) != 0) return r;
    o->adapter = NULL; /* the caller's */

    int threads = pool_threads(e->pool);
    e->live_max = o->queue_max + o->sequences_max;
    e->live = mem_calloc(e->live_max, sizeof *e->live);
    e->gone = mem_calloc(e->live_max, sizeof *e->gone);
    e->queued = mem_calloc(e->live_max, sizeof *e->queued);
    e->slots = mem_calloc(o->sequences_max, sizeof *e->slots);
    e->items = mem_calloc(o->sequences_max, sizeof *e->items);
    e->outputs = mem_calloc(o->step_rows, sizeof *e->outputs);
    e->logits = mem_alloc_aligned((size_t)ENGINE_LOGITS_ROWS * c->vocab * sizeof *e->logits);
    e->maxima = mem_calloc(ENGINE_LOGITS_ROWS * kernels_maxima_count(c->vocab), sizeof *e->maxima);
    e->scratch = mem_calloc((size_t)threads, sizeof *e->scratch);
    if (!e->live || !e->gone || !e->queued || !e->slots || !e->items || !e->outputs || !e->logits || !e->maxima || !e->scratch)
        return error_set(err, E_NOMEM, "no memory for an engine");
    for (int i = 0; i < threads; i++)
        if (sampler_scratch_init(&e->scratch[i], c->vocab) != 0) return error_set(err, E_NOMEM, "no memory for an engine");
    e->stats.kv_blocks_free = e->stats.kv_blocks_total = (uint32_t)blocks;
    return 0;
}

/* One small step before anything is asked of it: the first request meets memory that is there, and a model that computes no numbers is found now. What it leaves in the first
 * block is written over by whoever gets that. */
static int warm_up(struct engine *e, struct error *err) {
    uint32_t tokens[WARM_ROWS] = {0}, block = 0, rows = e->options.step_rows < WARM_ROWS ? e->options.step_rows : WARM_ROWS;
    if (rows > e->context) rows = e->context;
    struct forward_item item = {.tokens = tokens, .count = rows, .read = true, .outputs = 1, .blocks = &block, .adapter = e->adapter};
    source_warm_up(e, &item);
    if (!forward_step(e->forward, &e->kv, &item, 1)) return error_set(err, E_INTERNAL, "the first step was given up");
    forward_logits(e->forward, 0, 1, e->logits, NULL);
    for (uint32_t i = 0; i < e->dir.config.vocab; i++)
        if (!isfinite(e->logits[i])) return error_set(err, E_INVALID, "the model's output is not a number: its weights are damaged, or too large for their type");
    return 0;
}

int engine_new_from(struct engine **out, struct model_dir *dir, const struct engine_options *options, struct error *err) {
    struct engine *e = mem_zalloc(sizeof *e);
    if (!e) {
        model_dir_fini(dir);
        return error_set(err, E_NOMEM, "no memory for an engine");
    }
    e->dir = *dir;
    *dir = (struct model_dir){0};
    e->options = *options;
    struct engine_options *o = &e->options;
    if (o->sequences_max == 0) o->sequences_max = ENGINE_SEQUENCES_DEFAULT;
    if (o->sequences_max > SCHEDULER_SEQUENCES_MAX) o->sequences_max = SCHEDULER_SEQUENCES_MAX;
    if (o->queue_max == 0) o->queue_max = ENGINE_QUEUE_DEFAULT;
    if (o->queue_max < ENGINE_QUEUE_MIN) o->queue_max = ENGINE_QUEUE_MIN;
    if (o->queue_max > SCHEDULER_QUEUE_MAX / 2) o->queue_max = SCHEDULER_QUEUE_MAX / 2;
    if (o->step_rows == 0) o->step_rows = STEP_ROWS_DEFAULT;
    if (o->step_rows < o->sequences_max) o->step_rows = o->sequences_max;
    if (o->step_rows > FORWARD_ROWS_MAX) o->step_rows = FORWARD_ROWS_MAX;
    if (o->step_rows_mixed == 0) o->step_rows_mixed = STEP_ROWS_MIXED_DEFAULT;
    if (o->draft_tokens == 0 || o->draft_tokens > SCHEDULER_DRAFT_MAX) o->draft_tokens = SCHEDULER_DRAFT_MAX;
    draft_budget_init(&e->budget);
    pthread_mutex_init(&e->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&e->intake_wake, NULL);
    pthread_cond_init(&e->step_wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    e->intake_last = &e->intake_first;
    e->inbox_last = &e->inbox_first;
    e->im_end = e->dir.tokenizer ? tokenizer_find(e->dir.tokenizer, SPAN(TOKENIZER_IM_END)) : TOKEN_NONE;

    if (e->dir.chat_template && e->dir.tokenizer) (void)chat_template_new(e->dir.chat_template, e->dir.tokenizer, &e->chat_template, &e->chat_error); /* without it there are completions */

    int r = 0;
    e->pool = pool_new(o->threads);
    if (!e->pool) r = error_set(err, E_NOMEM, "no threads for an engine");
    if (r == 0 && o->draft && e->dir.config.encoder_layers)
        r = error_set_param(err, E_UNSUPPORTED, "draft", "an encoder-decoder takes no draft model: it would have to read the source too");
    if (r == 0 && o->draft) r = draft_model_load(&e->draft, o->draft, &e->dir, err);
    o->draft = NULL; /* the caller's */
    if (r == 0) r = make_tables(e, err);
    if (r == 0) r = warm_up(e, err);
    if (r == 0 && pthread_create(&e->intake_thread, NULL, engine_intake_main, e) == 0) {
        e->threads_started = 1;
        if (pthread_create(&e->step_thread, NULL, engine_step_main, e) == 0) e->threads_started = 2;
    }
    if (r == 0 && e->threads_started < 2) r = error_set(err, E_NOMEM, "no threads for an engine");
    if (r != 0) {
        engine_free(e);
        return r;
    }
    *out = e;
    return 0;
}

int engine_new(struct engine **out, const char *model_dir, const struct engine_options *options, struct error *err) {
    struct model_dir dir;
    struct engine_options o = *options;
    char identity[SHA256_HEX_MAX];
    /* before it is read: a model that is replaced meanwhile has no copy under the new one's name */
    if (o.packed.dir && !o.packed.identity && packed_cache_identity(model_dir, identity, NULL) == 0) o.packed.identity = identity;
    int r = model_dir_load(&dir, model_dir, MODEL_WEIGHTS_MAP, 0, err);
    return r != 0 ? r : engine_new_from(out, &dir, &o, err);
}

void engine_free(struct engine *e) {
    if (!e) return;
    pthread_mutex_lock(&e->lock);
    e->stopping = true;
    atomic_store(&e->give_up, true);
    pthread_cond_broadcast(&e->intake_wake);
    pthread_cond_broadcast(&e->step_wake);
    pthread_mutex_unlock(&e->lock);
    /* The intake thread hands all that it had to the engine's thread, which ends every request before it ends itself. */
    if (e->threads_started > 0) pthread_join(e->intake_thread, NULL);
    if (e->threads_started > 1) pthread_join(e->step_thread, NULL);
    ASSERT(e->live_count == 0);
    for (int i = 0; e->scratch && i < pool_threads(e->pool); i++) sampler_scratch_fini(&e->scratch[i]);
    mem_free(e->scratch);
    mem_free(e->live);
    mem_free(e->gone);
    mem_free(e->queued);
    mem_free(e->slots);
    mem_free(e->items);
    mem_free(e->outputs);
    mem_free(e->logits);
    mem_free(e->maxima);
    source_fini(e);
    forward_free(e->forward);
    model_adapter_free(e->adapter);
    draft_model_free(e->draft);
    scheduler_fini(&e->scheduler);
    kv_cache_fini(&e->kv);
    pool_free(e->pool);
    chat_template_free(e->chat_template);
    grammar_vocab_free(e->vocab);
    model_dir_fini(&e->dir);
    pthread_cond_destroy(&e->intake_wake);
    pthread_cond_destroy(&e->step_wake);
    pthread_mutex_destroy(&e->lock);
    mem_free(e);
}
