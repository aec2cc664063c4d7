/*
 * bench_grammar --tokenizer tokenizer.json [--model DIR|FILE] [--threads N]
 * What structured output costs a token, of one thread: for a JSON schema, a regular expression and a GBNF grammar, an answer that fits is gone over token by token as the engine
 * does it (mask over the logits, hold, accept), first with empty caches and then again; with --model also as a share of a decode step of that model, measured in the same run.
 */
#include <stdlib.h>
#include <time.h>

#include "base/alloc.h"
#include "decode_step.h"
#include "engine/grammar.h"
#include "tokenizer/tokenizer.h"

static const struct {
    const char *name;
    enum grammar_kind kind;
    const char *text, *answer;
} rows[] = {
    {"JSON schema", GRAMMAR_JSON_SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":\"integer\"},\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}},"
     "\"address\":{\"type\":\"object\",\"properties\":{\"street\":{\"type\":\"string\"},\"city\":{\"enum\":[\"Paris\",\"Berlin\",\"Oslo\"]},\"zip\":{\"type\":\"string\",\"pattern\":\"^[0-9]{5}$\"}},"
     "\"required\":[\"street\",\"city\",\"zip\"],\"additionalProperties\":false}},\"required\":[\"name\",\"age\",\"tags\",\"address\"],\"additionalProperties\":false}",
     "{\"name\": \"Ada Lovelace, countess of the analytical engine\", \"age\": 36, \"tags\": [\"mathematician\", \"writer of the first programs\", \"Größe, 数学\"], "
     "\"address\": {\"street\": \"12 St James's Square, behind the green door\", \"city\": \"Paris\", \"zip\": \"75001\"}}"},
    {"any JSON object", GRAMMAR_JSON_OBJECT, "",
     "{\"one\": {\"two\": [1, 2.5, -38, true, null, \"a text of some words\"], \"three\": {}}, \"four\": [[], [\"nested\", {\"deep\": \"quite deep\"}]], \"five\": \"and a longer text at the end\"}"},
    {"regular expression", GRAMMAR_REGEX, "([A-Z][a-z]+ ){2,8}[0-9]{4}-[0-9]{2}-[0-9]{2}( (am|pm|noon))?[.!?]( [a-z ,]+)?", "Meeting Wednesday Afternoon Berlin 2024-05-17 noon. bring the reports, the slides and a pen"},
    {"GBNF", GRAMMAR_GBNF, "root ::= expr (\"\\n\" expr)*\nexpr ::= term (ws [-+*/] ws term)*\nterm ::= [0-9]+ | [a-z]+ | \"(\" ws expr ws \")\"\nws ::= \" \"?\n",
     "(alpha + 12) * beta - (34 / (gamma + 5))\nresult * (total - 1) + 100 / (count + 7)\nx + y"},
};

static struct span token_bytes(void *arg, uint32_t id) {
    const struct tokenizer *t = arg;
    return tokenizer_is_special(t, id) ? SPAN("") : tokenizer_token_bytes(t, id);
}

struct cost {
    double mean_us, worst_us;
};

/* Of this thread, so that what else the machine does is not counted. */
static int64_t processor_us(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int walk(struct grammar *g, const struct tokens *ids, const uint32_t *ends, uint32_t vocab, float *logits, struct cost *cost) {
    struct grammar_matcher *m;
    int64_t total = 0, worst = 0;
    int r = grammar_matcher_new(g, 4096, &m);
    for (size_t i = 0; !r && i < ids->len; i++) {
        for (uint32_t k = 0; k < vocab; k++) logits[k] = 0;
        int64_t from = processor_us();
        uint32_t allowed = grammar_mask(m, ends, 1, logits, vocab);
        uint32_t token = allowed && logits[ids->ids[i]] > -1 ? grammar_hold(m, ids->ids[i]) : GRAMMAR_END;
        r = token == ids->ids[i] ? grammar_accept(m, token) : E_INTERNAL;
        int64_t took = processor_us() - from;
        total += took;
        if (took > worst) worst = took;
    }
    if (!r) *cost = (struct cost){(double)total / (double)ids->len, (double)worst};
    grammar_matcher_free(m);
    return r;
}

int main(int argc, char **argv) {
    const char *model = NULL, *path = NULL;
    uint64_t threads = 0;
    struct tokenizer *t = NULL;
    struct tokens ids = {0};
    struct error err = {0};
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--model") == 0) model = value;
        else if (strcmp(argv[i], "--tokenizer") == 0) path = value;
        else if (strcmp(argv[i], "--threads") != 0 || span_to_u64(span_str(value), &threads) || threads > 1024) path = model = NULL, i = argc;
    }
    if (!path) {
        fprintf(stderr, "usage: bench_grammar --tokenizer tokenizer.json [--model DIR|FILE] [--threads N]\n");
        return 2;
    }
    double step_us = model ? decode_step_us(model, (int)threads) : 0;
    if (model && step_us <= 0) return 1;
    int r = tokenizer_load(path, &t, &err);
    if (r) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    uint32_t vocab = tokenizer_vocab_size(t), end = 0;
    while (end + 1 < vocab && !tokenizer_is_special(t, end)) end++;
    float *logits = mem_calloc(vocab, sizeof *logits);
    printf("%u ids%s", vocab, model ? "" : "\n");
    if (model) printf(", a decode step of %s: %.0f us\n", model, step_us);
    for (size_t i = 0; logits && !r && i < sizeof rows / sizeof rows[0]; i++) {
        struct grammar_vocab *v = NULL; /* each with caches of its own */
        struct grammar *g = NULL;
        struct cost first, again;
        tokens_clear(&ids);
        r = tokenizer_encode(t, span_str(rows[i].answer), TOKENIZER_NO_SPECIALS, &ids, &err);
        if (!r) r = grammar_vocab_new(&v, vocab, t, token_bytes, &err);
        int64_t from = processor_us();
        if (!r) r = grammar_compile(v, rows[i].kind, span_str(rows[i].text), &g, &err);
        double compile_ms = (double)(processor_us() - from) / 1e3;
        if (!r && (r = walk(g, &ids, &end, vocab, logits, &first)) == 0) r = walk(g, &ids, &end, vocab, logits, &again);
        if (r) fprintf(stderr, "%s: %s\n", rows[i].name, err.code ? err.message : "the answer does not fit");
        else {
            printf("  %-19s %3zu tokens, compiled in %.1f ms; a token first %.0f us (worst %.0f), again %.1f us (worst %.0f)", rows[i].name, ids.len, compile_ms, first.mean_us, first.worst_us,
                   again.mean_us, again.worst_us);
            if (step_us > 0) printf("; %.2f and %.2f %% of a step", 100 * first.mean_us / step_us, 100 * again.mean_us / step_us);
            printf("\n");
        }
        grammar_unref(g);
        grammar_vocab_free(v);
    }
    mem_free(logits);
    tokens_fini(&ids);
    tokenizer_free(t);
    return r ? 1 : 0;
}
