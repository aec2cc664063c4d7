#include "http/parser.h"

#include "base/alloc.h"
#include "base/error.h"

enum state {
    STATE_FIRST,       /* in front of a request line */
    STATE_LINE,        /* in the request line or a field line */
    STATE_TAKEN,       /* the head was announced */
    STATE_LENGTH,      /* body by length */
    STATE_SIZE_FIRST,  /* first digit of a chunk's size */
    STATE_SIZE,        /* further digits */
    STATE_EXTENSION,   /* behind ';' */
    STATE_SIZE_LF,     /* LF that ends the size line */
    STATE_CHUNK,       /* data */
    STATE_CHUNK_CR,
    STATE_CHUNK_LF,
    STATE_TRAILER,     /* a trailer line */
    STATE_END,         /* the end is to be announced */
    STATE_REFUSED,
};

enum { EMPTY_LINES_MAX = 2 };    /* in front of a request; RFC 9112, 2.2 asks for one */
enum { SIZE_DIGITS_MAX = 16 };   /* of a chunk's size: with leading zeros, all of 64 bits */

struct http_mark {
    uint32_t name, name_len, value, value_len;
};

/* ---- Characters --------------------------------------------------------------------------------------------------------- */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_alpha(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
static int hex_digit(char c) { return is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }
static bool is_control(char c) { return ((unsigned char)c < 0x20 && c != '\t') || c == 0x7f; }
static bool is_tchar(char c) { return is_digit(c) || is_alpha(c) || (c && strchr("!#$%&'*+-.^_`|~", c)); }

bool http_is_token(struct span s) {
    for (size_t i = 0; i < s.len; i++)
        if (!is_tchar(s.data[i])) return false;
    return s.len > 0;
}

static struct span trim_blanks(struct span s) {
    while (s.len && (s.data[0] == ' ' || s.data[0] == '\t')) s = span_skip(s, 1);
    while (s.len && (s.data[s.len - 1] == ' ' || s.data[s.len - 1] == '\t')) s.len--;
    return s;
}

/* ---- Life --------------------------------------------------------------------------------------------------------------- */

void http_head_fini(struct http_head *h) {
    mem_free(h->text);
    mem_free(h->fields);
    *h = (struct http_head){0};
}

struct span http_head_field(const struct http_head *h, const char *name) {
    for (size_t i = 0; i < h->field_count; i++)
        if (span_eq_nocase(h->fields[i].name, span_str(name))) return h->fields[i].value;
    return (struct span){NULL, 0};
}

void http_parser_init(struct http_parser *p, const struct http_parser_limits *limits) {
    *p = (struct http_parser){.state = STATE_FIRST};
    if (limits) p->limits = *limits;
    if (!p->limits.request_line_max) p->limits.request_line_max = 16384;
    if (!p->limits.head_max) p->limits.head_max = 65536;
    if (!p->limits.fields_max) p->limits.fields_max = 128;
    if (!p->limits.extension_max) p->limits.extension_max = 1024;
    if (!p->limits.trailer_max) p->limits.trailer_max = 8192;
    if (p->limits.head_max > UINT32_MAX / 2) p->limits.head_max = UINT32_MAX / 2; /* marks are 32 bits */
    if (p->limits.request_line_max > p->limits.head_max) p->limits.request_line_max = p->limits.head_max;
    buf_init(&p->text, p->limits.head_max > p->limits.trailer_max ? p->limits.head_max : p->limits.trailer_max);
}

void http_parser_fini(struct http_parser *p) {
    buf_fini(&p->text);
    mem_free(p->marks);
    http_head_fini(&p->head);
    *p = (struct http_parser){.state = STATE_REFUSED, .status = 400, .reason = "closed"};
}

bool http_parser_between(const struct http_parser *p) {
    return (p->state == STATE_FIRST && !p->cr) || p->state == STATE_END || (p->state == STATE_TAKEN && !p->chunked && !p->left);
}
int http_parser_status(const struct http_parser *p) { return p->status; }
const char *http_parser_reason(const struct http_parser *p) { return p->reason ? p->reason : ""; }

static int refuse(struct http_parser *p, int status, const char *reason) {
    p->state = STATE_REFUSED;
    p->status = status;
    p->reason = reason;
    return E_INVALID;
}

static int no_memory(struct http_parser *p) { return refuse(p, 503, "The server is out of memory."); }

/* ---- The request line ---------------------------------------------------------------------------------------------------- */

/* host[:port] of RFC 3986, without user information; a comma, which it would allow in a name, is how two Hosts are merged. */
static bool authority_valid(struct span s) {
    size_t i = 0;
    if (s.len && s.data[0] == '[') {
        for (i = 1; i < s.len && (hex_digit(s.data[i]) >= 0 || s.data[i] == ':' || s.data[i] == '.'); i++) {}
        if (i < 3 || i == s.len || s.data[i] != ']') return false;
        i++;
    } else {
        while (i < s.len && s.data[i] && (is_digit(s.data[i]) || is_alpha(s.data[i]) || strchr("-._~!$&'()*+;=%", s.data[i]))) i++;
        if (!i) return false;
    }
    if (i == s.len) return true;
    if (s.data[i] != ':' || s.len - i > 6) return false;
    uint64_t port = 0;
    struct span digits = span_skip(s, i + 1);
    return !digits.len || (!span_to_u64(digits, &port) && port <= 65535);
}

/* "." or ".." as it stands or percent-encoded: who resolves them behind us would leave the path that was checked. */
static bool is_dots(struct span segment) {
    size_t dots = 0;
    while (segment.len) {
        bool encoded = segment.len >= 3 && segment.data[0] == '%' && segment.data[1] == '2' && (segment.data[2] | 32) == 'e';
        if (!encoded && segment.data[0] != '.') return false;
        segment = span_skip(segment, encoded ? 3 : 1);
        if (++dots > 2) return false;
    }
    return dots > 0;
}

static int check_target_characters(struct http_parser *p, struct span t) {
    for (size_t i = 0; i < t.len; i++) {
        char c = t.data[i];
        if (c == '%') {
            int high = i + 2 < t.len ? hex_digit(t.data[i + 1]) : -1, low = high < 0 ? -1 : hex_digit(t.data[i + 2]);
            if (low < 0) return refuse(p, 400, "The request target has a broken percent-encoding.");
            if (high == 0 && low == 0) return refuse(p, 400, "The request target contains an encoded NUL.");
            i += 2;
        } else if ((unsigned char)c <= 0x20 || (unsigned char)c >= 0x7f || strchr("\"<>\\#", c)) {
            return refuse(p, 400, "The request target contains a character that must be percent-encoded.");
        }
    }
    return 0;
}

/* Splits the target; h->target is set. The fragment-free origin and absolute forms, and * for OPTIONS. */
static int read_target(struct http_parser *p, struct http_head *h) {
    struct span t = h->target;
    if (span_eq(t, SPAN("*")) && span_eq(h->method, SPAN("OPTIONS"))) {
        h->path = t;
        return 0;
    }
    size_t scheme = span_eq_nocase(span_sub(t, 0, 7), SPAN("http://")) ? 7 : span_eq_nocase(span_sub(t, 0, 8), SPAN("https://")) ? 8 : 0;
    if (scheme) {
        size_t end = scheme;
        while (end < t.len && t.data[end] != '/' && t.data[end] != '?') end++;
        h->authority = span_sub(t, scheme, end - scheme);
        if (!authority_valid(h->authority)) return refuse(p, 400, "The request target's host is not valid.");
        t = span_skip(t, end);
    } else if (!t.len || t.data[0] != '/') {
        return refuse(p, 400, "The request target must begin with '/'.");
    }
    if (check_target_characters(p, t)) return E_INVALID;
    ptrdiff_t mark = span_find_char(t, '?');
    h->path = mark < 0 ? t : span_sub(t, 0, (size_t)mark);
    if (mark >= 0) h->query = span_skip(t, (size_t)mark + 1);
    if (!h->path.len) h->path = SPAN("/"); /* http://host and http://host?query */
    struct span rest = h->path, segment;
    while (span_cut(&rest, '/', &segment))
        if (is_dots(segment)) return refuse(p, 400, "The request target contains dot segments.");
    return 0;
}

static bool method_known(struct span method) {
    static const char *const known[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (span_eq_str(method, known[i])) return true;
    return false;
}

static int parse_request_line(struct http_parser *p, struct span line) {
    ptrdiff_t first = span_find_char(line, ' ');
    struct span method = span_sub(line, 0, first < 0 ? line.len : (size_t)first), rest = first < 0 ? SPAN("") : span_skip(line, (size_t)first + 1);
    ptrdiff_t second = span_find_char(rest, ' ');
    if (!http_is_token(method)) return refuse(p, 400, "The request line does not begin with a method.");
    if (first < 0 || second <= 0) return refuse(p, 400, "The request line must be method, target and version with one space between.");
    struct span version = span_skip(rest, (size_t)second + 1);
    bool shape = version.len == 8 && span_starts(version, SPAN("HTTP/")) && is_digit(version.data[5]) && version.data[6] == '.' && is_digit(version.data[7]);
    if (!shape) return refuse(p, 400, "The request line does not end in a version such as HTTP/1.1.");
    if (version.data[5] != '1' || version.data[7] > '1') return refuse(p, 505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.");
    if (!method_known(method)) return refuse(p, 501, "This method is not known here.");
    p->minor = version.data[7] - '0';
    p->method_len = method.len;
    p->target_start = (size_t)first + 1;
    p->target_len = (size_t)second;
    return 0;
}

/* ---- Fields ------------------------------------------------------------------------------------------------------------- */

static int check_field(struct http_parser *p, struct span line, struct span *name, struct span *value) {
    if (line.data[0] == ' ' || line.data[0] == '\t') return refuse(p, 400, "A header field is folded over two lines.");
    ptrdiff_t colon = span_find_char(line, ':');
    if (colon < 0) return refuse(p, 400, "A header line has no colon.");
    *name = span_sub(line, 0, (size_t)colon);
    if (!http_is_token(*name)) return refuse(p, 400, "A header field's name is not valid.");
    *value = trim_blanks(span_skip(line, (size_t)colon + 1));
    return 0;
}

static int parse_field_line(struct http_parser *p, struct span line) {
    struct span name, value;
    if (check_field(p, line, &name, &value)) return E_INVALID;
    if (p->mark_count == p->limits.fields_max) return refuse(p, 431, "The request has too many header fields.");
    if (array_reserve(&p->marks, &p->mark_capacity, p->mark_count + 1, sizeof *p->marks)) return no_memory(p);
    const char *base = buf_span(&p->text).data;
    p->marks[p->mark_count++] = (struct http_mark){(uint32_t)(name.data - base), (uint32_t)name.len, value.len ? (uint32_t)(value.data - base) : 0, (uint32_t)value.len};
    return 0;
}

bool http_list_has(struct span list, struct span token) {
    struct span item;
    while (span_cut(&list, ',', &item))
        if (span_eq_nocase(trim_blanks(item), token)) return true;
    return false;
}

static int read_length(struct http_parser *p, struct span value, uint64_t *length) {
    /* 2^63 - 1 at most, so that no sum of lengths wraps in whatever counts them. */
    if (span_to_u64(value, length) || *length > INT64_MAX) return refuse(p, 400, "Content-Length is not a number that makes sense.");
    return 0;
}

static int read_coding(struct http_parser *p, struct span value) {
    if (span_eq_nocase(value, SPAN("chunked"))) return 0;
    return http_is_token(value) ? refuse(p, 501, "Only the transfer coding chunked is read here.") : refuse(p, 400, "Transfer-Encoding is not valid: only chunked is read here.");
}

static int read_fields(struct http_parser *p, struct http_head *h) {
    int hosts = 0, lengths = 0, codings = 0;
    bool close = false, keep = false;
    for (size_t i = 0; i < h->field_count; i++) {
        struct span name = h->fields[i].name, value = h->fields[i].value;
        if (span_eq_nocase(name, SPAN("host"))) {
            if (hosts++) return refuse(p, 400, "The request has two Host fields.");
            if (!authority_valid(value)) return refuse(p, 400, "The Host field is not valid.");
            if (!h->authority.len) h->authority = value;
        } else if (span_eq_nocase(name, SPAN("content-length"))) {
            if (lengths++) return refuse(p, 400, "The request has two Content-Length fields.");
            if (read_length(p, value, &h->length)) return E_INVALID;
        } else if (span_eq_nocase(name, SPAN("transfer-encoding"))) {
            if (codings++) return refuse(p, 400, "The request has two Transfer-Encoding fields.");
            if (read_coding(p, value)) return E_INVALID;
        } else if (span_eq_nocase(name, SPAN("connection"))) {
            close |= http_list_has(value, SPAN("close"));
            keep |= http_list_has(value, SPAN("keep-alive"));
        } else if (span_eq_nocase(name, SPAN("expect")) && h->minor == 1) {
            if (!span_eq_nocase(value, SPAN("100-continue"))) return refuse(p, 417, "Only the expectation 100-continue is met here.");
            h->expects_continue = true;
        }
    }
    if (!hosts && h->minor == 1) return refuse(p, 400, "The Host field is missing.");
    if (codings && lengths) return refuse(p, 400, "The request has both Content-Length and Transfer-Encoding.");
    if (codings && h->minor == 0) return refuse(p, 400, "HTTP/1.0 has no Transfer-Encoding.");
    h->chunked = codings > 0;
    h->has_body = h->chunked || h->length > 0;
    h->keep_alive = !close && (h->minor == 1 || keep);
    return 0;
}

int http_head_check(struct http_head *h, int *status, const char **reason) {
    struct http_parser p = {0}; /* only what refuse() says */
    struct span host = {NULL, 0};
    int hosts = 0;
    bool sized = false;
    h->minor = 1;
    h->keep_alive = true;
    if (!method_known(h->method)) refuse(&p, 501, "This method is not known here.");
    else if (h->target.len && h->target.data[0] != '/' && !span_eq(h->target, SPAN("*"))) refuse(&p, 400, "The request target must begin with '/'.");
    else read_target(&p, h);
    for (size_t i = 0; i < h->field_count && !p.status; i++) {
        struct span name = h->fields[i].name, value = h->fields[i].value;
        if (span_eq(name, SPAN("host"))) {
            host = value;
            if (hosts++) refuse(&p, 400, "The request has two Host fields.");
        } else if (span_eq(name, SPAN("content-length"))) {
            if (sized) refuse(&p, 400, "The request has two Content-Length fields.");
            else read_length(&p, value, &h->length);
            sized = true;
        } else if (span_eq(name, SPAN("expect"))) {
            if (span_eq_nocase(value, SPAN("100-continue"))) h->expects_continue = h->has_body;
            else refuse(&p, 417, "Only the expectation 100-continue is met here.");
        }
    }
    if (!p.status && hosts && h->authority.data && !span_eq_nocase(host, h->authority)) refuse(&p, 400, "The Host field differs from the request's authority.");
    if (hosts && !h->authority.data) h->authority = host;
    if (!p.status && !h->authority.len) refuse(&p, 400, "The request's authority is missing.");
    else if (!p.status && !authority_valid(h->authority)) refuse(&p, 400, "The request's authority is not valid.");
    if (!h->has_body) h->length = 0;
    h->chunked = h->has_body && !sized; /* of a length that is not known before its end */
    if (!p.status) return 0;
    *status = p.status;
    *reason = p.reason;
    return E_INVALID;
}

/* The empty line is there: makes the head out of the text and the marks. */
static int finish_head(struct http_parser *p) {
    struct http_head *h = &p->head;
    *h = (struct http_head){.minor = p->minor, .field_count = p->mark_count};
    h->fields = mem_calloc(p->mark_count, sizeof *h->fields);
    if (!h->fields) return no_memory(p);
    h->text = buf_detach(&p->text, NULL);
    if (!h->text) return no_memory(p);
    h->method = span_of(h->text, p->method_len);
    h->target = span_of(h->text + p->target_start, p->target_len);
    for (size_t i = 0; i < p->mark_count; i++) {
        struct http_mark m = p->marks[i];
        h->fields[i] = (struct http_field){span_of(h->text + m.name, m.name_len), span_of(h->text + m.value, m.value_len)};
    }
    mem_free(p->marks);
    p->marks = NULL;
    p->mark_count = p->mark_capacity = 0;
    if (read_target(p, h) || read_fields(p, h)) return E_INVALID;
    p->chunked = h->chunked;
    p->left = h->length;
    p->state = STATE_TAKEN;
    return 0;
}

void http_parser_take_head(struct http_parser *p, struct http_head *head) {
    *head = p->head;
    p->head = (struct http_head){0};
}

/* ---- Lines -------------------------------------------------------------------------------------------------------------- */

/* One byte of a line in the head or the trailers. 1: the line is complete in p->text behind line_start; 0: not yet; negative: refused. */
static int line_byte(struct http_parser *p, char c) {
    if (p->cr) {
        if (c != '\n') return refuse(p, 400, "A CR stands alone.");
        p->cr = false;
        return 1;
    }
    if (c == '\r') {
        p->cr = true;
        return 0;
    }
    if (c == '\n') return refuse(p, 400, "A line ends in LF without CR.");
    if (is_control(c)) return refuse(p, 400, "The head contains a control character.");
    bool trailer = p->state == STATE_TRAILER;
    if (trailer) {
        if (p->trailer_len++ == p->limits.trailer_max) return refuse(p, 431, "The trailers are too long.");
    } else {
        if (p->line_start == 0 && p->text.len == p->limits.request_line_max) return refuse(p, 414, "The request line is too long.");
        if (p->text.len == p->limits.head_max) return refuse(p, 431, "The header fields are too long.");
    }
    int r = buf_append_char(&p->text, c);
    return r == E_NOMEM ? no_memory(p) : r ? refuse(p, 431, "The header fields are too long.") : 0;
}

static int line_complete(struct http_parser *p) {
    struct span line = span_skip(buf_span(&p->text), p->line_start);
    if (p->state == STATE_TRAILER) {
        struct span name, value;
        if (!line.len) p->state = STATE_END;
        else if (check_field(p, line, &name, &value)) return E_INVALID;
        buf_clear(&p->text);
        return 0;
    }
    if (!line.len) return finish_head(p);
    if (p->line_start == 0 ? parse_request_line(p, line) : parse_field_line(p, line)) return E_INVALID;
    p->line_start = p->text.len;
    return 0;
}

/* In front of a request line: a few empty lines, then a method's first letter. What is no HTTP at all ends here at its first byte. */
static int first_byte(struct http_parser *p, char c) {
    if (p->cr) {
        if (c != '\n') return refuse(p, 400, "A CR stands alone.");
        p->cr = false;
        return ++p->empty_lines > EMPTY_LINES_MAX ? refuse(p, 400, "Too many empty lines stand before the request.") : 0;
    }
    if (c == '\r') {
        p->cr = true;
        return 0;
    }
    if (!is_tchar(c)) return refuse(p, 400, "This is no HTTP request.");
    p->state = STATE_LINE;
    p->line_start = 0;
    p->line_len = 0;
    return line_byte(p, c);
}

/* ---- Chunks ------------------------------------------------------------------------------------------------------------- */

static int size_byte(struct http_parser *p, char c) {
    switch (p->state) {
    case STATE_SIZE_FIRST:
    case STATE_SIZE: {
        int digit = hex_digit(c);
        if (digit >= 0) {
            if (p->line_len++ == SIZE_DIGITS_MAX || p->left > (uint64_t)INT64_MAX >> 4) return refuse(p, 400, "A chunk's size is too large.");
            p->left = p->left << 4 | (uint64_t)digit;
            p->state = STATE_SIZE;
            return 0;
        }
        if (p->state == STATE_SIZE_FIRST || (c != '\r' && c != ';')) return refuse(p, 400, "A chunk's size is not hexadecimal.");
        p->line_len = 0;
        p->state = c == ';' ? STATE_EXTENSION : STATE_SIZE_LF;
        return 0;
    }
    case STATE_EXTENSION:
        if (c == '\r') p->state = STATE_SIZE_LF;
        else if (is_control(c)) return refuse(p, 400, "A chunk's extension contains a control character.");
        else if (p->line_len++ == p->limits.extension_max) return refuse(p, 400, "A chunk's extension is too long.");
        return 0;
    case STATE_SIZE_LF:
        if (c != '\n') return refuse(p, 400, "A CR stands alone.");
        p->state = p->left ? STATE_CHUNK : STATE_TRAILER;
        p->line_start = 0;
        p->trailer_len = 0;
        return 0;
    case STATE_CHUNK_CR:
        if (c != '\r') return refuse(p, 400, "A chunk is longer than its size.");
        p->state = STATE_CHUNK_LF;
        return 0;
    default: /* STATE_CHUNK_LF */
        if (c != '\n') return refuse(p, 400, "A chunk does not end in CR LF.");
        p->state = STATE_SIZE_FIRST;
        p->left = 0;
        p->line_len = 0;
        return 0;
    }
}

static enum http_event body_piece(struct http_parser *p, struct span *input, struct span *data) {
    *data = span_sub(*input, 0, p->left < input->len ? (size_t)p->left : input->len);
    *input = span_skip(*input, data->len);
    p->left -= data->len;
    if (!p->left) p->state = p->state == STATE_CHUNK ? STATE_CHUNK_CR : STATE_END;
    return HTTP_BODY;
}

enum http_event http_parser_next(struct http_parser *p, struct span *input, struct span *data) {
    for (;;) {
        switch (p->state) {
        case STATE_REFUSED: return HTTP_REFUSED;
        case STATE_TAKEN:
            p->state = p->chunked ? STATE_SIZE_FIRST : p->left ? STATE_LENGTH : STATE_END;
            p->line_len = 0;
            if (p->chunked) p->left = 0;
            continue;
        case STATE_END:
            p->state = STATE_FIRST;
            p->empty_lines = 0;
            p->line_start = 0;
            http_head_fini(&p->head); /* where nobody took it */
            buf_fini(&p->text);       /* an idle connection keeps nothing */
            return HTTP_END;
        default: break;
        }
        if (!input->len) return HTTP_NEED;
        if (p->state == STATE_LENGTH || p->state == STATE_CHUNK) return body_piece(p, input, data);
        char c = input->data[0];
        *input = span_skip(*input, 1);
        if (p->state == STATE_FIRST) {
            first_byte(p, c);
        } else if (p->state == STATE_LINE || p->state == STATE_TRAILER) {
            if (line_byte(p, c) == 1) line_complete(p);
            if (p->state == STATE_TAKEN) return HTTP_HEAD;
        } else {
            size_byte(p, c);
        }
    }
}
