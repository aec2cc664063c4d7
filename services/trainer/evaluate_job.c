/* An evaluation: what it compares as files, the measuring, the record as an object, and the event that feedback judges. Killed, it is done again: the same inputs give the same record. */
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "registry/record.h"
#include "gates/gates.h"
#include "services/trainer/measure.h"
#include "services/trainer/measure_encoder.h"
#include "services/trainer/prose.h"
#include "services/trainer/runner.h"

enum { RECORD_MAX = 256 << 20 /* what the gates read */, TELL_EVERY_MS = 500 };

struct evaluation {
    struct run *run;
    char candidate[WORK_PATH_MAX], baseline[WORK_PATH_MAX], candidate_adapter[WORK_PATH_MAX], baseline_adapter[WORK_PATH_MAX], documents[WORK_PATH_MAX], prompts[WORK_PATH_MAX], preferences[WORK_PATH_MAX], work[WORK_PATH_MAX];
    int64_t told_ms;
    char phase[16];
};

/* Of an adapter the model that it belongs to, and beside that the adapter itself. */
static int get_model(struct run *run, const char *full, const char *relative, char path[WORK_PATH_MAX], char adapter[WORK_PATH_MAX], struct error *err) {
    Genloop__V1__ModelVersion *v = NULL, *base = NULL;
    char beside[64];
    int r = work_path(&run->work, relative, path, err);
    if (!r) r = models_resolve(run->t, span_str(full), &v, err);
    if (!r && v->adapter) {
        (void)snprintf(beside, sizeof beside, "%s-adapter", relative);
        r = work_path(&run->work, beside, adapter, err);
        if (!r) r = inputs_model(run->t->store, v, adapter, err);
        if (!r) r = models_resolve(run->t, span_str(v->lineage->base_model), &base, err);
    }
    if (!r) r = inputs_model(run->t->store, base ? base : v, path, err);
    if (base) record_free(&base->base);
    if (v) record_free(&v->base);
    return r;
}

static int get_rows(struct run *run, const char *full, enum input kind, const char *relative, char path[WORK_PATH_MAX], struct error *err) {
    Genloop__V1__Dataset *d = NULL;
    struct json *manifest = NULL;
    int r = work_path(&run->work, relative, path, err);
    if (!r) r = run_dataset(run, full, &d, &manifest, err);
    if (!r) r = inputs_file(run->t->store, manifest, "held_out", kind, path, err);
    json_free(manifest);
    if (d) record_free(&d->base);
    return r;
}

static int get_held_out(struct evaluation *v, const char *full, struct error *err) {
    struct run *run = v->run;
    if (strcmp(full, EVALUATION_PROSE) == 0) {
        int r = work_path(&run->work, "documents.jsonl", v->documents, err);
        if (!r) r = work_path(&run->work, "prompts.jsonl", v->prompts, err);
        return r ? r : prose_write(v->documents, v->prompts, err);
    }
    int r = get_rows(run, full, INPUT_SAMPLES, "documents.jsonl", v->documents, err);
    return r ? r : get_rows(run, full, INPUT_PAIRS, "prompts.jsonl", v->prompts, err);
}

static int get_inputs(struct evaluation *v, const Genloop__V1__EvaluateSpec *s, struct error *err) {
    struct run *run = v->run;
    int r = get_model(run, s->candidate, "candidate", v->candidate, v->candidate_adapter, err);
    if (!r && s->baseline[0]) r = get_model(run, s->baseline, "baseline", v->baseline, v->baseline_adapter, err);
    if (!r) r = get_held_out(v, s->held_out, err);
    if (!r && s->preferences[0]) r = get_rows(run, s->preferences, INPUT_SAMPLES, "preferences.jsonl", v->preferences, err);
    if (!r) r = run_dir(run, "run", v->work, err);
    return r;
}

static void on_progress(void *arg, const char *phase, uint64_t done, uint64_t total) {
    struct evaluation *v = arg;
    int64_t now_ms = clock_mono_ms();
    if (strcmp(v->phase, phase) == 0 && done < total && now_ms - v->told_ms < TELL_EVERY_MS) return;
    span_copy(v->phase, sizeof v->phase, span_str(phase));
    v->told_ms = now_ms;
    run_tell(v->run, &(struct run_progress){.step = done, .steps = total, .phase = v->phase});
}

static bool should_stop(void *arg) { return run_look(((struct evaluation *)arg)->run) != JOB_GO_ON; }

/* Unjudged: the gates are services/feedback's. Written again after a crash it is the same fact under the same id. */
static int publish_evaluation(struct run *run, Genloop__V1__ObjectRef *record, struct error *err) {
    Genloop__V1__Evaluation m = GENLOOP__V1__EVALUATION__INIT;
    struct buf packed;
    char id[EVENT_ID_MAX + 1];
    m.id = run->job->id;
    m.candidate = run->job->evaluate->candidate;
    m.baseline = run->job->evaluate->baseline;
    m.event_time_ms = clock_wall_ms();
    m.record = record;
    buf_init(&packed, EVENT_VALUE_MAX);
    snprintf(id, sizeof id, "%s.measured", run->job->id);
    int r = record_pack(&m.base, &packed);
    struct event e = {.topic = TOPIC_EVALUATIONS, .key = span_str(m.candidate), .value = buf_span(&packed), .id = span_str(id)};
    r = r ? error_set(err, r, "no memory for an evaluation") : eventlog_publish(run->t->log, &e, err);
    buf_fini(&packed);
    return r;
}

int evaluate_job(struct run *run, struct error *err) {
    const Genloop__V1__EvaluateSpec *s = run->job->evaluate;
    struct evaluation *v = mem_zalloc(sizeof *v);
    struct buf record;
    struct object_ref ref;
    Genloop__V1__ObjectRef object = GENLOOP__V1__OBJECT_REF__INIT;
    if (!v) return error_set(err, E_NOMEM, "no memory for an evaluation");
    v->run = run;
    buf_init(&record, RECORD_MAX);
    int r = s ? get_inputs(v, s, err) : error_set(err, E_INVALID, "job %s has no word on what to measure", run->job->id);
    if (!r) {
        struct measure_paths paths = {.candidate = v->candidate, .baseline = v->baseline[0] ? v->baseline : NULL, .candidate_adapter = v->candidate_adapter[0] ? v->candidate_adapter : NULL,
                                      .baseline_adapter = v->baseline_adapter[0] ? v->baseline_adapter : NULL, .documents = v->documents, .prompts = v->prompts,
                                      .preferences = v->preferences[0] ? v->preferences : NULL, .work = v->work};
        struct measure_options options = {.threads = (uint32_t)run->t->settings->threads, .arg = v, .on_progress = on_progress, .should_stop = should_stop};
        r = measure_is_encoder(v->candidate) ? measure_encoder(&paths, s, &options, &record, err) : measure_evaluation(&paths, s, &options, &record, err);
    }
    if (!r) r = store_put(run->t->store, buf_span(&record), &ref, err);
    if (!r) {
        object.sha256 = ref.sha256;
        object.size_bytes = ref.size;
        object.media_type = (char *)(uintptr_t)"application/json";
        r = publish_evaluation(run, &object, err);
    }
    if (!r) r = run_succeed(run, &(struct run_end){0}, err);
    buf_fini(&record);
    mem_free(v);
    return r;
}
