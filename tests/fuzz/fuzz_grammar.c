/* Schemas, patterns and grammars from outside: what compiles is walked over by masks, and every walk ends in a text that the grammar itself takes whole, byte by byte; of a schema, in JSON. The first byte
 * says which notation, the next eight seed the walk. */
#include "base/alloc.h"
#include "base/json.h"
#include "base/random.h"
#include "engine/grammar.h"

enum { V = 300, EOS = 299, TOKENS_MAX = 200 };
static const char *const LONGER[] = {"\", \"", "\": ", "{\"", "\"}", "[[", "true", "null", "abc", "12", "0.", "\xC3\xA9", "\\u00", "-1"};

static struct span bytes_of(void *arg, uint32_t id) {
    static char all[256];
    (void)arg;
    if (id >= 256) return id - 256 < sizeof LONGER / sizeof *LONGER ? span_str(LONGER[id - 256]) : SPAN("");
    all[id] = (char)id;
    return span_of(&all[id], 1);
}

static void walk(struct grammar *g, uint64_t seed, bool json) {
    static const uint32_t ends[] = {EOS};
    struct grammar_matcher *m, *again;
    struct random r;
    struct buf text;
    float logits[V];
    uint32_t most = grammar_shortest(g) + TOKENS_MAX;
    if (grammar_shortest(g) > 4096) return; /* a walk of it takes too long here */
    random_seed(&r, seed);
    buf_init(&text, 1 << 20);
    ASSERT(grammar_matcher_new(g, most, &m) == 0 && grammar_matcher_new(g, most, &again) == 0);
    for (uint32_t n = 0; n < most && !grammar_must_end(m); n++) {
        for (uint32_t i = 0; i < V; i++) logits[i] = 0;
        uint32_t allowed = grammar_mask(m, ends, 1, logits, V), token = 0;
        ASSERT(allowed > 0);
        uint64_t pick = random_below(&r, allowed);
        for (uint32_t i = 0; i < V; i++)
            if (logits[i] != GRAMMAR_MASKED && pick-- == 0) token = i;
        if (token != EOS) token = grammar_hold(m, token);
        if (token == EOS || token == GRAMMAR_END) {
            ASSERT(grammar_may_end(m));
            break;
        }
        ASSERT(grammar_accept(m, token) == 0);
        ASSERT(buf_append_span(&text, bytes_of(NULL, token)) == 0);
    }
    ASSERT(grammar_may_end(m));
    for (size_t i = 0; i < text.len; i++) ASSERT(grammar_accept(again, (uint8_t)buf_span(&text).data[i]) == 0);
    ASSERT(grammar_may_end(again));
    struct json *value = NULL;
    struct error err = {0};
    if (json && json_parse(buf_span(&text), &value, &err) != 0) ASSERT(span_find(span_str(err.message), SPAN("twice")) >= 0 || span_find(span_str(err.message), SPAN("nest")) >= 0);
    json_free(value);
    grammar_matcher_free(m);
    grammar_matcher_free(again);
    buf_fini(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const enum grammar_kind kinds[] = {GRAMMAR_JSON_SCHEMA, GRAMMAR_REGEX, GRAMMAR_GBNF, GRAMMAR_CHOICE};
    struct grammar_vocab *vocab;
    struct grammar *g = NULL;
    struct error err = {0};
    if (size < 9) return 0;
    enum grammar_kind kind = kinds[data[0] % 4];
    uint64_t seed;
    memcpy(&seed, data + 1, sizeof seed);
    ASSERT(grammar_vocab_new(&vocab, V, NULL, bytes_of, NULL) == 0);
    int r = grammar_compile(vocab, kind, span_of(data + 9, size - 9), &g, &err);
    if (r == 0) {
        walk(g, seed, kind == GRAMMAR_JSON_SCHEMA);
        walk(g, ~seed, kind == GRAMMAR_JSON_SCHEMA);
        grammar_unref(g);
    } else ASSERT(err.code == r && err.message[0]);
    grammar_vocab_free(vocab);
    return 0;
}
