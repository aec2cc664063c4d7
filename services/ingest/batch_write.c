#include "services/ingest/batch_write.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "services/ingest/batch_lines.h"

enum {
    OBJECTS_HELD = 8,           /* deliveries overlap little: lines beside each other are in a few of them */
    FILE_SIZE_MAX = INT32_MAX,  /* 50,000 answers of 40 kB */
};

/* The answer to a line: where it is. */
struct place {
    uint64_t number;
    uint32_t object; /* of objects */
    uint32_t line;   /* in it */
    bool failed;
};
struct places {
    const char *batch_id;
    struct place *list;
    size_t n, capacity;
    char (*objects)[SHA256_HEX_MAX];
    size_t n_objects, objects_capacity;
    int failure;
};

static uint32_t object_of(struct places *p, struct span sha256) {
    for (size_t i = p->n_objects; i > 0 && i + OBJECTS_HELD > p->n_objects; i--) /* mostly one of the last; a second entry of one costs nothing but its room */
        if (span_eq_str(sha256, p->objects[i - 1])) return (uint32_t)(i - 1);
    if (array_reserve(&p->objects, &p->objects_capacity, p->n_objects + 1, sizeof *p->objects)) {
        p->failure = E_NOMEM;
        return 0;
    }
    span_copy(p->objects[p->n_objects], sizeof p->objects[0], sha256);
    return (uint32_t)p->n_objects++;
}

static int read_places(void *arg, struct view_db *db, struct error *err) {
    struct places *p = arg;
    struct view_stmt *s = view_sql(db, "SELECT number, object, place, failed FROM batch_answers WHERE batch_id = ?1 ORDER BY number");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, span_str(p->batch_id));
    while (!p->failure && view_step(s)) {
        if (array_reserve(&p->list, &p->capacity, p->n + 1, sizeof *p->list)) p->failure = E_NOMEM;
        else p->list[p->n++] = (struct place){(uint64_t)view_int(s, 0), object_of(p, view_text(s, 1)), (uint32_t)view_int(s, 2), view_int(s, 3) != 0};
    }
    view_done(s);
    return p->failure ? error_set(err, p->failure, "no memory for a batch's answers") : view_failed(db, err);
}

/* An object of answers, mapped, and where its lines are. */
struct held {
    uint32_t object;
    bool used;
    uint64_t turn;
    struct file_map map;
    struct batch_index index;
};

struct writing {
    struct ingest *in;
    struct places places;
    struct held held[OBJECTS_HELD];
    uint64_t turn;
    struct store_writer *out[2]; /* answers, errors */
    struct buf pending[2];
    uint64_t lines[2];
};

static void drop(struct held *h) {
    batch_index_fini(&h->index);
    file_map_close(&h->map);
    *h = (struct held){0};
}

static int hold(struct writing *w, uint32_t object, struct held **out, struct error *err) {
    struct held *oldest = &w->held[0];
    for (int i = 0; i < OBJECTS_HELD; i++) {
        struct held *h = &w->held[i];
        if (h->used && h->object == object) {
            h->turn = ++w->turn;
            *out = h;
            return 0;
        }
        if (h->turn < oldest->turn) oldest = h;
    }
    drop(oldest);
    int r = store_map(w->in->store, w->places.objects[object], &oldest->map, err);
    if (r == 0 && (r = batch_index_lines(&oldest->index, span_of(oldest->map.data, oldest->map.len))) < 0) (void)error_set(err, r, "answers of a batch cannot be read");
    if (r < 0) return r;
    oldest->object = object;
    oldest->used = true;
    oldest->turn = ++w->turn;
    *out = oldest;
    return 0;
}

enum { PENDING = 1 << 20 };

static int flush(struct writing *w, int which, struct error *err) {
    int r = w->pending[which].failed ? error_set(err, w->pending[which].failed, "no memory for a batch's file") : 0;
    if (r == 0 && !w->out[which]) r = store_writer_open(w->in->store, FILE_SIZE_MAX, &w->out[which], err);
    if (r == 0) r = store_write(w->out[which], buf_span(&w->pending[which]), err);
    buf_clear(&w->pending[which]);
    return r;
}

static int put(struct writing *w, int which, struct span text, bool newline, struct error *err) {
    w->lines[which]++;
    (void)buf_append_span(&w->pending[which], text);
    if (newline) (void)buf_append_char(&w->pending[which], '\n');
    return w->pending[which].len >= PENDING ? flush(w, which, err) : 0;
}

static int put_answer(struct writing *w, const struct place *p, struct error *err) {
    struct held *h;
    int r = hold(w, p->object, &h, err);
    if (r == 0 && p->line >= h->index.n) r = error_set(err, E_DATA_LOSS, "an answer of batch %s is not where it was put", w->places.batch_id);
    if (r < 0) return r;
    const struct batch_line *line = &h->index.lines[p->line];
    return put(w, p->failed ? 1 : 0, span_sub(span_of(h->map.data, h->map.len), (size_t)line->start, line->len), true, err);
}

static int put_unanswered(struct writing *w, const Genloop__V1__Batch *b, struct span line, uint64_t number, struct error *err) {
    bool expired = b->state == GENLOOP__V1__BATCH_STATE__BATCH_STATE_EXPIRED;
    struct buf text;
    char id[96];
    (void)snprintf(id, sizeof id, "batch_req_%s_%llu", b->id + 6, (unsigned long long)number);
    struct batch_answer a = {.id = id, .code = expired ? "batch_expired" : "batch_cancelled",
                             .message = expired ? "This request could not be executed before the completion window expired." : "The batch was cancelled before this request was executed."};
    buf_init(&text, 64 * 1024);
    int r = batch_answer_write(line, &a, &text, err);
    if (r == 0) r = put(w, 1, buf_span(&text), false, err);
    buf_fini(&text);
    return r;
}

static int publish_file(struct ingest *in, const Genloop__V1__Batch *b, const char *kind, const struct object_ref *object, uint64_t lines, char id[FILE_ID_MAX + 1], struct error *err) {
    Genloop__V1__File file = GENLOOP__V1__FILE__INIT;
    Genloop__V1__ObjectRef content = GENLOOP__V1__OBJECT_REF__INIT;
    char name[FILE_NAME_MAX], event_id[EVENT_ID_MAX];
    struct buf packed;
    /* the digest keeps two batches apart whose ids differ in nothing but what is cut off */
    char digest[SHA256_HEX_MAX];
    (void)snprintf(name, sizeof name, "%s_%s.jsonl", b->id, kind);
    (void)snprintf(id, FILE_ID_MAX + 1, "file-%.32s", sha256_hex(span_str(name), digest));
    content.sha256 = (char *)(uintptr_t)object->sha256;
    content.size_bytes = object->size;
    content.media_type = (char *)(uintptr_t)"application/jsonl";
    file.id = id;
    file.tenant = b->tenant;
    file.filename = name;
    file.purpose = (char *)(uintptr_t)"batch_output";
    file.content = &content;
    file.created_time_ms = file.event_time_ms = clock_wall_ms();
    if (b->output_expires_after_s) file.expires_time_ms = file.created_time_ms + b->output_expires_after_s * 1000;
    file.lines = lines;
    buf_init(&packed, EVENT_VALUE_MAX);
    int r = pack_message(&file.base, &packed);
    if (r < 0) r = error_set(err, r, "no memory for a file");
    (void)snprintf(event_id, sizeof event_id, "%.64s.created", id);
    struct event e = {.topic = TOPIC_FILES, .key = span_str(id), .value = buf_span(&packed), .id = span_str(event_id)};
    if (r == 0) r = eventlog_publish(in->log, &e, err);
    buf_fini(&packed);
    return r;
}

static int write_lines(struct writing *w, const Genloop__V1__Batch *b, struct error *err) {
    struct batch_index index = {0};
    struct file_map input = {0};
    size_t at = 0;
    bool tells = b->state != GENLOOP__V1__BATCH_STATE__BATCH_STATE_COMPLETED; /* of what was not answered */
    int r = store_map(w->in->store, b->input->sha256, &input, err);
    if (r == 0 && (r = batch_index_lines(&index, span_of(input.data, input.len))) < 0) (void)error_set(err, r, "batch %s cannot be read", b->id);
    for (size_t i = 0; r == 0 && i < index.n; i++) {
        const struct batch_line *line = &index.lines[i];
        while (at < w->places.n && w->places.list[at].number < line->number) at++;
        if (at < w->places.n && w->places.list[at].number == line->number) r = put_answer(w, &w->places.list[at], err);
        else if (tells && b->in_progress_time_ms) r = put_unanswered(w, b, span_sub(span_of(input.data, input.len), (size_t)line->start, line->len), line->number, err);
    }
    batch_index_fini(&index);
    file_map_close(&input);
    return r;
}

int batch_write_files(struct ingest *in, const Genloop__V1__Batch *b, struct batch_files *files, struct error *err) {
    static const char *const kinds[2] = {"output", "error"};
    struct writing w = {.in = in, .places = {.batch_id = b->id}};
    char *ids[2] = {files->output_id, files->error_id};
    for (int i = 0; i < 2; i++) buf_init(&w.pending[i], 64u << 20); /* a line may be as large as an answer */
    int r = b->input ? view_read(in->view, &w.places, read_places, err) : error_set(err, E_DATA_LOSS, "batch %s has no input", b->id);
    if (r == 0) r = write_lines(&w, b, err);
    for (int i = 0; r == 0 && i < 2; i++) {
        struct object_ref object;
        if (!w.lines[i]) continue;
        if ((r = flush(&w, i, err)) < 0) break;
        struct store_writer *out = w.out[i];
        w.out[i] = NULL;
        if ((r = store_writer_commit(out, &object, err)) == 0) r = publish_file(in, b, kinds[i], &object, w.lines[i], ids[i], err);
    }
    for (size_t i = 0; i < w.places.n; i++) {
        files->completed += !w.places.list[i].failed;
        files->failed += w.places.list[i].failed;
    }
    for (int i = 0; i < 2; i++) {
        store_writer_abort(w.out[i]);
        buf_fini(&w.pending[i]);
    }
    for (int i = 0; i < OBJECTS_HELD; i++) drop(&w.held[i]);
    mem_free(w.places.list);
    mem_free(w.places.objects);
    return r;
}
