/*
 * A run: what the recipe names is opened, the newest checkpoint read, then steps until there are enough, a checkpoint now and then, and the model directory.
 *
 *   open ─► resume ─► (reference) ─► step* ─► write ─► done
 *                                     │  └─► checkpoint every N, or when asked to pause
 */
#include "train/train.h"

#include <errno.h>
#include <math.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/sha256.h"
#include "nn/optimizer.h"
#include "train/batch.h"
#include "train/card.h"
#include "train/checkpoint.h"
#include "train/metrics.h"
#include "train/subject.h"

enum { PATH_SIZE = SUBJECT_PATH_MAX, REFERENCE_ROWS = 64 /* pairs at once: keeps the layout arrays small */ };
/* Tapes of all threads together: beyond it a step is refused rather than the machine pushed into swap. */
#define TAPE_BYTES_MAX ((size_t)64 << 30)

struct run {
    const struct train_recipe *recipe;
    const struct train_paths *paths;
    const struct train_events *events;
    char data_path[PATH_SIZE], held_out_path[PATH_SIZE], base_dir[PATH_SIZE], tokenizer_dir[PATH_SIZE], work_dir[PATH_SIZE], log_dir[PATH_SIZE];
    bool own_work_dir; /* in out_dir: removed at the end */
    char digest[SHA256_HEX_MAX];
    uint32_t length;

    struct subject subject;
    struct nn_decoder *decoder;
    struct nn_adamw *optimizer;
    struct pool *pool;
    struct batch *batch;
    struct data *data, *held_out;
    struct data_order order;
    struct metrics *metrics;
    double *reference; /* log π_ref of each row's two completions */
    struct batch_row *rows;
    uint64_t step, tokens; /* done */
    double loss, evaluate_loss;
};

/* ---- opening ---- */

static int resolve(char out[PATH_SIZE], const char *override, const char *dir, const char *path, struct error *err) {
    int n;
    if (override) n = snprintf(out, PATH_SIZE, "%s", override);
    else if (!path[0] || path[0] == '/' || !dir || !dir[0]) n = snprintf(out, PATH_SIZE, "%s", path);
    else n = snprintf(out, PATH_SIZE, "%s/%s", dir, path);
    return n >= 0 && n < PATH_SIZE ? 0 : error_set(err, E_TOO_LARGE, "path too long: %s", path);
}

static int resolve_all(struct run *u, struct error *err) {
    const struct train_recipe *r = u->recipe;
    const struct train_paths *p = u->paths;
    const char *data = r->data.tokens[0] ? r->data.tokens : r->data.file;
    if (!p->data && r->data.dataset[0])
        return error_set_param(err, E_INVALID, "data.dataset", "recipe: data.dataset %s names a data set of a platform; here give data.file or data.tokens", r->data.dataset);
    int e = resolve(u->data_path, p->data, p->recipe_dir, data, err);
    if (!e) e = resolve(u->base_dir, p->base_dir, p->recipe_dir, r->model.base, err);
    if (!e) e = resolve(u->tokenizer_dir, p->tokenizer_dir, p->recipe_dir, r->data.tokenizer, err);
    bool held_out = strcmp(r->evaluate.on, "held-out") == 0;
    if (!e && r->evaluate.every && held_out && !p->held_out)
        return error_set_param(err, E_INVALID, "evaluate.on", "recipe: evaluate.on is held-out, but this data has no held-out part: name a file");
    if (!e) e = resolve(u->held_out_path, held_out ? p->held_out : NULL, p->recipe_dir, r->evaluate.on, err);
    if (!e && p->out_dir) {
        u->own_work_dir = !p->work_dir;
        int n = p->work_dir ? snprintf(u->work_dir, PATH_SIZE, "%s", p->work_dir) : snprintf(u->work_dir, PATH_SIZE, "%s/checkpoints", p->out_dir);
        int k = p->work_dir ? snprintf(u->log_dir, PATH_SIZE, "%s", p->work_dir) : snprintf(u->log_dir, PATH_SIZE, "%s/runs", p->out_dir);
        if (n >= PATH_SIZE || k >= PATH_SIZE) e = error_set(err, E_TOO_LARGE, "path too long: %s", p->out_dir);
    }
    return e;
}

static int open_data(struct run *u, struct data **d, const char *path, struct error *err) {
    struct data_options o = {
        .kind = u->recipe->objective == RECIPE_PRETRAIN ? DATA_WINDOWS : u->recipe->objective == RECIPE_SFT ? DATA_SEQUENCES : DATA_PAIRS,
        .length = u->length,
        .vocab = u->subject.config.vocab,
        .tokenizer = u->subject.tokenizer,
        .chat_template = u->subject.chat_template,
    };
    return data_open(d, path, &o, err);
}

static int open_run(struct run *u, struct error *err) {
    const struct train_recipe *r = u->recipe;
    int e = recipe_check(r, err);
    if (!e) e = resolve_all(u, err);
    const char *tokenizer = u->tokenizer_dir[0] ? u->tokenizer_dir : NULL;
    if (!e) e = u->base_dir[0] ? subject_load(&u->subject, u->base_dir, tokenizer, err) : subject_new(&u->subject, r, tokenizer, err);
    if (e) return e;
    const struct model_weights *w = &u->subject.weights;
    u->length = r->batch.length ? r->batch.length : u->subject.config.context;
    if (u->length > u->subject.config.context)
        return error_set_param(err, E_RANGE, "batch.length", "recipe: batch.length is %u, the model's context %u", u->length, u->subject.config.context);
    e = nn_decoder_new(&u->decoder, &u->subject.config, w->params, w->param_count, u->length, err);
    if (!e) e = open_data(u, &u->data, u->data_path, err);
    if (!e && r->evaluate.every) e = open_data(u, &u->held_out, u->held_out_path, err);
    if (!e) e = data_order_init(&u->order, data_rows(u->data), r->data.shuffle, r->seed, err);
    if (e) return e;
    u->pool = pool_new((int)r->threads);
    u->rows = mem_calloc(r->batch.sequences > REFERENCE_ROWS ? r->batch.sequences : REFERENCE_ROWS, sizeof *u->rows);
    if (!u->pool || !u->rows) return error_set(err, E_NOMEM, "no memory, or no threads");
    struct nn_adamw_options o = {r->optimizer.beta1, r->optimizer.beta2, r->optimizer.eps, r->optimizer.weight_decay};
    e = nn_adamw_new(&u->optimizer, &o, w->params, w->param_count, w->flat_len, err);
    if (!e) e = batch_new(&u->batch, u->decoder, w->flat, w->flat_len, (uint32_t)w->param_count, u->pool, TAPE_BYTES_MAX, err);
    return e;
}

static void close_run(struct run *u) {
    metrics_close(u->metrics);
    batch_free(u->batch);
    nn_adamw_free(u->optimizer);
    if (u->pool) pool_free(u->pool);
    data_order_fini(&u->order);
    data_close(u->data);
    data_close(u->held_out);
    nn_decoder_free(u->decoder);
    subject_fini(&u->subject);
    mem_free(u->reference);
    mem_free(u->rows);
}

/* What makes this run this run: the recipe but for what changes no bit, the data's bytes, the first weights. */
static int digest_run(struct run *u, struct error *err) {
    struct train_recipe *r = mem_alloc(sizeof *r);
    if (!r) return error_set(err, E_NOMEM, "no memory");
    *r = *u->recipe;
    r->threads = 0;
    r->batch.accumulate = 1;
    r->checkpoint.every = r->evaluate.every = 0;
    r->checkpoint.keep = 1;
    /* paths may differ between two attempts; bytes may not */
    r->evaluate.on[0] = r->model.base[0] = r->data.dataset[0] = r->data.tokens[0] = r->data.file[0] = r->data.tokenizer[0] = '\0';
    struct buf text;
    struct file_map map = {0};
    struct sha256 h;
    uint8_t digest[SHA256_SIZE];
    buf_init(&text, RECIPE_SIZE_MAX);
    int e = recipe_write(r, &text) ? error_set(err, E_NOMEM, "no memory") : file_map_open(&map, u->data_path, err);
    if (!e) {
        sha256_init(&h);
        sha256_update(&h, buf_span(&text).data, text.len);
        sha256_update(&h, map.data, map.len);
        sha256_update(&h, u->subject.weights.flat, u->subject.weights.flat_len * sizeof(float));
        sha256_final(&h, digest);
        hex_encode(digest, sizeof digest, u->digest);
    }
    file_map_close(&map);
    buf_fini(&text);
    mem_free(r);
    return e;
}

static struct checkpoint checkpoint_of(struct run *u) {
    struct checkpoint c = {
        .step = u->step,
        .tokens = u->tokens,
        .loss = u->loss,
        .weights = u->subject.weights.flat,
        .m = nn_adamw_m(u->optimizer),
        .v = nn_adamw_v(u->optimizer),
        .flat_len = u->subject.weights.flat_len,
    };
    memcpy(c.run, u->digest, sizeof c.run);
    return c;
}

static int save(struct run *u, struct error *err) {
    struct checkpoint c = checkpoint_of(u);
    int e = dir_make(u->work_dir, err);
    if (!e) e = checkpoint_write(u->work_dir, &c, u->recipe->checkpoint.keep, err);
    if (!e && u->events && u->events->on_checkpoint) u->events->on_checkpoint(u->events->arg, u->step);
    return e;
}

static int resume(struct run *u, struct error *err) {
    struct checkpoint c = checkpoint_of(u);
    struct error ignored = {0};
    int e = checkpoint_read(u->work_dir, &c, NULL, &ignored);
    if (e == E_NOT_FOUND) return 0;
    if (e) {
        if (err) *err = ignored;
        return e;
    }
    if (c.step > u->recipe->steps) return error_set(err, E_STATE, "%s: its checkpoint is at step %llu, beyond the recipe's %llu", u->work_dir, (unsigned long long)c.step, (unsigned long long)u->recipe->steps);
    u->step = c.step;
    u->tokens = c.tokens;
    u->loss = c.loss;
    return 0;
}

/* ---- rows ---- */

static struct batch_row row_at(const struct data *d, uint64_t row, const double *reference) {
    struct batch_row r = {.sequence_count = data_sequences(d, row)};
    for (uint32_t s = 0; s < r.sequence_count; s++) {
        r.sequences[s] = data_sequence(d, row, s);
        r.reference[s] = reference ? reference[row * BATCH_ROW_SEQUENCES_MAX + s] : 0;
    }
    return r;
}

/* log π_ref of every row, by the first weights: once, then from work_dir. */
static int take_reference(struct run *u, struct error *err) {
    char path[PATH_SIZE + 32];
    size_t count = data_rows(u->data) * BATCH_ROW_SEQUENCES_MAX;
    snprintf(path, sizeof path, "%s/reference.safetensors", u->work_dir);
    u->reference = mem_calloc(count, sizeof *u->reference);
    if (!u->reference) return error_set(err, E_NOMEM, "no memory for the reference");
    struct safetensors *file = NULL;
    if (file_exists(path) && safetensors_open(&file, path, NULL) == 0) {
        const struct safetensors_view *v = safetensors_find(file, SPAN("log_probs"));
        struct span run;
        bool ours = v && v->dtype == DTYPE_F64 && v->count == count && safetensors_metadata(file, "run", &run) && span_eq_str(run, u->digest);
        if (ours) memcpy(u->reference, v->data, count * sizeof *u->reference);
        safetensors_close(file);
        if (ours) return 0;
    }
    if (u->step) return error_set(err, E_STATE, "%s is missing or damaged, and the weights have moved on: remove the checkpoints to start anew", path);
    for (uint64_t row = 0; row < data_rows(u->data); row += REFERENCE_ROWS) {
        uint32_t n = (uint32_t)(data_rows(u->data) - row < REFERENCE_ROWS ? data_rows(u->data) - row : REFERENCE_ROWS);
        for (uint32_t i = 0; i < n; i++) u->rows[i] = row_at(u->data, row + i, NULL);
        int e = batch_log_probs(u->batch, u->rows, n, u->reference + row * BATCH_ROW_SEQUENCES_MAX, NULL, err);
        if (e) return e;
        enum train_order order = u->events && u->events->should_stop ? u->events->should_stop(u->events->arg) : TRAIN_GO_ON;
        if (order == TRAIN_PAUSE || order == TRAIN_CANCEL) return error_set(err, order == TRAIN_PAUSE ? E_ABORTED : E_CANCELLED, "stopped before the first step");
    }
    struct safetensors_writer *w = NULL;
    const uint64_t shape[2] = {data_rows(u->data), BATCH_ROW_SEQUENCES_MAX};
    int e = dir_make(u->work_dir, err);
    if (!e) e = safetensors_writer_new(&w, path, err);
    if (!e) e = safetensors_writer_metadata(w, "run", u->digest, err);
    if (!e) e = safetensors_writer_add(w, SPAN("log_probs"), DTYPE_F64, shape, 2, err);
    if (!e) e = safetensors_writer_write(w, u->reference, count * sizeof *u->reference, err);
    if (!e) e = safetensors_writer_commit(w, err);
    safetensors_writer_free(w);
    return e;
}

/* ---- steps ---- */

static struct nn_dpo dpo_of(const struct train_recipe *r) {
    enum nn_dpo_kind kind = r->dpo.loss_type == RECIPE_DPO_IPO ? NN_DPO_IPO : r->dpo.loss_type == RECIPE_DPO_ROBUST ? NN_DPO_ROBUST : NN_DPO_SIGMOID;
    return (struct nn_dpo){kind, r->dpo.beta, r->dpo.label_smoothing};
}

static int evaluate(struct run *u, double *loss, struct error *err) {
    double sum = 0, sums[REFERENCE_ROWS * BATCH_ROW_SEQUENCES_MAX];
    uint64_t count = 0, labels[REFERENCE_ROWS * BATCH_ROW_SEQUENCES_MAX];
    for (uint64_t row = 0; row < data_rows(u->held_out); row += REFERENCE_ROWS) {
        uint32_t n = (uint32_t)(data_rows(u->held_out) - row < REFERENCE_ROWS ? data_rows(u->held_out) - row : REFERENCE_ROWS);
        for (uint32_t i = 0; i < n; i++) u->rows[i] = row_at(u->held_out, row + i, NULL);
        int e = batch_log_probs(u->batch, u->rows, n, sums, labels, err);
        if (e) return e;
        for (uint32_t i = 0; i < n; i++) { /* of a pair: the chosen answer's */
            sum -= sums[i * BATCH_ROW_SEQUENCES_MAX];
            count += labels[i * BATCH_ROW_SEQUENCES_MAX];
        }
    }
    *loss = count ? sum / (double)count : (double)NAN;
    return 0;
}

static int take_step(struct run *u, struct train_step *out, struct error *err) {
    const struct train_recipe *r = u->recipe;
    int64_t began = clock_mono_us();
    uint32_t n = r->batch.sequences;
    for (uint32_t i = 0; i < n; i++)
        u->rows[i] = row_at(u->data, data_order_row(&u->order, u->step * n + i), u->reference);
    struct nn_dpo dpo = dpo_of(r);
    struct batch_result result;
    const float *gradients;
    int e = batch_gradients(u->batch, u->rows, n, r->objective == RECIPE_DPO ? &dpo : NULL, r->batch.accumulate, &result, &gradients, err);
    if (e) return e;
    double norm = nn_grad_norm(u->optimizer, u->pool, gradients);
    if (!isfinite(result.loss) || !isfinite(norm))
        return error_set(err, E_RANGE, "step %llu: the loss is no number any more: lower optimizer.lr", (unsigned long long)u->step + 1);
    struct nn_schedule schedule = recipe_schedule(r);
    double lr = nn_schedule_lr(&schedule, u->step + 1);
    nn_adamw_step(u->optimizer, u->pool, u->subject.weights.flat, gradients, lr, nn_clip_scale(norm, r->max_grad_norm), u->step + 1);
    u->step++;
    u->tokens += result.tokens;
    u->loss = result.loss;
    *out = (struct train_step){
        .step = u->step,
        .steps = r->steps,
        .loss = result.loss,
        .grad_norm = norm,
        .lr = lr,
        .tokens = result.tokens,
        .tokens_total = u->tokens,
        .dpo_accuracy = result.accuracy,
        .evaluate_loss = (double)NAN,
    };
    if (u->held_out && (u->step % r->evaluate.every == 0 || u->step == r->steps)) {
        if ((e = evaluate(u, &out->evaluate_loss, err))) return e;
        u->evaluate_loss = out->evaluate_loss;
    }
    out->seconds = (double)(clock_mono_us() - began) / 1e6;
    return 0;
}

static int steps(struct run *u, struct error *err) {
    const struct train_recipe *r = u->recipe;
    const struct train_events *ev = u->events;
    while (u->step < r->steps) {
        enum train_order order = ev && ev->should_stop ? ev->should_stop(ev->arg) : TRAIN_GO_ON;
        if (order == TRAIN_CANCEL) return error_set(err, E_CANCELLED, "cancelled before step %llu", (unsigned long long)u->step + 1);
        if (order == TRAIN_PAUSE) {
            int e = save(u, err);
            return e ? e : error_set(err, E_ABORTED, "paused after step %llu", (unsigned long long)u->step);
        }
        if (order == TRAIN_SAVE && u->step) {
            int e = save(u, err);
            if (e) return e;
        }
        struct train_step step;
        int e = take_step(u, &step, err);
        if (!e && u->metrics) e = metrics_step(u->metrics, &step, err);
        if (e) return e;
        if (ev && ev->on_step) ev->on_step(ev->arg, &step);
        if (r->checkpoint.every && u->step % r->checkpoint.every == 0 && u->step < r->steps && (e = save(u, err))) return e;
    }
    return 0;
}

static const char *last_part(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static int finish(struct run *u, char sha256[65], struct error *err) {
    struct buf card;
    buf_init(&card, 1 << 20);
    struct card_facts facts = {
        .name = u->paths->model_name ? u->paths->model_name : last_part(u->paths->out_dir),
        .recipe = u->recipe,
        .config = &u->subject.config,
        .base = u->base_dir[0] ? last_part(u->base_dir) : NULL,
        .data = last_part(u->data_path),
        .rows = data_rows(u->data),
        .steps = u->step,
        .tokens = u->tokens,
        .loss = u->loss,
        .evaluate_loss = u->evaluate_loss,
        .run_sha256 = u->digest,
        .extra = u->paths->readme_extra,
    };
    int e = card_write(&facts, &card) ? error_set(err, E_NOMEM, "no memory for the model card") : 0;
    if (!e) e = subject_write(&u->subject, u->paths->out_dir, buf_span(&card), sha256, err);
    if (!e && u->own_work_dir) e = dir_remove(u->work_dir, err);
    buf_fini(&card);
    return e;
}

static int was_finished(struct run *u, struct train_result *result, struct error *err) {
    char path[PATH_SIZE + 32];
    struct file_map map;
    if (!u->paths->work_dir) { /* cut off between the last rename and this */
        snprintf(path, sizeof path, "%s/checkpoints", u->paths->out_dir);
        if (file_exists(path)) (void)dir_remove(path, NULL);
        snprintf(path, sizeof path, "%s/.writing", u->paths->out_dir);
        if (file_exists(path)) (void)dir_remove(path, NULL);
    }
    if (!result) return 0;
    *result = (struct train_result){.was_finished = true, .steps = u->recipe->steps, .loss = (double)NAN, .evaluate_loss = (double)NAN};
    snprintf(path, sizeof path, "%s/model.safetensors", u->paths->out_dir);
    int e = file_map_open(&map, path, err);
    if (e) return e;
    sha256_hex(span_of(map.data, map.len), result->weights_sha256);
    file_map_close(&map);
    return 0;
}

int train_run(const struct train_recipe *recipe, const struct train_paths *paths, const struct train_events *events, struct train_result *result,
              struct error *err) {
    ASSERT(paths->out_dir);
    struct run u = {.recipe = recipe, .paths = paths, .events = events, .loss = (double)NAN, .evaluate_loss = (double)NAN};
    char sha256[65] = "";
    if (subject_is_written(paths->out_dir)) return was_finished(&u, result, err);
    int64_t began = clock_mono_us();
    int e = open_run(&u, err);
    if (!e) e = dir_make(paths->out_dir, err);
    if (!e) e = digest_run(&u, err);
    if (!e) e = resume(&u, err);
    if (!e && recipe->objective == RECIPE_DPO) e = take_reference(&u, err);
    if (!e) e = metrics_open(&u.metrics, u.log_dir, u.step, err);
    if (!e && events && events->on_start)
        events->on_start(events->arg, u.step, recipe->steps, model_config_param_count(&u.subject.config));
    if (!e) e = steps(&u, err);
    if (!e) e = finish(&u, sha256, err);
    if (!e && result) {
        *result = (struct train_result){
            .steps = u.step,
            .tokens = u.tokens,
            .parameters = model_config_param_count(&u.subject.config),
            .loss = u.loss,
            .evaluate_loss = u.evaluate_loss,
            .seconds = (double)(clock_mono_us() - began) / 1e6,
        };
        memcpy(result->weights_sha256, sha256, sizeof sha256);
    }
    close_run(&u);
    return e;
}

int train_check(const struct train_recipe *recipe, const struct train_paths *paths, struct buf *json, struct error *err) {
    struct run u = {.recipe = recipe, .paths = paths};
    int e = open_run(&u, err);
    if (!e) {
        size_t flat = u.subject.weights.flat_len * sizeof(float);
        struct json_out w;
        json_begin(&w, json);
        json_object(&w);
        json_str(&w, "objective", recipe_objective_name(recipe->objective));
        json_str(&w, "architecture", u.subject.config.arch->name);
        json_num(&w, "parameters", (int64_t)model_config_param_count(&u.subject.config));
        json_num(&w, "rows", (int64_t)data_rows(u.data));
        json_num(&w, "tokens", (int64_t)data_tokens(u.data));
        json_num(&w, "rows_without_labels", (int64_t)data_labels_cut(u.data));
        json_num(&w, "steps", (int64_t)recipe->steps);
        json_flt(&w, "passes", (double)recipe->steps * recipe->batch.sequences / (double)data_rows(u.data));
        /* values, two moments, and as many gradients as are alive at once */
        json_num(&w, "bytes", (int64_t)(flat * (size_t)(3 + pool_threads(u.pool) + 2)));
        json_object_end(&w);
        if (json->failed) e = error_set(err, json->failed, "no room for the report");
    }
    close_run(&u);
    return e;
}
