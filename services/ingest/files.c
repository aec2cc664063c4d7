#include "services/ingest/files.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "services/ingest/file_rows.h"
#include "wire/unpack.h"

enum { VIEW_WAIT_MS = 10000,
       SWEEP_MAX = 100 };

/* ---- uploads ---- */

void file_upload_fini(struct file_upload *u) { buf_fini(&u->packed); }

static bool id_valid(const char *id) {
    size_t len = strlen(id);
    if (len <= 5 || len > FILE_ID_MAX || memcmp(id, "file-", 5) != 0) return false;
    for (const char *c = id; *c; c++)
        if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') || *c == '-' || *c == '_')) return false;
    return true;
}

static int check_purpose(const char *purpose, struct error *err) {
    static const char *const later[] = {"assistants", "vision", "user_data", "evals", "responses"};
    static const char *const outputs[] = {"fine-tune-results", "batch_output", "assistants_output"};
    if (!strcmp(purpose, "fine-tune") || !strcmp(purpose, "batch") || !strcmp(purpose, FILE_PURPOSE_MODEL)) return 0;
    for (size_t i = 0; i < sizeof later / sizeof *later; i++)
        if (!strcmp(purpose, later[i])) return error_set_param(err, E_UNSUPPORTED, "purpose", "'purpose' %s is known, but not built yet: there are fine-tune, batch and model", purpose);
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++)
        if (!strcmp(purpose, outputs[i])) return error_set_param(err, E_INVALID, "purpose", "'purpose' %s is of files that the platform makes: upload with fine-tune, batch or model", purpose);
    return error_set_param(err, E_INVALID, "purpose", "'%.64s' is not one of ['fine-tune', 'batch', 'model'] - 'purpose'", purpose);
}

int file_header_check(const Genloop__V1__UploadHeader *h, bool whole, struct error *err) {
    if (h->dataset[0] || h->subject[0] || h->n_metadata) return error_set_param(err, E_INVALID, h->dataset[0] ? "dataset" : h->subject[0] ? "subject"
                                                                                                                                          : "metadata",
                                                                                "a file belongs to no dataset and has neither subject nor metadata");
    if (strlen(h->source) > FILE_NAME_MAX || !span_is_utf8(span_str(h->source))) return error_set_param(err, E_INVALID, "file", "a file's name is UTF-8 of at most %d bytes", FILE_NAME_MAX);
    if (h->id[0] && !id_valid(h->id)) return error_set_param(err, E_INVALID, "id", "a file's id is \"file-\" and at most %d letters, digits, '-' and '_'", FILE_ID_MAX - 5);
    if (h->expires_after_s && (h->expires_after_s < FILE_EXPIRES_MIN_S || h->expires_after_s > FILE_EXPIRES_MAX_S))
        return error_set_param(err, E_INVALID, "expires_after", "'expires_after[seconds]' must lie between %d (an hour) and %d (30 days)", FILE_EXPIRES_MIN_S, FILE_EXPIRES_MAX_S);
    if (!h->purpose[0]) return whole ? error_set_param(err, E_INVALID, "purpose", "'purpose' is required: fine-tune, batch or model") : 0;
    return check_purpose(h->purpose, err);
}

struct lookup {
    struct span tenant;
    const char *id;
    int64_t now_ms;
    Genloop__V1__File *file; /* owned */
};

static int look(void *arg, struct view_db *db, struct error *err) {
    struct lookup *l = arg;
    struct view_stmt *s = view_sql(db, "SELECT packed FROM files WHERE id = ?1 AND tenant = ?2 AND (expires_ms = 0 OR expires_ms > ?3)");
    if (s) {
        view_bind_span(s, 1, span_str(l->id));
        view_bind_span(s, 2, l->tenant);
        view_bind_int(s, 3, l->now_ms);
        if (view_step(s)) l->file = MESSAGE_UNPACK(File, file, view_blob(s, 0));
        view_done(s);
    }
    return view_failed(db, err);
}

int files_find(struct ingest *in, struct span tenant, const char *id, const char *param, Genloop__V1__File **file, struct error *err) {
    struct lookup l = {.tenant = tenant, .id = id, .now_ms = clock_wall_ms()};
    int r = view_read(in->view, &l, look, err);
    if (r < 0) return r;
    if (!l.file) return error_set_param(err, E_NOT_FOUND, param, "No such File object: %.64s", id);
    *file = l.file;
    return 0;
}

static int same(const Genloop__V1__File *a, const Genloop__V1__File *b, struct error *err) {
    if (!strcmp(a->content->sha256, b->content->sha256) && !strcmp(a->filename, b->filename) && !strcmp(a->purpose, b->purpose) && !strcmp(a->tenant, b->tenant)) return 0;
    return error_set_param(err, E_EXISTS, "id", "file %s is there already, and it is another", a->id);
}

int file_upload_same(struct file_upload *u, struct span packed, struct error *err) {
    Genloop__V1__File *mine = MESSAGE_UNPACK(File, file, buf_span(&u->packed)), *theirs = MESSAGE_UNPACK(File, file, packed);
    int r = mine && theirs ? same(mine, theirs, err) : error_set(err, E_NOMEM, "no memory for a file");
    buf_clear(&u->packed);
    if (r == 0 && buf_append_span(&u->packed, packed) < 0) r = error_set(err, E_NOMEM, "no memory for a file");
    if (mine) message_free(&mine->base);
    if (theirs) message_free(&theirs->base);
    return r;
}

static void make_id(char id[FILE_ID_MAX + 1]) {
    char uuid[ID_TEXT_MAX];
    size_t n = 5;
    memcpy(id, "file-", 5);
    for (const char *c = id_make(uuid); *c; c++)
        if (*c != '-') id[n++] = *c;
    id[n] = 0;
}

int file_upload_read(struct ingest *in, struct span tenant, const Genloop__V1__UploadHeader *h, const struct object_ref *ref, struct file_upload *u, char id[FILE_ID_MAX + 1], bool *existed,
                     struct error *err) {
    Genloop__V1__File file = GENLOOP__V1__FILE__INIT, *there = NULL;
    Genloop__V1__ObjectRef content = GENLOOP__V1__OBJECT_REF__INIT;
    struct file_map map = {0};
    struct file_facts facts = {0};
    char sha256[SHA256_HEX_MAX];
    bool train = !strcmp(h->purpose, "fine-tune");
    char *owner = span_dup(tenant);
    buf_init(&u->packed, EVENT_VALUE_MAX);
    memcpy(sha256, ref->sha256, sizeof sha256);
    int r = owner ? 0 : error_set(err, E_NOMEM, "no memory for a file");
    bool rows = strcmp(h->purpose, FILE_PURPOSE_MODEL) != 0; /* a model is checked whole when all its files are there: by the job that imports it */
    if (!r && ref->size && rows) r = store_map(in->store, ref->sha256, &map, err);
    if (!r && rows) r = file_check(span_of(map.data, map.len), train, &facts, err);
    file_map_close(&map);
    if (r < 0) goto out;
    if (h->id[0]) span_copy(id, FILE_ID_MAX + 1, span_str(h->id));
    else make_id(id);
    content.sha256 = sha256;
    content.size_bytes = ref->size;
    content.media_type = (char *)(uintptr_t)(h->media_type[0] ? h->media_type : rows ? "application/jsonl" : "application/octet-stream");
    file.id = id;
    file.tenant = owner;
    file.filename = (char *)(uintptr_t)(h->source[0] ? h->source : "file.jsonl");
    file.purpose = h->purpose;
    file.content = &content;
    file.created_time_ms = file.event_time_ms = clock_wall_ms();
    if (h->expires_after_s) file.expires_time_ms = file.created_time_ms + h->expires_after_s * 1000;
    file.lines = facts.lines;
    if (train) file.rows = facts.rows == FILE_ROWS_PREFERENCE ? GENLOOP__V1__DATASET_KIND__DATASET_KIND_PREFERENCE : GENLOOP__V1__DATASET_KIND__DATASET_KIND_SUPERVISED;
    if (h->id[0]) {
        r = view_wait(in->view, VIEW_WAIT_MS, err);
        if (!r) r = files_find(in, tenant, id, "id", &there, err);
        if (r == E_NOT_FOUND) r = 0;
        if (!r && there) r = same(there, &file, err);
    }
    if (!r && pack_message(there ? &there->base : &file.base, &u->packed) < 0) r = error_set(err, E_NOMEM, "no memory for a file");
    if (!r) *existed = there != NULL;
out:
    if (there) message_free(&there->base);
    mem_free(owner);
    return r;
}

/* ---- questions ---- */

static int no_message(const char *type, struct error *err) { return error_set(err, E_INVALID, "the request is no %s", type); }

/* One field of a message that is written as it lies in the view: length-delimited. */
static void put_field(struct buf *out, unsigned field, struct span bytes) {
    uint64_t n = bytes.len;
    buf_append_char(out, (char)(field << 3 | 2));
    do {
        buf_append_char(out, (char)((n & 0x7f) | (n > 0x7f ? 0x80 : 0)));
        n >>= 7;
    } while (n);
    buf_append_span(out, bytes);
}

struct listing {
    struct span tenant;
    const Genloop__V1__ListFilesRequest *request;
    int64_t now_ms, from_ms;
    uint32_t limit;
    struct buf *out;
};

static int read_list(void *arg, struct view_db *db, struct error *err) {
    struct listing *l = arg;
    const Genloop__V1__ListFilesRequest *q = l->request;
    uint32_t n = 0;
    struct view_stmt *s = q->ascending ? view_sql(db, "SELECT packed FROM files WHERE tenant = ?1 AND (?2 = '' OR purpose = ?2) AND (expires_ms = 0 OR expires_ms > ?3)"
                                                      " AND (created_ms > ?4 OR (created_ms = ?4 AND id > ?5)) ORDER BY created_ms, id")
                                       : view_sql(db, "SELECT packed FROM files WHERE tenant = ?1 AND (?2 = '' OR purpose = ?2) AND (expires_ms = 0 OR expires_ms > ?3)"
                                                      " AND (created_ms < ?4 OR (created_ms = ?4 AND id < ?5)) ORDER BY created_ms DESC, id DESC");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, l->tenant);
    view_bind_span(s, 2, span_str(q->purpose));
    view_bind_int(s, 3, l->now_ms);
    view_bind_int(s, 4, l->from_ms);
    view_bind_span(s, 5, span_str(q->after));
    while (view_step(s)) {
        if (n == l->limit || l->out->len > LIST_BYTES_MAX) {
            (void)buf_append(l->out, "\x10\x01", 2); /* has_more */
            break;
        }
        put_field(l->out, 1, view_blob(s, 0));
        n++;
    }
    view_done(s);
    return view_failed(db, err);
}

int files_list(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err) {
    Genloop__V1__ListFilesRequest *q = MESSAGE_UNPACK(ListFilesRequest, list_files_request, request);
    Genloop__V1__File *after = NULL;
    struct listing l = {.tenant = tenant, .request = q, .now_ms = clock_wall_ms(), .out = out};
    if (!q) return no_message("ListFilesRequest", err);
    int r = q->limit > FILES_LIST_MAX ? error_set_param(err, E_INVALID, "limit", "'limit' must lie between 1 and %d", FILES_LIST_MAX) : 0;
    l.limit = q->limit ? q->limit : FILES_LIST_MAX;
    l.from_ms = q->ascending ? INT64_MIN : INT64_MAX;
    if (!r) r = view_wait(in->view, VIEW_WAIT_MS, err);
    if (!r && q->after[0]) r = files_find(in, tenant, q->after, "after", &after, err);
    if (!r && after) l.from_ms = after->created_time_ms;
    if (!r) r = view_read(in->view, &l, read_list, err);
    if (after) message_free(&after->base);
    message_free(&q->base);
    return r;
}

static int find_now(struct ingest *in, struct span tenant, struct span request, Genloop__V1__File **file, struct error *err) {
    Genloop__V1__GetFileRequest *q = MESSAGE_UNPACK(GetFileRequest, get_file_request, request);
    if (!q) return no_message("GetFileRequest", err);
    int r = view_wait(in->view, VIEW_WAIT_MS, err);
    if (!r) r = files_find(in, tenant, q->id, "id", file, err);
    message_free(&q->base);
    return r;
}

int files_get(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err) {
    Genloop__V1__File *file = NULL;
    int r = find_now(in, tenant, request, &file, err);
    if (!r) r = pack_message(&file->base, out);
    if (file) message_free(&file->base);
    return r;
}

int files_read(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err) {
    Genloop__V1__ReadFileRequest *q = MESSAGE_UNPACK(ReadFileRequest, read_file_request, request);
    Genloop__V1__ReadFileReply reply = GENLOOP__V1__READ_FILE_REPLY__INIT;
    struct file_map map = {0};
    if (!q) return no_message("ReadFileRequest", err);
    int r = q->offset ? 0 : view_wait(in->view, VIEW_WAIT_MS, err); /* of the pieces the first says what there is */
    if (!r) r = files_find(in, tenant, q->id, "id", &reply.file, err);
    if (!r && q->offset > reply.file->content->size_bytes) r = error_set_param(err, E_RANGE, "offset", "file %s has %llu bytes", q->id, (unsigned long long)reply.file->content->size_bytes);
    if (!r && reply.file->content->size_bytes) r = store_map(in->store, reply.file->content->sha256, &map, err);
    if (!r) {
        struct span piece = span_sub(span_of(map.data, map.len), (size_t)q->offset, FILE_PIECE_BYTES);
        reply.data = (ProtobufCBinaryData){piece.len, (uint8_t *)(uintptr_t)piece.data};
        r = pack_message(&reply.base, out);
    }
    file_map_close(&map);
    if (reply.file) message_free(&reply.file->base);
    message_free(&q->base);
    return r;
}

static int publish_tombstone(struct ingest *in, const char *id, struct error *err) {
    char event_id[EVENT_ID_MAX];
    snprintf(event_id, sizeof event_id, "%.64s.deleted.%lld", id, (long long)clock_wall_ms());
    struct event e = {.topic = TOPIC_FILES, .key = span_str(id), .value = SPAN(""), .id = span_str(event_id)};
    return eventlog_publish(in->log, &e, err);
}

int files_delete(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err) {
    Genloop__V1__File *file = NULL;
    int r = find_now(in, tenant, request, &file, err);
    if (!r) r = publish_tombstone(in, file->id, err);
    if (!r) r = pack_message(&file->base, out);
    if (file) message_free(&file->base);
    return r;
}

/* ---- what has expired ---- */

struct sweep {
    int64_t now_ms;
    int n;
    char ids[SWEEP_MAX][FILE_ID_MAX + 1];
};

static int find_expired(void *arg, struct view_db *db, struct error *err) {
    struct sweep *w = arg;
    struct view_stmt *s = view_sql(db, "SELECT id FROM files WHERE expires_ms > 0 AND expires_ms <= ?1 LIMIT 100");
    if (!s) return view_failed(db, err);
    view_bind_int(s, 1, w->now_ms);
    while (w->n < SWEEP_MAX && view_step(s)) span_copy(w->ids[w->n++], sizeof w->ids[0], view_text(s, 0));
    view_done(s);
    return view_failed(db, err);
}

void files_sweep(struct ingest *in) {
    struct sweep w = {.now_ms = clock_wall_ms()};
    struct error err = {0};
    int r = view_read(in->view, &w, find_expired, &err);
    for (int i = 0; r == 0 && i < w.n; i++) r = publish_tombstone(in, w.ids[i], &err);
    if (r < 0) log_warn("ingest.files", "files that have expired stay for now: %s", err.message);
}
