#include "holder.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/random.h"

enum { ECHOES_MAX = 256, POLL_MS = 50, AWAY_PAUSE_MS = 10, RETRY_MS = 200, COMMAND_ARENA = 8 * 1024 * 1024 };

struct holder {
    struct holder_config config;
    pthread_t thread;
    pthread_mutex_t lock; /* of the ledger, the queue and the flags below; the thread alone changes the ledger */
    struct ledger *ledger;
    struct holder_request *first, *last;
    size_t queued;
    bool stopping, holds, caught_up;
    char (*changes)[MODEL_FULL_NAME_MAX]; /* ring */
    uint64_t n_changes;

    /* the thread's own: */
    struct eventlog_view *view;
    struct eventlog_lease *lease;
    struct fold *seen; /* models, aliases and keys as their topics have them */
    uint64_t epoch;
    bool leased;       /* the lease is ours, under `epoch` */
    char claim[ID_TEXT_MAX]; /* id of our lease record in the audit log while it is on its way; "" otherwise */
    bool claimed;      /* it has been read back in its place */
    /* Of what we wrote and have not read back yet: taken note of as it was written, and told from a replay by coming once. A ring; 0: none. More than fit are under way only while the whole registry is
     * written anew, where each record is the newest of its key and none is dropped. */
    uint64_t echoes[ECHOES_MAX];
    size_t n_echoes;   /* ever */
    bool heal;         /* something was dropped from a topic: what the ledger says is to be looked for there again */
    int64_t renew_at_ms;
    struct metric *m_holds, *m_size, *m_done, *m_refused, *m_dropped, *m_audit_dropped, *m_epoch;
};

/* ---- small things ---- */

/* Without memory for a post the watcher's own clock brings it. */
static void tell_change(struct holder *h) { (void)loop_post(h->config.loop, h->config.on_change, h->config.arg); }

static void posted_done(void *arg) {
    struct holder_request *q = arg;
    q->on_done(q);
}

static void finish(struct holder *h, struct holder_request *q, int result) {
    q->result = result;
    if (result != 0 && q->err.code == 0) error_set(&q->err, result, "the registry could not do this");
    metric_add(result == 0 ? h->m_done : h->m_refused, 1);
    /* Without memory for a post nobody would ever hear of it: wait for some. */
    while (loop_post(h->config.loop, posted_done, q) != 0) usleep(10000);
}

static void set_holds(struct holder *h, bool holds) {
    pthread_mutex_lock(&h->lock);
    bool changed = h->holds != holds;
    h->holds = holds;
    pthread_mutex_unlock(&h->lock);
    metric_set(h->m_holds, holds ? 1 : 0);
    if (changed) tell_change(h);
}

static bool stopping(struct holder *h) {
    pthread_mutex_lock(&h->lock);
    bool is = h->stopping;
    pthread_mutex_unlock(&h->lock);
    return is;
}

/* Lets go: whatever was written and not acknowledged may still arrive, under an epoch that will then be a former one. */
static void step_down(struct holder *h, const char *why) {
    if (h->leased || h->lease) log_warn("registry.lease_left", "epoch %llu: %s", (unsigned long long)h->epoch, why);
    eventlog_lease_close(h->lease);
    h->lease = NULL;
    h->leased = h->claimed = false;
    h->claim[0] = 0;
    set_holds(h, false);
}

/* ---- following ---- */

static void note_changes(struct holder *h, const Genloop__V1__AuditRecord *record) {
    /* Which versions a record changes is what it carries. */
    for (size_t i = 0; i < record->n_details; i++) {
        if (strncmp(record->details[i]->key, "version.", 8) != 0) continue;
        size_t n = strlen(record->details[i]->value);
        uint8_t *bytes = mem_alloc(n / 2 + 1);
        if (!bytes) return;
        if (hex_decode(span_of(record->details[i]->value, n), bytes) == 0) {
            Genloop__V1__ModelVersion *v = (Genloop__V1__ModelVersion *)record_unpack(&genloop__v1__model_version__descriptor, span_of(bytes, n / 2));
            if (v) {
                model_name_format(span_str(v->name), v->version, h->changes[h->n_changes % HOLDER_CHANGES_MAX]);
                h->n_changes++;
                record_free(&v->base);
            }
        }
        mem_free(bytes);
    }
}

/* Takes a record of the audit log, ours or read. */
static int take_audit(struct holder *h, const Genloop__V1__AuditRecord *record, enum ledger_result *result, struct error *err) {
    pthread_mutex_lock(&h->lock);
    int r = ledger_take(h->ledger, record, result, err);
    if (r == 0 && *result == LEDGER_TAKEN) note_changes(h, record);
    uint64_t size = merkle_size(ledger_tree(h->ledger));
    pthread_mutex_unlock(&h->lock);
    metric_set(h->m_size, (double)size);
    if (r == 0 && *result == LEDGER_TAKEN) tell_change(h);
    return r;
}

static uint64_t echo_of(enum topic topic, struct span id) { return (span_hash(id) << 5 | (uint64_t)topic) + 1; }
_Static_assert(TOPIC_COUNT <= 32, "a topic has five bits of an echo");

static bool take_echo(struct holder *h, const struct event *e) {
    uint64_t echo = echo_of(e->topic, e->id);
    for (size_t i = 0; i < ECHOES_MAX; i++)
        if (h->echoes[i] == echo) {
            h->echoes[i] = 0;
            return true;
        }
    return false;
}

static uint64_t dropped_revisions(const struct holder *h) {
    struct fold_counts counts;
    fold_counts(h->seen, &counts);
    return counts.dropped_revision;
}

static int follow(struct holder *h, const struct event *e, struct error *err) {
    if (e->topic != TOPIC_AUDIT) {
        enum fold_result result;
        struct error why = {0};
        uint64_t before = dropped_revisions(h);
        bool echo = take_echo(h, e);
        int r = fold_event(h->seen, e, &result, &why);
        if (r != 0) return error_set(err, r, "%s", why.message);
        if (echo && dropped_revisions(h) > before) return 0; /* we have written the next one since: it stands behind this */
        if (result == FOLD_DROPPED) {
            log_warn("registry.dropped", "%s %d/%s: %s", topic_info(e->topic)->name, e->partition, e->offset, why.message);
            metric_add(h->m_dropped, 1);
            h->heal = true; /* in a compacted topic it may stand where the right record stood */
        }
        return 0;
    }
    Genloop__V1__AuditRecord *record = (Genloop__V1__AuditRecord *)record_unpack(&genloop__v1__audit_record__descriptor, e->value);
    enum ledger_result result = LEDGER_DROPPED;
    struct error why = {0};
    int r = record ? take_audit(h, record, &result, &why) : 0;
    if (r == 0 && result == LEDGER_DROPPED) {
        log_warn("registry.audit_dropped", "%d/%s: %s", e->partition, e->offset, record ? why.message : "no audit record");
        metric_add(h->m_audit_dropped, 1);
    }
    if (r == 0 && record && h->claim[0] && strcmp(record->id, h->claim) == 0) {
        /* Our claim has come by: in its place, or behind somebody else's record, and then it must be made again, under the next epoch. */
        h->claimed = result != LEDGER_DROPPED;
        h->claim[0] = 0;
        if (!h->claimed) step_down(h, why.message);
    }
    if (r != 0) error_set(err, r, "the audit log cannot be followed at %s: %s", e->offset, why.message);
    if (record) record_free(&record->base);
    return r;
}

/* ---- writing ---- */

static int publish(struct holder *h, enum topic topic, struct span key, struct span id, struct span type, const ProtobufCMessage *message, struct error *err) {
    struct buf packed;
    buf_init(&packed, EVENT_VALUE_MAX);
    int r = record_pack(message, &packed);
    if (r != 0) error_set(err, r, "a record of topic %s is too large", topic_info(topic)->name);
    struct event e = {.topic = topic, .key = key, .value = buf_span(&packed), .id = id, .type = type};
    if (r == 0) r = eventlog_publish(h->config.log, &e, err);
    buf_fini(&packed);
    return r;
}

/* The record goes into the log and, once it is durable, into the ledger. A failure that leaves its fate open ends the lease. */
static int write_audit(struct holder *h, const Genloop__V1__AuditRecord *record, struct error *err) {
    int r = publish(h, TOPIC_AUDIT, SPAN(AUDIT_KEY), span_str(record->id), SPAN(""), &record->base, err);
    if (r != 0) {
        if (r != E_TOO_LARGE && r != E_FULL) step_down(h, err->message);
        return r;
    }
    enum ledger_result result;
    r = take_audit(h, record, &result, err);
    if (r == 0 && result != LEDGER_TAKEN) {
        r = E_ABORTED; /* another record stood in its place: somebody else wrote */
        step_down(h, err->message);
    }
    return r;
}

struct writing {
    struct holder *holder;
    struct error *err;
};

/* Writes one record of a change to its topic as it is, and takes note of it there. */
static int write_record(void *arg, enum topic topic, struct span packed) {
    struct writing *w = arg;
    struct holder *h = w->holder;
    ProtobufCMessage *m = record_unpack(fold_record_type(topic), packed);
    if (!m) return error_set(w->err, E_DATA_LOSS, "a registry record cannot be read");
    char key[MODEL_FULL_NAME_MAX], id[EVENT_ID_MAX];
    uint64_t revision, epoch;
    if (topic == TOPIC_MODELS) {
        const Genloop__V1__ModelVersion *v = (const Genloop__V1__ModelVersion *)m;
        model_name_format(span_str(v->name), v->version, key);
        revision = v->revision, epoch = v->epoch;
    } else if (topic == TOPIC_KEYS) {
        const Genloop__V1__ApiKey *k = (const Genloop__V1__ApiKey *)m;
        span_copy(key, sizeof key, span_str(k->id));
        revision = k->revision, epoch = k->epoch;
    } else {
        const Genloop__V1__Alias *a = (const Genloop__V1__Alias *)m;
        span_copy(key, sizeof key, span_str(a->alias));
        revision = a->revision, epoch = a->epoch;
    }
    snprintf(id, sizeof id, "%s/%llu/%llu", key, (unsigned long long)revision, (unsigned long long)epoch);
    struct event e = {.topic = topic, .key = span_str(key), .value = packed, .id = span_str(id)};
    int r = eventlog_publish(h->config.log, &e, w->err);
    enum fold_result result;
    if (r == 0) h->echoes[h->n_echoes++ % ECHOES_MAX] = echo_of(topic, e.id);
    if (r == 0) r = fold_event(h->seen, &e, &result, w->err);
    record_free(m);
    return r;
}

/* ---- claiming ---- */

static int write_claim(struct holder *h, struct error *err) {
    struct arena arena;
    arena_init(&arena, COMMAND_ARENA);
    char actor[160];
    snprintf(actor, sizeof actor, "service:%s", h->config.instance);
    struct audit_entry entry = {.actor_id = span_str(actor), .actor_scope = SPAN("service"), .action = "registry.lease", .object = HOLDER_LEASE,
                                .from_state = "", .to_state = "", .reason = SPAN("holder of the registry")};
    Genloop__V1__AuditRecord *record;
    id_make(h->claim);
    int r = audit_make(ledger_tree(h->ledger), h->config.key, h->epoch, clock_wall_ms(), h->claim, &entry, &arena, &record, err);
    /* Not taken here: it counts when it is read back in its place, behind whatever a former holder still wrote. */
    if (r == 0) r = publish(h, TOPIC_AUDIT, SPAN(AUDIT_KEY), span_str(h->claim), SPAN(""), &record->base, err);
    arena_fini(&arena);
    return r;
}

static int write_fences(struct holder *h, struct error *err) {
    Genloop__V1__Lease lease = GENLOOP__V1__LEASE__INIT;
    uint8_t signature[RECORD_SIGNATURE_SIZE];
    char id[EVENT_ID_MAX];
    lease.name = (char *)(uintptr_t)HOLDER_LEASE;
    lease.holder = (char *)(uintptr_t)h->config.instance;
    lease.epoch = h->epoch;
    lease.event_time_ms = clock_wall_ms();
    lease.until_time_ms = lease.event_time_ms + h->config.lease_ms;
    snprintf(id, sizeof id, "%s/%llu", FOLD_LEASE_KEY, (unsigned long long)h->epoch);
    int r = record_sign(h->config.key, &lease.base, signature, err);
    if (r == 0) r = publish(h, TOPIC_MODELS, SPAN(FOLD_LEASE_KEY), span_str(id), SPAN("genloop.v1.Lease"), &lease.base, err);
    if (r == 0) r = publish(h, TOPIC_ALIASES, SPAN(FOLD_LEASE_KEY), span_str(id), SPAN("genloop.v1.Lease"), &lease.base, err);
    if (r == 0) r = publish(h, TOPIC_KEYS, SPAN(FOLD_LEASE_KEY), span_str(id), SPAN("genloop.v1.Lease"), &lease.base, err);
    return r;
}

/* A record of the ledger under our epoch: the same revision, so that readers who have it take it for a repeat. */
static int write_again(struct holder *h, enum topic topic, const ProtobufCMessage *record, struct error *err) {
    struct buf packed;
    uint8_t signature[RECORD_SIGNATURE_SIZE];
    union {
        ProtobufCMessage base;
        Genloop__V1__ModelVersion version;
        Genloop__V1__Alias alias;
        Genloop__V1__ApiKey key;
    } copy;
    buf_init(&packed, EVENT_VALUE_MAX);
    if (topic == TOPIC_MODELS) {
        copy.version = *(const Genloop__V1__ModelVersion *)record;
        copy.version.epoch = h->epoch;
    } else if (topic == TOPIC_KEYS) {
        copy.key = *(const Genloop__V1__ApiKey *)record;
        copy.key.epoch = h->epoch;
    } else {
        copy.alias = *(const Genloop__V1__Alias *)record;
        copy.alias.epoch = h->epoch;
    }
    int r = record_sign(h->config.key, &copy.base, signature, err);
    if (r == 0) r = record_pack(&copy.base, &packed);
    struct writing w = {h, err};
    if (r == 0) r = write_record(&w, topic, buf_span(&packed));
    buf_fini(&packed);
    return r;
}

/* Writes what the audit log says and the topics lack; with `all`, what they have too (something of no right may stand in its place). */
static int reconcile(struct holder *h, bool all, struct error *err) {
    struct registry_state state;
    ledger_state(h->ledger, &state); /* only this thread changes it */
    int r = 0;
    size_t written = 0;
    for (size_t i = 0; r == 0 && i < fold_versions(state.fold); i++) {
        const Genloop__V1__ModelVersion *v = fold_version_at(state.fold, i), *seen = fold_version(h->seen, span_str(v->name), v->version);
        if (!all && seen && seen->revision == v->revision) continue;
        r = write_again(h, TOPIC_MODELS, &v->base, err);
        written++;
    }
    for (size_t i = 0; r == 0 && i < fold_aliases(state.fold); i++) {
        const Genloop__V1__Alias *a = fold_alias_at(state.fold, i), *seen = fold_alias_record(h->seen, span_str(a->alias));
        if (!all && seen && seen->revision == a->revision) continue;
        r = write_again(h, TOPIC_ALIASES, &a->base, err);
        written++;
    }
    for (size_t i = 0; r == 0 && i < fold_keys(state.fold); i++) {
        const Genloop__V1__ApiKey *k = fold_key_at(state.fold, i), *seen = fold_key(h->seen, span_str(k->id));
        if (!all && seen && seen->revision == k->revision) continue;
        r = write_again(h, TOPIC_KEYS, &k->base, err);
        written++;
    }
    if (written) log_info("registry.reconciled", "%zu records of the audit log written to their topics", written);
    return r;
}

/* ---- deciding ---- */

static int repeat(struct holder_request *q, const struct ledger_done *done, const char *action) {
    if (strcmp(done->action, action) != 0)
        return error_set_param(&q->err, E_EXISTS, "id", "this id has been used for %s of %s (audit record %llu)", done->action, done->object, (unsigned long long)done->index);
    q->existed = true;
    span_copy(q->object, sizeof q->object, span_str(done->object));
    return 0;
}

static int do_transition(struct holder *h, struct holder_request *q, struct arena *arena) {
    struct registry_state state;
    struct registry_change change;
    struct ledger_done done;
    struct audit_detail details[REGISTRY_VERSIONS_MAX + REGISTRY_ALIASES_MAX];
    Genloop__V1__AuditRecord *record;
    char id[ID_TEXT_MAX], action[64];
    size_t n;
    snprintf(action, sizeof action, "model.%s", move_name(q->command.move));
    if (ledger_find(h->ledger, q->command.id, &done)) return repeat(q, &done, action);
    ledger_state(h->ledger, &state);
    int64_t now_ms = clock_wall_ms();
    int r = registry_decide(&state, &q->command, now_ms, arena, &change, &q->err);
    if (r == 0) r = audit_seal_change(&change, h->config.key, h->epoch, id_make(id), arena, details, &n, &q->err);
    if (r != 0) return r;
    struct audit_entry entry = {.command = q->command.id, .actor_id = q->command.actor_id, .actor_scope = q->command.actor_scope, .actor_claim = q->command.actor_claim,
                                .action = change.action, .object = change.object, .from_state = change.from_state, .to_state = change.to_state,
                                .reason = q->command.reason, .evidence = q->command.evidence, .details = details, .n_details = n};
    r = audit_make(ledger_tree(h->ledger), h->config.key, h->epoch, now_ms, id, &entry, arena, &record, &q->err);
    if (r == 0) r = write_audit(h, record, &q->err);
    if (r != 0) return r;
    span_copy(q->object, sizeof q->object, span_str(change.object));
    log_info("registry.transition", "%s %s: %s to %s by %.*s", change.action, change.object, change.from_state, change.to_state, SPAN_ARG(q->command.actor_id));
    /* It is done: from here on it is only told. What is not told now is told by whoever holds the lease next. */
    struct writing w = {h, &q->err};
    r = audit_each_record(record, arena, &w, write_record, &q->err);
    if (r != 0) {
        step_down(h, q->err.message);
        error_set(&q->err, E_UNAVAILABLE, "decided and on the audit log, and will be in force soon: ask again with the same id");
        r = E_UNAVAILABLE;
    }
    return r;
}

/* The record is published as the change of a version is: the audit log first. */
static int do_key(struct holder *h, struct holder_request *q, struct arena *arena) {
    struct registry_state state;
    struct audit_detail detail;
    Genloop__V1__AuditRecord *record;
    Genloop__V1__ApiKey *key;
    char id[ID_TEXT_MAX], what[160];
    bool unchanged;
    ledger_state(h->ledger, &state);
    int64_t now_ms = clock_wall_ms();
    int r = key_decide(state.fold, &q->key, now_ms, arena, &key, &unchanged, &q->err);
    if (r != 0) return r;
    span_copy(q->object, sizeof q->object, span_str(key->id));
    q->existed = unchanged;
    if (unchanged) return 0;
    (void)snprintf(what, sizeof what, "scope %s, tenant %s", key->scope, key->tenant);
    r = audit_seal_key(key, h->config.key, h->epoch, id_make(id), arena, &detail, &q->err);
    struct audit_entry entry = {.actor_id = q->key.actor_id, .actor_scope = q->key.actor_scope, .actor_claim = q->key.actor_claim, .action = q->key.revoke ? "key.revoke" : "key.create",
                                .object = key->id, .from_state = q->key.revoke ? "in force" : "none", .to_state = q->key.revoke ? "revoked" : "in force",
                                .reason = span_str(what), .details = &detail, .n_details = 1};
    if (r == 0) r = audit_make(ledger_tree(h->ledger), h->config.key, h->epoch, now_ms, id, &entry, arena, &record, &q->err);
    if (r == 0) r = write_audit(h, record, &q->err);
    if (r != 0) return r;
    log_info("registry.key", "%s of %s (%s) by %.*s", entry.action, q->object, what, SPAN_ARG(q->key.actor_id));
    struct writing w = {h, &q->err};
    r = audit_each_record(record, arena, &w, write_record, &q->err);
    if (r != 0) {
        step_down(h, q->err.message);
        r = error_set(&q->err, E_UNAVAILABLE, q->key.revoke ? "decided and on the audit log, and will be in force soon: ask again" : "the key is made but could not be handed over: make another, and revoke %s", q->object);
    }
    return r;
}

static int do_note(struct holder *h, struct holder_request *q, struct arena *arena) {
    struct ledger_done done;
    Genloop__V1__AuditRecord *record;
    char id[ID_TEXT_MAX];
    if (ledger_find(h->ledger, q->entry.command, &done)) return repeat(q, &done, q->entry.action);
    int r = audit_make(ledger_tree(h->ledger), h->config.key, h->epoch, clock_wall_ms(), id_make(id), &q->entry, arena, &record, &q->err);
    return r ? r : write_audit(h, record, &q->err);
}

static int do_judge(struct holder *h, struct holder_request *q) {
    uint8_t signature[RECORD_SIGNATURE_SIZE];
    char id[EVENT_ID_MAX + 16];
    q->evaluation->epoch = h->epoch;
    q->evaluation->judged = true;
    snprintf(id, sizeof id, "%.120s/judged", q->evaluation->id);
    int r = record_sign(h->config.key, &q->evaluation->base, signature, &q->err);
    if (r == 0) r = publish(h, TOPIC_EVALUATIONS, span_str(q->evaluation->candidate), span_str(id), SPAN(""), &q->evaluation->base, &q->err);
    q->evaluation->signature = (ProtobufCBinaryData){0, NULL}; /* ours ends here */
    return r;
}

static struct holder_request *take_request(struct holder *h) {
    pthread_mutex_lock(&h->lock);
    struct holder_request *q = h->first;
    if (q) {
        h->first = q->next;
        if (!h->first) h->last = NULL;
        h->queued--;
    }
    pthread_mutex_unlock(&h->lock);
    return q;
}

static void put_back(struct holder *h, struct holder_request *q) {
    pthread_mutex_lock(&h->lock);
    q->next = h->first;
    h->first = q;
    if (!h->last) h->last = q;
    h->queued++;
    pthread_mutex_unlock(&h->lock);
}

static void refuse_late(struct holder *h, int64_t now_ms) {
    struct holder_request *q;
    while ((q = take_request(h)) != NULL) {
        if (now_ms < q->until_ms) {
            put_back(h, q);
            return; /* in order of arrival: the others are younger */
        }
        error_set(&q->err, E_UNAVAILABLE, "no instance of feedback holds the registry at the moment");
        finish(h, q, E_UNAVAILABLE);
    }
}

/* Whether the lease is ours now; renews it. */
static bool renew(struct holder *h, struct error *err) {
    uint64_t epoch = 0;
    if (!h->lease && eventlog_lease_open(h->config.log, HOLDER_LEASE, h->config.instance, h->config.lease_ms, &h->lease, err) != 0) return false;
    int r = eventlog_lease_poll(h->lease, &epoch, err);
    if (r != 0) {
        if (h->leased) step_down(h, r == E_AGAIN ? "another instance has it" : err->message);
        return false;
    }
    if (!h->leased || epoch != h->epoch) {
        h->epoch = epoch;
        h->leased = true;
        h->claimed = false;
        h->claim[0] = 0;
        set_holds(h, false);
        metric_set(h->m_epoch, (double)epoch);
        log_info("registry.lease_taken", "epoch %llu", (unsigned long long)epoch);
    }
    return true;
}

static void serve(struct holder *h) {
    struct holder_request *q;
    while (h->leased && h->claimed && (q = take_request(h)) != NULL) {
        struct error err = {0};
        if (!renew(h, &err) || !h->claimed) { /* just before it counts */
            put_back(h, q);
            return;
        }
        h->renew_at_ms = clock_mono_ms() + h->config.lease_ms / 3;
        struct arena arena;
        arena_init(&arena, COMMAND_ARENA);
        int r = q->kind == HOLDER_TRANSITION ? do_transition(h, q, &arena) : q->kind == HOLDER_NOTE ? do_note(h, q, &arena) : q->kind == HOLDER_KEY ? do_key(h, q, &arena) : do_judge(h, q);
        arena_fini(&arena);
        finish(h, q, r);
    }
}

/* Steps from following to holding. */
static void advance(struct holder *h) {
    struct error err = {0};
    int r = 0;
    bool was = h->holds;
    if (!h->claimed && !h->claim[0]) {
        r = write_claim(h, &err);
    } else if (h->claimed && !was) {
        r = write_fences(h, &err);
        if (r == 0) r = reconcile(h, false, &err);
        if (r == 0) set_holds(h, true);
    } else if (h->claimed && h->heal) {
        h->heal = false;
        r = reconcile(h, true, &err);
    }
    if (r != 0) step_down(h, err.message);
}

static int open_view(struct holder *h, struct error *err) {
    static const enum topic topics[] = {TOPIC_AUDIT, TOPIC_MODELS, TOPIC_ALIASES, TOPIC_KEYS};
    return eventlog_view_open(h->config.log, topics, 4, NULL, 0, &h->view, err);
}

static void note_caught_up(struct holder *h) {
    if (!eventlog_view_caught_up(h->view)) return;
    pthread_mutex_lock(&h->lock);
    h->caught_up = true;
    pthread_mutex_unlock(&h->lock);
    tell_change(h);
}

static void *run(void *arg) {
    struct holder *h = arg;
    int64_t retry_at_ms = 0;
    bool away = false;
    while (!stopping(h)) {
        struct error err = {0};
        int64_t now_ms = clock_mono_ms();
        if (!h->view && (now_ms < retry_at_ms || open_view(h, &err) != 0)) {
            if (err.code) {
                log_warn("registry.log_unavailable", "%s", err.message);
                retry_at_ms = now_ms + RETRY_MS;
            }
            refuse_late(h, now_ms);
            usleep(POLL_MS * 1000);
            continue;
        }
        struct event e;
        bool idle = true;
        pthread_mutex_lock(&h->lock);
        bool work = h->first != NULL && h->holds;
        pthread_mutex_unlock(&h->lock);
        if (!h->caught_up) note_caught_up(h); /* asked before the first poll: an empty log is ready at once */
        bool soon = work || !h->caught_up || (h->leased && !h->holds);
        int r = eventlog_view_poll(h->view, soon ? 1 : POLL_MS, &e, &err);
        if (r == 0) {
            idle = false;
            r = follow(h, &e, &err);
            if (r != 0) {
                h->config.on_fatal(h->config.arg, &err);
                return NULL;
            }
        } else if (r != E_AGAIN) {
            /* The log is away: the view goes on where it was once it is back. Anything else is read again from the beginning: what is known is repeated harmlessly. */
            if (!away) log_warn("registry.log_unavailable", "%s", err.message);
            away = true;
            if (r != E_UNAVAILABLE) {
                eventlog_view_close(h->view);
                h->view = NULL;
                retry_at_ms = now_ms + RETRY_MS;
            }
            refuse_late(h, now_ms);
            usleep(AWAY_PAUSE_MS * 1000);
            continue;
        }
        away = false;
        if (!h->caught_up) note_caught_up(h);
        if (now_ms >= h->renew_at_ms) {
            h->renew_at_ms = now_ms + h->config.lease_ms / 3;
            struct error lease_err = {0};
            renew(h, &lease_err);
        }
        if (!h->leased) {
            refuse_late(h, now_ms);
            continue;
        }
        if (idle && h->caught_up) advance(h);
        if (h->holds)
            serve(h);
        else
            refuse_late(h, now_ms);
    }
    return NULL;
}

/* ---- outside ---- */

static void holder_free(struct holder *h) {
    eventlog_view_close(h->view);
    eventlog_lease_close(h->lease);
    ledger_free(h->ledger);
    fold_free(h->seen);
    mem_free(h->changes);
    pthread_mutex_destroy(&h->lock);
    mem_free(h);
}

int holder_open(const struct holder_config *config, struct holder **holder, struct error *err) {
    struct holder *h = mem_zalloc(sizeof *h);
    if (!h) return error_set(err, E_NOMEM, "no memory for the registry");
    h->config = *config;
    pthread_mutex_init(&h->lock, NULL);
    h->ledger = ledger_new(config->key->public_key);
    h->seen = fold_new(config->key->public_key);
    h->changes = mem_calloc(HOLDER_CHANGES_MAX, sizeof *h->changes);
    h->m_holds = metric_gauge("genloop_registry_holder", "", "1 while this instance holds the registry's lease.");
    h->m_epoch = metric_gauge("genloop_registry_epoch", "", "Epoch of the lease that this instance had last.");
    h->m_size = metric_gauge("genloop_audit_tree_size", "", "Records in the audit log.");
    h->m_done = metric_counter("genloop_registry_commands_total", "result=\"done\"", "Commands to the registry.");
    h->m_refused = metric_counter("genloop_registry_commands_total", "result=\"refused\"", "Commands to the registry.");
    h->m_dropped = metric_counter("genloop_registry_dropped_total", "topic=\"models\"", "Records that do not hold: wrong signature, former epoch, no such transition.");
    h->m_audit_dropped = metric_counter("genloop_registry_dropped_total", "topic=\"audit\"", "Records that do not hold: wrong signature, former epoch, no such transition.");
    if (!h->ledger || !h->seen || !h->changes) {
        holder_free(h);
        return error_set(err, E_NOMEM, "no memory for the registry");
    }
    if (pthread_create(&h->thread, NULL, run, h) != 0) {
        holder_free(h);
        return error_set(err, E_INTERNAL, "the registry's thread does not start");
    }
    *holder = h;
    return 0;
}

void holder_close(struct holder *h) {
    if (!h) return;
    pthread_mutex_lock(&h->lock);
    h->stopping = true;
    pthread_mutex_unlock(&h->lock);
    pthread_join(h->thread, NULL);
    struct holder_request *q;
    while ((q = take_request(h)) != NULL) {
        error_set(&q->err, E_UNAVAILABLE, "this instance is going away");
        finish(h, q, E_UNAVAILABLE);
    }
    holder_free(h);
}

int holder_ask(struct holder *h, struct holder_request *q, struct error *err) {
    q->holder = h;
    q->next = NULL;
    q->result = 0;
    q->existed = false;
    q->object[0] = 0;
    memset(&q->err, 0, sizeof q->err);
    q->until_ms = clock_mono_ms() + HOLDER_WAIT_MS;
    pthread_mutex_lock(&h->lock);
    bool full = h->queued >= HOLDER_QUEUE_MAX || h->stopping;
    if (!full) {
        if (h->last)
            h->last->next = q;
        else
            h->first = q;
        h->last = q;
        h->queued++;
    }
    pthread_mutex_unlock(&h->lock);
    return full ? error_set(err, E_FULL, "%d commands wait for the registry: try again", HOLDER_QUEUE_MAX) : 0;
}

bool holder_holds(struct holder *h) {
    pthread_mutex_lock(&h->lock);
    bool holds = h->holds;
    pthread_mutex_unlock(&h->lock);
    return holds;
}

bool holder_caught_up(struct holder *h) {
    pthread_mutex_lock(&h->lock);
    bool caught_up = h->caught_up;
    pthread_mutex_unlock(&h->lock);
    return caught_up;
}

void holder_read(struct holder *h, void *arg, void (*read)(void *arg, const struct ledger *ledger)) {
    pthread_mutex_lock(&h->lock);
    read(arg, h->ledger);
    pthread_mutex_unlock(&h->lock);
}

size_t holder_changes(struct holder *h, uint64_t *position, char (*names)[MODEL_FULL_NAME_MAX], size_t max, bool *lost) {
    size_t n = 0;
    *lost = false;
    pthread_mutex_lock(&h->lock);
    if (*position == 0) *position = h->n_changes + 1;
    if (h->n_changes + 1 - *position > HOLDER_CHANGES_MAX) {
        *lost = true;
        *position = h->n_changes + 1;
    }
    while (n < max && *position <= h->n_changes) {
        memcpy(names[n++], h->changes[(*position - 1) % HOLDER_CHANGES_MAX], MODEL_FULL_NAME_MAX);
        (*position)++;
    }
    pthread_mutex_unlock(&h->lock);
    return n;
}
