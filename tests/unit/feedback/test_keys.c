/* What commands do to the keys: who may make and revoke which, and that what was decided comes out of the audit log again. */
#include "tests/unit/support/check.h"

#include "base/random.h"
#include "services/feedback/keys.h"
#include "services/feedback/ledger.h"

static struct registry_key key;

static struct key_command make_command(const char *id, const char *scope, const char *by) {
    return (struct key_command){.id = span_str(id), .tenant = SPAN("shop"), .scope = span_str(scope), .note = SPAN("a note"), .hash = {1, 2, 3}, .actor_id = SPAN("key_00000000000000ff"), .actor_scope = span_str(by)};
}

/* Decides, and lets the ledger take what the holder would write. */
static int apply(struct ledger *l, const struct key_command *c, int64_t now_ms, bool *unchanged, struct error *err) {
    struct arena arena;
    struct registry_state state;
    struct audit_detail detail;
    Genloop__V1__ApiKey *record;
    Genloop__V1__AuditRecord *audit;
    enum ledger_result result;
    char id[ID_TEXT_MAX];
    arena_init(&arena, 1 << 20);
    ledger_state(l, &state);
    int r = key_decide(state.fold, c, now_ms, &arena, &record, unchanged, err);
    if (r == 0 && !*unchanged) {
        assert_int_equal(audit_seal_key(record, &key, 1, id_make(id), &arena, &detail, err), 0);
        struct audit_entry entry = {.actor_id = c->actor_id, .actor_scope = c->actor_scope, .action = c->revoke ? "key.revoke" : "key.create", .object = record->id, .from_state = "", .to_state = "", .reason = SPAN("because"), .details = &detail, .n_details = 1};
        assert_int_equal(audit_make(ledger_tree(l), &key, 1, now_ms, id, &entry, &arena, &audit, err), 0);
        assert_int_equal(ledger_take(l, audit, &result, err), 0);
        assert_int_equal(result, LEDGER_TAKEN);
    }
    arena_fini(&arena);
    return r;
}

static void test_reach(void **state) {
    (void)state;
    static const struct {
        const char *name, *scope, *by;
        int r;
        const char *param;
    } rows[] = {
        {"an approver makes an approver", "approver", "approver", 0, ""},
        {"an operator makes an operator", "operator", "operator", 0, ""},
        {"an operator makes a client", "client", "operator", 0, ""},
        {"an operator makes no approver", "approver", "operator", E_DENIED, "scope"},
        {"a client makes none", "client", "client", E_DENIED, ""},
        {"nobody makes none", "client", "", E_DENIED, ""},
        {"no such scope", "emperor", "approver", E_INVALID, "scope"},
        {"the services' scope is nobody's", "service", "service", E_INVALID, "scope"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct ledger *l = ledger_new(key.public_key);
        struct key_command c = make_command("key_0123456789abcdef", rows[i].scope, rows[i].by);
        struct registry_state now;
        struct error err = {0};
        bool unchanged;
        int r = apply(l, &c, 5, &unchanged, &err);
        CHECK(r == rows[i].r, "%s: %d %s", rows[i].name, r, err.message);
        CHECK(r == 0 || strcmp(err.param, rows[i].param) == 0, "%s: param %s", rows[i].name, err.param);
        ledger_state(l, &now);
        CHECK(fold_keys(now.fold) == (r == 0 ? 1 : 0), "%s: %zu keys", rows[i].name, fold_keys(now.fold));
        if (r == 0) {
            const Genloop__V1__ApiKey *k = fold_key_at(now.fold, 0);
            CHECK(strcmp(k->scope, rows[i].scope) == 0 && strcmp(k->tenant, "shop") == 0 && k->hash.data[1] == 2 && k->created_time_ms == 5 && strcmp(k->created_by->scope, rows[i].by) == 0, "%s: not what was asked for", rows[i].name);
        }
        ledger_free(l);
    }
}

static void test_bad(void **state) {
    (void)state;
    struct ledger *l = ledger_new(key.public_key);
    struct error err = {0};
    bool unchanged;
    struct key_command c = make_command("key_0123456789abcdef", "client", "operator");
    static const char *const tenants[] = {"", "../x", "a b", "-a", "a/b"};
    for (size_t i = 0; i < COUNT(tenants); i++) {
        c.tenant = span_str(tenants[i]);
        CHECK(apply(l, &c, 1, &unchanged, &err) == E_INVALID && strcmp(err.param, "tenant") == 0, "tenant \"%s\"", tenants[i]);
    }
    c = make_command("key_0123456789abcdef", "client", "operator");
    c.note = SPAN("\xff");
    assert_int_equal(apply(l, &c, 1, &unchanged, &err), E_INVALID);
    assert_string_equal(err.param, "note");
    c.note = SPAN("");
    assert_int_equal(apply(l, &c, 1, &unchanged, &err), 0);
    assert_int_equal(apply(l, &c, 1, &unchanged, &err), E_ABORTED); /* the same name by chance */
    ledger_free(l);
}

static void test_revoke(void **state) {
    (void)state;
    struct ledger *l = ledger_new(key.public_key);
    struct registry_state now;
    struct error err = {0};
    bool unchanged;
    struct key_command a = make_command("key_000000000000000a", "approver", "approver"), c = make_command("key_000000000000000c", "client", "approver");
    assert_int_equal(apply(l, &a, 1, &unchanged, &err), 0);
    assert_int_equal(apply(l, &c, 2, &unchanged, &err), 0);
    struct key_command revoke = {.revoke = true, .id = SPAN("key_000000000000000a"), .actor_id = SPAN("key_00000000000000fe"), .actor_scope = SPAN("operator")};
    assert_int_equal(apply(l, &revoke, 3, &unchanged, &err), E_DENIED); /* nor does anybody lock out who stands above him */
    revoke.id = SPAN("key_000000000000000c");
    assert_int_equal(apply(l, &revoke, 4, &unchanged, &err), 0);
    assert_false(unchanged);
    assert_int_equal(apply(l, &revoke, 5, &unchanged, &err), 0);
    assert_true(unchanged);
    ledger_state(l, &now);
    const Genloop__V1__ApiKey *k = fold_key(now.fold, SPAN("key_000000000000000c"));
    assert_int_equal(k->revoked_time_ms, 4);
    assert_string_equal(k->revoked_by->id, "key_00000000000000fe");
    assert_string_equal(k->tenant, "shop");
    assert_int_equal(fold_key(now.fold, SPAN("key_000000000000000a"))->revoked_time_ms, 0);
    revoke.id = SPAN("key_000000000000000d");
    assert_int_equal(apply(l, &revoke, 6, &unchanged, &err), E_NOT_FOUND);
    ledger_free(l);
}

static int attempt(void *arg) {
    struct arena arena;
    struct registry_state state;
    Genloop__V1__ApiKey *record;
    bool unchanged;
    struct key_command c = make_command("key_0123456789abcdef", "client", "operator");
    ledger_state(arg, &state);
    arena_init(&arena, 1 << 20);
    int r = key_decide(state.fold, &c, 1, &arena, &record, &unchanged, NULL);
    arena_fini(&arena);
    return r;
}

static void test_memory(void **state) {
    (void)state;
    struct ledger *l = ledger_new(key.public_key);
    sweep("key_decide", attempt, l, E_NOMEM);
    ledger_free(l);
}

int main(void) {
    uint8_t seed[32] = {1};
    registry_key_from_seed(seed, &key);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reach), cmocka_unit_test(test_bad), cmocka_unit_test(test_revoke), cmocka_unit_test(test_memory)};
    return cmocka_run_group_tests_name("feedback/keys", tests, NULL, NULL);
}
