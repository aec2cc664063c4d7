/*
 * Manual pages to text: the requests and escapes of troff, and the man(7) macros. See troff.h for what is followed and what is not.
 * Each input line is a request (. or ' first) or text. Options and other tagged paragraphs become "- tag: body", headings "## NAME", displays verbatim lines.
 */
#include "services/ingest/troff.h"

#include "base/error.h"
#include "base/alloc.h"
#include "services/ingest/troff_glyphs.h"

/* ---- input ---- */

static struct troff_frame *frame(struct troff *tr) {
    while (tr->n_frames && !tr->frames[tr->n_frames - 1].rest.len) tr->n_frames--;
    return tr->n_frames ? &tr->frames[tr->n_frames - 1] : NULL;
}

static bool continued(struct span line) {
    size_t n = 0;
    while (n < line.len && line.data[line.len - 1 - n] == '\\') n++;
    return n % 2 == 1;
}

/* Puts the arguments of a macro in: \$1 … \$9, \$* and \$@. */
static struct span fill_args(struct troff *tr, const struct troff_frame *f, struct span line) {
    if (!memmem(line.data, line.len, "\\$", 2)) return line;
    struct buf b;
    buf_init(&b, tr->budget < (1u << 16) ? tr->budget : 1u << 16);
    for (size_t i = 0; i < line.len; i++) {
        if (line.data[i] == '\\' && i + 2 < line.len && line.data[i + 1] == '$') {
            char c = line.data[i + 2];
            if (c >= '1' && c <= '9' && c - '1' < f->n_args) buf_append_span(&b, f->args[c - '1']);
            if (c == '*' || c == '@')
                for (int k = 0; k < f->n_args; k++) {
                    if (k) buf_append_char(&b, ' ');
                    buf_append_span(&b, f->args[k]);
                }
            i += 2;
        } else
            buf_append_char(&b, line.data[i]);
    }
    tr->budget -= b.len < tr->budget ? b.len : tr->budget;
    struct span filled = arena_span(&tr->arena, buf_span(&b));
    buf_fini(&b);
    return filled.data ? filled : (struct span){0};
}

bool troff_line(struct troff *tr, struct span *line) {
    struct troff_frame *f = frame(tr);
    if (!f) return false;
    span_cut(&f->rest, '\n', line);
    if (line->len && line->data[line->len - 1] == '\r') *line = span_sub(*line, 0, line->len - 1);
    if (continued(*line) && f->rest.len) {
        buf_clear(&tr->line);
        while (continued(*line) && f->rest.len) {
            buf_append(&tr->line, line->data, line->len - 1);
            span_cut(&f->rest, '\n', line);
        }
        buf_append_span(&tr->line, *line);
        *line = buf_span(&tr->line);
    }
    if (f->n_args >= 0 && tr->n_frames > 1) *line = fill_args(tr, f, *line);
    return true;
}

static struct troff_name *find_name(struct troff *tr, struct span name, bool macro) {
    for (int i = tr->n_names - 1; i >= 0; i--)
        if (tr->names[i].macro == macro && span_eq(tr->names[i].name, name)) return &tr->names[i];
    return NULL;
}

static void define(struct troff *tr, struct span name, struct span value, bool macro) {
    struct troff_name *n = find_name(tr, name, macro);
    if (!n) {
        if (tr->n_names == TROFF_NAMES_MAX) return;
        struct span copy = arena_span(&tr->arena, name);
        if (!copy.data) return;
        n = &tr->names[tr->n_names++];
        *n = (struct troff_name){.name = copy, .macro = macro};
    }
    n->value = arena_span(&tr->arena, value);
    if (!n->value.data) n->value = (struct span){0};
}

/* ---- escapes ---- */

static const char *glyph(struct span name) {
    size_t low = 0, high = sizeof glyphs / sizeof *glyphs;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int c = span_compare(name, span_str(glyphs[middle].name));
        if (!c) return glyphs[middle].text;
        if (c < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

static void put_glyph(struct span name, struct buf *out) {
    const char *text = glyph(name);
    if (text) {
        buf_append_str(out, text);
        return;
    }
    if (name.len >= 5 && name.data[0] == 'u') { /* uXXXX, uXXXX_YYYY: with combining marks */
        struct span rest = span_skip(name, 1), part;
        while (span_cut(&rest, '_', &part)) {
            uint32_t code = 0;
            for (size_t i = 0; i < part.len && i < 6; i++) {
                char c = part.data[i];
                int v = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
                if (v < 0) return;
                code = code * 16 + (uint32_t)v;
            }
            char utf8[4];
            size_t n = code >= 32 ? utf8_encode(code, utf8) : 0;
            buf_append(out, utf8, n);
        }
        return;
    }
    if (name.len > 4 && span_starts(name, SPAN("char"))) {
        uint64_t code;
        char utf8[4];
        if (!span_to_u64(span_skip(name, 4), &code) && code >= 32 && code < 256) buf_append(out, utf8, utf8_encode((uint32_t)code, utf8));
        return;
    }
    uint32_t code = entity_lookup(name); /* names such as "eacute" are not troff's, but seen */
    char utf8[4];
    if (code) buf_append(out, utf8, utf8_encode(code, utf8));
}

/* A name behind \f, \*, \n: x, (xx or [name]. Returns its length. */
static size_t escape_name(struct span s, struct span *name) {
    *name = (struct span){0};
    if (!s.len) return 0;
    if (s.data[0] == '(') {
        *name = span_sub(s, 1, 2);
        return 1 + name->len;
    }
    if (s.data[0] == '[') {
        const char *end = memchr(s.data, ']', s.len);
        size_t n = end ? (size_t)(end - s.data) : s.len;
        *name = span_sub(s, 1, n - 1);
        return end ? n + 1 : n;
    }
    uint32_t code;
    size_t n = span_utf8_decode(s, &code);
    *name = span_sub(s, 0, n ? n : 1);
    return name->len;
}

/* 'argument' with any delimiter. Returns its length with both. */
static size_t escape_argument(struct span s, struct span *argument) {
    *argument = (struct span){0};
    if (!s.len) return 0;
    const char *end = memchr(s.data + 1, s.data[0], s.len - 1);
    size_t n = end ? (size_t)(end - s.data) : s.len;
    *argument = span_sub(s, 1, n - 1);
    return end ? n + 1 : n;
}

static uint32_t register_key(struct span name) {
    uint64_t h = span_hash(name);
    return (uint32_t)(h ^ h >> 32);
}

static int64_t register_value(struct troff *tr, struct span name, int step) {
    if (span_eq_str(name, ".g")) return 1;
    uint32_t key = register_key(name);
    for (int i = 0; i < tr->n_registers; i++)
        if (tr->registers[i].name == key) {
            if (step && tr->registers[i].value < (1 << 30) && tr->registers[i].value > -(1 << 30)) tr->registers[i].value += step * tr->registers[i].step;
            return tr->registers[i].value;
        }
    return 0;
}

static size_t decode_escape(struct troff *tr, struct span s, struct buf *out) {
    /* s[0] is the backslash. Returns how much was read. */
    if (s.len < 2) return s.len;
    struct span name, rest = span_skip(s, 2);
    char c = s.data[1];
    switch (c) {
    case '&': case ')': case '%': case ':': case '|': case '^': case '/': case ',': case '{': case '}': case 'p': case 'r': case 'u': case 'd': case '?': case '\n': case 'z':
        return 2;
    case 'c':
        tr->join = true;
        return 2;
    case ' ': case '~': case '0': case 'a':
        buf_append_char(out, ' ');
        return 2;
    case 't':
        buf_append_char(out, '\t');
        return 2;
    case 'e': case 'E': case '\\':
        buf_append_char(out, '\\');
        return 2;
    case '\'': case '`': case '-': case '_': case '.':
        buf_append_char(out, c);
        return 2;
    case '"': case '#': case '!':
        return s.len;
    case '(':
        put_glyph(span_sub(rest, 0, 2), out);
        return 2 + (rest.len < 2 ? rest.len : 2);
    case '[': {
        size_t n = escape_name(span_skip(s, 1), &name);
        put_glyph(name, out);
        return 1 + n;
    }
    case 'f': case 'm': case 'M': case 'F': case 'k': case 'Y': case 'V': case 'g': case 'O':
        return 2 + escape_name(rest, &name);
    case 'n': {
        int step = 0;
        size_t sign = 0;
        if (rest.len && (rest.data[0] == '+' || rest.data[0] == '-')) {
            step = rest.data[0] == '+' ? 1 : -1;
            sign = 1;
        }
        size_t n = escape_name(span_skip(rest, sign), &name);
        buf_printf(out, "%lld", (long long)register_value(tr, name, step));
        return 2 + sign + n;
    }
    case '*': {
        size_t n = escape_name(rest, &name);
        const struct troff_name *string = find_name(tr, name, false);
        if (string) {
            if (string->value.len <= tr->budget) {
                tr->budget -= string->value.len;
                buf_append_span(out, string->value);
            }
        } else if (span_eq_str(name, "R")) buf_append_str(out, "®");
        else if (span_eq_str(name, "Tm")) buf_append_str(out, "™");
        else if (span_eq_str(name, "lq") || span_eq_str(name, "Lq")) buf_append_str(out, "“");
        else if (span_eq_str(name, "rq") || span_eq_str(name, "Rq")) buf_append_str(out, "”");
        else if (span_eq_str(name, "q")) buf_append_str(out, "\"");
        else if (span_eq_str(name, "Ba")) buf_append_str(out, "|");
        else if (span_eq_str(name, "Lt")) buf_append_str(out, "<");
        else if (span_eq_str(name, "Gt")) buf_append_str(out, ">");
        else if (span_eq_str(name, "Le") || span_eq_str(name, "<=")) buf_append_str(out, "≤");
        else if (span_eq_str(name, "Ge") || span_eq_str(name, ">=")) buf_append_str(out, "≥");
        else if (span_eq_str(name, "Ne")) buf_append_str(out, "≠");
        else if (span_eq_str(name, "Pm")) buf_append_str(out, "±");
        else if (span_eq_str(name, "Am")) buf_append_str(out, "&");
        else if (span_eq_str(name, "Aq")) buf_append_str(out, "'");
        return 2 + n;
    }
    case 's': {
        size_t i = 0;
        if (i < rest.len && (rest.data[i] == '+' || rest.data[i] == '-')) i++;
        if (i < rest.len && (rest.data[i] == '(' || rest.data[i] == '[')) return 2 + i + escape_name(span_skip(rest, i), &name);
        if (i < rest.len && rest.data[i] == '\'') return 2 + i + escape_argument(span_skip(rest, i), &name);
        if (i + 1 < rest.len && i == 0 && rest.data[0] >= '1' && rest.data[0] <= '3' && rest.data[1] >= '0' && rest.data[1] <= '9') return 4;
        if (i < rest.len && rest.data[i] >= '0' && rest.data[i] <= '9') i++;
        return 2 + i;
    }
    case 'h': { /* a move to the right is a space where it parts words */
        size_t n = escape_argument(rest, &name);
        if (name.len && name.data[0] != '-' && out->len) buf_append_char(out, ' ');
        return 2 + n;
    }
    case 'w':
        buf_append_char(out, '0');
        return 2 + escape_argument(rest, &name);
    case 'v': case 'l': case 'L': case 'D': case 'b': case 'X': case 'A': case 'B': case 'R': case 'x': case 'H': case 'S':
        return 2 + escape_argument(rest, &name);
    case 'o': { /* overstruck: the first is what is read */
        size_t n = escape_argument(rest, &name);
        uint32_t code;
        size_t first = span_utf8_decode(name, &code);
        if (name.len && name.data[0] != '\\') buf_append(out, name.data, first);
        return 2 + n;
    }
    case 'Z': {
        size_t n = escape_argument(rest, &name);
        if (!memchr(name.data ? name.data : "", '\\', name.len)) buf_append_span(out, name);
        return 2 + n;
    }
    case 'C': {
        size_t n = escape_argument(rest, &name);
        put_glyph(name, out);
        return 2 + n;
    }
    case 'N': {
        size_t n = escape_argument(rest, &name);
        uint64_t code;
        char utf8[4];
        if (!span_to_u64(name, &code) && code >= 32 && code < 256) buf_append(out, utf8, utf8_encode((uint32_t)code, utf8));
        return 2 + n;
    }
    case '$':
        return s.len < 3 ? s.len : 3;
    default: {
        uint32_t code;
        size_t n = span_utf8_decode(span_skip(s, 1), &code);
        buf_append(out, s.data + 1, n);
        return 1 + (n ? n : 1);
    }
    }
}

void troff_decode(struct troff *tr, struct span raw, struct buf *out) {
    while (raw.len) {
        const char *slash = memchr(raw.data, '\\', raw.len);
        size_t n = slash ? (size_t)(slash - raw.data) : raw.len;
        buf_append(out, raw.data, n);
        raw = span_skip(raw, n);
        if (!raw.len) break;
        /* "\" and its comment end the line */
        raw = span_skip(raw, decode_escape(tr, raw, out));
    }
}

/* ---- output ---- */

void troff_settle(struct troff *tr) {
    if (tr->tag == TAG_OPEN) {
        tr->tag = TAG_NONE;
        tr->t.pending = TEXT_NONE;
        struct span so_far = buf_span(tr->t.out);
        if (so_far.len && so_far.data[so_far.len - 1] != ':') text_put_str(&tr->t, ":");
        text_space(&tr->t);
    }
}

void troff_put_decoded(struct troff *tr, struct span s) {
    if (tr->tag != TAG_EXPECTED) troff_settle(tr);
    text_put(&tr->t, s);
    tr->started = true;
}

void troff_put(struct troff *tr, struct span raw) {
    buf_clear(&tr->word);
    troff_decode(tr, raw, &tr->word);
    troff_put_decoded(tr, buf_span(&tr->word));
}

void troff_line_end(struct troff *tr) {
    if (tr->heading_expected) {
        tr->heading_expected = false;
        text_block(&tr->t);
        tr->join = false;
        return;
    }
    if (tr->tag == TAG_EXPECTED) {
        tr->tag = TAG_OPEN;
        tr->join = false;
        return;
    }
    if (tr->join) {
        tr->join = false;
        return;
    }
    if (tr->t.pre) text_put(&tr->t, SPAN("\n"));
    else text_space(&tr->t);
}

void troff_break(struct troff *tr, enum text_break b) {
    if (tr->tag == TAG_EXPECTED && b == TEXT_BLOCK) tr->tag = TAG_NONE;
    if (tr->tag == TAG_OPEN) return; /* the body goes on behind its tag */
    if (tr->t.pre) {
        if (b == TEXT_BLOCK) text_put(&tr->t, SPAN("\n"));
        return;
    }
    text_break(&tr->t, b);
}

void troff_heading(struct troff *tr, int level) {
    tr->tag = TAG_NONE;
    tr->paragraph_at = SIZE_MAX;
    text_heading(&tr->t, level);
}

void troff_item(struct troff *tr, const char *marker, enum text_break before) {
    tr->tag = TAG_NONE;
    tr->paragraph_at = SIZE_MAX;
    text_mark(&tr->t, before, marker);
}

void troff_title(struct troff *tr, struct span name, struct span section) {
    if (tr->x->title[0]) return;
    buf_clear(&tr->word);
    troff_decode(tr, name, &tr->word);
    span_copy(tr->name, sizeof tr->name, span_trim(buf_span(&tr->word)));
    bool upper = true;
    for (const char *p = tr->name; *p; p++) upper &= !(*p >= 'a' && *p <= 'z');
    for (char *p = tr->name; upper && *p; p++)
        if (*p >= 'A' && *p <= 'Z') *p = (char)(*p + 32); /* LS(1) is how it is printed, ls how it is called */
    buf_clear(&tr->word);
    troff_decode(tr, section, &tr->word);
    span_copy(tr->section, sizeof tr->section, span_trim(buf_span(&tr->word)));
    if (!tr->name[0]) return;
    buf_clear(&tr->word);
    if (tr->section[0]) buf_printf(&tr->word, "%s(%s)", tr->name, tr->section);
    else buf_append_str(&tr->word, tr->name);
    span_copy(tr->x->title, sizeof tr->x->title, buf_span(&tr->word));
    text_heading(&tr->t, 1);
    text_put_str(&tr->t, tr->x->title);
    text_block(&tr->t);
}

/* ---- requests ---- */

int troff_args(struct span s, struct span args[TROFF_ARGS_MAX], bool quoted[TROFF_ARGS_MAX]) {
    int n = 0;
    size_t i = 0;
    for (;;) {
        while (i < s.len && (s.data[i] == ' ' || s.data[i] == '\t')) i++;
        if (i >= s.len || n == TROFF_ARGS_MAX) return n;
        if (s.data[i] == '\\' && i + 1 < s.len && (s.data[i + 1] == '"' || s.data[i + 1] == '#')) return n; /* a comment */
        if (quoted) quoted[n] = s.data[i] == '"';
        if (s.data[i] == '"') {
            size_t from = ++i;
            while (i < s.len && s.data[i] != '"') i += s.data[i] == '\\' && i + 1 < s.len && s.data[i + 1] != '"' ? 2 : 1;
            /* "" inside quotes stands for one: seldom enough that the word ends there */
            if (i > s.len) i = s.len;
            args[n++] = span_sub(s, from, i - from);
            if (i < s.len) i++;
        } else {
            size_t from = i;
            while (i < s.len && s.data[i] != ' ' && s.data[i] != '\t') {
                if (s.data[i] == '\\' && i + 1 < s.len) {
                    if (s.data[i + 1] == '"') break;
                    i++;
                }
                i++;
            }
            if (i > s.len) i = s.len;
            args[n++] = span_sub(s, from, i - from);
        }
    }
}

static void skip_to(struct troff *tr, struct span end) {
    struct span line;
    while (troff_line(tr, &line)) {
        if (!line.len || line.data[0] != '.') continue;
        struct span word = span_skip(line, 1);
        if (end.len ? span_starts(word, end) : word.len && word.data[0] == '.') return;
    }
}

/* .de NAME [END]: the body up to "..", with one level of backslashes taken off, as troff copies it. */
static void read_macro(struct troff *tr, struct span name, struct span end, bool keep) {
    struct buf body;
    buf_init(&body, 1 << 16);
    char name_copy[64], end_copy[64];
    span_copy(name_copy, sizeof name_copy, name);
    span_copy(end_copy, sizeof end_copy, end);
    struct span line, end_name = span_str(end_copy);
    while (troff_line(tr, &line)) {
        if (line.len && line.data[0] == '.') {
            struct span word = span_skip(line, 1);
            if (end_name.len ? span_starts(word, end_name) : word.len && word.data[0] == '.') break;
        }
        for (size_t i = 0; i < line.len; i++) {
            if (line.data[i] == '\\' && i + 1 < line.len && line.data[i + 1] == '\\') i++;
            buf_append_char(&body, line.data[i]);
        }
        buf_append_char(&body, '\n');
    }
    if (keep && !body.failed) define(tr, span_str(name_copy), buf_span(&body), true);
    buf_fini(&body);
}

/* Whether nroff would find it true. *rest is what follows the condition. */
static bool condition(struct troff *tr, struct span s, struct span *rest) {
    bool negated = false, result = false;
    size_t i = 0;
    while (i < s.len && (s.data[i] == '!' || s.data[i] == ' ')) {
        negated ^= s.data[i] == '!';
        i++;
    }
    if (i >= s.len) {
        *rest = span_skip(s, i);
        return false;
    }
    char c = s.data[i];
    if ((c == 'n' || c == 't' || c == 'o' || c == 'e' || c == 'v') && (i + 1 == s.len || s.data[i + 1] == ' ' || s.data[i + 1] == '\\' || s.data[i + 1] == '.')) {
        result = c == 'n' || c == 'o';
        i++;
    } else if ((c == 'd' || c == 'r' || c == 'c' || c == 'm' || c == 'F' || c == 'S') && i + 1 < s.len) {
        i++;
        while (i < s.len && s.data[i] == ' ') i++;
        size_t from = i;
        while (i < s.len && s.data[i] != ' ') i++;
        struct span name = span_sub(s, from, i - from);
        if (c == 'd') result = find_name(tr, name, false) || find_name(tr, name, true);
        if (c == 'c') result = true;
        if (c == 'r')
            for (int k = 0; k < tr->n_registers; k++) result |= tr->registers[k].name == register_key(name);
    } else if (c == '\'' || c == '"') {
        struct span a, b;
        const char *middle = memchr(s.data + i + 1, c, s.len - i - 1);
        const char *end = middle ? memchr(middle + 1, c, (size_t)(s.data + s.len - middle - 1)) : NULL;
        if (!end) {
            *rest = (struct span){0};
            return false;
        }
        a = span_of(s.data + i + 1, (size_t)(middle - s.data) - i - 1);
        b = span_of(middle + 1, (size_t)(end - middle) - 1);
        struct buf left;
        buf_init(&left, 4096);
        buf_clear(&tr->word);
        troff_decode(tr, a, &left);
        troff_decode(tr, b, &tr->word);
        tr->join = false;
        result = span_eq(buf_span(&left), buf_span(&tr->word));
        buf_fini(&left);
        i = (size_t)(end - s.data) + 1;
    } else {
        /* Numbers: the value of one register or constant, compared with another or with nothing. What is more is taken for false. */
        size_t from = i;
        int depth = 0;
        while (i < s.len && (s.data[i] != ' ' || depth > 0)) {
            if (s.data[i] == '\\' && i + 1 < s.len && (s.data[i + 1] == '{' || s.data[i + 1] == '}')) break;
            if (s.data[i] == '\\' && i + 1 < s.len) {
                struct span name;
                if (s.data[i + 1] == 'n') {
                    i += 2;
                    i += escape_name(span_skip(s, i), &name);
                    continue;
                }
            }
            if (s.data[i] == '(') depth++;
            if (s.data[i] == ')') depth--;
            i++;
        }
        buf_clear(&tr->word);
        troff_decode(tr, span_sub(s, from, i - from), &tr->word);
        struct span e = buf_span(&tr->word);
        while (e.len >= 2 && e.data[0] == '(' && e.data[e.len - 1] == ')') e = span_sub(e, 1, e.len - 2);
        size_t n = 0;
        while (n < e.len && ((e.data[n] >= '0' && e.data[n] <= '9') || (n == 0 && e.data[n] == '-'))) n++;
        int64_t left = 0, right = 0;
        if (!span_to_i64(span_sub(e, 0, n), &left)) {
            struct span op = span_skip(e, n);
            while (n < e.len && (e.data[n] == '<' || e.data[n] == '>' || e.data[n] == '=')) n++;
            op = span_sub(op, 0, op.len - (e.len - n));
            if (!op.len) result = left > 0 && n == e.len;
            else if (!span_to_i64(span_skip(e, n), &right))
                result = span_eq_str(op, ">") ? left > right : span_eq_str(op, "<") ? left < right : span_eq_str(op, ">=") ? left >= right : span_eq_str(op, "<=") ? left <= right : left == right;
        }
    }
    while (i < s.len && (s.data[i] == ' ' || s.data[i] == '\t')) i++;
    *rest = span_skip(s, i);
    return result != negated;
}

/* Brace depth that a line adds. */
static int braces(struct span s) {
    int depth = 0;
    for (size_t i = 0; i + 1 < s.len; i++)
        if (s.data[i] == '\\') {
            if (s.data[i + 1] == '{') depth++;
            if (s.data[i + 1] == '}') depth--;
            i++;
        }
    return depth;
}

static void skip_block(struct troff *tr, struct span rest) {
    int depth = braces(rest);
    struct span line;
    while (depth > 0 && troff_line(tr, &line)) depth += braces(line);
}

/* A table of tbl(1): rows as "a | b | c"; what lays it out goes. */
static void read_table(struct troff *tr) {
    char tab = '\t';
    bool in_format = true, first = true, in_block = false;
    struct span line;
    struct buf row;
    buf_init(&row, 1 << 20);
    troff_settle(tr);
    if (tr->t.pre) text_pre_end(&tr->t);
    text_block(&tr->t);
    while (troff_line(tr, &line)) {
        if (span_starts(line, SPAN(".TE"))) break;
        if (first && line.len && line.data[line.len - 1] == ';') {
            ptrdiff_t at = span_find(line, SPAN("tab"));
            if (at >= 0) {
                size_t i = (size_t)at + 3;
                while (i < line.len && line.data[i] == ' ') i++;
                if (i + 1 < line.len && line.data[i] == '(' && line.data[i + 1] > 32 && line.data[i + 1] < 127) tab = line.data[i + 1];
            }
            first = false;
            continue;
        }
        first = false;
        if (span_starts(line, SPAN(".T&"))) {
            in_format = true;
            continue;
        }
        if (in_format) {
            struct span l = span_trim(line);
            if (l.len && l.data[l.len - 1] == '.') in_format = false;
            continue;
        }
        if (in_block) {
            bool ends = span_starts(line, SPAN("T}"));
            if (!ends) {
                buf_append_char(&row, ' ');
                if (line.len && (line.data[0] == '.' || line.data[0] == '\'')) {
                    struct span args[TROFF_ARGS_MAX];
                    int n = troff_args(span_skip(line, 1), args, NULL);
                    bool join = n && args[0].len == 2; /* .BR and the like: words without spaces */
                    if (n && (span_eq_str(args[0], "B") || span_eq_str(args[0], "I") || span_eq_str(args[0], "BR") || span_eq_str(args[0], "IR") || span_eq_str(args[0], "RB") ||
                              span_eq_str(args[0], "RI") || span_eq_str(args[0], "BI") || span_eq_str(args[0], "IB")))
                        for (int k = 1; k < n; k++) {
                            if (k > 1 && !join) buf_append_char(&row, ' ');
                            troff_decode(tr, args[k], &row);
                        }
                } else
                    troff_decode(tr, line, &row);
                continue;
            }
            in_block = false;
            line = span_skip(line, 2);
            if (span_trim(line).len) goto cells;
        } else {
            if (!line.len || (line.data[0] == '.' && (line.len == 1 || line.data[1] != '\\')) || line.data[0] == '\'') continue;
            struct span l = span_trim(line);
            if (span_eq_str(l, "_") || span_eq_str(l, "=") || !l.len) continue;
        cells:;
            struct span rest = line, cell;
            if (rest.len && rest.data[0] == tab) rest = span_skip(rest, row.len ? 1 : 0);
            while (rest.len) {
                span_cut(&rest, tab, &cell);
                cell = span_trim(cell);
                if (span_eq_str(cell, "T{")) {
                    if (row.len) buf_append_str(&row, " | ");
                    in_block = true;
                    break;
                }
                if (span_starts(cell, SPAN("T{"))) cell = span_skip(cell, 2), in_block = true;
                if (!cell.len || span_eq_str(cell, "\\^") || span_eq_str(cell, "^") || span_eq_str(cell, "_") || span_eq_str(cell, "\\_")) continue;
                if (row.len) buf_append_str(&row, " | ");
                troff_decode(tr, cell, &row);
                if (in_block) break;
            }
        }
        if (in_block) continue;
        tr->join = false;
        struct span s = span_trim(buf_span(&row));
        if (s.len) {
            text_line(&tr->t);
            text_put(&tr->t, s);
            tr->started = true;
        }
        buf_clear(&row);
    }
    tr->join = false;
    buf_fini(&row);
    text_block(&tr->t);
}

static void put_args(struct troff *tr, const struct span *args, int n, bool spaced) {
    for (int i = 0; i < n; i++) {
        if (i && spaced) {
            if (tr->t.pre) text_put(&tr->t, SPAN(" "));
            else text_space(&tr->t);
        }
        troff_put(tr, args[i]);
    }
}

/* .IP TAG */
static void tagged(struct troff *tr, struct span raw) {
    buf_clear(&tr->word);
    troff_decode(tr, raw, &tr->word);
    tr->join = false;
    struct span tag = span_trim(buf_span(&tr->word));
    static const char *const bullets[] = {"•", "*", "-", "o", "·", "+", "◦", "–", "—", "○", "□", "¤"};
    for (size_t i = 0; i < sizeof bullets / sizeof *bullets; i++)
        if (span_eq_str(tag, bullets[i])) tag = (struct span){0};
    if (!tag.len) {
        troff_item(tr, "- ", TEXT_LINE);
        return;
    }
    size_t digits = 0, skip = tag.data[0] == '(' || tag.data[0] == '[';
    while (skip + digits < tag.len && tag.data[skip + digits] >= '0' && tag.data[skip + digits] <= '9') digits++;
    if (digits && digits < 4 && skip + digits + 1 >= tag.len) { /* 1. (1) [1] 1) */
        char marker[8];
        span_copy(marker, sizeof marker - 2, span_sub(tag, skip, digits));
        size_t n = strlen(marker);
        marker[n] = '.';
        marker[n + 1] = ' ';
        marker[n + 2] = 0;
        troff_item(tr, marker, TEXT_LINE);
        return;
    }
    char text[TEXT_TITLE_MAX * 2];
    span_copy(text, sizeof text, tag);
    text[span_utf8_complete(span_str(text))] = 0;
    troff_item(tr, "- ", TEXT_LINE);
    text_put_str(&tr->t, text);
    tr->tag = TAG_OPEN;
}

/* docbook's lists of terms: a short paragraph, then .RS. The paragraph becomes the tag. */
static void paragraph_to_tag(struct troff *tr) {
    enum { TERM_BYTES_MAX = 160 };
    if (tr->paragraph_at == SIZE_MAX || tr->t.pre || tr->tag != TAG_NONE) return;
    struct span so_far = buf_span(tr->t.out);
    size_t at = tr->paragraph_at;
    while (at < so_far.len && so_far.data[at] == '\n') at++;
    struct span term = span_skip(so_far, at);
    tr->paragraph_at = SIZE_MAX;
    if (!term.len || term.len > TERM_BYTES_MAX || memchr(term.data, '\n', term.len) || tr->t.pending == TEXT_BLOCK) return;
    char last = term.data[term.len - 1];
    if ((last == '.' && !span_ends(term, SPAN("..."))) || last == ':' || last == ';' || span_starts(term, SPAN("- "))) return;
    char copy[TERM_BYTES_MAX + 1];
    span_copy(copy, sizeof copy, term);
    tr->t.out->len = at;
    buf_append_str(tr->t.out, "- ");
    buf_append_str(tr->t.out, copy);
    tr->tag = TAG_OPEN;
}

#define R(a, b, c) ((uint32_t)(unsigned char)(a) | (uint32_t)(unsigned char)(b) << 8 | (uint32_t)(unsigned char)(c) << 16)

static void text_input(struct troff *tr, struct span line);
static bool request(struct troff *tr, struct span name, struct span rest, struct span *again);

/* A control line, without its dot. Conditions leave the rest of the line in *again. */
static bool control(struct troff *tr, struct span body, struct span *again) {
    while (body.len && (body.data[0] == ' ' || body.data[0] == '\t')) body = span_skip(body, 1);
    size_t n = 0;
    while (n < body.len && body.data[n] != ' ' && body.data[n] != '\t' && !(body.data[n] == '\\' && n + 1 < body.len && (body.data[n + 1] == '"' || body.data[n + 1] == '{' || body.data[n + 1] == '}'))) n++;
    struct span name = span_sub(body, 0, n), rest = span_skip(body, n);
    while (rest.len && (rest.data[0] == ' ' || rest.data[0] == '\t')) rest = span_skip(rest, 1);
    if (!name.len) return false;
    if (tr->mdoc && mdoc_request(tr, name, rest)) return false;
    return request(tr, name, rest, again);
}

static void man_synopsis_option(struct troff *tr, const struct span *args, int n) {
    troff_put(tr, SPAN("["));
    put_args(tr, args, n, true);
    text_join(&tr->t);
    troff_put(tr, SPAN("]"));
}

static bool request(struct troff *tr, struct span name, struct span rest, struct span *again) {
    struct span args[TROFF_ARGS_MAX];
    int n = troff_args(rest, args, NULL);
    uint32_t key = name.len == 1 ? R(name.data[0], 0, 0) : name.len == 2 ? R(name.data[0], name.data[1], 0) : name.len == 3 ? R(name.data[0], name.data[1], name.data[2]) : 0;
    bool was_font = tr->font_expected;
    tr->font_expected = false;
    switch (key) {
    /* --- troff --- */
    case R('i', 'f', 0):
    case R('i', 'e', 0): {
        bool truth = condition(tr, rest, again);
        if (key == R('i', 'e', 0) && tr->n_else < TROFF_CONDITIONS_MAX) tr->else_true[tr->n_else++] = !truth;
        if (truth) return true;
        skip_block(tr, *again);
        return false;
    }
    case R('e', 'l', 0): {
        bool truth = tr->n_else && tr->else_true[--tr->n_else];
        *again = rest;
        if (truth) return true;
        skip_block(tr, rest);
        return false;
    }
    case R('d', 'e', 0):
    case R('d', 'e', '1'):
    case R('a', 'm', 0):
        read_macro(tr, n ? args[0] : SPAN(""), n > 1 ? args[1] : SPAN(""), n && key != R('a', 'm', 0));
        return false;
    case R('i', 'g', 0): {
        char end[64];
        span_copy(end, sizeof end, n ? args[0] : SPAN(""));
        skip_to(tr, span_str(end));
        return false;
    }
    case R('d', 's', 0):
    case R('a', 's', 0): {
        if (!n) return false;
        struct span value = span_skip(rest, args[0].len);
        while (value.len && (value.data[0] == ' ' || value.data[0] == '\t')) value = span_skip(value, 1);
        if (value.len && value.data[0] == '"') value = span_skip(value, 1);
        struct buf b;
        buf_init(&b, 4096);
        if (key == R('a', 's', 0)) {
            const struct troff_name *old = find_name(tr, args[0], false);
            if (old) buf_append_span(&b, old->value);
        }
        troff_decode(tr, value, &b);
        tr->join = false;
        define(tr, args[0], buf_span(&b), false);
        buf_fini(&b);
        return false;
    }
    case R('n', 'r', 0): {
        if (n < 2) return false;
        uint32_t reg = register_key(args[0]);
        int i = 0;
        while (i < tr->n_registers && tr->registers[i].name != reg) i++;
        if (i == TROFF_REGISTERS_MAX) return false;
        if (i == tr->n_registers) {
            tr->n_registers++;
            tr->registers[i].value = tr->registers[i].step = 0;
        }
        tr->registers[i].name = reg;
        buf_clear(&tr->word);
        troff_decode(tr, args[1], &tr->word);
        tr->join = false;
        struct span v = buf_span(&tr->word);
        bool relative = v.len && (v.data[0] == '+' || v.data[0] == '-');
        int64_t value = 0, step = 0;
        if (v.len && v.data[0] == '+') v = span_skip(v, 1);
        size_t digits = v.len && v.data[0] == '-';
        while (digits < v.len && v.data[digits] >= '0' && v.data[digits] <= '9') digits++;
        if (span_to_i64(span_sub(v, 0, digits), &value) || value > 1000000 || value < -1000000) value = 0;
        tr->registers[i].value = relative ? tr->registers[i].value + value : value;
        if (tr->registers[i].value > 1 << 30 || tr->registers[i].value < -(1 << 30)) tr->registers[i].value = 0;
        if (n > 2 && !span_to_i64(args[2], &step) && step < 1000 && step > -1000) tr->registers[i].step = step;
        return false;
    }
    case R('s', 'o', 0):
    case R('m', 's', 'o'):
        tr->redirect |= key == R('s', 'o', 0);
        return false;
    case R('b', 'r', 0):
        if (tr->tag == TAG_EXPECTED || was_font) return false;
        troff_break(tr, TEXT_LINE);
        tr->join = false;
        return false;
    case R('s', 'p', 0):
        if (n && args[0].len && args[0].data[0] == '-') return false; /* upwards: on the same line again */
        tr->join = false;
        if (tr->tag == TAG_EXPECTED) return false;
        troff_break(tr, TEXT_BLOCK);
        tr->paragraph_at = tr->t.out->len;
        return false;
    case R('n', 'f', 0):
    case R('E', 'X', 0):
    case R('V', 'b', 0):
        troff_settle(tr);
        tr->tag = TAG_NONE;
        text_pre_begin(&tr->t);
        return false;
    case R('f', 'i', 0):
    case R('E', 'E', 0):
    case R('V', 'e', 0):
        text_pre_end(&tr->t);
        return false;
    case R('T', 'S', 0):
        read_table(tr);
        return false;
    case R('E', 'Q', 0):
        skip_to(tr, SPAN("EN"));
        return false;
    case R('P', 'S', 0):
        skip_to(tr, SPAN("PE"));
        return false;
    case R('i', 'n', 0):
    case R('t', 'i', 0):
    case R('c', 'e', 0):
        if (tr->tag == TAG_NONE) troff_break(tr, TEXT_LINE);
        return false;
    /* --- man --- */
    case R('T', 'H', 0):
        if (n && !tr->mdoc) troff_title(tr, args[0], n > 1 ? args[1] : SPAN(""));
        return false;
    case R('S', 'H', 0):
    case R('S', 'S', 0):
        tr->heading_level = key == R('S', 'H', 0) ? 2 : 3;
        troff_heading(tr, tr->heading_level);
        tr->heading_expected = true;
        if (n) {
            put_args(tr, args, n, true);
            tr->join = false;
            troff_line_end(tr);
        }
        return false;
    case R('T', 'P', 0):
        troff_item(tr, "- ", TEXT_LINE);
        tr->tag = TAG_EXPECTED;
        return false;
    case R('T', 'Q', 0):
        if (tr->tag == TAG_OPEN) {
            text_join(&tr->t);
            text_put_str(&tr->t, ",");
            text_space(&tr->t);
            tr->tag = TAG_EXPECTED;
        }
        return false;
    case R('I', 'P', 0):
        text_pre_end(&tr->t);
        if (n && args[0].len) tagged(tr, args[0]);
        else {
            if (tr->tag == TAG_EXPECTED) tr->tag = TAG_NONE;
            troff_break(tr, TEXT_BLOCK);
        }
        return false;
    case R('P', 'P', 0):
    case R('L', 'P', 0):
    case R('P', 0, 0):
    case R('H', 'P', 0):
    case R('S', 'p', 0):
        if (key != R('S', 'p', 0) && !tr->t.pre) tr->tag = TAG_NONE;
        tr->join = false;
        troff_break(tr, TEXT_BLOCK);
        tr->paragraph_at = tr->t.out->len;
        return false;
    case R('R', 'S', 0):
        paragraph_to_tag(tr);
        if (tr->tag == TAG_EXPECTED) tr->tag = TAG_NONE;
        else if (tr->tag == TAG_NONE && !tr->t.pre) troff_break(tr, TEXT_LINE);
        return false;
    case R('R', 'E', 0):
        tr->tag = TAG_NONE;
        if (!tr->t.pre) troff_break(tr, TEXT_LINE);
        return false;
    case R('B', 0, 0):
    case R('I', 0, 0):
    case R('R', 0, 0):
    case R('S', 'M', 0):
    case R('S', 'B', 0):
    case R('C', 'W', 0):
    case R('C', 0, 0):
    case R('B', 'R', 0):
    case R('I', 'R', 0):
    case R('R', 'B', 0):
    case R('R', 'I', 0):
    case R('B', 'I', 0):
    case R('I', 'B', 0): {
        if (!n) {
            tr->font_expected = true;
            return false;
        }
        bool spaced = name.len == 1 || name.data[0] == 'S' || name.data[0] == 'C';
        if (spaced && tr->t.pre) troff_put(tr, rest.data[0] == '"' ? args[0] : rest); /* inner spaces of code count */
        else if (spaced) put_args(tr, args, n, true);
        else put_args(tr, args, n, false);
        if (spaced && tr->t.pre && rest.data[0] == '"' && n > 1) {
            text_put(&tr->t, SPAN(" "));
            put_args(tr, args + 1, n - 1, true);
        }
        troff_line_end(tr);
        return false;
    }
    case R('M', 'R', 0):
        if (n) troff_put(tr, args[0]);
        if (n > 1) {
            troff_put(tr, SPAN("("));
            troff_put(tr, args[1]);
            troff_put(tr, SPAN(")"));
        }
        if (n > 2) troff_put(tr, args[2]);
        if (n) troff_line_end(tr);
        return false;
    case R('U', 'R', 0):
    case R('M', 'T', 0):
        /* The words between .UR and .UE stand for the address; where there are none, the address does. */
        if (n) {
            const struct troff_frame *f = frame(tr);
            struct span next = f ? f->rest : (struct span){0};
            if (span_starts(next, SPAN(".UE")) || span_starts(next, SPAN(".ME"))) {
                troff_put(tr, args[0]);
                troff_line_end(tr);
            }
        }
        return false;
    case R('U', 'E', 0):
    case R('M', 'E', 0):
        if (n) {
            text_join(&tr->t);
            put_args(tr, args, n, false);
            troff_line_end(tr);
        }
        return false;
    case R('U', 'R', 'L'):
    case R('M', 'T', 'O'):
        if (n) {
            struct span words = n > 1 && args[1].len ? args[1] : args[0];
            troff_put(tr, words);
            if (n > 2) troff_put(tr, args[2]);
            troff_line_end(tr);
        }
        return false;
    case R('S', 'Y', 0):
        troff_break(tr, TEXT_LINE);
        put_args(tr, args, n, true);
        troff_line_end(tr);
        return false;
    case R('Y', 'S', 0):
        troff_break(tr, TEXT_BLOCK);
        return false;
    case R('O', 'P', 0):
        man_synopsis_option(tr, args, n);
        troff_line_end(tr);
        return false;
    case R('D', 'd', 0): /* mdoc's first lines: from here on its macros are known */
    case R('D', 't', 0):
    case R('S', 'h', 0):
        if (!tr->x->title[0] && !find_name(tr, name, true)) {
            tr->mdoc = true;
            mdoc_request(tr, name, rest);
            return false;
        }
        break;
    default: break;
    }
    struct troff_name *macro = find_name(tr, name, true);
    if (macro && macro->value.len && tr->n_frames < TROFF_FRAMES_MAX && macro->value.len <= tr->budget) {
        tr->budget -= macro->value.len;
        struct troff_frame *f = &tr->frames[tr->n_frames++];
        *f = (struct troff_frame){.rest = macro->value};
        for (int i = 0; i < n && i < 9; i++) {
            struct span copy = arena_span(&tr->arena, args[i]);
            f->args[f->n_args++] = copy.data ? copy : (struct span){0};
        }
    }
    return false;
}

/* "•" or "1." alone, as docbook writes the marks of its lists. */
static bool list_mark(struct troff *tr, struct span s) {
    s = span_trim(s);
    if (span_eq_str(s, "•") || span_eq_str(s, "·") || span_eq_str(s, "◦")) {
        troff_item(tr, "- ", TEXT_LINE);
        return true;
    }
    size_t n = 0;
    while (n < s.len && n < 3 && s.data[n] >= '0' && s.data[n] <= '9') n++;
    if (!n || n + 1 != s.len || s.data[n] != '.') return false;
    char marker[8];
    span_copy(marker, sizeof marker, s);
    memcpy(marker + s.len, " ", 2);
    troff_item(tr, marker, TEXT_LINE);
    return true;
}

static void text_input(struct troff *tr, struct span line) {
    tr->font_expected = false;
    if (!line.len) {
        tr->join = false;
        if (tr->tag == TAG_EXPECTED || tr->heading_expected) return;
        troff_break(tr, TEXT_BLOCK);
        tr->paragraph_at = tr->t.out->len;
        return;
    }
    /* "\}" and comments alone write nothing. A comment-only line is no empty line either. */
    buf_clear(&tr->word);
    troff_decode(tr, line, &tr->word);
    struct span s = buf_span(&tr->word);
    bool nothing = !span_trim(s).len;
    if (nothing && line.data[0] == '\\') {
        if (tr->t.pre && span_starts(line, SPAN("\\&"))) text_put(&tr->t, SPAN("\n"));
        return;
    }
    if (tr->join && list_mark(tr, s)) {
        tr->join = false;
        return;
    }
    if (!tr->t.pre && (line.data[0] == ' ' || line.data[0] == '\t') && tr->tag == TAG_NONE) troff_break(tr, TEXT_LINE);
    if (tr->no_space) text_join(&tr->t);
    tr->no_space = false;
    troff_put_decoded(tr, s);
    troff_line_end(tr);
}

enum reason extract_troff(struct span in, struct extracted *x) {
    struct troff *tr = mem_zalloc(sizeof *tr);
    if (!tr) {
        x->text->failed = E_NOMEM;
        return REASON_NONE;
    }
    text_init(&tr->t, x->text);
    tr->x = x;
    arena_init(&tr->arena, TROFF_ARENA_BYTES);
    buf_init(&tr->line, 1 << 20);
    buf_init(&tr->word, 1 << 20);
    tr->budget = in.len * 4 + (64 << 10);
    tr->paragraph_at = SIZE_MAX;
    tr->frames[0] = (struct troff_frame){.rest = in};
    tr->n_frames = 1;
    struct span line;
    while (troff_line(tr, &line) && !x->text->failed) {
        struct span rest = line;
        /* A condition hands the rest of its line back: that is a line of its own, with spaces and a brace before it. Each round is shorter. */
        for (bool more = true; more;) {
            more = false;
            if (rest.len > 1 && (rest.data[0] == '.' || rest.data[0] == '\'')) {
                struct span again = {0};
                if (control(tr, span_skip(rest, 1), &again)) {
                    if (again.len >= 2 && again.data[0] == '\\' && again.data[1] == '{') again = span_skip(again, 2);
                    while (again.len && (again.data[0] == ' ' || again.data[0] == '\t')) again = span_skip(again, 1);
                    if (again.len) {
                        rest = again;
                        more = true;
                    }
                }
            } else if (!(rest.len == 1 && (rest.data[0] == '.' || rest.data[0] == '\'')))
                text_input(tr, rest);
        }
    }
    bool nothing = !tr->started;
    bool redirect = tr->redirect;
    arena_fini(&tr->arena);
    buf_fini(&tr->line);
    buf_fini(&tr->word);
    mem_free(tr);
    return nothing && redirect ? REASON_REDIRECT : REASON_NONE;
}
