/* /v1/responses: what is kept of responses, and what is asked of it. What is generated is generate.c's. */
#include "responses.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "cache/answers.h"
#include "http/query.h"
#include "pages.h"
#include "routes.h"

enum {
    ITEMS_LIMIT_DEFAULT = 20, ITEMS_LIMIT_MAX = 100, /* OpenAI's own */
    RESPONSE_JSON_MAX = 32 << 20,                    /* of what gateway.responses_max lets be kept, escaped anew */
    PX_TEXT_MAX = 24, NAME_MAX_BYTES = 96,
};

static struct metric *kept, *not_kept;

static void init_metrics(void) {
    if (kept) return;
    kept = metric_counter("genloop_gateway_kept_responses_total", "result=\"kept\"", "Responses that were to be kept, by what became of them.");
    not_kept = metric_counter("genloop_gateway_kept_responses_total", "result=\"not_kept\"", "Responses that were to be kept, by what became of them.");
}

/* Where a response of the caller's tenant lies, and what it is sealed with. */
static void name_record(const struct exchange *x, struct span id, struct answer_key *key, char name[NAME_MAX_BYTES]) {
    struct answer_hash h;
    answer_hash_begin(&h, x->gateway->answer_secret, span_str(x->caller.tenant), SPAN("response"), SPAN(""));
    answer_hash_add(&h, id);
    answer_hash_end(&h, key);
    (void)snprintf(name, NAME_MAX_BYTES, "genloop:response:%s", key->name + strlen("genloop:answer:"));
}

/* ---- keeping ---- */

/* What is sealed, and then asked of Redis. */
struct keep {
    struct response *response; /* NULL: it is gone, and nothing is kept */
    struct gateway *gateway;
    struct answer_key key;
    char name[NAME_MAX_BYTES];
    struct response_subjects subjects;
    struct buf record, sealed;
    int r;
    struct error err;
};
static void keep_free(struct keep *k) {
    if (!k) return;
    explicit_bzero(&k->key, sizeof k->key);
    buf_fini(&k->record);
    buf_fini(&k->sealed);
    mem_free(k);
}

struct response *response_new(struct exchange *x) {
    struct response *p = mem_zalloc(sizeof *p);
    init_metrics();
    if (!p) return NULL;
    buf_init(&p->request.items, (size_t)x->gateway->settings->responses_max_bytes);
    response_answer_init(&p->answer);
    return p;
}

void response_free(struct response *p) {
    if (!p) return;
    link_cancel(p->keeping);
    if (p->sealing) p->sealing->response = NULL;
    buf_fini(&p->request.items);
    response_answer_fini(&p->answer);
    mem_free(p);
}

void response_name_subjects(struct response *p, const struct exchange *x, const char *user, const struct json *context) {
    char id[SEAL_KEY_ID_MAX];
    int r = response_subjects_take(&p->subjects, context);
    if (r == 0 && user[0]) {
        keyring_subject_id(service_keyring(x->gateway->service), span_str(x->caller.tenant), span_str(user), id);
        r = response_subjects_add(&p->subjects, span_str(id));
    }
    if (r == 0 || !p->answer.stored) return;
    p->answer.stored = false;
    metric_add(not_kept, 1);
    log_debug("gateway.responses", "%s is not kept: its conversation is about more than %d subjects, or those before it cannot be read", x->request_id, RESPONSE_SUBJECTS_MAX);
}

static void on_set(void *arg, int r, const struct redis_reply *reply) {
    struct response *p = arg;
    p->keeping = NULL;
    p->answer.stored = r == 0 && redis_type(reply) == REDIS_STATUS;
    metric_add(p->answer.stored ? kept : not_kept, 1);
    p->on_kept(p->arg); /* p may be gone behind this */
}

/* {"response":{…},"input":[…],"subjects":[…]} */
static int write_record(const struct response *p, struct buf *record) {
    const struct buf *items = &p->request.items, *output = &p->answer.output;
    (void)buf_append_str(record, "{\"response\":");
    response_answer_write(record, &p->answer, NULL);
    (void)buf_append_str(record, ",\"input\":");
    (void)buf_append_span(record, buf_span(items));
    for (size_t i = 0; i < p->subjects.n; i++) (void)buf_printf(record, "%s\"%s\"", i ? "," : ",\"subjects\":[", p->subjects.ids[i]);
    (void)buf_append_str(record, p->subjects.n ? "]}" : "}");
    return items->failed ? items->failed : output->failed ? output->failed : record->failed;
}

static int seal(struct keep *k) {
    struct buf entry;
    buf_init(&entry, k->record.len + RESPONSE_SEAL_OVERHEAD + ANSWER_OVERHEAD);
    int r = answer_begin(&entry, clock_wall_ms());
    if (r == 0) r = response_seal(service_keyring(k->gateway->service), &k->subjects, buf_span(&k->record), &entry, &k->err);
    if (r == 0) r = answer_seal(&k->key, buf_span(&entry), &k->sealed);
    buf_fini(&entry);
    return r;
}

/* True: on_set follows. */
static bool ask_redis(struct response *p, const struct keep *k) {
    char px[PX_TEXT_MAX];
    int r = k->r;
    (void)snprintf(px, sizeof px, "%lld", (long long)k->gateway->settings->responses_ttl_ms);
    const struct span argv[] = {SPAN("SET"), span_str(k->name), buf_span(&k->sealed), SPAN("PX"), span_str(px)};
    if (r == 0) r = link_ask(k->gateway->cache, 5, argv, p, on_set, &p->keeping);
    if (r == 0) return true;
    p->answer.stored = false;
    metric_add(not_kept, 1);
    log_debug("gateway.responses", "%s is not kept: %s", p->answer.id, r == E_UNAVAILABLE ? "Redis is away" : r == E_NOT_FOUND ? "its subject is erased" : r == E_FULL ? "it is larger than gateway.responses_max, or Redis has too much to do" : "no memory, or no key for its subject");
    return false;
}

static void seal_on_worker(void *arg) {
    struct keep *k = arg;
    k->r = seal(k);
}
static void on_sealed(void *arg) {
    struct keep *k = arg;
    struct response *p = k->response;
    if (p) p->sealing = NULL;
    bool asked = p && ask_redis(p, k);
    keep_free(k);
    if (p && !asked) p->on_kept(p->arg); /* p may be gone behind this */
}

bool response_keep(struct response *p, struct exchange *x, void *arg, void (*on_kept)(void *arg)) {
    size_t max = (size_t)x->gateway->settings->responses_max_bytes;
    struct keep *k = p->answer.stored ? mem_zalloc(sizeof *k) : NULL;
    bool follows = false;
    if (!p->answer.stored) return false;
    p->arg = arg;
    p->on_kept = on_kept;
    if (k) {
        k->response = p;
        k->gateway = x->gateway;
        k->subjects = p->subjects;
        buf_init(&k->record, max);
        buf_init(&k->sealed, max + RESPONSE_SEAL_OVERHEAD + 2 * ANSWER_OVERHEAD);
        name_record(x, span_str(p->answer.id), &k->key, k->name);
        k->r = write_record(p, &k->record);
        if (k->r == 0 && p->subjects.n) { /* keys are files */
            int r = loop_work(service_loop(x->gateway->service), seal_on_worker, on_sealed, k);
            if (r == 0) { /* k is the worker's now, its r too: a quick one has written it already */
                p->sealing = k;
                return true;
            }
            k->r = r;
        } else if (k->r == 0) k->r = seal(k);
        follows = ask_redis(p, k);
    } else {
        p->answer.stored = false;
        metric_add(not_kept, 1);
    }
    keep_free(k);
    return follows;
}

/* ---- looking ---- */

struct look {
    struct exchange *x; /* NULL: it is gone while a worker opens what was found */
    struct gateway *gateway;
    struct answer_key key;
    struct link_call *call;
    bool working;
    struct response_subjects subjects;
    struct span sealed; /* in items */
    struct buf items, record;
    int r;
    struct error err;
    /* record: borrowed for the call; NULL: err says why. Ends the exchange, or hands it on. */
    void (*on_record)(struct exchange *x, const struct json *record, const struct error *err);
};

static void look_free(struct look *l) {
    explicit_bzero(&l->key, sizeof l->key);
    buf_fini(&l->items);
    buf_fini(&l->record);
    mem_free(l);
}

static void on_look_gone(void *state) {
    struct look *l = state;
    struct exchange *x = l->x;
    link_cancel(l->call);
    if (l->working) l->x = NULL;
    else look_free(l);
    exchange_abort(x);
}

static int away(struct error *err) { return error_set(err, E_UNAVAILABLE, "responses lie in Redis, which does not answer: try again in a moment"); }

/* Ends the look; record: its text, where r is 0. */
static void found(struct look *l, int r, struct span record) {
    struct exchange *x = l->x;
    struct json *v = NULL;
    if (r == 0 && (r = json_parse(record, &v, &l->err)) < 0) r = error_set(&l->err, E_DATA_LOSS, "what was kept of the response cannot be read");
    void (*on_record)(struct exchange *x, const struct json *record, const struct error *err) = l->on_record;
    struct error err = l->err;
    look_free(l);
    on_record(x, r == 0 ? v : NULL, &err);
    json_free(v);
}

static void unseal_on_worker(void *arg) {
    struct look *l = arg;
    l->r = response_unseal(service_keyring(l->gateway->service), &l->subjects, l->sealed, &l->record, &l->err);
}
static void on_unsealed(void *arg) {
    struct look *l = arg;
    l->working = false;
    if (!l->x) look_free(l);
    else if (l->r == E_NOT_FOUND) found(l, error_set(&l->err, E_NOT_FOUND, "its subject is erased"), SPAN(""));
    else found(l, l->r, buf_span(&l->record));
}

static void on_got(void *arg, int r, const struct redis_reply *reply) {
    struct look *l = arg;
    struct span text = SPAN("");
    bool there = r == 0 && redis_type(reply) == REDIS_STRING;
    int64_t made_ms;
    size_t size = there ? redis_str(reply).len : 0;
    l->call = NULL;
    buf_init(&l->items, size);
    buf_init(&l->record, size);
    if (r < 0 || redis_type(reply) == REDIS_ERROR) r = away(&l->err);
    else if (!there) r = error_set(&l->err, E_NOT_FOUND, "there is none");
    else if (answer_open(&l->key, redis_str(reply), &l->items, &made_ms) < 0) r = error_set(&l->err, E_NOT_FOUND, "what lies there cannot be opened"); /* another secret's: it is nobody's any more */
    else if (response_items_read(buf_span(&l->items), &l->subjects, &text) < 0) r = error_set(&l->err, E_DATA_LOSS, "what was kept of the response cannot be read");
    if (r == 0 && l->subjects.n) {
        l->sealed = text;
        l->working = true;
        if (loop_work(service_loop(l->gateway->service), unseal_on_worker, on_unsealed, l) == 0) return;
        l->working = false;
        r = error_set(&l->err, E_UNAVAILABLE, "too much is being done to open what was kept: try again in a moment");
    }
    found(l, r, text);
}

static void look(struct exchange *x, struct span id, void (*on_record)(struct exchange *x, const struct json *record, const struct error *err)) {
    struct error err = {0};
    char name[NAME_MAX_BYTES];
    struct look *l = mem_zalloc(sizeof *l);
    if (!l) {
        (void)error_set(&err, E_NOMEM, "no memory for the request");
        exchange_error(x, &err);
        return;
    }
    l->x = x;
    l->gateway = x->gateway;
    l->on_record = on_record;
    name_record(x, id, &l->key, name);
    const struct span argv[] = {SPAN("GET"), span_str(name)};
    exchange_watch(x, l, on_look_gone, NULL);
    if (link_ask(x->gateway->cache, 2, argv, l, on_got, &l->call) == 0) return;
    look_free(l);
    (void)away(&err);
    on_record(x, NULL, &err);
}

/* ---- the doors ---- */

/* OpenAI: a response before that is not there is a wrong parameter. What is wrong with the rest of the request is told first. */
static void refuse_previous(struct exchange *x, const struct error *why) {
    struct generate_request request;
    struct response_request more = {.store = false};
    struct arena arena;
    struct error err = {0};
    struct span id = json_string(json_get(x->json, "previous_response_id"));
    arena_init(&arena, REQUEST_ARENA_MAX);
    buf_init(&more.items, 0);
    int r = response_request_read(&request, &arena, x->json, NULL, x->request_id, &more, &err);
    buf_fini(&more.items);
    arena_fini(&arena);
    if (r < 0) {
        exchange_error_code(x, &err, r == E_UNSUPPORTED ? "unsupported_parameter" : NULL);
        return;
    }
    if (why->code != E_NOT_FOUND) {
        exchange_error(x, why);
        return;
    }
    (void)error_set_param(&err, E_INVALID, "previous_response_id", "previous response '%.*s' not found: it is kept with \"store\": true, for gateway.responses_ttl at most", (int)(id.len < 128 ? id.len : 128), id.data);
    exchange_error_code(x, &err, "previous_response_not_found");
}

static void on_previous(struct exchange *x, const struct json *record, const struct error *err) {
    if (record) generate_response(x, x->json, record);
    else refuse_previous(x, err);
}

void responses_create(struct exchange *x, const struct json *body) {
    const struct json *previous = json_get(body, "previous_response_id");
    if (json_type(previous) == JSON_TYPE_STRING && json_string(previous).len > 0) look(x, json_string(previous), on_previous);
    else generate_response(x, body, NULL); /* what is no id is refused where the request is read */
}

static void refuse(struct exchange *x, const struct error *why) {
    struct error err = *why;
    if (why->code == E_NOT_FOUND)
        (void)error_set_param(&err, E_NOT_FOUND, "response_id", "response '%s' not found: it is kept with \"store\": true, for gateway.responses_ttl at most", exchange_param(x, 0));
    exchange_error(x, &err);
}

static void on_one(struct exchange *x, const struct json *record, const struct error *err) {
    struct buf body;
    if (!record) {
        refuse(x, err);
        return;
    }
    buf_init(&body, RESPONSE_JSON_MAX);
    (void)json_write(&body, json_get(record, "response"));
    exchange_json(x, 200, &body);
    buf_fini(&body);
}

/* The parameters that GET knows at OpenAI: a stream that is told again, and more than is kept, are not built. */
static int check_query(const struct exchange *x, const char *const *names, struct error *err) {
    static const char *const not_built[] = {"include", "include[]", "starting_after", "include_obfuscation", "stream"};
    struct span query = http_query(x->http), value;
    char text[QUERY_VALUE_MAX];
    int r = query_check(query, names, err);
    for (size_t i = 0; r == 0 && i < sizeof not_built / sizeof *not_built; i++) {
        int found = query_get(query, not_built[i], text, &value, err);
        if (found == 0 && !span_eq_str(value, "false")) r = error_set_param(err, E_UNSUPPORTED, not_built[i], "'%s' is not supported yet", not_built[i]);
        else if (found < 0 && found != E_NOT_FOUND) r = found;
    }
    return r;
}

void responses_get(struct exchange *x, const struct json *body) {
    static const char *const names[] = {"include", "include[]", "starting_after", "include_obfuscation", "stream", NULL};
    struct error err = {0};
    (void)body;
    if (check_query(x, names, &err) < 0) exchange_error_code(x, &err, err.code == E_UNSUPPORTED ? "unsupported_parameter" : NULL);
    else look(x, span_str(exchange_param(x, 0)), on_one);
}

/* ---- input items ---- */

static int read_page(const struct exchange *x, struct page *page, struct error *err) {
    static const char *const names[] = {"after", "limit", "order", "include", "include[]", NULL};
    int r = check_query(x, names, err);
    return r ? r : page_read(http_query(x->http), ITEMS_LIMIT_DEFAULT, ITEMS_LIMIT_MAX, page, err);
}

static void write_page(struct buf *out, const struct json *items, size_t first, size_t n, size_t all, bool ascending) {
    struct json_out w;
    page_begin(&w, out);
    for (size_t i = first; i < first + n; i++) json_put_value(&w, json_at(items, ascending ? i : all - 1 - i));
    struct span first_id = json_string(json_get(json_at(items, ascending ? first : all - 1 - first), "id")), last_id = json_string(json_get(json_at(items, ascending ? first + n - 1 : all - first - n), "id"));
    page_end(&w, n ? first_id : SPAN(""), n ? last_id : SPAN(""), first + n < all);
}

static void on_items(struct exchange *x, const struct json *record, const struct error *why) {
    const struct json *items = json_get(record, "input");
    struct error err = {0};
    struct page page;
    struct buf body;
    size_t all = json_size(items), first = 0;
    if (!record) {
        refuse(x, why);
        return;
    }
    int r = read_page(x, &page, &err);
    if (r == 0 && page.after[0]) {
        while (first < all && !span_eq_str(json_string(json_get(json_at(items, page.ascending ? first : all - 1 - first), "id")), page.after)) first++;
        if (first == all) r = error_set_param(&err, E_INVALID, "after", "the response has no item '%.64s'", page.after);
        first++;
    }
    if (r < 0) {
        exchange_error(x, &err);
        return;
    }
    size_t n = all - first < (size_t)page.limit ? all - first : (size_t)page.limit;
    buf_init(&body, RESPONSE_JSON_MAX);
    write_page(&body, items, first, n, all, page.ascending);
    exchange_json(x, 200, &body);
    buf_fini(&body);
}

void responses_items(struct exchange *x, const struct json *body) {
    struct error err = {0};
    struct page page;
    (void)body;
    if (read_page(x, &page, &err) < 0) exchange_error_code(x, &err, err.code == E_UNSUPPORTED ? "unsupported_parameter" : NULL);
    else look(x, span_str(exchange_param(x, 0)), on_items);
}

/* ---- delete ---- */

static void on_deleted(void *arg, int r, const struct redis_reply *reply) {
    struct look *l = arg;
    struct exchange *x = l->x;
    struct error err = {0};
    mem_free(l);
    if (r < 0 || redis_type(reply) != REDIS_INTEGER) (void)away(&err);
    else if (redis_int(reply) == 0) (void)error_set(&err, E_NOT_FOUND, "there is none");
    if (err.code < 0) {
        refuse(x, &err);
        return;
    }
    struct buf body;
    struct json_out w;
    buf_init(&body, RESPONSE_JSON_MAX);
    json_begin(&w, &body);
    json_object(&w);
    json_str(&w, "id", exchange_param(x, 0));
    json_str(&w, "object", "response");
    json_flag(&w, "deleted", true);
    json_object_end(&w);
    exchange_json(x, 200, &body);
    buf_fini(&body);
}

void responses_delete(struct exchange *x, const struct json *body) {
    struct error err = {0};
    struct answer_key key;
    char name[NAME_MAX_BYTES];
    struct look *l = mem_zalloc(sizeof *l);
    (void)body;
    if (!l) {
        (void)error_set(&err, E_NOMEM, "no memory for the request");
        exchange_error(x, &err);
        return;
    }
    l->x = x;
    name_record(x, span_str(exchange_param(x, 0)), &key, name);
    explicit_bzero(&key, sizeof key);
    const struct span argv[] = {SPAN("DEL"), span_str(name)};
    exchange_watch(x, l, on_look_gone, NULL);
    if (link_ask(x->gateway->cache, 2, argv, l, on_deleted, &l->call) == 0) return;
    mem_free(l);
    (void)away(&err);
    exchange_error(x, &err);
}
