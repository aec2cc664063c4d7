#include "base/alloc.h"
#include "base/json.h"
#include "http/wire.h"

enum { FIELDS_MAX = 16 * 1024 }; /* of an answer; clients refuse heads not much larger */

struct http_exchange *http_exchange_new(struct loop *l, const struct http_wire *wire, void *connection, struct http_head *head) {
    struct http_exchange *x = mem_zalloc(sizeof *x);
    if (!x) return NULL;
    x->wire = wire;
    x->connection = connection;
    x->loop = l;
    x->refs = 2;
    x->head = *head;
    *head = (struct http_head){0};
    x->head_only = span_eq(x->head.method, SPAN("HEAD"));
    x->reset_code = HTTP_RESET_INTERNAL;
    buf_init(&x->fields, FIELDS_MAX);
    buf_init(&x->trailers, FIELDS_MAX);
    buf_init(&x->out, SIZE_MAX); /* the wire sets the cap that fits the kind of answer */
    return x;
}

void http_exchange_ref(struct http_exchange *x) { x->refs++; }

void http_exchange_unref(struct http_exchange *x) {
    if (--x->refs) return;
    http_head_fini(&x->head);
    buf_fini(&x->collected);
    if (x->budget) x->budget->used -= x->budgeted;
    buf_fini(&x->fields);
    buf_fini(&x->trailers);
    buf_fini(&x->out);
    mem_free(x);
}

/* ---- The request -------------------------------------------------------------------------------------------------------- */

enum http_protocol http_protocol(const struct http_exchange *x) { return x->wire->protocol == HTTP_1_1 && x->head.minor == 0 ? HTTP_1_0 : x->wire->protocol; }
bool http_secure(const struct http_exchange *x) { return x->connection && x->wire->secure(x); }
struct span http_method(const struct http_exchange *x) { return x->head.method; }
struct span http_path(const struct http_exchange *x) { return x->head.path; }
struct span http_query(const struct http_exchange *x) { return x->head.query; }
struct span http_header(const struct http_exchange *x, const char *name) { return http_head_field(&x->head, name); }
size_t http_header_count(const struct http_exchange *x) { return x->head.field_count; }
const struct http_field *http_header_at(const struct http_exchange *x, size_t i) { return i < x->head.field_count ? &x->head.fields[i] : NULL; }
struct span http_authority(const struct http_exchange *x) { return x->head.authority; }
const char *http_peer(const struct http_exchange *x) { return x->connection ? x->wire->peer(x) : ""; }
bool http_peer_loopback(const struct http_exchange *x) { return x->connection && x->wire->loopback(x); }
bool http_client_gone(const struct http_exchange *x) { return x->gone || !x->connection; }
bool http_begun(const struct http_exchange *x) { return x->begun; }

/* ---- The body ----------------------------------------------------------------------------------------------------------- */

bool http_exchange_wants_body(const struct http_exchange *x) { return x->body_wanted && !x->body_paused && !x->ended && !x->body_told; }

/* Tells the handler of the end or the error, once, when it is known and wanted. */
static void tell_body_over(struct http_exchange *x) {
    if (!x->body_over || x->body_told || !x->body_wanted || x->ended || (x->body_paused && !x->body_error)) return;
    x->body_told = true;
    if (x->on_body) x->on_body(x->body_arg, x->body_error ? SPAN("") : buf_span(&x->collected), x->body_error);
    else x->on_chunk(x->body_arg, SPAN(""), x->body_error == 0, x->body_error);
}

static void fail_body(struct http_exchange *x, int r) {
    x->body_over = true;
    x->body_error = r;
    tell_body_over(x);
}

void http_exchange_body(struct http_exchange *x, struct span piece) {
    x->body_seen += piece.len;
    if (!x->body_wanted || x->ended || x->body_over) return; /* read away */
    if (!x->on_body) {
        x->on_chunk(x->body_arg, piece, false, 0);
        return;
    }
    if (x->budget && piece.len > x->budget->max - x->budget->used) {
        fail_body(x, E_FULL);
        return;
    }
    int r = buf_append_span(&x->collected, piece);
    if (r == 0 && x->budget) {
        x->budget->used += piece.len;
        x->budgeted += piece.len;
    }
    if (r) fail_body(x, r == E_FULL ? E_TOO_LARGE : r);
}

void http_exchange_body_end(struct http_exchange *x, int r) {
    if (x->body_over) return;
    fail_body(x, r);
}

static void want_body(struct http_exchange *x) {
    ASSERT(!x->body_wanted && !x->ended);
    x->body_wanted = true;
    if (!x->connection && !x->body_over) {
        x->body_over = true;
        x->body_error = E_CANCELLED;
    }
    http_exchange_ref(x);
    if (x->body_over) tell_body_over(x);
    else x->wire->pull(x);
    http_exchange_unref(x);
}

void http_body_read(struct http_exchange *x, void *arg, void (*on_chunk)(void *arg, struct span piece, bool last, int r)) {
    x->body_arg = arg;
    x->on_chunk = on_chunk;
    want_body(x);
}

void http_body_collect(struct http_exchange *x, size_t cap, void *arg, void (*on_body)(void *arg, struct span body, int r)) {
    x->body_arg = arg;
    x->on_body = on_body;
    buf_init(&x->collected, cap);
    if (!x->head.chunked && x->head.length > cap && !x->body_over) { /* known before a byte of it was read */
        x->body_over = true;
        x->body_error = E_TOO_LARGE;
    }
    want_body(x);
}

void http_body_budget(struct http_exchange *x, struct http_budget *budget) { x->budget = budget; }

void http_body_patient(struct http_exchange *x) { x->body_patient = true; }

void http_body_pause(struct http_exchange *x) { x->body_paused = true; }

void http_body_resume(struct http_exchange *x) {
    if (!x->body_paused) return;
    x->body_paused = false;
    http_exchange_ref(x);
    if (x->body_over) tell_body_over(x);
    else if (x->connection && x->body_wanted) x->wire->pull(x);
    http_exchange_unref(x);
}

/* ---- The client goes ---------------------------------------------------------------------------------------------------- */

static void tell_gone(struct http_exchange *x) {
    if (!x->gone || x->gone_told || x->ended || !x->on_close) return;
    x->gone_told = true;
    x->on_close(x->close_arg);
}

static void tell_gone_later(void *arg) {
    struct http_exchange *x = arg;
    tell_gone(x);
    http_exchange_unref(x);
}

void http_exchange_gone(struct http_exchange *x) {
    x->gone = true;
    tell_gone(x);
}

void http_exchange_detach(struct http_exchange *x) {
    x->connection = NULL;
    x->next = NULL;
    buf_fini(&x->out);
    http_exchange_body_end(x, E_CANCELLED);
    http_exchange_gone(x);
    http_exchange_unref(x);
}

void http_on_close(struct http_exchange *x, void *arg, void (*on_close)(void *arg)) {
    x->close_arg = arg;
    x->on_close = on_close;
    if (!x->gone && x->connection) return;
    x->gone = true;
    http_exchange_ref(x);
    if (loop_post(x->loop, tell_gone_later, x)) tell_gone_later(x); /* without memory for the detour: now */
}

void http_on_drain(struct http_exchange *x, void *arg, void (*on_drain)(void *arg)) {
    x->drain_arg = arg;
    x->on_drain = on_drain;
}

void http_exchange_drained(struct http_exchange *x) {
    if (!x->wants_drain || x->ended) return;
    x->wants_drain = false;
    if (x->on_drain) x->on_drain(x->drain_arg);
}

/* ---- The answer --------------------------------------------------------------------------------------------------------- */

/* How an answer is framed is the wire's to say. */
static bool framing(struct span name) {
    return span_eq_nocase(name, SPAN("content-length")) || span_eq_nocase(name, SPAN("transfer-encoding")) || span_eq_nocase(name, SPAN("connection")) || span_eq_nocase(name, SPAN("date"));
}

static int add_field(struct buf *fields, const char *name, struct span value) {
    if (!http_is_token(span_str(name)) || framing(span_str(name))) return E_INVALID;
    for (size_t i = 0; i < value.len; i++)
        if (((unsigned char)value.data[i] < 0x20 && value.data[i] != '\t') || value.data[i] == 0x7f) return E_INVALID;
    if (strlen(name) + value.len + 4 > buf_room(fields)) return E_FULL;
    return buf_printf(fields, "%s: %.*s\r\n", name, SPAN_ARG(value)); /* the field's length is below FIELDS_MAX */
}

int http_header_add(struct http_exchange *x, const char *name, struct span value) { return x->begun ? E_STATE : add_field(&x->fields, name, value); }

int http_trailer_add(struct http_exchange *x, const char *name, struct span value) {
    ASSERT(!x->ended);
    return x->head_only ? E_STATE : add_field(&x->trailers, name, value);
}

bool http_fields_next(struct span *fields, struct span *name, struct span *value) {
    struct span line;
    if (!span_cut(fields, '\n', &line)) return false;
    ptrdiff_t colon = span_find_char(line, ':');
    ASSERT(colon > 0 && line.len >= (size_t)colon + 3);
    *name = span_sub(line, 0, (size_t)colon);
    *value = span_sub(line, (size_t)colon + 2, line.len - (size_t)colon - 3);
    return true;
}

/* The handler is done with x. */
static void end(struct http_exchange *x) {
    ASSERT(!x->ended);
    x->ended = true;
    if (x->connection) x->wire->end(x);
    http_exchange_unref(x);
}

/* The answer's head; a failure leaves it to be aborted. */
static int begin(struct http_exchange *x, int status, const char *content_type, int64_t length) {
    ASSERT(!x->begun && !x->ended && status >= 200 && status <= 999);
    if (!x->connection) {
        x->begun = true;
        return E_CANCELLED;
    }
    int r = content_type ? http_header_add(x, "content-type", span_str(content_type)) : 0;
    x->status = status;
    x->begun = true;
    http_exchange_ref(x); /* a stream's head is sent at once, and that may call handlers */
    if (!r) r = x->wire->begin(x, length);
    if (r) x->aborted = true;
    http_exchange_unref(x);
    return r;
}

int http_respond(struct http_exchange *x, int status, const char *content_type, struct span body) {
    int r = begin(x, status, content_type, (int64_t)body.len);
    if (!r && !x->head_only && body.len) {
        r = x->wire->write(x, body);
        if (r) x->aborted = true;
    }
    end(x);
    return r;
}

int http_stream_begin(struct http_exchange *x, int status, const char *content_type) {
    x->streaming = true;
    return begin(x, status, content_type, -1);
}

int http_stream_write(struct http_exchange *x, struct span data) {
    ASSERT(x->streaming && x->begun && !x->ended);
    if (!x->connection) return E_CANCELLED;
    if (x->aborted) return E_NOMEM;
    if (!data.len || x->head_only) return 0;
    http_exchange_ref(x);
    int r = x->wire->write(x, data);
    if (r == E_FULL) x->wants_drain = true;
    if (!x->connection) r = E_CANCELLED;
    http_exchange_unref(x);
    return r;
}

void http_stream_end(struct http_exchange *x) {
    ASSERT(x->streaming);
    end(x);
}

void http_abort(struct http_exchange *x) {
    if (!x->begun) {
        struct error err;
        error_set(&err, E_INTERNAL, "The server could not answer this request.");
        http_respond_error(x, &err);
        return;
    }
    x->aborted = true;
    end(x);
}

void http_reset(struct http_exchange *x, enum http_reset code) {
    x->begun = true;
    x->aborted = true;
    x->reset_code = code;
    end(x);
}

/* ---- Words -------------------------------------------------------------------------------------------------------------- */

const char *http_status_text(int status) {
    static const struct {
        int status;
        const char *text;
    } texts[] = {
        {100, "Continue"}, {200, "OK"}, {201, "Created"}, {202, "Accepted"}, {204, "No Content"}, {206, "Partial Content"}, {301, "Moved Permanently"}, {302, "Found"}, {303, "See Other"}, {304, "Not Modified"},
        {307, "Temporary Redirect"}, {308, "Permanent Redirect"}, {400, "Bad Request"}, {401, "Unauthorized"}, {403, "Forbidden"}, {404, "Not Found"}, {405, "Method Not Allowed"}, {406, "Not Acceptable"}, {408, "Request Timeout"}, {409, "Conflict"},
        {410, "Gone"}, {411, "Length Required"}, {412, "Precondition Failed"}, {413, "Content Too Large"}, {414, "URI Too Long"}, {415, "Unsupported Media Type"}, {416, "Range Not Satisfiable"}, {417, "Expectation Failed"}, {421, "Misdirected Request"},
        {422, "Unprocessable Content"}, {425, "Too Early"}, {426, "Upgrade Required"}, {428, "Precondition Required"}, {429, "Too Many Requests"}, {431, "Request Header Fields Too Large"}, {499, "Client Closed Request"}, {500, "Internal Server Error"},
        {501, "Not Implemented"}, {502, "Bad Gateway"}, {503, "Service Unavailable"}, {504, "Gateway Timeout"}, {505, "HTTP Version Not Supported"}, {507, "Insufficient Storage"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (texts[i].status == status) return texts[i].text;
    return "";
}

int http_error_body(struct buf *out, const char *message, const char *type, const char *param, const char *code) {
    struct json_out w;
    json_begin(&w, out);
    json_object(&w);
    json_key(&w, "error");
    json_object(&w);
    json_str(&w, "message", message);
    json_str(&w, "type", type);
    json_str(&w, "param", param && param[0] ? param : NULL);
    json_str(&w, "code", code);
    json_object_end(&w);
    json_object_end(&w);
    return out->failed;
}

int http_respond_error(struct http_exchange *x, const struct error *err) {
    const struct error_kind *kind = error_kind(err->code);
    struct buf body;
    buf_init(&body, 8 * (ERROR_MESSAGE_MAX + ERROR_PARAM_MAX) + 256);
    http_error_body(&body, err->message, kind->openai_type, err->param, NULL);
    if (kind->http_status == 429 || kind->http_status == 503) http_header_add(x, "retry-after", SPAN("1"));
    int r = http_respond(x, kind->http_status, "application/json", buf_span(&body));
    buf_fini(&body);
    return r;
}

void http_exchange_refuse(struct http_exchange *x, int status, const char *reason) {
    struct buf body;
    buf_init(&body, 4096);
    http_error_body(&body, reason, status >= 500 ? "server_error" : "invalid_request_error", NULL, NULL);
    http_respond(x, status, "application/json", buf_span(&body));
    buf_fini(&body);
}
