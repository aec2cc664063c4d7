#include "registry/fold.h"

#include <string.h>

#include "base/alloc.h"
#include "registry/api_key.h"

/* Where in a topic the highest epoch was first seen: what stands behind it with a lower one is a former holder's. A latest-value snapshot may
 * come in another order than the topic's, so the place counts, not the time of reading. */
struct fence {
    uint64_t epoch;
    char offset[EVENT_OFFSET_MAX];
};

struct fold {
    uint8_t public_key[RECORD_PUBLIC_SIZE];
    Genloop__V1__ModelVersion **versions; /* sorted by name, version; owned */
    size_t n_versions, versions_capacity;
    Genloop__V1__Alias **aliases; /* sorted by alias; owned */
    size_t n_aliases, aliases_capacity;
    Genloop__V1__ApiKey **keys; /* sorted by id; owned */
    size_t n_keys, keys_capacity;
    struct fence models, alias_fence, key_fence;
    struct fold_counts counts;
    uint64_t generation;
};

struct fold *fold_new(const uint8_t public_key[RECORD_PUBLIC_SIZE]) {
    struct fold *f = mem_zalloc(sizeof *f);
    if (f) memcpy(f->public_key, public_key, RECORD_PUBLIC_SIZE);
    return f;
}

void fold_free(struct fold *f) {
    if (!f) return;
    for (size_t i = 0; i < f->n_versions; i++) record_free(&f->versions[i]->base);
    for (size_t i = 0; i < f->n_aliases; i++) record_free(&f->aliases[i]->base);
    for (size_t i = 0; i < f->n_keys; i++) record_free(&f->keys[i]->base);
    mem_free(f->versions);
    mem_free(f->aliases);
    mem_free(f->keys);
    mem_free(f);
}

void fold_counts(const struct fold *f, struct fold_counts *counts) { *counts = f->counts; }
uint64_t fold_generation(const struct fold *f) { return f->generation; }
uint64_t fold_epoch(const struct fold *f) {
    uint64_t epoch = f->models.epoch > f->alias_fence.epoch ? f->models.epoch : f->alias_fence.epoch;
    return f->key_fence.epoch > epoch ? f->key_fence.epoch : epoch;
}

/* Where name@version is, or belongs. */
static size_t version_place(const struct fold *f, struct span name, uint32_t version, bool *found) {
    size_t low = 0, high = f->n_versions;
    *found = false;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const Genloop__V1__ModelVersion *v = f->versions[mid];
        int c = span_compare(span_str(v->name), name);
        if (c == 0) c = (v->version > version) - (v->version < version);
        if (c == 0) {
            *found = true;
            return mid;
        }
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static const char *alias_name(const struct fold *f, size_t i) { return f->aliases[i]->alias; }
static const char *key_name(const struct fold *f, size_t i) { return f->keys[i]->id; }

/* Where a name stands in a list in the names' order, or would stand. */
static size_t place_of(const struct fold *f, size_t n, const char *(*name_at)(const struct fold *f, size_t i), struct span name, bool *found) {
    size_t low = 0, high = n;
    *found = false;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int c = span_compare(span_str(name_at(f, mid)), name);
        if (c == 0) {
            *found = true;
            return mid;
        }
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}
static size_t alias_place(const struct fold *f, struct span alias, bool *found) { return place_of(f, f->n_aliases, alias_name, alias, found); }
static size_t key_place(const struct fold *f, struct span id, bool *found) { return place_of(f, f->n_keys, key_name, id, found); }

static int drop(uint64_t *count, enum fold_result *result) {
    (*count)++;
    *result = FOLD_DROPPED;
    return 0;
}

static int drop_signature(struct fold *f, enum fold_result *result) { return drop(&f->counts.dropped_signature, result); }

/* Whether a record of this epoch may stand here; moves the fence. */
static bool fence_admits(struct fence *fence, const struct event *e, uint64_t epoch) {
    int order = e->offset[0] && fence->offset[0] ? eventlog_offset_compare(e->offset, fence->offset) : 1;
    if (epoch < fence->epoch && order > 0) return false;
    if (epoch > fence->epoch || (epoch == fence->epoch && order < 0)) {
        fence->epoch = epoch;
        memcpy(fence->offset, e->offset, sizeof fence->offset);
    }
    return true;
}

static int drop_epoch(struct fold *f, const struct fence *fence, uint64_t epoch, const struct event *e, enum fold_result *result, struct error *err) {
    error_set(err, E_ABORTED, "%.*s was written under epoch %llu behind the first record of epoch %llu: by a former holder of the lease", SPAN_ARG(e->key),
              (unsigned long long)epoch, (unsigned long long)fence->epoch);
    return drop(&f->counts.dropped_epoch, result);
}

static int fold_lease(struct fold *f, struct fence *fence, const struct event *e, enum fold_result *result, struct error *err) {
    Genloop__V1__Lease *lease = (Genloop__V1__Lease *)record_unpack(&genloop__v1__lease__descriptor, e->value);
    if (!lease || record_verify(f->public_key, &lease->base, NULL) != 0) {
        error_set(err, E_DENIED, "this lease is not signed by the registry");
        drop_signature(f, result);
    } else if (!fence_admits(fence, e, lease->epoch))
        drop_epoch(f, fence, lease->epoch, e, result, err);
    else {
        f->counts.leases++;
        *result = FOLD_SAME;
    }
    if (lease) record_free(&lease->base);
    return 0;
}

static int drop_revision(struct fold *f, const struct event *e, uint64_t revision, uint64_t known, enum fold_result *result, struct error *err) {
    error_set(err, E_ABORTED, "revision %llu of %.*s does not follow revision %llu", (unsigned long long)revision, SPAN_ARG(e->key), (unsigned long long)known);
    return drop(&f->counts.dropped_revision, result);
}

/* Takes the record where it is kept (*record becomes NULL then). */
static int fold_model(struct fold *f, const struct event *e, Genloop__V1__ModelVersion **record, enum fold_result *result, struct error *err) {
    Genloop__V1__ModelVersion *m = *record;
    char full[MODEL_FULL_NAME_MAX];
    if (!model_name_valid(span_str(m->name)) || m->version == 0 || !span_eq_str(e->key, model_name_format(span_str(m->name), m->version, full))) {
        error_set(err, E_DENIED, "the key %.*s is not that of its record", SPAN_ARG(e->key));
        return drop_signature(f, result);
    }
    if (!fence_admits(&f->models, e, m->epoch)) return drop_epoch(f, &f->models, m->epoch, e, result, err);
    bool found;
    size_t at = version_place(f, span_str(m->name), m->version, &found);
    if (found) {
        Genloop__V1__ModelVersion *known = f->versions[at];
        if (m->revision == known->revision && m->state == known->state && strcmp(m->audit_id, known->audit_id) == 0) {
            f->counts.repeated++;
            *result = FOLD_SAME;
            return 0;
        }
        if (m->revision <= known->revision) return drop_revision(f, e, m->revision, known->revision, result, err);
        bool next = m->revision == known->revision + 1;
        if (next ? !state_leads(known->state, m->state) : !state_reaches(known->state, m->state)) {
            error_set(err, E_STATE, "%s cannot go from %s to %s", full, state_name(known->state), state_name(m->state));
            return drop(&f->counts.dropped_transition, result);
        }
        record_free(&known->base);
    } else {
        if (!state_reaches(MODEL_STATE(UNSPECIFIED), m->state)) {
            error_set(err, E_STATE, "%s has the state %s, which no version has", full, state_name(m->state));
            return drop(&f->counts.dropped_transition, result);
        }
        if (f->n_versions >= FOLD_VERSIONS_MAX) return error_set(err, E_FULL, "the registry holds %d versions, the most that it can", FOLD_VERSIONS_MAX);
        if (array_reserve(&f->versions, &f->versions_capacity, f->n_versions + 1, sizeof *f->versions) != 0)
            return error_set(err, E_NOMEM, "no memory for %s", full);
        memmove(f->versions + at + 1, f->versions + at, (f->n_versions - at) * sizeof *f->versions);
        f->n_versions++;
    }
    f->versions[at] = m;
    *record = NULL;
    f->counts.accepted++;
    f->generation++;
    *result = FOLD_CHANGED;
    return 0;
}

static int fold_alias_event(struct fold *f, const struct event *e, Genloop__V1__Alias **record, enum fold_result *result, struct error *err) {
    Genloop__V1__Alias *a = *record;
    if (!model_name_valid(span_str(a->alias)) || !span_eq_str(e->key, a->alias) || (a->name[0] && !model_name_valid(span_str(a->name)))) {
        error_set(err, E_DENIED, "the key %.*s is not that of its record", SPAN_ARG(e->key));
        return drop_signature(f, result);
    }
    if (!fence_admits(&f->alias_fence, e, a->epoch)) return drop_epoch(f, &f->alias_fence, a->epoch, e, result, err);
    bool found;
    size_t at = alias_place(f, span_str(a->alias), &found);
    if (found) {
        Genloop__V1__Alias *known = f->aliases[at];
        if (a->revision == known->revision && strcmp(a->audit_id, known->audit_id) == 0) {
            f->counts.repeated++;
            *result = FOLD_SAME;
            return 0;
        }
        if (a->revision <= known->revision) return drop_revision(f, e, a->revision, known->revision, result, err);
        record_free(&known->base);
    } else {
        if (f->n_aliases >= FOLD_ALIASES_MAX) return error_set(err, E_FULL, "the registry holds %d aliases, the most that it can", FOLD_ALIASES_MAX);
        if (array_reserve(&f->aliases, &f->aliases_capacity, f->n_aliases + 1, sizeof *f->aliases) != 0)
            return error_set(err, E_NOMEM, "no memory for alias %s", a->alias);
        memmove(f->aliases + at + 1, f->aliases + at, (f->n_aliases - at) * sizeof *f->aliases);
        f->n_aliases++;
    }
    f->aliases[at] = a;
    *record = NULL;
    f->counts.accepted++;
    f->generation++;
    *result = FOLD_CHANGED;
    return 0;
}

static int fold_key_event(struct fold *f, const struct event *e, Genloop__V1__ApiKey **record, enum fold_result *result, struct error *err) {
    Genloop__V1__ApiKey *k = *record;
    if (!api_key_id_valid(span_str(k->id)) || !span_eq_str(e->key, k->id) || k->hash.len != API_KEY_HASH_SIZE || scope_rank(span_str(k->scope)) == 0 || !model_name_valid(span_str(k->tenant))) {
        error_set(err, E_DENIED, "the key %.*s is not that of its record, or the record is none of an API key", SPAN_ARG(e->key));
        return drop_signature(f, result);
    }
    if (!fence_admits(&f->key_fence, e, k->epoch)) return drop_epoch(f, &f->key_fence, k->epoch, e, result, err);
    bool found;
    size_t at = key_place(f, span_str(k->id), &found);
    if (found) {
        Genloop__V1__ApiKey *known = f->keys[at];
        if (k->revision == known->revision && strcmp(k->audit_id, known->audit_id) == 0) {
            f->counts.repeated++;
            *result = FOLD_SAME;
            return 0;
        }
        if (k->revision <= known->revision) return drop_revision(f, e, k->revision, known->revision, result, err);
        if (known->revoked_time_ms && !k->revoked_time_ms) {
            error_set(err, E_STATE, "%s is revoked, and does not come back", k->id);
            return drop(&f->counts.dropped_transition, result);
        }
        record_free(&known->base);
    } else {
        if (f->n_keys >= FOLD_KEYS_MAX) return error_set(err, E_FULL, "the registry holds %d keys, the most that it can", FOLD_KEYS_MAX);
        if (array_reserve(&f->keys, &f->keys_capacity, f->n_keys + 1, sizeof *f->keys) != 0) return error_set(err, E_NOMEM, "no memory for key %s", k->id);
        memmove(f->keys + at + 1, f->keys + at, (f->n_keys - at) * sizeof *f->keys);
        f->n_keys++;
    }
    f->keys[at] = k;
    *record = NULL;
    f->counts.accepted++;
    f->generation++;
    *result = FOLD_CHANGED;
    return 0;
}

int fold_event(struct fold *f, const struct event *e, enum fold_result *result, struct error *err) {
    *result = FOLD_SAME;
    const ProtobufCMessageDescriptor *type = fold_record_type(e->topic);
    if (!type) return 0;
    struct fence *fence = e->topic == TOPIC_MODELS ? &f->models : e->topic == TOPIC_ALIASES ? &f->alias_fence : &f->key_fence;
    if (span_eq_str(e->key, FOLD_LEASE_KEY)) return fold_lease(f, fence, e, result, err);
    ProtobufCMessage *record = record_unpack(type, e->value);
    int r = 0;
    if (!record) {
        error_set(err, E_INVALID, "the value under %.*s is no %s", SPAN_ARG(e->key), type->short_name);
        drop_signature(f, result);
    } else if (record_verify(f->public_key, record, err) != 0)
        drop_signature(f, result);
    else if (e->topic == TOPIC_MODELS) {
        Genloop__V1__ModelVersion *m = (Genloop__V1__ModelVersion *)record;
        r = fold_model(f, e, &m, result, err);
        record = m ? &m->base : NULL;
    } else if (e->topic == TOPIC_KEYS) {
        Genloop__V1__ApiKey *k = (Genloop__V1__ApiKey *)record;
        r = fold_key_event(f, e, &k, result, err);
        record = k ? &k->base : NULL;
    } else {
        Genloop__V1__Alias *a = (Genloop__V1__Alias *)record;
        r = fold_alias_event(f, e, &a, result, err);
        record = a ? &a->base : NULL;
    }
    record_free(record);
    return r;
}

const ProtobufCMessageDescriptor *fold_record_type(enum topic t) {
    return t == TOPIC_MODELS ? &genloop__v1__model_version__descriptor : t == TOPIC_ALIASES ? &genloop__v1__alias__descriptor : t == TOPIC_KEYS ? &genloop__v1__api_key__descriptor : NULL;
}

const Genloop__V1__ModelVersion *fold_version(const struct fold *f, struct span name, uint32_t version) {
    bool found;
    size_t at = version_place(f, name, version, &found);
    return found ? f->versions[at] : NULL;
}

const Genloop__V1__Alias *fold_alias_record(const struct fold *f, struct span alias) {
    bool found;
    size_t at = alias_place(f, alias, &found);
    return found ? f->aliases[at] : NULL;
}

const Genloop__V1__Alias *fold_alias(const struct fold *f, struct span alias) {
    const Genloop__V1__Alias *a = fold_alias_record(f, alias);
    return a && a->name[0] ? a : NULL;
}

const Genloop__V1__ModelVersion *fold_production(const struct fold *f, struct span name) {
    /* While a promotion is on its way two versions may stand in PRODUCTION: the later one is meant. */
    const Genloop__V1__ModelVersion *best = NULL;
    bool found;
    for (size_t i = version_place(f, name, 0, &found); i < f->n_versions && span_eq_str(name, f->versions[i]->name); i++) {
        const Genloop__V1__ModelVersion *v = f->versions[i];
        if (v->state == MODEL_STATE(PRODUCTION) && (!best || v->event_time_ms >= best->event_time_ms)) best = v;
    }
    return best;
}

uint32_t fold_highest_version(const struct fold *f, struct span name) {
    bool found;
    size_t at = version_place(f, name, UINT32_MAX, &found);
    if (found) return UINT32_MAX;
    return at > 0 && span_eq_str(name, f->versions[at - 1]->name) ? f->versions[at - 1]->version : 0;
}

size_t fold_versions(const struct fold *f) { return f->n_versions; }
const Genloop__V1__ModelVersion *fold_version_at(const struct fold *f, size_t i) { return i < f->n_versions ? f->versions[i] : NULL; }
size_t fold_aliases(const struct fold *f) { return f->n_aliases; }
const Genloop__V1__Alias *fold_alias_at(const struct fold *f, size_t i) { return i < f->n_aliases ? f->aliases[i] : NULL; }

const Genloop__V1__ApiKey *fold_key(const struct fold *f, struct span id) {
    bool found;
    size_t at = key_place(f, id, &found);
    return found ? f->keys[at] : NULL;
}
size_t fold_keys(const struct fold *f) { return f->n_keys; }
const Genloop__V1__ApiKey *fold_key_at(const struct fold *f, size_t i) { return i < f->n_keys ? f->keys[i] : NULL; }

bool fold_released(const Genloop__V1__ModelVersion *version) { return version && state_released(version->state); }

static const Genloop__V1__ModelVersion *find_canary(const struct fold *f, struct span name) {
    const Genloop__V1__ModelVersion *best = NULL;
    bool found;
    for (size_t i = version_place(f, name, 0, &found); i < f->n_versions && span_eq_str(name, f->versions[i]->name); i++) {
        const Genloop__V1__ModelVersion *v = f->versions[i];
        if (v->state == MODEL_STATE(CANARY) && (!best || v->event_time_ms >= best->event_time_ms)) best = v;
    }
    return best;
}

int fold_resolve(const struct fold *f, struct span model, uint64_t hash, const Genloop__V1__ModelVersion **version, bool *canary, struct error *err) {
    struct span name;
    uint32_t number;
    if (canary) *canary = false;
    if (model_name_parse(model, &name, &number) != 0)
        return error_set_param(err, E_INVALID, "model", "\"%.*s\" is no model: a model is NAME, NAME@VERSION or an alias", (int)(model.len < 80 ? model.len : 80),
                               model.data ? model.data : "");
    if (number != 0) {
        const Genloop__V1__ModelVersion *v = fold_version(f, name, number);
        if (!v) return error_set_param(err, E_NOT_FOUND, "model", "there is no model version %.*s", SPAN_ARG(model));
        *version = v;
        return 0;
    }
    const Genloop__V1__Alias *a = fold_alias(f, name);
    if (a) {
        const Genloop__V1__ModelVersion *v = fold_version(f, span_str(a->name), a->version);
        if (a->canary_version && hash % 100 < a->canary_percent) {
            const Genloop__V1__ModelVersion *c = fold_version(f, span_str(a->name), a->canary_version);
            if (c && c->state == MODEL_STATE(CANARY)) { /* until its own record is here, the share stays with production */
                if (canary) *canary = true;
                v = c;
            }
        }
        /* The topics of versions and of aliases have no common order: a promotion or a rollback may have been read of one and not yet of the other. What serves then is the name's. */
        if (span_eq_str(name, ALIAS_PRODUCTION) && (!v || !fold_released(v)) && fold_production(f, span_str(a->name))) v = fold_production(f, span_str(a->name));
        if (!v) return error_set_param(err, E_NOT_FOUND, "model", "the alias %.*s points to %s@%u, which is not there", SPAN_ARG(name), a->name, a->version);
        *version = v;
        return 0;
    }
    const Genloop__V1__ModelVersion *v = fold_production(f, name);
    if (v) {
        const Genloop__V1__ModelVersion *c = find_canary(f, name);
        if (c && hash % 100 < c->canary_percent) {
            if (canary) *canary = true;
            v = c;
        }
        *version = v;
        return 0;
    }
    if (fold_highest_version(f, name))
        return error_set_param(err, E_NOT_FOUND, "model", "no version of %.*s is in production: name one as %.*s@VERSION, or promote one", SPAN_ARG(name), SPAN_ARG(name));
    return error_set_param(err, E_NOT_FOUND, "model", "there is no model and no alias %.*s", SPAN_ARG(name));
}
