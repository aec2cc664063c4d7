#include "services/ingest/normalise.h"

#include <utf8proc.h>

#include "base/alloc.h"
#include "base/error.h"
#include "services/ingest/text.h"

/* ---- bytes to UTF-8 ---- */

static const uint16_t windows_1252[32] = {0x20ac, 0xfffd, 0x201a, 0x192,  0x201e, 0x2026, 0x2020, 0x2021, 0x2c6, 0x2030, 0x160, 0x2039, 0x152, 0xfffd, 0x17d, 0xfffd,
                                          0xfffd, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x2dc, 0x2122, 0x161, 0x203a, 0x153, 0xfffd, 0x17e, 0x178};

static void put_code(struct buf *out, uint32_t code) {
    char utf8[4];
    size_t n = utf8_encode(code, utf8);
    if (!n) n = utf8_encode(0xfffd, utf8);
    buf_append(out, utf8, n);
}

static void decode_utf16(struct span in, struct buf *out, uint64_t *repaired) {
    bool big = (unsigned char)in.data[0] == 0xfe;
    for (size_t i = 2; i + 1 < in.len; i += 2) {
        uint32_t a = (unsigned char)in.data[i], b = (unsigned char)in.data[i + 1], unit = big ? a << 8 | b : b << 8 | a;
        if (unit >= 0xd800 && unit < 0xdc00 && i + 3 < in.len) {
            uint32_t c = (unsigned char)in.data[i + 2], d = (unsigned char)in.data[i + 3], low = big ? c << 8 | d : d << 8 | c;
            if (low >= 0xdc00 && low < 0xe000) {
                unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                i += 2;
            }
        }
        if (unit >= 0xd800 && unit < 0xe000) {
            unit = 0xfffd;
            (*repaired)++;
        }
        put_code(out, unit);
    }
}

enum reason normalise_decode(struct span in, struct buf *scratch, struct span *text, uint64_t *repaired) {
    *repaired = 0;
    if (in.len >= 2 && (!memcmp(in.data, "\xff\xfe", 2) || !memcmp(in.data, "\xfe\xff", 2))) {
        decode_utf16(in, scratch, repaired);
        *text = buf_span(scratch);
        return *repaired * 1000 > in.len ? REASON_NOT_UTF8 : REASON_NONE;
    }
    if (span_starts(in, SPAN("\xef\xbb\xbf"))) in = span_skip(in, 3);
    if (span_is_utf8(in)) {
        *text = in;
        return REASON_NONE;
    }
    size_t sequences = 0, invalid = 0, high = 0;
    for (size_t i = 0; i < in.len;) {
        if ((unsigned char)in.data[i] < 0x80) {
            i++;
            continue;
        }
        high++;
        uint32_t code;
        size_t n = span_utf8_decode(span_skip(in, i), &code);
        if (n) sequences++;
        else invalid++;
        i += n ? n : 1;
    }
    bool latin = sequences * 20 < invalid || sequences == 0; /* a pair of Latin-1 letters may look like one sequence */
    if (latin && high * 10 <= in.len * 3) {
        for (size_t i = 0; i < in.len; i++) {
            unsigned char c = (unsigned char)in.data[i];
            if (c < 0x80) {
                size_t from = i;
                while (i + 1 < in.len && (unsigned char)in.data[i + 1] < 0x80) i++;
                buf_append(scratch, in.data + from, i + 1 - from);
            } else
                put_code(scratch, c < 0xa0 ? windows_1252[c - 0x80] : c);
        }
        *text = buf_span(scratch);
        return REASON_NONE;
    }
    if (invalid * 1000 > in.len) return REASON_NOT_UTF8;
    for (size_t i = 0; i < in.len;) {
        uint32_t code;
        size_t n = span_utf8_decode(span_skip(in, i), &code);
        if (n) buf_append(scratch, in.data + i, n);
        else put_code(scratch, 0xfffd);
        i += n ? n : 1;
    }
    *repaired = invalid;
    *text = buf_span(scratch);
    return REASON_NONE;
}

/* ---- one form ---- */

/* Whether the bytes from s on may not be in NFC: all below U+0300 is, and so is most of what follows a quick check. */
static bool maybe_decomposed(struct span s) {
    for (size_t i = 0; i < s.len;) {
        const unsigned char c = (unsigned char)s.data[i];
        if (c < 0x80) {
            i++;
            continue;
        }
        if (c < 0xcc) { /* U+0080 to U+02FF */
            i += 2;
            continue;
        }
        if (c == 0xe2 && i + 2 < s.len) { /* U+2000 to U+2FFF: punctuation, arrows, mathematics, drawings; only a handful decompose */
            unsigned char d = (unsigned char)s.data[i + 1];
            bool plain = d == 0x80 ? (unsigned char)s.data[i + 2] > 0x81 : (d >= 0x86 && d <= 0x8b) || (d >= 0x90 && d <= 0xab);
            if (plain && !(d == 0x86 || d == 0x87 || d == 0x88 || d == 0x89 || d == 0x8a || d == 0x8b || d == 0xab)) {
                i += 3;
                continue;
            }
            if (plain && (d == 0x86 || d == 0x87) && (unsigned char)s.data[i + 2] <= 0x95) { /* the arrows themselves */
                i += 3;
                continue;
            }
        }
        return true;
    }
    return false;
}

static bool dropped(uint32_t c) {
    return c == 0xad || (c >= 0x200b && c <= 0x200f) || (c >= 0x202a && c <= 0x202e) || (c >= 0x2060 && c <= 0x2064) || (c >= 0x2066 && c <= 0x206f) || c == 0xfeff ||
           (c >= 0xfff9 && c <= 0xfffb) || (c >= 0x80 && c < 0xa0) || (c >= 0xe0000 && c <= 0xe007f) || (c & 0xfffe) == 0xfffe || (c >= 0xfdd0 && c <= 0xfdef);
}

static char last_of(const struct buf *out, size_t start) { return out->len > start ? out->data[out->start + out->len - 1] : 0; }

/* The end of a line, or of a record or turn: blanks before it go, and so do empty lines beyond one and all at the begin. */
static void put_break(struct buf *out, size_t start, unsigned char c) {
    while (last_of(out, start) == ' ' || last_of(out, start) == '\t') out->len--;
    if (c == TEXT_RECORD || c == TEXT_TURN) {
        while (last_of(out, start) == '\n') out->len--;
        buf_append_char(out, (char)c);
        return;
    }
    char last = last_of(out, start);
    bool full = !last || last == TEXT_RECORD || last == TEXT_TURN || (last == '\n' && out->len > start + 1 && out->data[out->start + out->len - 2] == '\n');
    if (!full) buf_append_char(out, '\n');
}

static void clean(struct span in, bool records, struct buf *out) {
    size_t start = out->len; /* nothing above here is ours to trim */
    size_t i = 0;
    while (i < in.len) {
        unsigned char c = (unsigned char)in.data[i];
        if (c >= 0x20 && c < 0x7f) {
            size_t from = i;
            while (i < in.len && (unsigned char)in.data[i] >= 0x20 && (unsigned char)in.data[i] < 0x7f) i++;
            buf_append(out, in.data + from, i - from);
            continue;
        }
        if (c == '\n' || c == '\r' || (records && (c == TEXT_RECORD || c == TEXT_TURN))) {
            put_break(out, start, c);
            i += c == '\r' && i + 1 < in.len && in.data[i + 1] == '\n' ? 2 : 1;
            continue;
        }
        if (c == '\t') {
            buf_append_char(out, '\t');
            i++;
            continue;
        }
        if (c < 0x20 || c == 0x7f) {
            i++;
            continue;
        }
        uint32_t code;
        size_t n = span_utf8_decode(span_skip(in, i), &code);
        if (!n) {
            i++; /* not met: the input is valid */
            continue;
        }
        if (code == 0xa0 || code == 0x202f || code == 0x2007) buf_append_char(out, ' ');
        else if (code == 0x2028 || code == 0x85 || code == 0x2029) {
            put_break(out, start, '\n');
            if (code == 0x2029) put_break(out, start, '\n');
        } else if (!dropped(code)) buf_append(out, in.data + i, n);
        i += n;
    }
    while (out->len > start && strchr(" \t\n", out->data[out->start + out->len - 1])) out->len--;
    if (out->len > start) buf_append_char(out, '\n');
}

/* What is dropped may have stood between a letter and its accent: so the characters are cleaned first and composed then. Composing makes no character that cleaning would change. */
void normalise_text(struct span in, bool records, struct buf *out) {
    if (!maybe_decomposed(in)) {
        clean(in, records, out);
        return;
    }
    struct buf cleaned;
    buf_init(&cleaned, in.len + 1); /* each character becomes as many bytes at most, and one newline ends all */
    clean(in, records, &cleaned);
    struct span text = buf_span(&cleaned);
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t n = text.len <= INT32_MAX ? utf8proc_map((const utf8proc_uint8_t *)text.data, (utf8proc_ssize_t)text.len, &composed, UTF8PROC_STABLE | UTF8PROC_COMPOSE) : -1;
    if (cleaned.failed || n == UTF8PROC_ERROR_NOMEM) out->failed = E_NOMEM;
    else if (n < 0) buf_append_span(out, text); /* longer than it takes: the characters are valid as they are */
    else buf_append(out, composed, (size_t)n);
    free(composed); /* utf8proc's own */
    buf_fini(&cleaned);
}
