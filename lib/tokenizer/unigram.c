/*
 * Model Unigram (Kudo 2018, "Subword Regularization"): the segmentation with the highest sum of log-probabilities, by Viterbi's algorithm over the ends of tokens.
 * Scores are added as doubles in the order of the reference implementation, so that ties fall as they do there. A character that no token fits costs the unknown
 * token's score; neighbours that are unknown are one. Time is the text's length times the depth of the trie.
 */
#include "base/alloc.h"
#include "tokenizer/internal.h"

struct best {
    double score;
    uint32_t id, from; /* id + 1; 0: nothing ends here */
};
struct unigram_scratch {
    struct best *best; /* by end */
    size_t best_capacity;
    struct token_offset *path; /* from the end */
    uint32_t *ids;
    size_t path_capacity, ids_capacity;
};

struct unigram_scratch *unigram_scratch_new(void) { return mem_zalloc(sizeof(struct unigram_scratch)); }
void unigram_scratch_free(struct unigram_scratch *s) {
    if (!s) return;
    mem_free(s->best);
    mem_free(s->path);
    mem_free(s->ids);
    mem_free(s);
}

/* A token's text that stands for itself, or as bytes, or unknown. */
static int push(const struct tokenizer *t, struct span text, uint32_t id, struct tokens *out, bool offsets, uint32_t base) {
    int r = 0;
    if (id == TOKEN_NONE && t->byte_fallback) {
        bool all = true;
        for (size_t i = 0; all && i < text.len; i++) all = t->byte_ids[(uint8_t)text.data[i]] != TOKEN_NONE;
        if (all) {
            for (size_t i = 0; !r && i < text.len; i++) r = tokens_push(out, offsets, t->byte_ids[(uint8_t)text.data[i]], base + (uint32_t)i, base + (uint32_t)i + 1);
            return r;
        }
    }
    return tokens_push(out, offsets, id == TOKEN_NONE ? t->unk : id, base, base + (uint32_t)text.len);
}

int unigram_encode_word(const struct tokenizer *t, struct unigram_scratch *s, struct span word, struct tokens *out, bool offsets, uint32_t base, struct error *err) {
    size_t n = word.len;
    int r = array_reserve(&s->best, &s->best_capacity, n + 1, sizeof s->best[0]);
    if (r) return error_set(err, r, "no memory for tokens");
    struct best *best = s->best;
    memset(best, 0, (n + 1) * sizeof best[0]);
    for (size_t at = 0, len; at < n; at += len) {
        (void)char_at(word.data + at, n - at, &len);
        double here = best[at].score;
        bool single = false;
        uint32_t node = 0;
        for (size_t i = at; i < n; i++) {
            node = trie_step(&t->trie, node, (uint8_t)word.data[i]);
            if (!node) break;
            uint32_t id = t->trie.ids[node];
            if (!id) continue;
            double score = t->unigram.scores[id - 1] + here;
            struct best *b = &best[i + 1];
            if (!b->id || score > b->score) *b = (struct best){score, id, (uint32_t)at};
            single |= i + 1 - at == len;
        }
        if (!single) {
            if (t->unk == TOKEN_NONE) return error_set(err, E_INVALID, "the text has a character that is not in the vocabulary, which has no unknown token");
            double score = t->unigram.unk_score + here;
            struct best *b = &best[at + len];
            if (!b->id || score > b->score) *b = (struct best){score, t->unk + 1, (uint32_t)at};
        }
    }
    size_t count = 0;
    for (size_t end = n; end > 0; end = best[end].from) {
        uint32_t from = best[end].from, id = best[end].id - 1;
        bool unknown = id == t->unk;
        if (unknown && count && s->ids[count - 1] == TOKEN_NONE && s->path[count - 1].start == end) { /* joins the unknown one behind it */
            s->path[count - 1].start = from;
            continue;
        }
        r = array_reserve(&s->path, &s->path_capacity, count + 1, sizeof s->path[0]);
        if (!r) r = array_reserve(&s->ids, &s->ids_capacity, count + 1, sizeof s->ids[0]);
        if (r) return error_set(err, r, "no memory for tokens");
        s->path[count] = (struct token_offset){from, (uint32_t)end};
        s->ids[count++] = unknown ? TOKEN_NONE : id;
    }
    while (!r && count-- > 0) {
        struct token_offset o = s->path[count];
        struct span text = span_sub(word, o.start, o.end - o.start);
        uint32_t id = s->ids[count];
        if (id == TOKEN_NONE) id = tokenizer_find_model(t, text); /* several unknown ones together may be a token's text, as may the unknown token's own */
        r = push(t, text, id, out, offsets, base + o.start);
    }
    return r ? error_set(err, r, "no memory for tokens") : 0;
}
