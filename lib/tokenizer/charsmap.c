/*
 * The normalizer "Precompiled": SentencePiece's character map, a double-array trie (darts-clone: Yata et al. 2007, "A compact static double-array keeping character
 * codes") of what is replaced and a list of NUL-terminated strings. As the reference implementation has it: a grapheme shorter than six bytes is looked up whole,
 * then each of its characters, and the first (shortest) key that matches counts. Every step in the array is held to its size.
 */
#include <utf8proc.h>

#include "base/alloc.h"
#include "tokenizer/internal.h"

enum { CHARSMAP_MAX = 8 << 20, GRAPHEME_MAX = 6 };

int token_base64(struct span s, struct arena *arena, struct span *out) {
    char *bytes = arena_alloc(arena, s.len / 4 * 3 + 4);
    if (!bytes) return E_NOMEM;
    size_t len = 0;
    uint32_t bits = 0;
    unsigned have = 0;
    while (s.len && s.data[s.len - 1] == '=') s.len--;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.data[i];
        int v = c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' ? 62 : c == '/' ? 63 : -1;
        if (v < 0) return E_INVALID;
        bits = bits << 6 | (uint32_t)v;
        have += 6;
        if (have < 8) continue;
        have -= 8;
        bytes[len++] = (char)(uint8_t)(bits >> have);
    }
    *out = span_of(bytes, len);
    return 0;
}

int charsmap_parse(const struct json *v, const struct keep *keep, struct normalizer_step *s, struct error *err) {
    struct span text = json_string(json_get(v, "precompiled_charsmap")), map;
    if (text.len > CHARSMAP_MAX) return error_set(err, E_TOO_LARGE, "normalizer: precompiled_charsmap has more than %d bytes", CHARSMAP_MAX);
    int r = token_base64(text, keep->arena, &map);
    if (r == E_NOMEM) return error_set(err, r, "no memory for the tokenizer");
    uint32_t size = 0;
    if (!r && map.len >= 4) memcpy(&size, map.data, 4); /* little-endian, as every machine of ours */
    if (r || map.len < 4 || size % 4 || size > map.len - 4) return error_set(err, E_INVALID, "normalizer: precompiled_charsmap is no character map");
    uint32_t *trie = arena_alloc(keep->arena, size + 4u);
    if (!trie) return error_set(err, E_NOMEM, "no memory for the tokenizer");
    if (size) memcpy(trie, map.data + 4, size);
    s->trie = trie;
    s->trie_len = size / 4;
    s->content = span_skip(map, 4 + (size_t)size);
    if (!span_is_utf8(s->content)) return error_set(err, E_INVALID, "normalizer: the strings of precompiled_charsmap are no UTF-8");
    return 0;
}

/* What the shortest key that `key` begins with is replaced by. */
static bool transform(const struct normalizer_step *s, struct span key, struct span *by) {
    if (!s->trie_len) return false;
    size_t node = 0;
    uint32_t unit = s->trie[0];
    node ^= (size_t)(unit >> 10) << ((unit & (1u << 9)) >> 6);
    for (size_t i = 0; i < key.len; i++) {
        uint8_t c = (uint8_t)key.data[i];
        if (!c) return false;
        node ^= c;
        if (node >= s->trie_len) return false;
        unit = s->trie[node];
        if ((unit & (1u << 31 | 0xFF)) != c) return false;
        node ^= (size_t)(unit >> 10) << ((unit & (1u << 9)) >> 6);
        if (node >= s->trie_len) return false;
        if (unit >> 8 & 1) {
            size_t at = s->trie[node] & 0x7FFFFFFF;
            if (at > s->content.len) return false;
            struct span rest = span_skip(s->content, at);
            ptrdiff_t nul = span_find_char(rest, 0);
            *by = nul < 0 ? rest : span_sub(rest, 0, (size_t)nul);
            return span_is_utf8(*by); /* an index into the middle of a character is none */
        }
    }
    return false;
}

int charsmap_run(const struct normalizer_step *s, struct span text, struct normalized *n, struct error *err) {
    (void)err;
    int r = 0;
    size_t kept = 0;
    for (size_t at = 0, len; !r && at < text.len;) {
        uint32_t c = char_at(text.data + at, text.len - at, &len);
        size_t end = at + len;
        utf8proc_int32_t state = 0;
        while (end < text.len) {
            uint32_t d = char_at(text.data + end, text.len - end, &len);
            if (c < 0x80 && d < 0x80 ? !(c == '\r' && d == '\n') : utf8proc_grapheme_break_stateful((utf8proc_int32_t)c, (utf8proc_int32_t)d, &state)) break;
            end += len;
            c = d;
        }
        struct span by;
        if (end - at < GRAPHEME_MAX && transform(s, span_sub(text, at, end - at), &by)) {
            r = normalized_keep(n, text, kept, at);
            if (!r) r = normalized_put(n, by, at, end);
            kept = at = end;
            continue;
        }
        for (; !r && at < end; at += len) {
            (void)char_at(text.data + at, end - at, &len);
            if (!transform(s, span_sub(text, at, len), &by)) continue;
            r = normalized_keep(n, text, kept, at);
            if (!r) r = normalized_put(n, by, at, at + len);
            kept = at + len;
        }
    }
    return r ? r : normalized_keep(n, text, kept, text.len);
}
