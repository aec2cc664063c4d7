#include "registry.h"

#include "base/alloc.h"
#include "base/log.h"
#include "base/metrics.h"
#include "registry/follow.h"

enum { KEY_RETRY_MS = 20 }; /* services/feedback makes the key when a platform starts for the first time: a moment */

struct registry {
    struct gateway *gateway;
    struct fold *fold;
    struct follow *follow;
    struct loop_timer *key_timer;
    bool caught_up;
    void (*on_caught_up)(struct gateway *g);
    struct metric *dropped;
};

static void on_event(void *arg, const struct event *e) {
    struct registry *r = arg;
    enum fold_result result = FOLD_SAME;
    struct error err = {0};
    if (fold_event(r->fold, e, &result, &err) < 0) {
        log_error("gateway.registry", "%s", err.message);
    } else if (result == FOLD_DROPPED) {
        metric_add(r->dropped, 1);
        log_warn("gateway.registry", "a record of the registry is not believed: %s", err.message);
    }
}

static void on_caught_up(void *arg) {
    struct registry *r = arg;
    r->caught_up = true;
    r->on_caught_up(r->gateway);
}

static void on_key_timer(void *arg) {
    struct registry *r = arg;
    struct service *s = r->gateway->service;
    struct registry_key key;
    struct error err = {0};
    char path[4096];
    int code = registry_key_load(service_path(s, "keys", path, sizeof path), false, &key, &err);
    if (code == E_NOT_FOUND) {
        loop_timer_start(r->key_timer, KEY_RETRY_MS, 0);
        return;
    }
    if (code == 0 && !(r->fold = fold_new(key.public_key))) code = error_set(&err, E_NOMEM, "no memory for the registry");
    if (code == 0) code = follow_open(service_log(s), service_loop(s), (const enum topic[]){TOPIC_MODELS, TOPIC_ALIASES, TOPIC_KEYS}, 3, r, on_event, on_caught_up, &r->follow, &err);
    if (code < 0) service_fail(s, &err);
}

int registry_open(struct gateway *g, void (*caught_up)(struct gateway *g), struct registry **out, struct error *err) {
    struct registry *r = mem_zalloc(sizeof *r);
    if (!r || !(r->key_timer = loop_timer_new(service_loop(g->service), r, on_key_timer))) {
        mem_free(r);
        return error_set(err, E_NOMEM, "no memory for the registry");
    }
    r->gateway = g;
    r->on_caught_up = caught_up;
    r->dropped = metric_counter("genloop_registry_dropped_total", "", "Records of the registry that were not believed.");
    *out = r;
    on_key_timer(r);
    return 0;
}

void registry_close(struct registry *r) {
    if (!r) return;
    follow_close(r->follow);
    fold_free(r->fold);
    loop_timer_close(r->key_timer);
    mem_free(r);
}

bool registry_caught_up(const struct registry *r) { return r->caught_up; }

const struct fold *registry_fold(const struct registry *r) { return r->fold; }

bool registry_between(const struct registry *r, struct span model) {
    struct span name;
    uint32_t number;
    return r->fold && model_name_parse(model, &name, &number) == 0 && number == 0 && (fold_alias(r->fold, name) || fold_highest_version(r->fold, name) > 0);
}

int registry_resolve(const struct registry *r, struct span model, uint64_t hash, const Genloop__V1__ModelVersion **version, bool *canary, struct error *err) {
    const Genloop__V1__ModelVersion *v;
    int n = (int)(model.len < 128 ? model.len : 128);
    if (!r->caught_up) return error_set(err, E_UNAVAILABLE, "the gateway has not read yet which models are released: try again in a moment");
    int code = fold_resolve(r->fold, model, hash, &v, canary, err);
    if (code == E_INVALID) code = E_NOT_FOUND; /* whatever it is, there is no such model */
    if (code < 0) return error_set_param(err, code, "model", "the model '%.*s' does not exist", n, model.data);
    if (!fold_released(v)) return error_set_param(err, E_NOT_FOUND, "model", "the model '%.*s' is not released: its version %u is neither canary nor production", n, model.data, v->version);
    *version = v;
    return 0;
}
