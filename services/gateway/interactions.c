/*
 * The log may still publish when the gateway's loop is gone. So the state outlives its owner: the lock guards `closed` and `waiting`; whoever is last frees it.
 */
#include "interactions.h"

#include <pthread.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/log.h"
#include "base/metrics.h"
#include "store/seal.h"

enum { CONTENT_MAX = 32 << 20 /* a body of 8 MiB, escaped anew, and its answer */, EVENT_MAX = 64 * 1024 };

struct interactions {
    struct gateway *gateway;
    pthread_mutex_t lock;
    size_t waiting;
    bool closed;
    struct metric *published, *failed, *left_out;
};

/* One on its way: worker, then log. */
struct job {
    struct interactions *interactions;
    Genloop__V1__Interaction *facts; /* owned */
    struct buf prompt, answer;
    enum capture capture;
    struct buf packed;
    int result;
    struct error err;
};

bool capture_from_name(const char *name, enum capture *capture) {
    static const char *const names[] = {"none", "hashed", "full"};
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0) {
            *capture = (enum capture)i;
            return true;
        }
    return false;
}

static const char *capture_name(enum capture c) { return c == CAPTURE_FULL ? "full" : c == CAPTURE_HASHED ? "hashed" : "none"; }

static void leave(struct interactions *i, size_t jobs, bool closing) {
    (void)pthread_mutex_lock(&i->lock);
    i->waiting -= jobs;
    i->closed |= closing;
    bool last = i->closed && i->waiting == 0;
    (void)pthread_mutex_unlock(&i->lock);
    if (!last) return;
    (void)pthread_mutex_destroy(&i->lock);
    mem_free(i);
}

static void job_free(struct job *j) {
    struct interactions *i = j->interactions;
    if (j->facts) genloop__v1__interaction__free_unpacked(j->facts, NULL);
    buf_fini(&j->prompt);
    buf_fini(&j->answer);
    buf_fini(&j->packed);
    mem_free(j);
    leave(i, 1, false);
}

/* On a worker. The facts' texts are replaced by borrowed ones for the packing. */
static int seal_and_pack(struct job *j) {
    struct gateway *g = j->interactions->gateway;
    struct keyring *keyring = service_keyring(g->service);
    char hash[SEAL_KEY_ID_MAX] = "", subject[SEAL_KEY_ID_MAX] = "", media_type[] = "application/json";
    struct object_ref ref;
    Genloop__V1__ObjectRef content;
    Genloop__V1__Interaction event = *j->facts;
    struct buf text, sealed;
    int r = 0;
    buf_init(&text, CONTENT_MAX);
    buf_init(&sealed, CONTENT_MAX + 1024);
    struct span tenant = span_str(event.tenant);
    event.capture = (char *)capture_name(j->capture);
    if (j->capture != CAPTURE_NONE) {
        keyring_subject_id(keyring, SPAN("prompt"), buf_span(&j->prompt), hash); /* a keyed hash under a tenant that no platform has */
        event.prompt_sha256 = hash;
    }
    if (j->capture == CAPTURE_FULL) {
        struct json_out w;
        keyring_subject_id(keyring, tenant, span_str(event.subject), subject);
        (void)buf_append_char(&text, '{');
        (void)buf_append_span(&text, buf_span(&j->prompt));
        (void)buf_append_str(&text, ",\"answer\":");
        json_begin(&w, &text);
        json_put_span(&w, buf_span(&j->answer));
        (void)buf_append_char(&text, '}');
        if (text.failed) r = error_set(&j->err, text.failed, "a conversation is too large to be kept");
        if (r == 0) r = keyring_seal(keyring, subject, buf_span(&text), &sealed, &j->err);
        if (r == 0) r = store_put(service_store(g->service), buf_span(&sealed), &ref, &j->err);
        if (r == 0) {
            genloop__v1__object_ref__init(&content);
            content.sha256 = ref.sha256;
            content.size_bytes = ref.size;
            content.media_type = media_type;
            content.seal_subject = subject;
            event.content = &content;
        } else { /* an erased subject, a full disk: the fact that it happened is told all the same */
            log_warn("gateway.capture", "%s: %s", event.request_id, j->err.message);
            event.capture = (char *)capture_name(CAPTURE_HASHED);
            metric_add(j->interactions->left_out, 1);
        }
    }
    size_t size = genloop__v1__interaction__get_packed_size(&event);
    char *at = buf_reserve(&j->packed, size);
    r = at ? 0 : E_NOMEM;
    if (at) buf_commit(&j->packed, genloop__v1__interaction__pack(&event, (uint8_t *)at));
    buf_fini(&text);
    buf_fini(&sealed);
    return r;
}

static void work(void *arg) {
    struct job *j = arg;
    j->result = seal_and_pack(j);
}

static void told(void *arg) {
    struct job *j = arg;
    metric_add(j->result == 0 ? j->interactions->published : j->interactions->failed, 1);
    if (j->result < 0) log_warn("gateway.interaction", "%s was not published (%d)", j->facts->request_id, j->result);
    job_free(j);
}

/* On a thread of the log. */
static void published(void *arg, int r) {
    struct job *j = arg;
    struct interactions *i = j->interactions;
    j->result = r;
    (void)pthread_mutex_lock(&i->lock);
    bool posted = !i->closed && loop_post(service_loop(i->gateway->service), told, j) == 0;
    (void)pthread_mutex_unlock(&i->lock);
    if (!posted) job_free(j);
}

static void worked(void *arg) {
    struct job *j = arg;
    struct event e = {.topic = TOPIC_INTERACTIONS, .key = span_str(j->facts->request_id), .value = buf_span(&j->packed), .id = span_str(j->facts->request_id), .subject = span_str(j->facts->model)};
    if (j->result == 0) j->result = eventlog_publish_async(service_log(j->interactions->gateway->service), &e, j, published);
    if (j->result < 0) told(j);
}

int interactions_open(struct gateway *g, struct interactions **out, struct error *err) {
    struct interactions *i = mem_zalloc(sizeof *i);
    if (!i) return error_set(err, E_NOMEM, "no memory for the interactions");
    (void)pthread_mutex_init(&i->lock, NULL);
    i->gateway = g;
    i->published = metric_counter("genloop_gateway_interactions_total", "result=\"published\"", "Interactions, by what became of them.");
    i->failed = metric_counter("genloop_gateway_interactions_total", "result=\"failed\"", "Interactions, by what became of them.");
    i->left_out = metric_counter("genloop_gateway_captures_left_out_total", "", "Interactions published without the text that the policy asks for.");
    *out = i;
    return 0;
}

void interactions_close(struct interactions *i) {
    if (i) leave(i, 0, true);
}

size_t interactions_waiting(struct interactions *i) {
    (void)pthread_mutex_lock(&i->lock);
    size_t n = i->waiting;
    (void)pthread_mutex_unlock(&i->lock);
    return n;
}

void interactions_add(struct interactions *i, const Genloop__V1__Interaction *facts, struct span prompt_json, struct span answer) {
    enum capture capture = i->gateway->capture;
    struct job *j = mem_zalloc(sizeof *j);
    if (!j) {
        metric_add(i->failed, 1);
        return;
    }
    (void)pthread_mutex_lock(&i->lock);
    size_t waiting = ++i->waiting;
    (void)pthread_mutex_unlock(&i->lock);
    j->interactions = i;
    buf_init(&j->prompt, CONTENT_MAX);
    buf_init(&j->answer, CONTENT_MAX);
    buf_init(&j->packed, EVENT_MAX);
    if (capture == CAPTURE_FULL && waiting > INTERACTIONS_WAITING_MAX) {
        capture = CAPTURE_NONE;
        metric_add(i->left_out, 1);
    }
    j->capture = capture;
    struct buf copy;
    buf_init(&copy, EVENT_MAX);
    size_t size = genloop__v1__interaction__get_packed_size(facts);
    uint8_t *at = (uint8_t *)buf_reserve(&copy, size ? size : 1);
    if (at) j->facts = genloop__v1__interaction__unpack(NULL, genloop__v1__interaction__pack(facts, at), at);
    buf_fini(&copy);
    if (capture != CAPTURE_NONE) (void)buf_append_span(&j->prompt, prompt_json);
    if (capture == CAPTURE_FULL) (void)buf_append_span(&j->answer, answer);
    if (!j->facts || j->prompt.failed || j->answer.failed || loop_work(service_loop(i->gateway->service), work, worked, j) < 0) {
        metric_add(i->failed, 1);
        job_free(j);
    }
}
