/*
 * GET /v1/admin/status: the platform at a glance: what the membership and the heartbeats say, the registry as the gateway sees it, and the newest jobs, which the trainer is asked for
 * (without it the answer comes all the same, with jobs null).
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "genloop/v1/bus.pb-c.h"
#include "genloop/v1/services.pb-c.h"
#include "exchange.h"
#include "registry.h"
#include "routes.h"
#include "wire/protojson.h"
#include "wire/unpack.h"

enum { ANSWER_MAX = 64 << 20, JOBS_SHOWN = 20, JOBS_TIMEOUT_MS = 2000 };

struct status {
    struct exchange *x;
    struct bus_call *call;
    struct buf jobs;
};

static void status_free(struct status *s) {
    if (s->call) bus_call_cancel(s->call);
    buf_fini(&s->jobs);
    mem_free(s);
}

static void on_gone(void *state) {
    struct status *s = state;
    struct exchange *x = s->x;
    status_free(s);
    exchange_abort(x);
}

struct listing {
    struct json_out *w;
    uint64_t lag;
};

static void write_member(void *arg, struct bus_peer *peer, struct span member, bool alive) {
    struct listing *l = arg;
    struct json_out *w = l->w;
    Genloop__V1__Member *m = MESSAGE_UNPACK(Member, member, member);
    (void)peer;
    if (!m) return;
    json_object(w);
    json_str(w, "id", m->id);
    json_str(w, "service", m->service);
    json_str(w, "state", !alive ? "lost" : m->draining ? "draining" : m->ready ? "ready" : "starting");
    json_str(w, "version", m->version);
    json_str(w, "endpoint", m->endpoint);
    json_str(w, "admin", m->admin);
    json_num(w, "pid", (int64_t)m->pid);
    json_num(w, "resident_bytes", (int64_t)m->resident_bytes);
    json_num(w, "started_time_ms", m->started_time_ms);
    json_num(w, "heartbeat_time_ms", m->heartbeat_time_ms);
    json_num(w, "lag_events", (int64_t)m->lag_events);
    if (m->load) {
        json_key(w, "load");
        protojson_write(w, &m->load->base, true);
    }
    json_object_end(w);
    if (alive) l->lag += m->lag_events;
    genloop__v1__member__free_unpacked(m, NULL);
}

static void write_models(struct json_out *w, const struct fold *f) {
    json_key(w, "models");
    json_array(w);
    for (size_t i = 0; f && i < fold_versions(f); i++) protojson_write(w, &fold_version_at(f, i)->base, true);
    json_array_end(w);
    json_key(w, "aliases");
    json_array(w);
    for (size_t i = 0; f && i < fold_aliases(f); i++)
        if (fold_alias_at(f, i)->name[0]) protojson_write(w, &fold_alias_at(f, i)->base, true);
    json_array_end(w);
}

static void answer(struct exchange *x, struct span jobs, bool jobs_known) {
    struct gateway *g = x->gateway;
    struct buf out;
    struct json_out w;
    struct listing l = {.w = &w};
    buf_init(&out, ANSWER_MAX);
    json_begin(&w, &out);
    json_object(&w);
    json_str(&w, "object", "status");
    json_num(&w, "time_ms", clock_wall_ms());
    json_key(&w, "services");
    json_array(&w);
    service_members(g->service, &l, write_member);
    json_array_end(&w);
    json_num(&w, "lag_events", (int64_t)l.lag);
    json_key(&w, "replicas");
    json_array(&w);
    for (size_t i = 0; routing_at(g->routing, i); i++) {
        const struct replica *p = routing_at(g->routing, i);
        json_object(&w);
        json_str(&w, "id", replica_id(p));
        json_num(&w, "load", replica_load(p));
        json_object_end(&w);
    }
    json_array_end(&w);
    write_models(&w, registry_fold(g->registry));
    json_key(&w, "jobs");
    if (jobs_known && protojson_write_packed(&w, &genloop__v1__list_jobs_reply__descriptor, jobs, true, NULL) < 0) jobs_known = false;
    if (!jobs_known) json_put_null(&w);
    json_object_end(&w);
    exchange_json(x, 200, &out);
    buf_fini(&out);
}

static void on_item(void *arg, struct span item) { (void)buf_append_span(&((struct status *)arg)->jobs, item); }

static void on_end(void *arg, int code, const struct error *why, bool begun) {
    struct status *s = arg;
    (void)why;
    (void)begun;
    s->call = NULL;
    answer(s->x, buf_span(&s->jobs), code == 0);
    status_free(s);
}

static const struct bus_call_events call_events = {.on_item = on_item, .on_end = on_end};

void status_get(struct exchange *x, const struct json *body) {
    struct bus_peer *peer = service_peer(x->gateway->service, "trainer");
    struct status *s = peer ? mem_zalloc(sizeof *s) : NULL;
    (void)body;
    if (s) {
        Genloop__V1__PageRequest page;
        uint8_t packed[16];
        struct bus_context context = exchange_context(x, JOBS_TIMEOUT_MS);
        genloop__v1__page_request__init(&page);
        page.limit = JOBS_SHOWN;
        s->x = x;
        buf_init(&s->jobs, 16 << 20);
        s->call = bus_call(peer, "Training/List", &context, span_of(packed, genloop__v1__page_request__pack(&page, packed)), false, 1, s, &call_events, NULL);
        if (s->call) {
            exchange_watch(x, s, on_gone, NULL);
            return;
        }
        status_free(s);
    }
    answer(x, SPAN(""), false);
}
