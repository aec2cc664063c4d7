/*
 * The view: documents and datasets as the topics say. Of a document the first verdict counts (a second one is a repetition), so an event delivered twice changes nothing:
 *
 *   (none) ──RECEIVED──► RECEIVED ──► ACCEPTED | REJECTED ──ERASED──► ERASED ──RECEIVED, later──► RECEIVED
 *
 * Of a dataset each version is a row; BUILDING may become READY or FAILED, READY and FAILED become REMOVED. The first build that claims a version has it.
 * Of a file the newest record stands; a tombstone takes it away.
 * `totals` is kept beside, so that how far a dataset is costs no walk over its documents.
 */
#include "services/ingest/ingest.h"

#include "base/alloc.h"
#include "services/ingest/batches.h"
#include "wire/unpack.h"

const char INGEST_SCHEMA[] =
    "CREATE TABLE documents(id TEXT PRIMARY KEY, tenant TEXT NOT NULL, dataset TEXT NOT NULL, state INTEGER NOT NULL, time_ms INTEGER NOT NULL,"
    " reason TEXT NOT NULL, packed BLOB NOT NULL) WITHOUT ROWID;"
    "CREATE INDEX documents_by_dataset ON documents(tenant, dataset, id, state);"
    "CREATE TABLE totals(tenant TEXT NOT NULL, dataset TEXT NOT NULL, state INTEGER NOT NULL, reason TEXT NOT NULL, n INTEGER NOT NULL,"
    " PRIMARY KEY(tenant, dataset, state, reason)) WITHOUT ROWID;"
    "CREATE TABLE datasets(tenant TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, state INTEGER NOT NULL, build_id TEXT NOT NULL, time_ms INTEGER NOT NULL,"
    " packed BLOB NOT NULL, PRIMARY KEY(tenant, name, version)) WITHOUT ROWID;"
    "CREATE INDEX datasets_by_build ON datasets(tenant, build_id);"
    "CREATE TABLE files(id TEXT PRIMARY KEY, tenant TEXT NOT NULL, purpose TEXT NOT NULL, created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, packed BLOB NOT NULL) WITHOUT ROWID;"
    "CREATE INDEX files_by_time ON files(tenant, created_ms, id);"
    "CREATE INDEX files_by_end ON files(expires_ms) WHERE expires_ms > 0;" BATCH_SCHEMA;

static void count(struct view_db *db, const Genloop__V1__Document *d, int state, const char *reason, int by) {
    struct view_stmt *s = view_sql(db, "INSERT INTO totals VALUES(?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET n = n + ?5");
    if (!s) return;
    view_bind_span(s, 1, span_str(d->tenant));
    view_bind_span(s, 2, span_str(d->dataset));
    view_bind_int(s, 3, state);
    view_bind_span(s, 4, span_str(reason));
    view_bind_int(s, 5, by);
    view_step(s);
    view_done(s);
}

static bool follows(int from, int64_t from_ms, int to, int64_t to_ms) {
    switch (to) {
    case GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_RECEIVED: return from == 0 || (from == GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_ERASED && to_ms > from_ms);
    case GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_ACCEPTED:
    case GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_REJECTED: return from == 0 || from == GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_RECEIVED;
    case GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_ERASED: return from != to;
    default: return false;
    }
}

static int fold_document(struct view_db *db, const struct event *e, struct error *err) {
    Genloop__V1__Document *d = MESSAGE_UNPACK(Document, document, e->value);
    if (!d) return error_set(err, E_INVALID, "the value is no Document");
    int r = 0;
    if (!d->id[0] || !span_eq(e->key, span_str(d->id)) || d->state < GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_RECEIVED || d->state > GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_ERASED) {
        r = error_set(err, E_INVALID, "a Document needs its key as id and a state that is known");
        goto out;
    }
    int state = 0;
    int64_t time_ms = 0;
    char reason[64] = "";
    struct view_stmt *s = view_sql(db, "SELECT state, time_ms, reason FROM documents WHERE id = ?1");
    if (s) {
        view_bind_span(s, 1, span_str(d->id));
        if (view_step(s)) {
            state = (int)view_int(s, 0);
            time_ms = view_int(s, 1);
            span_copy(reason, sizeof reason, view_text(s, 2));
        }
        view_done(s);
    }
    if (follows(state, time_ms, (int)d->state, d->event_time_ms)) {
        if (state) count(db, d, state, reason, -1);
        count(db, d, (int)d->state, d->reject_reason, 1);
        s = view_sql(db, "INSERT INTO documents VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE SET state = ?4, time_ms = ?5, reason = ?6, packed = ?7");
        if (s) {
            view_bind_span(s, 1, span_str(d->id));
            view_bind_span(s, 2, span_str(d->tenant));
            view_bind_span(s, 3, span_str(d->dataset));
            view_bind_int(s, 4, (int64_t)d->state);
            view_bind_int(s, 5, d->event_time_ms);
            view_bind_span(s, 6, span_str(d->reject_reason));
            view_bind_blob(s, 7, e->value);
            view_step(s);
            view_done(s);
        }
    }
    r = view_failed(db, err);
out:
    genloop__v1__document__free_unpacked(d, NULL);
    return r;
}

static int fold_dataset(struct view_db *db, const struct event *e, struct error *err) {
    Genloop__V1__Dataset *d = MESSAGE_UNPACK(Dataset, dataset, e->value);
    if (!d) return error_set(err, E_INVALID, "the value is no Dataset");
    int r = 0;
    if (!d->name[0] || !d->version || d->state < GENLOOP__V1__DATASET_STATE__DATASET_STATE_BUILDING || d->state > GENLOOP__V1__DATASET_STATE__DATASET_STATE_REMOVED) {
        r = error_set(err, E_INVALID, "a Dataset needs a name, a version and a state that is known");
        goto out;
    }
    int state = 0;
    bool same = true;
    struct view_stmt *s = view_sql(db, "SELECT state, build_id FROM datasets WHERE tenant = ?1 AND name = ?2 AND version = ?3");
    if (s) {
        view_bind_span(s, 1, span_str(d->tenant));
        view_bind_span(s, 2, span_str(d->name));
        view_bind_int(s, 3, d->version);
        if (view_step(s)) {
            state = (int)view_int(s, 0);
            same = span_eq_str(view_text(s, 1), d->build_id);
        }
        view_done(s);
    }
    bool building = state == GENLOOP__V1__DATASET_STATE__DATASET_STATE_BUILDING;
    bool applies = state == 0 || (building && same && (int)d->state > state) || (state != 0 && !building && d->state == GENLOOP__V1__DATASET_STATE__DATASET_STATE_REMOVED && same);
    if (applies) {
        s = view_sql(db, "INSERT INTO datasets VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE SET state = ?4, time_ms = ?6, packed = ?7");
        if (s) {
            view_bind_span(s, 1, span_str(d->tenant));
            view_bind_span(s, 2, span_str(d->name));
            view_bind_int(s, 3, d->version);
            view_bind_int(s, 4, (int64_t)d->state);
            view_bind_span(s, 5, span_str(d->build_id));
            view_bind_int(s, 6, d->event_time_ms);
            view_bind_blob(s, 7, e->value);
            view_step(s);
            view_done(s);
        }
    }
    r = view_failed(db, err);
out:
    genloop__v1__dataset__free_unpacked(d, NULL);
    return r;
}

static int fold_file(struct view_db *db, const struct event *e, struct error *err) {
    struct view_stmt *s;
    if (!e->value.len) {
        if ((s = view_sql(db, "DELETE FROM files WHERE id = ?1"))) {
            view_bind_span(s, 1, e->key);
            view_step(s);
            view_done(s);
        }
        return view_failed(db, err);
    }
    Genloop__V1__File *f = MESSAGE_UNPACK(File, file, e->value);
    if (!f) return error_set(err, E_INVALID, "the value is no File");
    int r = 0;
    if (!f->id[0] || !span_eq(e->key, span_str(f->id)) || !f->content) r = error_set(err, E_INVALID, "a File needs its key as id, and a content");
    else if ((s = view_sql(db, "INSERT OR REPLACE INTO files VALUES(?1, ?2, ?3, ?4, ?5, ?6)"))) {
        view_bind_span(s, 1, span_str(f->id));
        view_bind_span(s, 2, span_str(f->tenant));
        view_bind_span(s, 3, span_str(f->purpose));
        view_bind_int(s, 4, f->created_time_ms);
        view_bind_int(s, 5, f->expires_time_ms);
        view_bind_blob(s, 6, e->value);
        view_step(s);
        view_done(s);
    }
    genloop__v1__file__free_unpacked(f, NULL);
    return r ? r : view_failed(db, err);
}

int ingest_fold(void *arg, struct view_db *db, const struct event *e, struct error *err) {
    (void)arg;
    if (e->topic == TOPIC_FILES) return fold_file(db, e, err);
    if (!e->value.len) return 0; /* a tombstone: nothing here is compacted away by us */
    if (e->topic == TOPIC_BATCHES) return batch_fold(db, e, err);
    return e->topic == TOPIC_DOCUMENTS ? fold_document(db, e, err) : fold_dataset(db, e, err);
}

/* ---- questions ---- */

bool view_document_state(struct view_db *db, struct span id, int *state) {
    struct view_stmt *s = view_sql(db, "SELECT state FROM documents WHERE id = ?1");
    if (!s) return false;
    view_bind_span(s, 1, id);
    bool found = view_step(s);
    if (found) *state = (int)view_int(s, 0);
    view_done(s);
    return found;
}

void view_dataset_counts(struct view_db *db, struct span tenant, struct span dataset, struct dataset_counts *counts) {
    *counts = (struct dataset_counts){0};
    struct view_stmt *s = view_sql(db, "SELECT state, reason, n FROM totals WHERE tenant = ?1 AND dataset = ?2");
    if (!s) return;
    view_bind_span(s, 1, tenant);
    view_bind_span(s, 2, dataset);
    while (view_step(s)) {
        uint64_t n = (uint64_t)view_int(s, 2);
        char reason[64];
        switch (view_int(s, 0)) {
        case GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_RECEIVED: counts->pending += n; break;
        case GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_ACCEPTED: counts->accepted += n; break;
        case GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_REJECTED:
            counts->rejected += n;
            counts->reasons[reason_of(span_copy(reason, sizeof reason, view_text(s, 1)))] += n;
            break;
        default: break;
        }
    }
    view_done(s);
    counts->received = counts->pending + counts->accepted + counts->rejected;
}

static bool first_blob(struct view_stmt **s, struct span *packed) {
    if (!*s) return false;
    if (view_step(*s)) {
        *packed = view_blob(*s, 0);
        return true;
    }
    view_done(*s);
    return false;
}

bool view_dataset_by_build(struct view_db *db, struct span tenant, struct span build_id, struct view_stmt **s, struct span *packed) {
    if (!(*s = view_sql(db, "SELECT packed FROM datasets WHERE tenant = ?1 AND build_id = ?2 ORDER BY version LIMIT 1"))) return false;
    view_bind_span(*s, 1, tenant);
    view_bind_span(*s, 2, build_id);
    return first_blob(s, packed);
}

bool view_dataset(struct view_db *db, struct span tenant, struct span name, uint32_t version, struct view_stmt **s, struct span *packed) {
    if (version) *s = view_sql(db, "SELECT packed FROM datasets WHERE tenant = ?1 AND name = ?2 AND version = ?3");
    else *s = view_sql(db, "SELECT packed FROM datasets WHERE tenant = ?1 AND name = ?2 ORDER BY state = 2 DESC, version DESC LIMIT 1");
    if (!*s) return false;
    view_bind_span(*s, 1, tenant);
    view_bind_span(*s, 2, name);
    if (version) view_bind_int(*s, 3, version);
    return first_blob(s, packed);
}

uint32_t view_dataset_highest(struct view_db *db, struct span tenant, struct span name) {
    struct view_stmt *s = view_sql(db, "SELECT max(version) FROM datasets WHERE tenant = ?1 AND name = ?2");
    if (!s) return 0;
    view_bind_span(s, 1, tenant);
    view_bind_span(s, 2, name);
    uint32_t highest = view_step(s) ? (uint32_t)view_int(s, 0) : 0;
    view_done(s);
    return highest;
}

int pack_message(const ProtobufCMessage *message, struct buf *out) {
    size_t size = protobuf_c_message_get_packed_size(message);
    char *to = buf_reserve(out, size);
    if (!to) return out->failed;
    buf_commit(out, protobuf_c_message_pack(message, (uint8_t *)to));
    return 0;
}
