#include "ledger.h"

#include <string.h>

#include "base/alloc.h"

struct done {
    char *command, *action, *object; /* one allocation, at command */
    uint64_t hash, index;
};

struct ledger {
    uint8_t public_key[RECORD_PUBLIC_SIZE];
    struct merkle tree;
    uint64_t epoch;
    struct fold *fold;
    struct registry_promotion *promotions;
    size_t n_promotions, promotions_capacity;
    struct done *done;
    size_t n_done, done_capacity;
    uint32_t *table; /* open addressing: index into done + 1, 0 empty; size a power of two, at most half full */
    size_t table_size;
    struct ledger_head head;
};

struct ledger *ledger_new(const uint8_t public_key[RECORD_PUBLIC_SIZE]) {
    struct ledger *l = mem_zalloc(sizeof *l);
    if (!l) return NULL;
    memcpy(l->public_key, public_key, RECORD_PUBLIC_SIZE);
    merkle_init(&l->tree);
    sha256_of(SPAN(""), l->head.root);
    l->fold = fold_new(public_key);
    if (!l->fold) {
        ledger_free(l);
        return NULL;
    }
    return l;
}

void ledger_free(struct ledger *l) {
    if (!l) return;
    for (size_t i = 0; i < l->n_done; i++) mem_free(l->done[i].command);
    mem_free(l->done);
    mem_free(l->table);
    mem_free(l->promotions);
    fold_free(l->fold);
    merkle_fini(&l->tree);
    mem_free(l);
}

const struct merkle *ledger_tree(const struct ledger *l) { return &l->tree; }
uint64_t ledger_epoch(const struct ledger *l) { return l->epoch; }
void ledger_state(const struct ledger *l, struct registry_state *state) { *state = (struct registry_state){l->fold, l->promotions, l->n_promotions}; }
void ledger_head(const struct ledger *l, struct ledger_head *head) { *head = l->head; }

static size_t slot_of(const struct ledger *l, struct span id, uint64_t hash) {
    size_t at = (size_t)hash & (l->table_size - 1);
    while (l->table[at]) {
        const struct done *d = &l->done[l->table[at] - 1];
        if (d->hash == hash && span_eq_str(id, d->command)) break;
        at = (at + 1) & (l->table_size - 1);
    }
    return at;
}

bool ledger_find(const struct ledger *l, struct span id, struct ledger_done *out) {
    if (l->n_done == 0 || id.len == 0) return false;
    size_t at = slot_of(l, id, span_hash(id));
    if (!l->table[at]) return false;
    const struct done *d = &l->done[l->table[at] - 1];
    if (out) *out = (struct ledger_done){d->action, d->object, d->index};
    return true;
}

static int grow_table(struct ledger *l) {
    if (2 * (l->n_done + 1) <= l->table_size) return 0;
    size_t size = l->table_size ? 2 * l->table_size : 64;
    uint32_t *table = mem_calloc(size, sizeof *table);
    if (!table) return E_NOMEM;
    mem_free(l->table);
    l->table = table;
    l->table_size = size;
    for (size_t i = 0; i < l->n_done; i++) l->table[slot_of(l, span_str(l->done[i].command), l->done[i].hash)] = (uint32_t)i + 1;
    return 0;
}

static int remember(struct ledger *l, const Genloop__V1__AuditRecord *record) {
    struct span id = audit_detail_get(record, "command");
    if (id.len == 0 || ledger_find(l, id, NULL)) return 0;
    size_t action = strlen(record->action) + 1, object = strlen(record->object) + 1;
    if (grow_table(l) != 0 || array_reserve(&l->done, &l->done_capacity, l->n_done + 1, sizeof *l->done) != 0) return E_NOMEM;
    char *memory = mem_alloc(id.len + 1 + action + object);
    if (!memory) return E_NOMEM;
    struct done d = {memory, memory + id.len + 1, memory + id.len + 1 + action, span_hash(id), record->index};
    memcpy(d.command, id.data, id.len);
    d.command[id.len] = 0;
    memcpy(d.action, record->action, action);
    memcpy(d.object, record->object, object);
    size_t at = slot_of(l, id, d.hash);
    l->done[l->n_done++] = d;
    l->table[at] = (uint32_t)l->n_done;
    return 0;
}

/* A version that has come to production by this record. */
static int note_promotion(struct ledger *l, const Genloop__V1__ModelVersion *before, const Genloop__V1__ModelVersion *now) {
    if (now->state != MODEL_STATE(PRODUCTION) || (before && before->state == MODEL_STATE(PRODUCTION))) return 0;
    if (array_reserve(&l->promotions, &l->promotions_capacity, l->n_promotions + 1, sizeof *l->promotions) != 0) return E_NOMEM;
    struct registry_promotion *p = &l->promotions[l->n_promotions++];
    span_copy(p->name, sizeof p->name, span_str(now->name));
    p->version = now->version;
    return 0;
}

struct taking {
    struct ledger *ledger;
    struct error *err;
};

static int take_record(void *arg, enum topic topic, struct span packed) {
    struct taking *t = arg;
    ProtobufCMessage *m = record_unpack(fold_record_type(topic), packed);
    if (!m) return error_set(t->err, E_DATA_LOSS, "a registry record in the audit log cannot be read");
    char key[MODEL_FULL_NAME_MAX];
    struct event e = {.topic = topic, .value = packed};
    int r = 0;
    if (topic == TOPIC_MODELS) {
        const Genloop__V1__ModelVersion *v = (const Genloop__V1__ModelVersion *)m;
        e.key = span_str(model_name_format(span_str(v->name), v->version, key));
        r = note_promotion(t->ledger, fold_version(t->ledger->fold, span_str(v->name), v->version), v);
    } else
        e.key = span_str(topic == TOPIC_KEYS ? ((const Genloop__V1__ApiKey *)m)->id : ((const Genloop__V1__Alias *)m)->alias);
    enum fold_result result;
    if (r == 0) r = fold_event(t->ledger->fold, &e, &result, t->err);
    if (r == 0 && result == FOLD_DROPPED) r = E_DATA_LOSS; /* err says why: a signed audit record carries only what follows */
    record_free(m);
    return r;
}

int ledger_take(struct ledger *l, const Genloop__V1__AuditRecord *record, enum ledger_result *result, struct error *err) {
    uint8_t hash[SHA256_SIZE];
    if (record->index < merkle_size(&l->tree) && audit_leaf(record, hash, NULL) == 0) {
        uint8_t there[SHA256_SIZE];
        if (merkle_leaf(&l->tree, record->index, there) == 0 && memcmp(there, hash, SHA256_SIZE) == 0) {
            *result = LEDGER_SAME;
            return 0;
        }
    }
    *result = LEDGER_DROPPED;
    int r = audit_follow(&l->tree, &l->epoch, l->public_key, record, err);
    if (r == E_NOMEM || r == E_FULL) return r;
    if (r != 0) return 0;
    *result = LEDGER_TAKEN;
    l->head.size = record->index + 1;
    l->head.time_ms = record->event_time_ms;
    memcpy(l->head.root, record->root_hash.data, SHA256_SIZE);
    memcpy(l->head.signature, record->signature.data, RECORD_SIGNATURE_SIZE);
    struct arena arena;
    arena_init(&arena, 8 * AUDIT_DETAIL_MAX);
    struct taking t = {l, err};
    r = audit_each_record(record, &arena, &t, take_record, err);
    arena_fini(&arena);
    return r ? r : remember(l, record);
}
