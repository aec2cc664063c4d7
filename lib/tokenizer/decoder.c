/*
 * Back from ids to text: a chain of steps as the file lists them. Up to a step that makes one text of all (ByteLevel, Fuse) each works on one token's text; behind it
 * on a stream. Whole texts go through the same machine as streams, so that the two can never differ. Bytes that make no UTF-8 become U+FFFD: in ByteLevel one for each
 * longest prefix of a valid character (Unicode, "U+FFFD Substitution of Maximal Subparts"), as Rust's from_utf8_lossy, which the reference implementation uses; in
 * ByteFallback, as there, one for each byte of a run of byte tokens that is not valid whole.
 */
#include "base/alloc.h"
#include "tokenizer/internal.h"

static const char replacement[] = "\xEF\xBF\xBD";
enum { DECODED_MAX = 1 << 30 }; /* bytes that a step may hold */

/* ---- reading ---- */

static int keep_text(const struct json *v, const char *key, const char *otherwise, const struct keep *keep, struct span *text, struct error *err) {
    const struct json *value = json_get(v, key);
    struct span s = json_is_null(value) && otherwise ? span_str(otherwise) : json_string(value);
    if (json_type(value) != JSON_TYPE_STRING && !(json_is_null(value) && otherwise)) return error_set(err, E_INVALID, "decoder: \"%s\" must be a string", key);
    if (s.len > TOKENIZER_TOKEN_BYTES_MAX) return error_set(err, E_TOO_LARGE, "decoder: \"%s\" has more than %d bytes", key, TOKENIZER_TOKEN_BYTES_MAX);
    *text = arena_span(keep->arena, s);
    return text->data ? 0 : error_set(err, E_NOMEM, "no memory for the tokenizer");
}

static int parse_none(const struct json *v, const struct keep *keep, struct decoder_step *s, struct error *err) {
    (void)v, (void)keep, (void)s, (void)err;
    return 0;
}
static int parse_replace(const struct json *v, const struct keep *keep, struct decoder_step *s, struct error *err) {
    int r = pattern_parse(json_get(v, "pattern"), "decoder: Replace", true, keep, &s->pattern, err);
    if (!r) r = keep_text(v, "content", NULL, keep, &s->text, err);
    if (r || !s->fused) return r;
    if (s->pattern.regex || s->pattern.string.len > 255)
        return error_set(err, E_UNSUPPORTED, "decoder: Replace behind Fuse with a regular expression, or a string longer than 255 bytes, is not built");
    size_t n = s->pattern.string.len;
    s->border = arena_alloc(keep->arena, n + 1);
    if (!s->border) return error_set(err, E_NOMEM, "no memory for the tokenizer");
    for (size_t i = 1, k = 0; i < n; i++) {
        while (k && s->pattern.string.data[i] != s->pattern.string.data[k]) k = s->border[k - 1];
        if (s->pattern.string.data[i] == s->pattern.string.data[k]) k++;
        s->border[i] = (uint8_t)k;
    }
    return 0;
}
static int parse_metaspace(const struct json *v, const struct keep *keep, struct decoder_step *s, struct error *err) {
    const struct json *old = json_get(v, "add_prefix_space");
    s->flag = !span_eq_str(json_string(json_get(v, "prepend_scheme")), "never") && (json_is_null(old) || json_bool(old, true));
    int r = keep_text(v, "replacement", NULL, keep, &s->text, err);
    uint32_t c;
    if (!r && span_utf8_decode(s->text, &c) != s->text.len) r = error_set(err, E_INVALID, "decoder: a replacement must be one character");
    if (!r && !s->text.len) r = error_set(err, E_INVALID, "decoder: a replacement must be one character");
    return r;
}
static int parse_wordpiece(const struct json *v, const struct keep *keep, struct decoder_step *s, struct error *err) {
    s->flag = json_bool(json_get(v, "cleanup"), true);
    return keep_text(v, "prefix", "##", keep, &s->text, err);
}
static int parse_bpe(const struct json *v, const struct keep *keep, struct decoder_step *s, struct error *err) {
    int r = keep_text(v, "suffix", "</w>", keep, &s->text, err);
    return !r && !s->text.len ? error_set(err, E_INVALID, "decoder: BPEDecoder with an empty suffix") : r;
}
static int parse_strip(const struct json *v, const struct keep *keep, struct decoder_step *s, struct error *err) {
    int64_t start = json_int(json_get(v, "start"), 0), stop = json_int(json_get(v, "stop"), 0);
    uint32_t c;
    if (start < 0 || stop < 0 || start > 65535 || stop > 65535) return error_set(err, E_INVALID, "decoder: Strip's start and stop must be 0 to 65535");
    s->start = (uint32_t)start;
    s->stop = (uint32_t)stop;
    int r = keep_text(v, "content", NULL, keep, &s->text, err);
    if (!r && (!s->text.len || span_utf8_decode(s->text, &c) != s->text.len)) r = error_set(err, E_INVALID, "decoder: Strip's content must be one character");
    return r;
}

static const struct {
    const char *type;
    enum decoder_kind kind;
    int (*parse)(const struct json *v, const struct keep *keep, struct decoder_step *s, struct error *err);
    bool tokens_only; /* has no meaning for a text that is one already */
} kinds[] = {
    {"ByteLevel", DECODER_BYTE_LEVEL, parse_none, true}, {"Replace", DECODER_REPLACE, parse_replace, false}, {"Metaspace", DECODER_METASPACE, parse_metaspace, true},
    {"WordPiece", DECODER_WORDPIECE, parse_wordpiece, true}, {"BPEDecoder", DECODER_BPE, parse_bpe, true}, {"ByteFallback", DECODER_BYTE_FALLBACK, parse_none, true},
    {"Fuse", DECODER_FUSE, parse_none, false}, {"Strip", DECODER_STRIP, parse_strip, false},
};

static int parse_one(const struct json *v, const struct keep *keep, struct decoder *d, struct error *err) {
    struct span type = json_string(json_get(v, "type"));
    if (d->count == DECODER_STEPS_MAX) return error_set(err, E_UNSUPPORTED, "decoder: more than %d steps", DECODER_STEPS_MAX);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (span_eq_str(type, kinds[i].type)) {
            struct decoder_step *s = &d->steps[d->count];
            const struct decoder_step *before = d->count ? &d->steps[d->count - 1] : NULL;
            *s = (struct decoder_step){.kind = kinds[i].kind};
            s->fused = before && (before->fused || before->kind == DECODER_FUSE || before->kind == DECODER_BYTE_LEVEL);
            if (s->fused && kinds[i].tokens_only) return error_set(err, E_UNSUPPORTED, "decoder: %s behind Fuse or ByteLevel is not built", kinds[i].type);
            d->count++;
            return kinds[i].parse(v, keep, s, err);
        }
    return error_set(err, E_UNSUPPORTED, "decoder: type %.*s is not built", SPAN_ARG(span_sub(type, 0, 60)));
}

int decoder_parse(const struct json *v, bool byte_level, const struct keep *keep, struct decoder *d, struct error *err) {
    *d = (struct decoder){.count = 0};
    int r = 0;
    if (json_is_null(v)) {
        d->steps[d->count++] = (struct decoder_step){.kind = DECODER_JOIN};
    } else if (span_eq_str(json_string(json_get(v, "type")), "Sequence")) {
        const struct json *list = json_get(v, "decoders");
        for (size_t i = 0; !r && i < json_size(list); i++) r = parse_one(json_at(list, i), keep, d, err);
    } else {
        r = parse_one(v, keep, d, err);
    }
    d->plain = byte_level && d->count == 1 && d->steps[0].kind == DECODER_BYTE_LEVEL;
    return r;
}

/* ---- what steps do to one token's text ---- */

int byte_token(struct span s) {
    if (s.len != 6 || s.data[0] != '<' || s.data[1] != '0' || s.data[2] != 'x' || s.data[5] != '>') return -1;
    uint8_t byte;
    return hex_decode(span_sub(s, 3, 2), &byte) ? -1 : byte;
}

static int replace(const struct pattern *p, struct span by, struct span s, struct buf *out) {
    size_t at = 0, start, end;
    int found;
    while ((found = pattern_find(p, s, at, &start, &end, NULL)) > 0) {
        buf_append_span(out, span_sub(s, at, start - at));
        buf_append_span(out, by);
        at = end;
    }
    if (found < 0) return found;
    buf_append_span(out, span_skip(s, at));
    return out->failed;
}

/* English punctuation that WordPiece has put a space before (tokenizers' cleanup, one replacement after the other). In place: nothing grows. */
static void cleanup(struct buf *b) {
    static const char *const pairs[][2] = {{" .", "."},     {" ?", "?"},            {" !", "!"},     {" ,", ","},      {" ' ", "'"},    {" n't", "n't"},
                                           {" 'm", "'m"},   {" do not", " don't"},  {" 's", "'s"},   {" 've", "'ve"},  {" 're", "'re"}};
    char *data = b->data + b->start;
    for (size_t i = 0; b->len && i < sizeof pairs / sizeof pairs[0]; i++) {
        struct span from = span_str(pairs[i][0]), to = span_str(pairs[i][1]);
        size_t read = 0, write = 0;
        while (read < b->len) {
            if (b->len - read >= from.len && memcmp(data + read, from.data, from.len) == 0) {
                memcpy(data + write, to.data, to.len);
                write += to.len;
                read += from.len;
            } else {
                data[write++] = data[read++];
            }
        }
        b->len = write;
    }
}

static int wordpiece(const struct decoder_step *s, bool first, struct span text, struct buf *out) {
    if (!first) {
        if (span_starts(text, s->text)) text = span_skip(text, s->text.len);
        else buf_append_char(out, ' ');
    }
    buf_append_span(out, text);
    if (s->flag && !out->failed && span_find_char(buf_span(out), ' ') >= 0) cleanup(out);
    return out->failed;
}

static struct span strip(const struct decoder_step *s, struct span text) {
    for (uint32_t i = 0; i < s->start && span_starts(text, s->text); i++) text = span_skip(text, s->text.len);
    for (uint32_t i = 0; i < s->stop && span_ends(text, s->text); i++) text.len -= s->text.len;
    return text;
}

void decoder_scratch_init(struct decoder_scratch *s) {
    buf_init(&s->a, DECODED_MAX);
    buf_init(&s->b, DECODED_MAX);
}
void decoder_scratch_fini(struct decoder_scratch *s) {
    buf_fini(&s->a);
    buf_fini(&s->b);
}

int decoder_shown(const struct tokenizer *t, uint32_t id, struct decoder_scratch *scratch, struct buf *out) {
    const struct decoder *d = &t->decoder;
    struct buf a = scratch->a, b = scratch->b;
    buf_clear(&a);
    struct span text = tokenizer_entry_text(t, id, &a);
    if (buf_span(&a).data != text.data) buf_append_span(&a, text);
    int r = a.failed;
    for (size_t i = 0; !r && i < d->count && !d->steps[i].fused; i++) {
        const struct decoder_step *s = &d->steps[i];
        text = buf_span(&a);
        buf_clear(&b);
        bool raw;
        char *room;
        switch (s->kind) {
        case DECODER_REPLACE: r = replace(&s->pattern, s->text, text, &b); break;
        case DECODER_METASPACE: r = replace(&(struct pattern){.string = s->text}, SPAN(" "), text, &b); break;
        case DECODER_BPE: r = replace(&(struct pattern){.string = s->text}, SPAN(" "), text, &b); break;
        case DECODER_WORDPIECE: r = wordpiece(s, false, text, &b); break;
        case DECODER_JOIN:
            buf_append_char(&b, ' ');
            r = buf_append_span(&b, text);
            break;
        case DECODER_BYTE_FALLBACK: {
            int byte = byte_token(text);
            r = byte < 0 ? buf_append_span(&b, text) : buf_append_char(&b, (char)byte);
            break;
        }
        case DECODER_BYTE_LEVEL:
            room = buf_reserve(&b, text.len + 1);
            if (room) buf_commit(&b, alphabet_read(text, room, &raw));
            r = b.failed;
            break;
        case DECODER_STRIP: r = buf_append_span(&b, strip(s, text)); break;
        case DECODER_FUSE: r = buf_append_span(&b, text); break;
        }
        struct buf swap = a;
        a = b;
        b = swap;
    }
    if (!r) r = buf_append_span(out, buf_span(&a));
    *scratch = (struct decoder_scratch){a, b};
    return r;
}

/* ---- the machine ---- */

void detokenizer_init(struct detokenizer *d, const struct tokenizer *t, bool skip_special) {
    *d = (struct detokenizer){.tokenizer = t, .skip_special = skip_special};
    for (size_t i = 0; i < DECODER_STEPS_MAX; i++) buf_init(&d->steps[i].text, DECODED_MAX);
    buf_init(&d->scratch, DECODED_MAX);
}
void detokenizer_fini(struct detokenizer *d) {
    for (size_t i = 0; i < DECODER_STEPS_MAX; i++) buf_fini(&d->steps[i].text);
    buf_fini(&d->scratch);
}

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

static int feed(struct detokenizer *d, size_t step, struct span text, struct buf *out);

static int push_bytes(struct detokenizer *d, size_t step, struct span bytes, struct buf *out) {
    int r = 0;
    for (size_t i = 0; !r && i < bytes.len;) {
        uint8_t b = (uint8_t)bytes.data[i];
        if (d->held_len) {
            if (may_follow((const uint8_t *)d->held, d->held_len, b)) {
                d->held[d->held_len++] = (char)b;
                i++;
                if (d->held_len == width((uint8_t)d->held[0])) {
                    r = feed(d, step + 1, span_of(d->held, d->held_len), out);
                    d->held_len = 0;
                }
            } else { /* b is looked at again, with nothing held */
                r = feed(d, step + 1, span_of(replacement, 3), out);
                d->held_len = 0;
            }
        } else if (b < 0x80) {
            size_t end = i + 1;
            while (end < bytes.len && (uint8_t)bytes.data[end] < 0x80) end++;
            r = feed(d, step + 1, span_of(bytes.data + i, end - i), out);
            i = end;
        } else {
            if (width(b) > 1) d->held[d->held_len++] = (char)b;
            else r = feed(d, step + 1, span_of(replacement, 3), out);
            i++;
        }
    }
    return r;
}

/* Replace in a stream: what of the string has been seen is held as its length. */
static int stream_replace(struct detokenizer *d, size_t step, struct span text, struct buf *out) {
    const struct decoder_step *s = &d->tokenizer->decoder.steps[step];
    struct span p = s->pattern.string;
    uint32_t held = d->steps[step].held;
    struct buf *made = &d->steps[step].text;
    buf_clear(made);
    for (size_t i = 0; i < text.len; i++) {
        while (held && text.data[i] != p.data[held]) { /* the front of what is held is text after all */
            uint32_t shorter = s->border[held - 1];
            buf_append(made, p.data, held - shorter);
            held = shorter;
        }
        if (text.data[i] == p.data[held]) held++;
        else buf_append_char(made, text.data[i]);
        if (held == p.len) {
            buf_append_span(made, s->text);
            held = 0;
        }
    }
    d->steps[step].held = held;
    return made->failed ? made->failed : feed(d, step + 1, buf_span(made), out);
}

/* Strip in a stream: `seen` counts what was taken from the begin (all of start once something else came), `held` what may have to go from the end. */
static int stream_strip(struct detokenizer *d, size_t step, struct span text, struct buf *out) {
    const struct decoder_step *s = &d->tokenizer->decoder.steps[step];
    uint32_t *seen = &d->steps[step].seen, *held = &d->steps[step].held;
    int r = 0;
    while (*seen < s->start && text.len) {
        if (!span_starts(text, s->text)) *seen = s->start;
        else {
            text = span_skip(text, s->text.len);
            ++*seen;
        }
    }
    if (!text.len) return 0;
    if (!s->stop) return feed(d, step + 1, text, out);
    size_t tail = text.len;
    uint32_t count = 0;
    while (tail >= s->text.len && count < s->stop && span_ends(span_sub(text, 0, tail), s->text)) {
        tail -= s->text.len;
        count++;
    }
    uint32_t give = tail ? *held : *held + count > s->stop ? *held + count - s->stop : 0; /* held ones that are not the last */
    for (uint32_t i = 0; !r && i < give; i++) r = feed(d, step + 1, s->text, out);
    *held = *held - give + count;
    return r || !tail ? r : feed(d, step + 1, span_sub(text, 0, tail), out);
}

static int byte_run_end(struct detokenizer *d, size_t step, struct buf *out) {
    struct buf *run = &d->steps[step].text;
    if (!run->len) return 0;
    if (!span_is_utf8(buf_span(run))) {
        size_t n = run->len;
        buf_clear(run);
        for (size_t i = 0; i < n; i++) buf_append(run, replacement, 3);
        if (run->failed) return run->failed;
    }
    int r = feed(d, step + 1, buf_span(run), out);
    buf_clear(run);
    return r;
}

/* BPEDecoder holds one token: the suffix of the last is nothing, of the others a space. */
static int bpe_held(struct detokenizer *d, size_t step, struct span by, struct buf *out) {
    struct buf *held = &d->steps[step].text, made;
    buf_init(&made, DECODED_MAX);
    int r = replace(&(struct pattern){.string = d->tokenizer->decoder.steps[step].text}, by, buf_span(held), &made);
    if (!r) r = feed(d, step + 1, buf_span(&made), out);
    buf_fini(&made);
    buf_clear(held);
    return r;
}

/* Gives `text` (one token's, or a piece of the stream) to a step. Calls itself for the next one: DECODER_STEPS_MAX deep. */
static int feed(struct detokenizer *d, size_t step, struct span text, struct buf *out) {
    const struct decoder *dec = &d->tokenizer->decoder;
    if (step == dec->count) return buf_append_span(out, text);
    const struct decoder_step *s = &dec->steps[step];
    struct buf *made = &d->steps[step].text;
    int r = 0, byte;
    bool first = d->steps[step].seen == 0;
    switch (s->kind) {
    case DECODER_BYTE_LEVEL:
        if (d->tokenizer->byte_level && step == 0) return push_bytes(d, step, text, out); /* a token's bytes, as they are kept */
        buf_clear(made);
        char *room = buf_reserve(made, text.len + 1);
        bool raw;
        if (!room) return made->failed;
        buf_commit(made, alphabet_read(text, room, &raw));
        return push_bytes(d, step, buf_span(made), out);
    case DECODER_REPLACE:
        if (s->fused) return stream_replace(d, step, text, out);
        buf_clear(made);
        r = replace(&s->pattern, s->text, text, made);
        return r ? r : feed(d, step + 1, buf_span(made), out);
    case DECODER_METASPACE:
        d->steps[step].seen = 1;
        buf_clear(made);
        r = replace(&(struct pattern){.string = s->text}, first && s->flag ? SPAN("") : SPAN(" "), text, made);
        return r ? r : feed(d, step + 1, buf_span(made), out);
    case DECODER_WORDPIECE:
        d->steps[step].seen = 1;
        buf_clear(made);
        r = wordpiece(s, first, text, made);
        return r ? r : feed(d, step + 1, buf_span(made), out);
    case DECODER_JOIN:
        d->steps[step].seen = 1;
        r = first ? 0 : feed(d, step + 1, SPAN(" "), out);
        return r ? r : feed(d, step + 1, text, out);
    case DECODER_BPE:
        if (!first) r = bpe_held(d, step, SPAN(" "), out);
        d->steps[step].seen = 1;
        return r ? r : buf_append_span(made, text);
    case DECODER_BYTE_FALLBACK:
        byte = byte_token(text);
        if (byte >= 0) return buf_append_char(made, (char)byte);
        r = byte_run_end(d, step, out);
        return r ? r : feed(d, step + 1, text, out);
    case DECODER_FUSE: return feed(d, step + 1, text, out);
    case DECODER_STRIP:
        if (s->fused) return stream_strip(d, step, text, out);
        return feed(d, step + 1, strip(s, text), out);
    }
    return 0;
}

int detokenizer_push(struct detokenizer *d, uint32_t id, struct buf *out) {
    const struct tokenizer *t = d->tokenizer;
    if (id >= t->entry_count || !t->entries[id].present) return 0;
    if (d->skip_special && t->entries[id].special) return 0;
    if (t->byte_level && t->decoder.count && t->decoder.steps[0].kind == DECODER_BYTE_LEVEL) return feed(d, 0, t->entries[id].bytes, out);
    buf_clear(&d->scratch);
    struct span text = tokenizer_entry_text(t, id, &d->scratch);
    return d->scratch.failed ? d->scratch.failed : feed(d, 0, text, out);
}

int detokenizer_finish(struct detokenizer *d, struct buf *out) {
    const struct decoder *dec = &d->tokenizer->decoder;
    int r = 0;
    for (size_t i = 0; !r && i < dec->count; i++) {
        const struct decoder_step *s = &dec->steps[i];
        uint32_t held = d->steps[i].held;
        switch (s->kind) {
        case DECODER_BYTE_LEVEL:
            if (d->held_len) r = feed(d, i + 1, span_of(replacement, 3), out);
            break;
        case DECODER_REPLACE:
            if (s->fused && held) r = feed(d, i + 1, span_sub(s->pattern.string, 0, held), out);
            break;
        case DECODER_BYTE_FALLBACK: r = byte_run_end(d, i, out); break;
        case DECODER_BPE:
            if (d->steps[i].seen) r = bpe_held(d, i, SPAN(""), out);
            break;
        default: break; /* Strip: what is held goes */
        }
        d->steps[i].held = d->steps[i].seen = 0;
    }
    d->held_len = 0;
    return r;
}

int tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t count, bool skip_special, struct buf *out) {
    struct detokenizer d;
    detokenizer_init(&d, t, skip_special);
    int r = 0;
    for (size_t i = 0; !r && i < count; i++) r = detokenizer_push(&d, ids[i], out);
    if (!r) r = detokenizer_finish(&d, out);
    detokenizer_fini(&d);
    return r;
}
