/* Keys of the API: their text, their hash, and the registry's fold of their records: what is forged, late or revoked does not come back. */
#include "tests/unit/support/check.h"

#include "registry/api_key.h"
#include "registry/fold.h"

static const char GOOD[] = "glk_0123456789abcdef_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO-_";

static void test_text(void **state) {
    (void)state;
    static const struct {
        const char *name, *text;
        bool good;
    } rows[] = {
        {"good", GOOD, true},
        {"empty", "", false},
        {"another prefix", "sk-_0123456789abcdef_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO-_", false},
        {"capital hex", "glk_0123456789ABCDEF_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO-_", false},
        {"no second underscore", "glk_0123456789abcdef-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO-_", false},
        {"one short", "glk_0123456789abcdef_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO-", false},
        {"one long", "glk_0123456789abcdef_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO-_a", false},
        {"padding", "glk_0123456789abcdef_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO-=", false},
        {"space", "glk_0123456789abcdef_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO- ", false},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char id[API_KEY_ID_MAX] = "untouched";
        int r = api_key_id(span_str(rows[i].text), id);
        CHECK(r == (rows[i].good ? 0 : E_INVALID), "%s: %d", rows[i].name, r);
        CHECK(strcmp(id, rows[i].good ? "key_0123456789abcdef" : "untouched") == 0, "%s: %s", rows[i].name, id);
    }
    assert_true(api_key_id_valid(SPAN("key_0123456789abcdef")));
    assert_false(api_key_id_valid(SPAN("key_0123456789abcdeg")));
    assert_false(api_key_id_valid(SPAN("key_0123456789abcde")));
}

static void test_made(void **state) {
    (void)state;
    uint8_t bus[32] = {7}, secret[API_KEY_SECRET_SIZE], other[API_KEY_SECRET_SIZE], hash[API_KEY_HASH_SIZE];
    char text[API_KEY_TEXT_MAX], id[API_KEY_ID_MAX], again[API_KEY_ID_MAX], second[API_KEY_TEXT_MAX], second_id[API_KEY_ID_MAX];
    platform_secret(bus, "api-keys", secret);
    platform_secret(bus, "another purpose", other);
    assert_memory_not_equal(secret, other, sizeof secret);
    api_key_make(text, id);
    api_key_make(second, second_id);
    assert_string_not_equal(text, second);
    assert_string_not_equal(id, second_id);
    assert_int_equal(strlen(text), API_KEY_TEXT_MAX - 1);
    assert_int_equal(api_key_id(span_str(text), again), 0);
    assert_string_equal(id, again);
    api_key_hash(secret, span_str(text), hash);
    struct span kept = span_of(hash, sizeof hash);
    assert_true(api_key_holds(secret, span_str(text), kept));
    assert_false(api_key_holds(other, span_str(text), kept)); /* a hash means nothing to another platform */
    assert_false(api_key_holds(secret, span_str(second), kept));
    assert_false(api_key_holds(secret, span_str(text), span_of(hash, sizeof hash - 1)));
    assert_false(api_key_holds(secret, span_str(text), SPAN("")));
    for (size_t i = 0; i < strlen(text); i++) { /* every character of it counts */
        char wrong[API_KEY_TEXT_MAX];
        memcpy(wrong, text, sizeof wrong);
        wrong[i] = wrong[i] == 'x' ? 'y' : 'x';
        CHECK(!api_key_holds(secret, span_str(wrong), kept), "character %zu does not count", i);
    }
}

static struct registry_key key, forger;

static enum fold_result put(struct fold *f, const struct registry_key *k, const char *event_key, const char *id, const char *scope, uint64_t revision, uint64_t epoch, int64_t revoked, const char *offset) {
    Genloop__V1__ApiKey m = GENLOOP__V1__API_KEY__INIT;
    uint8_t signature[RECORD_SIGNATURE_SIZE], hash[API_KEY_HASH_SIZE] = {3};
    char audit[32];
    struct buf packed;
    enum fold_result result;
    struct error err = {0};
    snprintf(audit, sizeof audit, "audit-%d", (int)revision);
    m.id = (char *)(uintptr_t)id;
    m.tenant = (char *)(uintptr_t)"shop";
    m.scope = (char *)(uintptr_t)scope;
    m.hash = (ProtobufCBinaryData){sizeof hash, hash};
    m.revision = revision;
    m.epoch = epoch;
    m.revoked_time_ms = revoked;
    m.audit_id = audit;
    buf_init(&packed, 1 << 16);
    assert_int_equal(record_sign(k, &m.base, signature, &err), 0);
    assert_int_equal(record_pack(&m.base, &packed), 0);
    struct event e = {.topic = TOPIC_KEYS, .key = span_str(event_key), .value = buf_span(&packed)};
    snprintf(e.offset, sizeof e.offset, "%s", offset);
    assert_int_equal(fold_event(f, &e, &result, &err), 0);
    buf_fini(&packed);
    return result;
}

static void test_fold(void **state) {
    (void)state;
    static const char A[] = "key_000000000000000a", B[] = "key_000000000000000b";
    uint8_t seed[32] = {1};
    registry_key_from_seed(seed, &key);
    seed[0] = 2;
    registry_key_from_seed(seed, &forger);
    struct fold *f = fold_new(key.public_key);
    assert_int_equal(put(f, &forger, A, A, "approver", 1, 1, 0, "1-0"), FOLD_DROPPED);
    assert_int_equal(put(f, &key, B, A, "client", 1, 1, 0, "2-0"), FOLD_DROPPED);      /* under another's name */
    assert_int_equal(put(f, &key, "nonsense", "nonsense", "client", 1, 1, 0, "3-0"), FOLD_DROPPED);
    assert_int_equal(put(f, &key, A, A, "emperor", 1, 1, 0, "4-0"), FOLD_DROPPED);
    assert_int_equal(fold_keys(f), 0);
    assert_int_equal(put(f, &key, B, B, "client", 1, 1, 0, "5-0"), FOLD_CHANGED);
    assert_int_equal(put(f, &key, A, A, "operator", 1, 1, 0, "6-0"), FOLD_CHANGED);
    assert_int_equal(put(f, &key, A, A, "operator", 1, 1, 0, "7-0"), FOLD_SAME);
    assert_int_equal(fold_keys(f), 2);
    assert_string_equal(fold_key_at(f, 0)->id, A);
    assert_null(fold_key_at(f, 2));
    assert_null(fold_key(f, SPAN("key_000000000000000c")));
    assert_string_equal(fold_key(f, SPAN("key_000000000000000a"))->scope, "operator");
    /* Revoked for good: neither the old record again nor a newer one that takes it back. */
    assert_int_equal(put(f, &key, A, A, "operator", 2, 2, 99, "8-0"), FOLD_CHANGED);
    assert_int_equal(put(f, &key, A, A, "operator", 1, 2, 0, "9-0"), FOLD_DROPPED);
    assert_int_equal(put(f, &key, A, A, "operator", 3, 2, 0, "10-0"), FOLD_DROPPED);
    assert_int_equal(fold_key(f, SPAN("key_000000000000000a"))->revoked_time_ms, 99);
    /* What a former holder of the lease still writes does not count. */
    assert_int_equal(put(f, &key, B, B, "client", 2, 1, 99, "11-0"), FOLD_DROPPED);
    assert_int_equal(fold_key(f, SPAN("key_000000000000000b"))->revoked_time_ms, 0);
    struct fold_counts counts;
    fold_counts(f, &counts);
    assert_int_equal(counts.dropped_signature, 4);
    assert_int_equal(counts.dropped_revision, 1);
    assert_int_equal(counts.dropped_transition, 1);
    assert_int_equal(counts.dropped_epoch, 1);
    fold_free(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_text), cmocka_unit_test(test_made), cmocka_unit_test(test_fold)};
    return cmocka_run_group_tests_name("registry/api_key", tests, NULL, NULL);
}
