/*
 * Upload, of a document or of a client's file (files.c says what differs). A document's way to its acknowledgement:
 *
 *   header ─► pieces ─► (pool thread: store) ─► last piece ─► (pool: store durable, id, known already?) ─► RECEIVED durable ─► UploadReply
 *
 * Credit is given back as bytes reach the disk, so a fast client waits for the disk and nobody's memory. Killed anywhere, nothing acknowledged is lost (the
 * event is durable before the reply) and nothing is doubled: the id says what the document is, and a second RECEIVED changes no view.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "services/ingest/files.h"
#include "services/ingest/ingest.h"
#include "wire/unpack.h"

struct upload {
    struct call call;
    struct ingest *in;
    struct upload *next, **link; /* in uploads.list */
    struct bus_reply *reply;
    bool file;                  /* Ingest/UploadFile */
    bool cancelled, ended, working, publishing;
    int headers;                /* that came: the second behind the data */
    int failed;                 /* the first failure: no further work, the call ends with it */
    struct error err;
    char tenant[128];
    Genloop__V1__UploadRequest *header; /* owns the header's fields */
    struct buf pending, writing; /* pieces that came; pieces that are being written */
    uint32_t credit_due;         /* items in `pending` */
    uint32_t credit_writing;
    uint64_t total;
    struct store_writer *writer;
    bool last;                  /* this round of work is the last */
    int work_result;            /* the pool thread's own words */
    struct error work_err;
    struct object_ref ref;
    struct file_upload upload;  /* of a file: what its content is */
    char id[65];
    bool existed;
    int published;
    struct upload *waiting_for_same; /* list of those that wait for the same document's publication */
};

struct uploads {
    struct upload *list;
    int count;
    size_t memory;
    struct metric *open, *bytes, *acknowledged, *existed, *failed;
};

int uploads_open(struct ingest *in, struct error *err) {
    struct uploads *u = mem_zalloc(sizeof *u);
    if (!u) return error_set(err, E_NOMEM, "no memory");
    u->open = metric_gauge("genloop_ingest_uploads_open", "", "Uploads that are open now.");
    u->bytes = metric_counter("genloop_ingest_upload_bytes_total", "", "Bytes of documents received.");
    u->acknowledged = metric_counter("genloop_ingest_uploads_total", "result=\"received\"", "Uploads that ended, by result.");
    u->existed = metric_counter("genloop_ingest_uploads_total", "result=\"existed\"", "Uploads that ended, by result.");
    u->failed = metric_counter("genloop_ingest_uploads_total", "result=\"failed\"", "Uploads that ended, by result.");
    in->uploads = u;
    return 0;
}

void uploads_close(struct ingest *in) {
    mem_free(in->uploads);
    in->uploads = NULL;
}

int uploads_count(const struct ingest *in) { return in->uploads ? in->uploads->count : 0; }

void document_id(struct span tenant, struct span dataset, struct span source, struct span sha256, char id[65]) {
    struct sha256 h;
    uint8_t digest[SHA256_SIZE];
    sha256_init(&h);
    sha256_update(&h, tenant.data, tenant.len);
    sha256_update(&h, "", 1);
    sha256_update(&h, dataset.data, dataset.len);
    sha256_update(&h, "", 1);
    sha256_update(&h, source.data, source.len);
    sha256_update(&h, "", 1);
    sha256_update(&h, sha256.data, sha256.len);
    sha256_final(&h, digest);
    hex_encode(digest, sizeof digest, id);
}

int dataset_name_check(struct span name, struct error *err) {
    bool good = name.len > 0 && name.len <= DATASET_NAME_MAX && name.data[0] != '.' && name.data[0] != '-', tuned = span_starts(name, SPAN("ft:")); /* what was judged of a fine-tuned model */
    for (size_t i = 0; i < name.len && good; i++) {
        char c = name.data[i];
        good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-' || (tuned && c == ':');
    }
    return good ? 0 : error_set_param(err, E_INVALID, "dataset", "a dataset's name has 1 to %d letters, digits, '.', '_' and '-' and begins with a letter, digit or '_'", DATASET_NAME_MAX);
}

/* ---- the end of an upload ---- */

static void upload_free(struct upload *u) {
    struct uploads *all = u->in->uploads;
    *u->link = u->next;
    if (u->next) u->next->link = u->link;
    all->count--;
    all->memory -= u->pending.len + u->writing.len;
    metric_set(all->open, all->count);
    store_writer_abort(u->writer);
    if (u->header) genloop__v1__upload_request__free_unpacked(u->header, NULL);
    buf_fini(&u->pending);
    buf_fini(&u->writing);
    file_upload_fini(&u->upload);
    mem_free(u);
}

static int64_t upload_max(const struct upload *u) {
    const struct ingest_settings *s = u->in->settings;
    if (!u->file) return s->document_max;
    bool model = u->header && u->header->header && strcmp(u->header->header->purpose, FILE_PURPOSE_MODEL) == 0;
    return model ? s->model_file_max : s->file_max;
}

/* Ends the call as soon as no thread works on it; the last step of every upload. */
static void finish(struct upload *u) {
    if (u->working || u->publishing) return;
    struct ingest *in = u->in;
    if (u->failed) {
        metric_add(in->uploads->failed, 1);
        ingest_reply_end(in, u->reply, u->failed, &u->err, SPAN(""));
    } else if (u->file) {
        metric_add(u->existed ? in->uploads->existed : in->uploads->acknowledged, 1);
        ingest_reply_end(in, u->reply, 0, NULL, buf_span(&u->upload.packed));
    } else {
        Genloop__V1__UploadReply m = GENLOOP__V1__UPLOAD_REPLY__INIT;
        m.document_id = u->id;
        m.sha256 = u->ref.sha256;
        m.size_bytes = u->ref.size;
        m.existed = u->existed;
        struct buf b;
        buf_init(&b, 4096);
        int r = pack_message(&m.base, &b);
        metric_add(u->existed ? in->uploads->existed : in->uploads->acknowledged, 1);
        ingest_reply_end(in, u->reply, r, NULL, buf_span(&b));
        buf_fini(&b);
    }
    upload_free(u);
    ingest_unref(in);
}

static void fail(struct upload *u, int code, const struct error *err) {
    if (!u->failed) {
        u->failed = code;
        if (err) u->err = *err;
    }
    finish(u);
}

/* ---- RECEIVED ---- */

static void on_published(void *arg) {
    struct upload *u = arg;
    u->publishing = false;
    struct upload *waiting = u->waiting_for_same;
    if (u->published && !u->failed) {
        if (u->published == E_FULL) (void)error_set(&u->err, E_FULL, "the log is behind; try again");
        else (void)error_set(&u->err, E_UNAVAILABLE, "the log did not take the %s in time; try again", u->file ? "file" : "document");
        u->failed = u->err.code;
    }
    /* Those that sent the same document meanwhile: it exists now, or they fail with it and may try again. */
    while (waiting) {
        struct upload *w = waiting;
        waiting = w->waiting_for_same;
        w->waiting_for_same = NULL;
        w->publishing = false;
        w->existed = true;
        w->failed = u->failed;
        w->err = u->err;
        if (w->file && !w->failed) w->failed = file_upload_same(&w->upload, buf_span(&u->upload.packed), &w->err);
        finish(w);
    }
    u->waiting_for_same = NULL;
    finish(u);
}

static void on_log_done(void *arg, int r) {
    struct upload *u = arg;
    struct ingest *in = u->in;
    u->published = r;
    /* Without memory for the message to the loop nothing could go on. */
    ASSERT(loop_post(in->loop, on_published, u) == 0);
    atomic_fetch_sub(&in->abroad, 1);
}

/* Hands an event to the log; on_log_done follows. */
static int publish_event(struct upload *u, const struct event *e) {
    u->publishing = true;
    atomic_fetch_add(&u->in->abroad, 1);
    int r = eventlog_publish_async(u->in->log, e, u, on_log_done);
    if (r) {
        u->publishing = false;
        atomic_fetch_sub(&u->in->abroad, 1);
    }
    return r;
}

static int publish_file(struct upload *u) {
    char id[EVENT_ID_MAX];
    snprintf(id, sizeof id, "%s.created", u->id);
    return publish_event(u, &(struct event){.topic = TOPIC_FILES, .key = span_str(u->id), .value = buf_span(&u->upload.packed), .id = span_str(id)});
}

static int publish_document(struct upload *u) {
    const Genloop__V1__UploadHeader *h = u->header->header;
    Genloop__V1__ObjectRef raw = GENLOOP__V1__OBJECT_REF__INIT;
    raw.sha256 = u->ref.sha256;
    raw.size_bytes = u->ref.size;
    raw.media_type = h->media_type[0] ? h->media_type : (char *)"application/octet-stream";
    Genloop__V1__Document d = GENLOOP__V1__DOCUMENT__INIT;
    d.id = u->id;
    d.tenant = u->tenant;
    d.dataset = h->dataset;
    d.state = GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_RECEIVED;
    d.event_time_ms = clock_wall_ms();
    d.source = h->source;
    d.raw = &raw;
    d.media_type = h->media_type;
    Genloop__V1__Document__MetadataEntry entries[METADATA_MAX], *entry_list[METADATA_MAX];
    for (size_t i = 0; i < h->n_metadata; i++) { /* the same fields, another message */
        entries[i] = (Genloop__V1__Document__MetadataEntry)GENLOOP__V1__DOCUMENT__METADATA_ENTRY__INIT;
        entries[i].key = h->metadata[i]->key;
        entries[i].value = h->metadata[i]->value;
        entry_list[i] = &entries[i];
    }
    d.metadata = entry_list;
    d.n_metadata = h->n_metadata;
    d.subject = h->subject;
    struct buf b;
    buf_init(&b, EVENT_VALUE_MAX);
    int r = pack_message(&d.base, &b);
    if (r == 0) {
        /* The event's id follows from the document's state: delivered or written twice, it is the same event. */
        char id[EVENT_ID_MAX];
        snprintf(id, sizeof id, "%s.received", u->id);
        r = publish_event(u, &(struct event){.topic = TOPIC_DOCUMENTS, .key = span_str(u->id), .value = buf_span(&b), .id = span_str(id), .subject = span_str(d.subject)});
    }
    buf_fini(&b);
    return r;
}

static void publish(struct upload *u) {
    for (struct upload *o = u->in->uploads->list; o; o = o->next)
        if (o != u && o->file == u->file && o->publishing && !strcmp(o->id, u->id)) {
            u->publishing = true;
            u->waiting_for_same = o->waiting_for_same;
            o->waiting_for_same = u;
            return;
        }
    int r = u->file ? publish_file(u) : publish_document(u);
    if (r) {
        struct error err;
        (void)error_set(&err, r, r == E_FULL ? "too many uploads wait for the log; try again" : "the %s could not be recorded", u->file ? "file" : "document");
        fail(u, r, &err);
    }
}

/* ---- bytes to the store ---- */

static int known(void *arg, struct view_db *db, struct error *err) {
    struct upload *u = arg;
    int state = 0;
    u->existed = view_document_state(db, span_str(u->id), &state) && state != GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_ERASED;
    return view_failed(db, err);
}

/* On a pool thread: nobody else touches `writing`, writer, ref, id and existed meanwhile. */
static void work(void *arg) {
    struct upload *u = arg;
    struct error err = {0};
    int r = 0;
    bool whole = u->last && !u->writer; /* small: one write */
    if (whole) r = store_put(u->in->store, buf_span(&u->writing), &u->ref, &err);
    else {
        if (!u->writer) r = store_writer_open(u->in->store, (uint64_t)upload_max(u), &u->writer, &err);
        if (!r) r = store_write(u->writer, buf_span(&u->writing), &err);
        if (!r && u->last) {
            r = store_writer_commit(u->writer, &u->ref, &err);
            u->writer = NULL;
        }
    }
    if (!r && u->last && u->file) {
        r = file_upload_read(u->in, span_str(u->tenant), u->header->header, &u->ref, &u->upload, u->id, &u->existed, &err);
    } else if (!r && u->last) {
        const Genloop__V1__UploadHeader *h = u->header->header;
        document_id(span_str(u->tenant), span_str(h->dataset), span_str(h->source), span_str(u->ref.sha256), u->id);
        r = view_read(u->in->view, u, known, &err);
    }
    u->work_result = r;
    u->work_err = err;
    atomic_fetch_sub(&u->in->abroad, 1);
}

static void start_work(struct upload *u);

static void work_done(void *arg) {
    struct upload *u = arg;
    u->working = false;
    u->in->uploads->memory -= u->writing.len;
    buf_clear(&u->writing);
    if (u->in->closed && !u->failed && !u->work_result) u->work_result = error_set(&u->work_err, E_UNAVAILABLE, "the service leaves");
    if (u->failed || u->work_result) {
        fail(u, u->work_result, &u->work_err);
        return;
    }
    if (u->credit_writing) bus_reply_credit(u->reply, u->credit_writing);
    u->credit_writing = 0;
    if (u->last) {
        if (u->existed) finish(u);
        else publish(u);
        return;
    }
    start_work(u);
}

static void start_work(struct upload *u) {
    if (u->working || u->failed || u->cancelled || u->publishing) return;
    if (!u->ended && u->pending.len < UPLOAD_PIECE_BYTES) {
        /* it stays in memory; the client may go on */
        if (u->credit_due) bus_reply_credit(u->reply, u->credit_due);
        u->credit_due = 0;
        return;
    }
    struct buf swap = u->writing;
    u->writing = u->pending;
    u->pending = swap;
    u->credit_writing = u->credit_due;
    u->credit_due = 0;
    u->last = u->ended && !u->pending.len;
    u->working = true;
    atomic_fetch_add(&u->in->abroad, 1);
    int r = loop_work(u->in->loop, work, work_done, u);
    if (r) {
        struct error err;
        u->working = false;
        atomic_fetch_sub(&u->in->abroad, 1);
        (void)error_set(&err, r, "too much is being written; try again");
        fail(u, r, &err);
    }
}

/* ---- the stream ---- */

/* `whole`: nothing more will be said. Before it what is empty may still come. */
static int check_header(const Genloop__V1__UploadHeader *h, bool file, bool whole, struct error *err) {
    int r = file ? file_header_check(h, whole, err) : h->dataset[0] || whole ? dataset_name_check(span_str(h->dataset), err) : 0;
    if (r) return r;
    if (strlen(h->source) > SOURCE_MAX || !span_is_utf8(span_str(h->source))) return error_set_param(err, E_INVALID, "source", "a source is UTF-8 of at most %d bytes", SOURCE_MAX);
    if (strlen(h->media_type) > 128) return error_set_param(err, E_INVALID, "media_type", "a media type has at most 128 bytes");
    if (strlen(h->subject) > SUBJECT_MAX) return error_set_param(err, E_INVALID, "subject", "a subject has at most %d bytes", SUBJECT_MAX);
    if (h->n_metadata > METADATA_MAX) return error_set_param(err, E_INVALID, "metadata", "a document has at most %d metadata", METADATA_MAX);
    for (size_t i = 0; i < h->n_metadata; i++)
        if (strlen(h->metadata[i]->key) > 256 || strlen(h->metadata[i]->value) > METADATA_VALUE_MAX)
            return error_set_param(err, E_INVALID, "metadata", "a key has at most 256 bytes and a value %d", METADATA_VALUE_MAX);
    return 0;
}

static void take_text(char **to, char **from) {
    if (!(*from)[0]) return;
    char *before = *to;
    *to = *from;
    *from = before;
}

/* What the second header says goes before the first: a form may have its fields behind its file. */
static void merge_header(Genloop__V1__UploadHeader *to, Genloop__V1__UploadHeader *from) {
    take_text(&to->dataset, &from->dataset);
    take_text(&to->source, &from->source);
    take_text(&to->media_type, &from->media_type);
    take_text(&to->subject, &from->subject);
    take_text(&to->purpose, &from->purpose);
    take_text(&to->id, &from->id);
    if (from->expires_after_s) to->expires_after_s = from->expires_after_s;
    if (from->n_metadata) {
        Genloop__V1__UploadHeader__MetadataEntry **metadata = to->metadata;
        size_t n = to->n_metadata;
        to->metadata = from->metadata;
        to->n_metadata = from->n_metadata;
        from->metadata = metadata;
        from->n_metadata = n;
    }
}

/* One UploadRequest. Returns 0, or what the call fails with. */
static int take(struct upload *u, struct span packed, bool costs_credit, struct error *err) {
    Genloop__V1__UploadRequest *m = MESSAGE_UNPACK(UploadRequest, upload_request, packed);
    if (!m) return error_set(err, E_INVALID, "the item is no UploadRequest");
    int r = 0;
    if (m->part_case == GENLOOP__V1__UPLOAD_REQUEST__PART_HEADER) {
        if (u->headers == 2) r = error_set(err, E_INVALID, "a third header in one upload");
        else r = check_header(m->header, u->file, false, err);
        if (!r) {
            if (u->headers++) {
                merge_header(u->header->header, m->header);
            } else {
                u->header = m;
                m = NULL;
            }
            if (costs_credit) bus_reply_credit(u->reply, 1);
        }
    } else if (m->part_case == GENLOOP__V1__UPLOAD_REQUEST__PART_DATA) {
        struct uploads *all = u->in->uploads;
        if (!u->headers) r = error_set_param(err, E_INVALID, "header", "the header comes first");
        else if (u->headers == 2) r = error_set_param(err, E_INVALID, "header", "the second header comes behind the data");
        else if (m->data.len > (uint64_t)upload_max(u) - u->total)
            r = error_set_param(err, E_TOO_LARGE, u->file ? "file" : "", "a %s has at most %lld bytes", u->file ? "file" : "document", (long long)upload_max(u));
        else if (all->memory + m->data.len > UPLOAD_MEMORY_MAX) r = error_set(err, E_FULL, "uploads hold all the memory they may; try again");
        else if (!(r = buf_append(&u->pending, m->data.data, m->data.len))) {
            all->memory += m->data.len;
            u->total += m->data.len;
            metric_add(all->bytes, (double)m->data.len);
            u->credit_due += costs_credit;
        } else
            (void)error_set(err, r, "no memory for the upload");
    } else
        r = error_set(err, E_INVALID, "an UploadRequest is a header or data");
    if (m) genloop__v1__upload_request__free_unpacked(m, NULL);
    return r;
}

static void on_item(struct call *c, struct span item) {
    struct upload *u = (struct upload *)c;
    struct error err = {0};
    if (u->failed || u->cancelled || u->ended) return;
    int r = take(u, item, true, &err);
    if (r) fail(u, r, &err);
    else start_work(u);
}

static void on_item_end(struct call *c) {
    struct upload *u = (struct upload *)c;
    if (u->failed || u->cancelled || u->ended) return;
    struct error err;
    u->ended = true;
    int r = u->headers ? check_header(u->header->header, u->file, true, &err) : error_set_param(&err, E_INVALID, "header", "the upload has no header");
    if (r) {
        fail(u, r, &err);
        return;
    }
    start_work(u);
}

static void on_cancel(struct call *c) {
    struct upload *u = (struct upload *)c;
    struct error err;
    if (u->cancelled) return;
    u->cancelled = true;
    /* What is being published will be durable; nobody waits for the word of it. */
    fail(u, error_set(&err, E_CANCELLED, "the client went away"), &err);
}

static const struct call_ops upload_ops = {.on_item = on_item, .on_item_end = on_item_end, .on_cancel = on_cancel};

void upload_call(struct ingest *in, struct bus_reply *reply, struct span tenant, struct span request, bool file, struct call **call) {
    struct uploads *all = in->uploads;
    struct error err = {0};
    struct upload *u = NULL;
    int r = 0;
    if (all->count >= UPLOADS_MAX) r = error_set(&err, E_FULL, "%d uploads are open; try again", UPLOADS_MAX);
    else if (!(u = mem_zalloc(sizeof *u))) r = error_set(&err, E_NOMEM, "no memory for the upload");
    if (r) {
        metric_add(all->failed, 1);
        bus_reply_end(reply, r, &err, SPAN(""));
        return;
    }
    u->call.ops = &upload_ops;
    u->in = in;
    u->reply = reply;
    u->file = file;
    span_copy(u->tenant, sizeof u->tenant, tenant);
    buf_init(&u->pending, (size_t)upload_max(u));
    buf_init(&u->writing, (size_t)upload_max(u));
    u->next = all->list;
    u->link = &all->list;
    if (u->next) u->next->link = &u->next;
    all->list = u;
    metric_set(all->open, ++all->count);
    *call = &u->call;
    if (request.len && (r = take(u, request, false, &err))) fail(u, r, &err);
}
