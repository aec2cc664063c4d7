/*
 * A place in a grammar, gone over byte by byte, and the masks of a place.
 *
 * A stack is a state and a frame; a frame is a state to return to and the frame below. Frames are found again by what they are (hash-consed), so that equal stacks are equal
 * pairs of numbers. Frame UNKNOWN stands for "whoever called" (masks of a state alone), frame END for the end of the answer. A stack is listed where its state reads a byte or is the end
 * of all; calls and returns are followed at once. Beyond DEPTH_SOFT frames only what comes nearer to the end is followed, so that nesting has an end; masks of a state alone
 * count only half of it, and are used only by stacks below the other half.
 */
#include "engine/grammar_vocab.h"

enum {
    FRAMES_MAX = 1 << 13,
    FRAME_TABLE = 1 << 14,
    DEPTH_SOFT = 256,
    WORK_MAX = 1 << 14,    /* stacks of all sets of a walk */
    SETS_MAX = 512,        /* of a walk, that are known at once */
    SET_TABLE = 4 * SETS_MAX,
    NOT_YET = UINT16_MAX,
    LOOKS = 8,             /* a set that was gone on from so often is asked which bytes leave it as it is */
    SEEN_MAX = 256,        /* calls and returns behind one byte */
    CLOSING_MAX = 1 << 16, /* bytes of a way to the end; of a longer one nothing is held */
    TOKEN_BYTES_MAX = 256,
    UNKNOWN = 0,
    END = 1,
};
#define AT_END UINT32_MAX /* the state of a stack that is at the end of all, or has left its rule under UNKNOWN */

struct frame {
    uint32_t state, below;
    uint32_t far; /* bytes to the end from where it returns to */
    uint32_t depth;
    uint64_t hash;
};
struct stack {
    uint32_t state, frame;
};

/*
 * Sets of a walk over the tokens. Mostly the same few come again and again (a word's letters all lead to the same one), so that where a set goes with a byte is worked out once and
 * then looked up: an automaton of sets, made as far as the walk needs it. Set 0 is the empty one.
 */
struct walk_set {
    uint32_t first, hash; /* of work */
    uint16_t len;
    uint16_t looks;
    bool left;            /* the rule may have been left: under UNKNOWN */
    uint32_t same;        /* byte classes all of whose bytes lead from it to itself; asked after some looks */
};

struct grammar_matcher {
    struct grammar *grammar;
    struct grammar_vocab *vocab;
    uint32_t tokens_left; /* of the answer */
    bool closing;         /* on the way to the end: there is one stack */
    bool unbounded;       /* no way fits: nothing is held */
    bool marked;
    uint32_t count, mark_count, mark_left;
    bool mark_closing;
    struct stack now[GRAMMAR_STACKS_MAX], mark[GRAMMAR_STACKS_MAX];
    struct frame *frames;
    uint32_t frame_count;
    uint32_t *table;    /* frame by hash; 0: none */
    struct stack *work; /* the stacks of the sets, one behind the other */
    uint32_t work_used, set_count;
    struct walk_set *sets; /* [SETS_MAX] */
    uint16_t *set_next;    /* [SETS_MAX, 256], NOT_YET where nobody asked */
    uint16_t *set_table;   /* [SET_TABLE] by hash; 0: none */
    uint64_t *bits, *own;
    uint32_t *deferred; /* [tokens] */
    uint8_t *way;       /* [CLOSING_MAX] */
};

/* --- stacks --- */

static uint64_t mix(uint64_t a, uint64_t b) {
    uint64_t h = (a ^ (b + 0x9E3779B97F4A7C15ull + (a << 6) + (a >> 2))) * 0xBF58476D1CE4E5B9ull;
    return h ^ h >> 29;
}

/* The frame that returns to `state` over `below`; UINT32_MAX where there is no room. */
static uint32_t push(struct grammar_matcher *m, uint32_t state, uint32_t below) {
    if (m->grammar->states[state].leaf) return below; /* nothing is to be done on return */
    uint64_t hash = mix(m->frames[below].hash, state);
    uint32_t at = hash & (FRAME_TABLE - 1);
    for (; m->table[at]; at = (at + 1) & (FRAME_TABLE - 1)) {
        const struct frame *f = &m->frames[m->table[at]];
        if (f->state == state && f->below == below) return m->table[at];
    }
    if (m->frame_count == FRAMES_MAX) return UINT32_MAX;
    uint64_t far = (uint64_t)m->grammar->states[state].far + m->frames[below].far;
    m->frames[m->frame_count] = (struct frame){state, below, far > GRAMMAR_FAR ? GRAMMAR_FAR : (uint32_t)far, m->frames[below].depth + 1, hash};
    m->table[at] = m->frame_count;
    return m->frame_count++;
}

static uint64_t far_of(const struct grammar_matcher *m, struct stack s) {
    return s.state == AT_END ? 0 : (uint64_t)m->grammar->states[s.state].far + m->frames[s.frame].far;
}

/* Lists a stack, with all that it comes to by calls and returns, in out[0..*n). limit: how far it may be from the end where it is deep. */
static void enter(struct grammar_matcher *m, struct stack first, uint64_t limit, uint32_t depth_soft, struct stack *out, uint32_t *n) {
    const struct grammar *g = m->grammar;
    struct stack seen[SEEN_MAX];
    uint32_t len = 1;
    seen[0] = first;
    for (uint32_t i = 0; i < len; i++) {
        struct stack s = seen[i];
        const struct fsm_state *state = s.state == AT_END ? NULL : &g->states[s.state];
        bool listed = (!state || state->edge_count > 0) && !(m->frames[s.frame].depth > depth_soft && far_of(m, s) >= limit);
        for (uint32_t k = 0; k < *n && listed; k++) listed = out[k].state != s.state || out[k].frame != s.frame;
        if (listed && *n < GRAMMAR_STACKS_MAX) out[(*n)++] = s;
        if (!state) continue;
        for (uint32_t c = 0; c <= state->call_count; c++) { /* the calls, then the return */
            struct stack next;
            if (c < state->call_count) {
                const struct fsm_call *call = &g->calls[state->call_first + c];
                next = (struct stack){g->starts[call->rule], push(m, call->next, s.frame)};
                if (next.frame == UINT32_MAX || m->frames[next.frame].depth > 2 * DEPTH_SOFT + 64) continue;
            } else if (!state->final) continue;
            else if (s.frame <= END) next = (struct stack){AT_END, s.frame};
            else next = (struct stack){m->frames[s.frame].state, m->frames[s.frame].below};
            uint32_t k = 0;
            while (k < len && !(seen[k].state == next.state && seen[k].frame == next.frame)) k++;
            if (k == len && len < SEEN_MAX) seen[len++] = next;
        }
    }
}

/* Over one byte. Returns how many stacks are left. */
static uint32_t step(struct grammar_matcher *m, const struct stack *in, uint32_t count, uint8_t byte, uint32_t depth_soft, struct stack *out) {
    const struct grammar *g = m->grammar;
    uint32_t n = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (in[i].state == AT_END) continue;
        const struct fsm_state *s = &g->states[in[i].state];
        uint32_t low = 0, high = s->edge_count;
        const struct fsm_edge *edges = g->edges + s->edge_first;
        while (low < high) {
            uint32_t mid = (low + high) / 2;
            if (edges[mid].high < byte) low = mid + 1;
            else high = mid;
        }
        if (low == s->edge_count || edges[low].low > byte) continue;
        const struct fsm_state *next = &g->states[edges[low].next];
        struct stack to = {edges[low].next, in[i].frame};
        if (count == 1 && next->call_count == 0 && !next->final && m->frames[to.frame].depth <= depth_soft) { /* mostly */
            out[0] = to;
            return 1;
        }
        enter(m, to, far_of(m, in[i]), depth_soft, out, &n);
    }
    return n;
}

/* Over a text; the places before are lost. 0 where it does not go. */
static uint32_t step_over(struct grammar_matcher *m, struct span text, struct stack *set, uint32_t count) {
    struct stack next[GRAMMAR_STACKS_MAX];
    for (size_t i = 0; i < text.len && count > 0; i++) {
        count = step(m, set, count, (uint8_t)text.data[i], DEPTH_SOFT, next);
        memcpy(set, next, count * sizeof *set);
    }
    return count;
}

/* Frames that no stack needs any more go. Moves frames, which a mark would not know. */
static void tidy(struct grammar_matcher *m) {
    if (m->marked || m->frame_count < FRAMES_MAX / 2) return;
    bool *used = mem_calloc(m->frame_count, sizeof *used);
    uint32_t *moved = mem_calloc(m->frame_count, sizeof *moved), n = 2;
    if (used && moved) {
        moved[UNKNOWN] = UNKNOWN;
        moved[END] = END;
        for (uint32_t i = 0; i < m->count; i++)
            for (uint32_t f = m->now[i].frame; f > END && !used[f]; f = m->frames[f].below) used[f] = true;
        memset(m->table, 0, FRAME_TABLE * sizeof *m->table);
        for (uint32_t f = 2; f < m->frame_count; f++) { /* what lies below was made before */
            if (!used[f]) continue;
            moved[f] = n;
            m->frames[n] = m->frames[f];
            m->frames[n].below = moved[m->frames[f].below];
            uint32_t at = m->frames[n].hash & (FRAME_TABLE - 1);
            while (m->table[at]) at = (at + 1) & (FRAME_TABLE - 1);
            m->table[at] = n++;
        }
        m->frame_count = n;
        for (uint32_t i = 0; i < m->count; i++) m->now[i].frame = moved[m->now[i].frame];
    }
    mem_free(used);
    mem_free(moved);
}

/* --- masks --- */

static bool at_end(const struct stack *set, uint32_t n, uint32_t frame) {
    for (uint32_t i = 0; i < n; i++)
        if (set[i].state == AT_END && set[i].frame == frame) return true;
    return false;
}

static void allow(uint64_t *bits, uint32_t token) { bits[token / 64] |= 1ull << (token % 64); }

/* --- sets of a walk --- */

static void sets_clear(struct grammar_matcher *m) {
    memset(m->set_table, 0, SET_TABLE * sizeof *m->set_table);
    m->set_count = 1;
    m->work_used = 0;
}

static void sets_place(struct grammar_matcher *m, uint32_t id) {
    uint32_t at = m->sets[id].hash & (SET_TABLE - 1);
    while (m->set_table[at]) at = (at + 1) & (SET_TABLE - 1);
    m->set_table[at] = (uint16_t)id;
    memset(m->set_next + (size_t)id * 256, 0xFF, 256 * sizeof *m->set_next);
}

/* The set's number; 0 where there is no room. */
static uint16_t sets_find(struct grammar_matcher *m, const struct stack *set, uint32_t n) {
    uint64_t mixed = n;
    for (uint32_t i = 0; i < n; i++) mixed = mix(mixed, (uint64_t)set[i].state << 32 | set[i].frame);
    uint32_t hash = (uint32_t)(mixed >> 16);
    for (uint32_t at = hash & (SET_TABLE - 1); m->set_table[at]; at = (at + 1) & (SET_TABLE - 1)) {
        const struct walk_set *s = &m->sets[m->set_table[at]];
        if (s->hash == hash && s->len == n && memcmp(m->work + s->first, set, n * sizeof *set) == 0) return m->set_table[at];
    }
    if (m->set_count == SETS_MAX || m->work_used + n > WORK_MAX) return 0;
    m->sets[m->set_count] = (struct walk_set){.first = m->work_used, .hash = hash, .len = (uint16_t)n, .left = at_end(set, n, UNKNOWN)};
    memcpy(m->work + m->work_used, set, n * sizeof *set);
    m->work_used += n;
    sets_place(m, m->set_count);
    return (uint16_t)m->set_count++;
}

/* Keeps those of the way alone, path[0 .. n). False where these fill half of the room by themselves. */
static bool sets_renew(struct grammar_matcher *m, uint16_t *path, uint32_t n) {
    uint16_t moved[SETS_MAX] = {0};
    uint32_t count = m->set_count;
    for (uint32_t i = 0; i < n; i++) moved[path[i]] = 1;
    sets_clear(m);
    for (uint32_t id = 1; id < count; id++) { /* in the order of their stacks, which move down */
        if (!moved[id]) continue;
        struct walk_set s = m->sets[id];
        memmove(m->work + m->work_used, m->work + s.first, s.len * sizeof *m->work);
        s.first = m->work_used;
        m->work_used += s.len;
        m->sets[m->set_count] = s;
        sets_place(m, m->set_count);
        moved[id] = (uint16_t)m->set_count++;
    }
    for (uint32_t i = 0; i < n; i++) path[i] = moved[path[i]];
    return m->set_count < SETS_MAX / 2 && m->work_used < WORK_MAX / 2;
}

/* From the last set of path[0 .. n) over a byte. */
static uint16_t sets_step(struct grammar_matcher *m, uint16_t *path, uint32_t n, uint8_t byte, uint32_t soft) {
    uint16_t *known = &m->set_next[(size_t)path[n - 1] * 256 + byte];
    if (*known != NOT_YET) return *known;
    struct stack set[GRAMMAR_STACKS_MAX];
    const struct walk_set *s = &m->sets[path[n - 1]];
    uint32_t got = step(m, m->work + s->first, s->len, byte, soft, set);
    uint16_t to = got ? sets_find(m, set, got) : 0;
    if (got && !to) {
        if (!sets_renew(m, path, n)) return 0; /* an absurd grammar loses these tokens */
        to = sets_find(m, set, got);
    }
    m->set_next[(size_t)path[n - 1] * 256 + byte] = to;
    return to;
}

/* Byte classes that leave the last set of the way as it is; none before it was looked at some times. */
static uint32_t sets_same(struct grammar_matcher *m, uint16_t *path, uint32_t n, uint32_t soft) {
    struct walk_set *s = &m->sets[path[n - 1]];
    if (s->looks > LOOKS) return s->same;
    if (s->looks++ < LOOKS) return 0;
    uint32_t differ = 0;
    for (uint32_t byte = 0; byte < 256; byte++) {
        if (differ >> BYTE_CLASS[byte] & 1) continue;
        uint16_t to = sets_step(m, path, n, (uint8_t)byte, soft); /* may give all of the way other numbers */
        if (to != path[n - 1]) differ |= 1u << BYTE_CLASS[byte];
    }
    s = &m->sets[path[n - 1]];
    return s->same = ~differ & ((1u << BYTE_CLASSES) - 1);
}

/*
 * The tokens that go on from a stack, into bits. Under UNKNOWN those that leave the rule are deferred: the nodes whose subtrees hold them, in their order; returns how many. With `only` the
 * subtrees of these nodes alone are gone over.
 */
static uint32_t walk(struct grammar_matcher *m, struct stack from, uint64_t *bits, uint32_t *deferred, const uint32_t *only, uint32_t only_count) {
    const struct grammar_vocab *v = m->vocab;
    uint32_t soft = deferred ? DEPTH_SOFT / 2 : DEPTH_SOFT, n = 0, next = 0, within = only ? 0 : UINT32_MAX; /* within: the end of the subtree in hand */
    uint16_t path[TOKEN_BYTES_MAX + 1];
    bool left[TOKEN_BYTES_MAX + 1]; /* the rule may have been left on the way here */
    sets_clear(m);
    path[0] = sets_find(m, &from, 1);
    left[0] = false;
    for (uint32_t i = 1; i < v->node_count;) {
        const struct trie_node *node = &v->nodes[i];
        uint32_t d = node->depth;
        if (i >= within) { /* on the way to the next of them */
            while (next < only_count && only[next] < i) next++; /* the way to these went nowhere */
            if (next == only_count) break;
            if (only[next] >= node->end) {
                i = node->end;
                continue;
            }
            if (only[next] == i) within = node->end;
        }
        if (i < within && (node->classes & ~m->sets[path[d - 1]].same) == 0) { /* nothing of the subtree leads anywhere else */
            for (uint32_t k = node->token_first; k < v->nodes[node->end].token_first; k++) allow(bits, v->order[k]);
            i = node->end;
            continue;
        }
        uint16_t to = sets_step(m, path, d, node->byte, soft);
        if (to == 0) {
            if (deferred && left[d - 1]) deferred[n++] = i;
            i = node->end;
            continue;
        }
        path[d] = to;
        left[d] = left[d - 1] || (deferred && m->sets[to].left);
        for (uint32_t k = node->token_first; i < within && k < node[1].token_first; k++) allow(bits, v->order[k]);
        (void)sets_same(m, path, d + 1, soft);
        i++;
    }
    return n;
}

static void mask_of_stack(struct grammar_matcher *m, struct stack s) {
    struct grammar_vocab *v = m->vocab;
    uint32_t n = 0;
    if (s.state == AT_END) return;
    if (m->frames[s.frame].depth > DEPTH_SOFT / 2) { /* so deep that it counts */
        walk(m, s, m->bits, NULL, NULL, 0);
        return;
    }
    if (!vocab_find_mask(v, m->grammar->id, s.state, 0, m->bits, m->deferred, &n, NULL)) {
        struct stack alone = {s.state, UNKNOWN};
        memset(m->own, 0, v->words * sizeof *m->own);
        n = walk(m, alone, m->own, m->deferred, NULL, 0);
        vocab_keep_mask(v, m->grammar->id, s.state, 0, m->own, m->deferred, n, 0);
        for (uint32_t i = 0; i < v->words; i++) m->bits[i] |= m->own[i];
    }
    if (n > 0) walk(m, s, m->bits, NULL, m->deferred, n);
}

uint32_t grammar_mask(struct grammar_matcher *m, const uint32_t *ends, size_t end_count, float *logits, uint32_t vocab) {
    struct grammar_vocab *v = m->vocab;
    uint64_t key = 1, check = 2;
    uint32_t allowed = 0;
    tidy(m);
    for (uint32_t i = 0; i < m->count; i++) {
        key = mix(key, mix(m->frames[m->now[i].frame].hash, m->now[i].state));
        check = mix(check, mix(m->now[i].state + 77u, m->frames[m->now[i].frame].hash * 31));
    }
    check |= 1; /* 0 is for states alone */
    memset(m->bits, 0, v->words * sizeof *m->bits);
    if (!vocab_find_mask(v, m->grammar->id, key, check, m->bits, NULL, NULL, &allowed)) {
        for (uint32_t i = 0; i < m->count; i++) mask_of_stack(m, m->now[i]);
        for (uint32_t i = 0; i < v->words; i++) allowed += (uint32_t)__builtin_popcountll(m->bits[i]);
        vocab_keep_mask(v, m->grammar->id, key, check, m->bits, NULL, 0, allowed);
    }
    bool may_end = grammar_may_end(m);
    for (size_t i = 0; i < end_count; i++) {
        if (ends[i] >= v->size) continue;
        bool is = m->bits[ends[i] / 64] >> (ends[i] % 64) & 1;
        if (is == may_end) continue;
        m->bits[ends[i] / 64] ^= 1ull << (ends[i] % 64);
        allowed = may_end ? allowed + 1 : allowed - 1;
    }
    for (uint32_t at = 0; at < vocab; at += 64) {
        uint64_t word = at / 64 < v->words ? m->bits[at / 64] : 0;
        uint32_t n = vocab - at < 64 ? vocab - at : 64;
        uint64_t all = n == 64 ? UINT64_MAX : (1ull << n) - 1, gone = all & ~word;
        if (__builtin_popcountll(gone) <= 32) { /* one by one what is less, those that go or those that stay */
            for (; gone; gone &= gone - 1) logits[at + (uint32_t)__builtin_ctzll(gone)] = GRAMMAR_MASKED;
        } else {
            float before[64];
            uint64_t stay = all & word;
            if (stay) memcpy(before, logits + at, n * sizeof *before);
            for (uint32_t i = 0; i < n; i++) logits[at + i] = GRAMMAR_MASKED;
            for (; stay; stay &= stay - 1) logits[at + (uint32_t)__builtin_ctzll(stay)] = before[__builtin_ctzll(stay)];
        }
    }
    return allowed;
}

/* --- the way to the end --- */

/* The bytes of the shortest way from a stack, and the stack, behind calls and returns, that reads the first; which one of equals is a matter of the state alone, so that the way from any place on it is the rest of it. */
static size_t way_of(struct grammar_matcher *m, struct stack s, struct stack *reads) {
    const struct grammar *g = m->grammar;
    size_t n = 0;
    if (far_of(m, s) > CLOSING_MAX) return SIZE_MAX;
    while (s.state != AT_END) {
        const struct fsm_state *state = &g->states[s.state];
        if (state->far == 0) {
            s = s.frame == END ? (struct stack){AT_END, END} : (struct stack){m->frames[s.frame].state, m->frames[s.frame].below};
            continue;
        }
        bool went = false;
        for (uint32_t i = 0; i < state->edge_count && !went; i++) {
            const struct fsm_edge *e = &g->edges[state->edge_first + i];
            if (g->states[e->next].far + 1 != state->far) continue;
            for (uint32_t c = e->low; c <= e->high && !went; c++) {
                if (!m->vocab->usable[c]) continue;
                if (n == CLOSING_MAX) return SIZE_MAX;
                if (n == 0) *reads = s;
                m->way[n++] = (uint8_t)c;
                s.state = e->next;
                went = true;
            }
        }
        for (uint32_t i = 0; i < state->call_count && !went; i++) {
            const struct fsm_call *c = &g->calls[state->call_first + i];
            if ((uint64_t)g->states[c->next].far + g->states[g->starts[c->rule]].far != state->far) continue;
            s = (struct stack){g->starts[c->rule], push(m, c->next, s.frame)};
            if (s.frame == UINT32_MAX) return SIZE_MAX;
            went = true;
        }
        if (!went) return SIZE_MAX;
    }
    return n;
}

/* The longest token that text begins with; TOKEN_NONE-like UINT32_MAX where there is none. */
static uint32_t longest(const struct grammar_vocab *v, const uint8_t *text, size_t n, size_t *len) {
    uint32_t best = UINT32_MAX, node = 0;
    for (size_t d = 0; d < n; d++) {
        uint32_t child = node + 1;
        while (child < v->nodes[node].end && v->nodes[child].byte != text[d]) child = v->nodes[child].end;
        if (child >= v->nodes[node].end) break;
        node = child;
        if (v->nodes[node].token_first < v->nodes[node + 1].token_first) {
            best = v->order[v->nodes[node].token_first];
            *len = d + 1;
        }
    }
    return best;
}

/* The shortest way of a set in tokens, each the longest that goes: UINT32_MAX where there is none. */
static uint32_t way_tokens(struct grammar_matcher *m, const struct stack *set, uint32_t count, uint32_t most, struct stack *which, uint32_t *first) {
    uint32_t best = 0, tokens = 0;
    if (count == 0) return UINT32_MAX;
    for (uint32_t i = 1; i < count; i++)
        if (far_of(m, set[i]) < far_of(m, set[best])) best = i;
    *which = set[best];
    size_t n = way_of(m, set[best], which), len = 0;
    if (n == SIZE_MAX) return UINT32_MAX;
    for (size_t at = 0; at < n && tokens <= most; at += len) {
        uint32_t token = longest(m->vocab, m->way + at, n - at, &len);
        if (token == UINT32_MAX) return UINT32_MAX;
        if (tokens++ == 0) *first = token;
    }
    return tokens;
}

uint32_t grammar_hold(struct grammar_matcher *m, uint32_t token) {
    struct stack set[GRAMMAR_STACKS_MAX], which;
    uint32_t first = token, left = m->tokens_left > 0 ? m->tokens_left - 1 : 0;
    if (m->unbounded || token >= m->vocab->size || vocab_bytes(m->vocab, token).len == 0) return token;
    if (!m->closing) {
        memcpy(set, m->now, m->count * sizeof *set);
        uint32_t count = step_over(m, vocab_bytes(m->vocab, token), set, m->count);
        for (uint32_t i = 0; i < count; i++)
            if (far_of(m, set[i]) <= left) return token; /* a byte is a token at most */
        if (way_tokens(m, set, count, left, &which, &first) <= left) return token;
        first = token;
    }
    uint32_t tokens = way_tokens(m, m->now, m->count, UINT32_MAX - 1, &which, &first);
    if (tokens == UINT32_MAX) return token;
    if (tokens == 0) return GRAMMAR_END;
    m->now[0] = which;
    m->count = 1;
    m->closing = true;
    return first;
}

/* --- an answer --- */

int grammar_matcher_new(struct grammar *g, uint32_t tokens_max, struct grammar_matcher **out) {
    struct grammar_matcher *m = mem_zalloc(sizeof *m);
    struct stack which;
    uint32_t first;
    if (!m) return E_NOMEM;
    pthread_mutex_lock(&g->vocab->lock);
    g->refs++;
    pthread_mutex_unlock(&g->vocab->lock);
    m->grammar = g;
    m->vocab = g->vocab;
    m->tokens_left = tokens_max;
    m->frames = mem_calloc(FRAMES_MAX, sizeof *m->frames);
    m->table = mem_calloc(FRAME_TABLE, sizeof *m->table);
    m->work = mem_calloc(WORK_MAX, sizeof *m->work);
    m->sets = mem_calloc(SETS_MAX, sizeof *m->sets);
    m->set_next = mem_calloc((size_t)SETS_MAX * 256, sizeof *m->set_next);
    m->set_table = mem_calloc(SET_TABLE, sizeof *m->set_table);
    m->bits = mem_calloc(m->vocab->words + 1, sizeof *m->bits);
    m->own = mem_calloc(m->vocab->words + 1, sizeof *m->own);
    m->deferred = mem_calloc((size_t)m->vocab->size + 1, sizeof *m->deferred);
    m->way = mem_alloc(CLOSING_MAX);
    if (!m->frames || !m->table || !m->work || !m->sets || !m->set_next || !m->set_table || !m->bits || !m->own || !m->deferred || !m->way) {
        grammar_matcher_free(m);
        return E_NOMEM;
    }
    m->frames[UNKNOWN].hash = 0x1234567;
    m->frames[END].hash = 0x89ABCDEF;
    m->frame_count = 2;
    enter(m, (struct stack){g->starts[0], END}, UINT64_MAX, DEPTH_SOFT, m->now, &m->count);
    m->unbounded = way_tokens(m, m->now, m->count, tokens_max, &which, &first) > tokens_max;
    *out = m;
    return 0;
}

void grammar_matcher_free(struct grammar_matcher *m) {
    if (!m) return;
    grammar_unref(m->grammar);
    mem_free(m->frames);
    mem_free(m->table);
    mem_free(m->work);
    mem_free(m->sets);
    mem_free(m->set_next);
    mem_free(m->set_table);
    mem_free(m->bits);
    mem_free(m->own);
    mem_free(m->deferred);
    mem_free(m->way);
    mem_free(m);
}

int grammar_accept(struct grammar_matcher *m, uint32_t token) {
    struct stack set[GRAMMAR_STACKS_MAX];
    if (token >= m->vocab->size || vocab_bytes(m->vocab, token).len == 0) return E_INVALID;
    memcpy(set, m->now, m->count * sizeof *set);
    uint32_t count = step_over(m, vocab_bytes(m->vocab, token), set, m->count);
    if (count == 0) return E_INVALID;
    memcpy(m->now, set, count * sizeof *set);
    m->count = count;
    if (m->tokens_left > 0) m->tokens_left--;
    return 0;
}

bool grammar_may_end(const struct grammar_matcher *m) { return at_end(m->now, m->count, END); }

bool grammar_must_end(const struct grammar_matcher *m) { return m->count == 1 && m->now[0].state == AT_END; }

void grammar_mark(struct grammar_matcher *m) {
    m->marked = false;
    tidy(m);
    memcpy(m->mark, m->now, m->count * sizeof *m->mark);
    m->mark_count = m->count;
    m->mark_left = m->tokens_left;
    m->mark_closing = m->closing;
    m->marked = true;
}

void grammar_rollback(struct grammar_matcher *m) {
    ASSERT(m->marked);
    memcpy(m->now, m->mark, m->mark_count * sizeof *m->now);
    m->count = m->mark_count;
    m->tokens_left = m->mark_left;
    m->closing = m->mark_closing;
    m->marked = false;
}

void grammar_commit(struct grammar_matcher *m) { m->marked = false; }
