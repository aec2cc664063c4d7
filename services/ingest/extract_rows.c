/*
 * Documents that are lists of rows: JSONL and CSV, each row a record of the text (TEXT_RECORD between them). Read by what a row has:
 *   messages | conversations   turns of a conversation: {"role","content"} or {"from","value"}; content may be OpenAI's list of parts
 *   prompt + completion | response | chosen; question + answer; instruction [+ input] + output     one question and its answer
 *   text | content | body | document | article | markdown     plain text; a title before it becomes its heading
 * Any other row of CSV is shown as "column: value" lines; any other object of JSONL counts as bad. A row that is bad is counted and left out.
 */
#include "base/alloc.h"
#include "base/error.h"
#include "base/json.h"
#include "services/ingest/extract.h"

static bool has_content(struct span s) { return span_trim(s).len > 0; }

/* A value as text; strings alone are taken raw. */
static void put_clean(struct buf *out, struct span s) {
    /* our own separators cannot come from inside */
    size_t from = 0;
    for (size_t i = 0; i < s.len; i++)
        if (s.data[i] == TEXT_RECORD || s.data[i] == TEXT_TURN) {
            buf_append(out, s.data + from, i - from);
            from = i + 1;
        }
    buf_append(out, s.data + from, s.len - from);
}

static void record_begin(struct buf *out) {
    if (out->len) buf_append_char(out, TEXT_RECORD);
}

static const struct json *first_string(const struct json *row, const char *const *keys) {
    for (; *keys; keys++) {
        const struct json *v = json_get(row, *keys);
        if (json_type(v) == JSON_TYPE_STRING && has_content(json_string(v))) return v;
    }
    return NULL;
}

/* A message's content: a string, or a list of {"type":"text","text":…}. */
static void put_content(struct buf *out, const struct json *content) {
    if (json_type(content) == JSON_TYPE_STRING) {
        put_clean(out, span_trim(json_string(content)));
        return;
    }
    size_t before = out->len;
    for (size_t i = 0; i < json_size(content); i++) {
        const struct json *part = json_at(content, i);
        struct span text = span_trim(json_string(json_get(part, "text")));
        if (!text.len) continue;
        if (out->len > before) buf_append_char(out, '\n');
        put_clean(out, text);
    }
}

/* Turns alternate, user first: a system message goes before the first question; two of one side in a row are joined. */
static bool put_messages(struct buf *out, const struct json *messages) {
    size_t n = json_size(messages), before = out->len;
    if (json_type(messages) != JSON_TYPE_ARRAY || !n || n > ROW_MESSAGES_MAX) return false;
    record_begin(out);
    int side = -1; /* 0 user, 1 assistant */
    bool answered = false;
    for (size_t i = 0; i < n; i++) {
        const struct json *m = json_at(messages, i);
        struct span role = json_string(json_get(m, "role"));
        const struct json *content = json_get(m, "content");
        if (!role.len) role = json_string(json_get(m, "from"));
        if (!content) content = json_get(m, "value");
        int now = span_eq_str(role, "assistant") || span_eq_str(role, "gpt") || span_eq_str(role, "model") ? 1
                  : span_eq_str(role, "user") || span_eq_str(role, "human") || span_eq_str(role, "system") ? 0 : -1;
        if (now < 0) continue; /* a tool's words are no one's answer */
        if (now == 1 && side == -1) continue; /* an answer to nothing */
        size_t at = out->len;
        put_content(out, content);
        if (out->len == at) continue;
        if (side >= 0) { /* the separator goes before what was just written */
            char mark = now == side ? '\n' : TEXT_TURN;
            buf_append_char(out, mark);
            char *d = out->data + out->start;
            if (!out->failed) {
                memmove(d + at + 1, d + at, out->len - 1 - at);
                d[at] = mark;
            }
        }
        side = now;
        answered |= now == 1;
    }
    if (!answered) {
        if (side < 0 && !out->failed) out->len = before;
        return side >= 0;
    }
    return true;
}

static bool put_row(struct buf *out, const struct json *row) {
    static const char *const prompts[] = {"prompt", "question", "instruction", "query", NULL};
    static const char *const answers[] = {"completion", "response", "answer", "output", "chosen", NULL};
    static const char *const texts[] = {"text", "content", "body", "document", "article", "markdown", NULL};
    static const char *const titles[] = {"title", "headline", NULL};
    if (json_type(row) == JSON_TYPE_STRING && has_content(json_string(row))) {
        record_begin(out);
        put_clean(out, json_string(row));
        return true;
    }
    if (json_type(row) != JSON_TYPE_OBJECT) return false;
    const struct json *messages = json_get(row, "messages");
    if (!messages) messages = json_get(row, "conversations");
    if (messages) return put_messages(out, messages);
    const struct json *prompt = first_string(row, prompts), *answer = first_string(row, answers);
    if (!answer && json_type(json_get(row, "completion")) == JSON_TYPE_ARRAY && json_type(json_get(row, "prompt")) == JSON_TYPE_ARRAY) {
        /* TRL's conversational form: both are lists of messages */
        const struct json *p = json_at(json_get(row, "prompt"), json_size(json_get(row, "prompt")) - 1), *a = json_at(json_get(row, "completion"), 0);
        prompt = json_get(p, "content");
        answer = json_get(a, "content");
        if (!has_content(json_string(prompt)) || !has_content(json_string(answer))) return false;
    }
    if (prompt && answer) {
        record_begin(out);
        put_clean(out, span_trim(json_string(prompt)));
        const struct json *input = json_get(row, "input");
        if (has_content(json_string(input))) {
            buf_append_str(out, "\n\n");
            put_clean(out, span_trim(json_string(input)));
        }
        buf_append_char(out, TEXT_TURN);
        put_clean(out, span_trim(json_string(answer)));
        return true;
    }
    const struct json *text = first_string(row, texts);
    if (!text) return false;
    const struct json *title = first_string(row, titles);
    record_begin(out);
    if (title) {
        buf_append_str(out, "# ");
        put_clean(out, span_trim(json_string(title)));
        buf_append_str(out, "\n\n");
    }
    put_clean(out, json_string(text));
    return true;
}

enum reason extract_jsonl(struct span in, struct extracted *x) {
    struct span rest = in, line;
    while (span_cut(&rest, '\n', &line) && !x->text->failed) {
        line = span_trim(line);
        if (!line.len) continue;
        struct json *row = NULL;
        int r = line.len > ROW_BYTES_MAX ? E_TOO_LARGE : json_parse(line, &row, NULL);
        if (r == E_NOMEM) x->text->failed = r; /* no fault of the row */
        else if (r < 0 || !put_row(x->text, row)) x->rows_bad++;
        else x->rows++;
        json_free(row);
    }
    return x->rows || x->text->failed ? REASON_NONE : REASON_BAD_ROWS;
}

/* ---- CSV (RFC 4180, with any delimiter) ---- */

/* The next field, unquoted onto out; *end_of_row says what followed it. Returns how much was read. */
static size_t csv_field(struct span s, char delimiter, struct buf *out, bool *end_of_row) {
    size_t i = 0;
    *end_of_row = true;
    if (s.len && s.data[0] == '"') {
        size_t from = ++i;
        while (i < s.len) {
            if (s.data[i] != '"') {
                i++;
                continue;
            }
            buf_append(out, s.data + from, i - from);
            if (i + 1 < s.len && s.data[i + 1] == '"') {
                buf_append_char(out, '"');
                i += 2;
                from = i;
                continue;
            }
            i++;
            from = i;
            break;
        }
        if (i >= s.len && from < i) buf_append(out, s.data + from, i - from); /* a quote that never ends */
    }
    size_t from = i;
    while (i < s.len && s.data[i] != delimiter && s.data[i] != '\n') i++;
    size_t to = i;
    if (to > from && s.data[to - 1] == '\r' && (i == s.len || s.data[i] == '\n')) to--;
    buf_append(out, s.data + from, to - from);
    if (i < s.len && s.data[i] == delimiter) {
        *end_of_row = false;
        return i + 1;
    }
    return i < s.len ? i + 1 : i;
}

struct csv_row {
    struct buf bytes;
    size_t ends[CSV_COLUMNS_MAX];
    int n;
};

static struct span csv_get(const struct csv_row *row, int i) {
    if (i < 0 || i >= row->n) return (struct span){0};
    size_t from = i ? row->ends[i - 1] : 0;
    return span_sub(buf_span(&row->bytes), from, row->ends[i] - from);
}

/* false where the input is over. A row beyond the caps is read to its end and reported as bad (n = 0). */
static bool csv_row_read(struct span *rest, char delimiter, struct csv_row *row) {
    if (!rest->len) return false;
    buf_clear(&row->bytes);
    row->n = 0;
    bool end = false, bad = false;
    while (!end) {
        *rest = span_skip(*rest, csv_field(*rest, delimiter, &row->bytes, &end));
        if (row->n < CSV_COLUMNS_MAX) row->ends[row->n++] = row->bytes.len;
        else bad = true;
    }
    if (bad || row->bytes.failed) row->n = 0;
    return true;
}

static int csv_find(const struct csv_row *header, const char *const *names) {
    for (; *names; names++)
        for (int i = 0; i < header->n; i++)
            if (span_eq_nocase(span_trim(csv_get(header, i)), span_str(*names))) return i;
    return -1;
}

/* Whether the first row names the columns: all its fields are short, differ, and none is a number. */
static bool csv_is_header(const struct csv_row *row) {
    double number;
    for (int i = 0; i < row->n; i++) {
        struct span f = span_trim(csv_get(row, i));
        if (f.len > 64 || !span_to_f64(f, &number)) return false;
        if (!f.len && i + 1 < row->n && row->n < 3) return false;
    }
    return row->n > 0;
}

enum reason extract_csv(struct span in, char delimiter, struct extracted *x) {
    static const char *const prompts[] = {"prompt", "question", "instruction", "query", NULL};
    static const char *const answers[] = {"completion", "response", "answer", "output", "chosen", NULL};
    static const char *const texts[] = {"text", "content", "body", "document", "article", NULL};
    struct csv_row *header = mem_zalloc(sizeof *header), *row = mem_zalloc(sizeof *row);
    if (!header || !row) {
        x->text->failed = E_NOMEM;
        goto out;
    }
    buf_init(&header->bytes, ROW_BYTES_MAX);
    buf_init(&row->bytes, ROW_BYTES_MAX);
    struct span rest = in;
    bool more = csv_row_read(&rest, delimiter, header);
    bool named = more && csv_is_header(header);
    int prompt = -1, answer = -1, text = -1;
    if (named) {
        prompt = csv_find(header, prompts);
        answer = csv_find(header, answers);
        text = csv_find(header, texts);
    } else
        rest = in;
    if (header->bytes.failed == E_NOMEM) x->text->failed = E_NOMEM;
    while (!x->text->failed && csv_row_read(&rest, delimiter, row)) {
        if (row->bytes.failed == E_NOMEM) { /* no fault of the row */
            x->text->failed = E_NOMEM;
            break;
        }
        if (row->n == 1 && !has_content(csv_get(row, 0))) continue;
        size_t before = x->text->len;
        if (!row->n) {
            x->rows_bad++;
            continue;
        }
        record_begin(x->text);
        size_t start = x->text->len;
        if (prompt >= 0 && answer >= 0) {
            if (has_content(csv_get(row, prompt)) && has_content(csv_get(row, answer))) {
                put_clean(x->text, span_trim(csv_get(row, prompt)));
                buf_append_char(x->text, TEXT_TURN);
                put_clean(x->text, span_trim(csv_get(row, answer)));
            }
        } else if (text >= 0) {
            if (has_content(csv_get(row, text))) put_clean(x->text, csv_get(row, text));
        } else {
            for (int i = 0; i < row->n; i++) {
                struct span value = span_trim(csv_get(row, i)), name = named ? span_trim(csv_get(header, i)) : (struct span){0};
                if (!value.len) continue;
                if (x->text->len > start) buf_append_char(x->text, '\n');
                if (name.len) {
                    put_clean(x->text, name);
                    buf_append_str(x->text, ": ");
                }
                put_clean(x->text, value);
            }
        }
        if (x->text->failed) break;
        if (x->text->len == start) {
            x->text->len = before;
            x->rows_bad++;
        } else
            x->rows++;
    }
out:
    if (header) buf_fini(&header->bytes);
    if (row) buf_fini(&row->bytes);
    mem_free(header);
    mem_free(row);
    return x->rows || x->text->failed ? REASON_NONE : REASON_BAD_ROWS;
}
