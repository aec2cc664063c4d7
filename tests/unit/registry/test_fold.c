#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/random.h"
#include "registry/fold.h"

static struct registry_key KEY, FORGER;

static int set_up(void **state) {
    (void)state;
    uint8_t seed[32] = {1};
    registry_key_from_seed(seed, &KEY);
    seed[0] = 2;
    registry_key_from_seed(seed, &FORGER);
    return 0;
}

struct put {
    const char *name;
    uint32_t version;
    model_state state;
    uint64_t revision, epoch;
};

static enum fold_result give(struct fold *f, const struct registry_key *key, enum topic topic, const char *event_key, ProtobufCMessage *m, const char *offset) {
    uint8_t signature[RECORD_SIGNATURE_SIZE];
    struct buf packed;
    enum fold_result result;
    struct error err = {0};
    buf_init(&packed, 1 << 20);
    assert_int_equal(record_sign(key, m, signature, &err), 0);
    assert_int_equal(record_pack(m, &packed), 0);
    struct event e = {.topic = topic, .key = span_str(event_key), .value = buf_span(&packed)};
    if (offset) snprintf(e.offset, sizeof e.offset, "%s", offset);
    assert_int_equal(fold_event(f, &e, &result, &err), 0);
    buf_fini(&packed);
    return result;
}

static enum fold_result put(struct fold *f, const struct registry_key *key, struct put p, const char *offset) {
    Genloop__V1__ModelVersion v = GENLOOP__V1__MODEL_VERSION__INIT;
    char full[MODEL_FULL_NAME_MAX], audit[32];
    v.name = (char *)(uintptr_t)p.name;
    v.version = p.version;
    v.state = p.state;
    v.revision = p.revision;
    v.epoch = p.epoch;
    v.canary_percent = p.state == MODEL_STATE(CANARY) ? 25 : 0;
    v.event_time_ms = (int64_t)p.revision;
    snprintf(audit, sizeof audit, "audit-%llu", (unsigned long long)p.revision);
    v.audit_id = audit;
    return give(f, key, TOPIC_MODELS, model_name_format(span_str(p.name), p.version, full), &v.base, offset);
}

static enum fold_result put_alias(struct fold *f, const char *alias, const char *name, uint32_t version, uint32_t canary, uint32_t percent, uint64_t revision) {
    Genloop__V1__Alias a = GENLOOP__V1__ALIAS__INIT;
    char audit[32];
    a.alias = (char *)(uintptr_t)alias;
    a.name = (char *)(uintptr_t)name;
    a.version = version;
    a.canary_version = canary;
    a.canary_percent = percent;
    a.revision = revision;
    a.epoch = 1;
    snprintf(audit, sizeof audit, "alias-%llu", (unsigned long long)revision);
    a.audit_id = audit;
    return give(f, &KEY, TOPIC_ALIASES, alias, &a.base, NULL);
}

#define S(NAME) MODEL_STATE(NAME)

static void only_what_is_signed_and_follows(void **state) {
    (void)state;
    struct fold *f = fold_new(KEY.public_key);
    struct fold_counts c;
    assert_int_equal(put(f, &KEY, (struct put){"m", 1, S(CANDIDATE), 1, 5}, NULL), FOLD_CHANGED);
    assert_int_equal(put(f, &FORGER, (struct put){"m", 1, S(EVALUATED), 2, 5}, NULL), FOLD_DROPPED);
    assert_int_equal(put(f, &KEY, (struct put){"m", 1, S(REJECTED), 2, 5}, NULL), FOLD_CHANGED);
    assert_int_equal(put(f, &KEY, (struct put){"m", 1, S(REJECTED), 2, 6}, NULL), FOLD_SAME);
    /* Whatever comes behind REJECTED, rightly signed or not, jumping or not: it stays. */
    for (int s = 1; s <= 8; s++) {
        assert_int_equal(put(f, &KEY, (struct put){"m", 1, (model_state)s, 3, 6}, NULL), FOLD_DROPPED);
        assert_int_equal(put(f, &KEY, (struct put){"m", 1, (model_state)s, 9, 6}, NULL), FOLD_DROPPED);
        assert_int_equal(put(f, &FORGER, (struct put){"m", 1, (model_state)s, 3, 6}, NULL), FOLD_DROPPED);
    }
    assert_int_equal(fold_version(f, SPAN("m"), 1)->state, S(REJECTED));
    assert_false(fold_released(fold_version(f, SPAN("m"), 1)));
    /* A former holder. */
    assert_int_equal(put(f, &KEY, (struct put){"m", 2, S(CANDIDATE), 1, 5}, NULL), FOLD_DROPPED);
    assert_int_equal(put(f, &KEY, (struct put){"m", 2, S(CANDIDATE), 1, 6}, NULL), FOLD_CHANGED);
    /* A revision may jump over compacted ones where the state can be reached; not back. */
    assert_int_equal(put(f, &KEY, (struct put){"m", 2, S(PRODUCTION), 5, 6}, NULL), FOLD_CHANGED);
    assert_int_equal(put(f, &KEY, (struct put){"m", 2, S(RETIRED), 4, 6}, NULL), FOLD_DROPPED);
    assert_int_equal(put(f, &KEY, (struct put){"m", 2, S(CANDIDATE), 7, 6}, NULL), FOLD_DROPPED);
    assert_int_equal(put(f, &KEY, (struct put){"m", 2, S(APPROVED), 6, 6}, NULL), FOLD_DROPPED);
    fold_counts(f, &c);
    assert_true(c.accepted == 4 && c.repeated == 1 && c.dropped_signature == 9 && c.dropped_epoch == 1);
    assert_true(c.dropped_revision == 1 && c.dropped_transition == 18);
    fold_free(f);
}

static void keys_and_bytes_of_any_kind(void **state) {
    (void)state;
    struct fold *f = fold_new(KEY.public_key);
    Genloop__V1__ModelVersion v = GENLOOP__V1__MODEL_VERSION__INIT;
    enum fold_result result;
    v.name = (char *)(uintptr_t) "m";
    v.version = 1;
    v.state = S(CANDIDATE);
    v.revision = 1;
    assert_int_equal(give(f, &KEY, TOPIC_MODELS, "other@1", &v.base, NULL), FOLD_DROPPED);
    assert_int_equal(give(f, &KEY, TOPIC_ALIASES, "m@1", &v.base, NULL), FOLD_DROPPED); /* a ModelVersion shown as an Alias */
    v.name = (char *)(uintptr_t) "../m";
    assert_int_equal(give(f, &KEY, TOPIC_MODELS, "../m@1", &v.base, NULL), FOLD_DROPPED);
    struct random random;
    random_seed(&random, 7);
    for (int i = 0; i < 2000; i++) {
        char bytes[64];
        size_t n = random_below(&random, sizeof bytes + 1);
        for (size_t k = 0; k < n; k++) bytes[k] = (char)random_u64(&random);
        struct event e = {.topic = i % 2 ? TOPIC_MODELS : TOPIC_ALIASES, .key = i % 3 ? SPAN("m@1") : SPAN(FOLD_LEASE_KEY), .value = span_of(bytes, n)};
        assert_int_equal(fold_event(f, &e, &result, NULL), 0);
        assert_int_equal(result, FOLD_DROPPED);
    }
    assert_true(fold_versions(f) == 0 && fold_aliases(f) == 0);
    fold_free(f);
}

static void a_lease_fences_from_its_place_on(void **state) {
    (void)state;
    struct fold *f = fold_new(KEY.public_key);
    Genloop__V1__Lease lease = GENLOOP__V1__LEASE__INIT;
    lease.name = (char *)(uintptr_t) "registry";
    lease.epoch = 7;
    assert_int_equal(give(f, &FORGER, TOPIC_MODELS, FOLD_LEASE_KEY, &lease.base, "5-0"), FOLD_DROPPED);
    lease.signature = (ProtobufCBinaryData){0, NULL};
    assert_int_equal(give(f, &KEY, TOPIC_MODELS, FOLD_LEASE_KEY, &lease.base, "5-0"), FOLD_SAME);
    assert_true(fold_epoch(f) == 7);
    assert_int_equal(put(f, &KEY, (struct put){"m", 1, S(CANDIDATE), 1, 6}, "6-0"), FOLD_DROPPED);
    /* A snapshot of latest values may come in any order: what stands before the lease is its time's holder's. */
    assert_int_equal(put(f, &KEY, (struct put){"m", 1, S(CANDIDATE), 1, 6}, "4-0"), FOLD_CHANGED);
    assert_int_equal(put(f, &KEY, (struct put){"m", 1, S(EVALUATED), 2, 7}, "8-0"), FOLD_CHANGED);
    fold_free(f);
}

static void resolving(void **state) {
    (void)state;
    struct fold *f = fold_new(KEY.public_key);
    const Genloop__V1__ModelVersion *v;
    bool canary;
    struct error err;
    put(f, &KEY, (struct put){"docs", 1, S(PRODUCTION), 4, 1}, NULL);
    put(f, &KEY, (struct put){"docs", 2, S(CANARY), 4, 1}, NULL);
    put(f, &KEY, (struct put){"docs", 10, S(CANDIDATE), 1, 1}, NULL);
    put(f, &KEY, (struct put){"new", 1, S(CANDIDATE), 1, 1}, NULL);
    assert_int_equal(put_alias(f, "production", "docs", 1, 2, 10, 1), FOLD_CHANGED);
    assert_int_equal(put_alias(f, "best", "docs", 10, 0, 0, 1), FOLD_CHANGED);
    int share = 0, named = 0;
    for (uint64_t h = 0; h < 100; h++) {
        assert_int_equal(fold_resolve(f, SPAN("production"), h, &v, &canary, &err), 0);
        share += canary;
        assert_int_equal(v->version, canary ? 2 : 1);
        assert_int_equal(fold_resolve(f, SPAN("docs"), h, &v, &canary, &err), 0);
        assert_int_equal(v->version, canary ? 2 : 1); /* a bare name: by the version's own record */
        named += canary;
    }
    assert_int_equal(share, 10);
    assert_int_equal(named, 25);
    assert_int_equal(fold_resolve(f, SPAN("docs@2"), 99, &v, NULL, &err), 0);
    assert_int_equal(v->version, 2);
    assert_int_equal(fold_resolve(f, SPAN("best"), 0, &v, NULL, &err), 0);
    assert_int_equal(v->version, 10);
    assert_int_equal(fold_highest_version(f, SPAN("docs")), 10);
    static const struct {
        const char *model;
        int r;
    } wrong[] = {{"docs@3", E_NOT_FOUND}, {"new", E_NOT_FOUND}, {"none", E_NOT_FOUND}, {"", E_INVALID}, {"docs@0", E_INVALID}, {"docs@01", E_INVALID}, {"docs@", E_INVALID},
                 {"docs@99999999999", E_INVALID}, {"docs@1@2", E_INVALID}, {"a/b", E_INVALID}, {".a", E_INVALID}, {"doc", E_NOT_FOUND}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        if (fold_resolve(f, span_str(wrong[i].model), 0, &v, NULL, &err) != wrong[i].r) fail_msg("\"%s\" gave %d", wrong[i].model, err.code);
    /* Until the canary's record says so too, its share stays with production. */
    put(f, &KEY, (struct put){"docs", 2, S(APPROVED), 5, 1}, NULL);
    assert_int_equal(fold_resolve(f, SPAN("production"), 0, &v, &canary, &err), 0);
    assert_true(v->version == 1 && !canary);
    /* A promotion that has been read of the versions and not yet of the alias: somebody serves all the time. */
    put(f, &KEY, (struct put){"docs", 2, S(PRODUCTION), 6, 1}, NULL);
    put(f, &KEY, (struct put){"docs", 1, S(RETIRED), 5, 1}, NULL);
    assert_int_equal(fold_resolve(f, SPAN("production"), 99, &v, NULL, &err), 0);
    assert_int_equal(v->version, 2);
    put(f, &KEY, (struct put){"docs", 2, S(RETIRED), 7, 1}, NULL);
    assert_int_equal(fold_resolve(f, SPAN("production"), 99, &v, NULL, &err), 0);
    assert_false(fold_released(v));
    assert_int_equal(put_alias(f, "best", "", 0, 0, 0, 2), FOLD_CHANGED);
    assert_null(fold_alias(f, SPAN("best")));
    assert_non_null(fold_alias_record(f, SPAN("best")));
    assert_int_equal(fold_resolve(f, SPAN("best"), 0, &v, NULL, &err), E_NOT_FOUND);
    fold_free(f);
}

static void the_table_of_states(void **state) {
    (void)state;
    /* Nothing leads out of REJECTED and ROLLED_BACK, and no state but these two rows' reaches service without approval. */
    for (int to = 1; to <= 8; to++) {
        assert_false(state_reaches(S(REJECTED), (model_state)to));
        assert_false(state_reaches(S(ROLLED_BACK), (model_state)to));
    }
    for (int from = 0; from <= 8; from++)
        for (int to = 0; to <= 8; to++)
            if (state_leads((model_state)from, (model_state)to) && state_released((model_state)to) && !state_released((model_state)from))
                assert_true(from == S(APPROVED) || from == S(RETIRED));
    assert_true(state_leads(S(EVALUATED), S(APPROVED)));
    for (int from = 0; from <= 8; from++)
        if (from != S(EVALUATED) && from != S(CANARY)) assert_false(state_leads((model_state)from, S(APPROVED)));
    static const struct {
        const char *have, *need;
        bool allowed;
    } scopes[] = {{"client", "operator", false}, {"operator", "operator", true}, {"approver", "operator", true}, {"operator", "approver", false}, {"approver", "approver", true},
                  {"service", "approver", false}, {"service", "operator", false}, {"approver", "service", false}, {"service", "service", true}, {"", "operator", false},
                  {"root", "operator", false}};
    for (size_t i = 0; i < sizeof scopes / sizeof scopes[0]; i++) {
        struct state_row row = {.scope = scopes[i].need};
        if (scope_allows(span_str(scopes[i].have), &row) != scopes[i].allowed) fail_msg("%s for %s", scopes[i].have, scopes[i].need);
    }
}

static void keys_on_disk(void **state) {
    (void)state;
    char dir[] = "/tmp/genloop-test-XXXXXX", keys[128], path[192];
    struct registry_key a, b, open;
    struct error err;
    assert_non_null(mkdtemp(dir));
    snprintf(keys, sizeof keys, "%s/keys", dir);
    assert_int_equal(registry_key_load(keys, true, &a, &err), E_NOT_FOUND);
    assert_int_equal(registry_key_make(keys, &err), 0);
    assert_int_equal(registry_key_load(keys, true, &a, &err), 0);
    assert_int_equal(registry_key_make(keys, &err), 0);
    assert_int_equal(registry_key_load(keys, true, &b, &err), 0);
    assert_memory_equal(&a, &b, sizeof a);
    assert_int_equal(registry_key_load(keys, false, &open, &err), 0);
    assert_false(open.can_sign);
    struct stat st;
    snprintf(path, sizeof path, "%s/registry.key", keys);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(st.st_size, 64);
    snprintf(path, sizeof path, "%s/registry.pub", keys);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(registry_key_make(keys, &err), 0); /* the public half comes back from the secret one */
    assert_int_equal(registry_key_load(keys, true, &b, &err), 0);
    assert_memory_equal(&a, &b, sizeof a);
    assert_int_equal(file_write(path, span_of(KEY.public_key, 32), 0644, &err), 0);
    assert_int_equal(registry_key_load(keys, true, &b, &err), E_DATA_LOSS);
    /* a key from outside leaves its public half, and never goes over another's */
    assert_int_equal(registry_key_publish(keys, &a, &err), E_STATE);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(registry_key_publish(keys, &a, &err), 0);
    assert_int_equal(registry_key_publish(keys, &a, &err), 0);
    assert_int_equal(registry_key_load(keys, false, &open, &err), 0);
    assert_memory_equal(open.public_key, a.public_key, sizeof a.public_key);
    Genloop__V1__ModelVersion v = GENLOOP__V1__MODEL_VERSION__INIT;
    uint8_t signature[RECORD_SIGNATURE_SIZE];
    assert_int_equal(record_sign(&open, &v.base, signature, &err), E_DENIED);
    assert_int_equal(record_verify(a.public_key, &v.base, &err), E_DENIED);
    assert_int_equal(record_sign(&a, &v.base, signature, &err), 0);
    assert_int_equal(record_verify(a.public_key, &v.base, &err), 0);
    v.version++;
    assert_int_equal(record_verify(a.public_key, &v.base, &err), E_DENIED);
    assert_int_equal(dir_remove(dir, &err), 0);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    for (uint64_t fail = 1; fail < 200; fail++) {
        struct fold *f = fold_new(KEY.public_key);
        Genloop__V1__ModelVersion v = GENLOOP__V1__MODEL_VERSION__INIT;
        uint8_t signature[RECORD_SIGNATURE_SIZE];
        struct buf packed;
        enum fold_result result = FOLD_SAME;
        buf_init(&packed, 1 << 20);
        v.name = (char *)(uintptr_t) "m";
        v.version = 1;
        v.state = S(CANDIDATE);
        v.revision = 1;
        assert_int_equal(record_sign(&KEY, &v.base, signature, NULL), 0);
        assert_int_equal(record_pack(&v.base, &packed), 0);
        struct event e = {.topic = TOPIC_MODELS, .key = SPAN("m@1"), .value = buf_span(&packed)};
        alloc_fail_at(fail);
        int r = fold_event(f, &e, &result, NULL);
        bool used = alloc_count() >= fail;
        alloc_fail_at(0);
        /* Without memory it may be told as E_NOMEM or (where the message cannot be read) as dropped, never as taken. */
        if (used) assert_true(r == E_NOMEM || result == FOLD_DROPPED || result == FOLD_CHANGED);
        if (result != FOLD_CHANGED) assert_true(fold_versions(f) == 0);
        buf_fini(&packed);
        fold_free(f);
        if (!used) return;
    }
    fail_msg("one event does not take 200 allocations");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_what_is_signed_and_follows), cmocka_unit_test(keys_and_bytes_of_any_kind), cmocka_unit_test(a_lease_fences_from_its_place_on), cmocka_unit_test(resolving),
        cmocka_unit_test(the_table_of_states), cmocka_unit_test(keys_on_disk), cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
