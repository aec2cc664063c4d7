#include "keys.h"

#include "registry/state.h"

static char *text_of(struct arena *arena, struct span s) {
    struct span copy = s.len ? arena_span(arena, s) : SPAN("");
    return (char *)(uintptr_t)copy.data;
}

static Genloop__V1__Actor *actor_of(struct arena *arena, const struct key_command *c) {
    Genloop__V1__Actor *a = arena_alloc(arena, sizeof *a);
    if (!a) return NULL;
    genloop__v1__actor__init(a);
    a->id = text_of(arena, c->actor_id);
    a->scope = text_of(arena, c->actor_scope);
    a->claim = text_of(arena, c->actor_claim);
    return a->id && a->scope && a->claim ? a : NULL;
}

static int check_reach(const struct key_command *c, struct span scope, struct error *err) {
    int mine = scope_rank(c->actor_scope);
    if (mine < scope_rank(SPAN("operator"))) return error_set(err, E_DENIED, "keys are made and revoked with the scope operator; this key has %.*s", SPAN_ARG(c->actor_scope.len ? c->actor_scope : SPAN("none")));
    if (scope_rank(scope) > mine) return error_set_param(err, E_DENIED, "scope", "a key with the scope %.*s needs one of at least that scope; this one has %.*s", SPAN_ARG(scope), SPAN_ARG(c->actor_scope));
    return 0;
}

static int decide_revoke(const struct fold *fold, const struct key_command *c, int64_t now_ms, struct arena *arena, Genloop__V1__ApiKey **record, bool *unchanged, struct error *err) {
    int shown = (int)(c->id.len < 64 ? c->id.len : 64);
    const Genloop__V1__ApiKey *known = fold_key(fold, c->id);
    if (!known) return error_set_param(err, E_NOT_FOUND, "id", "there is no key %.*s: `genloop keys list` shows them", shown, c->id.data ? c->id.data : "");
    int r = check_reach(c, span_str(known->scope), err);
    if (r != 0) return r;
    Genloop__V1__ApiKey *k = arena_alloc(arena, sizeof *k);
    if (!k) return error_set(err, E_NOMEM, "no memory for a key");
    *k = *known; /* shares everything with it but what changes: good until the next change of the fold */
    if (!(*unchanged = known->revoked_time_ms != 0)) {
        k->revoked_time_ms = now_ms;
        k->revision = known->revision + 1;
        if (!(k->revoked_by = actor_of(arena, c))) return error_set(err, E_NOMEM, "no memory for a key");
    }
    *record = k;
    return 0;
}

int key_decide(const struct fold *fold, const struct key_command *c, int64_t now_ms, struct arena *arena, Genloop__V1__ApiKey **record, bool *unchanged, struct error *err) {
    int rank = scope_rank(c->scope);
    *unchanged = false;
    if (c->revoke) return decide_revoke(fold, c, now_ms, arena, record, unchanged, err);
    if (rank < 1 || rank > 3) return error_set_param(err, E_INVALID, "scope", "a scope is client, operator or approver, not \"%.*s\"", (int)(c->scope.len < 32 ? c->scope.len : 32), c->scope.data ? c->scope.data : "");
    if (!model_name_valid(c->tenant)) return error_set_param(err, E_INVALID, "tenant", "a tenant's name has at most %d letters, digits, dots, dashes and underscores, and begins with a letter or a digit", MODEL_NAME_MAX - 1);
    if (c->note.len > KEY_NOTE_MAX || !span_is_utf8(c->note)) return error_set_param(err, E_INVALID, "note", "a note has at most %d bytes of UTF-8", KEY_NOTE_MAX);
    ASSERT(api_key_id_valid(c->id));
    int r = check_reach(c, c->scope, err);
    if (r != 0) return r;
    if (fold_keys(fold) >= FOLD_KEYS_MAX) return error_set(err, E_FULL, "there are %d keys, the most that there can be, those that were revoked among them", FOLD_KEYS_MAX);
    if (fold_key(fold, c->id)) return error_set(err, E_ABORTED, "by chance there is a key of this name: try again");
    Genloop__V1__ApiKey *k = arena_alloc(arena, sizeof *k);
    uint8_t *hash = arena_alloc(arena, API_KEY_HASH_SIZE);
    if (!k || !hash) return error_set(err, E_NOMEM, "no memory for a key");
    genloop__v1__api_key__init(k);
    memcpy(hash, c->hash, API_KEY_HASH_SIZE);
    k->id = text_of(arena, c->id);
    k->tenant = text_of(arena, c->tenant);
    k->scope = text_of(arena, c->scope);
    k->note = text_of(arena, c->note);
    k->hash = (ProtobufCBinaryData){API_KEY_HASH_SIZE, hash};
    k->created_time_ms = now_ms;
    k->created_by = actor_of(arena, c);
    k->revision = 1;
    if (!k->id || !k->tenant || !k->scope || !k->note || !k->created_by) return error_set(err, E_NOMEM, "no memory for a key");
    *record = k;
    return 0;
}
