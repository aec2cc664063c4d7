/* What the grammar files share; nobody else includes this. The builder keeps its first failure: who builds many pieces looks once, at the end. */
#ifndef GENLOOP_ENGINE_GRAMMAR_INTERNAL_H
#define GENLOOP_ENGINE_GRAMMAR_INTERNAL_H

#include "base/alloc.h"
#include "base/buf.h"
#include "engine/grammar.h"

#define GRAMMAR_FAR UINT32_MAX /* no way to the end */

/* --- the NFA (grammar_nfa.c) --- */

enum edge_kind { EDGE_FREE, EDGE_BYTES, EDGE_CALL, EDGE_BEGIN, EDGE_END }; /* BEGIN, END: ^ and $ of a pattern */
struct nfa_edge {
    uint32_t to, more; /* more: the node's next edge + 1; 0: none */
    uint32_t rule;
    uint8_t kind, low, high;
};
struct nfa_node {
    uint32_t edges; /* the first + 1 */
    bool inside;    /* inside a character (or at the end of a string): length does not count it */
};
struct nfa_rule {
    char *name;
    uint32_t start, end;
    uint32_t origin;      /* of a pattern: where ^ holds; 0: none */
    uint32_t last;        /* of a pattern: what $ must come to */
    bool counted, defined;
    uint32_t count_min, count_max; /* characters; UINT32_MAX: any */
};
struct builder {
    struct nfa_node *nodes; /* node 0 is nobody's */
    struct nfa_edge *edges;
    struct nfa_rule *rules; /* rule 0 is the whole */
    size_t node_count, node_capacity, edge_count, edge_capacity, rule_count, rule_capacity;
    uint64_t steps;
    int failed;
    struct error *err;
};
void builder_init(struct builder *b, struct error *err);
void builder_fini(struct builder *b);
int builder_fail(struct builder *b, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
bool builder_step(struct builder *b, uint64_t n); /* false: too many, or failed before */
uint32_t nfa_node(struct builder *b);
void nfa_free(struct builder *b, uint32_t from, uint32_t to);
void nfa_bytes(struct builder *b, uint32_t from, uint8_t low, uint8_t high, uint32_t to);
void nfa_call(struct builder *b, uint32_t from, uint32_t rule, uint32_t to);
void nfa_assert(struct builder *b, uint32_t from, enum edge_kind kind, uint32_t to);
uint32_t nfa_text(struct builder *b, uint32_t from, struct span text); /* returns where it ends */
/* A rule of the name, made where there is none. *made may be NULL. */
uint32_t nfa_rule(struct builder *b, struct span name, bool *made);
uint32_t nfa_rule_find(const struct builder *b, struct span name); /* UINT32_MAX: none */

/* Sets of characters. */
enum { CHARS_MAX = 512 };
struct chars {
    struct chars_range {
        uint32_t low, high;
    } ranges[CHARS_MAX];
    size_t count;
};
bool chars_add(struct chars *c, uint32_t low, uint32_t high); /* false: full */
void chars_settle(struct chars *c, bool negate);              /* sorted, joined, without surrogates */
/* How a character is written: as UTF-8; as in a JSON string, escaped the one usual way; or any way, \uXXXX too. */
enum writing { WRITE_PLAIN, WRITE_JSON, WRITE_JSON_ANY };
void nfa_chars(struct builder *b, uint32_t from, const struct chars *c, enum writing w, uint32_t to);
void nfa_any(struct builder *b, uint32_t from, enum writing w, uint32_t to);

/* {n,m} at *at: also * + ?. false: none there. max UINT32_MAX: no end. */
bool read_repeat(struct builder *b, struct span text, size_t *at, uint32_t *min, uint32_t *max);

/* --- languages: from `from`, returning where it ends --- */

/* A pattern; whole: it matches all of the text, else ^ and $ say so. Where `rule` has one, ^ and $ are kept as edges of it. */
uint32_t regex_build(struct builder *b, uint32_t from, struct span pattern, enum writing w, bool whole);
void gbnf_build(struct builder *b, struct span text);
void schema_build(struct builder *b, struct span text);
void schema_build_object(struct builder *b);
void choice_build(struct builder *b, struct span text);
/* grammar_number.c: numbers of at most GRAMMAR_DIGITS_MAX digits between bounds given as JSON texts; empty: none. */
struct number_bounds {
    bool has_low, has_high, low_open, high_open; /* open: exclusive */
    double low, high;
};
uint32_t number_build(struct builder *b, uint32_t from, bool integer, const struct number_bounds *bounds);

/* --- the automaton (grammar_fsm.c) --- */

struct fsm_edge {
    uint32_t next;
    uint8_t low, high;
};
struct fsm_call {
    uint32_t rule, next;
};
struct fsm_state {
    uint32_t edge_first, call_first;
    uint16_t edge_count, call_count;
    bool final;
    bool leaf;    /* final, and nothing goes on from it: who is called last need not come back */
    uint32_t far; /* bytes to the end of the rule, at least */
};
struct grammar {
    uint32_t refs; /* under the vocabulary's lock */
    uint64_t id, used;
    uint8_t digest[32];
    struct grammar_vocab *vocab;
    struct fsm_state *states;
    struct fsm_edge *edges;
    struct fsm_call *calls;
    uint32_t *starts; /* of each rule */
    size_t state_count, state_capacity, edge_count, edge_capacity, call_count, call_capacity, rule_count;
};
/* usable: the bytes that are tokens of their own. */
int fsm_build(struct grammar *g, struct builder *b, const bool usable[256]);
void fsm_fini(struct grammar *g);

#endif
