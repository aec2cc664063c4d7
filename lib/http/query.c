#include "http/query.h"

#include "base/error.h"
#include "http/parser.h"

int http_percent_decode(struct span s, bool plus, struct buf *out) {
    size_t before = out->len;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.data[i];
        int r = 0;
        if (c == '+' && plus) c = ' ';
        if (c == '%') {
            if (s.len - i < 3 || hex_decode(span_sub(s, i + 1, 2), &c) || !c) r = E_INVALID;
            i += 2;
        } else if (!c) {
            r = E_INVALID;
        }
        if (!r) r = buf_append_char(out, c);
        if (r) {
            out->len = before;
            return r;
        }
    }
    return 0;
}

bool http_query_next(struct span *query, struct span *name, struct span *value) {
    struct span pair;
    do
        if (!span_cut(query, '&', &pair)) return false;
    while (!pair.len);
    ptrdiff_t equals = span_find_char(pair, '=');
    *name = equals < 0 ? pair : span_sub(pair, 0, (size_t)equals);
    *value = equals < 0 ? SPAN("") : span_skip(pair, (size_t)equals + 1);
    return true;
}

int http_query_get(struct span query, const char *name, struct buf *out) {
    struct span key, value;
    struct buf decoded;
    buf_init(&decoded, strlen(name));
    int r = E_NOT_FOUND;
    while (r == E_NOT_FOUND && http_query_next(&query, &key, &value)) {
        buf_clear(&decoded);
        int d = http_percent_decode(key, true, &decoded);
        if (d == E_NOMEM) r = d;
        else if (!d && span_eq_str(buf_span(&decoded), name)) r = http_percent_decode(value, true, out);
    }
    buf_fini(&decoded);
    return r;
}

static struct span skip_blanks(struct span s) {
    while (s.len && (s.data[0] == ' ' || s.data[0] == '\t')) s = span_skip(s, 1);
    return s;
}

/* A token or a quoted string at the front of *s, moved behind it; unquoted into out (NULL: not wanted). */
static int take_value(struct span *s, struct buf *out) {
    if (!s->len || s->data[0] != '"') {
        size_t n = 0;
        while (n < s->len && s->data[n] != ';' && s->data[n] != ' ' && s->data[n] != '\t') n++;
        struct span token = span_sub(*s, 0, n);
        *s = span_skip(*s, n);
        return !http_is_token(token) ? E_INVALID : out ? buf_append_span(out, token) : 0;
    }
    for (size_t i = 1; i < s->len; i++) {
        char c = s->data[i];
        if (c == '"') {
            *s = span_skip(*s, i + 1);
            return 0;
        }
        /* Browsers write a quote in a file name as %22 and a backslash as itself: only \" and \\ are escapes. */
        if (c == '\\' && i + 1 < s->len && (s->data[i + 1] == '"' || s->data[i + 1] == '\\')) c = s->data[++i];
        int r = out ? buf_append_char(out, c) : 0;
        if (r) return r;
    }
    return E_INVALID;
}

int http_field_parameter(struct span field, const char *name, struct buf *out) {
    size_t before = out->len;
    ptrdiff_t at = span_find_char(field, ';');
    struct span rest = at < 0 ? SPAN("") : span_skip(field, (size_t)at);
    int r = E_NOT_FOUND;
    while ((rest = skip_blanks(rest)).len) {
        if (rest.data[0] != ';') return E_INVALID;
        rest = skip_blanks(span_skip(rest, 1));
        if (!rest.len || rest.data[0] == ';') continue;
        ptrdiff_t equals = span_find_char(rest, '=');
        if (equals < 0) return E_INVALID;
        struct span key = span_sub(rest, 0, (size_t)equals);
        if (!http_is_token(key)) return E_INVALID;
        rest = span_skip(rest, (size_t)equals + 1);
        bool wanted = span_eq_nocase(key, span_str(name));
        if (wanted && r == 0) return E_INVALID; /* twice: two readers could take different ones */
        int taken = take_value(&rest, wanted ? out : NULL);
        if (taken) {
            out->len = before;
            return taken;
        }
        if (wanted) r = 0;
    }
    return r;
}

bool http_media_type_is(struct span content_type, const char *type) {
    ptrdiff_t at = span_find_char(content_type, ';');
    return span_eq_nocase(span_trim(at < 0 ? content_type : span_sub(content_type, 0, (size_t)at)), span_str(type));
}

/* ---- multipart/form-data ------------------------------------------------------------------------------------------------- */

enum {
    PART_PREAMBLE, /* up to the first delimiter, whose CR LF may be missing: it begins as if it had been seen */
    PART_BOUNDARY, /* behind a delimiter: CR LF, or -- */
    PART_HEAD,
    PART_DATA,
    PART_EPILOGUE,
    PART_REFUSED,
};

static enum multipart_event refuse(struct multipart *m, const char *reason) {
    m->state = PART_REFUSED;
    m->reason = reason;
    return MULTIPART_REFUSED;
}

const char *multipart_reason(const struct multipart *m) { return m->reason ? m->reason : ""; }

int multipart_init(struct multipart *m, struct span content_type) {
    *m = (struct multipart){0};
    struct buf boundary;
    buf_init(&boundary, MULTIPART_BOUNDARY_MAX);
    int r = http_media_type_is(content_type, "multipart/form-data") ? http_field_parameter(content_type, "boundary", &boundary) : E_INVALID;
    struct span b = buf_span(&boundary);
    for (size_t i = 0; !r && i < b.len; i++) /* bchars of RFC 2046 */
        if (!(b.data[i] >= '0' && b.data[i] <= '9') && !((b.data[i] | 32) >= 'a' && (b.data[i] | 32) <= 'z') && !strchr("'()+_,-./:=? ", b.data[i])) r = E_INVALID;
    if (!r && (!b.len || b.data[b.len - 1] == ' ')) r = E_INVALID;
    if (!r) {
        m->delimiter_len = (size_t)snprintf(m->delimiter, sizeof m->delimiter, "\r\n--%.*s", SPAN_ARG(b));
        m->matched = m->unseen = 2;
        buf_init(&m->line, MULTIPART_HEAD_MAX);
        buf_init(&m->name, MULTIPART_HEAD_MAX);
        buf_init(&m->file_name, MULTIPART_HEAD_MAX);
        buf_init(&m->content_type, MULTIPART_HEAD_MAX);
    }
    buf_fini(&boundary);
    return r == E_NOMEM ? r : r ? E_INVALID : 0;
}

void multipart_fini(struct multipart *m) {
    buf_fini(&m->line);
    buf_fini(&m->name);
    buf_fini(&m->file_name);
    buf_fini(&m->content_type);
    m->state = PART_REFUSED;
}

static int head_line(struct multipart *m, struct span line) {
    ptrdiff_t colon = span_find_char(line, ':');
    if (colon < 0 || !http_is_token(span_sub(line, 0, (size_t)colon))) return E_INVALID;
    struct span name = span_sub(line, 0, (size_t)colon), value = span_trim(span_skip(line, (size_t)colon + 1));
    if (span_eq_nocase(name, SPAN("content-type"))) {
        buf_clear(&m->content_type);
        return buf_append_span(&m->content_type, value);
    }
    if (!span_eq_nocase(name, SPAN("content-disposition"))) return 0;
    if (m->has_name || !http_media_type_is(value, "form-data")) return E_INVALID;
    int r = http_field_parameter(value, "name", &m->name);
    if (r) return r == E_NOT_FOUND ? E_INVALID : r;
    m->has_name = true;
    r = http_field_parameter(value, "filename", &m->file_name);
    return r == E_NOT_FOUND ? 0 : r;
}

/* One byte of a boundary's or head's line. */
static enum multipart_event line_byte(struct multipart *m, char c) {
    if (++m->head_len > MULTIPART_HEAD_MAX) return refuse(m, "A part's head is too long.");
    if (buf_append_char(&m->line, c)) return refuse(m, "The server is out of memory.");
    struct span line = buf_span(&m->line);
    if (m->state == PART_BOUNDARY && span_eq(line, SPAN("--"))) {
        m->state = PART_EPILOGUE;
        return MULTIPART_END;
    }
    if (!span_ends(line, SPAN("\r\n"))) return MULTIPART_NEED;
    line.len -= 2;
    enum multipart_event event = MULTIPART_NEED;
    if (m->state == PART_BOUNDARY) {
        if (span_trim(line).len) return refuse(m, "Something stands behind a boundary.");
        if (m->parts++ == MULTIPART_PARTS_MAX) return refuse(m, "The form has too many parts.");
        m->state = PART_HEAD;
        m->head_len = 0;
        m->has_name = false;
        buf_clear(&m->name);
        buf_clear(&m->file_name);
        buf_clear(&m->content_type);
    } else if (line.len) {
        int r = head_line(m, line);
        if (r) return refuse(m, r == E_NOMEM ? "The server is out of memory." : "A part's head is not valid.");
    } else {
        if (!m->has_name) return refuse(m, "A part has no name.");
        m->state = PART_DATA;
        m->matched = m->unseen = 2; /* an empty part: its delimiter's CR LF is the one that ends the head */
        event = MULTIPART_PART;
    }
    buf_clear(&m->line);
    return event;
}

/* Data up to what may be the delimiter. A CR is only at the delimiter's front, so that what was held back as its beginning and turns out
 * to be data can be given out at once, from the delimiter itself. */
static enum multipart_event take_data(struct multipart *m, struct span *input, struct span *data) {
    bool part = m->state == PART_DATA;
    while (input->len) {
        if (input->data[0] == m->delimiter[m->matched]) {
            *input = span_skip(*input, 1);
            if (++m->matched < m->delimiter_len) continue;
            m->matched = m->unseen = 0;
            m->state = PART_BOUNDARY;
            m->head_len = 0;
            buf_clear(&m->line);
            return part ? MULTIPART_PART_END : MULTIPART_NEED;
        }
        if (m->matched) {
            *data = span_of(m->delimiter + m->unseen, m->matched - m->unseen);
            m->matched = m->unseen = 0;
        } else {
            ptrdiff_t cr = span_find_char(*input, '\r');
            *data = span_sub(*input, 0, cr < 0 ? input->len : (size_t)cr);
            *input = span_skip(*input, data->len);
        }
        if (part && data->len) return MULTIPART_DATA;
    }
    return MULTIPART_NEED;
}

enum multipart_event multipart_next(struct multipart *m, struct span *input, struct span *data) {
    for (;;) {
        enum multipart_event event = MULTIPART_NEED;
        if (m->state == PART_REFUSED) return MULTIPART_REFUSED;
        if (m->state == PART_EPILOGUE) *input = span_skip(*input, input->len);
        if (!input->len) return MULTIPART_NEED;
        if (m->state == PART_PREAMBLE || m->state == PART_DATA) {
            event = take_data(m, input, data);
        } else {
            char c = input->data[0];
            *input = span_skip(*input, 1);
            event = line_byte(m, c);
        }
        if (event != MULTIPART_NEED) return event;
    }
}
