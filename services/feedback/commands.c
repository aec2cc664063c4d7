/*
 * The services Feedback, Models, Keys, Subjects and Audit on the bus. A call is read and answered on the loop's thread; what blocks runs on a worker in between. A
 * transition goes to the holder's thread and back.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/random.h"
#include "feedback.h"

enum { PAGE_DEFAULT = 100, PAGE_MAX = 1000, STREAM_CREDIT = 16, CALL_ARENA = 32 * 1024 * 1024, TRANSITION_ID_MAX = 100, PAGE_BYTES_MAX = 8 * 1024 * 1024, RECORD_PIECE_MAX = 2 * 1024 * 1024, CARD_BYTES_MAX = 1024 * 1024, ERASE_SUBJECT_MAX = 512 /* the longest `user` that the gateway takes */ };

struct call;
struct method {
    const char *name;
    const ProtobufCMessageDescriptor *request; /* unpacked before the call begins; NULL: a stream of its own */
    void (*work)(struct call *c);              /* on a worker: fills in r, err and out; the call ends after it. NULL: see start */
    void (*start)(struct call *c);             /* on the loop: ends the call itself */
};

struct call {
    struct feedback_service *service;
    struct bus_reply *reply;
    const struct method *method;
    struct arena arena;
    ProtobufCMessage *request; /* owned */
    struct span raw, tenant, actor_id, actor_scope, actor_claim; /* in the arena */
    struct buf out;
    int r;
    struct error err;
    struct holder_request holder;
    char key[API_KEY_TEXT_MAX]; /* of a key that is made */
    /* of a client stream: */
    size_t pending;
    bool ended;
    uint64_t accepted, existed;
    /* of a watch: */
    struct call *next;
    uint64_t position;
    char name[MODEL_NAME_MAX];
    char (*names)[MODEL_FULL_NAME_MAX]; /* to be told, from `told` on */
    size_t n_names, told, names_capacity;
};

struct commands {
    struct feedback_service *service;
    struct call *watches;
};

static void end_call(struct call *c) {
    if (c->r == 0 && c->out.failed) c->r = error_set(&c->err, c->out.failed, "the answer is too large");
    bus_reply_end(c->reply, c->r, c->r ? &c->err : NULL, c->r == 0 ? buf_span(&c->out) : SPAN(""));
    work_end(c->service);
    record_free(c->request);
    mem_free(c->names);
    buf_fini(&c->out);
    arena_fini(&c->arena);
    explicit_bzero(c->key, sizeof c->key);
    mem_free(c);
}

static void answer(struct call *c, const ProtobufCMessage *message) {
    c->r = record_pack(message, &c->out);
    if (c->r != 0) error_set(&c->err, c->r, "the answer is too large");
}

static void posted_end(void *arg) { end_call(arg); }

static struct span text_of(const char *s) { return span_str(s); }

/* ---- pages ---- */

static int64_t page_limit(const Genloop__V1__PageRequest *page) { return page->limit == 0 ? PAGE_DEFAULT : page->limit > PAGE_MAX ? PAGE_MAX : page->limit; }

static int page_number(struct call *c, const Genloop__V1__PageRequest *page, int64_t *number) {
    *number = 0;
    if (page->page_token[0] && (span_to_i64(span_str(page->page_token), number) != 0 || *number < 0))
        return c->r = error_set_param(&c->err, E_INVALID, "page_token", "this is no page token of this list");
    return 0;
}

/* Messages of a list: copies in the call's arena would be large; they are kept unpacked and freed at the end. */
struct listing {
    struct call *call;
    ProtobufCMessage **messages;
    size_t n, capacity, bytes;
    int64_t last;
};

static int add_to_list(void *arg, int64_t position, const ProtobufCMessage *message) {
    struct listing *l = arg;
    struct buf packed;
    buf_init(&packed, EVENT_VALUE_MAX);
    int r = record_pack(message, &packed);
    if (r == 0) r = array_reserve(&l->messages, &l->capacity, l->n + 1, sizeof *l->messages);
    ProtobufCMessage *copy = r == 0 ? record_unpack(message->descriptor, buf_span(&packed)) : NULL;
    if (copy) {
        l->messages[l->n++] = copy;
        l->bytes += packed.len;
        l->last = position;
    }
    buf_fini(&packed);
    if (!copy) return r ? r : E_NOMEM;
    return l->bytes > PAGE_BYTES_MAX ? E_AGAIN : 0; /* a page is full by its size too */
}

static void listing_free(struct listing *l) {
    for (size_t i = 0; i < l->n; i++) record_free(l->messages[i]);
    mem_free(l->messages);
}

/* Asking for work costs the machine, and what was measured is the operator's: not with a client's key. */
static int need_operator(struct call *c) {
    if (scope_rank(c->actor_scope) < 2) return c->r = error_set(&c->err, E_DENIED, "this needs the scope operator; this key has %.*s", SPAN_ARG(c->actor_scope.len ? c->actor_scope : SPAN("none")));
    return 0;
}

/* ---- Feedback ---- */

static struct submit_context submit_context_of(const struct call *c) { return (struct submit_context){c->tenant, c->actor_id, c->actor_scope, c->actor_claim}; }

static void work_submit(struct call *c) {
    struct submit_context context = submit_context_of(c);
    char id[FEEDBACK_ID_MAX + 1];
    bool existed;
    c->r = submit_feedback(c->service, &context, c->raw, id, &existed, &c->err);
    if (c->r != 0) return;
    Genloop__V1__SubmitFeedbackReply reply = GENLOOP__V1__SUBMIT_FEEDBACK_REPLY__INIT;
    reply.id = id;
    reply.existed = existed;
    answer(c, &reply.base);
}

/* One item of a stream on its way. */
struct stream_item {
    struct call *call;
    struct buf request;
    int r;
    struct error err;
    bool existed;
};

static void end_stream(struct call *c) {
    if (!c->ended || c->pending) return;
    Genloop__V1__SubmitFeedbackSummary summary = GENLOOP__V1__SUBMIT_FEEDBACK_SUMMARY__INIT;
    summary.accepted = c->accepted;
    summary.existed = c->existed;
    if (c->r == 0) answer(c, &summary.base);
    end_call(c);
}

static void work_item(void *arg) {
    struct stream_item *i = arg;
    struct submit_context context = submit_context_of(i->call);
    char id[FEEDBACK_ID_MAX + 1];
    i->r = submit_feedback(i->call->service, &context, buf_span(&i->request), id, &i->existed, &i->err);
}

static void item_done(void *arg) {
    struct stream_item *i = arg;
    struct call *c = i->call;
    if (i->r != 0 && c->r == 0) {
        c->r = i->r;
        c->err = i->err;
        c->ended = true; /* the first that is refused ends the stream: what came before it was taken */
    } else if (i->r == 0) {
        c->accepted += !i->existed;
        c->existed += i->existed;
    }
    c->pending--;
    if (!c->ended) bus_reply_credit(c->reply, 1);
    buf_fini(&i->request);
    mem_free(i);
    end_stream(c);
}

static void start_submit_stream(struct call *c) { bus_reply_credit(c->reply, STREAM_CREDIT); }

static void work_list_feedback(struct call *c) {
    const Genloop__V1__PageRequest *page = (const Genloop__V1__PageRequest *)c->request;
    struct listing l = {.call = c};
    int64_t before, limit = page_limit(page);
    char token[32] = "";
    if (page_number(c, page, &before) != 0) return;
    c->r = facts_each_feedback(&c->service->facts, before, limit, &l, add_to_list, &c->err);
    bool more = c->r == E_AGAIN || (c->r == 0 && (int64_t)l.n == limit);
    if (c->r == E_AGAIN) c->r = 0;
    if (c->r == 0) {
        Genloop__V1__ListFeedbackReply reply = GENLOOP__V1__LIST_FEEDBACK_REPLY__INIT;
        reply.n_events = l.n;
        reply.events = (Genloop__V1__FeedbackEvent **)(void *)l.messages;
        if (more && l.last > 1) snprintf(token, sizeof token, "%lld", (long long)l.last);
        reply.next_page_token = token;
        answer(c, &reply.base);
    }
    listing_free(&l);
}

/* ---- Models ---- */

struct models_page {
    struct call *call;
    struct span after;
    int64_t limit;
};

static void read_models(void *arg, const struct ledger *ledger) {
    struct models_page *p = arg;
    struct call *c = p->call;
    struct registry_state state;
    Genloop__V1__ListModelsReply reply = GENLOOP__V1__LIST_MODELS_REPLY__INIT;
    char token[MODEL_FULL_NAME_MAX] = "";
    size_t from = 0;
    ledger_state(ledger, &state);
    size_t n = fold_versions(state.fold);
    if (p->after.len) {
        struct span name;
        uint32_t version;
        if (model_name_parse(p->after, &name, &version) != 0 || !version) {
            c->r = error_set_param(&c->err, E_INVALID, "page_token", "this is no page token of this list");
            return;
        }
        while (from < n) {
            const Genloop__V1__ModelVersion *v = fold_version_at(state.fold, from);
            size_t len = strlen(v->name), shorter = len < name.len ? len : name.len;
            int order = memcmp(v->name, name.data, shorter);
            if (order == 0) order = (len > name.len) - (len < name.len);
            if (order > 0 || (order == 0 && v->version > version)) break;
            from++;
        }
    }
    size_t count = n - from < (size_t)p->limit ? n - from : (size_t)p->limit;
    reply.versions = arena_calloc(&c->arena, count + 1, sizeof *reply.versions);
    reply.aliases = arena_calloc(&c->arena, fold_aliases(state.fold) + 1, sizeof *reply.aliases);
    if (!reply.versions || !reply.aliases) {
        c->r = error_set(&c->err, E_NOMEM, "no memory for the list");
        return;
    }
    for (size_t i = 0; i < count; i++) reply.versions[reply.n_versions++] = (Genloop__V1__ModelVersion *)(uintptr_t)fold_version_at(state.fold, from + i);
    for (size_t i = 0; i < fold_aliases(state.fold) && !p->after.len; i++) {
        const Genloop__V1__Alias *a = fold_alias_at(state.fold, i);
        if (a->name[0]) reply.aliases[reply.n_aliases++] = (Genloop__V1__Alias *)(uintptr_t)a;
    }
    if (from + count < n && count) {
        const Genloop__V1__ModelVersion *last = fold_version_at(state.fold, from + count - 1);
        reply.next_page_token = model_name_format(span_str(last->name), last->version, token);
    }
    answer(c, &reply.base); /* packed under the lock: the records are the ledger's */
}

static void work_list_models(struct call *c) {
    const Genloop__V1__PageRequest *page = (const Genloop__V1__PageRequest *)c->request;
    struct models_page p = {c, span_str(page->page_token), page_limit(page)};
    holder_read(c->service->holder, &p, read_models);
}

struct alias_search {
    struct call *call;
    const Genloop__V1__ModelVersion *version;
    Genloop__V1__ModelDetail *detail;
};

static void find_aliases(void *arg, const struct ledger *ledger) {
    struct alias_search *s = arg;
    struct registry_state state;
    ledger_state(ledger, &state);
    s->detail->aliases = arena_calloc(&s->call->arena, fold_aliases(state.fold) + 1, sizeof *s->detail->aliases);
    for (size_t i = 0; s->detail->aliases && i < fold_aliases(state.fold); i++) {
        const Genloop__V1__Alias *a = fold_alias_at(state.fold, i);
        if (strcmp(a->name, s->version->name) != 0 || a->version != s->version->version) continue;
        char *copy = arena_strdup(&s->call->arena, a->alias);
        if (copy) s->detail->aliases[s->detail->n_aliases++] = copy;
    }
    s->detail->moves = arena_calloc(&s->call->arena, MOVE_COUNT, sizeof *s->detail->moves);
    for (enum registry_move move = 0; s->detail->moves && move < MOVE_COUNT; move++)
        if (registry_may(&state, s->version, move, s->call->actor_scope)) s->detail->moves[s->detail->n_moves++] = (char *)(uintptr_t)move_name(move);
}

/* The card is an extra: a version whose directory cannot be read is shown all the same. */
static void read_card(struct feedback_service *s, const Genloop__V1__ModelVersion *v, struct buf *card) {
    char sha256[SHA256_HEX_MAX];
    if (version_file(s, v, "README.md", sha256, NULL) != 0 || !sha256[0]) return;
    if (store_get(s->facts.store, sha256, card, NULL) != 0 || !span_is_utf8(buf_span(card)) || !buf_cstr(card)) buf_clear(card);
}

static void work_get_model(struct call *c) {
    struct buf card;
    const Genloop__V1__GetModelRequest *q = (const Genloop__V1__GetModelRequest *)c->request;
    Genloop__V1__ModelDetail detail = GENLOOP__V1__MODEL_DETAIL__INIT;
    Genloop__V1__ModelVersion *v = NULL;
    struct listing history = {.call = c}, evaluations = {.call = c};
    char full[MODEL_FULL_NAME_MAX];
    c->r = registry_copy(c->service, text_of(q->model), &v, &c->err);
    if (c->r != 0) return;
    struct alias_search search = {c, v, &detail};
    model_name_format(span_str(v->name), v->version, full);
    holder_read(c->service->holder, &search, find_aliases);
    c->r = facts_each_version(&c->service->facts, span_str(full), &history, add_to_list, &c->err);
    if (c->r == 0) c->r = facts_each_evaluation(&c->service->facts, span_str(full), &evaluations, add_to_list, &c->err);
    if (c->r == E_AGAIN) c->r = 0; /* so long a history is cut */
    buf_init(&card, CARD_BYTES_MAX);
    if (c->r == 0) read_card(c->service, v, &card);
    if (c->r == 0) {
        detail.version = v;
        detail.card = card.len ? (char *)(uintptr_t)buf_cstr(&card) : detail.card;
        detail.history = (Genloop__V1__ModelVersion **)(void *)history.messages;
        detail.n_history = history.n;
        detail.evaluations = (Genloop__V1__Evaluation **)(void *)evaluations.messages;
        detail.n_evaluations = evaluations.n;
        answer(c, &detail.base);
    }
    listing_free(&history);
    listing_free(&evaluations);
    buf_fini(&card);
    record_free(&v->base);
}

/* The newest that is judged, or the one of this id: listed is oldest first. */
static const Genloop__V1__Evaluation *pick_evaluation(const struct listing *all, struct span id) {
    const Genloop__V1__Evaluation *found = NULL;
    for (size_t i = 0; i < all->n; i++) {
        const Genloop__V1__Evaluation *e = (const Genloop__V1__Evaluation *)all->messages[i];
        if (id.len ? span_eq_str(id, e->id) : e->judged && (!found || e->event_time_ms >= found->event_time_ms)) found = e;
    }
    return found;
}

static void work_evaluation_record(struct call *c) {
    const Genloop__V1__EvaluationRecordRequest *q = (const Genloop__V1__EvaluationRecordRequest *)c->request;
    Genloop__V1__EvaluationRecordReply reply = GENLOOP__V1__EVALUATION_RECORD_REPLY__INIT;
    Genloop__V1__ModelVersion *v = NULL;
    struct listing all = {.call = c};
    struct file_map map = {0};
    char full[MODEL_FULL_NAME_MAX];
    if (need_operator(c) != 0) return;
    c->r = registry_copy(c->service, text_of(q->model), &v, &c->err);
    if (c->r != 0) return;
    model_name_format(span_str(v->name), v->version, full);
    record_free(&v->base);
    c->r = facts_each_evaluation(&c->service->facts, span_str(full), &all, add_to_list, &c->err);
    if (c->r == E_AGAIN) c->r = 0; /* the page is full: what is in it can be asked for */
    const Genloop__V1__Evaluation *e = pick_evaluation(&all, text_of(q->id));
    if (c->r == 0 && !e)
        c->r = q->id[0] ? error_set_param(&c->err, E_NOT_FOUND, "id", "%s has no evaluation %.100s", full, q->id)
                        : error_set_param(&c->err, E_NOT_FOUND, "model", "no evaluation of %s is judged yet: ask for one with `genloop evaluate`, or wait for it", full);
    if (c->r == 0 && !e->record) c->r = error_set(&c->err, E_INVALID, "evaluation %s names no record", e->id);
    if (c->r == 0) c->r = store_map(c->service->facts.store, e->record->sha256, &map, &c->err);
    if (c->r == 0 && q->offset > map.len)
        c->r = error_set_param(&c->err, E_RANGE, "offset", "the record has %zu bytes; %llu is beyond them", map.len, (unsigned long long)q->offset);
    if (c->r == 0) {
        struct span piece = span_sub(span_of(map.data, map.len), (size_t)q->offset, RECORD_PIECE_MAX);
        reply.evaluation = (Genloop__V1__Evaluation *)(uintptr_t)e;
        reply.public_key = (ProtobufCBinaryData){RECORD_PUBLIC_SIZE, c->service->key.public_key};
        reply.offset = q->offset;
        reply.data = (ProtobufCBinaryData){piece.len, (uint8_t *)(uintptr_t)piece.data};
        answer(c, &reply.base);
    }
    file_map_close(&map);
    listing_free(&all);
}

static void work_read_file(struct call *c) {
    const Genloop__V1__ReadModelFileRequest *q = (const Genloop__V1__ReadModelFileRequest *)c->request;
    Genloop__V1__ReadModelFileReply reply = GENLOOP__V1__READ_MODEL_FILE_REPLY__INIT;
    Genloop__V1__ObjectRef content = GENLOOP__V1__OBJECT_REF__INIT;
    Genloop__V1__ModelVersion *v = NULL;
    struct file_map map = {0};
    char sha256[SHA256_HEX_MAX] = "";
    if (need_operator(c) != 0) return;
    c->r = registry_copy(c->service, text_of(q->model), &v, &c->err);
    if (c->r != 0) return;
    if (!v->directory || !v->directory->sha256[0]) c->r = error_set_param(&c->err, E_NOT_FOUND, "model", "%s@%u has no files", v->name, v->version);
    else if (q->path[0]) c->r = version_file(c->service, v, q->path, sha256, &c->err);
    else span_copy(sha256, sizeof sha256, span_str(v->directory->sha256));
    if (c->r == 0 && !sha256[0]) c->r = error_set_param(&c->err, E_NOT_FOUND, "path", "%s@%u has no file %.100s", v->name, v->version, q->path);
    if (c->r == 0) c->r = store_map(c->service->facts.store, sha256, &map, &c->err);
    if (c->r == 0 && q->offset > map.len) c->r = error_set_param(&c->err, E_RANGE, "offset", "the file has %zu bytes; %llu is beyond them", map.len, (unsigned long long)q->offset);
    if (c->r == 0) {
        struct span piece = span_sub(span_of(map.data, map.len), (size_t)q->offset, RECORD_PIECE_MAX);
        content.sha256 = sha256;
        content.size_bytes = map.len;
        reply.version = v;
        reply.content = &content;
        reply.offset = q->offset;
        reply.data = (ProtobufCBinaryData){piece.len, (uint8_t *)(uintptr_t)piece.data};
        answer(c, &reply.base);
    }
    file_map_close(&map);
    record_free(&v->base);
}

static void transition_done(struct holder_request *q) {
    struct call *c = q->arg;
    Genloop__V1__ModelVersion *v = NULL;
    c->r = q->result;
    c->err = q->err;
    if (c->r == 0) c->r = registry_copy(c->service, span_str(q->object), &v, &c->err);
    if (c->r == 0) answer(c, &v->base);
    if (v) record_free(&v->base);
    end_call(c);
}

static void start_transition(struct call *c) {
    static const enum registry_move moves[] = {MOVE_COUNT, MOVE_APPROVE, MOVE_REJECT, MOVE_CANARY, MOVE_PROMOTE, MOVE_ROLLBACK, MOVE_RETIRE};
    const Genloop__V1__TransitionRequest *q = (const Genloop__V1__TransitionRequest *)c->request;
    char made[ID_TEXT_MAX], *id = NULL;
    size_t t = (size_t)q->transition;
    if (t == 0 || t >= sizeof moves / sizeof moves[0])
        c->r = error_set_param(&c->err, E_INVALID, "transition", "transition must be approve, reject, canary, promote, rollback or retire");
    else if (strlen(q->id) > TRANSITION_ID_MAX)
        c->r = error_set_param(&c->err, E_TOO_LARGE, "id", "an id has at most %d characters", TRANSITION_ID_MAX);
    else if (strlen(q->by) > 256 || !span_is_utf8(text_of(q->by)))
        c->r = error_set_param(&c->err, E_INVALID, "by", "a name has at most 256 bytes of UTF-8");
    else if (!(id = arena_printf(&c->arena, "command/%s", q->id[0] ? q->id : id_make(made)))) /* ids of people's commands and of the watcher's never meet */
        c->r = error_set(&c->err, E_NOMEM, "no memory for a transition");
    if (c->r == 0) {
        c->holder = (struct holder_request){
            .kind = HOLDER_TRANSITION,
            .command = {.move = moves[t] == MOVE_CANARY && q->end_canary ? MOVE_END_CANARY : moves[t], .id = span_str(id), .model = text_of(q->model), .reason = text_of(q->reason),
                        .actor_id = c->actor_id, .actor_scope = c->actor_scope, .actor_claim = q->by[0] ? text_of(q->by) : c->actor_claim, .canary_percent = q->canary_percent},
            .arg = c,
            .on_done = transition_done,
        };
        c->r = holder_ask(c->service->holder, &c->holder, &c->err);
    }
    if (c->r != 0) end_call(c);
}

static void job_done(void *arg, int r, const struct error *err, struct span job) {
    struct call *c = arg;
    c->r = r;
    if (r != 0 && err) c->err = *err;
    if (r == 0) c->r = buf_append_span(&c->out, job);
    end_call(c);
}

static void plan_evaluation(void *arg) {
    struct call *c = arg;
    const Genloop__V1__EvaluateModelRequest *q = (const Genloop__V1__EvaluateModelRequest *)c->request;
    char made[ID_TEXT_MAX];
    char *reason = arena_printf(&c->arena, "asked for by %.*s", SPAN_ARG(c->actor_id.len ? c->actor_id : SPAN("nobody")));
    c->r = evaluate_plan(c->service, text_of(q->model), text_of(q->trait), q->id[0] ? text_of(q->id) : span_str(id_make(made)), span_str(reason ? reason : ""), &c->out, &c->err);
}

static void evaluation_planned(void *arg) {
    struct call *c = arg;
    if (c->r != 0) {
        end_call(c);
        return;
    }
    struct span request = arena_span(&c->arena, buf_span(&c->out));
    buf_clear(&c->out);
    trainer_create(c->service, request, c, job_done);
}

static void start_evaluate(struct call *c) {
    if (need_operator(c) != 0 || loop_work(service_loop(c->service->service), plan_evaluation, evaluation_planned, c) != 0) {
        if (c->r == 0) c->r = error_set(&c->err, E_FULL, "too much waits for a worker: try again");
        end_call(c);
    }
}

static void start_improve(struct call *c) {
    const Genloop__V1__ImproveRequest *q = (const Genloop__V1__ImproveRequest *)c->request;
    char made[ID_TEXT_MAX];
    struct span name = text_of(q->model);
    uint32_t version = 0;
    if (need_operator(c) != 0) {
        end_call(c);
        return;
    }
    (void)model_name_parse(text_of(q->model), &name, &version);
    char *reason = arena_printf(&c->arena, "asked for by %.*s", SPAN_ARG(c->actor_id.len ? c->actor_id : SPAN("nobody")));
    struct improve_request r = {.model = version ? SPAN("") : name, .objective = q->objective[0] ? text_of(q->objective) : SPAN("dpo"), .recipe = text_of(q->recipe),
                                .id = q->id[0] ? text_of(q->id) : span_str(id_make(made)), .trait = text_of(q->trait), .reason = span_str(reason ? reason : "asked for"),
                                .actor_id = c->actor_id, .actor_scope = c->actor_scope, .actor_claim = c->actor_claim};
    improve_start(c->service, &r, c, job_done);
}

/* ---- Keys ---- */

/* The key's text is in the answer and nowhere else: it is made here, and of it only the hash goes on. */
static void create_key_done(struct holder_request *q) {
    struct call *c = q->arg;
    c->r = q->result;
    c->err = q->err;
    if (c->r == 0) {
        Genloop__V1__CreateKeyReply reply = GENLOOP__V1__CREATE_KEY_REPLY__INIT;
        reply.id = q->object;
        reply.key = c->key;
        reply.tenant = (char *)(uintptr_t)q->key.tenant.data;
        reply.scope = (char *)(uintptr_t)q->key.scope.data;
        answer(c, &reply.base);
    }
    end_call(c);
}

static void start_create_key(struct call *c) {
    const Genloop__V1__CreateKeyRequest *q = (const Genloop__V1__CreateKeyRequest *)c->request;
    char id[API_KEY_ID_MAX];
    api_key_make(c->key, id);
    char *kept = arena_strdup(&c->arena, id);
    c->holder = (struct holder_request){
        .kind = HOLDER_KEY,
        .key = {.id = span_str(kept), .tenant = q->tenant[0] ? text_of(q->tenant) : c->tenant, .scope = text_of(q->scope[0] ? q->scope : "client"), .note = text_of(q->note),
                .actor_id = c->actor_id, .actor_scope = c->actor_scope, .actor_claim = c->actor_claim},
        .arg = c,
        .on_done = create_key_done,
    };
    api_key_hash(c->service->api_key_secret, span_str(c->key), c->holder.key.hash);
    c->r = kept ? holder_ask(c->service->holder, &c->holder, &c->err) : error_set(&c->err, E_NOMEM, "no memory for a key");
    if (c->r != 0) end_call(c);
}

/* What may be shown of a key. */
static void show_key(const Genloop__V1__ApiKey *k, Genloop__V1__ApiKey *shown) {
    *shown = *k;
    shown->hash = shown->signature = (ProtobufCBinaryData){0, NULL};
}

static void read_key(void *arg, const struct ledger *ledger) {
    struct call *c = arg;
    struct registry_state state;
    Genloop__V1__ApiKey shown;
    ledger_state(ledger, &state);
    const Genloop__V1__ApiKey *k = fold_key(state.fold, span_str(c->holder.object));
    ASSERT(k); /* it has just been revoked, and a key stays */
    show_key(k, &shown);
    answer(c, &shown.base);
}

static void revoke_key_done(struct holder_request *q) {
    struct call *c = q->arg;
    c->r = q->result;
    c->err = q->err;
    if (c->r == 0) holder_read(c->service->holder, c, read_key);
    end_call(c);
}

static void start_revoke_key(struct call *c) {
    const Genloop__V1__RevokeKeyRequest *q = (const Genloop__V1__RevokeKeyRequest *)c->request;
    c->holder = (struct holder_request){
        .kind = HOLDER_KEY,
        .key = {.revoke = true, .id = text_of(q->id), .actor_id = c->actor_id, .actor_scope = c->actor_scope, .actor_claim = c->actor_claim},
        .arg = c,
        .on_done = revoke_key_done,
    };
    c->r = holder_ask(c->service->holder, &c->holder, &c->err);
    if (c->r != 0) end_call(c);
}

static void read_keys(void *arg, const struct ledger *ledger) {
    struct models_page *p = arg;
    struct call *c = p->call;
    struct registry_state state;
    Genloop__V1__ListKeysReply reply = GENLOOP__V1__LIST_KEYS_REPLY__INIT;
    ledger_state(ledger, &state);
    size_t n = fold_keys(state.fold), from = 0;
    while (p->after.len && from < n && strncmp(fold_key_at(state.fold, from)->id, p->after.data, p->after.len + 1) <= 0) from++;
    size_t count = n - from < (size_t)p->limit ? n - from : (size_t)p->limit;
    Genloop__V1__ApiKey *shown = arena_calloc(&c->arena, count + 1, sizeof *shown);
    reply.keys = arena_calloc(&c->arena, count + 1, sizeof *reply.keys);
    if (!shown || !reply.keys) {
        c->r = error_set(&c->err, E_NOMEM, "no memory for the list");
        return;
    }
    for (size_t i = 0; i < count; i++) {
        show_key(fold_key_at(state.fold, from + i), &shown[i]);
        reply.keys[reply.n_keys++] = &shown[i];
    }
    if (from + count < n && count) reply.next_page_token = shown[count - 1].id;
    answer(c, &reply.base); /* packed under the lock: the records are the ledger's */
}

static void work_list_keys(struct call *c) {
    const Genloop__V1__PageRequest *page = (const Genloop__V1__PageRequest *)c->request;
    struct models_page p = {c, span_str(page->page_token), page_limit(page)};
    if (need_operator(c) != 0) return;
    if (p.after.len && !api_key_id_valid(p.after)) c->r = error_set_param(&c->err, E_INVALID, "page_token", "this is no page token of this list");
    else holder_read(c->service->holder, &p, read_keys);
}

/* ---- Subjects ---- */

/* Audited first, then done: a command that a crash cut off in between is asked again, finds its record and does the rest. Of whom it is about, log and topic have the keyed hash alone: a name would outlive what
 * it names. */
static int erase_and_tell(struct call *c) {
    struct feedback_service *s = c->service;
    const char *key = c->holder.entry.object;
    Genloop__V1__Erasure done = GENLOOP__V1__ERASURE__INIT;
    Genloop__V1__Actor actor = GENLOOP__V1__ACTOR__INIT;
    struct buf packed;
    char *id = arena_printf(&c->arena, "erase-%s", key);
    if (!id) return error_set(&c->err, E_NOMEM, "no memory for an erasure");
    actor.id = (char *)(uintptr_t)c->actor_id.data; /* in the arena, and so ended by a NUL */
    actor.scope = (char *)(uintptr_t)c->actor_scope.data;
    actor.claim = (char *)(uintptr_t)c->actor_claim.data;
    done.id = id;
    done.tenant = (char *)(uintptr_t)c->holder.key.tenant.data;
    done.subject = (char *)(uintptr_t)key;
    done.event_time_ms = clock_wall_ms();
    done.actor = &actor;
    done.state = (char *)(uintptr_t)"done";
    done.existed = keyring_has(s->facts.keyring, key);
    int r = keyring_erase(s->facts.keyring, key, &c->err);
    if (r != 0) return r;
    buf_init(&packed, EVENT_VALUE_MAX);
    r = record_pack(&done.base, &packed);
    struct event event = {.topic = TOPIC_ERASURES, .key = span_str(key), .value = buf_span(&packed), .id = span_str(id), .time_ms = done.event_time_ms};
    if (r == 0) r = eventlog_publish(service_log(s->service), &event, &c->err);
    else (void)error_set(&c->err, r, "an erasure is too large");
    buf_fini(&packed);
    if (r == 0) answer(c, &done.base);
    return r ? r : c->r;
}

static void erase_work(void *arg) {
    struct call *c = arg;
    c->r = erase_and_tell(c);
}

static void erase_noted(struct holder_request *q) {
    struct call *c = q->arg;
    c->r = q->result;
    c->err = q->err;
    if (c->r == 0 && loop_work(service_loop(c->service->service), erase_work, posted_end, c) == 0) return;
    if (c->r == 0) c->r = error_set(&c->err, E_FULL, "too much waits for a worker: try again");
    end_call(c);
}

static void start_erase(struct call *c) {
    const Genloop__V1__EraseSubjectRequest *q = (const Genloop__V1__EraseSubjectRequest *)c->request;
    struct span subject = span_str(q->subject), tenant = q->tenant[0] ? span_str(q->tenant) : c->tenant;
    char *key = arena_alloc(&c->arena, SEAL_KEY_ID_MAX);
    if (need_operator(c) != 0) goto refuse;
    if (!subject.len) c->r = error_set_param(&c->err, E_INVALID, "subject", "subject is missing: whose key is to be erased?");
    else if (subject.len > ERASE_SUBJECT_MAX) c->r = error_set_param(&c->err, E_INVALID, "subject", "a subject has at most %d bytes", ERASE_SUBJECT_MAX);
    else if (!model_name_valid(tenant)) c->r = error_set_param(&c->err, E_INVALID, "tenant", "this is no tenant's name");
    if (c->r != 0) goto refuse;
    if (key) keyring_subject_id(c->service->facts.keyring, tenant, subject, key);
    char *command = key ? arena_printf(&c->arena, "erase/%s", key) : NULL;
    if (!command) {
        c->r = error_set(&c->err, E_NOMEM, "no memory for an erasure");
        goto refuse;
    }
    c->holder = (struct holder_request){
        .kind = HOLDER_NOTE,
        .key = {.tenant = tenant},
        .entry = {.command = span_str(command), .actor_id = c->actor_id, .actor_scope = c->actor_scope, .actor_claim = c->actor_claim, .action = "subject.erase", .object = key, .from_state = "", .to_state = "erased",
                  .reason = text_of(q->reason)},
        .arg = c,
        .on_done = erase_noted,
    };
    c->r = holder_ask(c->service->holder, &c->holder, &c->err);
    if (c->r == 0) return;
refuse:
    end_call(c);
}

/* ---- Models/Watch ---- */

static int want_name(struct call *c, const char *full) {
    struct span rest = span_str(full), name;
    if (c->name[0] && (!span_cut(&rest, '@', &name) || !span_eq_str(name, c->name))) return 0;
    if (c->told == c->n_names) c->told = c->n_names = 0;
    int r = array_reserve(&c->names, &c->names_capacity, c->n_names + 1, sizeof *c->names);
    if (r == 0) span_copy(c->names[c->n_names++], MODEL_FULL_NAME_MAX, span_str(full));
    return r;
}

static void want_all(void *arg, const struct ledger *ledger) {
    struct call *c = arg;
    struct registry_state state;
    char full[MODEL_FULL_NAME_MAX];
    ledger_state(ledger, &state);
    for (size_t i = 0; i < fold_versions(state.fold) && c->r == 0; i++) {
        const Genloop__V1__ModelVersion *v = fold_version_at(state.fold, i);
        c->r = want_name(c, model_name_format(span_str(v->name), v->version, full));
    }
}

/* Tells what there is credit for; what changed twice since is told once, as it is now. */
static void pump_watch(struct call *c) {
    bool lost;
    char names[64][MODEL_FULL_NAME_MAX];
    size_t n;
    do {
        n = holder_changes(c->service->holder, &c->position, names, 64, &lost);
        if (lost) holder_read(c->service->holder, c, want_all);
        for (size_t i = 0; i < n && c->r == 0; i++) c->r = want_name(c, names[i]);
    } while (n > 0 && c->r == 0);
    while (c->r == 0 && c->told < c->n_names && bus_reply_credit_left(c->reply) > 0) {
        Genloop__V1__ModelVersion *v = NULL;
        struct buf packed;
        buf_init(&packed, EVENT_VALUE_MAX);
        c->r = registry_copy(c->service, span_str(c->names[c->told]), &v, &c->err);
        if (c->r == 0) c->r = record_pack(&v->base, &packed);
        if (c->r == 0) c->r = bus_reply_item(c->reply, buf_span(&packed));
        if (c->r == E_FULL) {
            c->r = 0;
            if (v) record_free(&v->base);
            buf_fini(&packed);
            return;
        }
        c->told++;
        if (v) record_free(&v->base);
        buf_fini(&packed);
    }
}

static void remove_watch(struct call *c) {
    for (struct call **p = &c->service->commands->watches; *p; p = &(*p)->next)
        if (*p == c) {
            *p = c->next;
            return;
        }
}

static void end_watch(struct call *c, int r, const char *why) {
    remove_watch(c);
    if (c->r == 0) c->r = error_set(&c->err, r, "%s", why);
    work_begin(c->service); /* given back by end_call */
    end_call(c);
}

static void start_watch(struct call *c) {
    const Genloop__V1__WatchModelsRequest *q = (const Genloop__V1__WatchModelsRequest *)c->request;
    bool lost;
    if (q->name[0] && !model_name_valid(text_of(q->name))) {
        c->r = error_set_param(&c->err, E_INVALID, "name", "this is no model name");
        end_call(c);
        return;
    }
    span_copy(c->name, sizeof c->name, text_of(q->name));
    /* What a drain waits for is work; a watch is none. */
    work_end(c->service);
    (void)holder_changes(c->service->holder, &c->position, NULL, 0, &lost);
    holder_read(c->service->holder, c, want_all);
    c->next = c->service->commands->watches;
    c->service->commands->watches = c;
    pump_watch(c);
    if (c->r != 0) end_watch(c, c->r, "this watch cannot begin");
}

void commands_changed(struct commands *commands) {
    if (!commands) return;
    for (struct call *c = commands->watches, *next; c; c = next) {
        next = c->next;
        pump_watch(c);
        if (c->r != 0) end_watch(c, c->r, "this watch cannot go on");
    }
}

/* ---- Audit ---- */

static void read_head(void *arg, const struct ledger *ledger) { ledger_head(ledger, arg); }

static void work_list_audit(struct call *c) {
    const Genloop__V1__PageRequest *page = (const Genloop__V1__PageRequest *)c->request;
    struct listing l = {.call = c};
    int64_t from, limit = page_limit(page);
    char token[32] = "";
    if (page_number(c, page, &from) != 0) return;
    c->r = facts_each_audit(&c->service->facts, from, limit, &l, add_to_list, &c->err);
    bool more = c->r == E_AGAIN || (c->r == 0 && (int64_t)l.n == limit);
    if (c->r == E_AGAIN) c->r = 0;
    if (c->r == 0) {
        Genloop__V1__ListAuditReply reply = GENLOOP__V1__LIST_AUDIT_REPLY__INIT;
        struct ledger_head head = {0};
        holder_read(c->service->holder, &head, read_head);
        reply.records = (Genloop__V1__AuditRecord **)(void *)l.messages;
        reply.n_records = l.n;
        reply.tree_size = head.size;
        if (more && l.n) snprintf(token, sizeof token, "%lld", (long long)l.last + 1);
        reply.next_page_token = token;
        answer(c, &reply.base);
    }
    listing_free(&l);
}

static void fill_head(struct call *c, struct ledger_head *head, Genloop__V1__AuditHead *out) {
    genloop__v1__audit_head__init(out);
    out->tree_size = head->size;
    out->root_hash = (ProtobufCBinaryData){SHA256_SIZE, head->root};
    out->time_ms = head->time_ms;
    if (head->size) out->signature = (ProtobufCBinaryData){RECORD_SIGNATURE_SIZE, head->signature};
    out->public_key = (ProtobufCBinaryData){RECORD_PUBLIC_SIZE, c->service->key.public_key};
}

static void work_head(struct call *c) {
    struct ledger_head head;
    Genloop__V1__AuditHead reply;
    holder_read(c->service->holder, &head, read_head);
    fill_head(c, &head, &reply);
    answer(c, &reply.base);
}

struct proof {
    const Genloop__V1__AuditProofRequest *request;
    struct ledger_head head;
    uint8_t path[MERKLE_PROOF_MAX][SHA256_SIZE];
    size_t n;
    uint64_t size;
    int r;
};

static void read_proof(void *arg, const struct ledger *ledger) {
    struct proof *p = arg;
    const Genloop__V1__AuditProofRequest *q = p->request;
    ledger_head(ledger, &p->head);
    p->size = q->tree_size ? q->tree_size : p->head.size;
    p->r = q->from_size ? merkle_consistency(ledger_tree(ledger), q->from_size, p->size, p->path, &p->n)
                        : merkle_inclusion(ledger_tree(ledger), q->index, p->size, p->path, &p->n);
}

static void work_prove(struct call *c) {
    const Genloop__V1__AuditProofRequest *q = (const Genloop__V1__AuditProofRequest *)c->request;
    struct proof p = {.request = q};
    Genloop__V1__AuditProof reply = GENLOOP__V1__AUDIT_PROOF__INIT;
    Genloop__V1__AuditHead head;
    Genloop__V1__AuditRecord *record = NULL, *at_head = NULL;
    ProtobufCBinaryData path[MERKLE_PROOF_MAX];
    holder_read(c->service->holder, &p, read_proof);
    if (p.r != 0) {
        c->r = error_set(&c->err, p.r, "the audit log has %llu records", (unsigned long long)p.head.size);
        return;
    }
    fill_head(c, &p.head, &head);
    /* The head of the size that was asked for: its last record carries it. */
    if (p.size != p.head.size) {
        c->r = facts_audit(&c->service->facts, p.size - 1, &at_head, &c->err);
        if (c->r != 0) return;
        head.tree_size = p.size;
        head.root_hash = at_head->root_hash;
        head.time_ms = at_head->event_time_ms;
        head.signature = at_head->signature;
    }
    for (size_t i = 0; i < p.n; i++) path[i] = (ProtobufCBinaryData){SHA256_SIZE, p.path[i]};
    reply.head = &head;
    reply.path = path;
    reply.n_path = p.n;
    if (!q->from_size) c->r = facts_audit(&c->service->facts, q->index, &record, &c->err);
    reply.record = record;
    if (c->r == 0) answer(c, &reply.base);
    if (record) record_free(&record->base);
    if (at_head) record_free(&at_head->base);
}

/* ---- the door ---- */

static const struct method METHODS[] = {
    {"Feedback/Submit", &genloop__v1__submit_feedback_request__descriptor, work_submit, NULL},
    {"Feedback/SubmitStream", NULL, NULL, start_submit_stream},
    {"Feedback/List", &genloop__v1__page_request__descriptor, work_list_feedback, NULL},
    {"Models/List", &genloop__v1__page_request__descriptor, work_list_models, NULL},
    {"Models/Get", &genloop__v1__get_model_request__descriptor, work_get_model, NULL},
    {"Models/Transition", &genloop__v1__transition_request__descriptor, NULL, start_transition},
    {"Models/Watch", &genloop__v1__watch_models_request__descriptor, NULL, start_watch},
    {"Models/EvaluationRecord", &genloop__v1__evaluation_record_request__descriptor, work_evaluation_record, NULL},
    {"Models/ReadFile", &genloop__v1__read_model_file_request__descriptor, work_read_file, NULL},
    {"Models/Evaluate", &genloop__v1__evaluate_model_request__descriptor, NULL, start_evaluate},
    {"Models/ImproveNow", &genloop__v1__improve_request__descriptor, NULL, start_improve},
    {"Keys/Create", &genloop__v1__create_key_request__descriptor, NULL, start_create_key},
    {"Keys/List", &genloop__v1__page_request__descriptor, work_list_keys, NULL},
    {"Keys/Revoke", &genloop__v1__revoke_key_request__descriptor, NULL, start_revoke_key},
    {"Subjects/Erase", &genloop__v1__erase_subject_request__descriptor, NULL, start_erase},
    {"Audit/List", &genloop__v1__page_request__descriptor, work_list_audit, NULL},
    {"Audit/Head", &genloop__v1__page_request__descriptor, work_head, NULL},
    {"Audit/Prove", &genloop__v1__audit_proof_request__descriptor, work_prove, NULL},
};

static void run_work(void *arg) {
    struct call *c = arg;
    c->method->work(c);
}

static int begin_call(struct call *c, const struct bus_context *context, struct span request) {
    const struct span from[] = {request, context->tenant, context->actor_id, context->actor_scope, context->actor_claim};
    struct span *const to[] = {&c->raw, &c->tenant, &c->actor_id, &c->actor_scope, &c->actor_claim};
    for (size_t i = 0; i < sizeof from / sizeof from[0]; i++) {
        *to[i] = from[i].len ? arena_span(&c->arena, from[i]) : SPAN("");
        if (!to[i]->data) return c->r = error_set(&c->err, E_NOMEM, "no memory for this call");
    }
    if (!c->method->request) return 0;
    c->request = record_unpack(c->method->request, request);
    return c->request ? 0 : (c->r = error_set(&c->err, E_INVALID, "the request is no %s", c->method->request->name));
}

static void on_call(void *arg, struct bus_reply *reply, struct span method, const struct bus_context *context, struct span request, void **call_arg) {
    struct feedback_service *s = arg;
    struct error err = {0};
    const struct method *m = NULL;
    for (size_t i = 0; i < sizeof METHODS / sizeof METHODS[0] && !m; i++)
        if (span_eq_str(method, METHODS[i].name)) m = &METHODS[i];
    struct call *c = m && s->started ? mem_zalloc(sizeof *c) : NULL;
    if (!c) {
        int r = !m ? error_set(&err, E_UNSUPPORTED, "there is no method %.*s here", (int)(method.len < 80 ? method.len : 80), method.data)
                   : !s->started ? error_set(&err, E_UNAVAILABLE, "feedback is starting") : error_set(&err, E_NOMEM, "no memory for this call");
        bus_reply_end(reply, r, &err, SPAN(""));
        return;
    }
    c->service = s;
    c->reply = reply;
    c->method = m;
    arena_init(&c->arena, CALL_ARENA);
    buf_init(&c->out, BUS_MESSAGE_MAX);
    *call_arg = c;
    work_begin(s);
    if (begin_call(c, context, request) != 0)
        end_call(c);
    else if (m->start)
        m->start(c);
    else if (loop_work(service_loop(s->service), run_work, posted_end, c) != 0) {
        c->r = error_set(&c->err, E_FULL, "too much waits for a worker: try again");
        end_call(c);
    }
}

static void on_item(void *call_arg, struct bus_reply *reply, struct span item) {
    struct call *c = call_arg;
    (void)reply;
    struct stream_item *i = c && c->method->start == start_submit_stream && !c->ended ? mem_zalloc(sizeof *i) : NULL;
    if (!i) return; /* a unary call has no items; a stream that was refused ends soon */
    i->call = c;
    buf_init(&i->request, BUS_MESSAGE_MAX);
    c->pending++;
    i->r = buf_append_span(&i->request, item);
    if (i->r != 0 || loop_work(service_loop(c->service->service), work_item, item_done, i) != 0) {
        if (i->r == 0) i->r = E_FULL;
        error_set(&i->err, i->r, "too much waits for a worker: try again");
        item_done(i);
    }
}

static void on_item_end(void *call_arg, struct bus_reply *reply) {
    struct call *c = call_arg;
    (void)reply;
    if (!c || c->method->start != start_submit_stream) return;
    c->ended = true;
    end_stream(c);
}

static void on_credit(void *call_arg, struct bus_reply *reply) {
    struct call *c = call_arg;
    (void)reply;
    if (!c || c->method->start != start_watch) return;
    pump_watch(c);
    if (c->r != 0) end_watch(c, c->r, "this watch cannot go on");
}

static void on_cancel(void *call_arg, struct bus_reply *reply, int code) {
    struct call *c = call_arg;
    (void)reply;
    if (!c) return;
    if (c->method->start == start_watch)
        end_watch(c, code, "nobody watches any more");
    else if (c->method->start == start_submit_stream && !c->ended) {
        c->ended = true;
        c->r = error_set(&c->err, code, "the stream was given up");
        end_stream(c);
    }
    /* A unary call is on a worker or with the holder: it ends when that comes back. */
}

const struct bus_server_events COMMANDS_EVENTS = {.on_call = on_call, .on_item = on_item, .on_item_end = on_item_end, .on_credit = on_credit, .on_cancel = on_cancel};

int commands_open(struct feedback_service *s, struct commands **commands, struct error *err) {
    struct commands *c = mem_zalloc(sizeof *c);
    if (!c) return error_set(err, E_NOMEM, "no memory for the commands");
    c->service = s;
    *commands = c;
    return 0;
}

void commands_drain(struct commands *c) {
    while (c && c->watches) end_watch(c->watches, E_UNAVAILABLE, "this instance is going away");
}

void commands_close(struct commands *c) {
    commands_drain(c);
    mem_free(c);
}
