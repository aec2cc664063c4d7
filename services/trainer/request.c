#include "services/trainer/request.h"

#include "gates/gates.h"
#include "model/quantize.h"
#include "registry/state.h"
#include "registry/trait.h"
#include "services/trainer/fine_tuning.h"
#include "services/trainer/jobs.h"
#include "services/trainer/presets.h"

static int shown(struct span s) { return (int)(s.len < 128 ? s.len : 128); }

int request_dataset(struct span text, const char *param, struct span *name, uint32_t *version, struct error *err) {
    ptrdiff_t at = span_find_char(text, '@');
    struct span head = at < 0 ? text : span_sub(text, 0, (size_t)at);
    uint64_t v = 0;
    bool good = head.len > 0 && head.len <= REQUEST_DATASET_NAME_MAX && head.data[0] != '.', tuned = span_starts(head, SPAN("ft:")); /* of judgements of a fine-tuned model: named after it */
    for (size_t i = 0; good && i < head.len; i++) {
        char c = head.data[i];
        good = (tuned && c == ':') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    }
    if (good && at >= 0) good = span_to_u64(span_skip(text, (size_t)at + 1), &v) == 0 && v >= 1 && v <= UINT32_MAX;
    if (!good) return error_set_param(err, E_INVALID, param, "%s: \"%.*s\" is no dataset: give NAME or NAME@VERSION, a name being letters, digits, '.', '_' and '-'", param, shown(text), text.data);
    *name = head;
    *version = (uint32_t)v;
    return 0;
}

static int check_training(const Genloop__V1__CreateJobRequest *q, struct train_recipe *recipe, struct error *err) {
    struct span text = span_str(q->recipe), name;
    uint32_t version;
    if (q->evaluate) return error_set_param(err, E_INVALID, "evaluate", "evaluate belongs to a job of kind JOB_KIND_EVALUATE");
    if (!model_name_valid(span_str(q->model)))
        return error_set_param(err, E_INVALID, "model", "model: name the model that comes out: at most %d letters, digits, '.', '_' and '-', beginning with a letter or a digit; its version is counted for it",
                               MODEL_NAME_MAX - 1);
    if (q->recipe[0] && q->preset[0]) return error_set_param(err, E_INVALID, "preset", "give a recipe or a preset, not both");
    if (!q->recipe[0] && !q->preset[0]) return error_set_param(err, E_INVALID, "recipe", "recipe is missing: give one as YAML, or a preset (%s)", PRESET_NAMES);
    if (text.len > REQUEST_RECIPE_MAX) return error_set_param(err, E_TOO_LARGE, "recipe", "a recipe has at most %d bytes, not %zu", REQUEST_RECIPE_MAX, text.len);
    if (q->preset[0]) {
        const struct preset *p = preset_find(span_str(q->preset));
        if (!p) return error_set_param(err, E_NOT_FOUND, "preset", "there is no preset \"%.64s\"; there are: %s", q->preset, PRESET_NAMES);
        text = span_str(p->recipe);
    }
    /* A dataset that the request names and one that is missing are the request's matter, not the recipe's. */
    int r = q->dataset[0] ? request_dataset(span_str(q->dataset), "dataset", &name, &version, err) : 0;
    if (!r) r = recipe_parse_given(text, &(struct recipe_given){q->dataset, q->base_model}, recipe, err);
    if (r == E_INVALID && err && strcmp(err->param, "data") == 0 && q->preset[0]) return error_set_param(err, E_INVALID, "dataset", "dataset is missing: preset %s says how to train, not on what", q->preset);
    if (r == E_INVALID && err && strcmp(err->param, "model") == 0 && q->preset[0])
        return error_set_param(err, E_INVALID, "base_model", "base_model is missing: preset %s goes on from a model", q->preset);
    if (r) return r;
    if (!recipe->data.dataset[0])
        return error_set_param(err, E_INVALID, recipe->data.file[0] ? "data.file" : "data.tokens", "a job of the platform trains on a dataset of the platform: name it in `dataset` or data.dataset, not a file");
    if (recipe->data.tokenizer[0])
        return error_set_param(err, E_INVALID, "data.tokenizer", "the tokenizer is the base model's, else the dataset's: data.tokenizer, a folder, is for genloop train --local");
    if (recipe->evaluate.every && strcmp(recipe->evaluate.on, "held-out") != 0)
        return error_set_param(err, E_INVALID, "evaluate.on", "evaluate.on must be held-out: the dataset's own held-out rows");
    if (!recipe->model.base[0] && recipe->batch.length > recipe->model.context)
        return error_set_param(err, E_RANGE, "batch.length", "batch.length is %u, the model's context %u", recipe->batch.length, recipe->model.context);
    return request_dataset(span_str(recipe->data.dataset), q->dataset[0] ? "dataset" : "data.dataset", &name, &version, err);
}

static int check_version(const char *value, const char *param, struct error *err) {
    struct span name;
    uint32_t version;
    if (model_name_parse(span_str(value), &name, &version) == 0 && version) return 0;
    return error_set_param(err, E_INVALID, param, "%s: \"%.100s\" is no model version: give NAME@VERSION", param, value);
}

static int check_split(const char *value, const char *param, struct error *err) {
    struct span name;
    uint32_t version;
    int r = request_dataset(span_str(value), param, &name, &version, err);
    return r || version ? r : error_set_param(err, E_INVALID, param, "%s: \"%s\" must name a version: NAME@VERSION", param, value);
}

static int check_range(uint64_t value, uint64_t max, const char *param, struct error *err) {
    return value >= 1 && value <= max ? 0 : error_set_param(err, E_RANGE, param, "%s is %llu, not 1 to %llu", param, (unsigned long long)value, (unsigned long long)max);
}

static int check_evaluation(const Genloop__V1__CreateJobRequest *q, struct error *err) {
    const Genloop__V1__EvaluateSpec *s = q->evaluate;
    uint8_t digest[32];
    if (!s) return error_set_param(err, E_INVALID, "evaluate", "evaluate is missing: what is to be measured, and on what");
    if (q->recipe[0] || q->preset[0] || q->dataset[0] || q->base_model[0])
        return error_set_param(err, E_INVALID, q->recipe[0] ? "recipe" : q->preset[0] ? "preset" : q->dataset[0] ? "dataset" : "base_model", "an evaluation has none of recipe, preset, dataset and base_model: `evaluate` says it all");
    int r = check_version(s->candidate, "evaluate.candidate", err);
    if (!r && q->model[0] && strcmp(q->model, s->candidate) != 0) r = error_set_param(err, E_INVALID, "model", "model is %.100s, evaluate.candidate %s", q->model, s->candidate);
    if (!r && s->baseline[0]) r = check_version(s->baseline, "evaluate.baseline", err);
    if (!r && strcmp(s->held_out, EVALUATION_PROSE) != 0) r = check_split(s->held_out, "evaluate.held_out", err);
    if (!r && s->preferences[0]) r = check_split(s->preferences, "evaluate.preferences", err);
    if (!r) r = check_range(s->documents_max, REQUEST_DOCUMENTS_MAX, "evaluate.documents_max", err);
    if (!r) r = check_range(s->prompts, REQUEST_PROMPTS_MAX, "evaluate.prompts", err);
    if (!r) r = check_range(s->sample_tokens, REQUEST_SAMPLE_TOKENS_MAX, "evaluate.sample_tokens", err);
    if (!r && s->documents_min > s->documents_max) r = error_set_param(err, E_RANGE, "evaluate.documents_min", "evaluate.documents_min is %u, more than documents_max, %u", s->documents_min, s->documents_max);
    if (!r && s->prompts_min > s->prompts) r = error_set_param(err, E_RANGE, "evaluate.prompts_min", "evaluate.prompts_min is %u, more than prompts, %u", s->prompts_min, s->prompts);
    if (!r && !(s->temperature >= 0 && s->temperature <= 2)) r = error_set_param(err, E_RANGE, "evaluate.temperature", "evaluate.temperature must be 0 to 2");
    if (!r && s->trait[0] && !trait_known(span_str(s->trait))) r = error_set_param(err, E_INVALID, "evaluate.trait", "there is no trait %.64s", s->trait);
    if (!r && s->tokenizer[0] && (strlen(s->tokenizer) != 64 || hex_decode(span_str(s->tokenizer), digest)))
        r = error_set_param(err, E_INVALID, "evaluate.tokenizer", "evaluate.tokenizer must be the sha256 of a tokenizer.json");
    return r;
}

/* The request as far as it goes without the base and the data: they say the rest of the recipe. */
static int check_fine_tuning(const Genloop__V1__CreateJobRequest *q, struct train_recipe *recipe, struct error *err) {
    struct span name;
    uint32_t version;
    const char *extra = q->recipe[0] ? "recipe" : q->preset[0] ? "preset" : q->evaluate ? "evaluate" : NULL;
    if (extra) return error_set_param(err, E_INVALID, extra, "%s does not go with fine_tuning, from which the recipe follows", extra);
    if (q->model[0] && !model_name_valid(span_str(q->model))) return error_set_param(err, E_INVALID, "model", "model: \"%.100s\" is no name for a model", q->model);
    if (!q->base_model[0]) return error_set_param(err, E_INVALID, "base_model", "base_model is missing: the model to fine-tune");
    if (strlen(q->base_model) >= sizeof recipe->model.base) return error_set_param(err, E_INVALID, "base_model", "base_model is too long for a model's name");
    int r = fine_tuning_check(q->fine_tuning, err);
    if (!r) r = request_dataset(span_str(q->dataset), "dataset", &name, &version, err);
    if (r) return r;
    recipe_default(recipe, strcmp(q->fine_tuning->method, "dpo") == 0 ? RECIPE_DPO : RECIPE_SFT);
    span_copy(recipe->model.base, sizeof recipe->model.base, span_str(q->base_model));
    span_copy(recipe->data.dataset, sizeof recipe->data.dataset, span_str(q->dataset));
    return 0;
}

/* A name of a model directory's file: no hidden file, in the directory or one folder below it, as sentence-transformers' 1_Pooling/config.json. */
static bool import_name_valid(const char *name) {
    size_t len = strlen(name), folders = 0;
    if (!len || len > REQUEST_IMPORT_NAME_MAX || name[len - 1] == '/') return false;
    for (size_t i = 0; i < len; i++) {
        char c = name[i];
        bool begins = i == 0 || name[i - 1] == '/';
        if (c == '/' && !begins && ++folders == 1) continue;
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c == '.' && !begins) || c == '_' || c == '-')) return false;
    }
    return true;
}

bool request_imports_adapter(const Genloop__V1__ImportSpec *s) {
    bool config = false, adapter = false;
    for (size_t i = 0; s && i < s->n_files; i++) {
        config |= strcmp(s->files[i]->name, "config.json") == 0 || strcmp(s->files[i]->name, "model.gguf") == 0;
        adapter |= strcmp(s->files[i]->name, "adapter_config.json") == 0;
    }
    return adapter && !config;
}

static int check_import(const Genloop__V1__CreateJobRequest *q, struct error *err) {
    const Genloop__V1__ImportSpec *s = q->import_spec;
    uint8_t digest[32];
    bool adapter = request_imports_adapter(s);
    const char *extra = q->recipe[0] ? "recipe" : q->preset[0] ? "preset" : q->dataset[0] ? "dataset" : q->base_model[0] && !adapter ? "base_model" : q->evaluate ? "evaluate" : q->fine_tuning ? "fine_tuning" : q->dry_run ? "dry_run" : NULL;
    if (extra) return error_set_param(err, E_INVALID, extra, "%s does not go with an import: `import_spec` says it all", extra);
    if (!model_name_valid(span_str(q->model)))
        return error_set_param(err, E_INVALID, "model", "model: name the model that comes out: at most %d letters, digits, '.', '_' and '-', beginning with a letter or a digit; its version is counted for it",
                               MODEL_NAME_MAX - 1);
    if (adapter && !q->base_model[0]) return error_set_param(err, E_INVALID, "base_model", "base_model is missing: the model here that the adapter was made for");
    if (!s || !s->n_files) return error_set_param(err, E_INVALID, "import_spec", "import_spec is missing: which files the model has");
    if (s->n_files > REQUEST_IMPORT_FILES_MAX) return error_set_param(err, E_TOO_LARGE, "import_spec.files", "a model has at most %d files, not %zu", REQUEST_IMPORT_FILES_MAX, s->n_files);
    if (strlen(s->source) > REQUEST_IMPORT_SOURCE_MAX || !span_is_utf8(span_str(s->source)))
        return error_set_param(err, E_INVALID, "import_spec.source", "import_spec.source has at most %d bytes of UTF-8", REQUEST_IMPORT_SOURCE_MAX);
    if (s->quantize[0] && adapter) return error_set_param(err, E_INVALID, "import_spec.quantize", "import_spec.quantize is of models: an adapter is computed as it is");
    if (s->quantize[0]) {
        enum tensor_type type;
        int r = model_quantize_type(span_str(s->quantize), &type, err);
        if (r) return error_set_param(err, r, "import_spec.quantize", "import_spec.quantize must be f16, bf16, q8_0, q4_0 or q4_1, not \"%.40s\"", s->quantize);
    }
    for (size_t i = 0; i < s->n_files; i++) {
        const Genloop__V1__ImportFile *f = s->files[i];
        if (!import_name_valid(f->name))
            return error_set_param(err, E_INVALID, "import_spec.files.name", "\"%.64s\" is no name of a model's file: letters, digits, '.', '_' and '-', not beginning with '.', in at most one folder", f->name);
        for (size_t k = 0; k < i; k++)
            if (!strcmp(s->files[k]->name, f->name)) return error_set_param(err, E_INVALID, "import_spec.files.name", "%s is there twice", f->name);
        if (!f->content || strlen(f->content->sha256) != 64 || hex_decode(span_str(f->content->sha256), digest))
            return error_set_param(err, E_INVALID, "import_spec.files.content", "%s needs the sha256 of its content", f->name);
    }
    return 0;
}

int request_check(const Genloop__V1__CreateJobRequest *q, struct train_recipe *recipe, struct error *err) {
    if (q->id[0] && !job_id_valid(span_str(q->id)))
        return error_set_param(err, E_INVALID, "id", "id: at most %d letters, digits, '-', '_' and '.', not beginning with '.'", JOB_ID_MAX);
    if (strlen(q->reason) > JOB_REASON_MAX || !span_is_utf8(span_str(q->reason))) return error_set_param(err, E_INVALID, "reason", "a reason has at most %d bytes of UTF-8", JOB_REASON_MAX);
    if (q->import_spec && q->kind != GENLOOP__V1__JOB_KIND__JOB_KIND_IMPORT) return error_set_param(err, E_INVALID, "import_spec", "import_spec belongs to a job of kind JOB_KIND_IMPORT");
    switch (q->kind) {
    case GENLOOP__V1__JOB_KIND__JOB_KIND_UNSPECIFIED:
    case GENLOOP__V1__JOB_KIND__JOB_KIND_TRAIN: return q->fine_tuning ? check_fine_tuning(q, recipe, err) : check_training(q, recipe, err);
    case GENLOOP__V1__JOB_KIND__JOB_KIND_EVALUATE:
        return q->fine_tuning ? error_set_param(err, E_INVALID, "fine_tuning", "fine_tuning belongs to a job of kind JOB_KIND_TRAIN") : check_evaluation(q, err);
    case GENLOOP__V1__JOB_KIND__JOB_KIND_IMPORT: return check_import(q, err);
    default: return error_set_param(err, E_INVALID, "kind", "kind must be JOB_KIND_TRAIN, JOB_KIND_EVALUATE or JOB_KIND_IMPORT");
    }
}
