/* Feedback from this platform's own doors: sealed, durable, acknowledged. */
#include <string.h>

#include "base/clock.h"
#include "base/random.h"
#include "feedback.h"

enum { PLAIN_MAX = 8 * 1024 * 1024 };

static struct span s_of(const char *text) { return span_str(text); }

/* Seals what people wrote into the store. */
static int seal_content(struct feedback_service *s, const struct feedback *f, struct span tenant, struct object_ref *ref, char subject[SEAL_KEY_ID_MAX], bool *any, struct error *err) {
    struct buf plain, sealed;
    buf_init(&plain, PLAIN_MAX);
    buf_init(&sealed, PLAIN_MAX + 4096);
    int r = feedback_content_write(f, &plain);
    if (r != 0) error_set(err, r, "this feedback is too large");
    *any = plain.len > 0;
    if (r == 0 && plain.len) {
        keyring_subject_id(s->facts.keyring, tenant, f->subject, subject);
        r = keyring_seal(s->facts.keyring, subject, buf_span(&plain), &sealed, err);
        if (r == 0) r = store_put(s->facts.store, buf_span(&sealed), ref, err);
    }
    buf_fini(&plain);
    buf_fini(&sealed);
    return r;
}

static int publish_event(struct feedback_service *s, const Genloop__V1__FeedbackEvent *e, struct error *err) {
    struct buf packed;
    buf_init(&packed, EVENT_VALUE_MAX);
    int r = record_pack(&e->base, &packed);
    if (r != 0)
        error_set(err, r, "this feedback is too large");
    else {
        /* In one order with what else is said of the same request. */
        struct event event = {.topic = TOPIC_FEEDBACK, .key = span_str(e->request_id[0] ? e->request_id : e->id), .value = buf_span(&packed), .id = span_str(e->id),
                              .time_ms = e->event_time_ms};
        r = eventlog_publish(service_log(s->service), &event, err);
    }
    buf_fini(&packed);
    return r;
}

int submit_feedback(struct feedback_service *s, const struct submit_context *context, struct span request, char id[FEEDBACK_ID_MAX + 1], bool *existed, struct error *err) {
    Genloop__V1__SubmitFeedbackRequest *q = (Genloop__V1__SubmitFeedbackRequest *)record_unpack(&genloop__v1__submit_feedback_request__descriptor, request);
    if (!q) return error_set(err, E_INVALID, "this is no SubmitFeedbackRequest");
    Genloop__V1__FeedbackEvent empty = GENLOOP__V1__FEEDBACK_EVENT__INIT, *given = q->event ? q->event : &empty, e = GENLOOP__V1__FEEDBACK_EVENT__INIT;
    char made[ID_TEXT_MAX];
    struct feedback f = {
        .id = given->id[0] ? s_of(given->id) : s_of(id_make(made)), .request_id = s_of(given->request_id), .subject = s_of(given->subject), .model = s_of(given->model),
        .chosen_request_id = s_of(given->chosen_request_id), .rejected_request_id = s_of(given->rejected_request_id), .kind = given->kind, .value = given->value,
        .prompt = s_of(q->prompt), .chosen = s_of(q->chosen), .rejected = s_of(q->rejected), .text = s_of(q->text),
    };
    Genloop__V1__Actor actor = GENLOOP__V1__ACTOR__INIT;
    Genloop__V1__ObjectRef content = GENLOOP__V1__OBJECT_REF__INIT;
    struct object_ref ref;
    struct arena arena;
    char subject[SEAL_KEY_ID_MAX];
    bool any = false, there = false;
    struct span tenant = context->tenant.len ? context->tenant : span_str(s->settings->shared.tenant);
    arena_init(&arena, 64 * 1024);
    int r = feedback_check(&f, err);
    if (r == 0) r = facts_feedback_exists(&s->facts, f.id, &there, err);
    if (r == 0 && !there) {
        r = seal_content(s, &f, tenant, &ref, subject, &any, err);
        if (r == 0) {
            e.id = (char *)(uintptr_t)f.id.data;
            e.request_id = given->request_id;
            e.subject = given->subject;
            e.model = given->model;
            e.chosen_request_id = given->chosen_request_id;
            e.rejected_request_id = given->rejected_request_id;
            e.kind = given->kind;
            e.value = given->value;
            e.event_time_ms = clock_wall_ms();
            e.tenant = arena_printf(&arena, "%.*s", SPAN_ARG(tenant));
            actor.id = arena_printf(&arena, "%.*s", (int)context->actor_id.len, context->actor_id.len ? context->actor_id.data : "");
            actor.scope = arena_printf(&arena, "%.*s", (int)context->actor_scope.len, context->actor_scope.len ? context->actor_scope.data : "");
            actor.claim = arena_printf(&arena, "%.*s", (int)context->actor_claim.len, context->actor_claim.len ? context->actor_claim.data : "");
            e.actor = &actor;
            if (any) {
                content.sha256 = ref.sha256;
                content.size_bytes = ref.size;
                content.media_type = arena_strdup(&arena, "application/json");
                content.seal_subject = subject;
                e.content = &content;
            }
            if (!e.tenant || !actor.id || !actor.scope || !actor.claim || (any && !content.media_type)) r = error_set(err, E_NOMEM, "no memory for feedback");
        }
        if (r == 0) r = publish_event(s, &e, err);
    }
    if (r == 0) {
        span_copy(id, FEEDBACK_ID_MAX + 1, f.id);
        *existed = there;
    }
    arena_fini(&arena);
    record_free(&q->base);
    return r;
}
