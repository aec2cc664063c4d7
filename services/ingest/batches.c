#include "services/ingest/batches.h"

#include <pthread.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/random.h"
#include "services/ingest/batch_lines.h"
#include "services/ingest/batch_write.h"
#include "services/ingest/files.h"
#include "wire/unpack.h"

enum { VIEW_WAIT_MS = 10000, TICK_MS = 250, RETRY_MS = 1000 /* below a second: until.tv_nsec + it stays in range */ };

#define STATE(NAME) GENLOOP__V1__BATCH_STATE__BATCH_STATE_##NAME

/* A batch that is dealt from. */
struct active {
    char id[BATCH_ID_MAX + 1];
    Genloop__V1__Batch *batch; /* owned */
    struct file_map input;
    struct batch_index index;
    int64_t *dealt_ms;         /* [index.n] when the line was dealt, or told of, last; 0: it is to be dealt; DONE */
    size_t from;               /* every line before it is done */
};
#define DONE INT64_MAX

struct batches {
    struct ingest *in;
    pthread_t thread;
    bool running;
    pthread_mutex_t lock; /* over what follows */
    pthread_cond_t wake;
    bool stop;
    struct active *active[BATCH_ACTIVE_MAX];
    size_t n_active;
    struct metric *answered, *failed;
};

static const char *const ENDPOINTS[] = {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"};

/* ---- finding ---- */

struct lookup {
    struct span tenant; /* data NULL: any */
    const char *id;
    Genloop__V1__Batch *batch; /* owned */
};

static int look(void *arg, struct view_db *db, struct error *err) {
    struct lookup *l = arg;
    struct view_stmt *s = view_sql(db, "SELECT packed, tenant FROM batches WHERE id = ?1");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, span_str(l->id));
    if (view_step(s) && (!l->tenant.data || span_eq(view_text(s, 1), l->tenant))) l->batch = MESSAGE_UNPACK(Batch, batch, view_blob(s, 0));
    view_done(s);
    if (!l->batch || batch_ended((int)l->batch->state)) return view_failed(db, err);
    if ((s = view_sql(db, "SELECT count(*), sum(failed) FROM batch_answers WHERE batch_id = ?1"))) {
        view_bind_span(s, 1, span_str(l->id));
        if (view_step(s)) {
            l->batch->failed = (uint64_t)view_int(s, 1);
            l->batch->completed = (uint64_t)view_int(s, 0) - l->batch->failed;
        }
        view_done(s);
    }
    return view_failed(db, err);
}

static int find(struct ingest *in, struct span tenant, const char *id, const char *param, Genloop__V1__Batch **batch, struct error *err) {
    struct lookup l = {.tenant = tenant, .id = id};
    int r = view_read(in->view, &l, look, err);
    if (r < 0 || !l.batch) {
        if (l.batch) message_free(&l.batch->base);
        return r < 0 ? r : error_set_param(err, E_NOT_FOUND, param, "No batch found with id '%.64s'.", id);
    }
    *batch = l.batch;
    return 0;
}

/* ---- publishing ---- */

static int publish(struct ingest *in, const Genloop__V1__Batch *b, const char *what, struct error *err) {
    struct buf value;
    char id[EVENT_ID_MAX];
    buf_init(&value, EVENT_VALUE_MAX);
    int r = pack_message(&b->base, &value);
    if (r < 0) r = error_set(err, r == E_FULL ? E_TOO_LARGE : r, "the record of batch %s does not fit", b->id);
    (void)snprintf(id, sizeof id, "%.64s.%.48s", b->id, what);
    struct event e = {.topic = TOPIC_BATCHES, .key = span_str(b->id), .value = buf_span(&value), .id = span_str(id)};
    if (r == 0) r = eventlog_publish(in->log, &e, err);
    buf_fini(&value);
    return r;
}

/* b as it goes on, in its new state. */
static int move(struct ingest *in, Genloop__V1__Batch *b, Genloop__V1__BatchState state, struct error *err) {
    char what[24];
    b->state = state;
    b->event_time_ms = clock_wall_ms();
    if (state == STATE(IN_PROGRESS)) b->in_progress_time_ms = b->event_time_ms;
    if (state == STATE(FINALIZING)) b->finalizing_time_ms = b->event_time_ms;
    if (state == STATE(CANCELLING)) b->cancelling_time_ms = b->event_time_ms;
    (void)snprintf(what, sizeof what, "state.%d", (int)state);
    return publish(in, b, what, err);
}

static void wake(struct ingest *in) {
    pthread_mutex_lock(&in->batches->lock);
    pthread_cond_signal(&in->batches->wake);
    pthread_mutex_unlock(&in->batches->lock);
}

/* ---- asked for by clients ---- */

static int no_message(const char *type, struct error *err) { return error_set(err, E_INVALID, "the request is no %s", type); }

static int check_metadata(const Genloop__V1__CreateBatchRequest *q, struct error *err) {
    if (q->n_metadata > BATCH_METADATA_MAX) return error_set_param(err, E_INVALID, "metadata", "'metadata' has at most %d pairs", BATCH_METADATA_MAX);
    for (size_t i = 0; i < q->n_metadata; i++)
        if (strlen(q->metadata[i]->key) > BATCH_METADATA_KEY_MAX || strlen(q->metadata[i]->value) > BATCH_METADATA_VALUE_MAX)
            return error_set_param(err, E_INVALID, "metadata", "keys of 'metadata' have at most %d bytes, values %d", BATCH_METADATA_KEY_MAX, BATCH_METADATA_VALUE_MAX);
    return 0;
}

static bool id_valid(const char *id) {
    size_t len = strlen(id);
    if (len <= 6 || len > BATCH_ID_MAX || memcmp(id, "batch_", 6) != 0) return false;
    for (const char *c = id + 6; *c; c++)
        if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') || *c == '-' || *c == '_')) return false;
    return true;
}

static void make_id(char id[BATCH_ID_MAX + 1]) {
    char uuid[ID_TEXT_MAX];
    size_t n = 6;
    memcpy(id, "batch_", 6);
    for (const char *c = id_make(uuid); *c; c++)
        if (*c != '-') id[n++] = *c;
    id[n] = 0;
}

static int check_request(const Genloop__V1__CreateBatchRequest *q, struct error *err) {
    size_t i = 0;
    if (!q->input_file_id[0]) return error_set_param(err, E_INVALID, "input_file_id", "'input_file_id' is required");
    while (i < sizeof ENDPOINTS / sizeof *ENDPOINTS && strcmp(q->endpoint, ENDPOINTS[i]) != 0) i++;
    if (i == sizeof ENDPOINTS / sizeof *ENDPOINTS)
        return error_set_param(err, E_INVALID, "endpoint", "'endpoint' must be /v1/chat/completions, /v1/completions, /v1/responses or /v1/embeddings");
    if (q->output_expires_after_s && (q->output_expires_after_s < FILE_EXPIRES_MIN_S || q->output_expires_after_s > FILE_EXPIRES_MAX_S))
        return error_set_param(err, E_INVALID, "output_expires_after", "'output_expires_after.seconds' must lie between %d (an hour) and %d (30 days)", FILE_EXPIRES_MIN_S, FILE_EXPIRES_MAX_S);
    if (q->id[0] && !id_valid(q->id)) return error_set_param(err, E_INVALID, "id", "a batch's id is \"batch_\" and at most %d letters, digits, '-' and '_'", BATCH_ID_MAX - 6);
    return check_metadata(q, err);
}

int batches_create(struct ingest *in, struct span tenant, const struct batch_caller *caller, struct span request, struct buf *out, struct error *err) {
    Genloop__V1__CreateBatchRequest *q = MESSAGE_UNPACK(CreateBatchRequest, create_batch_request, request);
    Genloop__V1__Batch batch = GENLOOP__V1__BATCH__INIT, *there = NULL;
    Genloop__V1__Actor actor = GENLOOP__V1__ACTOR__INIT;
    Genloop__V1__File *file = NULL;
    char id[BATCH_ID_MAX + 1];
    char *owner = span_dup(tenant);
    if (!q) {
        mem_free(owner);
        return no_message("CreateBatchRequest", err);
    }
    int r = owner ? check_request(q, err) : error_set(err, E_NOMEM, "no memory for a batch");
    if (r == 0) r = view_wait(in->view, VIEW_WAIT_MS, err);
    if (r == 0) r = files_find(in, tenant, q->input_file_id, "input_file_id", &file, err);
    if (r == E_NOT_FOUND) err->code = r = E_INVALID; /* the file is not there, the door is */
    if (r == 0 && strcmp(file->purpose, "batch") != 0) r = error_set_param(err, E_INVALID, "input_file_id", "file %s is of purpose %s: a batch needs one of purpose batch", file->id, file->purpose);
    if (r == 0 && q->id[0]) {
        r = find(in, tenant, q->id, "id", &there, err);
        if (r == E_NOT_FOUND) r = 0;
        else if (r == 0 && (strcmp(there->input_file_id, q->input_file_id) != 0 || strcmp(there->endpoint, q->endpoint) != 0))
            r = error_set_param(err, E_EXISTS, "id", "batch %s is there already, and it is another", q->id);
    }
    if (r == 0 && !there) {
        if (q->id[0]) (void)snprintf(id, sizeof id, "%s", q->id);
        else make_id(id);
        actor.id = (char *)(uintptr_t)caller->id;
        actor.scope = (char *)(uintptr_t)caller->scope;
        batch.id = id;
        batch.tenant = owner;
        batch.created_time_ms = clock_wall_ms();
        batch.expires_time_ms = batch.created_time_ms + BATCH_WINDOW_MS;
        batch.endpoint = q->endpoint;
        batch.input_file_id = q->input_file_id;
        batch.input = file->content;
        batch.actor = &actor;
        batch.n_metadata = q->n_metadata;
        batch.metadata = (Genloop__V1__Batch__MetadataEntry **)q->metadata; /* entries of a map are laid out alike */
        batch.output_expires_after_s = q->output_expires_after_s;
        r = move(in, &batch, STATE(VALIDATING), err);
        if (r == 0) wake(in);
    }
    if (r == 0) r = pack_message(there ? &there->base : &batch.base, out);
    if (there) message_free(&there->base);
    if (file) message_free(&file->base);
    message_free(&q->base);
    mem_free(owner);
    return r;
}

static int find_asked(struct ingest *in, struct span tenant, struct span request, Genloop__V1__Batch **batch, struct error *err) {
    Genloop__V1__GetBatchRequest *q = MESSAGE_UNPACK(GetBatchRequest, get_batch_request, request);
    if (!q) return no_message("GetBatchRequest", err);
    int r = view_wait(in->view, VIEW_WAIT_MS, err);
    if (r == 0) r = find(in, tenant, q->id, "id", batch, err);
    message_free(&q->base);
    return r;
}

int batches_get(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err) {
    Genloop__V1__Batch *batch = NULL;
    int r = find_asked(in, tenant, request, &batch, err);
    if (r == 0) r = pack_message(&batch->base, out);
    if (batch) message_free(&batch->base);
    return r;
}

int batches_cancel(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err) {
    Genloop__V1__Batch *batch = NULL;
    int r = find_asked(in, tenant, request, &batch, err);
    if (r == 0 && (batch_ended((int)batch->state) || batch->state == STATE(FINALIZING)))
        r = error_set_param(err, E_STATE, "id", "batch %s has come to its end: there is nothing to cancel", batch->id);
    if (r == 0 && batch->state != STATE(CANCELLING)) {
        r = move(in, batch, STATE(CANCELLING), err);
        if (r == 0) wake(in);
    }
    if (r == 0) r = pack_message(&batch->base, out);
    if (batch) message_free(&batch->base);
    return r;
}

struct listing {
    struct span tenant;
    int64_t from_ms;
    const char *after;
    uint32_t limit, n;
    Genloop__V1__Batch *batches[BATCH_LIST_MAX];
    bool more;
};

static int read_list(void *arg, struct view_db *db, struct error *err) {
    struct listing *l = arg;
    struct view_stmt *s = view_sql(db, "SELECT packed, (SELECT count(*) FROM batch_answers a WHERE a.batch_id = b.id), (SELECT sum(failed) FROM batch_answers a WHERE a.batch_id = b.id) FROM batches b"
                                       " WHERE tenant = ?1 AND (created_ms < ?2 OR (created_ms = ?2 AND id < ?3)) ORDER BY created_ms DESC, id DESC");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, l->tenant);
    view_bind_int(s, 2, l->from_ms);
    view_bind_span(s, 3, span_str(l->after));
    while (view_step(s)) {
        if ((l->more = l->n == l->limit)) break;
        Genloop__V1__Batch *b = MESSAGE_UNPACK(Batch, batch, view_blob(s, 0));
        if (!b) continue;
        if (!batch_ended((int)b->state)) {
            b->failed = (uint64_t)view_int(s, 2);
            b->completed = (uint64_t)view_int(s, 1) - b->failed;
        }
        l->batches[l->n++] = b;
    }
    view_done(s);
    return view_failed(db, err);
}

int batches_list(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err) {
    Genloop__V1__ListBatchesRequest *q = MESSAGE_UNPACK(ListBatchesRequest, list_batches_request, request);
    Genloop__V1__ListBatchesReply reply = GENLOOP__V1__LIST_BATCHES_REPLY__INIT;
    Genloop__V1__Batch *after = NULL;
    struct listing l = {.tenant = tenant, .from_ms = INT64_MAX, .after = ""};
    if (!q) return no_message("ListBatchesRequest", err);
    int r = q->limit > BATCH_LIST_MAX ? error_set_param(err, E_INVALID, "limit", "'limit' must lie between 1 and %d", BATCH_LIST_MAX) : 0;
    l.limit = q->limit ? q->limit : BATCH_LIST_MAX;
    if (r == 0) r = view_wait(in->view, VIEW_WAIT_MS, err);
    if (r == 0 && q->after[0]) r = find(in, tenant, q->after, "after", &after, err);
    if (r == E_NOT_FOUND) err->code = r = E_INVALID;
    if (after) {
        l.from_ms = after->created_time_ms;
        l.after = after->id;
    }
    if (r == 0) r = view_read(in->view, &l, read_list, err);
    reply.batches = l.batches;
    reply.n_batches = l.n;
    reply.has_more = l.more;
    if (r == 0) r = pack_message(&reply.base, out);
    for (uint32_t i = 0; i < l.n; i++) message_free(&l.batches[i]->base);
    if (after) message_free(&after->base);
    message_free(&q->base);
    return r;
}

/* ---- what is dealt from: under the lock ---- */

static void active_free(struct active *a) {
    if (!a) return;
    batch_index_fini(&a->index);
    file_map_close(&a->input);
    if (a->batch) message_free(&a->batch->base);
    mem_free(a->dealt_ms);
    mem_free(a);
}

static struct active *active_find(struct batches *b, const char *id) {
    for (size_t i = 0; i < b->n_active; i++)
        if (strcmp(b->active[i]->id, id) == 0) return b->active[i];
    return NULL;
}

static ptrdiff_t place_of(const struct active *a, uint64_t number) {
    size_t low = 0, high = a->index.n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (a->index.lines[mid].number < number) low = mid + 1;
        else high = mid;
    }
    return low < a->index.n && a->index.lines[low].number == number ? (ptrdiff_t)low : -1;
}

static int mark_done(void *arg, struct view_db *db, struct error *err) {
    struct active *a = arg;
    struct view_stmt *s = view_sql(db, "SELECT number FROM batch_answers WHERE batch_id = ?1");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, span_str(a->id));
    while (view_step(s)) {
        ptrdiff_t at = place_of(a, (uint64_t)view_int(s, 0));
        if (at >= 0) a->dealt_ms[at] = DONE;
    }
    view_done(s);
    return view_failed(db, err);
}

/* Takes batch over. */
static int activate(struct batches *b, Genloop__V1__Batch *batch, struct error *err) {
    struct active *a = mem_zalloc(sizeof *a);
    int r = a ? 0 : error_set(err, E_NOMEM, "no memory for a batch");
    if (!a) {
        message_free(&batch->base);
        return r;
    }
    a->batch = batch;
    span_copy(a->id, sizeof a->id, span_str(batch->id));
    if (!batch->input) r = error_set(err, E_DATA_LOSS, "batch %s has no input", batch->id);
    else r = store_map(b->in->store, batch->input->sha256, &a->input, err);
    if (r == 0 && (r = batch_index_lines(&a->index, span_of(a->input.data, a->input.len))) < 0) (void)error_set(err, r, "batch %s cannot be read", batch->id);
    if (r == 0 && !(a->dealt_ms = mem_calloc(a->index.n ? a->index.n : 1, sizeof *a->dealt_ms))) r = error_set(err, E_NOMEM, "no memory for a batch");
    if (r == 0) r = view_read(b->in->view, a, mark_done, err);
    if (r == 0) b->active[b->n_active++] = a;
    else active_free(a);
    return r;
}

struct running {
    struct batches *b;
    Genloop__V1__Batch *found[BATCH_ACTIVE_MAX];
    size_t n;
};

static int read_running(void *arg, struct view_db *db, struct error *err) {
    struct running *w = arg;
    struct view_stmt *s = view_sql(db, "SELECT packed FROM batches WHERE state = 2 ORDER BY created_ms LIMIT 16");
    if (!s) return view_failed(db, err);
    while (w->n < BATCH_ACTIVE_MAX && view_step(s)) {
        Genloop__V1__Batch *one = MESSAGE_UNPACK(Batch, batch, view_blob(s, 0));
        if (one) w->found[w->n++] = one;
    }
    view_done(s);
    return view_failed(db, err);
}
_Static_assert(GENLOOP__V1__BATCH_STATE__BATCH_STATE_IN_PROGRESS == 2 && BATCH_ACTIVE_MAX == 16, "as the query above has them");

/* The batches in progress as the view has them now, the oldest first. */
static int refresh(struct batches *b, struct error *err) {
    struct running w = {.b = b};
    struct active *kept[BATCH_ACTIVE_MAX];
    size_t n_kept = 0;
    int r = view_read(b->in->view, &w, read_running, err);
    for (size_t i = 0; r == 0 && i < b->n_active; i++) {
        bool stays = false;
        for (size_t k = 0; k < w.n && !stays; k++) stays = strcmp(w.found[k]->id, b->active[i]->id) == 0;
        if (stays) kept[n_kept++] = b->active[i];
        else active_free(b->active[i]);
    }
    if (r == 0) {
        memcpy(b->active, kept, n_kept * sizeof *kept);
        b->n_active = n_kept;
    }
    for (size_t k = 0; k < w.n; k++) {
        struct error one = {0};
        if (r < 0 || active_find(b, w.found[k]->id) || b->n_active == BATCH_ACTIVE_MAX) message_free(&w.found[k]->base);
        else if (activate(b, w.found[k], &one) < 0) log_warn("ingest.batch", "%s", one.message);
    }
    return r;
}

/* ---- asked for by gateways ---- */

static struct span line_of(const struct active *a, size_t i) { return span_sub(span_of(a->input.data, a->input.len), (size_t)a->index.lines[i].start, a->index.lines[i].len); }

/* Appends a line as field 1 of the reply. */
static int deal(struct active *a, size_t i, int64_t now_ms, struct buf *body, struct buf *out, struct error *err) {
    Genloop__V1__BatchLine line = GENLOOP__V1__BATCH_LINE__INIT;
    Genloop__V1__TakeBatchLinesReply one = GENLOOP__V1__TAKE_BATCH_LINES_REPLY__INIT;
    Genloop__V1__BatchLine *lines = &line;
    buf_clear(body);
    int r = batch_line_body(line_of(a, i), body, err);
    if (r < 0) return r;
    line.batch_id = a->id;
    line.number = a->index.lines[i].number;
    line.endpoint = a->batch->endpoint;
    line.tenant = a->batch->tenant;
    line.actor = a->batch->actor;
    line.body = (ProtobufCBinaryData){body->len, (uint8_t *)body->data};
    one.lines = &lines;
    one.n_lines = 1;
    if ((r = pack_message(&one.base, out)) < 0) return error_set(err, r, "the lines do not fit");
    a->dealt_ms[i] = now_ms;
    return 0;
}

int batches_take(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err) {
    Genloop__V1__TakeBatchLinesRequest *q = MESSAGE_UNPACK(TakeBatchLinesRequest, take_batch_lines_request, request);
    struct batches *b = in->batches;
    struct buf body;
    int64_t now_ms = clock_mono_ms();
    (void)tenant;
    if (!q) return no_message("TakeBatchLinesRequest", err);
    uint32_t limit = q->limit && q->limit < BATCH_TAKE_MAX ? q->limit : BATCH_TAKE_MAX, n = 0;
    message_free(&q->base);
    buf_init(&body, BATCH_TAKE_BYTES * 2);
    pthread_mutex_lock(&b->lock);
    int r = refresh(b, err);
    for (size_t k = 0; r == 0 && k < b->n_active && n < limit; k++) {
        struct active *a = b->active[k];
        while (a->from < a->index.n && a->dealt_ms[a->from] == DONE) a->from++;
        for (size_t i = a->from; r == 0 && i < a->index.n && n < limit && out->len + a->index.lines[i].len < BATCH_TAKE_BYTES; i++) {
            if (a->dealt_ms[i] == DONE || (a->dealt_ms[i] && now_ms - a->dealt_ms[i] < BATCH_DEALT_MS)) continue;
            r = deal(a, i, now_ms, &body, out, err);
            n++;
        }
    }
    pthread_mutex_unlock(&b->lock);
    buf_fini(&body);
    return r;
}

/* The answers of one batch: an object, an event. */
static int record(struct batches *b, struct active *a, Genloop__V1__BatchLineAnswer *const *answers, size_t n, struct error *err) {
    Genloop__V1__Batch batch = GENLOOP__V1__BATCH__INIT;
    Genloop__V1__BatchAnswers facts = GENLOOP__V1__BATCH_ANSWERS__INIT;
    Genloop__V1__ObjectRef ref = GENLOOP__V1__OBJECT_REF__INIT;
    struct object_ref object;
    uint64_t numbers[BATCH_TAKE_MAX], failed[BATCH_TAKE_MAX];
    struct buf lines;
    char what[48], id[96];
    int r = 0;
    facts.numbers = numbers;
    facts.failed = failed;
    buf_init(&lines, (size_t)BATCH_TAKE_BYTES * 3);
    for (size_t i = 0; i < n && r == 0; i++) {
        const Genloop__V1__BatchLineAnswer *one = answers[i];
        ptrdiff_t at = place_of(a, one->number);
        if (strcmp(one->batch_id, a->id) != 0 || at < 0 || a->dealt_ms[at] == DONE || facts.n_numbers == BATCH_TAKE_MAX) continue;
        (void)snprintf(id, sizeof id, "batch_req_%s_%llu", a->id + 6, (unsigned long long)one->number);
        struct batch_answer answer = {.id = id, .request_id = one->request_id, .status = one->status, .body = span_of(one->body.data, one->body.len)};
        struct error bad = {0};
        r = batch_answer_write(line_of(a, (size_t)at), &answer, &lines, &bad);
        if (r == E_INVALID) { /* the gateway's answer is none: somebody else may have one */
            log_warn("ingest.batch", "line %llu of %s: %s", (unsigned long long)one->number, a->id, bad.message);
            a->dealt_ms[at] = 0;
            r = 0;
            continue;
        }
        if (r < 0) *err = bad;
        numbers[facts.n_numbers++] = one->number;
        if (one->status != 200) failed[facts.n_failed++] = one->number;
    }
    if (r == 0 && facts.n_numbers) r = store_put(b->in->store, buf_span(&lines), &object, err);
    if (r == 0 && facts.n_numbers) {
        ref.sha256 = object.sha256;
        ref.size_bytes = object.size;
        ref.media_type = (char *)(uintptr_t)"application/jsonl";
        facts.lines = &ref;
        batch.id = a->id;
        batch.event_time_ms = clock_wall_ms();
        batch.answers = &facts;
        (void)snprintf(what, sizeof what, "answers.%llu.%.16s", (unsigned long long)numbers[0], object.sha256);
        r = publish(b->in, &batch, what, err);
    }
    for (size_t i = 0; r == 0 && i < facts.n_numbers; i++) a->dealt_ms[place_of(a, numbers[i])] = DONE;
    if (r == 0) {
        metric_add(b->answered, (double)(facts.n_numbers - facts.n_failed));
        metric_add(b->failed, (double)facts.n_failed);
    }
    buf_fini(&lines);
    return r;
}

int batches_put(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err) {
    Genloop__V1__PutBatchAnswersRequest *q = MESSAGE_UNPACK(PutBatchAnswersRequest, put_batch_answers_request, request);
    Genloop__V1__PutBatchAnswersReply reply = GENLOOP__V1__PUT_BATCH_ANSWERS_REPLY__INIT;
    struct batches *b = in->batches;
    int64_t now_ms = clock_mono_ms();
    (void)tenant;
    if (!q) return no_message("PutBatchAnswersRequest", err);
    pthread_mutex_lock(&b->lock);
    int r = refresh(b, err);
    for (size_t k = 0; r == 0 && k < b->n_active; k++) r = record(b, b->active[k], q->answers, q->n_answers, err);
    if (r == 0 && q->n_kept && !(reply.gone = mem_calloc(q->n_kept, sizeof *reply.gone))) r = error_set(err, E_NOMEM, "no memory for the reply");
    for (size_t i = 0; r == 0 && i < q->n_kept; i++) {
        struct active *a = active_find(b, q->kept[i]->batch_id);
        ptrdiff_t at = a ? place_of(a, q->kept[i]->number) : -1;
        if (at < 0 || a->dealt_ms[at] == DONE) reply.gone[reply.n_gone++] = q->kept[i];
        else a->dealt_ms[at] = now_ms;
    }
    if (r == 0 && q->n_answers) pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
    if (r == 0) r = pack_message(&reply.base, out);
    mem_free(reply.gone);
    message_free(&q->base);
    return r;
}

/* ---- what goes on by itself: on the thread ---- */

static int validate(struct ingest *in, Genloop__V1__Batch *b, struct error *err) {
    struct batch_index x = {0};
    struct file_map map = {0};
    Genloop__V1__BatchError *errors = NULL, **list = NULL;
    int r = b->input ? store_map(in->store, b->input->sha256, &map, err) : error_set(err, E_DATA_LOSS, "batch %s has no input", b->id);
    if (r == 0 && (r = batch_index_check(&x, span_of(map.data, map.len), b->endpoint)) < 0) (void)error_set(err, r, "no memory to check batch %s", b->id);
    if (r == 0 && x.n_errors) {
        errors = mem_calloc(x.n_errors, sizeof *errors);
        list = mem_calloc(x.n_errors, sizeof *list);
        if (!errors || !list) r = error_set(err, E_NOMEM, "no memory to check batch %s", b->id);
        for (size_t i = 0; r == 0 && i < x.n_errors; i++) {
            genloop__v1__batch_error__init(&errors[i]);
            errors[i].code = (char *)(uintptr_t)x.errors[i].code;
            errors[i].message = x.errors[i].message;
            errors[i].param = x.errors[i].param;
            errors[i].line = x.errors[i].line;
            list[i] = &errors[i];
        }
    }
    if (r == 0) {
        Genloop__V1__Batch next = *b; /* borrows */
        next.total = x.n_errors ? 0 : x.n;
        next.model = x.model;
        next.errors = list;
        next.n_errors = x.n_errors;
        r = move(in, &next, x.n_errors ? STATE(FAILED) : STATE(IN_PROGRESS), err);
    }
    mem_free(errors);
    mem_free(list);
    batch_index_fini(&x);
    file_map_close(&map);
    return r;
}

/* One step of one batch. */
static int go_on(struct ingest *in, Genloop__V1__Batch *b, struct error *err) {
    bool late = clock_wall_ms() >= b->expires_time_ms;
    switch (b->state) {
    case STATE(VALIDATING): return late ? move(in, b, STATE(EXPIRED), err) : validate(in, b, err);
    case STATE(IN_PROGRESS):
        if (b->completed + b->failed >= b->total) return move(in, b, STATE(FINALIZING), err);
        if (!late) return 0;
        b->state = STATE(EXPIRED);
        break;
    case STATE(FINALIZING): b->state = STATE(COMPLETED); break;
    case STATE(CANCELLING): b->state = STATE(CANCELLED); break;
    default: return 0;
    }
    struct batch_files files = {0};
    int r = batch_write_files(in, b, &files, err);
    if (r == 0) {
        Genloop__V1__Batch next = *b; /* borrows */
        next.output_file_id = files.output_id;
        next.error_file_id = files.error_id;
        next.completed = files.completed;
        next.failed = files.failed;
        r = move(in, &next, b->state, err);
    }
    return r;
}

struct open_batches {
    char ids[64][BATCH_ID_MAX + 1];
    size_t n;
};

static int read_open(void *arg, struct view_db *db, struct error *err) {
    struct open_batches *o = arg;
    struct view_stmt *s = view_sql(db, "SELECT id FROM batches WHERE state IN (1, 2, 3, 7) ORDER BY state, created_ms LIMIT 64");
    if (!s) return view_failed(db, err);
    while (o->n < 64 && view_step(s)) span_copy(o->ids[o->n++], sizeof o->ids[0], view_text(s, 0));
    view_done(s);
    return view_failed(db, err);
}
_Static_assert(GENLOOP__V1__BATCH_STATE__BATCH_STATE_VALIDATING == 1 && GENLOOP__V1__BATCH_STATE__BATCH_STATE_FINALIZING == 3 && GENLOOP__V1__BATCH_STATE__BATCH_STATE_CANCELLING == 7,
               "as the query above has them");

/* True: something failed that may go well in a moment. */
static bool walk(struct ingest *in) {
    struct open_batches o = {0};
    struct error err = {0};
    bool failed = view_read(in->view, &o, read_open, &err) < 0;
    for (size_t i = 0; i < o.n; i++) {
        Genloop__V1__Batch *b = NULL;
        int r = find(in, (struct span){0}, o.ids[i], "id", &b, &err);
        if (r == 0) r = go_on(in, b, &err);
        if (b) message_free(&b->base);
        if (r == 0) continue;
        failed = true;
        log_warn("ingest.batch", "batch %s: %s; again in %d ms", o.ids[i], err.message, RETRY_MS);
    }
    return failed;
}

static void *run(void *arg) {
    struct batches *b = arg;
    int64_t wait_ms = 0;
    pthread_mutex_lock(&b->lock);
    while (!b->stop) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        int64_t ns = until.tv_nsec + wait_ms * 1000000;
        until.tv_sec += ns / 1000000000;
        until.tv_nsec = ns % 1000000000;
        if (wait_ms) pthread_cond_timedwait(&b->wake, &b->lock, &until);
        if (b->stop) break;
        pthread_mutex_unlock(&b->lock);
        wait_ms = view_caught_up(b->in->view) && walk(b->in) ? RETRY_MS : TICK_MS;
        pthread_mutex_lock(&b->lock);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

int batches_open(struct ingest *in, struct error *err) {
    struct batches *b = mem_zalloc(sizeof *b);
    if (!b) return error_set(err, E_NOMEM, "no memory for batches");
    b->in = in;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->wake, NULL);
    b->answered = metric_counter("genloop_ingest_batch_lines_total", "result=\"completed\"", "Lines of batches that were answered, by how.");
    b->failed = metric_counter("genloop_ingest_batch_lines_total", "result=\"failed\"", "Lines of batches that were answered, by how.");
    in->batches = b;
    int e = pthread_create(&b->thread, NULL, run, b);
    b->running = e == 0;
    return e ? error_errno(err, e, "the thread of batches") : 0;
}

void batches_stop(struct ingest *in) {
    struct batches *b = in->batches;
    if (!b) return;
    pthread_mutex_lock(&b->lock);
    b->stop = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
    if (b->running) pthread_join(b->thread, NULL);
    b->running = false;
}

void batches_close(struct ingest *in) {
    struct batches *b = in->batches;
    if (!b) return;
    for (size_t i = 0; i < b->n_active; i++) active_free(b->active[i]);
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->wake);
    mem_free(b);
    in->batches = NULL;
}
