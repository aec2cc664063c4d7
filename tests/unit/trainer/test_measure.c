/*
 * Measurements of tiny random models: the record is what the gates read; the same bytes come out for any number of threads and sequences; a spoiled candidate
 * gives a record that says so; what is wrong with a file is said with its line.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/sha256.h"
#include "engine/engine.h"
#include "gates/gates.h"
#include "services/trainer/measure.h"
#include "services/trainer/measure_rows.h"
#include "tests/unit/engine/support/tiny.h"
#include "tokenizer/chat.h"
#include "tokenizer/train.h"
#include "tests/unit/train/support/evaluate.h"

enum { PATH_SIZE = 256, RECORD_MAX = 64 << 20 };
static char home[64], documents_path[PATH_SIZE], prompts_path[PATH_SIZE], pairs_path[PATH_SIZE];
static struct tiny base, other, gpt2, t5;
static Genloop__V1__EvaluateSpec spec;

static char *at(char out[PATH_SIZE], const char *name) {
    snprintf(out, PATH_SIZE, "%s/%s", home, name);
    return out;
}

static void write_file(const char *path, const char *text) {
    struct error err = {0};
    if (file_write(path, span_str(text), 0600, &err)) fail_msg("%s", err.message);
}

static int set_up(void **state) {
    (void)state;
    struct buf b;
    struct error err = {0};
    snprintf(home, sizeof home, "/tmp/genloop-measure-XXXXXX");
    assert_non_null(mkdtemp(home));
    tiny_make(&base, "llama", 1);
    tiny_make(&other, "llama", 2);
    tiny_make(&gpt2, "gpt2", 3);
    tiny_make(&t5, "t5", 4);
    buf_init(&b, 1 << 20);
    for (int i = 0; i < 30; i++) {
        buf_printf(&b, "{\"id\":\"d%d\",\"text\":\"A row never depends on row %d beside it. naïve café, 東京\\nThe cache is made of %d blocks and of tokens", i, i, i * 7);
        for (int k = 0; k < (i % 4 ? i : i * 6); k++) buf_printf(&b, "%s every sequence %d", k % 9 ? "," : ".\\nIt takes", k);
        buf_append_str(&b, ".\",\"title\":\"t\"}\n");
    }
    assert_int_equal(file_write(at(documents_path, "documents.jsonl"), buf_span(&b), 0600, &err), 0);
    buf_clear(&b);
    for (int i = 0; i < 20; i++)
        buf_printf(&b, "{\"messages\":[{\"role\":\"user\",\"content\":\"What is row %d?\"},{\"role\":\"assistant\",\"content\":\"A row of %d.\"}]}\n%s", i % 16, i, i % 3 ? "" : "\n");
    buf_append_str(&b, "{\"prompt\":\"The engine takes\"}\n{\"prompt\":[{\"role\":\"user\",\"content\":\"And a cache?\"}]}\n");
    buf_append_str(&b, "{\"prompt\":\"");
    for (int i = 0; i < 400; i++) buf_printf(&b, "too long %d ", i);
    buf_append_str(&b, "\"}\n");
    assert_int_equal(file_write(at(prompts_path, "prompts.jsonl"), buf_span(&b), 0600, &err), 0);
    buf_clear(&b);
    for (int i = 0; i < 25; i++)
        buf_printf(&b, "{\"prompt\":[{\"role\":\"user\",\"content\":\"secret %d\"}],\"chosen\":\"good %d.\",\"rejected\":\"bad, and %d\",\"request_id\":\"r%d\",\"feedback_id\":\"f%d\"}\n", i, i, i, i, i);
    assert_int_equal(file_write(at(pairs_path, "pairs.jsonl"), buf_span(&b), 0600, &err), 0);
    buf_fini(&b);
    genloop__v1__evaluate_spec__init(&spec);
    spec.candidate = (char *)(uintptr_t) "m@2";
    spec.baseline = (char *)(uintptr_t) "m@1";
    spec.held_out = (char *)(uintptr_t) "docs@1";
    spec.trait = (char *)(uintptr_t) "lists";
    spec.documents_max = 20;
    spec.prompts = 24; /* 18 questions (one of them repeated, one too long), the rest from documents */
    spec.sample_tokens = 12;
    spec.seed = 7;
    spec.temperature = 1;
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    tiny_remove(&base);
    tiny_remove(&other);
    tiny_remove(&gpt2);
    tiny_remove(&t5);
    return dir_remove(home, NULL);
}

static struct measure_paths paths_of(const char *candidate, const char *baseline) {
    return (struct measure_paths){.candidate = candidate, .baseline = baseline, .documents = documents_path, .prompts = prompts_path, .preferences = pairs_path, .work = home};
}

static struct json *measured(const struct measure_paths *p, const Genloop__V1__EvaluateSpec *s, const struct measure_options *o, struct buf *record) {
    struct error err = {0};
    struct json *root = NULL;
    buf_clear(record);
    if (measure_evaluation(p, s, o, record, &err)) fail_msg("%s", err.message);
    if (json_parse(buf_span(record), &root, &err)) fail_msg("%s", err.message);
    return root;
}

static struct gate_verdict judged(const struct buf *record, const struct gate_limits *limits) {
    struct error err = {0};
    struct evaluation_record *r = NULL;
    struct gate_verdict v;
    if (evaluation_record_parse(buf_span(record), SPAN(""), &r, &err)) fail_msg("%s", err.message);
    if (gates_judge(r, limits, &v, &err)) fail_msg("%s", err.message);
    evaluation_record_free(r);
    return v;
}

static const struct gate_result *gate(const struct gate_verdict *v, const char *name) {
    for (size_t i = 0; i < v->n_gates; i++)
        if (strcmp(v->gates[i].gate, name) == 0) return &v->gates[i];
    fail_msg("no gate %s", name);
    return NULL;
}

struct progress {
    uint64_t done, total, calls, stop_after;
    bool order_broken;
};
static void on_progress(void *arg, const char *phase, uint64_t done, uint64_t total) {
    struct progress *p = arg;
    (void)phase;
    p->order_broken |= done < p->done || done > total;
    p->done = done;
    p->total = total;
    p->calls++;
}
static bool should_stop(void *arg) {
    struct progress *p = arg;
    return p->stop_after && p->calls >= p->stop_after;
}

static void test_record(void **state) {
    (void)state;
    struct buf record;
    buf_init(&record, RECORD_MAX);
    struct measure_paths p = paths_of(other.path, base.path);
    struct progress progress = {0};
    struct measure_options o = {.threads = 2, .arg = &progress, .on_progress = on_progress};
    struct json *root = measured(&p, &spec, &o, &record);
    assert_int_equal(progress.done, progress.total);
    assert_int_equal(progress.total, 2 * (20 + 25 + 24));
    assert_false(progress.order_broken);
    const struct json *documents = json_get(root, "documents"), *samples = json_get(root, "samples"), *pairs = json_get(root, "pairs");
    assert_int_equal(json_size(documents), 20);
    assert_int_equal(json_size(samples), 24);
    assert_int_equal(json_size(pairs), 25);
    assert_true(span_find(buf_span(&record), SPAN("secret")) < 0); /* what people wrote stays out */
    bool long_one = false;
    for (size_t i = 0; i < json_size(documents); i++) {
        const struct json *d = json_at(documents, i);
        assert_true(json_int(json_get(d, "bytes"), 0) <= MEASURE_DOCUMENT_BYTES_MAX);
        long_one |= json_int(json_get(d, "bytes"), 0) > MEASURE_DOCUMENT_BYTES_MAX / 2;
        assert_true(json_real(json_get(d, "nll_candidate"), -1) > 0);
        for (size_t k = 0; k < i; k++) assert_false(span_eq(json_string(json_get(d, "id")), json_string(json_get(json_at(documents, k), "id"))));
    }
    assert_true(long_one);
    int chats = 0, beginnings = 0;
    for (size_t i = 0; i < json_size(samples); i++) {
        const struct json *s = json_at(samples, i), *prompt = json_get(s, "prompt");
        chats += json_type(prompt) == JSON_TYPE_ARRAY;
        beginnings += json_type(prompt) == JSON_TYPE_STRING;
        if (json_type(prompt) == JSON_TYPE_ARRAY) assert_int_equal(json_size(prompt), 1);
        for (size_t k = 0; k < i; k++) assert_false(span_eq(json_string(json_get(s, "prompt_id")), json_string(json_get(json_at(samples, k), "prompt_id"))));
        for (int side = 0; side < 2; side++) { /* the text is that of the tokens */
            const struct json *a = json_get(s, side ? "baseline" : "candidate"), *tokens = json_get(a, "tokens");
            uint32_t ids[64];
            struct buf text;
            buf_init(&text, 4096);
            assert_in_range(json_size(tokens), 0, 12);
            for (size_t k = 0; k < json_size(tokens); k++) ids[k] = (uint32_t)json_int(json_at(tokens, k), 0);
            assert_int_equal(tokenizer_decode(base.tokenizer, ids, json_size(tokens), true, &text), 0);
            assert_true(span_eq(buf_span(&text), json_string(json_get(a, "text"))));
            buf_fini(&text);
        }
    }
    assert_int_equal(chats, 17); /* 16 questions of 20 rows, and one more */
    assert_int_equal(beginnings, 7);
    struct gate_verdict v = judged(&record, &GATE_LIMITS_DEFAULT);
    assert_true(gate(&v, "tokenizer")->passed);
    assert_false(gate(&v, "evidence")->passed); /* 24 prompts are few */
    json_free(root);

    /* The prompts, seeds and the baseline's answers do not depend on the candidate. */
    struct buf again;
    buf_init(&again, RECORD_MAX);
    p = paths_of(base.path, base.path);
    struct json *same = measured(&p, &spec, NULL, &again);
    root = NULL;
    assert_int_equal(json_parse(buf_span(&record), &root, NULL), 0);
    for (size_t i = 0; i < 24; i++) {
        const struct json *x = json_at(json_get(root, "samples"), i), *y = json_at(json_get(same, "samples"), i);
        struct buf bx, by, bz;
        buf_init(&bx, 1 << 20), buf_init(&by, 1 << 20), buf_init(&bz, 1 << 20);
        json_write(&bx, json_get(x, "baseline"));
        json_write(&by, json_get(y, "baseline"));
        json_write(&bz, json_get(y, "candidate"));
        assert_true(span_eq(buf_span(&bx), buf_span(&by)));
        assert_true(span_eq(buf_span(&bx), buf_span(&bz)));
        assert_int_equal(json_int(json_get(x, "seed"), 0), json_int(json_get(y, "seed"), 1));
        buf_fini(&bx), buf_fini(&by), buf_fini(&bz);
    }
    struct gate_limits limits = GATE_LIMITS_DEFAULT;
    limits.samples_min = 20;
    v = judged(&again, &limits);
    assert_true(fabs(gate(&v, "perplexity")->value - 1) < 1e-12);
    assert_true(gate(&v, "win_rate")->value == 0.5);
    assert_false(v.passed); /* no better than itself: the win rate */
    assert_string_equal(gates_first_failed(&v)->gate, "win_rate");
    json_free(root);
    json_free(same);
    buf_fini(&again);
    buf_fini(&record);
}

static void test_repeatable(void **state) {
    (void)state;
    static const struct {
        uint32_t threads, sequences;
    } cases[] = {{1, 1}, {2, 3}, {3, 32}, {0, 0}};
    struct buf first, record;
    buf_init(&first, RECORD_MAX);
    buf_init(&record, RECORD_MAX);
    struct measure_paths p = paths_of(other.path, base.path);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct measure_options o = {.threads = cases[i].threads, .sequences = cases[i].sequences};
        json_free(measured(&p, &spec, &o, i ? &record : &first));
        if (i && !span_eq(buf_span(&first), buf_span(&record))) fail_msg("%u threads, %u sequences: another record", cases[i].threads, cases[i].sequences);
    }
    /* Another seed: other rows and answers. */
    Genloop__V1__EvaluateSpec s = spec;
    s.seed = 8;
    json_free(measured(&p, &s, NULL, &record));
    assert_false(span_eq(buf_span(&first), buf_span(&record)));
    buf_fini(&first);
    buf_fini(&record);
}

/* A first version, on text alone. */
static void test_without(void **state) {
    (void)state;
    struct buf record;
    buf_init(&record, RECORD_MAX);
    struct measure_paths p = {.candidate = gpt2.path, .documents = documents_path, .work = home};
    Genloop__V1__EvaluateSpec s = spec;
    s.baseline = (char *)(uintptr_t) "";
    struct json *root = measured(&p, &s, NULL, &record);
    assert_true(span_empty(json_string(json_get(root, "baseline"))));
    assert_int_equal(json_size(json_get(root, "pairs")), 0);
    assert_int_equal(json_size(json_get(root, "samples")), 24); /* all are words of documents */
    assert_null(json_get(json_at(json_get(root, "samples"), 0), "baseline"));
    struct gate_verdict v = judged(&record, &GATE_LIMITS_DEFAULT);
    assert_false(gate(&v, "perplexity")->passed); /* random weights are no language */
    json_free(root);
    buf_fini(&record);
}

static void spoil(const struct tiny *t, const struct tokenizer *tokenizer, float value, uint32_t every, const char *dir);

/* −log p of a document's second half, given the first half of another (or of itself), as a replica's engine says. */
static double nll_of(struct engine *e, struct span document, struct span from) {
    struct tokens source = {0}, target = {0};
    struct span first, second, unused;
    struct engine_request r;
    struct engine_result result;
    double sum = 0;
    measure_halve(from, &first, &unused);
    measure_halve(document, &unused, &second);
    assert_int_equal(tokenizer_encode(engine_tokenizer(e), first, TOKENIZER_ADD_SPECIAL, &source, NULL), 0);
    assert_int_equal(tokenizer_encode(engine_tokenizer(e), second, 0, &target, NULL), 0);
    engine_request_init(&r);
    r.tokens = source.ids;
    r.token_count = source.len;
    r.target = target.ids;
    r.target_count = target.len;
    r.tokens_max = 0;
    r.prompt_logprobs = true;
    assert_int_equal(engine_generate_batch(e, &r, 1, &result, NULL), 0);
    assert_int_equal(result.prompt_count, target.len);
    for (size_t i = 0; i < target.len; i++) sum -= (double)result.prompt_logprobs[i];
    engine_result_fini(&result);
    tokens_fini(&source);
    tokens_fini(&target);
    return sum;
}

/* Each document's own first half, and that of the one behind it, are what it was measured with. */
static void check_halves(const struct json *documents) {
    struct engine *e = NULL;
    struct error err = {0};
    struct span texts[32];
    struct json *rows[32];
    struct buf file;
    size_t n = json_size(documents);
    buf_init(&file, 1 << 20);
    assert_true(n <= 32);
    assert_int_equal(file_read(documents_path, &file, &err), 0);
    for (size_t i = 0; i < n; i++) {
        struct span rest = buf_span(&file), line, id = json_string(json_get(json_at(documents, i), "id"));
        for (rows[i] = NULL; !rows[i] && span_cut(&rest, '\n', &line);) {
            assert_int_equal(json_parse(line, &rows[i], &err), 0);
            if (span_eq(json_string(json_get(rows[i], "id")), id)) break;
            json_free(rows[i]);
            rows[i] = NULL;
        }
        assert_non_null(rows[i]);
        texts[i] = json_string(json_get(rows[i], "text"));
    }
    assert_int_equal(engine_new(&e, t5.path, &(struct engine_options){.threads = 1, .sequences_max = 1}, &err), 0);
    for (size_t i = 0, checked = 0; i < n && checked < 3; i++) {
        size_t next = (i + 1) % n;
        if (texts[i].len > MEASURE_DOCUMENT_BYTES_MAX || texts[next].len > MEASURE_DOCUMENT_BYTES_MAX) continue; /* of which a stretch was taken */
        double own = json_real(json_get(json_at(documents, i), "nll_candidate"), 0), other_s = json_real(json_get(json_at(documents, i), "nll_candidate_other"), 0);
        double want = nll_of(e, texts[i], texts[i]), want_other = nll_of(e, texts[i], texts[next]);
        if (!(fabs(own - want) <= 1e-9 * want && fabs(other_s - want_other) <= 1e-9 * want_other)) fail_msg("document %zu: %.9g and %.9g, not %.9g and %.9g", i, own, other_s, want, want_other);
        checked++;
    }
    engine_free(e);
    for (size_t i = 0; i < n; i++) json_free(rows[i]);
    buf_fini(&file);
}

/* An encoder-decoder is held to second halves; against itself it is as good, and nothing else is anything to compare it with. */
static void test_halves(void **state) {
    (void)state;
    char path[PATH_SIZE];
    struct buf record, again;
    struct error err = {0};
    Genloop__V1__EvaluateSpec s = spec;
    s.documents_max = 12;
    s.prompts = 5;
    buf_init(&record, RECORD_MAX);
    buf_init(&again, RECORD_MAX);
    struct measure_paths p = {.candidate = t5.path, .baseline = t5.path, .documents = documents_path, .prompts = prompts_path, .work = home};
    struct progress progress = {0};
    struct measure_options o = {.threads = 2, .arg = &progress, .on_progress = on_progress};
    struct json *root = measured(&p, &s, &o, &record);
    assert_int_equal(progress.done, progress.total);
    assert_int_equal(progress.total, 2 * (12 + 5) + 12);
    assert_true(json_bool(json_get(root, "halves"), false));
    const struct json *documents = json_get(root, "documents");
    assert_int_equal(json_size(documents), 12);
    for (size_t i = 0; i < 12; i++) {
        const struct json *d = json_at(documents, i);
        double nll = json_real(json_get(d, "nll_candidate"), -1), elsewhere = json_real(json_get(d, "nll_candidate_other"), -1);
        assert_in_range(json_int(json_get(d, "bytes"), 0), 1, MEASURE_DOCUMENT_BYTES_MAX / 2);
        assert_in_range(json_int(json_get(d, "tokens_candidate"), 0), 1, json_int(json_get(d, "bytes"), 0));
        if (!(nll > 0 && elsewhere > 0 && nll != elsewhere)) fail_msg("document %zu: %g, from elsewhere %g", i, nll, elsewhere);
    }
    check_halves(documents);
    json_free(root);
    json_free(measured(&p, &s, &(struct measure_options){.threads = 1, .sequences = 1}, &again));
    assert_true(span_eq(buf_span(&record), buf_span(&again)));
    struct gate_verdict v = judged(&record, &GATE_LIMITS_DEFAULT);
    assert_true(gate(&v, "tokenizer")->passed && fabs(gate(&v, "perplexity")->value - 1) < 1e-12);
    assert_non_null(strstr(gate(&v, "perplexity")->rule, "second halves"));
    assert_false(gate(&v, "source")->passed); /* random weights: a coin */

    spoil(&t5, t5.tokenizer, NAN, 1000, at(path, "t5-nan"));
    p.candidate = path;
    root = measured(&p, &s, NULL, &record);
    assert_int_equal(json_type(json_get(json_at(json_get(root, "documents"), 0), "nll_candidate_other")), JSON_TYPE_NULL);
    v = judged(&record, &GATE_LIMITS_DEFAULT);
    assert_false(gate(&v, "perplexity")->passed || gate(&v, "source")->passed || gate(&v, "empty")->passed);
    json_free(root);
    for (int i = 0; i < 2; i++) {
        p = paths_of(i ? t5.path : base.path, i ? base.path : t5.path);
        assert_int_equal(measure_evaluation(&p, &s, NULL, &record, &err), E_INVALID);
        assert_non_null(strstr(err.message, "t5 model"));
    }
    p = paths_of(t5.path, t5.path);
    assert_int_equal(measure_evaluation(&p, &s, NULL, &record, &err), E_UNSUPPORTED);
    assert_string_equal(err.param, "preferences");
    buf_fini(&record);
    buf_fini(&again);
}

static void test_halving(void **state) {
    (void)state;
    static const struct {
        const char *text, *first, *second;
    } cases[] = {
        {"one two three four", "one two three", "four"}, {"  one two three\n\nfour five ", "one two three", "four five"}, {"abcd", "ab", "cd"},
        {"a", "", "a"},                                  {"東京", "東", "京"},                                       {"ü", "", "ü"},
        {"a bcdefgh", "a bc", "defgh"},                  {"abcdefg h", "abcdefg", "h"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct span first, second;
        measure_halve(span_str(cases[i].text), &first, &second);
        if (!span_eq_str(first, cases[i].first) || !span_eq_str(second, cases[i].second)) fail_msg("\"%s\": \"%.*s\" and \"%.*s\"", cases[i].text, SPAN_ARG(first), SPAN_ARG(second));
    }
}

/* What a large model would take too long for is measured in part: the same share of each, never fewer than the least, and as the spec alone says. */
static void test_budget(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint64_t multiply_adds_max;
        size_t documents[2], prompts[2], pairs[2]; /* from, to */
        bool short_ones;
    } cases[] = {
        {"no limit", 0, {20, 20}, {24, 24}, {25, 25}, false},
        {"enough", 1000000000000, {20, 20}, {24, 24}, {25, 25}, false},
        {"next to nothing", 1, {4, 4}, {6, 6}, {6, 6}, true},
        {"some of it", 0 /* half of what it takes: below */, {5, 19}, {7, 23}, {7, 24}, true},
    };
    struct buf record, again;
    buf_init(&record, RECORD_MAX);
    buf_init(&again, RECORD_MAX);
    struct measure_paths p = paths_of(other.path, base.path);
    uint64_t parameters = 2 * model_config_param_count(&base.weights.config), tokens = 0;
    struct json *all = NULL;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Genloop__V1__EvaluateSpec s = spec;
        s.documents_min = 4;
        s.prompts_min = 6;
        s.multiply_adds_max = i == 3 ? parameters * tokens / 2 : cases[i].multiply_adds_max;
        struct progress progress = {0};
        struct measure_options o = {.arg = &progress, .on_progress = on_progress};
        struct json *root = measured(&p, &s, &o, &record);
        const struct json *documents = json_get(root, "documents");
        size_t n_documents = json_size(documents), n_prompts = json_size(json_get(root, "samples")), n_pairs = json_size(json_get(root, "pairs"));
        if (n_documents < cases[i].documents[0] || n_documents > cases[i].documents[1] || n_prompts < cases[i].prompts[0] || n_prompts > cases[i].prompts[1] || n_pairs < cases[i].pairs[0] ||
            n_pairs > cases[i].pairs[1])
            fail_msg("%s: %zu documents, %zu prompts, %zu pairs", cases[i].name, n_documents, n_prompts, n_pairs);
        assert_int_equal(progress.total, 2 * (n_documents + n_prompts + n_pairs));
        assert_int_equal(progress.done, progress.total);
        assert_int_equal(json_int(json_get(json_get(root, "spec"), "documents_min"), 0), 4);
        assert_true((uint64_t)json_real(json_get(json_get(root, "spec"), "multiply_adds_max"), -1) == s.multiply_adds_max);
        bool long_one = false;
        for (size_t k = 0; k < n_documents; k++) {
            const struct json *d = json_at(documents, k);
            long_one |= json_int(json_get(d, "bytes"), 0) > MEASURE_DOCUMENT_BYTES_SHORT;
            if (i == 0) tokens += (uint64_t)json_int(json_get(d, "tokens_candidate"), 0);
            if (i > 0) assert_true(span_eq(json_string(json_get(d, "id")), json_string(json_get(json_at(json_get(all, "documents"), k), "id")))); /* the first of them */
        }
        assert_int_equal(long_one, !cases[i].short_ones);
        /* One thread, or as many as there are: the same record. */
        if (i == 3) {
            json_free(measured(&p, &s, &(struct measure_options){.threads = 1, .sequences = 2}, &again));
            assert_true(span_eq(buf_span(&record), buf_span(&again)));
        }
        if (i == 0) all = root;
        else json_free(root);
    }
    json_free(all);
    buf_fini(&record);
    buf_fini(&again);
}

/* What the engine measures is what the trainer's own forward pass says of the same texts, token for token. */
struct reference {
    double nll[64];
    uint64_t tokens[64];
    struct evaluate_pair pairs[64];
    size_t n_documents, n_pairs;
};
static void on_reference_document(void *arg, uint64_t row, double nll, uint64_t tokens, uint64_t bytes) {
    struct reference *f = arg;
    (void)bytes;
    assert_true(row == f->n_documents && row < 64);
    f->nll[row] = nll;
    f->tokens[row] = tokens;
    f->n_documents++;
}
static void on_reference_pair(void *arg, uint64_t row, const struct evaluate_pair *pair) {
    struct reference *f = arg;
    assert_true(row == f->n_pairs && row < 64);
    f->pairs[f->n_pairs++] = *pair;
}

static void test_equals_trainer(void **state) {
    (void)state;
    char path[PATH_SIZE];
    struct error err = {0};
    struct buf record, rows;
    buf_init(&record, RECORD_MAX);
    buf_init(&rows, 1 << 20);
    /* Texts within a window of either, and one pair a row: the record has them in its own order, by id. */
    for (int i = 0; i < 30; i++) {
        buf_printf(&rows, "{\"id\":\"%d\",\"text\":\"Row %d, and", i, i);
        for (int k = 0; k < i % 9; k++) buf_printf(&rows, " then %d", k * i);
        buf_append_str(&rows, ".\"}\n");
    }
    assert_int_equal(file_write(at(path, "short.jsonl"), buf_span(&rows), 0600, &err), 0);
    const struct tiny *models[] = {&other, &gpt2};
    for (size_t m = 0; m < 2; m++) {
        static struct reference f;
        f = (struct reference){0};
        Genloop__V1__EvaluateSpec s = spec;
        s.documents_max = 30;
        s.prompts = 1;
        struct measure_paths p = {.candidate = models[m]->path, .documents = path, .preferences = pairs_path, .work = home};
        struct evaluate_options o = {.threads = 1};
        if (train_evaluate_documents(models[m]->path, path, &o, &f, on_reference_document, &err) || train_evaluate_pairs(models[m]->path, pairs_path, &o, &f, on_reference_pair, &err))
            fail_msg("%s", err.message);
        struct json *root = measured(&p, &s, NULL, &record);
        const struct json *documents = json_get(root, "documents"), *pairs = json_get(root, "pairs");
        assert_int_equal(json_size(documents), 30);
        assert_int_equal(json_size(pairs), 25);
        for (size_t i = 0; i < 30; i++) {
            uint64_t row = 0;
            const struct json *d = json_at(documents, i);
            assert_int_equal(span_to_u64(json_string(json_get(d, "id")), &row), 0);
            assert_int_equal(json_int(json_get(d, "tokens_candidate"), -1), f.tokens[row]);
            double nll = json_real(json_get(d, "nll_candidate"), 0);
            if (!(fabs(nll - f.nll[row]) <= 1e-4 * f.nll[row])) fail_msg("model %zu, document %zu: %.9g, the trainer %.9g", m, (size_t)row, nll, f.nll[row]);
        }
        for (size_t i = 0; i < 25; i++) {
            uint64_t row = 0;
            const struct json *q = json_at(pairs, i);
            assert_int_equal(span_to_u64(span_skip(json_string(json_get(q, "request_id")), 1), &row), 0);
            double chosen = json_real(json_get(q, "candidate_chosen"), 0), rejected = json_real(json_get(q, "candidate_rejected"), 0);
            if (!(fabs(chosen - f.pairs[row].chosen) <= 1e-4 * fabs(f.pairs[row].chosen) && fabs(rejected - f.pairs[row].rejected) <= 1e-4 * fabs(f.pairs[row].rejected)))
                fail_msg("model %zu, pair %zu: %.9g and %.9g, the trainer %.9g and %.9g", m, (size_t)row, chosen, rejected, f.pairs[row].chosen, f.pairs[row].rejected);
        }
        json_free(root);
    }
    buf_fini(&record);
    buf_fini(&rows);
}

/* The directory of a model whose weights one number has spoilt. */
static void spoil(const struct tiny *t, const struct tokenizer *tokenizer, float value, uint32_t every, const char *dir) {
    struct error err = {0};
    struct model_weights w = t->weights;
    float *kept = w.flat, *flat = mem_calloc(w.flat_len, sizeof *flat);
    assert_non_null(flat);
    memcpy(flat, kept, w.flat_len * sizeof *flat);
    for (size_t i = 0; every && i < w.flat_len; i += every) flat[i] = value;
    /* what is written are views of the array */
    const float **data = mem_calloc(w.param_count, sizeof *data);
    for (size_t i = 0; i < w.param_count; i++) data[i] = flat + w.params[i].offset;
    w.flat = flat;
    w.data = data;
    struct model_dir_parts parts = {.weights = &w, .dtype = DTYPE_F32, .tokenizer = tokenizer ? t->tokenizer : NULL, .chat_template = CHAT_TEMPLATE_CHATML};
    if (model_dir_write(dir, &parts, &err)) fail_msg("%s", err.message);
    if (tokenizer && tokenizer != t->tokenizer) { /* as somebody would who swaps the file: model_dir_write refuses one with too many ids */
        char path[PATH_SIZE];
        struct buf text;
        buf_init(&text, 1 << 22);
        snprintf(path, sizeof path, "%s/tokenizer.json", dir);
        if (tokenizer_write(tokenizer, &text) || file_write(path, buf_span(&text), 0600, &err)) fail_msg("%s", err.message);
        buf_fini(&text);
    }
    mem_free(flat);
    mem_free(data);
}

static struct tokenizer *make_tokenizer(uint32_t vocab, const char *text) {
    struct error err = {0};
    struct tokenizer_trainer *trainer;
    struct tokenizer *t = NULL;
    struct tokenizer_train_options options = {.vocab_size = vocab};
    if (tokenizer_trainer_new(&trainer, &options, &err) || tokenizer_trainer_feed(trainer, span_str(text), &err) || tokenizer_trainer_feed(trainer, span_str(text), &err) ||
        tokenizer_trainer_finish(trainer, &t, NULL, NULL, &err))
        fail_msg("%s", err.message);
    tokenizer_trainer_free(trainer);
    return t;
}

static void test_spoiled(void **state) {
    (void)state;
    static const char text[] = "quite another text about wheels and mice, which merges other bytes into other ids; wheels, mice and other wheels";
    char path[PATH_SIZE];
    struct buf record;
    struct gate_limits limits = GATE_LIMITS_DEFAULT;
    limits.samples_min = 20;
    limits.win_rate_pairs_min = 1000;
    buf_init(&record, RECORD_MAX);
    struct tokenizer *swapped = make_tokenizer(TINY_VOCAB, text), *large = make_tokenizer(TINY_VOCAB + 20, text);
    const struct {
        const char *name;
        const struct tokenizer *tokenizer;
        float value;
        uint32_t every;
        const char *gate; /* the first that fails */
        bool empty;
    } cases[] = {
        {"nothing", base.tokenizer, 0, 0, NULL, false},
        {"nan", base.tokenizer, NAN, 1000, "perplexity", true},
        {"infinite", base.tokenizer, INFINITY, 5000, "perplexity", true},
        {"swapped", swapped, 0, 0, "tokenizer", false},
        {"large", large, 0, 0, "tokenizer", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        spoil(&base, cases[i].tokenizer, cases[i].value, cases[i].every, at(path, cases[i].name));
        struct measure_paths p = paths_of(path, base.path);
        struct json *root = measured(&p, &spec, NULL, &record);
        struct gate_verdict v = judged(&record, &limits);
        const struct gate_result *failed = gates_first_failed(&v);
        if (cases[i].gate ? !failed || strcmp(failed->gate, cases[i].gate) != 0 : failed != NULL)
            fail_msg("%s: gate %s failed first, not %s", cases[i].name, failed ? failed->gate : "none", cases[i].gate ? cases[i].gate : "none");
        if (failed) assert_true(failed->margin < 0);
        const struct json *d = json_at(json_get(root, "documents"), 0), *a = json_get(json_at(json_get(root, "samples"), 0), "candidate");
        assert_int_equal(json_type(json_get(d, "nll_candidate")) == JSON_TYPE_NULL, cases[i].empty);
        assert_true(json_int(json_get(d, "tokens_candidate"), 0) > 0);
        assert_int_equal(span_eq_str(json_string(json_get(a, "finish")), "error"), cases[i].empty);
        json_free(root);
    }
    tokenizer_free(swapped);
    tokenizer_free(large);
    buf_fini(&record);
}

static void test_errors(void **state) {
    (void)state;
    char bad[PATH_SIZE], missing[PATH_SIZE], bare[PATH_SIZE];
    struct buf record;
    buf_init(&record, RECORD_MAX);
    buf_append_str(&record, "before");
    at(bad, "bad.jsonl");
    at(missing, "missing");
    spoil(&base, NULL, 0, 0, at(bare, "bare"));
    const struct {
        const char *name, *text; /* of bad.jsonl */
        const char *documents, *prompts, *preferences, *candidate, *baseline;
        int code;
        const char *says;
    } cases[] = {
        {"no candidate", NULL, NULL, NULL, NULL, missing, NULL, E_NOT_FOUND, "candidate"},
        {"no baseline", NULL, NULL, NULL, NULL, NULL, missing, E_NOT_FOUND, "baseline"},
        {"no tokenizer", NULL, NULL, NULL, NULL, bare, NULL, E_INVALID, "tokenizer.json"},
        {"no documents", NULL, missing, NULL, NULL, NULL, NULL, E_NOT_FOUND, "missing"},
        {"documents empty", "\n \n", bad, NULL, NULL, NULL, NULL, E_INVALID, "no document"},
        {"document without text", "{\"text\":\"yes\"}\n\n{\"id\":\"x\"}\n", bad, NULL, NULL, NULL, NULL, E_INVALID, "line 3: a document needs text"},
        {"document no JSON", "{\"text\":\"yes\"\n", bad, NULL, NULL, NULL, NULL, E_INVALID, "line 1"},
        {"document no object", "[1]\n", bad, NULL, NULL, NULL, NULL, E_INVALID, "line 1: a row must be an object"},
        {"prompt without", "{\"question\":\"x\"}\n", NULL, bad, NULL, NULL, NULL, E_INVALID, "line 1: a row needs messages, or a prompt"},
        {"prompt of nothing", "{\"messages\":[]}\n", NULL, bad, NULL, NULL, NULL, E_INVALID, "line 1"},
        {"message without role", "{\"messages\":[{\"content\":\"x\"}]}\n", NULL, bad, NULL, NULL, NULL, E_INVALID, "message 0 needs role"},
        {"role with a newline", "{\"messages\":[{\"role\":\"a\\nb\",\"content\":\"x\"}]}\n", NULL, bad, NULL, NULL, NULL, E_INVALID, "line 1"},
        {"pair without rejected", "{\"prompt\":\"x\",\"chosen\":\"y\"}\n", NULL, NULL, bad, NULL, NULL, E_INVALID, "line 1: a pair needs"},
        {"pair of numbers", "{\"prompt\":\"x\",\"chosen\":1,\"rejected\":2}\n", NULL, NULL, bad, NULL, NULL, E_INVALID, "chosen"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error err = {0};
        if (cases[i].text) write_file(bad, cases[i].text);
        struct measure_paths p = paths_of(cases[i].candidate ? cases[i].candidate : other.path, cases[i].baseline ? cases[i].baseline : base.path);
        if (cases[i].documents) p.documents = cases[i].documents;
        if (cases[i].prompts) p.prompts = cases[i].prompts;
        if (cases[i].preferences) p.preferences = cases[i].preferences;
        int r = measure_evaluation(&p, &spec, NULL, &record, &err);
        if (r != cases[i].code || !strstr(err.message, cases[i].says)) fail_msg("%s: %d \"%s\"", cases[i].name, r, err.message);
        assert_true(span_eq(buf_span(&record), SPAN("before")));
    }
    static const struct {
        const char *param;
        uint32_t documents_max, prompts, sample_tokens;
        double temperature;
    } specs[] = {
        {"documents_max", 20001, 1, 1, 1}, {"prompts", 1, 20001, 1, 1}, {"sample_tokens", 1, 1, 0, 1}, {"sample_tokens", 1, 1, 65537, 1}, {"temperature", 1, 1, 1, 2.5}, {"temperature", 1, 1, 1, NAN},
    };
    struct measure_paths p = paths_of(other.path, base.path);
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++) {
        struct error err = {0};
        Genloop__V1__EvaluateSpec s = spec;
        s.documents_max = specs[i].documents_max;
        s.prompts = specs[i].prompts;
        s.sample_tokens = specs[i].sample_tokens;
        s.temperature = specs[i].temperature;
        assert_int_equal(measure_evaluation(&p, &s, NULL, &record, &err), E_INVALID);
        assert_string_equal(err.param, specs[i].param);
    }
    /* A record that does not fit leaves the buffer as it was. */
    struct buf small;
    struct error err = {0};
    buf_init(&small, 1000);
    buf_append_str(&small, "x");
    assert_int_equal(measure_evaluation(&p, &spec, NULL, &small, &err), E_FULL);
    assert_int_equal(small.len, 1);
    buf_fini(&small);
    buf_fini(&record);
}

static void test_stop(void **state) {
    (void)state;
    struct buf record;
    char path[PATH_SIZE];
    buf_init(&record, RECORD_MAX);
    struct measure_paths p = paths_of(other.path, base.path);
    uint64_t calls = 0;
    for (uint64_t stop_after = 1; stop_after < 160; stop_after += 22) {
        struct error err = {0};
        struct progress progress = {.stop_after = stop_after};
        struct measure_options o = {.arg = &progress, .on_progress = on_progress, .should_stop = should_stop};
        int r = measure_evaluation(&p, &spec, &o, &record, &err);
        calls += r == E_CANCELLED;
        if (r) assert_int_equal(r, E_CANCELLED);
        assert_int_equal(record.len > 0, r == 0);
        buf_clear(&record);
        assert_false(file_exists(at(path, "measure-documents.jsonl")));
        assert_false(file_exists(at(path, "measure-pairs.jsonl")));
    }
    assert_true(calls >= 3);
    buf_fini(&record);
}

/* Within a phase, not only between groups of texts: those of a large model take minutes. */
struct look {
    const char *phase; /* stops in it */
    bool in_phase;
    int looks;
    uint64_t begun_at, done;
};
static void look_progress(void *arg, const char *phase, uint64_t done, uint64_t total) {
    struct look *l = arg;
    (void)total;
    if (!l->in_phase && strcmp(phase, l->phase) == 0) {
        l->in_phase = true;
        l->begun_at = done;
    }
    l->done = done;
}
static bool look_stops(void *arg) {
    struct look *l = arg;
    return l->in_phase && ++l->looks >= 3;
}

static void test_stop_within(void **state) {
    (void)state;
    static const struct {
        const char *phase;
        uint64_t units; /* that it has */
    } cases[] = {{"documents", 20}, {"pairs", 25}, {"samples", 24}};
    struct buf record;
    buf_init(&record, RECORD_MAX);
    struct measure_paths p = paths_of(other.path, base.path);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error err = {0};
        struct look look = {.phase = cases[i].phase};
        struct measure_options o = {.sequences = 1, .arg = &look, .on_progress = look_progress, .should_stop = look_stops};
        int r = measure_evaluation(&p, &spec, &o, &record, &err);
        if (r != E_CANCELLED) fail_msg("%s: %d \"%s\" after %d looks", cases[i].phase, r, err.message, look.looks);
        assert_int_equal(record.len, 0);
        assert_in_range(look.done - look.begun_at, 0, cases[i].units);
        assert_int_equal(look.looks, 3); /* at once, not when the rest is done */
    }
    buf_fini(&record);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_record), cmocka_unit_test(test_equals_trainer), cmocka_unit_test(test_repeatable), cmocka_unit_test(test_without), cmocka_unit_test(test_budget), cmocka_unit_test(test_halves), cmocka_unit_test(test_halving), cmocka_unit_test(test_spoiled), cmocka_unit_test(test_errors), cmocka_unit_test(test_stop),
        cmocka_unit_test(test_stop_within),
    };
    return cmocka_run_group_tests_name("trainer_measure", tests, set_up, tear_down);
}
