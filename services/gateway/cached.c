#include "cached.h"

#include "base/clock.h"
#include "base/metrics.h"

enum { PX_TEXT_MAX = 24 };

static struct metric *hits, *misses, *kept;

static void init_metrics(void) {
    if (hits) return;
    hits = metric_counter("genloop_gateway_cache_lookups_total", "result=\"hit\"", "Lookups in the response cache.");
    misses = metric_counter("genloop_gateway_cache_lookups_total", "result=\"miss\"", "Lookups in the response cache.");
    kept = metric_counter("genloop_gateway_cache_kept_total", "", "Answers that were put into the response cache.");
}

void cached_init(struct cached *c, struct gateway *g) {
    *c = (struct cached){.gateway = g};
    buf_init(&c->made, (size_t)g->settings->cache_entry_max);
    init_metrics();
}

void cached_fini(struct cached *c) {
    link_cancel(c->call);
    c->call = NULL;
    buf_fini(&c->made);
    explicit_bzero(&c->key, sizeof c->key);
}

void cached_use(struct cached *c, const struct answer_key *key, struct span cache_control) {
    c->key = *key;
    cache_control_read(cache_control, &c->control);
    c->keeps = !c->control.no_store && answer_begin(&c->made, clock_wall_ms()) == 0;
}

static void on_reply(void *arg, int r, const struct redis_reply *reply) {
    struct cached *c = arg;
    struct buf items;
    int64_t made_ms = 0, age_ms;
    bool hit = false;
    c->call = NULL;
    buf_init(&items, (size_t)c->gateway->settings->cache_entry_max + ANSWER_OVERHEAD);
    if (r == 0 && redis_type(reply) == REDIS_STRING && answer_open(&c->key, redis_str(reply), &items, &made_ms) == 0) {
        age_ms = clock_wall_ms() - made_ms;
        hit = c->control.age_max_ms < 0 || (age_ms < 0 ? 0 : age_ms) <= c->control.age_max_ms;
    }
    metric_add(hit ? hits : misses, 1);
    if (hit) c->keeps = false;
    c->on_found(c->arg, hit, hit ? buf_span(&items) : SPAN("")); /* c may be gone behind this */
    buf_fini(&items);
}

bool cached_look(struct cached *c, void *arg, void (*on_found)(void *arg, bool hit, struct span items)) {
    const struct span argv[] = {SPAN("GET"), span_str(c->key.name)};
    if (!c->key.name[0] || c->control.past) return false;
    c->arg = arg;
    c->on_found = on_found;
    return link_ask(c->gateway->cache, 2, argv, c, on_reply, &c->call) == 0;
}

void cached_add(struct cached *c, uint16_t source, struct span item) {
    if (c->keeps && answer_item(&c->made, source, item) < 0) c->keeps = false; /* larger than what is worth keeping */
}

void cached_keep(struct cached *c) {
    struct buf sealed;
    char px[PX_TEXT_MAX];
    if (!c->keeps) return;
    c->keeps = false;
    buf_init(&sealed, c->made.len + ANSWER_OVERHEAD);
    (void)snprintf(px, sizeof px, "%lld", (long long)c->gateway->settings->cache_ttl_ms);
    if (answer_seal(&c->key, buf_span(&c->made), &sealed) == 0) {
        const struct span argv[] = {SPAN("SET"), span_str(c->key.name), buf_span(&sealed), SPAN("PX"), span_str(px)};
        if (link_ask(c->gateway->cache, 5, argv, NULL, NULL, NULL) == 0) metric_add(kept, 1);
    }
    buf_fini(&sealed);
}
