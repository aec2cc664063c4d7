/* OpenAI's /v1/files: upload, list, one, its content, delete. Ingest owns them; here is their JSON. */
#include "base/alloc.h"
#include "genloop/v1/services.pb-c.h"
#include "http/query.h"
#include "ask.h"
#include "idempotency.h"
#include "pages.h"
#include "routes.h"
#include "upload.h"
#include "wire/unpack.h"

enum { LIST_JSON_MAX = 64 << 20,
       FILE_JSON_MAX = 64 * 1024,
       FILES_LIST_MAX = 10000 };

static void write_file(struct json_out *w, const Genloop__V1__File *f) {
    json_object(w);
    json_str(w, "id", f->id);
    json_str(w, "object", "file");
    json_num(w, "bytes", f->content ? (int64_t)f->content->size_bytes : 0);
    json_num(w, "created_at", f->created_time_ms / 1000);
    json_key(w, "expires_at");
    if (f->expires_time_ms) json_put_int(w, f->expires_time_ms / 1000);
    else json_put_null(w);
    json_str(w, "filename", f->filename);
    json_str(w, "purpose", f->purpose);
    json_str(w, "status", "processed"); /* it was checked before it was acknowledged */
    json_str(w, "status_details", NULL);
    json_object_end(w);
}

static void answer_file(struct exchange *x, struct span packed, int r, const struct error *why) {
    struct error err = *why;
    struct buf body;
    struct json_out w;
    Genloop__V1__File *f = r == 0 ? MESSAGE_UNPACK(File, file, packed) : NULL;
    buf_init(&body, FILE_JSON_MAX);
    json_begin(&w, &body);
    if (r == 0 && !f) r = error_set(&err, E_UNKNOWN, "ingest answered with what is no File");
    if (f) write_file(&w, f);
    if (r == E_EXISTS) idempotency_mismatch(x);
    else if (r < 0) exchange_error(x, &err);
    else exchange_json(x, 200, &body);
    if (f) message_free(&f->base);
    buf_fini(&body);
}

void files_upload(struct exchange *x, const struct json *body) {
    static const struct upload_door door = {
        .method = "Ingest/UploadFile",
        .what = "file",
        .fields = 1u << UPLOAD_PURPOSE | 1u << UPLOAD_ANCHOR | 1u << UPLOAD_SECONDS,
        .required = UPLOAD_PURPOSE,
        .remedy = "fine-tune, batch or model",
        .form_only = true,
        .answer = answer_file,
    };
    (void)body;
    upload_begin(x, &door);
}

/* ---- list ---- */

static void on_list(struct exchange *x, void *arg, struct span packed, int r, const struct error *why) {
    struct error err = *why;
    struct buf body;
    struct json_out w;
    Genloop__V1__ListFilesReply *m = r == 0 ? MESSAGE_UNPACK(ListFilesReply, list_files_reply, packed) : NULL;
    (void)arg;
    if (r == 0 && !m) r = error_set(&err, E_UNKNOWN, "ingest answered with what is no ListFilesReply");
    if (r == E_NOT_FOUND) err.code = r = E_INVALID; /* the page is not there, the list is */
    buf_init(&body, LIST_JSON_MAX);
    if (r == 0) {
        page_begin(&w, &body);
        for (size_t i = 0; i < m->n_files; i++) write_file(&w, m->files[i]);
        page_end(&w, span_str(m->n_files ? m->files[0]->id : ""), span_str(m->n_files ? m->files[m->n_files - 1]->id : ""), m->has_more);
    }
    if (r < 0) exchange_error(x, &err);
    else exchange_json(x, 200, &body);
    if (m) message_free(&m->base);
    buf_fini(&body);
}

void files_list(struct exchange *x, const struct json *body) {
    static const char *const names[] = {"purpose", "after", "limit", "order", NULL};
    char purpose[QUERY_VALUE_MAX] = "";
    struct error err = {0};
    struct page page;
    Genloop__V1__ListFilesRequest q;
    struct span query = http_query(x->http), value;
    int r = query_check(query, names, &err);
    (void)body;
    genloop__v1__list_files_request__init(&q);
    if (r == 0 && (r = query_get(query, "purpose", purpose, &value, &err)) == E_NOT_FOUND) r = 0;
    if (r == 0) r = page_read(query, FILES_LIST_MAX, FILES_LIST_MAX, &page, &err);
    if (r < 0) {
        exchange_error(x, &err);
        return;
    }
    q.purpose = purpose;
    q.after = page.after;
    q.limit = page.limit;
    q.ascending = page.ascending;
    (void)ask_service(x, &(struct ask){.service = "ingest", .method = "Ingest/ListFiles", .request = &q.base, .on_answer = on_list});
}

/* ---- one ---- */

static void on_file(struct exchange *x, void *arg, struct span packed, int r, const struct error *why) {
    (void)arg;
    answer_file(x, packed, r, why);
}

static void on_deleted(struct exchange *x, void *arg, struct span packed, int r, const struct error *why) {
    struct buf body;
    struct json_out w;
    (void)arg;
    (void)packed;
    if (r < 0) {
        exchange_error(x, why);
        return;
    }
    buf_init(&body, FILE_JSON_MAX);
    json_begin(&w, &body);
    json_object(&w);
    json_str(&w, "id", exchange_param(x, 0));
    json_str(&w, "object", "file");
    json_flag(&w, "deleted", true);
    json_object_end(&w);
    exchange_json(x, 200, &body);
    buf_fini(&body);
}

static void ask_one(struct exchange *x, const char *method, void (*on_answer)(struct exchange *x, void *arg, struct span packed, int r, const struct error *err)) {
    Genloop__V1__GetFileRequest q;
    genloop__v1__get_file_request__init(&q);
    q.id = (char *)(uintptr_t)exchange_param(x, 0);
    (void)ask_service(x, &(struct ask){.service = "ingest", .method = method, .request = &q.base, .on_answer = on_answer});
}

void files_get(struct exchange *x, const struct json *body) {
    (void)body;
    ask_one(x, "Ingest/GetFile", on_file);
}

void files_delete(struct exchange *x, const struct json *body) {
    (void)body;
    ask_one(x, "Ingest/DeleteFile", on_deleted);
}

/* ---- content: a piece after another, the next one asked for when the client has taken the one before ---- */

struct download {
    struct exchange *x;
    uint64_t offset, size;
    bool begun;
};

static void next_piece(void *state);

static void on_left(void *state) { mem_free(state); }

static void on_gone(void *state) {
    struct download *d = state;
    struct exchange *x = d->x;
    mem_free(d);
    exchange_abort(x);
}

/* `filename` as a quoted string and, whole, as RFC 8187 has it. */
static void name_content(struct exchange *x, const char *filename) {
    static const char hex[] = "0123456789ABCDEF";
    struct buf out;
    buf_init(&out, 8192);
    buf_append_str(&out, "attachment; filename=\"");
    for (const char *c = filename; *c; c++) buf_append_char(&out, (uint8_t)*c < 0x20 || (uint8_t)*c > 0x7e || *c == '"' || *c == '\\' ? '_' : *c);
    buf_append_str(&out, "\"; filename*=UTF-8''");
    for (const char *c = filename; *c; c++) {
        uint8_t b = (uint8_t)*c;
        bool plain = (b >= '0' && b <= '9') || ((b | 32) >= 'a' && (b | 32) <= 'z') || b == '.' || b == '-' || b == '_';
        if (!plain) buf_append_char(&out, '%');
        if (!plain) buf_append_char(&out, hex[b >> 4]);
        buf_append_char(&out, plain ? *c : hex[b & 15]);
    }
    if (!out.failed) (void)http_header_add(x->http, "Content-Disposition", buf_span(&out));
    buf_fini(&out);
}

static void on_piece(struct exchange *x, void *arg, struct span packed, int r, const struct error *why) {
    struct download *d = arg;
    struct error err = *why;
    Genloop__V1__ReadFileReply *m = r == 0 ? MESSAGE_UNPACK(ReadFileReply, read_file_reply, packed) : NULL;
    if (r == 0 && (!m || !m->file || !m->file->content)) r = error_set(&err, E_UNKNOWN, "ingest answered with what is no piece of a file");
    if (r == 0 && d->begun && m->data.len == 0) r = error_set(&err, E_DATA_LOSS, "the file ends too early");
    if (r == 0 && !d->begun) {
        d->begun = true;
        d->size = m->file->content->size_bytes;
        name_content(x, m->file->filename);
        r = http_stream_begin(x->http, 200, "application/octet-stream");
    }
    if (r == 0) r = exchange_write(x, span_of(m->data.data, m->data.len));
    if (r == 0) d->offset += m->data.len;
    if (m) message_free(&m->base);
    if (r < 0 && !d->begun) {
        mem_free(d);
        exchange_error(x, &err);
    } else if (r < 0) {
        on_gone(d); /* what has begun and cannot go on is cut off, and so seen to be */
    } else {
        exchange_watch(x, d, on_gone, next_piece);
        if (exchange_clear(x)) next_piece(d);
    }
}

static void next_piece(void *state) {
    struct download *d = state;
    struct exchange *x = d->x;
    Genloop__V1__ReadFileRequest q;
    if (d->begun && d->offset >= d->size) {
        mem_free(d);
        exchange_end(x);
        return;
    }
    genloop__v1__read_file_request__init(&q);
    q.id = (char *)(uintptr_t)exchange_param(x, 0);
    q.offset = d->offset;
    struct ask ask = {.service = "ingest", .method = "Ingest/ReadFile", .request = &q.base, .again = d->begun, .arg = d, .on_answer = on_piece, .on_gone = on_left};
    if (!ask_service(x, &ask)) mem_free(d);
}

void files_content(struct exchange *x, const struct json *body) {
    struct download *d = mem_zalloc(sizeof *d);
    struct error err = {0};
    (void)body;
    if (!d) {
        (void)error_set(&err, E_NOMEM, "no memory for the request");
        exchange_error(x, &err);
        return;
    }
    d->x = x;
    next_piece(d);
}
