/*
 * A template's text to tokens, with jinja2's rules for white space as transformers sets them: the line break behind a block tag goes (trim_blocks), and so does
 * what indents a block tag that stands first in its line (lstrip_blocks); "-" beside a delimiter takes all white space on its side, "+" keeps it. One line
 * break at the end of the text is not part of it.
 */
#include "base/alloc.h"
#include "tokenizer/template_internal.h"

enum { TOKENS_MAX = 1 << 20 };

struct lexer {
    struct arena *arena;
    struct error *err;
    struct span text;
    size_t at;
    uint32_t line;
    bool line_start; /* the tag before ended with a line break, or there was none */
    struct token *tokens; /* heap */
    size_t count, capacity;
};

static int fail(struct lexer *l, const char *what) { return error_set(l->err, E_INVALID, "template line %u: %s", l->line, what); }

static int push(struct lexer *l, struct token token) {
    if (l->count >= TOKENS_MAX) return error_set(l->err, E_TOO_LARGE, "the template has more than %d tokens", TOKENS_MAX);
    if (array_reserve(&l->tokens, &l->capacity, l->count + 1, sizeof *l->tokens)) return error_set(l->err, E_NOMEM, "no memory for a template");
    token.line = l->line;
    l->tokens[l->count++] = token;
    return 0;
}

static bool here(const struct lexer *l, const char *s) { return span_starts(span_skip(l->text, l->at), span_str(s)); }
static char byte(const struct lexer *l, size_t ahead) { return l->at + ahead < l->text.len ? l->text.data[l->at + ahead] : '\0'; }
static void advance(struct lexer *l, size_t n) {
    for (size_t i = 0; i < n; i++) l->line += l->text.data[l->at + i] == '\n';
    l->at += n;
}
static size_t spaces(struct span s) {
    size_t at = 0, len;
    while (space_at(s, at, &len)) at += len;
    return at;
}
static struct span without_spaces_behind(struct span s) {
    while (s.len) {
        size_t from = s.len - 1, len;
        while (from > 0 && ((uint8_t)s.data[from] & 0xC0) == 0x80) from--;
        if (!space_at(s, from, &len)) break;
        s.len = from;
    }
    return s;
}

/* After a tag's end: what "-" or trim_blocks takes. */
static void after_tag(struct lexer *l, bool minus, bool trim) {
    size_t from = l->at;
    if (minus) advance(l, spaces(span_skip(l->text, l->at)));
    else if (trim && byte(l, 0) == '\n') advance(l, 1);
    l->line_start = l->at > from && l->text.data[l->at - 1] == '\n';
}

/* The text before the tag that begins at `end`; sign is what stands in the tag's beginning. */
static int put_data(struct lexer *l, size_t end, char sign, bool block) {
    struct span s = span_sub(l->text, l->at, end - l->at);
    bool first = l->line_start;
    uint32_t line = l->line;
    advance(l, s.len);
    if (sign == '-') s = without_spaces_behind(s);
    else if (sign != '+' && block) {
        size_t from = s.len;
        while (from > 0 && s.data[from - 1] != '\n') from--;
        if ((from > 0 || first) && s.len > from && spaces(span_skip(s, from)) == s.len - from) s.len = from;
    }
    if (!s.len) return 0;
    uint32_t now = l->line;
    l->line = line;
    int r = push(l, (struct token){.kind = TOKEN_DATA, .text = s});
    l->line = now;
    return r;
}

/* ---- inside tags ---- */

static bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static int lex_number(struct lexer *l) {
    char digits[64];
    size_t n = 0, start = l->at;
    bool real = false;
    for (; l->at < l->text.len; l->at++) {
        char c = l->text.data[l->at];
        bool keep = is_digit(c);
        if (c == '_' && l->at > start && is_digit(byte(l, 1))) continue;
        if (c == '.' && !real && is_digit(byte(l, 1))) keep = real = true;
        if ((c == 'e' || c == 'E') && (is_digit(byte(l, 1)) || ((byte(l, 1) == '-' || byte(l, 1) == '+') && is_digit(byte(l, 2))))) {
            real = true;
            if (n + 2 >= sizeof digits) return fail(l, "a number is too long");
            digits[n++] = 'e';
            if (!is_digit(byte(l, 1))) digits[n++] = l->text.data[++l->at];
            continue;
        }
        if (!keep) break;
        if (n + 1 >= sizeof digits) return fail(l, "a number is too long");
        digits[n++] = c;
    }
    struct token token = {.kind = real ? TOKEN_REAL : TOKEN_INTEGER};
    int r = real ? span_to_f64(span_of(digits, n), &token.real) : span_to_i64(span_of(digits, n), &token.integer);
    return r ? fail(l, "a number is out of range") : push(l, token);
}

static int hex_value(struct span s, uint32_t *out) {
    uint32_t v = 0;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.data[i];
        int d = is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0) return E_INVALID;
        v = v << 4 | (uint32_t)d;
    }
    *out = v;
    return 0;
}

/* Python's escapes; one that Python does not know stays as it is. Returns how many bytes of s (behind the backslash) it took, 0 for what is wrong. */
static size_t escape(struct span s, char out[4], size_t *len) {
    static const struct {
        char c, is;
    } simple[] = {{'n', '\n'}, {'t', '\t'}, {'r', '\r'}, {'\\', '\\'}, {'\'', '\''}, {'"', '"'}, {'a', '\a'}, {'b', '\b'}, {'f', '\f'}, {'v', '\v'}};
    for (size_t i = 0; i < sizeof simple / sizeof simple[0]; i++)
        if (s.data[0] == simple[i].c) {
            out[0] = simple[i].is;
            *len = 1;
            return 1;
        }
    if (s.data[0] == '\n') { /* a line that goes on */
        *len = 0;
        return 1;
    }
    if (s.data[0] >= '0' && s.data[0] <= '7') {
        uint32_t v = 0;
        size_t n = 0;
        while (n < 3 && n < s.len && s.data[n] >= '0' && s.data[n] <= '7') v = v * 8 + (uint32_t)(s.data[n++] - '0');
        *len = utf8_encode(v, out);
        return *len ? n : 0;
    }
    size_t digits = s.data[0] == 'x' ? 2 : s.data[0] == 'u' ? 4 : s.data[0] == 'U' ? 8 : 0;
    if (digits) {
        uint32_t v;
        if (s.len < 1 + digits || hex_value(span_sub(s, 1, digits), &v)) return 0;
        *len = utf8_encode(v, out);
        return *len ? 1 + digits : 0;
    }
    out[0] = '\\';
    out[1] = s.data[0];
    *len = 2;
    return (uint8_t)s.data[0] < 0x80 ? 1 : 0;
}

static int lex_string(struct lexer *l) {
    char quote = l->text.data[l->at];
    size_t end = l->at + 1;
    while (end < l->text.len && l->text.data[end] != quote) end += l->text.data[end] == '\\' ? 2 : 1;
    if (end >= l->text.len) return fail(l, "a string has no end");
    struct span raw = span_sub(l->text, l->at + 1, end - l->at - 1);
    struct token token = {.kind = TOKEN_STRING, .text = raw};
    if (span_find_char(raw, '\\') >= 0) {
        char *to = arena_alloc(l->arena, raw.len * 2 + 1);
        if (!to) return error_set(l->err, E_NOMEM, "no memory for a template");
        size_t n = 0;
        for (size_t i = 0; i < raw.len;) {
            if (raw.data[i] != '\\') {
                to[n++] = raw.data[i++];
                continue;
            }
            char bytes[4];
            size_t len, took = escape(span_skip(raw, i + 1), bytes, &len);
            if (!took && (uint8_t)raw.data[i + 1] >= 0x80) { /* a backslash before a character beyond ASCII is one */
                to[n++] = '\\';
                i++;
                continue;
            }
            if (!took) return fail(l, "a string has an escape that is none");
            for (size_t k = 0; k < len; k++) to[n++] = bytes[k];
            i += 1 + took;
        }
        token.text = span_of(to, n);
    }
    int r = push(l, token);
    advance(l, end + 1 - l->at);
    return r;
}

static const struct {
    const char text[3];
    uint8_t op;
} operators[] = { /* the longer first */
    {"**", OP_POW}, {"//", OP_FLOOR_DIV}, {"==", OP_EQ}, {"!=", OP_NE}, {"<=", OP_LE}, {">=", OP_GE}, {"+", OP_ADD}, {"-", OP_SUB}, {"*", OP_MUL}, {"/", OP_DIV}, {"%", OP_MOD},
    {"~", OP_TILDE}, {"<", OP_LT}, {">", OP_GT}, {"=", OP_ASSIGN}, {".", OP_DOT}, {":", OP_COLON}, {"|", OP_PIPE}, {",", OP_COMMA}, {"(", OP_LPAREN}, {")", OP_RPAREN},
    {"[", OP_LBRACKET}, {"]", OP_RBRACKET}, {"{", OP_LBRACE}, {"}", OP_RBRACE},
};

static int lex_operator(struct lexer *l, char *open, unsigned *depth) {
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++) {
        if (!here(l, operators[i].text)) continue;
        uint8_t op = operators[i].op;
        char c = l->text.data[l->at];
        if (op == OP_LPAREN || op == OP_LBRACKET || op == OP_LBRACE) {
            if (*depth == TEMPLATE_PARSE_DEPTH_MAX) return error_set(l->err, E_TOO_LARGE, "template line %u: nested deeper than %d", l->line, TEMPLATE_PARSE_DEPTH_MAX);
            open[(*depth)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
        } else if (op == OP_RPAREN || op == OP_RBRACKET || op == OP_RBRACE) {
            if (!*depth || open[--*depth] != c) return fail(l, "a bracket closes what none opened");
        }
        int r = push(l, (struct token){.kind = TOKEN_OPERATOR, .op = op});
        l->at += strlen(operators[i].text);
        return r;
    }
    return fail(l, "a character that no expression has");
}

/* Up to the end of the tag, which goes too. */
static int lex_tag(struct lexer *l, bool block) {
    char open[TEMPLATE_PARSE_DEPTH_MAX];
    unsigned depth = 0;
    int r = push(l, (struct token){.kind = block ? TOKEN_BLOCK_BEGIN : TOKEN_OUTPUT_BEGIN});
    const char *end = block ? "%}" : "}}";
    while (!r) {
        advance(l, spaces(span_skip(l->text, l->at)));
        if (l->at >= l->text.len) return fail(l, block ? "a {% has no %}" : "a {{ has no }}");
        char c = l->text.data[l->at];
        bool sign = c == '-' || (c == '+' && block);
        if (!depth && (here(l, end) || (sign && span_starts(span_skip(l->text, l->at + 1), span_str(end))))) {
            r = push(l, (struct token){.kind = block ? TOKEN_BLOCK_END : TOKEN_OUTPUT_END});
            sign = !here(l, end);
            l->at += sign ? 3 : 2;
            after_tag(l, sign && c == '-', block && !sign);
            return r;
        }
        if (is_name_start(c)) {
            size_t from = l->at;
            while (is_name_start(byte(l, 0)) || is_digit(byte(l, 0))) l->at++;
            r = push(l, (struct token){.kind = TOKEN_NAME, .text = span_sub(l->text, from, l->at - from)});
        } else if (is_digit(c)) r = lex_number(l);
        else if (c == '"' || c == '\'') r = lex_string(l);
        else r = lex_operator(l, open, &depth);
    }
    return r;
}

/* Whether `{% WORD %}` with its signs stands at `at`; *len is its length, signs are what stands within its delimiters. */
static bool tag_of(struct span text, size_t at, const char *word, size_t *len, char *before, char *behind) {
    struct span s = span_skip(text, at);
    if (!span_starts(s, SPAN("{%"))) return false;
    size_t i = 2;
    *before = i < s.len && (s.data[i] == '-' || s.data[i] == '+') ? s.data[i++] : '\0';
    i += spaces(span_skip(s, i));
    if (!span_starts(span_skip(s, i), span_str(word))) return false;
    i += strlen(word);
    i += spaces(span_skip(s, i));
    *behind = i < s.len && (s.data[i] == '-' || s.data[i] == '+') ? s.data[i++] : '\0';
    if (!span_starts(span_skip(s, i), SPAN("%}"))) return false;
    *len = i + 2;
    return true;
}

static int lex_raw(struct lexer *l, size_t begin_len, char behind) {
    advance(l, begin_len);
    l->line_start = false;
    if (behind == '-') after_tag(l, true, false);
    for (size_t at = l->at; at < l->text.len; at++) {
        size_t len;
        char sign, last;
        if (!tag_of(l->text, at, "endraw", &len, &sign, &last)) continue;
        int r = put_data(l, at, sign, true);
        advance(l, len);
        after_tag(l, last == '-', last == '\0');
        return r;
    }
    return fail(l, "a {% raw %} has no {% endraw %}");
}

static int lex_comment(struct lexer *l) {
    ptrdiff_t end = span_find(span_skip(l->text, l->at + 2), SPAN("#}"));
    if (end < 0) return fail(l, "a {# has no #}");
    size_t len = (size_t)end + 4;
    char last = end > 0 ? l->text.data[l->at + len - 3] : '\0';
    advance(l, len);
    after_tag(l, last == '-', last != '+' && last != '-');
    return 0;
}

static int lex(struct lexer *l) {
    int r = 0;
    while (!r && l->at < l->text.len) {
        size_t tag = l->at;
        while (tag + 1 < l->text.len && !(l->text.data[tag] == '{' && (l->text.data[tag + 1] == '{' || l->text.data[tag + 1] == '%' || l->text.data[tag + 1] == '#'))) tag++;
        if (tag + 1 >= l->text.len) {
            r = put_data(l, l->text.len, '+', false);
            break;
        }
        char kind = l->text.data[tag + 1], sign = tag + 2 < l->text.len ? l->text.data[tag + 2] : '\0', before, behind;
        if (sign != '-' && sign != '+') sign = '\0';
        size_t raw_len;
        bool raw = tag_of(l->text, tag, "raw", &raw_len, &before, &behind);
        r = put_data(l, tag, sign, kind != '{');
        if (r) break;
        if (raw) r = lex_raw(l, raw_len, behind);
        else if (kind == '#') r = lex_comment(l);
        else {
            l->at += sign ? 3 : 2;
            r = lex_tag(l, kind == '%');
        }
    }
    return r ? r : push(l, (struct token){.kind = TOKEN_FINISH});
}

int template_lex(struct span text, struct arena *arena, const struct token **tokens, struct error *err) {
    struct lexer l = {.arena = arena, .err = err, .line = 1, .line_start = true};
    /* Line breaks of all kinds are one; the last one goes. */
    char *copy = arena_alloc(arena, text.len + 1);
    if (!copy) return error_set(err, E_NOMEM, "no memory for a template");
    size_t n = 0;
    for (size_t i = 0; i < text.len; i++) {
        bool cr = text.data[i] == '\r';
        copy[n++] = cr ? '\n' : text.data[i];
        if (cr && i + 1 < text.len && text.data[i + 1] == '\n') i++;
    }
    if (n && copy[n - 1] == '\n') n--;
    l.text = span_of(copy, n);
    int r = lex(&l);
    if (!r) {
        struct token *list = arena_calloc(arena, l.count, sizeof *list);
        if (list) {
            memcpy(list, l.tokens, l.count * sizeof *list);
            *tokens = list;
        } else r = error_set(err, E_NOMEM, "no memory for a template");
    }
    mem_free(l.tokens);
    return r;
}
