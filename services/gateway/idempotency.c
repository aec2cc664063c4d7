#include "idempotency.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/random.h"
#include "cache/answers.h"
#include "cache/redis.h"
#include "idempotency_record.h"

enum {
    REDIS_TIMEOUT_MS = 500,
    AWAY_MS = 1000,          /* after a failure nobody asks for so long: a Redis that hangs costs one request its timeout, not each */
    LEASE_MS = 15000, RENEW_MS = 5000, /* of what runs: a gateway that died holds a key at most so long */
    CONNECTIONS_MAX = 4,     /* kept; workers that are more at once make their own */
    RECORD_HEAD_MAX = 256,
};

struct idempotency {
    struct gateway *gateway;
    pthread_mutex_t lock;    /* of free */
    struct redis *free[CONNECTIONS_MAX];
    int n_free;
    atomic_int abroad;       /* workers at it */
    size_t operations;       /* whose end the loop has not seen */
    _Atomic int64_t away_until_ms;
    bool closed;
    struct metric *first, *replayed, *running, *mismatch, *dropped, *away;
};

/* ---- Redis, on workers ---- */

static struct redis *take_connection(struct idempotency *i, struct error *err) {
    struct redis *r = NULL;
    pthread_mutex_lock(&i->lock);
    if (i->n_free) r = i->free[--i->n_free];
    pthread_mutex_unlock(&i->lock);
    if (!r) (void)redis_new(i->gateway->settings->shared.redis, REDIS_TIMEOUT_MS, &r, err);
    return r;
}

static void give_connection(struct idempotency *i, struct redis *r) {
    pthread_mutex_lock(&i->lock);
    bool kept = i->n_free < CONNECTIONS_MAX;
    if (kept) i->free[i->n_free++] = r;
    pthread_mutex_unlock(&i->lock);
    if (!kept) redis_free(r);
}

/* Only who runs it may change it: a record whose head is ours. */
static const char SET_MINE[] = "if redis.call('GETRANGE',KEYS[1],0,#ARGV[1]-1)==ARGV[1] then return redis.call('SET',KEYS[1],ARGV[2],'PX',ARGV[3]) end return false";
static const char DELETE_MINE[] = "if redis.call('GETRANGE',KEYS[1],0,#ARGV[1]-1)==ARGV[1] then return redis.call('DEL',KEYS[1]) end return 0";
static const char RENEW_MINE[] = "if redis.call('GETRANGE',KEYS[1],0,#ARGV[1]-1)==ARGV[1] then return redis.call('PEXPIRE',KEYS[1],ARGV[3]) end return 0";

enum step { STEP_CLAIM, STEP_KEEP, STEP_RELEASE, STEP_RENEW };

/* One thing asked of Redis. It belongs to nobody but itself; what waits for it is told. */
struct operation {
    struct idempotency *i;
    enum step step;
    struct idempotent *waiting; /* NULL: nobody */
    char key[SHA256_HEX_MAX + 32], head[RECORD_HEAD_MAX], ttl[24];
    struct buf value, found;
    bool claimed;
    int r;
    struct error err;
};

struct idempotent {
    struct exchange *x;
    struct idempotency *i;
    char key[SHA256_HEX_MAX + 32], fingerprint[SHA256_HEX_MAX], owner[IDEMPOTENCY_OWNER_MAX];
    struct loop_timer *renew;
    struct answer_key seal;   /* of the answer */
    bool running;             /* the record in Redis is ours */
    bool gone;                /* the client, while Redis was asked */
    int status;               /* of the answer that is being kept */
    struct buf body, sealed;
};

static int claim(struct operation *o, struct redis *redis) {
    struct redis_reply *reply = NULL;
    const struct span set[] = {SPAN("SET"), span_str(o->key), buf_span(&o->value), SPAN("NX"), SPAN("PX"), span_str(o->ttl)};
    const struct span get[] = {SPAN("GET"), span_str(o->key)};
    int r = 0;
    /* Between the two the record may go: then the claim is tried once more. */
    for (int attempt = 0; attempt < 2 && r == 0 && !o->claimed && o->found.len == 0; attempt++) {
        r = redis_command(redis, 6, set, &reply, &o->err);
        if (r == 0) o->claimed = redis_type(reply) == REDIS_STATUS;
        redis_reply_free(reply);
        reply = NULL;
        if (r < 0 || o->claimed) break;
        r = redis_command(redis, 2, get, &reply, &o->err);
        if (r == 0 && redis_type(reply) == REDIS_STRING && buf_append_span(&o->found, redis_str(reply)) < 0) r = error_set(&o->err, E_NOMEM, "no memory for an answer that was kept");
        redis_reply_free(reply);
        reply = NULL;
    }
    return r;
}

static int run_script(struct operation *o, struct redis *redis, const char *script) {
    struct redis_reply *reply = NULL;
    const struct span words[] = {SPAN("EVAL"), span_str(script), SPAN("1"), span_str(o->key), span_str(o->head), buf_span(&o->value), span_str(o->ttl)};
    int r = redis_command(redis, 7, words, &reply, &o->err);
    redis_reply_free(reply);
    return r;
}

static void work(void *arg) {
    struct operation *o = arg;
    struct redis *redis = take_connection(o->i, &o->err);
    if (!redis) o->r = o->err.code;
    else {
        o->r = o->step == STEP_CLAIM ? claim(o, redis) : run_script(o, redis, o->step == STEP_KEEP ? SET_MINE : o->step == STEP_RENEW ? RENEW_MINE : DELETE_MINE);
        if (o->r == E_UNAVAILABLE || o->r == E_DEADLINE) atomic_store(&o->i->away_until_ms, clock_mono_ms() + AWAY_MS);
        give_connection(o->i, redis);
    }
    atomic_fetch_sub(&o->i->abroad, 1);
}

static void idempotency_unref(struct idempotency *i) {
    if (!i->closed || i->operations) return;
    while (i->n_free) redis_free(i->free[--i->n_free]);
    pthread_mutex_destroy(&i->lock);
    mem_free(i);
}

static void claimed(struct idempotent *p, struct operation *o);
static void kept(struct idempotent *p);
static void idempotent_free(struct idempotent *p);

static void done(void *arg) {
    struct operation *o = arg;
    struct idempotency *i = o->i;
    i->operations--;
    if (o->r < 0) log_debug("gateway.idempotency", "Redis: %s", o->err.message);
    if (o->waiting && i->closed) { /* the gateway is gone, and the exchange with it */
        o->waiting->x = NULL;
        idempotent_free(o->waiting);
    } else if (o->waiting && o->step == STEP_CLAIM) claimed(o->waiting, o);
    else if (o->waiting) kept(o->waiting);
    buf_fini(&o->value);
    buf_fini(&o->found);
    mem_free(o);
    idempotency_unref(i);
}

/* False: Redis cannot be asked now. */
static bool ask(struct idempotent *p, enum step step, struct idempotent *waiting) {
    struct idempotency *i = p->i;
    size_t record_max = (size_t)i->gateway->settings->idempotency_max_bytes + 2 * RECORD_HEAD_MAX;
    struct operation *o = i->closed || clock_mono_ms() < atomic_load(&i->away_until_ms) ? NULL : mem_zalloc(sizeof *o);
    if (!o) return false;
    struct idempotency_record record = {.owner = span_str(p->owner), .fingerprint = span_str(p->fingerprint), .answered = step == STEP_KEEP, .status = p->status, .body = buf_span(&p->sealed)};
    o->i = i;
    o->step = step;
    o->waiting = waiting;
    memcpy(o->key, p->key, sizeof o->key);
    (void)snprintf(o->head, sizeof o->head, "r %s ", p->owner);
    (void)snprintf(o->ttl, sizeof o->ttl, "%lld", (long long)(step == STEP_KEEP ? i->gateway->settings->idempotency_ttl_ms : LEASE_MS));
    buf_init(&o->value, record_max);
    buf_init(&o->found, record_max);
    bool good = idempotency_write(&record, &o->value) == 0;
    if (good) {
        i->operations++;
        atomic_fetch_add(&i->abroad, 1);
        good = loop_work(service_loop(i->gateway->service), work, done, o) == 0;
        if (good) return true;
        atomic_fetch_sub(&i->abroad, 1);
        i->operations--;
    }
    buf_fini(&o->value);
    buf_fini(&o->found);
    mem_free(o);
    return false;
}

/* ---- an exchange with a key ---- */

static void idempotent_free(struct idempotent *p) {
    if (p->x) p->x->idempotent = NULL;
    loop_timer_close(p->renew);
    buf_fini(&p->body);
    buf_fini(&p->sealed);
    mem_free(p);
}

static void on_renew(void *arg) { (void)ask(arg, STEP_RENEW, NULL); }

/* While Redis is asked the exchange is ours. */
static void on_gone(void *state) { ((struct idempotent *)state)->gone = true; }

static void handle(struct exchange *x) { x->match.route->handle(x, x->json); }

static void off(struct exchange *x) {
    metric_add(x->gateway->idempotency->away, 1);
    (void)http_header_add(x->http, "x-genloop-idempotency", SPAN("off"));
}

static void refuse_running(struct exchange *x) {
    struct error err = {0};
    (void)error_set_param(&err, E_ABORTED, "Idempotency-Key", "the request with this Idempotency-Key is still being answered: ask again in a moment");
    (void)http_header_add(x->http, "Retry-After", SPAN("1"));
    exchange_error_status(x, 409, &err, "idempotency_key_in_use");
}

static int seal(struct idempotent *p) {
    struct buf entry;
    buf_init(&entry, p->body.len + RECORD_HEAD_MAX);
    int r = answer_begin(&entry, clock_wall_ms());
    if (r == 0) r = answer_item(&entry, 0, buf_span(&p->body));
    if (r == 0) r = answer_seal(&p->seal, buf_span(&entry), &p->sealed);
    buf_fini(&entry);
    return r;
}

/* What a record's answer says: false where it is none under this key. */
static bool unseal(const struct answer_key *key, struct span sealed, struct buf *body) {
    struct buf items;
    struct span rest, bytes;
    int64_t made_ms;
    uint16_t source;
    bool whole;
    buf_init(&items, sealed.len + 1);
    bool good = answer_open(key, sealed, &items, &made_ms) == 0;
    rest = buf_span(&items);
    good = good && answer_next(&rest, &source, &bytes, &whole) && buf_append_span(body, bytes) == 0;
    buf_fini(&items);
    return good;
}

static void claimed(struct idempotent *p, struct operation *o) {
    struct exchange *x = p->x;
    struct idempotency_record record;
    bool gone = p->gone;
    if (o->claimed) {
        metric_add(p->i->first, 1);
        p->running = true;
        if (gone) { /* nothing was begun: the key is free again */
            exchange_abort(x);
            return;
        }
        if ((p->renew = loop_timer_new(service_loop(x->gateway->service), p, on_renew))) loop_timer_start(p->renew, RENEW_MS, RENEW_MS);
        handle(x);
        return;
    }
    bool known = o->r == 0 && idempotency_read(buf_span(&o->found), &record) == 0, same = known && span_eq_str(record.fingerprint, p->fingerprint);
    struct idempotency *i = p->i;
    struct buf body;
    buf_init(&body, o->found.len + 1);
    if (same && record.answered) known = unseal(&p->seal, record.body, &body);
    idempotent_free(p); /* what is found is the operation's */
    if (gone) exchange_abort(x);
    else if (!known) {
        off(x);
        handle(x);
    } else if (!same) {
        metric_add(i->mismatch, 1);
        idempotency_mismatch(x);
    } else if (!record.answered) {
        metric_add(i->running, 1);
        refuse_running(x);
    } else {
        metric_add(i->replayed, 1);
        (void)http_header_add(x->http, "Idempotent-Replayed", SPAN("true"));
        exchange_json(x, record.status, &body);
    }
    buf_fini(&body);
}

static void kept(struct idempotent *p) {
    struct exchange *x = p->x;
    struct buf body = p->body;
    int status = p->status;
    bool gone = p->gone;
    p->body = (struct buf){0};
    p->running = false;
    idempotent_free(p);
    if (gone) exchange_abort(x);
    else exchange_json(x, status, &body);
    buf_fini(&body);
}

/* What goes into headers and ids of others: visible ASCII. */
static int key_check(struct span key, struct error *err) {
    bool good = key.len > 0 && key.len <= IDEMPOTENCY_KEY_MAX;
    for (size_t i = 0; good && i < key.len; i++) good = key.data[i] > 0x20 && key.data[i] < 0x7f;
    return good ? 0 : error_set_param(err, E_INVALID, "Idempotency-Key", "the header Idempotency-Key must be 1 to %d visible ASCII characters", IDEMPOTENCY_KEY_MAX);
}

static void digest_key(const struct exchange *x, struct span key, char hex[SHA256_HEX_MAX]) {
    struct bus_context context = exchange_context(x, 0);
    struct sha256 h;
    uint8_t digest[SHA256_SIZE];
    sha256_init(&h);
    sha256_update(&h, context.tenant.data, context.tenant.len);
    sha256_update(&h, "", 1);
    sha256_update(&h, context.actor_id.data, context.actor_id.len); /* keys that two callers chose alike are two keys */
    sha256_update(&h, "", 1);
    sha256_update(&h, key.data, key.len);
    sha256_final(&h, digest);
    hex_encode(digest, sizeof digest, hex);
}

/* Bodies that are read whole. An answer that shows a secret once is never kept. */
static bool takes_keys(const struct exchange *x) {
    const struct route *r = x->match.route;
    return (r->body == BODY_JSON || r->body == BODY_JSON_OR_EMPTY) && span_eq_str(http_method(x->http), "POST") && strcmp(r->pattern, "/v1/admin/keys") != 0;
}

/* Of caller and key: where the record lies, and what its answer is sealed with. */
static void name_record(struct idempotent *p, struct span key) {
    struct bus_context context = exchange_context(p->x, 0);
    struct answer_hash h;
    answer_hash_begin(&h, p->x->gateway->answer_secret, context.tenant, SPAN("idempotency"), context.actor_id);
    answer_hash_add(&h, key);
    answer_hash_end(&h, &p->seal);
    (void)snprintf(p->key, sizeof p->key, "genloop:idempotency:%s", p->seal.name + strlen("genloop:answer:"));
}

/* What must be the same for a request to be the same. */
static void name_request(struct idempotent *p, struct span body) {
    struct http_exchange *http = p->x->http;
    struct answer_hash h;
    struct answer_key key;
    answer_hash_begin(&h, p->x->gateway->answer_secret, SPAN("idempotency"), http_method(http), http_path(http));
    answer_hash_add(&h, http_query(http));
    answer_hash_add(&h, body);
    answer_hash_end(&h, &key);
    span_copy(p->fingerprint, sizeof p->fingerprint, span_str(key.name + strlen("genloop:answer:")));
}

bool idempotency_begin(struct exchange *x, struct span body, int *r, struct error *err) {
    struct span key = http_header(x->http, "idempotency-key");
    struct idempotency *i = x->gateway->idempotency;
    uint8_t owner[(IDEMPOTENCY_OWNER_MAX - 1) / 2];
    *r = 0;
    if (!key.data || x->grpc || !takes_keys(x) || (*r = key_check(key, err)) < 0) return false;
    struct idempotent *p = mem_zalloc(sizeof *p);
    if (!p) {
        off(x);
        return false;
    }
    p->x = x;
    p->i = i;
    name_record(p, key);
    name_request(p, body);
    random_bytes(owner, sizeof owner);
    hex_encode(owner, sizeof owner, p->owner);
    buf_init(&p->body, (size_t)x->gateway->settings->idempotency_max_bytes);
    buf_init(&p->sealed, (size_t)x->gateway->settings->idempotency_max_bytes + RECORD_HEAD_MAX);
    if (!ask(p, STEP_CLAIM, p)) {
        p->x = NULL;
        idempotent_free(p);
        off(x);
        return false;
    }
    x->idempotent = p;
    exchange_watch(x, p, on_gone, NULL);
    return true;
}

bool idempotency_keep(struct exchange *x, int status, struct span body) {
    struct idempotent *p = x->idempotent;
    if (!p || !p->running) return false;
    loop_timer_close(p->renew);
    p->renew = NULL;
    p->status = status;
    bool fits = buf_append_span(&p->body, body) == 0, keep = fits && status >= 200 && status < 300 && seal(p) == 0;
    if (!keep) metric_add(p->i->dropped, 1);
    /* Also what is not kept is waited for: who gets this answer may ask again at once. */
    if (fits && ask(p, keep ? STEP_KEEP : STEP_RELEASE, p)) {
        exchange_watch(x, p, on_gone, NULL);
        return true;
    }
    idempotency_drop(x);
    return false;
}

void idempotency_drop(struct exchange *x) {
    struct idempotent *p = x->idempotent;
    if (!p) return;
    if (p->running) (void)ask(p, STEP_RELEASE, NULL);
    idempotent_free(p);
}

/* ---- the gateway's ---- */

static struct metric *counter(const char *labels) { return metric_counter("genloop_gateway_idempotency_total", labels, "Requests with an Idempotency-Key, by what came of it."); }

int idempotency_open(struct gateway *g, struct idempotency **out, struct error *err) {
    struct idempotency *i = mem_zalloc(sizeof *i);
    if (!i) return error_set(err, E_NOMEM, "no memory to start");
    i->gateway = g;
    pthread_mutex_init(&i->lock, NULL);
    i->first = counter("result=\"first\"");
    i->replayed = counter("result=\"replayed\"");
    i->running = counter("result=\"running\"");
    i->mismatch = counter("result=\"mismatch\"");
    i->dropped = counter("result=\"not_kept\"");
    i->away = counter("result=\"off\"");
    *out = i;
    return 0;
}

void idempotency_close(struct idempotency *i) {
    if (!i) return;
    i->closed = true;
    while (atomic_load(&i->abroad) > 0) nanosleep(&(struct timespec){.tv_nsec = 5 * 1000 * 1000}, NULL); /* they use what is closed after this */
    idempotency_unref(i);
}

int idempotency_id(const struct exchange *x, const char *prefix, char id[IDEMPOTENCY_ID_MAX], struct error *err) {
    struct span key = http_header(x->http, "idempotency-key");
    char hex[SHA256_HEX_MAX];
    if (!key.data) {
        id[0] = 0;
        return 0;
    }
    int r = key_check(key, err);
    if (r < 0) return r;
    digest_key(x, key, hex);
    (void)snprintf(id, IDEMPOTENCY_ID_MAX, "%.16s%.32s", prefix, hex);
    return 0;
}

void idempotency_mismatch(struct exchange *x) {
    struct error err = {0};
    (void)error_set_param(&err, E_INVALID, "Idempotency-Key", "this Idempotency-Key was used for another request: take a new one");
    exchange_error_status(x, 422, &err, "idempotency_key_reused");
}
