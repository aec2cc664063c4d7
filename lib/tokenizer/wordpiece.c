/*
 * Model WordPiece (Schuster and Nakajima 2012, "Japanese and Korean Voice Search"; as BERT has it): from the left, the longest token that fits, later ones under the
 * prefix ("##"); a word with a part that no token fits is one unknown token. A trie is walked once a token; its depth bounds what a walk in vain costs.
 */
#include "tokenizer/internal.h"

int wordpiece_encode_word(const struct tokenizer *t, struct span word, struct tokens *out, bool offsets, uint32_t base, struct error *err) {
    const struct wordpiece *m = &t->wordpiece;
    size_t characters = 0, first = out->len;
    int r = 0;
    for (size_t i = 0; i < word.len; i++) characters += ((uint8_t)word.data[i] & 0xC0) != 0x80;
    bool known = characters <= m->characters_max;
    for (size_t at = 0; !r && known && at < word.len;) {
        uint32_t node = at ? m->prefix_node : 0, id = 0;
        size_t end = at;
        bool lost = at && m->prefix.len && !node;
        for (size_t i = at; !lost && i < word.len; i++) {
            node = trie_step(&t->trie, node, (uint8_t)word.data[i]);
            if (!node) break;
            if (t->trie.ids[node]) {
                id = t->trie.ids[node];
                end = i + 1;
            }
        }
        known = id > 0;
        if (known) r = tokens_push(out, offsets, id - 1, base + (uint32_t)at, base + (uint32_t)end);
        at = end;
    }
    if (!r && !known) {
        out->len = first;
        if (t->unk == TOKEN_NONE) return error_set(err, E_INVALID, "the word \"%.*s\" is not in the vocabulary, which has no unknown token", SPAN_ARG(span_sub(word, 0, 60)));
        r = tokens_push(out, offsets, t->unk, base, base + (uint32_t)word.len);
    }
    return r ? error_set(err, r, "no memory for tokens") : 0;
}
