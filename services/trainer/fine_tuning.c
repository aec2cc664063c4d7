#include "services/trainer/fine_tuning.h"

#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/sha256.h"
#include "services/trainer/jobs.h"

static bool is_dpo(const Genloop__V1__FineTuning *f) { return strcmp(f->method, "dpo") == 0; }

/* ---- what is asked for ---- */

int fine_tuning_check(const Genloop__V1__FineTuning *f, struct error *err) {
    if (!is_dpo(f) && strcmp(f->method, "supervised") != 0)
        return error_set_param(err, strcmp(f->method, "reinforcement") == 0 ? E_UNSUPPORTED : E_INVALID, "method.type", "'method.type' must be supervised or dpo, not \"%.64s\"", f->method);
    if (!f->training_file[0]) return error_set_param(err, E_INVALID, "training_file", "'training_file' is required: the id of a file of purpose fine-tune");
    if (f->epochs > FINE_TUNING_EPOCHS_MAX) return error_set_param(err, E_INVALID, "n_epochs", "'n_epochs' must lie between 1 and %d", FINE_TUNING_EPOCHS_MAX);
    if (f->batch_size > FINE_TUNING_BATCH_MAX) return error_set_param(err, E_INVALID, "batch_size", "'batch_size' must lie between 1 and %d", FINE_TUNING_BATCH_MAX);
    if (!(f->learning_rate_multiplier >= 0 && f->learning_rate_multiplier <= FINE_TUNING_MULTIPLIER_MAX))
        return error_set_param(err, E_INVALID, "learning_rate_multiplier", "'learning_rate_multiplier' must lie above 0 and be at most %g", FINE_TUNING_MULTIPLIER_MAX);
    if (!(f->beta >= 0 && f->beta <= FINE_TUNING_BETA_MAX)) return error_set_param(err, E_INVALID, "beta", "'beta' must lie above 0 and be at most %g", FINE_TUNING_BETA_MAX);
    if (f->beta > 0 && !is_dpo(f)) return error_set_param(err, E_INVALID, "beta", "'beta' belongs to method dpo");
    if (strlen(f->suffix) > FINE_TUNING_SUFFIX_MAX || !span_is_utf8(span_str(f->suffix))) return error_set_param(err, E_INVALID, "suffix", "'suffix' must have at most %d bytes of UTF-8", FINE_TUNING_SUFFIX_MAX);
    if (f->n_metadata > FINE_TUNING_METADATA_MAX) return error_set_param(err, E_INVALID, "metadata", "'metadata' must have at most %d keys", FINE_TUNING_METADATA_MAX);
    for (size_t i = 0; i < f->n_metadata; i++)
        if (strlen(f->metadata[i]->key) > FINE_TUNING_KEY_MAX || strlen(f->metadata[i]->value) > FINE_TUNING_VALUE_MAX)
            return error_set_param(err, E_INVALID, "metadata", "'metadata': a key has at most %d bytes and a value %d", FINE_TUNING_KEY_MAX, FINE_TUNING_VALUE_MAX);
    return 0;
}

static uint32_t epochs_for(uint64_t rows) {
    enum { EPOCHS = 3,
           EPOCHS_MAX = 25,
           EXAMPLES_MIN = 100,
           EXAMPLES_MAX = 25000 };
    if (rows * EPOCHS < EXAMPLES_MIN) return rows * EPOCHS_MAX < EXAMPLES_MIN ? EPOCHS_MAX : (uint32_t)(EXAMPLES_MIN / rows);
    if (rows * EPOCHS > EXAMPLES_MAX) return rows > EXAMPLES_MAX ? 1 : (uint32_t)(EXAMPLES_MAX / rows);
    return EPOCHS;
}

int fine_tuning_recipe(Genloop__V1__FineTuning *f, uint64_t rows, bool held_out, uint32_t context, struct train_recipe *recipe, struct error *err) {
    enum { LENGTH_UNKNOWN = 1024,
           WARMUP_MAX = 10,
           CHECKPOINT_EVERY = 100 };
    if (!rows) return error_set_param(err, E_INVALID, "training_file", "the training file has no examples");
    bool dpo = is_dpo(f);
    if (!f->epochs) f->epochs = epochs_for(rows);
    if (!f->batch_size) f->batch_size = rows < 16 ? 1 : rows < 64 ? (uint32_t)(rows / 8)
                                                                  : 8;
    if (!(f->learning_rate_multiplier > 0)) f->learning_rate_multiplier = 1;
    if (dpo && !(f->beta > 0)) f->beta = 0.3;
    f->examples = rows;
    uint64_t examples = rows * f->epochs;
    recipe->batch.sequences = f->batch_size;
    recipe->batch.length = context ? context : LENGTH_UNKNOWN; /* a limit, not a cost: an example costs what it has */
    recipe->optimizer.lr = (dpo ? 8.0e-5 : 1.0e-4) * f->learning_rate_multiplier;
    recipe->optimizer.beta2 = dpo ? 0.99 : 0.95;
    recipe->steps = (examples + f->batch_size - 1) / f->batch_size;
    recipe->schedule.kind = NN_SCHEDULE_LINEAR;
    recipe->schedule.warmup_steps = recipe->steps / 10 < WARMUP_MAX ? recipe->steps / 10 : WARMUP_MAX;
    recipe->seed = f->seed;
    recipe->data.shuffle = true;
    if (dpo) recipe->dpo.beta = f->beta;
    recipe->checkpoint.every = CHECKPOINT_EVERY;
    if (held_out) {
        recipe->evaluate.every = (rows + f->batch_size - 1) / f->batch_size; /* once an epoch */
        span_copy(recipe->evaluate.on, sizeof recipe->evaluate.on, SPAN("held-out"));
    }
    return recipe_check(recipe, err);
}

/* ---- the name ---- */

/* What a name may hold; anything else becomes '-'. */
static size_t put_segment(char *out, size_t at, struct span text, size_t most) {
    for (size_t i = 0; i < text.len && i < most; i++) {
        char c = text.data[i];
        bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
        if (good || ((uint8_t)c & 0xc0) != 0x80) out[at++] = good ? c : '-'; /* one for each character */
    }
    return at;
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

char *fine_tuning_name(struct span base, struct span tenant, struct span suffix, struct span job_id, char out[MODEL_NAME_MAX]) {
    enum { ID = 8,
           TENANT = 12,
           BASE_LEAST = 12,
           FIXED = 3 + 3 + ID }; /* "ft:", three ':' and the end of the job's id */
    struct span rest = base, head;
    /* Of a model that is fine-tuned already: what it came from. */
    if (span_starts(base, SPAN("ft:")) && span_cut(&rest, ':', &head) && span_cut(&rest, ':', &head)) base = head;
    size_t tenant_len = least(tenant.len, TENANT), room = MODEL_NAME_MAX - 1 - FIXED - tenant_len;
    size_t base_len = least(base.len, suffix.len < room - BASE_LEAST ? room - suffix.len : BASE_LEAST), at = 3;
    memcpy(out, "ft:", 3);
    at = put_segment(out, at, base, base_len);
    out[at++] = ':';
    at = put_segment(out, at, tenant, tenant_len);
    out[at++] = ':';
    at = put_segment(out, at, suffix, room - base_len);
    out[at++] = ':';
    at = put_segment(out, at, span_skip(job_id, job_id.len > ID ? job_id.len - ID : 0), ID);
    out[at] = 0;
    return out;
}

/* ---- results ---- */

static void put_cell(struct buf *out, const struct json *row, const char *name) {
    struct json_out w;
    double v = json_real(json_get(row, name), (double)NAN);
    (void)buf_append_char(out, ',');
    json_begin(&w, out);
    if (!isnan(v)) json_put_real(&w, v);
}

int fine_tuning_results(struct span metrics, struct buf *out) {
    struct span line;
    (void)buf_append_str(out, "step,train_loss,train_accuracy,valid_loss\n");
    while (span_cut(&metrics, '\n', &line)) {
        struct json *row = NULL;
        if (json_parse(line, &row, NULL)) continue;
        (void)buf_printf(out, "%lld", (long long)json_int(json_get(row, "step"), 0));
        put_cell(out, row, "loss");
        put_cell(out, row, "accuracy");
        put_cell(out, row, "evaluate_loss");
        (void)buf_append_char(out, '\n');
        json_free(row);
    }
    return out->failed;
}

/* ---- events ---- */

static int add(struct fine_tuning_events *l, const Genloop__V1__Job *job, const char *name, int64_t time_ms, const char *level, char *message, Genloop__V1__JobProgress *progress) {
    if (l->n == l->capacity) {
        size_t capacity = l->capacity ? 2 * l->capacity : 64;
        Genloop__V1__JobEvent **items = arena_calloc(l->arena, capacity, sizeof *items);
        if (!items) return E_NOMEM;
        if (l->n) memcpy(items, l->items, l->n * sizeof *items);
        l->items = items;
        l->capacity = capacity;
    }
    Genloop__V1__JobEvent *e = arena_alloc(l->arena, sizeof *e);
    struct sha256 h;
    uint8_t digest[SHA256_SIZE];
    char hex[SHA256_HEX_MAX];
    sha256_init(&h);
    sha256_update(&h, job->id, strlen(job->id) + 1);
    sha256_update(&h, name, strlen(name));
    sha256_final(&h, digest);
    hex_encode(digest, sizeof digest, hex);
    char *id = arena_printf(l->arena, "ftevent-%.24s", hex);
    if (!e || !id || !message) return E_NOMEM;
    genloop__v1__job_event__init(e);
    e->id = id;
    e->time_ms = time_ms;
    e->level = (char *)(uintptr_t)level;
    e->message = message;
    e->progress = progress;
    l->items[l->n++] = e;
    return 0;
}

int fine_tuning_events_begin(struct fine_tuning_events *l, const Genloop__V1__Job *job) {
    const Genloop__V1__FineTuning *f = job->fine_tuning;
    int r = add(l, job, "created", job->created_time_ms, "info", arena_printf(l->arena, "Created fine-tuning job: %s", job->id), NULL);
    if (!r && f)
        r = add(l, job, "validated", job->created_time_ms, "info",
                arena_printf(l->arena, "Files validated: %llu examples of %.64s%s%.64s; dataset %s", (unsigned long long)f->examples, f->training_file,
                             f->validation_file[0] ? ", held out: " : "", f->validation_file, job->dataset),
                NULL);
    if (!r && job->started_time_ms) r = add(l, job, "started", job->started_time_ms, "info", arena_printf(l->arena, "Fine-tuning job started: %llu steps on %s", (unsigned long long)job->steps, job->base_model), NULL);
    return r;
}

int fine_tuning_events_step(struct fine_tuning_events *l, const Genloop__V1__Job *job, Genloop__V1__JobProgress *p) {
    if (strcmp(p->phase, "train") != 0 || !p->step) return 0;
    return add(l, job, p->id, p->event_time_ms, "info", arena_printf(l->arena, "Step %llu/%llu: training loss=%.4f", (unsigned long long)p->step, (unsigned long long)p->steps, p->loss), p);
}

int fine_tuning_events_end(struct fine_tuning_events *l, const Genloop__V1__Job *job) {
    int64_t end = job->finished_time_ms ? job->finished_time_ms : job->event_time_ms;
    int r;
    switch (job->state) {
    case JOB_STATE(PAUSED): return add(l, job, "paused", job->event_time_ms, "info", arena_printf(l->arena, "The job is paused at step %llu", (unsigned long long)job->step), NULL);
    case JOB_STATE(CANCELLED): return add(l, job, "cancelled", end, "info", arena_strdup(l->arena, "The job was cancelled"), NULL);
    case JOB_STATE(FAILED): return add(l, job, "failed", end, "error", arena_printf(l->arena, "The job failed: %.1024s", job->failure), NULL);
    case JOB_STATE(SUCCEEDED):
        r = add(l, job, "model", end, "info", arena_printf(l->arena, "New fine-tuned model created: %s", job->model), NULL);
        if (!r)
            r = add(l, job, "candidate", end, "warn",
                    arena_printf(l->arena, "%s is a candidate and is not served yet: its gates measure it now, and a person with the right to approve releases it (genloop approve, genloop promote)", job->model), NULL);
        return r ? r : add(l, job, "succeeded", end, "info", arena_strdup(l->arena, "The job has successfully completed"), NULL);
    default: return 0;
    }
}
