/*
 * Structured output: what an answer may be, as an automaton over bytes, and at each token the mask of those that may come next.
 *
 *     JSON Schema ┐                                             ┌ rules: one deterministic automaton each over bytes and calls of rules
 *     regex       ├─► NFA over bytes and calls ─► subsets ─► struct grammar
 *     GBNF, words ┘   (grammar_nfa.c)          (grammar_fsm.c)  └ of each state the fewest bytes to the end, so that any answer can be closed
 *
 *     struct grammar + struct grammar_vocab (the tokens as a trie) ─► struct grammar_matcher: one answer's place in it (grammar_match.c)
 *
 * A matcher's place is a set of stacks (mostly one), each a state and the states to return to; stacks are hash-consed, so that a set is small and its hash is its
 * meaning. Masks, after Dong et al. 2024 (XGrammar): of each state the tokens that stay inside its rule are classified once, whatever called it, those that leave the rule are
 * kept as a list and tried with the stack at hand; the mask of a whole place is kept too. Both caches are one, of a byte limit, least recently used goes.
 *
 * An answer always ends: JSON has no free whitespace (", " and ": " as Python's json.dumps) and at most 16 digits in a number; and a token after which the shortest way
 * to the end, in tokens, would be longer than what is left of max_tokens is replaced by the first of the shortest way from where the answer is. Where max_tokens is below
 * the shortest answer there is nothing to hold, and the answer is cut.
 *
 * Threads: grammar and vocab are shared and may be used by any thread; a matcher by one at a time. The token path allocates nothing but cached masks.
 */
#ifndef GENLOOP_ENGINE_GRAMMAR_H
#define GENLOOP_ENGINE_GRAMMAR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/span.h"

enum {
    GRAMMAR_TEXT_MAX = 1 << 20,    /* bytes of a schema, pattern or grammar; published schemas stay below 100 kB */
    GRAMMAR_STATES_MAX = 1 << 17,  /* of all rules; 131,072 × some 40 bytes */
    GRAMMAR_NODES_MAX = 1 << 19,   /* of the NFA, before it is made deterministic */
    GRAMMAR_RULES_MAX = 4096,
    GRAMMAR_DEPTH_MAX = 64,        /* nesting of a schema, of groups in a pattern or grammar */
    GRAMMAR_REPEAT_MAX = 4096,     /* {n,m}, minItems, maxItems */
    GRAMMAR_STRING_MAX = 8192,     /* minLength, maxLength */
    GRAMMAR_DIGITS_MAX = 16,       /* of a number: what a double holds */
    GRAMMAR_CHOICES_MAX = 4096,
    GRAMMAR_STACKS_MAX = 64,       /* at once; an ambiguous grammar loses what is beyond */
    GRAMMAR_STEPS_MAX = 1 << 27,   /* of compiling: a second or so, then it is refused */
    GRAMMAR_CACHE_BYTES = 64 << 20, /* masks of one vocabulary */
    GRAMMAR_KEPT_MAX = 64,         /* compiled grammars that wait for their next use */
};

struct grammar_vocab;
struct grammar;
struct grammar_matcher;

/* Tokens that never come (special ones, ids that are none) are left out. `bytes` of id, borrowed for the call, empty where it is none. */
int grammar_vocab_new(struct grammar_vocab **vocab, uint32_t size, void *arg, struct span (*bytes)(void *arg, uint32_t id), struct error *err);
void grammar_vocab_free(struct grammar_vocab *vocab); /* after all grammars and matchers; NULL is accepted */

enum grammar_kind {
    GRAMMAR_NONE,
    GRAMMAR_JSON_SCHEMA, /* docs/api.md lists the keywords */
    GRAMMAR_JSON_OBJECT, /* any object; text is not looked at */
    GRAMMAR_REGEX,       /* the whole answer matches */
    GRAMMAR_GBNF,        /* llama.cpp's notation, from `root` */
    GRAMMAR_CHOICE,      /* a JSON list of strings: one of them */
};
/* Compiles, or finds what was compiled before: returns a reference. E_INVALID: wrong in itself; E_UNSUPPORTED: a keyword or construct that is not built, by name; E_TOO_LARGE:
 * a limit. Messages say where. */
int grammar_compile(struct grammar_vocab *vocab, enum grammar_kind kind, struct span text, struct grammar **g, struct error *err);
void grammar_unref(struct grammar *g); /* NULL is accepted */
uint32_t grammar_states(const struct grammar *g);
uint32_t grammar_shortest(const struct grammar *g); /* bytes */

/* An answer from its beginning, of at most tokens_max tokens. Takes a reference of its own. */
int grammar_matcher_new(struct grammar *g, uint32_t tokens_max, struct grammar_matcher **m);
void grammar_matcher_free(struct grammar_matcher *m); /* NULL is accepted */
/* Masked logits become this: below all that a model says, far from infinity. */
#define GRAMMAR_MASKED (-1e30f)
/* Sets the logits of tokens that may not come to GRAMMAR_MASKED. ends: tokens that end an answer, allowed where the grammar may end. Returns how many tokens are allowed. */
uint32_t grammar_mask(struct grammar_matcher *m, const uint32_t *ends, size_t end_count, float *logits, uint32_t vocab);
/* The token, or the one that the way to the end begins with, where the way from `token` would not fit what is left. GRAMMAR_END: the answer is whole as it is, and ends. */
#define GRAMMAR_END UINT32_MAX
uint32_t grammar_hold(struct grammar_matcher *m, uint32_t token);
/* Goes over a token. E_INVALID, and nothing changed, where it may not come. */
int grammar_accept(struct grammar_matcher *m, uint32_t token);
bool grammar_may_end(const struct grammar_matcher *m);  /* the text so far is whole */
bool grammar_must_end(const struct grammar_matcher *m); /* and nothing can follow */

/* For runs that may be taken back (speculation): one mark at a time. */
void grammar_mark(struct grammar_matcher *m);
void grammar_rollback(struct grammar_matcher *m); /* to the mark, which is gone then */
void grammar_commit(struct grammar_matcher *m);   /* the mark is gone */

#endif
