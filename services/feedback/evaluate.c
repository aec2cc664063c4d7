/* What an evaluation measures, and the verdict on what was measured. */
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "feedback.h"
#include "model/model_dir.h"
#include "registry/trait.h"

enum { LINEAGE_MAX = 64 }; /* bases of bases that are looked through for a data set of texts */

/* ---- looking up ---- */

struct copying {
    struct span model;
    Genloop__V1__ModelVersion *copy;
    int r;
    struct error *err;
};

static void copy_version(void *arg, const struct ledger *ledger) {
    struct copying *c = arg;
    struct registry_state state;
    const Genloop__V1__ModelVersion *v = NULL;
    ledger_state(ledger, &state);
    c->r = fold_resolve(state.fold, c->model, 99, &v, NULL, c->err);
    if (c->r != 0) return;
    struct buf packed;
    buf_init(&packed, EVENT_VALUE_MAX);
    if (record_pack(&v->base, &packed) == 0) c->copy = (Genloop__V1__ModelVersion *)record_unpack(&genloop__v1__model_version__descriptor, buf_span(&packed));
    if (!c->copy) c->r = error_set(c->err, E_NOMEM, "no memory for a model version");
    buf_fini(&packed);
}

int registry_copy(struct feedback_service *s, struct span model, Genloop__V1__ModelVersion **version, struct error *err) {
    struct copying c = {.model = model, .err = err};
    holder_read(s->holder, &c, copy_version);
    if (c.r == 0) *version = c.copy;
    return c.r;
}

struct production {
    struct span name;
    char *full;
};

static void find_production(void *arg, const struct ledger *ledger) {
    struct production *p = arg;
    struct registry_state state;
    ledger_state(ledger, &state);
    const Genloop__V1__ModelVersion *v = fold_production(state.fold, p->name);
    p->full[0] = 0;
    if (v) model_name_format(p->name, v->version, p->full);
}

void registry_production(struct feedback_service *s, struct span name, char full[MODEL_FULL_NAME_MAX]) {
    struct production p = {name, full};
    holder_read(s->holder, &p, find_production);
}

/* "name@version" of a data set; E_NOT_FOUND where it is none or not there. */
static int get_dataset(struct feedback_service *s, const char *full, Genloop__V1__Dataset **dataset) {
    struct span text = span_str(full), name;
    if (!span_cut(&text, '@', &name) || name.len == 0) return E_NOT_FOUND;
    uint64_t version = 0;
    if (text.len && (span_to_u64(text, &version) != 0 || version > UINT32_MAX)) return E_NOT_FOUND;
    return facts_dataset(&s->facts, name, (uint32_t)version, dataset, NULL);
}

int version_file(struct feedback_service *s, const Genloop__V1__ModelVersion *v, const char *path, char sha256[SHA256_HEX_MAX], struct error *err) {
    sha256[0] = 0;
    if (!v->directory || !v->directory->sha256[0]) return 0;
    struct buf text;
    struct json *manifest = NULL;
    buf_init(&text, 4 * 1024 * 1024);
    int r = store_get(s->facts.store, v->directory->sha256, &text, err);
    if (r == 0) r = json_parse(buf_span(&text), &manifest, err);
    if (r == 0) span_copy(sha256, SHA256_HEX_MAX, json_string(json_get(json_get(json_get(manifest, "files"), path), "sha256")));
    json_free(manifest);
    buf_fini(&text);
    return r;
}

/* The trait that the improvement asked for, of which this version came. */
struct trait_search {
    const char *job_id;
    char trait[32];
};

static int look_for_trait(void *arg, int64_t position, const ProtobufCMessage *message) {
    struct trait_search *t = arg;
    const Genloop__V1__AuditRecord *record = (const Genloop__V1__AuditRecord *)message;
    (void)position;
    if (span_eq_str(audit_detail_get(record, "job"), t->job_id)) span_copy(t->trait, sizeof t->trait, audit_detail_get(record, "trait"));
    return 0;
}

/* ---- the plan ---- */

struct plan {
    char held_out[128], preferences[128], tokenizer[SHA256_HEX_MAX];
};

/* By its config.json: an encoder generates nothing that held-out texts could be compared with. A version whose files say nothing is taken for a model that does. */
static bool is_encoder(struct feedback_service *s, const Genloop__V1__ModelVersion *v) {
    char sha256[SHA256_HEX_MAX];
    struct model_config config;
    struct error err = {0};
    struct buf text;
    buf_init(&text, MODEL_CONFIG_FILE_MAX);
    bool is = version_file(s, v, "config.json", sha256, &err) == 0 && sha256[0] && store_get(s->facts.store, sha256, &text, &err) == 0 && model_config_parse(buf_span(&text), &config, &err) == 0 &&
              config.arch->kind == MODEL_ENCODER;
    buf_fini(&text);
    return is;
}

/* Goes back over the bases of a version to the data set of texts that its line began with. */
static int plan_data(struct feedback_service *s, const Genloop__V1__ModelVersion *candidate, struct plan *p, struct error *err) {
    char dataset[128], base[MODEL_FULL_NAME_MAX];
    bool first = true;
    span_copy(dataset, sizeof dataset, span_str(candidate->lineage ? candidate->lineage->dataset : ""));
    span_copy(base, sizeof base, span_str(candidate->lineage ? candidate->lineage->base_model : ""));
    for (int i = 0; i < LINEAGE_MAX; i++, first = false) {
        Genloop__V1__Dataset *d = NULL;
        if (get_dataset(s, dataset, &d) == 0) {
            char full[128];
            snprintf(full, sizeof full, "%.100s@%u", d->name, d->version);
            if (d->kind == GENLOOP__V1__DATASET_KIND__DATASET_KIND_TEXT && !p->held_out[0]) memcpy(p->held_out, full, sizeof full);
            if (d->kind == GENLOOP__V1__DATASET_KIND__DATASET_KIND_PREFERENCE && first) memcpy(p->preferences, full, sizeof full);
            /* From scratch: the tokenizer of its data. */
            if (first && !base[0] && d->tokenizer) span_copy(p->tokenizer, sizeof p->tokenizer, span_str(d->tokenizer->sha256));
            record_free(&d->base);
        }
        if (p->held_out[0] && !(first && base[0])) break;
        if (!base[0]) break;
        Genloop__V1__ModelVersion *b = NULL;
        if (registry_copy(s, span_str(base), &b, NULL) != 0) break;
        int r = first ? version_file(s, b, "tokenizer.json", p->tokenizer, err) : 0;
        span_copy(dataset, sizeof dataset, span_str(b->lineage ? b->lineage->dataset : ""));
        span_copy(base, sizeof base, span_str(b->lineage ? b->lineage->base_model : ""));
        record_free(&b->base);
        if (r != 0) return r;
    }
    if (is_encoder(s, candidate)) {
        span_copy(p->held_out, sizeof p->held_out, SPAN(EVALUATION_PROSE));
        p->preferences[0] = 0;
    }
    if (!p->held_out[0]) {
        Genloop__V1__Dataset *d = NULL;
        if (facts_dataset_newest_text(&s->facts, &d, NULL) == 0) {
            snprintf(p->held_out, sizeof p->held_out, "%.100s@%u", d->name, d->version);
            record_free(&d->base);
        } else {
            span_copy(p->held_out, sizeof p->held_out, SPAN(EVALUATION_PROSE)); /* a platform without texts of its own: said so in the evidence */
        }
    }
    /* What this platform's own judges said, in its newest form, is what a version that learnt from preferences is measured on, whichever set it names as its own. */
    if (p->preferences[0]) {
        char name[SETS_NAME_MAX];
        Genloop__V1__Dataset *d = NULL;
        snprintf(name, sizeof name, "%.64s-preferences", candidate->name);
        if (facts_dataset(&s->facts, span_str(name), 0, &d, NULL) == 0) {
            snprintf(p->preferences, sizeof p->preferences, "%.100s@%u", d->name, d->version);
            record_free(&d->base);
        }
    }
    return 0;
}

int evaluate_plan(struct feedback_service *s, struct span model, struct span trait, struct span job_id, struct span reason, struct buf *out, struct error *err) {
    if (trait.len && !trait_known(trait)) return error_set_param(err, E_INVALID, "trait", "there is no trait %.*s", (int)(trait.len < 64 ? trait.len : 64), trait.data);
    Genloop__V1__ModelVersion *v = NULL;
    int r = registry_copy(s, model, &v, err);
    if (r != 0) return r;
    const struct settings *c = s->settings;
    struct plan plan = {0};
    struct trait_search search = {.job_id = v->lineage ? v->lineage->job_id : ""};
    char candidate[MODEL_FULL_NAME_MAX], baseline[MODEL_FULL_NAME_MAX];
    struct arena arena;
    arena_init(&arena, 64 * 1024);
    model_name_format(span_str(v->name), v->version, candidate);
    registry_production(s, span_str(v->name), baseline);
    if (strcmp(candidate, baseline) == 0) baseline[0] = 0;
    r = plan_data(s, v, &plan, err);
    if (r == 0 && !trait.len && search.job_id[0]) r = facts_each_audit_action(&s->facts, SPAN(IMPROVE_ACTION), 500, &search, look_for_trait, err);
    if (r == 0) {
        Genloop__V1__CreateJobRequest q = GENLOOP__V1__CREATE_JOB_REQUEST__INIT;
        Genloop__V1__EvaluateSpec spec = GENLOOP__V1__EVALUATE_SPEC__INIT;
        spec.candidate = candidate;
        spec.baseline = baseline;
        spec.held_out = plan.held_out;
        spec.preferences = baseline[0] ? plan.preferences : (char *)(uintptr_t) "";
        spec.documents_max = (uint32_t)c->documents;
        spec.prompts = (uint32_t)c->prompts;
        spec.sample_tokens = (uint32_t)c->sample_tokens;
        spec.multiply_adds_max = (uint64_t)(c->multiply_adds * 1e12);
        spec.documents_min = (uint32_t)(c->gates.documents_min < c->documents ? c->gates.documents_min : c->documents);
        spec.prompts_min = (uint32_t)(c->gates.samples_min < c->prompts ? c->gates.samples_min : c->prompts);
        spec.seed = (uint64_t)c->seed;
        spec.temperature = c->temperature;
        spec.trait = arena_printf(&arena, "%.*s", SPAN_ARG(trait.len ? trait : search.trait[0] ? span_str(search.trait) : span_str(c->trait)));
        spec.tokenizer = plan.tokenizer;
        q.id = arena_printf(&arena, "%.*s", SPAN_ARG(job_id));
        q.reason = arena_printf(&arena, "%.*s", SPAN_ARG(reason));
        q.kind = GENLOOP__V1__JOB_KIND__JOB_KIND_EVALUATE;
        q.model = candidate;
        q.evaluate = &spec;
        r = spec.trait && q.id && q.reason ? record_pack(&q.base, out) : E_NOMEM;
        if (r != 0) error_set(err, r, "no memory for a request to evaluate");
    }
    arena_fini(&arena);
    record_free(&v->base);
    return r;
}

/* ---- the verdict ---- */

static int tell_limits(const struct gate_limits *limits, struct arena *arena, Genloop__V1__Evaluation *out, struct error *err) {
    out->limits = arena_calloc(arena, GATE_LIMITS_COUNT, sizeof *out->limits);
    Genloop__V1__Figure *figures = arena_calloc(arena, GATE_LIMITS_COUNT, sizeof *figures);
    if (!out->limits || !figures) return error_set(err, E_NOMEM, "no memory for a verdict");
    for (int i = 0; i < GATE_LIMITS_COUNT; i++) {
        genloop__v1__figure__init(&figures[i]);
        if (!(figures[i].name = arena_strdup(arena, gate_limit_name(i)))) return error_set(err, E_NOMEM, "no memory for a verdict");
        figures[i].value = figures[i].low = figures[i].high = gate_limit_get(limits, i);
        out->limits[out->n_limits++] = &figures[i];
    }
    return 0;
}

static int tell_figures(const struct gate_verdict *verdict, struct arena *arena, Genloop__V1__Evaluation *out, struct error *err) {
    out->figures = arena_calloc(arena, verdict->n_figures + 1, sizeof *out->figures);
    out->gates = arena_calloc(arena, verdict->n_gates + 1, sizeof *out->gates);
    Genloop__V1__Figure *figures = arena_calloc(arena, verdict->n_figures + 1, sizeof *figures);
    Genloop__V1__GateResult *gates = arena_calloc(arena, verdict->n_gates + 1, sizeof *gates);
    if (!out->figures || !out->gates || !figures || !gates) return error_set(err, E_NOMEM, "no memory for a verdict");
    for (size_t i = 0; i < verdict->n_figures; i++) {
        const struct gate_figure *f = &verdict->figures[i];
        genloop__v1__figure__init(&figures[i]);
        figures[i].name = arena_strdup(arena, f->name);
        figures[i].value = f->value;
        figures[i].low = f->low;
        figures[i].high = f->high;
        figures[i].samples = f->samples;
        if (!figures[i].name) return error_set(err, E_NOMEM, "no memory for a verdict");
        out->figures[out->n_figures++] = &figures[i];
    }
    for (size_t i = 0; i < verdict->n_gates; i++) {
        const struct gate_result *g = &verdict->gates[i];
        genloop__v1__gate_result__init(&gates[i]);
        gates[i].gate = arena_strdup(arena, g->gate);
        gates[i].rule = arena_strdup(arena, g->rule);
        gates[i].passed = g->passed;
        gates[i].value = g->value;
        gates[i].low = g->low;
        gates[i].high = g->high;
        gates[i].threshold = g->threshold;
        gates[i].margin = g->margin;
        gates[i].samples = g->samples;
        if (!gates[i].gate || !gates[i].rule) return error_set(err, E_NOMEM, "no memory for a verdict");
        out->gates[out->n_gates++] = &gates[i];
    }
    return 0;
}

/* The measurement belongs to a job that was asked for, and is of what that job names. */
static int check_measured(const Genloop__V1__Evaluation *e, const Genloop__V1__Job *job, const struct evaluation_record *record, struct error *err) {
    const Genloop__V1__EvaluateSpec *spec = job->evaluate;
    if (job->kind != GENLOOP__V1__JOB_KIND__JOB_KIND_EVALUATE || !spec) return error_set(err, E_STATE, "evaluation %s belongs to job %s, which evaluates nothing", e->id, job->id);
    if (strcmp(spec->candidate, e->candidate) != 0 || !span_eq_str(evaluation_record_candidate(record), spec->candidate) ||
        !span_eq_str(evaluation_record_baseline(record), spec->baseline))
        return error_set(err, E_STATE, "the record of evaluation %s is of %.*s against \"%.*s\"; asked for was %s against \"%s\"", e->id, SPAN_ARG(evaluation_record_candidate(record)),
                         SPAN_ARG(evaluation_record_baseline(record)), spec->candidate, spec->baseline);
    return 0;
}

int evaluate_judge(struct feedback_service *s, const Genloop__V1__Evaluation *measured, struct arena *arena, Genloop__V1__Evaluation **judged, struct error *err) {
    Genloop__V1__Job *job = NULL;
    struct evaluation_record *record = NULL;
    struct gate_verdict *verdict = arena_alloc(arena, sizeof *verdict);
    Genloop__V1__Evaluation *out = arena_alloc(arena, sizeof *out);
    Genloop__V1__ObjectRef *ref = arena_alloc(arena, sizeof *ref);
    struct buf text;
    if (!verdict || !out || !ref) return error_set(err, E_NOMEM, "no memory for a verdict");
    buf_init(&text, GATES_RECORD_MAX);
    if (!measured->record) return error_set(err, E_INVALID, "evaluation %s has no record", measured->id);
    int r = facts_job(&s->facts, span_str(measured->id), &job, err);
    if (r == 0) r = store_get(s->facts.store, measured->record->sha256, &text, err);
    if (r == 0) r = evaluation_record_parse(buf_span(&text), span_str(job->evaluate ? job->evaluate->tokenizer : ""), &record, err);
    if (r == 0) r = check_measured(measured, job, record, err);
    if (r == 0) r = gates_judge(record, &s->settings->gates, verdict, err);
    if (r == 0) {
        genloop__v1__evaluation__init(out);
        genloop__v1__object_ref__init(ref);
        ref->sha256 = arena_strdup(arena, measured->record->sha256);
        ref->media_type = arena_strdup(arena, measured->record->media_type);
        ref->size_bytes = measured->record->size_bytes;
        out->id = arena_strdup(arena, measured->id);
        out->candidate = arena_strdup(arena, measured->candidate);
        out->baseline = arena_strdup(arena, measured->baseline);
        out->record = ref;
        out->event_time_ms = clock_wall_ms();
        out->judged = true;
        out->passed = verdict->passed;
        if (!ref->sha256 || !ref->media_type || !out->id || !out->candidate || !out->baseline) r = error_set(err, E_NOMEM, "no memory for a verdict");
    }
    if (r == 0) r = tell_figures(verdict, arena, out, err);
    if (r == 0) r = tell_limits(&s->settings->gates, arena, out, err);
    if (r == 0) *judged = out;
    evaluation_record_free(record);
    if (job) record_free(&job->base);
    buf_fini(&text);
    return r;
}
