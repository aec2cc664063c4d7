#include "audit.h"

#include <stdlib.h>
#include <string.h>

static int by_key(const void *a, const void *b) {
    const Genloop__V1__AuditRecord__DetailsEntry *const *x = a, *const *y = b;
    return strcmp((*x)->key, (*y)->key);
}

/* Heap strings of a message: in the arena, terminated; "" needs none. */
static int put(struct arena *arena, struct span s, char **out) {
    if (s.len == 0) return 0;
    struct span copy = arena_span(arena, s);
    if (!copy.data) return E_NOMEM;
    *out = (char *)(uintptr_t)copy.data;
    return 0;
}

static int put_bytes(struct arena *arena, const uint8_t *bytes, size_t len, ProtobufCBinaryData *out) {
    struct span copy = arena_span(arena, span_of(bytes, len));
    if (!copy.data) return E_NOMEM;
    *out = (ProtobufCBinaryData){len, (uint8_t *)(uintptr_t)copy.data};
    return 0;
}

static int put_details(Genloop__V1__AuditRecord *r, const struct audit_entry *entry, struct arena *arena) {
    size_t n = entry->n_details + (entry->command.len ? 1 : 0);
    if (n == 0) return 0;
    r->details = arena_calloc(arena, n, sizeof *r->details);
    if (!r->details) return E_NOMEM;
    for (size_t i = 0; i < n; i++) {
        Genloop__V1__AuditRecord__DetailsEntry *d = arena_alloc(arena, sizeof *d);
        if (!d) return E_NOMEM;
        genloop__v1__audit_record__details_entry__init(d);
        bool command = i == entry->n_details;
        struct span value = command ? entry->command : entry->details[i].value;
        if (value.len > AUDIT_DETAIL_MAX) return E_TOO_LARGE;
        if (put(arena, span_str(command ? "command" : entry->details[i].key), &d->key) != 0 || put(arena, value, &d->value) != 0) return E_NOMEM;
        r->details[r->n_details++] = d;
    }
    qsort(r->details, n, sizeof *r->details, by_key);
    return 0;
}

int audit_make(const struct merkle *tree, const struct registry_key *key, uint64_t epoch, int64_t now_ms, const char *id, const struct audit_entry *entry,
               struct arena *arena, Genloop__V1__AuditRecord **record, struct error *err) {
    Genloop__V1__AuditRecord *r = arena_alloc(arena, sizeof *r);
    Genloop__V1__Actor *actor = arena_alloc(arena, sizeof *actor);
    if (!r || !actor) return error_set(err, E_NOMEM, "no memory for an audit record");
    genloop__v1__audit_record__init(r);
    genloop__v1__actor__init(actor);
    r->index = merkle_size(tree);
    r->event_time_ms = now_ms;
    r->actor = actor;
    r->epoch = epoch;
    if (put(arena, span_str(id), &r->id) || put(arena, span_str(entry->action), &r->action) || put(arena, span_str(entry->object), &r->object) ||
        put(arena, entry->reason, &r->reason) || put(arena, entry->evidence, &r->evidence) || put(arena, span_str(entry->from_state), &r->from_state) ||
        put(arena, span_str(entry->to_state), &r->to_state) || put(arena, entry->actor_id, &actor->id) || put(arena, entry->actor_scope, &actor->scope) ||
        put(arena, entry->actor_claim, &actor->claim))
        return error_set(err, E_NOMEM, "no memory for an audit record");
    int code = put_details(r, entry, arena);
    if (code != 0) return error_set(err, code, "the details of this audit record cannot be held");
    uint8_t leaf[SHA256_SIZE], root[SHA256_SIZE], signature[RECORD_SIGNATURE_SIZE];
    code = audit_leaf(r, leaf, err);
    if (code != 0) return code;
    merkle_root_with(tree, leaf, root);
    code = audit_head_sign(key, r->index + 1, root, now_ms, signature, err);
    if (code != 0) return code;
    if (put_bytes(arena, leaf, sizeof leaf, &r->leaf_hash) || put_bytes(arena, root, sizeof root, &r->root_hash) || put_bytes(arena, signature, sizeof signature, &r->signature))
        return error_set(err, E_NOMEM, "no memory for an audit record");
    *record = r;
    return 0;
}

/* message, signed, as a detail in hex. */
static int seal(ProtobufCMessage *message, const struct registry_key *key, struct arena *arena, const char *kind, size_t i, struct audit_detail *detail, struct error *err) {
    uint8_t *signature = arena_alloc(arena, RECORD_SIGNATURE_SIZE);
    detail->key = arena_printf(arena, "%s.%zu", kind, i);
    if (!signature || !detail->key) return error_set(err, E_NOMEM, "no memory to sign a record");
    int r = record_sign(key, message, signature, err);
    if (r != 0) return r;
    struct buf packed;
    buf_init(&packed, AUDIT_DETAIL_MAX / 2);
    r = record_pack(message, &packed);
    char *hex = r == 0 ? arena_alloc(arena, 2 * packed.len + 1) : NULL;
    if (hex) {
        hex_encode(buf_span(&packed).data, packed.len, hex);
        detail->value = span_of(hex, 2 * packed.len);
    } else
        r = error_set(err, r ? r : E_NOMEM, "a record of this change cannot be held");
    buf_fini(&packed);
    return r;
}

int audit_seal_change(struct registry_change *change, const struct registry_key *key, uint64_t epoch, const char *audit_id, struct arena *arena,
                      struct audit_detail details[AUDIT_RECORDS_MAX], size_t *n, struct error *err) {
    size_t count = 0;
    char *id = arena_strdup(arena, audit_id);
    if (!id) return error_set(err, E_NOMEM, "no memory to sign a change");
    int r = 0;
    for (size_t i = 0; i < change->n_versions && r == 0; i++) {
        change->versions[i]->epoch = epoch;
        change->versions[i]->audit_id = id;
        r = seal(&change->versions[i]->base, key, arena, "version", i, &details[count++], err);
    }
    for (size_t i = 0; i < change->n_aliases && r == 0; i++) {
        change->aliases[i]->epoch = epoch;
        change->aliases[i]->audit_id = id;
        r = seal(&change->aliases[i]->base, key, arena, "alias", i, &details[count++], err);
    }
    if (r == 0) *n = count;
    return r;
}

int audit_seal_key(Genloop__V1__ApiKey *record, const struct registry_key *key, uint64_t epoch, const char *audit_id, struct arena *arena, struct audit_detail *detail, struct error *err) {
    record->epoch = epoch;
    record->audit_id = arena_strdup(arena, audit_id);
    if (!record->audit_id) return error_set(err, E_NOMEM, "no memory to sign a key");
    return seal(&record->base, key, arena, "key", 0, detail, err);
}

struct span audit_detail_get(const Genloop__V1__AuditRecord *record, const char *key) {
    for (size_t i = 0; i < record->n_details; i++)
        if (strcmp(record->details[i]->key, key) == 0) return span_str(record->details[i]->value);
    return SPAN("");
}

static int tell(const Genloop__V1__AuditRecord *record, struct arena *arena, enum topic topic, const char *kind, size_t i, void *arg, int (*on_record)(void *arg, enum topic topic, struct span packed),
                bool *found, struct error *err) {
    char key[32];
    snprintf(key, sizeof key, "%s.%zu", kind, i);
    struct span hex = audit_detail_get(record, key);
    *found = hex.len > 0;
    if (!*found) return 0;
    void *bytes = arena_alloc(arena, hex.len / 2 + 1);
    if (!bytes) return error_set(err, E_NOMEM, "no memory for the records of audit record %s", record->id);
    if (hex_decode(hex, bytes) != 0) return error_set(err, E_INVALID, "%s of audit record %s is no hex", key, record->id);
    return on_record(arg, topic, span_of(bytes, hex.len / 2));
}

/* Of the versions only those that are released by this change, or only the others. */
struct choosing {
    void *arg;
    int (*on_record)(void *arg, enum topic topic, struct span packed);
    bool released;
};

static int choose(void *arg, enum topic topic, struct span packed) {
    struct choosing *c = arg;
    if (topic == TOPIC_MODELS) {
        Genloop__V1__ModelVersion *v = genloop__v1__model_version__unpack(NULL, packed.len, (const uint8_t *)packed.data);
        bool released = v && state_released(v->state);
        if (v) genloop__v1__model_version__free_unpacked(v, NULL);
        if (released != c->released) return 0;
    }
    return c->on_record(c->arg, topic, packed);
}

int audit_each_record(const Genloop__V1__AuditRecord *record, struct arena *arena, void *arg, int (*on_record)(void *arg, enum topic topic, struct span packed), struct error *err) {
    struct choosing come = {arg, on_record, true}, go = {arg, on_record, false};
    bool found;
    int r = 0;
    for (size_t i = 0; i < REGISTRY_VERSIONS_MAX && r == 0; i++) r = tell(record, arena, TOPIC_MODELS, "version", i, &come, choose, &found, err);
    for (size_t i = 0; i < REGISTRY_ALIASES_MAX && r == 0; i++) r = tell(record, arena, TOPIC_ALIASES, "alias", i, arg, on_record, &found, err);
    if (r == 0) r = tell(record, arena, TOPIC_KEYS, "key", 0, arg, on_record, &found, err);
    for (size_t i = 0; i < REGISTRY_VERSIONS_MAX && r == 0; i++) r = tell(record, arena, TOPIC_MODELS, "version", i, &go, choose, &found, err);
    return r;
}
