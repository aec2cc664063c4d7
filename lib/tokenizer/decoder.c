/*
 * Back from ids to text. For byte-level tokenizers a token's bytes are kept raw, so decoding is to join them and to say U+FFFD where they make no
 * UTF-8: one for each longest prefix of a valid character (Unicode, "U+FFFD Substitution of Maximal Subparts"), as Rust's from_utf8_lossy, which the
 * reference implementation uses. Whole texts go through the same machine as streams, so that the two can never differ.
 */
#include "tokenizer/internal.h"

int decoder_parse(const struct json *v, struct error *err) {
    struct span type = json_string(json_get(v, "type"));
    if (json_is_null(v)) return error_set(err, E_UNSUPPORTED, "decoder: none; only byte-level tokenizers are built");
    if (span_eq_str(type, "ByteLevel")) return 0;
    return error_set(err, E_UNSUPPORTED, "decoder: type %.*s is not built", SPAN_ARG(span_sub(type, 0, 60)));
}

void detokenizer_init(struct detokenizer *d, const struct tokenizer *t, bool skip_special) {
    *d = (struct detokenizer){.tokenizer = t, .skip_special = skip_special};
}

static const char replacement[] = "\xEF\xBF\xBD";

/* Whether `b` may follow held[0..len) in a valid character (Unicode 15, table 3-7). */
static bool may_follow(const uint8_t *held, unsigned len, uint8_t b) {
    if ((b & 0xC0) != 0x80) return false;
    if (len > 1) return true;
    switch (held[0]) {
    case 0xE0: return b >= 0xA0;
    case 0xED: return b <= 0x9F;
    case 0xF0: return b >= 0x90;
    case 0xF4: return b <= 0x8F;
    default: return true;
    }
}
static unsigned width(uint8_t lead) { return lead < 0xC2 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 1; }

static int push_bytes(struct detokenizer *d, struct span bytes, struct buf *out) {
    int r = 0;
    for (size_t i = 0; !r && i < bytes.len;) {
        uint8_t b = (uint8_t)bytes.data[i];
        if (d->held_len) {
            if (may_follow((const uint8_t *)d->held, d->held_len, b)) {
                d->held[d->held_len++] = (char)b;
                i++;
                if (d->held_len == width((uint8_t)d->held[0])) {
                    r = buf_append(out, d->held, d->held_len);
                    d->held_len = 0;
                }
            } else { /* b is looked at again, with nothing held */
                r = buf_append(out, replacement, 3);
                d->held_len = 0;
            }
        } else if (b < 0x80) {
            size_t end = i + 1;
            while (end < bytes.len && (uint8_t)bytes.data[end] < 0x80) end++;
            r = buf_append(out, bytes.data + i, end - i);
            i = end;
        } else {
            if (width(b) > 1) d->held[d->held_len++] = (char)b;
            else r = buf_append(out, replacement, 3);
            i++;
        }
    }
    return r;
}

int detokenizer_push(struct detokenizer *d, uint32_t id, struct buf *out) {
    const struct tokenizer *t = d->tokenizer;
    if (id >= t->entry_count || !t->entries[id].present) return 0;
    if (d->skip_special && t->entries[id].special) return 0;
    return push_bytes(d, t->entries[id].bytes, out);
}

int detokenizer_finish(struct detokenizer *d, struct buf *out) {
    int r = d->held_len ? buf_append(out, replacement, 3) : 0;
    d->held_len = 0;
    return r;
}

int tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t count, bool skip_special, struct buf *out) {
    struct detokenizer d;
    detokenizer_init(&d, t, skip_special);
    int r = 0;
    for (size_t i = 0; !r && i < count; i++) r = detokenizer_push(&d, ids[i], out);
    return r ? r : detokenizer_finish(&d, out);
}
