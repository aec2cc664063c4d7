/*
 * Each rule's NFA made deterministic over bytes (subsets, Rabin and Scott 1959), a call being a letter of its own; then what every state is from the end of its rule, and
 * what cannot come to an end is cut off.
 *
 * A pattern's ^ is followed only where nothing of the pattern has been read (the set was entered at its origin), and what is behind a $ may only come to the pattern's
 * last node. A counted rule (minLength, maxLength) has the count of whole characters in its states; bytes inside a character belong to nodes marked `inside`, and as UTF-8 and escapes are read
 * the same way by all nodes of a set, a set is inside or it is not.
 */
#include <stdlib.h>

#include "engine/grammar_internal.h"

struct set {
    uint32_t first, len; /* of the pool */
    uint32_t count;      /* characters */
    uint64_t hash;
};
struct subsets {
    struct builder *b;
    const struct nfa_rule *rule;
    uint32_t *pool; /* nodes of all sets, sorted */
    size_t pool_len, pool_capacity;
    struct set *sets;
    size_t set_count, set_capacity;
    uint32_t *table; /* set + 1 by hash */
    size_t table_size;
    uint32_t *seen;  /* [nodes], the round in which it was put into the closure */
    uint32_t *after; /* [nodes], behind a $ */
    uint32_t round;
    uint32_t *closure, *stack; /* [nodes] */
    size_t closure_len;
};

static int no_memory(struct builder *b) { return builder_fail(b, E_NOMEM, "no memory for a grammar"); }

static int compare_u32(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* All that is reached from the targets without a byte. */
static void close_over(struct subsets *s, const uint32_t *targets, size_t n) {
    struct builder *b = s->b;
    size_t depth = 0;
    bool at_origin = false, last = false;
    s->round++;
    s->closure_len = 0;
    for (size_t i = 0; i < n; i++) {
        at_origin |= s->rule->origin != 0 && targets[i] == s->rule->origin;
        if (s->seen[targets[i]] == s->round) continue;
        s->seen[targets[i]] = s->round;
        s->closure[s->closure_len++] = s->stack[depth++] = targets[i];
    }
    size_t behind = 0; /* nodes behind a $ lie at the end of the stack's room, so that they are gone over afterwards */
    while (depth > 0) {
        uint32_t node = s->stack[--depth];
        for (uint32_t e = b->nodes[node].edges; e; e = b->edges[e - 1].more) {
            const struct nfa_edge *edge = &b->edges[e - 1];
            builder_step(b, 1);
            if (edge->kind == EDGE_END && s->after[edge->to] != s->round) {
                s->after[edge->to] = s->round;
                s->stack[2 * b->node_count - ++behind] = edge->to;
            }
            if (edge->kind != EDGE_FREE && !(edge->kind == EDGE_BEGIN && at_origin)) continue;
            if (s->seen[edge->to] == s->round) continue;
            s->seen[edge->to] = s->round;
            s->closure[s->closure_len++] = s->stack[depth++] = edge->to;
        }
    }
    while (behind > 0) {
        uint32_t node = s->stack[2 * b->node_count - behind--];
        last |= node == s->rule->last;
        for (uint32_t e = b->nodes[node].edges; e; e = b->edges[e - 1].more) {
            const struct nfa_edge *edge = &b->edges[e - 1];
            builder_step(b, 1);
            if (edge->kind != EDGE_FREE && edge->kind != EDGE_END && !(edge->kind == EDGE_BEGIN && at_origin)) continue;
            if (s->after[edge->to] == s->round) continue;
            s->after[edge->to] = s->round;
            s->stack[2 * b->node_count - ++behind] = edge->to;
        }
    }
    if (last && s->seen[s->rule->last] != s->round) {
        s->seen[s->rule->last] = s->round;
        s->closure[s->closure_len++] = s->rule->last;
        for (uint32_t e = b->nodes[s->rule->last].edges; e; e = b->edges[e - 1].more) /* only at a rule whose end is its last node by a free edge */
            if (b->edges[e - 1].kind == EDGE_FREE && s->seen[b->edges[e - 1].to] != s->round && b->edges[e - 1].to == s->rule->end) {
                s->seen[s->rule->end] = s->round;
                s->closure[s->closure_len++] = s->rule->end;
            }
    }
}

/* What a set of targets is as a state: UINT32_MAX where nothing is left of it, or on failure. */
static uint32_t set_of(struct subsets *s, const uint32_t *targets, size_t n, uint32_t count) {
    struct builder *b = s->b;
    const struct nfa_rule *rule = s->rule;
    close_over(s, targets, n);
    if (rule->counted) {
        bool whole = false;
        for (size_t i = 0; i < n; i++) whole |= !b->nodes[targets[i]].inside;
        if (whole && count != 0) count++; /* 0: the string has not begun; its first set has 1 */
        if (whole && count == 0) count = 1;
        uint32_t most = rule->count_max == UINT32_MAX ? UINT32_MAX : rule->count_max + 1;
        if (count > most) return UINT32_MAX;
        if (rule->count_max == UINT32_MAX && count > rule->count_min + 1) count = rule->count_min + 1;
    }
    if (b->failed || s->closure_len == 0) return UINT32_MAX;
    qsort(s->closure, s->closure_len, sizeof *s->closure, compare_u32);
    if (!builder_step(b, s->closure_len)) return UINT32_MAX;
    uint64_t hash = span_hash(span_of(s->closure, s->closure_len * sizeof *s->closure)) ^ (count * 0x9E3779B97F4A7C15ull);
    size_t mask = s->table_size - 1, at = hash & mask;
    for (; s->table_size > 0 && s->table[at]; at = (at + 1) & mask) {
        const struct set *known = &s->sets[s->table[at] - 1];
        if (known->hash == hash && known->count == count && known->len == s->closure_len && memcmp(s->pool + known->first, s->closure, s->closure_len * sizeof *s->closure) == 0)
            return s->table[at] - 1;
    }
    if (s->set_count >= GRAMMAR_STATES_MAX) return (void)builder_fail(b, E_TOO_LARGE, "it is too large: more than %d states", GRAMMAR_STATES_MAX), UINT32_MAX;
    if (array_reserve(&s->sets, &s->set_capacity, s->set_count + 1, sizeof *s->sets) != 0 ||
        array_reserve(&s->pool, &s->pool_capacity, s->pool_len + s->closure_len, sizeof *s->pool) != 0)
        return (void)no_memory(b), UINT32_MAX;
    memcpy(s->pool + s->pool_len, s->closure, s->closure_len * sizeof *s->closure);
    s->sets[s->set_count++] = (struct set){(uint32_t)s->pool_len, (uint32_t)s->closure_len, count, hash};
    s->pool_len += s->closure_len;
    if (2 * s->set_count > s->table_size) { /* made again, twice as large */
        size_t size = s->table_size ? 2 * s->table_size : 64;
        uint32_t *table = mem_calloc(size, sizeof *table);
        if (!table) return (void)no_memory(b), UINT32_MAX;
        for (size_t i = 0; i < s->set_count; i++) {
            size_t k = s->sets[i].hash & (size - 1);
            while (table[k]) k = (k + 1) & (size - 1);
            table[k] = (uint32_t)i + 1;
        }
        mem_free(s->table);
        s->table = table;
        s->table_size = size;
    } else s->table[at] = (uint32_t)s->set_count;
    return (uint32_t)s->set_count - 1;
}

/* The edges of one set, collected. */
struct letters {
    struct letter {
        uint32_t key; /* low byte, or 256 + rule */
        uint32_t high, to;
    } *items;
    size_t len, capacity;
};

static int compare_letters(const void *a, const void *b) {
    const struct letter *x = a, *y = b;
    return x->key != y->key ? (x->key > y->key) - (x->key < y->key) : (x->to > y->to) - (x->to < y->to);
}

static int emit_edge(struct grammar *g, struct fsm_state *state, uint32_t low, uint32_t high, uint32_t next) {
    if (state->edge_count > 0) {
        struct fsm_edge *before = &g->edges[g->edge_count - 1];
        if (before->next == next && before->high + 1u == low) {
            before->high = (uint8_t)high;
            return 0;
        }
    }
    int r = array_reserve(&g->edges, &g->edge_capacity, g->edge_count + 1, sizeof *g->edges);
    if (r != 0) return r;
    g->edges[g->edge_count++] = (struct fsm_edge){next, (uint8_t)low, (uint8_t)high};
    state->edge_count++;
    return 0;
}

static void expand_set(struct subsets *s, struct grammar *g, struct letters *letters, uint32_t *targets, size_t at, uint32_t base) {
    struct builder *b = s->b;
    struct set set = s->sets[at];
    struct fsm_state state = {.edge_first = (uint32_t)g->edge_count, .call_first = (uint32_t)g->call_count};
    letters->len = 0;
    size_t bytes = 0;
    bool short_of = s->rule->counted && set.count < s->rule->count_min + 1;
    for (uint32_t i = 0; i < set.len; i++) {
        uint32_t node = s->pool[set.first + i];
        state.final |= node == s->rule->end;
        if (node == s->rule->last && short_of) continue; /* the string may not close yet */
        for (uint32_t e = b->nodes[node].edges; e; e = b->edges[e - 1].more) {
            const struct nfa_edge *edge = &b->edges[e - 1];
            builder_step(b, 1);
            if (edge->kind != EDGE_BYTES && edge->kind != EDGE_CALL) continue;
            if (array_reserve(&letters->items, &letters->capacity, letters->len + 1, sizeof *letters->items) != 0) {
                no_memory(b);
                return;
            }
            bytes += edge->kind == EDGE_BYTES;
            letters->items[letters->len++] = edge->kind == EDGE_BYTES ? (struct letter){edge->low, edge->high, edge->to} : (struct letter){256 + edge->rule, 0, edge->to};
        }
    }
    if (b->failed) return;
    if (letters->len > 1) qsort(letters->items, letters->len, sizeof *letters->items, compare_letters);
    /* Bytes: between two borders all are alike. */
    for (uint32_t low = 0; low < 256 && bytes > 0 && !b->failed;) {
        size_t n = 0;
        uint32_t high = 255;
        for (size_t i = 0; i < bytes; i++) {
            const struct letter *l = &letters->items[i];
            if (l->key > low) {
                if (l->key - 1 < high) high = l->key - 1;
            } else if (l->high >= low) {
                targets[n++] = l->to;
                if (l->high < high) high = l->high;
            }
        }
        builder_step(b, bytes);
        if (n > 0) {
            uint32_t next = set_of(s, targets, n, set.count);
            if (next != UINT32_MAX && emit_edge(g, &state, low, high, base + next) != 0) no_memory(b);
        }
        low = high + 1;
    }
    for (size_t i = bytes; i < letters->len && !b->failed;) {
        size_t n = 0;
        uint32_t rule = letters->items[i].key - 256;
        for (; i < letters->len && letters->items[i].key - 256 == rule; i++) targets[n++] = letters->items[i].to;
        uint32_t next = set_of(s, targets, n, set.count);
        if (next == UINT32_MAX) continue;
        if (state.call_count == UINT16_MAX || array_reserve(&g->calls, &g->call_capacity, g->call_count + 1, sizeof *g->calls) != 0) {
            no_memory(b);
            return;
        }
        g->calls[g->call_count++] = (struct fsm_call){rule, base + next};
        state.call_count++;
    }
    if (b->failed) return;
    if (g->state_count >= GRAMMAR_STATES_MAX) {
        builder_fail(b, E_TOO_LARGE, "it is too large: more than %d states", GRAMMAR_STATES_MAX);
        return;
    }
    if (array_reserve(&g->states, &g->state_capacity, g->state_count + 1, sizeof *g->states) != 0) {
        no_memory(b);
        return;
    }
    g->states[g->state_count++] = state;
}

static void build_rule(struct grammar *g, struct subsets *s, struct letters *letters, uint32_t *targets, size_t i) {
    s->rule = &s->b->rules[i];
    s->set_count = s->pool_len = 0;
    if (s->table_size > 0) memset(s->table, 0, s->table_size * sizeof *s->table);
    uint32_t base = (uint32_t)g->state_count;
    g->starts[i] = base;
    if (!s->rule->defined) {
        builder_fail(s->b, E_INVALID, "the rule '%s' is used and never defined", s->rule->name);
        return;
    }
    bool inside = s->rule->counted; /* the quote before a counted string is no character of it */
    if (inside) s->b->nodes[s->rule->start].inside = true;
    set_of(s, &s->rule->start, 1, 0);
    for (size_t at = 0; at < s->set_count && !s->b->failed; at++) expand_set(s, g, letters, targets, at, base);
}

/* --- the way to the end --- */

static uint32_t far_add(uint32_t a, uint32_t b) { return a >= GRAMMAR_FAR - b ? GRAMMAR_FAR : a + b; }

static uint32_t far_of(const struct grammar *g, const struct fsm_state *s, const bool usable[256]) {
    uint32_t best = s->final ? 0 : GRAMMAR_FAR;
    for (uint32_t i = 0; i < s->edge_count; i++) {
        const struct fsm_edge *e = &g->edges[s->edge_first + i];
        uint32_t far = far_add(g->states[e->next].far, 1);
        if (far >= best) continue;
        bool any = false;
        for (uint32_t c = e->low; c <= e->high && !any; c++) any = usable[c];
        if (any) best = far;
    }
    for (uint32_t i = 0; i < s->call_count; i++) {
        const struct fsm_call *c = &g->calls[s->call_first + i];
        uint32_t far = far_add(g->states[c->next].far, g->states[g->starts[c->rule]].far);
        if (far < best) best = far;
    }
    return best;
}

/* States are numbered as they were found, so that most ways lead to higher numbers: from the end, a few rounds do. */
static void measure(struct grammar *g, struct builder *b, const bool usable[256]) {
    for (size_t i = 0; i < g->state_count; i++) g->states[i].far = GRAMMAR_FAR;
    for (bool changed = true; changed && builder_step(b, g->state_count + g->edge_count);) {
        changed = false;
        for (size_t i = g->state_count; i-- > 0;) {
            uint32_t far = far_of(g, &g->states[i], usable);
            changed |= far != g->states[i].far;
            g->states[i].far = far;
        }
    }
}

/* Leaves out what comes to no end. */
static void prune(struct grammar *g) {
    for (size_t i = 0; i < g->state_count; i++) {
        struct fsm_state *s = &g->states[i];
        uint16_t n = 0;
        for (uint32_t k = 0; k < s->edge_count; k++) {
            struct fsm_edge e = g->edges[s->edge_first + k];
            if (g->states[e.next].far != GRAMMAR_FAR) g->edges[s->edge_first + n++] = e;
        }
        s->edge_count = n;
        n = 0;
        for (uint32_t k = 0; k < s->call_count; k++) {
            struct fsm_call c = g->calls[s->call_first + k];
            if (g->states[c.next].far != GRAMMAR_FAR && g->states[g->starts[c.rule]].far != GRAMMAR_FAR) g->calls[s->call_first + n++] = c;
        }
        s->call_count = n;
        s->leaf = s->final && s->edge_count == 0 && s->call_count == 0;
    }
}

/* A rule that comes to itself before a byte would be entered forever. Colours as in any depth-first search; the way is kept by hand. */
static void refuse_left_recursion(struct grammar *g, struct builder *b) {
    size_t n = g->state_count;
    uint8_t *colour = mem_calloc(n ? n : 1, 1);
    struct {
        uint32_t state, next;
    } *way = mem_calloc(n ? n : 1, sizeof *way);
    if (!colour || !way) {
        no_memory(b);
        goto out;
    }
    /* Edges of the search: from a state to the start of a rule that it calls, and past a call of a rule that may be empty. */
    for (size_t root = 0; root < n && !b->failed; root++) {
        if (colour[root]) continue;
        size_t depth = 0;
        way[depth].state = (uint32_t)root;
        way[depth].next = 0;
        colour[root] = 1;
        for (;;) {
            const struct fsm_state *s = &g->states[way[depth].state];
            uint32_t k = way[depth].next++;
            if (!builder_step(b, 1)) break;
            if (k >= 2u * s->call_count) {
                colour[way[depth].state] = 2;
                if (depth-- == 0) break;
                continue;
            }
            const struct fsm_call *c = &g->calls[s->call_first + k / 2];
            uint32_t to = k % 2 == 0 ? g->starts[c->rule] : c->next;
            if (k % 2 == 1 && !g->states[g->starts[c->rule]].final) continue;
            if (k % 2 == 1 && to == way[depth].state) continue; /* a rule that may be empty, repeated: nothing is gained by it, and the matcher sees that */
            if (colour[to] == 1) {
                size_t rule = b->rule_count - 1;
                while (rule > 0 && g->starts[rule] > to) rule--;
                builder_fail(b, E_INVALID, "the rule '%s' begins with itself (left recursion): write the repetition with * instead", b->rules[rule].name);
                break;
            }
            if (colour[to] == 2) continue;
            colour[to] = 1;
            depth++;
            way[depth].state = to;
            way[depth].next = 0;
        }
    }
out:
    mem_free(colour);
    mem_free(way);
}

int fsm_build(struct grammar *g, struct builder *b, const bool usable[256]) {
    struct subsets s = {.b = b};
    struct letters letters = {0};
    uint32_t *targets = NULL;
    if (b->failed) return b->failed;
    g->rule_count = b->rule_count;
    g->starts = mem_calloc(b->rule_count, sizeof *g->starts);
    s.seen = mem_calloc(b->node_count, sizeof *s.seen);
    s.after = mem_calloc(b->node_count, sizeof *s.after);
    s.closure = mem_calloc(b->node_count + 1, sizeof *s.closure);
    s.stack = mem_calloc(2 * b->node_count + 1, sizeof *s.stack);
    targets = mem_calloc(b->edge_count + 1, sizeof *targets);
    if (!g->starts || !s.seen || !s.after || !s.closure || !s.stack || !targets) no_memory(b);
    for (size_t i = 0; i < b->rule_count && !b->failed; i++) build_rule(g, &s, &letters, targets, i);
    if (!b->failed) measure(g, b, usable);
    if (!b->failed && g->states[g->starts[0]].far == GRAMMAR_FAR)
        builder_fail(b, E_INVALID, "nothing satisfies it%s", b->rule_count > 1 ? ", or it has no end" : "");
    if (!b->failed) {
        prune(g);
        refuse_left_recursion(g, b);
    }
    mem_free(s.pool);
    mem_free(s.sets);
    mem_free(s.table);
    mem_free(s.seen);
    mem_free(s.after);
    mem_free(s.closure);
    mem_free(s.stack);
    mem_free(letters.items);
    mem_free(targets);
    return b->failed;
}

void fsm_fini(struct grammar *g) {
    mem_free(g->states);
    mem_free(g->edges);
    mem_free(g->calls);
    mem_free(g->starts);
}
