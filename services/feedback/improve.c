/* Fine-tuning on what people said: the set, the wish on the audit log, the job. */
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "feedback.h"
#include "registry/trait.h"

enum { IMPROVE_ARENA = 1024 * 1024, RECIPE_BYTES_MAX = 64 * 1024 };

struct improving {
    struct feedback_service *service;
    struct arena arena;
    struct improve_request request;
    void *arg;
    void (*on_done)(void *arg, int r, const struct error *err, struct span job);
    int r;
    struct error err;
    struct set_built built;
    char base[MODEL_FULL_NAME_MAX];
    struct audit_detail details[9];
    struct holder_request note;
    struct buf create;
};

static void finish(struct improving *i, int r, const struct error *err, struct span job) {
    i->on_done(i->arg, r, err, job);
    work_end(i->service);
    buf_fini(&i->create);
    arena_fini(&i->arena);
    mem_free(i);
}

static int put(char **to, struct span value, struct arena *arena) {
    *to = arena_printf(arena, "%.*s", (int)value.len, value.len ? value.data : "");
    return *to ? 0 : E_NOMEM;
}

int improve_job_request(const Genloop__V1__AuditRecord *record, struct buf *out, struct error *err) {
    Genloop__V1__CreateJobRequest q = GENLOOP__V1__CREATE_JOB_REQUEST__INIT;
    struct arena arena;
    arena_init(&arena, 2 * RECIPE_BYTES_MAX);
    int r = 0;
    q.kind = GENLOOP__V1__JOB_KIND__JOB_KIND_TRAIN;
    if (put(&q.model, span_str(record->object), &arena) || put(&q.id, audit_detail_get(record, "job"), &arena) || put(&q.dataset, audit_detail_get(record, "dataset"), &arena) ||
        put(&q.base_model, audit_detail_get(record, "base"), &arena) || put(&q.preset, audit_detail_get(record, "preset"), &arena) ||
        put(&q.recipe, audit_detail_get(record, "recipe"), &arena) || put(&q.reason, span_str(record->reason), &arena))
        r = E_NOMEM;
    if (r == 0) r = record_pack(&q.base, out);
    arena_fini(&arena);
    return r ? error_set(err, r, "no memory to ask for a job") : 0;
}

static void on_job(void *arg, int r, const struct error *err, struct span job) { finish(arg, r, err, job); }

/* The wish as it stands on the audit log: that of the first asking where it was asked before. */
struct wish {
    struct improving *improving;
    struct span job;
    bool found;
};

static int take_wish(void *arg, int64_t position, const ProtobufCMessage *message) {
    struct wish *w = arg;
    const Genloop__V1__AuditRecord *record = (const Genloop__V1__AuditRecord *)message;
    (void)position;
    if (w->found || !span_eq(audit_detail_get(record, "job"), w->job)) return 0;
    w->found = true;
    return improve_job_request(record, &w->improving->create, NULL);
}

static void read_wish(void *arg) {
    struct improving *i = arg;
    struct wish w = {.improving = i, .job = i->details[2].value};
    i->r = view_wait(i->service->facts.view, 10000, &i->err);
    if (i->r == 0) i->r = facts_each_audit_action(&i->service->facts, SPAN(IMPROVE_ACTION), 500, &w, take_wish, &i->err);
    if (i->r == 0 && !w.found) i->r = error_set(&i->err, E_UNAVAILABLE, "the wish for this job is not in the view yet: ask again with the same id");
}

static void ask_trainer(void *arg) {
    struct improving *i = arg;
    if (i->r != 0)
        finish(i, i->r, &i->err, SPAN(""));
    else
        trainer_create(i->service, buf_span(&i->create), i, on_job);
}

static void on_note(struct holder_request *q) {
    struct improving *i = q->arg;
    i->r = q->result;
    i->err = q->err;
    if (i->r != 0 || loop_work(service_loop(i->service->service), read_wish, ask_trainer, i) != 0) {
        if (i->r == 0) i->r = error_set(&i->err, E_FULL, "too much waits for a worker: ask again with the same id");
        finish(i, i->r, &i->err, SPAN(""));
    }
}

static void build(void *arg) {
    struct improving *i = arg;
    const struct improve_request *q = &i->request;
    struct feedback_service *s = i->service;
    bool supervised = span_eq(q->objective, SPAN("sft"));
    registry_production(s, q->model, i->base);
    if (!i->base[0]) {
        i->r = error_set_param(&i->err, E_STATE, "model", "no version of %.*s is in production: there is nothing to improve", SPAN_ARG(q->model));
        return;
    }
    i->r = sets_build(&s->facts, service_log(s->service), q->model, supervised, q->id, s->settings->shared.tenant, clock_wall_ms(), &i->built, &i->err);
    if (i->r != 0) return;
    char *dataset = arena_printf(&i->arena, "%s@%u", i->built.name, i->built.version), *job = arena_printf(&i->arena, "improve-%.*s", SPAN_ARG(q->id)),
         *judgements = arena_printf(&i->arena, "%lld", (long long)i->built.judgements), *command = arena_printf(&i->arena, "improve/%.*s", SPAN_ARG(q->id)),
         *model = arena_printf(&i->arena, "%.*s", SPAN_ARG(q->model));
    if (!dataset || !job || !judgements || !command || !model) {
        i->r = error_set(&i->err, E_NOMEM, "no memory for an improvement");
        return;
    }
    const struct audit_detail details[] = {
        {"base", span_str(i->base)}, {"dataset", span_str(dataset)}, {"job", span_str(job)}, {"judgements", span_str(judgements)}, {"objective", q->objective},
        {"preset", q->recipe.len ? SPAN("") : span_str(supervised ? s->settings->supervised_preset : s->settings->preference_preset)}, {"recipe", q->recipe}, {"trait", q->trait},
    };
    memcpy(i->details, details, sizeof details);
    i->note = (struct holder_request){
        .kind = HOLDER_NOTE,
        .entry = {.command = span_str(command), .actor_id = q->actor_id, .actor_scope = q->actor_scope, .actor_claim = q->actor_claim, .action = IMPROVE_ACTION, .object = model,
                  .from_state = "", .to_state = "", .reason = q->reason, .details = i->details, .n_details = sizeof details / sizeof details[0]},
        .arg = i,
        .on_done = on_note,
    };
}

static void built(void *arg) {
    struct improving *i = arg;
    if (i->r == 0) i->r = holder_ask(i->service->holder, &i->note, &i->err);
    if (i->r != 0) finish(i, i->r, &i->err, SPAN(""));
}

static int copy(struct improving *i, struct span from, struct span *to) {
    *to = from.len ? arena_span(&i->arena, from) : SPAN("");
    return to->data ? 0 : E_NOMEM;
}

/* It names a job, a folder and a build: plain characters only. */
static bool id_valid(struct span id) {
    if (id.len == 0 || id.len > 100) return false;
    for (size_t k = 0; k < id.len; k++) {
        char c = id.data[k];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || ((c == '.' || c == ':') && k > 0))) return false;
    }
    return true;
}

static int check(const struct improve_request *q, struct error *err) {
    if (!model_name_valid(q->model)) return error_set_param(err, E_INVALID, "model", "name the model, without a version: its production version is the base");
    if (!span_eq(q->objective, SPAN("dpo")) && !span_eq(q->objective, SPAN("sft"))) return error_set_param(err, E_INVALID, "objective", "objective must be dpo or sft");
    if (q->trait.len && !trait_known(q->trait)) return error_set_param(err, E_INVALID, "trait", "there is no trait %.*s", (int)(q->trait.len < 64 ? q->trait.len : 64), q->trait.data);
    if (q->recipe.len > RECIPE_BYTES_MAX) return error_set_param(err, E_TOO_LARGE, "recipe", "a recipe has at most %d bytes, not %zu", RECIPE_BYTES_MAX, q->recipe.len);
    if (!id_valid(q->id)) return error_set_param(err, E_INVALID, "id", "an id has 1 to 100 letters, digits, '-', '_', '.' and ':', not beginning with '.' or ':'");
    return 0;
}

void improve_start(struct feedback_service *s, const struct improve_request *q, void *arg, void (*on_done)(void *arg, int r, const struct error *err, struct span job)) {
    struct error err = {0};
    int r = check(q, &err);
    struct improving *i = r == 0 ? mem_zalloc(sizeof *i) : NULL;
    if (!i) {
        if (r == 0) r = error_set(&err, E_NOMEM, "no memory for an improvement");
        on_done(arg, r, &err, SPAN(""));
        return;
    }
    i->service = s;
    i->arg = arg;
    i->on_done = on_done;
    arena_init(&i->arena, IMPROVE_ARENA);
    buf_init(&i->create, BUS_MESSAGE_MAX);
    work_begin(s);
    const struct span from[] = {q->model, q->objective, q->recipe, q->id, q->trait, q->reason, q->actor_id, q->actor_scope, q->actor_claim};
    struct span *const to[] = {&i->request.model, &i->request.objective, &i->request.recipe, &i->request.id, &i->request.trait, &i->request.reason, &i->request.actor_id,
                               &i->request.actor_scope, &i->request.actor_claim};
    for (size_t k = 0; k < sizeof from / sizeof from[0]; k++)
        if (copy(i, from[k], to[k]) != 0) r = error_set(&err, E_NOMEM, "no memory for an improvement");
    if (r == 0 && loop_work(service_loop(s->service), build, built, i) != 0) r = error_set(&err, E_FULL, "too much waits for a worker: try again");
    if (r != 0) finish(i, r, &err, SPAN(""));
}
