/*
 * An import: a model's files, which are in the store, are laid out as a directory, loaded whole as a replica would, and asked for a token; then the directory is an object and the job's output, of
 * which services/feedback makes a candidate. Where ImportSpec.quantize says so, its weights are turned into another type
 * first (import_quantize.h). Of a GGUF file config.json, tokenizer.json and tokenizer_config.json are written beside it, for all that reads them. An adapter is loaded over its base, and
 * is a directory of its own. Killed, it is done again.
 */
#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/file.h"
#include "engine/encoder.h"
#include "engine/engine.h"
#include "model/model_dir.h"
#include "registry/record.h"
#include "services/trainer/import_quantize.h"
#include "services/trainer/inputs.h"
#include "services/trainer/request.h"
#include "services/trainer/runner.h"

enum { TEXT_MAX = 256 << 20, CONTEXT_TRIED = 256, LOGITS_TRIED = 20 };

static int lay_out(struct run *run, const char *dir, bool *gguf, struct error *err) {
    const Genloop__V1__ImportSpec *s = run->job->import_spec;
    char path[WORK_PATH_MAX + 256];
    int r = dir_remove(dir, err);
    if (!r) r = dir_make(dir, err);
    for (size_t i = 0; !r && i < s->n_files; i++) {
        const char *slash = strrchr(s->files[i]->name, '/'); /* "1_Pooling/config.json" */
        if (slash) {
            snprintf(path, sizeof path, "%s/%.*s", dir, (int)(slash - s->files[i]->name), s->files[i]->name);
            if ((r = dir_make(path, err)) != 0) break;
        }
        snprintf(path, sizeof path, "%s/%.200s", dir, s->files[i]->name);
        r = store_link(run->t->store, s->files[i]->content->sha256, path, err);
        *gguf |= !strcmp(s->files[i]->name, "model.gguf");
    }
    return r;
}

static int write_text(const char *dir, const char *name, int made, struct buf *text, struct error *err) {
    char path[WORK_PATH_MAX + 256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (made || text->failed) return error_set(err, E_NOMEM, "no memory for %s", name);
    int r = file_exists(path) ? 0 : file_write(path, buf_span(text), 0644, err);
    buf_clear(text);
    return r;
}

/* What the file says of itself, as files. */
static int write_beside(const char *dir, struct error *err) {
    struct model_dir m = {0};
    struct buf text;
    buf_init(&text, TEXT_MAX);
    int r = model_dir_load(&m, dir, MODEL_WEIGHTS_MAP, MODEL_DIR_NO_WEIGHTS, err);
    if (!r) r = write_text(dir, "config.json", model_config_write(&m.config, &text), &text, err);
    if (!r && m.tokenizer) r = write_text(dir, "tokenizer.json", tokenizer_write(m.tokenizer, &text), &text, err);
    if (!r && m.tokenizer) r = write_text(dir, "tokenizer_config.json", tokenizer_write_config(m.tokenizer, m.chat_template, m.config.context, &text), &text, err);
    if (!r && m.config.arch->kind == MODEL_ENCODER) r = encoder_settings_write(dir, &m, err);
    model_dir_fini(&m);
    buf_fini(&text);
    return r;
}

/* The same for an encoder: loaded as a replica does, and asked for what it makes of a sentence. */
static int try_encoder(struct run *run, const char *dir, double *parameters, struct error *err) {
    struct encoder *e = NULL;
    struct encoder_options options = {.threads = (int)run->t->settings->threads};
    struct tokens ids = {0};
    int r = encoder_new(&e, dir, &options, err);
    if (r) return r;
    const struct model_config *c = encoder_model(e);
    size_t n = c->labels ? c->labels : c->width;
    float *out = mem_calloc(n, sizeof *out);
    *parameters = (double)model_config_param_count(c);
    if (!out) r = error_set(err, E_NOMEM, "no memory to try the model");
    if (!r && !encoder_tokenizer(e)) r = error_set(err, E_INVALID, "the model has no tokenizer: texts cannot be asked of it");
    if (!r) r = tokenizer_encode_pair(encoder_tokenizer(e), SPAN("A sentence to be read."), span_of(NULL, 0), TOKENIZER_ADD_SPECIAL, encoder_tokens_max(e), &ids, NULL, err);
    struct encoder_text text = {.ids = ids.ids, .count = ids.len, .score = c->labels > 0, .pooling = encoder_settings(e)->pooling, .normalize = true, .out = out};
    if (!r) r = encoder_check(e, &text, err);
    if (!r) encoder_run(e, &text, 1);
    for (size_t i = 0; !r && i < n; i++)
        if (!isfinite(out[i])) r = error_set(err, E_INVALID, "the model computes what is no number");
    mem_free(out);
    tokens_fini(&ids);
    encoder_free(e);
    return r;
}

/* Loads it as a replica does, which packs every weight, and takes one step; with an adapter over it, where one is given. */
static int try_model(struct run *run, const char *dir, const char *adapter, double *parameters, struct error *err) {
    struct engine *e = NULL;
    struct engine_options options = {.adapter = adapter, .threads = (int)run->t->settings->threads, .sequences_max = 1, .context = CONTEXT_TRIED};
    struct engine_request request;
    struct engine_result result = {0};
    uint32_t first = 0;
    struct model_config config;
    int r = model_dir_config(dir, &config, err);
    if (!r && config.arch->kind == MODEL_ENCODER && adapter) return error_set(err, E_UNSUPPORTED, "%s is an encoder: adapters of encoders are not built", run->job->base_model);
    if (!r && config.arch->kind == MODEL_ENCODER) return try_encoder(run, dir, parameters, err);
    if (!r) r = engine_new(&e, dir, &options, err);
    if (r) return r;
    *parameters = adapter ? (double)engine_adapter_parameters(e) : (double)model_config_param_count(engine_model(e));
    if (!engine_tokenizer(e)) r = error_set(err, E_INVALID, "the model has no tokenizer: texts cannot be asked of it");
    if (!r && engine_tokenizer(e) && tokenizer_bos(engine_tokenizer(e)) != TOKEN_NONE) first = tokenizer_bos(engine_tokenizer(e));
    engine_request_init(&request);
    request.tokens = &first;
    request.token_count = 1;
    request.tokens_max = 1;
    request.top_logits = LOGITS_TRIED;
    request.ignore_eos = true;
    request.sampling.temperature = 0;
    if (!r) r = engine_generate_batch(e, &request, 1, &result, err);
    if (!r && result.error.code) {
        r = result.error.code;
        if (err) *err = result.error;
    }
    for (size_t i = 0; !r && i < result.top_logit_count; i++)
        if (!isfinite(result.top_logits[i].logit)) r = error_set(err, E_INVALID, "the model computes what is no number");
    engine_result_fini(&result);
    engine_free(e);
    return r;
}

/* The files of the job's base, and a step of it with the adapter. */
static int try_adapter(struct run *run, const char *adapter, double *parameters, struct error *err) {
    Genloop__V1__ModelVersion *base = NULL;
    char dir[WORK_PATH_MAX];
    int r = work_path(&run->work, "base", dir, err);
    if (!r) r = models_resolve(run->t, span_str(run->job->base_model), &base, err);
    if (!r) r = inputs_model(run->t->store, base, dir, err);
    if (!r) r = try_model(run, dir, adapter, parameters, err);
    if (base) record_free(&base->base);
    return r;
}

/* The figures of the job: what came out, and what quantizing cost. */
enum { FIGURES_MAX = 8 };
struct figures {
    Genloop__V1__Figure list[FIGURES_MAX], *refs[FIGURES_MAX];
    size_t n;
};
static void add_figure(struct figures *f, const char *name, double value, uint64_t samples) {
    ASSERT(f->n < FIGURES_MAX);
    Genloop__V1__Figure *one = f->refs[f->n] = &f->list[f->n];
    f->n++;
    genloop__v1__figure__init(one);
    one->name = (char *)(uintptr_t)name;
    one->value = one->low = one->high = value;
    one->samples = samples;
}

static int quantize(struct run *run, const char *dir, char out[WORK_PATH_MAX], struct figures *figures, struct error *err) {
    struct quantize_cost c;
    int r = work_path(&run->work, "quantized", out, err);
    if (!r) r = dir_remove(out, err);
    if (!r) r = import_quantize(dir, out, run->job->import_spec->quantize, (int)run->t->settings->threads, &c, err);
    if (r) return r;
    add_figure(figures, "weights_bytes_before", (double)c.bytes_before, 1);
    add_figure(figures, "weights_bytes", (double)c.bytes, 1);
    if (c.encoder) add_figure(figures, "cosine_to_original", c.cosine, c.samples);
    else {
        add_figure(figures, "perplexity_before", c.perplexity_before, c.samples);
        add_figure(figures, "perplexity", c.perplexity, c.samples);
        add_figure(figures, "same_first_choice", c.agreement, c.samples);
    }
    return 0;
}

/* The job's folder says nothing to who asked. */
static void leave_out_folder(struct error *err, int r, const char *dir) {
    struct span text = span_str(err->message), found = span_str(dir);
    ptrdiff_t at = span_find(text, found);
    if (at < 0) return;
    struct error said = *err;
    size_t rest = (size_t)at + found.len + (err->message[(size_t)at + found.len] == '/');
    (void)error_set(err, r, "%.*s%s", (int)at, said.message, said.message + rest);
}

int import_job(struct run *run, struct error *err) {
    char dir[WORK_PATH_MAX], out[WORK_PATH_MAX];
    const char *result = dir;
    struct figures figures = {.n = 0};
    bool gguf = false, adapter = run->job->import_spec && request_imports_adapter(run->job->import_spec);
    double parameters = 0;
    struct object_ref ref;
    Genloop__V1__ObjectRef output = GENLOOP__V1__OBJECT_REF__INIT;
    if (!run->job->import_spec) return error_set(err, E_INVALID, "job %s has no word on what to import", run->job->id);
    run_tell(run, &(struct run_progress){.step = 0, .steps = 3, .phase = "load"});
    int r = work_path(&run->work, "model", dir, err);
    if (!r) r = lay_out(run, dir, &gguf, err);
    if (!r && gguf) r = write_beside(dir, err);
    if (!r && run_look(run) != JOB_GO_ON) r = error_set(err, E_ABORTED, "the import was stopped");
    if (!r) run_tell(run, &(struct run_progress){.step = 1, .steps = 3, .phase = "evaluate"});
    if (!r) r = adapter ? try_adapter(run, dir, &parameters, err) : try_model(run, dir, NULL, &parameters, err);
    if (!r && run_look(run) != JOB_GO_ON) r = error_set(err, E_ABORTED, "the import was stopped");
    if (!r) add_figure(&figures, "parameters", parameters, 1);
    if (!r && run->job->import_spec->quantize[0]) {
        r = quantize(run, dir, out, &figures, err);
        result = out;
        if (!r && run_look(run) != JOB_GO_ON) r = error_set(err, E_ABORTED, "the import was stopped");
    }
    if (!r) run_tell(run, &(struct run_progress){.step = 2, .steps = 3, .phase = "write"});
    if (!r) r = store_put_dir(run->t->store, result, &ref, err);
    if (r) {
        if (err) leave_out_folder(err, r, dir);
        if (err && result != dir) leave_out_folder(err, r, out);
        return r;
    }
    output.sha256 = ref.sha256;
    output.size_bytes = ref.size;
    output.media_type = (char *)(uintptr_t) "application/json";
    return run_succeed(run, &(struct run_end){.figures = figures.refs, .n_figures = figures.n, .output = &output, .step = 3}, err);
}
