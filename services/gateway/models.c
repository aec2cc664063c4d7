/* GET /v1/models and /v1/models/{model}: what governance has released, under every name that a request may give it. */
#include "base/alloc.h"
#include "exchange.h"
#include "registry.h"
#include "routes.h"

enum { ANSWER_MAX = 32 << 20 };

static void write_model(struct json_out *w, const char *id, const Genloop__V1__ModelVersion *v) {
    char full[MODEL_FULL_NAME_MAX + 8];
    (void)snprintf(full, sizeof full, "%s@%u", v->name, v->version);
    json_object(w);
    json_str(w, "id", id);
    json_str(w, "object", "model");
    json_num(w, "created", v->created_time_ms / 1000);
    json_str(w, "owned_by", "genloop");
    json_str(w, "version", full);
    json_str(w, "state", v->state == GENLOOP__V1__MODEL_STATE__MODEL_STATE_PRODUCTION ? "production" : "canary");
    if (v->context) json_num(w, "context_length", v->context);
    json_object_end(w);
}

void models_list(struct exchange *x, const struct json *body) {
    const struct fold *f = registry_fold(x->gateway->registry);
    struct buf out;
    struct json_out w;
    char id[MODEL_FULL_NAME_MAX + 8];
    (void)body;
    if (!registry_caught_up(x->gateway->registry)) {
        struct error err = {0};
        if (exchange_wait(x)) return;
        (void)error_set(&err, E_UNAVAILABLE, "the gateway has not read yet which models are released: try again in a moment");
        exchange_error(x, &err);
        return;
    }
    buf_init(&out, ANSWER_MAX);
    json_begin(&w, &out);
    json_object(&w);
    json_str(&w, "object", "list");
    json_key(&w, "data");
    json_array(&w);
    for (size_t i = 0; f && i < fold_aliases(f); i++) {
        const Genloop__V1__Alias *a = fold_alias_at(f, i);
        const Genloop__V1__ModelVersion *v = a->name[0] ? fold_version(f, span_str(a->name), a->version) : NULL;
        if (v && fold_released(v)) write_model(&w, a->alias, v);
    }
    for (size_t i = 0; f && i < fold_versions(f); i++) {
        const Genloop__V1__ModelVersion *v = fold_version_at(f, i);
        if (!fold_released(v)) continue;
        if (v->state == GENLOOP__V1__MODEL_STATE__MODEL_STATE_PRODUCTION) write_model(&w, v->name, v);
        (void)snprintf(id, sizeof id, "%s@%u", v->name, v->version);
        write_model(&w, id, v);
    }
    json_array_end(&w);
    json_object_end(&w);
    exchange_json(x, 200, &out);
    buf_fini(&out);
}

void models_get(struct exchange *x, const struct json *body) {
    const Genloop__V1__ModelVersion *v;
    struct error err = {0};
    struct buf out;
    struct json_out w;
    char id[ROUTE_PARAM_SIZE];
    (void)body;
    span_copy(id, sizeof id, span_str(exchange_param(x, 0)));
    /* The last hundredth: a canary gets it only once it gets everything. */
    int r = registry_resolve(x->gateway->registry, span_str(id), 99, &v, NULL, &err);
    if (r == E_UNAVAILABLE && exchange_wait(x)) return;
    if (r < 0) {
        exchange_error_code(x, &err, r == E_NOT_FOUND ? "model_not_found" : NULL);
        return;
    }
    buf_init(&out, ANSWER_MAX);
    json_begin(&w, &out);
    write_model(&w, id, v);
    exchange_json(x, 200, &out);
    buf_fini(&out);
}
