/*
 * A generation. Each prompt and each of its n choices is a call of its own to a replica (the engine shares the prefix), all at once; seeds follow each other, so that choices differ and
 * the whole is repeatable. A call that fails before its first piece is tried on another replica.
 *
 * Nothing is answered before the first piece: a refusal is plain HTTP with its status. From then on a stream can only end with an event that says what went wrong.
 *
 * Credit: a replica may be so many pieces ahead of what the client has taken as can be held for it, at most CREDIT_MAX. While the client's connection is clogged no credit goes back, so that it slows its own
 * sequences and nobody else's. When the client goes, its calls are cancelled in the same turn.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "answer.h"
#include "batch_lane.h"
#include "cached.h"
#include "exchange.h"
#include "generate_request.h"
#include "grpc.h"
#include "interactions.h"
#include "registry.h"
#include "responses.h"
#include "routes.h"
#include "wire/chat_json.h"
#include "wire/fields.h"
#include "wire/unpack.h"

enum {
    CREDIT_MAX = 64, CREDIT_MIN = 4,
    HELD_MAX = 2 << 20, /* of all choices of a stream together: half of what an exchange holds for a client that does not read */
    CHUNK_BYTES = 320, CANDIDATE_BYTES = 160, /* of JSON: a chunk's frame; a token with its bytes, as text, as numbers and with a log-probability */
    PIECE_TOKENS = 1024, /* of an answer that the client gets whole: few messages, and nothing is lost with a replica that dies before the first */
    REQUEST_BYTES_MAX = 16 << 20, /* what the bus carries */
    CHUNK_MAX = 8 << 20,
    RESPONSE_CHUNK_MAX = 24 << 20, /* a response's last events: four times its text, and what it repeats of the request */
    FULL_NAME_MAX = MODEL_FULL_NAME_MAX,
};

struct candidate {
    struct generation *generation;
    struct choice choice;
    size_t prompt;
    uint32_t k;              /* of the prompt's candidates */
    struct bus_call *call;   /* NULL: none is open */
    void *peer;
    struct routing_tried tried;
    struct answer_usage usage;
    uint32_t owed;           /* credit held back */
    bool done, finished;     /* finished: the finish_reason has come */
};

struct generation {
    struct exchange *x;
    struct gateway *gateway;
    struct arena arena;
    struct generate_request request;
    struct answer answer;
    char id[REQUEST_ID_MAX + 16], model[FULL_NAME_MAX], replica[65];
    bool canary, begun; /* begun: the stream's head is out */
    bool counted;       /* its client waits (gateway.h) */
    struct cached cached;
    struct buf replay;  /* of an answer from the cache: what is not told yet */
    struct response *response; /* of /v1/responses; NULL: of another door */
    bool finishing;     /* all of it has come */
    bool wants_logprobs; /* the client does: with best_of we do, to know which are best */
    uint64_t session_hash;
    struct prefix_chain *prefix; /* of the prompt that was sent last; NULL: of none yet */
    size_t prefix_prompt;
    struct candidate *candidates;
    size_t n, n_done;
    uint32_t credit; /* of each candidate */
    struct buf packed, chunk;
    int64_t first_ms;
};

static struct metric *first_token, *retries, *by_prefix[ROUTING_PREFIX_BUSY + 1];

static void init_metrics(void) {
    if (first_token) return;
    first_token = metric_histogram("genloop_gateway_time_to_first_token_seconds", "", "From the head of a request for a stream to its first piece.", METRIC_SECONDS_BOUNDS, METRIC_SECONDS_BOUNDS_COUNT);
    for (int i = ROUTING_PREFIX_NEW; i <= ROUTING_PREFIX_BUSY; i++) {
        static const char *const labels[] = {[ROUTING_PREFIX_NEW] = "result=\"new\"", [ROUTING_PREFIX_SEEN] = "result=\"hit\"", [ROUTING_PREFIX_BUSY] = "result=\"busy\""};
        by_prefix[i] = metric_counter("genloop_gateway_prefix_calls_total", labels[i], "Calls without a session, by their prompts' beginning: hit: sent to a replica that had seen it; busy: those that had were too busy; new: nobody had seen enough of it.");
    }
    retries = metric_counter("genloop_gateway_retries_total", "", "Calls that were tried on another replica before anything had been answered.");
}

static int64_t now_ms(const struct generation *g) { return loop_now_ms(service_loop(g->gateway->service)); }

/* ---- ends ---- */

static void let_go(struct candidate *c) {
    if (!c->call) return;
    bus_call_cancel(c->call);
    c->call = NULL;
    routing_done(c->generation->gateway->routing, c->peer);
}

static void generation_free(struct generation *g) {
    g->gateway->generating -= g->counted;
    for (size_t i = 0; i < g->n; i++) {
        let_go(&g->candidates[i]);
        choice_fini(&g->candidates[i].choice);
    }
    mem_free(g->candidates);
    cached_fini(&g->cached);
    response_free(g->response);
    buf_fini(&g->replay);
    buf_fini(&g->packed);
    buf_fini(&g->chunk);
    arena_fini(&g->arena);
    mem_free(g);
}

/* The word that OpenAI's clients know beside the message. */
static const char *code_of(struct error *err) {
    if (err->code == E_RANGE) {
        err->code = E_INVALID;
        return "context_length_exceeded";
    }
    return err->code == E_NOT_FOUND ? "model_not_found" : err->code == E_UNSUPPORTED ? "unsupported_parameter" : NULL;
}

/* A replica names its message's fields; OpenAI's JSON has other names for some of them. */
static void name_parameter(const struct generation *g, struct error *err) {
    if (g->response && strncmp(err->param, "messages", 8) == 0) span_copy(err->param, sizeof err->param, SPAN("input"));
    else if (strcmp(err->param, "prompt_tokens") == 0) span_copy(err->param, sizeof err->param, SPAN("prompt"));
    else if (strcmp(err->param, "stop_tokens") == 0) span_copy(err->param, sizeof err->param, SPAN("stop_token_ids"));
}

static void fail(struct generation *g, const struct error *why) {
    struct exchange *x = g->x;
    if (g->first_ms == 0) x->tokens_used = 0;
    struct error err = *why;
    const char *code = code_of(&err);
    if (!x->grpc) name_parameter(g, &err);
    if (!g->begun || x->grpc) {
        generation_free(g);
        exchange_error_code(x, &err, code);
        return;
    }
    struct buf body;
    int r;
    buf_init(&body, g->response ? RESPONSE_CHUNK_MAX : 16384);
    log_warn("gateway.stream", "%s was cut off: %s", x->request_id, err.message);
    if (g->response) {
        response_answer_end(&g->response->answer, &err, &body);
        r = body.failed ? body.failed : exchange_write(x, buf_span(&body));
    } else {
        (void)exchange_error_body(&body, &err, code);
        r = exchange_event(x, buf_span(&body));
    }
    generation_free(g);
    if (r < 0) exchange_abort(x);
    else exchange_events_end(x);
    buf_fini(&body);
}

static void on_gone(void *state) {
    struct generation *g = state;
    struct exchange *x = g->x;
    generation_free(g);
    exchange_abort(x);
}

static void answer_headers(struct generation *g) {
    (void)http_header_add(g->x->http, "x-genloop-model", span_str(g->model));
    (void)http_header_add(g->x->http, "x-genloop-replica", span_str(g->replica));
    (void)http_header_add(g->x->http, "x-genloop-cache", g->x->from_cache ? SPAN("hit") : SPAN("miss")); /* miss: a replica computed it */
    span_copy(g->x->model, sizeof g->x->model, span_str(g->model));
    span_copy(g->x->replica, sizeof g->x->replica, span_str(g->replica));
}

/* ---- what is kept ---- */

static bool keeps_text(const struct generation *g, const struct candidate *c) { return g->gateway->capture == CAPTURE_FULL && c == &g->candidates[0]; }

/* The prompt as JSON: as it came, or of a call or a response what it would have been of a chat. */
static void write_prompt(struct buf *out, const struct generation *g) {
    const struct json *asked = json_get(g->x->json, g->request.chat ? "messages" : "prompt");
    const Genloop__V1__GenerateRequest *m = &g->request.message;
    struct json_out w;
    (void)buf_append_str(out, g->request.chat ? "\"messages\":" : "\"prompt\":");
    json_begin(&w, out);
    if (!g->x->grpc && !g->response) {
        json_put_value(&w, g->request.chat || json_type(asked) == JSON_TYPE_STRING ? asked : json_type(json_at(asked, 0)) == JSON_TYPE_STRING ? json_at(asked, 0) : asked);
    } else if (!g->request.chat && g->request.prompts[0].text) {
        json_put_span(&w, span_str(g->request.prompts[0].text));
    } else {
        json_array(&w);
        for (size_t i = 0; i < m->n_messages; i++) {
            json_object(&w);
            json_str(&w, "role", m->messages[i]->role);
            json_str(&w, "content", m->messages[i]->content);
            if (m->messages[i]->name[0]) json_str(&w, "name", m->messages[i]->name);
            if (m->messages[i]->reasoning[0]) json_str(&w, "reasoning_content", m->messages[i]->reasoning);
            if (m->messages[i]->tool_call_id[0]) json_str(&w, "tool_call_id", m->messages[i]->tool_call_id);
            if (m->messages[i]->n_tool_calls) chat_json_calls(&w, m->messages[i]);
            json_object_end(&w);
        }
        for (size_t i = 0; !g->request.chat && i < g->request.prompts[0].n_tokens; i++) json_put_uint(&w, g->request.prompts[0].tokens[i]);
        json_array_end(&w);
    }
}

static void remember(struct generation *g, const struct answer_usage *usage) {
    Genloop__V1__Interaction facts;
    struct buf prompt;
    const struct candidate *c = &g->candidates[0];
    buf_init(&prompt, 32 << 20);
    if (g->gateway->capture != CAPTURE_NONE) write_prompt(&prompt, g);
    genloop__v1__interaction__init(&facts);
    facts.request_id = g->x->request_id;
    facts.tenant = g->x->caller.tenant;
    facts.subject = g->request.message.user;
    facts.event_time_ms = clock_wall_ms();
    facts.model = g->model;
    facts.replica = g->replica;
    facts.route = (char *)(g->response ? "response" : g->request.chat ? "chat" : "completion");
    facts.prompt_tokens = (uint32_t)usage->prompt_tokens;
    facts.completion_tokens = (uint32_t)usage->completion_tokens;
    facts.finish_reason = (char *)c->choice.finish_reason;
    if (g->request.stream) facts.time_to_first_token_ms = (uint32_t)(g->first_ms - g->x->began_ms);
    facts.duration_ms = (uint32_t)(now_ms(g) - g->x->began_ms);
    facts.canary = g->canary;
    facts.session = g->x->session;
    if (prompt.failed) log_warn("gateway.capture", "%s is too large to be kept", g->x->request_id);
    else interactions_add(g->gateway->interactions, &facts, buf_span(&prompt), buf_span(&c->choice.text));
    buf_fini(&prompt);
}

/* ---- the end of a whole answer ---- */

static double mean_logprob(const struct candidate *c) { return c->choice.logprob_count ? c->choice.logprob_sum / (double)c->choice.logprob_count : -1e300; }

/* Of each prompt's candidates the n most likely per token, in that order. */
static size_t choose_best(struct generation *g, struct choice *chosen) {
    size_t n = 0;
    for (size_t p = 0; p < g->request.n_prompts; p++) {
        bool taken[N_MAX] = {false};
        for (uint32_t rank = 0; rank < g->request.n; rank++) {
            struct candidate *first = &g->candidates[p * g->request.best_of];
            uint32_t best = UINT32_MAX;
            for (uint32_t k = 0; k < g->request.best_of; k++)
                if (!taken[k] && (best == UINT32_MAX || mean_logprob(&first[k]) > mean_logprob(&first[best]))) best = k;
            taken[best] = true;
            chosen[n] = first[best].choice; /* borrowed: the candidates free them */
            chosen[n].index = (uint32_t)n;
            n++;
        }
    }
    return n;
}

static void finish_json(struct generation *g, const struct answer_usage *usage);
static void finish_response(struct generation *g, const struct answer_usage *usage);
static void finish_message(struct generation *g);

static void finish(struct generation *g) {
    struct answer_usage usage = {0};
    g->finishing = true;
    for (size_t i = 0; i < g->n; i++) {
        const struct candidate *c = &g->candidates[i];
        if (c->k == 0) { /* a prompt counts once, however many candidates it has */
            usage.prompt_tokens += c->usage.prompt_tokens;
            usage.cached_tokens += c->usage.cached_tokens;
        }
        usage.completion_tokens += c->usage.completion_tokens;
        usage.reasoning_tokens += c->usage.reasoning_tokens;
    }
    remember(g, &usage);
    g->x->tokens_used = g->x->from_cache ? 0 : (int64_t)(usage.prompt_tokens + usage.completion_tokens);
    cached_keep(&g->cached);
    if (g->x->grpc) finish_message(g);
    else if (g->response) finish_response(g, &usage);
    else finish_json(g, &usage);
}

static void finish_json(struct generation *g, const struct answer_usage *usage) {
    struct exchange *x = g->x;
    if (g->request.stream) {
        int r = 0;
        if (g->request.include_usage) {
            buf_clear(&g->chunk);
            answer_usage_chunk(&g->chunk, &g->answer, usage);
            r = exchange_write(x, buf_span(&g->chunk));
        }
        generation_free(g);
        if (r < 0) exchange_abort(x);
        else exchange_events_end(x);
        return;
    }
    struct buf body;
    struct choice chosen[N_MAX];
    size_t n = 0;
    buf_init(&body, ANSWER_TEXT_MAX * 4);
    answer_headers(g);
    if (g->request.best_of > g->request.n) n = choose_best(g, chosen);
    else
        for (size_t i = 0; i < g->n; i++) chosen[n++] = g->candidates[i].choice;
    for (size_t i = 0; i < n; i++) chosen[i].has_logprobs = g->wants_logprobs; /* of an answer without a token they are empty lists */
    answer_write(&body, &g->answer, chosen, n, usage);
    generation_free(g);
    exchange_json(x, 200, &body);
    buf_fini(&body);
}

/* Whether it is kept is known, and told with it. */
static void end_response(void *arg) {
    struct generation *g = arg;
    struct exchange *x = g->x;
    struct buf body;
    buf_init(&body, RESPONSE_CHUNK_MAX);
    if (g->request.stream) response_answer_end(&g->response->answer, NULL, &body);
    else response_answer_write(&body, &g->response->answer, NULL);
    if (g->request.stream) {
        int r = body.failed ? body.failed : exchange_write(x, buf_span(&body));
        generation_free(g);
        if (r < 0) exchange_abort(x);
        else exchange_events_end(x);
    } else {
        answer_headers(g);
        generation_free(g);
        exchange_json(x, 200, &body);
    }
    buf_fini(&body);
}

static void finish_response(struct generation *g, const struct answer_usage *usage) {
    struct response_answer *a = &g->response->answer;
    a->usage = *usage;
    buf_clear(&g->chunk);
    response_answer_close(a, g->request.stream ? &g->chunk : NULL);
    if (g->request.stream && (g->chunk.failed || exchange_write(g->x, buf_span(&g->chunk)) < 0)) {
        on_gone(g);
        return;
    }
    if (!response_keep(g->response, g->x, g, end_response)) end_response(g);
}

static void finish_message(struct generation *g) {
    struct exchange *x = g->x;
    struct error err = {0};
    if (g->request.stream) {
        generation_free(g);
        exchange_finish(x, NULL);
        return;
    }
    answer_headers(g);
    wire_put_bytes(&g->chunk, 1, buf_span(&g->candidates[0].choice.text)); /* text */
    if (g->candidates[0].choice.reasoning.len) wire_put_bytes(&g->chunk, 21, buf_span(&g->candidates[0].choice.reasoning)); /* reasoning */
    if (g->chunk.failed) {
        (void)error_set(&err, E_TOO_LARGE, "the answer is larger than one message can be: GenerateStream gives it in pieces");
        fail(g, &err);
        return;
    }
    exchange_reply(x, &genloop__v1__generate_reply__descriptor, buf_span(&g->chunk));
    generation_free(g);
}

/* ---- pieces of an answer, in each face ---- */

static int begin_stream(struct generation *g) {
    if (g->begun) return 0;
    answer_headers(g);
    g->begun = true;
    return exchange_events_begin(g->x);
}

static int tell_response(struct candidate *c, const Genloop__V1__GenerateReply *reply) {
    struct generation *g = c->generation;
    int r = g->request.stream ? begin_stream(g) : 0;
    buf_clear(&g->chunk);
    response_answer_add(&g->response->answer, reply, g->request.stream ? &g->chunk : NULL);
    if (keeps_text(g, c)) (void)buf_append_str(&c->choice.text, reply->text);
    if (reply->finish_reason[0]) span_copy(c->choice.finish_reason, sizeof c->choice.finish_reason, span_str(reply->finish_reason));
    if (!g->request.stream) return 0;
    if (r == 0) r = g->chunk.failed;
    return r < 0 || g->chunk.len == 0 ? r : exchange_write(g->x, buf_span(&g->chunk));
}

static int tell_json(struct candidate *c, const Genloop__V1__GenerateReply *reply) {
    struct generation *g = c->generation;
    if (g->response) return tell_response(c, reply);
    if (!g->request.stream) {
        choice_add(&c->choice, &g->answer, reply);
        return 0;
    }
    int r = begin_stream(g);
    buf_clear(&g->chunk);
    answer_chunk(&g->chunk, &g->answer, &c->choice, reply, g->request.include_usage);
    if (keeps_text(g, c)) (void)buf_append_str(&c->choice.text, reply->text);
    if (r == 0) r = g->chunk.failed ? g->chunk.failed : exchange_write(g->x, buf_span(&g->chunk));
    return r;
}

static int append_reply(struct buf *out, const Genloop__V1__GenerateReply *reply) {
    char *at = buf_reserve(out, genloop__v1__generate_reply__get_packed_size(reply) + 1);
    if (at) buf_commit(out, genloop__v1__generate_reply__pack(reply, (uint8_t *)at));
    return at ? 0 : out->failed;
}

/*
 * A stream passes the replica's items on as they are. A whole answer is gathered as what they are one behind the other: packed messages put together are one message, whose lists go on
 * and of whose single fields the last stands; so the text and the reasoning, which are to grow, go to its end.
 */
static int tell_message(struct candidate *c, const Genloop__V1__GenerateReply *reply, struct span item) {
    struct generation *g = c->generation;
    char *empty = (char *)(uintptr_t)protobuf_c_empty_string;
    if (reply->finish_reason[0]) span_copy(c->choice.finish_reason, sizeof c->choice.finish_reason, span_str(reply->finish_reason));
    if (!g->request.stream || keeps_text(g, c)) (void)buf_append_str(&c->choice.text, reply->text);
    if (!g->request.stream) (void)buf_append_str(&c->choice.reasoning, reply->reasoning);
    Genloop__V1__GenerateReply piece = *reply; /* borrows */
    if (g->x->from_cache) piece.request_id = g->x->request_id; /* that of who was answered first is not his */
    if (!g->request.stream) {
        piece.text = piece.reasoning = empty;
        if (!reply->finish_reason[0]) piece.model = piece.replica = piece.request_id = empty;
        (void)append_reply(&g->chunk, &piece); /* what does not fit is told at the end */
        return 0;
    }
    if (!g->begun) answer_headers(g);
    g->begun = true;
    if (c->choice.index > 0 || g->x->from_cache) {
        piece.index = c->choice.index;
        buf_clear(&g->chunk);
        if (append_reply(&g->chunk, &piece) < 0) return g->chunk.failed;
        item = buf_span(&g->chunk);
    }
    return exchange_item(g->x, &genloop__v1__generate_reply__descriptor, item);
}

/* ---- calls ---- */

static int dispatch(struct candidate *c, struct error *err);

static void grant(struct candidate *c) {
    if (!c->call || c->finished || c->owed == 0) return;
    bus_call_credit(c->call, c->owed);
    c->owed = 0;
}

static void replay(struct generation *g);

static void on_clear(void *state) {
    struct generation *g = state;
    if (g->finishing) return;
    if (g->x->from_cache) {
        replay(g);
        return;
    }
    for (size_t i = 0; i < g->n; i++) grant(&g->candidates[i]);
}

/* A piece of an answer, from a replica or the cache. False: the generation is gone. */
static bool take_item(struct candidate *c, struct span item) {
    struct generation *g = c->generation;
    struct error err;
    int r = 0;
    Genloop__V1__GenerateReply *reply = MESSAGE_UNPACK(GenerateReply, generate_reply, item);
    if (!reply) {
        (void)error_set(&err, E_UNKNOWN, "a replica answered with what is no GenerateReply");
        fail(g, &err);
        return false;
    }
    if (g->first_ms == 0) {
        g->first_ms = now_ms(g);
        if (g->request.stream) metric_observe(first_token, (double)(g->first_ms - g->x->began_ms) / 1000);
        span_copy(g->replica, sizeof g->replica, span_str(reply->replica));
    }
    if (reply->usage) c->usage = (struct answer_usage){reply->usage->prompt_tokens, reply->usage->completion_tokens, reply->usage->cached_tokens, reply->usage->reasoning_tokens};
    if (reply->finish_reason[0]) c->finished = true;
    if (!g->x->from_cache) g->x->tokens_used += (int64_t)reply->n_tokens;
    char *made_for = reply->request_id;
    if (g->x->from_cache) reply->request_id = g->x->request_id; /* borrowed: given back before it is freed */
    r = g->x->grpc ? tell_message(c, reply, item) : tell_json(c, reply);
    reply->request_id = made_for;
    genloop__v1__generate_reply__free_unpacked(reply, NULL);
    if (r < 0) { /* the client is gone, or takes nothing at all */
        on_gone(g);
        return false;
    }
    return true;
}

static void on_item(void *arg, struct span item) {
    struct candidate *c = arg;
    struct generation *g = c->generation;
    cached_add(&g->cached, (uint16_t)c->choice.index, item);
    if (!take_item(c, item)) return;
    c->owed++;
    if (c->owed >= g->credit / 2 && exchange_clear(g->x)) grant(c);
}

static void on_end(void *arg, int code, const struct error *why, bool begun) {
    struct candidate *c = arg;
    struct generation *g = c->generation;
    struct error err = {0};
    c->call = NULL;
    routing_done(g->gateway->routing, c->peer);
    if (code == 0) routing_worked(g->gateway->routing, c->peer);
    if (code == 0 && !c->finished) code = error_set(&err, E_UNKNOWN, "a replica ended its answer without a reason");
    else if (code < 0) err = *why;
    if (code == 0) {
        c->done = true;
        if (++g->n_done == g->n) finish(g);
        return;
    }
    if (routing_may_retry(code, begun, &c->tried)) {
        struct error again = {0};
        metric_add(retries, 1);
        int r = dispatch(c, &again);
        if (r == 0) return;
        /* Its replica drains or is gone, and the one that takes over is not known yet: all of it begins anew in a moment, since nobody has seen anything. */
        if (r == E_UNAVAILABLE && g->first_ms == 0 && exchange_wait(g->x)) {
            generation_free(g);
            return;
        }
    }
    if (code == E_CANCELLED) (void)error_set(&err, E_UNAVAILABLE, "the replica gave up: try again");
    /* A replica follows the registry on its own: it may have read of a promotion or a rollback before us, or after. */
    if (code == E_NOT_FOUND) (void)error_set(&err, E_UNAVAILABLE, "%s is just being released or taken back: try again in a moment", g->model);
    if (err.code == E_UNAVAILABLE && g->first_ms == 0 && exchange_wait(g->x)) { /* nothing was answered: from the beginning, with whatever the model's name means then */
        generation_free(g);
        return;
    }
    if (code == E_UNAVAILABLE && begun) { /* where replicas are is no client's business */
        log_warn("gateway.replica", "%s lost its replica: %s", g->x->request_id, why->message);
        (void)error_set(&err, E_UNAVAILABLE, "the replica was lost while it answered: try again");
    }
    fail(g, &err);
}

static const struct bus_call_events call_events = {.on_item = on_item, .on_end = on_end};

static int pack(struct candidate *c, struct error *err) {
    struct generation *g = c->generation;
    Genloop__V1__GenerateRequest *m = &g->request.message;
    uint64_t seed = m->seed;
    if (g->request.n_prompts > 0) {
        const struct prompt *p = &g->request.prompts[c->prompt];
        m->prompt = (char *)(p->text ? p->text : protobuf_c_empty_string);
        m->prompt_tokens = p->tokens;
        m->n_prompt_tokens = p->text ? 0 : p->n_tokens;
    }
    m->model = g->model;
    m->n = 1;
    m->session = g->x->session;
    if (g->request.best_of > g->request.n) m->logprobs = true; /* to know which are best */
    if (!g->request.stream) m->piece_tokens = PIECE_TOKENS;
    m->seed = seed + c->k;
    buf_clear(&g->packed);
    size_t size = genloop__v1__generate_request__get_packed_size(m);
    char *at = buf_reserve(&g->packed, size ? size : 1);
    if (at) buf_commit(&g->packed, genloop__v1__generate_request__pack(m, (uint8_t *)at));
    m->seed = seed;
    return at ? 0 : error_set(err, E_TOO_LARGE, "the request is too large");
}

/* A token of a stream is a chunk, which is large where its candidates are told too. What is answered whole is gathered, and waits for nobody. */
static uint32_t credit_of(const struct generation *g) {
    const Genloop__V1__GenerateRequest *m = &g->request.message;
    size_t chunk = CHUNK_BYTES + (m->logprobs ? (1 + (size_t)m->top_logprobs) * CANDIDATE_BYTES : 0), fits = HELD_MAX / (chunk * g->n);
    if (!g->request.stream || fits > CREDIT_MAX) return CREDIT_MAX;
    return fits < CREDIT_MIN ? CREDIT_MIN : (uint32_t)fits;
}

static void prefix_add_text(struct prefix_chain *p, const char *s) { prefix_add(p, span_of(s, strlen(s) + 1)); /* with its end, which keeps it from the next */ }

/* The candidate's prompt in the order in which templates write it, for the routing. NULL: there is no comparing. */
static const struct prefix_chain *prefix_of(struct generation *g, const struct candidate *c) {
    const Genloop__V1__GenerateRequest *m = &g->request.message;
    if (g->prefix && g->prefix_prompt == c->prompt) return g->prefix;
    if (g->gateway->settings->prefix_share == 0 || (!g->prefix && !(g->prefix = arena_alloc_raw(&g->arena, sizeof *g->prefix)))) return NULL;
    g->prefix_prompt = c->prompt;
    routing_prefix_begin(g->gateway->routing, g->prefix, span_str(g->x->caller.tenant), span_str(g->model));
    for (size_t i = 0; i < m->n_tools; i++) {
        prefix_add_text(g->prefix, m->tools[i]->name);
        prefix_add_text(g->prefix, m->tools[i]->description);
        prefix_add_text(g->prefix, m->tools[i]->parameters);
    }
    for (size_t i = 0; i < m->n_messages; i++) {
        const Genloop__V1__ChatMessage *said = m->messages[i];
        prefix_add_text(g->prefix, said->role);
        prefix_add_text(g->prefix, said->content);
        for (size_t k = 0; k < said->n_tool_calls; k++) {
            prefix_add_text(g->prefix, said->tool_calls[k]->name);
            prefix_add_text(g->prefix, said->tool_calls[k]->arguments);
        }
    }
    if (g->request.n_prompts > 0) {
        const struct prompt *p = &g->request.prompts[c->prompt];
        prefix_add(g->prefix, p->text ? span_str(p->text) : span_of(p->tokens, p->n_tokens * sizeof *p->tokens));
    }
    return g->prefix;
}

/* Sends a candidate to the best replica that has not been tried for it. */
static int dispatch(struct candidate *c, struct error *err) {
    struct generation *g = c->generation;
    struct gateway *gw = g->gateway;
    struct bus_context context = exchange_context(g->x, 0);
    int r = pack(c, err);
    if (r < 0) return r;
    while (true) {
        struct replica *replica;
        enum routing_prefix decided;
        switch (routing_pick(gw->routing, span_str(g->model), g->session_hash, prefix_of(g, c), &c->tried, now_ms(g), &replica, &decided)) {
        case ROUTING_NONE: return error_set(err, E_UNAVAILABLE, "no replica holds %s now: try again in a moment", g->model);
        case ROUTING_LOADING: return error_set(err, E_UNAVAILABLE, "%s is being loaded: try again in a moment", g->model);
        case ROUTING_FOUND: break;
        }
        void *peer = replica_peer(replica);
        if (decided != ROUTING_PREFIX_NOT_ASKED) metric_add(by_prefix[decided], 1);
        c->call = bus_call(peer, "Generation/GenerateStream", &context, buf_span(&g->packed), false, g->credit, c, &call_events, err);
        routing_sent(replica, &c->tried);
        if (c->call) {
            c->peer = peer;
            c->owed = 0;
            return 0;
        }
        routing_done(gw->routing, peer);
        if (err->code == E_UNAVAILABLE) routing_fault(gw->routing, peer, now_ms(g));
        if (err->code != E_UNAVAILABLE) return err->code;
    }
}

enum door { DOOR_CHAT, DOOR_COMPLETION, DOOR_RESPONSE, DOOR_CALL };

/* A line of a batch is kept where it says so: nobody goes on with thousands of them. */
static int read_response(struct generation *g, const struct json *body, const struct json *context, struct error *err) {
    struct response *p = g->response = response_new(g->x);
    if (!p) return error_set(err, E_NOMEM, "no memory for the request");
    int r = response_request_read(&g->request, &g->arena, body, context, g->x->request_id, &p->request, err);
    p->answer.asked = body;
    p->answer.stem = g->x->request_id;
    p->answer.stored = p->request.store && g->gateway->settings->responses_ttl_ms > 0 && (!g->x->batch || !json_is_null(json_get(body, "store")));
    if (r == 0) response_name_subjects(p, g->x, g->request.message.user, context);
    g->x->pending.cap = g->chunk.cap = RESPONSE_CHUNK_MAX;
    return r;
}

static int read_request(struct generation *g, enum door door, const struct json *body, const struct json *context, struct error *err) {
    switch (door) {
    case DOOR_CHAT: return chat_request_read(&g->request, &g->arena, body, err);
    case DOOR_COMPLETION: return completion_request_read(&g->request, &g->arena, body, err);
    case DOOR_RESPONSE: return read_response(g, body, context, err);
    case DOOR_CALL: return message_request_read(&g->request, &g->arena, grpc_message(g->x), grpc_method_of(g->x)->server_stream, err);
    }
    return E_INTERNAL;
}

static void start(struct generation *g) {
    struct exchange *x = g->x;
    struct error err = {0};
    int r;
    x->tokens_used = x->prompt_estimate; /* until it is known, or somebody else is to be asked */
    for (size_t i = 0; i < g->n; i++)
        if ((r = dispatch(&g->candidates[i], &err)) < 0) {
            if (r == E_UNAVAILABLE && i == 0 && exchange_wait(x)) generation_free(g);
            else fail(g, &err);
            return;
        }
}

/* ---- answers that were given before ---- */

/* Tells as much as the client takes: the rest when it has. */
static void replay(struct generation *g) {
    struct span items = buf_span(&g->replay), item;
    size_t before = items.len;
    uint16_t source;
    bool whole = false;
    while ((!g->request.stream || exchange_clear(g->x)) && answer_next(&items, &source, &item, &whole)) {
        if (source < g->n && !take_item(&g->candidates[source], item)) return;
    }
    buf_consume(&g->replay, before - items.len);
    if (items.len == 0) finish(g);
}

static void on_cached(void *arg, bool hit, struct span items) {
    struct generation *g = arg;
    struct span rest = items, item;
    uint16_t source;
    bool whole = false;
    if (hit) { /* of another shape than ours it is none: it is sealed, so only we could have written it */
        while (answer_next(&rest, &source, &item, &whole)) whole = false;
        hit = whole && items.len > 0 && buf_append_span(&g->replay, items) == 0;
    }
    if (!hit) {
        start(g);
        return;
    }
    g->x->from_cache = true;
    replay(g);
}

/* Greedy choice is a function of the request, and so is chance from a seed: choices differ by seeds that follow each other. */
static bool deterministic(const Genloop__V1__GenerateRequest *m) {
    bool greedy = m->temperature_set_case == GENLOOP__V1__GENERATE_REQUEST__TEMPERATURE_SET_TEMPERATURE && m->temperature == 0;
    return greedy || m->seed_set_case == GENLOOP__V1__GENERATE_REQUEST__SEED_SET_SEED;
}

/* False: there is nothing to look for. Otherwise on_cached comes. */
static bool look_into_cache(struct generation *g, const Genloop__V1__ModelVersion *version) {
    struct exchange *x = g->x;
    struct answer_hash hash;
    struct answer_key key;
    struct error err;
    char session[SESSION_MAX];
    if (g->gateway->settings->cache_ttl_ms == 0 || !deterministic(&g->request.message)) return false;
    /* Its name is all that is sent, but for the session: that says where, not what. */
    memcpy(session, x->session, sizeof session);
    x->session[0] = '\0';
    answer_hash_begin(&hash, g->gateway->answer_secret, span_str(x->caller.tenant), span_str(g->model), span_str(version->directory ? version->directory->sha256 : ""));
    answer_hash_add(&hash, span_of(&g->request.best_of, sizeof g->request.best_of));
    int r = 0;
    for (size_t i = 0; i < g->n && r == 0; i++) {
        r = pack(&g->candidates[i], &err);
        answer_hash_add(&hash, buf_span(&g->packed));
    }
    memcpy(x->session, session, sizeof session);
    answer_hash_end(&hash, &key);
    if (r < 0) return false; /* it is too large, and will hear so when it is sent */
    cached_use(&g->cached, &key, http_header(x->http, "cache-control"));
    return cached_look(&g->cached, g, on_cached);
}

static void generate(struct exchange *x, const struct json *body, enum door door, const struct json *context) {
    struct gateway *gw = x->gateway;
    struct error err = {0};
    const Genloop__V1__ModelVersion *version;
    int r;
    init_metrics();
    struct generation *g = mem_zalloc(sizeof *g);
    if (!g) {
        (void)error_set(&err, E_NOMEM, "no memory for the request");
        exchange_error(x, &err);
        return;
    }
    g->x = x;
    g->gateway = gw;
    g->counted = !x->batch;
    gw->generating += g->counted;
    arena_init(&g->arena, REQUEST_ARENA_MAX);
    buf_init(&g->packed, REQUEST_BYTES_MAX);
    buf_init(&g->chunk, CHUNK_MAX);
    buf_init(&g->replay, (size_t)gw->settings->cache_entry_max + ANSWER_OVERHEAD);
    cached_init(&g->cached, gw);
    r = read_request(g, door, body, context, &err);
    if (x->batch) g->request.message.priority = BATCH_PRIORITY;
    bool chat = g->request.chat;
    g->wants_logprobs = g->request.message.logprobs;
    if (r == 0 && !x->session[0]) span_copy(x->session, sizeof x->session, span_str(g->request.message.session));
    struct span stays = x->session[0] ? span_str(x->session) : span_str(x->request_id);
    if (r == 0) r = registry_resolve(gw->registry, span_str(g->request.message.model), span_hash(stays), &version, &g->canary, &err);
    bool between = r == E_NOT_FOUND && registry_between(gw->registry, span_str(g->request.message.model));
    if ((r == E_UNAVAILABLE || between) && exchange_wait(x)) {
        generation_free(g);
        return;
    }
    if (r < 0) {
        fail(g, &err);
        return;
    }
    (void)snprintf(g->model, sizeof g->model, "%s@%u", version->name, version->version);
    (void)snprintf(g->id, sizeof g->id, "%s%s", g->response ? "resp_" : chat ? "chatcmpl-" : "cmpl-", x->request_id);
    g->answer = (struct answer){.chat = chat, .id = g->id, .created_s = clock_wall_ms() / 1000, .model = g->model};
    if (g->response) {
        g->response->answer.id = g->id;
        g->response->answer.model = g->model;
        g->response->answer.created_s = g->answer.created_s;
    }
    g->session_hash = x->session[0] ? span_hash(span_str(x->session)) : 0;
    size_t prompts = chat ? 1 : g->request.n_prompts;
    g->candidates = mem_calloc(prompts * g->request.best_of, sizeof *g->candidates);
    if (!g->candidates) {
        (void)error_set(&err, E_NOMEM, "no memory for the request");
        fail(g, &err);
        return;
    }
    for (size_t p = 0; p < prompts; p++)
        for (uint32_t k = 0; k < g->request.best_of; k++) {
            struct candidate *c = &g->candidates[g->n];
            c->generation = g;
            c->prompt = p;
            c->k = k;
            choice_init(&c->choice, (uint32_t)g->n);
            g->n++;
        }
    g->credit = credit_of(g);
    exchange_watch(x, g, on_gone, on_clear);
    if (!look_into_cache(g, version)) start(g);
}

void chat_create(struct exchange *x, const struct json *body) { generate(x, body, DOOR_CHAT, NULL); }
void completion_create(struct exchange *x, const struct json *body) { generate(x, body, DOOR_COMPLETION, NULL); }
void generation_call(struct exchange *x, const struct json *body) { generate(x, body, DOOR_CALL, NULL); }
void generate_response(struct exchange *x, const struct json *body, const struct json *context) { generate(x, body, DOOR_RESPONSE, context); }
