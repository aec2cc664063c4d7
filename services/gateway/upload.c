#include "upload.h"

#include "base/alloc.h"
#include "genloop/v1/services.pb-c.h"
#include "http/query.h"
#include "idempotency.h"

enum { PIECE_MAX = 64 * 1024,
       ANSWER_MAX = 64 * 1024,
       HEADER_MAX = 64 * 1024,
       FIELD_MAX = 4096 };

const char *const UPLOAD_NAMES[UPLOAD_FIELDS] = {"dataset", "source", "media_type", "subject", "purpose", "expires_after[anchor]", "expires_after[seconds]"};

enum part { PART_NONE,
            PART_FILE,
            PART_FIELD };

struct upload {
    struct exchange *x;
    const struct upload_door *door;
    struct bus_call *call;
    struct buf fields[UPLOAD_FIELDS];
    bool has[UPLOAD_FIELDS];
    /* of a form */
    bool form, file_seen, form_ended;
    bool late; /* fields came behind the file: the header is sent once more */
    struct multipart multipart;
    enum part part;
    int field; /* of PART_FIELD */
    /* on the way */
    struct buf waiting; /* what came while there was no credit; the body is paused then, so at most one piece of the server's */
    struct buf packed, answer;
    uint64_t taken;
    bool ended, end_sent, paused;
};

static void upload_free(struct upload *u) {
    if (u->call) bus_call_cancel(u->call);
    for (int i = 0; i < UPLOAD_FIELDS; i++) buf_fini(&u->fields[i]);
    if (u->form) multipart_fini(&u->multipart);
    buf_fini(&u->waiting);
    buf_fini(&u->packed);
    buf_fini(&u->answer);
    mem_free(u);
}

/* Nothing reads on: the body's reader is told nothing once the exchange has ended. */
static void fail(struct upload *u, const struct error *err) {
    struct exchange *x = u->x;
    void (*answer)(struct exchange *, struct span, int, const struct error *) = u->door->answer;
    upload_free(u);
    answer(x, SPAN(""), err->code, err);
}

static void on_gone(void *state) {
    struct upload *u = state;
    struct exchange *x = u->x;
    upload_free(u);
    exchange_abort(x);
}

/* ---- the header ---- */

static char *text_of(struct upload *u, enum upload_field f) { return (char *)(uintptr_t)(u->has[f] ? buf_cstr(&u->fields[f]) : ""); }

static int expires_after(struct upload *u, int64_t *seconds, struct error *err) {
    *seconds = 0;
    if (!u->has[UPLOAD_ANCHOR] && !u->has[UPLOAD_SECONDS]) return 0;
    if (!span_eq_str(buf_span(&u->fields[UPLOAD_ANCHOR]), "created_at")) return error_set_param(err, E_INVALID, "expires_after", "'expires_after[anchor]' must be created_at");
    if (span_to_i64(buf_span(&u->fields[UPLOAD_SECONDS]), seconds) < 0 || *seconds < 1) return error_set_param(err, E_INVALID, "expires_after", "'expires_after[seconds]' must be a whole number of seconds");
    return 0;
}

/* As an UploadRequest onto u->packed. */
static int pack_header(struct upload *u, struct error *err) {
    Genloop__V1__UploadRequest m;
    Genloop__V1__UploadHeader h;
    char id[IDEMPOTENCY_ID_MAX];
    genloop__v1__upload_request__init(&m);
    genloop__v1__upload_header__init(&h);
    m.part_case = GENLOOP__V1__UPLOAD_REQUEST__PART_HEADER;
    m.header = &h;
    h.dataset = text_of(u, UPLOAD_DATASET);
    h.source = text_of(u, UPLOAD_SOURCE);
    h.media_type = text_of(u, UPLOAD_MEDIA_TYPE);
    h.subject = text_of(u, UPLOAD_SUBJECT);
    h.purpose = text_of(u, UPLOAD_PURPOSE);
    if (!h.dataset || !h.source || !h.media_type || !h.subject || !h.purpose) return error_set(err, E_NOMEM, "no memory for the upload");
    int r = expires_after(u, &h.expires_after_s, err);
    if (r == 0 && u->door->required == UPLOAD_PURPOSE && (r = idempotency_id(u->x, "file-", id, err)) == 0) h.id = id;
    if (r < 0) return r;
    buf_clear(&u->packed);
    char *at = buf_reserve(&u->packed, genloop__v1__upload_request__get_packed_size(&m));
    if (!at) return error_set(err, E_TOO_LARGE, "what is said of the %s is too large", u->door->what);
    buf_commit(&u->packed, genloop__v1__upload_request__pack(&m, (uint8_t *)at));
    return 0;
}

/* ---- the bytes ---- */

static int send_piece(struct upload *u, struct span piece) {
    Genloop__V1__UploadRequest m;
    genloop__v1__upload_request__init(&m);
    m.part_case = GENLOOP__V1__UPLOAD_REQUEST__PART_DATA;
    m.data = (ProtobufCBinaryData){piece.len, (uint8_t *)(uintptr_t)piece.data};
    buf_clear(&u->packed);
    char *at = buf_reserve(&u->packed, genloop__v1__upload_request__get_packed_size(&m));
    if (!at) return E_NOMEM;
    buf_commit(&u->packed, genloop__v1__upload_request__pack(&m, (uint8_t *)at));
    return bus_call_item(u->call, buf_span(&u->packed));
}

/* Sends what waits, in pieces, as far as there is credit. E_FULL: on_writable follows. */
static int send_waiting(struct upload *u, struct error *err) {
    int r = 0;
    while (r == 0 && u->waiting.len > 0) {
        struct span piece = span_sub(buf_span(&u->waiting), 0, PIECE_MAX);
        r = send_piece(u, piece);
        if (r == 0) buf_consume(&u->waiting, piece.len);
    }
    if (r == 0 && u->ended && u->late) {
        r = pack_header(u, err);
        if (r == 0) r = bus_call_item(u->call, buf_span(&u->packed));
        if (r == 0) u->late = false;
    }
    if (r == 0 && u->ended && !u->end_sent) {
        r = bus_call_item_end(u->call);
        u->end_sent = true;
    }
    if (r < 0 && r != E_FULL && (!err->code)) (void)error_set(err, r == E_NOMEM ? E_NOMEM : E_UNAVAILABLE, "ingest does not take the %s: try again", u->door->what);
    return r;
}

static void go_on(struct upload *u) {
    struct error err = {0};
    int r = u->call ? send_waiting(u, &err) : 0;
    if (r < 0 && r != E_FULL) {
        fail(u, &err);
        return;
    }
    bool pause = r == E_FULL;
    if (pause == u->paused || u->ended) return;
    u->paused = pause;
    if (pause) http_body_pause(u->x->http);
    else http_body_resume(u->x->http);
}

static void on_writable(void *arg) { go_on(arg); }

static void on_item(void *arg, struct span item) {
    struct upload *u = arg;
    buf_clear(&u->answer);
    (void)buf_append_span(&u->answer, item);
}

static void on_end(void *arg, int code, const struct error *why, bool begun) {
    struct upload *u = arg;
    struct error err = {0};
    (void)begun;
    u->call = NULL;
    if (code < 0) {
        err = *why;
        fail(u, &err);
        return;
    }
    struct exchange *x = u->x;
    struct buf answer = u->answer;
    void (*done)(struct exchange *, struct span, int, const struct error *) = u->door->answer;
    u->answer = (struct buf){0};
    upload_free(u);
    done(x, buf_span(&answer), 0, &err);
    buf_fini(&answer);
}

static const struct bus_call_events CALL_EVENTS = {.on_item = on_item, .on_writable = on_writable, .on_end = on_end};

static int open_call(struct upload *u, struct error *err) {
    struct exchange *x = u->x;
    struct bus_peer *peer = service_peer(x->gateway->service, "ingest");
    if (!peer) return error_set(err, E_UNAVAILABLE, "ingest is not there now: try again in a moment");
    int r = pack_header(u, err);
    if (r < 0) return r;
    struct bus_context context = exchange_context(x, 0);
    u->call = bus_call(peer, u->door->method, &context, buf_span(&u->packed), true, 1, u, &CALL_EVENTS, err);
    return u->call ? 0 : err->code;
}

/* ---- forms ---- */

/* The last segment: what is before it is where the file lay on the client's machine. */
static struct span base_name(struct span name) {
    for (size_t i = name.len; i > 0; i--)
        if (name.data[i - 1] == '/' || name.data[i - 1] == '\\') return span_skip(name, i);
    return name;
}

static int begin_file(struct upload *u, struct error *err) {
    if (u->file_seen) return error_set_param(err, E_INVALID, "file", "the form has a second file: send one at a time");
    u->file_seen = true;
    u->part = PART_FILE;
    struct span name = base_name(buf_span(&u->multipart.file_name)), type = buf_span(&u->multipart.content_type), bare = type;
    if (!u->has[UPLOAD_SOURCE] && name.len) {
        if (name.len > FIELD_MAX || !span_is_utf8(name) || memchr(name.data, 0, name.len)) return error_set_param(err, E_INVALID, "file", "a file's name must be UTF-8 of at most %d bytes", FIELD_MAX);
        (void)buf_append_span(&u->fields[UPLOAD_SOURCE], name);
        u->has[UPLOAD_SOURCE] = true;
    }
    /* Clients that do not know say application/octet-stream. */
    if (!u->has[UPLOAD_MEDIA_TYPE] && type.len && !http_media_type_is(type, "application/octet-stream") && span_cut(&type, ';', &bare) && span_is_utf8(bare) && !memchr(bare.data, 0, bare.len)) {
        (void)buf_append_span(&u->fields[UPLOAD_MEDIA_TYPE], span_trim(bare));
        u->has[UPLOAD_MEDIA_TYPE] = true;
    }
    return open_call(u, err);
}

static int begin_part(struct upload *u, struct error *err) {
    struct span name = buf_span(&u->multipart.name);
    if (span_eq_str(name, "file")) return begin_file(u, err);
    for (int i = 0; i < UPLOAD_FIELDS; i++) {
        if (!(u->door->fields & 1u << i) || !span_eq_str(name, UPLOAD_NAMES[i])) continue;
        if (u->has[i] && i != UPLOAD_SOURCE && i != UPLOAD_MEDIA_TYPE) return error_set_param(err, E_INVALID, UPLOAD_NAMES[i], "'%s' is given twice", UPLOAD_NAMES[i]);
        u->part = PART_FIELD;
        u->field = i;
        u->has[i] = true;
        buf_clear(&u->fields[i]);
        u->late |= u->file_seen;
        return 0;
    }
    char param[ERROR_PARAM_MAX];
    return error_set_param(err, E_INVALID, span_copy(param, sizeof param, name), "unrecognized field '%s' in the form", param);
}

static int end_part(struct upload *u, struct error *err) {
    enum part part = u->part;
    u->part = PART_NONE;
    if (part != PART_FIELD) return 0;
    struct span value = buf_span(&u->fields[u->field]);
    if (!span_is_utf8(value) || (value.len && memchr(value.data, 0, value.len))) return error_set_param(err, E_INVALID, UPLOAD_NAMES[u->field], "'%s' must be UTF-8", UPLOAD_NAMES[u->field]);
    return 0;
}

static int take_form(struct upload *u, struct span piece, struct error *err) {
    struct span data;
    int r = 0;
    while (r == 0) {
        switch (multipart_next(&u->multipart, &piece, &data)) {
        case MULTIPART_NEED: return 0;
        case MULTIPART_PART: r = begin_part(u, err); break;
        case MULTIPART_DATA:
            if (u->part == PART_FILE) r = buf_append_span(&u->waiting, data) < 0 ? error_set(err, E_NOMEM, "no memory for the %s: try again", u->door->what) : 0;
            else if (u->part == PART_FIELD && buf_append_span(&u->fields[u->field], data) < 0)
                r = error_set_param(err, E_INVALID, UPLOAD_NAMES[u->field], "'%s' must have at most %d bytes", UPLOAD_NAMES[u->field], FIELD_MAX);
            break;
        case MULTIPART_PART_END: r = end_part(u, err); break;
        case MULTIPART_END: u->form_ended = true; break;
        case MULTIPART_REFUSED: r = error_set(err, E_INVALID, "the form is malformed: %s", multipart_reason(&u->multipart)); break;
        }
    }
    return r;
}

static int check_form(struct upload *u, struct error *err) {
    if (!u->form_ended) return error_set(err, E_INVALID, "the form is cut off: its closing boundary is missing");
    if (!u->file_seen) return error_set_param(err, E_INVALID, "file", "'file' is required: a part with that name that holds the %s", u->door->what);
    if (!u->has[u->door->required]) return error_set_param(err, E_INVALID, UPLOAD_NAMES[u->door->required], "'%s' is required: %s", UPLOAD_NAMES[u->door->required], u->door->remedy);
    return 0;
}

/* ---- the body ---- */

static void on_chunk(void *arg, struct span piece, bool last, int r) {
    struct upload *u = arg;
    struct error err = {0};
    if (r == E_CANCELLED) {
        on_gone(u);
        return;
    }
    u->taken += piece.len;
    if (r < 0) (void)error_set(&err, r, "%s", r == E_DEADLINE ? "the body did not come in time" : "the body cannot be read");
    else if (u->taken > (uint64_t)u->x->gateway->settings->upload_max_bytes)
        r = error_set(&err, E_TOO_LARGE, "a %s has at most %lld bytes", u->door->what, (long long)u->x->gateway->settings->upload_max_bytes);
    else if (u->form) {
        r = take_form(u, piece, &err);
        if (r == 0 && last) r = check_form(u, &err);
    } else if (buf_append_span(&u->waiting, piece) < 0)
        r = error_set(&err, E_NOMEM, "no memory for the %s: try again", u->door->what);
    if (r < 0) {
        fail(u, &err);
        return;
    }
    u->ended = last;
    go_on(u);
}

static int take_query(struct upload *u, struct error *err) {
    const char *names[UPLOAD_FIELDS + 1];
    struct span query = http_query(u->x->http);
    size_t n = 0;
    for (int i = 0; i < UPLOAD_FIELDS; i++)
        if (u->door->fields & 1u << i && !u->door->form_only) names[n++] = UPLOAD_NAMES[i];
    names[n] = NULL;
    int r = query_check(query, names, err);
    for (int i = 0; r == 0 && i < UPLOAD_FIELDS; i++) {
        char text[QUERY_VALUE_MAX];
        struct span value;
        int found = query_get(query, UPLOAD_NAMES[i], text, &value, err);
        if (found == E_NOT_FOUND || (found == 0 && !value.len)) continue;
        r = found;
        if (r == 0 && memchr(value.data, 0, value.len)) r = error_set_param(err, E_INVALID, UPLOAD_NAMES[i], "'%s' in the query is malformed", UPLOAD_NAMES[i]);
        if (r == 0) (void)buf_append_span(&u->fields[i], value);
        u->has[i] = true;
    }
    return r;
}

/* What the head of the request says. */
static int take_head(struct upload *u, struct error *err) {
    struct span type = http_header(u->x->http, "content-type"), bare = type;
    int r = take_query(u, err);
    if (r < 0) return r;
    if (http_media_type_is(type, "multipart/form-data")) {
        if ((r = multipart_init(&u->multipart, type)) < 0) return r == E_NOMEM ? error_set(err, r, "no memory for the form") : error_set(err, E_INVALID, "the form's Content-Type has no valid boundary");
        u->form = true;
        return 0;
    }
    if (u->door->form_only) return error_set(err, E_INVALID, "the body must be a form: Content-Type: multipart/form-data, with the parts file and %s", UPLOAD_NAMES[u->door->required]);
    if (!u->has[u->door->required]) return error_set_param(err, E_INVALID, UPLOAD_NAMES[u->door->required], "'%s' is required: %s", UPLOAD_NAMES[u->door->required], u->door->remedy);
    if (!u->has[UPLOAD_MEDIA_TYPE] && type.data && !http_media_type_is(type, "application/octet-stream") && !http_media_type_is(type, "application/x-www-form-urlencoded") && span_cut(&type, ';', &bare)) {
        (void)buf_append_span(&u->fields[UPLOAD_MEDIA_TYPE], span_trim(bare));
        u->has[UPLOAD_MEDIA_TYPE] = true;
    }
    return open_call(u, err);
}

void upload_begin(struct exchange *x, const struct upload_door *door) {
    struct error err = {0};
    if (!service_peer(x->gateway->service, "ingest") && exchange_wait(x)) return;
    struct upload *u = mem_zalloc(sizeof *u);
    if (!u) {
        (void)error_set(&err, E_NOMEM, "no memory for the %s", door->what);
        exchange_error(x, &err);
        return;
    }
    u->x = x;
    u->door = door;
    for (int i = 0; i < UPLOAD_FIELDS; i++) buf_init(&u->fields[i], FIELD_MAX);
    buf_init(&u->waiting, 4 << 20); /* the server hands over what it has read at once: 64 KiB, and while it is paused nothing */
    buf_init(&u->packed, HEADER_MAX + PIECE_MAX);
    buf_init(&u->answer, ANSWER_MAX);
    if (take_head(u, &err) < 0) {
        fail(u, &err);
        return;
    }
    exchange_watch(x, u, on_gone, NULL);
    http_body_read(x->http, u, on_chunk);
}
