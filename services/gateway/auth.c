#include "auth.h"

#include "base/log.h"
#include "registry.h"
#include "registry/api_key.h"

bool auth_asks(const struct gateway *g) {
    const struct fold *f = registry_fold(g->registry);
    return g->beyond_loopback || (f && fold_keys(f) > 0);
}

void auth_announce(const struct gateway *g) {
    const struct fold *f = registry_fold(g->registry);
    size_t n = f ? fold_keys(f) : 0;
    if (n) log_info("gateway.keys", "keys are asked for: there are %zu, those that were revoked among them", n);
    else if (g->beyond_loopback) log_warn("gateway.keys", "keys are asked for beyond loopback, and there is none yet: `genloop keys create --home %s --scope approver`, on this machine and by the owner of the home, makes the first", g->settings->shared.home);
    else log_info("gateway.keys", "no key is asked for, until one is made: `genloop keys create`");
}

static void be_owner(const struct gateway *g, struct caller *c) {
    *c = (struct caller){.scope = SCOPE_APPROVER};
    span_copy(c->id, sizeof c->id, span_str(g->actor));
    span_copy(c->tenant, sizeof c->tenant, span_str(g->settings->shared.tenant));
}

static enum scope scope_from_name(struct span name) {
    int rank = scope_rank(name);
    return rank == 1 ? SCOPE_CLIENT : rank == 2 ? SCOPE_OPERATOR : rank == 3 ? SCOPE_APPROVER : SCOPE_ANY;
}

/* "Bearer KEY", the word in any case (RFC 9110, 11.1). */
static bool bearer(struct span authorization, struct span *key) {
    struct span rest = authorization, word;
    if (!span_cut(&rest, ' ', &word) || !span_eq_nocase(word, SPAN("bearer"))) return false;
    *key = span_trim(rest);
    return key->len > 0;
}

int auth_caller(const struct gateway *g, struct span authorization, bool owner, struct caller *caller, struct error *err) {
    char id[API_KEY_ID_MAX];
    struct span key;
    if (owner) {
        be_owner(g, caller);
        return 0;
    }
    if (!registry_caught_up(g->registry)) return error_set(err, E_UNAVAILABLE, "the gateway has not read yet which keys there are: try again in a moment");
    if (!auth_asks(g)) {
        be_owner(g, caller);
        return 0;
    }
    if (!authorization.data) return error_set(err, E_UNAUTHENTICATED, "an API key is needed: send it as Authorization: Bearer KEY");
    if (!bearer(authorization, &key)) return error_set(err, E_UNAUTHENTICATED, "the Authorization header holds no bearer: send Authorization: Bearer KEY");
    bool formed = api_key_id(key, id) == 0;
    const Genloop__V1__ApiKey *k = formed ? fold_key(registry_fold(g->registry), span_str(id)) : NULL;
    static const uint8_t nothing[API_KEY_HASH_SIZE];
    /* A key that nobody knows costs as much time as one that is wrong. */
    bool holds = api_key_holds(g->api_key_secret, key, k ? span_of(k->hash.data, k->hash.len) : span_of(nothing, sizeof nothing));
    if (formed && !k) return error_set(err, E_AGAIN, "incorrect API key provided: `genloop keys list` shows which there are");
    if (!k || !holds) return error_set(err, E_UNAUTHENTICATED, "incorrect API key provided: `genloop keys list` shows which there are");
    if (k->revoked_time_ms) return error_set(err, E_UNAUTHENTICATED, "incorrect API key provided: %s was revoked", k->id);
    *caller = (struct caller){.key = true, .scope = scope_from_name(span_str(k->scope))};
    span_copy(caller->id, sizeof caller->id, span_str(k->id));
    span_copy(caller->tenant, sizeof caller->tenant, span_str(k->tenant));
    return 0;
}

int auth_scope(const struct caller *caller, enum scope needed, struct error *err) {
    if (caller->scope >= needed) return 0;
    return error_set(err, E_DENIED, "this needs a key with the scope %s; this one has %s", scope_name(needed), scope_name(caller->scope));
}
