/*
 * Calls. The engine's thread adds what it has to say to the call (under the call's lock) and to the list of dirty calls; one wake of the loop then
 * tells all of them: what a call has gathered since goes out as one item.
 *
 * Credit. The bus counts items, the engine tokens. The engine is granted as many tokens as the client has credit for items that are not yet spoken for; an item
 * carries one token or more (piece_tokens where the caller wants them together), so what is granted can always be sent, and a reader who stops reading stops his own sequence and nothing else.
 *
 * A call has two ends: the reply (ours to end, also after on_cancel) and the engine's last event. It is freed when both are over.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "inference.h"
#include "request.h"
#include "wire/unpack.h"

enum {
    TEXT_MAX = 8 << 20,       /* of one item: half of what the bus carries */
    GATHERED_MAX = 65536,     /* tokens of one item */
    PIECE_MAX = 1024,         /* tokens that are waited for; times the most credit (1 << 20) it fits 32 bits */
    ARENA_MAX = 64 << 20,     /* 65,536 tokens with 20 alternatives each do not fit: E_TOO_LARGE */
    TOKENIZED_MAX = 1 << 21,  /* tokens of a text; six megabytes of varints, where the bus carries sixteen */
    DETOKENIZED_MAX = 1 << 17, /* tokens that become text on the loop: a millisecond or two */
    PROMPT_HELD_MAX = 1024,   /* log-probabilities of a prompt that wait for its end, to be told with its text; of a longer one they go out in pieces */
};

/* Log-probabilities of some tokens in a row. */
struct positions {
    uint32_t *tokens;
    struct engine_logprobs *logprobs;
    size_t count, tokens_capacity, logprobs_capacity;
};

/* A tool's call as it will be told; owned texts. */
struct told_call {
    char id[32], *name, *arguments;
};

struct call {
    struct call_kind kind; /* first */
    struct call *next, **back;
    struct inference *inference;
    struct model *model;
    struct bus_reply *reply; /* NULL: ended */
    uint64_t id;             /* at the engine */
    bool stream;
    bool tokenize, strings;  /* Generation/Tokenize: only the prompt's tokens are wanted; strings: and their bytes */
    char *request_id;
    uint32_t granted, produced; /* tokens */
    uint32_t piece;             /* tokens of an item, at least; it may have more */
    bool one_tool_call, short_ids; /* short_ids: of nine letters and digits, as Mistral's templates want them */
    int64_t began_us, first_us, last_us;
    uint32_t tokens_told;

    struct call *next_dirty; /* under the inference's lock, with `dirty` */
    bool dirty;

    pthread_mutex_t lock; /* of what follows: gathered since the last flush */
    struct buf text, reasoning;
    struct chat_parser *parser; /* NULL: all is text */
    bool parsing;               /* something was pushed */
    bool stop_token;            /* the last of the answer is the token that ended it */
    struct told_call *tool_calls;
    size_t tool_call_count, tool_call_capacity;
    uint32_t tool_calls_told;
    uint32_t *tokens;
    size_t token_count, token_capacity;
    struct positions prompt, answer;
    size_t prompt_first; /* how many of the prompt were told before */
    enum engine_finish finish;
    struct error error;
    struct engine_usage usage;
    uint32_t reasoning_tokens;
    bool thinking; /* the last token that showed anything was of the reasoning */
    int failed; /* gathering did */
};

static struct metric *first_token_seconds, *token_seconds, *request_seconds, *finished[ENGINE_ERROR + 1], *refused;

void calls_init_metrics(void) {
    static const double token_bounds[] = {0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5};
    first_token_seconds = metric_histogram("gen_ai_server_time_to_first_token", "", "Seconds from a request's arrival to its first token.", METRIC_SECONDS_BOUNDS,
                                           METRIC_SECONDS_BOUNDS_COUNT);
    token_seconds = metric_histogram("gen_ai_server_time_per_output_token", "", "Seconds per token after the first.", token_bounds, 10);
    request_seconds = metric_histogram("gen_ai_server_request_duration", "", "Seconds from a request's arrival to its end.", METRIC_SECONDS_BOUNDS,
                                       METRIC_SECONDS_BOUNDS_COUNT);
    for (int i = ENGINE_STOP; i <= ENGINE_ERROR; i++) {
        char labels[64];
        (void)snprintf(labels, sizeof labels, "finish=\"%s\"", engine_finish_name((enum engine_finish)i));
        finished[i] = metric_counter("genloop_inference_requests_total", labels, "Requests, by how they ended.");
    }
    refused = metric_counter("genloop_inference_requests_total", "finish=\"refused\"", "Requests, by how they ended.");
}

/* --- the engine's thread --- */

/* A model can say U+0000, and in a message's string the text would end there, with all that happens to travel in the same reply: it becomes U+FFFD, as in prompts. What a token is to the byte
 * stands in its log-probability. */
static int append_text(struct buf *out, struct span text) {
    int r = 0;
    for (ptrdiff_t at; r == 0 && (at = span_find_char(text, '\0')) >= 0; text = span_skip(text, (size_t)at + 1)) {
        r = buf_append_span(out, span_sub(text, 0, (size_t)at));
        if (r == 0) r = buf_append_str(out, "\xef\xbf\xbd");
    }
    return r == 0 ? buf_append_span(out, text) : r;
}

static int positions_add(struct positions *p, const uint32_t *tokens, const struct engine_logprobs *logprobs, size_t n) {
    int r = p->count + n > GATHERED_MAX ? E_TOO_LARGE : array_reserve(&p->tokens, &p->tokens_capacity, p->count + n, sizeof *p->tokens);
    if (r == 0) r = array_reserve(&p->logprobs, &p->logprobs_capacity, p->count + n, sizeof *p->logprobs);
    for (size_t i = 0; r == 0 && i < n; i++) {
        p->tokens[p->count] = tokens[i];
        p->logprobs[p->count++] = logprobs[i];
    }
    return r;
}

static void positions_fini(struct positions *p) {
    mem_free(p->tokens);
    mem_free(p->logprobs);
}

/* The first of a prompt comes with its echo, the others with what is computed of them. */
static int gather_prompt(struct call *c, const struct engine_event *event) {
    static const struct engine_logprobs unscored;
    if (!event->prompt_tokens) return 0;
    if (event->prompt_count == 0) return positions_add(&c->prompt, event->prompt_tokens, &unscored, 1);
    const uint32_t *tokens = event->prompt_tokens + event->prompt_first;
    int r = 0;
    if (event->prompt_tops) return positions_add(&c->prompt, tokens, event->prompt_tops, event->prompt_count);
    for (size_t i = 0; r == 0 && i < event->prompt_count; i++) {
        struct engine_logprobs one = {.logprob = event->prompt_logprobs[i]};
        r = positions_add(&c->prompt, &tokens[i], &one, 1);
    }
    return r;
}

static int gather_tokens(struct call *c, const struct engine_event *event) {
    size_t n = event->prompt_tokens ? event->usage.prompt_tokens : 0;
    int r = n > TOKENIZED_MAX ? E_TOO_LARGE : array_reserve(&c->tokens, &c->token_capacity, n, sizeof *c->tokens);
    for (size_t i = 0; r == 0 && i < n; i++) c->tokens[c->token_count++] = event->prompt_tokens[i];
    return r;
}

static int on_text(void *arg, struct span text) { return append_text(&((struct call *)arg)->text, text); }
static int on_reasoning(void *arg, struct span text) { return append_text(&((struct call *)arg)->reasoning, text); }

static void make_id(const struct call *c, char id[32]) {
    static const char letters[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ01"; /* 64: each byte gives six bits */
    uint8_t bytes[24];
    size_t n = c->short_ids ? 9 : 24, at = 0;
    random_bytes(bytes, sizeof bytes);
    if (!c->short_ids) at = (size_t)snprintf(id, 32, "call_");
    for (size_t i = 0; i < n; i++) id[at++] = letters[bytes[i] & 63];
    id[at] = '\0';
}

static int on_tool_call(void *arg, uint32_t index, struct span name, struct span arguments) {
    struct call *c = arg;
    if (c->one_tool_call && index > 0) return 0;
    if (array_reserve(&c->tool_calls, &c->tool_call_capacity, c->tool_call_count + 1, sizeof *c->tool_calls) != 0) return E_NOMEM;
    struct told_call *t = &c->tool_calls[c->tool_call_count];
    *t = (struct told_call){.name = span_dup(name), .arguments = span_dup(arguments)};
    make_id(c, t->id);
    c->tool_call_count++; /* also half made: it is freed with the others */
    return t->name && t->arguments ? 0 : E_NOMEM;
}

static void forget_tool_calls(struct call *c) {
    for (size_t i = 0; i < c->tool_call_count; i++) {
        mem_free(c->tool_calls[i].name);
        mem_free(c->tool_calls[i].arguments);
    }
    c->tool_calls_told += (uint32_t)c->tool_call_count;
    c->tool_call_count = 0;
}

/* The answer's text: words, reasoning and calls. */
static int gather_text(struct call *c, const struct engine_event *event) {
    if (!c->parser) return append_text(&c->text, event->text);
    if (!c->parsing && event->in_reasoning) chat_parser_begin_reasoning(c->parser);
    c->parsing = true;
    size_t thought = c->reasoning.len, said = c->text.len + c->tool_call_count;
    int r = chat_parser_push(c->parser, event->text);
    if (r == 0 && event->finish != ENGINE_RUNNING) r = chat_parser_finish(c->parser);
    /* A token that shows nothing yet counts with those before it. */
    if (c->text.len + c->tool_call_count > said) c->thinking = false;
    else if (c->reasoning.len > thought) c->thinking = true;
    if (c->thinking) c->reasoning_tokens += (uint32_t)event->token_count;
    return r;
}

static int gather(struct call *c, const struct engine_event *event) {
    if (c->tokenize) return gather_tokens(c, event);
    int r = gather_text(c, event);
    if (r == 0 && c->token_count + event->token_count > GATHERED_MAX) r = E_TOO_LARGE;
    if (r == 0) r = array_reserve(&c->tokens, &c->token_capacity, c->token_count + event->token_count, sizeof *c->tokens);
    if (r == 0) r = gather_prompt(c, event);
    if (r == 0 && event->logprobs) r = positions_add(&c->answer, event->tokens, event->logprobs, event->token_count);
    c->stop_token |= event->stop_token;
    if (r != 0) return r;
    for (size_t i = 0; i < event->token_count; i++) c->tokens[c->token_count++] = event->tokens[i];
    return 0;
}

static void on_event(void *arg, const struct engine_event *event) {
    struct call *c = arg;
    struct inference *inf = c->inference;
    int64_t now = clock_mono_us();
    pthread_mutex_lock(&c->lock);
    if (c->failed == 0) c->failed = gather(c, event);
    if (event->token_count > 0) {
        if (c->first_us == 0) c->first_us = now;
        c->last_us = now;
    }
    c->usage = event->usage;
    c->finish = event->finish;
    if (event->error) c->error = *event->error;
    if (c->piece > 1 && c->finish == ENGINE_RUNNING && c->failed == 0 && c->prompt.count == 0 && c->token_count < c->piece) { /* nobody waits for it yet */
        pthread_mutex_unlock(&c->lock);
        return;
    }
    /* Still under the call's lock: once the loop has seen the last event the call may be gone. */
    pthread_mutex_lock(&inf->dirty_lock);
    if (!c->dirty) {
        c->dirty = true;
        c->next_dirty = inf->dirty;
        inf->dirty = c;
    }
    if (!inf->posted) inf->posted = loop_post(service_loop(inf->service), calls_flush, inf) == 0; /* without memory: the tick tells it */
    pthread_mutex_unlock(&inf->dirty_lock);
    pthread_mutex_unlock(&c->lock);
}

/* --- replies --- */

static char *no_text(void) {
    static char empty[1] = "";
    return empty;
}

static Genloop__V1__TokenLogprob *token_logprob(struct call *c, struct arena *a, uint32_t token, float logprob) {
    Genloop__V1__TokenLogprob *t = arena_alloc(a, sizeof *t);
    if (!t) return NULL;
    genloop__v1__token_logprob__init(t);
    const struct tokenizer *tokenizer = engine_tokenizer(model_engine(c->model));
    struct span bytes = tokenizer ? tokenizer_token_bytes(tokenizer, token) : SPAN("");
    t->token = token;
    t->text = (ProtobufCBinaryData){bytes.len, (uint8_t *)(uintptr_t)bytes.data};
    t->logprob = (double)logprob;
    t->special = tokenizer && tokenizer_is_special(tokenizer, token);
    return t;
}

/* NULL where the arena is full. */
static Genloop__V1__PositionLogprobs **pack_positions(struct call *c, struct arena *a, const struct positions *from) {
    Genloop__V1__PositionLogprobs **out = arena_calloc(a, from->count + 1, sizeof *out);
    for (size_t i = 0; out && i < from->count; i++) {
        const struct engine_logprobs *l = &from->logprobs[i];
        Genloop__V1__PositionLogprobs *p = out[i] = arena_alloc(a, sizeof *p);
        if (!p) return NULL;
        genloop__v1__position_logprobs__init(p);
        p->top = arena_calloc(a, l->top_count + 1, sizeof *p->top);
        p->chosen = token_logprob(c, a, from->tokens[i], l->logprob);
        if (!p->top || !p->chosen) return NULL;
        for (uint32_t k = 0; k < l->top_count; k++)
            if (!(p->top[p->n_top++] = token_logprob(c, a, l->top[k].token, l->top[k].logprob))) return NULL;
    }
    return out;
}

static int pack_tool_calls(struct call *c, struct arena *a, Genloop__V1__GenerateReply *r) {
    if (c->tool_call_count == 0) return 0;
    r->tool_calls = arena_calloc(a, c->tool_call_count, sizeof *r->tool_calls);
    for (size_t i = 0; r->tool_calls && i < c->tool_call_count; i++) {
        Genloop__V1__ToolCall *t = r->tool_calls[i] = arena_alloc(a, sizeof *t);
        if (!t) return E_TOO_LARGE;
        genloop__v1__tool_call__init(t);
        t->id = c->tool_calls[i].id;
        t->name = c->tool_calls[i].name;
        t->arguments = c->tool_calls[i].arguments;
        t->index = c->tool_calls_told + (uint32_t)i;
        r->n_tool_calls++;
    }
    return r->tool_calls ? 0 : E_TOO_LARGE;
}

/* What the call has gathered, packed, in the arena; empty where there is no memory. Under the call's lock. */
static int pack_reply(struct call *c, struct span *packed) {
    struct arena *a = &c->inference->arena;
    Genloop__V1__GenerateReply r;
    Genloop__V1__Usage usage;
    genloop__v1__generate_reply__init(&r);
    genloop__v1__usage__init(&usage);
    const char *text = buf_cstr(&c->text);
    r.text = text ? (char *)(uintptr_t)text : no_text();
    r.tokens = c->tokens;
    r.n_tokens = c->token_count;
    r.model = c->model->name;
    r.replica = (char *)(uintptr_t)service_instance(c->inference->service);
    r.request_id = c->request_id;
    const char *reasoning = buf_cstr(&c->reasoning);
    r.reasoning = reasoning ? (char *)(uintptr_t)reasoning : no_text();
    if (pack_tool_calls(c, a, &r) != 0) return E_TOO_LARGE;
    if (c->finish != ENGINE_RUNNING) {
        bool called = c->finish == ENGINE_STOP && c->tool_calls_told + c->tool_call_count > 0;
        r.finish_reason = (char *)(uintptr_t)(called ? "tool_calls" : engine_finish_name(c->finish));
        usage.prompt_tokens = c->usage.prompt_tokens;
        usage.completion_tokens = c->usage.completion_tokens;
        usage.cached_tokens = c->usage.cached_tokens;
        usage.reasoning_tokens = c->reasoning_tokens;
        r.usage = &usage;
    }
    r.logprobs = pack_positions(c, a, &c->answer);
    r.prompt_logprobs = pack_positions(c, a, &c->prompt);
    if (!r.logprobs || !r.prompt_logprobs) return E_TOO_LARGE;
    r.n_logprobs = c->answer.count;
    r.n_prompt_logprobs = c->prompt.count;
    if (c->prompt.count > 0 && c->prompt_first == 0) r.prompt_logprobs[0]->unscored = true;
    if (c->stop_token && r.n_logprobs > 0) r.logprobs[r.n_logprobs - 1]->ends = true;
    size_t size = genloop__v1__generate_reply__get_packed_size(&r);
    uint8_t *bytes = arena_alloc(a, size ? size : 1);
    if (!bytes) return E_TOO_LARGE;
    *packed = span_of(bytes, genloop__v1__generate_reply__pack(&r, bytes));
    return 0;
}

static int pack_tokens(struct call *c, struct span *packed) {
    struct arena *a = &c->inference->arena;
    const struct tokenizer *tokenizer = engine_tokenizer(model_engine(c->model));
    Genloop__V1__TokenizeReply r;
    genloop__v1__tokenize_reply__init(&r);
    r.tokens = c->tokens;
    r.n_tokens = c->token_count;
    r.context = engine_context(model_engine(c->model));
    r.model = c->model->name;
    r.replica = (char *)(uintptr_t)service_instance(c->inference->service);
    if (c->strings) {
        if (!(r.strings = arena_calloc(a, c->token_count + 1, sizeof *r.strings))) return E_TOO_LARGE;
        for (; r.n_strings < c->token_count; r.n_strings++) {
            struct span bytes = tokenizer ? tokenizer_token_bytes(tokenizer, c->tokens[r.n_strings]) : SPAN("");
            r.strings[r.n_strings] = (ProtobufCBinaryData){bytes.len, (uint8_t *)(uintptr_t)bytes.data};
        }
    }
    size_t size = genloop__v1__tokenize_reply__get_packed_size(&r);
    uint8_t *bytes = arena_alloc(a, size ? size : 1);
    if (!bytes) return E_TOO_LARGE;
    *packed = span_of(bytes, genloop__v1__tokenize_reply__pack(&r, bytes));
    return 0;
}

static void forget_gathered(struct call *c) {
    buf_clear(&c->text);
    buf_clear(&c->reasoning);
    forget_tool_calls(c);
    c->prompt_first += c->prompt.count;
    c->token_count = c->prompt.count = c->answer.count = 0;
}

static void call_free(struct call *c) {
    struct inference *inf = c->inference;
    *c->back = c->next;
    if (c->next) c->next->back = c->back;
    inf->call_count--;
    c->model->calls--;
    pthread_mutex_lock(&inf->dirty_lock);
    if (c->dirty) { /* the last event came while an earlier one was being told */
        struct call **at = &inf->dirty;
        while (*at != c) at = &(*at)->next_dirty;
        *at = c->next_dirty;
    }
    pthread_mutex_unlock(&inf->dirty_lock);
    pthread_mutex_destroy(&c->lock);
    buf_fini(&c->text);
    buf_fini(&c->reasoning);
    chat_parser_free(c->parser);
    forget_tool_calls(c);
    mem_free(c->tool_calls);
    mem_free(c->tokens);
    positions_fini(&c->prompt);
    positions_fini(&c->answer);
    mem_free(c->request_id);
    mem_free(c);
    if (service_draining(inf->service) && inf->call_count == 0) service_drained(inf->service);
}

/* The engine may produce what the client can still be sent. */
static void top_up(struct call *c, size_t unsent) {
    if (!c->stream || !c->reply) return;
    int64_t left = bus_reply_credit_left(c->reply), outstanding = (int64_t)c->granted - c->produced, more = left * c->piece - outstanding - (int64_t)unsent;
    if (more <= 0) return;
    c->granted += (uint32_t)more;
    engine_grant(model_engine(c->model), c->id, (uint32_t)more);
}

static void count_end(const struct call *c) {
    int64_t now = clock_mono_us();
    metric_add(finished[c->finish], 1);
    metric_observe(request_seconds, (double)(now - c->began_us) / 1e6);
    if (c->first_us) metric_observe(first_token_seconds, (double)(c->first_us - c->began_us) / 1e6);
    if (c->usage.completion_tokens > 1) metric_observe(token_seconds, (double)(c->last_us - c->first_us) / 1e6 / (c->usage.completion_tokens - 1));
}

static void end_reply(struct call *c, int code, const struct error *err, struct span last) {
    bus_reply_end(c->reply, code, err, last);
    c->reply = NULL;
}

/* The reply ends before the engine does: its sequence is not wanted any more. */
static void give_up(struct call *c, int code) {
    struct error err;
    (void)error_set(&err, code, "%s", c->tokenize ? "the text has more tokens than one answer holds: give it in parts" : "the answer is larger than one reply can be: stream it");
    end_reply(c, code, &err, SPAN(""));
    engine_cancel(model_engine(c->model), c->id);
}

/* Tells what there is. The call may be gone afterwards. */
static void flush(struct call *c) {
    struct inference *inf = c->inference;
    struct span packed = SPAN("");
    bool waiting = false;
    pthread_mutex_lock(&c->lock);
    bool over = c->finish != ENGINE_RUNNING, something = c->token_count >= c->piece || c->prompt.count > 0 || (c->piece == 1 && (c->text.len > 0 || c->reasoning.len > 0 || c->tool_call_count > 0));
    if (c->prompt.count > 0 && c->prompt.count < PROMPT_HELD_MAX && c->usage.completion_tokens == 0) something = false;
    c->produced = c->usage.completion_tokens;
    if (c->reply && c->failed != 0) give_up(c, c->failed);
    else if (c->reply && over && c->finish != ENGINE_STOP && c->finish != ENGINE_LENGTH) end_reply(c, c->error.code, &c->error, SPAN(""));
    else if (c->reply && (over || (c->stream && something))) {
        waiting = !over && bus_reply_credit_left(c->reply) <= 0;
        int r = waiting ? 0 : c->tokenize ? pack_tokens(c, &packed) : pack_reply(c, &packed);
        if (r != 0) give_up(c, r);
        else if (over) end_reply(c, 0, NULL, packed); /* the last item needs no credit */
        else if (!waiting) {
            waiting = bus_reply_item(c->reply, packed) != 0; /* tried again at the next event, or gone with the client */
            if (!waiting) forget_gathered(c);
        }
    }
    if (!c->reply) forget_gathered(c);
    size_t unsent = c->piece == 1 ? waiting : c->token_count; /* an item may have any number of tokens, so one place is enough for all that wait */
    pthread_mutex_unlock(&c->lock);
    arena_clear(&inf->arena);
    if (!over) {
        top_up(c, unsent);
        return;
    }
    if (!c->tokenize) count_end(c);
    call_free(c);
    models_reconcile(inf); /* a model may have waited for its last call */
}

void calls_flush(void *arg) {
    struct inference *inf = arg;
    for (;;) {
        pthread_mutex_lock(&inf->dirty_lock);
        struct call *c = inf->dirty;
        if (c) {
            inf->dirty = c->next_dirty;
            c->dirty = false;
        } else inf->posted = false;
        pthread_mutex_unlock(&inf->dirty_lock);
        if (!c) return;
        flush(c);
    }
}

/* --- the bus --- */

void calls_refuse(struct bus_reply *reply, int code, const struct error *err) {
    metric_add(refused, 1);
    bus_reply_end(reply, code, err, SPAN(""));
}

/* Ids to text: nothing of the engine is needed but the vocabulary. */
static void detokenize(struct inference *inf, struct bus_reply *reply, struct span method, const struct bus_context *context, struct span request, void **call_arg) {
    Genloop__V1__DetokenizeRequest *m = MESSAGE_UNPACK(DetokenizeRequest, detokenize_request, request);
    struct span side = !span_empty(context->session) ? context->session : context->request_id, packed = SPAN("");
    struct model *model = NULL;
    struct error err = {0};
    struct buf text;
    int r = 0;
    buf_init(&text, TEXT_MAX);
    if (!m) r = error_set(&err, E_INVALID, "the request is no DetokenizeRequest");
    else if (m->n_tokens > DETOKENIZED_MAX) r = error_set_param(&err, E_INVALID, "tokens", "%zu tokens, at most %d are taken", m->n_tokens, DETOKENIZED_MAX);
    if (r == 0) r = models_find(inf, span_str(m->model), span_hash(side), &model, &err);
    bool waits = r == E_AGAIN;
    if (waits) r = waiting_add(inf, model, reply, method, context, request, call_arg, &err);
    if (waits && r == 0) goto out;
    const struct tokenizer *t = r != 0 ? NULL : model_engine(model) ? engine_tokenizer(model_engine(model)) : encoder_tokenizer(embedder_encoder(model->embedder));
    if (r == 0 && !t) r = error_set_param(&err, E_UNSUPPORTED, "model", "%s has no tokenizer", model->name);
    for (size_t i = 0; r == 0 && i < m->n_tokens; i++)
        if (m->tokens[i] >= tokenizer_vocab_size(t)) r = error_set_param(&err, E_INVALID, "tokens", "token %u is beyond the vocabulary of %u", m->tokens[i], tokenizer_vocab_size(t));
    if (r == 0 && (r = tokenizer_decode(t, m->tokens, m->n_tokens, m->no_special, &text)) != 0) (void)error_set(&err, r == E_FULL ? E_TOO_LARGE : r, "the text is too large for one answer");
    if (r == 0) {
        Genloop__V1__DetokenizeReply out;
        struct buf whole;
        genloop__v1__detokenize_reply__init(&out);
        buf_init(&whole, 3 * (size_t)TEXT_MAX);
        const char *shown = append_text(&whole, buf_span(&text)) == 0 ? buf_cstr(&whole) : NULL;
        out.text = shown ? (char *)(uintptr_t)shown : no_text();
        out.model = model->name;
        out.replica = (char *)(uintptr_t)service_instance(inf->service);
        size_t size = genloop__v1__detokenize_reply__get_packed_size(&out);
        uint8_t *bytes = shown ? arena_alloc(&inf->arena, size ? size : 1) : NULL;
        if (bytes) packed = span_of(bytes, genloop__v1__detokenize_reply__pack(&out, bytes));
        else r = error_set(&err, E_TOO_LARGE, "the text is too large for one answer");
        buf_fini(&whole);
    }
    if (r == 0) bus_reply_end(reply, 0, NULL, packed);
    else calls_refuse(reply, err.code, &err);
out:
    if (m) genloop__v1__detokenize_request__free_unpacked(m, NULL);
    buf_fini(&text);
    arena_clear(&inf->arena);
}

/* The request as the engine's; the message that it borrows from is *generate or *tokenize, to be freed by the caller. */
static int read_request(struct inference *inf, bool tokenize, struct span request, Genloop__V1__GenerateRequest **generate, Genloop__V1__TokenizeRequest **tokens, struct engine_request *r, struct error *err) {
    if (tokenize) {
        *tokens = MESSAGE_UNPACK(TokenizeRequest, tokenize_request, request);
        return *tokens ? request_of_tokens(*tokens, &inf->arena, r, err) : error_set(err, E_INVALID, "the request is no TokenizeRequest");
    }
    *generate = MESSAGE_UNPACK(GenerateRequest, generate_request, request);
    return *generate ? request_from_message(*generate, &inf->arena, r, err) : error_set(err, E_INVALID, "the request is no GenerateRequest");
}

void calls_on_call(void *arg, struct bus_reply *reply, struct span method, const struct bus_context *context, struct span request, void **call_arg) {
    struct inference *inf = arg;
    struct error err = {0};
    bool stream = span_eq_str(method, "Generation/GenerateStream"), tokenize = span_eq_str(method, "Generation/Tokenize");
    Genloop__V1__GenerateRequest *message = NULL;
    Genloop__V1__TokenizeRequest *tokens = NULL;
    struct call *c = NULL;
    struct model *model = NULL;
    struct engine_request r;
    int result = 0;
    if (span_eq_str(method, "Generation/Detokenize") && !service_draining(inf->service)) {
        detokenize(inf, reply, method, context, request, call_arg);
        return;
    }
    if (span_eq_str(method, "Generation/Encode") && !service_draining(inf->service)) {
        encode_on_call(inf, reply, context, request, call_arg);
        return;
    }
    if (service_draining(inf->service)) result = error_set(&err, E_UNAVAILABLE, "%s is draining", service_instance(inf->service));
    else if (!stream && !tokenize && !span_eq_str(method, "Generation/Generate"))
        result = error_set(&err, E_UNSUPPORTED, "%.*s is not built yet", method.len < 64 ? (int)method.len : 64, method.data);
    else result = read_request(inf, tokenize, request, &message, &tokens, &r, &err);
    struct span side = !span_empty(context->session) ? context->session : context->request_id;
    if (result == 0) result = models_find_kind(inf, span_str(tokenize ? tokens->model : message->model), span_hash(side), false, &model, &err);
    if (result == E_AGAIN) {
        result = waiting_add(inf, model, reply, method, context, request, call_arg, &err);
        goto out;
    }
    if (result == 0 && !(c = mem_zalloc(sizeof *c))) result = error_set(&err, E_NOMEM, "no memory for a call");
    if (result != 0) goto out;

    pthread_mutex_init(&c->lock, NULL);
    buf_init(&c->text, TEXT_MAX);
    buf_init(&c->reasoning, TEXT_MAX);
    c->inference = inf;
    c->model = model;
    c->stream = stream;
    c->piece = stream && message->piece_tokens > 1 ? message->piece_tokens < PIECE_MAX ? message->piece_tokens : PIECE_MAX : 1;
    c->tokenize = tokenize;
    c->strings = tokenize && tokens->strings;
    c->began_us = clock_mono_us();
    c->next = inf->calls;
    c->back = &inf->calls;
    if (c->next) c->next->back = &c->next;
    inf->calls = c;
    inf->call_count++;
    model->calls++;
    if (!(c->request_id = span_dup(context->request_id))) result = error_set(&err, E_NOMEM, "no memory for a call");
    struct chat_parser_options parsing;
    if (result == 0 && message && request_parsing(message, engine_chat_template(model_engine(model)), &inf->arena, &parsing)) {
        const struct chat_sink sink = {c, on_text, on_reasoning, on_tool_call};
        c->one_tool_call = message->one_tool_call;
        c->short_ids = parsing.style == CHAT_STYLE_MISTRAL;
        if (chat_parser_new(&parsing, &sink, &c->parser) != 0) result = error_set(&err, E_NOMEM, "no memory for a call");
    }
    if (message) request_take_defaults(message, engine_generation(model_engine(model)), &r.sampling);
    r.deadline_ms = context->deadline_ms > 0 ? clock_mono_ms() + context->deadline_ms : 0;
    r.scope = context->tenant; /* whose prefixes it may share */
    r.adapter = model->adapter; /* stays until the call is over: it counts among the model's */
    if (stream) r.credit = c->granted = (uint32_t)bus_reply_credit_left(reply) * c->piece;
    if (result == 0) result = engine_submit(model_engine(model), &r, c, on_event, &c->id, &err);
    if (result != 0) {
        call_free(c);
        goto out;
    }
    c->reply = reply;
    *call_arg = c;
out:
    if (result != 0) calls_refuse(reply, result, &err);
    if (message) genloop__v1__generate_request__free_unpacked(message, NULL);
    if (tokens) genloop__v1__tokenize_request__free_unpacked(tokens, NULL);
    arena_clear(&inf->arena);
}

void calls_on_credit(void *call_arg, struct bus_reply *reply) {
    struct call *c = call_arg;
    (void)reply;
    if (c && !c->kind.encode && !c->kind.waiting) flush(c); /* what an encoder answers is one item, which needs none */
}

void calls_on_cancel(void *call_arg, struct bus_reply *reply, int code) {
    struct call *c = call_arg;
    bus_reply_end(reply, code, NULL, SPAN(""));
    if (!c) return;
    if (c->kind.waiting) {
        waiting_on_cancel(call_arg);
        return;
    }
    if (c->kind.encode) {
        encode_on_cancel(call_arg);
        return;
    }
    c->reply = NULL;
    engine_cancel(model_engine(c->model), c->id);
}
