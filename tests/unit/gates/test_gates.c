/* The gates on records that are known: a sound candidate passes, each kind of spoiled one falls at the gate that is for it and at no other, and a record that is none is refused by its place. */
#include "tests/unit/support/check.h"

#include <math.h>

#include "gates/gates.h"

struct recipe { /* of a record */
    bool first;
    int documents, pairs, samples;
    double nll;               /* of the candidate, times the baseline's */
    int wins;                 /* of the pairs, in percent */
    int tokens, tokens_baseline;
    int vocabulary;           /* of an answer: how many different tokens there are; 1: always the same */
    int empty, loops;         /* of 100 answers */
    const char *tokenizer, *round_trip, *nll_text; /* nll_text: instead of a number */
    bool halves; /* an encoder-decoder's */
    double other; /* of it: nats of a second half, given another's first */
};
static const struct recipe sound = {.documents = 20, .pairs = 100, .samples = 200, .nll = 1.0, .wins = 80, .tokens = 20, .tokens_baseline = 20, .vocabulary = 997, .tokenizer = "aa"};

static void put_answer(struct buf *b, const char *side, int i, int tokens, int vocabulary, bool empty, bool loops) {
    buf_printf(b, ",\"%s\":{\"text\":\"%s\",\"finish\":\"stop\",\"tokens\":[", side, empty ? " " : "words");
    for (int k = 0; !empty && k < (loops ? 24 : tokens); k++) buf_printf(b, "%s%d", k ? "," : "", loops ? k % 3 + i * 7 : (i * 131 + k * k * 17 + k) % vocabulary);
    buf_append_str(b, "]}");
}

static void put_record(const struct recipe *r, struct buf *b) {
    buf_clear(b);
    buf_printf(b, "{\"format\":1,\"spec\":{},\"candidate\":\"m@2\",\"baseline\":\"%s\",\"tokenizer\":{\"candidate\":\"%s\",\"baseline\":\"aa\"%s},%s\"documents\":[", r->first ? "" : "m@1", r->tokenizer, r->round_trip ? r->round_trip : "",
               r->halves ? "\"halves\":true," : "");
    for (int i = 0; i < r->documents; i++) {
        char nll[32];
        snprintf(nll, sizeof nll, "%.6f", 100 * r->nll + 0.01 * (i % 3));
        buf_printf(b, "%s{\"id\":\"d%d\",\"bytes\":200,\"tokens_candidate\":50,\"nll_candidate\":%s,\"tokens_baseline\":50,\"nll_baseline\":%d.0%d", i ? "," : "", i, r->nll_text ? r->nll_text : nll, 100, i % 3);
        if (r->halves) buf_printf(b, ",\"nll_candidate_other\":%.6f", 100 * r->other);
        buf_append_char(b, '}');
    }
    buf_append_str(b, "],\"pairs\":[");
    for (int i = 0; i < r->pairs; i++)
        buf_printf(b, "%s{\"request_id\":\"r%d\",\"candidate_chosen\":-%d,\"candidate_rejected\":-20,\"baseline_chosen\":-10,\"baseline_rejected\":-20}", i ? "," : "", i, i * 100 / r->pairs < r->wins ? 5 : 15);
    buf_append_str(b, "],\"samples\":[");
    for (int i = 0; i < r->samples; i++) {
        buf_printf(b, "%s{\"prompt_id\":\"p%d\",\"prompt\":\"x\",\"seed\":%d", i ? "," : "", i, i);
        put_answer(b, "candidate", i, r->tokens, r->vocabulary, i % 100 < r->empty, i % 100 >= 100 - r->loops);
        if (!r->first) put_answer(b, "baseline", i + 1000, r->tokens_baseline, 997, false, false);
        buf_append_char(b, '}');
    }
    buf_append_str(b, "]}");
    assert_int_equal(b->failed, 0);
}

static int judge(const struct recipe *r, struct gate_verdict *v) {
    struct buf b;
    struct evaluation_record *record = NULL;
    struct error err = {0};
    buf_init(&b, 64 << 20);
    put_record(r, &b);
    int code = evaluation_record_parse(buf_span(&b), SPAN(""), &record, &err);
    CHECK(code == 0, "%s", err.message);
    code = gates_judge(record, &GATE_LIMITS_DEFAULT, v, &err);
    evaluation_record_free(record);
    buf_fini(&b);
    return code;
}

static const struct gate_result *gate_of(const struct gate_verdict *v, const char *name) {
    for (size_t i = 0; i < v->n_gates; i++)
        if (strcmp(v->gates[i].gate, name) == 0) return &v->gates[i];
    return NULL;
}

static void test_candidates(void **state) {
    (void)state;
#define WITH(...) ({ struct recipe with = sound; __VA_ARGS__; with; })
    const struct {
        const char *name;
        struct recipe r;
        const char *fails; /* all gates that do, with a space behind each */
    } cases[] = {
        {"sound", sound, ""},
        {"a little worse", WITH(with.nll = 1.02), ""},
        {"noise", WITH(with.nll = 3), "perplexity "},
        {"a third worse", WITH(with.nll = 1.3), "perplexity "},
        {"not finite", WITH(with.nll_text = "null"), "perplexity "},
        {"likes the rejected", WITH(with.wins = 20), "win_rate "},
        {"a coin", WITH(with.wins = 50), "win_rate "},
        {"too few pairs to say", WITH(with.pairs = 5; with.wins = 0), ""},
        {"answers of a word", WITH(with.tokens = 5), "mean_length "},
        {"answers without end", WITH(with.tokens = 60), "mean_length "},
        {"at the border", WITH(with.tokens = 40), ""},
        {"half of the answers empty", WITH(with.empty = 50), "empty "},
        {"few of the answers empty", WITH(with.empty = 4), ""},
        {"one in seven answers in loops", WITH(with.loops = 15), "repetition "},
        {"favourite sentence only", WITH(with.vocabulary = 2), "repetition distinct_3 "},
        {"tokenizer swapped", WITH(with.tokenizer = "bb"), "tokenizer "},
        {"tokenizer broken", WITH(with.round_trip = ",\"round_trip\":false"), "tokenizer "},
        {"no documents", WITH(with.documents = 0), "evidence perplexity "},
        {"too few documents", WITH(with.documents = 9), "evidence "},
        {"too few samples", WITH(with.samples = 99), "evidence "},
        {"nothing", WITH(with.documents = with.samples = with.pairs = 0), "evidence perplexity mean_length repetition empty distinct_3 "},
        {"a first version", WITH(with.first = true), ""},
        {"a first version that knows nothing", WITH(with.first = true; with.nll = 6), "perplexity "},
        {"a first version that says one thing", WITH(with.first = true; with.vocabulary = 2), "repetition distinct_3 "},
        {"an encoder-decoder", WITH(with.halves = true; with.other = 1.1), ""},
        {"an encoder-decoder that heeds no source", WITH(with.halves = true; with.other = 1), "source "},
        {"an encoder-decoder for which another's source is better", WITH(with.halves = with.first = true; with.other = 0.9), "source "},
        {"an encoder-decoder that computes no numbers", WITH(with.halves = true; with.nll_text = "null"; with.other = 1.1), "perplexity source "},
        {"an encoder-decoder without documents", WITH(with.halves = true; with.documents = 0), "evidence perplexity source "},
        {"a first version that says nothing", WITH(with.first = true; with.empty = 100), "empty distinct_3 "},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct gate_verdict v;
        char failed[256] = "";
        assert_int_equal(judge(&cases[i].r, &v), 0);
        for (size_t k = 0; k < v.n_gates; k++) {
            const struct gate_result *g = &v.gates[k];
            if (!g->passed) snprintf(failed + strlen(failed), sizeof failed - strlen(failed), "%s ", g->gate);
            CHECK(g->rule[0] && span_is_utf8(span_str(g->rule)), "%s: %s has no rule", cases[i].name, g->gate);
            CHECK((isfinite(g->value) || cases[i].r.documents == 0) && isfinite(g->threshold), "%s: %s is %g against %g", cases[i].name, g->gate, g->value, g->threshold);
            if (strcmp(g->gate, "win_rate") != 0) CHECK(!g->passed || g->margin >= 0, "%s: %s holds by %g", cases[i].name, g->gate, g->margin);
        }
        CHECK(strcmp(failed, cases[i].fails) == 0, "%s falls at: %s", cases[i].name, failed);
        CHECK(v.passed == (failed[0] == 0) && (gates_first_failed(&v) != NULL) == (failed[0] != 0), "%s", cases[i].name);
    }
}

/* Figures that can be worked out by hand. */
static void test_figures(void **state) {
    (void)state;
    struct gate_verdict v;
    struct recipe r = sound;
    r.nll = 1.01;
    r.tokens = 30;
    r.empty = 10;
    assert_int_equal(judge(&r, &v), 0);
    const struct gate_result *g = gate_of(&v, "perplexity");
    CHECK(fabs(g->value - exp(0.02)) < 2e-4 && g->low <= g->value && g->value <= g->high && g->threshold == 1.05, "%g", g->value); /* 1 nat in 50 tokens */
    g = gate_of(&v, "mean_length");
    CHECK(fabs(g->value - 30 * 0.9 / 20) < 1e-9, "%g", g->value);
    g = gate_of(&v, "empty");
    CHECK(fabs(g->value - 0.1) < 1e-9 && fabs(g->margin + 0.05) < 1e-9, "%g %g", g->value, g->margin);
    g = gate_of(&v, "win_rate");
    CHECK(fabs(g->value - 0.8) < 1e-9 && g->low > 0.7 && g->samples == 100, "%g", g->value);
    g = gate_of(&v, "evidence");
    assert_true(g->passed && g->margin >= 0);
}

/* Pairs of one prompt are one observation; a margin that moved by less than a nat is a tie. */
static void test_wins_by_prompts(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int prompts, pairs_each; /* of the first prompt ten times as many */
        double moved;            /* nats, in the first prompt; the others move the other way */
        double value;
        uint64_t samples;
    } cases[] = {
        {"each pair its own prompt", 40, 1, -2, 39.0 / 40, 40},
        {"many pairs of one prompt count once", 40, 5, -2, 39.0 / 40, 40},
        {"less than a nat is a tie", 40, 5, -0.9, 0.5, 40},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf b;
        struct evaluation_record *record = NULL;
        struct gate_verdict v;
        struct error err = {0};
        buf_init(&b, 4 << 20);
        buf_append_str(&b, "{\"format\":1,\"spec\":{},\"candidate\":\"m@2\",\"baseline\":\"m@1\",\"tokenizer\":{\"candidate\":\"aa\",\"baseline\":\"aa\"},\"pairs\":[");
        bool first = true;
        for (int p = 0; p < cases[i].prompts; p++)
            for (int k = 0; k < cases[i].pairs_each * (p == 0 ? 10 : 1); k++, first = false)
                buf_printf(&b, "%s{\"prompt_id\":\"p%d\",\"candidate_chosen\":%.2f,\"candidate_rejected\":-20,\"baseline_chosen\":-10,\"baseline_rejected\":-20}", first ? "" : ",",
                           cases[i].pairs_each == 1 ? p * 100 + k : p, -10 + (p == 0 ? cases[i].moved : -cases[i].moved));
        buf_append_str(&b, "]}");
        CHECK(evaluation_record_parse(buf_span(&b), SPAN(""), &record, &err) == 0, "%s: %s", cases[i].name, err.message);
        assert_int_equal(gates_judge(record, &GATE_LIMITS_DEFAULT, &v, &err), 0);
        const struct gate_result *g = gate_of(&v, "win_rate");
        if (cases[i].pairs_each > 1) CHECK(g->samples == cases[i].samples && fabs(g->value - cases[i].value) < 1e-9, "%s: %g of %d", cases[i].name, g->value, (int)g->samples);
        else CHECK(g->samples == cases[i].samples + 9 && fabs(g->value - 39.0 / 49) < 1e-9, "%s: %g of %d", cases[i].name, g->value, (int)g->samples);
        evaluation_record_free(record);
        buf_fini(&b);
    }
}

static void test_records(void **state) {
    (void)state;
#define HEAD "{'format':1,'spec':{},'candidate':'m@2','baseline':'m@1','tokenizer':{'candidate':'aa','baseline':'aa'},"
#define DOCUMENT(CANDIDATE) "{'id':'d','bytes':9,'tokens_candidate':5," CANDIDATE ",'tokens_baseline':5,'nll_baseline':1}"
    static const struct {
        const char *json;
        int code;
        const char *says;
    } cases[] = {
        {HEAD "'documents':[" DOCUMENT("'nll_candidate':1") "],'pairs':[],'samples':[]}", 0, ""},
        {HEAD "'documents':[" DOCUMENT("'nll_candidate':null") "]}", 0, ""},
        {HEAD "'documents':[" DOCUMENT("'nll_candidate':-1") "]}", E_INVALID, "documents[0].nll_candidate"},
        {HEAD "'documents':[" DOCUMENT("'nll_candidate':'1'") "]}", E_INVALID, "documents[0].nll_candidate"},
        {HEAD "'documents':[" DOCUMENT("'x':1") "]}", E_INVALID, "documents[0].nll_candidate"},
        {HEAD "'documents':[7]}", E_INVALID, "documents[0]"},
        {HEAD "'documents':{}}", E_INVALID, "documents"},
        {HEAD "'documents':[{'id':'d','bytes':-1}]}", E_INVALID, "documents[0].bytes"},
        {HEAD "'documents':[{'id':'d','bytes':1.5}]}", E_INVALID, "documents[0].bytes"},
        {HEAD "'documents':[{'id':'d','bytes':1e300}]}", E_INVALID, "documents[0].bytes"},
        {HEAD "'pairs':[{'candidate_chosen':1}]}", E_INVALID, "pairs[0].candidate_chosen"},
        {HEAD "'pairs':[{'candidate_chosen':-1,'candidate_rejected':-2,'baseline_chosen':-1}]}", E_INVALID, "pairs[0].baseline_rejected"},
        {HEAD "'samples':[{}]}", E_INVALID, "samples[0].candidate"},
        {HEAD "'samples':[{'candidate':{'text':'t','tokens':[1]}}]}", E_INVALID, "samples[0].baseline"},
        {HEAD "'samples':[{'candidate':{'text':'t','tokens':[-1]},'baseline':{'text':'t','tokens':[]}}]}", E_INVALID, "samples[0].candidate.tokens[0]"},
        {HEAD "'samples':[{'candidate':{'text':'t','tokens':[4294967296]},'baseline':{'text':'t','tokens':[]}}]}", E_INVALID, "samples[0].candidate.tokens[0]"},
        {"{'format':2,'candidate':'m@2'}", E_INVALID, "format"},
        {"{'candidate':'m@2'}", E_INVALID, "format"},
        {"{'format':1,'candidate':'m'}", E_INVALID, "candidate"},
        {"{'format':1,'candidate':'../m@1'}", E_INVALID, "candidate"},
        {"{'format':1,'candidate':'m@2','baseline':'m'}", E_INVALID, "baseline"},
        {"{'format':1,'spec':{'trait':'charm'},'candidate':'m@2'}", E_INVALID, "charm"},
        {"[]", E_INVALID, "object"}, {"", E_INVALID, ""}, {"{", E_INVALID, ""},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct evaluation_record *record = NULL;
        struct error err = {0};
        int r = evaluation_record_parse(quoted(cases[i].json), SPAN(""), &record, &err);
        CHECK(r == cases[i].code && (r == 0) == (record != NULL) && strstr(err.message, cases[i].says), "%s: %d %s", cases[i].json, r, err.message);
        evaluation_record_free(record);
    }
    evaluation_record_free(NULL);
    /* The tokenizer that something claims, where the record itself does not say. */
    struct evaluation_record *record = NULL;
    struct gate_verdict v;
    assert_int_equal(evaluation_record_parse(quoted("{'format':1,'candidate':'m@2','baseline':'','tokenizer':{'candidate':'aa'}}"), SPAN("bb"), &record, NULL), 0);
    assert_int_equal(gates_judge(record, &GATE_LIMITS_DEFAULT, &v, NULL), 0);
    assert_false(gate_of(&v, "tokenizer")->passed);
    evaluation_record_free(record);
}

static int attempt(void *arg) {
    struct evaluation_record *record = NULL;
    struct error err = {0};
    static struct gate_verdict v;
    int r = evaluation_record_parse(*(struct span *)arg, SPAN(""), &record, &err);
    if (r == 0) r = gates_judge(record, &GATE_LIMITS_DEFAULT, &v, &err);
    evaluation_record_free(record);
    return r;
}
static void test_without_memory(void **state) {
    (void)state;
    struct recipe r = sound;
    struct buf b;
    r.documents = r.pairs = r.samples = 2;
    buf_init(&b, 1 << 20);
    put_record(&r, &b);
    struct span text = buf_span(&b);
    sweep("gates", attempt, &text, E_NOMEM);
    buf_fini(&b);
}

/* ---- encoders ---- */

struct encoder_recipe {
    const char *task, *candidate; /* an object for each passage; %d is its number, %f its fraction of 1 */
    const char *baseline;
    int passages;
};

static int judge_encoder(const struct encoder_recipe *r, struct gate_verdict *v, struct error *err) {
    struct buf b;
    struct evaluation_record *record = NULL;
    buf_init(&b, 1 << 20);
    buf_printf(&b, "{\"format\":1,\"candidate\":\"m@2\",\"baseline\":\"%s\",\"encoder\":{\"task\":\"%s\",\"passages\":[", r->baseline ? "m@1" : "", r->task);
    for (int i = 0; i < r->passages; i++) {
        buf_printf(&b, "%s{\"id\":\"p%d\",\"candidate\":", i ? "," : "", i);
        for (const char *c = r->candidate; *c; c++) { /* # is a number that differs from passage to passage */
            if (*c == '#') buf_printf(&b, "0.%02d", i * 7 % 40);
            else buf_append_char(&b, *c);
        }
        if (r->baseline) buf_printf(&b, ",\"baseline\":%s", r->baseline);
        buf_append_char(&b, '}');
    }
    buf_append_str(&b, "]}}");
    assert_int_equal(b.failed, 0);
    int code = evaluation_record_parse(buf_span(&b), SPAN(""), &record, err);
    if (code == 0) code = gates_judge(record, &GATE_LIMITS_DEFAULT, v, err);
    evaluation_record_free(record);
    buf_fini(&b);
    return code;
}

#define FOUND "{\"finite\":true,\"rank\":1,\"own\":0.8,\"others\":0.1}"
#define LOST "{\"finite\":true,\"rank\":7,\"own\":0.2,\"others\":0.1}"
static void test_encoders(void **state) {
    (void)state;
    const struct {
        const char *name;
        struct encoder_recipe r;
        const char *fails; /* all gates that do, with a space behind each; NULL: no record */
    } cases[] = {
        {"an embedder", {"embed", FOUND, NULL, 40}, ""},
        {"too few passages", {"embed", FOUND, NULL, 9}, "evidence "},
        {"no passage", {"embed", FOUND, NULL, 0}, "evidence finite distinct retrieval "},
        {"finds nothing", {"embed", LOST, NULL, 40}, "retrieval "},
        {"as good as its baseline", {"embed", FOUND, FOUND, 40}, ""},
        {"worse than its baseline", {"embed", LOST, FOUND, 40}, "retrieval "},
        {"no better than a baseline that finds nothing", {"embed", LOST, LOST, 40}, ""},
        {"one vector for all", {"embed", "{\"finite\":true,\"rank\":40,\"own\":1,\"others\":1}", NULL, 40}, "distinct retrieval "},
        {"said not to be finite", {"embed", "{\"finite\":false,\"rank\":1,\"own\":0.8,\"others\":0.1}", NULL, 40}, "finite distinct "},
        {"null is not finite", {"embed", "{\"finite\":true,\"rank\":1,\"own\":null,\"others\":0.1}", NULL, 40}, "finite distinct "},
        {"a ranker", {"score", "{\"finite\":true,\"rank\":1,\"own\":9,\"others\":-4}", NULL, 40}, ""},
        {"a ranker of one score", {"score", "{\"finite\":true,\"rank\":10,\"own\":0.5,\"others\":0.5}", NULL, 40}, "distinct retrieval "},
        {"a classifier", {"classify", "{\"finite\":true,\"label\":1,\"outputs\":[0.1,#]}", NULL, 40}, ""},
        {"a classifier of one output", {"classify", "{\"finite\":true,\"label\":1,\"outputs\":[0.1,0.9]}", NULL, 40}, "distinct "},
        {"a task of its own", {"paint", FOUND, NULL, 40}, NULL},
        {"no rank", {"embed", "{\"finite\":true,\"own\":1,\"others\":1}", NULL, 40}, NULL},
        {"a rank of 0", {"embed", "{\"finite\":true,\"rank\":0,\"own\":1,\"others\":1}", NULL, 40}, NULL},
        {"too many outputs", {"classify", "{\"finite\":true,\"label\":1,\"outputs\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}", NULL, 40}, NULL},
        {"no outputs", {"classify", "{\"finite\":true,\"label\":1,\"outputs\":[]}", NULL, 40}, NULL},
        {"no object", {"embed", "7", NULL, 40}, NULL},
        {"too many passages", {"embed", FOUND, NULL, GATES_PASSAGES_MAX + 1}, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gate_verdict v = {0};
        struct error err = {0};
        char failed[256] = "";
        int code = judge_encoder(&cases[i].r, &v, &err);
        CHECK((code == 0) == (cases[i].fails != NULL), "%s: %d %s", cases[i].name, code, err.message);
        if (code != 0) {
            CHECK(err.message[0], "%s: says nothing", cases[i].name);
            continue;
        }
        for (size_t k = 0; k < v.n_gates; k++)
            if (!v.gates[k].passed) snprintf(failed + strlen(failed), sizeof failed - strlen(failed), "%s ", v.gates[k].gate);
        CHECK(strcmp(failed, cases[i].fails) == 0, "%s: fails at \"%s\", not \"%s\"", cases[i].name, failed, cases[i].fails);
        CHECK(v.passed == !failed[0], "%s: the verdict", cases[i].name);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_encoders), cmocka_unit_test(test_candidates), cmocka_unit_test(test_figures), cmocka_unit_test(test_wins_by_prompts), cmocka_unit_test(test_records), cmocka_unit_test(test_without_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
