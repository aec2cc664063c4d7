/* What is learnt from judgements: the rules of pairs.h one by one, the order and the split as properties, and contents as people's clients wrote them. */
#include "tests/unit/support/check.h"

#include "base/json.h"
#include "base/random.h"
#include "services/feedback/pairs.h"

static const struct pair_interaction interactions[] = {
    {SPAN("a1"), SPAN("\"p\""), SPAN("good")}, {SPAN("a2"), SPAN("\"p\""), SPAN("bad")}, {SPAN("a3"), SPAN("\"p\""), SPAN("good")}, {SPAN("a4"), SPAN("\"p\""), SPAN("worse")}, {SPAN("b1"), SPAN("\"q\""), SPAN("other")},
};

struct expected {
    const char *rows; /* "chosen>rejected " or "=answer " in no order */
    uint64_t unknown, different, same, incomplete, repeated;
};

static void test_rules(void **state) {
    (void)state;
#define THUMB(ID, OF, VALUE, TIME) {.id = SPAN(ID), .kind = PAIR_THUMB, .value = VALUE, .time_ms = TIME, .request_id = SPAN(OF)}
#define BETWEEN(ID, CHOSEN, REJECTED) {.id = SPAN(ID), .kind = PAIR_PREFERENCE, .chosen_request_id = SPAN(CHOSEN), .rejected_request_id = SPAN(REJECTED)}
    static const struct {
        const char *name;
        struct pair_judgement judgements[6];
        size_t n;
        struct expected e;
    } cases[] = {
        {"nothing", {{.value = 0}}, 0, {.rows = ""}},
        {"a liked and a disliked one", {THUMB("1", "a1", 1, 1), THUMB("2", "a2", -1, 1)}, 2, {.rows = "good>bad "}},
        {"only liked", {THUMB("1", "a1", 1, 1), THUMB("2", "a3", 1, 1)}, 2, {.rows = ""}},
        {"not across prompts", {THUMB("1", "a1", 1, 1), THUMB("2", "b1", -1, 1)}, 2, {.rows = ""}},
        {"the last word counts", {THUMB("1", "a1", 1, 1), THUMB("2", "a2", 1, 1), THUMB("3", "a2", -1, 2)}, 3, {.rows = "good>bad "}},
        {"the last word counts, told in another order", {THUMB("3", "a2", -1, 2), THUMB("2", "a2", 1, 1), THUMB("1", "a1", 1, 1)}, 3, {.rows = "good>bad "}},
        {"of the same time the greater id", {THUMB("1", "a1", 1, 1), THUMB("3", "a2", -1, 1), THUMB("2", "a2", 1, 1)}, 3, {.rows = "good>bad "}},
        {"max, not product", {THUMB("1", "a1", 1, 1), THUMB("2", "a2", -1, 1), THUMB("3", "a4", -1, 1)}, 3, {.rows = "good>bad good>worse "}},
        {"the same answers", {THUMB("1", "a1", 1, 1), THUMB("2", "a3", -1, 1)}, 2, {.rows = "", .same = 1}},
        {"the same row twice", {THUMB("1", "a1", 1, 1), THUMB("2", "a3", 1, 1), THUMB("3", "a2", -1, 1)}, 3, {.rows = "good>bad ", .repeated = 1}},
        {"neither", {THUMB("1", "a1", 0, 1), THUMB("2", "a2", -1, 1)}, 2, {.rows = "", .incomplete = 1}},
        {"before its interaction", {THUMB("1", "zz", 1, 1), THUMB("2", "", -1, 1)}, 2, {.rows = "", .unknown = 2}},
        {"between two", {BETWEEN("1", "a1", "a2")}, 1, {.rows = "good>bad "}},
        {"between two prompts", {BETWEEN("1", "a1", "b1")}, 1, {.rows = "", .different = 1}},
        {"between the same answers", {BETWEEN("1", "a1", "a3")}, 1, {.rows = "", .same = 1}},
        {"with one unknown", {BETWEEN("1", "a1", "zz"), BETWEEN("2", "a1", "")}, 2, {.rows = "", .unknown = 2}},
        {"texts of its own", {{.id = SPAN("1"), .kind = PAIR_PREFERENCE, .prompt = SPAN("\"x\""), .chosen = SPAN("c"), .rejected = SPAN("r")}}, 1, {.rows = "c>r "}},
        {"texts for a known prompt", {{.id = SPAN("1"), .kind = PAIR_PREFERENCE, .request_id = SPAN("a1"), .chosen = SPAN("c"), .rejected = SPAN("r")}}, 1, {.rows = "c>r "}},
        {"texts without a prompt", {{.id = SPAN("1"), .kind = PAIR_PREFERENCE, .request_id = SPAN("zz"), .chosen = SPAN("c"), .rejected = SPAN("r")}}, 1, {.rows = "", .unknown = 1}},
        {"half of a pair", {{.id = SPAN("1"), .kind = PAIR_PREFERENCE, .prompt = SPAN("\"x\""), .chosen = SPAN("c")}}, 1, {.rows = "", .incomplete = 1}},
        {"the same texts", {{.id = SPAN("1"), .kind = PAIR_PREFERENCE, .prompt = SPAN("\"x\""), .chosen = SPAN("c"), .rejected = SPAN("c")}}, 1, {.rows = "", .same = 1}},
        {"a correction", {{.id = SPAN("1"), .kind = PAIR_CORRECTION, .request_id = SPAN("a1"), .text = SPAN("better")}}, 1, {.rows = "=better "}},
        {"a correction of its own prompt", {{.id = SPAN("1"), .kind = PAIR_CORRECTION, .prompt = SPAN("\"x\""), .text = SPAN("better")}}, 1, {.rows = "=better "}},
        {"a correction of nothing", {{.id = SPAN("1"), .kind = PAIR_CORRECTION, .request_id = SPAN("zz"), .text = SPAN("better")}}, 1, {.rows = "", .unknown = 1}},
        {"an empty correction", {{.id = SPAN("1"), .kind = PAIR_CORRECTION, .request_id = SPAN("a1")}}, 1, {.rows = "", .incomplete = 1}},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct arena arena;
        struct pair_set set;
        struct error err = {0};
        struct buf rows;
        arena_init(&arena, 1 << 20);
        buf_init(&rows, 4096);
        assert_int_equal(pairs_build(interactions, COUNT(interactions), cases[i].judgements, cases[i].n, &arena, &set, &err), 0);
        for (size_t k = 0; k < set.n_preferences; k++) buf_printf(&rows, "%.*s>%.*s ", SPAN_ARG(set.preferences[k].chosen), SPAN_ARG(set.preferences[k].rejected));
        for (size_t k = 0; k < set.n_supervised; k++) buf_printf(&rows, "=%.*s ", SPAN_ARG(set.supervised[k].chosen));
        const struct expected *e = &cases[i].e;
        CHECK(span_eq_str(buf_span(&rows), e->rows), "%s: %.*s", cases[i].name, SPAN_ARG(buf_span(&rows)));
        CHECK(set.unknown_interaction == e->unknown && set.different_prompts == e->different && set.same_answers == e->same && set.incomplete == e->incomplete && set.repeated == e->repeated, "%s", cases[i].name);
        buf_fini(&rows);
        arena_fini(&arena);
    }
}

/* Any judgements in any order: the same set; each row once, in order; a prompt on one side; no more rows than judgements. */
static void test_properties(void **state) {
    (void)state;
    enum { PROMPTS = 60, EACH = 4, JUDGEMENTS = 300 };
    static struct pair_interaction all[PROMPTS * EACH];
    static char texts[PROMPTS * EACH][3][16], ids[JUDGEMENTS][16];
    uint64_t seed;
    struct random r;
    random_bytes(&seed, sizeof seed);
    random_seed(&r, seed);
    for (int i = 0; i < PROMPTS * EACH; i++) {
        snprintf(texts[i][0], 16, "r%04d", i);
        snprintf(texts[i][1], 16, "\"p%d\"", i / EACH);
        snprintf(texts[i][2], 16, "answer %d", (int)random_below(&r, 3));
        all[i] = (struct pair_interaction){span_str(texts[i][0]), span_str(texts[i][1]), span_str(texts[i][2])};
    }
    for (int round = 0; round < 20; round++) {
        static struct pair_judgement judgements[JUDGEMENTS];
        struct arena arena;
        struct pair_set one, two;
        arena_init(&arena, 8 << 20);
        for (int j = 0; j < JUDGEMENTS; j++) {
            snprintf(ids[j], 16, "j%d", j);
            int a = (int)random_below(&r, PROMPTS * EACH), b = (int)random_below(&r, PROMPTS * EACH);
            judgements[j] = (struct pair_judgement){.id = span_str(ids[j]), .kind = (enum pair_kind)random_below(&r, 4), .value = (double)random_below(&r, 3) - 1, .time_ms = (int64_t)random_below(&r, 5),
                                                    .request_id = all[a].request_id, .text = all[b].answer};
            if (judgements[j].kind == PAIR_PREFERENCE) judgements[j].chosen_request_id = all[a].request_id, judgements[j].rejected_request_id = all[random_below(&r, 2) ? a / EACH * EACH : b].request_id;
        }
        assert_int_equal(pairs_build(all, PROMPTS * EACH, judgements, JUDGEMENTS, &arena, &one, NULL), 0);
        for (int j = JUDGEMENTS - 1; j > 0; j--) {
            int k = (int)random_below(&r, (uint64_t)j + 1);
            struct pair_judgement t = judgements[j];
            judgements[j] = judgements[k];
            judgements[k] = t;
        }
        assert_int_equal(pairs_build(all, PROMPTS * EACH, judgements, JUDGEMENTS, &arena, &two, NULL), 0);
        CHECK(one.n_preferences == two.n_preferences && one.n_supervised == two.n_supervised && one.n_preferences + one.n_supervised <= JUDGEMENTS, "seed %llu", (unsigned long long)seed);
        size_t held_out = 0;
        for (size_t i = 0; i < one.n_preferences; i++) {
            const struct pair_row *x = &one.preferences[i], *y = &two.preferences[i];
            CHECK(span_eq(x->prompt, y->prompt) && span_eq(x->chosen, y->chosen) && span_eq(x->rejected, y->rejected) && x->held_out == y->held_out, "seed %llu row %zu", (unsigned long long)seed, i);
            CHECK(!span_eq(x->chosen, x->rejected), "seed %llu row %zu", (unsigned long long)seed, i);
            held_out += x->held_out;
            if (i == 0) continue;
            const struct pair_row *before = x - 1;
            int order = memcmp(before->prompt_hash, x->prompt_hash, SHA256_SIZE);
            CHECK(order < 0 || (order == 0 && before->held_out == x->held_out && (!span_eq(before->chosen, x->chosen) || !span_eq(before->rejected, x->rejected))), "seed %llu row %zu", (unsigned long long)seed, i);
        }
        assert_int_equal(held_out, one.n_preferences_held_out);
        arena_fini(&arena);
    }
}

static void test_contents(void **state) {
    (void)state;
    static const struct {
        const char *json;
        int code;
        const char *prompt, *answer;
    } cases[] = {
        {"{'prompt':'p','answer':'a'}", 0, "'p'", "a"},
        {"{'answer':'','prompt':''}", 0, "''", ""},
        {"{'messages':[{'role':'user','content':'q'}],'answer':'a'}", 0, "[{'role':'user','content':'q'}]", "a"},
        {"{'messages':[{'content':'q','role':'user','name':'n'}],'answer':'a'}", 0, "[{'role':'user','content':'q'}]", "a"}, /* the same prompt is the same bytes */
        {"{'messages':[],'answer':'a'}", E_INVALID, NULL, NULL},
        {"{'messages':[{'role':'user'}],'answer':'a'}", E_INVALID, NULL, NULL},
        {"{'messages':[{'role':7,'content':'q'}],'answer':'a'}", E_INVALID, NULL, NULL},
        {"{'messages':[{'role':'user','content':'q'}],'prompt':'p','answer':'a'}", E_INVALID, NULL, NULL},
        {"{'prompt':'p'}", E_INVALID, NULL, NULL},
        {"{'prompt':7,'answer':'a'}", E_INVALID, NULL, NULL},
        {"{'answer':'a'}", E_INVALID, NULL, NULL},
        {"[]", E_INVALID, NULL, NULL},
        {"", E_INVALID, NULL, NULL},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct arena arena;
        struct span prompt = {0}, answer = {0};
        struct error err = {0};
        arena_init(&arena, 1 << 20);
        int r = pairs_read_content(quoted(cases[i].json), &arena, &prompt, &answer, &err);
        CHECK(r == cases[i].code && (r == 0 || err.message[0]), "%s: %d %s", cases[i].json, r, err.message);
        if (r == 0) {
            CHECK(span_eq(prompt, quoted(cases[i].prompt)) && span_eq_str(answer, cases[i].answer), "%s: %.*s", cases[i].json, SPAN_ARG(prompt));
            struct pair_row row = {.prompt = prompt, .chosen = SPAN("c\"\n"), .rejected = SPAN("r"), .request_id = SPAN("i"), .judgement_id = SPAN("j")};
            for (int supervised = 0; supervised < 2; supervised++) {
                struct buf out;
                struct json *line = NULL;
                buf_init(&out, 4096);
                assert_int_equal(pairs_write_row(&row, supervised, &out), 0);
                CHECK(span_find_char(buf_span(&out), '\n') == (ptrdiff_t)out.len - 1, "one line");
                assert_int_equal(json_parse(buf_span(&out), &line, NULL), 0);
                const struct json *messages = json_get(line, "messages");
                bool chat = cases[i].prompt[0] == '[';
                if (supervised && chat) assert_true(span_eq_str(json_string(json_get(json_at(messages, json_size(messages) - 1), "content")), "c\"\n"));
                else assert_true(span_eq_str(json_string(json_get(line, supervised ? "completion" : "chosen")), "c\"\n") && json_get(line, "prompt"));
                json_free(line);
                buf_fini(&out);
            }
        }
        arena_fini(&arena);
    }
}

static int attempt(void *arg) {
    static const struct pair_judgement judgements[] = {THUMB("1", "a1", 1, 1), THUMB("2", "a2", -1, 1)};
    struct arena arena;
    struct pair_set set;
    (void)arg;
    arena_init(&arena, 1 << 20);
    int r = pairs_build(interactions, COUNT(interactions), judgements, COUNT(judgements), &arena, &set, NULL);
    arena_fini(&arena);
    return r;
}
static int read_content(void *arg) {
    struct arena arena;
    struct span prompt, answer;
    arena_init(&arena, 1 << 20);
    int r = pairs_read_content(quoted(arg), &arena, &prompt, &answer, NULL);
    arena_fini(&arena);
    return r;
}
static void test_without_memory(void **state) {
    (void)state;
    sweep("pairs", attempt, NULL, E_NOMEM);
    sweep("content", read_content, (void *)(uintptr_t)"{'messages':[{'role':'user','content':'q'}],'answer':'a'}", E_NOMEM);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rules), cmocka_unit_test(test_properties), cmocka_unit_test(test_contents), cmocka_unit_test(test_without_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
