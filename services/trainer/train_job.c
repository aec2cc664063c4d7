/* A training job: its inputs, the run, the model directory as an object, what the record says of it. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/pool.h"
#include "model/arch.h"
#include "registry/record.h"
#include "services/trainer/fine_tuning.h"
#include "services/trainer/runner.h"
#include "train/train.h"

enum { METRICS_MAX = 1 << 30, CARD_MAX = 64 * 1024, FIGURES_MAX = 8, CONFIG_MAX = 16 << 20 };

struct training {
    struct run *run;
    struct train_recipe recipe;
    Genloop__V1__Dataset *dataset;
    struct json *manifest;
    char data[WORK_PATH_MAX + 160], held_out[WORK_PATH_MAX + 160], base[WORK_PATH_MAX + 80], tokenizer[WORK_PATH_MAX], out[WORK_PATH_MAX], log[WORK_PATH_MAX];
    struct buf card;
};

/* ---- inputs ---- */

static int get_data(struct training *g, struct error *err) {
    struct run *run = g->run;
    char dir[WORK_PATH_MAX];
    int r = run_dataset(run, run->job->dataset, &g->dataset, &g->manifest, err);
    if (!r) r = run_dir(run, "data", dir, err);
    if (r) return r;
    bool text = g->dataset->kind == GENLOOP__V1__DATASET_KIND__DATASET_KIND_TEXT, pretrain = g->recipe.objective == RECIPE_PRETRAIN;
    enum input kind = pretrain ? INPUT_TOKENS : text ? INPUT_PAIRS : INPUT_SAMPLES;
    /* The model card shows the file's name: the version's. */
    snprintf(g->data, sizeof g->data, "%s/%.140s.%s", dir, run->job->dataset, pretrain ? "tokens" : "jsonl");
    snprintf(g->held_out, sizeof g->held_out, "%s/%.140s-held-out.%s", dir, run->job->dataset, pretrain ? "tokens" : "jsonl");
    r = inputs_file(run->t->store, g->manifest, "train", kind, g->data, err);
    if (!r && g->recipe.evaluate.every) r = inputs_file(run->t->store, g->manifest, "held_out", kind, g->held_out, err);
    return r;
}

static int get_base(struct training *g, struct error *err) {
    struct run *run = g->run;
    Genloop__V1__ModelVersion *v = NULL;
    char dir[WORK_PATH_MAX];
    int r;
    if (!run->job->base_model[0]) {
        r = work_path(&run->work, "tokenizer", g->tokenizer, err);
        return r ? r : inputs_tokenizer(run->t->store, g->manifest, g->tokenizer, err);
    }
    r = models_resolve(run->t, span_str(run->job->base_model), &v, err);
    if (!r) r = run_dir(run, "base", dir, err);
    if (!r) {
        snprintf(g->base, sizeof g->base, "%s/%.76s", dir, run->job->base_model);
        r = inputs_model(run->t->store, v, g->base, err);
    }
    if (v) record_free(&v->base);
    return r;
}

/* A cell of a table: one line, whatever people wrote. */
static void put_cell(struct buf *b, const char *name, const char *text) {
    buf_printf(b, "| %s | ", name);
    for (; *text; text++) {
        if (*text == '|' || *text == '\\') buf_append_char(b, '\\');
        buf_append_char(b, (unsigned char)*text < ' ' ? ' ' : *text);
    }
    buf_append_str(b, " |\n");
}

/* Behind lib/train's own card: where it came from, and by what right. No time and no attempt in it: the same job gives the same bytes. */
static int write_card(struct training *g, struct error *err) {
    const Genloop__V1__Job *job = g->run->job;
    const struct json *licences = json_get(g->manifest, "license");
    struct buf *b = &g->card;
    buf_printf(b, "## Provenance\n\n| | |\n|---|---|\n| job | %s |\n| data set | %s, manifest sha256:%s |\n", job->id, job->dataset, g->dataset->manifest->sha256);
    if (job->base_model[0]) put_cell(b, "base model", job->base_model);
    if (job->reason[0]) put_cell(b, "reason", job->reason);
    buf_append_str(b, "| licences of the data | ");
    for (size_t i = 0; i < json_size(licences); i++) buf_printf(b, "%s%.*s", i ? ", " : "", SPAN_ARG(json_string(json_at(licences, i))));
    buf_printf(b, "%s |\n", json_size(licences) ? "" : "not stated");
    if (!buf_cstr(b) || b->failed) return error_set(err, E_NOMEM, "no memory for a model card");
    return 0;
}

/* ---- while it runs ---- */

static void on_start(void *arg, uint64_t step, uint64_t steps, uint64_t parameters) {
    struct run *run = arg;
    work_reached(&run->work, step);
    log_info("trainer.start", "job %s from step %llu of %llu, %llu parameters", run->job->id, (unsigned long long)step, (unsigned long long)steps, (unsigned long long)parameters);
}

static void on_step(void *arg, const struct train_step *s) {
    struct run *run = arg;
    double rate = s->seconds > 0 ? (double)s->tokens / s->seconds : 0;
    metric_add(runner_metrics.steps, 1);
    metric_add(runner_metrics.tokens, (double)s->tokens);
    metric_set(runner_metrics.tokens_per_second, rate);
    if (!job_pace_due(&run->pace, s->step, s->steps, !isnan(s->evaluate_loss), clock_mono_ms())) return;
    run_tell(run, &(struct run_progress){.step = s->step, .steps = s->steps, .tokens = s->tokens_total, .loss = s->loss, .grad_norm = s->grad_norm, .lr = s->lr,
                                         .tokens_per_second = rate, .phase = "train"});
}

static void on_checkpoint(void *arg, uint64_t step) {
    struct run *run = arg;
    run->saved_ms = clock_mono_ms();
    work_reached(&run->work, step);
    metric_add(runner_metrics.checkpoints, 1);
}

static enum train_order should_stop(void *arg) {
    struct run *run = arg;
    switch (run_look(run)) {
    case JOB_STOP: return TRAIN_PAUSE;
    case JOB_DROP: return TRAIN_CANCEL;
    case JOB_GO_ON: break;
    }
    return clock_mono_ms() - run->saved_ms >= run->t->settings->checkpoint_ms ? TRAIN_SAVE : TRAIN_GO_ON;
}

/* ---- what came of it ---- */

struct outcome_figures {
    Genloop__V1__Figure figures[FIGURES_MAX], *list[FIGURES_MAX];
    size_t n;
};

static void put_figure(struct outcome_figures *f, const char *name, double value, uint64_t samples) {
    if (!isfinite(value)) return;
    ASSERT(f->n < FIGURES_MAX);
    Genloop__V1__Figure *figure = &f->figures[f->n];
    genloop__v1__figure__init(figure);
    figure->name = (char *)(uintptr_t)name;
    figure->value = figure->low = figure->high = value;
    figure->samples = samples;
    f->list[f->n++] = figure;
}

static double parameters_of(const struct training *g) {
    char path[WORK_PATH_MAX + 16];
    struct buf text;
    struct model_config config;
    double n = (double)NAN;
    buf_init(&text, CONFIG_MAX);
    snprintf(path, sizeof path, "%s/config.json", g->out);
    if (file_read(path, &text, NULL) == 0 && model_config_parse(buf_span(&text), &config, NULL) == 0) n = (double)model_config_param_count(&config);
    buf_fini(&text);
    return n;
}

/* From the lines of metrics.jsonl and not from the run's result: a life that only finds the finished directory comes to the same figures. */
static int read_figures(const struct training *g, const char *metrics, struct outcome_figures *f, struct error *err) {
    struct file_map map;
    double loss = (double)NAN, evaluate_loss = (double)NAN, accuracy = (double)NAN, tokens = (double)NAN, seconds = 0;
    uint64_t lines = 0;
    int r = file_map_open(&map, metrics, err);
    if (r) return r;
    struct span rest = span_of(map.data, map.len), line;
    while (span_cut(&rest, '\n', &line)) {
        struct json *row = NULL;
        if (json_parse(line, &row, NULL)) continue;
        loss = json_real(json_get(row, "loss"), (double)NAN);
        tokens = json_real(json_get(row, "tokens"), (double)NAN);
        evaluate_loss = json_real(json_get(row, "evaluate_loss"), evaluate_loss);
        accuracy = json_real(json_get(row, "accuracy"), accuracy);
        seconds += json_real(json_get(row, "seconds"), 0);
        lines++;
        json_free(row);
    }
    file_map_close(&map);
    put_figure(f, "loss", loss, 1);
    put_figure(f, "evaluate_loss", evaluate_loss, 1);
    put_figure(f, "accuracy", accuracy, 1);
    put_figure(f, "tokens", tokens, 1);
    put_figure(f, "seconds", seconds, lines);
    put_figure(f, "parameters", parameters_of(g), 1);
    return 0;
}

static void refer(Genloop__V1__ObjectRef *to, struct object_ref *ref, const char *media_type) {
    genloop__v1__object_ref__init(to);
    to->sha256 = ref->sha256;
    to->size_bytes = ref->size;
    to->media_type = (char *)(uintptr_t)media_type;
}

/* ---- HOME/runs ---- */

struct keeping {
    struct trainer *t;
    char from[WORK_PATH_MAX], to[PATH_BYTES];
};

static int keep_entry(void *arg, const char *name) {
    struct keeping *k = arg;
    char from[WORK_PATH_MAX + 300], to[PATH_BYTES + 300];
    if (strcmp(name, "metrics.jsonl") != 0 && !span_starts(span_str(name), SPAN("events."))) return 0;
    snprintf(from, sizeof from, "%s/%.255s", k->from, name);
    snprintf(to, sizeof to, "%s/%.255s", k->to, name);
    if (rename(from, to) && errno != ENOENT) log_warn("trainer.runs", "cannot keep %s", to);
    return 0;
}

struct oldest {
    const char *dir;
    size_t n;
    char name[JOB_ID_MAX + 1];
    int64_t time;
};

static int count_run(void *arg, const char *name) {
    struct oldest *o = arg;
    char path[PATH_BYTES + 300];
    struct stat st;
    snprintf(path, sizeof path, "%s/%.255s", o->dir, name);
    if (!job_id_valid(span_str(name)) || stat(path, &st)) return 0;
    if (!o->n++ || st.st_mtim.tv_sec < o->time) {
        o->time = st.st_mtim.tv_sec;
        span_copy(o->name, sizeof o->name, span_str(name));
    }
    return 0;
}

/* For people with TensorBoard: not the record, which is in the store; so nothing here is worth failing for. */
static void keep_run(struct training *g) {
    struct trainer *t = g->run->t;
    struct keeping k = {.t = t};
    char relative[JOB_ID_MAX + 16], runs[PATH_BYTES], path[PATH_BYTES + 300];
    struct error err = {0};
    snprintf(relative, sizeof relative, "runs/%s", g->run->job->id);
    service_path(t->service, relative, k.to, sizeof k.to);
    service_path(t->service, "runs", runs, sizeof runs);
    span_copy(k.from, sizeof k.from, span_str(g->log));
    if (dir_make(k.to, &err) || dir_list(k.from, &k, keep_entry, &err)) log_warn("trainer.runs", "%s", err.message);
    for (;;) {
        struct oldest o = {.dir = runs};
        (void)dir_list(runs, &o, count_run, NULL);
        if (o.n <= (size_t)t->settings->runs_keep) break;
        snprintf(path, sizeof path, "%s/%s", runs, o.name);
        if (dir_remove(path, &err)) break;
    }
}

/* The metrics of fine-tuning as a file of who asked for it. The id follows from the job's, so that a second life writes the same. Not worth failing for: the record has them too. */
static void publish_results(struct training *g, const char *metrics, char id[JOB_ID_MAX + 16]) {
    struct run *run = g->run;
    struct file_map map;
    struct buf csv, packed;
    struct object_ref ref;
    struct error err = {0};
    Genloop__V1__ObjectRef content;
    Genloop__V1__File file = GENLOOP__V1__FILE__INIT;
    buf_init(&csv, METRICS_MAX);
    buf_init(&packed, EVENT_VALUE_MAX);
    snprintf(id, JOB_ID_MAX + 16, "file-results-%.80s", span_starts(span_str(run->job->id), SPAN("ftjob-")) ? run->job->id + 6 : run->job->id);
    int r = file_map_open(&map, metrics, &err);
    if (!r) {
        r = fine_tuning_results(span_of(map.data, map.len), &csv);
        if (r) (void)error_set(&err, r, "no memory for the results");
        file_map_close(&map);
    }
    if (!r) r = store_put(run->t->store, buf_span(&csv), &ref, &err);
    if (!r) {
        refer(&content, &ref, "text/csv");
        file.id = id;
        file.tenant = run->job->tenant;
        file.filename = (char *)(uintptr_t)"step_metrics.csv";
        file.purpose = (char *)(uintptr_t)"fine-tune-results";
        file.content = &content;
        file.created_time_ms = file.event_time_ms = clock_wall_ms();
        struct event e = {.topic = TOPIC_FILES, .key = span_str(id)};
        r = record_pack(&file.base, &packed);
        e.value = buf_span(&packed);
        r = r ? error_set(&err, r, "no memory for the results") : eventlog_publish(run->t->log, &e, &err);
    }
    if (r) {
        log_warn("trainer.results", "job %s has no file of results: %s", run->job->id, err.message);
        id[0] = 0;
    }
    buf_fini(&csv);
    buf_fini(&packed);
}

static int finish(struct training *g, struct error *err) {
    struct run *run = g->run;
    struct store *store = run->t->store;
    struct object_ref output, metrics;
    Genloop__V1__ObjectRef output_ref, metrics_ref;
    struct outcome_figures figures = {.n = 0};
    char path[WORK_PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/metrics.jsonl", g->log);
    run_tell(run, &(struct run_progress){.step = g->recipe.steps, .steps = g->recipe.steps, .phase = "write"});
    /* The lines are not durable as checkpoints are: a machine that went down may have lost them, and the model stands all the same. */
    int r = file_exists(path) ? 0 : file_write(path, SPAN(""), 0644, err);
    if (!r) r = store_put_dir(store, g->out, &output, err);
    if (!r) r = read_figures(g, path, &figures, err);
    if (!r) r = store_put_file(store, path, &metrics, err);
    if (r) return r;
    refer(&output_ref, &output, "application/json");
    refer(&metrics_ref, &metrics, "application/jsonl");
    char results[JOB_ID_MAX + 16] = "", *before = run->job->fine_tuning ? run->job->fine_tuning->result_file : NULL;
    if (run->job->fine_tuning) {
        publish_results(g, path, results);
        run->job->fine_tuning->result_file = results; /* for the record; what was there is put back */
    }
    struct run_end end = {.figures = figures.list, .n_figures = figures.n, .output = &output_ref, .metrics = &metrics_ref, .step = g->recipe.steps};
    r = run_succeed(run, &end, err);
    if (run->job->fine_tuning) run->job->fine_tuning->result_file = before;
    if (!r) keep_run(g);
    return r;
}

int train_job(struct run *run, struct error *err) {
    struct training *g = mem_zalloc(sizeof *g);
    if (!g) return error_set(err, E_NOMEM, "no memory for a job");
    g->run = run;
    buf_init(&g->card, CARD_MAX);
    struct train_events events = {.arg = run, .on_start = on_start, .on_step = on_step, .on_checkpoint = on_checkpoint, .should_stop = should_stop};
    int r = recipe_parse(span_str(run->job->recipe), &g->recipe, err);
    uint32_t most = run->t->settings->threads ? (uint32_t)run->t->settings->threads : (uint32_t)cpu_count();
    if (!g->recipe.threads || g->recipe.threads > most) g->recipe.threads = most;
    run_tell(run, &(struct run_progress){.step = run->job->step, .steps = run->job->steps, .phase = "load"});
    if (!r) r = run_dir(run, "run", g->log, err);
    if (!r) r = work_path(&run->work, "out", g->out, err);
    if (!r) r = get_data(g, err);
    if (!r) r = get_base(g, err);
    if (!r) r = write_card(g, err);
    if (!r) {
        struct train_paths paths = {.base_dir = g->base[0] ? g->base : NULL, .data = g->data, .held_out = g->held_out, .tokenizer_dir = g->tokenizer[0] ? g->tokenizer : NULL,
                                    .out_dir = g->out, .work_dir = g->log, .readme_extra = buf_cstr(&g->card), .model_name = run->job->model};
        r = train_run(&g->recipe, &paths, &events, NULL, err);
        if (r == E_STATE) { /* checkpoints that this release does not go on from, or half of what they need: the same weights from the beginning */
            log_warn("trainer.anew", "job %s: %s; it begins anew", run->job->id, err ? err->message : "");
            r = dir_remove(g->log, err);
            if (!r) r = run_dir(run, "run", g->log, err);
            if (!r) r = train_run(&g->recipe, &paths, &events, NULL, err);
        }
    }
    if (!r) r = finish(g, err);
    json_free(g->manifest);
    if (g->dataset) record_free(&g->dataset->base);
    buf_fini(&g->card);
    mem_free(g);
    return r;
}
