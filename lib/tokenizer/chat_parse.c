#include "tokenizer/chat_parse.h"

#include "base/alloc.h"
#include "base/json.h"
#include "tokenizer/template.h"

enum state { STATE_START, STATE_THINKING, STATE_AFTER_THINKING, STATE_TEXT, STATE_CALL };

/* Marks of a family. A call begins at a mark anywhere, or at `first` where the answer begins; it ends behind `close`, or with the answer. */
static const struct style {
    const char *open[2], *close;
    const char *first[4]; /* beginnings of an answer that is a call; white space is skipped */
} styles[CHAT_STYLES] = {
    [CHAT_STYLE_HERMES] = {{"<tool_call>"}, "</tool_call>", {"{\"name\"", "[{\"name\"", "{ \"name\""}},
    [CHAT_STYLE_MISTRAL] = {{"[TOOL_CALLS]"}, NULL, {"[{\"name\"", "[ {\"name\""}},
    [CHAT_STYLE_LLAMA] = {{"<|python_tag|>"}, NULL, {"{\"name\"", "{\"type\": \"function\"", "{\"type\":\"function\"", "{\"function\""}},
    [CHAT_STYLE_DEEPSEEK] = {{"<｜tool▁calls▁begin｜>"}, "<｜tool▁calls▁end｜>", {NULL}},
    [CHAT_STYLE_PYTHONIC] = {{"```tool_code\n", "<|python_start|>"}, NULL, {"["}},
    [CHAT_STYLE_JSON] = {{NULL}, NULL, {"{", "["}},
};
static const char think[] = "<think>", think_end[] = "</think>";

struct found_call {
    struct span name, arguments;
};

struct chat_parser {
    struct chat_sink sink;
    enum chat_style style;
    bool reasoning, said; /* said: words were told since the answer's beginning or its last call */
    enum state state;
    struct buf held; /* what is not told yet */
    size_t seen;     /* of held: in a call, so far without its close */
    size_t lead;     /* of held: in a call, the white space before its mark, which is told only where it is no call */
    uint32_t calls;
    struct span *tools;
    size_t tool_count;
};

int chat_parser_new(const struct chat_parser_options *o, const struct chat_sink *sink, struct chat_parser **out) {
    size_t bytes = 0;
    for (size_t i = 0; i < o->tool_count; i++)
        if (!size_add(bytes, o->tools[i].len, &bytes)) return E_TOO_LARGE;
    size_t size;
    if (!size_mul(o->tool_count, sizeof(struct span), &size) || !size_add(size, sizeof(struct chat_parser), &size) || !size_add(size, bytes, &size)) return E_TOO_LARGE;
    struct chat_parser *p = mem_zalloc(size);
    if (!p) return E_NOMEM;
    p->sink = *sink;
    p->style = o->style;
    p->reasoning = o->reasoning;
    p->tools = (struct span *)(p + 1);
    p->tool_count = o->tool_count;
    char *names = (char *)(p->tools + o->tool_count);
    for (size_t i = 0; i < o->tool_count; i++) {
        if (o->tools[i].len) memcpy(names, o->tools[i].data, o->tools[i].len);
        p->tools[i] = span_of(names, o->tools[i].len);
        names += o->tools[i].len;
    }
    buf_init(&p->held, (size_t)CHAT_CALL_BYTES_MAX + (1 << 20));
    *out = p;
    return 0;
}

void chat_parser_free(struct chat_parser *p) {
    if (!p) return;
    buf_fini(&p->held);
    mem_free(p);
}

void chat_parser_begin_reasoning(struct chat_parser *p) { p->state = STATE_THINKING; }

uint32_t chat_parser_calls(const struct chat_parser *p) { return p->calls; }

/* ---- telling ---- */

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }
static struct span skip_spaces(struct span s) {
    while (s.len && is_space(s.data[0])) s = span_skip(s, 1);
    return s;
}

static int tell_text(struct chat_parser *p, size_t n) {
    struct span s = span_sub(buf_span(&p->held), 0, n);
    if (!s.len) return 0;
    for (size_t i = 0; i < s.len && !p->said; i++) p->said = !is_space(s.data[i]);
    int r = p->sink.on_text(p->sink.arg, s);
    buf_consume(&p->held, n);
    return r;
}

static int tell_reasoning(struct chat_parser *p, size_t n) {
    struct span s = span_sub(buf_span(&p->held), 0, n);
    int r = s.len ? p->sink.on_reasoning(p->sink.arg, s) : 0;
    buf_consume(&p->held, n);
    return r;
}

/* How many bytes at the end of s may be the beginning of the mark. */
static size_t partial(struct span s, const char *mark) {
    size_t len = strlen(mark), most = s.len < len ? s.len : len - 1;
    for (size_t n = most; n > 0; n--)
        if (memcmp(s.data + s.len - n, mark, n) == 0) return n;
    return 0;
}

/* ---- a call's body ---- */

static bool known_tool(const struct chat_parser *p, struct span name) {
    for (size_t i = 0; i < p->tool_count; i++)
        if (span_eq(p->tools[i], name)) return true;
    return false;
}

static int tell_call(struct chat_parser *p, struct span name, struct span arguments) {
    return p->sink.on_call(p->sink.arg, p->calls++, name, arguments);
}

/* Arguments as the text of an object: an object's own, or a string that holds one. */
static int arguments_text(const struct json *v, struct buf *out) {
    if (json_is_null(v)) return buf_append_str(out, "{}");
    if (json_type(v) == JSON_TYPE_OBJECT) return json_write(out, v);
    struct json *inner = NULL;
    int r = json_type(v) == JSON_TYPE_STRING ? json_parse(json_string(v), &inner, NULL) : E_INVALID;
    if (!r && json_type(inner) != JSON_TYPE_OBJECT) r = E_INVALID;
    if (!r) r = buf_append_span(out, json_string(v));
    json_free(inner);
    return r;
}

/* One call as JSON, in any of the shapes that models give it. */
static int json_call(struct chat_parser *p, const struct json *v, bool tell) {
    static const char *const argument_keys[] = {"arguments", "parameters", "args"};
    const struct json *function = json_get(v, "function"), *name = json_get(v, "name"), *arguments = NULL;
    if (json_type(function) == JSON_TYPE_OBJECT) v = function, name = json_get(v, "name");
    else if (json_type(name) != JSON_TYPE_STRING && json_type(function) == JSON_TYPE_STRING) name = function;
    for (size_t i = 0; i < 3 && !arguments; i++) arguments = json_get(v, argument_keys[i]);
    if (json_type(name) != JSON_TYPE_STRING || !known_tool(p, json_string(name))) return E_INVALID;
    struct buf text;
    buf_init(&text, 4 * (size_t)CHAT_CALL_BYTES_MAX);
    int r = arguments_text(arguments, &text);
    if (!r && tell) r = tell_call(p, json_string(name), buf_span(&text));
    buf_fini(&text);
    return r;
}

/* A call or a list of calls: all of them are ones, or none is told. */
static int json_calls(struct chat_parser *p, struct span body) {
    struct json *v = NULL;
    int r = json_parse(body, &v, NULL);
    if (r) return r;
    size_t n = json_type(v) == JSON_TYPE_ARRAY ? json_size(v) : 1;
    if (n == 0 || n > CHAT_CALLS_MAX - p->calls) r = E_INVALID;
    for (int tell = 0; !r && tell < 2; tell++)
        for (size_t i = 0; !r && i < n; i++) r = json_call(p, json_type(v) == JSON_TYPE_ARRAY ? json_at(v, i) : v, tell);
    json_free(v);
    return r;
}

/* The length of the JSON value that s begins with, 0 where its end is not there: brackets and strings are all that is looked at. */
static size_t json_extent(struct span s) {
    size_t depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.data[i];
        if (quoted) {
            if (c == '\\') i++;
            else if (c == '"') quoted = false;
        } else if (c == '"') quoted = true;
        else if (c == '{' || c == '[') depth++;
        else if (c == '}' || c == ']') {
            if (depth == 0) return 0;
            if (--depth == 0) return i + 1;
        }
    }
    return 0;
}

/* Several objects behind each other, with ; or , between. */
static int json_row(struct chat_parser *p, struct span body) {
    body = skip_spaces(body);
    for (int tell = 0; tell < 2; tell++) {
        struct span rest = body;
        size_t n = 0;
        while (rest.len) {
            size_t len = json_extent(rest);
            struct json *v = NULL;
            int r = len && ++n <= CHAT_CALLS_MAX - p->calls ? json_parse(span_sub(rest, 0, len), &v, NULL) : E_INVALID;
            if (!r) r = json_type(v) == JSON_TYPE_OBJECT ? json_call(p, v, tell) : E_INVALID;
            json_free(v);
            if (r) return r;
            rest = skip_spaces(span_skip(rest, len));
            if (rest.len && (rest.data[0] == ';' || rest.data[0] == ',')) rest = skip_spaces(span_skip(rest, 1));
        }
        if (n == 0) return E_INVALID;
        if (tell) break;
        if (n > CHAT_CALLS_MAX - p->calls) return E_INVALID;
    }
    return 0;
}

static bool cut_at(struct span *rest, const char *mark, struct span *head) {
    ptrdiff_t at = span_find(*rest, span_str(mark));
    if (at < 0) return false;
    *head = span_sub(*rest, 0, (size_t)at);
    *rest = span_skip(*rest, (size_t)at + strlen(mark));
    return true;
}

/* name and JSON object */
static int named_call(struct chat_parser *p, struct span name, struct span arguments, bool tell) {
    struct json *v = NULL;
    name = span_trim(name);
    arguments = span_trim(arguments);
    if (!known_tool(p, name)) return E_INVALID;
    int r = json_parse(arguments, &v, NULL);
    if (!r && json_type(v) != JSON_TYPE_OBJECT) r = E_INVALID;
    json_free(v);
    return r || !tell ? r : tell_call(p, name, arguments);
}

/* <function=NAME><parameter=KEY>VALUE</parameter>…</function>: a value that is JSON is that, another is a string. */
static int xml_call(struct chat_parser *p, struct span body) {
    struct span name, inner, rest = body, key, value;
    struct buf text;
    struct json_out w;
    if (!cut_at(&rest, "<function=", &name) || !cut_at(&rest, ">", &name) || !cut_at(&rest, "</function>", &inner) || !known_tool(p, span_trim(name))) return E_INVALID;
    buf_init(&text, 4 * (size_t)CHAT_CALL_BYTES_MAX);
    json_begin(&w, &text);
    json_object(&w);
    int r = 0;
    while (!r && cut_at(&inner, "<parameter=", &key)) {
        struct json *v = NULL;
        if (!cut_at(&inner, ">", &key) || !cut_at(&inner, "</parameter>", &value)) r = E_INVALID;
        if (r) break;
        if (span_starts(value, SPAN("\n"))) value = span_skip(value, 1);
        if (span_ends(value, SPAN("\n"))) value.len--;
        json_key_span(&w, key);
        if (json_parse(value, &v, NULL) == 0) json_put_raw(&w, value);
        else json_put_span(&w, value);
        json_free(v);
    }
    json_object_end(&w);
    struct json *whole = NULL;
    if (!r) r = text.failed ? text.failed : json_parse(buf_span(&text), &whole, NULL); /* a key twice is none */
    json_free(whole);
    if (!r) r = tell_call(p, span_trim(name), buf_span(&text));
    buf_fini(&text);
    return r;
}

static int hermes_body(struct chat_parser *p, struct span body) {
    struct span s = span_trim(body);
    return span_starts(s, SPAN("<function=")) ? xml_call(p, s) : json_calls(p, s);
}

/* A list, or name[ARGS]{…} or name{…}, each behind a mark of its own. */
static int mistral_body(struct chat_parser *p, struct span body) {
    struct span s = span_trim(body);
    if (span_starts(s, SPAN("["))) return json_calls(p, s);
    for (int tell = 0; tell < 2; tell++) {
        struct span rest = s, one;
        size_t n = 0;
        while (rest.len) {
            if (!cut_at(&rest, "[TOOL_CALLS]", &one)) one = rest, rest.len = 0;
            ptrdiff_t at = span_find_char(one, '{');
            if (at < 0 || ++n > CHAT_CALLS_MAX - p->calls) return E_INVALID;
            struct span name = span_sub(one, 0, (size_t)at), ignored;
            struct span before = name;
            if (cut_at(&before, "[CALL_ID]", &ignored) || (before = name, cut_at(&before, "[ARGS]", &ignored))) name = ignored;
            int r = named_call(p, name, span_skip(one, (size_t)at), tell);
            if (r) return r;
        }
        if (n == 0) return E_INVALID;
    }
    return 0;
}

static int deepseek_body(struct chat_parser *p, struct span body) {
    for (int tell = 0; tell < 2; tell++) {
        struct span rest = body, one, type, name;
        size_t n = 0;
        while (cut_at(&rest, "<｜tool▁call▁begin｜>", &type)) {
            if (!cut_at(&rest, "<｜tool▁call▁end｜>", &one)) one = rest, rest.len = 0;
            if (!cut_at(&one, "<｜tool▁sep｜>", &type) || ++n > CHAT_CALLS_MAX - p->calls) return E_INVALID;
            if (cut_at(&one, "```json\n", &name)) { /* type, name, a block of JSON */
                struct span block = one;
                if (!cut_at(&block, "```", &one)) one = block;
            } else name = type; /* name, JSON */
            int r = named_call(p, name, one, tell);
            if (r) return r;
        }
        if (n == 0) return E_INVALID;
    }
    return 0;
}

/* ---- Python's calls ---- */

struct python {
    struct span rest;
    struct json_out w;
    unsigned depth;
};
enum { PYTHON_DEPTH_MAX = 32 };

static bool take_char(struct python *y, char c) {
    y->rest = skip_spaces(y->rest);
    if (!y->rest.len || y->rest.data[0] != c) return false;
    y->rest = span_skip(y->rest, 1);
    return true;
}
static bool is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-'; }
static struct span take_word(struct python *y) {
    y->rest = skip_spaces(y->rest);
    size_t n = 0;
    while (n < y->rest.len && is_word(y->rest.data[n])) n++;
    struct span word = span_sub(y->rest, 0, n);
    y->rest = span_skip(y->rest, n);
    return word;
}

static int take_string(struct python *y, struct buf *out) {
    char quote = y->rest.data[0];
    size_t i = 1;
    for (; i < y->rest.len && y->rest.data[i] != quote; i++) {
        char c = y->rest.data[i];
        if (c == '\n') return E_INVALID;
        if (c == '\\' && i + 1 < y->rest.len) {
            c = y->rest.data[++i];
            c = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
            if (c != '\n' && c != '\t' && c != '\r' && c != '\\' && c != '\'' && c != '"') (void)buf_append_char(out, '\\');
        }
        (void)buf_append_char(out, c);
    }
    if (i >= y->rest.len) return E_INVALID;
    y->rest = span_skip(y->rest, i + 1);
    return out->failed;
}

/* A literal, written as JSON. Nesting is bounded: a few frames of recursion. */
static int take_literal(struct python *y) {
    y->rest = skip_spaces(y->rest);
    if (!y->rest.len || y->depth >= PYTHON_DEPTH_MAX) return E_INVALID;
    char c = y->rest.data[0];
    struct buf text;
    int r = 0;
    if (c == '"' || c == '\'') {
        buf_init(&text, CHAT_CALL_BYTES_MAX);
        r = take_string(y, &text);
        if (!r) json_put_span(&y->w, buf_span(&text));
        buf_fini(&text);
        return r;
    }
    if (c == '[' || c == '{' || c == '(') {
        char close = c == '[' ? ']' : c == '{' ? '}' : ')';
        y->rest = span_skip(y->rest, 1);
        y->depth++;
        if (c == '{') json_object(&y->w);
        else json_array(&y->w);
        for (bool first = true; !r && !take_char(y, close); first = false) {
            if (!first && !take_char(y, ',')) return E_INVALID;
            if (!first && take_char(y, close)) break;
            y->rest = skip_spaces(y->rest);
            if (c == '{') {
                if (!y->rest.len || (y->rest.data[0] != '"' && y->rest.data[0] != '\'')) return E_INVALID;
                buf_init(&text, CHAT_CALL_BYTES_MAX);
                r = take_string(y, &text);
                if (!r) json_key_span(&y->w, buf_span(&text));
                buf_fini(&text);
                if (!r && !take_char(y, ':')) r = E_INVALID;
            }
            if (!r) r = take_literal(y);
        }
        if (r) return r;
        if (c == '{') json_object_end(&y->w);
        else json_array_end(&y->w);
        y->depth--;
        return 0;
    }
    struct span word = take_word(y);
    int64_t i;
    double d;
    if (span_eq_str(word, "True") || span_eq_str(word, "true")) json_put_bool(&y->w, true);
    else if (span_eq_str(word, "False") || span_eq_str(word, "false")) json_put_bool(&y->w, false);
    else if (span_eq_str(word, "None") || span_eq_str(word, "null")) json_put_null(&y->w);
    else if (span_to_i64(word, &i) == 0) json_put_int(&y->w, i);
    else if (span_to_f64(word, &d) == 0 && d - d == 0) json_put_real(&y->w, d);
    else return E_INVALID;
    return 0;
}

static int python_call(struct chat_parser *p, struct python *y, bool tell) {
    struct buf text;
    struct span name = take_word(y);
    if (!known_tool(p, name) || !take_char(y, '(')) return E_INVALID;
    buf_init(&text, 4 * (size_t)CHAT_CALL_BYTES_MAX);
    json_begin(&y->w, &text);
    json_object(&y->w);
    y->depth = 0;
    int r = 0;
    for (bool first = true; !r && !take_char(y, ')'); first = false) {
        if (!first && !take_char(y, ',')) r = E_INVALID;
        struct span key = take_word(y);
        if (!r && (!key.len || !take_char(y, '='))) r = E_INVALID;
        if (!r) {
            json_key_span(&y->w, key);
            r = take_literal(y);
        }
    }
    if (!r) json_object_end(&y->w);
    struct json *whole = NULL;
    if (!r) r = text.failed ? text.failed : json_parse(buf_span(&text), &whole, NULL);
    json_free(whole);
    if (!r && tell) r = tell_call(p, name, buf_span(&text));
    buf_fini(&text);
    return r;
}

static int python_body(struct chat_parser *p, struct span body) {
    struct span s = span_trim(body), block;
    if (cut_at(&s, "```", &block)) s = span_trim(block);
    for (int tell = 0; tell < 2; tell++) {
        struct python y = {.rest = s};
        bool list = take_char(&y, '[');
        size_t n = 0;
        do {
            if (++n > CHAT_CALLS_MAX - p->calls) return E_INVALID;
            int r = python_call(p, &y, tell);
            if (r) return r;
        } while (take_char(&y, ',') || (!list && skip_spaces(y.rest).len));
        if (list && !take_char(&y, ']')) return E_INVALID;
        if (skip_spaces(y.rest).len) return E_INVALID;
    }
    return 0;
}

/* ---- the machine ---- */

/* What is held is a call with its marks: told as one, or as the text that it is. */
static int end_call(struct chat_parser *p, struct span whole) {
    const struct style *style = &styles[p->style];
    struct span body = span_skip(whole, p->lead);
    for (size_t i = 0; i < 2; i++)
        if (style->open[i] && span_starts(body, span_str(style->open[i]))) {
            body = span_skip(body, strlen(style->open[i]));
            break;
        }
    if (style->close && span_ends(body, span_str(style->close))) body.len -= strlen(style->close);
    size_t n = whole.len;
    int r = E_INVALID;
    uint32_t before = p->calls;
    switch (p->style) {
    case CHAT_STYLE_HERMES: r = hermes_body(p, body); break;
    case CHAT_STYLE_MISTRAL: r = mistral_body(p, body); break;
    case CHAT_STYLE_LLAMA:
    case CHAT_STYLE_JSON: r = span_starts(skip_spaces(body), SPAN("[")) ? json_calls(p, body) : json_row(p, body); break;
    case CHAT_STYLE_DEEPSEEK: r = deepseek_body(p, body); break;
    case CHAT_STYLE_PYTHONIC: r = python_body(p, body); break;
    default: break;
    }
    p->state = STATE_TEXT;
    p->seen = p->lead = 0;
    if (r && p->calls > before) return r; /* the sink failed half way */
    if (r) return tell_text(p, n);
    buf_consume(&p->held, n);
    p->said = false; /* white space behind it is nobody's word */
    return 0;
}

/* The answer's beginning: nothing but white space has come, and maybe part of what a call begins with. True: it is one; *wait: it may become one. */
static bool begins_call(const struct style *style, struct span s, bool *wait) {
    *wait = s.len == 0;
    for (size_t i = 0; i < 4; i++) {
        if (!style->first[i]) continue;
        struct span first = span_str(style->first[i]);
        if (span_starts(s, first)) return true;
        *wait |= span_starts(first, s);
    }
    return false;
}

/* One step over what is held; *more: there may be another. */
static int step(struct chat_parser *p, bool *more) {
    const struct style *style = &styles[p->style];
    struct span s = buf_span(&p->held), rest = skip_spaces(s);
    size_t spaces = s.len - rest.len;
    *more = false;
    switch (p->state) {
    case STATE_START:
        if (p->reasoning && span_starts(rest, SPAN("<think>"))) {
            buf_consume(&p->held, spaces + strlen(think));
            p->state = STATE_THINKING;
            *more = true;
        } else if (!p->reasoning || (rest.len && !span_starts(SPAN("<think>"), rest))) {
            p->state = STATE_TEXT;
            *more = true;
        }
        return 0;
    case STATE_THINKING: {
        ptrdiff_t end = span_find(s, SPAN("</think>"));
        if (!p->said && spaces && s.len) { /* line breaks around it are the template's */
            buf_consume(&p->held, spaces);
            *more = rest.len > 0;
            return 0;
        }
        size_t n = end >= 0 ? (size_t)end : s.len - partial(s, think_end);
        size_t shown = n;
        while (shown > 0 && is_space(s.data[shown - 1])) shown--;
        p->said |= shown > 0;
        int r = tell_reasoning(p, shown);
        if (!r && end >= 0) {
            buf_consume(&p->held, n - shown + strlen(think_end));
            p->state = STATE_AFTER_THINKING;
            p->said = false;
            *more = true;
        }
        return r;
    }
    case STATE_AFTER_THINKING:
        buf_consume(&p->held, spaces);
        if (rest.len) {
            p->state = STATE_TEXT;
            *more = true;
        }
        return 0;
    case STATE_TEXT: {
        bool wait = false;
        if (p->style == CHAT_STYLE_NONE) return tell_text(p, s.len);
        if (!p->said && p->calls == 0 && begins_call(style, rest, &wait)) {
            p->state = STATE_CALL;
            *more = true;
            return 0;
        }
        size_t keep = 0, first = s.len;
        bool found = false;
        for (size_t i = 0; i < 2; i++) {
            if (!style->open[i]) continue;
            ptrdiff_t at = span_find(s, span_str(style->open[i]));
            size_t part = partial(s, style->open[i]);
            if (at >= 0 && (size_t)at < first) first = (size_t)at, found = true;
            if (part > keep) keep = part;
        }
        if (found) { /* the first of the marks, whichever it is */
            p->state = STATE_CALL;
            *more = true;
            if (p->said || spaces < first) return tell_text(p, first);
            p->lead = first;
            return 0;
        }
        if (wait) return 0;
        if (rest.len <= keep && !p->said) return 0; /* white space before what may be a call */
        return tell_text(p, s.len - keep);
    }
    case STATE_CALL: {
        if (s.len > CHAT_CALL_BYTES_MAX) {
            p->state = STATE_TEXT;
            p->seen = p->lead = 0;
            p->said = true;
            return tell_text(p, s.len);
        }
        bool marked = style->open[0] && span_starts(span_skip(s, p->lead), span_str(style->open[0]));
        const char *close = marked ? style->close : NULL;
        if (!close) return 0; /* ends with the answer */
        size_t from = p->seen > strlen(close) ? p->seen - strlen(close) : 0;
        ptrdiff_t at = span_find(span_skip(s, from), span_str(close));
        p->seen = s.len;
        if (at < 0) return 0;
        *more = true;
        return end_call(p, span_sub(s, 0, from + (size_t)at + strlen(close)));
    }
    }
    return 0;
}

static int run(struct chat_parser *p) {
    int r = 0;
    for (bool more = true; !r && more && p->held.len;) r = step(p, &more);
    return r;
}

int chat_parser_push(struct chat_parser *p, struct span bytes) {
    if (p->state == STATE_TEXT && p->style == CHAT_STYLE_NONE && !p->held.len) { /* nearly always: nothing to look for */
        p->said |= bytes.len > 0;
        return bytes.len ? p->sink.on_text(p->sink.arg, bytes) : 0;
    }
    while (bytes.len) { /* in pieces, so that what is held stays within its cap */
        struct span piece = span_sub(bytes, 0, 1 << 19);
        int r = buf_append_span(&p->held, piece);
        if (!r) r = run(p);
        if (r) return r;
        bytes = span_skip(bytes, piece.len);
    }
    return 0;
}

int chat_parser_finish(struct chat_parser *p) {
    int r = run(p);
    while (!r && p->state == STATE_CALL && p->held.len) {
        r = end_call(p, buf_span(&p->held));
        if (!r) r = run(p);
    }
    if (r) return r;
    struct span s = buf_span(&p->held);
    if (p->state == STATE_THINKING) return skip_spaces(s).len ? tell_reasoning(p, s.len) : 0;
    if (p->calls > 0 && !skip_spaces(s).len) return 0;
    return tell_text(p, s.len);
}
