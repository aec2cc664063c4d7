/*
 * POST /v1/documents: the raw body is one document, passed on to ingest as it comes. Backpressure goes all the way: without credit from ingest the body is paused, and TCP slows the
 * client. Ingest's acknowledgement follows its durable write; only then is the client answered.
 */
#include "base/alloc.h"
#include "genloop/v1/services.pb-c.h"
#include "http/query.h"
#include "exchange.h"
#include "routes.h"
#include "uplink.h"

enum { PIECE_MAX = 64 * 1024, HEADER_MAX = 64 * 1024 };

static const struct relay UPLOAD = {"ingest", "Ingest/Upload", &genloop__v1__upload_request__descriptor, &genloop__v1__upload_reply__descriptor, .stream = RELAY_UNARY};

struct upload {
    struct exchange *x;
    struct uplink *up;
    struct buf waiting; /* what came while there was no credit; the body is paused then, so at most one piece of the server's */
    struct buf packed;
    uint64_t taken;
    bool ended, end_sent, paused;
};

static void upload_free(void *arg) {
    struct upload *u = arg;
    buf_fini(&u->waiting);
    buf_fini(&u->packed);
    mem_free(u);
}

/* Nothing reads on: the body's reader is told nothing once the exchange has ended. */
static void fail(struct upload *u, const struct error *err) {
    uplink_fail(u->up, err);
    upload_free(u);
}

/* Sends what waits, in pieces, as far as there is credit. E_FULL: on_writable follows. */
static int send_waiting(struct upload *u) {
    int r = 0;
    while (r == 0 && u->waiting.len > 0) {
        struct span piece = span_sub(buf_span(&u->waiting), 0, PIECE_MAX);
        Genloop__V1__UploadRequest m;
        genloop__v1__upload_request__init(&m);
        m.part_case = GENLOOP__V1__UPLOAD_REQUEST__PART_DATA;
        m.data = (ProtobufCBinaryData){piece.len, (uint8_t *)(uintptr_t)piece.data};
        buf_clear(&u->packed);
        char *at = buf_reserve(&u->packed, genloop__v1__upload_request__get_packed_size(&m));
        if (!at) return E_NOMEM;
        buf_commit(&u->packed, genloop__v1__upload_request__pack(&m, (uint8_t *)at));
        r = uplink_send(u->up, buf_span(&u->packed));
        if (r == 0) buf_consume(&u->waiting, piece.len);
    }
    if (r == 0 && u->ended && !u->end_sent) {
        r = uplink_end(u->up);
        u->end_sent = true;
    }
    return r;
}

static void go_on(void *arg) {
    struct upload *u = arg;
    struct error err;
    int r = send_waiting(u);
    if (r < 0 && r != E_FULL) {
        (void)error_set(&err, r == E_NOMEM ? E_NOMEM : E_UNAVAILABLE, "ingest does not take the document: try again");
        fail(u, &err);
        return;
    }
    bool pause = r == E_FULL;
    if (pause == u->paused || u->ended) return;
    u->paused = pause;
    if (pause) http_body_pause(u->x->http);
    else http_body_resume(u->x->http);
}

static void on_chunk(void *arg, struct span piece, bool last, int r) {
    struct upload *u = arg;
    struct error err;
    u->taken += piece.len;
    if (r < 0) {
        (void)error_set(&err, r, "%s", r == E_DEADLINE ? "the body did not come in time" : "the body cannot be read");
        fail(u, &err);
    } else if (u->taken > (uint64_t)u->x->gateway->settings->upload_max_bytes) {
        (void)error_set(&err, E_TOO_LARGE, "a document has at most %lld bytes", (long long)u->x->gateway->settings->upload_max_bytes);
        fail(u, &err);
    } else if (buf_append_span(&u->waiting, piece) < 0) {
        (void)error_set(&err, E_NOMEM, "no memory for the document: try again");
        fail(u, &err);
    } else {
        u->ended = last;
        go_on(u);
    }
}

static const struct uplink_events uplink_events = {.on_writable = go_on, .on_over = upload_free};

/* The header from the query: ?dataset=NAME&source=…&media_type=…&subject=…; without media_type the body's Content-Type, unless that says nothing. */
static int pack_header(struct exchange *x, struct buf *out, struct error *err) {
    static const char *const names[] = {"dataset", "source", "media_type", "subject", NULL};
    char text[4][QUERY_VALUE_MAX];
    struct span value[4] = {{0}};
    struct span query = http_query(x->http);
    Genloop__V1__UploadRequest m;
    Genloop__V1__UploadHeader h;
    int r = query_check(query, names, err);
    for (int i = 0; r == 0 && i < 4; i++)
        if ((r = query_get(query, names[i], text[i], &value[i], err)) == E_NOT_FOUND) {
            text[i][0] = 0;
            r = 0;
        }
    if (r < 0) return r;
    if (!text[0][0]) return error_set_param(err, E_INVALID, "dataset", "'dataset' is required: POST /v1/documents?dataset=NAME&source=FILE");
    struct span type = http_header(x->http, "content-type"), bare = type;
    if (!text[2][0] && type.data && !http_media_type_is(type, "application/octet-stream") && !http_media_type_is(type, "application/x-www-form-urlencoded") && span_cut(&type, ';', &bare))
        span_copy(text[2], sizeof text[2], span_trim(bare));
    genloop__v1__upload_request__init(&m);
    genloop__v1__upload_header__init(&h);
    m.part_case = GENLOOP__V1__UPLOAD_REQUEST__PART_HEADER;
    m.header = &h;
    h.dataset = text[0];
    h.source = text[1];
    h.media_type = text[2];
    h.subject = text[3];
    char *at = buf_reserve(out, genloop__v1__upload_request__get_packed_size(&m));
    if (!at) return error_set(err, E_TOO_LARGE, "the query is too large");
    buf_commit(out, genloop__v1__upload_request__pack(&m, (uint8_t *)at));
    return 0;
}

void document_upload(struct exchange *x, const struct json *body) {
    struct error err = {0};
    (void)body;
    struct upload *u = mem_zalloc(sizeof *u);
    if (!u) {
        (void)error_set(&err, E_NOMEM, "no memory for the document");
        exchange_error(x, &err);
        return;
    }
    u->x = x;
    buf_init(&u->waiting, 4 << 20); /* the server hands over what it has read at once: 64 KiB, and while it is paused nothing */
    buf_init(&u->packed, HEADER_MAX + PIECE_MAX);
    if (pack_header(x, &u->packed, &err) < 0) {
        exchange_error(x, &err);
    } else if ((u->up = uplink_open(x, &UPLOAD, u, &uplink_events))) {
        if (uplink_send(u->up, buf_span(&u->packed)) == 0) { /* the first always has credit */
            http_body_read(x->http, u, on_chunk);
            return;
        }
        (void)error_set(&err, E_UNAVAILABLE, "ingest does not take the document: try again");
        uplink_fail(u->up, &err);
    }
    upload_free(u);
}
