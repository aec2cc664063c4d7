/*
 * What happens by itself. After every change of the facts or the registry, and every WATCH_MS, the holder's instance looks at what is there and does what
 * is due; everything it does is found again by an id, so that looking twice does nothing twice:
 *
 *   a training job has succeeded, no version came of it        → register           (command "register/JOB")
 *   a version is CANDIDATE, no evaluation was asked for        → ask the trainer    (job "evaluate-NAME-VERSION")
 *   an evaluation is measured and not judged                   → the gates, published as judged
 *   a judged one of a CANDIDATE (or a failed one, EVALUATED)   → pass or fail       (command "judge/EVALUATION")
 *   an improvement was wished for, its job is not there        → ask the trainer    (job "improve-ID")
 *   the policy says so                                         → improve            (id "policy-NAME-JUDGEMENTS")
 *
 * One look at a time: it is gathered on a worker (it reads the disk), then its actions run, and the next look begins when all have ended.
 */
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "feedback.h"
#include "model/model_dir.h"

enum { WATCH_MS = 2000, ACTIONS_MAX = 32, ACTION_ARENA = 64 * 1024 * 1024, WARNED_MAX = 256, RECENT_MAX = 64, RECENT_MS = 5000 };

enum action_kind { ACTION_REGISTRY, ACTION_JOB, ACTION_IMPROVE };

struct action {
    enum action_kind kind;
    struct watcher *watcher;
    struct arena arena;
    struct holder_request request; /* ACTION_REGISTRY */
    struct buf create;             /* ACTION_JOB */
    struct improve_request improve;
    const char *what; /* for the log */
    char object[128];
};

struct watcher {
    struct feedback_service *service;
    struct loop_timer *timer;
    bool looking, again, closed;
    size_t open; /* actions under way */
    struct action *actions[ACTIONS_MAX];
    size_t n_actions;
    int r;
    struct error err;
    char (*versions)[MODEL_FULL_NAME_MAX]; /* CANDIDATEs, of the look that is being gathered */
    size_t n_versions;
    char (*names)[MODEL_NAME_MAX]; /* that have a production version */
    size_t n_names, versions_capacity, names_capacity;
    uint64_t warned[WARNED_MAX]; /* hashes of what was said once: a fault that stays is told once */
    size_t n_warned;
    struct recent { /* what was done just now, and the view may not show yet: by the loop's thread between looks only */
        uint64_t hash;
        int64_t until_ms;
    } recent[RECENT_MAX];
    size_t n_recent;
};

/* ---- gathering: on a worker ---- */

static bool warn_once(struct watcher *w, const char *object, const struct error *err) {
    uint64_t hash = span_hash(span_str(object)) ^ span_hash(span_str(err->message));
    for (size_t i = 0; i < w->n_warned && i < WARNED_MAX; i++)
        if (w->warned[i] == hash) return false;
    w->warned[w->n_warned++ % WARNED_MAX] = hash;
    return true;
}

static uint64_t action_hash(const char *what, struct span object) { return span_hash(span_str(what)) * 31 + span_hash(object); }

/* NULL where this look has enough to do, where it was done just now, or without memory: the next look goes on. */
static struct action *new_action(struct watcher *w, enum action_kind kind, const char *what, struct span object) {
    if (w->n_actions >= ACTIONS_MAX) return NULL;
    int64_t now_ms = clock_mono_ms();
    for (size_t i = 0; i < RECENT_MAX; i++)
        if (w->recent[i].until_ms > now_ms && w->recent[i].hash == action_hash(what, object)) return NULL;
    struct action *a = mem_zalloc(sizeof *a);
    if (!a) return NULL;
    a->kind = kind;
    a->watcher = w;
    a->what = what;
    span_copy(a->object, sizeof a->object, object);
    arena_init(&a->arena, ACTION_ARENA);
    buf_init(&a->create, BUS_MESSAGE_MAX);
    w->actions[w->n_actions++] = a;
    return a;
}

static void free_action(struct action *a) {
    arena_fini(&a->arena);
    buf_fini(&a->create);
    mem_free(a);
}

/* The last one again away: it turned out that there is nothing to do. */
static void drop_action(struct watcher *w, struct action *a) {
    ASSERT(w->n_actions && w->actions[w->n_actions - 1] == a);
    w->n_actions--;
    free_action(a);
}

/* Rows are copied out before they are looked at: looking reads the view again, and a read inside a read could wait for itself. */
struct rows {
    ProtobufCMessage **messages;
    size_t n, capacity;
};

static int collect(void *arg, int64_t position, const ProtobufCMessage *message) {
    struct rows *rows = arg;
    struct buf packed;
    (void)position;
    buf_init(&packed, EVENT_VALUE_MAX);
    int r = record_pack(message, &packed);
    if (r == 0) r = array_reserve(&rows->messages, &rows->capacity, rows->n + 1, sizeof *rows->messages);
    ProtobufCMessage *copy = r == 0 ? record_unpack(message->descriptor, buf_span(&packed)) : NULL;
    if (copy) rows->messages[rows->n++] = copy;
    buf_fini(&packed);
    return copy ? 0 : r ? r : E_NOMEM;
}

static void look_at_rows(struct rows *rows, int r, void *arg, void (*look_at)(void *arg, const ProtobufCMessage *message)) {
    for (size_t i = 0; i < rows->n; i++) {
        if (r == 0) look_at(arg, rows->messages[i]);
        record_free(rows->messages[i]);
    }
    mem_free(rows->messages);
}

static struct span keep(struct action *a, struct span s) { return s.len ? arena_span(&a->arena, s) : SPAN(""); }

struct finding {
    struct span id;
    bool done;
};
static void find_done(void *arg, const struct ledger *ledger) {
    struct finding *f = arg;
    f->done = ledger_find(ledger, f->id, NULL);
}
static bool command_done(struct watcher *w, const char *id) {
    struct finding f = {span_str(id), false};
    holder_read(w->service->holder, &f, find_done);
    return f.done;
}

static void look_at_registry(void *arg, const struct ledger *ledger) {
    struct watcher *w = arg;
    struct registry_state state;
    ledger_state(ledger, &state);
    for (size_t i = 0; i < fold_versions(state.fold); i++) {
        const Genloop__V1__ModelVersion *v = fold_version_at(state.fold, i);
        if (v->state == MODEL_STATE(CANDIDATE) && array_reserve(&w->versions, &w->versions_capacity, w->n_versions + 1, sizeof *w->versions) == 0)
            model_name_format(span_str(v->name), v->version, w->versions[w->n_versions++]);
        bool another = w->n_names == 0 || strcmp(w->names[w->n_names - 1], v->name) != 0;
        if (v->state == MODEL_STATE(PRODUCTION) && another && array_reserve(&w->names, &w->names_capacity, w->n_names + 1, sizeof *w->names) == 0)
            span_copy(w->names[w->n_names++], MODEL_NAME_MAX, span_str(v->name));
    }
}

/* What the version's card wants to know and its directory says; of an adapter and of an encoder, that it is one. */
static void read_config(struct watcher *w, struct span manifest_sha256, struct registry_command *c) {
    struct store *store = w->service->facts.store;
    struct buf text;
    struct json *json = NULL;
    char sha256[SHA256_HEX_MAX];
    buf_init(&text, 4 * 1024 * 1024);
    span_copy(sha256, sizeof sha256, manifest_sha256);
    if (store_get(store, sha256, &text, NULL) == 0 && json_parse(buf_span(&text), &json, NULL) == 0) {
        const struct json *files = json_get(json, "files");
        span_copy(sha256, sizeof sha256, json_string(json_get(json_get(files, "config.json"), "sha256")));
        c->adapter = !sha256[0] && json_get(files, "adapter_config.json");
        json_free(json);
        json = NULL;
        buf_clear(&text);
        if (sha256[0] && store_get(store, sha256, &text, NULL) == 0 && json_parse(buf_span(&text), &json, NULL) == 0) {
            int64_t n = json_int(json_get(json, "max_position_embeddings"), json_int(json_get(json, "n_positions"), 0));
            struct model_config config;
            if (n > 0 && n <= UINT32_MAX) c->context = (uint32_t)n;
            c->encoder = model_config_parse(buf_span(&text), &config, NULL) == 0 && config.arch->kind == MODEL_ENCODER;
        }
    }
    json_free(json);
    buf_fini(&text);
}

static void look_at_job(void *arg, const ProtobufCMessage *message) {
    struct watcher *w = arg;
    const Genloop__V1__Job *job = (const Genloop__V1__Job *)message;
    char id[REGISTRY_ID_MAX + 16];
    if (!job->output || !job->output->sha256[0] || strlen(job->id) > REGISTRY_ID_MAX - 16) return;
    snprintf(id, sizeof id, "register/%s", job->id);
    if (command_done(w, id)) return;
    struct action *a = new_action(w, ACTION_REGISTRY, "register", span_str(job->id));
    if (!a) return;
    struct registry_command *c = &a->request.command;
    *c = (struct registry_command){
        .move = MOVE_REGISTER, .id = keep(a, span_str(id)), .model = keep(a, span_str(job->model)), .actor_id = SPAN("service:feedback"), .actor_scope = SPAN("service"),
        .tenant = keep(a, span_str(job->tenant)), .job_id = keep(a, span_str(job->id)), .base_model = keep(a, span_str(job->base_model)),
        .dataset = keep(a, span_str(job->dataset)), .recipe = keep(a, span_str(job->recipe)), .directory_sha256 = keep(a, span_str(job->output->sha256)),
        .directory_size = job->output->size_bytes,
    };
    char *reason = arena_printf(&a->arena, "job %s succeeded%s%.900s", job->id, job->reason[0] ? "; " : "", job->reason);
    c->reason = reason ? span_str(reason) : SPAN("a job succeeded");
    for (size_t i = 0; i < job->n_figures; i++)
        if (strcmp(job->figures[i]->name, "parameters") == 0 && job->figures[i]->value > 0 && job->figures[i]->value < 1e18) c->parameters = (uint64_t)job->figures[i]->value;
    read_config(w, c->directory_sha256, c);
    Genloop__V1__ModelVersion *base = NULL;
    if (c->adapter && registry_copy(w->service, c->base_model, &base, NULL) == 0) {
        c->context = base->context;
        record_free(&base->base);
    }
}

/* The auto evaluation of a candidate. */
static void look_at_candidate(struct watcher *w, const char *full) {
    char id[MODEL_FULL_NAME_MAX + 16], *at;
    Genloop__V1__Job *job = NULL;
    struct error err = {0};
    snprintf(id, sizeof id, "evaluate-%s", full);
    if ((at = strchr(id, '@')) != NULL) *at = '-';
    if (facts_job(&w->service->facts, span_str(id), &job, NULL) == 0) {
        record_free(&job->base);
        return;
    }
    struct action *a = new_action(w, ACTION_JOB, "evaluate", span_str(full));
    if (!a) return;
    if (evaluate_plan(w->service, span_str(full), SPAN(""), span_str(id), SPAN("policy: feedback.evaluate auto"), &a->create, &err) == 0) return;
    drop_action(w, a);
    if (warn_once(w, full, &err)) log_warn("feedback.cannot_evaluate", "%s: %s", full, err.message);
}

static void look_at_measured(void *arg, const ProtobufCMessage *message) {
    struct watcher *w = arg;
    const Genloop__V1__Evaluation *e = (const Genloop__V1__Evaluation *)message;
    struct error err = {0};
    struct action *a = new_action(w, ACTION_REGISTRY, "judge", span_str(e->id));
    if (!a) return;
    a->request.kind = HOLDER_JUDGE;
    if (evaluate_judge(w->service, e, &a->arena, &a->request.evaluation, &err) == 0) return;
    drop_action(w, a);
    /* It stays CANDIDATE: nobody can say what it is worth. A person may have it measured again. */
    if (warn_once(w, e->id, &err)) log_warn("feedback.cannot_judge", "evaluation %s of %s: %s", e->id, e->candidate, err.message);
}

static void look_at_judged(void *arg, const ProtobufCMessage *message) {
    struct watcher *w = arg;
    const Genloop__V1__Evaluation *e = (const Genloop__V1__Evaluation *)message;
    char id[REGISTRY_ID_MAX + 16];
    Genloop__V1__ModelVersion *v = NULL;
    if (strlen(e->id) > REGISTRY_ID_MAX - 8 || registry_copy(w->service, span_str(e->candidate), &v, NULL) != 0) return;
    bool due = v->state == MODEL_STATE(CANDIDATE) || (v->state == MODEL_STATE(EVALUATED) && !e->passed);
    record_free(&v->base);
    snprintf(id, sizeof id, "judge/%s", e->id);
    if (!due || command_done(w, id)) return;
    struct action *a = new_action(w, ACTION_REGISTRY, e->passed ? "pass" : "fail", span_str(e->candidate));
    if (!a) return;
    const Genloop__V1__GateResult *failed = NULL;
    for (size_t i = 0; i < e->n_gates && !failed; i++)
        if (!e->gates[i]->passed) failed = e->gates[i];
    char *reason = failed ? arena_printf(&a->arena, "gate %s: %s (margin %.4f)", failed->gate, failed->rule, failed->margin)
                          : arena_printf(&a->arena, "all %zu gates passed", e->n_gates);
    a->request.command = (struct registry_command){
        .move = e->passed ? MOVE_PASS : MOVE_FAIL, .id = keep(a, span_str(id)), .model = keep(a, span_str(e->candidate)), .reason = reason ? span_str(reason) : SPAN("gates"),
        .actor_id = SPAN("service:feedback"), .actor_scope = SPAN("service"), .evidence = keep(a, span_str(e->id)),
    };
}

static void look_at_wish(void *arg, const ProtobufCMessage *message) {
    struct watcher *w = arg;
    const Genloop__V1__AuditRecord *record = (const Genloop__V1__AuditRecord *)message;
    Genloop__V1__Job *job = NULL;
    if (facts_job(&w->service->facts, audit_detail_get(record, "job"), &job, NULL) == 0) {
        record_free(&job->base);
        return;
    }
    struct action *a = new_action(w, ACTION_JOB, "improve", span_str(record->object));
    if (a && improve_job_request(record, &a->create, NULL) != 0) drop_action(w, a);
}

struct last_wish {
    const char *model;
    bool found, open;
    int64_t judgements, time_ms;
    struct facts *facts;
};

static void look_at_last_wish(void *arg, const ProtobufCMessage *message) {
    struct last_wish *l = arg;
    const Genloop__V1__AuditRecord *record = (const Genloop__V1__AuditRecord *)message;
    if (l->found || strcmp(record->object, l->model) != 0) return;
    l->found = true;
    l->time_ms = record->event_time_ms;
    (void)span_to_i64(audit_detail_get(record, "judgements"), &l->judgements);
    Genloop__V1__Job *job = NULL;
    l->open = facts_job(l->facts, audit_detail_get(record, "job"), &job, NULL) != 0;
    if (job) record_free(&job->base);
}

static void look_at_policy(struct watcher *w, const char *model) {
    struct facts *facts = &w->service->facts;
    struct last_wish last = {.model = model, .facts = facts};
    struct policy_facts p = {.has_production = true};
    char reason[POLICY_REASON_MAX];
    bool training = false;
    struct rows wishes = {0};
    if (facts_judgements(facts, span_str(model), &p.judgements, NULL) != 0 || facts_training(facts, span_str(model), &training, NULL) != 0) return;
    int r = facts_each_audit_action(facts, SPAN(IMPROVE_ACTION), 500, &wishes, collect, NULL);
    look_at_rows(&wishes, r, &last, look_at_last_wish);
    if (r != 0) return;
    p.busy = training || last.open;
    for (size_t i = 0; i < w->n_versions; i++) {
        struct span full = span_str(w->versions[i]), name;
        p.busy |= span_cut(&full, '@', &name) && span_eq_str(name, model);
    }
    p.judgements_then = last.judgements;
    p.asked_time_ms = last.time_ms;
    if (!policy_improve(&w->service->settings->policy, &p, clock_wall_ms(), reason)) return;
    struct action *a = new_action(w, ACTION_IMPROVE, "improve", span_str(model));
    if (!a) return;
    char *id = arena_printf(&a->arena, "policy-%s-%lld", model, (long long)p.judgements);
    a->improve = (struct improve_request){.model = span_str(a->object), .objective = SPAN("dpo"), .id = id ? span_str(id) : SPAN(""), .trait = SPAN(""),
                                          .reason = keep(a, span_str(reason)), .actor_id = SPAN("service:feedback"), .actor_scope = SPAN("service")};
}

static void gather(void *arg) {
    struct watcher *w = arg;
    struct feedback_service *s = w->service;
    w->n_versions = w->n_names = w->n_actions = 0;
    memset(&w->err, 0, sizeof w->err);
    holder_read(s->holder, w, look_at_registry);
    struct rows jobs = {0}, imports = {0}, measured = {0}, judged = {0}, wishes = {0};
    int r = facts_each_job(&s->facts, GENLOOP__V1__JOB_KIND__JOB_KIND_TRAIN, GENLOOP__V1__JOB_STATE__JOB_STATE_SUCCEEDED, &jobs, collect, &w->err);
    look_at_rows(&jobs, r, w, look_at_job);
    if (r == 0) r = facts_each_job(&s->facts, GENLOOP__V1__JOB_KIND__JOB_KIND_IMPORT, GENLOOP__V1__JOB_STATE__JOB_STATE_SUCCEEDED, &imports, collect, &w->err);
    look_at_rows(&imports, r, w, look_at_job);
    if (r == 0) r = facts_each_unjudged(&s->facts, &measured, collect, &w->err);
    look_at_rows(&measured, r, w, look_at_measured);
    if (r == 0) r = facts_each_judged(&s->facts, &judged, collect, &w->err);
    look_at_rows(&judged, r, w, look_at_judged);
    if (r == 0) r = facts_each_audit_action(&s->facts, SPAN(IMPROVE_ACTION), 50, &wishes, collect, &w->err);
    look_at_rows(&wishes, r, w, look_at_wish);
    bool automatic = strcmp(s->settings->evaluate, "auto") == 0;
    for (size_t i = 0; i < w->n_versions && automatic && r == 0; i++) look_at_candidate(w, w->versions[i]);
    for (size_t i = 0; i < w->n_names && r == 0 && s->settings->policy.improve_after > 0; i++) look_at_policy(w, w->names[i]);
    w->r = r;
}

/* ---- acting: on the loop ---- */

static void look(struct watcher *w);

static void end_action(struct action *a, int r, const struct error *err) {
    struct watcher *w = a->watcher;
    /* Another instance, or another look, may have been first; unreachable peers come back: the next look tries again. */
    if (r != 0 && r != E_STATE && r != E_UNAVAILABLE && r != E_FULL && err && warn_once(w, a->object, err))
        log_warn("feedback.action_failed", "%s %s: %s", a->what, a->object, err->message);
    else if (r != 0)
        log_debug("feedback.action_failed", "%s %s: %s", a->what, a->object, err ? err->message : "");
    else {
        log_info("feedback.action", "%s %s", a->what, a->object);
        w->recent[w->n_recent++ % RECENT_MAX] = (struct recent){action_hash(a->what, span_str(a->object)), clock_mono_ms() + RECENT_MS};
    }
    free_action(a);
    work_end(w->service);
    if (--w->open == 0) {
        w->looking = false;
        if (w->again && !w->closed) look(w);
    }
}

static void on_registry(struct holder_request *q) { end_action(q->arg, q->result, &q->err); }

static void on_job(void *arg, int r, const struct error *err, struct span job) {
    (void)job;
    end_action(arg, r, err);
}

static void start_action(struct action *a) {
    struct feedback_service *s = a->watcher->service;
    struct error err = {0};
    work_begin(s);
    switch (a->kind) {
    case ACTION_REGISTRY:
        a->request.arg = a;
        a->request.on_done = on_registry;
        if (holder_ask(s->holder, &a->request, &err) != 0) end_action(a, err.code, &err);
        break;
    case ACTION_JOB:
        trainer_create(s, buf_span(&a->create), a, on_job);
        break;
    case ACTION_IMPROVE:
        improve_start(s, &a->improve, a, on_job);
        break;
    }
}

static void gathered(void *arg) {
    struct watcher *w = arg;
    size_t n = w->n_actions;
    if (w->r != 0 && warn_once(w, "look", &w->err)) log_warn("feedback.look_failed", "%s", w->err.message);
    bool act = !w->closed && !service_draining(w->service->service);
    w->open = n + 1; /* one for this function: actions may end at once */
    for (size_t i = 0; i < n; i++) {
        struct action *a = w->actions[i];
        if (act)
            start_action(a);
        else {
            free_action(a);
            w->open--;
        }
    }
    if (n == ACTIONS_MAX) w->again = true;
    work_end(w->service);
    if (--w->open == 0) {
        w->looking = false;
        /* Nothing to do: what has come meanwhile is looked at by the next turn of the clock at the latest. */
        if (w->again && !w->closed) look(w);
    }
}

static void look(struct watcher *w) {
    struct feedback_service *s = w->service;
    if (w->closed || service_draining(s->service)) return;
    if (w->looking) {
        w->again = true;
        return;
    }
    w->again = false;
    if (!holder_holds(s->holder) || !view_caught_up(s->facts.view)) return;
    w->looking = true;
    work_begin(s);
    if (loop_work(service_loop(s->service), gather, gathered, w) != 0) {
        w->looking = false;
        work_end(s);
    }
}

static void on_timer(void *arg) { look(arg); }

int watcher_open(struct feedback_service *s, struct watcher **watcher, struct error *err) {
    struct watcher *w = mem_zalloc(sizeof *w);
    if (!w) return error_set(err, E_NOMEM, "no memory for the watcher");
    w->service = s;
    w->timer = loop_timer_new(service_loop(s->service), w, on_timer);
    if (!w->timer) {
        mem_free(w);
        return error_set(err, E_NOMEM, "no memory for the watcher");
    }
    loop_timer_start(w->timer, WATCH_MS, WATCH_MS);
    *watcher = w;
    return 0;
}

void watcher_kick(struct watcher *w) {
    if (w) look(w);
}

void watcher_close(struct watcher *w) {
    if (!w) return;
    w->closed = true;
    loop_timer_close(w->timer);
    mem_free(w->versions);
    mem_free(w->names);
    mem_free(w);
}
