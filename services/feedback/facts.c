#include "facts.h"

#include <string.h>

#include "audit.h"
#include "base/alloc.h"
#include "base/json.h"
#include "registry/state.h"

enum { FACTS_SCHEMA = 1, CONTENT_MAX = 16 * 1024 * 1024 };

/* model: the bare name, for counting and joining. record: the message, packed. */
static const char SCHEMA[] =
    "CREATE TABLE interactions(request_id TEXT PRIMARY KEY, model TEXT, record BLOB) WITHOUT ROWID;"
    "CREATE TABLE feedback(seq INTEGER PRIMARY KEY, id TEXT UNIQUE, request_id TEXT, chosen_request_id TEXT, model TEXT, record BLOB, sealed BLOB);"
    "CREATE TABLE evaluations(id TEXT PRIMARY KEY, candidate TEXT, time INTEGER, measured BLOB, judged BLOB) WITHOUT ROWID;"
    "CREATE INDEX evaluations_candidate ON evaluations(candidate, time);"
    "CREATE TABLE datasets(name TEXT, version INTEGER, state INTEGER, kind INTEGER, build_id TEXT, time INTEGER, record BLOB, PRIMARY KEY(name, version)) WITHOUT ROWID;"
    "CREATE TABLE jobs(id TEXT PRIMARY KEY, kind INTEGER, state INTEGER, model TEXT, time INTEGER, record BLOB) WITHOUT ROWID;"
    "CREATE INDEX jobs_state ON jobs(kind, state);"
    "CREATE TABLE audit(idx INTEGER PRIMARY KEY, action TEXT, object TEXT, epoch INTEGER, record BLOB);"
    "CREATE TABLE history(model TEXT, revision INTEGER, record BLOB, PRIMARY KEY(model, revision)) WITHOUT ROWID;"
    "CREATE INDEX audit_action ON audit(action, idx);";

/* ---- folding ---- */

static struct span bare_name(const char *full) {
    struct span name;
    uint32_t version;
    return model_name_parse(span_str(full), &name, &version) == 0 ? name : SPAN("");
}

static int fold_interaction(struct view_db *db, const Genloop__V1__Interaction *i, struct span packed, struct error *err) {
    if (!i->request_id[0]) return error_set(err, E_INVALID, "an interaction needs a request id");
    struct view_stmt *s = view_sql(db, "INSERT OR REPLACE INTO interactions VALUES(?1, ?2, ?3)");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, span_str(i->request_id));
    view_bind_span(s, 2, bare_name(i->model));
    view_bind_blob(s, 3, packed);
    view_step(s);
    view_done(s);
    return view_failed(db, err);
}

static int insert_feedback(struct view_db *db, const Genloop__V1__FeedbackEvent *e, struct span packed, struct span sealed, struct error *err) {
    struct view_stmt *s = view_sql(db, "INSERT OR IGNORE INTO feedback(id, request_id, chosen_request_id, model, record, sealed) VALUES(?1, ?2, ?3, ?4, ?5, ?6)");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, span_str(e->id));
    view_bind_span(s, 2, span_str(e->request_id));
    view_bind_span(s, 3, span_str(e->chosen_request_id));
    view_bind_span(s, 4, bare_name(e->model));
    view_bind_blob(s, 5, packed);
    if (sealed.len)
        view_bind_blob(s, 6, sealed);
    else
        view_bind_null(s, 6);
    view_step(s);
    view_done(s);
    return view_failed(db, err);
}

/* An event of our own: ids and value as Submit checked them, the texts behind `content`. */
static int check_event(const Genloop__V1__FeedbackEvent *e, struct error *err) {
    struct feedback f = {.id = span_str(e->id), .request_id = span_str(e->request_id), .subject = span_str(e->subject), .model = span_str(e->model),
                         .chosen_request_id = span_str(e->chosen_request_id), .rejected_request_id = span_str(e->rejected_request_id), .kind = e->kind, .value = e->value};
    /* What is sealed cannot be looked at here: it stands for whatever its kind needs. */
    if (e->content && e->content->sha256[0]) f.prompt = f.chosen = f.rejected = f.text = SPAN("?");
    return feedback_check(&f, err);
}

int feedback_content_write(const struct feedback *f, struct buf *out) {
    if (!f->prompt.len && !f->chosen.len && !f->rejected.len && !f->text.len) return 0;
    struct json_out w;
    json_begin(&w, out);
    json_object(&w);
    if (f->prompt.len) json_span(&w, "prompt", f->prompt);
    if (f->chosen.len) json_span(&w, "chosen", f->chosen);
    if (f->rejected.len) json_span(&w, "rejected", f->rejected);
    if (f->text.len) json_span(&w, "text", f->text);
    json_object_end(&w);
    return out->failed;
}

static int fold_foreign(struct facts *facts, struct view_db *db, const struct event *event, struct error *err) {
    struct arena arena;
    struct feedback f;
    struct buf plain, sealed, packed;
    arena_init(&arena, 4 * EVENT_VALUE_MAX);
    buf_init(&plain, 2 * EVENT_VALUE_MAX);
    buf_init(&sealed, 3 * EVENT_VALUE_MAX);
    buf_init(&packed, EVENT_VALUE_MAX);
    Genloop__V1__FeedbackEvent e = GENLOOP__V1__FEEDBACK_EVENT__INIT;
    Genloop__V1__ObjectRef content = GENLOOP__V1__OBJECT_REF__INIT;
    Genloop__V1__Actor actor = GENLOOP__V1__ACTOR__INIT;
    char subject[SEAL_KEY_ID_MAX];
    int r = feedback_json_parse(event->value, &arena, &f, err);
    if (r == 0) r = feedback_content_write(&f, &plain);
    if (r == 0 && plain.len) {
        keyring_subject_id(facts->keyring, span_str(facts->tenant), f.subject, subject);
        r = keyring_seal(facts->keyring, subject, buf_span(&plain), &sealed, err);
        content.seal_subject = subject;
        content.media_type = (char *)(uintptr_t) "application/json";
        content.size_bytes = sealed.len;
        e.content = &content;
    }
    if (r == 0) {
        struct span source = arena_span(&arena, event->source.len ? event->source : SPAN("foreign"));
        e.id = (char *)(uintptr_t)arena_span(&arena, f.id).data;
        e.request_id = (char *)(uintptr_t)arena_span(&arena, f.request_id).data;
        e.subject = (char *)(uintptr_t)arena_span(&arena, f.subject).data;
        e.model = (char *)(uintptr_t)arena_span(&arena, f.model).data;
        e.chosen_request_id = (char *)(uintptr_t)arena_span(&arena, f.chosen_request_id).data;
        e.rejected_request_id = (char *)(uintptr_t)arena_span(&arena, f.rejected_request_id).data;
        e.tenant = (char *)(uintptr_t)facts->tenant;
        e.kind = f.kind;
        e.value = f.value;
        e.event_time_ms = f.time_ms ? f.time_ms : event->time_ms;
        actor.id = (char *)(uintptr_t)source.data;
        actor.scope = (char *)(uintptr_t) "client";
        e.actor = &actor;
        if (!e.id || !e.request_id || !e.subject || !e.model || !e.chosen_request_id || !e.rejected_request_id || !actor.id)
            r = error_set(err, E_NOMEM, "no memory for feedback");
    }
    if (r == 0) r = record_pack(&e.base, &packed);
    if (r == 0) r = insert_feedback(db, &e, buf_span(&packed), buf_span(&sealed), err);
    buf_fini(&plain);
    buf_fini(&sealed);
    buf_fini(&packed);
    arena_fini(&arena);
    return r;
}

static int fold_evaluation(struct facts *facts, struct view_db *db, const Genloop__V1__Evaluation *v, struct span packed, struct error *err) {
    if (!v->id[0] || !v->candidate[0]) return error_set(err, E_INVALID, "an evaluation needs an id and a candidate");
    /* A verdict counts when the registry signed it. */
    if (v->judged && record_verify(facts->public_key, &v->base, err) != 0) return E_DENIED;
    struct view_stmt *s = v->judged ? view_sql(db, "INSERT INTO evaluations(id, candidate, time, judged) VALUES(?1, ?2, ?3, ?4) ON CONFLICT(id) DO UPDATE SET judged = ?4")
                                    : view_sql(db, "INSERT INTO evaluations(id, candidate, time, measured) VALUES(?1, ?2, ?3, ?4) ON CONFLICT(id) DO UPDATE SET measured = ?4");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, span_str(v->id));
    view_bind_span(s, 2, span_str(v->candidate));
    view_bind_int(s, 3, v->event_time_ms);
    view_bind_blob(s, 4, packed);
    view_step(s);
    view_done(s);
    return view_failed(db, err);
}

static int fold_dataset(struct view_db *db, const Genloop__V1__Dataset *d, struct span packed, struct error *err) {
    if (!d->name[0]) return error_set(err, E_INVALID, "a data set needs a name");
    struct view_stmt *s = view_sql(db, "INSERT OR REPLACE INTO datasets VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, span_str(d->name));
    view_bind_int(s, 2, d->version);
    view_bind_int(s, 3, (int64_t)d->state);
    view_bind_int(s, 4, (int64_t)d->kind);
    view_bind_span(s, 5, span_str(d->build_id));
    view_bind_int(s, 6, d->event_time_ms);
    view_bind_blob(s, 7, packed);
    view_step(s);
    view_done(s);
    return view_failed(db, err);
}

static int fold_job(struct view_db *db, const Genloop__V1__Job *j, struct span packed, struct error *err) {
    if (!j->id[0]) return error_set(err, E_INVALID, "a job needs an id");
    /* The first end of a job stands (4 to 6: succeeded, failed, cancelled): what was written across it, a pause or another end, counts for nothing, as for every reader of the topic. */
    struct view_stmt *s = view_sql(db, "INSERT INTO jobs VALUES(?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT(id) DO UPDATE SET kind = ?2, state = ?3, model = ?4, time = ?5, record = ?6 WHERE state < 4");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, span_str(j->id));
    view_bind_int(s, 2, (int64_t)j->kind);
    view_bind_int(s, 3, (int64_t)j->state);
    view_bind_span(s, 4, bare_name(j->model));
    view_bind_int(s, 5, j->event_time_ms);
    view_bind_blob(s, 6, packed);
    view_step(s);
    view_done(s);
    return view_failed(db, err);
}

/* A version as an audit record tells of it: the topic of versions keeps only the newest. */
struct telling {
    struct view_db *db;
    struct error *err;
};

static int fold_history(void *arg, enum topic topic, struct span packed) {
    struct telling *t = arg;
    if (topic != TOPIC_MODELS) return 0;
    Genloop__V1__ModelVersion *v = (Genloop__V1__ModelVersion *)record_unpack(&genloop__v1__model_version__descriptor, packed);
    if (!v) return error_set(t->err, E_DATA_LOSS, "a version in the audit log cannot be read");
    char full[MODEL_FULL_NAME_MAX];
    struct view_stmt *s = view_sql(t->db, "INSERT OR REPLACE INTO history VALUES(?1, ?2, ?3)");
    if (s) {
        view_bind_span(s, 1, span_str(model_name_format(span_str(v->name), v->version, full)));
        view_bind_int(s, 2, (int64_t)v->revision);
        view_bind_blob(s, 3, packed);
        view_step(s);
        view_done(s);
    }
    record_free(&v->base);
    return view_failed(t->db, t->err);
}

/* What the registry signed, in its place. The holder's ledger checks the tree whole; here each record is held to its own head and to its neighbours' order. */
static int fold_audit(struct facts *facts, struct view_db *db, const Genloop__V1__AuditRecord *r, struct span packed, struct error *err) {
    uint8_t leaf[SHA256_SIZE];
    int code = audit_leaf(r, leaf, err);
    if (code != 0) return code;
    if (r->leaf_hash.len != SHA256_SIZE || memcmp(r->leaf_hash.data, leaf, SHA256_SIZE) != 0 || r->root_hash.len != SHA256_SIZE)
        return error_set(err, E_DATA_LOSS, "audit record %llu is not what its leaf hash says", (unsigned long long)r->index);
    code = audit_head_verify(facts->public_key, r->index + 1, r->root_hash.data, r->event_time_ms, span_of(r->signature.data, r->signature.len), err);
    if (code != 0) return code;
    struct view_stmt *s = view_sql(db, "SELECT COUNT(*), COALESCE(MAX(epoch), 0) FROM audit");
    if (!s) return view_failed(db, err);
    int64_t count = 0, epoch = 0;
    if (view_step(s)) count = view_int(s, 0), epoch = view_int(s, 1);
    view_done(s);
    code = view_failed(db, err);
    if (code != 0) return code;
    if ((int64_t)r->index != count || (int64_t)r->epoch < epoch)
        return error_set(err, E_ABORTED, "audit record %llu of epoch %llu does not follow: %lld records, epoch %lld", (unsigned long long)r->index, (unsigned long long)r->epoch,
                         (long long)count, (long long)epoch);
    s = view_sql(db, "INSERT INTO audit VALUES(?1, ?2, ?3, ?4, ?5)");
    if (!s) return view_failed(db, err);
    view_bind_int(s, 1, (int64_t)r->index);
    view_bind_span(s, 2, span_str(r->action));
    view_bind_span(s, 3, span_str(r->object));
    view_bind_int(s, 4, (int64_t)r->epoch);
    view_bind_blob(s, 5, packed);
    view_step(s);
    view_done(s);
    code = view_failed(db, err);
    if (code != 0) return code;
    struct arena arena;
    struct telling t = {db, err};
    arena_init(&arena, 8 * AUDIT_DETAIL_MAX);
    code = audit_each_record(r, &arena, &t, fold_history, err);
    arena_fini(&arena);
    return code;
}

static int fold(void *arg, struct view_db *db, const struct event *e, struct error *err) {
    struct facts *facts = arg;
    if (e->value.len == 0) return 0; /* a tombstone: nothing here forgets by one */
    if (e->topic == TOPIC_FEEDBACK && (e->value.data[0] == '{' || span_starts(e->content_type, SPAN("application/json")))) return fold_foreign(facts, db, e, err);
    const ProtobufCMessageDescriptor *type = e->topic == TOPIC_INTERACTIONS  ? &genloop__v1__interaction__descriptor
                                             : e->topic == TOPIC_FEEDBACK    ? &genloop__v1__feedback_event__descriptor
                                             : e->topic == TOPIC_EVALUATIONS ? &genloop__v1__evaluation__descriptor
                                             : e->topic == TOPIC_DATASETS    ? &genloop__v1__dataset__descriptor
                                             : e->topic == TOPIC_JOBS        ? &genloop__v1__job__descriptor
                                                                             : &genloop__v1__audit_record__descriptor;
    ProtobufCMessage *m = record_unpack(type, e->value);
    if (!m) return error_set(err, E_INVALID, "this is no %s", type->name);
    int r;
    switch (e->topic) {
    case TOPIC_INTERACTIONS:
        r = fold_interaction(db, (const Genloop__V1__Interaction *)m, e->value, err);
        break;
    case TOPIC_FEEDBACK:
        r = check_event((const Genloop__V1__FeedbackEvent *)m, err);
        if (r == 0) r = insert_feedback(db, (const Genloop__V1__FeedbackEvent *)m, e->value, SPAN(""), err);
        break;
    case TOPIC_EVALUATIONS:
        r = fold_evaluation(facts, db, (const Genloop__V1__Evaluation *)m, e->value, err);
        break;
    case TOPIC_DATASETS:
        r = fold_dataset(db, (const Genloop__V1__Dataset *)m, e->value, err);
        break;
    case TOPIC_JOBS:
        r = fold_job(db, (const Genloop__V1__Job *)m, e->value, err);
        break;
    default:
        r = fold_audit(facts, db, (const Genloop__V1__AuditRecord *)m, e->value, err);
        break;
    }
    record_free(m);
    return r;
}

int facts_open(struct facts *facts, struct eventlog *log, const char *path, void (*on_change)(void *facts), void (*on_caught_up)(void *facts), struct error *err) {
    static const enum topic topics[] = {TOPIC_INTERACTIONS, TOPIC_FEEDBACK, TOPIC_EVALUATIONS, TOPIC_DATASETS, TOPIC_JOBS, TOPIC_AUDIT};
    struct view_spec spec = {.name = "feedback", .schema_version = FACTS_SCHEMA, .schema = SCHEMA, .topics = topics, .n_topics = 6, .fold = fold,
                             .on_change = on_change, .on_caught_up = on_caught_up, .arg = facts};
    return view_open(log, path, &spec, &facts->view, err);
}

void facts_close(struct facts *facts) {
    view_close(facts->view);
    facts->view = NULL;
}

/* ---- reading ---- */

/* One query: up to two texts and two numbers bound, rows handed out as messages. */
struct query {
    const char *sql; /* literal; first column the packed message, second the position */
    struct span texts[2];
    int64_t numbers[2];
    int n_texts, n_numbers; /* texts are ?1.., numbers follow */
    const ProtobufCMessageDescriptor *type;
    void *arg;
    facts_on_message on_message;
};

static int run_query(void *arg, struct view_db *db, struct error *err) {
    struct query *q = arg;
    struct view_stmt *s = view_sql(db, q->sql);
    if (!s) return view_failed(db, err);
    for (int i = 0; i < q->n_texts; i++) view_bind_span(s, i + 1, q->texts[i]);
    for (int i = 0; i < q->n_numbers; i++) view_bind_int(s, q->n_texts + i + 1, q->numbers[i]);
    int r = 0;
    while (r == 0 && view_step(s)) {
        ProtobufCMessage *m = record_unpack(q->type, view_blob(s, 0));
        if (!m) {
            r = error_set(err, E_DATA_LOSS, "a %s in the view cannot be read", q->type->name);
            break;
        }
        r = q->on_message(q->arg, view_int(s, 1), m);
        record_free(m);
    }
    view_done(s);
    int failed = view_failed(db, err);
    return failed ? failed : r;
}

struct one {
    const ProtobufCMessageDescriptor *type;
    ProtobufCMessage *message;
};

/* A copy that outlives the query. */
static int keep_one(void *arg, int64_t position, const ProtobufCMessage *message) {
    (void)position;
    struct one *one = arg;
    struct buf packed;
    buf_init(&packed, 1024 * 1024);
    int r = record_pack(message, &packed);
    if (r == 0) {
        record_free(one->message);
        one->message = record_unpack(one->type, buf_span(&packed));
        if (!one->message) r = E_NOMEM;
    }
    buf_fini(&packed);
    return r;
}

static int query_one(struct facts *f, struct query *q, const char *what, struct span name, void *message, struct error *err) {
    struct one one = {q->type, NULL};
    q->arg = &one;
    q->on_message = keep_one;
    int r = view_read(f->view, q, run_query, err);
    if (r != 0) {
        record_free(one.message);
        return r;
    }
    if (!one.message) return error_set(err, E_NOT_FOUND, "there is no %s %.*s", what, SPAN_ARG(name));
    memcpy(message, &one.message, sizeof one.message);
    return 0;
}

int facts_job(struct facts *f, struct span id, Genloop__V1__Job **job, struct error *err) {
    struct query q = {.sql = "SELECT record, 0 FROM jobs WHERE id = ?1", .texts = {id}, .n_texts = 1, .type = &genloop__v1__job__descriptor};
    return query_one(f, &q, "job", id, job, err);
}

int facts_dataset(struct facts *f, struct span name, uint32_t version, Genloop__V1__Dataset **dataset, struct error *err) {
    struct query q = {.sql = "SELECT record, 0 FROM datasets WHERE name = ?1 AND (version = ?2 OR (?2 = 0 AND state = 2)) ORDER BY version DESC LIMIT 1",
                      .texts = {name}, .numbers = {version}, .n_texts = 1, .n_numbers = 1, .type = &genloop__v1__dataset__descriptor};
    return query_one(f, &q, "data set", name, dataset, err);
}

int facts_dataset_by_build(struct facts *f, struct span name, struct span build_id, Genloop__V1__Dataset **dataset, struct error *err) {
    struct query q = {.sql = "SELECT record, 0 FROM datasets WHERE name = ?1 AND build_id = ?2 LIMIT 1", .texts = {name, build_id}, .n_texts = 2,
                      .type = &genloop__v1__dataset__descriptor};
    return query_one(f, &q, "data set", name, dataset, err);
}

int facts_dataset_newest_text(struct facts *f, Genloop__V1__Dataset **dataset, struct error *err) {
    struct query q = {.sql = "SELECT record, 0 FROM datasets WHERE kind = 1 AND state = 2 ORDER BY time DESC LIMIT 1", .type = &genloop__v1__dataset__descriptor};
    return query_one(f, &q, "data set of", SPAN("texts"), dataset, err);
}

int facts_audit(struct facts *f, uint64_t index, Genloop__V1__AuditRecord **record, struct error *err) {
    struct query q = {.sql = "SELECT record, idx FROM audit WHERE idx = ?1", .numbers = {(int64_t)index}, .n_numbers = 1, .type = &genloop__v1__audit_record__descriptor};
    return query_one(f, &q, "audit record of", SPAN("this index"), record, err);
}

static int query_all(struct facts *f, struct query *q, void *arg, facts_on_message on_message, struct error *err) {
    q->arg = arg;
    q->on_message = on_message;
    return view_read(f->view, q, run_query, err);
}

int facts_each_feedback(struct facts *f, int64_t before, int64_t limit, void *arg, facts_on_message on_event, struct error *err) {
    struct query q = {.sql = "SELECT record, seq FROM feedback WHERE ?1 = 0 OR seq < ?1 ORDER BY seq DESC LIMIT ?2", .numbers = {before, limit}, .n_numbers = 2,
                      .type = &genloop__v1__feedback_event__descriptor};
    return query_all(f, &q, arg, on_event, err);
}

int facts_each_audit(struct facts *f, int64_t from, int64_t limit, void *arg, facts_on_message on_record, struct error *err) {
    struct query q = {.sql = "SELECT record, idx FROM audit WHERE idx >= ?1 ORDER BY idx LIMIT ?2", .numbers = {from, limit}, .n_numbers = 2,
                      .type = &genloop__v1__audit_record__descriptor};
    return query_all(f, &q, arg, on_record, err);
}

int facts_each_version(struct facts *f, struct span model, void *arg, facts_on_message on_version, struct error *err) {
    struct query q = {.sql = "SELECT record, revision FROM history WHERE model = ?1 ORDER BY revision", .texts = {model}, .n_texts = 1,
                      .type = &genloop__v1__model_version__descriptor};
    return query_all(f, &q, arg, on_version, err);
}

int facts_each_audit_action(struct facts *f, struct span action, int64_t limit, void *arg, facts_on_message on_record, struct error *err) {
    struct query q = {.sql = "SELECT record, idx FROM audit WHERE action = ?1 ORDER BY idx DESC LIMIT ?2", .texts = {action}, .numbers = {limit}, .n_texts = 1, .n_numbers = 1,
                      .type = &genloop__v1__audit_record__descriptor};
    return query_all(f, &q, arg, on_record, err);
}

int facts_each_evaluation(struct facts *f, struct span candidate, void *arg, facts_on_message on_evaluation, struct error *err) {
    struct query q = {.sql = "SELECT COALESCE(judged, measured), time FROM evaluations WHERE candidate = ?1 ORDER BY time", .texts = {candidate}, .n_texts = 1,
                      .type = &genloop__v1__evaluation__descriptor};
    return query_all(f, &q, arg, on_evaluation, err);
}

int facts_each_unjudged(struct facts *f, void *arg, facts_on_message on_evaluation, struct error *err) {
    struct query q = {.sql = "SELECT measured, time FROM evaluations WHERE judged IS NULL AND measured IS NOT NULL ORDER BY time", .type = &genloop__v1__evaluation__descriptor};
    return query_all(f, &q, arg, on_evaluation, err);
}

int facts_each_judged(struct facts *f, void *arg, facts_on_message on_evaluation, struct error *err) {
    struct query q = {.sql = "SELECT judged, time FROM evaluations WHERE judged IS NOT NULL ORDER BY time DESC LIMIT 200", .type = &genloop__v1__evaluation__descriptor};
    return query_all(f, &q, arg, on_evaluation, err);
}

int facts_each_job(struct facts *f, Genloop__V1__JobKind kind, Genloop__V1__JobState state, void *arg, facts_on_message on_job, struct error *err) {
    struct query q = {.sql = "SELECT record, time FROM jobs WHERE kind = ?1 AND (?2 = 0 OR state = ?2) ORDER BY time DESC LIMIT 500", .numbers = {(int64_t)kind, (int64_t)state}, .n_numbers = 2,
                      .type = &genloop__v1__job__descriptor};
    return query_all(f, &q, arg, on_job, err);
}

/* One number of a query with up to two texts. */
struct count {
    const char *sql;
    struct span texts[2];
    int n_texts;
    int64_t value;
};

static int run_count(void *arg, struct view_db *db, struct error *err) {
    struct count *c = arg;
    struct view_stmt *s = view_sql(db, c->sql);
    if (!s) return view_failed(db, err);
    for (int i = 0; i < c->n_texts; i++) view_bind_span(s, i + 1, c->texts[i]);
    if (view_step(s)) c->value = view_int(s, 0);
    view_done(s);
    return view_failed(db, err);
}

int facts_feedback_exists(struct facts *f, struct span id, bool *exists, struct error *err) {
    struct count c = {.sql = "SELECT COUNT(*) FROM feedback WHERE id = ?1", .texts = {id}, .n_texts = 1};
    int r = view_read(f->view, &c, run_count, err);
    if (r == 0) *exists = c.value > 0;
    return r;
}

int facts_dataset_highest(struct facts *f, struct span name, uint32_t *version, struct error *err) {
    struct count c = {.sql = "SELECT COALESCE(MAX(version), 0) FROM datasets WHERE name = ?1", .texts = {name}, .n_texts = 1};
    int r = view_read(f->view, &c, run_count, err);
    if (r == 0) *version = (uint32_t)c.value;
    return r;
}

int facts_training(struct facts *f, struct span model, bool *open, struct error *err) {
    struct count c = {.sql = "SELECT COUNT(*) FROM jobs WHERE kind = 1 AND state IN (1, 2, 3) AND model = ?1", .texts = {model}, .n_texts = 1};
    int r = view_read(f->view, &c, run_count, err);
    if (r == 0) *open = c.value > 0;
    return r;
}

/* A judgement is about the model that it names, or that answered the request it is about; one that says neither is about whatever is asked for. */
#define ABOUT_MODEL                                                                                                                                                       \
    " FROM feedback f LEFT JOIN interactions i ON i.request_id = CASE WHEN f.request_id != '' THEN f.request_id ELSE f.chosen_request_id END "                              \
    "WHERE CASE WHEN f.model != '' THEN f.model ELSE COALESCE(i.model, '') END IN ('', ?1)"

int facts_judgements(struct facts *f, struct span model, int64_t *count, struct error *err) {
    struct count c = {.sql = "SELECT COUNT(*)" ABOUT_MODEL, .texts = {model}, .n_texts = 1};
    int r = view_read(f->view, &c, run_count, err);
    if (r == 0) *count = c.value;
    return r;
}

/* ---- material for a set ---- */

struct gathering {
    struct facts *facts;
    struct span model;
    struct arena *arena;
    struct facts_material *out;
    size_t judgements_capacity, interactions_capacity;
    struct span *wanted; /* request ids, in the arena */
    size_t n_wanted, wanted_capacity;
};

static struct span keep(struct gathering *g, const char *s) { return s[0] ? arena_span(g->arena, span_str(s)) : SPAN(""); }

/* Opens what was sealed: from the row itself, or from the store. 0 and empty where there is nothing; E_NOT_FOUND where it is gone. */
static int open_content(struct facts *f, const Genloop__V1__ObjectRef *ref, struct span in_row, struct buf *plain, struct error *err) {
    if (!ref || (!ref->sha256[0] && !in_row.len)) return 0;
    struct buf sealed;
    buf_init(&sealed, CONTENT_MAX);
    int r = in_row.len ? 0 : store_get(f->store, ref->sha256, &sealed, err);
    if (r == 0) {
        struct span bytes = in_row.len ? in_row : buf_span(&sealed);
        r = ref->seal_subject[0] ? keyring_open_sealed(f->keyring, ref->seal_subject, bytes, plain, err) : buf_append_span(plain, bytes);
    }
    buf_fini(&sealed);
    return r;
}

static int want(struct gathering *g, struct span id) {
    if (!id.len) return 0;
    int r = array_reserve(&g->wanted, &g->wanted_capacity, g->n_wanted + 1, sizeof *g->wanted);
    if (r == 0) g->wanted[g->n_wanted++] = id;
    return r;
}

/* The prompt of a judgement of its own: a text. */
static struct span json_text(struct gathering *g, struct span text) {
    struct buf b;
    struct json_out w;
    buf_init(&b, CONTENT_MAX);
    json_begin(&w, &b);
    json_put_span(&w, text);
    struct span s = b.failed ? SPAN("") : arena_span(g->arena, buf_span(&b));
    buf_fini(&b);
    return s;
}

static int take_judgement(struct gathering *g, const Genloop__V1__FeedbackEvent *e, struct span sealed, struct error *err) {
    static const enum pair_kind kinds[] = {0, PAIR_THUMB, PAIR_RATING, PAIR_PREFERENCE, PAIR_CORRECTION};
    struct pair_judgement j = {.value = e->value, .time_ms = e->event_time_ms};
    if (e->kind < 1 || e->kind > 4) return 0;
    j.kind = kinds[e->kind];
    struct buf plain;
    struct json *root = NULL;
    struct error why = {0};
    buf_init(&plain, CONTENT_MAX);
    int r = open_content(g->facts, e->content, sealed, &plain, &why);
    if (r == 0 && plain.len) r = json_parse(buf_span(&plain), &root, &why);
    if (r != 0) {
        g->out->closed++;
        r = 0;
    } else {
        j.id = keep(g, e->id);
        j.request_id = keep(g, e->request_id);
        j.chosen_request_id = keep(g, e->chosen_request_id);
        j.rejected_request_id = keep(g, e->rejected_request_id);
        struct span prompt = json_string(json_get(root, "prompt")), chosen = json_string(json_get(root, "chosen")), rejected = json_string(json_get(root, "rejected")),
                    text = json_string(json_get(root, "text"));
        j.prompt = prompt.len ? json_text(g, prompt) : SPAN("");
        j.chosen = chosen.len ? arena_span(g->arena, chosen) : SPAN("");
        j.rejected = rejected.len ? arena_span(g->arena, rejected) : SPAN("");
        j.text = text.len ? arena_span(g->arena, text) : SPAN("");
        r = array_reserve(&g->out->judgements, &g->judgements_capacity, g->out->n_judgements + 1, sizeof *g->out->judgements);
        if (r == 0) g->out->judgements[g->out->n_judgements++] = j;
        if (r == 0) r = want(g, j.request_id);
        if (r == 0) r = want(g, j.chosen_request_id);
        if (r == 0) r = want(g, j.rejected_request_id);
        if (r != 0 || !j.id.data || !j.prompt.data || !j.chosen.data || !j.rejected.data || !j.text.data || !j.request_id.data)
            r = error_set(err, E_NOMEM, "no memory for %lld judgements", (long long)g->out->seen);
    }
    json_free(root);
    buf_fini(&plain);
    return r;
}

static int span_order(const void *a, const void *b) {
    const struct span *x = a, *y = b;
    size_t n = x->len < y->len ? x->len : y->len;
    int c = n ? memcmp(x->data, y->data, n) : 0;
    return c ? c : (x->len > y->len) - (x->len < y->len);
}

static int take_interaction(struct gathering *g, struct span id, const Genloop__V1__Interaction *i, struct error *err) {
    struct pair_interaction p = {.request_id = id};
    struct buf plain;
    struct error why = {0};
    buf_init(&plain, CONTENT_MAX);
    int r = open_content(g->facts, i->content, SPAN(""), &plain, &why);
    if (r == 0) r = plain.len ? pairs_read_content(buf_span(&plain), g->arena, &p.prompt, &p.answer, &why) : E_NOT_FOUND;
    buf_fini(&plain);
    if (r == E_NOMEM) return error_set(err, r, "%s", why.message);
    if (r != 0) {
        g->out->closed++; /* captured by hash only, expired or erased */
        return 0;
    }
    r = array_reserve(&g->out->interactions, &g->interactions_capacity, g->out->n_interactions + 1, sizeof *g->out->interactions);
    if (r != 0) return error_set(err, r, "no memory for the interactions of a set");
    g->out->interactions[g->out->n_interactions++] = p;
    return 0;
}

static int gather(void *arg, struct view_db *db, struct error *err) {
    struct gathering *g = arg;
    struct view_stmt *s = view_sql(db, "SELECT f.record, f.sealed" ABOUT_MODEL " ORDER BY f.seq LIMIT 1000001");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, g->model);
    int r = 0;
    while (r == 0 && view_step(s)) {
        if (++g->out->seen > PAIRS_JUDGEMENTS_MAX) {
            r = error_set(err, E_TOO_LARGE, "there are more than the %d judgements that one set is built from", PAIRS_JUDGEMENTS_MAX);
            break;
        }
        Genloop__V1__FeedbackEvent *e = (Genloop__V1__FeedbackEvent *)record_unpack(&genloop__v1__feedback_event__descriptor, view_blob(s, 0));
        if (!e) r = error_set(err, E_DATA_LOSS, "feedback in the view cannot be read");
        if (r == 0) r = take_judgement(g, e, view_blob(s, 1), err);
        if (e) record_free(&e->base);
    }
    view_done(s);
    if (r == 0) r = view_failed(db, err);
    if (g->n_wanted) qsort(g->wanted, g->n_wanted, sizeof *g->wanted, span_order);
    for (size_t i = 0; i < g->n_wanted && r == 0; i++) {
        if (i && span_eq(g->wanted[i], g->wanted[i - 1])) continue;
        s = view_sql(db, "SELECT record FROM interactions WHERE request_id = ?1");
        if (!s) return view_failed(db, err);
        view_bind_span(s, 1, g->wanted[i]);
        if (view_step(s)) {
            Genloop__V1__Interaction *in = (Genloop__V1__Interaction *)record_unpack(&genloop__v1__interaction__descriptor, view_blob(s, 0));
            if (!in) r = error_set(err, E_DATA_LOSS, "an interaction in the view cannot be read");
            if (r == 0) r = take_interaction(g, g->wanted[i], in, err);
            if (in) record_free(&in->base);
        }
        view_done(s);
        if (r == 0) r = view_failed(db, err);
    }
    return r;
}

/* Moves a heap array into the arena. */
static int settle(struct arena *arena, void *array_pointer, size_t n, size_t size) {
    void *heap, *kept = NULL;
    memcpy(&heap, array_pointer, sizeof heap);
    int r = 0;
    if (n) {
        kept = arena_calloc(arena, n, size);
        if (kept)
            memcpy(kept, heap, n * size);
        else
            r = E_NOMEM;
    }
    mem_free(heap);
    memcpy(array_pointer, &kept, sizeof kept);
    return r;
}

int facts_material(struct facts *f, struct span model, struct arena *arena, struct facts_material *material, struct error *err) {
    struct facts_material m = {0};
    struct gathering g = {.facts = f, .model = model, .arena = arena, .out = &m};
    int r = view_read(f->view, &g, gather, err);
    mem_free(g.wanted);
    int a = settle(arena, &m.interactions, m.n_interactions, sizeof *m.interactions), b = settle(arena, &m.judgements, m.n_judgements, sizeof *m.judgements);
    if (r == 0 && (a || b)) r = error_set(err, E_NOMEM, "no memory for the material of a set");
    if (r == 0) *material = m;
    return r;
}
