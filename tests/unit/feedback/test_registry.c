/*
 * The registry as its holder keeps it: commands become changes (registry.c), changes signed records in the audit log (audit.c), and the log the state that the next command
 * meets (ledger.c). Stories, every move from every state, and a log that somebody else has written into.
 */
#include "tests/unit/support/check.h"

#include "base/random.h"
#include "services/feedback/ledger.h"

#define S(NAME) MODEL_STATE(NAME)

static struct registry_key key, forger;

static int set_up(void **state) {
    (void)state;
    uint8_t seed[32] = {1};
    registry_key_from_seed(seed, &key);
    seed[0] = 2;
    registry_key_from_seed(seed, &forger);
    return 0;
}

/* What a holder does with a command, but for the writing: the record is given to each of the ledgers. */
struct registry {
    struct ledger *ledger;
    uint64_t epoch;
    int64_t now_ms;
    int commands;
    struct error err;
};

static struct registry open_registry(void) {
    struct registry r = {.ledger = ledger_new(key.public_key), .epoch = 1, .now_ms = 1700000000000};
    assert_non_null(r.ledger);
    return r;
}

static int make(struct registry *r, const struct registry_key *k, const struct registry_command *c, struct arena *arena, Genloop__V1__AuditRecord **record) {
    struct registry_state state;
    struct registry_change change;
    struct audit_detail details[REGISTRY_VERSIONS_MAX + REGISTRY_ALIASES_MAX];
    char id[ID_TEXT_MAX];
    size_t n = 0;
    ledger_state(r->ledger, &state);
    int code = registry_decide(&state, c, ++r->now_ms, arena, &change, &r->err);
    if (code == 0) code = audit_seal_change(&change, k, r->epoch, id_make(id), arena, details, &n, &r->err);
    if (code != 0) return code;
    struct audit_entry entry = {.command = c->id, .actor_id = c->actor_id, .actor_scope = c->actor_scope, .actor_claim = c->actor_claim, .action = change.action, .object = change.object,
                                .from_state = change.from_state, .to_state = change.to_state, .reason = c->reason, .evidence = c->evidence, .details = details, .n_details = n};
    return audit_make(ledger_tree(r->ledger), k, r->epoch, r->now_ms, id, &entry, arena, record, &r->err);
}

static struct registry_command command_of(struct registry *r, enum registry_move move, const char *model, char id[32]) {
    static const char sha[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    snprintf(id, 32, "c%d", ++r->commands);
    bool service = move == MOVE_REGISTER || move == MOVE_PASS || move == MOVE_FAIL;
    return (struct registry_command){.move = move, .id = span_str(id), .model = span_str(model), .reason = SPAN("because"), .actor_id = SPAN("key:1"), .actor_scope = service ? SPAN("service") : SPAN("approver"),
                                     .directory_sha256 = span_str(sha), .directory_size = 7};
}

static int run(struct registry *r, const struct registry_command *c) {
    struct arena arena;
    Genloop__V1__AuditRecord *record;
    enum ledger_result result = LEDGER_DROPPED;
    arena_init(&arena, 16 << 20);
    int code = make(r, &key, c, &arena, &record);
    if (code == 0) {
        code = ledger_take(r->ledger, record, &result, &r->err);
        CHECK(code == 0 && result == LEDGER_TAKEN, "%.*s: %s", SPAN_ARG(c->model), r->err.message);
    }
    arena_fini(&arena);
    return code;
}
static int move(struct registry *r, enum registry_move m, const char *model) {
    char id[32];
    struct registry_command c = command_of(r, m, model, id);
    return run(r, &c);
}

static const struct fold *fold_of(struct registry *r) {
    struct registry_state state;
    ledger_state(r->ledger, &state);
    return state.fold;
}
static int state_of(struct registry *r, uint32_t version) {
    const Genloop__V1__ModelVersion *v = fold_version(fold_of(r), SPAN("m"), version);
    return v ? (int)v->state : -1;
}
static uint32_t alias_of(struct registry *r, const char *alias, uint32_t *canary, uint32_t *percent) {
    const Genloop__V1__Alias *a = fold_alias(fold_of(r), span_str(alias));
    if (canary) *canary = a ? a->canary_version : 0;
    if (percent) *percent = a ? a->canary_percent : 0;
    return a ? a->version : 0;
}

/* Brings a new version of m into a state. */
static uint32_t bring(struct registry *r, model_state to) {
    char name[MODEL_FULL_NAME_MAX];
    assert_int_equal(move(r, MOVE_REGISTER, "m"), 0);
    uint32_t version = fold_highest_version(fold_of(r), SPAN("m"));
    model_name_format(SPAN("m"), version, name);
    static const enum registry_move ways[9][5] = {
        [S(CANDIDATE)] = {MOVE_COUNT},
        [S(EVALUATED)] = {MOVE_PASS, MOVE_COUNT},
        [S(APPROVED)] = {MOVE_PASS, MOVE_APPROVE, MOVE_COUNT},
        [S(CANARY)] = {MOVE_PASS, MOVE_APPROVE, MOVE_CANARY, MOVE_COUNT},
        [S(PRODUCTION)] = {MOVE_PASS, MOVE_APPROVE, MOVE_PROMOTE, MOVE_COUNT},
        [S(RETIRED)] = {MOVE_RETIRE, MOVE_COUNT},
        [S(REJECTED)] = {MOVE_REJECT, MOVE_COUNT},
        [S(ROLLED_BACK)] = {MOVE_PASS, MOVE_APPROVE, MOVE_PROMOTE, MOVE_ROLLBACK, MOVE_COUNT},
    };
    for (int i = 0; ways[to][i] != MOVE_COUNT; i++) CHECK(move(r, ways[to][i], name) == 0, "to %s: %s", state_name(to), r->err.message);
    assert_int_equal(state_of(r, version), to);
    return version;
}

static void test_story(void **state) {
    (void)state;
    struct registry r = open_registry();
    uint32_t canary, percent;
    uint32_t one = bring(&r, S(PRODUCTION));
    assert_int_equal(alias_of(&r, ALIAS_PRODUCTION, NULL, NULL), one);
    uint32_t two = bring(&r, S(CANARY));
    assert_int_equal(alias_of(&r, ALIAS_PRODUCTION, &canary, &percent), one);
    assert_true(canary == two && percent == REGISTRY_CANARY_DEFAULT && alias_of(&r, ALIAS_CANARY, NULL, NULL) == two);
    uint32_t three = bring(&r, S(CANARY)); /* one canary at a time */
    assert_int_equal(state_of(&r, two), S(APPROVED));
    assert_int_equal(alias_of(&r, ALIAS_PRODUCTION, &canary, NULL), one);
    assert_int_equal(canary, three);
    assert_int_equal(move(&r, MOVE_PROMOTE, "m@3"), 0);
    assert_true(state_of(&r, one) == S(RETIRED) && state_of(&r, three) == S(PRODUCTION));
    assert_int_equal(alias_of(&r, ALIAS_PRODUCTION, &canary, &percent), three);
    assert_true(canary == 0 && percent == 0 && alias_of(&r, ALIAS_CANARY, NULL, NULL) == 0); /* no share is left behind */
    assert_int_equal(move(&r, MOVE_ROLLBACK, "m"), 0); /* in one command, without a version: the one in production */
    assert_true(state_of(&r, three) == S(ROLLED_BACK) && state_of(&r, one) == S(PRODUCTION) && alias_of(&r, ALIAS_PRODUCTION, NULL, NULL) == one);
    assert_int_equal(move(&r, MOVE_ROLLBACK, "m"), E_STATE); /* there was none before it */
    assert_int_equal(state_of(&r, one), S(PRODUCTION));
    assert_int_equal(move(&r, MOVE_PROMOTE, "m@3"), E_STATE); /* it does not come back */
    assert_int_equal(move(&r, MOVE_RETIRE, "m@1"), 0);
    assert_int_equal(alias_of(&r, ALIAS_PRODUCTION, NULL, NULL), 0);
    assert_int_equal(move(&r, MOVE_PROMOTE, "m@2"), 0);
    assert_int_equal(alias_of(&r, ALIAS_PRODUCTION, NULL, NULL), two);
    ledger_free(r.ledger);
}

/* Every move from every state, by everybody: what the table of state.h has is done, anything else is refused and changes nothing. */
static void test_every_move(void **state) {
    (void)state;
    static const char *const scopes[] = {"", "client", "operator", "approver", "service", "root"};
    for (int from = S(CANDIDATE); from <= S(ROLLED_BACK); from++)
        for (int m = MOVE_PASS; m < MOVE_COUNT; m++)
            for (size_t k = 0; k < COUNT(scopes); k++) {
                struct registry r = open_registry();
                char id[32], name[MODEL_FULL_NAME_MAX];
                bring(&r, S(PRODUCTION)); /* something that canary and rollback can stand on */
                uint32_t version = bring(&r, (model_state)from);
                struct registry_command c = command_of(&r, (enum registry_move)m, model_name_format(SPAN("m"), version, name), id);
                c.actor_scope = span_str(scopes[k]);
                const struct state_row *row = state_find((model_state)from, (enum registry_move)m);
                uint64_t generation = fold_generation(fold_of(&r));
                struct registry_state now;
                ledger_state(r.ledger, &now);
                bool may = registry_may(&now, fold_version(fold_of(&r), SPAN("m"), version), (enum registry_move)m, c.actor_scope);
                int code = run(&r, &c);
                CHECK(may == (code == 0), "%s from %s as \"%s\" is %soffered", move_name((enum registry_move)m), state_name((model_state)from), scopes[k], may ? "" : "not ");
                bool own = m == MOVE_SUCCEED || m == MOVE_RESTORE, allowed = !own && row && scope_allows(c.actor_scope, row); /* own: what promotion and rollback do to others */
                CHECK(code == (allowed ? 0 : own ? E_INVALID : row ? E_DENIED : E_STATE), "%s from %s as \"%s\": %d %s", move_name((enum registry_move)m), state_name((model_state)from), scopes[k], code, r.err.message);
                CHECK(state_of(&r, version) == (allowed ? (int)row->to : from), "%s from %s as \"%s\"", move_name((enum registry_move)m), state_name((model_state)from), scopes[k]);
                CHECK(allowed || (generation == fold_generation(fold_of(&r)) && r.err.message[0]), "%s from %s", move_name((enum registry_move)m), state_name((model_state)from));
                const Genloop__V1__Alias *production = fold_alias(fold_of(&r), SPAN(ALIAS_PRODUCTION)); /* whatever happened, what is served is released */
                if (production) {
                    const Genloop__V1__ModelVersion *v = fold_version(fold_of(&r), SPAN("m"), production->version);
                    CHECK(v && v->state == S(PRODUCTION), "%s from %s: production is %s", move_name((enum registry_move)m), state_name((model_state)from), v ? state_name(v->state) : "nothing");
                    const Genloop__V1__ModelVersion *share = production->canary_version ? fold_version(fold_of(&r), SPAN("m"), production->canary_version) : NULL;
                    CHECK(!production->canary_version || (share && share->state == S(CANARY)), "%s from %s: a share for what is no canary", move_name((enum registry_move)m), state_name((model_state)from));
                }
                ledger_free(r.ledger);
            }
}

static void test_malformed(void **state) {
    (void)state;
    static char lengthy[REGISTRY_REASON_MAX + 2];
    memset(lengthy, 'a', REGISTRY_REASON_MAX + 1);
    struct registry r = open_registry();
    bring(&r, S(PRODUCTION));
    bring(&r, S(APPROVED));
    char id[32];
    struct registry_command good = command_of(&r, MOVE_CANARY, "m@2", id);
    static const struct {
        const char *name;
        struct span model, reason, actor;
        uint32_t percent;
        int code;
        const char *param;
    } cases[] = {
        {"no reason", SPAN("m@2"), SPAN(""), SPAN("k"), 0, E_INVALID, "reason"},
        {"a long reason", SPAN("m@2"), {lengthy, REGISTRY_REASON_MAX + 1}, SPAN("k"), 0, E_TOO_LARGE, "reason"},
        {"a reason that is no text", SPAN("m@2"), SPAN("\xff"), SPAN("k"), 0, E_INVALID, "reason"},
        {"a reason with a hidden end", SPAN("m@2"), SPAN("a\0b"), SPAN("k"), 0, E_INVALID, "reason"},
        {"nobody", SPAN("m@2"), SPAN("r"), SPAN(""), 0, E_DENIED, ""},
        {"no version", SPAN("m"), SPAN("r"), SPAN("k"), 0, E_INVALID, "model"},
        {"version 0", SPAN("m@0"), SPAN("r"), SPAN("k"), 0, E_INVALID, "model"},
        {"an unknown version", SPAN("m@9"), SPAN("r"), SPAN("k"), 0, E_NOT_FOUND, "model"},
        {"an unknown name", SPAN("n@1"), SPAN("r"), SPAN("k"), 0, E_NOT_FOUND, "model"},
        {"no name", SPAN("../m@1"), SPAN("r"), SPAN("k"), 0, E_INVALID, "model"},
        {"nothing", SPAN(""), SPAN("r"), SPAN("k"), 0, E_INVALID, "model"},
        {"beyond 32 bits", SPAN("m@4294967298"), SPAN("r"), SPAN("k"), 0, E_INVALID, "model"},
        {"more than all", SPAN("m@2"), SPAN("r"), SPAN("k"), 101, E_INVALID, "canary_percent"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct registry_command c = good;
        c.model = cases[i].model;
        c.reason = cases[i].reason;
        c.actor_id = cases[i].actor;
        c.canary_percent = cases[i].percent;
        r.err = (struct error){0};
        int code = run(&r, &c);
        CHECK(code == cases[i].code && strcmp(r.err.param, cases[i].param) == 0 && r.err.message[0] && span_is_utf8(span_str(r.err.message)), "%s: %d \"%s\" %s", cases[i].name, code, r.err.param, r.err.message);
    }
    struct registry_command c = command_of(&r, MOVE_REGISTER, "m@7", id);
    assert_int_equal(run(&r, &c), E_INVALID); /* the registry gives the number */
    c = command_of(&r, MOVE_REGISTER, "m", id);
    c.directory_sha256 = SPAN("abc");
    assert_int_equal(run(&r, &c), E_INVALID);
    c = command_of(&r, MOVE_REGISTER, "m", id);
    c.adapter = true;
    c.base_model = SPAN("");
    assert_int_equal(run(&r, &c), E_INVALID); /* an adapter of nothing */
    assert_int_equal(run(&r, &good), 0);
    ledger_free(r.ledger);
}

/* Encoders go their way without the aliases, which are of what people chat with. */
static void test_encoder(void **state) {
    (void)state;
    struct registry r = open_registry();
    char id[32];
    uint32_t one = bring(&r, S(PRODUCTION));
    for (uint32_t i = 1; i <= 2; i++) {
        char full[16];
        snprintf(full, sizeof full, "embedder@%u", i);
        struct registry_command c = command_of(&r, MOVE_REGISTER, "embedder", id);
        c.encoder = true;
        assert_int_equal(run(&r, &c), 0);
        assert_int_equal(move(&r, MOVE_PASS, full), 0);
        assert_int_equal(move(&r, MOVE_APPROVE, full), 0);
        assert_int_equal(move(&r, MOVE_CANARY, full), E_STATE);
        assert_int_equal(move(&r, MOVE_PROMOTE, full), 0);
    }
    assert_int_equal(move(&r, MOVE_ROLLBACK, "embedder"), 0);
    assert_int_equal(fold_version(fold_of(&r), SPAN("embedder"), 1)->state, GENLOOP__V1__MODEL_STATE__MODEL_STATE_PRODUCTION);
    assert_true(alias_of(&r, ALIAS_PRODUCTION, NULL, NULL) == one && !strcmp(fold_alias(fold_of(&r), SPAN(ALIAS_PRODUCTION))->name, "m"));
    ledger_free(r.ledger);
}

/* The log: read again it gives the same; forged, repeated, reordered, of a former holder or tampered with it is dropped, and says why. */
static void test_log(void **state) {
    (void)state;
    enum { RECORDS = 6 };
    static const enum registry_move moves[RECORDS] = {MOVE_REGISTER, MOVE_PASS, MOVE_APPROVE, MOVE_PROMOTE, MOVE_REGISTER, MOVE_REJECT};
    static const char *const models[RECORDS] = {"m", "m@1", "m@1", "m@1", "m", "m@2"};
    struct registry r = open_registry();
    struct arena arena;
    Genloop__V1__AuditRecord *log[RECORDS];
    enum ledger_result result;
    char ids[RECORDS][32];
    arena_init(&arena, 64 << 20);
    for (int i = 0; i < RECORDS; i++) {
        struct registry_command c = command_of(&r, moves[i], models[i], ids[i]);
        r.epoch = i < 3 ? 1 : 2; /* another holder from the fourth on */
        assert_int_equal(make(&r, &key, &c, &arena, &log[i]), 0);
        assert_int_equal(ledger_take(r.ledger, log[i], &result, &r.err), 0);
        assert_int_equal(result, LEDGER_TAKEN);
        assert_int_equal(ledger_take(r.ledger, log[i], &result, &r.err), 0); /* a second delivery */
        assert_int_equal(result, LEDGER_SAME);
    }
    assert_true(ledger_epoch(r.ledger) == 2 && merkle_size(ledger_tree(r.ledger)) == RECORDS);
    struct ledger_head head, other;
    ledger_head(r.ledger, &head);
    assert_int_equal(audit_head_verify(key.public_key, head.size, head.root, head.time_ms, span_of(head.signature, sizeof head.signature), NULL), 0);
    struct ledger_done done;
    assert_true(ledger_find(r.ledger, SPAN("c4"), &done) && done.index == 3 && strcmp(done.action, "model.promote") == 0 && strcmp(done.object, "m@1") == 0);
    assert_false(ledger_find(r.ledger, SPAN("c99"), NULL));
    assert_false(ledger_find(r.ledger, SPAN(""), NULL));

    struct registry again = open_registry();
    for (int i = 0; i < RECORDS; i++) {
        /* what does not follow, before each record */
        for (int k = 0; k < RECORDS; k++) {
            if (k <= i) continue;
            assert_int_equal(ledger_take(again.ledger, log[k], &result, &again.err), 0);
            assert_true(result == LEDGER_DROPPED && again.err.message[0]);
        }
        struct registry_command c = command_of(&again, MOVE_REGISTER, "forged", ids[0]);
        Genloop__V1__AuditRecord *forged;
        again.epoch = 9;
        assert_int_equal(make(&again, &forger, &c, &arena, &forged), 0);
        assert_int_equal(ledger_take(again.ledger, forged, &result, &again.err), 0);
        assert_int_equal(result, LEDGER_DROPPED);
        /* the record itself with one thing in it changed */
        for (int change = 0; change < (i ? 9 : 8); change++) { /* the root of one leaf is its hash */
            Genloop__V1__AuditRecord t = *log[i];
            Genloop__V1__Actor actor = *t.actor;
            uint8_t signature[RECORD_SIGNATURE_SIZE];
            memcpy(signature, t.signature.data, sizeof signature);
            t.actor = &actor;
            switch (change) {
            case 0: t.reason = (char *)(uintptr_t) "another"; break;
            case 1: actor.id = (char *)(uintptr_t) "key:2"; break;
            case 2: t.event_time_ms++; break;
            case 3: t.epoch += 5; break;
            case 4: t.index++; break;
            case 5: signature[7] ^= 1, t.signature.data = signature; break;
            case 6: t.signature.len = 63; break;
            case 7: t.n_details = t.n_details ? t.n_details - 1 : 1; break;
            default: t.root_hash = t.leaf_hash;
            }
            assert_int_equal(ledger_take(again.ledger, &t, &result, &again.err), 0);
            CHECK(result == LEDGER_DROPPED, "record %d with change %d was taken", i, change);
        }
        assert_int_equal(ledger_take(again.ledger, log[i], &result, &again.err), 0);
        assert_int_equal(result, LEDGER_TAKEN);
    }
    ledger_head(again.ledger, &other);
    assert_memory_equal(&head, &other, sizeof head);
    assert_int_equal(state_of(&again, 1), S(PRODUCTION));
    assert_int_equal(state_of(&again, 2), S(REJECTED));
    ledger_free(again.ledger);

    /* A former holder that does not know it yet: its record would follow, but for the epoch. */
    struct registry_command c = command_of(&r, MOVE_REGISTER, "m", ids[0]);
    Genloop__V1__AuditRecord *late;
    r.epoch = 1;
    assert_int_equal(make(&r, &key, &c, &arena, &late), 0);
    assert_int_equal(ledger_take(r.ledger, late, &result, &r.err), 0);
    assert_true(result == LEDGER_DROPPED && strstr(r.err.message, "epoch"));
    ledger_free(r.ledger);
    arena_fini(&arena);
}

/* Random commands: whatever is asked, one version is in production at most, aliases point to what is released, rejected ones stay so, and the log read again gives the same. */
static void test_simulation(void **state) {
    (void)state;
    uint64_t seed;
    struct random random;
    random_bytes(&seed, sizeof seed);
    random_seed(&random, seed);
    struct registry r = open_registry();
    bool gone[64] = {false};
    for (int step = 0; step < 600; step++) {
        uint32_t highest = fold_highest_version(fold_of(&r), SPAN("m"));
        char name[MODEL_FULL_NAME_MAX], id[32];
        enum registry_move m = (enum registry_move)random_below(&random, MOVE_COUNT);
        if (highest >= 60 && m == MOVE_REGISTER) continue;
        uint32_t version = highest ? (uint32_t)random_below(&random, highest) + 1 : 1;
        struct registry_command c = command_of(&r, m, m == MOVE_REGISTER ? "m" : model_name_format(SPAN("m"), version, name), id);
        c.canary_percent = (uint32_t)random_below(&random, 101);
        int code = run(&r, &c);
        CHECK(code == 0 || code == E_STATE || code == E_NOT_FOUND || code == (m == MOVE_SUCCEED || m == MOVE_RESTORE ? E_INVALID : 0), "seed %llu step %d: %d %s", (unsigned long long)seed, step, code, r.err.message);
        int production = 0, canaries = 0;
        for (uint32_t v = 1; v <= fold_highest_version(fold_of(&r), SPAN("m")); v++) {
            int s = state_of(&r, v);
            production += s == S(PRODUCTION);
            canaries += s == S(CANARY);
            CHECK(!gone[v] || s == S(REJECTED) || s == S(ROLLED_BACK), "seed %llu step %d: %u came back", (unsigned long long)seed, step, v);
            gone[v] = s == S(REJECTED) || s == S(ROLLED_BACK);
        }
        uint32_t canary, percent, now = alias_of(&r, ALIAS_PRODUCTION, &canary, &percent);
        CHECK(production <= 1 && canaries <= 1, "seed %llu step %d: %d in production, %d canaries", (unsigned long long)seed, step, production, canaries);
        CHECK(now ? state_of(&r, now) == S(PRODUCTION) : production == 0, "seed %llu step %d: production points to %u", (unsigned long long)seed, step, now);
        CHECK(canary ? state_of(&r, canary) == S(CANARY) && percent >= 1 && percent <= 100 : canaries == 0, "seed %llu step %d: the share is %u's", (unsigned long long)seed, step, canary);
        CHECK(alias_of(&r, ALIAS_CANARY, NULL, NULL) == canary, "seed %llu step %d", (unsigned long long)seed, step);
    }
    ledger_free(r.ledger);
}

static int attempt(void *arg) {
    struct registry *r = arg;
    struct arena arena;
    char id[32];
    Genloop__V1__AuditRecord *record;
    struct registry_command c = command_of(r, MOVE_CANARY, "m@2", id);
    arena_init(&arena, 16 << 20);
    int code = make(r, &key, &c, &arena, &record);
    arena_fini(&arena);
    return code;
}
static int take(void *arg) { /* a ledger that had no memory is of no use any more: each attempt has its own */
    const Genloop__V1__AuditRecord *record = arg;
    enum ledger_result result;
    struct error err = {0};
    struct ledger *l = ledger_new(key.public_key);
    if (!l) return E_NOMEM;
    int code = ledger_take(l, record, &result, &err);
    if (code == 0 && result != LEDGER_TAKEN) code = E_DATA_LOSS;
    ledger_free(l);
    return code;
}
static void test_without_memory(void **state) {
    (void)state;
    struct registry r = open_registry();
    struct arena arena;
    Genloop__V1__AuditRecord *record;
    char id[32];
    arena_init(&arena, 16 << 20);
    struct registry_command c = command_of(&r, MOVE_REGISTER, "m", id);
    assert_int_equal(make(&r, &key, &c, &arena, &record), 0);
    sweep("ledger_take", take, record, E_DATA_LOSS); /* a record that cannot be unpacked may be none */
    bring(&r, S(PRODUCTION));
    bring(&r, S(APPROVED));
    sweep("a change", attempt, &r, E_NOMEM);
    arena_fini(&arena);
    ledger_free(r.ledger);
    ledger_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_story), cmocka_unit_test(test_every_move), cmocka_unit_test(test_malformed), cmocka_unit_test(test_encoder), cmocka_unit_test(test_log), cmocka_unit_test(test_simulation), cmocka_unit_test(test_without_memory)};
    return cmocka_run_group_tests(tests, set_up, NULL);
}
