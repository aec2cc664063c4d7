#include "base/json_reader.h"

void json_reader_init(struct json_reader *r, struct span text) {
    const char *begin = text.data ? text.data : "";
    *r = (struct json_reader){begin, begin, begin + text.len, false};
}

/* Eight bytes of the text as a number, the first one lowest; of a file of 33 MB most is indentation, which goes by in such steps. */
static uint64_t eight(const char *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? __builtin_bswap64(v) : v;
}
static const uint64_t each = 0x0101010101010101u;

static void blank(struct json_reader *r) {
    while (r->at < r->end && (unsigned char)*r->at <= ' ') {
        if (*r->at == ' ' && r->end - r->at >= 8) {
            uint64_t other = eight(r->at) ^ each * ' ';
            r->at += other ? __builtin_ctzll(other) / 8 : 8;
        } else if (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t') {
            r->at++;
        } else {
            return;
        }
    }
}
/* The first byte of a string that is not its text as it stands: a quote, a backslash, a control character; or the end. */
static const char *plain_end(const char *p, const char *end) {
    for (; end - p >= 8; p += 8) {
        /* The classic test for a zero byte (x - 1 with a borrow out of it): exact for the lowest, which is the one wanted. */
        uint64_t v = eight(p), quote = v ^ each * '"', escape = v ^ each * '\\';
        uint64_t found = (((quote - each) & ~quote) | ((escape - each) & ~escape) | ((v - each * 0x20) & ~v)) & each * 0x80;
        if (found) return p + __builtin_ctzll(found) / 8;
    }
    while (p < end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20) p++;
    return p;
}
static char next(struct json_reader *r) { /* 0 at the end: NUL begins no value */
    blank(r);
    return r->at < r->end ? *r->at : 0;
}
static int bad(const struct json_reader *r, struct error *err, const char *wanted) {
    return error_set(err, E_INVALID, "JSON: %s expected at byte %zu", wanted, (size_t)(r->at - r->begin));
}

enum json_type json_reader_peek(struct json_reader *r) {
    switch (next(r)) {
    case '{': return JSON_TYPE_OBJECT;
    case '[': return JSON_TYPE_ARRAY;
    case '"': return JSON_TYPE_STRING;
    case 't': case 'f': return JSON_TYPE_BOOL;
    case '-': case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9': return JSON_TYPE_REAL;
    default: return JSON_TYPE_NULL;
    }
}

int json_reader_enter(struct json_reader *r, char open, struct error *err) {
    if (next(r) != open) return bad(r, err, open == '{' ? "an object" : "a list");
    r->at++;
    r->started = true;
    return 0;
}

/* 1 where a member follows: behind '{' or '[' or a comma. */
static int member(struct json_reader *r, char close, struct error *err) {
    bool first = r->started;
    r->started = false;
    char c = next(r);
    if (c == close) {
        r->at++;
        return 0;
    }
    if (first) return 1;
    if (c != ',') return bad(r, err, "a comma or the end of the list or object");
    r->at++;
    return 1;
}

int json_reader_item(struct json_reader *r, struct error *err) { return member(r, ']', err); }

int json_reader_key(struct json_reader *r, char *room, size_t room_size, struct span *key, struct error *err) {
    int more = member(r, '}', err);
    if (more <= 0) return more;
    int e = json_reader_string(r, room, room_size, key, err);
    if (e) return e;
    if (next(r) != ':') return bad(r, err, "a colon");
    r->at++;
    return 1;
}

/* Four hex digits at p; -1 where they are none. */
static int hex4(const char *p, const char *end) {
    int v = 0;
    if (end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int d = c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
        if (d < 0) return -1;
        v = v << 4 | d;
    }
    return v;
}

int json_reader_string(struct json_reader *r, char *room, size_t room_size, struct span *s, struct error *err) {
    if (next(r) != '"') return bad(r, err, "a string");
    const char *p = plain_end(++r->at, r->end);
    if (p < r->end && *p == '"') {
        *s = (struct span){r->at, (size_t)(p - r->at)};
        r->at = p + 1;
        return 0;
    }
    size_t len = (size_t)(p - r->at);
    if (len > room_size) return error_set(err, E_TOO_LARGE, "JSON: the string at byte %zu is longer than %zu bytes", (size_t)(r->at - r->begin), room_size);
    if (len) memcpy(room, r->at, len);
    for (r->at = p; r->at < r->end; r->at = p) {
        p = r->at;
        unsigned char c = (unsigned char)*p++;
        if (c == '"') {
            *s = (struct span){room, len};
            r->at = p;
            return 0;
        }
        char text[4];
        size_t n = 1;
        text[0] = (char)c;
        if (c < 0x20) return bad(r, err, "an escape for a control character");
        if (c == '\\') {
            char e = p < r->end ? *p++ : 0;
            int unit;
            switch (e) {
            case '"': case '\\': case '/': text[0] = e; break;
            case 'b': text[0] = '\b'; break;
            case 'f': text[0] = '\f'; break;
            case 'n': text[0] = '\n'; break;
            case 'r': text[0] = '\r'; break;
            case 't': text[0] = '\t'; break;
            case 'u':
                unit = hex4(p, r->end);
                if (unit < 0) return bad(r, err, "four hex digits");
                p += 4;
                if (unit >= 0xD800 && unit < 0xDC00 && r->end - p >= 6 && p[0] == '\\' && p[1] == 'u') {
                    int low = hex4(p + 2, r->end);
                    if (low < 0xDC00 || low > 0xDFFF) return bad(r, err, "the second half of a character");
                    unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                    p += 6;
                }
                n = utf8_encode((uint32_t)unit, text);
                if (!n) return bad(r, err, "a whole character");
                break;
            default: return bad(r, err, "a known escape");
            }
        }
        if (len + n > room_size) return error_set(err, E_TOO_LARGE, "JSON: the string that ends about byte %zu is longer than %zu bytes", (size_t)(p - r->begin), room_size);
        memcpy(room + len, text, n);
        len += n;
    }
    return bad(r, err, "the end of a string");
}

static bool digit(const struct json_reader *r) { return r->at < r->end && *r->at >= '0' && *r->at <= '9'; }

int json_reader_number(struct json_reader *r, struct span *digits, struct error *err) {
    (void)next(r);
    const char *from = r->at;
    if (r->at < r->end && *r->at == '-') r->at++;
    if (!digit(r)) return bad(r, err, "a number");
    if (*r->at++ == '0' && digit(r)) return bad(r, err, "a number without a leading zero");
    while (digit(r)) r->at++;
    if (r->at < r->end && *r->at == '.') {
        r->at++;
        if (!digit(r)) return bad(r, err, "a digit");
        while (digit(r)) r->at++;
    }
    if (r->at < r->end && (*r->at == 'e' || *r->at == 'E')) {
        r->at++;
        if (r->at < r->end && (*r->at == '+' || *r->at == '-')) r->at++;
        if (!digit(r)) return bad(r, err, "a digit");
        while (digit(r)) r->at++;
    }
    *digits = (struct span){from, (size_t)(r->at - from)};
    return 0;
}

/* Over a string, its escapes checked; nothing is written. */
static int skip_string(struct json_reader *r, struct error *err) {
    char room[8]; /* an escape at a time */
    for (r->at++; (r->at = plain_end(r->at, r->end)) < r->end;) {
        if (*r->at == '"') {
            r->at++;
            return 0;
        }
        if (*r->at != '\\') return bad(r, err, "an escape for a control character");
        /* A string of this one escape (two, where it is a pair) is read by the function that knows them. */
        size_t n = r->end - r->at > 1 && r->at[1] == 'u' ? 6 : 2;
        if (n == 6 && r->end - r->at >= 12 && r->at[6] == '\\' && r->at[7] == 'u' && (r->at[2] | 0x20) == 'd' && r->at[3] >= '8' && (r->at[3] | 0x20) <= 'b') n = 12;
        if ((size_t)(r->end - r->at) < n) return bad(r, err, "the end of a string");
        char one[16] = "\"";
        memcpy(one + 1, r->at, n);
        one[n + 1] = '"';
        struct json_reader inner;
        struct span s;
        json_reader_init(&inner, span_of(one, n + 2));
        if (json_reader_string(&inner, room, sizeof room, &s, NULL) || inner.at != inner.end) return bad(r, err, "a known escape");
        r->at += n;
    }
    return bad(r, err, "the end of a string");
}

int json_reader_skip(struct json_reader *r, struct span *value, struct error *err) {
    uint64_t objects[JSON_DEPTH_MAX / 64] = {0}; /* one bit a level: whether it is an object */
    int depth = 0, e = 0;
    (void)next(r);
    const char *from = r->at;
    for (;;) {
        struct span s;
        char c = next(r);
        if (c == '{' || c == '[') {
            if (depth == JSON_DEPTH_MAX) return error_set(err, E_INVALID, "JSON: nested deeper than %d", JSON_DEPTH_MAX);
            uint64_t bit = (uint64_t)1 << (depth % 64);
            if (c == '{') objects[depth / 64] |= bit;
            else objects[depth / 64] &= ~bit;
            depth++;
            r->at++;
            r->started = true;
        } else if (c == '"') {
            e = skip_string(r, err);
        } else if (c == 't' && r->end - r->at >= 4 && memcmp(r->at, "true", 4) == 0) {
            r->at += 4;
        } else if (c == 'f' && r->end - r->at >= 5 && memcmp(r->at, "false", 5) == 0) {
            r->at += 5;
        } else if (c == 'n' && r->end - r->at >= 4 && memcmp(r->at, "null", 4) == 0) {
            r->at += 4;
        } else {
            e = json_reader_number(r, &s, err);
        }
        if (e) return e;
        /* Out of what has ended, to the begin of the next value. */
        for (;;) {
            if (depth == 0) {
                if (value) *value = (struct span){from, (size_t)(r->at - from)};
                return 0;
            }
            bool object = objects[(depth - 1) / 64] >> ((depth - 1) % 64) & 1;
            int more = member(r, object ? '}' : ']', err);
            if (more < 0) return more;
            if (!more) {
                depth--;
                continue;
            }
            if (object) {
                if (next(r) != '"') return bad(r, err, "a key");
                e = skip_string(r, err);
                if (e) return e;
                if (next(r) != ':') return bad(r, err, "a colon");
                r->at++;
            }
            break;
        }
    }
}

int json_reader_end(struct json_reader *r, struct error *err) { return next(r) || r->at < r->end ? bad(r, err, "nothing more") : 0; }
