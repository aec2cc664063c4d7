/*
 * Create: what the request names is looked up (datasets and models as they are now, by version from here on), held against what the recipe needs, and the job is
 * written QUEUED; durable before the answer. The recipe in the record is the whole of it, with every default in its place, so that the record alone says what was trained.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/random.h"
#include "gates/gates.h"
#include "registry/record.h"
#include "services/trainer/fine_tuning.h"
#include "services/trainer/inputs.h"
#include "services/trainer/request.h"
#include "services/trainer/trainer.h"
#include "train/train.h"

struct creation {
    struct trainer *t;
    const struct create_context *asker;
    const Genloop__V1__CreateJobRequest *request;
    struct train_recipe *recipe;
    Genloop__V1__Dataset *dataset;
    Genloop__V1__ModelVersion *base; /* NULL: from scratch */
    struct json *manifest;
    uint32_t context; /* of the base; 0: not known */
    char model_name[MODEL_NAME_MAX]; /* of fine-tuning that names none */
    char dataset_name[DATASET_FULL_NAME_MAX], base_name[MODEL_FULL_NAME_MAX];
};

int publish_job(struct trainer *t, const Genloop__V1__Job *job, const char *what, struct error *err) {
    struct buf packed;
    char id[EVENT_ID_MAX + 1];
    buf_init(&packed, EVENT_VALUE_MAX);
    snprintf(id, sizeof id, "%s.%s", job->id, what);
    int r = record_pack(&job->base, &packed);
    struct event e = {.topic = TOPIC_JOBS, .key = span_str(job->id), .value = buf_span(&packed), .id = span_str(id)};
    r = r ? error_set(err, r, "the record of job %s is too large", job->id) : eventlog_publish(t->log, &e, err);
    buf_fini(&packed);
    return r ? r : view_wait(t->view, VIEW_WAIT_MS, err);
}

/* ---- what is named ---- */

static const char *dataset_param(const struct creation *c) { return c->request->dataset[0] ? "dataset" : "data.dataset"; }
static const char *base_param(const struct creation *c) { return c->request->base_model[0] ? "base_model" : "model.base"; }

/* In the asker's words: below they speak of a model or a name. */
static int named(int r, const char *param, struct error *err) {
    if (r && err && (r == E_NOT_FOUND || r == E_INVALID || r == E_STATE || r == E_UNSUPPORTED)) span_copy(err->param, sizeof err->param, span_str(param));
    return r;
}

static const char *kind_name(Genloop__V1__DatasetKind kind) {
    return kind == GENLOOP__V1__DATASET_KIND__DATASET_KIND_SUPERVISED ? "supervised" : kind == GENLOOP__V1__DATASET_KIND__DATASET_KIND_PREFERENCE ? "preference" : "text";
}

/* Which rows of a dataset an objective takes. */
static int rows_of(const struct creation *c, enum input *kind, struct error *err) {
    const Genloop__V1__Dataset *d = c->dataset;
    bool text = d->kind == GENLOOP__V1__DATASET_KIND__DATASET_KIND_TEXT, supervised = d->kind == GENLOOP__V1__DATASET_KIND__DATASET_KIND_SUPERVISED;
    bool fits = c->recipe->objective == RECIPE_PRETRAIN ? text : c->recipe->objective == RECIPE_SFT ? text || supervised : d->kind == GENLOOP__V1__DATASET_KIND__DATASET_KIND_PREFERENCE;
    if (!fits)
        return error_set_param(err, E_INVALID, dataset_param(c), "%s is a %s dataset; %s needs %s", c->dataset_name, kind_name(d->kind), recipe_objective_name(c->recipe->objective),
                               c->recipe->objective == RECIPE_PRETRAIN ? "one of texts" : c->recipe->objective == RECIPE_SFT ? "a supervised one, or one of texts that has questions and answers" : "one of preferences");
    *kind = c->recipe->objective == RECIPE_PRETRAIN ? INPUT_TOKENS : text ? INPUT_PAIRS : INPUT_SAMPLES;
    return 0;
}

static int find_dataset(struct creation *c, struct error *err) {
    struct span name;
    uint32_t version;
    enum input kind;
    int r = request_dataset(span_str(c->recipe->data.dataset), dataset_param(c), &name, &version, err);
    if (!r) r = named(view_dataset(c->t, c->asker->tenant, name, version, true, &c->dataset, err), dataset_param(c), err);
    if (r) return r;
    snprintf(c->dataset_name, sizeof c->dataset_name, "%.128s@%u", c->dataset->name, c->dataset->version);
    span_copy(c->recipe->data.dataset, sizeof c->recipe->data.dataset, span_str(c->dataset_name));
    r = named(inputs_manifest(c->t->store, c->dataset, &c->manifest, err), dataset_param(c), err);
    if (!r) r = rows_of(c, &kind, err);
    if (!r && kind == INPUT_TOKENS && !span_eq(json_string(json_get(c->manifest, "token_type")), SPAN("uint16")))
        r = error_set_param(err, E_UNSUPPORTED, dataset_param(c), "%s has a vocabulary above 65,536: training on uint32 tokens is not built yet", c->dataset_name);
    if (!r && !inputs_count(c->manifest, "train", kind))
        r = error_set_param(err, E_INVALID, dataset_param(c), "%s has no %s to train on", c->dataset_name, kind == INPUT_TOKENS ? "tokens" : kind == INPUT_PAIRS ? "questions and answers" : "rows");
    if (!r && c->recipe->evaluate.every && !inputs_count(c->manifest, "held_out", kind))
        r = error_set_param(err, E_INVALID, "evaluate.on", "%s has nothing held out of the kind that %s takes: leave evaluate.every out", c->dataset_name, recipe_objective_name(c->recipe->objective));
    return r;
}

static int read_context(struct creation *c, struct error *err) {
    struct buf text;
    struct json *config = NULL;
    buf_init(&text, 16 << 20);
    int r = named(inputs_model_file(c->t->store, c->base, "config.json", &text, NULL, err), base_param(c), err);
    if (!r && json_parse(buf_span(&text), &config, err)) r = error_set_param(err, E_DATA_LOSS, base_param(c), "the config.json of %s makes no sense", c->base_name);
    int64_t context = json_int(json_get(config, "max_position_embeddings"), json_int(json_get(config, "n_positions"), 0));
    if (!r && context > 0 && c->recipe->batch.length > context) r = error_set_param(err, E_RANGE, "batch.length", "batch.length is %u, the context of %s %lld", c->recipe->batch.length, c->base_name, (long long)context);
    if (!r && context > 0 && context <= RECIPE_LENGTH_MAX) c->context = (uint32_t)context;
    json_free(config);
    buf_fini(&text);
    return r;
}

static int find_base(struct creation *c, struct error *err) {
    char of_model[SHA256_HEX_MAX], of_dataset[SHA256_HEX_MAX];
    inputs_tokenizer_sha256(c->manifest, of_dataset);
    if (!c->recipe->model.base[0])
        return of_dataset[0] ? 0 : error_set_param(err, E_INVALID, base_param(c), "%s has no tokenizer for a model from scratch: name a base model, or a dataset of texts", c->dataset_name);
    int r = named(models_resolve(c->t, span_str(c->recipe->model.base), &c->base, err), base_param(c), err);
    if (r) return r;
    if (c->base->adapter) return error_set_param(err, E_UNSUPPORTED, base_param(c), "%s@%u is an adapter of %s: training on from one is not built yet; name the model below it", c->base->name, c->base->version, c->base->lineage->base_model);
    model_name_format(span_str(c->base->name), c->base->version, c->base_name);
    span_copy(c->recipe->model.base, sizeof c->recipe->model.base, span_str(c->base_name));
    r = named(inputs_model_file(c->t->store, c->base, "tokenizer.json", NULL, of_model, err), base_param(c), err);
    if (!r && c->recipe->objective == RECIPE_PRETRAIN && strcmp(of_model, of_dataset) != 0)
        r = error_set_param(err, E_INVALID, dataset_param(c), "the tokens of %s were made by another tokenizer than that of %s: build the dataset with tokenizer %s", c->dataset_name, c->base_name, c->base_name);
    if (!r) r = read_context(c, err);
    return r;
}

/* ---- a dry run: as far as the first step, in a folder that goes ---- */

static int report(const struct json *found, Genloop__V1__Job *job, struct buf *out, struct error *err) {
    static const char *const keys[] = {"parameters", "rows", "tokens", "rows_without_labels", "passes", "bytes"};
    enum { KEYS = sizeof keys / sizeof *keys };
    Genloop__V1__Figure figures[KEYS], *list[KEYS];
    for (size_t i = 0; i < KEYS; i++) {
        figures[i] = (Genloop__V1__Figure)GENLOOP__V1__FIGURE__INIT;
        figures[i].name = (char *)(uintptr_t)keys[i];
        figures[i].value = figures[i].low = figures[i].high = json_real(json_get(found, keys[i]), 0);
        figures[i].samples = 1;
        list[i] = &figures[i];
    }
    job->figures = list;
    job->n_figures = KEYS;
    int r = record_pack(&job->base, out);
    return r ? error_set(err, r, "no memory for the report") : 0;
}

static int dry_run(struct creation *c, Genloop__V1__Job *job, struct buf *out, struct error *err) {
    char dir[PATH_BYTES], relative[256], id[ID_TEXT_MAX], data[PATH_BYTES + 160], held_out[PATH_BYTES + 160], base[PATH_BYTES + 16], tokenizer[PATH_BYTES + 16];
    enum input kind;
    struct buf text;
    struct json *found = NULL;
    snprintf(relative, sizeof relative, "work/check-%.128s/%s", service_instance(c->t->service), id_make(id)); /* the instance's own: it is emptied at its start */
    service_path(c->t->service, relative, dir, sizeof dir);
    const char *suffix = c->recipe->objective == RECIPE_PRETRAIN ? "tokens" : "jsonl";
    snprintf(data, sizeof data, "%s/train.%s", dir, suffix);
    snprintf(held_out, sizeof held_out, "%s/held-out.%s", dir, suffix);
    snprintf(base, sizeof base, "%s/base", dir);
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer", dir);
    struct train_paths paths = {.data = data, .held_out = held_out, .base_dir = c->base ? base : NULL, .tokenizer_dir = c->base ? NULL : tokenizer};
    buf_init(&text, 1 << 16);
    int r = rows_of(c, &kind, err);
    if (!r) r = dir_make(dir, err);
    if (!r) r = inputs_file(c->t->store, c->manifest, "train", kind, data, err);
    if (!r && c->recipe->evaluate.every) r = inputs_file(c->t->store, c->manifest, "held_out", kind, held_out, err);
    if (!r) r = c->base ? inputs_model(c->t->store, c->base, base, err) : inputs_tokenizer(c->t->store, c->manifest, tokenizer, err);
    if (!r) {
        /* The folder's own path says nothing to who asked. */
        r = train_check(c->recipe, &paths, &text, err);
        if (!r) r = json_parse(buf_span(&text), &found, err);
    }
    if (!r) r = report(found, job, out, err);
    json_free(found);
    buf_fini(&text);
    (void)dir_remove(dir, NULL);
    return r;
}

/* ---- the record ---- */

static void actor_init(Genloop__V1__Actor *a, const struct create_context *context, char texts[3][256]) {
    genloop__v1__actor__init(a);
    a->id = span_copy(texts[0], 256, context->actor_id);
    a->scope = span_copy(texts[1], 256, context->actor_scope);
    a->claim = span_copy(texts[2], 256, context->actor_claim);
}

static int write_job(struct trainer *t, const struct create_context *context, Genloop__V1__Job *job, struct buf *out, struct error *err) {
    Genloop__V1__Job *there = NULL;
    int r = publish_job(t, job, "created", err);
    /* Of two that asked with one id at once the first has it: both are told the same job. */
    if (!r) r = view_job(t, span_str(job->id), false, &there, err);
    if (!r && !span_eq_str(context->tenant, there->tenant)) r = error_set_param(err, E_EXISTS, "id", "job id %s is taken", job->id);
    if (!r && record_pack(&there->base, out)) r = error_set(err, E_NOMEM, "no memory for a job");
    if (there) record_free(&there->base);
    return r;
}

/* Now that base and data are known: the recipe, and the name of what comes out. */
static int plan_fine_tuning(struct creation *c, Genloop__V1__Job *job, struct error *err) {
    enum input kind;
    int r = rows_of(c, &kind, err);
    if (!r) r = fine_tuning_recipe(c->request->fine_tuning, inputs_count(c->manifest, "train", kind), inputs_count(c->manifest, "held_out", kind) > 0, c->context, c->recipe, err);
    if (r) return r;
    job->fine_tuning = c->request->fine_tuning;
    if (!c->request->model[0]) job->model = fine_tuning_name(span_str(c->base->name), c->asker->tenant, span_str(c->request->fine_tuning->suffix), span_str(job->id), c->model_name);
    return 0;
}

static int create_training(struct creation *c, Genloop__V1__Job *job, struct buf *out, struct error *err) {
    struct buf recipe;
    buf_init(&recipe, 2 * REQUEST_RECIPE_MAX);
    job->model = c->request->model;
    int r = find_dataset(c, err);
    if (!r) r = find_base(c, err);
    if (!r && c->request->fine_tuning) r = plan_fine_tuning(c, job, err);
    if (!r && (recipe_write(c->recipe, &recipe) || !buf_cstr(&recipe))) r = error_set(err, E_NOMEM, "no memory for a recipe");
    if (!r) {
        job->kind = GENLOOP__V1__JOB_KIND__JOB_KIND_TRAIN;
        job->recipe = (char *)(uintptr_t)buf_cstr(&recipe);
        job->dataset = c->dataset_name;
        job->base_model = c->base_name;
        job->steps = c->recipe->steps;
        r = c->request->dry_run ? dry_run(c, job, out, err) : write_job(c->t, c->asker, job, out, err);
    }
    buf_fini(&recipe);
    return r;
}

/* ---- an evaluation ---- */

static int check_model(struct trainer *t, const char *full, const char *param, struct error *err) {
    Genloop__V1__ModelVersion *v = NULL;
    int r = named(models_resolve(t, span_str(full), &v, err), param, err);
    if (v) record_free(&v->base);
    return r;
}

static int check_split(struct creation *c, const char *full, const char *param, Genloop__V1__DatasetKind kind, struct error *err) {
    Genloop__V1__Dataset *d = NULL;
    struct json *manifest = NULL;
    struct span name;
    uint32_t version;
    int r = request_dataset(span_str(full), param, &name, &version, err);
    if (!r) r = named(view_dataset(c->t, c->asker->tenant, name, version, true, &d, err), param, err);
    if (!r && d->kind != kind) r = error_set_param(err, E_INVALID, param, "%s is a %s dataset, not one of kind %s", full, kind_name(d->kind), kind_name(kind));
    if (!r) r = named(inputs_manifest(c->t->store, d, &manifest, err), param, err);
    if (!r && kind == GENLOOP__V1__DATASET_KIND__DATASET_KIND_TEXT && !inputs_count(manifest, "held_out", INPUT_SAMPLES)) r = error_set_param(err, E_INVALID, param, "%s has no held-out documents", full);
    json_free(manifest);
    if (d) record_free(&d->base);
    return r;
}

static int create_evaluation(struct creation *c, Genloop__V1__Job *job, struct buf *out, struct error *err) {
    Genloop__V1__EvaluateSpec *s = c->request->evaluate;
    int r = check_model(c->t, s->candidate, "evaluate.candidate", err);
    if (!r && s->baseline[0]) r = check_model(c->t, s->baseline, "evaluate.baseline", err);
    if (!r && strcmp(s->held_out, EVALUATION_PROSE) != 0) r = check_split(c, s->held_out, "evaluate.held_out", GENLOOP__V1__DATASET_KIND__DATASET_KIND_TEXT, err);
    if (!r && s->preferences[0]) r = check_split(c, s->preferences, "evaluate.preferences", GENLOOP__V1__DATASET_KIND__DATASET_KIND_PREFERENCE, err);
    if (r) return r;
    job->kind = GENLOOP__V1__JOB_KIND__JOB_KIND_EVALUATE;
    job->model = s->candidate;
    job->dataset = s->held_out;
    job->evaluate = s;
    if (!c->request->dry_run) return write_job(c->t, c->asker, job, out, err);
    r = record_pack(&job->base, out);
    return r ? error_set(err, r, "no memory for a job") : 0;
}

/* ---- an import ---- */

/* The files are looked for now, so that who forgot to send one is told at once; what is in them the job finds out. */
static int create_import(struct creation *c, Genloop__V1__Job *job, struct buf *out, struct error *err) {
    const Genloop__V1__ImportSpec *s = c->request->import_spec;
    for (size_t i = 0; i < s->n_files; i++)
        if (!store_has(c->t->store, s->files[i]->content->sha256))
            return error_set_param(err, E_NOT_FOUND, "import_spec.files", "%s (sha256 %s) is not in the store: send it to /v1/files with purpose model first", s->files[i]->name, s->files[i]->content->sha256);
    job->kind = GENLOOP__V1__JOB_KIND__JOB_KIND_IMPORT;
    job->model = c->request->model;
    job->import_spec = c->request->import_spec;
    if (request_imports_adapter(s)) {
        int r = named(models_resolve(c->t, span_str(c->request->base_model), &c->base, err), "base_model", err);
        if (r) return r;
        model_name_format(span_str(c->base->name), c->base->version, c->base_name);
        if (c->base->adapter) return error_set_param(err, E_INVALID, "base_model", "%s is an adapter itself: name the model that it belongs to, %s", c->base_name, c->base->lineage->base_model);
        job->base_model = c->base_name;
    }
    return write_job(c->t, c->asker, job, out, err);
}

int create_job(struct trainer *t, const struct create_context *context, const Genloop__V1__CreateJobRequest *q, struct buf *out, struct error *err) {
    struct creation c = {.t = t, .asker = context, .request = q, .recipe = mem_zalloc(sizeof *c.recipe)};
    Genloop__V1__Job job = GENLOOP__V1__JOB__INIT, *there = NULL;
    Genloop__V1__Actor actor;
    char id[ID_TEXT_MAX], actor_texts[3][256];
    int r = c.recipe ? request_check(q, c.recipe, err) : error_set(err, E_NOMEM, "no memory for a job");
    if (!r && q->id[0] && !q->dry_run) { /* the same id again is the same job, whatever has become of what it names */
        r = view_job(t, span_str(q->id), true, &there, err);
        if (!r && !span_eq_str(context->tenant, there->tenant)) r = error_set_param(err, E_EXISTS, "id", "job id %s is taken", q->id);
        if (!r) {
            r = record_pack(&there->base, out) ? error_set(err, E_NOMEM, "no memory for a job") : 0;
            goto out;
        }
        if (r != E_NOT_FOUND) goto out;
        r = 0;
        if (err) *err = (struct error){0};
    }
    if (r) goto out;
    char *tenant = span_dup(context->tenant);
    if (!tenant) {
        r = error_set(err, E_NOMEM, "no memory for a job");
        goto out;
    }
    actor_init(&actor, context, actor_texts);
    job.id = q->id[0] ? q->id : id_make(id);
    job.tenant = tenant;
    job.state = q->dry_run ? JOB_STATE(UNSPECIFIED) : JOB_STATE(QUEUED);
    job.wish = GENLOOP__V1__JOB_WISH__JOB_WISH_RUN;
    job.event_time_ms = job.created_time_ms = clock_wall_ms();
    job.actor = &actor;
    job.reason = q->reason;
    r = q->kind == GENLOOP__V1__JOB_KIND__JOB_KIND_EVALUATE ? create_evaluation(&c, &job, out, err) : q->kind == GENLOOP__V1__JOB_KIND__JOB_KIND_IMPORT ? create_import(&c, &job, out, err) : create_training(&c, &job, out, err);
    mem_free(tenant);
out:
    if (there) record_free(&there->base);
    if (c.dataset) record_free(&c.dataset->base);
    if (c.base) record_free(&c.base->base);
    json_free(c.manifest);
    mem_free(c.recipe);
    return r;
}
