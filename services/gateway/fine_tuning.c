/*
 * OpenAI's /v1/fine_tuning/jobs on the trainer's jobs. Creating one takes two questions: ingest makes a dataset of the files, the trainer a job on it. A crash between them leaves a
 * dataset that the next attempt finds again. With an Idempotency-Key the job's id follows from it, so that the trainer knows the job again.
 */
#include "base/alloc.h"
#include "base/random.h"
#include "genloop/v1/services.pb-c.h"
#include "http/query.h"
#include "ask.h"
#include "fine_tuning_request.h"
#include "idempotency.h"
#include "pages.h"
#include "registry.h"
#include "routes.h"
#include "wire/unpack.h"

enum { JOB_JSON_MAX = 256 * 1024,
       LIST_JSON_MAX = 32 << 20,
       PAGE_DEFAULT = 20, PAGE_MAX = 100,
       EVENTS_MAX = 1000 };

#define STATE(NAME) GENLOOP__V1__JOB_STATE__JOB_STATE_##NAME

/* ---- a job's JSON ---- */

static const char *status_of(const Genloop__V1__Job *job) {
    switch (job->state) {
    case STATE(RUNNING): return "running";
    case STATE(PAUSED): return "paused";
    case STATE(SUCCEEDED): return "succeeded";
    case STATE(FAILED): return "failed";
    case STATE(CANCELLED): return "cancelled";
    default: return "queued";
    }
}

static bool ended(const Genloop__V1__Job *job) { return job->state == STATE(SUCCEEDED) || job->state == STATE(FAILED) || job->state == STATE(CANCELLED); }

static const Genloop__V1__Figure *figure_of(const Genloop__V1__Job *job, const char *name) {
    for (size_t i = 0; i < job->n_figures; i++)
        if (strcmp(job->figures[i]->name, name) == 0) return job->figures[i];
    return NULL;
}

static void put_text_or_null(struct json_out *w, const char *key, const char *text) { json_str(w, key, text && text[0] ? text : NULL); }
static void put_time(struct json_out *w, const char *key, int64_t ms) {
    json_key(w, key);
    if (ms) json_put_int(w, ms / 1000);
    else json_put_null(w);
}

static void put_hyperparameters(struct json_out *w, const Genloop__V1__FineTuning *f) {
    json_key(w, "hyperparameters");
    json_object(w);
    json_num(w, "n_epochs", f->epochs);
    json_num(w, "batch_size", f->batch_size);
    json_flt(w, "learning_rate_multiplier", f->learning_rate_multiplier);
    if (f->beta > 0) json_flt(w, "beta", f->beta);
    json_object_end(w);
}

/* The version that came of a job, as the registry has it; NULL: none yet. */
static const Genloop__V1__ModelVersion *version_of(const struct exchange *x, const Genloop__V1__Job *job) {
    const struct fold *f = registry_fold(x->gateway->registry);
    for (size_t i = 0; f && i < fold_versions(f); i++) {
        const Genloop__V1__ModelVersion *v = fold_version_at(f, i);
        if (v->lineage && strcmp(v->lineage->job_id, job->id) == 0) return v;
    }
    return NULL;
}

/* What OpenAI's object has no place for: how far the model is from being served, and what is to be done. */
static void put_ours(struct json_out *w, const struct exchange *x, const Genloop__V1__Job *job) {
    const Genloop__V1__ModelVersion *v = job->state == STATE(SUCCEEDED) ? version_of(x, job) : NULL;
    const char *note = "when the job has succeeded its model is a candidate: it is served only after its gates and a person's approval";
    char full[MODEL_FULL_NAME_MAX] = "";
    if (v) model_name_format(span_str(v->name), v->version, full);
    if (job->state == STATE(FAILED) || job->state == STATE(CANCELLED)) note = "no model came of this job";
    else if (v && fold_released(v)) note = "the model is served: a person approved it after its gates";
    else if (v && v->state == GENLOOP__V1__MODEL_STATE__MODEL_STATE_EVALUATED) note = "the model passed its gates and waits for a person: genloop approve, then genloop promote; it is not served before";
    else if (v && v->state == GENLOOP__V1__MODEL_STATE__MODEL_STATE_APPROVED) note = "a person approved the model; it is served once it is promoted, or has a canary share";
    else if (v && v->state == GENLOOP__V1__MODEL_STATE__MODEL_STATE_REJECTED) note = "the model was rejected, by its gates or by a person, and is not served: genloop models show says why";
    else if (job->state == STATE(SUCCEEDED) && (!v || v->state == GENLOOP__V1__MODEL_STATE__MODEL_STATE_CANDIDATE)) note = "the model is a candidate and is not served: its gates measure it, then a person decides";
    else if (v) note = "the model is not served any more";
    json_key(w, "genloop");
    json_object(w);
    json_str(w, "base_model", job->base_model);
    json_str(w, "dataset", job->dataset);
    json_num(w, "step", (int64_t)job->step);
    json_num(w, "steps", (int64_t)job->steps);
    put_text_or_null(w, "model_version", full);
    json_str(w, "model_state", v ? state_name(v->state) : NULL);
    json_flag(w, "served", v && fold_released(v));
    json_str(w, "note", note);
    json_object_end(w);
}

static void write_job(struct json_out *w, const struct exchange *x, const Genloop__V1__Job *job) {
    const Genloop__V1__FineTuning *f = job->fine_tuning;
    const Genloop__V1__Figure *tokens = figure_of(job, "tokens");
    json_object(w);
    json_str(w, "object", "fine_tuning.job");
    json_str(w, "id", job->id);
    json_str(w, "model", f->model);
    json_num(w, "created_at", job->created_time_ms / 1000);
    put_time(w, "finished_at", ended(job) ? job->finished_time_ms : 0);
    put_text_or_null(w, "fine_tuned_model", job->state == STATE(SUCCEEDED) ? job->model : "");
    json_str(w, "organization_id", job->tenant);
    json_key(w, "result_files");
    json_array(w);
    if (f->result_file[0]) json_put_str(w, f->result_file);
    json_array_end(w);
    json_str(w, "status", status_of(job));
    json_str(w, "training_file", f->training_file);
    put_text_or_null(w, "validation_file", f->validation_file);
    put_hyperparameters(w, f);
    json_key(w, "method");
    json_object(w);
    json_str(w, "type", f->method);
    json_key(w, f->method);
    json_object(w);
    put_hyperparameters(w, f);
    json_object_end(w);
    json_object_end(w);
    json_key(w, "trained_tokens");
    if (job->state == STATE(SUCCEEDED) && tokens) json_put_int(w, (int64_t)tokens->value);
    else json_put_null(w);
    json_key(w, "error");
    if (job->state == STATE(FAILED)) {
        json_object(w);
        json_str(w, "code", "job_failed");
        json_str(w, "message", job->failure);
        json_str(w, "param", NULL);
        json_object_end(w);
    } else
        json_put_null(w);
    put_text_or_null(w, "user_provided_suffix", f->suffix);
    json_num(w, "seed", (int64_t)f->seed);
    put_time(w, "estimated_finish", 0);
    json_key(w, "integrations");
    json_array(w);
    json_array_end(w);
    json_key(w, "metadata");
    json_object(w);
    for (size_t i = 0; i < f->n_metadata; i++) json_str(w, f->metadata[i]->key, f->metadata[i]->value);
    json_object_end(w);
    put_ours(w, x, job);
    json_object_end(w);
}

static void answer_json(struct exchange *x, struct buf *body, int r, const struct error *err) {
    if (r < 0) exchange_error(x, err);
    else exchange_json(x, 200, body);
    buf_fini(body);
}

/* The Job of a reply, if it is one of fine-tuning. E_NOT_FOUND else: other jobs are not of this door. */
static Genloop__V1__Job *job_of(const struct exchange *x, struct span packed, int *r, struct error *err) {
    Genloop__V1__Job *job = *r == 0 ? MESSAGE_UNPACK(Job, job, packed) : NULL;
    if (*r == 0 && !job) *r = error_set(err, E_UNKNOWN, "the trainer answered with what is no Job");
    /* An id that cannot be one is of no job either. */
    if ((job && !job->fine_tuning) || *r == E_NOT_FOUND || (*r == E_INVALID && strcmp(err->param, "id") == 0))
        *r = error_set_param(err, E_NOT_FOUND, "fine_tuning_job_id", "Could not find fine tune: %s", x->match.n_params ? exchange_param(x, 0) : job ? job->id
                                                                                                                                                    : "");
    if (*r < 0 && job) {
        message_free(&job->base);
        job = NULL;
    }
    return job;
}

static void answer_job(struct exchange *x, void *arg, struct span packed, int r, const struct error *why) {
    struct error err = *why;
    struct buf body;
    struct json_out w;
    Genloop__V1__Job *job = job_of(x, packed, &r, &err);
    (void)arg;
    buf_init(&body, JOB_JSON_MAX);
    json_begin(&w, &body);
    if (job) {
        write_job(&w, x, job);
        message_free(&job->base);
    }
    answer_json(x, &body, r, &err);
}

/* ---- create ---- */

struct creating {
    struct arena arena;
    Genloop__V1__FineTuning f;
    char id[IDEMPOTENCY_ID_MAX];
};

static void creating_free(void *arg) {
    struct creating *c = arg;
    arena_fini(&c->arena);
    mem_free(c);
}

static bool same_text(const char *a, const char *b) { return strcmp(a, b) == 0; }

/* Under an Idempotency-Key the job may be one that was there already: then it must be the one that is asked for. */
static bool is_mine(const struct creating *c, const Genloop__V1__Job *job) {
    const Genloop__V1__FineTuning *f = job->fine_tuning;
    return f && same_text(f->training_file, c->f.training_file) && same_text(f->validation_file, c->f.validation_file) && same_text(f->model, c->f.model) && same_text(f->suffix, c->f.suffix) &&
           same_text(f->method, c->f.method);
}

static void on_created(struct exchange *x, void *arg, struct span packed, int r, const struct error *why) {
    struct creating *c = arg;
    struct error err = *why;
    Genloop__V1__Job *job = r == 0 ? MESSAGE_UNPACK(Job, job, packed) : NULL;
    bool mine = !job || is_mine(c, job);
    if (job) message_free(&job->base);
    creating_free(c);
    if (!mine || r == E_EXISTS) {
        idempotency_mismatch(x);
        return;
    }
    /* In the client's words: it knows of files and a model. */
    if (r < 0 && strcmp(err.param, "dataset") == 0) span_copy(err.param, sizeof err.param, SPAN("training_file"));
    if (r == E_NOT_FOUND && strcmp(err.param, "base_model") == 0) {
        span_copy(err.param, sizeof err.param, SPAN("model"));
        exchange_error_code(x, &err, "model_not_found");
        return;
    }
    if (r < 0 && strcmp(err.param, "base_model") == 0) span_copy(err.param, sizeof err.param, SPAN("model"));
    answer_job(x, NULL, packed, r, &err);
}

static void on_dataset(struct exchange *x, void *arg, struct span packed, int r, const struct error *why) {
    struct creating *c = arg;
    struct error err = *why;
    Genloop__V1__CreateJobRequest q;
    char dataset[256];
    Genloop__V1__Dataset *d = r == 0 ? MESSAGE_UNPACK(Dataset, dataset, packed) : NULL;
    if (r == 0 && !d) r = error_set(&err, E_UNKNOWN, "ingest answered with what is no Dataset");
    if (r < 0) {
        creating_free(c);
        if (r == E_NOT_FOUND) err.code = E_INVALID; /* what the body names: OpenAI answers 400 */
        exchange_error(x, &err);
        return;
    }
    (void)snprintf(dataset, sizeof dataset, "%.128s@%u", d->name, d->version);
    message_free(&d->base);
    genloop__v1__create_job_request__init(&q);
    q.id = c->id;
    q.dataset = dataset;
    q.base_model = c->f.model;
    q.fine_tuning = &c->f;
    q.reason = (char *)(uintptr_t) "fine-tuning API";
    q.kind = GENLOOP__V1__JOB_KIND__JOB_KIND_TRAIN;
    (void)ask_service(x, &(struct ask){.service = "trainer", .method = "Training/Create", .request = &q.base, .again = true, .arg = c, .on_answer = on_created, .on_gone = creating_free});
}

/* Before anything is made of the files: is there such a model? */
static int find_model(struct exchange *x, const struct creating *c, bool *waits, struct error *err) {
    const struct fold *f = registry_fold(x->gateway->registry);
    const Genloop__V1__ModelVersion *v;
    *waits = false;
    if (!registry_caught_up(x->gateway->registry) || !service_peer(x->gateway->service, "trainer")) {
        *waits = exchange_wait(x);
        return *waits ? 0 : error_set(err, E_UNAVAILABLE, "the gateway does not know all services yet: try again in a moment");
    }
    if (!f) return error_set_param(err, E_NOT_FOUND, "model", "there is no model %.64s", c->f.model);
    int r = fold_resolve(f, span_str(c->f.model), 99, &v, NULL, err);
    if (r < 0) span_copy(err->param, sizeof err->param, SPAN("model"));
    return r;
}

static int begin(struct exchange *x, const struct json *body, struct creating *c, bool *waits, struct error *err) {
    char uuid[ID_TEXT_MAX];
    int r = fine_tuning_request_read(body, &c->arena, &c->f, err);
    if (r == 0) r = find_model(x, c, waits, err);
    if (r == 0) r = idempotency_id(x, "ftjob-", c->id, err);
    if (r == 0 && !c->id[0]) {
        size_t n = 6;
        memcpy(c->id, "ftjob-", 6);
        for (const char *u = id_make(uuid); *u; u++)
            if (*u != '-') c->id[n++] = *u;
    }
    if (r == 0 && !c->f.seed) { /* as OpenAI: one is drawn, and told */
        uint32_t drawn;
        random_bytes(&drawn, sizeof drawn);
        c->f.seed = 1 + drawn % INT32_MAX;
    }
    return r;
}

void fine_tuning_create(struct exchange *x, const struct json *body) {
    struct error err = {0};
    bool waits = false;
    struct creating *c = mem_zalloc(sizeof *c);
    if (!c) {
        (void)error_set(&err, E_NOMEM, "no memory for the request");
        exchange_error(x, &err);
        return;
    }
    arena_init(&c->arena, FINE_TUNING_ARENA);
    int r = begin(x, body, c, &waits, &err);
    if (r < 0 || waits) {
        creating_free(c);
        if (r < 0) exchange_error_code(x, &err, r == E_NOT_FOUND ? "model_not_found" : NULL);
        return;
    }
    Genloop__V1__DatasetFromFilesRequest q;
    genloop__v1__dataset_from_files_request__init(&q);
    q.training_file = c->f.training_file;
    q.validation_file = c->f.validation_file;
    q.kind = strcmp(c->f.method, "dpo") == 0 ? GENLOOP__V1__DATASET_KIND__DATASET_KIND_PREFERENCE : GENLOOP__V1__DATASET_KIND__DATASET_KIND_SUPERVISED;
    if (!ask_service(x, &(struct ask){.service = "ingest", .method = "Ingest/DatasetFromFiles", .request = &q.base, .arg = c, .on_answer = on_dataset, .on_gone = creating_free})) creating_free(c);
}

/* ---- lists ---- */

static int read_page(const struct exchange *x, uint32_t most, struct page *page, struct error *err) {
    static const char *const names[] = {"after", "limit", NULL};
    int r = query_check(http_query(x->http), names, err);
    return r ? r : page_read(http_query(x->http), PAGE_DEFAULT, most, page, err);
}

static void on_list(struct exchange *x, void *arg, struct span packed, int r, const struct error *why) {
    struct error err = *why;
    struct buf body;
    struct json_out w;
    Genloop__V1__ListFineTuningReply *m = r == 0 ? MESSAGE_UNPACK(ListFineTuningReply, list_fine_tuning_reply, packed) : NULL;
    (void)arg;
    if (r == 0 && !m) r = error_set(&err, E_UNKNOWN, "the trainer answered with what is no ListFineTuningReply");
    if (r == E_NOT_FOUND) err.code = r = E_INVALID; /* the page is not there, the list is */
    if (r < 0) span_copy(err.param, sizeof err.param, span_str(strcmp(err.param, "id") == 0 ? "after" : err.param));
    buf_init(&body, LIST_JSON_MAX);
    page_begin(&w, &body);
    for (size_t i = 0; m && i < m->n_jobs; i++)
        if (m->jobs[i]->fine_tuning) write_job(&w, x, m->jobs[i]);
    page_end_plain(&w, m && m->has_more);
    if (m) message_free(&m->base);
    answer_json(x, &body, r, &err);
}

/* metadata[KEY]=VALUE of the query; any other name but after and limit is refused. */
static int read_metadata(struct exchange *x, struct arena *arena, Genloop__V1__ListFineTuningRequest *q, struct error *err) {
    enum { MOST = 16 };
    struct span query = http_query(x->http), name, value;
    Genloop__V1__ListFineTuningRequest__MetadataEntry **list = arena_calloc(arena, MOST, sizeof *list);
    if (!list) return error_set(err, E_NOMEM, "no memory for the request");
    q->metadata = list;
    while (http_query_next(&query, &name, &value)) {
        struct buf key, text;
        buf_init(&key, 1024);
        buf_init(&text, 1024);
        int r = http_percent_decode(name, true, &key);
        if (r == 0) r = http_percent_decode(value, true, &text);
        struct span k = buf_span(&key);
        bool page = span_eq_str(k, "after") || span_eq_str(k, "limit"), metadata = span_starts(k, SPAN("metadata[")) && span_ends(k, SPAN("]"));
        if (r == 0 && metadata && q->n_metadata < MOST) {
            Genloop__V1__ListFineTuningRequest__MetadataEntry *e = arena_alloc(arena, sizeof *e);
            struct span kept = arena_span(arena, span_sub(k, 9, k.len - 10)), kept_value = arena_span(arena, buf_span(&text));
            if (e && kept.data && kept_value.data) {
                genloop__v1__list_fine_tuning_request__metadata_entry__init(e);
                e->key = (char *)(uintptr_t)kept.data;
                e->value = (char *)(uintptr_t)kept_value.data;
                list[q->n_metadata++] = e;
            } else
                r = error_set(err, E_NOMEM, "no memory for the request");
        } else if (r < 0 || !page) {
            char param[ERROR_PARAM_MAX];
            r = error_set_param(err, E_INVALID, span_copy(param, sizeof param, r < 0 ? name : k), "unrecognized or malformed parameter '%s' in the query", param);
        }
        buf_fini(&key);
        buf_fini(&text);
        if (r < 0) return r;
    }
    return 0;
}

void fine_tuning_list(struct exchange *x, const struct json *body) {
    Genloop__V1__ListFineTuningRequest q;
    struct error err = {0};
    struct arena arena;
    struct page page;
    (void)body;
    genloop__v1__list_fine_tuning_request__init(&q);
    arena_init(&arena, 64 * 1024);
    int r = read_metadata(x, &arena, &q, &err);
    if (r == 0) r = page_read(http_query(x->http), PAGE_DEFAULT, PAGE_MAX, &page, &err);
    if (r == 0) {
        q.after = page.after;
        q.limit = page.limit;
        (void)ask_service(x, &(struct ask){.service = "trainer", .method = "Training/ListFineTuning", .request = &q.base, .on_answer = on_list});
    }
    arena_fini(&arena);
    if (r < 0) exchange_error(x, &err);
}

/* ---- one job ---- */

static bool ask_job(struct exchange *x, const char *method, bool again, void *arg, void (*on_answer)(struct exchange *x, void *arg, struct span packed, int r, const struct error *err)) {
    Genloop__V1__GetJobRequest q;
    genloop__v1__get_job_request__init(&q);
    q.id = (char *)(uintptr_t)exchange_param(x, 0);
    return ask_service(x, &(struct ask){.service = "trainer", .method = method, .request = &q.base, .again = again, .arg = arg, .on_answer = on_answer});
}

void fine_tuning_get(struct exchange *x, const struct json *body) {
    (void)body;
    (void)ask_job(x, "Training/Get", false, NULL, answer_job);
}

/* Other jobs are not changed by this door: what it is, is looked at first. */
static bool is_found(struct exchange *x, struct span packed, int r, const struct error *why, Genloop__V1__Job **found) {
    struct error err = *why;
    Genloop__V1__Job *job = job_of(x, packed, &r, &err);
    if (!job) exchange_error(x, &err);
    else if (found) *found = job;
    else message_free(&job->base);
    return r == 0;
}

static void on_found_to_cancel(struct exchange *x, void *arg, struct span packed, int r, const struct error *why) {
    (void)arg;
    if (is_found(x, packed, r, why, NULL)) (void)ask_job(x, "Training/Cancel", true, NULL, answer_job);
}

static void ask_change(struct exchange *x, Genloop__V1__JobWish wish) {
    Genloop__V1__ChangeJobRequest q;
    genloop__v1__change_job_request__init(&q);
    q.id = (char *)(uintptr_t)exchange_param(x, 0);
    q.wish = wish;
    (void)ask_service(x, &(struct ask){.service = "trainer", .method = "Training/Change", .request = &q.base, .again = true, .on_answer = answer_job});
}

static void on_found_to_pause(struct exchange *x, void *arg, struct span packed, int r, const struct error *why) {
    (void)arg;
    if (is_found(x, packed, r, why, NULL)) ask_change(x, GENLOOP__V1__JOB_WISH__JOB_WISH_PAUSE);
}

static void on_found_to_resume(struct exchange *x, void *arg, struct span packed, int r, const struct error *why) {
    (void)arg;
    if (is_found(x, packed, r, why, NULL)) ask_change(x, GENLOOP__V1__JOB_WISH__JOB_WISH_RUN);
}

void fine_tuning_cancel(struct exchange *x, const struct json *body) {
    (void)body;
    (void)ask_job(x, "Training/Get", false, NULL, on_found_to_cancel);
}

void fine_tuning_pause(struct exchange *x, const struct json *body) {
    (void)body;
    (void)ask_job(x, "Training/Get", false, NULL, on_found_to_pause);
}

void fine_tuning_resume(struct exchange *x, const struct json *body) {
    (void)body;
    (void)ask_job(x, "Training/Get", false, NULL, on_found_to_resume);
}

/* ---- events ---- */

static void put_metrics(struct json_out *w, const Genloop__V1__JobProgress *p) {
    json_object(w);
    json_num(w, "step", (int64_t)p->step);
    json_num(w, "total_steps", (int64_t)p->steps);
    json_flt(w, "train_loss", p->loss);
    json_flt(w, "grad_norm", p->grad_norm);
    json_flt(w, "learning_rate", p->learning_rate);
    json_num(w, "tokens", (int64_t)p->tokens);
    json_object_end(w);
}

static void on_events(struct exchange *x, void *arg, struct span packed, int r, const struct error *why) {
    struct error err = *why;
    struct buf body;
    struct json_out w;
    Genloop__V1__ListJobEventsReply *m = r == 0 ? MESSAGE_UNPACK(ListJobEventsReply, list_job_events_reply, packed) : NULL;
    (void)arg;
    if (r == 0 && !m) r = error_set(&err, E_UNKNOWN, "the trainer answered with what is no ListJobEventsReply");
    buf_init(&body, LIST_JSON_MAX);
    page_begin(&w, &body);
    for (size_t i = 0; m && i < m->n_events; i++) {
        const Genloop__V1__JobEvent *e = m->events[i];
        json_object(&w);
        json_str(&w, "object", "fine_tuning.job.event");
        json_str(&w, "id", e->id);
        json_num(&w, "created_at", e->time_ms / 1000);
        json_str(&w, "level", e->level);
        json_str(&w, "message", e->message);
        json_str(&w, "type", e->progress ? "metrics" : "message");
        json_key(&w, "data");
        if (e->progress) put_metrics(&w, e->progress);
        else json_put_null(&w);
        json_object_end(&w);
    }
    page_end_plain(&w, m && m->has_more);
    if (m) message_free(&m->base);
    answer_json(x, &body, r, &err);
}

static void on_found_for_events(struct exchange *x, void *arg, struct span packed, int r, const struct error *why) {
    struct page page;
    struct error err = {0};
    Genloop__V1__ListJobEventsRequest q;
    (void)arg;
    if (!is_found(x, packed, r, why, NULL)) return;
    if (read_page(x, EVENTS_MAX, &page, &err) < 0) {
        exchange_error(x, &err);
        return;
    }
    genloop__v1__list_job_events_request__init(&q);
    q.id = (char *)(uintptr_t)exchange_param(x, 0);
    q.after = page.after;
    q.limit = page.limit;
    (void)ask_service(x, &(struct ask){.service = "trainer", .method = "Training/ListEvents", .request = &q.base, .again = true, .on_answer = on_events});
}

void fine_tuning_events(struct exchange *x, const struct json *body) {
    (void)body;
    (void)ask_job(x, "Training/Get", false, NULL, on_found_for_events);
}

/* ---- checkpoints: what a job leaves that is a model; those that it goes on from after a crash are none ---- */

static void write_checkpoint(struct json_out *w, const Genloop__V1__Job *job) {
    static const char *const figures[][2] = {{"loss", "train_loss"}, {"evaluate_loss", "full_valid_loss"}};
    char id[160];
    (void)snprintf(id, sizeof id, "ftckpt-%.100s", strncmp(job->id, "ftjob-", 6) == 0 ? job->id + 6 : job->id);
    json_object(w);
    json_str(w, "object", "fine_tuning.job.checkpoint");
    json_str(w, "id", id);
    json_num(w, "created_at", job->finished_time_ms / 1000);
    json_str(w, "fine_tuned_model_checkpoint", job->model);
    json_str(w, "fine_tuning_job_id", job->id);
    json_num(w, "step_number", (int64_t)job->steps);
    json_key(w, "metrics");
    json_object(w);
    json_num(w, "step", (int64_t)job->steps);
    for (size_t i = 0; i < 2; i++) {
        const Genloop__V1__Figure *f = figure_of(job, figures[i][0]);
        if (f) json_flt(w, figures[i][1], f->value);
    }
    json_object_end(w);
    json_object_end(w);
}

static void on_found_for_checkpoints(struct exchange *x, void *arg, struct span packed, int r, const struct error *why) {
    struct page page;
    struct error err = {0};
    struct buf body;
    struct json_out w;
    Genloop__V1__Job *job = NULL;
    (void)arg;
    if (!is_found(x, packed, r, why, &job)) return;
    r = read_page(x, PAGE_MAX, &page, &err);
    buf_init(&body, LIST_JSON_MAX);
    page_begin(&w, &body);
    if (job->state == STATE(SUCCEEDED) && !page.after[0]) write_checkpoint(&w, job); /* behind the only one there is nothing */
    page_end_plain(&w, false);
    message_free(&job->base);
    answer_json(x, &body, r, &err);
}

void fine_tuning_checkpoints(struct exchange *x, const struct json *body) {
    (void)body;
    (void)ask_job(x, "Training/Get", false, NULL, on_found_for_checkpoints);
}
