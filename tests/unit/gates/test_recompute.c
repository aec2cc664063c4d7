/* A verdict comes out of its record again, to the digit; whatever is changed in evaluation, limits or record is seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/sha256.h"
#include "gates/recompute.h"
#include "registry/record.h"

enum { DOCUMENTS = 12, PAIRS = 30, SAMPLES = 110, RECORD_MAX = 1 << 20 };

struct told { /* an evaluation as services/feedback tells it, with its memory */
    Genloop__V1__Evaluation e;
    Genloop__V1__ObjectRef ref;
    Genloop__V1__Figure figures[GATES_FIGURES_MAX], limits[GATE_LIMITS_COUNT], *figure_list[GATES_FIGURES_MAX + 1], *limit_list[GATE_LIMITS_COUNT];
    Genloop__V1__GateResult gates[GATES_MAX], *gate_list[GATES_MAX];
    char sha256[SHA256_HEX_MAX];
    uint8_t signature[RECORD_SIGNATURE_SIZE];
};

static struct buf record;
static struct registry_key key;

static int set_up(void **state) {
    (void)state;
    buf_init(&record, RECORD_MAX);
    buf_append_str(&record, "{\"format\":1,\"spec\":{\"trait\":\"numbers\"},\"candidate\":\"m@2\",\"baseline\":\"m@1\",\"tokenizer\":{\"candidate\":\"aa\",\"baseline\":\"aa\",\"round_trip\":true},\"documents\":[");
    for (int i = 0; i < DOCUMENTS; i++)
        buf_printf(&record, "%s{\"id\":\"d%d\",\"bytes\":%d,\"tokens_candidate\":%d,\"nll_candidate\":%d.25,\"tokens_baseline\":%d,\"nll_baseline\":%d.5}", i ? "," : "", i, 300 + i, 100 + i, 400 + i * 3, 100 + i,
                   401 + i * 3);
    buf_append_str(&record, "],\"pairs\":[");
    for (int i = 0; i < PAIRS; i++)
        buf_printf(&record, "%s{\"request_id\":\"r%d\",\"candidate_chosen\":-%d.5,\"candidate_rejected\":-20,\"baseline_chosen\":-12.25,\"baseline_rejected\":-20}", i ? "," : "", i, i % 5 ? 10 : 14);
    buf_append_str(&record, "],\"samples\":[");
    for (int i = 0; i < SAMPLES; i++) {
        buf_printf(&record, "%s{\"prompt_id\":\"p%d\",\"prompt\":\"x\",\"seed\":%d", i ? "," : "", i, i);
        for (int side = 0; side < 2; side++)
            buf_printf(&record, ",\"%s\":{\"text\":\"an answer %s\",\"tokens\":[%d,%d,%d,%d,%d],\"finish\":\"stop\"}", side ? "baseline" : "candidate", (i + side) % 3 ? "of 7" : "of none", i, i + 1, i * 7 % 31,
                       side, 5);
        buf_append_char(&record, '}');
    }
    buf_append_str(&record, "]}");
    assert_int_equal(record.failed, 0);
    uint8_t seed[32] = {7};
    registry_key_from_seed(seed, &key);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    buf_fini(&record);
    return 0;
}

static char *text(const char *s) { return (char *)(uintptr_t)s; }

static void tell(struct told *t, const struct gate_limits *limits, struct span bytes) {
    struct evaluation_record *parsed = NULL;
    static struct gate_verdict v;
    struct error err = {0};
    if (evaluation_record_parse(bytes, SPAN(""), &parsed, &err) || gates_judge(parsed, limits, &v, &err)) fail_msg("%s", err.message);
    evaluation_record_free(parsed);
    *t = (struct told){0};
    genloop__v1__evaluation__init(&t->e);
    genloop__v1__object_ref__init(&t->ref);
    t->ref.sha256 = sha256_hex(bytes, t->sha256);
    t->ref.size_bytes = bytes.len;
    t->e.id = text("e1");
    t->e.candidate = text("m@2");
    t->e.baseline = text("m@1");
    t->e.record = &t->ref;
    t->e.judged = true;
    t->e.passed = v.passed;
    t->e.figures = t->figure_list;
    t->e.gates = t->gate_list;
    t->e.limits = t->limit_list;
    for (size_t i = 0; i < v.n_figures; i++) {
        genloop__v1__figure__init(&t->figures[i]);
        t->figures[i].name = text(v.figures[i].name);
        t->figures[i].value = v.figures[i].value;
        t->figures[i].low = v.figures[i].low;
        t->figures[i].high = v.figures[i].high;
        t->figures[i].samples = v.figures[i].samples;
        t->e.figures[t->e.n_figures++] = &t->figures[i];
    }
    for (size_t i = 0; i < v.n_gates; i++) {
        genloop__v1__gate_result__init(&t->gates[i]);
        t->gates[i].gate = text(v.gates[i].gate);
        t->gates[i].passed = v.gates[i].passed;
        t->gates[i].value = v.gates[i].value;
        t->gates[i].low = v.gates[i].low;
        t->gates[i].high = v.gates[i].high;
        t->gates[i].threshold = v.gates[i].threshold;
        t->gates[i].margin = v.gates[i].margin;
        t->gates[i].samples = v.gates[i].samples;
        t->e.gates[t->e.n_gates++] = &t->gates[i];
    }
    for (int i = 0; i < GATE_LIMITS_COUNT; i++) {
        genloop__v1__figure__init(&t->limits[i]);
        t->limits[i].name = text(gate_limit_name(i));
        t->limits[i].value = gate_limit_get(limits, i);
        t->e.limits[t->e.n_limits++] = &t->limits[i];
    }
}

static void test_same(void **state) {
    (void)state;
    static struct told t;
    static struct recomputed r;
    struct error err = {0};
    struct buf out;
    struct json *root = NULL;
    tell(&t, &GATE_LIMITS_DEFAULT, buf_span(&record));
    assert_int_equal(record_sign(&key, &t.e.base, t.signature, &err), 0);
    if (gates_recompute(&t.e, buf_span(&record), span_of(key.public_key, RECORD_PUBLIC_SIZE), &r, &err)) fail_msg("%s", err.message);
    assert_int_equal(r.different, 0);
    assert_true(r.compared > 100);
    assert_true(r.verdict.passed == t.e.passed);
    assert_memory_equal(&r.limits, &GATE_LIMITS_DEFAULT, sizeof r.limits);
    buf_init(&out, 1 << 20);
    assert_int_equal(recomputed_write_text(&t.e, &r, &out), 0);
    assert_true(span_find(buf_span(&out), SPAN("come out of the record as they were told")) > 0);
    buf_clear(&out);
    assert_int_equal(recomputed_write_json(&t.e, &r, &out), 0);
    assert_int_equal(json_parse(buf_span(&out), &root, &err), 0);
    assert_true(json_bool(json_get(root, "same"), false));
    assert_int_equal(json_size(json_get(root, "gates")), t.e.n_gates);
    assert_true(json_real(json_get(json_get(root, "limits"), "win_rate_min"), 0) == 0.5);
    json_free(root);
    buf_fini(&out);

    /* Other thresholds than this build's defaults go with the evaluation; one from before they were kept is judged by the defaults. */
    struct gate_limits limits = GATE_LIMITS_DEFAULT;
    limits.samples_min = 1000;
    tell(&t, &limits, buf_span(&record));
    assert_false(t.e.passed);
    assert_int_equal(gates_recompute(&t.e, buf_span(&record), SPAN(""), &r, &err), 0);
    assert_int_equal(r.different, 0);
    assert_int_equal(r.limits.samples_min, 1000);
    t.e.n_limits = 0;
    assert_int_equal(gates_recompute(&t.e, buf_span(&record), SPAN(""), &r, &err), 0);
    assert_true(r.different > 0);
}

static void pass_it(struct told *t) { t->e.passed = !t->e.passed; }
static void pass_gate(struct told *t) { t->gates[0].passed = !t->gates[0].passed; }
static void nudge_figure(struct told *t) { t->figures[2].low += 1e-6; }
static void nudge_samples(struct told *t) { t->figures[0].samples++; }
static void nudge_margin(struct told *t) { t->gates[2].margin *= 1.0001; }
static void drop_gate(struct told *t) { t->e.n_gates--; }
static void rename_figure(struct told *t) { t->figures[1].name = text("beauty"); }
static void add_figure(struct told *t) { t->e.figures[t->e.n_figures++] = &t->figures[0]; }

static void test_changed(void **state) {
    (void)state;
    static const struct {
        const char *name;
        void (*change)(struct told *t);
        const char *says;
    } cases[] = {
        {"verdict", pass_it, "verdict"}, {"gate", pass_gate, "gate evidence: passed"}, {"figure", nudge_figure, "low"}, {"samples", nudge_samples, "samples"}, {"margin", nudge_margin, "margin"},
        {"a gate less", drop_gate, "was not told"}, {"another name", rename_figure, "was not told"}, {"a figure more", add_figure, "does not come out"},
    };
    static struct told t;
    static struct recomputed r;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error err = {0};
        tell(&t, &GATE_LIMITS_DEFAULT, buf_span(&record));
        cases[i].change(&t);
        if (gates_recompute(&t.e, buf_span(&record), SPAN(""), &r, &err)) fail_msg("%s: %s", cases[i].name, err.message);
        if (r.different == 0 || !strstr(r.difference, cases[i].says)) fail_msg("%s: %zu differences, \"%s\"", cases[i].name, r.different, r.difference);
        struct buf out;
        buf_init(&out, 1 << 20);
        assert_int_equal(recomputed_write_text(&t.e, &r, &out), 0);
        assert_true(span_find(buf_span(&out), SPAN("are not as they were told")) > 0);
        buf_fini(&out);
    }
}

static void test_errors(void **state) {
    (void)state;
    static struct told t;
    static struct recomputed r;
    struct error err = {0};
    struct span whole = buf_span(&record), public_key = span_of(key.public_key, RECORD_PUBLIC_SIZE);
    tell(&t, &GATE_LIMITS_DEFAULT, whole);
    assert_int_equal(gates_recompute(&t.e, whole, public_key, &r, &err), E_DENIED); /* not signed */
    assert_int_equal(record_sign(&key, &t.e.base, t.signature, &err), 0);
    t.figures[0].value += 1; /* behind the signature's back */
    assert_int_equal(gates_recompute(&t.e, whole, public_key, &r, &err), E_DENIED);
    assert_int_equal(gates_recompute(&t.e, whole, SPAN("short"), &r, &err), E_INVALID);
    assert_int_equal(gates_recompute(&t.e, span_sub(whole, 0, whole.len - 1), SPAN(""), &r, &err), E_DATA_LOSS);
    tell(&t, &GATE_LIMITS_DEFAULT, whole);
    t.e.judged = false;
    assert_int_equal(gates_recompute(&t.e, whole, SPAN(""), &r, &err), E_STATE);
    t.e.judged = true;
    t.e.candidate = text("m@3");
    assert_int_equal(gates_recompute(&t.e, whole, SPAN(""), &r, &err), E_INVALID);
    t.e.candidate = text("m@2");
    t.limits[0].name = text("beauty_min");
    assert_int_equal(gates_recompute(&t.e, whole, SPAN(""), &r, &err), E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "beauty_min"));
    tell(&t, &GATE_LIMITS_DEFAULT, whole);
    for (int i = 0; i < GATE_LIMITS_COUNT; i++)
        if (strcmp(gate_limit_name(i), "samples_min") == 0) t.limits[i].value = 0.5; /* a count */
    assert_int_equal(gates_recompute(&t.e, whole, SPAN(""), &r, &err), E_INVALID);
    t.e.record = NULL;
    assert_int_equal(gates_recompute(&t.e, whole, SPAN(""), &r, &err), E_INVALID);
    /* Every limit comes back by its name. */
    for (int i = 0; i < GATE_LIMITS_COUNT; i++) {
        struct gate_limits limits = {0};
        assert_int_equal(gate_limit_set(&limits, span_str(gate_limit_name(i)), 3), 0);
        for (int k = 0; k < GATE_LIMITS_COUNT; k++) assert_true(gate_limit_get(&limits, k) == (k == i ? 3 : 0));
    }
    assert_int_equal(gate_limit_set(&(struct gate_limits){0}, SPAN("beauty"), 1), E_NOT_FOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same), cmocka_unit_test(test_changed), cmocka_unit_test(test_errors)};
    return cmocka_run_group_tests_name("gates_recompute", tests, set_up, tear_down);
}
